//! What an agent wants to offer: instances, their checks and how these stand, and maintenance. Plain values, told the
//! time; knows nothing of tasks, of the member or of files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::OfferError;
use super::external::External;
use super::kept::{Kept, KeptCheck, KeptInstance};
use super::{CHECKS_IN_ALL_MAX, CHECKS_MAX, Existing, OFFERED_MAX, Offer, Origin};
use crate::check::{Check, Judge, Kind, Level, Outcome};
use crate::net::tally::Tally;
use crate::record::{Instance, InstanceError, Key, Status};
use crate::time::Time;

/// How long after a check came to stand otherwise that is written down: many come at once.
const SAVE_AFTER: Duration = Duration::from_millis(200);

/// An instance taken out by hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Maintenance {
    /// Why; for people, and told to everybody.
    pub reason: Arc<str>,
    /// When it ends by itself, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
}

impl Maintenance {
    /// Without an end.
    pub fn new(reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into(), until_ms: None }
    }

    /// Lets it end by itself, at the soonest after this time from now.
    #[must_use]
    pub fn ends_after(mut self, span: Duration) -> Self {
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.until_ms = Some(crate::net::driver::unix_ms().saturating_add(span));
        self
    }

    pub(super) fn check(&self) -> Result<(), InstanceError> {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let instance = Instance::new("any", any)?;
        instance.with_status(Status::Maintenance(Arc::clone(&self.reason))).check()
    }
}

/// An instance that is offered here.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct LocalInstance {
    /// As the others see it, with the status that follows from all of this.
    pub instance: Arc<Instance>,
    /// What it says of itself.
    pub said: Status,
    /// Where it comes from.
    pub origin: Origin,
    /// The node that it runs on, if that is not this member's.
    pub external: Option<External>,
    /// Its weight while it is not warning.
    pub weight: u32,
    /// Its weight while it is warning, if that is another.
    pub warning_weight: Option<u32>,
    /// Its own maintenance; not the member's.
    pub maintenance: Option<Maintenance>,
    /// Its checks, by id; not the member's.
    pub checks: Vec<Arc<LocalCheck>>,
}

/// A check here, and how it stands.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct LocalCheck {
    /// The instance that it is of; `None` for one of the member.
    pub instance: Option<Key>,
    /// The service of that instance.
    pub service: Option<Arc<str>>,
    /// What is checked and how, with id, name and notes.
    pub check: Arc<Check>,
    /// Where it comes from.
    pub origin: Origin,
    /// How it stands.
    pub level: Level,
    /// What it printed last. Known here only.
    pub output: Arc<str>,
    /// Since when it stands so, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When it had its last result, in milliseconds since the Unix epoch.
    pub checked_ms: Option<u64>,
    /// How long it is still to go on passing until that is believed, because it went up and down too often.
    pub held: Option<Duration>,
}

/// What was counted since the start, and what is held now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct OfferStats {
    /// Instances offered.
    pub instances: u64,
    /// Checks.
    pub checks: u64,
    /// Of these, the critical ones.
    pub checks_critical: u64,
    /// Results of checks.
    pub results: u64,
    /// Of these, the critical ones.
    pub results_critical: u64,
    /// Runs that came to nothing, because we had no descriptor, port or memory left for them.
    pub not_run: u64,
    /// Times that a check came to stand otherwise.
    pub level_changes: u64,
    /// Times that a check passed and was held down.
    pub held_down: u64,
    /// TTL checks that were not told in time.
    pub ttl_expired: u64,
    /// Instances withdrawn because a check was critical for too long.
    pub deregistered_critical: u64,
    /// Changes that could not be told the others at once.
    pub publish_retries: u64,
    /// Registrations and checks refused, because there were too many.
    pub limited: u64,
    /// Times that what is offered was written down.
    pub saves: u64,
    /// Times that this failed.
    pub saves_failed: u64,
}

impl OfferStats {
    /// Every figure and its name.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        // Taken apart, so that a new one cannot be forgotten here.
        let Self {
            instances,
            checks,
            checks_critical,
            results,
            results_critical,
            not_run,
            level_changes,
            held_down,
            ttl_expired,
            deregistered_critical,
            publish_retries,
            limited,
            saves,
            saves_failed,
        } = *self;
        [
            ("offers_instances", instances),
            ("offers_checks", checks),
            ("offers_checks_critical", checks_critical),
            ("offers_results", results),
            ("offers_results_critical", results_critical),
            ("offers_not_run", not_run),
            ("offers_level_changes", level_changes),
            ("offers_held_down", held_down),
            ("offers_ttl_expired", ttl_expired),
            ("offers_deregistered_critical", deregistered_critical),
            ("offers_publish_retries", publish_retries),
            ("offers_limited", limited),
            ("offers_saves", saves),
            ("offers_saves_failed", saves_failed),
        ]
        .into_iter()
    }
}

/// A check and how it stands.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub(super) check: Arc<Check>,
    pub(super) origin: Origin,
    /// Another for every definition: what was begun for an earlier one is not listened to.
    pub(super) serial: u64,
    judge: Judge,
    output: Arc<str>,
    since_ms: u64,
    checked_ms: Option<u64>,
    /// When a TTL runs out.
    expires: Option<Time>,
    critical_since: Option<Time>,
}

impl Checked {
    /// When its instance is to be withdrawn, if nothing changes.
    fn deregisters(&self) -> Option<Time> {
        self.check.deregister_critical_after.zip(self.critical_since).map(|(after, since)| since + after)
    }
}

/// An instance as it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) said: Instance,
    pub(super) origin: Origin,
    pub(super) external: Option<External>,
    pub(super) warning_weight: Option<u32>,
    pub(super) checks: BTreeMap<Arc<str>, Checked>,
    /// Another for every registration: what was begun with an earlier one is not done to this one.
    pub(super) serial: u64,
    is_draining: bool,
    /// Whether all its checks have passed once.
    has_started: bool,
}

impl Entry {
    /// Whether one of its checks has been critical for too long.
    fn is_overdue(&self, now: Time) -> bool {
        self.checks.values().any(|checked| checked.deregisters().is_some_and(|at| at <= now))
    }
}

/// What an offer took the place of.
#[derive(Debug)]
pub(super) struct Before {
    entry: Option<Entry>,
    /// Kept checks that waited for it.
    waiting: Option<Vec<KeptCheck>>,
}

/// What hearing a result did.
#[derive(Default)]
pub(super) struct Heard {
    /// The instance of the check; `None` for the member's.
    pub(super) of: Option<Key>,
    pub(super) has_changed: bool,
    pub(super) is_due_sooner: bool,
}

/// What has come due.
#[derive(Default)]
pub(super) struct Due {
    pub(super) publish: Vec<Key>,
    pub(super) deregister: Vec<Key>,
    pub(super) has_changed: bool,
    /// What is kept is to be written down.
    pub(super) save: bool,
}

/// What an agent wants to offer.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) revision: u64,
    pub(super) entries: BTreeMap<Key, Entry>,
    pub(super) member_checks: BTreeMap<Arc<str>, Checked>,
    pub(super) maintenance: BTreeMap<Key, Maintenance>,
    pub(super) member_maintenance: Option<Maintenance>,
    /// Grows when something is another that is kept.
    pub(super) kept_revision: u64,
    /// Whether checks came, went or are defined anew since this was last looked at.
    pub(super) has_other_checks: bool,
    /// Kept checks of instances that the program has not registered yet.
    waiting: BTreeMap<Key, Vec<KeptCheck>>,
    /// When what is kept is written down, if nobody does it sooner.
    save_at: Option<Time>,
    /// Whose each check is.
    owners: BTreeMap<Arc<str>, Option<Key>>,
    /// What has to be told the others again, and when.
    retries: BTreeMap<Key, Time>,
    /// The soonest time that is known to be due.
    next: Option<Time>,
    serial: u64,
    /// Grows when a check prints something else; read without a look at all the rest.
    pub(super) printed: Arc<AtomicU64>,
    counted: OfferStats,
    /// Results by service and level.
    pub(super) results: Tally<&'static str>,
}

impl State {
    pub(super) fn ids(&self) -> impl Iterator<Item = Key> {
        self.entries.keys().cloned()
    }

    /// Whether an instance is to be withdrawn, because a check of it has been critical for too long.
    pub(super) fn is_overdue(&self, id: &Key, now: Time) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.is_overdue(now))
    }

    /// What an instance says of itself.
    pub(super) fn said(&self, id: &Key) -> Option<Instance> {
        self.entries.get(id).map(|entry| entry.said.clone())
    }

    /// Which instances a check of this owner touches.
    pub(super) fn touched(&self, of: Option<&Key>) -> Vec<Key> {
        of.map_or_else(|| self.ids().collect(), |id| vec![id.clone()])
    }

    /// The instance as it is to be offered; `None` if it is not.
    pub(super) fn wanted(&self, id: &Key) -> Option<Instance> {
        self.entries.get(id).map(|entry| self.shown(id, entry))
    }

    fn shown(&self, id: &Key, entry: &Entry) -> Instance {
        let mut instance = entry.said.clone();
        instance.status = self.status(id, entry);
        if let (Status::Warning, Some(weight)) = (&instance.status, entry.warning_weight) {
            instance.weight = weight;
        }
        instance
    }

    /// What counts most comes first: draining, maintenance, a start, and then the worst of the checks.
    fn status(&self, id: &Key, entry: &Entry) -> Status {
        if entry.is_draining || entry.said.status == Status::Draining {
            return Status::Draining;
        }
        if let Some(maintenance) = self.maintenance.get(id).or(self.member_maintenance.as_ref()) {
            return Status::Maintenance(Arc::clone(&maintenance.reason));
        }
        let said = match &entry.said.status {
            Status::Maintenance(reason) => return Status::Maintenance(Arc::clone(reason)),
            Status::Starting if !entry.has_started => return Status::Starting,
            Status::Warning => Level::Warning,
            Status::Critical => Level::Critical,
            _ => Level::Passing,
        };
        let levels = entry.checks.values().chain(self.member_checks.values()).map(|checked| checked.judge.level());
        match levels.fold(said, Level::max) {
            Level::Passing => Status::Passing,
            Level::Warning => Status::Warning,
            Level::Critical => Status::Critical,
        }
    }

    pub(super) fn local(&self, id: &Key, now: Time) -> Option<Arc<LocalInstance>> {
        let entry = self.entries.get(id)?;
        Some(Arc::new(LocalInstance {
            instance: Arc::new(self.shown(id, entry)),
            said: entry.said.status.clone(),
            origin: entry.origin,
            external: entry.external.clone(),
            weight: entry.said.weight,
            warning_weight: entry.warning_weight,
            maintenance: self.maintenance.get(id).cloned(),
            checks: entry.checks.values().map(|checked| local_check(Some(entry), checked, now)).collect(),
        }))
    }

    pub(super) fn checks(&self, now: Time) -> Vec<Arc<LocalCheck>> {
        self.owners.keys().filter_map(|id| self.check(id, now)).collect()
    }

    /// Those of the member alone.
    pub(super) fn member_checks(&self, now: Time) -> Vec<Arc<LocalCheck>> {
        self.member_checks.values().map(|checked| local_check(None, checked, now)).collect()
    }

    pub(super) fn check(&self, id: &str, now: Time) -> Option<Arc<LocalCheck>> {
        let owner = self.owners.get(id)?;
        let entry = owner.as_ref().and_then(|owner| self.entries.get(owner));
        self.checked(id).map(|checked| local_check(entry, checked, now))
    }

    fn checked(&self, id: &str) -> Option<&Checked> {
        match self.owners.get(id)? {
            Some(owner) => self.entries.get(owner)?.checks.get(id),
            None => self.member_checks.get(id),
        }
    }

    fn checked_mut(&mut self, id: &str) -> Option<&mut Checked> {
        match self.owners.get(id)? {
            Some(owner) => self.entries.get_mut(owner)?.checks.get_mut(id),
            None => self.member_checks.get_mut(id),
        }
    }

    /// Takes an offer in. Gives what was there before.
    pub(super) fn put(
        &mut self,
        offer: Offer,
        existing: Existing,
        now: Time,
        unix_ms: u64,
    ) -> Result<Before, OfferError> {
        let id = offer.instance.id.clone();
        let before = self.entries.get(&id).cloned();
        match &before {
            Some(_) if existing == Existing::Refuse => {
                return Err(OfferError::IdInUse { id: id.as_str().chars().take(64).collect() });
            }
            Some(_) => {}
            None => self.limit("instances", self.entries.len() + 1, OFFERED_MAX)?,
        }
        let defined = self.define(&id, offer.checks, offer.origin)?;
        let mut checks = match (&before, existing) {
            (Some(before), Existing::KeepChecks) => before.checks.clone(),
            (Some(before), Existing::KeepDoors) => {
                let of_door = before.checks.iter().filter(|(_, checked)| checked.origin == Origin::Door);
                of_door.map(|(id, checked)| (Arc::clone(id), checked.clone())).collect()
            }
            _ => BTreeMap::new(),
        };
        for check in defined {
            let left = before.as_ref().and_then(|before| before.checks.get(&check.id)).cloned();
            let checked = self.begin(check, offer.origin, left, now, unix_ms);
            checks.insert(Arc::clone(&checked.check.id), checked);
        }
        let had = before.as_ref().map_or(0, |before| before.checks.len());
        self.limit("checks of an instance", checks.len(), CHECKS_MAX)?;
        self.limit("checks", self.owners.len() - had + checks.len(), CHECKS_IN_ALL_MAX)?;
        let mut said = offer.instance;
        said.registered_at = before.as_ref().map_or(0, |before| before.said.registered_at);
        let waiting = self.waiting.remove(&id);
        for kept in waiting.iter().flatten().cloned() {
            if !checks.contains_key(&kept.check.id) && !self.owners.contains_key(&kept.check.id) {
                checks.insert(Arc::clone(&kept.check.id), self.restored(kept, now));
            }
        }
        let entry = Entry {
            said,
            origin: offer.origin,
            external: offer.external,
            warning_weight: offer.warning_weight,
            checks,
            serial: self.next_serial(),
            is_draining: false,
            has_started: false,
        };
        self.put_back(&id, Some(entry));
        self.note_start(&id);
        Ok(Before { entry: before, waiting })
    }

    /// Puts back what an offer took the place of.
    pub(super) fn undo(&mut self, id: &Key, before: Before) {
        self.put_back(id, before.entry);
        if let Some(waiting) = before.waiting {
            self.waiting.insert(id.clone(), waiting);
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Puts an entry in the place of the one that is there, or removes that.
    pub(super) fn put_back(&mut self, id: &Key, entry: Option<Entry>) {
        if let Some(there) = self.entries.remove(id) {
            there.checks.keys().for_each(|check| drop(self.owners.remove(check)));
        }
        if let Some(entry) = entry {
            let owners = entry.checks.keys().map(|check| (Arc::clone(check), Some(id.clone())));
            self.owners.extend(owners);
            self.entries.insert(id.clone(), entry);
        }
        self.has_other_checks = true;
        self.next = None;
    }

    /// The checks that find out by themselves, each with the serial of its definition.
    pub(super) fn runs(&self) -> BTreeMap<Arc<str>, (u64, Arc<Check>)> {
        let run = |checked: &Checked| (Arc::clone(&checked.check.id), (checked.serial, Arc::clone(&checked.check)));
        self.all_checked().map(run).collect()
    }

    /// What a restart is to find.
    pub(super) fn kept(&self) -> Kept {
        let of_door = |checks: &BTreeMap<Arc<str>, Checked>| -> Vec<KeptCheck> {
            checks.values().filter(|checked| checked.origin == Origin::Door).map(Checked::kept).collect()
        };
        let mut kept = Kept {
            member_checks: of_door(&self.member_checks),
            maintenance: self.maintenance.clone(),
            member_maintenance: self.member_maintenance.clone(),
            further_checks: self.waiting.clone(),
            ..Kept::default()
        };
        for (id, entry) in &self.entries {
            let checks = of_door(&entry.checks);
            match entry.origin {
                Origin::Door => kept.instances.push(KeptInstance {
                    instance: entry.said.clone(),
                    external: entry.external.clone(),
                    warning_weight: entry.warning_weight,
                    checks,
                }),
                Origin::Program if checks.is_empty() => {}
                Origin::Program => drop(kept.further_checks.insert(id.clone(), checks)),
            }
        }
        kept
    }

    /// Takes in what was kept, before anything else.
    pub(super) fn restore(&mut self, kept: Kept, now: Time) {
        for KeptInstance { instance, external, warning_weight, checks } in kept.instances.into_iter().take(OFFERED_MAX)
        {
            let id = instance.id.clone();
            let checks = checks.into_iter().map(|kept| (Arc::clone(&kept.check.id), self.restored(kept, now)));
            let checks = checks.collect();
            let (said, origin) = (instance, Origin::Door);
            let (serial, is_draining, has_started) = (self.next_serial(), false, false);
            let entry = Entry { said, origin, external, warning_weight, checks, serial, is_draining, has_started };
            self.put_back(&id, Some(entry));
            self.note_start(&id);
        }
        for kept in kept.member_checks {
            let id = Arc::clone(&kept.check.id);
            let checked = self.restored(kept, now);
            self.member_checks.insert(Arc::clone(&id), checked);
            self.owners.insert(id, None);
        }
        self.maintenance = kept.maintenance;
        self.member_maintenance = kept.member_maintenance;
        self.waiting = kept.further_checks;
        self.has_other_checks = true;
    }

    /// A check as it stood, with its whole time to be told again.
    fn restored(&mut self, kept: KeptCheck, now: Time) -> Checked {
        let KeptCheck { check, level, since_ms } = kept;
        let mut checked = self.fresh(check, Origin::Door, now, since_ms);
        checked.judge = Judge::at(&checked.check, level);
        checked.critical_since = None;
        checked.note_critical(now);
        checked
    }

    /// Writes what is kept down at this time, or sooner.
    pub(super) fn save_by(&mut self, at: Time) {
        self.save_at = Some(self.save_at.map_or(at, |before| before.min(at)));
        self.next = None;
    }

    /// Notes how it went to write down what is kept.
    pub(super) fn was_saved(&mut self, retry_at: Option<Time>) {
        match retry_at {
            None => self.counted.saves += 1,
            Some(at) => {
                self.counted.saves_failed += 1;
                self.save_by(at);
            }
        }
    }

    /// Checks with their ids, which nobody else has; each is right.
    fn define(&self, id: &Key, checks: Vec<Check>, origin: Origin) -> Result<Vec<Check>, OfferError> {
        let count = checks.len();
        let mut ids = BTreeSet::new();
        let mut defined = Vec::new();
        for (n, mut check) in checks.into_iter().enumerate() {
            if check.id.is_empty() {
                let number = if count > 1 { format!(":{}", n + 1) } else { String::new() };
                check.id = Arc::from(format!("service:{id}{number}"));
            }
            permit(&check, origin)?;
            let is_anothers = self.owners.get(&check.id).is_some_and(|owner| owner.as_ref() != Some(id));
            if is_anothers || !ids.insert(Arc::clone(&check.id)) {
                return Err(OfferError::CheckIdInUse { id: check.id.chars().take(64).collect() });
            }
            defined.push(check);
        }
        Ok(defined)
    }

    /// A check as it begins; `left` is the one of the same id that it takes the place of.
    fn begin(&mut self, check: Check, origin: Origin, left: Option<Checked>, now: Time, unix_ms: u64) -> Checked {
        if let Some(left) = left {
            if *left.check == check {
                return Checked { origin, ..left };
            }
            if left.check.kind.as_str() == check.kind.as_str() {
                let level = left.judge.level();
                let judge = Judge::at(&check, level);
                let Checked { output, since_ms, checked_ms, critical_since, .. } = left;
                let fresh = self.fresh(check, origin, now, unix_ms);
                return Checked { judge, output, since_ms, checked_ms, critical_since, ..fresh };
            }
        }
        self.fresh(check, origin, now, unix_ms)
    }

    fn fresh(&mut self, check: Check, origin: Origin, now: Time, unix_ms: u64) -> Checked {
        let serial = self.next_serial();
        let mut judge = Judge::new(&check);
        let mut output = Arc::from("");
        if let Kind::Unsupported { what } = &check.kind {
            judge = Judge::at(&check, Level::Warning);
            output = Arc::from(format!("checks of this kind are not run here: {what}"));
        }
        let expires = match check.kind {
            Kind::Ttl { ttl } => Some(now + ttl),
            _ => None,
        };
        let check = Arc::new(check);
        let critical_since = (judge.level() == Level::Critical).then_some(now);
        let since_ms = unix_ms;
        Checked { check, origin, serial, judge, output, since_ms, checked_ms: None, expires, critical_since }
    }

    pub(super) fn remove(&mut self, id: &Key) {
        self.put_back(id, None);
        self.maintenance.remove(id);
        self.retries.remove(id);
    }

    /// Notes what an instance says now.
    pub(super) fn say(&mut self, instance: Instance) {
        if let Some(entry) = self.entries.get_mut(&instance.id) {
            if instance.status != entry.said.status {
                entry.has_started = false;
            }
            let registered_at = entry.said.registered_at;
            entry.said = Instance { registered_at, ..instance.clone() };
        }
        self.note_start(&instance.id);
    }

    /// Notes when the member registered it.
    pub(super) fn was_registered(&mut self, id: &Key, at_ms: u64) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.said.registered_at = at_ms;
        }
    }

    /// Gives what there was before, and the serial of the registration.
    pub(super) fn set_draining(&mut self, id: &Key, is_draining: bool) -> Option<(bool, u64)> {
        let entry = self.entries.get_mut(id)?;
        Some((std::mem::replace(&mut entry.is_draining, is_draining), entry.serial))
    }

    /// Gives what there was before.
    pub(super) fn set_maintenance(
        &mut self,
        id: Option<&Key>,
        maintenance: Option<Maintenance>,
    ) -> Option<Maintenance> {
        self.next = None;
        match (id, maintenance) {
            (None, maintenance) => std::mem::replace(&mut self.member_maintenance, maintenance),
            (Some(id), Some(maintenance)) => self.maintenance.insert(id.clone(), maintenance),
            (Some(id), None) => self.maintenance.remove(id),
        }
    }

    /// Gives the id of the check.
    pub(super) fn add_check(
        &mut self,
        of: Option<&Key>,
        mut check: Check,
        origin: Origin,
        now: Time,
        unix_ms: u64,
    ) -> Result<Arc<str>, OfferError> {
        if let Some(of) = of.filter(|of| !self.entries.contains_key(*of)) {
            return Err(OfferError::unknown(of));
        }
        if check.id.is_empty() {
            let default = of.map_or_else(|| "member".to_owned(), |of| format!("service:{of}"));
            check.id = if check.name.is_empty() { Arc::from(default) } else { Arc::clone(&check.name) };
        }
        permit(&check, origin)?;
        let id = Arc::clone(&check.id);
        match self.owners.get(&id) {
            Some(owner) if owner.as_ref() != of => {
                return Err(OfferError::CheckIdInUse { id: id.chars().take(64).collect() });
            }
            Some(_) => {}
            None => {
                let count = of.map_or(self.member_checks.len(), |of| self.entries[of].checks.len());
                self.limit("checks of an instance", count + 1, CHECKS_MAX)?;
                self.limit("checks", self.owners.len() + 1, CHECKS_IN_ALL_MAX)?;
            }
        }
        let left = self.checked(&id).cloned();
        let checked = self.begin(check, origin, left, now, unix_ms);
        match of {
            None => drop(self.member_checks.insert(Arc::clone(&id), checked)),
            Some(of) => {
                let entry = self.entries.get_mut(of).expect("it was there at the start");
                entry.checks.insert(Arc::clone(&id), checked);
            }
        }
        self.owners.insert(Arc::clone(&id), of.cloned());
        self.has_other_checks = true;
        self.next = None;
        Ok(id)
    }

    /// Gives the instance that it was of.
    pub(super) fn remove_check(&mut self, id: &str) -> Result<Option<Key>, OfferError> {
        let owner = self.owners.remove(id).ok_or_else(|| OfferError::unknown_check(id))?;
        self.has_other_checks = true;
        match &owner {
            None => drop(self.member_checks.remove(id)),
            Some(owner) => {
                if let Some(entry) = self.entries.get_mut(owner) {
                    entry.checks.remove(id);
                }
                self.note_start(owner);
            }
        }
        Ok(owner)
    }

    /// Whether a check is there and told its level.
    pub(super) fn is_told(&self, id: &str) -> Result<(), OfferError> {
        let checked = self.checked(id).ok_or_else(|| OfferError::unknown_check(id))?;
        match checked.check.kind {
            Kind::Ttl { .. } | Kind::Told => Ok(()),
            ref kind => Err(OfferError::NotTold { id: id.chars().take(64).collect(), kind: kind.as_str() }),
        }
    }

    /// Hears a result; of a run, only of one that was begun for the check as it is defined now.
    pub(super) fn hear(&mut self, id: &str, run: Option<u64>, outcome: Outcome, now: Time, unix_ms: u64) -> Heard {
        let printed = Arc::clone(&self.printed);
        let Some(checked) = self.checked_mut(id).filter(|checked| run.is_none_or(|run| run == checked.serial)) else {
            return Heard::default();
        };
        let Outcome { level, output } = outcome;
        if *checked.output != *output {
            checked.output = Arc::from(output);
            printed.fetch_add(1, Ordering::Relaxed);
        }
        checked.checked_ms = Some(unix_ms);
        if let Kind::Ttl { ttl } = checked.check.kind {
            checked.expires = Some(now + ttl);
        }
        let verdict = checked.judge.hear(now, level);
        if verdict.has_changed {
            checked.since_ms = unix_ms;
        }
        checked.note_critical(now);
        let is_kept = checked.origin == Origin::Door;
        let soonest = checked.expires.into_iter().chain(checked.deregisters()).min();
        self.counted.results += 1;
        self.counted.results_critical += u64::from(level == Level::Critical);
        self.counted.level_changes += u64::from(verdict.has_changed);
        self.counted.held_down += u64::from(level != Level::Critical && verdict.held.is_some());
        let of = self.owners.get(id).cloned().flatten();
        let entry = of.as_ref().and_then(|of| self.entries.get(of));
        self.results.count(entry.map_or("", |entry| &entry.said.service), level.as_str());
        if verdict.has_changed {
            match &of {
                Some(of) => self.note_start(of),
                None => self.ids().collect::<Vec<_>>().iter().for_each(|id| self.note_start(id)),
            }
        }
        if verdict.has_changed && is_kept {
            self.kept_revision += 1;
            self.save_by(now + SAVE_AFTER);
        }
        let is_due_sooner =
            verdict.has_changed || soonest.is_some_and(|soonest| self.next.is_none_or(|next| soonest < next));
        Heard { of, has_changed: verdict.has_changed, is_due_sooner }
    }

    /// An instance that was starting has started once all its checks pass.
    fn note_start(&mut self, id: &Key) {
        let members = self.member_checks.values().all(|checked| checked.judge.level() != Level::Critical);
        if let Some(entry) = self.entries.get_mut(id) {
            let its = entry.checks.values().all(|checked| checked.judge.level() != Level::Critical);
            entry.has_started |= members && its && !entry.checks.is_empty();
        }
    }

    /// Tells an instance to the others again at this time.
    pub(super) fn retry(&mut self, id: &Key, at: Time) {
        self.counted.publish_retries += 1;
        self.retries.insert(id.clone(), at);
        self.next = None;
    }

    pub(super) fn count_not_run(&mut self) {
        self.counted.not_run += 1;
    }

    pub(super) fn count_deregistered(&mut self) {
        self.counted.deregistered_critical += 1;
    }

    /// This process stood still for so long: nobody could be heard meanwhile, so nobody's time ran.
    pub(super) fn stood_still(&mut self, span: Duration) {
        let checks = self.entries.values_mut().flat_map(|entry| entry.checks.values_mut());
        for checked in checks.chain(self.member_checks.values_mut()) {
            checked.expires = checked.expires.map(|at| at + span);
        }
        self.next = None;
    }

    /// What is due by now.
    pub(super) fn take_due(&mut self, now: Time, unix_ms: u64) -> Due {
        let mut due = Due::default();
        let has_expired = |checked: &Checked| checked.expires.is_some_and(|at| at <= now);
        let expired: Vec<_> = self.all_checked().filter(|c| has_expired(c)).map(|c| Arc::clone(&c.check.id)).collect();
        for id in expired {
            let Some(checked) = self.checked_mut(&id) else { continue };
            // Once told of, it is critical until somebody says something.
            let was_told = checked.checked_ms;
            let Kind::Ttl { ttl } = checked.check.kind else { continue };
            let outcome = Outcome::critical(format!("nothing was heard for {ttl:?}"));
            // However many failures it takes else: silence for the whole time is enough.
            let has_fallen = checked.judge.expire(now);
            let heard = self.hear(&id, None, outcome, now, unix_ms);
            let checked = self.checked_mut(&id).expect("it was there a line ago");
            (checked.expires, checked.checked_ms) = (None, was_told);
            if has_fallen {
                checked.since_ms = unix_ms;
                self.counted.level_changes += 1;
            }
            self.counted.ttl_expired += 1;
            due.has_changed |= has_fallen;
            due.publish.extend(self.touched(heard.of.as_ref()));
        }
        self.end_maintenance(unix_ms, &mut due);
        let gone = |(id, entry): (&Key, &Entry)| entry.is_overdue(now).then(|| id.clone());
        due.deregister = self.entries.iter().filter_map(gone).collect();
        let retry: Vec<Key> = self.retries.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
        self.retries.retain(|_, at| *at > now);
        due.save = self.save_at.is_some_and(|at| at <= now);
        if due.save {
            self.save_at = None;
        }
        due.publish.extend(retry);
        due
    }

    fn end_maintenance(&mut self, unix_ms: u64, due: &mut Due) {
        let is_over = |maintenance: &Maintenance| maintenance.until_ms.is_some_and(|until| until <= unix_ms);
        let over: Vec<Key> =
            self.maintenance.iter().filter(|(_, maintenance)| is_over(maintenance)).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.maintenance.remove(&id);
            due.publish.push(id);
            due.has_changed = true;
        }
        if self.member_maintenance.as_ref().is_some_and(is_over) {
            self.member_maintenance = None;
            due.publish.extend(self.ids());
            due.has_changed = true;
        }
    }

    /// When something is due next.
    pub(super) fn next_due(&mut self, now: Time, unix_ms: u64) -> Option<Time> {
        let expire = self.all_checked().filter_map(|checked| checked.expires);
        let deregister = self.entries.values().flat_map(|entry| entry.checks.values()).filter_map(Checked::deregisters);
        let ends = self.maintenance.values().chain(&self.member_maintenance).filter_map(|maintenance| {
            let until = maintenance.until_ms?;
            Some(now + Duration::from_millis(until.saturating_sub(unix_ms)))
        });
        let next = expire.chain(deregister).chain(ends).chain(self.save_at).chain(self.retries.values().copied()).min();
        self.next = next;
        next
    }

    pub(super) fn all_checked(&self) -> impl Iterator<Item = &Checked> {
        self.entries.values().flat_map(|entry| entry.checks.values()).chain(self.member_checks.values())
    }

    fn limit(&mut self, what: &'static str, count: usize, limit: usize) -> Result<(), OfferError> {
        if count <= limit {
            return Ok(());
        }
        self.counted.limited += 1;
        Err(OfferError::TooMany { what, count, limit })
    }

    pub(super) fn stats(&self) -> OfferStats {
        let critical = self.all_checked().filter(|checked| checked.judge.level() == Level::Critical).count();
        OfferStats {
            instances: self.entries.len() as u64,
            checks: self.owners.len() as u64,
            checks_critical: critical as u64,
            ..self.counted
        }
    }
}

impl Checked {
    fn kept(&self) -> KeptCheck {
        KeptCheck { check: Check::clone(&self.check), level: self.judge.level(), since_ms: self.since_ms }
    }

    /// Notes since when it has been critical without a break.
    fn note_critical(&mut self, now: Time) {
        match self.judge.level() {
            Level::Critical => drop(self.critical_since.get_or_insert(now)),
            _ => self.critical_since = None,
        }
    }
}

fn local_check(entry: Option<&Entry>, checked: &Checked, now: Time) -> Arc<LocalCheck> {
    Arc::new(LocalCheck {
        instance: entry.map(|entry| entry.said.id.clone()),
        service: entry.map(|entry| Arc::clone(&entry.said.service)),
        check: Arc::clone(&checked.check),
        origin: checked.origin,
        level: checked.judge.level(),
        output: Arc::clone(&checked.output),
        since_ms: checked.since_ms,
        checked_ms: checked.checked_ms,
        held: checked.judge.held(now),
    })
}

/// Whether such a check may come from there.
fn permit(check: &Check, origin: Origin) -> Result<(), OfferError> {
    check.check()?;
    if origin == Origin::Door && !check.kind.is_for_anybody() {
        return Err(OfferError::NotForYou { kind: check.kind.as_str() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_nanos(1);

    fn offer(id: &str, checks: usize) -> Offer {
        let instance = Instance::new("web", std::net::SocketAddr::from(([127, 0, 0, 1], 80))).expect("it is right");
        let offer = Offer::new(instance.with_id(id), Origin::Door);
        (0..checks).fold(offer, |offer, _| offer.with_check(Check::ttl(Duration::from_secs(1))))
    }

    fn put(state: &mut State, id: &str, checks: usize) -> Result<(), OfferError> {
        state.put(offer(id, checks), Existing::KeepChecks, NOW, 1).map(drop)
    }

    fn level(state: &State, id: &str) -> Level {
        state.check(id, NOW).expect("it is there").level
    }

    #[test]
    fn one_instance_more_than_the_limit_is_refused_and_counted() {
        let mut state = State::default();
        for n in 0..OFFERED_MAX {
            put(&mut state, &n.to_string(), 0).expect("there is room");
        }
        assert!(matches!(put(&mut state, "more", 0), Err(OfferError::TooMany { count: 4_097, .. })));
        put(&mut state, "0", 1).expect("one that is there may be another");
        assert_eq!((state.stats().limited, state.stats().instances), (1, 4_096));
    }

    #[test]
    fn one_check_more_than_the_limit_of_all_is_refused_and_counted() {
        let mut state = State::default();
        for n in 0..CHECKS_IN_ALL_MAX / CHECKS_MAX {
            put(&mut state, &n.to_string(), CHECKS_MAX).expect("there is room");
        }
        assert!(matches!(put(&mut state, "more", 1), Err(OfferError::TooMany { what: "checks", .. })));
        assert!(state.add_check(None, Check::tcp("h:1").with_id("more"), Origin::Door, NOW, 1).is_err());
        put(&mut state, "0", CHECKS_MAX).expect("the same checks again");
        assert_eq!((state.stats().limited, state.stats().checks), (2, 16_384));
    }

    #[test]
    fn checks_that_are_defined_again_keep_their_level_and_others_go_as_is_asked() {
        let mut state = State::default();
        put(&mut state, "w", 1).expect("there is room");
        state.hear("service:w", None, Outcome::passing(""), NOW, 2);
        let more = Check::tcp("h:1").with_id("more").with_initial(Level::Warning);
        state.add_check(Some(&Key::from("w")), more, Origin::Program, NOW, 2).expect("there is room");
        let serial = state.runs()["service:w"].0;
        put(&mut state, "w", 1).expect("it is replaced");
        assert_eq!((level(&state, "service:w"), level(&state, "more")), (Level::Passing, Level::Warning));
        assert_eq!(state.runs()["service:w"].0, serial, "what is the same goes on");

        let mut other = offer("w", 0).with_check(Check::ttl(Duration::from_secs(9)));
        other.origin = Origin::Program;
        state.put(other, Existing::KeepDoors, NOW, 3).expect("it is replaced");
        assert_eq!(level(&state, "service:w"), Level::Passing, "of the same kind");
        assert!(state.runs()["service:w"].0 != serial && state.check("more", NOW).is_none());
        state.put(offer("w", 0), Existing::Replace, NOW, 4).expect("it is replaced");
        assert!(state.checks(NOW).is_empty());
    }

    #[test]
    fn an_offer_that_is_refused_leaves_what_waited_for_it() {
        let id = Key::from("w");
        let further = KeptCheck { check: Check::tcp("h:1").with_id("further"), level: Level::Passing, since_ms: 7 };
        let further_checks = BTreeMap::from([(id.clone(), vec![further])]);
        let kept = Kept { further_checks, ..Kept::default() };
        let mut state = State::default();
        state.restore(kept.clone(), NOW);
        let mut offer = offer("w", 1);
        offer.origin = Origin::Program;
        let before = state.put(offer.clone(), Existing::Refuse, NOW, 1).expect("there is room");
        assert_eq!(level(&state, "further"), Level::Passing);
        state.undo(&id, before);
        assert!(state.checks(NOW).is_empty() && state.kept() == kept);
        state.put(offer, Existing::Refuse, NOW, 1).expect("there is room");
        assert_eq!(level(&state, "further"), Level::Passing, "the next one has it");
    }

    #[test]
    fn what_could_not_be_told_is_due_again_once() {
        let mut state = State::default();
        put(&mut state, "w", 0).expect("there is room");
        let later = NOW + Duration::from_millis(250);
        state.retry(&Key::from("w"), later);
        assert_eq!(state.next_due(NOW, 1), Some(later));
        assert!(state.take_due(NOW, 1).publish.is_empty());
        assert_eq!(state.take_due(later, 1).publish, [Key::from("w")]);
        assert!(state.take_due(later, 1).publish.is_empty() && state.next_due(later, 1).is_none());
        assert_eq!(state.stats().publish_retries, 1);
    }

    #[test]
    fn a_stall_of_our_own_costs_no_ttl_check_its_time() {
        let mut state = State::default();
        put(&mut state, "w", 1).expect("there is room");
        state.hear("service:w", None, Outcome::passing(""), NOW, 1);
        let stall = Duration::from_secs(8);
        state.stood_still(stall);
        assert!(!state.take_due(NOW + stall, 2).has_changed);
        let due = state.take_due(NOW + stall + Duration::from_secs(1), 3);
        assert_eq!((due.has_changed, due.publish), (true, vec![Key::from("w")]));
        assert_eq!(level(&state, "service:w"), Level::Critical);
    }

    #[test]
    fn a_kind_of_check_that_is_not_run_here_warns_and_says_so() {
        let mut state = State::default();
        let check = Check::new(Kind::Unsupported { what: "docker".into() });
        state.put(offer("w", 0).with_check(check), Existing::Refuse, NOW, 1).expect("there is room");
        let check = state.check("service:w", NOW).expect("it is there");
        assert!(check.level == Level::Warning && check.output.contains("docker"), "{check:?}");
        assert!(matches!(state.is_told("service:w"), Err(OfferError::NotTold { kind: "unsupported", .. })));
    }

    #[test]
    fn the_weight_while_warning_is_told_only_then() {
        let mut state = State::default();
        let mut offer = offer("w", 1);
        offer.warning_weight = Some(0);
        state.put(offer, Existing::Refuse, NOW, 1).expect("there is room");
        let mut weight = |outcome: Outcome| {
            state.hear("service:w", None, outcome, NOW, 1);
            let wanted = state.wanted(&Key::from("w")).expect("it is offered");
            (wanted.status.as_str(), wanted.weight)
        };
        assert_eq!(weight(Outcome::passing("")), ("passing", 1));
        assert_eq!(weight(Outcome::warning("")), ("warning", 0));
        assert_eq!(weight(Outcome::critical("")), ("critical", 1));
    }

    #[test]
    fn a_result_of_a_run_that_was_begun_for_another_definition_is_not_heard() {
        let mut state = State::default();
        state.put(offer("w", 0).with_check(Check::tcp("h:1")), Existing::Refuse, NOW, 1).expect("there is room");
        let serial = state.runs()["service:w"].0;
        assert!(!state.hear("service:w", Some(serial + 1), Outcome::passing(""), NOW, 1).has_changed);
        assert!(state.hear("service:w", Some(serial), Outcome::passing(""), NOW, 1).has_changed);
    }

    #[test]
    fn every_figure_has_a_name_of_its_own() {
        let stats = OfferStats { saves_failed: 3, ..OfferStats::default() };
        let by_name: BTreeMap<_, _> = stats.each().collect();
        assert_eq!((by_name.len(), by_name["offers_saves_failed"]), (stats.each().count(), 3));
    }
}
