//! Real servers in processes of their own, under load, while they are restarted one after another or killed; and drains
//! of a hundred members: how many calls fail. `cargo bench --features tower --bench survive -- [--calls N | --kill N]`;
//! `--kill` makes only that experiment.
//!
//! Each line is a JSON object. `attempts_failed` counts single tries, `calls_failed` what the user sees.

use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use tidings::Instance;
use tidings::registry::Registry;
use tidings::select::failover::{Budget, Failover};
use tidings::select::layers::DrainLayer;
use tidings::select::run::{Caller, Failure};
use tidings::select::{Call, Candidate, Picker, Selector};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SERVERS: usize = 5;
const CALLERS: u64 = 40;
const CALLS_PER_SECOND: u64 = 2_000;
const CLUSTER: &str = "survive";
const SERVICE: &str = "web";

/// The first server's name, and its instance's id.
const FIRST: &str = "server-0";

/// How long a server works on a call: so that some are always under way.
const WORK: Duration = Duration::from_millis(2);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--server", name, seed] => runtime.block_on(serve(name, seed)),
        ["--calls", calls] => runtime.block_on(all(calls.parse()?)),
        ["--kill", calls] => runtime.block_on(kill(calls.parse()?)),
        _ => runtime.block_on(all(100_000)),
    }
}

/// A server process: ends on the line `drain`, `leave` or `exit`.
async fn serve(name: &str, seed: &str) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let registry = Registry::builder(CLUSTER, name).join([seed]).start().await?;
    let unavailable = |_| Ok(StatusCode::SERVICE_UNAVAILABLE.into_response());
    let work = || async {
        tokio::time::sleep(WORK).await;
        "ok"
    };
    let app = Router::new().route("/", get(work)).layer(DrainLayer::new(registry.gate(), unavailable));
    registry.register(Instance::new(SERVICE, listener.local_addr()?)?.with_id(name)).await?.keep();
    let served =
        tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(registry.gate().closed()).into_future());
    println!("serving");
    let word = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await?;
    match word.transpose()?.as_deref() {
        Some("drain") => {
            let drained = registry.drain(Duration::from_secs(10)).await?;
            assert!(drained.is_clean(), "{drained:?}");
            served.await??;
        }
        Some("leave") => registry.leave().await?,
        // As a process ends that does nothing about its end: without a word, and with all that is under way.
        _ => {}
    }
    std::process::exit(0)
}

struct Server {
    name: String,
    child: Child,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(name: &str, seed: SocketAddr) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--server", name, &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // One that is started at the very end finds nobody any more, and says so.
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no output")?);
        stdout.read_line(&mut String::new())?;
        Ok(Self { name: name.to_owned(), child, _stdout: stdout })
    }

    fn end(&mut self, word: &str) -> Result<()> {
        writeln!(self.child.stdin.take().ok_or("no input")?, "{word}")?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default, Debug)]
struct Figures {
    calls: AtomicU64,
    calls_failed: AtomicU64,
    attempts: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    turned_away: AtomicU64,
    /// Whether the first server is dead: tries that begin from then on are counted below.
    is_one_dead: AtomicBool,
    hits_of_the_dead: AtomicU64,
}

/// One try.
async fn attempt(
    client: Client<HttpConnector, Empty<Bytes>>,
    instance: Arc<Candidate>,
    figures: Arc<Figures>,
) -> std::result::Result<(), Failure<String>> {
    figures.attempts.fetch_add(1, Relaxed);
    let is_dead = figures.is_one_dead.load(Relaxed) && instance.offered().instance.id.as_str() == FIRST;
    figures.hits_of_the_dead.fetch_add(is_dead.into(), Relaxed);
    let uri = format!("http://{}/", instance.address());
    let request = Request::get(uri).body(Empty::new()).map_err(|error| Failure::Rejected(error.to_string()))?;
    let answered = async {
        let answer = client.request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        Ok::<_, ClientError>((status, body.is_ok()))
    };
    match answered.await {
        Ok((StatusCode::OK, true)) => Ok(()),
        Ok((StatusCode::SERVICE_UNAVAILABLE, _)) => {
            figures.turned_away.fetch_add(1, Relaxed);
            Err(Failure::TurnedAway("turned away".to_owned()))
        }
        Ok((status, _)) => {
            figures.broken.fetch_add(1, Relaxed);
            Err(Failure::Failed(status.to_string()))
        }
        Err(error) if is_refused(&error) => {
            figures.refused.fetch_add(1, Relaxed);
            Err(Failure::Refused(error.to_string()))
        }
        Err(error) => {
            figures.broken.fetch_add(1, Relaxed);
            Err(Failure::Failed(error.to_string()))
        }
    }
}

fn is_refused(error: &ClientError) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Calls at a steady rate until told to stop.
async fn load(registry: &Registry, failover: Failover, stop: Arc<AtomicBool>, figures: Arc<Figures>) -> Result<()> {
    let picker = Picker::new(registry.reader(), SERVICE).with_selector(Selector::new());
    let caller = Arc::new(Caller::new(picker, failover, Budget::default())?);
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (caller, client, figures, stop) =
            (Arc::clone(&caller), client.clone(), Arc::clone(&figures), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut tick = interval(Duration::from_secs(1) * u32::try_from(CALLERS).unwrap_or(1) / 2_000);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while !stop.load(Relaxed) {
                tick.tick().await;
                let shared = (client.clone(), Arc::clone(&figures));
                let made = caller.call(Call::new(), true, move |instance| {
                    attempt(shared.0.clone(), instance, Arc::clone(&shared.1))
                });
                let failed = made.await.is_err();
                figures.calls.fetch_add(1, Relaxed);
                figures.calls_failed.fetch_add(failed.into(), Relaxed);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

fn tell(experiment: &str, figures: &Figures, more: &str) {
    let of = |count: &AtomicU64| count.load(Relaxed);
    let (refused, broken, away) = (of(&figures.refused), of(&figures.broken), of(&figures.turned_away));
    println!(
        "{{\"experiment\":\"{experiment}\",\"calls\":{},\"calls_failed\":{},\"attempts\":{},\"attempts_failed\":{},\
         \"refused\":{refused},\"broken\":{broken},\"turned_away\":{away}{more}}}",
        of(&figures.calls),
        of(&figures.calls_failed),
        of(&figures.attempts),
        refused + broken + away,
    );
}

async fn healthy(registry: &Registry, count: usize) -> Result<()> {
    let mut watch = registry.watch(SERVICE);
    while watch.current().healthy().len() != count {
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await??;
    }
    Ok(())
}

fn start_all(seed: SocketAddr) -> Result<Vec<Server>> {
    (0..SERVERS).map(|n| Server::start(&format!("server-{n}"), seed)).collect()
}

/// A caller under way, and the servers that it calls.
struct Calling {
    registry: Registry,
    servers: Vec<Server>,
    stop: Arc<AtomicBool>,
    loaded: JoinHandle<Result<()>>,
    figures: Arc<Figures>,
}

impl Calling {
    async fn start(failover: Failover) -> Result<Self> {
        let registry = Registry::builder(CLUSTER, "caller").start().await?;
        let seed = registry.local_addr();
        let servers = tokio::task::spawn_blocking(move || start_all(seed)).await??;
        healthy(&registry, SERVERS).await?;
        let (stop, figures) = (Arc::new(AtomicBool::new(false)), Arc::new(Figures::default()));
        let loaded = {
            let (registry, stop, figures) = (registry.clone(), Arc::clone(&stop), Arc::clone(&figures));
            tokio::spawn(async move { load(&registry, failover, stop, figures).await })
        };
        Ok(Self { registry, servers, stop, loaded, figures })
    }

    /// Ends the calls, tells how they went, and then ends the servers.
    async fn end(self, what: &str, more: &str) -> Result<()> {
        self.stop.store(true, Relaxed);
        self.loaded.await??;
        tell(what, &self.figures, more);
        self.registry.leave().await?;
        Ok(())
    }
}

/// Restarts the servers one after another until so many calls were made.
async fn rolling(what: &str, word: &'static str, failover: Failover, calls: u64) -> Result<()> {
    let mut calling = Calling::start(failover).await?;
    let seed = calling.registry.local_addr();
    let lasts = Duration::from_secs(calls.div_ceil(CALLS_PER_SECOND));
    let mut restarts = 0;
    let rolled = tokio::time::timeout(lasts, async {
        loop {
            let mut server = calling.servers.remove(0);
            let server = tokio::task::spawn_blocking(move || -> Result<Server> {
                server.end(word)?;
                Server::start(&server.name, seed)
            });
            calling.servers.push(server.await??);
            healthy(&calling.registry, SERVERS).await?;
            restarts += 1;
            // New processes need a moment as much as new instances do.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        #[expect(unreachable_code, reason = "tells the type of what fails in the loop")]
        Result::Ok(())
    });
    if let Ok(failed) = rolled.await {
        failed?;
    }
    calling.end(what, &format!(",\"restarts\":{restarts}")).await
}

/// Kills one of the servers in the middle. A connection that is refused ejects it at once, for longer than gossip takes
/// to find it unreachable: so it is hit once, but for tries that begin before the first refusal is back.
async fn kill(calls: u64) -> Result<()> {
    let mut calling = Calling::start(Failover::default()).await?;
    let half = Duration::from_secs(calls.div_ceil(2 * CALLS_PER_SECOND));
    tokio::time::sleep(half).await;
    let dead = &mut calling.servers[0].child;
    dead.kill()?;
    // Until the kernel has closed its connections, tries hang that break then: they are under way as well.
    dead.wait()?;
    calling.figures.is_one_dead.store(true, Relaxed);
    let killed = Instant::now();
    healthy(&calling.registry, SERVERS - 1).await?;
    let (gone_after, hits) = (killed.elapsed(), calling.figures.hits_of_the_dead.load(Relaxed));
    tokio::time::sleep(half).await;
    let all = calling.figures.hits_of_the_dead.load(Relaxed);
    let more = format!(
        ",\"dead_hits_until_gossip\":{hits},\"dead_hits_after\":{},\"gossip_after_ms\":{}",
        all - hits,
        gone_after.as_millis()
    );
    calling.end("kill_of_one_with_retries", &more).await
}

/// Drains twenty of a hundred members, in one process.
async fn drains() -> Result<()> {
    let first = Registry::builder(CLUSTER, "member-0").start().await?;
    let seed = first.local_addr().to_string();
    let mut members = vec![first];
    for n in 1..100 {
        members.push(Registry::builder(CLUSTER, &format!("member-{n}")).join([seed.as_str()]).start().await?);
    }
    for (n, member) in members.iter().enumerate() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1_000 + u16::try_from(n)?));
        member.register(Instance::new(SERVICE, address)?).await?.keep();
    }
    members[0].agreed(1.0, Duration::from_secs(30)).await?;
    let mut confirmed = Vec::new();
    let mut unconfirmed = 0;
    for member in members.drain(80..) {
        let drained = member.drain(Duration::from_secs(5)).await?;
        unconfirmed += drained.unconfirmed.len();
        confirmed.push(drained.confirmed_after);
    }
    confirmed.sort_unstable();
    println!(
        "{{\"experiment\":\"drain_at_100\",\"drains\":{},\"unconfirmed\":{unconfirmed},\"confirmed_after_ms_p50\":{:.2},\
         \"confirmed_after_ms_max\":{:.2}}}",
        confirmed.len(),
        confirmed[confirmed.len() / 2].as_secs_f64() * 1e3,
        confirmed[confirmed.len() - 1].as_secs_f64() * 1e3,
    );
    Ok(())
}

async fn all(calls: u64) -> Result<()> {
    rolling("rolling_restart_drained_without_retries", "drain", Failover::none(), calls).await?;
    rolling("rolling_restart_goodbye_only_without_retries", "leave", Failover::none(), calls).await?;
    rolling("rolling_restart_no_word_without_retries", "exit", Failover::none(), calls).await?;
    rolling("rolling_restart_no_word_with_retries", "exit", Failover::default(), calls).await?;
    kill(calls).await?;
    drains().await
}
