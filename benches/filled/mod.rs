//! A view as one node has it of others that offer services, for the benches of what is read from it.

use std::net::SocketAddr;
use std::sync::Arc;

use tidings::effect::Event;
use tidings::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use tidings::record::Instance;
use tidings::view::View;

fn member(id: u64) -> Arc<Member> {
    let addr = SocketAddr::from(([127, 0, 0, 1], 4_000 + id as u16));
    Arc::new(Member {
        peer: Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id },
        name: format!("member-{id}").into(),
        zone: "".into(),
        state: MemberState::Reachable,
        evidence: Evidence::default(),
        software: "".into(),
        wire: (1, 1),
    })
}

/// What a member offers of a service.
pub(crate) fn instance(service: usize, owner: u64, weight: u32) -> Arc<Instance> {
    let addr = SocketAddr::from(([10, 0, (owner >> 8) as u8, owner as u8], 80));
    let instance = Instance::new(format!("service-{service}"), addr).expect("a valid instance");
    Arc::new(instance.with_id(&format!("{service}@{owner}")).with_weight(weight))
}

/// A view of so many services, each offered by so many members.
pub(crate) fn view_of(services: usize, instances: u64) -> View {
    let mut view = View::new();
    for owner in 0..instances {
        view.apply(&Event::MemberUp(member(owner)));
        for service in 0..services {
            view.apply(&Event::ServiceUp { owner: NodeId(owner), instance: instance(service, owner, 1) });
        }
    }
    view.publish();
    view.ready();
    view
}
