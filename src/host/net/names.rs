//! Names and numbers that one daemon uses in a network namespace it may share with other daemons.
//!
//! All are derived from the data root, so that two daemons never meet and a restarted one finds
//! its own again. Pure.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::base::id::TaskId;
use crate::host::netlink::Mac;

/// The data root whose table has the plain name.
pub const DATA_ROOT_DEFAULT: &str = "/var/lib/skep";

/// Digits of the daemon's tag in the name of a link.
const TAG_CHARS: usize = 4;

/// Digits of the task's id in the name of a link: with `sk` and the tag, the kernel's 15.
const TASK_CHARS: usize = 9;

/// Block of link-local addresses that clouds use for themselves (169.254.169.254).
const CLOUD_BLOCK: u8 = 169;

/// The names of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Four digits that stand for the data root.
    pub tag: String,
    /// How the names of its links begin, for nft with a `*` behind it.
    pub link_prefix: String,
    /// Its nft table, in the family `inet`.
    pub table: String,
    /// The tasks' gateway, on every link of this daemon.
    pub gateway: Ipv4Addr,
    /// Metric of its guard routes.
    pub guard_metric: u32,
}

impl Names {
    /// The names of the daemon with this data root.
    #[must_use]
    pub fn new(data_root: &Path) -> Self {
        let hash = hash(data_root.as_os_str().as_encoded_bytes());
        let tag = base36(hash, TAG_CHARS);
        let plain = data_root == Path::new(DATA_ROOT_DEFAULT);
        let block = match hash.to_be_bytes()[0] {
            0 | 255 | CLOUD_BLOCK => 83,
            block => block,
        };
        let [.., a, b, c] = hash.to_be_bytes();
        Self {
            link_prefix: format!("sk{tag}"),
            table: if plain { "skep".to_owned() } else { format!("skep_{tag}") },
            tag,
            gateway: Ipv4Addr::new(169, 254, block, 1),
            guard_metric: u32::from_be_bytes([0x53, a, b, c]),
        }
    }

    /// Name of the host's end of a task's veth.
    #[must_use]
    pub fn link(&self, task: TaskId) -> String {
        let mut name = format!("{}{task}", self.link_prefix);
        name.truncate(self.link_prefix.len() + TASK_CHARS);
        name
    }

    /// Whether a link of this name is this daemon's.
    #[must_use]
    pub fn owns(&self, link: &str) -> bool {
        let digits = link.strip_prefix(&self.link_prefix);
        digits.is_some_and(|rest| {
            rest.len() == TASK_CHARS && rest.bytes().all(|b| b.is_ascii_alphanumeric())
        })
    }
}

/// Hardware address of the host's end, the same on every link: each is a segment of its own.
pub(super) const GATEWAY_MAC: Mac = [0x02, 0x53, 0, 0, 0, 1];

/// Hardware address of the task's end, from its first address.
pub(super) const fn task_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn base36(mut value: u64, digits: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(digits);
    for _ in 0..digits {
        text.push(char::from(DIGITS[usize::try_from(value % 36).unwrap_or(0)]));
        value /= 36;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_differ_by_data_root() {
        let (a, b) = (Names::new(Path::new("/var/lib/skep")), Names::new(Path::new("/srv/b")));
        let task = TaskId::new(u128::MAX / 7);
        assert_eq!(a.link(task).len(), 15);
        assert!(a.owns(&a.link(task)) && !a.owns(&b.link(task)));
        assert!(!a.owns("skein0") && !a.owns(&a.link_prefix));
        assert_eq!(a.table, "skep");
        assert_ne!(b.table, "skep");
        assert_ne!(a.gateway, b.gateway);
        assert_ne!(a.guard_metric, b.guard_metric);
    }

    #[test]
    fn the_gateway_is_never_a_clouds_own() {
        for n in 0..5_000 {
            let octets = Names::new(Path::new(&format!("/r/{n}"))).gateway.octets();
            assert!(!matches!(octets[2], 0 | 255 | CLOUD_BLOCK), "{octets:?}");
        }
    }
}
