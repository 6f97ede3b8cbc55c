//! The core of one process: a state machine that is told what happens and says what it wants done.

use std::net::SocketAddr;
use std::sync::Arc;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::effect::{Datagram, Event, Input, InputError, Outbox, Reply, Request};
use crate::peer::{Epoch, NodeId, Peer};
use crate::record::{Key, Owner, Version};
use crate::time::Time;

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
    /// Addresses of members known before this start; tried like seeds, but nobody waits for them.
    pub remembered: Vec<SocketAddr>,
}

/// LOCAL STUB: a toy that pulls everything, enough to try the world on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViewDigest {
    /// Fingerprint of the records.
    pub records: u64,
    /// Fingerprint of the members.
    pub members: u64,
    /// Live members.
    pub live_members: usize,
    /// Live records.
    pub live_records: usize,
}

/// LOCAL STUB.
#[derive(Debug)]
pub struct Node {
    me: Peer,
    seeds: Vec<SocketAddr>,
    members: BTreeMap<NodeId, (Peer, bool)>,
    records: BTreeMap<(Owner, Key), (Version, String, bool)>,
    version: Version,
    next: Time,
    rng: Xoshiro256PlusPlus,
    is_ready: bool,
}

const EVERY: Duration = Duration::from_millis(300);

impl Node {
    /// LOCAL STUB.
    pub fn new(config: Config, now: Time) -> Self {
        let generation = crate::peer::Generation::first(config.epoch);
        let me = Peer { id: config.id, addr: config.addr, generation, nonce: config.nonce };
        let mut node = Self {
            me,
            seeds: config.seeds.into_iter().chain(config.remembered).collect(),
            members: BTreeMap::from([(me.id, (me, true))]),
            records: BTreeMap::new(),
            version: 0,
            next: now,
            rng: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            is_ready: false,
        };
        node.state(Key::member(), String::new(), true);
        node
    }

    fn owner(&self) -> Owner {
        Owner { id: self.me.id, epoch: self.me.epoch() }
    }

    fn state(&mut self, key: Key, text: String, alive: bool) {
        self.version += 1;
        self.records.insert((self.owner(), key), (self.version, text, alive));
    }

    fn line(owner: &Owner, key: &Key, record: &(Version, String, bool)) -> String {
        format!("R {} {} {:?} {} {} {}\n", owner.id.0, owner.epoch, key.as_str(), record.0, record.2, record.1)
    }

    fn everything(&self) -> String {
        let mut text = String::new();
        for (peer, alive) in self.members.values() {
            text += &format!("P {} {} {} {} {}\n", peer.id.0, peer.addr, peer.epoch(), peer.nonce, alive);
        }
        for ((owner, key), record) in &self.records {
            text += &Self::line(owner, key, record);
        }
        text
    }

    fn merge(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(7, ' ').collect();
            let n = |i: usize| words[i].parse::<u64>().expect("stub");
            if words[0] == "P" {
                let peer = Peer {
                    id: NodeId(n(1)),
                    addr: words[2].parse().expect("stub"),
                    generation: crate::peer::Generation::first(n(3)),
                    nonce: n(4),
                };
                let alive = words[5] == "true";
                let known = self.members.entry(peer.id).or_insert((peer, alive));
                if peer.rank() > known.0.rank() || !alive {
                    *known = (peer, alive);
                }
                let at: Vec<Peer> = self.members.values().map(|m| m.0).filter(|p| p.addr == peer.addr).collect();
                let best = at.iter().map(Peer::rank).max();
                for old in at.iter().filter(|old| Some(old.rank()) != best) {
                    self.members.get_mut(&old.id).expect("stub").1 = false;
                }
            } else {
                let owner = Owner { id: NodeId(n(1)), epoch: n(2) };
                let key = Key::from(words[3].trim_matches('"'));
                let new = (n(4), words[6].to_owned(), words[5] == "true");
                let known = self.records.entry((owner, key)).or_insert_with(|| new.clone());
                if new.0 > known.0 {
                    *known = new;
                }
            }
        }
    }

    /// LOCAL STUB.
    ///
    /// # Errors
    /// None.
    pub fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Outbox) -> Result<(), InputError> {
        match input {
            Input::Wake => {
                if now >= self.next {
                    self.next = now + EVERY;
                    let mut others: Vec<Peer> =
                        self.members.values().filter(|m| m.1 && m.0.id != self.me.id).map(|m| m.0).collect();
                    others.extend(self.seeds.iter().map(|addr| Peer { addr: *addr, ..self.me }));
                    if others.is_empty() {
                        if !std::mem::replace(&mut self.is_ready, true) {
                            out.events.push(Event::Ready);
                        }
                    } else {
                        let to = others[self.rng.random_range(0..others.len())];
                        out.requests.push(Request { token: 1, to, bytes: self.everything().into() });
                    }
                }
            }
            Input::Datagram { bytes, .. } => {
                self.merge(std::str::from_utf8(bytes).map_err(|_| InputError::Malformed("utf8"))?);
            }
            Input::Request { token, bytes, .. } => {
                self.merge(std::str::from_utf8(&bytes).expect("stub"));
                out.replies.push(Reply { token, bytes: Some(self.everything().into()) });
            }
            Input::Response { result: Ok(bytes), .. } => {
                self.merge(std::str::from_utf8(&bytes).expect("stub"));
                if !std::mem::replace(&mut self.is_ready, true) {
                    out.events.push(Event::Ready);
                }
            }
            Input::Response { .. } | Input::Seeds(_) => {}
            Input::Register(instance) => {
                let tags: Vec<&str> = instance.tags.iter().map(|t| &**t).collect();
                self.state(instance.id.clone(), tags.join(","), true);
                self.shout(out, &instance.id);
            }
            Input::Withdraw(key) => {
                self.state(key.clone(), String::new(), false);
                self.shout(out, &key);
            }
            Input::Leave => {
                self.members.insert(self.me.id, (self.me, false));
                let text = format!("P {} {} {} {} false\n", self.me.id.0, self.me.addr, self.me.epoch(), self.me.nonce);
                self.tell_all(out, &text);
            }
        }
        Ok(())
    }

    fn shout(&self, out: &mut Outbox, key: &Key) {
        let at = (self.owner(), key.clone());
        self.tell_all(out, &Self::line(&at.0, &at.1, &self.records[&at]));
    }

    fn tell_all(&self, out: &mut Outbox, text: &str) {
        for (peer, alive) in self.members.values() {
            if *alive && peer.id != self.me.id {
                out.datagrams.push(Datagram { to: peer.addr, nonce: None, bytes: text.as_bytes().to_vec() });
            }
        }
    }

    /// When the node wants to be woken next.
    pub fn next_wake(&self) -> Option<Time> {
        Some(self.next)
    }

    /// Who this node is now.
    pub fn peer(&self) -> Peer {
        self.me
    }

    /// LOCAL STUB.
    pub fn digest(&self) -> ViewDigest {
        let (records, members) = (self.live_records(), self.live_members());
        ViewDigest {
            records: xxhash_rust::xxh3::xxh3_64(format!("{records:?}").as_bytes()),
            members: xxhash_rust::xxh3::xxh3_64(format!("{members:?}").as_bytes()),
            live_members: members.len(),
            live_records: records.len(),
        }
    }

    /// LOCAL STUB.
    pub fn live_records(&self) -> Vec<(Owner, Key, Version)> {
        self.records
            .iter()
            .filter(|((owner, _), r)| {
                r.2 && self.members.get(&owner.id).is_some_and(|m| m.1 && m.0.epoch() == owner.epoch)
            })
            .map(|((owner, key), r)| (*owner, key.clone(), r.0))
            .collect()
    }

    /// LOCAL STUB.
    pub fn live_members(&self) -> Vec<Peer> {
        self.members.values().filter(|m| m.1).map(|m| m.0).collect()
    }
}
