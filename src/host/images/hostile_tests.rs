//! Archives that would fill the memory, small ones: what they exceed is told by name.

use std::path::PathBuf;

use super::limits::Limits;
use super::platform::Platform;
use super::registry::RegistryConfig;
use super::store::ImageStore;
use super::unpack::unpack;

/// One entry without data, or a file.
fn entry(name: &str, flag: u8, data: &[u8]) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000755");
    block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    block[148..156].copy_from_slice(b"        ");
    block[156] = flag;
    block[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend_from_slice(data);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("skep-hostile-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn directories_of_a_layer_take_bounded_memory() {
    let limits =
        Limits { directories_bytes_max: 1_000, disk_reserve_bytes: 0, ..Limits::default() };
    let root = folder("directories");
    // The same one however often, and by whatever name, is one.
    let again: Vec<u8> = (0..100).flat_map(|n| entry(["a/", "./a"][n % 2], b'5', b"")).collect();
    unpack(&again[..], &root, &limits).unwrap();
    let many: Vec<u8> = (0..11).flat_map(|n| entry(&format!("d{n}/"), b'5', b"")).collect();
    let refused = unpack(&many[..], &root, &limits).unwrap_err().to_string();
    assert_eq!(refused, "the list of the layer's directories exceeds the limit of 1000 bytes");
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn images_of_an_archive_are_counted_before_their_documents_are_read() {
    let limits = Limits { archive_images_max: 2, disk_reserve_bytes: 0, ..Limits::default() };
    let root = folder("images");
    let config = RegistryConfig { limits, ..RegistryConfig::default() };
    let store = ImageStore::open(&root, Platform::host(), config).unwrap();
    let load = |images: usize| {
        let one = r#"{"Config":"absent.json","Layers":[]}"#;
        let list = format!("[{}]", vec![one; images].join(","));
        let archive = entry("manifest.json", b'0', list.as_bytes());
        store.load(&archive[..], &mut |_| {}).unwrap_err().to_string()
    };
    assert!(load(2).contains("which is not in it"), "{}", load(2));
    assert_eq!(load(3), "the archive exceeds the limit of 2 images");
    drop(store);
    std::fs::remove_dir_all(root).unwrap();
}
