//! The sections of a datagram's body, and the datagram that is being filled with them within its limit.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::header::{HEADER_BYTES, Header};
#[cfg(test)]
use super::pretend;
use super::probe::Probe;
use super::record::Record;
use super::{WireError, put, split, take, take_all};
use crate::peer::{Epoch, Generation, NodeId, Peer};
use crate::verdict::Verdict;

/// The most bytes of a datagram, sealed: 1,280 (the least MTU of IPv6, RFC 8200 section 5) less 48 for IPv6 and UDP
/// headers, less room for a tunnel. No path needs fragments.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;

/// Bytes that a seal adds (the tag of its AEAD); kept free in every datagram.
pub const SEAL_BYTES: usize = 16;

/// Bytes of a section's tag and length.
const SECTION_HEAD_BYTES: usize = 3;

const TAG_SWIM: u8 = 1;
const TAG_RUMORS: u8 = 2;
const TAG_FINGERPRINTS: u8 = 3;
const TAG_PROBE: u8 = 4;
const TAG_HELLO: u8 = 6;
const TAG_REFUSAL: u8 = 7;
const TAG_VERDICTS: u8 = 8;
const TAG_NOTICE: u8 = 9;
const TAG_RECEIPT: u8 = 10;
const TAG_CANARY: u8 = 11;
// Reserved from the first day: 5 for signatures.

/// The most bytes of one verdict.
pub(crate) const VERDICT_BYTES_MAX: usize = 9 + 9 + 5 + 1 + 9 + 1;

/// foca's payload, without what the header and the receiver know already: both identities but for their bumps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SwimSection {
    pub(crate) src_bump: u16,
    pub(crate) src_incarnation: u16,
    /// The low half of the receiver's nonce: whom the sender believes it talks to.
    pub(crate) dst_nonce: u32,
    pub(crate) dst_bump: u16,
    pub(crate) message: SwimMessage,
    pub(crate) updates: Vec<SwimUpdate>,
}

/// foca's messages (its `Message`, less the custom broadcast that we do not use).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum SwimMessage {
    Ping(u8),
    Ack(u8),
    PingReq { target: Peer, number: u8 },
    IndirectPing { origin: Peer, number: u8 },
    IndirectAck { target: Peer, number: u8 },
    ForwardedAck { origin: Peer, number: u8 },
    Announce,
    Feed,
    Gossip,
    TurnUndead,
}

/// A member in foca's gossip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SwimUpdate {
    pub(crate) peer: Peer,
    pub(crate) incarnation: u16,
    /// 0 alive, 1 suspect, 2 down.
    pub(crate) state: u8,
}

/// What a node knows, in two numbers: equal numbers are equal knowledge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fingerprints {
    /// Over live records.
    pub(crate) records: u64,
    /// Over present members.
    pub(crate) members: u64,
    /// Whether the sender wants ours in return.
    pub(crate) wants_answer: bool,
    /// The low bits of the sender's epoch: a start that outlived another goes on with a larger epoch, and who did not
    /// hear of that sees it here.
    pub(crate) epoch: u8,
}

/// "Who are you?", and its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Which life of the sender's start.
    pub(crate) generation: Generation,
    /// The sender's advertised address.
    pub(crate) addr: SocketAddr,
    /// The oldest and newest wire version that the sender speaks.
    pub(crate) wire: (u8, u8),
    /// Chosen by who asks, returned by who answers.
    pub(crate) cookie: u64,
}

/// News that says nothing, for seeing how long news takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Canary {
    /// Who made it, in which of its starts, and which of its canaries it is.
    pub(crate) origin: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) number: u32,
    /// The position on the ring up to which the receiver passes it on; 0 for not at all.
    pub(crate) until: u64,
    /// How long it has been under way when it is sent, in microseconds.
    pub(crate) age_us: u32,
}

/// Why a datagram was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum RefusalReason {
    Cluster,
    Version,
    Key,
}

/// Says why a datagram was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) reason: RefusalReason,
    pub(crate) wire: (u8, u8),
}

/// A section as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Section {
    Swim(SwimSection),
    /// Records, and the position on the ring up to which the receiver passes them on; 0 for not at all.
    Rumors {
        until: u64,
        records: Vec<Record>,
    },
    Fingerprints(Fingerprints),
    Probe(Probe),
    /// Verdicts, and the position on the ring up to which the receiver passes them on; 0 for not at all.
    Verdicts {
        until: u64,
        verdicts: Vec<Verdict>,
    },
    Hello(Hello),
    Refusal(Refusal),
    /// Records of the sender's own, which the receiver confirms with the number once it has them.
    Notice {
        number: u32,
        records: Vec<Record>,
    },
    /// The sender has the records of our notice of this number.
    Receipt(u32),
    Canary(Canary),
    /// Of a tag that we do not know.
    Unknown(u8),
}

/// Reads a body section by section. After an error it ends.
#[derive(Debug)]
pub(crate) struct Sections<'a> {
    rest: &'a [u8],
}

impl Hello {
    /// The life that says hello.
    pub(crate) fn peer(&self, header: &Header) -> Peer {
        Peer { id: header.sender, addr: self.addr, generation: self.generation, nonce: header.nonce }
    }
}

impl Fingerprints {
    /// What of an epoch is told beside fingerprints: its low seven bits.
    pub(crate) const fn epoch_bits(epoch: Epoch) -> u8 {
        epoch as u8 & 0x7f
    }
}

impl<'a> Sections<'a> {
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn read(&mut self) -> Result<Section, WireError> {
        let head = split(&mut self.rest, SECTION_HEAD_BYTES, "section head")?;
        let len = usize::from(u16::from_le_bytes([head[1], head[2]]));
        let bytes = split(&mut self.rest, len, "section")?;
        match head[0] {
            TAG_SWIM => take_all(bytes, "membership section").map(Section::Swim),
            TAG_RUMORS => read_rumors(bytes),
            TAG_FINGERPRINTS => read_fingerprints(bytes),
            TAG_PROBE => take_all(bytes, "probe").map(Section::Probe),
            TAG_VERDICTS => read_verdicts(bytes),
            TAG_NOTICE => read_notice(bytes),
            TAG_RECEIPT => read_receipt(bytes),
            TAG_CANARY => take_all(bytes, "canary").map(Section::Canary),
            // A Hello is padded, so that its answer is never larger; see `Outgoing::hello`.
            TAG_HELLO => take(&mut { bytes }, "hello").map(Section::Hello),
            TAG_REFUSAL => take_all(bytes, "refusal").map(Section::Refusal),
            tag => Ok(Section::Unknown(tag)),
        }
    }
}

impl Iterator for Sections<'_> {
    type Item = Result<Section, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let section = self.read();
        if section.is_err() {
            self.rest = &[];
        }
        Some(section)
    }
}

fn read_rumors(mut bytes: &[u8]) -> Result<Section, WireError> {
    let until = read_u64(&mut bytes, "rumors")?;
    let mut records = Vec::new();
    while !bytes.is_empty() {
        records.push(Record::read(&mut bytes)?);
    }
    Ok(Section::Rumors { until, records })
}

fn read_verdicts(mut bytes: &[u8]) -> Result<Section, WireError> {
    let until = read_u64(&mut bytes, "verdicts")?;
    let mut verdicts = Vec::new();
    while !bytes.is_empty() {
        let verdict: Verdict = take(&mut bytes, "verdict")?;
        if !verdict.is_sound() {
            return Err(WireError::Invalid("verdict"));
        }
        verdicts.push(verdict);
    }
    Ok(Section::Verdicts { until, verdicts })
}

fn read_notice(mut bytes: &[u8]) -> Result<Section, WireError> {
    let number = read_u32(&mut bytes, "notice")?;
    let mut records = Vec::new();
    while !bytes.is_empty() {
        records.push(Record::read(&mut bytes)?);
    }
    Ok(Section::Notice { number, records })
}

fn read_receipt(mut bytes: &[u8]) -> Result<Section, WireError> {
    let number = read_u32(&mut bytes, "receipt")?;
    if bytes.is_empty() { Ok(Section::Receipt(number)) } else { Err(WireError::Trailing("receipt")) }
}

fn read_fingerprints(mut bytes: &[u8]) -> Result<Section, WireError> {
    let records = read_u64(&mut bytes, "fingerprints")?;
    let members = read_u64(&mut bytes, "fingerprints")?;
    let flags = split(&mut bytes, 1, "fingerprints")?[0];
    Ok(Section::Fingerprints(Fingerprints { records, members, wants_answer: flags & 1 != 0, epoch: flags >> 1 }))
}

fn read_u64(bytes: &mut &[u8], what: &'static str) -> Result<u64, WireError> {
    let le = split(bytes, 8, what)?;
    Ok(u64::from_le_bytes(le.try_into().expect("split gave eight bytes")))
}

fn read_u32(bytes: &mut &[u8], what: &'static str) -> Result<u32, WireError> {
    let le = split(bytes, 4, what)?;
    Ok(u32::from_le_bytes(le.try_into().expect("split gave four bytes")))
}

/// Bytes of records that a notice has room for beside the fingerprints.
pub(crate) const NOTICE_RECORDS_BYTES_MAX: usize =
    DATAGRAM_BYTES_MAX - SEAL_BYTES - HEADER_BYTES - (SECTION_HEAD_BYTES + 4) - (SECTION_HEAD_BYTES + 17);

/// Bytes that a rumors section takes beside its records.
const RUMORS_HEAD_BYTES: usize = SECTION_HEAD_BYTES + 8;

/// Bytes of a rumors section with records of these bytes in all.
pub(crate) const fn rumor_bytes(records: usize) -> usize {
    RUMORS_HEAD_BYTES + records
}

/// A datagram that is being filled. What does not fit is not written, and the caller is told.
#[derive(Debug)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
}

impl Outgoing {
    pub(crate) fn new(header: &Header) -> Self {
        let mut bytes = Vec::with_capacity(256);
        header.write(&mut bytes);
        Self { bytes }
    }

    /// Bytes that still fit, with room for the seal.
    pub(crate) const fn room(&self) -> usize {
        (DATAGRAM_BYTES_MAX - SEAL_BYTES).saturating_sub(self.bytes.len())
    }

    pub(crate) fn swim(&mut self, section: &SwimSection) -> Result<(), WireError> {
        self.section(TAG_SWIM, |into| put(into, section))
    }

    pub(crate) fn fingerprints(&mut self, fingerprints: Fingerprints) -> Result<(), WireError> {
        self.section(TAG_FINGERPRINTS, |into| {
            into.extend_from_slice(&fingerprints.records.to_le_bytes());
            into.extend_from_slice(&fingerprints.members.to_le_bytes());
            into.push(u8::from(fingerprints.wants_answer) | fingerprints.epoch << 1);
            Ok(())
        })
    }

    pub(crate) fn probe(&mut self, probe: &Probe) -> Result<(), WireError> {
        self.section(TAG_PROBE, |into| put(into, probe))
    }

    pub(crate) fn verdicts<'v>(
        &mut self,
        until: u64,
        verdicts: impl IntoIterator<Item = &'v Verdict>,
    ) -> Result<(), WireError> {
        self.section(TAG_VERDICTS, |into| {
            into.extend_from_slice(&until.to_le_bytes());
            verdicts.into_iter().try_for_each(|verdict| put(into, verdict))
        })
    }

    /// Writes already encoded records (see [`Record::encode`]).
    pub(crate) fn rumors<'r>(
        &mut self,
        until: u64,
        records: impl IntoIterator<Item = &'r [u8]>,
    ) -> Result<(), WireError> {
        self.section(TAG_RUMORS, |into| {
            into.extend_from_slice(&until.to_le_bytes());
            for record in records {
                into.extend_from_slice(record);
            }
            Ok(())
        })
    }

    /// Writes already encoded records (see [`Record::encode`]).
    pub(crate) fn notice<'r>(
        &mut self,
        number: u32,
        records: impl IntoIterator<Item = &'r [u8]>,
    ) -> Result<(), WireError> {
        self.section(TAG_NOTICE, |into| {
            into.extend_from_slice(&number.to_le_bytes());
            for record in records {
                into.extend_from_slice(record);
            }
            Ok(())
        })
    }

    pub(crate) fn receipt(&mut self, number: u32) -> Result<(), WireError> {
        self.section(TAG_RECEIPT, |into| {
            into.extend_from_slice(&number.to_le_bytes());
            Ok(())
        })
    }

    pub(crate) fn canary(&mut self, canary: &Canary) -> Result<(), WireError> {
        self.section(TAG_CANARY, |into| put(into, canary))
    }

    /// Padded to one size, so that no answer to a Hello is larger than it.
    pub(crate) fn hello(&mut self, hello: &Hello) -> Result<(), WireError> {
        const HELLO_SECTION_BYTES: usize = 40;
        #[cfg(test)]
        let hello = &Hello { wire: if pretend::is_newer() { pretend::WIRE } else { hello.wire }, ..*hello };
        self.section(TAG_HELLO, |into| {
            let from = into.len();
            put(into, hello)?;
            into.resize((from + HELLO_SECTION_BYTES).max(into.len()), 0);
            Ok(())
        })
    }

    pub(crate) fn refusal(&mut self, refusal: &Refusal) -> Result<(), WireError> {
        self.section(TAG_REFUSAL, |into| put(into, refusal))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let filled = self;
        #[cfg(test)]
        let filled = filled.pretended();
        filled.bytes
    }

    #[cfg(test)]
    fn pretended(mut self) -> Self {
        if pretend::is_newer() && self.bytes[0] <= super::Kind::Hello as u8 {
            // Does not fit into one that is full, which is as well.
            let _ = self.section(pretend::TAG, |into| put(into, &pretend::NEWS));
        }
        self
    }

    fn section(&mut self, tag: u8, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>) -> Result<(), WireError> {
        let start = self.bytes.len();
        let limit = self.room();
        self.bytes.extend_from_slice(&[tag, 0, 0]);
        let filled = fill(&mut self.bytes);
        let bytes = self.bytes.len() - start;
        if filled.is_err() || bytes > limit {
            self.bytes.truncate(start);
            filled?;
            return Err(WireError::TooLarge { what: "section", bytes, limit });
        }
        let len = u16::try_from(bytes - SECTION_HEAD_BYTES).expect("a section is shorter than a datagram");
        self.bytes[start + 1..start + 3].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }
}

// A record that travels inline, with its section, fits a datagram beside the fingerprints and the seal.
const _: () = assert!(
    HEADER_BYTES + SECTION_HEAD_BYTES + 17 + RUMORS_HEAD_BYTES + super::record::RUMOR_BYTES_MAX + SEAL_BYTES
        <= DATAGRAM_BYTES_MAX
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::header::Kind;
    use super::*;
    use crate::peer::{Generation, NodeId};

    fn peer() -> Peer {
        Peer {
            id: NodeId(7),
            addr: "127.0.0.1:7900".parse().expect("an address"),
            generation: Generation::new(9, 2),
            nonce: 11,
        }
    }

    fn header() -> Header {
        Header::new(Kind::Gossip, 1, &peer(), 3)
    }

    #[test]
    fn sections_come_back_as_they_were_written() {
        let swim = SwimSection {
            src_bump: 1,
            src_incarnation: 2,
            dst_nonce: 3,
            dst_bump: 4,
            message: SwimMessage::PingReq { target: peer(), number: 5 },
            updates: vec![SwimUpdate { peer: peer(), incarnation: 6, state: 1 }],
        };
        let fingerprints = Fingerprints { records: 1, members: 2, wants_answer: true, epoch: 0x7f };
        let mut out = Outgoing::new(&header());
        out.swim(&swim).expect("fits");
        out.fingerprints(fingerprints).expect("fits");
        let bytes = out.finish();
        let (_, body) = Header::read(&bytes).expect("a header");
        let read: Vec<_> = Sections::new(body).collect();
        assert_eq!(read, [Ok(Section::Swim(swim)), Ok(Section::Fingerprints(fingerprints))]);
    }

    #[test]
    fn an_unknown_section_is_skipped_and_the_next_is_read() {
        let body = [200, 2, 0, 9, 9, TAG_REFUSAL, 3, 0, 1, 1, 2];
        let read: Vec<_> = Sections::new(&body).collect();
        let refusal = Refusal { reason: RefusalReason::Version, wire: (1, 2) };
        assert_eq!(read, [Ok(Section::Unknown(200)), Ok(Section::Refusal(refusal))]);
    }

    #[test]
    fn a_section_that_does_not_fit_leaves_no_trace() {
        let mut out = Outgoing::new(&header());
        let large = vec![0; DATAGRAM_BYTES_MAX];
        assert!(matches!(out.rumors(0, [&large[..]]), Err(WireError::TooLarge { .. })));
        assert_eq!(out.finish().len(), HEADER_BYTES);
    }

    #[test]
    fn an_answer_to_a_hello_is_never_larger_than_the_hello() {
        let sizes: Vec<_> = ["127.0.0.1:1", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"]
            .map(|addr| {
                let addr = addr.parse().expect("an address");
                let hello = Hello {
                    generation: Generation::new(Epoch::MAX, u16::MAX),
                    addr,
                    wire: (255, 255),
                    cookie: u64::MAX,
                };
                let mut out = Outgoing::new(&header());
                out.hello(&hello).expect("fits");
                out.finish().len()
            })
            .into();
        assert_eq!(sizes[0], sizes[1]);
    }

    proptest! {
        #[test]
        fn any_body_ends_in_sections_or_one_error(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let read: Vec<_> = Sections::new(&body).collect();
            prop_assert!(read.iter().filter(|s| s.is_err()).count() <= 1);
        }

        #[test]
        fn a_mutated_body_never_panics(at in 0usize..64, to in any::<u8>()) {
            let mut out = Outgoing::new(&header());
            out.swim(&SwimSection {
                src_bump: 1, src_incarnation: 2, dst_nonce: 3, dst_bump: 4, message: SwimMessage::Gossip,
                updates: vec![SwimUpdate { peer: peer(), incarnation: 6, state: 1 }; 3],
            }).expect("fits");
            let mut bytes = out.finish();
            let at = (HEADER_BYTES + at).min(bytes.len() - 1);
            bytes[at] = to;
            Sections::new(&bytes[HEADER_BYTES..]).for_each(drop);
        }
    }
}
