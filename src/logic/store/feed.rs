//! What changed last, for those who watch: reconcilers, and clients that follow the cluster.
//!
//! A watcher keeps the index of the last entry that it has seen and asks for what came after it; the
//! feed knows no watcher, so none can hold it up, and without one it costs a few pointers for each
//! write. One that comes too late is told so, reads the store and goes on from [`Store::index`].
//!
//! **Invariant:** all events of the entries after [`Feed::since`]'s index are given, or none.

use std::collections::VecDeque;

use super::{Applied, Effect, Store, Stored};

/// Most events kept; the oldest make room. Each keeps an old object alive, about 2 KiB.
pub const FEED_EVENTS_MAX: usize = 512;

/// Most bytes of services, tasks, secrets, configs and resources that are kept for events; the
/// oldest make room.
pub const FEED_PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Index of the entry; its writes follow each other in its order.
    pub index: u64,
    /// The object before; `None` when it is new.
    pub before: Option<Stored>,
    /// The object after; `None` when it was removed.
    pub after: Option<Stored>,
}

/// What the watcher asks for is not kept any more: it reads the store instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes are kept from after entry {floor} on")]
pub struct Lagged {
    /// The oldest index that may be asked for.
    pub floor: u64,
}

/// The last events.
#[derive(Clone, Debug)]
pub struct Feed {
    events: VecDeque<Event>,
    /// All events of later entries are here.
    floor: u64,
    payload_bytes: usize,
}

impl Feed {
    /// Goes on after what `store` holds.
    #[must_use]
    pub const fn new(store: &Store) -> Self {
        Self { events: VecDeque::new(), floor: store.index(), payload_bytes: 0 }
    }

    /// The entry at `index` was applied.
    pub fn note(&mut self, index: u64, applied: &Applied) {
        for (effect, before) in applied.effects.iter().zip(&applied.before) {
            let event = Event { index, before: before.clone(), after: effect.stored() };
            // Something that was not there was removed.
            if event.before.is_none() && matches!(effect, Effect::Remove(_)) {
                continue;
            }
            self.payload_bytes += event.payload_bytes();
            self.events.push_back(event);
        }
        while self.events.len() > FEED_EVENTS_MAX || self.payload_bytes > FEED_PAYLOAD_BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { break };
            self.payload_bytes -= oldest.payload_bytes();
            self.floor = oldest.index;
        }
    }

    /// What the entries after the one at `index` did, oldest first.
    ///
    /// # Errors
    /// When some of it is not kept any more.
    pub fn since(&self, index: u64) -> Result<impl Iterator<Item = &Event>, Lagged> {
        if index < self.floor {
            return Err(Lagged { floor: self.floor });
        }
        let from = self.events.partition_point(|event| event.index <= index);
        Ok(self.events.range(from..))
    }
}

impl Event {
    fn payload_bytes(&self) -> usize {
        let stored = self.before.iter().chain(&self.after);
        stored.map(Stored::payload_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ConfigId;
    use crate::logic::fixture;
    use crate::logic::store::OWN_REQUEST;
    use crate::model::entry::{Change, Entry};
    use crate::model::object::{Object, ObjectId};
    use crate::model::payload::Config;

    /// Index of the entry, and the object's version before and after.
    type Versions = (u64, Option<u64>, Option<u64>);

    struct Lab {
        store: Store,
        feed: Feed,
    }

    impl Lab {
        fn new(store: Store) -> Self {
            Self { feed: Feed::new(&store), store }
        }

        fn write(&mut self, changes: Vec<Change>) {
            let (request, time) = (OWN_REQUEST, crate::base::time::Wall(1));
            let entry = Entry { request, time, preconditions: Vec::new(), changes };
            let index = self.store.index() + 1;
            let applied = self.store.apply(index, &entry);
            self.feed.note(index, &applied);
        }

        fn since(&self, index: u64) -> Result<Vec<Versions>, Lagged> {
            let version = |it: &Option<Stored>| it.as_ref().map(|it| it.meta().version);
            let events = self.feed.since(index)?;
            Ok(events.map(|it| (it.index, version(&it.before), version(&it.after))).collect())
        }
    }

    fn put_node(id: u128) -> Change {
        Change::Put(Object::Node(Box::new(fixture::node(id))))
    }

    fn put_config(id: u128, bytes: usize) -> Change {
        let (meta, name, labels, templating) = Default::default();
        let (id, data) = (ConfigId::new(id), vec![0; bytes]);
        Change::Put(Object::Config(Box::new(Config { id, meta, name, labels, data, templating })))
    }

    #[test]
    fn a_watcher_goes_on_where_it_was() {
        let mut lab = Lab::new(Store::default());
        let id = fixture::node(1).id;
        lab.write(vec![put_node(1), put_node(1)]);
        lab.write(Vec::new());
        lab.write(vec![Change::Remove(ObjectId::Node(id)), Change::Remove(ObjectId::Node(id))]);
        let (made, again, gone) = ((1, None, Some(1)), (1, Some(1), Some(1)), (3, Some(1), None));
        assert_eq!(lab.since(0), Ok(vec![made, again, gone]));
        assert_eq!(lab.since(1), Ok(vec![gone]));
        assert_eq!(lab.since(2), Ok(vec![gone]));
        assert_eq!(lab.since(3), Ok(Vec::new()));
        assert_eq!(lab.since(9), Ok(Vec::new()), "it is ahead of this manager");
    }

    #[test]
    fn a_watcher_that_is_too_late_is_told_so_and_never_sees_half_an_entry() {
        let mut lab = Lab::new(Store::default());
        lab.write(vec![put_node(1), put_node(2)]);
        for _ in 0..FEED_EVENTS_MAX - 1 {
            lab.write(vec![put_node(3)]);
        }
        assert_eq!(lab.feed.events.len(), FEED_EVENTS_MAX);
        assert_eq!(lab.feed.events.front().map(|it| it.index), Some(1), "one of two is left");
        assert_eq!(lab.since(0), Err(Lagged { floor: 1 }));
        assert_eq!(lab.since(1).map(|events| events.len()), Ok(FEED_EVENTS_MAX - 1));
    }

    #[test]
    fn after_a_restart_nothing_older_is_known() {
        let lab = Lab::new(fixture::store(vec![Object::Node(Box::new(fixture::node(1)))]));
        assert_eq!(lab.since(0), Err(Lagged { floor: 1 }));
        assert_eq!(lab.since(1), Ok(Vec::new()));
    }

    #[test]
    fn large_specs_are_not_held_for_long_either() {
        let mut lab = Lab::new(Store::default());
        for n in 0..6 {
            let mut service = fixture::service(n, &format!("s{n}"));
            service.spec.task.container.env = vec!["x".repeat(1 << 20)];
            lab.write(vec![Change::Put(Object::Service(Box::new(service)))]);
            let mut task = fixture::task(100 + n, n);
            task.spec.container.env = vec!["x".repeat(1 << 20)];
            lab.write(vec![Change::Put(Object::Task(Box::new(task)))]);
        }
        assert_eq!(lab.feed.events.len(), 3, "four of a MiB and a little are too many");
        lab.write(vec![put_config(9, FEED_PAYLOAD_BYTES_MAX)]);
        assert_eq!(lab.feed.payload_bytes, FEED_PAYLOAD_BYTES_MAX, "what goes is counted off");
    }

    #[test]
    fn large_objects_are_not_held_for_long() {
        let mut lab = Lab::new(Store::default());
        let half = FEED_PAYLOAD_BYTES_MAX / 2;
        lab.write(vec![put_config(1, half)]);
        lab.write(vec![put_config(2, half)]);
        assert_eq!(lab.since(0).map(|events| events.len()), Ok(2));
        lab.write(vec![put_config(3, 1)]);
        assert_eq!(lab.since(0), Err(Lagged { floor: 1 }));
        assert_eq!(lab.since(1).map(|events| events.len()), Ok(2));
        lab.write(vec![put_config(4, FEED_PAYLOAD_BYTES_MAX + 1)]);
        assert_eq!(lab.since(3), Err(Lagged { floor: 4 }), "larger than all that is kept");
        assert_eq!((lab.feed.payload_bytes, lab.since(4)), (0, Ok(Vec::new())));
        lab.write(vec![put_config(5, 7)]);
        assert_eq!(lab.since(4), Ok(vec![(5, None, Some(5))]));
    }
}
