//! The core of one process: a state machine that is told what happens and says what it wants done.
//!
//! The rooms behind it: `datagram` (in and out), `members` (who comes and goes), `records` (what they state),
//! `exchange` (what is asked and answered over streams), `verdicts` (what comes of what the detector finds), `split`
//! (when it was the network), `forget` (what an operator gives up), `drain` (telling everybody that no more work is
//! taken), `survey` (how many know the same), `canary` (how long news takes).

mod canary;
mod datagram;
mod drain;
#[cfg(test)]
mod drained;
pub mod exchange;
mod forget;
#[cfg(test)]
mod judged;
mod members;
#[cfg(test)]
mod pressed;
mod records;
mod split;
mod survey;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::contact::{Around, Contacts};
use crate::counters::Counters;
use crate::detector::Detector;
use crate::effect::{Event, Fatal, Input, InputError, Outbox, Warning};
use crate::pace::{Allowance, Warned};
use crate::peer::{Epoch, Generation, Member, MemberState, NodeId, Peer};
use crate::pool::Pool;
use crate::record::{Key, Owner, Version};
use crate::roster::{self, Roster};
use crate::rumors::Rumors;
use crate::story::Story;
pub use crate::swim::Tuning;
use crate::swim::{Swim, SwimError};
use crate::sync::Sync;
use crate::table::Table;
use crate::time::Time;
use crate::verdict::Standing;
use crate::wire::{Record, WIRE_NEWEST, WIRE_OLDEST, cluster_tag};

pub use canary::CANARIES_MAX;
use canary::Canaries;
use drain::Notice;
pub use drain::{NOTICE_REPEAT_MAX, NOTICES_AT_ONCE};
use exchange::Conversation;
pub use forget::FORGETS_MAX;
pub use split::{EXCUSED_MAX, PARTITION_HOLD};
use survey::Survey;
pub use survey::{ASK_AGAIN_AFTER, Agreement, SURVEYED_AT_ONCE};
pub use verdicts::Reachability;

/// Records of unknown owners that wait at once; further ones are dropped and counted.
pub const LIMBO_MAX: usize = 1_024;

/// Bytes of records that wait in limbo.
pub const LIMBO_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Changes of its own records that a member may make in a second, and at once.
pub const OWN_CHANGES_PER_SECOND: u32 = 1_000;
/// See [`OWN_CHANGES_PER_SECOND`].
pub const OWN_CHANGES_AT_ONCE: u32 = 20_000;

/// Changes of one other member's records that are taken in from its news in a second, and at once: twice what it may
/// make, for they may come in heaps. What is above is dropped and counted; anti-entropy brings the last state.
pub const CHANGES_PER_SECOND: u32 = 2 * OWN_CHANGES_PER_SECOND;
/// See [`CHANGES_PER_SECOND`].
pub const CHANGES_AT_ONCE: u32 = 2 * OWN_CHANGES_AT_ONCE;

/// Goodbyes remembered at once for passing them on; further ones of members that are not known here are dropped and
/// counted.
pub const GOODBYES_MAX: usize = 4_096;

/// Hellos answered in a second; further ones are not answered and counted.
pub const HELLOS_PER_SECOND: u32 = 2_000;

/// Refusals sent in a second; further ones are not sent and counted.
pub const REFUSALS_PER_SECOND: u32 = 20;

/// How long a member that is down is kept, marked, before it is forgotten.
pub const DOWN_KEPT: Duration = Duration::from_secs(600);

/// How long news that came in waits for more to travel with.
const COALESCE: Duration = Duration::from_millis(2);

/// How often the node tidies up.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(1);

/// How long a record of an unknown owner waits.
const LIMBO_KEPT: Duration = Duration::from_secs(30);

/// How long a start with remembered members, but no seeds, looks for them before it calls itself the first.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Of the remembered members, how many are asked at the start; the others in turn.
const REMEMBERED_AT_ONCE: usize = 16;

/// After how many rounds a start that is itself one of its seeds calls itself the first, when no other answers.
const SEED_ROUNDS: u32 = 4;

/// After how many rounds without an answer an operator is told.
const ROUNDS_WARNED: u32 = 6;

/// How long we wait for an answer from where another start of our id is said to live, before we take it to be over.
const RIVAL_ANSWERS_IN: Duration = Duration::from_secs(3);

/// How often one start takes a larger epoch, because others know a later start of its id. Beyond, that other start is
/// taken to be alive: two that outbid each other for ever would be worse than one that stops.
pub const EPOCHS_TAKEN_MAX: u32 = 4;

/// When a goodbye is said again.
const FAREWELLS: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(110)];

/// What a node is born with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name; nodes of other clusters are refused.
    pub cluster: Arc<str>,
    /// The member's name for people; unique in the cluster.
    pub name: Arc<str>,
    /// Where it stands; may be empty.
    pub zone: Arc<str>,
    /// The address that the others reach it at.
    pub addr: SocketAddr,
    /// Its lasting id.
    pub id: NodeId,
    /// The epoch of this start: larger than that of every start before.
    pub epoch: Epoch,
    /// 64 random bits from the operating system.
    pub nonce: u64,
    /// Seeds the node's one generator.
    pub seed: u64,
    /// The addresses to join through.
    pub seeds: Vec<SocketAddr>,
    /// Whether there is somebody to join, even if `seeds` is empty because no name could be resolved yet: then the
    /// node never calls itself the first, unless it is itself one of the seeds.
    pub must_join: bool,
    /// Addresses of members known before this start; tried like seeds, but nobody waits for them.
    pub remembered: Vec<SocketAddr>,
    /// What of the protocol may be set.
    pub tuning: Tuning,
}

/// What a node knows, in a few numbers. Nodes with equal digests have equal views.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViewDigest {
    /// The fingerprint over live records.
    pub records: u64,
    /// The fingerprint over present members, and what they are accused of.
    pub members: u64,
    /// The fingerprint over members that are not unreachable.
    pub reachable: u64,
    /// Present members, this node included.
    pub live_members: usize,
    /// Live records of present members.
    pub live_records: usize,
}

/// Lengths of the node's queues, for checking them against their limits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueueLengths {
    /// Rumors remembered; at most [`crate::rumors::RUMORS_MAX`].
    pub rumors: usize,
    /// Rumors that wait for a repeat; never more than are remembered.
    pub repeats: usize,
    /// Addresses being asked; at most [`crate::contact::CONTACTS_MAX`].
    pub contacts: usize,
    /// Records in limbo; at most [`LIMBO_MAX`].
    pub limbo: usize,
    /// Goodbyes remembered; at most [`GOODBYES_MAX`], and those of the members known here.
    pub goodbyes: usize,
    /// Members that are gone for good; at most [`roster::GRAVES_MAX`].
    pub graves: usize,
    /// Members known, whatever their state; at most [`roster::MEMBERS_MAX`].
    pub members: usize,
    /// Questions under way; at most [`exchange::CONVERSATIONS_MAX`].
    pub conversations: usize,
    /// Verdicts remembered for passing on; at most [`crate::rumors::RUMORS_MAX`].
    pub verdicts: usize,
    /// Probes whose answers are awaited; at most [`crate::detector::AWAITED_MAX`].
    pub awaited: usize,
    /// Accusations of ours under way; at most [`crate::detector::CASES_MAX`].
    pub cases: usize,
    /// Accusations of others that we witness; at most [`crate::detector::HELPS_MAX`].
    pub helps: usize,
    /// foca's timers.
    pub timers: usize,
    /// foca's updates that wait to be told.
    pub updates: usize,
}

/// The core of one process.
///
/// 1. Time never goes back.
/// 2. When [`handle`](Self::handle) returns, the outbox is complete and the node holds nothing to send.
/// 3. Call `handle(now, Input::Wake, ..)` no later than [`next_wake`](Self::next_wake); early or spurious wakes are
///    harmless. Only `Wake` judges deadlines, so a driver that stalled hands in what has arrived first.
/// 4. No input can panic; an `Err` says whether anything changed.
/// 5. Equal seed and equal inputs give equal outputs.
#[derive(Debug)]
pub struct Node {
    config: Config,
    cluster: u32,
    rng: Xoshiro256PlusPlus,
    now: Time,
    started: Time,
    has_begun: bool,
    is_ready: bool,
    has_left: bool,

    swim: Swim,
    detector: Detector,
    roster: Roster,
    table: Table,
    rumors: Rumors<(Owner, Key)>,
    /// Verdicts on their way.
    verdicts: Rumors<(NodeId, Generation)>,
    contacts: Contacts,
    sync: Sync,

    /// The verdict on our own life, and which that is.
    own: Standing,
    own_life: Generation,
    /// When we last heard that we are accused.
    accused: Time,
    story: Story,
    /// Since when a split is suspected.
    partition: Option<Time>,
    /// How many were lost when that was last told.
    split_told: usize,
    /// Members that an operator says are gone, while that is being made sure of.
    forgetting: BTreeSet<NodeId>,
    /// How many more verdicts may be disputed within this input.
    disputes_left: u8,
    /// Who was told our latest verdicts, and when.
    pushed: BTreeMap<NodeId, Time>,
    /// The roster's turn when absent members were last looked through, and since when the first of them was gone.
    reap_from: Option<(u64, Time)>,
    /// Members whose state changed, and when the program hears of it and last heard.
    untold: BTreeMap<NodeId, Time>,
    tell_at: Option<Time>,
    told: Time,
    /// Members that were unreachable, and since when they are not.
    back: BTreeMap<NodeId, Time>,
    /// When we cleared ourselves though we had done so a moment before.
    excused: Vec<Time>,

    /// Our own member as it was last told to the program.
    shown: Option<Arc<Member>>,
    own_version: Version,
    own_changes: Allowance,
    hellos: Allowance,
    refusals: Allowance,
    /// Members that have our name, and whether they had it when we joined.
    namesakes: BTreeMap<NodeId, bool>,
    /// What an operator was told, and when.
    warned: Warned,
    /// Records whose owner is not known (yet).
    limbo: records::Limbo,
    /// Goodbyes, for passing them on: their owners' records are gone from the table.
    goodbyes: BTreeMap<NodeId, (Time, Record)>,
    /// How fast the others may change their records: of those that did of late.
    changes: BTreeMap<NodeId, Allowance>,
    /// How many were left when they were last tidied.
    changes_tidied: usize,
    conversations: BTreeMap<u64, Conversation>,
    /// Whether we have yet to pull everything from somebody, and not before when.
    needs_pull: bool,
    pull_at: Time,
    /// Pulls from members that were themselves not ready.
    vain_pulls: u32,
    /// Whether we are ready but for namesakes that may yet answer.
    is_joined: bool,
    next_token: u64,
    sent: u64,
    flush_at: Option<Time>,
    flushed: Time,
    housekeeping_at: Time,
    farewells: Vec<Time>,
    has_warned: bool,
    /// A later start of our id that we heard of, and until when it may answer.
    rival: Option<(Time, Peer)>,
    epochs_taken: u32,
    /// Whether we take no new work; and who has yet to confirm that it knows.
    is_draining: bool,
    notice: Option<Notice>,
    /// Numbers the datagrams of notices.
    next_notice: u32,
    survey: Option<Survey>,
    canaries: Canaries,
    counters: Counters,
}

/// The contacts' look at the cluster.
struct Surroundings<'a>(&'a Roster);

impl Around for Surroundings<'_> {
    fn is_alone(&self) -> bool {
        self.0.present_len() == 0
    }

    fn is_present_at(&self, addr: SocketAddr) -> bool {
        self.0.is_present_at(addr)
    }

    fn turn(&self) -> u64 {
        self.0.turn()
    }
}

impl Node {
    /// A node that has not yet been told anything. Its first input should be [`Input::Wake`].
    pub fn new(config: Config, now: Time) -> Self {
        let me =
            Peer { id: config.id, addr: config.addr, generation: Generation::first(config.epoch), nonce: config.nonce };
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(config.seed);
        let swim_rng = Xoshiro256PlusPlus::seed_from_u64(rng.random());
        let mut contacts = Contacts::new(config.addr, now);
        contacts.set_seeds(config.seeds.clone(), now);
        for addr in &config.remembered {
            contacts.remember(*addr);
        }
        Self {
            cluster: cluster_tag(&config.cluster),
            swim: Swim::new(me, config.tuning.clone(), swim_rng, now),
            roster: Roster::new(me.id),
            table: Table::new(),
            rumors: Rumors::default(),
            verdicts: Rumors::default(),
            detector: Detector::new(config.tuning.watch.clone(), config.zone.clone(), now, &mut rng),
            own: Standing::spotless(me.id, now),
            own_life: me.generation,
            accused: now,
            story: Story::default(),
            partition: None,
            split_told: 0,
            forgetting: BTreeSet::new(),
            disputes_left: 0,
            pushed: BTreeMap::new(),
            reap_from: None,
            untold: BTreeMap::new(),
            back: BTreeMap::new(),
            excused: Vec::new(),
            tell_at: None,
            told: Time::ZERO,
            contacts,
            sync: Sync::new(now, &mut rng),
            rng,
            now,
            started: now,
            has_begun: false,
            is_ready: false,
            has_left: false,
            shown: None,
            own_version: 0,
            own_changes: Allowance::new(OWN_CHANGES_PER_SECOND, OWN_CHANGES_AT_ONCE, now),
            hellos: Allowance::new(HELLOS_PER_SECOND, HELLOS_PER_SECOND, now),
            refusals: Allowance::new(REFUSALS_PER_SECOND, REFUSALS_PER_SECOND, now),
            namesakes: BTreeMap::new(),
            warned: Warned::default(),
            limbo: records::Limbo::default(),
            goodbyes: BTreeMap::new(),
            changes: BTreeMap::new(),
            changes_tidied: 0,
            conversations: BTreeMap::new(),
            needs_pull: true,
            pull_at: now,
            vain_pulls: 0,
            is_joined: false,
            next_token: 0,
            sent: 0,
            flush_at: None,
            flushed: now,
            housekeeping_at: now + HOUSEKEEPING_EVERY,
            farewells: Vec::new(),
            has_warned: false,
            rival: None,
            epochs_taken: 0,
            is_draining: false,
            notice: None,
            next_notice: 0,
            survey: None,
            canaries: Canaries::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// Takes in what happened at `now`, and fills `out` with what is to be done about it.
    ///
    /// # Errors
    /// See [`InputError`], which says what changed. The outbox is complete all the same.
    pub fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Outbox) -> Result<(), InputError> {
        let now = now.max(self.now);
        self.now = now;
        if !self.has_begun {
            self.begin(now, out);
        }
        self.disputes_left = verdicts::DISPUTES_AT_ONCE;
        let result = match input {
            Input::Wake => self.wake(now, out),
            Input::Datagram { from, bytes } => self.on_datagram(now, from, bytes, out),
            Input::Request { from, token, bytes } => self.on_request(now, from, token, &bytes, out),
            Input::Response { token, result } => self.on_response(now, token, result, out),
            Input::Register(instance) => self.register(now, &instance, out),
            Input::Withdraw(key) => self.withdraw(now, &key, out),
            Input::Seeds(seeds) => {
                self.contacts.set_seeds(seeds, now);
                Ok(())
            }
            Input::Readdress(addr) => self.readdress(now, addr, out),
            Input::Forget(id) => self.forget(now, id, out),
            Input::Survey => self.begin_survey(now, out),
            Input::Canary => self.make_canary(now),
            Input::Drain(within) => self.drain(now, within, out),
            Input::Leave => self.leave(now, out),
        };
        let settled = self.settle(now, out);
        self.count_sent(out);
        result.and(settled)
    }

    /// Like [`handle`](Self::handle), for one of many nodes in a process: what it learns is held once for all nodes
    /// that are lent the same `pool`. What comes of the input is the same.
    ///
    /// # Errors
    /// See [`handle`](Self::handle).
    pub fn handle_sharing(
        &mut self,
        now: Time,
        input: Input<'_>,
        out: &mut Outbox,
        pool: &mut Pool,
    ) -> Result<(), InputError> {
        // By itself it learns nothing.
        if matches!(input, Input::Wake) {
            return self.handle(now, input, out);
        }
        self.table.lend(pool);
        let result = self.handle(now, input, out);
        self.table.lend(pool);
        result
    }

    /// When the node wants to be woken next.
    pub fn next_wake(&self) -> Option<Time> {
        if !self.has_begun {
            return Some(self.now);
        }
        if self.has_left {
            return self.farewells.first().copied().into_iter().chain(self.flush_at).min();
        }
        let pull = (self.needs_pull && !self.is_pulling() && self.roster.present_len() > 0).then_some(self.pull_at);
        [
            self.swim.next_wake(),
            (self.roster.present_len() > 0).then(|| self.detector.next_wake()),
            self.tell_at,
            self.contacts.next_wake(&Surroundings(&self.roster)),
            Some(self.sync.next_wake()),
            Some(self.housekeeping_at),
            self.flush_at,
            self.notice.as_ref().map(Notice::next_wake),
            pull,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Who this node is now.
    pub fn peer(&self) -> Peer {
        self.swim.me()
    }

    /// The nonce of the start of a member that gossip is taken from; `None` of a stranger.
    pub fn nonce_of(&self, id: NodeId) -> Option<u64> {
        self.roster.get(id).map(|entry| entry.peer.nonce)
    }

    /// Whom this node observes: it probes the next reachable member on the ring in each round.
    pub fn observed(&self) -> Option<NodeId> {
        self.roster.successor()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.updates_dropped += self.swim.updates_dropped;
        counters.renewals_limited += self.swim.renewals_limited;
        counters.contacts_limited += self.contacts.limited;
        counters.graves_limited += self.roster.graves_limited;
        counters.add(&self.detector.counts);
        counters
    }

    /// Whether the node has joined and synced once, or is the first.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// What the node knows, in a few numbers.
    pub fn digest(&self) -> ViewDigest {
        ViewDigest {
            records: self.table.fingerprint(),
            members: self.members_fingerprint(),
            reachable: self.roster.reachable_fingerprint().wrapping_add(roster::fingerprint_of(&self.peer(), 0)),
            live_members: self.roster.present_len() + 1,
            live_records: self.table.live_len(),
        }
    }

    /// The members that are not unreachable, this node included, in order of their ids.
    pub fn live_members(&self) -> Vec<Peer> {
        let reachable = self.roster.present().filter(|entry| entry.state != MemberState::Unreachable);
        let mut members: Vec<_> = reachable.map(|entry| entry.peer).chain([self.peer()]).collect();
        members.sort_by_key(|peer| peer.id);
        members
    }

    /// The live records of members that are not unreachable, in order.
    pub fn live_records(&self) -> Vec<(Owner, Key, Version)> {
        self.listed(|id| self.roster.get(id).is_none_or(|entry| entry.state != MemberState::Unreachable))
    }

    fn listed(&self, is_meant: impl Fn(NodeId) -> bool) -> Vec<(Owner, Key, Version)> {
        let mut listed = Vec::with_capacity(self.table.live_len());
        listed.extend(self.table.counted_live(is_meant).map(|(owner, key, version)| (owner, key.clone(), version)));
        listed
    }

    /// The present members, the unreachable ones and this node included, in order of their ids.
    pub fn present_members(&self) -> Vec<Peer> {
        let mut members: Vec<_> = self.roster.present().map(|entry| entry.peer).chain([self.peer()]).collect();
        members.sort_by_key(|peer| peer.id);
        members
    }

    /// The live records of present members, in order.
    pub fn present_records(&self) -> Vec<(Owner, Key, Version)> {
        self.listed(|_| true)
    }

    /// This node's own live records, in order.
    pub fn own_records(&self) -> Vec<(Key, Version)> {
        self.table.live(self.config.id).map(|(key, version, _)| (key.clone(), version)).collect()
    }

    /// Up to which version nothing of a present member's records is missing here, in order of their ids.
    pub fn watermarks(&self) -> Vec<(Owner, Version)> {
        let digest = |owner: Owner| self.table.digest(owner.id, 0).map(|digest| (owner, digest.watermark));
        self.table.counted().filter_map(digest).collect()
    }

    /// The addresses of members that are worth remembering over a restart: present, or down and not forgotten.
    pub fn known_addrs(&self) -> Vec<(NodeId, SocketAddr)> {
        self.roster.iter().filter(|(_, e)| e.state != MemberState::Left).map(|(id, e)| (id, e.peer.addr)).collect()
    }

    /// The lengths of the node's queues.
    pub fn queues(&self) -> QueueLengths {
        let (awaited, cases, helps) = self.detector.lens();
        QueueLengths {
            awaited,
            cases,
            helps,
            verdicts: self.verdicts.len(),
            rumors: self.rumors.len(),
            contacts: self.contacts.asked_len(),
            repeats: self.rumors.waiting_len(),
            limbo: self.limbo.len,
            goodbyes: self.goodbyes.len(),
            graves: self.roster.graves_len(),
            members: self.roster.len(),
            conversations: self.conversations.len(),
            timers: self.swim.timers_len(),
            updates: self.swim.backlog(),
        }
    }

    fn owner(&self) -> Owner {
        Owner { id: self.config.id, epoch: self.peer().epoch() }
    }

    fn members_fingerprint(&self) -> u64 {
        self.roster.fingerprint().wrapping_add(roster::fingerprint_of(&self.peer(), self.own.accused_turn()))
    }

    fn begin(&mut self, now: Time, out: &mut Outbox) {
        self.has_begun = true;
        let owner = self.owner();
        self.table.begin(owner);
        self.table.set_counted(owner.id, true);
        self.state_self(now, false, out);
        for addr in self.config.remembered.iter().take(REMEMBERED_AT_ONCE) {
            self.contacts.ask(*addr, now, &mut self.rng);
        }
    }

    /// Judges every deadline that has passed.
    fn wake(&mut self, now: Time, out: &mut Outbox) -> Result<(), InputError> {
        if self.has_left {
            self.repeat_farewell(now);
            return Ok(());
        }
        let mut result = Ok(());
        while let Some(fired) = self.swim.fire(now) {
            if let Err(error) = fired {
                result = Err(self.swim_error(error));
            }
            // What a timer found out must be known before the next is judged.
            self.heed_swim(now, out);
        }
        if self.roster.present_len() > 0 {
            self.detector.wake(now, &self.roster, &mut self.rng);
            self.heed_detector(now, out);
        } else {
            self.detector.rest(now, &mut self.rng);
        }
        for (addr, cookie) in self.contacts.due(now, &Surroundings(&self.roster), &mut self.rng) {
            self.say_hello(addr, cookie, out);
        }
        self.become_ready(out);
        self.look_for_the_first(now, out);
        self.pull_if_needed(now, out);
        if let Some(step) = self.sync.due(now, &mut self.rng) {
            self.take_step(now, step, out);
        }
        self.repeat_notice(now, out);
        if now >= self.housekeeping_at {
            self.keep_house(now, out);
        }
        result
    }

    /// Follows up on what an input led to, until nothing is left to do but wait.
    fn settle(&mut self, now: Time, out: &mut Outbox) -> Result<(), InputError> {
        self.heed_swim(now, out);
        self.heed_detector(now, out);
        if !self.forgetting.is_empty() {
            self.look_at_forgetting(out);
        }
        self.tell_states(now, out);
        self.conclude_notice(out);
        if self.rumors.is_hot() || self.verdicts.is_hot() || self.canaries.is_hot() {
            let may_at = self.flushed + COALESCE;
            if now >= may_at || self.flush_at.is_some_and(|at| now >= at) {
                self.flush(now, out);
            } else {
                self.flush_at = Some(may_at);
            }
        } else {
            self.flush_at = None;
        }
        Ok(())
    }

    fn keep_house(&mut self, now: Time, out: &mut Outbox) {
        self.housekeeping_at = now + HOUSEKEEPING_EVERY;
        self.rumors.forget(now);
        self.verdicts.forget(now);
        if self.verdicts.len() == 0 {
            self.pushed.clear();
        }
        self.detector.keep_house(now, &self.roster);
        self.forget_splits(now);
        self.refute_later(now, out);
        self.evict_long_unreachable(now);
        self.heed_detector(now, out);
        self.look_for_split(now, out);
        self.table.forget_tombstones(now);
        self.roster.clear_graves(now);
        self.goodbyes.retain(|_, (since, _)| now.since(*since) <= LIMBO_KEPT);
        self.clear_limbo(now);
        let roster = &self.roster;
        self.changes.retain(|id, allowance| !allowance.is_full(now) && roster.get(*id).is_some());
        if self.may_evict(now) {
            self.reap(now, out);
        }
        self.outlive_rival(now, out);
        self.end_survey(now);
        self.forget_canaries(now);
        self.swim.resize(self.roster.present_len() + 1);
        if let Some(shown) = &self.shown {
            shown.evidence.note(now);
        }
        self.close_gaps(now, out);
    }

    /// A start that finds nobody to join is the first of its cluster, if its configuration allows that.
    fn look_for_the_first(&mut self, now: Time, out: &mut Outbox) {
        if self.is_ready || self.roster.present_len() > 0 {
            return;
        }
        let seeds = self.contacts.seeds().count();
        let is_seed = self.contacts.is_seed();
        let may_be_first = is_seed || !self.config.must_join;
        let looks_around = self.contacts.has_remembered() || self.config.must_join;
        let has_looked = !looks_around || now.since(self.started) >= LOOK_AROUND;
        let is_first =
            if seeds == 0 { may_be_first && has_looked } else { is_seed && self.contacts.rounds > SEED_ROUNDS };
        if is_first {
            self.needs_pull = false;
            self.become_joined(out);
        } else if seeds > 0 && self.contacts.rounds >= ROUNDS_WARNED && !self.has_warned {
            self.has_warned = true;
            let warning = Warning::NoSeedAnswers { seeds, tries: self.contacts.rounds };
            out.events.push(Event::Warning(warning));
        }
    }

    /// Joined and synced; ready as soon as no member that has our name can answer any more.
    fn become_joined(&mut self, out: &mut Outbox) {
        self.is_joined = true;
        self.become_ready(out);
    }

    fn become_ready(&mut self, out: &mut Outbox) {
        let is_disputed = self
            .namesakes
            .keys()
            .any(|id| self.roster.get(*id).is_some_and(|entry| self.contacts.is_asking(entry.peer.addr)));
        if self.is_joined && !self.is_ready && !is_disputed {
            self.is_ready = true;
            // Whoever has our name and did not answer until now meets us as one that was here before.
            self.namesakes.values_mut().for_each(|was_first| *was_first = false);
            out.events.push(Event::Ready);
        }
    }

    /// Tells an operator, at most once a minute of the same thing.
    fn warn(&mut self, now: Time, from: SocketAddr, warning: Warning, out: &mut Outbox) {
        if !self.has_left && self.warned.may_tell(now, from, &warning) {
            out.events.push(Event::Warning(warning));
        } else {
            self.counters.warnings_limited += 1;
        }
    }

    /// The node cannot go on: from here on it is silent.
    fn fail(&mut self, fatal: Fatal, out: &mut Outbox) {
        if !self.has_left {
            self.has_left = true;
            out.events.push(Event::Fatal(fatal));
        }
    }

    fn swim_error(&mut self, error: SwimError) -> InputError {
        match error {
            SwimError::Misaddressed => {
                self.counters.misaddressed += 1;
                InputError::NotAccepted("for another life of this member")
            }
            SwimError::Malformed => {
                self.counters.malformed += 1;
                InputError::Malformed("membership message")
            }
            SwimError::Bug(what) => {
                self.counters.bugs += 1;
                InputError::Bug(what)
            }
        }
    }

    fn count_sent(&mut self, out: &Outbox) {
        self.counters.datagrams_sent += out.datagrams.len() as u64;
        self.counters.bytes_sent += out.datagrams.iter().map(|datagram| datagram.bytes.len() as u64).sum::<u64>();
    }

    const fn wire_range() -> (u8, u8) {
        (WIRE_OLDEST, WIRE_NEWEST)
    }
}

#[cfg(test)]
mod tests;
