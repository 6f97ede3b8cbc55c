//! Everything that ten members say to each other in a minute, said again by somebody who listened: nobody takes any of
//! it for news.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tidings::effect::{Input, Outbox, StreamFailure};
use tidings::net::keys::{ClusterKey, Keyring};
use tidings::net::seal::{OpenError, Plaintext, Seal};
use tidings::node::{Config, Node, Tuning};
use tidings::peer::{NodeId, Peer};
use tidings::time::Time;
use tidings::wire::Kind;

const MEMBERS: usize = 10;
const DELAY: Duration = Duration::from_millis(1);
const STEPS_MAX: usize = 1_000_000;

fn addr(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8], 7_900))
}

fn host_at(addr: SocketAddr) -> usize {
    (0..MEMBERS).find(|host| crate::addr(*host) == addr).expect("nobody else is here")
}

fn config(host: usize, epoch: u64) -> Config {
    Config {
        cluster: "prod".into(),
        name: format!("m{host}").into(),
        zone: "".into(),
        addr: addr(host),
        id: NodeId(100 + host as u64),
        epoch,
        nonce: 1_000 * epoch + host as u64,
        seed: 1_000 * epoch + host as u64,
        seeds: vec![addr(0)],
        must_join: false,
        remembered: Vec::new(),
        tuning: Tuning::default(),
    }
}

/// A member without a network.
struct Host {
    node: Node,
    seal: Seal,
}

impl Host {
    fn new(host: usize, epoch: u64, now: Time) -> Self {
        let node = Node::new(config(host, epoch), now);
        let ring = Keyring::new(ClusterKey::new([7; 32])).unwrap();
        let seal = Seal::new("prod", &node.peer(), Some(&ring), Plaintext::Refuse, now);
        Self { node, seal }
    }

    /// What happens when these bytes arrive: whether they open, and what is said in return.
    fn receive(&mut self, now: Time, from: SocketAddr, bytes: &[u8], out: &mut Outbox) -> Result<(), OpenError> {
        let mut copy = bytes.to_vec();
        let opened = self.seal.open(&mut copy, |id| self.node.nonce_of(id))?;
        // What the node refuses it has counted.
        let _ = self.node.handle(now, Input::Datagram { from, bytes: opened.bytes }, out);
        Ok(())
    }
}

enum Arrival {
    Datagram { from: SocketAddr, to: usize, bytes: Vec<u8> },
    Answer { to: usize, token: u64, result: Result<bytes::Bytes, StreamFailure> },
}

/// Ten members, a wire of 1 ms, and somebody who keeps what goes over it.
struct Ten {
    hosts: Vec<Host>,
    now: Time,
    sequence: u64,
    wire: BTreeMap<(Time, u64), Arrival>,
    heard: Vec<(usize, SocketAddr, Vec<u8>)>,
}

impl Ten {
    fn new() -> Self {
        let hosts = (0..MEMBERS).map(|host| Host::new(host, 1, Time::ZERO)).collect();
        Self { hosts, now: Time::ZERO, sequence: 0, wire: BTreeMap::new(), heard: Vec::new() }
    }

    fn run_until(&mut self, end: Time) {
        for _ in 0..STEPS_MAX {
            let wake = (0..MEMBERS).filter_map(|host| Some((self.hosts[host].node.next_wake()?, host))).min();
            let arrival = self.wire.first_key_value().map(|(key, _)| *key);
            let next = wake.map(|(at, _)| at).into_iter().chain(arrival.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            match arrival.filter(|(at, _)| *at == next) {
                Some(key) => {
                    let arrival = self.wire.remove(&key).expect("it is the first");
                    self.arrive(arrival);
                }
                None => self.hand(wake.expect("one of both is next").1, Input::Wake),
            }
        }
        panic!("more than {STEPS_MAX} steps");
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Datagram { from, to, bytes } => {
                let mut out = Outbox::default();
                let opened = self.hosts[to].receive(self.now, from, &bytes, &mut out);
                assert_eq!(opened, Ok(()), "what a member says arrives");
                self.carry_out(to, out);
            }
            Arrival::Answer { to, token, result } => self.hand(to, Input::Response { token, result }),
        }
    }

    fn hand(&mut self, host: usize, input: Input<'_>) {
        let mut out = Outbox::default();
        let _ = self.hosts[host].node.handle(self.now, input, &mut out);
        self.carry_out(host, out);
    }

    fn carry_out(&mut self, host: usize, mut out: Outbox) {
        for mut datagram in out.datagrams.drain(..) {
            self.hosts[host].seal.seal(datagram.nonce, &mut datagram.bytes).unwrap();
            let to = host_at(datagram.to);
            self.heard.push((to, addr(host), datagram.bytes.clone()));
            self.put(Arrival::Datagram { from: addr(host), to, bytes: datagram.bytes });
        }
        for request in out.requests.drain(..) {
            let asked = host_at(request.to.addr);
            let mut theirs = Outbox::default();
            let input = Input::Request { from: addr(host), token: request.token, bytes: request.bytes };
            let _ = self.hosts[asked].node.handle(self.now, input, &mut theirs);
            let reply = theirs.replies.drain(..).next().and_then(|reply| reply.bytes);
            self.carry_out(asked, theirs);
            let result = reply.ok_or(StreamFailure::Refused);
            self.put(Arrival::Answer { to: host, token: request.token, result });
        }
    }

    fn put(&mut self, arrival: Arrival) {
        self.sequence += 1;
        self.wire.insert((self.now + DELAY, self.sequence), arrival);
    }
}

fn is_hello(bytes: &[u8]) -> bool {
    bytes[0] == Kind::Hello as u8 || bytes[0] == Kind::HelloBack as u8
}

/// Sends everything again to `target`, and gives how much of gossip and of Hellos opened. Whatever opens, the target
/// must know afterwards what it knew before, and say at most what it was asked.
fn replay(heard: &[&(usize, SocketAddr, Vec<u8>)], target: &mut Host, now: Time) -> (usize, usize) {
    let known = |node: &Node| (node.digest(), node.live_members(), node.known_addrs());
    let before = known(&target.node);
    let mut opened = (0, 0);
    for (_, from, bytes) in heard {
        let mut out = Outbox::default();
        if target.receive(now, *from, bytes, &mut out).is_ok() {
            *(if is_hello(bytes) { &mut opened.1 } else { &mut opened.0 }) += 1;
        }
        assert!(out.requests.is_empty() && out.events.is_empty(), "{out:?}");
        let said: usize = out.datagrams.iter().map(|datagram| datagram.bytes.len() + 16).sum();
        assert!(said <= bytes.len(), "{said} bytes in answer to {}", bytes.len());
    }
    assert_eq!(known(&target.node), before);
    opened
}

#[test]
fn nothing_that_was_said_is_believed_when_it_is_said_again() {
    let mut ten = Ten::new();
    ten.run_until(Time::from(Duration::from_secs(60)));
    let all: Vec<Peer> = ten.hosts[0].node.live_members();
    assert_eq!(all.len(), MEMBERS);
    let heard = std::mem::take(&mut ten.heard);
    let gossip = heard.iter().filter(|(_, _, bytes)| !is_hello(bytes)).count();
    assert!(gossip > 1_000, "{gossip} datagrams of gossip: too quiet to prove anything");

    let now = ten.now;
    for host in 0..MEMBERS {
        let to_it: Vec<_> = heard.iter().filter(|(to, ..)| *to == host).collect();
        let arrived = ten.wire.values().filter(|a| matches!(a, Arrival::Datagram { to, .. } if *to == host)).count();
        assert_eq!(arrived, 0, "what is on its way yet would be no repeat");
        let (again, _) = replay(&to_it, &mut ten.hosts[host], now);
        assert_eq!(again, 0, "to the same receiver");

        let elsewhere: Vec<_> = heard.iter().filter(|(to, from, _)| *to != host && *from != addr(host)).collect();
        let (another, _) = replay(&elsewhere, &mut ten.hosts[host], now);
        assert_eq!(another, 0, "to another member");

        let mut restarted = Host::new(host, 2, now);
        let _ = restarted.node.handle(now, Input::Wake, &mut Outbox::default());
        let (revived, _) = replay(&to_it, &mut restarted, now);
        assert_eq!(revived, 0, "to a restarted one");
    }
}
