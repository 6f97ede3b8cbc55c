//! A deterministic network simulator that runs the tidings core in simulated time.
//!
//! One seed draws everything: the delays and losses of the links, the seeds of the nodes, what an experiment changes
//! and when. The same seed gives the same run, input for input, which [`World::hash`] shows. Nothing here knows
//! a clock, a socket or a thread (experiments run one world per thread, never one world in several).
//!
//! | file | subject |
//! |---|---|
//! | [`queue`] | what happens next: events ordered by time, then by when they were planned |
//! | [`link`] | the fate of a datagram and the delay of a stream between two hosts |
//! | [`world`] | hosts, the [`Node`](tidings::node::Node) on each, and what an experiment may do to them |
//! | [`check`] | what must hold always, and what must hold once the world is whole again |
//! | [`trace`] | a running hash over everything that happened, and a line per event for people |
//! | [`experiment`] | worlds with a question and a target |
//! | [`report`] | the answers over many seeds |

pub mod check;
pub mod experiment;
pub mod link;
pub mod queue;
pub mod report;
pub mod trace;
pub mod world;

pub use link::LinkConfig;
pub use world::{HostIndex, World, WorldConfig};
