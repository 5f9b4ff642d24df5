//! `--mount type=bind,source=/a,target=/b,readonly`.

use super::{csv, value};
use crate::model::engine::container_spec::{BindOptions, Mount, TmpfsOptions, VolumeOptions};
use crate::model::engine::{Driver, Labels};

/// Keys that are true when they stand alone.
const FLAGS: [&str; 5] = ["readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"];

/// One mount; the type is `volume` where it is not said.
pub fn parse(text: &str) -> Result<Mount, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("value is empty".to_owned());
    }
    let mut mount = Mount { r#type: "volume".to_owned(), ..Mount::default() };
    for field in csv::fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        if key.trim() != key {
            return Err(format!(
                "invalid option '{key}' in '{field}': option should not have whitespace"
            ));
        }
        match value.map(str::trim) {
            Some("") => return Err(format!("invalid value for '{key}': value is empty")),
            trimmed if trimmed != value => {
                return Err(format!(
                    "invalid value for '{key}' in '{field}': value should not have whitespace"
                ));
            }
            _ => {}
        }
        let key = key.to_lowercase();
        if value.is_none() && !FLAGS.contains(&key.as_str()) {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        }
        if !set(&mut mount, &key, value.unwrap_or("true"))? {
            return Err(format!("unexpected key '{key}' in '{field}'"));
        }
    }
    check(&mount)?;
    Ok(mount)
}

/// Sets one option; false when there is none of that name.
fn set(mount: &mut Mount, key: &str, value: &str) -> Result<bool, String> {
    let bad = || format!("invalid value for {key}: {value}");
    let flag = || value::boolean(value).map_err(|_why| bad());
    match key {
        "type" => mount.r#type = value.to_lowercase(),
        "source" | "src" => value.clone_into(&mut mount.source),
        "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
        "readonly" | "ro" => mount.read_only = flag()?,
        "consistency" => mount.consistency = value.to_lowercase(),
        "bind-propagation" => bind(mount).propagation = value.to_lowercase(),
        "bind-nonrecursive" => bind(mount).non_recursive = flag()?,
        "bind-create-src" => bind(mount).create_mountpoint = flag()?,
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => bind(mount).non_recursive = true,
            "writable" => bind(mount).read_only_non_recursive = true,
            "readonly" => bind(mount).read_only_force_recursive = true,
            _ => {
                let allowed = r#"(must be "enabled", "disabled", "writable", or "readonly")"#;
                return Err(format!("{} {allowed}", bad()));
            }
        },
        "volume-subpath" => value.clone_into(&mut volume(mount).subpath),
        "volume-nocopy" => volume(mount).no_copy = flag()?,
        "volume-label" => insert(&mut volume(mount).labels, value),
        "volume-driver" => value.clone_into(&mut driver(mount).name),
        "volume-opt" => insert(&mut driver(mount).options, value),
        "tmpfs-size" => tmpfs(mount).size_bytes = value::bytes(value).map_err(|_why| bad())?,
        "tmpfs-mode" => {
            tmpfs(mount).mode = u32::from_str_radix(value, 8).map_err(|_why| bad())?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn bind(mount: &mut Mount) -> &mut BindOptions {
    mount.bind_options.get_or_insert_default()
}

fn volume(mount: &mut Mount) -> &mut VolumeOptions {
    mount.volume_options.get_or_insert_default()
}

fn driver(mount: &mut Mount) -> &mut Driver {
    volume(mount).driver_config.get_or_insert_default()
}

fn tmpfs(mount: &mut Mount) -> &mut TmpfsOptions {
    mount.tmpfs_options.get_or_insert_default()
}

fn insert(map: &mut Labels, pair: &str) {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    map.insert(key.to_owned(), value.to_owned());
}

/// What no combination of options may violate.
fn check(mount: &Mount) -> Result<(), String> {
    if mount.r#type.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    for (prefix, kind, given) in [
        ("volume", "volume", mount.volume_options.is_some()),
        ("bind", "bind", mount.bind_options.is_some()),
        ("tmpfs", "tmpfs", mount.tmpfs_options.is_some()),
    ] {
        if given && mount.r#type != kind {
            return Err(format!("cannot mix '{prefix}-*' options with mount type '{}'", mount.r#type));
        }
    }
    let Some(bind) = &mount.bind_options else { return Ok(()) };
    for (given, name) in
        [(bind.read_only_non_recursive, "writable"), (bind.read_only_force_recursive, "readonly")]
    {
        if given && !mount.read_only {
            return Err(format!(
                "option 'bind-recursive={name}' requires 'readonly' to be specified in conjunction"
            ));
        }
    }
    if bind.read_only_force_recursive && bind.propagation != "rprivate" {
        return Err("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be \
                    specified in conjunction"
            .to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_become_engine_mounts() {
        for (text, json) in [
            ("target=/x", r#"{"Type":"volume","Target":"/x"}"#),
            (
                "type=bind,src=/a,dst=/b,ro",
                r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true}"#,
            ),
            (
                "type=bind,source=/a,target=/b,readonly=false,bind-propagation=RSHARED",
                r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"Propagation":"rshared"}}"#,
            ),
            (
                "type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770",
                r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1016}}"#,
            ),
            (
                "source=v,target=/v,volume-nocopy,volume-label=a=b,\"volume-opt=o=x,y\"",
                r#"{"Type":"volume","Source":"v","Target":"/v","VolumeOptions":{"NoCopy":true,"Labels":{"a":"b"},"DriverConfig":{"Options":{"o":"x,y"}}}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&parse(text).unwrap()).unwrap(), json, "{text}");
        }
    }

    #[test]
    fn bad_mounts_are_told_in_dockers_words() {
        for (text, why) in [
            ("", "value is empty"),
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("type=bind,target=a,bar=1", "unexpected key 'bar' in 'bar=1'"),
            ("type=tmpfs,src=/x", "target is required"),
            ("type=bind,target=", "invalid value for 'target': value is empty"),
            ("target=/a, ro", "invalid option ' ro' in ' ro': option should not have whitespace"),
            ("target=/a,ro=x", "invalid value for ro: x"),
            ("type=bind,target=/a,tmpfs-size=1", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
            ("type=tmpfs,target=/a,tmpfs-size=x", "invalid value for tmpfs-size: x"),
            ("type=tmpfs,target=/a,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
            (
                "type=bind,src=/,target=/a,bind-recursive=readonly",
                "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text}");
        }
    }
}
