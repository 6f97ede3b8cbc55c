//! Drawing by weight in constant time: Walker's alias method, with the table built as Vose does (1991).

use std::sync::Arc;

use crate::select::candidate::Candidate;

/// A table to draw indices from by weight.
#[derive(Clone, Default, Debug)]
pub(super) struct Alias {
    /// For each index: below this part of 2^32 it is itself, and above it the other one. Empty if all weigh the same.
    cells: Arc<[(u32, u32)]>,
}

impl Alias {
    pub(super) fn of(candidates: &[Arc<Candidate>]) -> Self {
        let weights: Vec<u32> = candidates.iter().map(|candidate| candidate.weight()).collect();
        Self::new(&weights)
    }

    fn new(weights: &[u32]) -> Self {
        if weights.windows(2).all(|two| two[0] == two[1]) {
            return Self::default();
        }
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        // In units of 1 / (total * n), all is exact: what each lacks of, or has beyond, an n-th of the whole.
        let mut rest: Vec<u64> = weights.iter().map(|&weight| u64::from(weight) * weights.len() as u64).collect();
        let (mut small, mut large): (Vec<_>, Vec<_>) = (0..weights.len()).partition(|&index| rest[index] < total);
        let mut cells: Vec<(u32, u32)> = (0..weights.len()).map(|index| (u32::MAX, index as u32)).collect();
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            let part = (u128::from(rest[less]) << 32) / u128::from(total);
            cells[less] = (part as u32, more as u32);
            rest[more] -= total - rest[less];
            if rest[more] < total {
                large.pop();
                small.push(more);
            }
        }
        Self { cells: cells.into() }
    }

    /// An index below `n`, by the weights of the `n` candidates that this was made of; `random` is 64 random bits.
    pub(super) fn draw(&self, random: u64, n: usize) -> usize {
        let index = (((random >> 32) * n as u64) >> 32) as usize;
        match self.cells.get(index) {
            Some(&(part, other)) if random as u32 >= part && part != u32::MAX => other as usize,
            _ => index,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_cells_hold_exactly_the_weights(weights in prop::collection::vec(1..65_536_u32, 1..50)) {
            let alias = Alias::new(&weights);
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            let mut share = vec![0.0; weights.len()];
            for index in 0..weights.len() {
                let (part, other) = alias.cells.get(index).copied().unwrap_or((u32::MAX, index as u32));
                let own = if part == u32::MAX { 1.0 } else { f64::from(part) / 2_f64.powi(32) };
                share[index] += own / weights.len() as f64;
                share[other as usize] += (1.0 - own) / weights.len() as f64;
            }
            for (share, weight) in share.iter().zip(&weights) {
                prop_assert!((share - f64::from(*weight) / total).abs() < 1e-7);
            }
        }
    }
}
