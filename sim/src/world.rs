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
use tidings::node::{Config, Node};
use tidings::peer::{Epoch, NodeId};
use tidings::record::{Instance, Key, Owner};
use tidings::time::Time;

use crate::check::{self, Highest, Ledger};
use crate::link::{self, Fate, Link, LinkConfig};
use crate::queue::Queue;
use crate::trace::{Clock, Trace};

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

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Draws everything.
    pub seed: u64,
    /// How all links behave at first.
    pub link: LinkConfig,
    /// The cluster's name.
    pub cluster: Arc<str>,
}

impl WorldConfig {
    /// A calm data centre.
    pub fn new(seed: u64) -> Self {
        Self { seed, link: LinkConfig::default(), cluster: Arc::from("sim") }
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
    /// Open connections between two hosts (the lower number first), with the starts of both and their last use.
    connections: BTreeMap<(HostIndex, HostIndex), (u32, u32, Time)>,
    ledger: Ledger,
    trace: Trace,
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
    epoch: Epoch,
    remembered: Vec<SocketAddr>,
    /// `None` while no process runs.
    node: Option<Box<Node>>,
    /// Counts the processes that ran here, so that what was meant for one never reaches the next.
    start: u32,
    is_leaving: bool,
    wake: Wake,
    /// What the program has registered and not withdrawn.
    registered: BTreeSet<Key>,
    /// What it is registering or withdrawing at this moment: its node may list it or not.
    pending: Option<Key>,
    highest: Highest,
    /// The fingerprints after the last input: records, members.
    fingerprints: (u64, u64),
    ready_at: Option<Time>,
    fatal: Option<Fatal>,
    traffic: Traffic,
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
            link: Link::new(config.link.clone()),
            hosts: Vec::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            connections: BTreeMap::new(),
            ledger: Ledger::new(),
            trace: Trace::new(),
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
    /// If there are [`HOSTS_MAX`] hosts already, or a seed is not one of them.
    pub fn add_node(&mut self, seeds: &[HostIndex]) -> HostIndex {
        let seeds = seeds.iter().map(|&seed| self.hosts[seed].addr).collect();
        let id = NodeId(self.rng.random());
        let host = self.push_host(seeds, id, 0);
        self.start(host);
        host
    }

    fn push_host(&mut self, seeds: Vec<SocketAddr>, id: NodeId, epoch: Epoch) -> HostIndex {
        let host = self.hosts.len();
        assert!(host < HOSTS_MAX, "{} hosts, the limit is {HOSTS_MAX}", host + 1);
        self.hosts.push(Host {
            addr: address(host),
            name: Arc::from(format!("n{host}")),
            zone: Arc::from(""),
            seeds,
            id,
            epoch,
            remembered: Vec::new(),
            node: None,
            start: 0,
            is_leaving: false,
            wake: Wake::default(),
            registered: BTreeSet::new(),
            pending: None,
            highest: Highest::new(),
            fingerprints: (0, 0),
            ready_at: None,
            fatal: None,
            traffic: Traffic::default(),
        });
        host
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
        self.hosts[host].epoch = epoch.saturating_sub(1);
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
        let host = self.push_host(seeds, id, epoch);
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
        self.start(host);
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
    pub fn node(&self, host: HostIndex) -> Option<&Node> {
        self.hosts.get(host)?.node.as_deref()
    }

    /// The nodes that run and are not about to leave, by host.
    pub fn running(&self) -> impl Iterator<Item = (HostIndex, &Node)> {
        self.hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| !host.is_leaving)
            .filter_map(|(index, host)| Some((index, host.node.as_deref()?)))
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
        true
    }

    fn start(&mut self, index: HostIndex) {
        let (nonce, seed) = (self.rng.random(), self.rng.random());
        let cluster = self.config.cluster.clone();
        let now = self.now;
        let host = &mut self.hosts[index];
        assert!(host.node.is_none(), "host {index} runs already");
        host.epoch += 1;
        host.start += 1;
        host.is_leaving = false;
        host.ready_at = None;
        host.fatal = None;
        host.highest.clear();
        host.fingerprints = (0, 0);
        let config = Config {
            cluster,
            name: host.name.clone(),
            zone: host.zone.clone(),
            addr: host.addr,
            id: host.id,
            epoch: host.epoch,
            nonce,
            seed,
            must_join: !host.seeds.is_empty(),
            seeds: host.seeds.clone(),
            remembered: host.remembered.clone(),
        };
        host.node = Some(Box::new(Node::new(config, now)));
        self.tell_or_fail(index, Input::Wake);
    }

    fn stop(&mut self, host: HostIndex) {
        let host = &mut self.hosts[host];
        if let Some(node) = host.node.take() {
            host.remembered = node.live_members().iter().map(|peer| peer.addr).filter(|a| *a != host.addr).collect();
        }
        host.registered.clear();
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
        if host.node.as_ref().and_then(|node| node.next_wake()).is_none_or(|at| at > now) {
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
        let Some(at) = host.node.as_ref().and_then(|node| node.next_wake()) else { return };
        if host.wake.at.is_some_and(|armed| armed <= at) {
            return;
        }
        host.wake.at = Some(at);
        host.wake.number += 1;
        self.queue.push(at.max(self.now), Happening::Wake { host: index, number: host.wake.number });
    }

    fn receive(&mut self, to: HostIndex, from: SocketAddr, bytes: &[u8]) {
        if self.hosts[to].node.is_none() {
            self.fates.unheard += 1;
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
        let node = self.hosts[index].node.as_mut();
        let node = node.unwrap_or_else(|| panic!("host {index} does not run: it cannot be told {input:?}"));
        let result = node.handle(self.now, input, &mut out);
        self.trace.outbox(self.now, index, &out);
        // A node may take a larger epoch; whoever keeps its data directory writes it down.
        let epoch = node.peer().epoch();
        self.hosts[index].epoch = epoch;
        if let Err(error @ (InputError::Bug(_) | InputError::Malformed(_))) = &result {
            // Nobody changes bytes on their way here, so that bytes which cannot be read are a bug of their writer.
            self.fail(index, error.to_string());
        }
        self.check(index);
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
        if let Err(what) = check::datagram_fits(&datagram.bytes) {
            self.fail(from, what);
        }
        let size = datagram.bytes.len();
        let is_marked = self.is_marked(&datagram.bytes);
        let traffic = &mut self.hosts[from].traffic;
        traffic.datagrams += 1;
        traffic.datagram_bytes += size as u64;
        traffic.marked_datagrams += u64::from(is_marked);
        let Some(to) = self.host_at(datagram.to) else {
            self.fates.unheard += 1;
            return;
        };
        let fate = self.link.fate(self.now, from, to, size, &mut self.rng);
        let delays = match fate {
            Fate::Arrives(delay) => [Some(delay), None],
            Fate::Twice(first, second) => [Some(first), Some(second)],
            Fate::Lost | Fate::Cut => [None, None],
        };
        self.fates.lost += u64::from(fate == Fate::Lost);
        self.fates.cut += u64::from(fate == Fate::Cut);
        self.fates.doubled += u64::from(matches!(fate, Fate::Twice(..)));
        let bytes = Bytes::from(datagram.bytes);
        let from = self.hosts[from].addr;
        for delay in delays.into_iter().flatten() {
            self.fates.sent += 1;
            self.queue.push(self.now + delay, Happening::Datagram { to, from, bytes: bytes.clone() });
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
            self.link.stream_delay(0, &mut self.rng) + self.link.stream_delay(0, &mut self.rng)
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
        self.link.stream_delay(size, &mut self.rng)
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

    /// Checks what must hold always, if the view of `index` changed.
    fn check(&mut self, index: HostIndex) {
        let host = &mut self.hosts[index];
        let Some(node) = &host.node else { return };
        let digest = node.digest();
        if (digest.records, digest.members) == host.fingerprints {
            return;
        }
        host.fingerprints = (digest.records, digest.members);
        self.view_changes += 1;
        let listed = node.live_records();
        let me = host.owner();
        for (owner, key, version) in listed.iter().filter(|(owner, key, _)| *owner == me && host.may_list(key)) {
            self.ledger.entry((*owner, key.clone())).or_default().insert(*version);
        }
        let verdict = check::versions_never_fall(&mut host.highest, &listed)
            .and_then(|()| check::only_what_was_made(&self.ledger, &listed))
            .and_then(|()| check::one_start_per_owner(&listed))
            .and_then(|()| check::own_records_are_listed(me, host.registered.iter(), &listed));
        if let Err(what) = verdict {
            self.fail(index, what);
        }
    }

    /// Checks that a node lists what it has just accepted, even if that changed nothing.
    fn check_own(&self, index: HostIndex) {
        let host = &self.hosts[index];
        let Some(node) = &host.node else { return };
        let listed = node.live_records();
        if let Err(what) = check::own_records_are_listed(host.owner(), host.registered.iter(), &listed) {
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
