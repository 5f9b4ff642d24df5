//! The log's thread of a member: as `daemon::log_thread`, with a descriptor in place of the brain's
//! channel. Whatever is queued when it comes round is one write and one fdatasync.
//!
//! Not here: a disk that refuses. That ends the benchmark.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};
use skep::host::disk::Wal;
use skep::host::disk::wal::{APPEND_BYTES_MAX, WalFigures};
use skep::logic::raft::codec;
use skep::logic::raft::io::{Snapshot, Ticket, Write};
use skep::model::wire::LogRecord;

/// What the loop wants of the log.
pub(crate) enum Wanted {
    /// Make these durable, in order.
    Batch(Vec<(Ticket, Write)>),
    /// Save this snapshot and drop the log below it.
    Snapshot(Snapshot),
}

/// What has become durable.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) ticket: Option<Ticket>,
    pub(crate) snapshot: Option<u64>,
    pub(crate) figures: WalFigures,
}

/// The loop's end of the thread.
pub(crate) struct LogThread {
    queue: Sender<Wanted>,
    told: Arc<Mutex<Told>>,
    /// Readable when something was told.
    pub(crate) bell: Arc<EventFd>,
}

impl LogThread {
    pub(crate) fn start(wal: Wal) -> Self {
        let (queue, wanted) = channel();
        let told = Arc::new(Mutex::new(Told::default()));
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let bell = Arc::new(EventFd::from_flags(flags).unwrap());
        let writer = Writer { wal, told: Arc::clone(&told), bell: Arc::clone(&bell) };
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&wanted)).unwrap();
        Self { queue, told, bell }
    }

    pub(crate) fn want(&self, wanted: Wanted) {
        self.queue.send(wanted).unwrap();
    }

    /// What is new; the figures stay.
    pub(crate) fn told(&self) -> Told {
        let mut told = lock(&self.told);
        let figures = told.figures;
        std::mem::replace(&mut *told, Told { figures, ..Told::default() })
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap()
}

struct Writer {
    wal: Wal,
    told: Arc<Mutex<Told>>,
    bell: Arc<EventFd>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Wanted>) {
        let mut next = queue.recv().ok();
        while let Some(wanted) = next.take() {
            match wanted {
                Wanted::Batch(mut batch) => {
                    while next.is_none() {
                        match queue.try_recv() {
                            Ok(Wanted::Batch(more)) => batch.extend(more),
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.persist(batch);
                }
                Wanted::Snapshot(snapshot) => {
                    self.save(&snapshot);
                    self.tell(|told| told.snapshot = Some(snapshot.index));
                }
            }
            if next.is_none() {
                next = queue.recv().ok();
            }
        }
    }

    fn persist(&mut self, batch: Vec<(Ticket, Write)>) {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut last = Ticket(0);
        for (ticket, write) in batch {
            match write {
                Write::Log { hard_state, entries, healed } => {
                    let mut more: Vec<LogRecord> =
                        hard_state.map(LogRecord::HardState).into_iter().collect();
                    let entries = entries.iter().map(|it| codec::to_record(it).unwrap());
                    more.extend(entries.map(LogRecord::Entry));
                    more.extend(healed.then_some(LogRecord::CutHealed));
                    let size = more.iter().map(LogRecord::size).sum::<usize>();
                    if bytes + size > APPEND_BYTES_MAX {
                        self.append(&std::mem::take(&mut records), last);
                        bytes = 0;
                    }
                    bytes += size;
                    records.extend(more);
                }
                Write::Snapshot { snapshot, hard_state } => {
                    self.append(&std::mem::take(&mut records), last);
                    bytes = 0;
                    self.wal.append(&[LogRecord::HardState(hard_state)]).unwrap();
                    self.save(&snapshot);
                    self.tell(|told| told.ticket = Some(ticket));
                }
            }
            last = ticket;
        }
        self.append(&records, last);
    }

    fn append(&mut self, records: &[LogRecord], last: Ticket) {
        if !records.is_empty() {
            self.wal.append(records).unwrap();
            self.tell(|told| told.ticket = Some(last));
        }
    }

    fn save(&mut self, snapshot: &Snapshot) {
        let data = codec::to_snapshot(&snapshot.members, &snapshot.data).unwrap();
        self.wal.save_snapshot(snapshot.index, snapshot.term, &data).unwrap();
        self.wal.compact(snapshot.index).unwrap();
    }

    fn tell(&self, what: impl FnOnce(&mut Told)) {
        let mut told = lock(&self.told);
        what(&mut told);
        told.figures = self.wal.figures();
        drop(told);
        self.bell.write(1).unwrap();
    }
}
