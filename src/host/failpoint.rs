//! Named points at which a test may kill the process, as a power cut would.
//!
//! Not for failures that are returned. Unarmed, a point costs one relaxed load. Armed by
//! `--failpoint NAME[:N]` or `SKEP_FAILPOINT`, the N-th pass of that point sends SIGKILL to the
//! own process. A point that is not in the list below does not compile, and tests go through
//! [`Point::ALL`].

use std::env::VarError;
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

macro_rules! points {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// A place at which the process may be killed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Point { $(
            #[doc = concat!("`", $text, "`")]
            $name,
        )* }

        impl Point {
            /// Every point.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

points! {
    NetPinFile = "net.pin_file",
    NetPinned = "net.pinned",
    NetLinked = "net.linked",
    NetInside = "net.inside",
    NetOutside = "net.outside",
    NetRouted = "net.routed",
    NetGuarded = "net.guarded",
    NetLetThrough = "net.let_through",
    NetShutOut = "net.shut_out",
    NetUnlinked = "net.unlinked",
    NetUnmounted = "net.unmounted",
    NetUnpinned = "net.unpinned",
    ImageUnpacked = "image.unpacked",
    ImageSynced = "image.synced",
    ImageBeforeRename = "image.before_rename",
    ImageAfterRename = "image.after_rename",
    ImageNamesKept = "image.names_kept",
    ImageUntagged = "image.untagged",
    ImageRecordRemoved = "image.record_removed",
    ImageTrashed = "image.trashed",
    ProxyStarted = "proxy.started",
    ProxyRoutesSet = "proxy.routes_set",
    WalBeforeCreate = "wal.before_create",
    WalBeforeWrite = "wal.before_write",
    WalAfterWrite = "wal.after_write",
    WalAfterSync = "wal.after_sync",
    WalAfterCreate = "wal.after_create",
    WalBetweenRemoves = "wal.between_removes",
    SnapshotBeforeWrite = "snapshot.before_write",
    SnapshotBeforeRename = "snapshot.before_rename",
    SnapshotAfterRename = "snapshot.after_rename",
    LedgerBeforeWrite = "ledger.before_write",
    LedgerBeforeRename = "ledger.before_rename",
    LedgerAfterRename = "ledger.after_rename",
    ContainerFolders = "container.folders",
    ContainerVolumes = "container.volumes",
    ContainerMounted = "container.mounted",
    ContainerFilled = "container.filled",
    ContainerBundled = "container.bundled",
    ContainerBeforeShim = "container.before_shim",
    ContainerShimStarted = "container.shim_started",
    ContainerCreated = "container.created",
    ContainerStarted = "container.started",
    ContainerShimEnded = "container.shim_ended",
    ContainerDeleted = "container.deleted",
    ContainerCgroupRemoved = "container.cgroup_removed",
    ContainerExecRemoved = "container.exec_removed",
    ContainerVolumeAside = "container.volume_aside",
    ContainerVolumesRemoved = "container.volumes_removed",
    ContainerDataRemoved = "container.data_removed",
}

/// Zero, or the armed point plus one.
static ARMED: AtomicU16 = AtomicU16::new(0);
/// Passes of the armed point that are left.
static PASSES: AtomicU32 = AtomicU32::new(0);

/// What `--failpoint` takes: a name, and at which pass it kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    /// Where.
    pub point: Point,
    /// At which pass; at least 1.
    pub pass: u32,
}

/// The text names no point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no fail point \"{text}\": NAME or NAME:PASS is needed, NAME one of {}", names())]
pub struct NoSuchPoint {
    text: String,
}

fn names() -> String {
    Point::ALL.iter().map(|point| point.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Armed {
    type Err = NoSuchPoint;

    fn from_str(text: &str) -> Result<Self, NoSuchPoint> {
        let refused = || NoSuchPoint { text: text.to_owned() };
        let (name, pass) = match text.split_once(':') {
            None => (text, 1),
            Some((name, pass)) => (name, pass.parse().map_err(|_number| refused())?),
        };
        let point = Point::ALL.iter().find(|point| point.name() == name);
        match point {
            Some(point) if pass > 0 => Ok(Self { point: *point, pass }),
            _ => Err(refused()),
        }
    }
}

/// Arms one point for the rest of the process's life. Called once, before any thread starts.
pub fn arm(armed: Armed) {
    PASSES.store(armed.pass, Ordering::Relaxed);
    ARMED.store(armed.point as u16 + 1, Ordering::Release);
}

/// What `SKEP_FAILPOINT` names. Read once, when the daemon starts.
pub fn from_environment() -> Result<Option<Armed>, NoSuchPoint> {
    match std::env::var("SKEP_FAILPOINT") {
        Ok(text) => text.parse().map(Some),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(text)) => {
            Err(NoSuchPoint { text: text.to_string_lossy().into_owned() })
        }
    }
}

/// Passes a point.
#[inline]
pub fn hit(point: Point) {
    if ARMED.load(Ordering::Relaxed) == point as u16 + 1 {
        pass();
    }
}

#[cold]
fn pass() {
    if PASSES.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    if let Err(errno) = kill(Pid::this(), Signal::SIGKILL) {
        panic!("a fail point cannot kill its process: {errno}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_parse_back() {
        for (place, point) in Point::ALL.iter().enumerate() {
            assert!(Point::ALL[..place].iter().all(|other| other.name() != point.name()));
            assert_eq!(point.name().parse(), Ok(Armed { point: *point, pass: 1 }));
            let third = format!("{}:3", point.name());
            assert_eq!(third.parse(), Ok(Armed { point: *point, pass: 3 }));
        }
        for bad in ["", "wal", "wal.after_sync:0", "wal.after_sync:x", "wal.after_sync:-1"] {
            let refused = bad.parse::<Armed>().unwrap_err().to_string();
            assert!(refused.contains("wal.after_sync"), "{refused}");
        }
    }
}
