//! The live world's network: one UDP port, authenticated streams, and the loop that drives a node on them.

pub mod advertise;
mod carry;
#[cfg(feature = "dns-join")]
mod dns;
pub mod driver;
pub mod gate;
mod hub;
pub mod kept;
pub mod kept_ring;
pub mod kept_view;
pub mod keys;
pub mod quic;
pub mod recorder;
pub mod rotate;
pub mod seal;
mod seeds;
pub mod socket;
pub mod stats;
pub(crate) mod tally;
pub mod target;
pub mod tls;
