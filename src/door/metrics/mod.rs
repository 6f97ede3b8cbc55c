//! `/metrics`: every figure, for Prometheus, with what it means. Counts nothing itself: what is shown is asked of those
//! who count it, at each scrape. `docs/metrics.md` lists all families, and a test holds it to what is shown.

mod figures;
mod process;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;

use self::text::{Family, Format, Kind, Page};
use super::desk::Desk;
use super::native;
use super::refusal::{Refusal, with_type};
use crate::histogram::{BOUNDS_US, Histogram};
use crate::net::driver::unix_ms;
use crate::peer::MemberState;
use crate::record::Key;
use crate::registry::Stats;
use crate::view::{Out, Service};
use crate::{contact, detector, node, roster, rumors};

/// Services of which the instances are counted by status; further ones, by name, are left out, and counted.
pub const SERVICES_SHOWN_MAX: usize = 1_000;

/// Series of selections by instance. Above, they are shown by service and algorithm alone.
pub const SELECTIONS_SHOWN_MAX: usize = 1_000;

pub(super) fn router() -> Router<Arc<Desk>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Result<Response, Refusal> {
    page(&desk, &headers).await
}

/// The page, in the format that a client accepts.
pub(super) async fn page(desk: &Desk, headers: &HeaderMap) -> Result<Response, Refusal> {
    // Several headers of the name are one list.
    let accepted: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(Some(&accepted.join(",")));
    let stats = desk.registry.stats().await?;
    let mut page = Page::new(format);
    whole(&mut page, desk, &stats);
    let mut response = with_type(StatusCode::OK, format.content_type(), page.finish());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

const fn family(kind: Kind, name: &'static str, help: &'static str) -> Family {
    Family { name, kind, help }
}

const BUILD: Family = family(Kind::Info, "tidings_build", "Which build this is.");
const MEMBER: Family = family(Kind::Info, "tidings_member", "Who this member is.");
const READY: Family =
    family(Kind::Gauge, "tidings_ready", "1 while it has joined, is not isolated and does not drain.");
const START: Family =
    family(Kind::Gauge, "tidings_start_time_seconds", "When its HTTP interface was opened, since the Unix epoch.");
const SIZE: Family =
    family(Kind::Gauge, "tidings_cluster_size", "Members that are neither down nor left, with itself.");
const MEMBERS: Family = family(Kind::Gauge, "tidings_members", "Members by what this one believes of them.");
const EVIDENCE: Family = family(
    Kind::Gauge,
    "tidings_evidence_age_max_seconds",
    "How long ago that reachable member was heard that was not heard for longest.",
);
const RTT: Family =
    family(Kind::Histogram, "tidings_rtt_seconds", "How long the probes took that were answered, there and back.");
const PROPAGATION: Family = family(
    Kind::Histogram,
    "tidings_propagation_seconds",
    "How long canaries of others took to this member, by the age that they carry.",
);
const QUEUE_LIMIT: Family =
    family(Kind::Gauge, "tidings_queue_limit", "The limits of tidings_queue_length; what has none is not in here.");
const REQUESTS: Family =
    family(Kind::Counter, "tidings_http_requests", "HTTP requests by the path of their route and the code answered.");
const UNKNOWN: Family = family(
    Kind::Counter,
    "tidings_discoveries_unknown",
    "Questions over HTTP for the instances of a service that nobody offers.",
);
const REGISTRATIONS: Family =
    family(Kind::Counter, "service_registrations", "Registrations of instances at this member, by how they ended.");
const DISCOVERIES: Family =
    family(Kind::Counter, "service_discoveries", "Questions over HTTP for the instances of a known service.");
const CHECKS: Family = family(
    Kind::Counter,
    "health_checks",
    "Results of this agent's health checks, by the service of their instance; those of the member have none.",
);
const INSTANCES: Family = family(
    Kind::Gauge,
    "service_instances",
    "Known instances: by what they say of themselves, or by the state of a member that does not answer.",
);
const SELECTIONS: Family = family(
    Kind::Counter,
    "load_balancer_selections",
    "Instances that pickers of this program chose for calls; above a limit, without the instance.",
);
const LEFT_OUT: Family = family(
    Kind::Counter,
    "tidings_metrics_left_out",
    "What was not counted by name, because there were too many names.",
);
const HIDDEN: Family = family(
    Kind::Gauge,
    "tidings_metrics_hidden",
    "What stands in no series of this page, because there are too many: services, or instances that were chosen.",
);

fn whole(page: &mut Page, desk: &Desk, stats: &Stats) {
    who(page, desk);
    members(page, desk);
    services(page, desk);
    figures::write(page, &native::figures_of(desk, stats));
    limits(page);
    times(page, RTT, &stats.rtts);
    times(page, PROPAGATION, &stats.propagation);
    page.family(REQUESTS);
    for (route, code, count) in desk.figures.by_route.each() {
        page.series(&[("route", &route), ("code", &code.to_string())], count as f64);
    }
    page.family(UNKNOWN);
    page.series(&[], desk.registry.tallies().discoveries_unknown.load(Ordering::Relaxed) as f64);
    process::write(page);
}

fn who(page: &mut Page, desk: &Desk) {
    page.family(BUILD);
    page.series(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let id = desk.registry.id();
    let members = desk.reader.members();
    let zone = members.iter().find(|member| member.peer.id == id).map_or("", |member| &member.zone);
    page.family(MEMBER);
    let labels = [("cluster", &*desk.cluster), ("member", &**desk.registry.name()), ("zone", zone)];
    let id = id.to_string();
    page.series(&[labels[0], labels[1], ("member_id", &id), labels[2]], 1.0);
    page.family(READY);
    let is_ready = desk.doubt().is_none() && !desk.registry.gate().is_closed();
    page.series(&[], f64::from(u8::from(is_ready)));
    page.family(START);
    let up = u64::try_from(desk.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    page.series(&[], unix_ms().saturating_sub(up) as f64 / 1e3);
}

/// Every state, so that one that nobody is in is a zero and not a gap.
const STATES: [MemberState; 5] =
    [MemberState::Reachable, MemberState::Suspect, MemberState::Unreachable, MemberState::Down, MemberState::Left];

fn members(page: &mut Page, desk: &Desk) {
    let members = desk.reader.members();
    page.family(SIZE);
    page.series(&[], members.iter().filter(|member| member.state.is_present()).count() as f64);
    page.family(MEMBERS);
    for state in STATES {
        let count = members.iter().filter(|member| member.state == state).count();
        page.series(&[("state", state.as_str())], count as f64);
    }
    let own = desk.registry.id();
    let others = members.iter().filter(|member| member.state == MemberState::Reachable && member.peer.id != own);
    let oldest = others.filter_map(|member| desk.registry.age(&member.evidence)).max().unwrap_or(Duration::ZERO);
    page.family(EVIDENCE);
    page.series(&[], oldest.as_secs_f64());
}

fn services(page: &mut Page, desk: &Desk) {
    let tallies = desk.registry.tallies();
    page.family(REGISTRATIONS);
    for (service, status, count) in tallies.registrations.each() {
        page.series(&[("service_name", &service), ("status", status)], count as f64);
    }
    page.family(DISCOVERIES);
    for (service, (), count) in tallies.discoveries.each() {
        page.series(&[("service_name", &service)], count as f64);
    }
    let (results, results_left_out) = desk.offers.results();
    page.family(CHECKS);
    for (service, status, count) in results {
        page.series(&[("service_name", &service), ("status", status)], count as f64);
    }
    let services = desk.reader.services();
    page.family(INSTANCES);
    for service in services.iter().take(SERVICES_SHOWN_MAX) {
        for (status, count) in by_status(service) {
            page.series(&[("service_name", service.name()), ("status", status)], f64::from(count));
        }
    }
    let selections = desk.reader.selections();
    page.family(SELECTIONS);
    let hidden = write_selections(page, &selections);
    page.family(LEFT_OUT);
    for (what, count) in [
        ("service_registrations_total", tallies.registrations.left_out()),
        ("service_discoveries_total", tallies.discoveries.left_out()),
        ("health_checks_total", results_left_out),
        ("tidings_http_requests_total", desk.figures.by_route.left_out()),
    ] {
        page.series(&[("series", what)], count as f64);
    }
    page.family(HIDDEN);
    page.series(&[("series", "service_instances")], services.len().saturating_sub(SERVICES_SHOWN_MAX) as f64);
    page.series(&[("series", "load_balancer_selections_total")], hidden as f64);
}

/// The instances of a service by status; those that pass are always told, so that none is a zero.
fn by_status(service: &Service) -> BTreeMap<&'static str, u32> {
    let mut counts = BTreeMap::from([("passing", 0)]);
    for offered in service.all() {
        let status = match offered.why_out() {
            None => offered.instance.status.as_str(),
            Some(Out::Status(status)) => status.as_str(),
            Some(Out::Member(state)) => state.as_str(),
        };
        *counts.entry(status).or_default() += 1;
    }
    counts
}

/// How often which instance was chosen: by service, algorithm and instance.
type Selections = BTreeMap<(Arc<str>, Arc<str>, Key), u64>;

/// Gives how many instances are not told by name.
fn write_selections(page: &mut Page, selections: &Selections) -> usize {
    if selections.len() <= SELECTIONS_SHOWN_MAX {
        for ((service, algorithm, instance), count) in selections {
            let labels = [("service_name", &**service), ("algorithm", algorithm), ("instance", instance.as_str())];
            page.series(&labels, *count as f64);
        }
        return 0;
    }
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for ((service, algorithm, _), count) in selections {
        *sums.entry((service, algorithm)).or_default() += count;
    }
    for ((service, algorithm), count) in sums {
        page.series(&[("service_name", service), ("algorithm", algorithm)], count as f64);
    }
    selections.len()
}

fn limits(page: &mut Page) {
    page.family(QUEUE_LIMIT);
    for (queue, limit) in [
        ("rumors", rumors::RUMORS_MAX),
        ("verdicts", rumors::RUMORS_MAX),
        ("contacts", contact::CONTACTS_MAX),
        ("limbo", node::LIMBO_MAX),
        ("goodbyes", node::GOODBYES_MAX),
        ("graves", roster::GRAVES_MAX),
        ("members", roster::MEMBERS_MAX),
        ("conversations", node::exchange::CONVERSATIONS_MAX),
        ("awaited", detector::AWAITED_MAX),
        ("cases", detector::CASES_MAX),
        ("helps", detector::HELPS_MAX),
    ] {
        page.series(&[("queue", queue)], limit as f64);
    }
}

fn times(page: &mut Page, family: Family, times: &Histogram) {
    let bounds = BOUNDS_US.map(|us| us as f64 / 1e6);
    page.family(family);
    page.histogram(&[], &bounds, times.counts(), times.sum().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::record::{Instance, Status as InstanceStatus};
    use crate::select::discovery::{Discovery as _, InMemory};

    #[test]
    fn instances_are_counted_by_what_they_say_and_none_that_passes_is_a_zero() {
        let memory = InMemory::new();
        let web = |port, status| {
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            memory.register(Instance::new("web", addr).unwrap().with_status(status)).unwrap();
        };
        web(1, InstanceStatus::Draining);
        web(2, InstanceStatus::Maintenance(Arc::from("disk")));
        web(3, InstanceStatus::Draining);
        let service = memory.reader().service("web").unwrap();
        assert_eq!(by_status(&service), BTreeMap::from([("draining", 2), ("maintenance", 1), ("passing", 0)]));
    }

    #[test]
    fn above_the_limit_selections_are_told_without_their_instances() {
        let key = |n: usize| (Arc::from("web"), Arc::from("ewma"), Key::from(format!("web-{n}").as_str()));
        let few: Selections = (0..SELECTIONS_SHOWN_MAX).map(|n| (key(n), 1)).collect();
        let mut page = Page::new(Format::Text);
        page.family(SELECTIONS);
        assert_eq!(write_selections(&mut page, &few), 0);
        let many: Selections = (0..=SELECTIONS_SHOWN_MAX).map(|n| (key(n), 2)).collect();
        let mut page = Page::new(Format::Text);
        page.family(SELECTIONS);
        assert_eq!(write_selections(&mut page, &many), SELECTIONS_SHOWN_MAX + 1);
        let last = "load_balancer_selections_total{service_name=\"web\",algorithm=\"ewma\"} 2002\n";
        assert!(page.finish().ends_with(last));
    }
}
