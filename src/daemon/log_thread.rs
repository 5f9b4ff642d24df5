//! The one thread that writes the log: every batch is one write and one fdatasync.
//!
//! Requests queue without a bound of their own: the manager bounds its entries in flight. Whatever
//! is queued when the thread comes round is written as one batch.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use async_channel::Sender as Events;

use super::handle::Event;
use crate::host::disk::wal::Wal;
use crate::logic::manager::io::LogEntry;
use crate::model::wire::{Entry, LogRecord};

/// What the brain wants of the log.
#[derive(Debug)]
pub(super) enum Write {
    /// Append these.
    Entries(Vec<LogEntry>),
    /// Save this snapshot and drop the log below it.
    Snapshot { index: u64, term: u64, data: Vec<u8> },
}

/// The thread's end in the brain. Dropping it lets the thread finish what is queued and end.
#[derive(Debug)]
pub(super) struct LogThread {
    writes: Option<Sender<Write>>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts the thread.
    pub(super) fn start(wal: Wal, events: Events<Event>) -> std::io::Result<Self> {
        let (writes, queue) = channel();
        let thread = Builder::new()
            .name("log".to_owned())
            .stack_size(256 << 10)
            .spawn(move || run(wal, &queue, &events))?;
        Ok(Self { writes: Some(writes), thread: Some(thread) })
    }

    /// Queues a write; answered by an [`Event`].
    pub(super) fn write(&self, write: Write) {
        if let Some(writes) = &self.writes
            && writes.send(write).is_err()
        {
            log::error!("the log's thread is gone; nothing more can be acknowledged");
        }
    }

    /// Waits until everything queued is written.
    pub(super) fn finish(mut self) {
        self.writes = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the log's thread ended badly");
        }
    }
}

fn run(mut wal: Wal, queue: &Receiver<Write>, events: &Events<Event>) {
    let mut next = queue.recv().ok();
    while let Some(write) = next.take() {
        let event = match write {
            Write::Entries(mut entries) => {
                loop {
                    match queue.try_recv() {
                        Ok(Write::Entries(more)) => entries.extend(more),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                append(&mut wal, entries)
            }
            Write::Snapshot { index, term, data } => save(&mut wal, index, term, &data),
        };
        if let Some(event) = event
            && events.send_blocking(event).is_err()
        {
            return;
        }
        if next.is_none() {
            next = queue.recv().ok();
        }
    }
}

fn append(wal: &mut Wal, entries: Vec<LogEntry>) -> Option<Event> {
    let first = entries.first()?.index;
    let last = entries.last()?.index;
    let urgent = entries.iter().all(|entry| entry.urgent);
    let records: Vec<LogRecord> = entries
        .into_iter()
        .map(|e| LogRecord::Entry(Entry { index: e.index, term: e.term, data: e.data }))
        .collect();
    let appended = if urgent { wal.append_urgent(&records) } else { wal.append(&records) };
    Some(match appended {
        Ok(()) => Event::Persisted { index: last },
        Err(err) => {
            let reason = crate::base::chain::text(&err);
            log::error!("cannot write the log: {reason}");
            Event::PersistRefused { index: first, reason }
        }
    })
}

fn save(wal: &mut Wal, index: u64, term: u64, data: &[u8]) -> Option<Event> {
    match wal.save_snapshot(index, term, data).and_then(|()| wal.compact(index)) {
        Ok(_) => Some(Event::SnapshotSaved { index }),
        Err(err) => {
            log::error!("cannot save a snapshot: {}", crate::base::chain::text(&err));
            None
        }
    }
}
