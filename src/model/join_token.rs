//! The join token: `SWMTKN-1-<digest of the root>-<secret>`, in swarm's form.
//!
//! The digest pins the cluster's root certificate, so that a joining node knows whom it talks to
//! before it tells the secret; the secret says that it may join, and as what. Both are base 36 with
//! a fixed width (50 and 25 digits). Not here: which secrets a cluster has.

use std::fmt;
use std::str::FromStr;

use crate::base::id::{ID_CHARS, Id};

/// What every token begins with; the 1 is the version of its form.
const PREFIX: &str = "SWMTKN-1-";

/// Digits of the root's digest.
const DIGEST_CHARS: usize = 50;

/// Digits of the secret.
const SECRET_CHARS: usize = ID_CHARS;

/// Characters of a token.
pub const JOIN_TOKEN_CHARS: usize = PREFIX.len() + DIGEST_CHARS + 1 + SECRET_CHARS;

/// sha256 of the root certificate (DER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootDigest(pub [u8; 32]);

/// The half of a token that lets a node in: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JoinSecret(pub u128);

impl fmt::Debug for JoinSecret {
    /// Without the bits: what is logged is read by others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret")
    }
}

/// A whole token. Its text is shown by `Display` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Which root the managers' certificates hang on.
    pub root: RootDigest,
    /// What lets a node in.
    pub secret: JoinSecret,
}

/// Why a text is no join token, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJoinToken {
    /// It begins with something else.
    #[error("invalid join token: it does not begin with {PREFIX} ({HELP})")]
    Prefix,
    /// Part of it is missing.
    #[error(
        "invalid join token: {have} characters, {JOIN_TOKEN_CHARS} are needed: its end is missing ({HELP})"
    )]
    Truncated {
        /// Characters that are there.
        have: usize,
    },
    /// Something follows its end.
    #[error(
        "invalid join token: {have} characters, {JOIN_TOKEN_CHARS} are needed: something follows its end ({HELP})"
    )]
    TooLong {
        /// Characters that are there.
        have: usize,
    },
    /// A character that no token has at this place.
    #[error(
        "invalid join token: {character:?} at place {place}: 0-9 and a-z in two parts are needed ({HELP})"
    )]
    Character {
        /// The first such character.
        character: char,
        /// Where, counted from 1.
        place: usize,
    },
    /// The digits are a number that is too large.
    #[error("invalid join token: no cluster has made it ({HELP})")]
    Range,
}

/// What to do about a bad token.
const HELP: &str = "copy it whole from what `skep join-token worker` or `skep join-token manager` \
                    prints on a manager";

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        for digit in digest_digits(self.root.0) {
            fmt::Write::write_char(f, char::from(digit))?;
        }
        write!(f, "-{}", Id(self.secret.0))
    }
}

impl FromStr for JoinToken {
    type Err = BadJoinToken;

    fn from_str(text: &str) -> Result<Self, BadJoinToken> {
        let Some(rest) = text.strip_prefix(PREFIX) else {
            // A text that ends within the prefix is a cut token too.
            let cut = !text.is_empty() && PREFIX.starts_with(text);
            return Err(if cut {
                BadJoinToken::Truncated { have: text.len() }
            } else {
                BadJoinToken::Prefix
            });
        };
        let odd = rest.chars().enumerate().find(|(place, character)| match *place {
            DIGEST_CHARS => *character != '-',
            _ => !matches!(character, '0'..='9' | 'a'..='z'),
        });
        let have = text.chars().count();
        match odd {
            Some((place, character)) if place < JOIN_TOKEN_CHARS - PREFIX.len() => {
                let place = PREFIX.len() + place + 1;
                return Err(BadJoinToken::Character { character, place });
            }
            Some(_) | None => {}
        }
        if have > JOIN_TOKEN_CHARS {
            return Err(BadJoinToken::TooLong { have });
        }
        let (Some(digest), Some(secret)) = (rest.get(..DIGEST_CHARS), rest.get(DIGEST_CHARS + 1..))
        else {
            return Err(BadJoinToken::Truncated { have });
        };
        if secret.len() < SECRET_CHARS {
            return Err(BadJoinToken::Truncated { have });
        }
        let root = digest_of(digest).map(RootDigest).ok_or(BadJoinToken::Range)?;
        let Id(secret) = secret.parse().map_err(|_too_large| BadJoinToken::Range)?;
        Ok(Self { root, secret: JoinSecret(secret) })
    }
}

/// The digest's digits, most significant first, by long division.
fn digest_digits(mut number: [u8; 32]) -> [u8; DIGEST_CHARS] {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut out = [b'0'; DIGEST_CHARS];
    for place in out.iter_mut().rev() {
        let mut rest = 0u16;
        for byte in &mut number {
            let value = rest << 8 | u16::from(*byte);
            *byte = u8::try_from(value / 36).unwrap_or(u8::MAX);
            rest = value % 36;
        }
        *place = DIGITS[usize::from(rest)];
    }
    out
}

/// The number that base 36 digits tell; `None` above 256 bits.
fn digest_of(digits: &str) -> Option<[u8; 32]> {
    let mut number = [0u8; 32];
    for digit in digits.chars() {
        let mut carry = digit.to_digit(36)?;
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = u8::try_from(value & 0xff).unwrap_or(u8::MAX);
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A token as Docker's documentation shows one.
    const DOCKERS: &str =
        "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-1awxwuwd3z9j1z3puu7rcgdbx";

    #[test]
    fn tokens_are_frozen() {
        for (root, secret, text) in [
            ([0; 32], 0, format!("SWMTKN-1-{}-{}", "0".repeat(50), "0".repeat(25))),
            (
                [0xff; 32],
                u128::MAX,
                "SWMTKN-1-6dp5qcb22im238nr3wvp0ic7q99w035jmy2iw7i6n43d37jtof-f5lxx1zz5pnorynqglhzmsp33".into(),
            ),
        ] {
            let token = JoinToken { root: RootDigest(root), secret: JoinSecret(secret) };
            assert_eq!(token.to_string(), text);
            assert_eq!(text.parse(), Ok(token));
        }
        let token: JoinToken = DOCKERS.parse().unwrap();
        assert_eq!(token.to_string(), DOCKERS);
        assert_eq!(DOCKERS.len(), JOIN_TOKEN_CHARS);
        assert_eq!(format!("{token:?}").matches("JoinSecret").count(), 1);
        assert!(!format!("{token:?}").contains(&token.secret.0.to_string()));
    }

    #[test]
    fn each_mistake_is_told() {
        let with = |from: &str, to: &str| DOCKERS.replacen(from, to, 1);
        for (text, error) in [
            (String::new(), BadJoinToken::Prefix),
            ("pi-1:2377".into(), BadJoinToken::Prefix),
            (with("SWMTKN-1", "SWMTKN-2-1"), BadJoinToken::Prefix),
            (with("SWMTKN", "swmtkn"), BadJoinToken::Prefix),
            ("SWMTK".into(), BadJoinToken::Truncated { have: 5 }),
            (DOCKERS[..JOIN_TOKEN_CHARS - 1].into(), BadJoinToken::Truncated { have: 84 }),
            (DOCKERS[..59].into(), BadJoinToken::Truncated { have: 59 }),
            (format!("{DOCKERS}x"), BadJoinToken::TooLong { have: 86 }),
            (format!("{DOCKERS}\n"), BadJoinToken::TooLong { have: 86 }),
            (with("3pu", "3pU"), BadJoinToken::Character { character: 'U', place: 12 }),
            (with("kl-1a", "kl_1a"), BadJoinToken::Character { character: '_', place: 60 }),
            (with("3pu", "3é"), BadJoinToken::Character { character: 'é', place: 11 }),
            (format!("SWMTKN-1-{}-{}", "z".repeat(50), "0".repeat(25)), BadJoinToken::Range),
            (format!("SWMTKN-1-{}-{}", "0".repeat(50), "z".repeat(25)), BadJoinToken::Range),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
            assert!(error.to_string().contains("join-token worker"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(root in any::<[u8; 32]>(), secret in any::<u128>()) {
            let token = JoinToken { root: RootDigest(root), secret: JoinSecret(secret) };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn any_text_is_refused_or_says_the_same_again(text in "(SWMTKN-1-)?[0-9a-z-]{0,80}") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
