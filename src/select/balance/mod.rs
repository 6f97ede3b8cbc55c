//! Balancers: which of the candidates gets a call.
//!
//! | balancer | cost of a choice | honours weights | for |
//! |---|---|---|---|
//! | [`Ewma`] (the default) | constant | yes | nearly everything: it avoids the slow and the busy |
//! | [`RoundRobin`] | constant | no | equal instances, equal calls |
//! | [`SmoothWeighted`] | n | yes | few instances of unequal size, an even rhythm |
//! | [`Random`], [`WeightedRandom`] | constant | no, yes | many callers, cheap calls |
//! | [`LeastPending`] | n | yes | long calls of very unequal length |
//! | [`Rendezvous`] | n | yes | keys that should stay where they are |
//! | [`Maglev`] | constant | yes | the same, with many instances; a change costs milliseconds |
//!
//! n is the number of candidates. No choice allocates.

mod alias;
mod ewma;
mod least;
mod maglev;
mod random;
mod rendezvous;
mod round_robin;
mod smooth;
mod subset;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use self::ewma::Ewma;
pub use self::least::LeastPending;
pub use self::maglev::Maglev;
pub use self::random::{Random, WeightedRandom};
pub use self::rendezvous::Rendezvous;
pub use self::round_robin::RoundRobin;
pub use self::smooth::SmoothWeighted;
pub use self::subset::Subset;
use super::candidate::Candidate;
use super::eject::Ejector;
use super::hash::{SCRAMBLE_STEP, scramble};
use super::picker::Call;
use crate::time::Time;

/// Chooses one of the candidates for a call.
///
/// A balancer never learns of calls' ends by itself: what it needs to know of a candidate, the candidate tells. What it
/// derives of the candidates as a whole, it derives in [`follow`](Self::follow), not at each call.
///
/// ```
/// use std::sync::Arc;
/// use tidings::select::{Ask, Balancer, Candidate};
///
/// /// Always the first that may.
/// #[derive(Debug)]
/// struct First;
///
/// impl Balancer for First {
///     fn follow(&self, _: &[Arc<Candidate>]) -> Box<dyn Balancer> {
///         Box::new(First)
///     }
///
///     fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
///         candidates.iter().position(|candidate| ask.may(candidate))
///     }
/// }
/// ```
pub trait Balancer: fmt::Debug + Send + Sync {
    /// The same balancer for other candidates. Called at each change of them, by one thread at a time; what it has in
    /// common with the one before, it shares with it.
    fn follow(&self, candidates: &[Arc<Candidate>]) -> Box<dyn Balancer>;

    /// The index of the candidate that gets the call, among the very candidates that it follows; `None` if
    /// [`Ask::may`] refuses all of them.
    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize>;
}

/// How the share of an instance grows that has just become healthy. Balancers by key know no slow start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowStart {
    /// How long it takes until it gets its whole share.
    pub window: Duration,
    /// What it gets at first, in percent of its share, 1 to 100.
    pub percent_min: u32,
}

impl SlowStart {
    /// From a tenth to the whole within `window`, as Envoy does it.
    pub const fn over(window: Duration) -> Self {
        Self { window, percent_min: 10 }
    }
}

/// What a balancer is asked: for which call, and when.
#[derive(Debug)]
pub struct Ask<'a> {
    call: &'a Call,
    now: Time,
    seed: u64,
    random: Cell<u64>,
    ejector: Option<&'a Ejector>,
    slow_start: Option<SlowStart>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(
        call: &'a Call,
        now: Time,
        (seed, random): (u64, u64),
        ejector: Option<&'a Ejector>,
        slow_start: Option<SlowStart>,
    ) -> Self {
        Self { call, now, seed, random: Cell::new(random), ejector, slow_start }
    }

    /// The time of the call, by the picker's clock.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The hash of the call's key, if it has one.
    pub fn key(&self) -> Option<u64> {
        self.call.key_hash()
    }

    /// A number that is the same at each call of one picker, and differs between pickers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// 64 random bits, others at each call. They repeat if the picker was given the same seed and the same calls.
    pub fn draw(&self) -> u64 {
        let next = self.random.get().wrapping_add(SCRAMBLE_STEP);
        self.random.set(next);
        scramble(next)
    }

    /// A random number below `n`, which is not 0.
    pub fn below(&self, n: usize) -> usize {
        // The high half of a product: even to one part in 2^64 / n, and no division.
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }

    /// Whether the candidate may get this call: it is not ejected, and was not tried before.
    pub fn may(&self, candidate: &Candidate) -> bool {
        self.ejector.is_none_or(|ejector| ejector.may(candidate, self.now)) && !self.call.has_tried(candidate.token())
    }

    /// What part of its share the candidate gets by now, above 0 and up to 1.
    pub fn warmth(&self, candidate: &Candidate) -> f64 {
        let Some(SlowStart { window, percent_min }) = self.slow_start else { return 1.0 };
        let since = candidate.vitals.since.load(std::sync::atomic::Ordering::Relaxed);
        if since == 0 {
            return 1.0;
        }
        let warm = self.now.since(Time::from_nanos(since)).as_secs_f64() / window.as_secs_f64();
        warm.clamp(f64::from(percent_min.clamp(1, 100)) / 100.0, 1.0)
    }

    /// Whether a candidate that was drawn takes the call: it may, and if it is warming up, a part of the time.
    fn takes(&self, candidate: &Candidate) -> bool {
        if !self.may(candidate) {
            return false;
        }
        let warmth = self.warmth(candidate);
        warmth >= 1.0 || (self.draw() >> 11) as f64 / ((1_u64 << 53) as f64) < warmth
    }

    /// What `draw` gives, drawn again while that takes no call. After some draws, whoever is next.
    fn drawn(&self, candidates: &[Arc<Candidate>], draw: impl Fn() -> usize) -> Option<usize> {
        for _ in 0..DRAWS_MAX {
            let index = draw();
            if self.takes(&candidates[index]) {
                return Some(index);
            }
        }
        self.next_from(candidates, self.below(candidates.len().max(1)))
    }

    /// The first from `start` on that takes the call, or else that may.
    fn next_from(&self, candidates: &[Arc<Candidate>], start: usize) -> Option<usize> {
        let around = || (start..candidates.len()).chain(0..start.min(candidates.len()));
        let takes = around().find(|&index| self.takes(&candidates[index]));
        takes.or_else(|| around().find(|&index| self.may(&candidates[index])))
    }
}

/// Draws before a balancer takes whoever is next: with half of the candidates out, one of 256 calls gets there.
const DRAWS_MAX: usize = 8;

/// A balancer by its name, for configuration files.
///
/// ```
/// use tidings::select::balance::Named;
///
/// let balancer = "maglev".parse::<Named>()?.balancer();
/// assert!("fastest".parse::<Named>().unwrap_err().to_string().contains("least_pending"));
/// # let _ = balancer;
/// # Ok::<(), tidings::select::balance::UnknownBalancer>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named(&'static str);

const NAMES: [&str; 8] =
    ["ewma", "round_robin", "smooth_weighted", "random", "weighted_random", "least_pending", "rendezvous", "maglev"];

/// No balancer has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no balancer {name:?}; there are {}", NAMES.join(", "))]
pub struct UnknownBalancer {
    /// The name.
    pub name: String,
}

impl FromStr for Named {
    type Err = UnknownBalancer;

    fn from_str(name: &str) -> Result<Self, UnknownBalancer> {
        let known = NAMES.iter().find(|known| **known == name);
        known.map(|known| Self(known)).ok_or_else(|| UnknownBalancer { name: name.chars().take(64).collect() })
    }
}

impl Named {
    /// Every name.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|name| Self(name))
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// A balancer of that name, with its defaults.
    pub fn balancer(self) -> Box<dyn Balancer> {
        match self.0 {
            "round_robin" => Box::new(RoundRobin::default()),
            "smooth_weighted" => Box::new(SmoothWeighted::default()),
            "random" => Box::new(Random),
            "weighted_random" => Box::new(WeightedRandom::default()),
            "least_pending" => Box::new(LeastPending),
            "rendezvous" => Box::new(Rendezvous::default()),
            "maglev" => Box::new(Maglev::default()),
            _ => Box::new(Ewma::default()),
        }
    }
}

/// The calls that a candidate may have at once under a bound of `bound` times its fair share ("Consistent hashing with
/// bounded loads", Mirrokni, Thorup and Zadimoghaddam, 2016), this call included.
#[derive(Clone, Copy)]
struct Bound {
    per_weight: f64,
}

impl Bound {
    /// The bound now; costs a look at every candidate, and nothing if there is none.
    fn now(bound: Option<f64>, candidates: &[Arc<Candidate>]) -> Option<Self> {
        let bound = bound?;
        let mut pending = 1.0;
        let mut weight = 0.0;
        for candidate in candidates {
            pending += f64::from(candidate.pending());
            weight += f64::from(candidate.weight());
        }
        Some(Self { per_weight: bound.max(1.0) * pending / weight })
    }

    fn has_room(self, candidate: &Candidate) -> bool {
        f64::from(candidate.pending()) < (self.per_weight * f64::from(candidate.weight())).ceil()
    }
}
