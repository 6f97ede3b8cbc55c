//! How far zones are from this member: its own is the nearest, then the others by the round-trip times that were
//! measured to their members. Knows nothing of names and records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Zones are about equally far away if the farther one takes at most a quarter longer than the nearest of them: what is
/// measured wavers, and an order that wavers with it would only make readers reload.
const ABOUT: f64 = 1.25;

/// So are those that differ by less than this.
const ABOUT_SPAN: Duration = Duration::from_millis(1);

/// The zones by distance.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Near {
    own: Arc<str>,
    /// From 1, for those where something was measured; equal for zones about equally far away.
    ranks: BTreeMap<Arc<str>, u16>,
    /// The rank of all others.
    last: u16,
}

impl Near {
    /// The zones as seen from `own`, by what was measured to members of each.
    pub(super) fn new(own: Arc<str>, measured: BTreeMap<Arc<str>, Vec<Duration>>) -> Self {
        let median = |(zone, mut times): (Arc<str>, Vec<Duration>)| {
            times.sort_unstable();
            Some((*times.get(times.len() / 2)?, zone))
        };
        let mut zones: Vec<_> = measured.into_iter().filter(|(zone, _)| *zone != own).filter_map(median).collect();
        zones.sort_unstable();
        let (mut rank, mut nearest) = (0, None);
        let mut ranks = BTreeMap::new();
        for (time, zone) in zones {
            let is_about = |first: Duration| time <= first.mul_f64(ABOUT) || time - first < ABOUT_SPAN;
            if !nearest.is_some_and(is_about) {
                rank += 1;
                nearest = Some(time);
            }
            ranks.insert(zone, rank);
        }
        Self { own, ranks, last: rank + 1 }
    }

    /// How many zones are nearer, those about equally far counted once; 0 for the member's own.
    pub(super) fn rank(&self, zone: &str) -> u16 {
        if *zone == *self.own { 0 } else { self.ranks.get(zone).copied().unwrap_or(self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(measured: &[(&str, &[u64])]) -> Near {
        let times = |all: &[u64]| all.iter().copied().map(Duration::from_millis).collect();
        Near::new("own".into(), measured.iter().map(|(zone, all)| (Arc::from(*zone), times(all))).collect())
    }

    #[test]
    fn zones_are_ranked_by_the_median_of_what_was_measured_and_those_unknown_are_last() {
        let near = near(&[("far", &[200, 5, 210]), ("own", &[9]), ("near", &[30]), ("untold", &[])]);
        assert_eq!(["own", "near", "far", "untold", "new"].map(|zone| near.rank(zone)), [0, 1, 2, 3, 3]);
    }

    #[test]
    fn zones_about_equally_far_away_are_one() {
        let near = near(&[("a", &[100]), ("b", &[124]), ("c", &[126]), ("d", &[0]), ("e", &[0])]);
        assert_eq!(["d", "e", "a", "b", "c"].map(|zone| near.rank(zone)), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn while_nothing_was_measured_only_the_own_zone_is_near() {
        assert_eq!(["own", "a", "b"].map(|zone| near(&[]).rank(zone)), [0, 1, 1]);
    }
}
