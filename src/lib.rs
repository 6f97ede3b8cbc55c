//! tidings is a service registry with no central server. Every process embeds a member; members gossip (SWIM, on the
//! [`foca`] crate) what they offer, and each keeps a local, eventually consistent view, from which lookups are
//! answered without a message.
//!
//! A program holds a [`registry::Registry`]. The core behind it, [`node::Node`], is a state machine without clock,
//! socket or task; the same core runs in the simulator, `tidings-sim`.
//!
//! # The house
//!
//! A file imports only from its own floor and those below it.
//!
//! ```text
//! floor 0 words    time  peer  record
//! floor 1 tools    effect (what can happen, what is wanted)  wire (the only room that knows bytes)
//!                  table (records)  pool (records that nodes share)  roster (members)  by_id  rumors (news)  timers
//!                  pace  counters  histogram  view (what readers see)
//!                  verdict (what is believed of a member)  story (how that came about)
//!                  guard (against mass drops)
//! floor 2 organs   swim (foca)  detector (who can be reached)  contact (finding members)  sync (anti-entropy)
//! floor 3 core     node: handle(now, Input, &mut Outbox), next_wake()  knobs (settings as a table)
//!                  profile (settings by what a person knows)  promise (what they promise)
//!                  recording (what happened to a node, to be told again)
//! floor 4 live     net: socket, seal, keys, quic, tls, driver, recorder, gate, kept state, names feature "net"
//! floor 5 program  registry (the handle)                                                         feature "net"
//!                  select (which instance gets a call)                                           feature "select"
//!                  check (whether a service can do its work)  offers (what is offered for others) feature "agent"
//! floor 6 doors    door: http (the server), consul (/v1), native (/v2), page (/ui), index (what to wait for),
//!                  metrics, prometheus and eureka (for those who read them)                      feature "agent"
//!                  door::dns (names, over UDP and TCP)                                           feature "dns"
//! floor 7 person   the binary: cli, main                                                       feature "cli"
//! ```
//!
//! Four straight lines lead through it:
//!
//! - a datagram: `net::socket` → `net::seal` opens → `net::driver` → `node` → `swim`, `table` → the driver drains
//!   the outbox;
//! - a registration: `registry` → driver → `node` stamps a version, merges it into `table`, tells `rumors`, and sends
//!   at once → the driver drains;
//! - a lookup: `registry` → `view`: no await, no channel, no lock;
//! - a simulated step: the world pops an event → `node` → the link decides each datagram's fate.

mod by_id;
#[cfg(feature = "agent")]
pub mod check;
pub mod contact;
pub mod counters;
pub mod detector;
#[cfg(feature = "agent")]
pub mod door;
pub mod effect;
pub mod guard;
pub mod histogram;
pub mod knobs;
#[cfg(feature = "net")]
pub mod net;
pub mod node;
#[cfg(feature = "agent")]
pub mod offers;
pub mod pace;
pub mod peer;
pub mod pool;
pub mod profile;
pub mod promise;
pub mod record;
pub mod recording;
#[cfg(feature = "net")]
pub mod registry;
pub mod roster;
pub mod rumors;
#[cfg(feature = "select")]
pub mod select;
pub mod story;
mod swim;
mod sync;
pub mod table;
pub mod time;
mod timers;
pub mod verdict;
#[cfg(feature = "select")]
pub mod view;
pub mod wire;

pub use peer::{Member, MemberState, NodeId, Peer};
pub use record::Instance;
#[cfg(feature = "net")]
pub use registry::Registry;
