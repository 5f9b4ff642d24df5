//! What chitchat relies on. Nothing here waits for time, but where time is what is looked at.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::{yield_now, zip};

use crate::runtime::Runtime;
use crate::sync::{mpsc, watch};
use crate::task::JoinError;
use crate::{net, select, spawn, time};

fn run<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().block_on(future)
}

/// Whether `future` is not ready at its first turn.
fn waits<T>(future: impl Future<Output = T>) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    matches!(pin!(future).poll(&mut cx), Poll::Pending)
}

/// Adds one when it is dropped.
struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn select_drops_all_futures_before_its_handler() {
    let drops = Arc::new(AtomicU32::new(0));
    let held = || Counted(Arc::clone(&drops));
    let (a, b) = (held(), held());
    let seen = run(async {
        select! {
            _ = async move { let _a = a; pending::<()>().await } => 99,
            value = async { 7 } => value + drops.load(Ordering::SeqCst) * 10,
            _ = async move { let _b = b; pending::<()>().await } => 99,
        }
    });
    assert_eq!(seen, 27);
}

#[test]
fn select_takes_each_of_those_that_are_ready_now_and_then() {
    let mut taken = [0; 3];
    run(async {
        for _ in 0..200 {
            let which = select! {
                which = async { 0 } => which,
                which = async { 1 } => which,
                which = async { 2 } => which,
            };
            taken[which] += 1;
        }
    });
    assert!(taken.iter().all(|times| *times > 20), "{taken:?}");
}

#[test]
fn an_interval_ticks_at_once_and_puts_the_rest_off_when_it_was_late() {
    let period = Duration::from_millis(40);
    run(async {
        let start = Instant::now();
        let mut interval = time::interval(period);
        interval.tick().await;
        assert!(start.elapsed() < period);
        interval.tick().await;
        assert!(start.elapsed() >= period);
        // A stall of several periods; then one tick at once and not one for each that was missed.
        std::thread::sleep(4 * period);
        interval.tick().await;
        let late = Instant::now();
        interval.tick().await;
        assert!(late.elapsed() >= period - Duration::from_millis(5), "{:?}", late.elapsed());
    });
}

#[test]
fn a_tick_that_was_given_up_is_not_lost() {
    run(async {
        let mut interval = time::interval(Duration::from_secs(3600));
        interval.tick().await;
        assert!(waits(interval.tick()) && waits(interval.tick()));
        let mut interval = time::interval(Duration::from_millis(1));
        interval.tick().await;
        drop(interval.tick());
        let due = interval.tick().await;
        assert!(interval.tick().await > due);
    });
}

#[test]
fn a_task_runs_on_without_its_handle_and_ends_when_it_is_aborted() {
    let drops = Arc::new(AtomicU32::new(0));
    run(async {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        drop(spawn(async move {
            yield_now().await;
            sender.send(5).unwrap();
        }));
        assert_eq!(receiver.recv().await, Some(5));

        let held = Counted(Arc::clone(&drops));
        let handle = spawn(async move {
            let _held = held;
            pending::<()>().await;
        });
        handle.abort();
        handle.abort();
        assert_eq!(handle.await, Err(JoinError::Aborted));
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        assert_eq!(spawn(async { 3 }).await, Ok(3));
    });
}

#[test]
fn a_task_that_panics_ends_alone() {
    let handle = run(async { spawn(async { panic!("on purpose") }).await });
    assert_eq!(handle, Err::<(), _>(JoinError::Panicked));
}

#[test]
fn a_runtime_takes_its_tasks_with_it() {
    let drops = Arc::new(AtomicU32::new(0));
    let runtime = Runtime::new();
    let held = Counted(Arc::clone(&drops));
    let mut handle = None;
    runtime.block_on(async {
        handle = Some(spawn(async move {
            let _held = held;
            pending::<()>().await;
        }));
        yield_now().await;
    });
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    drop(runtime);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert_eq!(run(handle.unwrap()), Err(JoinError::Aborted));
}

#[test]
fn a_queue_ends_with_its_last_sender() {
    run(async {
        let (sender, mut receiver) = mpsc::channel(2);
        let second = sender.clone();
        sender.try_send(1).unwrap();
        second.try_send(2).unwrap();
        assert_eq!(sender.try_send(3).unwrap_err().0, 3);
        drop(sender);
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(receiver.recv().await, Some(2));
        assert!(waits(receiver.recv()));
        drop(second);
        assert_eq!(receiver.recv().await, None);

        let (sender, receiver) = mpsc::unbounded_channel();
        drop(receiver);
        assert_eq!(sender.send(4).unwrap_err().0, 4);
    });
}

#[test]
fn a_clone_of_a_watcher_has_seen_what_its_origin_has() {
    run(async {
        let (sender, mut receiver) = watch::channel(0);
        assert!(waits(receiver.changed()));
        sender.send(1).unwrap();
        let mut clone = receiver.clone();
        assert_eq!(receiver.changed().await, Ok(()));
        assert!(waits(receiver.changed()));
        assert_eq!(clone.changed().await, Ok(()));
        assert_eq!(*receiver.clone().borrow(), 1);

        sender.send(2).unwrap();
        assert_eq!(*receiver.borrow(), 2);
        assert!(!waits(receiver.clone().changed()));
        assert_eq!(*receiver.borrow_and_update(), 2);
        assert!(waits(receiver.changed()));
    });
}

#[test]
fn a_watched_value_outlives_its_sender() {
    run(async {
        let (sender, mut receiver) = watch::channel(0);
        let woken = async {
            receiver.changed().await.unwrap();
            let seen = *receiver.borrow();
            (seen, receiver.changed().await)
        };
        let sends = async {
            sender.send(3).unwrap();
            drop(sender);
        };
        assert_eq!(zip(woken, sends).await.0, (3, Err(watch::RecvError)));
        assert_eq!(*receiver.wait_for(|value| *value == 3).await.unwrap(), 3);
        assert!(receiver.wait_for(|value| *value == 4).await.is_err());

        let (sender, receiver) = watch::channel(0);
        drop(receiver.clone());
        sender.send(1).unwrap();
        drop(receiver);
        assert_eq!(sender.send(2).unwrap_err().0, 2);
    });
}

/// A carrier that gives back what it was last given.
#[derive(Default)]
struct Echo(std::sync::Mutex<Vec<u8>>);

impl net::Datagram for Echo {
    fn send_to<'a>(
        &'a self,
        message: &'a [u8],
        _to: std::net::SocketAddr,
    ) -> net::Boxed<'a, std::io::Result<usize>> {
        message.clone_into(&mut self.0.lock().unwrap());
        Box::pin(async { Ok(message.len()) })
    }

    fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> net::Boxed<'a, std::io::Result<(usize, std::net::SocketAddr)>> {
        let message = self.0.lock().unwrap().clone();
        buffer[..message.len()].copy_from_slice(&message);
        Box::pin(async move { Ok((message.len(), ([9, 9, 9, 9], 9).into())) })
    }

    fn local_addr(&self) -> std::io::Result<std::net::SocketAddr> {
        Ok(([9, 9, 9, 9], 9).into())
    }
}

#[test]
fn the_first_socket_that_is_bound_is_the_one_that_was_given() {
    run(async {
        let any = ([127, 0, 0, 1], 0).into();
        let open = async || {
            // Another turn: what is given must still be there, and nobody else's in between.
            let other = spawn(net::UdpSocket::bind(any));
            yield_now().await;
            let first = net::UdpSocket::bind(any).await.unwrap();
            (first, net::UdpSocket::bind(any).await.unwrap(), other.await.unwrap().unwrap())
        };
        let (carried, second, other) = net::with_datagram(Arc::new(Echo::default()), open()).await;
        assert_eq!(carried.local_addr().unwrap().port(), 9);
        carried.send_to(b"there and back", any).await.unwrap();
        let mut buffer = [0; 64];
        let (len, from) = carried.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..len], from.port()), (&b"there and back"[..], 9));

        let to = second.local_addr().unwrap();
        other.send_to(b"by the kernel", to).await.unwrap();
        let (len, from) = second.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..len], from), (&b"by the kernel"[..], other.local_addr().unwrap()));
    });
}

#[test]
fn names_are_looked_up() {
    let found: Vec<_> = run(net::lookup_host("localhost:7946")).unwrap().collect();
    assert!(found.iter().all(|address| address.ip().is_loopback()) && !found.is_empty());
    assert!(run(net::lookup_host("no port")).is_err());
}
