//! The thread that keeps this node in touch with the others: it answers their calls, calls the
//! managers, keeps the worker's session with the leader, and renews the certificate.
//!
//! The brain has a [`Links`] and never waits for it: what it says goes into bounded outboxes or is a
//! few words to the thread; what is heard comes back as [`Heard`]. Who leads, who is a manager and
//! which nodes there are, the brain says; here only connections are known. What a machine that
//! proved nothing says reaches the brain only as one join, with its answer awaited.
//!
//! **Invariant:** of one session all is heard in order, between its begin and its end, and has its
//! number: what comes of an older one is for nobody.

mod addresses;
mod ask;
mod logs;
mod own_session;
mod peer;
mod serve;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use async_channel::{Receiver, Sender};
use smol::LocalExecutor;

use super::brain::Events;
use super::handle::{Event, Runtime};
use super::logs::Said;
use crate::base::id::{NodeId, RequestId};
use crate::base::time::Time;
use crate::host::clock::Clock;
use crate::host::peers::{Drain, Endpoint, Forwarder, Listener, Outbox};
use crate::host::pki::{Credentials, CredentialsError, PkiError, Root};
use crate::host::vault::Vault;
use crate::model::node::Role;
use crate::model::peer::{
    AskedLogs, Certified, Join, Joined, ManagerAddress, Message, Parting, Present, Refusal, Renewed,
    Told,
};

/// Words to the thread that wait; the brain's commands in flight are fewer. What does not fit is
/// dropped: forwards are repeated, probes too.
const ORDERS_MAX: usize = 2_048;

/// Where the answer to a machine or a node goes. Dropping it tells that there is none now.
pub(in crate::daemon) type AnswerTo<T> = Sender<Result<T, Refusal>>;

/// What is heard from other nodes.
#[derive(Debug)]
pub(in crate::daemon) enum Heard {
    /// Another manager's consensus says something.
    Peer { from: NodeId, bytes: Vec<u8> },
    /// The way to another manager's consensus is there (again).
    Reachable { peer: NodeId },
    /// A node began a session with this leader. It ends when `outbox` is dropped.
    Began {
        node: NodeId,
        number: u64,
        /// What its certificate lets it be.
        role: Role,
        certified: Certified,
        description: Vec<u8>,
        /// `host:port` that it says others reach it at.
        advertise: String,
        from: SocketAddr,
        outbox: Outbox,
    },
    /// It reports.
    Report { node: NodeId, number: u64, bytes: Vec<u8> },
    /// It answered a ping.
    Answered { node: NodeId, number: u64 },
    /// Its session is over.
    Ended { node: NodeId, number: u64, parting: Parting },
    /// It has joined and could not begin to run.
    Withdrawn { node: NodeId },
    /// This node's session with the leader began. It ends when `outbox` is dropped.
    Opened { number: u64, outbox: Outbox },
    /// Its assignments.
    Assigned { number: u64, bytes: Vec<u8> },
    /// The leader has answered what was sent to it at this time.
    Leader { number: u64, at: Time },
    /// What else the leader tells.
    Told { number: u64, told: Told },
    /// The session is over.
    Lost { number: u64 },
    /// Another manager passes a command on.
    ForwardAsked { from: NodeId, bytes: Vec<u8>, answer: Sender<Vec<u8>> },
    /// The leader's answer to a command; none when it cannot be reached.
    Forwarded { request: RequestId, answer: Option<Vec<u8>> },
    /// A machine wants to become a node.
    JoinAsked { join: Box<Join>, from: SocketAddr, answer: AnswerTo<Joined> },
    /// A node wants its next certificate.
    RenewAsked { node: NodeId, csr: Vec<u8>, answer: AnswerTo<Renewed> },
    /// The kernel of a silent node answers.
    Host { node: NodeId },
    /// Addresses of this machine have come or gone.
    Addresses,
    /// This node has another certificate.
    Renewed { role: Role },
}

/// What the brain wants of the thread.
#[derive(Debug)]
enum Order {
    /// Carry what this drain gives to another manager's consensus.
    Peer { node: NodeId, drain: Drain },
    Forward { request: RequestId, leader: NodeId, bytes: Vec<u8> },
    Probe { node: NodeId, address: String },
    Logs { node: NodeId, address: String, asked: AskedLogs, said: Sender<Said> },
    Renew,
    Stop,
}

/// What brain and thread both know.
#[derive(Debug)]
struct Shared {
    node: NodeId,
    endpoint: Endpoint,
    events: Events,
    clock: Clock,
    vault: Vault,
    /// What the node says of itself at the start of a session.
    description: Vec<u8>,
    numbers: AtomicU64,
    book: Mutex<Book>,
    /// Wakes the session when the book changes.
    changed: Sender<()>,
    credentials: Mutex<Credentials>,
    forwarder: Forwarder,
    runtime: Arc<Runtime>,
    /// Streams that logs are read for.
    logs_served: AtomicUsize,
}

/// Who does what, as far as is known.
#[derive(Clone, Debug, Default)]
struct Book {
    /// Where the managers are; this node is not among them.
    managers: BTreeMap<NodeId, String>,
    /// Who leads.
    leader: Option<NodeId>,
    /// This node has a manager.
    is_manager: bool,
    /// It leads and decides.
    leads: bool,
    /// Raised when the session is to be begun anew.
    renewals: u64,
    /// The session that there is is the last one.
    parting: bool,
    /// `host:port` that others are told to reach this node at.
    advertise: String,
    hints: Hints,
}

/// What gossip says of managers; nobody has proved it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct Hints {
    /// Where they are, to be tried where they do not answer at the address that the store has.
    pub(in crate::daemon) addresses: BTreeMap<NodeId, SocketAddr>,
    /// Who says that it leads.
    pub(in crate::daemon) leader: Option<NodeId>,
}

/// What the thread is made with.
pub(in crate::daemon) struct Setup {
    pub(in crate::daemon) endpoint: Endpoint,
    pub(in crate::daemon) credentials: Credentials,
    pub(in crate::daemon) listen: SocketAddr,
    pub(in crate::daemon) events: Events,
    pub(in crate::daemon) clock: Clock,
    /// Keeps the certificate.
    pub(in crate::daemon) vault: Vault,
    pub(in crate::daemon) present: Present,
    pub(in crate::daemon) managers: Vec<ManagerAddress>,
    /// Has the logs that other nodes may ask for.
    pub(in crate::daemon) runtime: Arc<Runtime>,
}

/// Why roots cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum TrustError {
    /// They are of no use.
    #[error(transparent)]
    Roots(#[from] PkiError),
    /// They cannot be kept.
    #[error(transparent)]
    Write(#[from] CredentialsError),
}

/// The thread's end in the brain. Dropping it ends the thread.
#[derive(Debug)]
pub(in crate::daemon) struct Links {
    shared: Arc<Shared>,
    orders: Sender<Order>,
    /// Towards each other manager's consensus.
    outboxes: BTreeMap<NodeId, Outbox>,
    thread: Option<JoinHandle<()>>,
}

impl Links {
    /// Listens, and starts the thread.
    ///
    /// # Errors
    /// When the address is taken or not of this machine, or there is no thread to be had.
    pub(in crate::daemon) fn start(setup: Setup) -> io::Result<Self> {
        let Setup {
            endpoint,
            credentials,
            listen,
            events,
            clock,
            vault,
            present,
            managers,
            runtime,
        } = setup;
        let Present { description, advertise } = present;
        let node = endpoint.node();
        let listener = Listener::bind(listen, endpoint.clone())?;
        let (changed, changes) = async_channel::bounded(1);
        let managers = managers.into_iter().filter(|it| it.node != node);
        let managers = managers.map(|it| (it.node, it.address)).collect();
        let shared = Arc::new(Shared {
            node,
            forwarder: Forwarder::new(endpoint.clone()),
            endpoint,
            events,
            clock,
            vault,
            description,
            numbers: AtomicU64::new(0),
            book: Mutex::new(Book { managers, advertise, ..Book::default() }),
            changed,
            credentials: Mutex::new(credentials),
            runtime,
            logs_served: AtomicUsize::new(0),
        });
        let (orders, queue) = async_channel::bounded(ORDERS_MAX);
        let own = Arc::clone(&shared);
        let thread = Builder::new()
            .name("links".to_owned())
            .stack_size(1 << 20)
            .spawn(move || run(&own, listener, &queue, changes))?;
        Ok(Self { shared, orders, outboxes: BTreeMap::new(), thread: Some(thread) })
    }

    /// Tells another manager's consensus something. May be lost.
    pub(in crate::daemon) fn raft(&self, to: NodeId, bytes: Vec<u8>) {
        let pushed = self.outboxes.get(&to).map(|outbox| outbox.push(&Message::Raft(bytes)));
        if pushed != Some(true) {
            log::trace!("a message to the consensus of node {to} is dropped");
        }
    }

    /// Where the other managers are; `talk`: this node has a manager that talks with theirs.
    pub(in crate::daemon) fn set_managers(&mut self, managers: &[ManagerAddress], talk: bool) {
        let others = managers.iter().filter(|it| it.node != self.shared.node);
        let managers: BTreeMap<NodeId, String> =
            others.map(|it| (it.node, it.address.clone())).collect();
        // What is connected to where one was is of no use any more.
        let before = self.shared.book().managers.clone();
        self.outboxes.retain(|node, _| {
            talk && managers.contains_key(node) && managers.get(node) == before.get(node)
        });
        let mut new: Vec<NodeId> = managers.keys().copied().filter(|_| talk).collect();
        new.retain(|node| !self.outboxes.contains_key(node));
        // First, so that who is to call them finds where they are.
        self.change(|book| (book.managers, book.is_manager) = (managers, talk));
        for node in new {
            let (outbox, drain) = Outbox::new();
            if self.order(Order::Peer { node, drain }) {
                self.outboxes.insert(node, outbox);
            }
        }
    }

    /// Who leads, as far as this node's manager or the session says.
    pub(in crate::daemon) fn set_leader(&self, leader: Option<NodeId>, leads: bool) {
        self.change(|book| (book.leader, book.leads) = (leader, leads));
    }

    /// After the session that there is, no other one is begun: the daemon ends.
    pub(in crate::daemon) fn part(&self) {
        self.change(|book| book.parting = true);
    }

    /// This node has another address: what it has connected from the last one is over. `advertise` is
    /// where others are told to reach it, where they do not see that themselves.
    pub(in crate::daemon) fn moved(&mut self, advertise: Option<String>) {
        self.outboxes.clear();
        self.change(|book| {
            book.advertise = advertise.unwrap_or_else(|| std::mem::take(&mut book.advertise));
            book.renewals += 1;
        });
    }

    /// What gossip says of managers.
    pub(in crate::daemon) fn set_hints(&self, hints: Hints) {
        if self.shared.book().hints != hints {
            self.change(|book| book.hints = hints);
        }
    }

    /// Who leads, and where.
    pub(in crate::daemon) fn leader(&self) -> Option<ManagerAddress> {
        self.shared.book().leader()
    }

    /// Passes a command on; answered by [`Heard::Forwarded`]. False when it cannot be now.
    pub(in crate::daemon) fn forward(
        &self,
        request: RequestId,
        leader: NodeId,
        bytes: Vec<u8>,
    ) -> bool {
        self.order(Order::Forward { request, leader, bytes })
    }

    /// Looks whether a node's kernel answers; [`Heard::Host`] if so.
    pub(in crate::daemon) fn probe(&self, node: NodeId, address: String) {
        self.order(Order::Probe { node, address });
    }

    /// Asks a node for logs; what it says goes to `said`. Its end is dropped when it cannot be asked.
    pub(in crate::daemon) fn ask_logs(
        &self,
        node: NodeId,
        address: String,
        asked: AskedLogs,
        said: Sender<Said>,
    ) {
        self.order(Order::Logs { node, address, asked, said });
    }

    /// Gets another certificate; [`Heard::Renewed`] when it is there.
    pub(in crate::daemon) fn renew(&self) {
        self.order(Order::Renew);
    }

    /// Trusts these roots and no others, from now on and after the next start.
    pub(in crate::daemon) fn trust_roots(&self, roots: Vec<Root>) -> Result<(), TrustError> {
        self.shared.endpoint.trust().set_roots(roots.clone())?;
        let mut credentials = self.shared.credentials();
        // Where the own certificate is not of them, the next one comes with them.
        if credentials.roots() != roots
            && let Ok(next) = credentials.trusting(roots)
        {
            self.shared.vault.keep(&next)?;
            self.shared.endpoint.replace(&next)?;
            *credentials = next;
        }
        drop(credentials);
        Ok(())
    }

    /// Whom the node proves itself with and trusts.
    pub(in crate::daemon) fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Which certificate that is.
    pub(in crate::daemon) fn certified(&self) -> Certified {
        let verified = self.shared.credentials().verified();
        Certified { root: verified.root, issued: verified.validity.not_before }
    }

    /// What the node proves itself with.
    pub(in crate::daemon) fn credentials(&self) -> Credentials {
        self.shared.credentials().clone()
    }

    /// Ends all connections and the thread.
    pub(in crate::daemon) fn finish(mut self) {
        self.outboxes.clear();
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the connections ended badly");
        }
    }

    fn order(&self, order: Order) -> bool {
        let sent = self.orders.try_send(order);
        if let Err(err) = &sent {
            log::warn!("the thread of the connections takes nothing more: {err}");
        }
        sent.is_ok()
    }

    fn change(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.shared.book());
        self.shared.wake();
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn credentials(&self) -> MutexGuard<'_, Credentials> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // One that waits stands for all.
        if self.changed.try_send(()).is_err() {
            log::trace!("the session is awake");
        }
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tells the brain, which ends this thread before it ends itself.
    async fn tell(&self, heard: Heard) {
        if self.events.send(Event::Link(heard)).await.is_err() {
            log::debug!("something was heard after the daemon stopped");
        }
    }

    /// Tells the brain if it can take it now.
    fn try_tell(&self, heard: Heard) -> bool {
        self.events.try_send(Event::Link(heard)).is_ok()
    }

    /// Why only the leader can do this, and who that is.
    fn not_leader(&self) -> Refusal {
        Refusal::NotLeader { leader: self.book().leader() }
    }
}

impl Book {
    fn leader(&self) -> Option<ManagerAddress> {
        let node = self.leader?;
        let address = self.managers.get(&node)?.clone();
        Some(ManagerAddress { node, address })
    }
}

/// Starts tasks of the thread, as long as it runs.
#[derive(Clone, Debug)]
struct Tasks(Weak<LocalExecutor<'static>>);

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(task).detach();
        }
    }
}

fn run(shared: &Arc<Shared>, listener: Listener, orders: &Receiver<Order>, changes: Receiver<()>) {
    let executor = Rc::new(LocalExecutor::new());
    let tasks = Tasks(Rc::downgrade(&executor));
    tasks.spawn(serve::accept(Arc::clone(shared), listener, tasks.clone()));
    tasks.spawn(own_session::keep(Arc::clone(shared), changes));
    tasks.spawn(ask::renew_in_time(Arc::clone(shared)));
    tasks.spawn(addresses::watch(Arc::clone(shared)));
    smol::block_on(executor.run(obey(shared, orders, &tasks)));
}

async fn obey(shared: &Arc<Shared>, orders: &Receiver<Order>, tasks: &Tasks) {
    while let Ok(order) = orders.recv().await {
        let shared = Arc::clone(shared);
        match order {
            Order::Peer { node, drain } => tasks.spawn(peer::keep(shared, node, drain)),
            Order::Forward { request, leader, bytes } => {
                tasks.spawn(ask::forward(shared, request, leader, bytes));
            }
            Order::Probe { node, address } => tasks.spawn(ask::probe(shared, node, address)),
            Order::Logs { node, address, asked, said } => {
                tasks.spawn(logs::ask(shared, node, address, asked, said));
            }
            Order::Renew => tasks.spawn(ask::renew(shared)),
            Order::Stop => return,
        }
    }
}
