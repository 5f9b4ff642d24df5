//! Unix sockets with the right owner and mode from their first moment on.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_to, listen, socket};
use nix::sys::stat::{Mode, fchmod};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens at `path`, which must not exist; others never see it with a wider mode.
///
/// # Errors
/// What the kernel says, for instance that the folder is missing.
pub(super) fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The file gets the mode that the socket has when it is bound, less the umask.
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
    bind_to(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(socket))
}

/// Removes a socket that nobody may need any more; one that is not there is no error.
///
/// # Errors
/// What the kernel says.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The public socket: 0660 and `root:GROUP` where that group exists, otherwise 0600. What a daemon
/// left that is gone is replaced.
///
/// # Errors
/// What the kernel says, or that another daemon answers at `path`.
pub(super) fn listen_for_clients(path: &Path, group: &str) -> io::Result<UnixListener> {
    match UnixStream::connect(path) {
        Ok(_answered) => {
            let text = "another daemon answers there; stop it or choose another --host";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => remove(path)?,
        Err(error) => return Err(error),
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let listener = bind(path, 0o600)?;
    if let Some(gid) = group_id(&std::fs::read_to_string("/etc/group").unwrap_or_default(), group) {
        std::os::unix::fs::chown(path, None, Some(gid))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    }
    Ok(listener)
}

/// The id of a group in the text of `/etc/group`. The C library's look-up is not for static
/// programs.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let text = "root:x:0:\nskepper:x:7:\nskep:x:987:pi\n";
        assert_eq!(group_id(text, "skep"), Some(987));
        assert_eq!(group_id(text, "ske"), None);
        assert_eq!(group_id("skep:x:none:\n", "skep"), None);
    }

    #[test]
    fn a_socket_that_is_served_is_not_taken_and_a_left_one_is() {
        let folder = std::env::temp_dir().join(format!("skep-socket-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("api.sock");
        let listener = listen_for_clients(&path, "no-such-group").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = listen_for_clients(&path, "no-such-group").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(listen_for_clients(&path, "no-such-group").is_ok());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
