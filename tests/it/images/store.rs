//! Names, removal and garbage; damaged files; full disks; the program's own image.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep::host::images::{ErrorKind, ImageStore, InUse, Removed};
use skep::model::image_ref::Reference;

use super::archive::{Tar, docker_archive};
use super::registry::{Registry, copy};
use super::{Dir, inventory, open};

fn nobody() -> InUse {
    InUse::new()
}

fn load(store: &ImageStore, files: &[(&str, &str)], tags: &[&str]) {
    let layers: Vec<_> =
        files.iter().map(|(name, text)| Tar::default().file(name, text.as_bytes()).end()).collect();
    store.load(&docker_archive(&layers, tags)[..], &mut |_| {}).unwrap();
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn removal_speaks_dockers_words_and_keeps_what_is_needed() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    load(&store, &[("base", "x"), ("top", "1")], &["a:1", "a:2", "b:1"]);
    load(&store, &[("base", "x"), ("top", "2")], &["c:1"]);
    let (a, c) = (store.resolve("a:1").unwrap(), store.resolve("c:1").unwrap());

    let unknown = store.remove("nope:1", false, &nobody).unwrap_err();
    assert_eq!(
        (unknown.to_string().as_str(), unknown.kind()),
        ("No such image: nope:1", ErrorKind::NotFound)
    );
    assert_eq!(store.resolve("nope").unwrap_err().to_string(), "No such image: nope:latest");
    let untagged = |name: &str| Removed::Untagged(name.to_owned());
    assert_eq!(store.remove("a:2", false, &nobody).unwrap(), [untagged("a:2")]);
    let several = store.remove(&a.id.short(), false, &nobody).unwrap_err();
    assert_eq!(
        several.to_string(),
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple \
             repositories",
            a.id.short()
        )
    );
    let used = || InUse::from([(c.id, "0123456789abcdef".to_owned())]);
    let conflict = store.remove("c:1", false, &used).unwrap_err();
    assert_eq!(
        conflict.to_string(),
        format!(
            "conflict: unable to remove repository reference \"c:1\" (must force) - container \
             0123456789ab is using its referenced image {}",
            c.id.short()
        )
    );
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    let by_id = store.remove(&c.id.hex(), true, &used).unwrap_err();
    assert!(
        by_id.to_string().contains("(cannot be forced) - image is being used by container 0123")
    );

    let lease = store.lease(c.id).unwrap();
    assert!(store.remove("c:1", false, &nobody).is_err(), "a lease keeps it");
    drop(lease);
    let removed = store.remove("c:1", false, &nobody).unwrap();
    assert_eq!(removed[..2], [untagged("c:1"), Removed::Deleted(c.id)]);
    assert_eq!(removed.len(), 3, "its own layer goes, the shared one stays: {removed:?}");
    assert_eq!(removed[0].to_string(), "Untagged: c:1");
    assert_eq!(removed[1].to_string(), format!("Deleted: {}", c.id));
    assert_eq!(store.layers(&a).unwrap().iter().filter(|path| path.is_dir()).count(), 2);
    assert!(store.lease(c.id).is_err());

    store.remove(&a.id.short(), true, &nobody).unwrap();
    assert!(store.list().is_empty());
    for left in ["layers", "blobs/sha256", "records", "tmp"] {
        assert_eq!(count(&dir.path("store").join(left)), 0, "{left}");
    }
}

#[test]
fn prefixes_must_be_unique_and_prune_spares_what_is_tagged_or_used() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    for n in 0..40 {
        load(&store, &[("f", &n.to_string())], &[]);
    }
    load(&store, &[("f", "tagged")], &["keep:1"]);
    let ids: Vec<_> = store.list().into_iter().map(|record| record.id).collect();
    let first: char = ids[0].hex().chars().next().unwrap();
    let same = ids.iter().filter(|id| id.hex().starts_with(first)).count();
    assert!(same > 1, "40 images share a first digit");
    let error = store.resolve(&first.to_string()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("ambiguous") && error.to_string().contains(&ids[0].short()));
    assert!(store.remove(&first.to_string(), true, &nobody).is_err());
    assert_eq!(store.list().len(), 41, "an ambiguous prefix removes nothing");

    let used = ids.iter().find(|id| store.resolve(&id.hex()).unwrap().repo_tags.is_empty());
    let used = *used.unwrap();
    let in_use = || InUse::from([(used, "c".to_owned())]);
    let report = store.prune(false, &|_| false, &in_use).unwrap();
    assert_eq!(store.list().len(), 2);
    assert!(report.bytes > 0 && report.removed.len() == 39 * 2, "{report:?}");
    let report =
        store.prune(true, &|image| image.repo_tags.contains(&"keep:1".to_owned()), &nobody);
    assert_eq!(report.unwrap().removed.len(), 2);
    store.prune(true, &|_| false, &nobody).unwrap();
    assert_eq!((store.list().len(), count(&dir.path("store/layers"))), (0, 0));
}

#[test]
fn prune_in_a_loop_during_a_hundred_pulls_and_creates_loses_nothing() {
    const PULLERS: usize = 4;
    const ROUNDS: usize = 25;
    let (dir, registry) = (Dir::new(), Registry::start(""));
    // Five images that share layers with their neighbours.
    for n in 0..5usize {
        let layers: Vec<_> = (n..n + 3)
            .map(|l| Tar::default().file(&format!("layer{l}"), &vec![0; 9_000 + l]).end())
            .collect();
        let tar = dir.path(&format!("{n}.tar"));
        fs::write(&tar, docker_archive(&layers, &[&format!("shared:{n}")])).unwrap();
        let from = format!("docker-archive:{}:shared:{n}", tar.display());
        copy(&from, &format!("docker://{}", registry.name(&format!("shared:{n}"))), &[]);
    }
    let store = open(&dir.path("store"));
    let used: Mutex<BTreeMap<usize, _>> = Mutex::new(BTreeMap::new());
    let in_use =
        || -> InUse { used.lock().unwrap().iter().map(|(n, id)| (*id, n.to_string())).collect() };
    let (done, retries, prunes) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let check = |id| {
        let record = store.resolve(&format!("{id}")).unwrap();
        for path in store.layers(&record).unwrap() {
            assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "{} is empty", path.display());
        }
    };
    let create = |puller: usize, round: usize| {
        let reference = registry.name(&format!("shared:{}", (puller + round) % 5));
        let reference = Reference::parse(&reference).unwrap();
        let (id, lease) = loop {
            let id = store.pull(&reference, None, &mut |_| {}).unwrap().id;
            // A prune may come between the pull and the lease: whoever creates pulls again.
            match store.lease(id) {
                Ok(lease) => break (id, lease),
                Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound),
            }
            retries.fetch_add(1, Ordering::Relaxed);
        };
        check(id);
        used.lock().unwrap().insert(puller, id); // The task's folder.
        drop(lease);
        check(id);
        used.lock().unwrap().remove(&puller);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.prune(true, &|_| false, &in_use).unwrap();
                prunes.fetch_add(1, Ordering::Relaxed);
            }
        });
        let pullers: Vec<_> = (0..PULLERS)
            .map(|puller| {
                let create = &create;
                scope.spawn(move || (0..ROUNDS).for_each(|round| create(puller, round)))
            })
            .collect();
        let failed = pullers.into_iter().filter_map(|puller| puller.join().err()).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0);
    });
    assert!(prunes.load(Ordering::Relaxed) > 50, "prune ran all the time");
    store.prune(true, &|_| false, &nobody).unwrap();
    for left in ["layers", "blobs/sha256", "records", "tmp"] {
        assert_eq!(count(&dir.path("store").join(left)), 0, "{left}");
    }
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_files_are_found_and_made_again_where_a_copy_exists() {
    let dir = Dir::new();
    let root = dir.path("store");
    load(&open(&root), &[("f", "one"), ("g", "two")], &["a:1"]);
    load(&open(&root), &[("h", "three")], &["b:1"]);
    let record = |store: &ImageStore| store.resolve("a:1").unwrap();
    let whole = record(&open(&root));
    let path = root.join("records").join(whole.id.hex());

    flip(&path);
    assert_eq!(record(&open(&root)), whole, "made again of the blobs");
    fs::write(&path, b"").unwrap();
    assert_eq!(record(&open(&root)), whole, "torn to nothing");
    assert!(path.metadata().unwrap().len() > 0, "and written again");
    flip(&root.join("names"));
    assert_eq!(record(&open(&root)).id, whole.id, "from the copy of the names");
    assert!(open(&root).resolve("b:1").is_err(), "the copy is from before the last change");
    assert_eq!(open(&root).list().len(), 2);

    let note = root.join("layers").join(whole.layers[0].diff_id.hex()).join("layer");
    flip(&note);
    flip(&path);
    assert_eq!(record(&open(&root)), whole, "the layer's note is measured again");
    // A layer that is gone is unpacked again from its blob; a damaged blob is not used.
    let layer = root.join("layers").join(whole.layers[0].diff_id.hex());
    let store = open(&root);
    fs::remove_dir_all(&layer).unwrap();
    let bottom = store.layers(&whole).unwrap().pop().unwrap();
    assert_eq!(fs::read_to_string(bottom.join("f")).unwrap(), "one");
    fs::remove_dir_all(&layer).unwrap();
    flip(&root.join("blobs/sha256").join(whole.layers[0].blob.unwrap().hex()));
    let error = store.layers(&whole).unwrap_err().to_string();
    assert!(error.contains("is damaged: its bytes do not match its digest"), "{error}");
    assert!(!layer.exists());
    // Without any copy the image is gone, told, and the others stay.
    flip(&path);
    flip(&root.join("blobs/sha256").join(whole.id.hex()));
    let store = open(&root);
    assert!(store.resolve("a:1").is_err());
    assert_eq!(store.list().len(), 1);
}

#[test]
fn what_a_power_cut_leaves_is_swept_and_never_used() {
    let dir = Dir::new();
    let root = dir.path("store");
    load(&open(&root), &[("f", "one")], &["a:1"]);
    let before = inventory(&root);
    fs::create_dir_all(root.join("tmp/layer-0/fs/half")).unwrap();
    fs::write(root.join("tmp/blob-1"), b"half").unwrap();
    fs::write(root.join("records").join(format!("{}.tmp", "a".repeat(64))), b"half").unwrap();
    fs::write(root.join("blobs/sha256").join("b".repeat(64)), b"whole, but of no image").unwrap();
    fs::create_dir_all(root.join("layers").join("c".repeat(64)).join("fs/x")).unwrap();
    let store = open(&root);
    assert_eq!(inventory(&root), before);
    assert_eq!(store.list().len(), 1);
}

/// A small file system on a directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_leaves_nothing_half_and_passes() {
    let (dir, registry) = (Dir::new(), Registry::start(""));
    let disk = SmallDisk::new(&dir.path("small"), "6m");
    let root = disk.0.join("store");
    let store = open(&root);
    load(&store, &[("f", "small")], &["small:1"]);
    let mut rng = skep::base::rng::Rng::new(7);
    let noise: Vec<u8> = (0..500_000).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    let big = docker_archive(&[Tar::default().file("big", &noise).end()], &["big:1"]);
    let tar = dir.path("big.tar");
    fs::write(&tar, &big).unwrap();
    let name = registry.name("big:1");
    copy(&format!("docker-archive:{}:big:1", tar.display()), &format!("docker://{name}"), &[]);
    let before = inventory(&root);
    let reference = Reference::parse(&name).unwrap();
    for round in 0..2 {
        let error = store.load(&big[..], &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(error.to_string().contains("no space left on device"), "{error}");
        assert_eq!(inventory(&root), before, "round {round}");
        let error = store.pull(&reference, None, &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert_eq!(inventory(&root), before, "round {round}");
    }
    // Not one byte left: names cannot change, and what is there stays.
    let filler = disk.0.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let error = store.tag("small:1", &Reference::parse("other:1").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(store.resolve("small:1").unwrap().repo_tags, ["small:1"]);
    drop(file);
    fs::remove_file(&filler).unwrap();
    mount(None::<&str>, &disk.0, None::<&str>, MsFlags::MS_REMOUNT, Some("size=32m")).unwrap();
    store.pull(&reference, None, &mut |_| {}).unwrap();
    store.load(&big[..], &mut |_| {}).unwrap();
    assert_eq!(store.resolve("big:1").unwrap().size, noise.len() as u64);
}

#[test]
fn the_reserve_of_the_disk_is_kept() {
    let dir = Dir::new();
    let mut config = super::config();
    config.limits.disk_reserve_bytes = u64::MAX / 2;
    let platform = skep::host::images::Platform::host();
    let store = ImageStore::open(&dir.path("store"), platform, config).unwrap();
    let layer = Tar::default().file("f", b"x").end();
    let error = store.load(&docker_archive(&[layer], &["a:1"])[..], &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
}

/// A child that is killed and reaped with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
}

#[test]
fn the_program_packs_itself_and_runs_as_process_one() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    let program = dir.path("program");
    fs::copy(env!("CARGO_BIN_EXE_skep"), &program).unwrap();
    let record = store.ensure_hello_of(&program).unwrap();
    assert_eq!(record.repo_tags, ["skep/hello:latest"]);
    assert!(record.repo_digests.is_empty());
    assert_eq!(record.config.entrypoint, ["/skep", "hello"]);
    assert_eq!(record.config.exposed_ports, ["80/tcp"]);
    assert_eq!(store.ensure_hello_of(&program).unwrap(), record);
    let root = store.layers(&record).unwrap().remove(0);
    assert_eq!(fs::read(root.join("skep")).unwrap(), fs::read(&program).unwrap());

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new("unshare")
        .args([
            "--fork",
            "--pid",
            "--uts",
            "--kill-child",
            "sh",
            "-c",
            "hostname pi-9; exec chroot \"$0\" /skep hello",
        ])
        .arg(&root)
        .env("PORT", port.to_string())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Running(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(e) => assert!(Instant::now() < deadline, "hello does not listen: {e}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nHello from pi-9\n"), "{answer}");
    let pid = child.0.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let init: i32 = children.trim().parse().unwrap();
    kill(Pid::from_raw(init), Signal::SIGTERM).unwrap();
    assert!(child.0.wait().unwrap().success(), "SIGTERM ends it although it is process 1");

    // Another version of the program: a new image takes the name, the old one can be pruned.
    fs::remove_file(&program).unwrap();
    fs::write(&program, b"another version").unwrap();
    let newer = store.ensure_hello_of(&program).unwrap();
    assert_ne!(newer.id, record.id);
    assert!(store.resolve(&record.id.hex()).unwrap().repo_tags.is_empty());
    store.prune(false, &|_| false, &nobody).unwrap();
    assert_eq!(store.list(), [newer]);
}

#[test]
fn the_running_program_is_packed_when_its_name_is_asked_for() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    for name in ["skep/hello", "skep/hello:latest", "docker.io/skep/hello"] {
        assert_eq!(store.resolve(name).unwrap().repo_tags, ["skep/hello:latest"], "{name}");
    }
    let reference = |name: &str| Reference::parse(name).unwrap();
    let record = store.pull(&reference("skep/hello"), None, &mut |_| {}).unwrap();
    assert_eq!(record.repo_tags, ["skep/hello:latest"]);
    let error = store.pull(&reference("skep/hello:2"), None, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
