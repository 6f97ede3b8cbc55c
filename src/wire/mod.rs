//! Bytes: the only room that knows how words look on the wire.
//!
//! A **datagram** is a clear [`Header`] of fixed size and a body of sections, each `tag u8, length u16, bytes`. A
//! reader skips sections whose tag it does not know, so members of different versions can live in one cluster. A
//! **record** is a kind and a list of fields, each `tag u8, length, bytes`; unknown fields are skipped by readers and
//! kept by whoever passes the record on, because records travel as the bytes that their owner wrote. A **frame** is a
//! question or an answer on a stream.
//!
//! Numbers and texts inside are written by bincode 2 (variable-length integers, little endian), always with a limit.
//! bincode is pinned to 2.0.1: 3.0.0 is an empty tombstone, and 2.x is not maintained any more. Nothing outside this
//! folder names it, and the golden vectors in the tests fix the bytes, so another codec that writes the same bytes can
//! take its place.

mod frame;
mod header;
#[cfg(feature = "net")]
mod keyring;
mod record;
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
pub use record::{Body, Record, decode_content, encode_instance, encode_member};
pub(crate) use record::{BodyRef, content_hash};
pub use section::{DATAGRAM_BYTES_MAX, SEAL_BYTES};
pub(crate) use section::{
    Fingerprints, Hello, Outgoing, Refusal, RefusalReason, Section, Sections, SwimMessage, SwimSection, SwimUpdate,
    rumor_bytes,
};

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

/// The most bytes that bincode may read or write at once; whatever it is given is shorter already.
const CODEC_BYTES_MAX: usize = frame::FRAME_BYTES_MAX;

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

/// foca's own types as bytes: used only between foca and `swim.rs`, which rewrites them into a [`SwimSection`].
pub(crate) mod foca_codec {
    use bytes::{Buf, BufMut};
    use foca::{Codec, Header, Member};

    use super::{CODEC, WireError};
    use crate::peer::Peer;

    /// bincode for foca.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct PeerCodec;

    impl PeerCodec {
        fn encode<T: serde::Serialize>(value: &T, mut buf: impl BufMut) -> Result<(), WireError> {
            let bytes =
                bincode::serde::encode_to_vec(value, CODEC).map_err(|_| WireError::Invalid("membership payload"))?;
            if bytes.len() > buf.remaining_mut() {
                let limit = buf.remaining_mut();
                return Err(WireError::TooLarge { what: "membership payload", bytes: bytes.len(), limit });
            }
            buf.put_slice(&bytes);
            Ok(())
        }

        fn decode<T: serde::de::DeserializeOwned>(mut buf: impl Buf) -> Result<T, WireError> {
            let (value, used) = bincode::serde::decode_from_slice(buf.chunk(), CODEC)
                .map_err(|_| WireError::Invalid("membership payload"))?;
            buf.advance(used);
            Ok(value)
        }
    }

    impl Codec<Peer> for PeerCodec {
        type Error = WireError;

        fn encode_header(&mut self, header: &Header<Peer>, buf: impl BufMut) -> Result<(), WireError> {
            Self::encode(header, buf)
        }

        fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Peer>, WireError> {
            Self::decode(buf)
        }

        fn encode_member(&mut self, member: &Member<Peer>, buf: impl BufMut) -> Result<(), WireError> {
            Self::encode(member, buf)
        }

        fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Peer>, WireError> {
            Self::decode(buf)
        }
    }
}

/// For fuzzing: reads bytes as a datagram, as the content of a record, and as a question and an answer. True if any of
/// them could be read.
#[doc(hidden)]
pub fn reads(bytes: &[u8]) -> bool {
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
