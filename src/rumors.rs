//! News on its way: what is new here is passed on at once, repeated lazily a bounded number of times, and then
//! forgotten. Knows nothing of datagrams, of who is where, or of what the news is about.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

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
struct Rumor {
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

/// The queue of news about subjects `S`; of each the latest version.
#[derive(Debug)]
pub(crate) struct Rumors<S> {
    rumors: BTreeMap<S, Rumor>,
    by_age: VecDeque<(Time, S)>,
    hot: Vec<Hot<S>>,
    lazy: VecDeque<S>,
}

impl<S> Default for Rumors<S> {
    fn default() -> Self {
        Self { rumors: BTreeMap::new(), by_age: VecDeque::new(), hot: Vec::new(), lazy: VecDeque::new() }
    }
}

impl<S: Clone + Ord> Rumors<S> {
    /// Something is new here; `until` ends our part of the ring. False if the queue was full, and it is not remembered.
    pub(crate) fn learn(&mut self, subject: S, version: u64, until: u64, now: Time) -> bool {
        self.hot.push(Hot { subject: subject.clone(), until, is_new: true });
        if self.rumors.len() >= RUMORS_MAX && !self.rumors.contains_key(&subject) {
            return false;
        }
        let before = self.rumors.get(&subject);
        let is_waiting = before.is_some_and(|rumor| rumor.is_waiting);
        if before.is_none() {
            self.by_age.push_back((now, subject.clone()));
        }
        if !is_waiting {
            self.lazy.push_back(subject.clone());
        }
        let is_relayed = until != 0;
        let rumor = Rumor { version, born: now, is_relayed, repeats_left: LAZY_REPEATS, is_waiting: true };
        self.rumors.insert(subject, rumor);
        true
    }

    /// Known news came again along the tree: if it came aside of the tree before, our part is still to be done.
    pub(crate) fn hear_again(&mut self, subject: &S, version: u64, until: u64) {
        let Some(rumor) = self.rumors.get_mut(subject) else { return };
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
            let Some(subject) = self.lazy.pop_front() else { break };
            let Some(rumor) = self.rumors.get_mut(&subject) else { continue };
            rumor.is_waiting = false;
            if rumor.repeats_left == 0 {
                continue;
            }
            // One that does not fit here must not keep the others waiting.
            if fill(&subject) {
                rumor.repeats_left -= 1;
            }
            if rumor.repeats_left > 0 {
                rumor.is_waiting = true;
                self.lazy.push_back(subject);
            }
        }
    }

    /// Forgets what is old.
    pub(crate) fn forget(&mut self, now: Time) {
        let before = self.rumors.len();
        while let Some((born, _)) = self.by_age.front() {
            if now.since(*born) <= RUMOR_KEPT {
                break;
            }
            let (_, subject) = self.by_age.pop_front().expect("just looked at");
            match self.rumors.get(&subject) {
                // Told anew since: its age counts from then.
                Some(rumor) if now.since(rumor.born) <= RUMOR_KEPT => {
                    self.by_age.push_back((rumor.born, subject));
                }
                _ => {
                    self.rumors.remove(&subject);
                }
            }
        }
        if self.rumors.len() < before {
            let rumors = &self.rumors;
            self.lazy.retain(|subject| rumors.contains_key(subject));
        }
        if self.rumors.is_empty() {
            // A join of thousands would else be paid for in memory ever after.
            (self.by_age, self.lazy) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// What is remembered, the latest first, `count` at most.
    pub(crate) fn recent(&self, count: usize) -> Vec<&S> {
        // Not by the queue: what was told anew keeps its place there.
        let mut recent: Vec<_> = self.rumors.iter().map(|(subject, rumor)| (rumor.born, subject)).collect();
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
    pub(crate) fn len(&self) -> usize {
        self.rumors.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
