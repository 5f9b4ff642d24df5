//! Datagrams and names. A [`UdpSocket`] sends and receives by a [`Datagram`]: the kernel's socket,
//! or what [`with_datagram`] puts in its place.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::{Pin, pin};
use std::sync::Arc;

use async_io::Async;

/// A future that is called through a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What carries messages between addresses, each whole or not at all.
pub trait Datagram: Send + Sync {
    /// Sends one message.
    fn send_to<'a>(&'a self, message: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<usize>>;

    /// Waits for a message. May be dropped while it waits, without losing one. An error that says
    /// more than "this one was lost" ends the receiver's loop.
    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>>;

    /// The address that it receives on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Datagram for Async<std::net::UdpSocket> {
    fn send_to<'a>(&'a self, message: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<usize>> {
        Box::pin(Self::send_to(self, message, to))
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(Self::recv_from(self, buffer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.get_ref().local_addr()
    }
}

thread_local! {
    static NEXT: RefCell<Option<Arc<dyn Datagram>>> = const { RefCell::new(None) };
}

/// Runs `future`; the first socket that it binds is `datagram`, whatever address it asks for.
pub async fn with_datagram<T>(datagram: Arc<dyn Datagram>, future: impl Future<Output = T>) -> T {
    let mut next = Some(datagram);
    let mut future = pin!(future);
    poll_fn(|cx| {
        // Only while this future has its turn: another task of this thread binds its own.
        let outer = NEXT.replace(next.take());
        let polled = future.as_mut().poll(cx);
        next = NEXT.replace(outer);
        polled
    })
    .await
}

/// A socket for datagrams.
pub struct UdpSocket(Arc<dyn Datagram>);

impl UdpSocket {
    /// Binds the kernel's socket, or takes what [`with_datagram`] gives.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        if let Some(datagram) = NEXT.take() {
            return Ok(Self(datagram));
        }
        Ok(Self(Arc::new(Async::<std::net::UdpSocket>::bind(address)?)))
    }

    /// The address that it receives on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    /// As its [`Datagram`] has it.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.recv_from(buffer).await
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// As its [`Datagram`] has it.
    pub async fn send_to(&self, message: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.0.send_to(message, to).await
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UdpSocket")
    }
}

/// The addresses of `host:port`, asked for on a thread that may block.
///
/// # Errors
/// When the name is not known.
pub async fn lookup_host(host: &str) -> io::Result<impl Iterator<Item = SocketAddr> + use<>> {
    let host = host.to_owned();
    blocking::unblock(move || host.to_socket_addrs()).await
}
