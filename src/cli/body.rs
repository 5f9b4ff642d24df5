//! The body of an HTTP answer as a stream of bytes: of known length, in chunks, or up to the end.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

/// Letters of a chunk's size line.
const SIZE_LINE_MAX: u64 = 256;

/// A body that is read as it arrives.
#[derive(Debug)]
pub struct Body<R: Read> {
    from: BufReader<Chain<Cursor<Vec<u8>>, R>>,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// So many bytes of the current chunk are left; `first` before the first one.
    Chunked { left: u64, first: bool },
    /// All chunks were read.
    Done,
    /// Up to the end of the connection.
    ToEnd,
}

impl<R: Read> Body<R> {
    /// A body whose first bytes came with the head.
    pub fn new(from: R, early: Vec<u8>, chunked: bool, length: Option<u64>) -> Self {
        let framing = match (chunked, length) {
            (true, _) => Framing::Chunked { left: 0, first: true },
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::ToEnd,
        };
        Self { from: BufReader::new(Cursor::new(early).chain(from)), framing }
    }

    /// The size of the next chunk; the line that ends the last one is read first.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "bad chunk in the answer");
        let mut line = String::new();
        if !first {
            self.line(&mut line)?;
            if !line.trim().is_empty() {
                return Err(bad());
            }
            line.clear();
        }
        self.line(&mut line)?;
        let size = line.split(';').next().unwrap_or("").trim();
        u64::from_str_radix(size, 16).map_err(|_why| bad())
    }

    fn line(&mut self, line: &mut String) -> io::Result<()> {
        (&mut self.from).take(SIZE_LINE_MAX).read_line(line)?;
        if line.ends_with('\n') { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunked { left: 0, first } = self.framing {
            let left = self.next_chunk(first)?;
            self.framing =
                if left == 0 { Framing::Done } else { Framing::Chunked { left, first: false } };
        }
        let left = match &mut self.framing {
            Framing::Done => return Ok(0),
            Framing::ToEnd => return self.from.read(buffer),
            Framing::Length(left) | Framing::Chunked { left, .. } => left,
        };
        if *left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let read = self.from.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(early: &str, late: &str, chunked: bool, length: Option<u64>) -> io::Result<String> {
        let mut text = String::new();
        let early = early.as_bytes().to_vec();
        Body::new(late.as_bytes(), early, chunked, length).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn each_framing_ends_where_it_says() {
        assert_eq!(read("he", "llo, more", false, Some(5)).unwrap(), "hello");
        assert_eq!(read("he", "llo", false, None).unwrap(), "hello");
        assert_eq!(read("3\r\nh", "el\r\n2;x=y\r\nlo\r\n0\r\n\r\n", true, None).unwrap(), "hello");
    }

    #[test]
    fn a_body_that_is_cut_is_an_error() {
        assert!(read("he", "", false, Some(5)).is_err());
        assert!(read("5\r\nhel", "", true, None).is_err());
        assert!(read("x\r\n", "", true, None).is_err());
        assert!(read("3\r\nhello\r\n", "", true, None).is_err());
    }
}
