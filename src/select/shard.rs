//! Jobs without a leader: each key belongs to one instance of a service, by the view that is at hand.
//!
//! Every member computes the same owner of a key from the same set of instances, by weighted rendezvous hashing: no
//! message, no lock, no leader, and an instance that goes moves only its own keys.
//!
//! **At most once is not promised.** Views are equal soon, not always: while news travels, or for as long as the
//! cluster is split, two instances can hold the same key, or none. Where that does harm, whoever does the work must
//! refuse one of them, and [`Shards::fence`] is made for it: store the fence with what is written, and refuse a writer
//! with another one until both agree. It says whether two saw the same set; it does not say which of them saw the later
//! one.
//!
//! ```
//! # use std::{net::SocketAddr, sync::Arc};
//! # use tidings::{effect::Event, peer::*, record::Instance, view::View};
//! use tidings::select::Selector;
//! use tidings::select::shard::{Keeper, Shards};
//!
//! # let addr = SocketAddr::from(([127, 0, 0, 1], 80));
//! # let mut view = View::new();
//! # for id in [1, 2] {
//! #     let member = Member {
//! #         peer: Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: 1 },
//! #         name: format!("m{id}").into(), zone: "".into(), state: MemberState::Reachable,
//! #         evidence: Evidence::default(), software: "".into(), wire: (1, 1),
//! #     };
//! #     view.apply(&Event::MemberUp(Arc::new(member)));
//! #     let instance = Arc::new(Instance::new("jobs", addr)?.with_id("worker"));
//! #     view.apply(&Event::ServiceUp { owner: NodeId(id), instance });
//! # }
//! # view.publish();
//! # view.ready();
//! # let service = view.reader().lookup("jobs")?;
//! # let me = NodeId(1);
//! // `me` is `registry.id()`, and `service` what a lookup, or each change of a watch, gives.
//! let mut keeper = Keeper::new(me, ["invoices", "reminders", "backup"]);
//! let moved = keeper.update(&Shards::of(&service, &Selector::new()));
//! for key in &moved.gained {
//!     println!("starting {key}, fence {:016x}", moved.fence);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;

use super::candidate::Place;
use super::hash::{bid, key_hash, pair_hash, place_hash};
use super::selector::Selector;
use crate::peer::NodeId;
use crate::view::{Offered, Service};

/// The instances that share a service's keys.
#[derive(Clone, PartialEq, Debug)]
pub struct Shards {
    seats: Vec<Seat>,
    fence: u64,
}

#[derive(Clone, PartialEq, Debug)]
struct Seat {
    hash: u64,
    place: Place,
    weight: u32,
}

impl Shards {
    /// The healthy instances that the selector wants. What depends on who asks does not count: neither which zones are
    /// near, nor the least part that must be healthy.
    pub fn of(service: &Service, selector: &Selector) -> Self {
        let seat = |o: &Offered| Seat {
            hash: place_hash(&o.member.name, o.instance.id.as_str()),
            place: Place::of(o),
            weight: o.instance.weight,
        };
        let mut seats: Vec<Seat> = service.healthy().iter().filter(|o| selector.miss(o).is_none()).map(seat).collect();
        seats.sort_by(|a, b| (a.hash, &a.place).cmp(&(b.hash, &b.place)));
        let fence = seats.iter().fold(0, |fence, seat| {
            pair_hash(fence, pair_hash(seat.place.token(), pair_hash(seat.hash, seat.weight.into())))
        });
        Self { seats, fence }
    }

    /// The instance that the key belongs to; `None` if there is none at all.
    pub fn assign(&self, key: &[u8]) -> Option<&Place> {
        let key = key_hash(key);
        let bids = self.seats.iter().map(|seat| (bid(key, seat.hash, f64::from(seat.weight)), seat));
        // Of equal bids the first counts, and everybody has them in the same order.
        bids.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, seat)| &seat.place)
    }

    /// A hash of the instances, their starts and weights: two that have the same fence assign alike. 0 for no instance.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// How many instances share the keys.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether no instance is there to have a key.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }
}

/// Keeps which of a set of keys are ours, and tells what changes.
#[derive(Clone, Debug)]
pub struct Keeper<K> {
    me: NodeId,
    keys: BTreeSet<K>,
    held: BTreeSet<K>,
    fence: u64,
}

/// What changed for us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved<K> {
    /// Keys that are ours from now on.
    pub gained: Vec<K>,
    /// Keys that are no longer ours: stop their jobs first, then start those that were gained.
    pub lost: Vec<K>,
    /// The fence of the set that says so.
    pub fence: u64,
}

impl<K> Moved<K> {
    /// Whether nothing is ours that was not, and nothing no longer ours.
    pub fn is_empty(&self) -> bool {
        self.gained.is_empty() && self.lost.is_empty()
    }
}

impl<K: AsRef<[u8]> + Clone + Ord> Keeper<K> {
    /// Keeps these keys for the instances of this member. None is ours before the first update.
    pub fn new(me: NodeId, keys: impl IntoIterator<Item = K>) -> Self {
        Self { me, keys: keys.into_iter().collect(), held: BTreeSet::new(), fence: 0 }
    }

    /// Takes in who shares the keys now.
    pub fn update(&mut self, shards: &Shards) -> Moved<K> {
        let is_mine = |key: &&K| shards.assign(key.as_ref()).is_some_and(|place| place.owner == self.me);
        let now: BTreeSet<K> = self.keys.iter().filter(is_mine).cloned().collect();
        let gained = now.difference(&self.held).cloned().collect();
        let lost = self.held.difference(&now).cloned().collect();
        self.held = now;
        self.fence = shards.fence();
        Moved { gained, lost, fence: self.fence }
    }

    /// Gives up everything, as when the view can no longer be trusted: the member is isolated, or stops.
    pub fn give_up(&mut self) -> Moved<K> {
        let lost = std::mem::take(&mut self.held).into_iter().collect();
        Moved { gained: Vec::new(), lost, fence: self.fence }
    }

    /// Whose keys are kept.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// The keys that are ours.
    pub fn held(&self) -> &BTreeSet<K> {
        &self.held
    }
}

/// The keys that a running member gains and loses, one change after another.
#[cfg(feature = "net")]
#[derive(Debug)]
pub struct Moves<K> {
    keeper: Keeper<K>,
    selector: Selector,
    watch: Option<crate::registry::Watch>,
}

#[cfg(feature = "net")]
impl<K: AsRef<[u8]> + Clone + Ord> Moves<K> {
    /// Follows who shares these keys: the instances of `service` that the selector wants, of which the member's own
    /// must be one for it to get any.
    ///
    /// ```
    /// # use tidings::{Instance, Registry};
    /// use tidings::select::Selector;
    /// use tidings::select::shard::Moves;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let registry = Registry::builder("demo", "worker").start().await?;
    /// # let address: std::net::SocketAddr = "127.0.0.1:80".parse()?;
    /// let _instance = registry.register(Instance::new("jobs", address)?).await?;
    /// let mut moves = Moves::of(&registry, "jobs", Selector::new(), ["invoices", "backup"]);
    /// let moved = moves.next().await.expect("the first tells what is ours now");
    /// assert_eq!(moved.gained, ["backup", "invoices"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(
        registry: &crate::registry::Registry,
        service: &str,
        selector: Selector,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let keeper = Keeper::new(registry.id(), keys);
        Self { keeper, selector, watch: Some(registry.watch(service)) }
    }

    /// Waits until a key is gained or lost, and tells which; may be dropped and called again without losing anything.
    /// While the member is joining, or cut off, it holds nothing: others may have taken over. Once it stops, its last
    /// keys are lost, and then this is `None`.
    pub async fn next(&mut self) -> Option<Moved<K>> {
        loop {
            let watch = self.watch.as_mut()?;
            if watch.joined().await.is_err() {
                self.watch = None;
                return Some(self.keeper.give_up()).filter(|moved| !moved.is_empty());
            }
            let service = watch.current();
            let moved = if service.kept() == Some(crate::view::Kept::Isolated) {
                self.keeper.give_up()
            } else {
                self.keeper.update(&Shards::of(service, &self.selector))
            };
            if !moved.is_empty() {
                return Some(moved);
            }
            if watch.changed_at_all().await.is_err() {
                self.watch = None;
                return Some(self.keeper.give_up()).filter(|moved| !moved.is_empty());
            }
        }
    }

    /// The keys that are ours.
    pub fn held(&self) -> &BTreeSet<K> {
        self.keeper.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::MemberState;
    use crate::select::fixture::{Fleet, instance};

    fn shards(fleet: &Fleet) -> Shards {
        Shards::of(&fleet.service(), &Selector::new())
    }

    fn keys(n: u64) -> Vec<[u8; 8]> {
        (0..n).map(u64::to_le_bytes).collect()
    }

    #[test]
    fn keys_are_shared_by_weight_and_each_has_one_owner() {
        let fleet = Fleet::of_weights(&[1, 1, 2]);
        let shards = shards(&fleet);
        let mut counts = [0_u32; 3];
        keys(100_000).iter().for_each(|key| counts[shards.assign(key).unwrap().owner.0 as usize] += 1);
        for (count, due) in counts.into_iter().zip([25_000, 25_000, 50_000]) {
            assert!(count.abs_diff(due) < due / 50, "{counts:?}");
        }
        // Two that look at the same keys never both hold one, and leave none out.
        let mut held: Vec<_> = (0..3)
            .flat_map(|me| {
                let mut keeper = Keeper::new(NodeId(me), keys(1_000));
                keeper.update(&shards).gained
            })
            .collect();
        held.sort_unstable();
        let mut all = keys(1_000);
        all.sort_unstable();
        assert_eq!(held, all);
    }

    #[test]
    fn what_one_loses_others_gain_and_nothing_else_moves() {
        let mut fleet = Fleet::of_weights(&[1; 4]);
        let mut keepers: Vec<_> = (0..4).map(|me| Keeper::new(NodeId(me), keys(10_000))).collect();
        let before = shards(&fleet);
        keepers.iter_mut().for_each(|keeper| drop(keeper.update(&before)));
        let of_second = keepers[1].held().clone();
        fleet.member(1, MemberState::Suspect);
        let after = shards(&fleet);
        assert_ne!(before.fence(), after.fence());
        let moved: Vec<_> = keepers.iter_mut().map(|keeper| keeper.update(&after)).collect();
        assert_eq!(moved[1].lost.len(), of_second.len());
        let gained: BTreeSet<_> = moved.iter().flat_map(|moved| moved.gained.clone()).collect();
        assert_eq!(gained, of_second);
        assert!([0, 2, 3].iter().all(|&n| moved[n as usize].lost.is_empty()));
        fleet.member(1, MemberState::Reachable);
        assert_eq!(shards(&fleet).fence(), before.fence(), "the same set has the same fence again");
    }

    #[test]
    fn the_fence_tells_a_restart_and_a_weight_apart_but_not_what_assigns_nothing() {
        let mut fleet = Fleet::of_weights(&[1, 1]);
        let first = shards(&fleet);
        fleet.change(0, instance("0000").with_tag("new"));
        assert_eq!(shards(&fleet).fence(), first.fence());
        fleet.start(0, 2, instance("0000"));
        let restarted = shards(&fleet);
        assert_ne!(restarted.fence(), first.fence());
        assert!(keys(1_000).iter().all(|key| restarted.assign(key).unwrap().owner == first.assign(key).unwrap().owner));
        fleet.change(0, instance("0000").with_weight(2));
        assert_ne!(shards(&fleet).fence(), restarted.fence());
    }

    #[test]
    fn nobody_holds_a_key_of_a_service_without_instances() {
        let fleet = Fleet::default();
        let empty = shards(&fleet);
        assert_eq!((empty.is_empty(), empty.len(), empty.fence(), empty.assign(b"k")), (true, 0, 0, None));
        let full = Fleet::of_weights(&[1]);
        let mut keeper = Keeper::new(NodeId(0), ["a", "b"]);
        assert_eq!(keeper.update(&shards(&full)).gained, ["a", "b"]);
        assert_eq!(keeper.give_up().lost, ["a", "b"]);
        assert!(keeper.held().is_empty());
    }
}
