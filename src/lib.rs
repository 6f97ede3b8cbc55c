//! tidings: a service registry with no central server.

pub mod effect;
pub mod node;
pub mod peer;
pub mod record;
pub mod time;

pub use peer::{Member, MemberState, NodeId, Peer};
pub use record::Instance;
