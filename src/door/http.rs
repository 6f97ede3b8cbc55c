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
use tokio_rustls::TlsAcceptor;

use super::auth::{Tokens, TokensError};
use super::desk::{Desk, Setting};
#[cfg(feature = "dns")]
use super::dns::DnsCounts;
use crate::net::tls::{self, PemError};
use crate::offers::Offers;

/// Connections at once; further ones are closed at once. Each long poll is one.
pub const CONNECTIONS_MAX: u64 = 65_536;

/// Connections that wait to be taken.
const BACKLOG: u32 = 4_096;

/// How long a client may take for the head of a request, and a connection may be idle before it.
pub const HEAD_WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of the head of a request.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

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
}

/// An open HTTP interface. Dropped, it closes at once.
#[derive(Debug)]
pub struct Http {
    addr: SocketAddr,
    is_https: bool,
    closing: watch::Sender<bool>,
    /// Closed once all connections are.
    closed: watch::Receiver<()>,
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
        let acceptor = match &plan.https {
            Some(files) => Some(TlsAcceptor::from(Arc::new(tls::https(&files.certificate, &files.key)?))),
            None => None,
        };
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
        let is_https = acceptor.is_some();
        let desk = Desk::open(offers, plan, addr, closing.subscribe());
        let traffic = Arc::clone(&desk.traffic);
        let door = Door { router: super::router(desk), acceptor, traffic, closing: closing.subscribe() };
        handle.spawn(door.accept(listener, closed_by_all));
        drop(inside);
        Ok(Self { addr, is_https, closing, closed, _threads: threads })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_https { "https" } else { "http" }, self.addr)
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
    acceptor: Option<TlsAcceptor>,
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
            door.talk(stream).await;
            drop((counted, open));
        });
    }

    async fn talk(self, stream: TcpStream) {
        let Some(acceptor) = &self.acceptor else { return self.serve(stream).await };
        match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
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
