//! The seal of datagrams: nobody without a cluster key can read, make, change, or send again what members say to each
//! other. Knows neither sockets nor the node.
//!
//! A sealed datagram is the clear header, whose `key` field names the cluster key, and the body under an AEAD
//! ([`CIPHER_NAME`]), which makes it 16 bytes longer: with the header, 45 bytes are not the sender's words.
//!
//! - **Key**: HKDF-SHA256 (RFC 5869) of the cluster key; salt `tidings seal 1`; info `tidings seal v1`, then the
//!   sender's id and nonce, each as 8 bytes little endian. A nonce is 64 random bits of a start, so each start of each
//!   member has a key of its own.
//! - **Nonce**: four zero bytes, then the header's counter as 8 bytes big endian. It never repeats under one key: a
//!   counter that does not grow is not sealed.
//! - **Associated data**: the header; the length of the cluster's name in one byte, and the name; the receiver's nonce
//!   in 8 bytes little endian, 0 for a Hello and its answer. So a datagram opens at one start of one receiver.
//!
//! A datagram sent again to the same receiver is caught by a window of counters for each sender that the node knows,
//! and by the newest counter of every other start that spoke to us: strangers, of which the node takes nothing yet, and
//! starts that are over. A start that the node knows again goes on where it ended. A **Hello** and its
//! answer are for whoever listens at an address, so they can be sent again, elsewhere: a Hello changes nothing but
//! that it is answered with as many bytes, and an answer that was not asked for is dropped by the node.
//!
//! What was not opened leaves nothing behind but a count.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound::{Excluded, Unbounded};

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

use super::keys::{ClusterKey, KeyId, Keyring};
use crate::effect::KeyProblem;
use crate::pace::Allowance;
use crate::peer::{NodeId, Peer};
use crate::time::Time;
use crate::wire::{
    DATAGRAM_BYTES_MAX, HEADER_BYTES, Header, Kind, Outgoing, Refusal, RefusalReason, SEAL_BYTES, WIRE_NEWEST,
    WIRE_OLDEST, cluster_tag,
};

/// Senders whose keys and windows are remembered: more than a cluster can have members. For one more, one that was
/// not heard of late is forgotten.
pub const SESSIONS_MAX: usize = 32_768;

/// Starts that the node does not know, or not any more, whose newest counter is remembered; for one more, the oldest
/// is forgotten.
pub const STARTS_MAX: usize = 32_768;

/// How far behind the newest datagram of a sender one may arrive, counted in datagrams that the sender sent to
/// anybody; what is later is dropped like a repeat.
pub const WINDOW: u64 = 1_024;

/// Refusals sent in a second, for want of a common key; further ones are not sent and counted.
pub const KEY_REFUSALS_PER_SECOND: u32 = 20;

/// The AEAD of wire version 1, by its name in RFC 5116.
pub const CIPHER_NAME: &str = "AEAD_AES_256_GCM";

static CIPHER: &aead::Algorithm = &aead::AES_256_GCM;

/// What a member that has a key does with datagrams in clear.
///
/// A cluster without a key gets one without a gap in three rounds, each through all members:
/// 1. start with the key and [`AcceptAndSend`](Self::AcceptAndSend): sealed datagrams can be opened from now on;
/// 2. start with the key and [`Accept`](Self::Accept): what is sent is sealed from now on;
/// 3. start with the key alone.
///
/// Until the third round is over, anybody can still send datagrams in clear. [`SealStats::opened_clear`] that no longer
/// grows says that a round is over.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Plaintext {
    /// Refuses them, and sends none.
    #[default]
    Refuse,
    /// Accepts them, and sends none.
    Accept,
    /// Accepts them, and sends nothing else.
    AcceptAndSend,
}

impl Plaintext {
    pub(crate) const fn is_accepted(self) -> bool {
        !matches!(self, Self::Refuse)
    }
}

macro_rules! seal_stats {
    ($($(#[$doc:meta])+ $name:ident => $told:literal,)+) => {
        /// What a seal has counted since the start.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        #[non_exhaustive]
        pub struct SealStats {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl SealStats {
            /// Every figure and its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$(($told, self.$name)),+].into_iter()
            }
        }
    };
}

seal_stats! {
    /// Datagrams sealed.
    sealed => "seal_sealed",
    /// Datagrams sent in clear though we have a key; see [`Plaintext`].
    sent_clear => "seal_sent_clear",
    /// Datagrams not sent, because their counter would have repeated a nonce: a bug.
    not_sealed => "seal_not_sealed",
    /// Datagrams opened.
    opened => "seal_opened",
    /// Of these, datagrams sealed with another key than the one that we use.
    opened_other_key => "seal_opened_other_key",
    /// Datagrams accepted in clear though we have a key; see [`Plaintext`].
    opened_clear => "seal_opened_clear",
    /// Datagrams in clear that were refused.
    refused_clear => "seal_refused_clear",
    /// Datagrams refused because they name a key that we do not have.
    refused_unknown_key => "seal_refused_unknown_key",
    /// Datagrams refused because they did not open: forged, changed, for another start or another cluster.
    refused_forged => "seal_refused_forged",
    /// Datagrams dropped because they came before, or too late to tell.
    refused_repeats => "seal_refused_repeats",
    /// Datagrams dropped because they were too short or too long to be any.
    refused_malformed => "seal_refused_malformed",
    /// Refusals sent.
    refusals_sent => "seal_refusals_sent",
    /// Refusals not sent, because of the limit on them.
    refusals_limited => "seal_refusals_limited",
    /// Senders whose keys and windows are remembered now.
    sessions => "seal_sessions",
    /// Other starts whose newest counter is remembered now.
    other_starts => "seal_other_starts",
    /// Senders forgotten to make room.
    sessions_evicted => "seal_sessions_evicted",
}

/// Why a datagram was not sealed, and must not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Its counter is not above the one before: its nonce would repeat.
    #[error("bug: datagram {counter} after datagram {last}")]
    Counter {
        /// Its counter.
        counter: u64,
        /// The last one that was sealed.
        last: u64,
    },
    /// It is not a datagram of this member.
    #[error("bug: not a datagram of this member")]
    NotOurs,
}

/// Why a datagram was not opened. Its body may have been overwritten; nothing else changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Who sent it and we have no key in common.
    #[error("no common key: {problem}")]
    Key {
        /// In which way.
        problem: KeyProblem,
        /// Whether it asks who we are: then its sender deserves to be told. What is sealed for an earlier start of
        /// ours does not open either, and that is nobody's mistake.
        is_hello: bool,
    },
    /// It came before, or too late to tell.
    #[error("a repeat")]
    Repeat,
    /// Too short or too long.
    #[error("{bytes} bytes, a datagram has {HEADER_BYTES} to {DATAGRAM_BYTES_MAX}")]
    Malformed {
        /// How many it has.
        bytes: usize,
    },
}

/// A datagram that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened<'a> {
    /// Header and body in clear. Of another cluster or wire version, and so not opened: the header alone.
    pub bytes: &'a [u8],
    /// It was sealed with a key of our ring that is not the one we use: its sender may not know of a rotation, or we.
    pub is_other_key: bool,
}

/// Seals what one start of a member sends, and opens what it receives.
pub struct Seal {
    cluster: u32,
    me: Start,
    keys: Option<Keys>,
    plaintext: Plaintext,
    sessions: BTreeMap<NodeId, Box<Session>>,
    /// Where the search for a sender to forget goes on.
    hand: NodeId,
    others: Others,
    aad: Bound,
    last_counter: u64,
    refusals: Allowance,
    stats: SealStats,
}

impl Seal {
    /// The seal of `me` in the cluster named `cluster`. Without a ring everything is in clear.
    pub fn new(cluster: &str, me: &Peer, ring: Option<&Keyring>, plaintext: Plaintext, now: Time) -> Self {
        let mut seal = Self {
            cluster: cluster_tag(cluster),
            me: Start::of(me),
            keys: None,
            plaintext,
            sessions: BTreeMap::new(),
            hand: NodeId(0),
            others: Others::default(),
            aad: Bound::new(cluster),
            last_counter: 0,
            refusals: Allowance::new(KEY_REFUSALS_PER_SECOND, KEY_REFUSALS_PER_SECOND, now),
            stats: SealStats::default(),
        };
        if let Some(ring) = ring {
            seal.set_keys(ring);
        }
        seal
    }

    /// Takes another ring. Windows stay: a repeat is one whatever key sealed it.
    pub fn set_keys(&mut self, ring: &Keyring) {
        self.keys = Some(Keys::new(ring, &self.me));
    }

    /// Seals a datagram of ours in place, for the receiver with this nonce; `None` for a Hello or its answer. Refusals
    /// stay in clear, and everything does without a key.
    ///
    /// # Errors
    /// See [`SealError`]: bugs, all of them. Then the datagram must not be sent.
    pub fn seal(&mut self, nonce: Option<u64>, datagram: &mut Vec<u8>) -> Result<(), SealError> {
        if self.keys.is_none() {
            return Ok(());
        }
        let header = Header::read(datagram).map(|(header, _)| header);
        let header = header.ok().filter(|header| Start::from(header) == self.me).ok_or_else(|| {
            self.stats.not_sealed += 1;
            SealError::NotOurs
        })?;
        if header.kind == Kind::Refusal {
            return Ok(());
        }
        if self.plaintext == Plaintext::AcceptAndSend {
            self.stats.sent_clear += 1;
            return Ok(());
        }
        if header.counter <= self.last_counter {
            self.stats.not_sealed += 1;
            return Err(SealError::Counter { counter: header.counter, last: self.last_counter });
        }
        self.last_counter = header.counter;
        let keys = self.keys.as_ref().expect("looked at above");
        datagram[Header::KEY_AT] = keys.in_use;
        let (head, body) = datagram.split_first_chunk_mut::<HEADER_BYTES>().expect("its header was read");
        let aad = self.aad.of(head, nonce.unwrap_or(0));
        let tag = keys
            .own
            .seal_in_place_separate_tag(nonce_of(header.counter), aad, body)
            .expect("a datagram is far below what the cipher can seal");
        datagram.extend_from_slice(tag.as_ref());
        self.stats.sealed += 1;
        Ok(())
    }

    /// Opens a datagram in place. `known` gives the nonce of the start of a member that the node takes gossip from: of
    /// that one what comes late opens too, within [`WINDOW`]. Of any other start gossip opens that is newer than what
    /// it sent before: the node asks who that is, and takes nothing else.
    ///
    /// # Errors
    /// See [`OpenError`]; counted, nothing else changed.
    pub fn open<'a>(
        &mut self,
        datagram: &'a mut [u8],
        known: impl FnOnce(NodeId) -> Option<u64>,
    ) -> Result<Opened<'a>, OpenError> {
        let bytes = datagram.len();
        if !(HEADER_BYTES..=DATAGRAM_BYTES_MAX).contains(&bytes) {
            self.stats.refused_malformed += 1;
            return Err(OpenError::Malformed { bytes });
        }
        let clear = |bytes| Ok(Opened { bytes, is_other_key: false });
        let header = match Header::read(datagram) {
            Ok((header, _)) if header.kind != Kind::Refusal => header,
            // The node counts what it cannot read, and refusals are in clear.
            _ => return clear(datagram),
        };
        if header.cluster != self.cluster || !header.is_spoken() {
            // The node says so to both sides, from the header alone.
            return clear(&datagram[..HEADER_BYTES]);
        }
        if header.key == 0 {
            return self.accept_clear(&header).and_then(|()| clear(datagram));
        }
        let is_known = known(header.sender) == Some(header.nonce);
        let opened = self.unseal(&header, is_known, datagram);
        match opened {
            Ok(is_other_key) => {
                self.stats.opened += 1;
                self.stats.opened_other_key += u64::from(is_other_key);
                Ok(Opened { bytes: &datagram[..bytes - SEAL_BYTES], is_other_key })
            }
            Err(error) => {
                self.count(error);
                Err(error)
            }
        }
    }

    /// A refusal in clear for want of a common key; `None` when enough were sent of late.
    pub fn refusal(&mut self, me: &Peer, now: Time) -> Option<Vec<u8>> {
        if !self.refusals.take(now) {
            self.stats.refusals_limited += 1;
            return None;
        }
        self.stats.refusals_sent += 1;
        let mut filling = Outgoing::new(&Header::new(Kind::Refusal, self.cluster, me, 0));
        let refusal = Refusal { reason: RefusalReason::Key, wire: (WIRE_OLDEST, WIRE_NEWEST) };
        filling.refusal(&refusal).expect("a refusal fits a datagram");
        Some(filling.finish())
    }

    /// Forgets a member that the node has forgotten. What it sent so far stays known as a repeat.
    pub fn forget(&mut self, id: NodeId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.others.note(session.start.nonce, session.window.newest);
        }
    }

    /// What was counted so far.
    pub fn stats(&self) -> SealStats {
        let (sessions, other_starts) = (self.sessions.len() as u64, self.others.newest.len() as u64);
        SealStats { sessions, other_starts, ..self.stats }
    }

    fn accept_clear(&mut self, header: &Header) -> Result<(), OpenError> {
        if self.keys.is_none() {
            return Ok(());
        }
        if self.plaintext.is_accepted() {
            self.stats.opened_clear += 1;
            return Ok(());
        }
        self.stats.refused_clear += 1;
        Err(OpenError::Key { problem: KeyProblem::Clear, is_hello: header.kind == Kind::Hello })
    }

    /// Opens the body in place; gives whether another key than the one in use sealed it.
    fn unseal(&mut self, header: &Header, is_known: bool, datagram: &mut [u8]) -> Result<bool, OpenError> {
        let is_hello = header.kind == Kind::Hello;
        let id = header.key;
        let Some(keys) = &self.keys else {
            return Err(OpenError::Key { problem: KeyProblem::NoKey { id }, is_hello });
        };
        let Some(key) = keys.find(id) else {
            return Err(OpenError::Key { problem: KeyProblem::Unknown { id }, is_hello });
        };
        if datagram.len() < HEADER_BYTES + SEAL_BYTES {
            return Err(OpenError::Malformed { bytes: datagram.len() });
        }
        let start = Start::from(header);
        let is_gossip = header.kind == Kind::Gossip;
        let session = self.sessions.get_mut(&header.sender);
        let same = session.as_ref().filter(|session| session.start == start);
        if same.is_some_and(|session| !session.window.is_new(header.counter)) {
            return Err(OpenError::Repeat);
        }
        let newest = self.others.newest(header.nonce);
        if same.is_none() && newest.is_some_and(|newest| header.counter <= newest) {
            return Err(OpenError::Repeat);
        }
        let (head, body) = datagram.split_first_chunk_mut::<HEADER_BYTES>().expect("longer than a header");
        let aad = self.aad.of(head, if is_gossip { self.me.nonce } else { 0 });
        let nonce = nonce_of(header.counter);
        let forged = |_| OpenError::Key { problem: KeyProblem::DoesNotOpen { id }, is_hello };
        let is_other_key = id != keys.in_use;
        let fresh = match session {
            Some(session) if session.start == start && session.fingerprint == key.fingerprint => {
                session.key.open_in_place(nonce, aad, body).map_err(forged)?;
                session.window.note(header.counter);
                session.was_heard = true;
                return Ok(is_other_key);
            }
            Some(session) if session.start == start => {
                let opener = key.opener(&start);
                opener.open_in_place(nonce, aad, body).map_err(forged)?;
                (session.key, session.fingerprint) = (opener, key.fingerprint);
                session.window.note(header.counter);
                return Ok(is_other_key);
            }
            _ => {
                let opener = key.opener(&start);
                opener.open_in_place(nonce, aad, body).map_err(forged)?;
                // Only who knows our nonce has proven to speak to us, now; a Hello may be an old one.
                is_gossip.then(|| Session::new(start, opener, key.fingerprint, newest, header.counter))
            }
        };
        match fresh {
            Some(session) if is_known => self.remember(header.sender, session),
            Some(_) => self.others.note(header.nonce, header.counter),
            None => {}
        }
        Ok(is_other_key)
    }

    fn remember(&mut self, id: NodeId, session: Session) {
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&id) {
            self.evict();
        }
        self.others.take(session.start.nonce);
        if let Some(before) = self.sessions.insert(id, Box::new(session)) {
            self.others.note(before.start.nonce, before.window.newest);
        }
    }

    /// Forgets a sender that was not heard since the hand last passed it (the clock algorithm: nearly the least
    /// recently heard one, at a bounded cost on average).
    fn evict(&mut self) {
        for _ in 0..=2 * self.sessions.len() {
            let next = self.sessions.range_mut((Excluded(self.hand), Unbounded)).next();
            let Some((id, session)) = next else {
                // From the start again. The smallest id of all is passed over, at no harm.
                self.hand = NodeId(0);
                continue;
            };
            self.hand = *id;
            if !std::mem::take(&mut session.was_heard) {
                let id = *id;
                self.forget(id);
                self.stats.sessions_evicted += 1;
                return;
            }
        }
    }

    fn count(&mut self, error: OpenError) {
        let stats = &mut self.stats;
        match error {
            OpenError::Key { problem: KeyProblem::DoesNotOpen { .. }, .. } => stats.refused_forged += 1,
            OpenError::Key { .. } => stats.refused_unknown_key += 1,
            OpenError::Repeat => stats.refused_repeats += 1,
            OpenError::Malformed { .. } => stats.refused_malformed += 1,
        }
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("me", &self.me).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// One start of one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Start {
    id: NodeId,
    nonce: u64,
}

impl Start {
    fn of(peer: &Peer) -> Self {
        Self { id: peer.id, nonce: peer.nonce }
    }
}

impl From<&Header> for Start {
    fn from(header: &Header) -> Self {
        Self { id: header.sender, nonce: header.nonce }
    }
}

/// What is derived from a ring.
struct Keys {
    in_use: KeyId,
    own: LessSafeKey,
    all: Vec<SealKey>,
}

impl Keys {
    fn new(ring: &Keyring, me: &Start) -> Self {
        let all: Vec<_> = ring.keys().iter().map(SealKey::new).collect();
        let own = SealKey::new(ring.in_use()).opener(me);
        Self { in_use: ring.in_use().id(), own, all }
    }

    fn find(&self, id: KeyId) -> Option<&SealKey> {
        self.all.iter().find(|key| key.id == id)
    }
}

/// A cluster key, ready to derive from.
struct SealKey {
    id: KeyId,
    fingerprint: u64,
    root: hkdf::Prk,
}

impl SealKey {
    fn new(key: &ClusterKey) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidings seal 1").extract(key.secret());
        Self { id: key.id(), fingerprint: key.fingerprint(), root }
    }

    fn opener(&self, start: &Start) -> LessSafeKey {
        let (id, nonce) = (start.id.0.to_le_bytes(), start.nonce.to_le_bytes());
        let info: [&[u8]; 3] = [b"tidings seal v1", &id, &nonce];
        let key = self.root.expand(&info, CIPHER).expect("a key is far below what HKDF can give");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

/// A sender that sealed something for us.
struct Session {
    start: Start,
    key: LessSafeKey,
    /// Of the cluster key that `key` is derived from.
    fingerprint: u64,
    window: Window,
    was_heard: bool,
}

impl Session {
    /// Begins with a datagram that opened. All that was sent up to `newest` counts as seen.
    fn new(start: Start, key: LessSafeKey, fingerprint: u64, newest: Option<u64>, counter: u64) -> Self {
        let mut window = newest.map_or_else(|| Window::new(counter), Window::full);
        window.note(counter);
        Self { start, key, fingerprint, window, was_heard: false }
    }
}

/// The newest counter of starts that have no session.
#[derive(Default)]
struct Others {
    newest: BTreeMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Others {
    fn newest(&self, nonce: u64) -> Option<u64> {
        self.newest.get(&nonce).copied()
    }

    fn note(&mut self, nonce: u64, counter: u64) {
        if let Some(newest) = self.newest.get_mut(&nonce) {
            *newest = counter.max(*newest);
            return;
        }
        if self.order.len() >= STARTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.newest.remove(&oldest);
        }
        self.newest.insert(nonce, counter);
        self.order.push_back(nonce);
    }

    /// It has a session now. Its place in the order stays until it is the oldest.
    fn take(&mut self, nonce: u64) {
        self.newest.remove(&nonce);
    }
}

const WORDS: usize = (WINDOW / 64) as usize + 1;

/// Which counters came already (RFC 6479: a ring of words, one more than the window, so that it moves by whole words).
#[derive(Clone, Debug)]
struct Window {
    newest: u64,
    words: [u64; WORDS],
}

impl Window {
    fn new(first: u64) -> Self {
        let mut window = Self { newest: first, words: [0; WORDS] };
        window.note(first);
        window
    }

    /// Everything up to `newest` came already.
    const fn full(newest: u64) -> Self {
        let mut words = [u64::MAX; WORDS];
        // Of its own word what comes after it has not come.
        words[Self::place(newest).0] = u64::MAX >> (63 - newest % 64);
        Self { newest, words }
    }

    const fn place(counter: u64) -> (usize, u64) {
        ((counter / 64) as usize % WORDS, 1 << (counter % 64))
    }

    fn is_new(&self, counter: u64) -> bool {
        if counter > self.newest {
            return true;
        }
        let (word, bit) = Self::place(counter);
        self.newest - counter < WINDOW && self.words[word] & bit == 0
    }

    fn note(&mut self, counter: u64) {
        if counter > self.newest {
            let passed = (counter / 64 - self.newest / 64).min(WORDS as u64);
            for step in 0..passed {
                let (word, _) = Self::place(counter - 64 * step);
                self.words[word] = 0;
            }
            self.newest = counter;
        }
        let (word, bit) = Self::place(counter);
        self.words[word] |= bit;
    }
}

/// The associated data, in one buffer that is made once: header, name, receiver's nonce.
struct Bound(Vec<u8>);

impl Bound {
    fn new(cluster: &str) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        // A name has 128 bytes at most where it is checked; here a longer one still gives distinct bytes.
        bytes.push(u8::try_from(cluster.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(cluster.as_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self(bytes)
    }

    fn of(&mut self, header: &[u8; HEADER_BYTES], receiver: u64) -> Aad<&[u8]> {
        self.0[..HEADER_BYTES].copy_from_slice(header);
        let nonce_at = self.0.len() - 8;
        self.0[nonce_at..].copy_from_slice(&receiver.to_le_bytes());
        Aad::from(&self.0)
    }
}

fn nonce_of(counter: u64) -> Nonce {
    let mut nonce = [0; aead::NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::{Epoch, Generation};

    const CLUSTER: &str = "prod";

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::new([byte; 32])
    }

    fn ring(byte: u8) -> Keyring {
        Keyring::new(key(byte)).unwrap()
    }

    fn peer(id: u64, epoch: Epoch) -> Peer {
        let addr = "127.0.0.1:7900".parse().unwrap();
        Peer { id: NodeId(id), addr, generation: Generation::first(epoch), nonce: 1_000 * id + epoch }
    }

    fn seal_of(me: &Peer, ring: Option<&Keyring>, plaintext: Plaintext) -> Seal {
        Seal::new(CLUSTER, me, ring, plaintext, Time::ZERO)
    }

    /// The seal of member `id` with key `byte`.
    fn keyed(id: u64, byte: u8) -> Seal {
        seal_of(&peer(id, 1), Some(&ring(byte)), Plaintext::Refuse)
    }

    fn clear(from: &Peer, kind: Kind, counter: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Header::new(kind, cluster_tag(CLUSTER), from, counter).write(&mut bytes);
        bytes.extend_from_slice(body);
        bytes
    }

    fn gossip(from: &mut Seal, me: &Peer, to: &Peer, counter: u64) -> Vec<u8> {
        let mut bytes = clear(me, Kind::Gossip, counter, b"news");
        from.seal(Some(to.nonce), &mut bytes).unwrap();
        bytes
    }

    fn hello(from: &mut Seal, me: &Peer, counter: u64) -> Vec<u8> {
        let mut bytes = clear(me, Kind::Hello, counter, b"who are you?");
        from.seal(None, &mut bytes).unwrap();
        bytes
    }

    /// Opens a copy, as the network may bring more of them, where the node knows its sender; gives the body.
    fn open(seal: &mut Seal, bytes: &[u8]) -> Result<Vec<u8>, OpenError> {
        open_knowing(seal, bytes, Header::read(bytes).ok().map(|(header, _)| header.nonce))
    }

    /// Opens a copy where the node knows this start of its sender.
    fn open_knowing(seal: &mut Seal, bytes: &[u8], known: Option<u64>) -> Result<Vec<u8>, OpenError> {
        let mut copy = bytes.to_vec();
        seal.open(&mut copy, |_| known).map(|opened| opened.bytes[HEADER_BYTES..].to_vec())
    }

    fn problem(result: Result<Vec<u8>, OpenError>) -> KeyProblem {
        match result {
            Err(OpenError::Key { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    /// Wire version 1 for ever: a change of these bytes is a new wire version.
    #[test]
    fn a_sealed_datagram_of_version_1_is_these_bytes() {
        let (a, b) = (peer(1, 1), peer(2, 1));
        let bytes = gossip(&mut keyed(1, 7), &a, &b, 0x0102_0304_0506);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "01012242084e340100000000000000e9030000000000000605040302019527aeee5459fc466c13ceccd6e301d91bfb05b9"
        );
        assert_eq!(open(&mut keyed(2, 7), &bytes).unwrap(), b"news");
    }

    #[test]
    fn what_is_sealed_opens_at_its_receiver_alone() {
        let (a, b) = (peer(1, 1), peer(2, 1));
        let mut ours = keyed(1, 7);
        let bytes = gossip(&mut ours, &a, &b, 1);
        assert!(!bytes.windows(4).any(|four| four == b"news"), "the body is not in clear");
        assert_eq!(bytes.len(), HEADER_BYTES + 4 + SEAL_BYTES);
        assert_eq!(open(&mut keyed(2, 7), &bytes).unwrap(), b"news");

        let forged = KeyProblem::DoesNotOpen { id: key(7).id() };
        let mut another = keyed(3, 7);
        assert_eq!(problem(open(&mut another, &bytes)), forged);
        let mut restarted = seal_of(&peer(2, 2), Some(&ring(7)), Plaintext::Refuse);
        assert_eq!(problem(open(&mut restarted, &bytes)), forged);
        assert_eq!((another.stats().sessions, restarted.stats().refused_forged), (0, 1));
    }

    #[test]
    fn a_repeat_is_dropped_and_a_late_one_within_the_window_is_not() {
        let (a, b) = (peer(1, 1), peer(2, 1));
        let (mut ours, mut theirs) = (keyed(1, 7), keyed(2, 7));
        let sent: Vec<_> = (1..=3_000).map(|counter| gossip(&mut ours, &a, &b, counter)).collect();
        let order = [1, 5, 3, 2_000, 1_999, 2_000 - WINDOW + 1, 2_999];
        for counter in order {
            assert!(open(&mut theirs, &sent[counter as usize - 1]).is_ok(), "{counter}");
        }
        for counter in order.into_iter().chain([4, 2_999 - WINDOW]) {
            assert_eq!(open(&mut theirs, &sent[counter as usize - 1]), Err(OpenError::Repeat), "{counter}");
        }
        assert_eq!(theirs.stats().refused_repeats, 9);
    }

    #[test]
    fn a_hello_opens_anywhere_but_leaves_nothing_behind() {
        let a = peer(1, 1);
        let (mut ours, mut theirs) = (keyed(1, 7), keyed(2, 7));
        let bytes = hello(&mut ours, &a, 1);
        assert!(open(&mut theirs, &bytes).is_ok());
        assert!(open(&mut theirs, &bytes).is_ok(), "a stranger's hello may come twice");
        assert_eq!(theirs.stats().sessions, 0);
        // Once its sender has proven to know our nonce, its hellos count too.
        let news = gossip(&mut ours, &a, &peer(2, 1), 2);
        assert!(open(&mut theirs, &news).is_ok());
        let again = hello(&mut ours, &a, 3);
        assert!(open(&mut theirs, &again).is_ok());
        assert_eq!(open(&mut theirs, &again), Err(OpenError::Repeat));
    }

    #[test]
    fn a_hello_is_never_taken_for_gossip_nor_gossip_for_a_hello() {
        let (a, b) = (peer(1, 1), Peer { nonce: 0, ..peer(2, 1) });
        let mut theirs = Seal::new(CLUSTER, &b, Some(&ring(7)), Plaintext::Refuse, Time::ZERO);
        let mut bytes = hello(&mut keyed(1, 7), &a, 1);
        bytes[0] = Kind::Gossip as u8;
        assert_eq!(problem(open(&mut theirs, &bytes)), KeyProblem::DoesNotOpen { id: key(7).id() });
    }

    #[test]
    fn nothing_opens_twice_whatever_start_of_its_sender_the_node_knows() {
        let (old, new, b) = (peer(1, 1), peer(1, 2), peer(2, 1));
        let mut theirs = keyed(2, 7);
        let mut renewed = seal_of(&new, Some(&ring(7)), Plaintext::Refuse);
        let mut outdated = keyed(1, 7);
        let mut sent = Vec::new();
        let mut arrive = |theirs: &mut Seal, bytes: Vec<u8>, known: Option<u64>| {
            assert!(open_knowing(theirs, &bytes, known).is_ok(), "the node is to hear of it");
            sent.push(bytes);
            for repeat in &sent {
                assert_eq!(open_knowing(theirs, repeat, known), Err(OpenError::Repeat), "known: {known:?}");
            }
            theirs.stats().sessions
        };
        let mut of_old = |counter| gossip(&mut outdated, &old, &b, counter);
        let mut of_new = |counter| gossip(&mut renewed, &new, &b, counter);
        assert_eq!(arrive(&mut theirs, of_old(3), None), 0, "a stranger leaves no session");
        assert_eq!(arrive(&mut theirs, of_old(4), Some(old.nonce)), 1);
        assert_eq!(arrive(&mut theirs, of_new(1), Some(old.nonce)), 1);
        assert_eq!(arrive(&mut theirs, of_new(2), Some(new.nonce)), 1);
        assert_eq!(arrive(&mut theirs, of_old(6), Some(new.nonce)), 1, "it is to be told that it is over");
        // It outlives the other, and goes on where it was.
        let late = of_old(7);
        assert_eq!(arrive(&mut theirs, of_old(70), Some(old.nonce)), 1);
        assert!(open_knowing(&mut theirs, &late, Some(old.nonce)).is_ok(), "late, but new");
        theirs.forget(NodeId(1));
        assert_eq!(arrive(&mut theirs, of_old(71), Some(old.nonce)), 1);
        assert_eq!(open_knowing(&mut theirs, &late, Some(old.nonce)), Err(OpenError::Repeat));
    }

    #[test]
    fn the_wrong_key_no_key_and_no_seal_are_told_apart() {
        let (a, b) = (peer(1, 1), peer(2, 1));
        let sealed = gossip(&mut keyed(1, 7), &a, &b, 1);
        let plain = clear(&a, Kind::Gossip, 1, b"news");
        assert_eq!(problem(open(&mut keyed(2, 8), &sealed)), KeyProblem::Unknown { id: key(7).id() });
        let mut keyless = seal_of(&b, None, Plaintext::Refuse);
        assert_eq!(problem(open(&mut keyless, &sealed)), KeyProblem::NoKey { id: key(7).id() });
        assert_eq!(open(&mut keyless, &plain).unwrap(), b"news");
        let mut theirs = keyed(2, 7);
        assert_eq!(problem(open(&mut theirs, &plain)), KeyProblem::Clear);
        assert_eq!(theirs.stats().refused_clear, 1);
    }

    #[test]
    fn a_twin_id_does_not_make_a_wrong_key_right() {
        let twin = (0u16..).map(|n| {
            let mut bytes = [9; 32];
            bytes[..2].copy_from_slice(&n.to_le_bytes());
            ClusterKey::new(bytes)
        });
        let twin = twin.into_iter().find(|twin| twin.id() == key(7).id()).unwrap();
        let (a, b) = (peer(1, 1), peer(2, 1));
        let twins = Keyring::new(twin).unwrap();
        let mut theirs = Seal::new(CLUSTER, &b, Some(&twins), Plaintext::Refuse, Time::ZERO);
        let sealed = hello(&mut keyed(1, 7), &a, 1);
        let expected = OpenError::Key { problem: KeyProblem::DoesNotOpen { id: key(7).id() }, is_hello: true };
        assert_eq!(open(&mut theirs, &sealed), Err(expected));
    }

    #[test]
    fn a_cluster_of_the_same_tag_and_key_but_another_name_stays_out() {
        let (a, b) = (peer(1, 1), peer(2, 1));
        let mut foreign = Seal::new("other", &a, Some(&ring(7)), Plaintext::Refuse, Time::ZERO);
        // The tag has 32 bits, so names with the same one exist: as if this were one.
        let bytes = gossip(&mut foreign, &a, &b, 1);
        assert_eq!(problem(open(&mut keyed(2, 7), &bytes)), KeyProblem::DoesNotOpen { id: key(7).id() });
    }

    #[test]
    fn of_another_cluster_or_version_only_the_header_is_handed_on() {
        let mut theirs = keyed(2, 7);
        for (at, byte) in [(3, 0xff), (1, 99)] {
            let mut bytes = gossip(&mut keyed(1, 7), &peer(1, 1), &peer(2, 1), 1);
            bytes[at] ^= byte;
            assert_eq!(open(&mut theirs, &bytes).unwrap(), b"");
        }
    }

    #[test]
    fn keys_rotate_without_a_datagram_lost() {
        let (a, b) = (peer(1, 1), peer(2, 1));
        let (mut ours, mut theirs) = (keyed(1, 7), keyed(2, 7));
        let mut both = ring(7);
        both.add(key(8)).unwrap();
        let first = gossip(&mut ours, &a, &b, 1);
        assert!(open(&mut theirs, &first).is_ok());
        theirs.set_keys(&both);
        ours.set_keys(&both);
        both.use_key(key(8).id()).unwrap();
        ours.set_keys(&both);
        let second = gossip(&mut ours, &a, &b, 2);
        let mut copy = second.clone();
        assert!(theirs.open(&mut copy, |_| Some(a.nonce)).unwrap().is_other_key, "it does not use the new one yet");
        assert_eq!(open(&mut theirs, &second), Err(OpenError::Repeat));
        assert_eq!(open(&mut theirs, &first), Err(OpenError::Repeat), "the window outlives the key");
        both.remove(key(7).id()).unwrap();
        theirs.set_keys(&both);
        assert!(open(&mut theirs, &gossip(&mut ours, &a, &b, 3)).is_ok());
        let late = gossip(&mut keyed(1, 7), &a, &b, 4);
        assert_eq!(problem(open(&mut theirs, &late)), KeyProblem::Unknown { id: key(7).id() });
    }

    #[test]
    fn encryption_is_turned_on_without_a_datagram_refused() {
        let (a, b) = (peer(1, 1), peer(2, 1));
        let ring = ring(7);
        let rounds = [
            (None, Plaintext::Refuse),
            (Some(&ring), Plaintext::AcceptAndSend),
            (Some(&ring), Plaintext::Accept),
            (Some(&ring), Plaintext::Refuse),
        ];
        // Any two members are at most one round apart.
        for (x, y) in (0..4).flat_map(|x| [(x, x), (x, (x + 1).min(3)), ((x + 1).min(3), x)]) {
            let mut ours = seal_of(&a, rounds[x].0, rounds[x].1);
            let mut theirs = seal_of(&b, rounds[y].0, rounds[y].1);
            let bytes = gossip(&mut ours, &a, &b, 1);
            assert_eq!(open(&mut theirs, &bytes).unwrap(), b"news", "from round {x} to round {y}");
            let stats = theirs.stats();
            let is_counted = y > 0 && x < 2;
            assert_eq!(stats.opened_clear, u64::from(is_counted), "from round {x} to round {y}");
        }
    }

    #[test]
    fn a_counter_that_does_not_grow_is_never_sealed() {
        let (a, b) = (peer(1, 1), peer(2, 1));
        let mut ours = keyed(1, 7);
        gossip(&mut ours, &a, &b, 5);
        let mut bytes = clear(&a, Kind::Hello, 5, b"");
        assert_eq!(ours.seal(None, &mut bytes), Err(SealError::Counter { counter: 5, last: 5 }));
        let mut bytes = clear(&b, Kind::Hello, 6, b"");
        assert_eq!(ours.seal(None, &mut bytes), Err(SealError::NotOurs));
        assert_eq!(ours.stats().not_sealed, 2);
    }

    #[test]
    fn refusals_are_in_clear_and_limited() {
        let me = peer(1, 1);
        let mut ours = keyed(1, 7);
        let refusals = (0..100).filter_map(|_| ours.refusal(&me, Time::ZERO)).count();
        assert_eq!(refusals, KEY_REFUSALS_PER_SECOND as usize);
        assert_eq!(ours.stats().refusals_limited, 100 - refusals as u64);
        let mut later = ours.refusal(&me, Time::from(std::time::Duration::from_secs(1))).unwrap();
        let before = later.clone();
        ours.seal(None, &mut later).unwrap();
        assert_eq!(later, before);
        assert!(open(&mut keyed(2, 8), &later).is_ok());
        // No larger than what it answers: the smallest sealed datagram.
        assert!(later.len() <= HEADER_BYTES + SEAL_BYTES, "{}", later.len());
    }

    #[test]
    fn members_without_number_cannot_grow_the_memory() {
        let b = peer(2, 1);
        let mut theirs = keyed(2, 7);
        let favourite = peer(u64::MAX >> 20, 1);
        let mut favourites = seal_of(&favourite, Some(&ring(7)), Plaintext::Refuse);
        for id in 0..SESSIONS_MAX as u64 + 500 {
            let peer = peer(10 + id, 1);
            let mut wild = seal_of(&peer, Some(&ring(7)), Plaintext::Refuse);
            assert!(open(&mut theirs, &gossip(&mut wild, &peer, &b, 1)).is_ok());
            if id % 64 == 0 {
                let news = gossip(&mut favourites, &favourite, &b, 1 + id);
                assert!(open(&mut theirs, &news).is_ok());
            }
        }
        for id in 0..500 {
            let peer = peer(1_000_000 + id, 1);
            let mut stranger = seal_of(&peer, Some(&ring(7)), Plaintext::Refuse);
            assert!(open_knowing(&mut theirs, &gossip(&mut stranger, &peer, &b, 1), None).is_ok());
        }
        assert_eq!(theirs.stats().other_starts, 1_001);
        (0..STARTS_MAX as u64 + 500).for_each(|nonce| theirs.others.note(nonce << 32, 1));
        assert_eq!((theirs.stats().other_starts, theirs.others.order.len()), (STARTS_MAX as u64, STARTS_MAX));
        let stats = theirs.stats();
        assert_eq!((stats.sessions, stats.sessions_evicted), (SESSIONS_MAX as u64, 501));
        assert!(theirs.sessions.contains_key(&favourite.id), "who speaks often is not forgotten");
    }

    proptest! {
        #[test]
        fn whatever_is_changed_does_not_open(
            at in 0usize..(HEADER_BYTES + 4 + SEAL_BYTES),
            mask in 1u8..,
            cut in 0usize..30,
        ) {
            let (a, b) = (peer(1, 1), peer(2, 1));
            let bytes = gossip(&mut keyed(1, 7), &a, &b, 9);
            let mut theirs = keyed(2, 7);
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            changed.truncate(bytes.len() - cut);
            let opened = open(&mut theirs, &changed);
            // A refusal, or of another cluster or version: nothing of the body is taken for a member's word.
            let is_for_the_node = changed.len() >= HEADER_BYTES && (changed[0] == 4 || !(1..=3).contains(&changed[0])
                || at == 1 || (3..7).contains(&at));
            prop_assert!(opened.is_err() || is_for_the_node, "{opened:?}");
            prop_assert_eq!(theirs.stats().sessions, 0);
            prop_assert_eq!(theirs.stats().opened, 0);
        }

        #[test]
        fn any_bytes_are_refused_and_leave_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..1_300),
            kind in 1u8..5,
        ) {
            let mut theirs = keyed(2, 7);
            let _ = open(&mut theirs, &bytes);
            let mut ours = clear(&peer(1, 1), Kind::Gossip, 3, &bytes);
            (ours[0], ours[2]) = (kind, key(7).id());
            let _ = open(&mut theirs, &ours);
            prop_assert_eq!((theirs.stats().sessions, theirs.stats().opened), (0, 0));
        }

        #[test]
        fn a_window_takes_each_counter_once(counters in proptest::collection::vec(0u64..4_000, 1..400)) {
            let mut window = Window::new(counters[0]);
            let mut seen = std::collections::BTreeSet::from([counters[0]]);
            for &counter in &counters[1..] {
                let newest = *seen.last().unwrap();
                let is_new = !seen.contains(&counter) && counter + WINDOW > newest;
                prop_assert_eq!(window.is_new(counter), is_new, "{}", counter);
                if is_new {
                    window.note(counter);
                    seen.insert(counter);
                }
            }
        }

        #[test]
        fn a_full_window_takes_what_comes_after_it_alone(newest in 0u64..4_000, next in 1u64..3_000) {
            let mut window = Window::full(newest);
            prop_assert!((0..=newest).all(|counter| !window.is_new(counter)));
            window.note(newest + next);
            for counter in newest + 1..newest + next {
                prop_assert_eq!(window.is_new(counter), newest + next - counter < WINDOW, "{}", counter);
            }
            prop_assert!((0..=newest).all(|counter| !window.is_new(counter)));
        }
    }
}
