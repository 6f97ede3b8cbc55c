//! Keyrings on streams: the one place where cluster keys travel. Never in a datagram, never to the node.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{WireError, put, take_all};

/// What a question about keys begins with, in place of a frame's wire version.
const KEYS_BYTE: u8 = 0x6b;

/// Bytes of a question or an answer about keys; eight keys fit into half of it.
const KEYS_BYTES_MAX: usize = 1_024;

/// A keyring as one member tells it another, as question and as answer: each takes the other's if it is newer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToldRing {
    pub(crate) revision: u64,
    pub(crate) in_use: u8,
    pub(crate) keys: Vec<[u8; 32]>,
}

/// Whether a question is about keys, and not for the node.
pub(crate) fn is_about_keys(question: &[u8]) -> bool {
    question.first() == Some(&KEYS_BYTE)
}

pub(crate) fn encode_ring(ring: &ToldRing) -> Result<Bytes, WireError> {
    let mut into = vec![KEYS_BYTE];
    put(&mut into, ring)?;
    Ok(into.into())
}

pub(crate) fn decode_ring(bytes: &[u8]) -> Result<ToldRing, WireError> {
    if bytes.len() > KEYS_BYTES_MAX {
        return Err(WireError::TooLarge { what: "keyring", bytes: bytes.len(), limit: KEYS_BYTES_MAX });
    }
    match bytes.split_first() {
        Some((&KEYS_BYTE, rest)) => take_all(rest, "keyring"),
        _ => Err(WireError::Invalid("keyring")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::WIRE_NEWEST;
    use super::*;

    #[test]
    fn a_ring_comes_back_as_it_was_told_and_is_no_frame() {
        let ring = ToldRing { revision: 3, in_use: 9, keys: vec![[1; 32], [2; 32]] };
        let bytes = encode_ring(&ring).unwrap();
        assert!(is_about_keys(&bytes) && bytes[0] > WIRE_NEWEST);
        assert!(decode_ring(&bytes).is_ok_and(|read| read == ring));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_ring_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..1_200)) {
            let _ = decode_ring(&bytes);
            let mut told = vec![KEYS_BYTE];
            told.extend_from_slice(&bytes);
            let _ = decode_ring(&told);
        }
    }
}
