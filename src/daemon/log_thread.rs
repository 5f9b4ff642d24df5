//! The one thread that writes the log: every batch is one write and one fdatasync.
//!
//! Requests queue without a bound of their own: the manager bounds its entries in flight. Whatever
//! is queued when the thread comes round is written as one batch.
//!
//! **Invariant:** after a refusal nothing is written until the brain says [`Write::Resume`]. What was
//! queued before builds on entries that are not there, and the manager proposes other entries with
//! the same indexes: an event could not tell which of them it means.

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
    /// The manager knows of the refusal: what comes from here on follows what is on the disk.
    Resume,
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

fn run(wal: Wal, queue: &Receiver<Write>, events: &Events<Event>) {
    let mut writer = Writer { wal, refused: false };
    let mut next = queue.recv().ok();
    while let Some(write) = next.take() {
        let told = match write {
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
                writer.append(entries)
            }
            Write::Snapshot { index, term, data } => writer.save(index, term, &data),
            Write::Resume => {
                writer.refused = false;
                Vec::new()
            }
        };
        for event in told {
            if events.send_blocking(event).is_err() {
                return;
            }
        }
        if next.is_none() {
            next = queue.recv().ok();
        }
    }
}

struct Writer {
    wal: Wal,
    /// A batch was refused and the manager has yet to hear of it.
    refused: bool,
}

impl Writer {
    fn append(&mut self, entries: Vec<LogEntry>) -> Vec<Event> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Vec::new();
        };
        if self.refused {
            return Vec::new();
        }
        let (first, last) = (first.index, last.index);
        let urgent = entries.iter().all(|entry| entry.urgent);
        let records: Vec<LogRecord> = entries
            .into_iter()
            .map(|e| LogRecord::Entry(Entry { index: e.index, term: e.term, data: e.data }))
            .collect();
        let wal = &mut self.wal;
        let appended = if urgent { wal.append_urgent(&records) } else { wal.append(&records) };
        let Err(err) = appended else { return vec![Event::Persisted { index: last }] };
        let reason = crate::base::chain::text(&err);
        log::error!("cannot write the log: {reason}");
        self.refused = true;
        // A long batch is several writes, of which the first ones may have succeeded.
        let durable = self.wal.last_index();
        let written = (durable >= first).then_some(Event::Persisted { index: durable });
        let index = first.max(durable + 1);
        written.into_iter().chain([Event::PersistRefused { index, reason }]).collect()
    }

    fn save(&mut self, index: u64, term: u64, data: &[u8]) -> Vec<Event> {
        match self.wal.save_snapshot(index, term, data).and_then(|()| self.wal.compact(index)) {
            Ok(_) => vec![Event::SnapshotSaved { index }],
            Err(err) => {
                log::error!("cannot save a snapshot: {}", crate::base::chain::text(&err));
                Vec::new()
            }
        }
    }
}
