//! A few of them: with many callers and many instances, each caller needs to be connected to some only.

use crate::select::hash::{bid, key_hash, place_hash};
use crate::view::Offered;

/// The same few instances for a caller as long as they are there, other ones for another caller, by rendezvous hashing:
/// one that goes is replaced by one, and nothing else moves.
///
/// Which callers fall on an instance is random: with c callers, n instances and a size of d, it has c d / n of them,
/// give or take the square root of that. Choose the size so that this is small enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subset {
    size: usize,
    caller: u64,
}

impl Subset {
    /// `size` instances, at least one, for the caller of this name: the member's name, usually.
    pub fn of(size: usize, caller: &str) -> Self {
        Self { size: size.max(1), caller: key_hash(caller.as_bytes()) }
    }

    /// Leaves the instances that the caller gets, in the order they had.
    pub fn keep(&self, offered: &mut Vec<Offered>) {
        if offered.len() <= self.size {
            return;
        }
        let bid = |o: &Offered| {
            let place = place_hash(&o.member.name, o.instance.id.as_str());
            bid(self.caller, place, f64::from(o.instance.weight))
        };
        let mut bids: Vec<f64> = offered.iter().map(bid).collect();
        let unsorted = bids.clone();
        let (_, limit, _) = bids.select_nth_unstable_by(self.size - 1, f64::total_cmp);
        let limit = *limit;
        let mut left = self.size;
        let mut each = unsorted.into_iter();
        offered.retain(|_| {
            let is_kept = left > 0 && each.next().is_some_and(|bid| bid <= limit);
            left -= usize::from(is_kept);
            is_kept
        });
    }
}
