//! Many nodes in one simulated world: hosts, what happens to them, and what an experiment may do to them.
//!
//! | room | subject |
//! |---|---|
//! | `host` | a machine: its address, its clock, what waits for its process |
//! | `machine` | the processors and timers that processes may have to share |
//! | `life` | the process on it: its start, its wakes, its end |
//! | `stream` | what travels reliably: handshakes, idle limits, deadlines |
//! | `faults` | what may be done to hosts and links |
//! | `figures` | what was sent, and what became of it |

mod faults;
mod figures;
mod host;
mod life;
mod machine;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tidings::effect::{Datagram, Event, Fatal, Heard, Input, InputError, Outbox};
use tidings::node::Tuning;
use tidings::peer::{MemberState, NodeId, Peer};
use tidings::pool::Pool;
use tidings::record::{Instance, Key, Owner};
use tidings::time::Time;
use tidings::view::{Reader, View};

use crate::check::{self, Ledger};
use crate::foca_node::FocaSettings;
use crate::link::{Fate, Link, Network};
use crate::process::Process;
use crate::queue::Queue;
use crate::shadow::Shadow;
use crate::trace::{Clock, Trace};
use crate::watch::Watch;
use host::{Hold, Host, address};
use machine::Processors;
use stream::Streams;

pub use figures::{Fates, Report, Traffic};
pub use host::HOSTS_MAX;
pub use machine::Machine;

/// A host by its number: 0 for the first that was added.
pub type HostIndex = usize;

/// A drain that has ended.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Who drained.
    pub host: HostIndex,
    /// How long it took until everybody had confirmed, or the waiting ended.
    pub took: Duration,
    /// Who confirmed, and who did not.
    pub heard: Arc<Heard>,
}

/// How long a process runs on after it was told to leave, so that its goodbye can be repeated.
const LEAVE_LINGER: Duration = Duration::from_millis(500);

/// In larger worlds only every [`CHECKED_EVERY`]th host's view is looked through at each of its changes.
pub(crate) const CHECKED_ALL_MAX: usize = 256;
pub(crate) const CHECKED_EVERY: usize = 16;

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
    /// The machine that all hosts share; without one each has as much time as it wants, at once.
    pub machine: Option<Machine>,
    /// How many hosts, from the first on, keep the view that their programs would read.
    pub views: usize,
}

impl WorldConfig {
    /// A calm data centre.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            network: Network::default(),
            cluster: Arc::from("sim"),
            mode: Mode::Tidings(Tuning::default()),
            machine: None,
            views: 0,
        }
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
    processors: Option<Processors>,
    told_at: Time,
    drains: Vec<Drain>,
    hosts: Vec<Host>,
    streams: Streams,
    /// Addresses that went from one host to another.
    addresses: BTreeMap<SocketAddr, HostIndex>,
    ledger: Ledger,
    trace: Trace,
    watch: Watch,
    marker: Option<Vec<u8>>,
    view_changes: u64,
    inputs: u64,
    refused: u64,
    fates: Fates,
    out: Outbox,
    /// What nodes hold equally.
    pool: Pool,
}

/// Something planned.
#[derive(Debug)]
enum Happening {
    Wake {
        host: HostIndex,
        number: u64,
    },
    Datagram {
        to: HostIndex,
        from: SocketAddr,
        bytes: Bytes,
    },
    Question {
        stream: u64,
    },
    Answer {
        stream: u64,
        bytes: Option<Bytes>,
    },
    StreamDeadline {
        stream: u64,
    },
    Exit {
        host: HostIndex,
        start: u32,
    },
    /// A processor has come to what happened a while ago.
    Turn(Box<Self>),
}

impl World {
    /// A world without hosts, at time zero.
    ///
    /// # Panics
    /// If the network cannot be, or the machine has no processor.
    pub fn new(config: WorldConfig) -> Self {
        Self {
            now: Time::ZERO,
            queue: Queue::new(),
            rng: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            link: Link::new(&config.network).unwrap_or_else(|error| panic!("the network: {error}")),
            processors: config.machine.clone().map(Processors::new),
            told_at: Time::ZERO,
            drains: Vec::new(),
            hosts: Vec::new(),
            streams: Streams::default(),
            addresses: BTreeMap::new(),
            ledger: Ledger::new(),
            trace: Trace::new(),
            watch: Watch::new(),
            marker: None,
            view_changes: 0,
            inputs: 0,
            refused: 0,
            fates: Fates::default(),
            out: Outbox::default(),
            pool: Pool::sharing(),
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
        let index = self.hosts.len();
        assert!(index < HOSTS_MAX, "{} hosts, the limit is {HOSTS_MAX}", index + 1);
        self.hosts.push(Host::new(index, self.link.zone(index), seeds, id));
        index
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

    /// Whether a process runs on `host` that is neither frozen nor about to leave.
    pub fn is_free(&self, host: HostIndex) -> bool {
        let host = &self.hosts[host];
        host.node.is_some() && !host.is_leaving && matches!(host.hold, Hold::Free)
    }

    /// Whether a fault ever befell this host by itself: it was frozen, isolated, slow, or lost packets.
    pub fn is_anomalous(&self, host: HostIndex) -> bool {
        self.hosts[host].anomalous_since.is_some()
    }

    /// When the first datagram came in vain after the last process on `host` ended.
    pub fn unheard_at(&self, host: HostIndex) -> Option<Time> {
        self.hosts[host].unheard_at
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

    /// The program on `host` takes no new work: it tells everybody, and leaves once everybody who can be reached has
    /// confirmed it, or `within` is over. How that went is in [`drains`](Self::drains).
    ///
    /// # Errors
    /// What the node says.
    pub fn drain(&mut self, host: HostIndex, within: Duration) -> Result<(), InputError> {
        self.hosts[host].drains_since = Some(self.now);
        // It states its records anew, and the ledger must have them.
        self.hosts[host].pending = self.hosts[host].registered.first().cloned();
        let result = self.tell(host, Input::Drain(within));
        self.hosts[host].pending = None;
        result
    }

    /// It is time for a canary on `host`. If its member makes one, that is followed to the others, see
    /// [`Watch::canaries`].
    ///
    /// # Errors
    /// What the node says. A host on which no process runs makes none.
    pub fn call_for_canary(&mut self, host: HostIndex) -> Result<(), InputError> {
        let made = |world: &Self| world.node(host).map(|node| node.counters().canaries_made);
        let before = made(self);
        if before.is_none() {
            return Ok(());
        }
        self.tell(host, Input::Canary)?;
        if made(self) > before {
            self.watch.canary_made(self.now, host);
        }
        Ok(())
    }

    /// How often the guard of any host's view found a service lost at once, see [`WorldConfig::views`].
    pub fn mass_drops(&self) -> u64 {
        self.hosts.iter().filter_map(|host| host.view.as_ref()).map(|view| view.sizes().mass_drops).sum()
    }

    /// What the program on `host` reads; `None` for a host without a view, see [`WorldConfig::views`].
    pub fn reader(&self, host: HostIndex) -> Option<Reader> {
        self.hosts[host].view.as_ref().map(View::reader)
    }

    /// The drains that have ended.
    pub fn drains(&self) -> &[Drain] {
        &self.drains
    }

    /// The zone that a host stands in; empty if there are none.
    pub fn zone(&self, host: HostIndex) -> &str {
        self.link.zone(host)
    }

    /// Whether anything gets from one host to the other.
    pub fn is_open(&self, from: HostIndex, to: HostIndex) -> bool {
        self.link.is_open(from, to)
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

    /// The machine that all hosts share.
    pub fn machine(&self) -> Option<&Machine> {
        self.processors.as_ref().map(|processors| &processors.machine)
    }

    /// Puts work behind all that waits for the machine's processors, and gives when it is done: now, if there is none.
    pub fn occupy(&mut self, work: impl FnOnce(&Machine) -> Duration) -> Time {
        let Some(processors) = &mut self.processors else { return self.now };
        let work = work(&processors.machine);
        processors.occupy(self.now, work)
    }

    /// When programs have taken in all events that happened so far: later than now where the machine has other work.
    pub fn told_at(&self) -> Time {
        self.told_at.max(self.now)
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

    /// The hosts that a fault befell by itself and whose process runs, and since when.
    pub fn anomalous(&self) -> impl Iterator<Item = (HostIndex, Time)> {
        let hosts = self.hosts.iter().enumerate().filter(|(_, host)| host.node.is_some());
        hosts.filter_map(|(index, host)| Some((index, host.anomalous_since?)))
    }

    /// Each time for which a host stood still or was blocked, once it was over: host, beginning and end.
    pub fn holds(&self) -> impl Iterator<Item = (HostIndex, Time, Time)> {
        let hosts = self.hosts.iter().enumerate();
        hosts.flat_map(|(index, host)| host.holds.iter().map(move |(from, to)| (index, *from, *to)))
    }

    /// See [`Self::watch`]; for those who say what is to be followed.
    pub const fn watch_mut(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// What the program on `host` was told by the process that runs there, or ran last; `None` if nobody follows it.
    pub fn shadow(&self, host: HostIndex) -> Option<&Shadow> {
        self.hosts.get(host)?.shadow.as_ref()
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
        let turn = match happening {
            Happening::Turn(happening) => Some(*happening),
            happening => self.queue_up(happening),
        };
        if let Some(happening) = turn.and_then(|happening| self.hold_back(happening)) {
            self.happen(happening);
        }
        true
    }

    /// Lets what a process has to work for wait for a processor; gives back what need not wait.
    fn queue_up(&mut self, happening: Happening) -> Option<Happening> {
        let is_work = match &happening {
            Happening::Datagram { to, .. } => self.hosts[*to].node.is_some(),
            Happening::Wake { host, number } => self.hosts[*host].wake.number == *number,
            Happening::Question { .. } | Happening::Answer { .. } => true,
            Happening::StreamDeadline { .. } | Happening::Exit { .. } | Happening::Turn(_) => false,
        };
        if self.processors.is_none() || !is_work {
            return Some(happening);
        }
        let done = self.occupy(|machine| machine.input);
        self.queue.push(done, Happening::Turn(Box::new(happening)));
        None
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
            Happening::Turn(happening) => self.happen(*happening),
        }
    }

    fn receive(&mut self, to: HostIndex, from: SocketAddr, bytes: &[u8]) {
        if self.hosts[to].node.is_none() {
            self.fates.unheard += 1;
            self.hosts[to].unheard_at.get_or_insert(self.now);
            return;
        }
        self.tell_or_fail(to, Input::Datagram { from, bytes });
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
        let canaries = (!self.watch.canaries().is_empty()).then(|| heard_of_canaries(node));
        let result = node.handle(now, input, &mut out, &mut self.pool);
        if let Some((before, (count, sum))) = canaries.map(|before| (before, heard_of_canaries(node)))
            && count > before.0
        {
            self.watch.canary_heard(self.now, index, sum.saturating_sub(before.1));
        }
        self.trace.outbox(self.now, index, &out);
        // A node may take a larger epoch; whoever keeps its data directory writes it down.
        let epoch = node.peer().epoch();
        self.hosts[index].epoch = epoch;
        if let Err(error @ (InputError::Bug(_) | InputError::Malformed(_))) = &result {
            // Nobody changes bytes on their way here, so that bytes which cannot be read are a bug of their writer.
            self.fail(index, error.to_string());
        }
        let speaks_of_itself = out.events.iter().any(|event| is_about(event, self.hosts[index].id));
        self.hosts[index].note_told(self.now, &out.events);
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
        let events = u32::try_from(out.events.len()).unwrap_or(u32::MAX);
        if events > 0 {
            self.told_at = self.told_at.max(self.occupy(|machine| machine.tell * events));
        }
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
        let leaves = self.occupy(|machine| machine.send);
        let fate = self.link.fate(leaves, from, to, size, &mut self.rng);
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
            self.queue.push(leaves + delay + slowness, Happening::Datagram { to, from, bytes: bytes.clone() });
        }
    }

    fn hear(&mut self, index: HostIndex, event: Event) {
        self.note(index, &event);
        match event {
            Event::Ready => self.hosts[index].ready_at = Some(self.now),
            // Who forgot an owner may learn of it anew from somebody who was never told the latest.
            Event::MemberForgotten(member) => {
                self.hosts[index].highest.retain(|(owner, _), _| owner.id != member.peer.id);
            }
            Event::Drained(heard) => {
                if let Some(since) = self.hosts[index].drains_since.take() {
                    self.drains.push(Drain { host: index, took: self.now.since(since), heard });
                    // A process that the drain found leaving already goes on with that.
                    let _ = self.leave(index);
                }
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
        if let Event::MemberDown(member) | Event::MemberChanged(member) = event
            && member.state != MemberState::Reachable
        {
            self.watch.avoided(now, index, (member.peer.id, member.peer.epoch()));
        }
        match event {
            Event::MemberChanged(member) if member.state == MemberState::Suspect => {}
            Event::MemberChanged(member) if member.state != MemberState::Unreachable => {
                self.watch.called_back(now, index, (member.peer.id, member.peer.epoch()));
            }
            Event::MemberDown(member) | Event::MemberChanged(member) => {
                let about = (member.peer.id, member.peer.epoch());
                let Some(subject) = self.watch.host_of(about) else { return };
                let is_open = is_open_both_ways(&self.link, index, subject) && !self.is_lost_to_most(subject);
                let is_healthy = !self.is_anomalous(index);
                let subject_is_healthy = !self.is_anomalous(subject);
                self.watch.called_down(now, index, about, is_open, is_healthy, subject_is_healthy);
            }
            Event::MemberLeft(member) | Event::MemberForgotten(member) => {
                self.watch.dropped(now, index, (member.peer.id, member.peer.epoch()));
            }
            Event::MemberUp(member) => self.watch.called_up(now, index, (member.peer.id, member.peer.epoch())),
            Event::ServiceUp { owner, instance } | Event::ServiceChanged { owner, instance, .. } => {
                self.watch.listed(now, index, *owner, instance);
            }
            _ => {}
        }
    }

    /// Whether most of the others cannot reach a host: whoever still can may count it out with them.
    fn is_lost_to_most(&self, host: HostIndex) -> bool {
        // What is told a moment after the mend was seen before.
        if self.hosts[host].mended_at.is_some_and(|at| self.now.since(at) < SEEN_BEFORE) {
            return true;
        }
        let others = || self.running().filter(|(other, _)| *other != host);
        let reach = others().filter(|(other, _)| is_open_both_ways(&self.link, *other, host)).count();
        reach * 2 < others().count()
    }

    /// Checks what must hold always, if the view of `index` changed.
    fn check(&mut self, index: HostIndex, speaks_of_itself: bool) {
        let is_sampled = self.hosts.len() <= CHECKED_ALL_MAX || index.is_multiple_of(CHECKED_EVERY);
        let host = &mut self.hosts[index];
        let Some(node) = &host.node else { return };
        let digest = node.digest();
        if (digest.records, digest.members, digest.reachable) == host.fingerprints {
            return;
        }
        host.fingerprints = (digest.records, digest.members, digest.reachable);
        self.view_changes += 1;
        if let Err(what) = check::queues_are_bounded(&node.queues()) {
            self.fail(index, what);
        }
        let me = host.owner();
        if speaks_of_itself || host.pending.is_some() {
            let own = node.own_records();
            if let Err(what) = check::versions_are_used_once(&own) {
                self.fail(index, what);
            }
            for (key, version) in own.into_iter().filter(|(key, _)| host.may_list(key)) {
                self.ledger.entry((me, key)).or_default().insert(version);
            }
        }
        // A view of many records is looked through after every so many changes, or most of the time would go there.
        host.unchecked += 1;
        if !is_sampled || host.unchecked * CHECKED_PER_CHANGE < digest.live_records {
            return;
        }
        host.unchecked = 0;
        let listed = node.present_records();
        let verdict = check::versions_never_fall(&mut host.highest, &listed)
            .and_then(|()| check::only_what_was_made(&self.ledger, &listed))
            .and_then(|()| check::one_start_per_owner(&listed))
            .and_then(|()| check::nothing_withdrawn_returns(&host.withdrawn, &listed))
            .and_then(|()| match &host.shadow {
                // Who leaves tells its program no more.
                Some(shadow) if !host.is_leaving => shadow.is_known(&node.present_members(), &listed),
                _ => Ok(()),
            });
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
        let index = host::index_at(addr)?;
        (self.hosts.get(index)?.addr == addr).then_some(index)
    }
}

/// How long it may take from seeing to telling.
const SEEN_BEFORE: Duration = Duration::from_secs(2);

/// How many canaries of others a node heard of, and how long they took, all together.
fn heard_of_canaries(node: &Process) -> (u64, Duration) {
    node.as_tidings().map_or((0, Duration::ZERO), |node| {
        let ages = node.propagation();
        (ages.counts().iter().sum(), ages.sum())
    })
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
