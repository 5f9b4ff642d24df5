//! Messages that do not fit one datagram: cut, and joined again.
//!
//! The parts of a message are sealed one after the other, so the counter of the first names it.
//! A message that lacks a part is given up after [`WAIT`]; gossip says everything again.

use std::collections::BTreeMap;

use super::MESSAGE_BYTES_MAX;
use super::link::DATAGRAM_BYTES_MAX;
use super::seal::{HEAD_BYTES, Salt, TAG_BYTES};
use crate::base::time::{Span, Time};

/// How long a message may take to be whole.
const WAIT: Span = Span::from_secs(2);
/// Messages that are not whole, of all senders: at most 1 MiB. One more takes the place of the
/// oldest.
const JOINING_MAX: usize = 16;
/// The same of one sender, so that it does not take the place of all others'.
const JOINING_OF_SENDER_MAX: usize = 4;

/// Number and count, before the bytes of a part.
const PART_HEAD_BYTES: usize = 2;
/// Bytes of a message that fit one datagram whole.
pub(super) const WHOLE_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEAD_BYTES - TAG_BYTES;
const PART_BYTES: usize = WHOLE_BYTES_MAX - PART_HEAD_BYTES;
const PARTS_MAX: usize = MESSAGE_BYTES_MAX.div_ceil(PART_BYTES);
const _: () = assert!(PARTS_MAX <= u8::MAX as usize);

/// The parts of a message that is too long for one datagram, each with its head.
pub(super) fn cut(message: &[u8]) -> impl Iterator<Item = ([u8; PART_HEAD_BYTES], &[u8])> {
    let count = message.len().div_ceil(PART_BYTES);
    let numbers = 0u8..;
    let count = u8::try_from(count).unwrap_or(u8::MAX);
    numbers.zip(message.chunks(PART_BYTES)).map(move |(number, part)| ([number, count], part))
}

/// A message that is not whole yet.
struct Joining {
    parts: Vec<Option<Vec<u8>>>,
    since: Time,
}

/// Messages that are not whole yet, by sender and the counter of the first part.
#[derive(Default)]
pub(super) struct Parts(BTreeMap<(Salt, u64), Joining>);

/// What a part led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The message is whole.
    Whole(Vec<u8>),
    /// Others are awaited.
    NotYet,
    /// This is not a part of anything.
    Malformed,
}

impl Parts {
    /// Takes a part in: the datagram's sender, counter and text.
    pub(super) fn join(&mut self, now: Time, salt: Salt, counter: u64, text: &[u8]) -> Joined {
        self.0.retain(|_, joining| now.since(joining.since) <= WAIT);
        let Some((&[number, count], part)) = text.split_first_chunk::<PART_HEAD_BYTES>() else {
            return Joined::Malformed;
        };
        let (number, count) = (usize::from(number), usize::from(count));
        let last = number + 1 == count;
        let full = part.len() == PART_BYTES || (last && !part.is_empty());
        let Some(first) = counter.checked_sub(number as u64) else { return Joined::Malformed };
        if number >= count || !(2..=PARTS_MAX).contains(&count) || part.len() > PART_BYTES || !full
        {
            return Joined::Malformed;
        }
        let name = (salt, first);
        if !self.0.contains_key(&name) {
            self.make_room(salt);
        }
        let joining = self
            .0
            .entry(name)
            .or_insert_with(|| Joining { parts: vec![None; count], since: now });
        if joining.parts.len() != count {
            return Joined::Malformed;
        }
        joining.parts[number] = Some(part.to_owned());
        if joining.parts.iter().any(Option::is_none) {
            return Joined::NotYet;
        }
        let joining = self.0.remove(&name);
        let message: Vec<u8> =
            joining.into_iter().flat_map(|joining| joining.parts).flatten().flatten().collect();
        if message.len() > MESSAGE_BYTES_MAX {
            return Joined::Malformed;
        }
        Joined::Whole(message)
    }

    fn make_room(&mut self, salt: Salt) {
        let of_sender = || self.0.range((salt, 0)..=(salt, u64::MAX));
        let oldest = if of_sender().count() >= JOINING_OF_SENDER_MAX {
            of_sender().min_by_key(|(_, joining)| joining.since).map(|(name, _)| *name)
        } else if self.0.len() >= JOINING_MAX {
            self.0.iter().min_by_key(|(_, joining)| joining.since).map(|(name, _)| *name)
        } else {
            None
        };
        if let Some(name) = oldest {
            self.0.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000);

    fn salt(n: u8) -> Salt {
        Salt([n; 12])
    }

    fn message(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    /// The texts of the parts of a message.
    fn texts(message: &[u8]) -> Vec<Vec<u8>> {
        cut(message).map(|(head, part)| [&head, part].concat()).collect()
    }

    #[test]
    fn what_is_cut_is_joined_in_any_order() {
        for len in [PART_BYTES + 1, 2 * PART_BYTES, 10_000, MESSAGE_BYTES_MAX] {
            let message = message(len);
            let texts = texts(&message);
            assert!(texts.iter().all(|text| text.len() <= WHOLE_BYTES_MAX));
            let mut parts = Parts::default();
            for i in (1..texts.len()).rev() {
                let joined = parts.join(NOW, salt(1), 50 + i as u64, &texts[i]);
                assert_eq!(joined, Joined::NotYet);
            }
            assert_eq!(parts.join(NOW, salt(1), 50, &texts[0]), Joined::Whole(message));
            assert!(parts.0.is_empty());
        }
    }

    #[test]
    fn what_is_not_a_part_is_told() {
        let mut parts = Parts::default();
        let full = message(PART_BYTES);
        let part = |number, count, bytes: &[u8]| [&[number, count], bytes].concat();
        let wrong = [
            (9, vec![]),
            (9, vec![0]),
            (9, part(0, 0, &full)),
            (9, part(0, 1, &full)),
            (9, part(2, 2, &full)),
            (9, part(0, 2, &full[1..])),
            (9, part(1, 2, &[])),
            (9, part(0, 2, &message(PART_BYTES + 1))),
            (9, part(0, 200, &full)),
            (1, part(2, 3, &full)),
        ];
        for (counter, text) in wrong {
            assert_eq!(parts.join(NOW, salt(1), counter, &text), Joined::Malformed, "{text:?}");
        }
        assert!(parts.0.is_empty());
        assert_eq!(parts.join(NOW, salt(1), 9, &part(0, 3, &full)), Joined::NotYet);
        assert_eq!(parts.join(NOW, salt(1), 10, &part(1, 2, &full)), Joined::Malformed);
    }

    #[test]
    fn what_is_not_whole_in_time_is_given_up() {
        let texts = texts(&message(PART_BYTES + 1));
        let mut parts = Parts::default();
        assert_eq!(parts.join(NOW, salt(1), 0, &texts[0]), Joined::NotYet);
        let late = NOW + WAIT + Span(1);
        assert_eq!(parts.join(late, salt(1), 1, &texts[1]), Joined::NotYet);
    }

    #[test]
    fn memory_is_bounded_and_one_sender_does_not_drive_out_the_others() {
        let text = &texts(&message(MESSAGE_BYTES_MAX))[0];
        let mut parts = Parts::default();
        assert_eq!(parts.join(NOW, salt(1), 7, text), Joined::NotYet);
        for counter in 0..1_000 {
            parts.join(NOW + Span(1), salt(2), counter * 100, text);
        }
        assert_eq!(parts.0.len(), 1 + JOINING_OF_SENDER_MAX);
        assert!(parts.0.contains_key(&(salt(1), 7)));
        for sender in 3..100 {
            parts.join(NOW + Span(2), salt(sender), 0, text);
            assert!(parts.0.len() <= JOINING_MAX);
        }
        assert!(!parts.0.contains_key(&(salt(1), 7)));
    }
}
