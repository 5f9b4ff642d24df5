//! Help in Docker's layout: usage line, description, aliases, commands, options in two columns.

use std::fmt::Write;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::argv::{self, Place};
use super::query::title;

/// The help of one command, wrapped for a terminal of `columns`.
pub fn text(place: &Place, columns: usize) -> String {
    let info = &place.info;
    let mut out = format!("{}\n\n{}\n", usage(place), info.description);
    let aliases = aliases(place);
    if !aliases.is_empty() {
        push(&mut out, format_args!("\nAliases:\n  {aliases}\n"));
    }
    if !info.commands.is_empty() {
        push(&mut out, format_args!("\nCommands:\n"));
        let wide = info.commands.iter().map(|sub| sub.name.len()).max().unwrap_or(0).max(11);
        let mut commands: Vec<_> = info.commands.iter().collect();
        commands.sort_by_key(|sub| sub.name);
        for sub in commands {
            push(&mut out, format_args!("  {:wide$} {}\n", sub.name, sub.command.description));
        }
    }
    let options = options(info, columns);
    if !options.is_empty() {
        push(&mut out, format_args!("\nOptions:\n{options}"));
    }
    if !info.commands.is_empty() {
        let name = command(place);
        push(
            &mut out,
            format_args!("\nRun '{name} COMMAND --help' for more information on a command.\n"),
        );
    }
    out
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    if out.write_fmt(text).is_err() {
        out.push_str("<format error>");
    }
}

/// `skep service create`.
pub fn command(place: &Place) -> String {
    format!("skep {}", place.path).trim_end().to_owned()
}

/// `Usage:  skep service create [OPTIONS] IMAGE [COMMAND] [ARG...]`.
pub fn usage(place: &Place) -> String {
    let mut line = format!("Usage:  {}", command(place));
    if argv::flags(&place.info).next().is_some() {
        line.push_str(" [OPTIONS]");
    }
    if !place.info.commands.is_empty() {
        line.push_str(" COMMAND");
    }
    let synopsis = argv::synopsis(&place.info);
    if !synopsis.is_empty() {
        line.push(' ');
        line.push_str(synopsis);
    }
    line
}

/// Every spelling of a command that has more than one.
fn aliases(place: &Place) -> String {
    let mut names = vec![command(place)];
    for (at, alias, target) in argv::ALIASES {
        let full = format!("{at} {}", target.join(" "));
        if full.trim_start() == place.path {
            names.push(format!("skep {at} {alias}").replace("  ", " "));
        }
    }
    for (short, long) in [
        ("init", "swarm init"),
        ("leave", "swarm leave"),
        ("info", "system info"),
        ("pull", "image pull"),
        ("load", "image load"),
    ] {
        if place.path == short || place.path == long {
            names = vec![format!("skep {long}"), format!("skep {short}")];
        }
    }
    if names.len() > 1 { names.join(", ") } else { String::new() }
}

fn options(info: &CommandInfoWithArgs, columns: usize) -> String {
    let mut flags: Vec<&FlagInfo<'_>> = argv::flags(info).filter(|flag| !flag.hidden).collect();
    flags.sort_by_key(|flag| flag.long);
    let left: Vec<String> = flags.iter().map(|flag| left(flag)).collect();
    let wide = left.iter().map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    for (flag, left) in flags.iter().zip(&left) {
        let right = wrap(wide + 3, columns.saturating_sub(1), &title(flag.description));
        push(&mut out, format_args!("{left:wide$}   {right}\n"));
    }
    out
}

fn left(flag: &FlagInfo<'_>) -> String {
    let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    match flag.kind {
        FlagInfoKind::Option { arg_name } if arg_name != "bool" => {
            format!("  {short}{} {arg_name}", flag.long)
        }
        _ => format!("  {short}{}", flag.long),
    }
}

/// Columns below which nothing is wrapped in a useful way.
const WRAP_MIN: usize = 24;

/// Letters a line may run over when that saves a last line of its own.
const SLOP: usize = 5;

/// Wraps as pflag does: to `width` columns, lines behind the first indented.
fn wrap(indent: usize, width: usize, text: &str) -> String {
    let (indent, mut out) = if width < indent + WRAP_MIN {
        (16, format!("\n{}", " ".repeat(16)))
    } else {
        (indent, String::new())
    };
    if width < indent + WRAP_MIN {
        return text.to_owned();
    }
    let room = width - indent - SLOP;
    let mut rest = text;
    loop {
        let (line, after) = cut(room, rest);
        out.push_str(line);
        if after.is_empty() {
            return out;
        }
        push(&mut out, format_args!("\n{}", " ".repeat(indent)));
        rest = after;
    }
}

fn cut(room: usize, text: &str) -> (&str, &str) {
    if room + SLOP > text.len() {
        return (text, "");
    }
    let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    match text[..end].rfind(' ') {
        Some(at) if at > 0 => (&text[..at], &text[at + 1..]),
        _ => (text, ""),
    }
}
