//! Drains and surveys among a few nodes: what is told, what is confirmed, and who is not waited for.

use std::sync::Arc;
use std::time::Duration;

use super::tests::{Nodes, addr};
use super::{Agreement, NOTICES_AT_ONCE, SURVEYED_AT_ONCE};
use crate::effect::{Event, Heard, Input, InputError, Outbox, WhyUnconfirmed};
use crate::peer::NodeId;
use crate::record::{Content, Instance, Key, Owner, Status};
use crate::wire::{Header, Kind, Outgoing, Record, cluster_tag};

const WITHIN: Duration = Duration::from_secs(5);

fn instance(id: &str) -> Arc<Instance> {
    Arc::new(Instance::new("web", addr(80)).expect("valid").with_id(id))
}

fn heard(nodes: &Nodes) -> Option<Arc<Heard>> {
    nodes.events().iter().rev().find_map(|(_, event)| match event {
        Event::Drained(heard) => Some(Arc::clone(heard)),
        _ => None,
    })
}

fn status(nodes: &Nodes, observer: u16, owner: u16, id: &str) -> Option<Status> {
    let mut live = nodes.node(observer).table.live(NodeId(u64::from(owner)));
    live.find_map(|(key, _, content)| match content {
        Content::Instance(instance) if *key == Key::from(id) => Some(instance.status.clone()),
        _ => None,
    })
}

#[test]
fn a_drain_is_over_when_everybody_has_every_record_of_it() {
    let mut nodes = Nodes::joined(5);
    // More than fit into one datagram, so that each member confirms several.
    for n in 0..40 {
        nodes.tell(addr(2), Input::Register(instance(&format!("web-{n}")))).expect("it fits");
    }
    nodes.run(Duration::from_secs(1));
    nodes.tell(addr(2), Input::Drain(WITHIN)).expect("it runs");
    let heard = heard(&nodes).expect("messages take no time here");
    assert_eq!((heard.confirmed, heard.unconfirmed.len()), (4, 0));
    for observer in [1, 3, 4, 5] {
        assert!((0..40).all(|n| status(&nodes, observer, 2, &format!("web-{n}")) == Some(Status::Draining)));
    }
    assert!(nodes.node(2).counters().notices_sent > 4);
    assert_eq!(nodes.node(2).counters().notices_repeated, 0);
    let refused = nodes.tell(addr(2), Input::Register(instance("more")));
    assert_eq!(refused, Err(InputError::Draining));
    nodes.tell(addr(2), Input::Withdraw(Key::from("web-0"))).expect("that is less, not more");
}

#[test]
fn a_drain_without_instances_is_over_at_once() {
    let mut nodes = Nodes::joined(3);
    nodes.tell(addr(2), Input::Drain(WITHIN)).expect("it runs");
    assert_eq!(heard(&nodes), Some(Arc::default()));
    assert_eq!(nodes.node(2).counters().notices_sent, 0);
}

#[test]
fn a_large_record_is_confirmed_once_its_content_is_there() {
    let mut nodes = Nodes::joined(3);
    let large = Instance::clone(&instance("web")).with_meta("m", "x".repeat(20_000));
    nodes.tell(addr(2), Input::Register(Arc::new(large))).expect("it fits");
    nodes.run(Duration::from_secs(1));
    nodes.tell(addr(2), Input::Drain(WITHIN)).expect("it runs");
    nodes.run(Duration::from_secs(1));
    assert_eq!(heard(&nodes).map(|heard| heard.confirmed), Some(2));
    assert_eq!(status(&nodes, 3, 2, "web"), Some(Status::Draining));
}

#[test]
fn a_member_that_is_silent_is_told_again_and_named_at_the_end() {
    let mut nodes = Nodes::joined(4);
    nodes.tell(addr(2), Input::Register(instance("web"))).expect("it fits");
    nodes.run(Duration::from_secs(1));
    nodes.stop(4);
    nodes.tell(addr(2), Input::Drain(Duration::from_millis(300))).expect("it runs");
    assert_eq!((heard(&nodes), nodes.node(2).unconfirmed_len()), (None, 1));
    nodes.run(Duration::from_millis(400));
    let heard = heard(&nodes).expect("its time is over");
    assert_eq!((heard.confirmed, heard.unconfirmed.len()), (2, 1));
    let silent = &heard.unconfirmed[0];
    assert_eq!((&*silent.name, silent.id, silent.why), ("n4", NodeId(4), WhyUnconfirmed::Silent));
    assert!(nodes.node(2).counters().notices_repeated >= 2);
    assert_eq!(nodes.node(2).unconfirmed_len(), 0);
}

#[test]
fn a_member_that_only_we_cannot_reach_is_waited_for() {
    let mut nodes = Nodes::joined(3);
    nodes.tell(addr(2), Input::Register(instance("web"))).expect("it fits");
    nodes.run(Duration::from_secs(1));
    let now = nodes.now();
    assert!(nodes.node_mut(2).roster.suspect(NodeId(3), true, now));
    nodes.tell(addr(2), Input::Drain(WITHIN)).expect("it runs");
    let heard = heard(&nodes).expect("messages take no time here");
    assert_eq!((heard.confirmed, heard.unconfirmed.len()), (2, 0));
}

/// The records are then larger than when they were packed.
#[test]
fn a_drain_goes_on_with_the_records_of_a_larger_epoch() {
    let mut nodes = Nodes::joined(3);
    for n in 0..40 {
        nodes.tell(addr(2), Input::Register(instance(&format!("web-{n}")))).expect("it fits");
    }
    nodes.run(Duration::from_secs(1));
    nodes.stop(3);
    nodes.tell(addr(2), Input::Drain(WITHIN)).expect("it runs");
    assert_eq!(nodes.node(2).unconfirmed_len(), 1);
    let (now, sent) = (nodes.now(), nodes.node(2).counters().notices_sent);
    nodes.node_mut(2).take_epoch(now, 1 << 40, &mut Outbox::default());
    nodes.run(Duration::from_millis(500));
    assert!(nodes.node(2).counters().notices_sent > sent);
    nodes.run(WITHIN);
    assert_eq!(heard(&nodes).expect("its time is over").confirmed, 1);
}

#[test]
fn a_burst_of_notices_is_held_to_its_limit() {
    let count = u16::try_from(NOTICES_AT_ONCE).expect("small") + 20;
    let mut nodes = Nodes::joined(count);
    nodes.tell(addr(2), Input::Register(instance("web"))).expect("it fits");
    nodes.run(Duration::from_millis(500));
    nodes.tell(addr(2), Input::Drain(WITHIN)).expect("it runs");
    assert_eq!(nodes.node(2).counters().notices_sent, NOTICES_AT_ONCE as u64);
    nodes.run(Duration::from_millis(50));
    assert_eq!(heard(&nodes).map(|heard| heard.confirmed), Some(usize::from(count) - 1));
}

#[test]
fn a_survey_asks_so_many_at_once_and_the_others_next() {
    let count = SURVEYED_AT_ONCE + 4;
    let mut nodes = Nodes::joined(u16::try_from(count).expect("small"));
    nodes.run(Duration::from_secs(1));
    assert_eq!(nodes.node(2).agreement(), Agreement { members: count, agreeing: 1 }, "nobody was asked");
    let sent = nodes.node(2).counters().datagrams_sent;
    nodes.tell(addr(2), Input::Survey).expect("it runs");
    assert_eq!(nodes.node(2).counters().datagrams_sent - sent, SURVEYED_AT_ONCE as u64);
    nodes.tell(addr(2), Input::Survey).expect("it runs");
    assert_eq!(nodes.node(2).agreement(), Agreement { members: count, agreeing: count });
    nodes.run(Duration::from_secs(12));
    assert_eq!(nodes.node(2).agreement().agreeing, 1, "what was said long ago is forgotten");
}

#[test]
fn a_survey_does_not_ask_again_who_was_asked_just_now() {
    let mut nodes = Nodes::joined(4);
    nodes.run(Duration::from_secs(1));
    nodes.stop(4);
    let sent_by_a_survey = |nodes: &mut Nodes| {
        let sent = nodes.node(2).counters().datagrams_sent;
        nodes.tell(addr(2), Input::Survey).expect("it runs");
        nodes.node(2).counters().datagrams_sent - sent
    };
    assert_eq!(sent_by_a_survey(&mut nodes), 3);
    let heard = nodes.node(2).survey_heard();
    assert_eq!((heard, nodes.node(2).agreement().agreeing), (2, 3), "one is silent");
    for _ in 0..7 {
        nodes.run(Duration::from_millis(20));
        assert_eq!(sent_by_a_survey(&mut nodes), 0);
    }
    nodes.run(Duration::from_millis(20));
    assert_eq!(sent_by_a_survey(&mut nodes), 1, "its time is over");
}

#[test]
fn nobody_can_give_notice_for_another() {
    let mut nodes = Nodes::joined(3);
    let owner = Owner { id: NodeId(3), epoch: nodes.node(3).peer().epoch() };
    let record = Record::encode(owner, &Key::from("web"), 9, crate::wire::BodyRef::Gone);
    let mut datagram = Outgoing::new(&Header::new(Kind::Gossip, cluster_tag("test"), &nodes.node(2).peer(), 1 << 40));
    datagram.notice(1, [&record[..]]).expect("one fits");
    datagram.receipt(77).expect("it fits");
    let bytes = datagram.finish();
    let told = nodes.tell(addr(1), Input::Datagram { from: addr(2), bytes: &bytes });
    assert!(matches!(told, Err(InputError::Malformed("owner in notice"))), "{told:?}");
    assert_eq!(nodes.node(1).counters().receipts_unasked, 1);
    assert_eq!(nodes.node(1).table.version(owner, &Key::from("web")), 0);
}
