//! The container of a service's tasks from the client, parsed.

use std::net::IpAddr;

use super::service_spec::{count, invalid, span};
use crate::api::errors::ApiError;
use crate::base::time::Span;
use crate::model::engine::container_spec as json;
use crate::model::service::{
    ContainerSpec, Device, Dns, Health, Mount, MountKind, Propagation, Ulimit,
};

/// Shortest time of a health check, in nanoseconds.
const HEALTH_NANOS_MIN: i64 = 1_000_000;

/// Parses the container's part.
///
/// # Errors
/// With Docker's text for the first thing that is wrong.
pub fn parse(spec: json::ContainerSpec) -> Result<ContainerSpec, ApiError> {
    refuse_unknown(&spec)?;
    refuse_zero_bytes(&spec)?;
    let oom_score_adj = i32::try_from(spec.oom_score_adj)
        .ok()
        .filter(|score| (-1000..=1000).contains(score))
        .ok_or_else(|| {
            let text = "Invalid value for OomScoreAdj, range [-1000, 1000]";
            invalid(format!("{text}: {}", spec.oom_score_adj))
        })?;
    Ok(ContainerSpec {
        image: spec.image,
        labels: spec.labels,
        command: spec.command,
        args: spec.args,
        hostname: spec.hostname,
        env: spec.env,
        dir: spec.dir,
        user: spec.user,
        groups: spec.groups,
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        init: spec.init,
        stop_signal: spec.stop_signal,
        stop_grace: spec
            .stop_grace_period
            .map(|nanos| span(nanos, "ContainerSpec: StopGracePeriod"))
            .transpose()?,
        mounts: spec.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        hosts: spec.hosts,
        dns: spec.dns_config.filter(|it| *it != json::DnsConfig::default()).map(dns).transpose()?,
        sysctls: spec.sysctls,
        cap_add: spec.capability_add,
        cap_drop: spec.capability_drop,
        ulimits: spec
            .ulimits
            .into_iter()
            .map(|limit| Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard })
            .collect(),
        devices: spec.devices.into_iter().map(device).collect::<Result<_, _>>()?,
        no_new_privileges: spec.privileges.is_some_and(|it| it.no_new_privileges),
        oom_score_adj,
        health: spec.healthcheck.map(health).transpose()?,
        secrets: Vec::new(),
        configs: Vec::new(),
    })
}

/// What would be lost in silence otherwise.
fn refuse_unknown(spec: &json::ContainerSpec) -> Result<(), ApiError> {
    if !spec.secrets.is_empty() {
        return Err(ApiError::unimplemented("secrets"));
    }
    if !spec.configs.is_empty() {
        return Err(ApiError::unimplemented("configs"));
    }
    if !matches!(spec.isolation.as_str(), "" | "default") {
        return Err(invalid(format!("invalid isolation mode: {}", spec.isolation)));
    }
    let Some(privileges) = &spec.privileges else {
        return Ok(());
    };
    if privileges.credential_spec.is_some() {
        return Err(ApiError::unimplemented("credential specs"));
    }
    if privileges.se_linux_context.as_ref().is_some_and(|it| !it.disable) {
        return Err(ApiError::unimplemented("SELinux labels"));
    }
    let plain = |profile: &Option<json::SecurityProfile>| {
        profile.as_ref().is_none_or(|it| matches!(it.mode.as_str(), "" | "default"))
    };
    if !plain(&privileges.seccomp) {
        return Err(ApiError::unimplemented("seccomp profiles other than the default"));
    }
    if !plain(&privileges.app_armor) {
        return Err(ApiError::unimplemented("AppArmor modes other than the default"));
    }
    Ok(())
}

/// The kernel's texts end at a zero byte: what follows would be cut off unseen.
fn refuse_zero_bytes(spec: &json::ContainerSpec) -> Result<(), ApiError> {
    let single = [&spec.image, &spec.hostname, &spec.dir, &spec.user, &spec.stop_signal];
    let lists = [&spec.command, &spec.args, &spec.env, &spec.groups, &spec.hosts];
    let mounts = spec.mounts.iter().flat_map(|mount| [&mount.source, &mount.target]);
    let sysctls = spec.sysctls.iter().flat_map(|(name, value)| [name, value]);
    let devices = spec.devices.iter().flat_map(|it| [&it.path_on_host, &it.path_in_container]);
    let mut all = single
        .into_iter()
        .chain(lists.into_iter().flatten())
        .chain(mounts)
        .chain(sysctls)
        .chain(devices);
    match all.find(|text| text.contains('\0')) {
        Some(text) => Err(invalid(format!("ContainerSpec: a zero byte in {text:?}"))),
        None => Ok(()),
    }
}

fn mount(mount: json::Mount) -> Result<Mount, ApiError> {
    let bind = mount.bind_options.unwrap_or_default();
    let volume = mount.volume_options.unwrap_or_default();
    let tmpfs = mount.tmpfs_options.unwrap_or_default();
    if bind.create_mountpoint {
        return Err(ApiError::unimplemented(
            "bind-create-src: make the folder on each node that may run the service",
        ));
    }
    if !tmpfs.options.is_empty() {
        return Err(ApiError::unimplemented("options of tmpfs mounts"));
    }
    let kind = match mount.r#type.as_str() {
        "bind" => bind_kind(mount.source, mount.read_only, &bind)?,
        "" | "volume" => {
            let driver = volume.driver_config.unwrap_or_default();
            if !matches!(driver.name.as_str(), "" | "local") {
                return Err(ApiError::unimplemented("volume drivers other than local"));
            }
            // Without them the data would lie on this disk and not where they point.
            if !driver.options.is_empty() {
                return Err(ApiError::unimplemented("options of volumes"));
            }
            MountKind::Volume {
                name: mount.source,
                labels: volume.labels,
                no_copy: volume.no_copy,
                subpath: volume.subpath,
            }
        }
        "tmpfs" => {
            if !mount.source.is_empty() {
                return Err(invalid("invalid mount config for type \"tmpfs\": field Source must not be specified"));
            }
            MountKind::Tmpfs {
                size_bytes: count(tmpfs.size_bytes, "tmpfs size")?,
                mode: tmpfs.mode,
            }
        }
        "image" | "cluster" | "npipe" => {
            return Err(ApiError::unimplemented(&format!("mounts of type {}", mount.r#type)));
        }
        other => return Err(invalid(format!("invalid MountType: \"{other}\""))),
    };
    Ok(Mount { target: mount.target, read_only: mount.read_only, kind })
}

/// What `bind-recursive` says, by Docker's rules of what goes together.
fn bind_kind(
    source: String,
    read_only: bool,
    bind: &json::BindOptions,
) -> Result<MountKind, ApiError> {
    let propagation = propagation(&bind.propagation)?;
    let (writable, forced) = (bind.read_only_non_recursive, bind.read_only_force_recursive);
    if !writable && !forced {
        return Ok(MountKind::Bind { source, propagation, non_recursive: bind.non_recursive });
    }
    let refuse = |why: &str| {
        Err(invalid(format!("invalid mount config for type \"bind\": mount options conflict: {why}")))
    };
    if !read_only {
        return refuse("ReadOnlyNonRecursive and ReadOnlyForceRecursive need ReadOnly");
    }
    if writable && forced {
        return refuse("ReadOnlyNonRecursive and ReadOnlyForceRecursive");
    }
    if bind.non_recursive {
        return refuse("NonRecursive leaves nothing below that could be read-only or writable");
    }
    if forced && propagation != Propagation::Rprivate {
        return refuse("ReadOnlyForceRecursive needs the propagation rprivate");
    }
    Ok(MountKind::BindReadOnly { source, propagation, recursive: forced })
}

fn propagation(text: &str) -> Result<Propagation, ApiError> {
    Ok(match text {
        "" | "rprivate" => Propagation::Rprivate,
        "private" => Propagation::Private,
        "rshared" => Propagation::Rshared,
        "shared" => Propagation::Shared,
        "rslave" => Propagation::Rslave,
        "slave" => Propagation::Slave,
        other => return Err(invalid(format!("invalid MountPropagation: \"{other}\""))),
    })
}

fn dns(dns: json::DnsConfig) -> Result<Dns, ApiError> {
    let servers = dns.nameservers.iter().map(|text| {
        text.parse::<IpAddr>()
            .map_err(|_no_ip| invalid(format!("invalid IP address for a name server: {text}")))
    });
    Ok(Dns {
        servers: servers.collect::<Result<_, _>>()?,
        search: dns.search,
        options: dns.options,
    })
}

fn device(device: json::DeviceMapping) -> Result<Device, ApiError> {
    let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
    if !absolute(&device.path_on_host) {
        return Err(invalid(format!("'{}' is not an absolute path", device.path_on_host)));
    }
    let path_in_container = if device.path_in_container.is_empty() {
        device.path_on_host.clone()
    } else {
        device.path_in_container
    };
    if !absolute(&path_in_container) {
        return Err(invalid(format!("'{path_in_container}' is not an absolute path")));
    }
    let permissions = if device.cgroup_permissions.is_empty() {
        "rwm".to_owned()
    } else {
        device.cgroup_permissions
    };
    let mut seen = String::new();
    for letter in permissions.chars() {
        if !"rwm".contains(letter) || seen.contains(letter) {
            return Err(invalid(format!("invalid device mode: {permissions}")));
        }
        seen.push(letter);
    }
    Ok(Device { path_on_host: device.path_on_host, path_in_container, permissions })
}

fn health(given: json::HealthConfig) -> Result<Health, ApiError> {
    let time = |nanos: i64, what: &str| -> Result<Option<Span>, ApiError> {
        if nanos == 0 {
            return Ok(None);
        }
        if nanos < HEALTH_NANOS_MIN {
            return Err(invalid(format!(
                "ContainerSpec: {what} in HealthConfig cannot be less than 1ms"
            )));
        }
        span(nanos, what).map(Some)
    };
    let retries = u32::try_from(given.retries).map_err(|_range| {
        invalid("ContainerSpec: Retries in HealthConfig cannot be negative")
    })?;
    Ok(Health {
        test: given.test,
        interval: time(given.interval, "Interval")?,
        timeout: time(given.timeout, "Timeout")?,
        retries: Some(retries).filter(|retries| *retries != 0),
        start_period: time(given.start_period, "StartPeriod")?,
        start_interval: time(given.start_interval, "StartInterval")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mounts_cannot_do_is_refused_in_words() {
        let plain = json::Mount { r#type: "bind".to_owned(), ..json::Mount::default() };
        assert!(mount(plain.clone()).is_ok());
        let create = json::BindOptions { create_mountpoint: true, ..json::BindOptions::default() };
        let options = json::TmpfsOptions {
            options: vec![vec!["exec".to_owned()]],
            ..json::TmpfsOptions::default()
        };
        for (asked, name) in [
            (json::Mount { bind_options: Some(create), ..plain.clone() }, "bind-create-src"),
            (json::Mount { tmpfs_options: Some(options), ..plain }, "options of tmpfs mounts"),
        ] {
            let refused = mount(asked).unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }

    #[test]
    fn what_is_mounted_below_is_as_asked_or_refused() {
        let asked = |read_only, writable, forced, change: fn(&mut json::BindOptions)| {
            let mut bind = json::BindOptions {
                read_only_non_recursive: writable,
                read_only_force_recursive: forced,
                ..json::BindOptions::default()
            };
            change(&mut bind);
            let (r#type, source) = ("bind".to_owned(), "/a".to_owned());
            let bind_options = Some(bind).filter(|bind| *bind != json::BindOptions::default());
            json::Mount { r#type, source, read_only, bind_options, ..json::Mount::default() }
        };
        for (writable, forced) in [(false, false), (true, false), (false, true)] {
            let asked = asked(true, writable, forced, |_| {});
            let parsed = mount(asked.clone()).unwrap();
            let is_plain = matches!(parsed.kind, MountKind::Bind { .. });
            assert_eq!(is_plain, !writable && !forced);
            assert_eq!(crate::api::convert::container::mount(&parsed), asked, "inspect shows it");
        }
        for (asked, why) in [
            (asked(false, true, false, |_| {}), "need ReadOnly"),
            (asked(true, true, true, |_| {}), "ReadOnlyNonRecursive and ReadOnlyForceRecursive"),
            (asked(true, false, true, |it| it.non_recursive = true), "NonRecursive leaves"),
            (asked(true, false, true, |it| it.propagation = "rslave".into()), "rprivate"),
        ] {
            let refused = mount(asked).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
