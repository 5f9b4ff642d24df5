//! One blob of a pull: downloaded in as many tries as it takes, each going on where the last stopped.

use std::io::{self, Read};
use std::time::Instant;

use log::debug;
use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::blobs::{BlobWriter, COPY_BYTES};
use super::error::{ImageError, Result};
use super::manifest::Descriptor;
use super::pace::{Pace, Seen};
use super::pull::{Progress, Pull, PullEvent};
use super::store::FetchSlot;

/// Tries of one blob, however much each brings.
const BLOB_ATTEMPTS_MAX: u32 = 100;

/// What a try must bring to count as progress.
const PROGRESS_BYTES: u64 = 256 * 1024;

impl Pull<'_> {
    /// Makes the blob be here, going on where a broken connection stopped. One that comes slowly
    /// gives its slot up.
    pub(super) fn download(&self, blob: &Descriptor, slot: &mut Option<FetchSlot<'_>>) -> Result<()> {
        let inner = self.inner;
        if inner.has_blob(&blob.digest) {
            return Ok(());
        }
        let mut writer = BlobWriter::new(inner)?;
        let mut progress = Progress::new(&blob.digest.short(), "Downloading", blob.size);
        let (mut without_progress, mut attempts) = (0, 0);
        while let Err(error) = self.download_part(blob, &mut writer, &mut progress, slot) {
            let is_passing = matches!(
                error,
                Part::Broken(ImageError::Download { .. } | ImageError::Transport { .. })
            );
            let (Part::Broken(e) | Part::Refused(e)) = error else { continue };
            attempts += 1;
            let brought = writer.bytes() >= progress.mark + PROGRESS_BYTES;
            without_progress = if brought { 0 } else { without_progress + 1 };
            progress.mark = writer.bytes();
            let is_last = without_progress >= inner.registry.attempts_max;
            if !is_passing || is_last || attempts >= BLOB_ATTEMPTS_MAX || self.has_failed() {
                return Err(e);
            }
            debug!("download of {} stopped at {}: {e}", blob.digest, writer.bytes());
            self.session.pause(without_progress, None);
        }
        let id = Some(blob.digest.short());
        self.tell(PullEvent::new(id, "Verifying Checksum"));
        let what = format!("layer {}", blob.digest);
        writer.commit(inner, &what, Some((blob.digest, blob.size))).map(drop)
    }

    fn download_part(
        &self,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        progress: &mut Progress,
        slot: &mut Option<FetchSlot<'_>>,
    ) -> std::result::Result<(), Part> {
        let start = writer.bytes();
        if start == blob.size {
            return Ok(());
        }
        let response = match self.session.blob(&blob.digest, start) {
            Err(ImageError::Status { status: 416, .. }) if start > 0 => {
                writer.restart().map_err(Part::Refused)?;
                return Err(Part::Restart);
            }
            result => result.map_err(Part::Refused)?,
        };
        if start > 0 && !continues_at(&response, start) {
            writer.restart().map_err(Part::Refused)?;
            if response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(Part::Restart);
            }
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; COPY_BYTES];
        let stopped = |why: String| {
            Part::Broken(ImageError::Download { what: blob.digest, why })
        };
        let limits = &self.inner.registry.pace;
        let mut pace = Pace::new(Instant::now(), writer.bytes());
        while writer.bytes() < blob.size {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Err(stopped("the connection was closed too early".to_owned())),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(stopped(e.to_string())),
            };
            if writer.bytes() + count as u64 > blob.size {
                return Err(Part::Refused(ImageError::SizeMismatch {
                    what: format!("layer {}", blob.digest),
                    want: blob.size,
                    got: writer.bytes() + count as u64,
                }));
            }
            writer.write(&buffer[..count]).map_err(Part::Refused)?;
            match pace.look(limits, Instant::now(), writer.bytes()) {
                Seen::Fine => {}
                Seen::Slow => *slot = None,
                Seen::Stopped(came) => return Err(stopped(self.session.too_slow(came))),
            }
            progress.tell(self, writer.bytes());
            if self.has_failed() {
                return Err(Part::Refused(self.given_up(blob)));
            }
        }
        Ok(())
    }
}

/// How one try of a download ended.
enum Part {
    /// May go on from where it stopped.
    Broken(ImageError),
    /// No use in trying again.
    Refused(ImageError),
    /// The registry does not continue: from the start again.
    Restart,
}

fn continues_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|v| v.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}
