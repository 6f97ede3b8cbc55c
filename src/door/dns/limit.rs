//! Who asks too much: answers a second for each network, in bounded memory. Knows no clock.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Networks that are told apart; further ones share the place of another, and its limit.
pub const PREFIXES_MAX: usize = 16_384;

/// Answers a second over UDP to each network off loopback, unless said otherwise.
pub const RATE_DEFAULT: u32 = 1_000;

const SECOND: u64 = 1_000_000_000;

/// The network of an address: what one party can have all addresses of, at the least.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72).into(),
    }
}

/// Lets so many a second through for each network, and a second's worth at once: the generic cell rate algorithm, with
/// one number for each place, which several threads share without a lock.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Of each place, when what was let through will have been paid for, in nanoseconds.
    paid_at: Box<[AtomicU64]>,
    /// Seeded for this process, so that nobody can choose whose place to share.
    hash: RandomState,
    each: u64,
    turn: AtomicU64,
}

impl Limiter {
    /// For this many a second; `None` for any number.
    pub(super) fn new(rate: u32) -> Option<Self> {
        let each = SECOND.checked_div(u64::from(rate))?.max(1);
        let paid_at = (0..PREFIXES_MAX).map(|_| AtomicU64::new(0)).collect();
        Some(Self { paid_at, hash: RandomState::new(), each, turn: AtomicU64::new(0) })
    }

    /// Whether one more is within the limit, at `now` in nanoseconds since whenever.
    pub(super) fn admits(&self, ip: IpAddr, now: u64) -> bool {
        let place = &self.paid_at[self.hash.hash_one(network(ip)) as usize % PREFIXES_MAX];
        let pay = |paid_at: u64| {
            let next = paid_at.max(now) + self.each;
            (next - now <= SECOND.max(self.each)).then_some(next)
        };
        place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }

    /// Whether this one of those over the limit is told so: every second one. A client that meant it then asks over
    /// TCP, which whoever lies about where it is cannot.
    pub(super) fn tells(&self) -> bool {
        self.turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_gets_its_rate_and_others_are_not_held_up_by_it() {
        let limiter = Limiter::new(100).expect("there is a limit");
        let admitted = |from: &str, now: u64| (0..1_000).filter(|_| limiter.admits(ip(from), now)).count();
        let start = 50 * SECOND;
        assert_eq!(admitted("192.0.2.1", start), 100, "a second's worth at once");
        assert_eq!(admitted("192.0.2.200", start), 0, "it is the same network");
        // Two of 16,384 places are the same once in 16,384 runs; ten in a row never.
        let others = (0..10).map(|n| admitted(&format!("198.51.{n}.1"), start));
        assert!(others.filter(|count| *count == 100).count() >= 9);
        assert_eq!(admitted("192.0.2.1", start + SECOND / 2), 50, "half a second later");
    }

    #[test]
    fn networks_are_24_bits_of_the_old_addresses_and_56_of_the_new() {
        assert_eq!(network(ip("192.0.2.77")), ip("192.0.2.0"));
        assert_eq!(network(ip("::ffff:192.0.2.77")), ip("192.0.2.0"));
        assert_eq!(network(ip("2001:db8:1:2ff:3::4")), ip("2001:db8:1:200::"));
    }

    #[test]
    fn without_a_rate_there_is_no_limit_and_the_highest_rate_is_one_too() {
        assert!(Limiter::new(0).is_none());
        assert!(Limiter::new(u32::MAX).expect("a limit").admits(ip("192.0.2.1"), 0));
    }

    #[test]
    fn every_second_one_over_the_limit_is_told() {
        let limiter = Limiter::new(1).expect("there is a limit");
        assert_eq!((0..10).filter(|_| limiter.tells()).count(), 5);
    }
}
