//! A lookup allocates nothing, and neither does a call's pick and outcome: counted by an allocator that counts.

#![cfg(feature = "select")]

use std::net::SocketAddr;
use std::sync::Arc;

use tidings::effect::Event;
use tidings::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use tidings::record::Instance;
use tidings::select::balance::Named;
use tidings::select::{Call, Outcome, Picker, SlowStart};
use tidings::view::View;

fn member(addr: SocketAddr) -> Member {
    Member {
        peer: Peer { id: NodeId(1), addr, generation: Generation::first(1), nonce: 1 },
        name: "a".into(),
        zone: "".into(),
        state: MemberState::Reachable,
        evidence: Evidence::default(),
        software: "".into(),
        wire: (1, 1),
    }
}

#[test]
fn a_lookup_allocates_nothing() {
    let addr = SocketAddr::from(([127, 0, 0, 1], 80));
    let mut view = View::new();
    view.apply(&Event::MemberUp(Arc::new(member(addr))));
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

#[test]
fn a_pick_and_its_outcome_allocate_nothing() {
    let addr = SocketAddr::from(([127, 0, 0, 1], 80));
    let mut view = View::new();
    view.apply(&Event::MemberUp(Arc::new(member(addr))));
    for id in 0..50 {
        let instance = Instance::new("web", addr).expect("a valid instance");
        let instance = Arc::new(instance.with_id(&format!("{id}")).with_weight(1 + id % 3));
        view.apply(&Event::ServiceUp { owner: NodeId(1), instance });
    }
    view.publish();
    view.ready();
    for name in Named::all() {
        let picker = Picker::new(view.reader(), "web").with_balancer(name.balancer());
        let picker = picker.with_slow_start(SlowStart::over(std::time::Duration::from_secs(60)));
        // The first pick lines the candidates up.
        assert!(picker.pick().is_ok());
        let mut failed = 0;
        let counted = allocation_counter::measure(|| {
            for call in 0..1_000_u64 {
                // Keys, sessions, failures and ejections are on the path, too.
                let mut wish = Call::by_key(&call.to_le_bytes()).to(call);
                let pick = picker.pick_for(&wish).expect("it is healthy");
                wish.tried(pick.token());
                pick.finish(if call % 10 == 0 { Outcome::Refused } else { Outcome::Succeeded });
                failed += usize::from(call % 10 == 0);
                drop(picker.pick_for(&wish).expect("there are others"));
            }
        });
        assert_eq!((failed, counted.count_total), (100, 0), "{name:?}");
        assert!(picker.stats().for_refused > 0);
    }
}
