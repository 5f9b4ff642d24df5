//! What happens when: events in the order of their time, and of their making at one time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use skep::base::time::Time;

struct Queued<E> {
    at: Time,
    order: u64,
    event: E,
}

impl<E> PartialEq for Queued<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl<E> Eq for Queued<E> {}
impl<E> PartialOrd for Queued<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Queued<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Events that are to come.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<Queued<E>>>,
    order: u64,
}

impl<E> Queue<E> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), order: 0 }
    }

    pub(crate) fn push(&mut self, at: Time, event: E) {
        self.order += 1;
        self.heap.push(Reverse(Queued { at, order: self.order, event }));
    }

    pub(crate) fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse(queued)| queued.at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, E)> {
        self.heap.pop().map(|Reverse(queued)| (queued.at, queued.event))
    }

    /// Takes out all that `which` says yes to, in their order.
    pub(crate) fn take(&mut self, which: impl Fn(&E) -> bool) -> Vec<(Time, E)> {
        let mut all = std::mem::take(&mut self.heap).into_sorted_vec();
        // Sorted by `Reverse`: the last one comes first.
        all.reverse();
        let mut taken = Vec::new();
        for Reverse(queued) in all {
            if which(&queued.event) {
                taken.push((queued.at, queued.event));
            } else {
                self.heap.push(Reverse(queued));
            }
        }
        taken
    }
}
