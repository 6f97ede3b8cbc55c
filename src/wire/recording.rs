//! Recordings of a node's inputs: a head, then frames, each `length u32, hash u64, bytes` in little-endian order.
//!
//! The hash (XXH3) tells a damaged frame from a whole one. What the frames say is put together in `recording`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{FRAME_BYTES_MAX, WireError, put, record, take_all};
use crate::effect::{Input, StreamFailure};
use crate::peer::NodeId;
use crate::record::Key;

/// What every recording begins with; the last byte is the version of the format.
pub(crate) const RECORDING_MAGIC: [u8; 8] = *b"tidings\x01";

/// Bytes before each frame.
pub(crate) const RECORDED_HEAD_BYTES: usize = 12;

/// The most bytes of one frame: a frame of a stream, and what stands around it.
pub(crate) const RECORDED_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;

/// What a node was born with. The settings stand in it by name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Birth {
    pub(crate) build: String,
    pub(crate) cluster: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) zone: Arc<str>,
    pub(crate) addr: SocketAddr,
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    pub(crate) nonce: u64,
    pub(crate) seed: u64,
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) must_join: bool,
    pub(crate) remembered: Vec<SocketAddr>,
    /// Spans in nanoseconds, counts, or the bits of a number.
    pub(crate) settings: Vec<(String, u64)>,
    /// In nanoseconds.
    pub(crate) started: u64,
}

/// One frame.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Recorded {
    /// The first.
    Birth(Birth),
    /// What happened, and when, in nanoseconds.
    Input { at: u64, input: RecordedInput },
    /// The hash over what came of it.
    Outcome(u64),
    /// The last, if there is one: why there is no more.
    End(u8),
}

/// An input as it stands in a recording.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum RecordedInput {
    Wake,
    Datagram {
        from: SocketAddr,
        bytes: Bytes,
    },
    Request {
        from: SocketAddr,
        token: u64,
        bytes: Bytes,
    },
    Response {
        token: u64,
        bytes: Bytes,
    },
    Failure {
        token: u64,
        why: u8,
    },
    Register {
        key: Key,
        content: Bytes,
    },
    Withdraw(Key),
    Seeds(Vec<SocketAddr>),
    Readdress(SocketAddr),
    Leave,
    Forget(NodeId),
    /// In nanoseconds.
    Drain(u64),
    Survey,
    Canary,
}

/// The failures in the order of their numbers.
const FAILURES: [StreamFailure; 4] =
    [StreamFailure::Connection, StreamFailure::Timeout, StreamFailure::TooLong, StreamFailure::Refused];

impl RecordedInput {
    /// # Errors
    /// [`WireError`] for an instance that has no form.
    pub(crate) fn new(input: &Input<'_>) -> Result<Self, WireError> {
        Ok(match input {
            Input::Wake => Self::Wake,
            Input::Datagram { from, bytes } => Self::Datagram { from: *from, bytes: Bytes::copy_from_slice(bytes) },
            Input::Request { from, token, bytes } => Self::Request { from: *from, token: *token, bytes: bytes.clone() },
            Input::Response { token, result: Ok(bytes) } => Self::Response { token: *token, bytes: bytes.clone() },
            Input::Response { token, result: Err(why) } => {
                let why = FAILURES.iter().position(|failure| failure == why).expect("the list has every failure");
                Self::Failure { token: *token, why: why as u8 }
            }
            Input::Register(instance) => {
                Self::Register { key: instance.id.clone(), content: record::encode_any_instance(instance)?.into() }
            }
            Input::Withdraw(key) => Self::Withdraw(key.clone()),
            Input::Seeds(seeds) => Self::Seeds(seeds.clone()),
            Input::Readdress(addr) => Self::Readdress(*addr),
            Input::Leave => Self::Leave,
            Input::Forget(id) => Self::Forget(*id),
            Input::Survey => Self::Survey,
            Input::Canary => Self::Canary,
            Input::Drain(within) => Self::Drain(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX)),
        })
    }

    /// The input, to be told again.
    pub(crate) fn input(&self) -> Result<Input<'_>, WireError> {
        Ok(match self {
            Self::Wake => Input::Wake,
            Self::Datagram { from, bytes } => Input::Datagram { from: *from, bytes },
            Self::Request { from, token, bytes } => Input::Request { from: *from, token: *token, bytes: bytes.clone() },
            Self::Response { token, bytes } => Input::Response { token: *token, result: Ok(bytes.clone()) },
            Self::Failure { token, why } => {
                let why = FAILURES.get(usize::from(*why)).ok_or(WireError::Invalid("stream failure"))?;
                Input::Response { token: *token, result: Err(*why) }
            }
            Self::Register { key, content } => Input::Register(Arc::new(record::decode_any_instance(key, content)?)),
            Self::Withdraw(key) => Input::Withdraw(key.clone()),
            Self::Seeds(seeds) => Input::Seeds(seeds.clone()),
            Self::Readdress(addr) => Input::Readdress(*addr),
            Self::Leave => Input::Leave,
            Self::Forget(id) => Input::Forget(*id),
            Self::Survey => Input::Survey,
            Self::Canary => Input::Canary,
            Self::Drain(nanos) => Input::Drain(Duration::from_nanos(*nanos)),
        })
    }
}

/// A frame with its head.
///
/// # Errors
/// [`WireError::TooLarge`].
pub(crate) fn encode_recorded(frame: &Recorded) -> Result<Vec<u8>, WireError> {
    let mut into = vec![0; RECORDED_HEAD_BYTES];
    put(&mut into, frame)?;
    let (head, body) = into.split_at_mut(RECORDED_HEAD_BYTES);
    if body.len() > RECORDED_BYTES_MAX {
        return Err(WireError::TooLarge { what: "recorded input", bytes: body.len(), limit: RECORDED_BYTES_MAX });
    }
    let len = u32::try_from(body.len()).expect("the limit is below 4 GiB");
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4..].copy_from_slice(&xxh3_64(body).to_le_bytes());
    Ok(into)
}

/// How long the frame behind this head is, and its hash.
///
/// # Errors
/// [`WireError::TooLarge`].
pub(crate) fn recorded_head(head: [u8; RECORDED_HEAD_BYTES]) -> Result<(usize, u64), WireError> {
    let [l0, l1, l2, l3, hash @ ..] = head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > RECORDED_BYTES_MAX {
        return Err(WireError::TooLarge { what: "recorded input", bytes: len, limit: RECORDED_BYTES_MAX });
    }
    Ok((len, u64::from_le_bytes(hash)))
}

/// Reads what stands behind a head; `None` if the hash does not fit.
///
/// # Errors
/// [`WireError`] when it is whole, and yet cannot be read.
pub(crate) fn decode_recorded(bytes: &[u8], hash: u64) -> Result<Option<Recorded>, WireError> {
    if xxh3_64(bytes) != hash {
        return Ok(None);
    }
    take_all(bytes, "recorded input").map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr() -> SocketAddr {
        ([10, 0, 0, 1], 7_900).into()
    }

    #[test]
    fn a_frame_comes_back_as_it_was_written_and_a_flipped_bit_is_noticed() {
        let input = RecordedInput::Datagram { from: addr(), bytes: Bytes::from_static(b"abc") };
        let frame = Recorded::Input { at: 9, input };
        let bytes = encode_recorded(&frame).expect("small");
        let (head, body) = bytes.split_first_chunk().expect("it has a head");
        let (len, hash) = recorded_head(*head).expect("small");
        assert_eq!(len, body.len());
        assert_eq!(decode_recorded(body, hash), Ok(Some(frame)));
        let mut damaged = body.to_vec();
        damaged[3] ^= 1;
        assert_eq!(decode_recorded(&damaged, hash), Ok(None));
        assert!(recorded_head([0xff; RECORDED_HEAD_BYTES]).is_err());
    }

    #[test]
    fn every_failure_keeps_its_number() {
        for (number, failure) in FAILURES.into_iter().enumerate() {
            let input = Input::Response { token: 1, result: Err(failure) };
            assert_eq!(RecordedInput::new(&input), Ok(RecordedInput::Failure { token: 1, why: number as u8 }));
        }
        assert!(RecordedInput::Failure { token: 1, why: 9 }.input().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(Recorded::Input { input, .. })) = decode_recorded(&bytes, xxh3_64(&bytes)) {
                let _ = input.input();
            }
        }
    }
}
