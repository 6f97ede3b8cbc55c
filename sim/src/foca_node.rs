//! A member that is foca 2.0.0 and nothing else: the baseline beside which every figure of ours stands.
//!
//! Same world, same links, same inputs and outputs as the core; no records, no streams, no layer of ours. Its payload
//! is the datagram. Identities take 30 bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Codec, Foca, Header, Message, NoCustomBroadcast, Notification, Runtime, State, Timer};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};
use tidings::effect::{Datagram, Event, Input, InputError, Outbox};
use tidings::node::{QueueLengths, ViewDigest};
use tidings::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use tidings::roster::fingerprint_of;
use tidings::time::Time;

use crate::units::Span;

/// After how long a member without others announces itself again: foca does not repeat a lost announce by itself.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

/// foca's own settings, by the cluster's size and what departs from them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FocaSettings {
    /// `Config::new_wan` instead of `Config::new_lan`.
    pub wan: bool,
    /// How many periods times log10(members) a suspect has: 4 (LAN) and 6 (WAN) unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<f64>,
    /// How often a member probes another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_period: Option<Span>,
    /// How long it waits for the direct answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_rtt: Option<Span>,
    /// How many others it asks to probe then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indirect_probes: Option<usize>,
    /// Whether members gossip and announce themselves from time to time, beside what rides on probes.
    pub periodic: bool,
}

impl Default for FocaSettings {
    fn default() -> Self {
        Self { wan: false, suspicion: None, probe_period: None, probe_rtt: None, indirect_probes: None, periodic: true }
    }
}

impl FocaSettings {
    /// foca's configuration for a cluster of this size.
    pub fn config(&self, members: usize) -> foca::Config {
        let size = NonZeroU32::new(u32::try_from(members).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let mut config = if self.wan { foca::Config::new_wan(size) } else { foca::Config::new_lan(size) };
        let factor = self.suspicion.unwrap_or(if self.wan { 6.0 } else { 4.0 });
        if let Some(period) = self.probe_period {
            config.probe_period = period.0;
        }
        if let Some(rtt) = self.probe_rtt {
            config.probe_rtt = rtt.0;
        }
        if let Some(count) = self.indirect_probes.and_then(NonZeroUsize::new) {
            config.num_indirect_probes = count;
        }
        let logarithm = f64::from(size.get()).log10().max(1.0);
        config.suspect_to_down_after = config.probe_period.mul_f64(factor * logarithm);
        if !self.periodic {
            config.periodic_announce = None;
            config.periodic_announce_to_down_members = None;
            config.periodic_gossip = None;
        }
        config
    }
}

/// How probes went.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Probes {
    /// Probes that were judged.
    pub judged: u64,
    /// Of these, the ones that nobody answered, neither the target nor for it.
    pub failed: u64,
}

/// A member that is foca and nothing else.
pub struct FocaNode {
    foca: Foca<Peer, PlainCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    effects: Effects,
    seeds: Vec<Peer>,
    name: Arc<str>,
    announce_at: Option<Time>,
    has_begun: bool,
    has_left: bool,
    is_ready: bool,
    fingerprint: u64,
    /// The probe under way: its number, and whether it was answered.
    probe: Option<(u8, bool)>,
    probes: Probes,
}

/// What foca wants done, gathered while it runs.
#[derive(Default)]
struct Effects {
    now: Time,
    timers: BinaryHeap<Reverse<(Time, Timer<Peer>, u64)>>,
    armed: u64,
    sends: Vec<Datagram>,
    notes: Vec<Note>,
}

enum Note {
    Up(Peer),
    Down(Peer),
    Renamed(Peer),
}

impl fmt::Debug for FocaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FocaNode").field("me", self.foca.identity()).finish_non_exhaustive()
    }
}

impl FocaNode {
    /// A member of a cluster that will have `members`, which joins through `seeds`.
    pub fn new(
        me: Peer,
        name: Arc<str>,
        settings: &FocaSettings,
        members: usize,
        seeds: Vec<Peer>,
        seed: u64,
        now: Time,
    ) -> Self {
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self {
            foca: Foca::new(me, settings.config(members), rng, PlainCodec),
            effects: Effects { now, ..Effects::default() },
            seeds: seeds.into_iter().filter(|seed| seed.id != me.id).collect(),
            name,
            announce_at: Some(now),
            has_begun: false,
            has_left: false,
            is_ready: false,
            fingerprint: 0,
            probe: None,
            probes: Probes::default(),
        }
    }

    /// Knows these members from the start, as if it had joined long ago.
    pub fn preload(&mut self, now: Time, members: &[Peer]) {
        self.effects.now = now;
        let others = members.iter().filter(|peer| peer.id != self.foca.identity().id).copied().map(foca::Member::alive);
        let others: Vec<_> = others.collect();
        self.foca.apply_many(others.into_iter(), false, &mut self.effects).expect("members alive are welcome");
    }

    /// Takes in what happened at `now`; see the core's `handle`.
    ///
    /// # Errors
    /// That foca did not take a datagram, or refused a timer, which is a bug of this integration.
    pub fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Outbox) -> Result<(), InputError> {
        self.effects.now = now;
        let result = match input {
            Input::Wake => self.wake(now),
            Input::Datagram { bytes, .. } => self.receive(bytes),
            Input::Leave => {
                self.has_left = true;
                self.foca.leave_cluster(&mut self.effects).map_err(|_| InputError::HasLeft)
            }
            _ => Err(InputError::NotAccepted("plain foca knows members only")),
        };
        self.tell(out);
        if self.foca.num_members() > 0 && !self.is_ready {
            self.is_ready = true;
            out.events.push(Event::Ready);
        }
        self.has_begun = true;
        result
    }

    fn wake(&mut self, now: Time) -> Result<(), InputError> {
        if self.announce_at.is_some_and(|at| at <= now) {
            let is_alone = self.foca.num_members() == 0 && !self.seeds.is_empty();
            self.announce_at = is_alone.then(|| now + ANNOUNCE_AGAIN);
            for seed in self.seeds.iter().filter(|_| is_alone) {
                self.foca
                    .announce(*seed, &mut self.effects)
                    .map_err(|_| InputError::Bug("an announce does not fit"))?;
            }
        }
        while let Some(Reverse((at, _, _))) = self.effects.timers.peek()
            && *at <= now
        {
            let Reverse((_, timer, _)) = self.effects.timers.pop().expect("just seen");
            if matches!(timer, Timer::ProbeRandomMember(_)) {
                self.judge_probe();
            }
            match self.foca.handle_timer(timer, &mut self.effects) {
                Err(foca::Error::IncompleteProbeCycle) => return Err(InputError::Bug("incomplete probe cycle")),
                Err(foca::Error::NotConnected) => return Err(InputError::Bug("probing while not connected")),
                _ => {}
            }
            self.note_ping();
        }
        if self.foca.num_members() == 0 && !self.seeds.is_empty() && self.announce_at.is_none() {
            self.announce_at = Some(now + ANNOUNCE_AGAIN);
        }
        Ok(())
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), InputError> {
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        if let Some((number, is_answered)) = &mut self.probe
            && let Ok(header) = PlainCodec.decode_header(bytes)
        {
            let answers = match header.message {
                Message::Ack(number) | Message::ForwardedAck { probe_number: number, .. } => Some(number),
                _ => None,
            };
            *is_answered |= answers == Some(*number);
        }
        self.foca.handle_data(bytes, &mut self.effects).map_err(|_| InputError::NotAccepted("not for this foca"))
    }

    /// The period is over: whoever did not answer by now has not answered.
    fn judge_probe(&mut self) {
        if let Some((_, is_answered)) = self.probe.take() {
            self.probes.judged += 1;
            self.probes.failed += u64::from(!is_answered);
        }
    }

    fn note_ping(&mut self) {
        let Some(last) = self.effects.sends.last() else { return };
        if let Ok(Header { message: Message::Ping(number), .. }) = PlainCodec.decode_header(&last.bytes[..]) {
            self.probe = Some((number, false));
        }
    }

    fn tell(&mut self, out: &mut Outbox) {
        out.datagrams.append(&mut self.effects.sends);
        let mut is_only_up = true;
        for note in self.effects.notes.drain(..) {
            is_only_up &= matches!(note, Note::Up(_));
            let (peer, event): (_, fn(Arc<Member>) -> Event) = match note {
                Note::Up(peer) => {
                    self.fingerprint = self.fingerprint.wrapping_add(fingerprint_of(&peer, 0));
                    (peer, Event::MemberUp)
                }
                Note::Down(peer) => (peer, Event::MemberDown),
                Note::Renamed(after) => (after, Event::MemberChanged),
            };
            let state = if matches!(note, Note::Down(_)) { MemberState::Down } else { MemberState::Reachable };
            out.events.push(event(Arc::new(Member {
                peer,
                name: self.name.clone(),
                zone: "".into(),
                state,
                evidence: Evidence::default(),
                software: "foca".into(),
                wire: (0, 0),
            })));
        }
        if !is_only_up {
            // Which of several lives of a member went is foca's to say.
            let members = self.foca.iter_members().map(|member| fingerprint_of(member.id(), 0));
            self.fingerprint = members.fold(0, u64::wrapping_add);
        }
    }

    /// When it wants to be woken next.
    pub fn next_wake(&self) -> Option<Time> {
        if !self.has_begun {
            return Some(self.effects.now);
        }
        if self.has_left {
            return None;
        }
        let timer = self.effects.timers.peek().map(|Reverse((at, ..))| *at);
        timer.into_iter().chain(self.announce_at).min()
    }

    /// Who it is now.
    pub const fn peer(&self) -> Peer {
        *self.foca.identity()
    }

    /// How its probes went so far.
    pub const fn probes(&self) -> Probes {
        self.probes
    }

    /// What it knows, in a few numbers.
    pub fn digest(&self) -> ViewDigest {
        ViewDigest {
            records: 0,
            members: self.fingerprint.wrapping_add(fingerprint_of(&self.peer(), 0)),
            reachable: self.fingerprint.wrapping_add(fingerprint_of(&self.peer(), 0)),
            live_members: self.foca.num_members() + 1,
            live_records: 0,
        }
    }

    /// The members it believes in, itself included, in order of their ids.
    pub fn live_members(&self) -> Vec<Peer> {
        let mut members: Vec<_> = self.foca.iter_members().map(|member| *member.id()).chain([self.peer()]).collect();
        members.sort_by_key(|peer| peer.id);
        members
    }

    /// The lengths of its queues.
    pub fn queues(&self) -> QueueLengths {
        QueueLengths {
            rumors: 0,
            repeats: 0,
            contacts: 0,
            limbo: 0,
            conversations: 0,
            goodbyes: 0,
            graves: 0,
            members: 0,
            verdicts: 0,
            awaited: 0,
            cases: 0,
            helps: 0,
            timers: self.effects.timers.len(),
            updates: self.foca.updates_backlog(),
        }
    }
}

impl Runtime<Peer> for Effects {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        match notification {
            Notification::MemberUp(peer) => self.notes.push(Note::Up(*peer)),
            Notification::MemberDown(peer) => self.notes.push(Note::Down(*peer)),
            Notification::Rename(_, after) => self.notes.push(Note::Renamed(*after)),
            _ => {}
        }
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.sends.push(Datagram { to: to.addr, nonce: None, bytes: data.to_vec() });
    }

    fn submit_after(&mut self, timer: Timer<Peer>, after: Duration) {
        self.armed += 1;
        self.timers.push(Reverse((self.now + after, timer, self.armed)));
    }
}

/// foca's types as bytes, numbers in big-endian order.
#[derive(Clone, Copy, Debug)]
struct PlainCodec;

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not a foca message")]
struct NotFoca;

const PEER_BYTES: usize = 30;

fn put_peer(peer: &Peer, mut buf: impl BufMut) -> Result<(), NotFoca> {
    let SocketAddr::V4(addr) = peer.addr else { return Err(NotFoca) };
    if buf.remaining_mut() < PEER_BYTES {
        return Err(NotFoca);
    }
    buf.put_u64(peer.id.0);
    buf.put_slice(&addr.ip().octets());
    buf.put_u16(addr.port());
    buf.put_u64(peer.generation.epoch() << 16 | u64::from(peer.generation.bump()));
    buf.put_u64(peer.nonce);
    Ok(())
}

fn read_peer(mut buf: impl Buf) -> Result<Peer, NotFoca> {
    if buf.remaining() < PEER_BYTES {
        return Err(NotFoca);
    }
    let id = NodeId(buf.get_u64());
    let ip = IpAddr::V4(Ipv4Addr::from_bits(buf.get_u32()));
    let addr = SocketAddr::new(ip, buf.get_u16());
    let generation = buf.get_u64();
    let generation = Generation::new(generation >> 16, (generation & 0xffff) as u16);
    Ok(Peer { id, addr, generation, nonce: buf.get_u64() })
}

impl Codec<Peer> for PlainCodec {
    type Error = NotFoca;

    fn encode_header(&mut self, header: &Header<Peer>, mut buf: impl BufMut) -> Result<(), NotFoca> {
        put_peer(&header.src, &mut buf)?;
        put_peer(&header.dst, &mut buf)?;
        if buf.remaining_mut() < 4 + PEER_BYTES {
            return Err(NotFoca);
        }
        buf.put_u16(header.src_incarnation);
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
        buf.put_u8(tag);
        buf.put_u8(number);
        other.map_or(Ok(()), |peer| put_peer(peer, &mut buf))
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Peer>, NotFoca> {
        let (src, dst) = (read_peer(&mut buf)?, read_peer(&mut buf)?);
        if buf.remaining() < 4 {
            return Err(NotFoca);
        }
        let src_incarnation = buf.get_u16();
        let (tag, number) = (buf.get_u8(), buf.get_u8());
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
            _ => return Err(NotFoca),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &foca::Member<Peer>, mut buf: impl BufMut) -> Result<(), NotFoca> {
        if buf.remaining_mut() < PEER_BYTES + 3 {
            return Err(NotFoca);
        }
        put_peer(member.id(), &mut buf)?;
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<foca::Member<Peer>, NotFoca> {
        let peer = read_peer(&mut buf)?;
        if buf.remaining() < 3 {
            return Err(NotFoca);
        }
        let incarnation = buf.get_u16();
        let state = match buf.get_u8() {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(NotFoca),
        };
        Ok(foca::Member::new(peer, incarnation, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_codec_writes_it_reads() {
        let peer = |id| Peer {
            id: NodeId(id),
            addr: ([10, 0, 0, 1], 7_900).into(),
            generation: Generation::new(id, 3),
            nonce: id << 40,
        };
        let header = Header {
            src: peer(1),
            src_incarnation: 7,
            dst: peer(2),
            message: Message::IndirectPing { origin: peer(3), probe_number: 9 },
        };
        let mut bytes = Vec::new();
        PlainCodec.encode_header(&header, &mut bytes).expect("a vector has room");
        assert_eq!(PlainCodec.decode_header(&bytes[..]).expect("written by ourselves"), header);
        assert!(PlainCodec.decode_header(&bytes[..bytes.len() - 1]).is_err());
        let mut bytes = Vec::new();
        let member = foca::Member::new(peer(4), 5, State::Suspect);
        PlainCodec.encode_member(&member, &mut bytes).expect("a vector has room");
        assert_eq!(bytes.len(), PEER_BYTES + 3);
        assert_eq!(PlainCodec.decode_member(&bytes[..]).expect("written by ourselves"), member);
    }

    #[test]
    fn suspicion_is_the_factor_times_the_logarithm() {
        let settings = FocaSettings { suspicion: Some(5.0), ..FocaSettings::default() };
        assert_eq!(settings.config(100).suspect_to_down_after, Duration::from_secs(10));
        assert_eq!(FocaSettings::default().config(100).suspect_to_down_after, Duration::from_secs(8));
    }
}
