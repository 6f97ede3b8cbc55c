//! `/v1`: what clients of Consul understand. Built from its documentation; which clients work is in `docs/consul.md`.

mod agent;
mod catalog;
mod fields;
mod health;
mod register;
mod shape;

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{get, put};
use bytes::Bytes;
use serde::Serialize;

use super::ask::{Blocking, Query};
use super::desk::Desk;
use super::index::Subject;
use super::refusal::{Refusal, check_service, with_type};
use fields::{Documents, Sieve};
use shape::Node;
pub(super) use shape::Shapes;

const JSON: &str = "application/json";

/// Everything under `/v1` that we do.
pub(super) fn router() -> Router<Arc<Desk>> {
    Router::new()
        .route("/v1/catalog/services", get(catalog::services))
        .route("/v1/catalog/service/{service}", get(catalog::service))
        .route("/v1/catalog/nodes", get(catalog::nodes))
        .route("/v1/catalog/node/{node}", get(catalog::node))
        .route("/v1/catalog/node-services/{node}", get(catalog::node_services))
        .route("/v1/catalog/datacenters", get(catalog::datacenters))
        .route("/v1/catalog/register", put(catalog::register))
        .route("/v1/catalog/deregister", put(catalog::deregister))
        .route("/v1/health/service/{service}", get(health::service))
        .route("/v1/health/checks/{service}", get(health::checks))
        .route("/v1/health/node/{node}", get(health::node))
        .route("/v1/health/state/{state}", get(health::state))
        .route("/v1/status/leader", get(agent::leader))
        .route("/v1/status/peers", get(agent::peers))
        .route("/v1/agent/self", get(agent::own))
        .route("/v1/agent/members", get(agent::members))
        .route("/v1/agent/metrics", get(agent::metrics))
        .route("/v1/agent/services", get(agent::services))
        .route("/v1/agent/service/{id}", get(agent::service))
        .route("/v1/agent/checks", get(agent::checks))
        .route("/v1/agent/health/service/name/{name}", get(agent::health_by_name))
        .route("/v1/agent/health/service/id/{id}", get(agent::health_by_id))
        .route("/v1/agent/service/register", put(agent::register))
        .route("/v1/agent/service/deregister/{id}", put(agent::deregister))
        .route("/v1/agent/service/maintenance/{id}", put(agent::service_maintenance))
        .route("/v1/agent/maintenance", put(agent::maintenance))
        .route("/v1/agent/check/register", put(agent::register_check))
        .route("/v1/agent/check/deregister/{id}", put(agent::deregister_check))
        .route("/v1/agent/check/pass/{id}", put(agent::pass))
        .route("/v1/agent/check/warn/{id}", put(agent::warn))
        .route("/v1/agent/check/fail/{id}", put(agent::fail))
        .route("/v1/agent/check/update/{id}", put(agent::update))
        .route("/v1/agent/join/{address}", put(agent::join))
        .route("/v1/agent/leave", put(agent::leave))
        .route("/v1/agent/force-leave/{node}", put(agent::force_leave))
}

/// What we do not do, by the first words of the path, and why.
const UNSUPPORTED: [(&str, &str); 22] = [
    ("/v1/session/", "sessions are locks, and locks need consensus, which tidings does without"),
    ("/v1/kv", "tidings keeps no keys and values: what members offer is all that it spreads"),
    ("/v1/txn", "transactions need consensus, which tidings does without"),
    ("/v1/event/", "tidings sends no user events; what happens to members and services is at /v2/events"),
    ("/v1/query", "there are no prepared queries; ask /v1/health/service with a filter"),
    ("/v1/connect/", "there is no service mesh here: tidings tells where services are and carries no traffic"),
    ("/v1/discovery-chain/", "there is no service mesh here"),
    ("/v1/config", "there are no central configuration entries; each agent has its own, see /v2/config"),
    ("/v1/acl/", "there are no ACLs; an agent has tokens with the scopes read and write, in a file"),
    ("/v1/operator/", "there are no servers to operate: every agent is a member like the others"),
    ("/v1/coordinate/", "there are no network coordinates; measured round-trip times are at /v2/rtt"),
    ("/v1/snapshot", "there is nothing to save: every member holds the whole view"),
    ("/v1/peering", "clusters are not peered"),
    ("/v1/namespace", "namespaces are a field of an instance, and not managed"),
    ("/v1/partition", "there are no admin partitions"),
    ("/v1/catalog/connect/", "there is no service mesh here"),
    ("/v1/catalog/gateway-services/", "there is no service mesh here"),
    ("/v1/health/connect/", "there is no service mesh here"),
    ("/v1/health/ingress/", "there is no service mesh here"),
    ("/v1/agent/connect/", "there is no service mesh here: tidings makes no certificates for services"),
    ("/v1/agent/token/", "tokens are in the file that the agent was started with"),
    ("/v1/agent/", "this call to the agent is not offered"),
];

/// Whatever has no route: 501 with the reason for what Consul has and we do not, 404 for the rest.
pub(super) async fn fallback(request: Request) -> Refusal {
    let path = request.uri().path();
    let reason = UNSUPPORTED.iter().find(|(first, _)| path.starts_with(first)).map(|(_, reason)| *reason);
    match reason {
        Some(reason) => Refusal::new(StatusCode::NOT_IMPLEMENTED, format!("not implemented: {reason}")),
        None => Refusal::not_found(format!("there is nothing at {path}")),
    }
}

/// What a request to `/v1` asks beside its path.
struct Ask<'q> {
    query: Query<'q>,
    blocking: Blocking,
    is_pretty: bool,
}

impl Desk {
    /// Reads a query, and refuses what `/v1` cannot answer now.
    fn ask<'q>(&self, query: Option<&'q str>) -> Result<Ask<'q>, Refusal> {
        let query = Query::parse(query)?;
        let blocking = query.blocking()?;
        for flag in ["stale", "consistent", "cached"] {
            query.flag(flag)?;
        }
        self.certain()?;
        if let Some(datacenter) = query.text("dc")
            && datacenter != &*self.shapes.datacenter
        {
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"));
        }
        let is_pretty = query.flag("pretty")?;
        Ok(Ask { query, blocking, is_pretty })
    }

    /// Reads a query with the filter that it may have, and waits as it says; gives the number of the answer too.
    async fn asked<'q>(
        &self,
        query: Option<&'q str>,
        documents: &'static Documents,
        subject: Subject<'_>,
    ) -> Result<(Ask<'q>, Sieve, u64), Refusal> {
        let ask = self.ask(query)?;
        let sieve = Sieve::of(&ask.query, documents)?;
        let index = self.turn(subject, &ask).await?;
        Ok((ask, sieve, index))
    }

    /// Waits as the query says. What is read afterwards is at least as new as the number.
    async fn turn(&self, subject: Subject<'_>, ask: &Ask<'_>) -> Result<u64, Refusal> {
        if let Subject::Service(name) = subject {
            check_service(name)?;
        }
        let index = self.newer(subject, ask.blocking).await;
        self.certain()?;
        Ok(index)
    }
}

impl Ask<'_> {
    fn json(&self, value: &impl Serialize) -> Bytes {
        let text = if self.is_pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
        text.expect("keys are text, and nothing in an answer can fail to serialize").into()
    }

    /// An answer that can be waited for.
    fn answer(&self, index: u64, value: &impl Serialize) -> Response {
        numbered(index, self.json(value))
    }

    /// An answer about this agent alone.
    fn local(&self, value: &impl Serialize) -> Response {
        with_type(StatusCode::OK, JSON, self.json(value))
    }

    /// Whether a node has the metadata that is asked for.
    fn meets_node_meta(&self, node: &Node<'_>) -> bool {
        self.query.values("node-meta").all(|pair| {
            let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
            node.meta.get(key).is_some_and(|found| found == value)
        })
    }

    fn asks_for_node_meta(&self) -> bool {
        self.query.value("node-meta").is_some()
    }
}

fn numbered(index: u64, body: Bytes) -> Response {
    let mut response = with_type(StatusCode::OK, JSON, body);
    let headers = response.headers_mut();
    headers.insert("x-consul-index", HeaderValue::from(index));
    headers.insert("x-consul-knownleader", HeaderValue::from_static("true"));
    headers.insert("x-consul-lastcontact", HeaderValue::from_static("0"));
    headers.insert("x-consul-default-acl-policy", HeaderValue::from_static("allow"));
    headers.insert("x-consul-query-backend", HeaderValue::from_static("blocking-query"));
    response
}

/// What clients take for success where there is nothing to tell.
fn done() -> Response {
    with_type(StatusCode::OK, JSON, Bytes::new())
}

fn owned(text: &str) -> Cow<'static, str> {
    Cow::Owned(text.to_owned())
}
