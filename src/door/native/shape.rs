//! What `/v2` shows of members, instances and offers. Knows nothing of requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::door::desk::Desk;
use crate::effect::Split;
use crate::net::driver::unix_ms;
use crate::offers::{LocalCheck, LocalInstance, Maintenance, Origin};
use crate::peer::{self, MemberState};
use crate::record::Instance;
use crate::view::{Offered, Out, Service};

/// A member.
#[derive(Debug, Serialize)]
pub(super) struct Member<'a> {
    member: &'a str,
    member_id: String,
    addr: String,
    zone: &'a str,
    state: MemberState,
    is_self: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evidence_ms: Option<u64>,
    generation: String,
    software: &'a str,
    wire: [u8; 2],
}

/// An instance, and what is believed of its member.
#[derive(Debug, Serialize)]
pub(super) struct Listed<'a> {
    pub(super) member: &'a str,
    pub(super) member_id: String,
    member_state: MemberState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evidence_ms: Option<u64>,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
    /// This member's own belief, as `evidence_ms` is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) kept: bool,
    pub(super) record: &'a Instance,
}

/// Who is on which side of a suspected split.
#[derive(Debug, Serialize)]
pub(super) struct Partition<'a> {
    lost: usize,
    kept: usize,
    lost_names: &'a [Arc<str>],
    kept_names: &'a [Arc<str>],
    zones: BTreeMap<&'a str, Sides>,
}

/// How many members of a zone are on which side.
#[derive(Debug, Serialize)]
struct Sides {
    lost: usize,
    kept: usize,
}

/// A maintenance.
#[derive(Debug, Serialize)]
pub(super) struct Maintained<'a> {
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_ms: Option<u64>,
}

/// A check.
#[derive(Debug, Serialize)]
pub(super) struct Check<'a> {
    pub(super) id: &'a str,
    name: &'a str,
    kind: &'static str,
    instance: &'a str,
    service: &'a str,
    status: &'static str,
    output: &'a str,
    notes: &'a str,
    since_ms: u64,
}

/// An instance that this agent offers.
#[derive(Debug, Serialize)]
pub(super) struct Offer<'a> {
    record: &'a Instance,
    checks: Vec<Check<'a>>,
    external: bool,
    kept: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<Maintained<'a>>,
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Desk {
    fn evidence_ms(&self, member: &peer::Member) -> Option<u64> {
        if member.peer.id == self.registry.id() { None } else { self.registry.age(&member.evidence).map(millis) }
    }

    pub(super) fn member<'a>(&self, member: &'a peer::Member) -> Member<'a> {
        Member {
            member: &member.name,
            member_id: member.peer.id.to_string(),
            addr: member.peer.addr.to_string(),
            zone: &member.zone,
            state: member.state,
            is_self: member.peer.id == self.registry.id(),
            evidence_ms: self.evidence_ms(member),
            generation: member.peer.generation.to_string(),
            software: &member.software,
            wire: [member.wire.0, member.wire.1],
        }
    }

    pub(super) fn listed<'a>(&self, service: &Service, offered: &'a Offered) -> Listed<'a> {
        Listed {
            member: &offered.member.name,
            member_id: offered.member.peer.id.to_string(),
            member_state: offered.member.state,
            evidence_ms: self.evidence_ms(&offered.member),
            healthy: offered.is_healthy(),
            out: offered.why_out().map(|out| match out {
                Out::Status(status) => status.as_str().to_owned(),
                Out::Member(state) => format!("member_{state}"),
            }),
            kept: service.keeps(offered),
            record: &offered.instance,
        }
    }
}

pub(super) fn partition(split: &Split) -> Partition<'_> {
    let zones = split.zones.iter().map(|(zone, (lost, kept))| (&**zone, Sides { lost: *lost, kept: *kept }));
    Partition {
        lost: split.lost,
        kept: split.kept,
        lost_names: &split.lost_names,
        kept_names: &split.kept_names,
        zones: zones.collect(),
    }
}

pub(super) fn maintained(maintenance: &Maintenance) -> Maintained<'_> {
    let left_ms = maintenance.until_ms.map(|until| until.saturating_sub(unix_ms()));
    Maintained { reason: &maintenance.reason, left_ms }
}

pub(super) fn check(local: &LocalCheck) -> Check<'_> {
    Check {
        id: &local.check.id,
        name: if local.check.name.is_empty() { &local.check.id } else { &local.check.name },
        kind: local.check.kind.as_str(),
        instance: local.instance.as_ref().map_or("", |key| key.as_str()),
        service: local.service.as_deref().unwrap_or_default(),
        status: local.level.as_str(),
        output: &local.output,
        notes: &local.check.notes,
        since_ms: unix_ms().saturating_sub(local.since_ms),
    }
}

pub(super) fn offer(local: &LocalInstance) -> Offer<'_> {
    Offer {
        record: &local.instance,
        checks: local.checks.iter().map(|local: &Arc<LocalCheck>| check(local)).collect(),
        external: local.external.is_some(),
        kept: local.origin == Origin::Door,
        maintenance: local.maintenance.as_ref().map(maintained),
    }
}
