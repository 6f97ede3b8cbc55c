//! How it came that a member is believed to be in the state that it is in: who found what, when, and how. The last of
//! it only. Knows nothing of why.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::peer::NodeId;
use crate::time::Time;
use crate::verdict::Finding;

/// Lines kept, of all members together; the oldest goes first.
pub const STORY_MAX: usize = 2_048;

/// One thing that was seen of a member's reachability, or heard of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Seen {
    /// Our probes of it stayed unanswered.
    Unanswered {
        /// How many in a row.
        probes: u8,
        /// How long each waited for its answer.
        timeout: Duration,
    },
    /// It answered us again.
    Answered {
        /// The round-trip time.
        rtt: Duration,
    },
    /// We asked others to probe it.
    Asked {
        /// How many others.
        witnesses: usize,
        /// Whether it was to make sure that it is gone, after it was unreachable for long.
        is_final: bool,
    },
    /// One of them told what it saw.
    Testified {
        /// Which one.
        by: NodeId,
        /// Of so many probes of the member ...
        sent: u32,
        /// ... so many were answered;
        answered: u32,
        /// and of so many of us, in the same moments, ...
        control_sent: u32,
        /// ... so many.
        control_answered: u32,
    },
    /// Others reach it.
    Cleared {
        /// Who reaches it well; `None` if it took all their answers together.
        by: Option<NodeId>,
    },
    /// It answered some of the probes: was it silent before, or is it lossy? What was seen counts no more.
    Renewed,
    /// It could not be decided in time.
    Undecided {
        /// How many others had answered us.
        witnesses: usize,
    },
    /// We said so to everybody.
    Convicted {
        /// What was found.
        finding: Finding,
        /// How many others found the same.
        witnesses: u8,
    },
    /// Another member's verdict was taken over.
    Heard {
        /// What it says.
        finding: Finding,
        /// Its turn.
        turn: u32,
        /// Who found it; the member itself if it refuted.
        by: NodeId,
        /// How many others found the same.
        witnesses: u8,
    },
    /// Another member's verdict was not taken over: it has too few witnesses, and we reach the member.
    Disputed {
        /// What it says.
        finding: Finding,
        /// Who found it.
        by: NodeId,
        /// How many others found the same.
        witnesses: u8,
    },
    /// We said that it can be reached again, because it answers as others do.
    Released {
        /// Of so many probes ...
        sent: u32,
        /// ... so many were answered.
        answered: u32,
    },
    /// We were accused, and said that we live.
    Refuted {
        /// The turn that clears us.
        turn: u32,
    },
    /// We were accused, and did not object: others get too few of our answers, or we changed too often of late.
    Bore {
        /// What was found.
        finding: Finding,
        /// The turn that accuses us.
        turn: u32,
    },
    /// Our operator says that it is gone.
    GivenUp,
    /// Nobody answers us: we are cut off, and accuse nobody.
    CutOff,
    /// Somebody answers us again.
    Rejoined,
}

impl Seen {
    /// Who told it.
    pub const fn by(&self) -> Option<NodeId> {
        match *self {
            Self::Testified { by, .. } | Self::Heard { by, .. } | Self::Disputed { by, .. } => Some(by),
            Self::Cleared { by } => by,
            _ => None,
        }
    }

    /// The same words as its `Display`, with `name` in the place of the id of who told it.
    pub fn told(&self, name: impl FnOnce(NodeId) -> String) -> String {
        let by = self.by().map(name).unwrap_or_default();
        match *self {
            Self::Unanswered { probes, timeout } => {
                format!("{} unanswered for {timeout:.0?} each", counted(probes.into(), "probe", "probes"))
            }
            Self::Answered { rtt } => format!("answered again after {rtt:.1?}"),
            Self::Asked { witnesses, is_final: false } => format!("asked {} to probe it", members(witnesses)),
            Self::Asked { witnesses, is_final: true } => {
                format!("asked {} to probe it once more, before it is taken to be gone", members(witnesses))
            }
            Self::Testified { sent, answered, control_sent, control_answered, .. } => format!(
                "{by} got {answered} of {sent} answers from it, and {control_answered} of {control_sent} from us"
            ),
            Self::Cleared { by: Some(_) } => format!("cleared: {by} reaches it"),
            Self::Cleared { by: None } => "cleared: others reach it".to_owned(),
            Self::Renewed => {
                "it answered some of the probes: asked all again, whether it was silent before or is lossy".to_owned()
            }
            Self::Undecided { witnesses } => format!("undecided: {} answered us", members(witnesses)),
            Self::Convicted { finding, witnesses } => {
                format!("we told everybody: {}, {}", finding.as_str(), seen_by(witnesses))
            }
            Self::Heard { finding, turn, witnesses, .. } => {
                format!("{by} told: {}, {}, turn {turn}", finding.as_str(), seen_by(witnesses))
            }
            Self::Disputed { finding, witnesses, .. } => {
                format!("{by} told: {}, {}; not believed, we reach it", finding.as_str(), seen_by(witnesses))
            }
            Self::Released { sent, answered } => format!("released: {answered} of {sent} probes answered"),
            Self::Refuted { turn } => format!("we were accused, and refuted it with turn {turn}"),
            Self::Bore { finding, turn } => {
                format!("we were accused ({}, turn {turn}), and others are to say when it is over", finding.as_str())
            }
            Self::GivenUp => "an operator told us that it is gone: we make sure".to_owned(),
            Self::CutOff => "nobody answers us: we are cut off, and accuse nobody".to_owned(),
            Self::Rejoined => "somebody answers us again".to_owned(),
        }
    }
}

fn members(count: usize) -> String {
    counted(count, "member", "members")
}

fn seen_by(witnesses: u8) -> String {
    counted(witnesses.into(), "witness", "witnesses")
}

fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(|id| id.to_string()))
    }
}

/// One line of the story.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// When.
    pub at: Time,
    /// Of whom; our own id for what befell us.
    pub subject: NodeId,
    /// What.
    pub seen: Seen,
}

/// The last lines, in order.
#[derive(Default, Debug)]
pub(crate) struct Story {
    lines: VecDeque<Line>,
}

impl Story {
    pub(crate) fn tell(&mut self, at: Time, subject: NodeId, seen: Seen) {
        if self.lines.len() >= STORY_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { at, subject, seen });
    }

    /// What is remembered of one member, in order.
    pub(crate) fn of(&self, subject: NodeId) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.subject == subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_told_it_is_named() {
        let seen = Seen::Testified { by: NodeId(7), sent: 9, answered: 0, control_sent: 4, control_answered: 4 };
        assert_eq!(seen.told(|_| "b".to_owned()), "b got 0 of 9 answers from it, and 4 of 4 from us");
        assert_eq!(seen.to_string(), "0000000000000007 got 0 of 9 answers from it, and 4 of 4 from us");
        let cleared = Seen::Cleared { by: Some(NodeId(7)) };
        assert_eq!(cleared.told(|_| "b".to_owned()), "cleared: b reaches it");
    }

    #[test]
    fn one_is_told_as_one() {
        let asked = |witnesses| Seen::Asked { witnesses, is_final: false }.to_string();
        assert_eq!((asked(1), asked(2)), ("asked 1 member to probe it".into(), "asked 2 members to probe it".into()));
        let told = |witnesses| Seen::Convicted { finding: Finding::Silent, witnesses }.to_string();
        assert_eq!(
            [told(1), told(2)],
            ["we told everybody: silent, 1 witness", "we told everybody: silent, 2 witnesses"]
        );
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut story = Story::default();
        for n in 0..STORY_MAX as u64 + 5 {
            story.tell(Time::from_nanos(n), NodeId(n % 2), Seen::CutOff);
        }
        assert_eq!(story.lines.len(), STORY_MAX);
        assert_eq!(story.of(NodeId(1)).next().map(|line| line.at), Some(Time::from_nanos(5)));
    }
}
