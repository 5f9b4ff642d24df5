//! Tables as Docker's tabwriter sets them (minimum width 10, padding 3), and the order of names.

use std::cmp::Ordering;

const WIDTH_MIN: usize = 10;
const PADDING: usize = 3;

/// Sets lines of cells, parted by tabs, in columns. The last cell of a line is not padded.
#[must_use]
pub fn align(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|at| {
            let padded = rows.iter().filter(|row| at + 1 < row.len());
            padded.map(|row| row[at].chars().count() + PADDING).max().unwrap_or(0).max(WIDTH_MIN)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if at + 1 < row.len() {
                let blanks = widths[at] - cell.chars().count();
                out.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        out.push('\n');
    }
    out
}

/// Compares names so that numbers inside them count as numbers: `web.2` before `web.10`.
#[must_use]
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        match (left.chars().next(), right.chars().next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, after_x) = number(left);
                let (y, after_y) = number(right);
                let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
                if order != Ordering::Equal {
                    return order;
                }
                (left, right) = (after_x, after_y);
            }
            (Some(x), Some(y)) if x == y => {
                (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
            }
            (Some(x), Some(y)) => return x.cmp(&y),
        }
    }
}

/// The digits at the start without leading zeros, and what follows them.
fn number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].trim_start_matches('0'), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_dockers() {
        let lines = ["ID\tNAME\tPORTS", "hdro64vhln4e\tcons\t"].map(str::to_owned);
        assert_eq!(align(&lines), "ID             NAME      PORTS\nhdro64vhln4e   cons      \n");
        let header = ["ID\tNAME\tMODE\tREPLICAS\tIMAGE\tPORTS".to_owned()];
        assert_eq!(align(&header), "ID        NAME      MODE      REPLICAS   IMAGE     PORTS\n");
    }

    #[test]
    fn names_are_ordered_by_their_numbers() {
        let mut names = ["web.10", "web.2", "web.02", "a", "web", "node-3", "node-12"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "node-3", "node-12", "web", "web.02", "web.2", "web.10"]);
    }
}
