//! Who comes and goes: introductions by proof and by hearsay, deaths, goodbyes, rivals for our id, our name or an
//! address.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{DOWN_KEPT, EPOCHS_TAKEN_MAX, FAREWELLS, Node, RIVAL_ANSWERS_IN};
use crate::effect::{Event, Fatal, GoneReason, InputError, Outbox, Warning};
use crate::peer::{EPOCH_MAX, Epoch, Generation, Member, MemberState, NodeId, Peer};
use crate::record::{Content, Key, MemberRecord, Owner};
use crate::swim::{Note, undead_notice};
use crate::time::Time;
use crate::wire::{Body, Record, encode_member};

impl Node {
    /// Follows up on what foca found out, and sends what it wants sent.
    pub(super) fn heed_swim(&mut self, now: Time, out: &mut Outbox) {
        loop {
            let notes = self.swim.take_notes();
            if notes.is_empty() {
                break;
            }
            for note in notes {
                match note {
                    Note::Up(peer) | Note::Renamed(peer) => {
                        self.settle_address(now, &peer, false, out);
                        self.admit(now, peer, out);
                    }
                    Note::Down(peer) => self.lose(now, peer, out),
                    Note::Doubt(peer) => {
                        if self.is_present(&peer) {
                            self.detector.doubt(now, peer.id, &self.roster);
                        }
                    }
                    Note::Renewed(_) => {
                        self.counters.renewals += 1;
                        self.state_self(now, false, out);
                    }
                    Note::Outranked(rival) => self.meet_rival(now, &rival, false, out),
                    Note::WornOut => {
                        let renewals = self.peer().generation.bump();
                        self.fail(Fatal::WornOut { renewals }, out);
                    }
                }
            }
        }
        for (to, section) in self.swim.take_sends() {
            self.send_swim(&to, section, out);
        }
    }

    /// A member answered our Hello: it lives, where the answer came from. If it advertises another address, that one
    /// has yet to answer.
    pub(super) fn meet(&mut self, now: Time, peer: Peer, from: SocketAddr, out: &mut Outbox) {
        let was_alone = self.roster.present_len() == 0;
        let was_present = self.is_present(&peer);
        let is_proven = from == peer.addr;
        self.introduce(now, peer, is_proven, out);
        if !is_proven {
            self.contacts.ask(peer.addr, now, &mut self.rng);
        }
        let Some(entry) = self.roster.get(peer.id).filter(|entry| entry.peer.is_same_start(&peer)) else { return };
        entry.evidence.note(now);
        self.check_namesake(now, &peer, out);
        if !self.is_present(&peer) {
            return;
        }
        self.contacts.forget(peer.addr);
        if was_alone {
            self.needs_pull = true;
            self.pull_at = now;
            self.pull_from(now, peer, out);
        } else if !was_present {
            // Whoever we had lost, or never knew, may know a whole side of the cluster that we do not.
            self.compare_with(now, peer, 0, out);
        }
    }

    pub(super) fn is_present(&self, peer: &Peer) -> bool {
        self.roster.get(peer.id).is_some_and(|entry| entry.state.is_present() && entry.peer.is_same_start(peer))
    }

    /// Lets a member in that we heard of; `is_proven` if it answered us itself, at its address.
    pub(super) fn introduce(&mut self, now: Time, peer: Peer, is_proven: bool, out: &mut Outbox) {
        if peer.id == self.config.id {
            self.meet_rival(now, &peer, is_proven, out);
            return;
        }
        if self.is_over(now, &peer, is_proven, out) {
            return;
        }
        self.settle_address(now, &peer, is_proven, out);
        let known = self.roster.get(peer.id);
        if known.is_some_and(|entry| entry.peer.rank() == peer.rank() && entry.state.is_present()) {
            return;
        }
        if known.is_none() && !self.roster.has_room() {
            self.counters.members_limited += 1;
            return;
        }
        if let Err(error) = self.swim.introduce(now, peer) {
            self.swim_error(error);
        }
        self.admit(now, peer, out);
        self.heed_swim(now, out);
    }

    /// Whether this life of a member is over here. If it is not over there, it must be told, to begin a new one.
    fn is_over(&mut self, now: Time, peer: &Peer, is_proven: bool, out: &mut Outbox) -> bool {
        let is_buried = self.roster.is_buried(peer.id, peer.generation);
        let is_down = match self.roster.get(peer.id) {
            Some(entry) if entry.peer.rank() > peer.rank() => return true,
            Some(entry) if entry.state == MemberState::Left && entry.peer.epoch() >= peer.epoch() => return true,
            Some(entry) => entry.state == MemberState::Down && entry.peer.rank() == peer.rank(),
            None => false,
        };
        if !is_buried && !is_down {
            return false;
        }
        if is_proven {
            let notice = undead_notice(&self.peer(), peer);
            self.send_swim(peer, notice, out);
        }
        self.contacts.ask(peer.addr, now, &mut self.rng);
        true
    }

    /// Two members cannot live at one address: who answers there evicts the others; hearsay makes us ask.
    fn settle_address(&mut self, now: Time, peer: &Peer, is_proven: bool, out: &mut Outbox) {
        if !is_proven {
            // Not a walk over all of them: hearsay may put thousands at one address.
            let mut others = self.roster.at(peer.addr).filter(|id| *id != peer.id);
            if others.any(|id| self.roster.get(id).is_some_and(|entry| entry.state.is_present())) {
                self.contacts.ask_now(peer.addr, now, &mut self.rng);
            }
            return;
        }
        let others: Vec<_> = self.roster.at(peer.addr).filter(|id| *id != peer.id).collect();
        for id in others {
            self.evict(now, id, out);
        }
    }

    /// Makes a member present, in this life.
    pub(super) fn admit(&mut self, now: Time, peer: Peer, out: &mut Outbox) {
        if peer.addr == self.config.addr {
            // We are the proof that nobody else lives here.
            if let Err(error) = self.swim.dismiss(now, peer) {
                self.swim_error(error);
            }
            self.roster.bury(peer.id, Generation::new(peer.epoch(), u16::MAX), now);
            return;
        }
        let known = self.roster.get(peer.id).map(|entry| (entry.peer, entry.state));
        match known {
            Some((before, state)) if before == peer && state.is_present() => return,
            Some((before, _)) if before.rank() > peer.rank() => return,
            Some((before, MemberState::Left)) if before.epoch() >= peer.epoch() => return,
            // foca may forget sooner than we do.
            Some((before, MemberState::Down)) if before == peer => return,
            _ => {}
        }
        self.detector.forget(peer.id);
        let owner = Owner { id: peer.id, epoch: peer.epoch() };
        if self.table.epoch(peer.id).is_some_and(|epoch| epoch < owner.epoch) {
            self.drop_records(peer.id, GoneReason::OwnerRestarted, out);
        }
        let was_present = known.is_some_and(|(_, state)| state.is_present());
        self.roster.put(peer, MemberState::Reachable, now);
        self.table.begin(owner);
        self.table.set_counted(peer.id, true);
        self.show(now, peer.id, !was_present, out);
        self.leave_limbo(now, owner, out);
        if self.roster.get(peer.id).is_some_and(|entry| entry.evidence.last().is_none()) {
            // Hearsay is no evidence, but an age must count from something.
            self.roster.get(peer.id).expect("just looked at").evidence.note(now);
        }
    }

    /// A member is down.
    pub(super) fn lose(&mut self, now: Time, peer: Peer, out: &mut Outbox) {
        let is_current = self.roster.get(peer.id).is_some_and(|e| e.peer.rank() == peer.rank());
        if !is_current || !self.is_present(&peer) {
            return;
        }
        self.counters.members_down += 1;
        self.detector.forget(peer.id);
        self.roster.put(peer, MemberState::Down, now);
        self.table.set_counted(peer.id, false);
        self.contacts.remember(peer.addr);
        if let Some(shown) = self.restate(peer.id, MemberState::Down) {
            out.events.push(Event::MemberDown(shown));
            self.tell_services_down(peer.id, GoneReason::OwnerDown, out);
        }
    }

    /// A member said goodbye, with this record.
    pub(super) fn part(&mut self, now: Time, record: &Record, said: &MemberRecord, out: &mut Outbox) {
        let id = record.owner.id;
        let peer = Peer { id, addr: said.addr, generation: said.generation, nonce: said.nonce };
        let is_over = self.roster.get(id).is_some_and(|entry| entry.peer.epoch() > record.owner.epoch);
        self.roster.bury(id, Generation::new(record.owner.epoch, u16::MAX), now);
        self.goodbyes.insert(id, (now, record.clone()));
        if is_over {
            return;
        }
        self.counters.members_left += 1;
        self.part_without_record(now, peer, out);
    }

    /// A member said goodbye, as another lists it.
    pub(super) fn part_without_record(&mut self, now: Time, peer: Peer, out: &mut Outbox) {
        let id = peer.id;
        self.roster.bury(id, Generation::new(peer.epoch(), u16::MAX), now);
        let shown = self.restate(id, MemberState::Left);
        self.drop_records(id, GoneReason::OwnerLeft, out);
        if self.roster.get(id).is_some() || self.roster.has_room() {
            self.roster.put(peer, MemberState::Left, now);
        }
        self.contacts.forget(peer.addr);
        if let Err(error) = self.swim.dismiss(now, peer) {
            self.swim_error(error);
        }
        if let Some(shown) = shown {
            out.events.push(Event::MemberLeft(shown));
        }
    }

    /// Somebody else lives at a member's address.
    fn evict(&mut self, now: Time, id: NodeId, out: &mut Outbox) {
        let Some(entry) = self.roster.get(id) else { return };
        let (peer, state) = (entry.peer, entry.state);
        if state.is_present() {
            self.counters.members_down += 1;
            if let Some(shown) = self.restate(id, MemberState::Down) {
                out.events.push(Event::MemberDown(shown));
            }
        }
        self.forget_member(now, id, out);
        if let Err(error) = self.swim.dismiss(now, peer) {
            self.swim_error(error);
        }
    }

    fn forget_member(&mut self, now: Time, id: NodeId, out: &mut Outbox) {
        self.drop_records(id, GoneReason::Forgotten, out);
        let Some(entry) = self.roster.take(id) else { return };
        self.namesakes.remove(&id);
        self.roster.bury(id, entry.peer.generation, now);
        if let Some(shown) = entry.shown() {
            out.events.push(Event::MemberForgotten(shown));
        }
    }

    /// Forgets members that have been gone for long.
    pub(super) fn reap(&mut self, now: Time, out: &mut Outbox) {
        // Every second, and mostly nobody has been gone for that long.
        let turn = self.roster.turn();
        if self.reap_from.is_some_and(|(at, oldest)| at == turn && now.since(oldest) <= DOWN_KEPT) {
            return;
        }
        self.reap_from = self.roster.absent().map(|(_, entry)| entry.since).min().map(|oldest| (turn, oldest));
        let absent = self.roster.absent();
        let gone: Vec<_> = absent.filter(|(_, entry)| now.since(entry.since) > DOWN_KEPT).map(|(id, _)| id).collect();
        for id in gone {
            self.forget_member(now, id, out);
        }
    }

    /// Another start of our own id. If both live, whoever has the lesser claim stops. Hearsay is no proof of that: it
    /// may be an earlier start of ours with a larger epoch, because our data directory is an old copy or the clock went
    /// back. Only its address can tell.
    pub(super) fn meet_rival(&mut self, now: Time, rival: &Peer, is_proven: bool, out: &mut Outbox) {
        let me = self.peer();
        if rival.nonce == me.nonce || (rival.epoch(), rival.nonce) <= (me.epoch(), me.nonce) {
            return;
        }
        let may_outlive = rival.epoch() < EPOCH_MAX && self.epochs_taken < EPOCHS_TAKEN_MAX;
        if is_proven || !may_outlive {
            self.fail(Fatal::Cloned { id: me.id, addr: rival.addr }, out);
        } else if rival.addr == me.addr {
            // We are the proof that nobody else lives there.
            self.take_epoch(now, rival.epoch(), out);
        } else if self.rival.is_none_or(|(_, known)| known.rank() < rival.rank()) {
            let until = self.rival.map_or(now + RIVAL_ANSWERS_IN, |(until, _)| until);
            self.rival = Some((until, *rival));
            self.contacts.ask(rival.addr, now, &mut self.rng);
        }
    }

    /// A later start of our id that does not answer where it is said to live is over.
    pub(super) fn outlive_rival(&mut self, now: Time, out: &mut Outbox) {
        if let Some((_, rival)) = self.rival.take_if(|(until, _)| *until <= now) {
            let me = self.peer();
            if (rival.epoch(), rival.nonce) > (me.epoch(), me.nonce) {
                self.take_epoch(now, rival.epoch(), out);
            }
        }
    }

    /// Goes on as a later start than `known`: what we state is stated anew.
    pub(super) fn take_epoch(&mut self, now: Time, known: Epoch, out: &mut Outbox) {
        let generation = Generation::first(known + 1);
        let me = Peer { generation, ..self.peer() };
        if let Err(error) = self.swim.rename(now, me) {
            self.swim_error(error);
            return;
        }
        self.epochs_taken += 1;
        self.counters.epochs_taken += 1;
        out.events.push(Event::Warning(Warning::OlderThanPeers { known, taken: me.epoch() }));
        self.state_all_anew(now, out);
    }

    /// The others reach us at `addr` from now on: a new life there, with the same records.
    pub(super) fn readdress(&mut self, now: Time, addr: SocketAddr, out: &mut Outbox) -> Result<(), InputError> {
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        let me = self.peer();
        if me.addr == addr {
            return Ok(());
        }
        // Who is believed to live there is wrong about it, or moved too.
        for id in self.roster.at(addr).collect::<Vec<_>>() {
            self.evict(now, id, out);
        }
        self.config.addr = addr;
        self.contacts.moved(me.addr, addr);
        self.counters.readdresses += 1;
        let Some(generation) = me.generation.renewed() else {
            // Every life of this start is used up.
            let generation = Generation::first(me.epoch() + 1);
            self.swim.rename(now, Peer { addr, generation, ..me }).map_err(|error| self.swim_error(error))?;
            self.state_all_anew(now, out);
            return Ok(());
        };
        self.swim.rename(now, Peer { addr, generation, ..me }).map_err(|error| self.swim_error(error))?;
        self.state_self(now, false, out);
        self.flush(now, out);
        Ok(())
    }

    /// A member that lives has our name. Whoever joins a cluster in which it is taken stops; two that were here before
    /// they met go on, and say so. Starts are not compared: their clocks may differ, and their nonces say nothing.
    pub(super) fn check_namesake(&mut self, now: Time, peer: &Peer, out: &mut Outbox) {
        let Some(&was_first) = self.namesakes.get(&peer.id) else { return };
        let (name, id, addr) = (self.config.name.clone(), peer.id, peer.addr);
        if was_first {
            // The others know us already, and should not have to find out that we are gone.
            let _ = self.leave(now, out);
            self.has_left = false;
            self.fail(Fatal::DuplicateName { name, id, addr }, out);
        } else {
            self.warn(now, addr, Warning::DuplicateName { name, id, addr }, out);
        }
    }

    /// What a member's own record says, as far as it is known.
    fn statement(&self, id: NodeId) -> Option<Arc<MemberRecord>> {
        match self.table.content(id, &Key::member())? {
            Content::Member(said) => Some(said.clone()),
            Content::Instance(_) | Content::Unknown => None,
        }
    }

    /// Tells the program of a present member, once its own record is known; and of its instances, if it is new.
    pub(super) fn show(&mut self, now: Time, id: NodeId, is_new: bool, out: &mut Outbox) {
        let Some(said) = self.statement(id) else { return };
        let Some(entry) = self.roster.get(id).filter(|entry| entry.state.is_present()) else { return };
        let is_new = is_new || entry.told.is_none() || entry.is_outdated;
        let peer = entry.peer;
        if said.name == self.config.name {
            let is_joining = !self.is_ready;
            self.namesakes.entry(id).or_insert(is_joining);
            self.contacts.ask(peer.addr, now, &mut self.rng);
        } else {
            self.namesakes.remove(&id);
        }
        let Some(shown) = self.roster.show(id, said) else { return };
        if !is_new {
            out.events.push(Event::MemberChanged(shown));
            return;
        }
        out.events.push(Event::MemberUp(shown));
        for (_, _, content) in self.table.live(id) {
            if let Content::Instance(instance) = content {
                out.events.push(Event::ServiceUp { owner: id, instance: instance.clone() });
            }
        }
    }

    /// Whether the program was told of this start of a member.
    pub(super) fn was_told(&self, id: NodeId) -> bool {
        id == self.config.id || self.roster.get(id).is_some_and(|entry| entry.told.is_some() && !entry.is_outdated)
    }

    /// Whether the program was told of this start of a member, and it is present.
    pub(super) fn is_shown(&self, id: NodeId) -> bool {
        let is_present = || self.roster.get(id).is_some_and(|entry| entry.state.is_present());
        self.was_told(id) && (id == self.config.id || is_present())
    }

    /// The member as it was told to the program, in another state.
    pub(super) fn restate(&mut self, id: NodeId, state: MemberState) -> Option<Arc<Member>> {
        self.roster.restate(id, state)
    }

    fn tell_services_down(&self, id: NodeId, reason: GoneReason, out: &mut Outbox) {
        for (_, _, content) in self.table.live(id) {
            if let Content::Instance(instance) = content {
                out.events.push(Event::ServiceDown { owner: id, instance: instance.clone(), reason });
            }
        }
    }

    /// Tells the program of an instance that turned out to be withdrawn.
    pub(super) fn tell_dropped(&self, id: NodeId, content: Content, out: &mut Outbox) {
        if let (Content::Instance(instance), true) = (content, self.was_told(id)) {
            out.events.push(Event::ServiceDown { owner: id, instance, reason: GoneReason::Withdrawn });
        }
    }

    /// Drops a member's records, and tells the program if it knew of them.
    fn drop_records(&mut self, id: NodeId, reason: GoneReason, out: &mut Outbox) {
        let was_told = self.was_told(id);
        for (_, content) in self.table.remove(id) {
            if let (Content::Instance(instance), true) = (content, was_told) {
                out.events.push(Event::ServiceDown { owner: id, instance, reason });
            }
        }
    }

    /// Says who we are: at the start, with a new life, and at the end.
    pub(super) fn state_self(&mut self, now: Time, has_left: bool, out: &mut Outbox) {
        let me = self.peer();
        // A new life has a clean slate; who says again who it is has not.
        if self.own_life != me.generation {
            self.own_life = me.generation;
            self.own = self.own.renewed(now);
        }
        let said = MemberRecord {
            addr: me.addr,
            generation: me.generation,
            nonce: me.nonce,
            name: self.config.name.clone(),
            zone: self.config.zone.clone(),
            addresses: Vec::new(),
            wire: Self::wire_range(),
            software: Arc::from(env!("CARGO_PKG_VERSION")),
            has_left,
        };
        let bytes = encode_member(&said).expect("a member record of checked parts is small");
        self.change(now, Key::member(), Body::Live(bytes), out);
        let evidence = self.shown.as_ref().map(|shown| shown.evidence.clone()).unwrap_or_default();
        evidence.note(now);
        let member = Arc::new(Member {
            peer: me,
            name: said.name,
            zone: said.zone,
            state: if has_left { MemberState::Left } else { MemberState::Reachable },
            evidence,
            software: said.software,
            wire: said.wire,
        });
        let is_first = self.shown.replace(member.clone()).is_none();
        out.events.push(match (has_left, is_first) {
            (true, _) => Event::MemberLeft(member),
            (false, true) => Event::MemberUp(member),
            (false, false) => Event::MemberChanged(member),
        });
    }

    /// Says goodbye, now and twice more.
    pub(super) fn leave(&mut self, now: Time, out: &mut Outbox) -> Result<(), InputError> {
        if self.has_left {
            return Ok(());
        }
        self.tell_services_down(self.config.id, GoneReason::OwnerLeft, out);
        self.state_self(now, true, out);
        self.flush(now, out);
        self.has_left = true;
        self.notice = None;
        self.farewells = FAREWELLS.iter().map(|after| now + *after).collect();
        Ok(())
    }

    /// States everything again, as the records of a new epoch. The program knows of them: nothing changed for it.
    fn state_all_anew(&mut self, now: Time, out: &mut Outbox) {
        let id = self.config.id;
        let kept: Vec<_> = self.table.live_bodies(id).filter(|(key, _)| !key.is_member()).collect();
        self.table.remove(id);
        let owner = self.owner();
        self.table.begin(owner);
        self.table.set_counted(id, true);
        self.own_version = 0;
        self.state_self(now, false, out);
        for (key, bytes) in kept {
            self.restate_record(now, key, Body::Live(bytes));
        }
        self.repack_notice(now);
        self.flush(now, out);
    }

    pub(super) fn repeat_farewell(&mut self, now: Time) {
        if self.farewells.first().is_some_and(|at| *at <= now) {
            self.farewells.remove(0);
            let (owner, until) = (self.owner(), self.roster.position());
            self.rumors.learn((owner, Key::member()), self.own_version, until, now);
        }
    }
}
