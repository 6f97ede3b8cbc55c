//! What a picker remembers of instances, and how often it chose each. Told to whoever reads the view, for as long as
//! that is there: what was chosen by a picker that is gone stays counted.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::balance::Balancer;
use super::candidate::{Place, Vitals};
use crate::record::{Instance, Key};
use crate::view::{Chooser, Selections};

/// Instances that are gone whose choices are counted by name, of each picker; those of further ones are counted
/// together, under an empty id.
const GONE_MAX: usize = 1_024;

/// What is kept of every known instance, healthy or not, until it is gone.
pub(super) type Known = BTreeMap<Place, Memory>;

#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) vitals: Arc<Vitals>,
    pub(super) instance: Arc<Instance>,
    pub(super) is_healthy: bool,
}

/// Instances that are known, and the choices of those that are gone.
#[derive(Default, Debug)]
pub(super) struct Book {
    pub(super) known: Known,
    gone: BTreeMap<Key, u64>,
}

impl Book {
    /// Keeps of instances that are gone how often they were chosen.
    pub(super) fn close(&mut self, gone: Known) {
        for (place, memory) in gone {
            let picked = memory.vitals.picked();
            let has_room = self.gone.len() < GONE_MAX || self.gone.contains_key(&place.id);
            if picked > 0 {
                *self.gone.entry(if has_room { place.id } else { Key::member() }).or_default() += picked;
            }
        }
    }
}

/// The book of one picker, which the view's readers can look into.
#[derive(Debug)]
pub(super) struct Ledger {
    service: Arc<str>,
    algorithm: OnceLock<Arc<str>>,
    pub(super) book: Mutex<Book>,
}

impl Ledger {
    pub(super) fn new(service: &Arc<str>) -> Arc<Self> {
        Arc::new(Self { service: Arc::clone(service), algorithm: OnceLock::new(), book: Mutex::default() })
    }

    /// Notes how is chosen. True the first time.
    pub(super) fn begin(&self, balancer: &dyn Balancer) -> bool {
        self.algorithm.get().is_none() && self.algorithm.set(algorithm(balancer)).is_ok()
    }

    /// A thread that panicked left a part of a service: the next change completes it.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chooser for Ledger {
    fn add_to(&self, selections: &mut Selections) {
        let Some(algorithm) = self.algorithm.get() else { return };
        let book = self.book();
        let known = book.known.iter().map(|(place, memory)| (&place.id, memory.vitals.picked()));
        for (id, picked) in known.chain(book.gone.iter().map(|(id, picked)| (id, *picked))).filter(|(_, n)| *n > 0) {
            let key = (Arc::clone(&self.service), Arc::clone(algorithm), id.clone());
            *selections.entry(key).or_default() += picked;
        }
    }
}

/// The name of a balancer in the style of labels: that of its type.
fn algorithm(balancer: &dyn Balancer) -> Arc<str> {
    let mut name = Name(String::new());
    // Ends early, with an error that means nothing: only the name is wanted, and not the whole of a table.
    let _ = write!(name, "{balancer:?}");
    Arc::from(name.0)
}

/// Takes the first word of what is written to it, in small letters with underscores.
struct Name(String);

impl fmt::Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if !c.is_ascii_alphanumeric() {
                return Err(fmt::Error);
            }
            if c.is_ascii_uppercase() && !self.0.is_empty() {
                self.0.push('_');
            }
            self.0.push(c.to_ascii_lowercase());
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "agent"))]
mod tests {
    use super::*;
    use crate::select::Picker;
    use crate::select::balance::{Ewma, LeastPending, Maglev, RoundRobin, SmoothWeighted};
    use crate::select::discovery::{Discovery as _, InMemory};

    fn web(port: u16) -> Instance {
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Instance::new("web", addr).unwrap().with_id(&format!("web-{port}"))
    }

    fn told(memory: &InMemory) -> Vec<(String, String, u64)> {
        let all = memory.reader().selections();
        all.into_iter().map(|((_, how, id), count)| (how.to_string(), id.to_string(), count)).collect()
    }

    #[test]
    fn an_algorithm_is_called_after_its_balancer() {
        let balancers: [(Box<dyn Balancer>, &str); 5] = [
            (Box::new(Ewma::default()), "ewma"),
            (Box::new(RoundRobin::default()), "round_robin"),
            (Box::new(LeastPending), "least_pending"),
            (Box::new(SmoothWeighted::default()), "smooth_weighted"),
            (Box::new(Maglev::default()), "maglev"),
        ];
        for (balancer, name) in balancers {
            assert_eq!(&*algorithm(&*balancer), name);
        }
    }

    /// A counter that goes back would be taken for a restart, and counted twice.
    #[test]
    fn choices_stay_counted_when_the_instance_and_the_picker_are_gone() {
        let memory = InMemory::of([web(80), web(81)]).unwrap();
        let picker = Picker::new(memory.reader(), "web").with_balancer(Box::new(RoundRobin::default()));
        let pick = || drop(picker.pick().unwrap());
        (0..4).for_each(|_| pick());
        let row = |id: &str, count| ("round_robin".to_owned(), id.to_owned(), count);
        assert_eq!(told(&memory), [row("web-80", 2), row("web-81", 2)]);
        memory.withdraw(&Key::from("web-80"));
        pick();
        assert_eq!(told(&memory), [row("web-80", 2), row("web-81", 3)]);
        let other = Picker::new(memory.reader(), "web").with_balancer(Box::new(RoundRobin::default()));
        drop(other.pick().unwrap());
        drop(picker);
        assert_eq!(told(&memory), [row("web-80", 2), row("web-81", 4)]);
        memory.withdraw(&Key::from("web-81"));
        assert!(other.pick().is_err());
        drop(other);
        assert_eq!(told(&memory), [row("web-80", 2), row("web-81", 4)]);
    }

    #[test]
    fn of_instances_that_are_gone_a_bounded_number_is_counted_by_name() {
        let memory = InMemory::new();
        let picker = Picker::new(memory.reader(), "web").with_balancer(Box::new(RoundRobin::default()));
        for port in 1..=GONE_MAX as u16 + 5 {
            let id = memory.register(web(port)).unwrap();
            drop(picker.pick().unwrap());
            memory.withdraw(&id);
        }
        assert!(picker.pick().is_err());
        let told = told(&memory);
        assert_eq!(
            (told.len(), told.iter().map(|(.., count)| count).sum::<u64>()),
            (GONE_MAX + 1, GONE_MAX as u64 + 5)
        );
    }
}
