//! What a program was told: the events of one node applied to an empty view, as plainly as can be. Knows nothing of the
//! node, so that both can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidings::effect::{Event, GoneReason};
use tidings::peer::{Epoch, NodeId, Peer};
use tidings::record::{Instance, Key, Owner};

use crate::check::nothing;

/// In larger worlds only every so many-th further host has a shadow: each holds every record.
const SHADOWED_ALL_MAX: usize = 256;
const SHADOWED_EVERY: usize = 16;

/// The view that one node's events make.
#[derive(Clone, Default, Debug)]
pub struct Shadow {
    /// The start of each member, and whether it is present.
    members: BTreeMap<NodeId, (Epoch, bool)>,
    /// Each instance, and whether its owner was present when we last heard of it.
    offers: BTreeMap<(NodeId, Key), (Arc<Instance>, bool)>,
    /// Events that fit no view.
    misfits: Vec<String>,
}

impl Shadow {
    /// Whether the host of this number has one.
    pub const fn belongs_to(host: usize) -> bool {
        host < SHADOWED_ALL_MAX || host.is_multiple_of(SHADOWED_EVERY)
    }

    /// Takes in what the program is told.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::MemberUp(member) | Event::MemberChanged(member) | Event::MemberDown(member) => {
                let is_present = member.state.is_present();
                self.members.insert(member.peer.id, (member.peer.epoch(), is_present));
            }
            Event::MemberLeft(member) | Event::MemberForgotten(member) => {
                self.members.remove(&member.peer.id);
                let left: Vec<Key> = self.of(member.peer.id).map(|(key, ..)| key.clone()).collect();
                for key in left {
                    self.misfits.push(format!("{key} outlives its owner {}", member.peer.id));
                    self.offers.remove(&(member.peer.id, key));
                }
            }
            Event::ServiceUp { owner, instance } => {
                let before = self.offers.insert((*owner, instance.id.clone()), (Arc::clone(instance), true));
                if before.is_some_and(|(_, is_present)| is_present) {
                    self.misfits.push(format!("{} of {owner} came up twice", instance.id));
                }
            }
            Event::ServiceChanged { owner, instance, .. } => {
                match self.offers.get_mut(&(*owner, instance.id.clone())) {
                    Some((known, _)) => known.clone_from(instance),
                    None => self.misfits.push(format!("{} of {owner} changed before it came up", instance.id)),
                }
            }
            Event::ServiceDown { owner, instance, reason } => {
                let place = (*owner, instance.id.clone());
                let known = if *reason == GoneReason::OwnerDown {
                    self.offers.get_mut(&place).map(|(_, is_present)| *is_present = false)
                } else {
                    self.offers.remove(&place).map(drop)
                };
                if known.is_none() {
                    self.misfits.push(format!("{} of {owner} went down ({reason:?}) before it came up", instance.id));
                }
            }
            _ => {}
        }
    }

    /// The start of a member that the program was told of last.
    pub fn start_of(&self, id: NodeId) -> Option<Owner> {
        self.members.get(&id).map(|(epoch, _)| Owner { id, epoch: *epoch })
    }

    /// The instances that are offered by somebody present, with their owners.
    pub fn offered(&self) -> impl Iterator<Item = (NodeId, &Key, &Arc<Instance>)> {
        let offered = self.offers.iter().filter(|(_, (_, is_present))| *is_present);
        offered.map(|((owner, key), (instance, _))| (*owner, key, instance))
    }

    fn of(&self, owner: NodeId) -> impl Iterator<Item = (&Key, &Arc<Instance>)> {
        let from = (owner, Key::from(""));
        self.offers.range(from..).take_while(move |((id, _), _)| *id == owner).map(|((_, key), (i, _))| (key, i))
    }

    fn present(&self) -> BTreeSet<(NodeId, Epoch)> {
        let present = self.members.iter().filter(|(_, (_, is_present))| *is_present);
        present.map(|(id, (epoch, _))| (*id, *epoch)).collect()
    }

    /// Whether a node knows what it told, and told what it knows of members whose own record it has: before that comes,
    /// a member is nobody to a program yet.
    ///
    /// # Errors
    /// What it was told and does not know, or knows and did not tell.
    pub fn is_known(&self, members: &[Peer], listed: &[(Owner, Key, u64)]) -> Result<(), String> {
        nothing("told, and makes no sense", self.misfits.iter())?;
        let known: BTreeMap<NodeId, Epoch> = members.iter().map(|peer| (peer.id, peer.epoch())).collect();
        let told: BTreeMap<NodeId, Epoch> = self.present().into_iter().collect();
        let introduced = listed.iter().filter(|(_, key, _)| key.is_member());
        let untold = introduced.filter(|(owner, ..)| {
            known.get(&owner.id) == Some(&owner.epoch) && told.get(&owner.id) != Some(&owner.epoch)
        });
        nothing("members known, but not told", untold.map(|(owner, ..)| format!("{}#{}", owner.id, owner.epoch)))?;
        let unknown = told.iter().filter(|(id, epoch)| known.get(id).is_none_or(|known| known < epoch));
        nothing("members told, but not known", unknown.map(|(id, epoch)| format!("{id}#{epoch}")))?;
        // Of a start that the program was not told of yet, it was told no instance either.
        let is_told = |owner: NodeId| known.contains_key(&owner) && known.get(&owner) == told.get(&owner);
        let listed = listed.iter().filter(|(owner, key, _)| !key.is_member() && is_told(owner.id));
        let listed: BTreeSet<(NodeId, &Key)> = listed.map(|(owner, key, _)| (owner.id, key)).collect();
        let offered: BTreeSet<(NodeId, &Key)> =
            self.offered().map(|(owner, key, _)| (owner, key)).filter(|(owner, _)| is_told(*owner)).collect();
        let words = |(id, key): &(NodeId, &Key)| format!("{id}/{key}");
        nothing("instances listed, but not told", listed.difference(&offered).map(words))?;
        nothing("instances told, but not listed", offered.difference(&listed).map(words))
    }

    /// Whether a node told all that it knows.
    ///
    /// # Errors
    /// How many members or instances more it knows.
    pub fn is_all(&self, members: &[Peer], listed: &[(Owner, Key, u64)]) -> Result<(), String> {
        self.is_known(members, listed)?;
        let instances = listed.iter().filter(|(_, key, _)| !key.is_member()).count();
        let (told, known) = ((self.present().len(), self.offered().count()), (members.len(), instances));
        if told == known { Ok(()) } else { Err(format!("told (members, instances) {told:?}, knows {known:?}")) }
    }

    /// Whether two programs were told the same: the same members, and of each instance the same last content.
    ///
    /// # Errors
    /// What only one was told.
    pub fn is_like(&self, other: &Self) -> Result<(), String> {
        if self.present() != other.present() {
            let (here, there) = (self.present().len(), other.present().len());
            return Err(format!("other members: {here} and {there}"));
        }
        let (mut ours, mut theirs) = (self.offered(), other.offered());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return Ok(()),
                (Some(our), Some(their)) if our == their => {}
                (Some((owner, key, _)), _) | (None, Some((owner, key, _))) => {
                    return Err(format!("of {owner}/{key} they were told different things"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn instance(tag: &str) -> Arc<Instance> {
        let addr: SocketAddr = ([10, 0, 0, 1], 80).into();
        let mut instance = Instance::new("web", addr).expect("right");
        instance.id = "web@n".into();
        instance.tags = [tag.into()].into();
        Arc::new(instance)
    }

    fn up(tag: &str) -> Event {
        Event::ServiceUp { owner: NodeId(1), instance: instance(tag) }
    }

    fn listed() -> Vec<(Owner, Key, u64)> {
        vec![(Owner { id: NodeId(1), epoch: 1 }, "web@n".into(), 3)]
    }

    fn peer(epoch: Epoch) -> Peer {
        let addr = ([10, 0, 0, 1], 1).into();
        Peer { id: NodeId(1), addr, generation: tidings::peer::Generation::first(epoch), nonce: 0 }
    }

    fn member_up() -> Event {
        Event::MemberUp(Arc::new(tidings::peer::Member {
            peer: peer(1),
            name: "n".into(),
            zone: "".into(),
            state: tidings::peer::MemberState::Reachable,
            evidence: Default::default(),
            software: "".into(),
            wire: (1, 1),
        }))
    }

    #[test]
    fn what_a_node_lists_and_never_told_is_noticed_and_the_other_way_round() {
        let mut shadow = Shadow::default();
        let owner = Owner { id: NodeId(1), epoch: 1 };
        let introduced = vec![(owner, Key::member(), 1), (owner, "web@n".into(), 3)];
        // Before its own record comes, a member and what it offers need not be told.
        assert_eq!(shadow.is_known(&[peer(1)], &listed()), Ok(()));
        assert!(shadow.is_all(&[peer(1)], &listed()).is_err());
        assert!(shadow.is_known(&[peer(1)], &introduced).expect_err("not told").contains("members known"));
        shadow.apply(&member_up());
        assert!(shadow.is_known(&[peer(1)], &introduced).expect_err("not told").contains("listed, but not told"));
        shadow.apply(&up("a"));
        assert_eq!(shadow.is_all(&[peer(1)], &introduced), Ok(()));
        assert!(shadow.is_known(&[peer(1)], &introduced[..1]).expect_err("gone").contains("told, but not listed"));
        assert!(shadow.is_known(&[], &[]).expect_err("gone").contains("members told"));
        // A later start is known, and not introduced yet.
        assert_eq!(shadow.is_known(&[peer(2)], &[]), Ok(()));
    }

    #[test]
    fn an_event_that_fits_no_view_is_noticed() {
        let down = Event::ServiceDown { owner: NodeId(1), instance: instance("a"), reason: GoneReason::Withdrawn };
        let changed = Event::ServiceChanged { owner: NodeId(1), before: instance("a"), instance: instance("b") };
        for events in [vec![down], vec![changed], vec![up("a"), up("a")]] {
            let mut shadow = Shadow::default();
            events.iter().for_each(|event| shadow.apply(event));
            assert!(shadow.is_known(&[], &[]).expect_err("a misfit").contains("makes no sense"), "{events:?}");
        }
    }

    #[test]
    fn two_that_were_told_different_contents_are_unlike() {
        let (mut one, mut two) = (Shadow::default(), Shadow::default());
        assert_eq!(one.is_like(&two), Ok(()));
        one.apply(&up("a"));
        assert!(one.is_like(&two).is_err() && two.is_like(&one).is_err());
        two.apply(&up("b"));
        assert!(one.is_like(&two).expect_err("another tag").contains("web@n"));
        two.apply(&Event::ServiceChanged { owner: NodeId(1), before: instance("b"), instance: instance("a") });
        assert_eq!(one.is_like(&two), Ok(()));
    }
}
