//! Capabilities: Docker's default set, and what `--cap-add` and `--cap-drop` make of it.

use super::error::RuntimeError;

/// Every capability by its number, without `CAP_`.
const ALL: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
    "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
];

/// The capabilities a container may have, as `CAP_X`. `have` is the daemon's own bounding set as
/// a bit mask: what it lacks it cannot give.
pub(super) fn bounding(
    add: &[String],
    drop: &[String],
    have: u64,
) -> Result<Vec<String>, RuntimeError> {
    let (add_all, add) = split(add)?;
    let (drop_all, drop) = split(drop)?;
    let base: &[&str] = match (add_all, drop_all) {
        (true, _) => &ALL,
        (false, true) => &[],
        (false, false) => &DEFAULT,
    };
    let mut names = base.to_vec();
    names.retain(|name| !drop.contains(name));
    for name in add {
        if !names.contains(&name) && (!drop.contains(&name) || drop_all) {
            names.push(name);
        }
    }
    let given = |name: &&str| {
        let bit = ALL.iter().position(|known| known == name);
        bit.is_some_and(|bit| have >> bit & 1 == 1)
    };
    Ok(names.into_iter().filter(given).map(|name| format!("CAP_{name}")).collect())
}

/// Whether `ALL` is among them, and the others as they are in the table.
fn split(words: &[String]) -> Result<(bool, Vec<&'static str>), RuntimeError> {
    let mut all = false;
    let mut names = Vec::new();
    for word in words {
        let upper = word.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            all = true;
            continue;
        }
        let known = ALL.iter().find(|known| **known == name);
        let known = known.ok_or_else(|| {
            RuntimeError::Spec(format!("invalid capability: unknown capability: \"{word}\""))
        })?;
        names.push(*known);
    }
    Ok((all, names))
}

/// The bounding set in the text of `/proc/self/status`.
pub(super) fn parse_status(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(add: &[&str], drop: &[&str]) -> Vec<String> {
        let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        bounding(&owned(add), &owned(drop), u64::MAX).unwrap()
    }

    #[test]
    fn add_and_drop() {
        assert_eq!(names(&[], &[]).len(), 14);
        assert_eq!(names(&["net_admin"], &["CAP_MKNOD"]).len(), 14);
        assert!(names(&["net_admin"], &[]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert_eq!(names(&["ALL"], &["SYS_ADMIN"]).len(), 40);
        assert_eq!(names(&["CHOWN"], &["ALL"]), ["CAP_CHOWN"]);
        assert!(bounding(&["CAP_NOPE".to_owned()], &[], u64::MAX).is_err());
        assert_eq!(bounding(&[], &[], 1).unwrap(), ["CAP_CHOWN"]);
    }

    #[test]
    fn numbers_are_the_kernels() {
        let bit = |name| ALL.iter().position(|known| *known == name);
        assert_eq!((bit("SYS_ADMIN"), bit("MKNOD"), bit("BPF")), (Some(21), Some(27), Some(39)));
        assert_eq!(parse_status("Name:\tx\nCapBnd:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
    }
}
