//! Draining: says of every own instance that it takes nothing new, to each member directly, until each has confirmed.
//!
//! Rumors tell the same to everybody, and nobody learns from them who knows. So each member gets the records in
//! notices, one after another, and sends a receipt for each once it has them. Who cannot be reached is not waited for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::effect::{Event, Heard, InputError, Outbox, Unconfirmed, WhyUnconfirmed};
use crate::peer::{MemberState, NodeId, Peer};
use crate::record::{Content, Instance, Key, Status};
use crate::time::Time;
use crate::wire::{Body, NOTICE_RECORDS_BYTES_MAX, Record, WireError, encode_instance};

/// Members that a notice is sent to at once; the next ones a moment later, so that a burst fits into their queues.
pub const NOTICES_AT_ONCE: usize = 128;

/// The longest time until a notice without a receipt is sent again.
pub const NOTICE_REPEAT_MAX: Duration = Duration::from_secs(1);

/// The time until it is sent again at first; it doubles.
const NOTICE_REPEAT: Duration = Duration::from_millis(60);

/// Between two bursts.
const BURST_EVERY: Duration = Duration::from_millis(2);

/// Who has yet to confirm what.
#[derive(Debug)]
pub(super) struct Notice {
    /// The keys of the records, as many for each datagram as fit.
    parcels: Vec<Vec<Key>>,
    /// The number of the first of these.
    first: u32,
    waiting: BTreeMap<NodeId, Waiting>,
    confirmed: usize,
    unreachable: BTreeMap<NodeId, Unconfirmed>,
    until: Time,
    next_at: Time,
    is_over: bool,
}

/// How far one member is.
#[derive(Debug)]
struct Waiting {
    /// The next parcel that it is to confirm.
    next: usize,
    send_at: Time,
    pause: Duration,
}

impl Notice {
    pub(super) fn next_wake(&self) -> Time {
        self.next_at.min(self.until)
    }
}

impl Node {
    /// Whether the node was told to drain: it offers nothing new.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Members that have yet to confirm that they know that we drain.
    pub fn unconfirmed_len(&self) -> usize {
        self.notice.as_ref().map_or(0, |notice| notice.waiting.len())
    }

    pub(super) fn drain(&mut self, now: Time, within: Duration, out: &mut Outbox) -> Result<(), InputError> {
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        self.is_draining = true;
        self.stop_serving(now, out);
        self.flush(now, out);
        let (parcels, first) = self.numbered_parcels();
        let waiting = if parcels.is_empty() { BTreeMap::new() } else { self.others_present(now) };
        let until = now + within;
        self.notice = Some(Notice {
            parcels,
            first,
            waiting,
            confirmed: 0,
            unreachable: BTreeMap::new(),
            until,
            next_at: now,
            is_over: false,
        });
        self.send_notices(now, out);
        Ok(())
    }

    fn others_present(&self, now: Time) -> BTreeMap<NodeId, Waiting> {
        let waiting = || Waiting { next: 0, send_at: now, pause: NOTICE_REPEAT };
        self.roster.present().map(|entry| (entry.peer.id, waiting())).collect()
    }

    /// States every own instance that takes work, or soon would, as one that takes none.
    fn stop_serving(&mut self, now: Time, out: &mut Outbox) {
        let serves = |instance: &Instance| instance.status.is_serving() || instance.status == Status::Starting;
        let serving: Vec<_> = self
            .table
            .live(self.config.id)
            .filter_map(|(key, _, content)| match content {
                Content::Instance(instance) if serves(instance) => Some((key.clone(), Arc::clone(instance))),
                _ => None,
            })
            .collect();
        for (key, instance) in serving {
            let draining = Instance::clone(&instance).with_status(Status::Draining);
            // Of a record at the very limit the longer status may not fit: not to be there says the same.
            let body = encode_instance(&draining).map_or(Body::Gone, Body::Live);
            self.change(now, key, body, out);
        }
    }

    /// The own instances, as many for each datagram as fit.
    fn parcels(&self) -> Vec<Vec<Key>> {
        let mut parcels: Vec<Vec<Key>> = Vec::new();
        let mut room = 0;
        for (key, _, _) in self.table.live(self.config.id).filter(|(key, _, _)| !key.is_member()) {
            let Some(record) = self.own_record(key) else { continue };
            match parcels.last_mut().filter(|_| record.len() <= room) {
                Some(parcel) => parcel.push(key.clone()),
                None => {
                    parcels.push(vec![key.clone()]);
                    room = NOTICE_RECORDS_BYTES_MAX;
                }
            }
            room = room.saturating_sub(record.len());
        }
        parcels
    }

    /// The parcels, and the number of the first.
    fn numbered_parcels(&mut self) -> (Vec<Vec<Key>>, u32) {
        let parcels = self.parcels();
        let first = self.next_notice;
        self.next_notice = first.wrapping_add(u32::try_from(parcels.len()).unwrap_or(u32::MAX));
        (parcels, first)
    }

    /// Begins anew with everybody who has not confirmed all: the own records are others than those that were packed.
    pub(super) fn repack_notice(&mut self, now: Time) {
        if self.notice.is_none() {
            return;
        }
        let (parcels, first) = self.numbered_parcels();
        let Some(notice) = &mut self.notice else { return };
        (notice.parcels, notice.first, notice.next_at) = (parcels, first, now);
        for one in notice.waiting.values_mut() {
            *one = Waiting { next: 0, send_at: now, pause: NOTICE_REPEAT };
        }
    }

    fn own_record(&self, key: &Key) -> Option<Vec<u8>> {
        let (version, body) = self.table.body(self.owner(), key)?;
        Some(Record::encode(self.owner(), key, version, body))
    }

    /// Judges the notice's deadline, and sends again what was not confirmed.
    pub(super) fn repeat_notice(&mut self, now: Time, out: &mut Outbox) {
        let Some(notice) = &mut self.notice else { return };
        if now >= notice.until {
            notice.is_over = true;
        } else if now >= notice.next_at {
            self.send_notices(now, out);
        }
    }

    fn send_notices(&mut self, now: Time, out: &mut Outbox) {
        let Some(notice) = &mut self.notice else { return };
        let due: Vec<_> = notice.waiting.iter().filter(|(_, one)| one.send_at <= now).map(|(id, _)| *id).collect();
        for id in due.iter().take(NOTICES_AT_ONCE) {
            self.send_notice(now, *id, out);
        }
        let Some(notice) = &mut self.notice else { return };
        let next = notice.waiting.values().map(|one| one.send_at).min().unwrap_or(notice.until);
        notice.next_at = next.max(now + BURST_EVERY);
    }

    /// Sends a member the next of what it has not confirmed; drops one that cannot be reached.
    fn send_notice(&mut self, now: Time, id: NodeId, out: &mut Outbox) {
        let to = self.roster.get(id).filter(|_| self.is_awaited(id)).map(|entry| entry.peer);
        let Some(to) = to else { return self.drop_unreachable(id) };
        let Some(notice) = &self.notice else { return };
        let Some(one) = notice.waiting.get(&id) else { return };
        let keys = notice.parcels.get(one.next).map_or(&[][..], Vec::as_slice);
        let records: Vec<_> = keys.iter().filter_map(|key| self.own_record(key)).collect();
        if records.len() > 1 && records.iter().map(Vec::len).sum::<usize>() > NOTICE_RECORDS_BYTES_MAX {
            // What it holds has become larger since: all goes again, in parcels that fit.
            return self.repack_notice(now);
        }
        let Some(notice) = &mut self.notice else { return };
        let Some(one) = notice.waiting.get_mut(&id) else { return };
        let is_repeat = one.pause > NOTICE_REPEAT;
        one.send_at = now + one.pause;
        one.pause = (one.pause * 2).min(NOTICE_REPEAT_MAX);
        notice.next_at = notice.next_at.min(one.send_at);
        let number = notice.first.wrapping_add(u32::try_from(one.next).unwrap_or(u32::MAX));
        self.counters.notices_sent += 1;
        self.counters.notices_repeated += u64::from(is_repeat);
        self.send(&to, out, |filling| filling.notice(number, records.iter().map(Vec::as_slice)));
    }

    fn drop_unreachable(&mut self, id: NodeId) {
        let silent = self.roster.get(id).filter(|entry| entry.state != MemberState::Left);
        let silent = silent.map(|entry| self.unconfirmed(entry.peer, WhyUnconfirmed::Unreachable));
        let Some(notice) = &mut self.notice else { return };
        notice.waiting.remove(&id);
        // Who has left, or is forgotten, calls nobody any more.
        notice.unreachable.extend(silent.map(|silent| (id, silent)));
    }

    fn unconfirmed(&self, peer: Peer, why: WhyUnconfirmed) -> Unconfirmed {
        let said = self.roster.get(peer.id).and_then(|entry| entry.said());
        let name = said.map_or_else(|| Arc::from(peer.id.to_string()), |said| Arc::clone(&said.name));
        Unconfirmed { name, id: peer.id, addr: peer.addr, why }
    }

    /// Tells the program once nobody is left to wait for, or the time is over.
    pub(super) fn conclude_notice(&mut self, out: &mut Outbox) {
        let Some(notice) = &self.notice else { return };
        let lost: Vec<_> = notice.waiting.keys().copied().filter(|id| !self.is_awaited(*id)).collect();
        lost.into_iter().for_each(|id| self.drop_unreachable(id));
        let Some(notice) = self.notice.take_if(|notice| notice.is_over || notice.waiting.is_empty()) else { return };
        let silent = notice.waiting.keys().filter_map(|id| self.roster.get(*id));
        let silent = silent.map(|entry| self.unconfirmed(entry.peer, WhyUnconfirmed::Silent));
        let mut unconfirmed: Vec<_> = notice.unreachable.into_values().chain(silent).collect();
        unconfirmed.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        out.events.push(Event::Drained(Arc::new(Heard { confirmed: notice.confirmed, unconfirmed })));
    }

    /// Whom we alone cannot reach, others can, and it goes on calling: it is waited for.
    fn is_awaited(&self, id: NodeId) -> bool {
        self.roster.is_reachable(id)
    }

    /// Takes in what a member says of its own, and confirms it once it is here whole: the content of a large record
    /// comes over a stream, and the notice comes again.
    pub(super) fn on_notice(
        &mut self,
        now: Time,
        sender: Peer,
        number: u32,
        records: Vec<Record>,
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        if records.iter().any(|record| record.owner.id != sender.id) {
            return Err(self.malformed(WireError::Invalid("owner in notice")));
        }
        self.counters.notices_received += 1;
        let mut is_known = true;
        for record in records {
            let (owner, key, version) = (record.owner, record.key.clone(), record.version);
            if self.is_too_fast(now, &record) {
                self.counters.changes_limited += 1;
            } else {
                self.take_record(now, record, Some(0), Some(sender), out);
            }
            let is_over = self.table.epoch(owner.id).is_some_and(|epoch| epoch > owner.epoch);
            is_known &= is_over || self.table.version(owner, &key) >= version;
        }
        if is_known {
            self.send(&sender, out, |filling| filling.receipt(number));
        } else {
            self.counters.notices_unconfirmed += 1;
        }
        Ok(())
    }

    pub(super) fn on_receipt(&mut self, now: Time, from: NodeId, number: u32, out: &mut Outbox) {
        let Some(notice) = &mut self.notice else {
            self.counters.receipts_unasked += 1;
            return;
        };
        let parcel = number.wrapping_sub(notice.first) as usize;
        let Some(one) = notice.waiting.get_mut(&from).filter(|one| one.next == parcel) else {
            self.counters.receipts_unasked += 1;
            return;
        };
        self.counters.receipts_received += 1;
        one.next += 1;
        if one.next < notice.parcels.len() {
            one.pause = NOTICE_REPEAT;
            self.send_notice(now, from, out);
        } else {
            notice.waiting.remove(&from);
            notice.confirmed += 1;
        }
    }
}
