//! The live world's network: one UDP port, authenticated streams, and the loop that drives a node on them.

pub mod kept;
pub mod quic;
pub mod socket;
pub mod tls;
