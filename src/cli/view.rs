//! What a node shows of its view: one value at one moment, from which the table, and the answer to `view`, are made.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tidings::peer::MemberState;
use tidings::record::Instance;
use tidings::registry::Registry;
use tidings::view::{Kept, Status};

/// The view of one member at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) cluster: Arc<str>,
    pub(super) member: Arc<str>,
    pub(super) member_id: String,
    pub(super) addr: String,
    /// `joining`, `ready` or `stopped`.
    pub(super) status: &'static str,
    /// Whether somebody who has no key can be a member.
    pub(super) insecure: bool,
    pub(super) members: Vec<ShownMember>,
    pub(super) services: Vec<ShownService>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownMember {
    pub(super) member: Arc<str>,
    pub(super) member_id: String,
    pub(super) addr: String,
    pub(super) zone: Arc<str>,
    pub(super) state: MemberState,
    /// Since it was last heard directly; absent for this member itself, and for one never heard.
    #[serde(rename = "evidence_ms", serialize_with = "as_millis", skip_serializing_if = "Option::is_none")]
    pub(super) age: Option<Duration>,
    pub(super) software: Arc<str>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownService {
    pub(super) service: Arc<str>,
    /// Why instances that do not answer are kept for use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kept: Option<&'static str>,
    pub(super) instances: Vec<ShownInstance>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownInstance {
    pub(super) member: Arc<str>,
    pub(super) member_id: String,
    pub(super) member_state: MemberState,
    /// Whether it should get traffic: it serves, and its member is reachable.
    pub(super) healthy: bool,
    pub(super) record: Arc<Instance>,
}

impl Shown {
    pub(super) fn of(registry: &Registry, cluster: &Arc<str>) -> Self {
        let peer = registry.peer();
        let members = registry.members();
        let members = members.iter().map(|member| ShownMember {
            member: Arc::clone(&member.name),
            member_id: member.peer.id.to_string(),
            addr: member.peer.addr.to_string(),
            zone: Arc::clone(&member.zone),
            state: member.state,
            age: if member.peer.id == peer.id { None } else { registry.age(&member.evidence) },
            software: Arc::clone(&member.software),
        });
        let services = registry.services().into_iter().map(|service| ShownService {
            service: Arc::clone(service.name()),
            kept: service.kept().map(Kept::as_str),
            instances: service
                .all()
                .iter()
                .map(|offered| ShownInstance {
                    member: Arc::clone(&offered.member.name),
                    member_id: offered.member.peer.id.to_string(),
                    member_state: offered.member.state,
                    healthy: offered.is_healthy(),
                    record: Arc::clone(&offered.instance),
                })
                .collect(),
        });
        Self {
            cluster: Arc::clone(cluster),
            member: Arc::clone(registry.name()),
            member_id: peer.id.to_string(),
            addr: peer.addr.to_string(),
            status: match registry.status() {
                Status::Joining => "joining",
                Status::Ready => "ready",
                Status::Stopped(_) => "stopped",
            },
            insecure: registry.is_insecure(),
            members: members.collect(),
            services: services.collect(),
        }
    }
}

fn as_millis<S: serde::Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let millis = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    millis.serialize(serializer)
}
