//! The HTTP server: takes connections within limits, with or without TLS, and closes them with the agent. Knows nothing
//! of what is asked.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::auth::{Tokens, TokensError};
use super::certificate::Certificate;
use super::desk::{Desk, Rules, Setting};
#[cfg(feature = "dns")]
use super::dns::DnsCounts;
use super::patience::Impatient;
use crate::net::tls::PemError;
use crate::offers::Offers;

/// Connections at once; further ones are closed at once. Each long poll is one.
pub const CONNECTIONS_MAX: u64 = 65_536;

/// Connections that wait to be taken.
const BACKLOG: u32 = 4_096;

/// How long a client may take for the head of a request, and a connection may be idle before it.
pub const HEAD_WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of the head of a request: they are taken before it is known who asks.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long open requests may take to end once the server closes.
pub const CLOSE_MAX: Duration = Duration::from_secs(2);

/// How long nothing is taken after the process ran out of descriptors.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// Threads that answer, at the most.
const THREADS_MAX: usize = 4;

/// The target of every line that the doors log.
pub(super) const DOOR_LOG: &str = "tidings::http";

/// A certificate and its key, in PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpsFiles {
    /// The certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// An HTTP interface to be opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpPlan {
    /// Where it listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The cluster's name, for people.
    pub cluster: Arc<str>,
    /// What `/v1` calls the datacenter; `dc1` unless given.
    pub datacenter: Arc<str>,
    /// Who may ask what; everybody everything without.
    pub tokens: Option<Tokens>,
    /// For HTTPS; HTTP without.
    pub https: Option<HttpsFiles>,
    /// Whether an address that other machines can reach may be used without tokens and HTTPS.
    pub is_insecure: bool,
    /// The configuration, as `/v2/config` shows it; without secrets.
    pub settings: Vec<Setting>,
    /// How long a drain takes that does not say.
    pub drain_timeout: Duration,
    /// What DNS counts, to be shown with the other figures.
    #[cfg(feature = "dns")]
    pub dns: Option<DnsCounts>,
}

impl HttpPlan {
    /// An interface on this address, with everything else as it is unless given.
    pub fn new(bind: SocketAddr, cluster: &str) -> Self {
        Self {
            bind,
            cluster: Arc::from(cluster),
            datacenter: Arc::from("dc1"),
            tokens: None,
            https: None,
            is_insecure: false,
            settings: Vec::new(),
            drain_timeout: Duration::from_secs(5),
            #[cfg(feature = "dns")]
            dns: None,
        }
    }

    /// Whether it may be opened: only what is protected, or wanted unprotected, may be reached by other machines.
    ///
    /// # Errors
    /// [`HttpError::NotLoopback`].
    pub fn check(&self) -> Result<(), HttpError> {
        let is_guarded = self.tokens.is_some() && self.https.is_some();
        match self.bind.ip().to_canonical().is_loopback() || is_guarded || self.is_insecure {
            true => Ok(()),
            false => Err(HttpError::NotLoopback { addr: self.bind }),
        }
    }
}

/// Why an HTTP interface could not be opened. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Other machines can reach the address, and nothing protects it.
    #[error(
        "cannot serve HTTP on {addr}: other machines can reach it; give it tokens and a certificate, or say that it \
             shall be insecure"
    )]
    NotLoopback {
        /// The address.
        addr: SocketAddr,
    },
    /// The address could not be bound.
    #[error("cannot serve HTTP on {addr}: {error}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] PemError),
    /// The tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// No threads could be made.
    #[error("cannot start the threads of the HTTP interface: {0}")]
    Threads(io::Error),
}

/// What the server counted.
#[derive(Default, Debug)]
pub(super) struct Traffic {
    pub(super) connections: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) accept_failed: AtomicU64,
    pub(super) handshakes_failed: AtomicU64,
    pub(super) broken: AtomicU64,
    /// Of these, the ones whose client read too slowly.
    pub(super) slow: Arc<AtomicU64>,
}

/// An open HTTP interface. Dropped, it closes at once.
#[derive(Debug)]
pub struct Http {
    addr: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    closing: watch::Sender<bool>,
    /// Closed once all connections are.
    closed: watch::Receiver<()>,
    rules: Arc<Rules>,
    /// Ends with it.
    _threads: Threads,
}

/// The threads that answer. Dropped, they end soon after: a plain drop of a runtime would block, which no async program
/// may.
#[derive(Debug)]
struct Threads(Option<tokio::runtime::Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Http {
    /// Opens it, on threads of its own: whatever is asked, the program's other tasks are not held up.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn open(offers: Offers, plan: HttpPlan) -> Result<Self, HttpError> {
        plan.check()?;
        let certificate = plan.https.clone().map(Certificate::read).transpose()?.map(Arc::new);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS_MAX);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("tidings http")
            .enable_all()
            .build()
            .map_err(HttpError::Threads)?;
        let handle = runtime.handle().clone();
        let threads = Threads(Some(runtime));
        let inside = handle.enter();
        let failed = |error| HttpError::Bind { addr: plan.bind, error };
        let listener = listen(plan.bind).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let closing = watch::Sender::new(false);
        let (closed_by_all, closed) = watch::channel(());
        let desk = Desk::open(offers, plan, addr, certificate.clone(), closing.subscribe());
        let (traffic, rules) = (Arc::clone(&desk.traffic), Arc::clone(&desk.rules));
        let door = Door {
            router: super::router(desk),
            certificate: certificate.clone(),
            traffic,
            closing: closing.subscribe(),
        };
        handle.spawn(door.accept(listener, closed_by_all));
        drop(inside);
        Ok(Self { addr, certificate, closing, closed, rules, _threads: threads })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.certificate.is_some() { "https" } else { "http" }, self.addr)
    }

    /// Takes other tokens in the place of those before, for every request from now on; answers that are under way, and
    /// streams, go on.
    pub fn set_tokens(&self, tokens: Tokens) {
        self.rules.set_tokens(tokens);
    }

    /// Reads the files of the certificate again; gives whether they hold another one, which every connection from now
    /// on is shown. Those that are open go on. Without HTTPS it reads nothing.
    ///
    /// # Errors
    /// The files cannot be used, or do not belong together. The certificate from before goes on; that is logged, and
    /// counted.
    pub fn reload_certificate(&self) -> Result<bool, HttpError> {
        match &self.certificate {
            Some(certificate) => Ok(certificate.read_again()?),
            None => Ok(false),
        }
    }

    /// Changes how long a drain takes that does not say.
    pub fn set_drain_timeout(&self, timeout: Duration) {
        self.rules.set_drain_timeout(timeout);
    }

    /// Shows these settings in the place of those of the same keys.
    pub fn set_settings(&self, changed: Vec<Setting>) {
        self.rules.set_settings(changed);
    }

    /// Takes nothing new, answers what waits for news, and gives open requests [`CLOSE_MAX`] to end.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        let _ = timeout(CLOSE_MAX, async { while self.closed.changed().await.is_ok() {} }).await;
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Waits until the interface closes.
async fn closes(closing: &mut watch::Receiver<bool>) {
    // Without its sender it is gone, which is as good.
    let _ = closing.wait_for(|is_closing| *is_closing).await;
}

/// What every connection needs.
#[derive(Clone)]
struct Door {
    router: Router,
    certificate: Option<Arc<Certificate>>,
    traffic: Arc<Traffic>,
    closing: watch::Receiver<bool>,
}

impl Door {
    async fn accept(mut self, listener: TcpListener, open: watch::Sender<()>) {
        let open = Arc::new(open);
        loop {
            let accepted = tokio::select! {
                biased;
                () = closes(&mut self.closing) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.take(stream, &open),
                Err(error) => {
                    self.traffic.accept_failed.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(target: DOOR_LOG, %error, "a connection could not be taken");
                    // Out of descriptors, most likely: to try again at once would only burn time.
                    sleep(FULL_PAUSE).await;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, open: &Arc<watch::Sender<()>>) {
        self.traffic.connections.fetch_add(1, Ordering::Relaxed);
        let Some(counted) = Counted::new(&self.traffic) else { return };
        // An answer is small, and its client waits for it.
        let _ = stream.set_nodelay(true);
        let (door, open) = (self.clone(), Arc::clone(open));
        tokio::spawn(async move {
            let slow = Arc::clone(&door.traffic.slow);
            door.talk(Impatient::new(stream, slow)).await;
            drop((counted, open));
        });
    }

    async fn talk(self, stream: Impatient<TcpStream>) {
        let Some(certificate) = &self.certificate else { return self.serve(stream).await };
        match timeout(HANDSHAKE_MAX, certificate.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => {
                self.traffic.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(target: DOOR_LOG, %error, "a TLS handshake failed");
            }
            Err(_) => {
                self.traffic.handshakes_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX).max_buf_size(HEAD_BYTES_MAX);
        let service = TowerToHyperService::new(self.router);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = closes(&mut self.closing) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            self.traffic.broken.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(target: DOOR_LOG, %error, "a connection broke");
        }
    }
}

/// Counts an open connection while it lives.
struct Counted(Arc<Traffic>);

impl Counted {
    /// `None` if there are too many.
    fn new(traffic: &Arc<Traffic>) -> Option<Self> {
        let counted = Self(Arc::clone(traffic));
        if traffic.open.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX {
            return Some(counted);
        }
        traffic.refused_full.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::patience::{WRITE_BYTES_MIN, WRITE_WAIT_MAX};

    #[test]
    fn a_connection_over_the_limit_is_refused_and_counted() {
        let traffic = Arc::new(Traffic::default());
        traffic.open.store(CONNECTIONS_MAX - 1, Ordering::Relaxed);
        let last = Counted::new(&traffic).expect("there is room for one");
        assert!(Counted::new(&traffic).is_none());
        assert_eq!(traffic.refused_full.load(Ordering::Relaxed), 1);
        drop(last);
        assert!(Counted::new(&traffic).is_some(), "whoever goes makes room");
    }

    const ANSWER_BYTES: usize = 1024 * 1024;

    /// A door with one answer, larger than any buffer on its way.
    fn door() -> (Door, watch::Sender<bool>) {
        door_to(axum::routing::get(|| async { "x".repeat(ANSWER_BYTES) }))
    }

    fn door_to(answer: axum::routing::MethodRouter) -> (Door, watch::Sender<bool>) {
        let closing = watch::Sender::new(false);
        let (router, traffic) = (Router::new().route("/", answer), Arc::default());
        (Door { router, certificate: None, traffic, closing: closing.subscribe() }, closing)
    }

    fn counted(traffic: &Traffic) -> (u64, u64) {
        (traffic.broken.load(Ordering::Relaxed), traffic.slow.load(Ordering::Relaxed))
    }

    /// A client that has asked, of a server that answers it.
    async fn asked(door: Door) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<()>) {
        use tokio::io::AsyncWriteExt as _;
        let (mut client, server) = tokio::io::duplex(4_096);
        let slow = Arc::clone(&door.traffic.slow);
        let serving = tokio::spawn(door.serve(Impatient::new(server, slow)));
        client.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        (client, serving)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_let_go() {
        let (door, _closing) = door();
        let traffic = Arc::clone(&door.traffic);
        let began = tokio::time::Instant::now();
        let (_client, serving) = asked(door).await;
        timeout(WRITE_WAIT_MAX * 4, serving).await.expect("it is let go").unwrap();
        assert!(began.elapsed() < WRITE_WAIT_MAX * 2, "{:?}", began.elapsed());
        assert_eq!(counted(&traffic), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_little_now_and_then_is_let_go_all_the_same() {
        use tokio::io::AsyncReadExt as _;
        let (door, _closing) = door();
        let traffic = Arc::clone(&door.traffic);
        let began = tokio::time::Instant::now();
        let (mut client, serving) = asked(door).await;
        // As often as it reads, the server writes a little; never enough to end this day.
        while client.read_exact(&mut [0; 1_024]).await.is_ok() {
            tokio::time::advance(WRITE_WAIT_MAX / 6).await;
        }
        timeout(WRITE_WAIT_MAX, serving).await.expect("it was let go").unwrap();
        assert!(began.elapsed() < WRITE_WAIT_MAX * 2, "{:?}", began.elapsed());
        assert_eq!(counted(&traffic), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_slow_and_keeps_on_reading_gets_its_whole_answer() {
        use tokio::io::AsyncReadExt as _;
        let (door, _closing) = door();
        let traffic = Arc::clone(&door.traffic);
        let (mut client, serving) = asked(door).await;
        let mut part = vec![0; WRITE_BYTES_MIN as usize * 2 / 3];
        let (mut read, began) = (0, tokio::time::Instant::now());
        while read + part.len() < ANSWER_BYTES {
            client.read_exact(&mut part).await.expect("it goes on");
            read += part.len();
            tokio::time::advance(WRITE_WAIT_MAX / 2).await;
        }
        client.read_exact(&mut part[..ANSWER_BYTES - read]).await.expect("it goes on to its end");
        assert!(began.elapsed() > WRITE_WAIT_MAX * 10, "it is slow: {:?}", began.elapsed());
        drop(client);
        serving.await.unwrap();
        assert_eq!(counted(&traffic).1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_an_answer_that_is_not_there_yet_is_not_slow() {
        use tokio::io::AsyncReadExt as _;
        let answer = axum::routing::get(|| async {
            let never = timeout(crate::door::ask::WAIT_MAX, std::future::pending::<()>());
            never.await.is_err().to_string()
        });
        let (door, _closing) = door_to(answer);
        let (mut client, _serving) = asked(door).await;
        let mut line = [0; 15];
        client.read_exact(&mut line).await.expect("an answer in the end");
        assert_eq!(&line, b"HTTP/1.1 200 OK");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_over_the_limit_is_refused_before_it_is_whole() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for (bytes, status) in [(HEAD_BYTES_MAX / 2, "200"), (HEAD_BYTES_MAX + 1, "431")] {
            let (door, _closing) = door();
            let (mut client, server) = tokio::io::duplex(256 * 1024);
            let serving = tokio::spawn(door.serve(Impatient::new(server, Arc::default())));
            let head = format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}", "x".repeat(bytes));
            client.write_all(head.as_bytes()).await.unwrap();
            if status == "200" {
                client.write_all(b"\r\n\r\n").await.unwrap();
            }
            let mut line = [0; 12];
            client.read_exact(&mut line).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&line), format!("HTTP/1.1 {status}"));
            drop(client);
            serving.await.unwrap();
        }
    }

    #[test]
    fn only_what_is_protected_or_wanted_so_is_for_other_machines() {
        let plan = |addr: &str| HttpPlan::new(addr.parse().expect("an address"), "c");
        for local in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert!(plan(local).check().is_ok(), "{local}");
        }
        for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
            assert!(matches!(plan(open).check(), Err(HttpError::NotLoopback { .. })), "{open}");
        }
        let insecure = HttpPlan { is_insecure: true, ..plan("0.0.0.0:0") };
        assert!(insecure.check().is_ok());
    }
}
