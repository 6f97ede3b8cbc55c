//! The one place here that reads a clock: everything else is told the time.

use std::time::Instant;

use crate::time::Time;

/// A monotonic clock: tells how long ago it was made. Copies tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "a program that makes calls lives in real time; tests tell it instead"
    )]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The time now. Never zero, which means "never".
    pub fn now(&self) -> Time {
        Time::from_nanos(1) + self.origin.elapsed()
    }
}
