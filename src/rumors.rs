//! News on its way: what is new here is passed on at once, repeated lazily a bounded number of times, and then
//! forgotten. Knows nothing of datagrams, of who is where, or of what the news says.

use std::collections::VecDeque;
use std::time::Duration;

use crate::by_id::grow;
use crate::peer::{Generation, NodeId};
use crate::record::{Key, Owner};
use crate::time::Time;

/// Rumors remembered at once. Beyond, news is still passed on at once, but neither repeated nor recognised when its
/// turn in the tree comes later.
pub const RUMORS_MAX: usize = 4_096;

/// How often each node repeats a rumor on datagrams that it sends anyway.
const LAZY_REPEATS: u8 = 1;

/// How long a rumor is remembered, so that a late copy along the tree is still passed on.
const RUMOR_KEPT: Duration = Duration::from_secs(10);

/// How many waiting repeats are looked at for one datagram.
const REPEATS_LOOKED_AT: usize = 16;

#[derive(Debug)]
struct Rumor<S> {
    subject: S,
    version: u64,
    born: Time,
    /// Whether it was passed on along the tree.
    is_relayed: bool,
    repeats_left: u8,
    /// Whether it waits among the repeats.
    is_waiting: bool,
}

/// What is to be sent at the next flush.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hot<S> {
    /// What it is about.
    pub(crate) subject: S,
    /// The end of the part of the ring that we pass it on to; 0 for none.
    pub(crate) until: u64,
    /// Whether it is new here: then it also goes to the successor and to somebody at random.
    pub(crate) is_new: bool,
}

/// What a rumor may be about.
pub(crate) trait Subject: Clone + Ord {
    /// Some bits of it that differ between most.
    fn head(&self) -> u32;
}

impl Subject for (Owner, Key) {
    fn head(&self) -> u32 {
        (self.0.id.0 >> 32) as u32
    }
}

impl Subject for (NodeId, Generation) {
    fn head(&self) -> u32 {
        (self.0.0 >> 32) as u32
    }
}

/// The queue of news about subjects `S`; of each the latest version.
///
/// While thousands join there are as many rumors in each of them: one is held once, and known by its place elsewhere.
#[derive(Debug)]
pub(crate) struct Rumors<S> {
    rumors: Vec<Option<Rumor<S>>>,
    free: Vec<u32>,
    /// Where they are, in order of their subjects; each beside its subject's head, so that most comparisons touch no
    /// rumor.
    order: Vec<(u32, u32)>,
    by_age: VecDeque<(Time, u32)>,
    hot: Vec<Hot<S>>,
    lazy: VecDeque<u32>,
}

impl<S> Default for Rumors<S> {
    fn default() -> Self {
        Self {
            rumors: Vec::new(),
            free: Vec::new(),
            order: Vec::new(),
            by_age: VecDeque::new(),
            hot: Vec::new(),
            lazy: VecDeque::new(),
        }
    }
}

impl<S: Subject> Rumors<S> {
    /// Something is new here; `until` ends our part of the ring. False if the queue was full, and it is not remembered.
    pub(crate) fn learn(&mut self, subject: S, version: u64, until: u64, now: Time) -> bool {
        self.hot.push(Hot { subject: subject.clone(), until, is_new: true });
        let head = subject.head();
        let found = self.find(&subject);
        if self.len() >= RUMORS_MAX && found.is_err() {
            return false;
        }
        let is_relayed = until != 0;
        let rumor = Rumor { subject, version, born: now, is_relayed, repeats_left: LAZY_REPEATS, is_waiting: true };
        let (place, was_waiting) = match found {
            Ok(index) => {
                let (_, place) = self.order[index];
                (place, self.at(place).is_waiting)
            }
            Err(index) => {
                let place = self.free.pop().unwrap_or_else(|| {
                    grow(&mut self.rumors);
                    self.rumors.push(None);
                    u32::try_from(self.rumors.len() - 1).expect("there are at most RUMORS_MAX")
                });
                grow(&mut self.order);
                self.order.insert(index, (head, place));
                self.by_age.push_back((now, place));
                (place, false)
            }
        };
        self.rumors[place as usize] = Some(rumor);
        if !was_waiting {
            self.lazy.push_back(place);
        }
        true
    }

    /// Known news came again along the tree: if it came aside of the tree before, our part is still to be done.
    pub(crate) fn hear_again(&mut self, subject: &S, version: u64, until: u64) {
        let Ok(index) = self.find(subject) else { return };
        let rumor = self.at_mut(self.order[index].1);
        if until != 0 && rumor.version == version && !rumor.is_relayed {
            rumor.is_relayed = true;
            self.hot.push(Hot { subject: subject.clone(), until, is_new: false });
        }
    }

    /// Whether there is something to flush.
    pub(crate) const fn is_hot(&self) -> bool {
        !self.hot.is_empty()
    }

    /// Takes what is to be sent now.
    pub(crate) fn take_hot(&mut self) -> Vec<Hot<S>> {
        std::mem::take(&mut self.hot)
    }

    /// Offers rumors for a datagram that is sent anyway: `fill` says whether it took one.
    pub(crate) fn repeat(&mut self, mut fill: impl FnMut(&S) -> bool) {
        for _ in 0..REPEATS_LOOKED_AT.min(self.lazy.len()) {
            let Some(place) = self.lazy.pop_front() else { break };
            let rumor = self.at_mut(place);
            rumor.is_waiting = false;
            if rumor.repeats_left == 0 {
                continue;
            }
            // One that does not fit here must not keep the others waiting.
            if fill(&rumor.subject) {
                rumor.repeats_left -= 1;
            }
            if rumor.repeats_left > 0 {
                rumor.is_waiting = true;
                self.lazy.push_back(place);
            }
        }
    }

    /// Forgets what is old.
    pub(crate) fn forget(&mut self, now: Time) {
        let mut gone = Vec::new();
        while let Some(&(queued, place)) = self.by_age.front() {
            if now.since(queued) <= RUMOR_KEPT {
                break;
            }
            self.by_age.pop_front();
            let born = self.at(place).born;
            if now.since(born) <= RUMOR_KEPT {
                // Told anew since: its age counts from then.
                self.by_age.push_back((born, place));
            } else {
                self.rumors[place as usize] = None;
                gone.push(place);
            }
        }
        if gone.is_empty() {
            return;
        }
        let rumors = &self.rumors;
        let is_left = |place: u32| rumors[place as usize].is_some();
        self.order.retain(|&(_, place)| is_left(place));
        self.lazy.retain(|&place| is_left(place));
        self.free.append(&mut gone);
        if self.order.is_empty() {
            // A join of thousands would else be paid for in memory ever after.
            let hot = std::mem::take(&mut self.hot);
            *self = Self { hot, ..Self::default() };
        }
    }

    /// What is remembered, the latest first, `count` at most.
    pub(crate) fn recent(&self, count: usize) -> Vec<&S> {
        // Not by the queue: what was told anew keeps its place there.
        let mut recent: Vec<_> = self.rumors.iter().flatten().map(|rumor| (rumor.born, &rumor.subject)).collect();
        let latest_first = |one: &(Time, &S), other: &(Time, &S)| other.cmp(one);
        if recent.len() > count {
            recent.select_nth_unstable_by(count, latest_first);
            recent.truncate(count);
        }
        recent.sort_unstable_by(latest_first);
        recent.into_iter().map(|(_, subject)| subject).collect()
    }

    /// Rumors that wait for a repeat; never more than are remembered.
    pub(crate) fn waiting_len(&self) -> usize {
        self.lazy.len()
    }

    /// Rumors remembered.
    pub(crate) const fn len(&self) -> usize {
        self.order.len()
    }

    /// The index in the order of a subject, or the one where it would be.
    fn find(&self, subject: &S) -> Result<usize, usize> {
        let head = subject.head();
        self.order
            .binary_search_by(|&(other, place)| other.cmp(&head).then_with(|| self.at(place).subject.cmp(subject)))
    }

    fn at(&self, place: u32) -> &Rumor<S> {
        self.rumors[place as usize].as_ref().expect("only those that are there are listed anywhere")
    }

    fn at_mut(&mut self, place: u32) -> &mut Rumor<S> {
        self.rumors[place as usize].as_mut().expect("only those that are there are listed anywhere")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Subject for &'static str {
        fn head(&self) -> u32 {
            0
        }
    }

    impl Subject for String {
        fn head(&self) -> u32 {
            self.len() as u32
        }
    }

    #[test]
    fn news_is_hot_once_and_repeated_once() {
        let mut rumors = Rumors::default();
        assert!(rumors.learn("a", 1, 0, Time::ZERO));
        assert_eq!(rumors.take_hot().len(), 1);
        assert!(!rumors.is_hot());
        let mut told = 0;
        for _ in 0..3 {
            rumors.repeat(|_| {
                told += 1;
                true
            });
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn what_was_told_anew_is_the_latest() {
        let mut rumors = Rumors::default();
        for (at, subject) in ["a", "b", "c", "a"].into_iter().enumerate() {
            rumors.learn(subject, at as u64, 0, Time::from_nanos(at as u64));
        }
        assert_eq!(rumors.recent(9), [&"a", &"c", &"b"]);
        assert_eq!(rumors.recent(2), [&"a", &"c"]);
        assert_eq!(rumors.recent(0), [&""; 0]);
    }

    #[test]
    fn a_repeat_that_does_not_fit_waits_for_the_next_datagram() {
        let mut rumors = Rumors::default();
        rumors.learn("a", 1, 0, Time::ZERO);
        rumors.repeat(|_| false);
        let mut told = 0;
        rumors.repeat(|_| {
            told += 1;
            true
        });
        assert_eq!(told, 1);
    }

    #[test]
    fn a_record_that_changes_all_the_time_waits_once() {
        let mut rumors = Rumors::default();
        for version in 1..10_000 {
            rumors.learn("a", version, 0, Time::from_nanos(version * 1_000_000));
            rumors.forget(Time::from_nanos(version * 1_000_000));
        }
        assert_eq!((rumors.len(), rumors.waiting_len(), rumors.by_age.len()), (1, 1, 1));
        rumors.forget(Time::from_nanos(30_000_000_000));
        assert_eq!((rumors.len(), rumors.waiting_len(), rumors.by_age.len()), (0, 0, 0));
    }

    #[test]
    fn a_repeat_that_never_fits_keeps_nobody_waiting() {
        let mut rumors = Rumors::default();
        rumors.learn("large", 1, 0, Time::ZERO);
        rumors.learn("small", 2, 0, Time::ZERO);
        let mut told = Vec::new();
        rumors.repeat(|key| {
            told.push(key.to_string());
            *key == "small"
        });
        assert!(told.contains(&"small".to_string()));
    }

    #[test]
    fn our_part_of_the_tree_is_done_once_whichever_copy_comes_first() {
        let mut rumors = Rumors::default();
        rumors.learn("a", 1, 0, Time::ZERO);
        rumors.take_hot();
        rumors.hear_again(&"a", 1, 77);
        rumors.hear_again(&"a", 1, 77);
        let hot = rumors.take_hot();
        assert_eq!(hot, [Hot { subject: "a", until: 77, is_new: false }]);
    }

    #[test]
    fn an_old_rumor_is_forgotten_and_a_newer_version_lives_on() {
        let mut rumors = Rumors::default();
        rumors.learn("a", 1, 0, Time::ZERO);
        let later = Time::ZERO + RUMOR_KEPT;
        rumors.learn("a", 2, 0, later);
        rumors.forget(later + Duration::from_secs(1));
        assert_eq!(rumors.len(), 1);
        rumors.forget(later + RUMOR_KEPT + Duration::from_secs(1));
        assert_eq!(rumors.len(), 0);
    }

    #[test]
    fn a_full_queue_still_passes_news_on() {
        let mut rumors = Rumors::default();
        for n in 0..RUMORS_MAX {
            assert!(rumors.learn(n.to_string(), 1, 0, Time::ZERO));
        }
        rumors.take_hot();
        assert!(!rumors.learn("one more".to_string(), 1, 0, Time::ZERO));
        assert!(rumors.is_hot());
        assert_eq!(rumors.len(), RUMORS_MAX);
    }
}
