//! Logs of a service or of one task, as Docker's stream of frames.
//!
//! One thread serves one client: it keeps a source for each task of this node and one for each other
//! node, always sends the oldest line that any of them has, and while it follows looks for new
//! tasks. It ends when its client is gone. What cannot be read is told and the rest goes on: at the
//! end in swarm's words, and while it follows at once, as a line of the tasks concerned.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{service, task};
use crate::api::Api;
use crate::api::call::Call;
use crate::api::engine::{Engine, LogSource};
use crate::api::errors::ApiError;
use crate::api::query::Query;
use crate::api::respond::{Reply, StreamWriter};
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::daemon::handle::View;
use crate::daemon::logs::LinesNext;
use crate::model::engine::stream::{
    DETAIL_NODE, DETAIL_SERVICE, DETAIL_TASK, MULTIPLEXED_STREAM, RAW_STREAM, StdStream,
};
use crate::model::node::NodeState;
use crate::model::peer::{AskedLogs, LOG_TASKS_MAX, TaskLine};
use crate::model::task::{Task, TaskState};

/// Most tasks whose logs are read at once; of a service with more, the newest.
const TASKS_MAX: usize = LOG_TASKS_MAX;

/// Bytes that are gathered before they are sent.
const GATHER_BYTES: usize = 32 << 10;

/// How long a quiet log is waited for before the next is looked at.
const WAIT: Duration = Duration::from_millis(200);

/// How often new tasks are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// First API version whose frames have a `Content-Type` of their own.
const MULTIPLEXED_SINCE: u16 = 42;

/// What the client wants.
#[derive(Clone, Debug)]
struct Options {
    stdout: bool,
    stderr: bool,
    timestamps: bool,
    details: bool,
    tty: bool,
    /// Of each task; tasks are not named here.
    query: AskedLogs,
}

/// Whose logs.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Service(ServiceId),
    Task(TaskId),
}

/// `GET /services/{id}/logs`.
pub(super) fn of_service(
    api: &Arc<Api>,
    typed: &str,
    call: &Call<'_>,
) -> Result<Reply, ApiError> {
    let view = api.engine.view()?;
    let service = service::lookup(&view, typed)?;
    let options = options(&call.query, service.spec.task.container.tty)?;
    Ok(stream(api, call, Whose::Service(service.id), options))
}

/// `GET /tasks/{id}/logs`.
pub(super) fn of_task(api: &Arc<Api>, typed: &str, call: &Call<'_>) -> Result<Reply, ApiError> {
    let view = api.engine.view()?;
    let task = task::lookup(&view, typed)?;
    let options = options(&call.query, task.spec.container.tty)?;
    Ok(stream(api, call, Whose::Task(task.id), options))
}

fn options(query: &Query, tty: bool) -> Result<Options, ApiError> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    let tail = match query.text("tail") {
        "" | "all" => None,
        text => match text.parse::<i64>() {
            Ok(count) => u64::try_from(count).ok(),
            Err(_) => {
                let text = format!("invalid tail value \"{text}\": a whole number or \"all\"");
                return Err(ApiError::invalid(text));
            }
        },
    };
    Ok(Options {
        stdout,
        stderr,
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        tty,
        query: AskedLogs {
            tasks: Vec::new(),
            follow: query.flag("follow"),
            tail,
            since_ns: time(query, "since")?,
            until_ns: time(query, "until")?,
        },
    })
}

/// Seconds since 1970 with an optional fraction, or RFC 3339. Nothing and 0 are no bound.
fn time(query: &Query, name: &str) -> Result<Option<i128>, ApiError> {
    let text = query.text(name);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos = format!("{fraction:0<9}");
    let parsed = match (whole.parse::<i64>(), nanos.get(..9).map(str::parse::<u32>)) {
        _ if text.is_empty() => return Ok(None),
        (Ok(secs), Some(Ok(nanos))) => {
            Some(i128::from(secs) * 1_000_000_000 + i128::from(nanos))
        }
        _ => text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_nanosecond),
    };
    let bad = || ApiError::invalid(format!("invalid value for \"{name}\": \"{text}\" is no time"));
    parsed.map(|nanos| Some(nanos).filter(|nanos| *nanos != 0)).ok_or_else(bad)
}

fn stream(api: &Arc<Api>, call: &Call<'_>, whose: Whose, options: Options) -> Reply {
    let content_type = if !options.tty && call.version.0 >= MULTIPLEXED_SINCE {
        MULTIPLEXED_STREAM
    } else {
        RAW_STREAM
    };
    let (api, gone) = (Arc::clone(api), api.clients.gone(call.connection));
    Reply::Stream {
        content_type,
        write: Box::new(move |out| {
            let mut logs = Logs {
                engine: api.engine.as_ref(),
                whose,
                options,
                open: Vec::new(),
                seen: BTreeMap::new(),
                told: BTreeSet::new(),
                heard: BTreeMap::new(),
                missing: BTreeMap::new(),
                gathered: Vec::new(),
                out,
            };
            let ended = || gone.load(Ordering::Acquire) || stopping(&api.stopping);
            match logs.run(&ended) {
                Ok(()) => Ok(()),
                Err(End::Client(error)) => Err(error),
                Err(End::Failed(error)) => logs.complain(&error),
            }
        }),
    }
}

fn stopping(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire)
}

/// Why a stream ends before its time.
enum End {
    /// The client is gone.
    Client(io::Error),
    /// The logs cannot be read.
    Failed(ApiError),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Client(error)
    }
}

/// Logs of tasks of one node.
struct Open {
    node: NodeId,
    tasks: Vec<TaskId>,
    source: Box<dyn LogSource>,
    /// Its next line.
    ahead: Option<TaskLine>,
}

/// A stream at work.
struct Logs<'a> {
    engine: &'a dyn Engine,
    whose: Whose,
    options: Options,
    open: Vec<Open>,
    /// Details of each task whose log was opened; of those that could not be read to be tried again,
    /// none.
    seen: BTreeMap<TaskId, String>,
    /// Nodes that could not be reached, while that is so.
    told: BTreeSet<NodeId>,
    /// The time of the last line of each node.
    heard: BTreeMap<NodeId, i128>,
    /// Why lines are missing at the end.
    missing: BTreeMap<NodeId, String>,
    gathered: Vec<u8>,
    out: &'a mut StreamWriter,
}

impl Logs<'_> {
    /// Sends until there is nothing more, or `ended` says so.
    fn run(&mut self, ended: &dyn Fn() -> bool) -> Result<(), End> {
        let mut alive = self.look(true)?;
        let mut looked = Instant::now();
        while !ended() {
            // However much there is to tell of the others.
            if looked.elapsed() >= LOOK_EVERY && self.options.query.follow {
                alive = self.look(false)?;
                looked = Instant::now();
            }
            if self.read_ahead(Duration::ZERO) {
                self.send_oldest()?;
                continue;
            }
            self.flush()?;
            if self.open.is_empty() && !(self.options.query.follow && alive) {
                return self.incomplete();
            }
            if self.open.is_empty() {
                std::thread::sleep(WAIT);
            } else {
                self.read_ahead(WAIT);
            }
        }
        Ok(())
    }

    /// Swarm's words for lines that are missing.
    fn incomplete(&self) -> Result<(), End> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let why: Vec<&str> = self.missing.values().map(String::as_str).collect();
        Err(End::Failed(ApiError::new(
            500,
            format!(
                "rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not \
                 be retrieved for the following reasons: {}",
                why.join(", ")
            ),
        )))
    }

    /// Opens the logs of tasks that were not seen before. True while there may be more of them.
    fn look(&mut self, first: bool) -> Result<bool, End> {
        let view = self.engine.view().map_err(|error| End::Failed(error.into()))?;
        let follow = self.options.query.follow;
        let mut tasks: Vec<&Arc<Task>> = view
            .tasks
            .iter()
            .filter(|task| match self.whose {
                Whose::Service(id) => task.service == id,
                Whose::Task(id) => task.id == id,
            })
            .filter(|task| !self.seen.contains_key(&task.id))
            // What has not been started may have no log yet, which would be its end.
            .filter(|task| !follow || task.status.state >= TaskState::Starting)
            .collect();
        tasks.sort_by_key(|task| std::cmp::Reverse(task.meta.created.0));
        let reading: usize = self.open.iter().map(|open| open.tasks.len()).sum();
        tasks.truncate(TASKS_MAX.saturating_sub(reading));
        let mut by_node: BTreeMap<NodeId, Vec<TaskId>> = BTreeMap::new();
        for task in tasks {
            let Some(node) = task.node else { continue };
            by_node.entry(node).or_default().push(task.id);
            self.seen.insert(task.id, details(task));
        }
        for (node, tasks) in by_node {
            if Some(node) == view.node {
                // Each may end by itself and makes room.
                for task in tasks {
                    self.open(node, vec![task], first);
                }
            } else if is_down(&view, node) {
                self.miss(node, &tasks, "");
            } else {
                self.open(node, tasks, first);
            }
        }
        Ok(match self.whose {
            Whose::Service(id) => view.services.iter().any(|service| service.id == id),
            Whose::Task(id) => {
                self.told.iter().next().is_some() && view.tasks.iter().any(|task| task.id == id)
            }
        })
    }

    fn open(&mut self, node: NodeId, tasks: Vec<TaskId>, first: bool) {
        let mut asked = AskedLogs { tasks: tasks.clone(), ..self.options.query.clone() };
        if self.told.contains(&node) {
            // It is back: from where it was heard last.
            if let Some(heard) = self.heard.get(&node) {
                (asked.since_ns, asked.tail) = (Some(heard + 1), None);
            }
        } else if !first {
            // The last lines of a task that was not there yet are all of its lines.
            asked.tail = None;
        }
        match self.engine.logs(node, asked) {
            Ok(source) => self.open.push(Open { node, tasks, source, ahead: None }),
            Err(error) => self.miss(node, &tasks, &error.message),
        }
    }

    /// The logs of these tasks cannot be read, or not to their end.
    fn miss(&mut self, node: NodeId, tasks: &[TaskId], why: &str) {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let text = format!("node {node} is not available{why}");
        let news = self.told.insert(node);
        if !self.options.query.follow {
            self.missing.insert(node, text);
            return;
        }
        for task in tasks {
            // Tried again at the next look.
            let Some(details) = self.seen.remove(task) else { continue };
            if news {
                let text = format!("skep: this log cannot be read now: {text}\n");
                let line = TaskLine { task: *task, is_stderr: true, time_ns: now_ns(), text };
                encode(&line, &details, &self.options, &mut self.gathered);
            }
        }
    }

    /// Reads a line of each source that has none ahead. True when there is one to send.
    fn read_ahead(&mut self, mut wait: Duration) -> bool {
        let mut found = false;
        let mut at = 0;
        while let Some(open) = self.open.get_mut(at) {
            if open.ahead.is_none() {
                match open.source.next(wait) {
                    Ok(LinesNext::Line(line)) => open.ahead = Some(line),
                    Ok(LinesNext::Idle) => {}
                    Ok(LinesNext::End) => {
                        self.open.swap_remove(at);
                        continue;
                    }
                    Err(error) => {
                        let Open { node, tasks, .. } = self.open.swap_remove(at);
                        self.miss(node, &tasks, &error.message);
                        continue;
                    }
                }
                // One wait is enough; the others are only looked at.
                wait = Duration::ZERO;
            }
            found |= open.ahead.is_some();
            at += 1;
        }
        found
    }

    fn send_oldest(&mut self) -> Result<(), End> {
        let lines = self.open.iter_mut().filter(|open| open.ahead.is_some());
        let oldest = lines.min_by_key(|open| open.ahead.as_ref().map(|line| line.time_ns));
        if let Some(open) = oldest
            && let Some(line) = open.ahead.take()
        {
            self.heard.insert(open.node, line.time_ns);
            self.told.remove(&open.node);
            let details = self.seen.get(&line.task).map_or("", String::as_str);
            encode(&line, details, &self.options, &mut self.gathered);
        }
        if self.gathered.len() >= GATHER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), End> {
        if !self.gathered.is_empty() {
            self.out.write_all(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }

    /// Docker's way to tell of an error after the stream has begun.
    fn complain(&mut self, error: &ApiError) -> io::Result<()> {
        let text = format!("Error grabbing logs: {error}\n");
        if !self.options.tty {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            self.gathered.extend(StdStream::SystemError.header(length));
        }
        self.gathered.extend(text.bytes());
        self.out.write_all(&self.gathered)
    }
}

/// The leader holds the node for down: nothing there answers.
fn is_down(view: &View, id: NodeId) -> bool {
    view.nodes.iter().any(|(node, state)| node.id == id && *state == NodeState::Down)
}

/// For a line that no task has written.
fn now_ns() -> i128 {
    jiff::Timestamp::now().as_nanosecond()
}

/// `k=v,k=v`, escaped as in a query and sorted, as Docker's client takes it apart.
fn details(task: &Task) -> String {
    let node = task.node.map(|node| node.to_string()).unwrap_or_default();
    format!("{DETAIL_NODE}={node},{DETAIL_SERVICE}={},{DETAIL_TASK}={}", task.service, task.id)
}

/// Appends one line as Docker sends it: time, details, text, in a frame unless it is a terminal's.
fn encode(line: &TaskLine, details: &str, options: &Options, out: &mut Vec<u8>) {
    let (wanted, stream) = if line.is_stderr {
        (options.stderr, StdStream::Stderr)
    } else {
        (options.stdout, StdStream::Stdout)
    };
    if !wanted {
        return;
    }
    let mut text = String::with_capacity(line.text.len() + 160);
    if options.timestamps {
        text.push_str(&stamp(line.time_ns));
        text.push(' ');
    }
    if options.details {
        text.push_str(details);
        text.push(' ');
    }
    text.push_str(&line.text);
    if !options.tty {
        out.extend(stream.header(u32::try_from(text.len()).unwrap_or(u32::MAX)));
    }
    out.extend(text.bytes());
}

/// RFC 3339 with nine digits after the point.
fn stamp(time_ns: i128) -> String {
    match jiff::Timestamp::from_nanosecond(time_ns) {
        Ok(time) => format!("{time:.9}"),
        Err(_) => "0001-01-01T00:00:00.000000000Z".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        options(&Query::parse(text).unwrap(), false).map_err(|error| error.message)
    }

    #[test]
    fn what_clients_may_ask_for() {
        let asked = parse("stdout=1&follow=true&tail=5&since=1700000000.5").unwrap();
        assert!(asked.stdout && !asked.stderr && asked.query.follow);
        assert_eq!(asked.query.tail, Some(5));
        assert_eq!(asked.query.since_ns, Some(1_700_000_000_500_000_000));
        let asked = parse("stderr=1&tail=all&since=2023-11-14T22:13:20Z").unwrap();
        assert_eq!((asked.query.tail, asked.query.follow), (None, false));
        assert_eq!(asked.query.since_ns, Some(1_700_000_000_000_000_000));
        assert_eq!(
            parse("follow=1").unwrap_err(),
            "Bad parameters: you must choose at least one stream"
        );
        assert!(parse("stdout=1&tail=x").is_err() && parse("stdout=1&since=x").is_err());
        assert_eq!(parse("stdout=1&since=0").unwrap().query.since_ns, None);
    }

    #[test]
    fn lines_are_framed_with_time_and_details() {
        let mut asked = parse("stdout=1&timestamps=1&details=1").unwrap();
        let task = TaskId::new(1);
        let line = TaskLine { task, is_stderr: false, time_ns: 1_000, text: "hi\n".to_owned() };
        let mut out = Vec::new();
        encode(&line, "a=b", &asked, &mut out);
        let text = b"1970-01-01T00:00:00.000001000Z a=b hi\n";
        assert_eq!(out[..8], [1, 0, 0, 0, 0, 0, 0, 38]);
        assert_eq!(&out[8..], text);
        encode(&TaskLine { is_stderr: true, ..line.clone() }, "", &asked, &mut out);
        assert_eq!(out.len(), 8 + text.len(), "stderr was not asked for");
        (asked.tty, asked.timestamps, asked.details) = (true, false, false);
        out.clear();
        encode(&line, "a=b", &asked, &mut out);
        assert_eq!(out, b"hi\n");
    }
}
