//! STAND-IN: members of one process that see each other through a lock. Replaced by the real handle.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::effect::{Event, GoneReason};
use crate::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use crate::record::{Instance, Key};
pub use crate::view::{LookupError, Offered, Reader, Service, Status, StopReason};
use crate::view::View;

/// .
#[derive(Clone, Copy, Debug)]
pub enum JoinPolicy {
    /// .
    Require(Duration),
    /// .
    Background,
    /// .
    Warn(Duration),
}

/// .
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum StartError {
    #[error(transparent)]
    Invalid(#[from] crate::record::InstanceError),
    #[error("cannot {what} {addr}: without a cluster key only loopback addresses are accepted")]
    NotLoopback { what: &'static str, addr: SocketAddr },
    #[error("{count} members to join through, the limit is {limit}")]
    TooManyToJoin { count: usize, limit: usize },
    #[error("none of {join:?} has answered within {waited:?}")]
    NotJoined { join: Vec<String>, waited: Duration },
    #[error(transparent)]
    Stopped(StopReason),
}

type Shared = Mutex<BTreeMap<NodeId, Weak<Inner>>>;
static ALL: Shared = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
struct Inner {
    member: Arc<Member>,
    view: Mutex<View>,
    reader: Reader,
    events: broadcast::Sender<Event>,
    own: Mutex<BTreeMap<Key, Arc<Instance>>>,
    has_left: Mutex<bool>,
}

impl Inner {
    fn tell(&self, event: Event) {
        let mut view = self.view.lock().unwrap();
        view.apply(&event);
        view.publish();
        let _ = self.events.send(event);
    }
}

fn others(id: NodeId) -> Vec<Arc<Inner>> {
    ALL.lock().unwrap().iter().filter(|(i, _)| **i != id).filter_map(|(_, w)| w.upgrade()).collect()
}

impl Drop for Inner {
    fn drop(&mut self) {
        ALL.lock().unwrap().remove(&self.member.peer.id);
        if *self.has_left.lock().unwrap() {
            return;
        }
        for other in others(self.member.peer.id) {
            let member = Arc::new(Member { state: MemberState::Down, ..Member::clone(&self.member) });
            other.tell(Event::MemberDown(member));
            for instance in self.own.lock().unwrap().values() {
                let (owner, instance) = (self.member.peer.id, Arc::clone(instance));
                other.tell(Event::ServiceDown { owner, instance, reason: GoneReason::OwnerDown });
            }
        }
    }
}

/// .
#[derive(Debug)]
#[allow(dead_code)]
pub struct Builder(String, String, SocketAddr, Vec<String>, String, JoinPolicy);

#[allow(missing_docs)]
impl Builder {
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.2 = addr;
        self
    }
    pub fn advertise(self, _: SocketAddr) -> Self {
        self
    }
    pub fn join(mut self, targets: impl IntoIterator<Item: Into<String>>) -> Self {
        self.3.extend(targets.into_iter().map(Into::into));
        self
    }
    pub fn data_dir(self, _: impl Into<PathBuf>) -> Self {
        self
    }
    pub fn zone(mut self, zone: &str) -> Self {
        self.4 = zone.into();
        self
    }
    pub fn join_policy(mut self, policy: JoinPolicy) -> Self {
        self.5 = policy;
        self
    }
    pub async fn start(self) -> Result<Registry, StartError> {
        if !self.2.ip().is_loopback() {
            return Err(StartError::NotLoopback { what: "bind", addr: self.2 });
        }
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = NodeId(n);
        let before = others(id);
        if let (JoinPolicy::Require(waited), true, false) = (self.5, before.is_empty(), self.3.is_empty()) {
            tokio::time::sleep(waited).await;
            return Err(StartError::NotJoined { join: self.3, waited });
        }
        let port = if self.2.port() == 0 { 40_000 + n as u16 } else { self.2.port() };
        let addr = SocketAddr::new(self.2.ip(), port);
        let member = Arc::new(Member {
            peer: Peer { id, addr, generation: Generation::first(1), nonce: n },
            name: Arc::from(self.1),
            zone: Arc::from(self.4),
            state: MemberState::Reachable,
            evidence: Evidence::default(),
            software: Arc::from("0"),
            wire: (1, 1),
        });
        let view = View::new();
        let reader = view.reader();
        let events = broadcast::channel(1024).0;
        let inner = Arc::new(Inner {
            member: Arc::clone(&member),
            view: Mutex::new(view),
            reader,
            events,
            own: Mutex::default(),
            has_left: Mutex::new(false),
        });
        ALL.lock().unwrap().insert(id, Arc::downgrade(&inner));
        inner.tell(Event::MemberUp(Arc::clone(&member)));
        for other in before {
            inner.tell(Event::MemberUp(Arc::clone(&other.member)));
            for instance in other.own.lock().unwrap().values() {
                inner.tell(Event::ServiceUp { owner: other.member.peer.id, instance: Arc::clone(instance) });
            }
            other.tell(Event::MemberUp(Arc::clone(&member)));
        }
        inner.view.lock().unwrap().ready();
        inner.tell(Event::Ready);
        Ok(Registry(inner))
    }
}

/// .
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[allow(missing_docs)]
impl Registry {
    pub fn builder(cluster: &str, name: &str) -> Builder {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Builder(cluster.into(), name.into(), any, Vec::new(), String::new(), JoinPolicy::Background)
    }
    pub fn peer(&self) -> Peer {
        self.0.member.peer
    }
    pub fn name(&self) -> &Arc<str> {
        &self.0.member.name
    }
    pub fn local_addr(&self) -> SocketAddr {
        self.peer().addr
    }
    fn everybody(&self, event: &Event) {
        self.0.tell(event.clone());
        others(self.peer().id).iter().for_each(|other| other.tell(event.clone()));
    }
    pub async fn register(&self, instance: Instance) -> Result<Registration, StopReason> {
        let instance = Arc::new(instance);
        self.0.own.lock().unwrap().insert(instance.id.clone(), Arc::clone(&instance));
        self.everybody(&Event::ServiceUp { owner: self.peer().id, instance: Arc::clone(&instance) });
        Ok(Registration { registry: self.clone(), instance, is_armed: true })
    }
    pub fn lookup(&self, service: &str) -> Result<Arc<Service>, LookupError> {
        self.0.reader.lookup(service)
    }
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.0.reader.services()
    }
    pub fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.0.reader.members()
    }
    pub fn events(&self) -> Events {
        Events(self.0.events.subscribe())
    }
    pub async fn stats(&self) -> Result<Stats, StopReason> {
        Ok(Stats)
    }
    pub fn status(&self) -> Status {
        self.0.reader.status()
    }
    pub async fn leave(&self) -> Result<(), StopReason> {
        *self.0.has_left.lock().unwrap() = true;
        let owner = self.peer().id;
        for other in others(owner) {
            other.tell(Event::MemberLeft(Arc::clone(&self.0.member)));
            for instance in self.0.own.lock().unwrap().values() {
                let instance = Arc::clone(instance);
                other.tell(Event::ServiceDown { owner, instance, reason: GoneReason::OwnerLeft });
            }
        }
        Ok(())
    }
    pub fn age(&self, evidence: &Evidence) -> Option<Duration> {
        evidence.last().map(|at| Duration::from_nanos(at.as_nanos()))
    }
}

/// .
#[derive(Debug)]
pub struct Registration {
    registry: Registry,
    instance: Arc<Instance>,
    is_armed: bool,
}

#[allow(missing_docs)]
impl Registration {
    pub fn id(&self) -> &Key {
        &self.instance.id
    }
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
    pub async fn update(&mut self, change: impl FnOnce(&mut Instance)) -> Result<(), StopReason> {
        let before = Arc::clone(&self.instance);
        change(Arc::make_mut(&mut self.instance));
        let instance = Arc::clone(&self.instance);
        self.registry.0.own.lock().unwrap().insert(instance.id.clone(), Arc::clone(&instance));
        self.registry.everybody(&Event::ServiceChanged { owner: self.registry.peer().id, before, instance });
        Ok(())
    }
    pub async fn withdraw(self) -> Result<(), StopReason> {
        Ok(())
    }
    pub fn keep(mut self) {
        self.is_armed = false;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let has_left = *self.registry.0.has_left.lock().unwrap();
        if self.is_armed && !has_left {
            self.registry.0.own.lock().unwrap().remove(&self.instance.id);
            let (owner, instance) = (self.registry.peer().id, Arc::clone(&self.instance));
            self.registry.everybody(&Event::ServiceDown { owner, instance, reason: GoneReason::Withdrawn });
        }
    }
}

/// .
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

#[allow(missing_docs)]
impl Events {
    pub async fn next(&mut self) -> Option<Result<Event, Lagged>> {
        match self.0.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// .
#[derive(Clone, Copy, Debug)]
pub struct Lagged(pub u64);

/// .
#[derive(Debug)]
pub struct Stats;

#[allow(missing_docs)]
impl Stats {
    pub fn each(&self) -> impl Iterator<Item = (&str, u64)> {
        [("stand_in", 1)].into_iter()
    }
}
