//! Finding members: seeds, remembered addresses, and members that we heard of but have no proof of. Each is asked
//! "who are you?" until it answers or is given up for now; seeds and remembered ones are tried for ever, at a bounded
//! rate. Knows nothing of what an answer leads to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::time::Time;

/// Addresses asked at once; further ones wait to be heard of again.
pub const CONTACTS_MAX: usize = 4_096;

/// Remembered addresses of members that are gone; the oldest goes first.
pub const REMEMBERED_MAX: usize = 4_096;

/// How often an address is asked before it is given up for now, and after how long each time.
const TRIES: u8 = 4;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(150);

/// How long an address that did not answer is left alone by hearsay.
const SILENT_FOR: Duration = Duration::from_secs(3);

/// How long alone before the seeds are tried again: doubles up to the second.
const JOIN_AGAIN_MIN: Duration = Duration::from_millis(150);
const JOIN_AGAIN_MAX: Duration = Duration::from_secs(2);

/// How often one remembered or seed address that nobody present has is tried.
const REDIAL_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Asked {
    cookie: u64,
    tries: u8,
    next: Time,
    /// When it was asked, if that was once only: of several questions nobody knows which one is answered.
    only: Option<Time>,
    was_asked: bool,
}

/// The answer to a question of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answered {
    /// How long it took, if that is known.
    pub(crate) rtt: Option<Duration>,
}

/// Whom to ask who they are.
#[derive(Debug)]
pub(crate) struct Contacts {
    seeds: Vec<SocketAddr>,
    /// Addresses that turned out to be our own.
    own: BTreeSet<SocketAddr>,
    remembered: VecDeque<SocketAddr>,
    /// Seeds that nobody present listens at, as of the turn of the cluster at which all addresses were sorted.
    absent: Vec<SocketAddr>,
    sorted_at: Option<u64>,
    asked: BTreeMap<SocketAddr, Asked>,
    /// Addresses that gave no answer, and until when they are left alone.
    silent: BTreeMap<SocketAddr, Time>,
    join_at: Time,
    join_again: Duration,
    /// Rounds of trying all seeds since we were last not alone.
    pub(crate) rounds: u32,
    redial_at: Time,
    /// Contacts that were not made because too many were under way, since the last look.
    pub(crate) limited: u64,
}

/// How a look at the contacts sees the cluster.
pub(crate) trait Around {
    /// Whether we know of no present member.
    fn is_alone(&self) -> bool;
    /// Whether a present member listens there.
    fn is_present_at(&self, addr: SocketAddr) -> bool;
    /// Moves on whenever that may have changed for any address.
    fn turn(&self) -> u64;
}

impl Contacts {
    pub(crate) fn new(own: SocketAddr, now: Time) -> Self {
        Self {
            seeds: Vec::new(),
            own: BTreeSet::from([own]),
            remembered: VecDeque::new(),
            absent: Vec::new(),
            sorted_at: None,
            asked: BTreeMap::new(),
            silent: BTreeMap::new(),
            join_at: now,
            join_again: JOIN_AGAIN_MIN,
            rounds: 0,
            redial_at: now + REDIAL_EVERY,
            limited: 0,
        }
    }

    /// Replaces the seeds; they are tried at once if we are alone.
    pub(crate) fn set_seeds(&mut self, seeds: Vec<SocketAddr>, now: Time) {
        self.seeds = seeds;
        self.sorted_at = None;
        self.join_at = now;
        self.join_again = JOIN_AGAIN_MIN;
    }

    /// Seeds that are not ourselves.
    pub(crate) fn seeds(&self) -> impl Iterator<Item = SocketAddr> {
        self.seeds.iter().copied().filter(|addr| !self.own.contains(addr))
    }

    /// Whether our own address is among the seeds.
    pub(crate) fn is_seed(&self) -> bool {
        self.seeds.iter().any(|addr| self.own.contains(addr))
    }

    /// Whether there is anybody to look for before this start can be called the first.
    pub(crate) fn has_remembered(&self) -> bool {
        !self.remembered.is_empty()
    }

    /// An address turned out to be our own.
    pub(crate) fn is_own(&mut self, addr: SocketAddr) {
        self.own.insert(addr);
        self.sorted_at = None;
        self.asked.remove(&addr);
    }

    /// Our own address is another one now; somebody else may get the one before.
    pub(crate) fn moved(&mut self, before: SocketAddr, after: SocketAddr) {
        self.own.remove(&before);
        self.is_own(after);
        self.forget(after);
    }

    /// Keeps the address of a member that is gone, to try it for ever.
    pub(crate) fn remember(&mut self, addr: SocketAddr) {
        if self.own.contains(&addr) || self.remembered.contains(&addr) {
            return;
        }
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back(addr);
        self.sorted_at = None;
    }

    /// The member there said goodbye, or somebody else lives there now: no need to try it for ever.
    pub(crate) fn forget(&mut self, addr: SocketAddr) {
        self.remembered.retain(|other| *other != addr);
    }

    /// Asks an address soon, unless it is being asked or was silent a moment ago.
    pub(crate) fn ask(&mut self, addr: SocketAddr, now: Time, rng: &mut Xoshiro256PlusPlus) {
        if self.own.contains(&addr) || self.asked.contains_key(&addr) {
            return;
        }
        if self.silent.get(&addr).is_some_and(|until| *until > now) {
            return;
        }
        self.ask_anyway(addr, now, rng);
    }

    /// Asks an address at once, however silent it was: there is fresh news of somebody there.
    pub(crate) fn ask_now(&mut self, addr: SocketAddr, now: Time, rng: &mut Xoshiro256PlusPlus) {
        if self.own.contains(&addr) {
            return;
        }
        self.silent.remove(&addr);
        match self.asked.get_mut(&addr) {
            Some(asked) => (asked.tries, asked.next) = (0, now),
            None => self.ask_anyway(addr, now, rng),
        }
    }

    fn ask_anyway(&mut self, addr: SocketAddr, now: Time, rng: &mut Xoshiro256PlusPlus) {
        self.begin(addr, 0, now, rng);
    }

    fn begin(&mut self, addr: SocketAddr, tries: u8, now: Time, rng: &mut Xoshiro256PlusPlus) {
        if self.asked.len() >= CONTACTS_MAX {
            self.limited += 1;
            return;
        }
        let asked = || Asked { cookie: rng.random(), tries, next: now, only: None, was_asked: false };
        self.asked.entry(addr).or_insert_with(asked);
    }

    /// Whether an address is being asked.
    pub(crate) fn is_asking(&self, addr: SocketAddr) -> bool {
        self.asked.contains_key(&addr)
    }

    /// An address answered; `None` if that is not the answer to what we asked.
    pub(crate) fn answered(&mut self, from: SocketAddr, cookie: u64, now: Time) -> Option<Answered> {
        let asked = self.asked.get(&from).filter(|asked| asked.cookie == cookie)?;
        let rtt = asked.only.map(|at| now.since(at));
        self.asked.remove(&from);
        self.silent.remove(&from);
        Some(Answered { rtt })
    }

    /// When there is something to do next.
    pub(crate) fn next_wake(&self, around: &impl Around) -> Option<Time> {
        let asked = self.asked.values().map(|asked| asked.next).min();
        let join = (around.is_alone() && self.seeds().next().is_some()).then_some(self.join_at);
        let redial = (self.has_remembered() || self.seeds().next().is_some()).then_some(self.redial_at);
        asked.into_iter().chain(join).chain(redial).min()
    }

    /// Whom to ask now, each with its cookie.
    pub(crate) fn due(
        &mut self,
        now: Time,
        around: &impl Around,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Vec<(SocketAddr, u64)> {
        if !around.is_alone() {
            self.rounds = 0;
            self.join_at = now;
            self.join_again = JOIN_AGAIN_MIN;
        } else if now >= self.join_at {
            self.join(now, rng);
        }
        if now >= self.redial_at {
            self.redial_at = now + REDIAL_EVERY;
            self.redial(now, around, rng);
        }
        if !self.silent.is_empty() {
            self.silent.retain(|_, until| *until > now);
        }
        let mut due = Vec::new();
        let mut given_up = Vec::new();
        for (&addr, asked) in self.asked.iter_mut().filter(|(_, asked)| asked.next <= now) {
            if asked.tries >= TRIES {
                given_up.push(addr);
                continue;
            }
            asked.next = now + TRY_AGAIN_AFTER * 2u32.pow(u32::from(asked.tries));
            asked.tries += 1;
            asked.only = (!asked.was_asked).then_some(now);
            asked.was_asked = true;
            due.push((addr, asked.cookie));
        }
        for addr in given_up {
            self.asked.remove(&addr);
            self.silent.insert(addr, now + SILENT_FOR);
        }
        due
    }

    fn join(&mut self, now: Time, rng: &mut Xoshiro256PlusPlus) {
        let seeds: Vec<_> = self.seeds().collect();
        for addr in seeds {
            // Alone there is nothing more urgent than a fresh try.
            self.asked.remove(&addr);
            self.ask_anyway(addr, now, rng);
        }
        self.rounds += 1;
        let jitter = rng.random_range(0.75..1.25);
        self.join_at = now + self.join_again.mul_f64(jitter);
        self.join_again = (self.join_again * 2).min(JOIN_AGAIN_MAX);
    }

    /// Tries the next address that nobody present has: remembered ones in turn, or any seed.
    fn redial(&mut self, now: Time, around: &impl Around, rng: &mut Xoshiro256PlusPlus) {
        // Once a second, and mostly nobody has come or gone since.
        if self.sorted_at.replace(around.turn()) != Some(around.turn()) {
            self.remembered.retain(|addr| !around.is_present_at(*addr));
            self.absent = self.seeds().filter(|addr| !around.is_present_at(*addr)).collect();
        }
        let all = self.remembered.len() + self.absent.len();
        if all == 0 {
            return;
        }
        let pick = rng.random_range(0..all);
        let addr = match self.absent.get(pick) {
            Some(addr) => *addr,
            None => {
                let addr = self.remembered.pop_front().expect("fewer absent seeds than all");
                self.remembered.push_back(addr);
                addr
            }
        };
        // Once: its turn comes again.
        self.begin(addr, TRIES - 1, now, rng);
    }

    /// Addresses being asked.
    pub(crate) fn asked_len(&self) -> usize {
        self.asked.len()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    struct World {
        is_alone: bool,
        present: Vec<SocketAddr>,
    }

    impl Around for World {
        fn is_alone(&self) -> bool {
            self.is_alone
        }
        fn is_present_at(&self, addr: SocketAddr) -> bool {
            self.present.contains(&addr)
        }
        fn turn(&self) -> u64 {
            0
        }
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn run(contacts: &mut Contacts, world: &World, span: Duration) -> Vec<(Time, SocketAddr)> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut asked = Vec::new();
        let end = Time::ZERO + span;
        while let Some(now) = contacts.next_wake(world).filter(|now| *now <= end) {
            asked.extend(contacts.due(now, world, &mut rng).into_iter().map(|(addr, _)| (now, addr)));
        }
        asked
    }

    #[test]
    fn seeds_are_tried_for_ever_while_alone_and_not_too_often() {
        let mut contacts = Contacts::new(addr(1), Time::ZERO);
        contacts.set_seeds(vec![addr(1), addr(2)], Time::ZERO);
        let alone = World { is_alone: true, present: Vec::new() };
        let asked = run(&mut contacts, &alone, Duration::from_secs(3_600));
        assert!(asked.iter().all(|(_, to)| *to == addr(2)), "never ourselves");
        assert!((1_800..8_000).contains(&asked.len()), "{}", asked.len());
        assert!(asked.last().is_some_and(|(at, _)| *at > Time::ZERO + Duration::from_secs(3_590)));
    }

    #[test]
    fn a_dead_member_is_tried_for_ever_at_a_bounded_rate() {
        let mut contacts = Contacts::new(addr(1), Time::ZERO);
        let world = World { is_alone: false, present: vec![addr(2)] };
        contacts.remember(addr(2));
        contacts.remember(addr(3));
        let asked = run(&mut contacts, &world, Duration::from_secs(3_600));
        assert!(asked.iter().all(|(_, to)| *to == addr(3)), "not those that are present");
        assert!((1_500..4_000).contains(&asked.len()), "{}", asked.len());
    }

    #[test]
    fn only_the_answer_to_what_we_asked_counts() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut contacts = Contacts::new(addr(1), Time::ZERO);
        let world = World { is_alone: false, present: Vec::new() };
        contacts.ask(addr(2), Time::ZERO, &mut rng);
        let asked = contacts.due(Time::ZERO, &world, &mut rng);
        let now = Time::ZERO + Duration::from_millis(7);
        assert_eq!(contacts.answered(addr(2), asked[0].1.wrapping_add(1), now), None);
        assert_eq!(contacts.answered(addr(3), asked[0].1, now), None);
        let rtt = Some(Duration::from_millis(7));
        assert_eq!(contacts.answered(addr(2), asked[0].1, now), Some(Answered { rtt }));
        assert_eq!(contacts.answered(addr(2), asked[0].1, now), None, "once");
    }

    #[test]
    fn whoever_was_asked_twice_answers_nobody_knows_which() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut contacts = Contacts::new(addr(1), Time::ZERO);
        let world = World { is_alone: false, present: Vec::new() };
        contacts.ask(addr(2), Time::ZERO, &mut rng);
        let cookie = contacts.due(Time::ZERO, &world, &mut rng)[0].1;
        let later = Time::ZERO + TRY_AGAIN_AFTER;
        assert_eq!(contacts.due(later, &world, &mut rng), [(addr(2), cookie)]);
        assert_eq!(contacts.answered(addr(2), cookie, later), Some(Answered { rtt: None }));
    }

    #[test]
    fn hearsay_leaves_a_silent_address_alone_for_a_while() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut contacts = Contacts::new(addr(1), Time::ZERO);
        let world = World { is_alone: false, present: Vec::new() };
        contacts.ask(addr(2), Time::ZERO, &mut rng);
        let tries = run(&mut contacts, &world, Duration::from_secs(60));
        assert_eq!(tries.len(), usize::from(TRIES));
        let end = tries.last().map(|(at, _)| *at + TRY_AGAIN_AFTER * 8).expect("tries");
        contacts.ask(addr(2), end, &mut rng);
        assert_eq!(contacts.asked_len(), 0);
        contacts.ask(addr(2), end + SILENT_FOR, &mut rng);
        assert_eq!(contacts.asked_len(), 1);
    }

    #[test]
    fn the_number_of_addresses_asked_at_once_is_limited() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut contacts = Contacts::new(addr(1), Time::ZERO);
        for n in 0..CONTACTS_MAX as u32 + 10 {
            let addr = SocketAddr::from((n.to_be_bytes(), 1));
            contacts.ask(addr, Time::ZERO, &mut rng);
        }
        assert_eq!((contacts.asked_len(), contacts.limited), (CONTACTS_MAX, 10));
    }
}
