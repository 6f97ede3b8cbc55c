//! What members state: our own changes, others' records as they come in, and those that wait for their owner.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Allowance, GOODBYES_MAX, LIMBO_BYTES_MAX, LIMBO_KEPT, LIMBO_MAX, Node};
use crate::effect::{Event, GoneReason, InputError, Outbox};
use crate::peer::{Generation, MemberState, NodeId, Peer};
use crate::record::{Content, Instance, Key, MemberRecord, Owner};
use crate::table::{Merge, RECORDS_MAX, RECORDS_PER_OWNER_MAX, record_bytes};
use crate::time::Time;
use crate::wire::{Body, Record, WireError, encode_instance};

/// What became of a record that came in.
/// Owners whose rate of changes is followed before those are let go that have not changed of late.
const CHANGES_UNTIDIED: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// It is new here.
    New,
    /// It was known, or is not for us to keep.
    Known,
    /// It is not kept, though it may be news: for now, or for good.
    Dropped,
}

impl Node {
    pub(super) fn register(&mut self, now: Time, instance: &Arc<Instance>, out: &mut Outbox) -> Result<(), InputError> {
        if instance.id.is_member() {
            // That key is the member's own record, which everything else rests on.
            return Err(InputError::NotAccepted("an instance without an id"));
        }
        if self.is_draining && !self.has_left {
            return Err(InputError::Draining);
        }
        self.check_may_change(now)?;
        let bytes = encode_instance(instance).map_err(|error| match error {
            WireError::TooLarge { bytes, limit, .. } => InputError::RecordTooLarge { bytes, limit },
            _ => InputError::Malformed("instance"),
        })?;
        let is_new = self.table.version(self.owner(), &instance.id) == 0;
        if is_new && !self.table.make_room(self.config.id) {
            let live = self.table.live_count(self.config.id);
            let (count, limit) = match live {
                RECORDS_PER_OWNER_MAX.. => (live + 1, RECORDS_PER_OWNER_MAX),
                _ => (RECORDS_MAX + 1, RECORDS_MAX),
            };
            return Err(InputError::TooManyRecords { count, limit });
        }
        self.change(now, instance.id.clone(), Body::Live(bytes), out);
        self.flush(now, out);
        Ok(())
    }

    pub(super) fn withdraw(&mut self, now: Time, key: &Key, out: &mut Outbox) -> Result<(), InputError> {
        if key.is_member() || self.table.content(self.config.id, key).is_none() {
            return Err(InputError::UnknownInstance(key.clone()));
        }
        self.check_may_change(now)?;
        self.change(now, key.clone(), Body::Gone, out);
        self.flush(now, out);
        Ok(())
    }

    fn check_may_change(&mut self, now: Time) -> Result<(), InputError> {
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        if !self.own_changes.take(now) {
            self.counters.own_changes_limited += 1;
            return Err(InputError::TooManyChanges { limit: super::OWN_CHANGES_PER_SECOND });
        }
        Ok(())
    }

    /// A change of one of our own records: the next version, for everybody.
    pub(super) fn change(&mut self, now: Time, key: Key, body: Body, out: &mut Outbox) {
        self.counters.own_changes += 1;
        let (record, merge) = self.next_record(now, key, body);
        self.tell(&record, merge, out);
        let until = self.roster.position();
        self.learn(now, &record, Some(until));
    }

    /// Says again, for everybody, what the program knows already.
    pub(super) fn restate_record(&mut self, now: Time, key: Key, body: Body) {
        let (record, _) = self.next_record(now, key, body);
        let until = self.roster.position();
        self.learn(now, &record, Some(until));
    }

    fn next_record(&mut self, now: Time, key: Key, body: Body) -> (Record, Merge) {
        self.own_version += 1;
        let record = Record { owner: self.owner(), key, version: self.own_version, body };
        let merge = self.table.merge(&record, now);
        debug_assert!(matches!(merge, Merge::New { .. }), "room was made, and the version is the next");
        (record, merge)
    }

    fn learn(&mut self, now: Time, record: &Record, until: Option<u64>) {
        let Some(until) = until else { return };
        // The table's key, if it has it: that one stays anyway.
        let key = self.table.key(record.owner.id, &record.key).unwrap_or(&record.key).clone();
        if !self.rumors.learn((record.owner, key), record.version, until, now) {
            self.counters.rumors_limited += 1;
        }
    }

    fn hear_again(&mut self, record: &Record, until: Option<u64>) {
        self.rumors.hear_again(&(record.owner, record.key.clone()), record.version, until.unwrap_or(0));
    }

    /// Takes in a record of somebody else; `until` ends our part of the ring for passing it on, `None` passes nothing
    /// on. `from` is who told us, for asking it for what did not fit.
    pub(super) fn take_record(
        &mut self,
        now: Time,
        record: Record,
        until: Option<u64>,
        from: Option<Peer>,
        out: &mut Outbox,
    ) -> Taken {
        let owner = record.owner;
        if owner.id == self.config.id {
            self.take_own(now, &record, out);
            return Taken::Known;
        }
        let said = self.member_statement(&record);
        if said.as_ref().is_some_and(|said| said.has_left) {
            return self.take_goodbye(now, record, until, out);
        }
        if let Some(said) = &said
            && self.is_newer_life(owner, said.generation)
        {
            let peer = Peer { id: owner.id, addr: said.addr, generation: said.generation, nonce: said.nonce };
            self.introduce(now, peer, false, out);
        }
        match self.roster.get(owner.id).map(|entry| (entry.peer.epoch(), entry.state)) {
            Some((epoch, state)) if epoch == owner.epoch && state != MemberState::Left => {
                self.take_known(now, record, until, from, out)
            }
            Some((epoch, _)) if epoch > owner.epoch => {
                self.counters.old_epochs += 1;
                Taken::Dropped
            }
            _ => {
                self.take_unknown(now, record, until);
                Taken::Dropped
            }
        }
    }

    /// Whether a member changes its records faster than anybody may: its news is then dropped.
    pub(super) fn is_too_fast(&mut self, now: Time, record: &Record) -> bool {
        let owner = record.owner;
        let is_news = owner.id != self.config.id
            && self.roster.get(owner.id).is_some()
            && record.version > self.table.version(owner, &record.key);
        if !is_news {
            return false;
        }
        // What is full again says nothing: while thousands join, they would stand here until the next second.
        if self.changes.len() >= self.changes_tidied * 2 + CHANGES_UNTIDIED {
            self.changes.retain(|_, allowance| !allowance.is_full(now));
            self.changes_tidied = self.changes.len();
        }
        let allowance = self
            .changes
            .entry(owner.id)
            .or_insert_with(|| Allowance::new(super::CHANGES_PER_SECOND, super::CHANGES_AT_ONCE, now));
        !allowance.take(now)
    }

    /// A record that says to be ours: an echo, another start of our id, or what a copy of our data directory stated
    /// in a start of the same second: then our own statement, made anew, replaces it everywhere.
    fn take_own(&mut self, now: Time, record: &Record, out: &mut Outbox) {
        let me = self.peer();
        if record.owner.epoch < me.epoch() {
            self.counters.old_epochs += 1;
            return;
        }
        if let Some(said) = self.member_statement(record) {
            let rival = Peer { id: me.id, addr: said.addr, generation: said.generation, nonce: said.nonce };
            self.meet_rival(now, &rival, false, out);
        }
        if record.owner != self.owner() || self.has_left {
            return;
        }
        let ours = self.table.body(record.owner, &record.key).map(|(version, body)| (version, body.to_owned()));
        let is_ours = ours.as_ref().is_some_and(|(version, body)| match record.version.cmp(version) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => matches!(record.body, Body::Large { .. }) || *body == record.body,
            std::cmp::Ordering::Greater => false,
        });
        if !is_ours && self.own_changes.take(now) {
            self.own_version = self.own_version.max(record.version);
            let body = ours.map_or(Body::Gone, |(_, body)| body);
            self.change(now, record.key.clone(), body, out);
        }
    }

    fn is_newer_life(&self, owner: Owner, generation: Generation) -> bool {
        self.roster
            .get(owner.id)
            .is_none_or(|entry| generation > entry.peer.generation && generation.epoch() == owner.epoch)
    }

    fn take_goodbye(&mut self, now: Time, record: Record, until: Option<u64>, out: &mut Outbox) -> Taken {
        let is_known = self.roster.is_buried(record.owner.id, Generation::new(record.owner.epoch, u16::MAX));
        if is_known {
            self.hear_again(&record, until);
            return Taken::Known;
        }
        if self.goodbyes.len() >= GOODBYES_MAX && self.roster.get(record.owner.id).is_none() {
            self.counters.goodbyes_limited += 1;
            return Taken::Dropped;
        }
        let Some(said) = self.member_statement(&record) else { return Taken::Dropped };
        let has_room = self.roster.get(record.owner.id).is_some() || self.roster.has_room();
        if said.generation.epoch() != record.owner.epoch || !has_room {
            self.counters.records_limited += 1;
            return Taken::Dropped;
        }
        self.counters.rumors_new += 1;
        self.part(now, &record, &said, out);
        self.learn(now, &record, until);
        Taken::New
    }

    fn take_known(
        &mut self,
        now: Time,
        record: Record,
        until: Option<u64>,
        from: Option<Peer>,
        out: &mut Outbox,
    ) -> Taken {
        if let Body::Large { len, hash } = record.body
            && record.version > self.table.version(record.owner, &record.key)
        {
            self.fetch(&record, (len, hash), until, from, out);
            return Taken::Dropped;
        }
        let merge = self.table.merge(&record, now);
        let counter = match &merge {
            Merge::New { .. } => &mut self.counters.rumors_new,
            Merge::Known => {
                self.hear_again(&record, until);
                return Taken::Known;
            }
            Merge::OldEpoch => &mut self.counters.old_epochs,
            Merge::Malformed => &mut self.counters.malformed,
            Merge::TooMany => &mut self.counters.records_limited,
        };
        *counter += 1;
        if !matches!(merge, Merge::New { .. }) {
            return Taken::Dropped;
        }
        self.tell(&record, merge, out);
        self.learn(now, &record, until);
        if record.key.is_member() {
            self.show(now, record.owner.id, false, out);
        }
        self.ask_after_the_dead(now, record.owner.id);
        Taken::New
    }

    /// A new statement of a member that we believe to be down: it may live, and only it can tell.
    fn ask_after_the_dead(&mut self, now: Time, id: NodeId) {
        if let Some(entry) = self.roster.get(id).filter(|entry| entry.state == MemberState::Down) {
            self.contacts.ask(entry.peer.addr, now, &mut self.rng);
        }
    }

    /// Tells the program what a merge changed. Of an owner that is down the program keeps what it was told, so changes
    /// and withdrawals are told all the same; what is new is told when the owner is back.
    pub(super) fn tell(&self, record: &Record, merge: Merge, out: &mut Outbox) {
        let Merge::New { before, after } = merge else { return };
        let owner = record.owner.id;
        if !self.was_told(owner) {
            return;
        }
        let instance = |content| match content {
            Some(Content::Instance(instance)) => Some(instance),
            _ => None,
        };
        let event = match (instance(before), instance(after)) {
            (None, Some(instance)) if self.is_shown(owner) => Event::ServiceUp { owner, instance },
            (Some(before), Some(instance)) if before != instance => Event::ServiceChanged { owner, before, instance },
            (Some(instance), None) => Event::ServiceDown { owner, instance, reason: GoneReason::Withdrawn },
            (Some(_), Some(_)) | (None, _) => return,
        };
        out.events.push(event);
    }

    /// A record whose owner is not known (yet), or not in this start.
    fn take_unknown(&mut self, now: Time, record: Record, until: Option<u64>) {
        let owner = record.owner;
        if self.roster.is_buried(owner.id, Generation::first(owner.epoch)) {
            self.counters.buried += 1;
            return;
        }
        let bytes = record_bytes(&record);
        if self.limbo.len >= LIMBO_MAX || self.limbo.bytes + bytes > LIMBO_BYTES_MAX {
            self.counters.limbo_limited += 1;
            return;
        }
        self.counters.limbo += 1;
        self.limbo.put(Waiting { since: now, record, until });
    }

    /// The owner is here: takes in what waited for it.
    pub(super) fn leave_limbo(&mut self, now: Time, owner: Owner, out: &mut Outbox) {
        for waiting in self.limbo.take(owner.id) {
            if waiting.record.owner == owner {
                self.take_record(now, waiting.record, waiting.until, None, out);
            }
        }
    }

    pub(super) fn clear_limbo(&mut self, now: Time) {
        self.limbo.clear(now);
    }

    /// What a member's own record says; `None` for any other record.
    fn member_statement(&mut self, record: &Record) -> Option<Arc<MemberRecord>> {
        if !record.key.is_member() {
            return None;
        }
        match self.table.read(record)? {
            Content::Member(said) => Some(said),
            Content::Instance(_) | Content::Unknown => None,
        }
    }
}

/// A record that waits for its owner.
#[derive(Debug)]
struct Waiting {
    since: Time,
    record: Record,
    until: Option<u64>,
}

/// Records whose owner is not known (yet): of each key the latest.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    waiting: BTreeMap<NodeId, BTreeMap<Key, Waiting>>,
    pub(super) len: usize,
    bytes: usize,
}

impl Limbo {
    fn put(&mut self, waiting: Waiting) {
        let record = &waiting.record;
        let of_owner = self.waiting.entry(record.owner.id).or_default();
        let rank = |record: &Record| (record.owner.epoch, record.version);
        if of_owner.get(&record.key).is_some_and(|known| rank(&known.record) >= rank(record)) {
            return;
        }
        self.len += 1;
        self.bytes += record_bytes(record);
        if let Some(before) = of_owner.insert(record.key.clone(), waiting) {
            self.len -= 1;
            self.bytes -= record_bytes(&before.record);
        }
    }

    fn take(&mut self, id: NodeId) -> Vec<Waiting> {
        let taken: Vec<_> = self.waiting.remove(&id).into_iter().flat_map(BTreeMap::into_values).collect();
        self.len -= taken.len();
        self.bytes -= taken.iter().map(|waiting| record_bytes(&waiting.record)).sum::<usize>();
        taken
    }

    fn clear(&mut self, now: Time) {
        self.waiting.retain(|_, of_owner| {
            of_owner.retain(|_, waiting| now.since(waiting.since) <= LIMBO_KEPT);
            !of_owner.is_empty()
        });
        let left = self.waiting.values().flat_map(BTreeMap::values);
        (self.len, self.bytes) =
            left.fold((0, 0), |(len, bytes), waiting| (len + 1, bytes + record_bytes(&waiting.record)));
    }
}
