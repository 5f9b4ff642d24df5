//! The nearest known name to one that is not known.

/// Edits that a typing error may need.
const EDITS_MAX: usize = 2;

/// The known name with the fewest edits, or the shortest that begins with what was typed; one that
/// ends in `-rm` only when there is no other.
pub fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let limit = EDITS_MAX.min(typed.chars().count().div_ceil(3));
    let close = known
        .clone()
        .map(|name| (edits(typed, name), name))
        .filter(|(edits, _)| *edits <= limit)
        .min();
    let longer = || {
        let begins = known.filter(|name| typed.len() > 2 && name.starts_with(typed));
        // Who types `--env` to `update` wants to set something, not to take it away.
        begins.min_by_key(|name| (name.ends_with("-rm"), name.len()))
    };
    close.map(|(_, name)| name).or_else(longer)
}

/// Insertions, removals, replacements and swaps of neighbours that lead from `a` to `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_name() {
        let known = ["replicas", "publish", "env", "env-file", "limit-memory"];
        for (typed, expected) in [
            ("replica", Some("replicas")),
            ("relpicas", Some("replicas")),
            ("evn", Some("env")),
            ("limit-mem", Some("limit-memory")),
            ("bogus-flag", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, known.iter().copied()), expected, "{typed}");
        }
        let known = ["env-rm", "env-add", "publish-add", "publish-rm", "secret-rm"];
        for (typed, expected) in
            [("env", "env-add"), ("publish", "publish-add"), ("secret", "secret-rm")]
        {
            assert_eq!(nearest(typed, known.iter().copied()), Some(expected), "{typed}");
        }
    }
}
