//! Probes and verdicts: the sections by which members watch over each other.

use serde::{Deserialize, Serialize};

use crate::peer::Peer;
use crate::verdict::Finding;

/// What a member holds against the receiver of its probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Accusation {
    /// Which start of the receiver: another process may have its address since.
    pub(crate) nonce: u64,
    /// Which life, of the same start.
    pub(crate) bump: u16,
    pub(crate) turn: u32,
    pub(crate) finding: Finding,
}

impl Accusation {
    /// What a verdict, by its turn and finding, holds against the receiver `of` a probe.
    pub(crate) const fn new(of: &Peer, turn: u32, finding: Finding) -> Self {
        Self { nonce: of.nonce, bump: of.generation.bump(), turn, finding }
    }

    /// Whether it is about this life of this process.
    pub(crate) const fn is_about(&self, peer: &Peer) -> bool {
        self.nonce == peer.nonce && self.bump == peer.generation.bump()
    }
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
