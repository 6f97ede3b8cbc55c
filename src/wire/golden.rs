//! Wire version 1, byte for byte: every section, question, answer and kind of record, with every field set. A change
//! of these bytes is a new wire version; once version 1 is released they stay as they are for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::peer::{Epoch, Generation, NodeId, Peer};
use crate::record::{Content, Endpoint, Host, Instance, Key, MemberRecord, Owner, Status};
use crate::verdict::{Finding, Verdict};

/// With this variable set the files are written anew instead of compared.
const WRITE: &str = "TIDINGS_GOLDEN";

/// What a test has encoded: a name and, indented, its bytes.
#[derive(Default)]
struct Vectors(String);

impl Vectors {
    const BYTES_PER_LINE: usize = 40;

    fn note(&mut self, what: &str, bytes: &[u8]) {
        self.0 += &format!("{what}\n");
        for line in bytes.chunks(Self::BYTES_PER_LINE) {
            let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            self.0 += &format!("    {hex}\n");
        }
    }

    fn check(self, file: &str, golden: &str) {
        if std::env::var_os(WRITE).is_some() {
            let path = format!("{}/src/wire/golden/{file}", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(path, self.0).unwrap();
        } else {
            assert_eq!(self.0, golden, "{file}");
        }
    }
}

/// The first word of what a value is.
fn name(value: &impl Debug) -> String {
    format!("{value:?}").split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

const EPOCH: Epoch = 0x6543_2100;

fn peer() -> Peer {
    let addr = "10.0.0.1:7900".parse().unwrap();
    Peer {
        id: NodeId(0x0102_0304_0506_0708),
        addr,
        generation: Generation::new(EPOCH, 9),
        nonce: 0xa1a2_a3a4_a5a6_a7a8,
    }
}

fn other() -> Peer {
    let addr = "[2001:db8::1]:65535".parse().unwrap();
    Peer { id: NodeId(3), addr, generation: Generation::new(7, 0), nonce: 5 }
}

fn owner() -> Owner {
    Owner { id: peer().id, epoch: EPOCH }
}

fn record(body: Body) -> Record {
    Record { owner: owner(), key: Key::from("web-1"), version: 300, body }
}

fn body_of(fill: impl FnOnce(&mut Outgoing)) -> Vec<u8> {
    let mut filling = Outgoing::new(&Header::new(Kind::Gossip, 1, &peer(), 3));
    fill(&mut filling);
    filling.finish().split_off(HEADER_BYTES)
}

/// Notes the section that `fill` writes, which must be read as `section`.
fn note_section(vectors: &mut Vectors, what: &str, section: &Section, fill: impl FnOnce(&mut Outgoing)) {
    let body = body_of(fill);
    vectors.note(what, &body);
    assert_eq!(Sections::new(&body).collect::<Vec<_>>(), [Ok(section.clone())], "{what}");
}

#[test]
fn the_sections_of_version_1_are_these_bytes() {
    let mut vectors = Vectors::default();
    let messages = [
        SwimMessage::Ping(7),
        SwimMessage::Ack(7),
        SwimMessage::PingReq { target: other(), number: 7 },
        SwimMessage::IndirectPing { origin: other(), number: 7 },
        SwimMessage::IndirectAck { target: other(), number: 7 },
        SwimMessage::ForwardedAck { origin: other(), number: 7 },
        SwimMessage::Announce,
        SwimMessage::Feed,
        SwimMessage::Gossip,
        SwimMessage::TurnUndead,
    ];
    for message in messages {
        let update = |peer, state| SwimUpdate { peer, incarnation: 300, state };
        let section = SwimSection {
            src_bump: 1,
            src_incarnation: 2,
            dst_nonce: 0xa5a6_a7a8,
            dst_bump: 3,
            message,
            updates: vec![update(peer(), 0), update(other(), 1)],
        };
        let what = format!("swim {}", name(&section.message));
        note_section(&mut vectors, &what, &Section::Swim(section.clone()), |into| into.swim(&section).unwrap());
    }
    let (content, large) = (Bytes::from_static(b"content"), Bytes::from(vec![7; 20_000]));
    let bodies = [BodyRef::Gone, BodyRef::Live(&content), BodyRef::Live(&large)];
    let encoded = bodies.map(|body| Record::encode(owner(), &Key::from("web-1"), 300, body));
    let records = vec![
        record(Body::Gone),
        record(Body::Live(content.clone())),
        record(Body::Large { len: 20_000, hash: content_hash(&large) }),
    ];
    note_section(&mut vectors, "rumors", &Section::Rumors { until: 77, records }, |into| {
        into.rumors(77, encoded.iter().map(|bytes| &bytes[..])).unwrap();
    });
    let fingerprints = Fingerprints { records: 1, members: 2, wants_answer: true, epoch: 5 };
    note_section(&mut vectors, "fingerprints", &Section::Fingerprints(fingerprints), |into| {
        into.fingerprints(fingerprints).unwrap();
    });
    for addr in [peer().addr, other().addr] {
        let hello = Hello { generation: Generation::new(EPOCH, 2), addr, wire: (1, 1), cookie: 0x1122_3344_5566_7788 };
        note_section(&mut vectors, "hello", &Section::Hello(hello), |into| into.hello(&hello).unwrap());
    }
    for reason in [RefusalReason::Cluster, RefusalReason::Version, RefusalReason::Key] {
        let refusal = Refusal { reason, wire: (1, 1) };
        let what = format!("refusal {}", name(&reason));
        note_section(&mut vectors, &what, &Section::Refusal(refusal), |into| into.refusal(&refusal).unwrap());
    }
    let accusation = Some(Accusation { nonce: 0xa5a6_a7a8, bump: 9, turn: 301, finding: Finding::Silent });
    let probes = [
        Probe::Ping { number: 70_000, accusation: None },
        Probe::Pong { number: 70_000, accusation },
        Probe::Ask { case: 5, accused: other(), probes: 6, wait_ms: 80 },
        Probe::Report { case: 5, accused: (6, 1), accuser: (6, 5) },
    ];
    for probe in probes {
        let what = format!("probe {}", name(&probe));
        note_section(&mut vectors, &what, &Section::Probe(probe), |into| into.probe(&probe).unwrap());
    }
    let verdict = |turn, finding| Verdict {
        subject: other().id,
        generation: other().generation,
        turn,
        finding,
        by: peer().id,
        witnesses: 3,
    };
    let verdicts = vec![
        verdict(300, Finding::Clear),
        verdict(301, Finding::Silent),
        verdict(303, Finding::Lossy),
        verdict(305, Finding::Down),
        verdict(307, Finding::Forgotten),
    ];
    note_section(&mut vectors, "verdicts", &Section::Verdicts { until: 77, verdicts: verdicts.clone() }, |into| {
        into.verdicts(77, &verdicts).unwrap();
    });
    let notice =
        Section::Notice { number: 0x0102_0304, records: vec![record(Body::Gone), record(Body::Live(content))] };
    note_section(&mut vectors, "notice", &notice, |into| {
        into.notice(0x0102_0304, encoded[..2].iter().map(|bytes| &bytes[..])).unwrap();
    });
    note_section(&mut vectors, "receipt", &Section::Receipt(0x0102_0304), |into| into.receipt(0x0102_0304).unwrap());
    let canary = Canary { origin: NodeId(3), epoch: EPOCH, number: 7, until: 77, age_us: 1_500_000 };
    note_section(&mut vectors, "canary", &Section::Canary(canary), |into| into.canary(&canary).unwrap());
    vectors.check("sections.txt", include_str!("golden/sections.txt"));
}

fn delta() -> Delta {
    Delta {
        owner: owner(),
        since: 299,
        watermark: 300,
        is_whole: true,
        more: false,
        records: vec![record(Body::Live(Bytes::from_static(b"content")))],
    }
}

fn listed() -> Vec<Listed> {
    let judged = ListedState::Judged { turn: 301, finding: Finding::Lossy, by: NodeId(3), witnesses: 4 };
    vec![Listed { peer: peer(), state: judged }, Listed { peer: other(), state: ListedState::Left }]
}

#[test]
fn the_frames_of_version_1_are_these_bytes() {
    let want = Want { id: NodeId(3), epoch: 7, since: 4, whole: true };
    let mut sums = vec![0; 256];
    (sums[0], sums[255]) = (1, u64::MAX);
    let asks = [
        Ask::Pull { asker: peer(), after: Some(NodeId(3)), own: vec![delta()] },
        Ask::Compare { asker: peer(), salt: 5, sums, members: 6 },
        Ask::Trade { asker: peer(), want: vec![want], give: vec![delta()], members: listed() },
        Ask::Content { asker: peer(), owner: owner(), key: Key::from("web-1"), version: 300 },
    ];
    let mut vectors = Vectors::default();
    for ask in asks {
        let bytes = encode_ask(&ask).unwrap();
        vectors.note(&format!("ask {}", name(&ask)), &bytes);
        assert_eq!(decode_ask(&bytes), Ok(ask));
    }
    let digest = Digest { owner: owner(), watermark: 300, highest: 301, sum: 8 };
    let answers = [
        Answer::Pulled {
            teller: peer(),
            is_ready: true,
            members: listed(),
            deltas: vec![delta()],
            after: Some(NodeId(9)),
        },
        Answer::Differs { buckets: vec![1, 255], digests: vec![digest], members: Some(listed()) },
        Answer::Traded { deltas: vec![delta()] },
        Answer::Content { bytes: Bytes::from_static(b"content") },
        Answer::Missing,
    ];
    for answer in answers {
        let bytes = encode_answer(&answer).unwrap();
        vectors.note(&format!("answer {}", name(&answer)), &bytes);
        assert_eq!(decode_answer(&bytes), Ok(answer));
    }
    vectors.check("frames.txt", include_str!("golden/frames.txt"));
}

#[cfg(feature = "net")]
#[test]
fn the_keyring_of_version_1_is_these_bytes() {
    let ring = ToldRing { revision: 3, in_use: 9, keys: vec![[1; 32], [2; 32]] };
    let bytes = encode_ring(&ring).unwrap();
    assert!(decode_ring(&bytes).is_ok_and(|read| read == ring));
    let mut vectors = Vectors::default();
    vectors.note("keyring", &bytes);
    vectors.check("keyring.txt", include_str!("golden/keyring.txt"));
}

#[test]
fn the_records_of_version_1_are_these_bytes() {
    let at = |host, port| Endpoint { host, port };
    let text = |text: &str| -> Arc<str> { Arc::from(text) };
    let instance = Instance {
        service: text("web"),
        id: Key::from("web-1"),
        address: at(Host::Ip("10.0.0.1".parse().unwrap()), 8080),
        version: Some(text("1.2.0")),
        ports: BTreeMap::from([(text("metrics"), 9090)]),
        addresses: BTreeMap::from([(text("public"), at(Host::Name(text("web.example")), 443))]),
        tags: BTreeSet::from([text("canary")]),
        meta: BTreeMap::from([(text("owner"), text("me"))]),
        weight: 300,
        group: Some(text("g")),
        namespace: Some(text("n")),
        zone: Some(text("z")),
        protocol: Some(text("h2")),
        status: Status::Maintenance(text("disk")),
        registered_at: 1_700_000_000_000,
    };
    let statuses = [Status::Starting, Status::Warning, Status::Critical, Status::Draining];
    let statuses = statuses.map(|status| Instance {
        status,
        ..Instance::new("web", "10.0.0.1:80".parse::<std::net::SocketAddr>().unwrap()).unwrap()
    });
    let mut vectors = Vectors::default();
    for mut instance in [instance].into_iter().chain(statuses) {
        instance.id = Key::from("web-1");
        let bytes = encode_instance(&instance).unwrap();
        vectors.note(&format!("instance {}", name(&instance.status)), &bytes);
        assert_eq!(decode_content(&instance.id, &bytes), Ok(Content::Instance(Arc::new(instance))));
    }
    let member = MemberRecord {
        addr: peer().addr,
        generation: peer().generation,
        nonce: peer().nonce,
        name: text("a"),
        zone: text("z1"),
        addresses: vec![other().addr],
        wire: (1, 1),
        software: text("0.1.0"),
        has_left: true,
    };
    let bytes = encode_member(&member).unwrap();
    vectors.note("member", &bytes);
    assert_eq!(decode_content(&Key::member(), &bytes), Ok(Content::Member(Arc::new(member))));
    vectors.check("records.txt", include_str!("golden/records.txt"));
}
