//! What happened to a node, written down so that it can be told again: every input with its time, and a hash over what
//! came of it. Equal inputs give equal outputs, so a recording of a live member replays bit for bit in the simulator.
//!
//! Whoever drives a node calls [`begin`] with what it is born with, then for each input [`before`] and [`after`], and
//! at last [`end`]; each gives bytes for the file. [`Replay`] reads them.
//!
//! Inputs are taken after the seal is opened, and keys never reach a node: none is in a recording. All that members
//! say of their services is.

use std::fmt::{self, Write as _};
use std::io::{self, Read};
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use crate::effect::{Datagram, Input, InputError, Outbox, Reply, Request};
use crate::knobs::{self, KNOBS, KnobError, Value};
use crate::node::{Config, Node, Tuning};
use crate::peer::NodeId;
use crate::time::Time;
use crate::wire::{
    Birth, RECORDED_HEAD_BYTES, RECORDING_MAGIC, Recorded, RecordedInput, WireError, decode_recorded, encode_recorded,
    recorded_head,
};

/// The version of this program, and a hash over the source of its core: recordings replay on the build that made them.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("TIDINGS_CORE_HASH"));

/// Why a recording ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// The member stopped.
    Stopped,
    /// The member panicked: so will the replay, at the last input.
    Panicked,
    /// The next input would have been above the size limit.
    SizeLimit,
    /// The disk was slower than the inputs came.
    Overflow,
    /// An input could not be written down.
    Unwritable,
}

impl EndReason {
    const ALL: [Self; 5] = [Self::Stopped, Self::Panicked, Self::SizeLimit, Self::Overflow, Self::Unwritable];
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "the member stopped",
            Self::Panicked => "the member panicked",
            Self::SizeLimit => "the size limit of the recording was reached",
            Self::Overflow => "the disk was slower than the inputs came",
            Self::Unwritable => "an input could not be written down",
        })
    }
}

/// How a recording begins: what [`Node::new`] was called with.
///
/// # Errors
/// [`WireError`] when there are more addresses than fit.
pub fn begin(config: &Config, now: Time) -> Result<Vec<u8>, WireError> {
    // Taken apart, so that a new field of `Config` cannot be forgotten here.
    let Config { cluster, name, zone, addr, id, epoch, nonce, seed, seeds, must_join, remembered, tuning } =
        config.clone();
    let settings = KNOBS.iter().map(|knob| (knob.name.to_owned(), bits(knob.value(&tuning)))).collect();
    let birth = Birth {
        build: BUILD.to_owned(),
        cluster,
        name,
        zone,
        addr,
        id: id.0,
        epoch,
        nonce,
        seed,
        seeds,
        must_join,
        remembered,
        settings,
        started: now.as_nanos(),
    };
    let mut bytes = RECORDING_MAGIC.to_vec();
    bytes.extend(encode_recorded(&Recorded::Birth(birth))?);
    Ok(bytes)
}

/// An input that is about to be handed to the node.
///
/// # Errors
/// [`WireError`] when it has no form within the limit.
pub fn before(now: Time, input: &Input<'_>) -> Result<Vec<u8>, WireError> {
    encode_recorded(&Recorded::Input { at: now.as_nanos(), input: RecordedInput::new(input)? })
}

/// What came of it.
pub fn after(result: &Result<(), InputError>, out: &Outbox) -> Vec<u8> {
    encode_recorded(&Recorded::Outcome(outcome(result, out))).expect("a number has a form")
}

/// How a recording ends.
pub fn end(reason: EndReason) -> Vec<u8> {
    let number = EndReason::ALL.iter().position(|known| *known == reason).expect("the list has every reason");
    encode_recorded(&Recorded::End(number as u8)).expect("a number has a form")
}

/// The hash over all that an input led to. Events count with their texts, which say everything about them.
fn outcome(result: &Result<(), InputError>, out: &Outbox) -> u64 {
    let mut hash = Hasher(Xxh3::new());
    if let Err(error) = result {
        hash.text(format_args!("{error:?}"));
    }
    for Datagram { to, nonce, bytes } in &out.datagrams {
        hash.text(format_args!("datagram {to} {nonce:?} {}", bytes.len()));
        hash.0.update(bytes);
    }
    for Request { token, to, bytes } in &out.requests {
        hash.text(format_args!("request {token} {to:?} {}", bytes.len()));
        hash.0.update(bytes);
    }
    for Reply { token, bytes } in &out.replies {
        let len = bytes.as_ref().map(bytes::Bytes::len);
        hash.text(format_args!("reply {token} {len:?}"));
        hash.0.update(bytes.as_deref().unwrap_or_default());
    }
    for event in &out.events {
        hash.text(format_args!("{event:?}"));
    }
    hash.0.digest()
}

struct Hasher(Xxh3);

impl Hasher {
    fn text(&mut self, text: fmt::Arguments<'_>) {
        self.write_fmt(text).expect("hashing does not fail");
        self.0.update(b"\n");
    }
}

impl fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

fn bits(value: Value) -> u64 {
    match value {
        Value::Span(span) => u64::try_from(span.as_nanos()).unwrap_or(u64::MAX),
        Value::Count(count) => count as u64,
    }
}

fn value(kind: Value, bits: u64) -> Value {
    match kind {
        Value::Span(_) => Value::Span(Duration::from_nanos(bits)),
        Value::Count(_) => Value::Count(usize::try_from(bits).unwrap_or(usize::MAX)),
    }
}

/// Why a recording cannot be read, or not on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The file could not be read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The file is something else.
    #[error("this is no recording of a member")]
    NotOne,
    /// Another version of the format.
    #[error("the recording has format {found}, this version reads {}", RECORDING_MAGIC[7])]
    Format {
        /// Its format.
        found: u8,
    },
    /// A frame is damaged.
    #[error("the recording is damaged at byte {at}: {what}")]
    Damaged {
        /// Where the frame begins.
        at: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A setting that this build does not have, or not so.
    #[error("the member's settings are not those of this build: {0}")]
    Setting(#[from] KnobError),
}

/// A recording, told again to a node of its own.
#[derive(Debug)]
pub struct Replay<R> {
    source: R,
    read: u64,
    /// Who made the recording, see [`BUILD`].
    pub build: String,
    /// What the node was born with.
    pub config: Config,
    /// When.
    pub started: Time,
    node: Node,
    out: Outbox,
    inputs: u64,
    /// A frame that was read too early.
    ahead: Option<(u64, Recorded)>,
}

/// One input, told again.
#[derive(Debug)]
pub struct Retold<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// When.
    pub now: Time,
    /// What happened.
    pub input: Input<'a>,
    /// What the node said to it.
    pub result: Result<(), InputError>,
    /// What it wants done.
    pub out: &'a Outbox,
    /// Whether it was so then; `None` if the recording breaks off before it says.
    pub is_equal: Option<bool>,
}

/// What comes next in a recording.
#[derive(Debug)]
pub enum Next<T> {
    /// An input.
    Input(T),
    /// Its end, and why; `None` if it breaks off: the process was killed, or still writes.
    End(Option<EndReason>),
}

impl<R: Read> Replay<R> {
    /// Reads the beginning of a recording and makes its node.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn open(mut source: R) -> Result<Self, RecordingError> {
        let mut magic = [0; RECORDING_MAGIC.len()];
        if read_full(&mut source, &mut magic)? < magic.len() || magic[..7] != RECORDING_MAGIC[..7] {
            return Err(RecordingError::NotOne);
        }
        if magic != RECORDING_MAGIC {
            return Err(RecordingError::Format { found: magic[7] });
        }
        let mut read = magic.len() as u64;
        let damaged = |what: &str| RecordingError::Damaged { at: RECORDING_MAGIC.len() as u64, what: what.to_owned() };
        let Some((_, Recorded::Birth(birth))) = next_frame(&mut source, &mut read)? else {
            return Err(damaged("it does not say what the member was born with"));
        };
        let mut tuning = Tuning::default();
        for (name, bits) in &birth.settings {
            let knob = knobs::knob(name)?;
            knob.set(&mut tuning, value(knob.range.0, *bits))?;
        }
        let config = Config {
            cluster: birth.cluster,
            name: birth.name,
            zone: birth.zone,
            addr: birth.addr,
            id: NodeId(birth.id),
            epoch: birth.epoch,
            nonce: birth.nonce,
            seed: birth.seed,
            seeds: birth.seeds,
            must_join: birth.must_join,
            remembered: birth.remembered,
            tuning,
        };
        let started = Time::from_nanos(birth.started);
        let node = Node::new(config.clone(), started);
        let out = Outbox::default();
        Ok(Self { source, read, build: birth.build, config, started, node, out, inputs: 0, ahead: None })
    }

    /// The node as it is now.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// When the next input is due, without telling it; `None` at the end.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn peek(&mut self) -> Result<Option<Time>, RecordingError> {
        if self.ahead.is_none() {
            self.ahead = next_frame(&mut self.source, &mut self.read)?;
        }
        Ok(match &self.ahead {
            Some((_, Recorded::Input { at, .. })) => Some(Time::from_nanos(*at)),
            _ => None,
        })
    }

    /// Tells the next input to the node, and gives `look` what came of it.
    ///
    /// # Errors
    /// See [`RecordingError`]; what is damaged is the input, which the node was not told, or what came of it.
    pub fn tell<T>(&mut self, look: impl FnOnce(Retold<'_>, &Node) -> T) -> Result<Next<T>, RecordingError> {
        self.peek()?;
        let (at, now, recorded) = match self.ahead.take() {
            Some((at, Recorded::Input { at: now, input })) => (at, Time::from_nanos(now), input),
            Some((_, Recorded::End(number))) => {
                return Ok(Next::End(EndReason::ALL.get(usize::from(number)).copied()));
            }
            None => return Ok(Next::End(None)),
            Some((at, _)) => return Err(RecordingError::Damaged { at, what: "an input was expected".to_owned() }),
        };
        let damaged = |error: WireError| RecordingError::Damaged { at, what: error.to_string() };
        let input = recorded.input().map_err(damaged)?;
        self.inputs += 1;
        self.out.clear();
        let result = self.node.handle(now, input.clone(), &mut self.out);
        let then = match next_frame(&mut self.source, &mut self.read)? {
            Some((_, Recorded::Outcome(hash))) => Some(hash),
            other => {
                self.ahead = other;
                None
            }
        };
        let is_equal = then.map(|then| then == outcome(&result, &self.out));
        let retold = Retold { number: self.inputs, now, input, result, out: &self.out, is_equal };
        Ok(Next::Input(look(retold, &self.node)))
    }
}

/// The next whole frame and where it begins; `None` where the recording ends or breaks off.
fn next_frame(source: &mut impl Read, read: &mut u64) -> Result<Option<(u64, Recorded)>, RecordingError> {
    let at = *read;
    let damaged = |what: String| RecordingError::Damaged { at, what };
    let mut head = [0; RECORDED_HEAD_BYTES];
    if read_full(source, &mut head)? < head.len() {
        return Ok(None);
    }
    let (len, hash) = recorded_head(head).map_err(|error| damaged(error.to_string()))?;
    let mut bytes = vec![0; len];
    if read_full(source, &mut bytes)? < len {
        return Ok(None);
    }
    *read += (head.len() + len) as u64;
    match decode_recorded(&bytes, hash) {
        Ok(Some(frame)) => Ok(Some((at, frame))),
        Ok(None) => Err(damaged("its hash is another".to_owned())),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// Reads until `into` is full or the source ends; gives how much.
fn read_full(source: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < into.len() {
        match source.read(&mut into[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
