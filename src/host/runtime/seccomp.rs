//! The seccomp profile that Docker gives to every container, as the bundle's `linux.seccomp`:
//! whatever is not allowed fails with EPERM.
//!
//! The names are in `seccomp.txt`; the few rules on arguments are here. runc skips names that its
//! libseccomp does not know.

use serde_json::{Value, json};

const TABLE: &str = include_str!("seccomp.txt");

/// Address families that a container may open sockets of: all below 12 and these. What is left
/// out has no use in a container and a history of holes (AF_ALG, AF_VSOCK, AF_CAIF…).
const SOCKET_FAMILIES: [u32; 24] = [
    13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44,
];
const SOCKET_FAMILY_LAST: u32 = 45;

/// Personalities that change nothing of the security: Linux, 32-bit uname, UNAME26, and "tell".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `CLONE_NEW*`: clone may make processes and threads, never namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The profile for a container that may have the capabilities `bounding` on processor `arch`
/// (as `std::env::consts::ARCH` names it).
pub(super) fn profile(bounding: &[String], arch: &str) -> Value {
    let allowed = allowed(bounding, arch);
    let mut rules = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    let mut when = |name: &str, value: u64, op: &str| {
        let args = json!([{"index": 0, "value": value, "op": op}]);
        rules.push(json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args}));
    };
    when("socket", 12, "SCMP_CMP_LT");
    for family in SOCKET_FAMILIES.into_iter().chain([SOCKET_FAMILY_LAST]) {
        when("socket", u64::from(family), "SCMP_CMP_EQ");
    }
    for personality in PERSONALITIES {
        when("personality", personality, "SCMP_CMP_EQ");
    }
    if !bounding.iter().any(|cap| cap == "CAP_SYS_ADMIN") {
        let args = json!([{
            "index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"
        }]);
        rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": args}));
        // Its flags are behind a pointer, which a filter cannot follow: "not there" makes
        // programs use clone.
        let enosys = nix::libc::ENOSYS;
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": enosys}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": nix::libc::EPERM,
        "architectures": architectures(arch),
        "syscalls": rules,
    })
}

/// A processor's own calls and those of the ones it also runs.
fn architectures(arch: &str) -> &'static [&'static str] {
    match arch {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "arm" => &["SCMP_ARCH_ARM"],
        "x86" => &["SCMP_ARCH_X86"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        _ => &[],
    }
}

fn allowed(bounding: &[String], arch: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut applies = false;
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if line.starts_with(' ') {
            if applies {
                names.extend(line.split_whitespace());
            }
            continue;
        }
        let mut words = line.split_whitespace();
        applies = match words.next() {
            Some("cap") => words.all(|cap| bounding.iter().any(|have| have == cap)),
            Some("arch") => words.any(|name| name == arch),
            _ => true,
        };
    }
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold() {
        let none: &[String] = &[];
        let admin = ["CAP_SYS_ADMIN".to_owned()];
        assert!(allowed(none, "x86_64").contains(&"arch_prctl"));
        assert!(!allowed(none, "aarch64").contains(&"arch_prctl"));
        for name in ["mount", "unshare", "bpf", "clone3", "open_by_handle_at", "keyctl"] {
            assert!(!allowed(none, "x86_64").contains(&name), "{name}");
        }
        for name in ["mount", "unshare", "bpf", "clone3"] {
            assert!(allowed(&admin, "x86_64").contains(&name), "{name}");
        }
        assert!(allowed(none, "x86_64").len() > 350);
    }

    #[test]
    fn without_the_capability_clone_makes_no_namespaces() {
        let text = profile(&[], "x86_64").to_string();
        assert!(text.contains("SCMP_CMP_MASKED_EQ") && text.contains("\"errnoRet\":38"));
        let text = profile(&["CAP_SYS_ADMIN".to_owned()], "x86_64").to_string();
        assert!(!text.contains("SCMP_CMP_MASKED_EQ"));
    }
}
