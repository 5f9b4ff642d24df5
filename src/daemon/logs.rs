//! Logs of tasks, wherever they run: read here for a user or for another manager, or asked of the
//! task's node.
//!
//! Reading blocks, so it is done on threads of the API or of the pool. Each reader holds one line of
//! each log; what comes from another node waits in a channel of few batches, so that a slow client
//! slows the node down and fills nobody's memory.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_channel::{Receiver, TryRecvError};
use async_io::Timer;

use crate::base::chain;
use crate::base::id::TaskId;
use crate::host::runtime::logs::{LogLine, LogNext, LogQuery, LogReader};
use crate::host::runtime::{Runtime, RuntimeError};
use crate::model::peer::{AskedLogs, TaskLine};

/// Batches of another node's lines that wait for the client.
pub(super) const BATCHES_MAX: usize = 4;

/// Bytes of text after which a batch is sent.
const BATCH_BYTES: usize = 64 << 10;

/// Lines after which it is.
const BATCH_LINES_MAX: usize = 512;

/// The longest wait for the first word of another node: look-up, dial, TLS and greeting have ends of
/// their own well before.
const FIRST_WORD_MAX: Duration = Duration::from_secs(20);

/// What a source of lines gives next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinesNext {
    /// A line.
    Line(TaskLine),
    /// Nothing new within the time.
    Idle,
    /// There will be no more.
    End,
}

/// Why a log cannot be read, or not to its end. `Display` is for the user.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// A file of this node.
    #[error(transparent)]
    Read(#[from] RuntimeError),
    /// The other node, in words.
    #[error("{0}")]
    Node(String),
}

/// Logs of tasks of this node, merged by time.
#[derive(Debug)]
pub struct LocalLogs {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    task: TaskId,
    reader: LogReader,
    /// Its next line.
    ahead: Option<LogLine>,
}

impl LocalLogs {
    /// Opens the logs.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn open(runtime: &Runtime, asked: &AskedLogs) -> Result<Self, LogsError> {
        let query = LogQuery {
            follow: asked.follow,
            tail: asked.tail,
            since_ns: asked.since_ns,
            until_ns: asked.until_ns,
        };
        let open = asked.tasks.iter().map(|task| {
            let reader = runtime.logs(*task, query)?;
            Ok(Open { task: *task, reader, ahead: None })
        });
        Ok(Self { open: open.collect::<Result<_, LogsError>>()? })
    }

    /// The oldest line that is there; waits up to `wait` for one while a log may still grow.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn next(&mut self, wait: Duration) -> Result<LinesNext, LogsError> {
        if !self.read_ahead(Duration::ZERO)? && !self.read_ahead(wait)? {
            return Ok(if self.open.is_empty() { LinesNext::End } else { LinesNext::Idle });
        }
        let lines = self.open.iter_mut().filter(|open| open.ahead.is_some());
        let oldest = lines.min_by_key(|open| open.ahead.as_ref().map(|line| line.time_ns));
        let line = oldest.and_then(|open| open.ahead.take().map(|line| (open.task, line)));
        Ok(line.map_or(LinesNext::Idle, |(task, line)| {
            let LogLine { is_stderr, time_ns, text } = line;
            LinesNext::Line(TaskLine { task, is_stderr, time_ns, text })
        }))
    }

    /// Reads a line of each log that has none ahead. True when there is one.
    fn read_ahead(&mut self, mut wait: Duration) -> Result<bool, LogsError> {
        let (mut found, mut at) = (false, 0);
        while let Some(open) = self.open.get_mut(at) {
            if open.ahead.is_none() {
                match open.reader.next(wait)? {
                    LogNext::Line(line) => open.ahead = Some(line),
                    LogNext::Idle => {}
                    LogNext::End => {
                        self.open.swap_remove(at);
                        continue;
                    }
                }
                // One wait is enough; the others are only looked at.
                wait = Duration::ZERO;
            }
            found |= open.ahead.is_some();
            at += 1;
        }
        Ok(found)
    }

    /// What is there now, up to a batch, after a wait of up to `wait` for the first line.
    pub(super) fn batch(&mut self, wait: Duration) -> Result<Batch, LogsError> {
        let (mut lines, mut bytes, mut wait) = (Vec::new(), 0, wait);
        while bytes < BATCH_BYTES && lines.len() < BATCH_LINES_MAX {
            match self.next(wait)? {
                LinesNext::Line(line) => {
                    bytes += line.text.len();
                    lines.push(line);
                }
                LinesNext::Idle => return Ok(Batch { lines, then: Then::Idle }),
                LinesNext::End => return Ok(Batch { lines, then: Then::Over }),
            }
            wait = Duration::ZERO;
        }
        Ok(Batch { lines, then: Then::More })
    }
}

/// Lines in order of their time.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<TaskLine>,
    pub(super) then: Then,
}

/// What follows a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Then {
    /// There is more already.
    #[default]
    More,
    /// Nothing for now.
    Idle,
    /// Nothing any more.
    Over,
}

/// What another node says.
#[derive(Debug)]
pub(super) enum Said {
    /// Lines in order of their time; none when there are no more for now.
    Lines(Vec<TaskLine>),
    /// All logs have ended.
    Over,
    /// It cannot be reached, or not any more.
    Failed(String),
}

/// Logs of tasks of another node.
#[derive(Debug)]
pub struct RemoteLogs {
    said: Receiver<Said>,
    lines: VecDeque<TaskLine>,
    /// All that had been written when it was asked is here: from now on lines are news.
    is_live: bool,
}

impl RemoteLogs {
    pub(super) const fn new(said: Receiver<Said>) -> Self {
        Self { said, lines: VecDeque::new(), is_live: false }
    }

    /// The next line. Until the node has told all that it had when it was asked, waits for it, so
    /// that lines can be merged with those of other nodes; then up to `wait`.
    ///
    /// # Errors
    /// When the node cannot be reached, or not any more.
    pub fn next(&mut self, wait: Duration) -> Result<LinesNext, LogsError> {
        let until = Instant::now() + if self.is_live { wait } else { FIRST_WORD_MAX };
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(LinesNext::Line(line));
            }
            match self.hear(until) {
                Some(Said::Lines(lines)) if lines.is_empty() => {
                    self.is_live = true;
                    return Ok(LinesNext::Idle);
                }
                Some(Said::Lines(lines)) => self.lines.extend(lines),
                Some(Said::Over) => return Ok(LinesNext::End),
                Some(Said::Failed(why)) => return Err(LogsError::Node(why)),
                None if self.is_live => return Ok(LinesNext::Idle),
                None => return Err(LogsError::Node("it does not answer".to_owned())),
            }
        }
    }

    /// What is said next; none when nothing is until then.
    fn hear(&self, until: Instant) -> Option<Said> {
        match self.said.try_recv() {
            Ok(said) => return Some(said),
            Err(TryRecvError::Closed) => return Some(closed()),
            Err(TryRecvError::Empty) => {}
        }
        if until <= Instant::now() {
            return None;
        }
        let late = async {
            Timer::at(until).await;
            None
        };
        let said = async { Some(self.said.recv().await.unwrap_or_else(|_closed| closed())) };
        smol::block_on(smol::future::or(said, late))
    }
}

fn closed() -> Said {
    Said::Failed("the daemon's connections are busy".to_owned())
}

/// In words, for another node.
pub(super) fn text(err: &LogsError) -> String {
    chain::text(err)
}
