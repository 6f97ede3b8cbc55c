//! What comes of what the detector finds: verdicts are told to everybody, taken over, refuted; members are marked, and
//! after a long while taken to be gone.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;

use super::Node;
use super::forget::HEARD_WITHIN;
use crate::detector::{Act, Rtt, until_refuted};
use crate::effect::{Event, Outbox};
use crate::histogram::Histogram;
use crate::peer::{Generation, MemberState, NodeId, Peer};
use crate::promise::{Conditions, Promise};
use crate::story::{Line, Seen};
use crate::swim::undead_notice;
use crate::time::Time;
use crate::verdict::{Finding, Standing, TURN_MAX, Verdict};
use crate::wire::{Accusation, Outgoing, Probe, VERDICT_BYTES_MAX};

/// Witnesses that a verdict needs to be believed by whoever reaches the accused itself.
const QUORUM: usize = 3;

/// Who is found lossy is cleared by those who found it so. When it has not heard for so long that anybody holds that
/// against it, nobody does: whoever knows tells it with every probe, of which one in five comes through.
const LOSSY_HELD: Duration = Duration::from_secs(20);

/// How fresh our own evidence of a member must be to speak against a verdict with too few witnesses.
const FRESH: Duration = Duration::from_millis(1_500);

/// When members change their state one after the other, they are told together once in this time: a reader sees one
/// change, not ten.
const TELL_EVERY: Duration = Duration::from_millis(350);

/// Members confirmed to be gone at once.
const EVICTED_AT_ONCE: usize = 4;

/// After how many times `evict_after` others confirm that a member is gone too, one a second of all, and not its
/// observer alone.
const EVICT_ANYWAY: u32 = 3;

/// How many members are told a verdict beside the tree: one, and one more for each eighth of probes unanswered.
const BESIDE_BY_LOSS: f64 = 8.0;
const BESIDE_MAX: usize = 6;

/// How often one member that has other fingerprints is told our latest verdicts.
const PUSH_EVERY: Duration = Duration::from_millis(150);

/// Verdicts disputed within one input; of further ones we hear again.
pub(super) const DISPUTES_AT_ONCE: u8 = 16;

/// Verdicts in one datagram, at most.
const VERDICTS_MAX: usize = 20;

/// What a node knows of a member's reachability.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Reachability {
    /// What is believed of it.
    pub state: MemberState,
    /// The verdict that stands.
    pub standing: Standing,
    /// The round-trip time, if we probed it.
    pub rtt: Option<Rtt>,
}

impl Node {
    /// What is known of a member's reachability; `None` if it is not known at all, or ourselves.
    pub fn reachability(&self, id: NodeId) -> Option<Reachability> {
        let entry = self.roster.get(id)?;
        Some(Reachability { state: entry.state, standing: entry.standing, rtt: self.detector.rtt(id) })
    }

    /// The verdict on this node itself.
    pub fn own_standing(&self) -> Standing {
        self.own
    }

    /// Whom this node holds accused, itself included, and the turn of each accusation.
    pub fn accused(&self) -> impl Iterator<Item = (NodeId, u32)> {
        let others = self.roster.present().map(|entry| (entry.peer.id, entry.standing));
        others.chain([(self.config.id, self.own)]).filter(|(_, s)| s.finding.accuses()).map(|(id, s)| (id, s.turn))
    }

    /// Whether nobody answers this node.
    pub fn is_cut_off(&self) -> bool {
        self.detector.is_cut_off()
    }

    /// The local health score: 0 is well, 8 the worst (Lifeguard, section IV.A).
    pub fn health(&self) -> u8 {
        self.detector.health()
    }

    /// The part of this node's probes that is answered of late, from 0 to 1.
    pub fn answer_ratio(&self) -> f64 {
        self.detector.answer_ratio()
    }

    /// The round-trip times to the members that were probed.
    pub fn rtts(&self) -> impl Iterator<Item = (NodeId, Rtt)> {
        self.detector.rtts()
    }

    /// How long every probe took that was answered since the start, but for those of a stall of our own.
    pub fn rtts_seen(&self) -> &Histogram {
        &self.detector.rtts_seen
    }

    /// What the settings promise, with the members, links and loss as they are now.
    pub fn promise(&self) -> Promise {
        let (members, rtt) = (self.roster.present_len() + 1, self.detector.usual_rtt());
        Promise::of(&self.config.tuning, &Conditions { members, rtt, answered: self.answer_ratio() })
    }

    /// How it came that a member is believed to be in its state, in order, as far as it is remembered: at most the last
    /// [`STORY_MAX`](crate::story::STORY_MAX) lines of all members.
    pub fn explain(&self, id: NodeId) -> impl Iterator<Item = &Line> {
        self.story.of(id)
    }

    /// Does what the detector wants done, until it wants nothing more.
    pub(super) fn heed_detector(&mut self, now: Time, out: &mut Outbox) {
        while self.detector.has_acts() {
            for act in self.detector.take_acts() {
                self.act(now, act, out);
            }
        }
    }

    fn act(&mut self, now: Time, act: Act, out: &mut Outbox) {
        match act {
            Act::Say { to, probe } => self.say_probe(&to, probe, out),
            Act::Suspect(id) => {
                if self.roster.suspect(id, true, now) {
                    self.tell_soon(now, id, now);
                }
            }
            Act::Clear(id) => {
                if self.roster.suspect(id, false, now) {
                    self.tell_soon(now, id, now);
                }
            }
            Act::Convict { peer, finding, witnesses } => self.convict(now, &peer, finding, witnesses, out),
            Act::Release { peer, sent, answered } => self.release(now, &peer, (sent, answered), out),
            Act::CutOff(is_cut_off) => {
                let me = self.config.id;
                self.story.tell(now, me, if is_cut_off { Seen::CutOff } else { Seen::Rejoined });
                out.events.push(Event::CutOff(is_cut_off));
                self.look_for_split(now, out);
                self.tell_split(out);
            }
            Act::NotGone { id, by } => self.not_gone(id, by, out),
            Act::Saw { subject, seen } => self.story.tell(now, subject, seen),
        }
    }

    /// Sends a probe; whoever we hold something against hears of it.
    fn say_probe(&mut self, to: &Peer, mut probe: Probe, out: &mut Outbox) {
        let held = self.roster.get(to.id).filter(|entry| entry.peer == *to && entry.standing.finding.accuses());
        let held = held.map(|entry| Accusation::new(to, entry.standing.turn, entry.standing.finding));
        if let Probe::Ping { accusation, .. } | Probe::Pong { accusation, .. } = &mut probe {
            *accusation = held;
        }
        self.send(to, out, |filling| filling.probe(&probe));
    }

    pub(super) fn on_probe(&mut self, now: Time, from: Peer, probe: Probe, out: &mut Outbox) {
        self.detector.receive(now, from, probe, &self.roster);
        let (Probe::Ping { accusation, .. } | Probe::Pong { accusation, .. }) = probe else {
            return self.heed_detector(now, out);
        };
        if let Some(accusation) = accusation.filter(|accusation| accusation.is_about(&self.peer())) {
            // With number 0 it is passed on by somebody who does not believe it.
            if !matches!(probe, Probe::Ping { number: 0, .. }) && accusation.turn >= self.own.turn {
                self.accused = now;
            }
            self.on_accusation(now, from, accusation, out);
        }
        self.heed_detector(now, out);
    }

    /// Somebody holds something against us.
    fn on_accusation(&mut self, now: Time, from: Peer, accusation: Accusation, out: &mut Outbox) {
        let me = self.peer();
        let Accusation { turn, finding, .. } = accusation;
        let verdict = Verdict { subject: me.id, generation: me.generation, turn, finding, by: from.id, witnesses: 0 };
        if !verdict.is_sound() {
            return;
        }
        self.bear(now, &verdict, from, out);
        if !self.own.finding.accuses() && self.own.turn > turn {
            // Whoever said so hears the answer first: it may be the only one on its side that we reach.
            let refutation = self.own.verdict(me.id, me.generation);
            let until = self.roster.position();
            self.send(&from, out, |filling| filling.verdicts(until, [&refutation]));
        }
    }

    /// Takes over a verdict on ourselves, and refutes it if that is our right.
    fn bear(&mut self, now: Time, verdict: &Verdict, from: Peer, out: &mut Outbox) -> bool {
        if verdict.generation != self.peer().generation || !self.own.take(verdict, now) {
            return false;
        }
        if verdict.finding.ends_life() {
            // This life is over for the others: the next one begins as foca would have it. It lets us in again, which
            // no member may be twice in a minute.
            if !self.own.is_damped(now) {
                self.begin_next_life(now, from, out);
            }
            return true;
        }
        if verdict.finding.accuses() {
            self.counters.accused += 1;
            self.accused = now;
            self.detector.was_accused();
            self.refute(now, out);
        }
        true
    }

    fn begin_next_life(&mut self, now: Time, from: Peer, out: &mut Outbox) {
        let notice = undead_notice(&from, &self.peer());
        if let Err(error) = self.swim.receive(now, from, notice, false, |_| false) {
            self.swim_error(error);
        }
        self.heed_swim(now, out);
    }

    fn may_refute(&self, now: Time) -> bool {
        let is_held = match self.own.finding {
            // A life that is over is not refuted, the next one begins.
            finding if finding.ends_life() => true,
            Finding::Lossy => now.since(self.accused) < LOSSY_HELD,
            _ => false,
        };
        !is_held && (!self.own.is_damped(now) || self.is_excused(now))
    }

    /// Says that we live, unless others are to say so: they get too few of our answers, or it changes too often.
    fn refute(&mut self, now: Time, out: &mut Outbox) {
        let me = self.peer();
        let Standing { turn, finding, .. } = self.own;
        if !finding.accuses() {
            return;
        }
        if !self.may_refute(now) {
            self.story.tell(now, me.id, Seen::Bore { finding, turn });
            return;
        }
        let generation = me.generation;
        let clear = Finding::Clear;
        let refutation =
            Verdict { subject: me.id, generation, turn: turn + 1, finding: clear, by: me.id, witnesses: 0 };
        if self.own.is_damped(now) {
            self.excused.push(now);
        }
        self.own.take(&refutation, now);
        self.counters.refutations += 1;
        self.story.tell(now, me.id, Seen::Refuted { turn: turn + 1 });
        self.spread(now, &refutation, self.roster.position());
        self.flush(now, out);
    }

    /// An accusation that we had to bear may be old enough to be refuted.
    pub(super) fn refute_later(&mut self, now: Time, out: &mut Outbox) {
        let is_down = self.own.finding.ends_life() && !self.own.is_damped(now);
        let anybody = is_down.then(|| self.roster.present().next().map(|entry| entry.peer)).flatten();
        if let Some(from) = anybody {
            // We had to wait with it, or were not allowed another life at once.
            self.begin_next_life(now, from, out);
        }
        // Who hears hardly anything would be accused again at once.
        if self.own.finding.accuses() && self.may_refute(now) && self.detector.is_answered(now) {
            self.refute(now, out);
        }
    }

    fn convict(&mut self, now: Time, peer: &Peer, finding: Finding, witnesses: u8, out: &mut Outbox) {
        let Some(entry) = self.roster.get(peer.id).filter(|entry| entry.peer == *peer) else { return };
        let standing = entry.standing;
        let is_forgotten = finding == Finding::Down && self.is_forgetting(peer.id);
        let finding = if is_forgotten { Finding::Forgotten } else { finding };
        // One witness at least makes somebody gone: where there is none, we may be the one that is cut off.
        let turn = match (finding, standing.finding.accuses()) {
            (Finding::Forgotten, true) => standing.turn,
            (Finding::Down, true) if self.may_evict(now) && witnesses > 0 => standing.turn,
            (Finding::Silent | Finding::Lossy, false) if self.is_ready && standing.turn < TURN_MAX => standing.turn + 1,
            // Somebody else was faster, or it came back.
            _ => return,
        };
        self.story.tell(now, peer.id, Seen::Convicted { finding, witnesses });
        self.publish(now, peer, (turn, finding, witnesses), out);
    }

    fn release(&mut self, now: Time, peer: &Peer, (sent, answered): (u32, u32), out: &mut Outbox) {
        let Some(entry) = self.roster.get(peer.id).filter(|entry| entry.peer == *peer) else { return };
        let standing = entry.standing;
        if entry.state != MemberState::Unreachable || !standing.finding.accuses() || standing.is_damped(now) {
            return;
        }
        self.story.tell(now, peer.id, Seen::Released { sent, answered });
        self.publish(now, peer, (standing.turn + 1, Finding::Clear, 0), out);
    }

    /// Tells everybody what we found.
    fn publish(&mut self, now: Time, peer: &Peer, (turn, finding, witnesses): (u32, Finding, u8), out: &mut Outbox) {
        let (subject, generation, by) = (peer.id, peer.generation, self.config.id);
        let verdict = Verdict { subject, generation, turn, finding, by, witnesses };
        self.counters.verdicts_published += 1;
        self.apply_verdict(now, &verdict, out);
        self.spread(now, &verdict, self.roster.position());
        self.flush(now, out);
    }

    fn spread(&mut self, now: Time, verdict: &Verdict, until: u64) {
        if !self.verdicts.learn((verdict.subject, verdict.generation), verdict.rank(), until, now) {
            self.counters.rumors_limited += 1;
        }
    }

    /// Takes in a verdict; `until` ends our part of the ring for passing it on, `None` passes nothing on.
    pub(super) fn take_verdict(
        &mut self,
        now: Time,
        verdict: &Verdict,
        until: Option<u64>,
        from: Peer,
        out: &mut Outbox,
    ) {
        self.counters.verdicts_received += 1;
        let is_news = if verdict.subject == self.config.id {
            self.bear(now, verdict, from, out)
        } else {
            self.consider(now, verdict, until.is_some(), out)
        };
        match until {
            Some(until) if is_news => self.spread(now, verdict, until),
            Some(_) if self.is_behind(verdict) => {
                // Whoever accuses by an old turn should know the later one, or its accusation is in vain.
                if let Some(ours) = self.verdict_on((verdict.subject, verdict.generation)) {
                    self.send(&from, out, |filling| filling.verdicts(0, [&ours]));
                }
            }
            Some(until) => {
                self.verdicts.hear_again(&(verdict.subject, verdict.generation), verdict.rank(), until);
            }
            None => {}
        }
    }

    /// Whether a verdict accuses by a turn that was cleared since.
    fn is_behind(&self, verdict: &Verdict) -> bool {
        let entry = self.roster.get(verdict.subject).filter(|entry| entry.peer.generation == verdict.generation);
        verdict.finding.accuses() && entry.is_some_and(|entry| verdict.turn < entry.standing.turn)
    }

    /// Whether a verdict on somebody else is news, and stands here from now on. An accusation that is not `is_fresh`,
    /// or comes from a side of the cluster that we had lost, may be long refuted: then we look ourselves.
    fn consider(&mut self, now: Time, verdict: &Verdict, is_fresh: bool, out: &mut Outbox) -> bool {
        let Some(entry) = self.roster.get(verdict.subject) else { return false };
        let (peer, state, evidence) = (entry.peer, entry.state, entry.evidence.last());
        if peer.generation != verdict.generation || !state.is_present() || verdict.rank() <= entry.standing.rank() {
            return false;
        }
        let Verdict { finding, turn, by, witnesses, .. } = *verdict;
        let is_heard = |within| evidence.is_some_and(|at: Time| now.since(at) < within);
        let others = self.roster.reachable_len() - usize::from(self.roster.is_reachable(peer.id));
        let is_weak = usize::from(witnesses) < QUORUM.min(others);
        let is_strange = self.roster.get(by).is_none_or(|entry| entry.state == MemberState::Unreachable);
        let is_hearsay = self.is_ready && (!is_fresh || (is_strange && by != self.config.id));
        let is_accused = entry.standing.finding.accuses();
        let is_contested = match finding {
            Finding::Clear => false,
            // Nobody is gone on hearsay: it was accused here as well, others confirmed it, and we have not heard it.
            Finding::Down => is_weak || !is_accused || is_heard(self.config.tuning.watch.evict_after / 2),
            // An operator's word ends a wait, and nothing else.
            Finding::Forgotten => !is_accused || is_heard(HEARD_WITHIN),
            Finding::Silent | Finding::Lossy => !is_accused && (is_hearsay || (is_weak && self.is_ready)),
        };
        // That we cannot reach it either is evidence of our own.
        let is_contested = is_contested && (state != MemberState::Suspect || finding.ends_life());
        if is_contested && finding == Finding::Down && is_accused {
            // Others are done with it: time to make sure.
            if self.may_evict(now) && !is_heard(self.config.tuning.watch.evict_after / 2) {
                self.detector.confirm_gone(now, peer.id, &self.roster, &mut self.rng);
                self.heed_detector(now, out);
            }
            return false;
        }
        if is_contested && self.disputes_left == 0 {
            self.counters.disputes_limited += 1;
            return false;
        }
        if is_contested {
            self.disputes_left -= 1;
            self.counters.verdicts_disputed += 1;
            self.story.tell(now, peer.id, Seen::Disputed { finding, by, witnesses });
            // If it lives, it is to refute that itself; if not, we find out as well.
            self.pass_on(Accusation::new(&peer, turn, finding), &peer, out);
            self.detector.doubt(now, peer.id, &self.roster);
            self.heed_detector(now, out);
            return false;
        }
        self.story.tell(now, peer.id, Seen::Heard { finding, turn, by, witnesses });
        if finding.accuses() && is_heard(FRESH) {
            // It should hear at once what it is accused of.
            self.pass_on(Accusation::new(&peer, turn, finding), &peer, out);
        }
        self.apply_verdict(now, verdict, out);
        true
    }

    /// Tells the accused what it is accused of by somebody else.
    fn pass_on(&mut self, accusation: Accusation, accused: &Peer, out: &mut Outbox) {
        let ping = Probe::Ping { number: 0, accusation: Some(accusation) };
        self.send(accused, out, |filling| filling.probe(&ping));
    }

    fn apply_verdict(&mut self, now: Time, verdict: &Verdict, out: &mut Outbox) {
        let id = verdict.subject;
        let was_lost = self.roster.get(id).is_some_and(|entry| entry.state == MemberState::Unreachable);
        if !self.roster.judge(verdict, now) {
            return;
        }
        if verdict.finding.accuses() {
            self.back.remove(&id);
        } else if was_lost {
            self.back.insert(id, now);
        }
        self.detector.forget(id);
        match verdict.finding {
            Finding::Down | Finding::Forgotten => {
                let Some(peer) = self.roster.get(id).map(|entry| entry.peer) else { return };
                if let Err(error) = self.swim.dismiss(now, peer) {
                    self.swim_error(error);
                }
                self.heed_swim(now, out);
                // foca may not have known it.
                self.lose(now, peer, out);
            }
            Finding::Silent | Finding::Lossy => {
                self.counters.members_unreachable += 1;
                self.detector.hurry(now, &mut self.rng);
                let due = now + until_refuted(self.detector.usual_rtt());
                self.tell_soon(now, id, due);
            }
            Finding::Clear => {
                self.counters.members_back += 1;
                if self.partition.is_some() {
                    // The others of its side are likely to be back too.
                    self.detector.hurry(now, &mut self.rng);
                }
                self.tell_soon(now, id, now);
            }
        }
        self.look_for_split(now, out);
    }

    /// Makes sure of those that were unreachable for long: whoever stands before them on the ring does.
    pub(super) fn evict_long_unreachable(&mut self, now: Time) {
        if self.roster.present_len() == self.roster.reachable_len() || !self.may_evict(now) {
            return;
        }
        let after = self.config.tuning.watch.evict_after;
        let anyway = self.rng.random_bool(1.0 / (self.roster.reachable_len() + 1) as f64);
        let mut is_ours = true;
        let mut due = Vec::new();
        for (id, state) in self.roster.successors() {
            if state != MemberState::Unreachable {
                is_ours = false;
                if anyway {
                    continue;
                }
                // Whoever else is unreachable is for others to look after.
                break;
            }
            let entry = self.roster.get(id).expect("it is on the ring");
            let standing = entry.standing;
            // Whoever is heard now and then is in trouble, and not gone.
            let silent_since = entry.evidence.last().map_or(standing.since, |heard| heard.max(standing.since));
            let wait = if is_ours { after } else { after * EVICT_ANYWAY };
            if standing.finding.accuses() && (is_ours || anyway) && now.since(silent_since) >= wait {
                due.push(id);
            }
            if due.len() >= EVICTED_AT_ONCE {
                break;
            }
        }
        for id in due {
            self.detector.confirm_gone(now, id, &self.roster, &mut self.rng);
        }
    }

    /// A member's state changed: the program hears of it at `due` if it still stands then, with others' that change in
    /// the same moments.
    fn tell_soon(&mut self, now: Time, id: NodeId, due: Time) {
        self.untold.insert(id, due);
        let at = due.max(self.told + TELL_EVERY);
        self.tell_at = Some(self.tell_at.map_or(at, |earlier| earlier.min(at)).max(now));
    }

    pub(super) fn tell_states(&mut self, now: Time, out: &mut Outbox) {
        if self.tell_at.is_none_or(|at| now < at) {
            return;
        }
        let (due, later): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.untold).into_iter().partition(|(_, due)| *due <= now);
        let is_news = |id: &NodeId| {
            let entry = self.roster.get(*id)?;
            let is_told = entry.told.is_some() && entry.told_state == entry.state;
            (!is_told && entry.state.is_present()).then_some((*id, entry.state))
        };
        let news: Vec<_> = due.keys().filter_map(is_news).collect();
        if news.iter().any(|(_, state)| *state == MemberState::Unreachable) {
            self.tell_split(out);
        }
        for (id, state) in news {
            if let Some(shown) = self.restate(id, state) {
                // What others find of whom we suspect is not to wait for it.
                if state != MemberState::Suspect {
                    self.told = now;
                }
                out.events.push(Event::MemberChanged(shown));
            }
        }
        self.tell_at = later.values().min().map(|due| (*due).max(self.told + TELL_EVERY));
        self.untold = later;
    }

    /// The verdict about a subject of the rumors, as it stands here now.
    fn verdict_on(&self, (subject, generation): (NodeId, Generation)) -> Option<Verdict> {
        let me = self.peer();
        if subject == me.id {
            return (generation == me.generation).then(|| self.own.verdict(subject, generation));
        }
        let entry = self.roster.get(subject).filter(|entry| entry.peer.generation == generation)?;
        Some(entry.standing.verdict(subject, generation))
    }

    /// Sends every verdict that is new here: along the tree, to the successor, and to somebody at random.
    pub(super) fn flush_verdicts(&mut self, out: &mut Outbox) {
        let hot = self.verdicts.take_hot();
        let reachable = self.roster.reachable_len();
        if reachable == 0 || hot.is_empty() {
            return;
        }
        // The more is lost, the more are told beside the tree.
        let beside = 1 + ((1.0 - self.detector.answer_ratio()) * BESIDE_BY_LOSS).ceil() as usize;
        let random: Vec<_> =
            (0..beside.min(BESIDE_MAX)).filter_map(|_| self.roster.nth(self.rng.random_range(0..reachable))).collect();
        let beside: Vec<_> = self.roster.successor().into_iter().chain(random).collect();
        let mut parcels: BTreeMap<(NodeId, u64), Vec<Verdict>> = BTreeMap::new();
        for news in hot {
            let Some(verdict) = self.verdict_on(news.subject) else { continue };
            let mut told = vec![verdict.subject];
            if news.until != 0 {
                for (child, end) in self.roster.children(news.until) {
                    told.push(child);
                    parcels.entry((child, end)).or_default().push(verdict);
                }
            }
            for &id in beside.iter().filter(|_| news.is_new) {
                if !told.contains(&id) {
                    told.push(id);
                    parcels.entry((id, 0)).or_default().push(verdict);
                }
            }
        }
        for ((to, until), verdicts) in parcels {
            let Some(to) = self.roster.get(to).map(|entry| entry.peer) else { continue };
            for some in verdicts.chunks(VERDICTS_MAX) {
                self.counters.verdicts_sent += some.len() as u64;
                self.send(&to, out, |filling| filling.verdicts(until, some));
            }
        }
    }

    /// A member believes otherwise than we do: what was found of late may not have reached it. What lasts is for a
    /// sync.
    pub(super) fn push_verdicts(&mut self, now: Time, to: Peer, out: &mut Outbox) {
        let is_due = self.pushed.get(&to.id).is_none_or(|at| now.since(*at) >= PUSH_EVERY);
        if self.verdicts.len() == 0 || !is_due {
            return;
        }
        let subjects: Vec<_> = self.verdicts.recent(VERDICTS_MAX).into_iter().copied().collect();
        self.pushed.insert(to.id, now);
        let verdicts: Vec<_> = subjects.into_iter().filter_map(|subject| self.verdict_on(subject)).collect();
        self.counters.verdicts_sent += verdicts.len() as u64;
        self.send(&to, out, |filling| filling.verdicts(0, &verdicts));
    }

    /// Fills the room that is left in a datagram with verdicts that have repeats left.
    pub(super) fn repeat_verdicts(&mut self, to: NodeId, filling: &mut Outgoing) {
        let room = (filling.room().saturating_sub(16) / VERDICT_BYTES_MAX).min(VERDICTS_MAX);
        let mut subjects = Vec::new();
        self.verdicts.repeat(|subject| {
            if subjects.len() >= room {
                return false;
            }
            if subject.0 == to {
                return false;
            }
            subjects.push(*subject);
            true
        });
        let verdicts: Vec<_> = subjects.into_iter().filter_map(|subject| self.verdict_on(subject)).collect();
        if !verdicts.is_empty() {
            self.counters.verdicts_sent += verdicts.len() as u64;
            if filling.verdicts(0, &verdicts).is_err() {
                self.counters.bugs += 1;
            }
        }
    }
}

const _: () = assert!(
    crate::wire::HEADER_BYTES + 3 + 8 + VERDICTS_MAX * VERDICT_BYTES_MAX + 3 + 17 + crate::wire::SEAL_BYTES
        <= crate::wire::DATAGRAM_BYTES_MAX
);
