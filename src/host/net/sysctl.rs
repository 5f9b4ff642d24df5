//! Kernel settings under `/proc/sys/net`, of the calling thread's network namespace.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A setting that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the kernel setting {path}", path = .path.display())]
pub struct SysctlError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Reads a setting, without its line end.
pub(super) fn read(name: &str) -> Result<String, SysctlError> {
    let path = Path::new("/proc/sys/net").join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(SysctlError { doing: "read", path, source }),
    }
}

/// Writes a setting unless it has this value already, which also works where it is read-only.
pub(super) fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    if read(name)? == value {
        return Ok(());
    }
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).map_err(|source| SysctlError { doing: "write", path, source })
}

/// Like [`set`], but a kernel without this setting is as good: used for IPv6.
pub(super) fn set_if_known(name: &str, value: &str) -> Result<(), SysctlError> {
    match set(name, value) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
