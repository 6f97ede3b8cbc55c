//! Choosing an instance for each call, and surviving the ones that fail: on snapshots of a view, without a network.
//!
//! - A [`Selector`] says which instances a caller wants at all; a [`filter`] says it as an expression.
//! - A [`Picker`] follows one service, and gives a [`Pick`] for each call, by one of the [`balance`]rs.
//! - The pick takes the call's [`Outcome`]. Those that fail are [ejected](Ejection) for a while, here and nowhere else.
//! - [`failover`] says when another instance is tried; with feature `net`, [`run::Caller`] makes the calls.
//! - [`shard`] gives each key one instance, without a leader.
//! - A [`chain::Chain`] asks several sources in turn: gossip, and what helps while that knows nothing.
//! - With feature `tower`, `layers` has all this as services and layers; with feature `tonic`, `grpc` as a channel.
//! - A [`discovery::Discovery`] is where the instances come from: gossip, or a list that a test or a file gives.
//!
//! Nothing here can tell the cluster anything: what is found about an instance stays in this process.

pub mod balance;
mod candidate;
pub mod chain;
mod clock;
pub mod discovery;
mod eject;
mod error;
pub mod failover;
pub mod filter;
#[cfg(test)]
mod fixture;
#[cfg(feature = "tonic")]
pub mod grpc;
mod hash;
#[cfg(feature = "tower")]
pub mod layers;
mod ledger;
#[cfg(feature = "net")]
pub mod names;
mod picker;
#[cfg(feature = "net")]
pub mod run;
mod selector;
pub mod shard;
#[cfg(test)]
mod tests;

pub use self::balance::{Ask, Balancer, SlowStart, Subset};
pub use self::candidate::{Candidate, Place};
pub use self::clock::Clock;
pub use self::eject::{Cause, Ejection, EjectionError, EjectionStats, Outcome, SuccessRate};
pub use self::error::{Census, PickError, Why};
pub use self::filter::Filter;
pub use self::hash::key_hash;
pub use self::picker::{Call, Pick, Picker, Picks};
pub use self::selector::{Miss, Selection, Selector, zone_of};
