//! Many nodes in one simulated world: hosts, what happens to them, and what an experiment may do to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Sub;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tidings::effect::{Datagram, Event, Fatal, Input, InputError, Outbox, Reply, Request, StreamFailure};
use tidings::node::{Config, Node, Tuning};
use tidings::peer::{Epoch, Generation, NodeId, Peer};
use tidings::record::{Instance, Key, Owner};
use tidings::time::Time;

use crate::check::{self, Highest, Ledger};
use crate::foca_node::{FocaNode, FocaSettings};
use crate::link::{self, Fate, Link, LinkConfig, Network};
use crate::process::Process;
use crate::queue::Queue;
use crate::trace::{Clock, Trace};
use crate::watch::Watch;

/// A host by its number: 0 for the first that was added.
pub type HostIndex = usize;

/// Hosts that the address plan has room for.
pub const HOSTS_MAX: usize = HOSTS_PER_NET * 250;

/// The port that every node listens on.
const PORT: u16 = 7_900;

/// Hosts whose addresses differ in the last byte only.
const HOSTS_PER_NET: usize = 250;

/// How long an asker waits for the answer on a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection without streams stays open; the next stream then needs a new handshake.
const CONNECTION_IDLE: Duration = Duration::from_secs(30);

/// Estimated packets and bytes of a QUIC handshake, of each side: padded first packets (RFC 9000 section 14.1), then
/// certificates of some 500 bytes and acknowledgements.
const HANDSHAKE_PACKETS: u64 = 4;
const HANDSHAKE_BYTES: u64 = 3_000;

/// Estimated bytes that a QUIC packet has beside its stream's.
const STREAM_OVERHEAD_BYTES: u64 = 40;

/// How long a process runs on after it was told to leave, so that its goodbye can be repeated.
const LEAVE_LINGER: Duration = Duration::from_millis(500);

/// Wakes of one host at one moment, above which the node would hold up time for ever.
const WAKES_PER_MOMENT_MAX: u32 = 1_000;

/// What waits at most for a frozen process, as a socket's buffer holds some 200 KiB; further datagrams are dropped.
const HELD_MAX: usize = 1_000;

/// Wall time when the world begins, in seconds: what epochs are made of.
const WALL_BEGIN_SECS: i64 = 1_000_000;

/// In larger worlds only every [`CHECKED_EVERY`]th host's view is looked through at each of its changes.
const CHECKED_ALL_MAX: usize = 256;
const CHECKED_EVERY: usize = 16;

/// A view is looked through once this many of its records came to one change since the last time.
const CHECKED_PER_CHANGE: usize = 8;

/// What runs on the hosts of a world.
#[derive(Clone, Debug)]
pub enum Mode {
    /// tidings, with these settings.
    Tidings(Tuning),
    /// foca alone, for a cluster of this size.
    Foca(FocaSettings, usize),
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Draws everything.
    pub seed: u64,
    /// How all links behave at first.
    pub network: Network,
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// What runs on the hosts.
    pub mode: Mode,
}

impl WorldConfig {
    /// A calm data centre.
    pub fn new(seed: u64) -> Self {
        Self { seed, network: Network::default(), cluster: Arc::from("sim"), mode: Mode::Tidings(Tuning::default()) }
    }
}

/// What a host sent, QUIC's share estimated: sizes are UDP payloads.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Gossip datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub datagram_bytes: u64,
    /// Streams opened.
    pub streams: u64,
    /// Packets of streams and handshakes.
    pub stream_packets: u64,
    /// Their bytes.
    pub stream_bytes: u64,
    /// Datagrams that held the marker, see [`World::set_marker`].
    pub marked_datagrams: u64,
    /// Questions and answers on streams that held the marker.
    pub marked_streams: u64,
}

impl Traffic {
    /// Packets of both kinds.
    pub const fn packets(&self) -> u64 {
        self.datagrams + self.stream_packets
    }

    /// Bytes of both kinds.
    pub const fn bytes(&self) -> u64 {
        self.datagram_bytes + self.stream_bytes
    }

    fn add(&mut self, other: &Self) {
        self.datagrams += other.datagrams;
        self.datagram_bytes += other.datagram_bytes;
        self.streams += other.streams;
        self.stream_packets += other.stream_packets;
        self.stream_bytes += other.stream_bytes;
        self.marked_datagrams += other.marked_datagrams;
        self.marked_streams += other.marked_streams;
    }
}

impl Sub for Traffic {
    type Output = Self;

    /// What was sent since `earlier`, a reading of the same host or world.
    fn sub(self, earlier: Self) -> Self {
        Self {
            datagrams: self.datagrams - earlier.datagrams,
            datagram_bytes: self.datagram_bytes - earlier.datagram_bytes,
            streams: self.streams - earlier.streams,
            stream_packets: self.stream_packets - earlier.stream_packets,
            stream_bytes: self.stream_bytes - earlier.stream_bytes,
            marked_datagrams: self.marked_datagrams - earlier.marked_datagrams,
            marked_streams: self.marked_streams - earlier.marked_streams,
        }
    }
}

/// What became of all datagrams so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fates {
    /// Put on their way, each copy of a doubled one counted.
    pub sent: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Stopped by a split or a cut.
    pub cut: u64,
    /// Arrived twice.
    pub doubled: u64,
    /// Arrived where no process listens.
    pub unheard: u64,
    /// Dropped in front of a link that was full.
    pub overflowed: u64,
    /// Vanished because they were larger than the link carries.
    pub too_large: u64,
    /// Waited for a frozen or blocked process.
    pub held: u64,
    /// Dropped because too much waited for a frozen or blocked process.
    pub held_dropped: u64,
    /// Took longer because of a slow host.
    pub slowed: u64,
    /// Wakes that came late because of a freeze.
    pub wakes_missed: u64,
    /// Streams that failed.
    pub streams_failed: u64,
    /// Starts with an older state than there should have been, because a disk was full.
    pub stale_starts: u64,
    /// Inputs to processes whose clock does not run as ours does.
    pub skewed_inputs: u64,
    /// Starts whose epoch came from a wall clock that was set wrongly.
    pub stepped_starts: u64,
}

/// The figures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that gives the same run again.
    pub seed: u64,
    /// Simulated time so far.
    pub now: Time,
    /// Inputs that nodes took in.
    pub inputs: u64,
    /// Inputs that they did not accept.
    pub refused: u64,
    /// What became of the datagrams.
    pub fates: Fates,
    /// What each host sent.
    pub hosts: Vec<Traffic>,
    /// The hash over all inputs and outputs.
    pub hash: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut total = Traffic::default();
        self.hosts.iter().for_each(|host| total.add(host));
        write!(
            f,
            "seed {} at {}: {} hosts, {} inputs ({} refused), {} datagrams of {} bytes ({} lost, {} cut, {} unheard), \
             {} streams of {} bytes, hash {:016x}",
            self.seed,
            Clock(self.now),
            self.hosts.len(),
            self.inputs,
            self.refused,
            total.datagrams,
            total.datagram_bytes,
            self.fates.lost,
            self.fates.cut,
            self.fates.unheard,
            total.streams,
            total.stream_bytes,
            self.hash
        )
    }
}

/// Many nodes, the links between them and one clock.
///
/// A broken promise (see [`check`]), a node's [`InputError::Bug`] and bytes of one node that another
/// cannot read all panic with the seed and the time: the run is over, and the seed replays it.
#[derive(Debug)]
pub struct World {
    config: WorldConfig,
    now: Time,
    queue: Queue<Happening>,
    rng: Xoshiro256PlusPlus,
    link: Link,
    hosts: Vec<Host>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    /// Addresses that went from one host to another.
    addresses: BTreeMap<SocketAddr, HostIndex>,
    /// Open connections between two hosts (the lower number first), with the starts of both and their last use.
    connections: BTreeMap<(HostIndex, HostIndex), (u32, u32, Time)>,
    ledger: Ledger,
    trace: Trace,
    watch: Watch,
    marker: Option<Vec<u8>>,
    view_changes: u64,
    inputs: u64,
    refused: u64,
    fates: Fates,
    out: Outbox,
}

/// A machine with one address, and the process on it.
#[derive(Debug)]
struct Host {
    addr: SocketAddr,
    name: Arc<str>,
    zone: Arc<str>,
    seeds: Vec<SocketAddr>,
    /// What a data directory keeps.
    id: NodeId,
    kept_epoch: Epoch,
    /// The epoch of the next start, whatever clock and data directory say.
    forced_epoch: Option<Epoch>,
    remembered: Vec<SocketAddr>,
    is_disk_full: bool,
    /// What the process that runs, or ran last, was started with.
    epoch: Epoch,
    /// `None` while no process runs.
    node: Option<Process>,
    clock: LocalClock,
    /// What the wall clock shows beside the truth.
    wall_offset_secs: i64,
    hold: Hold,
    /// What every datagram waits before it leaves and after it arrived.
    slowness: Duration,
    /// Whether a fault ever befell this host by itself.
    is_anomalous: bool,
    /// When the first datagram came in vain after the last process ended.
    unheard_at: Option<Time>,
    /// Counts the processes that ran here, so that what was meant for one never reaches the next.
    start: u32,
    is_leaving: bool,
    wake: Wake,
    /// What the program has registered and not withdrawn.
    registered: BTreeSet<Key>,
    /// What it is registering or withdrawing at this moment: its node may list it or not.
    pending: Option<Key>,
    highest: Highest,
    /// Changes of the view since it was looked through.
    unchecked: usize,
    /// The fingerprints after the last input: records, members.
    fingerprints: (u64, u64),
    ready_at: Option<Time>,
    fatal: Option<Fatal>,
    traffic: Traffic,
}

/// How a host's monotonic clock runs.
#[derive(Clone, Copy, Debug)]
struct LocalClock {
    rate: f64,
    /// A moment of the world, and what the clock showed then.
    at: Time,
    shown: Time,
}

impl LocalClock {
    const fn true_one() -> Self {
        Self { rate: 1.0, at: Time::ZERO, shown: Time::ZERO }
    }

    const fn is_true(&self) -> bool {
        self.rate == 1.0
    }

    fn local(&self, world: Time) -> Time {
        if self.is_true() {
            return self.shown + world.since(self.at);
        }
        self.shown + world.since(self.at).mul_f64(self.rate)
    }

    /// When the clock will show `local`, not before it does.
    fn world(&self, local: Time) -> Time {
        if self.is_true() {
            return self.at + local.since(self.shown);
        }
        // One nanosecond more than the division gives: rounding must not wake a process before its time.
        self.at + local.since(self.shown).div_f64(self.rate) + Duration::from_nanos(1)
    }
}

/// Whether a process goes on, and what waits for it.
#[derive(Default, Debug)]
enum Hold {
    #[default]
    Free,
    /// It stands still: timers, packets, everything.
    Frozen(Vec<Happening>),
    /// Its timers run, but whatever it receives or sends waits.
    Blocked { received: Vec<Happening>, sent: Vec<Datagram> },
}

/// The armed wake of a process.
#[derive(Default, Debug)]
struct Wake {
    at: Option<Time>,
    /// A planned wake of an older number is void.
    number: u64,
    /// Wakes that were delivered at `moment`.
    moment: Time,
    count: u32,
}

/// Something planned.
#[derive(Debug)]
enum Happening {
    Wake { host: HostIndex, number: u64 },
    Datagram { to: HostIndex, from: SocketAddr, bytes: Bytes },
    Question { stream: u64 },
    Answer { stream: u64, bytes: Option<Bytes> },
    StreamDeadline { stream: u64 },
    Exit { host: HostIndex, start: u32 },
}

/// A question on its way, or its answer.
#[derive(Debug)]
struct Stream {
    asker: HostIndex,
    asker_start: u32,
    asker_token: u64,
    to: Option<HostIndex>,
    /// The start of the process that got the question.
    asked_start: Option<u32>,
    is_answered: bool,
    question: Bytes,
}

impl World {
    /// A world without hosts, at time zero.
    pub fn new(config: WorldConfig) -> Self {
        Self {
            now: Time::ZERO,
            queue: Queue::new(),
            rng: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            link: Link::new(&config.network).unwrap_or_else(|error| panic!("the network: {error}")),
            hosts: Vec::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            addresses: BTreeMap::new(),
            connections: BTreeMap::new(),
            ledger: Ledger::new(),
            trace: Trace::new(),
            watch: Watch::new(),
            marker: None,
            view_changes: 0,
            inputs: 0,
            refused: 0,
            fates: Fates::default(),
            out: Outbox::default(),
            config,
        }
    }

    /// Adds a host and starts a node on it that joins through `seeds`.
    ///
    /// # Panics
    /// If there are [`HOSTS_MAX`] hosts already. A seed need not be there yet.
    pub fn add_node(&mut self, seeds: &[HostIndex]) -> HostIndex {
        let addr = |&seed: &HostIndex| self.hosts.get(seed).map_or_else(|| address(seed), |host| host.addr);
        let seeds = seeds.iter().map(addr).collect();
        let id = NodeId(self.rng.random());
        let host = self.push_host(seeds, id);
        self.start(host);
        host
    }

    fn push_host(&mut self, seeds: Vec<SocketAddr>, id: NodeId) -> HostIndex {
        let host = self.hosts.len();
        assert!(host < HOSTS_MAX, "{} hosts, the limit is {HOSTS_MAX}", host + 1);
        self.hosts.push(Host {
            addr: address(host),
            name: Arc::from(format!("n{host}")),
            zone: Arc::from(self.link.zone(host)),
            seeds,
            id,
            kept_epoch: 0,
            forced_epoch: None,
            remembered: Vec::new(),
            is_disk_full: false,
            epoch: 0,
            node: None,
            clock: LocalClock::true_one(),
            wall_offset_secs: 0,
            hold: Hold::Free,
            slowness: Duration::ZERO,
            is_anomalous: false,
            unheard_at: None,
            start: 0,
            is_leaving: false,
            wake: Wake::default(),
            registered: BTreeSet::new(),
            pending: None,
            highest: Highest::new(),
            unchecked: 0,
            fingerprints: (0, 0),
            ready_at: None,
            fatal: None,
            traffic: Traffic::default(),
        });
        host
    }

    /// Adds hosts whose members all know each other from the start, as if they had joined long ago. Plain foca only.
    /// Each begins to probe at a drawn moment of `within`; zero puts all in lock-step.
    ///
    /// # Panics
    /// If tidings runs in this world: its members join.
    pub fn add_preloaded(&mut self, count: usize, within: Duration) {
        assert!(matches!(self.config.mode, Mode::Foca(..)), "only plain foca can be preloaded");
        let first = self.hosts.len();
        for _ in 0..count {
            self.add_node(&[]);
        }
        let peers: Vec<Peer> = self.running().map(|(_, node)| node.peer()).collect();
        let mut moments: Vec<(Duration, HostIndex)> =
            (first..first + count).map(|host| (self.rng.random_range(Duration::ZERO..=within), host)).collect();
        moments.sort_unstable();
        let begin = self.now;
        for (moment, host) in moments {
            self.run_until(begin + moment);
            let now = self.hosts[host].clock.local(self.now);
            if let Some(Process::Foca(node)) = &mut self.hosts[host].node {
                node.preload(now, &peers);
            }
            self.tell_or_fail(host, Input::Wake);
        }
    }

    /// The process ends without a word. What it registered is gone with it; its data directory stays.
    ///
    /// # Panics
    /// If no process runs there.
    pub fn crash(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("crash {host}"));
        assert!(self.hosts[host].node.is_some(), "host {host} does not run");
        self.stop(host);
    }

    /// Starts a stopped host again, with its data directory: the same id, the next epoch, remembered members.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn restart(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("restart {host}"));
        self.start(host);
    }

    /// Starts a stopped host again from an old copy of its data directory, as the start `epoch`, at another address if
    /// it is to move.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn restore(&mut self, host: HostIndex, epoch: Epoch, moves: bool) {
        self.trace.fault(self.now, &format!("restore {host} {epoch} {moves}"));
        self.hosts[host].forced_epoch = Some(epoch);
        if moves {
            self.hosts[host].addr = moved(self.hosts[host].addr);
        }
        self.start(host);
    }

    /// Adds a host with a copy of the data directory of `original`, and starts a node on it.
    ///
    /// # Panics
    /// If there are [`HOSTS_MAX`] hosts already.
    pub fn add_clone(&mut self, original: HostIndex) -> HostIndex {
        self.trace.fault(self.now, &format!("clone {original}"));
        let seeds = self.hosts[original].seeds.clone();
        let (id, epoch) = (self.hosts[original].id, self.hosts[original].epoch);
        let host = self.push_host(seeds, id);
        self.hosts[host].forced_epoch = Some(epoch + 1);
        self.start(host);
        host
    }

    /// The address of a host becomes another one; whatever is sent to the old one is heard by nobody.
    ///
    /// # Panics
    /// If no process runs there.
    pub fn readdress(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("readdress {host}"));
        let addr = moved(self.hosts[host].addr);
        self.hosts[host].addr = addr;
        self.tell_or_fail(host, Input::Readdress(addr));
    }

    /// Starts a stopped host again, without its data directory: a new member at the old address. Its epoch is larger
    /// than the old one's all the same, as the clock makes it in life.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn replace(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("replace {host}"));
        self.hosts[host].id = NodeId(self.rng.random());
        self.hosts[host].remembered.clear();
        self.hosts[host].kept_epoch = 0;
        self.start(host);
    }

    /// Starts a stopped host again with its old id, given by its configuration, but without its data directory: only
    /// the wall clock makes its epoch larger than the old one.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn restart_without_data(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("restart {host} without data"));
        self.hosts[host].remembered.clear();
        self.hosts[host].kept_epoch = 0;
        self.start(host);
    }

    /// The process stands still: its timers, and what arrives, wait until it is thawed (SIGSTOP, a garbage collector,
    /// a paused virtual machine).
    ///
    /// # Panics
    /// If it is held already, or does not run.
    pub fn freeze(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("freeze {host}"));
        self.must_be_free(host);
        self.hosts[host].hold = Hold::Frozen(Vec::new());
        self.hosts[host].is_anomalous = true;
    }

    /// The process's timers run, but whatever it receives or sends waits until it is released: Lifeguard's block right
    /// before a send and right after a receive (Dadgar, Phillips and Currey 2018, section V).
    ///
    /// # Panics
    /// If it is held already, or does not run.
    pub fn block(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("block {host}"));
        self.must_be_free(host);
        self.hosts[host].hold = Hold::Blocked { received: Vec::new(), sent: Vec::new() };
        self.hosts[host].is_anomalous = true;
    }

    /// Ends a freeze or a block: what waited happens now, in its order, and then what became due.
    pub fn release(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("release {host}"));
        let (received, sent) = match std::mem::take(&mut self.hosts[host].hold) {
            Hold::Free => return,
            Hold::Frozen(held) => (held, Vec::new()),
            Hold::Blocked { received, sent } => (received, sent),
        };
        for datagram in sent {
            self.put_on_wire(host, datagram);
        }
        for happening in received {
            self.happen(happening);
        }
        self.hosts[host].wake.at = None;
        self.arm(host);
    }

    /// Cuts a host off from everybody while its timers run on, or ends that: a network card that stalls.
    pub fn set_isolated(&mut self, host: HostIndex, is_isolated: bool) {
        self.trace.fault(self.now, &format!("isolate {host} {is_isolated}"));
        self.link.set_isolated(host, is_isolated);
        self.hosts[host].is_anomalous = true;
    }

    /// From now on every datagram waits this long before it leaves `host` and after it arrived there.
    pub fn set_slowness(&mut self, host: HostIndex, slowness: Duration) {
        self.trace.fault(self.now, &format!("slow {host} {slowness:?}"));
        self.hosts[host].slowness = slowness;
        self.hosts[host].is_anomalous = true;
    }

    /// From now on whatever `host` sends or receives is lost with this probability.
    ///
    /// # Panics
    /// If `loss` is not within 0 to 1.
    pub fn set_loss_at(&mut self, host: HostIndex, loss: f64) {
        self.trace.fault(self.now, &format!("loss at {host} {loss}"));
        self.link.set_loss_at(host, loss);
        self.hosts[host].is_anomalous = true;
    }

    /// From now on the monotonic clock of `host` runs at this rate: 1.1 gains six seconds a minute.
    ///
    /// # Panics
    /// If the rate is not above zero.
    pub fn set_clock_rate(&mut self, host: HostIndex, rate: f64) {
        assert!(rate > 0.0, "a clock rate of {rate} is not above zero");
        self.trace.fault(self.now, &format!("clock rate {host} {rate}"));
        let now = self.now;
        let host_state = &mut self.hosts[host];
        host_state.clock = LocalClock { rate, at: now, shown: host_state.clock.local(now) };
        host_state.wake.at = None;
        self.arm(host);
    }

    /// Sets the wall clock of `host` this many seconds forward or back. A running node never reads it; its next start
    /// makes an epoch of it.
    pub fn step_clock(&mut self, host: HostIndex, by_secs: i64) {
        self.trace.fault(self.now, &format!("clock step {host} {by_secs}"));
        self.hosts[host].wall_offset_secs += by_secs;
    }

    /// From now on nothing new is kept on the disk of `host`, or is again.
    pub fn set_disk_full(&mut self, host: HostIndex, is_full: bool) {
        self.trace.fault(self.now, &format!("disk full {host} {is_full}"));
        self.hosts[host].is_disk_full = is_full;
    }

    /// Moves a stopped host to the address of another stopped host, as a scheduler that reuses addresses does. The
    /// other then has no address, and can not be started again.
    ///
    /// # Panics
    /// If either runs.
    pub fn take_address(&mut self, host: HostIndex, of: HostIndex) {
        self.trace.fault(self.now, &format!("host {host} takes the address of {of}"));
        assert!(self.hosts[host].node.is_none() && self.hosts[of].node.is_none(), "both hosts must be stopped");
        self.addresses.insert(self.hosts[of].addr, host);
        self.hosts[host].addr = self.hosts[of].addr;
    }

    /// From now on starts of `host` join through these addresses.
    pub fn set_seeds(&mut self, host: HostIndex, seeds: &[HostIndex]) {
        let seeds: Vec<SocketAddr> = seeds.iter().map(|&seed| self.hosts[seed].addr).collect();
        self.hosts[host].seeds.clone_from(&seeds);
        if self.hosts[host].node.as_ref().is_some_and(|node| node.as_tidings().is_some()) && self.is_free(host) {
            self.tell_or_fail(host, Input::Seeds(seeds));
        }
    }

    /// Whether a process runs on `host` that is neither frozen nor about to leave.
    pub fn is_free(&self, host: HostIndex) -> bool {
        let host = &self.hosts[host];
        host.node.is_some() && !host.is_leaving && matches!(host.hold, Hold::Free)
    }

    /// Whether a fault ever befell this host by itself: it was frozen, isolated, slow, or lost packets.
    pub fn is_anomalous(&self, host: HostIndex) -> bool {
        self.hosts[host].is_anomalous
    }

    /// When the first datagram came in vain after the last process on `host` ended.
    pub fn unheard_at(&self, host: HostIndex) -> Option<Time> {
        self.hosts[host].unheard_at
    }

    fn must_be_free(&self, host: HostIndex) {
        assert!(self.hosts[host].node.is_some(), "host {host} does not run");
        assert!(matches!(self.hosts[host].hold, Hold::Free), "host {host} is held already");
    }

    /// The program on `host` registers an instance, or replaces the one with the same id.
    ///
    /// # Errors
    /// What the node says; nothing is registered then.
    pub fn register(&mut self, host: HostIndex, instance: Instance) -> Result<(), InputError> {
        let key = instance.id.clone();
        self.hosts[host].pending = Some(key.clone());
        let result = self.tell(host, Input::Register(Arc::new(instance)));
        self.hosts[host].pending = None;
        result?;
        self.hosts[host].registered.insert(key);
        self.check_own(host);
        Ok(())
    }

    /// The program on `host` withdraws an instance.
    ///
    /// # Errors
    /// What the node says; nothing is withdrawn then.
    pub fn withdraw(&mut self, host: HostIndex, key: &Key) -> Result<(), InputError> {
        let was_there = self.hosts[host].registered.remove(key);
        self.hosts[host].pending = Some(key.clone());
        let result = self.tell(host, Input::Withdraw(key.clone()));
        self.hosts[host].pending = None;
        if result.is_err() && was_there {
            self.hosts[host].registered.insert(key.clone());
        }
        result
    }

    /// The program on `host` leaves; its process ends half a second later.
    ///
    /// # Errors
    /// What the node says.
    pub fn leave(&mut self, host: HostIndex) -> Result<(), InputError> {
        self.hosts[host].is_leaving = true;
        self.hosts[host].registered.clear();
        let start = self.hosts[host].start;
        self.queue.push(self.now + LEAVE_LINGER, Happening::Exit { host, start });
        self.tell(host, Input::Leave)
    }

    /// Separates groups of hosts from each other; hosts in no group form one more. Replaces an earlier split.
    pub fn split(&mut self, groups: &[Vec<HostIndex>]) {
        self.trace.fault(self.now, &format!("split {groups:?}"));
        self.link.split(groups);
    }

    /// Cuts one direction between two hosts.
    pub fn cut(&mut self, from: HostIndex, to: HostIndex) {
        self.trace.fault(self.now, &format!("cut {from} {to}"));
        self.link.cut(from, to);
    }

    /// Ends the cut of one direction.
    pub fn mend(&mut self, from: HostIndex, to: HostIndex) {
        self.trace.fault(self.now, &format!("mend {from} {to}"));
        self.link.mend(from, to);
    }

    /// Ends the split; cuts stay.
    pub fn unite(&mut self) {
        self.trace.fault(self.now, "unite");
        self.link.unite();
    }

    /// Gives some directed pairs a class of links of their own.
    ///
    /// # Errors
    /// What of the configuration makes no sense.
    pub fn set_pairs(
        &mut self,
        link: LinkConfig,
        pairs: impl IntoIterator<Item = (HostIndex, HostIndex)>,
    ) -> Result<(), String> {
        self.link.set_pairs(link, pairs)
    }

    /// The zone that a host stands in; empty if there are none.
    pub fn zone(&self, host: HostIndex) -> &str {
        self.link.zone(host)
    }

    /// Whether anything gets from one host to the other.
    pub fn is_open(&self, from: HostIndex, to: HostIndex) -> bool {
        self.link.is_open(from, to)
    }

    /// Ends every fault that lasts: splits, cuts, isolation, losses, freezes, blocks, slowness, wrong clock rates, full
    /// disks. Who crashed stays down.
    pub fn end_faults(&mut self) {
        self.trace.fault(self.now, "all faults end");
        self.link.heal();
        self.link.calm();
        for host in 0..self.hosts.len() {
            self.hosts[host].is_disk_full = false;
            self.hosts[host].slowness = Duration::ZERO;
            if !self.hosts[host].clock.is_true() {
                self.set_clock_rate(host, 1.0);
            }
            self.release(host);
        }
    }

    /// Ends the split and every cut. Loss stays.
    pub fn heal(&mut self) {
        self.trace.fault(self.now, "heal");
        self.link.heal();
    }

    /// From now on datagrams are lost with this probability.
    ///
    /// # Panics
    /// If `loss` is not within 0 to 1.
    pub fn set_loss(&mut self, loss: f64) {
        self.trace.fault(self.now, &format!("loss {loss}"));
        self.link.set_loss(loss);
    }

    /// From now on counts what holds these bytes, see [`Traffic`]: put them into a record to follow it.
    pub fn set_marker(&mut self, marker: Option<Vec<u8>>) {
        self.marker = marker.filter(|marker| !marker.is_empty());
    }

    /// Runs until `end`.
    pub fn run_until(&mut self, end: Time) {
        while self.step(end) {}
    }

    /// Runs this long.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// Runs until `is_met`, asked now and after every event, and says when that was; `None` if it was not met within
    /// `limit` from now.
    pub fn run_until_cond(&mut self, limit: Duration, mut is_met: impl FnMut(&Self) -> bool) -> Option<Time> {
        let end = self.now + limit;
        while !is_met(self) {
            if !self.step(end) {
                return None;
            }
        }
        Some(self.now)
    }

    /// Runs until all views are equal and true, and says when that was; `None` if that took longer than `limit`
    /// from now. [`check::settled`] then says what is wrong.
    pub fn run_until_settled(&mut self, limit: Duration) -> Option<Time> {
        let mut asked = None;
        self.run_until_cond(limit, |world| {
            // Views are compared only after one of them changed.
            asked.replace(world.view_changes) != Some(world.view_changes)
                && check::views_agree(world)
                && check::settled(world).is_ok()
        })
    }

    /// The time.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The generator, for what an experiment draws itself.
    pub const fn rng(&mut self) -> &mut Xoshiro256PlusPlus {
        &mut self.rng
    }

    /// How many hosts there are, running or not.
    pub const fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// The node on `host`; `None` while no process runs there.
    pub fn node(&self, host: HostIndex) -> Option<&Process> {
        self.hosts.get(host)?.node.as_ref()
    }

    /// What was noticed of members and changes so far.
    pub const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// See [`Self::watch`]; for those who say what is to be followed.
    pub const fn watch_mut(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// The nodes that run and are not about to leave, by host.
    pub fn running(&self) -> impl Iterator<Item = (HostIndex, &Process)> {
        self.hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| !host.is_leaving)
            .filter_map(|(index, host)| Some((index, host.node.as_ref()?)))
    }

    /// Everything that programs on running nodes have registered and not withdrawn.
    pub fn registered_records(&self) -> BTreeSet<(Owner, Key)> {
        self.running()
            .flat_map(|(host, _)| {
                let host = &self.hosts[host];
                host.registered.iter().map(|key| (host.owner(), key.clone()))
            })
            .collect()
    }

    /// What the program on `host` has registered and not withdrawn.
    pub fn registered(&self, host: HostIndex) -> impl Iterator<Item = &Key> {
        self.hosts[host].registered.iter()
    }

    /// When the process on `host` said that it is ready.
    pub fn ready_at(&self, host: HostIndex) -> Option<Time> {
        self.hosts[host].ready_at
    }

    /// The hosts whose node could not go on, and why.
    pub fn fatals(&self) -> impl Iterator<Item = (HostIndex, &Fatal)> {
        self.hosts.iter().enumerate().filter_map(|(index, host)| Some((index, host.fatal.as_ref()?)))
    }

    /// How often the view of any node has changed so far.
    pub const fn view_changes(&self) -> u64 {
        self.view_changes
    }

    /// What `host` has sent so far, over all its processes.
    pub fn traffic_of(&self, host: HostIndex) -> Traffic {
        self.hosts[host].traffic
    }

    /// What all hosts have sent so far.
    pub fn traffic(&self) -> Traffic {
        let mut total = Traffic::default();
        self.hosts.iter().for_each(|host| total.add(&host.traffic));
        total
    }

    /// What became of the datagrams so far.
    pub const fn fates(&self) -> Fates {
        self.fates
    }

    /// The hash over everything that happened so far.
    pub fn hash(&self) -> u64 {
        self.trace.hash()
    }

    /// From now on writes a line per event.
    pub fn write_trace(&mut self, sink: Box<dyn std::io::Write + Send>) {
        self.trace.write_lines(sink);
    }

    /// The figures so far.
    pub fn report(&self) -> Report {
        Report {
            seed: self.config.seed,
            now: self.now,
            inputs: self.inputs,
            refused: self.refused,
            fates: self.fates,
            hosts: self.hosts.iter().map(|host| host.traffic).collect(),
            hash: self.hash(),
        }
    }

    /// Lets the next event up to `end` happen; without one the time becomes `end`, and the answer is false.
    fn step(&mut self, end: Time) -> bool {
        let Some((at, happening)) = self.queue.pop_until(end) else {
            self.now = self.now.max(end);
            return false;
        };
        assert!(at >= self.now, "seed {}: time goes back from {:?} to {at:?}", self.config.seed, self.now);
        self.now = at;
        if let Some(happening) = self.hold_back(happening) {
            self.happen(happening);
        }
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { host, number } => self.wake(host, number),
            Happening::Datagram { to, from, bytes } => self.receive(to, from, &bytes),
            Happening::Question { stream } => self.question(stream),
            Happening::Answer { stream, bytes } => self.answer(stream, bytes),
            Happening::StreamDeadline { stream } => self.deadline(stream),
            Happening::Exit { host, start } => {
                if self.hosts[host].start == start {
                    self.stop(host);
                }
            }
        }
    }

    /// Keeps what cannot happen now to a process that is held, and gives back the rest.
    fn hold_back(&mut self, happening: Happening) -> Option<Happening> {
        let stream_end = |stream: &u64, is_asker: bool| {
            let stream = self.streams.get(stream)?;
            if is_asker { Some(stream.asker) } else { stream.to }
        };
        let (whom, is_timer) = match &happening {
            Happening::Wake { host, .. } | Happening::Exit { host, .. } => (Some(*host), true),
            Happening::Datagram { to, .. } => (Some(*to), false),
            Happening::Question { stream } => (stream_end(stream, false), false),
            Happening::Answer { stream, .. } => (stream_end(stream, true), false),
            Happening::StreamDeadline { stream } => (stream_end(stream, true), true),
        };
        let Some(host) = whom else { return Some(happening) };
        let held = match &mut self.hosts[host].hold {
            Hold::Free => return Some(happening),
            Hold::Blocked { .. } if is_timer => return Some(happening),
            Hold::Frozen(held) | Hold::Blocked { received: held, .. } => held,
        };
        match &happening {
            // The process is woken for all that became due at once when it goes on.
            Happening::Wake { .. } => self.fates.wakes_missed += 1,
            Happening::Datagram { .. } if held.len() >= HELD_MAX => self.fates.held_dropped += 1,
            _ => {
                self.fates.held += 1;
                held.push(happening);
            }
        }
        None
    }

    fn start(&mut self, index: HostIndex) {
        let (nonce, seed) = (self.rng.random(), self.rng.random());
        assert!(self.hosts[index].node.is_none(), "host {index} runs already");
        assert!(self.host_at(self.hosts[index].addr) == Some(index), "host {index} has lost its address to another");
        self.prepare(index);
        let host = &self.hosts[index];
        let now = host.clock.local(self.now);
        let (id, addr, epoch, name) = (host.id, host.addr, host.epoch, host.name.clone());
        let process = match &self.config.mode {
            Mode::Tidings(tuning) => {
                let config = Config {
                    cluster: self.config.cluster.clone(),
                    name,
                    zone: host.zone.clone(),
                    addr,
                    id,
                    epoch,
                    nonce,
                    seed,
                    must_join: !host.seeds.is_empty(),
                    seeds: host.seeds.clone(),
                    remembered: host.remembered.clone(),
                    tuning: tuning.clone(),
                };
                Process::Tidings(Box::new(Node::new(config, now)))
            }
            Mode::Foca(settings, members) => {
                let me = Peer { id, addr, generation: Generation::first(epoch), nonce };
                let seeds = host.seeds.iter().filter_map(|seed| self.node(self.host_at(*seed)?)).map(Process::peer);
                let seeds = seeds.collect();
                Process::Foca(Box::new(FocaNode::new(me, name, settings, *members, seeds, seed, now)))
            }
        };
        self.hosts[index].node = Some(process);
        self.watch.started(self.now, index, id, epoch);
        self.tell_or_fail(index, Input::Wake);
    }

    /// Makes a host ready for its next process, which gets the epoch that its data directory and its wall clock give.
    fn prepare(&mut self, index: HostIndex) {
        let since_begin = i64::try_from(self.now.since(Time::ZERO).as_secs()).unwrap_or(i64::MAX);
        let host = &mut self.hosts[index];
        let wall = WALL_BEGIN_SECS + since_begin + host.wall_offset_secs;
        let lawful = Epoch::try_from(wall).unwrap_or(0).max(host.kept_epoch + 1);
        host.epoch = host.forced_epoch.take().unwrap_or(lawful);
        if host.is_disk_full {
            self.fates.stale_starts += 1;
        } else {
            host.kept_epoch = host.epoch;
        }
        self.fates.stepped_starts += u64::from(host.wall_offset_secs != 0);
        host.start += 1;
        host.is_leaving = false;
        host.ready_at = None;
        host.fatal = None;
        host.unheard_at = None;
        host.hold = Hold::Free;
        host.highest.clear();
        host.fingerprints = (0, 0);
    }

    fn stop(&mut self, index: HostIndex) {
        let host = &mut self.hosts[index];
        if let Some(node) = host.node.take() {
            if !host.is_disk_full {
                host.remembered =
                    node.live_members().iter().map(|peer| peer.addr).filter(|addr| *addr != host.addr).collect();
            }
            self.watch.stopped(self.now, index, host.is_leaving);
        }
        host.registered.clear();
        host.hold = Hold::Free;
        host.wake.at = None;
        host.wake.number += 1;
    }

    fn wake(&mut self, index: HostIndex, number: u64) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.wake.number != number {
            return;
        }
        host.wake.at = None;
        // The node may have moved its wake to later since this one was armed.
        let next = host.node.as_ref().and_then(Process::next_wake).map(|at| host.clock.world(at));
        if next.is_none_or(|at| at > now) {
            self.arm(index);
            return;
        }
        if host.wake.moment < now {
            host.wake.moment = now;
            host.wake.count = 0;
        }
        host.wake.count += 1;
        if host.wake.count > WAKES_PER_MOMENT_MAX {
            self.fail(index, format!("asks to be woken at once for more than {WAKES_PER_MOMENT_MAX} times"));
        }
        self.tell_or_fail(index, Input::Wake);
    }

    /// Plans the wake that the node wants, unless an earlier one is planned, which then plans it anew.
    fn arm(&mut self, index: HostIndex) {
        let host = &mut self.hosts[index];
        if matches!(host.hold, Hold::Frozen(_)) {
            return;
        }
        let Some(at) = host.node.as_ref().and_then(Process::next_wake) else { return };
        let at = host.clock.world(at).max(self.now);
        if host.wake.at.is_some_and(|armed| armed <= at) {
            return;
        }
        host.wake.at = Some(at);
        host.wake.number += 1;
        self.queue.push(at, Happening::Wake { host: index, number: host.wake.number });
    }

    fn receive(&mut self, to: HostIndex, from: SocketAddr, bytes: &[u8]) {
        if self.hosts[to].node.is_none() {
            self.fates.unheard += 1;
            self.hosts[to].unheard_at.get_or_insert(self.now);
            return;
        }
        self.tell_or_fail(to, Input::Datagram { from, bytes });
    }

    /// The question of a stream arrives.
    fn question(&mut self, token: u64) {
        let Some(stream) = self.streams.get_mut(&token) else { return };
        let (asker, Some(to)) = (stream.asker, stream.to) else { return };
        if self.hosts[to].node.is_none() || !is_open_both_ways(&self.link, asker, to) {
            return;
        }
        stream.asked_start = Some(self.hosts[to].start);
        let bytes = std::mem::take(&mut stream.question);
        let from = self.hosts[asker].addr;
        self.tell_or_fail(to, Input::Request { from, token, bytes });
    }

    /// The answer of a stream arrives.
    fn answer(&mut self, token: u64, bytes: Option<Bytes>) {
        let Some(stream) = self.streams.get(&token) else { return };
        let (asker, Some(to)) = (stream.asker, stream.to) else { return };
        if is_open_both_ways(&self.link, asker, to) {
            self.conclude(token, bytes.ok_or(StreamFailure::Refused));
        }
    }

    /// Nothing has come back in time, or it came before and the stream is no more.
    fn deadline(&mut self, token: u64) {
        let Some(stream) = self.streams.get(&token) else { return };
        let failure = if stream.asked_start.is_some() { StreamFailure::Timeout } else { StreamFailure::Connection };
        self.conclude(token, Err(failure));
    }

    fn conclude(&mut self, token: u64, result: Result<Bytes, StreamFailure>) {
        let Some(stream) = self.streams.remove(&token) else { return };
        self.fates.streams_failed += u64::from(result.is_err());
        let asker = &self.hosts[stream.asker];
        if asker.node.is_some() && asker.start == stream.asker_start {
            self.tell_or_fail(stream.asker, Input::Response { token: stream.asker_token, result });
        }
    }

    /// For what the network brings: whatever the node does not accept is counted, for its program cannot know of it.
    fn tell_or_fail(&mut self, host: HostIndex, input: Input<'_>) {
        if self.tell(host, input).is_err() {
            self.refused += 1;
        }
    }

    /// Hands `input` to the node on `index`, does what it wants done, and checks what must hold always.
    fn tell(&mut self, index: HostIndex, input: Input<'_>) -> Result<(), InputError> {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        self.inputs += 1;
        self.trace.input(self.now, index, &input);
        let host = &mut self.hosts[index];
        let now = host.clock.local(self.now);
        self.fates.skewed_inputs += u64::from(!host.clock.is_true());
        let node = host.node.as_mut();
        let node = node.unwrap_or_else(|| panic!("host {index} does not run: it cannot be told {input:?}"));
        let result = node.handle(now, input, &mut out);
        self.trace.outbox(self.now, index, &out);
        // A node may take a larger epoch; whoever keeps its data directory writes it down.
        let epoch = node.peer().epoch();
        self.hosts[index].epoch = epoch;
        if let Err(error @ (InputError::Bug(_) | InputError::Malformed(_))) = &result {
            // Nobody changes bytes on their way here, so that bytes which cannot be read are a bug of their writer.
            self.fail(index, error.to_string());
        }
        let speaks_of_itself = out.events.iter().any(|event| is_about(event, self.hosts[index].id));
        self.check(index, speaks_of_itself);
        for datagram in out.datagrams.drain(..) {
            self.send(index, datagram);
        }
        for request in out.requests.drain(..) {
            self.ask(index, request);
        }
        for reply in out.replies.drain(..) {
            self.reply(index, reply);
        }
        self.arm(index);
        for event in out.events.drain(..) {
            self.hear(index, event);
        }
        self.out = out;
        result
    }

    fn send(&mut self, from: HostIndex, datagram: Datagram) {
        // foca alone is configured to 1,400 bytes; the limit is tidings' promise.
        if let (Mode::Tidings(_), Err(what)) = (&self.config.mode, check::datagram_fits(&datagram.bytes)) {
            self.fail(from, what);
        }
        let size = datagram.bytes.len();
        let is_marked = self.is_marked(&datagram.bytes);
        let traffic = &mut self.hosts[from].traffic;
        traffic.datagrams += 1;
        traffic.datagram_bytes += size as u64;
        traffic.marked_datagrams += u64::from(is_marked);
        if let Hold::Blocked { sent, .. } = &mut self.hosts[from].hold {
            self.fates.held += 1;
            sent.push(datagram);
            return;
        }
        self.put_on_wire(from, datagram);
    }

    fn put_on_wire(&mut self, from: HostIndex, datagram: Datagram) {
        let Some(to) = self.host_at(datagram.to) else {
            self.fates.unheard += 1;
            return;
        };
        let size = datagram.bytes.len();
        let slowness = self.hosts[from].slowness + self.hosts[to].slowness;
        self.fates.slowed += u64::from(!slowness.is_zero());
        let fate = self.link.fate(self.now, from, to, size, &mut self.rng);
        let delays = match fate {
            Fate::Arrives(delay) => [Some(delay), None],
            Fate::Twice(first, second) => [Some(first), Some(second)],
            Fate::Lost | Fate::Cut | Fate::Overflow | Fate::TooLarge => [None, None],
        };
        self.fates.overflowed += u64::from(fate == Fate::Overflow);
        self.fates.too_large += u64::from(fate == Fate::TooLarge);
        self.fates.lost += u64::from(fate == Fate::Lost);
        self.fates.cut += u64::from(fate == Fate::Cut);
        self.fates.doubled += u64::from(matches!(fate, Fate::Twice(..)));
        let bytes = Bytes::from(datagram.bytes);
        let from = self.hosts[from].addr;
        for delay in delays.into_iter().flatten() {
            self.fates.sent += 1;
            self.queue.push(self.now + delay + slowness, Happening::Datagram { to, from, bytes: bytes.clone() });
        }
    }

    fn ask(&mut self, asker: HostIndex, request: Request) {
        let stream = self.next_stream;
        self.next_stream += 1;
        let to = self.host_at(request.to.addr);
        let size = request.bytes.len();
        let is_marked = self.is_marked(&request.bytes);
        let host = &mut self.hosts[asker];
        host.traffic.streams += 1;
        host.traffic.marked_streams += u64::from(is_marked);
        let state = Stream {
            asker,
            asker_start: host.start,
            asker_token: request.token,
            to,
            asked_start: None,
            is_answered: false,
            question: request.bytes,
        };
        self.streams.insert(stream, state);
        self.queue.push(self.now + STREAM_TIMEOUT, Happening::StreamDeadline { stream });
        // Whatever gets nowhere waits for its deadline.
        let Some(to) = to.filter(|&to| self.hosts[to].node.is_some() && is_open_both_ways(&self.link, asker, to))
        else {
            return;
        };
        let handshake = if self.connect(asker, to) {
            Duration::ZERO
        } else {
            self.link.stream_delay(asker, to, 0, &mut self.rng) + self.link.stream_delay(to, asker, 0, &mut self.rng)
        };
        let delay = handshake + self.stream_leg(asker, to, size);
        self.queue.push(self.now + delay, Happening::Question { stream });
    }

    /// Uses the connection between two hosts, and says whether there was one already.
    fn connect(&mut self, asker: HostIndex, to: HostIndex) -> bool {
        let (low, high) = (asker.min(to), asker.max(to));
        let starts = (self.hosts[low].start, self.hosts[high].start);
        let before = self.connections.insert((low, high), (starts.0, starts.1, self.now));
        let was_open = before.is_some_and(|(low_start, high_start, used)| {
            (low_start, high_start) == starts && self.now.since(used) < CONNECTION_IDLE
        });
        if !was_open {
            for host in [asker, to] {
                self.hosts[host].traffic.stream_packets += HANDSHAKE_PACKETS;
                self.hosts[host].traffic.stream_bytes += HANDSHAKE_BYTES;
            }
        }
        was_open
    }

    /// Counts `size` bytes of a stream and says how long they take.
    fn stream_leg(&mut self, from: HostIndex, to: HostIndex, size: usize) -> Duration {
        let packets = link::packets(size) as u64;
        let sender = &mut self.hosts[from].traffic;
        sender.stream_packets += packets;
        sender.stream_bytes += size as u64 + packets * STREAM_OVERHEAD_BYTES;
        // Every other packet is acknowledged (RFC 9000 section 13.2.2).
        let receiver = &mut self.hosts[to].traffic;
        receiver.stream_packets += packets.div_ceil(2);
        receiver.stream_bytes += packets.div_ceil(2) * STREAM_OVERHEAD_BYTES;
        let slowness = self.hosts[from].slowness + self.hosts[to].slowness;
        slowness + self.link.stream_delay(from, to, size, &mut self.rng)
    }

    fn reply(&mut self, index: HostIndex, reply: Reply) {
        let start = self.hosts[index].start;
        // The asker may have given up, or ended, in the meantime.
        let Some(stream) = self.streams.get_mut(&reply.token) else { return };
        if (stream.to, stream.asked_start) != (Some(index), Some(start)) {
            self.fail(index, format!("replies to request {}, which it never got", reply.token));
        }
        if std::mem::replace(&mut stream.is_answered, true) {
            self.fail(index, format!("replies to request {} twice", reply.token));
        }
        let asker = stream.asker;
        if !is_open_both_ways(&self.link, asker, index) {
            return;
        }
        let bytes = reply.bytes.as_deref().unwrap_or_default();
        let (size, is_marked) = (bytes.len(), self.is_marked(bytes));
        self.hosts[index].traffic.marked_streams += u64::from(is_marked);
        let delay = self.stream_leg(index, asker, size);
        self.queue.push(self.now + delay, Happening::Answer { stream: reply.token, bytes: reply.bytes });
    }

    fn hear(&mut self, index: HostIndex, event: Event) {
        self.note(index, &event);
        match event {
            Event::Ready => self.hosts[index].ready_at = Some(self.now),
            // Who forgot an owner may learn of it anew from somebody who was never told the latest.
            Event::MemberForgotten(member) => {
                self.hosts[index].highest.retain(|(owner, _), _| owner.id != member.peer.id);
            }
            Event::Fatal(fatal) => {
                self.stop(index);
                self.hosts[index].fatal = Some(fatal);
            }
            _ => {}
        }
    }

    /// Tells the watch what a node found out.
    fn note(&mut self, index: HostIndex, event: &Event) {
        let now = self.now;
        match event {
            Event::MemberDown(member) => {
                let about = (member.peer.id, member.peer.epoch());
                let Some(subject) = self.watch.host_of(about) else { return };
                let is_open = is_open_both_ways(&self.link, index, subject);
                let is_healthy = !self.hosts[index].is_anomalous;
                let subject_is_healthy = !self.hosts[subject].is_anomalous;
                self.watch.called_down(now, index, about, is_open, is_healthy, subject_is_healthy);
            }
            Event::MemberLeft(member) | Event::MemberForgotten(member) => {
                self.watch.dropped(now, index, (member.peer.id, member.peer.epoch()));
            }
            Event::MemberUp(member) => self.watch.called_up(index, (member.peer.id, member.peer.epoch())),
            Event::ServiceUp { owner, instance } | Event::ServiceChanged { owner, instance, .. } => {
                self.watch.listed(now, index, *owner, instance);
            }
            _ => {}
        }
    }

    /// Checks what must hold always, if the view of `index` changed.
    fn check(&mut self, index: HostIndex, speaks_of_itself: bool) {
        let is_sampled = self.hosts.len() <= CHECKED_ALL_MAX || index.is_multiple_of(CHECKED_EVERY);
        let host = &mut self.hosts[index];
        let Some(node) = &host.node else { return };
        let digest = node.digest();
        if (digest.records, digest.members) == host.fingerprints {
            return;
        }
        host.fingerprints = (digest.records, digest.members);
        self.view_changes += 1;
        if let Err(what) = check::queues_are_bounded(&node.queues()) {
            self.fail(index, what);
        }
        let me = host.owner();
        if speaks_of_itself || host.pending.is_some() {
            for (key, version) in node.own_records().into_iter().filter(|(key, _)| host.may_list(key)) {
                self.ledger.entry((me, key)).or_default().insert(version);
            }
        }
        // A view of many records is looked through after every so many changes, or most of the time would go there.
        host.unchecked += 1;
        if !is_sampled || host.unchecked * CHECKED_PER_CHANGE < digest.live_records {
            return;
        }
        host.unchecked = 0;
        let listed = node.live_records();
        let verdict = check::versions_never_fall(&mut host.highest, &listed)
            .and_then(|()| check::only_what_was_made(&self.ledger, &listed))
            .and_then(|()| check::one_start_per_owner(&listed));
        if let Err(what) = verdict {
            self.fail(index, what);
        }
        self.check_own(index);
    }

    /// Checks that a node lists what it has accepted.
    fn check_own(&self, index: HostIndex) {
        let host = &self.hosts[index];
        let Some(node) = &host.node else { return };
        let own: Vec<Key> = node.own_records().into_iter().map(|(key, _)| key).collect();
        if let Err(what) = check::own_records_are_listed(host.registered.iter(), &own) {
            self.fail(index, what);
        }
    }

    fn fail(&self, host: HostIndex, what: impl fmt::Display) -> ! {
        panic!("seed {} at {}: host {host}: {what}", self.config.seed, Clock(self.now));
    }

    fn is_marked(&self, bytes: &[u8]) -> bool {
        self.marker.as_ref().is_some_and(|marker| bytes.windows(marker.len()).any(|window| window == marker))
    }

    fn host_at(&self, addr: SocketAddr) -> Option<HostIndex> {
        if let Some(&host) = (!self.addresses.is_empty()).then(|| self.addresses.get(&addr)).flatten() {
            return Some(host);
        }
        let SocketAddr::V4(v4) = addr else { return None };
        let [_, _, net, last] = v4.ip().octets();
        let index = usize::from(net) * HOSTS_PER_NET + usize::from(last).checked_sub(1)?;
        (self.hosts.get(index)?.addr == addr).then_some(index)
    }
}

impl Host {
    fn owner(&self) -> Owner {
        Owner { id: self.id, epoch: self.epoch }
    }

    /// Whether the node on this host may list its own record `key`.
    fn may_list(&self, key: &Key) -> bool {
        key.is_member() || self.registered.contains(key) || self.pending.as_ref() == Some(key)
    }
}

/// Whether a node tells of itself: then it made a record of its own.
fn is_about(event: &Event, id: NodeId) -> bool {
    match event {
        Event::MemberUp(member) | Event::MemberChanged(member) | Event::MemberLeft(member) => member.peer.id == id,
        _ => false,
    }
}

fn is_open_both_ways(link: &Link, one: HostIndex, other: HostIndex) -> bool {
    link.is_open(one, other) && link.is_open(other, one)
}

/// Another address of the same host: only the second byte differs, which [`World::host_at`] does not look at first.
fn moved(addr: SocketAddr) -> SocketAddr {
    let SocketAddr::V4(v4) = addr else { unreachable!("hosts have addresses of version 4") };
    let [first, moves, net, last] = v4.ip().octets();
    SocketAddrV4::new(Ipv4Addr::new(first, moves.wrapping_add(1), net, last), v4.port()).into()
}

fn address(host: HostIndex) -> SocketAddr {
    let byte = |number: usize| u8::try_from(number).expect("HOSTS_MAX keeps both numbers below 251");
    let ip = Ipv4Addr::new(10, 0, byte(host / HOSTS_PER_NET), byte(host % HOSTS_PER_NET + 1));
    SocketAddrV4::new(ip, PORT).into()
}
