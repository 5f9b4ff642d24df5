//! Inputs and outputs as one short line each.

use crate::base::id::NodeId;
use crate::logic::raft::io::{Body, Entry, Input, Members, Message, Output, Payload, Write};

/// A member's number, as tests give them.
pub(super) fn name(id: NodeId) -> String {
    id.0.0.to_string()
}

fn names<'a>(ids: impl IntoIterator<Item = &'a NodeId>) -> String {
    ids.into_iter().map(|id| name(*id)).collect::<Vec<_>>().join(",")
}

pub(super) fn members(members: &Members) -> String {
    let learners = if members.learners.is_empty() {
        String::new()
    } else {
        format!(" learners {}", names(&members.learners))
    };
    format!("voters {}{learners}", names(&members.voters))
}

pub(super) fn entry(entry: &Entry) -> String {
    let payload = match &entry.payload {
        Payload::Nothing => "-".to_owned(),
        Payload::Members(it) => format!("[{}]", members(it)),
        Payload::Command(data) if data.len() > 20 => format!("{} bytes", data.len()),
        Payload::Command(data) => String::from_utf8_lossy(data).escape_debug().to_string(),
    };
    format!("{}/{} {payload}", entry.index, entry.term)
}

pub(super) fn entries(all: &[Entry]) -> String {
    let shown: Vec<String> = all.iter().take(6).map(entry).collect();
    let more = if all.len() > 6 { format!(", … {}", all.len()) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

pub(super) fn message(message: &Message) -> String {
    let body = match &message.body {
        Body::Vote { pre, transfer, last_index, last_term } => {
            let kind = if *pre { "pre-vote" } else { "vote" };
            let transfer = if *transfer { " (transfer)" } else { "" };
            format!("{kind}{transfer} last {last_index}/{last_term}")
        }
        Body::VoteReply { pre, granted, doubtful } => {
            let kind = if *pre { "pre-vote" } else { "vote" };
            let doubt = if *doubtful { " in doubt" } else { "" };
            format!("{kind} {}{doubt}", if *granted { "granted" } else { "refused" })
        }
        Body::Append { previous_index, previous_term, entries: all, commit } => {
            let all = if all.is_empty() { "nothing".to_owned() } else { entries(all) };
            format!("append after {previous_index}/{previous_term}: {all}; commit {commit}")
        }
        Body::AppendOk { index } => format!("append ok {index}"),
        Body::AppendRejected { rejected, hint_index, hint_term } => {
            format!("append rejected {rejected}, hint {hint_index}/{hint_term}")
        }
        Body::Heartbeat { commit, last, read } => {
            format!("heartbeat commit {commit} last {last} read {read}")
        }
        Body::HeartbeatReply { read } => format!("heartbeat reply read {read}"),
        Body::Snapshot { index, term, members: who, offset, total, checksum: _, piece } => {
            let who = members(who);
            format!("snapshot {index}/{term} [{who}] {offset}+{} of {total}", piece.len())
        }
        Body::SnapshotReply { index, offset } => format!("snapshot reply {index} wants {offset}"),
        Body::Read { .. } => "read".to_owned(),
        Body::ReadReply { id: _, index } => format!("read reply {index}"),
        Body::TimeoutNow => "timeout now".to_owned(),
        Body::GivenUp => format!("given up, epoch {}", message.epoch),
    };
    format!("t{} {body}", message.term)
}

pub(super) fn output(output: &Output) -> String {
    match output {
        Output::Persist { ticket, write } => {
            format!("persist #{} {}", ticket.0, self::write(write))
        }
        Output::Send { to, message } => format!("to {}: {}", name(*to), self::message(message)),
        Output::Committed { entries } => format!("committed {}", self::entries(entries)),
        Output::Restored { snapshot } => {
            format!(
                "restored {}/{} [{}]",
                snapshot.index,
                snapshot.term,
                members(&snapshot.members)
            )
        }
        Output::Leads { term, index } => format!("leads t{term} from {index}"),
        Output::Follows { term, leader } => {
            format!("follows t{term} {}", leader.map_or("nobody".to_owned(), name))
        }
        Output::ReadReady { request, index } => format!("read {} at {index}", request.0.0),
        Output::ReadFailed { request } => format!("read {} failed", request.0.0),
        Output::WantSnapshot { peer } => format!("wants a snapshot for {}", name(*peer)),
        Output::CaughtUp { peer } => format!("{} has caught up", name(*peer)),
        Output::Removed => "removed".to_owned(),
    }
}

pub(super) fn write(write: &Write) -> String {
    match write {
        Write::Log { hard_state, entries, healed } => {
            let hard = hard_state.map_or(String::new(), |it| {
                let vote = it.vote.map_or("-".to_owned(), name);
                format!(" [t{} vote {vote} commit {}]", it.term, it.commit)
            });
            let healed = if *healed { " healed" } else { "" };
            let space = if entries.is_empty() { "" } else { " " };
            format!("log{hard}{healed}{space}{}", self::entries(entries))
        }
        Write::Snapshot { snapshot, hard_state } => {
            format!("snapshot {}/{} [t{}]", snapshot.index, snapshot.term, hard_state.term)
        }
    }
}

pub(super) fn input(input: &Input) -> String {
    match input {
        Input::Tick => "tick".to_owned(),
        Input::Message { from, message } => {
            format!("from {}: {}", name(*from), self::message(message))
        }
        Input::Persisted { ticket } => format!("persisted #{}", ticket.0),
        Input::PersistRefused { ticket } => format!("refused #{}", ticket.0),
        Input::Reachable { peer } => format!("reachable {}", name(*peer)),
    }
}
