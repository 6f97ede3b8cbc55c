//! Checks of services that live and die beside an agent, as three members see it: real servers, real members, loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use tidings::Registry;
use tidings::check::{
    Alias, Check, CommandLine, Grpc, HoldDown, Http, Kind, Level, OUTPUT_BYTES_MAX, Outcome, Tls, Udp,
};
use tidings::offers::{Existing, LocalCheck, Offer, OfferError, Offers, Origin};
use tidings::record::{Instance, Key, Status};
use tidings::registry::{Service, Watch};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Far more than anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_millis(250);

/// What may pass beside interval and timeout until every member knows.
const SLACK: Duration = Duration::from_millis(200);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes no such time")
}

async fn member(name: &str, seeds: &[&Registry]) -> Registry {
    let seeds = seeds.iter().map(|seed| seed.local_addr().to_string());
    soon(Registry::builder("checks-test", name).join(seeds).start()).await.expect("it starts")
}

/// What the first of three members offers, and all three.
async fn three() -> (Offers, [Registry; 3]) {
    let a = member("a", &[]).await;
    let b = member("b", &[&a]).await;
    let c = member("c", &[&a, &b]).await;
    (soon(Offers::start(a.clone(), None)).await.expect("it starts"), [a, b, c])
}

async fn until(watch: &mut Watch, is_so: impl Fn(&Service) -> bool) {
    while !is_so(watch.current()) {
        soon(watch.changed()).await.expect("it runs");
    }
}

/// Waits until every member sees so many healthy instances; gives how long that took.
async fn everywhere(watches: &mut [Watch], healthy: usize) -> Duration {
    let began = Instant::now();
    for watch in watches {
        until(watch, |service| service.healthy().len() == healthy).await;
    }
    began.elapsed()
}

fn quick(kind: Kind) -> Check {
    Check::new(kind).every(INTERVAL).within(TIMEOUT)
}

fn instance(service: &str) -> Instance {
    Instance::new(service, SocketAddr::from(([127, 0, 0, 1], 80))).expect("it is right").with_id(service)
}

async fn register(offers: &Offers, service: &str, check: Check) {
    let offer = Offer::new(instance(service), Origin::Program).with_check(check);
    soon(offers.register(offer, Existing::Refuse)).await.expect("it is registered");
}

/// The check of an instance with one, once it is as wanted; looked at whenever something changed, and now and then.
async fn check_when(offers: &Offers, id: &str, is_so: impl Fn(&LocalCheck) -> bool) -> Arc<LocalCheck> {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    soon(async {
        loop {
            looks.tick().await;
            match offers.check(id) {
                Some(check) if is_so(&check) => return check,
                _ => {}
            }
        }
    })
    .await
}

/// Starts a server at an address.
type Serve = fn(SocketAddr) -> JoinHandle<()>;

/// A service that can be killed and started again.
struct Subject {
    addr: SocketAddr,
    serve: Serve,
    running: JoinHandle<()>,
}

impl Subject {
    async fn start(serve: Serve) -> Self {
        let addr = free().await;
        Self { addr, serve, running: serve(addr) }
    }

    fn kill(&self) {
        self.running.abort();
    }

    fn revive(&mut self) {
        self.running = (self.serve)(self.addr);
    }
}

async fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("it is bound")
}

fn http(addr: SocketAddr) -> JoinHandle<()> {
    tokio::spawn(async move {
        let app = axum::Router::new().route("/", axum::routing::get(|| async { "well" }));
        axum::serve(TcpListener::bind(addr).await.expect("it is free"), app).await.expect("it serves");
    })
}

fn tcp(addr: SocketAddr) -> JoinHandle<()> {
    tokio::spawn(async move {
        let listener = TcpListener::bind(addr).await.expect("it is free");
        while listener.accept().await.is_ok() {}
    })
}

fn udp(addr: SocketAddr) -> JoinHandle<()> {
    tokio::spawn(async move {
        let socket = UdpSocket::bind(addr).await.expect("it is free");
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    })
}

fn grpc(addr: SocketAddr) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("shop", tonic_health::ServingStatus::Serving).await;
        tonic::transport::Server::builder().add_service(health).serve(addr).await.expect("it serves");
    })
}

/// Kills it, and holds how long it takes against what is promised; then starts it again, and waits until it is back.
async fn dies_and_recovers(registries: &[Registry], service: &str, mut set_alive: impl FnMut(bool)) {
    let mut watches: Vec<Watch> = registries.iter().map(|registry| registry.watch(service)).collect();
    everywhere(&mut watches, 1).await;
    set_alive(false);
    let took = everywhere(&mut watches, 0).await;
    assert!(took <= INTERVAL + TIMEOUT + SLACK, "{service}: every member knew after {took:?}");
    set_alive(true);
    let took = everywhere(&mut watches, 1).await;
    assert!(took <= INTERVAL + TIMEOUT + SLACK, "{service}: back after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_killed_behind_a_port_is_out_everywhere_in_time_and_back_when_it_is() {
    let (offers, registries) = three().await;
    let services: [(&str, Serve); 4] = [("http", http), ("tcp", tcp), ("udp", udp), ("grpc", grpc)];
    for (name, serve) in services {
        let mut subject = Subject::start(serve).await;
        let addr = subject.addr.to_string();
        let kind = match name {
            "http" => Kind::Http(Http::new(format!("http://{addr}/"))),
            "tcp" => Kind::Tcp { addr },
            "udp" => Kind::Udp(Udp { addr, payload: "?".into(), must_answer: true }),
            _ => Kind::Grpc(Grpc { addr, service: "shop".into(), tls: None }),
        };
        register(&offers, name, quick(kind)).await;
        dies_and_recovers(&registries, name, |is_alive| if is_alive { subject.revive() } else { subject.kill() }).await;
        subject.kill();
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_fails_behind_a_command_a_function_or_an_alias_is_out_in_time() {
    let (offers, registries) = three().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sign = dir.path().join("alive");
    let set_sign = |is_alive: bool| {
        let changed = if is_alive { std::fs::write(&sign, "") } else { std::fs::remove_file(&sign) };
        changed.expect("it can be changed");
    };
    set_sign(true);
    let line = CommandLine { program: "test".into(), args: vec!["-e".into(), sign.display().to_string()] };
    // `test` says no by 1, which is a warning: a shell makes it critical.
    let line = CommandLine {
        program: "sh".into(),
        args: vec!["-c".into(), format!("{} {} || exit 2", line.program, line.args.join(" "))],
    };
    register(&offers, "command", quick(Kind::Command(line))).await;
    dies_and_recovers(&registries, "command", set_sign).await;

    let is_well = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&is_well);
    let function = Check::function(move || {
        let is_well = asked.load(Ordering::SeqCst);
        async move { if is_well { Outcome::passing("") } else { Outcome::critical("ill") } }
    });
    register(&offers, "function", function.every(INTERVAL).within(TIMEOUT)).await;
    dies_and_recovers(&registries, "function", |is| is_well.store(is, Ordering::SeqCst)).await;
    let alias = Kind::Alias(Alias { instance: Some("function".into()), member: None });
    register(&offers, "alias", Check::new(alias)).await;
    dies_and_recovers(&registries, "alias", |is| is_well.store(is, Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stops_reporting_is_out_in_time() {
    let (offers, registries) = three().await;
    register(&offers, "ttl", Check::ttl(INTERVAL)).await;
    let report = || {
        let offers = offers.clone();
        tokio::spawn(async move {
            let mut beat = tokio::time::interval(INTERVAL / 4);
            loop {
                beat.tick().await;
                offers.tell("service:ttl", Outcome::passing("")).await.expect("it is there");
            }
        })
    };
    let mut reporting = report();
    dies_and_recovers(&registries, "ttl", |is_alive| {
        if is_alive {
            reporting = report();
        } else {
            reporting.abort();
        }
    })
    .await;
    reporting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_of_a_member_follows_it_and_its_instances() {
    let (offers, [_, b, c]) = three().await;
    let alias = |instance: Option<&str>| {
        let alias = Alias { instance: instance.map(str::to_owned), member: Some("c".into()) };
        Check::new(Kind::Alias(alias))
    };
    let mut registration = soon(c.register(instance("db"))).await.expect("it is registered");
    register(&offers, "behind-member", alias(None)).await;
    register(&offers, "behind-instance", alias(Some("db"))).await;
    let mut watches = [b.watch("behind-member"), b.watch("behind-instance")];
    everywhere(&mut watches, 1).await;
    soon(registration.update(|db| db.status = Status::Critical)).await.expect("it is changed");
    until(&mut watches[1], |service| service.healthy().is_empty()).await;
    assert_eq!(watches[0].current().healthy().len(), 1);
    assert!(offers.check("service:behind-instance").expect("there").output.contains("db is critical"));
    registration.keep();
    soon(c.leave()).await.expect("it leaves");
    until(&mut watches[0], |service| service.healthy().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_service_is_held_down_until_it_has_been_well_for_a_while() {
    let (offers, registries) = three().await;
    let is_well = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&is_well);
    let mut check = Check::function(move || {
        let is_well = asked.load(Ordering::SeqCst);
        async move { if is_well { Outcome::passing("") } else { Outcome::critical("ill") } }
    });
    let hold = Duration::from_millis(1_500);
    check.interval = Duration::from_millis(20);
    check.hold_down = Some(HoldDown { falls: 3, within: PATIENCE, first: hold, longest: hold });
    register(&offers, "web", check).await;
    let mut watches: Vec<Watch> = registries.iter().map(|registry| registry.watch("web")).collect();
    for _ in 0..2 {
        everywhere(&mut watches, 1).await;
        is_well.store(false, Ordering::SeqCst);
        everywhere(&mut watches, 0).await;
        is_well.store(true, Ordering::SeqCst);
        let back = everywhere(&mut watches, 1).await;
        assert!(back < hold, "not held down yet, but back after {back:?}");
    }
    is_well.store(false, Ordering::SeqCst);
    everywhere(&mut watches, 0).await;
    is_well.store(true, Ordering::SeqCst);
    let held = check_when(&offers, "service:web", |check| check.held.is_some_and(|left| left < hold)).await;
    assert_eq!((held.level, &*held.output), (Level::Critical, ""), "it passes, and is not believed");
    let began = Instant::now();
    everywhere(&mut watches, 1).await;
    assert!(began.elapsed() + Duration::from_millis(500) > hold, "held down for {:?}", began.elapsed());
    assert!(offers.stats().held_down > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_check_sends_what_it_is_told_and_judges_the_answer() {
    let offers = soon(Offers::start(member("a", &[]).await, None)).await.expect("it starts");
    let status = Arc::new(AtomicU16::new(200));
    let answer = Arc::clone(&status);
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let status = axum::http::StatusCode::from_u16(answer.load(Ordering::SeqCst)).expect("one of ours");
        let path = request.uri().path().to_owned();
        async move {
            if path == "/from" {
                return (axum::http::StatusCode::FOUND, [("location", "/to")], String::new());
            }
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1_000).await.expect("it is short");
            let said = format!("{} {path} {:?} {body:?}", parts.method, parts.headers.get("x-mine"));
            let padding = if path == "/long" { "x".repeat(10 * OUTPUT_BYTES_MAX) } else { String::new() };
            (status, [("location", "")], said + &padding)
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let mut post = Http::new(format!("http://{addr}/path"));
    post.method = "POST".into();
    post.headers.insert("X-Mine".into(), vec!["1".into()]);
    post.body = "hello".into();
    register(&offers, "post", quick(Kind::Http(post))).await;
    let check = check_when(&offers, "service:post", |check| check.level == Level::Passing).await;
    assert!(check.output.contains("200 OK Output: POST /path Some(\"1\") b\"hello\""), "{}", check.output);
    for (code, level) in [(429, Level::Warning), (503, Level::Critical), (204, Level::Passing), (404, Level::Critical)]
    {
        status.store(code, Ordering::SeqCst);
        check_when(&offers, "service:post", |check| check.level == level).await;
    }
    status.store(200, Ordering::SeqCst);
    let follow = Http::new(format!("http://{addr}/from"));
    let stay = Http { follows_redirects: false, ..follow.clone() };
    register(&offers, "follow", quick(Kind::Http(follow))).await;
    register(&offers, "stay", quick(Kind::Http(stay))).await;
    register(&offers, "long", quick(Kind::Http(Http::new(format!("http://{addr}/long"))))).await;
    let followed = check_when(&offers, "service:follow", |check| check.checked_ms.is_some()).await;
    assert!(followed.level == Level::Passing && followed.output.contains("GET /to"), "{}", followed.output);
    let stayed = check_when(&offers, "service:stay", |check| check.checked_ms.is_some()).await;
    assert!(stayed.level == Level::Critical && stayed.output.contains("302"), "{}", stayed.output);
    let long = check_when(&offers, "service:long", |check| check.checked_ms.is_some()).await;
    assert_eq!((long.level, long.output.len()), (Level::Passing, OUTPUT_BYTES_MAX));
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_gets_no_answer_is_critical_at_its_timeout() {
    let offers = soon(Offers::start(member("a", &[]).await, None)).await.expect("it starts");
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = silent.local_addr().expect("it is bound").to_string();
    let deaf = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let udp = |must_answer| {
        let addr = deaf.local_addr().expect("it is bound").to_string();
        Kind::Udp(Udp { addr, payload: String::new(), must_answer })
    };
    register(&offers, "http", quick(Kind::Http(Http::new(format!("http://{addr}/"))))).await;
    register(&offers, "grpc", quick(Kind::Grpc(Grpc { addr, service: String::new(), tls: None }))).await;
    register(&offers, "udp", quick(udp(true))).await;
    register(&offers, "quiet", quick(udp(false))).await;
    for id in ["service:http", "service:grpc", "service:udp"] {
        let check = check_when(&offers, id, |check| check.checked_ms.is_some()).await;
        assert_eq!(check.level, Level::Critical, "{id}");
        assert!(check.output.contains("250ms"), "{id}: {}", check.output);
    }
    check_when(&offers, "service:quiet", |check| check.level == Level::Passing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_nobody_is_refused_unless_that_is_wanted() {
    let offers = soon(Offers::start(member("a", &[]).await, None)).await.expect("it starts");
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is minted");
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("it is a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("they fit").with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.expect("they fit")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = stream.read(&mut [0; 1_024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let strict = Http::new(format!("https://{addr}/"));
    let trusting = Http { tls: Tls { skips_verify: true, server_name: None }, ..strict.clone() };
    register(&offers, "strict", quick(Kind::Http(strict)).within(PATIENCE)).await;
    register(&offers, "trusting", quick(Kind::Http(trusting)).within(PATIENCE)).await;
    let refused = check_when(&offers, "service:strict", |check| check.checked_ms.is_some()).await;
    assert!(refused.level == Level::Critical && refused.output.contains("certificate"), "{}", refused.output);
    let taken = check_when(&offers, "service:trusting", |check| check.checked_ms.is_some()).await;
    assert_eq!((taken.level, taken.output.ends_with("Output: ok")), (Level::Passing, true), "{}", taken.output);
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_server_behind_tls_is_asked_when_its_certificate_may_be_any() {
    let offers = soon(Offers::start(member("a", &[]).await, None)).await.expect("it starts");
    let plain = Subject::start(grpc).await;
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is minted");
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("it is a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("they fit").with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key);
    let mut config = config.expect("they fit");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound").to_string();
    let behind = plain.addr;
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = tokio::net::TcpStream::connect(behind).await.expect("it serves");
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    let check = |skips_verify| {
        let tls = Some(Tls { skips_verify, server_name: None });
        quick(Kind::Grpc(Grpc { addr: addr.clone(), service: "shop".into(), tls })).within(PATIENCE)
    };
    register(&offers, "strict", check(false)).await;
    register(&offers, "trusting", check(true)).await;
    let refused = check_when(&offers, "service:strict", |check| check.checked_ms.is_some()).await;
    assert!(refused.level == Level::Critical && refused.output.contains("certificate"), "{}", refused.output);
    let taken = check_when(&offers, "service:trusting", |check| check.level == Level::Passing).await;
    assert!(taken.output.contains("SERVING"), "{}", taken.output);
    let unknown = Kind::Grpc(Grpc { addr: plain.addr.to_string(), service: "other".into(), tls: None });
    register(&offers, "unknown", quick(unknown)).await;
    let unknown = check_when(&offers, "service:unknown", |check| check.checked_ms.is_some()).await;
    assert!(unknown.level == Level::Critical && unknown.output.contains("NotFound"), "{}", unknown.output);
    server.abort();
    plain.kill();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_killed_at_its_timeout_with_its_children_and_its_output_is_cut() {
    let offers = soon(Offers::start(member("a", &[]).await, None)).await.expect("it starts");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let shell = |script: String| Kind::Command(CommandLine { program: "sh".into(), args: vec!["-c".into(), script] });
    let file = dir.path().join("child");
    // Interval and patience are such that it is started once.
    let hang = quick(shell(format!("sleep 1000 & echo $! > {}; wait", file.display()))).every(2 * PATIENCE);
    register(&offers, "hang", hang).await;
    let check = check_when(&offers, "service:hang", |check| check.checked_ms.is_some()).await;
    assert!(check.level == Level::Critical && check.output.contains("250ms"), "{}", check.output);
    let child = std::fs::read_to_string(&file).expect("it was started");
    let is_gone = || {
        let stat = std::fs::read_to_string(Path::new("/proc").join(child.trim()).join("stat"));
        // Whoever adopted it may not have buried it yet.
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    check_when(&offers, "service:hang", |_| is_gone()).await;

    register(&offers, "loud", quick(shell("yes | head -c 100000; exit 1".into()))).await;
    let check = check_when(&offers, "service:loud", |check| check.checked_ms.is_some()).await;
    assert_eq!(check.level, Level::Warning);
    assert!((OUTPUT_BYTES_MAX - 1..=OUTPUT_BYTES_MAX).contains(&check.output.len()), "{}", check.output.len());
    register(&offers, "none", quick(Kind::Command(CommandLine { program: "/no/such".into(), args: vec![] }))).await;
    let check = check_when(&offers, "service:none", |check| check.checked_ms.is_some()).await;
    assert!(check.level == Level::Critical && check.output.contains("/no/such"), "{}", check.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_panics_is_critical_and_asked_again() {
    let offers = soon(Offers::start(member("a", &[]).await, None)).await.expect("it starts");
    let has_panicked = Arc::new(AtomicBool::new(false));
    let function = Check::function(move || {
        let has_panicked = has_panicked.swap(true, Ordering::SeqCst);
        async move {
            assert!(has_panicked, "as this test wants it");
            Outcome::passing("well")
        }
    });
    register(&offers, "web", function.every(INTERVAL)).await;
    let check = check_when(&offers, "service:web", |check| check.checked_ms.is_some()).await;
    assert!(check.level == Level::Critical && check.output.contains("panic"), "{}", check.output);
    check_when(&offers, "service:web", |check| check.level == Level::Passing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_critical_for_too_long_is_withdrawn() {
    let (offers, [_, b, _]) = three().await;
    let mut seen = b.watch("web");
    let mut check = Check::ttl(INTERVAL).with_initial(Level::Passing);
    check.deregister_critical_after = Some(INTERVAL);
    register(&offers, "web", check).await;
    until(&mut seen, |web| web.healthy().len() == 1).await;
    until(&mut seen, |web| web.healthy().is_empty()).await;
    until(&mut seen, |web| web.all().is_empty()).await;
    assert_eq!((offers.stats().deregistered_critical, offers.instances().len()), (1, 0));
    let unknown = soon(offers.tell("service:web", Outcome::passing(""))).await.unwrap_err();
    assert!(matches!(unknown, OfferError::UnknownCheck { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_starting_waits_for_each_of_its_checks_to_pass_once() {
    let (offers, [_, b, _]) = three().await;
    let mut seen = b.watch("web");
    let starting = instance("web").with_status(Status::Starting);
    let offer = Offer::new(starting, Origin::Door).with_check(Check::ttl(PATIENCE)).with_check(Check::ttl(PATIENCE));
    let local = soon(offers.register(offer, Existing::Refuse)).await.expect("it is registered");
    let ids: Vec<&str> = local.checks.iter().map(|check| &*check.check.id).collect();
    assert_eq!((&local.instance.status, ids), (&Status::Starting, vec!["service:web:1", "service:web:2"]));
    soon(offers.tell("service:web:1", Outcome::warning(""))).await.expect("it is there");
    assert_eq!(offers.instance(&Key::from("web")).expect("there").instance.status, Status::Starting);
    soon(offers.tell("service:web:2", Outcome::passing(""))).await.expect("it is there");
    until(&mut seen, |web| web.all().first().is_some_and(|one| one.instance.status == Status::Warning)).await;
    soon(offers.tell("service:web:2", Outcome::critical(""))).await.expect("it is there");
    until(&mut seen, |web| web.all().first().is_some_and(|one| one.instance.status == Status::Critical)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_or_not_for_a_door_is_refused_and_changes_nothing() {
    let offers = soon(Offers::start(member("a", &[]).await, None)).await.expect("it starts");
    let command = Check::new(Kind::Command(CommandLine { program: "true".into(), args: Vec::new() }));
    let offer =
        |checks: Vec<Check>| checks.into_iter().fold(Offer::new(instance("web"), Origin::Door), Offer::with_check);
    let refused = soon(offers.register(offer(vec![command.clone()]), Existing::Refuse)).await.unwrap_err();
    assert!(matches!(refused, OfferError::NotForYou { kind: "command" }));
    let many = vec![Check::ttl(PATIENCE); tidings::offers::CHECKS_MAX + 1];
    let refused = soon(offers.register(offer(many), Existing::Refuse)).await.unwrap_err();
    assert!(refused.to_string().contains("65 checks of an instance, the limit is 64"), "{refused}");
    assert!(offers.instances().is_empty() && offers.stats().limited == 1);
    let full = vec![Check::ttl(PATIENCE); tidings::offers::CHECKS_MAX];
    soon(offers.register(offer(full), Existing::Refuse)).await.expect("as many as may be");
    let web = Key::from("web");
    let one_more = Check::ttl(PATIENCE).with_id("more");
    let refused = soon(offers.add_check(Some(&web), one_more.clone(), Origin::Door)).await.unwrap_err();
    assert!(matches!(refused, OfferError::TooMany { .. }));
    assert!(soon(offers.add_check(None, command, Origin::Door)).await.is_err());
    soon(offers.add_check(None, one_more, Origin::Door)).await.expect("the member has none yet");
    assert_eq!(offers.instance(&web).expect("there").instance.status, Status::Critical);
    soon(offers.remove_check("more")).await.expect("it is there");
    assert!(matches!(soon(offers.remove_check("more")).await, Err(OfferError::UnknownCheck { .. })));
    let other = Offer::new(instance("other"), Origin::Door).with_check(Check::ttl(PATIENCE).with_id("service:web:1"));
    let refused = soon(offers.register(other, Existing::Refuse)).await.unwrap_err();
    assert!(matches!(refused, OfferError::CheckIdInUse { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_door_asked_for_is_there_again_after_a_restart_and_what_the_program_says_is_not() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let start = async || {
        let builder = Registry::builder("checks-test", "a").data_dir(dir.path());
        let registry = soon(builder.start()).await.expect("it starts");
        soon(Offers::start(registry, Some(dir.path().to_owned()))).await.expect("it starts")
    };
    let offers = start().await;
    let checked = Offer::new(instance("web"), Origin::Door).with_check(Check::ttl(PATIENCE));
    soon(offers.register(checked, Existing::Refuse)).await.expect("it is registered");
    soon(offers.tell("service:web", Outcome::passing("well"))).await.expect("it is there");
    register(&offers, "mine", Check::ttl(PATIENCE)).await;
    let further = Check::ttl(PATIENCE).with_id("further").with_initial(Level::Warning);
    soon(offers.add_check(Some(&Key::from("mine")), further, Origin::Door)).await.expect("it is added");
    check_when(&offers, "service:web", |_| offers.stats().saves >= 3).await;
    let registry = offers.registry().clone();
    let mut watch = registry.watch("web");
    // Without a word, as a crash does it.
    drop((offers, registry));
    while watch.changed().await.is_ok() {}

    let offers = start().await;
    let there = offers.instances();
    assert_eq!(there.iter().map(|one| one.instance.id.as_str()).collect::<Vec<_>>(), ["web"]);
    assert_eq!((&there[0].instance.status, there[0].checks[0].level), (&Status::Passing, Level::Passing));
    assert_eq!(offers.registry().lookup("web").expect("it is healthy").healthy().len(), 1);
    register(&offers, "mine", Check::ttl(PATIENCE)).await;
    assert_eq!(offers.check("further").expect("it is back").level, Level::Warning);
    soon(offers.deregister(&Key::from("web"))).await.expect("it is there");
    let registry = offers.registry().clone();
    let mut watch = registry.watch("web");
    drop((offers, registry));
    while watch.changed().await.is_ok() {}
    assert!(start().await.instances().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_written_is_an_error_a_counter_and_no_loss() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let registry = member("a", &[]).await;
    let offers = soon(Offers::start(registry, Some(dir.path().to_owned()))).await.expect("it starts");
    // A directory of that name: even root cannot write into it.
    let blocker = dir.path().join("offers.json.new");
    std::fs::create_dir(&blocker).expect("it is made");
    let refused = soon(offers.register(Offer::new(instance("web"), Origin::Door), Existing::Refuse)).await.unwrap_err();
    assert!(matches!(refused, OfferError::NotKept(_)), "{refused}");
    assert_eq!((offers.instances().len(), offers.stats().saves_failed), (1, 1));
    assert_eq!(offers.registry().lookup("web").expect("it is offered").healthy().len(), 1);
    std::fs::remove_dir(&blocker).expect("it is empty");
    soon(offers.set_weight(&Key::from("web"), 7)).await.expect("now it can be written");
    let kept = std::fs::read_to_string(dir.path().join("offers.json")).expect("it is there");
    assert!(kept.contains("\"weight\":7"), "{kept}");
}
