//! Processes by descriptor, so that a reused process id is never mistaken for the old process.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The kernel's own hard limit of open files.
const FILES_HARD_USUAL: u64 = 4096;

/// A descriptor of a process that becomes readable when the process ends (`pidfd_open(2)`).
///
/// # Errors
/// When there is no such process or the kernel is older than 5.3.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the call takes two plain integers and touches no memory of this process.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Raises this process's limit of open files as far as it goes: a daemon holds several for each
/// container, client and log that is read. Shims set theirs back for the containers.
///
/// # Errors
/// When the limits cannot be read or set.
pub fn raise_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// How many files this process may open at most; what the kernel starts all with where it does not say.
#[must_use]
pub fn files_hard() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(FILES_HARD_USUAL, |(_, hard)| hard)
}
