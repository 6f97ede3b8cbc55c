//! Canaries: tiny news that says nothing, made now and then so that it can be seen how long news takes to everybody.
//!
//! No two clocks are compared. A canary carries its age: who passes it on adds how long it lay there, and who receives
//! it half of the round-trip time to the sender, if that link was probed. What is measured is therefore the way that it
//! took, with all waiting and all repeats, but for this: a link that was never probed counts as the usual one, a link
//! that is slower in one direction than in the other counts as even, and a canary that never arrives counts nowhere. It
//! goes the way of a rumor, which it never delays: along the tree, to the successor, to somebody at random, and once
//! more on a later datagram.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;

use super::Node;
use crate::effect::{Datagram, InputError, Outbox};
use crate::histogram::Histogram;
use crate::peer::{Epoch, NodeId, Peer};
use crate::time::Time;
use crate::wire::{Canary, Kind, Outgoing};

/// Members whose latest canary is remembered; those of further ones are not taken in, and counted. There is one that
/// makes them, or a few while members differ on who it is.
pub const CANARIES_MAX: usize = 16;

/// How long a canary is passed on and repeated.
const CANARY_KEPT: Duration = Duration::from_secs(10);

/// Canaries of one member come no faster than this; those that do are not taken in, and counted.
const CANARY_APART: Duration = Duration::from_secs(1);

/// How often each node repeats a canary on datagrams that it sends anyway, as with rumors.
const REPEATS: u8 = 1;

/// The latest canary of a member.
#[derive(Debug)]
struct Seen {
    epoch: Epoch,
    number: u32,
    /// How old it was when it came, and when that was.
    age: Duration,
    came: Time,
    /// Whether it was passed on along the tree.
    is_relayed: bool,
    repeats_left: u8,
    /// What is to be sent at the next flush: up to where on the ring, and whether it is new here.
    hot: Vec<(u64, bool)>,
}

impl Seen {
    fn canary(&self, origin: NodeId, until: u64, now: Time) -> Canary {
        let age = self.age + now.since(self.came);
        let age_us = u32::try_from(age.as_micros()).unwrap_or(u32::MAX);
        Canary { origin, epoch: self.epoch, number: self.number, until, age_us }
    }
}

/// The canaries that a node knows.
#[derive(Default, Debug)]
pub(super) struct Canaries {
    seen: BTreeMap<NodeId, Seen>,
    made: u32,
    /// How old those of others were when they came first.
    ages: Histogram,
}

impl Canaries {
    pub(super) fn is_hot(&self) -> bool {
        self.seen.values().any(|seen| !seen.hot.is_empty())
    }

    /// What is to be sent now.
    fn take_hot(&mut self, now: Time) -> Vec<(Canary, bool)> {
        let mut hot = Vec::new();
        for (id, seen) in &mut self.seen {
            let parts = std::mem::take(&mut seen.hot);
            hot.extend(parts.into_iter().map(|(until, is_new)| (seen.canary(*id, until, now), is_new)));
        }
        hot
    }

    /// Fills in what has repeats left.
    pub(super) fn repeat(&mut self, now: Time, to: NodeId, filling: &mut Outgoing) {
        for (id, seen) in &mut self.seen {
            let is_due = seen.repeats_left > 0 && now.since(seen.came) <= CANARY_KEPT && *id != to;
            if is_due && filling.canary(&seen.canary(*id, 0, now)).is_ok() {
                seen.repeats_left -= 1;
            }
        }
    }
}

impl Node {
    /// How long others' canaries took to here, as they came first.
    pub fn propagation(&self) -> &Histogram {
        &self.canaries.ages
    }

    /// Makes a canary, if it is on us: of all members that can be reached, the one of the lowest id does. Alone, none
    /// is made.
    pub(super) fn make_canary(&mut self, now: Time) -> Result<(), InputError> {
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        let own = self.config.id;
        let roster = &self.roster;
        let is_ours = roster.present().map(|entry| entry.peer.id).filter(|id| roster.is_reachable(*id)).min();
        let is_too_soon = self.canaries.seen.get(&own).is_some_and(|seen| now.since(seen.came) < CANARY_APART);
        if !is_too_soon && is_ours.is_some_and(|lowest| own < lowest) {
            self.counters.canaries_made += 1;
            self.canaries.made += 1;
            let (epoch, number) = (self.peer().epoch(), self.canaries.made);
            self.keep_canary(now, own, (epoch, number), Duration::ZERO, self.roster.position());
        }
        Ok(())
    }

    pub(super) fn take_canary(&mut self, now: Time, sender: Peer, canary: &Canary) {
        let Canary { origin, epoch, number, until, age_us } = *canary;
        // Of whom we know nothing we would keep nothing; so what is kept is bounded by the members.
        let is_known = self.roster.get(origin).is_some_and(|entry| entry.peer.epoch() == epoch);
        if !is_known {
            return;
        }
        let is_full = self.canaries.seen.len() >= CANARIES_MAX;
        match self.canaries.seen.get_mut(&origin) {
            Some(seen) if (seen.epoch, seen.number) > (epoch, number) => {}
            Some(seen) if (seen.epoch, seen.number) == (epoch, number) => {
                let is_kept = now.since(seen.came) <= CANARY_KEPT;
                if until != 0 && !seen.is_relayed && is_kept {
                    seen.is_relayed = true;
                    seen.hot.push((until, false));
                }
            }
            Some(seen) if now.since(seen.came) < CANARY_APART => self.counters.canaries_limited += 1,
            None if is_full => self.counters.canaries_limited += 1,
            _ => {
                let rtt = self.detector.rtt(sender.id).or(self.detector.usual_rtt());
                let hop = rtt.map_or(Duration::ZERO, |rtt| rtt.smoothed / 2);
                let age = Duration::from_micros(age_us.into()) + hop;
                self.canaries.ages.note(age);
                self.keep_canary(now, origin, (epoch, number), age, until);
            }
        }
    }

    fn keep_canary(&mut self, now: Time, origin: NodeId, (epoch, number): (Epoch, u32), age: Duration, until: u64) {
        let is_relayed = until != 0;
        let hot = vec![(until, true)];
        let seen = Seen { epoch, number, age, came: now, is_relayed, repeats_left: REPEATS, hot };
        self.canaries.seen.insert(origin, seen);
    }

    /// Sends what is hot, each by itself: there is one a minute.
    pub(super) fn flush_canaries(&mut self, now: Time, out: &mut Outbox) {
        if !self.canaries.is_hot() {
            return;
        }
        let hot = self.canaries.take_hot(now);
        let reachable = self.roster.reachable_len();
        if reachable == 0 {
            return;
        }
        for (canary, is_new) in hot {
            let mut told = vec![canary.origin];
            let mut sends = Vec::new();
            if canary.until != 0 {
                sends.extend(self.roster.children(canary.until));
                told.extend(sends.iter().map(|(child, _)| *child));
            }
            if is_new {
                let random = self.roster.nth(self.rng.random_range(0..reachable));
                for id in self.roster.successor().into_iter().chain(random) {
                    if !told.contains(&id) {
                        told.push(id);
                        sends.push((id, 0));
                    }
                }
            }
            for (to, until) in sends {
                let Some(to) = self.roster.get(to).map(|entry| entry.peer) else { continue };
                let fingerprints = self.fingerprints(false);
                let mut filling = self.outgoing(Kind::Gossip);
                filling.fingerprints(fingerprints).expect("fingerprints always fit");
                filling.canary(&Canary { until, ..canary }).expect("a canary fits beside them");
                out.datagrams.push(Datagram { to: to.addr, nonce: Some(to.nonce), bytes: filling.finish() });
            }
        }
    }

    /// Forgets those whose makers are gone.
    pub(super) fn forget_canaries(&mut self, now: Time) {
        let (own, roster) = (self.config.id, &self.roster);
        self.canaries
            .seen
            .retain(|id, seen| *id == own || roster.get(*id).is_some() || now.since(seen.came) <= CANARY_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Input;
    use crate::node::tests::{Nodes, addr};
    use crate::wire::{Header, cluster_tag};

    fn seen(nodes: &Nodes, n: u16) -> u64 {
        nodes.node(n).propagation().counts().iter().sum()
    }

    /// A canary as a member sends it.
    fn send(nodes: &mut Nodes, from: u16, to: u16, canary: Canary) {
        let header = Header::new(Kind::Gossip, cluster_tag("test"), &nodes.node(from).peer(), 1 << 40);
        let mut datagram = Outgoing::new(&header);
        datagram.canary(&canary).expect("it fits");
        let bytes = datagram.finish();
        nodes.tell(addr(to), Input::Datagram { from: addr(from), bytes: &bytes }).expect("it can be read");
    }

    #[test]
    fn the_member_of_the_lowest_id_makes_canaries_and_everybody_sees_each_once() {
        let mut nodes = Nodes::joined(9);
        for round in 1..=2 {
            for n in 1..=9 {
                nodes.tell(addr(n), Input::Canary).expect("it runs");
            }
            nodes.run(Duration::from_secs(2));
            assert_eq!(seen(&nodes, 1), 0, "its own says nothing");
            (2..=9).for_each(|n| assert_eq!(seen(&nodes, n), round, "member {n}"));
        }
        let made = |n| nodes.node(n).counters().canaries_made;
        assert_eq!((made(1), (2..=9).map(made).sum::<u64>()), (2, 0));
    }

    #[test]
    fn whoever_is_alone_or_has_left_makes_no_canary() {
        let mut nodes = Nodes::joined(1);
        nodes.tell(addr(1), Input::Canary).expect("it runs");
        assert_eq!(nodes.node(1).counters().canaries_made, 0);
        nodes.tell(addr(1), Input::Leave).expect("it runs");
        assert_eq!(nodes.tell(addr(1), Input::Canary), Err(InputError::HasLeft));
    }

    /// It is passed on at another time than it came, and its age must count that.
    #[test]
    fn a_canary_grows_older_where_it_lies() {
        let came = Time::ZERO + Duration::from_secs(5);
        let seen = Seen {
            epoch: 1,
            number: 1,
            age: Duration::from_micros(700),
            came,
            is_relayed: true,
            repeats_left: 1,
            hot: Vec::new(),
        };
        assert_eq!(seen.canary(NodeId(1), 0, came + Duration::from_millis(3)).age_us, 3_700);
        assert_eq!(seen.canary(NodeId(1), 0, came + Duration::from_secs(1 << 20)).age_us, u32::MAX);
    }

    #[test]
    fn an_old_canary_a_strange_one_and_one_too_soon_are_not_taken_in() {
        let mut nodes = Nodes::joined(3);
        let epoch = nodes.node(3).peer().epoch();
        let canary = |origin, number| Canary { origin: NodeId(origin), epoch, number, until: 0, age_us: 9 };
        send(&mut nodes, 3, 2, canary(3, 5));
        assert_eq!(seen(&nodes, 2), 1);
        for (origin, number) in [(3, 5), (3, 4), (77, 1), (2, 9)] {
            send(&mut nodes, 3, 2, canary(origin, number));
        }
        send(&mut nodes, 3, 2, Canary { epoch: epoch + 1, ..canary(3, 6) });
        assert_eq!((seen(&nodes, 2), nodes.node(2).counters().canaries_limited), (1, 0));
        send(&mut nodes, 3, 2, canary(3, 6));
        assert_eq!((seen(&nodes, 2), nodes.node(2).counters().canaries_limited), (1, 1), "a flood is not passed on");
        nodes.run(CANARY_APART);
        send(&mut nodes, 3, 2, canary(3, 7));
        assert_eq!(seen(&nodes, 2), 2);
    }

    #[test]
    fn canaries_of_a_bounded_number_of_members_are_remembered() {
        let count = CANARIES_MAX as u16 + 3;
        let mut nodes = Nodes::joined(count);
        for origin in 2..=count {
            let epoch = nodes.node(origin).peer().epoch();
            let canary = Canary { origin: NodeId(u64::from(origin)), epoch, number: 1, until: 0, age_us: 0 };
            send(&mut nodes, origin, 1, canary);
        }
        assert_eq!(nodes.node(1).canaries.seen.len(), CANARIES_MAX);
        assert!(nodes.node(1).counters().canaries_limited > 0);
    }
}
