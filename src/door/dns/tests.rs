//! Questions in, answers out, against views made for it. Answers are read by the library that also reads questions,
//! which knows nothing of how they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use proptest::test_runner::{RngAlgorithm, TestRng};
use rand::Rng as _;

use super::*;
use crate::effect::Event;
use crate::offers::External;
use crate::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use crate::record::{Endpoint, Instance, Status};
use crate::view::{StopReason, View};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

struct Lab {
    view: View,
    plan: DnsPlan,
    handler: Option<Handler>,
    counts: DnsCounts,
    from: Source,
}

fn member(id: u64, name: &str, state: MemberState) -> Arc<Member> {
    member_in("z1", id, name, state)
}

fn member_in(zone: &str, id: u64, name: &str, state: MemberState) -> Arc<Member> {
    let addr = SocketAddr::from(([10, 0, 0, id as u8], 7_900));
    Arc::new(Member {
        peer: Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id },
        name: Arc::from(name),
        zone: Arc::from(zone),
        state,
        evidence: Evidence::default(),
        software: Arc::from("0.1.0"),
        wire: (1, 1),
    })
}

fn at(service: &str, addr: &str) -> Instance {
    let endpoint: Endpoint = addr.parse().expect("an endpoint");
    Instance::new(service, endpoint).expect("it is right").with_id(&format!("{service}@{addr}"))
}

/// A question as a client writes it.
#[derive(Clone)]
struct Asking {
    bytes: Vec<u8>,
}

impl Asking {
    fn new(name: &str, kind: RecordType) -> Self {
        let mut bytes = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(u16::from(kind).to_be_bytes());
        bytes.extend([0, 1]);
        Self { bytes }
    }

    fn with_edns(mut self, payload: u16) -> Self {
        self.bytes[11] = 1;
        self.bytes.extend([0, 0, 41]);
        self.bytes.extend(payload.to_be_bytes());
        self.bytes.extend([0; 6]);
        self
    }
}

impl Lab {
    /// A member `n1` that knows `n2`, and is ready.
    fn new() -> Self {
        let mut view = View::new();
        view.apply(&Event::MemberUp(member(1, "n1", MemberState::Reachable)));
        view.apply(&Event::MemberUp(member(2, "n2", MemberState::Reachable)));
        view.publish();
        view.ready();
        let plan = DnsPlan::new("127.0.0.1:8600".parse().expect("an address"));
        let from = Source { ip: LOCAL, is_tcp: false, now: 1 };
        Self { view, plan, handler: None, counts: DnsCounts::default(), from }
    }

    fn offering(instances: impl IntoIterator<Item = (u64, Instance)>) -> Self {
        let mut lab = Self::new();
        lab.offer(instances);
        lab
    }

    fn offer(&mut self, instances: impl IntoIterator<Item = (u64, Instance)>) {
        for (owner, instance) in instances {
            self.view.apply(&Event::ServiceUp { owner: NodeId(owner), instance: Arc::new(instance) });
        }
        self.view.publish();
    }

    fn handler(&mut self) -> &mut Handler {
        let (plan, reader, counts) = (self.plan.clone(), self.view.reader(), self.counts.clone());
        self.handler.get_or_insert_with(|| Handler::new(plan, reader, NodeId(1), 1_700_000_000, counts))
    }

    fn bytes(&mut self, asking: &[u8]) -> Option<Vec<u8>> {
        let from = self.from;
        let mut out = Vec::new();
        let handler = self.handler();
        handler.answer(from, asking, &mut out).then_some(out)
    }

    fn send(&mut self, asking: &Asking) -> Message {
        let bytes = self.bytes(&asking.bytes).expect("it is answered");
        Message::from_vec(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"))
    }

    fn ask(&mut self, name: &str, kind: RecordType) -> Message {
        self.send(&Asking::new(name, kind).with_edns(4_096))
    }

    /// The data of the answers as text, sorted.
    fn told(&mut self, name: &str, kind: RecordType) -> Vec<String> {
        data(&self.ask(name, kind).answers)
    }

    fn code(&mut self, name: &str) -> (ResponseCode, bool) {
        let answer = self.ask(name, RecordType::A);
        assert!(answer.answers.is_empty(), "{answer:?}");
        (answer.metadata.response_code, answer.authorities.iter().any(|record| matches!(record.data, RData::SOA(_))))
    }

    fn stats(&self) -> DnsStats {
        self.counts.read()
    }
}

fn data(records: &[Record]) -> Vec<String> {
    let mut data: Vec<_> = records.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

const A: RecordType = RecordType::A;
const AAAA: RecordType = RecordType::AAAA;
const SRV: RecordType = RecordType::SRV;
const EMPTY: (ResponseCode, bool) = (ResponseCode::NoError, true);
const NOTHING: (ResponseCode, bool) = (ResponseCode::NXDomain, true);

#[test]
fn a_service_is_found_by_addresses_of_either_kind() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80")), (2, at("web", "[2001:db8::2]:80"))]);
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1"]);
    assert_eq!(lab.told("web.service.tidings", AAAA), ["2001:db8::2"]);
    let answer = lab.ask("web.service.tidings", A);
    assert!(answer.metadata.authoritative && !answer.metadata.recursion_available && !answer.metadata.truncation);
    assert_eq!((answer.metadata.id, answer.metadata.recursion_desired), (0x1234, true));
    let stats = lab.stats();
    assert_eq!((stats.a, stats.aaaa, stats.udp, stats.answered), (2, 1, 3, 3));
}

#[test]
fn an_srv_record_has_port_and_weight_and_its_address_comes_along() {
    let mut lab =
        Lab::offering([(1, at("web", "10.0.0.1:80").with_weight(10)), (2, at("web", "10.9.9.9:81").with_weight(1))]);
    for name in ["_web._tcp.service.tidings", "web.service.tidings", "_web._tcp.tidings"] {
        let answer = lab.ask(name, SRV);
        let hex = "1 256 81 0a090909.addr.dc1.tidings.";
        assert_eq!(data(&answer.answers), [hex, "1 2560 80 n1.node.dc1.tidings."], "{name}");
        let beside: BTreeMap<_, _> =
            answer.additionals.iter().map(|record| (record.name.to_string(), record.data.to_string())).collect();
        let expected = [("0a090909.addr.dc1.tidings.", "10.9.9.9"), ("n1.node.dc1.tidings.", "10.0.0.1")];
        assert_eq!(beside, expected.map(|(name, ip)| (name.to_owned(), ip.to_owned())).into());
    }
    assert_eq!(lab.told("n1.node.dc1.tidings", A), ["10.0.0.1"], "a target is a name that is answered");
    assert_eq!(lab.told("0a090909.addr.dc1.tidings", A), ["10.9.9.9"]);
}

#[test]
fn a_target_is_no_name_that_leads_elsewhere() {
    let mut lab = Lab::new();
    for (id, name) in [(3, "same"), (4, "SAME"), (5, "no host.name")] {
        lab.view.apply(&Event::MemberUp(member(id, name, MemberState::Reachable)));
    }
    lab.offer([(3, at("web", "10.0.0.3:80")), (5, at("web", "10.0.0.5:80"))]);
    let targets = ["1 256 80 0a000003.addr.dc1.tidings.", "1 256 80 0a000005.addr.dc1.tidings."];
    assert_eq!(lab.told("web.service.tidings", SRV), targets);
}

#[test]
fn with_near_the_own_zone_comes_first_and_then_the_others_by_distance() {
    let mut lab = Lab::new();
    lab.plan.near = true;
    for (id, zone) in [(3, "far"), (4, "next"), (5, "unknown")] {
        lab.view.apply(&Event::MemberUp(member_in(zone, id, &format!("n{id}"), MemberState::Reachable)));
    }
    lab.offer((1..=5).map(|id| (id, at("web", &format!("10.0.0.{id}:80")))));
    // The zone that an instance names is its own, wherever its member is.
    lab.offer([(3, at("web", "10.0.0.6:80").with_zone("z1")), (5, at("names", "a.example:80"))]);
    lab.offer([(1, at("names", "b.example:80"))]);
    let zone = zone::Zone::new(lab.plan.clone(), lab.view.reader(), NodeId(1), 1, lab.counts.clone());
    zone.measure(&[(3, 80), (4, 20)].map(|(id, ms)| (NodeId(id), std::time::Duration::from_millis(ms))).into());
    lab.handler = Some(Handler::of(Arc::new(zone)));
    let mut first = BTreeSet::new();
    for _ in 0..100 {
        let told: Vec<_> = lab.ask("web.service.tidings", A).answers.iter().map(|one| one.data.to_string()).collect();
        assert_eq!(data(&lab.ask("web.service.tidings", A).answers[..3]), ["10.0.0.1", "10.0.0.2", "10.0.0.6"]);
        assert_eq!(told[3..], ["10.0.0.4", "10.0.0.3", "10.0.0.5"]);
        first.insert(told[0].clone());
        assert_eq!(lab.told("names.service.tidings", A), ["b.example."]);
    }
    assert_eq!(first.len(), 3, "within a zone they come in any order");
    let priorities: Vec<_> = lab.told("web.service.tidings", SRV).iter().map(|data| data[..1].to_owned()).collect();
    assert_eq!(priorities, ["1", "1", "1", "2", "3", "4"]);
}

#[test]
fn two_registrations_of_one_place_are_one_answer() {
    let mut lab = Lab::offering([
        (1, at("web", "10.0.0.1:80").with_weight(3)),
        (1, at("web", "10.0.0.1:80").with_id("again").with_weight(7)),
        (2, at("web", "10.0.0.1:81")),
    ]);
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1"]);
    let ports: Vec<_> = lab.told("web.service.tidings", SRV);
    assert_eq!(ports, ["1 1792 80 n1.node.dc1.tidings.", "1 256 81 0a000001.addr.dc1.tidings."]);
}

#[test]
fn a_tag_narrows_and_a_group_is_found_by_its_name_alone() {
    let mut lab = Lab::offering([
        (1, at("web", "10.0.0.1:80").with_tag("V1").with_tag("a.b")),
        (2, at("web", "10.0.0.2:80").with_tag("v2")),
        (2, at("web", "10.0.0.3:80").with_group("vip").with_tag("v1")),
    ]);
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(lab.told("v1.web.service.tidings", A), ["10.0.0.1"]);
    assert_eq!(lab.told("a.b.web.service.tidings", A), ["10.0.0.1"]);
    assert_eq!(lab.told("_web._v2.service.tidings", A), ["10.0.0.2"]);
    assert_eq!(lab.told("vip.web.service.tidings", A), ["10.0.0.3"]);
    assert_eq!(lab.code("v3.web.service.tidings"), EMPTY, "the service is known");
}

#[test]
fn a_namespace_has_services_of_its_own() {
    let mut lab = Lab::offering([
        (1, at("web", "10.0.0.1:80")),
        (2, at("web", "10.0.0.2:80").with_namespace("Prod").with_tag("v1")),
    ]);
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1"]);
    for name in ["web.service.prod.ns.tidings", "v1.web.service.prod.ns.tidings", "_web._tcp.service.prod.ns.tidings"] {
        assert_eq!(lab.told(name, A), ["10.0.0.2"], "{name}");
    }
    assert_eq!(lab.code("web.service.test.ns.tidings"), EMPTY);
}

#[test]
fn names_with_dots_are_found_and_so_is_what_stands_behind_their_dots() {
    let mut lab = Lab::offering([(1, at("api.v2", "10.0.0.1:80").with_tag("a"))]);
    assert_eq!(lab.told("api.v2.service.tidings", A), ["10.0.0.1"]);
    assert_eq!(lab.told("a.api.v2.service.tidings", A), ["10.0.0.1"]);
    assert_eq!(lab.code("v2.service.tidings"), EMPTY);
    assert_eq!(lab.code("v3.service.tidings"), NOTHING);
}

#[test]
fn names_are_the_same_in_any_case_and_come_back_as_they_were_written() {
    let mut lab = Lab::offering([(1, at("WebShop", "10.0.0.1:80")), (2, at("webshop", "10.0.0.2:80"))]);
    let asking = Asking::new("wEbShOp.SERVICE.TiDings", A);
    let bytes = lab.bytes(&asking.bytes).expect("it is answered");
    assert_eq!(bytes[12..asking.bytes.len()], asking.bytes[12..], "the question is repeated byte by byte");
    assert_eq!(lab.told("wEbShOp.SERVICE.TiDings", A), ["10.0.0.1", "10.0.0.2"]);
    lab.offer([(1, at("LATE", "10.0.0.3:80"))]);
    lab.handler().look();
    assert_eq!(lab.told("late.service.tidings", A), ["10.0.0.3"]);
}

#[test]
fn the_alternative_domain_has_the_same_names() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80"))]);
    assert_eq!(lab.told("web.service.consul", A), ["10.0.0.1"]);
    assert_eq!(lab.told("web.service.dc1.consul", SRV), ["1 256 80 n1.node.dc1.consul."]);
    assert_eq!(lab.ask("web.service.example", A).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn a_name_that_was_heard_of_is_empty_and_only_one_that_never_was_is_no_name() {
    let mut lab =
        Lab::offering([(1, at("web", "10.0.0.1:80").with_status(Status::Critical)), (1, at("old", "10.0.0.1:81"))]);
    lab.handler();
    let gone = Arc::new(at("old", "10.0.0.1:81"));
    let reason = crate::effect::GoneReason::Withdrawn;
    lab.view.apply(&Event::ServiceDown { owner: NodeId(1), instance: gone, reason });
    lab.view.apply(&Event::MemberLeft(member(2, "n2", MemberState::Left)));
    lab.view.publish();
    for name in
        ["web.service.tidings", "old.service.tidings", "n2.node.tidings", "service.tidings", "_tcp.service.tidings"]
    {
        assert_eq!(lab.code(name), EMPTY, "{name}");
    }
    for name in ["wbe.service.tidings", "n3.node.tidings", "x.tidings", "_wbe._tcp.service.tidings"] {
        assert_eq!(lab.code(name), NOTHING, "{name}");
    }
    assert_eq!((lab.stats().nodata, lab.stats().nxdomain), (5, 4));
}

#[test]
fn what_is_not_there_is_not_kept() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80"))]);
    for name in ["wbe.service.tidings", "service.tidings"] {
        let answer = lab.ask(name, A);
        let [soa] = &answer.authorities[..] else { panic!("{answer:?}") };
        let RData::SOA(data) = &soa.data else { panic!("{soa:?}") };
        assert_eq!((soa.ttl, data.minimum), (0, 0));
        assert_eq!(soa.name.to_string(), "tidings.");
    }
}

#[test]
fn an_empty_service_can_be_no_name_as_it_is_with_consul() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80").with_status(Status::Critical))]);
    lab.plan.empty = Empty::NxDomain;
    assert_eq!(lab.code("web.service.tidings"), NOTHING);
    assert_eq!(lab.code("service.tidings"), EMPTY, "what has names below it is there");
}

#[test]
fn only_what_can_do_its_work_and_can_be_reached_is_told() {
    let status = |status: &str| status.parse::<Status>().expect("a status");
    let mut lab = Lab::new();
    lab.view.apply(&Event::MemberUp(member(3, "n3", MemberState::Unreachable)));
    lab.view.apply(&Event::MemberUp(member(4, "n4", MemberState::Suspect)));
    lab.offer([
        (1, at("web", "10.0.0.1:80")),
        (1, at("web", "10.0.0.1:81").with_status(status("critical"))),
        (1, at("web", "10.0.0.1:82").with_status(status("maintenance:disk"))),
        (1, at("web", "10.0.0.1:83").with_status(status("starting"))),
        (2, at("web", "10.0.0.2:84").with_status(status("warning"))),
        (3, at("web", "10.0.0.3:85")),
        (4, at("web", "10.0.0.4:86")),
    ]);
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(lab.ask("web.service.tidings", SRV).answers.len(), 2);
    lab.plan.only_passing = true;
    lab.handler = None;
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1"]);
}

#[test]
fn one_that_drains_has_weight_0_before_it_is_gone() {
    let mut lab = Lab::offering([
        (1, at("web", "10.0.0.1:80")),
        (2, at("web", "10.0.0.2:80").with_weight(9).with_status(Status::Draining)),
    ]);
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1"], "addresses have no weights");
    let told = lab.told("web.service.tidings", SRV);
    assert_eq!(told, ["1 0 80 n2.node.dc1.tidings.", "1 256 80 n1.node.dc1.tidings."]);
}

#[test]
fn a_weight_of_0_gets_nothing() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80")), (2, at("web", "10.0.0.2:80").with_weight(0))]);
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1"]);
    assert_eq!(lab.told("web.service.tidings", SRV)[0], "1 0 80 n2.node.dc1.tidings.");
}

#[test]
fn before_the_member_joined_nobody_is_told_that_there_is_no_such_name() {
    let mut view = View::new();
    view.apply(&Event::MemberUp(member(1, "n1", MemberState::Reachable)));
    let instance = Arc::new(at("web", "10.0.0.1:80"));
    view.apply(&Event::ServiceUp { owner: NodeId(1), instance });
    view.publish();
    let mut lab = Lab { view, ..Lab::new() };
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.1"], "what is known is known");
    assert_eq!(lab.ask("db.service.tidings", A).metadata.response_code, ResponseCode::ServFail);
    lab.view.ready();
    assert_eq!(lab.code("db.service.tidings"), NOTHING);
    lab.view.stop(StopReason::Left);
    assert_eq!(lab.ask("web.service.tidings", A).metadata.response_code, ResponseCode::ServFail);
    assert_eq!(lab.stats().servfail, 2);
}

#[test]
fn while_cut_off_it_answers_with_the_last_it_knew_and_counts_that() {
    let mut lab = Lab::offering([(2, at("web", "10.0.0.2:80"))]);
    lab.plan.ttls.add("*=30s").expect("a rule");
    let ttl = |answer: &Message| answer.answers.iter().map(|record| record.ttl).collect::<Vec<_>>();
    assert_eq!(ttl(&lab.ask("web.service.tidings", A)), [30]);
    lab.view.apply(&Event::CutOff(true));
    lab.view.apply(&Event::MemberChanged(member(2, "n2", MemberState::Unreachable)));
    lab.view.publish();
    assert_eq!(lab.told("web.service.tidings", A), ["10.0.0.2"]);
    assert_eq!(ttl(&lab.ask("web.service.tidings", SRV)), [0], "nobody should keep what may be wrong");
    assert_eq!((lab.stats().isolated, lab.stats().stale), (2, 2));
}

#[test]
fn an_answer_may_be_kept_for_as_long_as_the_rules_say() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80")), (1, at("db", "10.0.0.1:81"))]);
    lab.plan.ttls.add("w*=7s").expect("a rule");
    lab.plan.node_ttl = std::time::Duration::from_secs(9);
    let mut ttls = |name: &str, kind| {
        let answer = lab.ask(name, kind);
        let all = answer.answers.iter().chain(&answer.additionals);
        all.map(|record| record.ttl).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(ttls("web.service.tidings", A), [7]);
    assert_eq!(ttls("WEB.service.tidings", SRV), [7]);
    assert_eq!(ttls("db.service.tidings", A), [0]);
    assert_eq!(ttls("n1.node.tidings", A), [9]);
}

#[test]
fn answers_come_in_any_order() {
    let mut lab = Lab::offering((1..=3).map(|n| (1, at("web", &format!("10.0.9.{n}:80")))));
    for kind in [A, SRV] {
        let firsts: BTreeSet<_> =
            (0..100).map(|_| lab.ask("web.service.tidings", kind).answers[0].data.to_string()).collect();
        assert_eq!(firsts.len(), 3);
    }
}

#[test]
fn what_has_no_room_is_left_out_last_the_answers_and_that_is_said() {
    let mut lab = Lab::offering((1..=24).map(|n| (1, at("web", &format!("10.0.9.{n}:80")))));
    let sizes = |lab: &mut Lab, asking: &Asking| {
        let bytes = lab.bytes(&asking.bytes).expect("it is answered");
        let answer = Message::from_vec(&bytes).expect("it can be read");
        (bytes.len(), answer.answers.len(), answer.additionals.len(), answer.metadata.truncation)
    };
    let asking = Asking::new("web.service.tidings", SRV);
    let (len, answers, additional, is_cut) = sizes(&mut lab, &asking);
    assert!(len <= 512 && (5..24).contains(&answers) && additional == 0 && is_cut, "{len} {answers}");
    let (len, answers, additional, is_cut) = sizes(&mut lab, &asking.clone().with_edns(4_096));
    // RFC 2181 section 9: what is merely helpful may be missing without a word.
    assert!(len <= 1_232 && answers == 24 && additional < 24 && !is_cut, "{len} {answers} {additional}");
    lab.from.is_tcp = true;
    assert_eq!(sizes(&mut lab, &asking).1, 24);
    let (_, answers, additional, is_cut) = sizes(&mut lab, &asking.clone().with_edns(512));
    assert_eq!((answers, additional, is_cut), (24, 24, false), "over TCP there is room");
    lab.from.is_tcp = false;
    lab.plan.udp_bytes_max = 4_096;
    lab.handler = None;
    let (len, answers, additional, is_cut) = sizes(&mut lab, &asking.with_edns(8_192));
    assert!((1_232..4_096).contains(&len) && answers == 24 && additional == 24 && !is_cut, "{len}");
    assert_eq!(lab.stats().truncated, 1);
}

#[test]
fn no_answer_is_longer_than_its_client_takes() {
    let instances = (0..200).map(|n| (1, at("web", &format!("10.0.{}.{n}:80", n % 3)).with_meta("k", "v".repeat(50))));
    let mut lab = Lab::offering(instances);
    lab.plan.has_text = true;
    lab.plan.udp_bytes_max = 4_096;
    for payload in (0..5_000).step_by(7) {
        for kind in [A, SRV, RecordType::TXT] {
            let asking = Asking::new("web.service.tidings", kind).with_edns(payload);
            let bytes = lab.bytes(&asking.bytes).expect("it is answered");
            assert!(bytes.len() <= usize::from(payload.clamp(512, 4_096)), "{payload}");
            let answer = Message::from_vec(&bytes).expect("it can be read");
            assert!(answer.metadata.truncation && answer.edns.is_some());
        }
    }
}

#[test]
fn of_too_many_instances_some_are_drawn() {
    let instances = (0..2_000_u32).map(|n| (1, at("web", &format!("10.1.{}.{}:80", n / 250, n % 250))));
    let mut lab = Lab::offering(instances);
    lab.from.is_tcp = true;
    for kind in [A, SRV] {
        let answer = lab.ask("web.service.tidings", kind);
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (ANSWERS_MAX, false), "{kind}");
    }
    assert_eq!(lab.stats().capped, 2);
    lab.from.is_tcp = false;
    for kind in [A, SRV] {
        let answer = lab.ask("web.service.tidings", kind);
        assert!(answer.metadata.truncation && answer.answers.len() > 20, "over UDP it says so");
    }
    assert_eq!((lab.stats().capped, lab.stats().truncated), (2, 2));
}

#[test]
fn whatever_is_not_ours_is_refused() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80"))]);
    for name in ["", "example.com", "localhost", "tidings.example", "7.7.7.7.in-addr.arpa"] {
        let answer = lab.ask(name, A);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(!answer.metadata.authoritative && answer.answers.is_empty() && answer.authorities.is_empty());
    }
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(lab.ask("tidings", kind).metadata.response_code, ResponseCode::Refused);
    }
    let mut chaos = Asking::new("version.bind", RecordType::TXT);
    let class = chaos.bytes.len() - 1;
    chaos.bytes[class] = 3;
    assert_eq!(lab.send(&chaos).metadata.response_code, ResponseCode::Refused);
    assert_eq!(lab.stats().refused, 8);
}

#[test]
fn the_domain_itself_has_an_soa_and_a_name_server_that_has_an_address() {
    let mut lab = Lab::new();
    lab.plan.bind = "0.0.0.0:53".parse().expect("an address");
    let before = lab.told("tidings", RecordType::SOA);
    assert!(before[0].starts_with("ns.tidings. hostmaster.tidings. 17"), "{before:?}");
    let answer = lab.ask("tidings", RecordType::NS);
    assert_eq!(
        (data(&answer.answers), data(&answer.additionals)),
        (vec!["ns.tidings.".into()], vec!["10.0.0.1".into()])
    );
    assert_eq!(lab.told("ns.tidings", A), ["10.0.0.1"]);
    assert_eq!(lab.code("tidings"), EMPTY);
    lab.offer([(1, at("web", "10.0.0.1:80"))]);
    assert!(lab.told("tidings", RecordType::SOA) > before, "the serial number grows with every change");
}

#[test]
fn addresses_lead_back_to_names() {
    let external = External { node: "rds".into(), address: "10.0.0.9".into(), id: "db-1".into() };
    let marked = at("db", "10.0.0.9:5432")
        .with_meta(crate::offers::EXTERNAL_NODE, external.node)
        .with_meta(crate::offers::EXTERNAL_ADDRESS, external.address)
        .with_meta(crate::offers::EXTERNAL_ID, external.id);
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80")), (1, at("web", "10.7.7.7:80")), (2, marked)]);
    let ptr = RecordType::PTR;
    assert_eq!(lab.told("1.0.0.10.in-addr.arpa", ptr), ["n1.node.dc1.tidings."]);
    assert_eq!(lab.told("7.7.7.10.in-addr.arpa", ptr), ["web.service.tidings."]);
    assert_eq!(lab.told("9.0.0.10.IN-ADDR.ARPA", ptr), ["db.service.tidings.", "rds.node.dc1.tidings."]);
    assert_eq!(lab.told("rds.node.tidings", A), ["10.0.0.9"]);
    assert_eq!(lab.ask("8.0.0.10.in-addr.arpa", ptr).metadata.response_code, ResponseCode::Refused);
    assert_eq!(lab.told("db.service.tidings", SRV), ["1 256 5432 0a000009.addr.dc1.tidings."]);
}

#[test]
fn members_are_found_whether_they_can_be_reached_or_not() {
    let mut lab = Lab::new();
    lab.view.apply(&Event::MemberUp(member(3, "N3", MemberState::Unreachable)));
    lab.view.apply(&Event::MemberUp(member(4, "n4", MemberState::Down)));
    lab.view.publish();
    assert_eq!(lab.told("n1.node.tidings", A), ["10.0.0.1"]);
    assert_eq!(lab.told("n3.node.dc1.tidings", A), ["10.0.0.3"]);
    assert_eq!(lab.code("n4.node.tidings"), EMPTY, "its address may be another's by now");
    assert!(lab.told("n1.node.tidings", AAAA).is_empty());
}

#[test]
fn an_instance_at_a_name_is_that_name() {
    let mut lab = Lab::offering([(1, at("db", "db.example.com:5432")), (2, at("any", "0.0.0.0:80"))]);
    assert_eq!(lab.told("db.service.tidings", A), ["db.example.com."]);
    assert_eq!(lab.ask("db.service.tidings", AAAA).answers[0].record_type(), RecordType::CNAME);
    let answer = lab.ask("db.service.tidings", SRV);
    assert_eq!(data(&answer.answers), ["1 256 5432 db.example.com."]);
    assert!(answer.additionals.is_empty());
    assert_eq!(lab.told("any.service.tidings", A), ["10.0.0.2"], "its member's address");
    lab.offer([(2, at("db", "10.0.0.2:5432"))]);
    assert_eq!(lab.told("db.service.tidings", A), ["10.0.0.2"], "an alias has no addresses beside it");
}

#[test]
fn who_asks_for_anything_gets_the_least() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80"))]);
    for name in ["web.service.tidings", "n1.node.tidings", "tidings"] {
        let told = lab.ask(name, RecordType::ANY);
        assert_eq!((told.answers.len(), told.answers[0].record_type()), (1, RecordType::HINFO), "{name}");
    }
    assert_eq!(lab.ask("wbe.service.tidings", RecordType::ANY).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn metadata_is_told_only_where_it_shall_be() {
    let web = at("web", "10.0.0.1:80").with_version("1.2").with_meta("rack", "b7").with_meta("long", "x".repeat(300));
    let mut lab = Lab::offering([(1, web)]);
    let txt = RecordType::TXT;
    assert!(lab.told("web.service.tidings", txt).is_empty() && lab.told("n1.node.tidings", txt).is_empty());
    lab.plan.has_text = true;
    lab.handler = None;
    let texts = |answer: &Message| {
        let RData::TXT(text) = &answer.answers[0].data else { panic!("{answer:?}") };
        text.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts(&lab.ask("web.service.tidings", txt)), ["id=web@10.0.0.1:80", "version=1.2", "rack=b7"]);
    assert_eq!(texts(&lab.ask("n1.node.tidings", txt)), ["id=0000000000000001", "version=0.1.0", "zone=z1"]);
}

#[test]
fn edns_is_answered_with_edns_and_only_then() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80"))]);
    let asking = Asking::new("web.service.tidings", A);
    assert!(lab.send(&asking).edns.is_none());
    let mut asking = asking.with_edns(4_096);
    // A client subnet (RFC 7871) and the wish for DNSSEC.
    let at = asking.bytes.len() - 4;
    asking.bytes[at] = 0x80;
    asking.bytes.truncate(at + 2);
    asking.bytes.extend([0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2]);
    let edns = lab.send(&asking).edns.expect("there is one");
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1_232, true));
    assert!(edns.options().as_ref().is_empty(), "whatever else was in there is not repeated");
    let version = at - 1;
    asking.bytes[version] = 1;
    let answer = lab.send(&asking);
    // 16 is BADVERS in an answer with EDNS, and BADSIG in one with a signature.
    assert_eq!((u16::from(answer.metadata.response_code), answer.answers.len()), (16, 0));
    assert_eq!(lab.stats().badvers, 1);
}

#[test]
fn what_is_no_question_is_told_so_in_a_header_or_not_at_all() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80"))]);
    let good = Asking::new("web.service.tidings", A).bytes;
    let changed = |place: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[place] = to;
        bytes
    };
    assert_eq!(lab.bytes(&changed(2, 0x81)), None, "an answer is not answered");
    assert_eq!(lab.bytes(&good[..11]), None);
    let codes = [
        (changed(2, 0x29), 4),
        (changed(5, 2), 1),
        (changed(4, 255), 1),
        (good[..20].to_vec(), 1),
        (changed(12, 200), 1),
    ];
    for (bytes, code) in codes {
        let answer = lab.bytes(&bytes).expect("it is answered");
        assert_eq!((answer.len(), answer[3] & 0xf, answer[2] & 0x80), (12, code, 0x80));
        assert_eq!(answer[..2], bytes[..2]);
    }
    let mut long = Asking::new("web.service.tidings", A).with_edns(512).bytes;
    long.resize(QUESTION_BYTES_MAX + 1, 0);
    assert_eq!(lab.bytes(&long).expect("it is answered").len(), 12);
    assert_eq!((lab.stats().dropped, lab.stats().notimp, lab.stats().formerr), (2, 1, 5));
}

#[test]
fn one_network_off_this_machine_gets_so_many_answers_a_second_and_then_short_ones() {
    let mut lab = Lab::offering([(1, at("web", "10.0.0.1:80"))]);
    lab.plan.rate = 10;
    lab.from = Source { ip: STRANGER, is_tcp: false, now: 5_000_000_000 };
    let asking = Asking::new("web.service.tidings", SRV).with_edns(4_096);
    let mut kinds = BTreeMap::new();
    for _ in 0..30 {
        let answer = lab.bytes(&asking.bytes);
        let kind = match &answer {
            None => "none",
            Some(bytes) if bytes[2] & 2 != 0 => {
                assert!(bytes.len() <= asking.bytes.len(), "nothing is gained by it");
                "cut"
            }
            Some(_) => "whole",
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(kinds, BTreeMap::from([("whole", 10), ("cut", 10), ("none", 10)]));
    assert_eq!((lab.stats().slipped, lab.stats().limited), (10, 10));
    lab.from.is_tcp = true;
    assert_eq!(lab.send(&asking).answers.len(), 1, "over TCP it is known who asks");
    lab.from = Source { ip: LOCAL, ..lab.from };
    lab.from.is_tcp = false;
    assert!((0..100).all(|_| lab.bytes(&asking.bytes).is_some_and(|bytes| bytes[2] & 2 == 0)), "this machine may");
}

/// Nobody can use us to send others more than was sent to us for nothing.
#[test]
fn a_hundred_thousand_random_packets_do_no_harm_and_none_is_answered_with_more() {
    let mut lab = Lab::offering((1..=20).map(|n| (1, at("web", &format!("10.0.9.{n}:80")))));
    lab.plan.rate = 0;
    lab.from.ip = STRANGER;
    let seed = [7; 32];
    println!("seed {seed:?}");
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let good = Asking::new("_web._tcp.service.tidings", SRV).with_edns(1_232).bytes;
    let (mut answered, mut silent) = (0, 0);
    for round in 0..100_000 {
        let is_junk = round % 2 == 0;
        let bytes = if is_junk {
            let mut bytes = vec![0; random.next_u32() as usize % 600];
            random.fill_bytes(&mut bytes);
            // Otherwise hardly any would be taken for a single question.
            if round % 4 == 0 && bytes.len() > 12 {
                bytes[2] &= 0x07;
                bytes[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, (round % 3) as u8]);
            }
            bytes
        } else {
            let mut bytes = good.clone();
            for _ in 0..=random.next_u32() % 4 {
                let place = random.next_u32() as usize % bytes.len();
                bytes[place] = random.next_u32() as u8;
            }
            bytes.truncate(random.next_u32() as usize % (2 * bytes.len()));
            bytes
        };
        lab.from.is_tcp = round % 5 == 0;
        let Some(answer) = lab.bytes(&bytes) else {
            silent += 1;
            continue;
        };
        answered += 1;
        let code = answer[3] & 0xf;
        let is_meant = !is_junk && matches!(code, 0 | 3);
        assert!(is_meant || answer.len() <= bytes.len(), "{} for {}: {bytes:?}", answer.len(), bytes.len());
        assert!(answer.len() >= 12 && answer[2] & 0x80 != 0 && answer[..2] == bytes[..2]);
        if answer.len() > 12 {
            Message::from_vec(&answer).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
        }
    }
    let stats = lab.stats();
    assert!(answered > 40_000 && silent > 10_000, "{answered} {silent}");
    assert!(stats.formerr > 1_000 && stats.refused > 100 && stats.answered > 1_000, "{stats:?}");
    assert_eq!(stats.udp + stats.tcp, 100_000);
}
