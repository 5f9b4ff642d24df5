//! The log: what is appended, and what opening finds.
//!
//! One thread owns it; every call blocks. An append is one frame, one write, one fdatasync, and
//! is acknowledged by `Ok` alone. Opening writes nothing: the first append after it starts a new
//! segment, whose header binds the end of the one before, and so also settles what was cut.
//! Not here: what entries mean (`logic`), when to take a snapshot (`daemon`).
//!
//! After a failed fsync nobody knows what the disk holds: the log then refuses everything until
//! it is opened again, which reads what the disk really has.

use std::path::{Path, PathBuf};

use super::replay::{Place, Tail};
use super::seal::{self, FileKey, LogKey, Tag};
use super::segment::{self, Damage, FEATURE_LEVEL, FRAME_BYTES_MAX, Header, Previous};
use super::snapshot::{self, SNAPSHOT_BYTES_MAX, SNAPSHOTS_KEPT};
use super::{Disk, HostDisk, IoFailed};
use crate::host::failpoint::{self, Point};
use crate::model::wire::{LogRecord, WireError};

/// A segment is finished when it has grown to this.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// What is set aside so that a full disk can still be told.
pub const RESERVE_BYTES: u64 = 1 << 20;

/// Room in a frame for what a new segment says first.
const PREFIX_BYTES_MAX: usize = 4 << 10;

/// Records of this many bytes ([`LogRecord::size`]) are one frame: all of them durable or none.
pub const APPEND_BYTES_MAX: usize = FRAME_BYTES_MAX - 2 * PREFIX_BYTES_MAX;

pub(super) const RESERVE_NAME: &str = "reserve";

/// Why the log cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// A call on a file failed.
    #[error(transparent)]
    Io(#[from] IoFailed),
    /// No room; nothing of this append counts, and later ones work when there is room again.
    #[error("no space left for the log {} (free some space: skep image prune)", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// An earlier fsync failed.
    #[error("the log {} is closed: the disk failed to keep what was written (look for I/O errors in dmesg, then restart skep)", dir.display())]
    Poisoned {
        /// The folder of the log.
        dir: PathBuf,
    },
    /// Bytes are not what they were.
    #[error("{} is damaged at byte {offset} ({})", path.display(), REPAIR)]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// In which way.
        #[source]
        damage: Damage,
    },
    /// A file is not there.
    #[error("{} is missing a part of the log: segment {sequence} ({})", dir.display(), REPAIR)]
    Missing {
        /// The folder of the log.
        dir: PathBuf,
        /// Which segment.
        sequence: u64,
    },
    /// No whole snapshot from which the log goes on.
    #[error("the log in {} begins behind index {floor}, and no whole snapshot reaches it ({})", dir.display(), REPAIR)]
    Unreached {
        /// The folder of the log.
        dir: PathBuf,
        /// Where the log begins.
        floor: u64,
        /// What is wrong with the newest snapshot, if there is one.
        #[source]
        newest: Option<Box<Self>>,
    },
    /// The log ends before what it says is committed.
    #[error("the log in {} ends at index {last}, but {committed} were committed ({})", dir.display(), REPAIR)]
    Lost {
        /// The folder of the log.
        dir: PathBuf,
        /// The last index that is there.
        last: u64,
        /// The last index that must be.
        committed: u64,
    },
    /// The caller's records do not follow what is in the log.
    #[error("record {place} of this append does not follow the log, which ends at index {last}")]
    OutOfOrder {
        /// Its place in the append.
        place: usize,
        /// The last index in the log.
        last: u64,
    },
    /// A record is too large to be written.
    #[error("a record cannot be written")]
    Record(#[from] WireError),
    /// A snapshot is too large or covers less than the one before it.
    #[error("a snapshot of {bytes} bytes at index {index} is not taken (limit {SNAPSHOT_BYTES_MAX} bytes, newest at {newest})")]
    Snapshot {
        /// Its size.
        bytes: usize,
        /// The last index it covers.
        index: u64,
        /// The last index that the newest snapshot covers.
        newest: u64,
    },
}

const REPAIR: &str = "put the folder back from a copy; or, where other managers run, move the \
                      data root away and join again";

impl WalError {
    /// The reason is a full disk, which passes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io(failed) => failed.is_full(),
            _ => false,
        }
    }
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalFigures {
    /// Bytes written, snapshots included.
    pub bytes: u64,
    /// Calls of fsync and fdatasync.
    pub syncs: u64,
    /// Appends that succeeded.
    pub appends: u64,
}

/// The log of one node.
#[derive(Debug)]
pub struct Wal<D: Disk = HostDisk> {
    pub(super) disk: D,
    pub(super) dir: PathBuf,
    pub(super) key: LogKey,
    /// What the log holds; also what the next append is checked against.
    pub(super) tail: Tail,
    /// The segments that no append reaches any more, oldest first.
    pub(super) finished: Vec<Finished>,
    pub(super) active: Option<Active<D::File>>,
    /// The newest segment's sequence, 0 when there is none.
    pub(super) sequence: u64,
    /// How the newest segment ends; the next one's header tells it.
    pub(super) end: Previous,
    /// What the next segment says before anything else.
    pub(super) pending: Vec<LogRecord>,
    /// The whole snapshots, newest first.
    pub(super) snapshots: Vec<Place>,
    /// Files that hold nothing and must be gone before the next segment is made.
    pub(super) void: Vec<PathBuf>,
    pub(super) poisoned: bool,
    pub(super) reserve: bool,
    pub(super) figures: WalFigures,
}

/// A segment that only waits to be compacted.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) path: PathBuf,
    /// The highest index that was written in it.
    pub(super) index_max: u64,
    pub(super) bytes: u64,
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Active<F> {
    file: F,
    path: PathBuf,
    key: FileKey,
    chain: Tag,
    /// The newest counter that sealed anything, written or not.
    counter: u64,
    len: u64,
    index_max: u64,
}

impl<D: Disk> Wal<D> {
    /// Makes `records` durable: all of them when this returns `Ok`.
    ///
    /// On [`WalError::Full`] the same records may be appended again later.
    pub fn append(&mut self, records: &[LogRecord]) -> Result<(), WalError> {
        self.check_open()?;
        let mut tail = self.tail.clone();
        let mut frame = Vec::new();
        for (place, record) in records.iter().enumerate() {
            let before = frame.len();
            record.encode_into(&mut frame)?;
            if before > 0 && frame.len() > FRAME_BYTES_MAX - PREFIX_BYTES_MAX {
                let next = frame.split_off(before);
                self.write_frame(frame, &tail)?;
                frame = next;
            }
            let out_of_order = WalError::OutOfOrder { place, last: self.tail.last.0 };
            let newest = self.snapshots.first().map_or(0, |(index, _)| *index);
            if matches!(record, LogRecord::Entry(entry) if entry.index <= newest)
                || tail.apply(record).is_err()
            {
                return Err(out_of_order);
            }
        }
        if frame.is_empty() {
            return Ok(());
        }
        self.write_frame(frame, &tail)?;
        self.figures.appends += 1;
        self.restore_reserve();
        Ok(())
    }

    /// Like [`Wal::append`], but on a full disk the reserve is given up for it: for what makes
    /// room again, such as the removal of an object. It is set aside again when there is room.
    pub fn append_urgent(&mut self, records: &[LogRecord]) -> Result<(), WalError> {
        match self.append(records) {
            Err(error) if error.is_full() && self.reserve => {
                let path = self.dir.join(RESERVE_NAME);
                self.disk.remove(&path).map_err(|e| IoFailed::new("remove", &path, e))?;
                self.reserve = false;
                self.append(records)
            }
            other => other,
        }
    }

    /// Index of the last entry that is durable, 0 where there is none.
    #[must_use]
    pub const fn last_index(&self) -> u64 {
        self.tail.last.0
    }

    /// Sets the reserve aside again after it was used, if there is room for it.
    pub(super) fn restore_reserve(&mut self) {
        if !self.reserve {
            let path = self.dir.join(RESERVE_NAME);
            self.reserve = match self.disk.reserve(&path, RESERVE_BYTES) {
                Ok(()) => true,
                Err(error) => {
                    log::debug!("cannot set {} aside: {error}", path.display());
                    false
                }
            };
        }
    }

    /// The reserve is set aside: an urgent append will find room.
    #[must_use]
    pub fn has_reserve(&self) -> bool {
        self.reserve
    }

    /// Makes a snapshot of the store durable; one that is refused may still be found later. Where the log does not hold the entry that it ends
    /// at (the leader sent it), the log goes on behind it and its own entries are void.
    pub fn save_snapshot(&mut self, index: u64, term: u64, data: &[u8]) -> Result<(), WalError> {
        self.check_open()?;
        let newest = self.snapshots.first().map_or(0, |(index, _)| *index);
        if data.len() > SNAPSHOT_BYTES_MAX || index <= newest || index < self.tail.floor.0 {
            return Err(WalError::Snapshot { bytes: data.len(), index, newest });
        }
        let written = snapshot::write(&self.disk, &self.dir, &self.key, (index, term), data);
        self.figures.bytes += written.map_err(|failed| self.full_or(failed))?;
        self.figures.syncs += 2;
        if !self.tail.holds((index, term)) {
            self.append(&[LogRecord::SnapshotMark { index, term }])?;
        }
        self.snapshots.insert(0, (index, term));
        self.snapshots.truncate(SNAPSHOTS_KEPT);
        self.remove_old_snapshots()?;
        Ok(())
    }

    /// Removes every snapshot that is not one of the kept ones, damaged ones too.
    fn remove_old_snapshots(&self) -> Result<(), IoFailed> {
        let dir = &self.dir;
        let names = self.disk.list(dir).map_err(|e| IoFailed::new("list", dir, e))?;
        for name in names {
            if snapshot::parse_name(&name).is_some_and(|place| !self.snapshots.contains(&place)) {
                let path = dir.join(&name);
                self.disk.remove(&path).map_err(|e| IoFailed::new("remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// Removes the segments that hold nothing behind `through`. Those that the snapshot before the
    /// newest needs are kept, so that a damaged snapshot is not the end. Returns how many went.
    pub fn compact(&mut self, through: u64) -> Result<usize, WalError> {
        self.check_open()?;
        if self.snapshots.len() < SNAPSHOTS_KEPT {
            return Ok(0);
        }
        let needed = self.snapshots.last().map_or(0, |(index, _)| *index);
        let through = through.min(needed);
        // The newest segment on disk tells the hard state and stays.
        let spare = usize::from(self.active.is_none());
        let removable = self.finished.len().saturating_sub(spare);
        let old = self.finished[..removable].iter().take_while(|s| s.index_max <= through).count();
        for _ in 0..old {
            let path = self.finished[0].path.clone();
            self.disk.remove(&path).map_err(|e| IoFailed::new("remove", &path, e))?;
            self.finished.remove(0);
            failpoint::hit(Point::WalBetweenRemoves);
        }
        Ok(old)
    }

    /// Bytes of the log on disk, without snapshots.
    #[must_use]
    pub fn size(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.len);
        self.finished.iter().map(|segment| segment.bytes).sum::<u64>() + active
    }

    /// Segments on disk. Each start of the daemon that writes adds one, each compaction removes.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.finished.len() + usize::from(self.active.is_some())
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn figures(&self) -> WalFigures {
        self.figures
    }

    fn check_open(&self) -> Result<(), WalError> {
        if self.poisoned { Err(WalError::Poisoned { dir: self.dir.clone() }) } else { Ok(()) }
    }

    fn full_or(&self, failed: IoFailed) -> WalError {
        if failed.is_full() { WalError::Full { path: failed.path } } else { failed.into() }
    }

    /// Writes one frame; `tail` is what the log is after it.
    fn write_frame(&mut self, records: Vec<u8>, tail: &Tail) -> Result<(), WalError> {
        let fits = self.active.as_ref().is_some_and(|active| active.len < SEGMENT_BYTES_MAX);
        if fits {
            self.extend_segment(records)?;
        } else {
            self.start_segment(&records)?;
        }
        self.tail = tail.clone();
        if let Some(active) = &mut self.active {
            active.index_max = active.index_max.max(tail.last.0);
            self.end = Previous {
                length: active.len,
                last_index: tail.last.0,
                last_term: tail.last.1,
                tag: active.chain,
            };
        }
        Ok(())
    }

    fn extend_segment(&mut self, records: Vec<u8>) -> Result<(), WalError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let mut bytes = Vec::with_capacity(records.len() + segment::FRAME_HEAD_BYTES + 16);
        // Counted before the write: a counter that may have reached the disk is never used again.
        active.counter += 1;
        let chain =
            segment::seal_frame(&active.key, active.counter, &active.chain, records, &mut bytes);
        failpoint::hit(Point::WalBeforeWrite);
        if let Err(error) = self.disk.write_at(&active.file, active.len, &bytes) {
            let failed = IoFailed::new("write", &active.path, error);
            if let Err(error) = self.disk.set_len(&active.file, active.len) {
                log::error!("cannot cut {} after a failed write: {error}", active.path.display());
                self.poisoned = true;
            }
            return Err(self.full_or(failed));
        }
        failpoint::hit(Point::WalAfterWrite);
        self.figures.syncs += 1;
        if let Err(error) = self.disk.sync(&active.file) {
            self.poisoned = true;
            return Err(IoFailed::new("sync", &active.path, error).into());
        }
        failpoint::hit(Point::WalAfterSync);
        let written = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        active.len += written;
        active.chain = chain;
        self.figures.bytes += written;
        Ok(())
    }

    fn start_segment(&mut self, records: &[u8]) -> Result<(), WalError> {
        for path in std::mem::take(&mut self.void) {
            if let Err(error) = self.disk.remove(&path) {
                self.void.push(path.clone());
                return Err(IoFailed::new("remove", &path, error).into());
            }
        }
        let header = Header {
            feature_level: FEATURE_LEVEL,
            salt: seal::random(),
            sequence: self.sequence + 1,
            first_index: self.end.last_index.saturating_add(1),
            previous: self.end,
        };
        let key = header.key(&self.key);
        let (head, header_tag) = header.encode(&key);
        let mut first = Vec::new();
        LogRecord::HardState(self.tail.hard_state).encode_into(&mut first)?;
        for record in &self.pending {
            record.encode_into(&mut first)?;
        }
        first.extend_from_slice(records);
        let mut bytes = head.to_vec();
        let chain = segment::seal_frame(&key, 1, &header_tag, first, &mut bytes);

        let path = self.dir.join(segment::file_name(header.sequence, header.first_index));
        let file = self.write_new_file(&path, &bytes)?;
        if let Some(old) = self.active.take() {
            let Active { path, index_max, len: bytes, .. } = old;
            self.finished.push(Finished { path, index_max, bytes });
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let index_max = self.tail.last.0;
        self.active = Some(Active { file, path, key, chain, counter: 1, len, index_max });
        self.sequence = header.sequence;
        self.pending.clear();
        self.figures.bytes += len;
        Ok(())
    }

    /// Makes a file durable, name and bytes.
    fn write_new_file(&mut self, path: &Path, bytes: &[u8]) -> Result<D::File, WalError> {
        failpoint::hit(Point::WalBeforeCreate);
        let created = self.disk.create(path).map_err(|e| IoFailed::new("create", path, e));
        let file = created.map_err(|failed| self.full_or(failed))?;
        if let Err(error) = self.disk.write_at(&file, 0, bytes) {
            self.void.push(path.to_owned());
            if let Err(error) = self.disk.remove(path) {
                log::warn!("cannot remove {} yet: {error}", path.display());
            }
            return Err(self.full_or(IoFailed::new("write", path, error)));
        }
        failpoint::hit(Point::WalAfterCreate);
        self.figures.syncs += 2;
        let dir = &self.dir;
        let synced = self.disk.sync(&file).map_err(|e| IoFailed::new("sync", path, e));
        let synced = synced
            .and_then(|()| self.disk.sync_dir(dir).map_err(|e| IoFailed::new("sync", dir, e)));
        if let Err(failed) = synced {
            self.poisoned = true;
            return Err(failed.into());
        }
        Ok(file)
    }
}
