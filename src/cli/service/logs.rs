//! `service logs`: frames of the daemon's stream, each line with its task and node in front.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};

use super::path;
use crate::base::duration::parse_duration;
use crate::cli::CliError;
use crate::cli::age;
use crate::cli::args::service::Logs;
use crate::cli::client::{Payload, encode};
use crate::cli::context::Context;
use crate::cli::error::plain;
use crate::cli::query::short;
use crate::cli::tasks::Names;
use crate::model::engine::service::Service;
use crate::model::engine::stream::{
    DETAIL_NODE, DETAIL_SERVICE, DETAIL_TASK, FRAME_HEADER, StdStream,
};
use crate::model::engine::task::Task;

/// Bytes of one frame.
const FRAME_BYTES_MAX: u32 = 16 << 20;

/// Streams the logs of a service or of one task.
pub fn run(args: &Logs, ctx: &mut Context) -> Result<(), CliError> {
    let target = &args.target;
    let (base, tty, width) = match ctx.client.get::<Service>(&path(target)) {
        Ok(service) => {
            let template = &service.spec.task_template;
            let tty = template.container_spec.as_ref().is_some_and(|spec| spec.tty);
            let replicas = service.spec.mode.replicated.and_then(|mode| mode.replicas);
            (path(&service.id), tty, replicas.unwrap_or(1).to_string().len())
        }
        Err(error) if error.is_not_found() => {
            let task: Task =
                ctx.client.get(&format!("/tasks/{}", encode(target))).map_err(|error| {
                    let none = error.is_not_found();
                    if none { plain(format!("no such task or service: {target}")) } else { error }
                })?;
            let tty = task.spec.container_spec.as_ref().is_some_and(|spec| spec.tty);
            (format!("/tasks/{}", encode(&task.id)), tty, 1)
        }
        Err(error) => return Err(error),
    };
    if tty && !args.raw {
        return Err(plain("tty service logs only supported with --raw"));
    }
    let request = request(&base, args)?;
    let answer = ctx.client.stream("GET", &request, Payload::None)?;
    let client = ctx.client.clone();
    let mut prefixes = Prefixes {
        names: Names::new(&client, !args.no_resolve),
        known: BTreeMap::new(),
        tasks: BTreeMap::new(),
        width,
        args,
    };
    let mut body = BufReader::new(answer.body);
    if tty {
        return copy(&mut body, ctx);
    }
    frames(&mut body, ctx, &mut prefixes)
}

fn request(base: &str, args: &Logs) -> Result<String, CliError> {
    let mut request = format!("{base}/logs?stdout=1&stderr=1");
    if args.follow {
        request.push_str("&follow=1");
    }
    if !args.raw {
        request.push_str("&details=1");
    }
    if args.timestamps {
        request.push_str("&timestamps=1");
    }
    if let Some(tail) = &args.tail {
        request.push_str(&format!("&tail={}", encode(tail)));
    }
    if let Some(since) = &args.since {
        request.push_str(&format!("&since={}", encode(&moment(since, age::now())?)));
    }
    Ok(request)
}

/// Seconds since 1970 of an RFC 3339 time, a date, a Unix time, or an age like `42m`.
fn moment(text: &str, now: u64) -> Result<String, CliError> {
    if let Ok(nanos) = parse_duration(text) {
        let at = i128::from(now) * 1_000_000_000 - i128::from(nanos);
        return Ok(seconds(at));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(seconds(time.as_nanosecond()));
    }
    let utc = if text.contains('T') { format!("{text}Z") } else { format!("{text}T00:00:00Z") };
    if let Ok(time) = utc.parse::<jiff::Timestamp>() {
        return Ok(seconds(time.as_nanosecond()));
    }
    let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if number && text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(plain(format!(
        "invalid value for \"since\": failed to parse value as time or duration: {text:?}"
    )))
}

fn seconds(nanos: i128) -> String {
    let nanos = nanos.max(0);
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

fn copy(body: &mut impl BufRead, ctx: &mut Context) -> Result<(), CliError> {
    loop {
        let bytes = body.fill_buf().map_err(broken)?;
        let length = bytes.len();
        if length == 0 {
            return Ok(());
        }
        ctx.bytes(bytes)?;
        ctx.flush()?;
        body.consume(length);
    }
}

fn broken(source: io::Error) -> CliError {
    CliError::Connection { request: "read logs".to_owned(), source }
}

/// Prints each frame on the stream it came from.
fn frames(
    body: &mut BufReader<impl Read>,
    ctx: &mut Context,
    prefixes: &mut Prefixes<'_>,
) -> Result<(), CliError> {
    loop {
        if body.buffer().is_empty() {
            ctx.flush()?;
        }
        if body.fill_buf().map_err(broken)?.is_empty() {
            return Ok(());
        }
        let mut header = [0; FRAME_HEADER];
        body.read_exact(&mut header).map_err(broken)?;
        let (stream, length) =
            StdStream::parse(header).map_err(|error| plain(error.to_string()))?;
        if length > FRAME_BYTES_MAX {
            return Err(plain(format!("a log frame of {length} bytes is too long")));
        }
        let mut payload = vec![0; length as usize];
        body.read_exact(&mut payload).map_err(broken)?;
        match stream {
            StdStream::Stdin | StdStream::Stdout => ctx.bytes(&prefixes.line(&payload))?,
            StdStream::Stderr => {
                ctx.flush()?;
                let line = prefixes.line(&payload);
                io::stderr().write_all(&line).map_err(CliError::Output)?;
            }
            StdStream::SystemError => {
                let text = String::from_utf8_lossy(&payload);
                return Err(plain(format!("error from daemon in stream: {}", text.trim_end())));
            }
        }
    }
}

/// `web.1.TASKID@node    | ` for each task, made once.
struct Prefixes<'a> {
    names: Names<'a>,
    known: BTreeMap<(String, String, String), String>,
    tasks: BTreeMap<String, u64>,
    width: usize,
    args: &'a Logs,
}

impl Prefixes<'_> {
    /// A line with its prefix: `[time ]details message` becomes `[time ]prefix | [details ]message`.
    fn line(&mut self, payload: &[u8]) -> Vec<u8> {
        if self.args.raw {
            return payload.to_vec();
        }
        let (time, rest) = if self.args.timestamps { word(payload) } else { (&[][..], payload) };
        let (details, message) = word(rest);
        let mut fields: BTreeMap<String, String> = String::from_utf8_lossy(details)
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (decode(key), decode(value)))
            .collect();
        let mut take = |key| fields.remove(key).unwrap_or_default();
        let context = (take(DETAIL_SERVICE), take(DETAIL_TASK), take(DETAIL_NODE));
        let mut out = Vec::new();
        if self.args.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend(self.prefix(context).bytes());
        if self.args.details {
            let rest: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={value}")).collect();
            out.extend(rest.join(",").bytes());
            out.push(b' ');
        }
        out.extend_from_slice(message);
        out
    }

    fn prefix(&mut self, context: (String, String, String)) -> String {
        if let Some(known) = self.known.get(&context) {
            return known.clone();
        }
        let (service, task, node) = &context;
        let slot = self.slot(task);
        let mut name = format!("{}.{slot}", self.names.service(service));
        if !self.args.no_task_ids {
            let id = if self.args.no_trunc { task.clone() } else { short(task) };
            name.push_str(&format!(".{id}"));
        }
        let node = self.names.node(node);
        let pad = self.width.saturating_sub(slot.to_string().len());
        let prefix = format!("{name}@{node}{}    | ", " ".repeat(pad));
        self.known.insert(context, prefix.clone());
        prefix
    }

    fn slot(&mut self, task: &str) -> u64 {
        if let Some(slot) = self.tasks.get(task) {
            return *slot;
        }
        let found = self.names.find_task(task);
        let slot = found.map_or(0, |task| task.slot);
        self.tasks.insert(task.to_owned(), slot);
        slot
    }
}

/// Up to the first blank, and what follows it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b' ') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (&[], text),
    }
}

/// Undoes URL escapes.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_every_form() {
        for (text, expected) in [
            ("42m", "7480.000000000"),
            ("1970-01-01T00:00:05.5Z", "5.500000000"),
            ("1970-01-02", "86400.000000000"),
            ("1970-01-01T00:00:05", "5.000000000"),
            ("1234.5", "1234.5"),
        ] {
            assert_eq!(moment(text, 10_000).unwrap(), expected, "{text}");
        }
        assert!(moment("yesterday", 0).unwrap_err().to_string().contains("\"yesterday\""));
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(decode("a%2Cb+c%"), "a,b c%");
    }
}
