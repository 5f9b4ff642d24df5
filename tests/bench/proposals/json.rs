//! As much of HTTP/1.1 as etcd's JSON gateway needs, on a connection that is kept.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let get = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = get(0) << 16 | get(1) << 8 | get(2);
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap();
            text.push(if place <= three.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    text
}

fn post(out: &mut Vec<u8>, path: &str, body: &str) {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body.as_bytes());
}

/// A put.
pub(crate) fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key), base64(value));
    post(out, "/v3/kv/put", &body);
}

/// Where the answer's body is, if all of it is there.
fn body(input: &[u8]) -> Result<Option<std::ops::Range<usize>>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    let from = match answer.parse(input).map_err(|e| e.to_string())? {
        httparse::Status::Complete(from) => from,
        httparse::Status::Partial => return Ok(None),
    };
    if answer.code != Some(200) {
        return Err(String::from_utf8_lossy(input).into_owned());
    }
    let length = answer.headers.iter().find(|it| it.name.eq_ignore_ascii_case("content-length"));
    let length = length.ok_or("an answer without its length")?;
    let length = std::str::from_utf8(length.value).ok().and_then(|it| it.parse::<usize>().ok());
    let until = from + length.ok_or("an answer with an odd length")?;
    Ok((until <= input.len()).then_some(from..until))
}

/// How many bytes an answer took, and whether one was there.
pub(crate) fn hear(input: &[u8]) -> Result<(usize, bool), String> {
    Ok(body(input)?.map_or((0, false), |range| (range.end, true)))
}

/// Whether this member of etcd is the leader.
pub(crate) fn leads(at: SocketAddr) -> Result<bool, String> {
    let mut stream = TcpStream::connect(at).map_err(|e| e.to_string())?;
    let mut out = Vec::new();
    post(&mut out, "/v3/maintenance/status", "{}");
    stream.write_all(&out).map_err(|e| e.to_string())?;
    let (mut input, mut buffer) = (Vec::new(), [0; 4096]);
    let range = loop {
        if let Some(range) = body(&input)? {
            break range;
        }
        let count = stream.read(&mut buffer).map_err(|e| e.to_string())?;
        if count == 0 {
            return Err("the connection was closed".to_owned());
        }
        input.extend_from_slice(&buffer[..count]);
    };
    let status: serde_json::Value =
        serde_json::from_slice(&input[range]).map_err(|e| e.to_string())?;
    let leader = &status["leader"];
    Ok(leader.is_string() && *leader == status["header"]["member_id"])
}
