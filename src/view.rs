//! What a reader sees: immutable snapshots of every service and of the members, read without a lock and without
//! waiting. Knows events, and nothing of the node, of sockets or of who reads.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::effect::{Event, Fatal, GoneReason};
use crate::peer::{Member, MemberState, NodeId};
use crate::record::{Instance, Key, Status as InstanceStatus};

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

/// All instances of one service at one moment. It never changes; look the service up again for a newer one.
#[derive(Clone, Debug)]
pub struct Service {
    name: Arc<str>,
    /// Healthy ones first, each part by instance id, then by owner.
    offered: Vec<Offered>,
    healthy: usize,
}

impl Service {
    /// A service that nobody offers.
    pub fn empty(name: &str) -> Self {
        Self { name: Arc::from(name), offered: Vec::new(), healthy: 0 }
    }

    fn new(name: Arc<str>, mut offered: Vec<Offered>) -> Self {
        offered.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let healthy = offered.partition_point(Offered::is_healthy);
        Self { name, offered, healthy }
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
type Directory = std::collections::HashMap<Arc<str>, Arc<ArcSwap<Service>>, NameHash>;

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    stopped: ArcSwapOption<StopReason>,
    hash: NameHash,
    shards: [ArcSwap<Directory>; SHARDS],
    members: ArcSwap<Vec<Arc<Member>>>,
}

impl Shared {
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

    /// Like [`lookup`](Self::lookup), but only lends the service to `read`, which saves two atomic counts of
    /// references: worth it where many threads look up the same service all the time.
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
        if state == JOINING { LookupError::NotReady } else { ready() }
    }

    fn directory(&self, name: &str) -> &ArcSwap<Directory> {
        &self.shared.shards[self.shared.hash.shard(name)]
    }

    /// The service, healthy or not, also after the member stopped; `None` if no instance of it is known.
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        let directory = self.directory(name).load();
        directory.get(name).map(|slot| slot.load_full()).filter(|service| !service.offered.is_empty())
    }

    /// Every service of which an instance is known, sorted by name. Each is a moment of its own.
    pub fn services(&self) -> Vec<Arc<Service>> {
        let mut all = Vec::new();
        for shard in &self.shared.shards {
            all.extend(shard.load().values().map(|slot| slot.load_full()));
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
}

#[derive(Default, Debug)]
struct Offers {
    by_place: BTreeMap<(Key, NodeId), Offer>,
    slot: Option<Arc<ArcSwap<Service>>>,
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
            stopped: ArcSwapOption::empty(),
            hash,
            shards: std::array::from_fn(|_| ArcSwap::from_pointee(Directory::with_hasher(hash))),
            members: ArcSwap::from_pointee(Vec::new()),
        };
        Self {
            reader: Reader { shared: Arc::new(shared) },
            members: BTreeMap::new(),
            services: BTreeMap::new(),
            offered: BTreeMap::new(),
            changed: BTreeSet::new(),
            members_changed: false,
        }
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
            Event::Ready | Event::Warning(_) | Event::Fatal(_) => {}
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
        let shown = offers.by_place.iter().filter_map(|((_, owner), offer)| {
            let member = Arc::clone(self.members.get(owner)?);
            Some(Offered { instance: Arc::clone(&offer.instance), member, is_present: offer.is_present })
        });
        let now = Arc::new(Service::new(Arc::clone(&name), shown.collect()));
        match &offers.slot {
            Some(slot) => slot.store(Arc::clone(&now)),
            None => {
                let slot = Arc::new(ArcSwap::new(Arc::clone(&now)));
                offers.slot = Some(Arc::clone(&slot));
                shared.edited(shards, &name.clone()).insert(name, slot);
            }
        }
        now
    }

    /// Tells readers that the member joined.
    pub fn ready(&mut self) {
        let state = &self.reader.shared.state;
        // A member that stopped stays so; an exchange that fails means just that.
        let _ = state.compare_exchange(JOINING, READY, Ordering::AcqRel, Ordering::Acquire);
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
        offers.by_place.insert((key.clone(), owner), Offer { instance: Arc::clone(instance), is_present });
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
                self.services.remove(service);
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
}
