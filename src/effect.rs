//! What can happen to a node, and what it wants done: the words between the core and whoever drives it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::peer::{Epoch, Member, MemberState, NodeId, Peer};
use crate::record::{Instance, Key};

/// Something that happens to a node.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Time has passed; see [`Node::next_wake`](crate::node::Node::next_wake). Also the very first input.
    Wake,
    /// A gossip datagram arrived (whole: clear header and opened body).
    Datagram {
        /// The address it came from.
        from: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// Another member asks over an authenticated stream; the answer comes as a [`Reply`] with this token.
    Request {
        /// Who asks: the address of the connection.
        from: SocketAddr,
        /// Names the stream.
        token: u64,
        /// The question.
        bytes: Bytes,
    },
    /// The answer to one of our own [`Request`]s, or that there is none.
    Response {
        /// The token of the request.
        token: u64,
        /// The answer's bytes, or why there is none.
        result: Result<Bytes, StreamFailure>,
    },
    /// The program registers an instance, or replaces the one with the same id.
    Register(Arc<Instance>),
    /// The program withdraws an instance.
    Withdraw(Key),
    /// The addresses to join through, as resolved now; replaces those given before.
    Seeds(Vec<SocketAddr>),
    /// The others reach us at another address from now on.
    Readdress(SocketAddr),
    /// An operator says that a member that cannot be reached is gone: make sure, and tell everybody.
    Forget(NodeId),
    /// The program wants to know how many members know the same: ask them. The answers are in
    /// [`Node::agreement`](crate::node::Node::agreement).
    Survey,
    /// It is time for a canary: make one if it is on this node, so that all see how long news takes. See
    /// [`Node::propagation`](crate::node::Node::propagation).
    Canary,
    /// The program takes no new work: say so of every instance, until everybody who can be reached has confirmed it,
    /// for this long at most. [`Event::Drained`] tells how that went; goodbye is another matter.
    Drain(Duration),
    /// The program leaves: say goodbye to everybody.
    Leave,
}

/// Why a stream brought no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamFailure {
    /// The other side could not be reached, or the connection broke.
    #[error("the connection failed")]
    Connection,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The answer was longer than the limit.
    #[error("the answer was too long")]
    TooLong,
    /// The other side refused, or we had too many requests open.
    #[error("refused")]
    Refused,
}

/// A datagram to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Where to.
    pub to: SocketAddr,
    /// The receiver's nonce, which the seal binds; `None` for a Hello or its answer.
    pub nonce: Option<u64>,
    /// The bytes: clear header and body.
    pub bytes: Vec<u8>,
}

/// A question to be asked over an authenticated stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Names it in the answer.
    pub token: u64,
    /// Whom to ask.
    pub to: Peer,
    /// The question.
    pub bytes: Bytes,
}

/// An answer to another member's question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The token of the [`Input::Request`].
    pub token: u64,
    /// The answer; `None` refuses: close the stream without one.
    pub bytes: Option<Bytes>,
}

/// What a node wants done. The caller passes it in, and finds it complete when `handle` returns.
#[derive(Default, Debug)]
pub struct Outbox {
    /// Datagrams to send, in order.
    pub datagrams: Vec<Datagram>,
    /// Questions to ask over streams.
    pub requests: Vec<Request>,
    /// Answers to give.
    pub replies: Vec<Reply>,
    /// What the program should hear, in order.
    pub events: Vec<Event>,
}

impl Outbox {
    /// Empties it, and keeps its capacity.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.requests.clear();
        self.replies.clear();
        self.events.clear();
    }
}

/// Members of each side of a [`Split`] that are named, the first by name.
pub const SPLIT_NAMES_MAX: usize = 8;

/// Zones of a [`Split`] that are listed, the first by name.
pub const SPLIT_ZONES_MAX: usize = 32;

/// Who is on which side of a suspected split, as this node sees it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Split {
    /// How many members are unreachable.
    pub lost: usize,
    /// How many are not, this node included.
    pub kept: usize,
    /// The names of some of the lost, at most [`SPLIT_NAMES_MAX`], in order; the id of one that has not said its name.
    pub lost_names: Vec<Arc<str>>,
    /// The same of those that are kept, without this node.
    pub kept_names: Vec<Arc<str>>,
    /// How many members of each zone are lost and kept, where zones are known; at most [`SPLIT_ZONES_MAX`].
    pub zones: BTreeMap<Arc<str>, (usize, usize)>,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &[Arc<str>], all: usize| {
            let more = if names.len() < all { ", ..." } else { "" };
            if names.is_empty() { String::new() } else { format!(" ({}{more})", names.join(", ")) }
        };
        let (lost, kept) = (names(&self.lost_names, self.lost), names(&self.kept_names, self.kept.saturating_sub(1)));
        write!(f, "{} members are unreachable{lost}, {} are not{kept}", self.lost, self.kept)?;
        for (index, (zone, (lost, kept))) in self.zones.iter().enumerate() {
            write!(f, "{} {zone} {lost} of {}", if index == 0 { "; lost by zone:" } else { "," }, lost + kept)?;
        }
        Ok(())
    }
}

/// Why an instance is no longer offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoneReason {
    /// Its owner withdrew it.
    Withdrawn,
    /// Its owner said goodbye.
    OwnerLeft,
    /// Its owner is down: the instance is kept and marked until its owner returns or is forgotten.
    OwnerDown,
    /// Its owner restarted and has not registered it again.
    OwnerRestarted,
    /// Its owner was down for so long, or was replaced at its address, that it was forgotten.
    Forgotten,
}

impl GoneReason {
    /// The reason as a word, as it stands in every output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Withdrawn => "withdrawn",
            Self::OwnerLeft => "member_left",
            Self::OwnerDown => "member_down",
            Self::OwnerRestarted => "member_restarted",
            Self::Forgotten => "member_forgotten",
        }
    }
}

/// Something that a program, or the view, should hear. Applied in order to an empty view, the events give the
/// node's whole knowledge.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The node has joined and synced once (or is the first: it has nobody to join).
    Ready,
    /// A member appeared, or came back.
    MemberUp(Arc<Member>),
    /// A member changed what it says of itself, or its state changed without it going away.
    MemberChanged(Arc<Member>),
    /// A member is gone without a word.
    MemberDown(Arc<Member>),
    /// A member said goodbye.
    MemberLeft(Arc<Member>),
    /// A member is no longer remembered.
    MemberForgotten(Arc<Member>),
    /// An instance is offered that was not before.
    ServiceUp {
        /// Who offers it.
        owner: NodeId,
        /// The instance.
        instance: Arc<Instance>,
    },
    /// An instance changed.
    ServiceChanged {
        /// Who offers it.
        owner: NodeId,
        /// What it was; of the same id, perhaps of another service.
        before: Arc<Instance>,
        /// What it is now.
        instance: Arc<Instance>,
    },
    /// An instance is no longer offered; for [`GoneReason::OwnerDown`] it is kept, marked.
    ServiceDown {
        /// Who offered it.
        owner: NodeId,
        /// The instance.
        instance: Arc<Instance>,
        /// Why.
        reason: GoneReason,
    },
    /// So many members are unreachable at once that a split is the likelier story: nobody is taken to be gone while
    /// that lasts. Told again each time that twice as many are.
    PartitionSuspected(Arc<Split>),
    /// That is over.
    PartitionOver,
    /// Nobody answers this node (true): it is the one that is cut off, keeps its view and accuses nobody; or somebody
    /// answers it again (false).
    CutOff(bool),
    /// What became of an [`Input::Forget`].
    Forgetting {
        /// The member.
        id: NodeId,
        /// Whether it is gone now, or why not.
        result: Result<(), NotForgotten>,
    },
    /// Most instances of a service were lost at once, without a word: they are kept as the last known good. The view
    /// finds that, not the node.
    MassDrop {
        /// The service.
        service: Arc<str>,
        /// Instances lost.
        lost: usize,
        /// Instances that are still healthy.
        kept: usize,
    },
    /// That is over: they are back, replaced, or gone for good.
    MassDropOver {
        /// The service.
        service: Arc<str>,
    },
    /// What [`Input::Drain`] wanted is done, or its time is over.
    Drained(Arc<Heard>),
    /// Something that an operator should know; the node goes on.
    Warning(Warning),
    /// The node cannot go on and must be stopped.
    Fatal(Fatal),
}

/// Why a member is not forgotten. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotForgotten {
    /// There is no such member.
    #[error("no member {id} is known")]
    Unknown {
        /// The id.
        id: NodeId,
    },
    /// It is this member itself.
    #[error("a member cannot forget itself; it leaves")]
    Ourselves,
    /// Nobody answers us.
    #[error("nobody answers this member: it may be the one that is cut off")]
    CutOff,
    /// It is not unreachable.
    #[error("it is {state}; only a member that is unreachable can be forgotten")]
    Reachable {
        /// What is believed of it.
        state: MemberState,
    },
    /// It was heard a moment ago.
    #[error("it was heard {ago:.1?} ago: it lives")]
    Heard {
        /// How long ago.
        ago: Duration,
    },
    /// It is gone already.
    #[error("it is {state} already")]
    Gone {
        /// Down or left.
        state: MemberState,
    },
    /// Another member reaches it.
    #[error("it lives: {by} got answers from it")]
    Answers {
        /// Who reaches it.
        by: NodeId,
    },
    /// Too few of those that were asked found it silent.
    #[error("too few others could make sure that it is gone; try again")]
    Undecided,
    /// Too many are being forgotten at once.
    #[error("{limit} members are being forgotten already, which is the limit")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// Who confirmed that they know that this member drains.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Heard {
    /// Members that confirmed it.
    pub confirmed: usize,
    /// Members that did not, by name, then by id.
    pub unconfirmed: Vec<Unconfirmed>,
}

/// A member that did not confirm: it may go on calling this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unconfirmed {
    /// Its name; its id if it never told one.
    pub name: Arc<str>,
    /// Its id.
    pub id: NodeId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Why.
    pub why: WhyUnconfirmed,
}

/// Why a member did not confirm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhyUnconfirmed {
    /// It cannot be reached, as far as is known here: nobody waits for it.
    Unreachable,
    /// It did not say so in time; software older than this never does.
    Silent,
}

impl WhyUnconfirmed {
    /// The reason as a word, as it stands in every output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
        }
    }
}

/// Something that an operator should know. At most one of a kind and sender a minute is told.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// A datagram of another cluster came in.
    #[error("{from} belongs to another cluster (tag {theirs:08x}, ours is {ours:08x})")]
    OtherCluster {
        /// Who sent it.
        from: SocketAddr,
        /// Its cluster's tag.
        theirs: u32,
        /// Our cluster's tag.
        ours: u32,
    },
    /// A member that speaks no common wire version.
    #[error("{from} speaks wire versions {theirs:?}, we speak {ours:?}")]
    WireVersion {
        /// Who sent it.
        from: SocketAddr,
        /// The oldest and newest that it speaks.
        theirs: (u8, u8),
        /// The oldest and newest that we speak.
        ours: (u8, u8),
    },
    /// A live member has our name; both go on, because both were here before they met.
    #[error("the name {name:?} also belongs to the live member {id} at {addr}")]
    DuplicateName {
        /// The name.
        name: Arc<str>,
        /// Who else has it.
        id: NodeId,
        /// Where it listens.
        addr: SocketAddr,
    },
    /// An earlier start of our own id still lives: a copied data directory. It is being told to stop.
    #[error("an earlier process with our id {id} still runs at {addr}; is its data directory a copy?")]
    Cloned {
        /// The id.
        id: NodeId,
        /// Where the other listens.
        addr: SocketAddr,
    },
    /// A sender and we have no cluster key in common, or one of us uses none.
    #[error("{from} and we do not share the cluster key: {problem}")]
    Key {
        /// Who sent it, or says so: addresses of datagrams can be forged.
        from: SocketAddr,
        /// What is wrong.
        problem: KeyProblem,
    },
    /// No seed has answered yet.
    #[error("no answer from {seeds} seed addresses after {tries} tries; going on")]
    NoSeedAnswers {
        /// How many seeds there are.
        seeds: usize,
        /// How often all were tried.
        tries: u32,
    },
    /// The others know a later start of this member than this one: the data directory is an old copy, or the clock
    /// went back. The node goes on under a larger epoch than theirs, which must be kept.
    #[error(
        "others know start {known} of this member, later than ours: an old data directory? Going on as start {taken}"
    )]
    OlderThanPeers {
        /// The epoch that they know.
        known: Epoch,
        /// The epoch that this start has now.
        taken: Epoch,
    },
}

/// Why a datagram could not be taken for that of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyProblem {
    /// It is sealed with a key that we do not have.
    #[error("its datagram is sealed with key {id}, which we do not have")]
    Unknown {
        /// The id of its key.
        id: u8,
    },
    /// It says to be sealed with a key that we have, and is not, or for another cluster's name.
    #[error("its datagram names our key {id} and cannot be opened with it")]
    DoesNotOpen {
        /// The id of the key.
        id: u8,
    },
    /// It is sealed, and we have no key at all.
    #[error("its datagram is sealed with key {id}, and we have none")]
    NoKey {
        /// The id of its key.
        id: u8,
    },
    /// It is in clear, and we have a key.
    #[error("its datagram is not sealed")]
    Clear,
    /// It says that it could not open ours.
    #[error("it could not open our datagram")]
    Refused,
}

/// Why a node cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// Another live process has our id and the better claim to it: a copied data directory.
    #[error("another process at {addr} has our id {id} and started later; is this data directory a copy?")]
    Cloned {
        /// The id.
        id: NodeId,
        /// Where the other listens.
        addr: SocketAddr,
    },
    /// The others called this start dead so often that it has no further life to begin: start the process again.
    #[error("called dead {renewals} times since this start; a new start is needed")]
    WornOut {
        /// How often it was renewed.
        renewals: u16,
    },
    /// A live member had our name when we joined.
    #[error("the name {name:?} belongs to the live member {id} at {addr}")]
    DuplicateName {
        /// The name.
        name: Arc<str>,
        /// Who has it.
        id: NodeId,
        /// Where it listens.
        addr: SocketAddr,
    },
}

/// Why an input was not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The bytes could not be read; counted, nothing else changed.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The bytes were readable but not for us or not from anybody we know; counted, nothing else changed.
    #[error("not accepted: {0}")]
    NotAccepted(&'static str),
    /// The record is larger than the limit; nothing changed.
    #[error("the record has {bytes} bytes, the limit is {limit}")]
    RecordTooLarge {
        /// Its size when encoded.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There are too many records; nothing changed.
    #[error("{count} records, the limit is {limit}")]
    TooManyRecords {
        /// How many there would be.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// Changes come faster than the limit; nothing changed, try again later.
    #[error("more than {limit} changes a second")]
    TooManyChanges {
        /// The limit.
        limit: u32,
    },
    /// There is no such instance; nothing changed.
    #[error("no instance {0} is registered here")]
    UnknownInstance(Key),
    /// A member is not forgotten; nothing changed.
    #[error(transparent)]
    NotForgotten(NotForgotten),
    /// The node is draining: its instances take nothing new, and no others are offered.
    #[error("the member is draining and offers nothing new")]
    Draining,
    /// The node has left.
    #[error("the node has left the cluster")]
    HasLeft,
    /// A bug in the membership protocol's integration; live it is logged and counted, the simulator stops.
    #[error("bug: {0}")]
    Bug(&'static str),
}
