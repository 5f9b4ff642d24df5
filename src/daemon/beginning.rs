//! How a cluster begins, and begins anew from one manager: what is asked, and when it is answered.

use std::sync::mpsc::SyncSender;

use super::brain::{Brain, reply};
use super::handle::{Failure, InitRequest};
use super::identity::is_foreign;
use crate::base::chain;
use crate::base::id::NodeId;
use crate::base::time::Span;
use crate::host::address;
use crate::model::cluster::Founding;

/// Who waits for a cluster that begins.
#[derive(Debug)]
pub(super) struct Beginner {
    answer: SyncSender<Result<NodeId, Failure>>,
    /// It has begun when its store is of this epoch.
    epoch: u64,
}

impl Brain {
    /// What the new cluster begins with, and whom to tell when it is durable.
    pub(super) fn answer_init(
        &mut self,
        founding: Founding,
        certificate_life: Option<Span>,
        answer: SyncSender<Result<NodeId, Failure>>,
    ) {
        if let Some(life) = certificate_life {
            self.certificate_life = life;
        }
        if let Some(seat) = &mut self.node.seat {
            seat.manager.set_founding(founding);
        }
        self.init = Some(Beginner { answer, epoch: 1 });
    }

    /// `init` on a node that is in a swarm: refused, but for a manager that is to go on alone.
    pub(super) fn init_again(
        &mut self,
        request: &InitRequest,
        answer: SyncSender<Result<NodeId, Failure>>,
    ) {
        if !request.force_new_cluster {
            return reply(&answer, Err(Failure::AlreadySwarm));
        }
        match self.force_new_cluster(&request.advertise) {
            Ok(epoch) => self.init = Some(Beginner { answer, epoch }),
            Err(failure) => reply(&answer, Err(failure)),
        }
    }

    /// Gives up a lost majority; the epoch that is to be committed then. Tasks are not touched.
    fn force_new_cluster(&mut self, advertise: &str) -> Result<u64, Failure> {
        if self.init.is_some() {
            return Err(Failure::AlreadySwarm);
        }
        let (id, now) = (self.node.id, self.clock.now());
        let advertise = self.other_address(advertise)?;
        let seat = self.node.seat.as_mut().ok_or(Failure::NotManager)?;
        let epoch = seat.manager.raft().epoch() + 1;
        let mut outputs = Vec::new();
        seat.manager.force_new_cluster(now, &mut outputs);
        let alone = seat.manager.raft().members().is_sole_voter(id);
        outputs.into_iter().for_each(|output| self.perform_manager(output));
        if !alone {
            return Err(Failure::Host(
                "this manager does not hold the cluster's state: it has not been told all of it yet, \
                 or is no member any more (use another manager)"
                    .to_owned(),
            ));
        }
        log::warn!("this manager goes on alone, as the only one of the swarm (epoch {epoch})");
        if let Some(address) = advertise {
            self.identity.foreign = is_foreign(&address);
            self.identity.advertise.clone_from(&address);
            if let Err(err) = self.identity.write(self.host.data.path()) {
                log::error!("cannot keep the address {address}: {}", chain::text(&err));
            }
            self.look_at_addresses();
        }
        Ok(epoch)
    }

    /// The address that was given; none where it is this node's already.
    fn other_address(&self, advertise: &str) -> Result<Option<String>, Failure> {
        if advertise.is_empty() {
            return Ok(None);
        }
        let (chosen, _listen) =
            address::choose(advertise, &self.identity.listen).map_err(Failure::Invalid)?;
        Ok(Some(chosen).filter(|it| *it != self.identity.advertise))
    }

    /// The disk has refused what the cluster begins with.
    pub(super) fn refuse_init(&mut self, reason: &str) {
        if let Some(beginner) = self.init.take() {
            reply(&beginner.answer, Err(Failure::Host(reason.to_owned())));
        }
    }

    /// Answers who waits for the cluster, once it has begun.
    pub(super) fn tell_begun(&mut self) {
        let Some(seat) = &self.node.seat else { return };
        let epoch = seat.manager.store().cluster().map_or(0, |cluster| cluster.epoch);
        if let Some(beginner) = self.init.take_if(|it| it.epoch <= epoch && !self.lock.is_founding()) {
            reply(&beginner.answer, Ok(self.node.id));
        }
    }
}
