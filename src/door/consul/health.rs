//! `/v1/health`: what is offered, with its checks.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;

use super::catalog::{has_tags, on_node};
use super::fields::{CHECKS, ENTRIES, Sieve};
use super::numbered;
use super::shape::{Checked, Entry};
use crate::door::desk::Desk;
use crate::door::index::Subject;
use crate::door::refusal::Refusal;

/// Kinds of answers that are kept while nothing changes.
const ALL: u8 = 0;
const PASSING: u8 = 1;

/// Parameters that change nothing in the answer about a service.
const PLAIN: [&str; 10] =
    ["index", "wait", "stale", "consistent", "cached", "passing", "dc", "token", "ns", "merge-central-config"];

pub(super) async fn service(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let sieve = Sieve::of(&ask.query, &ENTRIES)?;
    let is_passing = ask.query.flag("passing")?;
    let kind = if is_passing { PASSING } else { ALL };
    let is_plain = ask.query.has_only(&PLAIN);
    let index = desk.turn(Subject::Service(&name), &ask).await?;
    if is_plain && let Some((index, body)) = desk.index.answer(&name, kind) {
        return Ok(numbered(index, body));
    }
    let is_wanted = |entry: &Entry<'_>| {
        (!is_passing || entry.checks.iter().all(|check| check.status == "passing"))
            && ask.meets_node_meta(&entry.node)
            && has_tags(entry, &ask.query)
            && sieve.holds(entry)
    };
    let body = || {
        let service = desk.reader.service(&name);
        let entries = desk.shapes.entries_of(service.as_deref());
        ask.json(&entries.into_iter().filter(is_wanted).collect::<Vec<_>>())
    };
    let (index, body) = if is_plain { desk.index.keep_answer(&name, kind, body) } else { (index, body()) };
    Ok(numbered(index, body))
}

pub(super) async fn checks(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let (ask, sieve, index) = desk.asked(query.as_deref(), &CHECKS, Subject::Service(&name)).await?;
    let service = desk.reader.service(&name);
    let entries = desk.shapes.entries_of(service.as_deref());
    let entries = entries.into_iter().filter(|entry| ask.meets_node_meta(&entry.node));
    let checks = entries.flat_map(|entry| entry.checks).filter(|check| !check.service_id.is_empty());
    Ok(ask.answer(index, &checks.filter(|check| sieve.holds(check)).collect::<Vec<_>>()))
}

pub(super) async fn node(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let (ask, sieve, index) = desk.asked(query.as_deref(), &CHECKS, Subject::All).await?;
    let (services, members) = (desk.reader.services(), desk.reader.members());
    let mut checks = Vec::new();
    if let Some((node, on)) = on_node(&desk, &services, &members, &name) {
        if let Some(member) = members.iter().find(|member| super::shape::uuid(member.peer.id) == node.id) {
            checks = desk.shapes.member_checks(&node, member);
        }
        checks.extend(of_services(on));
    }
    checks.retain(|check| sieve.holds(check));
    Ok(ask.answer(index, &checks))
}

/// Checks of instances alone: those of their node are in there once for each.
fn of_services<'a>(entries: Vec<Entry<'a>>) -> impl Iterator<Item = Checked<'a>> {
    entries.into_iter().flat_map(|entry| entry.checks).filter(|check| !check.service_id.is_empty())
}

pub(super) async fn state(
    State(desk): State<Arc<Desk>>,
    Path(state): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    if !matches!(state.as_str(), "any" | "passing" | "warning" | "critical") {
        return Err(Refusal::bad(format!("a state is any, passing, warning or critical, not {state:?}")));
    }
    let sieve = Sieve::of(&ask.query, &CHECKS)?;
    let index = desk.turn(Subject::Checks, &ask).await?;
    let (services, members) = (desk.reader.services(), desk.reader.members());
    let mut checks = Vec::new();
    for member in members.iter() {
        let node = desk.shapes.member(member);
        if ask.meets_node_meta(&node) {
            checks.extend(desk.shapes.member_checks(&node, member));
        }
    }
    for service in &services {
        let entries = desk.shapes.entries(service).into_iter().filter(|entry| ask.meets_node_meta(&entry.node));
        checks.extend(of_services(entries.collect()));
    }
    checks.retain(|check| (state == "any" || check.status == state) && sieve.holds(check));
    Ok(ask.answer(index, &checks))
}
