//! Prints an error with its causes, once, where it leaves the program.

use std::error::Error;

/// `error: cause: cause of that`, each `Display` once.
#[must_use]
pub fn text(error: &dyn Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !out.ends_with(&cause_text) {
            out.push_str(": ");
            out.push_str(&cause_text);
        }
        next = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read a.txt")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow() {
        let outer = Outer(std::io::Error::other("disk is gone"));
        assert_eq!(text(&outer), "cannot read a.txt: disk is gone");
    }
}
