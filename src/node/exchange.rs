//! What is asked and answered over streams: the pull of everything at a join, comparisons and what they lead to, and
//! the contents of large records.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::Node;
use super::records::Taken;
use crate::effect::{InputError, Outbox, Reply, Request, StreamFailure};
use crate::peer::{Generation, MemberState, NodeId, Peer};
use crate::record::{Key, Owner, Version};
use crate::sync::{DELTA_BYTES_MAX, GAP_MAX, ROUNDS_MAX, Step, delta_bytes, exchange};
use crate::time::Time;
use crate::verdict::{Finding, Standing, Verdict};
use crate::wire::{
    Answer, Ask, Body, BodyRef, Delta, Digest, Listed, ListedState, Record, Want, content_hash, decode_answer,
    decode_ask, encode_answer, encode_ask,
};

/// Questions under way at once; beyond, large records wait for anti-entropy.
pub const CONVERSATIONS_MAX: usize = 256;

/// After a pull that failed, how long until the next.
const PULL_AGAIN_AFTER: Duration = Duration::from_millis(150);

/// Records that a sync brought which are passed on as news; more are left to the others' own syncs.
const SYNCED_NEWS_MAX: usize = 64;

/// Pulls from members that were themselves joining, before what they know is taken for everything.
const VAIN_PULLS_MAX: u32 = 4;

/// Owners asked at once about gaps and disputes.
const REPAIRS_MAX: usize = 16;

/// Members that another does not list which are probed at once, at most; further ones at the next comparison.
const UNLISTED_MAX: usize = 16;

/// Members that are gone of which one datagram tells.
const BURIED_TOLD: usize = 20;

/// Nobody has anything against a member.
const SPOTLESS: ListedState = ListedState::Judged { turn: 0, finding: Finding::Clear, by: NodeId(0), witnesses: 0 };

/// A question under way.
#[derive(Debug)]
pub(super) enum Conversation {
    /// The pull of everything; `rest` is what did not fit its pages.
    Pull { with: Peer, rest: Vec<Want> },
    /// What did not fit the pages of a pull.
    PullRest { with: Peer, rounds: u8 },
    /// A comparison, under this salt.
    Compare { with: Peer, salt: u64 },
    /// What a comparison led to; `brought` says whether anything was new to anybody so far.
    Trade { with: Peer, rounds: u8, brought: bool },
    /// What only the owner, or whoever has no gap, can tell; beside any sync.
    Repair { with: Peer, rounds: u8 },
    /// The content of a large record.
    Content { record: Record, len: u32, hash: u64, until: Option<u64> },
}

impl Node {
    pub(super) fn is_pulling(&self) -> bool {
        self.conversations
            .values()
            .any(|conversation| matches!(conversation, Conversation::Pull { .. } | Conversation::PullRest { .. }))
    }

    pub(super) fn pull_if_needed(&mut self, now: Time, out: &mut Outbox) {
        if !self.needs_pull || now < self.pull_at || self.is_pulling() {
            return;
        }
        if let Some(with) = self.anybody() {
            self.pull_from(now, with, out);
        }
    }

    fn anybody(&mut self) -> Option<Peer> {
        let id = match self.roster.reachable_len() {
            0 => self.roster.present().next()?.peer.id,
            reachable => self.roster.nth(self.rng.random_range(0..reachable))?,
        };
        self.roster.get(id).map(|entry| entry.peer)
    }

    pub(super) fn pull_from(&mut self, now: Time, with: Peer, out: &mut Outbox) {
        if self.is_pulling() {
            return;
        }
        self.pull_later(now);
        self.ask_for_page(with, None, Vec::new(), out);
    }

    /// Not all at once: who was refused because many join together must not come back together.
    fn pull_later(&mut self, now: Time) {
        self.pull_at = now + PULL_AGAIN_AFTER.mul_f64(self.rng.random_range(0.5..1.5));
    }

    fn ask_for_page(&mut self, with: Peer, after: Option<NodeId>, rest: Vec<Want>, out: &mut Outbox) {
        let owner = self.owner();
        let is_first = after.is_none();
        let own = is_first.then(|| self.table.delta(owner.id, owner.epoch, 0, true, DELTA_BYTES_MAX)).flatten();
        let ask = Ask::Pull { asker: self.peer(), after, own: own.into_iter().collect() };
        self.ask(with, &ask, Conversation::Pull { with, rest }, out);
    }

    pub(super) fn compare_with(&mut self, now: Time, with: Peer, salt: u64, out: &mut Outbox) {
        if !self.sync.may_begin(now) {
            return;
        }
        let sums = self.table.salted_buckets(salt).to_vec();
        let ask = Ask::Compare { asker: self.peer(), salt, sums, members: self.members_fingerprint() };
        if self.ask(with, &ask, Conversation::Compare { with, salt }, out) {
            self.counters.syncs += 1;
            self.sync.begin();
        }
    }

    pub(super) fn take_step(&mut self, now: Time, step: Step, out: &mut Outbox) {
        match step {
            Step::Echo(id) => {
                if let Some(to) = self.present(id) {
                    self.send_echo(&to, out);
                }
            }
            Step::Compare(id) => {
                if let Some(with) = self.present(id) {
                    self.compare_with(now, with, 0, out);
                }
            }
            Step::Backstop(salt) => {
                if let Some(with) = self.anybody() {
                    self.compare_with(now, with, salt, out);
                }
            }
        }
    }

    fn present(&self, id: NodeId) -> Option<Peer> {
        self.roster.get(id).filter(|entry| entry.state.is_present()).map(|entry| entry.peer)
    }

    /// Watermarks that stand below a gap for long: somebody has what is missing, or knows that nothing is.
    pub(super) fn close_gaps(&mut self, now: Time, out: &mut Outbox) {
        let before = Time::from_nanos(now.as_nanos().saturating_sub(GAP_MAX.as_nanos() as u64));
        let mut gaps: Vec<_> = self.table.gaps(before).collect();
        if gaps.len() > REPAIRS_MAX {
            // Some that nobody can close must not starve the others.
            let first = self.rng.random_range(0..gaps.len());
            gaps.rotate_left(first);
            gaps.truncate(REPAIRS_MAX);
        }
        let is_repairing = self.conversations.values().any(|c| matches!(c, Conversation::Repair { .. }));
        if gaps.is_empty() || is_repairing {
            return;
        }
        for id in gaps {
            let digest = self.table.digest(id, 0).expect("it has a gap, so it is known");
            let (epoch, since) = (digest.owner.epoch, digest.watermark);
            // The owner has all of its records; anybody else may have the same gap.
            if let Some(with) = self.present(id).or_else(|| self.anybody()) {
                self.repair(with, vec![Want { id, epoch, since, whole: false }], 0, out);
            }
        }
    }

    fn repair(&mut self, with: Peer, want: Vec<Want>, rounds: u8, out: &mut Outbox) {
        let ask = Ask::Trade { asker: self.peer(), want, give: Vec::new(), members: Vec::new() };
        self.ask(with, &ask, Conversation::Repair { with, rounds }, out);
    }

    /// Asks for the content of a large record.
    pub(super) fn fetch(
        &mut self,
        record: &Record,
        (len, hash): (u32, u64),
        until: Option<u64>,
        from: Option<Peer>,
        out: &mut Outbox,
    ) {
        for conversation in self.conversations.values_mut() {
            if let Conversation::Content { record: other, until: known, .. } = conversation
                && (other.owner, &other.key, other.version) == (record.owner, &record.key, record.version)
            {
                // It came along the tree this time: our part is to be done when the content is here.
                if known.is_none_or(|known| known == 0) {
                    *known = until;
                }
                return;
            }
        }
        let Some(from) = from.or_else(|| self.present(record.owner.id)) else { return };
        let (owner, key, version) = (record.owner, record.key.clone(), record.version);
        let ask = Ask::Content { asker: self.peer(), owner, key, version };
        let conversation = Conversation::Content { record: record.clone(), len, hash, until };
        if !self.ask(from, &ask, conversation, out) {
            self.counters.bodies_limited += 1;
        }
    }

    /// Asks a question, unless too many are under way.
    fn ask(&mut self, to: Peer, ask: &Ask, conversation: Conversation, out: &mut Outbox) -> bool {
        if self.conversations.len() >= CONVERSATIONS_MAX {
            return false;
        }
        let Ok(bytes) = encode_ask(ask) else {
            self.counters.bugs += 1;
            return false;
        };
        self.next_token += 1;
        let token = self.next_token;
        self.counters.stream_bytes_asked += bytes.len() as u64;
        self.conversations.insert(token, conversation);
        out.requests.push(Request { token, to, bytes });
        true
    }

    pub(super) fn on_request(
        &mut self,
        now: Time,
        from: SocketAddr,
        token: u64,
        bytes: &[u8],
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        let asked = if self.has_left { Err(InputError::HasLeft) } else { self.read_ask(bytes) };
        let ask = match asked {
            Ok(ask) => ask,
            Err(error) => {
                out.replies.push(Reply { token, bytes: None });
                return Err(error);
            }
        };
        let answer = self.answer(now, from, ask, out);
        let bytes = encode_answer(&answer).ok();
        self.counters.stream_bytes_answered += bytes.as_ref().map_or(0, Bytes::len) as u64;
        out.replies.push(Reply { token, bytes });
        Ok(())
    }

    fn read_ask(&mut self, bytes: &[u8]) -> Result<Ask, InputError> {
        decode_ask(bytes).map_err(|_| {
            self.counters.stream_malformed += 1;
            InputError::Malformed("question")
        })
    }

    fn answer(&mut self, now: Time, from: SocketAddr, ask: Ask, out: &mut Outbox) -> Answer {
        match ask {
            Ask::Pull { asker, after, own } => {
                self.greet(now, from, asker, out);
                for delta in own {
                    self.take_delta(now, delta, Some(self.roster.position()), asker, out);
                }
                self.page(&asker, after)
            }
            Ask::Compare { asker, salt, sums, members } => {
                self.greet(now, from, asker, out);
                self.differences(salt, &sums, members)
            }
            Ask::Trade { asker, want, give, members } => {
                self.greet(now, from, asker, out);
                self.take_members(now, &members, asker, out);
                self.take_deltas(now, give, asker, out);
                Answer::Traded { deltas: self.deltas(&want) }
            }
            Ask::Content { asker, owner, key, version } => {
                self.greet(now, from, asker, out);
                self.content_of(owner, &key, version)
            }
        }
    }

    /// Whoever asks over a stream is a member; it is proven to live where it asks from.
    fn greet(&mut self, now: Time, from: SocketAddr, asker: Peer, out: &mut Outbox) {
        self.introduce(now, asker, from == asker.addr, out);
        if let Some(entry) = self.roster.get(asker.id).filter(|entry| entry.peer.is_same_start(&asker)) {
            entry.evidence.note(now);
        }
    }

    fn page(&self, asker: &Peer, after: Option<NodeId>) -> Answer {
        let (teller, is_ready) = (self.peer(), self.is_ready);
        let mut members = if after.is_none() { self.listing() } else { Vec::new() };
        members.extend(self.later_start(asker).map(|peer| Listed { peer, state: SPOTLESS }));
        let mut deltas: Vec<Delta> = Vec::new();
        let mut room = DELTA_BYTES_MAX;
        let mut last = None;
        for owner in self.table.counted().filter(|owner| after.is_none_or(|after| owner.id > after)) {
            if room == 0 {
                return Answer::Pulled { teller, is_ready, members, deltas, after: last };
            }
            if let Some(delta) = self.table.delta(owner.id, owner.epoch, 0, true, room) {
                room = if delta.more { 0 } else { room.saturating_sub(delta_bytes(&delta)) };
                deltas.push(delta);
            }
            last = Some(owner.id);
        }
        Answer::Pulled { teller, is_ready, members, deltas, after: None }
    }

    /// A later start of whoever asks than the one that asks: it is not let in, and must hear why.
    fn later_start(&self, asker: &Peer) -> Option<Peer> {
        let known = self.roster.get(asker.id).map(|entry| entry.peer).filter(|peer| peer.epoch() > asker.epoch());
        // A goodbye ends its whole epoch.
        let buried =
            self.roster.grave(asker.id).filter(|grave| grave.bump() == u16::MAX || grave.epoch() > asker.epoch());
        let buried = buried.filter(|grave| grave.epoch() >= asker.epoch()).map(|grave| Peer {
            generation: Generation::first(grave.epoch()),
            nonce: u64::MAX,
            ..*asker
        });
        known.into_iter().chain(buried).max_by_key(Peer::rank)
    }

    fn listing(&self) -> Vec<Listed> {
        let judged = |standing: &Standing| {
            let Standing { turn, finding, by, witnesses, .. } = *standing;
            ListedState::Judged { turn, finding, by, witnesses }
        };
        let others = self.roster.iter().map(|(_, entry)| match entry.state {
            MemberState::Left => (entry.peer, ListedState::Left),
            _ => (entry.peer, judged(&entry.standing)),
        });
        let me = (self.peer(), judged(&self.own));
        others.chain([me]).map(|(peer, state)| Listed { peer, state }).collect()
    }

    fn differences(&self, salt: u64, sums: &[u64], members: u64) -> Answer {
        let ours = self.table.salted_buckets(salt);
        let buckets: BTreeSet<u8> = (0..=255).filter(|at| sums[usize::from(*at)] != ours[usize::from(*at)]).collect();
        let digests = self.table.digests(salt, |bucket| buckets.contains(&bucket));
        let members = (members != self.members_fingerprint()).then(|| self.listing());
        Answer::Differs { buckets: buckets.into_iter().collect(), digests, members }
    }

    fn deltas(&self, wants: &[Want]) -> Vec<Delta> {
        let mut deltas = Vec::new();
        let mut room = DELTA_BYTES_MAX;
        for want in wants {
            if room == 0 {
                break;
            }
            if let Some(delta) = self.table.delta(want.id, want.epoch, want.since, want.whole, room) {
                room = room.saturating_sub(delta_bytes(&delta));
                deltas.push(delta);
            }
        }
        deltas
    }

    fn content_of(&self, owner: Owner, key: &Key, version: Version) -> Answer {
        match self.table.body(owner, key) {
            Some((known, BodyRef::Live(bytes))) if known == version => Answer::Content { bytes: bytes.clone() },
            _ => Answer::Missing,
        }
    }

    pub(super) fn on_response(
        &mut self,
        now: Time,
        token: u64,
        result: Result<Bytes, StreamFailure>,
        out: &mut Outbox,
    ) -> Result<(), InputError> {
        let Some(conversation) = self.conversations.remove(&token) else {
            return Err(InputError::NotAccepted("an answer that was not asked for"));
        };
        if self.has_left {
            return Err(InputError::HasLeft);
        }
        let answer = result.ok().map(|bytes| decode_answer(&bytes));
        let is_malformed = matches!(answer, Some(Err(_)));
        self.counters.stream_malformed += u64::from(is_malformed);
        match (conversation, answer.and_then(Result::ok)) {
            (Conversation::Pull { with, rest }, Some(Answer::Pulled { teller, is_ready, members, deltas, after })) => {
                if teller.is_same_start(&with) {
                    self.introduce(now, teller, true, out);
                }
                self.take_members(now, &members, with, out);
                let rest = rest.into_iter().chain(self.take_pages(now, with, deltas, out)).collect();
                self.after_page(now, with, is_ready, rest, after, out);
            }
            (Conversation::PullRest { with, rounds }, Some(Answer::Traded { deltas })) => {
                let rest = self.take_pages(now, with, deltas, out);
                self.pull_rest(now, with, rest, rounds + 1, out);
            }
            (Conversation::Pull { .. } | Conversation::PullRest { .. }, _) => self.pull_later(now),
            (Conversation::Compare { with, salt }, Some(Answer::Differs { buckets, digests, members })) => {
                self.on_differences(now, with, salt, buckets, &digests, members, out);
            }
            (Conversation::Trade { with, rounds, brought }, Some(Answer::Traded { deltas })) => {
                self.on_trade(now, with, rounds, brought, deltas, out);
            }
            (Conversation::Repair { with, rounds }, Some(Answer::Traded { deltas })) => {
                let rest = wants_more(&deltas);
                self.take_deltas(now, deltas, with, out);
                if !rest.is_empty() && rounds < ROUNDS_MAX {
                    self.repair(with, rest, rounds + 1, out);
                }
            }
            (Conversation::Repair { .. }, _) => self.counters.syncs_failed += 1,
            (Conversation::Compare { .. } | Conversation::Trade { .. }, _) => {
                self.counters.syncs_failed += 1;
                self.sync.end(now, false, &mut self.rng);
            }
            (Conversation::Content { record, len, hash, until }, Some(Answer::Content { bytes }))
                if bytes.len() == len as usize && content_hash(&bytes) == hash =>
            {
                self.counters.bodies_fetched += 1;
                let record = Record { body: Body::Live(bytes), ..record };
                self.take_record(now, record, until, None, out);
            }
            (Conversation::Content { .. }, _) => self.counters.bodies_failed += 1,
        }
        if is_malformed { Err(InputError::Malformed("answer")) } else { Ok(()) }
    }

    /// Takes in what a pull brought; gives what did not fit. Everybody else knows it: no news to pass on.
    fn take_pages(&mut self, now: Time, with: Peer, deltas: Vec<Delta>, out: &mut Outbox) -> Vec<Want> {
        let rest = wants_more(&deltas);
        for delta in deltas {
            self.take_delta(now, delta, None, with, out);
        }
        rest
    }

    fn after_page(
        &mut self,
        now: Time,
        with: Peer,
        is_ready: bool,
        rest: Vec<Want>,
        after: Option<NodeId>,
        out: &mut Outbox,
    ) {
        if after.is_some() {
            self.ask_for_page(with, after, rest, out);
            return;
        }
        if !is_ready && self.vain_pulls < VAIN_PULLS_MAX {
            // It is about to join itself, and may know no more than we do: somebody else may know everything.
            self.vain_pulls += 1;
            self.pull_later(now);
            return;
        }
        self.pull_rest(now, with, rest, 0, out);
    }

    fn pull_rest(&mut self, now: Time, with: Peer, want: Vec<Want>, rounds: u8, out: &mut Outbox) {
        if want.is_empty() || rounds >= ROUNDS_MAX {
            self.needs_pull = false;
            self.become_joined(out);
            return;
        }
        let ask = Ask::Trade { asker: self.peer(), want, give: Vec::new(), members: Vec::new() };
        if !self.ask(with, &ask, Conversation::PullRest { with, rounds }, out) {
            self.pull_later(now);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one answer, and whose it is")]
    fn on_differences(
        &mut self,
        now: Time,
        with: Peer,
        salt: u64,
        buckets: Vec<u8>,
        digests: &[Digest],
        members: Option<Vec<Listed>>,
        out: &mut Outbox,
    ) {
        let (listing, has_members) = match members {
            Some(theirs) => {
                self.take_members(now, &theirs, with, out);
                self.doubt_unlisted(now, &theirs, out);
                (self.listing(), true)
            }
            None => (Vec::new(), false),
        };
        let buckets: BTreeSet<_> = buckets.into_iter().collect();
        let roster = &self.roster;
        let is_welcome = |digest: &Digest| {
            roster
                .get(digest.owner.id)
                .is_some_and(|entry| entry.peer.epoch() == digest.owner.epoch && entry.state != MemberState::Left)
        };
        let mut found = exchange(&self.table, digests, &buckets, salt, is_welcome);
        for want in found.disputed.drain(..).take(REPAIRS_MAX) {
            match self.present(want.id) {
                Some(owner) if owner.id != with.id => self.repair(owner, vec![want], 0, out),
                _ if want.id == with.id => found.want.push(want),
                _ => {}
            }
        }
        if found.want.is_empty() && found.give.is_empty() && !has_members {
            self.sync.end(now, false, &mut self.rng);
            return;
        }
        let brought = !found.give.is_empty();
        let ask = Ask::Trade { asker: self.peer(), want: found.want, give: found.give, members: listing };
        if !self.ask(with, &ask, Conversation::Trade { with, rounds: 0, brought }, out) {
            self.sync.end(now, false, &mut self.rng);
        }
    }

    fn on_trade(&mut self, now: Time, with: Peer, rounds: u8, brought: bool, deltas: Vec<Delta>, out: &mut Outbox) {
        let more = wants_more(&deltas);
        let brought = self.take_deltas(now, deltas, with, out) || brought;
        if more.is_empty() || rounds >= ROUNDS_MAX {
            self.sync.end(now, brought, &mut self.rng);
            return;
        }
        let ask = Ask::Trade { asker: self.peer(), want: more, give: Vec::new(), members: Vec::new() };
        if !self.ask(with, &ask, Conversation::Trade { with, rounds: rounds + 1, brought }, out) {
            self.sync.end(now, brought, &mut self.rng);
        }
    }

    /// What a sync brought: a little is passed on as news, much is left to the others' own syncs.
    fn take_deltas(&mut self, now: Time, deltas: Vec<Delta>, from: Peer, out: &mut Outbox) -> bool {
        let is_news = deltas.iter().map(|delta| delta.records.len()).sum::<usize>() <= SYNCED_NEWS_MAX;
        let mut brought = false;
        for delta in deltas {
            let until = is_news.then(|| self.roster.position());
            brought |= self.take_delta(now, delta, until, from, out);
        }
        brought
    }

    fn take_delta(&mut self, now: Time, delta: Delta, until: Option<u64>, from: Peer, out: &mut Outbox) -> bool {
        let owner = delta.owner;
        let mut brought = false;
        let mut is_complete = true;
        if delta.is_whole && from.id == owner.id {
            self.table.reopen(&delta);
        }
        // The owner's own record comes first: it may bring a new life, without which the others are not let in.
        let (own, others): (Vec<_>, Vec<_>) = delta.records.iter().partition(|record| record.key.is_member());
        for record in own.into_iter().chain(others) {
            match self.take_record(now, record.clone(), until, Some(from), out) {
                Taken::New => {
                    self.counters.synced_records += 1;
                    brought = true;
                }
                Taken::Known => {}
                Taken::Dropped => is_complete = false,
            }
        }
        if owner.id == self.config.id || self.table.epoch(owner.id) != Some(owner.epoch) {
            return brought;
        }
        if delta.is_whole {
            for (_, content) in self.table.retain(&delta) {
                brought = true;
                self.tell_dropped(owner.id, content, out);
            }
        }
        // A delta that begins above what we have leaves the gap between.
        let ours = self.table.digest(owner.id, 0).map_or(0, |digest| digest.watermark);
        if is_complete && delta.since <= ours {
            self.table.complete(owner, delta.watermark);
        }
        brought
    }

    /// What another lists: whom we do not know comes in by hearsay; whom we believe to be down is asked. Of whoever is
    /// in a grave here, the other is told so.
    fn take_members(&mut self, now: Time, members: &[Listed], from: Peer, out: &mut Outbox) {
        let mut buried = Vec::new();
        for listed in members {
            let peer = listed.peer;
            let ListedState::Judged { turn, finding, by, witnesses } = listed.state else {
                self.take_left(now, peer, out);
                continue;
            };
            let generation = peer.generation;
            let verdict = Verdict { subject: peer.id, generation, turn, finding, by, witnesses };
            if finding.ends_life() {
                // Who is down there need not come in here.
                if self.roster.get(peer.id).is_some() && verdict.is_sound() {
                    self.take_verdict(now, &verdict, None, from, out);
                }
                continue;
            }
            let is_gone =
                |entry: &crate::roster::Entry| entry.state == MemberState::Down && entry.peer.generation == generation;
            if self.roster.is_buried(peer.id, generation) || self.roster.get(peer.id).is_some_and(is_gone) {
                // An operator's word is passed on as such; it counts where a split would hold everybody.
                let entry = self.roster.get(peer.id).filter(|entry| entry.peer.generation == generation);
                let standing = entry.map(|entry| entry.standing);
                let forgotten = standing.filter(|standing| standing.finding == Finding::Forgotten);
                let down = Verdict { turn: turn | 1, finding: Finding::Down, by: self.config.id, ..verdict };
                buried.push(forgotten.map_or(down, |standing| standing.verdict(peer.id, generation)));
            }
            self.introduce(now, peer, false, out);
            if turn > 0 && verdict.is_sound() {
                self.take_verdict(now, &verdict, None, from, out);
            }
        }
        for some in buried.chunks(BURIED_TOLD) {
            self.send(&from, out, |filling| filling.verdicts(0, some));
        }
    }

    /// Members that another does not list may be gone.
    fn doubt_unlisted(&mut self, now: Time, members: &[Listed], out: &mut Outbox) {
        let listed: BTreeSet<_> = members.iter().map(|listed| listed.peer.id).collect();
        let unlisted: Vec<_> =
            self.roster.present().map(|entry| entry.peer.id).filter(|id| !listed.contains(id)).collect();
        for id in unlisted.into_iter().take(UNLISTED_MAX) {
            self.detector.doubt(now, id, &self.roster);
        }
        self.heed_detector(now, out);
    }

    fn take_left(&mut self, now: Time, peer: Peer, out: &mut Outbox) {
        let is_news = self
            .roster
            .get(peer.id)
            .is_some_and(|entry| entry.peer.is_same_start(&peer) && entry.state != MemberState::Left);
        if is_news && peer.id != self.config.id {
            self.counters.members_left += 1;
            self.part_without_record(now, peer, out);
        }
    }
}

/// What to ask for again, where deltas were cut.
fn wants_more(deltas: &[Delta]) -> Vec<Want> {
    deltas
        .iter()
        .filter(|delta| delta.more)
        .map(|delta| Want {
            id: delta.owner.id,
            epoch: delta.owner.epoch,
            since: delta.watermark,
            whole: delta.is_whole,
        })
        .collect()
}
