//! Frames: the questions and answers that members exchange over streams.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::record::{Record, VERSION_MAX};
use super::{WIRE_NEWEST, WIRE_OLDEST, WireError, put, split, take_all};
use crate::peer::{Epoch, NodeId, Peer};
use crate::record::{Key, Owner, Version};
use crate::verdict::Finding;

/// The most bytes of one frame; what is longer is told in pages.
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Who asks: says so in every question, because a stream comes from an address.
pub(crate) type Asker = Peer;

/// Records of one owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Delta {
    pub(crate) owner: Owner,
    /// The records are all that changed after this version ...
    pub(crate) since: Version,
    /// ... up to this one.
    pub(crate) watermark: Version,
    /// Whether `records` is all that lives of these versions: what is missing here is gone.
    pub(crate) is_whole: bool,
    /// Whether there is more above the watermark than fitted.
    pub(crate) more: bool,
    /// In order of their versions.
    pub(crate) records: Vec<Record>,
}

/// What a node knows of one owner, in few bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Digest {
    pub(crate) owner: Owner,
    pub(crate) watermark: Version,
    /// The highest version known; above the watermark if there is a gap.
    pub(crate) highest: Version,
    /// The sum over its live records.
    pub(crate) sum: u64,
}

/// What a node wants to know of one owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Want {
    pub(crate) id: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) since: Version,
    /// Wants the whole set: the versions agree, the sums do not.
    pub(crate) whole: bool,
}

/// A member as another lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) peer: Peer,
    pub(crate) state: ListedState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ListedState {
    /// Present or down; with the turn, the finding, who found it, and how many witnesses of the verdict that stands.
    Judged { turn: u32, finding: Finding, by: NodeId, witnesses: u8 },
    /// It said goodbye.
    Left,
}

/// A question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Everything, page by page; with the asker's own records, so that one stream joins both ways.
    Pull { asker: Asker, after: Option<NodeId>, own: Vec<Delta> },
    /// Which owners differ? With the sums of 256 buckets of owners under a salt, and the fingerprint of the members.
    Compare { asker: Asker, salt: u64, sums: Vec<u64>, members: u64 },
    /// Give me these, take those.
    Trade { asker: Asker, want: Vec<Want>, give: Vec<Delta>, members: Vec<Listed> },
    /// The content of a large record.
    Content { asker: Asker, owner: Owner, key: Key, version: Version },
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// To [`Ask::Pull`]: a page, and where the next begins.
    Pulled { teller: Peer, is_ready: bool, members: Vec<Listed>, deltas: Vec<Delta>, after: Option<NodeId> },
    /// To [`Ask::Compare`]: the owners in the buckets that differ, and the members if those differ.
    Differs { buckets: Vec<u8>, digests: Vec<Digest>, members: Option<Vec<Listed>> },
    /// To [`Ask::Trade`].
    Traded { deltas: Vec<Delta> },
    /// To [`Ask::Content`].
    Content { bytes: Bytes },
    /// To [`Ask::Content`], when there is no such version here (any more).
    Missing,
}

pub(crate) fn encode_ask(ask: &Ask) -> Result<Bytes, WireError> {
    encode(ask)
}

pub(crate) fn decode_ask(bytes: &[u8]) -> Result<Ask, WireError> {
    let mut ask: Ask = decode(bytes)?;
    match &mut ask {
        Ask::Pull { own, .. } => check(own)?,
        Ask::Trade { give, .. } => check(give)?,
        Ask::Compare { sums, .. } if sums.len() != 256 => return Err(WireError::Invalid("number of buckets")),
        Ask::Compare { .. } | Ask::Content { .. } => {}
    }
    Ok(ask)
}

pub(crate) fn encode_answer(answer: &Answer) -> Result<Bytes, WireError> {
    encode(answer)
}

pub(crate) fn decode_answer(bytes: &[u8]) -> Result<Answer, WireError> {
    let mut answer: Answer = decode(bytes)?;
    match &mut answer {
        Answer::Pulled { deltas, .. } | Answer::Traded { deltas } => check(deltas)?,
        Answer::Content { bytes } if bytes.len() > crate::record::limits::RECORD_BYTES_MAX => {
            return Err(WireError::Invalid("record length"));
        }
        Answer::Differs { .. } | Answer::Content { .. } | Answer::Missing => {}
    }
    Ok(answer)
}

/// A delta speaks of one owner, and its records are within their limits. One that is not costs the delta its claim to
/// be complete, not the frame.
fn check(deltas: &mut [Delta]) -> Result<(), WireError> {
    for delta in deltas {
        if delta.records.iter().any(|record| record.owner != delta.owner) {
            return Err(WireError::Invalid("owner in delta"));
        }
        if delta.watermark > VERSION_MAX || delta.since > delta.watermark {
            return Err(WireError::Invalid("watermark in delta"));
        }
        let count = delta.records.len();
        delta.records.retain(|record| record.check().is_ok());
        if delta.records.len() < count {
            delta.watermark = delta.since;
            (delta.is_whole, delta.more) = (false, false);
        }
    }
    Ok(())
}

fn encode<T: Serialize>(frame: &T) -> Result<Bytes, WireError> {
    let mut into = vec![WIRE_NEWEST];
    put(&mut into, frame)?;
    if into.len() > FRAME_BYTES_MAX {
        return Err(WireError::TooLarge { what: "frame", bytes: into.len(), limit: FRAME_BYTES_MAX });
    }
    Ok(Bytes::from(into))
}

fn decode<T: serde::de::DeserializeOwned>(mut bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(WireError::TooLarge { what: "frame", bytes: bytes.len(), limit: FRAME_BYTES_MAX });
    }
    let version = split(&mut bytes, 1, "frame version")?[0];
    if !(WIRE_OLDEST..=WIRE_NEWEST).contains(&version) {
        return Err(WireError::Invalid("frame version"));
    }
    take_all(bytes, "frame")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::Body;
    use super::*;
    use crate::peer::Generation;

    fn asker() -> Peer {
        let addr = "127.0.0.1:1".parse().expect("an address");
        Peer { id: NodeId(1), addr, generation: Generation::first(2), nonce: 3 }
    }

    fn delta() -> Delta {
        let owner = Owner { id: NodeId(1), epoch: 2 };
        let record = Record { owner, key: "k".into(), version: 3, body: Body::Live(Bytes::from_static(b"x")) };
        Delta { owner, since: 0, watermark: 3, is_whole: true, more: false, records: vec![record] }
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let ask = Ask::Pull { asker: asker(), after: Some(NodeId(9)), own: vec![delta()] };
        assert_eq!(decode_ask(&encode_ask(&ask).expect("small")), Ok(ask));
        let answer = Answer::Traded { deltas: vec![delta()] };
        assert_eq!(decode_answer(&encode_answer(&answer).expect("small")), Ok(answer));
    }

    #[test]
    fn a_delta_cannot_smuggle_records_of_another_owner() {
        let mut delta = delta();
        delta.records[0].owner.id = NodeId(66);
        let ask = Ask::Pull { asker: asker(), after: None, own: vec![delta] };
        let read = decode_ask(&encode_ask(&ask).expect("small"));
        assert_eq!(read, Err(WireError::Invalid("owner in delta")));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_ask(&bytes);
            let _ = decode_answer(&bytes);
            let mut spoken = vec![WIRE_NEWEST];
            spoken.extend_from_slice(&bytes);
            let _ = decode_ask(&spoken);
            let _ = decode_answer(&spoken);
        }
    }
}
