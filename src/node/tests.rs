//! A few nodes that talk without delay or loss: directed tests of what one input leads to. What time, loss and chance
//! do to many is the simulator's to say.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::effect::{GoneReason, StreamFailure};
use crate::record::Instance;
use crate::wire::pretend;
use crate::wire::{BodyRef, HEADER_BYTES, Header, Hello, Kind, Outgoing};

pub(super) struct Nodes {
    now: Time,
    nodes: BTreeMap<SocketAddr, Node>,
    events: Vec<(SocketAddr, Event)>,
    /// Every datagram that was delivered.
    datagrams: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    asks: Vec<Bytes>,
    errors: Vec<InputError>,
    /// Nodes that pretend to be of a newer version.
    newer: Vec<SocketAddr>,
}

pub(super) fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], n))
}

pub(super) fn config(n: u16, epoch: u64, seeds: &[u16]) -> Config {
    Config {
        cluster: "test".into(),
        name: format!("n{n}").into(),
        zone: "".into(),
        addr: addr(n),
        id: NodeId(u64::from(n)),
        epoch,
        nonce: epoch << 32 | u64::from(n) << 8 | 7,
        seed: u64::from(n),
        seeds: seeds.iter().map(|n| addr(*n)).collect(),
        must_join: false,
        remembered: Vec::new(),
        tuning: Tuning::default(),
    }
}

fn instance(id: &str, meta_bytes: usize) -> Arc<Instance> {
    let instance = Instance::new("web", addr(80)).expect("valid").with_id(id).with_meta("m", "x".repeat(meta_bytes));
    Arc::new(instance)
}

impl Nodes {
    fn new() -> Self {
        Self {
            now: Time::ZERO + Duration::from_secs(1),
            nodes: BTreeMap::new(),
            events: Vec::new(),
            datagrams: Vec::new(),
            asks: Vec::new(),
            errors: Vec::new(),
            newer: Vec::new(),
        }
    }

    /// `count` nodes from 1, all joined through the first.
    pub(super) fn joined(count: u16) -> Self {
        let mut nodes = Self::new();
        for n in 1..=count {
            nodes.start(config(n, 1, if n == 1 { &[] } else { &[1] }));
            nodes.run(Duration::from_millis(50));
        }
        nodes
    }

    pub(super) fn start(&mut self, config: Config) {
        let at = config.addr;
        let node = pretend::run(self.newer.contains(&at), || Node::new(config, self.now));
        self.nodes.insert(at, node);
        self.tell(at, Input::Wake).expect("a wake");
    }

    pub(super) fn events(&self) -> &[(SocketAddr, Event)] {
        &self.events
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn node(&self, n: u16) -> &Node {
        &self.nodes[&addr(n)]
    }

    /// Hands `input` to a node, and delivers all that follows from it.
    pub(super) fn tell(&mut self, at: SocketAddr, input: Input<'_>) -> Result<(), InputError> {
        let mut out = Outbox::default();
        let node = self.nodes.get_mut(&at).expect("a node");
        let result = pretend::run(self.newer.contains(&at), || node.handle(self.now, input, &mut out));
        let mut todo = VecDeque::from([(at, out)]);
        while let Some((from, out)) = todo.pop_front() {
            self.events.extend(out.events.into_iter().map(|event| (from, event)));
            for datagram in out.datagrams {
                self.datagrams.push((from, datagram.to, datagram.bytes.clone()));
                todo.extend(self.hand(datagram.to, Input::Datagram { from, bytes: &datagram.bytes }));
            }
            for request in out.requests {
                self.asks.push(request.bytes.clone());
                let asked = self.hand(request.to.addr, Input::Request { from, token: 0, bytes: request.bytes });
                let (asked, reply) = match asked {
                    Some((at, mut out)) => {
                        let reply = out.replies.pop().and_then(|reply| reply.bytes).ok_or(StreamFailure::Refused);
                        (Some((at, out)), reply)
                    }
                    None => (None, Err(StreamFailure::Connection)),
                };
                todo.extend(asked);
                todo.extend(self.hand(from, Input::Response { token: request.token, result: reply }));
            }
        }
        result
    }

    fn hand(&mut self, at: SocketAddr, input: Input<'_>) -> Option<(SocketAddr, Outbox)> {
        let mut out = Outbox::default();
        let node = self.nodes.get_mut(&at)?;
        if let Err(error) = pretend::run(self.newer.contains(&at), || node.handle(self.now, input, &mut out)) {
            self.errors.push(error);
        }
        Some((at, out))
    }

    /// A process ends without a word.
    pub(super) fn stop(&mut self, n: u16) {
        self.nodes.remove(&addr(n));
    }

    /// Lets time pass, with every wake on time.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some((at, due)) =
            self.nodes.iter().filter_map(|(at, node)| Some((*at, node.next_wake()?))).min_by_key(|(_, due)| *due)
        {
            if due > end {
                break;
            }
            self.now = self.now.max(due);
            self.tell(at, Input::Wake).expect("no bug");
        }
        self.now = end;
    }

    pub(super) fn node_mut(&mut self, n: u16) -> &mut Node {
        self.nodes.get_mut(&addr(n)).expect("a node")
    }

    pub(super) fn events_of(&self, n: u16) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |(at, _)| *at == addr(n)).map(|(_, event)| event)
    }

    fn is_agreed(&self) -> bool {
        let mut digests = self.nodes.values().map(Node::digest);
        let first = digests.next();
        digests.all(|digest| Some(digest) == first)
    }
}

#[test]
fn a_recorded_hello_of_a_later_start_of_our_own_stops_nobody() {
    let mut nodes = Nodes::joined(3);
    let me = nodes.node(2).peer();
    let earlier = Peer { generation: Generation::first(9), nonce: 77, ..me };
    let mut hello = Outgoing::new(&Header::new(Kind::Hello, cluster_tag("test"), &earlier, 1));
    let said = Hello { generation: earlier.generation, addr: me.addr, wire: Node::wire_range(), cookie: 5 };
    hello.hello(&said).expect("a hello fits a datagram");
    let bytes = hello.finish();
    nodes.tell(addr(2), Input::Datagram { from: addr(99), bytes: &bytes }).expect("it is a hello");
    nodes.run(Duration::from_secs(10));
    assert!(!nodes.events_of(2).any(|event| matches!(event, Event::Fatal(_))));
    assert_eq!(nodes.node(1).digest().live_members, 3);
}

#[test]
fn whoever_joins_knows_everything_and_is_known() {
    let mut nodes = Nodes::joined(5);
    nodes.tell(addr(2), Input::Register(instance("a", 10))).expect("registered");
    nodes.run(Duration::from_millis(20));
    nodes.start(config(6, 1, &[1]));
    nodes.run(Duration::from_millis(50));
    assert!(nodes.is_agreed());
    assert_eq!(nodes.node(6).digest().live_members, 6);
    assert_eq!(nodes.node(6).digest().live_records, 7);
    assert!(nodes.nodes.values().all(Node::is_ready));
    let ups = nodes.events_of(6).filter(|event| matches!(event, Event::MemberUp(_))).count();
    assert_eq!(ups, 6, "each member once");
}

/// Its datagrams have a section, its records a field, and one record a kind that nobody else knows; it says that it
/// speaks two wire versions. All of it reaches everybody, also by way of those that cannot read it.
#[test]
fn a_node_of_a_newer_version_lives_in_the_same_cluster() {
    let mut nodes = Nodes::new();
    nodes.newer = vec![addr(1), addr(4)];
    for n in 1..=5 {
        nodes.start(config(n, 1, if n == 1 { &[] } else { &[1] }));
        nodes.run(Duration::from_millis(50));
    }
    let of_a_new_kind = Instance::new(pretend::NEW_KIND, addr(80)).expect("valid").with_id("new");
    for (n, instance) in [
        (4, instance("small", 10)),
        (4, instance("big", 20_000)),
        (4, Arc::new(of_a_new_kind)),
        (2, instance("old", 10)),
        (2, instance("old-big", 20_000)),
    ] {
        nodes.tell(addr(n), Input::Register(instance)).expect("registered");
    }
    nodes.run(Duration::from_secs(60));
    nodes.start(config(6, 1, &[2]));
    nodes.run(Duration::from_secs(60));
    assert!(nodes.is_agreed());
    assert_eq!((nodes.node(6).digest().live_members, nodes.node(6).digest().live_records), (6, 11));
    for n in 1..=6 {
        let counters = nodes.node(n).counters();
        assert_eq!((counters.members_down, counters.malformed, counters.other_version), (0, 0, 0), "at {n}");
        assert!(counters.unknown_sections > 0, "nothing newer came to {n}");
        let ups = nodes.events_of(n).filter(|event| matches!(event, Event::ServiceUp { .. })).count();
        assert_eq!(ups, 4, "at {n}: each but the one of a new kind, once");
        assert!(!nodes.events_of(n).any(|event| matches!(event, Event::Warning(_) | Event::Fatal(_))), "at {n}");
    }
    nodes.tell(addr(4), Input::Leave).expect("left");
    nodes.nodes.remove(&addr(4));
    nodes.run(Duration::from_secs(5));
    assert!(nodes.is_agreed());
    assert_eq!(nodes.node(6).digest().live_records, 7);
}

#[test]
fn a_large_record_reaches_everybody_over_streams() {
    let mut nodes = Nodes::joined(6);
    nodes.tell(addr(3), Input::Register(instance("big", 20_000))).expect("registered");
    nodes.run(Duration::from_millis(50));
    assert!(nodes.is_agreed());
    assert_eq!(nodes.node(1).digest().live_records, 7);
    assert!(nodes.datagrams.iter().all(|(_, _, bytes)| bytes.len() <= crate::wire::DATAGRAM_BYTES_MAX));
    assert!(nodes.node(1).counters().bodies_fetched + nodes.node(2).counters().bodies_fetched > 0);
}

#[test]
fn a_record_above_the_limit_is_refused_and_changes_nothing() {
    let mut nodes = Nodes::joined(1);
    let before = nodes.node(1).digest();
    let refused = nodes.tell(addr(1), Input::Register(instance("big", 65 * 1024)));
    assert!(matches!(refused, Err(InputError::RecordTooLarge { bytes, limit: 65_536 }) if bytes > 65_536));
    assert_eq!(nodes.node(1).digest(), before);
}

#[test]
fn changes_that_come_too_fast_are_refused_and_counted() {
    let mut nodes = Nodes::joined(1);
    let refused = (0..OWN_CHANGES_AT_ONCE + 5)
        .filter(|n| nodes.tell(addr(1), Input::Register(instance("a", *n as usize % 9))).is_err())
        .count();
    assert_eq!(refused, 5);
    assert_eq!(nodes.node(1).counters().own_changes_limited, 5);
}

#[test]
fn a_goodbye_takes_the_instances_along_at_once() {
    let mut nodes = Nodes::joined(5);
    nodes.tell(addr(2), Input::Register(instance("a", 10))).expect("registered");
    nodes.run(Duration::from_millis(20));
    nodes.tell(addr(2), Input::Leave).expect("left");
    nodes.run(Duration::from_millis(20));
    nodes.nodes.remove(&addr(2));
    assert!(nodes.is_agreed());
    let gone = |event: &&Event| matches!(event, Event::ServiceDown { reason: GoneReason::OwnerLeft, .. });
    assert_eq!(nodes.events_of(5).filter(gone).count(), 1);
    nodes.run(Duration::from_secs(60));
    assert_eq!(nodes.node(1).digest().live_members, 4, "and it stays gone");
    assert_eq!(nodes.node(1).counters().members_down, 0);
}

#[test]
fn whoever_joins_under_a_name_that_is_taken_stops() {
    let mut nodes = Nodes::joined(3);
    nodes.start(Config { name: "n2".into(), ..config(9, 1, &[1]) });
    nodes.run(Duration::from_secs(3));
    let fatal = |event: &Event| matches!(event, Event::Fatal(Fatal::DuplicateName { id: NodeId(2), .. }));
    assert!(nodes.events_of(9).any(fatal));
    assert!(!nodes.events_of(9).any(|event| matches!(event, Event::Ready)), "it never was ready");
    assert!(!nodes.events_of(2).any(|event| matches!(event, Event::Fatal(_))), "who had it goes on");
}

#[test]
fn the_name_of_a_dead_member_is_free() {
    let mut nodes = Nodes::joined(3);
    nodes.nodes.remove(&addr(2));
    nodes.start(Config { name: "n2".into(), ..config(9, 1, &[1]) });
    nodes.run(Duration::from_secs(4));
    assert!(nodes.node(9).is_ready());
    assert!(!nodes.events.iter().any(|(_, event)| matches!(event, Event::Fatal(_))));
}

#[test]
fn of_two_processes_with_one_id_the_earlier_stops() {
    let mut nodes = Nodes::joined(3);
    nodes.start(Config { id: NodeId(2), addr: addr(9), name: "n2".into(), ..config(9, 5, &[1]) });
    nodes.run(Duration::from_secs(5));
    let fatal = |event: &Event| matches!(event, Event::Fatal(Fatal::Cloned { id: NodeId(2), .. }));
    assert!(nodes.events_of(2).any(fatal));
    assert!(!nodes.events_of(9).any(|event| matches!(event, Event::Fatal(_))));
    assert_eq!(nodes.node(9).digest().live_members, 3);
}

/// The copy's records carry our id and our start, so only our own word tells them from ours.
#[test]
fn what_a_copy_started_in_the_same_second_had_said_is_taken_back() {
    let mut nodes = Nodes::joined(3);
    let owner = Owner { id: NodeId(2), epoch: 1 };
    let said = crate::wire::encode_instance(&instance("ghost", 1)).expect("small");
    let record = Record::encode(owner, &"ghost".into(), 9, BodyRef::Live(&said));
    let sender = nodes.node(2).peer();
    let mut filling = Outgoing::new(&Header::new(Kind::Gossip, cluster_tag("test"), &sender, 99));
    filling.rumors(nodes.node(1).roster.position(), [&record[..]]).expect("fits");
    let bytes = filling.finish();
    nodes.tell(addr(1), Input::Datagram { from: addr(2), bytes: &bytes }).expect("a known sender");
    nodes.run(Duration::from_secs(5));
    let lists = |n| nodes.node(n).live_records().iter().any(|(_, key, _)| key.as_str() == "ghost");
    assert!(!lists(1) && !lists(2), "the owner never said it");
}

#[test]
fn another_cluster_is_refused_and_both_sides_are_told_once() {
    let mut nodes = Nodes::joined(1);
    nodes.start(Config { cluster: "other".into(), ..config(2, 1, &[1]) });
    nodes.run(Duration::from_secs(10));
    assert_eq!(nodes.node(1).digest().live_members, 1);
    for n in [1, 2] {
        let told = nodes.events_of(n).filter(|event| matches!(event, Event::Warning(Warning::OtherCluster { .. })));
        assert_eq!(told.count(), 1, "node {n}");
    }
    assert!(nodes.node(1).counters().other_cluster > 1);
}

#[test]
fn a_restart_replaces_what_its_start_before_had_said() {
    let mut nodes = Nodes::joined(4);
    nodes.tell(addr(2), Input::Register(instance("old", 1))).expect("registered");
    nodes.run(Duration::from_millis(20));
    nodes.start(config(2, 2, &[1]));
    nodes.run(Duration::from_millis(20));
    nodes.tell(addr(2), Input::Register(instance("new", 1))).expect("registered");
    nodes.run(Duration::from_millis(20));
    assert!(nodes.is_agreed());
    let records = nodes.node(4).live_records();
    assert!(records.iter().any(|(_, key, _)| key.as_str() == "new"));
    assert!(!records.iter().any(|(_, key, _)| key.as_str() == "old"));
    let gone = |event: &&Event| matches!(event, Event::ServiceDown { reason: GoneReason::OwnerRestarted, .. });
    assert_eq!(nodes.events_of(4).filter(gone).count(), 1);
}

#[test]
fn equal_inputs_give_equal_outputs() {
    let run = || {
        let mut nodes = Nodes::joined(6);
        nodes.tell(addr(3), Input::Register(instance("a", 5))).expect("registered");
        nodes.run(Duration::from_secs(30));
        nodes.datagrams
    };
    assert_eq!(run(), run());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a stranger sends, the node answers with an error and a counter, and knows no more than before.
    #[test]
    fn random_bytes_change_nothing(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
    ) {
        let mut nodes = Nodes::joined(3);
        let before = nodes.node(1).digest();
        for bytes in &datagrams {
            let _ = nodes.tell(addr(1), Input::Datagram { from: addr(99), bytes });
            let request = Input::Request { from: addr(99), token: 1, bytes: Bytes::copy_from_slice(bytes) };
            prop_assert!(nodes.tell(addr(1), request).is_err());
        }
        prop_assert_eq!(nodes.node(1).digest(), before);
        prop_assert!(nodes.node(1).counters().stream_malformed >= datagrams.len() as u64);
    }

    /// Whatever becomes of real datagrams and questions on their way, no node panics; and when it stops, all agree.
    #[test]
    fn mutated_traffic_never_panics(
        edits in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()),
            1..60,
        ),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
    ) {
        let mut nodes = Nodes::joined(4);
        nodes.tell(addr(2), Input::Register(instance("a", 5))).expect("registered");
        nodes.run(Duration::from_secs(3));
        let (datagrams, asks) = (nodes.datagrams.clone(), nodes.asks.clone());
        for (which, at, byte) in &edits {
            let (from, to, mut bytes) = which.get(&datagrams).clone();
            // The sender stays known, so that the edit is read and not turned away at the door.
            let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
            bytes[at] = *byte;
            let _ = nodes.tell(to, Input::Datagram { from, bytes: &bytes });
            let mut ask = which.get(&asks).to_vec();
            let at = at % ask.len();
            ask[at] = *byte;
            let _ = nodes.tell(addr(3), Input::Request { from, token: 1, bytes: Bytes::from(ask) });
        }
        for (which, at) in &cuts {
            let (from, to, bytes) = which.get(&datagrams).clone();
            let cut = at.index(bytes.len());
            prop_assert!(cut >= HEADER_BYTES || Header::read(&bytes[..cut]).is_err());
            let _ = nodes.tell(to, Input::Datagram { from, bytes: &bytes[..cut] });
        }
    }
}
