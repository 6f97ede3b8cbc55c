//! Surveys: asks members for their fingerprints, to tell how many of them know the same as this one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Node;
use crate::effect::{InputError, Outbox};
use crate::peer::NodeId;
use crate::time::Time;
use crate::wire::Fingerprints;

/// Members asked at once by one survey; further ones by the next.
pub const SURVEYED_AT_ONCE: usize = 256;

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
    asked: Time,
    /// Records and members, as fingerprints.
    answers: BTreeMap<NodeId, (u64, u64)>,
}

impl Node {
    /// How many members know the same as this one, as far as they said since [`Input::Survey`](crate::effect::Input).
    pub fn agreement(&self) -> Agreement {
        let members = self.roster.present_len() + 1;
        let agreeing = self.roster.present().filter(|entry| self.agrees(entry.peer.id)).count() + 1;
        Agreement { members, agreeing }
    }

    fn agrees(&self, id: NodeId) -> bool {
        let ours = (self.table.fingerprint(), self.members_fingerprint());
        self.survey.as_ref().is_some_and(|survey| survey.answers.get(&id) == Some(&ours))
    }

    /// Asks those that do not agree yet, the ones that have said nothing first.
    pub(super) fn begin_survey(&mut self, now: Time, out: &mut Outbox) -> Result<(), InputError> {
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        let has_said = |id: NodeId| self.survey.as_ref().is_some_and(|survey| survey.answers.contains_key(&id));
        let open = self.roster.present().map(|entry| entry.peer).filter(|peer| !self.agrees(peer.id));
        let mut open: Vec<_> = open.map(|peer| (has_said(peer.id), peer)).collect();
        open.sort_by_key(|(has_said, peer)| (*has_said, peer.id));
        self.survey.get_or_insert_with(|| Survey { asked: now, answers: BTreeMap::new() }).asked = now;
        for (_, peer) in open.iter().take(SURVEYED_AT_ONCE) {
            self.send_echo(peer, out);
        }
        Ok(())
    }

    pub(super) fn note_fingerprints(&mut self, from: NodeId, theirs: Fingerprints) {
        if let Some(survey) = &mut self.survey {
            survey.answers.insert(from, (theirs.records, theirs.members));
        }
    }

    pub(super) fn end_survey(&mut self, now: Time) {
        self.survey.take_if(|survey| now.since(survey.asked) > ANSWERS_KEPT);
        let roster = &self.roster;
        if let Some(survey) = &mut self.survey {
            survey.answers.retain(|id, _| roster.get(*id).is_some());
        }
    }
}
