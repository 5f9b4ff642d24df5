//! The add and remove pairs of `service update`: pure edits of a spec's lists.

use std::collections::BTreeMap;

use crate::model::engine::Labels;
use crate::model::engine::container_spec::{DeviceMapping, Mount, Ulimit};
use crate::model::engine::service::PortConfig;

use super::environment;

/// Adds `K=V` and removes by key; what is added after it was removed stays.
pub fn map(map: &mut Labels, remove: &[String], add: &[String]) {
    for key in remove {
        map.remove(key);
    }
    for pair in add {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.insert(key.to_owned(), value.to_owned());
    }
}

/// Environment variables by name.
pub fn env(list: &mut Vec<String>, remove: &[String], add: &[String]) {
    for variable in add {
        let own = std::env::var(variable).ok().map(|value| format!("{variable}={value}"));
        let new = if variable.contains('=') { None } else { own };
        environment::replace(list, new.unwrap_or_else(|| variable.clone()));
    }
    list.retain(|variable| {
        let name = environment::name(variable);
        let added = add.iter().any(|new| environment::name(new) == name);
        added || !remove.iter().any(|key| key == name)
    });
}

/// Whole values, sorted as Docker sorts them.
pub fn values(list: &mut Vec<String>, remove: &[String], add: &[String]) {
    for value in add {
        if !list.contains(value) {
            list.push(value.clone());
        }
    }
    list.retain(|value| !remove.contains(value));
    list.sort();
}

/// Mounts by target.
pub fn mounts(list: &mut Vec<Mount>, remove: &[String], add: &[Mount]) {
    let mut by_target: BTreeMap<String, Mount> = BTreeMap::new();
    for mount in list.drain(..).chain(add.iter().cloned()) {
        by_target.insert(mount.target.clone(), mount);
    }
    let kept = by_target.into_values();
    list.extend(kept.filter(|mount| !remove.contains(&mount.target)));
    list.sort_by(|a, b| (&a.source, &a.target).cmp(&(&b.source, &b.target)));
}

/// Ports by target port and protocol; one that is published twice is refused.
pub fn ports(
    list: &mut Vec<PortConfig>,
    remove: &[(u32, String)],
    add: &[Vec<PortConfig>],
) -> Result<(), String> {
    list.retain(|port| {
        !remove.iter().any(|(target, protocol)| {
            *target == port.target_port && *protocol == port.protocol
        })
    });
    for new in add.iter().flatten() {
        let same = |old: &&PortConfig| {
            new.published_port != 0
                && old.published_port == new.published_port
                && old.protocol == new.protocol
                && old.host_ip == new.host_ip
        };
        match list.iter().find(same) {
            Some(old) if old != new => {
                return Err(format!(
                    "conflicting port mapping between {}:{}/{} and {}:{}/{}",
                    new.published_port,
                    new.target_port,
                    new.protocol,
                    old.published_port,
                    old.target_port,
                    old.protocol
                ));
            }
            Some(_) => {}
            None => list.push(new.clone()),
        }
    }
    Ok(())
}

/// Ulimits by name.
pub fn ulimits(list: &mut Vec<Ulimit>, remove: &[String], add: &[Ulimit]) {
    list.retain(|limit| {
        !remove.contains(&limit.name) && !add.iter().any(|new| new.name == limit.name)
    });
    for (at, limit) in add.iter().enumerate() {
        if !add[at + 1..].iter().any(|later| later.name == limit.name) {
            list.push(limit.clone());
        }
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
}

/// Devices by their path in the container.
pub fn devices(list: &mut Vec<DeviceMapping>, remove: &[String], add: &[DeviceMapping]) {
    list.retain(|device| {
        let path = &device.path_in_container;
        !remove.contains(path) && !add.iter().any(|new| new.path_in_container == *path)
    });
    list.extend(add.iter().cloned());
}

/// Extra hosts, `ip name name…`: added as `name:ip`, removed by name or `name:ip`.
pub fn hosts(list: &mut Vec<String>, remove: &[String], add: &[String]) {
    for text in remove {
        let (name, ip) = match text.split_once([':', '=']) {
            Some((name, ip)) => (name, Some(ip)),
            None => (text.as_str(), None),
        };
        list.retain_mut(|line| {
            let mut words = line.split_whitespace();
            let address = words.next().unwrap_or("").to_owned();
            if ip.is_some_and(|ip| ip != address) {
                return true;
            }
            let left: Vec<&str> = words.filter(|word| *word != name).collect();
            let kept = !left.is_empty();
            let new = format!("{address} {}", left.join(" "));
            *line = new;
            kept
        });
    }
    for text in add {
        if let Some(line) = super::create::host(text)
            && !list.contains(&line)
        {
            list.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse::port;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn texts_are_added_and_removed() {
        let mut env = texts(&["A=1", "B=2", "C=3"]);
        self::env(&mut env, &texts(&["C", "B"]), &texts(&["A=9", "B=8"]));
        assert_eq!(env, ["A=9", "B=8"]);
        let mut groups = texts(&["b", "a"]);
        values(&mut groups, &texts(&["b"]), &texts(&["c", "a"]));
        assert_eq!(groups, ["a", "c"]);
        let mut hosts = texts(&["10.0.0.1 a b", "10.0.0.2 a"]);
        self::hosts(&mut hosts, &texts(&["a:10.0.0.1", "b"]), &texts(&["c:10.0.0.3"]));
        assert_eq!(hosts, ["10.0.0.2 a", "10.0.0.3 c"]);
    }

    #[test]
    fn ports_are_replaced_by_target() {
        let mut list = port::parse("8080:80").unwrap();
        ports(&mut list, &[(80, "tcp".to_owned())], &[port::parse("8081:80").unwrap()]).unwrap();
        assert_eq!((list.len(), list[0].published_port), (1, 8081));
        ports(&mut list, &[], &[port::parse("8081:80").unwrap()]).unwrap();
        assert_eq!(list.len(), 1);
        let clash = ports(&mut list, &[], &[port::parse("8081:90").unwrap()]).unwrap_err();
        assert_eq!(clash, "conflicting port mapping between 8081:90/tcp and 8081:80/tcp");
    }
}
