//! Why a call got no instance.

use std::fmt;
use std::sync::Arc;

use super::eject::Cause;
use super::selector::{Miss, Selector};
use crate::record::Key;
use crate::view::{LookupError, Offered, Out, Service, StopReason};

/// Why there was nobody to call.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PickError {
    /// No instance of the service is known.
    #[error("no service {name:?} is known")]
    UnknownService {
        /// The service's name.
        name: String,
    },
    /// Instances are known that are wanted, but none of them is healthy.
    #[error("no instance is healthy: {0}")]
    NoHealthy(Box<Census>),
    /// Instances are known, but the selector wants none of them.
    #[error("no instance is selected: {0}")]
    NoneSelected(Box<Census>),
    /// Each instance there is was tried for this call, or is ejected.
    #[error("every instance of {name:?} was tried: {tried} of {candidates}")]
    Exhausted {
        /// The service's name.
        name: String,
        /// How many were tried.
        tried: usize,
        /// How many candidates there were.
        candidates: usize,
    },
    /// The member has not joined yet, and knows no instance to call so far.
    #[error("the view is not ready: the member has not joined yet")]
    NotReady,
    /// The member reaches nobody: that no instance is healthy says nothing about the instances.
    #[error("the member is isolated: it reaches no other member")]
    Isolated,
    /// The member stopped.
    #[error(transparent)]
    Stopped(StopReason),
}

/// Why an instance gets no call.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Why {
    /// Its own status, or its member's state.
    Out(Out),
    /// The selector does not want it.
    Missed(Miss),
    /// It is ejected.
    Ejected(Cause),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out(Out::Status(status)) => write!(f, "it is {status}"),
            Self::Out(Out::Member(state)) => write!(f, "its member is {state}"),
            Self::Missed(miss) => miss.fmt(f),
            Self::Ejected(cause) => write!(f, "ejected for {cause}"),
        }
    }
}

/// What is known of a service that gave nobody to call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Census {
    /// The service's name.
    pub name: Arc<str>,
    /// How many instances are known.
    pub known: usize,
    /// Why each is out, up to [`Self::LISTED_MAX`] of them, by id.
    pub out: Vec<(Key, Why)>,
}

impl Census {
    /// The most instances that are listed.
    pub const LISTED_MAX: usize = 16;

    /// Whom the selector misses in the service, and why.
    pub(super) fn of(service: &Service, selector: &Selector) -> Self {
        let why = |o: &Offered| selector.miss(o).map(Why::Missed).or_else(|| o.why_out().map(Why::Out));
        let out = service.all().iter().filter_map(|o| Some((o.instance.id.clone(), why(o)?)));
        Self { name: Arc::clone(service.name()), known: service.all().len(), out: out.take(Self::LISTED_MAX).collect() }
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} known", self.name, self.known)?;
        for (n, (id, why)) in self.out.iter().enumerate() {
            write!(f, "{} {id} ({why})", if n == 0 { ":" } else { "," })?;
        }
        match self.known - self.out.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The error for a service that gives nobody, as seen while the member itself is well.
pub(super) fn nobody(service: &Service, selector: &Selector) -> PickError {
    let census = Box::new(Census::of(service, selector));
    let is_selected = service.all().iter().any(|o| selector.miss(o).is_none());
    if is_selected { PickError::NoHealthy(census) } else { PickError::NoneSelected(census) }
}

impl From<LookupError> for PickError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::UnknownService { name } => Self::UnknownService { name },
            LookupError::NoHealthy { name, known } => {
                Self::NoHealthy(Box::new(Census { name: name.into(), known, out: Vec::new() }))
            }
            LookupError::NotReady => Self::NotReady,
            LookupError::Isolated => Self::Isolated,
            LookupError::Stopped(reason) => Self::Stopped(reason),
        }
    }
}
