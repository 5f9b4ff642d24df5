//! Docker's commands that are not there: told as such, not taken for typing errors.

/// Commands by the group that they stand in. Below those of Docker's own names, those of the top
/// level that would be short names here, as `init` is.
const ABSENT: [(&str, &[&str]); 5] = [
    (
        "",
        &[
            "attach", "build", "builder", "buildx", "commit", "compose", "config", "container",
            "context", "cp", "create", "diff", "events", "exec", "export", "history", "import",
            "inspect", "kill", "login", "logout", "logs", "manifest", "network", "pause", "plugin",
            "port", "ps", "push", "rename", "restart", "rm", "run", "save", "search", "secret",
            "stack", "start", "stats", "stop", "tag", "top", "trust", "unpause", "wait", "demote",
            "promote",
        ],
    ),
    ("node", &["remove"]),
    ("image", &["build", "history", "import", "push", "save", "tag"]),
    ("volume", &["update"]),
    ("system", &["df", "dial-stdio", "events", "prune"]),
];

/// Whether Docker has this command in the group `at`, and this program does not.
pub fn is_absent(at: &str, word: &str) -> bool {
    ABSENT.iter().any(|(group, words)| *group == at && words.contains(&word))
}
