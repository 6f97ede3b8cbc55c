//! Each in turn by weight, evenly spread.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Ask, Balancer};
use crate::select::candidate::Candidate;

/// Each in turn as often as its weight says, and evenly spread: weights 5, 1, 1 give `a a b a c a a`, never five `a` in
/// a row (nginx, `ngx_http_upstream_round_robin.c`). Whoever stays when others come and go keeps its place in the
/// rhythm.
///
/// A choice looks at every candidate under a lock: 10 cost tens of nanoseconds, 1,000 some microseconds.
#[derive(Clone, Default, Debug)]
pub struct SmoothWeighted {
    turn: Arc<Mutex<()>>,
}

/// Parts of one weight, so that one that is warming up can count as less than 1.
const PARTS: f64 = 1_000.0;

impl Balancer for SmoothWeighted {
    fn follow(&self, _: &[Arc<Candidate>]) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }

    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
        // What the lock guards is one number for each candidate, valid at each step.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0_i64;
        let mut best = None;
        for (index, candidate) in candidates.iter().enumerate() {
            if !ask.may(candidate) {
                continue;
            }
            let weight = (f64::from(candidate.weight()) * ask.warmth(candidate) * PARTS) as i64;
            let turn = (candidate.vitals.turn.load(Relaxed) as i64).saturating_add(weight);
            candidate.vitals.turn.store(turn as u64, Relaxed);
            total = total.saturating_add(weight);
            if best.is_none_or(|(_, most)| turn > most) {
                best = Some((index, turn));
            }
        }
        let (index, turn) = best?;
        candidates[index].vitals.turn.store(turn.saturating_sub(total) as u64, Relaxed);
        Some(index)
    }
}
