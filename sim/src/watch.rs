//! Who noticed what of whom, and when: deaths told rightly and wrongly, and changes on their way. Knows the truth,
//! which no node does; changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidings::peer::{Epoch, NodeId};
use tidings::record::{Instance, Key};
use tidings::time::Time;

use crate::marks::Marks;
use crate::world::HostIndex;

/// The first letter of a tag that is followed; the rest is a number that grows with each change of an instance.
pub const FOLLOWED: char = '~';

/// Notices kept one by one; further ones are only counted.
const NOTICES_MAX: usize = 200_000;

/// A start of a member: its id and epoch.
pub type Start = (NodeId, Epoch);

/// A process that ended without a word, and who noticed.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Where it ran.
    pub host: HostIndex,
    /// When it ended.
    pub at: Time,
    /// When the first of the others told its program.
    pub first: Option<Time>,
    /// When the last of those that ran all the while did; `None` if one never did.
    pub last: Option<Time>,
    waiting: BTreeSet<HostIndex>,
}

/// How a notice of a death relates to the truth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was dead.
    True,
    /// It lived, but nothing got from one to the other.
    Across,
    /// It lived, but a fault had befallen it by itself: it was frozen, slow, isolated or lossy at some time.
    Anomalous,
    /// It lived and was well.
    False,
}

/// A node told its program that a member is down.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Notice {
    /// When.
    pub at: Time,
    /// Which node.
    pub observer: HostIndex,
    /// Whom it means.
    pub subject: HostIndex,
    /// Whether it is right.
    pub verdict: Verdict,
}

/// How many notices there were, by what they were worth.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Downs {
    /// About processes that were gone.
    pub right: u64,
    /// About processes that nothing got to or from.
    pub across: u64,
    /// About processes that a fault had befallen by themselves.
    pub anomalous: u64,
    /// About processes that were well: Lifeguard's FP.
    pub wrong: u64,
    /// Of these, at nodes that were well themselves: Lifeguard's FP-.
    pub wrong_at_healthy: u64,
}

/// A change on its way.
#[derive(Clone, Debug)]
struct Change {
    serial: u64,
    at: Time,
    waiting: BTreeSet<HostIndex>,
}

/// A canary, and who heard of it.
#[derive(Clone, Debug)]
pub struct Canary {
    /// When it was made.
    pub at: Time,
    /// How long it took to each that heard of it: in truth, and as the member there has it.
    pub heard: Vec<(Duration, Duration)>,
    /// Who ran when it was made, and has not heard of it.
    pub waiting: BTreeSet<HostIndex>,
}

/// What was noticed in a world.
#[derive(Default, Debug)]
pub struct Watch {
    hosts: BTreeMap<Start, HostIndex>,
    running: BTreeMap<HostIndex, Start>,
    losses: Vec<Loss>,
    open: BTreeMap<Start, usize>,
    notices: Vec<Notice>,
    downs: Downs,
    /// Who counts whom out: a member that is unreachable and then down is counted out once.
    out: BTreeSet<(HostIndex, Start)>,
    marks: Marks,
    changes: BTreeMap<(NodeId, Key), Vec<Change>>,
    arrivals: Vec<Duration>,
    followed: u64,
    canaries: Vec<Canary>,
    ups: u64,
}

impl Watch {
    /// Nothing noticed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who counted whom out, and back in.
    pub const fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The start of a member that runs on a host.
    pub fn start_on(&self, host: HostIndex) -> Option<Start> {
        self.running.get(&host).copied()
    }

    /// Every process that ended without a word so far.
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// The notices of deaths, in order; no more than a limit of them.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// How many notices there were.
    pub const fn downs(&self) -> Downs {
        self.downs
    }

    /// How often a node told its program that a member appeared.
    pub const fn ups(&self) -> u64 {
        self.ups
    }

    /// How long each followed change took until the last member that ran all the while listed it.
    pub fn arrivals(&self) -> &[Duration] {
        &self.arrivals
    }

    /// How many changes were followed.
    pub const fn followed(&self) -> u64 {
        self.followed
    }

    /// The canaries that were made so far.
    pub fn canaries(&self) -> &[Canary] {
        &self.canaries
    }

    /// A canary leaves now, for all that run but the one that made it.
    pub(crate) fn canary_made(&mut self, now: Time, by: HostIndex) {
        let waiting = self.running.keys().copied().filter(|host| *host != by).collect();
        self.canaries.push(Canary { at: now, heard: Vec::new(), waiting });
    }

    /// A node heard of a canary, which must be the last one, and says how long that took.
    pub(crate) fn canary_heard(&mut self, now: Time, observer: HostIndex, told: Duration) {
        let Some(canary) = self.canaries.last_mut() else { return };
        if canary.waiting.remove(&observer) {
            canary.heard.push((now.since(canary.at), told));
        }
    }

    /// Follows the change of an instance that now has the tag `~serial`.
    pub fn follow(&mut self, now: Time, owner: NodeId, key: Key, serial: u64, observers: BTreeSet<HostIndex>) {
        self.followed += 1;
        self.changes.entry((owner, key)).or_default().push(Change { serial, at: now, waiting: observers });
    }

    /// The host that a start of a member ran or runs on.
    pub(crate) fn host_of(&self, start: Start) -> Option<HostIndex> {
        self.hosts.get(&start).copied()
    }

    pub(crate) fn started(&mut self, _now: Time, host: HostIndex, id: NodeId, epoch: Epoch) {
        self.out.retain(|(observer, _)| *observer != host);
        self.hosts.insert((id, epoch), host);
        self.running.insert(host, (id, epoch));
    }

    pub(crate) fn stopped(&mut self, now: Time, host: HostIndex, has_left: bool) {
        let Some(start) = self.running.remove(&host) else { return };
        for loss in self.losses.iter_mut().filter(|loss| loss.last.is_none()) {
            loss.observe(now, host, false);
        }
        self.changes.retain(|(owner, _), _| *owner != start.0);
        self.arrive(now, host, |_, _| true);
        if has_left {
            return;
        }
        let waiting: BTreeSet<HostIndex> = self.running.keys().copied().collect();
        self.open.insert(start, self.losses.len());
        self.losses.push(Loss { host, at: now, first: None, last: None, waiting });
    }

    /// A node told its program that `about` is unreachable, or down.
    pub(crate) fn called_down(
        &mut self,
        now: Time,
        observer: HostIndex,
        about: Start,
        is_open: bool,
        is_healthy: bool,
        subject_is_healthy: bool,
    ) {
        let Some(&subject) = self.hosts.get(&about) else { return };
        if !self.out.insert((observer, about)) {
            return;
        }
        self.marks.note(now, observer, (about, subject), true);
        let verdict = if self.running.get(&subject) != Some(&about) {
            Verdict::True
        } else if !is_open {
            Verdict::Across
        } else if !subject_is_healthy {
            Verdict::Anomalous
        } else {
            Verdict::False
        };
        match verdict {
            Verdict::True => self.downs.right += 1,
            Verdict::Across => self.downs.across += 1,
            Verdict::Anomalous => self.downs.anomalous += 1,
            Verdict::False => {
                self.downs.wrong += 1;
                self.downs.wrong_at_healthy += u64::from(is_healthy);
            }
        }
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(Notice { at: now, observer, subject, verdict });
        }
        self.dropped(now, observer, about);
    }

    /// A node no longer counts `about` as present, for whatever reason.
    pub(crate) fn dropped(&mut self, now: Time, observer: HostIndex, about: Start) {
        if let Some(&index) = self.open.get(&about) {
            self.losses[index].observe(now, observer, true);
        }
    }

    /// A node told its program that `about` is not reachable any more, for itself or for everybody.
    pub(crate) fn avoided(&mut self, now: Time, observer: HostIndex, about: Start) {
        if let Some(&subject) = self.hosts.get(&about) {
            self.marks.note_avoided(now, observer, subject);
        }
    }

    pub(crate) fn called_up(&mut self, now: Time, observer: HostIndex, about: Start) {
        self.ups += 1;
        self.called_back(now, observer, about);
    }

    /// A node told its program that `about` can be reached again.
    pub(crate) fn called_back(&mut self, now: Time, observer: HostIndex, about: Start) {
        if let Some(&subject) = self.hosts.get(&about)
            && self.out.remove(&(observer, about))
        {
            self.marks.note(now, observer, (about, subject), false);
        }
    }

    /// A node lists an instance, as new or changed.
    pub(crate) fn listed(&mut self, now: Time, observer: HostIndex, owner: NodeId, instance: &Instance) {
        if self.changes.is_empty() {
            return;
        }
        let serial = instance.tags.iter().find_map(|tag| tag.strip_prefix(FOLLOWED)?.parse::<u64>().ok());
        let Some(serial) = serial else { return };
        let subject = (owner, instance.id.clone());
        if self.changes.contains_key(&subject) {
            // Whoever lists a later change has seen the earlier one, or need not see it any more.
            self.arrive(now, observer, |of, change| *of == subject && change.serial <= serial);
        }
    }

    fn arrive(&mut self, now: Time, observer: HostIndex, is_meant: impl Fn(&(NodeId, Key), &Change) -> bool) {
        let arrivals = &mut self.arrivals;
        self.changes.retain(|subject, changes| {
            changes.retain_mut(|change| {
                if is_meant(subject, change) && change.waiting.remove(&observer) && change.waiting.is_empty() {
                    arrivals.push(now.since(change.at));
                }
                !change.waiting.is_empty()
            });
            !changes.is_empty()
        });
    }
}

impl Loss {
    /// How long until the first told its program.
    pub fn first_after(&self) -> Option<Duration> {
        Some(self.first?.since(self.at))
    }

    /// How long until the last did.
    pub fn last_after(&self) -> Option<Duration> {
        Some(self.last?.since(self.at))
    }

    /// Counts `observer` off; one that ended itself has not noticed.
    fn observe(&mut self, now: Time, observer: HostIndex, has_noticed: bool) {
        if !self.waiting.remove(&observer) {
            return;
        }
        if has_noticed {
            self.first.get_or_insert(now);
        }
        if self.waiting.is_empty() && self.first.is_some() {
            self.last = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    fn three() -> Watch {
        let mut watch = Watch::new();
        (0..3).for_each(|host| watch.started(at(0), host, NodeId(host as u64), 1));
        watch
    }

    #[test]
    fn a_loss_is_told_from_the_first_to_the_last() {
        let mut watch = three();
        watch.stopped(at(10), 2, false);
        watch.called_down(at(12), 0, (NodeId(2), 1), true, true, true);
        assert_eq!(watch.losses()[0].first_after(), Some(Duration::from_secs(2)));
        assert_eq!(watch.losses()[0].last_after(), None);
        watch.called_down(at(15), 1, (NodeId(2), 1), true, true, true);
        assert_eq!(watch.losses()[0].last_after(), Some(Duration::from_secs(5)));
        assert_eq!(watch.downs(), Downs { right: 2, ..Downs::default() });
    }

    #[test]
    fn a_verdict_on_the_living_is_sorted_by_what_excuses_it_and_counted_once() {
        let mut watch = three();
        let cases = [(false, true, true), (true, true, false), (true, false, true), (true, true, true)];
        for (second, (is_open, is_healthy, subject_is_healthy)) in (1..).zip(cases) {
            for _ in 0..2 {
                watch.called_down(at(second), 0, (NodeId(1), 1), is_open, is_healthy, subject_is_healthy);
            }
            watch.called_back(at(second), 0, (NodeId(1), 1));
        }
        assert_eq!(watch.downs(), Downs { right: 0, across: 1, anomalous: 1, wrong: 2, wrong_at_healthy: 1 });
    }

    #[test]
    fn a_change_has_arrived_when_the_last_lists_it_or_a_later_one() {
        let mut watch = three();
        let address = std::net::SocketAddr::from(([10, 1, 0, 1], 80));
        let mut instance = Instance::new("web", address).expect("a name and an address suffice").with_id("web");
        watch.follow(at(1), NodeId(0), instance.id.clone(), 7, [1, 2].into());
        instance.tags = [format!("{FOLLOWED}7").as_str().into()].into();
        watch.listed(at(2), 1, NodeId(0), &instance);
        assert!(watch.arrivals().is_empty());
        instance.tags = [format!("{FOLLOWED}8").as_str().into()].into();
        watch.listed(at(4), 2, NodeId(0), &instance);
        assert_eq!(watch.arrivals(), [Duration::from_secs(3)]);
    }
}
