//! Who can be reached: each member observes its successor on the ring, asks others before it accuses anybody, and
//! doubts itself first. Says what it found; knows nothing of how that is told to everybody, and of records.
//!
//! - A **round** comes every `observe_every`: the next reachable member on the ring is probed, and whoever before it is
//!   not reachable, in turn. So everybody is probed by one other at a steady pace (as in Rapid: Suresh and others,
//!   USENIX ATC 2018, whose observers also stand on a ring), and the wait for the first probe of a dead member is at
//!   most one period, where random probing has a long tail (SWIM, section 4.3).
//! - An **attempt** is a probe and its quick retries, each after the timeout that the link's round-trip times suggest.
//! - A **case** begins when an attempt failed: other members probe the accused as well, and the accuser. The room
//!   `case` says when that is enough. Meanwhile the members behind the accused are probed too, more with each step: a
//!   run of dead neighbours is not taken one period at a time.
//! - A **trial** probes an accused member that answers again, until its answers are as many as others'.

mod case;
mod course;
mod health;
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

pub(crate) use case::Tally;
use case::{QUORUM, Ruling, Testimony};
pub(crate) use course::{probes_of_an_attempt, until_convicted};
use health::Health;
pub use link::Rtt;
use link::{Answers, TIMEOUT_MAX};

use crate::counters::Counters;
use crate::peer::{MemberState, NodeId, Peer};
use crate::roster::Roster;
use crate::story::Seen;
use crate::time::Time;
use crate::verdict::Finding;
use crate::wire::Probe;

/// Probes whose answers are awaited at once; beyond, the oldest is given up.
pub const AWAITED_MAX: usize = 4_096;

/// Accusations of ours under way at once; further ones wait for the next round.
pub const CASES_MAX: usize = 64;

/// Accusations of others that we witness at once; further ones are not answered and counted.
pub const HELPS_MAX: usize = 256;

/// How many members are asked in one case, at most.
const WITNESSES_MAX: usize = 12;

/// How far along the ring a witness of a certain zone is looked for.
const ZONE_WALK_MAX: usize = 256;

/// How long a probe's answer is still recognised.
const AWAITED_FOR: Duration = Duration::from_secs(5);

/// A wake that comes later than it was due by this much was a stall of our own: three times what a busy machine with a
/// hundred members was seen to need.
const STALL_MIN: Duration = Duration::from_millis(60);

/// The most tries of one attempt.
const TRIES_MAX: u8 = 8;

/// How long an accuser waits for a report before it asks again.
const ASK_AGAIN: Duration = Duration::from_millis(150);

/// How often a member that does not report is asked before another is asked in its place.
const ASKS_MAX: u8 = 2;

/// How much longer, for each point of our health score, no accusation begins after one that came to nothing.
const HOLD_BACK: Duration = Duration::from_millis(500);

/// How long a case is open; no less than so many timeouts: on slow links witnesses take longer to say anything, and
/// where nobody else is, so many probes must stay unanswered.
const CASE_OPEN: Duration = Duration::from_millis(1_500);
const CASE_TIMEOUTS: u32 = 6;

/// Probes that a witness makes in one case, at most.
const HELP_PROBES_MAX: u8 = 24;

/// How many probes it takes at least to find that a member is gone, and how long that may take: of a member behind
/// 80 % loss, which answers one probe of 25, one in twenty such cases has no answer by chance, and whoever was heard of
/// late is not gone in any case. Not a weight of the evidence: on lossy links no number of probes would have it.
const FINAL_PROBES: u32 = 74;
const FINAL_OPEN: Duration = Duration::from_secs(4);
const FINAL_TIMEOUTS: u32 = 10;

/// The longest that an accusation of one member waits after others reached it: doubles from a second each time.
const BACK_OFF_MAX: u32 = 8;

/// For how many timeouts the one that reached a member the last time is asked alone: it needs a few probes for its word.
const KNOWN_TIMEOUTS: u32 = 2;

/// How long the first answer of a link may take while no link is known at all.
const FIRST_TIMEOUT: Duration = Duration::from_millis(500);

/// Members that we do not know, or otherwise, about whom we are asked at once: whoever asks could make us probe any
/// address.
const STRANGERS_MAX: usize = 8;

/// How long a witness remembers what it saw for being asked again.
const HELP_KEPT: Duration = Duration::from_secs(3);

/// Probes of a trial, how long after each other, and the share of the usual answers that ends the accusation.
const TRIAL_PROBES: u8 = 16;
const TRIAL_EVERY: Duration = Duration::from_millis(150);
const TRIAL_SHARE: f64 = 0.8;

/// Members that cannot be reached which are probed in one round.
const ABSENT_PROBED: usize = 4;

/// How far along the ring a round looks for a member that can be reached.
const WALK_MAX: usize = 512;

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

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Purpose {
    Attempt,
    Case,
    Accused(NodeId, u32),
    Accuser(NodeId, u32),
    Trial,
}

#[derive(Debug)]
struct Ping {
    number: u32,
    at: Time,
    was_answered: bool,
}

/// Probes of one member for one purpose.
#[derive(Debug)]
struct Salvo {
    peer: Peer,
    pings: Vec<Ping>,
    /// When the next probe is due, or the last is judged.
    next: Time,
}

impl Salvo {
    const fn new(peer: Peer, now: Time) -> Self {
        Self { peer, pings: Vec::new(), next: now }
    }

    /// Probes that were answered, or have waited for long enough.
    fn tally(&self, now: Time, timeout: Duration) -> Tally {
        let judged = self.pings.iter().filter(|ping| ping.was_answered || now.since(ping.at) >= timeout);
        Tally {
            sent: judged.count() as u32,
            answered: self.pings.iter().filter(|ping| ping.was_answered).count() as u32,
        }
    }

    /// What was not answered does not count: it was we who stood still.
    fn void(&mut self, now: Time) {
        self.pings.retain(|ping| ping.was_answered);
        self.next = now;
    }

    fn answer(&mut self, number: u32) {
        if let Some(ping) = self.pings.iter_mut().find(|ping| ping.number == number) {
            ping.was_answered = true;
        }
    }
}

#[derive(Debug)]
struct Attempt {
    salvo: Salvo,
    tries: u8,
}

#[derive(Default, Debug)]
struct Asked {
    times: u8,
    last: Time,
    testimony: Option<Testimony>,
}

#[derive(Debug)]
struct Case {
    number: u32,
    salvo: Salvo,
    witnesses: BTreeMap<NodeId, Asked>,
    opened: Time,
    until: Time,
    /// Something was learned: whether that is enough is for the next wake to say, when all that has come is read.
    is_news: bool,
    /// Whether it is to make sure that the accused is gone.
    is_final: bool,
}

#[derive(Debug)]
struct Help {
    accused: Salvo,
    accuser: Salvo,
    wanted: u8,
    /// How long the accuser would wait for an answer.
    wait: Duration,
    /// Whether we know the accused.
    is_known: bool,
    asked: Time,
    is_reported: bool,
}

/// What came of asking about a member.
#[derive(Clone, Copy, Debug)]
struct BackedOff {
    /// How often others reached it.
    times: u32,
    /// Until when we ask no more.
    until: Time,
    /// Who reached it the last time.
    by: Option<NodeId>,
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
    numbers: u32,
    awaited: BTreeMap<u32, (Time, NodeId, Purpose)>,
    attempts: BTreeMap<NodeId, Attempt>,
    cases: BTreeMap<NodeId, Case>,
    helps: BTreeMap<(NodeId, u32), Help>,
    trials: BTreeMap<NodeId, Salvo>,
    /// Members that we cannot reach ourselves.
    suspects: BTreeSet<NodeId>,
    links: BTreeMap<NodeId, Rtt>,
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
    /// After an accusation that came to nothing, when the next may begin: later, the more we doubt ourselves.
    accuse_from: Time,
    acts: Vec<Act>,
    /// What was counted.
    pub(crate) counts: Counters,
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
            numbers: 0,
            awaited: BTreeMap::new(),
            attempts: BTreeMap::new(),
            cases: BTreeMap::new(),
            helps: BTreeMap::new(),
            trials: BTreeMap::new(),
            suspects: BTreeSet::new(),
            links: BTreeMap::new(),
            usual: None,
            stalled: now,
            backed_off: BTreeMap::new(),
            links_tidied: None,
            answers: Answers::new(),
            health: Health::default(),
            news: now,
            absent_from: 0,
            suspects_from: 0,
            accuse_from: now,
            acts: Vec::new(),
            counts: Counters::default(),
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

    /// Whether somebody answered a probe of ours in the last few rounds.
    pub(crate) fn is_answered(&self, now: Time) -> bool {
        self.answered.is_some_and(|at| now.since(at) <= self.watch.observe_every * 3)
    }

    /// Whether nobody answers us.
    pub(crate) const fn is_cut_off(&self) -> bool {
        self.is_cut_off
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
    pub(crate) fn rtts(&self) -> impl Iterator<Item = Rtt> {
        self.links.values().copied()
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
        self.suspects.retain(is_present);
        self.trials.retain(|id, _| is_present(id));
        self.backed_off.retain(|id, _| is_present(id));
        self.helps.retain(|_, help| now.since(help.asked) <= HELP_KEPT);
    }

    /// We stood still: what was not answered meanwhile says nothing.
    fn stalled(&mut self, now: Time, stall: Duration) {
        self.counts.stalls += 1;
        self.health.worse(1);
        self.stalled = now;
        self.attempts.values_mut().for_each(|attempt| attempt.salvo.void(now));
        for case in self.cases.values_mut() {
            // What the witnesses saw before is old; they are asked anew, under a new number.
            self.numbers = self.numbers.wrapping_add(1);
            case.number = self.numbers;
            case.witnesses.values_mut().for_each(|asked| *asked = Asked::default());
            case.salvo.void(now);
            case.until = case.until + stall;
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
        // Behind whoever is being doubted, more are looked at: a run of dead members is not taken one by one.
        let mut doubted = 0_usize;
        let mut wanted = 1;
        let mut absent = Vec::new();
        for (id, state) in roster.successors().take(WALK_MAX) {
            if state == MemberState::Unreachable {
                absent.push(id);
                continue;
            }
            self.attempt(now, id, roster);
            if self.cases.contains_key(&id) {
                doubted += 1;
                wanted = wanted.max(1 << doubted.min(8));
                continue;
            }
            wanted -= 1;
            if wanted == 0 {
                break;
            }
        }
        if !absent.is_empty() {
            self.absent_from %= absent.len();
            absent.rotate_left(self.absent_from);
            self.absent_from += ABSENT_PROBED;
            absent.truncate(ABSENT_PROBED);
        }
        let some = self.suspects.len().min(ABSENT_PROBED);
        let suspects: Vec<_> = self.suspects.iter().copied().cycle().skip(self.suspects_from).take(some).collect();
        self.suspects_from = (self.suspects_from + ABSENT_PROBED) % self.suspects.len().max(1);
        // Whoever stands before an unreachable member may have a bad link to it: now and then somebody else tries it,
        // so that two others do in each period.
        let lost = roster.present_len() - roster.reachable_len();
        let share = 2.0 * lost as f64 / (roster.reachable_len() + 1) as f64;
        let elsewhere = (lost > 0 && rng.random_bool(share.min(1.0)))
            .then(|| roster.nth_unreachable(rng.random_range(0..lost)))
            .flatten();
        for id in absent.into_iter().chain(suspects).chain(elsewhere) {
            self.attempt(now, id, roster);
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
        for id in due {
            let attempt = &self.attempts[&id];
            if attempt.salvo.pings.len() < usize::from(attempt.tries) {
                self.step_attempts_of(now, id);
                continue;
            }
            let attempt = self.attempts.remove(&id).expect("just looked at");
            self.fail(now, attempt, roster, rng);
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
        if self.suspects.insert(id) {
            self.acts.push(Act::Suspect(id));
        }
        self.accuse(now, attempt.salvo, false, roster, rng);
        // Whoever stands behind it may be gone with it.
        self.round_at = now;
        self.round(now, roster, rng);
        let fresh: Vec<_> = self.attempts.keys().copied().collect();
        for id in fresh {
            self.step_attempts_of(now, id);
        }
    }

    /// Makes sure that a member that was unreachable for long is gone.
    pub(crate) fn confirm_gone(&mut self, now: Time, id: NodeId, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        if let Some(entry) = roster.get(id).filter(|_| !self.cases.contains_key(&id) && !self.is_backed_off(now, id)) {
            // If it is not gone now, that is not asked again and again until chance has it so.
            self.backed_off.insert(id, BackedOff { times: 0, until: now + self.watch.evict_after, by: None });
            self.attempts.remove(&id);
            self.accuse(now, Salvo::new(entry.peer, now), true, roster, rng);
        }
    }

    /// Makes sure that a member is gone, because an operator says so: however lately that was asked.
    pub(crate) fn make_sure(&mut self, now: Time, id: NodeId, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        self.backed_off.remove(&id);
        self.confirm_gone(now, id, roster, rng);
    }

    /// Whether others are being asked about a member.
    pub(crate) fn has_case(&self, id: NodeId) -> bool {
        self.cases.contains_key(&id)
    }

    fn is_backed_off(&self, now: Time, id: NodeId) -> bool {
        self.backed_off.get(&id).is_some_and(|back_off| now < back_off.until)
    }

    fn accuse(&mut self, now: Time, salvo: Salvo, is_final: bool, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        if !is_final && (now < self.accuse_from || self.is_backed_off(now, salvo.peer.id)) {
            self.counts.accusations_withheld += 1;
            return;
        }
        if self.cases.len() >= CASES_MAX {
            self.counts.accusations_limited += 1;
            return;
        }
        self.counts.accusations += 1;
        self.numbers = self.numbers.wrapping_add(1);
        let id = salvo.peer.id;
        let (open, timeouts) = if is_final { (FINAL_OPEN, FINAL_TIMEOUTS) } else { (CASE_OPEN, CASE_TIMEOUTS) };
        // Timeouts are stretched already.
        let until = now + self.health.stretch(open).max(self.timeout(id) * timeouts);
        let salvo = Salvo { next: now, ..salvo };
        let case = Case {
            number: self.numbers,
            salvo,
            witnesses: BTreeMap::new(),
            opened: now,
            until,
            is_news: false,
            is_final,
        };
        self.cases.insert(id, case);
        let known = self.backed_off.get(&id).and_then(|back_off| back_off.by);
        let known = known.filter(|by| !is_final && roster.is_reachable(*by) && !self.suspects.contains(by));
        if let Some(by) = known {
            // If it is still only our link to it that is cut, one question says so.
            self.cases.get_mut(&id).expect("just made").witnesses.insert(by, Asked::default());
            self.ask(now, id, by, roster);
        } else {
            self.ask_more(now, id, self.watch.witnesses, roster, rng);
        }
        let witnesses = self.cases[&id].witnesses.len();
        self.saw(id, Seen::Asked { witnesses, is_final });
    }

    /// Asks up to `count` members that were not asked yet.
    fn ask_more(&mut self, now: Time, id: NodeId, count: usize, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        let reachable = roster.reachable_len();
        // At first one beside the accused and one beside us: a link between zones that is cut for one side only is then
        // seen for what it is.
        let is_first = self.cases.get(&id).is_some_and(|case| case.witnesses.len() <= 1);
        let mut fresh = if is_first { self.of_both_zones(id, roster, rng) } else { Vec::new() };
        let Some(case) = self.cases.get_mut(&id) else { return };
        fresh.retain(|other| !case.witnesses.contains_key(other));
        fresh.truncate(count);
        let room = WITNESSES_MAX.saturating_sub(case.witnesses.len());
        let start = if reachable > 0 { rng.random_range(0..reachable) } else { 0 };
        // From a random place on in strides, so that neighbours on the ring, which may be gone together, are not asked
        // together; every place comes once.
        let stride = (reachable / (count + 1)).max(1);
        for step in 0..reachable.min(4 * WITNESSES_MAX) {
            if fresh.len() >= count.min(room) {
                break;
            }
            let index = (start + step * stride + step * stride / reachable) % reachable;
            let Some(other) = roster.nth(index) else { break };
            let is_fit = other != id && !self.suspects.contains(&other) && !case.witnesses.contains_key(&other);
            if is_fit && !fresh.contains(&other) {
                fresh.push(other);
            }
        }
        for other in fresh {
            self.cases.get_mut(&id).expect("just looked at").witnesses.insert(other, Asked::default());
            self.ask(now, id, other, roster);
        }
    }

    /// A member of the zone of the accused, and one of ours, as far as zones are known and there are such.
    fn of_both_zones(&self, id: NodeId, roster: &Roster, rng: &mut Xoshiro256PlusPlus) -> Vec<NodeId> {
        let zone_of = |id: NodeId| roster.get(id).and_then(|entry| entry.shown.as_ref()).map(|shown| &*shown.zone);
        let accused = zone_of(id).unwrap_or_default();
        let reachable = roster.reachable_len();
        let mut found = Vec::new();
        for zone in [accused, &*self.zone].into_iter().filter(|zone| !zone.is_empty() && reachable > 0) {
            let start = rng.random_range(0..reachable);
            let is_fit = |other: &NodeId| {
                *other != id
                    && zone_of(*other) == Some(zone)
                    && !self.suspects.contains(other)
                    && !found.contains(other)
            };
            let walk = (0..reachable.min(ZONE_WALK_MAX)).filter_map(|step| roster.nth((start + step) % reachable));
            let one = walk.into_iter().find(is_fit);
            found.extend(one);
        }
        found
    }

    fn ask(&mut self, now: Time, id: NodeId, other: NodeId, roster: &Roster) {
        let Some(to) = roster.get(other).map(|entry| entry.peer) else { return };
        let wait_ms = u16::try_from(self.timeout(id).as_millis()).unwrap_or(u16::MAX);
        let Some(case) = self.cases.get_mut(&id) else { return };
        let own = case.salvo.pings.len() as u32;
        let probes = case::probes_wanted(self.answers.ratio(), own, self.watch.witnesses);
        let Some(asked) = case.witnesses.get_mut(&other) else { return };
        asked.times = asked.times.saturating_add(1);
        asked.last = now;
        let probe = Probe::Ask { case: case.number, accused: case.salvo.peer, probes, wait_ms };
        self.acts.push(Act::Say { to, probe });
    }

    fn step_cases(&mut self, now: Time, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        let due: Vec<_> = self
            .cases
            .iter()
            .filter(|(_, case)| case.salvo.next <= now || case.until <= now || case.is_news)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let is_known = roster
                .get(id)
                .is_some_and(|entry| entry.state.is_present() && entry.peer == self.cases[&id].salvo.peer);
            if !is_known {
                self.cases.remove(&id);
                continue;
            }
            if now >= self.cases[&id].until {
                self.close_undecided(now, id, roster);
                continue;
            }
            if self.cases[&id].salvo.next <= now {
                self.step_case(now, id, roster, rng);
            }
            self.judge(now, id, roster);
        }
    }

    fn step_case(&mut self, now: Time, id: NodeId, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
        let timeout = self.timeout(id);
        let again = self.health.stretch(ASK_AGAIN).max(timeout * 3 / 2);
        let case = &self.cases[&id];
        let peer = case.salvo.peer;
        let late: Vec<_> =
            case.witnesses.iter().filter(|(_, asked)| now.since(asked.last) >= again).map(|(id, _)| *id).collect();
        let mut lost = 0;
        for other in late {
            let asked = &self.cases[&id].witnesses[&other];
            if asked.testimony.is_none() && asked.times == ASKS_MAX {
                lost += 1;
            }
            self.ask(now, id, other, roster);
        }
        let case = &self.cases[&id];
        if case.witnesses.len() == 1 && now >= case.opened + timeout * KNOWN_TIMEOUTS {
            lost = lost.max(self.watch.witnesses - 1);
        }
        self.ask_more(now, id, lost, roster, rng);
        let ping = self.ping(now, peer, Purpose::Case);
        let case = self.cases.get_mut(&id).expect("just looked at");
        case.salvo.pings.push(ping);
        case.salvo.next = now + timeout;
    }

    /// How many members there are to ask about this one.
    fn others(id: NodeId, roster: &Roster) -> usize {
        let is_counted =
            roster.get(id).is_some_and(|entry| entry.state.is_present() && entry.state != MemberState::Unreachable);
        roster.reachable_len() - usize::from(is_counted)
    }

    fn judge(&mut self, now: Time, id: NodeId, roster: &Roster) {
        let quorum = QUORUM.min(Self::others(id, roster));
        let timeout = self.timeout(id);
        let Some(case) = self.cases.get_mut(&id) else { return };
        case.is_news = false;
        let ruling = Self::ruling(case, now, timeout, self.answers, quorum);
        self.follow(now, id, ruling);
    }

    fn ruling(case: &Case, now: Time, timeout: Duration, answers: Answers, quorum: usize) -> Ruling {
        let testimonies = case
            .witnesses
            .iter()
            .filter_map(|(other, asked)| asked.testimony.map(|testimony| (*other, testimony)))
            .collect();
        case::rule(
            case.salvo.tally(now, timeout),
            answers.ratio(),
            &testimonies,
            quorum,
            if case.is_final { FINAL_PROBES } else { 0 },
        )
    }

    fn follow(&mut self, now: Time, id: NodeId, ruling: Ruling) {
        match ruling {
            Ruling::Open => {}
            Ruling::Cleared { by } => {
                let Some(case) = self.cases.remove(&id) else { return };
                self.counts.accusations_cleared += 1;
                self.hold_back(now);
                let back_off = self.backed_off.entry(id).or_insert(BackedOff { times: 0, until: now, by });
                back_off.until = now + Duration::from_secs(1) * (1 << back_off.times.min(3)).min(BACK_OFF_MAX);
                back_off.times += 1;
                back_off.by = by;
                if case.is_final {
                    self.acts.push(Act::NotGone { id, by });
                }
                if !case.salvo.pings.iter().any(|ping| ping.was_answered) {
                    // Others reach it and we do not: it may be we.
                    self.health.worse(1);
                }
                self.saw(id, Seen::Cleared { by });
            }
            Ruling::Convicted { witnesses, is_lossy } => {
                let Some(case) = self.cases.remove(&id) else { return };
                let finding = match (case.is_final, is_lossy) {
                    (true, true) => {
                        self.acts.push(Act::NotGone { id, by: None });
                        return;
                    }
                    (true, false) => Finding::Down,
                    (false, true) => Finding::Lossy,
                    (false, false) => Finding::Silent,
                };
                self.counts.convictions += 1;
                self.suspects.remove(&id);
                self.acts.push(Act::Convict { peer: case.salvo.peer, finding, witnesses });
            }
        }
    }

    /// An accusation of ours came to nothing: who is unwell itself accuses less often.
    fn hold_back(&mut self, now: Time) {
        self.accuse_from = now + HOLD_BACK * u32::from(self.health.score());
    }

    /// The time is over: what can be said with the witnesses that there are?
    fn close_undecided(&mut self, now: Time, id: NodeId, roster: &Roster) {
        let timeout = self.timeout(id);
        let others = Self::others(id, roster);
        let case = &self.cases[&id];
        let heard = case.witnesses.values().filter(|asked| asked.testimony.is_some()).count();
        let opened = case.opened;
        // Where all others were asked, those that did not answer are not reachable themselves; nor are those that we
        // cannot reach, whom nobody asks.
        let lost = self.suspects.iter().filter(|other| **other != id && roster.is_reachable(**other)).count();
        let is_all = case.witnesses.len() + lost >= others;
        if others == 0 || (heard > 0 && heard < QUORUM && is_all) {
            let ruling = Self::ruling(case, now, timeout, self.answers, heard);
            if matches!(ruling, Ruling::Convicted { .. }) {
                self.follow(now, id, ruling);
                return;
            }
        }
        let was_final = self.cases.remove(&id).is_some_and(|case| case.is_final);
        if was_final {
            self.acts.push(Act::NotGone { id, by: None });
        }
        self.counts.accusations_undecided += 1;
        self.health.worse(1);
        self.hold_back(now);
        self.saw(id, Seen::Undecided { witnesses: heard });
        if heard == 0 && others > 0 && self.heard < opened && !self.is_cut_off {
            self.is_cut_off = true;
            self.counts.cut_off += 1;
            // The view stays as it was before we lost everybody.
            for id in std::mem::take(&mut self.suspects) {
                self.acts.push(Act::Clear(id));
            }
            self.acts.push(Act::CutOff(true));
        }
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
        if self.backed_off.get(&to).is_some_and(|back_off| back_off.times > 0) {
            self.backed_off.remove(&to);
        }
        if sent >= self.stalled && sample <= TIMEOUT_MAX {
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

    fn on_ask(
        &mut self,
        now: Time,
        from: Peer,
        (number, accused): (u32, Peer),
        (probes, wait): (u8, Duration),
        is_known: bool,
    ) {
        self.counts.asks_received += 1;
        let at = (from.id, number);
        if let Some(help) = self.helps.get_mut(&at) {
            help.asked = now;
            if help.is_reported {
                help.wanted = help.wanted.saturating_add(probes.clamp(1, 6)).min(HELP_PROBES_MAX);
                let goes_on = help.accused.pings.len() < usize::from(help.wanted);
                help.is_reported = !goes_on;
                help.accused.next = now;
                // What we have seen so far may have been lost on its way.
                self.report(now, at);
            }
            return;
        }
        if self.helps.len() >= HELPS_MAX {
            self.helps.retain(|_, help| now.since(help.asked) <= HELP_KEPT);
        }
        let strangers = self.helps.values().filter(|help| !help.is_known).count();
        if self.helps.len() >= HELPS_MAX || (!is_known && strangers >= STRANGERS_MAX) {
            self.counts.asks_limited += 1;
            return;
        }
        let help = Help {
            accused: Salvo::new(accused, now),
            accuser: Salvo::new(from, now),
            wanted: probes.clamp(1, 6),
            wait,
            is_known,
            asked: now,
            is_reported: false,
        };
        self.helps.insert(at, help);
        self.step_help(now, at);
    }

    fn step_helps(&mut self, now: Time) {
        let due: Vec<_> = self
            .helps
            .iter()
            .filter(|(_, help)| !help.is_reported && help.accused.next <= now)
            .map(|(at, _)| *at)
            .collect();
        for at in due {
            self.step_help(now, at);
        }
    }

    fn step_help(&mut self, now: Time, at: (NodeId, u32)) {
        let help = &self.helps[&at];
        let (accused, accuser) = (help.accused.peer, help.accuser.peer);
        let made = help.accused.pings.len();
        let timeout = self.timeout(accused.id).max(help.wait);
        if made >= usize::from(help.wanted) {
            let last = help.accused.pings.iter().filter(|ping| !ping.was_answered).map(|ping| ping.at + timeout).max();
            let help = self.helps.get_mut(&at).expect("just looked at");
            if let Some(last) = last.filter(|last| *last > now) {
                help.accused.next = last;
                return;
            }
            help.is_reported = true;
            self.report(now, at);
            return;
        }
        let to_accused = self.ping(now, accused, Purpose::Accused(at.0, at.1));
        let to_accuser = self.ping(now, accuser, Purpose::Accuser(at.0, at.1));
        let help = self.helps.get_mut(&at).expect("just looked at");
        help.accused.pings.push(to_accused);
        help.accuser.pings.push(to_accuser);
        // The accuser waits: the next does not wait for this one to be judged.
        help.accused.next = now + timeout / 3;
    }

    fn report(&mut self, now: Time, at: (NodeId, u32)) {
        let help = &self.helps[&at];
        let clip = |tally: Tally| (tally.sent.min(255) as u8, tally.answered.min(255) as u8);
        let accused = clip(help.accused.tally(now, self.timeout(help.accused.peer.id).max(help.wait)));
        let accuser = clip(help.accuser.tally(now, self.timeout(at.0)));
        let to = help.accuser.peer;
        self.acts.push(Act::Say { to, probe: Probe::Report { case: at.1, accused, accuser } });
    }

    fn on_report(&mut self, now: Time, from: NodeId, number: u32, testimony: Testimony) {
        self.counts.reports_received += 1;
        let Some((&id, case)) = self.cases.iter_mut().find(|(_, case)| case.number == number) else { return };
        let Some(asked) = case.witnesses.get_mut(&from) else { return };
        // Reports may overtake each other; what was seen only grows.
        if asked.testimony.is_some_and(|known| known.accused.sent > testimony.accused.sent) {
            return;
        }
        asked.testimony = Some(testimony);
        case.is_news = true;
        self.news = now;
        self.saw(
            id,
            Seen::Testified {
                by: from,
                sent: testimony.accused.sent,
                answered: testimony.accused.answered,
                control_sent: testimony.accuser.sent,
                control_answered: testimony.accuser.answered,
            },
        );
    }

    fn step_trials(&mut self, now: Time) {
        let due: Vec<_> = self.trials.iter().filter(|(_, salvo)| salvo.next <= now).map(|(id, _)| *id).collect();
        for id in due {
            let salvo = &self.trials[&id];
            let peer = salvo.peer;
            if salvo.pings.len() < usize::from(TRIAL_PROBES) {
                let ping = self.ping(now, peer, Purpose::Trial);
                let salvo = self.trials.get_mut(&id).expect("just looked at");
                salvo.pings.push(ping);
                salvo.next = now + TRIAL_EVERY;
                continue;
            }
            let timeout = self.timeout(id);
            let salvo = self.trials.remove(&id).expect("just looked at");
            let Tally { sent, answered } = salvo.tally(now, timeout);
            if f64::from(answered) >= TRIAL_SHARE * self.answers.ratio() * f64::from(sent) {
                self.counts.releases += 1;
                self.acts.push(Act::Release { peer, sent, answered });
            }
        }
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

#[cfg(test)]
mod tests;
