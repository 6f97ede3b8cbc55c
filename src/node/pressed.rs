//! Every limit that a stranger, or a member gone wild, can press on: what is above it is dropped and counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::record::MemberRecord;
use crate::roster::{GRAVES_MAX, MEMBERS_MAX};
use crate::rumors::RUMORS_MAX;
use crate::wire::{
    Body, BodyRef, Fingerprints, Header, Hello, Kind, Outgoing, Section, Sections, encode_instance, encode_member,
};

const WILD: Peer = Peer { id: NodeId(7), addr: addr(7), generation: Generation::first(1), nonce: 77 };

const fn addr(number: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), number)
}

/// A node that nothing can reach but what a test hands in, and its one neighbour, which does what it likes.
struct Pressed {
    node: Node,
    out: Outbox,
    now: Time,
    sent: u64,
}

impl Pressed {
    fn new() -> Self {
        let config = Config {
            cluster: Arc::from("c"),
            name: Arc::from("pressed"),
            zone: Arc::from(""),
            addr: addr(1),
            id: NodeId(1),
            epoch: 1,
            nonce: 11,
            seed: 42,
            seeds: Vec::new(),
            must_join: false,
            remembered: Vec::new(),
            tuning: Default::default(),
        };
        let mut pressed =
            Self { node: Node::new(config, Time::ZERO), out: Outbox::default(), now: Time::ZERO, sent: 0 };
        pressed.hand(Input::Wake);
        pressed
    }

    /// With the wild neighbour as a member.
    fn with_member() -> Self {
        let mut pressed = Self::new();
        pressed.node.introduce(pressed.now, WILD, true, &mut pressed.out);
        pressed.rumors(&[member(WILD, false)]);
        assert_eq!(pressed.node.digest().live_members, 2);
        pressed
    }

    fn hand(&mut self, input: Input<'_>) {
        self.out.clear();
        // What is refused is counted, which is what the tests look at.
        let _ = self.node.handle(self.now, input, &mut self.out);
    }

    fn datagram(&mut self, from: SocketAddr, sender: &Peer, kind: Kind, fill: impl FnOnce(&mut Outgoing)) {
        self.sent += 1;
        let mut outgoing = Outgoing::new(&Header::new(kind, self.node.cluster, sender, self.sent));
        fill(&mut outgoing);
        let bytes = outgoing.finish();
        self.hand(Input::Datagram { from, bytes: &bytes });
    }

    fn rumors(&mut self, records: &[Vec<u8>]) {
        self.datagram(WILD.addr, &WILD, Kind::Gossip, |out| {
            out.rumors(0, records.iter().map(Vec::as_slice)).expect("they fit");
        });
    }
}

fn member(peer: Peer, has_left: bool) -> Vec<u8> {
    let said = MemberRecord {
        addr: peer.addr,
        generation: peer.generation,
        nonce: peer.nonce,
        name: Arc::from(format!("m{}", peer.id.0)),
        zone: Arc::from(""),
        addresses: Vec::new(),
        wire: (WIRE_OLDEST, WIRE_NEWEST),
        software: Arc::from("0"),
        has_left,
    };
    let bytes = encode_member(&said).expect("small");
    Record::encode(Owner { id: peer.id, epoch: peer.epoch() }, &Key::member(), 1, BodyRef::Live(&bytes))
}

fn web(id: NodeId, key: u64, version: u64) -> Vec<u8> {
    let instance = crate::record::Instance::new("web", addr(80)).expect("valid");
    let bytes = encode_instance(&instance).expect("small");
    let key = Key::from(format!("k{key}").as_str());
    Record::encode(Owner { id, epoch: 1 }, &key, version, BodyRef::Live(&bytes))
}

fn stranger(number: u64) -> Peer {
    Peer { id: NodeId(1_000_000 + number), addr: addr(9), generation: Generation::first(1), nonce: number }
}

#[test]
fn strangers_that_gossip_are_asked_who_they_are_up_to_a_limit() {
    let mut pressed = Pressed::new();
    for number in 0..crate::contact::CONTACTS_MAX as u64 + 100 {
        let from = addr(1_000 + number as u16);
        pressed.datagram(from, &stranger(number), Kind::Gossip, |_| {});
    }
    let counters = pressed.node.counters();
    assert_eq!(pressed.node.queues().contacts, crate::contact::CONTACTS_MAX);
    assert_eq!((counters.contacts_limited, counters.strangers), (100, crate::contact::CONTACTS_MAX as u64 + 100));
    assert_eq!(pressed.node.digest().live_members, 1, "none of them was let in");
}

/// Whom the node asked who they are, since the last input.
fn asked(pressed: &Pressed) -> Vec<SocketAddr> {
    let hellos = pressed.out.datagrams.iter().filter(|datagram| datagram.bytes[0] == Kind::Hello as u8);
    hellos.map(|datagram| datagram.to).collect()
}

#[test]
fn a_start_that_went_on_with_another_epoch_is_asked_for_it() {
    let mut pressed = Pressed::with_member();
    let say = |pressed: &mut Pressed, epoch| {
        pressed.datagram(WILD.addr, &WILD, Kind::Gossip, |out| {
            let epoch = Fingerprints::epoch_bits(epoch);
            out.fingerprints(Fingerprints { records: 0, members: 0, wants_answer: false, epoch }).expect("it fits");
        });
        pressed.hand(Input::Wake);
        asked(pressed)
    };
    assert_eq!(say(&mut pressed, WILD.epoch()), []);
    assert_eq!(say(&mut pressed, WILD.epoch() + 1), [WILD.addr]);
}

#[test]
fn a_copy_of_an_earlier_start_is_asked_and_told_that_it_is_over() {
    let later = Peer { generation: Generation::first(5), nonce: 78, ..WILD };
    let mut pressed = Pressed::new();
    pressed.node.introduce(pressed.now, later, true, &mut pressed.out);
    pressed.datagram(later.addr, &later, Kind::Gossip, |out| {
        out.rumors(0, [&member(later, false)[..]]).expect("it fits");
    });
    let from = addr(33);
    pressed.datagram(from, &WILD, Kind::Gossip, |_| {});
    pressed.hand(Input::Wake);
    assert_eq!(asked(&pressed), [from], "gossip does not say which start is the later one");
    let hello = pressed.out.datagrams.iter().find(|datagram| datagram.to == from).expect("just asked").bytes.clone();
    let (_, body) = Header::read(&hello).expect("our own");
    let Some(Ok(Section::Hello(hello))) = Sections::new(body).next() else { panic!("a hello") };
    let answer = Hello { generation: WILD.generation, addr: from, ..hello };
    pressed.datagram(from, &WILD, Kind::HelloBack, |out| out.hello(&answer).expect("it fits"));
    let told = pressed.out.datagrams.iter().find(|datagram| datagram.to == from && datagram.nonce == Some(WILD.nonce));
    let (_, body) = Header::read(&told.expect("it is told").bytes).expect("our own");
    let Some(Ok(Section::Rumors { records, .. })) = Sections::new(body).next() else { panic!("a record") };
    assert_eq!(records[0].owner, Owner { id: WILD.id, epoch: 5 });
    assert_eq!(pressed.node.nonce_of(WILD.id), Some(later.nonce), "it changed nobody's mind");
}

#[test]
fn hellos_are_answered_up_to_a_limit_and_an_answer_is_no_longer_than_the_question() {
    let mut pressed = Pressed::new();
    let hello = Hello { generation: Generation::first(1), addr: addr(9), wire: (WIRE_OLDEST, WIRE_NEWEST), cookie: 1 };
    let mut answers = 0;
    for number in 0..u64::from(HELLOS_PER_SECOND) + 50 {
        pressed.datagram(addr(9), &stranger(number), Kind::Hello, |out| out.hello(&hello).expect("fits"));
        answers += pressed.out.datagrams.iter().filter(|datagram| datagram.to == addr(9)).count();
    }
    assert_eq!(answers, HELLOS_PER_SECOND as usize);
    assert_eq!(pressed.node.counters().hellos_limited, 50);
}

#[test]
fn another_cluster_is_refused_up_to_a_limit() {
    let mut pressed = Pressed::new();
    for _ in 0..REFUSALS_PER_SECOND + 7 {
        let other = Outgoing::new(&Header::new(Kind::Gossip, pressed.node.cluster + 1, &WILD, 1)).finish();
        pressed.hand(Input::Datagram { from: addr(9), bytes: &other });
    }
    let counters = pressed.node.counters();
    assert_eq!((counters.refusals_sent, counters.refusals_limited), (u64::from(REFUSALS_PER_SECOND), 7));
}

#[test]
fn records_of_owners_that_nobody_knows_wait_up_to_a_limit() {
    let mut pressed = Pressed::with_member();
    for number in 0..LIMBO_MAX as u64 + 10 {
        pressed.rumors(&[web(stranger(number).id, 1, 1)]);
    }
    assert_eq!(pressed.node.queues().limbo, LIMBO_MAX);
    assert_eq!(pressed.node.counters().limbo_limited, 10);
    pressed.now = pressed.now + LIMBO_KEPT + Duration::from_secs(2);
    pressed.hand(Input::Wake);
    assert_eq!(pressed.node.queues().limbo, 0, "nobody came for them");
}

#[test]
fn a_member_that_changes_its_records_too_fast_is_heard_up_to_a_limit_and_then_again() {
    let mut pressed = Pressed::with_member();
    let before = pressed.node.counters();
    let surplus = 500;
    for version in 2..2 + u64::from(CHANGES_AT_ONCE) + surplus {
        pressed.rumors(&[web(WILD.id, 1, version)]);
    }
    let counters = pressed.node.counters();
    let taken = counters.rumors_new - before.rumors_new;
    // The member's own record was one change.
    assert_eq!(taken, u64::from(CHANGES_AT_ONCE) - 1);
    assert_eq!(counters.changes_limited, surplus + 1);
    let queues = pressed.node.queues();
    assert!(queues.rumors <= 3, "one key is one rumor, however often it changes: {queues:?}");
    pressed.now = pressed.now + Duration::from_secs(1);
    pressed.rumors(&[web(WILD.id, 1, 2 + u64::from(CHANGES_AT_ONCE) + surplus)]);
    assert_eq!(pressed.node.counters().rumors_new - before.rumors_new, taken + 1);
}

#[test]
fn news_is_remembered_up_to_a_limit() {
    let mut pressed = Pressed::with_member();
    for key in 0..RUMORS_MAX as u64 + 10 {
        pressed.rumors(&[web(WILD.id, key, key + 2)]);
    }
    assert_eq!(pressed.node.queues().rumors, RUMORS_MAX);
    assert!(pressed.node.counters().rumors_limited >= 10);
}

#[test]
fn goodbyes_of_members_that_nobody_knows_are_remembered_up_to_a_limit() {
    let mut pressed = Pressed::with_member();
    for number in 0..GOODBYES_MAX as u64 + 10 {
        pressed.rumors(&[member(stranger(number), true)]);
    }
    assert_eq!(pressed.node.queues().goodbyes, GOODBYES_MAX);
    assert_eq!(pressed.node.counters().goodbyes_limited, 10);
    pressed.rumors(&[member(WILD, true)]);
    assert_eq!(pressed.node.digest().live_members, 1, "the goodbye of a known member is still heard");
}

#[test]
fn members_are_let_in_up_to_a_limit() {
    let mut pressed = Pressed::with_member();
    for number in 0..MEMBERS_MAX as u64 + 5 {
        let peer = Peer { addr: addr(2_000), ..stranger(number) };
        pressed.node.introduce(pressed.now, peer, false, &mut pressed.out);
        pressed.out.clear();
    }
    assert_eq!(pressed.node.queues().members, MEMBERS_MAX);
    assert_eq!(pressed.node.counters().members_limited, 6);
}

#[test]
fn graves_are_kept_up_to_a_limit_and_the_oldest_goes_first() {
    let mut roster = Roster::new(NodeId(1));
    for number in 0..GRAVES_MAX as u64 + 3 {
        roster.bury(NodeId(number), Generation::first(1), Time::ZERO + Duration::from_millis(number));
    }
    assert_eq!((roster.graves_len(), roster.graves_limited), (GRAVES_MAX, 3));
    assert!(!roster.is_buried(NodeId(2), Generation::first(1)) && roster.is_buried(NodeId(3), Generation::first(1)));
}

#[test]
fn large_bodies_are_fetched_up_to_a_limit_at_once() {
    let mut pressed = Pressed::with_member();
    for key in 0..exchange::CONVERSATIONS_MAX as u64 + 10 {
        let body = Body::Large { len: 2_000, hash: key };
        let record = Record {
            owner: Owner { id: WILD.id, epoch: 1 },
            key: Key::from(format!("k{key}").as_str()),
            version: key + 2,
            body,
        };
        let now = pressed.now;
        pressed.node.take_record(now, record, None, Some(WILD), &mut pressed.out);
    }
    assert_eq!(pressed.node.queues().conversations, exchange::CONVERSATIONS_MAX);
    assert!(pressed.node.counters().bodies_limited >= 10);
}

/// Bytes that are nearly right: what a node sends, with a few bytes changed, cut or added.
fn damage(mut bytes: Vec<u8>, changes: &[(proptest::sample::Index, u8)], keep: proptest::sample::Index) -> Vec<u8> {
    for (at, to) in changes {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = *to;
        }
    }
    bytes.truncate(keep.index(bytes.len() + 1).max(bytes.len() / 2));
    bytes
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn no_datagram_can_do_more_than_be_refused(
        bodies in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), 1..8),
        changes in proptest::collection::vec(proptest::prelude::any::<(proptest::sample::Index, u8)>(), 0..6),
        keep: proptest::sample::Index,
    ) {
        let mut pressed = Pressed::with_member();
        for body in &bodies {
            let bytes = crate::wire::dress("c", &WILD, body);
            pressed.hand(Input::Datagram { from: WILD.addr, bytes: &bytes });
            pressed.hand(Input::Datagram { from: addr(9), bytes: body });
        }
        let mut outgoing = Outgoing::new(&Header::new(Kind::Gossip, pressed.node.cluster, &WILD, 1));
        outgoing.rumors(7, [&web(WILD.id, 1, 2)[..], &member(stranger(1), false)]).expect("they fit");
        let bytes = damage(outgoing.finish(), &changes, keep);
        pressed.hand(Input::Datagram { from: WILD.addr, bytes: &bytes });
        pressed.now = pressed.now + Duration::from_secs(2);
        pressed.hand(Input::Wake);
        proptest::prop_assert_eq!(pressed.node.counters().bugs, 0);
    }

    #[test]
    fn no_question_or_answer_can_do_more_than_be_refused(
        junk in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        changes in proptest::collection::vec(proptest::prelude::any::<(proptest::sample::Index, u8)>(), 0..6),
        keep: proptest::sample::Index,
    ) {
        let mut pressed = Pressed::with_member();
        let mut asker = Pressed::with_member();
        asker.node.pull_from(asker.now, WILD, &mut asker.out);
        let question = asker.out.requests.pop().expect("a pull is a question").bytes;
        for bytes in [question.clone(), damage(question.to_vec(), &changes, keep).into(), junk.clone().into()] {
            pressed.hand(Input::Request { from: WILD.addr, token: 1, bytes });
            proptest::prop_assert_eq!(pressed.out.replies.len(), 1, "every question is answered or refused, once");
        }
        pressed.hand(Input::Request { from: WILD.addr, token: 1, bytes: question });
        let answer = pressed.out.replies.pop().and_then(|reply| reply.bytes).expect("a pull is answered");
        for bytes in [damage(answer.to_vec(), &changes, keep), junk] {
            let mut asker = Pressed::with_member();
            asker.out.clear();
            asker.node.pull_from(asker.now, WILD, &mut asker.out);
            let token = asker.out.requests.pop().expect("a pull is a question").token;
            asker.hand(Input::Response { token, result: Ok(bytes.into()) });
            asker.hand(Input::Response { token, result: Ok(answer.clone()) });
            asker.hand(Input::Wake);
            proptest::prop_assert_eq!(asker.node.counters().bugs, 0);
        }
    }
}
