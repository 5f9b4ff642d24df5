//! A name for a service that was made without one, as Docker's daemon gives: two words.

use std::collections::BTreeSet;

const FIRST: [&str; 24] = [
    "amber", "bold", "brave", "bright", "busy", "calm", "clever", "cosy", "eager", "early",
    "gentle", "golden", "happy", "humble", "keen", "kind", "lively", "merry", "nimble", "quiet",
    "sunny", "swift", "warm", "wise",
];

const SECOND: [&str; 24] = [
    "acacia", "aster", "bee", "borage", "clover", "comb", "dahlia", "drone", "heather", "hive",
    "honey", "lavender", "linden", "meadow", "mint", "nectar", "orchard", "pollen", "poppy",
    "sage", "skep", "thyme", "wax", "willow",
];

/// A name that is not in `taken`, made from `bits` of entropy.
#[must_use]
pub(crate) fn pick(bits: u64, taken: &BTreeSet<&str>) -> String {
    let word = |list: &[&'static str], bits: u64| {
        let len = u64::try_from(list.len()).unwrap_or(1);
        list[usize::try_from(bits % len).unwrap_or(0)]
    };
    let base = format!("{}_{}", word(&FIRST, bits), word(&SECOND, bits >> 32));
    let numbered = |n: u64| if n == 0 { base.clone() } else { format!("{base}{n}") };
    (0..=u64::MAX).map(numbered).find(|name| !taken.contains(name.as_str())).unwrap_or(base.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Name;

    #[test]
    fn names_are_legal_and_free() {
        let first = pick(7, &BTreeSet::new());
        assert!(Name::new(&first).is_ok());
        let second = pick(7, &[first.as_str()].into());
        assert_eq!(second, format!("{first}1"));
    }
}
