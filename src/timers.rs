//! What is due when: a queue in which equal deadlines have an order. Knows nothing of what it holds.

use std::collections::BTreeMap;

use crate::time::Time;

/// Deadlines and what is due at them.
///
/// Ordered by deadline, then by rank (foca demands an order among equal deadlines), then by age.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    due: BTreeMap<(Time, u8, u64), T>,
    armed: u64,
}

impl<T> Timers<T> {
    pub(crate) const fn new() -> Self {
        Self { due: BTreeMap::new(), armed: 0 }
    }

    /// Arms `what` for `at`; among equal deadlines the lower rank comes first.
    pub(crate) fn arm(&mut self, at: Time, rank: u8, what: T) {
        self.armed += 1;
        self.due.insert((at, rank, self.armed), what);
    }

    /// Takes the first that is due by `now`.
    pub(crate) fn pop(&mut self, now: Time) -> Option<T> {
        let (at, _, _) = *self.due.first_key_value()?.0;
        if at > now { None } else { self.due.pop_first().map(|(_, what)| what) }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Time> {
        self.due.first_key_value().map(|((at, _, _), _)| *at)
    }

    /// How many are armed.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_deadlines_fire_by_rank_then_by_age() {
        let mut timers = Timers::new();
        let at = Time::from_nanos(10);
        timers.arm(at, 1, "second");
        timers.arm(at, 1, "third");
        timers.arm(at, 0, "first");
        timers.arm(Time::from_nanos(20), 0, "later");
        let fired: Vec<_> = std::iter::from_fn(|| timers.pop(at)).collect();
        assert_eq!(fired, ["first", "second", "third"]);
        assert_eq!(timers.next(), Some(Time::from_nanos(20)));
        assert_eq!(timers.len(), 1);
    }
}
