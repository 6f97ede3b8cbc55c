//! What an agent offers for others: services that do not embed the crate, registered by its configuration, over its
//! doors or on its standard input. Owns their registrations, their checks and their maintenance.
//!
//! [`Offers`] is a handle; clones are handles to the same. What is registered over a door is [kept](Origin::Door) in
//! the data directory and back, with its checks, when [`Offers::start`] returns.
//!
//! ```
//! # use std::net::SocketAddr;
//! use std::time::Duration;
//!
//! use tidings::check::{Check, Outcome};
//! use tidings::offers::{Existing, Offer, Offers, Origin};
//! use tidings::{Instance, Registry};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let registry = Registry::builder("demo", "agent").start().await?;
//! let offers = Offers::start(registry, None).await?;
//! let web = Instance::new("web", SocketAddr::from(([127, 0, 0, 1], 8080)))?.with_id("web-1");
//! let check = Check::ttl(Duration::from_secs(15));
//! offers.register(Offer::new(web, Origin::Program).with_check(check), Existing::Refuse).await?;
//! assert!(offers.registry().lookup("web").is_err(), "critical until it is told");
//! offers.tell("service:web-1", Outcome::passing("well")).await?;
//! assert!(offers.registry().lookup("web").is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod external;
mod kept;
mod runs;
mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::check::{Check, Outcome};
use crate::net::driver::{Clock, unix_ms};
use crate::net::stats::STALL;
use crate::net::tally::Counted;
use crate::record::{Instance, Key, Status};
use crate::registry::{ON_THE_WAY, Registration, Registry};
use crate::time::Time;
use crate::view;

pub use self::error::OfferError;
pub use self::external::{EXTERNAL_ADDRESS, EXTERNAL_ID, EXTERNAL_NODE, External};
pub use self::kept::{OFFERS_BYTES_MAX, OFFERS_FORMAT};
use self::runs::Runs;
use self::state::{Entry, State};
pub use self::state::{LocalCheck, LocalInstance, Maintenance, OfferStats};

/// Instances that an agent offers.
pub const OFFERED_MAX: usize = 4_096;

/// Checks of one instance, and of the member.
pub const CHECKS_MAX: usize = 64;

/// Checks in all.
pub const CHECKS_IN_ALL_MAX: usize = 16_384;

/// How long after a change that could not be told the others it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// How long after what is offered could not be written down it is tried again.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The shortest time between two looks at what is due: timers are no finer.
const LOOK_AFTER: Duration = Duration::from_millis(1);

/// The longest time between two looks at what is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where an instance or check comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The program and its configuration, which say it again at the next start. All kinds of checks are allowed.
    Program,
    /// Somebody who asked over a door: kept in the data directory. Commands and functions are refused as checks.
    Door,
}

/// An instance to be offered, with its checks.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Offer {
    /// The instance. Its [`Instance::status`] is what it says of itself; the worst of that and of its checks is told
    /// to the others. One that is [`Starting`](Status::Starting) stays so until each of its checks has passed once, or
    /// until [`Offers::ready`].
    pub instance: Instance,
    /// Its checks.
    pub checks: Vec<Check>,
    /// Where it comes from.
    pub origin: Origin,
    /// The node that it runs on, if that is not this member's.
    pub external: Option<External>,
    /// Its weight while it is warning; the same as always unless given.
    pub warning_weight: Option<u32>,
}

impl Offer {
    /// An instance without checks.
    pub fn new(instance: Instance, origin: Origin) -> Self {
        Self { instance, checks: Vec::new(), origin, external: None, warning_weight: None }
    }

    /// Adds a check.
    #[must_use]
    pub fn with_check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    /// Sets the node that it runs on.
    #[must_use]
    pub fn on(mut self, external: External) -> Self {
        self.external = Some(external);
        self
    }
}

/// What becomes of an instance of the same id, and of its checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// It stays, and the new one is refused.
    Refuse,
    /// It is replaced; checks of other ids than the new ones stay.
    KeepChecks,
    /// It is replaced; of its checks those stay that came over a door, and have other ids than the new ones.
    KeepDoors,
    /// It is replaced with all its checks.
    Replace,
}

/// A handle to what an agent offers. Clones are handles to the same.
///
/// When the last one is dropped, everything is withdrawn. It keeps the member running.
#[derive(Clone, Debug)]
pub struct Offers {
    shared: Arc<Shared>,
}

impl Offers {
    /// Begins to offer: what is kept in `data_dir`, and what is registered from now on. Needs a tokio runtime with
    /// time and sockets, on which its checks run, wherever they are asked for; must be the only one of its directory,
    /// which the member has locked.
    ///
    /// # Errors
    /// The kept file cannot be read, or was written by a newer version; one that is damaged is set aside with a
    /// warning. An instance of it that is refused is reported in the log, and costs no other.
    pub async fn start(registry: Registry, data_dir: Option<PathBuf>) -> Result<Self, OfferError> {
        let found = match data_dir.clone() {
            Some(dir) => blocking(move || kept::read(&dir, unix_ms() / 1_000)).await?.map_err(OfferError::Kept)?,
            None => kept::Found::default(),
        };
        if let Some(path) = &found.set_aside {
            tracing::warn!(target: OFFERS_LOG, path = %path.display(), "what was offered cannot be read; it is set aside");
        }
        let mut state = State::default();
        state.restore(found.kept, registry.clock().now());
        let ids: Vec<Key> = state.ids().collect();
        let shared = Arc::new_cyclic(|me| Shared {
            me: Weak::clone(me),
            clock: registry.clock(),
            registry,
            printed: Arc::clone(&state.printed),
            state: Mutex::new(state),
            guards: tokio::sync::Mutex::new(BTreeMap::new()),
            runs: Mutex::default(),
            keeper: data_dir.map(|dir| Keeper { dir, saved: tokio::sync::Mutex::new(0) }),
            changes: watch::Sender::new(0),
            due: Arc::default(),
            runtime: Handle::current(),
        });
        // What a member cannot take is in the log, and costs no other.
        let _ = shared.publish_in_the_end(&ids).await;
        shared.align_runs();
        tokio::spawn(keep_time(Arc::downgrade(&shared), Arc::clone(&shared.due)));
        Ok(Self { shared })
    }

    /// The member.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Offers an instance, or offers it anew. Gives it as the others see it. An id that is empty becomes
    /// `service@member:port`. When this returns, the instance is on its way to the others; once begun, it goes on even
    /// if nobody waits for it. A check that was there with the same id and kind keeps its level and output.
    ///
    /// # Errors
    /// See [`OfferError`]; but for [`OfferError::NotKept`], nothing changed.
    pub async fn register(&self, offer: Offer, existing: Existing) -> Result<Arc<LocalInstance>, OfferError> {
        let service = Arc::clone(&offer.instance.service);
        let result = self.to_its_end(|shared| async move { shared.register(offer, existing).await }).await;
        let is_offered = matches!(result, Ok(_) | Err(OfferError::NotKept(_)));
        self.registry().tallies().note_registration(&service, is_offered);
        result
    }

    /// Withdraws an instance, with its checks and its maintenance.
    ///
    /// # Errors
    /// [`OfferError::UnknownInstance`], and [`OfferError::NotKept`].
    pub async fn deregister(&self, id: &Key) -> Result<Arc<LocalInstance>, OfferError> {
        let id = id.clone();
        self.to_its_end(|shared| async move { shared.deregister(&id).await }).await
    }

    /// The same, if the instance comes from there; one that somebody else has registered under its id meanwhile stays.
    ///
    /// # Errors
    /// As for [`deregister`](Self::deregister); also [`OfferError::UnknownInstance`] for one that comes from elsewhere.
    pub async fn deregister_from(&self, id: &Key, origin: Origin) -> Result<Arc<LocalInstance>, OfferError> {
        let id = id.clone();
        self.to_its_end(|shared| async move { shared.deregister_if(&id, |entry| entry.origin == origin).await }).await
    }

    /// Withdraws an instance without losing a call: says that it is draining, waits until all members know that, a
    /// moment longer for calls that are under way, and withdraws it; after `timeout` in any case. One that is
    /// registered anew meanwhile is another, and stays.
    ///
    /// # Errors
    /// As for [`deregister`](Self::deregister). [`OfferError::Refused`] or [`OfferError::MemberStopped`] if nobody
    /// could be told that it is draining: then it is not.
    pub async fn drain(&self, id: &Key, timeout: Duration) -> Result<DrainedOne, OfferError> {
        let id = id.clone();
        self.to_its_end(|shared| async move { shared.drain(&id, timeout).await }).await
    }

    /// Changes an instance: anything but its id. What it says of itself is in its [`Instance::status`].
    ///
    /// # Errors
    /// See [`OfferError`]; but for [`OfferError::NotKept`], nothing changed.
    pub async fn update(
        &self,
        id: &Key,
        change: impl FnOnce(&mut Instance) + Send + 'static,
    ) -> Result<Arc<LocalInstance>, OfferError> {
        let id = id.clone();
        self.to_its_end(|shared| async move { shared.update(&id, change).await }).await
    }

    /// Says that an instance that is starting has started.
    ///
    /// # Errors
    /// [`OfferError::UnknownInstance`].
    pub async fn ready(&self, id: &Key) -> Result<(), OfferError> {
        let is_starting = |instance: &mut Instance| {
            if instance.status == Status::Starting {
                instance.status = Status::Passing;
            }
        };
        self.update(id, is_starting).await.map(drop)
    }

    /// Changes the weight of an instance.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub async fn set_weight(&self, id: &Key, weight: u32) -> Result<(), OfferError> {
        self.update(id, move |instance| instance.weight = weight).await.map(drop)
    }

    /// Takes an instance out, or lets it in again.
    ///
    /// # Errors
    /// [`OfferError::UnknownInstance`], [`OfferError::Invalid`] for a reason over its limit, [`OfferError::Refused`] if
    /// the record would become too large with it, and [`OfferError::NotKept`]; but for that, nothing changed.
    pub async fn set_maintenance(&self, id: &Key, maintenance: Option<Maintenance>) -> Result<(), OfferError> {
        let id = id.clone();
        self.to_its_end(|shared| async move { shared.set_maintenance(Some(&id), maintenance).await }).await
    }

    /// Takes every instance of the member out, those that are registered later too, or lets them in again.
    ///
    /// # Errors
    /// [`OfferError::Invalid`] for a reason over its limit, [`OfferError::Refused`] if the record of an instance would
    /// become too large with it, and [`OfferError::NotKept`]; but for that, nothing changed.
    pub async fn set_member_maintenance(&self, maintenance: Option<Maintenance>) -> Result<(), OfferError> {
        self.to_its_end(|shared| async move { shared.set_maintenance(None, maintenance).await }).await
    }

    /// Adds a check to an instance, or to the member: then it counts for every instance. One of the same id there is
    /// replaced; if it is of the same kind, its level and output stay.
    ///
    /// # Errors
    /// See [`OfferError`]; but for [`OfferError::NotKept`], nothing changed.
    pub async fn add_check(
        &self,
        instance: Option<&Key>,
        check: Check,
        origin: Origin,
    ) -> Result<Arc<LocalCheck>, OfferError> {
        let instance = instance.cloned();
        self.to_its_end(|shared| async move { shared.add_check(instance, check, origin).await }).await
    }

    /// Removes a check.
    ///
    /// # Errors
    /// [`OfferError::UnknownCheck`], and [`OfferError::NotKept`].
    pub async fn remove_check(&self, id: &str) -> Result<(), OfferError> {
        let id = Arc::from(id);
        self.to_its_end(|shared| async move { shared.remove_check(&id).await }).await
    }

    /// Tells a check that is told its level how it is: passing, warning or critical, with a text.
    ///
    /// # Errors
    /// [`OfferError::UnknownCheck`]: whoever registered it should do so again. [`OfferError::NotTold`] for a check
    /// that finds out by itself.
    pub async fn tell(&self, check: &str, outcome: Outcome) -> Result<(), OfferError> {
        let check = Arc::from(check);
        self.to_its_end(|shared| async move { shared.tell(&check, outcome).await }).await
    }

    /// Every instance that is offered here, by id.
    pub fn instances(&self) -> Vec<Arc<LocalInstance>> {
        let state = self.shared.state();
        state.ids().filter_map(|id| self.shared.local(&state, &id)).collect()
    }

    /// An instance that is offered here.
    pub fn instance(&self, id: &Key) -> Option<Arc<LocalInstance>> {
        self.shared.local(&self.shared.state(), id)
    }

    /// Every check, by id: those of instances and those of the member.
    pub fn checks(&self) -> Vec<Arc<LocalCheck>> {
        self.shared.state().checks(self.shared.clock.now())
    }

    /// The checks of the member, by id: they count for every instance.
    pub fn member_checks(&self) -> Vec<Arc<LocalCheck>> {
        self.shared.state().member_checks(self.shared.clock.now())
    }

    /// A check.
    pub fn check(&self, id: &str) -> Option<Arc<LocalCheck>> {
        self.shared.state().check(id, self.shared.clock.now())
    }

    /// The maintenance of the member.
    pub fn member_maintenance(&self) -> Option<Maintenance> {
        self.shared.state().member_maintenance.clone()
    }

    /// A number that grows at every change here: of instances, checks, levels and maintenance; not when only what a
    /// check printed is another.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// A number that grows when a check prints something else than before.
    pub(crate) fn printed(&self) -> u64 {
        self.shared.printed.load(Ordering::Relaxed)
    }

    /// What was counted since the start, and what is held now.
    pub fn stats(&self) -> OfferStats {
        self.shared.state().stats()
    }

    /// Results of checks since the start, by the service of their instance and by level; those of the member's own
    /// checks are of the service "". Also those that are not in there, because there are too many services.
    pub(crate) fn results(&self) -> (Counted<&'static str>, u64) {
        let state = self.shared.state();
        (state.results.each(), state.results.left_out())
    }

    /// Runs an operation to its end, whatever becomes of whoever waits for it.
    async fn to_its_end<T, F>(&self, operation: impl FnOnce(Arc<Shared>) -> F) -> Result<T, OfferError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, OfferError>> + Send + 'static,
    {
        // Not where it is asked for: a door's own threads end with the door.
        match self.shared.runtime.spawn(operation(Arc::clone(&self.shared))).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Its runtime ends.
                Err(_) => Err(OfferError::Stopped),
            },
        }
    }
}

/// How the drain of one instance went; it is withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DrainedOne {
    /// Present members, this one included.
    pub members: usize,
    /// Those of them that knew that it was draining before it was withdrawn.
    pub confirmed: usize,
    /// How long it took.
    pub took: Duration,
}

/// What all handles share. Its tasks hold it weakly: it ends with the last handle.
#[derive(Debug)]
struct Shared {
    me: Weak<Shared>,
    registry: Registry,
    clock: Clock,
    /// What is wanted. Never held over an await.
    state: Mutex<State>,
    /// What the member offers; held while that is brought in line with what is wanted, so that changes take turns.
    guards: tokio::sync::Mutex<BTreeMap<Key, Registration>>,
    changes: watch::Sender<u64>,
    /// The number of what is printed, which is in the state too.
    printed: Arc<AtomicU64>,
    /// Something is due sooner than was thought.
    due: Arc<Notify>,
    runs: Mutex<Runs>,
    keeper: Option<Keeper>,
    /// Where all of this runs.
    runtime: Handle,
}

/// Where what is offered is kept.
#[derive(Debug)]
struct Keeper {
    dir: PathBuf,
    /// Up to where it is written down; held while it is being written.
    saved: tokio::sync::Mutex<u64>,
}

type Guards = BTreeMap<Key, Registration>;

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is wanted, and wakes whoever watches.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        state.revision += 1;
        state.kept_revision += 1;
        let revision = state.revision;
        drop(state);
        self.align_runs();
        self.changes.send_replace(revision);
        self.due.notify_one();
        result
    }

    /// Runs the checks that are there, and no others.
    fn align_runs(&self) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = {
            let mut state = self.state();
            if !std::mem::take(&mut state.has_other_checks) {
                return;
            }
            state.runs()
        };
        runs.align(&self.runtime, &self.me, wanted);
    }

    /// Writes down what is kept, if that is another than what is written down. Whoever waits here behind another finds
    /// its own change written with that one's.
    async fn save(&self) -> Result<(), OfferError> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let wanted = self.state().kept_revision;
        let mut saved = keeper.saved.lock().await;
        // The directory of a member that has stopped may be another one's by now.
        if *saved >= wanted || matches!(self.registry.status(), view::Status::Stopped(_)) {
            return Ok(());
        }
        let (revision, kept) = {
            let state = self.state();
            (state.kept_revision, state.kept())
        };
        let dir = keeper.dir.clone();
        let written = blocking(move || kept::write(&dir, kept)).await?;
        let retry_at = written.is_err().then(|| self.clock.now() + SAVE_AGAIN_AFTER);
        self.state().was_saved(retry_at);
        match written {
            Ok(()) => {
                *saved = revision;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(target: OFFERS_LOG, %error, "what is offered could not be written down; tried again later");
                self.due.notify_one();
                Err(OfferError::NotKept(error))
            }
        }
    }

    fn local(&self, state: &State, id: &Key) -> Option<Arc<LocalInstance>> {
        state.local(id, self.clock.now())
    }

    /// Brings an instance as it is offered in line with what is wanted.
    async fn publish(&self, guards: &mut Guards, id: &Key) -> Result<(), OfferError> {
        let wanted = self.state().wanted(id);
        match (guards.get_mut(id), wanted) {
            (Some(guard), Some(instance)) => {
                guard.update(|offered| *offered = instance).await.map_err(OfferError::from)
            }
            (None, Some(instance)) => {
                let guard = self.registry.take_up(instance).await?;
                self.state().was_registered(id, guard.instance().registered_at);
                guards.insert(id.clone(), guard);
                Ok(())
            }
            (_, None) => match guards.remove(id) {
                // A member that has left has withdrawn it.
                Some(guard) => guard.withdraw().await.or(Ok(())),
                None => Ok(()),
            },
        }
    }

    /// Publishes, and tries again later if the others could not be told now.
    ///
    /// # Errors
    /// The first change that the member will never take as it is.
    async fn publish_in_the_end(&self, ids: &[Key]) -> Result<(), OfferError> {
        let mut guards = self.guards.lock().await;
        self.publish_all(&mut guards, ids).await
    }

    /// The same, by whoever has the guards.
    async fn publish_all(&self, guards: &mut Guards, ids: &[Key]) -> Result<(), OfferError> {
        let mut refused = Ok(());
        for id in ids {
            match self.publish(guards, id).await {
                Ok(()) => {}
                // A member that drains or has left has told the others all that counts.
                Err(error) if error.is_end() => {}
                Err(error) if error.is_final() => {
                    tracing::warn!(target: OFFERS_LOG, id = %id, %error, "a change cannot be told");
                    refused = refused.and(Err(error));
                }
                Err(error) => {
                    tracing::warn!(target: OFFERS_LOG, id = %id, %error, "a change is not told yet; it is tried again");
                    self.state().retry(id, self.clock.now() + RETRY_AFTER);
                    self.due.notify_one();
                }
            }
        }
        refused
    }

    async fn register(&self, mut offer: Offer, existing: Existing) -> Result<Arc<LocalInstance>, OfferError> {
        external::check_unmarked(&offer.instance)?;
        if let Some(external) = &offer.external {
            offer.instance = external.mark(offer.instance);
        }
        let instance = &mut offer.instance;
        if instance.id.is_member() {
            instance.id = Instance::default_id(&instance.service, self.registry.name(), instance.address.port);
        }
        instance.check()?;
        let id = instance.id.clone();
        let now = self.clock.now();
        let mut guards = self.guards.lock().await;
        let before = self.change(|state| state.put(offer, existing, now, unix_ms()))?;
        if let Err(error) = self.publish(&mut guards, &id).await {
            self.change(|state| state.undo(&id, before));
            // As it was before, also where the member took the change and then could not say so.
            let _ = self.publish(&mut guards, &id).await;
            return Err(error);
        }
        drop(guards);
        self.save().await?;
        self.instance_now(&id)
    }

    async fn deregister(&self, id: &Key) -> Result<Arc<LocalInstance>, OfferError> {
        self.deregister_if(id, |_| true).await
    }

    /// Withdraws an instance that is such.
    async fn deregister_if(
        &self,
        id: &Key,
        is_such: impl FnOnce(&Entry) -> bool,
    ) -> Result<Arc<LocalInstance>, OfferError> {
        let mut guards = self.guards.lock().await;
        let local = self.instance_now(id)?;
        if !self.state().entries.get(id).is_some_and(is_such) {
            return Err(OfferError::unknown(id));
        }
        self.withdraw(&mut guards, id).await?;
        drop(guards);
        self.save().await?;
        Ok(local)
    }

    /// Withdraws an instance, and does not wait for the disk.
    async fn withdraw(&self, guards: &mut Guards, id: &Key) -> Result<(), OfferError> {
        self.change(|state| state.remove(id));
        self.publish(guards, id).await
    }

    /// Withdraws an instance if a check of it has been critical for too long, still.
    async fn withdraw_overdue(&self, id: &Key) {
        let mut guards = self.guards.lock().await;
        if !self.state().is_overdue(id, self.clock.now()) {
            return;
        }
        tracing::warn!(target: OFFERS_LOG, id = %id, "withdrawn: a check was critical for too long");
        self.state().count_deregistered();
        if let Err(error) = self.withdraw(&mut guards, id).await {
            tracing::warn!(target: OFFERS_LOG, id = %id, %error, "its withdrawal failed");
        }
    }

    async fn drain(&self, id: &Key, timeout: Duration) -> Result<DrainedOne, OfferError> {
        let began = self.clock.now();
        let drained = {
            let mut guards = self.guards.lock().await;
            let set = self.change(|state| state.set_draining(id, true));
            let (before, serial) = set.ok_or_else(|| OfferError::unknown(id))?;
            if let Err(error) = self.publish(&mut guards, id).await {
                self.change(|state| state.set_draining(id, before));
                // As it was before, also where the member took the change and then could not say so.
                let _ = self.publish_all(&mut guards, std::slice::from_ref(id)).await;
                return Err(error);
            }
            serial
        };
        let agreement = self.registry.agreed(1.0, timeout).await.map_err(OfferError::MemberStopped)?;
        if agreement.members > 1 {
            tokio::time::sleep(ON_THE_WAY.min(timeout)).await;
        }
        // Whoever withdrew it meanwhile did what was wanted here, and whoever registered it anew wants that one.
        match self.deregister_if(id, |entry| entry.serial == drained).await {
            Ok(_) | Err(OfferError::UnknownInstance { .. }) => {}
            Err(error) => return Err(error),
        }
        let took = self.clock.now().since(began);
        Ok(DrainedOne { members: agreement.members, confirmed: agreement.agreeing, took })
    }

    async fn update(&self, id: &Key, change: impl FnOnce(&mut Instance)) -> Result<Arc<LocalInstance>, OfferError> {
        let mut guards = self.guards.lock().await;
        let before = self.state().said(id).ok_or_else(|| OfferError::unknown(id))?;
        let mut after = before.clone();
        change(&mut after);
        if after.id != *id {
            return Err(OfferError::IdChanged { before: id.clone(), after: after.id });
        }
        after.check()?;
        external::check_marks(&before, &after)?;
        self.change(|state| state.say(after));
        if let Err(error) = self.publish(&mut guards, id).await {
            self.change(|state| state.say(before));
            return Err(error);
        }
        drop(guards);
        self.save().await?;
        self.instance_now(id)
    }

    /// Of an instance, or of the member.
    async fn set_maintenance(&self, id: Option<&Key>, maintenance: Option<Maintenance>) -> Result<(), OfferError> {
        if let Some(maintenance) = &maintenance {
            maintenance.check()?;
        }
        // Held before it is looked: what is withdrawn meanwhile would leave its maintenance behind, for the next one of
        // its id.
        let mut guards = self.guards.lock().await;
        if let Some(id) = id {
            self.instance_now(id)?;
        }
        let (before, ids) = self.change(|state| (state.set_maintenance(id, maintenance), state.touched(id)));
        if let Err(error) = self.publish_all(&mut guards, &ids).await {
            self.change(|state| state.set_maintenance(id, before));
            // Those that took it are let in again; the one that did not is as it was.
            let _ = self.publish_all(&mut guards, &ids).await;
            return Err(error);
        }
        drop(guards);
        self.save().await
    }

    async fn add_check(&self, of: Option<Key>, check: Check, origin: Origin) -> Result<Arc<LocalCheck>, OfferError> {
        let now = self.clock.now();
        // Held before: a registration that is refused puts back what it found.
        let mut guards = self.guards.lock().await;
        let (id, ids) = self.change(|state| {
            let id = state.add_check(of.as_ref(), check, origin, now, unix_ms())?;
            Ok::<_, OfferError>((id, state.touched(of.as_ref())))
        })?;
        // No level makes a record larger, so that a refusal is in the log at the most.
        let _ = self.publish_all(&mut guards, &ids).await;
        drop(guards);
        self.save().await?;
        self.state().check(&id, now).ok_or_else(|| OfferError::UnknownCheck { id: id.to_string() })
    }

    async fn remove_check(&self, id: &Arc<str>) -> Result<(), OfferError> {
        let mut guards = self.guards.lock().await;
        let ids = self.change(|state| {
            let of = state.remove_check(id)?;
            Ok::<_, OfferError>(state.touched(of.as_ref()))
        })?;
        let _ = self.publish_all(&mut guards, &ids).await;
        drop(guards);
        self.save().await
    }

    async fn tell(&self, id: &Arc<str>, outcome: Outcome) -> Result<(), OfferError> {
        self.state().is_told(id)?;
        self.hear(id, None, outcome).await;
        Ok(())
    }

    /// Hears a result of a check; of a run, only if the check has not been replaced meanwhile.
    async fn hear(&self, id: &Arc<str>, run: Option<u64>, outcome: Outcome) {
        let ids = {
            let mut state = self.state();
            let heard = state.hear(id, run, outcome, self.clock.now(), unix_ms());
            if heard.is_due_sooner {
                self.due.notify_one();
            }
            if !heard.has_changed {
                return;
            }
            state.revision += 1;
            self.changes.send_replace(state.revision);
            state.touched(heard.of.as_ref())
        };
        // No level makes a record larger, so that a refusal is in the log at the most.
        let _ = self.publish_in_the_end(&ids).await;
    }

    fn instance_now(&self, id: &Key) -> Result<Arc<LocalInstance>, OfferError> {
        self.local(&self.state(), id).ok_or_else(|| OfferError::unknown(id))
    }

    /// Does what is due; gives when something is next.
    async fn do_what_is_due(&self) -> Option<Time> {
        let now = self.clock.now();
        let due = {
            let mut state = self.state();
            let due = state.take_due(now, unix_ms());
            if due.has_changed {
                state.revision += 1;
                self.changes.send_replace(state.revision);
            }
            due
        };
        for id in &due.deregister {
            self.withdraw_overdue(id).await;
        }
        // What cannot be told is in the log.
        let _ = self.publish_in_the_end(&due.publish).await;
        if let Some(me) = self.me.upgrade().filter(|_| due.save || !due.deregister.is_empty()) {
            // Beside: a slow disk must not make a check late. A failure is counted, and tried again.
            self.runtime.spawn(async move { me.save().await.is_ok() });
        }
        self.state().next_due(self.clock.now(), unix_ms())
    }
}

/// Where what happens to offered instances is logged.
const OFFERS_LOG: &str = "tidings::offers";

/// Runs what waits for the disk on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OfferError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(OfferError::Stopped),
        },
    }
}

/// Does what is due at its time, until the last handle is dropped.
async fn keep_time(shared: Weak<Shared>, sooner: Arc<Notify>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let next = strong.do_what_is_due().await;
        let (clock, now) = (strong.clock, strong.clock.now());
        let wait = next.map_or(LOOK_EVERY, |next| next.since(now).clamp(LOOK_AFTER, LOOK_EVERY));
        drop(strong);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = sooner.notified() => {}
        }
        let late = clock.now().since(now + wait);
        if let Some(strong) = shared.upgrade().filter(|_| late > STALL) {
            // What was told meanwhile waits in a socket: it is to be heard before anybody is judged.
            strong.state().stood_still(late);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.due.notify_one();
    }
}

#[cfg(test)]
mod tests;
