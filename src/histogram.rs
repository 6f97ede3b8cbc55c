//! How long things took, counted in buckets. Knows nothing of what they were.

use std::time::Duration;

/// The upper bounds of the buckets, in microseconds; there is one more bucket for what is above them all.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Counts of durations by bucket.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Histogram {
    counts: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Histogram {
    /// Takes in one duration.
    pub fn note(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many fell into each bucket alone, the last one being above all bounds.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let mut histogram = Histogram::default();
        [0, 100, 101, 10_000_000, 10_000_001].into_iter().for_each(|us| histogram.note(Duration::from_micros(us)));
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[15], counts[16]), (2, 1, 1, 1));
        assert_eq!(histogram.sum(), Duration::from_micros(20_000_202));
        histogram.note(Duration::MAX);
        assert_eq!(histogram.counts()[16], 2);
    }
}
