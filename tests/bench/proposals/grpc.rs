//! As much of gRPC over HTTP/2 (RFC 9113, 7541) as puts in a closed loop need: one stream at a time,
//! header fields as literals, nothing of what is answered is read but whether there is a message.

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const HEAD_BYTES: usize = 9;

/// Of gRPC, before each message: not compressed (1), length (4).
const PREFIX_BYTES: usize = 5;

/// What a connection knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    puts: u32,
    /// The answer's message was there.
    has_message: bool,
}

/// The first bytes of a connection; the window for answers is opened once and for all.
pub(crate) fn hello() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    frame(&mut out, WINDOW_UPDATE, 0, 0, &(i32::MAX - 65_535).to_be_bytes());
    out
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A field with a name of the static table, as a literal that is not kept.
fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.push(u8::try_from(value.len()).unwrap());
    out.extend_from_slice(value);
}

/// A field of bytes of a protobuf message.
fn bytes(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = value.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(value);
}

impl State {
    /// `etcdserverpb.KV/Put`.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
        self.has_message = false;
        let stream = 2 * self.puts + 1;
        self.puts += 1;
        // :method POST, :scheme http.
        let mut head = vec![0x83, 0x86];
        field(&mut head, &[0x04], b"/etcdserverpb.KV/Put");
        field(&mut head, &[0x01], b"127.0.0.1");
        field(&mut head, &[0x0f, 0x10], b"application/grpc");
        field(&mut head, b"\x00\x02te", b"trailers");
        frame(out, HEADERS, END_HEADERS, stream, &head);
        let mut message = Vec::new();
        bytes(&mut message, 1, key);
        bytes(&mut message, 2, value);
        let mut data = vec![0];
        data.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        data.extend_from_slice(&message);
        frame(out, DATA, END_STREAM, stream, &data);
    }

    /// Goes through whole frames: how many bytes they took, and whether the put is done. What is to
    /// be said at once goes to `out`.
    pub(crate) fn hear(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, bool), String> {
        let (mut used, mut done) = (0, false);
        while let Some(&[a, b, c, kind, flags, ..]) = input[used..].first_chunk::<HEAD_BYTES>() {
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
            let from = used + HEAD_BYTES;
            let Some(payload) = input.get(from..from + length) else { break };
            used = from + length;
            match kind {
                DATA => self.has_message |= payload.len() > PREFIX_BYTES,
                SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
                RESET | GO_AWAY => return Err(format!("frame {kind} of {length} bytes")),
                _ => {}
            }
            let is_last = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
            if is_last && !self.has_message {
                return Err("etcd refused the put".to_owned());
            }
            done |= is_last;
        }
        Ok((used, done))
    }
}
