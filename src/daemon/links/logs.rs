//! Logs of this node's tasks for a manager's user, and of another node's tasks for one of this node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_channel::Sender;

use super::Shared;
use crate::base::chain;
use crate::base::id::NodeId;
use crate::daemon::logs::{Batch, LocalLogs, Said, Then, text};
use crate::host::peers::{Accepted, Connection, ConnectionError, Expected, resolve};
use crate::model::peer::{AskedLogs, Call, LOG_TASKS_MAX, Message, Refusal};

/// Streams that this node reads logs for at once; each takes a thread while it reads.
const SERVED_MAX: usize = 8;

/// How long a quiet log is waited for at a time.
const WAIT: Duration = Duration::from_millis(200);

/// How often the asker is told that this node is there while there is nothing else to tell; less
/// than what it holds for silence.
const SIGN_EVERY: Duration = Duration::from_secs(1);

/// One of the places for streams; free again when it is dropped.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.logs_served.fetch_add(1, Ordering::AcqRel);
        let place = Self(Arc::clone(shared));
        (before < SERVED_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.logs_served.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads logs for a manager until they end or it is gone.
pub(super) async fn serve(shared: Arc<Shared>, accepted: Accepted) -> Result<(), ConnectionError> {
    let Some(_place) = Place::take(&shared) else {
        let text = format!("this node reads logs for {SERVED_MAX} users already");
        accepted.refuse(Refusal::Busy(text)).await;
        return Ok(());
    };
    let mut welcomed = accepted.welcome().await?;
    let Message::AskLogs(asked) = welcomed.question().await? else { return Ok(()) };
    let sender = &mut welcomed.connection.sender;
    if asked.tasks.len() > LOG_TASKS_MAX {
        let text = format!("logs of at most {LOG_TASKS_MAX} tasks are read at once");
        return sender.send(&Message::Refused(Refusal::Other(text))).await;
    }
    let runtime = Arc::clone(&shared.runtime);
    let opened = smol::unblock(move || LocalLogs::open(&runtime, &asked)).await;
    let mut next = opened.map(|logs| (logs, Batch::default()));
    let (mut signed, mut is_live) = (Instant::now(), false);
    loop {
        let (mut logs, _) = match next {
            Ok(next) => next,
            Err(err) => {
                return sender.send(&Message::Refused(Refusal::Other(text(&err)))).await;
            }
        };
        next = smol::unblock(move || {
            let batch = logs.batch(WAIT)?;
            Ok((logs, batch))
        })
        .await;
        let Ok((_, Batch { lines, then })) = &mut next else { continue };
        if !lines.is_empty() {
            signed = Instant::now();
            sender.send(&Message::Logs(std::mem::take(lines))).await?;
        }
        match then {
            Then::More => {}
            // The first one says that all that was there is told, the others are signs of life.
            Then::Idle if is_live && signed.elapsed() < SIGN_EVERY => {}
            Then::Idle => {
                (is_live, signed) = (true, Instant::now());
                sender.send(&Message::Logs(Vec::new())).await?;
            }
            Then::Over => {
                sender.send(&Message::LogsOver).await?;
                welcomed.connection.sender.close().await;
                return Ok(());
            }
        }
    }
}

/// Asks a node, and passes on what it says until nobody listens.
pub(super) async fn ask(
    shared: Arc<Shared>,
    node: NodeId,
    address: String,
    asked: AskedLogs,
    said: Sender<Said>,
) {
    let heard = async {
        let mut connection = match dial(&shared, node, &address).await {
            Ok(connection) => connection,
            Err(why) => return Said::Failed(why),
        };
        match pass_on(&mut connection, asked, &said).await {
            Ok(()) => Said::Over,
            Err(err) => Said::Failed(chain::text(&err)),
        }
    };
    let last = heard.await;
    if said.send(last).await.is_err() {
        log::debug!("nobody listens to the logs of node {node} any more");
    }
}

async fn dial(shared: &Shared, node: NodeId, address: &str) -> Result<Connection, String> {
    let mut failed = "it has no address".to_owned();
    for address in resolve(address).await.map_err(|err| chain::text(&err))? {
        let dialled = shared.endpoint.dial(address, Expected::Member(node), Call::Logs);
        match Box::pin(dialled).await {
            Ok(dialled) => return Ok(dialled.connection),
            Err(err) => failed = chain::text(&err),
        }
    }
    Err(failed)
}

async fn pass_on(
    connection: &mut Connection,
    asked: AskedLogs,
    said: &Sender<Said>,
) -> Result<(), ConnectionError> {
    connection.sender.send(&Message::AskLogs(asked)).await?;
    loop {
        match connection.receiver.receive().await? {
            Message::Logs(lines) => {
                if said.send(Said::Lines(lines)).await.is_err() {
                    return Ok(());
                }
            }
            Message::LogsOver => return Ok(()),
            other => return Err(ConnectionError::Unexpected(other.kind())),
        }
    }
}
