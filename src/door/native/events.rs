//! `/v2/events`: what happens from now on, as server-sent events.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_core::Stream;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::shape::partition;
use crate::door::ask::Query;
use crate::door::desk::Desk;
use crate::door::refusal::{Refusal, with_type};
use crate::effect::Event;
use crate::record::Instance;
use crate::registry::Events;

/// Streams of events at once.
pub const STREAMS_MAX: u64 = 1_024;

/// Events that wait for a slow reader; behind those, the member's own queue of events overflows, and that is told.
const AHEAD_MAX: usize = 64;

/// How often a comment is sent while nothing happens, so that nobody takes the connection for dead.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// The names of all events.
const NAMES: [&str; 20] = [
    "ready",
    "member_up",
    "member_changed",
    "member_down",
    "member_left",
    "member_forgotten",
    "service_up",
    "service_changed",
    "service_down",
    "partition_suspected",
    "partition_over",
    "isolated",
    "rejoined",
    "mass_drop",
    "mass_drop_over",
    "forgetting",
    "drained",
    "warning",
    "fatal",
    "lagged",
];

/// Which events a reader wants.
struct Wish {
    service: Option<String>,
    names: Vec<String>,
}

impl Wish {
    fn takes(&self, name: &str, services: &[&str]) -> bool {
        let is_named = self.names.is_empty() || self.names.iter().any(|wanted| wanted == name) || name == "lagged";
        let is_of = match &self.service {
            None => true,
            Some(service) => services.contains(&service.as_str()) || name == "lagged",
        };
        is_named && is_of
    }
}

pub(super) async fn events(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref())?;
    let names: Vec<String> = query.values("event").map(str::to_owned).collect();
    if let Some(wrong) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(Refusal::bad(format!("there is no event {wrong:?}; there are {}", NAMES.join(", "))));
    }
    let wish = Wish { service: query.value("service").map(str::to_owned), names };
    let open = OpenStream::new(Arc::clone(&desk))?;
    let (tell, told) = mpsc::channel(AHEAD_MAX);
    // Subscribed before the answer is there: what happens after it is told.
    let events = desk.registry.events();
    tokio::spawn(feed(open, events, wish, tell));
    let mut response = with_type(StatusCode::OK, "text/event-stream", Body::from_stream(Told(told)));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Counts an open stream while it lives.
struct OpenStream(Arc<Desk>);

impl OpenStream {
    fn new(desk: Arc<Desk>) -> Result<Self, Refusal> {
        let before = desk.figures.streams_open.fetch_add(1, Ordering::Relaxed);
        let open = Self(desk);
        if before < STREAMS_MAX {
            return Ok(open);
        }
        open.0.figures.streams_refused.fetch_add(1, Ordering::Relaxed);
        let text = format!("{STREAMS_MAX} streams of events are open already, which is the limit");
        Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.figures.streams_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Feeds a reader until it or the member goes.
async fn feed(open: OpenStream, mut events: Events, wish: Wish, tell: mpsc::Sender<Bytes>) {
    let desk = &open.0;
    let mut closing = desk.closing.clone();
    let mut comment = tokio::time::interval(COMMENT_EVERY);
    loop {
        let text = tokio::select! {
            biased;
            () = tell.closed() => return,
            _ = closing.wait_for(|is_closing| *is_closing) => return,
            event = events.next() => match event {
                Some(Ok(event)) => written(desk, &event, &wish),
                Some(Err(lagged)) => {
                    let mut fields = Map::new();
                    fields.insert("lost".to_owned(), Value::from(lagged.0));
                    Some(line("lagged", fields))
                }
                None => return,
            },
            // The first at once: so who reads knows that it is listened for them.
            _ = comment.tick() => Some(":\n\n".to_owned()),
        };
        if let Some(text) = text
            && tell.send(text.into()).await.is_err()
        {
            return;
        }
    }
}

/// The event for the reader; `None` if it is not wanted.
fn written(desk: &Desk, event: &Event, wish: &Wish) -> Option<String> {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    let mut services: Vec<&str> = Vec::new();
    let of_instance = |owner: &crate::peer::NodeId, instance: &Instance| {
        let record = serde_json::to_value(instance).expect("keys are text");
        let id = instance.id.to_string();
        [("service", json!(&*instance.service)), ("instance", json!(id)), ("record", record)]
            .into_iter()
            .chain([("member_id", json!(owner.to_string()))])
    };
    let of_member = |member| serde_json::to_value(desk.member(member)).expect("keys are text");
    let name = match event {
        Event::Ready => "ready",
        Event::MemberUp(member) => {
            put("member", of_member(member));
            "member_up"
        }
        Event::MemberChanged(member) => {
            put("member", of_member(member));
            "member_changed"
        }
        Event::MemberDown(member) => {
            put("member", of_member(member));
            "member_down"
        }
        Event::MemberLeft(member) => {
            put("member", of_member(member));
            "member_left"
        }
        Event::MemberForgotten(member) => {
            put("member", of_member(member));
            "member_forgotten"
        }
        Event::ServiceUp { owner, instance } => {
            services.push(&instance.service);
            of_instance(owner, instance).for_each(|(key, value)| put(key, value));
            "service_up"
        }
        Event::ServiceChanged { owner, before, instance } => {
            services.extend([&*before.service, &*instance.service]);
            of_instance(owner, instance).for_each(|(key, value)| put(key, value));
            "service_changed"
        }
        Event::ServiceDown { owner, instance, reason } => {
            services.push(&instance.service);
            of_instance(owner, instance).for_each(|(key, value)| put(key, value));
            put("reason", json!(reason.as_str()));
            "service_down"
        }
        Event::PartitionSuspected(split) => {
            put("reason", json!(split.to_string()));
            if let Value::Object(sides) = json!(partition(split)) {
                sides.into_iter().for_each(|(key, value)| put(&key, value));
            }
            "partition_suspected"
        }
        Event::PartitionOver => "partition_over",
        Event::CutOff(true) => "isolated",
        Event::CutOff(false) => "rejoined",
        Event::Forgetting { id, result } => {
            put("member_id", json!(id.to_string()));
            if let Err(why) = result {
                put("reason", json!(why.to_string()));
            }
            "forgetting"
        }
        Event::MassDrop { service, lost, kept } => {
            services.push(service);
            put("service", json!(&**service));
            put("lost", json!(lost));
            put("kept", json!(kept));
            "mass_drop"
        }
        Event::MassDropOver { service } => {
            services.push(service);
            put("service", json!(&**service));
            "mass_drop_over"
        }
        Event::Drained(_) => "drained",
        Event::Warning(warning) => {
            put("reason", json!(warning.to_string()));
            "warning"
        }
        Event::Fatal(fatal) => {
            put("reason", json!(fatal.to_string()));
            "fatal"
        }
    };
    wish.takes(name, &services).then(|| line(name, fields))
}

fn line(name: &'static str, fields: Map<String, Value>) -> String {
    let mut all = Map::new();
    all.insert("ts".to_owned(), Value::from(format!("{:.6}", jiff::Timestamp::now())));
    all.insert("event".to_owned(), Value::from(name));
    all.extend(fields);
    format!("event: {name}\ndata: {}\n\n", Value::Object(all))
}

/// What is fed, as a body reads it.
struct Told(mpsc::Receiver<Bytes>);

impl Stream for Told {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::http::HttpPlan;
    use crate::offers::Offers;
    use crate::registry::Registry;

    #[tokio::test]
    async fn one_stream_more_than_the_limit_is_refused_and_counted_until_one_ends() {
        let registry = Registry::builder("events-test", "a").start().await.expect("it starts");
        let offers = Offers::start(registry, None).await.expect("nothing is kept");
        let closing = tokio::sync::watch::Sender::new(false);
        let plan = HttpPlan::new("127.0.0.1:0".parse().expect("an address"), "events-test");
        let addr = plan.bind;
        let desk = Desk::open(offers, plan, addr, None, closing.subscribe());
        let one = async || events(State(Arc::clone(&desk)), RawQuery(None)).await;
        let mut open = Vec::new();
        for _ in 0..STREAMS_MAX {
            open.push(one().await.expect("there is room"));
        }
        let refused = one().await.unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.text.contains("1024"), "{}", refused.text);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((count(&desk.figures.streams_refused), count(&desk.figures.streams_open)), (1, STREAMS_MAX));
        // A reader that goes away drops the answer; what feeds it notices.
        open.pop();
        let noticed = async {
            while count(&desk.figures.streams_open) == STREAMS_MAX {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), noticed).await.expect("it takes microseconds");
        one().await.expect("whoever goes makes room");
    }
}
