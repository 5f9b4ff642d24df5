//! The network between the machines: it loses, doubles, reorders and delays, and it parts.
//!
//! A partition is a set of directed pairs that do not hear each other; several may hold at once.

use skep::base::rng::Rng;
use skep::base::time::Span;

/// Most machines of a run.
pub(crate) const MACHINES_MAX: usize = 32;

/// How the network is parted. Sets of machines are bit masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parted {
    /// Those in the set and those outside do not hear each other.
    Halves { side: u32 },
    /// Those in the set are not heard by the others, but hear them.
    OneWay { mute: u32 },
    /// Everybody hears two neighbours only.
    Ring,
}

impl Parted {
    fn cuts(self, from: usize, to: usize, machines: usize) -> bool {
        let is_in = |set: u32, machine: usize| set >> machine & 1 == 1;
        match self {
            Self::Halves { side } => is_in(side, from) != is_in(side, to),
            Self::OneWay { mute } => is_in(mute, from) && !is_in(mute, to),
            Self::Ring => {
                let gap = from.abs_diff(to);
                gap > 1 && gap + 1 < machines
            }
        }
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quality {
    /// Shortest way.
    pub delay_min: Span,
    /// What chance adds to it, evenly from nothing to this.
    pub delay_more: Span,
    /// Lost, of 1,000.
    pub loss: u64,
    /// Delivered twice, of 1,000.
    pub twice: u64,
    /// Held up for a long while, of 1,000.
    pub late: u64,
}

/// A quiet local network: a millisecond each way.
pub(crate) const LAN: Quality =
    Quality { delay_min: Span::from_millis(1), delay_more: Span(200), loss: 0, twice: 0, late: 0 };

/// Longest that a late message is held up.
const LATE_MAX: Span = Span::from_secs(3);

/// The network.
pub(crate) struct Net {
    machines: usize,
    pub quality: Quality,
    parted: Vec<(u64, Parted)>,
    /// For each sender, who does not hear it.
    cut: [u32; MACHINES_MAX],
    /// Messages that were lost, doubled or late.
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
}

impl Net {
    pub(crate) const fn new(machines: usize, quality: Quality) -> Self {
        assert!(machines <= MACHINES_MAX);
        let cut = [0; MACHINES_MAX];
        Self { machines, quality, parted: Vec::new(), cut, lost: 0, doubled: 0, late: 0 }
    }

    /// Adds a partition under a number of its own.
    pub(crate) fn part(&mut self, number: u64, parted: Parted) {
        self.parted.push((number, parted));
        self.again();
    }

    pub(crate) fn heal(&mut self, number: u64) {
        self.parted.retain(|(other, _)| *other != number);
        self.again();
    }

    pub(crate) fn heal_all(&mut self) {
        self.parted.clear();
        self.again();
    }

    fn again(&mut self) {
        for from in 0..self.machines {
            let cut = |to: &usize| {
                from != *to
                    && self.parted.iter().any(|(_, parted)| parted.cuts(from, *to, self.machines))
            };
            self.cut[from] = (0..self.machines).filter(cut).fold(0, |set, to| set | 1 << to);
        }
    }

    /// Whether `to` hears `from`.
    pub(crate) const fn hears(&self, from: usize, to: usize) -> bool {
        self.cut[from] >> to & 1 == 0
    }

    /// A way's time.
    pub(crate) fn delay(&self, rng: &mut Rng) -> Span {
        self.quality.delay_min + Span(rng.below(self.quality.delay_more.0 + 1))
    }

    /// After which spans a message arrives: none, one or two. A machine hears itself at once.
    pub(crate) fn deliver(&mut self, rng: &mut Rng, from: usize, to: usize) -> [Option<Span>; 2] {
        if !self.hears(from, to) {
            return [None, None];
        }
        if rng.below(1_000) < self.quality.loss {
            self.lost += 1;
            return [None, None];
        }
        let mut first = self.delay(rng);
        if rng.below(1_000) < self.quality.late {
            self.late += 1;
            first = first + Span(rng.below(LATE_MAX.0));
        }
        let again = rng.below(1_000) < self.quality.twice;
        self.doubled += u64::from(again);
        let second = again.then(|| self.delay(rng) + Span(rng.below(LATE_MAX.0 / 8)));
        [Some(first), second]
    }
}

pub(crate) fn a_partition_cuts_what_its_name_says() {
    let mut net = Net::new(5, LAN);
    let pairs = |net: &Net| {
        let all = (0..5).flat_map(|from| (0..5).map(move |to| (from, to)));
        all.filter(|(from, to)| !net.hears(*from, *to)).count()
    };
    net.part(1, Parted::Halves { side: 0b00011 });
    assert_eq!(pairs(&net), 12);
    net.part(2, Parted::OneWay { mute: 0b00001 });
    assert_eq!(pairs(&net), 13);
    net.heal(1);
    assert!(!net.hears(0, 4) && net.hears(4, 0));
    assert_eq!(pairs(&net), 4);
    net.heal(2);
    net.part(3, Parted::Ring);
    assert!(net.hears(0, 4) && net.hears(4, 0) && net.hears(2, 3) && !net.hears(0, 2));
    assert_eq!(pairs(&net), 10);
    net.heal_all();
    assert_eq!(pairs(&net), 0);
}
