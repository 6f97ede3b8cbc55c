//! Who can be reached: each member observes its successor on the ring, asks others before it accuses anybody, and
//! doubts itself first. Says what it found; knows nothing of how that is told to everybody, and of records.
//!
//! - A **round** comes every `observe_every`: the next reachable member on the ring is probed, and in turn whoever
//!   before it is not reachable, and whom we convicted. So everybody is probed by one other at a steady pace (as in
//!   Rapid: Suresh and others, USENIX ATC 2018, whose observers also stand on a ring), and the wait for the first probe
//!   of a dead member is at most one period, where random probing has a long tail (SWIM, section 4.3).
//! - An **attempt** is a probe and its quick retries, each after the timeout that the link's round-trip times suggest.
//!   Where nearly all probes are answered, the first that is not has us look further along the ring already: at four
//!   members more, and at twice as many for each that is silent in a row. So a run of dead neighbours is not taken one
//!   at a time. (Two at first found the last of them a tenth of a second later. Four times as many for each found them
//!   no sooner, and a split of 128 cost a third more packets in its worst second.)
//! - A **case** begins when an attempt failed: other members probe the accused as well, and the accuser (`hearing`,
//!   and `help` on their side). The room `case` says when that is enough. Meanwhile we look further, on lossy links
//!   too. Silence that ends looks like loss for a moment: before anybody is found lossy, all are asked once more.
//! - A **trial** probes an accused member that answers again, until its answers are as many as others'.

mod case;
mod course;
mod health;
mod hearing;
mod help;
mod link;
mod salvo;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

pub(crate) use case::Tally;
use case::Testimony;
pub(crate) use course::{probes_of_an_attempt, until_convicted, until_refuted};
use health::Health;
use hearing::{BackedOff, Case};
pub use hearing::{CASES_MAX, CASES_WHILE_LOST_MAX};
pub use help::HELPS_MAX;
use help::{HELP_KEPT, Help};
pub use link::Rtt;
use link::{Answers, Late, TIMEOUT_MAX};
use salvo::{Ping, Purpose, Salvo};
use trial::TRIAL_EVERY;

use crate::counters::Counters;
use crate::histogram::Histogram;
use crate::peer::{MemberState, NodeId, Peer};
use crate::roster::Roster;
use crate::story::Seen;
use crate::time::Time;
use crate::verdict::Finding;
use crate::wire::Probe;

/// Probes whose answers are awaited at once; beyond, the oldest is given up.
pub const AWAITED_MAX: usize = 4_096;

/// How long a probe's answer is still recognised.
const AWAITED_FOR: Duration = Duration::from_secs(5);

/// A wake that comes later than it was due by this much was a stall of our own: three times what a busy machine with a
/// hundred members was seen to need.
const STALL_MIN: Duration = Duration::from_millis(60);

/// The most tries of one attempt.
const TRIES_MAX: u8 = 8;

/// How long the first answer of a link may take while no link is known at all.
const FIRST_TIMEOUT: Duration = Duration::from_millis(500);

/// Members that cannot be reached which are probed in one round.
const ABSENT_PROBED: usize = 4;

/// How far along the ring a round looks for a member that can be reached.
const WALK_MAX: usize = 512;

/// The share of our probes that is answered from which on one that is not has us look further along the ring.
const CLEAN_RATIO: f64 = 0.9;

/// How many more are looked at behind the first that is silent; how often that doubles along a run of them, and how
/// often while we are lost.
const LOOK: u32 = 4;
const LOOK_DOUBLED_MAX: u32 = 6;
const LOOK_DOUBLED_WHILE_LOST_MAX: u32 = 1;

/// The share of our probes that is answered below which we look no further than need be, and say nothing for ourselves.
const LOST_RATIO: f64 = 1.0 / 3.0;

/// After news of somebody unreachable everybody probes at once, but no more often than this.
const HURRY_EVERY: Duration = Duration::from_millis(500);

/// Within how long after such news the round comes.
const HURRY_WITHIN: Duration = Duration::from_millis(20);

/// What of the detector may be set.
#[derive(Clone, PartialEq, Debug)]
pub struct Watch {
    /// How often a member probes the one that it observes.
    pub observe_every: Duration,
    /// The least time that a probe waits for its answer; more where the link is slower.
    pub answer_within: Duration,
    /// The least number of unanswered probes after which others are asked; more where links are lossy. At most 8.
    pub tries: usize,
    /// How many others are asked.
    pub witnesses: usize,
    /// For how long a member must be unreachable before it is taken to be gone.
    pub evict_after: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            observe_every: Duration::from_secs(1),
            answer_within: Duration::from_millis(80),
            tries: 3,
            witnesses: 6,
            evict_after: Duration::from_secs(30),
        }
    }
}

/// What the detector wants done, or found out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Act {
    /// Send this.
    Say { to: Peer, probe: Probe },
    /// We cannot reach it any more; others may.
    Suspect(NodeId),
    /// We reach it again.
    Clear(NodeId),
    /// A quorum does not reach it.
    Convict { peer: Peer, finding: Finding, witnesses: u8 },
    /// It answers as others do.
    Release { peer: Peer, sent: u32, answered: u32 },
    /// Nobody answers us, or somebody does again.
    CutOff(bool),
    /// Somebody reaches it, or nobody could say, when it was to be made sure that it is gone.
    NotGone { id: NodeId, by: Option<NodeId> },
    /// Something for the story.
    Saw { subject: NodeId, seen: Seen },
}

#[derive(Debug)]
struct Attempt {
    salvo: Salvo,
    tries: u8,
}

/// Watches over the others.
#[derive(Debug)]
pub(crate) struct Detector {
    watch: Watch,
    /// Our own zone; may be empty.
    zone: Arc<str>,
    round_at: Time,
    hurried: Option<Time>,
    heard: Time,
    answered: Option<Time>,
    is_cut_off: bool,
    /// When a member that did not answer last answered again.
    cleared: Option<Time>,
    numbers: u32,
    awaited: BTreeMap<u32, (Time, NodeId, Purpose)>,
    attempts: BTreeMap<NodeId, Attempt>,
    cases: BTreeMap<NodeId, Case>,
    helps: BTreeMap<(NodeId, u32), Help>,
    trials: BTreeMap<NodeId, Salvo>,
    /// Members that we cannot reach ourselves.
    suspects: BTreeSet<NodeId>,
    /// Members whom we convicted last. What nobody else believes, nobody else takes back.
    convicts: BTreeSet<NodeId>,
    links: BTreeMap<NodeId, Rtt>,
    late: Late,
    /// Over all links.
    usual: Option<Rtt>,
    /// When we last stood still: answers to probes from before tell nothing of their link.
    stalled: Time,
    /// Whom others reach and we do not.
    backed_off: BTreeMap<NodeId, BackedOff>,
    /// The roster's turn at which all links were to present members; `None` once there is a further one.
    links_tidied: Option<u64>,
    answers: Answers,
    health: Health,
    /// When the latest news of any case came.
    news: Time,
    /// Where in the run of absent members the next round goes on.
    absent_from: usize,
    suspects_from: usize,
    convicts_from: usize,
    /// After an accusation that came to nothing, when the next may begin: later, the more we doubt ourselves.
    accuse_from: Time,
    acts: Vec<Act>,
    /// What was counted.
    pub(crate) counts: Counters,
    /// How long answers took.
    pub(crate) rtts_seen: Histogram,
}

impl Detector {
    /// Watches over the others from a zone, which may be empty.
    pub(crate) fn new(watch: Watch, zone: Arc<str>, now: Time, rng: &mut Xoshiro256PlusPlus) -> Self {
        // Members that start together must not probe together.
        let round_at = now + watch.observe_every.mul_f64(rng.random_range(0.0..1.0));
        Self {
            watch,
            zone,
            round_at,
            hurried: None,
            heard: now,
            answered: None,
            is_cut_off: false,
            cleared: None,
            numbers: 0,
            awaited: BTreeMap::new(),
            attempts: BTreeMap::new(),
            cases: BTreeMap::new(),
            helps: BTreeMap::new(),
            trials: BTreeMap::new(),
            suspects: BTreeSet::new(),
            convicts: BTreeSet::new(),
            links: BTreeMap::new(),
            late: Late::default(),
            usual: None,
            stalled: now,
            backed_off: BTreeMap::new(),
            links_tidied: None,
            answers: Answers::new(),
            health: Health::default(),
            news: now,
            absent_from: 0,
            suspects_from: 0,
            convicts_from: 0,
            accuse_from: now,
            acts: Vec::new(),
            counts: Counters::default(),
            rtts_seen: Histogram::default(),
        }
    }

    /// What is to be done; in order.
    pub(crate) fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// Whether there is anything to be done.
    pub(crate) const fn has_acts(&self) -> bool {
        !self.acts.is_empty()
    }

    /// Whether probes of ours were answered in the last few rounds, and not only by a few as deaf as we are.
    pub(crate) fn is_answered(&self, now: Time) -> bool {
        !self.is_lost() && self.answered.is_some_and(|at| now.since(at) <= self.watch.observe_every * 3)
    }

    /// Whether nobody answers us.
    pub(crate) const fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// Whether hardly anybody answers us: most of the cluster, or we, must be behind a cut.
    const fn is_lost(&self) -> bool {
        self.answers.ratio() < LOST_RATIO
    }

    /// How much we doubt ourselves: 0 not at all, 8 at most.
    pub(crate) const fn health(&self) -> u8 {
        self.health.score()
    }

    /// The part of our probes that is answered of late.
    pub(crate) const fn answer_ratio(&self) -> f64 {
        self.answers.ratio()
    }

    /// The round-trip time to a member, if it was probed.
    pub(crate) fn rtt(&self, id: NodeId) -> Option<Rtt> {
        self.links.get(&id).copied()
    }

    /// The round-trip times to all members that were probed.
    pub(crate) fn rtts(&self) -> impl Iterator<Item = (NodeId, Rtt)> {
        self.links.iter().map(|(id, rtt)| (*id, *rtt))
    }

    /// The round-trip time over all links; `None` before the first answer.
    pub(crate) const fn usual_rtt(&self) -> Option<Rtt> {
        self.usual
    }

    /// Probes awaited, cases, and cases of others that we witness, under way.
    pub(crate) fn lens(&self) -> (usize, usize, usize) {
        (self.awaited.len(), self.cases.len(), self.helps.len())
    }

    /// When something is due.
    pub(crate) fn next_wake(&self) -> Time {
        let attempts = self.attempts.values().map(|attempt| attempt.salvo.next);
        let cases = self.cases.values().map(|case| {
            let due = case.salvo.next.min(case.until);
            if case.is_news { due.min(self.news) } else { due }
        });
        let helps = self.helps.values().filter(|help| !help.is_reported).map(|help| help.accused.next);
        let trials = self.trials.values().map(|salvo| salvo.next);
        attempts.chain(cases).chain(helps).chain(trials).fold(self.round_at, Time::min)
    }

    /// Does what is due.
    pub(crate) fn wake(&mut self, now: Time, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        let late = now.since(self.next_wake());
        if late >= STALL_MIN {
            self.stalled(now, late);
        }
        if now >= self.round_at {
            self.round(now, roster, rng);
        }
        self.step_attempts(now, roster, rng);
        self.step_cases(now, roster, rng);
        self.step_helps(now);
        self.step_trials(now);
        while let Some(oldest) = self.awaited.first_entry() {
            if now.since(oldest.get().0) <= AWAITED_FOR {
                break;
            }
            oldest.remove();
        }
    }

    /// Forgets whom the roster does not know any more.
    pub(crate) fn keep_house(&mut self, now: Time, roster: &Roster) {
        let is_present = |id: &NodeId| roster.get(*id).is_some_and(|entry| entry.state.is_present());
        if self.links_tidied.replace(roster.turn()) != Some(roster.turn()) {
            self.links.retain(|id, _| is_present(id));
        }
        self.late.retain(|id| is_present(&id));
        self.suspects.retain(is_present);
        self.trials.retain(|id, _| is_present(id));
        self.backed_off.retain(|id, _| is_present(id));
        // Over slow links a witness takes longer than it remembers.
        self.helps.retain(|_, help| !help.is_reported || now.since(help.asked) <= HELP_KEPT);
    }

    /// We stood still: what was not answered meanwhile says nothing.
    fn stalled(&mut self, now: Time, stall: Duration) {
        self.counts.stalls += 1;
        self.health.worse(1);
        self.stalled = now;
        self.attempts.values_mut().for_each(|attempt| attempt.salvo.void(now));
        for case in self.cases.values_mut() {
            self.numbers = self.numbers.wrapping_add(1);
            case.ask_anew(self.numbers);
            case.salvo.void(now);
            (case.opened, case.until) = (case.opened + stall, case.until + stall);
        }
        for help in self.helps.values_mut().filter(|help| !help.is_reported) {
            help.accused.void(now);
            help.accuser.void(now);
        }
        self.trials.clear();
        // Whoever accused us meanwhile says so in its answer.
        self.round_at = now;
        self.heard = now;
    }

    /// Probes whoever is ours to observe, and some of those that cannot be reached.
    fn round(&mut self, now: Time, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        self.round_at = now + self.watch.observe_every;
        let mut absent = self.look(now, roster);
        if !absent.is_empty() {
            self.absent_from %= absent.len();
            absent.rotate_left(self.absent_from);
            self.absent_from += ABSENT_PROBED;
            absent.truncate(ABSENT_PROBED);
        }
        let suspects = some_of(&self.suspects, &mut self.suspects_from);
        let is_unreachable = |id: &NodeId| roster.get(*id).is_some_and(|entry| entry.state == MemberState::Unreachable);
        self.convicts.retain(is_unreachable);
        let convicts = some_of(&self.convicts, &mut self.convicts_from);
        // Whoever stands before an unreachable member may have a bad link to it: now and then somebody else tries it,
        // so that two others do in each period.
        let lost = roster.present_len() - roster.reachable_len();
        let share = 2.0 * lost as f64 / (roster.reachable_len() + 1) as f64;
        let elsewhere = (lost > 0 && rng.random_bool(share.min(1.0)))
            .then(|| roster.nth_unreachable(rng.random_range(0..lost)))
            .flatten();
        for id in absent.into_iter().chain(suspects).chain(convicts).chain(elsewhere) {
            self.attempt(now, id, roster);
        }
    }

    /// Probes whoever is ours to observe, and more behind a run of members that leave us without an answer: whoever
    /// stands behind one that answers is for that one to observe. Gives whom it passed that cannot be reached.
    fn look(&mut self, now: Time, roster: &Roster) -> Vec<NodeId> {
        let most = if self.is_lost() { LOOK_DOUBLED_WHILE_LOST_MAX } else { LOOK_DOUBLED_MAX };
        let mut doubted = 0;
        let mut wanted = 1_u32;
        // Where more is lost, the run of whoever lost a probe would go on and on.
        let is_clean = self.answers.ratio() >= CLEAN_RATIO;
        let mut is_run = true;
        let mut absent = Vec::new();
        for (id, state) in roster.successors().take(WALK_MAX) {
            if state == MemberState::Unreachable {
                absent.push(id);
                continue;
            }
            self.attempt(now, id, roster);
            let is_case = self.cases.contains_key(&id);
            is_run &= is_case || (is_clean && self.is_overdue(id));
            if is_run {
                wanted = wanted.max(LOOK << doubted.min(most));
                doubted += 1;
                continue;
            }
            if is_case {
                continue;
            }
            wanted -= 1;
            if wanted == 0 {
                break;
            }
        }
        absent
    }

    /// Whether a member that we reached up to now has left a probe unanswered.
    fn is_overdue(&self, id: NodeId) -> bool {
        let is_retried = self.attempts.get(&id).is_some_and(|attempt| attempt.salvo.pings.len() > 1);
        is_retried && !self.suspects.contains(&id)
    }

    /// Sends the probes that are due.
    fn begin_attempts(&mut self, now: Time) {
        let fresh: Vec<_> = self.attempts.keys().copied().collect();
        for id in fresh {
            self.step_attempts_of(now, id);
        }
    }

    /// Somebody was found unreachable: it may not be alone, so everybody looks at once.
    pub(crate) fn hurry(&mut self, now: Time, rng: &mut Xoshiro256PlusPlus) {
        if self.hurried.is_none_or(|at| now.since(at) >= HURRY_EVERY) {
            self.hurried = Some(now);
            self.round_at = self.round_at.min(now + HURRY_WITHIN.mul_f64(rng.random_range(0.0..1.0)));
        }
    }

    /// There is reason to ask whether a member is there.
    pub(crate) fn doubt(&mut self, now: Time, id: NodeId, roster: &Roster) {
        self.attempt(now, id, roster);
        self.step_attempts_of(now, id);
    }

    fn attempt(&mut self, now: Time, id: NodeId, roster: &Roster) {
        let is_under_way =
            self.attempts.contains_key(&id) || self.cases.contains_key(&id) || self.trials.contains_key(&id);
        if is_under_way {
            return;
        }
        let Some(entry) = roster.get(id).filter(|entry| entry.state.is_present()) else { return };
        let most = if entry.state == MemberState::Unreachable { 1 } else { TRIES_MAX };
        let least = u8::try_from(self.watch.tries).unwrap_or(TRIES_MAX);
        let tries = self.answers.tries(least.min(most), most);
        self.attempts.insert(id, Attempt { salvo: Salvo::new(entry.peer, now), tries });
    }

    fn timeout(&self, id: NodeId) -> Duration {
        let least = self.watch.answer_within;
        // Of a link that nobody knows, somewhat more than what is usual is thought to be right.
        let unknown = || course::unknown(self.usual, least);
        let timeout = self.links.get(&id).map_or_else(unknown, |rtt| rtt.timeout(least));
        self.health.stretch(timeout)
    }

    fn ping(&mut self, now: Time, to: Peer, purpose: Purpose) -> Ping {
        self.numbers = self.numbers.wrapping_add(1);
        let number = self.numbers;
        if self.awaited.len() >= AWAITED_MAX {
            self.awaited.pop_first();
        }
        self.awaited.insert(number, (now, to.id, purpose));
        self.counts.probes_sent += 1;
        self.acts.push(Act::Say { to, probe: Probe::Ping { number, accusation: None } });
        Ping { number, at: now, was_answered: false }
    }

    fn saw(&mut self, subject: NodeId, seen: Seen) {
        self.acts.push(Act::Saw { subject, seen });
    }

    fn step_attempts_of(&mut self, now: Time, id: NodeId) {
        let Some(attempt) = self.attempts.get(&id).filter(|attempt| attempt.salvo.next <= now) else { return };
        if attempt.salvo.pings.len() < usize::from(attempt.tries) {
            let peer = attempt.salvo.peer;
            let timeout = self.timeout(id);
            let ping = self.ping(now, peer, Purpose::Attempt);
            let salvo = &mut self.attempts.get_mut(&id).expect("just looked at").salvo;
            salvo.pings.push(ping);
            salvo.next = now + timeout;
        }
    }

    fn step_attempts(&mut self, now: Time, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        let due: Vec<_> =
            self.attempts.iter().filter(|(_, attempt)| attempt.salvo.next <= now).map(|(id, _)| *id).collect();
        let mut is_retry = false;
        for id in due {
            let attempt = &self.attempts[&id];
            if attempt.salvo.pings.len() < usize::from(attempt.tries) {
                is_retry |= attempt.salvo.pings.len() == 1;
                self.step_attempts_of(now, id);
                continue;
            }
            let attempt = self.attempts.remove(&id).expect("just looked at");
            self.fail(now, attempt, roster, rng);
        }
        if is_retry && self.answers.ratio() >= CLEAN_RATIO {
            self.look(now, roster);
            self.begin_attempts(now);
        }
    }

    /// An attempt failed.
    fn fail(&mut self, now: Time, attempt: Attempt, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        let id = attempt.salvo.peer.id;
        self.trials.remove(&id);
        let Some(entry) = roster.get(id).filter(|entry| entry.state.is_present()) else { return };
        if entry.peer != attempt.salvo.peer || entry.state == MemberState::Unreachable {
            return;
        }
        self.counts.probes_failed += 1;
        self.answers.note(false);
        let timeout = self.timeout(id);
        if self.is_cut_off {
            // It is we whom nobody answers; what we knew of the others stays.
            return;
        }
        self.saw(id, Seen::Unanswered { probes: attempt.tries, timeout });
        let is_new = self.suspects.insert(id);
        if is_new {
            self.acts.push(Act::Suspect(id));
        }
        self.accuse(now, attempt.salvo, false, roster, rng);
        if !is_new {
            return;
        }
        // Whoever stands behind it may be gone with it.
        self.round_at = now;
        self.round(now, roster, rng);
        self.begin_attempts(now);
    }

    /// A member was heard: we are not cut off.
    pub(crate) fn hear(&mut self, now: Time) {
        self.heard = now;
        if self.is_cut_off {
            self.is_cut_off = false;
            self.acts.push(Act::CutOff(false));
        }
    }

    /// A member answered our Hello: its link is known before the first probe of it. So whoever has just joined need not
    /// wait for each first answer as on a link of which nothing is known.
    pub(crate) fn meet(&mut self, now: Time, id: NodeId, rtt: Duration) {
        // The answer of one that is only starting tells nothing of its link; nor does one from before a stall of ours.
        if rtt > FIRST_TIMEOUT || now.since(self.stalled) < rtt {
            return;
        }
        self.links.entry(id).or_insert_with(|| {
            self.links_tidied = None;
            Rtt::first(rtt)
        });
        self.usual.get_or_insert(Rtt::first(rtt));
    }

    /// We had to refute an accusation: others get our answers late, if at all.
    pub(crate) fn was_accused(&mut self) {
        self.health.worse(1);
    }

    /// Takes in a probe from a member.
    pub(crate) fn receive(&mut self, now: Time, from: Peer, probe: Probe, roster: &Roster) {
        match probe {
            Probe::Ping { number, .. } => {
                self.acts.push(Act::Say { to: from, probe: Probe::Pong { number, accusation: None } });
            }
            Probe::Pong { number, .. } => self.on_pong(now, from.id, number, roster),
            Probe::Ask { case, accused, probes, wait_ms } => {
                let is_known = roster.get(accused.id).is_some_and(|entry| entry.peer == accused);
                let wait = Duration::from_millis(wait_ms.into()).min(TIMEOUT_MAX);
                self.on_ask(now, from, (case, accused), (probes, wait), is_known);
            }
            Probe::Report { case, accused, accuser } => {
                let tally =
                    |(sent, answered): (u8, u8)| Tally { sent: sent.into(), answered: answered.min(sent).into() };
                let testimony = Testimony { accused: tally(accused), accuser: tally(accuser) };
                self.on_report(now, from.id, case, testimony);
            }
        }
    }

    fn on_pong(&mut self, now: Time, from: NodeId, number: u32, roster: &Roster) {
        let Some(&(sent, to, purpose)) = self.awaited.get(&number).filter(|(_, to, _)| *to == from) else { return };
        self.awaited.remove(&number);
        self.answered = Some(now);
        self.counts.probes_answered += 1;
        self.health.better();
        let sample = now.since(sent);
        if sent >= self.stalled {
            self.rtts_seen.note(sample);
        }
        if self.backed_off.get(&to).is_some_and(|back_off| back_off.times > 0) {
            self.backed_off.remove(&to);
        }
        let is_late = sample > self.timeout(to);
        // Whoever stood still for so long that it was found out answers the youngest probes within any timeout, and
        // those that probe it only then would never learn better. That it is back may be known before its answer is
        // here.
        let was_out = roster.get(to).is_some_and(|entry| {
            entry.state == MemberState::Unreachable || (entry.standing.turn > 0 && entry.standing.since >= sent)
        });
        // Answers that stay late are those of a slow link, of whomever.
        let is_telling = is_late || !was_out;
        if is_telling && sent >= self.stalled && sample <= TIMEOUT_MAX && self.late.is_telling(now, to, is_late) {
            match self.links.get_mut(&to) {
                Some(rtt) => rtt.note(sample),
                None => {
                    self.links.insert(to, Rtt::first(sample));
                    self.links_tidied = None;
                }
            }
            match &mut self.usual {
                Some(usual) => usual.note(sample),
                None => self.usual = Some(Rtt::first(sample)),
            }
        }
        match purpose {
            Purpose::Attempt => self.attempt_answered(now, to, number, roster),
            Purpose::Case => {
                if let Some(case) = self.cases.get_mut(&to) {
                    case.salvo.answer(number);
                    case.is_news = true;
                    self.news = now;
                }
            }
            Purpose::Accused(asker, case) => {
                if let Some(help) = self.helps.get_mut(&(asker, case)) {
                    help.accused.answer(number);
                    let is_done = help.accused.pings.iter().all(|ping| ping.was_answered)
                        && help.accused.pings.len() >= usize::from(help.wanted);
                    if is_done {
                        help.accused.next = now;
                    }
                }
            }
            Purpose::Accuser(asker, case) => {
                if let Some(help) = self.helps.get_mut(&(asker, case)) {
                    help.accuser.answer(number);
                }
            }
            Purpose::Trial => {
                if let Some(salvo) = self.trials.get_mut(&to) {
                    salvo.answer(number);
                }
            }
        }
        if self.suspects.remove(&to) {
            self.cleared = Some(now);
            self.saw(to, Seen::Answered { rtt: sample });
            self.acts.push(Act::Clear(to));
        }
    }

    fn attempt_answered(&mut self, now: Time, id: NodeId, number: u32, roster: &Roster) {
        // An answer that comes after its attempt was given up speaks in the case.
        if let Some(case) = self.cases.get_mut(&id) {
            case.salvo.answer(number);
            case.is_news = true;
            self.news = now;
            return;
        }
        let Some(attempt) = self.attempts.remove(&id) else { return };
        for ping in &attempt.salvo.pings {
            if ping.number <= number {
                self.answers.note(ping.number == number);
            }
        }
        let Some(entry) = roster.get(id).filter(|entry| entry.state == MemberState::Unreachable) else { return };
        // It has heard with the probe that it is accused, and refutes that if it may. If it does not, we are to say
        // when it is over.
        let peer = entry.peer;
        self.trials.entry(id).or_insert_with(|| Salvo::new(peer, now + TRIAL_EVERY));
    }

    /// We are alone: the next round comes at its own time once somebody is there.
    pub(crate) fn rest(&mut self, now: Time, rng: &mut Xoshiro256PlusPlus) {
        self.round_at = now + self.watch.observe_every.mul_f64(rng.random_range(0.0..1.0));
        self.heard = now;
    }

    /// A member is cleared, or gone, or begins another life: what was under way about the one before is over.
    pub(crate) fn forget(&mut self, id: NodeId) {
        self.attempts.remove(&id);
        self.cases.remove(&id);
        self.trials.remove(&id);
        self.suspects.remove(&id);
        self.backed_off.remove(&id);
    }
}

/// A few of a set, and the next time the next few.
fn some_of(set: &BTreeSet<NodeId>, from: &mut usize) -> Vec<NodeId> {
    let some = set.iter().copied().cycle().skip(*from).take(set.len().min(ABSENT_PROBED)).collect();
    *from = (*from + ABSENT_PROBED) % set.len().max(1);
    some
}

#[cfg(test)]
mod tests;
