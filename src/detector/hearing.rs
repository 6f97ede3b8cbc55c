//! An accusation of ours under way: whom we ask about the accused, what we make of what they say, and when it is over.
//! When the evidence is enough says `case`. Knows nothing of why somebody is accused.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::case::{self, QUORUM, Ruling, Testimony};
use super::help::HELP_PROBES_MAX;
use super::link::Answers;
use super::salvo::{Purpose, Salvo};
use super::{Act, Detector};
use crate::peer::{MemberState, NodeId};
use crate::roster::Roster;
use crate::story::Seen;
use crate::time::Time;
use crate::verdict::Finding;
use crate::wire::Probe;

/// Accusations of ours under way at once; further ones wait for the next round.
pub const CASES_MAX: usize = 64;

/// So few while hardly anybody answers us: a few members that hear only each other would otherwise have everybody
/// probed by everybody, and their own verdicts are worth little.
pub const CASES_WHILE_LOST_MAX: usize = 2;

/// How many members are asked in one case, at most.
const WITNESSES_MAX: usize = 12;

/// How far along the ring a witness of a certain zone is looked for.
const ZONE_WALK_MAX: usize = 256;

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

/// About how many probes silence takes to convict on clean links, and how many of them a witness makes in time.
const CASE_PROBES: u32 = 16;
const CASE_PROBES_EACH: u32 = 4;

/// How many probes it takes at least to find that a member is gone, and how long that may take: of a member behind
/// 80 % loss, which answers one probe of 25, one in twenty such cases has no answer by chance, and whoever was heard of
/// late is not gone in any case. Not a weight of the evidence: on lossy links no number of probes would have it.
const FINAL_PROBES: u32 = 74;
const FINAL_OPEN: Duration = Duration::from_secs(4);
const FINAL_TIMEOUTS: u32 = 30;

/// The longest that an accusation of one member waits after others reached it: doubles from a second each time.
const BACK_OFF_MAX: u32 = 8;

/// For how many timeouts whoever reached a member the last time is asked alone: it needs a few probes for its word.
const KNOWN_TIMEOUTS: u32 = 2;

/// One that was asked.
#[derive(Default, Debug)]
pub(super) struct Asked {
    pub(super) times: u8,
    pub(super) last: Time,
    pub(super) testimony: Option<Testimony>,
}

/// An accusation of ours under way.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) number: u32,
    pub(super) salvo: Salvo,
    pub(super) witnesses: BTreeMap<NodeId, Asked>,
    pub(super) opened: Time,
    pub(super) until: Time,
    /// Something was learned: whether that is enough is for the next wake to say, when all that has come is read.
    pub(super) is_news: bool,
    /// Whether it is to make sure that the accused is gone.
    pub(super) is_final: bool,
    /// Whether it was begun anew because the accused answered some of the probes.
    pub(super) is_renewed: bool,
}

impl Case {
    /// What the witnesses saw is old: they are asked anew, under a new number.
    pub(super) fn ask_anew(&mut self, number: u32) {
        self.number = number;
        self.witnesses.values_mut().for_each(|asked| *asked = Asked::default());
    }
}

/// What came of asking about a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackedOff {
    /// How often others reached it.
    pub(super) times: u32,
    /// Until when we ask no more.
    pub(super) until: Time,
    /// Who reached it the last time.
    pub(super) by: Option<NodeId>,
}

impl Detector {
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

    pub(super) fn accuse(
        &mut self,
        now: Time,
        salvo: Salvo,
        is_final: bool,
        roster: &Roster,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        if !is_final && (now < self.accuse_from || self.is_backed_off(now, salvo.peer.id)) {
            self.counts.accusations_withheld += 1;
            return;
        }
        let most = if self.is_lost() && !is_final { CASES_WHILE_LOST_MAX } else { CASES_MAX };
        if self.cases.len() >= most {
            self.counts.accusations_limited += 1;
            return;
        }
        self.counts.accusations += 1;
        self.numbers = self.numbers.wrapping_add(1);
        let id = salvo.peer.id;
        let (open, timeouts, probes, each) = if is_final {
            (FINAL_OPEN, FINAL_TIMEOUTS, FINAL_PROBES, u32::from(HELP_PROBES_MAX))
        } else {
            (CASE_OPEN, CASE_TIMEOUTS, CASE_PROBES, CASE_PROBES_EACH)
        };
        // Where there are few others, most probes are ours, one in each timeout.
        let witnesses = u32::try_from(Self::others(id, roster).min(self.watch.witnesses)).unwrap_or(u32::MAX);
        let timeouts = timeouts + probes.saturating_sub(witnesses.saturating_mul(each));
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
            is_renewed: false,
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
        let zone_of = |id: NodeId| roster.get(id)?.said().map(|said| &*said.zone);
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

    pub(super) fn step_cases(&mut self, now: Time, roster: &Roster, rng: &mut Xoshiro256PlusPlus) {
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

    pub(super) fn on_report(&mut self, now: Time, from: NodeId, number: u32, testimony: Testimony) {
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
            Ruling::Convicted { is_lossy: true, .. } if self.may_renew(id) => self.renew(now, id),
            Ruling::Convicted { witnesses, is_lossy } => {
                let Some(case) = self.cases.remove(&id) else { return };
                // Who answered, and is silent again, is not simply gone: others are to say when it is over.
                let finding = match (case.is_final, is_lossy || case.is_renewed) {
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
                self.convicts.insert(id);
                self.acts.push(Act::Convict { peer: case.salvo.peer, finding, witnesses });
            }
        }
    }

    fn may_renew(&self, id: NodeId) -> bool {
        self.cases.get(&id).is_some_and(|case| !case.is_final && !case.is_renewed)
    }

    /// Begins a case anew. Silence that ends looks like loss while it is counted together with the answers that ended
    /// it: a member that stood still for half a second, and everybody after a cut that was as short, would be found
    /// lossy, which nobody may refute. Only what is seen after the first answers tells the two apart.
    fn renew(&mut self, now: Time, id: NodeId) {
        self.numbers = self.numbers.wrapping_add(1);
        let Some(case) = self.cases.get_mut(&id) else { return };
        case.ask_anew(self.numbers);
        case.salvo.pings.clear();
        case.salvo.next = now;
        (case.opened, case.until) = (now, now + case.until.since(case.opened));
        case.is_renewed = true;
        self.counts.accusations_renewed += 1;
        self.saw(id, Seen::Renewed);
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
        // Unless links that were cut are mending.
        let is_mending = self.cleared.is_some_and(|at| at >= opened);
        if others == 0 || (heard > 0 && heard < QUORUM && is_all && !is_mending) {
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
}
