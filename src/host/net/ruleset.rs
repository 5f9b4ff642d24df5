//! The text of the daemon's one nft table, and of its small changes. Pure.
//!
//! Every rule names the daemon's own links: what passes between other links of the machine, those
//! of another daemon included, is never judged here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::names::Names;
use crate::model::network::Subnet;

/// All that the table depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetState {
    /// The blocks that the cluster's networks are cut from.
    pub pools: Vec<Subnet>,
    /// Which source address may come from which link.
    pub sources: BTreeSet<(String, Ipv4Addr)>,
    /// Networks that have a task here.
    pub networks: BTreeSet<Subnet>,
}

/// Elements that one task needs, or needs no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    /// As in [`NetState::sources`].
    pub sources: BTreeSet<(String, Ipv4Addr)>,
    /// As in [`NetState::networks`].
    pub networks: BTreeSet<Subnet>,
}

/// The whole table as one transaction that replaces what is there.
#[must_use]
pub fn render(names: &Names, state: &NetState) -> String {
    let Names { table, link_prefix: own, gateway, .. } = names;
    let pools = elements(state.pools.iter().map(|subnet| cidr(*subnet)));
    let sources = elements(state.sources.iter().map(source));
    let networks = elements(state.networks.iter().map(network));
    format!(
        r#"add table inet {table}
delete table inet {table}
table inet {table} {{
	set pools {{
		type ipv4_addr
		flags interval
{pools}	}}
	set sources {{
		type ifname . ipv4_addr
{sources}	}}
	set networks {{
		type ipv4_addr . ipv4_addr
		flags interval
{networks}	}}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname "{own}*" jump from_link
		iifname != "{own}*" iifname != "lo" ip daddr {gateway} drop
	}}
	chain from_link {{
		iifname . ip saddr @sources return
		counter drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{own}*" jump from_task
		oifname "{own}*" jump to_task
	}}
	chain from_task {{
		oifname "{own}*" ip saddr . ip daddr @networks accept
		ip daddr @pools counter drop
		accept
	}}
	chain to_task {{
		ct state established,related accept
		counter drop
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		oifname != "{own}*" ip saddr @pools ip daddr != @pools masquerade
	}}
}}
"#
    )
}

/// A transaction that adds the elements; those that are there already stay.
#[must_use]
pub fn render_add(names: &Names, elements: &Elements) -> String {
    lines(names, "add", elements)
}

/// A transaction that removes the elements; those that are not there are no error.
#[must_use]
pub fn render_remove(names: &Names, elements: &Elements) -> String {
    // `destroy element` would say this in one line, but needs Linux 6.3 and nft 1.0.7.
    lines(names, "add", elements) + &lines(names, "delete", elements)
}

/// A transaction that removes the table, also where there is none.
#[must_use]
pub fn render_teardown(names: &Names) -> String {
    let table = &names.table;
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn lines(names: &Names, verb: &str, change: &Elements) -> String {
    let mut text = String::new();
    let sets = [
        ("sources", change.sources.iter().map(source).collect::<Vec<_>>()),
        ("networks", change.networks.iter().map(network).collect()),
    ];
    for (set, elements) in sets {
        if !elements.is_empty() {
            let (table, elements) = (&names.table, elements.join(", "));
            writeln!(text, "{verb} element inet {table} {set} {{ {elements} }}")
                .expect("writing to a string does not fail");
        }
    }
    text
}

fn elements(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        return String::new();
    }
    format!("\t\telements = {{ {} }}\n", items.join(", "))
}

fn source((link, address): &(String, Ipv4Addr)) -> String {
    format!("\"{link}\" . {address}")
}

fn network(subnet: &Subnet) -> String {
    let cidr = cidr(*subnet);
    format!("{cidr} . {cidr}")
}

fn cidr(subnet: Subnet) -> String {
    format!("{}/{}", subnet.base, subnet.prefix)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;

    fn subnet(c: u8, prefix: u8) -> Subnet {
        Subnet { base: Ipv4Addr::new(10, 210, c, 0), prefix }
    }

    fn names() -> Names {
        Names {
            link_prefix: "skabcd".to_owned(),
            gateway: Ipv4Addr::new(169, 254, 83, 1),
            ..Names::new(Path::new("/var/lib/skep"))
        }
    }

    fn one() -> Elements {
        Elements {
            sources: [("skabcd000000001".to_owned(), Ipv4Addr::new(10, 210, 1, 2))].into(),
            networks: [subnet(1, 24)].into(),
        }
    }

    #[test]
    fn the_empty_table() {
        let text = render(&names(), &NetState::default());
        assert!(!text.contains("elements"), "{text}");
    }

    #[test]
    fn the_whole_table() {
        let Elements { sources, networks } = one();
        let state = NetState { pools: vec![subnet(0, 16)], sources, networks };
        expect![[r#"
            add table inet skep
            delete table inet skep
            table inet skep {
            	set pools {
            		type ipv4_addr
            		flags interval
            		elements = { 10.210.0.0/16 }
            	}
            	set sources {
            		type ifname . ipv4_addr
            		elements = { "skabcd000000001" . 10.210.1.2 }
            	}
            	set networks {
            		type ipv4_addr . ipv4_addr
            		flags interval
            		elements = { 10.210.1.0/24 . 10.210.1.0/24 }
            	}
            	chain prerouting {
            		type filter hook prerouting priority raw; policy accept;
            		iifname "skabcd*" jump from_link
            		iifname != "skabcd*" iifname != "lo" ip daddr 169.254.83.1 drop
            	}
            	chain from_link {
            		iifname . ip saddr @sources return
            		counter drop
            	}
            	chain forward {
            		type filter hook forward priority filter; policy accept;
            		iifname "skabcd*" jump from_task
            		oifname "skabcd*" jump to_task
            	}
            	chain from_task {
            		oifname "skabcd*" ip saddr . ip daddr @networks accept
            		ip daddr @pools counter drop
            		accept
            	}
            	chain to_task {
            		ct state established,related accept
            		counter drop
            	}
            	chain postrouting {
            		type nat hook postrouting priority srcnat; policy accept;
            		oifname != "skabcd*" ip saddr @pools ip daddr != @pools masquerade
            	}
            }
        "#]]
        .assert_eq(&render(&names(), &state));
    }

    #[test]
    fn the_change_for_one_task() {
        expect![[r#"
            add element inet skep sources { "skabcd000000001" . 10.210.1.2 }
            add element inet skep networks { 10.210.1.0/24 . 10.210.1.0/24 }
        "#]]
        .assert_eq(&render_add(&names(), &one()));
        expect![[r#"
            add element inet skep sources { "skabcd000000001" . 10.210.1.2 }
            add element inet skep networks { 10.210.1.0/24 . 10.210.1.0/24 }
            delete element inet skep sources { "skabcd000000001" . 10.210.1.2 }
            delete element inet skep networks { 10.210.1.0/24 . 10.210.1.0/24 }
        "#]]
        .assert_eq(&render_remove(&names(), &one()));
        assert_eq!(render_add(&names(), &Elements::default()), "");
    }
}
