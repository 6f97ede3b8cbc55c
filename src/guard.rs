//! The guard against mass drops: tells the loss of a few instances from that of nearly all at once, which is likelier
//! our own blindness. Plain counting; knows nothing of members or of who reads.

use std::time::Duration;

use crate::time::Time;

/// Losses within this time are losses at once.
pub const DROP_WINDOW: Duration = Duration::from_secs(30);

/// So many must be lost at once: a single instance that crashes is believed to have crashed.
pub const DROP_LEAST: usize = 2;

/// And this part of all that were there, in percent.
pub const DROP_PERCENT: usize = 50;

/// The guard holds until no more than this part is lost, in percent.
pub const DROP_OVER_PERCENT: usize = 25;

/// What is seen of one instance, over time.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sight {
    was_healthy: bool,
    lost_at: Option<Time>,
}

/// What is seen of an instance now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// It gets calls.
    Healthy,
    /// It serves, as far as its owner said; the owner does not answer.
    Silent,
    /// Its owner took it out. That is its good right, and no loss.
    Out,
}

/// Counts what is seen of a service's instances at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Count {
    healthy: usize,
    /// Lost without a word, and not back.
    lost: usize,
    /// Of these, the ones lost within [`DROP_WINDOW`].
    at_once: usize,
}

impl Count {
    /// Takes in one instance.
    pub fn take(&mut self, now: Time, sight: &mut Sight, look: Look) {
        match look {
            Look::Healthy => {
                *sight = Sight { was_healthy: true, lost_at: None };
                self.healthy += 1;
            }
            // One that never was healthy here is not lost: we just heard of it.
            Look::Silent if sight.was_healthy || sight.lost_at.is_some() => {
                let lost_at = *sight.lost_at.get_or_insert(now);
                sight.was_healthy = false;
                self.lost += 1;
                self.at_once += usize::from(now.since(lost_at) <= DROP_WINDOW);
            }
            Look::Silent | Look::Out => *sight = Sight::default(),
        }
    }

    /// Instances lost without a word, and not back.
    pub fn lost(self) -> usize {
        self.lost
    }

    /// Instances that get calls.
    pub fn healthy(self) -> usize {
        self.healthy
    }

    /// Whether the guard is on after this, given whether it was before.
    pub fn trips(self, was_on: bool) -> bool {
        let all = self.healthy + self.at_once;
        let drops = self.at_once >= DROP_LEAST && self.at_once * 100 >= DROP_PERCENT * all;
        let lasts = self.lost >= DROP_LEAST && self.lost * 100 > DROP_OVER_PERCENT * (self.healthy + self.lost);
        drops || was_on && lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at instances once a moment, and keeps what is seen.
    struct Watcher {
        sights: Vec<Sight>,
        is_on: bool,
    }

    impl Watcher {
        fn of(healthy: usize) -> Self {
            let mut watcher = Self { sights: vec![Sight::default(); healthy], is_on: false };
            watcher.look(0, &vec![Look::Healthy; healthy]);
            watcher
        }

        fn look(&mut self, secs: u64, looks: &[Look]) -> bool {
            let now = Time::ZERO + Duration::from_secs(secs);
            let mut count = Count::default();
            self.sights.resize(looks.len(), Sight::default());
            for (sight, look) in self.sights.iter_mut().zip(looks) {
                count.take(now, sight, *look);
            }
            self.is_on = count.trips(self.is_on);
            self.is_on
        }
    }

    fn looks(healthy: usize, silent: usize, out: usize) -> Vec<Look> {
        [vec![Look::Healthy; healthy], vec![Look::Silent; silent], vec![Look::Out; out]].concat()
    }

    #[test]
    fn three_quarters_lost_at_once_is_a_mass_drop_until_they_are_back() {
        let mut watcher = Watcher::of(20);
        assert!(!watcher.look(1, &looks(15, 5, 0)));
        assert!(watcher.look(2, &looks(5, 15, 0)));
        assert!(watcher.look(600, &looks(5, 15, 0)), "time alone proves nothing");
        assert!(watcher.look(601, &looks(14, 6, 0)));
        assert!(!watcher.look(602, &looks(15, 5, 0)));
    }

    #[test]
    fn what_goes_on_purpose_is_no_loss() {
        let mut watcher = Watcher::of(20);
        assert!(!watcher.look(1, &looks(5, 0, 15)));
        assert!(!watcher.look(2, &looks(0, 0, 20)));
        assert!(!watcher.look(3, &[]));
    }

    #[test]
    fn losses_that_come_slowly_are_believed() {
        let mut watcher = Watcher::of(20);
        for lost in 1..=20 {
            assert!(!watcher.look(lost as u64 * 31, &looks(20 - lost, lost, 0)), "{lost}");
        }
    }

    #[test]
    fn one_of_one_that_is_lost_has_crashed_and_what_was_never_seen_is_not_lost() {
        let mut watcher = Watcher::of(1);
        assert!(!watcher.look(1, &looks(0, 1, 0)));
        let mut stranger = Watcher::of(0);
        assert!(!stranger.look(1, &looks(0, 20, 0)));
    }
}
