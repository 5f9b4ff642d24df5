//! What a layer may hold, and what overlayfs then shows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use skep::host::images::ImageStore;

use super::archive::{Head, Tar, docker_archive};
use super::{Dir, busybox_layout, open, run};

/// Loads an image of these layers and gives its directories, top first.
fn unpack(store: &ImageStore, layers: &[Vec<u8>]) -> Vec<PathBuf> {
    let archive = docker_archive(layers, &["test:1"]);
    store.load(&archive[..], &mut |_| {}).unwrap();
    store.layers(&store.resolve("test:1").unwrap()).unwrap()
}

/// A read-only overlay of directories, top first.
struct Overlay(PathBuf);

impl Overlay {
    fn new(at: &Path, layers: &[PathBuf]) -> Self {
        fs::create_dir_all(at).unwrap();
        let empty = at.with_extension("empty");
        fs::create_dir_all(&empty).unwrap();
        let lower: Vec<_> =
            layers.iter().chain([&empty]).map(|path| path.display().to_string()).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        mount(Some("overlay"), at, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))
            .unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Every path with what matters of it.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mut line = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
            if meta.is_file() {
                line += &format!(" {} {}", meta.len(), meta.mtime());
            }
            if meta.is_symlink() {
                line += &format!(" -> {}", fs::read_link(&path).unwrap().display());
            }
            if meta.is_dir() {
                pending.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), line);
        }
    }
    found
}

/// cap_net_bind_service+p, as the kernel keeps it.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn everything_a_layer_can_hold_is_kept() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    let long = "n".repeat(120);
    let deep = vec!["d".repeat(90); 5].join("/");
    let layer = Tar::default()
        .dir("./", 0o711)
        .dir("bin", 0o755)
        .raw(&Head { mode: 0o4755, owner: (3, 4), size: 2, ..Head::new("bin/su", b'0') }, b"su")
        .hard_link("bin/su2", "bin/su")
        .hard_link("bin/su3", "/bin/su")
        .symlink("bin/link", "/etc/absolute")
        .hard_link("bin/link2", "bin/link")
        .dir("tmp", 0o1777)
        .raw(&Head { device: (1, 3), mode: 0o666, ..Head::new("null", b'3') }, b"")
        .raw(&Head { device: (7, 300), mode: 0o660, ..Head::new("loop", b'4') }, b"")
        .raw(&Head { mode: 0o600, ..Head::new("fifo", b'6') }, b"")
        .gnu_long(b'L', &format!("{deep}/gnu"))
        .file("short", b"gnu")
        .pax(&[("path", format!("{deep}/pax").as_bytes()), ("mtime", b"1500000000.25")])
        .file("short", b"pax")
        .gnu_long(b'K', &long)
        .symlink("longlink", "short")
        .pax(&[
            ("SCHILY.xattr.security.capability", CAPABILITY),
            ("SCHILY.xattr.user.own", b"value"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("capable", b"x")
        .pax(&[("uid", b"3000000"), ("gid", b"3000001")])
        .file("/absolute/implicit/file", b"abs")
        .file("twice", b"first")
        .file("twice", b"second")
        .dir("was-dir", 0o755)
        .file("was-dir/inside", b"x")
        .file("was-dir", b"now a file")
        .end();
    let root = unpack(&store, &[layer]).remove(0);
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    let mode = |name: &str| meta(name).mode() & 0o7777;
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o711);
    assert_eq!((mode("bin/su"), meta("bin/su").uid(), meta("bin/su").gid()), (0o4755, 3, 4));
    assert_eq!(meta("bin/su").ino(), meta("bin/su2").ino());
    assert_eq!(meta("bin/su").ino(), meta("bin/su3").ino());
    assert_eq!(meta("bin/link").ino(), meta("bin/link2").ino(), "a link to a link is no copy");
    assert_eq!(meta("bin").mtime(), 1_600_000_000, "what is put into a directory keeps its time");
    assert_eq!(mode("tmp"), 0o1777);
    assert!(meta("null").file_type().is_char_device());
    assert_eq!(
        (nix::sys::stat::major(meta("null").rdev()), nix::sys::stat::minor(meta("null").rdev())),
        (1, 3)
    );
    assert!(meta("loop").file_type().is_block_device());
    assert_eq!(nix::sys::stat::minor(meta("loop").rdev()), 300);
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!(fs::read(root.join(&deep).join("gnu")).unwrap(), b"gnu");
    let pax = fs::metadata(root.join(&deep).join("pax")).unwrap();
    assert_eq!((pax.mtime(), pax.mtime_nsec()), (1_500_000_000, 250_000_000));
    assert_eq!(fs::read_link(root.join("longlink")).unwrap().as_os_str().len(), 120);
    assert_eq!(
        (meta("absolute/implicit/file").uid(), meta("absolute/implicit/file").gid()),
        (3_000_000, 3_000_001)
    );
    assert_eq!(mode("absolute/implicit"), 0o755);
    assert_eq!(fs::read(root.join("twice")).unwrap(), b"second");
    assert_eq!(fs::read(root.join("was-dir")).unwrap(), b"now a file");
    let root = root.display().to_string();
    let shown = run("tar", &["--xattrs", "--xattrs-include=*", "-C", &root, "-cf", "-", "capable"]);
    assert!(shown.contains("security.capability") && shown.contains("user.own=value"));
    assert!(!shown.contains("overlay"), "overlayfs's own attributes never come from outside");
}

#[test]
fn whiteouts_hide_what_is_below_and_only_that() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    let lower = Tar::default()
        .file("a/x", b"x")
        .file("a/y", b"y")
        .file("b/old", b"old")
        .file("c/old", b"old")
        .file("d/old", b"old")
        .file("e/old", b"old")
        .file("f", b"old")
        .end();
    let upper = Tar::default()
        .file("a/.wh.x", b"")
        .file("b/new", b"new")
        .file("b/.wh..wh..opq", b"")
        .file(".wh.c", b"")
        .dir("c", 0o755)
        .file("c/new", b"new")
        .file(".wh.d", b"")
        .file("d/new", b"the directory comes without an entry of its own")
        .dir("e", 0o755)
        .file("e/new", b"new")
        .file(".wh.e", b"")
        .file("f", b"new")
        .file(".wh.f", b"")
        .file(".wh..wh.plnk", b"")
        .end();
    let layers = unpack(&store, &[lower, upper]);
    let overlay = Overlay::new(&dir.path("mnt"), &layers);
    let files: Vec<String> = listing(&overlay.0).into_keys().collect();
    assert_eq!(files, ["a", "a/y", "b", "b/new", "c", "c/new", "d", "d/new", "e", "e/new", "f"]);
    assert_eq!(fs::read(overlay.0.join("f")).unwrap(), b"new");
}

#[test]
fn umoci_sees_the_same_files() {
    let dir = Dir::new();
    let image = busybox_layout(&dir);
    let bundle = dir.path("bundle");
    run("umoci", &["unpack", "--image", &image, &bundle.display().to_string()]);
    let tar = dir.path("image.tar");
    run(
        "tar",
        &["-C", &dir.path("layout").display().to_string(), "-cf", &tar.display().to_string(), "."],
    );
    let store = open(&dir.path("store"));
    let loaded = store.load(fs::File::open(&tar).unwrap(), &mut |_| {}).unwrap();
    let id = loaded[0].to_string().replace("Loaded image ID: ", "");
    let layers = store.layers(&store.resolve(&id).unwrap()).unwrap();
    let overlay = Overlay::new(&dir.path("mnt"), &layers);
    assert_eq!(listing(&overlay.0), listing(&bundle.join("rootfs")));
}
