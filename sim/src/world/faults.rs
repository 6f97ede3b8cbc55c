//! What may be done to the hosts and the links of a world, and how it is undone.

use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use tidings::effect::Input;
use tidings::peer::{Epoch, NodeId};

use super::host::{Hold, LocalClock, moved};
use super::{Happening, HostIndex, World};
use crate::link::LinkConfig;

/// What waits at most for a frozen process, as a socket's buffer holds some 200 KiB; further datagrams are dropped.
const HELD_MAX: usize = 1_000;

impl World {
    /// The process ends without a word. What it registered is gone with it; its data directory stays.
    ///
    /// # Panics
    /// If no process runs there.
    pub fn crash(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("crash {host}"));
        assert!(self.hosts[host].node.is_some(), "host {host} does not run");
        self.stop(host);
    }

    /// Starts a stopped host again, with its data directory: the same id, the next epoch, remembered members.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn restart(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("restart {host}"));
        self.start(host);
    }

    /// Starts a stopped host again from an old copy of its data directory, as the start `epoch`, at another address if
    /// it is to move.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn restore(&mut self, host: HostIndex, epoch: Epoch, moves: bool) {
        self.trace.fault(self.now, &format!("restore {host} {epoch} {moves}"));
        self.hosts[host].forced_epoch = Some(epoch);
        if moves {
            self.hosts[host].addr = moved(self.hosts[host].addr);
        }
        self.start(host);
    }

    /// Adds a host with a copy of the data directory of `original`, and starts a node on it.
    ///
    /// # Panics
    /// If there are [`HOSTS_MAX`](super::HOSTS_MAX) hosts already.
    pub fn add_clone(&mut self, original: HostIndex) -> HostIndex {
        self.trace.fault(self.now, &format!("clone {original}"));
        let seeds = self.hosts[original].seeds.clone();
        let (id, epoch) = (self.hosts[original].id, self.hosts[original].epoch);
        let host = self.push_host(seeds, id);
        self.hosts[host].forced_epoch = Some(epoch + 1);
        self.start(host);
        host
    }

    /// The address of a host becomes another one; whatever is sent to the old one is heard by nobody.
    ///
    /// # Panics
    /// If no process runs there.
    pub fn readdress(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("readdress {host}"));
        let addr = moved(self.hosts[host].addr);
        self.hosts[host].addr = addr;
        self.tell_or_fail(host, Input::Readdress(addr));
    }

    /// Starts a stopped host again, without its data directory: a new member at the old address. Its epoch is larger
    /// than the old one's all the same, as the clock makes it in life.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn replace(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("replace {host}"));
        self.hosts[host].id = NodeId(self.rng.random());
        self.hosts[host].remembered.clear();
        self.hosts[host].kept_epoch = 0;
        self.start(host);
    }

    /// Starts a stopped host again with its old id, given by its configuration, but without its data directory: only
    /// the wall clock makes its epoch larger than the old one.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn restart_without_data(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("restart {host} without data"));
        self.hosts[host].remembered.clear();
        self.hosts[host].kept_epoch = 0;
        self.start(host);
    }

    /// The process stands still: its timers, and what arrives, wait until it is thawed (SIGSTOP, a garbage collector,
    /// a paused virtual machine).
    ///
    /// # Panics
    /// If it is held already, or does not run.
    pub fn freeze(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("freeze {host}"));
        self.must_be_free(host);
        self.hosts[host].hold = Hold::Frozen(Vec::new());
        self.hosts[host].held_since = Some(self.now);
        self.befall(host);
    }

    /// A fault befalls a host by itself.
    fn befall(&mut self, host: HostIndex) {
        self.hosts[host].anomalous_since.get_or_insert(self.now);
    }

    /// The process's timers run, but whatever it receives or sends waits until it is released: Lifeguard's block right
    /// before a send and right after a receive (Dadgar, Phillips and Currey 2018, section V).
    ///
    /// # Panics
    /// If it is held already, or does not run.
    pub fn block(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("block {host}"));
        self.must_be_free(host);
        self.hosts[host].hold = Hold::Blocked { received: Vec::new(), sent: Vec::new() };
        self.hosts[host].held_since = Some(self.now);
        self.befall(host);
    }

    /// Ends a freeze or a block: what waited happens now, in its order, and then what became due.
    pub fn release(&mut self, host: HostIndex) {
        self.trace.fault(self.now, &format!("release {host}"));
        let (received, sent) = match std::mem::take(&mut self.hosts[host].hold) {
            Hold::Free => return,
            Hold::Frozen(held) => (held, Vec::new()),
            Hold::Blocked { received, sent } => (received, sent),
        };
        let since = self.hosts[host].held_since.take();
        self.hosts[host].holds.extend(since.map(|since| (since, self.now)));
        for datagram in sent {
            self.put_on_wire(host, datagram);
        }
        for happening in received {
            self.happen(happening);
        }
        self.hosts[host].wake.at = None;
        self.arm(host);
    }

    /// Cuts a host off from everybody while its timers run on, or ends that: a network card that stalls.
    pub fn set_isolated(&mut self, host: HostIndex, is_isolated: bool) {
        self.trace.fault(self.now, &format!("isolate {host} {is_isolated}"));
        self.link.set_isolated(host, is_isolated);
        self.befall(host);
    }

    /// From now on every datagram waits this long before it leaves `host` and after it arrived there.
    pub fn set_slowness(&mut self, host: HostIndex, slowness: Duration) {
        self.trace.fault(self.now, &format!("slow {host} {slowness:?}"));
        self.hosts[host].slowness = slowness;
        self.befall(host);
    }

    /// From now on whatever `host` sends or receives is lost with this probability.
    ///
    /// # Panics
    /// If `loss` is not within 0 to 1.
    pub fn set_loss_at(&mut self, host: HostIndex, loss: f64) {
        self.trace.fault(self.now, &format!("loss at {host} {loss}"));
        self.link.set_loss_at(host, loss);
        self.befall(host);
    }

    /// From now on the monotonic clock of `host` runs at this rate: 1.1 gains six seconds a minute.
    ///
    /// # Panics
    /// If the rate is not above zero.
    pub fn set_clock_rate(&mut self, host: HostIndex, rate: f64) {
        assert!(rate > 0.0, "a clock rate of {rate} is not above zero");
        self.trace.fault(self.now, &format!("clock rate {host} {rate}"));
        let now = self.now;
        let host_state = &mut self.hosts[host];
        host_state.clock = LocalClock { rate, at: now, shown: host_state.clock.local(now) };
        host_state.wake.at = None;
        self.arm(host);
    }

    /// Sets the wall clock of `host` this many seconds forward or back. A running node never reads it; its next start
    /// makes an epoch of it.
    pub fn step_clock(&mut self, host: HostIndex, by_secs: i64) {
        self.trace.fault(self.now, &format!("clock step {host} {by_secs}"));
        self.hosts[host].wall_offset_secs += by_secs;
    }

    /// From now on nothing new is kept on the disk of `host`, or is again.
    pub fn set_disk_full(&mut self, host: HostIndex, is_full: bool) {
        self.trace.fault(self.now, &format!("disk full {host} {is_full}"));
        self.hosts[host].is_disk_full = is_full;
    }

    /// Moves a stopped host to the address of another stopped host, as a scheduler that reuses addresses does. The
    /// other then has no address, and can not be started again.
    ///
    /// # Panics
    /// If either runs.
    pub fn take_address(&mut self, host: HostIndex, of: HostIndex) {
        self.trace.fault(self.now, &format!("host {host} takes the address of {of}"));
        assert!(self.hosts[host].node.is_none() && self.hosts[of].node.is_none(), "both hosts must be stopped");
        self.addresses.insert(self.hosts[of].addr, host);
        self.hosts[host].addr = self.hosts[of].addr;
    }

    /// From now on starts of `host` join through these addresses.
    pub fn set_seeds(&mut self, host: HostIndex, seeds: &[HostIndex]) {
        let seeds: Vec<SocketAddr> = seeds.iter().map(|&seed| self.hosts[seed].addr).collect();
        self.hosts[host].seeds.clone_from(&seeds);
        if self.hosts[host].node.as_ref().is_some_and(|node| node.as_tidings().is_some()) && self.is_free(host) {
            self.tell_or_fail(host, Input::Seeds(seeds));
        }
    }

    /// Separates groups of hosts from each other; hosts in no group form one more. Replaces an earlier split.
    pub fn split(&mut self, groups: &[Vec<HostIndex>]) {
        self.trace.fault(self.now, &format!("split {groups:?}"));
        self.link.split(groups);
    }

    /// Cuts one direction between two hosts.
    pub fn cut(&mut self, from: HostIndex, to: HostIndex) {
        self.trace.fault(self.now, &format!("cut {from} {to}"));
        self.link.cut(from, to);
    }

    /// Ends the cut of one direction.
    pub fn mend(&mut self, from: HostIndex, to: HostIndex) {
        self.trace.fault(self.now, &format!("mend {from} {to}"));
        if self.is_lost_to_most(to) {
            self.hosts[to].mended_at = Some(self.now);
        }
        self.link.mend(from, to);
    }

    /// Ends the split; cuts stay.
    pub fn unite(&mut self) {
        self.trace.fault(self.now, "unite");
        self.link.unite();
    }

    /// Gives some directed pairs a class of links of their own.
    ///
    /// # Errors
    /// What of the configuration makes no sense.
    pub fn set_pairs(
        &mut self,
        link: LinkConfig,
        pairs: impl IntoIterator<Item = (HostIndex, HostIndex)>,
    ) -> Result<(), String> {
        self.link.set_pairs(link, pairs)
    }

    /// Ends every fault that lasts: splits, cuts, isolation, losses, freezes, blocks, slowness, wrong clock rates, full
    /// disks. Who crashed stays down.
    pub fn end_faults(&mut self) {
        self.trace.fault(self.now, "all faults end");
        self.link.heal();
        self.link.calm();
        for host in 0..self.hosts.len() {
            self.hosts[host].is_disk_full = false;
            self.hosts[host].slowness = Duration::ZERO;
            if !self.hosts[host].clock.is_true() {
                self.set_clock_rate(host, 1.0);
            }
            self.release(host);
        }
    }

    /// Ends the split and every cut. Loss stays.
    pub fn heal(&mut self) {
        self.trace.fault(self.now, "heal");
        self.link.heal();
    }

    /// From now on datagrams are lost with this probability.
    ///
    /// # Panics
    /// If `loss` is not within 0 to 1.
    pub fn set_loss(&mut self, loss: f64) {
        self.trace.fault(self.now, &format!("loss {loss}"));
        self.link.set_loss(loss);
    }

    fn must_be_free(&self, host: HostIndex) {
        assert!(self.hosts[host].node.is_some(), "host {host} does not run");
        assert!(matches!(self.hosts[host].hold, Hold::Free), "host {host} is held already");
    }

    /// Keeps what cannot happen now to a process that is held, and gives back the rest.
    pub(super) fn hold_back(&mut self, happening: Happening) -> Option<Happening> {
        let (whom, is_timer) = match &happening {
            Happening::Wake { host, .. } | Happening::Exit { host, .. } => (Some(*host), true),
            Happening::Datagram { to, .. } => (Some(*to), false),
            Happening::Question { stream } => (self.streams.asked(*stream), false),
            Happening::Answer { stream, .. } => (self.streams.asker(*stream), false),
            Happening::StreamDeadline { stream } => (self.streams.asker(*stream), true),
            Happening::Turn(_) => (None, false),
        };
        let Some(host) = whom else { return Some(happening) };
        let held = match &mut self.hosts[host].hold {
            Hold::Free => return Some(happening),
            Hold::Blocked { .. } if is_timer => return Some(happening),
            Hold::Frozen(held) | Hold::Blocked { received: held, .. } => held,
        };
        match &happening {
            // The process is woken for all that became due at once when it goes on.
            Happening::Wake { .. } => self.fates.wakes_missed += 1,
            Happening::Datagram { .. } if held.len() >= HELD_MAX => self.fates.held_dropped += 1,
            _ => {
                self.fates.held += 1;
                held.push(happening);
            }
        }
        None
    }
}
