//! Runs one node live, on a thread of its own: waits, drains the socket, then judges time. The live world's clock and
//! randomness are read here and nowhere else. Knows nothing of handles; they send commands and read the link.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::advertise::{Advertise, AdvertiseError};
use super::carry::{Answer, Carrier};
use super::gate::Gate;
use super::hub::Hub;
use super::kept::{DataDir, KeptError};
use super::kept_ring::RingStart;
use super::kept_view::SavedView;
use super::keys::Keyring;
use super::quic::{self, Inbound, StreamLimits, Streams};
use super::recorder::{RecordError, RecordPlan, Recorder};
use super::rotate::{KeyChange, KeysError, KeysStatus, Rotation, Trust, TrustError};
use super::seal::Seal;
use super::seeds;
use super::socket::{BindError, Socket};
use super::stats::{Explanation, Stats};
use super::tally::Tallies;
use super::target::Target;
use super::tls::EXPIRES_SOON;
use crate::detector::Rtt;
use crate::effect::{Heard, Input, InputError, Warning};
use crate::node::{Agreement, Config, Node, Tuning};
use crate::peer::{Epoch, NodeId, Peer};
use crate::record::{Instance, Key};
use crate::time::Time;
use crate::view::{Reader, Status, StopReason, View};
use crate::wire::cluster_tag;

/// After saying goodbye the driver runs on for this long, so that lazy repeats of it go out.
pub const LEAVE_LINGER: Duration = Duration::from_millis(200);

/// How long leaving waits for the data directory, after the goodbye.
const LEAVE_KEEP_MAX: Duration = Duration::from_millis(500);

/// Batches taken from the socket before anything else has its turn.
const BATCHES_PER_TURN: usize = 64;

/// Questions of others that wait for the driver; with more, their streams wait.
const INBOUND_QUEUE_MAX: usize = 64;

/// The addresses of members are written to the data directory at most this often.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// How often the machine is asked whether the advertised address is still its own.
const ADDRESS_EVERY: Duration = Duration::from_secs(3);

/// How often it is looked whether that address is there at all, which costs next to nothing: the others must hear of
/// the new one before they find out that nobody answers at the old one.
const ADDRESS_GONE_EVERY: Duration = Duration::from_millis(300);

/// A withdrawal that the node refuses because changes come too fast is tried again after this time.
const WITHDRAW_AGAIN: Duration = Duration::from_millis(100);

/// The target of every line that the driver logs.
pub(crate) const NODE_LOG: &str = "tidings";

/// What a driver is to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) cluster: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) zone: Arc<str>,
    pub(crate) bind: SocketAddr,
    pub(crate) advertise: Advertise,
    pub(crate) join: Vec<Target>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) trust: Trust,
    pub(crate) tuning: Tuning,
    pub(crate) record: Option<RecordPlan>,
    /// How often this member makes a canary, while that is on it; never if zero.
    pub(crate) canary_every: Duration,
}

/// Why a driver could not start. Nothing is left running or open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriveError {
    /// No thread or no runtime could be made.
    #[error("cannot start the member's thread: {0}")]
    Thread(io::Error),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
    /// The address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There is no address to advertise.
    #[error("cannot advertise: {0}")]
    Advertise(#[from] AdvertiseError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] KeptError),
    /// There is nothing to authenticate streams with.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Streams could not be started.
    #[error(transparent)]
    Streams(#[from] quic::StartError),
    /// The recording could not be begun.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It stopped while it started.
    #[error(transparent)]
    Stopped(StopReason),
}

/// What a program asks of its driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Take up an instance for the registration `serial`.
    Register { serial: u64, instance: Arc<Instance>, done: oneshot::Sender<Result<(), Refusal>> },
    /// Replace the instance of that id, if the registration `serial` still has it.
    Update { serial: u64, instance: Arc<Instance>, done: oneshot::Sender<Result<(), Refusal>> },
    /// Withdraw the instance, if the registration `serial` still has it.
    Withdraw { serial: u64, key: Key, done: Option<oneshot::Sender<Result<(), Refusal>>> },
    /// Let the instance stay without its registration, until we leave or it is registered anew.
    Keep { serial: u64, key: Key },
    /// Tell how many members know the same, and ask those that do not.
    Survey(oneshot::Sender<Agreement>),
    /// It is time for a canary.
    Canary,
    /// Tell everybody that nothing new is taken; who has heard it is told after this time at most.
    Drain(Duration, oneshot::Sender<Arc<Heard>>),
    /// Join through these too, from now on.
    Join(Vec<SocketAddr>),
    /// Say goodbye and stop.
    Leave,
    /// Change the ring, if asked to; tell it to everybody, and tell who has which keys.
    Keys(Option<KeyChange>, oneshot::Sender<Result<KeysStatus, KeysError>>),
    /// Tell the figures.
    Stats(oneshot::Sender<Stats>),
    /// Tell how it came that a member is believed to be in its state.
    Explain(NodeId, oneshot::Sender<Option<Explanation>>),
    /// Tell the round-trip times to the members that were probed.
    Rtts(oneshot::Sender<BTreeMap<NodeId, Rtt>>),
    /// Forget a member that cannot be reached.
    Forget(NodeId, oneshot::Sender<Result<(), InputError>>),
    /// Tell when a time has passed: the program's own runtime may have no timers.
    After(Duration, oneshot::Sender<()>),
    /// Die of a bug.
    #[cfg(test)]
    Panic,
}

/// Why a registration was not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Another registration of this member has the id.
    IdInUse,
    /// The node refuses it.
    Input(InputError),
}

/// The one clock: time since the start of a driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the live world begins here: whoever drives a node tells it the time"
    )]
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Never [`Time::ZERO`], which means "never" where a time is kept in a number.
    pub(crate) fn now(self) -> Time {
        Time::from_nanos(1) + self.origin.elapsed()
    }

    fn instant(self, at: Time) -> tokio::time::Instant {
        (self.origin + at.since(Time::ZERO)).into()
    }
}

/// The time in milliseconds since the Unix epoch; 0 before it.
#[expect(clippy::disallowed_methods, reason = "the live world begins here: only an epoch and a label come of it")]
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What a driver shares with the handles: they read it without asking the driver.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) clock: Clock,
    pub(crate) name: Arc<str>,
    pub(crate) local: SocketAddr,
    pub(crate) reader: Reader,
    pub(crate) hub: Hub,
    /// What an earlier start knew.
    pub(crate) saved: Option<SavedView>,
    /// Where the program's work passes.
    pub(crate) gate: Gate,
    /// A member answered a survey.
    pub(crate) surveyed: Notify,
    /// What is counted by service.
    pub(crate) tallies: Tallies,
    /// The keys, as they are now: whoever keeps them on disk waits for changes.
    pub(crate) keyring: watch::Sender<Option<Keyring>>,
    /// Whether somebody without a key can be a member, from another machine or in clear beside a key.
    pub(crate) is_insecure: bool,
    peer: ArcSwap<Peer>,
    /// The last that refused us, or that we had to refuse.
    refusal: ArcSwapOption<Warning>,
    status: watch::Sender<Status>,
    /// Numbers registrations, from 1.
    serials: AtomicU64,
}

impl Link {
    /// Why a member that answered is no help, as far as one said so: another cluster, another wire version.
    pub(crate) fn refusal(&self) -> Option<Arc<Warning>> {
        self.refusal.load_full()
    }

    pub(super) fn note_refusal(&self, warning: &Warning) {
        if matches!(warning, Warning::OtherCluster { .. } | Warning::WireVersion { .. } | Warning::Key { .. }) {
            self.refusal.store(Some(Arc::new(warning.clone())));
        }
    }

    pub(crate) fn peer(&self) -> Peer {
        **self.peer.load()
    }

    pub(crate) fn note_peer(&self, peer: Peer) {
        if **self.peer.load() != peer {
            self.peer.store(Arc::new(peer));
        }
    }

    pub(crate) fn next_serial(&self) -> u64 {
        self.serials.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Waits until the status is such.
    pub(crate) async fn reached(&self, is_such: impl FnMut(&Status) -> bool) -> Status {
        // The sender is ours, so it is not gone while we wait.
        self.status().wait_for(is_such).await.map_or_else(|_| self.reader.status(), |status| status.clone())
    }

    /// Waits until the driver is no more.
    pub(crate) async fn stop_reason(&self) -> StopReason {
        match self.reached(|status| matches!(status, Status::Stopped(_))).await {
            Status::Stopped(reason) => reason,
            Status::Joining | Status::Ready => StopReason::Dropped,
        }
    }

    pub(crate) fn tell_status(&self) {
        self.status.send_replace(self.reader.status());
    }

    /// Tells everybody that the driver is no more; called when nothing of it is left.
    fn stopped(&self, reason: StopReason) {
        self.reader.stop(reason);
        self.tell_status();
        self.hub.close();
    }
}

/// Starts a driver on a thread of its own. It runs until it is told to leave, cannot go on, or every sender of
/// commands is dropped.
pub(crate) async fn start(plan: Plan) -> Result<(mpsc::UnboundedSender<Command>, Arc<Link>), DriveError> {
    // Unbounded, because a guard that is dropped must never lose its withdrawal. It holds at most one command for each
    // guard and each waiting caller.
    let (commands, receiver) = mpsc::unbounded_channel();
    let (started, starting) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("tidings {}", plan.name));
    let weak = commands.downgrade();
    thread.spawn(move || live(plan, weak, receiver, started)).map_err(DriveError::Thread)?;
    let link = starting.await.unwrap_or_else(|_| {
        Err(DriveError::Stopped(StopReason::Panicked(Arc::from("the thread ended without a word"))))
    })?;
    Ok((commands, link))
}

/// The whole life of the thread.
fn live(
    plan: Plan,
    to_ourselves: mpsc::WeakUnboundedSender<Command>,
    commands: mpsc::UnboundedReceiver<Command>,
    started: oneshot::Sender<Result<Arc<Link>, DriveError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Fails only when who starts us has gone.
            let _ = started.send(Err(DriveError::Thread(error)));
            return;
        }
    };
    let (mut started, mut link, mut keeper, mut recorded) = (Some(started), None, None, None);
    // Nothing of a driver that panicked is used again: it is dropped whole, and its readers are told.
    let end = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let canary_every = plan.canary_every;
            let mut driver = Driver::open(plan, commands).await?;
            tokio::spawn(call_for_canaries(canary_every, to_ourselves));
            recorded = driver.recorded.take();
            (link, keeper) = (Some(Arc::clone(&driver.link)), driver.keeper.as_ref().map(Keeper::closer));
            if let Some(started) = started.take() {
                let _ = started.send(Ok(Arc::clone(&driver.link)));
            }
            Ok(driver.run().await)
        })
    }));
    // Not a plain drop: that would wait for name lookups that hang. Then the port is free, as is the data directory.
    runtime.shutdown_background();
    if let Some(keeper) = keeper {
        keeper();
    }
    if let Some(recorded) = recorded {
        recorded();
    }
    let end = end.unwrap_or_else(|panic| Err(DriveError::Stopped(StopReason::Panicked(panic_text(&*panic)))));
    match (end, link, started) {
        (Ok(reason) | Err(DriveError::Stopped(reason)), Some(link), _) => {
            log_end(&reason);
            link.stopped(reason);
        }
        (Err(error), _, Some(started)) => {
            let _ = started.send(Err(error));
        }
        _ => {}
    }
}

/// Says when it is time for a canary, until the last handle is dropped.
async fn call_for_canaries(every: Duration, to_ourselves: mpsc::WeakUnboundedSender<Command>) {
    if every.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(every).await;
        // Held weakly meanwhile: a handle here would keep the member running.
        let Some(commands) = to_ourselves.upgrade() else { return };
        if commands.send(Command::Canary).is_err() {
            return;
        }
    }
}

fn log_end(reason: &StopReason) {
    match reason {
        StopReason::Left | StopReason::Dropped => tracing::debug!(target: NODE_LOG, "stopped: {reason}"),
        _ => tracing::error!(target: NODE_LOG, "stopped: {reason}"),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Arc::from(text.unwrap_or("no message"))
}

/// What ended a wait.
enum Turn {
    Readable(io::Result<()>),
    Asked(Inbound),
    Answered(Answer),
    Seeds(Vec<SocketAddr>),
    Moved(SocketAddr),
    Command(Option<Command>),
    Due,
}

struct Driver {
    carrier: Carrier,
    link: Arc<Link>,
    socket: Arc<Socket>,
    inbound: mpsc::Receiver<Inbound>,
    answers: mpsc::UnboundedReceiver<Answer>,
    seeds: mpsc::Receiver<Vec<SocketAddr>>,
    /// What the targets of the start gave last.
    seeds_found: Vec<SocketAddr>,
    /// What was added since.
    seeds_added: BTreeSet<SocketAddr>,
    moves: mpsc::Receiver<SocketAddr>,
    commands: mpsc::UnboundedReceiver<Command>,
    registered: Registered,
    keeper: Option<Keeper>,
    /// Waits until the recording is in its file.
    recorded: Option<Box<dyn FnOnce()>>,
    /// Set once we said goodbye: when to stop.
    leaves_at: Option<Time>,
}

impl Driver {
    async fn open(mut plan: Plan, commands: mpsc::UnboundedReceiver<Command>) -> Result<Self, DriveError> {
        let clock = Clock::start();
        let socket = Socket::bind(plan.bind)?;
        let local = socket.local_addr();
        let tag = cluster_tag(&plan.cluster);
        let mut config = Config {
            cluster: plan.cluster,
            name: plan.name,
            zone: plan.zone,
            addr: plan.advertise.resolve(local, None)?,
            id: NodeId(random()?),
            epoch: unix_ms() / 1_000,
            nonce: random()?,
            seed: random()?,
            seeds: Vec::new(),
            must_join: false,
            remembered: Vec::new(),
            tuning: plan.tuning,
        };
        let view = View::new();
        let keep = |path| Keeper::open(path, &mut config, &mut plan.trust, view.reader());
        let (keeper, saved) = plan.data_dir.map(keep).transpose()?.unzip();
        let tls = plan.trust.tls(tag)?;
        if tls.expires_soon() {
            tracing::warn!(target: NODE_LOG, "our certificate expires within {} days: streams will fail from then on",
                EXPIRES_SOON.as_secs() / (24 * 60 * 60));
        }
        let (asking, inbound) = mpsc::channel(INBOUND_QUEUE_MAX);
        let streams = Streams::start(Arc::clone(&socket), &tls, StreamLimits::default(), asking)?;

        config.seeds = seeds::first(&plan.join).await;
        let (tell_seeds, new_seeds) = mpsc::channel(1);
        config.must_join = !seeds::is_only(&plan.join, config.addr);

        let now = clock.now();
        let recording = plan.record.map(|plan| Recorder::begin(&plan, &config, now)).transpose()?;
        let (recorder, recorded) = recording.unzip();
        let node = Node::new(config.clone(), now);
        let trust = &plan.trust;
        let seal = Seal::new(&config.cluster, &node.peer(), trust.ring.as_ref(), trust.plaintext, now);
        let rotation = Rotation::new(trust.clone(), tag, now);
        let link = Arc::new(Link {
            saved: saved.flatten(),
            clock,
            name: Arc::clone(&config.name),
            local,
            reader: view.reader(),
            hub: Hub::new(),
            gate: Gate::new(),
            surveyed: Notify::new(),
            keyring: watch::Sender::new(plan.trust.ring.clone()),
            is_insecure: match &plan.trust.ring {
                Some(_) => plan.trust.plaintext.is_accepted(),
                None => !local.ip().to_canonical().is_loopback(),
            },
            peer: ArcSwap::from_pointee(node.peer()),
            refusal: ArcSwapOption::empty(),
            status: watch::Sender::new(Status::Joining),
            serials: AtomicU64::new(0),
            tallies: Tallies::default(),
        });
        let seeds_found = config.seeds.clone();
        if !plan.join.is_empty() {
            tokio::spawn(seeds::resolve(plan.join, config.seeds, link.status(), tell_seeds));
        }
        let (tell_moves, moves) = mpsc::channel(1);
        if plan.advertise.drifts(local) {
            tokio::spawn(follow_address(plan.advertise, local, config.addr, tell_moves));
        }
        let (tell_answers, answers) = mpsc::unbounded_channel();
        let carrier = Carrier::new(
            (node, recorder),
            (Arc::clone(&socket), streams),
            (view, Arc::clone(&link)),
            tell_answers,
            (seal, rotation),
        );
        let registered = Registered::default();
        let seeds = new_seeds;
        Ok(Self {
            carrier,
            link,
            socket,
            inbound,
            answers,
            seeds,
            seeds_found,
            seeds_added: BTreeSet::new(),
            moves,
            commands,
            registered,
            keeper,
            recorded: recorded.map(|wait| Box::new(wait) as Box<dyn FnOnce()>),
            leaves_at: None,
        })
    }

    /// The loop: waits for anything, then drains the socket, then does what ended the wait, and only then judges time,
    /// so that an answer which has arrived is never taken for one that is missing.
    async fn run(mut self) -> StopReason {
        // What the node refuses it has counted, and the carrier has logged: so it is with all results dropped below.
        let _ = self.carrier.hand(Input::Wake);
        loop {
            let turn = self.wait().await;
            self.carrier.stats.turns += 1;
            let stop = self.drain().or_else(|| self.take(turn)).or_else(|| self.judge_time());
            if let Some(reason) = stop.or_else(|| self.carrier.take_stop()) {
                self.end(&reason).await;
                return reason;
            }
        }
    }

    async fn wait(&mut self) -> Turn {
        let due = self.next_due().map(|due| self.link.clock.instant(due));
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // Once we said goodbye, handles may go: their channel, closed, would end every wait.
        let has_handles = self.leaves_at.is_none() || !self.commands.is_closed();
        tokio::select! {
            readable = self.socket.readable() => Turn::Readable(readable),
            Some(inbound) = self.inbound.recv() => Turn::Asked(inbound),
            Some(answer) = self.answers.recv() => Turn::Answered(answer),
            Some(seeds) = self.seeds.recv() => Turn::Seeds(seeds),
            Some(addr) = self.moves.recv() => Turn::Moved(addr),
            command = self.commands.recv(), if has_handles => Turn::Command(command),
            () = sleep => Turn::Due,
        }
    }

    fn tell_seeds(&mut self) {
        let added = self.seeds_added.iter().filter(|addr| !self.seeds_found.contains(addr));
        let seeds = self.seeds_found.iter().chain(added).copied().collect();
        self.carrier.seeds(seeds);
    }

    fn next_due(&self) -> Option<Time> {
        [self.carrier.next_wake(), self.leaves_at, self.registered.retries_at()].into_iter().flatten().min()
    }

    fn drain(&mut self) -> Option<StopReason> {
        let carrier = &mut self.carrier;
        for _ in 0..BATCHES_PER_TURN {
            let batch = self.socket.receive(&mut |from, bytes| {
                carrier.receive(from, bytes);
            });
            match batch {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Some(StopReason::Socket(error.to_string().into())),
            }
        }
        None
    }

    fn take(&mut self, turn: Turn) -> Option<StopReason> {
        match turn {
            Turn::Readable(Err(error)) => return Some(StopReason::Socket(error.to_string().into())),
            Turn::Readable(Ok(())) | Turn::Due => {}
            Turn::Asked(inbound) => self.carrier.asked(inbound),
            Turn::Answered(answer) => self.carrier.answered(answer),
            Turn::Seeds(seeds) => {
                self.seeds_found = seeds;
                self.tell_seeds();
            }
            Turn::Moved(addr) => {
                tracing::warn!(target: NODE_LOG, "our address is {addr} now, and we tell everybody");
                let _ = self.carrier.hand(Input::Readdress(addr));
            }
            Turn::Command(Some(command)) => self.obey(command),
            Turn::Command(None) => return self.leaves_at.is_none().then_some(StopReason::Dropped),
        }
        None
    }

    fn judge_time(&mut self) -> Option<StopReason> {
        let now = self.link.clock.now();
        if let Some(due) = self.carrier.next_wake().filter(|due| *due <= now) {
            self.carrier.stats.note_wake(now.since(due));
            let _ = self.carrier.hand(Input::Wake);
        }
        self.registered.retry(now, &mut self.carrier);
        if let Some(keeper) = &mut self.keeper {
            // A larger epoch must outlive us at once: without it the next start would be older than the others know.
            if keeper.is_older_than(self.link.peer().epoch()) {
                keeper.keep_epoch(self.link.peer().epoch());
            }
            if self.carrier.members_changed() || self.carrier.services_changed() {
                keeper.keep_at(now, &mut self.carrier);
            }
            if let Some(ring) = self.carrier.take_ring() {
                // At once, too: whoever is restarted with an old key file has nothing else to get in with.
                keeper.keep_ring(ring);
            }
        }
        self.leaves_at.is_some_and(|at| at <= now).then_some(StopReason::Left)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Register { serial, instance, done } => {
                // Fails only when who asked has gone; so it is below.
                let _ = done.send(self.registered.register(serial, instance, &mut self.carrier));
            }
            Command::Update { serial, instance, done } => {
                let _ = done.send(self.registered.update(serial, instance, &mut self.carrier));
            }
            Command::Withdraw { serial, key, done } => {
                let now = self.link.clock.now();
                self.registered.withdraw(serial, Withdrawal { key, done }, now, &mut self.carrier);
            }
            Command::Keep { serial, key } => self.registered.keep(serial, &key),
            #[cfg(test)]
            Command::Panic => panic!("as a test asked for"),
            Command::Survey(done) => {
                // Told first: what this asks is answered by the next one.
                let _ = done.send(self.carrier.agreement());
                let _ = self.carrier.hand(Input::Survey);
            }
            Command::Canary => drop(self.carrier.hand(Input::Canary)),
            Command::Drain(within, done) => self.carrier.drain(within, done),
            Command::Join(seeds) => {
                self.seeds_added.extend(seeds);
                while self.seeds_added.len() > seeds::SEED_ADDRS_MAX {
                    self.seeds_added.pop_first();
                }
                self.tell_seeds();
            }
            Command::Leave => {
                let _ = self.carrier.hand(Input::Leave);
                self.leaves_at.get_or_insert(self.link.clock.now() + LEAVE_LINGER);
            }
            Command::Keys(change, done) => {
                let changed = change.map_or(Ok(()), |change| self.carrier.change_keys(&change));
                match changed {
                    Ok(()) => self.carrier.keys_status(done),
                    Err(error) => {
                        let _ = done.send(Err(error));
                    }
                }
            }
            Command::Stats(done) => {
                let mut stats = self.carrier.stats();
                stats.driver.saved_view_left_out =
                    self.keeper.as_ref().map_or(0, |keeper| keeper.left_out.load(Ordering::Relaxed));
                let _ = done.send(stats);
            }
            Command::Explain(id, done) => {
                let _ = done.send(self.carrier.explain(self.link.clock.now(), id));
            }
            Command::Rtts(done) => {
                let _ = done.send(self.carrier.rtts());
            }
            Command::Forget(id, done) => self.carrier.forget(id, done),
            Command::After(span, done) => {
                tokio::spawn(async move {
                    tokio::time::sleep(span).await;
                    let _ = done.send(());
                });
            }
        }
    }

    async fn end(&mut self, reason: &StopReason) {
        self.carrier.close();
        if let (StopReason::Left, Some(keeper)) = (reason, self.keeper.take()) {
            keeper.finish(self.carrier.take_members()).await;
        }
    }
}

/// Whether this machine has no such address any more.
fn is_gone(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// Tells every address that is not the one before. What cannot be found out changes nothing, and is said once.
async fn follow_address(how: Advertise, bound: SocketAddr, mut known: SocketAddr, tell: mpsc::Sender<SocketAddr>) {
    let mut said = None;
    loop {
        for _ in 0..ADDRESS_EVERY.as_millis() / ADDRESS_GONE_EVERY.as_millis() {
            tokio::time::sleep(ADDRESS_GONE_EVERY).await;
            if said.is_none() && is_gone(known.ip()) {
                break;
            }
        }
        match how.resolve(bound, Some(known.ip())) {
            Ok(addr) if addr == known => said = None,
            Ok(addr) => {
                (known, said) = (addr, None);
                if tell.send(addr).await.is_err() {
                    return;
                }
            }
            Err(error) if said.as_ref() != Some(&error) => {
                tracing::warn!(target: NODE_LOG, "our address {known} is no longer found: {error}");
                said = Some(error);
            }
            Err(_) => {}
        }
    }
}

fn random() -> Result<u64, DriveError> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| DriveError::Random)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Which registration has which instance, so that none withdraws or changes what another took up since.
#[derive(Default, Debug)]
struct Registered {
    serials: BTreeMap<Key, u64>,
    /// Withdrawals that the node refused for now: a withdrawal must not be lost.
    delayed: VecDeque<Withdrawal>,
    retry_at: Time,
}

#[derive(Debug)]
struct Withdrawal {
    key: Key,
    done: Option<oneshot::Sender<Result<(), Refusal>>>,
}

impl Withdrawal {
    fn done(self, result: Result<(), InputError>) {
        if let Some(done) = self.done {
            // Fails only when who asked has gone.
            let _ = done.send(result.map_err(Refusal::Input));
        }
    }
}

impl Registered {
    /// The serial of an instance that no registration has any more; registrations count from 1.
    const KEPT: u64 = 0;

    fn register(&mut self, serial: u64, instance: Arc<Instance>, carrier: &mut Carrier) -> Result<(), Refusal> {
        let key = instance.id.clone();
        if self.serials.get(&key).is_some_and(|serial| *serial != Self::KEPT) {
            return Err(Refusal::IdInUse);
        }
        carrier.hand(Input::Register(instance)).map_err(Refusal::Input)?;
        for overtaken in self.take_delayed(&key) {
            overtaken.done(Ok(()));
        }
        self.serials.insert(key, serial);
        Ok(())
    }

    fn update(&mut self, serial: u64, instance: Arc<Instance>, carrier: &mut Carrier) -> Result<(), Refusal> {
        if self.serials.get(&instance.id) != Some(&serial) {
            return Err(Refusal::Input(InputError::UnknownInstance(instance.id.clone())));
        }
        carrier.hand(Input::Register(instance)).map_err(Refusal::Input)
    }

    fn keep(&mut self, serial: u64, key: &Key) {
        if let Some(held) = self.serials.get_mut(key).filter(|held| **held == serial) {
            *held = Self::KEPT;
        }
    }

    fn withdraw(&mut self, serial: u64, withdrawal: Withdrawal, now: Time, carrier: &mut Carrier) {
        if self.serials.get(&withdrawal.key) != Some(&serial) {
            withdrawal.done(Ok(()));
            return;
        }
        self.serials.remove(&withdrawal.key);
        self.try_withdraw(withdrawal, now, carrier);
    }

    fn try_withdraw(&mut self, withdrawal: Withdrawal, now: Time, carrier: &mut Carrier) {
        match carrier.hand(Input::Withdraw(withdrawal.key.clone())) {
            Err(InputError::TooManyChanges { .. }) => {
                self.retry_at = now + WITHDRAW_AGAIN;
                self.delayed.push_back(withdrawal);
            }
            result => withdrawal.done(result),
        }
    }

    fn retries_at(&self) -> Option<Time> {
        (!self.delayed.is_empty()).then_some(self.retry_at)
    }

    fn retry(&mut self, now: Time, carrier: &mut Carrier) {
        if self.retries_at().is_some_and(|at| at <= now) {
            for withdrawal in std::mem::take(&mut self.delayed) {
                self.try_withdraw(withdrawal, now, carrier);
            }
        }
    }

    fn take_delayed(&mut self, key: &Key) -> VecDeque<Withdrawal> {
        let (taken, left) = std::mem::take(&mut self.delayed).into_iter().partition(|delayed| delayed.key == *key);
        self.delayed = left;
        taken
    }
}

/// What the data directory is to know.
#[derive(Clone, Debug)]
struct Known {
    epoch: Epoch,
    members: Vec<(NodeId, SocketAddr)>,
    /// Our ring, once it was changed while running.
    ring: Option<Keyring>,
    /// Counts the times that the view is worth writing down anew.
    view: u64,
}

/// Writes the members' addresses to the data directory, off the driver's thread: a slow disk must not stall it.
struct Keeper {
    dir: Arc<Mutex<DataDir>>,
    tell: watch::Sender<Known>,
    task: JoinHandle<()>,
    kept_at: Option<Time>,
    /// Instances that the saved view had no room for when it was last written.
    left_out: Arc<AtomicU64>,
}

impl Keeper {
    /// Opens the directory, and puts what it says into `config`.
    fn open(
        path: PathBuf,
        config: &mut Config,
        trust: &mut Trust,
        view: Reader,
    ) -> Result<(Self, Option<SavedView>), KeptError> {
        let now = unix_ms() / 1_000;
        let (dir, start) = DataDir::open(&path, config.id, now)?;
        if let Some(aside) = &start.set_aside {
            tracing::warn!(target: NODE_LOG, set_aside = %aside.display(),
                "the state file is corrupt; it was set aside, and this member starts with a new id");
        }
        (config.id, config.epoch) = (start.id, start.epoch);
        config.remembered = start.peers.iter().map(|(_, addr)| *addr).collect();
        let configured = trust.ring.clone();
        take_kept_ring(&dir, trust, now)?;
        // Nothing depends on it: a member without one starts all the same.
        let saved = dir.saved_view(now).unwrap_or_else(|error| {
            tracing::warn!(target: NODE_LOG, "{error}; it is not used");
            None
        });
        let dir = Arc::new(Mutex::new(dir));
        let (tell, told) = watch::channel(Known { epoch: start.epoch, members: start.peers, ring: None, view: 0 });
        let left_out = Arc::new(AtomicU64::new(0));
        let view = ViewToKeep { view, me: start.id, left_out: Arc::clone(&left_out) };
        let task = tokio::spawn(keep(Arc::clone(&dir), told, configured, view));
        Ok((Self { dir, tell, task, kept_at: None, left_out }, saved))
    }

    fn keep_at(&mut self, now: Time, carrier: &mut Carrier) {
        if self.kept_at.is_some_and(|at| now.since(at) < KEEP_EVERY) {
            return;
        }
        self.kept_at = Some(now);
        if let Some(members) = carrier.take_members() {
            self.tell(members);
        }
        if carrier.take_services_changed() {
            self.tell.send_modify(|known| known.view += 1);
        }
    }

    fn tell(&self, members: Vec<(NodeId, SocketAddr)>) {
        self.tell.send_if_modified(|known| {
            let is_new = known.members != members;
            known.members = members;
            is_new
        });
    }

    fn keep_ring(&self, ring: Keyring) {
        self.tell.send_modify(|known| known.ring = Some(ring));
    }

    fn is_older_than(&self, epoch: Epoch) -> bool {
        self.tell.borrow().epoch < epoch
    }

    fn keep_epoch(&self, epoch: Epoch) {
        self.tell.send_modify(|known| known.epoch = epoch);
    }

    /// Writes what is still unwritten, within a bounded time.
    async fn finish(self, members: Option<Vec<(NodeId, SocketAddr)>>) {
        if let Some(members) = members {
            self.tell(members);
        }
        self.tell.send_modify(|known| known.view += 1);
        drop(self.tell);
        if tokio::time::timeout(LEAVE_KEEP_MAX, self.task).await.is_err() {
            tracing::warn!(target: NODE_LOG, "the data directory is too slow: it may not know the newest members");
        }
    }

    /// Unlocks the directory when called, after a write that is under way.
    fn closer(&self) -> impl FnOnce() + use<> {
        let dir = Arc::clone(&self.dir);
        move || dir.lock().unwrap_or_else(PoisonError::into_inner).close()
    }
}

/// Puts the ring that is kept in the place of the configured one, if it is newer.
fn take_kept_ring(dir: &DataDir, trust: &mut Trust, now: u64) -> Result<(), KeptError> {
    let Some(configured) = &trust.ring else {
        if dir.has_ring() {
            tracing::warn!(target: NODE_LOG, "this member has no key; the keyring in its data directory is not used");
        }
        return Ok(());
    };
    match dir.ring(configured, now)? {
        RingStart::Configured => {}
        RingStart::Kept(ring) => {
            tracing::info!(target: NODE_LOG, revision = ring.revision(), in_use = ring.in_use().id(),
                "the keys are those of the data directory, which were changed while running");
            trust.ring = Some(ring);
        }
        RingStart::Replaced(aside) => {
            tracing::warn!(target: NODE_LOG, aside = %aside.display(),
                "other keys are configured than before: those that were changed while running are put aside");
        }
        RingStart::Corrupt(aside) => {
            tracing::warn!(target: NODE_LOG, set_aside = %aside.display(),
                "the kept keyring is corrupt; it was set aside, and this member starts with the configured keys");
        }
    }
    Ok(())
}

/// What is known of the services of others, to be written down.
#[derive(Clone)]
struct ViewToKeep {
    view: Reader,
    me: NodeId,
    left_out: Arc<AtomicU64>,
}

impl ViewToKeep {
    fn save(&self, dir: &DataDir) -> Result<(), KeptError> {
        let left_out = dir.save_view(&self.view, self.me, unix_ms() / 1_000)? as u64;
        if self.left_out.swap(left_out, Ordering::Relaxed) == 0 && left_out > 0 {
            tracing::warn!(target: NODE_LOG, left_out,
                "the saved view has no room for all instances: those of the last services by name are left out");
        }
        Ok(())
    }
}

/// Writes down whatever it is told, or the newest of it; tries again while that fails.
async fn keep(
    dir: Arc<Mutex<DataDir>>,
    mut told: watch::Receiver<Known>,
    configured: Option<Keyring>,
    view: ViewToKeep,
) {
    let mut has_failed = false;
    let mut ring_kept = None;
    let mut view_kept = 0;
    loop {
        let more = tokio::select! {
            changed = told.changed() => changed.is_ok(),
            () = tokio::time::sleep(KEEP_EVERY), if has_failed => true,
        };
        if !more {
            return;
        }
        let Known { epoch, members, ring, view: view_now } = told.borrow_and_update().clone();
        let new_ring = ring.clone().filter(|_| ring != ring_kept).zip(configured.clone());
        let dir = Arc::clone(&dir);
        let new_view = (view_now != view_kept).then(|| view.clone());
        let save = move || {
            let mut dir = dir.lock().unwrap_or_else(PoisonError::into_inner);
            let ring = new_ring.map_or(Ok(()), |(ring, configured)| dir.save_ring(&ring, &configured));
            let view = new_view.map_or(Ok(()), |view| view.save(&dir));
            dir.save(epoch, &members).and(ring).and(view)
        };
        let saved = tokio::task::spawn_blocking(save).await;
        has_failed = !matches!(saved, Ok(Ok(())));
        match saved {
            Ok(Ok(())) => (ring_kept, view_kept) = (ring, view_now),
            Ok(Err(error)) => {
                tracing::warn!(target: NODE_LOG, "{error}; trying again in {} s", KEEP_EVERY.as_secs());
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_says_zero_and_gives_back_what_it_said() {
        let clock = Clock::start();
        let now = clock.now();
        assert!(now > Time::ZERO);
        assert!(clock.instant(now) >= clock.instant(Time::ZERO));
    }
}
