//! Archives of independent writers, in every form and from a stream.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;

use skep::host::images::LoadedName;

use super::archive::{Tar, docker_archive, gzip};
use super::registry::copy;
use super::{Dir, busybox_layout, open};

#[test]
fn docker_and_oci_archives_load_in_every_compression_from_a_socket() {
    let dir = Dir::new();
    let image = busybox_layout(&dir);
    let path = |name: &str| dir.path(name).display().to_string();
    copy(&format!("oci:{image}"), &format!("docker-archive:{}:own/bb:1", path("docker.tar")), &[]);
    copy(&format!("oci:{image}"), &format!("oci-archive:{}:own/bb:1", path("oci.tar")), &[]);
    let docker = fs::read(dir.path("docker.tar")).unwrap();
    let oci = fs::read(dir.path("oci.tar")).unwrap();
    let mut ids = Vec::new();
    for (what, archive) in [
        ("docker", docker.clone()),
        ("docker.gz", gzip(&docker)),
        ("oci", oci.clone()),
        ("oci.gz", gzip(&oci)),
        ("oci.zst", zstd::encode_all(&oci[..], 1).unwrap()),
    ] {
        let store = open(&dir.path(&format!("store-{what}")));
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let writer = thread::spawn(move || ours.write_all(&archive));
        let loaded = store.load(theirs, &mut |_| {}).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(loaded, [LoadedName::Tag("own/bb:1".to_owned())], "{what}");
        assert_eq!(loaded[0].to_string(), "Loaded image: own/bb:1");
        let record = store.resolve("own/bb:1").unwrap();
        assert_eq!(record.config.user, "7:8");
        let layers = store.layers(&record).unwrap();
        assert_eq!(
            fs::read_to_string(layers[0].join("etc/own/motd")).unwrap(),
            "made on the spot\n"
        );
        ids.push((what, record.config, record.size));
    }
    for pair in ids.windows(2) {
        assert_eq!((&pair[0].1, pair[0].2), (&pair[1].1, pair[1].2), "{} {}", pair[0].0, pair[1].0);
    }
}

#[test]
fn a_tag_moves_and_what_has_no_name_is_told_by_id() {
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    let archive = |text: &str, tags: &[&str]| {
        docker_archive(&[Tar::default().file("f", text.as_bytes()).end()], tags)
    };
    let mut events = Vec::new();
    store.load(&archive("one", &["a:1", "b"])[..], &mut |e| events.push(e.status)).unwrap();
    let old = store.resolve("a:1").unwrap();
    assert_eq!(old.repo_tags, ["a:1", "b:latest"]);
    let loaded = store.load(&archive("two", &["a:1"])[..], &mut |e| events.push(e.status)).unwrap();
    assert_eq!(loaded, [LoadedName::Tag("a:1".to_owned())]);
    let told = format!(
        "The image a:1 already exists, renaming the old one with ID {} to empty string",
        old.id
    );
    assert!(events.contains(&told), "{events:?}");
    assert_eq!(store.resolve(&old.id.short()).unwrap().repo_tags, ["b:latest"]);
    let loaded = store.load(&archive("three", &[])[..], &mut |_| {}).unwrap();
    let LoadedName::Id(id) = loaded[0] else { panic!("{loaded:?}") };
    assert_eq!(loaded[0].to_string(), format!("Loaded image ID: {id}"));
    assert!(store.resolve(&id.to_string()).unwrap().repo_tags.is_empty());
    // Layers that are the same are there once.
    let layer = Tar::default().file("shared", b"x").end();
    let top = Tar::default().file("top", b"x").end();
    store.load(&docker_archive(std::slice::from_ref(&layer), &["c:1"])[..], &mut |_| {}).unwrap();
    let count = || fs::read_dir(dir.path("store/layers")).unwrap().count();
    let before = count();
    store.load(&docker_archive(&[layer.clone(), top, layer], &["c:2"])[..], &mut |_| {}).unwrap();
    assert_eq!(count(), before + 1);
    assert_eq!(store.layers(&store.resolve("c:2").unwrap()).unwrap().len(), 3);
}
