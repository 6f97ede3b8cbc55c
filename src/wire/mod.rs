//! Bytes: the only room that knows how words look on the wire.
//!
//! A **datagram** is a clear [`Header`] of fixed size and a body of sections, each `tag u8, length u16, bytes`. A
//! reader skips sections whose tag it does not know, so members of different versions can live in one cluster. A
//! **record** is a kind and a list of fields, each `tag u8, length, bytes`; unknown fields are skipped by readers and
//! kept by whoever passes the record on, because records travel as the bytes that their owner wrote. A **frame** is a
//! question or an answer on a stream. A **recording** is a file of all that happened to a node.
//!
//! Numbers and texts inside are written by bincode 2 (variable-length integers, little endian), always with a limit.
//! bincode is pinned to 2.0.1: 3.0.0 is an empty tombstone, and 2.x is not maintained any more. Nothing outside this
//! folder names it, and the golden vectors in the tests fix the bytes, so another codec that writes the same bytes can
//! take its place.

mod frame;
#[cfg(test)]
mod golden;
mod header;
#[cfg(feature = "net")]
mod keyring;
#[cfg(test)]
pub(crate) mod pretend;
mod probe;
mod record;
mod recording;
mod section;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use frame::FRAME_BYTES_MAX;
pub(crate) use frame::{
    Answer, Ask, Delta, Digest, Listed, ListedState, Want, decode_answer, decode_ask, encode_answer, encode_ask,
};
pub use header::{HEADER_BYTES, Header, Kind, cluster_tag};
#[cfg(feature = "net")]
pub(crate) use keyring::{ToldRing, decode_ring, encode_ring, is_about_keys};
pub(crate) use probe::{Accusation, Probe};
pub use record::{Body, Record, decode_content, encode_instance, encode_member};
pub(crate) use record::{BodyRef, content_hash};
pub(crate) use recording::{
    Birth, RECORDED_HEAD_BYTES, RECORDING_MAGIC, Recorded, RecordedInput, decode_recorded, encode_recorded,
    recorded_head,
};
pub(crate) use section::{
    Canary, Fingerprints, Hello, NOTICE_RECORDS_BYTES_MAX, Outgoing, Refusal, RefusalReason, Section, Sections,
    SwimMessage, SwimSection, SwimUpdate, VERDICT_BYTES_MAX, rumor_bytes,
};
pub use section::{DATAGRAM_BYTES_MAX, SEAL_BYTES};

/// The oldest wire version that this program reads.
pub const WIRE_OLDEST: u8 = 1;
/// The wire version that this program writes, and the newest that it reads.
pub const WIRE_NEWEST: u8 = 1;

/// Why bytes could not be read or written. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end too early.
    #[error("truncated {0}")]
    Truncated(&'static str),
    /// There are bytes left over.
    #[error("trailing bytes after {0}")]
    Trailing(&'static str),
    /// A value that has no meaning.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// Too large to be written or read.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// The most bytes that bincode may read or write at once; whatever it is given is shorter already. A recorded frame of
/// a stream is the longest.
const CODEC_BYTES_MAX: usize = recording::RECORDED_BYTES_MAX;

const CODEC: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<CODEC_BYTES_MAX>,
> = bincode::config::standard().with_limit::<CODEC_BYTES_MAX>();

/// Appends `value` to `into`.
fn put<T: Serialize>(into: &mut Vec<u8>, value: &T) -> Result<(), WireError> {
    bincode::serde::encode_into_std_write(value, into, CODEC)
        .map(|_| ())
        .map_err(|_| WireError::Invalid("value to encode"))
}

/// Reads a value from the front of `bytes` and moves past it.
fn take<T: DeserializeOwned>(bytes: &mut &[u8], what: &'static str) -> Result<T, WireError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, CODEC).map_err(|_| WireError::Invalid(what))?;
    *bytes = bytes.get(used..).ok_or(WireError::Truncated(what))?;
    Ok(value)
}

/// Reads a value that must fill `bytes`.
fn take_all<T: DeserializeOwned>(mut bytes: &[u8], what: &'static str) -> Result<T, WireError> {
    let value = take(&mut bytes, what)?;
    if bytes.is_empty() { Ok(value) } else { Err(WireError::Trailing(what)) }
}

/// Splits `count` bytes off the front of `bytes`.
fn split<'a>(bytes: &mut &'a [u8], count: usize, what: &'static str) -> Result<&'a [u8], WireError> {
    let (front, rest) = bytes.split_at_checked(count).ok_or(WireError::Truncated(what))?;
    *bytes = rest;
    Ok(front)
}

/// foca's own types as bytes: used only between foca and `swim.rs`, which rewrites them into a [`SwimSection`]. Written
/// by hand, because every message passes here twice: numbers in big-endian order, an address as its family and bytes.
pub(crate) mod foca_codec {
    use std::net::{IpAddr, SocketAddr};

    use bytes::{Buf, BufMut};
    use foca::{Codec, Header, Member, Message, State};

    use super::WireError;
    use crate::peer::{Generation, NodeId, Peer};

    /// The longest peer: an id, an IPv6 address with its family and port, a generation and a nonce.
    const PEER_BYTES_MAX: usize = 8 + 19 + 8 + 8;

    /// The longest header: two peers and a third, an incarnation, a tag and a number.
    const HEADER_BYTES_MAX: usize = 3 * PEER_BYTES_MAX + 4;

    /// The longest member: a peer, an incarnation and a state.
    const MEMBER_BYTES_MAX: usize = PEER_BYTES_MAX + 3;

    const MALFORMED: WireError = WireError::Invalid("membership payload");

    /// Our own codec for foca.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct PeerCodec;

    /// A place for the bytes of one value, so that it is written whole or not at all.
    struct Slip {
        bytes: [u8; HEADER_BYTES_MAX],
        len: usize,
    }

    impl Slip {
        const fn new() -> Self {
            Self { bytes: [0; HEADER_BYTES_MAX], len: 0 }
        }

        fn put(&mut self, bytes: &[u8]) {
            self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
            self.len += bytes.len();
        }

        fn put_peer(&mut self, peer: &Peer) {
            self.put(&peer.id.0.to_be_bytes());
            match peer.addr.ip() {
                IpAddr::V4(ip) => {
                    self.put(&[4]);
                    self.put(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    self.put(&[6]);
                    self.put(&ip.octets());
                }
            }
            self.put(&peer.addr.port().to_be_bytes());
            self.put(&(peer.generation.epoch() << 16 | u64::from(peer.generation.bump())).to_be_bytes());
            self.put(&peer.nonce.to_be_bytes());
        }

        fn write(self, mut buf: impl BufMut) -> Result<(), WireError> {
            if self.len > buf.remaining_mut() {
                let limit = buf.remaining_mut();
                return Err(WireError::TooLarge { what: "membership payload", bytes: self.len, limit });
            }
            buf.put_slice(&self.bytes[..self.len]);
            Ok(())
        }
    }

    fn read_peer(buf: &mut impl Buf) -> Result<Peer, WireError> {
        let id = NodeId(buf.try_get_u64().map_err(|_| MALFORMED)?);
        let ip = match buf.try_get_u8() {
            Ok(4) => IpAddr::from(buf.try_get_u32().map_err(|_| MALFORMED)?.to_be_bytes()),
            Ok(6) => IpAddr::from(buf.try_get_u128().map_err(|_| MALFORMED)?.to_be_bytes()),
            _ => return Err(MALFORMED),
        };
        let addr = SocketAddr::new(ip, buf.try_get_u16().map_err(|_| MALFORMED)?);
        let generation = buf.try_get_u64().map_err(|_| MALFORMED)?;
        let generation = Generation::new(generation >> 16, (generation & 0xffff) as u16);
        Ok(Peer { id, addr, generation, nonce: buf.try_get_u64().map_err(|_| MALFORMED)? })
    }

    impl Codec<Peer> for PeerCodec {
        type Error = WireError;

        fn encode_header(&mut self, header: &Header<Peer>, buf: impl BufMut) -> Result<(), WireError> {
            let (tag, number, other) = match &header.message {
                Message::Ping(number) => (0, *number, None),
                Message::Ack(number) => (1, *number, None),
                Message::PingReq { target, probe_number } => (2, *probe_number, Some(target)),
                Message::IndirectPing { origin, probe_number } => (3, *probe_number, Some(origin)),
                Message::IndirectAck { target, probe_number } => (4, *probe_number, Some(target)),
                Message::ForwardedAck { origin, probe_number } => (5, *probe_number, Some(origin)),
                Message::Announce => (6, 0, None),
                Message::Feed => (7, 0, None),
                Message::Gossip => (8, 0, None),
                Message::Broadcast => (9, 0, None),
                Message::TurnUndead => (10, 0, None),
            };
            let mut slip = Slip::new();
            slip.put_peer(&header.src);
            slip.put(&header.src_incarnation.to_be_bytes());
            slip.put_peer(&header.dst);
            slip.put(&[tag, number]);
            if let Some(other) = other {
                slip.put_peer(other);
            }
            slip.write(buf)
        }

        fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Peer>, WireError> {
            let src = read_peer(&mut buf)?;
            let src_incarnation = buf.try_get_u16().map_err(|_| MALFORMED)?;
            let dst = read_peer(&mut buf)?;
            let (tag, number) = (buf.try_get_u8().map_err(|_| MALFORMED)?, buf.try_get_u8().map_err(|_| MALFORMED)?);
            let message = match tag {
                0 => Message::Ping(number),
                1 => Message::Ack(number),
                2 => Message::PingReq { target: read_peer(&mut buf)?, probe_number: number },
                3 => Message::IndirectPing { origin: read_peer(&mut buf)?, probe_number: number },
                4 => Message::IndirectAck { target: read_peer(&mut buf)?, probe_number: number },
                5 => Message::ForwardedAck { origin: read_peer(&mut buf)?, probe_number: number },
                6 => Message::Announce,
                7 => Message::Feed,
                8 => Message::Gossip,
                9 => Message::Broadcast,
                10 => Message::TurnUndead,
                _ => return Err(MALFORMED),
            };
            Ok(Header { src, src_incarnation, dst, message })
        }

        fn encode_member(&mut self, member: &Member<Peer>, buf: impl BufMut) -> Result<(), WireError> {
            const { assert!(MEMBER_BYTES_MAX <= HEADER_BYTES_MAX) };
            let mut slip = Slip::new();
            slip.put_peer(member.id());
            slip.put(&member.incarnation().to_be_bytes());
            slip.put(&[match member.state() {
                State::Alive => 0,
                State::Suspect => 1,
                State::Down => 2,
            }]);
            slip.write(buf)
        }

        fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Peer>, WireError> {
            let peer = read_peer(&mut buf)?;
            let incarnation = buf.try_get_u16().map_err(|_| MALFORMED)?;
            let state = match buf.try_get_u8() {
                Ok(0) => State::Alive,
                Ok(1) => State::Suspect,
                Ok(2) => State::Down,
                _ => return Err(MALFORMED),
            };
            Ok(Member::new(peer, incarnation, state))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn peer(id: u64, addr: &str) -> Peer {
            let addr = addr.parse().expect("an address");
            Peer { id: NodeId(id), addr, generation: Generation::new(id, 3), nonce: id << 40 }
        }

        #[test]
        fn what_is_written_for_foca_is_read_again_and_a_cut_is_noticed() {
            let (one, two) = (peer(1, "10.0.0.1:7900"), peer(2, "[2001:db8::1]:7900"));
            for message in [
                Message::Ping(7),
                Message::IndirectPing { origin: two, probe_number: 9 },
                Message::ForwardedAck { origin: one, probe_number: 255 },
                Message::TurnUndead,
            ] {
                let header = Header { src: one, src_incarnation: 500, dst: two, message };
                let mut bytes = Vec::new();
                PeerCodec.encode_header(&header, &mut bytes).expect("a vector has room");
                assert!(bytes.len() <= HEADER_BYTES_MAX);
                assert_eq!(PeerCodec.decode_header(&bytes[..]).expect("just written"), header);
                for len in 0..bytes.len() {
                    assert!(PeerCodec.decode_header(&bytes[..len]).is_err());
                }
                assert!(PeerCodec.encode_header(&header, (&mut bytes).limit(8)).is_err());
            }
            for state in [State::Alive, State::Suspect, State::Down] {
                let member = Member::new(two, 3, state);
                let mut bytes = Vec::new();
                PeerCodec.encode_member(&member, &mut bytes).expect("a vector has room");
                assert!(bytes.len() <= MEMBER_BYTES_MAX);
                assert_eq!(PeerCodec.decode_member(&bytes[..]).expect("just written"), member);
            }
        }
    }
}

/// For fuzzing: reads bytes as a datagram, as the content of a record, as a question and an answer, and as a keyring.
/// True if any of them could be read.
#[doc(hidden)]
pub fn reads(bytes: &[u8]) -> bool {
    #[cfg(feature = "net")]
    if decode_ring(bytes).is_ok() {
        return true;
    }
    let datagram = Header::read(bytes).is_ok_and(|(_, body)| Sections::new(body).all(|section| section.is_ok()));
    let content = [crate::record::Key::member(), "k".into()].iter().any(|key| decode_content(key, bytes).is_ok());
    let frame = decode_ask(bytes).is_ok() || decode_answer(bytes).is_ok();
    datagram || content || frame
}

/// For fuzzing: a gossip datagram of `sender` in the cluster `cluster`, with these bytes as its body.
#[doc(hidden)]
pub fn dress(cluster: &str, sender: &crate::peer::Peer, body: &[u8]) -> Vec<u8> {
    let mut bytes = Outgoing::new(&Header::new(Kind::Gossip, cluster_tag(cluster), sender, 1)).finish();
    bytes.extend_from_slice(body);
    bytes
}
