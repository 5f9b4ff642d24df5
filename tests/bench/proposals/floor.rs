//! What no such system can go below on this machine: fdatasync of a small append on as many disks as
//! must have it, and one round trip between two processes' sockets.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// About what one put takes in the log.
const APPEND_BYTES: usize = 512;

/// Medians, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    /// One fdatasync alone.
    pub(crate) alone: u32,
    /// The later of two at the same time: leader and follower.
    pub(crate) two: u32,
    /// The second of three at the same time: what a majority of three members here waits for.
    pub(crate) three: u32,
    pub(crate) round_trip: u32,
}

/// Measures all of it in `dir`, `count` times each.
pub(crate) fn measure(dir: &Path, count: usize) -> Floor {
    Floor {
        alone: syncs(dir, 1, count, 0),
        two: syncs(dir, 2, count, 1),
        three: syncs(dir, 3, count, 1),
        round_trip: round_trip(count),
    }
}

pub(crate) fn median(mut all: Vec<u32>) -> u32 {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Appends to `files` files begun at the same time: the median of when the one at `place` (by time)
/// was durable.
fn syncs(dir: &Path, files: usize, count: usize, place: usize) -> u32 {
    let barrier = Barrier::new(files);
    let one = |number: usize| {
        let path = dir.join(format!("floor{number}"));
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).open(path).unwrap();
        let mut took = Vec::new();
        for at in 0..count {
            barrier.wait();
            let begin = Instant::now();
            let offset = u64::try_from(at * APPEND_BYTES).unwrap();
            file.write_all_at(&[7; APPEND_BYTES], offset).unwrap();
            file.sync_data().unwrap();
            took.push(u32::try_from(begin.elapsed().as_micros()).unwrap());
        }
        took
    };
    let one = &one;
    let took: Vec<Vec<u32>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..files).map(|it| scope.spawn(move || one(it))).collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let at_place = |at: usize| {
        let mut round: Vec<u32> = took.iter().map(|it| it[at]).collect();
        round.sort_unstable();
        round[place]
    };
    median((0..count).map(at_place).collect())
}

fn round_trip(count: usize) -> u32 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut took = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _from) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut buffer = [0; APPEND_BYTES];
            while stream.read_exact(&mut buffer).is_ok() {
                stream.write_all(&buffer[..32]).unwrap();
            }
        });
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 32];
        for _ in 0..count {
            let begin = Instant::now();
            stream.write_all(&[7; APPEND_BYTES]).unwrap();
            stream.read_exact(&mut buffer).unwrap();
            took.push(u32::try_from(begin.elapsed().as_micros()).unwrap());
        }
    });
    median(took)
}
