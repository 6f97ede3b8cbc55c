//! An instance as a picker sees it: what it offers, and what was seen of it in calls from here.
//!
//! What is seen lives as long as the instance is known, however often its record changes, and goes with it: it is kept
//! by [`Place`], never by name, address or position.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::eject::Ejector;
use super::hash::{decay, pair_hash, place_hash};
use super::selector::Selector;
use crate::peer::{Epoch, NodeId};
use crate::record::{Endpoint, Key};
use crate::time::Time;
use crate::view::Offered;

/// How fast estimates of latency forget: Finagle's default.
pub(super) const LATENCY_DECAY_NANOS: f64 = 10e9;

/// Which instance, of which start of which member. A restarted process offers other instances than before, even under
/// the same ids: what was known of its connections, load and failures means nothing any more.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The member.
    pub owner: NodeId,
    /// Its start.
    pub epoch: Epoch,
    /// The instance's id within the member.
    pub id: Key,
}

impl Place {
    /// The place of an instance.
    pub fn of(offered: &Offered) -> Self {
        let peer = &offered.member.peer;
        Self { owner: peer.id, epoch: peer.epoch(), id: offered.instance.id.clone() }
    }

    /// 64 bits that stand for it, in a cookie for example: see [`Call::to`](super::Call::to).
    pub fn token(&self) -> u64 {
        pair_hash(pair_hash(self.owner.0, self.epoch), super::key_hash(self.id.as_str().as_bytes()))
    }
}

/// An instance that may get a call.
// What a choice looks at stands first, beside the count of references: among thousands of instances, each further line
// of the cache costs more than the choice itself.
#[derive(Debug)]
#[repr(C)]
pub struct Candidate {
    pub(super) vitals: Arc<Vitals>,
    /// The mean weight of the candidates by its own: how much one pending call of it counts.
    pub(super) share: f64,
    pub(super) ejector: Arc<Ejector>,
    token: u64,
    hash: u64,
    is_stale: bool,
    /// Of the port that the selector names.
    port: Option<u16>,
    offered: Offered,
}

impl Candidate {
    pub(super) fn new(
        offered: &Offered,
        vitals: &Arc<Vitals>,
        share: f64,
        selector: &Selector,
        with: &Arc<Ejector>,
    ) -> Self {
        Self {
            offered: offered.clone(),
            token: Place::of(offered).token(),
            hash: place_hash(&offered.member.name, offered.instance.id.as_str()),
            is_stale: !offered.is_healthy(),
            port: selector.named_port(offered),
            vitals: Arc::clone(vitals),
            share,
            ejector: Arc::clone(with),
        }
    }

    /// The instance and its member.
    pub fn offered(&self) -> &Offered {
        &self.offered
    }

    /// Where to call it: at the port that the picker's selector names, if it names one.
    pub fn address(&self) -> Endpoint {
        let Endpoint { host, port } = &self.offered.instance.address;
        Endpoint { host: host.clone(), port: self.port.unwrap_or(*port) }
    }

    /// Its share of the calls beside the others'; more than 0.
    pub fn weight(&self) -> u32 {
        self.offered.instance.weight
    }

    /// Whether it is only the last known good: its member does not answer, but too few others are left.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// 64 bits that stand for it: see [`Place::token`].
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Its hash, the same at every member and after a restart: for choosing by key.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Calls from here that it has not answered yet.
    pub fn pending(&self) -> u32 {
        self.vitals.pending()
    }

    /// How long its calls take of late; `None` before the first answer.
    pub fn latency(&self) -> Option<Duration> {
        match self.vitals.latency() {
            0.0 => None,
            nanos => Some(Duration::from_nanos(nanos as u64)),
        }
    }
}

/// What calls from here showed of an instance.
///
/// Every field is an atomic of its own and none is read together with another: a reader may see a call counted whose
/// latency is not, which moves an estimate by one call and decides nothing.
// What every call touches stands first, in one line of the cache.
#[derive(Default, Debug)]
#[repr(C, align(64))]
pub(super) struct Vitals {
    /// Calls: those pending below [`Self::PENDING_BITS`], and above all there ever were. One number, so that to count
    /// both costs a call no more than to count one.
    calls: AtomicU64,
    /// Failures since the last success.
    pub(super) failures: AtomicU32,
    /// A moving mean that jumps to every peak, in nanoseconds, as bits of an `f64`; 0 before the first answer.
    latency: AtomicU64,
    /// When the last answer came.
    answered: AtomicU64,
    /// Answers in this interval: all in the lower half, successes in the upper one.
    pub(super) tally: AtomicU64,
    /// 0: it gets calls. Otherwise it is ejected, and may be probed from this time on.
    pub(super) gate: AtomicU64,
    /// When it was ejected.
    pub(super) ejected: AtomicU64,
    /// When a call went out that decides whether it comes back; 0: none is out.
    pub(super) probed: AtomicU64,
    /// How often it was ejected of late.
    pub(super) times: AtomicU32,
    /// Why it is ejected; a [`Cause`](super::eject::Cause) as number.
    pub(super) cause: AtomicU32,
    /// When its member was last heard, first looked at a while after the ejection; 0 before that.
    pub(super) heard: AtomicU64,
    /// Since when it is among the healthy; 0: since before we looked.
    pub(super) since: AtomicU64,
    /// Where smooth weighted round robin stands with it; an `i64`.
    pub(super) turn: AtomicU64,
}

impl Vitals {
    /// 16 million calls that wait for one instance at once are more than a process has memory for.
    const PENDING_BITS: u32 = 24;

    pub(super) fn begin_call(&self) {
        self.calls.fetch_add(1 | 1 << Self::PENDING_BITS, Relaxed);
    }

    pub(super) fn end_call(&self) {
        self.calls.fetch_sub(1, Relaxed);
    }

    pub(super) fn pending(&self) -> u32 {
        (self.calls.load(Relaxed) & ((1 << Self::PENDING_BITS) - 1)) as u32
    }

    /// How often it was chosen, ever.
    pub(super) fn picked(&self) -> u64 {
        self.calls.load(Relaxed) >> Self::PENDING_BITS
    }

    pub(super) fn latency(&self) -> f64 {
        f64::from_bits(self.latency.load(Relaxed))
    }

    /// The latency to expect now: an estimate that nobody refreshed for longer than `tau` falls, so that an instance
    /// that was slow once is tried again. One in use does not: else every answer would make its instance look worse
    /// than the idle ones.
    pub(super) fn latency_at(&self, now: Time, tau: f64) -> f64 {
        let idle = now.as_nanos().saturating_sub(self.answered.load(Relaxed)) as f64;
        let latency = self.latency();
        if idle <= tau { latency } else { latency * decay(idle / tau - 1.0) }
    }

    /// Takes in how long an answer took. Two at the same moment may lose one of them: it is an estimate.
    pub(super) fn observe(&self, nanos: f64, now: Time, tau: f64) {
        let before = self.latency();
        let since = now.as_nanos().saturating_sub(self.answered.load(Relaxed)) as f64;
        self.answered.store(now.as_nanos(), Relaxed);
        let keep = if nanos >= before { 0.0 } else { decay(since / tau) };
        // Not zero, which means that nothing was measured.
        let after = (before * keep + nanos * (1.0 - keep)).max(1.0);
        self.latency.store(after.to_bits(), Relaxed);
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.gate.load(Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAU: f64 = 10e9;

    fn at(seconds: f64) -> Time {
        Time::from_nanos((seconds * 1e9) as u64)
    }

    #[test]
    fn a_call_that_ends_stays_counted_and_is_no_longer_pending() {
        let vitals = Vitals::default();
        (0..3).for_each(|_| vitals.begin_call());
        vitals.end_call();
        assert_eq!((vitals.pending(), vitals.picked()), (2, 3));
    }

    #[test]
    fn an_estimate_jumps_to_a_peak_and_comes_down_slowly() {
        let vitals = Vitals::default();
        vitals.observe(1e6, at(1.0), TAU);
        assert_eq!(vitals.latency(), 1e6);
        vitals.observe(50e6, at(1.1), TAU);
        assert_eq!(vitals.latency(), 50e6);
        vitals.observe(1e6, at(1.2), TAU);
        assert!((48e6..50e6).contains(&vitals.latency()));
        for step in 0..1_000 {
            vitals.observe(1e6, at(1.3 + f64::from(step) * 0.1), TAU);
        }
        assert!((1e6..1.1e6).contains(&vitals.latency()), "{}", vitals.latency());
    }

    #[test]
    fn an_estimate_falls_only_while_nobody_refreshes_it() {
        let vitals = Vitals::default();
        vitals.observe(50e6, at(1.0), TAU);
        assert_eq!(vitals.latency_at(at(10.9), TAU), 50e6);
        assert!(vitals.latency_at(at(31.0), TAU) < 10e6);
    }

    #[test]
    fn a_restart_is_another_place_with_the_same_hash() {
        let place = |epoch| Place { owner: NodeId(1), epoch, id: Key::from("web") };
        assert_ne!(place(1).token(), place(2).token());
        assert_eq!(place_hash("a", "web"), place_hash("a", "web"));
    }
}
