//! What a leader changes of the cluster's trust as time goes by: gossip's key every twelve hours and
//! when a node is removed, the root when a user wants that, and all certificates when its clock was
//! set.
//!
//! Each of them is a few steps, and which step is next follows from what the store holds and from the
//! nodes' sessions: so a new leader goes on where the last one was. A root is trusted everywhere before
//! it issues, and the one before until every node has a certificate of the new one; a node that is off
//! holds that up until it comes or is removed.
//!
//! **Invariant:** where nothing is due, nothing is written.

use std::collections::BTreeSet;
use std::sync::mpsc::SyncSender;

use super::asking::Waiter;
use super::brain::Brain;
use super::handle::{Failure, TrustChange};
use super::leading::STALE_AGAIN;
use super::papers;
use crate::base::id::NodeId;
use crate::base::time::{Now, Span, Time, Wall};
use crate::host::entropy;
use crate::logic::manager::io::{Command, Reply};
use crate::model::cluster_trust::{ClusterTrust, RESOURCE_KIND, RESOURCE_NAME};
use crate::model::node::Role;
use crate::model::validity::{CERTIFICATE_LIFE_MIN, clock_stepped};

/// Between two changes of gossip's key.
const KEY_EVERY: Span = Span::from_secs(12 * 3_600);

/// The next key of gossip seals after this long, also where not all nodes say that they know it.
const KEY_KNOWN: Span = Span::from_secs(60);

/// After a step that could not be written.
const AGAIN: Span = Span::from_secs(5);

/// What a leader keeps of it.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// Gossip's keys, and when this leader saw them first.
    keys: Option<(Vec<[u8; 32]>, Time)>,
    /// Nodes that were removed and are not in the store's list yet.
    removed: BTreeSet<NodeId>,
    /// The last look at the clocks.
    clocks: Option<Now>,
    /// The wall clock was set, and certificates are not asked for anew yet.
    stepped: bool,
    /// A step is on its way to the store.
    asked: bool,
    /// Nothing is tried before.
    again: Option<Time>,
    /// The own certificate is asked for not before.
    own_again: Option<Time>,
}

impl Rotation {
    /// A node was removed: its certificate is void, and it must not read gossip any more.
    pub(super) fn removed(&mut self, node: NodeId) {
        self.removed.insert(node);
    }

    /// When to look although nothing is heard.
    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        let key = self.keys.as_ref().map(|(keys, since)| {
            *since + if keys.len() > 1 { KEY_KNOWN } else { KEY_EVERY }
        });
        let all = [key, self.again, self.own_again].into_iter().flatten();
        all.filter(|at| *at > now).min()
    }
}

impl Brain {
    /// Does the next step of what is due.
    pub(super) fn look_at_rotation(&mut self, now: Now) {
        let Some(next) = self.next_trust(now) else { return };
        match next.and_then(|trust| trust.encode().map_err(|err| err.to_string())) {
            Ok(payload) => {
                if let Some(lead) = &mut self.lead {
                    lead.rotation.asked = true;
                }
                let (kind, name) = (RESOURCE_KIND.to_owned(), RESOURCE_NAME.to_owned());
                self.put(Command::SetResource { kind, name, payload }, Waiter::Rotation);
            }
            Err(err) => {
                log::warn!("cannot change the swarm's trust: {err}");
                self.rotated(false);
            }
        }
    }

    /// The trust with the next step done, if one is due.
    fn next_trust(&mut self, now: Now) -> Option<Result<ClusterTrust, String>> {
        let (Some(lead), Some(issuer)) = (&mut self.lead, &self.issuer) else { return None };
        let store = self.node.seat.as_ref()?.manager.store();
        let (rotation, trust) = (&mut lead.rotation, &issuer.trust);
        let before = rotation.clocks.replace(now);
        if before.is_some_and(|before| clock_stepped(before, now)) {
            log::warn!("the clock was set to {}: all certificates are issued anew", now.wall);
            rotation.stepped = true;
        }
        let seen = rotation.keys.take().filter(|(keys, _)| *keys == trust.gossip_keys);
        let (_, since) =
            rotation.keys.insert(seen.unwrap_or_else(|| (trust.gossip_keys.clone(), now.mono)));
        let since = now.mono.since(*since);
        rotation.removed.retain(|node| !trust.removed.contains(node));
        if rotation.asked || rotation.again.is_some_and(|at| at > now.mono) {
            return None;
        }
        let others = || store.nodes().filter(|node| node.id != self.node.id);
        let key = match trust.gossip_keys.as_slice() {
            [_] if others().next().is_none() => false,
            [_] => {
                !lead.rotation.removed.is_empty()
                    || since >= KEY_EVERY
                    || issuer.is_older(now.wall, KEY_EVERY)
            }
            [_, next, ..] => {
                let known = self.gossip.knowing(next);
                since >= KEY_KNOWN || lead.in_session().all(|node| known.contains(&node))
            }
            [] => true,
        };
        let own = self.node.links.certified();
        if issuer.is_stale(&own) && lead.rotation.own_again.is_none_or(|at| at <= now.mono) {
            lead.rotation.own_again = Some(now.mono + STALE_AGAIN);
            self.node.links.renew();
        }
        let fresh = |node| lead.certified(node).is_some_and(|it| !issuer.is_stale(&it));
        let root =
            trust.is_rotating() && !issuer.is_stale(&own) && others().all(|node| fresh(node.id));
        if !key && !root && !lead.rotation.stepped && lead.rotation.removed.is_empty() {
            return None;
        }
        let mut next = trust.clone();
        lead.rotation.removed.iter().for_each(|node| next.remove(*node));
        let base = issuer.base(store);
        if lead.rotation.stepped {
            next.renew_since = base;
        }
        if root {
            step_root(&mut next, base);
        }
        Some(if key { step_key(&mut next).map(|()| next) } else { Ok(next) })
    }

    /// A step is in the store, or could not be put there.
    pub(super) fn rotated(&mut self, done: bool) {
        let now = self.clock.mono();
        if let Some(lead) = &mut self.lead {
            lead.rotation.asked = false;
            lead.rotation.stepped &= !done;
            lead.rotation.again = (!done).then(|| now + AGAIN);
        }
    }
}

/// The next step of a root that is replaced.
fn step_root(trust: &mut ClusterTrust, now: Wall) {
    if trust.next_key.is_some() {
        log::info!("all nodes trust the new root: it issues from now on");
        trust.issue_from_next(now);
    } else {
        log::info!("all nodes have certificates of the new root: the old one is trusted no more");
        trust.end_rotation();
    }
}

/// The next step of gossip's key: the next one is told, or seals.
fn step_key(trust: &mut ClusterTrust) -> Result<(), String> {
    if trust.gossip_keys.len() > 1 {
        trust.gossip_keys.remove(0);
    } else {
        trust.gossip_keys.push(entropy::bytes32().map_err(|err| err.to_string())?);
    }
    Ok(())
}

impl Brain {
    /// A user wants something else of the cluster's trust.
    pub(super) fn change_trust(
        &mut self,
        change: TrustChange,
        answer: SyncSender<Result<Reply, Failure>>,
    ) {
        match self.trust_with(change) {
            Ok(payload) => {
                let (kind, name) = (RESOURCE_KIND.to_owned(), RESOURCE_NAME.to_owned());
                self.ask(Command::SetResource { kind, name, payload }, answer);
            }
            Err(failure) => super::brain::reply(&answer, Err(failure)),
        }
    }

    fn trust_with(&self, change: TrustChange) -> Result<Vec<u8>, Failure> {
        let failed = |err: &dyn std::fmt::Display| Failure::Host(err.to_string());
        let seat = self.node.seat.as_ref().ok_or(Failure::NotManager)?;
        let issuer = self.issuer.as_ref().ok_or_else(|| failed(&NOT_READY))?;
        let mut trust = issuer.trust.clone();
        match change {
            TrustChange::Tokens(roles) => {
                for role in roles {
                    let secret = entropy::u128().map_err(|err| failed(&err))?;
                    match role {
                        Role::Worker => trust.worker_secret = secret,
                        Role::Manager => trust.manager_secret = secret,
                    }
                }
            }
            TrustChange::Certificates { life, new_root } => {
                if let Some(life) = life {
                    check_life(life)?;
                    trust.life = life;
                }
                if new_root {
                    let root = papers::new_authority(self.identity.cluster);
                    let root = root.map_err(|err| failed(&err))?;
                    let (der, key) = (root.root().der().to_vec(), root.key().pkcs8().to_vec());
                    trust.begin_rotation(der, key, issuer.base(seat.manager.store()));
                }
            }
        }
        trust.encode().map_err(|err| failed(&err))
    }
}

/// What a manager that has just begun says.
pub(super) const NOT_READY: &str = "the swarm's certificates are not ready yet, try again";

/// Whether certificates may live so long.
///
/// # Errors
/// With Docker's text (swarmkit `manager/controlapi/cluster.go`).
pub(super) fn check_life(life: Span) -> Result<(), Failure> {
    if life >= CERTIFICATE_LIFE_MIN {
        return Ok(());
    }
    Err(Failure::Invalid(
        "rpc error: code = InvalidArgument desc = minimum certificate expiry time must be 1h0m0s"
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_key_is_told_before_it_seals() {
        let mut trust = ClusterTrust {
            roots: vec![vec![1]],
            key: Vec::new(),
            worker_secret: 1,
            manager_secret: 2,
            gossip_keys: vec![[9; 32]],
            life: CERTIFICATE_LIFE_MIN,
            next_key: None,
            renew_since: Wall(0),
            removed: Vec::new(),
        };
        step_key(&mut trust).unwrap();
        let [first, next] = trust.gossip_keys[..] else { panic!("two keys") };
        assert!(first == [9; 32] && next != first);
        step_key(&mut trust).unwrap();
        assert_eq!(trust.gossip_keys, [next]);
    }

    #[test]
    fn nothing_is_due_again_and_again() {
        let at = |secs| Time(0) + Span::from_secs(secs);
        let mut rotation = Rotation { keys: Some((vec![[1; 32]], at(10))), ..Rotation::default() };
        assert_eq!(rotation.deadline(at(10)), Some(at(10 + 12 * 3_600)));
        assert_eq!(rotation.deadline(at(10 + 12 * 3_600)), None, "it is done, or nobody is there");
        rotation.keys = Some((vec![[1; 32], [2; 32]], at(10)));
        assert_eq!(rotation.deadline(at(10)), Some(at(70)));
        rotation.again = Some(at(15));
        assert_eq!(rotation.deadline(at(10)), Some(at(15)));
        assert_eq!(rotation.deadline(at(16)), Some(at(70)));
    }

    #[test]
    fn a_life_below_an_hour_is_refused() {
        assert!(check_life(Span::from_secs(3_599)).is_err());
        assert_eq!(check_life(Span::from_secs(3_600)), Ok(()));
    }
}
