//! Images with the real thing: Debian's registry on loopback, umoci and skopeo as independent
//! writers, and archives made by hand that no honest writer makes.

mod archive;
mod crash;
mod fake;
mod hostile;
mod load;
mod pull;
mod registry;
mod slow;
mod store;
mod unpack;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use skep::host::images::{ImageStore, Limits, Platform, RegistryConfig};

/// A directory that goes with its owner.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("skep-images-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed by this test: {e}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config() -> RegistryConfig {
    let limits = Limits { disk_reserve_bytes: 0, ..Limits::default() };
    RegistryConfig { backoff: std::time::Duration::from_millis(5), limits, ..Default::default() }
}

fn open(root: &Path) -> ImageStore {
    ImageStore::open(root, Platform::host(), config()).unwrap()
}

/// An OCI layout `layout:latest` of two layers, made by umoci of Debian's static busybox.
fn busybox_layout(dir: &Dir) -> String {
    let layout = dir.path("layout").display().to_string();
    let image = format!("{layout}:latest");
    if Path::new(&layout).exists() {
        return image;
    }
    let files = dir.path("files");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("motd"), "made on the spot\n").unwrap();
    std::os::unix::fs::symlink("busybox", files.join("sh")).unwrap();
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["insert", "--image", &image, "/bin/busybox", "/bin/busybox"]);
    run("umoci", &["insert", "--image", &image, &files.display().to_string(), "/etc/own"]);
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.entrypoint",
            "/bin/busybox",
            "--config.cmd",
            "sh",
            "--config.env",
            "A=b c",
            "--config.workingdir",
            "/etc",
            "--config.user",
            "7:8",
            "--config.exposedports",
            "80/tcp",
            "--config.label",
            "x=y",
        ],
    );
    image
}

/// Every file below a store with its size; what a failed operation must not change.
fn inventory(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                pending.push(path.clone());
            }
            let bytes = if meta.is_file() { meta.size() } else { 0 };
            found.insert(path, bytes);
        }
    }
    found
}
