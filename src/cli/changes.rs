//! From events to what is told: each change once, with names, also when events were missed or came twice.
//! Knows nothing of how it is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidings::effect::{Event, GoneReason, Split};
use tidings::peer::{Member, MemberState, NodeId};
use tidings::record::{Instance, Key};
use tidings::view::Service;

/// Something that is told.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Ready,
    MemberUp(Arc<Member>),
    MemberDown {
        member: Arc<Member>,
        reason: Option<GoneReason>,
    },
    MemberLeft(Arc<Member>),
    /// It is present, and its state is another one than before.
    MemberState(Arc<Member>),
    /// So many members are unreachable, and so many are not: a split is suspected.
    PartitionSuspected(Arc<Split>),
    PartitionOver,
    /// Most instances of a service were lost at once, and are kept.
    MassDrop {
        service: Arc<str>,
        lost: usize,
        kept: usize,
    },
    MassDropOver {
        service: Arc<str>,
    },
    /// Nobody answers this member, or somebody does again.
    CutOff(bool),
    ServiceUp(Offer),
    ServiceChanged(Offer),
    ServiceDown {
        offer: Offer,
        reason: GoneReason,
    },
    Error {
        reason: String,
    },
}

/// An instance, and who offers it.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) member: Arc<str>,
    pub(super) member_id: NodeId,
    pub(super) instance: Arc<Instance>,
}

/// What was told so far. A reader subscribes first and looks at the view second, so that nothing is missed; what the
/// view already had and the events tell again is left out here.
#[derive(Default, Debug)]
pub(super) struct Told {
    is_ready: bool,
    present: BTreeMap<NodeId, Arc<Member>>,
    /// Names outlive a member's presence while one of its instances is still told as up.
    names: BTreeMap<NodeId, Arc<str>>,
    instances: BTreeMap<(NodeId, Key), Arc<Instance>>,
}

impl Told {
    /// What to tell after `event`.
    pub(super) fn hear(&mut self, event: Event) -> Option<Change> {
        match event {
            Event::Ready => self.ready(),
            Event::MemberUp(member) => self.member_up(member),
            Event::MemberChanged(member) => {
                let known = self.present.get_mut(&member.peer.id)?;
                self.names.insert(member.peer.id, Arc::clone(&member.name));
                let before = std::mem::replace(known, Arc::clone(&member));
                (before.state != member.state).then_some(Change::MemberState(member))
            }
            Event::PartitionSuspected(split) => Some(Change::PartitionSuspected(split)),
            Event::PartitionOver => Some(Change::PartitionOver),
            Event::MassDrop { service, lost, kept } => Some(Change::MassDrop { service, lost, kept }),
            Event::MassDropOver { service } => Some(Change::MassDropOver { service }),
            Event::CutOff(is_cut_off) => Some(Change::CutOff(is_cut_off)),
            Event::MemberDown(member) => {
                self.member_gone(member.peer.id)?;
                Some(Change::MemberDown { member, reason: None })
            }
            Event::MemberLeft(member) => {
                self.member_gone(member.peer.id)?;
                Some(Change::MemberLeft(member))
            }
            // Usually long after it was told as down; otherwise somebody new has its address.
            Event::MemberForgotten(member) => {
                self.member_gone(member.peer.id)?;
                Some(Change::MemberDown { member, reason: Some(GoneReason::Forgotten) })
            }
            Event::ServiceUp { owner, instance } | Event::ServiceChanged { owner, instance, .. } => {
                self.offered(owner, instance)
            }
            Event::ServiceDown { owner, instance, reason } => self.withdrawn(owner, &instance.id, reason),
            Event::Warning(warning) => Some(Change::Error { reason: warning.to_string() }),
            // What is fatal ends the process, and is told there.
            _ => None,
        }
    }

    /// What to tell once the view stands as given: everything at the start, what was missed later.
    pub(super) fn compare(
        &mut self,
        is_ready: bool,
        members: &[Arc<Member>],
        services: &[Arc<Service>],
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        if is_ready {
            changes.extend(self.ready());
        }
        let present: BTreeSet<_> = members.iter().filter(|m| m.state.is_present()).map(|m| m.peer.id).collect();
        let mut offers = BTreeMap::new();
        for offered in services.iter().flat_map(|service| service.all()).filter(|offered| offered.is_present) {
            offers.insert((offered.member.peer.id, offered.instance.id.clone()), Arc::clone(&offered.instance));
        }
        let gone: Vec<_> = self.instances.keys().filter(|place| !offers.contains_key(place)).cloned().collect();
        for (owner, id) in gone {
            let reason = if present.contains(&owner) { GoneReason::Withdrawn } else { GoneReason::OwnerDown };
            changes.extend(self.withdrawn(owner, &id, reason));
        }
        let gone: Vec<_> = self.present.values().filter(|m| !present.contains(&m.peer.id)).cloned().collect();
        for member in gone {
            self.member_gone(member.peer.id);
            let is_kept = members.iter().any(|m| m.peer.id == member.peer.id);
            // A view keeps who is down and forgets at once who left.
            changes.push(if is_kept {
                Change::MemberDown { member, reason: None }
            } else {
                Change::MemberLeft(member)
            });
        }
        for member in members.iter().filter(|m| m.state.is_present()) {
            let was = self.present.get(&member.peer.id).map_or(MemberState::Reachable, |before| before.state);
            changes.extend(self.member_up(Arc::clone(member)));
            if was != member.state {
                changes.push(Change::MemberState(Arc::clone(member)));
            }
        }
        for ((owner, _), instance) in offers {
            changes.extend(self.offered(owner, instance));
        }
        changes
    }

    fn ready(&mut self) -> Option<Change> {
        let was_ready = std::mem::replace(&mut self.is_ready, true);
        (!was_ready).then_some(Change::Ready)
    }

    fn member_up(&mut self, member: Arc<Member>) -> Option<Change> {
        let id = member.peer.id;
        self.names.insert(id, Arc::clone(&member.name));
        let before = self.present.insert(id, Arc::clone(&member));
        let is_known = before.is_some_and(|before| before.peer.is_same_start(&member.peer));
        (!is_known).then_some(Change::MemberUp(member))
    }

    fn member_gone(&mut self, id: NodeId) -> Option<Arc<Member>> {
        let member = self.present.remove(&id);
        self.forget_name(id);
        member
    }

    fn offered(&mut self, owner: NodeId, instance: Arc<Instance>) -> Option<Change> {
        let before = self.instances.insert((owner, instance.id.clone()), Arc::clone(&instance));
        let is_known = before.is_some();
        if before.is_some_and(|before| before == instance) {
            return None;
        }
        let offer = self.offer(owner, instance);
        Some(if is_known { Change::ServiceChanged(offer) } else { Change::ServiceUp(offer) })
    }

    fn withdrawn(&mut self, owner: NodeId, id: &Key, reason: GoneReason) -> Option<Change> {
        let instance = self.instances.remove(&(owner, id.clone()))?;
        let offer = self.offer(owner, instance);
        self.forget_name(owner);
        Some(Change::ServiceDown { offer, reason })
    }

    fn offer(&self, owner: NodeId, instance: Arc<Instance>) -> Offer {
        let member = self.names.get(&owner).cloned().unwrap_or_else(|| Arc::from(owner.to_string()));
        Offer { member, member_id: owner, instance }
    }

    fn forget_name(&mut self, id: NodeId) {
        let first = (id, Key::member());
        let offers_something = self.instances.range(first..).next().is_some_and(|((owner, _), _)| *owner == id);
        if !self.present.contains_key(&id) && !offers_something {
            self.names.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tidings::peer::{Evidence, Generation, Peer};
    use tidings::view::View;

    use super::*;

    fn member(id: u64, state: MemberState) -> Arc<Member> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7900));
        Arc::new(Member {
            peer: Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id },
            name: Arc::from(format!("n{id}")),
            zone: Arc::from(""),
            state,
            evidence: Evidence::default(),
            software: Arc::from("0"),
            wire: (1, 1),
        })
    }

    fn web(weight: u32) -> Arc<Instance> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        Arc::new(Instance::new("web", addr).unwrap().with_id("web-1").with_weight(weight))
    }

    fn up(id: u64) -> Event {
        Event::MemberUp(member(id, MemberState::Reachable))
    }

    fn offer(id: u64, weight: u32) -> Event {
        Event::ServiceUp { owner: NodeId(id), instance: web(weight) }
    }

    /// The view after the events, and what is told when it is looked at.
    fn look(told: &mut Told, view: &mut View, events: &[Event]) -> Vec<Change> {
        events.iter().for_each(|event| view.apply(event));
        view.publish();
        let reader = view.reader();
        told.compare(true, &reader.members(), &reader.services())
    }

    #[test]
    fn what_the_view_showed_is_not_told_again_by_the_events() {
        let (mut told, mut view) = (Told::default(), View::new());
        let events = [up(1), offer(1, 1)];
        let changes = look(&mut told, &mut view, &events);
        assert!(matches!(&changes[..], [Change::Ready, Change::MemberUp(_), Change::ServiceUp(_)]), "{changes:?}");
        for event in events.into_iter().chain([Event::Ready]) {
            assert!(told.hear(event).is_none());
        }
    }

    #[test]
    fn the_view_fills_in_for_events_that_were_lost() {
        let (mut told, mut view) = (Told::default(), View::new());
        look(&mut told, &mut view, &[up(1), up(2), up(3), offer(1, 1), offer(2, 1)]);
        let lost = [
            Event::MemberLeft(member(2, MemberState::Left)),
            Event::MemberDown(member(3, MemberState::Down)),
            Event::ServiceChanged { owner: NodeId(1), before: web(1), instance: web(2) },
            up(4),
        ];
        let changes = look(&mut told, &mut view, &lost);
        let [
            Change::ServiceDown { offer, .. },
            Change::MemberLeft(two),
            Change::MemberDown { member: three, .. },
            Change::MemberUp(four),
            Change::ServiceChanged(changed),
        ] = &changes[..]
        else {
            panic!("{changes:?}")
        };
        assert_eq!((&*offer.member, &*two.name, &*three.name, &*four.name), ("n2", "n2", "n3", "n4"));
        assert_eq!(changed.instance.weight, 2);
        assert!(look(&mut told, &mut view, &[]).is_empty());
    }

    #[test]
    fn an_instance_keeps_its_members_name_until_it_is_told_as_gone() {
        let mut told = Told::default();
        for event in [up(1), offer(1, 1), Event::MemberLeft(member(1, MemberState::Left))] {
            assert!(told.hear(event).is_some());
        }
        let gone = Event::ServiceDown { owner: NodeId(1), instance: web(1), reason: GoneReason::OwnerLeft };
        let Some(Change::ServiceDown { offer, .. }) = told.hear(gone) else { panic!() };
        assert_eq!(&*offer.member, "n1");
        assert!(told.names.is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn a_member_that_is_forgotten_while_up_is_told_as_down() {
        let mut told = Told::default();
        assert!(told.hear(up(1)).is_some());
        let forgotten = || Event::MemberForgotten(member(1, MemberState::Reachable));
        let change = told.hear(forgotten());
        assert!(matches!(change, Some(Change::MemberDown { reason: Some(GoneReason::Forgotten), .. })));
        assert!(told.hear(forgotten()).is_none());
    }
}
