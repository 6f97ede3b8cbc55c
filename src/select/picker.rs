//! The picker: follows one service of a view, and gives an instance for each call. The call's end comes back to it.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};

use arc_swap::{ArcSwap, Guard};

use super::balance::{Ask, Balancer, Ewma, SlowStart, Subset};
use super::candidate::{Candidate, Place};
use super::clock::Clock;
use super::eject::{Admission, Cause, Ejection, EjectionError, EjectionStats, Ejector, Outcome};
use super::error::{PickError, nobody};
use super::hash::{SCRAMBLE_STEP, key_hash, scramble};
use super::ledger::{Book, Known, Ledger, Memory};
use super::selector::Selector;
use crate::record::{Endpoint, Instance};
use crate::time::Time;
use crate::view::{Offered, Reader, Service, Slot, Status};

/// What is known of a call before it is made.
///
/// ```
/// use tidings::select::Call;
///
/// // Goes where this customer's earlier calls went, as long as that instance is there.
/// let call = Call::by_key(b"customer-4711");
/// # let _ = call;
/// ```
#[derive(Clone, Default, Debug)]
pub struct Call {
    key: Option<u64>,
    to: Option<u64>,
    tried: [u64; Call::TRIES_MAX],
    tries: usize,
}

impl Call {
    /// The most instances that one call can try.
    pub const TRIES_MAX: usize = 8;

    /// A call that any instance may get.
    pub fn new() -> Self {
        Self::default()
    }

    /// A call about a key: balancers by key give it to the key's instance. Others do not look at the key.
    pub fn by_key(key: &[u8]) -> Self {
        Self { key: Some(key_hash(key)), ..Self::default() }
    }

    /// The same call, to the instance of this [token](super::Place::token) while it can take it; otherwise the balancer
    /// chooses. What a sticky session needs: hand out [`Pick::token`], and take it back with the next call.
    #[must_use]
    pub fn to(mut self, token: u64) -> Self {
        self.to = Some(token);
        self
    }

    /// The hash of its key.
    pub fn key_hash(&self) -> Option<u64> {
        self.key
    }

    /// Notes that an instance was tried, so that it is not chosen again. After [`Self::TRIES_MAX`], none is.
    pub fn tried(&mut self, token: u64) {
        if let Some(slot) = self.tried.get_mut(self.tries) {
            *slot = token;
        }
        self.tries += 1;
    }

    /// How many instances were tried.
    pub fn tries(&self) -> usize {
        self.tries
    }

    pub(super) fn has_tried(&self, token: u64) -> bool {
        self.tried[..self.tries.min(Self::TRIES_MAX)].contains(&token)
    }
}

/// Something that gives an instance for each call: a [`Picker`], or several in a [`Chain`](super::chain::Chain).
pub trait Picks {
    /// An instance for this call.
    ///
    /// # Errors
    /// See [`PickError`]; every variant means that there is nobody to call.
    fn pick_for(&self, call: &Call) -> Result<Pick, PickError>;

    /// 64 random bits.
    fn draw(&self) -> u64;
}

impl Picks for Picker {
    fn pick_for(&self, call: &Call) -> Result<Pick, PickError> {
        Self::pick_for(self, call)
    }

    fn draw(&self) -> u64 {
        Self::draw(self)
    }
}

static ANY: Call = Call { key: None, to: None, tried: [0; Call::TRIES_MAX], tries: 0 };

/// Gives an instance of one service for each call. Shared by all threads that make calls; clones would not share what
/// was learned, so there are none: put it into an [`Arc`].
///
/// A pick takes no lock and allocates nothing, but for [`SmoothWeighted`](super::balance::SmoothWeighted), which takes
/// turns, and two rare picks: the first after a change of the service takes the change in, while the others go on, and
/// one in each [`Ejection::interval`] compares success rates.
///
/// ```
/// # use std::{net::SocketAddr, sync::Arc};
/// # use tidings::{effect::Event, peer::*, record::Instance, view::View};
/// use tidings::select::{Outcome, Picker, Selector};
///
/// # let addr = SocketAddr::from(([127, 0, 0, 1], 80));
/// # let member = Member {
/// #     peer: Peer { id: NodeId(1), addr, generation: Generation::first(1), nonce: 1 },
/// #     name: "a".into(), zone: "".into(), state: MemberState::Reachable, evidence: Evidence::default(),
/// #     software: "".into(), wire: (1, 1),
/// # };
/// # let mut view = View::new();
/// # view.apply(&Event::MemberUp(Arc::new(member)));
/// # let instance = Instance::new("web", addr)?.with_id("web-1").with_tag("v1");
/// # view.apply(&Event::ServiceUp { owner: NodeId(1), instance: Arc::new(instance) });
/// # view.publish();
/// # view.ready();
/// # let reader = view.reader(); // of a program's registry: `registry.reader()`
/// let picker = Picker::new(reader, "web").with_selector(Selector::new().tag("v1"));
/// let pick = picker.pick()?;
/// println!("calling {} at {}", pick.instance().id, pick.address());
/// // ... and once it has answered:
/// pick.finish(Outcome::Succeeded);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// What every call looks at stands first, in one line of the cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Picker {
    lineup: ArcSwap<Lineup>,
    reader: Reader,
    ejector: Arc<Ejector>,
    clock: Clock,
    random: AtomicU64,
    seed: u64,
    slow_start: Option<SlowStart>,
    name: Arc<str>,
    selector: Selector,
    subset: Option<Subset>,
    ledger: Arc<Ledger>,
}

/// The candidates of one snapshot. It never changes.
#[derive(Debug)]
struct Lineup {
    source: Option<Source>,
    candidates: Vec<Arc<Candidate>>,
    balancer: Box<dyn Balancer>,
    /// When the last candidate will have its whole share.
    warm_at: Time,
}

/// A snapshot, and where to see whether it is the newest.
#[derive(Debug)]
struct Source {
    service: Arc<Service>,
    slot: Arc<Slot>,
    version: u64,
}

impl Source {
    /// The newest snapshot of a service; `None` if no instance of it is known.
    fn of(reader: &Reader, name: &str) -> Option<Self> {
        let slot = reader.slot(name)?;
        let version = slot.version();
        let service = Arc::clone(&slot.load());
        (!service.all().is_empty()).then_some(Self { service, slot, version })
    }
}

impl Picker {
    /// A picker of a service, known yet or not, with the defaults: every healthy instance of no namespace and no group,
    /// [`Ewma`], ejection as Envoy does it, no slow start.
    pub fn new(reader: Reader, service: &str) -> Self {
        let balancer = Box::new(Ewma::default());
        let seed = RandomState::new().hash_one(service);
        let name = Arc::from(service);
        let ledger = Ledger::new(&name);
        Self {
            reader,
            name,
            selector: Selector::new(),
            subset: None,
            slow_start: None,
            clock: Clock::start(),
            seed,
            random: AtomicU64::new(seed),
            ejector: Arc::new(Ejector::new(Ejection::default())),
            lineup: ArcSwap::from_pointee(Lineup::nobody(balancer)),
            ledger,
        }
    }

    /// Wants only these instances.
    #[must_use]
    pub fn with_selector(mut self, selector: Selector) -> Self {
        self.selector = selector;
        self
    }

    /// Chooses in this way.
    #[must_use]
    pub fn with_balancer(mut self, balancer: Box<dyn Balancer>) -> Self {
        self.lineup = ArcSwap::from_pointee(Lineup::nobody(balancer));
        self
    }

    /// Ejects in this way.
    ///
    /// # Errors
    /// See [`EjectionError`]; the picker is lost, as with every `with_`.
    pub fn with_ejection(mut self, ejection: Ejection) -> Result<Self, EjectionError> {
        ejection.check()?;
        self.ejector = Arc::new(Ejector::new(ejection));
        Ok(self)
    }

    /// Lets the share of an instance grow slowly when it becomes healthy. Those that are there at the first pick have
    /// theirs at once.
    #[must_use]
    pub fn with_slow_start(mut self, slow_start: SlowStart) -> Self {
        self.slow_start = Some(slow_start);
        self
    }

    /// Chooses only among a few of the instances.
    #[must_use]
    pub fn with_subset(mut self, subset: Subset) -> Self {
        self.subset = Some(subset);
        self
    }

    /// Draws from this seed, so that the same calls in the same order get the same instances. Otherwise each picker
    /// draws its own.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self.random = AtomicU64::new(seed);
        self
    }

    /// The service's name.
    pub fn service(&self) -> &Arc<str> {
        &self.name
    }

    /// Which instances it wants.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The clock that its picks are timed by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// An instance for a call that any may get.
    ///
    /// # Errors
    /// As for [`pick_at`](Self::pick_at).
    pub fn pick(&self) -> Result<Pick, PickError> {
        self.pick_at(&ANY, self.clock.now())
    }

    /// An instance for this call.
    ///
    /// # Errors
    /// As for [`pick_at`](Self::pick_at).
    pub fn pick_for(&self, call: &Call) -> Result<Pick, PickError> {
        self.pick_at(call, self.clock.now())
    }

    /// An instance for this call, told the time, which is never earlier than told before.
    ///
    /// # Errors
    /// See [`PickError`]; every variant means that there is nobody to call. Ejections alone never lead to an error on a
    /// call's first try: then those that are ejected get calls.
    pub fn pick_at(&self, call: &Call, now: Time) -> Result<Pick, PickError> {
        let lineup = self.current(now)?;
        let candidates = &lineup.candidates;
        if candidates.is_empty() {
            return Err(self.nobody(&lineup));
        }
        self.ejector.sweep_if_due(candidates, now);
        let random = self.draw();
        let heeded = self.ejector.is_heeded().then_some(&*self.ejector);
        let slow_start = self.slow_start.filter(|_| now < lineup.warm_at);
        let ask = Ask::new(call, now, (self.seed, random), heeded, slow_start);
        // Another thread may take the one probe between the choice and the admission; then the next is chosen.
        for _ in 0..ADMISSIONS_MAX {
            let Some(index) = self.choose(&lineup, call, &ask) else { break };
            let candidate = &candidates[index];
            match heeded.map_or(Admission::In, |ejector| ejector.admit(candidate, now)) {
                Admission::Out => {}
                admission => return Ok(Pick::new(candidate, admission, now, self)),
            }
        }
        self.last_resort(&lineup, call, now, random)
    }

    fn choose(&self, lineup: &Lineup, call: &Call, ask: &Ask<'_>) -> Option<usize> {
        if let Some(token) = call.to {
            let is_it = |candidate: &Arc<Candidate>| candidate.token() == token && ask.may(candidate);
            if let Some(index) = lineup.candidates.iter().position(is_it) {
                return Some(index);
            }
        }
        lineup.balancer.choose(&lineup.candidates, ask)
    }

    /// Everybody is ejected or was tried: a first try goes to whoever is ejected, rather than nowhere.
    #[cold]
    fn last_resort(&self, lineup: &Lineup, call: &Call, now: Time, random: u64) -> Result<Pick, PickError> {
        if call.tries() == 0 {
            let ask = Ask::new(call, now, (self.seed, random), None, None);
            if let Some(index) = self.choose(lineup, call, &ask) {
                return Ok(Pick::new(&lineup.candidates[index], Admission::In, now, self));
            }
        }
        let candidates = lineup.candidates.len();
        Err(PickError::Exhausted { name: self.name.to_string(), tried: call.tries(), candidates })
    }

    /// The candidates now, without making a pick.
    ///
    /// # Errors
    /// As for [`pick_at`](Self::pick_at).
    pub fn candidates(&self) -> Result<Vec<Arc<Candidate>>, PickError> {
        let lineup = self.current(self.clock.now())?;
        if lineup.candidates.is_empty() { Err(self.nobody(&lineup)) } else { Ok(lineup.candidates.clone()) }
    }

    /// 64 random bits. Two threads at the same moment may get the same ones, which is cheaper than to prevent it and
    /// does no harm: what they choose may be equal by chance anyway.
    pub(super) fn draw(&self) -> u64 {
        let random = self.random.load(Relaxed).wrapping_add(SCRAMBLE_STEP);
        self.random.store(random, Relaxed);
        scramble(random)
    }

    /// What ejection did so far.
    pub fn stats(&self) -> EjectionStats {
        self.ejector.stats()
    }

    fn current(&self, now: Time) -> Result<Guard<Arc<Lineup>>, PickError> {
        let lineup = self.lineup.load();
        if lineup.is_newest() && !self.reader.is_stopped() { Ok(lineup) } else { self.follow(now) }
    }

    #[cold]
    fn follow(&self, now: Time) -> Result<Guard<Arc<Lineup>>, PickError> {
        if let Some(reason) = self.reader.stop_reason() {
            return Err(PickError::Stopped(reason));
        }
        // Before the book is held: who reads what was chosen looks into the books of all that are noted.
        if self.ledger.begin(&*self.lineup.load().balancer) {
            self.reader.note_chooser(&self.ledger);
        }
        let Some(mut book) = self.book_unless_busy() else { return Ok(self.lineup.load()) };
        let lineup = self.lineup.load();
        if lineup.is_newest() {
            return Ok(lineup);
        }
        let Some(source) = Source::of(&self.reader, &self.name) else {
            let gone = std::mem::take(&mut book.known);
            book.close(gone);
            if lineup.source.is_some() {
                self.ejector.follow(&[]);
                self.lineup.store(Arc::new(Lineup::nobody(lineup.balancer.follow(&[]))));
            }
            return Err(self.reader.lookup(&self.name).map_or_else(Into::into, |_| PickError::NotReady));
        };
        self.remember(&mut book, &source.service, lineup.source.is_none(), now);
        self.lineup.store(Arc::new(self.line_up(&book.known, source, &lineup)));
        Ok(self.lineup.load())
    }

    /// What is known, to be changed; `None` while somebody else changes it and there are candidates to go on with.
    fn book_unless_busy(&self) -> Option<MutexGuard<'_, Book>> {
        match self.ledger.book.try_lock() {
            Ok(book) => Some(book),
            Err(TryLockError::WouldBlock) if !self.lineup.load().candidates.is_empty() => None,
            // A thread that panicked left a part of a service: the next change completes it.
            Err(_) => Some(self.ledger.book.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Forgets who is gone, and takes in who is new or said something new.
    fn remember(&self, book: &mut Book, service: &Service, is_first: bool, now: Time) {
        let mut before = std::mem::take(&mut book.known);
        for offered in service.all() {
            let place = Place::of(offered);
            let is_healthy = offered.is_healthy();
            let was = before.remove(&place);
            let became_healthy = is_healthy && !is_first && !was.as_ref().is_some_and(|was| was.is_healthy);
            let vitals = was.as_ref().map_or_else(Arc::default, |was| Arc::clone(&was.vitals));
            if became_healthy {
                vitals.since.store(now.as_nanos().max(1), Relaxed);
            }
            if became_healthy || was.is_some_and(|was| was.instance != offered.instance) {
                self.ejector.reconsider(&vitals, now);
            }
            book.known.insert(place, Memory { vitals, instance: Arc::clone(&offered.instance), is_healthy });
        }
        book.close(before);
    }

    fn line_up(&self, known: &Known, source: Source, before: &Lineup) -> Lineup {
        let mut instances = self.selector.select(&source.service).instances;
        if let Some(subset) = &self.subset {
            subset.keep(&mut instances);
        }
        let total: f64 = instances.iter().map(|o| f64::from(o.instance.weight)).sum();
        let mean = total / instances.len().max(1) as f64;
        let candidate = |offered: &Offered| {
            let vitals = &known.get(&Place::of(offered)).expect("every instance was just remembered").vitals;
            let share = mean / f64::from(offered.instance.weight.max(1));
            Arc::new(Candidate::new(offered, vitals, share, &self.selector, &self.ejector))
        };
        let candidates: Vec<_> = instances.iter().map(candidate).collect();
        let newest = candidates.iter().map(|candidate| candidate.vitals.since.load(Relaxed)).max().unwrap_or(0);
        let warm_at = match self.slow_start {
            Some(slow_start) if newest > 0 => Time::from_nanos(newest) + slow_start.window,
            _ => Time::ZERO,
        };
        self.ejector.follow(&candidates);
        let balancer = before.balancer.follow(&candidates);
        Lineup { source: Some(source), candidates, balancer, warm_at }
    }

    #[cold]
    fn nobody(&self, lineup: &Lineup) -> PickError {
        match &lineup.source {
            _ if self.reader.status() == Status::Joining => PickError::NotReady,
            _ if self.reader.is_isolated() => PickError::Isolated,
            Some(source) => nobody(&source.service, &self.selector),
            None => PickError::UnknownService { name: self.name.to_string() },
        }
    }
}

impl Drop for Picker {
    fn drop(&mut self) {
        self.reader.retire_chooser(&self.ledger);
    }
}

/// Choices before a pick gives up on probes that others take.
const ADMISSIONS_MAX: usize = 4;

impl Lineup {
    fn is_newest(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.slot.version() == source.version)
    }

    fn nobody(balancer: Box<dyn Balancer>) -> Self {
        Self { source: None, candidates: Vec::new(), balancer, warm_at: Time::ZERO }
    }
}

/// An instance that was picked for a call; the call counts as pending until this is finished or dropped.
///
/// Say how the call ended with [`finish`](Self::finish). Dropped without that, the call counts as cancelled: it says
/// nothing about the instance, neither good nor bad, and if it was the one call that should decide whether an ejected
/// instance comes back, the next one decides.
#[derive(Debug)]
#[must_use = "a pick that is dropped counts as a cancelled call"]
pub struct Pick {
    candidate: Arc<Candidate>,
    clock: Clock,
    started: Time,
    is_probe: bool,
    is_finished: bool,
}

impl Pick {
    fn new(candidate: &Arc<Candidate>, admission: Admission, now: Time, picker: &Picker) -> Self {
        candidate.vitals.begin_call();
        Self {
            candidate: Arc::clone(candidate),
            clock: picker.clock,
            started: now,
            is_probe: admission == Admission::Probe,
            is_finished: false,
        }
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.candidate.offered().instance
    }

    /// The instance and its member.
    pub fn offered(&self) -> &Offered {
        self.candidate.offered()
    }

    /// What is known of it here.
    pub fn candidate(&self) -> &Arc<Candidate> {
        &self.candidate
    }

    /// Where to call it: at the port that the selector names, if it names one.
    pub fn address(&self) -> Endpoint {
        self.candidate.address()
    }

    /// 64 bits that stand for the instance: see [`Call::to`].
    pub fn token(&self) -> u64 {
        self.candidate.token()
    }

    /// Whether the instance is only the last known good.
    pub fn is_stale(&self) -> bool {
        self.candidate.is_stale()
    }

    /// Whether this is the one call that decides whether an ejected instance comes back.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Says how the call ended, now.
    pub fn finish(self, outcome: Outcome) {
        let now = self.clock.now();
        self.finish_at(outcome, now);
    }

    /// Says how the call ended, and when, by the time that the pick was told.
    pub fn finish_at(mut self, outcome: Outcome, now: Time) {
        self.is_finished = true;
        self.candidate.ejector.note(&self.candidate, outcome, self.started, now);
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        let vitals = &self.candidate.vitals;
        vitals.end_call();
        if !self.is_finished {
            self.candidate.ejector.note_cancelled();
        }
        if self.is_probe {
            vitals.probed.store(0, Relaxed);
        }
    }
}

impl Candidate {
    /// Why it is ejected; `None` if it is not.
    pub fn ejected(&self) -> Option<Cause> {
        self.vitals.is_ejected().then(|| Cause::of(&self.vitals))
    }
}
