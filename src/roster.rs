//! Who is here: every member by id, the ring that the present ones form, and the graves of those that are gone for
//! good. Knows nothing of why somebody is believed to be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::by_id::{ById, grow};
use crate::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
use crate::record::MemberRecord;
use crate::time::Time;
use crate::verdict::{Standing, Verdict};

/// Members known at once, whatever their state; further ones are not let in.
pub const MEMBERS_MAX: usize = 20_000;

/// Graves kept at once; the oldest goes first.
pub const GRAVES_MAX: usize = 20_000;

/// How long a grave is kept: longer than any member keeps a down member, so that it cannot come back from one that
/// reaps later.
pub const GRAVE_KEPT: Duration = Duration::from_secs(3_600);

/// How many children a node has in the tree along which news is pushed.
const TREE_FANOUT: usize = 4;

/// Separates positions on the ring from other uses of the same hash.
const RING_SEED: u64 = 0x7469_6469_6e67_7331;

/// What is known of a member.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) peer: Peer,
    pub(crate) state: MemberState,
    /// Since when it is in this state.
    pub(crate) since: Time,
    pub(crate) evidence: Evidence,
    /// The verdict on this life of it.
    pub(crate) standing: Standing,
    /// What the program was last told of it; `None` until its own record is known.
    pub(crate) told: Option<Told>,
    /// As being in what state; means nothing while it was not told.
    pub(crate) told_state: MemberState,
    /// Whether that was an earlier start, and this one has yet to say who it is.
    pub(crate) is_outdated: bool,
}

/// What the program was told of a member, beside what is known of it now.
#[derive(Debug)]
pub(crate) struct Told {
    said: Arc<MemberRecord>,
    /// Its life then, if it has begun another one since.
    peer: Option<Box<Peer>>,
}

impl Entry {
    /// What it said of itself when the program was last told of it.
    pub(crate) fn said(&self) -> Option<&MemberRecord> {
        self.told.as_ref().map(|told| &*told.said)
    }

    /// The member as it was last told to the program. Made when it is asked for: kept for each pair of members, it
    /// would be a quarter of all that they take.
    pub(crate) fn shown(&self) -> Option<Arc<Member>> {
        let told = self.told.as_ref()?;
        Some(Arc::new(Member {
            peer: told.peer.as_deref().copied().unwrap_or(self.peer),
            name: Arc::clone(&told.said.name),
            zone: Arc::clone(&told.said.zone),
            state: self.told_state,
            evidence: self.evidence.clone(),
            software: Arc::clone(&told.said.software),
            wire: told.said.wire,
        }))
    }
}

#[derive(Debug)]
struct Grave {
    generation: Generation,
    since: Time,
}

/// Every member but ourselves.
#[derive(Debug)]
pub(crate) struct Roster {
    position: u64,
    entries: ById<Entry>,
    /// The present members by their position.
    present: Vec<(u64, NodeId)>,
    /// Those of them that are not unreachable: news is passed on by them.
    ring: Vec<(u64, NodeId)>,
    /// Where on each of the two the first after us stands.
    present_after: usize,
    ring_after: usize,
    /// Those that are not present.
    absent: BTreeSet<NodeId>,
    /// Counts whoever comes or goes.
    turn: u64,
    /// Who claims an address, by its hash, in order.
    by_addr: Vec<(u64, NodeId)>,
    /// Over the present members, and what they are accused of.
    fingerprint: u64,
    /// Over those that are not unreachable.
    reachable: u64,
    graves: BTreeMap<NodeId, Grave>,
    graves_by_age: BTreeSet<(Time, NodeId)>,
    /// Graves cleared before their time.
    pub(crate) graves_limited: u64,
}

/// Where a member stands on the ring; never 0, which means "nowhere" on the wire.
fn position(id: NodeId) -> u64 {
    xxh3_64_with_seed(&id.0.to_le_bytes(), RING_SEED).max(1)
}

/// Addresses are looked up by this; several may share one.
fn addr_hash(addr: SocketAddr) -> u64 {
    let mut bytes = [0; 18];
    match addr.ip() {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes[..16].copy_from_slice(&ip.octets()),
    }
    bytes[16..].copy_from_slice(&addr.port().to_le_bytes());
    xxh3_64_with_seed(&bytes, RING_SEED)
}

/// What a present member adds to the fingerprint; `accused_turn` is that of the verdict on it, 0 if it does not accuse.
pub fn fingerprint_of(peer: &Peer, accused_turn: u32) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&peer.id.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&peer.epoch().to_le_bytes());
    bytes[16..].copy_from_slice(&peer.nonce.to_le_bytes());
    xxh3_64_with_seed(&bytes, u64::from(peer.generation.bump()) | u64::from(accused_turn) << 16)
}

impl Roster {
    /// An empty roster of the member `me`.
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            position: position(me),
            entries: ById::new(),
            present: Vec::new(),
            ring: Vec::new(),
            present_after: 0,
            ring_after: 0,
            absent: BTreeSet::new(),
            turn: 0,
            by_addr: Vec::new(),
            fingerprint: 0,
            reachable: 0,
            graves: BTreeMap::new(),
            graves_by_age: BTreeSet::new(),
            graves_limited: 0,
        }
    }

    /// Our own position on the ring: as the end of a range, it means the whole ring.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Every member known, in order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        self.entries.iter()
    }

    /// The present members, in order of their ids.
    pub(crate) fn present(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| entry.state.is_present())
    }

    /// How many are present.
    pub(crate) const fn present_len(&self) -> usize {
        self.present.len()
    }

    /// How many of them are not unreachable.
    pub(crate) const fn reachable_len(&self) -> usize {
        self.ring.len()
    }

    /// Those that are known and not present, in order of their ids.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        self.absent.iter().map(|id| (*id, &self.entries[*id]))
    }

    /// Moves on whenever somebody comes, goes, or changes the state: while it stays, the same members are present.
    pub(crate) const fn turn(&self) -> u64 {
        self.turn
    }

    /// The order-free sum over present members, without ourselves.
    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The order-free sum over members that are not unreachable, without ourselves.
    pub(crate) const fn reachable_fingerprint(&self) -> u64 {
        self.reachable
    }

    /// Whether a member is present and not unreachable.
    pub(crate) fn is_reachable(&self, id: NodeId) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.state.is_present() && entry.state != MemberState::Unreachable)
    }

    /// Whether there is room for one more.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < MEMBERS_MAX
    }

    /// The members that claim an address, whatever their state.
    pub(crate) fn at(&self, addr: SocketAddr) -> impl Iterator<Item = NodeId> {
        let hash = addr_hash(addr);
        let start = self.by_addr.partition_point(|&(other, _)| other < hash);
        let claims = self.by_addr[start..].iter().take_while(move |&&(other, _)| other == hash).map(|&(_, id)| id);
        claims.filter(move |id| self.entries.get(*id).is_some_and(|entry| entry.peer.addr == addr))
    }

    /// Whether a present member listens at an address.
    pub(crate) fn is_present_at(&self, addr: SocketAddr) -> bool {
        self.at(addr).any(|id| self.entries.get(id).is_some_and(|entry| entry.state.is_present()))
    }

    /// Lets a life of a member in, in a state; replaces what was known of it. What the program was told, and the
    /// evidence, stay.
    pub(crate) fn put(&mut self, peer: Peer, state: MemberState, now: Time) {
        let mut before = self.take(peer.id);
        let is_outdated = before
            .as_ref()
            .is_some_and(|entry| entry.told.is_some() && (entry.is_outdated || !entry.peer.is_same_start(&peer)));
        let standing = before.as_ref().and_then(|entry| match () {
            () if entry.peer == peer => Some(entry.standing),
            () if entry.peer.is_same_start(&peer) => Some(entry.standing.renewed(now)),
            () => None,
        });
        let evidence = before.as_ref().map(|entry| entry.evidence.clone()).unwrap_or_default();
        let told_state = before.as_ref().map_or(state, |entry| entry.told_state);
        let mut told = before.as_mut().and_then(|entry| entry.told.take());
        if let (Some(told), Some(before)) = (&mut told, &before)
            && before.peer != peer
        {
            told.peer.get_or_insert_with(|| Box::new(before.peer));
        }
        let standing = standing.unwrap_or(Standing::spotless(peer.id, now));
        let is_accused = state.is_present() && standing.finding.accuses();
        let state = if is_accused { MemberState::Unreachable } else { state };
        let claim = (addr_hash(peer.addr), peer.id);
        if let Err(index) = self.by_addr.binary_search(&claim) {
            grow(&mut self.by_addr);
            self.by_addr.insert(index, claim);
        }
        let entry = Entry { peer, state, since: now, evidence, standing, told, told_state, is_outdated };
        self.entries.insert(peer.id, entry);
        self.enter(peer.id);
    }

    /// Takes a verdict on a member's present life over, if it is newer; whether it was.
    pub(crate) fn judge(&mut self, verdict: &Verdict, now: Time) -> bool {
        let id = verdict.subject;
        let Some(entry) = self.entries.get(id).filter(|entry| entry.peer.generation == verdict.generation) else {
            return false;
        };
        let mut standing = entry.standing;
        if !standing.take(verdict, now) {
            return false;
        }
        self.exit(id);
        let entry = self.entries.get_mut(id).expect("just looked at");
        entry.standing = standing;
        if entry.state.is_present() {
            let state = if standing.finding.accuses() { MemberState::Unreachable } else { MemberState::Reachable };
            if entry.state != state {
                (entry.state, entry.since) = (state, now);
            }
        }
        self.enter(id);
        true
    }

    /// We cannot reach a member ourselves (any more), or can again; a verdict stands above that. Whether it is news.
    pub(crate) fn suspect(&mut self, id: NodeId, is_suspect: bool, now: Time) -> bool {
        let (from, to) = match is_suspect {
            true => (MemberState::Reachable, MemberState::Suspect),
            false => (MemberState::Suspect, MemberState::Reachable),
        };
        match self.entries.get_mut(id).filter(|entry| entry.state == from) {
            Some(entry) => {
                (entry.state, entry.since) = (to, now);
                true
            }
            None => false,
        }
    }

    /// Counts a member in, as far as it is present.
    fn enter(&mut self, id: NodeId) {
        self.turn += 1;
        let entry = &self.entries[id];
        if !entry.state.is_present() {
            self.absent.insert(id);
            return;
        }
        let at = (position(id), id);
        let rings = [Some(&mut self.present), (entry.state != MemberState::Unreachable).then_some(&mut self.ring)];
        for ring in rings.into_iter().flatten() {
            let index = ring.partition_point(|other| *other < at);
            grow(ring);
            ring.insert(index, at);
        }
        let share = fingerprint_of(&entry.peer, entry.standing.accused_turn());
        self.fingerprint = self.fingerprint.wrapping_add(share);
        if entry.state != MemberState::Unreachable {
            self.reachable = self.reachable.wrapping_add(fingerprint_of(&entry.peer, 0));
        }
        self.look_after_me();
    }

    /// Counts a member out again.
    fn exit(&mut self, id: NodeId) {
        self.turn += 1;
        let entry = &self.entries[id];
        if !entry.state.is_present() {
            self.absent.remove(&id);
            return;
        }
        let at = (position(id), id);
        for ring in [&mut self.present, &mut self.ring] {
            if let Ok(index) = ring.binary_search(&at) {
                ring.remove(index);
            }
        }
        let share = fingerprint_of(&entry.peer, entry.standing.accused_turn());
        self.fingerprint = self.fingerprint.wrapping_sub(share);
        if entry.state != MemberState::Unreachable {
            self.reachable = self.reachable.wrapping_sub(fingerprint_of(&entry.peer, 0));
        }
        self.look_after_me();
    }

    /// Tells the program of a member as it is now, with what it says of itself.
    pub(crate) fn show(&mut self, id: NodeId, said: Arc<MemberRecord>) -> Option<Arc<Member>> {
        let entry = self.entries.get_mut(id)?;
        entry.is_outdated = false;
        entry.told = Some(Told { said, peer: None });
        entry.told_state = entry.state;
        entry.shown()
    }

    /// Tells the program of a member once more, in another state; `None` if it was not told of it.
    pub(crate) fn restate(&mut self, id: NodeId, state: MemberState) -> Option<Arc<Member>> {
        let entry = self.entries.get_mut(id)?;
        let told = entry.told.as_mut()?;
        entry.told_state = state;
        entry.is_outdated = told.peer.as_ref().is_some_and(|peer| !peer.is_same_start(&entry.peer));
        entry.shown()
    }

    /// Forgets a member.
    pub(crate) fn take(&mut self, id: NodeId) -> Option<Entry> {
        if !self.entries.contains_key(id) {
            return None;
        }
        self.exit(id);
        let entry = self.entries.remove(id).expect("just looked for");
        if let Ok(index) = self.by_addr.binary_search(&(addr_hash(entry.peer.addr), id)) {
            self.by_addr.remove(index);
        }
        Some(entry)
    }

    /// Lets no life of a member up to this generation back in for [`GRAVE_KEPT`].
    pub(crate) fn bury(&mut self, id: NodeId, generation: Generation, now: Time) {
        let before = self.graves.remove(&id);
        if let Some(grave) = &before {
            self.graves_by_age.remove(&(grave.since, id));
        }
        let generation = before.map_or(generation, |grave| grave.generation.max(generation));
        self.graves.insert(id, Grave { generation, since: now });
        self.graves_by_age.insert((now, id));
        if self.graves.len() > GRAVES_MAX {
            self.graves_limited += 1;
            let (_, oldest) = self.graves_by_age.pop_first().expect("one for each grave");
            self.graves.remove(&oldest);
        }
    }

    /// The latest life of a member that lies in a grave.
    pub(crate) fn grave(&self, id: NodeId) -> Option<Generation> {
        self.graves.get(&id).map(|grave| grave.generation)
    }

    /// Whether this generation of a member lies in a grave.
    pub(crate) fn is_buried(&self, id: NodeId, generation: Generation) -> bool {
        self.graves.get(&id).is_some_and(|grave| generation <= grave.generation)
    }

    /// Graves kept.
    pub(crate) fn graves_len(&self) -> usize {
        self.graves.len()
    }

    /// Clears graves older than [`GRAVE_KEPT`].
    pub(crate) fn clear_graves(&mut self, now: Time) {
        while let Some((since, id)) = self.graves_by_age.first().copied() {
            if now.since(since) <= GRAVE_KEPT {
                break;
            }
            self.graves_by_age.pop_first();
            self.graves.remove(&id);
        }
    }

    /// The present members after us on the ring, in order, each with its state.
    pub(crate) fn successors(&self) -> impl Iterator<Item = (NodeId, MemberState)> {
        let (before, after) = self.present.split_at(self.present_after);
        after.iter().chain(before).map(|&(_, id)| (id, self.entries[id].state))
    }

    /// The next member on the ring that is not unreachable.
    pub(crate) fn successor(&self) -> Option<NodeId> {
        self.ring.get(self.ring_after).or_else(|| self.ring.first()).map(|&(_, id)| id)
    }

    /// An unreachable member, of all such the one at an index modulo their number.
    pub(crate) fn nth_unreachable(&self, index: usize) -> Option<NodeId> {
        let lost = self.present.len() - self.ring.len();
        if lost == 0 {
            return None;
        }
        // Up to a place on the ring, as many are unreachable as are present and not on the ring of those reached.
        let is_before = |place: &(u64, NodeId)| {
            let [present, reachable] = [&self.present, &self.ring].map(|on| on.partition_point(|other| other <= place));
            present - reachable <= index % lost
        };
        self.present.get(self.present.partition_point(is_before)).map(|&(_, id)| id)
    }

    /// The member that is not unreachable at an index below [`reachable_len`](Self::reachable_len), for drawing one at
    /// random.
    pub(crate) fn nth(&self, index: usize) -> Option<NodeId> {
        self.ring.get(index).map(|&(_, id)| id)
    }

    /// Who is to pass news on for us in the open range from us to `until`, each with the end of its own part. The
    /// parts are disjoint and cover the range, so news sent along them reaches everybody once. Who is unreachable is
    /// passed over: it would keep its whole part waiting.
    pub(crate) fn children(&self, until: u64) -> Vec<(NodeId, u64)> {
        let len = self.ring.len();
        let start = self.ring_after;
        let end = self.ring.partition_point(|&(at, _)| at < until);
        let count = match () {
            () if until == self.position => len,
            () if until > self.position => end - start,
            () => len - start + end,
        };
        let parts = TREE_FANOUT.min(count);
        let nth = |offset: usize| self.ring[(start + offset) % len];
        (0..parts)
            .map(|part| {
                let first = part * count / parts;
                let next = (part + 1) * count / parts;
                let end = if next < count { nth(next).0 } else { until };
                (nth(first).1, end)
            })
            .collect()
    }

    /// Looked for where somebody comes or goes, for it is asked for with every round.
    fn look_after_me(&mut self) {
        let is_before = |&(at, _): &(u64, NodeId)| at <= self.position;
        self.present_after = self.present.partition_point(is_before);
        self.ring_after = self.ring.partition_point(is_before);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(id: u64) -> Peer {
        let addr = SocketAddr::from(([10, 0, (id >> 8) as u8, id as u8], 7900));
        Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id }
    }

    fn roster(me: u64, others: impl IntoIterator<Item = u64>) -> Roster {
        let mut roster = Roster::new(NodeId(me));
        for id in others {
            roster.put(peer(id), MemberState::Reachable, Time::ZERO);
        }
        roster
    }

    /// Walks the tree from `me` as if every member had the same roster, and counts who is reached.
    fn reached(ids: &[u64], me: u64) -> BTreeMap<u64, usize> {
        let mut reached = BTreeMap::new();
        let mut todo = vec![(me, position(NodeId(me)))];
        while let Some((at, until)) = todo.pop() {
            let others = ids.iter().copied().filter(|id| *id != at);
            for (child, end) in roster(at, others).children(until) {
                *reached.entry(child.0).or_insert(0) += 1;
                todo.push((child.0, end));
            }
        }
        reached
    }

    proptest! {
        #[test]
        fn the_tree_reaches_everybody_exactly_once(count in 1u64..90, root in 0u64..90) {
            let ids: Vec<_> = (1..=count).collect();
            let root = root % count + 1;
            let reached = reached(&ids, root);
            prop_assert_eq!(reached.len() as u64, count - 1);
            prop_assert!(reached.values().all(|times| *times == 1));
            prop_assert!(!reached.contains_key(&root));
        }

        #[test]
        fn each_unreachable_member_is_drawn_at_one_index(lost in proptest::collection::vec(any::<bool>(), 1..60)) {
            let mut roster = Roster::new(NodeId(0));
            for (id, is_lost) in (1..).zip(&lost) {
                let state = if *is_lost { MemberState::Unreachable } else { MemberState::Reachable };
                roster.put(peer(id), state, Time::ZERO);
            }
            let by_ring = roster.successors().filter(|(_, state)| *state == MemberState::Unreachable);
            let unreachable: BTreeSet<_> = by_ring.map(|(id, _)| id).collect();
            let drawn: Vec<_> = (0..unreachable.len()).filter_map(|index| roster.nth_unreachable(index)).collect();
            prop_assert_eq!(drawn.len(), unreachable.len());
            prop_assert_eq!(roster.nth_unreachable(drawn.len()), drawn.first().copied());
            prop_assert_eq!(BTreeSet::from_iter(drawn), unreachable);
        }
    }

    #[test]
    fn the_fingerprint_counts_the_present_whatever_the_order() {
        let one = roster(9, [1, 2, 3]);
        let mut other = roster(9, [3, 1, 2, 4]);
        assert_ne!(one.fingerprint(), other.fingerprint());
        other.put(peer(4), MemberState::Down, Time::ZERO);
        assert_eq!(one.fingerprint(), other.fingerprint());
        assert_eq!(other.present_len(), 3);
    }

    #[test]
    fn a_grave_holds_every_life_up_to_its_own() {
        let mut roster = roster(9, []);
        roster.bury(NodeId(1), Generation::new(5, 2), Time::ZERO);
        assert!(roster.is_buried(NodeId(1), Generation::new(5, 2)));
        assert!(roster.is_buried(NodeId(1), Generation::new(4, 9)));
        assert!(!roster.is_buried(NodeId(1), Generation::new(5, 3)));
        roster.bury(NodeId(1), Generation::new(5, 1), Time::ZERO);
        assert!(roster.is_buried(NodeId(1), Generation::new(5, 2)), "a grave never gets shallower");
        roster.clear_graves(Time::ZERO + GRAVE_KEPT + Duration::from_secs(1));
        assert!(!roster.is_buried(NodeId(1), Generation::new(5, 2)));
    }

    #[test]
    fn an_address_tells_who_claims_it() {
        let mut roster = roster(9, [1]);
        let mut second = peer(2);
        second.addr = peer(1).addr;
        roster.put(second, MemberState::Down, Time::ZERO);
        assert_eq!(roster.at(second.addr).collect::<Vec<_>>(), [NodeId(1), NodeId(2)]);
        roster.take(NodeId(1));
        assert!(!roster.is_present_at(second.addr));
    }
}
