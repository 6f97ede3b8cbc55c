//! Lines for programs: one JSON object each, with `ts` and `event`. The README documents every field.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tidings::effect::GoneReason;
use tidings::offers::LocalCheck;
use tidings::peer::{Member, MemberState, Peer};
use tidings::promise::Promise;
use tidings::record::{Instance, Key};
use tidings::registry::{Drained, Explanation, Told};

use super::changes::{Change, Offer};
use super::reload::Reloaded;
use super::view::Shown;

/// Raised when a field changes its meaning or goes away; new fields and events do not raise it.
const SCHEMA: u32 = 1;

/// Who prints, for `ready`.
#[derive(Debug)]
pub(super) struct Me {
    pub(super) cluster: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) peer: Peer,
    /// Whether somebody who has no key can be a member.
    pub(super) is_insecure: bool,
}

#[derive(Default, Debug, Serialize)]
struct Line<'a> {
    ts: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    insecure: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_names: Option<&'a [Arc<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_names: Option<&'a [Arc<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zones: Option<BTreeMap<&'a str, Sides>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a Instance>,
}

/// How many members of a zone stand on which side of a split.
#[derive(Debug, Serialize)]
struct Sides {
    lost: usize,
    kept: usize,
}

impl<'a> Line<'a> {
    fn new(event: &'static str) -> Self {
        Self { ts: now(), event, ..Self::default() }
    }

    fn member(event: &'static str, member: &'a Member) -> Self {
        Self {
            member: Some(&member.name),
            member_id: Some(member.peer.id.to_string()),
            addr: Some(member.peer.addr.to_string()),
            zone: Some(&*member.zone).filter(|zone| !zone.is_empty()),
            ..Self::new(event)
        }
    }

    fn offer(event: &'static str, offer: &'a Offer) -> Self {
        Self {
            member: Some(&offer.member),
            member_id: Some(offer.member_id.to_string()),
            service: Some(&offer.instance.service),
            instance: Some(offer.instance.id.as_str()),
            record: Some(&offer.instance),
            ..Self::new(event)
        }
    }

    fn text(&self) -> String {
        text(self)
    }
}

/// What a member's new state is called as an event.
pub(super) const fn state_event(state: MemberState) -> &'static str {
    match state {
        MemberState::Reachable => "member_reachable",
        MemberState::Suspect => "member_suspect",
        MemberState::Unreachable => "member_unreachable",
        MemberState::Down => "member_down",
        MemberState::Left => "member_left",
    }
}

/// The line of a change.
pub(super) fn change(me: &Me, change: &Change) -> String {
    match change {
        Change::Ready => Line {
            schema: Some(SCHEMA),
            cluster: Some(&me.cluster),
            member: Some(&me.name),
            member_id: Some(me.peer.id.to_string()),
            addr: Some(me.peer.addr.to_string()),
            insecure: me.is_insecure.then_some(true),
            ..Line::new("ready")
        },
        Change::MemberUp(member) => Line::member("member_up", member),
        Change::MemberDown { member, reason } => {
            Line { reason: reason.map(GoneReason::as_str), ..Line::member("member_down", member) }
        }
        Change::MemberLeft(member) => Line::member("member_left", member),
        Change::MemberState(member) => Line::member(state_event(member.state), member),
        Change::PartitionSuspected(split) => Line {
            lost: Some(split.lost),
            kept: Some(split.kept),
            lost_names: Some(&split.lost_names),
            kept_names: Some(&split.kept_names),
            zones: Some(
                split.zones.iter().map(|(zone, (lost, kept))| (&**zone, Sides { lost: *lost, kept: *kept })).collect(),
            )
            .filter(|zones: &BTreeMap<_, _>| !zones.is_empty()),
            ..Line::new("partition_suspected")
        },
        Change::PartitionOver => Line::new("partition_over"),
        Change::MassDrop { service, lost, kept } => {
            Line { service: Some(service), lost: Some(*lost), kept: Some(*kept), ..Line::new("mass_drop") }
        }
        Change::MassDropOver { service } => Line { service: Some(service), ..Line::new("mass_drop_over") },
        Change::CutOff(true) => Line::new("isolated"),
        Change::CutOff(false) => Line::new("rejoined"),
        Change::ServiceUp(offer) => Line::offer("service_up", offer),
        Change::ServiceChanged(offer) => Line::offer("service_changed", offer),
        Change::ServiceDown { offer, reason } => {
            Line { reason: Some(reason.as_str()), ..Line::offer("service_down", offer) }
        }
        Change::Error { reason } => Line { reason: Some(reason), ..Line::new("error") },
    }
    .text()
}

/// The answer `registered`, `updated` or `withdrawn`.
pub(super) fn answer(event: &'static str, service: &str, instance: &str) -> String {
    Line { service: Some(service), instance: Some(instance), ..Line::new(event) }.text()
}

/// The answer to `leave`.
pub(super) fn left(me: &Me) -> String {
    Line { member: Some(&me.name), member_id: Some(me.peer.id.to_string()), ..Line::new("left") }.text()
}

/// The answer to `forget`.
pub(super) fn forgotten(member: &Member) -> String {
    Line::member("forgotten", member).text()
}

/// The answer to `drain`, and the last line of a node that drained by itself.
pub(super) fn drained(me: &Me, drained: &Drained) -> String {
    #[derive(Serialize)]
    struct Unconfirmed<'a> {
        member: &'a str,
        member_id: String,
        addr: String,
        reason: &'static str,
    }
    #[derive(Serialize)]
    struct Answer<'a> {
        ts: String,
        event: &'static str,
        member: &'a str,
        member_id: String,
        clean: bool,
        confirmed: usize,
        unconfirmed: Vec<Unconfirmed<'a>>,
        took_ms: u64,
    }
    let unconfirmed = drained.unconfirmed.iter().map(|one| Unconfirmed {
        member: &one.name,
        member_id: one.id.to_string(),
        addr: one.addr.to_string(),
        reason: one.why.as_str(),
    });
    text(&Answer {
        ts: now(),
        event: "drained",
        member: &me.name,
        member_id: me.peer.id.to_string(),
        clean: drained.is_clean(),
        confirmed: drained.confirmed,
        unconfirmed: unconfirmed.collect(),
        took_ms: drained.took.as_millis() as u64,
    })
}

/// What a reload did.
pub(super) fn reloaded(reloaded: &Reloaded) -> String {
    #[derive(Serialize)]
    struct Lists<'a> {
        ts: String,
        event: &'static str,
        changed: &'a [String],
        offered: &'a [String],
        withdrawn: &'a [String],
        needs_restart: &'a [String],
        wrong: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u64>,
    }
    let Reloaded { changed, offered, withdrawn, needs_restart, wrong, retry } = reloaded;
    let retry_ms = retry.map(|after| after.as_millis() as u64);
    text(&Lists { ts: now(), event: "reloaded", changed, offered, withdrawn, needs_restart, wrong, retry_ms })
}

/// The answer to `tell`.
pub(super) fn told(check: &str) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        ts: String,
        event: &'static str,
        check: &'a str,
    }
    text(&Answer { ts: now(), event: "told", check })
}

/// The answer to `maintenance`; of all instances of the member without an instance.
pub(super) fn maintenance(instance: Option<&str>, is_on: bool) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        ts: String,
        event: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        instance: Option<&'a str>,
        on: bool,
    }
    text(&Answer { ts: now(), event: "maintenance", instance, on: is_on })
}

/// The answer to `checks`.
pub(super) fn checks(checks: &[Arc<LocalCheck>]) -> String {
    #[derive(Serialize)]
    struct Check<'a> {
        id: &'a str,
        name: &'a str,
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        instance: Option<&'a str>,
        level: &'static str,
        output: &'a str,
        since_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        checked_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        held_ms: Option<u64>,
    }
    #[derive(Serialize)]
    struct Answer<'a> {
        ts: String,
        event: &'static str,
        checks: Vec<Check<'a>>,
    }
    let checks = checks.iter().map(|local| Check {
        id: &local.check.id,
        name: &local.check.name,
        kind: local.check.kind.as_str(),
        instance: local.instance.as_ref().map(Key::as_str),
        level: local.level.as_str(),
        output: &local.output,
        since_ms: local.since_ms,
        checked_ms: local.checked_ms,
        held_ms: local.held.map(|held| held.as_millis() as u64),
    });
    text(&Answer { ts: now(), event: "checks", checks: checks.collect() })
}

/// The answer to `stats`.
pub(super) fn stats<'a>(each: impl Iterator<Item = (&'a str, u64)>) -> String {
    Line { stats: Some(each.map(|(name, n)| (name.to_owned(), n)).collect()), ..Line::new("stats") }.text()
}

/// What the settings promise.
pub(super) fn promise(promise: &Promise) -> String {
    #[derive(Serialize)]
    struct Promised {
        ts: String,
        event: &'static str,
        detect_p50_ms: u64,
        detect_p99_ms: u64,
        detect_worst_ms: u64,
        idle_packets_per_s: f64,
        idle_bytes_per_s: f64,
    }
    let Promise { detect_p50, detect_p99, detect_worst, packets_per_s, bytes_per_s } = promise;
    let ms = |span: &Duration| span.as_millis() as u64;
    let rounded = |rate: &f64| (rate * 10.0).round() / 10.0;
    text(&Promised {
        ts: now(),
        event: "promise",
        detect_p50_ms: ms(detect_p50),
        detect_p99_ms: ms(detect_p99),
        detect_worst_ms: ms(detect_worst),
        idle_packets_per_s: rounded(packets_per_s),
        idle_bytes_per_s: rounded(bytes_per_s),
    })
}

/// The answer to `explain`.
pub(super) fn explanation(explanation: &Explanation) -> String {
    #[derive(Serialize)]
    struct Step {
        ago_ms: u64,
        what: String,
    }
    #[derive(Serialize)]
    struct Answer<'a> {
        ts: String,
        event: &'static str,
        member: &'a str,
        member_id: String,
        addr: String,
        state: MemberState,
        finding: &'static str,
        turn: u32,
        by: String,
        by_member: String,
        witnesses: u8,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        witnessed_by: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rtt_us: Option<u64>,
        story: Vec<Step>,
    }
    let Explanation { member, standing, rtt, story, .. } = explanation;
    let step = |step: &Told| Step { ago_ms: step.ago.as_millis() as u64, what: explanation.words(step) };
    text(&Answer {
        ts: now(),
        event: "explanation",
        member: &member.name,
        member_id: member.peer.id.to_string(),
        addr: member.peer.addr.to_string(),
        state: member.state,
        finding: standing.finding.as_str(),
        turn: standing.turn,
        by: standing.by.to_string(),
        by_member: explanation.name(standing.by),
        witnesses: standing.witnesses,
        witnessed_by: explanation.witnesses().into_iter().map(|id| explanation.name(id)).collect(),
        rtt_us: rtt.map(|rtt| rtt.smoothed.as_micros() as u64),
        story: story.iter().map(step).collect(),
    })
}

/// An error; `command` if it answers one.
pub(super) fn error(command: Option<&str>, reason: &str) -> String {
    Line { command, reason: Some(reason), ..Line::new("error") }.text()
}

/// The answer to `view`.
pub(super) fn view(shown: &Shown) -> String {
    #[derive(Serialize)]
    struct View<'a> {
        ts: String,
        event: &'static str,
        #[serde(flatten)]
        shown: &'a Shown,
    }
    text(&View { ts: now(), event: "view", shown })
}

/// Now, in UTC, to the microsecond.
pub(super) fn now() -> String {
    format!("{:.6}", Timestamp::now())
}

fn text(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("keys are text, and nothing in a line can fail to serialize")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tidings::peer::{Generation, NodeId};

    use super::*;

    fn without_ts(line: &str) -> String {
        let (ts, rest) = line.strip_prefix(r#"{"ts":""#).unwrap().split_once(r#"","#).unwrap();
        let (_, fraction) = ts.strip_suffix('Z').unwrap().split_once('.').unwrap();
        assert_eq!((ts.len(), fraction.len()), ("2026-01-02T03:04:05.123456Z".len(), 6), "{ts}");
        rest.to_owned()
    }

    fn me() -> Me {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7900));
        let peer = Peer { id: NodeId(0xab), addr, generation: Generation::first(1), nonce: 1 };
        Me { cluster: Arc::from("c"), name: Arc::from("a"), peer, is_insecure: false }
    }

    #[test]
    fn ready_carries_the_schema() {
        assert_eq!(
            without_ts(&change(&me(), &Change::Ready)),
            r#""event":"ready","schema":1,"cluster":"c","member":"a","member_id":"00000000000000ab","addr":"127.0.0.1:7900"}"#
        );
    }

    #[test]
    fn ready_says_when_no_key_is_needed() {
        let line = change(&Me { is_insecure: true, ..me() }, &Change::Ready);
        assert!(line.ends_with(r#""addr":"127.0.0.1:7900","insecure":true}"#), "{line}");
    }

    #[test]
    fn a_service_line_carries_the_whole_record() {
        let instance = Instance::new("web", me().peer.addr).unwrap().with_id("web-1").with_tag("v\"1\n");
        let offer = Offer { member: Arc::from("a"), member_id: NodeId(1), instance: Arc::new(instance) };
        let line = change(&me(), &Change::ServiceDown { offer, reason: GoneReason::OwnerLeft });
        assert!(!line.contains('\n'), "one object is one line");
        assert_eq!(
            without_ts(&line),
            concat!(
                r#""event":"service_down","member":"a","member_id":"0000000000000001","service":"web","#,
                r#""instance":"web-1","reason":"member_left","record":{"service":"web","id":"web-1","#,
                r#""address":{"host":"127.0.0.1","port":7900},"tags":["v\"1\n"],"weight":1,"#,
                r#""status":{"state":"passing"},"registered_at":0}}"#
            )
        );
    }
}
