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
use crate::base::chain;
use crate::host::disk::wal::{APPEND_BYTES_MAX, Wal, WalError};
use crate::logic::raft::codec;
use crate::logic::raft::io::{self as raft, Snapshot, Ticket};
use crate::model::wire::LogRecord;

/// What the brain wants of the log.
#[derive(Debug)]
pub(super) enum Write {
    /// Make these durable, in order.
    Batch(Vec<Persist>),
    /// Save this snapshot and drop the log below it.
    Snapshot(Snapshot),
    /// The manager knows of the refusal: what comes from here on follows what is on the disk.
    Resume,
}

/// One write of the manager.
#[derive(Debug)]
pub(super) struct Persist {
    pub(super) ticket: Ticket,
    pub(super) write: raft::Write,
    /// The reserve is given up for it on a full disk.
    pub(super) urgent: bool,
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
            Write::Batch(mut batch) => {
                loop {
                    match queue.try_recv() {
                        Ok(Write::Batch(more)) => batch.extend(more),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                writer.persist(batch)
            }
            Write::Snapshot(snapshot) => vec![writer.save(&snapshot)],
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

/// Writes that go to the disk together: all of them are durable, or none.
#[derive(Default)]
struct Group {
    first: Ticket,
    last: Ticket,
    records: Vec<LogRecord>,
    bytes: usize,
    urgent: bool,
}

impl Writer {
    fn persist(&mut self, batch: Vec<Persist>) -> Vec<Event> {
        if self.refused {
            return Vec::new();
        }
        let mut told = Vec::new();
        let mut group: Option<Group> = None;
        for Persist { ticket, write, urgent } in batch {
            match write {
                raft::Write::Log { hard_state, entries, healed } => {
                    let mut records: Vec<LogRecord> =
                        hard_state.map(LogRecord::HardState).into_iter().collect();
                    for entry in &entries {
                        match codec::to_record(entry) {
                            Ok(record) => records.push(LogRecord::Entry(record)),
                            // Checked when it was proposed or received.
                            Err(error) => {
                                self.refused = true;
                                let reason = error.to_string();
                                told.push(Event::PersistRefused { ticket, reason });
                                return told;
                            }
                        }
                    }
                    records.extend(healed.then_some(LogRecord::CutHealed));
                    let bytes = records.iter().map(LogRecord::size).sum::<usize>();
                    let full = |group: &mut Group| group.bytes + bytes > APPEND_BYTES_MAX;
                    if let Some(ready) = group.take_if(full)
                        && !self.append(ready, &mut told)
                    {
                        return told;
                    }
                    let group = group.get_or_insert_with(|| Group {
                        first: ticket,
                        urgent,
                        ..Group::default()
                    });
                    group.records.extend(records);
                    group.bytes += bytes;
                    group.urgent &= urgent;
                    group.last = ticket;
                }
                raft::Write::Snapshot { snapshot, hard_state } => {
                    if let Some(ready) = group.take()
                        && !self.append(ready, &mut told)
                    {
                        return told;
                    }
                    let written = self
                        .wal
                        .append(&[LogRecord::HardState(hard_state)])
                        .and_then(|()| self.install(&snapshot));
                    if !self.tell(ticket, ticket, written, &mut told) {
                        return told;
                    }
                }
            }
        }
        if let Some(ready) = group {
            self.append(ready, &mut told);
        }
        told
    }

    /// Writes a group; false when the disk refused it.
    fn append(&mut self, group: Group, told: &mut Vec<Event>) -> bool {
        let Group { first, last, records, urgent, .. } = group;
        let wal = &mut self.wal;
        let written = if urgent { wal.append_urgent(&records) } else { wal.append(&records) };
        self.tell(first, last, written, told)
    }

    fn tell(
        &mut self,
        first: Ticket,
        last: Ticket,
        written: Result<(), WalError>,
        told: &mut Vec<Event>,
    ) -> bool {
        match written {
            Ok(()) => {
                told.push(Event::Persisted { ticket: last });
                true
            }
            Err(err) => {
                let reason = chain::text(&err);
                log::error!("cannot write the log: {reason}");
                self.refused = true;
                told.push(Event::PersistRefused { ticket: first, reason });
                false
            }
        }
    }

    fn install(&mut self, snapshot: &Snapshot) -> Result<(), WalError> {
        let data = codec::to_snapshot(&snapshot.members, &snapshot.data).map_err(|error| {
            let bytes = snapshot.data.len();
            log::error!("cannot encode a snapshot: {error}");
            WalError::Snapshot { bytes, index: snapshot.index, newest: 0 }
        })?;
        self.wal.save_snapshot(snapshot.index, snapshot.term, &data)?;
        self.wal.compact(snapshot.index).map(|_removed| ())
    }

    fn save(&mut self, snapshot: &Snapshot) -> Event {
        let index = snapshot.index;
        match self.install(snapshot) {
            Ok(()) => Event::SnapshotSaved { index },
            Err(err) => {
                log::error!("cannot save a snapshot: {}", chain::text(&err));
                Event::SnapshotRefused { index }
            }
        }
    }
}
