//! Datagrams in and out: who may speak to us, what a datagram's sections lead to, and how datagrams are filled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use rand::RngExt;

use super::Node;
use crate::contact::Answered;
use crate::effect::{Datagram, InputError, KeyProblem, Outbox, Warning};
use crate::peer::{Generation, MemberState, NodeId, Peer};
use crate::record::{Key, Owner};
use crate::time::Time;
use crate::wire::{
    Fingerprints, Header, Hello, Kind, Outgoing, Record, Refusal, RefusalReason, Section, Sections, SwimSection,
    WireError, rumor_bytes,
};

impl Node {
    pub(super) fn on_datagram(
        &mut self,
        now: Time,
        from: SocketAddr,
        bytes: &[u8],
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        self.counters.datagrams_received += 1;
        self.counters.bytes_received += bytes.len() as u64;
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        let (header, body) = Header::read(bytes).map_err(|error| self.malformed(error))?;
        if header.kind == Kind::Refusal {
            return self.on_refusal(now, from, &header, body, out);
        }
        if header.cluster != self.cluster {
            self.counters.other_cluster += 1;
            self.refuse(now, from, RefusalReason::Cluster, out);
            let warning = Warning::OtherCluster { from, theirs: header.cluster, ours: self.cluster };
            self.warn(now, from, warning, out);
            return Err(InputError::NotAccepted("another cluster"));
        }
        if !header.is_spoken() {
            self.counters.other_version += 1;
            self.refuse(now, from, RefusalReason::Version, out);
            let theirs = (header.version, header.version);
            self.warn(now, from, Warning::WireVersion { from, theirs, ours: Self::wire_range() }, out);
            return Err(InputError::NotAccepted("another wire version"));
        }
        match header.kind {
            Kind::Hello => self.on_hello(now, from, &header, body, out),
            Kind::HelloBack => self.on_hello_back(now, from, &header, body, out),
            Kind::Gossip => self.on_gossip(now, from, &header, body, out),
            Kind::Refusal => Ok(()),
        }
    }

    pub(super) fn malformed(&mut self, error: WireError) -> InputError {
        self.counters.malformed += 1;
        InputError::Malformed(match error {
            WireError::Truncated(what) | WireError::Trailing(what) | WireError::Invalid(what) => what,
            WireError::TooLarge { what, .. } => what,
        })
    }

    fn on_gossip(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        if header.is_from(&self.peer()) {
            self.counters.echoes += 1;
            return Err(InputError::NotAccepted("our own"));
        }
        let known = self.roster.get(header.sender).filter(|entry| header.is_from(&entry.peer));
        let Some(known) = known else {
            self.counters.strangers += 1;
            self.contacts.ask(from, now, &mut self.rng);
            return Err(InputError::NotAccepted("a stranger"));
        };
        if known.state == MemberState::Left {
            return Err(InputError::NotAccepted("a member that left"));
        }
        known.evidence.note(now);
        let sender = known.peer;
        self.detector.hear(now);
        self.check_namesake(now, &sender, out);
        let mut result = Ok(());
        for section in Sections::new(body) {
            let taken = match section {
                Ok(section) => self.on_section(now, from, sender, section, out),
                Err(error) => Err(self.malformed(error)),
            };
            result = result.and(taken);
        }
        result
    }

    fn on_section(
        &mut self,
        now: Time,
        from: SocketAddr,
        sender: Peer,
        section: Section,
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        match section {
            Section::Swim(section) => self.on_swim(now, from, sender, section, out),
            Section::Rumors { until, records } => {
                self.counters.rumors_received += records.len() as u64;
                for record in records {
                    if self.is_too_fast(now, &record) {
                        self.counters.changes_limited += 1;
                        continue;
                    }
                    self.take_record(now, record, Some(until), Some(sender), out);
                }
                Ok(())
            }
            Section::Probe(probe) => {
                self.on_probe(now, sender, probe, out);
                Ok(())
            }
            Section::Verdicts { until, verdicts } => {
                for verdict in verdicts {
                    self.take_verdict(now, &verdict, Some(until), sender, out);
                }
                Ok(())
            }
            Section::Notice { number, records } => self.on_notice(now, sender, number, records, out),
            Section::Receipt(number) => {
                self.on_receipt(now, sender.id, number, out);
                Ok(())
            }
            Section::Canary(canary) => {
                self.take_canary(now, sender, &canary);
                Ok(())
            }
            Section::Fingerprints(theirs) => {
                self.on_fingerprints(now, from, sender, theirs, out);
                Ok(())
            }
            Section::Hello(_) | Section::Refusal(_) | Section::Unknown(_) => {
                self.counters.unknown_sections += 1;
                Ok(())
            }
        }
    }

    fn on_swim(
        &mut self,
        now: Time,
        from: SocketAddr,
        sender: Peer,
        section: SwimSection,
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        let generation = Generation::new(sender.epoch(), section.src_bump);
        let mut src = Peer { generation, ..sender };
        if generation > sender.generation {
            // A new life, perhaps at another address, which only its own word tells.
            self.contacts.ask(from, now, &mut self.rng);
            if !self.roster.get(sender.id).is_some_and(|entry| entry.state.is_present()) {
                return Ok(());
            }
            src = sender;
        }
        let roster = &self.roster;
        // What is buried stays buried, and a start that we know to be over is no news.
        let accepts = |update: &crate::wire::SwimUpdate| {
            let is_over = roster
                .get(update.peer.id)
                .is_some_and(|entry| update.peer.epoch() < entry.peer.epoch() || entry.state == MemberState::Left);
            let has_room = roster.get(update.peer.id).is_some() || roster.has_room();
            !is_over && has_room && !roster.is_buried(update.peer.id, update.peer.generation)
        };
        self.swim
            .receive(now, src, section, self.own.is_damped(now), accepts)
            .map_err(|error| self.swim_error(error))?;
        self.heed_swim(now, out);
        Ok(())
    }

    fn on_fingerprints(&mut self, now: Time, from: SocketAddr, sender: Peer, theirs: Fingerprints, out: &mut Outbox) {
        if theirs.epoch != Fingerprints::epoch_bits(sender.epoch()) {
            // It has outlived a later start of its id, and we did not hear of that.
            self.contacts.ask(from, now, &mut self.rng);
        }
        let ours = self.fingerprints(false);
        let is_equal = (ours.records, ours.members) == (theirs.records, theirs.members);
        self.note_fingerprints(sender.id, theirs);
        if is_equal {
            self.counters.fingerprints_equal += 1;
            self.sync.agree();
        } else {
            self.counters.fingerprints_different += 1;
            if ours.members != theirs.members {
                self.push_verdicts(now, sender, out);
            }
        }
        if theirs.wants_answer {
            self.send(&sender, out, |_| Ok(()));
        }
        if let Some(step) = self.sync.observe(now, sender.id, is_equal) {
            self.take_step(now, step, out);
        }
    }

    /// Tells a process that is not the latest start of its id what the latest says of itself: a copy of its data
    /// directory lives, and it must stop.
    fn tell_of_later_start(&mut self, now: Time, to: SocketAddr, peer: &Peer, out: &mut Outbox) {
        let Some(entry) = self.roster.get(peer.id).filter(|entry| peer.epoch() < entry.peer.epoch()) else { return };
        let owner = Owner { id: peer.id, epoch: entry.peer.epoch() };
        let key = Key::member();
        let Some((version, body)) = self.table.body(owner, &key) else { return };
        let record = Record::encode(owner, &key, version, body);
        if self.refusals.take(now) {
            let mut filling = self.outgoing(Kind::Gossip);
            filling.rumors(0, [&record[..]]).expect("one record fits a datagram");
            out.datagrams.push(Datagram { to, nonce: Some(peer.nonce), bytes: filling.finish() });
        }
    }

    pub(super) fn fingerprints(&self, wants_answer: bool) -> Fingerprints {
        Fingerprints {
            records: self.table.fingerprint(),
            members: self.members_fingerprint(),
            wants_answer,
            epoch: Fingerprints::epoch_bits(self.peer().epoch()),
        }
    }

    /// Another start of our own id speaks.
    fn on_own_id(&mut self, now: Time, from: SocketAddr, rival: &Peer, out: &mut Outbox) {
        self.meet_rival(now, &Peer { addr: from, ..*rival }, true, out);
        self.warn(now, from, Warning::Cloned { id: rival.id, addr: from }, out);
    }

    fn on_hello(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        let hello = self.read_hello(body)?;
        self.counters.hellos_received += 1;
        if !self.hellos.take(now) {
            self.counters.hellos_limited += 1;
            return Err(InputError::NotAccepted("too many hellos"));
        }
        if header.sender == self.config.id && !header.is_from(&self.peer()) {
            let (rival, me) = (Peer { addr: from, ..hello.peer(header) }, self.peer());
            if (rival.epoch(), rival.nonce) > (me.epoch(), me.nonce) {
                // It may be a recording of an earlier start of ours: what lives answers, and that is the proof.
                self.contacts.ask(from, now, &mut self.rng);
            } else {
                self.on_own_id(now, from, &rival, out);
            }
        }
        self.say(Kind::HelloBack, from, hello.cookie, out);
        Ok(())
    }

    fn on_hello_back(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        let hello = self.read_hello(body)?;
        let Some(Answered { rtt }) = self.contacts.answered(from, hello.cookie, now) else {
            self.counters.hellos_unasked += 1;
            return Err(InputError::NotAccepted("an answer that was not asked for"));
        };
        self.counters.hellos_answered += 1;
        if header.is_from(&self.peer()) {
            self.contacts.is_own(from);
            return Ok(());
        }
        let peer = hello.peer(header);
        if peer.id == self.config.id {
            self.on_own_id(now, from, &peer, out);
            return Err(InputError::NotAccepted("another start of our own id"));
        }
        self.tell_of_later_start(now, from, &peer, out);
        self.meet(now, peer, from, out);
        if let Some(rtt) = rtt.filter(|_| peer.addr == from && self.is_present(&peer)) {
            self.detector.meet(now, peer.id, rtt);
        }
        Ok(())
    }

    fn read_hello(&mut self, body: &[u8]) -> Result<Hello, InputError> {
        match Sections::new(body).next() {
            Some(Ok(Section::Hello(hello))) => Ok(hello),
            Some(Err(error)) => Err(self.malformed(error)),
            _ => Err(self.malformed(WireError::Invalid("hello"))),
        }
    }

    fn on_refusal(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        let refusal = match Sections::new(body).next() {
            Some(Ok(Section::Refusal(refusal))) => refusal,
            Some(Err(error)) => return Err(self.malformed(error)),
            _ => return Err(self.malformed(WireError::Invalid("refusal"))),
        };
        self.counters.refusals_received += 1;
        let warning = match refusal.reason {
            RefusalReason::Version => Warning::WireVersion { from, theirs: refusal.wire, ours: Self::wire_range() },
            RefusalReason::Cluster => Warning::OtherCluster { from, theirs: header.cluster, ours: self.cluster },
            RefusalReason::Key => Warning::Key { from, problem: KeyProblem::Refused },
        };
        self.warn(now, from, warning, out);
        Ok(())
    }

    fn refuse(&mut self, now: Time, to: SocketAddr, reason: RefusalReason, out: &mut Outbox) {
        if !self.refusals.take(now) {
            self.counters.refusals_limited += 1;
            return;
        }
        self.counters.refusals_sent += 1;
        let mut filling = self.outgoing(Kind::Refusal);
        filling.refusal(&Refusal { reason, wire: Self::wire_range() }).expect("a refusal fits a datagram");
        out.datagrams.push(Datagram { to, nonce: None, bytes: filling.finish() });
    }

    pub(super) fn say_hello(&mut self, to: SocketAddr, cookie: u64, out: &mut Outbox) {
        self.counters.hellos_sent += 1;
        self.say(Kind::Hello, to, cookie, out);
    }

    fn say(&mut self, kind: Kind, to: SocketAddr, cookie: u64, out: &mut Outbox) {
        let me = self.peer();
        let hello = Hello { generation: me.generation, addr: me.addr, wire: Self::wire_range(), cookie };
        let mut filling = self.outgoing(kind);
        filling.hello(&hello).expect("a hello fits a datagram");
        out.datagrams.push(Datagram { to, nonce: None, bytes: filling.finish() });
    }

    pub(super) fn outgoing(&mut self, kind: Kind) -> Outgoing {
        self.sent += 1;
        Outgoing::new(&Header::new(kind, self.cluster, &self.peer(), self.sent))
    }

    /// Sends what foca wants sent.
    pub(super) fn send_swim(&mut self, to: &Peer, mut section: SwimSection, out: &mut Outbox) {
        self.send(to, out, |filling| {
            // foca fills by its own, longer encoding, so this never cuts; if it did, gossip repeats.
            while filling.swim(&section).is_err() && section.updates.pop().is_some() {}
            Ok(())
        });
    }

    /// Sends a gossip datagram: what `fill` puts in, our fingerprints, and lazy repeats in the room that is left.
    pub(super) fn send(
        &mut self,
        to: &Peer,
        out: &mut Outbox,
        fill: impl FnOnce(&mut Outgoing) -> Result<(), WireError>,
    ) {
        let fingerprints = self.fingerprints(false);
        self.send_with(to, fingerprints, out, fill);
    }

    pub(super) fn send_echo(&mut self, to: &Peer, out: &mut Outbox) {
        let fingerprints = self.fingerprints(true);
        self.send_with(to, fingerprints, out, |_| Ok(()));
    }

    fn send_with(
        &mut self,
        to: &Peer,
        fingerprints: Fingerprints,
        out: &mut Outbox,
        fill: impl FnOnce(&mut Outgoing) -> Result<(), WireError>,
    ) {
        let mut filling = self.outgoing(Kind::Gossip);
        fill(&mut filling).expect("what is sent was made to fit");
        filling.fingerprints(fingerprints).expect("fingerprints always fit");
        // A repeat for somebody who does not read it would be one that nobody gets.
        if self.roster.is_reachable(to.id) {
            self.repeat_verdicts(to.id, &mut filling);
            self.repeat_rumors(to.id, &mut filling);
            self.canaries.repeat(self.now, to.id, &mut filling);
        }
        out.datagrams.push(Datagram { to: to.addr, nonce: Some(to.nonce), bytes: filling.finish() });
    }

    /// Fills the room that is left with rumors that have repeats left.
    fn repeat_rumors(&mut self, to: NodeId, filling: &mut Outgoing) {
        let room = filling.room();
        let (table, goodbyes) = (&self.table, &self.goodbyes);
        let mut records: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        self.rumors.repeat(|(owner, key)| {
            let Some(record) = encode(table, goodbyes, *owner, key) else { return true };
            if owner.id == to {
                return true;
            }
            if rumor_bytes(bytes + record.len()) > room {
                return false;
            }
            bytes += record.len();
            records.push(record);
            true
        });
        if !records.is_empty() {
            self.counters.rumors_sent += records.len() as u64;
            // Measured against the room.
            if filling.rumors(0, records.iter().map(Vec::as_slice)).is_err() {
                self.counters.bugs += 1;
            }
        }
    }

    /// Sends every hot rumor: along the tree, to the successor, and to somebody at random.
    pub(super) fn flush(&mut self, now: Time, out: &mut Outbox) {
        self.flush_at = None;
        self.flushed = now;
        self.flush_verdicts(out);
        self.flush_canaries(now, out);
        let hot = self.rumors.take_hot();
        let reachable = self.roster.reachable_len();
        if reachable == 0 || hot.is_empty() {
            return;
        }
        let random = self.roster.nth(self.rng.random_range(0..reachable));
        let beside: Vec<_> = self.roster.successor().into_iter().chain(random).collect();
        let mut children = BTreeMap::new();
        let mut parcels: BTreeMap<(NodeId, u64), Vec<Rc<[u8]>>> = BTreeMap::new();
        for news in hot {
            let (owner, key) = &news.subject;
            let Some(record) = encode(&self.table, &self.goodbyes, *owner, key) else { continue };
            let record: Rc<[u8]> = record.into();
            let mut told = vec![owner.id];
            if news.until != 0 {
                let roster = &self.roster;
                let children = children.entry(news.until).or_insert_with(|| roster.children(news.until));
                for &(child, end) in children.iter() {
                    told.push(child);
                    parcels.entry((child, end)).or_default().push(record.clone());
                }
            }
            for &id in beside.iter().filter(|_| news.is_new) {
                if !told.contains(&id) {
                    told.push(id);
                    parcels.entry((id, 0)).or_default().push(record.clone());
                }
            }
        }
        for ((to, until), records) in parcels {
            self.send_parcel(to, until, &records, out);
        }
    }

    fn send_parcel(&mut self, to: NodeId, until: u64, records: &[Rc<[u8]>], out: &mut Outbox) {
        let Some(to) = self.roster.get(to).map(|entry| entry.peer) else { return };
        let fingerprints = self.fingerprints(false);
        let mut rest = records;
        while !rest.is_empty() {
            let mut filling = self.outgoing(Kind::Gossip);
            filling.fingerprints(fingerprints).expect("fingerprints always fit");
            let room = filling.room();
            let mut bytes = 0;
            let fits = rest.iter().take_while(|record| {
                bytes += record.len();
                rumor_bytes(bytes) <= room
            });
            // One always fits: asserted where the sizes are defined.
            let count = fits.count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            if filling.rumors(until, now.iter().map(|record| &**record)).is_err() {
                self.counters.bugs += 1;
                continue;
            }
            self.counters.rumors_sent += count as u64;
            out.datagrams.push(Datagram { to: to.addr, nonce: Some(to.nonce), bytes: filling.finish() });
        }
    }
}

/// A record as it travels in a rumor; `None` if it is gone from here.
fn encode(
    table: &crate::table::Table,
    goodbyes: &BTreeMap<NodeId, (Time, Record)>,
    owner: crate::record::Owner,
    key: &crate::record::Key,
) -> Option<Vec<u8>> {
    if let Some((version, body)) = table.body(owner, key) {
        return Some(Record::encode(owner, key, version, body));
    }
    let (_, goodbye) = goodbyes.get(&owner.id).filter(|(_, record)| record.owner == owner && record.key == *key)?;
    let crate::wire::Body::Live(bytes) = &goodbye.body else { return None };
    Some(Record::encode(owner, key, goodbye.version, crate::wire::BodyRef::Live(bytes)))
}
