//! Tells the service manager how the daemon is, over the socket it names (`sd_notify(3)`).
//!
//! Without such a socket every call does nothing. A message that does not arrive is logged and
//! never an error: the daemon works without its manager. Children must not inherit the variable
//! (runc would make a socket of its own for the container): [`VARIABLES`] names what to take away.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Variables by which a service manager speaks to one process and not to its children.
pub const VARIABLES: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
];

/// The daemon answers.
pub fn ready() {
    tell("READY=1\n");
}

/// The daemon has begun to stop.
pub fn stopping() {
    tell("STOPPING=1\n");
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    tell(&format!("STATUS={}\n", text.replace('\n', " ")));
}

fn tell(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    match send(&socket, message) {
        Ok(()) => {}
        // `skep init` listens only until the daemon is ready.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => {
            log::warn!("cannot tell the service manager {:?}: {error}", message.trim());
        }
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_socket_are_reached() {
        let name = format!("skep-notify-{}", std::process::id());
        let abstract_one = SocketAddr::from_abstract_name(&name).unwrap();
        let heard = UnixDatagram::bind_addr(&abstract_one).unwrap();
        send(OsStr::new(&format!("@{name}")), "READY=1\n").unwrap();
        let path = std::env::temp_dir().join(&name);
        let heard_path = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "STOPPING=1\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut buffer = [0; 64];
        let len = heard.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"READY=1\n");
        let len = heard_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"STOPPING=1\n");
        assert!(send(path.as_os_str(), "READY=1\n").is_err());
    }
}
