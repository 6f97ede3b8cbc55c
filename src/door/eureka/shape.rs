//! What Eureka's clients are told of instances, and how it looks in JSON. Knows nothing of requests.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Answer;
use crate::door::desk::Desk;
use crate::door::prometheus::is_there;
use crate::net::driver::unix_ms;
use crate::offers::{EXTERNAL_ADDRESS, EXTERNAL_ID, EXTERNAL_NODE};
use crate::record::{Host, Instance, Status};
use crate::view::{Offered, Service};

/// The class that says that an instance does not run in Amazon's cloud.
pub(super) const DATA_CENTER: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";

/// How often a client of Eureka renews, and for how long it counts without; nobody renews here.
pub(super) const RENEWAL_S: u64 = 30;
pub(super) const DURATION_S: u64 = 90;

/// An instance.
#[derive(Debug)]
pub(super) struct Info<'a> {
    /// Unlike ours, Eureka's ids are those of a whole application.
    pub(super) id: String,
    pub(super) app: String,
    pub(super) host: String,
    /// Empty where only a name is known.
    pub(super) ip: String,
    pub(super) status: &'static str,
    pub(super) port: Port,
    pub(super) secure_port: Port,
    pub(super) metadata: BTreeMap<&'a str, Cow<'a, str>>,
    pub(super) home: String,
    pub(super) vip: &'a str,
    pub(super) registered_ms: u64,
    pub(super) renewed_ms: u64,
}

/// A port, and whether it is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) is_enabled: bool,
}

/// Applications by name.
#[derive(Debug)]
pub(super) struct Apps<'a>(pub(super) BTreeMap<String, Vec<Info<'a>>>);

/// The name of the application that a service is.
pub(super) fn app(service: &str) -> String {
    service.to_uppercase()
}

/// The instances of services that are there, by service and id.
pub(super) fn instances<'a>(desk: &Desk, services: &'a [Arc<Service>]) -> Vec<Info<'a>> {
    let there = |service: &'a Arc<Service>| service.all().iter().filter(|offered| is_there(service, offered));
    let now = unix_ms();
    let info = |offered: &'a Offered| {
        // Our own are as new as can be.
        let age = desk.registry.age(&offered.member.evidence).map_or(0, |age| age.as_millis() as u64);
        let is_own = offered.member.peer.id == desk.registry.id();
        Info::of(offered, now.saturating_sub(if is_own { 0 } else { age }))
    };
    let mut all: Vec<_> = services.iter().flat_map(there).map(info).collect();
    all.sort_by(|a, b| (&a.app, &a.id).cmp(&(&b.app, &b.id)));
    all
}

const fn word(status: &Status) -> &'static str {
    match status {
        Status::Passing | Status::Warning => "UP",
        Status::Starting => "STARTING",
        Status::Critical => "DOWN",
        Status::Draining | Status::Maintenance(_) => "OUT_OF_SERVICE",
    }
}

impl<'a> Info<'a> {
    fn of(offered: &'a Offered, renewed_ms: u64) -> Self {
        let instance = &*offered.instance;
        let (host, ip) = match &instance.address.host {
            Host::Ip(ip) => (ip.to_string(), ip.to_string()),
            Host::Name(name) => (name.to_string(), String::new()),
        };
        let is_secure = matches!(instance.protocol.as_deref(), Some("https" | "grpcs"));
        let number = instance.address.port;
        let secure_port = match instance.ports.get("https") {
            _ if is_secure => Port { number, is_enabled: number != 0 },
            Some(port) => Port { number: *port, is_enabled: true },
            None => Port { number: 443, is_enabled: false },
        };
        let home = match instance.protocol.as_deref() {
            None | Some("http") if number != 0 => format!("http://{}/", instance.address),
            Some("https") if number != 0 => format!("https://{}/", instance.address),
            _ => String::new(),
        };
        Self {
            id: format!("{}:{}", offered.member.name, instance.id),
            app: app(&instance.service),
            host,
            ip,
            status: word(&instance.status),
            port: Port { number, is_enabled: number != 0 && !is_secure },
            secure_port,
            metadata: metadata(offered, instance),
            home,
            vip: &instance.service,
            registered_ms: instance.registered_at,
            renewed_ms,
        }
    }

    pub(super) fn as_json(&self) -> Value {
        let port = |port: &Port| json!({ "$": port.number, "@enabled": port.is_enabled.to_string() });
        json!({
            "instanceId": self.id,
            "hostName": self.host,
            "app": self.app,
            "ipAddr": self.ip,
            "status": self.status,
            "overriddenStatus": "UNKNOWN",
            "port": port(&self.port),
            "securePort": port(&self.secure_port),
            "countryId": 1,
            "dataCenterInfo": { "@class": DATA_CENTER, "name": "MyOwn" },
            "leaseInfo": {
                "renewalIntervalInSecs": RENEWAL_S,
                "durationInSecs": DURATION_S,
                "registrationTimestamp": self.registered_ms,
                "lastRenewalTimestamp": self.renewed_ms,
                "evictionTimestamp": 0,
                "serviceUpTimestamp": self.registered_ms,
            },
            "metadata": self.metadata,
            "homePageUrl": self.home,
            "statusPageUrl": "",
            "healthCheckUrl": "",
            "vipAddress": self.vip,
            "secureVipAddress": self.vip,
            "isCoordinatingDiscoveryServer": "false",
            "lastUpdatedTimestamp": self.registered_ms.to_string(),
            "lastDirtyTimestamp": self.registered_ms.to_string(),
            "actionType": "ADDED",
        })
    }
}

/// What an instance says of itself, and what Eureka has no field for. What it says itself comes first.
fn metadata<'a>(offered: &'a Offered, instance: &'a Instance) -> BTreeMap<&'a str, Cow<'a, str>> {
    let mut all: BTreeMap<&str, Cow<'_, str>> =
        instance.meta.iter().map(|(key, value)| (&**key, Cow::Borrowed(&**value))).collect();
    for mark in [EXTERNAL_NODE, EXTERNAL_ADDRESS, EXTERNAL_ID] {
        all.remove(mark);
    }
    // Where clients look for the zone.
    let zone = instance.zone.as_deref().unwrap_or(&offered.member.zone);
    let tags = instance.tags.iter().map(|tag| &**tag).collect::<Vec<_>>().join(",");
    for (key, value) in [
        ("zone", Cow::Borrowed(zone)),
        ("version", Cow::Borrowed(instance.version.as_deref().unwrap_or_default())),
        ("tidings-namespace", Cow::Borrowed(instance.namespace.as_deref().unwrap_or_default())),
        ("tidings-group", Cow::Borrowed(instance.group.as_deref().unwrap_or_default())),
        ("tidings-protocol", Cow::Borrowed(instance.protocol.as_deref().unwrap_or_default())),
        ("tidings-tags", Cow::Owned(tags)),
        ("tidings-weight", Cow::Owned(instance.weight.to_string())),
    ] {
        if !value.is_empty() {
            all.entry(key).or_insert(value);
        }
    }
    all
}

impl<'a> Apps<'a> {
    pub(super) fn of(desk: &Desk, services: &'a [Arc<Service>]) -> Self {
        let mut apps: BTreeMap<String, Vec<Info<'a>>> = BTreeMap::new();
        for info in instances(desk, services) {
            apps.entry(info.app.clone()).or_default().push(info);
        }
        Self(apps)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What clients compare with what they make of what they know: how many instances there are of each status.
    pub(super) fn hash_code(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for info in self.0.values().flatten() {
            *counts.entry(info.status).or_default() += 1;
        }
        counts.into_iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }
}

impl Answer<'_> {
    pub(super) fn as_json(&self) -> Value {
        let app = |name: &str, all: &[Info<'_>]| {
            let instances: Vec<_> = all.iter().map(Info::as_json).collect();
            json!({ "name": name, "instance": instances })
        };
        match self {
            Self::Apps(apps) => {
                let all: Vec<_> = apps.0.iter().map(|(name, all)| app(name, all)).collect();
                let inner = json!({ "versions__delta": "1", "apps__hashcode": apps.hash_code(), "application": all });
                json!({ "applications": inner })
            }
            Self::App(name, all) => json!({ "application": app(name, all) }),
            Self::Instance(info) => json!({ "instance": info.as_json() }),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::select::discovery::{Discovery as _, InMemory};

    pub(in crate::door::eureka) fn offered(instance: Instance) -> Offered {
        let service = Arc::clone(&instance.service);
        InMemory::of([instance]).unwrap().reader().service(&service).unwrap().all()[0].clone()
    }

    pub(in crate::door::eureka) fn web() -> Instance {
        Instance::new("web", "10.0.0.7:80".parse::<SocketAddr>().unwrap()).unwrap().with_id("web-1")
    }

    pub(in crate::door::eureka) fn info(offered: &Offered) -> Info<'_> {
        Info::of(offered, 0)
    }

    #[test]
    fn statuses_are_those_that_clients_know() {
        let status = |status| Info::of(&offered(web().with_status(status)), 0).status;
        let told = [
            Status::Passing,
            Status::Warning,
            Status::Starting,
            Status::Critical,
            Status::Draining,
            Status::Maintenance(Arc::from("disk")),
        ]
        .map(status);
        assert_eq!(told, ["UP", "UP", "STARTING", "DOWN", "OUT_OF_SERVICE", "OUT_OF_SERVICE"]);
    }

    #[test]
    fn the_hash_code_counts_instances_by_status_in_order() {
        let (up, down) = (offered(web()), offered(web().with_status(Status::Critical)));
        let all = vec![Info::of(&up, 0), Info::of(&down, 0), Info::of(&up, 0)];
        let apps = Apps(BTreeMap::from([("WEB".to_owned(), all)]));
        assert_eq!(apps.hash_code(), "DOWN_1_UP_2_");
        assert_eq!(Apps(BTreeMap::new()).hash_code(), "");
    }

    #[test]
    fn ports_are_told_with_whether_they_are_served() {
        let plain = offered(web());
        let told = Info::of(&plain, 0).as_json();
        assert_eq!(told["port"], json!({ "$": 80, "@enabled": "true" }));
        assert_eq!(told["securePort"], json!({ "$": 443, "@enabled": "false" }));
        assert_eq!((&told["homePageUrl"], &told["instanceId"]), (&json!("http://10.0.0.7:80/"), &json!("local:web-1")));
        let secure = offered(web().with_protocol("https"));
        let told = Info::of(&secure, 0).as_json();
        assert_eq!((&told["port"]["@enabled"], &told["securePort"]["$"]), (&json!("false"), &json!(80)));
    }
}
