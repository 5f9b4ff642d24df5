//! `--format` of lists and of `inspect`.

use serde_json::{Map, Value};

use super::CliError;
use super::context::Context;
use super::table;
use super::template::Template;

/// One line of a list: its columns by their template names.
pub type Row = Map<String, Value>;

/// How a list looks.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// Docker's template of the plain table: `{{.ID}}\t{{.Name}}`.
    pub table: &'a str,
    /// What `-q` shows of each line.
    pub quiet: &'a str,
    /// The heading of each column.
    pub headings: &'a [(&'a str, &'a str)],
}

impl Listing<'_> {
    /// The text of a list; the heading is printed for an empty one too.
    pub fn text(&self, rows: &[Row], format: Option<&str>, quiet: bool) -> Result<String, CliError> {
        let format = match format {
            None | Some("") if quiet => self.quiet,
            None | Some("") => "table",
            Some(format) => format,
        };
        if format == "json" {
            return Ok(rows.iter().map(|row| format!("{}\n", json(row))).collect());
        }
        let Some(columns) = format.strip_prefix("table") else {
            return lines(&Template::parse(&unescape(format))?, rows).map(|lines| {
                lines.into_iter().map(|line| line + "\n").collect()
            });
        };
        if quiet {
            let quiet = Template::parse(self.quiet)?;
            return Ok(lines(&quiet, rows)?.into_iter().map(|line| line + "\n").collect());
        }
        let columns = match columns.trim() {
            "" => self.table.to_owned(),
            columns => unescape(columns),
        };
        let template = Template::parse(&columns)?;
        let heading: Row = self
            .headings
            .iter()
            .map(|(name, heading)| ((*name).to_owned(), Value::from(*heading)))
            .collect();
        let mut all = vec![template.fill(&Value::Object(heading), true)?];
        all.extend(lines(&template, rows)?);
        Ok(table::align(&all))
    }
}

fn lines(template: &Template, rows: &[Row]) -> Result<Vec<String>, CliError> {
    rows.iter().map(|row| Ok(template.fill(&Value::Object(row.clone()), true)?)).collect()
}

fn json(row: &Row) -> String {
    Value::Object(row.clone()).to_string()
}

/// `\t` and `\n` as people type them in a shell.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// A row from names and values.
#[must_use]
pub fn row<const N: usize>(cells: [(&str, String); N]) -> Row {
    cells.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect()
}

/// The text of `inspect` over objects as the daemon sent them: an indented array, or each object
/// on a line of its own through the template.
pub fn inspect(objects: &[String], format: Option<&str>) -> Result<String, CliError> {
    let format = match format {
        None | Some("") => {
            let all = format!("[{}]", objects.join(","));
            return Ok(indent(&all) + "\n");
        }
        Some(format) => format,
    };
    let template = Template::parse(&if format == "json" { "{{json .}}".into() } else { unescape(format) })?;
    let mut out = String::new();
    for object in objects {
        let value: Value = serde_json::from_str(object).map_err(CliError::BadJson)?;
        out.push_str(&template.fill(&value, false)?);
        out.push('\n');
    }
    Ok(out)
}

/// Asks for each object by its name: the text of those that are there, and the errors of the others.
pub fn inspect_all(
    names: &[String],
    format: Option<&str>,
    get: impl Fn(&str) -> Result<String, CliError>,
) -> Result<(String, Vec<String>), CliError> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        match get(name) {
            Ok(text) => found.push(text.trim().to_owned()),
            Err(error @ CliError::Daemon { .. }) => errors.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok((inspect(&found, format)?, errors))
}

/// Tells what was not there, behind what was.
pub fn told(ctx: &mut Context, errors: &[String]) -> Result<(), CliError> {
    errors.iter().try_for_each(|error| ctx.error(error))?;
    if errors.is_empty() { Ok(()) } else { Err(CliError::Told) }
}

/// Sets JSON text in lines with four blanks per level, keeping the order of its fields.
#[must_use]
pub fn indent(json: &str) -> String {
    let mut out = String::new();
    let mut depth = 0usize;
    let mut chars = json.chars().filter(|c| !c.is_control()).peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push(c);
                let mut escaped = false;
                for c in chars.by_ref() {
                    out.push(c);
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if_eq(&' ').is_some() {}
                if matches!(chars.peek(), Some('}' | ']')) {
                    out.extend(chars.next());
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            ' ' => {}
            c => out.push(c),
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("    ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Listing<'_> = Listing {
        table: "{{.ID}}\t{{.Name}}",
        quiet: "{{.ID}}",
        headings: &[("ID", "ID"), ("Name", "NAME")],
    };

    fn shown(format: Option<&str>, quiet: bool) -> String {
        let rows = [row([("ID", "1".to_owned()), ("Name", "web".to_owned())])];
        LISTING.text(&rows, format, quiet).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn every_form_of_a_list() {
        assert_eq!(shown(None, false), "ID        NAME\n1         web\n");
        assert_eq!(shown(None, true), "1\n");
        assert_eq!(shown(Some("json"), false), "{\"ID\":\"1\",\"Name\":\"web\"}\n");
        assert_eq!(shown(Some("{{.Name}}\\t{{.ID}}"), false), "web\t1\n");
        assert_eq!(shown(Some("table {{.Name}}\\t{{.ID}}"), false), "NAME      ID\nweb       1\n");
        assert!(shown(Some("{{.X}}"), false).contains("can't evaluate field X"));
    }

    #[test]
    fn json_is_set_in_lines() {
        let text = indent(r#"{"b": [1, {"x":"a:{\"},"}], "a": {}, "c":[ ]}"#);
        assert_eq!(
            text,
            "{\n    \"b\": [\n        1,\n        {\n            \"x\": \"a:{\\\"},\"\n        }\n    \
             ],\n    \"a\": {},\n    \"c\": []\n}"
        );
        assert_eq!(inspect(&[], None).unwrap(), "[]\n");
        let object = r#"{"A":{"B":3}}"#.to_owned();
        assert_eq!(inspect(&[object], Some("{{.A.B}}")).unwrap(), "3\n");
    }
}
