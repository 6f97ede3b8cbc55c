//! Splits: when so many are unreachable at once that the network is the likelier story, what is told of it, and what it
//! excuses. Knows nothing of how anybody was found unreachable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::effect::{Event, Outbox, SPLIT_NAMES_MAX, SPLIT_ZONES_MAX, Split};
use crate::peer::{MemberState, NodeId};
use crate::time::Time;
use crate::verdict::CLEARED_EVERY;

/// The least number of members, and the least part of all, that must be unreachable for that to look like a split.
const SPLIT_MIN: usize = 2;
const SPLIT_SHARE: usize = 4;

/// The least part of all that stands on our side of a split. Of few that flap together it is they who are in trouble.
const SIDE_SHARE: usize = 8;

/// Whoever is lost, and was lost for so long before, stood on the other side of one split: longer than both sides take
/// to hear what the other found. The next may part others.
const ONE_SPLIT: Duration = Duration::from_secs(10);

/// How often within [`CLEARED_EVERY`] a member clears itself once more because it was the network.
pub const EXCUSED_MAX: usize = 3;

/// How long nobody is taken to be gone while a split is suspected.
pub const PARTITION_HOLD: Duration = Duration::from_secs(72 * 3_600);

/// Whether so many of those that are present are lost that a split is the likelier story.
const fn is_split(lost: usize, present: usize) -> bool {
    lost >= SPLIT_MIN && lost * SPLIT_SHARE > present
}

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
        let is_split = self.is_cut_off() || is_split(lost, present);
        match (is_split, self.partition) {
            (true, None) => self.partition = Some(now),
            (true, Some(_)) => {}
            (false, None) => return,
            (false, Some(_)) => {
                self.partition = None;
                if std::mem::take(&mut self.split_told) > 0 {
                    out.events.push(Event::PartitionOver);
                }
                return;
            }
        }
        // Whoever is cut off has said so, and has nobody to name yet. Of a split the first verdicts say little of who
        // stands on which side: it is told again.
        if lost < SPLIT_MIN.max(self.split_told.saturating_mul(2)) {
            return;
        }
        self.split_told = lost;
        out.events.push(Event::PartitionSuspected(Arc::new(self.split())));
    }

    /// Whether it was the network that came and went, and not we: many were lost of late, and many at once were not. Two
    /// cuts of a few seconds, one after the other, would else keep both sides from each other for most of a minute (the
    /// simulator's `split-again`).
    pub(super) fn is_excused(&self, now: Time) -> bool {
        let present = self.roster.present_len();
        let lost_within = |span| {
            let is_back = |(id, at): &(&NodeId, &Time)| now.since(**at) < span && self.roster.is_reachable(**id);
            present - self.roster.reachable_len() + self.back.iter().filter(is_back).count()
        };
        let kept = present + 1 - lost_within(ONE_SPLIT);
        self.excused.len() < EXCUSED_MAX && is_split(lost_within(CLEARED_EVERY), present) && kept * SIDE_SHARE > present
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
