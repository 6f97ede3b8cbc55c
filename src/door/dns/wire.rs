//! Bytes of questions and answers. Knows the format (RFC 1035, RFC 6891), and nothing of what is asked.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};

/// Bytes of a question; longer ones are none.
pub const QUESTION_BYTES_MAX: usize = 4_096;

const HEADER_BYTES: usize = 12;

/// Bytes of an OPT record without options.
const OPT_BYTES: u16 = 11;

/// Bits of the header's third and fourth byte.
const IS_ANSWER: u8 = 0x80;
const OPCODE: u8 = 0x78;
const IS_OURS: u8 = 0x04;
const IS_CUT: u8 = 0x02;
const WANTS_RECURSION: u8 = 0x01;
const CHECKING_DISABLED: u8 = 0x10;

/// A question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Question {
    id: [u8; 2],
    /// What is repeated of its flags.
    flags: [u8; 2],
    query: Query,
    pub(super) edns: Option<Edns>,
}

/// What it says of itself in an OPT record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Edns {
    pub(super) version: u8,
    payload: u16,
    wants_dnssec: bool,
}

impl Question {
    pub(super) fn name(&self) -> &Name {
        &self.query.name
    }

    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type
    }

    pub(super) fn is_internet(&self) -> bool {
        self.query.query_class == DNSClass::IN
    }

    /// Bytes that its answer over UDP may have.
    pub(super) fn room(&self, most: u16) -> u16 {
        self.edns.map_or(512, |edns| edns.payload.max(512)).min(most)
    }
}

/// What bytes are.
pub(super) enum Read {
    Question(Box<Question>),
    /// No question; whoever sent it may be told so.
    Wrong(ResponseCode),
    /// Nothing to be answered at all: an answer, which could go round for ever, or not even a header.
    Nothing,
}

pub(super) fn read(bytes: &[u8]) -> Read {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Read::Nothing };
    if header[2] & IS_ANSWER != 0 {
        return Read::Nothing;
    }
    if header[2] & OPCODE != 0 {
        return Read::Wrong(ResponseCode::NotImp);
    }
    // Before anything is allocated for as many as it says. RFC 9619: it is always one.
    if header[4..6] != [0, 1] || bytes.len() > QUESTION_BYTES_MAX {
        return Read::Wrong(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(bytes) else { return Read::Wrong(ResponseCode::FormErr) };
    let Message { mut queries, edns, .. } = message;
    let Some(query) = queries.pop() else { return Read::Wrong(ResponseCode::FormErr) };
    let edns = edns.map(|edns| Edns {
        version: edns.version(),
        payload: edns.max_payload(),
        wants_dnssec: edns.flags().dnssec_ok,
    });
    let flags = [header[2] & WANTS_RECURSION, header[3] & CHECKING_DISABLED];
    Read::Question(Box::new(Question { id: [header[0], header[1]], flags, query, edns }))
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    /// Whether it is about a domain of ours.
    pub(super) is_ours: bool,
    /// Whether something is left out already.
    pub(super) is_cut: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authority: Vec<Record>,
    pub(super) additional: Vec<Record>,
}

impl Reply {
    pub(super) fn new(code: ResponseCode) -> Self {
        Self { code, is_ours: false, is_cut: false, answers: Vec::new(), authority: Vec::new(), additional: Vec::new() }
    }
}

/// Writes an answer of at most `room` bytes into `out`. What has no room is left out, first what is additional, then
/// answers; only then it says that it is cut (RFC 2181 section 9). Gives whether it says so.
pub(super) fn write(question: &Question, reply: &Reply, room: u16, payload: u16, out: &mut Vec<u8>) -> bool {
    out.clear();
    let mut counts = [1, 0, 0, 0];
    let mut is_cut = reply.is_cut;
    let opt = if question.edns.is_some() { OPT_BYTES } else { 0 };
    {
        let mut encoder = BinEncoder::new(out);
        encoder.set_max_size(room - opt);
        // Both have room wherever 512 bytes are.
        let _ = encoder.emit_vec(&[0; HEADER_BYTES]);
        let _ = question.query.emit(&mut encoder);
        let all = reply.answers.len();
        counts[1] = emit(&mut encoder, &reply.answers);
        is_cut |= counts[1] < all;
        if !is_cut {
            counts[2] = emit(&mut encoder, &reply.authority);
            counts[3] = emit(&mut encoder, &reply.additional);
        }
        encoder.trim();
    }
    if let Some(edns) = question.edns {
        write_opt(edns, reply.code, payload, out);
        counts[3] += 1;
    }
    let [first, second] = question.flags;
    let flags = IS_ANSWER | if reply.is_ours { IS_OURS } else { 0 } | if is_cut { IS_CUT } else { 0 } | first;
    out[..2].copy_from_slice(&question.id);
    out[2..4].copy_from_slice(&[flags, second | reply.code.low()]);
    for (count, place) in counts.iter().zip(out[4..HEADER_BYTES].chunks_exact_mut(2)) {
        // No message of 64 KiB holds more records than fit in here.
        place.copy_from_slice(&u16::try_from(*count).unwrap_or(u16::MAX).to_be_bytes());
    }
    is_cut
}

/// Writes records as long as there is room, and gives how many it were.
fn emit(encoder: &mut BinEncoder<'_>, records: &[Record]) -> usize {
    for (count, record) in records.iter().enumerate() {
        let before = encoder.offset();
        if record.emit(encoder).is_err() {
            encoder.set_offset(before);
            encoder.trim();
            return count;
        }
    }
    records.len()
}

fn write_opt(edns: Edns, code: ResponseCode, payload: u16, out: &mut Vec<u8>) {
    // The root, type 41, and the version that we know, 0.
    out.extend([0, 0, 41]);
    out.extend(payload.to_be_bytes());
    out.extend([code.high(), 0, if edns.wants_dnssec { 0x80 } else { 0 }, 0, 0, 0]);
}

/// Writes an answer that repeats nothing of the question but its number: as long as the shortest question.
pub(super) fn refuse(question: &[u8], code: ResponseCode, out: &mut Vec<u8>) {
    out.clear();
    let Some([a, b, first, second]) = question.first_chunk::<4>() else { return };
    out.extend([*a, *b, IS_ANSWER | (first & (OPCODE | WANTS_RECURSION)), (second & CHECKING_DISABLED) | code.low()]);
    out.extend([0; 8]);
}
