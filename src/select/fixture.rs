//! A fleet for tests: a view of one service, `web`, that changes on demand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::effect::{Event, GoneReason};
use crate::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use crate::record::{Instance, Status};
use crate::view::{Reader, Service, View};

/// An instance of `web`.
pub(super) fn instance(id: &str) -> Instance {
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    Instance::new("web", address).expect("a valid instance").with_id(id)
}

/// Members with one instance each.
pub(super) struct Fleet {
    view: View,
    members: BTreeMap<u64, Arc<Member>>,
    instances: BTreeMap<u64, Arc<Instance>>,
}

impl Default for Fleet {
    fn default() -> Self {
        let mut view = View::new();
        view.ready();
        Self { view, members: BTreeMap::new(), instances: BTreeMap::new() }
    }
}

impl Fleet {
    /// One instance for each weight, with ids in the same order.
    pub(super) fn of_weights(weights: &[u32]) -> Self {
        let mut fleet = Self::default();
        for (owner, weight) in weights.iter().enumerate() {
            fleet.up(owner as u64, instance(&format!("{owner:04}")).with_weight(*weight));
        }
        fleet
    }

    pub(super) fn reader(&self) -> Reader {
        self.view.reader()
    }

    pub(super) fn view(&mut self) -> &mut View {
        &mut self.view
    }

    pub(super) fn service(&self) -> Arc<Service> {
        self.reader().service("web").unwrap_or_else(|| Arc::new(Service::empty("web")))
    }

    /// A member starts with this instance.
    pub(super) fn up(&mut self, owner: u64, instance: Instance) {
        self.start(owner, 1, instance);
    }

    /// The same, in a start of this epoch.
    pub(super) fn start(&mut self, owner: u64, epoch: u64, instance: Instance) {
        let addr = SocketAddr::from(([127, 0, 0, 1], 4_000 + owner as u16));
        let member = Arc::new(Member {
            peer: Peer { id: NodeId(owner), addr, generation: Generation::first(epoch), nonce: owner },
            name: format!("member-{owner}").into(),
            zone: "".into(),
            state: MemberState::Reachable,
            evidence: Evidence::default(),
            software: "".into(),
            wire: (1, 1),
        });
        self.view.apply(&Event::MemberUp(Arc::clone(&member)));
        self.members.insert(owner, member);
        self.change(owner, instance);
    }

    /// The member states its instance anew.
    pub(super) fn change(&mut self, owner: u64, instance: Instance) {
        let instance = Arc::new(instance);
        self.instances.insert(owner, Arc::clone(&instance));
        self.view.apply(&Event::ServiceUp { owner: NodeId(owner), instance });
        self.view.publish();
    }

    pub(super) fn status(&mut self, owner: u64, status: Status) {
        let instance = Instance::clone(&self.instances[&owner]).with_status(status);
        self.change(owner, instance);
    }

    pub(super) fn withdraw(&mut self, owner: u64) {
        let instance = self.instances.remove(&owner).expect("it offers something");
        self.view.apply(&Event::ServiceDown { owner: NodeId(owner), instance, reason: GoneReason::Withdrawn });
        self.view.publish();
    }

    pub(super) fn member(&mut self, owner: u64, state: MemberState) {
        let mut member = Member::clone(&self.members[&owner]);
        member.state = state;
        let member = Arc::new(member);
        self.members.insert(owner, Arc::clone(&member));
        let event = if state == MemberState::Down { Event::MemberDown(member) } else { Event::MemberChanged(member) };
        self.view.apply(&event);
        self.view.publish();
    }

    pub(super) fn evidence(&self, owner: u64) -> &Evidence {
        &self.members[&owner].evidence
    }
}
