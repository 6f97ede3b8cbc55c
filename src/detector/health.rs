//! Self-doubt: whether it is we who are slow. Lifeguard's local health score (Dadgar, Phillips and Currey, DSN 2018,
//! section IV.A), and the stalls of our own. Knows nothing of probes.

use std::time::Duration;

/// The worst score.
const SCORE_MAX: u8 = 8;

/// How well we are: 0 is best, 8 worst. What speaks against us raises the score, what goes well lowers it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Health {
    score: u8,
}

impl Health {
    pub(super) const fn score(self) -> u8 {
        self.score
    }

    /// Somebody answered us.
    pub(super) const fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// We stalled, accused somebody whom others reach, had to refute, or missed a report.
    pub(super) fn worse(&mut self, by: u8) {
        self.score = self.score.saturating_add(by).min(SCORE_MAX);
    }

    /// Stretches a timeout: by half for each point, to five times at the worst.
    pub(super) fn stretch(self, timeout: Duration) -> Duration {
        timeout + timeout * u32::from(self.score) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_in_its_bounds_and_stretches_timeouts() {
        let mut health = Health::default();
        health.better();
        assert_eq!(health.stretch(Duration::from_millis(100)), Duration::from_millis(100));
        health.worse(200);
        assert_eq!((health.score(), health.stretch(Duration::from_millis(100))), (8, Duration::from_millis(500)));
    }
}
