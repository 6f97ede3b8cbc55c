//! A chain of sources for one service: gossip first, and behind it what helps while gossip knows nothing: the saved
//! view, DNS, a fixed list. Plain values, asked in turn at each pick.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::error::PickError;
use super::picker::{Call, Pick, Picker, Picks};

/// When a source is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// While the first source cannot know: it has not joined, is cut off, or has stopped. What it says once it knows
    /// stands, also that nobody offers the service: for what may be out of date, such as a saved view.
    Unready,
    /// While those before it give nobody, for whatever reason: for what somebody wrote down on purpose.
    Nobody,
}

/// Picks came from one source, and come from another now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Switch {
    /// The service.
    pub service: Arc<str>,
    /// Where they came from.
    pub from: Arc<str>,
    /// Where they come from now.
    pub to: Arc<str>,
    /// Whether that is the first source again.
    pub is_return: bool,
    /// Why the first source gives nobody; `None` on the return.
    pub why: Option<PickError>,
}

type Listener = Box<dyn Fn(&Switch) + Send + Sync>;

/// Gives an instance of the first source that has one. Each pick begins with the first: as soon as that knows somebody
/// again, it is back in use.
///
/// ```
/// # use std::net::SocketAddr;
/// use tidings::Instance;
/// use tidings::select::Picker;
/// use tidings::select::chain::{Chain, When};
/// use tidings::select::discovery::{Discovery, InMemory, Static};
///
/// let gossip = InMemory::new(); // here stands the program's registry
/// let address: SocketAddr = "10.0.0.7:8080".parse()?;
/// let fallback = Static::new([Instance::new("payments", address)?])?;
/// let payments = Chain::new("gossip", Picker::new(gossip.reader(), "payments"))
///     .then("static", When::Nobody, Picker::new(fallback.reader(), "payments"))
///     .on_switch(|switch| eprintln!("payments: from {} to {}", switch.from, switch.to));
/// assert_eq!(payments.pick()?.address().to_string(), "10.0.0.7:8080");
/// assert_eq!(&*payments.source(), "static");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Chain {
    sources: Vec<Source>,
    /// Where the last pick came from.
    current: AtomicUsize,
    switches: AtomicU64,
    listener: Option<Listener>,
}

#[derive(Debug)]
struct Source {
    name: Arc<str>,
    when: When,
    picker: Picker,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("sources", &self.sources).field("current", &self.current).finish_non_exhaustive()
    }
}

impl Chain {
    /// A chain of one source so far.
    pub fn new(name: &str, first: Picker) -> Self {
        let first = Source { name: Arc::from(name), when: When::Nobody, picker: first };
        Self { sources: vec![first], current: AtomicUsize::new(0), switches: AtomicU64::new(0), listener: None }
    }

    /// And then this source.
    #[must_use]
    pub fn then(mut self, name: &str, when: When, picker: Picker) -> Self {
        self.sources.push(Source { name: Arc::from(name), when, picker });
        self
    }

    /// Is told of each switch, by the thread whose pick found it: it should be quick.
    #[must_use]
    pub fn on_switch(mut self, listener: impl Fn(&Switch) + Send + Sync + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// The source that the last pick came from; the first one before any pick.
    pub fn source(&self) -> Arc<str> {
        Arc::clone(&self.sources[self.current.load(Relaxed)].name)
    }

    /// How often picks switched from one source to another, returns included.
    pub fn switches(&self) -> u64 {
        self.switches.load(Relaxed)
    }

    /// The picker of the first source.
    pub fn first(&self) -> &Picker {
        &self.sources[0].picker
    }

    /// An instance for a call that any may get.
    ///
    /// # Errors
    /// As for [`pick_for`](Self::pick_for).
    pub fn pick(&self) -> Result<Pick, PickError> {
        self.pick_for(&Call::new())
    }

    /// An instance for this call, of the first source that has one.
    ///
    /// # Errors
    /// What the first source says, if no other gives anybody either. [`PickError::Exhausted`] is not passed on to other
    /// sources: the call was tried, and they most likely name the same instances.
    pub fn pick_for(&self, call: &Call) -> Result<Pick, PickError> {
        let first = match self.sources[0].picker.pick_for(call) {
            Ok(pick) => {
                self.note(0, None);
                return Ok(pick);
            }
            Err(error @ PickError::Exhausted { .. }) => return Err(error),
            Err(error) => error,
        };
        let is_unready = matches!(first, PickError::NotReady | PickError::Isolated | PickError::Stopped(_));
        for (index, source) in self.sources.iter().enumerate().skip(1) {
            if source.when == When::Unready && !is_unready {
                continue;
            }
            match source.picker.pick_for(call) {
                Ok(pick) => {
                    self.note(index, Some(&first));
                    return Ok(pick);
                }
                Err(PickError::Exhausted { .. }) => break,
                Err(_) => {}
            }
        }
        Err(first)
    }

    fn note(&self, now: usize, why: Option<&PickError>) {
        if self.current.load(Relaxed) == now {
            return;
        }
        let before = self.current.swap(now, Relaxed);
        if before == now {
            // Another thread told it.
            return;
        }
        self.switches.fetch_add(1, Relaxed);
        if let Some(listener) = &self.listener {
            listener(&Switch {
                service: Arc::clone(self.sources[0].picker.service()),
                from: Arc::clone(&self.sources[before].name),
                to: Arc::clone(&self.sources[now].name),
                is_return: now == 0,
                why: why.cloned(),
            });
        }
    }
}

impl Picks for Chain {
    fn pick_for(&self, call: &Call) -> Result<Pick, PickError> {
        Self::pick_for(self, call)
    }

    fn draw(&self) -> u64 {
        self.first().draw()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use super::*;
    use crate::peer::MemberState;
    use crate::record::Instance;
    use crate::select::discovery::{Discovery, Static};
    use crate::select::fixture::{Fleet, instance};
    use crate::view::View;

    fn list(id: &str) -> Static {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        Static::new([Instance::new("web", address).expect("valid").with_id(id)]).expect("valid")
    }

    fn picker(found: &impl Discovery) -> Picker {
        Picker::new(found.reader(), "web")
    }

    type Told = Arc<Mutex<Vec<(String, String, bool)>>>;

    fn chain(first: Picker) -> (Chain, Told) {
        let told = Told::default();
        let hear = Arc::clone(&told);
        let chain = Chain::new("gossip", first)
            .then("saved", When::Unready, picker(&list("saved")))
            .then("static", When::Nobody, picker(&list("static")))
            .on_switch(move |switch| {
                assert_eq!(switch.why.is_none(), switch.is_return);
                hear.lock().unwrap().push((switch.from.to_string(), switch.to.to_string(), switch.is_return));
            });
        (chain, told)
    }

    fn id(chain: &Chain) -> String {
        chain.pick().map_or_else(|error| error.to_string(), |pick| pick.instance().id.to_string())
    }

    #[test]
    fn what_may_be_old_helps_while_nothing_is_known_and_never_contradicts_who_knows() {
        let mut view = View::new();
        let (joining, told) = chain(Picker::new(view.reader(), "web"));
        assert_eq!((id(&joining), &*joining.source()), ("saved".into(), "saved"));
        // It has joined, and knows that nobody offers the service: only what was written on purpose counts then.
        view.ready();
        assert_eq!(id(&joining), "static");
        assert_eq!(joining.switches(), 2);
        let expected = [("gossip", "saved", false), ("saved", "static", false)];
        assert_eq!(*told.lock().unwrap(), expected.map(|(from, to, back)| (from.into(), to.into(), back)));
    }

    #[test]
    fn the_first_source_is_back_in_use_as_soon_as_it_has_somebody() {
        let mut fleet = Fleet::default();
        let (chain, told) = chain(Picker::new(fleet.reader(), "web"));
        assert_eq!(id(&chain), "static");
        fleet.up(1, instance("live"));
        assert_eq!((id(&chain), id(&chain)), ("live".into(), "live".into()));
        fleet.member(1, MemberState::Unreachable);
        assert_eq!(id(&chain), "static", "one that crashed is believed to have crashed");
        fleet.view().stop(crate::view::StopReason::Left);
        assert_eq!(id(&chain), "saved");
        let returns: Vec<_> = told.lock().unwrap().iter().map(|(_, to, is_return)| (to.clone(), *is_return)).collect();
        let expected = [("static", false), ("gossip", true), ("static", false), ("saved", false)];
        assert_eq!(returns, expected.map(|(to, is_return)| (to.to_owned(), is_return)));
    }

    #[test]
    fn a_call_that_was_tried_everywhere_is_not_made_again_from_another_source() {
        let fleet = Fleet::of_weights(&[1]);
        let (chain, _) = chain(Picker::new(fleet.reader(), "web"));
        let mut call = Call::new();
        call.tried(chain.pick().unwrap().token());
        assert!(matches!(chain.pick_for(&call), Err(PickError::Exhausted { .. })));
    }

    #[test]
    fn if_nobody_has_anybody_the_first_source_says_why() {
        let mut view = View::new();
        let chain = Chain::new("gossip", Picker::new(view.reader(), "db")).then(
            "static",
            When::Nobody,
            Picker::new(list("static").reader(), "db"),
        );
        assert_eq!(chain.pick().unwrap_err(), PickError::NotReady);
        view.ready();
        assert!(matches!(chain.pick().unwrap_err(), PickError::UnknownService { .. }));
        assert_eq!((chain.switches(), &*chain.source()), (0, "gossip"));
    }
}
