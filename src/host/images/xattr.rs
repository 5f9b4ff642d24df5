//! Extended attributes: which ones of an archive are wanted, and the call that nix lacks.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// Capabilities, users' attributes and access lists. Never `trusted.*` and never anything of
/// overlayfs's own: with those, a layer could redirect lookups into other layers.
pub(super) fn is_wanted(name: &[u8]) -> bool {
    name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Sets one attribute of an open file or directory.
pub(super) fn set(fd: &OwnedFd, name: &[u8], value: &[u8]) -> nix::Result<()> {
    let name = CString::new(name).map_err(|_nul| Errno::EINVAL)?;
    // SAFETY: the descriptor is open, the name ends with a zero byte, and pointer and length
    // describe `value`; all three live until the call returns, and the kernel only reads them.
    let result = unsafe {
        libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(result).map(drop)
}
