//! When a check's results are believed: so many in a row, and longer for one that goes up and down all the time. A
//! state machine that is told the time.

use std::time::Duration;

use super::{Check, HoldDown, Level};
use crate::time::Time;

/// How a check stands, and what it takes to change that.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    level: Level,
    successes_before_passing: u32,
    failures_before_warning: u32,
    failures_before_critical: u32,
    hold_down: Option<HoldDown>,
    successes: u32,
    failures: u32,
    /// Falls to critical that count still, the oldest first; no more than double the time to hold.
    falls: Vec<Time>,
    /// Since when every result was a success.
    well_since: Option<Time>,
}

/// What a result did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    /// Whether the level is another one than before.
    pub(crate) has_changed: bool,
    /// How long the check has to go on passing until that is believed, if it is held down.
    pub(crate) held: Option<Duration>,
}

/// Falls that are remembered: twice as long for each of them is far more than the longest hold by then.
const FALLS_MAX: usize = 64;

impl Judge {
    pub(crate) fn new(check: &Check) -> Self {
        Self {
            level: check.initial,
            successes_before_passing: check.successes_before_passing,
            failures_before_warning: check.failures_before_warning,
            failures_before_critical: check.failures_before_critical,
            hold_down: check.hold_down,
            successes: 0,
            failures: 0,
            falls: Vec::new(),
            well_since: None,
        }
    }

    /// As the check was left, before any result: after a restart, or when it is defined anew.
    pub(crate) fn at(check: &Check, level: Level) -> Self {
        Self { level, ..Self::new(check) }
    }

    pub(crate) const fn level(&self) -> Level {
        self.level
    }

    /// Whether it went up and down too often of late, and how long it is still to pass.
    pub(crate) fn held(&self, now: Time) -> Option<Duration> {
        let hold = self.hold()?;
        let well_for = self.well_since.map_or(Duration::ZERO, |since| now.since(since));
        (self.level == Level::Critical && well_for < hold).then(|| hold - well_for)
    }

    /// Hears a result.
    pub(crate) fn hear(&mut self, now: Time, result: Level) -> Verdict {
        let before = self.level;
        if result == Level::Critical {
            self.fail(now);
        } else {
            self.succeed(now, result);
        }
        Verdict { has_changed: self.level != before, held: self.held(now) }
    }

    /// It said nothing for as long as it may. Gives whether the level is another one than before.
    pub(crate) fn expire(&mut self, now: Time) -> bool {
        let before = self.level;
        self.fall(now);
        self.level != before
    }

    fn fail(&mut self, now: Time) {
        self.successes = 0;
        self.well_since = None;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.failures_before_critical {
            self.fall(now);
        } else if self.failures >= self.failures_before_warning && self.level == Level::Passing {
            self.level = Level::Warning;
        }
    }

    fn fall(&mut self, now: Time) {
        // The first result of a check that begins critical is no fall: it never stood.
        if self.level == Level::Critical {
            return;
        }
        self.level = Level::Critical;
        let Some(hold) = &self.hold_down else { return };
        self.falls.retain(|fall| now.since(*fall) < hold.within);
        if self.falls.len() < FALLS_MAX {
            self.falls.push(now);
        }
    }

    fn succeed(&mut self, now: Time, result: Level) {
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        self.well_since.get_or_insert(now);
        let is_enough = self.successes >= self.successes_before_passing;
        match self.level {
            // Another shade of working needs no proof.
            Level::Passing | Level::Warning => {
                if is_enough || result > self.level {
                    self.level = result;
                }
            }
            Level::Critical if is_enough && self.held(now).is_none() => self.level = result,
            Level::Critical => {}
        }
    }

    /// How long it has to pass without a failure, if it fell too often.
    fn hold(&self) -> Option<Duration> {
        let hold = self.hold_down?;
        let falls = u32::try_from(self.falls.len()).unwrap_or(u32::MAX);
        let too_many = falls.checked_sub(hold.falls.max(1))?;
        Some(hold.first.saturating_mul(1_u32.checked_shl(too_many.min(31)).unwrap_or(u32::MAX)).min(hold.longest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Level::{Critical, Passing, Warning};

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn heard(judge: &mut Judge, results: &[Level]) -> Vec<Level> {
        let hear = |(n, result): (usize, &Level)| {
            judge.hear(at(n as u64), *result);
            judge.level()
        };
        results.iter().enumerate().map(hear).collect()
    }

    #[test]
    fn a_check_is_critical_before_its_first_result_and_believed_at_once() {
        let mut judge = Judge::new(&Check::tcp("h:1"));
        assert_eq!(judge.level(), Critical);
        assert_eq!(
            heard(&mut judge, &[Passing, Critical, Passing, Warning, Passing]),
            [Passing, Critical, Passing, Warning, Passing]
        );
    }

    #[test]
    fn thresholds_are_results_in_a_row_both_ways() {
        let check = Check {
            successes_before_passing: 2,
            failures_before_warning: 2,
            failures_before_critical: 3,
            ..Check::tcp("h:1")
        };
        let mut judge = Judge::new(&check);
        let results = [Passing, Passing, Critical, Critical, Passing, Passing, Critical, Critical, Critical, Passing];
        let levels = [Critical, Passing, Passing, Warning, Warning, Passing, Passing, Warning, Critical, Critical];
        assert_eq!(heard(&mut judge, &results), levels);
    }

    #[test]
    fn a_flapping_check_is_held_down_twice_as_long_each_time() {
        let hold = HoldDown {
            falls: 2,
            within: Duration::from_secs(1_000),
            first: Duration::from_secs(10),
            longest: Duration::from_secs(15),
        };
        let mut judge = Judge::new(&Check { hold_down: Some(hold), ..Check::tcp("h:1") });
        for (second, result) in [(0, Passing), (1, Critical), (2, Passing), (3, Critical)] {
            assert!(judge.hear(at(second), result).has_changed);
        }
        assert_eq!(judge.hear(at(4), Passing).held, Some(Duration::from_secs(10)));
        assert_eq!(judge.hear(at(13), Passing).held, Some(Duration::from_secs(1)));
        // A failure while it is held begins the time anew.
        judge.hear(at(14), Critical);
        assert_eq!(judge.hear(at(15), Passing).held, Some(Duration::from_secs(10)));
        assert!(judge.hear(at(25), Passing).has_changed);
        judge.hear(at(26), Critical);
        assert_eq!(judge.hear(at(27), Passing).held, Some(Duration::from_secs(15)), "20 s, but 15 is the longest");
        // Falls are forgotten.
        judge.hear(at(42), Passing);
        assert_eq!(judge.level(), Passing);
        judge.hear(at(2_000), Critical);
        assert!(judge.hear(at(2_001), Passing).has_changed);
    }

    #[test]
    fn falls_that_are_remembered_are_limited() {
        let hold = HoldDown { first: Duration::from_nanos(1), longest: Duration::from_nanos(1), ..HoldDown::default() };
        let mut judge = Judge::new(&Check { hold_down: Some(hold), ..Check::tcp("h:1") });
        for n in 0..1_000_000 {
            judge.hear(Time::from_nanos(2 * n), if n % 3 == 0 { Critical } else { Passing });
        }
        assert_eq!(judge.falls.len(), FALLS_MAX);
    }

    proptest! {
        #[test]
        fn a_service_that_keeps_passing_is_passing_in_the_end(results in proptest::collection::vec(0..3_u8, 0..200)) {
            let mut judge = Judge::new(&Check::tcp("h:1"));
            let level = |n: u8| [Passing, Warning, Critical][usize::from(n)];
            for (second, result) in results.iter().enumerate() {
                judge.hear(at(second as u64), level(*result));
            }
            for second in 0..=700 {
                judge.hear(at(200 + second), Passing);
            }
            prop_assert_eq!(judge.level(), Passing);
        }
    }
}
