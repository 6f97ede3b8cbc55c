//! Verdicts among a few nodes: what is believed, what is disputed, and how the accused objects.

use std::time::Duration;

use super::Config;
use super::tests::{Nodes, addr, config};
use crate::effect::{Event, Input};
use crate::peer::{MemberState, NodeId, Peer};
use crate::verdict::{Finding, Verdict};
use crate::wire::{Accusation, Header, Kind, Outgoing, Probe, cluster_tag};

fn verdict(subject: Peer, turn: u32, finding: Finding, witnesses: u8) -> Verdict {
    Verdict { subject: subject.id, generation: subject.generation, turn, finding, by: NodeId(2), witnesses }
}

/// Node 2 tells node 1 a verdict on node 3.
fn tell(nodes: &mut Nodes, turn: u32, finding: Finding, witnesses: u8) {
    tell_to(1, nodes, turn, finding, witnesses);
}

fn tell_to(whom: u16, nodes: &mut Nodes, turn: u32, finding: Finding, witnesses: u8) {
    let (teller, subject) = (nodes.node(2).peer(), nodes.node(3).peer());
    let mut datagram = Outgoing::new(&Header::new(Kind::Gossip, cluster_tag("test"), &teller, 1 << 40));
    datagram.verdicts(0, [&verdict(subject, turn, finding, witnesses)]).expect("one fits");
    let bytes = datagram.finish();
    // An error is a counter, which the tests look at.
    let _ = nodes.tell(addr(whom), Input::Datagram { from: addr(2), bytes: &bytes });
}

/// Node 2 tells everybody that node 3 is silent.
pub(super) fn accuse(nodes: &mut Nodes, turn: u32) {
    tell(nodes, turn, Finding::Silent, 3);
}

fn state(nodes: &Nodes, observer: u16, subject: u16) -> Option<MemberState> {
    Some(nodes.node(observer).reachability(NodeId(u64::from(subject)))?.state)
}

#[test]
fn a_dead_member_is_unreachable_everywhere_and_gone_after_a_while() {
    let mut nodes = Nodes::joined(6);
    nodes.run(Duration::from_secs(2));
    nodes.stop(4);
    nodes.run(Duration::from_secs(3));
    for observer in [1, 2, 3, 5, 6] {
        assert_eq!(state(&nodes, observer, 4), Some(MemberState::Unreachable), "at {observer}");
        assert!(!nodes.node(observer).live_members().iter().any(|peer| peer.id == NodeId(4)));
    }
    nodes.run(Duration::from_secs(60));
    assert_eq!(state(&nodes, 1, 4), Some(MemberState::Down));
    assert_eq!(nodes.node(1).counters().renewals, 0);
}

#[test]
fn an_accusation_without_witnesses_is_not_believed() {
    let mut nodes = Nodes::joined(6);
    nodes.run(Duration::from_secs(2));
    tell(&mut nodes, 1, Finding::Silent, 0);
    assert_eq!(nodes.node(1).counters().verdicts_disputed, 1);
    assert_eq!(state(&nodes, 1, 3), Some(MemberState::Reachable));
}

#[test]
fn an_accusation_with_witnesses_is_refuted_by_the_accused_at_once() {
    let mut nodes = Nodes::joined(6);
    nodes.run(Duration::from_secs(2));
    tell(&mut nodes, 1, Finding::Silent, 3);
    nodes.run(Duration::from_millis(300));
    for observer in [1, 2, 4, 5, 6] {
        let known = nodes.node(observer).reachability(NodeId(3)).expect("a member");
        assert_eq!(known.state, MemberState::Reachable, "at {observer}");
    }
    assert_eq!(nodes.node(1).reachability(NodeId(3)).expect("a member").standing.turn, 2);
    assert_eq!(nodes.node(3).counters().refutations, 1);
    let told =
        |event: &Event| matches!(event, Event::MemberChanged(member) if member.state == MemberState::Unreachable);
    assert!(!nodes.events().iter().any(|(_, event)| told(event)), "it did not stand for long enough to be told");
}

#[test]
fn a_finding_that_nobody_holds_any_more_is_not_borne_for_ever() {
    let mut nodes = Nodes::joined(6);
    nodes.run(Duration::from_secs(2));
    tell_to(3, &mut nodes, 1, Finding::Lossy, 0);
    assert!(nodes.node(3).own_standing().finding.accuses(), "whoever found it so is to clear it");
    nodes.run(Duration::from_secs(15));
    assert_eq!(state(&nodes, 1, 3), Some(MemberState::Reachable), "the others reach it");
    nodes.run(Duration::from_secs(10));
    for n in 1..=6 {
        assert_eq!(nodes.node(n).accused().count(), 0, "at {n}");
    }
}

#[test]
fn whoever_stood_at_this_address_before_is_accused_for_itself() {
    let mut nodes = Nodes::joined(6);
    nodes.run(Duration::from_secs(2));
    let (teller, me) = (nodes.node(2).peer(), nodes.node(3).peer());
    for (counter, nonce, turn) in [(1, me.nonce ^ 1, 0), (2, me.nonce, 2)] {
        let accusation = Some(Accusation { nonce, ..Accusation::new(&me, 1, Finding::Silent) });
        let mut datagram = Outgoing::new(&Header::new(Kind::Gossip, cluster_tag("test"), &teller, counter << 40));
        datagram.probe(&Probe::Ping { number: 7, accusation }).expect("one fits");
        nodes.tell(addr(3), Input::Datagram { from: addr(2), bytes: &datagram.finish() }).expect("it is well formed");
        assert_eq!(nodes.node(3).own_standing().turn, turn);
    }
}

#[test]
fn nobody_is_gone_on_hearsay() {
    let mut nodes = Nodes::joined(6);
    nodes.run(Duration::from_secs(2));
    tell(&mut nodes, 1, Finding::Down, 9);
    assert_eq!(state(&nodes, 1, 3), Some(MemberState::Reachable));
    nodes.run(Duration::from_secs(60));
    assert_eq!(state(&nodes, 1, 3), Some(MemberState::Reachable));
    assert_eq!(nodes.node(1).counters().members_down, 0);
}

#[test]
fn a_turn_that_nobody_could_clear_is_malformed() {
    let mut nodes = Nodes::joined(4);
    let before = nodes.node(1).counters().malformed;
    tell(&mut nodes, u32::MAX, Finding::Silent, 9);
    assert_eq!(nodes.node(1).counters().malformed, before + 1);
    assert_eq!(state(&nodes, 1, 3), Some(MemberState::Reachable));
}

#[test]
fn so_many_disputes_at_once_are_held_and_the_rest_counted() {
    let mut nodes = Nodes::joined(4);
    nodes.run(Duration::from_secs(2));
    let (teller, subject) = (nodes.node(2).peer(), nodes.node(3).peer());
    let mut datagram = Outgoing::new(&Header::new(Kind::Gossip, cluster_tag("test"), &teller, 1 << 40));
    let many: Vec<_> = (0..20).map(|turn| verdict(subject, turn * 2 + 1, Finding::Silent, 0)).collect();
    datagram.verdicts(0, &many).expect("twenty fit");
    let bytes = datagram.finish();
    let _ = nodes.tell(addr(1), Input::Datagram { from: addr(2), bytes: &bytes });
    assert_eq!(nodes.node(1).counters().disputes_limited, 4, "sixteen of twenty are looked into");
}

#[test]
fn a_suspected_split_says_who_is_lost_and_who_is_kept() {
    let mut nodes = Nodes::joined(1);
    for n in 2..=8 {
        let zone = if n > 4 { "east" } else { "west" };
        nodes.start(Config { zone: zone.into(), ..config(n, 1, &[1]) });
        nodes.run(Duration::from_millis(50));
    }
    nodes.run(Duration::from_secs(2));
    (5..=8).for_each(|n| nodes.stop(n));
    nodes.run(Duration::from_secs(5));
    let splits: Vec<_> = nodes
        .events_of(1)
        .filter_map(|event| if let Event::PartitionSuspected(split) = event { Some(split) } else { None })
        .collect();
    let last = splits.last().expect("half of them are gone");
    assert!(last.lost > splits[0].lost || splits.len() == 1, "told again only when more are lost: {splits:?}");
    assert!(splits.len() <= 3 && last.lost >= 3 && last.lost + last.kept == 8, "{splits:?}");
    assert_eq!((last.lost_names.len(), last.kept_names.len()), (last.lost, last.kept - 1));
    let names: Vec<&str> = last.lost_names.iter().map(|name| &**name).collect();
    assert!(names.iter().all(|name| ["n5", "n6", "n7", "n8"].contains(name)) && names.is_sorted(), "{names:?}");
    assert!(last.to_string().contains("members are unreachable (n"), "{last}");
    assert_eq!((last.zones["east"], last.zones["west"]), ((last.lost, 4 - last.lost), (0, 3)), "{last}");
}

/// Accuses node 3 again and again, in the same moment. How often it clears itself.
fn clears(nodes: &mut Nodes) -> u32 {
    let mut clears = 0;
    for turn in (1..12).step_by(2) {
        tell_to(3, nodes, turn, Finding::Silent, 3);
        if nodes.node(3).own_standing().finding.accuses() {
            break;
        }
        clears += 1;
    }
    clears
}

/// `count` nodes, of which those from `lost` on are stopped and found silent; some seconds later.
fn parted(count: u16, lost: u16, seconds: u64) -> Nodes {
    let mut nodes = Nodes::joined(count);
    nodes.run(Duration::from_secs(2));
    (lost..=count).for_each(|n| nodes.stop(n));
    nodes.run(Duration::from_secs(seconds));
    assert_eq!(nodes.node(3).accused().count(), usize::from(count - lost + 1));
    nodes
}

#[test]
fn a_member_alone_clears_itself_once_a_minute() {
    assert_eq!(clears(&mut parted(8, 8, 3)), 1, "one of eight that is lost is no split");
}

#[test]
fn a_member_that_a_split_parted_from_many_clears_itself_four_times_a_minute() {
    assert_eq!(clears(&mut parted(8, 6, 3)), 4);
}

#[test]
fn a_member_that_a_split_left_with_few_clears_itself_once_a_minute() {
    assert_eq!(clears(&mut parted(30, 4, 30)), 1);
}

#[test]
fn a_split_that_lasts_excuses_nobody_on_either_side_of_it() {
    assert_eq!(clears(&mut parted(8, 6, 70)), 1, "nobody is taken to be gone while a split is suspected");
}
