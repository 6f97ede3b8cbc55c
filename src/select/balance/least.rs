//! Whoever has the fewest calls.

use std::sync::Arc;

use super::{Ask, Balancer};
use crate::select::candidate::Candidate;

/// The candidate with the fewest pending calls for its weight; of several, one by weight. It counts the calls of its
/// own picker only, and looks at every candidate.
#[derive(Clone, Copy, Default, Debug)]
pub struct LeastPending;

impl Balancer for LeastPending {
    fn follow(&self, _: &[Arc<Candidate>]) -> Box<dyn Balancer> {
        Box::new(*self)
    }

    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        let mut ties = 0.0;
        for (index, candidate) in candidates.iter().enumerate() {
            if !ask.may(candidate) {
                continue;
            }
            let warmth = ask.warmth(candidate);
            let load = f64::from(candidate.pending()) * candidate.share / warmth;
            let weight = f64::from(candidate.weight()) * warmth;
            match best {
                Some((_, least)) if load > least => {}
                // One of those that are equal, each by its weight, without counting them first.
                Some((_, least)) if load == least => {
                    ties += weight;
                    if (ask.draw() >> 11) as f64 / ((1_u64 << 53) as f64) * ties < weight {
                        best = Some((index, load));
                    }
                }
                _ => {
                    ties = weight;
                    best = Some((index, load));
                }
            }
        }
        best.map(|(index, _)| index)
    }
}
