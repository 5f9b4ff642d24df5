//! The generation of this member: a number that grows with each start, kept in a file.
//!
//! Gossip takes the state of a higher generation for newer, and believes what it was told of the
//! same one for good; so a number must not be used twice. A clock would do, but a board has none.

use std::fs;
use std::path::Path;

use crate::host::disk::ledger::{self, LedgerError};
use crate::host::entropy;
use crate::model::wire::Kind;

const FILE: &str = "generation";
const VERSION: u16 = 1;
/// Where a lost counter goes on: far above what starts alone can reach.
const LOST_ABOVE: u64 = 1 << 32;

/// Counts one start more: two fsyncs. When the file cannot be read, the number is drawn above all
/// that were counted; when it cannot be written, the number is used all the same, as a full disk
/// must not take a node out of the cluster: at worst its next start shows a little late.
pub(super) fn next(folder: &Path, before: u64) -> u64 {
    let path = folder.join(FILE);
    let found = match ledger::read::<u64>(&path, Kind::GENERATION, VERSION) {
        Ok(found) => found.unwrap_or(0),
        Err(error) => {
            log::warn!("the generation is lost and goes on far above: {error}");
            lost()
        }
    };
    let generation = found.max(before).saturating_add(1);
    if let Err(error) = write(folder, &path, generation) {
        log::warn!("generation {generation} is not kept: {error}");
    }
    generation
}

fn write(folder: &Path, path: &Path, generation: u64) -> Result<(), LedgerError> {
    // If this fails, so does what follows, with the better message.
    drop(fs::create_dir_all(folder));
    ledger::write(path, Kind::GENERATION, VERSION, &generation)
}

fn lost() -> u64 {
    let random = entropy::bytes::<4>().map_or(0, u32::from_ne_bytes);
    LOST_ABOVE + (u64::from(random) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn folder(name: &str) -> Folder {
        let name = format!("skep-generation-{name}-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    #[test]
    fn each_start_counts_one_more() {
        let folder = folder("count");
        let inner = folder.0.join("made");
        assert_eq!((next(&inner, 0), next(&inner, 0), next(&inner, 7), next(&inner, 0)), (1, 2, 8, 9));
    }

    #[test]
    fn a_damaged_file_is_passed_and_one_that_cannot_be_written_is_no_hindrance() {
        let folder = folder("damage");
        assert_eq!(next(&folder.0, 0), 1);
        fs::write(folder.0.join(FILE), b"not a state file").unwrap();
        let after = next(&folder.0, 0);
        assert!(after > LOST_ABOVE);
        assert_eq!(next(&folder.0, 0), after + 1);
        assert_eq!(next(Path::new("/proc/no/such/folder"), 4), 5);
    }
}
