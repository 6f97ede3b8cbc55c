//! Probes of one member, sent for one purpose. Knows nothing of what comes of them.

use std::time::Duration;

use super::Tally;
use crate::peer::{NodeId, Peer};
use crate::time::Time;

/// What a probe is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Purpose {
    Attempt,
    Case,
    Accused(NodeId, u32),
    Accuser(NodeId, u32),
    Trial,
}

/// One probe.
#[derive(Debug)]
pub(super) struct Ping {
    pub(super) number: u32,
    pub(super) at: Time,
    pub(super) was_answered: bool,
}

/// Probes of one member for one purpose.
#[derive(Debug)]
pub(super) struct Salvo {
    pub(super) peer: Peer,
    pub(super) pings: Vec<Ping>,
    /// When the next probe is due, or the last is judged.
    pub(super) next: Time,
}

impl Salvo {
    pub(super) const fn new(peer: Peer, now: Time) -> Self {
        Self { peer, pings: Vec::new(), next: now }
    }

    /// Probes that were answered, or have waited for long enough.
    pub(super) fn tally(&self, now: Time, timeout: Duration) -> Tally {
        let judged = self.pings.iter().filter(|ping| ping.was_answered || now.since(ping.at) >= timeout);
        Tally {
            sent: judged.count() as u32,
            answered: self.pings.iter().filter(|ping| ping.was_answered).count() as u32,
        }
    }

    /// What was not answered does not count: it was we who stood still.
    pub(super) fn void(&mut self, now: Time) {
        self.pings.retain(|ping| ping.was_answered);
        self.next = now;
    }

    pub(super) fn answer(&mut self, number: u32) {
        if let Some(ping) = self.pings.iter_mut().find(|ping| ping.number == number) {
            ping.was_answered = true;
        }
    }
}
