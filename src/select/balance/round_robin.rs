//! Each in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Ask, Balancer};
use crate::select::candidate::Candidate;

/// Each candidate in turn, whatever its weight. Each picker begins somewhere else, so that many callers that start
/// together do not all call the same instance. Whoever stands behind one that is out gets its turns, too.
#[derive(Clone, Default, Debug)]
pub struct RoundRobin {
    turn: Arc<AtomicU64>,
}

impl Balancer for RoundRobin {
    fn follow(&self, _: &[Arc<Candidate>]) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }

    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        let turn = self.turn.fetch_add(1, Relaxed).wrapping_add(ask.seed() >> 32);
        ask.next_from(candidates, (turn % candidates.len() as u64) as usize)
    }
}
