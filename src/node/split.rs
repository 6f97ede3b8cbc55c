//! Splits: when so many are unreachable at once that the network is the likelier story, what is told of it, and what it
//! excuses. Knows nothing of how anybody was found unreachable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::effect::{Event, Outbox, SPLIT_NAMES_MAX, SPLIT_ZONES_MAX, Split};
use crate::peer::MemberState;
use crate::time::Time;
use crate::verdict::CLEARED_EVERY;

/// The least number of members, and the least part of all, that must be unreachable for that to look like a split.
const SPLIT_MIN: usize = 2;
const SPLIT_SHARE: usize = 4;

/// The least part of all that stands on each side of a split that excuses anybody. Of fewer that flap together it is
/// they who are in trouble.
const SIDE_SHARE: usize = 8;

/// Those that were lost within so long were lost in the same split: both sides take two seconds at most to hear what
/// the other found. The next split may part others.
const ONE_SPLIT: Duration = Duration::from_secs(10);

/// How often within [`CLEARED_EVERY`] a member clears itself once more because it was the network. So half of a
/// cluster behind a link that comes and goes changes its state nine times a minute at most.
pub const EXCUSED_MAX: usize = 3;

/// How long nobody is taken to be gone while a split is suspected.
pub const PARTITION_HOLD: Duration = Duration::from_secs(72 * 3_600);

impl Node {
    /// Since when so many members are unreachable that a split is the likelier story.
    pub fn partition_since(&self) -> Option<Time> {
        self.partition
    }

    /// Whether anybody may be taken to be gone now.
    pub(super) fn may_evict(&self, now: Time) -> bool {
        !self.has_left && self.partition.is_none_or(|since| now.since(since) >= PARTITION_HOLD)
    }

    /// Whether so many are unreachable at once that a split is the likelier story.
    pub(super) fn look_for_split(&mut self, now: Time, out: &mut Outbox) {
        let present = self.roster.present_len();
        let lost = present - self.roster.reachable_len();
        let is_suspected = self.is_cut_off() || (lost >= SPLIT_MIN && lost * SPLIT_SHARE > present);
        match (is_suspected, self.partition) {
            (true, None) => self.partition = Some(now),
            (false, Some(_)) => {
                self.partition = None;
                if std::mem::take(&mut self.split_told) > 0 {
                    out.events.push(Event::PartitionOver);
                }
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Tells that a split is suspected, when the first of the lost are told, and again when many more are.
    pub(super) fn tell_split(&mut self, out: &mut Outbox) {
        let lost = self.roster.present_len() - self.roster.reachable_len();
        // Whoever is cut off has said so, and has nobody to name yet. Of a split the first verdicts say little of who
        // stands on which side: it is told again.
        if self.partition.is_none() || lost < SPLIT_MIN.max(self.split_told.saturating_mul(2)) {
            return;
        }
        self.split_told = lost;
        out.events.push(Event::PartitionSuspected(Arc::new(self.split())));
    }

    /// Whether it was the network that came and went, and not we: of late many were lost, and many at once were not.
    /// Two cuts of a few seconds, one after the other, would else keep both sides from each other for most of a minute
    /// (the simulator's `split-again`).
    pub(super) fn is_excused(&self, now: Time) -> bool {
        let is_back = |id, within| {
            self.roster.is_reachable(id) && self.back.get(&id).is_some_and(|at: &Time| now.since(*at) < within)
        };
        let (mut lost, mut kept) = (0, 1);
        for entry in self.roster.present() {
            let id = entry.peer.id;
            let is_lost = entry.state == MemberState::Unreachable;
            // A split that has lasted for longer excuses nobody whose link comes and goes on one side of it.
            lost +=
                usize::from((is_lost && now.since(entry.standing.since) < CLEARED_EVERY) || is_back(id, CLEARED_EVERY));
            kept += usize::from(!is_lost && !is_back(id, ONE_SPLIT));
        }
        let present = self.roster.present_len();
        let is_large = |side| side >= SPLIT_MIN && side * SIDE_SHARE > present;
        self.excused.len() < EXCUSED_MAX && is_large(lost) && is_large(kept)
    }

    /// Who is on which side, as it looks from here.
    fn split(&self) -> Split {
        let mut split = Split { kept: 1, ..Split::default() };
        let mut zones = BTreeMap::<Arc<str>, (usize, usize)>::new();
        let mut count = |zone: &Arc<str>, is_lost: bool| {
            if !zone.is_empty() {
                let (lost, kept) = zones.entry(Arc::clone(zone)).or_default();
                *(if is_lost { lost } else { kept }) += 1;
            }
        };
        count(&self.config.zone, false);
        for entry in self.roster.present() {
            let is_lost = entry.state == MemberState::Unreachable;
            let (count_of, names) = match is_lost {
                true => (&mut split.lost, &mut split.lost_names),
                false => (&mut split.kept, &mut split.kept_names),
            };
            *count_of += 1;
            match entry.said() {
                Some(said) => {
                    count(&said.zone, is_lost);
                    names.push(Arc::clone(&said.name));
                }
                None => names.push(entry.peer.id.to_string().into()),
            }
        }
        for names in [&mut split.lost_names, &mut split.kept_names] {
            names.sort_unstable();
            names.truncate(SPLIT_NAMES_MAX);
        }
        split.zones = zones.into_iter().take(SPLIT_ZONES_MAX).collect();
        split
    }

    /// Forgets who came back so long ago that it counts as steady again.
    pub(super) fn forget_splits(&mut self, now: Time) {
        self.back.retain(|_, at| now.since(*at) < CLEARED_EVERY);
        self.excused.retain(|at| now.since(*at) < CLEARED_EVERY);
    }
}
