//! Arithmetic of majorities. Nothing else.

use std::collections::BTreeSet;

use crate::base::id::NodeId;

/// How many of `voters` are a majority. One of nobody: nobody can decide nothing.
#[must_use]
pub(super) const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether a majority of the voters is as asked.
#[must_use]
pub(super) fn reached(voters: &BTreeSet<NodeId>, is: impl Fn(NodeId) -> bool) -> bool {
    voters.iter().filter(|voter| is(**voter)).count() >= majority(voters.len())
}

/// The highest number that a majority of the voters has reached; 0 without voters.
#[must_use]
pub(super) fn median(voters: &BTreeSet<NodeId>, of: impl Fn(NodeId) -> u64) -> u64 {
    let mut numbers: Vec<u64> = voters.iter().map(|voter| of(*voter)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.get(majority(numbers.len()) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn voters(count: usize) -> BTreeSet<NodeId> {
        (0..count).map(|id| NodeId::new(id as u128)).collect()
    }

    #[test]
    fn majorities() {
        let table: Vec<usize> = (0..8).map(majority).collect();
        assert_eq!(table, [1, 1, 2, 2, 3, 3, 4, 4]);
        assert!(!reached(&voters(0), |_| true), "nobody decides nothing");
        assert_eq!(median(&voters(0), |_| 7), 0);
    }

    proptest! {
        /// Against trying every number: the highest that more than half have reached.
        #[test]
        fn the_median_is_the_highest_number_of_a_majority(
            numbers in proptest::collection::vec(0u64..12, 1..8)
        ) {
            let of = |voter: NodeId| numbers[usize::try_from(voter.0.0).unwrap()];
            let enough = |limit: u64| {
                2 * numbers.iter().filter(|number| **number >= limit).count() > numbers.len()
            };
            let slow = (0..12).filter(|limit| enough(*limit)).max().unwrap_or(0);
            let voters = voters(numbers.len());
            prop_assert_eq!(median(&voters, of), slow);
            for limit in 0..12 {
                prop_assert_eq!(reached(&voters, |voter| of(voter) >= limit), enough(limit));
            }
        }

        /// Two majorities have a member in common, also across one change of the members.
        #[test]
        fn majorities_meet(mask in any::<u8>(), other in any::<u8>(), count in 1usize..8) {
            let is = |mask: u8| move |voter: NodeId| mask >> voter.0.0 & 1 == 1;
            for now in [count, (count + 1).min(8)] {
                if reached(&voters(count), is(mask)) && reached(&voters(now), is(other)) {
                    let both = voters(count).into_iter().any(|v| is(mask)(v) && is(other)(v));
                    prop_assert!(both);
                }
            }
        }
    }
}
