//! The better of two: power of two choices by latency and pending calls.

use std::sync::Arc;

use super::alias::Alias;
use super::{Ask, Balancer};
use crate::select::candidate::{Candidate, LATENCY_DECAY_NANOS};

/// Draws two candidates by weight and takes the one whose answer is expected sooner: its latency of late, times the
/// calls that it has pending (after Finagle's peak EWMA). The default.
///
/// While both are about as good, within a quarter, the first one drawn is taken, so that weights are honoured; a call
/// pending at a candidate of twice the weight counts half. One that never answered gets a single call until it does.
/// A failure that came quickly does not look like a good answer.
#[derive(Clone, Default, Debug)]
pub struct Ewma {
    alias: Alias,
}

/// How much sooner the second must be expected: closer than that, estimates of equal instances differ by chance.
const MARGIN: f64 = 1.25;

/// What an instance counts that was never heard and has a call pending: more than any latency, in nanoseconds.
const UNKNOWN: f64 = 1e15;

impl Balancer for Ewma {
    fn follow(&self, candidates: &[Arc<Candidate>]) -> Box<dyn Balancer> {
        Box::new(Self { alias: Alias::of(candidates) })
    }

    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
        match candidates.len() {
            0 => None,
            1 => ask.may(&candidates[0]).then_some(0),
            n => {
                let draw = || self.alias.draw(ask.draw(), n);
                let first = ask.drawn(candidates, draw)?;
                match self.other(candidates, ask, first) {
                    Some(second) if cost(ask, &candidates[second]) * MARGIN < cost(ask, &candidates[first]) => {
                        Some(second)
                    }
                    _ => Some(first),
                }
            }
        }
    }
}

impl Ewma {
    /// Another one than `first` that takes calls, if a few draws find one.
    fn other(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>, first: usize) -> Option<usize> {
        const DRAWS: usize = 3;
        let n = candidates.len();
        for _ in 0..DRAWS {
            let second = self.alias.draw(ask.draw(), n);
            if second != first && ask.takes(&candidates[second]) {
                return Some(second);
            }
        }
        // One that weighs nearly everything is drawn nearly always: then any other one is compared.
        let second = (first + 1 + ask.below(n - 1)) % n;
        ask.takes(&candidates[second]).then_some(second)
    }
}

fn cost(ask: &Ask<'_>, candidate: &Candidate) -> f64 {
    let pending = f64::from(candidate.pending()) * candidate.share;
    match candidate.vitals.latency_at(ask.now(), LATENCY_DECAY_NANOS) {
        0.0 if pending > 0.0 => UNKNOWN * (1.0 + pending),
        latency => latency * (1.0 + pending),
    }
}
