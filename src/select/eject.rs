//! Ejection: instances that fail calls from here get none for a while, then a single one that decides.
//!
//! After Envoy's outlier detection, with its settings and defaults, and three differences: a refused connection ejects
//! at once; an instance that comes back gets a single call first; and gossip can end an ejection early. What is found
//! here stays here: nothing in this module can reach the node, so a local finding never becomes an accusation.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::candidate::{Candidate, LATENCY_DECAY_NANOS, Vitals};
use crate::time::Time;

/// When an instance is ejected, for how long, and how many at most.
///
/// ```
/// use std::time::Duration;
/// use tidings::select::Ejection;
///
/// let patient = Ejection { failures: 10, base: Duration::from_secs(5), ..Ejection::default() };
/// assert!(patient.check().is_ok());
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Ejection {
    /// Failures in a row that eject; 0 ejects nobody for them. Default 5.
    pub failures: u32,
    /// How often success rates are compared, and old ejections forgiven. Default 10 s.
    pub interval: Duration,
    /// How long the first ejection lasts, the second twice that, and so on. Default 30 s.
    pub base: Duration,
    /// The longest ejection. Default 300 s.
    pub time_max: Duration,
    /// The most candidates ejected for failures or their success rate, in percent, but always one. Default 10.
    pub percent_max: u32,
    /// The same for refused connections, which leave less doubt. Default 50.
    pub refused_percent_max: u32,
    /// While less than this share of the candidates is in, in percent, ejections are ignored: rather a failed call
    /// than the survivors under all the load. 0 never ignores them. Default 50.
    pub panic_percent: u32,
    /// Comparing success rates; `None` does not. By default it does.
    pub success_rate: Option<SuccessRate>,
    /// How long after a refused connection its member must be heard again for the ejection to end early, with a single
    /// call; once until it answers. Default 1 s.
    pub proof_after: Duration,
}

/// Ejects whose success rate lies far below the others'.
#[derive(Clone, PartialEq, Debug)]
pub struct SuccessRate {
    /// Only if so many candidates had enough calls. Default 5.
    pub candidates_min: usize,
    /// Calls in the interval that are enough. Default 100.
    pub calls_min: u32,
    /// Ejected below the mean by so many standard deviations. Default 1.9.
    pub deviations: f64,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { candidates_min: 5, calls_min: 100, deviations: 1.9 }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 5,
            interval: Duration::from_secs(10),
            base: Duration::from_secs(30),
            time_max: Duration::from_secs(300),
            percent_max: 10,
            refused_percent_max: 50,
            panic_percent: 50,
            success_rate: Some(SuccessRate::default()),
            proof_after: Duration::from_secs(1),
        }
    }
}

/// A setting of [`Ejection`] that makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EjectionError {
    /// A share above the whole.
    #[error("{what} is {percent} percent, the limit is 100")]
    Percent {
        /// Which setting.
        what: &'static str,
        /// Its value.
        percent: u32,
    },
    /// A time that must not be zero.
    #[error("{what} is zero")]
    Zero {
        /// Which setting.
        what: &'static str,
    },
    /// A number of deviations that is negative, infinite or none at all.
    #[error("deviations must be a number from 0")]
    Deviations,
}

impl Ejection {
    /// Ejects nobody, ever.
    pub fn never() -> Self {
        Self { failures: 0, percent_max: 0, refused_percent_max: 0, success_rate: None, ..Self::default() }
    }

    /// Whether the settings make sense.
    ///
    /// # Errors
    /// The first that does not, see [`EjectionError`].
    pub fn check(&self) -> Result<(), EjectionError> {
        let shares = [
            ("percent_max", self.percent_max),
            ("refused_percent_max", self.refused_percent_max),
            ("panic_percent", self.panic_percent),
        ];
        if let Some((what, percent)) = shares.into_iter().find(|(_, percent)| *percent > 100) {
            return Err(EjectionError::Percent { what, percent });
        }
        let times = [("interval", self.interval), ("base", self.base)];
        if let Some((what, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(EjectionError::Zero { what });
        }
        match &self.success_rate {
            Some(rate) if !(rate.deviations.is_finite() && rate.deviations >= 0.0) => Err(EjectionError::Deviations),
            _ => Ok(()),
        }
    }
}

/// Why an instance is ejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Failures in a row.
    Failures,
    /// No connection could be made.
    Refused,
    /// Its calls succeed much less often than the others'.
    SuccessRate,
}

impl Cause {
    const ALL: [Self; 3] = [Self::Failures, Self::Refused, Self::SuccessRate];

    pub(super) fn of(vitals: &Vitals) -> Self {
        Self::ALL[vitals.cause.load(Relaxed) as usize % Self::ALL.len()]
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failures => "failures in a row",
            Self::Refused => "a refused connection",
            Self::SuccessRate => "a low success rate",
        })
    }
}

/// How a call ended, as far as it tells something of the instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It answered as it should; an answer that blames the caller is one, too.
    Succeeded,
    /// It failed: an error of its own, a broken connection, no answer in time. Whether it did the work is not known.
    Failed,
    /// It said that it takes no work now. It did nothing.
    TurnedAway,
    /// No connection could be made. It did nothing, and is ejected at once.
    Refused,
}

impl Outcome {
    /// Whether the instance did certainly nothing, so that even a call that must not be made twice can be repeated.
    pub const fn did_nothing(self) -> bool {
        matches!(self, Self::TurnedAway | Self::Refused)
    }
}

/// What came of a wish to call an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    In,
    Probe,
    Out,
}

/// Ejects the candidates of one picker.
// What every call looks at stands first, in one line of the cache.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Ejector {
    ejected: AtomicU32,
    candidates: AtomicU32,
    next_sweep: AtomicU64,
    settings: Ejection,
    /// Held while somebody is ejected or comes back, which is rare; the path of a call takes it only then.
    changes: Mutex<()>,
    counters: Counters,
}

#[derive(Default, Debug)]
struct Counters {
    ejected: [AtomicU64; Cause::ALL.len()],
    spared: AtomicU64,
    probes: AtomicU64,
    returned: AtomicU64,
    cancelled: AtomicU64,
}

/// What ejection did since the picker was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EjectionStats {
    /// Candidates that are ejected now.
    pub ejected_now: u32,
    /// Ejections for failures in a row.
    pub for_failures: u64,
    /// Ejections for a refused connection.
    pub for_refused: u64,
    /// Ejections for a low success rate.
    pub for_success_rate: u64,
    /// Ejections that the limit in percent prevented.
    pub spared: u64,
    /// Calls that decided whether an instance comes back.
    pub probes: u64,
    /// Instances that came back.
    pub returned: u64,
    /// Calls that ended without an outcome.
    pub cancelled: u64,
}

impl Ejector {
    pub(super) fn new(settings: Ejection) -> Self {
        Self {
            settings,
            changes: Mutex::new(()),
            ejected: AtomicU32::new(0),
            candidates: AtomicU32::new(0),
            next_sweep: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    pub(super) fn stats(&self) -> EjectionStats {
        let Counters { ejected, spared, probes, returned, cancelled } = &self.counters;
        EjectionStats {
            ejected_now: self.ejected.load(Relaxed),
            for_failures: ejected[Cause::Failures as usize].load(Relaxed),
            for_refused: ejected[Cause::Refused as usize].load(Relaxed),
            for_success_rate: ejected[Cause::SuccessRate as usize].load(Relaxed),
            spared: spared.load(Relaxed),
            probes: probes.load(Relaxed),
            returned: returned.load(Relaxed),
            cancelled: cancelled.load(Relaxed),
        }
    }

    /// Whether a pick must look who is ejected: nobody may be, or too many.
    pub(super) fn is_heeded(&self) -> bool {
        let ejected = u64::from(self.ejected.load(Relaxed));
        let candidates = u64::from(self.candidates.load(Relaxed));
        ejected != 0
            && (candidates - ejected.min(candidates)) * 100 >= candidates * u64::from(self.settings.panic_percent)
    }

    /// Whether a call may be wished for: it is in, or its time is over and nobody probes it.
    pub(super) fn may(&self, candidate: &Candidate, now: Time) -> bool {
        let gate = candidate.vitals.gate.load(Relaxed);
        gate == 0 || (self.may_probe(candidate, gate, now) && !self.is_probed(&candidate.vitals, now))
    }

    #[cold]
    fn may_probe(&self, candidate: &Candidate, gate: u64, now: Time) -> bool {
        now.as_nanos() >= gate || self.is_heard_again(candidate, now)
    }

    /// A call that never ends must not keep an instance out for ever: after a base time another may try.
    fn is_probed(&self, vitals: &Vitals, now: Time) -> bool {
        match vitals.probed.load(Relaxed) {
            0 => false,
            probed => now < Time::from_nanos(probed) + self.settings.base,
        }
    }

    /// Whether its member was heard since a while after the connection was refused. Datagrams that it sent before it
    /// died may still be on their way at first, and the two looks need no common clock with who heard it.
    fn is_heard_again(&self, candidate: &Candidate, now: Time) -> bool {
        let vitals = &candidate.vitals;
        let ejected = Time::from_nanos(vitals.ejected.load(Relaxed));
        let is_first = vitals.times.load(Relaxed) <= 1;
        if Cause::of(vitals) != Cause::Refused || !is_first || now < ejected + self.settings.proof_after {
            return false;
        }
        let heard = candidate.offered().member.evidence.last().map_or(1, Time::as_nanos);
        match vitals.heard.load(Relaxed) {
            0 => {
                vitals.heard.store(heard, Relaxed);
                false
            }
            before => heard > before,
        }
    }

    /// Lets a call to the candidate begin, if it may; of several at once only one is the probe.
    pub(super) fn admit(&self, candidate: &Candidate, now: Time) -> Admission {
        let vitals = &candidate.vitals;
        if !vitals.is_ejected() || !self.is_heeded() {
            return Admission::In;
        }
        let probed = vitals.probed.load(Relaxed);
        let is_free = self.may(candidate, now)
            && vitals.probed.compare_exchange(probed, now.as_nanos().max(1), Relaxed, Relaxed).is_ok();
        if !is_free {
            return Admission::Out;
        }
        self.counters.probes.fetch_add(1, Relaxed);
        Admission::Probe
    }

    /// Takes in how a call ended that began at `started`.
    pub(super) fn note(&self, candidate: &Candidate, outcome: Outcome, started: Time, now: Time) {
        const SUCCESS: u64 = 1 << 32 | 1;
        let vitals = &candidate.vitals;
        let nanos = now.since(started).as_nanos() as f64;
        if outcome == Outcome::Succeeded {
            vitals.observe(nanos, now, LATENCY_DECAY_NANOS);
            vitals.tally.fetch_add(SUCCESS, Relaxed);
            if vitals.failures.load(Relaxed) != 0 {
                vitals.failures.store(0, Relaxed);
            }
            if vitals.is_ejected() && started.as_nanos() >= vitals.ejected.load(Relaxed) {
                self.readmit(vitals);
            }
            return;
        }
        self.note_failure(vitals, outcome, nanos, started, now);
    }

    #[cold]
    fn note_failure(&self, vitals: &Vitals, outcome: Outcome, nanos: f64, started: Time, now: Time) {
        // A quick failure is no good answer: only what was slower than usual counts, or failing would attract calls.
        if nanos > vitals.latency() && !outcome.did_nothing() {
            vitals.observe(nanos, now, LATENCY_DECAY_NANOS);
        }
        vitals.tally.fetch_add(1, Relaxed);
        let failures = vitals.failures.fetch_add(1, Relaxed).saturating_add(1);
        let is_after = vitals.is_ejected() && started.as_nanos() >= vitals.ejected.load(Relaxed);
        if outcome == Outcome::Refused {
            self.eject(vitals, Cause::Refused, started, now);
        } else if is_after || (self.settings.failures != 0 && failures >= self.settings.failures) {
            self.eject(vitals, Cause::Failures, started, now);
        }
    }

    /// A call ended without an outcome, which tells nothing.
    #[cold]
    pub(super) fn note_cancelled(&self) {
        self.counters.cancelled.fetch_add(1, Relaxed);
    }

    /// The owner said something new of the instance, or it is reachable again: a call may find out at once.
    pub(super) fn reconsider(&self, vitals: &Vitals, now: Time) {
        if vitals.is_ejected() {
            vitals.gate.fetch_min(now.as_nanos().max(1), Relaxed);
        }
    }

    fn eject(&self, vitals: &Vitals, cause: Cause, started: Time, now: Time) {
        let _changes = self.changes();
        let is_again = vitals.is_ejected();
        // Calls that began before the ejection end after it, and say nothing new.
        if is_again && started.as_nanos() < vitals.ejected.load(Relaxed) {
            return;
        }
        if !is_again && !self.has_room(cause) {
            self.counters.spared.fetch_add(1, Relaxed);
            return;
        }
        let times = vitals.times.load(Relaxed).saturating_add(1);
        vitals.times.store(times, Relaxed);
        vitals.cause.store(cause as u32, Relaxed);
        vitals.ejected.store(now.as_nanos().max(1), Relaxed);
        vitals.heard.store(0, Relaxed);
        let span = self.settings.base.saturating_mul(times).min(self.settings.time_max.max(self.settings.base));
        vitals.gate.store((now + span).as_nanos().max(1), Relaxed);
        vitals.probed.store(0, Relaxed);
        self.counters.ejected[cause as usize].fetch_add(1, Relaxed);
        if !is_again {
            self.ejected.fetch_add(1, Relaxed);
        }
    }

    fn has_room(&self, cause: Cause) -> bool {
        let percent = match cause {
            Cause::Refused => self.settings.refused_percent_max,
            Cause::Failures | Cause::SuccessRate => self.settings.percent_max,
        };
        let candidates = u64::from(self.candidates.load(Relaxed));
        let room = if percent == 0 { 0 } else { (candidates * u64::from(percent) / 100).max(1) };
        u64::from(self.ejected.load(Relaxed)) < room
    }

    #[cold]
    fn readmit(&self, vitals: &Vitals) {
        let _changes = self.changes();
        if vitals.gate.swap(0, Relaxed) != 0 {
            self.ejected.fetch_sub(1, Relaxed);
            self.counters.returned.fetch_add(1, Relaxed);
        }
        vitals.probed.store(0, Relaxed);
    }

    /// The candidates are now these: counts who of them is ejected.
    pub(super) fn follow(&self, candidates: &[Arc<Candidate>]) {
        let _changes = self.changes();
        let ejected = candidates.iter().filter(|candidate| candidate.vitals.is_ejected()).count();
        self.ejected.store(u32::try_from(ejected).unwrap_or(u32::MAX), Relaxed);
        self.candidates.store(u32::try_from(candidates.len()).unwrap_or(u32::MAX), Relaxed);
    }

    /// Compares success rates and forgives old ejections, if it is time; otherwise reads one number.
    pub(super) fn sweep_if_due(&self, candidates: &[Arc<Candidate>], now: Time) {
        let due = self.next_sweep.load(Relaxed);
        if now.as_nanos() >= due {
            self.sweep(candidates, due, now);
        }
    }

    #[cold]
    fn sweep(&self, candidates: &[Arc<Candidate>], due: u64, now: Time) {
        let next = (now + self.settings.interval).as_nanos();
        if self.next_sweep.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let forgiven_before = now.as_nanos().saturating_sub(self.settings.interval.as_nanos() as u64);
        let mut rated = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let vitals = &candidate.vitals;
            let tally = vitals.tally.swap(0, Relaxed);
            let (succeeded, all) = (tally >> 32, tally & u64::from(u32::MAX));
            if vitals.is_ejected() {
                continue;
            }
            if vitals.times.load(Relaxed) > 0 && vitals.ejected.load(Relaxed) < forgiven_before {
                vitals.times.fetch_sub(1, Relaxed);
            }
            let enough = self.settings.success_rate.as_ref().map_or(u64::MAX, |rate| rate.calls_min.max(1).into());
            if all >= enough {
                rated.push((vitals, succeeded as f64 / all as f64));
            }
        }
        let Some(rate) = &self.settings.success_rate else { return };
        if rated.len() < rate.candidates_min.max(2) {
            return;
        }
        let count = rated.len() as f64;
        let mean = rated.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = rated.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
        let threshold = mean - rate.deviations * variance.sqrt();
        for (vitals, _) in rated.iter().filter(|(_, rate)| *rate < threshold) {
            self.eject(vitals, Cause::SuccessRate, now, now);
        }
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        // What the lock guards is only numbers, valid at each step.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
