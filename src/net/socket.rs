//! The process's one UDP port: gossip for the driver, packets for QUIC, told apart by their first byte. What stands
//! in either is not known here.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams whose first byte is at or above this are QUIC: every packet of ours has QUIC's fixed bit set
/// (RFC 9000 section 17; its greasing, RFC 9287, is off on all sides). Below it, gossip.
pub const QUIC_FIRST_BYTE: u8 = 0x40;

/// The largest QUIC datagram that is sent or accepted, in bytes: the size that no path needs to fragment.
pub const QUIC_DATAGRAM_BYTES_MAX: u16 = 1200;

/// How many QUIC datagrams wait for the endpoint at most; more are dropped and counted, and QUIC sends them again.
///
/// It must hold what one connection may have in flight (512 KiB, 437 datagrams), since the driver drains the socket
/// before the endpoint runs. 600 KiB at worst.
pub const QUIC_QUEUE_DATAGRAMS_MAX: usize = 512;

/// The receive buffer asked of the kernel, in bytes; it may grant less. Outside of our resident memory.
const KERNEL_RECEIVE_BYTES: usize = 4 << 20;

/// Buffers filled by one system call. Each may hold a run of datagrams that the kernel merged.
const RECEIVE_BUFFERS: usize = 8;

/// The longest run of datagrams that the kernel merges. Pages that no run has touched take no memory.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// Errors of earlier sends that a receive may report in a row before the receive itself is given up.
const ECHOED_ERRORS_MAX: usize = 16;

/// Why the port could not be opened; nothing is left open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process (or another member in this one) listens there.
    #[error("{addr} is already in use")]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error("no interface of this host has the address {}", addr.ip())]
    NotAvailable {
        /// The address.
        addr: SocketAddr,
    },
    /// The operating system does not let us have this port.
    #[error("no permission to listen on {addr}")]
    NoPermission {
        /// The address.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {addr}: {cause}")]
    Other {
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        cause: io::Error,
    },
}

impl BindError {
    fn new(addr: SocketAddr, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { addr },
            io::ErrorKind::AddrNotAvailable => Self::NotAvailable { addr },
            io::ErrorKind::PermissionDenied => Self::NoPermission { addr },
            _ => Self::Other { addr, cause },
        }
    }
}

/// Datagrams and the bytes in them (UDP payload, without headers).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// How many datagrams.
    pub datagrams: u64,
    /// How many bytes of payload.
    pub bytes: u64,
}

/// Datagrams that did not get through, by cause.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Drops {
    /// Gossip not sent because the kernel's send buffer was full.
    pub gossip_send_full: u64,
    /// Gossip that the network refused for now: no route, a firewall, nobody listening.
    pub gossip_send_refused: u64,
    /// Gossip that can never be sent: too large, or an address of a family that this socket does not have.
    pub gossip_send_invalid: u64,
    /// QUIC datagrams that could not be sent.
    pub quic_send: u64,
    /// QUIC datagrams received while [`QUIC_QUEUE_DATAGRAMS_MAX`] waited.
    pub quic_queue_full: u64,
    /// QUIC datagrams received above [`QUIC_DATAGRAM_BYTES_MAX`].
    pub quic_too_large: u64,
    /// QUIC datagrams received while nobody served streams.
    pub quic_unserved: u64,
    /// Datagrams received without a byte.
    pub empty: u64,
    /// Errors of earlier sends that a receive reported.
    pub echoed_errors: u64,
}

/// What went through the port since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SocketStats {
    /// Gossip handed to the kernel.
    pub gossip_sent: Traffic,
    /// Gossip handed to the driver.
    pub gossip_received: Traffic,
    /// QUIC handed to the kernel.
    pub quic_sent: Traffic,
    /// QUIC handed to the endpoint.
    pub quic_received: Traffic,
    /// What was lost on the way.
    pub drops: Drops,
}

/// The one UDP port of a process.
///
/// The driver is its only reader: it waits for [`readable`](Self::readable) and calls [`receive`](Self::receive) until
/// that returns 0. QUIC gets its packets from there, through a bounded queue.
#[derive(Debug)]
pub struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    inbox: Mutex<Inbox>,
    quic: Mutex<QuicQueue>,
    counters: Counters,
}

impl Socket {
    /// Opens the port at `addr` (port 0: any free one). An IPv6 wildcard takes IPv4 too, where the system can.
    ///
    /// # Errors
    /// [`BindError`] names the address and the cause.
    ///
    /// # Panics
    /// Outside of a tokio runtime that drives I/O.
    pub fn bind(addr: SocketAddr) -> Result<Arc<Self>, BindError> {
        Self::open(canonical(addr)).map_err(|cause| BindError::new(addr, cause))
    }

    /// Where the port is: the address given to [`bind`](Self::bind), with the port that was found for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits until there may be something to receive.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Takes in what one system call brings: hands each gossip datagram to `each` (which may change it in place) and
    /// each QUIC datagram to the endpoint. Gives how many came in; 0 when none was waiting.
    ///
    /// `each` must not call this again.
    ///
    /// # Errors
    /// The socket is broken for good. Errors that merely echo an earlier send are counted instead.
    pub fn receive(&self, each: &mut dyn FnMut(SocketAddr, &mut [u8])) -> io::Result<usize> {
        let mut inbox = lock(&self.inbox);
        let mut metas = [RecvMeta::default(); RECEIVE_BUFFERS];
        let filled = self.fill(&mut inbox, &mut metas)?;
        let mut received = 0;
        let mut for_quic = 0;
        for (meta, buffer) in metas.iter().zip(inbox.buffers()).take(filled) {
            if meta.len == 0 {
                self.counters.empty.add(1);
                received += 1;
            }
            for (kind, datagram) in split(&mut buffer[..meta.len], meta.stride) {
                received += 1;
                match kind {
                    Kind::Gossip => {
                        self.counters.gossip_received.add(1, datagram.len());
                        each(canonical(meta.addr), datagram);
                    }
                    Kind::Quic => {
                        for_quic += 1;
                        self.queue(meta, datagram);
                    }
                }
            }
        }
        if for_quic > 0 {
            self.wake_endpoint();
        }
        Ok(received)
    }

    /// Sends one gossip datagram, or drops it: gossip is repeated anyway, so nobody waits for room. A full send buffer
    /// and a network that refuses are counted, not told.
    ///
    /// # Errors
    /// The datagram can never be sent: it is too large, or the socket has no addresses of that family.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        // Not tokio's `try_send_to`: it knows nothing of a new socket's readiness until the reactor has run once, and
        // would drop the first datagrams of every start.
        match SockRef::from(&self.io).send_to(bytes, &self.reachable(to).into()) {
            Ok(_) => {
                self.counters.gossip_sent.add(1, bytes.len());
                Ok(())
            }
            Err(error) => match fate(&error) {
                Fate::Full => {
                    self.counters.gossip_send_full.add(1);
                    Ok(())
                }
                Fate::Refused => {
                    self.counters.gossip_send_refused.add(1);
                    Ok(())
                }
                Fate::Invalid => {
                    self.counters.gossip_send_invalid.add(1);
                    Err(error)
                }
            },
        }
    }

    /// What went through the port so far.
    pub fn stats(&self) -> SocketStats {
        self.counters.snapshot()
    }

    /// The side that a QUIC endpoint reads and writes. At most one at a time: a second would take packets from the
    /// first, and the end of either ends the service of both.
    pub(super) fn quic_side(self: &Arc<Self>) -> QuicSide {
        lock(&self.quic).is_served = true;
        QuicSide { socket: Arc::clone(self) }
    }

    fn open(addr: SocketAddr) -> io::Result<Arc<Self>> {
        let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            // A system without dual stack still gives a usable IPv6 port.
            let _ = socket.set_only_v6(!addr.ip().is_unspecified());
        }
        // More than the system's limit is cut down to it, and a small buffer only loses more under bursts.
        let _ = socket.set_recv_buffer_size(KERNEL_RECEIVE_BYTES);
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let io = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&io).into())?;
        Ok(Arc::new(Self {
            local: io.local_addr()?,
            io,
            state,
            inbox: Mutex::default(),
            quic: Mutex::default(),
            counters: Counters::default(),
        }))
    }

    /// Receives into the inbox; gives how many of its buffers are filled.
    fn fill(&self, inbox: &mut Inbox, metas: &mut [RecvMeta; RECEIVE_BUFFERS]) -> io::Result<usize> {
        let mut buffers = inbox.buffers();
        let mut slices: [IoSliceMut<'_>; RECEIVE_BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().expect("the inbox has RECEIVE_BUFFERS buffers")));
        let mut echoed = 0;
        loop {
            let received =
                self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), &mut slices, metas));
            match received {
                Ok(filled) => return Ok(filled),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if fate(&error) == Fate::Refused && echoed < ECHOED_ERRORS_MAX => {
                    self.counters.echoed_errors.add(1);
                    echoed += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn queue(&self, meta: &RecvMeta, datagram: &[u8]) {
        let mut queue = lock(&self.quic);
        if !queue.is_served {
            self.counters.quic_unserved.add(1);
        } else if datagram.len() > usize::from(QUIC_DATAGRAM_BYTES_MAX) {
            self.counters.quic_too_large.add(1);
        } else if queue.packets.len() >= QUIC_QUEUE_DATAGRAMS_MAX {
            self.counters.quic_queue_full.add(1);
        } else {
            self.counters.quic_received.add(1, datagram.len());
            let meta = RecvMeta { len: datagram.len(), stride: datagram.len(), ..*meta };
            queue.packets.push_back(Packet { meta, bytes: datagram.into() });
        }
    }

    fn wake_endpoint(&self) {
        let waker = lock(&self.quic).endpoint.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The address as this socket must be told it: a dual-stack one knows IPv4 only as mapped.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(ip) if self.local.is_ipv6() => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        }
    }
}

/// What a QUIC endpoint takes for its socket. Its end stops the queue.
#[derive(Debug)]
pub(super) struct QuicSide {
    socket: Arc<Socket>,
}

impl AsyncUdpSocket for QuicSide {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: Arc::clone(&self.socket), wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Socket { io, state, counters, .. } = &*self.socket;
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let datagrams = transmit.contents.len().div_ceil(size) as u64;
        match io.try_io(Interest::WRITABLE, || state.try_send(io.into(), transmit)) {
            Ok(()) => counters.quic_sent.add(datagrams, transmit.contents.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // An error told to quinn would end the connection; a lost packet is sent again.
            Err(_) => counters.quic_send.add(datagrams),
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut queue = lock(&self.socket.quic);
        if queue.packets.is_empty() {
            queue.endpoint = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = queue.packets.len().min(buffers.len()).min(metas.len());
        for ((packet, buffer), meta) in queue.packets.drain(..count).zip(buffers).zip(metas) {
            // The endpoint's buffers have QUIC_DATAGRAM_BYTES_MAX bytes, its packets at most as many.
            buffer[..packet.bytes.len()].copy_from_slice(&packet.bytes);
            *meta = packet.meta;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.socket.local)
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.state.max_gso_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.state.may_fragment()
    }
}

impl Drop for QuicSide {
    fn drop(&mut self) {
        *lock(&self.socket.quic) = QuicQueue::default();
    }
}

/// Waits, for one connection, until the socket takes packets again.
struct Writable {
    socket: Arc<Socket>,
    wait: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, wait } = &mut *self;
        let pending = wait.get_or_insert_with(|| {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(pending.as_mut().poll(cx));
        *wait = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

/// The memory that datagrams are received into, allocated once.
struct Inbox(Box<[u8]>);

impl Inbox {
    fn buffers(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.0.chunks_exact_mut(RECEIVE_BUFFER_BYTES)
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self(vec![0; RECEIVE_BUFFERS * RECEIVE_BUFFER_BYTES].into())
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

/// QUIC datagrams on their way from the driver to the endpoint.
#[derive(Default, Debug)]
struct QuicQueue {
    is_served: bool,
    packets: VecDeque<Packet>,
    /// The endpoint, when it waits for packets.
    endpoint: Option<Waker>,
}

#[derive(Debug)]
struct Packet {
    meta: RecvMeta,
    bytes: Box<[u8]>,
}

/// What a datagram is, by its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Gossip,
    Quic,
}

/// The datagrams in a buffer that the kernel filled: one, or a run of them with `stride` bytes each and perhaps a
/// shorter one at the end. The kernel merges by address and size alone, so both kinds may stand in one run.
fn split(filled: &mut [u8], stride: usize) -> impl Iterator<Item = (Kind, &mut [u8])> {
    let stride = if stride == 0 { filled.len().max(1) } else { stride };
    filled.chunks_mut(stride).map(|datagram| {
        let kind = if datagram[0] < QUIC_FIRST_BYTE { Kind::Gossip } else { Kind::Quic };
        (kind, datagram)
    })
}

/// One address, one spelling: IPv4 seen through an IPv6 socket is IPv4, and a flow label is no part of it.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(mut v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => {
                v6.set_flowinfo(0);
                v6.into()
            }
        },
        v4 @ SocketAddr::V4(_) => v4,
    }
}

/// What a failed send, or its echo, means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// No room now.
    Full,
    /// The network says no now; it may say yes later.
    Refused,
    /// It will never work.
    Invalid,
}

fn fate(error: &io::Error) -> Fate {
    use io::ErrorKind::{
        AddrNotAvailable, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable, OutOfMemory, PermissionDenied, TimedOut, WouldBlock,
    };
    match error.kind() {
        WouldBlock | Interrupted | OutOfMemory => Fate::Full,
        // Linux says "permission denied" when a firewall drops what we send.
        ConnectionRefused | ConnectionReset | ConnectionAborted | HostUnreachable | NetworkUnreachable
        | NetworkDown | AddrNotAvailable | PermissionDenied | TimedOut => Fate::Refused,
        // `ENOBUFS` has no kind of its own: 105 on Linux, 55 on the BSDs and macOS.
        _ if error.raw_os_error() == Some(if cfg!(target_os = "linux") { 105 } else { 55 }) => Fate::Full,
        _ => Fate::Invalid,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in the driver ends the driver; what the lock guards is whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default, Debug)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default, Debug)]
struct TrafficCounter {
    datagrams: Counter,
    bytes: Counter,
}

impl TrafficCounter {
    fn add(&self, datagrams: u64, bytes: usize) {
        self.datagrams.add(datagrams);
        self.bytes.add(bytes as u64);
    }

    fn read(&self) -> Traffic {
        Traffic { datagrams: self.datagrams.read(), bytes: self.bytes.read() }
    }
}

#[derive(Default, Debug)]
struct Counters {
    gossip_sent: TrafficCounter,
    gossip_received: TrafficCounter,
    quic_sent: TrafficCounter,
    quic_received: TrafficCounter,
    gossip_send_full: Counter,
    gossip_send_refused: Counter,
    gossip_send_invalid: Counter,
    quic_send: Counter,
    quic_queue_full: Counter,
    quic_too_large: Counter,
    quic_unserved: Counter,
    empty: Counter,
    echoed_errors: Counter,
}

impl Counters {
    fn snapshot(&self) -> SocketStats {
        SocketStats {
            gossip_sent: self.gossip_sent.read(),
            gossip_received: self.gossip_received.read(),
            quic_sent: self.quic_sent.read(),
            quic_received: self.quic_received.read(),
            drops: Drops {
                gossip_send_full: self.gossip_send_full.read(),
                gossip_send_refused: self.gossip_send_refused.read(),
                gossip_send_invalid: self.gossip_send_invalid.read(),
                quic_send: self.quic_send.read(),
                quic_queue_full: self.quic_queue_full.read(),
                quic_too_large: self.quic_too_large.read(),
                quic_unserved: self.quic_unserved.read(),
                empty: self.empty.read(),
                echoed_errors: self.echoed_errors.read(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    const BOUND: Duration = Duration::from_secs(5);

    fn loopback() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    /// Receives until `count` datagrams of any kind came in; gives the gossip among them.
    async fn take(socket: &Socket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut gossip = Vec::new();
        let receiving = async {
            let mut received = 0;
            while received < count {
                socket.readable().await.unwrap();
                received += socket.receive(&mut |from, bytes| gossip.push((from, bytes.to_vec()))).unwrap();
            }
            assert_eq!(received, count);
        };
        tokio::time::timeout(BOUND, receiving).await.unwrap();
        gossip
    }

    #[test]
    fn a_merged_run_splits_into_its_datagrams_of_both_kinds() {
        let mut run = [0x01, 1, 0x40, 2, 0x3f, 3, 0xff];
        let parts: Vec<(Kind, Vec<u8>)> = split(&mut run, 2).map(|(kind, bytes)| (kind, bytes.to_vec())).collect();
        let expected = vec![
            (Kind::Gossip, vec![0x01, 1]),
            (Kind::Quic, vec![0x40, 2]),
            (Kind::Gossip, vec![0x3f, 3]),
            (Kind::Quic, vec![0xff]),
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn an_empty_buffer_and_a_missing_stride_split_without_a_panic() {
        assert_eq!(split(&mut [], 0).count(), 0);
        assert_eq!(split(&mut [], 1200).count(), 0);
        let mut whole = [7; 5];
        assert_eq!(split(&mut whole, 0).map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn an_address_has_one_spelling() {
        let v4: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(canonical("[::ffff:127.0.0.1]:9".parse().unwrap()), v4);
        assert_eq!(canonical(v4), v4);
        let labelled = std::net::SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 77, 0);
        assert_eq!(canonical(labelled.into()), "[::1]:9".parse().unwrap());
    }

    #[tokio::test]
    async fn a_first_datagram_is_not_lost_though_the_reactor_has_not_run() {
        let (a, b) = (Socket::bind(loopback()).unwrap(), Socket::bind(loopback()).unwrap());
        a.send(b.local_addr(), &[1, 2, 3]).unwrap();
        assert_eq!(take(&b, 1).await, [(a.local_addr(), vec![1, 2, 3])]);
        assert_eq!(a.stats().gossip_sent, Traffic { datagrams: 1, bytes: 3 });
        assert_eq!(b.stats().gossip_received, Traffic { datagrams: 1, bytes: 3 });
    }

    #[tokio::test]
    async fn what_the_kernel_merged_arrives_as_it_was_sent() {
        // One segmented send makes the kernel hand both kinds over in a single buffer where it can merge at all.
        let (a, b) = (Socket::bind(loopback()).unwrap(), Socket::bind(loopback()).unwrap());
        let _served = b.quic_side();
        let contents = [[0x01; 8], [0x41; 8], [0x02; 8]].concat();
        let transmit = Transmit {
            destination: b.local_addr(),
            ecn: None,
            contents: &contents,
            segment_size: Some(8),
            src_ip: None,
        };
        if a.state.max_gso_segments() >= 3 {
            a.state.try_send((&a.io).into(), &transmit).unwrap();
        } else {
            contents.chunks(8).for_each(|datagram| a.send(b.local_addr(), datagram).unwrap());
        }
        let gossip = take(&b, 3).await;
        assert_eq!(gossip, [(a.local_addr(), vec![1; 8]), (a.local_addr(), vec![2; 8])]);
        assert_eq!(b.stats().quic_received, Traffic { datagrams: 1, bytes: 8 });
    }

    #[tokio::test]
    async fn the_quic_queue_drops_and_counts_above_its_limits() {
        let (a, b) = (Socket::bind(loopback()).unwrap(), Socket::bind(loopback()).unwrap());
        a.send(b.local_addr(), &[0x40]).unwrap();
        take(&b, 1).await;
        assert_eq!(b.stats().drops.quic_unserved, 1);

        let served = b.quic_side();
        a.send(b.local_addr(), &[0x40; QUIC_DATAGRAM_BYTES_MAX as usize + 1]).unwrap();
        take(&b, 1).await;
        assert_eq!(b.stats().drops.quic_too_large, 1);
        for _ in 0..QUIC_QUEUE_DATAGRAMS_MAX + 3 {
            a.send(b.local_addr(), &[0x40]).unwrap();
            take(&b, 1).await;
        }
        assert_eq!(b.stats().drops.quic_queue_full, 3);
        assert_eq!(b.stats().quic_received.datagrams, QUIC_QUEUE_DATAGRAMS_MAX as u64);
        drop(served);
        assert_eq!(lock(&b.quic).packets.capacity(), 0);
    }

    #[tokio::test]
    async fn an_empty_datagram_is_counted_and_not_mistaken_for_silence() {
        let (a, b) = (Socket::bind(loopback()).unwrap(), Socket::bind(loopback()).unwrap());
        a.send(b.local_addr(), &[]).unwrap();
        assert!(take(&b, 1).await.is_empty());
        assert_eq!(b.stats().drops.empty, 1);
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_names_it() {
        let first = Socket::bind(loopback()).unwrap();
        let error = Socket::bind(first.local_addr()).unwrap_err();
        assert!(matches!(error, BindError::InUse { addr } if addr == first.local_addr()));
        assert_eq!(error.to_string(), format!("{} is already in use", first.local_addr()));
    }

    #[tokio::test]
    async fn a_foreign_address_is_an_error_that_names_it() {
        let error = Socket::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "no interface of this host has the address 192.0.2.1");
    }

    #[tokio::test]
    async fn nobody_listening_is_no_error_and_an_impossible_address_is() {
        let a = Socket::bind(loopback()).unwrap();
        let gone = Socket::bind(loopback()).unwrap().local_addr();
        for _ in 0..3 {
            a.send(gone, &[1]).unwrap();
        }
        a.send("[::1]:9".parse().unwrap(), &[1]).unwrap_err();
        assert_eq!(a.stats().drops.gossip_send_invalid, 1);
    }

    #[tokio::test]
    async fn a_dual_stack_port_speaks_plain_ipv4() {
        let (wide, v4) = (Socket::bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap(), Socket::bind(loopback()).unwrap());
        let wide_v4 = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), wide.local_addr().port());
        v4.send(wide_v4, &[1]).unwrap();
        assert_eq!(take(&wide, 1).await, [(v4.local_addr(), vec![1])]);
        wide.send(v4.local_addr(), &[2]).unwrap();
        assert_eq!(take(&v4, 1).await, [(wide_v4, vec![2])]);
    }
}
