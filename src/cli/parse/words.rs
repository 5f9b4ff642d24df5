//! `--entrypoint` and `--args`: one text cut into words as a shell would.

/// The words of a command.
pub type Words = Vec<String>;

/// Cuts at blanks; knows single and double quotes, backslashes and `#` comments.
pub fn parse(text: &str) -> Result<Words, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '#' if word.is_none() => {
                if !chars.by_ref().any(|c| c == '\n') {
                    break;
                }
            }
            '\\' => {
                let escaped = chars.next().ok_or("EOF found after escape character")?;
                word.get_or_insert_default().push(escaped);
            }
            '\'' => loop {
                let quoted = word.get_or_insert_default();
                match chars.next().ok_or("EOF found when expecting closing quote")? {
                    '\'' => break,
                    c => quoted.push(c),
                }
            },
            '"' => loop {
                let quoted = word.get_or_insert_default();
                match chars.next().ok_or("EOF found when expecting closing quote")? {
                    '"' => break,
                    '\\' => quoted.push(chars.next().ok_or("EOF found after escape character")?),
                    c => quoted.push(c),
                }
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn words_are_cut_as_a_shell_cuts_them() {
        for (text, words) in [
            ("", &[][..]),
            ("sh -c 'ls -l'", &["sh", "-c", "ls -l"]),
            ("a\\ b \"c \\\"d\\\"\"''e", &["a b", "c \"d\"e"]),
            ("a # b\nc", &["a", "c"]),
            ("''", &[""]),
        ] {
            assert_eq!(parse(text).unwrap(), words, "{text}");
        }
        assert_eq!(parse("sh 'x").unwrap_err(), "EOF found when expecting closing quote");
        assert_eq!(parse("x\\").unwrap_err(), "EOF found after escape character");
    }
}
