//! Registries that send bytes slowly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skep::host::images::{ImageStore, PaceLimits, Platform, RegistryConfig};

use super::archive::Tar;
use super::fake::{Answer, Fake, Trickle};
use super::pull::{blob_path, image_paths, noise_layer, pull};
use super::{Dir, config};

/// A store with limits that a test can wait for: at least 10 bytes/ms, slow below 200; one slot.
fn impatient(dir: &Dir, attempts_max: u32) -> ImageStore {
    let pace = PaceLimits {
        window: Duration::from_millis(100),
        window_bytes_min: 1_000,
        window_bytes_slow: 20_000,
        document: Duration::from_millis(500),
    };
    let registry = RegistryConfig { pace, attempts_max, parallel_max: 1, ..config() };
    ImageStore::open(&dir.path("store"), Platform::host(), registry).unwrap()
}

/// A registry of one image of which the paths that `slow` names come as `trickle` says.
fn trickling(trickle: Trickle, is_slow: fn(&str, &str) -> bool) -> (Fake, String) {
    let paths = image_paths("a", &[noise_layer(3 << 20)]);
    let blob = blob_path(&paths);
    let layer = blob.clone();
    let fake = Fake::start(move |request, _| match paths.get(&request.path) {
        Some(bytes) if is_slow(&request.path, &layer) => Answer::new(200, bytes).trickle(&trickle),
        Some(bytes) => Answer::new(200, bytes),
        None => Answer::new(404, b""),
    });
    (fake, blob)
}

#[test]
fn a_registry_that_trickles_is_given_up() {
    let trickle = |bytes| Trickle {
        bytes,
        pause: Duration::from_millis(10),
        until: Arc::new(AtomicBool::new(false)),
    };
    let dir = Dir::new();
    let store = impatient(&dir, 2);
    let (layer, blob) = trickling(trickle(10), |path, layer| path == layer);
    let error = pull(&store, &format!("{}/a:1", layer.address)).0.unwrap_err();
    let host = layer.address;
    assert!(error.contains(&format!("see to the network between here and {host}")), "{error}");
    assert!(error.contains("less than 1000 is given up"), "{error}");
    let tries = layer.requests().iter().filter(|request| request.path == blob).count();
    assert_eq!(tries, 2, "it is tried again, and not for ever");
    let (manifest, _) = trickling(trickle(1), |path, _| path.contains("/manifests/"));
    let error = pull(&store, &format!("{}/a:1", manifest.address)).0.unwrap_err();
    assert!(error.starts_with("cannot get manifest http://"), "{error}");
    assert!(error.contains("given up"), "{error}");
}

#[test]
fn a_slow_download_keeps_no_slot_from_others() {
    let until = Arc::new(AtomicBool::new(false));
    let trickle =
        Trickle { bytes: 1_000, pause: Duration::from_millis(10), until: Arc::clone(&until) };
    let (slow, blob) = trickling(trickle, |path, layer| path == layer);
    let paths = image_paths("b", &[Tar::default().file("f", b"x").end()]);
    let fast = Fake::start(move |request, _| {
        paths.get(&request.path).map_or(Answer::new(404, b""), |bytes| Answer::new(200, bytes))
    });
    let dir = Dir::new();
    let store = impatient(&dir, 20);
    let name = format!("{}/a:1", slow.address);
    std::thread::scope(|scope| {
        // Two of the same image: the second waits for the first, and that takes no slot either.
        let both = [0, 1].map(|_| scope.spawn(|| pull(&store, &name).0));
        let deadline = Instant::now() + Duration::from_secs(30);
        while !slow.requests().iter().any(|request| request.path == blob) {
            assert!(Instant::now() < deadline, "the slow one is asked");
            std::thread::yield_now();
        }
        let got = pull(&store, &format!("{}/b:1", fast.address)).0;
        let is_slow_still = !both.iter().any(|thread| thread.is_finished());
        until.store(true, Ordering::SeqCst);
        got.unwrap();
        assert!(is_slow_still, "the other one did not wait for it");
        for thread in both {
            thread.join().unwrap().unwrap();
        }
    });
}
