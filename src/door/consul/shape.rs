//! What `/v1` shows of members, instances and checks, in the words and the spelling of Consul's documentation. Knows
//! nothing of requests.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::io;
use std::sync::Arc;

use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::door::index::Subject;
use crate::offers::{EXTERNAL_ADDRESS, EXTERNAL_ID, EXTERNAL_NODE, External, LocalCheck, LocalInstance, Offers};
use crate::peer::{Member, MemberState, NodeId};
use crate::record::{Host, Instance, Status};
use crate::view::{Offered, Reader, Service};

/// The check of a member that is about the member itself.
pub(super) const MEMBER_CHECK: &str = "serfHealth";
/// The check of a member that was taken out by hand.
pub(super) const MEMBER_MAINTENANCE: &str = "_node_maintenance";
/// Before the id of an instance: its check while it is taken out by hand.
pub(super) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";
/// Before the id of an instance: its check while it is starting or draining although its own checks pass.
const SERVICE_STATUS: &str = "_service_status:";

/// Metadata that tells what Consul has no field for.
pub(super) const META_VERSION: &str = "tidings-version";
pub(super) const META_ZONE: &str = "tidings-zone";
pub(super) const META_GROUP: &str = "tidings-group";
pub(super) const META_PROTOCOL: &str = "tidings-protocol";

/// Makes the shapes of what is known now.
#[derive(Clone, Debug)]
pub(in crate::door) struct Shapes {
    pub(in crate::door) reader: Reader,
    pub(in crate::door) offers: Offers,
    pub(in crate::door) datacenter: Arc<str>,
}

/// A node: a member, or what stands for one that runs none.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Node<'a> {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) node: Cow<'a, str>,
    pub(super) address: String,
    pub(super) datacenter: Cow<'a, str>,
    pub(super) tagged_addresses: BTreeMap<&'static str, String>,
    pub(super) meta: BTreeMap<&'static str, String>,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Weights {
    pub(super) passing: u32,
    pub(super) warning: u32,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Address {
    pub(super) address: String,
    pub(super) port: u16,
}

/// An instance.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Instanced<'a> {
    pub(super) kind: &'static str,
    #[serde(rename = "ID")]
    pub(super) id: Cow<'a, str>,
    pub(super) service: &'a str,
    pub(super) tags: Vec<&'a str>,
    pub(super) meta: BTreeMap<&'a str, &'a str>,
    pub(super) port: u16,
    pub(super) address: String,
    pub(super) tagged_addresses: BTreeMap<Cow<'a, str>, Address>,
    pub(super) weights: Weights,
    pub(super) enable_tag_override: bool,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

/// A check.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Checked<'a> {
    pub(super) node: Cow<'a, str>,
    #[serde(rename = "CheckID")]
    pub(super) check_id: Cow<'a, str>,
    pub(super) name: Cow<'a, str>,
    pub(super) status: &'static str,
    pub(super) notes: Cow<'a, str>,
    pub(super) output: Cow<'a, str>,
    #[serde(rename = "ServiceID")]
    pub(super) service_id: Cow<'a, str>,
    pub(super) service_name: Cow<'a, str>,
    pub(super) service_tags: Vec<&'a str>,
    #[serde(rename = "Type")]
    pub(super) kind: &'static str,
    pub(super) interval: Cow<'static, str>,
    pub(super) timeout: Cow<'static, str>,
    pub(super) exposed_port: u16,
    pub(super) definition: BTreeMap<&'static str, String>,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

/// An instance with its node and its checks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry<'a> {
    pub(super) node: Node<'a>,
    pub(super) service: Instanced<'a>,
    pub(super) checks: Vec<Checked<'a>>,
}

/// An instance in one row with its node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Row<'a> {
    #[serde(rename = "ID")]
    id: String,
    node: Cow<'a, str>,
    address: String,
    datacenter: Cow<'a, str>,
    tagged_addresses: BTreeMap<&'static str, String>,
    node_meta: BTreeMap<&'static str, String>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: Cow<'a, str>,
    pub(super) service_name: &'a str,
    pub(super) service_tags: Vec<&'a str>,
    service_address: String,
    service_tagged_addresses: BTreeMap<Cow<'a, str>, Address>,
    service_weights: Weights,
    service_meta: BTreeMap<&'a str, &'a str>,
    service_port: u16,
    service_enable_tag_override: bool,
    create_index: u64,
    modify_index: u64,
}

impl<'a> From<Entry<'a>> for Row<'a> {
    fn from(Entry { node, service, .. }: Entry<'a>) -> Self {
        Self {
            id: node.id,
            node: node.node,
            address: node.address,
            datacenter: node.datacenter,
            tagged_addresses: node.tagged_addresses,
            node_meta: node.meta,
            service_kind: service.kind,
            service_id: service.id,
            service_name: service.service,
            service_tags: service.tags,
            service_address: service.address,
            service_tagged_addresses: service.tagged_addresses,
            service_weights: service.weights,
            service_meta: service.meta,
            service_port: service.port,
            service_enable_tag_override: service.enable_tag_override,
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }
}

/// The id of a member as a UUID that never changes: its 64 bits around the marks of an RFC 9562 version 8.
pub(super) fn uuid(id: NodeId) -> String {
    let id = u128::from(id.0);
    let bits = ((id >> 16) << 80) | (8 << 76) | (((id >> 4) & 0xfff) << 64) | (2 << 62) | ((id & 0xf) << 58);
    written(bits | 0x0074_6964_696e_6773)
}

/// The UUID of a node that runs no member, from its name.
fn uuid_of_name(name: &str) -> String {
    let bits = xxh3_128(name.as_bytes());
    written((bits & !(0xf << 76) & !(3 << 62)) | (8 << 76) | (2 << 62))
}

fn written(bits: u128) -> String {
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The worst of several.
pub(super) fn worst<'s>(statuses: impl IntoIterator<Item = &'s str>) -> &'static str {
    let rank = |status: &str| match status {
        "passing" => 0,
        "warning" => 1,
        _ => 2,
    };
    ["passing", "warning", "critical"][statuses.into_iter().map(rank).max().unwrap_or(0)]
}

const fn word(status: &Status) -> &'static str {
    match status {
        Status::Passing => "passing",
        Status::Warning => "warning",
        Status::Starting | Status::Critical | Status::Draining | Status::Maintenance(_) => "critical",
    }
}

/// Whether a member counts as alive: one that is suspected does, as long as nobody confirmed it.
pub(super) fn is_alive(state: MemberState) -> bool {
    matches!(state, MemberState::Reachable | MemberState::Suspect)
}

fn host(instance: &Instance) -> String {
    match &instance.address.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name.to_string(),
    }
}

impl Shapes {
    pub(super) fn own(&self) -> NodeId {
        self.offers.registry().id()
    }

    /// A member as a node.
    pub(super) fn member<'a>(&'a self, member: &'a Member) -> Node<'a> {
        let ip = member.peer.addr.ip().to_canonical();
        let family = if ip.is_ipv4() { ["lan_ipv4", "wan_ipv4"] } else { ["lan_ipv6", "wan_ipv6"] };
        let tagged = ["lan", "wan"].into_iter().chain(family).map(|tag| (tag, ip.to_string()));
        let mut meta = BTreeMap::from([("tidings-id", member.peer.id.to_string())]);
        if !member.zone.is_empty() {
            meta.insert("zone", member.zone.to_string());
        }
        Node {
            id: uuid(member.peer.id),
            node: Cow::Borrowed(&member.name),
            address: ip.to_string(),
            datacenter: Cow::Borrowed(&self.datacenter),
            tagged_addresses: tagged.collect(),
            meta,
            create_index: member.peer.epoch().max(1),
            modify_index: member.peer.epoch().max(1),
        }
    }

    fn external<'a>(&'a self, external: &External, offered: &Offered) -> Node<'a> {
        let address = if external.address.is_empty() { host(&offered.instance) } else { external.address.to_string() };
        Node {
            id: uuid_of_name(&external.node),
            node: Cow::Owned(external.node.to_string()),
            tagged_addresses: ["lan", "wan"].into_iter().map(|tag| (tag, address.clone())).collect(),
            address,
            datacenter: Cow::Borrowed(&self.datacenter),
            meta: BTreeMap::from([
                ("external-node", "true".to_owned()),
                ("tidings-agent", offered.member.name.to_string()),
            ]),
            create_index: offered.member.peer.epoch().max(1),
            modify_index: offered.member.peer.epoch().max(1),
        }
    }

    /// The check that says whether a member can be reached.
    pub(super) fn member_check<'a>(&self, node: &Node<'a>, member: &Member) -> Checked<'a> {
        let (status, output) = match is_alive(member.state) {
            true => ("passing", "Agent alive and reachable"),
            false => ("critical", "Agent not live or unreachable"),
        };
        let check = Checked::of_node(node, MEMBER_CHECK, "Serf Health Status", status);
        Checked { output: Cow::Borrowed(output), ..check }
    }

    /// The checks of a member: whether it can be reached, and, of our own, what else is checked.
    pub(super) fn member_checks<'a>(&self, node: &Node<'a>, member: &Member) -> Vec<Checked<'a>> {
        let mut checks = vec![self.member_check(node, member)];
        if member.peer.id != self.own() {
            return checks;
        }
        if let Some(maintenance) = self.offers.member_maintenance() {
            let check = Checked::of_node(node, MEMBER_MAINTENANCE, "Node Maintenance Mode", "critical");
            checks.push(Checked { notes: Cow::Owned(maintenance.reason.to_string()), ..check });
        }
        for local in self.offers.member_checks() {
            let check = Checked::of_node(node, "", "", local.level.as_str());
            checks.push(check.with_local(&local));
        }
        checks
    }

    /// Every instance of a service.
    pub(super) fn entries<'a>(&'a self, service: &'a Service) -> Vec<Entry<'a>> {
        service.all().iter().map(|offered| self.entry(offered)).collect()
    }

    /// The same; none of one that is not there.
    pub(super) fn entries_of<'a>(&'a self, service: Option<&'a Service>) -> Vec<Entry<'a>> {
        service.map(|service| self.entries(service)).unwrap_or_default()
    }

    pub(super) fn entry<'a>(&'a self, offered: &'a Offered) -> Entry<'a> {
        let external = External::of(&offered.instance);
        let node = match &external {
            Some(external) => self.external(external, offered),
            None => self.member(&offered.member),
        };
        let local =
            if offered.member.peer.id == self.own() { self.offers.instance(&offered.instance.id) } else { None };
        let service = self.instance(offered, external.as_ref(), local.as_deref());
        let mut checks = match &external {
            // Who vouches for it must be there too, but that is not a check of its own node.
            Some(_) if is_alive(offered.member.state) => Vec::new(),
            Some(_) => vec![self.member_check(&node, &offered.member)],
            None => self.member_checks(&node, &offered.member),
        };
        let base = Checked {
            service_id: service.id.clone(),
            service_name: Cow::Borrowed(&offered.instance.service),
            service_tags: service.tags.clone(),
            ..Checked::of_node(&node, "", "", "critical")
        };
        self.instance_checks(base, offered, local.as_deref(), &mut checks);
        Entry { node, service, checks }
    }

    fn instance<'a>(
        &'a self,
        offered: &'a Offered,
        external: Option<&External>,
        local: Option<&LocalInstance>,
    ) -> Instanced<'a> {
        let instance = &*offered.instance;
        let mut meta: BTreeMap<&str, &str> = instance.meta.iter().map(|(key, value)| (&**key, &**value)).collect();
        for mark in [EXTERNAL_NODE, EXTERNAL_ADDRESS, EXTERNAL_ID] {
            meta.remove(mark);
        }
        for (key, value) in [
            (META_VERSION, &instance.version),
            (META_ZONE, &instance.zone),
            (META_GROUP, &instance.group),
            (META_PROTOCOL, &instance.protocol),
        ] {
            if let Some(value) = value {
                meta.entry(key).or_insert(value);
            }
        }
        let mut tagged: BTreeMap<Cow<'_, str>, Address> = instance
            .addresses
            .iter()
            .map(|(tag, at)| (Cow::Borrowed(&**tag), Address { address: at.host.to_string(), port: at.port }))
            .collect();
        if let Host::Ip(ip) = &instance.address.host {
            let family = if ip.is_ipv4() { ["lan_ipv4", "wan_ipv4"] } else { ["lan_ipv6", "wan_ipv6"] };
            for tag in family {
                let own = || Address { address: ip.to_string(), port: instance.address.port };
                tagged.entry(Cow::Borrowed(tag)).or_insert_with(own);
            }
        }
        let passing = local.map_or(instance.weight, |local| local.weight);
        let warning = local.and_then(|local| local.warning_weight).unwrap_or(passing);
        Instanced {
            kind: "",
            id: external.map_or(Cow::Borrowed(instance.id.as_str()), |external| Cow::Owned(external.id.to_string())),
            service: &instance.service,
            tags: instance.tags.iter().map(|tag| &**tag).collect(),
            meta,
            port: instance.address.port,
            address: host(instance),
            tagged_addresses: tagged,
            weights: Weights { passing, warning },
            enable_tag_override: false,
            create_index: instance.registered_at.max(1),
            modify_index: instance.registered_at.max(1),
        }
    }

    /// Of one of our own its real checks, of another the one that its status stands for.
    fn instance_checks<'a>(
        &self,
        base: Checked<'a>,
        offered: &'a Offered,
        local: Option<&LocalInstance>,
        checks: &mut Vec<Checked<'a>>,
    ) {
        let (status, id) = (&offered.instance.status, &base.service_id);
        let real = local.map_or(&[][..], |local| &local.checks);
        checks.extend(real.iter().map(|check| base.clone().with_local(check)));
        let hidden = match local {
            // Behind a maintenance of ours it says itself how it is; behind that of another nobody knows.
            Some(local) => &local.said,
            None if matches!(status, Status::Maintenance(_)) => &Status::Passing,
            None => status,
        };
        if real.is_empty() {
            checks.push(Checked {
                check_id: Cow::Owned(format!("service:{id}")),
                name: Cow::Owned(format!("Service '{}' check", offered.instance.service)),
                status: word(hidden),
                output: Cow::Borrowed(match hidden {
                    Status::Starting => "starting",
                    Status::Draining => "draining",
                    _ => "",
                }),
                kind: "tidings",
                ..base.clone()
            });
        } else if matches!(status, Status::Starting | Status::Draining) {
            checks.push(Checked {
                check_id: Cow::Owned(format!("{SERVICE_STATUS}{id}")),
                name: Cow::Borrowed("Service Status"),
                output: Cow::Borrowed(status.as_str()),
                ..base.clone()
            });
        }
        let reason = match (local.and_then(|local| local.maintenance.as_ref()), status) {
            (Some(maintenance), _) => Some(Cow::Owned(maintenance.reason.to_string())),
            // Of ours, the member's own maintenance has a check of its own.
            (None, Status::Maintenance(reason)) if local.is_none() => Some(Cow::Borrowed(&**reason)),
            _ => None,
        };
        if let Some(notes) = reason {
            checks.push(Checked {
                check_id: Cow::Owned(format!("{SERVICE_MAINTENANCE}{id}")),
                name: Cow::Borrowed("Service Maintenance Mode"),
                notes,
                kind: "maintenance",
                ..base
            });
        }
    }

    /// The names of all services, with the tags of those of their instances that are such.
    pub(super) fn tags(services: &[Arc<Service>], is_such: impl Fn(&Offered) -> bool) -> BTreeMap<&str, Vec<&str>> {
        let mut names = BTreeMap::new();
        for service in services {
            let mut found = service.all().iter().filter(|offered| is_such(offered)).peekable();
            if found.peek().is_some() {
                let tags: std::collections::BTreeSet<&str> =
                    found.flat_map(|offered| offered.instance.tags.iter().map(|tag| &**tag)).collect();
                names.insert(&**service.name(), tags.into_iter().collect());
            }
        }
        names
    }

    /// What answers about a subject say now, but for what checks print, as a hash.
    pub(in crate::door) fn digest(&self, subject: Subject<'_>) -> u64 {
        let mut sink = Sink(Xxh3::new());
        match subject {
            Subject::Service(name) => {
                if let Some(service) = self.reader.service(name) {
                    self.digest_entries(&service, |entry| sink.take(entry));
                }
            }
            Subject::Services => sink.take(&Self::tags(&self.reader.services(), |_| true)),
            Subject::Nodes => self.digest_nodes(&mut sink),
            Subject::Checks => self.digest_checks(&mut sink, |sink, entry| sink.take(&entry.checks)),
            Subject::All => {
                self.digest_nodes(&mut sink);
                self.digest_checks(&mut sink, |sink, entry| sink.take(entry));
            }
        }
        sink.0.finish()
    }

    /// Whether what only this agent knows, its own checks, is in the answers about a subject.
    pub(in crate::door) fn is_local(&self, subject: Subject<'_>) -> bool {
        match subject {
            Subject::Service(name) => {
                let own = self.own();
                let service = self.reader.service(name);
                service.is_some_and(|service| service.all().iter().any(|offered| offered.member.peer.id == own))
            }
            Subject::Services | Subject::Nodes => false,
            Subject::Checks | Subject::All => true,
        }
    }

    fn digest_nodes(&self, sink: &mut Sink) {
        for member in self.reader.members().iter() {
            sink.take(&self.member(member));
        }
        sink.take(&self.externals(&self.reader.services()));
    }

    fn digest_checks(&self, sink: &mut Sink, take: impl Fn(&mut Sink, &Entry<'_>)) {
        for member in self.reader.members().iter() {
            let node = self.member(member);
            for check in self.member_checks(&node, member) {
                sink.take(&Checked { output: Cow::Borrowed(""), ..check });
            }
        }
        for service in self.reader.services() {
            self.digest_entries(&service, |entry| take(sink, entry));
        }
    }

    fn digest_entries(&self, service: &Service, mut take: impl FnMut(&Entry<'_>)) {
        for mut entry in self.entries(service) {
            for check in &mut entry.checks {
                check.output = Cow::Borrowed("");
            }
            take(&entry);
        }
    }

    /// The nodes without a member, by name; one that several instances are on is one.
    pub(super) fn externals<'a>(&'a self, services: &'a [Arc<Service>]) -> Vec<Node<'a>> {
        let is_external = |offered: &&Offered| offered.instance.meta.contains_key(EXTERNAL_NODE);
        let all = services.iter().flat_map(|service| service.all().iter().filter(is_external));
        let nodes = all.map(|offered| self.entry(offered).node);
        let by_name: BTreeMap<_, _> = nodes.map(|node| (node.node.clone(), node)).collect();
        by_name.into_values().collect()
    }
}

impl<'a> Checked<'a> {
    fn of_node(node: &Node<'a>, id: &'static str, name: &'static str, status: &'static str) -> Self {
        Self {
            node: node.node.clone(),
            check_id: Cow::Borrowed(id),
            name: Cow::Borrowed(name),
            status,
            notes: Cow::Borrowed(""),
            output: Cow::Borrowed(""),
            service_id: Cow::Borrowed(""),
            service_name: Cow::Borrowed(""),
            service_tags: Vec::new(),
            kind: "",
            interval: Cow::Borrowed(""),
            timeout: Cow::Borrowed(""),
            exposed_port: 0,
            definition: BTreeMap::new(),
            create_index: node.create_index,
            modify_index: node.modify_index,
        }
    }

    pub(super) fn with_local(self, local: &LocalCheck) -> Self {
        let check = &local.check;
        let span = |span: std::time::Duration| Cow::Owned(format!("{}ms", span.as_millis()));
        let (interval, timeout) = match check.kind.is_run() {
            true => (span(check.interval), span(check.timeout)),
            false => (Cow::Borrowed(""), Cow::Borrowed("")),
        };
        let name = if check.name.is_empty() { &check.id } else { &check.name };
        Self {
            check_id: Cow::Owned(check.id.to_string()),
            name: Cow::Owned(name.to_string()),
            status: local.level.as_str(),
            notes: Cow::Owned(check.notes.to_string()),
            output: Cow::Owned(local.output.to_string()),
            kind: check.kind.as_str(),
            interval,
            timeout,
            ..self
        }
    }
}

/// Hashes what is serialised.
struct Sink(Xxh3);

impl Sink {
    fn take(&mut self, shape: &impl Serialize) {
        serde_json::to_writer(&mut *self, shape).expect("keys are text, and hashing never fails");
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_members_become_uuids_that_differ_when_they_do() {
        let bits = |text: &str| u128::from_str_radix(&text.replace('-', ""), 16).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for shift in 0..64 {
            let text = uuid(NodeId(1 << shift));
            assert_eq!((text.len(), &text[14..15]), (36, "8"), "version 8: {text}");
            assert_eq!(bits(&text) >> 62 & 3, 2, "the variant of RFC 9562: {text}");
            assert!(seen.insert(text));
        }
        assert!(seen.insert(uuid(NodeId(u64::MAX))) && seen.insert(uuid(NodeId(0))));
        assert!(seen.insert(uuid_of_name("rds")) && uuid_of_name("rds") == uuid_of_name("rds"));
        assert_eq!(&uuid_of_name("rds")[14..15], "8");
    }

    #[test]
    fn the_worst_of_none_is_passing() {
        assert_eq!(worst([]), "passing");
        assert_eq!(worst(["passing", "warning"]), "warning");
        assert_eq!(worst(["critical", "warning"]), "critical");
    }
}
