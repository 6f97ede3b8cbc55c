//! Sealing and opening one datagram, with a small body and a full one; and refusing one that nobody sealed.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tidings::net::keys::{ClusterKey, Keyring};
use tidings::net::seal::{Plaintext, Seal};
use tidings::peer::{Generation, NodeId, Peer};
use tidings::time::Time;
use tidings::wire::{Header, Kind, cluster_tag};

const CLUSTER: &str = "bench";
const BODIES: [usize; 2] = [100, 1_100];

/// Senders that the receiver knows besides.
const OTHERS: u64 = 100;

fn peer(id: u64) -> Peer {
    let addr = ([127, 0, 0, 1], 7_900).into();
    Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id }
}

fn seal_of(me: &Peer) -> Seal {
    let ring = Keyring::new(ClusterKey::new([7; 32])).expect("not the public key");
    Seal::new(CLUSTER, me, Some(&ring), Plaintext::Refuse, Time::ZERO)
}

fn clear(from: &Peer, counter: u64, body: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2_048);
    Header::new(Kind::Gossip, cluster_tag(CLUSTER), from, counter).write(&mut bytes);
    bytes.resize(bytes.len() + body, 0x5a);
    bytes
}

fn costs(c: &mut Criterion) {
    let (a, b) = (peer(1), peer(2));
    let mut ours = seal_of(&a);
    let mut theirs = seal_of(&b);
    let mut counter = 0;
    for id in 0..OTHERS {
        let other = peer(1_000 + id);
        let mut bytes = clear(&other, 1, 100);
        seal_of(&other).seal(Some(b.nonce), &mut bytes).expect("its first");
        theirs.open(&mut bytes, |_| Some(other.nonce)).expect("sealed for it");
    }
    for body in BODIES {
        c.bench_function(&format!("seal {body} B"), |bench| {
            let next = || {
                counter += 1;
                clear(&a, counter, body)
            };
            bench.iter_batched_ref(next, |bytes| ours.seal(Some(b.nonce), bytes), BatchSize::SmallInput);
        });
        c.bench_function(&format!("open {body} B"), |bench| {
            let next = || {
                counter += 1;
                let mut bytes = clear(&a, counter, body);
                ours.seal(Some(b.nonce), &mut bytes).expect("counters grow");
                bytes
            };
            bench.iter_batched_ref(
                next,
                |bytes| black_box(theirs.open(bytes, |_| Some(a.nonce))).is_ok(),
                BatchSize::SmallInput,
            );
        });
        c.bench_function(&format!("refuse {body} B of a stranger"), |bench| {
            let next = || {
                counter += 1;
                let mut bytes = clear(&peer(counter), counter, body);
                bytes[2] = ClusterKey::new([7; 32]).id();
                bytes
            };
            bench.iter_batched_ref(
                next,
                |bytes| black_box(theirs.open(bytes, |_| None)).is_err(),
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, costs);
criterion_main!(benches);
