//! The seal of a member that is sent anything: bytes as they are, headers with any body, and what a member sealed for
//! it and somebody changed on the way. Nothing may open but what was sealed and left alone, and that only once.
#![no_main]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tidings::net::keys::{ClusterKey, Keyring};
use tidings::net::seal::{Plaintext, Seal};
use tidings::peer::{Generation, NodeId, Peer};
use tidings::time::Time;
use tidings::wire::{Header, Kind, cluster_tag};

const CLUSTER: &str = "c";

/// What is sent in one run.
const STEPS_MAX: usize = 32;

fn peer(id: u64) -> Peer {
    let addr = SocketAddr::from(([10, 0, 0, 1], 7));
    Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: 1_000 + id }
}

fn seal_of(me: &Peer) -> Seal {
    let ring = Keyring::new(ClusterKey::new([7; 32])).expect("not the public key");
    Seal::new(CLUSTER, me, Some(&ring), Plaintext::Refuse, Time::ZERO)
}

fn clear(kind: Kind, counter: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header::new(kind, cluster_tag(CLUSTER), &peer(2), counter).write(&mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut receiver = seal_of(&peer(1));
    let mut sender = seal_of(&peer(2));
    let key = ClusterKey::new([7; 32]).id();
    let known = |_| Some(peer(2).nonce);
    let (mut rest, mut sealed, mut taken) = (bytes, 0, BTreeSet::new());
    // Each step: what is sent, two numbers about it, how many bytes belong to it, and these.
    for _ in 0..STEPS_MAX {
        let Some((&[what, at, mask, len], more)) = rest.split_first_chunk::<4>() else { break };
        let (own, more) = more.split_at(usize::from(len).min(more.len()));
        rest = more;
        let before = receiver.stats();
        let kind = if what & 0x80 == 0 { Kind::Gossip } else { Kind::Hello };
        match what % 4 {
            0 => {
                let _ = receiver.open(&mut own.to_vec(), known);
                assert_eq!(receiver.stats().opened, before.opened, "nobody sealed it");
            }
            1 => {
                let mut forged = clear(kind, u64::from(at), own);
                forged[2] = key;
                let _ = receiver.open(&mut forged, known);
                assert_eq!(receiver.stats().opened, before.opened, "nobody sealed it");
            }
            2 => {
                sealed += 1 + u64::from(at);
                let mut datagram = clear(kind, sealed, own);
                let nonce = (kind == Kind::Gossip).then(|| peer(1).nonce);
                sender.seal(nonce, &mut datagram).expect("counters grow");
                let place = usize::from(at) % datagram.len();
                datagram[place] ^= mask;
                let mut copy = datagram.clone();
                let opened = receiver.open(&mut copy, known);
                if mask == 0 {
                    assert!(opened.expect("it was left alone").bytes.ends_with(own));
                    if kind == Kind::Gossip {
                        taken.insert(sealed);
                        assert!(receiver.open(&mut datagram, known).is_err(), "it came before");
                    }
                } else {
                    assert_eq!(receiver.stats().opened, before.opened, "it was changed");
                }
            }
            _ => {
                // A truncated one.
                sealed += 1;
                let mut datagram = clear(kind, sealed, own);
                sender.seal(Some(peer(1).nonce), &mut datagram).expect("counters grow");
                datagram.truncate(datagram.len() - 1 - usize::from(mask) % datagram.len());
                let _ = receiver.open(&mut datagram, known);
                assert_eq!(receiver.stats().opened, before.opened, "it was cut short");
            }
        }
    }
    assert!(receiver.stats().sessions <= u64::from(!taken.is_empty()));
});
