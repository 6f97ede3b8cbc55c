//! The life of the process on a host: its start, its wakes, its end.

use std::time::Duration;

use rand::RngExt;
use tidings::effect::Input;
use tidings::node::{Config, Node};
use tidings::peer::{Epoch, Generation, Peer};
use tidings::time::Time;
use tidings::view::View;

use super::host::Hold;
use super::{Happening, HostIndex, Mode, World};
use crate::foca_node::FocaNode;
use crate::process::Process;
use crate::shadow::Shadow;

/// Wakes of one host at one moment, above which the node would hold up time for ever.
const WAKES_PER_MOMENT_MAX: u32 = 1_000;

/// Wall time when the world begins, in seconds: what epochs are made of.
const WALL_BEGIN_SECS: i64 = 1_000_000;

impl World {
    pub(super) fn start(&mut self, index: HostIndex) {
        let (nonce, seed) = (self.rng.random(), self.rng.random());
        assert!(self.hosts[index].node.is_none(), "host {index} runs already");
        assert!(self.host_at(self.hosts[index].addr) == Some(index), "host {index} has lost its address to another");
        self.prepare(index);
        let host = &self.hosts[index];
        let now = host.clock.local(self.now);
        let (id, addr, epoch, name) = (host.id, host.addr, host.epoch, host.name.clone());
        let process = match &self.config.mode {
            Mode::Tidings(tuning) => {
                let config = Config {
                    cluster: self.config.cluster.clone(),
                    name,
                    zone: host.zone.clone(),
                    addr,
                    id,
                    epoch,
                    nonce,
                    seed,
                    must_join: !host.seeds.is_empty(),
                    seeds: host.seeds.clone(),
                    remembered: host.remembered.clone(),
                    tuning: tuning.clone(),
                };
                Process::Tidings(Box::new(Node::new(config, now)))
            }
            Mode::Foca(settings, members) => {
                let me = Peer { id, addr, generation: Generation::first(epoch), nonce };
                let seeds = host.seeds.iter().filter_map(|seed| self.node(self.host_at(*seed)?)).map(Process::peer);
                let seeds = seeds.collect();
                Process::Foca(Box::new(FocaNode::new(me, name, settings, *members, seeds, seed, now)))
            }
        };
        self.hosts[index].node = Some(process);
        self.watch.started(self.now, index, id, epoch);
        self.tell_or_fail(index, Input::Wake);
    }

    pub(super) fn stop(&mut self, index: HostIndex) {
        let host = &mut self.hosts[index];
        if let Some(node) = host.node.take() {
            if !host.is_disk_full {
                host.remembered =
                    node.present_members().iter().map(|peer| peer.addr).filter(|addr| *addr != host.addr).collect();
            }
            self.watch.stopped(self.now, index, host.is_leaving);
        }
        host.registered.clear();
        host.hold = Hold::Free;
        host.wake.at = None;
        host.wake.number += 1;
    }

    pub(super) fn wake(&mut self, index: HostIndex, number: u64) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.wake.number != number {
            return;
        }
        host.wake.at = None;
        // The node may have moved its wake to later since this one was armed.
        let next = host.wake.wanted.map(|at| host.clock.world(at));
        if next.is_none_or(|at| at > now) {
            self.arm(index);
            return;
        }
        if host.wake.moment < now {
            host.wake.moment = now;
            host.wake.count = 0;
        }
        host.wake.count += 1;
        if host.wake.count > WAKES_PER_MOMENT_MAX {
            self.fail(index, format!("asks to be woken at once for more than {WAKES_PER_MOMENT_MAX} times"));
        }
        self.tell_or_fail(index, Input::Wake);
    }

    /// Plans the wake that the node wants, unless an earlier one is planned, which then plans it anew.
    pub(super) fn arm(&mut self, index: HostIndex) {
        let host = &mut self.hosts[index];
        host.wake.wanted = host.node.as_ref().and_then(Process::next_wake);
        if matches!(host.hold, Hold::Frozen(_)) {
            return;
        }
        let Some(at) = host.wake.wanted else { return };
        let at = host.clock.world(at).max(self.now);
        if host.wake.at.is_some_and(|armed| armed <= at) {
            return;
        }
        host.wake.at = Some(at);
        host.wake.number += 1;
        let number = host.wake.number;
        let late = self.processors.as_ref().map_or(Duration::ZERO, |processors| processors.lateness(&mut self.rng));
        self.queue.push(at + late, Happening::Wake { host: index, number });
    }

    /// Makes a host ready for its next process, which gets the epoch that its data directory and its wall clock give.
    fn prepare(&mut self, index: HostIndex) {
        let since_begin = i64::try_from(self.now.since(Time::ZERO).as_secs()).unwrap_or(i64::MAX);
        let host = &mut self.hosts[index];
        let wall = WALL_BEGIN_SECS + since_begin + host.wall_offset_secs;
        let lawful = Epoch::try_from(wall).unwrap_or(0).max(host.kept_epoch + 1);
        host.epoch = host.forced_epoch.take().unwrap_or(lawful);
        if host.is_disk_full {
            self.fates.stale_starts += 1;
        } else {
            host.kept_epoch = host.epoch;
        }
        self.fates.stepped_starts += u64::from(host.wall_offset_secs != 0);
        host.start += 1;
        host.is_leaving = false;
        host.drains_since = None;
        host.ready_at = None;
        host.fatal = None;
        host.unheard_at = None;
        host.hold = Hold::Free;
        host.highest.clear();
        host.withdrawn.clear();
        let is_followed = matches!(self.config.mode, Mode::Tidings(_)) && Shadow::belongs_to(index);
        host.shadow = is_followed.then(Shadow::default);
        host.view = (index < self.config.views).then(View::new);
        host.fingerprints = (0, 0, 0);
    }
}
