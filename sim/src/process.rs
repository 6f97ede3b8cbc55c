//! The process on a host: the core of tidings, or plain foca beside it.

use tidings::effect::{Input, InputError, Outbox};
use tidings::node::{Node, QueueLengths, ViewDigest};
use tidings::peer::Peer;
use tidings::pool::Pool;
use tidings::record::{Key, Owner, Version};
use tidings::time::Time;

use crate::foca_node::FocaNode;

/// What runs on a host.
#[derive(Debug)]
pub enum Process {
    /// tidings as shipped.
    Tidings(Box<Node>),
    /// foca alone.
    Foca(Box<FocaNode>),
}

impl Process {
    /// See [`Node::handle_sharing`].
    ///
    /// # Errors
    /// What the node says.
    pub fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Outbox, pool: &mut Pool) -> Result<(), InputError> {
        match self {
            Self::Tidings(node) => node.handle_sharing(now, input, out, pool),
            Self::Foca(node) => node.handle(now, input, out),
        }
    }

    /// See [`Node::next_wake`].
    pub fn next_wake(&self) -> Option<Time> {
        match self {
            Self::Tidings(node) => node.next_wake(),
            Self::Foca(node) => node.next_wake(),
        }
    }

    /// See [`Node::peer`].
    pub fn peer(&self) -> Peer {
        match self {
            Self::Tidings(node) => node.peer(),
            Self::Foca(node) => node.peer(),
        }
    }

    /// See [`Node::digest`].
    pub fn digest(&self) -> ViewDigest {
        match self {
            Self::Tidings(node) => node.digest(),
            Self::Foca(node) => node.digest(),
        }
    }

    /// See [`Node::live_members`].
    pub fn live_members(&self) -> Vec<Peer> {
        match self {
            Self::Tidings(node) => node.live_members(),
            Self::Foca(node) => node.live_members(),
        }
    }

    /// See [`Node::live_records`]; plain foca has none.
    pub fn live_records(&self) -> Vec<(Owner, Key, Version)> {
        match self {
            Self::Tidings(node) => node.live_records(),
            Self::Foca(_) => Vec::new(),
        }
    }

    /// See [`Node::present_members`]; plain foca knows none that are unreachable.
    pub fn present_members(&self) -> Vec<Peer> {
        match self {
            Self::Tidings(node) => node.present_members(),
            Self::Foca(node) => node.live_members(),
        }
    }

    /// See [`Node::present_records`]; plain foca has none.
    pub fn present_records(&self) -> Vec<(Owner, Key, Version)> {
        match self {
            Self::Tidings(node) => node.present_records(),
            Self::Foca(_) => Vec::new(),
        }
    }

    /// See [`Node::own_records`]; plain foca has none.
    pub fn own_records(&self) -> Vec<(Key, Version)> {
        match self {
            Self::Tidings(node) => node.own_records(),
            Self::Foca(_) => Vec::new(),
        }
    }

    /// What a tidings node has counted; plain foca counts nothing.
    pub fn counters(&self) -> tidings::counters::Counters {
        match self {
            Self::Tidings(node) => node.counters(),
            Self::Foca(_) => tidings::counters::Counters::default(),
        }
    }

    /// See [`Node::queues`].
    pub fn queues(&self) -> QueueLengths {
        match self {
            Self::Tidings(node) => node.queues(),
            Self::Foca(node) => node.queues(),
        }
    }

    /// The core, if it is one.
    pub fn as_tidings(&self) -> Option<&Node> {
        match self {
            Self::Tidings(node) => Some(node),
            Self::Foca(_) => None,
        }
    }

    /// The plain foca, if it is one.
    pub fn as_foca(&self) -> Option<&FocaNode> {
        match self {
            Self::Tidings(_) => None,
            Self::Foca(node) => Some(node),
        }
    }
}
