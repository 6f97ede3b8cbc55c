//! A deterministic network simulator that runs the tidings core in simulated time.
//!
//! One seed draws everything: the delays and losses of the links, the seeds of the nodes, what an experiment changes
//! and when. The same seed gives the same run, input for input, which [`World::hash`] shows. Nothing here knows
//! a clock, a socket or a thread (experiments run one world per thread, never one world in several).
//!
//! | file | subject |
//! |---|---|
//! | [`queue`] | what happens next: events ordered by time, then by when they were planned |
//! | [`units`] | spans, shares, rates and sizes as a person writes them |
//! | [`link`] | the fate of a datagram and the delay of a stream between two hosts |
//! | [`process`] | what runs on a host: the core, or plain foca ([`foca_node`]) |
//! | [`world`] | hosts, the process on each, and what may be done to them |
//! | [`fault`] | what can go wrong, and how it shows that it did |
//! | [`watch`] | who noticed what of whom, and when |
//! | [`check`] | what must hold always, and what must hold once the world is whole again |
//! | [`shadow`] | what a program was told by its node, to be compared with what that knows |
//! | [`hosts`] | which hosts a scenario means |
//! | [`scenario`] | scenario files |
//! | [`library`] | the scenarios that come with the simulator |
//! | [`run`] | one run of a scenario: what happened, what held, and the figures |
//! | [`fuzz`] | random scenarios, and what is left of one that fails |
//! | [`sweep`] | grids over settings |
//! | [`tune`] | settings for what somebody wishes |
//! | [`oracle`] | what theory and others' measurements say must come out |
//! | [`replay`] | recordings of live members, told again |
//! | [`page`] | results as one page |
//! | [`trace`] | a running hash over everything that happened, and a line per event for people |
//! | [`experiment`] | worlds with a question and a target |
//! | [`report`] | the answers over many seeds |
//! | [`compare`] | the same experiments with real processes, beside these |

pub mod check;
pub mod compare;
pub mod experiment;
pub mod fault;
pub mod foca_node;
pub mod fuzz;
pub mod hosts;
pub mod library;
pub mod link;
pub mod marks;
pub mod oracle;
pub mod page;
pub mod process;
pub mod queue;
pub mod replay;
pub mod report;
pub mod run;
pub mod scenario;
pub mod shadow;
pub mod sweep;
pub mod trace;
pub mod tune;
pub mod units;
pub mod watch;
pub mod world;

pub use link::LinkConfig;
pub use world::{HostIndex, Mode, World, WorldConfig};
