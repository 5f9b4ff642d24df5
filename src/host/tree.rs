//! Removes directory trees of any depth that somebody else made.
//!
//! Layers and containers may nest directories far deeper than there are descriptors or stack for, so
//! nothing recurses here (the standard library's `remove_dir_all` does, with a descriptor for each
//! level): a directory that is not empty is renamed up to the top of the tree first.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Removes `path`, whatever it is; nothing there is fine. Symbolic links are never followed.
///
/// # Errors
/// When something does not let itself be removed, a mount for example. What was removed by then is
/// gone, and calling again goes on from there.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return unless_gone(fs::remove_file(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    let mut pending = vec![path.to_owned()];
    let mut counter = 0u64;
    while let Some(directory) = pending.last().cloned() {
        let nested = empty_out(&directory, path, &mut counter)?;
        if nested.is_empty() {
            unless_gone(fs::remove_dir(&directory))?;
            pending.pop();
        } else {
            pending.extend(nested);
        }
    }
    Ok(())
}

/// Unlinks what is in `directory` and moves its directories up to `top`; gives their new names.
fn empty_out(directory: &Path, top: &Path, counter: &mut u64) -> io::Result<Vec<PathBuf>> {
    let mut nested = Vec::new();
    let items = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(nested),
        items => items?,
    };
    for item in items {
        let item = item?;
        if !item.file_type()?.is_dir() {
            unless_gone(fs::remove_file(item.path()))?;
            continue;
        }
        match fs::remove_dir(item.path()) {
            Ok(()) => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) => return Err(e),
        }
        if directory == top {
            nested.push(item.path());
            continue;
        }
        nested.push(lift(&item.path(), top, counter)?);
    }
    Ok(nested)
}

/// What somebody else removed meanwhile is gone all the same.
fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Renames `directory` to a free name in `top`.
fn lift(directory: &Path, top: &Path, counter: &mut u64) -> io::Result<PathBuf> {
    loop {
        *counter += 1;
        let name = OsString::from_vec(format!(".removing-{counter}").into_bytes());
        let target = top.join(name);
        match fs::symlink_metadata(&target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::rename(directory, &target)?;
                return Ok(target);
            }
            Err(e) => return Err(e),
            // A name of the tree itself; the next number will do.
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_deeper_than_any_path_are_removed_and_links_not_followed() {
        let base = std::env::temp_dir().join(format!("skep-tree-{}", std::process::id()));
        let outside = base.join("outside");
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("keep"), b"x").unwrap();
        let tree = base.join("tree");
        fs::create_dir_all(tree.join(".removing-1")).unwrap();
        fs::write(tree.join(".removing-1/file"), b"x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        // Deeper than PATH_MAX, grown from the inside out.
        let mut inner = base.join("grow");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("leaf"), b"x").unwrap();
        for round in 0..60 {
            let outer = base.join(format!("grow{round}"));
            fs::create_dir_all(outer.join("d".repeat(200))).unwrap();
            fs::rename(&inner, outer.join("d".repeat(200)).join("next")).unwrap();
            inner = outer;
        }
        fs::rename(&inner, tree.join("deep")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("keep").exists(), "what a link points to stays");
        remove_tree(&tree).unwrap();
        remove_tree(&base).unwrap();
        assert!(!base.exists());
    }
}
