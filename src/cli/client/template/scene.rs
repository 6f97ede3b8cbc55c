//! What a template sees: members, services and instances, in an order that is the same at every agent, and nothing that
//! is another at every look. Made from the answers of `/v2`; knows nothing of templates.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::super::show::{rows, text};
use super::LOG;

/// All that a template sees.
#[derive(Clone, Default, Debug)]
pub(super) struct Scene {
    pub(super) cluster: String,
    pub(super) datacenter: String,
    pub(super) agent: Member,
    pub(super) members: Vec<Member>,
    pub(super) instances: Vec<Instance>,
}

/// A member.
#[derive(Clone, Default, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) address: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) zone: String,
    pub(super) state: String,
    pub(super) software: String,
}

/// An instance. What it does not say is empty.
#[derive(Clone, Default, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Instance {
    pub(super) service: String,
    pub(super) id: String,
    pub(super) member: String,
    pub(super) member_id: String,
    pub(super) member_state: String,
    pub(super) address: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) weight: u64,
    pub(super) healthy: bool,
    pub(super) kept: bool,
    pub(super) status: String,
    pub(super) out: String,
    pub(super) zone: String,
    pub(super) group: String,
    pub(super) namespace: String,
    pub(super) version: String,
    pub(super) protocol: String,
    pub(super) tags: Vec<String>,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) ports: BTreeMap<String, u16>,
    pub(super) addresses: BTreeMap<String, String>,
}

/// A service.
#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) instances: usize,
    pub(super) healthy: usize,
    pub(super) kept: usize,
    pub(super) tags: BTreeSet<String>,
    pub(super) versions: BTreeSet<String>,
}

impl Scene {
    pub(super) fn of(agent: &Value, view: &Value) -> Self {
        let mut members: Vec<Member> = rows(view, "/members").into_iter().map(member).collect();
        members.sort();
        let zones: BTreeMap<&str, &str> = members.iter().map(|one| (one.id.as_str(), one.zone.as_str())).collect();
        let all = rows(view, "/instances");
        let known = all.len();
        let mut instances: Vec<Instance> = all.into_iter().filter_map(|listed| instance(listed, &zones)).collect();
        if instances.len() < known {
            let left_out = known - instances.len();
            tracing::warn!(target: LOG, left_out, "the address of an instance is none; templates do not see it");
        }
        instances.sort();
        Self {
            cluster: text(agent, "/cluster"),
            datacenter: text(agent, "/datacenter"),
            agent: member(&agent["member"]),
            members,
            instances,
        }
    }

    /// Every service, by name.
    pub(super) fn services(&self) -> BTreeMap<&str, Service> {
        let mut services = BTreeMap::<&str, Service>::new();
        for instance in &self.instances {
            let service = services.entry(&instance.service).or_default();
            service.name.clone_from(&instance.service);
            service.instances += 1;
            service.healthy += usize::from(instance.healthy);
            service.kept += usize::from(instance.kept);
            service.tags.extend(instance.tags.iter().cloned());
            service.versions.extend(Some(&instance.version).filter(|version| !version.is_empty()).cloned());
        }
        services
    }

    /// Those that should get calls: the healthy ones, and of a service that has none the last known good ones, if they
    /// are kept.
    pub(super) fn callable(&self) -> impl Iterator<Item = &Instance> {
        let services = self.services();
        let has_healthy: BTreeSet<String> =
            services.values().filter(|service| service.healthy > 0).map(|service| service.name.clone()).collect();
        self.instances
            .iter()
            .filter(move |one| one.healthy || (one.kept && !has_healthy.contains(one.service.as_str())))
    }
}

fn member(member: &Value) -> Member {
    let address = text(member, "/addr");
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, "0"));
    Member {
        name: text(member, "/member"),
        id: text(member, "/member_id"),
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.parse().unwrap_or_default(),
        zone: text(member, "/zone"),
        state: text(member, "/state"),
        software: text(member, "/software"),
        address,
    }
}

/// `None` if its address is none: a file of configuration must not hold what a stranger made up.
fn instance(listed: &Value, zones: &BTreeMap<&str, &str>) -> Option<Instance> {
    let record = &listed["record"];
    let (host, port) = endpoint(&record["address"])?;
    let strings = |path: &str| {
        let pairs = record.pointer(path).and_then(Value::as_object).into_iter().flatten();
        pairs.map(|(name, value)| (name.clone(), text(value, "")))
    };
    let member_id = text(listed, "/member_id");
    let own_zone = text(record, "/zone");
    let zone = if own_zone.is_empty() { zones.get(member_id.as_str()).copied().unwrap_or_default() } else { &own_zone };
    let addresses = record["addresses"].as_object().into_iter().flatten();
    Some(Instance {
        service: text(record, "/service"),
        id: text(record, "/id"),
        member: text(listed, "/member"),
        member_state: text(listed, "/member_state"),
        address: joined(&host, port),
        host,
        port,
        weight: record["weight"].as_u64().unwrap_or(1),
        healthy: listed["healthy"] == true,
        kept: listed["kept"] == true,
        status: text(record, "/status/state"),
        out: text(listed, "/out"),
        zone: zone.to_owned(),
        group: text(record, "/group"),
        namespace: text(record, "/namespace"),
        version: text(record, "/version"),
        protocol: text(record, "/protocol"),
        tags: rows(record, "/tags").into_iter().map(|tag| text(tag, "")).collect(),
        meta: strings("/meta").collect(),
        ports: record["ports"].as_object().into_iter().flatten().filter_map(port_of).collect(),
        addresses: addresses
            .filter_map(|(tag, value)| endpoint(value).map(|(host, port)| (tag.clone(), joined(&host, port))))
            .collect(),
        member_id,
    })
}

fn port_of((name, port): (&String, &Value)) -> Option<(String, u16)> {
    Some((name.clone(), port.as_u64()?.try_into().ok()?))
}

fn endpoint(value: &Value) -> Option<(String, u16)> {
    let host = text(value, "/host");
    let port = value["port"].as_u64()?.try_into().ok()?;
    is_host(&host).then_some((host, port))
}

/// Whether it is an address or a name as DNS has them. A record's host may be any text without white space.
fn is_host(text: &str) -> bool {
    let is_name = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    text.parse::<std::net::IpAddr>().is_ok() || is_name(text)
}

fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in super::super) fn agent() -> Value {
        json!({ "cluster": "c", "datacenter": "dc1", "member": of_member("a", "eu") })
    }

    fn of_member(name: &str, zone: &str) -> Value {
        json!({ "member": name, "member_id": format!("id-{name}"), "addr": "10.0.0.1:7900", "zone": zone,
                "state": "reachable", "evidence_ms": 7 })
    }

    /// An instance with these fields of its record, or of the listing if they are there.
    pub(in super::super) fn listed(service: &str, id: &str, host: &str, more: Value) -> Value {
        let mut listed = json!({
            "member": "a", "member_id": "id-a", "member_state": "reachable", "healthy": true, "evidence_ms": 7,
            "record": { "service": service, "id": id, "address": { "host": host, "port": 80 }, "weight": 10,
                        "status": { "state": "passing" } },
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            let is_listing = matches!(name.as_str(), "healthy" | "kept" | "out" | "member" | "member_id");
            let place = if is_listing { &mut listed } else { &mut listed["record"] };
            place[name] = value.clone();
        }
        listed
    }

    pub(in super::super) fn scene(instances: &[Value]) -> Scene {
        let members = [of_member("b", ""), of_member("a", "eu")];
        Scene::of(&agent(), &json!({ "members": members, "instances": instances }))
    }

    #[test]
    fn the_order_is_the_same_however_it_was_told_and_no_age_is_in_it() {
        let all = [listed("web", "2", "10.0.0.2", json!({})), listed("web", "1", "::1", json!({ "zone": "us" }))];
        let [one, two] = [all.clone(), [all[1].clone(), all[0].clone()]].map(|all| scene(&all));
        assert_eq!(one.instances, two.instances);
        assert_eq!(one.instances.iter().map(|i| i.address.as_str()).collect::<Vec<_>>(), ["[::1]:80", "10.0.0.2:80"]);
        assert_eq!(one.instances.iter().map(|i| i.zone.as_str()).collect::<Vec<_>>(), ["us", "eu"], "or its member's");
        assert_eq!(one.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_address_that_would_be_more_than_one_is_left_out() {
        let hosts = ["db.example", "a;}server{", "$x", "-x", "a\"b", "10.0.0.1", "fe80::1"];
        let all: Vec<Value> = hosts.iter().map(|host| listed("web", host, host, json!({}))).collect();
        let seen: Vec<_> = scene(&all).instances.into_iter().map(|instance| instance.host).collect();
        assert_eq!(seen, ["10.0.0.1", "db.example", "fe80::1"]);
    }

    #[test]
    fn the_last_known_good_are_called_only_once_no_healthy_one_is_left() {
        let out = json!({ "healthy": false, "kept": true, "out": "member_down" });
        let gone = json!({ "healthy": false, "out": "critical" });
        let all = [
            listed("web", "1", "10.0.0.1", json!({})),
            listed("web", "2", "10.0.0.2", out.clone()),
            listed("db", "3", "10.0.0.3", out),
            listed("db", "4", "10.0.0.4", gone),
        ];
        let scene = scene(&all);
        assert_eq!(scene.callable().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["3", "1"]);
        let db = &scene.services()["db"];
        assert_eq!((db.instances, db.healthy, db.kept), (2, 0, 1));
    }
}
