//! Just enough DER (X.690) to read what certificates and requests of nodes say.
//!
//! Not a verifier: `webpki` checks certificates before they are read here. Every length is checked
//! against the bytes that are there; what has an unexpected tag is an error, nothing is skipped
//! that is not named.

use std::ops::RangeInclusive;

use crate::base::time::Wall;
use crate::model::validity::Validity;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, constructed: a certificate's version, a request's attributes.
const CONTEXT_0: u8 = 0xa0;

/// An `AlgorithmIdentifier` and the head of the bit string, for an uncompressed point on P-256
/// (RFC 5480 section 2): what every key of a node begins with.
const P256_HEAD: [u8; 24] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Bytes of an uncompressed point on P-256.
pub(super) const POINT_BYTES: usize = 65;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) subject: Subject,
    pub(super) validity: Validity,
}

/// The three names of a subject; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) common_name: String,
    pub(super) organization: String,
    pub(super) unit: String,
}

/// A certificate request, its signature not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawRequest<'a> {
    /// What is signed.
    pub(super) signed: &'a [u8],
    /// The public key: a point on P-256.
    pub(super) point: &'a [u8; POINT_BYTES],
    pub(super) signature: &'a [u8],
}

/// Reads a certificate (RFC 5280 section 4.1).
pub(super) fn certificate(bytes: &[u8]) -> Option<Told> {
    let mut outer = Reader(bytes).nested(SEQUENCE)?;
    let mut signed = outer.nested(SEQUENCE)?;
    signed.value(CONTEXT_0)?;
    signed.value(INTEGER)?;
    signed.value(SEQUENCE)?;
    signed.value(SEQUENCE)?;
    let mut dates = signed.nested(SEQUENCE)?;
    let validity = Validity { not_before: dates.date()?, not_after: dates.date()? };
    let subject = subject(signed.nested(SEQUENCE)?)?;
    Some(Told { subject, validity })
}

/// The key that a certificate is for: a point on P-256.
pub(super) fn point(bytes: &[u8]) -> Option<&[u8; POINT_BYTES]> {
    let mut signed = Reader(bytes).nested(SEQUENCE)?.nested(SEQUENCE)?;
    signed.value(CONTEXT_0)?;
    signed.value(INTEGER)?;
    for _algorithm_issuer_dates_subject in 0..4 {
        signed.value(SEQUENCE)?;
    }
    signed.value(SEQUENCE)?.strip_prefix(&P256_HEAD)?.try_into().ok()
}

/// Reads a certificate request (RFC 2986 section 4.2); `None` also where its key is not on P-256.
pub(super) fn request(bytes: &[u8]) -> Option<RawRequest<'_>> {
    let mut whole = Reader(bytes);
    let mut outer = whole.nested(SEQUENCE)?;
    let before = outer.0;
    let mut info = outer.nested(SEQUENCE)?;
    let signed = before.get(..before.len() - outer.0.len())?;
    info.value(INTEGER)?;
    info.value(SEQUENCE)?;
    let point = info.value(SEQUENCE)?.strip_prefix(&P256_HEAD)?;
    info.value(CONTEXT_0)?;
    outer.value(SEQUENCE)?;
    let signature = outer.value(BIT_STRING)?.strip_prefix(&[0])?;
    let over = whole.0.is_empty() && outer.0.is_empty() && info.0.is_empty();
    over.then_some(RawRequest { signed, point: point.try_into().ok()?, signature })
}

fn subject(mut names: Reader<'_>) -> Option<Subject> {
    let mut subject = Subject::default();
    while !names.0.is_empty() {
        let mut name = names.nested(SET)?.nested(SEQUENCE)?;
        let kind = name.value(OID)?;
        let (tag, value) = name.any()?;
        if !matches!(tag, UTF8_STRING | PRINTABLE_STRING) {
            return None;
        }
        let field = match kind {
            [0x55, 0x04, 0x03] => &mut subject.common_name,
            [0x55, 0x04, 0x0a] => &mut subject.organization,
            [0x55, 0x04, 0x0b] => &mut subject.unit,
            _ => return None,
        };
        // Two of a kind: nobody here has made this.
        if !field.is_empty() {
            return None;
        }
        field.push_str(std::str::from_utf8(value).ok()?);
    }
    Some(subject)
}

/// What is left to be read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next value and its tag.
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => {
                let (&length, rest) = rest.split_first()?;
                (usize::from(length), rest)
            }
            0x82 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            // More than 64 KiB, or of no definite length: not for here.
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn value(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, value) = self.any()?;
        (found == tag).then_some(value)
    }

    fn nested(&mut self, tag: u8) -> Option<Self> {
        self.value(tag).map(Self)
    }

    /// A date: UTCTime up to 2049, GeneralizedTime from 2050 (RFC 5280 section 4.1.2.5).
    fn date(&mut self) -> Option<Wall> {
        let (tag, text) = self.any()?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let year = digits(text.get(..2)?, 0..=99)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
            }
            GENERALIZED_TIME => (digits(text.get(..4)?, 0..=9999)?, text.get(4..)?),
            _ => return None,
        };
        let &[m0, m1, d0, d1, h0, h1, i0, i1, s0, s1, b'Z'] = rest else { return None };
        let month = digits(&[m0, m1], 1..=12)?;
        let day = digits(&[d0, d1], 1..=31)?;
        let hour = digits(&[h0, h1], 0..=23)?;
        let minute = digits(&[i0, i1], 0..=59)?;
        let second = digits(&[s0, s1], 0..=59)?;
        // Before 1970 is 1970.
        let days = days(year, month, day).unwrap_or(0);
        Some(Wall((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000))
    }
}

fn digits(text: &[u8], range: RangeInclusive<u64>) -> Option<u64> {
    let add = |value: u64, digit: &u8| {
        digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0'))
    };
    text.iter().try_fold(0, add).filter(|value| range.contains(value))
}

/// Days since 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `days_from_civil`); `None` before it.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, yoe) = (year / 400, year % 400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    (era * 146_097 + doe).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(tag: u8, text: &str) -> Option<String> {
        let mut bytes = vec![tag, u8::try_from(text.len()).unwrap()];
        bytes.extend_from_slice(text.as_bytes());
        Reader(&bytes).date().map(|wall| wall.to_string())
    }

    #[test]
    fn dates_of_both_forms() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some("1970-01-01T00:00:00Z")),
            (UTC_TIME, "000229235959Z", Some("2000-02-29T23:59:59Z")),
            (UTC_TIME, "491231235959Z", Some("2049-12-31T23:59:59Z")),
            (UTC_TIME, "500101000000Z", Some("1970-01-01T00:00:00Z")),
            (GENERALIZED_TIME, "99991231000000Z", Some("9999-12-31T00:00:00Z")),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "70010100000Z", None),
            (UTC_TIME, "7001010000000", None),
            (UTC_TIME, "7a0101000000Z", None),
            (INTEGER, "700101000000Z", None),
        ] {
            assert_eq!(date(tag, text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(Reader(&[SEQUENCE, 2, 1]).any(), None);
        assert_eq!(Reader(&[SEQUENCE, 0x81]).any(), None);
        assert_eq!(Reader(&[SEQUENCE, 0x82, 1]).any(), None);
        assert_eq!(Reader(&[SEQUENCE, 0x80, 0, 0]).any(), None);
        assert_eq!(Reader(&[SEQUENCE, 0x81, 1, 7]).any(), Some((SEQUENCE, &[7][..])));
        assert_eq!(Reader(&[SEQUENCE, 0x82, 0, 1, 7]).any(), Some((SEQUENCE, &[7][..])));
    }
}
