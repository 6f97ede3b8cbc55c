//! What is believed of a member's reachability, and which of two beliefs stands. Knows nothing of who found out, or
//! how.
//!
//! Of each life of a member there is one verdict. Its **turn** counts how often it changed: an odd turn accuses, an
//! even one clears, and the higher one stands, whichever comes first. So all members end with the same verdict. The
//! accused clears itself with the next turn, as in SWIM by the incarnation (Das, Gupta and Motivala, DSN 2002, section
//! 4.2).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::{Generation, NodeId};
use crate::time::Time;

/// How long a change of what is shown of a member counts against its next one: a minute, less what lets a member that is
/// in trouble once a minute come back at once.
pub const FLAP_WINDOW: Duration = Duration::from_secs(59);

/// Changes within [`FLAP_WINDOW`], at most. A member is not shown as cleared if that, and being accused anew, would be more:
/// it is flapping, and stays out until its changes are old.
pub const FLAPS_MAX: usize = 3;

/// The last turn of one life, which clears. More changes than a life can have: whoever is told a later turn is lied to.
pub const TURN_MAX: u32 = 1 << 24;

/// What a verdict says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Finding {
    /// It can be reached.
    Clear,
    /// A quorum had no answer from it.
    Silent,
    /// A quorum had answers to few of its probes.
    Lossy,
    /// It was silent for so long that it is taken to be gone; ends this life of it.
    Down,
}

impl Finding {
    /// The finding as a word, as it stands in every output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Silent => "silent",
            Self::Lossy => "lossy",
            Self::Down => "down",
        }
    }

    /// Whether it accuses.
    pub const fn accuses(self) -> bool {
        !matches!(self, Self::Clear)
    }
}

/// A finding about one life of a member, as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// Whom it is about.
    pub subject: NodeId,
    /// Which of its lives.
    pub generation: Generation,
    /// How often its verdict changed; odd if `finding` accuses.
    pub turn: u32,
    /// What was found.
    pub finding: Finding,
    /// Who found it; the subject itself if it refutes.
    pub by: NodeId,
    /// How many others found the same.
    pub witnesses: u8,
}

impl Verdict {
    /// Which of two verdicts about one life stands: that of the larger rank.
    pub const fn rank(&self) -> u64 {
        rank(self.turn, self.finding)
    }

    /// Whether its parts fit together: from the wire, they may not.
    pub const fn is_sound(&self) -> bool {
        self.finding.accuses() == (self.turn % 2 == 1) && self.turn <= TURN_MAX
    }
}

/// The turn decides; of one turn, the graver finding.
const fn rank(turn: u32, finding: Finding) -> u64 {
    (turn as u64) << 2 | finding as u64
}

/// The verdict on a member as it stands here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// How often it changed.
    pub turn: u32,
    /// What was found.
    pub finding: Finding,
    /// Who found it.
    pub by: NodeId,
    /// How many others found the same.
    pub witnesses: u8,
    /// Since when it stands here.
    pub since: Time,
    /// Whether it is shown as accused: as long as it is, and as long as it changed too often of late.
    pub is_out: bool,
    /// When that changed before, the latest first.
    changes: [Option<Time>; FLAPS_MAX],
}

impl Standing {
    /// Nobody ever had anything against the member `id`.
    pub const fn spotless(id: NodeId, now: Time) -> Self {
        Self {
            turn: 0,
            finding: Finding::Clear,
            by: id,
            witnesses: 0,
            since: now,
            is_out: false,
            changes: [None; FLAPS_MAX],
        }
    }

    /// The turn if it accuses, else zero: what members must agree on.
    pub const fn accused_turn(&self) -> u32 {
        if self.finding.accuses() { self.turn } else { 0 }
    }

    /// As it travels, about this life of a member.
    pub const fn verdict(&self, subject: NodeId, generation: Generation) -> Verdict {
        let Self { turn, finding, by, witnesses, .. } = *self;
        Verdict { subject, generation, turn, finding, by, witnesses }
    }

    /// The rank of the verdict that stands.
    pub const fn rank(&self) -> u64 {
        rank(self.turn, self.finding)
    }

    /// The same start, in its next life: a clean slate, but for how often it changed of late.
    pub const fn renewed(&self, now: Time) -> Self {
        Self { changes: self.changes, ..Self::spotless(self.by, now) }
    }

    /// Takes a verdict over if it is newer; whether it was.
    pub fn take(&mut self, verdict: &Verdict, now: Time) -> bool {
        if verdict.rank() <= self.rank() {
            return false;
        }
        // Two turns later it was cleared in between, though we did not hear of it.
        if verdict.finding.accuses() != self.finding.accuses() || verdict.turn >= self.turn + 2 {
            self.since = now;
        }
        (self.turn, self.finding) = (verdict.turn, verdict.finding);
        (self.by, self.witnesses) = (verdict.by, verdict.witnesses);
        self.show(now);
        true
    }

    /// Fits what is shown to what was found, unless it changed too often of late; whether it changed.
    pub fn show(&mut self, now: Time) -> bool {
        let is_out = self.finding.accuses();
        if is_out == self.is_out || (!is_out && self.is_damped(now)) {
            return false;
        }
        self.is_out = is_out;
        self.changes.rotate_right(1);
        self.changes[0] = Some(now);
        true
    }

    /// Changes within the last [`FLAP_WINDOW`], at most [`FLAPS_MAX`].
    pub fn flaps(&self, now: Time) -> usize {
        self.changes.iter().flatten().filter(|at| now.since(**at) < FLAP_WINDOW).count()
    }

    /// Whether it changed so often of late that it must stay accused.
    pub fn is_damped(&self, now: Time) -> bool {
        self.flaps(now) + 1 >= FLAPS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(turn: u32, finding: Finding) -> Verdict {
        let generation = Generation::first(1);
        Verdict { subject: NodeId(1), generation, turn, finding, by: NodeId(2), witnesses: 3 }
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_higher_turn_stands_in_whatever_order_they_come() {
        let verdicts = [verdict(1, Finding::Silent), verdict(2, Finding::Clear), verdict(3, Finding::Lossy)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut standing = Standing::spotless(NodeId(1), Time::ZERO);
            for index in order {
                standing.take(&verdicts[index], Time::ZERO);
            }
            assert_eq!((standing.turn, standing.finding), (3, Finding::Lossy));
        }
    }

    #[test]
    fn down_stands_over_the_accusation_that_it_confirms_and_only_once() {
        let mut standing = Standing::spotless(NodeId(1), Time::ZERO);
        assert!(standing.take(&verdict(1, Finding::Silent), at(1)));
        assert!(standing.take(&verdict(1, Finding::Down), at(2)));
        assert!(!standing.take(&verdict(1, Finding::Silent), at(3)));
        assert_eq!(standing.since, at(1), "it was accused all the time");
    }

    #[test]
    fn the_fourth_change_within_a_minute_is_not_shown_until_the_others_are_old() {
        let mut standing = Standing::spotless(NodeId(1), Time::ZERO);
        for (turn, finding) in [(1, Finding::Silent), (2, Finding::Clear), (3, Finding::Silent)] {
            assert!(standing.take(&verdict(turn, finding), at(u64::from(turn))));
            assert_eq!(standing.is_out, finding.accuses(), "shown at once");
        }
        assert!(standing.take(&verdict(4, Finding::Clear), at(4)));
        assert!(standing.is_out && !standing.finding.accuses());
        assert!(!standing.show(at(60)));
        assert!(standing.show(at(61)) && !standing.is_out, "only the last accusation is not a minute old");
    }

    #[test]
    fn a_verdict_whose_turn_and_finding_disagree_is_unsound() {
        assert!(verdict(1, Finding::Down).is_sound());
        assert!(verdict(2, Finding::Clear).is_sound());
        assert!(!verdict(2, Finding::Silent).is_sound());
        assert!(!verdict(1, Finding::Clear).is_sound());
        assert!(!verdict(u32::MAX, Finding::Silent).is_sound(), "nobody could clear it any more");
    }
}
