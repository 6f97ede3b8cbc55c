//! Who a member is: its lasting id, where it listens, and which of its lives this is. Knows nothing of messages.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// The lasting id of a member: random, kept in its data directory when it has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number of a start of a member: each start has a larger one than the start before. 48 bits.
pub type Epoch = u64;

/// The largest epoch; larger numbers do not fit beside the bump.
pub const EPOCH_MAX: Epoch = (1 << 48) - 1;

/// Which life of a member this is: the epoch of its start, then how often it was renewed since, after being
/// called dead wrongly. Ordered: the larger is the newer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Generation(u64);

impl Generation {
    /// The first generation of the start `epoch`; an epoch above [`EPOCH_MAX`] is cut down to it.
    pub const fn first(epoch: Epoch) -> Self {
        let epoch = if epoch > EPOCH_MAX { EPOCH_MAX } else { epoch };
        Self(epoch << 16)
    }

    /// The generation of `epoch` after `bump` renewals.
    pub const fn new(epoch: Epoch, bump: u16) -> Self {
        Self(Self::first(epoch).0 | bump as u64)
    }

    /// The start this life belongs to.
    pub const fn epoch(self) -> Epoch {
        self.0 >> 16
    }

    /// How often the member was renewed since its start.
    pub const fn bump(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// The next life of the same start; `None` when all 65,535 are used up.
    pub const fn renewed(self) -> Option<Self> {
        if self.bump() == u16::MAX { None } else { Some(Self(self.0 + 1)) }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch(), self.bump())
    }
}

/// A member as gossip knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its lasting id.
    pub id: NodeId,
    /// Where the others reach it: the advertised address of its one UDP port.
    pub addr: SocketAddr,
    /// Which life of it this is.
    pub generation: Generation,
    /// 64 random bits of this start, from the operating system.
    pub nonce: u64,
}

impl Peer {
    /// What decides between two claims to one id: the larger (generation, nonce) wins.
    pub const fn rank(&self) -> (Generation, u64) {
        (self.generation, self.nonce)
    }

    /// The start this life belongs to.
    pub const fn epoch(&self) -> Epoch {
        self.generation.epoch()
    }

    /// Whether `other` is the same process: the same start of the same member, renewed or not.
    pub fn is_same_start(&self, other: &Self) -> bool {
        (self.id, self.epoch(), self.nonce) == (other.id, other.epoch(), other.nonce)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.id, self.addr, self.generation)
    }
}

/// What is believed of a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It answers.
    Reachable,
    /// It did not answer of late; not yet confirmed by others.
    Suspect,
    /// A quorum could not reach it; its instances get no traffic.
    Unreachable,
    /// It is gone without a word; its records are kept for a while.
    Down,
    /// It said goodbye.
    Left,
}

impl MemberState {
    /// The state as a word, as it stands in every output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Suspect => "suspect",
            Self::Unreachable => "unreachable",
            Self::Down => "down",
            Self::Left => "left",
        }
    }

    /// Whether it still belongs to the cluster: neither down nor left.
    pub const fn is_present(self) -> bool {
        matches!(self, Self::Reachable | Self::Suspect | Self::Unreachable)
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// When a member was last heard directly: written by the node at every datagram, read by anybody without a message.
///
/// Clones share one value.
#[derive(Clone, Default, Debug)]
pub struct Evidence(Arc<AtomicU64>);

impl Evidence {
    /// Notes that the member was heard at `now`.
    pub fn note(&self, now: Time) {
        self.0.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// When it was last heard; `None` if never.
    pub fn last(&self) -> Option<Time> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Time::from_nanos(nanos)),
        }
    }
}

/// A member as the view shows it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who it is.
    pub peer: Peer,
    /// Its name for people.
    pub name: Arc<str>,
    /// Where it stands (a rack, an availability zone); empty if it did not say.
    pub zone: Arc<str>,
    /// What is believed of it.
    pub state: MemberState,
    /// When it was last heard.
    pub evidence: Evidence,
    /// The version of the software it runs.
    pub software: Arc<str>,
    /// The oldest and newest wire version that it speaks.
    pub wire: (u8, u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_outranks_every_renewal_of_an_earlier_one() {
        let old = Generation::new(7, u16::MAX);
        assert!(Generation::first(8) > old);
        assert_eq!(old.renewed(), None);
        assert_eq!(Generation::first(8).renewed(), Some(Generation::new(8, 1)));
    }

    #[test]
    fn an_epoch_that_does_not_fit_is_cut_not_wrapped() {
        assert_eq!(Generation::first(u64::MAX).epoch(), EPOCH_MAX);
    }
}
