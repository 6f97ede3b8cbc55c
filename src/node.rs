//! The core of one process: a state machine that is told what happens and says what it wants done.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::effect::{Input, InputError, Outbox};
use crate::peer::{Epoch, NodeId, Peer};
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

/// STAND-IN, to be dropped: a toy that greets its seeds and tells everybody everything it offers.
#[derive(Debug)]
pub struct Node {
    config: Config,
    me: Peer,
    peers: std::collections::BTreeMap<NodeId, Toy>,
    own: std::collections::BTreeMap<String, Arc<crate::record::Instance>>,
    due: Time,
    started: bool,
    ready: bool,
    left: bool,
}

#[derive(Debug)]
struct Toy {
    member: Arc<crate::peer::Member>,
    offers: std::collections::BTreeMap<String, Arc<crate::record::Instance>>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Hello {
    cluster: String,
    peer: Peer,
    name: String,
    left: bool,
    offers: Vec<(String, String, crate::record::Endpoint, u32)>,
}

impl Node {
    /// A node.
    pub fn new(config: Config, now: Time) -> Self {
        let me = Peer {
            id: config.id,
            addr: config.addr,
            generation: crate::peer::Generation::first(config.epoch),
            nonce: config.nonce,
        };
        Self {
            config,
            me,
            peers: Default::default(),
            own: Default::default(),
            due: now,
            started: false,
            ready: false,
            left: false,
        }
    }

    fn member(peer: Peer, name: &str) -> Arc<crate::peer::Member> {
        Arc::new(crate::peer::Member {
            peer,
            name: name.into(),
            zone: "".into(),
            state: crate::peer::MemberState::Reachable,
            evidence: Default::default(),
            software: "".into(),
            wire: (1, 1),
        })
    }

    fn tell(&self, out: &mut Outbox) {
        let hello = Hello {
            cluster: self.config.cluster.to_string(),
            peer: self.me,
            name: self.config.name.to_string(),
            left: self.left,
            offers: self
                .own
                .values()
                .map(|i| (i.id.as_str().into(), i.service.to_string(), i.address.clone(), i.weight))
                .collect(),
        };
        let bytes = [vec![1], serde_json::to_vec(&hello).unwrap()].concat();
        let known = self.peers.values().map(|t| t.member.peer.addr);
        let to: std::collections::BTreeSet<_> = known.chain(self.config.seeds.iter().copied()).collect();
        for to in to {
            out.datagrams.push(crate::effect::Datagram { to, nonce: None, bytes: bytes.clone() });
        }
    }

    /// Takes in what happened.
    ///
    /// # Errors
    /// See [`InputError`].
    pub fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Outbox) -> Result<(), InputError> {
        use crate::effect::{Event, GoneReason};
        match input {
            Input::Wake if now >= self.due => {
                self.due = now + std::time::Duration::from_millis(50);
                if !self.started {
                    self.started = true;
                    out.events.push(Event::MemberUp(Self::member(self.me, &self.config.name)));
                }
                if !self.ready && self.config.seeds.is_empty() {
                    self.ready = true;
                    out.events.push(Event::Ready);
                }
                self.tell(out);
            }
            Input::Datagram { bytes, .. } => {
                let hello: Hello = serde_json::from_slice(bytes.get(1..).unwrap_or_default())
                    .map_err(|_| InputError::Malformed("toy"))?;
                if hello.cluster != *self.config.cluster || hello.peer.id == self.me.id {
                    return Err(InputError::NotAccepted("toy"));
                }
                if hello.left {
                    if let Some(toy) = self.peers.remove(&hello.peer.id) {
                        for instance in toy.offers.into_values() {
                            let (owner, reason) = (hello.peer.id, GoneReason::OwnerLeft);
                            out.events.push(Event::ServiceDown { owner, instance, reason });
                        }
                        out.events.push(Event::MemberLeft(toy.member));
                    }
                    return Ok(());
                }
                let id = hello.peer.id;
                let mut fresh = false;
                let toy = self.peers.entry(id).or_insert_with(|| {
                    fresh = true;
                    let member = Self::member(hello.peer, &hello.name);
                    out.events.push(Event::MemberUp(member.clone()));
                    Toy { member, offers: Default::default() }
                });
                toy.member.evidence.note(now);
                let mut gone = std::mem::take(&mut toy.offers);
                for (key, service, address, weight) in hello.offers {
                    let instance =
                        crate::record::Instance::new(service, address).unwrap().with_id(&key).with_weight(weight);
                    let instance = Arc::new(instance);
                    match gone.remove(&key) {
                        None => out.events.push(Event::ServiceUp { owner: id, instance: instance.clone() }),
                        Some(before) if before != instance => {
                            out.events.push(Event::ServiceChanged { owner: id, before, instance: instance.clone() })
                        }
                        _ => {}
                    }
                    toy.offers.insert(key, instance);
                }
                for instance in gone.into_values() {
                    out.events.push(Event::ServiceDown { owner: id, instance, reason: GoneReason::Withdrawn });
                }
                if !self.ready {
                    self.ready = true;
                    out.events.push(Event::Ready);
                }
                if fresh {
                    self.tell(out);
                }
            }
            Input::Register(instance) => {
                let owner = self.me.id;
                out.events.push(match self.own.insert(instance.id.as_str().into(), instance.clone()) {
                    None => Event::ServiceUp { owner, instance },
                    Some(before) => Event::ServiceChanged { owner, before, instance },
                });
                self.tell(out);
            }
            Input::Withdraw(key) => {
                let Some(instance) = self.own.remove(key.as_str()) else {
                    return Err(InputError::UnknownInstance(key));
                };
                let (owner, reason) = (self.me.id, GoneReason::Withdrawn);
                out.events.push(Event::ServiceDown { owner, instance, reason });
                self.tell(out);
            }
            Input::Seeds(seeds) => {
                self.config.seeds = seeds;
                self.tell(out);
            }
            Input::Leave => {
                self.left = true;
                self.tell(out);
            }
            _ => {}
        }
        Ok(())
    }

    /// When the node wants to be woken next.
    pub fn next_wake(&self) -> Option<Time> {
        Some(self.due)
    }

    /// Who this node is now.
    pub fn peer(&self) -> Peer {
        self.me
    }

    /// What was counted.
    pub fn stats(&self) -> crate::counters::Counters {
        crate::counters::Counters::default()
    }

    /// Addresses.
    pub fn known_addrs(&self) -> Vec<(NodeId, SocketAddr)> {
        self.peers.iter().map(|(id, t)| (*id, t.member.peer.addr)).collect()
    }
}
