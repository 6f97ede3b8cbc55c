//! The one place here that reads a clock: everything else is told the time.
//!
//! Each call reads it twice, which was a third of what a call costs. So, where the kernel trusts the processor's own
//! counter, that is read directly: a quarter of the time of asking through the kernel's page.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::time::Time;

/// A monotonic clock, common to the process: tells how long ago the first one was started.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Clock;

/// When the first clock was started.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// The processor's counter, once it is known how fast it counts.
static COUNTER: OnceLock<Counter> = OnceLock::new();

#[derive(Debug)]
struct Counter {
    clock: quanta::Clock,
    /// What it showed when `nanos` had gone by since the origin.
    shown: u64,
    nanos: u64,
}

impl Clock {
    /// The clock; the first of the process starts it.
    pub fn start() -> Self {
        if ORIGIN.set(instant()).is_ok() && is_counter_trusted() {
            // Counting against the other clock takes some milliseconds, for which no caller shall wait. Without a
            // thread to spare, it goes on as it began.
            let _ = std::thread::Builder::new().name("tidings-clock".to_owned()).spawn(calibrate);
        }
        Self
    }

    /// The time now. Never zero, which means "never".
    ///
    /// Two threads may see it some nanoseconds apart; differences are right to a part in ten thousand.
    pub fn now(self) -> Time {
        match COUNTER.get() {
            Some(Counter { clock, shown, nanos }) => {
                Time::from_nanos(nanos + clock.delta_as_nanos(*shown, clock.raw()) + 1)
            }
            None => Time::from_nanos(1) + since_origin(),
        }
    }
}

fn calibrate() {
    let clock = quanta::Clock::new();
    // In this order: whatever comes between the two lets the clock leap ahead a little, and never go back.
    let (shown, nanos) = (clock.raw(), since_origin().as_nanos() as u64);
    // Nobody else sets it: only the first clock starts this.
    let _ = COUNTER.set(Counter { clock, shown, nanos });
}

fn since_origin() -> Duration {
    ORIGIN.get().map_or(Duration::ZERO, Instant::elapsed)
}

/// Whether the processor's counter goes on evenly, on all cores and in sleep. Processors claim it; Linux watches them
/// and takes another clock where one does not keep its word, as happens on virtual machines that moved.
fn is_counter_trusted() -> bool {
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    !cfg!(target_os = "linux")
        || std::fs::read_to_string(SOURCE).is_ok_and(|name| matches!(name.trim(), "tsc" | "arch_sys_counter"))
}

#[expect(clippy::disallowed_methods, reason = "a program that makes calls lives in real time; tests tell it instead")]
fn instant() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads until the counter is in use, for a second at most, and a while longer.
    #[test]
    fn the_clock_goes_forward_at_its_pace_while_it_changes_to_the_counter() {
        let clock = Clock::start();
        let (start, first) = (instant(), clock.now());
        assert!(first > Time::ZERO);
        let mut before = first;
        let mut last = start;
        let mut counted = 0;
        while counted < 10_000 && start.elapsed() < Duration::from_secs(1) {
            counted += u32::from(COUNTER.get().is_some());
            let now = clock.now();
            assert!(now >= before, "{now:?} after {before:?}");
            before = now;
            last = instant();
        }
        let (told, real) = (before.since(first).as_secs_f64(), (last - start).as_secs_f64());
        // What the other clock counts of our own reading is the rest.
        assert!((told - real).abs() < 1e-3 + real * 1e-3, "{told} told, {real} gone by");
        if !is_counter_trusted() {
            assert_eq!(counted, 0);
        }
    }
}
