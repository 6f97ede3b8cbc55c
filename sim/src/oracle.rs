//! What theory and others' measurements say must come out: the simulator is believed as far as it reproduces them.
//!
//! All on foca 2.0.0 alone, in this world. Sources: Das, Gupta and Motivala, "SWIM" (DSN 2002); Dadgar, Phillips and
//! Currey, "Lifeguard" (2018).

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use tidings::time::Time;

use crate::foca_node::{FocaNode, FocaSettings, Probes};
use crate::link::{Delay, LinkConfig, Network};
use crate::sweep::mean;
use crate::units::{Share, Span};
use crate::world::{HostIndex, Mode, World, WorldConfig};

/// Seeds of oracle worlds begin here; each trial has its own.
const SEED: u64 = 1_000;

/// Standard deviations that a share may lie off, where twelve are asked at once: 95 % for all of them together.
const Z_OF_TWELVE: f64 = 2.87;

/// One comparison.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// What is compared.
    pub what: String,
    /// What must come out.
    pub expected: f64,
    /// What came out.
    pub measured: f64,
    /// How far it may lie off.
    pub tolerance: f64,
    /// Where the tolerance comes from.
    pub by: &'static str,
}

impl Comparison {
    /// Whether it came out.
    pub fn holds(&self) -> bool {
        (self.measured - self.expected).abs() <= self.tolerance
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds() { "ok  " } else { "MISS" };
        write!(
            f,
            "{verdict} {:<62} expected {:>11.6}  measured {:>11.6}  off by at most {:.6} ({})",
            self.what, self.expected, self.measured, self.tolerance, self.by
        )
    }
}

/// A quick network: an answer always comes within the timeouts, unless it is lost.
fn network(loss: f64) -> Network {
    Network::flat(LinkConfig {
        delay: Delay::Uniform(Span(Duration::from_micros(200)), Span::from_millis(1)),
        loss: Share(loss),
        duplication: Share(0.0),
        ..LinkConfig::default()
    })
}

fn world(seed: u64, nodes: usize, loss: f64, settings: FocaSettings, within: Duration) -> World {
    let config = WorldConfig { network: network(loss), mode: Mode::Foca(settings, nodes), ..WorldConfig::new(seed) };
    let mut world = World::new(config);
    world.add_preloaded(nodes, within);
    world
}

/// Settings without periodic gossip: whatever is sent to a member that is gone is a probe.
fn probes_only() -> FocaSettings {
    FocaSettings { periodic: false, ..FocaSettings::default() }
}

/// One crash: the seconds until the first probe, and from there until the first member told its program.
fn crash(seed: u64, nodes: usize, is_in_step: bool) -> (f64, f64) {
    let within = if is_in_step { Duration::ZERO } else { Duration::from_secs(1) };
    let mut world = world(seed, nodes, 0.0, probes_only(), within);
    // In lock-step every member probes at whole seconds: right after one, the next period is still to come.
    let wait = if is_in_step {
        Duration::from_millis(10_010)
    } else {
        world.rng().random_range(Duration::from_secs(10)..Duration::from_secs(11))
    };
    world.run_until(Time::ZERO + wait);
    let host = world.rng().random_range(0..nodes);
    let crashed = world.now();
    world.crash(host);
    world.run_until_cond(Duration::from_secs(60), |world| world.unheard_at(host).is_some());
    let probed = world.unheard_at(host).expect("somebody probes a member within a minute");
    world.run_until_cond(Duration::from_secs(60), |world| world.watch().losses()[0].first.is_some());
    let told = world.watch().losses()[0].first.expect("somebody notices a crash within a minute");
    (probed.since(crashed).as_secs_f64(), told.since(probed).as_secs_f64())
}

/// SWIM section 3.1: expected time to first detection e/(e - 1) periods where all probe in step; about one period
/// where their phases are random, for then probes come as a Poisson process. foca judges a probe one period later,
/// and suspects for a fixed time.
pub fn first_detection(trials: u64) -> Vec<Comparison> {
    const NODES: usize = 100;
    let run = |is_in_step: bool| -> Vec<(f64, f64)> {
        (0..trials).into_par_iter().map(|trial| crash(SEED + trial, NODES, is_in_step)).collect()
    };
    let (in_step, random) = (run(true), run(false));
    // The period in which the first probe falls, counted from 1: the crash is at the beginning of the first.
    let periods: Vec<f64> = in_step.iter().map(|(probed, _)| probed.ceil()).collect();
    let waits: Vec<f64> = random.iter().map(|(probed, _)| *probed).collect();
    let late: Vec<f64> = in_step.iter().chain(&random).map(|(_, told)| *told).collect();
    let (periods, waits) = (mean(&periods), mean(&waits));
    let n = NODES as f64;
    let e = std::f64::consts::E;
    // Members go through a shuffled list of the 99 others, so that one not yet probed becomes likelier: 1.571 instead
    // of the 1.582 of infinitely many that draw anew each time.
    let finite: f64 = (0..NODES).map(|period| (1.0 - period as f64 / (n - 1.0)).max(0.0).powf(n - 1.0)).sum();
    let suspicion = probes_only().config(NODES).suspect_to_down_after.as_secs_f64();
    vec![
        Comparison {
            what: format!("first probe of a crashed member, periods, in step (e/(e-1) = {:.3})", e / (e - 1.0)),
            expected: finite,
            measured: periods.mean,
            tolerance: periods.ci95,
            by: "95 % interval",
        },
        Comparison {
            what: "first probe of a crashed member, periods, random phases".to_owned(),
            expected: 1.0,
            measured: waits.mean,
            tolerance: waits.ci95,
            by: "95 % interval",
        },
        Comparison {
            what: "from that probe to the first notice, s: a period and the suspicion".to_owned(),
            expected: 1.0 + suspicion,
            measured: mean(&late).mean,
            tolerance: 0.02,
            by: "delays of the links",
        },
    ]
}

/// SWIM section 3.1: a probe of a live member fails with (1 - q^2)(1 - q^4)^k, q the share of datagrams that arrive.
/// The paper's table holds this times 1.582, the probes of a member per period.
pub fn false_detection(probes: u64) -> Vec<Comparison> {
    const NODES: usize = 50;
    let cells: Vec<(f64, usize)> =
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.3].into_iter().flat_map(|loss| [(loss, 1), (loss, 3)]).collect();
    let measure = |(index, (loss, k)): (usize, (f64, usize))| {
        let settings = FocaSettings { indirect_probes: Some(k), suspicion: Some(1e5), ..probes_only() };
        let mut world = world(SEED + index as u64, NODES, loss, settings, Duration::from_secs(1));
        world.run_for(Duration::from_secs(probes / NODES as u64));
        let all: Vec<Probes> = world.running().filter_map(|(_, n)| n.as_foca()).map(FocaNode::probes).collect();
        let judged: u64 = all.iter().map(|probes| probes.judged).sum();
        let failed: u64 = all.iter().map(|probes| probes.failed).sum();
        let q = 1.0 - loss;
        let expected = (1.0 - q.powi(2)) * (1.0 - q.powi(4)).powi(k as i32);
        let deviation = (expected * (1.0 - expected) / judged as f64).sqrt();
        Comparison {
            what: format!("failed share of probes at {:.0} % loss, k = {k}", loss * 100.0),
            expected,
            measured: failed as f64 / judged as f64,
            // A share that is expected less than once is 0 or one event.
            tolerance: (Z_OF_TWELVE * deviation).max(1.0 / judged as f64),
            by: "95 % interval of twelve",
        }
    };
    cells.into_par_iter().enumerate().map(measure).collect()
}

/// SWIM section 5: about two messages a period and member, a ping and an acknowledgement; and what foca's own periodic
/// announcements add (one and its answer every 30 s).
pub fn message_load() -> Vec<Comparison> {
    const NODES: usize = 100;
    const SPAN: Duration = Duration::from_secs(120);
    let measure = |settings: FocaSettings| {
        let mut world = world(SEED, NODES, 0.0, settings, Duration::from_secs(1));
        world.run_for(Duration::from_secs(60));
        let before = world.traffic().datagrams;
        world.run_for(SPAN);
        (world.traffic().datagrams - before) as f64 / NODES as f64 / SPAN.as_secs_f64()
    };
    vec![
        Comparison {
            what: "messages a period and member, probes only".to_owned(),
            expected: 2.0,
            measured: measure(probes_only()),
            tolerance: 0.02,
            by: "ends of the span",
        },
        Comparison {
            what: "messages a second and member, foca's new_lan".to_owned(),
            expected: 2.0 + 2.0 / 30.0,
            measured: measure(FocaSettings::default()),
            tolerance: 0.05,
            by: "ends of the span",
        },
    ]
}

/// How many members are anomalous in Lifeguard's experiments.
pub const ANOMALOUS: [usize; 9] = [1, 4, 8, 12, 16, 20, 24, 28, 32];

/// How long an anomaly lasts in Lifeguard's Threshold experiment, in milliseconds.
pub const DURATIONS_MS: [u64; 6] = [128, 512, 2_048, 8_192, 16_384, 32_768];

/// What lies between two anomalies in Lifeguard's Interval experiment, in milliseconds.
pub const INTERVALS_MS: [u64; 8] = [1, 4, 16, 64, 256, 1_024, 4_096, 16_384];

/// Members in Lifeguard's experiments.
const LIFEGUARD_NODES: usize = 128;

/// Lifeguard's Threshold grid, its SWIM arm (alpha 5, beta 1): members stand still once, and those that stand still
/// for long enough are noticed. The median is over the first notices of all cells that came while the member stood
/// still; the paper has 12.44 s.
pub fn lifeguard_threshold(repetitions: u64) -> Vec<Comparison> {
    let cells: Vec<(usize, u64, u64)> = ANOMALOUS
        .into_iter()
        .flat_map(|c| DURATIONS_MS.into_iter().flat_map(move |d| (0..repetitions).map(move |rep| (c, d, rep))))
        .collect();
    let mut firsts: Vec<f64> =
        cells.into_par_iter().enumerate().flat_map_iter(|(index, (c, d, _))| threshold(index as u64, c, d)).collect();
    firsts.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| crate::run::quantile(&firsts, q);
    vec![
        Comparison {
            what: format!("Lifeguard's Threshold grid, median first detection, s ({} detections)", firsts.len()),
            expected: 12.4,
            measured: quantile(0.5),
            tolerance: 0.4,
            by: "as the paper's 12.44 s is to be met",
        },
        Comparison {
            what: "the same, 99th percentile, s".to_owned(),
            expected: 16.96,
            measured: quantile(0.99),
            tolerance: 1.7,
            by: "a tenth: memberlist has a direct TCP probe that foca has not",
        },
    ]
}

/// One cell: the seconds from the anomaly to the first notice of each anomalous member that was noticed.
fn threshold(index: u64, anomalous: usize, duration_ms: u64) -> Vec<f64> {
    let settings = FocaSettings { suspicion: Some(5.0), ..FocaSettings::default() };
    let mut world = world(SEED + index, LIFEGUARD_NODES, 0.0, settings, Duration::from_secs(1));
    world.run_until(Time::ZERO + Duration::from_secs(15));
    let mut hosts: Vec<HostIndex> = (0..LIFEGUARD_NODES).collect();
    hosts.shuffle(world.rng());
    hosts.truncate(anomalous);
    let begin = world.now();
    hosts.iter().for_each(|&host| world.freeze(host));
    world.run_for(Duration::from_millis(duration_ms));
    // What is told later is about a member that answers again: a mistake, not a detection.
    let end = world.now();
    let notices = world.watch().notices();
    let first = |host: &HostIndex| {
        notices.iter().find(|notice| notice.subject == *host && notice.at < end).map(|notice| notice.at)
    };
    hosts.iter().filter_map(first).map(|at| at.since(begin).as_secs_f64()).collect()
}

/// What befalls an anomalous member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anomaly {
    /// It stands still.
    Freeze,
    /// Its packets wait while its timers run, as in the paper.
    Block,
    /// It is cut off while its timers run.
    Isolate,
}

impl Anomaly {
    fn begin(self, world: &mut World, host: HostIndex) {
        match self {
            // Whoever stopped by itself is not there any more.
            Self::Freeze | Self::Block if !world.is_free(host) => {}
            Self::Freeze => world.freeze(host),
            Self::Block => world.block(host),
            Self::Isolate => world.set_isolated(host, true),
        }
    }

    fn end(self, world: &mut World, host: HostIndex) {
        match self {
            Self::Freeze | Self::Block => world.release(host),
            Self::Isolate => world.set_isolated(host, false),
        }
    }
}

/// Sums over the runs of Lifeguard's Interval grid.
#[derive(Clone, Copy, Default, Debug)]
pub struct Interval {
    /// Runs.
    pub runs: u64,
    /// Times a member that was well was called dead: the paper's FP.
    pub wrong: u64,
    /// Of these, by members that were well: the paper's FP-.
    pub wrong_at_healthy: u64,
    /// Datagrams of all members.
    pub datagrams: u64,
    /// Seconds simulated.
    pub simulated_s: f64,
}

impl Interval {
    fn plus(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            wrong: self.wrong + other.wrong,
            wrong_at_healthy: self.wrong_at_healthy + other.wrong_at_healthy,
            datagrams: self.datagrams + other.datagrams,
            simulated_s: self.simulated_s + other.simulated_s,
        }
    }
}

/// Lifeguard's Interval grid (432 cells): some of 128 members are anomalous in lock-step, again and again for two
/// minutes. Counts who was called dead without being so.
pub fn lifeguard_interval(mode: &Mode, anomaly: Anomaly, repetitions: u64) -> Interval {
    let mut cells = Vec::new();
    for anomalous in ANOMALOUS {
        for duration in DURATIONS_MS {
            cells.extend(INTERVALS_MS.into_iter().map(|interval| (anomalous, duration, interval)));
        }
    }
    let jobs: Vec<(u64, (usize, u64, u64))> = (0..repetitions)
        .flat_map(|repetition| {
            cells.iter().enumerate().map(move |(index, cell)| (repetition << 32 | index as u64, *cell))
        })
        .collect();
    let run = |(seed, (anomalous, duration, interval))| {
        interval_cell(mode.clone(), anomaly, SEED.wrapping_add(seed), anomalous, duration, interval)
    };
    jobs.into_par_iter().map(run).reduce(Interval::default, Interval::plus)
}

fn interval_cell(mode: Mode, anomaly: Anomaly, seed: u64, anomalous: usize, duration: u64, interval: u64) -> Interval {
    const SPAN: Duration = Duration::from_secs(120);
    let is_foca = matches!(mode, Mode::Foca(..));
    let mut world = World::new(WorldConfig { network: network(0.0), mode, ..WorldConfig::new(seed) });
    if is_foca {
        world.add_preloaded(LIFEGUARD_NODES, Duration::from_secs(1));
    } else {
        world.add_node(&[]);
        for _ in 1..LIFEGUARD_NODES {
            world.add_node(&[0]);
        }
    }
    world.run_until(Time::ZERO + Duration::from_secs(15));
    let sent = world.traffic().datagrams;
    let mut hosts: Vec<HostIndex> = (0..LIFEGUARD_NODES).collect();
    hosts.shuffle(world.rng());
    hosts.truncate(anomalous);
    let end = world.now() + SPAN;
    while world.now() < end {
        hosts.iter().for_each(|&host| anomaly.begin(&mut world, host));
        world.run_for(Duration::from_millis(duration));
        hosts.iter().for_each(|&host| anomaly.end(&mut world, host));
        world.run_for(Duration::from_millis(interval));
    }
    let downs = world.watch().downs();
    Interval {
        runs: 1,
        wrong: downs.wrong,
        wrong_at_healthy: downs.wrong_at_healthy,
        datagrams: world.traffic().datagrams - sent,
        simulated_s: world.now().since(Time::ZERO).as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn hold(comparisons: &[Comparison]) {
        let missed: Vec<String> = comparisons.iter().filter(|c| !c.holds()).map(ToString::to_string).collect();
        assert!(missed.is_empty(), "{}", missed.join("\n"));
    }

    #[test]
    fn a_crash_is_probed_when_theory_says() {
        hold(&first_detection(200));
    }

    #[test]
    fn a_live_member_fails_as_many_probes_as_theory_says() {
        hold(&false_detection(100_000));
    }

    #[test]
    fn a_member_sends_two_messages_a_period() {
        hold(&message_load());
    }

    #[test]
    fn a_member_that_stands_still_is_noticed_when_lifeguard_says() {
        hold(&lifeguard_threshold(1));
    }
}
