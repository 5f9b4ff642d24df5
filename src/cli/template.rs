//! The part of Go's templates that `--format` needs, over JSON values.
//!
//! Fields (`{{.Spec.Name}}`), pipes, `json`, `join`, `split`, `lower`, `upper`, `title`, `len`,
//! `index`, `println`, `eq`, `ne`, `not`, `if`/`else`/`end`, `range`/`end`, `with`/`end` and
//! comments; anything else is refused with its name. Not a general template engine: no variables,
//! no definitions.

use serde_json::Value;

/// A template that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Node>);

/// Why a template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The text is not a template.
    #[error("template parsing error: template: :1: {0}")]
    Parse(String),
    /// A row does not have what the template asks for.
    #[error("failed to execute template: template: :1: executing \"\" at <{0}>: {1}")]
    Execute(String, String),
}

/// Blocks inside blocks that are read.
const NESTING_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Print(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
}

/// Calls joined by `|`: the result of each is the last argument of the next.
#[derive(Clone, Debug, PartialEq)]
struct Pipe {
    text: String,
    calls: Vec<Vec<Term>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Term {
    Field { root: bool, path: Vec<String> },
    Literal(Value),
    Function(String),
    Nested(Pipe),
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = pieces(text)?.into_iter();
        let (nodes, end) = block(&mut parts, 0)?;
        match end {
            None => Ok(Self(nodes)),
            Some(word) => Err(TemplateError::Parse(format!("unexpected {{{{{word}}}}}"))),
        }
    }

    /// Fills the template with a value. A missing field is an error when `strict`, else Go's
    /// `<no value>`.
    pub fn fill(&self, value: &Value, strict: bool) -> Result<String, TemplateError> {
        let mut out = String::new();
        let scope = Scope { root: value, dot: value, strict };
        scope.run(&self.0, &mut out)?;
        Ok(out)
    }
}

enum Piece {
    Text(String),
    Action(String),
}

/// Cuts text and actions apart; `{{-` and `-}}` trim.
fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(start) = rest.find("{{") {
        let mut before = &rest[..start];
        if trim {
            before = before.trim_start();
        }
        let after = &rest[start + 2..];
        let Some(end) = after.find("}}") else {
            return Err(TemplateError::Parse("unclosed action".to_owned()));
        };
        let mut action = &after[..end];
        if let Some(inner) = action.strip_prefix("- ") {
            action = inner;
            before = before.trim_end();
        }
        trim = action.ends_with(" -");
        let action = action.strip_suffix(" -").unwrap_or(action).trim();
        out.push(Piece::Text(before.to_owned()));
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            out.push(Piece::Action(action.to_owned()));
        }
        rest = &after[end + 2..];
    }
    out.push(Piece::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(out)
}

/// Reads up to `end`, `else` or the end of the text; says which.
fn block(
    parts: &mut impl Iterator<Item = Piece>,
    depth: usize,
) -> Result<(Vec<Node>, Option<String>), TemplateError> {
    if depth > NESTING_MAX {
        return Err(TemplateError::Parse("blocks are nested too deeply".to_owned()));
    }
    let mut nodes = Vec::new();
    while let Some(part) = parts.next() {
        let action = match part {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(' ').unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "if" | "with" | "range" => {
                let pipe = pipe(rest)?;
                let (then, otherwise) = branches(parts, depth)?;
                nodes.push(match word {
                    "if" => Node::If(pipe, then, otherwise),
                    "with" => Node::With(pipe, then, otherwise),
                    _ => Node::Range(pipe, then, otherwise),
                });
            }
            "define" | "template" | "block" | "break" | "continue" => {
                return Err(TemplateError::Parse(format!("{{{{{word}}}}} is not supported")));
            }
            _ => nodes.push(Node::Print(pipe(&action)?)),
        }
    }
    Ok((nodes, None))
}

fn branches(
    parts: &mut impl Iterator<Item = Piece>,
    depth: usize,
) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
    let (then, end) = block(parts, depth + 1)?;
    let otherwise = match end.as_deref() {
        Some("end") => return Ok((then, Vec::new())),
        Some("else") => block(parts, depth + 1)?,
        Some(_) => {
            let (word, rest) = ("if", end.as_deref().and_then(|e| e.strip_prefix("else if ")));
            let rest = rest.ok_or_else(|| TemplateError::Parse("unexpected {{else}}".to_owned()))?;
            let pipe = pipe(rest)?;
            let (inner, other) = branches(parts, depth + 1)?;
            debug_assert_eq!(word, "if");
            return Ok((then, vec![Node::If(pipe, inner, other)]));
        }
        None => return Err(TemplateError::Parse("unexpected EOF".to_owned())),
    };
    match otherwise {
        (nodes, Some(end)) if end == "end" => Ok((then, nodes)),
        _ => Err(TemplateError::Parse("unexpected EOF".to_owned())),
    }
}

/// Reads `a b | c`.
fn pipe(text: &str) -> Result<Pipe, TemplateError> {
    let mut calls = vec![Vec::new()];
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('|') {
            calls.push(Vec::new());
            rest = after.trim_start();
            continue;
        }
        let (term, after) = term(rest)?;
        if let Some(call) = calls.last_mut() {
            call.push(term);
        }
        rest = after.trim_start();
    }
    if calls.iter().any(Vec::is_empty) {
        return Err(TemplateError::Parse("missing value for command".to_owned()));
    }
    Ok(Pipe { text: text.trim().to_owned(), calls })
}

fn term(text: &str) -> Result<(Term, &str), TemplateError> {
    if let Some(quoted) = text.strip_prefix(['"', '`']) {
        let quote = &text[..1];
        let mut end = 0;
        while let Some(at) = quoted[end..].find(quote) {
            end += at;
            if quote == "`" || !quoted[..end].ends_with('\\') {
                let literal = if quote == "`" {
                    Value::String(quoted[..end].to_owned())
                } else {
                    serde_json::from_str(&text[..end + 2])
                        .map_err(|_why| TemplateError::Parse("bad string constant".to_owned()))?
                };
                return Ok((Term::Literal(literal), &quoted[end + 1..]));
            }
            end += 1;
        }
        return Err(TemplateError::Parse("unterminated quoted string".to_owned()));
    }
    if let Some(inner) = text.strip_prefix('(') {
        let mut depth = 1usize;
        for (at, c) in inner.char_indices() {
            depth = match c {
                '(' => depth + 1,
                ')' => depth - 1,
                _ => depth,
            };
            if depth == 0 {
                return Ok((Term::Nested(pipe(&inner[..at])?), &inner[at + 1..]));
            }
        }
        return Err(TemplateError::Parse("unclosed left paren".to_owned()));
    }
    let end = text.find([' ', '|', ')', '\t']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let root = word.starts_with("$.") || word == "$";
    if let Some(path) = word.strip_prefix('$').unwrap_or(word).strip_prefix('.') {
        let path = path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        return Ok((Term::Field { root, path }, rest));
    }
    if root {
        return Ok((Term::Field { root, path: Vec::new() }, rest));
    }
    if word.starts_with('$') {
        return Err(TemplateError::Parse(format!("variables are not supported: {word}")));
    }
    if let Ok(value) = serde_json::from_str::<Value>(word) {
        return Ok((Term::Literal(value), rest));
    }
    if !FUNCTIONS.contains(&word) {
        return Err(TemplateError::Parse(format!("function {word:?} not defined")));
    }
    Ok((Term::Function(word.to_owned()), rest))
}

const FUNCTIONS: [&str; 15] = [
    "json", "join", "split", "lower", "upper", "title", "len", "index", "println", "print", "eq",
    "ne", "not", "and", "or",
];

/// What `.` and `$` are.
struct Scope<'a> {
    root: &'a Value,
    dot: &'a Value,
    strict: bool,
}

impl Scope<'_> {
    fn run(&self, nodes: &[Node], out: &mut String) -> Result<(), TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipe) => out.push_str(&self.pipe(pipe)?.map_or_else(
                    || "<no value>".to_owned(),
                    |value| shown(&value),
                )),
                Node::If(pipe, then, otherwise) => {
                    let truth = self.pipe(pipe)?.is_some_and(|value| truth(&value));
                    self.run(if truth { then } else { otherwise }, out)?;
                }
                Node::With(pipe, then, otherwise) => match self.pipe(pipe)? {
                    Some(value) if truth(&value) => {
                        Scope { root: self.root, dot: &value, strict: self.strict }
                            .run(then, out)?;
                    }
                    _ => self.run(otherwise, out)?,
                },
                Node::Range(pipe, then, otherwise) => {
                    let items = match self.pipe(pipe)? {
                        Some(Value::Array(items)) => items,
                        Some(Value::Object(map)) => map.into_iter().map(|(_, item)| item).collect(),
                        Some(Value::Null) | None => Vec::new(),
                        Some(_) => return Err(failed(pipe, "range can't iterate over it")),
                    };
                    if items.is_empty() {
                        self.run(otherwise, out)?;
                    }
                    for item in &items {
                        Scope { root: self.root, dot: item, strict: self.strict }.run(then, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn pipe(&self, pipe: &Pipe) -> Result<Option<Value>, TemplateError> {
        let mut last: Option<Option<Value>> = None;
        for call in &pipe.calls {
            let (first, arguments) = call.split_first().ok_or_else(|| failed(pipe, "empty"))?;
            let mut values = Vec::new();
            for term in arguments {
                values.push(self.term(pipe, term)?.unwrap_or(Value::Null));
            }
            if let Some(value) = last.take() {
                values.push(value.unwrap_or(Value::Null));
            }
            last = Some(match first {
                Term::Function(name) => {
                    Some(super::template_functions::call(name, &values).map_err(|why| failed(pipe, &why))?)
                }
                _ if !values.is_empty() => {
                    return Err(failed(pipe, "can't give argument to non-function"));
                }
                term => self.term(pipe, term)?,
            });
        }
        Ok(last.flatten())
    }

    fn term(&self, pipe: &Pipe, term: &Term) -> Result<Option<Value>, TemplateError> {
        match term {
            Term::Literal(value) => Ok(Some(value.clone())),
            Term::Nested(inner) => self.pipe(inner),
            Term::Function(name) => super::template_functions::call(name, &[])
                .map(Some)
                .map_err(|why| failed(pipe, &why)),
            Term::Field { root, path } => {
                let mut value = if *root { self.root } else { self.dot };
                for name in path {
                    match value.get(name) {
                        Some(inner) => value = inner,
                        None if self.strict => {
                            return Err(failed(pipe, &format!("can't evaluate field {name}")));
                        }
                        None => return Ok(None),
                    }
                }
                Ok(Some(value.clone()))
            }
        }
    }
}

fn failed(pipe: &Pipe, why: &str) -> TemplateError {
    TemplateError::Execute(pipe.text.clone(), why.to_owned())
}

/// Whether Go counts a value as true: not zero, not empty.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as Go's `%v` prints it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}:{}", shown(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(text: &str) -> String {
        let value = json!({
            "Name": "web", "Self": true, "N": 3, "List": ["a", "b"],
            "Spec": {"Labels": {"x": "1"}, "Empty": ""}
        });
        match Template::parse(text).and_then(|template| template.fill(&value, false)) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_people_write_works() {
        for (text, expected) in [
            ("{{.Name}}: {{ .N }}", "web: 3"),
            ("{{.Spec.Labels}} {{.List}}", "map[x:1] [a b]"),
            ("{{json .Spec}}", r#"{"Empty":"","Labels":{"x":"1"}}"#),
            ("{{.Name | upper | json}}", "\"WEB\""),
            ("{{join .List \",\"}}", "a,b"),
            ("{{if .Self}}*{{else}} {{end}}", "*"),
            ("{{if .Spec.Empty}}a{{else if .Name}}b{{else}}c{{end}}", "b"),
            ("{{range .List}}{{.}}-{{$.Name}};{{end}}", "a-web;b-web;"),
            ("{{range $.Nope}}x{{else}}none{{end}}", "none"),
            ("{{with .Spec}}{{.Labels.x}}{{end}}", "1"),
            ("{{index .Spec.Labels \"x\"}} {{index .List 1}}", "1 b"),
            ("{{if eq .Name \"web\"}}yes{{end}} {{len .List}}", "yes 2"),
            ("{{if (not .Self)}}a{{end}}b", "b"),
            ("a {{- /* c */ -}} b", "ab"),
            ("{{.Nope}}", "<no value>"),
            ("{{.Name", "template parsing error: template: :1: unclosed action"),
            ("{{foo .Name}}", "template parsing error: template: :1: function \"foo\" not defined"),
            (
                "{{$x := .Name}}",
                "template parsing error: template: :1: variables are not supported: $x",
            ),
            ("{{if .Name}}", "template parsing error: template: :1: unexpected EOF"),
            ("{{end}}", "template parsing error: template: :1: unexpected {{end}}"),
            (
                "{{define \"x\"}}",
                "template parsing error: template: :1: {{define}} is not supported",
            ),
        ] {
            assert_eq!(filled(text), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_column_is_an_error() {
        let template = Template::parse("{{.Nope}}").unwrap();
        let error = template.fill(&json!({}), true).unwrap_err();
        assert!(error.to_string().contains("can't evaluate field Nope"));
    }
}
