//! How a cluster begins, and how it goes on when its majority is lost for good.

use super::Manager;
use super::command::Asked;
use super::io::{CommandError, Input, Output};
use crate::base::id::{NetworkId, RequestId};
use crate::base::time::{Now, Time};
use crate::logic::allocator;
use crate::model::cluster::{Cluster, ClusterSpec, Founding};
use crate::model::entry::{Change, Precondition};
use crate::model::network::{GWBRIDGE, Network, Subnet};
use crate::model::node::{Node, NodeDescription, NodeSpec, Role};
use crate::model::object::{Meta, Object, ObjectId};
use crate::model::service::Labels;

/// Ended tasks that are kept for each slot, unless the cluster says otherwise.
const TASK_HISTORY_LIMIT: i64 = 5;

impl Manager {
    /// What the user wants of the cluster that [`bootstrap`](Self::bootstrap) makes after this.
    pub fn set_founding(&mut self, founding: Founding) {
        self.founding = founding;
    }

    /// Makes this manager the first one of a new cluster; without effect when there is one.
    pub fn bootstrap(&mut self, now: Now, description: NodeDescription, out: &mut Vec<Output>) {
        if self.is_bootstrapped() {
            return;
        }
        out.append(&mut self.pending);
        self.founder = Some(description);
        let mut wants = Vec::new();
        self.raft.bootstrap(now.mono, &mut wants);
        self.obey(now, wants, out);
        self.step(now, Input::Tick, out);
    }

    /// A full disk has refused the first entry of all: it is tried once more.
    pub(super) fn bootstrap_again(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.begins_at().is_none_or(|at| now.mono < at) {
            return;
        }
        let mut wants = Vec::new();
        self.raft.bootstrap(now.mono, &mut wants);
        self.obey(now, wants, out);
    }

    /// When to do that.
    pub(super) fn begins_at(&self) -> Option<Time> {
        let waits = self.founder.is_some() && self.raft.members().is_empty();
        waits.then(|| self.blocked.map_or(Time(0), |blocked| blocked.until))
    }

    /// The cluster's first objects: itself, this node, its networks and their addresses.
    pub(super) fn found(&mut self, now: Now) {
        if self.lead.planned.cluster().is_some() {
            return;
        }
        // Kept until it is committed: a full disk may refuse it.
        let Some(description) = self.founder.clone() else { return };
        let pool = Subnet { base: [10, 0, 0, 0].into(), prefix: 8 };
        let cluster = Cluster {
            id: self.config.cluster,
            meta: Meta::default(),
            name: "default".to_owned(),
            labels: Labels::new(),
            task_history_limit: self.founding.task_history_limit.unwrap_or(TASK_HISTORY_LIMIT),
            pools: vec![pool],
            subnet_prefix: 24,
            epoch: 1,
            feature_level: 1,
            rebalance: false,
        };
        let spec = NodeSpec {
            labels: Labels::new(),
            role: Role::Manager,
            availability: self.founding.availability,
        };
        let advertise = &self.config.advertise;
        let address = advertise.rsplit_once(':').map_or(advertise.as_str(), |(host, _)| host);
        let node = Node {
            id: self.config.node,
            meta: Meta::default(),
            spec,
            description,
            address: address.to_owned(),
            manager: Some(advertise.clone()),
        };
        // The last /16 of the pool: nothing is likely to be there already.
        let gwbridge = Subnet { base: [10, 255, 0, 0].into(), prefix: 16 };
        let ingress = Subnet { base: pool.base, prefix: cluster.subnet_prefix };
        let objects = [
            Object::Cluster(Box::new(cluster)),
            Object::Node(Box::new(node)),
            Object::Network(Box::new(self.network(allocator::INGRESS, ingress, true))),
            Object::Network(Box::new(self.network(GWBRIDGE, gwbridge, false))),
        ];
        self.write_own(now, objects.into_iter().map(Change::Put).collect());
    }

    /// The user wants something else of the cluster.
    pub(super) fn update_cluster(
        &mut self,
        now: Now,
        request: RequestId,
        version: u64,
        spec: ClusterSpec,
    ) -> Asked {
        let Some(old) = self.lead.planned.cluster() else {
            return Err(CommandError::NotFound("the cluster has not begun yet".to_owned()));
        };
        if old.meta.version != version {
            return Err(CommandError::OutOfSequence);
        }
        let id = ObjectId::Cluster(old.id);
        let ClusterSpec { labels, task_history_limit, rebalance } = spec;
        let cluster = Cluster { labels, task_history_limit, rebalance, ..old.as_ref().clone() };
        self.put(
            now,
            request,
            Precondition::Version(id, version),
            Object::Cluster(Box::new(cluster)),
        )
    }

    fn network(&mut self, name: &str, subnet: Subnet, ingress: bool) -> Network {
        Network {
            id: NetworkId::new(self.rng.next_u128()),
            meta: Meta::default(),
            name: name.to_owned(),
            labels: Labels::new(),
            subnet,
            ingress,
        }
    }

    /// Gives up a lost majority: this manager goes on alone with all that it holds, in a new epoch.
    /// The other managers are told that they are out as soon as they say anything, and are nodes
    /// that may join again; workers take what a manager of the new epoch says.
    pub fn force_new_cluster(&mut self, now: Now, out: &mut Vec<Output>) {
        if !self.is_bootstrapped() || self.broken {
            return;
        }
        out.append(&mut self.pending);
        let mut wants = Vec::new();
        let epoch = self.raft.epoch() + 1;
        self.raft.force_new_cluster(now.mono, epoch, &mut wants);
        self.obey(now, wants, out);
        self.step(now, Input::Tick, out);
    }

    /// The new epoch becomes the cluster's, and nobody else is its manager.
    pub(super) fn begin_epoch(&mut self, now: Now) {
        let planned = &self.lead.planned;
        let Some(cluster) = planned.cluster().filter(|it| it.epoch < self.raft.epoch()) else {
            return;
        };
        let mut cluster = cluster.as_ref().clone();
        cluster.epoch = self.raft.epoch();
        let mut changes = vec![Change::Put(Object::Cluster(Box::new(cluster)))];
        let members = self.raft.members();
        let is_sole = self.raft.is_sole_voter() && members.learners.is_empty();
        let me = self.config.node;
        let lost = planned.nodes().filter(|node| is_sole && node.id != me);
        for node in lost.filter(|node| node.spec.role == Role::Manager || node.manager.is_some()) {
            let mut node = node.as_ref().clone();
            node.spec.role = Role::Worker;
            node.manager = None;
            changes.push(Change::Put(Object::Node(Box::new(node))));
        }
        // What is refused is found again: the epoch is still the lower one then.
        self.write_own(now, changes);
    }
}
