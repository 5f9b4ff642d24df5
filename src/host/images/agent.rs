//! The HTTP agent of a session: which authorities it trusts and how long it waits.

use std::fs;
use std::path::{Path, PathBuf};

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::error::{ImageError, Result};
use super::registry::RegistryConfig;

/// Loopback is always insecure, as in Docker; others by name.
pub(super) fn is_insecure(host: &str, named: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let address: Option<std::net::IpAddr> =
        name.trim_start_matches('[').trim_end_matches(']').parse().ok();
    name == "localhost"
        || address.is_some_and(|address| address.is_loopback())
        || named.iter().any(|entry| entry == host || entry == name)
}

/// An agent that trusts the system's and the user's own authorities; where the system has none,
/// the user's own, or with `bundled` those that the program brings.
pub(super) fn agent(config: &RegistryConfig, is_insecure: bool, bundled: bool) -> Result<Agent> {
    let mut roots = Vec::new();
    let files = system_roots(config).into_iter().chain(&config.ca_files);
    for path in files.filter(|_| !bundled) {
        roots.extend(certificates(path)?);
    }
    let roots = if roots.is_empty() { RootCerts::WebPki } else { roots.into() };
    let tls =
        TlsConfig::builder().root_certs(roots).disable_verification(is_insecure).build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")))
        .proxy(if is_insecure { None } else { ureq::Proxy::try_from_env() })
        .timeout_connect(Some(config.connect_timeout))
        .timeout_resolve(Some(config.connect_timeout))
        .timeout_recv_response(Some(config.read_timeout))
        .timeout_per_read(Some(config.read_timeout))
        .timeout_per_write(Some(config.read_timeout))
        .build();
    Ok(config.new_agent())
}

/// The certificates in a file of PEM items; what else is in it is passed over.
///
/// # Errors
/// When the file cannot be read.
pub fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let pem = fs::read(path).map_err(|e| ImageError::io("read certificates of", path, e))?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(items.collect())
}

/// Whether the program's own authorities may know a registry that the files do not.
pub(super) fn may_need_bundled(config: &RegistryConfig) -> bool {
    system_roots(config).is_none() && !config.ca_files.is_empty()
}

fn system_roots(config: &RegistryConfig) -> Option<&PathBuf> {
    config.system_ca_files.iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_named_hosts_are_insecure() {
        let named = ["pi-1:5000".to_owned(), "pi-2".to_owned()];
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000",
            "pi-1:5000", "pi-2", "pi-2:80"]
        {
            assert!(is_insecure(host, &named), "{host}");
        }
        for host in ["pi-1", "pi-1:5001", "10.0.0.1", "localhost.example", "[::2]:1"] {
            assert!(!is_insecure(host, &named), "{host}");
        }
    }
}
