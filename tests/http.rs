//! The HTTP interface over real sockets: members on loopback, each with a door of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tidings::door::Setting;
use tidings::door::auth::Tokens;
use tidings::door::http::{Http, HttpError, HttpPlan, HttpsFiles};
use tidings::offers::Offers;
use tidings::record::Instance;
use tidings::registry::{JoinPolicy, Registry};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Long enough for any machine; what ends here hangs.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it should have happened long ago")
}

/// Asks a door.
#[derive(Clone)]
struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

/// A member with a door.
struct Agent {
    registry: Registry,
    offers: Offers,
    http: Http,
    caller: Caller,
}

impl std::ops::Deref for Agent {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn index(&self) -> u64 {
        self.headers["x-consul-index"].parse().expect("a number")
    }
}

fn plan() -> HttpPlan {
    HttpPlan::new(SocketAddr::from(([127, 0, 0, 1], 0)), "http-test")
}

async fn open(registry: Registry, plan: HttpPlan) -> Agent {
    let offers = Offers::start(registry.clone(), None).await.expect("nothing is kept");
    let http = Http::open(offers.clone(), plan).expect("it opens");
    let caller = Caller { client: Client::builder(TokioExecutor::new()).build_http(), url: http.url() };
    Agent { registry, offers, http, caller }
}

async fn agent_as(name: &str, join: &[&Agent], plan: HttpPlan) -> Agent {
    let join = join.iter().map(|agent| agent.registry.local_addr().to_string());
    let registry = soon(Registry::builder("http-test", name).join(join).start()).await.expect("it starts");
    open(registry, plan).await
}

async fn agent(name: &str, join: &[&Agent]) -> Agent {
    agent_as(name, join, plan()).await
}

impl Caller {
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = axum::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = soon(self.client.request(request)).await.expect("an answer");
        let status = response.status().as_u16();
        let text = |value: &axum::http::HeaderValue| value.to_str().expect("text").to_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let body = soon(response.into_body().collect()).await.expect("a body").to_bytes().to_vec();
        Answer { status, headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.send("PUT", path, &[], body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer
    }

    /// Asks, by waiting for news where there are any to wait for, until the answer is such.
    async fn until(&self, path: &str, is_such: impl Fn(&Value) -> bool) -> Answer {
        let (began, mut index) = (Instant::now(), 0);
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let answer = self.get(&format!("{path}{mark}index={index}&wait=1s")).await;
            if answer.status == 200 && is_such(&answer.json()) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "{path}: {}", answer.text());
            let header = answer.headers.get("x-consul-index").or(answer.headers.get("x-tidings-index"));
            index = header.and_then(|text| text.parse().ok()).unwrap_or(0);
            tokio::task::yield_now().await;
        }
    }

    fn poll(&self, path: &str) -> JoinHandle<(Answer, Duration)> {
        let (caller, path) = (self.clone(), path.to_owned());
        tokio::spawn(async move {
            let began = Instant::now();
            let answer = caller.get(&path).await;
            (answer, began.elapsed())
        })
    }

    /// Waits until so many requests wait for news.
    async fn waiting(&self, polls: u64) {
        let began = Instant::now();
        while self.get("/v2/stats").await.json()["http"]["http_polls_open"] != polls {
            assert!(began.elapsed() < PATIENCE, "they never waited");
            tokio::task::yield_now().await;
        }
    }
}

fn statuses(entries: &Value) -> Vec<String> {
    let all = entries.as_array().expect("a list").iter();
    let of = |entry: &Value| {
        let checks = entry["Checks"].as_array().expect("a list");
        let each = checks.iter().map(|check| format!("{}={}", check["CheckID"], check["Status"]).replace('"', ""));
        each.collect::<Vec<_>>().join(" ")
    };
    all.map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_check_prints_is_in_the_next_answer_under_the_same_number() {
    let a = agent("a", &[]).await;
    let check = json!({"TTL": "10m", "Status": "passing"});
    a.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80, "Check": check})).await;
    a.put("/v1/agent/check/register", json!({"ID": "disk", "Name": "disk", "TTL": "10m", "Status": "passing"})).await;
    a.until("/v1/health/service/web?passing", |entries| !entries.as_array().unwrap().is_empty()).await;
    let path = "/v1/health/service/web";
    let index = a.get(path).await.index();
    for told in ["well", "well", "still well"] {
        a.put(&format!("/v1/agent/check/pass/service:web?note={}", told.replace(' ', "%20")), Value::Null).await;
        a.put(&format!("/v1/agent/check/pass/disk?note=disk%20{}", told.len()), Value::Null).await;
        let answer = a.get(path).await;
        let entry = &answer.json()[0];
        let printed = entry["Checks"].as_array().unwrap().iter().map(|check| check["Output"].clone());
        let expected = [json!("Agent alive and reachable"), json!(format!("disk {}", told.len())), json!(told)];
        assert_eq!(printed.collect::<Vec<_>>(), expected);
        assert_eq!((answer.index(), a.get(path).await.text()), (index, answer.text()), "nobody is woken by it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_lives_as_consul_clients_expect_it() {
    let a = agent("a", &[]).await;
    let b = agent("b", &[&a]).await;
    let empty = b.get("/v1/health/service/web?passing").await;
    assert_eq!((empty.status, empty.text().as_str()), (200, "[]"));
    assert!(empty.index() > 0);
    let registration = json!({
        "name": "web", "id": "web-1", "tags": ["v1", "canary"], "port": 8080, "meta": {"rack": "b7"},
        "check": {"ttl": "10m", "deregister_critical_service_after": "90m"},
    });
    let done = a.put("/v1/agent/service/register", registration).await;
    assert_eq!(done.text(), "", "success has no body");
    let there = b.until("/v1/health/service/web", |entries| !entries.as_array().unwrap().is_empty()).await.json();
    let entry = &there[0];
    assert_eq!(entry["Node"]["Node"], "a");
    assert_eq!(entry["Service"]["ID"], "web-1");
    assert_eq!(entry["Service"]["Tags"], json!(["canary", "v1"]));
    assert_eq!((&entry["Service"]["Port"], &entry["Service"]["Meta"]["rack"]), (&json!(8080), &json!("b7")));
    assert_eq!(entry["Service"]["Weights"], json!({"Passing": 1, "Warning": 1}));
    assert_eq!(entry["Node"]["ID"].as_str().unwrap().len(), 36);
    assert_eq!(statuses(&there), ["serfHealth=passing service:web-1=critical"], "critical until it is told otherwise");
    assert_eq!(b.get("/v1/health/service/web?passing=1").await.text(), "[]");

    a.put("/v1/agent/check/pass/service%3Aweb-1?note=well", Value::Null).await;
    let passing = b.until("/v1/health/service/web?passing", |entries| !entries.as_array().unwrap().is_empty()).await;
    assert_eq!(statuses(&passing.json()), ["serfHealth=passing service:web-1=passing"]);
    let own = a.get("/v1/agent/checks").await.json();
    assert_eq!((&own["service:web-1"]["Output"], &own["service:web-1"]["Type"]), (&json!("well"), &json!("ttl")));
    for (path, status) in [("name/web", 200), ("id/web-1", 200), ("id/none", 404)] {
        assert_eq!(a.get(&format!("/v1/agent/health/service/{path}?format=text")).await.status, status, "{path}");
    }
    for query in ["tag=v1&tag=canary", "node-meta=tidings-id:x", "tag=v1&tag=none", "filter=Service.Port==8080"] {
        let count = b.get(&format!("/v1/health/service/web?{query}")).await.json().as_array().unwrap().len();
        assert_eq!(count, usize::from(!query.contains("none") && !query.contains("node-meta")), "{query}");
    }

    a.put("/v1/agent/service/maintenance/web-1?enable=true&reason=disk%20swap", Value::Null).await;
    let out = b.until("/v1/health/service/web", |entries| statuses(entries)[0].contains("_service_maint")).await.json();
    let check = &out[0]["Checks"][2];
    assert_eq!((&check["CheckID"], &check["Notes"]), (&json!("_service_maintenance:web-1"), &json!("disk swap")));
    assert_eq!(a.get("/v1/agent/health/service/id/web-1").await.json()["AggregatedStatus"], "maintenance");
    a.put("/v1/agent/service/maintenance/web-1?enable=false", Value::Null).await;
    b.until("/v1/health/service/web?passing", |entries| !entries.as_array().unwrap().is_empty()).await;

    assert_eq!(b.get("/v1/catalog/services").await.json(), json!({"web": ["canary", "v1"]}));
    let row = &b.get("/v1/catalog/service/web").await.json()[0];
    assert_eq!(
        (&row["ServiceID"], &row["ServicePort"], &row["Address"]),
        (&json!("web-1"), &json!(8080), &json!("127.0.0.1"))
    );
    a.put("/v1/agent/service/deregister/web-1", Value::Null).await;
    b.until("/v1/catalog/services", |names| names.as_object().unwrap().is_empty()).await;
    let again = a.send("PUT", "/v1/agent/check/pass/service:web-1", &[], "").await;
    assert_eq!(again.status, 404, "whoever hears this registers again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_wakes_its_own_pollers_and_no_others() {
    let a = agent("a", &[]).await;
    let b = agent("b", &[&a]).await;
    for name in ["web", "db"] {
        a.put("/v1/agent/service/register", json!({"Name": name, "Port": 80, "Check": {"TTL": "10m"}})).await;
        b.until(&format!("/v1/health/service/{name}"), |entries| !entries.as_array().unwrap().is_empty()).await;
    }
    let index = async |path: &str| b.get(path).await.index();
    let web = index("/v1/health/service/web").await;
    let of_web: Vec<_> = (0..8).map(|_| b.poll(&format!("/v1/health/service/web?index={web}&wait=10m"))).collect();
    let db = index("/v1/health/service/db").await;
    let of_db = b.poll(&format!("/v1/health/service/db?index={db}&wait=10m"));
    let none = index("/v1/health/service/none").await;
    let of_none = b.poll(&format!("/v1/health/service/none?index={none}&wait=10m"));
    let names = index("/v1/catalog/services").await;
    let of_names = b.poll(&format!("/v1/catalog/services?index={names}&wait=10m"));
    let checks = index("/v1/health/state/any").await;
    let of_checks = b.poll(&format!("/v1/health/state/any?index={checks}&wait=10m"));
    b.waiting(12).await;
    a.put("/v1/agent/check/pass/service:web", Value::Null).await;
    for poll in of_web {
        let (answer, _) = soon(poll).await.unwrap();
        assert!(answer.index() > web);
        assert!(statuses(&answer.json())[0].ends_with("service:web=passing"));
    }
    assert!(soon(of_checks).await.unwrap().0.index() > checks);
    // What a check prints is no change.
    a.put("/v1/agent/check/pass/service:web?note=again", Value::Null).await;
    b.waiting(3).await;
    assert!(![of_db.is_finished(), of_none.is_finished(), of_names.is_finished()].contains(&true));
    a.put("/v1/agent/service/register", json!({"Name": "none"})).await;
    assert_eq!(soon(of_none).await.unwrap().0.json()[0]["Service"]["Service"], "none");
    assert!(soon(of_names).await.unwrap().0.json().get("none").is_some());
    assert!(!of_db.is_finished());
    soon(b.http.close()).await;
    assert_eq!(soon(of_db).await.unwrap().0.index(), db, "an agent that ends answers who waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_is_never_answered_later_than_it_asked_for() {
    let a = agent("a", &[]).await;
    let index = a.get("/v1/health/service/web").await.index();
    for wait in [50u64, 200] {
        let (answer, took) = a.poll(&format!("/v1/health/service/web?index={index}&wait={wait}ms")).await.unwrap();
        assert_eq!((answer.index(), answer.text().as_str()), (index, "[]"));
        // From a sixteenth less; the machine may be slow, which is no later by the agent's own clock.
        assert!(took >= Duration::from_millis(wait * 15 / 16), "{took:?} of {wait}");
    }
    let (_, took) = a.poll("/v1/health/service/web?index=0&wait=30s").await.unwrap();
    assert!(took < Duration::from_secs(10), "0 does not wait");
    // No service can have such a name: there is nothing to wait for, and nothing is remembered of it.
    let long = "x".repeat(tidings::record::limits::NAME_BYTES_MAX + 1);
    for path in
        [format!("/v1/health/service/{long}"), "/v1/catalog/service/a%0Ab".into(), format!("/v2/services/{long}")]
    {
        let (answer, took) = a.poll(&format!("{path}?index={index}&wait=5m")).await.unwrap();
        assert!(answer.status == 400 && answer.text().contains("service"), "{path}: {}", answer.text());
        assert!(took < Duration::from_secs(10), "{path}");
    }
    for wrong in ["index=1&wait=30", "index=x", "passing=maybe", "filter=Service.Nope==1", "filter=("] {
        assert_eq!(a.get(&format!("/v1/health/service/web?{wrong}")).await.status, 400, "{wrong}");
    }
    let elsewhere = a.get("/v1/catalog/services?dc=elsewhere").await;
    assert_eq!((elsewhere.status, elsewhere.text().as_str()), (500, "No path to datacenter"));
    assert_eq!(a.get("/v1/catalog/services?dc=dc1&stale=&consistent=false&ns=default&token=").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_prometheus_sends_is_answered_as_it_reads_it() {
    let a = agent("a", &[]).await;
    a.put("/v1/agent/service/register", json!({"Name": "test", "Tags": ["tag1"], "Port": 9100})).await;
    assert_eq!(a.get("/v1/agent/self").await.json()["Config"]["Datacenter"], "dc1");
    let services = a.get("/v1/catalog/services?wait=120000ms").await;
    assert_eq!(services.json(), json!({"test": ["tag1"]}));
    let meta = "node-meta=rack_name%3A2304&stale=";
    let filtered = a.get(&format!("/v1/catalog/services?index=1&{meta}&wait=120000ms")).await;
    assert_eq!((filtered.status, filtered.text().as_str()), (200, "{}"), "nobody stands in that rack");
    let health = a.get(&format!("/v1/health/service/test?{meta}&tag=tag1&wait=120000ms")).await;
    assert_eq!((health.status, health.text().as_str()), (200, "[]"));
    let newer = "/v1/catalog/services?filter=NodeMeta.rack_name%20%3D%3D%20%222304%22&wait=120000ms";
    assert_eq!(a.get(newer).await.text(), "{}");
    let entry = &a.get("/v1/health/service/test?stale=&tag=tag1&wait=120000ms").await.json()[0];
    for (part, field) in [("Node", "Address"), ("Node", "Datacenter"), ("Node", "Node"), ("Service", "ID")] {
        assert!(entry[part][field].is_string(), "{part}.{field}");
    }
    for (part, field) in [("Node", "TaggedAddresses"), ("Node", "Meta"), ("Service", "Meta")] {
        assert!(entry[part][field].is_object(), "{part}.{field}");
    }
    assert!(entry["Service"]["Tags"].is_array() && entry["Checks"].is_array());
    assert_eq!(a.get("/v1/catalog/services").await.headers["x-consul-knownleader"], "true");
}

/// The value of a series, by its whole name with labels.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
    line.rsplit_once(' ').expect("it has a value").1.parse().expect("a number")
}

/// Every series is of the family that was described last, and no series comes twice: what all scrapers demand.
fn check_page(page: &str) {
    let (mut family, mut described, mut series) = (String::new(), Vec::new(), std::collections::BTreeSet::new());
    for line in page.lines() {
        match line.strip_prefix("# ") {
            Some("EOF") => {}
            Some(text) => {
                let mut words = text.splitn(3, ' ');
                let (word, name) = (words.next().unwrap(), words.next().unwrap());
                if word == "HELP" {
                    name.clone_into(&mut family);
                    assert!(!described.contains(&family), "{family} is described twice");
                    described.push(family.clone());
                }
                assert_eq!(name, family, "{line}");
                assert!(words.next().is_some_and(|rest| !rest.is_empty()), "{line}");
            }
            None => {
                let (name, number) = line.rsplit_once(' ').expect("a value");
                let bare = name.split('{').next().unwrap();
                let ending = bare.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} in {family}"));
                assert!(["", "_total", "_info", "_bucket", "_sum", "_count"].contains(&ending), "{line} in {family}");
                assert!(number.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                assert!(series.insert(name.to_owned()), "{name} twice");
            }
        }
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted_and_told_in_both_formats() {
    let a = agent("a", &[]).await;
    let b = agent("b", &[&a]).await;
    let hostile = "we\"b\\{x=\"1\"}";
    let check = json!({"TTL": "10m"});
    a.put("/v1/agent/service/register", json!({"Name": hostile, "ID": "w", "Port": 1, "Check": check})).await;
    let _own = soon(b.registry.register(Instance::new("db", "127.0.0.1:5432".parse::<SocketAddr>().unwrap()).unwrap()));
    let _own = _own.await.unwrap();
    a.put("/v1/agent/check/pass/service:w", Value::Null).await;
    a.until("/v1/health/service/db?passing", |entries| !entries.as_array().unwrap().is_empty()).await;
    a.get("/v1/health/service/nobody").await;
    let wrong = json!({"Name": "web", "Port": 80, "Weights": {"Passing": 1_000_000, "Warning": 1}}).to_string();
    assert_eq!(a.send("PUT", "/v1/agent/service/register", &[], wrong).await.status, 400);
    let plain = a.get("/metrics").await;
    assert_eq!(plain.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = plain.text();
    check_page(&page);
    let escaped = r#"we\"b\\{x=\"1\"}"#;
    for (series, least) in [
        (format!("service_registrations_total{{service_name=\"{escaped}\",status=\"success\"}}"), 1.0),
        (format!("health_checks_total{{service_name=\"{escaped}\",status=\"passing\"}}"), 1.0),
        (format!("service_instances{{service_name=\"{escaped}\",status=\"passing\"}}"), 1.0),
        ("service_instances{service_name=\"db\",status=\"passing\"}".to_owned(), 1.0),
        ("service_discoveries_total{service_name=\"db\"}".to_owned(), 1.0),
        ("tidings_discoveries_unknown_total".to_owned(), 1.0),
        ("tidings_cluster_size".to_owned(), 2.0),
        ("tidings_members{state=\"reachable\"}".to_owned(), 2.0),
        ("tidings_ready".to_owned(), 1.0),
        ("tidings_own_changes_total".to_owned(), 2.0),
        ("tidings_http_requests_total{route=\"/v1/agent/service/register\",code=\"400\"}".to_owned(), 1.0),
        ("tidings_http_requests_total{route=\"/v1/health/service/{service}\",code=\"200\"}".to_owned(), 2.0),
        ("tidings_queue_limit{queue=\"rumors\"}".to_owned(), 4_096.0),
    ] {
        assert!(value(&page, &series) >= least, "{series}: {}", value(&page, &series));
    }
    assert_eq!(value(&page, "tidings_isolated"), 0.0);
    let of_b = b.get("/metrics").await.text();
    assert_eq!(value(&of_b, "service_registrations_total{service_name=\"db\",status=\"success\"}"), 1.0);

    let open = a.send("GET", "/metrics", &[("accept", OPEN_METRICS)], "").await;
    assert_eq!(open.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let page = open.text();
    check_page(&page);
    assert!(page.ends_with("\n# EOF\n") && page.contains("\n# UNIT tidings_rtt_seconds seconds\n"));
    let counts: Vec<f64> = page
        .lines()
        .filter(|line| line.starts_with("tidings_rtt_seconds_bucket"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(counts.len() == 17 && counts.is_sorted());
    assert_eq!(counts[16], value(&page, "tidings_rtt_seconds_count"));
    let consul = a.get("/v1/agent/metrics?format=prometheus").await;
    assert_eq!((consul.status, value(&consul.text(), "tidings_cluster_size")), (200, 2.0));
}

/// Neither can lie: each family stands in both, with the same kind and the same meaning.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_says_of_every_family_what_the_page_says() {
    let a = agent("a", &[]).await;
    let page = a.send("GET", "/metrics", &[("accept", OPEN_METRICS)], "").await.text();
    let told = |word: &str| -> BTreeMap<String, String> {
        let lines = page.lines().filter_map(|line| line.strip_prefix(&format!("# {word} ")));
        lines.map(|line| line.split_once(' ').expect("a name")).map(|(name, text)| (name.into(), text.into())).collect()
    };
    let kinds = told("TYPE");
    let row = |(name, help): (&String, &String)| {
        let kind = kinds[name].as_str();
        let ending = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        format!("| `{name}{ending}` | {kind} | {help} |")
    };
    let shown: std::collections::BTreeSet<String> = told("HELP").iter().map(row).collect();
    let text = include_str!("../docs/metrics.md");
    let written = text.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
    let lines = |rows: Vec<&String>| rows.into_iter().map(|row| format!("\n{row}")).collect::<String>();
    assert!(shown.len() > 150, "{}", shown.len());
    assert_eq!(lines(shown.difference(&written).collect()), "", "docs/metrics.md lacks these");
    assert_eq!(lines(written.difference(&shown).collect()), "", "docs/metrics.md has these, which are not shown");
}

/// Pickers of a program that serves the page itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_chooses_is_counted_by_service_algorithm_and_instance() {
    let a = agent("a", &[]).await;
    let web = Instance::new("web", "127.0.0.1:80".parse::<SocketAddr>().unwrap()).unwrap().with_id("web-1");
    let _web = soon(a.registry.register(web)).await.unwrap();
    let picker = tidings::select::Picker::new(a.registry.reader(), "web");
    (0..3).for_each(|_| picker.pick().expect("it is healthy").finish(tidings::select::Outcome::Succeeded));
    let series = "load_balancer_selections_total{service_name=\"web\",algorithm=\"ewma\",instance=\"web-1\"}";
    assert_eq!(value(&a.get("/metrics").await.text(), series), 3.0);
    drop(picker);
    assert_eq!(value(&a.get("/metrics").await.text(), series), 3.0, "a counter does not go back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_finds_its_targets_over_http() {
    let a = agent("a", &[]).await;
    let empty = a.get("/v1/sd/prometheus").await;
    assert_eq!((empty.status, empty.text().as_str()), (200, "[]"), "no targets are an empty list");
    assert_eq!(empty.headers["content-type"], "application/json");
    let b = agent("b", &[&a]).await;
    let web = Instance::new("web", "10.0.0.1:80".parse::<SocketAddr>().unwrap()).unwrap().with_tag("v1").with_id("w");
    let _web = soon(b.registry.register(web.with_namespace("prod").with_meta("team/x", "a"))).await.unwrap();
    let there = "/v1/sd/prometheus?service=web&tag=v1&namespace=prod&healthy";
    let told = a.until("/v2/services", |told| !told["services"].as_array().unwrap().is_empty()).await;
    assert_eq!(told.status, 200);
    let targets = a.get(there).await.json();
    assert_eq!(targets[0]["targets"], json!(["10.0.0.1:80"]));
    let labels = &targets[0]["labels"];
    for (label, value) in [
        ("service", "web"),
        ("instance_id", "w"),
        ("member", "b"),
        ("status", "passing"),
        ("healthy", "true"),
        ("namespace", "prod"),
        ("tags", ",v1,"),
        ("meta_team_x", "a"),
    ] {
        assert_eq!(labels[format!("__meta_tidings_{label}")], value, "{label}");
    }
    for (query, count) in [("service=web&service=db", 1), ("service=db", 0), ("tag=v2", 0), ("port=metrics", 0)] {
        let all = a.get(&format!("/v1/sd/prometheus?{query}")).await.json();
        assert_eq!(all.as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!(a.get("/v1/sd/prometheus?servcie=web").await.status, 400);
    let gone = b.registry.clone();
    drop((b, _web));
    soon(gone.leave()).await.unwrap();
    a.until("/v2/services", |told| told["services"].as_array().unwrap().is_empty()).await;
    assert_eq!(a.get(there).await.text(), "[]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_eureka_clients_read_is_there_in_xml_and_in_json() {
    let a = agent("a", &[]).await;
    let web = json!({"Name": "web", "ID": "w", "Address": "10.0.0.1", "Port": 80, "Meta": {"k": "<&>"}});
    a.put("/v1/agent/service/register", web).await;
    a.put("/v1/agent/service/register", json!({"Name": "Web", "ID": "x", "Port": 81})).await;
    let json = [("accept", "application/json")];
    let all = a.send("GET", "/eureka/apps/", &json, "").await.json();
    let apps = &all["applications"];
    assert_eq!((&apps["versions__delta"], &apps["apps__hashcode"]), (&json!("1"), &json!("UP_2_")));
    assert_eq!(apps["application"].as_array().unwrap().len(), 1, "letters of either case are the same");
    let instance = &apps["application"][0]["instance"][0];
    assert_eq!((&apps["application"][0]["name"], &instance["app"]), (&json!("WEB"), &json!("WEB")));
    assert_eq!((&instance["instanceId"], &instance["hostName"]), (&json!("a:w"), &json!("10.0.0.1")));
    assert_eq!((&instance["port"]["$"], &instance["port"]["@enabled"]), (&json!(80), &json!("true")));
    let delta = &a.send("GET", "/eureka/apps/delta", &json, "").await.json()["applications"];
    assert_eq!(delta["apps__hashcode"], apps["apps__hashcode"]);
    let ids = |apps: &Value| -> Vec<String> {
        let all = apps["application"][0]["instance"].as_array().unwrap();
        all.iter().map(|info| format!("{} {}", info["instanceId"], info["actionType"])).collect()
    };
    assert_eq!(ids(delta), [r#""a:w" "ADDED""#, r#""a:x" "ADDED""#], "everything is told as if it were new");
    for path in ["/eureka/apps/web", "/eureka/apps/WEB/a:w", "/eureka/instances/a:w", "/eureka/vips/web"] {
        assert_eq!(a.send("GET", path, &json, "").await.status, 200, "{path}");
    }
    assert_eq!(a.send("GET", "/eureka/instances/a:w", &json, "").await.json()["instance"]["metadata"]["k"], "<&>");
    for path in ["/eureka/apps/none", "/eureka/apps/web/none", "/eureka/instances/none", "/eureka/vips/none"] {
        assert_eq!(a.get(path).await.status, 404, "{path}");
    }
    let xml = a.get("/eureka/apps").await;
    assert_eq!(xml.headers["content-type"], "application/xml");
    let start = "<applications><versions__delta>1</versions__delta><apps__hashcode>UP_2_</apps__hashcode>\
                 <application><name>WEB</name><instance><instanceId>a:w</instanceId><hostName>10.0.0.1</hostName>";
    assert!(xml.text().starts_with(start), "{}", xml.text());
    assert!(xml.text().contains("<k>&lt;&amp;&gt;</k>"), "{}", xml.text());
    for (method, path) in [
        ("POST", "/eureka/apps/web"),
        ("PUT", "/eureka/apps/web/a:w"),
        ("DELETE", "/eureka/apps/web/a:w"),
        ("PUT", "/eureka/apps/web/a:w/status"),
        ("PUT", "/eureka/apps/web/a:w/metadata"),
    ] {
        let answer = a.send(method, path, &[], "").await;
        assert_eq!(answer.status, 501, "{method} {path}");
        assert!(answer.text().contains("only be read"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_has_not_joined_says_so_to_every_client_in_its_way() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let seed = silent.local_addr().expect("it is bound").to_string();
    let builder = Registry::builder("http-test", "alone").join([seed]).join_policy(JoinPolicy::Background);
    let a = open(soon(builder.start()).await.expect("it starts"), plan()).await;
    for path in [
        "/v1/catalog/services",
        "/v1/health/service/web",
        "/v1/agent/services",
        "/v1/status/leader",
        "/v1/sd/prometheus",
        "/eureka/apps",
    ] {
        let answer = a.get(path).await;
        assert_eq!(answer.status, 500, "{path}");
        assert!(answer.text().contains("not joined"), "{}", answer.text());
    }
    assert_eq!(a.get("/v2/services").await.json(), json!({"schema_version": 1, "stale": true, "services": []}));
    assert_eq!((a.get("/livez").await.status, a.get("/readyz").await.status), (200, 503));
    assert_eq!(value(&a.get("/metrics").await.text(), "tidings_ready"), 0.0, "figures are told all the same");
    let b = agent("b", &[&a]).await;
    a.until("/v2/members", |members| members["stale"] == false).await;
    assert_eq!((a.get("/readyz").await.status, b.get("/v1/catalog/nodes").await.status), (200, 200));
    assert_eq!(a.get("/v1/agent/members").await.json().as_array().unwrap().len(), 2);
}

const READER: &str = "0123456789abcdef-read";
const WRITER: &str = "0123456789abcdef-write";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_open_what_their_scope_says() {
    let mut guarded = plan();
    guarded.tokens = Some(Tokens::parse(&format!("{READER} read\n{WRITER} write")).unwrap());
    let a = agent_as("a", &[], guarded).await;
    let services = "/v1/catalog/services";
    assert_eq!(a.get(services).await.status, 401);
    assert_eq!(a.get("/livez").await.status, 200);
    let bearer = format!("Bearer {READER}");
    for headers in [("authorization", bearer.as_str()), ("x-consul-token", READER)] {
        assert_eq!(a.send("GET", services, &[headers], "").await.status, 200);
    }
    assert_eq!(a.send("GET", &format!("{services}?token={READER}"), &[("x-consul-token", "")], "").await.status, 200);
    let wrong = a.send("GET", services, &[("x-consul-token", "0123456789abcdef-wrong")], "").await;
    assert_eq!((wrong.status, wrong.headers["www-authenticate"].as_str()), (401, "Bearer"));
    let body = json!({"Name": "web"}).to_string();
    let register =
        async |token| a.send("PUT", "/v1/agent/service/register", &[("x-consul-token", token)], body.clone()).await;
    let refused = register(READER).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("write"), "{}", refused.text());
    assert_eq!(register(WRITER).await.status, 200);
    let refused = a.send("GET", "/v2/keys", &[("x-consul-token", READER)], "").await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (403, &json!("forbidden")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_served_to_other_machines_or_to_web_pages_by_mistake() {
    let a = agent("a", &[]).await;
    let mut open = HttpPlan::new("0.0.0.0:0".parse().unwrap(), "http-test");
    let refused = Http::open(a.offers.clone(), open.clone()).unwrap_err();
    assert!(matches!(refused, HttpError::NotLoopback { .. }), "{refused}");
    open.tokens = Some(Tokens::parse(&format!("{READER} read")).unwrap());
    assert!(Http::open(a.offers.clone(), open.clone()).is_err(), "tokens in clear are no secret");
    open.is_insecure = true;
    assert!(Http::open(a.offers.clone(), open).is_ok());
    let taken = Http::open(a.offers.clone(), HttpPlan::new(a.http.addr(), "http-test")).unwrap_err();
    assert!(taken.to_string().contains(&a.http.addr().to_string()), "{taken}");
    let rebound = a.send("GET", "/v2/members", &[("host", "evil.example")], "").await;
    assert_eq!((rebound.status, &rebound.json()["error"]["code"]), (403, &json!("wrong_host")));
    let page = [("origin", "http://evil.example"), ("content-type", "text/plain")];
    let of_page = a.send("POST", "/v2/leave", &page, "").await;
    assert_eq!((of_page.status, &of_page.json()["error"]["code"]), (403, &json!("wrong_origin")));
    assert_eq!(a.get("/v2/members").await.status, 200);
    let mut shared = plan();
    shared.tokens = Some(Tokens::parse(&format!("anonymous write\n{WRITER} write")).unwrap());
    let b = agent_as("b", &[], shared).await;
    assert_eq!(b.send("POST", "/v2/leave", &page, "").await.status, 403, "a page is nobody, but not anybody");
    assert_eq!(b.send("GET", "/v2/members", &[("host", "evil.example")], "").await.status, 403);
    assert_eq!(b.get("/v2/members").await.status, 200);
    assert_eq!(b.send("GET", "/v2/members", &[page[0], ("x-consul-token", WRITER)], "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_needs_no_token_and_is_for_pages_of_this_agent_alone() {
    let mut guarded = plan();
    guarded.tokens = Some(Tokens::parse(&format!("{READER} read")).unwrap());
    let a = agent_as("a", &[], guarded).await;
    assert_eq!(a.get("/v2/view").await.status, 401);
    for path in ["/ui/", "/ui/style.css", "/ui/page.js", "/ui/icon.svg"] {
        let file = a.get(path).await;
        assert_eq!(file.status, 200, "{path}");
        let policy = &file.headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let known = [("if-none-match", file.headers["etag"].as_str())];
        let again = a.send("GET", path, &known, "").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        for (header, value) in [("host", "evil.example"), ("origin", "http://evil.example")] {
            assert_eq!(a.send("GET", path, &[(header, value)], "").await.status, 403, "{path} {header}");
        }
        assert_eq!(a.send("POST", path, &[], "").await.status, 401, "{path}");
    }
    let html = [("accept", "text/html,application/xhtml+xml")];
    for (path, headers) in [("/", &html[..]), ("/ui", &[])] {
        let sent = a.send("GET", path, headers, "").await;
        assert_eq!((sent.status, sent.headers["location"].as_str()), (307, "ui/"), "{path}");
    }
    assert_eq!(a.get("/").await.status, 404, "programs are not sent anywhere");
    assert_eq!(a.get("/ui/nothing").await.status, 401, "what is no part of the page is as guarded as all else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_done_says_why() {
    let a = agent("a", &[]).await;
    for (method, path, word) in [
        ("PUT", "/v1/session/create", "locks"),
        ("GET", "/v1/kv/a", "keys and values"),
        ("PUT", "/v1/txn", "consensus"),
        ("PUT", "/v1/event/fire/x", "events"),
        ("GET", "/v1/query", "prepared"),
        ("GET", "/v1/connect/ca/roots", "mesh"),
        ("GET", "/v1/acl/tokens", "tokens"),
        ("GET", "/v1/agent/monitor", "not offered"),
    ] {
        let answer = a.send(method, path, &[], "").await;
        assert_eq!(answer.status, 501, "{path}");
        assert!(answer.text().contains(word), "{path}: {}", answer.text());
    }
    assert_eq!(a.get("/v1/nothing").await.status, 404);
    assert_eq!(a.send("POST", "/v1/catalog/services", &[], "").await.status, 405);
    let answer = a.get("/v2/nothing").await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("not_found")));
    let command = json!({"Name": "web", "Check": {"Args": ["id"], "Interval": "1s"}});
    assert_eq!(a.send("PUT", "/v1/agent/service/register", &[], command.to_string()).await.status, 400);
    let long = vec![b' '; tidings::door::BODY_BYTES_MAX + 1];
    assert_eq!(a.send("PUT", "/v1/agent/service/register", &[], long).await.status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_no_member_is_registered_in_the_catalog() {
    let a = agent("a", &[]).await;
    let b = agent("b", &[&a]).await;
    let registration = json!({
        "Node": "rds", "Address": "10.0.0.9", "NodeMeta": {"external-node": "true"},
        "Service": {"ID": "db-1", "Service": "db", "Port": 5432},
        "Check": {"CheckID": "db", "Name": "db", "Status": "passing", "ServiceID": "db-1"},
    });
    a.put("/v1/catalog/register", registration.clone()).await;
    let there =
        b.until("/v1/health/service/db?passing", |entries| !entries.as_array().unwrap().is_empty()).await.json();
    assert_eq!((&there[0]["Node"]["Node"], &there[0]["Service"]["ID"]), (&json!("rds"), &json!("db-1")));
    assert_eq!(there[0]["Node"]["Address"], "10.0.0.9");
    let node = b.get("/v1/catalog/node/rds").await.json();
    assert_eq!(node["Services"]["db-1"]["Port"], 5432);
    assert_eq!(b.get("/v1/catalog/nodes").await.json().as_array().unwrap().len(), 3);
    assert!(a.get("/v1/agent/services").await.json().as_object().unwrap().is_empty(), "it is not of this agent");
    let mut broken = registration;
    broken["Check"]["Status"] = json!("critical");
    a.put("/v1/catalog/register", broken).await;
    b.until("/v1/health/service/db?passing", |entries| entries.as_array().unwrap().is_empty()).await;
    // Ours has a check of the same name, which is none of that node's.
    let own = json!({"Name": "db", "ID": "own", "Check": {"CheckID": "db", "TTL": "10m", "Status": "passing"}});
    a.put("/v1/agent/service/register", own).await;
    let checks = async || -> Vec<String> {
        let checks = a.get("/v2/checks").await.json();
        checks["checks"].as_array().unwrap().iter().map(|check| check["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(checks().await, ["db", "rds/db"]);
    for other in ["b", "nobody"] {
        a.put("/v1/catalog/deregister", json!({"Node": other, "CheckID": "db"})).await;
        assert_eq!(checks().await.len(), 2, "{other} has none");
    }
    a.put("/v1/catalog/deregister", json!({"Node": "rds", "CheckID": "db"})).await;
    assert_eq!(checks().await, ["db"]);
    a.put("/v1/catalog/deregister", json!({"Node": "a", "CheckID": "db"})).await;
    assert!(checks().await.is_empty());
    a.put("/v1/agent/service/deregister/own", Value::Null).await;
    let posing = json!({"Name": "db", "Meta": {"tidings-external-node": "rds"}}).to_string();
    let refused = a.send("PUT", "/v1/agent/service/register", &[], posing).await;
    assert!(refused.status == 400 && refused.text().contains("reserved"), "{}", refused.text());
    a.put("/v1/catalog/deregister", json!({"Node": "rds", "ServiceID": "db-1"})).await;
    b.until("/v1/catalog/services", |names| names.as_object().unwrap().is_empty()).await;
}

/// Checks answers against the contract: every answer must be one that it describes, with nothing else in it.
struct Contract {
    document: Value,
}

impl Contract {
    async fn of(agent: &Agent) -> Self {
        let mut document = agent.get("/v2/openapi.json").await.json();
        Self::close(&mut document["components"]["schemas"]);
        Self { document }
    }

    /// Lets no object have a field that the contract does not name.
    fn close(schema: &mut Value) {
        match schema {
            Value::Object(fields) => {
                if fields.get("type") == Some(&json!("object")) && fields.contains_key("properties") {
                    fields.entry("additionalProperties").or_insert(json!(false));
                }
                fields.values_mut().for_each(Self::close);
            }
            Value::Array(all) => all.iter_mut().for_each(Self::close),
            _ => {}
        }
    }

    fn check(&self, method: &str, template: &str, answer: &Answer) {
        let operation = &self.document["paths"][template][method.to_lowercase()];
        assert!(operation.is_object(), "{method} {template} is not in the contract");
        let mut told = &operation["responses"][answer.status.to_string()];
        if let Some(name) = told["$ref"].as_str() {
            told = self.document.pointer(&name[1..]).expect("it is there");
        }
        assert!(told.is_object(), "{method} {template}: {} is not in the contract: {}", answer.status, answer.text());
        let kind = answer.headers["content-type"].split(';').next().unwrap_or_default();
        let content = &told["content"][kind];
        assert!(content.is_object(), "{method} {template}: {kind} is not in the contract");
        if kind == "application/json" {
            let mut schema = content["schema"].clone();
            schema["components"] = self.document["components"].clone();
            let checker = jsonschema::draft202012::new(&schema).expect("a schema");
            let body = answer.json();
            let errors: Vec<_> = checker.iter_errors(&body).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{method} {template}: {errors:?}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_v2_is_as_the_contract_says() {
    let mut told = plan();
    told.settings = vec![Setting::new("name", Some("a".to_owned())), Setting::new("key", None)];
    let a = agent_as("a", &[], told).await;
    let b = agent("b", &[&a]).await;
    let (of_a, of_b) = (a.registry.id(), b.registry.id());
    let contract = Contract::of(&a).await;
    let registration = json!({
        "service": "web", "id": "web-1", "address": {"host": "127.0.0.1", "port": 80}, "version": "1.2.3",
        "tags": ["v1"], "meta": {"rack": "b7"}, "ports": {"admin": 81}, "weight": 3,
        "addresses": {"wan": {"host": "db.example", "port": 1}}, "zone": "z", "group": "g", "protocol": "http",
        "checks": [{"kind": "ttl", "ttl_ms": 600_000, "status": "passing"}],
    });
    let _own = soon(b.registry.register(Instance::new("db", "127.0.0.1:5432".parse::<SocketAddr>().unwrap()).unwrap()));
    let _own = _own.await.unwrap();
    let body = |value: &Value| value.to_string();
    let weight = json!({"weight": 7});
    let off = json!({"reason": "disk", "for_ms": 60_000});
    let word = json!({"status": "warning", "output": "slow"});
    let join = json!({"targets": [b.registry.local_addr().to_string()]});
    for (method, template, path, said, status) in [
        ("GET", "/v2/agent", "/v2/agent", None, 200),
        ("GET", "/v2/config", "/v2/config", None, 200),
        ("GET", "/v2/stats", "/v2/stats", None, 200),
        ("POST", "/v2/offers", "/v2/offers", Some(&registration), 200),
        ("PUT", "/v2/offers/{instance}", "/v2/offers/web-1", Some(&registration), 200),
        ("PUT", "/v2/offers/{instance}", "/v2/offers/web-2", Some(&registration), 400),
        ("POST", "/v2/offers", "/v2/offers", Some(&weight), 400),
        ("GET", "/v2/offers", "/v2/offers", None, 200),
        ("GET", "/v2/offers/{instance}", "/v2/offers/web-1", None, 200),
        ("GET", "/v2/offers/{instance}", "/v2/offers/none", None, 404),
        ("PUT", "/v2/offers/{instance}/weight", "/v2/offers/web-1/weight", Some(&weight), 200),
        ("PUT", "/v2/offers/{instance}/weight", "/v2/offers/none/weight", Some(&weight), 404),
        ("GET", "/v2/checks", "/v2/checks", None, 200),
        ("PUT", "/v2/checks/{check}", "/v2/checks/service:web-1", Some(&word), 200),
        ("PUT", "/v2/checks/{check}", "/v2/checks/none", Some(&word), 404),
        ("PUT", "/v2/offers/{instance}/maintenance", "/v2/offers/web-1/maintenance", Some(&off), 200),
        ("GET", "/v2/instances", "/v2/instances?member=a", None, 200),
        ("DELETE", "/v2/offers/{instance}/maintenance", "/v2/offers/web-1/maintenance", None, 200),
        ("PUT", "/v2/maintenance", "/v2/maintenance", Some(&off), 200),
        ("GET", "/v2/offers", "/v2/offers", None, 200),
        ("DELETE", "/v2/maintenance", "/v2/maintenance", None, 200),
        ("GET", "/v2/members", "/v2/members?state=reachable", None, 200),
        ("GET", "/v2/members", "/v2/members?state=odd", None, 400),
        ("GET", "/v2/members/{member}", "/v2/members/b", None, 200),
        ("GET", "/v2/members/{member}", &format!("/v2/members/{of_a}"), None, 200),
        ("GET", "/v2/members/{member}", "/v2/members/none", None, 404),
        ("GET", "/v2/members/{member}/explain", &format!("/v2/members/{of_b}/explain"), None, 200),
        ("POST", "/v2/members/{member}/forget", "/v2/members/b/forget", None, 409),
        ("GET", "/v2/rtt", "/v2/rtt", None, 200),
        ("GET", "/v2/services", "/v2/services", None, 200),
        ("GET", "/v2/services/{service}", "/v2/services/web?healthy=true&tag=v1&filter=weight==7", None, 200),
        ("GET", "/v2/services/{service}", "/v2/services/web?filter=(", None, 400),
        ("GET", "/v2/services/{service}", "/v2/services/none", None, 404),
        ("GET", "/v2/view", "/v2/view", None, 200),
        ("GET", "/v2/agreement", "/v2/agreement", None, 200),
        ("POST", "/v2/join", "/v2/join", Some(&join), 200),
        ("POST", "/v2/join", "/v2/join", Some(&json!({"targets": ["file:/etc/passwd"]})), 400),
        ("GET", "/v2/keys", "/v2/keys", None, 409),
        ("POST", "/v2/offers/{instance}/drain", "/v2/offers/web-1/drain", Some(&json!({"timeout_ms": 1})), 200),
        ("DELETE", "/v2/offers/{instance}", "/v2/offers/web-1", None, 404),
        ("GET", "/livez", "/livez", None, 200),
        ("GET", "/readyz", "/readyz", None, 200),
        ("GET", "/metrics", "/metrics", None, 200),
        ("POST", "/v2/drain", "/v2/drain", Some(&json!({"timeout_ms": 1_000})), 200),
        ("GET", "/v2/agent", "/v2/agent", None, 503),
        ("GET", "/v2/members", "/v2/members", None, 200),
        ("GET", "/v2/stats", "/v2/stats", None, 503),
    ] {
        let answer = a.send(method, path, &[], said.map(&body).unwrap_or_default()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        contract.check(method, template, &answer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_of_the_contract_is_there_and_no_other() {
    let a = agent("a", &[]).await;
    let document = a.get("/v2/openapi.json").await.json();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let filled = path.replace(['{', '}'], "");
        let answer = a.send("PATCH", &filled, &[], "").await;
        assert_eq!(answer.status, 405, "{path}");
        let mut allowed: Vec<String> = answer.headers["allow"].split(',').map(str::to_lowercase).collect();
        allowed.retain(|method| method != "head");
        allowed.sort();
        let mut told: Vec<_> = operations.as_object().unwrap().keys().cloned().collect();
        told.sort();
        assert_eq!(allowed, told, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_told_as_they_happen() {
    let a = agent("a", &[]).await;
    let uri = format!("{}/v2/events?service=web", a.url);
    let request = axum::http::Request::builder().uri(uri).body(Full::new(Bytes::new())).unwrap();
    let mut stream = soon(a.client.request(request)).await.unwrap().into_body();
    let mut told = String::new();
    let mut until = async |mark: &str| {
        while !told.contains(mark) {
            let frame = soon(stream.frame()).await.expect("it goes on").expect("a frame");
            told += std::str::from_utf8(frame.data_ref().expect("data")).unwrap();
        }
        told.clone()
    };
    until(":\n\n").await;
    a.put("/v1/agent/service/register", json!({"Name": "queue"})).await;
    a.put("/v1/agent/service/register", json!({"Name": "web", "ID": "web-1"})).await;
    a.put("/v1/agent/service/deregister/web-1", Value::Null).await;
    let told = until("service_down").await;
    assert!(told.contains("event: service_up\ndata: {") && !told.contains("queue"), "{told}");
    assert_eq!(a.get("/v2/events?event=odd").await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_of_one_cluster_show_one_view() {
    let a = agent("a", &[]).await;
    let b = agent("b", &[&a]).await;
    a.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80})).await;
    b.until("/v2/services/web", |web| !web["instances"].as_array().unwrap().is_empty()).await;
    a.until("/v2/members", |members| members["members"].as_array().unwrap().len() == 2).await;
    let fingerprint = async |agent: &Agent| agent.get("/v2/view").await.json()["fingerprint"].clone();
    assert_eq!(fingerprint(&a).await, fingerprint(&b).await);
    let before = fingerprint(&a).await;
    a.put("/v2/offers/web/weight", json!({"weight": 9})).await;
    assert_ne!(fingerprint(&a).await, before);
}

/// A certificate that signs itself, and its key.
type Pair = rcgen::CertifiedKey<rcgen::KeyPair>;

fn certified() -> Pair {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate")
}

fn write_pem(path: &std::path::Path, label: &str, der: &[u8]) {
    let text = data_encoding::BASE64.encode(der);
    std::fs::write(path, format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")).expect("it is written");
}

fn write_certificate(files: &HttpsFiles, of: &Pair) {
    write_pem(&files.certificate, "CERTIFICATE", of.cert.der());
}

fn write_key(files: &HttpsFiles, of: &Pair) {
    write_pem(&files.key, "PRIVATE KEY", &of.signing_key.serialize_der());
}

/// Asks over HTTPS, and trusts this certificate alone; `None` if another one is shown.
async fn over_https(agent: &Agent, trusted: &Pair, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let stream = soon(tokio::net::TcpStream::connect(agent.http.addr())).await.unwrap();
    let mut stream = soon(connector.connect("localhost".try_into().unwrap(), stream)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_is_served_with_a_certificate_from_files_which_can_be_replaced() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (first, second) = (certified(), certified());
    let files = HttpsFiles { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    write_certificate(&files, &first);
    write_key(&files, &first);
    let mut safe = plan();
    safe.https = Some(files.clone());
    let a = agent_as("a", &[], safe).await;
    assert!(a.http.url().starts_with("https://"));
    let answer = over_https(&a, &first, "/livez").await.expect("a handshake");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(!a.http.reload_certificate().unwrap(), "it is the same");

    // As while they are being replaced: the certificate is there, and its key not yet.
    write_certificate(&files, &second);
    let error = a.http.reload_certificate().unwrap_err().to_string();
    assert!(error.contains("key.pem"), "{error}");
    assert!(over_https(&a, &second, "/livez").await.is_none() && over_https(&a, &first, "/livez").await.is_some());
    write_key(&files, &second);
    assert!(a.http.reload_certificate().unwrap());
    assert!(over_https(&a, &first, "/livez").await.is_none(), "nobody is shown the old one any more");
    let page = over_https(&a, &second, "/metrics").await.expect("a handshake");
    for result in ["taken", "refused"] {
        let line = format!("tidings_http_certificate_readings_total{{result=\"{result}\"}} 1\n");
        assert!(page.contains(&line), "{page}");
    }

    let mut missing = plan();
    missing.https = Some(HttpsFiles { key: dir.path().join("none.pem"), ..files });
    assert!(Http::open(a.offers.clone(), missing).unwrap_err().to_string().contains("none.pem"));
}
