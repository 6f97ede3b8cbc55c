//! A whole node that is told anything: datagrams of strangers and of a member, questions, answers, and time.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidings::effect::{Input, InputError, Outbox};
use tidings::node::{Config, Node, Tuning};
use tidings::peer::{Generation, NodeId, Peer};
use tidings::time::Time;
use tidings::wire::{DATAGRAM_BYTES_MAX, dress};

/// What is told in one run.
const STEPS_MAX: usize = 64;

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let member = Peer { id: NodeId(7), addr: addr(7), generation: Generation::first(1), nonce: 77 };
    let config = Config {
        cluster: Arc::from("c"),
        name: Arc::from("n"),
        zone: Arc::from(""),
        addr: addr(1),
        id: NodeId(1),
        epoch: 1,
        nonce: 11,
        seed: 42,
        seeds: vec![addr(7)],
        must_join: true,
        remembered: Vec::new(),
        tuning: Tuning::default(),
    };
    let (mut now, mut out) = (Time::ZERO, Outbox::default());
    let mut node = Node::new(config, now);
    let _ = node.handle(now, Input::Wake, &mut out);
    let mut rest = bytes;
    // Each step: what happens, how many bytes belong to it, and these.
    for _ in 0..STEPS_MAX {
        let Some((&[what, len], more)) = rest.split_first_chunk::<2>() else { break };
        let (own, more) = more.split_at((usize::from(len) * 4).min(more.len()));
        rest = more;
        out.clear();
        let result = match what % 6 {
            0 => node.handle(now, Input::Datagram { from: addr(7), bytes: own }, &mut out),
            1 | 2 => {
                let bytes = dress("c", &member, own);
                node.handle(now, Input::Datagram { from: addr(7), bytes: &bytes }, &mut out)
            }
            3 => {
                let bytes = own.to_vec().into();
                node.handle(now, Input::Request { from: addr(7), token: 1, bytes }, &mut out)
            }
            4 => {
                let result = Ok(own.to_vec().into());
                node.handle(now, Input::Response { token: u64::from(what / 6), result }, &mut out)
            }
            _ => {
                now = now + Duration::from_millis(u64::from(len) * 20);
                node.handle(now, Input::Wake, &mut out)
            }
        };
        assert!(!matches!(result, Err(InputError::Bug(_))), "{result:?}");
        assert!(out.datagrams.iter().all(|datagram| datagram.bytes.len() <= DATAGRAM_BYTES_MAX));
    }
});
