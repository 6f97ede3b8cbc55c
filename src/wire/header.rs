//! The clear header of every datagram: of fixed size, so that a seal can bind it and open the rest in place.

use xxhash_rust::xxh3::xxh3_64;

use super::{WIRE_NEWEST, WIRE_OLDEST, WireError};
use crate::peer::{NodeId, Peer};

/// Bytes of a [`Header`].
pub const HEADER_BYTES: usize = 29;

/// The largest counter; it has 48 bits, enough for a million datagrams a second for eight years.
pub(super) const COUNTER_MAX: u64 = (1 << 48) - 1;

/// What a datagram is. All kinds are below 0x40: from there on a first byte belongs to QUIC, whose fixed bit is 0x40
/// (RFC 9000 section 17.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Gossip between members that know each other.
    Gossip = 0x01,
    /// "Who are you?", to an address.
    Hello = 0x02,
    /// The answer to a Hello; no larger than it.
    HelloBack = 0x03,
    /// Says why a datagram was not accepted; never acted upon.
    Refusal = 0x04,
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::Gossip),
            0x02 => Some(Self::Hello),
            0x03 => Some(Self::HelloBack),
            0x04 => Some(Self::Refusal),
            _ => None,
        }
    }
}

/// The clear header of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the datagram is.
    pub kind: Kind,
    /// The wire version of the body.
    pub version: u8,
    /// The id of the key that seals the body; 0 is in clear.
    pub key: u8,
    /// The tag of the sender's cluster.
    pub cluster: u32,
    /// The sender.
    pub sender: NodeId,
    /// The nonce of the sender's start. It names the start alone: 64 random bits. Which of two starts is the later one
    /// says the epoch, in a Hello and its answer and in the sender's own record.
    pub nonce: u64,
    /// Counts the sender's datagrams since its start.
    pub counter: u64,
}

/// The tag of a cluster: the low half of the XXH3 hash of its name. A hint for clear refusals, not a proof.
pub fn cluster_tag(name: &str) -> u32 {
    xxh3_64(name.as_bytes()) as u32
}

impl Header {
    /// Where the id of the key stands.
    #[cfg(feature = "net")]
    pub(crate) const KEY_AT: usize = 2;

    /// A header from `sender`.
    pub fn new(kind: Kind, cluster: u32, sender: &Peer, counter: u64) -> Self {
        Self {
            kind,
            version: WIRE_NEWEST,
            key: 0,
            cluster,
            sender: sender.id,
            nonce: sender.nonce,
            counter: counter & COUNTER_MAX,
        }
    }

    /// Appends the header.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&[self.kind as u8, self.version, self.key]);
        into.extend_from_slice(&self.cluster.to_le_bytes());
        into.extend_from_slice(&self.sender.0.to_le_bytes());
        into.extend_from_slice(&self.nonce.to_le_bytes());
        into.extend_from_slice(&self.counter.to_le_bytes()[..6]);
    }

    /// Reads the header of `datagram` and gives the body beside it. The version is not judged, see
    /// [`Header::is_spoken`].
    ///
    /// # Errors
    /// [`WireError::Truncated`] below [`HEADER_BYTES`]; [`WireError::Invalid`] for an unknown kind.
    pub fn read(datagram: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (head, body) = datagram.split_first_chunk::<HEADER_BYTES>().ok_or(WireError::Truncated("header"))?;
        let number = |from: usize, bytes: usize| {
            let mut le = [0; 8];
            le[..bytes].copy_from_slice(&head[from..from + bytes]);
            u64::from_le_bytes(le)
        };
        let header = Self {
            kind: Kind::from_byte(head[0]).ok_or(WireError::Invalid("kind"))?,
            version: head[1],
            key: head[2],
            cluster: number(3, 4) as u32,
            sender: NodeId(number(7, 8)),
            nonce: number(15, 8),
            counter: number(23, 6),
        };
        Ok((header, body))
    }

    /// Whether we read the body's version.
    pub const fn is_spoken(&self) -> bool {
        WIRE_OLDEST <= self.version && self.version <= WIRE_NEWEST
    }

    /// Whether `peer` is the start that sent this.
    pub fn is_from(&self, peer: &Peer) -> bool {
        (self.sender, self.nonce) == (peer.id, peer.nonce)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::Generation;

    fn header() -> Header {
        let sender = Peer {
            id: NodeId(0x0102_0304_0506_0708),
            addr: "127.0.0.1:7900".parse().expect("an address"),
            generation: Generation::new(0x1122_3344_5566, 9),
            nonce: 0xa1a2_a3a4_a5a6_a7a8,
        };
        Header::new(Kind::Gossip, 0xc1c2_c3c4, &sender, 0x0102_0304_0506)
    }

    /// Wire version 1 for ever: a change of these bytes is a new wire version.
    #[test]
    fn the_header_of_version_1_is_these_bytes() {
        let mut bytes = Vec::new();
        header().write(&mut bytes);
        let golden = [
            1, 1, 0, 0xc4, 0xc3, 0xc2, 0xc1, 8, 7, 6, 5, 4, 3, 2, 1, 0xa8, 0xa7, 0xa6, 0xa5, 0xa4, 0xa3, 0xa2, 0xa1, 6,
            5, 4, 3, 2, 1,
        ];
        assert_eq!(bytes, golden);
        assert_eq!(Header::read(&bytes), Ok((header(), &[][..])));
    }

    #[test]
    fn the_tag_of_a_cluster_is_the_same_on_every_machine() {
        assert_eq!(cluster_tag("demo"), xxh3_64(b"demo") as u32);
        assert_ne!(cluster_tag("demo"), cluster_tag("demo2"));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok((header, body)) = Header::read(&bytes) {
                prop_assert_eq!(body.len(), bytes.len() - HEADER_BYTES);
                let mut again = Vec::new();
                header.write(&mut again);
                prop_assert_eq!(&again[..], &bytes[..HEADER_BYTES]);
            }
        }
    }
}
