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
        let rumor = Rumor { version, born: now, is_relayed: until != 0, repeats_left: LAZY_REPEATS };
        // One entry of each queue is enough, however often a key changes: or one that changes without end would make
        // them grow without end.
        let before = self.rumors.insert(subject.clone(), rumor);
        if before.as_ref().is_none_or(|before| before.repeats_left == 0) {
            self.lazy.push_back((owner, key.clone()));
        }
        if before.is_none() {
            self.by_age.push_back((now, subject));
        }
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

    /// Puts back what was taken.
    pub(crate) fn put_back(&mut self, hot: Vec<Hot>) {
        self.hot.splice(0..0, hot);
    }

    /// Offers rumors for a datagram that is sent anyway: `fill` says whether it took one.
    pub(crate) fn repeat(&mut self, mut fill: impl FnMut(Owner, &Key) -> bool) {
        for _ in 0..REPEATS_LOOKED_AT.min(self.lazy.len()) {
            let Some((owner, key)) = self.lazy.pop_front() else { break };
            let Some(rumor) = self.rumors.get_mut(&(owner.id, key.clone())) else { continue };
            if rumor.repeats_left == 0 {
                continue;
            }
            if !fill(owner, &key) {
                self.lazy.push_front((owner, key));
                break;
            }
            rumor.repeats_left -= 1;
            if rumor.repeats_left > 0 {
                self.lazy.push_back((owner, key));
            }
        }
    }

    /// Forgets what is old.
    pub(crate) fn forget(&mut self, now: Time) {
        for _ in 0..self.by_age.len() {
            if self.by_age.front().is_none_or(|(seen, _)| now.since(*seen) <= RUMOR_KEPT) {
                break;
            }
            let Some((_, subject)) = self.by_age.pop_front() else { break };
            let Some(rumor) = self.rumors.get(&subject) else { continue };
            if now.since(rumor.born) > RUMOR_KEPT {
                self.rumors.remove(&subject);
            } else {
                // It was renewed. Younger ones may stand before it now: it is kept for at most twice as long.
                let born = rumor.born;
                self.by_age.push_back((born, subject));
            }
        }
        let rumors = &self.rumors;
        self.lazy.retain(|(owner, key)| rumors.contains_key(&(owner.id, key.clone())));
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
