//! The texts of a task's `/etc/hosts` and `/etc/resolv.conf`, as Docker writes them. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Where names are asked for when the host names no server that a task can reach: Docker's own
/// choice.
pub const NAMESERVERS_DEFAULT: [Ipv4Addr; 2] =
    [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];

/// The file of systemd-resolved that names the real servers; the host's own file then names only
/// a loopback address (resolved.conf(5)).
pub const RESOLVED_FILE: &str = "/run/systemd/resolve/resolv.conf";

/// What a service says about name resolution; an empty part is taken from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Servers, in order.
    pub nameservers: Vec<IpAddr>,
    /// Domains that are tried behind a short name; a single `.` means none at all.
    pub search: Vec<String>,
    /// Options such as `ndots:2`.
    pub options: Vec<String>,
}

/// The text of `/etc/hosts`: Docker's head, the task's own name for each address, then the
/// service's extra lines in their order.
#[must_use]
pub fn render_hosts(hostname: &str, own: &[Ipv4Addr], extra: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        writeln!(text, "{address}\t{name}").expect("writing to a string does not fail");
    }
    for address in own {
        writeln!(text, "{address}\t{hostname}").expect("writing to a string does not fail");
    }
    text
}

/// Whether the host's file names only loopback servers, so that [`RESOLVED_FILE`] should be read
/// in its place.
#[must_use]
pub fn only_loopback_servers(host: &str) -> bool {
    let mut servers = values(host, "nameserver").peekable();
    servers.peek().is_some()
        && servers.all(|server| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

/// The text of `/etc/resolv.conf`: what `wanted` says, and for the rest what the host's file says
/// without the servers that a task cannot reach: loopback (the host's, not the task's) and IPv6
/// (a task has none). Where no server is left, [`NAMESERVERS_DEFAULT`].
#[must_use]
pub fn render_resolv_conf(host: &str, wanted: &Resolver) -> String {
    let mut servers: Vec<IpAddr> = wanted.nameservers.clone();
    if servers.is_empty() {
        servers = values(host, "nameserver").filter_map(|s| s.parse().ok()).collect();
        servers.retain(|ip| ip.is_ipv4() && !ip.is_loopback());
    }
    if servers.is_empty() {
        servers = NAMESERVERS_DEFAULT.map(IpAddr::V4).to_vec();
    }
    let search = if wanted.search.is_empty() {
        // The last line counts, and `domain` is `search` with one name (resolv.conf(5)).
        let last = host.lines().rev().find_map(|line| {
            let mut words = line.split_whitespace();
            matches!(words.next(), Some("search" | "domain")).then(|| words.collect::<Vec<_>>())
        });
        last.unwrap_or_default()
    } else {
        wanted.search.iter().map(String::as_str).collect()
    };
    let options: Vec<&str> = if wanted.options.is_empty() {
        values(host, "options").collect()
    } else {
        wanted.options.iter().map(String::as_str).collect()
    };
    let mut text = String::new();
    if !search.is_empty() && search != ["."] {
        writeln!(text, "search {}", search.join(" ")).expect("writing to a string does not fail");
    }
    for server in servers {
        writeln!(text, "nameserver {server}").expect("writing to a string does not fail");
    }
    if !options.is_empty() {
        writeln!(text, "options {}", options.join(" ")).expect("writing to a string does not fail");
    }
    text
}

/// All words behind a keyword at the start of a line.
fn values<'a>(text: &'a str, keyword: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().flat_map(move |line| {
        let mut words = line.split_whitespace();
        let matches = words.next() == Some(keyword);
        words.filter(move |_| matches)
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn hosts_is_dockers() {
        let extra = [("db".to_owned(), IpAddr::from([192, 0, 2, 7]))];
        expect![[r#"
            127.0.0.1	localhost
            ::1	localhost ip6-localhost ip6-loopback
            fe00::0	ip6-localnet
            ff00::0	ip6-mcastprefix
            ff02::1	ip6-allnodes
            ff02::2	ip6-allrouters
            192.0.2.7	db
            10.0.1.3	web
        "#]]
        .assert_eq(&render_hosts("web", &[Ipv4Addr::new(10, 0, 1, 3)], &extra));
    }

    #[test]
    fn servers_out_of_reach_are_left_out() {
        let host = "# made by hand\ndomain old\nsearch lan home\nnameserver 127.0.0.53\n\
                    nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver junk\n\
                    options edns0 trust-ad\n";
        expect![[r#"
            search lan home
            nameserver 192.0.2.1
            options edns0 trust-ad
        "#]]
        .assert_eq(&render_resolv_conf(host, &Resolver::default()));
        assert!(!only_loopback_servers(host));
    }

    #[test]
    fn without_a_server_in_reach_there_is_a_default() {
        expect![[r#"
            nameserver 8.8.8.8
            nameserver 8.8.4.4
        "#]]
        .assert_eq(&render_resolv_conf("nameserver ::1\n", &Resolver::default()));
        assert!(only_loopback_servers("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!only_loopback_servers(""));
    }

    #[test]
    fn the_services_own_wishes_win() {
        let wanted = Resolver {
            nameservers: vec![IpAddr::from([127, 0, 0, 1])],
            search: vec![".".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        expect![[r#"
            nameserver 127.0.0.1
            options ndots:2
        "#]]
        .assert_eq(&render_resolv_conf("search lan\nnameserver 192.0.2.1\n", &wanted));
    }
}
