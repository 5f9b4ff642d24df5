//! The progress of a pull or load: JSON lines of the daemon, one line of output per layer.
//!
//! On a terminal a layer's line is drawn over; on a pipe each change of status is a line, sizes are
//! left out.

use std::io::{BufRead, BufReader, Read};

use super::context::{Context, columns};
use super::query::ellipsis;
use super::error::{CliError, plain};
use crate::base::units::human_size;
use crate::model::engine::stream::ProgressMessage;

/// Bytes of one line of progress.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Columns that a line with a bar needs.
const BAR_COLUMNS: usize = 110;

/// Shows a stream up to its end; an error in it is the command's.
pub fn show(body: impl Read, ctx: &mut Context, quiet: bool) -> Result<(), CliError> {
    let mut body = BufReader::new(body);
    let mut lines: Vec<(String, String)> = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = (&mut body).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let read = read.map_err(|source| CliError::Connection {
            request: "read progress".to_owned(),
            source,
        })?;
        if read == 0 {
            return Ok(());
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let message: ProgressMessage = serde_json::from_slice(&line).map_err(CliError::BadJson)?;
        if let Some(detail) = &message.error_detail
            && !detail.message.is_empty()
        {
            return Err(plain(detail.message.clone()));
        }
        if !message.error.is_empty() {
            return Err(plain(message.error));
        }
        if !quiet {
            one(ctx, &mut lines, &message)?;
        }
    }
}

fn one(
    ctx: &mut Context,
    lines: &mut Vec<(String, String)>,
    message: &ProgressMessage,
) -> Result<(), CliError> {
    if message.id.is_empty() {
        lines.clear();
        match message.stream.as_str() {
            "" => ctx.line(&message.status)?,
            text => ctx.print(text)?,
        }
        return ctx.flush();
    }
    if !ctx.terminal {
        let known = lines.iter_mut().find(|(id, _)| *id == message.id);
        let same = known.as_ref().is_some_and(|(_, status)| *status == message.status);
        match known {
            Some((_, status)) => message.status.clone_into(status),
            None => lines.push((message.id.clone(), message.status.clone())),
        }
        if same {
            return Ok(());
        }
        ctx.line(&format!("{}: {}", message.id, message.status))?;
        return ctx.flush();
    }
    let columns = columns();
    let text = format!("{}: {} {}", message.id, message.status, bar(message, columns));
    let text = ellipsis(text.trim_end(), columns.max(2) - 1);
    let at = lines.iter().position(|(id, _)| *id == message.id).unwrap_or_else(|| {
        lines.push((message.id.clone(), String::new()));
        lines.len()
    });
    if at < lines.len() {
        let up = lines.len() - at;
        ctx.print(&format!("\x1b[{up}A\x1b[2K\r{text}\x1b[{up}B\r"))?;
    } else {
        ctx.line(&text)?;
    }
    ctx.flush()
}

/// `[====>     ]  1.2MB/3.4MB`.
fn bar(message: &ProgressMessage, columns: usize) -> String {
    let Some(detail) = &message.progress_detail else { return String::new() };
    let current = detail.current.unsigned_abs();
    let total = detail.total.unsigned_abs();
    if current == 0 && total == 0 {
        return String::new();
    }
    if total == 0 || current > total {
        return format!("{:>8}", human_size(current));
    }
    let sizes = format!("{:>8}/{}", human_size(current), human_size(total));
    if columns < BAR_COLUMNS {
        return sizes;
    }
    let full = usize::try_from(u128::from(current) * 100 / u128::from(total) / 2).unwrap_or(50);
    format!("[{}>{}] {sizes}", "=".repeat(full), " ".repeat(50 - full.min(50)))
}

/// A reference with the registry that is meant: `nginx:1` is `docker.io/library/nginx:1`.
#[must_use]
pub fn canonical(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

/// `2026-11-22 10:21:42 +0000 UTC`.
#[must_use]
pub fn date(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).map(|time| time.to_string());
    time.map_or_else(|_| String::new(), |text| {
        text.trim_end_matches('Z').replacen('T', " ", 1) + " +0000 UTC"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_their_registry() {
        assert_eq!(canonical("nginx:1"), "docker.io/library/nginx:1");
        assert_eq!(canonical("me/nginx:1"), "docker.io/me/nginx:1");
        assert_eq!(canonical("h:5000/nginx:1"), "h:5000/nginx:1");
        assert_eq!(date(0), "1970-01-01 00:00:00 +0000 UTC");
    }

    #[test]
    fn bars_fit_the_terminal() {
        let json = r#"{"id":"a","status":"Downloading","progressDetail":{"current":500,"total":1000}}"#;
        let message: ProgressMessage = serde_json::from_str(json).unwrap();
        assert_eq!(bar(&message, 80), "    500B/1kB");
        let wide = bar(&message, 120);
        assert!(wide.starts_with("[=========================>  "), "{wide}");
    }
}
