//! Where instances are found and offered: by gossip, in a fixed list, or in memory. A picker reads any
//! of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::effect::{Event, GoneReason};
use crate::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use crate::record::{Instance, InstanceError, Key, Status};
use crate::view::{Reader, View};

/// Something that knows services. A program that takes one can be tested without a network, and run without gossip.
///
/// ```
/// use std::net::SocketAddr;
/// use tidings::Instance;
/// use tidings::select::Picker;
/// use tidings::select::discovery::{Discovery, InMemory};
///
/// fn payments(found: &impl Discovery) -> Picker {
///     Picker::new(found.reader(), "payments")
/// }
///
/// let found = InMemory::new();
/// let address: SocketAddr = "127.0.0.1:8080".parse()?;
/// let id = found.register(Instance::new("payments", address)?)?;
/// let payments = payments(&found);
/// assert_eq!(payments.pick()?.instance().id, id);
/// found.withdraw(&id);
/// assert!(payments.pick().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Discovery {
    /// Reads what is known. Readers see every later change.
    fn reader(&self) -> Reader;
}

/// Something that instances can be offered to: gossip, or memory. What a program that takes one does with its own
/// instances can be tested without a network.
///
/// ```
/// # use std::net::SocketAddr;
/// use tidings::Instance;
/// use tidings::select::discovery::{Discovery, InMemory, Registry};
///
/// async fn serve<R: Registry>(registry: &R, address: SocketAddr) -> Result<R::Offer, Box<dyn std::error::Error>> {
///     Ok(registry.offer(Instance::new("payments", address)?).await?)
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let memory = InMemory::new();
/// let offer = serve(&memory, "127.0.0.1:8080".parse()?).await?;
/// assert!(memory.reader().lookup("payments").is_ok());
/// drop(offer);
/// assert!(memory.reader().lookup("payments").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Registry: Discovery {
    /// Keeps an instance offered until it is dropped.
    type Offer: Send + 'static;

    /// Why an instance was not taken.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Offers an instance, until what this gives is dropped. An empty id becomes [`Instance::default_id`].
    ///
    /// # Errors
    /// Says why; nothing is offered.
    fn offer(&self, instance: Instance) -> impl Future<Output = Result<Self::Offer, Self::Error>> + Send;
}

#[cfg(feature = "net")]
impl Discovery for crate::registry::Registry {
    fn reader(&self) -> Reader {
        Self::reader(self)
    }
}

#[cfg(feature = "net")]
impl Registry for crate::registry::Registry {
    type Offer = crate::registry::Registration;
    type Error = crate::registry::RegisterError;

    async fn offer(&self, instance: Instance) -> Result<Self::Offer, Self::Error> {
        self.register(instance).await
    }
}

#[cfg(feature = "net")]
impl Discovery for crate::net::kept_view::SavedView {
    fn reader(&self) -> Reader {
        Self::reader(self)
    }
}

/// A fixed list of instances, from a configuration file for example: an [`Instance`] can be read by serde, with nothing
/// but `service` and `address`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tidings::select::discovery::{Discovery, Static};
///
/// let text = r#"[{"service": "payments", "address": {"host": "10.0.0.7", "port": 8080}}]"#;
/// let list = Static::new(serde_json::from_str::<Vec<tidings::Instance>>(text)?)?;
/// assert_eq!(list.reader().lookup("payments")?.healthy().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Static(InMemory);

impl Static {
    /// Knows these instances and no others, for ever.
    ///
    /// # Errors
    /// Of the first that breaks a rule.
    pub fn new(instances: impl IntoIterator<Item = Instance>) -> Result<Self, InstanceError> {
        InMemory::of(instances).map(Self)
    }
}

impl Discovery for Static {
    fn reader(&self) -> Reader {
        self.0.reader()
    }
}

/// Services that the program itself keeps: for its tests, or from a fixed list where nobody gossips.
///
/// One member, named `local` and always reachable, offers them all. It is ready from the beginning. Clones know the
/// same.
#[derive(Clone, Debug)]
pub struct InMemory {
    inside: Arc<Mutex<Inside>>,
}

/// An instance that is offered in memory. Dropping it withdraws the instance.
#[derive(Debug)]
#[must_use = "dropping it withdraws the instance"]
pub struct Offer {
    memory: InMemory,
    id: Key,
}

impl Offer {
    /// The instance's id.
    pub fn id(&self) -> &Key {
        &self.id
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.memory.withdraw(&self.id);
    }
}

impl Registry for InMemory {
    type Offer = Offer;
    type Error = InstanceError;

    async fn offer(&self, instance: Instance) -> Result<Offer, InstanceError> {
        let id = self.register(instance)?;
        Ok(Offer { memory: self.clone(), id })
    }
}

#[derive(Debug)]
struct Inside {
    view: View,
    instances: BTreeMap<Key, Arc<Instance>>,
}

/// The member that offers what is kept in memory.
const LOCAL: NodeId = NodeId(0);

/// Its name.
const NAME: &str = "local";

impl Default for InMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl InMemory {
    /// Knows nothing yet.
    pub fn new() -> Self {
        let peer = Peer {
            id: LOCAL,
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            generation: Generation::first(0),
            nonce: 0,
        };
        let member = Member {
            peer,
            name: Arc::from(NAME),
            zone: Arc::from(""),
            state: MemberState::Reachable,
            evidence: Evidence::default(),
            software: Arc::from(env!("CARGO_PKG_VERSION")),
            wire: (0, 0),
        };
        let mut view = View::new();
        view.apply(&Event::MemberUp(Arc::new(member)));
        view.publish();
        view.ready();
        Self { inside: Arc::new(Mutex::new(Inside { view, instances: BTreeMap::new() })) }
    }

    /// Knows these instances: a fixed list, from a configuration file for example.
    ///
    /// # Errors
    /// As for [`register`](Self::register), of the first that is refused.
    pub fn of(instances: impl IntoIterator<Item = Instance>) -> Result<Self, InstanceError> {
        let memory = Self::new();
        instances.into_iter().try_for_each(|instance| memory.register(instance).map(drop))?;
        Ok(memory)
    }

    /// Offers an instance, in place of the one with its id if there is one. An empty id becomes
    /// [`Instance::default_id`]. Gives the id.
    ///
    /// # Errors
    /// See [`InstanceError`]; nothing is changed.
    pub fn register(&self, mut instance: Instance) -> Result<Key, InstanceError> {
        instance.check()?;
        if instance.id.is_member() {
            instance.id = Instance::default_id(&instance.service, NAME, instance.address.port);
        }
        let id = instance.id.clone();
        self.inside().offer(Arc::new(instance));
        Ok(id)
    }

    /// Changes what an instance says of itself; `false` if there is none of that id.
    pub fn set_status(&self, id: &Key, status: Status) -> bool {
        let mut inside = self.inside();
        let Some(instance) = inside.instances.get(id) else { return false };
        let instance = Instance::clone(instance).with_status(status);
        inside.offer(Arc::new(instance));
        true
    }

    /// Withdraws an instance; `false` if there is none of that id.
    pub fn withdraw(&self, id: &Key) -> bool {
        let mut inside = self.inside();
        let Some(instance) = inside.instances.remove(id) else { return false };
        inside.view.apply(&Event::ServiceDown { owner: LOCAL, instance, reason: GoneReason::Withdrawn });
        inside.view.publish();
        true
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // A panic between two steps leaves an instance unpublished, which the next change publishes.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn offer(&mut self, instance: Arc<Instance>) {
        self.instances.insert(instance.id.clone(), Arc::clone(&instance));
        self.view.apply(&Event::ServiceUp { owner: LOCAL, instance });
        self.view.publish();
    }
}

impl Discovery for InMemory {
    fn reader(&self) -> Reader {
        self.inside().view.reader()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::{PickError, Picker};

    fn web(port: u16) -> Instance {
        Instance::new("web", SocketAddr::from(([127, 0, 0, 1], port))).expect("a valid instance")
    }

    #[test]
    fn a_fixed_list_is_called_like_what_gossip_knows() {
        let list = InMemory::of([web(80), web(81), web(82)]).unwrap();
        let picker = Picker::new(list.reader(), "web");
        assert_eq!(picker.candidates().unwrap().len(), 3);
        let other = Picker::new(list.reader(), "api");
        assert_eq!(other.pick().unwrap_err(), PickError::UnknownService { name: "api".into() });
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let memory = InMemory::of([web(80)]).unwrap();
        let bad = web(80).with_weight(u32::MAX);
        assert!(memory.register(bad).is_err());
        let healthy = memory.reader().lookup("web").unwrap();
        assert_eq!(healthy.healthy()[0].instance.weight, 1);
        assert!(!memory.withdraw(&Key::from("nobody")) && !memory.set_status(&Key::from("nobody"), Status::Critical));
    }

    #[test]
    fn a_status_and_a_withdrawal_are_seen_at_once() {
        let memory = InMemory::new();
        let (first, second) = (memory.register(web(80)).unwrap(), memory.register(web(81)).unwrap());
        let picker = Picker::new(memory.reader(), "web");
        assert!(memory.set_status(&first, Status::Draining));
        assert_eq!(picker.pick().unwrap().instance().id, second);
        assert!(memory.withdraw(&second));
        assert!(matches!(picker.pick().unwrap_err(), PickError::NoHealthy(_)));
        // Another instance under the same id, even of another service, takes its place.
        let moved = Instance::new("api", SocketAddr::from(([127, 0, 0, 1], 80))).unwrap().with_id(first.as_str());
        memory.register(moved).unwrap();
        assert_eq!(picker.pick().unwrap_err(), PickError::UnknownService { name: "web".into() });
    }
}
