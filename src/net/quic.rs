//! Questions and answers over authenticated QUIC streams on the shared port. What they say is not known here.
//!
//! A question goes out on a connection that is still open to that address, or on a new one. Nothing is sent to keep a
//! connection alive: an idle one is forgotten by both sides without a packet.
//!
//! **A peer that restarted** knows nothing of its old connections. Three things keep a question from waiting for
//! them. Its new start answers the first packet with a stateless reset, since the reset key outlives a start
//! ([`ClusterTls::reset_key`]): that costs one round trip. Where it cannot (a wildcard address, a lost reset), a
//! question on a *reused* connection that brings no packet at all for [`StreamLimits::silence_max`] gives the
//! connection up; a live peer acknowledges within 25 ms and a round trip, however long its answer takes. In both
//! cases the question is asked once more, on a fresh connection. So **a question may arrive twice** and must be one
//! that does no harm when it does.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::crypto::HmacKey;
use quinn::{
    AsyncTimer, AsyncUdpSocket, Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, NoneTokenStore,
    ReadError, ReadToEndError, RecvStream, Runtime, SendStream, TokioRuntime, TransportConfig, TransportErrorCode,
    VarInt, WriteError,
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::effect::StreamFailure;
use crate::net::socket::{QUIC_DATAGRAM_BYTES_MAX, Socket, canonical};
use crate::net::tls::{ClusterTls, TlsError};

/// What one stream may hold unread, in bytes.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// What one connection may hold unread, and unacknowledged, in bytes.
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;

/// The round trip that is assumed before one was measured: it sets the first repeat of a lost hello to three times as
/// much. RFC 9002 says 333 ms for the internet; members of a cluster are closer.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Handshake bytes that may wait out of order: a member's flight has less than 2 KiB.
const HANDSHAKE_BYTES_MAX: usize = 8 << 10;

/// Packets of a connection attempt, in bytes, that wait until the attempt is accepted; and of all attempts.
const ATTEMPT_BYTES_MAX: (u64, u64) = (4 << 10, 64 << 10);

/// Connection attempts that wait to be looked at.
const ATTEMPTS_MAX: usize = 64;

/// The limits of streams. All of them are per process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamLimits {
    /// Connections that we opened and keep. For one more, the least recently used idle one is closed; when none is
    /// idle, the question is [`Refused`](StreamFailure::Refused).
    pub outbound_connections_max: usize,
    /// Connections that others opened. For one more, the least recently used idle one is closed; when none is idle,
    /// the new one is refused. From half of it on, a newcomer must first prove its address.
    pub inbound_connections_max: usize,
    /// How long a connection that others opened is idle before it can be closed for another. A closed connection keeps
    /// its memory for some round trips, so that closing them as fast as others come would not bound anything.
    pub inbound_idle_min: Duration,
    /// Streams open at a time on one connection; more wait for their turn.
    pub streams_per_connection_max: u32,
    /// Questions of ours open at a time; more are [`Refused`](StreamFailure::Refused).
    pub asks_open_max: usize,
    /// Questions of others open at a time; more are refused.
    pub requests_open_max: usize,
    /// The size of a question. A larger one is not sent, and refused when received.
    pub request_bytes_max: usize,
    /// The size of an answer. A larger one is [`TooLong`](StreamFailure::TooLong).
    pub answer_bytes_max: usize,
    /// How long a question may take in all: handshake, both attempts, answer. [`Timeout`](StreamFailure::Timeout)
    /// after that.
    pub ask_timeout: Duration,
    /// How long the question of another may take: to arrive, to be answered, and the answer to be acknowledged.
    pub request_timeout: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How long a connection without packets is kept.
    pub idle_timeout: Duration,
    /// How long a question on a reused connection may stay without any sign of the peer before that connection is
    /// taken for dead; three times the connection's round trip if that is longer.
    pub silence_max: Duration,
}

impl Default for StreamLimits {
    /// A connection was measured at 30 KiB of resident memory after small answers and 46 KiB after large ones, and the
    /// allocator keeps most of it for the next: all connections together stay below 5 MiB.
    fn default() -> Self {
        Self {
            outbound_connections_max: 24,
            inbound_connections_max: 8,
            inbound_idle_min: Duration::from_millis(100),
            streams_per_connection_max: 32,
            asks_open_max: 128,
            requests_open_max: 64,
            request_bytes_max: 2 << 20,
            answer_bytes_max: 2 << 20,
            ask_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(10),
            silence_max: Duration::from_millis(300),
        }
    }
}

/// Why streams could not be started; nothing runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There are no keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A duration among the limits is longer than QUIC can say.
    #[error("idle_timeout is {0:?}, the limit is 2^62 milliseconds")]
    IdleTimeout(Duration),
    /// The endpoint could not use the port.
    #[error("cannot serve streams: {0}")]
    Endpoint(#[from] io::Error),
}

/// Another member's question.
#[derive(Debug)]
pub struct Inbound {
    /// Where it asks from: the address of its one port.
    pub from: SocketAddr,
    /// The question, whole.
    pub request: Bytes,
    /// Takes the answer. `None`, or dropping this, refuses.
    pub answer: oneshot::Sender<Option<Bytes>>,
}

/// What went over streams since they were started, and what is open now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StreamStats {
    /// Connections that we opened, open now or being opened.
    pub outbound_connections: usize,
    /// Connections that others opened, open now or being opened.
    pub inbound_connections: usize,
    /// Questions asked.
    pub asks: u64,
    /// Questions that brought no answer.
    pub asks_failed: u64,
    /// Questions asked a second time, because the reused connection was dead.
    pub asks_repeated: u64,
    /// Handshakes that we began.
    pub handshakes: u64,
    /// Handshakes that we began and that failed.
    pub handshakes_failed: u64,
    /// Connections of others that were refused by a limit.
    pub inbound_refused: u64,
    /// Handshakes of others that failed: strangers, other clusters, broken links.
    pub inbound_failed: u64,
    /// Connections closed to make room for others.
    pub evicted: u64,
    /// Questions of others that were taken in.
    pub requests: u64,
    /// Questions of others that were refused: by a limit, because nobody took them, or by whoever did.
    pub requests_refused: u64,
}

/// Questions and answers over QUIC. Dropping it is [`close`](Self::close).
#[derive(Debug)]
pub struct Streams {
    shared: Arc<Shared>,
}

impl Streams {
    /// Serves and asks on `socket`, as a member of the cluster that `tls` is of. Questions of others go to `inbound`;
    /// while it is full they are refused.
    ///
    /// Everything runs in tasks of the ambient tokio runtime. Somebody must keep calling [`Socket::receive`].
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime that drives time.
    pub fn start(
        socket: Arc<Socket>,
        tls: &ClusterTls,
        limits: StreamLimits,
        inbound: mpsc::Sender<Inbound>,
    ) -> Result<Self, StartError> {
        let reset_key = tls.reset_key(socket.local_addr())?;
        Self::start_with(&socket, tls, limits, inbound, reset_key)
    }

    /// Asks `to`, and gives its answer. Nothing happens until the future is polled; dropping it takes the question
    /// back.
    ///
    /// # Errors
    /// - [`StreamFailure::Connection`]: nobody answered at that address, or the connection broke.
    /// - [`StreamFailure::Timeout`]: [`StreamLimits::ask_timeout`] is over.
    /// - [`StreamFailure::TooLong`]: the answer is longer than [`StreamLimits::answer_bytes_max`].
    /// - [`StreamFailure::Refused`]: the other side would not answer, or it or we did not take the other for a member
    ///   of the cluster, or a limit of ours is reached.
    pub fn ask(
        &self,
        to: SocketAddr,
        request: Bytes,
    ) -> impl Future<Output = Result<Bytes, StreamFailure>> + Send + 'static + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.ask(canonical(to), request).await }
    }

    /// Authenticates with other certificates from now on. With `ends_after`, what was opened under the old ones is not
    /// used for new questions, and closed after this time, in which answers under way arrive.
    ///
    /// # Errors
    /// See [`StartError`]; then nothing changed.
    pub fn renew(&self, tls: &ClusterTls, ends_after: Option<Duration>) -> Result<(), StartError> {
        let shared = &self.shared;
        let server = server_config(tls, &shared.limits)?;
        let dialler = (client_config(tls, &shared.limits)?, Arc::from(tls.name()));
        shared.endpoint.set_server_config(Some(server));
        *shared.dialler.lock().unwrap_or_else(PoisonError::into_inner) = dialler;
        let Some(ends_after) = ends_after else { return Ok(()) };
        let (dialled, guests) = {
            let mut table = shared.table();
            let dialled: Vec<_> = std::mem::take(&mut table.outbound).into_values().map(|kept| kept.dialled).collect();
            let guests: Vec<_> = table.inbound.values().filter_map(|guest| guest.connection.clone()).collect();
            (dialled, guests)
        };
        shared.tasks.spawn(async move {
            tokio::time::sleep(ends_after).await;
            for dialled in dialled {
                if let Some(Ok(connection)) = &*dialled.borrow() {
                    connection.close(code::RENEWED, &[]);
                }
            }
            for guest in guests {
                guest.close(code::RENEWED, &[]);
            }
        });
        Ok(())
    }

    /// What went over streams so far.
    pub fn stats(&self) -> StreamStats {
        self.shared.stats()
    }

    /// Ends everything, without a packet: questions of ours fail, questions of others get no answer. The peers learn
    /// of it at their next packet to us, or never. Memory is free, and the socket let go, once the runtime has run
    /// the tasks a last time (or is dropped).
    pub fn close(&self) {
        self.shared.close();
    }

    fn start_with(
        socket: &Arc<Socket>,
        tls: &ClusterTls,
        limits: StreamLimits,
        inbound: mpsc::Sender<Inbound>,
        reset_key: Arc<dyn HmacKey>,
    ) -> Result<Self, StartError> {
        let tasks = Tasks { handle: Handle::current(), stop: watch::Sender::new(false) };
        let runtime = Arc::new(StoppableRuntime { handle: tasks.handle.clone(), stop: tasks.stop.subscribe() });
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(reset_key),
            Some(server_config(tls, &limits)?),
            Arc::new(socket.quic_side()),
            runtime,
        )?;
        let dialler = Mutex::new((client_config(tls, &limits)?, Arc::from(tls.name())));
        let shared = Arc::new(Shared {
            endpoint,
            dialler,
            limits,
            inbound,
            tasks,
            table: Mutex::default(),
            counters: Counters::default(),
        });
        shared.tasks.spawn(accept(Arc::clone(&shared)));
        Ok(Self { shared })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.close();
    }
}

fn endpoint_config(reset_key: Arc<dyn HmacKey>) -> EndpointConfig {
    let mut config = EndpointConfig::new(reset_key);
    // The fixed bit is what tells QUIC from gossip: see `QUIC_FIRST_BYTE`.
    config.grease_quic_bit(false);
    config.max_udp_payload_size(QUIC_DATAGRAM_BYTES_MAX).expect("1,200 bytes is the least that QUIC allows");
    config.cid_generator(|| Box::new(RandomIds(SystemRandom::new())));
    config
}

fn server_config(tls: &ClusterTls, limits: &StreamLimits) -> Result<quinn::ServerConfig, StartError> {
    let mut transport = transport(limits)?;
    transport.max_concurrent_bidi_streams(limits.streams_per_connection_max.into());
    let mut config = tls.server_config();
    config
        .transport_config(Arc::new(transport))
        .migration(false)
        .max_incoming(ATTEMPTS_MAX)
        .incoming_buffer_size(ATTEMPT_BYTES_MAX.0)
        .incoming_buffer_size_total(ATTEMPT_BYTES_MAX.1);
    Ok(config)
}

fn client_config(tls: &ClusterTls, limits: &StreamLimits) -> Result<quinn::ClientConfig, StartError> {
    let mut transport = transport(limits)?;
    transport.max_concurrent_bidi_streams(0u32.into());
    let mut config = tls.client_config();
    config.transport_config(Arc::new(transport)).token_store(Arc::new(NoneTokenStore));
    Ok(config)
}

fn transport(limits: &StreamLimits) -> Result<TransportConfig, StartError> {
    let idle = limits.idle_timeout.try_into().map_err(|_| StartError::IdleTimeout(limits.idle_timeout))?;
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(0u32.into())
        .max_idle_timeout(Some(idle))
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(QUIC_DATAGRAM_BYTES_MAX)
        .mtu_discovery_config(None)
        .crypto_buffer_size(HANDSHAKE_BYTES_MAX)
        .allow_spin(false)
        .datagram_receive_buffer_size(None);
    Ok(config)
}

/// Why a stream or a connection was ended, as the other side is told.
mod code {
    use quinn::VarInt;

    pub(super) const REFUSED: VarInt = VarInt::from_u32(1);
    pub(super) const TOO_LONG: VarInt = VarInt::from_u32(2);
    pub(super) const TIMEOUT: VarInt = VarInt::from_u32(3);
    pub(super) const CANCELLED: VarInt = VarInt::from_u32(4);
    pub(super) const EVICTED: VarInt = VarInt::from_u32(5);
    pub(super) const TAKEN_FOR_DEAD: VarInt = VarInt::from_u32(6);
    pub(super) const RENEWED: VarInt = VarInt::from_u32(7);
}

/// What all tasks of one [`Streams`] share.
#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    /// How handshakes are begun, and the name to ask for.
    dialler: Mutex<(quinn::ClientConfig, Arc<str>)>,
    limits: StreamLimits,
    inbound: mpsc::Sender<Inbound>,
    tasks: Tasks,
    table: Mutex<Table>,
    counters: Counters,
}

impl Shared {
    async fn ask(self: &Arc<Self>, to: SocketAddr, request: Bytes) -> Result<Bytes, StreamFailure> {
        self.counters.asks.add();
        let mut stopped = pin!(stopped(self.tasks.stop.subscribe()));
        let answer = tokio::select! {
            biased;
            () = &mut stopped => Err(StreamFailure::Connection),
            answer = timeout(self.limits.ask_timeout, self.ask_twice(to, request)) => {
                answer.unwrap_or(Err(StreamFailure::Timeout))
            }
        };
        if answer.is_err() {
            self.counters.asks_failed.add();
        }
        answer
    }

    async fn ask_twice(self: &Arc<Self>, to: SocketAddr, request: Bytes) -> Result<Bytes, StreamFailure> {
        let _open = self.open_ask().ok_or(StreamFailure::Refused)?;
        if request.len() > self.limits.request_bytes_max {
            return Err(StreamFailure::Refused);
        }
        let lease = self.lease(to)?;
        let first = self.exchange(&lease, request.clone()).await;
        match first {
            Err(AskError::Dead(_)) if lease.is_reused => {
                tracing::debug!(%to, "a kept connection was dead; asking again on a fresh one");
                self.counters.asks_repeated.add();
                drop(lease);
                let fresh = self.lease(to)?;
                self.exchange(&fresh, request).await.map_err(AskError::failure)
            }
            outcome => outcome.map_err(AskError::failure),
        }
    }

    /// One attempt, on the connection of `lease`. A connection found dead is given up for everybody.
    async fn exchange(&self, lease: &Lease, request: Bytes) -> Result<Bytes, AskError> {
        let connection = lease.connection().await.map_err(AskError::Failed)?;
        let outcome = exchange(&connection, request, &self.limits, lease.is_reused).await;
        if matches!(outcome, Err(AskError::Dead(_))) {
            self.forget_outbound(lease.to, lease.id);
            connection.close(code::TAKEN_FOR_DEAD, &[]);
        }
        outcome
    }

    /// A share in the connection to `to`: the one that is open or being opened, or a new one.
    fn lease(self: &Arc<Self>, to: SocketAddr) -> Result<Lease, StreamFailure> {
        let mut table = self.table();
        let used = table.next_number();
        if table.is_closed {
            return Err(StreamFailure::Connection);
        }
        if table.outbound.get(&to).is_some_and(Outbound::is_broken) {
            table.outbound.remove(&to);
        }
        if let Some(kept) = table.outbound.get_mut(&to) {
            kept.used = used;
            kept.busy += 1;
            let is_reused = kept.dialled.borrow().is_some();
            return Ok(Lease { shared: Arc::clone(self), to, id: kept.id, dialled: kept.dialled.clone(), is_reused });
        }
        if table.outbound.len() >= self.limits.outbound_connections_max {
            if !table.evict_outbound() {
                return Err(StreamFailure::Refused);
            }
            self.counters.evicted.add();
        }
        let (tell, dialled) = watch::channel(None);
        table.outbound.insert(to, Outbound { id: used, used, busy: 1, dialled: dialled.clone() });
        drop(table);
        self.tasks.spawn(dial(Arc::clone(self), to, used, tell));
        Ok(Lease { shared: Arc::clone(self), to, id: used, dialled, is_reused: false })
    }

    async fn connect(&self, to: SocketAddr) -> Result<Connection, StreamFailure> {
        let (config, name) = self.dialler.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connecting = self.endpoint.connect_with(config, to, &name).map_err(|error| {
            tracing::debug!(%to, %error, "cannot connect");
            StreamFailure::Connection
        })?;
        connecting.await.map_err(|error| {
            tracing::debug!(%to, %error, "handshake failed");
            failure_of(&error)
        })
    }

    fn forget_outbound(&self, to: SocketAddr, id: u64) {
        let mut table = self.table();
        if table.outbound.get(&to).is_some_and(|kept| kept.id == id) {
            table.outbound.remove(&to);
        }
    }

    fn has_outbound(&self, to: SocketAddr, id: u64) -> bool {
        self.table().outbound.get(&to).is_some_and(|kept| kept.id == id)
    }

    /// A place for a connection attempt of another, or what to do with the attempt instead.
    fn admit(self: &Arc<Self>, incoming: &Incoming) -> Result<Seat, Turned> {
        let max = self.limits.inbound_connections_max;
        let mut table = self.table();
        if table.inbound.len() >= max / 2 && !incoming.remote_address_validated() && incoming.may_retry() {
            return Err(Turned::ProveAddress);
        }
        if table.inbound.len() >= max {
            if !table.evict_inbound(self.limits.inbound_idle_min) {
                self.counters.inbound_refused.add();
                return Err(Turned::Refused);
            }
            self.counters.evicted.add();
        }
        let id = table.next_number();
        table.inbound.insert(id, Guest { used: id, used_at: tokio::time::Instant::now(), busy: 0, connection: None });
        Ok(Seat { shared: Arc::clone(self), id })
    }

    /// Notes that a question on the connection with this seat begins or ends.
    fn note_guest(&self, seat: u64, change: impl FnOnce(usize) -> usize) {
        let mut table = self.table();
        let used = table.next_number();
        if let Some(guest) = table.inbound.get_mut(&seat) {
            guest.used = used;
            guest.used_at = tokio::time::Instant::now();
            guest.busy = change(guest.busy);
        }
    }

    fn open_ask(&self) -> Option<Open<'_>> {
        Open::below(&self.counters.asks_open, self.limits.asks_open_max)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code that holds the lock can leave the table half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.tasks.stop.send_replace(true);
        let closed = std::mem::replace(&mut *self.table(), Table { is_closed: true, ..Table::default() });
        // Dropped after the lock: the last handle of a connection closes it.
        drop(closed);
    }

    fn stats(&self) -> StreamStats {
        let counters = &self.counters;
        let (outbound_connections, inbound_connections) = {
            let table = self.table();
            (table.outbound.len(), table.inbound.len())
        };
        StreamStats {
            outbound_connections,
            inbound_connections,
            asks: counters.asks.read(),
            asks_failed: counters.asks_failed.read(),
            asks_repeated: counters.asks_repeated.read(),
            handshakes: counters.handshakes.read(),
            handshakes_failed: counters.handshakes_failed.read(),
            inbound_refused: counters.inbound_refused.read(),
            inbound_failed: counters.inbound_failed.read(),
            evicted: counters.evicted.read(),
            requests: counters.requests.read(),
            requests_refused: counters.requests_refused.read(),
        }
    }
}

/// The connections that are open, or being opened.
#[derive(Default, Debug)]
struct Table {
    outbound: BTreeMap<SocketAddr, Outbound>,
    inbound: BTreeMap<u64, Guest>,
    /// Names connections, and orders their uses.
    number: u64,
    is_closed: bool,
}

impl Table {
    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Closes the least recently used idle connection that we opened; `false` if all are in use.
    fn evict_outbound(&mut self) -> bool {
        let idle = self.outbound.iter().filter(|(_, kept)| kept.busy == 0);
        let Some(to) = idle.min_by_key(|(_, kept)| kept.used).map(|(to, _)| *to) else {
            return false;
        };
        if let Some(kept) = self.outbound.remove(&to)
            && let Some(Ok(connection)) = &*kept.dialled.borrow()
        {
            connection.close(code::EVICTED, &[]);
        }
        true
    }

    /// Closes the least recently used idle connection that another opened; `false` if all are in use.
    fn evict_inbound(&mut self, idle_min: Duration) -> bool {
        let idle = self
            .inbound
            .iter()
            .filter(|(_, guest)| guest.busy == 0 && guest.connection.is_some() && guest.used_at.elapsed() >= idle_min);
        let Some(id) = idle.min_by_key(|(_, guest)| guest.used).map(|(id, _)| *id) else {
            return false;
        };
        if let Some(connection) = self.inbound.remove(&id).and_then(|guest| guest.connection) {
            connection.close(code::EVICTED, &[]);
        }
        true
    }
}

/// How a handshake of ours ended; `None` while it runs.
type Dialled = Option<Result<Connection, StreamFailure>>;

/// A connection that we opened, or are opening.
#[derive(Debug)]
struct Outbound {
    id: u64,
    used: u64,
    busy: usize,
    dialled: watch::Receiver<Dialled>,
}

impl Outbound {
    /// Whether it is known to be of no more use, though its task has not yet removed it.
    fn is_broken(&self) -> bool {
        match &*self.dialled.borrow() {
            None => false,
            Some(Err(_)) => true,
            Some(Ok(connection)) => connection.close_reason().is_some(),
        }
    }
}

/// A connection that another opened; `None` while its handshake runs.
#[derive(Debug)]
struct Guest {
    used: u64,
    used_at: tokio::time::Instant,
    busy: usize,
    connection: Option<Connection>,
}

/// A share in a connection that we opened: while it is held, the connection is not idle.
#[derive(Debug)]
struct Lease {
    shared: Arc<Shared>,
    to: SocketAddr,
    id: u64,
    dialled: watch::Receiver<Dialled>,
    /// The connection was already open, so it may be dead without anybody having noticed.
    is_reused: bool,
}

impl Lease {
    async fn connection(&self) -> Result<Connection, StreamFailure> {
        let mut dialled = self.dialled.clone();
        match dialled.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // Its task is gone: we are closing.
            Ok(None) | Err(_) => Err(StreamFailure::Connection),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        let used = table.next_number();
        if let Some(kept) = table.outbound.get_mut(&self.to).filter(|kept| kept.id == self.id) {
            kept.busy -= 1;
            kept.used = used;
        }
    }
}

/// The place of a connection that another opened; given back when its task ends.
#[derive(Debug)]
struct Seat {
    shared: Arc<Shared>,
    id: u64,
}

impl Seat {
    /// Says that the handshake is over; `false` if the seat is gone.
    fn take(&self, connection: &Connection) -> bool {
        let mut table = self.shared.table();
        match table.inbound.get_mut(&self.id) {
            Some(guest) => guest.connection = Some(connection.clone()),
            None => return false,
        }
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let removed = self.shared.table().inbound.remove(&self.id);
        drop(removed);
    }
}

/// What happens to a connection attempt that gets no seat.
enum Turned {
    ProveAddress,
    Refused,
}

/// One more of something limited; one less when dropped.
#[derive(Debug)]
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn below(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let one_more = |open| if open < max { Some(open + 1) } else { None };
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self(count))
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why an attempt to ask brought nothing.
#[derive(Debug)]
enum AskError {
    /// The connection is dead; the question may never have arrived.
    Dead(StreamFailure),
    /// The peer is there, or there is no connection to it.
    Failed(StreamFailure),
}

impl AskError {
    fn failure(self) -> StreamFailure {
        match self {
            Self::Dead(failure) | Self::Failed(failure) => failure,
        }
    }
}

impl From<ConnectionError> for AskError {
    fn from(error: ConnectionError) -> Self {
        Self::Dead(failure_of(&error))
    }
}

impl From<WriteError> for AskError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                Self::Failed(StreamFailure::Refused)
            }
        }
    }
}

impl From<ReadToEndError> for AskError {
    fn from(error: ReadToEndError) -> Self {
        match error {
            ReadToEndError::TooLong => Self::Failed(StreamFailure::TooLong),
            ReadToEndError::Read(ReadError::ConnectionLost(error)) => error.into(),
            ReadToEndError::Read(_) => Self::Failed(StreamFailure::Refused),
        }
    }
}

/// What the asker is told about a broken connection: a handshake that either side broke off over the certificate or
/// the cluster's name is a refusal.
fn failure_of(error: &ConnectionError) -> StreamFailure {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return StreamFailure::Connection,
    };
    // RFC 9000, section 20.1: 0x100 to 0x1ff carry TLS alerts.
    let is_alert = (0x100..0x200).contains(&u64::from(code));
    if is_alert || code == TransportErrorCode::CONNECTION_REFUSED {
        StreamFailure::Refused
    } else {
        StreamFailure::Connection
    }
}

/// Opens the connection that entry `id` of the table waits for, tells how that went, and removes the entry when the
/// connection is gone.
async fn dial(shared: Arc<Shared>, to: SocketAddr, id: u64, tell: watch::Sender<Dialled>) {
    shared.counters.handshakes.add();
    let dialled = timeout(shared.limits.handshake_timeout, shared.connect(to)).await;
    let dialled = dialled.unwrap_or(Err(StreamFailure::Connection));
    let connection = match &dialled {
        Ok(connection) if shared.has_outbound(to, id) => Some(connection.clone()),
        // Evicted meanwhile.
        Ok(_) => None,
        Err(_) => {
            shared.counters.handshakes_failed.add();
            None
        }
    };
    if connection.is_none() {
        shared.forget_outbound(to, id);
    }
    tell.send_replace(Some(dialled));
    if let Some(connection) = connection {
        connection.closed().await;
        shared.forget_outbound(to, id);
    }
}

/// Asks one question on a stream of its own.
async fn exchange(
    connection: &Connection,
    request: Bytes,
    limits: &StreamLimits,
    is_reused: bool,
) -> Result<Bytes, AskError> {
    let (send, receive) = connection.open_bi().await?;
    let arrived = send.stopped();
    let answer = converse(Outgoing::new(send, code::CANCELLED), receive, request, limits.answer_bytes_max);
    if !is_reused {
        return answer.await;
    }
    tokio::select! {
        biased;
        answer = answer => answer,
        () = silence(connection, arrived, limits.silence_max) => Err(AskError::Dead(StreamFailure::Connection)),
    }
}

async fn converse(
    mut send: Outgoing,
    mut receive: RecvStream,
    request: Bytes,
    answer_bytes_max: usize,
) -> Result<Bytes, AskError> {
    send.send(request).await?;
    Ok(receive.read_to_end(answer_bytes_max).await?.into())
}

/// Ends when no packet has come for a while, though `arrived` (the acknowledgement of the whole question) is still
/// missing. Once that is there the peer is alive, and may think for as long as the question's timeout allows.
async fn silence(connection: &Connection, arrived: impl Future, silence_max: Duration) {
    let mut arrived = pin!(arrived);
    let mut heard = connection.stats().udp_rx.datagrams;
    loop {
        let patience = silence_max.max(3 * connection.rtt());
        if timeout(patience, &mut arrived).await.is_ok() {
            return std::future::pending().await;
        }
        let now_heard = connection.stats().udp_rx.datagrams;
        if now_heard == heard {
            return;
        }
        heard = now_heard;
    }
}

/// Takes connection attempts of others, until the endpoint ends.
async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        match shared.admit(&incoming) {
            Ok(seat) => shared.tasks.spawn(serve(Arc::clone(&shared), incoming, seat)),
            // Only fails when the address is proven, which `admit` has looked at.
            Err(Turned::ProveAddress) => drop(incoming.retry()),
            Err(Turned::Refused) => incoming.refuse(),
        }
    }
}

/// Serves one connection of another, until it is gone.
async fn serve(shared: Arc<Shared>, incoming: Incoming, seat: Seat) {
    let from = canonical(incoming.remote_address());
    let handshake = async { incoming.accept()?.await };
    let connection = match timeout(shared.limits.handshake_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "refused a connection");
            shared.counters.inbound_failed.add();
            return;
        }
        Err(_) => {
            shared.counters.inbound_failed.add();
            return;
        }
    };
    if !seat.take(&connection) {
        return;
    }
    while let Ok((send, receive)) = connection.accept_bi().await {
        let request = Request::begin(&shared, from, seat.id);
        shared.tasks.spawn(request.serve(Outgoing::new(send, code::TIMEOUT), receive));
    }
}

/// A question of another that is being served: while it is, its connection is not idle.
struct Request {
    shared: Arc<Shared>,
    from: SocketAddr,
    seat: u64,
}

impl Request {
    fn begin(shared: &Arc<Shared>, from: SocketAddr, seat: u64) -> Self {
        shared.note_guest(seat, |busy| busy + 1);
        Self { shared: Arc::clone(shared), from, seat }
    }

    async fn serve(self, mut send: Outgoing, mut receive: RecvStream) {
        let served = timeout(self.shared.limits.request_timeout, self.answer(&mut send, &mut receive)).await;
        let refusal = match served {
            Ok(Ok(())) => return,
            Ok(Err(refusal)) => refusal,
            Err(_) => code::TIMEOUT,
        };
        self.shared.counters.requests_refused.add();
        send.code = refusal;
        // Fails when all of it has been read, which is fine.
        let _ = receive.stop(refusal);
    }

    /// Takes the question in, waits for the answer, and sends it until it is acknowledged.
    async fn answer(&self, send: &mut Outgoing, receive: &mut RecvStream) -> Result<(), VarInt> {
        let Shared { counters, limits, inbound, .. } = &*self.shared;
        let _open = Open::below(&counters.requests_open, limits.requests_open_max).ok_or(code::REFUSED)?;
        let request = match receive.read_to_end(limits.request_bytes_max).await {
            Ok(request) => request.into(),
            Err(ReadToEndError::TooLong) => return Err(code::TOO_LONG),
            Err(ReadToEndError::Read(_)) => return Err(code::CANCELLED),
        };
        let (answer, answered) = oneshot::channel();
        let question = Inbound { from: self.from, request, answer };
        inbound.try_send(question).map_err(|_| code::REFUSED)?;
        counters.requests.add();
        let answer = tokio::select! {
            answer = answered => answer.ok().flatten().ok_or(code::REFUSED)?,
            // Whoever asked has given up, and its place is for another.
            _ = send.stream.stopped() => return Err(code::CANCELLED),
        };
        send.send(answer).await.map_err(|_| code::CANCELLED)?;
        // Until then the connection is in use. However it ends, nothing is left to be done.
        let _ = send.stream.stopped().await;
        Ok(())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.shared.note_guest(self.seat, |busy| busy - 1);
    }
}

/// Our half of a stream, which ends with a reset unless all was sent: quinn's own would end as if it were complete,
/// and the other side would take the half for the whole.
#[derive(Debug)]
struct Outgoing {
    stream: SendStream,
    code: VarInt,
    is_complete: bool,
}

impl Outgoing {
    fn new(stream: SendStream, code: VarInt) -> Self {
        Self { stream, code, is_complete: false }
    }

    /// Sends `bytes` and ends the stream.
    async fn send(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.stream.write_chunk(bytes).await?;
        self.stream.finish()?;
        self.is_complete = true;
        Ok(())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_complete {
            // Fails when the connection is gone, and the stream with it.
            let _ = self.stream.reset(self.code);
        }
    }
}

/// Connection ids: random, so that a new start cannot tell which of them an earlier one gave, and answers each with
/// a stateless reset (limited by quinn to one in 20 ms).
struct RandomIds(SystemRandom);

impl RandomIds {
    const BYTES: usize = 8;
}

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut id = [0; Self::BYTES];
        self.0.fill(&mut id).expect("the system gave random bytes when it minted our certificate");
        quinn::ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        Self::BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The tasks of one [`Streams`], which all end with it.
#[derive(Debug)]
struct Tasks {
    handle: Handle,
    stop: watch::Sender<bool>,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        spawn(&self.handle, self.stop.subscribe(), task);
    }
}

/// quinn's runtime on tokio, whose tasks end when we say so. quinn's own would live on after us, to say farewell on
/// every connection.
#[derive(Debug)]
struct StoppableRuntime {
    handle: Handle,
    stop: watch::Receiver<bool>,
}

impl Runtime for StoppableRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        spawn(&self.handle, self.stop.clone(), task);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

fn spawn(handle: &Handle, stop: watch::Receiver<bool>, task: impl Future<Output = ()> + Send + 'static) {
    handle.spawn(async move {
        tokio::select! {
            biased;
            () = stopped(stop) => {}
            () = task => {}
        }
    });
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that whoever could say "stop" is gone, which is the same.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}

#[derive(Default, Debug)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default, Debug)]
struct Counters {
    asks_open: AtomicUsize,
    requests_open: AtomicUsize,
    asks: Counter,
    asks_failed: Counter,
    asks_repeated: Counter,
    handshakes: Counter,
    handshakes_failed: Counter,
    inbound_refused: Counter,
    inbound_failed: Counter,
    evicted: Counter,
    requests: Counter,
    requests_refused: Counter,
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::Weak;

    use tokio::task::AbortHandle;

    use super::*;
    use crate::net::tls::{DEVELOPMENT_KEY, MEMBER_NAME};

    const BOUND: Duration = Duration::from_secs(10);
    const TAG: u32 = 0x7e57;

    /// A port with streams, somebody who reads it, and somebody who answers.
    struct Member {
        streams: Streams,
        socket: Arc<Socket>,
        gossip: mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>)>,
        tasks: [AbortHandle; 2],
    }

    impl Member {
        fn start() -> Self {
            Self::with(StreamLimits::default())
        }

        fn with(limits: StreamLimits) -> Self {
            Self::of((Ipv4Addr::LOCALHOST, 0).into(), &ClusterTls::mint(&DEVELOPMENT_KEY, TAG).unwrap(), limits)
        }

        fn of(addr: SocketAddr, tls: &ClusterTls, limits: StreamLimits) -> Self {
            let socket = Socket::bind(addr).unwrap();
            let reset_key = tls.reset_key(socket.local_addr()).unwrap();
            Self::on(socket, tls, limits, reset_key)
        }

        fn on(socket: Arc<Socket>, tls: &ClusterTls, limits: StreamLimits, reset_key: Arc<dyn HmacKey>) -> Self {
            let (inbound, questions) = mpsc::channel(64);
            let (heard, gossip) = mpsc::unbounded_channel();
            let streams = Streams::start_with(&socket, tls, limits, inbound, reset_key).unwrap();
            let reader = tokio::spawn(read(Arc::clone(&socket), heard)).abort_handle();
            let answerer = tokio::spawn(answer(questions)).abort_handle();
            Self { streams, socket, gossip, tasks: [reader, answerer] }
        }

        fn addr(&self) -> SocketAddr {
            self.socket.local_addr()
        }

        async fn ask(&self, to: &Self, request: &'static [u8]) -> Result<Bytes, StreamFailure> {
            self.ask_at(to.addr(), request).await
        }

        async fn ask_at(&self, to: SocketAddr, request: &'static [u8]) -> Result<Bytes, StreamFailure> {
            timeout(BOUND, self.streams.ask(to, Bytes::from_static(request))).await.unwrap()
        }

        /// Ends without a word, and gives the address once the port is free.
        async fn die(self) -> SocketAddr {
            let (addr, port) = (self.addr(), Arc::downgrade(&self.socket));
            drop(self);
            until(|| Weak::strong_count(&port) == 0).await;
            addr
        }
    }

    impl Drop for Member {
        fn drop(&mut self) {
            self.tasks.iter().for_each(AbortHandle::abort);
        }
    }

    async fn read(socket: Arc<Socket>, heard: mpsc::UnboundedSender<(SocketAddr, Vec<u8>)>) {
        loop {
            socket.readable().await.unwrap();
            socket.receive(&mut |from, bytes| drop(heard.send((from, bytes.to_vec())))).unwrap();
        }
    }

    /// "no" is refused, "hold" is never answered, a number gives as many bytes, all else its echo.
    async fn answer(mut questions: mpsc::Receiver<Inbound>) {
        let mut held = Vec::new();
        while let Some(Inbound { request, answer, .. }) = questions.recv().await {
            let number = std::str::from_utf8(&request).ok().and_then(|text| text.parse::<usize>().ok());
            match (&request[..], number) {
                (b"no", _) => drop(answer.send(None)),
                (b"hold", _) => held.push(answer),
                (_, Some(size)) => drop(answer.send(Some(vec![7; size].into()))),
                _ => drop(answer.send(Some(request))),
            }
        }
    }

    async fn until(is_true: impl Fn() -> bool) {
        let waiting = async {
            while !is_true() {
                tokio::task::yield_now().await;
            }
        };
        timeout(BOUND, waiting).await.unwrap();
    }

    fn tls(tag: u32) -> ClusterTls {
        ClusterTls::mint(&DEVELOPMENT_KEY, tag).unwrap()
    }

    fn random_reset_key() -> Arc<dyn HmacKey> {
        tls(TAG).reset_key((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap()
    }

    #[tokio::test]
    async fn gossip_and_streams_share_one_port_both_ways() {
        let (mut a, mut b) = (Member::start(), Member::start());
        a.socket.send(b.addr(), b"\x01 from a").unwrap();
        assert_eq!(a.ask(&b, b"a asks").await.unwrap(), "a asks");
        b.socket.send(a.addr(), b"\x01 from b").unwrap();
        assert_eq!(b.ask(&a, b"b asks").await.unwrap(), "b asks");
        assert_eq!(timeout(BOUND, b.gossip.recv()).await.unwrap().unwrap(), (a.addr(), b"\x01 from a".to_vec()));
        assert_eq!(timeout(BOUND, a.gossip.recv()).await.unwrap().unwrap(), (b.addr(), b"\x01 from b".to_vec()));
        for member in [&a, &b] {
            let stats = member.socket.stats();
            assert_eq!((stats.gossip_sent.datagrams, stats.gossip_received.datagrams), (1, 1));
            assert!(stats.quic_sent.bytes > 1200 && stats.quic_received.bytes > 1200, "{stats:?}");
        }
    }

    #[tokio::test]
    async fn a_question_and_an_answer_of_two_mebibytes_arrive_whole() {
        static QUESTION: [u8; 2 << 20] = [3; 2 << 20];
        let (a, b) = (Member::start(), Member::start());
        let answer = a.ask(&b, &QUESTION).await.unwrap();
        assert!(answer == QUESTION[..]);
    }

    #[tokio::test]
    async fn twenty_questions_at_once_share_one_connection() {
        let (a, b) = (Member::start(), Member::start());
        let asks: Vec<_> =
            (0..20).map(|n: u8| (n, tokio::spawn(a.streams.ask(b.addr(), vec![b'x', n].into())))).collect();
        for (n, ask) in asks {
            assert_eq!(timeout(BOUND, ask).await.unwrap().unwrap().unwrap(), [b'x', n][..]);
        }
        assert_eq!(a.streams.stats().handshakes, 1);
        assert_eq!((a.streams.stats().outbound_connections, b.streams.stats().inbound_connections), (1, 1));
    }

    #[tokio::test]
    async fn a_member_with_another_key_is_refused_both_ways() {
        let member = Member::start();
        let stranger = Member::of(
            (Ipv4Addr::LOCALHOST, 0).into(),
            &ClusterTls::mint(&[9; 32], TAG).unwrap(),
            StreamLimits::default(),
        );
        assert_eq!(stranger.ask(&member, b"let me in").await, Err(StreamFailure::Refused));
        assert_eq!(member.ask(&stranger, b"who are you").await, Err(StreamFailure::Refused));
        assert_eq!(member.streams.stats().requests + stranger.streams.stats().requests, 0);
    }

    #[tokio::test]
    async fn a_stranger_that_shows_no_certificate_is_refused() {
        // It trusts our certificate, so that only our own check of its stands in its way.
        let (member, stranger) = (Member::start(), Member::start());
        let config = ClusterTls::anonymous_client_config(&DEVELOPMENT_KEY, TAG);
        let connection = stranger.streams.shared.endpoint.connect_with(config, member.addr(), MEMBER_NAME).unwrap();
        let error = match timeout(BOUND, connection).await.unwrap() {
            Ok(connection) => timeout(BOUND, connection.closed()).await.unwrap(),
            Err(error) => error,
        };
        assert_eq!(failure_of(&error), StreamFailure::Refused);
        assert_eq!(member.streams.stats().inbound_failed, 1);
    }

    #[tokio::test]
    async fn a_member_of_another_cluster_is_refused() {
        let member = Member::start();
        let other = Member::of((Ipv4Addr::LOCALHOST, 0).into(), &tls(TAG + 1), StreamLimits::default());
        assert_eq!(other.ask(&member, b"hello").await, Err(StreamFailure::Refused));
        assert_eq!(member.ask(&other, b"hello").await, Err(StreamFailure::Refused));
        assert_eq!((member.streams.stats().inbound_failed, member.streams.stats().handshakes_failed), (1, 1));
    }

    #[tokio::test]
    async fn an_answer_above_the_limit_is_too_long_and_the_connection_lives_on() {
        let (a, b) = (Member::with(StreamLimits { answer_bytes_max: 1000, ..Default::default() }), Member::start());
        assert_eq!(a.ask(&b, b"1001").await, Err(StreamFailure::TooLong));
        assert_eq!(a.ask(&b, b"1000").await.unwrap().len(), 1000);
        assert_eq!(a.streams.stats().handshakes, 1);
    }

    #[tokio::test]
    async fn a_question_above_either_limit_is_refused() {
        let tight = StreamLimits { request_bytes_max: 4, ..Default::default() };
        let (a, b) = (Member::start(), Member::with(tight));
        assert_eq!(a.ask(&b, b"12345").await, Err(StreamFailure::Refused));
        assert_eq!(b.streams.stats().requests_refused, 1);
        assert_eq!(b.ask(&a, b"12345").await, Err(StreamFailure::Refused));
        assert_eq!(b.streams.stats().handshakes, 0);
    }

    #[tokio::test]
    async fn no_answer_is_a_refusal() {
        let (a, b) = (Member::start(), Member::start());
        assert_eq!(a.ask(&b, b"no").await, Err(StreamFailure::Refused));
        assert_eq!(b.streams.stats().requests_refused, 1);
        assert_eq!(a.ask(&b, b"yes").await.unwrap(), "yes");
    }

    #[tokio::test]
    async fn a_full_queue_of_questions_refuses_more() {
        let (a, b) = (Member::start(), Member::with(StreamLimits { requests_open_max: 1, ..Default::default() }));
        let held = tokio::spawn(a.streams.ask(b.addr(), "hold".into()));
        until(|| b.streams.stats().requests == 1).await;
        assert_eq!(a.ask(&b, b"one too many").await, Err(StreamFailure::Refused));
        held.abort();
    }

    #[tokio::test]
    async fn a_question_that_takes_too_long_here_is_given_up_and_makes_room() {
        let limits =
            StreamLimits { request_timeout: Duration::from_millis(100), requests_open_max: 1, ..Default::default() };
        let (a, b) = (Member::start(), Member::with(limits));
        assert_eq!(a.ask(&b, b"hold").await, Err(StreamFailure::Refused));
        assert_eq!(b.streams.stats().requests_refused, 1);
        assert_eq!(a.ask(&b, b"next").await.unwrap(), "next");
    }

    #[tokio::test]
    async fn more_streams_than_a_connection_may_have_wait_for_their_turn() {
        let limits = StreamLimits { streams_per_connection_max: 4, ..Default::default() };
        let patient = StreamLimits { ask_timeout: Duration::from_millis(500), ..Default::default() };
        let (a, b) = (Member::with(patient), Member::with(limits));
        let held: Vec<_> = (0..6).map(|_| tokio::spawn(a.streams.ask(b.addr(), "hold".into()))).collect();
        until(|| b.streams.stats().requests == 4).await;
        for one in held {
            assert_eq!(one.await.unwrap(), Err(StreamFailure::Timeout));
        }
        assert_eq!(a.streams.stats().handshakes, 1);
        assert_eq!(a.ask(&b, b"later").await.unwrap(), "later");
    }

    #[tokio::test]
    async fn more_questions_of_ours_than_may_be_open_are_refused_here() {
        let (a, b) = (Member::with(StreamLimits { asks_open_max: 2, ..Default::default() }), Member::start());
        let held: Vec<_> = (0..2).map(|_| tokio::spawn(a.streams.ask(b.addr(), "hold".into()))).collect();
        until(|| b.streams.stats().requests == 2).await;
        assert_eq!(a.ask(&b, b"one too many").await, Err(StreamFailure::Refused));
        assert_eq!(b.streams.stats().requests, 2, "nothing was sent");
        held.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn a_slow_answer_on_a_reused_connection_is_waited_for() {
        // The peer thinks for longer than `silence_max`: it acknowledged the question, so it is not taken for dead.
        let limits = StreamLimits {
            silence_max: Duration::from_millis(50),
            ask_timeout: Duration::from_millis(400),
            ..Default::default()
        };
        let (a, b) = (Member::with(limits), Member::start());
        a.ask(&b, b"warm up").await.unwrap();
        assert_eq!(a.ask(&b, b"hold").await, Err(StreamFailure::Timeout));
        assert_eq!(a.streams.stats().asks_repeated, 0);
        assert_eq!(a.ask(&b, b"still there").await.unwrap(), "still there");
        assert_eq!(a.streams.stats().handshakes, 1);
    }

    #[tokio::test]
    async fn nobody_there_is_a_failed_connection() {
        let limits = StreamLimits { handshake_timeout: Duration::from_millis(200), ..Default::default() };
        let (a, b) = (Member::with(limits), Member::start());
        let gone = b.die().await;
        assert_eq!(a.ask_at(gone, b"anybody").await, Err(StreamFailure::Connection));
        assert_eq!((a.streams.stats().handshakes_failed, a.streams.stats().outbound_connections), (1, 0));
    }

    #[tokio::test]
    async fn a_restarted_peer_tells_at_once_that_the_old_connection_is_dead() {
        // Silence could not explain the second answer: it would take longer than the test waits.
        let (a, b) = (Member::with(StreamLimits { silence_max: BOUND, ..Default::default() }), Member::start());
        a.ask(&b, b"before").await.unwrap();
        let addr = b.die().await;
        let _b = Member::of(addr, &tls(TAG), StreamLimits::default());
        assert_eq!(a.ask_at(addr, b"after").await.unwrap(), "after");
        assert_eq!((a.streams.stats().asks_repeated, a.streams.stats().handshakes), (1, 2));
    }

    #[tokio::test]
    async fn a_restarted_peer_that_cannot_reset_is_reached_after_the_silence() {
        let limits = StreamLimits { silence_max: Duration::from_millis(100), ..Default::default() };
        let (a, b) = (Member::with(limits), Member::start());
        a.ask(&b, b"before").await.unwrap();
        let addr = b.die().await;
        let socket = Socket::bind(addr).unwrap();
        let _b = Member::on(socket, &tls(TAG), StreamLimits::default(), random_reset_key());
        let started = tokio::time::Instant::now();
        let asks: Vec<_> = (0..5).map(|_| tokio::spawn(a.streams.ask(addr, "after".into()))).collect();
        for ask in asks {
            assert_eq!(timeout(BOUND, ask).await.unwrap().unwrap().unwrap(), "after");
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!((a.streams.stats().asks_repeated, a.streams.stats().handshakes), (5, 2));
    }

    #[tokio::test]
    async fn an_idle_connection_is_forgotten_without_a_packet() {
        // Keep-alives or farewells would show: the packets of a handshake, a question and an answer are fewer than ten.
        let limits = StreamLimits { idle_timeout: Duration::from_millis(500), ..Default::default() };
        let (a, b) = (Member::with(limits.clone()), Member::with(limits));
        a.ask(&b, b"once").await.unwrap();
        until(|| a.streams.stats().outbound_connections == 0 && b.streams.stats().inbound_connections == 0).await;
        let sent = [&a, &b].map(|member| member.socket.stats().quic_sent.datagrams);
        assert!(sent.iter().all(|datagrams| *datagrams < 10), "{sent:?}");
        assert_eq!(a.ask(&b, b"again").await.unwrap(), "again");
    }

    #[tokio::test]
    async fn the_least_recently_used_connection_makes_room() {
        let limits = StreamLimits { outbound_connections_max: 2, ..Default::default() };
        let (a, peers) = (Member::with(limits), [Member::start(), Member::start(), Member::start()]);
        for peer in [0, 1, 0, 2, 0] {
            a.ask(&peers[peer], b"hello").await.unwrap();
        }
        assert_eq!((a.streams.stats().handshakes, a.streams.stats().evicted), (3, 1));
        assert_eq!(a.streams.stats().outbound_connections, 2);
        until(|| peers[1].streams.stats().inbound_connections == 0).await;
    }

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_an_idle_connection_but_not_of_a_busy_one() {
        let limits =
            StreamLimits { inbound_connections_max: 1, inbound_idle_min: Duration::ZERO, ..Default::default() };
        let (full, a, b) = (Member::with(limits), Member::start(), Member::start());
        a.ask(&full, b"first").await.unwrap();
        until(|| !full.streams.shared.table().inbound.values().any(|guest| guest.busy > 0)).await;
        b.ask(&full, b"second").await.unwrap();
        assert_eq!(full.streams.stats().evicted, 1);
        let held = tokio::spawn(b.streams.ask(full.addr(), "hold".into()));
        until(|| full.streams.stats().requests == 3).await;
        assert_eq!(a.ask(&full, b"third").await, Err(StreamFailure::Refused));
        held.abort();
    }

    #[tokio::test]
    async fn streams_work_over_ipv6_and_name_the_asker_as_gossip_does() {
        let v6 = || Member::of((Ipv6Addr::LOCALHOST, 0).into(), &tls(TAG), StreamLimits::default());
        let (a, b) = (v6(), v6());
        assert_eq!(a.ask(&b, b"six").await.unwrap(), "six");
    }

    #[tokio::test]
    async fn a_dual_stack_member_is_asked_and_seen_in_ipv4() {
        let socket = Socket::bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let (inbound, mut questions) = mpsc::channel(1);
        let wide = Streams::start(Arc::clone(&socket), &tls(TAG), StreamLimits::default(), inbound).unwrap();
        let reader = tokio::spawn(read(Arc::clone(&socket), mpsc::unbounded_channel().0));
        let v4 = Member::start();
        let wide_v4 = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), socket.local_addr().port());
        let ask = tokio::spawn(v4.streams.ask(wide_v4, "four".into()));
        let question = timeout(BOUND, questions.recv()).await.unwrap().unwrap();
        assert_eq!(question.from, v4.addr());
        question.answer.send(Some("seen".into())).unwrap();
        assert_eq!(timeout(BOUND, ask).await.unwrap().unwrap().unwrap(), "seen");
        assert_eq!(timeout(BOUND, wide.ask(v4.addr(), "back".into())).await.unwrap().unwrap(), "back");
        reader.abort();
    }

    #[tokio::test]
    async fn closing_fails_open_questions_and_frees_the_port() {
        let (a, b) = (Member::start(), Member::start());
        let held = tokio::spawn(a.streams.ask(b.addr(), "hold".into()));
        until(|| b.streams.stats().requests == 1).await;
        a.streams.close();
        assert_eq!(timeout(BOUND, held).await.unwrap().unwrap(), Err(StreamFailure::Connection));
        assert_eq!(a.ask(&b, b"more").await, Err(StreamFailure::Connection));
        let addr = a.die().await;
        Socket::bind(addr).unwrap();
    }
}
