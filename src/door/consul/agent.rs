//! `/v1/agent` and `/v1/status`: this agent, what it offers, and its checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use super::fields::{CHECKS, INSTANCES, Sieve};
use super::shape::{Checked, Entry, Instanced, SERVICE_MAINTENANCE, uuid, worst};
use super::{Ask, JSON, done, owned, register};
use crate::check::{Level, Outcome};
use crate::door::ask::{Blocking, truth};
use crate::door::body::Body;
use crate::door::desk::Desk;
use crate::door::index::Subject;
use crate::door::native;
use crate::door::refusal::{Refusal, Said, with_type};
use crate::offers::{EXTERNAL_NODE, Existing, Maintenance, OfferError, Origin};
use crate::peer::{Member, MemberState};
use crate::record::Key;
use crate::view::Service;

pub(super) async fn leader(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    // There is no leader, and clients that look for one want to know whether somebody answers.
    Ok(desk.ask(query.as_deref())?.local(&desk.registry.peer().addr.to_string()))
}

pub(super) async fn peers(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let members = desk.reader.members();
    let present = members.iter().filter(|member| member.state.is_present());
    Ok(ask.local(&present.map(|member| member.peer.addr.to_string()).collect::<Vec<_>>()))
}

/// A member as `/v1/agent/members` shows it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    name: &'a str,
    addr: String,
    port: u16,
    tags: BTreeMap<&'static str, String>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
}

impl<'a> Shown<'a> {
    fn of(desk: &Desk, member: &'a Member) -> Self {
        let (min, max) = member.wire;
        let mut tags = BTreeMap::from([
            ("dc", desk.shapes.datacenter.to_string()),
            ("id", uuid(member.peer.id)),
            ("role", "node".to_owned()),
            ("build", member.software.to_string()),
        ]);
        if !member.zone.is_empty() {
            tags.insert("zone", member.zone.to_string());
        }
        Self {
            name: &member.name,
            addr: member.peer.addr.ip().to_canonical().to_string(),
            port: member.peer.addr.port(),
            tags,
            status: match member.state {
                MemberState::Reachable | MemberState::Suspect => 1,
                MemberState::Left => 3,
                MemberState::Unreachable | MemberState::Down => 4,
            },
            protocol_min: min,
            protocol_max: max,
            protocol_cur: max,
            delegate_min: min,
            delegate_max: max,
            delegate_cur: max,
        }
    }
}

pub(super) async fn members(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let members = desk.reader.members();
    Ok(ask.local(&members.iter().map(|member| Shown::of(&desk, member)).collect::<Vec<_>>()))
}

pub(super) async fn own(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let members = desk.reader.members();
    let own = desk.shapes.own();
    let member = members.iter().find(|member| member.peer.id == own);
    let node = member.map(|member| desk.shapes.member(member));
    Ok(ask.local(&json!({
        "Config": {
            "Datacenter": &*desk.shapes.datacenter,
            "PrimaryDatacenter": &*desk.shapes.datacenter,
            "NodeName": &**desk.registry.name(),
            "NodeID": uuid(own),
            "Server": false,
            "Version": env!("CARGO_PKG_VERSION"),
            "Revision": "",
        },
        "DebugConfig": {},
        "Coord": null,
        "Member": member.map(|member| Shown::of(&desk, member)),
        "Meta": node.map(|node| node.meta),
        "Stats": { "tidings": { "cluster": &*desk.cluster, "version": env!("CARGO_PKG_VERSION") } },
    })))
}

pub(super) async fn metrics(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let query = crate::door::ask::Query::parse(query.as_deref())?;
    if query.value("format") == Some("prometheus") {
        return crate::door::metrics::page(&desk, &headers).await;
    }
    let figures = native::figures(&desk).await?;
    let gauge = |(name, value): (&'static str, u64)| json!({ "Name": name, "Value": value, "Labels": {} });
    let answer = json!({
        "Gauges": figures.into_iter().map(gauge).collect::<Vec<_>>(),
        "Points": [],
        "Counters": [],
        "Samples": [],
    });
    Ok(crate::door::refusal::json(StatusCode::OK, &answer))
}

/// An instance of this agent, as it shows it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Mine<'a> {
    #[serde(flatten)]
    instance: Instanced<'a>,
    datacenter: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
}

impl Desk {
    /// What this agent itself offers on its own node: over its doors, from its configuration or by its program.
    fn mine<'a>(&'a self, services: &'a [Arc<Service>]) -> impl Iterator<Item = Entry<'a>> {
        let own = self.shapes.own();
        let all = services.iter().flat_map(|service| service.all());
        all.filter(move |offered| offered.member.peer.id == own && !offered.instance.meta.contains_key(EXTERNAL_NODE))
            .map(|offered| self.shapes.entry(offered))
    }

    fn local(&self, id: &str) -> Result<Key, Refusal> {
        let key = Key::from(id);
        match self.offers.instance(&key) {
            Some(_) => Ok(key),
            None => Err(Refusal::not_found(format!("unknown service ID: {id}"))),
        }
    }
}

pub(super) async fn services(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let sieve = Sieve::of(&ask.query, &INSTANCES)?;
    let services = desk.reader.services();
    let mine = desk.mine(&services).map(|entry| entry.service).filter(|instance| sieve.holds(instance));
    let datacenter = &*desk.shapes.datacenter;
    let mine: BTreeMap<_, _> =
        mine.map(|instance| (instance.id.to_string(), Mine { instance, datacenter, content_hash: None })).collect();
    Ok(ask.local(&mine))
}

/// One of them; with `hash`, once it is another.
pub(super) async fn service(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let asked = ask.query.text("hash").map(str::to_owned);
    let deadline = tokio::time::Instant::now() + ask.blocking.wait;
    loop {
        let services = desk.reader.services();
        let found = desk.mine(&services).find(|entry| entry.service.id == id);
        let Some(entry) = found else { return Err(Refusal::not_found(format!("unknown service ID: {id}"))) };
        let name = entry.service.service.to_owned();
        // Taken before it is looked whether the answer is another: what changes afterwards wakes.
        let index = desk.index.now(Subject::Service(&name));
        let text = serde_json::to_vec(&entry.service).expect("keys are text");
        let hash = format!("{:016x}", xxh3_64(&text));
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let is_over = left < Duration::from_millis(1) || *desk.closing.borrow();
        if asked.as_ref() != Some(&hash) || is_over {
            let datacenter = &*desk.shapes.datacenter;
            let header = HeaderValue::from_str(&hash).expect("hexadecimal digits");
            let mine = Mine { instance: entry.service, datacenter, content_hash: Some(hash) };
            let mut response = ask.local(&mine);
            response.headers_mut().insert("x-consul-contenthash", header);
            return Ok(response);
        }
        drop(entry);
        drop(services);
        desk.newer(Subject::Service(&name), Blocking { index, wait: left }).await;
        desk.certain()?;
    }
}

pub(super) async fn checks(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let sieve = Sieve::of(&ask.query, &CHECKS)?;
    let services = desk.reader.services();
    let members = desk.reader.members();
    let own = desk.shapes.own();
    let mut checks = BTreeMap::new();
    let mut take = |check: Checked<'_>| {
        if sieve.holds(&check) {
            let value = serde_json::to_value(&check).expect("keys are text");
            checks.insert(check.check_id.into_owned(), value);
        }
    };
    if let Some(member) = members.iter().find(|member| member.peer.id == own) {
        let node = desk.shapes.member(member);
        // Whether we can be reached is for others to say.
        desk.shapes.member_checks(&node, member).into_iter().skip(1).for_each(&mut take);
    }
    for entry in desk.mine(&services) {
        // A status that nobody checks is no check of this agent.
        let real = |check: &Checked<'_>| !check.service_id.is_empty() && check.kind != "tidings";
        entry.checks.into_iter().filter(real).for_each(&mut take);
    }
    Ok(ask.local(&checks))
}

/// Instances of this agent, together as healthy as the worst of their checks.
struct Health<'a> {
    status: &'static str,
    entries: Vec<Entry<'a>>,
}

impl<'a> Health<'a> {
    fn of(entries: Vec<Entry<'a>>) -> Self {
        let checks = || entries.iter().flat_map(|entry| &entry.checks);
        let is_maintained = checks()
            .any(|check| check.check_id.starts_with(SERVICE_MAINTENANCE) || check.check_id == "_node_maintenance");
        let status = match is_maintained {
            true => "maintenance",
            false => worst(checks().map(|check| check.status)),
        };
        Self { status, entries }
    }

    fn answer(self, ask: &Ask<'_>, is_one: bool) -> Response {
        let code = match self.status {
            _ if self.entries.is_empty() => StatusCode::NOT_FOUND,
            "passing" => StatusCode::OK,
            "warning" => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        if ask.query.value("format") == Some("text") {
            let text = if self.entries.is_empty() { "critical" } else { self.status };
            return with_type(code, "text/plain; charset=utf-8", text);
        }
        if self.entries.is_empty() {
            return with_type(code, JSON, ask.json(&json!({ "AggregatedStatus": "critical" })));
        }
        let one = |entry: Entry<'a>| {
            let status = Health::of(vec![entry.clone()]).status;
            json!({ "AggregatedStatus": status, "Service": entry.service, "Checks": entry.checks })
        };
        let mut all = self.entries.into_iter().map(one);
        let body = match is_one {
            true => ask.json(&all.next()),
            false => ask.json(&all.collect::<Vec<_>>()),
        };
        with_type(code, JSON, body)
    }
}

pub(super) async fn health_by_name(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let services: Vec<_> = desk.reader.service(&name).into_iter().collect();
    let health = Health::of(desk.mine(&services).collect());
    Ok(health.answer(&ask, false))
}

pub(super) async fn health_by_id(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let services = desk.reader.services();
    let health = Health::of(desk.mine(&services).filter(|entry| entry.service.id == id).collect());
    Ok(health.answer(&ask, true))
}

pub(super) async fn register(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
    Said(said): Said,
) -> Result<Response, Refusal> {
    let query = crate::door::ask::Query::parse(query.as_deref())?;
    let existing = match query.flag("replace-existing-checks")? {
        true => Existing::Replace,
        false => Existing::KeepChecks,
    };
    let offer = register::service(&desk, Body::of(&said)?)?;
    desk.offers.register(offer, existing).await?;
    Ok(done())
}

pub(super) async fn deregister(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let key = desk.local(&id)?;
    desk.offers.deregister(&key).await?;
    Ok(done())
}

/// What `enable` and `reason` say.
fn maintenance_of(query: Option<&str>) -> Result<Option<Maintenance>, Refusal> {
    let query = crate::door::ask::Query::parse(query)?;
    let enable = query.value("enable").ok_or_else(|| Refusal::bad("enable is missing"))?;
    let enable = truth(enable).ok_or_else(|| Refusal::bad(format!("enable is true or false, not {enable:?}")))?;
    let reason = query.text("reason").unwrap_or("maintenance mode is enabled, and no reason was given");
    Ok(enable.then(|| Maintenance::new(reason)))
}

pub(super) async fn service_maintenance(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let maintenance = maintenance_of(query.as_deref())?;
    let key = desk.local(&id)?;
    desk.offers.set_maintenance(&key, maintenance).await?;
    Ok(done())
}

pub(super) async fn maintenance(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    desk.offers.set_member_maintenance(maintenance_of(query.as_deref())?).await?;
    Ok(done())
}

pub(super) async fn register_check(State(desk): State<Arc<Desk>>, Said(said): Said) -> Result<Response, Refusal> {
    let body = Body::of(&said)?;
    let mut check = register::check(body)?;
    if check.id.is_empty() {
        let name = body.text("name")?.ok_or_else(|| Refusal::bad("the name of the check is missing"))?;
        check = check.with_id(name);
    }
    let key = match body.text("serviceid")? {
        Some(id) => Some(desk.local(id)?),
        None => None,
    };
    desk.offers.add_check(key.as_ref(), check, Origin::Door).await?;
    Ok(done())
}

pub(super) async fn deregister_check(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    desk.offers.remove_check(&id).await.map_err(unknown(&id))?;
    Ok(done())
}

/// Whoever registered a check that is not known here does so again when it hears 404.
fn unknown(id: &str) -> impl Fn(OfferError) -> Refusal {
    move |error| match error {
        OfferError::UnknownCheck { .. } => {
            Refusal::not_found(format!("unknown check ID {id:?}: register it, or its service, again"))
        }
        error => error.into(),
    }
}

async fn tell(desk: &Desk, id: &str, level: Level, output: &str) -> Result<Response, Refusal> {
    desk.offers.tell(id, Outcome::new(level, output)).await.map_err(unknown(id))?;
    Ok(done())
}

fn note(query: Option<&str>) -> Result<String, Refusal> {
    Ok(crate::door::ask::Query::parse(query)?.value("note").unwrap_or_default().to_owned())
}

pub(super) async fn pass(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    tell(&desk, &id, Level::Passing, &note(query.as_deref())?).await
}

pub(super) async fn warn(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    tell(&desk, &id, Level::Warning, &note(query.as_deref())?).await
}

pub(super) async fn fail(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    tell(&desk, &id, Level::Critical, &note(query.as_deref())?).await
}

pub(super) async fn update(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Said(said): Said,
) -> Result<Response, Refusal> {
    let body = Body::of(&said)?;
    let level = register::word(body)?;
    tell(&desk, &id, level, body.text("output")?.unwrap_or_default()).await
}

pub(super) async fn join(State(desk): State<Arc<Desk>>, Path(address): Path<String>) -> Result<Response, Refusal> {
    let joined = native::join(&desk, &[owned(&address)], native::JOIN_WAIT).await?;
    if joined.is_empty() {
        let text = format!("nobody at {address} is a member yet; it is tried on");
        return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    Ok(done())
}

pub(super) async fn leave(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    native::drain_all(&desk, desk.rules.drain_timeout()).await?;
    Ok(done())
}

pub(super) async fn force_leave(State(desk): State<Arc<Desk>>, Path(node): Path<String>) -> Result<Response, Refusal> {
    native::forget(&desk, &node).await?;
    Ok(done())
}
