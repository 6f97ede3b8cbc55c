//! Questions over DNS: what anybody who can reach the address can send.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;

use tidings::door::dns::{DnsCounts, DnsPlan, Handler, Source};
use tidings::effect::Event;
use tidings::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use tidings::record::Instance;
use tidings::view::View;

thread_local! {
    static HANDLER: Handler = handler();
}

/// Answers for a member that offers two instances of a service.
fn handler() -> Handler {
    let addr = SocketAddr::from(([10, 0, 0, 1], 7_900));
    let member = Member {
        peer: Peer { id: NodeId(1), addr, generation: Generation::first(1), nonce: 1 },
        name: Arc::from("n1"),
        zone: Arc::from("z"),
        state: MemberState::Reachable,
        evidence: Evidence::default(),
        software: Arc::from("0"),
        wire: (1, 1),
    };
    let mut view = View::new();
    view.apply(&Event::MemberUp(Arc::new(member)));
    for (id, host) in [("a", [10, 0, 0, 1]), ("b", [10, 9, 9, 9])] {
        let instance = Instance::new("web", SocketAddr::from((host, 80))).expect("it is right");
        let instance = Arc::new(instance.with_id(id).with_tag("v1").with_meta("k", "v"));
        view.apply(&Event::ServiceUp { owner: NodeId(1), instance });
    }
    view.publish();
    view.ready();
    let mut plan = DnsPlan::new(SocketAddr::from(([127, 0, 0, 1], 8_600)));
    plan.has_text = true;
    plan.rate = 0;
    Handler::new(plan, view.reader(), NodeId(1), 1, DnsCounts::default())
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut handler = HANDLER.with(Clone::clone);
    for is_tcp in [false, true] {
        let mut out = Vec::new();
        let from = Source { ip: [192, 0, 2, 1].into(), is_tcp, now: 1 };
        if handler.answer(from, bytes, &mut out) {
            assert!(out.len() >= 12 && out[2] & 0x80 != 0, "it is an answer");
            assert_eq!(out[..2], bytes[..2], "to this question");
            assert!(is_tcp || out.len() <= 1_232, "no longer than it may be");
            assert!(matches!(out[3] & 0xf, 0 | 3) || out.len() <= bytes.len(), "nothing is gained by junk");
        }
    }
});
