//! What is known of a link: how long an answer takes, and how many probes are answered. Knows nothing of who is behind
//! it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::peer::NodeId;
use crate::time::Time;

/// The longest that a probe waits for its answer.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// The round-trip time of a link as TCP estimates it (RFC 6298, section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rtt {
    /// The smoothed round-trip time.
    pub smoothed: Duration,
    /// Its smoothed mean deviation.
    pub deviation: Duration,
}

impl Rtt {
    /// After the first sample.
    pub const fn first(sample: Duration) -> Self {
        Self { smoothed: sample, deviation: Duration::from_nanos(sample.as_nanos() as u64 / 2) }
    }

    /// After a further sample: gains of an eighth and a quarter.
    pub fn note(&mut self, sample: Duration) {
        let error = self.smoothed.abs_diff(sample);
        self.deviation = (self.deviation * 3 + error) / 4;
        self.smoothed = (self.smoothed * 7 + sample) / 8;
    }

    /// How long an answer may take: the smoothed time and four deviations, and no less than `least`.
    pub fn timeout(&self, least: Duration) -> Duration {
        (self.smoothed + self.deviation * 4).clamp(least, TIMEOUT_MAX.max(least))
    }
}

/// How far apart two late answers must be to be two: whoever stood still answers all that waited for it at once.
const LATE_APART: Duration = Duration::from_millis(100);

/// How long after a late answer another confirms it. Links that nobody watches are probed seldom: late answers of two
/// pauses must not make a slow link of one.
const LATE_KEPT: Duration = Duration::from_secs(10);

/// Whose latest answers came later than their links let expect. One such moment is a member that stood still, and says
/// nothing of its link; if the next answers are late as well, the link has become slower.
#[derive(Default, Debug)]
pub(super) struct Late(BTreeMap<NodeId, Time>);

impl Late {
    /// Whether an answer says something of the link.
    pub(super) fn is_telling(&mut self, now: Time, from: NodeId, is_late: bool) -> bool {
        let is_same_moment = self.0.get(&from).is_some_and(|first| now.since(*first) < LATE_APART);
        if is_same_moment {
            // The youngest probe that waited with the others did not wait for long, but waited.
            false
        } else if is_late {
            let first = self.0.entry(from).or_insert(now);
            if now.since(*first) > LATE_KEPT {
                *first = now;
            }
            now.since(*first) >= LATE_APART
        } else {
            self.0.remove(&from);
            true
        }
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(NodeId) -> bool) {
        self.0.retain(|id, _| is_kept(*id));
    }
}

/// How much the latest probe weighs in [`Answers`].
const ANSWER_GAIN: f64 = 1.0 / 16.0;

/// Which part of our probes is answered of late.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Answers(f64);

impl Answers {
    pub(super) const fn new() -> Self {
        Self(1.0)
    }

    /// As if this share, from 0 to 1, had been answered for long.
    pub(super) const fn with_ratio(ratio: f64) -> Self {
        Self(ratio.clamp(0.0, 1.0))
    }

    pub(super) fn note(&mut self, was_answered: bool) {
        self.0 += ANSWER_GAIN * (f64::from(u8::from(was_answered)) - self.0);
    }

    pub(super) const fn ratio(self) -> f64 {
        self.0
    }

    /// How many probes must stay unanswered before that is worth asking others about: so many that of a member that
    /// lives, behind links as lossy as ours are of late, one in a hundred times all are lost.
    pub(super) fn tries(self, least: u8, most: u8) -> u8 {
        let lost = (1.0 - self.0).max(1e-6);
        let tries = (0.01f64.ln() / lost.ln()).ceil();
        if tries.is_finite() && tries > 0.0 { (tries.min(255.0) as u8).clamp(least, most) } else { most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_link_waits_no_longer_than_the_least_and_a_slow_one_long_enough() {
        let least = Duration::from_millis(80);
        let mut rtt = Rtt::first(Duration::from_millis(1));
        (0..20).for_each(|_| rtt.note(Duration::from_millis(1)));
        assert_eq!(rtt.timeout(least), least);
        let mut rtt = Rtt::first(Duration::from_millis(200));
        (0..50).for_each(|n| rtt.note(Duration::from_millis(190 + n % 3 * 10)));
        let timeout = rtt.timeout(least);
        assert!(timeout > Duration::from_millis(210) && timeout < Duration::from_millis(300), "{timeout:?}");
    }

    #[test]
    fn late_answers_of_one_moment_tell_nothing_of_a_link_and_those_of_the_next_do() {
        let (mut late, from) = (Late::default(), NodeId(1));
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        assert!(late.is_telling(at(0), from, false));
        assert!(!late.is_telling(at(5_000), from, true), "it stood still");
        assert!(!late.is_telling(at(5_050), from, true), "and answers all that waited");
        assert!(!late.is_telling(at(5_060), from, false), "also what had not waited for long");
        assert!(late.is_telling(at(5_200), from, false));
        assert!(!late.is_telling(at(9_000), from, true));
        assert!(late.is_telling(at(9_600), from, true), "the link has become slower");
        assert!(!late.is_telling(at(69_600), from, true), "it stood still again");
    }

    #[test]
    fn the_lossier_the_more_tries() {
        let mut answers = Answers::new();
        assert_eq!(answers.tries(3, 8), 3);
        (0..200).for_each(|n| answers.note(n % 2 == 0));
        assert!((6..=8).contains(&answers.tries(3, 8)), "{}", answers.tries(3, 8));
        (0..200).for_each(|_| answers.note(false));
        assert_eq!(answers.tries(3, 8), 8);
    }
}
