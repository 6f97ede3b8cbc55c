//! By key, through a table: Maglev hashing (Eisenbud and others, NSDI 2016, section 3.4), with weights as Envoy has
//! them.

use std::fmt;
use std::sync::Arc;

use super::rendezvous::lowest;
use super::{Ask, Balancer, Bound};
use crate::select::candidate::Candidate;
use crate::select::hash::{SCRAMBLE_STEP, key_hash, pair_hash, scramble};

/// The candidate that the call's key falls to in a table that all callers build alike. One look for a call, whatever
/// the number of candidates; building the table takes milliseconds, and only happens when candidates or weights change.
/// When a candidate goes, its own keys move and few others, unlike [`Rendezvous`](super::Rendezvous), where none do.
///
/// A call without a key gets any candidate, by weight.
#[derive(Clone, Default, Debug)]
pub struct Maglev {
    bound: Option<f64>,
    table: Arc<Table>,
}

impl Maglev {
    /// No candidate gets more than `times` its fair share of the calls pending from here; at least 1, usually 1.25. To
    /// know the share, every candidate is looked at.
    pub fn bounded(times: f64) -> Self {
        Self { bound: Some(times), table: Arc::default() }
    }
}

/// The least size of a table: a prime, Envoy's default.
const SIZE_MIN: usize = 65_537;

/// Entries for each candidate, at least: shares are then even to about one percent (section 5.3).
const ENTRIES_EACH: usize = 100;

/// Further entries that are looked at when a candidate does not take the call.
const LOOKS_MAX: u64 = 16;

#[derive(Default)]
struct Table {
    /// Of what it was built.
    made_of: Vec<(u64, u32)>,
    /// Indices of candidates.
    entries: Box<[u32]>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} candidates, {} entries)", self.made_of.len(), self.entries.len())
    }
}

impl Balancer for Maglev {
    fn follow(&self, candidates: &[Arc<Candidate>]) -> Box<dyn Balancer> {
        let made_of: Vec<_> = candidates.iter().map(|candidate| (candidate.hash(), candidate.weight())).collect();
        let table = if self.table.made_of == made_of { Arc::clone(&self.table) } else { Arc::new(Table::new(made_of)) };
        Box::new(Self { bound: self.bound, table })
    }

    fn choose(&self, candidates: &[Arc<Candidate>], ask: &Ask<'_>) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        let key = ask.key().unwrap_or_else(|| ask.draw());
        let bound = Bound::now(self.bound, candidates);
        let mut at = key;
        for look in 0..LOOKS_MAX {
            let index = self.table.at(at);
            let candidate = &candidates[index];
            if ask.may(candidate) && bound.is_none_or(|bound| bound.has_room(candidate)) {
                return Some(index);
            }
            at = scramble(key.wrapping_add((look + 1).wrapping_mul(SCRAMBLE_STEP)));
        }
        lowest(candidates, ask, key, bound)
    }
}

impl Table {
    fn new(made_of: Vec<(u64, u32)>) -> Self {
        let size = next_prime(SIZE_MIN.max(made_of.len() * ENTRIES_EACH));
        let entries = fill(&made_of, size).into();
        Self { made_of, entries }
    }

    fn at(&self, key: u64) -> usize {
        self.entries[(key % self.entries.len() as u64) as usize] as usize
    }
}

/// One candidate on its way through the table: it visits the entries in an order of its own.
struct Walk {
    index: u32,
    at: usize,
    step: usize,
    /// Its weight as a part of the heaviest one's, and how much of a turn it has by now.
    part: f64,
    turn: f64,
}

fn fill(made_of: &[(u64, u32)], size: usize) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let heaviest = made_of.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
    let mut walks: Vec<Walk> = made_of
        .iter()
        .enumerate()
        .map(|(index, &(hash, weight))| Walk {
            index: index as u32,
            at: (hash % size as u64) as usize,
            step: (pair_hash(hash, key_hash(b"skip")) % (size as u64 - 1)) as usize + 1,
            part: f64::from(weight) / f64::from(heaviest),
            turn: 0.0,
        })
        .collect();
    // By hash, not by the order in a snapshot: with the same candidates, everybody gets the same table.
    walks.sort_by_key(|walk| made_of[walk.index as usize].0);
    let mut entries = vec![FREE; size];
    let mut free = size;
    while free > 0 && !walks.is_empty() {
        for walk in &mut walks {
            walk.turn += walk.part;
            if walk.turn < 1.0 || free == 0 {
                continue;
            }
            walk.turn -= 1.0;
            // A step below a prime visits every entry, so a free one is found while there is any.
            while entries[walk.at] != FREE {
                walk.at = (walk.at + walk.step) % size;
            }
            entries[walk.at] = walk.index;
            free -= 1;
        }
    }
    entries
}

fn next_prime(from: usize) -> usize {
    (from.max(2)..).find(|&n| (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)).expect("there is no last prime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_does_not_depend_on_the_order_of_its_candidates() {
        let there: Vec<_> = (0..20_u64).map(|n| (key_hash(&n.to_le_bytes()), 1 + n as u32 % 3)).collect();
        let mut back = there.clone();
        back.reverse();
        let (a, b) = (Table::new(there.clone()), Table::new(back));
        assert!((0..100_000).all(|key| there[a.at(key)] == b.made_of[b.at(key)]));
    }

    #[test]
    fn the_size_is_a_prime_with_room_for_all() {
        assert_eq!(next_prime(SIZE_MIN), SIZE_MIN);
        assert_eq!(next_prime(100_000), 100_003);
        assert_eq!(Table::new((0..1_000).map(|n| (key_hash(&[n as u8, 1]), 1)).collect()).entries.len(), 100_003);
    }
}
