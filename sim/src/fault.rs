//! What can go wrong: one variant per kind of fault, how it is done to a world, and how it shows that it had an effect.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{Share, Span};
use crate::world::{Fates, HostIndex, World};

/// How long a drain waits for confirmations.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// Why a fault could not be done, or did nothing: an error of the scenario.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FaultError {
    /// No process runs where one must.
    #[error("{what} needs a process that runs and is not held, host {host} has none")]
    NotRunning {
        /// The fault.
        what: &'static str,
        /// The host.
        host: HostIndex,
    },
    /// A process runs where none must.
    #[error("{what} needs a stopped host, host {host} runs")]
    Running {
        /// The fault.
        what: &'static str,
        /// The host.
        host: HostIndex,
    },
    /// It hits nobody.
    #[error("{what} hits nobody")]
    Nobody {
        /// The fault.
        what: &'static str,
    },
    /// It was done, and nothing came of it.
    #[error("{what} had no effect: {shows} stayed 0")]
    NoEffect {
        /// The fault.
        what: &'static str,
        /// What would have shown it.
        shows: &'static str,
    },
    /// The node refused.
    #[error("host {host} refused: {why}")]
    Refused {
        /// The host.
        host: HostIndex,
        /// What it said.
        why: String,
    },
}

/// With what a stopped host starts again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartWith {
    /// Its data directory: the same id, the next epoch, remembered members.
    #[default]
    Data,
    /// Nothing: another id at the same address.
    Nothing,
    /// Its id, as its configuration says, but no data directory: the wall clock makes the epoch.
    Id,
}

/// A fault, with its hosts drawn.
#[derive(Clone, PartialEq, Debug)]
pub enum Fault {
    /// Processes end without a word.
    Crash(Vec<HostIndex>),
    /// Stopped hosts start again.
    Restart(Vec<HostIndex>, RestartWith),
    /// Processes say goodbye and end.
    Leave(Vec<HostIndex>),
    /// Processes tell everybody that they take no new work, and leave once that is confirmed.
    Drain(Vec<HostIndex>),
    /// Groups are parted; hosts in no group form one more.
    Split(Vec<Vec<HostIndex>>),
    /// Nothing gets from the first to the second.
    Cut(Vec<HostIndex>, Vec<HostIndex>),
    /// Every link loses this share.
    Loss(Share),
    /// Whatever these hosts send or receive is lost with this probability.
    LossAt(Vec<HostIndex>, Share),
    /// Processes stand still.
    Freeze(Vec<HostIndex>),
    /// Processes' packets wait, both ways, while timers run.
    Block(Vec<HostIndex>),
    /// Hosts are cut off while timers run.
    Isolate(Vec<HostIndex>),
    /// Every packet of these hosts takes this much longer, each way.
    Slow(Vec<HostIndex>, Span),
    /// Monotonic clocks run at this rate.
    ClockRate(Vec<HostIndex>, f64),
    /// Wall clocks are set forward or back by seconds.
    ClockStep(Vec<HostIndex>, i64),
    /// Nothing is kept.
    DiskFull(Vec<HostIndex>),
}

impl Fault {
    /// What it is called in scenarios and messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Crash(_) => "crash",
            Self::Restart(..) => "restart",
            Self::Leave(_) => "leave",
            Self::Drain(_) => "drain",
            Self::Split(_) => "split",
            Self::Cut(..) => "cut",
            Self::Loss(_) => "loss",
            Self::LossAt(..) => "loss_at",
            Self::Freeze(_) => "freeze",
            Self::Block(_) => "block",
            Self::Isolate(_) => "isolate",
            Self::Slow(..) => "slow",
            Self::ClockRate(..) => "clock_rate",
            Self::ClockStep(..) => "clock_step",
            Self::DiskFull(_) => "disk_full",
        }
    }

    /// The count that shows its effect, by name; `None` for faults that happen or fail at once.
    fn shows(&self, fates: &Fates) -> Option<(&'static str, u64)> {
        Some(match self {
            Self::Crash(_) | Self::Restart(..) | Self::Leave(_) | Self::Drain(_) => return None,
            Self::Split(_) | Self::Cut(..) | Self::Isolate(_) => ("datagrams stopped", fates.cut),
            Self::Loss(_) | Self::LossAt(..) => ("datagrams lost", fates.lost),
            Self::Freeze(_) => ("packets and wakes held", fates.held + fates.wakes_missed),
            Self::Block(_) => ("packets held", fates.held),
            Self::Slow(..) => ("packets slowed", fates.slowed),
            Self::ClockRate(..) => ("inputs by a wrong clock", fates.skewed_inputs),
            Self::ClockStep(..) => ("starts by a wrong clock", fates.stepped_starts),
            Self::DiskFull(_) => ("starts with an old state", fates.stale_starts),
        })
    }

    /// Does it to `world`.
    ///
    /// # Errors
    /// Why it cannot be done; part of it may have been.
    pub fn begin(&self, world: &mut World) -> Result<Lasting, FaultError> {
        let before = self.shows(&world.fates()).map_or(0, |(_, count)| count);
        let what = self.name();
        let hosts = self.hosts();
        if hosts.is_some_and(<[HostIndex]>::is_empty) {
            return Err(FaultError::Nobody { what });
        }
        for &host in hosts.unwrap_or_default() {
            self.do_to(host, world)?;
        }
        match self {
            Self::Split(groups) if groups.iter().all(Vec::is_empty) => return Err(FaultError::Nobody { what }),
            Self::Split(groups) => world.split(groups),
            Self::Cut(from, to) if from.is_empty() || to.is_empty() => return Err(FaultError::Nobody { what }),
            Self::Cut(from, to) => pairs(from, to).for_each(|(from, to)| world.cut(from, to)),
            Self::Loss(share) => world.set_loss(share.0),
            _ => {}
        }
        Ok(Lasting { fault: self.clone(), before })
    }

    /// The hosts that it befalls one by one.
    fn hosts(&self) -> Option<&[HostIndex]> {
        match self {
            Self::Crash(hosts)
            | Self::Restart(hosts, _)
            | Self::Leave(hosts)
            | Self::Drain(hosts)
            | Self::LossAt(hosts, _)
            | Self::Freeze(hosts)
            | Self::Block(hosts)
            | Self::Isolate(hosts)
            | Self::Slow(hosts, _)
            | Self::ClockRate(hosts, _)
            | Self::ClockStep(hosts, _)
            | Self::DiskFull(hosts) => Some(hosts),
            Self::Split(_) | Self::Cut(..) | Self::Loss(_) => None,
        }
    }

    fn do_to(&self, host: HostIndex, world: &mut World) -> Result<(), FaultError> {
        let what = self.name();
        let needs_process =
            matches!(self, Self::Crash(_) | Self::Leave(_) | Self::Drain(_) | Self::Freeze(_) | Self::Block(_));
        if needs_process && !(world.is_free(host) || matches!(self, Self::Crash(_)) && world.node(host).is_some()) {
            return Err(FaultError::NotRunning { what, host });
        }
        if matches!(self, Self::Restart(..)) && world.node(host).is_some() {
            return Err(FaultError::Running { what, host });
        }
        match self {
            Self::Crash(_) => world.crash(host),
            Self::Restart(_, RestartWith::Data) => world.restart(host),
            Self::Restart(_, RestartWith::Nothing) => world.replace(host),
            Self::Restart(_, RestartWith::Id) => world.restart_without_data(host),
            Self::Leave(_) => {
                world.leave(host).map_err(|error| FaultError::Refused { host, why: error.to_string() })?;
            }
            Self::Drain(_) => {
                let drained = world.drain(host, DRAIN_WITHIN);
                drained.map_err(|error| FaultError::Refused { host, why: error.to_string() })?;
            }
            Self::LossAt(_, share) => world.set_loss_at(host, share.0),
            Self::Freeze(_) => world.freeze(host),
            Self::Block(_) => world.block(host),
            Self::Isolate(_) => world.set_isolated(host, true),
            Self::Slow(_, by) => world.set_slowness(host, by.0),
            Self::ClockRate(_, rate) => world.set_clock_rate(host, *rate),
            Self::ClockStep(_, by_secs) => world.step_clock(host, *by_secs),
            Self::DiskFull(_) => world.set_disk_full(host, true),
            Self::Split(_) | Self::Cut(..) | Self::Loss(_) => {}
        }
        Ok(())
    }
}

/// A fault that was done to a world, and lasts if it is of a kind that does.
#[derive(Clone, Debug)]
pub struct Lasting {
    fault: Fault,
    before: u64,
}

impl Lasting {
    /// Ends it. What it did stays done: who crashed stays down.
    pub fn end(&self, world: &mut World) {
        match &self.fault {
            Fault::Split(_) => world.unite(),
            Fault::Cut(from, to) => pairs(from, to).for_each(|(from, to)| world.mend(from, to)),
            Fault::Loss(_) => world.set_loss(0.0),
            Fault::LossAt(hosts, _) => hosts.iter().for_each(|&host| world.set_loss_at(host, 0.0)),
            Fault::Freeze(hosts) | Fault::Block(hosts) => hosts.iter().for_each(|&host| world.release(host)),
            Fault::Isolate(hosts) => hosts.iter().for_each(|&host| world.set_isolated(host, false)),
            Fault::Slow(hosts, _) => hosts.iter().for_each(|&host| world.set_slowness(host, Duration::ZERO)),
            Fault::ClockRate(hosts, _) => hosts.iter().for_each(|&host| world.set_clock_rate(host, 1.0)),
            Fault::DiskFull(hosts) => hosts.iter().for_each(|&host| world.set_disk_full(host, false)),
            Fault::Crash(_) | Fault::Restart(..) | Fault::Leave(_) | Fault::Drain(_) | Fault::ClockStep(..) => {}
        }
    }

    /// Whether anything came of it: a fault that nobody noticed tries nothing.
    ///
    /// # Errors
    /// What would have shown it.
    pub fn had_effect(&self, world: &World) -> Result<(), FaultError> {
        match self.fault.shows(&world.fates()) {
            Some((shows, count)) if count <= self.before => {
                Err(FaultError::NoEffect { what: self.fault.name(), shows })
            }
            _ => Ok(()),
        }
    }
}

/// The directed pairs that a cut is of.
pub(crate) fn pairs<'a>(
    from: &'a [HostIndex],
    to: &'a [HostIndex],
) -> impl Iterator<Item = (HostIndex, HostIndex)> + 'a {
    from.iter().flat_map(move |&one| to.iter().map(move |&other| (one, other))).filter(|(one, other)| one != other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::WorldConfig;

    fn world(nodes: usize) -> World {
        let mut world = World::new(WorldConfig::new(1));
        let first = world.add_node(&[]);
        (1..nodes).for_each(|_| {
            world.add_node(&[first]);
        });
        world.run_for(Duration::from_secs(5));
        world
    }

    #[test]
    fn every_fault_that_lasts_shows_and_ends() {
        let faults = [
            Fault::Split(vec![vec![0, 1]]),
            Fault::Cut(vec![0], vec![1, 2, 3, 4]),
            Fault::Loss(Share(0.5)),
            Fault::LossAt(vec![1], Share(0.9)),
            Fault::Freeze(vec![2]),
            Fault::Block(vec![2]),
            Fault::Isolate(vec![3]),
            Fault::Slow(vec![1, 2], Span::from_millis(50)),
            Fault::ClockRate(vec![1], 1.5),
        ];
        for fault in faults {
            let mut world = world(5);
            let lasting = fault.begin(&mut world).expect("all five run");
            assert!(lasting.had_effect(&world).is_err(), "{}: no time has passed", fault.name());
            world.run_for(Duration::from_secs(4));
            lasting.end(&mut world);
            assert_eq!(lasting.had_effect(&world), Ok(()), "{}", fault.name());
            let settled = world.run_until_settled(Duration::from_secs(60));
            assert!(settled.is_some(), "{}: {:?}", fault.name(), crate::check::settled(&world));
        }
    }

    #[test]
    fn wrong_wall_clocks_and_full_disks_show_at_the_next_start() {
        for fault in [Fault::ClockStep(vec![2], -3_600), Fault::DiskFull(vec![2])] {
            let mut world = world(4);
            let lasting = fault.begin(&mut world).expect("it runs");
            assert!(lasting.had_effect(&world).is_err());
            Fault::Crash(vec![2]).begin(&mut world).expect("it runs");
            world.run_for(Duration::from_secs(2));
            Fault::Restart(vec![2], RestartWith::Data).begin(&mut world).expect("it is stopped");
            assert_eq!(lasting.had_effect(&world), Ok(()), "{}", fault.name());
            assert!(world.run_until_settled(Duration::from_secs(30)).is_some(), "{}", fault.name());
        }
    }

    #[test]
    fn a_frozen_process_says_nothing_and_then_catches_up() {
        let mut world = world(4);
        let frozen = Fault::Freeze(vec![3]).begin(&mut world).expect("it runs");
        let sent = world.traffic_of(3);
        world.run_for(Duration::from_secs(3));
        assert_eq!(world.traffic_of(3).datagrams, sent.datagrams);
        frozen.end(&mut world);
        world.run_for(Duration::from_secs(3));
        assert!(world.traffic_of(3).datagrams > sent.datagrams);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let mut world = world(3);
        let error = Fault::Restart(vec![1], RestartWith::Data).begin(&mut world).expect_err("it runs");
        assert!(error.to_string().contains("host 1 runs"), "{error}");
        Fault::Crash(vec![1]).begin(&mut world).expect("it runs");
        assert_eq!(
            Fault::Crash(vec![1]).begin(&mut world).expect_err("it is stopped"),
            FaultError::NotRunning { what: "crash", host: 1 }
        );
        assert!(Fault::Leave(Vec::new()).begin(&mut world).is_err());
    }
}
