//! The chunked transfer coding (RFC 9112 section 7.1). Pure.

/// Longest chunk extension and longest trailer section, in bytes.
const EXTRAS_BYTES_MAX: u32 = 4 << 10;

/// Most digits of a chunk's size: more than 2^60 bytes are nonsense.
const SIZE_DIGITS_MAX: u32 = 15;

/// The bytes are not chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked encoding")]
pub(super) struct BadChunk;

/// Takes chunks apart, however they are cut.
#[derive(Clone, Debug)]
pub(super) struct ChunkDecoder {
    state: State,
    extras: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: u32 },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    EndLf,
    Done,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self { state: State::Size { value: 0, digits: 0 }, extras: 0 }
    }
}

impl ChunkDecoder {
    /// Whether the last chunk and its trailers are read.
    #[must_use]
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads from `input` until it is used up or the body has ended; payload is appended to `out`.
    /// Returns how many bytes were used.
    ///
    /// # Errors
    /// When the bytes are not chunks.
    pub(super) fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, BadChunk> {
        let mut used = 0;
        while used < input.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                let rest = &input[used..];
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                out.extend_from_slice(&rest[..take]);
                used += take;
                let left = left - take as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                continue;
            }
            self.state = self.next(input[used])?;
            used += 1;
        }
        Ok(used)
    }

    fn next(&mut self, byte: u8) -> Result<State, BadChunk> {
        let state = match (self.state, byte) {
            (State::Size { digits: 1.., value }, b'\r') => State::SizeLf { value },
            (State::Size { digits: 1.., value }, b';' | b' ' | b'\t') => State::Extension { value },
            (State::Size { value, digits }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk)?;
                if digits == SIZE_DIGITS_MAX {
                    return Err(BadChunk);
                }
                State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Extension { value }, b'\r') => State::SizeLf { value },
            (State::SizeLf { value: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { value }, b'\n') => State::Data { left: value },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::Trailer, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            (same @ State::Extension { .. }, _) => self.extra(same)?,
            (State::TrailerStart | State::Trailer, _) => self.extra(State::Trailer)?,
            (
                State::SizeLf { .. } | State::DataCr | State::DataLf | State::EndLf
                | State::Data { .. } | State::Done,
                _,
            ) => return Err(BadChunk),
        };
        Ok(state)
    }

    fn extra(&mut self, state: State) -> Result<State, BadChunk> {
        self.extras += 1;
        if self.extras > EXTRAS_BYTES_MAX { Err(BadChunk) } else { Ok(state) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &[u8]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let (mut decoder, mut out) = (ChunkDecoder::default(), Vec::new());
        let used = decoder.decode(text, &mut out)?;
        Ok((out, used, decoder.is_done()))
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        let text = b"3\r\nabc\r\n2;x=\"y\"\r\nde\r\n0\r\nX: y\r\n\r\nGET";
        assert_eq!(all(text), Ok((b"abcde".to_vec(), text.len() - 3, true)));
        assert_eq!(all(b"5\r\nab"), Ok((b"ab".to_vec(), 5, false)));
        for bad in ["x", "\r\n", "3\r\nabcd", "3\rabc", "1111111111111111\r\n", "-1\r\n", "0\r\n\rX"]
        {
            assert_eq!(all(bad.as_bytes()), Err(BadChunk), "{bad:?}");
        }
        let endless = format!("1;{}", "x".repeat(5000));
        assert_eq!(all(endless.as_bytes()), Err(BadChunk));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_does_not_matter(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cut in 1usize..9,
        ) {
            let mut text = Vec::new();
            for part in &parts {
                text.extend(format!("{:X}\r\n", part.len()).bytes());
                text.extend(part);
                text.extend(b"\r\n");
            }
            text.extend(b"0\r\n\r\n");
            let (mut decoder, mut out) = (ChunkDecoder::default(), Vec::new());
            for piece in text.chunks(cut) {
                prop_assert_eq!(decoder.decode(piece, &mut out), Ok(piece.len()));
            }
            prop_assert!(decoder.is_done());
            prop_assert_eq!(out, parts.concat());
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(all(&bytes), all(&bytes));
        }
    }
}
