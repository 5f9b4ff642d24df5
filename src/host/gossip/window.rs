//! Which counters of one sender were seen: each is taken once.

/// How far behind the highest one a counter may be. Above the parts of two messages, so that
/// datagrams that overtake each other are not lost.
const WIDTH: u64 = 128;

/// The highest counter of a sender, and which of the [`WIDTH`] up to it were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// One more than the highest that was seen.
    next: u64,
    /// Bit i: `next - 1 - i` was seen.
    seen: u128,
}

impl Window {
    /// Whether a counter was not seen, and is not so old that this is not known any more.
    pub(super) const fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let behind = self.next - 1 - counter;
        behind < WIDTH && self.seen >> behind & 1 == 0
    }

    /// Takes a counter; false if it is not fresh.
    pub(super) fn take(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            let ahead = counter - self.next + 1;
            self.seen = if ahead < WIDTH { self.seen << ahead } else { 0 };
            self.next = counter + 1;
        }
        self.seen |= 1 << (self.next - 1 - counter);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_and_the_old_not_at_all() {
        let mut window = Window::default();
        for counter in [0, 5, 3, 4, 130, 128] {
            assert!(window.take(counter), "{counter}");
            assert!(!window.take(counter), "{counter} again");
        }
        // 130 is the highest: 3 is 127 behind it, 2 is 128.
        assert_eq!((window.is_fresh(2), window.is_fresh(3), window.is_fresh(6)), (false, false, true));
        assert!(window.take(10_000) && !window.take(130) && window.take(9_999));
        assert!(window.take(10_000 - 127) && !window.take(10_000 - 128));
    }

    #[test]
    fn it_agrees_with_a_set() {
        let mut rng = crate::base::rng::Rng::new(1);
        let mut window = Window::default();
        let (mut seen, mut highest) = (std::collections::BTreeSet::new(), 0);
        for _ in 0..20_000 {
            let counter = highest / 2 + rng.below(highest / 2 + 200);
            let want = counter + WIDTH > highest && !seen.contains(&counter);
            assert_eq!(window.take(counter), want, "{counter} of {highest}");
            seen.insert(counter);
            highest = highest.max(counter);
        }
    }
}
