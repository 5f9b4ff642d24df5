//! Conversations: each file under `tests/data/logic/raft` is a script of [`Lab`]'s commands and what
//! the members put out. A line that begins with `> ` is a command; `UPDATE_EXPECT=1` writes the
//! lines behind it anew.

use std::fmt::Write as _;

use expect_test::expect_file;

use super::lab::Lab;

fn check(script: &str, file: &expect_test::ExpectFile) {
    let mut lab = Lab::after(&[]);
    let mut all = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            lab.text.clear();
            lab.run(command);
            writeln!(all, "{line}").expect("a string");
            all.push_str(&lab.text);
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(all, "{line}").expect("a string");
        }
    }
    file.assert_eq(&all);
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => { $(
        #[test]
        fn $name() {
            const PATH: &str = concat!("../../../../tests/data/logic/raft/", stringify!($name), ".txt");
            check(
                include_str!(concat!("../../../../tests/data/logic/raft/", stringify!($name), ".txt")),
                &expect_file![PATH],
            );
        }
    )* };
}

scripts! {
    check_quorum, conflict, doubt, doubt_all, doubt_stale, election, figure_8, force, left, lost, membership, pre_vote, read, refused,
    restarted,
    snapshot, sole_voter, transfer,
}
