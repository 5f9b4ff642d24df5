//! What the runtime is given to make a container: plain values, nothing to decide.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::base::id::TaskId;
use crate::model::service::{ContainerSpec, LogDriver, Resources};

/// What a container needs of its image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageView {
    /// Unpacked layers, the top one first.
    pub lowerdirs: Vec<PathBuf>,
    /// `Entrypoint` of the image.
    pub entrypoint: Vec<String>,
    /// `Cmd` of the image.
    pub cmd: Vec<String>,
    /// `Env` of the image.
    pub env: Vec<String>,
    /// `User` of the image.
    pub user: String,
    /// `WorkingDir` of the image.
    pub workdir: String,
    /// The keys of `Volumes` of the image.
    pub volumes: Vec<String>,
    /// `StopSignal` of the image.
    pub stop_signal: String,
}

/// Everything a container is made from. Templates are replaced.
#[derive(Clone, Debug, Default)]
pub struct ContainerInputs {
    /// What the user asked for.
    pub container: ContainerSpec,
    /// Limits.
    pub resources: Resources,
    /// Where its output goes; the default log when absent.
    pub log: Option<LogDriver>,
    /// Its image.
    pub image: ImageView,
    /// A pinned network namespace. Without one the container gets an empty one of its own.
    pub netns: Option<PathBuf>,
    /// The text of its `/etc/hosts`; the image's own file when empty.
    pub etc_hosts: String,
    /// The text of its `/etc/resolv.conf`; the image's own file when empty.
    pub etc_resolv_conf: String,
    /// Annotations of the bundle, such as the service's name.
    pub annotations: BTreeMap<String, String>,
}

impl ContainerInputs {
    /// The host name as asked for, else the short form of the task's id.
    #[must_use]
    pub fn hostname(&self, task: TaskId) -> String {
        match self.container.hostname.as_str() {
            "" => task.short(),
            name => name.to_owned(),
        }
    }

    /// The program and its arguments: `Command` replaces the image's entrypoint and with it the
    /// image's command, `Args` replace the image's command.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        let (spec, image) = (&self.container, &self.image);
        let (head, tail) = match (spec.command.is_empty(), spec.args.is_empty()) {
            (true, true) => (&image.entrypoint, &image.cmd),
            (true, false) => (&image.entrypoint, &spec.args),
            (false, _) => (&spec.command, &spec.args),
        };
        head.iter().chain(tail).cloned().collect()
    }

    /// The user as asked for, else the image's.
    #[must_use]
    pub fn user(&self) -> &str {
        if self.container.user.is_empty() { &self.image.user } else { &self.container.user }
    }

    /// The working directory as asked for, else the image's, else `/`.
    #[must_use]
    pub fn workdir(&self) -> &str {
        match (self.container.dir.as_str(), self.image.workdir.as_str()) {
            ("", "") => "/",
            ("", dir) | (dir, _) => dir,
        }
    }

    /// The name of the signal that asks the container to stop.
    #[must_use]
    pub fn stop_signal(&self) -> &str {
        match (self.container.stop_signal.as_str(), self.image.stop_signal.as_str()) {
            ("", "") => "SIGTERM",
            ("", signal) | (signal, _) => signal,
        }
    }

    /// The environment: Docker's base, the image's on top, the user's on top of that. A user's
    /// `NAME` without `=` takes the variable away.
    #[must_use]
    pub fn env(&self, hostname: &str) -> Vec<String> {
        const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
        if self.container.tty {
            env.push("TERM=xterm".to_owned());
        }
        let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        for entry in self.image.env.iter().chain(&self.container.env) {
            let old = env.iter().position(|other| name(other) == name(entry));
            match (old, entry.contains('=')) {
                (Some(at), true) => env[at].clone_from(entry),
                (None, true) => env.push(entry.clone()),
                (Some(at), false) => drop(env.remove(at)),
                (None, false) => {}
            }
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> ContainerInputs {
        let strings = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        ContainerInputs {
            image: ImageView {
                entrypoint: strings(&["entry"]),
                cmd: strings(&["cmd"]),
                env: strings(&["PATH=/x", "A=1"]),
                ..ImageView::default()
            },
            ..ContainerInputs::default()
        }
    }

    #[test]
    fn command_replaces_entrypoint_and_args_replace_cmd() {
        let mut inputs = inputs();
        assert_eq!(inputs.argv(), ["entry", "cmd"]);
        inputs.container.args = vec!["arg".into()];
        assert_eq!(inputs.argv(), ["entry", "arg"]);
        inputs.container.command = vec!["own".into()];
        assert_eq!(inputs.argv(), ["own", "arg"]);
        inputs.container.args.clear();
        assert_eq!(inputs.argv(), ["own"]);
    }

    #[test]
    fn environment() {
        let mut inputs = inputs();
        inputs.container.env = vec!["A=2=3".into(), "B=".into(), "HOSTNAME".into()];
        assert_eq!(inputs.env("h"), ["PATH=/x", "A=2=3", "B="]);
    }

    #[test]
    fn defaults() {
        let mut inputs = inputs();
        assert_eq!((inputs.workdir(), inputs.stop_signal(), inputs.user()), ("/", "SIGTERM", ""));
        inputs.image.workdir = "/srv".into();
        inputs.image.stop_signal = "SIGQUIT".into();
        assert_eq!((inputs.workdir(), inputs.stop_signal()), ("/srv", "SIGQUIT"));
        inputs.container.stop_signal = "SIGINT".into();
        assert_eq!(inputs.stop_signal(), "SIGINT");
    }
}
