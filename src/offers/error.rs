//! Why something that is offered was not changed.

use crate::check::CheckError;
use crate::effect::InputError;
use crate::net::kept::KeptError;
use crate::record::{InstanceError, Key};
use crate::registry::{RegisterError, UpdateError};
use crate::view::StopReason;

/// Why something that is offered was not changed. But for [`NotKept`](Self::NotKept), nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// A part of the instance breaks a rule or a limit.
    #[error(transparent)]
    Invalid(#[from] InstanceError),
    /// A part of a check does.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// No such instance is offered here.
    #[error("no instance {id:?} is offered here")]
    UnknownInstance {
        /// Its id.
        id: String,
    },
    /// There is no such check here.
    #[error("no check {id:?} is here")]
    UnknownCheck {
        /// Its id.
        id: String,
    },
    /// The check finds out by itself how it is, and is not told.
    #[error("check {id:?} is of kind {kind}, which is not told its level")]
    NotTold {
        /// Its id.
        id: String,
        /// Its kind.
        kind: &'static str,
    },
    /// An instance of that id is offered here already.
    #[error("instance {id:?} is already registered here; update it, or withdraw it first")]
    IdInUse {
        /// The id.
        id: String,
    },
    /// A check of that id is here already, of another instance or of the member.
    #[error("check {id:?} belongs to another instance here; choose another id")]
    CheckIdInUse {
        /// The id.
        id: String,
    },
    /// The id was changed.
    #[error("the id of instance {before} cannot become {after}: withdraw it and register another")]
    IdChanged {
        /// The id.
        before: Key,
        /// What it was changed to.
        after: Key,
    },
    /// The metadata has a key that only says of external instances where they run.
    #[error("the metadata key {key:?} is reserved: register the instance in the catalog, with its node")]
    Reserved {
        /// The key.
        key: &'static str,
    },
    /// Only the agent's own configuration may ask for such a check.
    #[error("a check of kind {kind} can only come from the agent's own configuration")]
    NotForYou {
        /// Its kind.
        kind: &'static str,
    },
    /// There are too many of something.
    #[error("{count} {what}, the limit is {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there would be.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The member refuses: over a limit, draining, or left.
    #[error(transparent)]
    Refused(InputError),
    /// The member stopped.
    #[error(transparent)]
    MemberStopped(StopReason),
    /// The change is made, but could not be written down: a restart would not know of it. The next change writes all
    /// of them down, and so does a try from time to time.
    #[error("the change is made, but would not outlive a restart: {0}")]
    NotKept(KeptError),
    /// What is kept cannot be read.
    #[error(transparent)]
    Kept(KeptError),
    /// The runtime ended meanwhile.
    #[error("the agent is ending")]
    Stopped,
}

impl OfferError {
    pub(super) fn unknown(id: &Key) -> Self {
        Self::UnknownInstance { id: id.as_str().chars().take(64).collect() }
    }

    pub(super) fn unknown_check(id: &str) -> Self {
        Self::UnknownCheck { id: id.chars().take(64).collect() }
    }

    /// Whether the member takes nothing any more.
    pub(super) fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Refused(InputError::Draining | InputError::HasLeft) | Self::MemberStopped(_) | Self::Stopped
        )
    }

    /// Whether trying again cannot help.
    pub(super) fn is_final(&self) -> bool {
        let is_wrong = matches!(
            self,
            Self::Refused(InputError::RecordTooLarge { .. }) | Self::Invalid(_) | Self::IdChanged { .. }
        );
        is_wrong || self.is_end()
    }
}

impl From<RegisterError> for OfferError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Invalid(error) => Self::Invalid(error),
            RegisterError::IdInUse { id } => Self::IdInUse { id: id.to_string() },
            RegisterError::Refused(error) => Self::Refused(error),
            RegisterError::Stopped(reason) => Self::MemberStopped(reason),
        }
    }
}

impl From<UpdateError> for OfferError {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Invalid(error) => Self::Invalid(error),
            UpdateError::IdChanged { before, after } => Self::IdChanged { before, after },
            UpdateError::Refused(error) => Self::Refused(error),
            UpdateError::Stopped(reason) => Self::MemberStopped(reason),
        }
    }
}
