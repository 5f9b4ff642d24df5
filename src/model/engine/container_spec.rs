//! The container of a service's tasks, as the Engine API shows it.

use super::{Driver, Empty, Labels, engine};

engine! {
    /// What runs.
    ContainerSpec {
        omit {
            image: String,
            labels: Labels,
            command: Vec<String>,
            args: Vec<String>,
            hostname: String,
            env: Vec<String>,
            dir: String,
            user: String,
            groups: Vec<String>,
            privileges: Option<Privileges>,
            init: Option<bool>,
            stop_signal: String,
            tty: bool = "TTY",
            open_stdin: bool,
            read_only: bool,
            mounts: Vec<Mount>,
            stop_grace_period: Option<i64>,
            healthcheck: Option<HealthConfig>,
            hosts: Vec<String>,
            dns_config: Option<DnsConfig> = "DNSConfig",
            secrets: Vec<SecretReference>,
            configs: Vec<ConfigReference>,
            isolation: String,
            sysctls: Labels,
            capability_add: Vec<String>,
            capability_drop: Vec<String>,
            ulimits: Vec<Ulimit>,
            oom_score_adj: i64,
            /// Devices of the host; not known to Docker's services.
            devices: Vec<DeviceMapping>,
        }
    }

    /// What sets a container apart from an ordinary one.
    Privileges {
        omit {
            credential_spec: Option<Empty>,
            se_linux_context: Option<SeLinuxContext> = "SELinuxContext",
            seccomp: Option<SecurityProfile>,
            app_armor: Option<SecurityProfile>,
            no_new_privileges: bool,
        }
    }

    /// SELinux labels.
    SeLinuxContext {
        omit { disable: bool, user: String, role: String, r#type: String, level: String }
    }

    /// How seccomp or AppArmor is set up; `Profile` is base64.
    SecurityProfile {
        omit { mode: String, profile: String }
    }

    /// Something of the host inside the container.
    Mount {
        omit {
            r#type: String,
            source: String,
            target: String,
            read_only: bool,
            consistency: String,
            bind_options: Option<BindOptions>,
            volume_options: Option<VolumeOptions>,
            tmpfs_options: Option<TmpfsOptions>,
        }
    }

    /// Of a mount of type `bind`.
    BindOptions {
        omit {
            propagation: String,
            non_recursive: bool,
            create_mountpoint: bool,
            read_only_non_recursive: bool,
            read_only_force_recursive: bool,
        }
    }

    /// Of a mount of type `volume`.
    VolumeOptions {
        omit {
            no_copy: bool,
            labels: Labels,
            subpath: String,
            driver_config: Option<Driver>,
        }
    }

    /// Of a mount of type `tmpfs`.
    TmpfsOptions {
        omit { size_bytes: i64, mode: u32, options: Vec<Vec<String>> }
    }

    /// A check that runs inside the container.
    HealthConfig {
        omit {
            test: Vec<String>,
            interval: i64,
            timeout: i64,
            start_period: i64,
            start_interval: i64,
            retries: i64,
        }
    }

    /// The container's `resolv.conf`.
    DnsConfig {
        omit { nameservers: Vec<String>, search: Vec<String>, options: Vec<String> }
    }

    /// A secret a task is given.
    SecretReference {
        omit {
            file: Option<FileTarget>,
            secret_id: String = "SecretID",
            secret_name: String,
        }
    }

    /// A config a task is given.
    ConfigReference {
        omit {
            file: Option<FileTarget>,
            runtime: Option<Empty>,
            config_id: String = "ConfigID",
            config_name: String,
        }
    }

    /// Where a secret or config appears.
    FileTarget {
        omit { name: String, uid: String = "UID", gid: String = "GID", mode: u32 }
    }

    /// A resource limit.
    Ulimit {
        always { name: String, hard: i64, soft: i64 }
    }

    /// A device of the host inside the container.
    DeviceMapping {
        always { path_on_host: String, path_in_container: String, cgroup_permissions: String }
    }
}
