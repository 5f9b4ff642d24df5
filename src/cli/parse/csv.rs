//! One record of comma separated values, quoted as Go's `encoding/csv` reads it.

/// Splits a record into its fields; a field in double quotes may hold commas and doubled quotes.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_field(text, quoted)?
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if let Some(at) = rest[..end].find('"') {
                return Err(error(text, rest, at, "bare \" in non-quoted field"));
            }
            (rest[..end].to_owned(), &rest[end..])
        };
        out.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(out),
        }
    }
}

/// The field whose opening quote was just passed, and what follows the closing one.
fn quoted_field<'a>(text: &str, quoted: &'a str) -> Result<(String, &'a str), String> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let Some(end) = rest.find('"') else {
            return Err(error(text, rest, rest.len(), "extraneous or missing \" in quoted-field"));
        };
        field.push_str(&rest[..end]);
        let after = &rest[end + 1..];
        if let Some(next) = after.strip_prefix('"') {
            field.push('"');
            rest = next;
        } else if after.is_empty() || after.starts_with(',') {
            return Ok((field, after));
        } else {
            return Err(error(text, after, 0, "extraneous or missing \" in quoted-field"));
        }
    }
}

fn error(text: &str, rest: &str, at: usize, why: &str) -> String {
    format!("parse error on line 1, column {}: {why}", text.len() - rest.len() + at + 1)
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn quotes_keep_commas() {
        assert_eq!(fields("a=1,b=2").unwrap(), ["a=1", "b=2"]);
        assert_eq!(fields("a,\"o=x,y\"\"z\",").unwrap(), ["a", "o=x,y\"z", ""]);
        assert_eq!(fields("").unwrap(), [""]);
        for bad in ["a\"b", "\"ab", "\"a\"b"] {
            assert!(fields(bad).unwrap_err().starts_with("parse error on line 1"), "{bad}");
        }
    }
}
