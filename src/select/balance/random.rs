//! Any of them.

use std::sync::Arc;

use super::alias::Alias;
use super::{Ask, Balancer};
use crate::select::candidate::Candidate;

/// Any candidate, each as likely, whatever its weight.
#[derive(Clone, Copy, Default, Debug)]
pub struct Random;

impl Balancer for Random {
    fn follow(&self, _: &[Arc<Candidate>]) -> Box<dyn Balancer> {
        Box::new(*self)
    }

    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        ask.drawn(candidates, || ask.below(candidates.len()))
    }
}

/// Any candidate, each as likely as its weight says. Constant time: an alias table, built anew when weights change.
#[derive(Clone, Default, Debug)]
pub struct WeightedRandom {
    alias: Alias,
}

impl Balancer for WeightedRandom {
    fn follow(&self, candidates: &[Arc<Candidate>]) -> Box<dyn Balancer> {
        Box::new(Self { alias: Alias::of(candidates) })
    }

    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        ask.drawn(candidates, || self.alias.draw(ask.draw(), candidates.len()))
    }
}
