//! Just enough of Rust's grammar to look for names: comments, literals, paths, derived items.

/// The text with comments and literals blanked out, every line where it was.
pub(crate) fn code_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (kept, skipped) = match first {
            '/' if rest.starts_with("//") => (0, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (0, block_comment(rest)),
            '"' => (0, string(rest)),
            'r' | 'b' if !out.ends_with(is_word) => match raw_or_byte_string(rest) {
                Some(len) => (0, len),
                None => (1, 1),
            },
            '\'' => (0, char_literal(rest).unwrap_or(1)),
            _ => (first.len_utf8(), first.len_utf8()),
        };
        let (taken, after) = rest.split_at(skipped);
        out.push_str(&taken[..kept]);
        if kept == 0 {
            out.push(' ');
            out.extend(taken.chars().filter(|c| *c == '\n'));
        }
        rest = after;
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_or_byte_string(text: &str) -> Option<usize> {
    let start = text.trim_start_matches('b').trim_start_matches('r');
    let prefix = text.len() - start.len();
    let quoted = start.trim_start_matches('#');
    let hashes = start.len() - quoted.len();
    if prefix > 2 || !quoted.starts_with('"') || (hashes > 0 && !text[..prefix].contains('r')) {
        return None;
    }
    if !text[..prefix].contains('r') {
        return Some(prefix + string(quoted));
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = prefix + hashes + 1;
    Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()))
}

/// The length of a literal of one character; `None` for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let inner = &text[1..];
    if inner.starts_with('\\') {
        let end = inner[2..].find('\'')?;
        return Some(end + 4);
    }
    let c = inner.chars().next()?;
    inner[c.len_utf8()..].starts_with('\'').then(|| c.len_utf8() + 2)
}

/// Every word with its line.
pub(crate) fn words(text: &str) -> Vec<(usize, &str)> {
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(number, line)| {
            line.split(|c| !is_word(c)).filter(|w| !w.is_empty()).map(move |w| (number + 1, w))
        })
        .collect()
}

/// The paths that follow `root::`, groups in braces taken apart; each with its line.
pub(crate) fn names_after(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    let needle = format!("{root}::");
    for (at, _) in code.match_indices(&needle) {
        let before = code[..at].chars().next_back();
        // `::std` is the same root, `x::std` is not.
        let climbs = code[..at].strip_suffix("::").is_some_and(|head| head.ends_with(is_word));
        if before.is_some_and(is_word) || climbs {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let mut found = Vec::new();
        use_tree(&code[at + needle.len()..], "", &mut found);
        names.extend(found.into_iter().map(|name| (line, name)));
    }
    names
}

/// Takes one use tree off `text` and returns its length.
fn use_tree(text: &str, prefix: &str, out: &mut Vec<String>) -> usize {
    let mut at = text.len() - text.trim_start().len();
    let mut path = prefix.to_owned();
    loop {
        let rest = &text[at..];
        if rest.starts_with('{') {
            at += 1;
            loop {
                at += text[at..].len() - text[at..].trim_start().len();
                match text[at..].chars().next() {
                    Some('}') | None => return at + 1,
                    Some(',') => at += 1,
                    Some(_) => {
                        let taken = use_tree(&text[at..], &path, out);
                        let to_next = text[at + taken..].find([',', '}']);
                        match to_next {
                            Some(skip) => at += taken + skip,
                            None => return text.len(),
                        }
                    }
                }
            }
        }
        let word = rest.split(|c| !is_word(c)).next().unwrap_or("");
        path.push_str(word);
        at += word.len();
        if !text[at..].starts_with("::") || word.is_empty() {
            out.push(path);
            return at;
        }
        path.push_str("::");
        at += 2;
    }
}

/// The items whose derive list names `what`: the line of the derive and the item's text.
pub(crate) fn items_deriving<'a>(code: &'a str, what: &str) -> Vec<(usize, &'a str)> {
    let mut items = Vec::new();
    for (at, _) in code.match_indices("#[derive(") {
        let rest = &code[at..];
        let list = rest.split(']').next().unwrap_or("");
        if !words(list).iter().any(|(_, word)| *word == what) {
            continue;
        }
        let mut depth = 0;
        let body = &rest[list.len()..];
        let end = body.char_indices().find_map(|(at, c)| {
            match c {
                '{' | '(' => depth += 1,
                '}' | ')' => depth -= 1,
                _ => {}
            }
            (depth == 0 && (c == '}' || c == ';')).then_some(at)
        });
        let line = code[..at].matches('\n').count() + 1;
        items.push((line, &body[..end.unwrap_or(body.len())]));
    }
    items
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = r##"a /* b /* c */ d */ e // f
"g \" h" 'i' '\'' 'j r#"k " l"# b"m" b'n' o"##;
    let code = code_of(text);
    let kept: Vec<&str> = words(&code).into_iter().map(|(_, word)| word).collect();
    // What follows the quote of a lifetime stays; of a byte literal only its `b`.
    assert_eq!(kept, ["a", "e", "j", "b", "o"]);
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn use_trees_are_taken_apart() {
    let code =
        "use crate::{model::{a, b::c}, host};\nlet x = crate::logic::y(); mycrate::z; a::crate::q";
    let names: Vec<_> = names_after(code, "crate").into_iter().collect();
    let want = [(1, "model::a"), (1, "model::b::c"), (1, "host"), (2, "logic::y")];
    assert_eq!(names, want.map(|(line, name)| (line, name.to_owned())));
}
