//! How often a thing may be done, or said.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::effect::Warning;
use crate::time::Time;

/// A warning of one kind about one sender is told once in this time.
pub const WARN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Senders that were warned of and are remembered, of all kinds; while there are as many, no warning about another is
/// told. Whoever forges addresses would else fill logs.
pub const WARNED_MAX: usize = 256;

/// A bucket of permissions that fills with time.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: f64,
    at_once: f64,
    per_second: f64,
    from: Time,
}

impl Allowance {
    pub(crate) fn new(per_second: u32, at_once: u32, now: Time) -> Self {
        Self { left: f64::from(at_once), at_once: f64::from(at_once), per_second: f64::from(per_second), from: now }
    }

    /// Whether it is as good as new.
    pub(crate) fn is_full(&self, now: Time) -> bool {
        self.filled(now) >= self.at_once
    }

    fn filled(&self, now: Time) -> f64 {
        (self.left + now.since(self.from).as_secs_f64() * self.per_second).min(self.at_once)
    }

    pub(crate) fn take(&mut self, now: Time) -> bool {
        self.left = self.filled(now);
        self.from = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// Lets one warning of a kind and sender through in [`WARN_AGAIN_AFTER`].
#[derive(Default, Debug)]
pub(crate) struct Warned {
    told: BTreeMap<(u8, SocketAddr), Time>,
}

impl Warned {
    /// Whether to tell `warning`, which is about `from`, now.
    pub(crate) fn may_tell(&mut self, now: Time, from: SocketAddr, warning: &Warning) -> bool {
        let kind = match warning {
            Warning::OtherCluster { .. } => 0,
            Warning::WireVersion { .. } => 1,
            Warning::Key { .. } => 2,
            Warning::DuplicateName { .. } => 3,
            Warning::Cloned { .. } => 4,
            Warning::NoSeedAnswers { .. } | Warning::OlderThanPeers { .. } => 5,
        };
        let about = (kind, from);
        let is_over = |told: &Time| now.since(*told) >= WARN_AGAIN_AFTER;
        if self.told.get(&about).is_some_and(|told| !is_over(told)) {
            return false;
        }
        if self.told.len() >= WARNED_MAX {
            self.told.retain(|_, told| !is_over(told));
        }
        if self.told.len() >= WARNED_MAX {
            return false;
        }
        self.told.insert(about, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tells(warned: &mut Warned, now: Time, port: u16) -> bool {
        let from = SocketAddr::from(([192, 0, 2, 1], port));
        warned.may_tell(now, from, &Warning::OtherCluster { from, theirs: 1, ours: 2 })
    }

    #[test]
    fn a_warning_is_told_once_a_minute_for_each_sender() {
        let mut warned = Warned::default();
        let at = |s| Time::from(Duration::from_secs(s));
        assert!(tells(&mut warned, at(0), 1));
        assert!(!tells(&mut warned, at(59), 1));
        assert!(tells(&mut warned, at(59), 2));
        assert!(tells(&mut warned, at(60), 1));
    }

    #[test]
    fn senders_without_number_cannot_fill_the_log_or_the_memory() {
        let mut warned = Warned::default();
        let told = (0..u16::MAX).filter(|port| tells(&mut warned, Time::ZERO, *port)).count();
        assert_eq!((told, warned.told.len()), (WARNED_MAX, WARNED_MAX));
        assert!(tells(&mut warned, Time::from(WARN_AGAIN_AFTER), 9), "a minute later there is room");
    }
}
