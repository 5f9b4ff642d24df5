//! The habits of this project that a machine can check, on every file of the tree.
//!
//! Each rule is a function from a tree to the places that break it, run on the real tree and, in
//! `mod rules`, on made-up ones that break it. A rule has no silent exceptions: they are in the
//! constants below, each with its reason. What clippy checks is not repeated here.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the test reads the tree; what it cannot read fails it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[path = "tidy/rust.rs"]
mod rust;

/// Who may name whom. `main.rs` and `lib.rs` may name everything.
const EDGES: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("model", &["base"]),
    ("compose", &["base", "model"]),
    ("logic", &["base", "model"]),
    ("host", &["base", "model"]),
    ("proxy", &["base", "model", "logic", "host"]),
    ("shim", &["base"]),
    ("hello", &["base"]),
    ("daemon", &["base", "model", "logic", "host"]),
    ("demo", &["base", "host"]),
    ("api", &["base", "model", "daemon"]),
    ("cli", &["base", "model", "compose"]),
];

/// The crate that is a facade (`src/compat/`), and the only place that may name it: what else
/// is asynchronous here is on smol, by its own names.
const FACADES: &[&str] = &["tokio", "tokio_stream"];
const FACADES_IN: &[&str] = &["src/compat/", "src/host/gossip/", "tests/tidy"];

/// Modules without clock, file, socket, thread, environment or chance.
const PURE: &[&str] = &["base", "model", "compose", "logic"];

/// What a pure module names of the standard library only in these forms.
const PURE_BANS: &[(&str, &[&str])] = &[
    ("std::fs", &[]),
    ("std::net", &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "AddrParseError"]),
    ("std::thread", &[]),
    ("std::env", &[]),
    ("std::process", &[]),
    ("std::os", &[]),
    ("std::sync::mpsc", &[]),
    ("std::time", &["Duration"]),
];

/// Lines of a Rust file.
const LINES_MAX: usize = 500;
/// Lines of a file that is listed here, with the reason why it is not two files.
const LONG_FILES: &[(&str, &str)] = &[];
const LONG_LINES_MAX: usize = 700;

/// The visible entries at the top; names that begin with a dot are not counted.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "cross",
    "src",
    "systemd",
    "target",
    "tests",
];

/// Crates that must not come in, at any depth.
const BANNED_CRATES: &[&str] = &[
    "mio",
    "hyper",
    "openssl",
    "openssl-sys",
    "native-tls",
    "async-global-executor",
    "zbus",
    "aws-lc-sys",
];

/// Every file of the tree: its path with `/` between the parts, and its text (lossy).
type Tree = BTreeMap<String, String>;

fn real_tree() -> Tree {
    fn walk(root: &Path, dir: &Path, tree: &mut Tree) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if name == "target" || name == ".git" {
                continue;
            }
            if path.is_dir() {
                walk(root, &path, tree);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                tree.insert(name, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    walk(root, root, &mut tree);
    assert!(tree.contains_key("src/lib.rs") && tree.contains_key("tests/tidy.rs"));
    tree
}

fn rust_files(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    tree.iter()
        .filter(|(path, _)| path.starts_with("src/") || path.starts_with("tests/"))
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| (path.as_str(), text.as_str()))
}

/// The top module that a file under `src/` belongs to.
fn module(path: &str) -> Option<&str> {
    let first = path.strip_prefix("src/")?.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!["main", "lib", "compat"].contains(&name)).then_some(name)
}

/// A forbidden `crate::`, `skep::` or `super::` edge between top modules, or one nobody listed.
fn edges(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    let known = |name: &str| EDGES.iter().find(|(module, _)| *module == name);
    for (path, text) in rust_files(tree) {
        let Some(from) = module(path) else { continue };
        let Some((_, allowed)) = known(from) else {
            wrong.push(format!("{path}: module {from} is not in the table of edges"));
            continue;
        };
        let code = rust::code_of(text);
        let is_root = path == format!("src/{from}/mod.rs") || path == format!("src/{from}.rs");
        let mut named = rust::names_after(&code, "crate");
        named.extend(rust::names_after(&code, "skep"));
        if is_root {
            named.extend(rust::names_after(&code, "super"));
        }
        for (line, name) in named {
            let top = name.split("::").next().unwrap_or("");
            if top != from && known(top).is_some() && !allowed.contains(&top) {
                wrong.push(format!("{path}:{line}: {from} must not name {top}"));
            }
        }
    }
    wrong
}

/// A pure module that names what acts on the world or reads it.
fn purity(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in rust_files(tree) {
        if !module(path).is_some_and(|name| PURE.contains(&name)) {
            continue;
        }
        let code = rust::code_of(text);
        for (line, name) in rust::names_after(&code, "std") {
            let name = format!("std::{name}");
            for (ban, allowed) in PURE_BANS {
                let rest = name.strip_prefix(ban).filter(|r| r.is_empty() || r.starts_with("::"));
                let Some(rest) = rest else { continue };
                let first = rest.trim_start_matches("::").split("::").next().unwrap_or("");
                if !allowed.contains(&first) {
                    wrong.push(format!("{path}:{line}: {name} in a pure module"));
                }
            }
        }
        for (line, word) in rust::words(&code) {
            if ["Instant", "SystemTime", "nix", "smol", "getrandom"].contains(&word) {
                wrong.push(format!("{path}:{line}: {word} in a pure module"));
            }
        }
    }
    wrong
}

/// A Rust file that is too long.
fn sizes(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in rust_files(tree) {
        let lines = text.lines().count();
        let listed = LONG_FILES.iter().any(|(long, _)| *long == path);
        let max = if listed { LONG_LINES_MAX } else { LINES_MAX };
        if lines > max {
            wrong.push(format!("{path}: {lines} lines, {max} are allowed"));
        }
        if listed && lines <= LINES_MAX {
            wrong.push(format!("{path}: is short and needs no exception"));
        }
    }
    for (path, _) in LONG_FILES {
        if !tree.contains_key(*path) {
            wrong.push(format!("{path}: has an exception, but is not there"));
        }
    }
    wrong
}

/// A Rust file that does not begin by saying what it is.
fn module_docs(tree: &Tree) -> Vec<String> {
    rust_files(tree)
        .filter(|(_, text)| {
            let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
            !first.starts_with("//! ") && !first.starts_with("#![doc = include_str!")
        })
        .map(|(path, _)| format!("{path}: does not begin with //! and what it is"))
        .collect()
}

/// Words that mean "not finished", and paths that climb.
fn unfinished(tree: &Tree) -> Vec<String> {
    const WORDS: &[&str] = &[concat!("FIX", "ME"), concat!("X", "XX")];
    const MACROS: &[&str] = &["todo!", "unimplemented!", "dbg!"];
    let mut wrong = Vec::new();
    for (path, text) in rust_files(tree) {
        for (line, word) in rust::words(text) {
            if WORDS.contains(&word) {
                wrong.push(format!("{path}:{line}: {word}"));
            }
        }
        let code = rust::code_of(text);
        for (number, line) in code.lines().enumerate() {
            let number = number + 1;
            for name in MACROS.iter().filter(|name| line.contains(*name)) {
                wrong.push(format!("{path}:{number}: {name}"));
            }
            if line.contains("super::super") {
                wrong.push(format!("{path}:{number}: climbs twice; name it from crate::"));
            }
        }
        for (number, line) in text.lines().enumerate() {
            let word = concat!("TO", "DO");
            if line.contains(&format!("{word}:")) || line.contains(&format!("{word} ")) {
                wrong.push(format!("{path}:{}: {word} without (#issue)", number + 1));
            }
        }
    }
    wrong
}

/// The facades in `src/compat/`: what names them outside gossip, what they name of skep, and one
/// that would let `unsafe` in.
fn facades(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in rust_files(tree) {
        let code = rust::code_of(text);
        let own = path.starts_with("src/compat/");
        for (line, word) in rust::words(&code) {
            let inside = FACADES_IN.iter().any(|place| path.starts_with(place));
            if FACADES.contains(&word) && !inside {
                wrong.push(format!("{path}:{line}: {word} outside host/gossip"));
            }
            if own && word == "skep" {
                wrong.push(format!("{path}:{line}: a facade must not name {word}"));
            }
        }
        if own && path.ends_with("/lib.rs") && !code.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{path}: does not forbid unsafe code"));
        }
    }
    wrong
}

/// Something at the top that does not belong there.
fn top_level(tree: &Tree) -> Vec<String> {
    let tops: BTreeSet<&str> = tree.keys().filter_map(|path| path.split('/').next()).collect();
    tops.into_iter()
        .filter(|name| !name.starts_with('.') && !TOP.contains(name))
        .map(|name| format!("{name}: does not belong at the top"))
        .collect()
}

/// Crates that the binary must not hold.
fn lock_file(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    let lock = tree.get("Cargo.lock").map_or("", String::as_str);
    if !lock.contains("[[package]]") {
        wrong.push("Cargo.lock: is missing".to_owned());
    }
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find(|line| line.starts_with(&format!("{key} = ")));
            line.and_then(|line| line.split('"').nth(1))
        };
        let name = value("name").unwrap_or("");
        if BANNED_CRATES.contains(&name) {
            wrong.push(format!("Cargo.lock: {name} must not come in"));
        }
        if name.starts_with("tokio") && value("source").is_some() {
            wrong.push(format!("Cargo.lock: {name} comes from a registry"));
        }
    }
    wrong
}

/// A file of test data that no test reads: neither it nor its folder is named.
fn test_data(tree: &Tree) -> Vec<String> {
    let sources: Vec<&str> = tree
        .iter()
        .filter(|(path, _)| path.ends_with(".rs") || path.ends_with(".sh"))
        .filter(|(path, _)| path.starts_with("src/") || path.starts_with("tests/"))
        .map(|(_, text)| text.as_str())
        .collect();
    let named = |needle: &str| sources.iter().any(|text| text.contains(needle));
    let mut wrong = Vec::new();
    for path in tree.keys().filter_map(|path| path.strip_prefix("tests/data/")) {
        let dir = path.rsplit_once('/').map(|(dir, _)| dir);
        let by_dir = dir
            .is_some_and(|dir| named(&format!("data/{dir}\"")) || named(&format!("data/{dir}/\"")));
        if !by_dir && !named(&format!("data/{path}")) {
            wrong.push(format!("tests/data/{path}: no test reads it"));
        }
    }
    wrong
}

/// A number on the wire whose size depends on the machine.
fn wire_sizes(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in rust_files(tree).filter(|(path, _)| path.starts_with("src/model/")) {
        let code = rust::code_of(text);
        for (line, item) in rust::items_deriving(&code, "Serialize") {
            if rust::words(item).iter().any(|(_, word)| ["usize", "isize"].contains(word)) {
                wrong.push(format!("{path}:{line}: usize in a type that is stored or sent"));
            }
        }
    }
    wrong
}

type Rule = fn(&Tree) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("edges", edges),
    ("purity", purity),
    ("sizes", sizes),
    ("module_docs", module_docs),
    ("unfinished", unfinished),
    ("facades", facades),
    ("top_level", top_level),
    ("lock_file", lock_file),
    ("test_data", test_data),
    ("wire_sizes", wire_sizes),
];

#[test]
fn the_tree_is_tidy() {
    let tree = real_tree();
    let wrong: Vec<String> = RULES
        .iter()
        .flat_map(|(name, rule)| rule(&tree).into_iter().map(move |it| format!("[{name}] {it}")))
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[path = "tidy/rules.rs"]
mod rules;
