//! Which platforms a node runs (containerd `platforms.Only`; `host::images` picks an image's
//! manifest by the same rules).

use super::constraint::normal_arch;
use crate::model::node::Platform;

/// Whether the node runs what is made for `wanted`. What `wanted` leaves open fits: Docker names no
/// variants, and no architecture for an image for ARM.
pub(super) fn runs(has: &Platform, wanted: &Platform) -> bool {
    let (has_arch, has_version) = parts(has);
    let (arch, version) = parts(wanted);
    let open = wanted.variant.is_empty();
    let same_os = wanted.os.is_empty() || wanted.os.eq_ignore_ascii_case(&has.os);
    same_os
        && match (has_arch, arch) {
            (_, "") => true,
            // A 64-bit ARM runs programs for every 32-bit one.
            ("arm64", "arm") => open || version.is_some(),
            ("arm", "arm") => open || version.is_some_and(|it| Some(it) <= has_version),
            ("amd64", "386") => true,
            (has_arch, arch) => {
                has_arch == arch && (open || version.is_some_and(|it| Some(it) <= has_version))
            }
        }
}

/// Architecture in one word, and the number of its variant: what has none is the first of its
/// kind, but for `arm` it is 7. `None` for a variant that nobody knows.
fn parts(platform: &Platform) -> (&str, Option<u8>) {
    let arch = normal_arch(&platform.arch);
    let number = platform.variant.trim_start_matches(['v', 'V']);
    let version = match (arch, number) {
        ("arm", "") => Some(7),
        ("arm", "5") => Some(5),
        ("arm", "6") => Some(6),
        ("arm", "7") => Some(7),
        ("arm" | "arm64", "8") | ("arm64", "") => Some(8),
        (_, "") => Some(1),
        (_, number) => number.parse().ok(),
    };
    (arch, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), arch: next(), variant: next() }
    }

    #[test]
    fn a_node_runs_its_own_kind_and_what_came_before() {
        for (has, wanted, fits) in [
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/aarch64", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/arm64/v9", false),
            ("linux/arm64/v8", "linux/arm64/x", false),
            ("linux/arm64/v8", "linux/arm/x", false),
            ("linux/arm64/v8", "linux/arm/v8", true),
            ("linux/arm64/v8", "linux/arm/v7", true),
            ("linux/arm64/v8", "linux/arm/v6", true),
            ("linux/arm64/v8", "linux/arm/v5", true),
            ("linux/arm64/v8", "linux/arm", true),
            ("linux/arm/v7", "linux/arm64", false),
            ("linux/arm/v7", "linux/arm/v8", false),
            ("linux/arm/v7", "linux/arm/v7", true),
            ("linux/arm/v7", "linux/arm/v6", true),
            ("linux/arm/v7", "linux/arm/v5", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm/v6", "linux/arm/v6", true),
            ("linux/arm/v6", "linux/arm", true),
            ("linux/arm", "linux/arm/v7", true),
            ("linux/arm/v7", "linux/arm/x", false),
            ("linux/amd64", "linux/x86_64", true),
            ("linux/amd64", "linux/386", true),
            ("linux/386", "linux/amd64", false),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "linux/amd64/v3", false),
            ("linux/amd64/v3", "linux/amd64/v2", true),
            ("linux/amd64", "linux/arm64", false),
            ("linux/riscv64", "linux/riscv64", true),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "windows", false),
            ("linux/amd64", "/amd64", true),
            ("linux/amd64", "linux", true),
            ("linux/amd64", "", true),
            ("", "linux/amd64", false),
        ] {
            assert_eq!(runs(&platform(has), &platform(wanted)), fits, "{wanted} on {has}");
        }
    }
}
