//! What is believed of a member's reachability, and which of two beliefs stands. Knows nothing of who found out, or
//! how.
//!
//! Of each life of a member there is one verdict. Its **turn** counts how often it changed: an odd turn accuses, an
//! even one clears, and the higher one stands, whichever comes first. So all members end with the same verdict. The
//! accused clears itself with the next turn, as in SWIM by the incarnation (Das, Gupta and Motivala, DSN 2002, section
//! 4.2).

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::{Generation, NodeId};
use crate::time::Time;

/// A member is cleared once in this time, at most: so it changes its state at most three times a minute, however often
/// its link does. After splits it clears itself up to [`EXCUSED_MAX`](crate::node::EXCUSED_MAX) times more. A minute,
/// less what lets a member that is in trouble once a minute come back at once.
pub const CLEARED_EVERY: Duration = Duration::from_secs(59);

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
    /// An operator says that it is gone; ends this life of it.
    Forgotten,
}

impl Finding {
    /// The finding as a word, as it stands in every output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Silent => "silent",
            Self::Lossy => "lossy",
            Self::Down => "down",
            Self::Forgotten => "forgotten",
        }
    }

    /// Whether it accuses.
    pub const fn accuses(self) -> bool {
        !matches!(self, Self::Clear)
    }

    /// Whether it ends the life that it is about.
    pub const fn ends_life(self) -> bool {
        matches!(self, Self::Down | Self::Forgotten)
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

const fn mark(now: Time) -> Option<NonZeroU64> {
    NonZeroU64::new(now.as_nanos().saturating_add(1))
}

/// The turn decides; of one turn, the graver finding.
const fn rank(turn: u32, finding: Finding) -> u64 {
    (turn as u64) << 3 | finding as u64
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
    /// When it was last cleared, in nanoseconds and one: there is a standing for each pair of members.
    cleared: Option<NonZeroU64>,
}

impl Standing {
    /// Nobody ever had anything against the member `id`.
    pub const fn spotless(id: NodeId, now: Time) -> Self {
        Self { turn: 0, finding: Finding::Clear, by: id, witnesses: 0, since: now, cleared: None }
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

    /// The same start, in its next life: what it was accused of is over, and that counts as being cleared.
    pub const fn renewed(&self, now: Time) -> Self {
        let cleared = if self.finding.accuses() { mark(now) } else { self.cleared };
        Self { cleared, ..Self::spotless(self.by, now) }
    }

    /// Takes a verdict over if it is newer; whether it was.
    pub fn take(&mut self, verdict: &Verdict, now: Time) -> bool {
        if verdict.rank() <= self.rank() {
            return false;
        }
        // Two turns later it was cleared in between, though we did not hear of it.
        let is_later = verdict.turn >= self.turn + 2;
        if verdict.finding.accuses() != self.finding.accuses() || is_later {
            self.since = now;
        }
        if !verdict.finding.accuses() || (is_later && self.turn > 0) {
            self.cleared = mark(now);
        }
        (self.turn, self.finding) = (verdict.turn, verdict.finding);
        (self.by, self.witnesses) = (verdict.by, verdict.witnesses);
        true
    }

    /// Whether it was cleared of late, and must stay accused for a while.
    pub fn is_damped(&self, now: Time) -> bool {
        self.cleared.is_some_and(|at| now.since(Time::from_nanos(at.get() - 1)) < CLEARED_EVERY)
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
    fn a_member_that_was_cleared_a_moment_ago_stays_accused_for_a_minute() {
        let mut standing = Standing::spotless(NodeId(1), Time::ZERO);
        standing.take(&verdict(1, Finding::Silent), at(1));
        assert!(!standing.is_damped(at(1)), "the first time it comes back at once");
        standing.take(&verdict(2, Finding::Clear), at(2));
        standing.take(&verdict(3, Finding::Silent), at(3));
        assert!(standing.is_damped(at(60)) && !standing.is_damped(at(61)));
        standing.take(&verdict(5, Finding::Silent), at(70));
        assert!(standing.is_damped(at(71)), "it was cleared by turn 4, which we missed");
        assert!(standing.renewed(at(200)).is_damped(at(201)), "a new life is no way around it");
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
