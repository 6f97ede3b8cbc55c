//! One machine for all processes of a world: they wait for its processors and for its timers. Knows nothing of nodes.

use std::time::Duration;

use rand::{Rng, RngExt};
use tidings::time::Time;

/// What it costs that many processes share a machine.
///
/// Work is done in the order in which it comes, by whichever processor is free first. A real scheduler takes turns;
/// for work this short that moves who waits, and hardly how long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// How much is done at the same time; at least 1.
    pub processors: usize,
    /// For a shell to start a process, on one processor.
    pub spawn: Duration,
    /// From then until the process's node runs, on one processor.
    pub start: Duration,
    /// To wake a process and let its node take in one input, on one processor.
    pub input: Duration,
    /// To seal a datagram and hand it to the system, on one processor.
    pub send: Duration,
    /// For a program to take in an event and say so, or to ask its node for something, on one processor.
    pub tell: Duration,
    /// For both sides of a handshake, on one processor.
    pub handshake: Duration,
    /// A timer is up to this late, evenly drawn.
    pub lateness: Duration,
    /// How many connections others may have opened to one process.
    pub inbound_max: usize,
    /// How long one of these must be idle before it is closed for a newcomer; if none is, the newcomer is refused.
    pub inbound_idle_min: Duration,
}

/// The processors of a [`Machine`] while a world runs.
#[derive(Debug)]
pub(super) struct Processors {
    pub(super) machine: Machine,
    /// When each will be free.
    free_at: Vec<Time>,
}

impl Processors {
    /// # Panics
    /// If there are none.
    pub(super) fn new(machine: Machine) -> Self {
        assert!(machine.processors > 0, "a machine needs a processor");
        Self { free_at: vec![Time::ZERO; machine.processors], machine }
    }

    /// Puts `work` that comes now behind all that waits; gives when it is done.
    pub(super) fn occupy(&mut self, now: Time, work: Duration) -> Time {
        let first = self.free_at.iter_mut().min().expect("there is one, or new had panicked");
        *first = (*first).max(now) + work;
        *first
    }

    /// How late the next timer is.
    pub(super) fn lateness(&self, rng: &mut impl Rng) -> Duration {
        rng.random_range(Duration::ZERO..=self.machine.lateness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Preset;

    #[test]
    fn work_waits_for_the_first_free_processor() {
        let us = Duration::from_micros;
        let machine = Preset::Loopback.machine().expect("processes share it");
        assert_eq!(machine.processors, 2);
        let mut processors = Processors::new(machine);
        let begin = Time::ZERO + us(100);
        let done: Vec<Duration> = [40, 10, 10, 10].map(|work| processors.occupy(begin, us(work)).since(begin)).to_vec();
        // The second processor does the three short ones, one after another, while the first is at the long one.
        assert_eq!(done, [40, 10, 20, 30].map(us));
        // Idle time is not saved up.
        assert_eq!(processors.occupy(begin + us(200), us(5)).since(begin), us(205));
    }
}
