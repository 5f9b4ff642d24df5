//! The bytes that a container's shim and the daemon exchange, and the exit record the shim leaves
//! on disk: version 1, frozen. Pure encoding; the sockets and files are elsewhere.
//!
//! Every message is one packet of a seqpacket socket: an 8-byte head (`S K`, version, kind, body
//! length, two zero bytes) and a body of fixed layout, all numbers little-endian. Five requests,
//! two answers. A shim outlives the daemon and its upgrades, so a daemon of any later version
//! speaks this one; golden bytes are in `tests/data/wire/shim-v1.txt`.

/// The version this file describes.
pub const VERSION: u8 = 1;

/// The longest packet.
pub const PACKET_BYTES_MAX: usize = HEAD_BYTES + STATE_BYTES;

/// The longest error text a packet carries; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 384;

/// The length of an exit record on disk.
pub const RECORD_BYTES: usize = 64;

/// How far a container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// `runc create` is running.
    Creating = 1,
    /// The container exists and waits for its start.
    Created = 2,
    /// `runc start` is running.
    Starting = 3,
    /// The container's first process runs.
    Running = 4,
    /// It ended; the exit says how.
    Exited = 5,
    /// It could not be created or started; the text says why.
    Failed = 6,
}

/// How a container's first process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// What a shell would report: the exit status, or 128 + the signal.
    pub code: u8,
    /// The signal that ended it, 0 for none.
    pub signal: u8,
    /// The kernel killed a process of the container at its memory limit, not always the first.
    pub oom_killed: bool,
    /// When it started: microseconds since 1970, 0 when it never did.
    pub started_us: u64,
    /// When it ended: microseconds since 1970.
    pub finished_us: u64,
}

/// A short text without heap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    len: u16,
    bytes: [u8; TEXT_BYTES_MAX],
}

/// Everything a shim knows about its container. Sent as the answer to [`Request::Hello`] and
/// again at every change of phase to whoever said hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// How far it has come.
    pub phase: Phase,
    /// The exit record is on disk and durable.
    pub record_saved: bool,
    /// The container's first process as the host sees it, 0 before it exists.
    pub pid: u32,
    /// When it started: microseconds since 1970, 0 when it did not yet.
    pub started_us: u64,
    /// Meaningful in [`Phase::Exited`] only.
    pub exit: Exit,
    /// Log entries written.
    pub log_written: u64,
    /// Log entries dropped because they could not be written.
    pub log_dropped: u64,
    /// Why it failed, in [`Phase::Failed`].
    pub text: Text,
}

/// What the daemon asks of a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first message: the newest version the daemon speaks. Subscribes to [`Reply::State`].
    Hello { version: u8 },
    /// Run `runc start`. Answered when that is done; harmless when it already was.
    Start,
    /// Send a signal to the container's first process.
    Signal { number: i32 },
    /// The terminal's new size.
    Resize { rows: u16, cols: u16 },
    /// The exit was seen: a shim whose container has ended may leave.
    Bye,
}

/// What a shim says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// See [`State`].
    State(State),
    /// The answer to start, signal and resize: 0 or an errno, and a text when it is not 0.
    Done { request: u8, errno: u16, text: Text },
}

/// The bytes are not a message or record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBytes {
    /// Too short, a wrong mark, a length that does not fit, or an unknown kind.
    #[error("not a message of the shim's protocol")]
    Packet,
    /// A version this program does not know.
    #[error("version {0} of the shim's protocol is not known")]
    Version(u8),
    /// A record whose mark, length or checksum is wrong.
    #[error("damaged exit record")]
    Record,
    /// A record that belongs to another task.
    #[error("exit record of another task")]
    OtherTask,
}

/// A packet's bytes, ready to send.
#[derive(Clone, Debug)]
pub struct Packet {
    len: usize,
    bytes: [u8; PACKET_BYTES_MAX],
}

const HEAD_BYTES: usize = 8;
const STATE_BYTES: usize = 56 + 2 + TEXT_BYTES_MAX;
const DONE_BYTES: usize = 4 + 2 + TEXT_BYTES_MAX;

const KIND_HELLO: u8 = 1;
/// The kind of [`Request::Start`], as [`Reply::Done`] repeats it.
pub const KIND_START: u8 = 2;
/// The kind of [`Request::Signal`], as [`Reply::Done`] repeats it.
pub const KIND_SIGNAL: u8 = 3;
/// The kind of [`Request::Resize`], as [`Reply::Done`] repeats it.
pub const KIND_RESIZE: u8 = 4;
const KIND_BYE: u8 = 5;
const KIND_STATE: u8 = 16;
const KIND_DONE: u8 = 17;

const RECORD_MARK: &[u8; 8] = b"SKEPEXIT";

impl Text {
    /// No text.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; TEXT_BYTES_MAX] };

    /// As much of `text` as fits, cut at a character.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut out = Self::EMPTY;
        out.bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        out.len = u16::try_from(end).unwrap_or(0);
        out
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Phase {
    fn from_byte(byte: u8) -> Option<Self> {
        use Phase::{Created, Creating, Exited, Failed, Running, Starting};
        [Creating, Created, Starting, Running, Exited, Failed]
            .into_iter()
            .find(|phase| *phase as u8 == byte)
    }
}

impl Packet {
    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new(kind: u8, body: usize) -> (Self, usize) {
        let mut bytes = [0; PACKET_BYTES_MAX];
        bytes[..4].copy_from_slice(&[b'S', b'K', VERSION, kind]);
        bytes[4..6].copy_from_slice(&u16::try_from(body).unwrap_or(0).to_le_bytes());
        (Self { len: HEAD_BYTES + body, bytes }, HEAD_BYTES)
    }

    fn put(&mut self, at: &mut usize, bytes: &[u8]) {
        self.bytes[*at..*at + bytes.len()].copy_from_slice(bytes);
        *at += bytes.len();
    }
}

/// Reads fixed fields one after another; what is missing reads as zero, since lengths are checked
/// before.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let n = N.min(self.0.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        out
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> Result<Text, BadBytes> {
        let len = self.u16();
        let bytes = self.take::<TEXT_BYTES_MAX>();
        let used = bytes.get(..usize::from(len)).ok_or(BadBytes::Packet)?;
        std::str::from_utf8(used).map(Text::new).or(Err(BadBytes::Packet))
    }
}

/// Splits a packet into its kind and body after checking the head.
fn open(packet: &[u8]) -> Result<(u8, Fields<'_>), BadBytes> {
    let (head, body) = packet.split_at_checked(HEAD_BYTES).ok_or(BadBytes::Packet)?;
    if head[..2] != *b"SK" || usize::from(u16::from_le_bytes([head[4], head[5]])) != body.len() {
        return Err(BadBytes::Packet);
    }
    if head[2] != VERSION {
        return Err(BadBytes::Version(head[2]));
    }
    Ok((head[3], Fields(body)))
}

impl Request {
    /// As a packet.
    #[must_use]
    pub fn encode(self) -> Packet {
        let (kind, body) = match self {
            Self::Hello { version } => (KIND_HELLO, [version, 0, 0, 0]),
            Self::Start => (KIND_START, [0; 4]),
            Self::Signal { number } => (KIND_SIGNAL, number.to_le_bytes()),
            Self::Resize { rows, cols } => {
                let ([a, b], [c, d]) = (rows.to_le_bytes(), cols.to_le_bytes());
                (KIND_RESIZE, [a, b, c, d])
            }
            Self::Bye => (KIND_BYE, [0; 4]),
        };
        let (mut packet, mut at) = Packet::new(kind, body.len());
        packet.put(&mut at, &body);
        packet
    }

    /// From a packet.
    ///
    /// # Errors
    /// When the bytes are not a request of this version.
    pub fn decode(packet: &[u8]) -> Result<Self, BadBytes> {
        let (kind, mut body) = open(packet)?;
        if body.0.len() != 4 {
            return Err(BadBytes::Packet);
        }
        Ok(match kind {
            KIND_HELLO => Self::Hello { version: body.u8() },
            KIND_START => Self::Start,
            KIND_SIGNAL => Self::Signal { number: i32::from_le_bytes(body.take()) },
            KIND_RESIZE => Self::Resize { rows: body.u16(), cols: body.u16() },
            KIND_BYE => Self::Bye,
            _ => return Err(BadBytes::Packet),
        })
    }
}

impl Reply {
    /// As a packet.
    #[must_use]
    pub fn encode(&self) -> Packet {
        match self {
            Self::State(state) => {
                let (mut packet, mut at) = Packet::new(KIND_STATE, STATE_BYTES);
                let exit = &state.exit;
                packet.put(&mut at, &[state.phase as u8, u8::from(state.record_saved)]);
                packet.put(&mut at, &[exit.code, exit.signal, u8::from(exit.oom_killed), 0, 0, 0]);
                packet.put(&mut at, &state.pid.to_le_bytes());
                packet.put(&mut at, &[0; 4]);
                packet.put(&mut at, &state.started_us.to_le_bytes());
                packet.put(&mut at, &exit.started_us.to_le_bytes());
                packet.put(&mut at, &exit.finished_us.to_le_bytes());
                packet.put(&mut at, &state.log_written.to_le_bytes());
                packet.put(&mut at, &state.log_dropped.to_le_bytes());
                packet.put(&mut at, &state.text.len.to_le_bytes());
                packet.put(&mut at, &state.text.bytes);
                packet
            }
            Self::Done { request, errno, text } => {
                let (mut packet, mut at) = Packet::new(KIND_DONE, DONE_BYTES);
                packet.put(&mut at, &[*request, 0]);
                packet.put(&mut at, &errno.to_le_bytes());
                packet.put(&mut at, &text.len.to_le_bytes());
                packet.put(&mut at, &text.bytes);
                packet
            }
        }
    }

    /// From a packet.
    ///
    /// # Errors
    /// When the bytes are not an answer of this version.
    pub fn decode(packet: &[u8]) -> Result<Self, BadBytes> {
        let (kind, mut body) = open(packet)?;
        match kind {
            KIND_STATE if body.0.len() == STATE_BYTES => {
                let phase = Phase::from_byte(body.u8()).ok_or(BadBytes::Packet)?;
                let record_saved = body.u8() != 0;
                let [code, signal, oom, ..] = body.take::<6>();
                let pid = body.u32();
                body.u32();
                let started_us = body.u64();
                let (exit_started_us, finished_us) = (body.u64(), body.u64());
                Ok(Self::State(State {
                    phase,
                    record_saved,
                    pid,
                    started_us,
                    exit: Exit {
                        code,
                        signal,
                        oom_killed: oom != 0,
                        started_us: exit_started_us,
                        finished_us,
                    },
                    log_written: body.u64(),
                    log_dropped: body.u64(),
                    text: body.text()?,
                }))
            }
            KIND_DONE if body.0.len() == DONE_BYTES => {
                let [request, _] = body.take();
                Ok(Self::Done { request, errno: body.u16(), text: body.text()? })
            }
            _ => Err(BadBytes::Packet),
        }
    }
}

impl Exit {
    /// As the record of task `task` (the id's 128 bits) on disk.
    #[must_use]
    pub fn encode_record(&self, task: u128) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..8].copy_from_slice(RECORD_MARK);
        out[8..12].copy_from_slice(&[VERSION, 0, 0, 0]);
        out[12..15].copy_from_slice(&[self.code, self.signal, u8::from(self.oom_killed)]);
        out[16..32].copy_from_slice(&task.to_le_bytes());
        out[32..40].copy_from_slice(&self.started_us.to_le_bytes());
        out[40..48].copy_from_slice(&self.finished_us.to_le_bytes());
        let sum = crc32fast::hash(&out[..RECORD_BYTES - 4]);
        out[RECORD_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// From a record on disk.
    ///
    /// # Errors
    /// When a byte is wrong, the version is unknown, or it belongs to another task.
    pub fn decode_record(bytes: &[u8], task: u128) -> Result<Self, BadBytes> {
        let record: &[u8; RECORD_BYTES] = bytes.try_into().or(Err(BadBytes::Record))?;
        let (body, sum) = record.split_at(RECORD_BYTES - 4);
        if body[..8] != *RECORD_MARK || crc32fast::hash(body).to_le_bytes() != *sum {
            return Err(BadBytes::Record);
        }
        if body[8] != VERSION {
            return Err(BadBytes::Version(body[8]));
        }
        let mut fields = Fields(&body[12..]);
        let [code, signal, oom, _] = fields.take();
        if u128::from_le_bytes(fields.take()) != task {
            return Err(BadBytes::OtherTask);
        }
        let (started_us, finished_us) = (fields.u64(), fields.u64());
        Ok(Self { code, signal, oom_killed: oom != 0, started_us, finished_us })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let exit = Exit {
            code: 137,
            signal: 9,
            oom_killed: true,
            started_us: 0x0102_0304_0506_0708,
            finished_us: 0x1112_1314_1516_1718,
        };
        State {
            phase: Phase::Exited,
            record_saved: true,
            pid: 0xa1a2_a3a4,
            started_us: 0x0102_0304_0506_0708,
            exit,
            log_written: 77,
            log_dropped: 3,
            text: Text::new("why it failed"),
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the golden bytes are a file")]
    fn golden_bytes_of_version_one() {
        let requests = [
            Request::Hello { version: 1 },
            Request::Start,
            Request::Signal { number: 15 },
            Request::Resize { rows: 24, cols: 80 },
            Request::Bye,
        ];
        let replies = [
            Reply::State(state()),
            Reply::Done { request: KIND_SIGNAL, errno: 3, text: Text::new("no such process") },
        ];
        let hex = |bytes: &[u8]| {
            let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
            let shown: String = bytes[..end].iter().map(|b| format!("{b:02x}")).collect();
            format!("{shown} +{}", bytes.len() - end)
        };
        let mut out = String::new();
        for request in requests {
            let packet = request.encode();
            assert_eq!(Request::decode(packet.as_bytes()), Ok(request));
            out += &format!("{request:?}\n{}\n", hex(packet.as_bytes()));
        }
        for reply in replies {
            let packet = reply.encode();
            assert_eq!(Reply::decode(packet.as_bytes()), Ok(reply));
            out += &format!("{reply:?}\n{}\n", hex(packet.as_bytes()));
        }
        out += &format!("{:?}\n{}\n", state().exit, hex(&state().exit.encode_record(0x1234_5678)));
        expect_test::expect_file!["../../tests/data/wire/shim-v1.txt"].assert_eq(&out);
    }

    #[test]
    fn flipped_and_torn_records_are_found() {
        let good = state().exit.encode_record(7);
        assert_eq!(Exit::decode_record(&good, 7), Ok(state().exit));
        assert_eq!(Exit::decode_record(&good, 8), Err(BadBytes::OtherTask));
        for at in 0..RECORD_BYTES {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(Exit::decode_record(&bad, 7).is_err(), "byte {at}");
            assert_eq!(Exit::decode_record(&good[..at], 7), Err(BadBytes::Record));
        }
    }

    #[test]
    fn hostile_packets_are_refused() {
        let good = Reply::State(state()).encode();
        for len in 0..good.as_bytes().len() {
            assert!(Reply::decode(&good.as_bytes()[..len]).is_err());
            assert!(Request::decode(&good.as_bytes()[..len]).is_err());
        }
        let mut long = good.clone();
        long.bytes[HEAD_BYTES + 56..HEAD_BYTES + 58].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(Reply::decode(long.as_bytes()), Err(BadBytes::Packet));
        let mut newer = good;
        newer.bytes[2] = 2;
        assert_eq!(Reply::decode(newer.as_bytes()), Err(BadBytes::Version(2)));
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let long = "é".repeat(TEXT_BYTES_MAX);
        let text = Text::new(&long);
        assert_eq!(text.as_str().len(), TEXT_BYTES_MAX);
        assert_eq!(Text::new(&format!("x{long}")).as_str().len(), TEXT_BYTES_MAX - 1);
    }
}
