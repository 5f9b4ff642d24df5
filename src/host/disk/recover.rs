//! Opening the log: reads every segment and says what it proves.
//!
//! A segment that has a successor must be whole up to the length that the successor tells. The
//! newest one may end in a torn frame: it is cut, if no whole frame follows the torn one; nothing
//! of it was ever acknowledged. Everything else that is not as it was written is an error that
//! names file and offset. Nothing is written here, so that a second opening finds the same; but what
//! is served is made durable first.

use std::fmt;
use std::path::{Path, PathBuf};

use super::replay::{Place, Replay};
use super::seal::LogKey;
use super::segment::{self, Damage, Frames, Header, Previous};
use super::snapshot::{self, Snapshot};
use super::wal::{Finished, RESERVE_NAME, SEGMENT_BYTES_MAX, Wal, WalError, WalFigures};
use super::{Disk, HostDisk, IoFailed};
use crate::model::wire::{Entry, HardState, LogRecord};

/// What opening the log found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The newest whole snapshot.
    pub snapshot: Option<Snapshot>,
    /// The entries behind it, without a gap.
    pub entries: Vec<Entry>,
    /// A torn tail that this opening left out.
    pub cut: Option<Cut>,
    /// Index behind which this or an earlier opening cut the log, until
    /// [`LogRecord::CutHealed`] is appended: a manager among several neither votes nor campaigns.
    pub doubt: Option<u64>,
    /// What was wrong with newer snapshots, where an older one had to do.
    pub damaged_snapshots: Vec<String>,
}

/// A torn tail: what a crash left of a write that was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub path: PathBuf,
    /// Where the torn part begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// The last index in the log before it.
    pub index: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, offset, bytes, index } = self;
        let path = path.display();
        write!(f, "cut {bytes} torn bytes off {path} at byte {offset}: ")?;
        write!(f, "a write that was never finished; the log ends at index {index}")
    }
}

impl Wal<HostDisk> {
    /// Opens the log in `dir`, which exists. One thread owns it from here on.
    pub fn open(dir: &Path, key: &LogKey) -> Result<(Self, Recovered), WalError> {
        Wal::open_on(HostDisk, dir, key)
    }
}

impl<D: Disk> Wal<D> {
    /// Opens the log in `dir` on `disk`.
    pub fn open_on(disk: D, dir: &Path, key: &LogKey) -> Result<(Self, Recovered), WalError> {
        // A process that was killed may have left names that no power cut would leave.
        disk.sync_dir(dir).map_err(|e| IoFailed::new("sync", dir, e))?;
        let names = disk.list(dir).map_err(|e| IoFailed::new("list", dir, e))?;
        let reader = Reader { disk: &disk, dir, key };
        let log = reader.segments(&names)?;
        let (snapshot, snapshots, damaged) = reader.snapshots(&names, &log.replay)?;

        let place = snapshot.as_ref().map_or((0, 0), Snapshot::place);
        let (mut tail, entries, void) = log.replay.finish(place);
        let mut pending = Vec::new();
        if void && place != (0, 0) {
            pending.push(LogRecord::SnapshotMark { index: place.0, term: place.1 });
        }
        if let Some(cut) = &log.cut {
            pending.push(LogRecord::Cut { index: cut.index });
            tail.cut = Some(cut.index);
        }
        let hard_state = tail.hard_state;
        if hard_state.commit > tail.last.0 {
            let (last, committed) = (tail.last.0, hard_state.commit);
            return Err(WalError::Lost { dir: dir.to_owned(), last, committed });
        }
        let recovered = Recovered {
            hard_state,
            snapshot,
            entries,
            cut: log.cut,
            doubt: tail.cut,
            damaged_snapshots: damaged,
        };
        let reserve = names.iter().any(|name| name == RESERVE_NAME);
        let mut wal = Self {
            disk,
            dir: dir.to_owned(),
            key: key.clone(),
            tail,
            finished: log.finished,
            active: None,
            sequence: log.sequence,
            end: log.end,
            pending,
            snapshots,
            void: log.void,
            poisoned: false,
            reserve,
            figures: WalFigures::default(),
        };
        wal.restore_reserve();
        Ok((wal, recovered))
    }
}

/// What the segments say.
#[derive(Default)]
struct Segments {
    replay: Replay,
    finished: Vec<Finished>,
    sequence: u64,
    end: Previous,
    void: Vec<PathBuf>,
    cut: Option<Cut>,
}

/// One segment as bytes.
struct Raw {
    path: PathBuf,
    sequence: u64,
    first_index: u64,
    bytes: Vec<u8>,
}

struct Reader<'a, D: Disk> {
    disk: &'a D,
    dir: &'a Path,
    key: &'a LogKey,
}

fn damaged(path: &Path, offset: usize, damage: Damage) -> WalError {
    let offset = u64::try_from(offset).unwrap_or(u64::MAX);
    WalError::Damaged { path: path.to_owned(), offset, damage }
}

impl<D: Disk> Reader<'_, D> {
    fn segments(&self, names: &[String]) -> Result<Segments, WalError> {
        let mut order: Vec<_> =
            names.iter().filter_map(|name| Some((segment::parse_name(name)?, name))).collect();
        order.sort();
        let oldest = order.first().map_or(1, |((sequence, _), _)| *sequence);
        let mut log = Segments::default();
        // The one before, whose end only its successor's header tells.
        let mut waiting: Option<(Raw, Header)> = None;
        for (number, ((sequence, first_index), name)) in order.iter().enumerate() {
            let expected = oldest + u64::try_from(number).unwrap_or(u64::MAX);
            if *sequence != expected {
                return Err(WalError::Missing { dir: self.dir.to_owned(), sequence: expected });
            }
            let last = number + 1 == order.len();
            let unsettled = number + 2 >= order.len();
            let path = self.dir.join(name);
            let bytes = self.read(&path, unsettled)?;
            let raw = Raw { path, sequence: *sequence, first_index: *first_index, bytes };
            let header = match self.header(&raw) {
                Ok(header) => header,
                Err(damage) if last && is_torn_header(&raw.bytes, damage) => {
                    log.void.push(raw.path.clone());
                    log.cut = cut_at(&raw, 0, &log.replay);
                    break;
                }
                Err(damage) => return Err(damaged(&raw.path, 0, damage)),
            };
            match waiting.take() {
                Some((before, its_header)) => {
                    self.finished_segment(&before, &its_header, &header, &raw.path, &mut log)?;
                }
                None => self.first_segment(&header, &mut log),
            }
            waiting = Some((raw, header));
        }
        if let Some((raw, header)) = waiting {
            self.newest_segment(&raw, &header, &mut log)?;
        }
        if let Some(cut) = &mut log.cut {
            cut.index = log.replay.tail.last.0;
        }
        Ok(log)
    }

    fn read(&self, path: &Path, unsettled: bool) -> Result<Vec<u8>, WalError> {
        const LIMIT: u64 = SEGMENT_BYTES_MAX * 4;
        let file = self.disk.open(path).map_err(|e| IoFailed::new("open", path, e))?;
        if unsettled {
            // What is served must be durable, and what is read must be what the disk holds.
            self.disk.sync(&file).map_err(|e| IoFailed::new("sync", path, e))?;
            self.disk.forget(&file).map_err(|e| IoFailed::new("read anew", path, e))?;
        }
        Ok(self.disk.read(&file, LIMIT).map_err(|e| IoFailed::new("read", path, e))?)
    }

    fn header(&self, raw: &Raw) -> Result<Header, Damage> {
        let (header, _, _) = Header::decode(&raw.bytes, self.key)?;
        if (header.sequence, header.first_index) != (raw.sequence, raw.first_index) {
            return Err(Damage::Name);
        }
        Ok(header)
    }

    /// The oldest segment says where the log begins.
    fn first_segment(&self, header: &Header, log: &mut Segments) {
        let previous = &header.previous;
        log.replay = Replay::from_floor((previous.last_index, previous.last_term));
    }

    /// A segment with a successor: whole up to the length that the successor tells.
    fn finished_segment(
        &self,
        raw: &Raw,
        header: &Header,
        next: &Header,
        next_path: &Path,
        log: &mut Segments,
    ) -> Result<(), WalError> {
        let length = usize::try_from(next.previous.length).unwrap_or(usize::MAX);
        let bytes = raw.bytes.get(..length);
        let bytes = bytes.ok_or_else(|| damaged(&raw.path, raw.bytes.len(), Damage::Short))?;
        let end = self.replay(raw, header, bytes, log)?;
        if let Some((offset, damage)) = end.torn {
            return Err(damaged(&raw.path, offset, damage));
        }
        if end.previous != next.previous {
            return Err(damaged(next_path, 0, Damage::Order));
        }
        Ok(())
    }

    /// The newest segment: may end in a torn frame.
    fn newest_segment(
        &self,
        raw: &Raw,
        header: &Header,
        log: &mut Segments,
    ) -> Result<(), WalError> {
        let end = self.replay(raw, header, &raw.bytes, log)?;
        if let Some((offset, damage)) = end.torn {
            if let Some(whole) = segment::next_frame(&raw.bytes, offset + 1) {
                log::error!("a whole frame follows at byte {whole} of {}", raw.path.display());
                return Err(damaged(&raw.path, offset, damage));
            }
            log.cut = cut_at(raw, offset, &log.replay).or(log.cut.take());
        }
        log.sequence = header.sequence;
        log.end = end.previous;
        Ok(())
    }

    /// Applies the frames of one segment. A frame that is not whole ends it: torn, if allowed.
    fn replay(
        &self,
        raw: &Raw,
        header: &Header,
        bytes: &[u8],
        log: &mut Segments,
    ) -> Result<End, WalError> {
        let at = |offset, damage| damaged(&raw.path, offset, damage);
        let (_, key, tag) = Header::decode(bytes, self.key).map_err(|damage| at(0, damage))?;
        let mut frames = Frames::new(bytes, &key, tag);
        log.replay.index_max = log.replay.tail.last.0;
        let mut torn = None;
        while frames.offset() < bytes.len() {
            let offset = frames.offset();
            if let Err(damage) = frames.is_whole() {
                torn = Some((offset, damage));
                break;
            }
            for record in frames.next().map_err(|damage| at(offset, damage))? {
                let applied = log.replay.apply(record);
                applied.map_err(|_out_of_order| at(offset, Damage::Order))?;
            }
        }
        let length = u64::try_from(frames.offset()).unwrap_or(u64::MAX);
        log.finished.push(Finished {
            path: raw.path.clone(),
            index_max: log.replay.index_max,
            bytes: length,
        });
        let (last_index, last_term) = log.replay.tail.last;
        let previous = Previous { length, last_index, last_term, tag: frames.chain() };
        debug_assert!(header.sequence == raw.sequence);
        Ok(End { previous, torn })
    }

    /// The newest whole snapshot that the log goes on from, all whole ones, and what is wrong
    /// with the others.
    #[allow(clippy::type_complexity, reason = "three results of one walk over the files")]
    fn snapshots(
        &self,
        names: &[String],
        log: &Replay,
    ) -> Result<(Option<Snapshot>, Vec<Place>, Vec<String>), WalError> {
        let mut places: Vec<_> =
            names.iter().filter_map(|name| snapshot::parse_name(name)).collect();
        places.sort_unstable();
        let (mut chosen, mut whole, mut wrong) = (None, Vec::new(), Vec::new());
        let mut newest_error = None;
        for place in places.iter().rev() {
            match self.snapshot(*place) {
                Ok(snapshot) => {
                    whole.push(*place);
                    if chosen.is_none() && log.is_reached_from(*place) {
                        chosen = Some(snapshot);
                    }
                }
                Err(error) => {
                    let unreached = place.0 > log.tail.last.0 && chosen.is_none();
                    wrong.push(format!("{error}: {}", source_of(&error)));
                    newest_error.get_or_insert(error);
                    if unreached {
                        break;
                    }
                }
            }
        }
        let floor = log.tail.floor.0;
        let lost = newest_error.is_some() && places.last().is_some_and(|p| p.0 > log.tail.last.0);
        if chosen.is_none() && (floor > 0 || lost) {
            let (dir, newest) = (self.dir.to_owned(), newest_error.map(Box::new));
            return Err(WalError::Unreached { dir, floor, newest });
        }
        Ok((chosen, whole, wrong))
    }

    fn snapshot(&self, place: Place) -> Result<Snapshot, WalError> {
        let path = self.dir.join(snapshot::file_name(place));
        let file = self.disk.open(&path).map_err(|e| IoFailed::new("open", &path, e))?;
        let limit = snapshot::SNAPSHOT_BYTES_MAX + 4096;
        let bytes = self.disk.read(&file, u64::try_from(limit).unwrap_or(u64::MAX));
        let bytes = bytes.map_err(|e| IoFailed::new("read", &path, e))?;
        let found = snapshot::decode(&bytes, self.key);
        let found = found.map_err(|(damage, offset)| damaged(&path, offset, damage))?;
        if found.place() == place { Ok(found) } else { Err(damaged(&path, 0, Damage::Name)) }
    }
}

/// How a segment ends, and where its torn frame begins, if there is one.
struct End {
    previous: Previous,
    torn: Option<(usize, Damage)>,
}

/// A segment whose making was interrupted has no whole frame. Any other damage is not the work of
/// a crash.
fn is_torn_header(bytes: &[u8], damage: Damage) -> bool {
    matches!(damage, Damage::Short | Damage::Magic | Damage::Checksum)
        && segment::next_frame(bytes, 0).is_none()
}

fn cut_at(raw: &Raw, offset: usize, replay: &Replay) -> Option<Cut> {
    let bytes = u64::try_from(raw.bytes.len().saturating_sub(offset)).unwrap_or(u64::MAX);
    let offset = u64::try_from(offset).unwrap_or(u64::MAX);
    let index = replay.tail.last.0;
    (bytes > 0).then(|| Cut { path: raw.path.clone(), offset, bytes, index })
}

fn source_of(error: &WalError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}
