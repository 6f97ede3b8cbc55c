//! `/v1/sd/prometheus`: where Prometheus finds what to scrape (`http_sd_config`). Gives every target each time, and an
//! error where what is known may be old: upon one, Prometheus keeps the targets that it had.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;

use super::ask::Query;
use super::desk::Desk;
use super::index::Subject;
use super::refusal::{Refusal, json};
use crate::offers::External;
use crate::peer::MemberState;
use crate::record::Endpoint;
use crate::select::Filter;
use crate::view::{Offered, Service};

/// What stands before the name of every label.
const LABEL: &str = "__meta_tidings_";

/// Parameters that mean something.
const PARAMETERS: [&str; 7] = ["service", "tag", "namespace", "healthy", "port", "filter", "token"];

pub(super) fn router() -> Router<Arc<Desk>> {
    Router::new().route("/v1/sd/prometheus", get(targets))
}

/// A target with its labels.
#[derive(Debug, Serialize)]
struct Group<'a> {
    targets: [String; 1],
    labels: BTreeMap<Cow<'static, str>, Cow<'a, str>>,
}

/// Which instances are wanted.
struct Wish<'q> {
    query: &'q Query<'q>,
    is_healthy: bool,
    filter: Option<Filter>,
}

impl<'q> Wish<'q> {
    fn of(query: &'q Query<'q>) -> Result<Self, Refusal> {
        // A filter that is misspelt would be one that holds for everything.
        if !query.has_only(&PARAMETERS) {
            return Err(Refusal::bad(format!("only these parameters are known: {}", PARAMETERS.join(", "))));
        }
        let filter = query.value("filter").map(str::parse).transpose()?;
        Ok(Self { query, is_healthy: query.flag("healthy")?, filter })
    }

    /// Whether nothing else than this is asked for, or nothing at all.
    fn takes_service(&self, name: &str) -> bool {
        let mut asked = self.query.values("service").peekable();
        asked.peek().is_none() || asked.any(|asked| asked == name)
    }

    fn takes(&self, service: &Service, offered: &Offered) -> bool {
        let instance = &offered.instance;
        let has_namespace = |asked: &str| instance.namespace.as_deref().unwrap_or_default() == asked;
        is_there(service, offered)
            && (!self.is_healthy || offered.is_healthy())
            && self.query.values("tag").all(|tag| instance.tags.contains(tag))
            && self.query.value("namespace").is_none_or(has_namespace)
            && self.filter.as_ref().is_none_or(|filter| filter.holds(offered))
    }

    /// Where it is scraped: at its port, or at the one of that name; `None` if it has none.
    fn address(&self, offered: &Offered) -> Option<Endpoint> {
        let Endpoint { host, port } = &offered.instance.address;
        let port = match self.query.text("port") {
            None => *port,
            Some(name) => *offered.instance.ports.get(name)?,
        };
        (port != 0).then(|| Endpoint { host: host.clone(), port })
    }
}

/// Whether an instance is to be expected there: also one that is critical or drains, for its figures say why; not one
/// whose member does not answer, unless that may be our own fault.
pub(super) fn is_there(service: &Service, offered: &Offered) -> bool {
    (offered.is_present && matches!(offered.member.state, MemberState::Reachable | MemberState::Suspect))
        || (service.kept().is_some() && offered.is_silent())
}

async fn targets(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref())?;
    let wish = Wish::of(&query)?;
    desk.certain()?;
    query.values("service").for_each(|name| desk.note_discovery(Subject::Service(name)));
    let services = desk.reader.services();
    let groups: Vec<_> = services
        .iter()
        .filter(|service| wish.takes_service(service.name()))
        .flat_map(|service| service.all().iter().filter(|offered| wish.takes(service, offered)))
        .filter_map(|offered| Some(group(offered, &wish.address(offered)?)))
        .collect();
    let mut response = json(StatusCode::OK, &groups);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn group<'a>(offered: &'a Offered, address: &Endpoint) -> Group<'a> {
    let (instance, member) = (&*offered.instance, &*offered.member);
    let mut labels = BTreeMap::new();
    let mut put = |name: &str, value: Cow<'a, str>| {
        if !value.is_empty() {
            // Of two names that become one, the first stays.
            labels.entry(Cow::Owned(format!("{LABEL}{name}"))).or_insert(value);
        }
    };
    let or_none = |text: &'a Option<Arc<str>>| Cow::Borrowed(text.as_deref().unwrap_or_default());
    put("service", Cow::Borrowed(&instance.service));
    put("instance_id", Cow::Borrowed(instance.id.as_str()));
    put("address", Cow::Owned(instance.address.host.to_string()));
    put("port", Cow::Owned(instance.address.port.to_string()));
    put("member", Cow::Borrowed(&member.name));
    put("member_id", Cow::Owned(member.peer.id.to_string()));
    put("member_state", Cow::Borrowed(member.state.as_str()));
    put("status", Cow::Borrowed(instance.status.as_str()));
    put("healthy", Cow::Borrowed(if offered.is_healthy() { "true" } else { "false" }));
    put("version", or_none(&instance.version));
    put("namespace", or_none(&instance.namespace));
    put("group", or_none(&instance.group));
    put("zone", instance.zone.as_deref().map_or(Cow::Borrowed(&*member.zone), Cow::Borrowed));
    put("protocol", or_none(&instance.protocol));
    put("weight", Cow::Owned(instance.weight.to_string()));
    if let Some(external) = External::of(instance) {
        put("node", Cow::Owned(external.node.to_string()));
    }
    if !instance.tags.is_empty() {
        // With a comma at both ends, so that `.*,tag,.*` finds each.
        let tags: String = instance.tags.iter().flat_map(|tag| [tag, ","]).collect();
        put("tags", Cow::Owned(format!(",{tags}")));
    }
    for (name, port) in &instance.ports {
        put(&format!("port_{}", in_label(name)), Cow::Owned(port.to_string()));
    }
    for (key, value) in &instance.meta {
        put(&format!("meta_{}", in_label(key)), Cow::Borrowed(value));
    }
    Group { targets: [address.to_string()], labels }
}

/// A text as a part of a label's name: what cannot stand there becomes an underscore, as Prometheus does it.
fn in_label(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::record::{Instance, Status};
    use crate::select::discovery::{Discovery as _, InMemory};

    fn web() -> Instance {
        Instance::new("web", "[::1]:80".parse::<SocketAddr>().unwrap()).unwrap().with_id("web-1")
    }

    fn one(instance: Instance) -> Offered {
        InMemory::of([instance]).unwrap().reader().service("web").unwrap().all()[0].clone()
    }

    #[test]
    fn labels_have_names_that_prometheus_takes_whatever_the_metadata_is_called() {
        let instance = web().with_meta("a.b-c ü", "1").with_meta("a_b_c__", "2").with_tag("x").with_tag("y");
        let offered = one(instance.with_meta("empty", ""));
        let group = group(&offered, &offered.instance.address);
        assert_eq!(group.targets, ["[::1]:80"]);
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        assert!(group.labels.keys().all(|name| is_name(name)), "{:?}", group.labels);
        assert_eq!(group.labels["__meta_tidings_meta_a_b_c__"], "1");
        assert_eq!(group.labels["__meta_tidings_tags"], ",x,y,");
        assert!(!group.labels.contains_key("__meta_tidings_meta_empty"), "an empty label is none");
    }

    #[test]
    fn one_that_is_out_of_service_is_scraped_all_the_same_unless_only_healthy_ones_are_wanted() {
        let offered = one(web().with_status(Status::Critical));
        let service = InMemory::of([web()]).unwrap().reader().service("web").unwrap();
        let takes = |text: &str| {
            let query = Query::parse(Some(text)).unwrap();
            Wish::of(&query).unwrap().takes(&service, &offered)
        };
        assert!(takes("") && takes("service=web") && takes("healthy=false") && takes("namespace="));
        assert!(!takes("healthy") && !takes("tag=x") && !takes("namespace=prod") && !takes("filter=weight==7"));
        let query = Query::parse(Some("servcie=web")).unwrap();
        assert!(Wish::of(&query).is_err(), "a word that is misspelt must not mean everything");
    }

    #[test]
    fn a_named_port_is_scraped_where_there_is_one() {
        let mut instance = web();
        instance.ports.insert(Arc::from("metrics"), 9_100);
        let offered = one(instance);
        let address = |text: &str| {
            let query = Query::parse(Some(text)).unwrap();
            Wish::of(&query).unwrap().address(&offered).map(|address| address.to_string())
        };
        assert_eq!(address(""), Some("[::1]:80".to_owned()));
        assert_eq!(address("port=metrics"), Some("[::1]:9100".to_owned()));
        assert_eq!(address("port=admin"), None);
    }
}
