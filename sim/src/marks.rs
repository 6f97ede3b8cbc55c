//! Who counted whom out, and back in, how often and for how long: what a faulty member does to the views of the others.
//! Knows events, and which hosts a fault befell; changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidings::time::Time;

use crate::watch::Start;
use crate::world::HostIndex;

/// Marks kept one by one; further ones are only counted.
const MARKS_MAX: usize = 2_000_000;

/// How long changes of one subject count together.
const MINUTE: Duration = Duration::from_secs(60);

/// After its fault began, how long a faulty member may go unmarked.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Time,
    observer: HostIndex,
    is_out: bool,
}

/// Every change of mind.
#[derive(Default, Debug)]
pub struct Marks {
    by_subject: BTreeMap<Start, (HostIndex, Vec<Mark>)>,
    /// The moments at which each observer told its program of somebody out.
    told: BTreeMap<HostIndex, BTreeSet<Time>>,
    /// When each observer told its program of each subject that it is not reachable: suspect, or worse.
    avoided: BTreeMap<(HostIndex, HostIndex), Vec<Time>>,
    kept: usize,
}

impl Marks {
    pub(crate) fn note(&mut self, at: Time, observer: HostIndex, (about, subject): (Start, HostIndex), is_out: bool) {
        if self.kept >= MARKS_MAX {
            return;
        }
        self.kept += 1;
        if is_out {
            self.told.entry(observer).or_default().insert(at);
        }
        let (_, marks) = self.by_subject.entry(about).or_insert((subject, Vec::new()));
        marks.push(Mark { at, observer, is_out });
    }

    pub(crate) fn note_avoided(&mut self, at: Time, observer: HostIndex, subject: HostIndex) {
        if self.kept < MARKS_MAX {
            self.kept += 1;
            self.avoided.entry((observer, subject)).or_default().push(at);
        }
    }

    /// How long after `begin` an observer told its program that a subject gets no calls; `None` if not by `end`.
    pub fn avoided_after(
        &self,
        observer: HostIndex,
        subject: HostIndex,
        (begin, end): (Time, Time),
    ) -> Option<Duration> {
        let times = self.avoided.get(&(observer, subject))?;
        times.iter().find(|at| (begin..=end).contains(*at)).map(|at| at.since(begin))
    }

    /// How often, from `begin` to `end`, hosts told their programs that somebody gets no calls, apart from these pairs.
    pub fn avoided_by_others(&self, pairs: &BTreeSet<(HostIndex, HostIndex)>, (begin, end): (Time, Time)) -> usize {
        let others = self.avoided.iter().filter(|(pair, _)| !pairs.contains(pair));
        others.flat_map(|(_, times)| times).filter(|at| (begin..=end).contains(*at)).count()
    }

    /// The most changes of mind of one of `observers` about one subject within a minute.
    pub fn changes_per_minute_max(&self, observers: &BTreeSet<HostIndex>) -> usize {
        let mut most = 0;
        for (_, marks) in self.by_subject.values() {
            let mut by_observer: BTreeMap<HostIndex, Vec<Time>> = BTreeMap::new();
            for mark in marks.iter().filter(|mark| observers.contains(&mark.observer)) {
                let times = by_observer.entry(mark.observer).or_default();
                times.retain(|at| mark.at.since(*at) < MINUTE);
                times.push(mark.at);
                most = most.max(times.len());
            }
        }
        most
    }

    /// The longest time for which `observers` were of two minds about one subject.
    pub fn two_minds_max(&self, observers: &BTreeSet<HostIndex>, end: Time) -> Duration {
        let mut longest = Duration::ZERO;
        for (subject, marks) in self.by_subject.values() {
            let others = observers.len() - usize::from(observers.contains(subject));
            let mut out = BTreeSet::new();
            let mut since: Option<Time> = None;
            for mark in marks.iter().filter(|mark| observers.contains(&mark.observer) && mark.observer != *subject) {
                if mark.is_out {
                    out.insert(mark.observer)
                } else {
                    out.remove(&mark.observer)
                };
                let agree = out.is_empty() || out.len() >= others;
                match (agree, since) {
                    (false, None) => since = Some(mark.at),
                    (true, Some(from)) => {
                        longest = longest.max(mark.at.since(from));
                        since = None;
                    }
                    _ => {}
                }
            }
            if let Some(from) = since {
                longest = longest.max(end.since(from));
            }
        }
        longest
    }

    /// The share of the time from five seconds after `begin` until `end` for which `observers` counted a subject out.
    pub fn share_out(&self, about: Start, observers: &BTreeSet<HostIndex>, begin: Time, end: Time) -> f64 {
        let begin = begin + GRACE;
        let mut out_for = Duration::ZERO;
        let mut since: BTreeMap<HostIndex, Time> = BTreeMap::new();
        let marks = self.by_subject.get(&about).into_iter().flat_map(|(_, marks)| marks);
        for mark in marks.filter(|mark| observers.contains(&mark.observer) && mark.at <= end) {
            if mark.is_out {
                since.entry(mark.observer).or_insert(mark.at);
            } else if let Some(from) = since.remove(&mark.observer) {
                out_for += mark.at.since(from.max(begin));
            }
        }
        out_for += since.values().map(|from| end.since((*from).max(begin))).sum::<Duration>();
        let all = end.since(begin).as_secs_f64() * observers.len() as f64;
        if all > 0.0 { out_for.as_secs_f64() / all } else { 0.0 }
    }

    /// How long it took from `begin` until the last of `observers` counted a subject out, at most until `end`; and from
    /// `end` until the last of those who did counted it in again, at most until `now`.
    pub fn out_and_back(
        &self,
        about: Start,
        observers: &BTreeSet<HostIndex>,
        (begin, end): (Time, Time),
        now: Time,
    ) -> (Duration, Duration) {
        let marks = || self.by_subject.get(&about).into_iter().flat_map(|(_, marks)| marks);
        let (mut slowest, mut last_back) = (Duration::ZERO, Duration::ZERO);
        for observer in observers {
            let mine = || marks().filter(|mark| mark.observer == *observer);
            let out = mine().find(|mark| mark.is_out && begin <= mark.at && mark.at <= end);
            slowest = slowest.max(out.map_or(end, |mark| mark.at).since(begin));
            if mine().take_while(|mark| mark.at <= end).last().is_some_and(|mark| mark.is_out) {
                let back = mine().find(|mark| !mark.is_out && mark.at > end);
                last_back = last_back.max(back.map_or(now, |mark| mark.at).since(end));
            }
        }
        (slowest, last_back)
    }

    /// In how many moments each observer told its program of somebody out, in order.
    pub fn told_in(&self) -> Vec<usize> {
        let mut counts: Vec<usize> = self.told.values().map(BTreeSet::len).collect();
        counts.sort_unstable();
        counts
    }
}

#[cfg(test)]
mod tests {
    use tidings::peer::NodeId;

    use super::*;

    #[test]
    fn who_is_avoided_by_the_pairs_and_by_others_is_told_apart() {
        let mut marks = Marks::default();
        let pairs = BTreeSet::from([(0, 9)]);
        marks.note_avoided(at(3), 0, 9);
        marks.note_avoided(at(11), 0, 9);
        marks.note_avoided(at(12), 1, 9);
        assert_eq!(marks.avoided_after(0, 9, (at(10), at(20))), Some(Duration::from_secs(1)));
        assert_eq!(marks.avoided_after(2, 9, (at(10), at(20))), None);
        assert_eq!(marks.avoided_by_others(&pairs, (at(10), at(20))), 1);
        assert_eq!(marks.avoided_by_others(&pairs, (at(13), at(20))), 0);
    }

    const ABOUT: Start = (NodeId(9), 1);

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn marks_tell_how_long_how_often_and_how_unanimously() {
        let mut marks = Marks::default();
        let observers: BTreeSet<HostIndex> = [0, 1].into();
        marks.note(at(10), 0, (ABOUT, 9), true);
        marks.note(at(12), 1, (ABOUT, 9), true);
        marks.note(at(30), 0, (ABOUT, 9), false);
        marks.note(at(31), 1, (ABOUT, 9), false);
        marks.note(at(95), 0, (ABOUT, 9), true);
        assert_eq!(marks.changes_per_minute_max(&observers), 2);
        assert_eq!(marks.two_minds_max(&observers, at(96)), Duration::from_secs(2));
        assert_eq!(marks.two_minds_max(&observers, at(99)), Duration::from_secs(4), "still of two minds at the end");
        // From 10 s to 35 s: 20 s and 19 s of 25 s each.
        let share = marks.share_out(ABOUT, &observers, at(5), at(35));
        assert!((share - 39.0 / 50.0).abs() < 1e-9, "{share}");
        assert_eq!(marks.told_in(), [1, 2]);
        let (out, back) = marks.out_and_back(ABOUT, &observers, (at(9), at(29)), at(99));
        assert_eq!((out, back), (Duration::from_secs(3), Duration::from_secs(2)));
        let (out, back) = marks.out_and_back(ABOUT, &observers, (at(94), at(97)), at(99));
        assert_eq!(
            (out, back),
            (Duration::from_secs(3), Duration::from_secs(2)),
            "the one not at all, the other for good"
        );
    }
}
