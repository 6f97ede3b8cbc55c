//! The handle that a program holds: start a member, offer instances, look services up, watch, leave.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::detector::Rtt;
use crate::effect::{Event, InputError, Warning};
use crate::knobs::{self, KnobError};
use crate::net::driver::{self, Command, DriveError, Link, Plan, Refusal};
use crate::net::recorder::RecordPlan;
use crate::net::rotate::{KeyChange, Trust};
use crate::net::tally::Tallies;
pub use crate::node::Agreement;
use crate::node::Tuning;
use crate::peer::{Evidence, Member, NodeId, Peer};
use crate::record::{Instance, InstanceError, Key, check_name};

pub use crate::effect::{Heard, Unconfirmed, WhyUnconfirmed};
pub use crate::net::advertise::{Advertise, AdvertiseError};
pub use crate::net::gate::{Draining, Gate, Pass};
pub use crate::net::kept_view::SavedView;
pub use crate::net::keys::{ClusterKey, KeyError, KeyId, KeyInfo, Keyring, KeyringError};
pub use crate::net::rotate::{KeysError, KeysStatus, MemberKeys, PemFiles};
pub use crate::net::seal::{Plaintext, SealStats};
pub use crate::net::stats::{DriverStats, Explanation, Health, Stats, Told};
pub use crate::net::tally::TALLIED_MAX;
pub use crate::net::target::{Target, TargetError};
pub use crate::view::{Diff, Kept, LookupError, Offered, Out, Reader, Service, Sizes, Status, StopReason};

/// Join targets that a member may be given.
pub const JOIN_MAX: usize = 256;

/// How long a start waits to join, unless said otherwise.
pub const JOIN_WAIT: Duration = Duration::from_secs(30);

/// How long a drain lets calls in after everybody has confirmed that they know of it: a call that was picked just
/// before is still on its way, perhaps on a busy machine.
pub const ON_THE_WAY: Duration = Duration::from_millis(100);

/// How often members are asked whether they agree by now.
const SURVEY_EVERY: Duration = Duration::from_millis(100);

/// How long after an answer a survey looks anew: answers come many at once.
const SURVEY_AFTER_ANSWER: Duration = Duration::from_millis(10);

/// How long [`Registry::agreement`] waits for answers.
const SURVEY_WAIT: Duration = Duration::from_millis(250);

/// How long a drain waits, at the most, for members to confirm that they know of it: those that have not by then are
/// reported, and the drain goes on.
pub const CONFIRM_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a canary is made, unless said otherwise: news that says nothing, by which every member sees how long news
/// takes.
pub const CANARY_EVERY: Duration = Duration::from_secs(60);

/// What a start does while nobody of those to join answers. With nobody to join, every start is at once complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinPolicy {
    /// Wait until joined, and fail after this time; the member is then stopped.
    Require(Duration),
    /// Do not wait: joining goes on beside the program.
    Background,
    /// Wait until joined, but no longer than this; joining goes on beside the program.
    Warn(Duration),
}

impl Default for JoinPolicy {
    fn default() -> Self {
        Self::Require(JOIN_WAIT)
    }
}

/// A member to be started; see [`Registry::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is started"]
pub struct Builder {
    plan: Plan,
    join: Vec<String>,
    policy: JoinPolicy,
    keys: Vec<ClusterKey>,
    is_insecure: bool,
}

impl Builder {
    /// The address of the one UDP port; `127.0.0.1:0` unless given. Port 0 takes a free one.
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.plan.bind = addr;
        self
    }

    /// The address that the others reach that port at, if it is another than the bound one. Port 0 means the bound
    /// port.
    pub fn advertise(mut self, addr: SocketAddr) -> Self {
        self.plan.advertise = Advertise::Addr(addr);
        self
    }

    /// How the address is found that the others reach that port at; [`Advertise::Auto`] unless given. An address that
    /// is found among the machine's own is looked at again every few seconds; when it changed, everybody is told.
    pub fn advertise_as(mut self, how: Advertise) -> Self {
        self.plan.advertise = how;
        self
    }

    /// Adds members to join through: `HOST:PORT`, `dns:NAME:PORT`, `srv:NAME`, `file:PATH` or `exec:CMD`, see
    /// [`Target`]. One that answers is enough. All are resolved anew at each try; one that fails is a warning, and
    /// costs no other. The member's own address among them is ignored, so all members may be given the same list.
    pub fn join(mut self, targets: impl IntoIterator<Item: Into<String>>) -> Self {
        self.join.extend(targets.into_iter().map(Into::into));
        self
    }

    /// Keeps the member's identity, the addresses of the others, and a keyring that was changed while running, in this
    /// directory, which is made if needed. Without one, each start is a new member. The kept ring is used in place of
    /// the configured keys as long as these are the same as when it was kept.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.plan.data_dir = Some(path.into());
        self
    }

    /// Where the member stands, such as an availability zone.
    pub fn zone(mut self, zone: &str) -> Self {
        self.plan.zone = Arc::from(zone);
        self
    }

    /// Other settings of the protocol than those that ship. All members of a cluster should have the same: whoever
    /// waits for less than the others calls them dead too early.
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.plan.tuning = tuning;
        self
    }

    /// Writes down all that happens to the member, for `tidings-sim replay`. Keys never stand in it; all that members
    /// say of their services does. The writing never holds the member up: where the disk is too slow, or at the size
    /// limit, the recording ends, with a warning in the log and in [`Stats::recording`](crate::net::stats::Stats).
    pub fn record(mut self, plan: RecordPlan) -> Self {
        self.plan.record = Some(plan);
        self
    }

    /// How often a canary is made; every [`CANARY_EVERY`] unless given, and never if zero. Of all members that can be
    /// reached, the one of the lowest id makes them; how long they took is in
    /// [`Stats::propagation`](crate::net::stats::Stats).
    pub fn canary_every(mut self, every: Duration) -> Self {
        self.plan.canary_every = every;
        self
    }

    /// What to do while nobody answers; [`JoinPolicy::Require`] with [`JOIN_WAIT`] unless given.
    pub fn join_policy(mut self, policy: JoinPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Seals all that the member says with this cluster key, and believes only what is sealed with it. Several keys are
    /// all believed, and the first one seals; see also [`keyring`](Self::keyring). Without a key only loopback
    /// addresses can be used.
    pub fn key(mut self, key: ClusterKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Like [`key`](Self::key), with a ring that was kept: it says itself which key seals.
    pub fn keyring(mut self, ring: Keyring) -> Self {
        self.plan.trust.ring = Some(ring);
        self
    }

    /// Lets a member without a key use addresses that other machines can reach. Then **everybody who can reach its
    /// port is a member**, can read all and change all.
    pub fn insecure(mut self, is_insecure: bool) -> Self {
        self.is_insecure = is_insecure;
        self
    }

    /// What a member with a key does with datagrams in clear: for turning encryption on in a running cluster.
    pub fn accept_plaintext(mut self, plaintext: Plaintext) -> Self {
        self.plan.trust.plaintext = plaintext;
        self
    }

    /// Authenticates streams with certificates of your own, in PEM files, instead of ones that the cluster key makes.
    /// Every certificate must carry the DNS name [`MEMBER_NAME`](crate::net::tls::MEMBER_NAME), for servers and
    /// clients both. Datagrams need the cluster key all the same; it cannot be changed while running.
    pub fn tls_pem(mut self, files: PemFiles) -> Self {
        self.plan.trust.pem = Some(files);
        self
    }

    /// Starts the member on a thread of its own. Works within any async runtime, and needs none of its services.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(mut self) -> Result<Registry, StartError> {
        for key in std::mem::take(&mut self.keys) {
            match &mut self.plan.trust.ring {
                Some(ring) => ring.add(key)?,
                none => *none = Some(Keyring::new(key)?),
            }
        }
        let join = self.join;
        self.plan.join = check(&self.plan, &join, self.is_insecure)?;
        warn_of_danger(&self.plan);
        let (commands, link) = driver::start(self.plan).await?;
        let registry = Registry { commands, link };
        let (wait, is_required) = match self.policy {
            JoinPolicy::Background => return Ok(registry),
            JoinPolicy::Require(wait) => (wait, true),
            JoinPolicy::Warn(wait) => (wait, false),
        };
        let is_over = registry.after(wait);
        tokio::select! {
            biased;
            ready = registry.ready() => ready.map(|()| registry).map_err(StartError::Stopped),
            () = is_over => {
                if is_required {
                    let link = Arc::clone(&registry.link);
                    drop(registry);
                    link.stop_reason().await;
                    let refusal = link.refusal().map(|warning| Warning::clone(&warning));
                    return Err(StartError::NotJoined { join, waited: wait, refusal });
                }
                tracing::warn!(target: driver::NODE_LOG, ?join, "nobody to join has answered within {wait:?}; going on");
                Ok(registry)
            }
        }
    }
}

/// Checks all that can be checked before anything is touched.
/// Gives the targets to join through.
fn check(plan: &Plan, join: &[String], is_insecure: bool) -> Result<Vec<Target>, StartError> {
    check_name("cluster name", &plan.cluster)?;
    check_name("member name", &plan.name)?;
    if !plan.zone.is_empty() {
        check_name("zone", &plan.zone)?;
    }
    knobs::check(&plan.tuning)?;
    // Without a key, whoever reaches the port is a member: so nobody else's machine may, unless that is wanted.
    let is_open = plan.trust.ring.is_some() || is_insecure;
    let advertised = plan.advertise.resolve(plan.bind, None).map_err(DriveError::Advertise)?;
    for (what, addr) in [("bind", plan.bind), ("advertise", advertised)] {
        if !is_open && !addr.ip().to_canonical().is_loopback() {
            return Err(StartError::NotLoopback { what, addr });
        }
    }
    if join.len() > JOIN_MAX {
        return Err(StartError::TooManyToJoin { count: join.len(), limit: JOIN_MAX });
    }
    Ok(join.iter().map(|target| target.parse()).collect::<Result<_, TargetError>>()?)
}

fn warn_of_danger(plan: &Plan) {
    let is_loopback = |addr: SocketAddr| addr.ip().to_canonical().is_loopback();
    if plan.trust.ring.is_none() && !is_loopback(plan.bind) {
        tracing::warn!(target: driver::NODE_LOG, bind = %plan.bind,
            "insecure: without a cluster key, whoever reaches this port is a member and can change everything");
    }
    if plan.trust.ring.is_some() && plan.trust.plaintext != Plaintext::Refuse {
        tracing::warn!(target: driver::NODE_LOG, "insecure: datagrams in clear are accepted from anybody");
    }
}

/// Why a member could not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A name, the zone or a join target breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InstanceError),
    /// A join target means nothing.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// An address that other machines can reach; without keys, only loopback is accepted.
    #[error(
        "cannot {what} {addr}: without a cluster key only loopback addresses are accepted; give a key, or say \
             that it shall be insecure"
    )]
    NotLoopback {
        /// `bind` or `advertise`.
        what: &'static str,
        /// The address.
        addr: SocketAddr,
    },
    /// The settings of the protocol make no sense.
    #[error(transparent)]
    Tuning(#[from] KnobError),
    /// The cluster keys do not make a ring.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// Too many members to join through.
    #[error("{count} members to join through, the limit is {limit}")]
    TooManyToJoin {
        /// How many there are.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The driver could not start: a port in use, a data directory that cannot be used ...
    #[error(transparent)]
    Drive(DriveError),
    /// Nobody to join answered in time.
    #[error("could not join through any of {join:?} within {waited:?}: {}", cause(.refusal))]
    NotJoined {
        /// What was to be joined.
        join: Vec<String>,
        /// How long it was waited.
        waited: Duration,
        /// Why the last that answered was no help; `None` if nobody answered.
        refusal: Option<Warning>,
    },
    /// The member stopped while it joined: its name or its id belongs to another live member ...
    #[error(transparent)]
    Stopped(StopReason),
}

fn cause(refusal: &Option<Warning>) -> String {
    refusal.as_ref().map_or_else(|| "nobody answers".into(), ToString::to_string)
}

impl From<DriveError> for StartError {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Stopped(reason) => Self::Stopped(reason),
            error => Self::Drive(error),
        }
    }
}

/// A handle to a running member. Clones are handles to the same one.
///
/// When the last handle, [`Registration`]s included, is dropped without [`leave`](Self::leave), the member stops at
/// once and without a word: the others take it for crashed. Its thread ends and its port is freed very soon after.
#[derive(Clone, Debug)]
pub struct Registry {
    commands: mpsc::UnboundedSender<Command>,
    link: Arc<Link>,
}

/// A handle that keeps no member running.
#[cfg(feature = "dns")]
pub(crate) struct WeakRegistry {
    commands: mpsc::WeakUnboundedSender<Command>,
    link: Arc<Link>,
}

#[cfg(feature = "dns")]
impl WeakRegistry {
    /// A full handle, as long as somebody else holds one.
    pub(crate) fn upgrade(&self) -> Option<Registry> {
        Some(Registry { commands: self.commands.upgrade()?, link: Arc::clone(&self.link) })
    }
}

impl Registry {
    /// A member named `name` of the cluster `cluster`. Names are unique in a cluster.
    pub fn builder(cluster: &str, name: &str) -> Builder {
        let plan = Plan {
            cluster: Arc::from(cluster),
            name: Arc::from(name),
            zone: Arc::from(""),
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: Advertise::Auto,
            join: Vec::new(),
            data_dir: None,
            trust: Trust::default(),
            tuning: Tuning::default(),
            record: None,
            canary_every: CANARY_EVERY,
        };
        Builder { plan, join: Vec::new(), policy: JoinPolicy::default(), keys: Vec::new(), is_insecure: false }
    }

    /// Who this member is now.
    pub fn peer(&self) -> Peer {
        self.link.peer()
    }

    /// Its lasting id.
    pub fn id(&self) -> NodeId {
        self.peer().id
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.link.name
    }

    /// The address that its port is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.link.local
    }

    /// Whether somebody who has no key can be a member: it has none itself and its port can be reached from other
    /// machines ([`Builder::insecure`]), or it accepts datagrams in clear ([`Builder::accept_plaintext`]).
    pub fn is_insecure(&self) -> bool {
        self.link.is_insecure
    }

    /// Offers an instance, until its guard is dropped, withdrawn, or the member leaves.
    ///
    /// Sets [`Instance::registered_at`], and the id, where it is empty, to `service@member:port`. When this returns,
    /// the instance is in our own view and on its way to the others. Dropped before, it leaves nothing registered.
    ///
    /// # Errors
    /// See [`RegisterError`]; nothing is registered.
    pub async fn register(&self, instance: Instance) -> Result<Registration, RegisterError> {
        let service = Arc::clone(&instance.service);
        let result = self.take_up(instance).await;
        self.tallies().note_registration(&service, result.is_ok());
        result
    }

    /// What is counted by service.
    pub(crate) fn tallies(&self) -> &Tallies {
        &self.link.tallies
    }

    /// Registers without counting it: for who counts what it was asked for itself.
    pub(crate) async fn take_up(&self, mut instance: Instance) -> Result<Registration, RegisterError> {
        if instance.id.is_member() {
            instance.id = Instance::default_id(&instance.service, self.name(), instance.address.port);
        }
        instance.registered_at = driver::unix_ms();
        instance.check().map_err(RegisterError::Invalid)?;
        let serial = self.link.next_serial();
        let instance = Arc::new(instance);
        let (done, result) = oneshot::channel();
        let command = Command::Register { serial, instance: Arc::clone(&instance), done };
        self.send(command).map_err(RegisterError::Stopped)?;
        // Made before the answer is there: a caller that gives up waiting drops it, and that withdraws.
        let mut guard = Registration { registry: self.clone(), serial, instance, is_armed: true };
        let result = self.answer(result).await.map_err(RegisterError::Stopped)?;
        guard.is_armed = result.is_ok();
        match result {
            Ok(()) => Ok(guard),
            Err(Refusal::IdInUse) => Err(RegisterError::IdInUse { id: guard.instance.id.clone() }),
            Err(Refusal::Input(error)) => Err(RegisterError::Refused(error)),
        }
    }

    /// The service, with at least one healthy instance. Takes no lock, allocates nothing and never waits.
    ///
    /// While the member is joining, what it already knows is given, and [`LookupError::NotReady`] instead of the
    /// other errors: the view may just not have it yet.
    ///
    /// # Errors
    /// See [`LookupError`]; every variant means that there is no instance to send traffic to.
    pub fn lookup(&self, service: &str) -> Result<Arc<Service>, LookupError> {
        self.link.reader.lookup(service)
    }

    /// Like [`lookup`](Self::lookup), but only lends the service: see [`Reader::read`].
    ///
    /// # Errors
    /// As for [`lookup`](Self::lookup).
    pub fn read<R>(&self, service: &str, read: impl FnOnce(&Service) -> R) -> Result<R, LookupError> {
        self.link.reader.read(service, read)
    }

    /// Like [`lookup`](Self::lookup), but also gives a service of which only the last known good instances are left:
    /// see [`Reader::last_known`].
    ///
    /// # Errors
    /// As for [`lookup`](Self::lookup).
    pub fn last_known(&self, service: &str) -> Result<Arc<Service>, LookupError> {
        self.link.reader.last_known(service)
    }

    /// Waits until the service has a healthy instance, and gives it: for finding a service at the first call. Without
    /// waiting if it is there already.
    ///
    /// # Errors
    /// [`Missing`], once `timeout` is over or the member stopped.
    pub async fn discover(&self, service: &str, timeout: Duration) -> Result<Arc<Service>, Missing> {
        let is_over = pin!(self.after(timeout));
        self.find(service, is_over).await.map_err(|error| Missing { services: vec![(service.to_owned(), error)] })
    }

    /// Waits until this member has joined and each of the services has a healthy instance: for finding out at the start
    /// of a program what it would lack later.
    ///
    /// ```no_run
    /// # async fn start(registry: tidings::Registry) -> Result<(), tidings::registry::Missing> {
    /// registry.require_services(["payments", "stock"], std::time::Duration::from_secs(10)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Missing`] names those that are not there once `timeout` is over, or the member stopped, each with the reason.
    pub async fn require_services(
        &self,
        services: impl IntoIterator<Item: Into<String>>,
        timeout: Duration,
    ) -> Result<(), Missing> {
        let mut is_over = pin!(self.after(timeout));
        let joined = tokio::select! {
            biased;
            joined = self.ready() => joined.is_ok(),
            () = &mut is_over => false,
        };
        let mut missing = Vec::new();
        for service in services {
            let service = service.into();
            // Once the time is over every further one is looked at, and not waited for.
            let found = if joined && missing.is_empty() {
                self.find(&service, is_over.as_mut()).await
            } else {
                self.lookup(&service)
            };
            missing.extend(found.err().map(|error| (service, error)));
        }
        if missing.is_empty() && joined { Ok(()) } else { Err(Missing { services: missing }) }
    }

    /// The service once it has a healthy instance, or why it has none when the time is over or the member stops.
    async fn find(
        &self,
        service: &str,
        mut is_over: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Arc<Service>, LookupError> {
        let mut watch = self.watch(service);
        loop {
            match self.lookup(service) {
                Err(LookupError::Stopped(reason)) => return Err(LookupError::Stopped(reason)),
                Err(_) => {}
                found => return found,
            }
            tokio::select! {
                biased;
                // A member that stopped says so above.
                _ = watch.changed() => {}
                () = &mut is_over => return self.lookup(service),
            }
        }
    }

    /// Reads the view without keeping the member running.
    pub fn reader(&self) -> Reader {
        self.link.reader.clone()
    }

    /// What an earlier start of this member knew of the others' services; only with a data directory. Behind gossip in
    /// a [`Chain`](crate::select::chain::Chain) it serves a program that starts while nobody else is there: start it
    /// with [`JoinPolicy::Background`].
    pub fn saved_view(&self) -> Option<SavedView> {
        self.link.saved.clone()
    }

    /// Every service of which an instance is known, healthy or not, sorted by name.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.link.reader.services()
    }

    /// Every member, sorted by name, then by id; those that are down too, until they are forgotten.
    pub fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.link.reader.members()
    }

    /// The changes of a service from now on, known already or not. Does not keep the member running.
    pub fn watch(&self, service: &str) -> Watch {
        let news = self.link.hub.watch(service, &self.link.reader);
        let seen = news.borrow().clone();
        Watch { link: Arc::clone(&self.link), news: Some(news), seen }
    }

    /// Every event from now on. Does not keep the member running.
    pub fn events(&self) -> Events {
        Events { events: self.link.hub.events() }
    }

    /// What was counted since the start, and what is held now.
    ///
    /// # Errors
    /// The member stopped.
    pub async fn stats(&self) -> Result<Stats, StopReason> {
        let (done, stats) = oneshot::channel();
        self.send(Command::Stats(done))?;
        self.answer(stats).await
    }

    /// How it came that a member is believed to be in its state: who accused it, who confirmed that, when, over which
    /// link, and what it said to that. `None` if no such member is known.
    ///
    /// # Errors
    /// The member stopped.
    pub async fn explain(&self, id: NodeId) -> Result<Option<Explanation>, StopReason> {
        let (done, explanation) = oneshot::channel();
        self.send(Command::Explain(id, done))?;
        self.answer(explanation).await
    }

    /// The round-trip times to the members that this one has probed, as it takes them for its timeouts. A member probes
    /// its successor on the ring, those it is asked to probe, and at random: in a large cluster not all are known.
    ///
    /// # Errors
    /// The member stopped.
    pub async fn rtts(&self) -> Result<BTreeMap<NodeId, Rtt>, StopReason> {
        let (done, rtts) = oneshot::channel();
        self.send(Command::Rtts(done))?;
        self.answer(rtts).await
    }

    #[cfg(feature = "dns")]
    pub(crate) fn downgrade(&self) -> WeakRegistry {
        WeakRegistry { commands: self.commands.downgrade(), link: Arc::clone(&self.link) }
    }

    /// Forgets a member that cannot be reached: an operator's word that it is gone, which ends the wait of
    /// `evict_after` and of a suspected split. Others are asked once more whether they reach it, which takes some
    /// seconds at most; then it is down at every member. If it lives after all, it begins another life when it is back.
    ///
    /// # Errors
    /// See [`ForgetError`]; the member stays as it was.
    pub async fn forget(&self, id: NodeId) -> Result<(), ForgetError> {
        let (done, result) = oneshot::channel();
        self.send(Command::Forget(id, done)).map_err(ForgetError::Stopped)?;
        self.answer(result).await.map_err(ForgetError::Stopped)?.map_err(ForgetError::Refused)
    }

    /// The cluster keys of this member, and, asked just now, those of every other present member.
    ///
    /// It takes as long as the slowest of them, five seconds at most for every sixteen that do not answer.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub async fn keys(&self) -> Result<KeysStatus, KeysError> {
        self.ask_keys(None).await
    }

    /// Believes one more cluster key from now on, here and at every present member. Members that are away learn of it
    /// when they are back.
    ///
    /// # Errors
    /// See [`KeysError`]; nothing changed, unless the member stopped.
    pub async fn add_key(&self, key: ClusterKey) -> Result<KeysStatus, KeysError> {
        self.ask_keys(Some(KeyChange::Add(key))).await
    }

    /// Seals with this key of the ring from now on, here and at every present member. A member that does not have it
    /// ([`KeysStatus::lacking`]) is out of touch until it is told; that happens by itself while it shares another.
    ///
    /// # Errors
    /// As for [`add_key`](Self::add_key).
    pub async fn use_key(&self, id: KeyId) -> Result<KeysStatus, KeysError> {
        self.ask_keys(Some(KeyChange::Use(id))).await
    }

    /// Believes this key no longer, here and at every present member. A member that is away and has no other cannot
    /// come back until it is given a new one by hand.
    ///
    /// # Errors
    /// As for [`add_key`](Self::add_key).
    pub async fn remove_key(&self, id: KeyId) -> Result<KeysStatus, KeysError> {
        self.ask_keys(Some(KeyChange::Remove(id))).await
    }

    /// The ring of this member whenever it changes, secrets and all, for keeping it over a restart. `None` without a
    /// key.
    pub fn keyring(&self) -> watch::Receiver<Option<Keyring>> {
        self.link.keyring.subscribe()
    }

    async fn ask_keys(&self, change: Option<KeyChange>) -> Result<KeysStatus, KeysError> {
        let (done, status) = oneshot::channel();
        self.send(Command::Keys(change, done)).map_err(KeysError::Stopped)?;
        self.answer(status).await.map_err(KeysError::Stopped)?
    }

    /// How far the member is.
    pub fn status(&self) -> Status {
        self.link.reader.status()
    }

    /// Waits until the member has joined: until then its view may lack what others know.
    ///
    /// # Errors
    /// The member stopped.
    pub async fn ready(&self) -> Result<(), StopReason> {
        match self.link.reached(|status| *status != Status::Joining).await {
            Status::Stopped(reason) => Err(reason),
            Status::Joining | Status::Ready => Ok(()),
        }
    }

    /// Waits until the member has stopped, and tells why. Then its port is free.
    pub async fn stopped(&self) -> StopReason {
        self.link.stop_reason().await
    }

    /// Says goodbye to everybody and stops: the others drop the member and its instances at once. When this returns,
    /// the port and the data directory are free; it takes less than a second. All handles are then of a stopped member.
    ///
    /// Once begun, the leaving goes on even when nobody waits for it; asked again, this waits for the same end.
    ///
    /// # Errors
    /// The member stopped for another reason, before or meanwhile: the others may not have heard a goodbye.
    pub async fn leave(&self) -> Result<(), LeaveError> {
        // A member that has stopped already tells its reason below.
        let _ = self.send(Command::Leave);
        match self.stopped().await {
            StopReason::Left => Ok(()),
            reason => Err(LeaveError { reason }),
        }
    }

    /// How many members know the same as this one: asks those that it does not know it of, for up to a quarter of a
    /// second, less if all agree before.
    ///
    /// # Errors
    /// The member stopped.
    pub async fn agreement(&self) -> Result<Agreement, StopReason> {
        self.agreed(1.0, SURVEY_WAIT).await
    }

    /// Waits until this part of the members, 0 to 1, knows the same as this one, but no longer than `within`. Gives how
    /// many did at the end: whether that is enough is in [`Agreement::share`].
    ///
    /// While news travel nobody agrees with anybody; in a cluster that changes all the time a whole agreement is luck.
    ///
    /// # Errors
    /// The member stopped.
    pub async fn agreed(&self, min: f64, within: Duration) -> Result<Agreement, StopReason> {
        let mut is_over = pin!(self.after(within));
        loop {
            let mut surveyed = pin!(self.link.surveyed.notified());
            // Listens before it looks: what is answered in between is not missed.
            surveyed.as_mut().enable();
            let (done, agreement) = oneshot::channel();
            self.send(Command::Survey(done))?;
            let agreement = self.answer(agreement).await?;
            if agreement.share() >= min {
                return Ok(agreement);
            }
            let answered = async {
                surveyed.await;
                self.after(SURVEY_AFTER_ANSWER).await;
            };
            tokio::select! {
                biased;
                () = &mut is_over => return Ok(agreement),
                () = answered => {}
                () = self.after(SURVEY_EVERY) => {}
                // No timer tells a member that stopped.
                reason = self.stopped() => return Err(reason),
            }
        }
    }

    /// The gate that the program's work passes: let every call and every job take a [`Pass`], and a
    /// [drain](Self::drain) waits for them. It closes when the member drains.
    pub fn gate(&self) -> &Gate {
        &self.link.gate
    }

    /// Leaves without losing a call. Says of every instance that it is draining, and waits until the reachable members
    /// have confirmed that they know (for [`CONFIRM_WAIT_MAX`] at most): until then calls are let in, for nobody could
    /// know better. A moment later, [`ON_THE_WAY`], when calls that were under way have arrived, it closes the
    /// [`gate`](Self::gate), waits until all work that passed it has ended, and [leaves](Self::leave). All of it but
    /// the goodbye takes `timeout` at most; what is not done by then is reported, not waited for.
    ///
    /// A member that cannot be reached is not waited for either: it is reported by name. Dropped before its end, this
    /// leaves the member draining; call it again to go on.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidings::registry::Registry;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let registry = Registry::builder("demo", "shop").start().await?;
    /// let call = registry.gate().call()?;
    /// // ... the call is answered, here by another task ...
    /// drop(call);
    /// let drained = registry.drain(Duration::from_secs(10)).await?;
    /// assert!(drained.is_clean());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The member stopped for another reason, before or meanwhile.
    pub async fn drain(&self, timeout: Duration) -> Result<Drained, LeaveError> {
        let began = self.link.clock.now();
        let gate = &self.link.gate;
        let mut is_over = pin!(self.after(timeout));
        let (done, heard) = oneshot::channel();
        self.send(Command::Drain(timeout.min(CONFIRM_WAIT_MAX), done)).map_err(|reason| LeaveError { reason })?;
        let heard = self.answer(heard).await.map_err(|reason| LeaveError { reason })?;
        let confirmed_after = self.link.clock.now().since(began);
        let done = async {
            if heard.confirmed + heard.unconfirmed.len() > 0 {
                self.after(ON_THE_WAY).await;
            }
            gate.close();
            gate.idle().await;
        };
        let (calls_left, tasks_left) = tokio::select! {
            biased;
            // Not counted anew: whoever is refused is counted for a moment.
            () = done => (0, 0),
            () = &mut is_over => {
                gate.close();
                (gate.calls(), gate.tasks())
            }
        };
        let Heard { confirmed, unconfirmed } = Heard::clone(&heard);
        let took = self.link.clock.now().since(began);
        self.leave().await?;
        Ok(Drained { confirmed, unconfirmed, confirmed_after, calls_left, tasks_left, took })
    }

    /// Joins through these addresses too, beside those of the start: from now on, until the member stops. Those where
    /// nobody is known are tried about once a second, so who is there becomes a member a little later; a member of
    /// another cluster is refused as ever. Of more than 256, some are forgotten.
    ///
    /// # Errors
    /// The member stopped.
    pub fn join(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Result<(), StopReason> {
        self.send(Command::Join(addresses.into_iter().collect()))
    }

    /// How long ago a member was last heard; `None` if it never was.
    pub fn age(&self, evidence: &Evidence) -> Option<Duration> {
        evidence.last().map(|at| self.link.clock.now().since(at))
    }

    /// The clock that the driver tells its node the time by.
    #[cfg(feature = "agent")]
    pub(crate) fn clock(&self) -> driver::Clock {
        self.link.clock
    }

    fn send(&self, command: Command) -> Result<(), StopReason> {
        self.commands.send(command).map_err(|_| self.link.reader.stop_reason().unwrap_or(StopReason::Left))
    }

    /// The driver's answer, or why it stopped instead of giving one.
    async fn answer<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, StopReason> {
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.stopped().await),
        }
    }

    /// Ends when `span` has passed, by the driver's timers; never if the driver stopped.
    fn after(&self, span: Duration) -> impl Future<Output = ()> + use<> {
        let (done, is_over) = oneshot::channel();
        let sent = self.send(Command::After(span, done)).is_ok();
        async move {
            if !sent || is_over.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// An instance that this member offers. Dropping it withdraws the instance, without waiting.
///
/// It is a handle too: while it lives, the member runs.
#[derive(Debug)]
#[must_use = "dropping it withdraws the instance"]
pub struct Registration {
    registry: Registry,
    serial: u64,
    instance: Arc<Instance>,
    is_armed: bool,
}

impl Registration {
    /// The instance's id.
    pub fn id(&self) -> &Key {
        &self.instance.id
    }

    /// The instance as it is registered.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Changes the instance; anything but its id. When this returns, the change is on its way. A change that changes
    /// nothing sends nothing.
    ///
    /// # Errors
    /// See [`UpdateError`]; the instance stays registered as it was.
    pub async fn update(&mut self, change: impl FnOnce(&mut Instance)) -> Result<(), UpdateError> {
        let mut after = Instance::clone(&self.instance);
        change(&mut after);
        after.registered_at = self.instance.registered_at;
        if after == *self.instance {
            return Ok(());
        }
        if after.id != self.instance.id {
            return Err(UpdateError::IdChanged { before: self.instance.id.clone(), after: after.id });
        }
        after.check().map_err(UpdateError::Invalid)?;
        let after = Arc::new(after);
        let (done, result) = oneshot::channel();
        let command = Command::Update { serial: self.serial, instance: Arc::clone(&after), done };
        self.registry.send(command).map_err(UpdateError::Stopped)?;
        // Set before the answer is there: a caller that gives up waiting has still, most likely, changed it.
        let before = std::mem::replace(&mut self.instance, after);
        let result = self.registry.answer(result).await;
        if !matches!(result, Ok(Ok(()))) {
            self.instance = before;
        }
        result.map_err(UpdateError::Stopped)?.map_err(|refusal| UpdateError::Refused(self.input_error(refusal)))
    }

    /// Withdraws the instance. When this returns, that is on its way to the others.
    ///
    /// # Errors
    /// See [`WithdrawError`].
    pub async fn withdraw(mut self) -> Result<(), WithdrawError> {
        let (done, result) = oneshot::channel();
        self.is_armed = false;
        let command = Command::Withdraw { serial: self.serial, key: self.id().clone(), done: Some(done) };
        self.registry.send(command).map_err(WithdrawError::Stopped)?;
        let result = self.registry.answer(result).await.map_err(WithdrawError::Stopped)?;
        result.map_err(|refusal| WithdrawError::Refused(self.input_error(refusal)))
    }

    /// Lets the instance stay without this guard: until the member leaves, or registers one of the same id.
    pub fn keep(mut self) {
        self.is_armed = false;
        // A member that has stopped keeps nothing.
        let _ = self.registry.send(Command::Keep { serial: self.serial, key: self.id().clone() });
    }

    fn input_error(&self, refusal: Refusal) -> InputError {
        match refusal {
            Refusal::Input(error) => error,
            Refusal::IdInUse => InputError::UnknownInstance(self.id().clone()),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.is_armed {
            // A member that has stopped offers nothing any more.
            let _ = self.registry.send(Command::Withdraw { serial: self.serial, key: self.id().clone(), done: None });
        }
    }
}

/// The changes of one service: level-triggered, so whoever is slow misses states between, but never the last one.
#[derive(Debug)]
pub struct Watch {
    link: Arc<Link>,
    /// `None` only while it is dropped.
    news: Option<watch::Receiver<Arc<Service>>>,
    seen: Arc<Service>,
}

impl Watch {
    /// The service as last told: at the start of the watch, or by [`changed`](Self::changed).
    pub fn current(&self) -> &Arc<Service> {
        &self.seen
    }

    /// Waits until the member has joined, and looks anew: before that, whoever looks sees itself alone.
    pub(crate) async fn joined(&mut self) -> Result<(), StopReason> {
        if let Status::Stopped(reason) = self.link.reached(|status| *status != Status::Joining).await {
            return Err(reason);
        }
        if let Some(news) = &mut self.news {
            self.seen = Arc::clone(&news.borrow_and_update());
        }
        Ok(())
    }

    /// Waits until the service is published anew, though none of its instances may have changed.
    pub(crate) async fn changed_at_all(&mut self) -> Result<(), StopReason> {
        let Some(news) = &mut self.news else { return Err(self.link.stop_reason().await) };
        if news.changed().await.is_ok() {
            self.seen = Arc::clone(&news.borrow_and_update());
            return Ok(());
        }
        Err(self.link.stop_reason().await)
    }

    /// Waits until the service differs from [`current`](Self::current), and tells how; may be dropped and called again
    /// without losing anything.
    ///
    /// # Errors
    /// The member stopped; every change before that has been told.
    pub async fn changed(&mut self) -> Result<Diff, StopReason> {
        let Some(news) = &mut self.news else { return Err(self.link.stop_reason().await) };
        while news.changed().await.is_ok() {
            let now = Arc::clone(&news.borrow_and_update());
            let diff = self.seen.diff(&now);
            self.seen = now;
            if !diff.is_empty() {
                return Ok(diff);
            }
        }
        Err(self.link.stop_reason().await)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.news = None;
        self.link.hub.release(self.seen.name());
    }
}

/// Every event of a member, in order.
#[derive(Debug)]
pub struct Events {
    events: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` once the member has stopped. Whoever hears of a change finds it in the view.
    ///
    /// # Errors
    /// This reader was too slow, and lost the oldest events; the next call goes on with those that are left.
    pub async fn next(&mut self) -> Option<Result<Event, Lagged>> {
        match self.events.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next event, if there is one without waiting.
    #[cfg(feature = "agent")]
    pub(crate) fn heard_already(&mut self) -> Option<Result<Event, Lagged>> {
        match self.events.try_recv() {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::TryRecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => None,
        }
    }
}

/// How many events were lost, because their reader was too slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} events were lost: the reader is too slow")]
pub struct Lagged(pub u64);

/// Services that were waited for in vain.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", .services.iter().map(|(_, error)| error.to_string()).reduce(|all, one| all + "; " + &one)
    .unwrap_or_else(|| LookupError::NotReady.to_string()))]
pub struct Missing {
    /// Each with the reason; none if all are there and only the member itself has not joined.
    pub services: Vec<(String, LookupError)>,
}

/// Why an instance was not registered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// A part of it breaks a rule or a limit.
    #[error(transparent)]
    Invalid(InstanceError),
    /// This member offers an instance of that id already.
    #[error("instance {id} is registered already: update it through its registration, or choose another id")]
    IdInUse {
        /// The id.
        id: Key,
    },
    /// The whole is over a limit, or the member has left.
    #[error(transparent)]
    Refused(InputError),
    /// The member stopped.
    #[error(transparent)]
    Stopped(StopReason),
}

/// Why an instance was not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// A part of it breaks a rule or a limit.
    #[error(transparent)]
    Invalid(InstanceError),
    /// The id was changed.
    #[error("the id of instance {before} cannot become {after}: withdraw it and register another")]
    IdChanged {
        /// The id.
        before: Key,
        /// What it was changed to.
        after: Key,
    },
    /// The whole is over a limit, or the member has left.
    #[error(transparent)]
    Refused(InputError),
    /// The member stopped.
    #[error(transparent)]
    Stopped(StopReason),
}

/// Why a member was not forgotten.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForgetError {
    /// It lives, is gone already, or nobody could make sure; see [`NotForgotten`](crate::effect::NotForgotten).
    #[error(transparent)]
    Refused(InputError),
    /// This member stopped.
    #[error(transparent)]
    Stopped(StopReason),
}

/// Why an instance could not be withdrawn.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WithdrawError {
    /// The member has left: the instance is withdrawn with it.
    #[error(transparent)]
    Refused(InputError),
    /// The member stopped.
    #[error(transparent)]
    Stopped(StopReason),
}

/// How a drain went; the member has left.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Drained {
    /// Members that confirmed that they know that this one takes no new work.
    pub confirmed: usize,
    /// Members that did not: they may have gone on calling until they heard of the goodbye.
    pub unconfirmed: Vec<Unconfirmed>,
    /// When the last confirmation came, or the waiting for more of them ended.
    pub confirmed_after: Duration,
    /// Calls that were still inside the gate when the time was over.
    pub calls_left: u64,
    /// Jobs that were.
    pub tasks_left: u64,
    /// How long it took, up to the goodbye.
    pub took: Duration,
}

impl Drained {
    /// Whether nothing was cut off: no work was left, and every member that could be reached has confirmed. Otherwise
    /// the drain was forced by its timeout.
    pub fn is_clean(&self) -> bool {
        let is_silent = |member: &Unconfirmed| member.why == WhyUnconfirmed::Silent;
        self.calls_left + self.tasks_left == 0 && !self.unconfirmed.iter().any(is_silent)
    }
}

/// The member stopped without a goodbye, or nobody knows whether with one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no goodbye: {reason}")]
pub struct LeaveError {
    /// Why it stopped.
    pub reason: StopReason,
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::net::driver::Clock;
    use crate::net::kept::KeptError;
    use crate::net::socket::BindError;
    use crate::time::Time;

    /// Long enough for any machine; what ends here hangs.
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, what).await.expect("it should have happened long ago")
    }

    async fn member(name: &str, join: &[&Registry]) -> Registry {
        let join = join.iter().map(|seed| seed.local_addr().to_string());
        soon(Registry::builder("registry-test", name).join(join).start()).await.expect("it starts")
    }

    fn web(port: u16) -> Instance {
        Instance::new("web", SocketAddr::from(([127, 0, 0, 1], port))).expect("a valid instance")
    }

    /// Waits until the service is such.
    async fn until(watch: &mut Watch, is_such: impl Fn(&Service) -> bool) {
        while !is_such(watch.current()) {
            soon(watch.changed()).await.expect("the member runs");
        }
    }

    /// An address where nobody listens, and which stays ours to name while the socket lives.
    fn silent() -> (std::net::UdpSocket, SocketAddr) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let addr = socket.local_addr().expect("it is bound");
        (socket, addr)
    }

    fn is_free(addr: SocketAddr) -> bool {
        std::net::UdpSocket::bind(addr).is_ok()
    }

    #[test]
    fn handles_can_be_sent_and_shared() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Registry>();
        check::<Registration>();
        check::<Watch>();
        check::<Events>();
        check::<StartError>();
    }

    #[tokio::test]
    async fn a_member_sees_what_another_registers_changes_and_withdraws() {
        let a = member("a", &[]).await;
        let b = member("b", &[&a]).await;
        let mut watch = b.watch("web");
        assert!(watch.current().all().is_empty());
        let mut registration = soon(a.register(web(80))).await.unwrap();
        assert_eq!(registration.id().as_str(), "web@a:80");
        assert!(registration.instance().registered_at > 0);

        let added = soon(watch.changed()).await.unwrap();
        assert_eq!((added.added.len(), added.added[0].member.peer.id), (1, a.id()));
        assert_eq!(b.lookup("web").unwrap().healthy().len(), 1);
        soon(registration.update(|instance| instance.weight = 7)).await.unwrap();
        until(&mut watch, |web| web.all()[0].instance.weight == 7).await;
        soon(registration.withdraw()).await.unwrap();
        until(&mut watch, |web| web.all().is_empty()).await;
        assert!(matches!(b.lookup("web"), Err(LookupError::UnknownService { .. })));
        let names: Vec<_> = b.members().iter().map(|m| m.name.to_string()).collect();
        assert_eq!(names, ["a", "b"]);
        let age = b.members().iter().find(|m| m.peer.id == a.id()).and_then(|m| b.age(&m.evidence));
        assert!(age.expect("b has heard a") < PATIENCE);
    }

    #[tokio::test]
    async fn dropping_a_guard_withdraws_and_keeping_does_not() {
        let a = member("a", &[]).await;
        let dropped = soon(a.register(web(80))).await.unwrap();
        let kept = soon(a.register(web(81))).await.unwrap();
        assert_eq!(a.lookup("web").unwrap().healthy().len(), 2, "an own instance is in the own view at once");
        kept.keep();
        drop(dropped);
        let mut watch = a.watch("web");
        until(&mut watch, |web| web.all().len() == 1).await;
        assert_eq!(watch.current().all()[0].instance.id.as_str(), "web@a:81");
        // An instance without a guard may be taken up by a new one.
        let again = soon(a.register(web(81).with_weight(3))).await.unwrap();
        soon(again.withdraw()).await.unwrap();
        assert!(a.services().is_empty());
    }

    #[tokio::test]
    async fn an_id_is_registered_once_and_the_second_try_leaves_the_first() {
        let a = member("a", &[]).await;
        let first = soon(a.register(web(80))).await.unwrap();
        let error = soon(a.register(web(80))).await.unwrap_err();
        assert_eq!(error, RegisterError::IdInUse { id: first.id().clone() });
        soon(a.stats()).await.unwrap();
        assert_eq!(a.lookup("web").unwrap().healthy().len(), 1);
    }

    #[tokio::test]
    async fn a_registration_that_nobody_waits_for_leaves_nothing() {
        let a = member("a", &[]).await;
        let mut events = a.events();
        {
            let mut register = pin!(a.register(web(80)));
            let mut context = Context::from_waker(Waker::noop());
            assert!(register.as_mut().poll(&mut context).is_pending(), "it waits for the driver");
        }
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match soon(events.next()).await {
                Some(Ok(Event::ServiceUp { .. })) => seen.push("up"),
                Some(Ok(Event::ServiceDown { .. })) => seen.push("down"),
                Some(_) => {}
                None => panic!("the member runs"),
            }
        }
        assert_eq!(seen, ["up", "down"]);
        assert!(a.services().is_empty());
    }

    #[tokio::test]
    async fn what_an_update_may_not_do_changes_nothing() {
        let a = member("a", &[]).await;
        let mut registration = soon(a.register(web(80))).await.unwrap();
        let renamed = soon(registration.update(|instance| instance.id = Key::from("other"))).await;
        assert!(matches!(renamed, Err(UpdateError::IdChanged { .. })));
        let invalid = soon(registration.update(|instance| instance.service = Arc::from(""))).await;
        assert!(matches!(invalid, Err(UpdateError::Invalid(_))));
        assert_eq!(&*registration.instance().service, "web");
        assert!(a.lookup("web").is_ok());
    }

    #[tokio::test]
    async fn leaving_tells_the_others_and_frees_the_port() {
        let a = member("a", &[]).await;
        let b = member("b", &[&a]).await;
        let (mut seen_by_a, mut own) = (a.watch("web"), b.watch("web"));
        let registration = soon(b.register(web(80))).await.unwrap();
        until(&mut seen_by_a, |web| web.healthy().len() == 1).await;
        let mut events = b.events();
        soon(b.leave()).await.unwrap();
        assert!(is_free(b.local_addr()));
        until(&mut seen_by_a, |web| web.all().is_empty()).await;

        assert_eq!(b.status(), Status::Stopped(StopReason::Left));
        assert_eq!(b.lookup("web").unwrap_err(), LookupError::Stopped(StopReason::Left));
        assert_eq!(soon(b.register(web(81))).await.unwrap_err(), RegisterError::Stopped(StopReason::Left));
        assert_eq!(soon(registration.withdraw()).await, Err(WithdrawError::Stopped(StopReason::Left)));
        assert_eq!(soon(b.stats()).await, Err(StopReason::Left));
        soon(b.leave()).await.expect("it has left already");
        while soon(own.changed()).await.is_ok() {}
        while soon(events.next()).await.is_some() {}
        assert!(soon(b.watch("web").changed()).await.is_err() && soon(b.events().next()).await.is_none());
    }

    #[tokio::test]
    async fn services_are_waited_for_and_those_that_do_not_come_are_named() {
        let a = member("a", &[]).await;
        let b = member("b", &[&a]).await;
        let waiting = a.clone();
        let found = tokio::spawn(async move { waiting.discover("web", PATIENCE).await });
        let _web = soon(b.register(web(80))).await.unwrap();
        assert_eq!(soon(found).await.unwrap().expect("it comes").healthy().len(), 1);
        soon(a.require_services(["web"], PATIENCE)).await.expect("it is there");
        let missing = soon(a.require_services(["web", "db", "mq"], Duration::from_millis(30))).await.unwrap_err();
        let names: Vec<_> = missing.services.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["db", "mq"]);
        assert!(missing.to_string().contains("\"db\"") && missing.to_string().contains("\"mq\""), "{missing}");
        soon(a.leave()).await.unwrap();
        let stopped = soon(a.discover("web", PATIENCE)).await.unwrap_err();
        assert_eq!(stopped.services[0].1, LookupError::Stopped(StopReason::Left));
    }

    #[tokio::test]
    async fn members_that_know_the_same_agree_and_one_that_is_alone_agrees_with_itself() {
        let a = member("a", &[]).await;
        assert_eq!(soon(a.agreement()).await, Ok(Agreement { members: 1, agreeing: 1 }));
        let b = member("b", &[&a]).await;
        let _c = member("c", &[&a]).await;
        let _web = soon(b.register(web(80))).await.unwrap();
        let agreement = soon(b.agreed(1.0, PATIENCE)).await.unwrap();
        assert_eq!((agreement.members, agreement.share()), (3, 1.0));
        let waiting = b.clone();
        let stopped = tokio::spawn(async move { waiting.agreed(1.1, PATIENCE).await });
        soon(b.leave()).await.unwrap();
        assert_eq!(soon(stopped).await.unwrap(), Err(StopReason::Left));
    }

    #[tokio::test]
    async fn each_key_is_of_one_worker_and_moves_when_one_leaves() {
        use crate::select::Selector;
        use crate::select::shard::Moves;

        let keys: Vec<String> = (0..64).map(|key| format!("key-{key}")).collect();
        let a = member("a", &[]).await;
        let b = member("b", &[&a]).await;
        let _a = soon(a.register(web(80))).await.unwrap();
        let _b = soon(b.register(web(81))).await.unwrap();
        for member in [&a, &b] {
            until(&mut member.watch("web"), |web| web.healthy().len() == 2).await;
        }
        let moves = |of: &Registry| Moves::of(of, "web", Selector::new(), keys.clone());
        let (mut of_a, mut of_b) = (moves(&a), moves(&b));
        let mut held = soon(of_a.next()).await.unwrap().gained.len();
        held += soon(of_b.next()).await.unwrap().gained.len();
        assert_eq!(held, 64);
        soon(b.leave()).await.unwrap();
        while of_a.held().len() < 64 {
            soon(of_a.next()).await.expect("a runs");
        }
        assert_eq!(soon(of_b.next()).await.expect("its last keys").gained, [""; 0]);
        assert!(of_b.held().is_empty() && soon(of_b.next()).await.is_none());
    }

    #[tokio::test]
    async fn a_worker_that_has_not_joined_holds_no_key() {
        use crate::select::Selector;
        use crate::select::shard::Moves;

        let (_silent, seed) = silent();
        let builder = Registry::builder("registry-test", "alone").join([seed.to_string()]);
        let alone = soon(builder.join_policy(JoinPolicy::Background).start()).await.unwrap();
        let _instance = soon(alone.register(web(80))).await.unwrap();
        until(&mut alone.watch("web"), |web| web.all().len() == 1).await;
        assert_eq!(alone.status(), Status::Joining);
        let mut moves = Moves::of(&alone, "web", Selector::new(), ["a", "b"]);
        tokio::select! {
            biased;
            moved = moves.next() => panic!("it has not joined: {moved:?}"),
            () = async {} => {}
        }
        assert!(moves.held().is_empty());
        soon(alone.leave()).await.unwrap();
        assert!(soon(moves.next()).await.is_none());
    }

    #[tokio::test]
    async fn a_drain_tells_everybody_and_waits_for_the_work_inside() {
        let a = member("a", &[]).await;
        let b = member("b", &[&a]).await;
        let mut seen = a.watch("web");
        let _registration = soon(b.register(web(80))).await.unwrap();
        until(&mut seen, |web| web.healthy().len() == 1).await;
        let call = b.gate().call().unwrap();
        let (draining, closed) = (b.clone(), b.gate().closed());
        let drain = tokio::spawn(async move { draining.drain(PATIENCE).await });
        until(&mut seen, |web| web.healthy().is_empty() && web.all().len() == 1).await;
        soon(closed).await;
        assert_eq!(soon(b.register(web(81))).await.unwrap_err(), RegisterError::Refused(InputError::Draining));
        assert!(b.gate().call().is_err() && !drain.is_finished(), "a call is inside");
        drop(call);
        let drained = soon(drain).await.unwrap().expect("it leaves");
        assert!(drained.is_clean() && drained.confirmed == 1, "{drained:?}");
        assert_eq!(a.lookup("web").unwrap_err(), LookupError::UnknownService { name: "web".into() });
        assert_eq!(b.status(), Status::Stopped(StopReason::Left));
        assert!(soon(b.drain(PATIENCE)).await.is_err(), "it has left already");
    }

    #[tokio::test]
    async fn a_drain_that_takes_too_long_leaves_and_says_what_it_left() {
        let a = member("a", &[]).await;
        let _call = a.gate().call().unwrap();
        let _task = a.gate().task().unwrap();
        let drained = soon(a.drain(Duration::from_millis(50))).await.unwrap();
        assert_eq!((drained.calls_left, drained.tasks_left, drained.is_clean()), (1, 1, false));
        assert_eq!(a.status(), Status::Stopped(StopReason::Left));
    }

    #[tokio::test]
    async fn dropping_the_last_handle_stops_the_member_without_a_word() {
        let a = member("a", &[]).await;
        let b = member("b", &[&a]).await;
        let addr = b.local_addr();
        let mut of_a = a.watch("web");
        let mut of_b = b.watch("web");
        soon(b.register(web(80))).await.unwrap().keep();
        until(&mut of_a, |web| web.healthy().len() == 1).await;
        let clone = b.clone();
        drop(b);
        assert!(soon(clone.stats()).await.is_ok(), "a clone keeps it running");
        drop(clone);
        let stopped = loop {
            if let Err(reason) = soon(of_b.changed()).await {
                break reason;
            }
        };
        assert_eq!(stopped, StopReason::Dropped);
        assert!(is_free(addr));
        assert_eq!(of_a.current().all().len(), 1, "nobody was told");
    }

    #[tokio::test]
    async fn a_panic_of_the_driver_is_seen_by_every_reader() {
        let a = member("a", &[]).await;
        let mut watch = a.watch("web");
        a.send(Command::Panic).unwrap();
        let StopReason::Panicked(text) = soon(a.stopped()).await else { panic!("another reason") };
        assert!(text.contains("as a test asked for"));
        assert!(matches!(a.lookup("web"), Err(LookupError::Stopped(StopReason::Panicked(_)))));
        assert!(soon(watch.changed()).await.is_err());
        assert!(soon(a.leave()).await.is_err());
        assert!(is_free(a.local_addr()));
    }

    #[tokio::test]
    async fn a_slow_watch_misses_states_but_not_the_last() {
        let a = member("a", &[]).await;
        let mut registration = soon(a.register(web(80))).await.unwrap();
        let mut watch = a.watch("web");
        for weight in 2..=9 {
            soon(registration.update(|instance| instance.weight = weight)).await.unwrap();
        }
        let diff = soon(watch.changed()).await.unwrap();
        assert_eq!(diff.changed.len(), 1);
        assert_eq!((diff.changed[0].0.instance.weight, diff.changed[0].1.instance.weight), (1, 9));
    }

    #[tokio::test]
    async fn a_service_that_nobody_watches_any_more_is_forgotten() {
        let a = member("a", &[]).await;
        let (one, two) = (a.watch("web"), a.watch("web"));
        drop(one);
        assert_eq!(a.link.hub.watched(), 1);
        drop(two);
        assert_eq!(a.link.hub.watched(), 0);
    }

    #[tokio::test]
    async fn members_see_how_long_news_takes() {
        let every = Duration::from_millis(20);
        let start = |name| Registry::builder("registry-test", name).canary_every(every);
        let a = soon(start("a").start()).await.unwrap();
        let b = soon(start("b").join([a.local_addr().to_string()]).start()).await.unwrap();
        let came = async |of: &Registry| of.stats().await.unwrap().propagation.counts().iter().sum::<u64>();
        // One of them makes canaries, and the other one sees them come.
        soon(async { while came(&a).await + came(&b).await == 0 {} }).await;
        let made = async |of: &Registry| of.stats().await.unwrap().node.canaries_made;
        let (of_a, of_b) = (made(&a).await, made(&b).await);
        assert!((of_a == 0) != (of_b == 0), "{of_a} {of_b}: it is on the lowest id alone");
        let never = Registry::builder("registry-test", "c").canary_every(Duration::ZERO);
        let c = soon(never.join([a.local_addr().to_string()]).start()).await.unwrap();
        assert_eq!(made(&c).await, 0);
    }

    #[tokio::test]
    async fn whoever_hears_of_an_event_finds_it_in_the_view() {
        let a = member("a", &[]).await;
        let mut events = a.events();
        let _registration = soon(a.register(web(80))).await.unwrap();
        loop {
            let event = soon(events.next()).await.expect("it runs").expect("one event is not too many");
            if let Event::ServiceUp { instance, .. } = event {
                assert_eq!(a.lookup(&instance.service).unwrap().healthy()[0].instance, instance);
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_start_that_must_join_fails_when_nobody_answers_and_frees_the_port() {
        let (_silent, seed) = silent();
        let (taken, bind) = silent();
        drop(taken);
        let wait = Duration::from_millis(100);
        let builder = Registry::builder("registry-test", "a").bind(bind).join([seed.to_string()]);
        let error = soon(builder.clone().join_policy(JoinPolicy::Require(wait)).start()).await.unwrap_err();
        assert!(matches!(&error, StartError::NotJoined { waited, .. } if *waited == wait));
        assert!(error.to_string().contains(&seed.to_string()));
        assert!(is_free(bind));
        for policy in [JoinPolicy::Warn(wait), JoinPolicy::Background] {
            let alone = soon(builder.clone().join_policy(policy).start()).await.unwrap();
            assert_eq!(alone.status(), Status::Joining);
            assert_eq!(alone.lookup("web").unwrap_err(), LookupError::NotReady);
            soon(alone.leave()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_resolved_does_not_make_a_member_the_first() {
        let builder = Registry::builder("registry-test", "a").join(["no-such-host.invalid:7000"]);
        let lost = soon(builder.join_policy(JoinPolicy::Warn(Duration::from_millis(200))).start()).await.unwrap();
        assert_eq!(lost.status(), Status::Joining);
        // Whoever joins it ends its loneliness.
        let _b = member("b", &[&lost]).await;
        soon(lost.ready()).await.unwrap();
    }

    #[tokio::test]
    async fn a_start_names_what_is_wrong() {
        let error = async |builder: Builder| soon(builder.start()).await.expect_err("it must not start").to_string();
        let a = member("a", &[]).await;
        let free = || Registry::builder("registry-test", "b");
        assert!(error(free().bind(a.local_addr())).await.contains(&a.local_addr().to_string()));
        assert!(error(free().bind("0.0.0.0:0".parse().unwrap())).await.contains("0.0.0.0:0"));
        assert!(error(free().advertise("192.0.2.1:7".parse().unwrap())).await.contains("192.0.2.1:7"));
        assert!(error(free().join(["nowhere"])).await.contains("nowhere"));
        assert!(error(free().join(vec!["127.0.0.1:1"; JOIN_MAX + 1])).await.contains("257"));
        assert!(error(Registry::builder("", "b")).await.contains("cluster name"));
        assert!(error(Registry::builder("c", "b\n")).await.contains("member name"));
        assert!(error(Registry::builder("c", &"b".repeat(200))).await.contains("200"));
        let taken = soon(free().bind(a.local_addr()).start()).await.unwrap_err();
        assert!(matches!(taken, StartError::Drive(DriveError::Bind(BindError::InUse { .. }))));
    }

    #[tokio::test]
    async fn a_data_directory_makes_a_restart_the_same_member() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let start = async || soon(Registry::builder("registry-test", "a").data_dir(dir.path()).start()).await;
        let first = start().await.unwrap();
        let b = member("b", &[&first]).await;
        let (id, epoch) = (first.id(), first.peer().epoch());
        let in_use = start().await.unwrap_err();
        assert!(matches!(in_use, StartError::Drive(DriveError::DataDir(KeptError::InUse { .. }))));
        soon(first.leave()).await.unwrap();
        let kept = std::fs::read_to_string(dir.path().join("state.json")).unwrap();
        assert!(kept.contains(&b.local_addr().to_string()), "leaving writes down who was known: {kept}");
        let second = start().await.unwrap();
        assert_eq!(second.id(), id);
        assert!(second.peer().epoch() > epoch);
        // A crash gives the directory free too.
        let mut watch = second.watch("web");
        drop(second);
        assert_eq!(soon(watch.changed()).await.unwrap_err(), StopReason::Dropped);
        assert_eq!(start().await.unwrap().id(), id);
    }

    #[tokio::test]
    async fn a_start_that_finds_nobody_serves_what_it_knew_within_100_ms() {
        use crate::select::Picker;
        use crate::select::chain::{Chain, When};

        let dir = tempfile::tempdir().expect("a temporary directory");
        let b = member("b", &[]).await;
        let builder = Registry::builder("registry-test", "a").data_dir(dir.path()).join([b.local_addr().to_string()]);
        let first = soon(builder.clone().start()).await.unwrap();
        assert!(first.saved_view().is_none());
        let mut seen = first.watch("web");
        let _web = soon(b.register(web(80))).await.unwrap();
        until(&mut seen, |web| web.healthy().len() == 1).await;
        soon(first.leave()).await.unwrap();
        let stopped = b.clone();
        drop((b, _web));
        soon(stopped.leave()).await.unwrap();

        let began = Clock::start();
        let alone = soon(builder.join_policy(JoinPolicy::Background).start()).await.unwrap();
        let saved = alone.saved_view().expect("it was written down");
        let picker = Picker::new(alone.reader(), "web");
        let chain = Chain::new("gossip", picker).then("saved", When::Unready, Picker::new(saved.reader(), "web"));
        let pick = chain.pick().expect("the saved view has it");
        let took = began.now().since(Time::ZERO);
        assert!(pick.is_stale() && *chain.source() == *"saved");
        assert_eq!(pick.instance().address.port, 80);
        assert!(took < Duration::from_millis(100), "{took:?}");
        assert_eq!(alone.status(), Status::Joining);
    }

    #[tokio::test]
    async fn an_old_copy_of_a_data_directory_becomes_a_later_start_and_keeps_its_epoch() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ahead = driver::unix_ms() / 1_000 + 1_000;
        let fresh = NodeId(driver::unix_ms());
        let kept = |at| crate::net::kept::DataDir::open(dir.path(), fresh, at).expect("it can be used").1.epoch;
        kept(10);
        let old_copy = std::fs::read(dir.path().join("state.json")).expect("it is there");
        kept(ahead);
        // Sealed: what seals must follow an epoch that changes while it runs.
        let keyed = |name| Registry::builder("registry-test", name).key(ClusterKey::new([7; 32]));
        let b = soon(keyed("b").start()).await.unwrap();
        let builder = keyed("a").data_dir(dir.path()).join([b.local_addr().to_string()]);
        let first = soon(builder.clone().start()).await.unwrap();
        let (addr, known) = (first.local_addr(), first.peer().epoch());
        assert!(known > ahead);
        let mut watch = first.watch("web");
        drop(first);
        let _ = soon(watch.changed()).await;
        std::fs::write(dir.path().join("state.json"), old_copy).expect("it is replaced");

        let second = soon(builder.bind(addr).start()).await.unwrap();
        let mut seen = b.watch("web");
        soon(second.register(web(80))).await.unwrap().keep();
        until(&mut seen, |web| web.healthy().len() == 1).await;
        assert!(second.peer().epoch() > known, "the others know a later start, and heard of one still later");
        let stats = second.stats().await.unwrap();
        assert_eq!((stats.node.epochs_taken, stats.seal.not_sealed), (1, 0));
        let taken = second.peer().epoch();
        soon(second.leave()).await.unwrap();
        assert!(kept(0) > taken, "the epoch was kept");
    }

    #[tokio::test]
    async fn members_are_found_through_a_file_and_a_command() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let list = dir.path().join("seeds");
        let a = member("a", &[]).await;
        std::fs::write(&list, format!("# seeds\n{}\n", a.local_addr())).expect("it is written");
        for (name, target) in [("b", format!("file:{}", list.display())), ("c", format!("exec:cat {}", list.display()))]
        {
            let start =
                Registry::builder("registry-test", name).join(["file:/no/such/file".to_owned(), target]).start();
            let joined = soon(start).await.expect("one target that works is enough");
            assert!(joined.members().len() >= 2);
        }
    }

    #[tokio::test]
    async fn members_that_did_not_know_each_other_join_when_they_are_told_to() {
        let (a, b) = (member("a", &[]).await, member("b", &[]).await);
        let c = member("c", &[&b]).await;
        let _web = soon(c.register(web(80))).await.unwrap();
        assert_eq!(a.members().len(), 1);
        let mut watch = a.watch("web");
        a.join([b.local_addr()]).unwrap();
        until(&mut watch, |web| web.healthy().len() == 1).await;
        assert_eq!(b.members().len(), 3);
    }

    #[tokio::test]
    async fn two_clusters_live_in_one_process() {
        let a = member("a", &[]).await;
        let other = soon(Registry::builder("another", "a").start()).await.unwrap();
        let _web = soon(a.register(web(80))).await.unwrap();
        assert_eq!((a.services().len(), other.services().len()), (1, 0));
    }
}
