//! Which of an index's manifests runs on this machine: an ARM machine runs what is made for its
//! own version and every older one, best match first.

use std::fmt;

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

/// A kind of machine in OCI's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, `arm`.
    #[serde(default)]
    pub architecture: String,
    /// `v6`, `v7`, `v8` or nothing.
    #[serde(default)]
    pub variant: String,
}

impl Platform {
    /// A Linux machine.
    #[must_use]
    pub fn linux(architecture: &str, variant: &str) -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// From `OS/ARCHITECTURE[/VARIANT]`, in OCI's words or the kernel's; `ARCHITECTURE` alone is Linux's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (first, second, variant) = (parts.next()?, parts.next(), parts.next());
        let (os, architecture) = second.map_or(("linux", first), |second| (first, second));
        let given = [Some(os), Some(architecture), variant];
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if parts.next().is_some() || !given.into_iter().flatten().all(is_word) {
            return None;
        }
        let os = os.to_ascii_lowercase();
        let architecture = architecture.to_ascii_lowercase();
        match variant {
            Some(variant) => Some(Self { os, architecture, variant: variant.to_ascii_lowercase() }),
            None => Some(Self { os, architecture, variant: String::new() }.in_oci_words()),
        }
    }

    /// This machine, as its kernel calls it.
    #[must_use]
    pub fn host() -> Self {
        let machine = uname().ok().map(|name| name.machine().to_string_lossy().into_owned());
        Self::of_machine(machine.as_deref().unwrap_or(std::env::consts::ARCH))
    }

    /// The same machine in OCI's words, if it was named in the kernel's.
    #[must_use]
    pub fn in_oci_words(self) -> Self {
        match Self::of_machine(&self.architecture) {
            known if known.architecture != self.architecture => known,
            _ => self,
        }
    }

    /// From the kernel's word for a machine.
    fn of_machine(machine: &str) -> Self {
        match machine {
            "x86_64" => Self::linux("amd64", ""),
            "aarch64" => Self::linux("arm64", "v8"),
            "i386" | "i486" | "i586" | "i686" => Self::linux("386", ""),
            arm if arm.starts_with("armv6") => Self::linux("arm", "v6"),
            arm if arm.starts_with("armv5") => Self::linux("arm", "v5"),
            arm if arm.starts_with("armv") => Self::linux("arm", "v7"),
            other => Self::linux(other, ""),
        }
    }

    /// How well an image for `image` runs here: 0 is best, none is not at all.
    #[must_use]
    pub fn rank(&self, image: &Self) -> Option<usize> {
        if self.os != image.os {
            return None;
        }
        let image = image.normalised();
        self.runs().iter().position(|(architecture, variant)| {
            *architecture == image.architecture && *variant == image.variant
        })
    }

    /// What runs here, best first.
    fn runs(&self) -> Vec<(&str, &str)> {
        let arm = [("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")];
        let own = self.normalised();
        match (own.architecture.as_str(), own.variant.as_str()) {
            ("arm64", _) => [&[("arm64", "")], &arm[..]].concat(),
            ("arm", "v8") => arm.to_vec(),
            ("arm", "v7") => arm[1..].to_vec(),
            ("arm", "v6") => arm[2..].to_vec(),
            ("arm", _) => arm[3..].to_vec(),
            ("amd64", _) => vec![("amd64", ""), ("386", "")],
            _ => vec![(self.architecture.as_str(), self.variant.as_str())],
        }
    }

    /// The default variant of each architecture is left out, and ARM's is written out.
    fn normalised(&self) -> Self {
        let variant = match (self.architecture.as_str(), self.variant.as_str()) {
            ("arm64", "v8" | "8") | ("amd64", "v1") => "",
            ("arm", "" | "7") => "v7",
            ("arm", "5") => "v5",
            ("arm", "6") => "v6",
            ("arm", "8") => "v8",
            (_, variant) => variant,
        };
        Self { variant: variant.to_owned(), ..self.clone() }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(host: (&str, &str), offered: &[(&str, &str)]) -> Option<usize> {
        let host = Platform::linux(host.0, host.1);
        (0..offered.len())
            .filter_map(|i| Some((host.rank(&Platform::linux(offered[i].0, offered[i].1))?, i)))
            .min()
            .map(|(_, i)| i)
    }

    #[test]
    fn platforms_are_read() {
        for (text, want) in [
            ("linux/amd64", Some("linux/amd64")),
            ("linux/arm/v7", Some("linux/arm/v7")),
            ("Linux/x86_64", Some("linux/amd64")),
            ("arm64", Some("linux/arm64")),
            ("linux/arm/v7/x", None),
            ("linux/", None),
            ("", None),
            ("linux/a b", None),
        ] {
            let read = Platform::parse(text).map(|platform| platform.to_string());
            assert_eq!(read.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn arm_runs_its_own_and_older_versions() {
        let all = [("amd64", ""), ("arm", "v5"), ("arm", "v6"), ("arm", "v7"), ("arm64", "v8")];
        assert_eq!(best(("arm64", "v8"), &all), Some(4));
        assert_eq!(best(("arm64", ""), &all[..4]), Some(3));
        assert_eq!(best(("arm", "v7"), &all), Some(3));
        assert_eq!(best(("arm", "v7"), &all[..3]), Some(2));
        assert_eq!(best(("arm", "v6"), &all), Some(2));
        assert_eq!(best(("arm", "v6"), &[("arm", "v7"), ("arm64", "")]), None);
        assert_eq!(best(("arm", "v6"), &[("arm", "")]), None, "no variant means v7");
        assert_eq!(best(("arm", "v7"), &[("arm", "")]), Some(0));
        assert_eq!(best(("amd64", ""), &[("386", ""), ("amd64", "v1")]), Some(1));
        assert_eq!(best(("amd64", ""), &[("amd64", "v3")]), None);
        let windows = Platform { os: "windows".to_owned(), ..Platform::linux("amd64", "") };
        assert_eq!(Platform::linux("amd64", "").rank(&windows), None);
    }

    #[test]
    fn the_kernels_words_are_known() {
        assert_eq!(Platform::of_machine("armv6l").to_string(), "linux/arm/v6");
        assert_eq!(Platform::of_machine("armv7l").to_string(), "linux/arm/v7");
        assert_eq!(Platform::of_machine("aarch64").to_string(), "linux/arm64/v8");
        assert_eq!(Platform::of_machine("x86_64").to_string(), "linux/amd64");
        let words = |architecture, variant| Platform::linux(architecture, variant).in_oci_words();
        assert_eq!(words("aarch64", "").to_string(), "linux/arm64/v8");
        assert_eq!(words("armv6l", "").to_string(), "linux/arm/v6");
        assert_eq!(words("arm", "v6").to_string(), "linux/arm/v6");
        assert_eq!(words("arm64", "").to_string(), "linux/arm64");
        assert_eq!(words("amd64", "").to_string(), "linux/amd64");
    }
}
