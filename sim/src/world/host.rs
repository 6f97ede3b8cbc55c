//! A machine of a world: its address, its clock, the process on it, and what waits for that.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tidings::effect::{Datagram, Event, Fatal, GoneReason};
use tidings::peer::{Epoch, NodeId};
use tidings::record::{Key, Owner};
use tidings::time::Time;
use tidings::view::View;

use super::{Happening, HostIndex, Traffic};
use crate::check::{Highest, Withdrawn};
use crate::process::Process;
use crate::shadow::Shadow;

/// Hosts that the address plan has room for.
pub const HOSTS_MAX: usize = HOSTS_PER_NET * 250;

/// The port that every node listens on.
const PORT: u16 = 7_900;

/// Hosts whose addresses differ in the last byte only.
const HOSTS_PER_NET: usize = 250;

/// A machine with one address, and the process on it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) addr: SocketAddr,
    pub(super) name: Arc<str>,
    pub(super) zone: Arc<str>,
    pub(super) seeds: Vec<SocketAddr>,
    /// What a data directory keeps.
    pub(super) id: NodeId,
    pub(super) kept_epoch: Epoch,
    /// The epoch of the next start, whatever clock and data directory say.
    pub(super) forced_epoch: Option<Epoch>,
    pub(super) remembered: Vec<SocketAddr>,
    pub(super) is_disk_full: bool,
    /// What the process that runs, or ran last, was started with.
    pub(super) epoch: Epoch,
    /// `None` while no process runs.
    pub(super) node: Option<Process>,
    pub(super) clock: LocalClock,
    /// What the wall clock shows beside the truth.
    pub(super) wall_offset_secs: i64,
    pub(super) hold: Hold,
    /// What every datagram waits before it leaves and after it arrived.
    pub(super) slowness: Duration,
    /// When it last began to be reached again, after most others could not.
    pub(super) mended_at: Option<Time>,
    /// Since when, if ever, a fault befell this host by itself.
    pub(super) anomalous_since: Option<Time>,
    /// When it began to stand still, or to be blocked, and when that was over.
    pub(super) holds: Vec<(Time, Time)>,
    pub(super) held_since: Option<Time>,
    /// When the first datagram came in vain after the last process ended.
    pub(super) unheard_at: Option<Time>,
    /// Counts the processes that ran here, so that what was meant for one never reaches the next.
    pub(super) start: u32,
    pub(super) is_leaving: bool,
    /// When its program began to drain; it leaves when that is done.
    pub(super) drains_since: Option<Time>,
    pub(super) wake: Wake,
    /// What the program has registered and not withdrawn.
    pub(super) registered: BTreeSet<Key>,
    /// What it is registering or withdrawing at this moment: its node may list it or not.
    pub(super) pending: Option<Key>,
    pub(super) highest: Highest,
    pub(super) withdrawn: Withdrawn,
    /// What the program was told, where that is followed.
    pub(super) shadow: Option<Shadow>,
    /// What the program reads.
    pub(super) view: Option<View>,
    /// Changes of the view since it was looked through.
    pub(super) unchecked: usize,
    /// The fingerprints after the last input: records, members, reachable members.
    pub(super) fingerprints: (u64, u64, u64),
    pub(super) ready_at: Option<Time>,
    pub(super) fatal: Option<Fatal>,
    pub(super) traffic: Traffic,
}

impl Host {
    /// A host on which nothing has run yet.
    pub(super) fn new(index: HostIndex, zone: &str, seeds: Vec<SocketAddr>, id: NodeId) -> Self {
        Self {
            addr: address(index),
            name: Arc::from(format!("n{index}")),
            zone: Arc::from(zone),
            seeds,
            id,
            kept_epoch: 0,
            forced_epoch: None,
            remembered: Vec::new(),
            is_disk_full: false,
            epoch: 0,
            node: None,
            clock: LocalClock::true_one(),
            wall_offset_secs: 0,
            hold: Hold::Free,
            slowness: Duration::ZERO,
            mended_at: None,
            anomalous_since: None,
            holds: Vec::new(),
            held_since: None,
            unheard_at: None,
            start: 0,
            is_leaving: false,
            drains_since: None,
            wake: Wake::default(),
            registered: BTreeSet::new(),
            pending: None,
            highest: Highest::new(),
            withdrawn: Withdrawn::new(),
            shadow: None,
            view: None,
            unchecked: 0,
            fingerprints: (0, 0, 0),
            ready_at: None,
            fatal: None,
            traffic: Traffic::default(),
        }
    }

    /// Notes what the program is told.
    pub(super) fn note_told(&mut self, now: Time, events: &[Event]) {
        if let Some(view) = self.view.as_mut().filter(|_| !events.is_empty()) {
            view.pass(now);
            events.iter().for_each(|event| view.apply(event));
            view.publish();
            if events.iter().any(|event| matches!(event, Event::Ready)) {
                view.ready();
            }
        }
        events.iter().for_each(|event| self.note_one(event));
    }

    fn note_one(&mut self, event: &Event) {
        let Some(shadow) = &mut self.shadow else { return };
        shadow.apply(event);
        match event {
            Event::ServiceDown { owner, instance, reason: GoneReason::Withdrawn } => {
                let Some(owner) = shadow.start_of(*owner) else { return };
                let place = (owner, instance.id.clone());
                if let Some(version) = self.highest.get(&place) {
                    self.withdrawn.insert(place, *version);
                }
            }
            // Who forgot an owner may learn of it anew from somebody who was never told the latest.
            Event::MemberForgotten(member) => self.withdrawn.retain(|(owner, _), _| owner.id != member.peer.id),
            _ => {}
        }
    }

    pub(super) fn owner(&self) -> Owner {
        Owner { id: self.id, epoch: self.epoch }
    }

    /// Whether the node on this host may list its own record `key`.
    pub(super) fn may_list(&self, key: &Key) -> bool {
        key.is_member() || self.registered.contains(key) || self.pending.as_ref() == Some(key)
    }
}

/// How a host's monotonic clock runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalClock {
    pub(super) rate: f64,
    /// A moment of the world, and what the clock showed then.
    pub(super) at: Time,
    pub(super) shown: Time,
}

impl LocalClock {
    pub(super) const fn true_one() -> Self {
        Self { rate: 1.0, at: Time::ZERO, shown: Time::ZERO }
    }

    pub(super) const fn is_true(&self) -> bool {
        self.rate == 1.0
    }

    pub(super) fn local(&self, world: Time) -> Time {
        if self.is_true() {
            return self.shown + world.since(self.at);
        }
        self.shown + world.since(self.at).mul_f64(self.rate)
    }

    /// When the clock will show `local`, not before it does.
    pub(super) fn world(&self, local: Time) -> Time {
        if self.is_true() {
            return self.at + local.since(self.shown);
        }
        // One nanosecond more than the division gives: rounding must not wake a process before its time.
        self.at + local.since(self.shown).div_f64(self.rate) + Duration::from_nanos(1)
    }
}

/// Whether a process goes on, and what waits for it.
#[derive(Default, Debug)]
pub(super) enum Hold {
    #[default]
    Free,
    /// It stands still: timers, packets, everything.
    Frozen(Vec<Happening>),
    /// Its timers run, but whatever it receives or sends waits.
    Blocked { received: Vec<Happening>, sent: Vec<Datagram> },
}

/// The armed wake of a process.
#[derive(Default, Debug)]
pub(super) struct Wake {
    pub(super) at: Option<Time>,
    /// When the node wants to be woken, by its own clock, as it said after its last input.
    pub(super) wanted: Option<Time>,
    /// A planned wake of an older number is void.
    pub(super) number: u64,
    /// Wakes that were delivered at `moment`.
    pub(super) moment: Time,
    pub(super) count: u32,
}

/// Another address of the same host: only the second byte differs, which [`index_at`] does not look at first.
pub(super) fn moved(addr: SocketAddr) -> SocketAddr {
    let SocketAddr::V4(v4) = addr else { unreachable!("hosts have addresses of version 4") };
    let [first, moves, net, last] = v4.ip().octets();
    SocketAddrV4::new(Ipv4Addr::new(first, moves.wrapping_add(1), net, last), v4.port()).into()
}

pub(super) fn address(host: HostIndex) -> SocketAddr {
    let byte = |number: usize| u8::try_from(number).expect("HOSTS_MAX keeps both numbers below 251");
    let ip = Ipv4Addr::new(10, 0, byte(host / HOSTS_PER_NET), byte(host % HOSTS_PER_NET + 1));
    SocketAddrV4::new(ip, PORT).into()
}

/// The host whose first address this is, or a later one that [`moved`] made of it.
pub(super) fn index_at(addr: SocketAddr) -> Option<HostIndex> {
    let SocketAddr::V4(v4) = addr else { return None };
    let [_, _, net, last] = v4.ip().octets();
    Some(usize::from(net) * HOSTS_PER_NET + usize::from(last).checked_sub(1)?)
}
