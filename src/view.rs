//! What a reader sees: immutable snapshots of every service and of the members, read without a lock and without
//! waiting. Knows events, and nothing of the node, of sockets or of who reads.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::effect::{Event, Fatal, GoneReason, Split};
use crate::guard::{Count, Look, Sight};
use crate::peer::{Member, MemberState, NodeId};
use crate::record::{Instance, Key, Status as InstanceStatus};
use crate::time::Time;

/// An instance as it is offered now: what it says of itself, and what is believed of its member.
#[derive(Clone, Debug)]
pub struct Offered {
    /// The instance, as its owner last stated it.
    pub instance: Arc<Instance>,
    /// The member that offers it.
    pub member: Arc<Member>,
    /// Whether it is offered at all: an instance of a member that is down is kept and marked, as the last known good.
    pub is_present: bool,
}

impl Offered {
    /// Whether it should get traffic: it is offered, it says that it serves, and its member is reachable.
    pub fn is_healthy(&self) -> bool {
        self.is_present && self.instance.status.is_serving() && self.member.state == MemberState::Reachable
    }

    /// Whether it serves as far as its owner said last, and its member does not answer: the last known good. Whether to
    /// call it all the same is [`Service::kept`]'s to say.
    pub fn is_silent(&self) -> bool {
        self.instance.status.is_serving() && !self.is_healthy()
    }

    fn look(&self) -> Look {
        if self.is_healthy() {
            Look::Healthy
        } else if self.is_silent() {
            Look::Silent
        } else {
            Look::Out
        }
    }

    /// Why it should get no traffic; `None` if it should.
    pub fn why_out(&self) -> Option<Out> {
        if self.is_healthy() {
            return None;
        }
        Some(match self.member.state {
            MemberState::Reachable if self.is_present => Out::Status(self.instance.status.clone()),
            MemberState::Reachable => Out::Member(MemberState::Down),
            state => Out::Member(state),
        })
    }

    fn rank(&self) -> (bool, &Key, NodeId) {
        (!self.is_healthy(), &self.instance.id, self.member.peer.id)
    }

    /// Whether both say the same; when the member was last heard does not count.
    fn is_same(&self, other: &Self) -> bool {
        let same_instance = Arc::ptr_eq(&self.instance, &other.instance) || self.instance == other.instance;
        same_instance && self.is_present == other.is_present && is_same_member(&self.member, &other.member)
    }
}

fn is_same_member(a: &Arc<Member>, b: &Arc<Member>) -> bool {
    Arc::ptr_eq(a, b) || (a.peer, &a.name, &a.zone, a.state) == (b.peer, &b.name, &b.zone, b.state)
}

/// Why an instance should get no traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Out {
    /// It says itself that it does not serve.
    Status(InstanceStatus),
    /// Its member is not reachable.
    Member(MemberState),
}

/// Why the last known good instances of a service are kept for use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kept {
    /// Most instances were lost at once, without a word; see [`guard`](crate::guard).
    MassDrop,
    /// Nobody answers this member, so that nobody's silence says anything.
    Isolated,
    /// Nothing newer is known: this is what an earlier start wrote down.
    Saved,
}

impl Kept {
    /// The reason as a word, as it stands in every output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MassDrop => "mass_drop",
            Self::Isolated => "isolated",
            Self::Saved => "saved",
        }
    }
}

/// All instances of one service at one moment. It never changes; look the service up again for a newer one.
#[derive(Clone, Debug)]
pub struct Service {
    name: Arc<str>,
    /// Healthy ones first, each part by instance id, then by owner.
    offered: Vec<Offered>,
    healthy: usize,
    kept: Option<Kept>,
}

impl Service {
    /// A service that nobody offers.
    pub fn empty(name: &str) -> Self {
        Self { name: Arc::from(name), offered: Vec::new(), healthy: 0, kept: None }
    }

    fn new(name: Arc<str>, mut offered: Vec<Offered>, kept: Option<Kept>) -> Self {
        offered.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let healthy = offered.partition_point(Offered::is_healthy);
        Self { name, offered, healthy, kept }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The instances that should get traffic, by instance id. In what [`Reader::lookup`] gives, at least one.
    pub fn healthy(&self) -> &[Offered] {
        &self.offered[..self.healthy]
    }

    /// The instances that should get no traffic now, by instance id; [`Offered::why_out`] tells why.
    pub fn unhealthy(&self) -> &[Offered] {
        &self.offered[self.healthy..]
    }

    /// Every known instance, the healthy ones first.
    pub fn all(&self) -> &[Offered] {
        &self.offered
    }

    /// Why its last known good instances are kept for use, should no healthy one be left; `None` if they are not: then
    /// those that do not answer have most likely crashed.
    pub fn kept(&self) -> Option<Kept> {
        self.kept
    }

    /// The last known good instances that are kept for use, by instance id; none unless there is a reason for it.
    pub fn stale(&self) -> impl Iterator<Item = &Offered> {
        self.unhealthy().iter().filter(|offered| self.keeps(offered))
    }

    /// Whether this instance of it is one of [`stale`](Self::stale).
    pub fn keeps(&self, offered: &Offered) -> bool {
        self.kept.is_some() && offered.is_silent()
    }

    /// What is different in `after`.
    pub fn diff(&self, after: &Arc<Self>) -> Diff {
        let mut before: BTreeMap<(&Key, NodeId), &Offered> = self.offered.iter().map(|o| (place(o), o)).collect();
        let mut diff = Diff { added: Vec::new(), changed: Vec::new(), removed: Vec::new(), now: Arc::clone(after) };
        for now in &after.offered {
            match before.remove(&place(now)) {
                None => diff.added.push(now.clone()),
                Some(was) if !was.is_same(now) => diff.changed.push((was.clone(), now.clone())),
                Some(_) => {}
            }
        }
        diff.removed = before.into_values().cloned().collect();
        diff
    }
}

fn place(offered: &Offered) -> (&Key, NodeId) {
    (&offered.instance.id, offered.member.peer.id)
}

/// What changed between two moments of a service.
#[derive(Clone, Debug)]
pub struct Diff {
    /// Instances that were not there before.
    pub added: Vec<Offered>,
    /// Instances whose record, or whose member's state, changed: before and after.
    pub changed: Vec<(Offered, Offered)>,
    /// Instances that are no longer there.
    pub removed: Vec<Offered>,
    /// The service now; with no instances at all if nobody offers it any more.
    pub now: Arc<Service>,
}

impl Diff {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Why a member stopped. Its view stays as it was, and no longer answers lookups.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// It left the cluster, and said goodbye.
    #[error("the member left the cluster")]
    Left,
    /// The last handle was dropped without leaving.
    #[error("the last handle was dropped without leaving")]
    Dropped,
    /// The node could not go on.
    #[error("{0}")]
    Fatal(Fatal),
    /// Its socket failed.
    #[error("the socket failed: {0}")]
    Socket(Arc<str>),
    /// A bug: its thread panicked.
    #[error("bug: the member's thread panicked: {0}")]
    Panicked(Arc<str>),
}

/// How far a member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// It has not yet reached anybody of those it was told to join.
    Joining,
    /// It joined, and its view is complete as far as anybody knows.
    Ready,
    /// It stopped; the view is no longer kept up to date.
    Stopped(StopReason),
}

/// Why a lookup gave no instance that should get traffic.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// No instance of the service is known, healthy or not.
    #[error("no service {name:?} is known")]
    UnknownService {
        /// The service's name.
        name: String,
    },
    /// Instances are known, but none should get traffic.
    #[error("none of the {known} known instances of {name:?} is healthy")]
    NoHealthy {
        /// The service's name.
        name: String,
        /// How many instances are known.
        known: usize,
    },
    /// The member has not joined yet, and knows no healthy instance so far.
    #[error("the view is not ready: the member has not joined yet")]
    NotReady,
    /// The member reaches nobody, and the last that it knew is no healthy instance: it is the one that is cut off.
    #[error("the member is isolated: it reaches no other member")]
    Isolated,
    /// The member stopped.
    #[error(transparent)]
    Stopped(StopReason),
}

const JOINING: u8 = 0;
const READY: u8 = 1;
const STOPPED: u8 = 2;

/// Parts of the directory. Only the part of a service that is new or gone is copied; a power of two.
const SHARDS: usize = 64;

/// Hashes names with a seed of this process, so that nobody can choose names that collide.
#[derive(Clone, Copy, Debug)]
struct NameHash {
    seed: u64,
}

impl NameHash {
    fn of_this_process() -> Self {
        Self { seed: RandomState::new().hash_one(SHARDS) }
    }

    fn shard(self, name: &str) -> usize {
        // Bits from the middle: the map inside the shard uses the lowest and the highest ones.
        (self.hash_one(name) >> 32) as usize % SHARDS
    }
}

impl BuildHasher for NameHash {
    type Hasher = NameHasher;

    fn build_hasher(&self) -> NameHasher {
        NameHasher { state: self.seed }
    }
}

struct NameHasher {
    state: u64,
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.state = xxh3_64_with_seed(bytes, self.state);
    }

    /// The end mark of a string; a key is a single string, so it tells nothing.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.state
    }
}

#[expect(clippy::disallowed_types, reason = "a lookup is one hash, and listing sorts: nothing depends on its order")]
type Directory = std::collections::HashMap<Arc<str>, Arc<Slot>, NameHash>;

/// Where the newest snapshot of a service is put.
#[derive(Debug)]
pub(crate) struct Slot {
    service: ArcSwap<Service>,
    /// Grows after each snapshot, so that who derived something from one can tell cheaply that it is the newest.
    version: AtomicU64,
}

impl Slot {
    fn new(service: &Arc<Service>) -> Self {
        Self { service: ArcSwap::new(Arc::clone(service)), version: AtomicU64::new(0) }
    }

    fn store(&self, service: Arc<Service>) {
        self.service.store(service);
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn load(&self) -> Guard<Arc<Service>> {
        self.service.load()
    }

    /// Read before the snapshot: then that is at least as new.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// How often which instance was chosen: by service, algorithm and instance id.
pub(crate) type Selections = BTreeMap<(Arc<str>, Arc<str>, Key), u64>;

/// Somebody who chooses among instances, and counts what it chose.
pub(crate) trait Chooser: std::fmt::Debug + Send + Sync {
    /// Adds what it chose so far. Must neither note nor retire anybody.
    fn add_to(&self, selections: &mut Selections);
}

/// Instances of which is remembered by name how often those chose them that are gone; the choices of further ones are
/// counted by service and algorithm alone, under an empty id.
const RETIRED_MAX: usize = 4_096;

/// Those who choose among what a view shows.
#[derive(Default, Debug)]
struct Choosers {
    live: Vec<Weak<dyn Chooser>>,
    /// What those chose that are gone.
    retired: Selections,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    is_isolated: AtomicBool,
    split: ArcSwapOption<Split>,
    stopped: ArcSwapOption<StopReason>,
    hash: NameHash,
    shards: [ArcSwap<Directory>; SHARDS],
    members: ArcSwap<Vec<Arc<Member>>>,
    /// Grows after each publication, so that who derived something from all of it can tell cheaply that it is the
    /// newest.
    published: AtomicU64,
    choosers: Mutex<Choosers>,
}

impl Shared {
    /// A panic of another holder leaves it whole: nothing in here is changed halfway.
    fn choosers(&self) -> MutexGuard<'_, Choosers> {
        self.choosers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy in `shards` of the part of the directory where `name` belongs; made if it is not there yet.
    fn edited<'s>(&self, shards: &'s mut BTreeMap<usize, Directory>, name: &str) -> &'s mut Directory {
        let shard = self.hash.shard(name);
        shards.entry(shard).or_insert_with(|| self.shards[shard].load().as_ref().clone())
    }
}

/// Reads a view. Clones are cheap and see the same; they read on after the member stopped, but lookups then fail.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    /// The service, with at least one healthy instance. Takes no lock and allocates nothing.
    ///
    /// While the member is joining, what it already knows is given, and [`LookupError::NotReady`] instead of the
    /// other errors: the view may just not have it yet.
    ///
    /// # Errors
    /// See [`LookupError`]; every variant means that there is no instance to send traffic to.
    pub fn lookup(&self, service: &str) -> Result<Arc<Service>, LookupError> {
        self.find(service, Arc::clone)
    }

    /// Like [`lookup`](Self::lookup), but only lends the service to `read`, and so leaves its count of references
    /// alone. One thread gains nothing by it (both take about 45 ns, see `benches/lookup.rs`); many threads that look
    /// up the same service all the time do not fight over that count.
    ///
    /// `read` should be short: while it runs, the memory of an older snapshot may be kept.
    ///
    /// # Errors
    /// As for [`lookup`](Self::lookup).
    pub fn read<R>(&self, service: &str, read: impl FnOnce(&Service) -> R) -> Result<R, LookupError> {
        self.find(service, |found| read(found))
    }

    fn find<R>(&self, name: &str, give: impl FnOnce(&Arc<Service>) -> R) -> Result<R, LookupError> {
        let state = self.shared.state.load(Ordering::Acquire);
        if state == STOPPED {
            return Err(self.stop_reason().map_or(LookupError::NotReady, LookupError::Stopped));
        }
        let directory = self.directory(name).load();
        let Some(slot) = directory.get(name) else {
            return Err(self.without(state, || LookupError::UnknownService { name: name.to_owned() }));
        };
        let service = slot.load();
        match (service.healthy, service.offered.len()) {
            (0, 0) => Err(self.without(state, || LookupError::UnknownService { name: name.to_owned() })),
            (0, known) => Err(self.without(state, || LookupError::NoHealthy { name: name.to_owned(), known })),
            _ => Ok(give(&service)),
        }
    }

    #[cold]
    fn without(&self, state: u8, ready: impl FnOnce() -> LookupError) -> LookupError {
        if state == JOINING {
            LookupError::NotReady
        } else if self.is_isolated() {
            LookupError::Isolated
        } else {
            ready()
        }
    }

    /// Like [`lookup`](Self::lookup), but also gives a service of which only the last known good instances are left,
    /// while these are [kept](Service::kept): then [`Service::healthy`] is empty and [`Service::stale`] is not.
    ///
    /// # Errors
    /// As for [`lookup`](Self::lookup): there is not even a stale instance.
    pub fn last_known(&self, service: &str) -> Result<Arc<Service>, LookupError> {
        self.lookup(service).or_else(|error| match &error {
            LookupError::Stopped(_) => Err(error),
            _ => self.service(service).filter(|found| found.stale().next().is_some()).ok_or(error),
        })
    }

    /// Whether the member reaches nobody although others should be there: its view is the last it knew.
    pub fn is_isolated(&self) -> bool {
        self.shared.is_isolated.load(Ordering::Acquire)
    }

    /// Who is on which side of a split, while one is suspected: so many members are unreachable at once that it is the
    /// likelier story. As it was when [`Event::PartitionSuspected`] told it last.
    pub fn split(&self) -> Option<Arc<Split>> {
        self.shared.split.load_full()
    }

    fn directory(&self, name: &str) -> &ArcSwap<Directory> {
        &self.shared.shards[self.shared.hash.shard(name)]
    }

    /// The service, healthy or not, also after the member stopped; `None` if no instance of it is known.
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        let directory = self.directory(name).load();
        directory.get(name).map(|slot| slot.service.load_full()).filter(|service| !service.offered.is_empty())
    }

    /// Where the newest snapshots of the service are put, for as long as instances of it are known: when none is, the
    /// last one is empty, and later ones are put elsewhere.
    pub(crate) fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        self.directory(name).load().get(name).map(Arc::clone)
    }

    /// Counts publications. Read before the view: then that is at least as new.
    #[cfg(feature = "agent")]
    pub(crate) fn published(&self) -> u64 {
        self.shared.published.load(Ordering::Acquire)
    }

    /// How often which instance was chosen by those who choose among what this shows, since the start.
    #[cfg(feature = "agent")]
    pub(crate) fn selections(&self) -> Selections {
        let choosers = self.shared.choosers();
        let mut selections = choosers.retired.clone();
        choosers.live.iter().filter_map(Weak::upgrade).for_each(|chooser| chooser.add_to(&mut selections));
        selections
    }

    /// Takes in somebody who chooses, until it retires.
    pub(crate) fn note_chooser<C: Chooser + 'static>(&self, chooser: &Arc<C>) {
        let chooser: Weak<C> = Arc::downgrade(chooser);
        self.shared.choosers().live.push(chooser);
    }

    /// Keeps what it chose, and lets it go: in one step, so that no count ever goes back.
    pub(crate) fn retire_chooser<C: Chooser>(&self, chooser: &Arc<C>) {
        let mut choosers = self.shared.choosers();
        choosers.live.retain(|other| !std::ptr::addr_eq(other.as_ptr(), Arc::as_ptr(chooser)));
        let mut chosen = Selections::new();
        chooser.add_to(&mut chosen);
        for ((service, algorithm, instance), count) in chosen {
            let mut key = (service, algorithm, instance);
            if choosers.retired.len() >= RETIRED_MAX && !choosers.retired.contains_key(&key) {
                key.2 = Key::member();
            }
            *choosers.retired.entry(key).or_default() += count;
        }
    }

    /// Whether the member stopped, and lookups fail.
    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == STOPPED
    }

    /// Every service of which an instance is known, sorted by name. Each is a moment of its own.
    pub fn services(&self) -> Vec<Arc<Service>> {
        let mut all = Vec::new();
        for shard in &self.shared.shards {
            all.extend(shard.load().values().map(|slot| slot.service.load_full()));
        }
        all.retain(|service| !service.offered.is_empty());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Every member, sorted by name, then by id; those that are down too, until they are forgotten.
    pub fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.shared.members.load_full()
    }

    /// How far the member is.
    pub fn status(&self) -> Status {
        match self.shared.state.load(Ordering::Acquire) {
            READY => Status::Ready,
            STOPPED => self.stop_reason().map_or(Status::Joining, Status::Stopped),
            _ => Status::Joining,
        }
    }

    /// Why the member stopped; `None` while it runs.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.shared.stopped.load().as_deref().cloned()
    }
}

/// An instance as the writer keeps it: shown once its owner is known.
#[derive(Clone, Debug)]
struct Offer {
    instance: Arc<Instance>,
    is_present: bool,
    sight: Sight,
}

#[derive(Default, Debug)]
struct Offers {
    by_place: BTreeMap<(Key, NodeId), Offer>,
    slot: Option<Arc<Slot>>,
    is_guarded: bool,
}

/// Writes a view: events in order with [`apply`](Self::apply), then [`publish`](Self::publish).
///
/// Several events before one `publish` cost little more than one. A change of a record costs by the number of
/// instances of its service; a service that is new or gone costs a 64th of the number of services.
#[derive(Debug)]
pub struct View {
    reader: Reader,
    members: BTreeMap<NodeId, Arc<Member>>,
    services: BTreeMap<Arc<str>, Offers>,
    /// Which services each member offers something of, so that a change of its state finds them.
    offered: BTreeMap<NodeId, BTreeMap<Key, Arc<str>>>,
    changed: BTreeSet<Arc<str>>,
    members_changed: bool,
    now: Time,
    /// What the guard found since this was last taken.
    found: Vec<Event>,
    guarded: usize,
    mass_drops: u64,
    /// Why everything that does not answer is kept.
    keep: Option<Kept>,
}

impl Default for View {
    fn default() -> Self {
        Self::new()
    }
}

impl View {
    /// An empty view, of a member that is joining.
    pub fn new() -> Self {
        let hash = NameHash::of_this_process();
        let shared = Shared {
            state: AtomicU8::new(JOINING),
            is_isolated: AtomicBool::new(false),
            split: ArcSwapOption::empty(),
            stopped: ArcSwapOption::empty(),
            hash,
            shards: std::array::from_fn(|_| ArcSwap::from_pointee(Directory::with_hasher(hash))),
            members: ArcSwap::from_pointee(Vec::new()),
            published: AtomicU64::new(0),
            choosers: Mutex::default(),
        };
        Self {
            reader: Reader { shared: Arc::new(shared) },
            members: BTreeMap::new(),
            services: BTreeMap::new(),
            offered: BTreeMap::new(),
            changed: BTreeSet::new(),
            members_changed: false,
            now: Time::ZERO,
            found: Vec::new(),
            guarded: 0,
            mass_drops: 0,
            keep: None,
        }
    }

    /// Keeps the last known good instances of every service that is published from now on, for this reason.
    pub fn keep_all(&mut self, why: Kept) {
        self.keep = Some(why);
    }

    /// Tells the time, which never goes back: by it the guard tells what is lost at once from what goes slowly. If it
    /// is never told, everything happens at once.
    pub fn pass(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// What the guard against mass drops found in what was published since this was last asked:
    /// [`Event::MassDrop`] and [`Event::MassDropOver`].
    pub fn take_found(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.found)
    }

    /// A reader of this view.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// How many members and instances are known.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            members: self.members.len(),
            services: self.services.len(),
            instances: self.offered.values().map(BTreeMap::len).sum(),
            guarded: self.guarded,
            mass_drops: self.mass_drops,
        }
    }

    /// Takes in one event. Readers see it at the next [`publish`](Self::publish).
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::MemberUp(member) | Event::MemberChanged(member) | Event::MemberDown(member) => {
                self.members.insert(member.peer.id, Arc::clone(member));
                self.member_changed(member.peer.id);
            }
            Event::MemberLeft(member) | Event::MemberForgotten(member) => self.drop_member(member.peer.id),
            Event::ServiceUp { owner, instance } => self.put(*owner, instance, true),
            Event::ServiceChanged { owner, instance, .. } => {
                let is_present = self.offer(*owner, &instance.id).is_none_or(|offer| offer.is_present);
                self.put(*owner, instance, is_present);
            }
            Event::ServiceDown { owner, instance, reason: GoneReason::OwnerDown } => {
                self.put(*owner, instance, false);
            }
            Event::ServiceDown { owner, instance, .. } => self.remove(*owner, &instance.id),
            Event::CutOff(is_cut_off) => self.isolated(*is_cut_off),
            Event::PartitionSuspected(split) => self.reader.shared.split.store(Some(Arc::clone(split))),
            Event::PartitionOver => self.reader.shared.split.store(None),
            Event::Forgetting { .. } | Event::MassDrop { .. } | Event::MassDropOver { .. } => {}
            Event::Ready | Event::Drained(_) | Event::Warning(_) | Event::Fatal(_) => {}
        }
    }

    /// Shows readers everything applied so far, and gives the services that changed, as they are now.
    pub fn publish(&mut self) -> Vec<Arc<Service>> {
        if std::mem::take(&mut self.members_changed) {
            let mut members: Vec<_> = self.members.values().cloned().collect();
            members.sort_by(|a, b| (&a.name, a.peer.id).cmp(&(&b.name, b.peer.id)));
            self.reader.shared.members.store(Arc::new(members));
        }
        let mut shards = BTreeMap::<usize, Directory>::new();
        let changed = std::mem::take(&mut self.changed);
        let now = changed.into_iter().map(|name| self.publish_service(name, &mut shards)).collect();
        for (shard, directory) in shards {
            self.reader.shared.shards[shard].store(Arc::new(directory));
        }
        self.reader.shared.published.fetch_add(1, Ordering::Release);
        now
    }

    /// Publishes one service; what that changes in the directory is left in `shards`.
    fn publish_service(&mut self, name: Arc<str>, shards: &mut BTreeMap<usize, Directory>) -> Arc<Service> {
        let shared = &self.reader.shared;
        let Some(offers) = self.services.get_mut(&name) else {
            if let Some(slot) = shared.edited(shards, &name).remove(&name) {
                slot.store(Arc::new(Service::empty(&name)));
            }
            return Arc::new(Service::empty(&name));
        };
        let mut count = Count::default();
        let shown = offers.by_place.iter_mut().filter_map(|((_, owner), offer)| {
            let member = Arc::clone(self.members.get(owner)?);
            let shown = Offered { instance: Arc::clone(&offer.instance), member, is_present: offer.is_present };
            count.take(self.now, &mut offer.sight, shown.look());
            Some(shown)
        });
        let shown: Vec<_> = shown.collect();
        let is_guarded = count.trips(offers.is_guarded);
        let was_guarded = std::mem::replace(&mut offers.is_guarded, is_guarded);
        let is_isolated = shared.is_isolated.load(Ordering::Acquire);
        let kept = self.keep.or(is_isolated.then_some(Kept::Isolated)).or(is_guarded.then_some(Kept::MassDrop));
        let now = Arc::new(Service::new(Arc::clone(&name), shown, kept));
        match &offers.slot {
            Some(slot) => slot.store(Arc::clone(&now)),
            None => {
                let slot = Arc::new(Slot::new(&now));
                offers.slot = Some(Arc::clone(&slot));
                shared.edited(shards, &name).insert(Arc::clone(&name), slot);
            }
        }
        if is_guarded != was_guarded {
            self.guard_switched(name, is_guarded.then_some(count));
        }
        now
    }

    fn guard_switched(&mut self, service: Arc<str>, dropped: Option<Count>) {
        self.found.push(match dropped {
            Some(count) => {
                self.guarded += 1;
                self.mass_drops += 1;
                Event::MassDrop { service, lost: count.lost(), kept: count.healthy() }
            }
            None => {
                self.guarded -= 1;
                Event::MassDropOver { service }
            }
        });
    }

    /// Tells readers that the member joined.
    pub fn ready(&mut self) {
        let state = &self.reader.shared.state;
        // A member that stopped stays so; an exchange that fails means just that.
        let _ = state.compare_exchange(JOINING, READY, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Tells readers whether the member is cut off from everybody: lookups go on, and those that find no healthy
    /// instance say so.
    pub fn isolated(&mut self, is_isolated: bool) {
        if self.reader.shared.is_isolated.swap(is_isolated, Ordering::AcqRel) != is_isolated {
            // Each says whether its last known good instances are kept.
            self.changed.extend(self.services.keys().cloned());
        }
    }

    /// Tells readers that the member stopped. Only the first reason counts.
    pub fn stop(&mut self, reason: StopReason) {
        self.reader.stop(reason);
    }

    fn offer(&self, owner: NodeId, key: &Key) -> Option<&Offer> {
        let service = self.offered.get(&owner)?.get(key)?;
        self.services.get(service)?.by_place.get(&(key.clone(), owner))
    }

    fn put(&mut self, owner: NodeId, instance: &Arc<Instance>, is_present: bool) {
        let key = &instance.id;
        let was = self.offered.entry(owner).or_default().insert(key.clone(), Arc::clone(&instance.service));
        if let Some(was) = was.filter(|was| *was != instance.service) {
            self.take_out(&was, owner, key);
        }
        let offers = self.services.entry(Arc::clone(&instance.service)).or_default();
        let place = (key.clone(), owner);
        let sight = offers.by_place.get(&place).map_or_else(Sight::default, |before| before.sight);
        offers.by_place.insert(place, Offer { instance: Arc::clone(instance), is_present, sight });
        self.changed.insert(Arc::clone(&instance.service));
    }

    fn remove(&mut self, owner: NodeId, key: &Key) {
        let Some(keys) = self.offered.get_mut(&owner) else { return };
        let Some(service) = keys.remove(key) else { return };
        if keys.is_empty() {
            self.offered.remove(&owner);
        }
        self.take_out(&service, owner, key);
    }

    fn take_out(&mut self, service: &Arc<str>, owner: NodeId, key: &Key) {
        if let Some(offers) = self.services.get_mut(service) {
            offers.by_place.remove(&(key.clone(), owner));
            if offers.by_place.is_empty() {
                let was_guarded = offers.is_guarded;
                self.services.remove(service);
                if was_guarded {
                    self.guard_switched(Arc::clone(service), None);
                }
            }
        }
        self.changed.insert(Arc::clone(service));
    }

    fn member_changed(&mut self, id: NodeId) {
        self.members_changed = true;
        if let Some(keys) = self.offered.get(&id) {
            self.changed.extend(keys.values().cloned());
        }
    }

    /// What it offered goes with it, whether its instances are told to be gone before or after.
    fn drop_member(&mut self, id: NodeId) {
        self.members_changed |= self.members.remove(&id).is_some();
        for (key, service) in self.offered.remove(&id).unwrap_or_default() {
            self.take_out(&service, id, &key);
        }
    }
}

impl Reader {
    /// See [`View::stop`]; for when the view itself died with its writer.
    pub(crate) fn stop(&self, reason: StopReason) {
        if self.shared.stopped.load().is_none() {
            self.shared.stopped.store(Some(Arc::new(reason)));
        }
        self.shared.state.store(STOPPED, Ordering::Release);
    }
}

/// How much a view holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Sizes {
    /// Members, those that are down included.
    pub members: usize,
    /// Services with at least one known instance.
    pub services: usize,
    /// Known instances, healthy or not.
    pub instances: usize,
    /// Services of which most instances were lost at once, and are kept.
    pub guarded: usize,
    /// How often that happened.
    pub mass_drops: u64,
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::peer::{Evidence, Generation, Peer};

    fn member(id: u64, state: MemberState) -> Arc<Member> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 4_000 + id as u16));
        Arc::new(Member {
            peer: Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id },
            // Names run against ids, so that sorting by one is not sorting by the other.
            name: format!("member-{}", 99 - id).into(),
            zone: "".into(),
            state,
            evidence: Evidence::default(),
            software: "".into(),
            wire: (1, 1),
        })
    }

    fn instance(service: &str, id: &str) -> Arc<Instance> {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        Arc::new(Instance::new(service, address).expect("a valid instance").with_id(id))
    }

    fn up(owner: u64, instance: &Arc<Instance>) -> Event {
        Event::ServiceUp { owner: NodeId(owner), instance: Arc::clone(instance) }
    }

    fn down(owner: u64, instance: &Arc<Instance>, reason: GoneReason) -> Event {
        Event::ServiceDown { owner: NodeId(owner), instance: Arc::clone(instance), reason }
    }

    /// A ready view after these events.
    fn view(events: &[Event]) -> (View, Reader) {
        let mut view = View::new();
        view.ready();
        feed(&mut view, events);
        let reader = view.reader();
        (view, reader)
    }

    fn feed(view: &mut View, events: &[Event]) -> Vec<Arc<Service>> {
        events.iter().for_each(|event| view.apply(event));
        view.publish()
    }

    fn ids(offered: &[Offered]) -> Vec<&str> {
        offered.iter().map(|o| o.instance.id.as_str()).collect()
    }

    #[test]
    fn an_instance_gets_traffic_only_while_it_serves_and_its_member_is_reachable() {
        let (mut view, reader) =
            view(&[Event::MemberUp(member(1, MemberState::Reachable)), up(1, &instance("web", "a"))]);
        assert_eq!(ids(reader.lookup("web").unwrap().healthy()), ["a"]);
        for state in [MemberState::Suspect, MemberState::Unreachable] {
            feed(&mut view, &[Event::MemberChanged(member(1, state))]);
            assert!(matches!(reader.lookup("web"), Err(LookupError::NoHealthy { known: 1, .. })));
            assert_eq!(reader.service("web").unwrap().unhealthy()[0].why_out(), Some(Out::Member(state)));
        }
        feed(&mut view, &[Event::MemberChanged(member(1, MemberState::Reachable))]);
        assert!(reader.lookup("web").is_ok());
        let draining = Arc::new(Instance::clone(&instance("web", "a")).with_status(InstanceStatus::Draining));
        let before = instance("web", "a");
        feed(&mut view, &[Event::ServiceChanged { owner: NodeId(1), before, instance: draining }]);
        let why = reader.service("web").unwrap().all()[0].why_out();
        assert_eq!(why, Some(Out::Status(InstanceStatus::Draining)));
    }

    #[test]
    fn errors_tell_unknown_from_unhealthy_from_not_ready_from_stopped() {
        let mut view = View::new();
        let reader = view.reader();
        assert_eq!(reader.lookup("web").unwrap_err(), LookupError::NotReady);
        let web = instance("web", "a");
        feed(&mut view, &[Event::MemberUp(member(1, MemberState::Reachable)), up(1, &web)]);
        assert!(reader.lookup("web").is_ok(), "what is known is given before the view is complete");
        assert_eq!(reader.status(), Status::Joining);
        view.ready();
        assert_eq!(reader.lookup("db").unwrap_err(), LookupError::UnknownService { name: "db".into() });
        feed(&mut view, &[down(1, &web, GoneReason::OwnerDown)]);
        assert_eq!(reader.lookup("web").unwrap_err(), LookupError::NoHealthy { name: "web".into(), known: 1 });
        feed(&mut view, &[down(1, &web, GoneReason::Forgotten)]);
        assert_eq!(reader.lookup("web").unwrap_err(), LookupError::UnknownService { name: "web".into() });
        view.stop(StopReason::Left);
        view.stop(StopReason::Dropped);
        assert_eq!(reader.lookup("web").unwrap_err(), LookupError::Stopped(StopReason::Left));
        assert_eq!(reader.status(), Status::Stopped(StopReason::Left));
    }

    #[test]
    fn instances_of_a_member_that_is_down_are_kept_and_marked_until_it_is_forgotten() {
        let web = instance("web", "a");
        let (mut view, reader) = view(&[Event::MemberUp(member(1, MemberState::Reachable)), up(1, &web)]);
        feed(&mut view, &[Event::MemberDown(member(1, MemberState::Down)), down(1, &web, GoneReason::OwnerDown)]);
        let kept = reader.service("web").unwrap();
        assert!(!kept.all()[0].is_present);
        assert_eq!(reader.members().len(), 1);
        feed(&mut view, &[Event::MemberUp(member(1, MemberState::Reachable)), up(1, &web)]);
        assert!(reader.lookup("web").unwrap().healthy()[0].is_present);
        feed(&mut view, &[Event::MemberForgotten(member(1, MemberState::Down))]);
        assert!(reader.service("web").is_none() && reader.members().is_empty());
        assert_eq!(view.sizes(), Sizes::default());
    }

    /// Twenty members with one instance of `web` each.
    fn twenty() -> (View, Reader) {
        let members = (1..=20).map(|id| Event::MemberUp(member(id, MemberState::Reachable)));
        let instances = (1..=20).map(|id| up(id, &instance("web", &format!("i{id:02}"))));
        view(&members.chain(instances).collect::<Vec<_>>())
    }

    #[test]
    fn instances_that_crash_together_are_kept_and_flagged_until_they_are_back() {
        let (mut view, reader) = twenty();
        let are = |state, ids: std::ops::RangeInclusive<u64>| -> Vec<_> {
            ids.map(|id| Event::MemberChanged(member(id, state))).collect()
        };
        feed(&mut view, &are(MemberState::Unreachable, 6..=20));
        let web = reader.lookup("web").unwrap();
        assert_eq!((web.healthy().len(), web.stale().count(), web.kept()), (5, 15, Some(Kept::MassDrop)));
        let found = view.take_found();
        assert!(matches!(&found[..], [Event::MassDrop { lost: 15, kept: 5, .. }]), "{found:?}");
        assert_eq!((view.sizes().guarded, view.sizes().mass_drops), (1, 1));
        // The rest goes too: what is left is still there to be read, and says what it is.
        feed(&mut view, &are(MemberState::Unreachable, 1..=5));
        assert!(matches!(reader.lookup("web"), Err(LookupError::NoHealthy { known: 20, .. })));
        assert_eq!(reader.last_known("web").unwrap().stale().count(), 20);
        feed(&mut view, &are(MemberState::Reachable, 1..=20));
        let web = reader.lookup("web").unwrap();
        assert_eq!((web.healthy().len(), web.stale().count(), web.kept()), (20, 0, None));
        assert!(matches!(&view.take_found()[..], [Event::MassDropOver { .. }]));
        assert_eq!(view.sizes().guarded, 0);
    }

    #[test]
    fn instances_that_are_withdrawn_are_gone_at_once_down_to_the_last() {
        let (mut view, reader) = twenty();
        let withdrawn = |id: u64| down(id, &instance("web", &format!("i{id:02}")), GoneReason::Withdrawn);
        feed(&mut view, &(6..=20).map(withdrawn).collect::<Vec<_>>());
        let web = reader.lookup("web").unwrap();
        assert_eq!((web.all().len(), web.kept()), (5, None));
        feed(&mut view, &(1..=5).map(withdrawn).collect::<Vec<_>>());
        assert!(matches!(reader.last_known("web"), Err(LookupError::UnknownService { .. })));
        assert_eq!((view.sizes().mass_drops, view.take_found().len()), (0, 0));
    }

    #[test]
    fn a_crash_of_a_single_instance_keeps_nothing_and_being_cut_off_keeps_everything() {
        let (mut view, reader) =
            view(&[Event::MemberUp(member(1, MemberState::Reachable)), up(1, &instance("web", "a"))]);
        feed(&mut view, &[Event::MemberChanged(member(1, MemberState::Suspect))]);
        assert!(reader.last_known("web").is_err());
        feed(&mut view, &[Event::CutOff(true)]);
        assert_eq!(reader.lookup("web").unwrap_err(), LookupError::Isolated);
        let web = reader.last_known("web").unwrap();
        assert_eq!((web.kept(), web.stale().count()), (Some(Kept::Isolated), 1));
        feed(&mut view, &[Event::CutOff(false)]);
        assert!(reader.last_known("web").is_err());
        // A guarded service that is forgotten whole is no longer guarded.
        let (mut view, _) = twenty();
        feed(&mut view, &(1..=20).map(|id| Event::MemberDown(member(id, MemberState::Down))).collect::<Vec<_>>());
        assert_eq!(view.sizes().guarded, 1);
        feed(&mut view, &(1..=20).map(|id| Event::MemberForgotten(member(id, MemberState::Down))).collect::<Vec<_>>());
        assert_eq!(view.sizes().guarded, 0);
    }

    #[test]
    fn an_instance_is_shown_as_soon_as_its_member_is_known() {
        let (mut view, reader) = view(&[up(1, &instance("web", "a"))]);
        assert!(matches!(reader.lookup("web"), Err(LookupError::UnknownService { .. })));
        assert_eq!(reader.services().len(), 0);
        feed(&mut view, &[Event::MemberUp(member(1, MemberState::Reachable))]);
        assert!(reader.lookup("web").is_ok());
    }

    #[test]
    fn an_instance_that_changes_its_service_is_in_the_new_one_only() {
        let (mut view, reader) =
            view(&[Event::MemberUp(member(1, MemberState::Reachable)), up(1, &instance("web", "a"))]);
        let (before, instance) = (instance("web", "a"), instance("www", "a"));
        let changed = feed(&mut view, &[Event::ServiceChanged { owner: NodeId(1), before, instance }]);
        let changed: Vec<_> = changed.iter().map(|s| (&**s.name(), s.all().len())).collect();
        assert_eq!(changed, [("web", 0), ("www", 1)]);
        assert!(reader.service("web").is_none());
    }

    #[test]
    fn a_change_leaves_every_other_service_as_it_was() {
        let events: Vec<_> = (0..200).map(|n| up(1, &instance(&format!("s{n}"), &format!("i{n}")))).collect();
        let (mut view, reader) = view(&events);
        feed(&mut view, &[Event::MemberUp(member(1, MemberState::Reachable))]);
        let before = reader.services();
        assert_eq!(before.len(), 200);
        let changed = feed(&mut view, &[up(1, &instance("s7", "another"))]);
        assert_eq!(changed.len(), 1);
        for (before, after) in before.iter().zip(reader.services()) {
            assert_eq!(Arc::ptr_eq(before, &after), &**before.name() != "s7");
        }
    }

    #[test]
    fn a_suspected_split_is_told_until_it_is_over() {
        let (mut view, reader) = view(&[]);
        assert_eq!(reader.split(), None);
        let split = |lost| Arc::new(Split { lost, kept: 1, ..Split::default() });
        feed(&mut view, &[Event::PartitionSuspected(split(2)), Event::PartitionSuspected(split(4))]);
        assert_eq!(reader.split().map(|split| split.lost), Some(4), "the last word counts");
        feed(&mut view, &[Event::PartitionOver]);
        assert_eq!(reader.split(), None);
    }

    #[test]
    fn a_difference_tells_what_came_what_went_and_what_changed() {
        let (a, b, c) = (instance("web", "a"), instance("web", "b"), instance("web", "c"));
        let (mut view, reader) = view(&[Event::MemberUp(member(1, MemberState::Reachable)), up(1, &a), up(1, &b)]);
        let before = reader.service("web").unwrap();
        let heavier = Arc::new(Instance::clone(&b).with_weight(7));
        let change = Event::ServiceChanged { owner: NodeId(1), before: b, instance: heavier };
        feed(&mut view, &[down(1, &a, GoneReason::Withdrawn), change, up(1, &c)]);
        let diff = before.diff(&reader.service("web").unwrap());
        assert_eq!((ids(&diff.added), ids(&diff.removed)), (vec!["c"], vec!["a"]));
        assert_eq!(diff.changed.len(), 1);
        assert_eq!((diff.changed[0].0.instance.weight, diff.changed[0].1.instance.weight), (1, 7));
        assert!(diff.now.diff(&diff.now).is_empty());
    }

    #[test]
    fn reading_while_a_writer_writes_sees_only_whole_states() {
        // The writer moves one instance between two states in each of which a and b have one weight.
        let write = |weight| {
            let with = |id| Arc::new(Instance::clone(&instance("web", id)).with_weight(weight));
            [up(1, &with("a")), up(1, &with("b"))]
        };
        let (mut view, reader) = view(&[Event::MemberUp(member(1, MemberState::Reachable))]);
        feed(&mut view, &write(0));
        std::thread::scope(|scope| {
            let reads = scope.spawn(|| {
                while reader.lookup("web").unwrap().healthy()[0].instance.weight < 2_000 {
                    let weights = |s: &Service| (s.healthy()[0].instance.weight, s.healthy()[1].instance.weight);
                    let (a, b) = reader.read("web", weights).unwrap();
                    assert_eq!(a, b);
                }
            });
            for weight in 1..=2_000 {
                feed(&mut view, &write(weight));
            }
            reads.join().unwrap();
        });
    }

    /// Events about four members, each with three ids in three services.
    fn any_event() -> impl Strategy<Value = Event> {
        let states = [MemberState::Reachable, MemberState::Suspect, MemberState::Unreachable];
        let services = prop::sample::select(vec!["x", "y", "z"]);
        let statuses = prop::sample::select(vec![InstanceStatus::Passing, InstanceStatus::Critical]);
        let reasons = prop::sample::select(vec![GoneReason::Withdrawn, GoneReason::OwnerDown, GoneReason::OwnerLeft]);
        let id = prop::sample::select(vec!["a", "b", "c"]);
        let parts = (1..5_u64, services, id, statuses, reasons, prop::sample::select(states.to_vec()));
        (parts, 0..8_u8).prop_map(|((owner, service, id, status, reason, state), kind)| {
            let instance = Arc::new(Instance::clone(&instance(service, id)).with_status(status));
            match kind {
                0 => Event::MemberUp(member(owner, MemberState::Reachable)),
                1 => Event::MemberChanged(member(owner, state)),
                2 => Event::MemberDown(member(owner, MemberState::Down)),
                3 => Event::MemberLeft(member(owner, MemberState::Left)),
                4 => Event::MemberForgotten(member(owner, MemberState::Down)),
                5 => up(owner, &instance),
                6 => Event::ServiceChanged { owner: NodeId(owner), before: Arc::clone(&instance), instance },
                _ => down(owner, &instance, reason),
            }
        })
    }

    /// What a view should show, kept the plainest way: everything in two maps, nothing remembered between reads.
    #[derive(Default)]
    struct Model {
        members: BTreeMap<NodeId, Arc<Member>>,
        offers: BTreeMap<(NodeId, Key), (Arc<Instance>, bool)>,
    }

    impl Model {
        fn apply(&mut self, event: &Event) {
            match event {
                Event::MemberUp(m) | Event::MemberChanged(m) | Event::MemberDown(m) => {
                    self.members.insert(m.peer.id, Arc::clone(m));
                }
                Event::MemberLeft(m) | Event::MemberForgotten(m) => {
                    self.members.remove(&m.peer.id);
                    self.offers.retain(|(owner, _), _| *owner != m.peer.id);
                }
                Event::ServiceUp { owner, instance } => {
                    self.offers.insert((*owner, instance.id.clone()), (Arc::clone(instance), true));
                }
                Event::ServiceChanged { owner, instance, .. } => {
                    let place = (*owner, instance.id.clone());
                    let is_present = self.offers.get(&place).is_none_or(|(_, is_present)| *is_present);
                    self.offers.insert(place, (Arc::clone(instance), is_present));
                }
                Event::ServiceDown { owner, instance, reason } => {
                    let place = (*owner, instance.id.clone());
                    if *reason == GoneReason::OwnerDown {
                        self.offers.insert(place, (Arc::clone(instance), false));
                    } else {
                        self.offers.remove(&place);
                    }
                }
                _ => {}
            }
        }

        /// Each service with its instances: healthy ones first, then by id, then by owner.
        fn shown(&self) -> BTreeMap<String, Vec<Shown>> {
            let mut shown = BTreeMap::<_, Vec<_>>::new();
            for ((owner, key), (instance, is_present)) in &self.offers {
                let Some(member) = self.members.get(owner) else { continue };
                let serves = instance.status.is_serving() && member.state == MemberState::Reachable;
                let one = (!(serves && *is_present), key.clone(), *owner, *is_present, member.state);
                shown.entry(instance.service.to_string()).or_default().push(one);
            }
            shown.values_mut().for_each(|all| all.sort());
            shown
        }
    }

    /// Whether it is out, its id, its owner, whether it is present, and the state of its owner.
    type Shown = (bool, Key, NodeId, bool, MemberState);

    fn shown(service: &Service) -> Vec<Shown> {
        let one =
            |o: &Offered| (!o.is_healthy(), o.instance.id.clone(), o.member.peer.id, o.is_present, o.member.state);
        service.all().iter().map(one).collect()
    }

    proptest! {
        #[test]
        fn a_view_shows_what_the_plainest_model_shows(
            batches in prop::collection::vec(prop::collection::vec(any_event(), 0..6), 0..40),
        ) {
            let (mut view, reader) = view(&[]);
            let mut model = Model::default();
            let mut watched = BTreeMap::<String, Arc<Service>>::new();
            for batch in batches {
                batch.iter().for_each(|event| model.apply(event));
                for service in feed(&mut view, &batch) {
                    watched.insert(service.name().to_string(), service);
                }
                let expected = model.shown();
                let read: BTreeMap<_, _> =
                    reader.services().iter().map(|s| (s.name().to_string(), shown(s))).collect();
                prop_assert_eq!(&read, &expected);
                // Whoever only hears of changes knows the same.
                watched.retain(|_, service| !service.all().is_empty());
                let heard: BTreeMap<_, _> = watched.iter().map(|(name, s)| (name.clone(), shown(s))).collect();
                prop_assert_eq!(&heard, &expected);
                for name in ["x", "y", "z"] {
                    let healthy = expected.get(name).map_or(0, |all| all.iter().filter(|one| !one.0).count());
                    prop_assert_eq!(reader.lookup(name).map_or(0, |s| s.healthy().len()), healthy);
                }
                let told = model.members.values();
                let mut members: Vec<_> = told.map(|m| (m.name.clone(), m.peer.id, m.state)).collect();
                members.sort();
                let seen: Vec<_> = reader.members().iter().map(|m| (m.name.clone(), m.peer.id, m.state)).collect();
                prop_assert_eq!(seen, members);
            }
        }
    }
}
