//! foca, the SWIM protocol (Das, Gupta and Motivala, DSN 2002), with its timers, its bytes and its clock in our hands.
//!
//! foca's payload travels as our own section, without what the datagram's header and the receiver know already; every
//! update passes our filter before foca sees it. Knows nothing of records.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bytes::BufMut;
use foca::{Codec, Config, Foca, Header, Message, NoCustomBroadcast, Notification, PeriodicParams, Runtime, State};
use rand::rngs::Xoshiro256PlusPlus;

use crate::detector::Watch;
use crate::peer::{NodeId, Peer};
use crate::time::Time;
use crate::timers::Timers;
use crate::wire::foca_codec::PeerCodec;
use crate::wire::{SwimMessage, SwimSection, SwimUpdate};

/// The most bytes that foca may fill: membership's share of a datagram, as foca encodes it (ours is shorter).
const MEMBERSHIP_BYTES_MAX: usize = 560;

/// How long foca remembers that an identity is down; our graves remember longer.
const REMOVE_DOWN_AFTER: Duration = Duration::from_secs(600);

/// Renewals allowed at once, and how long it takes until one more is: a member that is called dead again and again
/// must not flood the cluster with new lives.
const RENEWALS_AT_ONCE: u32 = 8;
const RENEWAL_EVERY: Duration = Duration::from_secs(2);

impl foca::Identity for Peer {
    type Addr = NodeId;

    /// Reads no clock: a renewal is the next number.
    fn renew(&self) -> Option<Self> {
        self.generation.renewed().map(|generation| Self { generation, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.rank() > adversary.rank()
    }
}

/// What foca found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    /// A member is here that was not before, or is back.
    Up(Peer),
    /// A member is gone.
    Down(Peer),
    /// A member did not answer, neither us nor whom we asked.
    Doubt(Peer),
    /// A member has a new life.
    Renamed(Peer),
    /// We were called dead, and have a new life.
    Renewed(Peer),
    /// Somebody else has our id, and a better claim to it.
    Outranked(Peer),
    /// We were called dead, and have no further life.
    WornOut,
}

/// Why foca did not take an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SwimError {
    /// It is not for this life of ours.
    Misaddressed,
    /// It makes no sense.
    Malformed,
    /// Our integration is wrong.
    Bug(&'static str),
}

/// What foca wants done, gathered while it runs.
#[derive(Debug)]
struct Effects {
    now: Time,
    timers: Timers<foca::Timer<Peer>>,
    /// foca's round of gossip, while it has nothing to tell: it waits here instead of waking an idle node four times
    /// a second.
    gossip_round: Option<foca::Timer<Peer>>,
    sends: Vec<(Peer, SwimSection)>,
    notes: Vec<Note>,
}

/// The membership protocol.
pub(crate) struct Swim {
    foca: Foca<Peer, PeerCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    effects: Effects,
    tuning: Tuning,
    sized_for: usize,
    renewals_left: u32,
    renewals_from: Time,
    /// Updates that the filter dropped, and renewals that the limit refused, since the last look.
    pub(crate) updates_dropped: u64,
    pub(crate) renewals_limited: u64,
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swim").field("me", self.foca.identity()).finish_non_exhaustive()
    }
}

/// What of the protocol may be set. The defaults are what ships; the simulator sweeps over the rest.
#[derive(Clone, PartialEq, Debug)]
pub struct Tuning {
    /// How often a member probes another at random, beside the one that it observes.
    pub probe_period: Duration,
    /// How long it waits for the direct answer before it asks others to probe; below `probe_period`.
    pub probe_rtt: Duration,
    /// How many others it asks then; at least one.
    pub indirect_probes: usize,
    /// How long between two rounds of foca's gossip while it has something to tell.
    pub gossip_period: Duration,
    /// To how many members it is sent each time; at least one.
    pub gossip_fanout: usize,
    /// Who watches over whom, and how.
    pub watch: Watch,
}

impl Default for Tuning {
    /// foca's `Config::new_lan`, but for the gossip, and for the probes: they are a second opinion over other paths,
    /// the detector is faster.
    fn default() -> Self {
        Self {
            probe_period: Duration::from_secs(5),
            probe_rtt: Duration::from_millis(500),
            indirect_probes: 3,
            gossip_period: Duration::from_millis(250),
            gossip_fanout: 3,
            watch: Watch::default(),
        }
    }
}

/// foca's settings for a cluster of `members`, ourselves included.
fn config(tuning: &Tuning, members: usize) -> Config {
    let size = NonZeroU32::new(u32::try_from(members).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
    let mut config = Config::new_lan(size);
    config.probe_period = tuning.probe_period;
    config.probe_rtt = tuning.probe_rtt;
    config.num_indirect_probes = NonZeroUsize::new(tuning.indirect_probes).unwrap_or(NonZeroUsize::MIN);
    config.max_packet_size = NonZeroUsize::new(MEMBERSHIP_BYTES_MAX).expect("not zero");
    config.remove_down_after = Some(REMOVE_DOWN_AFTER);
    // A feed answers with as many members as fit, every time. Our fingerprints find what is missing for less.
    config.periodic_announce = None;
    config.periodic_announce_to_down_members = None;
    config.periodic_gossip = Some(PeriodicParams {
        frequency: tuning.gossip_period,
        num_members: NonZeroUsize::new(tuning.gossip_fanout).unwrap_or(NonZeroUsize::MIN),
    });
    config
}

impl Swim {
    pub(crate) fn new(me: Peer, tuning: Tuning, rng: Xoshiro256PlusPlus, now: Time) -> Self {
        let effects = Effects { now, timers: Timers::new(), gossip_round: None, sends: Vec::new(), notes: Vec::new() };
        Self {
            foca: Foca::new(me, config(&tuning, 1), rng, PeerCodec),
            effects,
            tuning,
            sized_for: 1,
            renewals_left: RENEWALS_AT_ONCE,
            renewals_from: now,
            updates_dropped: 0,
            renewals_limited: 0,
        }
    }

    /// Who we are now.
    pub(crate) const fn me(&self) -> Peer {
        *self.foca.identity()
    }

    /// Timers armed.
    pub(crate) fn timers_len(&self) -> usize {
        self.effects.timers.len()
    }

    /// Updates that wait to be told.
    pub(crate) fn backlog(&self) -> usize {
        self.foca.updates_backlog()
    }

    /// Lets the round of gossip that waits begin, if there is something to tell.
    fn resume_gossip(&mut self) {
        if self.foca.updates_backlog() > 0
            && let Some(round) = self.effects.gossip_round.take()
        {
            self.effects.timers.arm(self.effects.now + self.tuning.gossip_period, rank(&round), round);
        }
    }

    /// When the next timer is due.
    pub(crate) fn next_wake(&self) -> Option<Time> {
        self.effects.timers.next()
    }

    /// Takes in a section from `src` (its bump as the section says). `accepts` judges every update about somebody
    /// else first; who `is_damped` begins no new life, whoever calls it dead.
    pub(crate) fn receive(
        &mut self,
        now: Time,
        src: Peer,
        section: SwimSection,
        is_damped: bool,
        accepts: impl Fn(&SwimUpdate) -> bool,
    ) -> Result<(), SwimError> {
        let me = self.me();
        let calls_us_dead = section.message == SwimMessage::TurnUndead;
        // A message for an earlier life of ours is as good as for this one, but for the news that that life is over.
        if section.dst_nonce != low(me.nonce) || (calls_us_dead && section.dst_bump != me.generation.bump()) {
            return Err(SwimError::Misaddressed);
        }
        if calls_us_dead && (is_damped || !self.may_renew(now)) {
            self.renewals_limited += 1;
            return Ok(());
        }
        let mut updates = Vec::with_capacity(section.updates.len());
        for update in section.updates {
            if self.passes(now, &update, is_damped, &accepts) {
                updates.push(update);
            } else {
                self.updates_dropped += 1;
            }
        }
        let bytes = to_foca(&me, src, section.src_incarnation, section.message, &updates)?;
        self.effects.now = now;
        let result = self.foca.handle_data(&bytes, &mut self.effects);
        self.resume_gossip();
        judge(result)
    }

    fn passes(
        &mut self,
        now: Time,
        update: &SwimUpdate,
        is_damped: bool,
        accepts: impl Fn(&SwimUpdate) -> bool,
    ) -> bool {
        let me = self.me();
        if update.peer.id != me.id {
            // Who is down is told by verdicts, with their witnesses.
            return update.state != DOWN && accepts(update);
        }
        if update.peer.nonce != me.nonce && update.peer.rank() > me.rank() && update.state != DOWN {
            self.effects.notes.push(Note::Outranked(update.peer));
        }
        let is_about_now = update.peer == me;
        if is_about_now && update.state == DOWN && (is_damped || !self.may_renew(now)) {
            self.renewals_limited += 1;
            return false;
        }
        // foca would gossip that an earlier life of ours is down; nobody needs to hear it.
        is_about_now
    }

    /// Runs the next timer that is due by `now`; `None` if there is none.
    pub(crate) fn fire(&mut self, now: Time) -> Option<Result<(), SwimError>> {
        let timer = self.effects.timers.pop(now)?;
        self.effects.now = now;
        let result = self.foca.handle_timer(timer, &mut self.effects);
        self.resume_gossip();
        Some(judge(result))
    }

    /// Lets a member in that we heard of outside of foca; foca tells nobody, because the others hear of it as we did.
    pub(crate) fn introduce(&mut self, now: Time, peer: Peer) -> Result<(), SwimError> {
        self.apply(now, foca::Member::alive(peer))
    }

    /// We have another life from now on, or another address. The members that we know stay.
    pub(crate) fn rename(&mut self, now: Time, me: Peer) -> Result<(), SwimError> {
        self.effects.now = now;
        let result = self.foca.change_identity(me, &mut self.effects);
        self.resume_gossip();
        judge(result)
    }

    /// A member is gone, by its own word or by proof: foca tells nobody, the reason travels by itself.
    pub(crate) fn dismiss(&mut self, now: Time, peer: Peer) -> Result<(), SwimError> {
        self.apply(now, foca::Member::down(peer))
    }

    fn apply(&mut self, now: Time, member: foca::Member<Peer>) -> Result<(), SwimError> {
        if member.id().id == self.me().id {
            return Ok(());
        }
        self.effects.now = now;
        let result = self.foca.apply_many(std::iter::once(member), false, &mut self.effects);
        self.resume_gossip();
        judge(result)
    }

    /// Fits the settings that depend on it to the cluster's size.
    pub(crate) fn resize(&mut self, members: usize) {
        // Every setting follows the logarithm: a change by less than a tenth moves none of them noticeably.
        if members.abs_diff(self.sized_for) * 10 > self.sized_for {
            self.sized_for = members;
            self.foca.set_config(config(&self.tuning, members)).expect("only settings that depend on the size differ");
        }
    }

    /// Takes what is to be sent.
    pub(crate) fn take_sends(&mut self) -> Vec<(Peer, SwimSection)> {
        let me = self.me();
        let mut sends = std::mem::take(&mut self.effects.sends);
        for (_, section) in &mut sends {
            // foca gossips that earlier lives of ours are down. Whoever heard that before our new life, which our own
            // record tells, would believe that we are gone.
            section.updates.retain(|update| update.peer.id != me.id || update.peer == me);
        }
        sends
    }

    /// Takes what was found out.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.effects.notes)
    }

    /// A bucket of renewals that fills with time.
    fn may_renew(&mut self, now: Time) -> bool {
        while self.renewals_left < RENEWALS_AT_ONCE && now.since(self.renewals_from) >= RENEWAL_EVERY {
            self.renewals_left += 1;
            self.renewals_from = self.renewals_from + RENEWAL_EVERY;
        }
        if self.renewals_left == 0 {
            return false;
        }
        if self.renewals_left == RENEWALS_AT_ONCE {
            self.renewals_from = now;
        }
        self.renewals_left -= 1;
        true
    }
}

/// The message that tells a life of `to` that it is over here.
pub(crate) fn undead_notice(me: &Peer, to: &Peer) -> SwimSection {
    section(me, 0, to, SwimMessage::TurnUndead, Vec::new())
}

const DOWN: u8 = 2;

fn low(nonce: u64) -> u32 {
    nonce as u32
}

fn section(
    src: &Peer,
    src_incarnation: u16,
    dst: &Peer,
    message: SwimMessage,
    updates: Vec<SwimUpdate>,
) -> SwimSection {
    SwimSection {
        src_bump: src.generation.bump(),
        src_incarnation,
        dst_nonce: low(dst.nonce),
        dst_bump: dst.generation.bump(),
        message,
        updates,
    }
}

fn judge(result: Result<(), foca::Error>) -> Result<(), SwimError> {
    match result {
        Ok(()) => Ok(()),
        Err(foca::Error::IncompleteProbeCycle) => Err(SwimError::Bug("incomplete probe cycle")),
        Err(foca::Error::NotConnected) => Err(SwimError::Bug("probing while not connected")),
        Err(foca::Error::SameIdentity) => Err(SwimError::Bug("renewed to the same identity")),
        Err(foca::Error::Encode(_)) => Err(SwimError::Bug("a membership message does not encode")),
        Err(_) => Err(SwimError::Malformed),
    }
}

/// Our section as the bytes that foca reads.
fn to_foca(
    me: &Peer,
    src: Peer,
    src_incarnation: u16,
    message: SwimMessage,
    updates: &[SwimUpdate],
) -> Result<Vec<u8>, SwimError> {
    let message = match message {
        SwimMessage::Ping(number) => Message::Ping(number),
        SwimMessage::Ack(number) => Message::Ack(number),
        SwimMessage::PingReq { target, number: probe_number } => Message::PingReq { target, probe_number },
        SwimMessage::IndirectPing { origin, number: probe_number } => Message::IndirectPing { origin, probe_number },
        SwimMessage::IndirectAck { target, number: probe_number } => Message::IndirectAck { target, probe_number },
        SwimMessage::ForwardedAck { origin, number: probe_number } => Message::ForwardedAck { origin, probe_number },
        SwimMessage::Announce => Message::Announce,
        SwimMessage::Feed => Message::Feed,
        SwimMessage::Gossip => Message::Gossip,
        SwimMessage::TurnUndead => Message::TurnUndead,
    };
    let takes_updates = !matches!(message, Message::Announce | Message::TurnUndead);
    let header = Header { src, src_incarnation, dst: *me, message };
    let mut bytes = Vec::with_capacity(MEMBERSHIP_BYTES_MAX);
    PeerCodec.encode_header(&header, &mut bytes).map_err(|_| SwimError::Malformed)?;
    if takes_updates {
        bytes.put_u16(u16::try_from(updates.len()).map_err(|_| SwimError::Malformed)?);
        for update in updates {
            let state = match update.state {
                0 => State::Alive,
                1 => State::Suspect,
                DOWN => State::Down,
                _ => return Err(SwimError::Malformed),
            };
            let member = foca::Member::new(update.peer, update.incarnation, state);
            PeerCodec.encode_member(&member, &mut bytes).map_err(|_| SwimError::Malformed)?;
        }
    }
    Ok(bytes)
}

/// The bytes that foca wrote as our section.
fn from_foca(to: &Peer, mut data: &[u8]) -> Option<SwimSection> {
    let header = PeerCodec.decode_header(&mut data).ok()?;
    let message = match header.message {
        Message::Ping(number) => SwimMessage::Ping(number),
        Message::Ack(number) => SwimMessage::Ack(number),
        Message::PingReq { target, probe_number: number } => SwimMessage::PingReq { target, number },
        Message::IndirectPing { origin, probe_number: number } => SwimMessage::IndirectPing { origin, number },
        Message::IndirectAck { target, probe_number: number } => SwimMessage::IndirectAck { target, number },
        Message::ForwardedAck { origin, probe_number: number } => SwimMessage::ForwardedAck { origin, number },
        Message::Announce => SwimMessage::Announce,
        Message::Feed => SwimMessage::Feed,
        Message::Gossip | Message::Broadcast => SwimMessage::Gossip,
        Message::TurnUndead => SwimMessage::TurnUndead,
    };
    let mut updates = Vec::new();
    if let Some((count, rest)) = data.split_first_chunk() {
        data = rest;
        for _ in 0..u16::from_be_bytes(*count) {
            let member = PeerCodec.decode_member(&mut data).ok()?;
            let state = match member.state() {
                State::Alive => 0,
                State::Suspect => 1,
                State::Down => DOWN,
            };
            updates.push(SwimUpdate { peer: *member.id(), incarnation: member.incarnation(), state });
        }
    }
    Some(section(&header.src, header.src_incarnation, to, message, updates))
}

impl Runtime<Peer> for Effects {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        let note = match notification {
            Notification::MemberUp(peer) => Note::Up(*peer),
            Notification::MemberDown(peer) => Note::Down(*peer),
            Notification::Rename(_, after) => Note::Renamed(*after),
            Notification::Rejoin(me) => Note::Renewed(*me),
            Notification::Defunct => Note::WornOut,
            Notification::Active | Notification::Idle => return,
        };
        self.notes.push(note);
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        let section = from_foca(&to, data).expect("foca writes what our own codec reads");
        self.sends.push((to, section));
    }

    fn submit_after(&mut self, event: foca::Timer<Peer>, after: Duration) {
        if matches!(event, foca::Timer::PeriodicGossip(_)) {
            // A round of an earlier connection may wait here; foca would ignore it.
            self.gossip_round = Some(event);
            return;
        }
        if let foca::Timer::ChangeSuspectToDown { member_id, .. } = event {
            // foca would call it dead when this fires, on the word of one. The detector asks others.
            self.notes.push(Note::Doubt(member_id));
            return;
        }
        let rank = rank(&event);
        self.timers.arm(self.now + after, rank, event);
    }
}

/// foca's order among timers of the same deadline, as its `Timer: Ord` has it: the indirect stage of a probe before
/// the next probe.
const fn rank(timer: &foca::Timer<Peer>) -> u8 {
    match timer {
        foca::Timer::SendIndirectProbe { .. } => 0,
        foca::Timer::ProbeRandomMember(_) => 1,
        foca::Timer::ChangeSuspectToDown { .. } => 2,
        foca::Timer::PeriodicAnnounce(_) => 3,
        foca::Timer::PeriodicGossip(_) => 4,
        foca::Timer::RemoveDown(_) => 5,
        foca::Timer::PeriodicAnnounceDown(_) => 6,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::peer::Generation;

    fn peer(id: u64) -> Peer {
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], id as u16));
        Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id << 33 | id }
    }

    fn swim(id: u64) -> Swim {
        Swim::new(peer(id), Tuning::default(), Xoshiro256PlusPlus::seed_from_u64(id), Time::ZERO)
    }

    #[test]
    fn our_ranks_are_focas_order() {
        let timers = [
            foca::Timer::SendIndirectProbe { probed_id: peer(1), token: 0 },
            foca::Timer::ProbeRandomMember(0),
            foca::Timer::ChangeSuspectToDown { member_id: peer(1), incarnation: 0, token: 0 },
            foca::Timer::PeriodicAnnounce(0),
            foca::Timer::PeriodicGossip(0),
            foca::Timer::RemoveDown(peer(1)),
            foca::Timer::PeriodicAnnounceDown(0),
        ];
        for pair in timers.windows(2) {
            assert!(pair[0] < pair[1] && rank(&pair[0]) < rank(&pair[1]));
        }
    }

    #[test]
    fn a_ping_is_answered_by_its_receiver_only() {
        let (mut one, mut two) = (swim(1), swim(2));
        one.introduce(Time::ZERO, peer(2)).expect("a peer");
        let due = Time::ZERO + Tuning::default().probe_period;
        while let Some(result) = one.fire(due) {
            result.expect("no bug");
        }
        let (to, ping) = one.take_sends().remove(0);
        assert_eq!((to, &ping.message), (peer(2), &SwimMessage::Ping(1)));
        let stranger = Peer { nonce: 5, ..peer(2) };
        let mut other = Swim::new(stranger, Tuning::default(), Xoshiro256PlusPlus::seed_from_u64(5), Time::ZERO);
        assert_eq!(other.receive(due, peer(1), ping.clone(), false, |_| true), Err(SwimError::Misaddressed));
        two.receive(due, peer(1), ping, false, |_| true).expect("for us");
        assert!(matches!(&two.take_sends()[..], [(to, ack)] if *to == peer(1) && ack.message == SwimMessage::Ack(1)));
        assert_eq!(two.take_notes(), [Note::Up(peer(1))]);
    }

    #[test]
    fn being_called_dead_renews_us_at_a_bounded_rate() {
        let mut one = swim(1);
        one.introduce(Time::ZERO, peer(2)).expect("a peer");
        for _ in 0..RENEWALS_AT_ONCE * 2 {
            let notice = undead_notice(&peer(2), &one.me());
            one.receive(Time::ZERO, peer(2), notice, false, |_| true).expect("for us");
        }
        assert_eq!(u32::from(one.me().generation.bump()), RENEWALS_AT_ONCE);
        assert_eq!(one.renewals_limited, u64::from(RENEWALS_AT_ONCE));
        let stale = undead_notice(&peer(2), &peer(1));
        let later = Time::ZERO + Duration::from_secs(60);
        assert_eq!(one.receive(later, peer(2), stale, false, |_| true), Err(SwimError::Misaddressed));
    }

    #[test]
    fn a_damped_member_begins_no_new_life_when_it_is_called_dead() {
        let mut one = swim(1);
        one.introduce(Time::ZERO, peer(2)).expect("a peer");
        for (is_damped, life) in [(true, 0), (false, 1)] {
            let notice = undead_notice(&peer(2), &one.me());
            one.receive(Time::ZERO, peer(2), notice, is_damped, |_| true).expect("for us");
            assert_eq!(one.me().generation.bump(), life);
        }
    }

    #[test]
    fn a_member_that_does_not_answer_is_doubted_and_never_called_dead() {
        let mut one = swim(1);
        one.introduce(Time::ZERO, peer(2)).expect("a peer");
        let (mut doubts, mut said) = (0, Vec::new());
        for step in 1..1_200 {
            let now = Time::ZERO + Duration::from_millis(step * 100);
            while let Some(result) = one.fire(now) {
                result.expect("no bug");
            }
            said.extend(one.take_sends().into_iter().map(|(_, sent)| sent.message));
            for note in one.take_notes() {
                assert!(!matches!(note, Note::Down(_)));
                doubts += usize::from(note == Note::Doubt(peer(2)));
            }
        }
        assert!(doubts > 0, "it must have been suspected: {said:?}");
        assert!(!said.contains(&SwimMessage::TurnUndead), "{said:?}");
    }

    #[test]
    fn the_filter_keeps_updates_from_foca() {
        let mut one = swim(1);
        let update = SwimUpdate { peer: peer(3), incarnation: 0, state: 0 };
        let gossip = section(&peer(2), 0, &peer(1), SwimMessage::Gossip, vec![update]);
        one.receive(Time::ZERO, peer(2), gossip.clone(), false, |_| false).expect("for us");
        assert_eq!(one.take_notes(), [Note::Up(peer(2))]);
        one.receive(Time::ZERO, peer(2), gossip, false, |_| true).expect("for us");
        assert_eq!(one.take_notes(), [Note::Up(peer(3))]);
    }

    #[test]
    fn another_start_of_our_id_with_a_better_claim_is_told() {
        let mut one = swim(1);
        let rival = Peer { generation: Generation::first(2), nonce: 9, ..peer(1) };
        let update = SwimUpdate { peer: rival, incarnation: 0, state: 0 };
        let gossip = section(&peer(2), 0, &peer(1), SwimMessage::Gossip, vec![update]);
        one.receive(Time::ZERO, peer(2), gossip, false, |_| true).expect("for us");
        assert!(one.take_notes().contains(&Note::Outranked(rival)));
    }
}
