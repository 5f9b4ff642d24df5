//! Archives that lie, escape or explode. Each gets a clear error and leaves nothing.

use std::fs;

use serde_json::json;
use skep::host::images::{ErrorKind, ImageStore, Limits, Platform, RegistryConfig};

use super::archive::{Head, Tar, configuration, docker_archive, gzip, manifest, sha256};
use super::{Dir, config, inventory, open};

/// The archive is refused with this text, and the store is as it was.
fn refused(store: &ImageStore, dir: &Dir, what: &str, archive: &[u8], want: &str) {
    let before = inventory(&dir.path("store"));
    let error = store.load(archive, &mut |_| {}).expect_err(what);
    let text = error.to_string();
    assert!(text.contains(want), "{what}: {text:?} has no {want:?}");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{what}");
    assert_eq!(inventory(&dir.path("store")), before, "{what} left something");
    assert!(store.list().is_empty(), "{what}");
}

/// A name, the archive or layer, and what the error says.
type Case<'a> = (&'a str, Vec<u8>, &'a str);

fn refused_layers(cases: Vec<Case<'_>>) {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    for (what, layer, want) in cases {
        refused(&store, &dir, what, &docker_archive(&[layer], &["evil:1"]), want);
    }
}

fn small() -> RegistryConfig {
    let limits = Limits {
        layer_bytes_max: 1 << 20,
        layer_entries_max: 100,
        blob_bytes_max: 2 << 20,
        archive_bytes_max: 3 << 20,
        archive_entries_max: 50,
        document_bytes_max: 64 << 10,
        disk_reserve_bytes: 0,
        ..Limits::default()
    };
    RegistryConfig { limits, ..config() }
}

#[test]
fn layers_cannot_leave_their_root() {
    let new = Tar::default;
    refused_layers(vec![
        ("dotdot", new().file("../evil", b"x").end(), "leaves the layer"),
        ("inner dotdot", new().file("a/../../evil", b"x").end(), "leaves the layer"),
        ("dotdot dir", new().dir("..", 0o777).end(), "leaves the layer"),
        (
            "pax dotdot",
            new().pax(&[("path", b"a/../../evil")]).file("f", b"x").end(),
            "leaves the layer",
        ),
        ("hard link out", new().hard_link("a", "../../../etc/passwd").end(), "leaves the layer"),
        (
            "hard link to absolute",
            new().hard_link("a", "/etc/passwd").end(),
            "hard link to nothing",
        ),
        (
            "hard link by symlink",
            new().symlink("s", "/").hard_link("a", "s/etc/passwd").end(),
            "hard link to nothing",
        ),
        ("hard link to itself", new().hard_link("a", "a").end(), "hard link to nothing"),
        ("file as parent", new().file("a", b"x").file("a/b", b"x").end(), "not a directory"),
        ("dangling parent", new().symlink("a", "nowhere").file("a/b", b"x").end(), "symbolic link"),
        (
            "looping parent",
            new().symlink("a", "b").symlink("b", "a").file("a/b", b"x").end(),
            "symbolic links",
        ),
        ("whiteout of dotdot", new().file("a/.wh...", b"").end(), "whiteout of nothing"),
        ("whiteout of nothing", new().file(".wh.", b"").end(), "whiteout of nothing"),
        ("root as file", new().file(".", b"x").end(), "the root is not a directory"),
    ]);
}

/// One file, its size told by these bytes.
fn sized(size: &[u8]) -> Vec<u8> {
    let mut tar = Tar::default().file("f", b"data").end();
    tar[124..124 + size.len()].copy_from_slice(size);
    tar[148..156].copy_from_slice(b"        ");
    let sum: u32 = tar[..512].iter().map(|b| u32::from(*b)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

#[test]
fn headers_of_layers_are_never_believed() {
    let new = Tar::default;
    let huge = "x".repeat(5_000);
    let mut flipped = new().file("f", b"x").end();
    flipped[0] = b'g';
    refused_layers(vec![
        ("sparse", new().raw(&Head::new("s", b'S'), b"").end(), "sparse"),
        ("pax sparse", new().pax(&[("GNU.sparse.major", b"1")]).file("s", b"").end(), "sparse"),
        ("unknown type", new().raw(&Head::new("s", b'M'), b"").end(), "type 'M' is not supported"),
        ("long name", new().gnu_long(b'L', &huge).file("s", b"").end(), "name is too long"),
        ("long part", new().gnu_long(b'L', &huge[..300]).file("s", b"").end(), "name is too long"),
        ("zero byte", new().pax(&[("path", b"a\0b")]).file("s", b"").end(), "zero byte"),
        (
            "pax nonsense",
            new().raw(&Head { size: 9, ..Head::new("p", b'x') }, b"999 a=b\nx").end(),
            "PAX header is broken",
        ),
        ("pax uid", new().pax(&[("uid", b"-1")]).file("s", b"").end(), "uid is not a number"),
        (
            "huge owner",
            new().pax(&[("uid", b"4294967295")]).file("s", b"").end(),
            "owner is out of range",
        ),
        (
            "huge pax",
            new().raw(&Head { size: 2 << 20, ..Head::new("p", b'x') }, &vec![b' '; 2 << 20]).end(),
            "limit of 1048576 bytes",
        ),
        ("checksum", flipped, "checksum"),
        ("size is text", sized(b"zzzzzzzzzzz"), "size is not a number"),
        ("size is negative", sized(&[0xff; 12]), "size is not a number"),
        (
            "size is enormous",
            sized(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            "end",
        ),
        ("cut in data", new().file("f", &[7; 4000]).cut(1024), "middle"),
        ("cut in header", new().file("f", b"x").file("g", b"x").cut(1024 + 100), "middle"),
    ]);
}

#[test]
fn links_may_lead_anywhere_and_what_goes_through_them_stays_inside() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    let sentinel = dir.path("sentinel");
    let absolute = sentinel.display().to_string();
    let through = Tar::default()
        .symlink("out", "/")
        .symlink("up", "../../../../../../..")
        .file("out/through-absolute", b"x")
        .file("up/through-relative", b"x")
        .file(&format!("out{absolute}/file"), b"x")
        .symlink("etc", "/etc")
        .dir("real", 0o755)
        .symlink("real/proc", "/proc/self/root/tmp")
        .end();
    store.load(&docker_archive(&[through], &["inside:1"])[..], &mut |_| {}).unwrap();
    let root = store.layers(&store.resolve("inside:1").unwrap()).unwrap().remove(0);
    assert!(root.join("through-absolute").is_file() && root.join("through-relative").is_file());
    assert!(root.join(absolute.trim_start_matches('/')).join("file").is_file());
    assert!(!sentinel.exists(), "a layer wrote outside its root");
}

fn archive_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    files.iter().fold(Tar::default(), |tar, (name, data)| tar.file(name, data)).end()
}

fn refused_archives(cases: Vec<Case<'_>>) {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    for (what, archive, want) in cases {
        refused(&store, &dir, what, &archive, want);
    }
}

#[test]
fn archives_cannot_lie_about_digests() {
    let layer = Tar::default().file("f", b"honest").end();
    let other = Tar::default().file("f", b"other").end();
    let config = configuration(std::slice::from_ref(&layer));
    let named = format!("{}.json", sha256(&config));
    let wrong = format!("{}.json", "0".repeat(64));
    let list = |config: &str, tag: &str, layers: &[&str]| {
        let one = json!([{ "Config": config, "RepoTags": [tag], "Layers": layers }]);
        one.to_string().into_bytes()
    };
    let honest = list(&named, "a:1", &["l"]);
    let with = |config_name: &str, layer: &[u8], list: &[u8]| {
        archive_of(&[(config_name, &config), ("l", layer), ("manifest.json", list)])
    };
    let no_layer = archive_of(&[(&named, &config), ("manifest.json", &honest)]);
    refused_archives(vec![
        ("no layer", no_layer, "not in it"),
        ("other layer", with(&named, &other, &honest), "should have digest"),
        ("name lies", with(&wrong, &layer, &list(&wrong, "a:1", &["l"])), "should have digest"),
        ("none", with(&named, &layer, &list(&named, "a:1", &[])), "names 1 layers, but it has 0"),
        ("bad name", with(&named, &layer, &list(&named, "UP", &["l"])), "must be lowercase"),
        ("path out", with(&named, &layer, &list("../../x", "a:1", &["l"])), "leaves the archive"),
    ]);
}

#[test]
fn archives_cannot_lead_out_nor_end_early() {
    let honest = docker_archive(&[Tar::default().file("f", b"x").end()], &["a:1"]);
    let name = "manifest.json";
    let link = |to: &str| Tar::default().symlink(name, to);
    let device = Head { device: (1, 5), ..Head::new(name, b'3') };
    let lie = Head { size: 1 << 30, ..Head::new("f", b'0') };
    refused_archives(vec![
        ("nothing", archive_of(&[]), "neither manifest.json"),
        ("no tar", b"hello world, no archive at all".repeat(100), "not a tar archive"),
        ("entry out", archive_of(&[("../x", b"x")]), "leaves the archive"),
        ("twice", archive_of(&[("a", b"x"), ("./a", b"y")]), "there twice"),
        ("link out", link("../../../etc/passwd").end(), "links out"),
        ("absolute link", link("/etc/passwd").end(), "links out"),
        ("link loop", link("b").symlink("b", name).end(), "neither"),
        ("device", Tar::default().raw(&device, b"").end(), "device"),
        ("no json", archive_of(&[(name, b"{")]), "invalid manifest.json"),
        ("size lies", Tar::default().raw(&lie, b"x").end(), "middle"),
        ("torn gzip", gzip(&honest)[..200].to_vec(), "cannot read the archive"),
    ]);
}

#[test]
fn layouts_cannot_lie() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    let layer = Tar::default().file("f", b"honest").end();
    let other = Tar::default().file("f", b"other").end();
    let config = configuration(std::slice::from_ref(&layer));
    let manifest_bytes = manifest(&config, std::slice::from_ref(&layer));
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", sha256(bytes));
    let layout = |digest: &str, size: usize, data: &[u8]| {
        let digest = format!("sha256:{digest}");
        let index = json!({
            "schemaVersion": 2, "manifests": [{ "digest": digest, "size": size }],
        });
        archive_of(&[
            ("index.json", index.to_string().as_bytes()),
            (&blob(&manifest_bytes), &manifest_bytes),
            (&blob(&config), &config),
            (&blob(&layer), data),
        ])
    };
    let (digest, size) = (sha256(&manifest_bytes), manifest_bytes.len());
    let check = |what: &str, archive: Vec<u8>, want: &str| {
        refused(&store, &dir, what, &archive, want);
    };
    check("index's size", layout(&digest, size + 1, &layer), "bytes but has");
    check("no manifest", layout(&"0".repeat(64), size, &layer), "not in it");
    check("layer's bytes", layout(&digest, size, &other), "should have digest");
    check("layer's size", layout(&digest, size, &layer[..600]), "bytes but has");
    store.load(&layout(&digest, size, &layer)[..], &mut |_| {}).unwrap();
}

#[test]
fn bombs_hit_named_limits() {
    let dir = Dir::new();
    let store = ImageStore::open(&dir.path("store"), Platform::host(), small()).unwrap();
    let zeros = Tar::default().file("zeros", &vec![0; 2 << 20]).end();
    let many = (0..101).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), b"")).end();
    let compressed = |plain: &Vec<u8>, packed: Vec<u8>| {
        let config = configuration(std::slice::from_ref(plain));
        let name = format!("{}.json", sha256(&config));
        let manifest = json!([{ "Config": name, "RepoTags": ["b:1"], "Layers": ["l"] }]);
        Tar::default()
            .file(&name, &config)
            .file("l", &packed)
            .file("manifest.json", manifest.to_string().as_bytes())
            .end()
    };
    let bomb = compressed(&zeros, gzip(&zeros));
    refused(
        &store,
        &dir,
        "gzip bomb",
        &bomb,
        "the unpacked layer exceeds the limit of 1048576 bytes",
    );
    let bomb = compressed(&zeros, zstd::encode_all(&zeros[..], 3).unwrap());
    refused(
        &store,
        &dir,
        "zstd bomb",
        &bomb,
        "the unpacked layer exceeds the limit of 1048576 bytes",
    );
    let bomb = docker_archive(&[many], &["b:1"]);
    refused(&store, &dir, "entries", &bomb, "the layer exceeds the limit of 100 entries");
    let big = Tar::default().file("a", &vec![0; (2 << 20) + 1]).end();
    refused(
        &store,
        &dir,
        "one file",
        &gzip(&big),
        "the archive exceeds the limit of 2097152 bytes",
    );
    let three =
        (0..3).fold(Tar::default(), |t, n| t.file(&format!("{n}"), &vec![0; (1 << 20) + 1]));
    refused(&store, &dir, "all files", &gzip(&three.end()), "the archive exceeds the limit");
    let many = (0..51).fold(Tar::default(), |t, n| t.file(&format!("{n}"), b"")).end();
    refused(&store, &dir, "many files", &many, "the archive exceeds the limit of 50 entries");
    let long = Tar::default().file("manifest.json", &vec![b' '; 65 << 10]).end();
    refused(&store, &dir, "long manifest", &long, "manifest.json in the archive exceeds the limit");
    // A window larger than a small board has memory for.
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    let wide = encoder.finish().unwrap();
    refused(&store, &dir, "zstd window", &compressed(&zeros, wide), "archive");
}

#[test]
fn trees_deeper_than_descriptors_are_unpacked_and_removed() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    // Each link leads to the bottom of what is there, so the tree grows past any path's length.
    let step = vec!["d"; 200].join("/");
    let mut tar = Tar::default().gnu_long(b'L', &step).dir("x", 0o755);
    tar = tar.gnu_long(b'K', &step).symlink("s0", "x");
    for n in 0..20 {
        let below = format!("s{n}/{step}");
        tar = tar.gnu_long(b'L', &below).dir("x", 0o755);
        tar = tar.gnu_long(b'K', &below).symlink(&format!("s{}", n + 1), "x");
    }
    let archive = docker_archive(&[tar.end()], &["deep:1"]);
    store.load(&archive[..], &mut |_| {}).unwrap();
    store.remove("deep:1", false, &Default::default).unwrap();
    let left = fs::read_dir(dir.path("store/layers")).unwrap().count();
    assert_eq!(left + fs::read_dir(dir.path("store/tmp")).unwrap().count(), 0);
}
