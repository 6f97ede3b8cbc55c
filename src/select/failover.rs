//! Failover: when a call that failed is tried at another instance, as plain values that are told the time.
//!
//! A call is tried again only if that does no harm: it may be made twice, or the instance did certainly nothing. Never
//! at the same instance, never past the deadline, and only while the budget lasts: when a service as a whole fails,
//! trying everything three times is what keeps it down.
//!
//! With feature `net`, [`run`](super::run) makes the calls.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::eject::Outcome;
use super::picker::Call;
use crate::time::Time;

/// How often, how fast and for how long a call is tried.
///
/// ```
/// use std::time::Duration;
/// use tidings::select::failover::{Backoff, Failover};
///
/// let failover = Failover {
///     deadline: Some(Duration::from_secs(2)),
///     per_try: Some(Duration::from_millis(500)),
///     ..Failover::default()
/// };
/// assert!(failover.check().is_ok());
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Failover {
    /// The most instances that are tried, the first one and a hedge included: 1 to [`Call::TRIES_MAX`]. Default 3.
    pub tries_max: usize,
    /// How long the whole call may take, waiting included. Default: as long as it takes.
    pub deadline: Option<Duration>,
    /// How long one try may take; one that takes longer counts as failed. Default: as long as it takes.
    pub per_try: Option<Duration>,
    /// How long to wait before the next try.
    pub backoff: Backoff,
    /// After how long without an answer a call that may be made twice is made at a second instance beside the first;
    /// whoever answers first wins. Default: never.
    pub hedge_after: Option<Duration>,
}

/// How long to wait before a try: a random part of a time that doubles with each ("full jitter": callers that failed
/// together do not come back together).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The most before the second try. A refusal is not waited for: that instance did nothing, and another gets the
    /// call.
    pub first: Duration,
    /// The most before any try.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(25), max: Duration::from_secs(1) }
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self { tries_max: 3, deadline: None, per_try: None, backoff: Backoff::default(), hedge_after: None }
    }
}

/// A setting of [`Failover`] or [`Budget`] that makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailoverError {
    /// No try at all, or more than a call remembers.
    #[error("{tries} tries, 1 to {limit} are possible", limit = Call::TRIES_MAX)]
    Tries {
        /// How many.
        tries: usize,
    },
    /// A time that must not be zero.
    #[error("{what} is zero")]
    Zero {
        /// Which setting.
        what: &'static str,
    },
    /// A share above the whole.
    #[error("a budget of {percent} percent, the limit is 100")]
    Percent {
        /// The share.
        percent: u32,
    },
}

impl Failover {
    /// A single try, which is what a call gets that no instance but one may ever see.
    pub fn none() -> Self {
        Self { tries_max: 1, ..Self::default() }
    }

    /// Whether the settings make sense.
    ///
    /// # Errors
    /// The first that does not, see [`FailoverError`].
    pub fn check(&self) -> Result<(), FailoverError> {
        if !(1..=Call::TRIES_MAX).contains(&self.tries_max) {
            return Err(FailoverError::Tries { tries: self.tries_max });
        }
        let times = [("deadline", self.deadline), ("per_try", self.per_try), ("hedge_after", self.hedge_after)];
        match times.into_iter().find(|(_, time)| *time == Some(Duration::ZERO)) {
            Some((what, _)) => Err(FailoverError::Zero { what }),
            None => Ok(()),
        }
    }

    /// The tries of one call, which begins now. The budget gets its deposit.
    pub fn begin(&self, call: Call, may_repeat: bool, budget: &Budget, now: Time) -> Tries {
        budget.deposit(now);
        Tries { failover: *self, call, may_repeat, began: now }
    }
}

/// How far one call is.
#[derive(Clone, Debug)]
pub struct Tries {
    failover: Failover,
    call: Call,
    may_repeat: bool,
    began: Time,
}

/// What to do after a try failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Wait so long, and try another instance.
    TryAfter(Duration),
    /// Tell the caller.
    GiveUp(GiveUp),
}

/// Why a call is not tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GiveUp {
    /// It may have done something, and must not be done twice.
    #[error("it must not be made twice")]
    NotRepeatable,
    /// It was tried as often as it may.
    #[error("it was tried as often as it may be")]
    Tries,
    /// Its time is over, or would be before the next try.
    #[error("the deadline is over")]
    Deadline,
    /// Too many calls are tried again already.
    #[error("the retry budget is used up")]
    Budget,
}

impl Tries {
    /// The call, which knows the instances that were tried: give it to [`Picker::pick_for`](super::Picker::pick_for).
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// Notes that an instance is being tried.
    pub fn trying(&mut self, token: u64) {
        self.call.tried(token);
    }

    /// What to do after the try at an instance ended like this, which was not a success. `random` is 64 random bits.
    pub fn next(&self, outcome: Outcome, budget: &Budget, now: Time, random: u64) -> Next {
        if !self.may_repeat && !outcome.did_nothing() {
            return Next::GiveUp(GiveUp::NotRepeatable);
        }
        if self.call.tries() >= self.failover.tries_max {
            return Next::GiveUp(GiveUp::Tries);
        }
        let wait = if outcome == Outcome::Refused { Duration::ZERO } else { self.backoff(random) };
        if self.time_left(now).is_some_and(|left| left <= wait) {
            return Next::GiveUp(GiveUp::Deadline);
        }
        if !budget.withdraw(now) {
            return Next::GiveUp(GiveUp::Budget);
        }
        Next::TryAfter(wait)
    }

    /// Whether the call is made at a second instance now, since the first has not answered for
    /// [`Failover::hedge_after`]. Pays for it.
    pub fn may_hedge(&self, budget: &Budget, now: Time) -> bool {
        self.hedge_after().is_some() && self.time_left(now) != Some(Duration::ZERO) && budget.withdraw(now)
    }

    /// How long to wait for an answer before asking [`may_hedge`](Self::may_hedge); `None` if that is no use.
    pub fn hedge_after(&self) -> Option<Duration> {
        self.failover.hedge_after.filter(|_| self.may_repeat && self.call.tries() < self.failover.tries_max)
    }

    /// How long one try may take now, by its own limit and by the deadline; `None` for as long as it takes.
    pub fn try_for(&self, now: Time) -> Option<Duration> {
        match (self.failover.per_try, self.time_left(now)) {
            (Some(per_try), Some(left)) => Some(per_try.min(left)),
            (per_try, left) => per_try.or(left),
        }
    }

    fn time_left(&self, now: Time) -> Option<Duration> {
        let deadline = self.failover.deadline?;
        Some(deadline.saturating_sub(now.since(self.began)))
    }

    fn backoff(&self, random: u64) -> Duration {
        let Backoff { first, max } = self.failover.backoff;
        let doublings = u32::try_from(self.call.tries().saturating_sub(1)).unwrap_or(u32::MAX).min(31);
        let most = first.saturating_mul(1 << doublings).min(max);
        most.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// How many calls may be tried again, shared by all calls to a service: a part of the calls made, and a few a second
/// that are always free, so that a caller with little to do is not left without. After Finagle's retry budget.
///
/// Unused tries are kept for ten seconds' worth, no longer.
#[derive(Debug)]
pub struct Budget {
    /// What a call adds: a try costs [`TRY`].
    per_call: u64,
    /// What a second adds.
    per_second: u64,
    /// In parts of a try.
    balance: AtomicU64,
    limit: u64,
    /// When the last second's worth was added.
    filled: AtomicU64,
    refused: AtomicU64,
}

/// What a try costs, so that a hundredth of one can be counted.
const TRY: u64 = 100;

/// The most seconds' worth of free tries that are kept.
const KEPT_SECONDS: u64 = 10;

/// The most tries kept of those that calls paid in.
const KEPT_PAID: u64 = 100;

impl Default for Budget {
    /// A fifth of the calls, and ten a second: Finagle's default.
    fn default() -> Self {
        Self::new(20, 10).expect("20 percent is within the limit")
    }
}

impl Budget {
    /// A budget of `percent` of the calls and `per_second` tries a second.
    ///
    /// # Errors
    /// [`FailoverError::Percent`] above 100.
    pub fn new(percent: u32, per_second: u32) -> Result<Self, FailoverError> {
        if percent > 100 {
            return Err(FailoverError::Percent { percent });
        }
        let per_second = u64::from(per_second) * TRY;
        Ok(Self {
            per_call: u64::from(percent),
            per_second,
            balance: AtomicU64::new(per_second),
            limit: per_second * KEPT_SECONDS + KEPT_PAID * TRY,
            filled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// How many tries are left now.
    pub fn left(&self) -> u64 {
        self.balance.load(Relaxed) / TRY
    }

    /// How many tries were refused because nothing was left.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn deposit(&self, now: Time) {
        self.fill(now);
        self.add(self.per_call);
    }

    fn withdraw(&self, now: Time) -> bool {
        self.fill(now);
        let paid = self.balance.fetch_update(Relaxed, Relaxed, |balance| balance.checked_sub(TRY)).is_ok();
        if !paid {
            self.refused.fetch_add(1, Relaxed);
        }
        paid
    }

    /// Adds what the time since the last time brings, in whole parts: of two threads one adds it.
    fn fill(&self, now: Time) {
        let filled = self.filled.load(Relaxed);
        if filled == 0 {
            let _ = self.filled.compare_exchange(0, now.as_nanos().max(1), Relaxed, Relaxed);
            return;
        }
        let since = now.since(Time::from_nanos(filled));
        let due = (since.as_nanos() * u128::from(self.per_second) / 1_000_000_000).min(u128::from(self.limit)) as u64;
        if due > 0 && self.filled.compare_exchange(filled, now.as_nanos(), Relaxed, Relaxed).is_ok() {
            self.add(due);
        }
    }

    fn add(&self, parts: u64) {
        // Never fails: the closure always gives a balance.
        let _ = self.balance.fetch_update(Relaxed, Relaxed, |balance| Some((balance + parts).min(self.limit)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = 1 << 63;

    fn at(millis: u64) -> Time {
        Time::from_nanos(1) + Duration::from_millis(millis)
    }

    fn tries(failover: &Failover, may_repeat: bool, budget: &Budget) -> Tries {
        let mut tries = failover.begin(Call::new(), may_repeat, budget, at(0));
        tries.trying(1);
        tries
    }

    #[test]
    fn what_must_not_be_made_twice_is_tried_again_only_if_nothing_was_done() {
        let budget = Budget::default();
        let once = tries(&Failover::default(), false, &budget);
        assert_eq!(once.next(Outcome::Failed, &budget, at(1), HALF), Next::GiveUp(GiveUp::NotRepeatable));
        assert_eq!(once.next(Outcome::Refused, &budget, at(1), HALF), Next::TryAfter(Duration::ZERO));
        assert!(matches!(once.next(Outcome::TurnedAway, &budget, at(1), HALF), Next::TryAfter(_)));
        assert_eq!(once.hedge_after(), None);
    }

    #[test]
    fn the_wait_doubles_up_to_its_most_and_a_random_part_of_it_is_waited() {
        let budget = Budget::default();
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_millis(300) };
        let failover = Failover { tries_max: 8, backoff, ..Failover::default() };
        let mut tries = tries(&failover, true, &budget);
        for most in [100, 200, 300, 300] {
            let next = tries.next(Outcome::Failed, &budget, at(1), HALF);
            assert_eq!(next, Next::TryAfter(Duration::from_millis(most / 2)));
            tries.trying(2);
        }
        let Next::TryAfter(longest) = tries.next(Outcome::Failed, &budget, at(1), u64::MAX) else {
            panic!("it goes on")
        };
        assert!(longest <= backoff.max);
    }

    #[test]
    fn a_call_ends_at_its_tries_and_at_its_deadline() {
        let budget = Budget::default();
        let failover = Failover { deadline: Some(Duration::from_millis(100)), tries_max: 2, ..Failover::default() };
        let mut tries = tries(&failover, true, &budget);
        assert_eq!(tries.try_for(at(40)), Some(Duration::from_millis(60)));
        assert_eq!(tries.next(Outcome::Refused, &budget, at(100), 0), Next::GiveUp(GiveUp::Deadline));
        // A wait that ends after the deadline is not begun.
        assert_eq!(tries.next(Outcome::Failed, &budget, at(80), u64::MAX), Next::GiveUp(GiveUp::Deadline));
        tries.trying(2);
        assert_eq!(tries.next(Outcome::Refused, &budget, at(50), 0), Next::GiveUp(GiveUp::Tries));
        let per_try = Failover { per_try: Some(Duration::from_millis(10)), ..failover };
        let tries = per_try.begin(Call::new(), true, &budget, at(0));
        assert_eq!([at(0), at(95)].map(|now| tries.try_for(now).unwrap().as_millis()), [10, 5]);
    }

    #[test]
    fn a_service_that_fails_as_a_whole_gets_a_fifth_more_calls_and_no_more() {
        let budget = Budget::new(20, 10).unwrap();
        let mut retries = 0_u64;
        // 1,000 calls a second for 100 seconds, of which each fails as often as it is tried.
        for call in 0..100_000 {
            let now = at(call);
            let mut tries = Failover::default().begin(Call::new(), true, &budget, now);
            tries.trying(1);
            while let Next::TryAfter(_) = tries.next(Outcome::Failed, &budget, now, 0) {
                retries += 1;
                tries.trying(1);
            }
        }
        // A fifth of the calls, ten a second, and what was there at first.
        assert!((20_900..=21_010).contains(&retries), "{retries}");
        assert!(budget.refused() > 0);
    }

    #[test]
    fn a_budget_keeps_ten_seconds_worth_and_a_hundred_tries() {
        let budget = Budget::new(0, 10).unwrap();
        budget.deposit(at(0));
        budget.deposit(at(3_600_000));
        assert_eq!(budget.left(), 200);
        let paid = Budget::new(100, 0).unwrap();
        (0..10_000).for_each(|_| paid.deposit(at(1)));
        assert_eq!(paid.left(), 100);
        let slow = Budget::new(0, 1).unwrap();
        // Asked all the time, it still fills.
        let withdrawn = (0..10_000).filter(|millis| slow.withdraw(at(*millis))).count();
        assert!((10..=11).contains(&withdrawn), "{withdrawn}");
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let tries = |tries_max| Failover { tries_max, ..Failover::default() }.check();
        assert_eq!(tries(0), Err(FailoverError::Tries { tries: 0 }));
        assert_eq!(tries(9).unwrap_err().to_string(), "9 tries, 1 to 8 are possible");
        let zero = Failover { per_try: Some(Duration::ZERO), ..Failover::default() };
        assert_eq!(zero.check(), Err(FailoverError::Zero { what: "per_try" }));
        assert!(Budget::new(101, 0).is_err());
        assert!(Failover::none().check().is_ok());
    }
}
