//! `/eureka`: what clients of Eureka read, in XML and JSON. Which clients work is in `docs/eureka.md`. Nothing can be
//! registered here.

mod shape;
mod xml;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, put};

use self::shape::{Apps, Info};
use super::accept::quality;
use super::desk::Desk;
use super::index::Subject;
use super::refusal::{Refusal, json, with_type};
use crate::view::Service;

pub(super) fn router() -> Router<Arc<Desk>> {
    let app = get(app).post(write);
    let instance = get(instance).put(write).delete(write);
    Router::new()
        .route("/eureka/apps", get(apps))
        // As Netflix's own client asks.
        .route("/eureka/apps/", get(apps))
        .route("/eureka/apps/delta", get(delta))
        .route("/eureka/apps/{app}", app)
        .route("/eureka/apps/{app}/{id}", instance)
        .route("/eureka/apps/{app}/{id}/status", put(write).delete(write))
        .route("/eureka/apps/{app}/{id}/metadata", put(write))
        .route("/eureka/instances/{id}", get(instance_alone))
        .route("/eureka/vips/{vip}", get(vip))
        .route("/eureka/svips/{vip}", get(vip))
}

/// Which form an answer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Xml,
    Json,
}

impl Form {
    /// XML, as Eureka answers, unless JSON is wanted more.
    fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let xml = quality(accepted, "application/xml").max(quality(accepted, "text/xml"));
        if quality(accepted, "application/json") > xml { Self::Json } else { Self::Xml }
    }
}

/// What is asked for.
enum Answer<'a> {
    Apps(Apps<'a>),
    /// An application of this name.
    App(String, Vec<Info<'a>>),
    Instance(Info<'a>),
}

impl Answer<'_> {
    fn told(&self, form: Form) -> Response {
        let mut response = match form {
            Form::Xml => with_type(StatusCode::OK, "application/xml", xml::written(self)),
            Form::Json => json(StatusCode::OK, &self.as_json()),
        };
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

async fn apps(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Result<Response, Refusal> {
    desk.certain()?;
    let services = desk.reader.services();
    Ok(Answer::Apps(Apps::of(&desk, &services)).told(Form::of(&headers)))
}

/// What changed of late. What a client knows is not kept here, so it is told everything, as if all were new: it keeps
/// what it has, takes in what is there, and sees by the hash code that something is gone; then it asks for all.
async fn delta(state: State<Arc<Desk>>, headers: HeaderMap) -> Result<Response, Refusal> {
    apps(state, headers).await
}

/// The services that an application stands for: Eureka does not tell letters of either case apart.
fn named(desk: &Desk, asked: &str) -> Vec<Arc<Service>> {
    let asked = shape::app(asked);
    let services: Vec<_> =
        desk.reader.services().into_iter().filter(|service| shape::app(service.name()) == asked).collect();
    services.iter().for_each(|service| desk.note_discovery(Subject::Service(service.name())));
    if services.is_empty() {
        desk.note_discovery(Subject::Service(&asked));
    }
    services
}

async fn app(
    State(desk): State<Arc<Desk>>,
    Path(asked): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    desk.certain()?;
    let services = named(&desk, &asked);
    let instances = shape::instances(&desk, &services);
    if instances.is_empty() {
        return Err(Refusal::not_found(format!("no application {asked:?} is known")));
    }
    Ok(Answer::App(shape::app(&asked), instances).told(Form::of(&headers)))
}

async fn instance(
    State(desk): State<Arc<Desk>>,
    Path((asked, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    desk.certain()?;
    let among = named(&desk, &asked);
    one_of(&desk, &among, &id, &headers)
}

async fn instance_alone(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    desk.certain()?;
    one_of(&desk, &desk.reader.services(), &id, &headers)
}

/// The instance of that id among those of some services.
fn one_of(desk: &Desk, among: &[Arc<Service>], id: &str, headers: &HeaderMap) -> Result<Response, Refusal> {
    let found = shape::instances(desk, among).into_iter().find(|info| info.id == id);
    let found = found.ok_or_else(|| Refusal::not_found(format!("no instance {id:?} is known here")))?;
    Ok(Answer::Instance(found).told(Form::of(headers)))
}

/// An address that clients call a service by is the name of the service.
async fn vip(
    State(desk): State<Arc<Desk>>,
    Path(asked): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    desk.certain()?;
    let services = named(&desk, &asked);
    let apps = Apps::of(&desk, &services);
    if apps.is_empty() {
        return Err(Refusal::not_found(format!("no application at {asked:?} is known")));
    }
    Ok(Answer::Apps(apps).told(Form::of(&headers)))
}

async fn write() -> Refusal {
    let text = "not implemented: Eureka's interface can only be read here; register at /v1/agent/service/register or \
                /v2/offers, or embed the crate: then nothing has to be renewed";
    Refusal::new(StatusCode::NOT_IMPLEMENTED, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_is_the_answer_unless_json_is_wanted_more() {
        let form = |accept: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            Form::of(&headers)
        };
        for accept in [None, Some("*/*"), Some("application/xml"), Some("application/xml, application/json;q=0.9")] {
            assert_eq!(form(accept), Form::Xml, "{accept:?}");
        }
        for accept in ["application/json", "application/json, application/*+json", "application/json, */*;q=0.1"] {
            assert_eq!(form(Some(accept)), Form::Json, "{accept}");
        }
    }
}
