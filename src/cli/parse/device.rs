//! `--device HOST[:CONTAINER][:rwm]`.

use crate::model::engine::container_spec::DeviceMapping;

/// A device of the host inside the container; all of `rwm` where it is not said.
pub fn parse(text: &str) -> Result<DeviceMapping, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, mode) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if is_mode(mode) => (*host, *host, *mode),
        [host, container] => (*host, *container, "rwm"),
        [host, container, mode] => (*host, *container, *mode),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if !is_mode(mode) {
        return Err(format!("bad mode specified: {mode}"));
    }
    for path in [host, container] {
        if !path.starts_with('/') {
            return Err(format!("{path} is not an absolute path"));
        }
        if path.split('/').any(|part| part == "..") {
            return Err(format!("{path} must not contain \"..\""));
        }
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: container.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

fn is_mode(text: &str) -> bool {
    let once = |c| text.matches(c).count() <= 1;
    !text.is_empty() && text.chars().all(|c| "rwm".contains(c) && once(c))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn devices_are_taken_apart() {
        for (text, host, container, mode) in [
            ("/dev/fb0", "/dev/fb0", "/dev/fb0", "rwm"),
            ("/dev/fb0:r", "/dev/fb0", "/dev/fb0", "r"),
            ("/dev/fb0:/dev/x", "/dev/fb0", "/dev/x", "rwm"),
            ("/dev/fb0:/dev/x:rw", "/dev/fb0", "/dev/x", "rw"),
        ] {
            let device = parse(text).unwrap();
            assert_eq!(device.path_on_host, host);
            assert_eq!(device.path_in_container, container);
            assert_eq!(device.cgroup_permissions, mode);
        }
        for (text, why) in [
            ("fb0", "fb0 is not an absolute path"),
            ("/dev/a:/dev/b:x", "bad mode specified: x"),
            ("/dev/a:/dev/b:rr", "bad mode specified: rr"),
            ("/dev/../a", "/dev/../a must not contain \"..\""),
            ("/a:/b:r:w", "invalid device specification: /a:/b:r:w"),
        ] {
            assert_eq!(parse(text).unwrap_err(), why);
        }
    }
}
