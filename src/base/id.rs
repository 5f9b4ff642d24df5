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
    /// One request to the manager; a retry carries the same one.
    RequestId,
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
}
