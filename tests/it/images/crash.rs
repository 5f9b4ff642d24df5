//! `kill -9` at random moments while images come and go: what is found afterwards is whole.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use skep::base::rng::Rng;
use skep::host::images::{ImageRecord, ImageStore, InUse};

use super::archive::{Tar, docker_archive, gzip, sha256};
use super::{Dir, open};

const ROUNDS: u64 = 25;
const FILES: usize = 40;

/// What the child says after each image.
const LOADED: &str = "an image is loaded";

/// An archive whose layers all hold the same number of files.
fn archive(n: u64) -> Vec<u8> {
    let layer = |l: u64| {
        let files = (0..FILES).fold(Tar::default(), |tar, file| {
            tar.file(&format!("dir{file}/file"), format!("{l} {file}").repeat(100).as_bytes())
        });
        files.end()
    };
    gzip(&docker_archive(&[layer(n), layer(n + 1)], &[&format!("crash:{n}")]))
}

/// Not a test of its own: the process that [`killed_at_any_moment_the_store_is_whole`] kills.
#[test]
fn busy_child() {
    let Ok(root) = std::env::var("SKEP_TEST_STORE") else { return };
    let store = open(Path::new(&root));
    for n in (0..6).cycle() {
        store.load(&archive(n)[..], &mut |_| {}).unwrap();
        println!("{LOADED}");
        if n % 2 == 0 {
            store.remove(&format!("crash:{n}"), true, &InUse::new).unwrap();
        }
        if n == 5 {
            let keep = |image: &ImageRecord| !image.repo_tags.contains(&"crash:1".to_owned());
            store.prune(true, &keep, &InUse::new).unwrap();
        }
    }
}

fn check_whole(store: &ImageStore, root: &Path) {
    for image in store.list() {
        // Without a name when it was killed between the record and the name; prune takes it.
        for name in &image.repo_tags {
            assert_eq!(store.resolve(name).unwrap(), image);
        }
        for layer in store.layers(&image).unwrap() {
            assert_eq!(fs::read_dir(&layer).unwrap().count(), FILES);
            for item in fs::read_dir(&layer).unwrap() {
                let path = item.unwrap().path().join("file");
                assert!(fs::metadata(&path).unwrap().len() >= 300, "{}", path.display());
            }
        }
    }
    for item in fs::read_dir(root.join("blobs/sha256")).unwrap() {
        let path = item.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(sha256(&fs::read(&path).unwrap()), name);
    }
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0, "tmp");
}

/// Not a test of its own: the process whose system calls [`a_name_comes_after_the_sync`] reads.
#[test]
fn traced_child() {
    let Ok(root) = std::env::var("SKEP_TEST_TRACED") else { return };
    open(Path::new(&root)).load(&archive(1)[..], &mut |_| {}).unwrap();
}

#[test]
fn a_name_comes_after_the_sync() {
    let dir = Dir::new();
    let (root, trace) = (dir.path("store"), dir.path("trace"));
    fs::create_dir_all(&root).unwrap();
    let calls = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2";
    let output = Command::new("strace")
        .args(["-f", "-y", "-s", "4096", "-e", calls, "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "images::crash::traced_child"])
        .env("SKEP_TEST_TRACED", &root)
        .output()
        .expect("strace is needed by this test");
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&trace).unwrap();
    let calls: Vec<&str> = text.lines().filter(|line| line.contains("store")).collect();
    let mut seen = Vec::new();
    for (at, call) in calls.iter().enumerate().filter(|(_, call)| call.contains("rename")) {
        let paths: Vec<&str> = call.split('"').skip(1).step_by(2).collect();
        let [from, to] = paths[..] else { panic!("{call}") };
        let kind =
            ["/layers/", "/blobs/", "/records/", "/names"].iter().find(|it| to.contains(**it));
        let Some(kind) = kind else { continue };
        seen.push(*kind);
        let before = calls[..at].iter().any(|earlier| {
            let its_own = earlier.contains(&format!("<{from}>")) && earlier.ends_with("= 0");
            its_own && (earlier.contains("sync(") || earlier.contains("syncfs("))
        });
        assert!(before, "{call} is not preceded by its sync:\n{text}");
        let folder = Path::new(to).parent().unwrap().display().to_string();
        let after = calls[at..]
            .iter()
            .any(|later| later.contains("fsync(") && later.contains(&format!("<{folder}>")));
        assert!(after, "{call} is not followed by the sync of {folder}:\n{text}");
    }
    let last = |kind: &str| seen.iter().rposition(|other| *other == kind);
    let first = |kind: &str| seen.iter().position(|other| *other == kind);
    assert_eq!(seen.iter().filter(|kind| **kind == "/layers/").count(), 2, "{seen:?}");
    // A record counts on its layers, a name on its record.
    assert!(last("/layers/") < first("/records/"), "{seen:?}");
    assert!(first("/records/").is_some() && last("/records/") < first("/names"), "{seen:?}");
}

#[test]
fn killed_at_any_moment_the_store_is_whole() {
    let dir = Dir::new();
    let root = dir.path("store");
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut seen = 0;
    for _ in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "images::crash::busy_child", "--nocapture"])
            .env("SKEP_TEST_STORE", &root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed a random time after a random number of its own steps: however slow the disk is,
        // some rounds end with an image and some in the middle of one.
        let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..=rng.below(4) {
            let found = told.by_ref().find(|line| line.as_ref().unwrap().contains(LOADED));
            assert!(found.is_some(), "the child ended by itself");
        }
        std::thread::sleep(Duration::from_micros(rng.below(120_000)));
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(&root);
        check_whole(&store, &root);
        seen += store.list().len();
    }
    assert!(seen > 0, "no round left an image to look at");
}
