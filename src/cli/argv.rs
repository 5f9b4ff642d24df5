//! Docker's spellings of a command line, rewritten into the only ones argh reads.
//!
//! Pure: arguments and the command tree in, a rewritten list or a reason to stop out. It knows
//! `--flag=value`, `--bool=false`, `-p80:80`, `-it`, `-eA=b`, `--`, aliases (`images`, `ls`/`list`),
//! and that everything behind IMAGE belongs to the container. Values are checked here, so that the
//! error can name the flag as Docker does; argh sees only what is right.

use std::collections::BTreeMap;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use super::{absent, parse};
use crate::base::nearest;

/// A command line that argh understands.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The command's names below the top level, by their first spelling: `["service", "ls"]`.
    pub path: Vec<&'static str>,
    /// What argh is given: the path, flags with their values, `--`, the positionals.
    pub args: Vec<String>,
}

/// Why no command runs.
#[derive(Debug)]
pub enum Stop {
    /// `--help`: help is what was wanted.
    Help(Box<Place>),
    /// A group without a command: its help is no output; exit code 0.
    Group(Box<Place>),
    /// `--version`.
    Version,
    /// A flag that is wrong; exit code 125.
    Flag(Box<Place>, String, Option<String>),
    /// Flags that do not go together, a name that is empty; exit code 1.
    Rule(String),
    /// Too few or too many arguments; exit code 1.
    Count(Box<Place>, String),
    /// Docker has this command; exit code 1.
    Absent(String),
    /// No such command.
    Unknown(Box<Place>, String, Option<String>),
}

/// Where in the tree the reading stopped.
#[derive(Debug)]
pub struct Place {
    /// `service create`; empty at the top.
    pub path: String,
    /// The command.
    pub info: CommandInfoWithArgs,
}

/// Other names of commands. A name stands for a path below where it is found.
pub const ALIASES: [(&str, &str, &[&str]); 12] = [
    ("", "images", &["image", "ls"]),
    ("", "rmi", &["image", "rm"]),
    ("image", "list", &["ls"]),
    ("image", "remove", &["rm"]),
    ("node", "list", &["ls"]),
    ("service", "list", &["ls"]),
    ("service", "remove", &["rm"]),
    ("volume", "list", &["ls"]),
    ("volume", "remove", &["rm"]),
    ("", "services", &["service", "ls"]),
    ("", "nodes", &["node", "ls"]),
    ("", "volumes", &["volume", "ls"]),
];

/// Rewrites `args`, which do not hold the program's name.
pub fn normalise(tree: CommandInfoWithArgs, args: &[String]) -> Result<Invocation, Stop> {
    let mut place = Place { path: String::new(), info: tree };
    let mut path = Vec::new();
    let mut out = Vec::new();
    let mut rest = args;
    while !place.info.commands.is_empty() {
        let mut flags = Flags::default();
        let (words, after) = flags.read(&place, rest, true)?;
        let Some(word) = words.first() else { return Err(Stop::Group(Box::new(place))) };
        if word == "help" {
            return Err(help_of(place, after));
        }
        out.extend(flags.rewritten());
        rest = after;
        let alias = ALIASES.iter().find(|(at, name, _)| *at == place.path && name == word);
        let names = alias.map_or(std::slice::from_ref(&word.as_str()), |(.., names)| *names).to_vec();
        for name in names {
            place = descend(place, name)?;
            path.push(place.info.name);
            out.push(place.info.name.to_owned());
        }
    }
    let synopsis = synopsis(&place.info);
    if place.path == "daemon" {
        out.push("--".to_owned());
        out.extend_from_slice(rest);
        return Ok(Invocation { path, args: out });
    }
    let mut flags = Flags::default();
    let stops = synopsis.contains("[COMMAND]");
    let (mut words, after) = flags.read(&place, rest, stops)?;
    words.extend_from_slice(after);
    if let Err(why) = check_count(&place, synopsis, words.len()) {
        return Err(Stop::Count(Box::new(place), why));
    }
    check_rollback(&place, &flags)?;
    check_names(synopsis, &words)?;
    out.extend(flags.rewritten());
    out.push("--".to_owned());
    out.extend(words);
    Ok(Invocation { path, args: out })
}

/// `help service create`.
fn help_of(place: Place, words: &[String]) -> Stop {
    match words.iter().try_fold(place, |place, name| descend(place, name)) {
        Ok(place) => Stop::Help(Box::new(place)),
        Err(stop) => stop,
    }
}

fn descend(place: Place, name: &str) -> Result<Place, Stop> {
    match place.info.commands.iter().position(|sub| sub.name == name) {
        Some(at) => {
            let mut info = place.info;
            let info = info.commands.swap_remove(at).command;
            let path = format!("{} {}", place.path, info.name).trim_start().to_owned();
            Ok(Place { path, info })
        }
        None if absent::is_absent(&place.path, name) => {
            Err(Stop::Absent(format!("{} {name}", super::help::command(&place))))
        }
        None => {
            let known = place.info.commands.iter().map(|sub| sub.name);
            let near = nearest::nearest(name, known).map(str::to_owned);
            Err(Stop::Unknown(Box::new(place), name.to_owned(), near))
        }
    }
}

/// A command's own flags, without argh's `--help`.
pub fn flags(
    info: &CommandInfoWithArgs,
) -> impl Iterator<Item = &'static FlagInfo<'static>> + Clone + use<> {
    info.flags.iter().filter(|flag| bare(flag) != "help")
}

/// The form of a command's arguments, as its usage line shows it.
pub fn synopsis(info: &CommandInfoWithArgs) -> &'static str {
    info.notes.first().copied().unwrap_or("")
}

/// Compares the number of arguments with the synopsis, in Docker's words.
fn check_count(place: &Place, synopsis: &str, count: usize) -> Result<(), String> {
    let needed = synopsis.split(' ').filter(|w| !w.is_empty() && !w.starts_with('[')).count();
    let optional = synopsis.split(' ').filter(|w| w.starts_with('[')).count();
    let many = synopsis.contains("...");
    let arguments = |count: usize| match count {
        1 => "1 argument.".to_owned(),
        _ => format!("{count} arguments."),
    };
    let rule = if needed + optional == 0 && count > 0 {
        "accepts no arguments.".to_owned()
    } else if count < needed && (many || optional > 0) {
        format!("requires at least {}", arguments(needed))
    } else if !many && needed == 0 && count > optional {
        format!("requires at most {}", arguments(optional))
    } else if !many && optional == 0 && count != needed {
        format!("requires exactly {}", arguments(needed))
    } else {
        return Ok(());
    };
    Err(format!("\"skep {}\" {rule}", place.path))
}

/// An empty name would become the path of the whole list.
fn check_names(synopsis: &str, words: &[String]) -> Result<(), Stop> {
    let kind = match synopsis.split(' ').next().unwrap_or("").trim_matches(['[', ']', '.']) {
        "SERVICE" | "SERVICE|TASK" => "service",
        "NODE" | "self|NODE" => "node",
        // `volume create ''` makes a name.
        "VOLUME" if synopsis != "[VOLUME]" => "volume",
        "IMAGE" if !synopsis.contains("[COMMAND]") => "image",
        _ => return Ok(()),
    };
    if words.iter().all(|word| !word.trim().is_empty()) {
        return Ok(());
    }
    Err(Stop::Rule(format!("invalid {kind} name or ID: value is empty")))
}

/// A service goes back to a whole spec: what other flags ask for would be lost.
fn check_rollback(place: &Place, flags: &Flags) -> Result<(), Stop> {
    let rollback = flags.given.get("--rollback").and_then(|(_, values)| values.last());
    let rollback = rollback.is_some_and(|value| parse::value::boolean(value) == Ok(true));
    let alone =
        || flags.given.keys().all(|name| matches!(*name, "--rollback" | "--detach" | "--quiet"));
    if place.path == "service update" && rollback && !alone() {
        return Err(Stop::Rule("other flags may not be combined with --rollback".to_owned()));
    }
    Ok(())
}

/// The flags of one command as they are met; a later value of a single flag replaces the earlier.
#[derive(Default)]
struct Flags {
    given: BTreeMap<&'static str, (bool, Vec<String>)>,
}

impl Flags {
    /// Reads flags up to the first positional (`stops`) or to the end. Returns the positionals met
    /// and what was not looked at.
    fn read<'a>(
        &mut self,
        place: &Place,
        args: &'a [String],
        stops: bool,
    ) -> Result<(Vec<String>, &'a [String]), Stop> {
        let mut words = Vec::new();
        let mut rest = args;
        while let Some((arg, after)) = rest.split_first() {
            rest = after;
            if arg == "--" {
                words.extend_from_slice(rest);
                return Ok((words, &[]));
            } else if let Some(long) = arg.strip_prefix("--") {
                rest = self.long(place, long, rest)?;
            } else if let Some(shorts) = arg.strip_prefix('-').filter(|s| !s.is_empty()) {
                rest = self.shorts(place, shorts, rest)?;
            } else {
                words.push(arg.clone());
                if stops {
                    break;
                }
            }
        }
        Ok((words, rest))
    }

    fn long<'a>(
        &mut self,
        place: &Place,
        text: &str,
        rest: &'a [String],
    ) -> Result<&'a [String], Stop> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let flags = || flags(&place.info);
        let Some(flag) = flags().find(|flag| bare(flag) == name) else {
            if name == "help" {
                return Err(Stop::Help(clone(place)));
            }
            if name == "version" && place.path.is_empty() {
                return Err(Stop::Version);
            }
            let near = nearest::nearest(name, flags().map(bare));
            let near = near.map(|name| format!("--{name}"));
            return Err(Stop::Flag(clone(place), format!("unknown flag: --{name}"), near));
        };
        match (value, is_boolean(flag), rest.split_first()) {
            (Some(value), ..) => self.set(place, flag, value)?,
            (None, true, _) => self.set(place, flag, "true")?,
            (None, false, Some((value, after))) => {
                self.set(place, flag, value)?;
                return Ok(after);
            }
            (None, false, None) => {
                let why = format!("flag needs an argument: --{name}");
                return Err(Stop::Flag(clone(place), why, None));
            }
        }
        Ok(rest)
    }

    fn shorts<'a>(
        &mut self,
        place: &Place,
        cluster: &str,
        rest: &'a [String],
    ) -> Result<&'a [String], Stop> {
        for (at, short) in cluster.char_indices() {
            let tail = &cluster[at + short.len_utf8()..];
            let Some(flag) = place.info.flags.iter().find(|flag| flag.short == Some(short)) else {
                if short == 'h' {
                    return Err(Stop::Help(clone(place)));
                }
                if short == 'v' && place.path.is_empty() {
                    return Err(Stop::Version);
                }
                let why = format!("unknown shorthand flag: '{short}' in -{cluster}");
                return Err(Stop::Flag(clone(place), why, None));
            };
            if is_boolean(flag) {
                if let Some(value) = tail.strip_prefix('=') {
                    self.set(place, flag, value)?;
                    return Ok(rest);
                }
                self.set(place, flag, "true")?;
                continue;
            }
            if !tail.is_empty() {
                self.set(place, flag, tail.strip_prefix('=').unwrap_or(tail))?;
                return Ok(rest);
            }
            let Some((value, after)) = rest.split_first() else {
                let why = format!("flag needs an argument: '{short}' in -{cluster}");
                return Err(Stop::Flag(clone(place), why, None));
            };
            self.set(place, flag, value)?;
            return Ok(after);
        }
        Ok(rest)
    }

    fn set(&mut self, place: &Place, flag: &FlagInfo<'static>, value: &str) -> Result<(), Stop> {
        if let Err(error) = parse::check(flag, value) {
            let why = format!("invalid argument {value:?} for \"{}\" flag: {error}", shown(flag));
            return Err(Stop::Flag(clone(place), why, None));
        }
        let switch = flag.kind == FlagInfoKind::Switch;
        let (_, values) = self.given.entry(flag.long).or_insert((switch, Vec::new()));
        if flag.optionality != Optionality::Repeating {
            values.clear();
        }
        values.push(value.to_owned());
        Ok(())
    }

    /// The flags as argh reads them.
    fn rewritten(self) -> Vec<String> {
        let mut out = Vec::new();
        for (long, (switch, values)) in self.given {
            for value in values {
                if switch {
                    if parse::value::boolean(&value) == Ok(true) {
                        out.push(long.to_owned());
                    }
                } else {
                    out.push(long.to_owned());
                    out.push(value);
                }
            }
        }
        out
    }
}

/// A flag's long name without its dashes.
pub fn bare(flag: &FlagInfo<'static>) -> &'static str {
    flag.long.trim_start_matches('-')
}

/// Whether a flag is true when it stands alone.
pub fn is_boolean(flag: &FlagInfo<'_>) -> bool {
    matches!(flag.kind, FlagInfoKind::Switch | FlagInfoKind::Option { arg_name: "bool" })
}

/// `-p, --publish`, as errors name it.
fn shown(flag: &FlagInfo<'static>) -> String {
    let long = bare(flag);
    flag.short.map_or_else(|| format!("--{long}"), |short| format!("-{short}, --{long}"))
}

fn clone(place: &Place) -> Box<Place> {
    Box::new(Place { path: place.path.clone(), info: place.info.clone() })
}
