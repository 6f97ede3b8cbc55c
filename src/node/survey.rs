//! Surveys: asks members for their fingerprints, to tell how many of them know the same as this one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Node;
use crate::effect::{InputError, Outbox};
use crate::peer::NodeId;
use crate::time::Time;
use crate::wire::Fingerprints;

/// Members asked and not heard since, at the most; further ones are asked as these answer, or have had their time.
pub const SURVEYED_AT_ONCE: usize = 256;

/// Who was asked is not asked again for this long, or the time that its answer may take, if that is longer.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_millis(150);

/// Answers are kept for this long after the last survey.
const ANSWERS_KEPT: Duration = Duration::from_secs(10);

/// How many members know the same as this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreement {
    /// Present members, this one included.
    pub members: usize,
    /// Those of them that said last to know the same records and members as this one knows now; itself included.
    pub agreeing: usize,
}

impl Agreement {
    /// The part of the members that agrees, 0 to 1.
    pub fn share(&self) -> f64 {
        self.agreeing as f64 / self.members as f64
    }
}

/// What members said of late.
#[derive(Debug)]
pub(super) struct Survey {
    began: Time,
    asked: BTreeMap<NodeId, Asked>,
    /// Counts what was news among the answers.
    heard: u64,
    /// Records and members, as fingerprints.
    answers: BTreeMap<NodeId, (u64, u64)>,
}

/// When a member was asked last.
#[derive(Debug)]
struct Asked {
    at: Time,
    has_answered: bool,
}

impl Node {
    /// How many members know the same as this one, as far as they said since [`Input::Survey`](crate::effect::Input).
    pub fn agreement(&self) -> Agreement {
        let members = self.roster.present_len() + 1;
        let agreeing = self.roster.present().filter(|entry| self.agrees(entry.peer.id)).count() + 1;
        Agreement { members, agreeing }
    }

    /// Moves on when a member says something else than it said last, since [`Input::Survey`](crate::effect::Input).
    pub fn survey_heard(&self) -> u64 {
        self.survey.as_ref().map_or(0, |survey| survey.heard)
    }

    fn agrees(&self, id: NodeId) -> bool {
        let ours = (self.table.fingerprint(), self.members_fingerprint());
        self.survey.as_ref().is_some_and(|survey| survey.answers.get(&id) == Some(&ours))
    }

    /// Asks those that do not agree yet, the ones that have said nothing first, and nobody who was asked just now.
    pub(super) fn begin_survey(&mut self, now: Time, out: &mut Outbox) -> Result<(), InputError> {
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        let new = || Survey { began: now, asked: BTreeMap::new(), heard: 0, answers: BTreeMap::new() };
        self.survey.get_or_insert_with(new).began = now;
        let Some(survey) = &self.survey else { return Ok(()) };
        let is_due = |id: NodeId| {
            let again = self.detector.rtt(id).map_or(ASK_AGAIN_AFTER, |rtt| rtt.timeout(ASK_AGAIN_AFTER));
            survey.asked.get(&id).is_none_or(|asked| now.since(asked.at) >= again)
        };
        let unheard = survey.asked.iter().filter(|(id, asked)| !asked.has_answered && !is_due(**id)).count();
        let open =
            self.roster.present().map(|entry| entry.peer).filter(|peer| !self.agrees(peer.id) && is_due(peer.id));
        let mut open: Vec<_> = open.map(|peer| (survey.answers.contains_key(&peer.id), peer)).collect();
        open.sort_by_key(|(has_said, peer)| (*has_said, peer.id));
        open.truncate(SURVEYED_AT_ONCE.saturating_sub(unheard));
        for (_, peer) in open {
            if let Some(survey) = &mut self.survey {
                survey.asked.insert(peer.id, Asked { at: now, has_answered: false });
            }
            self.send_echo(&peer, out);
        }
        Ok(())
    }

    pub(super) fn note_fingerprints(&mut self, from: NodeId, theirs: Fingerprints) {
        if let Some(survey) = &mut self.survey {
            let said = (theirs.records, theirs.members);
            survey.heard += u64::from(survey.answers.insert(from, said) != Some(said));
            if let Some(asked) = survey.asked.get_mut(&from) {
                asked.has_answered = true;
            }
        }
    }

    pub(super) fn end_survey(&mut self, now: Time) {
        self.survey.take_if(|survey| now.since(survey.began) > ANSWERS_KEPT);
        let roster = &self.roster;
        if let Some(survey) = &mut self.survey {
            survey.answers.retain(|id, _| roster.get(*id).is_some());
            survey.asked.retain(|id, _| roster.get(*id).is_some());
        }
    }
}
