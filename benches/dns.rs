//! What an answer of DNS costs without a socket: bytes in, bytes out, among 1,000 services of 10 instances.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use criterion::{Criterion, criterion_group, criterion_main};
use tidings::door::dns::{DnsCounts, DnsPlan, Handler, Source};
use tidings::peer::NodeId;

mod filled;

const SERVICES: usize = 1_000;
const INSTANCES: u8 = 10;

const A: u16 = 1;
const SRV: u16 = 33;

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;

fn handler() -> Handler {
    let view = filled::view_of(SERVICES, INSTANCES.into());
    let plan = DnsPlan::new(SocketAddr::from(([127, 0, 0, 1], 8_600)));
    Handler::new(plan, view.reader(), NodeId(1), 1, DnsCounts::default())
}

/// A question as resolvers ask it, with an EDNS size of 1,232.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn answers(criterion: &mut Criterion) {
    let mut handler = handler();
    let from = Source { ip: Ipv4Addr::LOCALHOST.into(), is_tcp: false, now: 1 };
    let mut group = criterion.benchmark_group("dns");
    for (what, ends, kind, code, count) in [
        ("A of ten", ".service.tidings", A, NOERROR, INSTANCES),
        ("SRV of ten, with addresses", ".service.tidings", SRV, NOERROR, INSTANCES),
        ("A of one member", "", A, NOERROR, 1),
        ("NXDOMAIN", ".other.service.tidings", A, NXDOMAIN, 0),
    ] {
        let name = |service: usize| match ends {
            "" => format!("member-{}.node.tidings", service % usize::from(INSTANCES)),
            ends => format!("service-{service}{ends}"),
        };
        let questions: Vec<Vec<u8>> = (0..SERVICES).map(|service| question(&name(service), kind)).collect();
        let mut out = Vec::new();
        assert!(handler.answer(from, &questions[0], &mut out), "{what} is answered");
        assert_eq!((out[3] & 0xf, out[7]), (code, count), "{what} is answered so");
        // A stride without a common factor visits every service, and not in the order of memory.
        let mut walk = (0..).map(|n: usize| &questions[n * 389 % SERVICES]);
        let mut next = || walk.next().expect("it never ends");
        group.bench_function(what, |b| {
            b.iter(|| {
                out.clear();
                handler.answer(from, black_box(next()), &mut out)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, answers);
criterion_main!(benches);
