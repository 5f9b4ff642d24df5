//! The key that an operator types to unlock a manager, `SWMKEY-1-<base64 of 32 bytes>` in swarm's form, and
//! the record of it in the store.
//!
//! The record is a resource beside the cluster's trust, so that every manager learns of a change with its
//! log. Not here: what the key seals (`host::vault`).
//!
//! **Invariant:** a key is shown by `Display` alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::wire::{self, Kind, WireError};

/// The resource's kind: it is a part of the cluster's trust.
pub const RESOURCE_KIND: &str = super::cluster_trust::RESOURCE_KIND;

/// The resource's name.
pub const RESOURCE_NAME: &str = "unlock-key";

/// What every key begins with; the 1 is the version of its form.
const PREFIX: &str = "SWMKEY-1-";

/// Digits of 32 bytes in base64 without padding.
const DIGITS: usize = 43;

/// The letters of base64 (RFC 4648 section 4).
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const VERSION: u16 = 1;

/// The largest record, in bytes.
const RECORD_BYTES_MAX: usize = 1 << 10;

/// The key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockKey(pub [u8; 32]);

/// A text is no unlock key. Docker does not say what is wrong with it, and neither does this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid key provided")]
pub struct BadUnlockKey;

impl fmt::Debug for UnlockKey {
    /// Without the key: what is logged is read by others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey")
    }
}

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        for place in 0..DIGITS {
            fmt::Write::write_char(f, char::from(LETTERS[usize::from(self.digit(place))]))?;
        }
        Ok(())
    }
}

impl UnlockKey {
    /// Six bits, most significant first; what is missing at the end is zero.
    fn digit(&self, place: usize) -> u8 {
        let (byte, bit) = (place * 6 / 8, place * 6 % 8);
        let at = |n: usize| u16::from(self.0.get(n).copied().unwrap_or(0));
        let both = at(byte) << 8 | at(byte + 1);
        u8::try_from(both >> (10 - bit) & 63).unwrap_or(0)
    }
}

impl FromStr for UnlockKey {
    type Err = BadUnlockKey;

    /// Takes exactly what `Display` gives.
    fn from_str(text: &str) -> Result<Self, BadUnlockKey> {
        let digits = text.strip_prefix(PREFIX).ok_or(BadUnlockKey)?.as_bytes();
        let mut key = Self([0; 32]);
        for (place, digit) in digits.iter().enumerate().take(DIGITS) {
            let value = LETTERS.iter().position(|it| it == digit).ok_or(BadUnlockKey)?;
            let value = u16::try_from(value).map_err(|_range| BadUnlockKey)?;
            let (byte, bit) = (place * 6 / 8, place * 6 % 8);
            for (at, bits) in [(byte, value << (10 - bit) >> 8), (byte + 1, value << (10 - bit))] {
                if let Some(to) = key.0.get_mut(at) {
                    *to |= bits.to_le_bytes()[0];
                }
            }
        }
        // Two bits of the last digit name nothing: one key has one text.
        if key.to_string() == text { Ok(key) } else { Err(BadUnlockKey) }
    }
}

/// Whether managers lock themselves, as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autolock {
    /// The key of all managers; none while they need none.
    pub key: Option<UnlockKey>,
}

impl Autolock {
    /// For the store.
    ///
    /// # Errors
    /// Never for a record of this shape.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(Kind::AUTOLOCK, VERSION, self, RECORD_BYTES_MAX)
    }

    /// From the store.
    ///
    /// # Errors
    /// When this release does not know its version, or it has another shape.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (frame, _rest) = wire::split(bytes, RECORD_BYTES_MAX)?;
        frame.decode(Kind::AUTOLOCK, VERSION)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key as Docker printed one.
    const DOCKERS: &str = "SWMKEY-1-nDSDeJjKkoYYdXVXNylmKZJHMJ4bS4SWNORlzLujPU4";

    #[test]
    fn keys_are_frozen() {
        let key: UnlockKey = DOCKERS.parse().unwrap();
        assert_eq!(key.0[..6], [0x9c, 0x34, 0x83, 0x78, 0x98, 0xca]);
        assert_eq!(key.0[30..], [0x3d, 0x4e]);
        assert_eq!(key.to_string(), DOCKERS);
        let ones = format!("SWMKEY-1-{}8", "/".repeat(42));
        assert_eq!(UnlockKey([0xff; 32]).to_string(), ones);
        assert_eq!(format!("{key:?}"), "UnlockKey");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "SWMKEY-1-",
            "SWMTKN-1-nDSDeJjKkoYYdXVXNylmKZJHMJ4bS4SWNORlzLujPU4",
            "SWMKEY-2-nDSDeJjKkoYYdXVXNylmKZJHMJ4bS4SWNORlzLujPU4",
            &DOCKERS[..DOCKERS.len() - 1],
            &format!("{DOCKERS}A"),
            &format!("{DOCKERS}="),
            &format!("{DOCKERS}\n"),
            &DOCKERS.replace('Y', "_"),
            // The same bytes, told in another way.
            &DOCKERS.replace("PU4", "PU5"),
        ] {
            assert_eq!(text.parse::<UnlockKey>(), Err(BadUnlockKey), "{text}");
        }
    }

    #[test]
    fn the_record_is_frozen() {
        let records = [Autolock { key: None }, Autolock { key: Some(UnlockKey([0x11; 32])) }];
        let mut text = String::new();
        for record in records {
            let bytes = record.encode().unwrap();
            text += &bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            text.push('\n');
            assert_eq!(Autolock::decode(&bytes), Ok(record));
            assert!(Autolock::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        expect_test::expect_file!["../../tests/data/wire/autolock-1.hex"].assert_eq(&text);
    }

    proptest! {
        #[test]
        fn keys_round_trip(bytes in any::<[u8; 32]>()) {
            let key = UnlockKey(bytes);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn no_text_breaks_it(text in "(SWMKEY-1-)?[0-9A-Za-z+/=é]{0,50}") {
            if let Ok(key) = text.parse::<UnlockKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
