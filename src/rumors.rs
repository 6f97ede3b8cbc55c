//! News on its way: each record that is new here is passed on at once, repeated lazily a bounded number of times, and
//! then forgotten. Knows nothing of datagrams or of who is where.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::peer::NodeId;
use crate::record::{Key, Owner, Version};
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

/// Which record a rumor is about.
pub(crate) type Subject = (NodeId, Key);

#[derive(Debug)]
struct Rumor {
    version: Version,
    born: Time,
    /// Whether it was passed on along the tree.
    is_relayed: bool,
    repeats_left: u8,
    /// Whether it waits among the repeats.
    is_waiting: bool,
}

/// What is to be sent at the next flush.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hot {
    pub(crate) owner: Owner,
    pub(crate) key: Key,
    /// The end of the part of the ring that we pass it on to; 0 for none.
    pub(crate) until: u64,
    /// Whether it is new here: then it also goes to the successor and to somebody at random.
    pub(crate) is_new: bool,
}

/// The queue of news.
#[derive(Debug, Default)]
pub(crate) struct Rumors {
    rumors: BTreeMap<Subject, Rumor>,
    by_age: VecDeque<(Time, Subject)>,
    hot: Vec<Hot>,
    lazy: VecDeque<(Owner, Key)>,
}

impl Rumors {
    /// A record is new here; `until` ends our part of the ring. False if the queue was full, and it is not remembered.
    pub(crate) fn learn(&mut self, owner: Owner, key: &Key, version: Version, until: u64, now: Time) -> bool {
        self.hot.push(Hot { owner, key: key.clone(), until, is_new: true });
        let subject = (owner.id, key.clone());
        if self.rumors.len() >= RUMORS_MAX && !self.rumors.contains_key(&subject) {
            return false;
        }
        let before = self.rumors.get(&subject);
        let is_waiting = before.is_some_and(|rumor| rumor.is_waiting);
        if before.is_none() {
            self.by_age.push_back((now, subject.clone()));
        }
        if !is_waiting {
            self.lazy.push_back((owner, key.clone()));
        }
        let is_relayed = until != 0;
        let rumor = Rumor { version, born: now, is_relayed, repeats_left: LAZY_REPEATS, is_waiting: true };
        self.rumors.insert(subject, rumor);
        true
    }

    /// A known record came again along the tree: if it came aside of the tree before, our part is still to be done.
    pub(crate) fn hear_again(&mut self, owner: Owner, key: &Key, version: Version, until: u64) {
        let Some(rumor) = self.rumors.get_mut(&(owner.id, key.clone())) else { return };
        if until != 0 && rumor.version == version && !rumor.is_relayed {
            rumor.is_relayed = true;
            self.hot.push(Hot { owner, key: key.clone(), until, is_new: false });
        }
    }

    /// Whether there is something to flush.
    pub(crate) const fn is_hot(&self) -> bool {
        !self.hot.is_empty()
    }

    /// Takes what is to be sent now.
    pub(crate) fn take_hot(&mut self) -> Vec<Hot> {
        std::mem::take(&mut self.hot)
    }

    /// Offers rumors for a datagram that is sent anyway: `fill` says whether it took one.
    pub(crate) fn repeat(&mut self, mut fill: impl FnMut(Owner, &Key) -> bool) {
        for _ in 0..REPEATS_LOOKED_AT.min(self.lazy.len()) {
            let Some((owner, key)) = self.lazy.pop_front() else { break };
            let Some(rumor) = self.rumors.get_mut(&(owner.id, key.clone())) else { continue };
            rumor.is_waiting = false;
            if rumor.repeats_left == 0 {
                continue;
            }
            // One that does not fit here must not keep the others waiting.
            if fill(owner, &key) {
                rumor.repeats_left -= 1;
            }
            if rumor.repeats_left > 0 {
                rumor.is_waiting = true;
                self.lazy.push_back((owner, key));
            }
        }
    }

    /// Forgets what is old.
    pub(crate) fn forget(&mut self, now: Time) {
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
        let rumors = &self.rumors;
        self.lazy.retain(|(owner, key)| rumors.contains_key(&(owner.id, key.clone())));
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

    const OWNER: Owner = Owner { id: NodeId(1), epoch: 1 };

    #[test]
    fn news_is_hot_once_and_repeated_once() {
        let mut rumors = Rumors::default();
        assert!(rumors.learn(OWNER, &"a".into(), 1, 0, Time::ZERO));
        assert_eq!(rumors.take_hot().len(), 1);
        assert!(!rumors.is_hot());
        let mut told = 0;
        for _ in 0..3 {
            rumors.repeat(|_, _| {
                told += 1;
                true
            });
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn a_repeat_that_does_not_fit_waits_for_the_next_datagram() {
        let mut rumors = Rumors::default();
        rumors.learn(OWNER, &"a".into(), 1, 0, Time::ZERO);
        rumors.repeat(|_, _| false);
        let mut told = 0;
        rumors.repeat(|_, _| {
            told += 1;
            true
        });
        assert_eq!(told, 1);
    }

    #[test]
    fn a_record_that_changes_all_the_time_waits_once() {
        let mut rumors = Rumors::default();
        for version in 1..10_000 {
            rumors.learn(OWNER, &"a".into(), version, 0, Time::from_nanos(version * 1_000_000));
            rumors.forget(Time::from_nanos(version * 1_000_000));
        }
        assert_eq!((rumors.len(), rumors.waiting_len(), rumors.by_age.len()), (1, 1, 1));
        rumors.forget(Time::from_nanos(30_000_000_000));
        assert_eq!((rumors.len(), rumors.waiting_len(), rumors.by_age.len()), (0, 0, 0));
    }

    #[test]
    fn a_repeat_that_never_fits_keeps_nobody_waiting() {
        let mut rumors = Rumors::default();
        rumors.learn(OWNER, &"large".into(), 1, 0, Time::ZERO);
        rumors.learn(OWNER, &"small".into(), 2, 0, Time::ZERO);
        let mut told = Vec::new();
        rumors.repeat(|_, key| {
            told.push(key.to_string());
            key.as_str() == "small"
        });
        assert!(told.contains(&"small".to_string()));
    }

    #[test]
    fn our_part_of_the_tree_is_done_once_whichever_copy_comes_first() {
        let mut rumors = Rumors::default();
        rumors.learn(OWNER, &"a".into(), 1, 0, Time::ZERO);
        rumors.take_hot();
        rumors.hear_again(OWNER, &"a".into(), 1, 77);
        rumors.hear_again(OWNER, &"a".into(), 1, 77);
        let hot = rumors.take_hot();
        assert_eq!(hot, [Hot { owner: OWNER, key: "a".into(), until: 77, is_new: false }]);
    }

    #[test]
    fn an_old_rumor_is_forgotten_and_a_newer_version_lives_on() {
        let mut rumors = Rumors::default();
        rumors.learn(OWNER, &"a".into(), 1, 0, Time::ZERO);
        let later = Time::ZERO + RUMOR_KEPT;
        rumors.learn(OWNER, &"a".into(), 2, 0, later);
        rumors.forget(later + Duration::from_secs(1));
        assert_eq!(rumors.len(), 1);
        rumors.forget(later + RUMOR_KEPT + Duration::from_secs(1));
        assert_eq!(rumors.len(), 0);
    }

    #[test]
    fn a_full_queue_still_passes_news_on() {
        let mut rumors = Rumors::default();
        for n in 0..RUMORS_MAX {
            assert!(rumors.learn(OWNER, &n.to_string().as_str().into(), 1, 0, Time::ZERO));
        }
        rumors.take_hot();
        assert!(!rumors.learn(OWNER, &"one more".into(), 1, 0, Time::ZERO));
        assert!(rumors.is_hot());
        assert_eq!(rumors.len(), RUMORS_MAX);
    }
}
