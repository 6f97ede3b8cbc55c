//! What `/v2` changes: offers, checks, maintenance, members, keys.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::read::one_offer;
use super::shape::millis;
use super::{JOIN_WAIT, addresses, drain_all, join_addresses};
use crate::check::{Alias, Check, Grpc, Http, Kind, Level, Outcome, Tls, Udp};
use crate::door::desk::Desk;
use crate::door::refusal::{Refusal, SCHEMA_VERSION, Said, json as answer};
use crate::net::rotate::KeysError;
use crate::offers::{Existing, Maintenance, Offer, Origin};
use crate::record::{Instance, Key, Status};
use crate::registry::{ClusterKey, Drained, KeyId, KeyInfo, KeysStatus};

/// Checks in one registration.
const CHECKS_MAX: usize = 64;

/// The longest drain that can be asked for.
const DRAIN_MAX_MS: u64 = 600_000;

/// The longest a request to join waits.
const JOIN_MAX_MS: u64 = 60_000;

/// The longest maintenance with an end: a year.
const MAINTENANCE_MAX_MS: u64 = 31_536_000_000;

fn ok(value: &impl Serialize) -> Response {
    answer(StatusCode::OK, value)
}

fn did(text: impl Into<String>) -> Response {
    ok(&json!({ "schema_version": SCHEMA_VERSION, "done": text.into() }))
}

/// The body as what is expected there. A whole number may be written with a fraction of zero, as JSON has it; null is
/// nowhere a value.
fn read<T: for<'de> Deserialize<'de>>(said: Value) -> Result<T, Refusal> {
    if let Some(path) = null_in(&said) {
        return Err(Refusal::bad(format!("the body: {path} is null; leave it out instead")));
    }
    serde_json::from_value(whole(said)).map_err(|error| Refusal::bad(format!("the body: {error}")))
}

fn null_in(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| match value {
            Value::Null => Some(format!("{key:?}")),
            value => null_in(value),
        }),
        Value::Array(all) => all.iter().find_map(|value| match value {
            Value::Null => Some("an element of a list".to_owned()),
            value => null_in(value),
        }),
        _ => None,
    }
}

fn whole(value: Value) -> Value {
    /// Up to here every whole number has a float of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && (0.0..EXACT_MAX).contains(&float) => {
                Value::from(float as u64)
            }
            _ => Value::Number(number),
        },
        Value::Array(all) => all.into_iter().map(whole).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, whole(value))).collect(),
        other => other,
    }
}

fn within(what: &str, value: Option<u64>, min: u64, max: u64) -> Result<Option<u64>, Refusal> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(Refusal::bad(format!("{what} is {value}; {min} to {max} can be")))
        }
        value => Ok(value),
    }
}

/// An instance to offer.
#[derive(Deserialize)]
struct Registration {
    #[serde(default)]
    checks: Vec<CheckSpec>,
    #[serde(flatten)]
    instance: serde_json::Map<String, Value>,
}

/// What an instance may be said to be.
const INSTANCE_FIELDS: [&str; 13] = [
    "service",
    "id",
    "address",
    "version",
    "ports",
    "addresses",
    "tags",
    "meta",
    "weight",
    "group",
    "namespace",
    "zone",
    "protocol",
];

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Doing {
    Ttl,
    Http,
    Tcp,
    Udp,
    Grpc,
    Alias,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckSpec {
    kind: Doing,
    id: Option<String>,
    name: Option<String>,
    notes: Option<String>,
    target: Option<String>,
    ttl_ms: Option<u64>,
    interval_ms: Option<u64>,
    timeout_ms: Option<u64>,
    method: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, Vec<String>>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    tls: bool,
    #[serde(default)]
    tls_skip_verify: bool,
    tls_server_name: Option<String>,
    status: Option<Level>,
    successes_before_passing: Option<u32>,
    failures_before_warning: Option<u32>,
    failures_before_critical: Option<u32>,
    deregister_critical_after_ms: Option<u64>,
}

impl CheckSpec {
    fn kind(&self) -> Result<Kind, Refusal> {
        let target = || self.target.clone().ok_or_else(|| Refusal::bad("a check without a target"));
        let tls = || Tls { skips_verify: self.tls_skip_verify, server_name: self.tls_server_name.clone() };
        Ok(match self.kind {
            Doing::Ttl => {
                let ttl = self.ttl_ms.ok_or_else(|| Refusal::bad("a check of kind ttl without ttl_ms"))?;
                Kind::Ttl { ttl: Duration::from_millis(ttl) }
            }
            Doing::Http => {
                let mut http = Http::new(target()?);
                http.method = self.method.clone().unwrap_or(http.method);
                http.headers.clone_from(&self.headers);
                http.body.clone_from(&self.body);
                http.tls = tls();
                Kind::Http(http)
            }
            Doing::Tcp => Kind::Tcp { addr: target()? },
            Doing::Udp => Kind::Udp(Udp { addr: target()?, payload: self.body.clone(), must_answer: false }),
            Doing::Grpc => {
                let target = target()?;
                let (addr, service) = target.split_once('/').unwrap_or((&target, ""));
                let tls = self.tls.then(tls);
                Kind::Grpc(Grpc { addr: addr.to_owned(), service: service.to_owned(), tls })
            }
            Doing::Alias => Kind::Alias(Alias { instance: Some(target()?), member: None }),
        })
    }

    fn into_check(self) -> Result<Check, Refusal> {
        let mut check = Check::new(self.kind()?);
        check.id = Arc::from(self.id.unwrap_or_default());
        check.name = Arc::from(self.name.unwrap_or_default());
        check.notes = Arc::from(self.notes.unwrap_or_default());
        if let Some(interval) = self.interval_ms {
            check.interval = Duration::from_millis(interval);
        }
        if let Some(timeout) = self.timeout_ms {
            check.timeout = Duration::from_millis(timeout);
        }
        check.timeout = check.timeout.min(check.interval);
        check.initial = self.status.unwrap_or(check.initial);
        check.successes_before_passing = self.successes_before_passing.unwrap_or(check.successes_before_passing);
        check.failures_before_warning = self.failures_before_warning.unwrap_or(check.failures_before_warning);
        check.failures_before_critical = self.failures_before_critical.unwrap_or(check.failures_before_critical);
        check.deregister_critical_after = self.deregister_critical_after_ms.map(Duration::from_millis);
        check.check().map_err(|error| Refusal::bad(error.to_string()))?;
        Ok(check)
    }
}

fn registration(said: Value, id: Option<&str>) -> Result<Offer, Refusal> {
    let Registration { checks, instance } = read(said)?;
    if let Some(wrong) = instance.keys().find(|key| !INSTANCE_FIELDS.contains(&key.as_str())) {
        return Err(Refusal::bad(format!("the body: unknown field {wrong:?}")));
    }
    if checks.len() > CHECKS_MAX {
        return Err(Refusal::bad(format!("{} checks, the limit is {CHECKS_MAX}", checks.len())));
    }
    let mut instance: Instance = read(Value::Object(instance))?;
    if let Some(id) = id {
        if !instance.id.is_member() && instance.id.as_str() != id {
            return Err(Refusal::bad(format!("the body has the id {:?}", instance.id.as_str())));
        }
        instance.id = Key::from(id);
    }
    instance.status = Status::Passing;
    instance.registered_at = 0;
    instance.check().map_err(|error| Refusal::bad(error.to_string()))?;
    let mut offer = Offer::new(instance, Origin::Door);
    for check in checks {
        offer.checks.push(check.into_check()?);
    }
    Ok(offer)
}

async fn register(desk: &Desk, offer: Offer) -> Result<Response, Refusal> {
    let local = desk.offers.register(offer, Existing::Replace).await?;
    one_offer(desk, &local.instance.id)
}

pub(super) async fn offer(State(desk): State<Arc<Desk>>, Said(said): Said) -> Result<Response, Refusal> {
    register(&desk, registration(said, None)?).await
}

pub(super) async fn put_offer(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Said(said): Said,
) -> Result<Response, Refusal> {
    register(&desk, registration(said, Some(&id))?).await
}

pub(super) async fn withdraw(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    desk.offers.deregister(&Key::from(id.as_str())).await?;
    Ok(did(format!("instance {id:?} is withdrawn")))
}

pub(super) async fn weight(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Said(said): Said,
) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        weight: u32,
    }
    let Wish { weight } = read(said)?;
    let key = Key::from(id.as_str());
    desk.offers.set_weight(&key, weight).await?;
    one_offer(&desk, &key)
}

fn maintenance(said: Value) -> Result<Maintenance, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        #[serde(default)]
        reason: String,
        for_ms: Option<u64>,
    }
    let Wish { reason, for_ms } = read(said)?;
    let maintenance = Maintenance::new(reason);
    Ok(match within("for_ms", for_ms, 1, MAINTENANCE_MAX_MS)? {
        Some(millis) => maintenance.ends_after(Duration::from_millis(millis)),
        None => maintenance,
    })
}

pub(super) async fn maintain(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Said(said): Said,
) -> Result<Response, Refusal> {
    let key = Key::from(id.as_str());
    desk.offers.set_maintenance(&key, Some(maintenance(said)?)).await?;
    one_offer(&desk, &key)
}

pub(super) async fn end_maintenance(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let key = Key::from(id.as_str());
    desk.offers.set_maintenance(&key, None).await?;
    one_offer(&desk, &key)
}

pub(super) async fn maintain_all(State(desk): State<Arc<Desk>>, Said(said): Said) -> Result<Response, Refusal> {
    desk.offers.set_member_maintenance(Some(maintenance(said)?)).await?;
    Ok(did("all that this agent offers is in maintenance"))
}

pub(super) async fn end_maintenance_all(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    desk.offers.set_member_maintenance(None).await?;
    Ok(did("the maintenance of this agent has ended"))
}

fn drain_timeout(desk: &Desk, said: Value) -> Result<Duration, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        timeout_ms: Option<u64>,
    }
    let Wish { timeout_ms } = read(said)?;
    let asked = within("timeout_ms", timeout_ms, 0, DRAIN_MAX_MS)?;
    Ok(asked.map_or_else(|| desk.rules.drain_timeout(), Duration::from_millis))
}

pub(super) async fn drain_offer(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Said(said): Said,
) -> Result<Response, Refusal> {
    let timeout = drain_timeout(&desk, said)?;
    let drained = desk.offers.drain(&Key::from(id.as_str()), timeout).await?;
    let (confirmed, members) = (drained.confirmed, drained.members);
    Ok(did(format!("instance {id:?} is withdrawn; {confirmed} of {members} members knew before that it was draining")))
}

pub(super) async fn tell(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Said(said): Said,
) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Word {
        status: Level,
        #[serde(default)]
        output: String,
    }
    let Word { status, output } = read(said)?;
    desk.offers.tell(&id, Outcome::new(status, output)).await?;
    Ok(did(format!("check {id:?} is {status}")))
}

pub(super) async fn drain(State(desk): State<Arc<Desk>>, Said(said): Said) -> Result<Response, Refusal> {
    let timeout = drain_timeout(&desk, said)?;
    Ok(ok(&drained_as(&drain_all(&desk, timeout).await?)))
}

fn drained_as(drained: &Drained) -> Value {
    let unconfirmed = drained.unconfirmed.iter().map(|one| {
        json!({
            "member": &*one.name,
            "member_id": one.id.to_string(),
            "addr": one.addr.to_string(),
            "reason": one.why.as_str(),
        })
    });
    json!({
        "schema_version": SCHEMA_VERSION,
        "clean": drained.is_clean(),
        "confirmed": drained.confirmed,
        "unconfirmed": unconfirmed.collect::<Vec<_>>(),
        "calls_left": drained.calls_left,
        "tasks_left": drained.tasks_left,
        "took_ms": millis(drained.took),
    })
}

pub(super) async fn leave(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    desk.registry.leave().await.map_err(|error| Refusal::from(error.reason))?;
    Ok(did("the agent has left the cluster"))
}

pub(super) async fn forget(State(desk): State<Arc<Desk>>, Path(asked): Path<String>) -> Result<Response, Refusal> {
    let member = super::forget(&desk, &asked).await?;
    Ok(did(format!("member {:?} ({}) is forgotten", &*member.name, member.peer.id)))
}

pub(super) async fn join(State(desk): State<Arc<Desk>>, Said(said): Said) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        targets: Vec<String>,
        timeout_ms: Option<u64>,
    }
    let Wish { targets, timeout_ms } = read(said)?;
    let wait = within("timeout_ms", timeout_ms, 0, JOIN_MAX_MS)?.map_or(JOIN_WAIT, Duration::from_millis);
    let targets: Vec<Cow<'_, str>> = targets.into_iter().map(Cow::Owned).collect();
    let addresses = addresses(&desk, &targets).await?;
    let joined = join_addresses(&desk, addresses.clone(), wait).await?;
    Ok(ok(&json!({ "schema_version": SCHEMA_VERSION, "addresses": addresses, "joined": joined })))
}

impl From<KeysError> for Refusal {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Stopped(reason) => reason.into(),
            KeysError::NoKey | KeysError::NotProven | KeysError::Ring(_) => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            error => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

fn keys_as(status: &KeysStatus) -> Response {
    let key = |key: &KeyInfo| json!({ "id": key.id, "fingerprint": format!("{:016x}", key.fingerprint), "in_use": key.is_in_use });
    let members = status.members.iter().map(|member| {
        let mut told = json!({
            "member": &*member.name,
            "member_id": member.id.to_string(),
            "addr": member.addr.to_string(),
        });
        match &member.keys {
            Ok(keys) => told["keys"] = keys.iter().map(key).collect(),
            Err(why) => told["error"] = Value::from(why.to_string()),
        }
        told
    });
    ok(&json!({
        "schema_version": SCHEMA_VERSION,
        "keys": status.ours.iter().map(key).collect::<Vec<_>>(),
        "members": members.collect::<Vec<_>>(),
    }))
}

pub(super) async fn keys(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    Ok(keys_as(&desk.registry.keys().await?))
}

pub(super) async fn add_key(State(desk): State<Arc<Desk>>, Said(said): Said) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        key: String,
    }
    let Wish { key } = read(said)?;
    // What is wrong with it is said without it.
    let key: ClusterKey = key.trim().parse().map_err(|error| Refusal::bad(format!("the key: {error}")))?;
    Ok(keys_as(&desk.registry.add_key(key).await?))
}

/// A key of the ring, by its id.
async fn key_id(desk: &Desk, asked: &str) -> Result<KeyId, Refusal> {
    let id: KeyId = asked.parse().map_err(|_| Refusal::bad(format!("the id of a key is 0 to 255, not {asked:?}")))?;
    let ring = desk.registry.keyring().borrow().clone();
    let ring = ring.ok_or(KeysError::NoKey)?;
    match ring.find(id) {
        Some(_) => Ok(id),
        None => Err(Refusal::not_found(format!("there is no key {id} in the ring"))),
    }
}

pub(super) async fn use_key(State(desk): State<Arc<Desk>>, Path(asked): Path<String>) -> Result<Response, Refusal> {
    let id = key_id(&desk, &asked).await?;
    Ok(keys_as(&desk.registry.use_key(id).await?))
}

pub(super) async fn remove_key(State(desk): State<Arc<Desk>>, Path(asked): Path<String>) -> Result<Response, Refusal> {
    let id = key_id(&desk, &asked).await?;
    Ok(keys_as(&desk.registry.remove_key(id).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_the_contract_says() {
        let said = |value: Value| registration(value, Some("web-1")).map(|offer| offer.instance);
        let full = json!({
            "service": "web", "address": {"host": "10.0.0.1", "port": 80.0}, "weight": 3.0, "tags": ["a"],
            "checks": [{"kind": "ttl", "ttl_ms": 1_000.0}],
        });
        let instance = said(full).expect("it is right");
        assert_eq!((instance.id.as_str(), instance.weight, instance.address.port), ("web-1", 3, 80));
        let address = json!({"host": "10.0.0.1", "port": 80});
        for wrong in [
            json!({"service": "web"}),
            json!({"service": "web", "address": address, "id": "web-2"}),
            json!({"service": "web", "address": address, "weight": 1.5}),
            json!({"service": "web", "address": address, "weight": null}),
            json!({"service": "web", "address": address, "status": {"state": "passing"}}),
            json!({"service": "web", "address": address, "checks": [{"kind": "command", "target": "id"}]}),
            json!({"service": "web", "address": address, "checks": [{"kind": "http"}]}),
        ] {
            assert!(said(wrong.clone()).is_err_and(|refusal| refusal.status == StatusCode::BAD_REQUEST), "{wrong}");
        }
    }
}
