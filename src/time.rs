//! Time as the core knows it: a number that whoever runs the node hands in. No clock is read here.

use std::ops::Add;
use std::time::Duration;

/// A moment, in nanoseconds since an origin that whoever runs the node chooses (its start, or the start of a
/// simulation).
///
/// Moments of two nodes cannot be compared. A node is never told an earlier moment than before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin; 584 years fit.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates at the end of time.
    fn add(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl From<Duration> for Time {
    fn from(since_origin: Duration) -> Self {
        Self::ZERO + since_origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_never_negative_and_never_overflows() {
        let early = Time::from_nanos(5);
        let late = Time::from_nanos(9);
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late + Duration::MAX, Time::from_nanos(u64::MAX));
    }
}
