//! How long a certificate is good for, on boards that may have no clock. Pure: all times come in.
//!
//! Three rules. (1) What is issued begins at [`Times::base`], which no clock in 1970 can pull down
//! and which never by itself makes anything expire. (2) Only a system clock that is not before the
//! build judges, and it judges only the end: a certificate from a clock that was ahead is good.
//! (3) What has expired may be renewed, so judging wrongly costs a renewal and nothing else.

use crate::base::rng::Rng;
use crate::base::time::{Now, Span, Wall};

const DAY: Span = Span::from_secs(86_400);

/// Life of a node's certificate unless the user sets another (swarmkit `ca/certificates.go`).
pub const CERTIFICATE_LIFE: Span = Span::from_secs(90 * 86_400);

/// The shortest life that a user may set (swarmkit `ca/certificates.go`, `MinNodeCertExpiration`).
pub const CERTIFICATE_LIFE_MIN: Span = Span::from_secs(3_600);

/// 9999-12-31T00:00:00Z, the end of what has no end (RFC 5280 section 4.1.2.5).
pub const NO_END: Wall = Wall(253_402_214_400_000_000);

/// A clock that goes on like this against the monotonic one was set by somebody.
const STEP: Span = DAY;

/// What a node knows of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The system's clock.
    pub system: Wall,
    /// When this program was built.
    pub build: Wall,
    /// Where the life of the cluster's root begins.
    pub root_not_before: Wall,
    /// The newest time in the log.
    pub newest_in_log: Wall,
}

impl Times {
    /// The time that certificates are issued from: not before anything that has surely happened.
    #[must_use]
    pub fn base(&self) -> Wall {
        self.system.max(self.build).max(self.root_not_before).max(self.newest_in_log)
    }

    /// Whether the system's clock says something: it is not before the build.
    #[must_use]
    pub fn judges(&self) -> bool {
        self.system >= self.build
    }
}

/// A certificate's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment.
    pub not_before: Wall,
    /// Its last.
    pub not_after: Wall,
}

/// How a certificate stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The clock here says nothing: chain, role and removal list decide alone.
    Unjudged,
    /// Good.
    Current,
    /// Past its end: good for one call, to renew it.
    Expired,
}

/// How a certificate that ends at `not_after` stands.
#[must_use]
pub fn standing(not_after: Wall, times: &Times) -> Standing {
    if !times.judges() {
        Standing::Unjudged
    } else if times.system > not_after {
        Standing::Expired
    } else {
        Standing::Current
    }
}

/// What a node knows of the certificate that it holds, for [`renewal_due`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The certificate's life.
    pub validity: Validity,
    /// What the system's clock said when it came.
    pub received: Wall,
    /// How long this process has run since then, by the monotonic clock.
    pub elapsed: Span,
}

impl Validity {
    /// A life that begins at `base`; cut at [`NO_END`].
    #[must_use]
    pub fn from_base(base: Wall, life: Span) -> Self {
        let not_after = Wall(base.0.saturating_add(life.0)).min(NO_END);
        Self { not_before: base.min(not_after), not_after }
    }

    /// How long it is.
    #[must_use]
    pub const fn life(self) -> Span {
        Span(self.not_after.0.saturating_sub(self.not_before.0))
    }

    /// How much of the life passes before it is renewed: 50 to 80 %, drawn from `seed`, so that
    /// nodes that joined together do not renew together.
    #[must_use]
    pub fn renewed_after(self, seed: u64) -> Span {
        let permille = 500 + u128::from(Rng::new(seed).below(301));
        Span(u64::try_from(u128::from(self.life().0) * permille / 1_000).unwrap_or(u64::MAX))
    }
}

/// Whether a node should renew the certificate it holds. The share of its life that
/// [`Validity::renewed_after`] names has passed by any of three measures; the clock may have been
/// wrong when it came, or since, so no measure is enough alone.
#[must_use]
pub fn renewal_due(held: &Held, seed: u64, times: &Times) -> bool {
    let after = held.validity.renewed_after(seed);
    let by_dates =
        times.judges() && times.system.0.saturating_sub(held.validity.not_before.0) >= after.0;
    let by_clock = times.judges()
        && held.received >= times.build
        && times.system.0.saturating_sub(held.received.0) >= after.0;
    by_dates || by_clock || held.elapsed >= after
}

/// Whether the wall clock was set by more than a day between two readings. A leader that sees this
/// issues all certificates anew.
#[must_use]
pub const fn clock_stepped(earlier: Now, later: Now) -> bool {
    let expected = earlier.wall.0.saturating_add(later.mono.since(earlier.mono).0);
    expected.abs_diff(later.wall.0) > STEP.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Time;

    const YEAR: u64 = 365 * DAY.0;
    const BUILD: Wall = Wall(56 * YEAR);

    fn times(system: u64) -> Times {
        Times { system: Wall(system), build: BUILD, ..Times::default() }
    }

    #[test]
    fn nothing_is_issued_from_1970() {
        let log = Times { newest_in_log: Wall(57 * YEAR), ..times(0) };
        let root = Times { root_not_before: Wall(58 * YEAR), ..log };
        let system = Times { system: Wall(59 * YEAR), ..root };
        assert_eq!(times(0).base(), BUILD);
        assert_eq!(log.base(), Wall(57 * YEAR));
        assert_eq!(root.base(), Wall(58 * YEAR));
        assert_eq!(system.base(), Wall(59 * YEAR));
    }

    #[test]
    fn a_clock_before_the_build_does_not_judge_and_a_log_ahead_does_not_expire() {
        let end = Wall(57 * YEAR);
        for (times, expected) in [
            (times(0), Standing::Unjudged),
            (times(BUILD.0 - 1), Standing::Unjudged),
            (times(BUILD.0), Standing::Current),
            (times(end.0), Standing::Current),
            (times(end.0 + 1), Standing::Expired),
            (times(71 * YEAR), Standing::Expired),
            (Times { newest_in_log: Wall(71 * YEAR), ..times(BUILD.0) }, Standing::Current),
            (Times { newest_in_log: Wall(71 * YEAR), ..times(0) }, Standing::Unjudged),
        ] {
            assert_eq!(standing(end, &times), expected, "{times:?}");
        }
    }

    #[test]
    fn a_life_ends_at_the_end_of_dates() {
        let validity = Validity::from_base(NO_END, CERTIFICATE_LIFE);
        assert_eq!(validity, Validity { not_before: NO_END, not_after: NO_END });
        assert_eq!(NO_END.to_string(), "9999-12-31T00:00:00Z");
        assert_eq!(Validity::from_base(BUILD, CERTIFICATE_LIFE).life(), CERTIFICATE_LIFE);
    }

    #[test]
    fn renewal_is_between_a_half_and_four_fifths_and_not_at_once_for_all() {
        let validity = Validity::from_base(BUILD, Span(1_000_000));
        let points: std::collections::BTreeSet<u64> =
            (0..1_000).map(|seed| validity.renewed_after(seed).0).collect();
        assert!(points.first().is_some_and(|first| (500_000..520_000).contains(first)));
        assert!(points.last().is_some_and(|last| (780_000..=800_000).contains(last)));
        assert_eq!(validity.renewed_after(7), validity.renewed_after(7));
    }

    #[test]
    fn any_measure_makes_a_renewal_due() {
        let validity = Validity::from_base(BUILD, CERTIFICATE_LIFE);
        let fresh = Held { validity, received: BUILD, elapsed: Span::ZERO };
        let before = Span(44 * DAY.0);
        let after = Span(73 * DAY.0);
        let at = |span: Span| times(BUILD.0 + span.0);
        assert!(!renewal_due(&fresh, 1, &at(before)));
        assert!(renewal_due(&fresh, 1, &at(after)));
        // A board without a clock counts the time that it runs.
        assert!(!renewal_due(&Held { elapsed: before, ..fresh }, 1, &times(0)));
        assert!(renewal_due(&Held { elapsed: after, ..fresh }, 1, &times(0)));
        // Issued by a clock that was 14 years ahead.
        let ahead = Validity::from_base(Wall(BUILD.0 + 14 * YEAR), CERTIFICATE_LIFE);
        let held = Held { validity: ahead, ..fresh };
        assert!(!renewal_due(&held, 1, &at(before)));
        assert!(renewal_due(&held, 1, &at(after)));
        // Received in 1970, and the clock was set since: the dates count, the reception does not.
        let early = Held { received: Wall(0), ..fresh };
        assert!(!renewal_due(&early, 1, &at(before)));
    }

    #[test]
    fn a_step_of_more_than_a_day_is_seen_both_ways() {
        let at = |mono, wall| Now { mono: Time(mono), wall: Wall(wall) };
        let start = at(0, 100 * DAY.0);
        for (later, stepped) in [
            (at(5 * DAY.0, 105 * DAY.0), false),
            (at(0, 101 * DAY.0), false),
            (at(0, 99 * DAY.0), false),
            (at(0, 101 * DAY.0 + 1), true),
            (at(0, 99 * DAY.0 - 1), true),
            (at(DAY.0, 99 * DAY.0), true),
        ] {
            assert_eq!(clock_stepped(start, later), stepped, "{later:?}");
        }
    }
}
