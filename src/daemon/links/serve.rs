//! Other nodes' calls: accepted, and answered with the brain's help.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Heard, Shared, Tasks};
use crate::base::chain;
use crate::base::id::NodeId;
use crate::host::peers::{
    Accepted, ConnectionError, FORWARD_IDLE_MAX, Incoming, Listener, Outbox, Welcomed,
};
use crate::logic::manager::wire::REPORT_BYTES_MAX;
use crate::model::peer::{Call, Caller, Message, Parting, Present, Refusal};

/// Accepts connections until the thread ends, each in a task of its own. How many there may be, the
/// listener's seats say.
pub(super) async fn accept(shared: Arc<Shared>, listener: Listener, tasks: Tasks) {
    loop {
        let incoming = listener.accept().await;
        tasks.spawn(serve(Arc::clone(&shared), incoming));
    }
}

async fn serve(shared: Arc<Shared>, incoming: Incoming) {
    let from = incoming.address();
    let accepted = match incoming.greet().await {
        Ok(accepted) => accepted,
        Err(err) => return log::debug!("{from}: {}", chain::text(&err)),
    };
    let caller = accepted.caller.map(|it| (it.identity.node, it));
    let served = match (accepted.call, caller) {
        (Call::Join, _) => join(&shared, accepted, from).await,
        (Call::Renew, Some((node, _))) => renew(&shared, accepted, node).await,
        (Call::Raft, Some((node, _))) => raft(&shared, accepted, node).await,
        (Call::Session, Some((_, caller))) => session(&shared, accepted, caller, from).await,
        (Call::Forward, Some((node, _))) => forward(&shared, accepted, node).await,
        (Call::Logs, Some(_)) => super::logs::serve(Arc::clone(&shared), accepted).await,
        (Call::Renew | Call::Raft | Call::Session | Call::Forward | Call::Logs, None) => {
            accepted.refuse(Refusal::CertificateNeeded).await;
            Ok(())
        }
    };
    if let Err(err) = served {
        log::debug!("{from}: {}", chain::text(&err));
    }
}

/// The call begins, if this manager leads.
async fn led(shared: &Shared, accepted: Accepted) -> Result<Option<Welcomed>, ConnectionError> {
    if shared.book().leads {
        return accepted.welcome().await.map(Some);
    }
    accepted.refuse(shared.not_leader()).await;
    Ok(None)
}

/// What the brain answered, or that it did not.
fn answered<T>(
    answer: Result<Result<T, Refusal>, async_channel::RecvError>,
    message: impl FnOnce(T) -> Message,
) -> Message {
    match answer {
        Ok(Ok(answer)) => message(answer),
        Ok(Err(refusal)) => Message::Refused(refusal),
        Err(async_channel::RecvError) => {
            Message::Refused(Refusal::Busy("it has just stopped being the leader".to_owned()))
        }
    }
}

async fn join(
    shared: &Shared,
    accepted: Accepted,
    from: SocketAddr,
) -> Result<(), ConnectionError> {
    let Some(mut welcomed) = led(shared, accepted).await? else { return Ok(()) };
    let Message::Join(join) = welcomed.question().await? else { return Ok(()) };
    let (answer, comes) = async_channel::bounded(1);
    shared.tell(Heard::JoinAsked { join: Box::new(join), from, answer }).await;
    welcomed.answer(&answered(comes.recv().await, Message::Joined)).await
}

async fn renew(shared: &Shared, accepted: Accepted, node: NodeId) -> Result<(), ConnectionError> {
    let Some(mut welcomed) = led(shared, accepted).await? else { return Ok(()) };
    let Message::Renew(csr) = welcomed.question().await? else { return Ok(()) };
    let (answer, comes) = async_channel::bounded(1);
    shared.tell(Heard::RenewAsked { node, csr, answer }).await;
    welcomed.answer(&answered(comes.recv().await, Message::Renewed)).await
}

async fn raft(shared: &Shared, accepted: Accepted, from: NodeId) -> Result<(), ConnectionError> {
    if !shared.book().is_manager {
        let text = "this node is not a manager".to_owned();
        accepted.refuse(Refusal::Other(text)).await;
        return Ok(());
    }
    let welcomed = accepted.welcome().await?;
    // Nothing is ever said here; the outbox keeps the call open.
    let (outbox, drain) = Outbox::new();
    let carried = welcomed.connection.carry(&drain, |message| {
        if let Message::Raft(bytes) = message
            && !shared.try_tell(Heard::Peer { from, bytes })
        {
            log::debug!("what the consensus of node {from} says is dropped: too much waits");
        }
    });
    let carried = carried.await;
    drop(outbox);
    carried
}

async fn session(
    shared: &Shared,
    accepted: Accepted,
    caller: Caller,
    from: SocketAddr,
) -> Result<(), ConnectionError> {
    let (node, role) = (caller.identity.node, caller.identity.role);
    let certified = caller.certified;
    let Some(mut welcomed) = led(shared, accepted).await? else { return Ok(()) };
    let (description, advertise) = match welcomed.connection.receiver.receive().await? {
        Message::Present(Present { description, advertise }) => (description, advertise),
        Message::GoingDown => {
            shared.tell(Heard::Withdrawn { node }).await;
            return Ok(());
        }
        _other => return Ok(()),
    };
    let number = shared.number();
    let (outbox, drain) = Outbox::new();
    // It is held by the brain alone, which so ends the session.
    let began = Heard::Began { node, number, role, certified, description, advertise, from, outbox };
    shared.tell(began).await;
    let (ended, end) = async_channel::bounded(1);
    let (mut parts, mut parting) = (Vec::new(), Parting::Silent);
    let carried = welcomed.connection.carry(&drain, |message| {
        let heard = match message {
            Message::Pong(_) => Heard::Answered { node, number },
            Message::Part(bytes) if parts.len() + bytes.len() <= REPORT_BYTES_MAX => {
                return parts.extend_from_slice(&bytes);
            }
            Message::Report(bytes) => {
                parts.extend_from_slice(&bytes);
                Heard::Report { node, number, bytes: std::mem::take(&mut parts) }
            }
            Message::Ending => return parting = Parting::Restarts,
            Message::GoingDown => return parting = Parting::GoesDown,
            other => {
                log::warn!("node {node} says what it may not: kind {}", other.kind().0);
                return if ended.try_send(()).is_err() {
                    log::trace!("the session of node {node} ends already");
                };
            }
        };
        if !shared.try_tell(heard) && ended.try_send(()).is_err() {
            log::trace!("the session of node {node} ends already");
        }
    });
    let overrun = async {
        if end.recv().await.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let carried = smol::future::or(carried, overrun).await;
    shared.tell(Heard::Ended { node, number, parting }).await;
    carried
}

async fn forward(shared: &Shared, accepted: Accepted, from: NodeId) -> Result<(), ConnectionError> {
    let mut welcomed = accepted.welcome().await?;
    loop {
        let connection = &mut welcomed.connection;
        let Message::Forward(bytes) = connection.receiver.receive_within(FORWARD_IDLE_MAX).await?
        else {
            return Ok(());
        };
        let (answer, comes) = async_channel::bounded(1);
        shared.tell(Heard::ForwardAsked { from, bytes, answer }).await;
        let Ok(bytes) = comes.recv().await else { return Ok(()) };
        connection.sender.send(&Message::Forwarded(bytes)).await?;
    }
}
