//! Object ids in Docker's form: 128 random bits, shown as 25 digits of base 36.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Digits of a shown id.
pub const ID_CHARS: usize = 25;

/// Digits of an id in a table that cuts ids.
pub const ID_CHARS_SHORT: usize = 12;

/// 128 random bits. The kinds below give it a meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id(pub u128);

/// The text is not an id of 25 digits of base 36.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: 25 characters of 0-9 and a-z are needed")]
pub struct BadId;

impl Id {
    /// The digits, most significant first, padded with `0`.
    fn digits(self) -> [u8; ID_CHARS] {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut rest = self.0;
        let mut out = [b'0'; ID_CHARS];
        for place in out.iter_mut().rev() {
            *place = DIGITS[usize::try_from(rest % 36).unwrap_or(0)];
            rest /= 36;
        }
        out
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.digits()).unwrap_or(""))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        if text.len() != ID_CHARS {
            return Err(BadId);
        }
        let mut value = 0u128;
        for byte in text.bytes() {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'z' => byte - b'a' + 10,
                _ => return Err(BadId),
            };
            let next = value.checked_mul(36).and_then(|v| v.checked_add(u128::from(digit)));
            value = next.ok_or(BadId)?;
        }
        Ok(Self(value))
    }
}

macro_rules! id_kind {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Id);

        impl $name {
            /// From 128 random bits.
            #[must_use]
            pub const fn new(bits: u128) -> Self {
                Self(Id(bits))
            }

            /// The first 12 digits, as tables show them.
            #[must_use]
            pub fn short(self) -> String {
                let mut text = self.to_string();
                text.truncate(ID_CHARS_SHORT);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                text.parse().map(Self)
            }
        }
    )* };
}

id_kind! {
    /// A cluster.
    ClusterId,
    /// A machine that takes part.
    NodeId,
    /// A service.
    ServiceId,
    /// One task of a service; also the name of its container.
    TaskId,
    /// A network.
    NetworkId,
    /// A secret.
    SecretId,
    /// A config.
    ConfigId,
    /// An object of a kind that only others know.
    ResourceId,
    /// One request to the manager; a retry carries the same one.
    RequestId,
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the result hangs on every
/// bit of `x`.
const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl TaskId {
    /// The id of this task's `n`th successor, the same wherever it is asked for: so a worker that is
    /// cut off and the managers, who do not hear of each other, name it alike.
    ///
    /// Four rounds of a Feistel network (Luby and Rackoff 1988): for each `n` a permutation of all
    /// ids, so two tasks never have one `n`th successor. The formula is frozen: it is in the log.
    #[must_use]
    pub fn successor(self, n: u32) -> Self {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        const HALF: u32 = u64::BITS;
        let bits = self.0.0;
        let mut high = u64::try_from(bits >> HALF).unwrap_or(0);
        let mut low = u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
        let mut key = u64::from(n);
        for _ in 0..4 {
            key = mix(key.wrapping_add(GOLDEN));
            (high, low) = (low, high ^ mix(low.wrapping_add(key)));
        }
        Self::new(u128::from(high) << HALF | u128::from(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for bits in [0, 1, 35, 36, u128::MAX, 0x1234_5678_9abc_def0] {
            let id = TaskId::new(bits);
            assert_eq!(id.to_string().len(), ID_CHARS);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(TaskId::new(36).short().len(), ID_CHARS_SHORT);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "abc", "zzzzzzzzzzzzzzzzzzzzzzzzz", "ABCDEFGHIJKLMNOPQRSTUVWXY"] {
            assert_eq!(text.parse::<Id>(), Err(BadId), "{text}");
        }
    }

    #[test]
    fn successors_are_frozen_and_differ() {
        for (id, n, successor) in [
            (0, 0, "1pcy0la3d4nvhd7hkhnxn0rrh"),
            (0, 1, "9nf8ky7mmdo4ykkuhqnnzl2xm"),
            (1, 0, "f1acsylujqd985v28ndmeg3re"),
            (u128::MAX, u32::MAX, "c4uilks3w32wfaj3z0y0bf83j"),
        ] {
            assert_eq!(TaskId::new(id).successor(n).to_string(), successor, "{id} {n}");
        }
        let ids = [0, 1, 2, 1 << 64, 1 << 127, u128::MAX];
        let all: std::collections::BTreeSet<TaskId> = ids
            .into_iter()
            .map(TaskId::new)
            .flat_map(|id| [id, id.successor(0), id.successor(1), id.successor(0).successor(0)])
            .collect();
        assert_eq!(all.len(), ids.len() * 4);
    }
}
