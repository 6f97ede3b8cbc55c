//! Counts by name, of a bounded number of names. Knows nothing of what the names are of.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::check_name;

/// Names of one tally; what happens to further ones is counted together, without their name.
pub const TALLIED_MAX: usize = 1_000;

/// Names and kinds, and how often each happened.
#[cfg(any(test, feature = "agent"))]
pub(crate) type Counted<K> = Vec<(Arc<str>, K, u64)>;

/// How often something happened, by a name and a kind. A kind is one of few; names come from anybody.
#[derive(Debug)]
pub(crate) struct Tally<K> {
    counts: Mutex<BTreeMap<Arc<str>, BTreeMap<K, u64>>>,
    left_out: AtomicU64,
}

// A derived one would ask for a default of the kind.
impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self { counts: Mutex::default(), left_out: AtomicU64::new(0) }
    }
}

impl<K: Ord + Copy> Tally<K> {
    /// A panic of another holder leaves the map whole: a count is changed in one step.
    fn counts(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, BTreeMap<K, u64>>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, name: &str, kind: K) {
        let mut counts = self.counts();
        if let Some(kinds) = counts.get_mut(name) {
            *kinds.entry(kind).or_default() += 1;
        } else if counts.len() < TALLIED_MAX {
            counts.insert(Arc::from(name), BTreeMap::from([(kind, 1)]));
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every count, by name and kind.
    #[cfg(any(test, feature = "agent"))]
    pub(crate) fn each(&self) -> Counted<K> {
        let counts = self.counts();
        counts.iter().flat_map(|(name, kinds)| kinds.iter().map(|(k, n)| (Arc::clone(name), *k, *n))).collect()
    }

    /// What was not counted by name, because there were too many names.
    #[cfg(any(test, feature = "agent"))]
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

/// What a member counts by service.
#[derive(Default, Debug)]
pub(crate) struct Tallies {
    /// Registrations by how they ended.
    pub(crate) registrations: Tally<&'static str>,
    /// Questions for the instances of a known service.
    #[cfg(feature = "agent")]
    pub(crate) discoveries: Tally<()>,
    /// The same, of services that nobody offers.
    #[cfg(feature = "agent")]
    pub(crate) discoveries_unknown: AtomicU64,
}

impl Tallies {
    pub(crate) fn note_registration(&self, service: &str, has_succeeded: bool) {
        // What is refused as a name must not become one here.
        let service = if check_name("service name", service).is_ok() { service } else { "" };
        self.registrations.count(service, if has_succeeded { "success" } else { "failure" });
    }

    #[cfg(feature = "agent")]
    pub(crate) fn note_discovery(&self, service: &str, is_known: bool) {
        match is_known {
            true => self.discoveries.count(service, ()),
            false => drop(self.discoveries_unknown.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_over_the_limit_are_counted_without_their_name() {
        let tally = Tally::default();
        for n in 0..TALLIED_MAX + 10 {
            tally.count(&format!("s{n}"), "ok");
        }
        tally.count("s0", "ok");
        tally.count("s0", "other");
        let all = tally.each();
        assert_eq!((all.len(), tally.left_out()), (TALLIED_MAX + 1, 10));
        assert!(all.contains(&(Arc::from("s0"), "ok", 2)));
    }

    #[test]
    fn a_name_that_no_service_can_have_is_none() {
        let tallies = Tallies::default();
        tallies.note_registration("web", true);
        tallies.note_registration(&"x".repeat(1_000), false);
        tallies.note_registration("a\nb", false);
        let told = tallies.registrations.each();
        assert_eq!(told, [(Arc::from(""), "failure", 2), (Arc::from("web"), "success", 1)]);
    }
}
