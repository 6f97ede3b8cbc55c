//! The core of one process: a state machine that is told what happens and says what it wants done.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::effect::{Input, InputError, Outbox};
use crate::peer::{Epoch, NodeId, Peer};
use crate::time::Time;

/// What a node is born with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name; nodes of other clusters are refused.
    pub cluster: Arc<str>,
    /// The member's name for people; unique in the cluster.
    pub name: Arc<str>,
    /// Where it stands; may be empty.
    pub zone: Arc<str>,
    /// The address that the others reach it at.
    pub addr: SocketAddr,
    /// Its lasting id.
    pub id: NodeId,
    /// The epoch of this start: larger than that of every start before.
    pub epoch: Epoch,
    /// 64 random bits from the operating system.
    pub nonce: u64,
    /// Seeds the node's one generator.
    pub seed: u64,
    /// The addresses to join through.
    pub seeds: Vec<SocketAddr>,
    /// Addresses of members known before this start; tried like seeds, but nobody waits for them.
    pub remembered: Vec<SocketAddr>,
}

/// The core of one process.
///
/// 1. Time never goes back.
/// 2. When [`handle`](Self::handle) returns, the outbox is complete and the node holds nothing to send.
/// 3. Call `handle(now, Input::Wake, ..)` no later than [`next_wake`](Self::next_wake); early or spurious wakes are
///    harmless.
/// 4. No input can panic; an `Err` says whether anything changed.
/// 5. Equal seed and equal inputs give equal outputs.
#[derive(Debug)]
pub struct Node {
    me: Peer,
}

impl Node {
    /// A node that has not yet been told anything. Its first input should be [`Input::Wake`].
    pub fn new(config: Config, now: Time) -> Self {
        let _ = now;
        Self {
            me: Peer {
                id: config.id,
                addr: config.addr,
                generation: crate::peer::Generation::first(config.epoch),
                nonce: config.nonce,
            },
        }
    }

    /// Takes in what happened at `now`, and fills `out` with what is to be done about it.
    ///
    /// # Errors
    /// See [`InputError`]; the outbox may hold effects of timers that were due.
    pub fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Outbox) -> Result<(), InputError> {
        let _ = (now, input, out);
        Ok(())
    }

    /// When the node wants to be woken next.
    pub fn next_wake(&self) -> Option<Time> {
        None
    }

    /// Who this node is now.
    pub fn peer(&self) -> Peer {
        self.me
    }
}
