//! `--publish`: `[[IP:]PUBLISHED:]TARGET[/PROTOCOL]` with ranges, and
//! `target=,published=,protocol=,mode=,host_ip=`.

use std::net::IpAddr;

use super::{csv, network};
use crate::model::engine::service::PortConfig;

/// Every port that one `--publish` stands for.
pub fn parse(text: &str) -> Result<Vec<PortConfig>, String> {
    if network::is_long(text) { parse_long(text).map(|port| vec![port]) } else { parse_short(text) }
}

/// What `--publish-rm` names: a target port with its protocol, or a whole port.
pub fn parse_removal(text: &str) -> Result<(u32, String), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if text.contains(['=', ':']) {
        return Err(format!(
            "invalid port format: '{text}', should be <TargetPort>[/<Protocol>] (e.g., 80, 80/tcp)"
        ));
    }
    let target = port.parse::<u16>().map_err(|_why| format!("Invalid containerPort: {port}"))?;
    check_protocol(protocol)?;
    Ok((u32::from(target), protocol.to_lowercase()))
}

fn parse_long(text: &str) -> Result<PortConfig, String> {
    let mut port = PortConfig {
        protocol: "tcp".to_owned(),
        publish_mode: "ingress".to_owned(),
        ..PortConfig::default()
    };
    for field in csv::fields(text)? {
        let lower = field.to_lowercase();
        let (key, value) = match lower.split_once('=') {
            Some((key, value)) if !key.is_empty() => (key, value),
            _ => return Err(format!("invalid field {field}")),
        };
        match (key, value) {
            ("protocol", "tcp" | "udp" | "sctp") => value.clone_into(&mut port.protocol),
            ("protocol", _) => return Err(format!("invalid protocol value {value}")),
            ("mode", "ingress" | "host") => value.clone_into(&mut port.publish_mode),
            ("mode", _) => return Err(format!("invalid publish mode value {value}")),
            ("target", _) => port.target_port = number("target", value)?,
            ("published", _) => port.published_port = number("published", value)?,
            ("host_ip" | "host-ip", _) => {
                check_address(value)?;
                value.clone_into(&mut port.host_ip);
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if port.target_port == 0 {
        return Err("missing mandatory field \"target\"".to_owned());
    }
    Ok(port)
}

fn number(what: &str, text: &str) -> Result<u32, String> {
    text.parse::<u16>().map(u32::from).map_err(|error| {
        let range = *error.kind() == std::num::IntErrorKind::PosOverflow;
        let why = if range { "value out of range" } else { "invalid syntax" };
        format!("invalid {what} port ({text}): value must be an integer: {why}")
    })
}

fn parse_short(text: &str) -> Result<Vec<PortConfig>, String> {
    let (front, target) = text.rsplit_once(':').unwrap_or(("", text));
    let (address, published) = front.rsplit_once(':').unwrap_or(("", front));
    let (target, protocol) = target.split_once('/').unwrap_or((target, "tcp"));
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() {
        check_address(address)?;
    }
    if target.is_empty() {
        return Err(format!("No port specified: {text}<empty>"));
    }
    let targets = range(target).ok_or_else(|| format!("Invalid containerPort: {target}"))?;
    if targets.0 == 0 {
        return Err(format!("Invalid containerPort: {target}"));
    }
    let publish = match published {
        "" => (0, 0),
        _ => range(published).ok_or_else(|| format!("Invalid hostPort: {published}"))?,
    };
    let (wide, wide_publish) = (targets.1 - targets.0, publish.1 - publish.0);
    if !published.is_empty() && wide != wide_publish && wide != 0 {
        return Err(format!(
            "Invalid ranges specified for container and host Ports: {target} and {published}"
        ));
    }
    check_protocol(protocol)?;
    let pairs = 0..=wide.max(wide_publish);
    Ok(pairs
        .map(|step| PortConfig {
            protocol: protocol.to_lowercase(),
            target_port: u32::from(if wide == 0 { targets.0 } else { targets.0 + step }),
            published_port: u32::from(if published.is_empty() { 0 } else { publish.0 + step }),
            publish_mode: "ingress".to_owned(),
            host_ip: address.to_owned(),
            ..PortConfig::default()
        })
        .collect())
}

/// `80` or `80-89`; the second not below the first.
fn range(text: &str) -> Option<(u16, u16)> {
    let digits = |text: &str| -> Option<u16> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if plain { text.parse().ok() } else { None }
    };
    match text.split_once('-') {
        None => digits(text).map(|port| (port, port)),
        Some((from, to)) => match (digits(from)?, digits(to)?) {
            (from, to) if from <= to => Some((from, to)),
            _ => None,
        },
    }
}

fn check_protocol(text: &str) -> Result<(), String> {
    match text.to_lowercase().as_str() {
        "tcp" | "udp" | "sctp" => Ok(()),
        _ => Err(format!("Invalid proto: {text}")),
    }
}

fn check_address(text: &str) -> Result<(), String> {
    text.parse::<IpAddr>().map(drop).map_err(|_why| format!("Invalid ip address: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let show = |port: &PortConfig| {
            format!(
                "{}:{}>{}/{} {}",
                port.host_ip, port.published_port, port.target_port, port.protocol,
                port.publish_mode
            )
        };
        match parse(text) {
            Ok(ports) => ports.iter().map(show).collect::<Vec<_>>().join(", "),
            Err(why) => why,
        }
    }

    #[test]
    fn every_form_of_a_port() {
        for (text, expected) in [
            ("80", ":0>80/tcp ingress"),
            ("80:80", ":80>80/tcp ingress"),
            ("53:53/udp", ":53>53/udp ingress"),
            ("8080-8081:80-81", ":8080>80/tcp ingress, :8081>81/tcp ingress"),
            ("8080-8081:80", ":8080>80/tcp ingress, :8081>80/tcp ingress"),
            ("80-81", ":0>80/tcp ingress, :0>81/tcp ingress"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080>80/tcp ingress"),
            ("127.0.0.1::80", "127.0.0.1:0>80/tcp ingress"),
            ("[::1]:8080:80", "::1:8080>80/tcp ingress"),
            ("target=80,published=81,mode=host", ":81>80/tcp host"),
            ("target=53,protocol=UDP", ":0>53/udp ingress"),
            ("target=80,published=80,host_ip=10.0.0.1", "10.0.0.1:80>80/tcp ingress"),
            ("99999:80", "Invalid hostPort: 99999"),
            ("abc", "Invalid containerPort: abc"),
            ("0", "Invalid containerPort: 0"),
            ("90-80:80", "Invalid hostPort: 90-80"),
            ("", "No port specified: <empty>"),
            ("80:", "No port specified: 80:<empty>"),
            ("1.2.3:80:80", "Invalid ip address: 1.2.3"),
            ("80/foo", "Invalid proto: foo"),
            ("80-81:80-82", "Invalid ranges specified for container and host Ports: 80-82 and 80-81"),
            ("mode=bogus,target=80", "invalid publish mode value bogus"),
            ("protocol=tcpp,target=1", "invalid protocol value tcpp"),
            ("published=80", "missing mandatory field \"target\""),
            ("target=0", "missing mandatory field \"target\""),
            ("foo=1", "invalid field key foo"),
            ("target=x", "invalid target port (x): value must be an integer: invalid syntax"),
            ("target=70000", "invalid target port (70000): value must be an integer: value out of range"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn removal_names_a_target() {
        assert_eq!(parse_removal("80"), Ok((80, "tcp".to_owned())));
        assert_eq!(parse_removal("53/UDP"), Ok((53, "udp".to_owned())));
        assert!(parse_removal("80:80").unwrap_err().starts_with("invalid port format: '80:80'"));
    }
}
