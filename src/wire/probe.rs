//! Probes and verdicts: the sections by which members watch over each other.

use serde::{Deserialize, Serialize};

use crate::peer::Peer;
use crate::verdict::Finding;

/// What a member holds against the receiver of its probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Accusation {
    /// Which life of the receiver, of the same start.
    pub(crate) bump: u16,
    pub(crate) turn: u32,
    pub(crate) finding: Finding,
}

/// A question about a member's reachability, or an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Probe {
    /// "Are you there?"
    Ping { number: u32, accusation: Option<Accusation> },
    /// "I am."
    Pong { number: u32, accusation: Option<Accusation> },
    /// "Do you reach this one? Try so often, and wait so many milliseconds for each answer, or longer."
    Ask { case: u32, accused: Peer, probes: u8, wait_ms: u16 },
    /// "Of so many probes so many were answered": of the accused, and of you.
    Report { case: u32, accused: (u8, u8), accuser: (u8, u8) },
}
