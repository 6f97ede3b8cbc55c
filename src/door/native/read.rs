//! What `/v2` tells: the view, the agent, and what it offers.

use std::collections::BTreeSet;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::shape::{self, Listed, Member, millis};
use super::{figures, member as find};
use crate::door::ask::{Blocking, Query, WAIT_DEFAULT, WAIT_MAX, span};
use crate::door::desk::Desk;
use crate::door::index::Subject;
use crate::door::refusal::{Refusal, SCHEMA_VERSION, check_service, json as answer};
use crate::peer::MemberState;
use crate::record::Key;
use crate::record::limits::NAME_BYTES_MAX;
use crate::registry::Told;
use crate::select::Filter;
use crate::view::{Kept, Offered, Service, Status};

fn ok(value: &impl Serialize) -> Response {
    answer(StatusCode::OK, value)
}

fn numbered(index: u64, value: &impl Serialize) -> Response {
    let mut response = ok(value);
    response.headers_mut().insert("x-tidings-index", HeaderValue::from(index));
    response
}

/// `true` or `false`, and nothing else.
fn flag(query: &Query<'_>, name: &str) -> Result<bool, Refusal> {
    match query.value(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Refusal::bad(format!("{name} is true or false, not {other:?}"))),
    }
}

fn blocking(query: &Query<'_>) -> Result<Blocking, Refusal> {
    let index = match query.value("index") {
        None => 0,
        // Larger ones are no numbers in every language, and never ours.
        Some(text) => text
            .parse()
            .ok()
            .filter(|index| *index <= i64::MAX as u64)
            .ok_or_else(|| Refusal::bad(format!("index is a number, not {text:?}")))?,
    };
    let is_plain = |text: &str| {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        matches!(unit, "ms" | "s" | "m") && (1..=9).contains(&(text.len() - unit.len()))
    };
    let wait = match query.value("wait") {
        None => WAIT_DEFAULT,
        Some(text) => span(text)
            .filter(|_| is_plain(text))
            .ok_or_else(|| Refusal::bad(format!("wait is a number with ms, s or m, not {text:?}")))?,
    };
    Ok(Blocking { index, wait: wait.min(WAIT_MAX) })
}

fn filter(query: &Query<'_>) -> Result<Option<Filter>, Refusal> {
    Ok(query.value("filter").map(str::parse).transpose()?)
}

pub(super) async fn agent(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    let members = desk.reader.members();
    let own = members.iter().find(|member| member.peer.id == desk.registry.id());
    let status = desk.reader.status();
    let own = own.ok_or_else(|| match &status {
        Status::Stopped(reason) => Refusal::from(reason.clone()),
        _ => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the member has only just started"),
    })?;
    let mut told = json!({
        "schema_version": SCHEMA_VERSION,
        "cluster": &*desk.cluster,
        "member": desk.member(own),
        "status": match &status {
            Status::Joining => "joining",
            Status::Ready => "ready",
            Status::Stopped(_) => "stopped",
        },
        "isolated": desk.reader.is_isolated(),
        "insecure": desk.registry.is_insecure(),
        "draining": desk.registry.gate().is_closed(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": millis(desk.began.elapsed()),
        "datacenter": &*desk.shapes.datacenter,
    });
    if let Some(split) = desk.reader.split() {
        told["partition"] = serde_json::to_value(shape::partition(&split)).expect("keys are text");
    }
    if let Status::Stopped(reason) = status {
        told["stopped"] = Value::String(reason.to_string());
    }
    Ok(ok(&told))
}

pub(super) async fn config(State(desk): State<Arc<Desk>>) -> Response {
    #[derive(Serialize)]
    struct One<'a> {
        key: &'a str,
        value: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<&'a str>,
    }
    let settings = desk.rules.settings();
    let settings = settings.iter().map(|setting| One {
        key: &setting.key,
        value: setting.value.as_deref(),
        origin: setting.origin.as_deref(),
    });
    ok(&json!({ "schema_version": SCHEMA_VERSION, "settings": settings.collect::<Vec<_>>() }))
}

pub(super) async fn stats(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    let (http, stats): (serde_json::Map<_, _>, serde_json::Map<_, _>) = figures(&desk)
        .await?
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .partition(|(name, _)| name.starts_with("http_"));
    Ok(ok(&json!({ "schema_version": SCHEMA_VERSION, "stats": stats, "http": http })))
}

pub(super) async fn members(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref())?;
    let than = blocking(&query)?;
    let state = match query.value("state") {
        None => None,
        Some(word) => {
            let state: Result<MemberState, _> = serde_json::from_value(Value::from(word));
            Some(state.map_err(|_| {
                Refusal::bad(format!("state is reachable, suspect, unreachable, down or left, not {word:?}"))
            })?)
        }
    };
    let index = desk.newer_native(Subject::Nodes, than).await;
    let members = desk.reader.members();
    let wanted = members.iter().filter(|member| state.is_none_or(|state| member.state == state));
    let members: Vec<_> = wanted.map(|member| desk.member(member)).collect();
    let stale = desk.doubt().is_some();
    Ok(numbered(index, &json!({ "schema_version": SCHEMA_VERSION, "stale": stale, "members": members })))
}

pub(super) async fn member(State(desk): State<Arc<Desk>>, Path(asked): Path<String>) -> Result<Response, Refusal> {
    let member = find(&desk, &asked)?;
    let stale = desk.doubt().is_some();
    Ok(ok(&json!({ "schema_version": SCHEMA_VERSION, "stale": stale, "member": desk.member(&member) })))
}

pub(super) async fn explain(State(desk): State<Arc<Desk>>, Path(asked): Path<String>) -> Result<Response, Refusal> {
    let member = find(&desk, &asked)?;
    let explanation = desk.registry.explain(member.peer.id).await?;
    let explanation = explanation.ok_or_else(|| Refusal::not_found(format!("no member {asked:?} is known")))?;
    let step = |told: &Told| json!({ "ago_ms": millis(told.ago), "what": explanation.words(told) });
    let mut told = json!({
        "schema_version": SCHEMA_VERSION,
        "member": desk.member(&explanation.member),
        "finding": explanation.standing.finding.as_str(),
        "turn": explanation.standing.turn,
        "by": explanation.standing.by.to_string(),
        "by_member": explanation.name(explanation.standing.by),
        "witnesses": explanation.standing.witnesses,
        "story": explanation.story.iter().map(step).collect::<Vec<_>>(),
    });
    let witnesses = explanation.witnesses();
    if !witnesses.is_empty() {
        told["witnessed_by"] = witnesses.into_iter().map(|id| explanation.name(id)).collect();
    }
    if let Some(rtt) = &explanation.rtt {
        told["rtt_us"] = Value::from(rtt.smoothed.as_micros() as u64);
    }
    Ok(ok(&told))
}

pub(super) async fn rtt(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    #[derive(Serialize)]
    struct One<'a> {
        member: &'a str,
        member_id: String,
        state: MemberState,
        #[serde(skip_serializing_if = "Option::is_none")]
        rtt_us: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        deviation_us: Option<u64>,
    }
    let members = desk.reader.members();
    let own = desk.registry.id();
    let rtts = desk.registry.rtts().await?;
    let mut all = Vec::new();
    for member in members.iter().filter(|member| member.peer.id != own) {
        let rtt = rtts.get(&member.peer.id);
        let micros = |span: Duration| span.as_micros() as u64;
        all.push(One {
            member: &member.name,
            member_id: member.peer.id.to_string(),
            state: member.state,
            rtt_us: rtt.map(|rtt| micros(rtt.smoothed)),
            deviation_us: rtt.map(|rtt| micros(rtt.deviation)),
        });
    }
    Ok(ok(&json!({ "schema_version": SCHEMA_VERSION, "from": &**desk.registry.name(), "members": all })))
}

pub(super) async fn services(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    #[derive(Serialize)]
    struct Summary<'a> {
        service: &'a str,
        instances: usize,
        healthy: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        kept: Option<&'static str>,
        tags: BTreeSet<&'a str>,
        versions: BTreeSet<&'a str>,
    }
    let query = Query::parse(query.as_deref())?;
    let than = blocking(&query)?;
    let index = desk.newer_native(Subject::Services, than).await;
    let services = desk.reader.services();
    let summaries = services.iter().map(|service| Summary {
        service: service.name(),
        instances: service.all().len(),
        healthy: service.healthy().len(),
        kept: service.kept().map(Kept::as_str),
        tags: service.all().iter().flat_map(|o| o.instance.tags.iter().map(|tag| &**tag)).collect(),
        versions: service.all().iter().filter_map(|o| o.instance.version.as_deref()).collect(),
    });
    let services: Vec<_> = summaries.collect();
    let stale = desk.doubt().is_some();
    Ok(numbered(index, &json!({ "schema_version": SCHEMA_VERSION, "stale": stale, "services": services })))
}

pub(super) async fn service(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref())?;
    let (than, filter) = (blocking(&query)?, filter(&query)?);
    let is_healthy = flag(&query, "healthy")?;
    check_service(&name)?;
    let index = desk.newer_native(Subject::Service(&name), than).await;
    let service = desk.reader.service(&name);
    let Some(service) = service else {
        let mut response = Refusal::not_found(format!("no instance of {name:?} is known")).as_json();
        response.headers_mut().insert("x-tidings-index", HeaderValue::from(index));
        return Ok(response);
    };
    let is_wanted = |offered: &&Offered| {
        let is_kept = service.healthy().is_empty() && service.keeps(offered);
        (!is_healthy || offered.is_healthy() || is_kept)
            && query.values("tag").all(|tag| offered.instance.tags.contains(tag))
            && filter.as_ref().is_none_or(|filter| filter.holds(*offered))
    };
    let instances: Vec<_> =
        service.all().iter().filter(is_wanted).map(|offered| desk.listed(&service, offered)).collect();
    let mut told = json!({
        "schema_version": SCHEMA_VERSION,
        "stale": desk.doubt().is_some(),
        "service": &**service.name(),
        "instances": instances,
    });
    if let Some(kept) = service.kept() {
        told["kept"] = Value::from(kept.as_str());
    }
    Ok(numbered(index, &told))
}

pub(super) async fn instances(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref())?;
    let filter = filter(&query)?;
    let is_healthy = flag(&query, "healthy")?;
    let member = query.value("member");
    if member.is_some_and(|member| member.chars().count() > NAME_BYTES_MAX) {
        return Err(Refusal::bad(format!("member is longer than a name can be, {NAME_BYTES_MAX}")));
    }
    let services = desk.reader.services();
    let is_wanted = |(_, offered): &(&Service, &Offered)| {
        (!is_healthy || offered.is_healthy())
            && member.is_none_or(|asked| *offered.member.name == *asked || offered.member.peer.id.to_string() == asked)
            && filter.as_ref().is_none_or(|filter| filter.holds(*offered))
    };
    let instances: Vec<_> =
        each(&services).filter(is_wanted).map(|(service, offered)| desk.listed(service, offered)).collect();
    let stale = desk.doubt().is_some();
    Ok(ok(&json!({ "schema_version": SCHEMA_VERSION, "stale": stale, "instances": instances })))
}

/// Every instance, with its service.
fn each(services: &[Arc<Service>]) -> impl Iterator<Item = (&Service, &Offered)> {
    services.iter().flat_map(|service| service.all().iter().map(|offered| (&**service, offered)))
}

/// All that is known, in an order that is the same everywhere.
struct Everything<'a> {
    members: Vec<Member<'a>>,
    instances: Vec<Listed<'a>>,
}

impl<'a> Everything<'a> {
    fn of(desk: &Desk, members: &'a [Arc<crate::peer::Member>], services: &'a [Arc<Service>]) -> Self {
        let mut instances: Vec<_> = each(services).map(|(service, offered)| desk.listed(service, offered)).collect();
        instances.sort_by(|a, b| {
            let key = |one: &Listed<'a>| (&one.record.service, one.member, one.record.id.as_str());
            key(a).cmp(&key(b)).then_with(|| a.member_id.cmp(&b.member_id))
        });
        Self { members: members.iter().map(|member| desk.member(member)).collect(), instances }
    }

    /// Of everything but who tells it, when it was heard, and what is kept because of it.
    fn fingerprint(&mut self) -> String {
        let mut hasher = Xxh3::new();
        let mut take = |value: Value| {
            hasher.write(value.to_string().as_bytes());
            hasher.write_u8(0);
        };
        for member in &self.members {
            take(member.as_told_everywhere());
        }
        for listed in &mut self.instances {
            let (age, kept) = (listed.evidence_ms.take(), std::mem::take(&mut listed.kept));
            take(serde_json::to_value(&*listed).expect("keys are text"));
            (listed.evidence_ms, listed.kept) = (age, kept);
        }
        format!("{:016x}", hasher.finish())
    }
}

impl Member<'_> {
    fn as_told_everywhere(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("keys are text");
        if let Some(fields) = value.as_object_mut() {
            fields.remove("evidence_ms");
            fields.remove("is_self");
        }
        value
    }
}

pub(super) async fn view(State(desk): State<Arc<Desk>>) -> Response {
    let (members, services) = (desk.reader.members(), desk.reader.services());
    let mut all = Everything::of(&desk, &members, &services);
    let fingerprint = all.fingerprint();
    ok(&json!({
        "schema_version": SCHEMA_VERSION,
        "stale": desk.doubt().is_some(),
        "fingerprint": fingerprint,
        "members": all.members,
        "instances": all.instances,
    }))
}

pub(super) async fn agreement(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    let agreement = desk.registry.agreement().await?;
    let (members, services) = (desk.reader.members(), desk.reader.services());
    Ok(ok(&json!({
        "schema_version": SCHEMA_VERSION,
        "members": agreement.members,
        "agreeing": agreement.agreeing,
        "share": agreement.share(),
        "fingerprint": Everything::of(&desk, &members, &services).fingerprint(),
    })))
}

pub(super) async fn offers(State(desk): State<Arc<Desk>>) -> Response {
    let locals = desk.offers.instances();
    let offers: Vec<_> = locals.iter().map(|local| shape::offer(local)).collect();
    let mut told = json!({ "schema_version": SCHEMA_VERSION, "offers": offers });
    if let Some(maintenance) = desk.offers.member_maintenance() {
        told["maintenance"] = serde_json::to_value(shape::maintained(&maintenance)).expect("keys are text");
    }
    ok(&told)
}

pub(super) async fn offer(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    one_offer(&desk, &Key::from(id.as_str()))
}

pub(super) fn one_offer(desk: &Desk, id: &Key) -> Result<Response, Refusal> {
    let local = desk.offers.instance(id);
    let local = local.ok_or_else(|| Refusal::not_found(format!("no instance {:?} is offered here", id.as_str())))?;
    Ok(ok(&json!({ "schema_version": SCHEMA_VERSION, "offer": shape::offer(&local) })))
}

pub(super) async fn checks(State(desk): State<Arc<Desk>>) -> Response {
    let locals = desk.offers.checks();
    let checks: Vec<_> = locals.iter().map(|local| shape::check(local)).collect();
    ok(&json!({ "schema_version": SCHEMA_VERSION, "checks": checks }))
}
