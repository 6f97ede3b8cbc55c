//! A lookup allocates nothing: counted by an allocator that counts.

#![cfg(feature = "net")]

use std::net::SocketAddr;
use std::sync::Arc;

use tidings::effect::Event;
use tidings::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use tidings::record::Instance;
use tidings::view::View;

#[test]
fn a_lookup_allocates_nothing() {
    let addr = SocketAddr::from(([127, 0, 0, 1], 80));
    let member = Member {
        peer: Peer { id: NodeId(1), addr, generation: Generation::first(1), nonce: 1 },
        name: "a".into(),
        zone: "".into(),
        state: MemberState::Reachable,
        evidence: Evidence::default(),
        software: "".into(),
        wire: (1, 1),
    };
    let mut view = View::new();
    view.apply(&Event::MemberUp(Arc::new(member)));
    for service in 0..1_000 {
        let instance = Instance::new(format!("service-{service}"), addr).expect("a valid instance");
        let instance = instance.with_id(&format!("instance-{service}"));
        view.apply(&Event::ServiceUp { owner: NodeId(1), instance: Arc::new(instance) });
    }
    view.publish();
    view.ready();
    let reader = view.reader();
    // The first lookup of a thread makes the thread's own place in the snapshot library.
    assert!(reader.lookup("service-0").is_ok());
    let mut found = 0;
    let counted = allocation_counter::measure(|| {
        for _ in 0..1_000 {
            found += reader.lookup("service-500").map_or(0, |service| service.healthy().len());
            found += reader.read("service-501", |service| service.healthy().len()).unwrap_or(0);
        }
    });
    assert_eq!((found, counted.count_total), (2_000, 0));
    // The counter does count: an error carries the name.
    assert!(allocation_counter::measure(|| drop(reader.lookup("none"))).count_total > 0);
}
