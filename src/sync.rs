//! Anti-entropy: when to compare with somebody, and who is to tell whom what, so that the cost follows the difference.
//! Rumors are finite, so this is what makes views equal in the end. Knows nothing of how answers travel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::peer::NodeId;
use crate::table::{Table, record_bytes};
use crate::time::Time;
use crate::wire::{Delta, Digest, Want};

/// After a fingerprint differed, how long news under way gets to arrive before the other is asked again.
const SETTLE: Duration = Duration::from_millis(100);

/// How often the other is asked for its fingerprints again before it is left alone.
const ECHOES: u8 = 4;

/// How long after a sync the next may begin: the least, and the most after syncs that brought nothing.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a watermark may stand below a gap.
pub(crate) const GAP_MAX: Duration = Duration::from_secs(1);

/// How often a sync is made without a reason, salted anew, in case two fingerprints are equal by chance.
const BACKSTOP_EVERY: Duration = Duration::from_secs(300);

/// Bytes of records in one question or answer; the frame's limit leaves room for the rest.
pub(crate) const DELTA_BYTES_MAX: usize = 1024 * 1024;

/// Questions of one sync, at most.
pub(crate) const ROUNDS_MAX: u8 = 64;

/// A difference that was seen and may be news under way.
#[derive(Debug)]
struct Difference {
    with: NodeId,
    echoes: u8,
    echo_at: Time,
}

/// What to do about a fingerprint or a deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Ask this member for its fingerprints.
    Echo(NodeId),
    /// Compare with this member.
    Compare(NodeId),
    /// Compare with anybody, under this salt.
    Backstop(u64),
}

/// When to compare with somebody.
#[derive(Debug)]
pub(crate) struct Sync {
    difference: Option<Difference>,
    not_before: Time,
    pause: Duration,
    backstop_at: Time,
    is_running: bool,
}

impl Sync {
    pub(crate) fn new(now: Time, rng: &mut Xoshiro256PlusPlus) -> Self {
        let backstop_at = now + BACKSTOP_EVERY.mul_f64(rng.random_range(0.5..1.5));
        Self { difference: None, not_before: now, pause: PAUSE_MIN, backstop_at, is_running: false }
    }

    /// A member's fingerprints came in and equal ours, or not.
    pub(crate) fn observe(&mut self, now: Time, with: NodeId, is_equal: bool) -> Option<Step> {
        match &mut self.difference {
            Some(seen) if seen.with == with => {
                if is_equal {
                    self.difference = None;
                } else if seen.echoes > 0 && self.may_begin(now) {
                    self.difference = None;
                    return Some(Step::Compare(with));
                }
                None
            }
            Some(_) => None,
            None if is_equal => None,
            None => {
                self.difference = Some(Difference { with, echoes: 0, echo_at: now + SETTLE });
                None
            }
        }
    }

    /// What is due by itself.
    pub(crate) fn due(&mut self, now: Time, rng: &mut Xoshiro256PlusPlus) -> Option<Step> {
        if now >= self.backstop_at {
            self.backstop_at = now + BACKSTOP_EVERY.mul_f64(rng.random_range(0.5..1.5));
            return self.may_begin(now).then(|| Step::Backstop(rng.random_range(1..=u64::MAX)));
        }
        let not_before = self.not_before;
        let is_running = self.is_running;
        let seen = self.difference.as_mut()?;
        if now < seen.echo_at || is_running {
            return None;
        }
        if seen.echoes >= ECHOES {
            self.difference = None;
            return None;
        }
        seen.echoes += 1;
        seen.echo_at = (now + SETTLE * 2).max(not_before);
        Some(Step::Echo(seen.with))
    }

    /// When something is due by itself.
    pub(crate) fn next_wake(&self) -> Time {
        match &self.difference {
            Some(seen) if !self.is_running => seen.echo_at.min(self.backstop_at),
            _ => self.backstop_at,
        }
    }

    /// Whether a sync may begin now.
    pub(crate) fn may_begin(&self, now: Time) -> bool {
        !self.is_running && now >= self.not_before
    }

    /// A sync began.
    pub(crate) fn begin(&mut self) {
        self.is_running = true;
    }

    /// The sync ended; `brought` says whether anything was new to anybody.
    pub(crate) fn end(&mut self, now: Time, brought: bool, rng: &mut Xoshiro256PlusPlus) {
        self.is_running = false;
        self.pause = if brought { PAUSE_MIN } else { (self.pause * 2).min(PAUSE_MAX) };
        self.not_before = now + self.pause.mul_f64(rng.random_range(0.75..1.25));
    }

    /// Members answer and agree: the next difference is a new one.
    pub(crate) fn agree(&mut self) {
        self.pause = PAUSE_MIN;
    }
}

/// What two sides are to tell each other.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// What we want to know.
    pub(crate) want: Vec<Want>,
    /// What we tell.
    pub(crate) give: Vec<Delta>,
    /// Owners of which both sides believe to know all, and do not know the same: only the owner can tell.
    pub(crate) disputed: Vec<Want>,
}

/// Who is to tell whom what, given the other's digests of owners in `buckets`. `is_welcome` judges whether we want to
/// hear of an owner at all.
pub(crate) fn exchange(
    table: &Table,
    theirs: &[Digest],
    buckets: &BTreeSet<u8>,
    salt: u64,
    is_welcome: impl Fn(&Digest) -> bool,
) -> Exchange {
    let theirs: BTreeMap<_, _> = theirs.iter().map(|digest| (digest.owner.id, digest)).collect();
    let mut exchange = Exchange::default();
    let mut room = DELTA_BYTES_MAX;
    let mut give = |exchange: &mut Exchange, id, epoch, since, whole| {
        if room == 0 {
            return;
        }
        if let Some(delta) = table.delta(id, epoch, since, whole, room) {
            room = room.saturating_sub(delta_bytes(&delta));
            exchange.give.push(delta);
        }
    };
    for (&id, digest) in &theirs {
        let Some(ours) = table.digest(id, salt).filter(|ours| ours.owner.epoch >= digest.owner.epoch) else {
            if is_welcome(digest) {
                exchange.want.push(Want { id, epoch: digest.owner.epoch, since: 0, whole: true });
            }
            continue;
        };
        let epoch = digest.owner.epoch;
        if ours.owner.epoch > epoch {
            give(&mut exchange, id, epoch, 0, true);
            continue;
        }
        let is_ahead = |a: &Digest, b: &Digest| a.watermark > b.watermark || a.highest > b.highest;
        let (they_lead, we_lead) = (is_ahead(digest, &ours), is_ahead(&ours, digest));
        if they_lead {
            exchange.want.push(Want { id, epoch, since: ours.watermark, whole: false });
        }
        if we_lead {
            give(&mut exchange, id, epoch, digest.watermark, false);
        }
        if !they_lead && !we_lead && ours.sum != digest.sum {
            exchange.disputed.push(Want { id, epoch, since: 0, whole: true });
        }
    }
    for ours in table.digests(0, |bucket| buckets.contains(&bucket)) {
        if !theirs.contains_key(&ours.owner.id) {
            give(&mut exchange, ours.owner.id, ours.owner.epoch, 0, true);
        }
    }
    exchange
}

/// About how many bytes a delta takes.
pub(crate) fn delta_bytes(delta: &Delta) -> usize {
    32 + delta.records.iter().map(record_bytes).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::SeedableRng;

    use super::*;
    use crate::record::Owner;
    use crate::wire::{Body, Record};

    fn rng() -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(1)
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn news_under_way_does_not_start_a_sync() {
        let mut sync = Sync::new(Time::ZERO, &mut rng());
        assert_eq!(sync.observe(at(1), NodeId(1), false), None);
        assert_eq!(sync.due(at(50), &mut rng()), None);
        assert_eq!(sync.observe(at(60), NodeId(1), true), None);
        assert_eq!(sync.due(at(200), &mut rng()), None);
    }

    #[test]
    fn a_difference_that_lasts_starts_one() {
        let mut sync = Sync::new(Time::ZERO, &mut rng());
        sync.observe(at(1), NodeId(1), false);
        assert_eq!(sync.next_wake(), at(101));
        assert_eq!(sync.due(at(101), &mut rng()), Some(Step::Echo(NodeId(1))));
        assert_eq!(sync.observe(at(102), NodeId(2), false), None, "somebody else's");
        assert_eq!(sync.observe(at(103), NodeId(1), false), Some(Step::Compare(NodeId(1))));
    }

    #[test]
    fn a_member_that_does_not_answer_is_left_alone() {
        let mut sync = Sync::new(Time::ZERO, &mut rng());
        sync.observe(at(1), NodeId(1), false);
        let echoes = (1..50).filter(|n| sync.due(at(n * 100 + 1), &mut rng()).is_some()).count();
        assert_eq!(echoes, usize::from(ECHOES));
        assert_eq!(sync.next_wake(), sync.backstop_at);
    }

    #[test]
    fn syncs_that_bring_nothing_become_rare() {
        let mut sync = Sync::new(Time::ZERO, &mut rng());
        let mut now = Time::ZERO;
        let mut syncs = 0;
        while now < at(60_000) {
            now = now + Duration::from_millis(20);
            if sync.may_begin(now) {
                sync.begin();
                sync.end(now, false, &mut rng());
                syncs += 1;
            }
        }
        assert!((10..25).contains(&syncs), "{syncs}");
    }

    fn table(records: &[(u64, u64)]) -> Table {
        let mut table = Table::new();
        for &(owner, version) in records {
            let owner = Owner { id: NodeId(owner), epoch: 1 };
            table.begin(owner);
            table.set_counted(owner.id, true);
            let key = format!("k{version}");
            let body = Body::Live(Bytes::from_static(&[99]));
            table.merge(&Record { owner, key: key.as_str().into(), version, body }, Time::ZERO);
        }
        table
    }

    #[test]
    fn each_side_tells_what_the_other_lacks_and_no_more() {
        let ours = table(&[(1, 1), (1, 2), (2, 1), (3, 1)]);
        let theirs = table(&[(1, 1), (2, 1), (2, 2), (4, 1)]);
        let all: BTreeSet<_> = (0..=255).collect();
        let found = exchange(&ours, &theirs.digests(0, |_| true), &all, 0, |_| true);
        let wants: Vec<_> = found.want.iter().map(|want| (want.id.0, want.since)).collect();
        assert_eq!(wants, [(2, 1), (4, 0)]);
        let gives: Vec<_> = found.give.iter().map(|delta| (delta.owner.id.0, delta.records.len())).collect();
        assert_eq!(gives, [(1, 1), (3, 1)]);
    }

    #[test]
    fn what_both_believe_to_know_whole_is_left_to_the_owner() {
        let ours = table(&[(1, 1), (1, 2)]);
        let mut theirs = table(&[(1, 2)]);
        theirs.complete(Owner { id: NodeId(1), epoch: 1 }, 2);
        let all: BTreeSet<_> = (0..=255).collect();
        let found = exchange(&ours, &theirs.digests(0, |_| true), &all, 0, |_| true);
        assert!(found.want.is_empty() && found.give.is_empty());
        assert_eq!(found.disputed, [Want { id: NodeId(1), epoch: 1, since: 0, whole: true }]);
    }

    #[test]
    fn an_owner_that_is_not_welcome_is_not_asked_for() {
        let theirs = table(&[(4, 1)]);
        let found = exchange(&Table::new(), &theirs.digests(0, |_| true), &BTreeSet::new(), 0, |_| false);
        assert!(found.want.is_empty());
    }
}
