//! `/v2`: the native interface. `src/door/openapi.json` is its contract.

mod events;
mod read;
mod shape;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post, put};
use xxhash_rust::xxh3::Xxh3;

pub use self::events::STREAMS_MAX;
use super::desk::Desk;
use super::index::Subject;
use super::refusal::{Refusal, with_type};
use crate::peer::{Member, NodeId};
use crate::record::Endpoint;
use crate::registry::{Drained, ForgetError, Stats, Target};
use crate::view::{Reader, Service, Status};

/// The contract.
const OPENAPI: &str = include_str!("../openapi.json");

/// Targets of one request to join.
const JOIN_TARGETS_MAX: usize = 16;

/// Characters of one of them.
const JOIN_TARGET_CHARS_MAX: usize = 512;

/// How long a request to join waits that does not say.
pub(super) const JOIN_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether somebody joined.
const JOIN_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Everything beside `/v1`.
pub(super) fn router() -> Router<Arc<Desk>> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/v2/openapi.json", get(openapi))
        .route("/v2/agent", get(read::agent))
        .route("/v2/config", get(read::config))
        .route("/v2/stats", get(read::stats))
        .route("/v2/members", get(read::members))
        .route("/v2/members/{member}", get(read::member))
        .route("/v2/members/{member}/explain", get(read::explain))
        .route("/v2/members/{member}/forget", post(write::forget))
        .route("/v2/rtt", get(read::rtt))
        .route("/v2/services", get(read::services))
        .route("/v2/services/{service}", get(read::service))
        .route("/v2/instances", get(read::instances))
        .route("/v2/view", get(read::view))
        .route("/v2/agreement", get(read::agreement))
        .route("/v2/events", get(events::events))
        .route("/v2/offers", get(read::offers).post(write::offer))
        .route("/v2/offers/{instance}", get(read::offer).put(write::put_offer).delete(write::withdraw))
        .route("/v2/offers/{instance}/weight", put(write::weight))
        .route("/v2/offers/{instance}/maintenance", put(write::maintain).delete(write::end_maintenance))
        .route("/v2/offers/{instance}/drain", post(write::drain_offer))
        .route("/v2/checks", get(read::checks))
        .route("/v2/checks/{check}", put(write::tell))
        .route("/v2/maintenance", put(write::maintain_all).delete(write::end_maintenance_all))
        .route("/v2/drain", post(write::drain))
        .route("/v2/leave", post(write::leave))
        .route("/v2/join", post(write::join))
        .route("/v2/keys", get(write::keys).post(write::add_key))
        .route("/v2/keys/{key}", axum::routing::delete(write::remove_key))
        .route("/v2/keys/{key}/use", post(write::use_key))
}

/// What answers about a subject say now, but for when members were heard, as a hash.
pub(super) fn digest(reader: &Reader, subject: Subject<'_>) -> u64 {
    let mut hasher = Xxh3::new();
    let mut take = |value: &dyn std::fmt::Debug| {
        hasher.write(format!("{value:?}").as_bytes());
        hasher.write_u8(0);
    };
    let mut take_service = |service: &Service| {
        take(&(service.name(), service.kept()));
        for offered in service.all() {
            let member = &offered.member;
            take(&(&offered.instance, member.peer.id, &member.name, member.state, offered.is_present));
        }
    };
    match subject {
        Subject::Service(name) => {
            if let Some(service) = reader.service(name) {
                take_service(&service);
            }
        }
        Subject::Nodes => {
            for member in reader.members().iter() {
                take(&(member.peer, &member.name, &member.zone, member.state, &member.software, member.wire));
            }
        }
        Subject::Services | Subject::Checks | Subject::All => {
            reader.services().iter().for_each(|service| take_service(service));
        }
    }
    hasher.finish()
}

fn text(status: StatusCode, text: impl Into<String>) -> Response {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

async fn livez(State(desk): State<Arc<Desk>>) -> Response {
    match desk.reader.status() {
        Status::Stopped(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("stopped: {reason}\n")),
        Status::Joining | Status::Ready => text(StatusCode::OK, "alive\n"),
    }
}

async fn readyz(State(desk): State<Arc<Desk>>) -> Response {
    let is_draining = || desk.registry.gate().is_closed().then(|| "the agent is draining".to_owned());
    match desk.doubt().or_else(is_draining) {
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        None => text(StatusCode::OK, "ready\n"),
    }
}

async fn openapi() -> Response {
    with_type(StatusCode::OK, "application/json", OPENAPI)
}

/// Every figure of the member, of what it offers, of the interface, and of DNS.
pub(super) async fn figures(desk: &Desk) -> Result<BTreeMap<&'static str, u64>, Refusal> {
    let stats = desk.registry.stats().await?;
    Ok(figures_of(desk, &stats))
}

/// The same, of figures that were taken already.
pub(super) fn figures_of(desk: &Desk, stats: &Stats) -> BTreeMap<&'static str, u64> {
    #[allow(unused_mut, reason = "without other doors there is nothing to add")]
    let mut figures: BTreeMap<_, _> = stats.each().chain(desk.offers.stats().each()).chain(desk.each()).collect();
    #[cfg(feature = "dns")]
    figures.extend(desk.dns.iter().flat_map(|dns| dns.read().each()));
    figures
}

/// The member of that name, or of that id; a name wins, and of several of one name the one that is present.
pub(super) fn member(desk: &Desk, asked: &str) -> Result<Arc<Member>, Refusal> {
    let members = desk.reader.members();
    let named = members.iter().filter(|member| *member.name == *asked).max_by_key(|member| member.state.is_present());
    let id = || u64::from_str_radix(asked, 16).ok().filter(|_| asked.len() == 16).map(NodeId);
    let found = named.or_else(|| id().and_then(|id| members.iter().find(|member| member.peer.id == id)));
    found.cloned().ok_or_else(|| Refusal::not_found(format!("no member {asked:?} is known")))
}

/// Forgets a member by name or id.
pub(super) async fn forget(desk: &Desk, asked: &str) -> Result<Arc<Member>, Refusal> {
    let member = member(desk, asked)?;
    match desk.registry.forget(member.peer.id).await {
        Ok(()) => Ok(member),
        Err(ForgetError::Stopped(reason)) => Err(reason.into()),
        Err(ForgetError::Refused(error)) => Err(Refusal::new(StatusCode::CONFLICT, error.to_string())),
    }
}

/// Resolves targets; without a port, that of the agent itself is meant. Only hosts: files and commands are the agent's
/// own.
async fn addresses(desk: &Desk, targets: &[Cow<'_, str>]) -> Result<Vec<SocketAddr>, Refusal> {
    if targets.is_empty() || targets.len() > JOIN_TARGETS_MAX {
        return Err(Refusal::bad(format!("{} targets; 1 to {JOIN_TARGETS_MAX} can be", targets.len())));
    }
    let mut all = Vec::new();
    for asked in targets {
        if asked.chars().count() > JOIN_TARGET_CHARS_MAX {
            return Err(Refusal::bad(format!("a target is longer than {JOIN_TARGET_CHARS_MAX} characters")));
        }
        let with_port = match asked.strip_prefix("dns:").unwrap_or(asked) {
            bare if bare.parse::<std::net::IpAddr>().is_ok() || !bare.contains(':') => {
                let bare = bare.parse::<std::net::Ipv6Addr>().map_or(bare.to_owned(), |ip| format!("[{ip}]"));
                format!("{bare}:{}", desk.registry.local_addr().port())
            }
            whole => whole.to_owned(),
        };
        let is_host = with_port.parse::<Endpoint>().is_ok_and(|endpoint| endpoint.port != 0);
        let target = with_port.parse::<Target>().ok().filter(|_| is_host);
        let Some(target @ Target::Host(_)) = target else {
            return Err(Refusal::bad(format!("{asked:?} is not HOST:PORT or dns:NAME:PORT")));
        };
        let found = target.resolve().await;
        all.extend(
            found.map_err(|error| Refusal::new(StatusCode::CONFLICT, format!("{asked:?} has no address: {error}")))?,
        );
    }
    Ok(all)
}

/// Drains to the end, also when whoever asked for it is gone meanwhile: a drain that is dropped leaves the member
/// draining for ever.
pub(super) async fn drain_all(desk: &Arc<Desk>, timeout: Duration) -> Result<Drained, Refusal> {
    let desk = Arc::clone(desk);
    let drained = tokio::spawn(async move { desk.registry.drain(timeout).await }).await;
    let drained = drained
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the drain was cut off: {error}")))?;
    drained.map_err(|error| error.reason.into())
}

/// Joins through these too. Gives those of their addresses where a member is known in the end.
pub(super) async fn join(desk: &Desk, targets: &[Cow<'_, str>], wait: Duration) -> Result<Vec<SocketAddr>, Refusal> {
    let addresses = addresses(desk, targets).await?;
    join_addresses(desk, addresses, wait).await
}

async fn join_addresses(desk: &Desk, addresses: Vec<SocketAddr>, wait: Duration) -> Result<Vec<SocketAddr>, Refusal> {
    desk.registry.join(addresses.iter().copied())?;
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let members = desk.reader.members();
        let is_there =
            |addr: &SocketAddr| members.iter().any(|member| member.peer.addr == *addr && member.state.is_present());
        let joined: Vec<_> = addresses.iter().copied().filter(is_there).collect();
        let is_over = tokio::time::Instant::now() >= deadline || *desk.closing.borrow();
        if !joined.is_empty() || is_over {
            return Ok(joined);
        }
        tokio::time::sleep(JOIN_LOOK_EVERY).await;
    }
}
