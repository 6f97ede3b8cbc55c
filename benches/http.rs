//! What the HTTP interface costs: ten thousand long polls (the memory above idle, how fast a change wakes those who
//! wait for it, and that it wakes nobody else), and requests a second for a service of ten instances.
//!
//! The agent is the command itself, in a process of its own; the clients are plain sockets in this one. Needs 21,000
//! descriptors. `cargo bench --bench http`; `tests/clients/speed.sh` has wrk in their place, and etcd beside it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

const POLLS: usize = 10_000;
const SERVICES: usize = 100;
const CHANGES: usize = 20;
const INSTANCES: usize = 10;
const CLIENTS: usize = 64;
const SPAN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent, killed when dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    /// Resident memory in KiB.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("it is bound").port()
}

/// A connection that is kept.
struct Link {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Link {
    async fn open(addr: SocketAddr) -> Self {
        let began = Instant::now();
        loop {
            match TcpStream::connect(addr).await {
                Ok(stream) => return Self { stream, read: Vec::new() },
                Err(error) if began.elapsed() > PATIENCE => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
        self.stream.write_all(head.as_bytes()).await.expect("it is open");
    }

    /// The head and the body of the next answer.
    async fn answer(&mut self) -> (String, Vec<u8>) {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.read[..end]).to_lowercase();
                let length: usize = field(&head, "content-length").parse().expect("a number");
                if self.read.len() >= end + 4 + length {
                    let rest = self.read.split_off(end + 4 + length);
                    let body = std::mem::replace(&mut self.read, rest).split_off(end + 4);
                    return (head, body);
                }
            }
            let count = self.stream.read_buf(&mut self.read).await.expect("it is open");
            assert!(count > 0, "the agent closed a connection");
        }
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str) -> (String, Vec<u8>) {
        self.send(method, path, body).await;
        let (head, answer) = self.answer().await;
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        (head, answer)
    }
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name}: {head}"))
}

fn main() {
    // Every poll is a descriptor here too.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("it may be raised to its maximum");
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(run());
}

async fn run() {
    let (http, bind) = (free_port(), free_port());
    let addr = SocketAddr::from(([127, 0, 0, 1], http));
    let node = ["node", "--name", "a", "--cluster", "bench", "--output", "jsonl"];
    let child = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(node)
        .args(["--bind", &format!("127.0.0.1:{bind}"), "--http", &addr.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the command starts");
    let agent = Agent(child);
    let mut control = Link::open(addr).await;
    while !String::from_utf8_lossy(&control.ask("GET", "/v2/agent", "").await.1).contains("\"ready\"") {}
    for service in 0..SERVICES {
        register(&mut control, &format!("s{service}"), 0).await;
    }
    for instance in 0..INSTANCES {
        register(&mut control, "web", instance).await;
    }
    polls(&agent, addr, &mut control).await;
    requests(addr).await;
}

async fn register(control: &mut Link, service: &str, instance: usize) {
    let body = format!(
        r#"{{"Name":"{service}","ID":"{service}-{instance}","Address":"10.0.0.{instance}","Port":8080,"Tags":["v1"]}}"#
    );
    // Its own changes are limited to some a second.
    loop {
        control.send("PUT", "/v1/agent/service/register", &body).await;
        if control.answer().await.0.starts_with("http/1.1 200") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn polls(agent: &Agent, addr: SocketAddr, control: &mut Link) {
    let mut indexes = Vec::new();
    for service in 0..SERVICES {
        let (head, _) = control.ask("GET", &format!("/v1/health/service/s{service}"), "").await;
        indexes.push(field(&head, "x-consul-index").to_owned());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = agent.resident();
    let (woken, mut wakes) = tokio::sync::mpsc::unbounded_channel();
    // Ends them with it.
    let mut open = tokio::task::JoinSet::new();
    for poll in 0..POLLS {
        let (service, woken) = (poll % SERVICES, woken.clone());
        let mut index = indexes[service].clone();
        let mut link = Link::open(addr).await;
        open.spawn(async move {
            loop {
                link.send("GET", &format!("/v1/health/service/s{service}?index={index}&wait=10m"), "").await;
                let (head, _) = link.answer().await;
                index = field(&head, "x-consul-index").to_owned();
                let _ = woken.send((service, Instant::now()));
            }
        });
    }
    let began = Instant::now();
    waiting(control, began).await;
    let memory = agent.resident() - idle;
    println!("{POLLS} long polls: {} MiB above idle ({} KiB each)", memory / 1024, memory / POLLS as u64);
    let mut taken = Vec::new();
    for change in 0..CHANGES {
        let changed = change % SERVICES;
        let began = Instant::now();
        control
            .ask("PUT", &format!("/v2/offers/s{changed}-0/weight"), &format!(r#"{{"weight":{}}}"#, change + 2))
            .await;
        for _ in 0..POLLS / SERVICES {
            let (service, at) =
                tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("in time").expect("they live");
            assert_eq!(service, changed, "a poll for another service woke");
            taken.push(at.duration_since(began));
        }
        waiting(control, began).await;
        assert!(wakes.try_recv().is_err(), "nobody else woke");
    }
    taken.sort();
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
    println!(
        "{CHANGES} changes, each of one service, each woke exactly its own {}: p50 {:.1?}, p99 {:.1?}, max {:.1?}",
        POLLS / SERVICES,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Until everybody waits.
async fn waiting(control: &mut Link, began: Instant) {
    loop {
        let (_, stats) = control.ask("GET", "/v2/stats", "").await;
        let stats: serde_json::Value = serde_json::from_slice(&stats).expect("JSON");
        if stats["http"]["http_polls_open"] == POLLS {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{}", stats["http"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn requests(addr: SocketAddr) {
    let until = Instant::now() + SPAN;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(async move {
                let (mut link, mut count, mut bytes) = (Link::open(addr).await, 0u64, 0);
                while Instant::now() < until {
                    bytes = link.ask("GET", "/v1/health/service/web", "").await.1.len();
                    count += 1;
                }
                (count, bytes)
            })
        })
        .collect();
    let (mut all, mut size) = (0, 0);
    for client in clients {
        let (count, bytes) = client.await.expect("it ends");
        (all, size) = (all + count, bytes);
    }
    let rate = all as f64 / SPAN.as_secs_f64();
    println!(
        "/v1/health/service/web, {INSTANCES} instances, {size} bytes, {CLIENTS} connections: {rate:.0} requests/s (the \
         clients run on the same processors)"
    );
}
