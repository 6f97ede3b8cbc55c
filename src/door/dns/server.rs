//! The sockets of DNS: datagrams and connections in, answers out, within limits. Knows nothing of what is asked.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::DNS_LOG;
use super::answer::{Handler, Source};
use super::figures::{DnsCounts, DnsStats, Figures};
use super::heard::News;
use super::limit::network;
use super::plan::DnsPlan;
use super::wire::QUESTION_BYTES_MAX;
use super::zone::Zone;
use crate::registry::{Events, Registry, WeakRegistry};

/// Connections at once; further ones are closed at once.
pub const TCP_CONNECTIONS_MAX: usize = 1_024;

/// Connections at once from one network off loopback (a /24, or a /56 of IPv6).
pub const TCP_CONNECTIONS_PER_PREFIX_MAX: usize = 128;

/// How long a connection is kept on which no whole question comes.
pub const TCP_IDLE_MAX: Duration = Duration::from_secs(10);

/// How long a client may take to read answers.
pub const TCP_WRITE_MAX: Duration = Duration::from_secs(10);

/// How long it may take to close.
pub const DNS_CLOSE_MAX: Duration = Duration::from_secs(2);

/// Connections that wait to be taken.
const BACKLOG: i32 = 1_024;

/// Loops that receive and answer, each on a thread and a socket of its own, at the most.
const LOOPS_MAX: usize = 4;

/// The receive buffer asked of the kernel for each, in bytes; it may grant less.
const KERNEL_RECEIVE_BYTES: usize = 1 << 20;

/// Buffers filled by one system call. Each may hold a run of datagrams that the kernel merged.
const RECEIVE_BUFFERS: usize = 8;

/// The longest run of datagrams that the kernel merges. Pages that no run has touched take no memory.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// After so many receives without a pause, other tasks of the loop have their turn.
const RECEIVES_IN_A_ROW: usize = 16;

/// Bytes of answers on one connection that are sent together.
const SENT_TOGETHER: usize = 64 << 10;

/// How often a port is sought that is free for both UDP and TCP.
const PORT_TRIES: usize = 16;

/// How long nothing is taken after the process ran out of descriptors.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked how far other members are, where nearer ones come first.
const MEASURE_EVERY: Duration = Duration::from_secs(30);

/// And how often until there is something to go by: a start measures every link with its first handshake.
const MEASURE_SOON: Duration = Duration::from_secs(1);

/// New names within this time after the first are remembered together.
const HEAR_AFTER: Duration = Duration::from_millis(20);

/// Why DNS could not be opened. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The address could not be bound.
    #[error("cannot serve DNS on {addr}: {error}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// No threads could be made.
    #[error("cannot start the threads of DNS: {0}")]
    Threads(io::Error),
}

/// DNS, open. Dropped, it closes at once.
#[derive(Debug)]
pub struct Dns {
    addr: SocketAddr,
    counts: DnsCounts,
    closing: watch::Sender<bool>,
    /// Closed once all loops have ended.
    closed: watch::Receiver<()>,
}

impl Dns {
    /// Opens it, on threads of its own: whatever is asked, the program's other tasks are not held up.
    ///
    /// # Errors
    /// See [`DnsError`].
    pub fn open(registry: &Registry, plan: DnsPlan) -> Result<Self, DnsError> {
        let failed = |error| DnsError::Bind { addr: plan.bind, error };
        let loops = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(LOOPS_MAX);
        let Ports { tcp, udp, addr } = Ports::open(plan.bind, loops).map_err(failed)?;
        let counts = DnsCounts::default();
        let closing = watch::Sender::new(false);
        let (closed_by_all, closed) = watch::channel(());
        // Listens before it looks: what changes afterwards is heard.
        let events = registry.events();
        let zone = Zone::new(plan, registry.reader(), registry.id(), unix_seconds(), counts.clone());
        let zone = Arc::new(zone);
        let measured = zone.plan.near.then(|| registry.downgrade());
        let mut extra = Some((tcp, events, measured));
        for socket in udp {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(DnsError::Threads)?;
            let open = Loop {
                handler: Handler::of(Arc::clone(&zone)),
                zone: Arc::clone(&zone),
                closing: closing.subscribe(),
                began: Instant::now(),
                is_anywhere: addr.ip().is_unspecified(),
            };
            let (extra, closed_by_all) = (extra.take(), closed_by_all.clone());
            let run = move || {
                runtime.block_on(open.run(socket, extra));
                drop(closed_by_all);
            };
            std::thread::Builder::new().name("tidings dns".to_owned()).spawn(run).map_err(DnsError::Threads)?;
        }
        Ok(Self { addr, counts, closing, closed })
    }

    /// The address that it listens on, over UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What was counted so far.
    pub fn stats(&self) -> DnsStats {
        self.counts.read()
    }

    /// Reads what is counted, also after this is closed.
    pub fn counts(&self) -> DnsCounts {
        self.counts.clone()
    }

    /// Closes it, with its connections; waits until its threads have ended, at most [`DNS_CLOSE_MAX`].
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        let _ = timeout(DNS_CLOSE_MAX, async { while self.closed.changed().await.is_ok() {} }).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a serial number grows over a restart only with the time of day")]
fn unix_seconds() -> u32 {
    // Wraps round, as serial numbers do.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

/// The sockets: one for connections, several for datagrams, among which the kernel spreads them.
struct Ports {
    tcp: std::net::TcpListener,
    udp: Vec<std::net::UdpSocket>,
    addr: SocketAddr,
}

impl Ports {
    fn open(bind: SocketAddr, loops: usize) -> io::Result<Self> {
        let mut tries = if bind.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::open_once(bind, loops) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                opened => return opened,
            }
        }
    }

    fn open_once(bind: SocketAddr, loops: usize) -> io::Result<Self> {
        // First, and alone: sockets for datagrams that share a port would also share it with another process that does
        // the same, and each would get a part of the questions.
        let tcp = socket(bind, Type::STREAM, Protocol::TCP)?;
        #[cfg(unix)]
        tcp.set_reuse_address(true)?;
        tcp.bind(&bind.into())?;
        tcp.listen(BACKLOG)?;
        let tcp: std::net::TcpListener = tcp.into();
        let addr = tcp.local_addr()?;
        let loops = if cfg!(unix) { loops } else { 1 };
        let udp = (0..loops).map(|_| {
            let udp = socket(addr, Type::DGRAM, Protocol::UDP)?;
            #[cfg(unix)]
            udp.set_reuse_port(loops > 1)?;
            // More than the system's limit is cut down to it, and a small buffer only loses more under bursts.
            let _ = udp.set_recv_buffer_size(KERNEL_RECEIVE_BYTES);
            udp.bind(&addr.into())?;
            Ok(udp.into())
        });
        Ok(Self { udp: udp.collect::<io::Result<_>>()?, tcp, addr })
    }
}

fn socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        // A system without dual stack still gives a usable IPv6 port.
        let _ = socket.set_only_v6(!addr.ip().is_unspecified());
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What the first loop has beside the others.
type Extra = (std::net::TcpListener, Events, Option<WeakRegistry>);

/// One of the loops. The first also takes connections and hears of new names.
struct Loop {
    handler: Handler,
    zone: Arc<Zone>,
    closing: watch::Receiver<bool>,
    began: Instant,
    /// Whether it listens on all addresses: then an answer must say from which of them it comes.
    is_anywhere: bool,
}

/// Waits until the door closes.
async fn closes(closing: &mut watch::Receiver<bool>) {
    // Without its sender it is gone, which is as good.
    let _ = closing.wait_for(|is_closing| *is_closing).await;
}

impl Loop {
    async fn run(mut self, socket: std::net::UdpSocket, extra: Option<Extra>) {
        if let Some((listener, events, measured)) = extra {
            tokio::spawn(hear(Arc::clone(&self.zone), events, self.closing.clone()));
            if let Some(registry) = measured {
                tokio::spawn(measure(Arc::clone(&self.zone), registry, self.closing.clone()));
            }
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    let (zone, closing) = (Arc::clone(&self.zone), self.closing.clone());
                    let connections = Connections { zone, closing, began: self.began, by_network: Arc::default() };
                    tokio::spawn(connections.accept(listener));
                }
                Err(error) => tracing::error!(target: DNS_LOG, %error, "no connections are taken"),
            }
        }
        let mut closing = self.closing.clone();
        tokio::select! {
            biased;
            () = closes(&mut closing) => {}
            ended = self.serve(socket) => if let Err(error) = ended {
                tracing::error!(target: DNS_LOG, %error, "datagrams are no longer answered");
            },
        }
    }

    /// Answers datagrams until the socket breaks.
    async fn serve(&mut self, socket: std::net::UdpSocket) -> io::Result<()> {
        let io = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new((&io).into())?;
        let mut inbox = vec![0; RECEIVE_BUFFERS * RECEIVE_BUFFER_BYTES];
        let mut metas = [RecvMeta::default(); RECEIVE_BUFFERS];
        let mut answer = Vec::with_capacity(QUESTION_BYTES_MAX);
        let mut in_a_row = 0;
        loop {
            let mut buffers = inbox.chunks_exact_mut(RECEIVE_BUFFER_BYTES);
            let mut slices: [IoSliceMut<'_>; RECEIVE_BUFFERS] = std::array::from_fn(|_| {
                IoSliceMut::new(buffers.next().expect("the inbox has RECEIVE_BUFFERS buffers"))
            });
            let received = io.async_io(Interest::READABLE, || state.recv((&io).into(), &mut slices, &mut metas)).await;
            let filled = match received {
                Ok(filled) => filled,
                Err(error) => {
                    // What an earlier answer came to may be told here; the socket is none the worse.
                    self.zone.counts.0.receives_failed.count();
                    tracing::debug!(target: DNS_LOG, %error, "a receive failed");
                    sleep(FULL_PAUSE).await;
                    continue;
                }
            };
            let now = nanos(self.began);
            for (meta, buffer) in metas.iter().zip(inbox.chunks_exact(RECEIVE_BUFFER_BYTES)).take(filled) {
                let from = Source { ip: meta.addr.ip(), is_tcp: false, now };
                for question in buffer[..meta.len.min(buffer.len())].chunks(meta.stride.max(1)) {
                    if self.handler.answer(from, question, &mut answer) {
                        self.send(&io, &state, meta, &answer).await;
                    }
                }
            }
            in_a_row += 1;
            if in_a_row >= RECEIVES_IN_A_ROW {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    async fn send(&self, io: &UdpSocket, state: &UdpSocketState, to: &RecvMeta, answer: &[u8]) {
        let transmit = Transmit {
            destination: to.addr,
            ecn: None,
            contents: answer,
            segment_size: None,
            // To where it was asked: a client takes no answer from elsewhere.
            src_ip: to.dst_ip.filter(|_| self.is_anywhere),
        };
        let sent = io.async_io(Interest::WRITABLE, || state.try_send(io.into(), &transmit)).await;
        if sent.is_err() {
            self.zone.counts.0.sends_failed.count();
        }
    }
}

fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Remembers new names as long as the door is open.
async fn hear(zone: Arc<Zone>, mut events: Events, mut closing: watch::Receiver<bool>) {
    loop {
        let mut news = News::default();
        let event = tokio::select! {
            biased;
            () = closes(&mut closing) => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => news.note(&event),
            Some(Err(_)) => news.everything = true,
            None => return,
        }
        sleep(HEAR_AFTER).await;
        while let Some(event) = events.heard_already() {
            match event {
                Ok(event) => news.note(&event),
                Err(_) => news.everything = true,
            }
        }
        zone.hear(&news);
    }
}

/// Looks how far other members are, as long as the door is open and somebody holds the registry.
async fn measure(zone: Arc<Zone>, registry: WeakRegistry, mut closing: watch::Receiver<bool>) {
    let mut every = MEASURE_SOON;
    loop {
        tokio::select! {
            biased;
            () = closes(&mut closing) => return,
            () = sleep(every) => {}
        }
        let Some(registry) = registry.upgrade() else { return };
        let Ok(rtts) = registry.rtts().await else { return };
        let measured: BTreeMap<_, _> = rtts.into_iter().map(|(id, rtt)| (id, rtt.smoothed)).collect();
        if !measured.is_empty() {
            every = MEASURE_EVERY;
        }
        zone.measure(&measured);
    }
}

/// How many connections are open, of each network.
type ByNetwork = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// What every connection needs.
#[derive(Clone)]
struct Connections {
    zone: Arc<Zone>,
    closing: watch::Receiver<bool>,
    began: Instant,
    by_network: ByNetwork,
}

/// Counts an open connection while it lives.
struct Counted {
    zone: Arc<Zone>,
    by_network: ByNetwork,
    network: IpAddr,
}

impl Counted {
    /// `None` if there are too many.
    fn new(zone: &Arc<Zone>, by_network: &ByNetwork, from: IpAddr) -> Option<Self> {
        let figures = &zone.counts.0;
        let from = from.to_canonical();
        let network = network(from);
        {
            // Nothing in here is changed halfway.
            let mut open = by_network.lock().unwrap_or_else(PoisonError::into_inner);
            if open.values().sum::<usize>() >= TCP_CONNECTIONS_MAX {
                figures.connections_full.count();
                return None;
            }
            let of_network = open.entry(network).or_default();
            if *of_network >= TCP_CONNECTIONS_PER_PREFIX_MAX && !from.is_loopback() {
                figures.connections_crowded.count();
                return None;
            }
            *of_network += 1;
        }
        figures.connections_open.count();
        Some(Self { zone: Arc::clone(zone), by_network: Arc::clone(by_network), network })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.zone.counts.0.connections_open.uncount();
        let mut open = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_network) = open.get_mut(&self.network) {
            *of_network -= 1;
            if *of_network == 0 {
                open.remove(&self.network);
            }
        }
    }
}

/// Why a connection ended that could have gone on.
enum Ended {
    /// By its client, between two questions.
    Done,
    /// Too slow.
    Idle,
    /// In the midst of something, or with what is no question.
    Broken,
}

impl Connections {
    async fn accept(mut self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = closes(&mut self.closing) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.take(stream, from.ip()),
                Err(error) => {
                    self.figures().accepts_failed.count();
                    tracing::debug!(target: DNS_LOG, %error, "a connection could not be taken");
                    // Out of descriptors, most likely: to try again at once would only burn time.
                    sleep(FULL_PAUSE).await;
                }
            }
        }
    }

    fn figures(&self) -> &Figures {
        &self.zone.counts.0
    }

    fn take(&self, stream: TcpStream, from: IpAddr) {
        self.figures().connections.count();
        let Some(counted) = Counted::new(&self.zone, &self.by_network, from) else { return };
        // An answer is small, and its client waits for it.
        let _ = stream.set_nodelay(true);
        let own = self.clone();
        tokio::spawn(async move {
            let mut closing = own.closing.clone();
            let ended = tokio::select! {
                biased;
                () = closes(&mut closing) => Ended::Done,
                ended = own.talk(stream, from) => ended,
            };
            match ended {
                Ended::Done => {}
                Ended::Idle => own.figures().connections_idle.count(),
                Ended::Broken => own.figures().connections_broken.count(),
            }
            drop(counted);
        });
    }

    /// Answers one question after the other, in the order in which they came (RFC 7766 allows any). Who does not read
    /// the answers gets no further questions in: nothing queues up here.
    async fn talk(&self, mut stream: TcpStream, from: IpAddr) -> Ended {
        let mut handler = Handler::of(Arc::clone(&self.zone));
        let mut inbox = vec![0; 2 + QUESTION_BYTES_MAX];
        let (mut filled, mut answer, mut out) = (0, Vec::new(), Vec::new());
        loop {
            match timeout(TCP_IDLE_MAX, fill(&mut stream, &mut inbox, &mut filled)).await {
                Ok(Ok(())) => {}
                Ok(Err(ended)) => return ended,
                Err(_) => return Ended::Idle,
            }
            let mut at = 0;
            while let Some(len) = whole(&inbox[at..filled]) {
                let source = Source { ip: from, is_tcp: true, now: nanos(self.began) };
                let question = &inbox[at + 2..at + 2 + len];
                if !handler.answer(source, question, &mut answer) {
                    return Ended::Broken;
                }
                // An answer has 65,535 bytes at the most.
                out.extend(u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes());
                out.extend_from_slice(&answer);
                at += 2 + len;
                if out.len() >= SENT_TOGETHER && !put(&mut stream, &mut out).await {
                    return Ended::Idle;
                }
            }
            inbox.copy_within(at..filled, 0);
            filled -= at;
            if !put(&mut stream, &mut out).await {
                return Ended::Idle;
            }
        }
    }
}

/// The length of the question that the bytes begin with, if it is there as a whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_be_bytes(*len));
    (rest.len() >= len).then_some(len)
}

/// Reads until there is a whole question.
async fn fill(stream: &mut TcpStream, inbox: &mut [u8], filled: &mut usize) -> Result<(), Ended> {
    loop {
        if let Some(len) = inbox[..*filled].first_chunk::<2>()
            && usize::from(u16::from_be_bytes(*len)) > QUESTION_BYTES_MAX
        {
            return Err(Ended::Broken);
        }
        if whole(&inbox[..*filled]).is_some() {
            return Ok(());
        }
        match stream.read(&mut inbox[*filled..]).await {
            Ok(0) if *filled == 0 => return Err(Ended::Done),
            Ok(0) | Err(_) => return Err(Ended::Broken),
            Ok(read) => *filled += read,
        }
    }
}

/// Sends what there is; gives whether it was taken in time.
async fn put(stream: &mut TcpStream, out: &mut Vec<u8>) -> bool {
    let is_sent = out.is_empty() || matches!(timeout(TCP_WRITE_MAX, stream.write_all(out)).await, Ok(Ok(())));
    out.clear();
    is_sent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Arc<Zone> {
        let plan = DnsPlan::new("127.0.0.1:0".parse().expect("an address"));
        let reader = crate::view::View::new().reader();
        Arc::new(Zone::new(plan, reader, crate::peer::NodeId(1), 1, DnsCounts::default()))
    }

    #[test]
    fn connections_over_a_limit_are_refused_and_counted_and_whoever_goes_makes_room() {
        let (zone, by_network) = (zone(), ByNetwork::default());
        let open = |ip: &str| Counted::new(&zone, &by_network, ip.parse().expect("an address"));
        let mut crowd: Vec<_> = (0..TCP_CONNECTIONS_PER_PREFIX_MAX).map(|n| open(&format!("192.0.2.{n}"))).collect();
        assert!(crowd.iter().all(Option::is_some));
        assert!(open("192.0.2.200").is_none());
        let mut local: Vec<_> = std::iter::from_fn(|| open("127.0.0.1")).collect();
        assert_eq!(local.len() + crowd.len(), TCP_CONNECTIONS_MAX, "this machine may have all that are left");
        assert!(open("198.51.100.1").is_none());
        let stats = zone.counts.read();
        assert_eq!((stats.connections_open, stats.connections_crowded), (TCP_CONNECTIONS_MAX as u64, 1));
        assert_eq!(stats.connections_full, 2);
        local.pop();
        crowd.pop();
        assert!(open("192.0.2.200").is_some());
        drop((crowd, local));
        assert!(by_network.lock().expect("whole").is_empty(), "nothing is kept of networks without a connection");
        assert_eq!(zone.counts.read().connections_open, 0);
    }

    #[test]
    fn an_address_is_taken_once_for_datagrams_and_connections_together() {
        let local = "127.0.0.1:0".parse().expect("an address");
        let first = Ports::open(local, 2).expect("a free port");
        assert_eq!(first.udp.len(), if cfg!(unix) { 2 } else { 1 });
        assert!(first.udp.iter().all(|udp| udp.local_addr().expect("it is bound") == first.addr));
        let second = Ports::open(first.addr, 2).map(|ports| ports.addr);
        assert_eq!(second.expect_err("it is taken").kind(), io::ErrorKind::AddrInUse);
    }
}
