//! Each rule against small trees that break it, and against one that does not.

use super::{RULES, Tree};

const LOCK: &str = "[[package]]\nname = \"skep\"\n";

fn check(rule: &str, files: &[(&str, &str)], want: &[&str]) {
    let tree: Tree = files.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let (_, rule) = RULES.iter().find(|(name, _)| *name == rule).unwrap();
    assert_eq!(rule(&tree), want);
}

#[test]
fn every_rule_is_silent_on_a_tidy_tree() {
    for (name, _) in RULES {
        let files = [
            ("Cargo.lock", LOCK),
            ("src/lib.rs", "#![doc = include_str!(\"ARCHITECTURE.md\")]\npub mod base;"),
            ("src/base/mod.rs", "//! Leaves.\n"),
            (
                "src/logic/mod.rs",
                "//! See crate::host. \nuse crate::model::x;\nuse std::net::IpAddr;",
            ),
            ("tests/it/main.rs", "//! Tests.\nconst X: &str = \"tests/data/a/b.txt\";"),
            ("tests/data/a/b.txt", ""),
        ];
        check(name, &files, &[]);
    }
}

#[test]
fn edges() {
    let host = "//! x\n\nuse crate::{base::id, logic};";
    let want = ["src/host/a.rs:3: host must not name logic"];
    check("edges", &[("src/host/a.rs", host)], &want);
    let logic = "//! x\nfn f() { skep::host::disk::open() }";
    let want = ["src/logic/a/b.rs:2: logic must not name host"];
    check("edges", &[("src/logic/a/b.rs", logic)], &want);
    let shim = "//! x\nuse super::model::a;";
    check("edges", &[("src/shim/mod.rs", shim)], &["src/shim/mod.rs:2: shim must not name model"]);
    check("edges", &[("src/shim/a.rs", shim)], &[]);
    let hello = "use crate::base::a;\nuse crate::cli::b;";
    check("edges", &[("src/hello.rs", hello)], &["src/hello.rs:2: hello must not name cli"]);
    let new = ["src/extra/mod.rs: module extra is not in the table of edges"];
    check("edges", &[("src/extra/mod.rs", "")], &new);
    check("edges", &[("src/main.rs", "use skep::{cli, daemon, shim};")], &[]);
}

#[test]
fn purity() {
    let text = "use std::{fs, collections::BTreeMap};\nuse std::time::{Duration, Instant};";
    let want = [
        "src/model/a.rs:1: std::fs in a pure module",
        "src/model/a.rs:2: std::time::Instant in a pure module",
        "src/model/a.rs:2: Instant in a pure module",
    ];
    check("purity", &[("src/model/a.rs", text), ("src/host/a.rs", text)], &want);
    let text =
        "use std::net::{IpAddr, TcpStream};\nfn f() { std::env::args(); ::std::process::id() }";
    let want = [
        "src/logic/a.rs:1: std::net::TcpStream in a pure module",
        "src/logic/a.rs:2: std::env::args in a pure module",
        "src/logic/a.rs:2: std::process::id in a pure module",
    ];
    check("purity", &[("src/logic/a.rs", text)], &want);
    let text = "type T = nix::Result<()>;";
    check("purity", &[("src/base/a.rs", text)], &["src/base/a.rs:1: nix in a pure module"]);
}

#[test]
fn sizes() {
    let long = "x\n".repeat(501);
    let files = [("src/a/b.rs", &*long), ("tests/c.rs", &*long), ("src/a/d.json", &*long)];
    let want = ["src/a/b.rs: 501 lines, 500 are allowed", "tests/c.rs: 501 lines, 500 are allowed"];
    check("sizes", &files, &want);
    check("sizes", &[("src/a/b.rs", &long[..1000])], &[]);
}

#[test]
fn module_docs() {
    let want = ["src/a.rs: does not begin with //! and what it is"];
    check("module_docs", &[("src/a.rs", "\n// no\n//! late"), ("src/b.rs", "\n//! it is")], &want);
}

#[test]
fn unfinished() {
    let text = concat!("//! x\n// FIX", "ME later\nfn f() { todo!() }\n// a todo! in words\n");
    let want = [concat!("src/a.rs:2: FIX", "ME"), "src/a.rs:3: todo!"];
    check("unfinished", &[("src/a.rs", text)], &want);
    let text = concat!("use super::super::a;\n// TO", "DO: more\n// TO", "DO(#7): more\n");
    let want = [
        "src/a.rs:1: climbs twice; name it from crate::",
        concat!("src/a.rs:2: TO", "DO without (#issue)"),
    ];
    check("unfinished", &[("src/a.rs", text)], &want);
    check("unfinished", &[("src/a.rs", "// mkdtemp wants XXXXXX\n")], &[]);
}

#[test]
fn facades() {
    let text = "//! tokio and skep in words\nuse tokio::net;\n";
    let want = ["src/daemon/a.rs:2: tokio outside host/gossip"];
    check("facades", &[("src/daemon/a.rs", text), ("src/host/gossip/a.rs", text)], &want);
    let text = "//! x\nuse skep::host;\nfn f() { unsafe { g() } }";
    let want = [
        "src/compat/tokio/lib.rs:2: a facade must not name skep",
        "src/compat/tokio/lib.rs: does not forbid unsafe code",
    ];
    check("facades", &[("src/compat/tokio/lib.rs", text)], &want);
    let text = "//! x\n#![forbid(unsafe_code)]\nuse tokio::sync;";
    check("facades", &[("src/compat/tokio-stream/lib.rs", text)], &[]);
}

#[test]
fn top_level() {
    let files = [("notes.txt", ""), (".ci/run", ""), ("docs/a.md", ""), ("tests/run.sh", "")];
    let want = ["docs: does not belong at the top", "notes.txt: does not belong at the top"];
    check("top_level", &files, &want);
}

#[test]
fn lock_file() {
    let registry = "source = \"registry+https://example.org\"\n";
    let lock = format!(
        "{LOCK}[[package]]\nname = \"mio\"\n{registry}[[package]]\nname = \"tokio\"\n\
         [[package]]\nname = \"tokio-util\"\n{registry}"
    );
    let want = ["Cargo.lock: mio must not come in", "Cargo.lock: tokio-util comes from a registry"];
    check("lock_file", &[("Cargo.lock", &lock)], &want);
    check("lock_file", &[], &["Cargo.lock: is missing"]);
}

#[test]
fn test_data() {
    let files = [
        ("tests/data/wire/a.bin", ""),
        ("tests/data/wire/b.bin", ""),
        ("tests/data/raft/c.txt", ""),
        ("tests/it/main.rs", "include_bytes!(\"../data/wire/a.bin\"); dir(\"tests/data/raft\")"),
    ];
    check("test_data", &files, &["tests/data/wire/b.bin: no test reads it"]);
}

#[test]
fn wire_sizes() {
    let text = "#[derive(Debug)]\nstruct A { n: usize }\n#[derive(Debug, Serialize)]\n\
                struct B(u8);\n#[derive(Serialize)]\npub struct C { n: Vec<usize> }";
    let want = ["src/model/a.rs:5: usize in a type that is stored or sent"];
    check("wire_sizes", &[("src/model/a.rs", text), ("src/host/a.rs", text)], &want);
}
