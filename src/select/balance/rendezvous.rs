//! By key: whoever bids lowest for it.

use std::sync::Arc;

use super::{Ask, Balancer, Bound};
use crate::select::candidate::Candidate;
use crate::select::hash::bid;

/// The candidate that the call's key falls to by weighted rendezvous hashing: all callers agree, a candidate that goes
/// moves only its own keys, and a restart moves none. A call without a key gets any candidate, by weight.
///
/// Every candidate is looked at: some 10 ns each.
#[derive(Clone, Copy, Default, Debug)]
pub struct Rendezvous {
    bound: Option<f64>,
}

impl Rendezvous {
    /// No candidate gets more than `times` its fair share of the calls pending from here; at least 1, usually 1.25. A
    /// key whose candidate is full goes to the next one, and comes back.
    pub const fn bounded(times: f64) -> Self {
        Self { bound: Some(times) }
    }
}

impl Balancer for Rendezvous {
    fn follow(&self, _: &[Arc<Candidate>]) -> Box<dyn Balancer> {
        Box::new(*self)
    }

    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
        let key = ask.key().unwrap_or_else(|| ask.draw());
        lowest(candidates, ask, key, Bound::now(self.bound, candidates))
    }
}

/// Who bids lowest of those that may, and have room.
pub(super) fn lowest(candidates: &[Arc<Candidate>], ask: &Ask<'_>, key: u64, bound: Option<Bound>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        let bid = bid(key, candidate.hash(), f64::from(candidate.weight()));
        let is_lower = best.is_none_or(|(_, lowest)| bid < lowest);
        if is_lower && ask.may(candidate) && bound.is_none_or(|bound| bound.has_room(candidate)) {
            best = Some((index, bid));
        }
    }
    best.map(|(index, _)| index)
}
