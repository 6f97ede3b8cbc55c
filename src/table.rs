//! Every owner's records as known here, and what is still missing. Knows nothing of who is reachable or who asks.
//!
//! Only an owner changes its records, and each change gets the owner's next version, so merging is taking the larger
//! version. The **watermark** of an owner is the version up to which nothing is missing; what arrives above it is
//! applied, but moves it only when the gap below is closed. Tombstones are kept for a while; whoever asks for what
//! changed since before the forgotten ones (the **floor**) gets the owner's whole set instead.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::by_id::ById;
use crate::peer::{Epoch, NodeId};
use crate::pool::{Held, Pool, Stored};
use crate::record::{Content, Key, Owner, Version};
use crate::time::Time;
use crate::wire::{Body, BodyRef, Delta, Digest, Record, content_hash, decode_content};

/// Records of one owner, tombstones included; what comes above is dropped and counted.
pub const RECORDS_PER_OWNER_MAX: usize = 20_000;

/// Records in all, tombstones included; what comes above is dropped and counted.
pub const RECORDS_MAX: usize = 500_000;

/// How long a tombstone is kept.
pub const TOMBSTONE_KEPT: Duration = Duration::from_secs(300);

/// Versions above a gap that are remembered one by one; beyond, closing the gap takes a sync.
const ABOVE_MAX: usize = 1_024;

/// Buckets of owners whose sums are compared first.
pub(crate) const BUCKETS: usize = 256;

/// The records of one owner: small, for there is one for each pair of members.
#[derive(Debug)]
struct Owned {
    epoch: Epoch,
    watermark: Version,
    /// The highest version of a tombstone that is forgotten.
    floor: Version,
    /// By key. Most owners have one or two, which then stand here themselves.
    entries: SmallVec<[Arc<Held>; 2]>,
    /// What came before something that is missing.
    gap: Option<Box<Gap>>,
    /// Over live entries.
    sum: u64,
    /// How many of the entries are live.
    live: u32,
    /// Whether the owner counts in the fingerprint: it is neither down nor left.
    is_counted: bool,
}

/// Something is missing below the highest version.
#[derive(Debug)]
struct Gap {
    /// Versions above the watermark that are known; never none.
    above: BTreeSet<Version>,
    since: Time,
}

/// What merging a record did.
#[derive(Debug)]
pub(crate) enum Merge {
    /// It is new here: what the key said before, and what it says now.
    New { before: Option<Content>, after: Option<Content> },
    /// This version, or a later one, is known.
    Known,
    /// It belongs to an earlier start of its owner.
    OldEpoch,
    /// It could not be read.
    Malformed,
    /// The owner, or the cluster, has too many.
    TooMany,
}

/// Every owner's records as known here.
#[derive(Debug)]
pub(crate) struct Table {
    owners: ById<Owned>,
    buckets: Box<[u64; BUCKETS]>,
    fingerprint: u64,
    /// Live records of owners that count.
    live: usize,
    /// Records, tombstones included.
    records: usize,
    /// Owners of which something is missing below their highest version.
    gapped: BTreeSet<NodeId>,
    /// No tombstone is older.
    oldest_tombstone: Option<Time>,
    /// Shares records with the tables of other nodes, as far as one is lent.
    pool: Pool,
}

/// Which bucket an owner belongs to.
fn bucket(id: NodeId) -> usize {
    (xxh3_64(&id.0.to_le_bytes()) & 0xff) as usize
}

/// About how many bytes a record takes in a frame.
pub(crate) fn record_bytes(record: &Record) -> usize {
    let body = if let Body::Live(bytes) = &record.body { bytes.len() } else { 0 };
    48 + record.key.as_str().len() + body
}

/// What one live record adds to a fingerprint.
fn fingerprint_of(owner: Owner, key: &Key, version: Version, content: &[u8]) -> u64 {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&owner.id.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&owner.epoch.to_le_bytes());
    bytes[16..24].copy_from_slice(&version.to_le_bytes());
    bytes[24..].copy_from_slice(&content_hash(content).to_le_bytes());
    xxh3_64_with_seed(key.as_str().as_bytes(), xxh3_64(&bytes))
}

impl Owned {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, watermark: 0, floor: 0, entries: SmallVec::new(), gap: None, sum: 0, live: 0, is_counted: false }
    }

    fn find(&self, key: &Key) -> Result<usize, usize> {
        self.entries.binary_search_by(|held| held.key.cmp(key))
    }

    fn entry(&self, key: &Key) -> Option<&Arc<Held>> {
        self.find(key).ok().map(|index| &self.entries[index])
    }

    /// Puts a version in; gives the one that was there of the same key.
    fn put(&mut self, held: Arc<Held>) -> Option<Arc<Held>> {
        match self.find(&held.key) {
            Ok(index) => Some(std::mem::replace(&mut self.entries[index], held)),
            Err(index) => {
                self.entries.insert(index, held);
                None
            }
        }
    }

    fn live(&self) -> impl Iterator<Item = &Held> {
        self.entries.iter().map(|held| &**held).filter(|held| !held.is_gone())
    }

    /// How many of the entries are tombstones.
    fn gone_len(&self) -> usize {
        self.entries.len() - self.live as usize
    }

    /// Notes that `version` is known, and moves the watermark over what has become complete.
    fn note(&mut self, version: Version, now: Time) {
        if version <= self.watermark {
            return;
        }
        let gap = self.gap.get_or_insert_with(|| Box::new(Gap { above: BTreeSet::new(), since: now }));
        if gap.above.len() < ABOVE_MAX {
            gap.above.insert(version);
        }
        self.close_gap();
    }

    /// Everything up to `watermark` is known.
    fn complete(&mut self, watermark: Version) {
        self.watermark = self.watermark.max(watermark);
        self.close_gap();
    }

    fn close_gap(&mut self) {
        let Some(gap) = &mut self.gap else { return };
        while let Some(&next) = gap.above.first() {
            if next > self.watermark.saturating_add(1) {
                return;
            }
            self.watermark = self.watermark.max(next);
            gap.above.pop_first();
        }
        self.gap = None;
    }

    fn highest(&self) -> Version {
        self.gap.as_ref().and_then(|gap| gap.above.last()).copied().unwrap_or(0).max(self.watermark)
    }

    fn digest(&self, id: NodeId, salt: u64) -> Digest {
        Digest {
            owner: Owner { id, epoch: self.epoch },
            watermark: self.watermark,
            highest: self.highest(),
            sum: self.salted_sum(salt),
        }
    }

    fn salted_sum(&self, salt: u64) -> u64 {
        if salt == 0 {
            return self.sum;
        }
        let live = self.entries.iter().filter_map(|held| match &held.body {
            Stored::Live { share, .. } => Some(share),
            Stored::Gone { .. } => None,
        });
        live.fold(0, |sum, one| sum.wrapping_add(xxh3_64_with_seed(&one.to_le_bytes(), salt)))
    }
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            owners: ById::new(),
            buckets: Box::new([0; BUCKETS]),
            fingerprint: 0,
            live: 0,
            records: 0,
            gapped: BTreeSet::new(),
            oldest_tombstone: None,
            pool: Pool::default(),
        }
    }

    /// Takes a pool in place of the one it has, which it gives: until that is taken back, records are shared there.
    pub(crate) const fn lend(&mut self, pool: &mut Pool) {
        std::mem::swap(&mut self.pool, pool);
    }

    /// The order-free sum over live records of owners that count.
    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Live records of owners that count.
    pub(crate) const fn live_len(&self) -> usize {
        self.live
    }

    /// The start whose records are kept of `id`.
    pub(crate) fn epoch(&self, id: NodeId) -> Option<Epoch> {
        self.owners.get(id).map(|owned| owned.epoch)
    }

    /// The version of a key, live or gone; 0 if it was never known.
    pub(crate) fn version(&self, owner: Owner, key: &Key) -> Version {
        let owned = self.owners.get(owner.id).filter(|owned| owned.epoch == owner.epoch);
        owned.and_then(|owned| owned.entry(key)).map_or(0, |held| held.version)
    }

    /// A record's body, for sending it on.
    pub(crate) fn body(&self, owner: Owner, key: &Key) -> Option<(Version, BodyRef<'_>)> {
        let owned = self.owners.get(owner.id).filter(|owned| owned.epoch == owner.epoch)?;
        let held = owned.entry(key)?;
        let body = match &held.body {
            Stored::Live { bytes, .. } => BodyRef::Live(bytes),
            Stored::Gone { .. } => BodyRef::Gone,
        };
        Some((held.version, body))
    }

    /// The live contents of an owner, in order of their keys.
    pub(crate) fn live(&self, id: NodeId) -> impl Iterator<Item = (&Key, Version, &Content)> {
        self.owners
            .get(id)
            .into_iter()
            .flat_map(|owned| owned.entries.iter().filter_map(|held| Some((&held.key, held.version, held.content()?))))
    }

    /// The live contents of an owner as bytes, in order of their keys.
    pub(crate) fn live_bodies(&self, id: NodeId) -> impl Iterator<Item = (Key, Bytes)> {
        self.owners.get(id).into_iter().flat_map(|owned| {
            owned.entries.iter().filter_map(|held| match &held.body {
                Stored::Live { bytes, .. } => Some((held.key.clone(), bytes.clone())),
                Stored::Gone { .. } => None,
            })
        })
    }

    /// One live content.
    pub(crate) fn content(&self, id: NodeId, key: &Key) -> Option<&Content> {
        self.owners.get(id)?.entry(key)?.content()
    }

    /// A key of an owner as it is held here.
    pub(crate) fn key(&self, id: NodeId, key: &Key) -> Option<&Key> {
        Some(&self.owners.get(id)?.entry(key)?.key)
    }

    /// What a live record says; `None` if it cannot be read. Most come again: what is known need not be read anew.
    pub(crate) fn read(&mut self, record: &Record) -> Option<Content> {
        let Body::Live(bytes) = &record.body else { return None };
        let known = self.owners.get(record.owner.id).and_then(|owned| owned.entry(&record.key));
        if let Some(Stored::Live { bytes: known, content, .. }) = known.map(|held| &held.body)
            && known == bytes
        {
            return Some(content.clone());
        }
        if self.pool.is_sharing() {
            let share = fingerprint_of(record.owner, &record.key, record.version, bytes);
            return self.pool.live(&record.key, record.version, bytes, share).content().cloned();
        }
        decode_content(&record.key, bytes).ok()
    }

    /// Every owner that counts, with its start, in order.
    pub(crate) fn counted(&self) -> impl Iterator<Item = Owner> {
        self.owners.iter().filter(|(_, owned)| owned.is_counted).map(|(id, owned)| Owner { id, epoch: owned.epoch })
    }

    /// The live contents of every owner that counts and `is_meant`, in order.
    pub(crate) fn counted_live(
        &self,
        is_meant: impl Fn(NodeId) -> bool,
    ) -> impl Iterator<Item = (Owner, &Key, Version)> {
        let meant = self.owners.iter().filter(move |(id, owned)| owned.is_counted && is_meant(*id));
        meant.flat_map(|(id, owned)| {
            let owner = Owner { id, epoch: owned.epoch };
            owned.live().map(move |held| (owner, &held.key, held.version))
        })
    }

    /// Lets an owner count in the fingerprint, or not.
    pub(crate) fn set_counted(&mut self, id: NodeId, is_counted: bool) {
        let Some(owned) = self.owners.get_mut(id) else { return };
        if owned.is_counted == is_counted {
            return;
        }
        owned.is_counted = is_counted;
        let (sum, live) = (owned.sum, owned.live as usize);
        if is_counted {
            self.live += live;
            self.shift(id, sum);
        } else {
            self.live -= live;
            self.shift(id, sum.wrapping_neg());
        }
    }

    /// Makes room for a start of an owner: gives the live contents of an earlier start, which are gone now. A start
    /// that is not newer changes nothing.
    pub(crate) fn begin(&mut self, owner: Owner) -> Vec<(Key, Content)> {
        match self.epoch(owner.id) {
            Some(epoch) if epoch >= owner.epoch => Vec::new(),
            _ => {
                let gone = self.remove(owner.id);
                self.owners.insert(owner.id, Owned::new(owner.epoch));
                gone
            }
        }
    }

    /// Forgets an owner; gives its live contents.
    pub(crate) fn remove(&mut self, id: NodeId) -> Vec<(Key, Content)> {
        self.set_counted(id, false);
        let Some(owned) = self.owners.remove(id) else { return Vec::new() };
        self.gapped.remove(&id);
        self.records -= owned.entries.len();
        owned.entries.iter().filter_map(|held| Some((held.key.clone(), held.content()?.clone()))).collect()
    }

    /// Takes in a record of an owner that [`begin`](Self::begin) made room for. A body that is not here
    /// ([`Body::Large`]) is [`Merge::Malformed`]: fetch it first.
    pub(crate) fn merge(&mut self, record: &Record, now: Time) -> Merge {
        let Some(owned) = self.owners.get_mut(record.owner.id) else { return Merge::OldEpoch };
        if owned.epoch != record.owner.epoch {
            return Merge::OldEpoch;
        }
        let known = owned.entry(&record.key);
        // If nothing is there, it may have been withdrawn, and its tombstone forgotten.
        if record.version <= known.map_or(owned.floor, |held| held.version) {
            owned.note(record.version, now);
            self.mark_gap(record.owner.id);
            return Merge::Known;
        }
        let is_added = known.is_none();
        let is_full = owned.entries.len() >= RECORDS_PER_OWNER_MAX || self.records >= RECORDS_MAX;
        if is_added && is_full && !record.key.is_member() {
            return Merge::TooMany;
        }
        let (held, plus) = match &record.body {
            Body::Gone => {
                let body = Stored::Gone { since: now };
                (Arc::new(Held { key: record.key.clone(), version: record.version, body }), 0)
            }
            Body::Large { .. } => return Merge::Malformed,
            Body::Live(bytes) => {
                let share = fingerprint_of(record.owner, &record.key, record.version, bytes);
                (self.pool.live(&record.key, record.version, bytes, share), share)
            }
        };
        owned.note(record.version, now);
        if held.is_gone() {
            self.oldest_tombstone.get_or_insert(now);
        }
        let after = held.content().cloned();
        let before = owned.put(held);
        self.records += usize::from(is_added);
        let (before, minus) = match before.as_deref().map(|held| &held.body) {
            Some(Stored::Live { content, share, .. }) => (Some(content.clone()), *share),
            _ => (None, 0),
        };
        self.add(record.owner.id, u32::from(after.is_some()), plus);
        self.subtract(record.owner.id, u32::from(before.is_some()), minus);
        self.mark_gap(record.owner.id);
        Merge::New { before, after }
    }

    /// The owner itself is about to tell its whole set: what it says is so, whatever was withdrawn before. What it said
    /// before it withdrew may come late, and is as old as its watermark: of a set in pieces that of the last.
    pub(crate) fn reopen(&mut self, whole: &Delta) {
        let owner = whole.owner;
        if let Some(owned) = self.owners.get_mut(owner.id).filter(|o| o.epoch == owner.epoch)
            && (whole.more || whole.watermark >= owned.floor)
        {
            owned.floor = 0;
        }
    }

    /// Whether a new key of an owner fits, if need be after its oldest tombstones are forgotten before their time.
    pub(crate) fn make_room(&mut self, id: NodeId) -> bool {
        if self.records >= RECORDS_MAX {
            return false;
        }
        let Some(owned) = self.owners.get_mut(id) else { return true };
        if owned.entries.len() < RECORDS_PER_OWNER_MAX {
            return true;
        }
        let gone = owned.entries.iter().enumerate().filter(|(_, held)| held.is_gone());
        let Some((oldest, _)) = gone.min_by_key(|(_, held)| held.version) else { return false };
        let held = owned.entries.remove(oldest);
        owned.floor = owned.floor.max(held.version);
        self.records -= 1;
        true
    }

    /// The number of live records of an owner.
    pub(crate) fn live_count(&self, id: NodeId) -> usize {
        self.owners.get(id).map_or(0, |owned| owned.live as usize)
    }

    /// Everything of an owner up to `watermark` is here.
    pub(crate) fn complete(&mut self, owner: Owner, watermark: Version) {
        if let Some(owned) = self.owners.get_mut(owner.id).filter(|o| o.epoch == owner.epoch) {
            owned.complete(watermark);
            self.mark_gap(owner.id);
        }
    }

    /// Keeps the list of owners with gaps.
    fn mark_gap(&mut self, id: NodeId) {
        if self.owners.get(id).is_some_and(|owned| owned.gap.is_some()) {
            self.gapped.insert(id);
        } else if !self.gapped.is_empty() {
            self.gapped.remove(&id);
        }
    }

    /// After a whole set: drops what lies in its range and not in it; gives the live ones dropped.
    pub(crate) fn retain(&mut self, whole: &Delta) -> Vec<(Key, Content)> {
        let owner = whole.owner;
        let kept: BTreeSet<_> = whole.records.iter().map(|record| &record.key).collect();
        let Some(owned) = self.owners.get_mut(owner.id).filter(|o| o.epoch == owner.epoch) else {
            return Vec::new();
        };
        let mut dropped = Vec::new();
        let mut minus = 0u64;
        let before = owned.entries.len();
        owned.entries.retain(|held| {
            let is_meant = whole.since < held.version && held.version <= whole.watermark;
            if !is_meant || kept.contains(&held.key) {
                return true;
            }
            if let Stored::Live { content, share, .. } = &held.body {
                minus = minus.wrapping_add(*share);
                dropped.push((held.key.clone(), content.clone()));
            }
            false
        });
        self.records -= before - owned.entries.len();
        // Tombstones of this range were not told: whoever asks us for it gets the whole set, too.
        owned.floor = owned.floor.max(whole.watermark);
        let live = u32::try_from(dropped.len()).expect("an owner has at most twenty thousand");
        self.subtract(owner.id, live, minus);
        dropped
    }

    /// The sums by bucket under a salt: sums that were equal by chance differ under another salt. Salt 0 is the kept
    /// sums; any other reads every record.
    pub(crate) fn salted_buckets(&self, salt: u64) -> [u64; BUCKETS] {
        if salt == 0 {
            return *self.buckets;
        }
        let mut sums = [0u64; BUCKETS];
        for (id, owned) in self.owners.iter().filter(|(_, owned)| owned.is_counted) {
            let sum = &mut sums[bucket(id)];
            *sum = sum.wrapping_add(owned.salted_sum(salt));
        }
        sums
    }

    /// The digests of owners that count, in the buckets that `wants` names.
    pub(crate) fn digests(&self, salt: u64, wants: impl Fn(u8) -> bool) -> Vec<Digest> {
        self.owners
            .iter()
            .filter(|(id, owned)| owned.is_counted && wants(bucket(*id) as u8))
            .map(|(id, owned)| owned.digest(id, salt))
            .collect()
    }

    /// The digest of one owner, whether it counts or not.
    pub(crate) fn digest(&self, id: NodeId, salt: u64) -> Option<Digest> {
        self.owners.get(id).map(|owned| owned.digest(id, salt))
    }

    /// What changed of an owner after `since`, of at most about `bytes_max` bytes: where it is cut, its watermark says
    /// how far it goes and `more` that it was. The whole set after `since` if `whole` is asked; the whole set from the
    /// beginning if `since` lies below the floor or belongs to an earlier start. `None` if the owner is not known, or
    /// there is nothing newer.
    pub(crate) fn delta(
        &self,
        id: NodeId,
        epoch: Epoch,
        since: Version,
        whole: bool,
        bytes_max: usize,
    ) -> Option<Delta> {
        let owned = self.owners.get(id)?;
        if epoch > owned.epoch {
            return None;
        }
        let starts_over = epoch < owned.epoch || (since < owned.floor && !whole);
        let is_whole = whole || starts_over;
        let since = if starts_over { 0 } else { since };
        let mut newer: Vec<_> = owned
            .entries
            .iter()
            .filter(|held| held.version > since)
            .filter(|held| !is_whole || !held.is_gone())
            .collect();
        newer.sort_by_key(|held| held.version);
        let owner = Owner { id, epoch: owned.epoch };
        // Who asks beyond our own watermark has no gap below `since`, and we claim nothing above it.
        let watermark = owned.watermark.max(since);
        let mut delta = Delta { owner, since, watermark, is_whole, more: false, records: Vec::new() };
        let mut bytes = 0;
        for held in newer {
            let body = match &held.body {
                Stored::Live { bytes, .. } => Body::Live(bytes.clone()),
                Stored::Gone { .. } => Body::Gone,
            };
            let record = Record { owner, key: held.key.clone(), version: held.version, body };
            bytes += record_bytes(&record);
            if bytes > bytes_max && !delta.records.is_empty() {
                let last = delta.records.last().map_or(since, |record: &Record| record.version);
                delta.watermark = delta.watermark.min(last).max(since);
                // A gap of our own below the cut: asking again would bring the same.
                delta.more = delta.watermark > since;
                break;
            }
            delta.records.push(record);
        }
        let says_more = delta.is_whole || !delta.records.is_empty() || delta.watermark > since;
        says_more.then_some(delta)
    }

    /// Owners that count and of which something has been missing since before `before`.
    pub(crate) fn gaps(&self, before: Time) -> impl Iterator<Item = NodeId> {
        let is_long =
            move |owned: &Owned| owned.is_counted && owned.gap.as_ref().is_some_and(|gap| gap.since <= before);
        self.gapped.iter().copied().filter(move |id| self.owners.get(*id).is_some_and(is_long))
    }

    /// Forgets tombstones older than [`TOMBSTONE_KEPT`].
    pub(crate) fn forget_tombstones(&mut self, now: Time) {
        // Every second, with thousands of records: nothing is looked through before something can be old enough.
        if self.oldest_tombstone.is_none_or(|oldest| now.since(oldest) <= TOMBSTONE_KEPT) {
            return;
        }
        let mut oldest: Option<Time> = None;
        for owned in self.owners.values_mut().filter(|owned| owned.gone_len() > 0) {
            let floor = &mut owned.floor;
            let before = owned.entries.len();
            owned.entries.retain(|held| match held.body {
                Stored::Gone { since } if now.since(since) > TOMBSTONE_KEPT => {
                    *floor = (*floor).max(held.version);
                    false
                }
                Stored::Gone { since } => {
                    oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
                    true
                }
                Stored::Live { .. } => true,
            });
            self.records -= before - owned.entries.len();
        }
        self.oldest_tombstone = oldest;
    }

    /// Live records came in.
    fn add(&mut self, id: NodeId, live: u32, sum: u64) {
        let owned = self.owners.get_mut(id).expect("the caller has just changed its records");
        owned.live += live;
        owned.sum = owned.sum.wrapping_add(sum);
        if owned.is_counted {
            self.live += live as usize;
            self.shift(id, sum);
        }
    }

    /// Live records went.
    fn subtract(&mut self, id: NodeId, live: u32, sum: u64) {
        let owned = self.owners.get_mut(id).expect("the caller has just changed its records");
        owned.live -= live;
        owned.sum = owned.sum.wrapping_sub(sum);
        if owned.is_counted {
            self.live -= live as usize;
            self.shift(id, sum.wrapping_neg());
        }
    }

    fn shift(&mut self, id: NodeId, plus: u64) {
        self.fingerprint = self.fingerprint.wrapping_add(plus);
        let bucket = &mut self.buckets[bucket(id)];
        *bucket = bucket.wrapping_add(plus);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::MemberRecord;
    use crate::wire::encode_member;

    const OWNER: Owner = Owner { id: NodeId(1), epoch: 5 };

    fn content() -> Bytes {
        encode_member(&MemberRecord {
            addr: "127.0.0.1:1".parse().expect("an address"),
            generation: crate::peer::Generation::first(5),
            nonce: 1,
            name: "n".into(),
            zone: "".into(),
            addresses: Vec::new(),
            wire: (1, 1),
            software: "".into(),
            has_left: false,
        })
        .expect("small")
    }

    /// Contents of an unknown kind: any bytes will do.
    fn live(key: &str, version: Version) -> Record {
        let body = Body::Live(Bytes::copy_from_slice(&[99, version as u8]));
        Record { owner: OWNER, key: key.into(), version, body }
    }

    fn gone(key: &str, version: Version) -> Record {
        Record { owner: OWNER, key: key.into(), version, body: Body::Gone }
    }

    fn table(records: &[Record]) -> Table {
        let mut table = Table::new();
        table.begin(OWNER);
        table.set_counted(OWNER.id, true);
        for record in records {
            table.merge(record, Time::ZERO);
        }
        table
    }

    fn apply(table: &mut Table, delta: &Delta) {
        for record in &delta.records {
            table.merge(record, Time::ZERO);
        }
        if delta.is_whole {
            table.retain(delta);
        }
        table.complete(delta.owner, delta.watermark);
    }

    #[test]
    fn the_watermark_waits_for_what_is_missing_below() {
        let mut table = table(&[live("a", 1), live("c", 3)]);
        assert_eq!(table.digest(OWNER.id, 0).map(|d| (d.watermark, d.highest)), Some((1, 3)));
        assert_eq!(table.gaps(Time::ZERO).collect::<Vec<_>>(), [OWNER.id]);
        table.merge(&live("b", 2), Time::ZERO);
        assert_eq!(table.digest(OWNER.id, 0).map(|d| (d.watermark, d.highest)), Some((3, 3)));
        assert_eq!(table.gaps(Time::ZERO).count(), 0);
    }

    #[test]
    fn an_old_version_never_replaces_a_newer_one() {
        let mut table = table(&[live("a", 2)]);
        assert!(matches!(table.merge(&gone("a", 1), Time::ZERO), Merge::Known));
        assert!(table.content(OWNER.id, &"a".into()).is_some());
        let old = Record { owner: Owner { epoch: 4, ..OWNER }, ..live("a", 9) };
        assert!(matches!(table.merge(&old, Time::ZERO), Merge::OldEpoch));
    }

    #[test]
    fn a_new_start_replaces_all_of_the_old_ones_records() {
        let mut table = table(&[live("a", 1), live("b", 2)]);
        let before = table.fingerprint();
        let gone = table.begin(Owner { epoch: 6, ..OWNER });
        assert_eq!(gone.len(), 2);
        assert_ne!(table.fingerprint(), before);
        assert_eq!((table.fingerprint(), table.records, table.live_len()), (0, 0, 0));
        assert!(table.begin(OWNER).is_empty(), "an old start replaces nothing");
        assert_eq!(table.epoch(OWNER.id), Some(6));
    }

    #[test]
    fn a_peer_below_the_floor_gets_the_whole_set_and_drops_what_is_gone() {
        let mut behind = table(&[live("a", 1), live("b", 2)]);
        let mut ahead = table(&[live("a", 1), live("b", 2), gone("b", 3), live("c", 4)]);
        ahead.forget_tombstones(Time::ZERO + TOMBSTONE_KEPT + Duration::from_secs(1));
        let delta = ahead.delta(OWNER.id, OWNER.epoch, 2, false, usize::MAX).expect("news");
        assert!(delta.is_whole);
        apply(&mut behind, &delta);
        assert_eq!(behind.fingerprint(), ahead.fingerprint());
        assert!(behind.content(OWNER.id, &"b".into()).is_none());
    }

    #[test]
    fn whoever_learned_a_whole_set_tells_whole_sets_and_takes_nothing_older() {
        let mut ahead = table(&[live("k", 1), live("a", 2), gone("k", 3)]);
        ahead.forget_tombstones(Time::ZERO + TOMBSTONE_KEPT + Duration::from_secs(1));
        let mut joined = table(&[]);
        apply(&mut joined, &ahead.delta(OWNER.id, OWNER.epoch, 0, true, usize::MAX).expect("news"));
        assert!(matches!(joined.merge(&live("k", 1), Time::ZERO), Merge::Known), "withdrawn before it joined");
        let mut behind = table(&[live("k", 1), live("a", 2)]);
        apply(&mut behind, &joined.delta(OWNER.id, OWNER.epoch, 2, false, usize::MAX).expect("news"));
        assert_eq!(behind.fingerprint(), ahead.fingerprint());
    }

    #[test]
    fn what_the_owner_said_before_it_withdrew_brings_nothing_back_when_it_comes_late() {
        let said = table(&[live("k", 1), live("a", 2)]);
        let late = said.delta(OWNER.id, OWNER.epoch, 0, true, usize::MAX).expect("all");
        let now = table(&[live("k", 1), live("a", 2), gone("a", 3)]);
        let mut told = table(&[live("k", 1), live("a", 2), gone("a", 3)]);
        // A whole set holds no tombstones.
        apply(&mut told, &now.delta(OWNER.id, OWNER.epoch, 0, true, usize::MAX).expect("all"));
        told.reopen(&late);
        apply(&mut told, &late);
        assert!(told.content(OWNER.id, &"a".into()).is_none());
        let again = table(&[live("k", 1), live("a", 4)]);
        let newer = again.delta(OWNER.id, OWNER.epoch, 0, true, usize::MAX).expect("all");
        told.reopen(&newer);
        apply(&mut told, &newer);
        assert!(told.content(OWNER.id, &"a".into()).is_some());
    }

    #[test]
    fn room_for_a_live_record_is_made_by_forgetting_tombstones() {
        let mut table = table(&[]);
        for n in 0..RECORDS_PER_OWNER_MAX as Version {
            table.merge(&gone(&n.to_string(), n + 1), Time::ZERO);
        }
        assert!(matches!(table.merge(&live("new", 90_000), Time::ZERO), Merge::TooMany));
        assert!(table.make_room(OWNER.id));
        assert!(matches!(table.merge(&live("new", 90_000), Time::ZERO), Merge::New { .. }));
        assert!(matches!(table.merge(&live("0", 1), Time::ZERO), Merge::Known), "it stays withdrawn");
    }

    /// Half a million, as many members with all that one may have as it takes.
    #[test]
    fn records_of_all_members_have_a_limit_and_members_themselves_still_fit() {
        let mut table = Table::new();
        let owner = |n: usize| Owner { id: NodeId(n as u64 + 1), epoch: 5 };
        let body = Body::Live(Bytes::from_static(&[99, 1]));
        let record = |n: usize, k: usize| Record {
            owner: owner(n),
            key: k.to_string().as_str().into(),
            version: k as Version + 1,
            body: body.clone(),
        };
        let owners = RECORDS_MAX / RECORDS_PER_OWNER_MAX;
        for n in 0..owners {
            table.begin(owner(n));
            for k in 0..RECORDS_PER_OWNER_MAX {
                assert!(matches!(table.merge(&record(n, k), Time::ZERO), Merge::New { .. }), "{n} {k}");
            }
        }
        table.begin(owner(owners));
        assert!(matches!(table.merge(&record(owners, 0), Time::ZERO), Merge::TooMany));
        assert!(!table.make_room(owner(owners).id), "nobody else's goes for it");
        let member = Record { key: Key::member(), body: Body::Live(content()), ..record(owners, 0) };
        assert!(matches!(table.merge(&member, Time::ZERO), Merge::New { .. }), "who it is, is still told");
        assert_eq!(table.live_count(owner(0).id), RECORDS_PER_OWNER_MAX);
    }

    #[test]
    fn a_teller_with_a_gap_does_not_tell_the_same_page_for_ever() {
        let teller = table(&[live("b", 5), live("c", 6), live("d", 7)]);
        let page = teller.delta(OWNER.id, OWNER.epoch, 0, false, 1).expect("news");
        assert!(!page.more);
    }

    #[test]
    fn a_whole_set_told_in_pages_drops_what_is_gone_and_ends() {
        let mut behind = table(&[live("a", 1), live("b", 2), live("c", 3)]);
        let mut ahead = table(&[live("a", 1), gone("b", 4), live("d", 5), live("e", 6), live("f", 7)]);
        ahead.complete(OWNER, 7);
        ahead.forget_tombstones(Time::ZERO + TOMBSTONE_KEPT + Duration::from_secs(1));
        let (mut since, mut whole, mut pages) = (3, false, 0);
        while let Some(delta) = ahead.delta(OWNER.id, OWNER.epoch, since, whole, 1) {
            apply(&mut behind, &delta);
            (since, whole, pages) = (delta.watermark, delta.is_whole, pages + 1);
            if !delta.more {
                break;
            }
        }
        assert_eq!((behind.fingerprint(), pages), (ahead.fingerprint(), 4));
    }

    #[test]
    fn a_whole_set_drops_nothing_newer_than_itself() {
        let whole = table(&[live("a", 1)]).delta(OWNER.id, OWNER.epoch, 0, true, usize::MAX).expect("news");
        let mut ahead = table(&[live("a", 1), live("b", 2)]);
        apply(&mut ahead, &whole);
        assert!(ahead.content(OWNER.id, &"b".into()).is_some());
    }

    #[test]
    fn an_owner_that_does_not_count_leaves_the_fingerprint() {
        let mut table = table(&[live("a", 1)]);
        table.set_counted(OWNER.id, false);
        assert_eq!((table.fingerprint(), table.live_len()), (0, 0));
        table.merge(&live("b", 2), Time::ZERO);
        assert_eq!(table.fingerprint(), 0);
        table.set_counted(OWNER.id, true);
        assert_eq!(table.fingerprint(), self::table(&[live("a", 1), live("b", 2)]).fingerprint());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_kept_for_those_who_can() {
        let mut table = table(&[]);
        let wrong = Record { body: Body::Live(Bytes::from_static(&[2, 1])), ..live("a", 1) };
        let merge = table.merge(&wrong, Time::ZERO);
        assert!(matches!(merge, Merge::New { after: Some(Content::Unknown), .. }));
        assert_eq!((table.live_len(), table.version(OWNER, &"a".into())), (1, 1));
        let member = Record { key: Key::member(), body: Body::Live(content()), ..live("a", 1) };
        assert!(matches!(table.merge(&member, Time::ZERO), Merge::New { after: Some(Content::Member(_)), .. }));
    }

    proptest! {
        /// Any order, any repetition, any split into deltas: the same records give the same table.
        #[test]
        fn merging_is_free_of_order(
            changes in proptest::collection::vec((0u8..5, any::<bool>()), 1..40),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
            cut in 60usize..400,
        ) {
            let records: Vec<_> = changes.iter().enumerate().map(|(at, (key, is_live))| {
                let (key, version) = (format!("k{key}"), at as Version + 1);
                if *is_live { live(&key, version) } else { gone(&key, version) }
            }).collect();
            let straight = table(&records);
            let shuffled: Vec<_> = order.iter().map(|index| index.get(&records).clone()).collect();
            let mut other = table(&shuffled);
            for _ in 0..100 {
                let digest = other.digest(OWNER.id, 0).expect("known");
                let Some(delta) = straight.delta(OWNER.id, OWNER.epoch, digest.watermark, false, cut) else { break };
                apply(&mut other, &delta);
            }
            prop_assert_eq!(other.fingerprint(), straight.fingerprint());
            let digest = other.digest(OWNER.id, 0).expect("known");
            prop_assert_eq!(digest.watermark, records.len() as Version);
        }
    }
}
