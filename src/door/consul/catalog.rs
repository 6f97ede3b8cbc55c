//! `/v1/catalog`: what is offered where, healthy or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::fields::{INSTANCES, NODES, ROWS};
use super::register;
use super::shape::{Entry, Instanced, Node, Row, Shapes};
use crate::check::{Check, Kind, Outcome};
use crate::door::body::Body;
use crate::door::desk::Desk;
use crate::door::index::Subject;
use crate::door::refusal::{Refusal, Said};
use crate::offers::{Existing, LocalInstance, OfferError};
use crate::peer::Member;
use crate::record::Key;
use crate::view::Service;

pub(super) async fn services(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let (ask, sieve, index) = desk.asked(query.as_deref(), &ROWS, Subject::Services).await?;
    let services = desk.reader.services();
    if sieve.is_open() && !ask.asks_for_node_meta() {
        return Ok(ask.answer(index, &Shapes::tags(&services, |_| true)));
    }
    let names = Shapes::tags(&services, |offered| {
        let entry = desk.shapes.entry(offered);
        ask.meets_node_meta(&entry.node) && sieve.holds(&Row::from(entry))
    });
    Ok(ask.answer(index, &names))
}

pub(super) async fn service(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let (ask, sieve, index) = desk.asked(query.as_deref(), &ROWS, Subject::Service(&name)).await?;
    let service = desk.reader.service(&name);
    let entries = desk.shapes.entries_of(service.as_deref());
    let rows = entries
        .into_iter()
        .filter(|entry| ask.meets_node_meta(&entry.node) && has_tags(entry, &ask.query))
        .map(Row::from)
        .filter(|row| sieve.holds(row));
    Ok(ask.answer(index, &rows.collect::<Vec<_>>()))
}

/// Whether an instance has every tag that is asked for; Consul takes letters of either case for the same.
pub(super) fn has_tags(entry: &Entry<'_>, query: &crate::door::ask::Query<'_>) -> bool {
    let has = |tag: &str| entry.service.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
    query.values("tag").all(has)
}

pub(super) async fn nodes(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let (ask, sieve, index) = desk.asked(query.as_deref(), &NODES, Subject::Nodes).await?;
    let members = desk.reader.members();
    let services = desk.reader.services();
    let mut nodes: Vec<Node<'_>> = members.iter().map(|member| desk.shapes.member(member)).collect();
    nodes.extend(desk.shapes.externals(&services));
    nodes.retain(|node| ask.meets_node_meta(node) && sieve.holds(node));
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(ask.answer(index, &nodes))
}

/// A node and all on it; `None` if there is no such node.
pub(super) fn on_node<'a>(
    desk: &'a Desk,
    services: &'a [Arc<Service>],
    members: &'a [Arc<Member>],
    asked: &str,
) -> Option<(Node<'a>, Vec<Entry<'a>>)> {
    let entries = services.iter().flat_map(|service| desk.shapes.entries(service));
    let on: Vec<_> = entries.filter(|entry| entry.node.node == asked || entry.node.id == asked).collect();
    let member = members.iter().map(|member| desk.shapes.member(member));
    let node = member.into_iter().find(|node| node.node == asked || node.id == asked);
    let node = node.or_else(|| on.first().map(|entry| entry.node.clone()))?;
    Some((node, on))
}

pub(super) async fn node(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        node: Node<'a>,
        services: BTreeMap<String, Instanced<'a>>,
    }
    let (ask, sieve, index) = desk.asked(query.as_deref(), &INSTANCES, Subject::All).await?;
    let (services, members) = (desk.reader.services(), desk.reader.members());
    let Some((node, on)) = on_node(&desk, &services, &members, &name) else {
        return Ok(ask.answer(index, &Value::Null));
    };
    let on = on.into_iter().map(|entry| entry.service).filter(|service| sieve.holds(service));
    let services = on.map(|service| (service.id.to_string(), service)).collect();
    Ok(ask.answer(index, &Answer { node, services }))
}

pub(super) async fn node_services(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        node: Option<Node<'a>>,
        services: Vec<Instanced<'a>>,
    }
    let (ask, sieve, index) = desk.asked(query.as_deref(), &INSTANCES, Subject::All).await?;
    let (services, members) = (desk.reader.services(), desk.reader.members());
    let (node, on) = match on_node(&desk, &services, &members, &name) {
        Some((node, on)) => (Some(node), on),
        None => (None, Vec::new()),
    };
    let services = on.into_iter().map(|entry| entry.service).filter(|service| sieve.holds(service)).collect();
    Ok(ask.answer(index, &Answer { node, services }))
}

pub(super) async fn datacenters(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let index = desk.turn(Subject::Nodes, &ask).await?;
    Ok(ask.answer(index, &[&*desk.shapes.datacenter]))
}

/// Offers what runs on a node without a member; on our own node, the same as the agent's registration.
pub(super) async fn register(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
    Said(said): Said,
) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let offer = register::catalog(&desk, Body::of(&said)?)?;
    // Registered anew, a check keeps its level; but this one has no other way to hear of another.
    let told =
        |check: &Check| (check.kind == Kind::Told && !check.id.is_empty()).then(|| (check.id.clone(), check.initial));
    let words: Vec<_> = offer.checks.iter().filter_map(told).collect();
    desk.offers.register(offer, Existing::KeepChecks).await?;
    for (check, level) in words {
        desk.offers.tell(&check, Outcome::new(level, "")).await?;
    }
    Ok(ask.local(&true))
}

/// Withdraws it again: one check, one instance, or all that was registered here on that node.
pub(super) async fn deregister(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
    Said(said): Said,
) -> Result<Response, Refusal> {
    let ask = desk.ask(query.as_deref())?;
    let body = Body::of(&said)?;
    let node = body.text("node")?.ok_or_else(|| Refusal::bad("Node is missing"))?;
    if let Some(check) = body.text("checkid")? {
        let removed = match check_on(&desk, node, check) {
            Some(id) => desk.offers.remove_check(&id).await,
            None => Ok(()),
        };
        return match removed {
            Ok(()) | Err(OfferError::UnknownCheck { .. }) => Ok(ask.local(&true)),
            Err(error) => Err(error.into()),
        };
    }
    let on = desk.offers.instances();
    let on: Vec<Key> =
        on.iter().filter(|local| is_on(&desk, local, node)).map(|local| local.instance.id.clone()).collect();
    let wanted = match body.text("serviceid")? {
        Some(id) => {
            let keys = [id.to_owned(), format!("{node}/{id}")];
            on.into_iter().filter(|key| keys.iter().any(|wanted| wanted == key.as_str())).collect()
        }
        // The whole of our own node would be this agent itself, which leaves in another way.
        None if *node == **desk.registry.name() => Vec::new(),
        None => on,
    };
    for key in wanted {
        match desk.offers.deregister(&key).await {
            Ok(_) | Err(OfferError::UnknownInstance { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ask.local(&true))
}

/// Whether an instance that is offered here runs on that node.
fn is_on(desk: &Desk, local: &LocalInstance, node: &str) -> bool {
    match &local.external {
        Some(external) => *external.node == *node,
        None => *node == **desk.registry.name(),
    }
}

/// The check that is called so on that node, if there is one: those of other nodes have the node before their id.
fn check_on(desk: &Desk, node: &str, asked: &str) -> Option<String> {
    let is_there = |id: &String| {
        let Some(check) = desk.offers.check(id) else { return false };
        match &check.instance {
            Some(instance) => desk.offers.instance(instance).is_some_and(|local| is_on(desk, &local, node)),
            None => *node == **desk.registry.name(),
        }
    };
    [format!("{node}/{asked}"), asked.to_owned()].into_iter().find(is_there)
}
