//! tidings: a service registry with no central server.

pub mod contact;
pub mod counters;
pub mod effect;
#[cfg(feature = "net")]
pub mod net;
pub mod node;
pub mod peer;
pub mod record;
pub mod roster;
pub mod rumors;
mod swim;
mod sync;
pub mod table;
pub mod time;
mod timers;
pub mod wire;

pub use peer::{Member, MemberState, NodeId, Peer};
pub use record::Instance;
