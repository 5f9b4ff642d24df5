//! `--env` and `--env-file`: what a container's environment becomes.

use crate::cli::CliError;
use crate::cli::error::plain;

/// Bytes of a file with variables.
const ENV_FILE_BYTES_MAX: u64 = 16 << 20;

/// Variables of files and flags in their order; a later one replaces an earlier one of its name.
pub fn merged(files: &[String], flags: &[String]) -> Result<Vec<String>, CliError> {
    let mut out = Vec::new();
    for path in files {
        let file = |source| CliError::File { path: path.clone(), source };
        let size = std::fs::metadata(path).map_err(file)?.len();
        if size > ENV_FILE_BYTES_MAX {
            return Err(plain(format!("{path}: larger than {ENV_FILE_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(file)?;
        for variable in lines(&text, |name| std::env::var(name).ok())? {
            replace(&mut out, variable);
        }
    }
    for flag in flags {
        let own = || std::env::var(flag).ok().map(|value| format!("{flag}={value}"));
        let variable = if flag.contains('=') { None } else { own() };
        replace(&mut out, variable.unwrap_or_else(|| flag.clone()));
    }
    Ok(out)
}

/// Adds a variable; one of the same name is removed first.
pub fn replace(variables: &mut Vec<String>, new: String) {
    let name = name(&new).to_owned();
    variables.retain(|old| self::name(old) != name);
    variables.push(new);
}

/// The part before `=`.
pub fn name(variable: &str) -> &str {
    variable.split('=').next().unwrap_or(variable)
}

/// The variables of a file: `K=V`, or `K` alone for one's own, `#` for comments.
fn lines(text: &str, own: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, CliError> {
    let mut out = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (line, None),
        };
        if key.contains([' ', '\t']) {
            let why = format!("variable '{key}' contains whitespaces");
            return Err(plain(format!("poorly formatted environment: {why}")));
        }
        if key.is_empty() {
            let why = format!("no variable name on line '{line}'");
            return Err(plain(format!("poorly formatted environment: {why}")));
        }
        match value {
            Some(value) => out.push(format!("{key}={value}")),
            None => out.extend(own(key).map(|value| format!("{key}={value}"))),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables() {
        let own = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let text = "\u{feff}# comment\n\n A=1\nB=a b=c \nHOME\nNONE\nC=\n";
        assert_eq!(lines(text, own).unwrap(), ["A=1", "B=a b=c ", "HOME=/root", "C="]);
        for (text, why) in [
            ("a b=c", "poorly formatted environment: variable 'a b' contains whitespaces"),
            ("=c", "poorly formatted environment: no variable name on line '=c'"),
        ] {
            assert_eq!(lines(text, own).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let flags = ["A=1", "B=2", "A=3", "AB=4"].map(str::to_owned);
        assert_eq!(merged(&[], &flags).unwrap(), ["B=2", "A=3", "AB=4"]);
    }
}
