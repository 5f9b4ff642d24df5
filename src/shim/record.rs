//! The exit record on disk, and what the memory cgroup says about kills.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::base::shim_wire::RECORD_BYTES;

/// Writes `record` so that it is either there whole or not at all, and durable when this returns.
pub(super) fn save(path: &Path, record: &[u8; RECORD_BYTES]) -> io::Result<()> {
    let mut early = path.as_os_str().to_owned();
    early.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&early)?;
    file.write_all(record)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&early, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// How many processes the kernel killed for the cgroup's memory limit: the line `oom_kill N`,
/// which `memory.events` (version 2) and `memory.oom_control` (version 1) share.
pub(super) fn oom_kills(path: &Path) -> u64 {
    let mut text = [0; 512];
    let Ok(len) = File::open(path).and_then(|mut file| file.read(&mut text)) else { return 0 };
    let text = std::str::from_utf8(&text[..len]).unwrap_or("");
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}
