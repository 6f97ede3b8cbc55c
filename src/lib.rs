//! tidings: a service registry with no central server.

pub mod effect;
pub mod node;
pub mod peer;
pub mod record;
#[cfg(feature = "net")]
pub mod registry;
pub mod time;
#[cfg(feature = "net")]
pub mod view;

pub use peer::{Member, MemberState, NodeId, Peer};
pub use record::Instance;
