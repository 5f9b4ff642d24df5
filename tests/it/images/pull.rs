//! Pulling from a registry.

use std::os::unix::fs::MetadataExt;

use skep::host::images::{ImageStore, PullEvent};
use skep::model::image_ref::Reference;

use super::registry::{Registry, copy, text};
use super::{Dir, busybox_layout, open};

fn pull(store: &ImageStore, name: &str) -> (Result<String, String>, Vec<PullEvent>) {
    let mut events = Vec::new();
    let reference = Reference::parse(name).unwrap();
    let result = store.pull(&reference, None, &mut |event| events.push(event));
    (result.map(|r| r.id.to_string()).map_err(|e| e.to_string()), events)
}

fn statuses(events: &[PullEvent]) -> Vec<String> {
    let mut seen: Vec<String> = events.iter().map(|e| e.status.clone()).collect();
    seen.dedup();
    seen
}

#[test]
fn images_come_over_http_in_both_formats_and_are_told_in_dockers_words() {
    let (dir, registry) = (Dir::new(), Registry::start(""));
    let image = busybox_layout(&dir);
    for format in ["oci", "v2s2"] {
        let name = registry.name(&format!("test/bb-{format}:1"));
        copy(&format!("oci:{image}"), &format!("docker://{name}"), &["--format", format]);
        let store = open(&dir.path(&format!("store-{format}")));
        let (id, events) = pull(&store, &name);
        id.unwrap();
        let seen = statuses(&events);
        assert_eq!(seen[0], format!("Pulling from test/bb-{format}"));
        assert_eq!(events[0].id.as_deref(), Some("1"));
        for status in [
            "Pulling fs layer",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ] {
            assert!(seen.iter().any(|s| s == status), "{status} in {seen:?}");
        }
        assert!(seen[seen.len() - 2].starts_with("Digest: sha256:"));
        assert_eq!(seen[seen.len() - 1], format!("Status: Downloaded newer image for {name}"));

        let record = store.resolve(&name).unwrap();
        assert_eq!(record.repo_tags, [name.clone()]);
        assert_eq!(record.repo_digests.len(), 1);
        assert_eq!(record.config.entrypoint, ["/bin/busybox"]);
        assert_eq!(record.config.cmd, ["sh"]);
        assert!(record.config.env.contains(&"A=b c".to_owned()));
        assert_eq!(record.config.working_dir, "/etc");
        assert_eq!(record.config.user, "7:8");
        assert_eq!(record.config.exposed_ports, ["80/tcp"]);
        assert_eq!(record.config.labels["x"], "y");
        let layers = store.layers(&record).unwrap();
        assert_eq!(layers.len(), 2);
        assert_eq!(text(&layers[0].join("etc/own/motd")), "made on the spot\n");
        let size = std::fs::metadata("/bin/busybox").unwrap().size();
        assert_eq!(std::fs::metadata(layers[1].join("bin/busybox")).unwrap().size(), size);
        assert_eq!(record.size, size + 17);

        let (id, events) = pull(&store, &name);
        assert_eq!(id.unwrap(), record.id.to_string());
        let seen = statuses(&events);
        assert!(seen.contains(&"Already exists".to_owned()), "{seen:?}");
        assert_eq!(seen[seen.len() - 1], format!("Status: Image is up to date for {name}"));
        // By digest, by id, by short id.
        let by_digest = record.repo_digests[0].clone();
        for name in [by_digest, record.id.to_string(), record.id.hex(), record.id.short()] {
            assert_eq!(store.resolve(&name).unwrap().id, record.id, "{name}");
        }
        // A second start finds it again.
        drop(store);
        let store = open(&dir.path(&format!("store-{format}")));
        assert_eq!(store.list(), [record]);
    }
}
