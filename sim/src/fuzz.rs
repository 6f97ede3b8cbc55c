//! Random scenarios: drawn from a seed, run, and shrunk when they fail. Unknown unknowns live here.

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use toml::Spanned;

use crate::fault::RestartWith;
use crate::foca_node::FocaSettings;
use crate::hosts::Hosts;
use crate::link::{LinkConfig, Preset};
use crate::run::{Options, Outcome, run};
use crate::scenario::{
    Churn, ClockRate, ClockStep, LossAt, ModeName, Register, Scenario, Settle, Slow, Step, Topology, TuningSpec, Ways,
    Workload,
};
use crate::units::{Share, Size, Span};

/// Members of a random cluster.
const NODES_MIN: usize = 5;
const NODES_MAX: usize = 60;

/// Faults of one run.
const STEPS_MAX: usize = 8;

/// Runs that the shrinking of one failure may take.
const SHRINK_RUNS_MAX: usize = 60;

/// How long a whole cluster may take to agree once everything is well again.
const SETTLE_WITHIN: Span = Span::from_secs(60);

/// A kind of fault that a random scenario may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Processes crash, and start again with or without their data directories.
    Crash,
    /// Processes crash for good.
    Death,
    /// Processes leave.
    Leave,
    /// New hosts start.
    Join,
    /// Groups are parted.
    Split,
    /// One direction is cut.
    Cut,
    /// Every link loses.
    Loss,
    /// Some hosts lose.
    LossAt,
    /// Processes stand still.
    Freeze,
    /// Processes' packets wait.
    Block,
    /// Hosts are cut off while timers run.
    Isolate,
    /// Hosts are slow.
    Slow,
    /// Clocks run at a wrong rate, and are set wrongly.
    Clock,
    /// Disks are full.
    Disk,
    /// Processes crash at a rate.
    Churn,
    /// Programs register and withdraw many instances.
    Records,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::Crash,
        Self::Death,
        Self::Leave,
        Self::Join,
        Self::Split,
        Self::Cut,
        Self::Loss,
        Self::LossAt,
        Self::Freeze,
        Self::Block,
        Self::Isolate,
        Self::Slow,
        Self::Clock,
        Self::Disk,
        Self::Churn,
        Self::Records,
    ];

    /// The kind's name on the command line.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The scenario of a seed, without the kinds that are left out. Which kinds exist at all is drawn first, so that
/// some runs try one kind alone and others many at once.
pub fn draw(seed: u64, without: &[Kind]) -> Scenario {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x0066_757a_7a65_6400);
    let rng = &mut rng;
    let nodes = rng.random_range(NODES_MIN..=NODES_MAX);
    let density = rng.random_range(0.05..0.6);
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|_| rng.random_bool(density)).filter(|kind| !without.contains(kind)).collect();
    let secs = rng.random_range(20..90);
    let mut timeline = Vec::new();
    for _ in 0..rng.random_range(1..=STEPS_MAX) {
        if let Some(kind) = kinds.choose(rng) {
            timeline.extend(steps(*kind, secs, nodes, rng));
        }
    }
    timeline.sort_by_key(|step| step.at);
    let some = |rng: &mut Xoshiro256PlusPlus, most: f64| {
        if rng.random_bool(0.5) { (rng.random_range(0.0..most) * 100.0).round() / 100.0 } else { 0.0 }
    };
    let link = rng.random_bool(0.3).then(|| LinkConfig {
        loss: Share(some(rng, 0.1)),
        duplication: Share(some(rng, 0.2)),
        reorder: Share(some(rng, 0.2)),
        reorder_by: Span::from_millis(rng.random_range(1..100)),
        ..LinkConfig::default()
    });
    // Whoever joins knows nothing but the seeds: one of them must be left.
    let is_for_good = |step: &&Step| step.leave.is_some() || (step.crash.is_some() && step.lasts.is_none());
    let joins = timeline.iter().any(|step| step.join.is_some());
    let left_alone = if joins { timeline.iter().filter(is_for_good).count() + 1 } else { 1 };
    Scenario {
        mode: ModeName::Tidings,
        lasts: Span::from_secs(secs),
        known_to_fail: None,
        drawn: true,
        topology: Topology {
            nodes,
            seeds: rng.random_range(1..=3).max(left_alone).min(nodes),
            network: Preset::ALL[rng.random_range(0..Preset::ALL.len())].1,
            start_within: Span::from_millis(rng.random_range(0..3_000)),
            join_within: if rng.random_bool(0.2) { Span::default() } else { Span::from_secs(60) },
            rests: Span::default(),
            preloaded: false,
            link,
            zones: None,
            rtt: None,
            jitter: None,
            pairs: Vec::new(),
        },
        tuning: TuningSpec::default(),
        foca: FocaSettings::default(),
        groups: std::collections::BTreeMap::new(),
        workload: Workload {
            instances: rng.random_range(0..=2),
            record_bytes: Size(if rng.random_bool(0.1) { rng.random_range(0..20_000) } else { 0 }),
            changes_per_s: some(rng, 2.0),
            registrations_per_s: some(rng, 1.0),
            withdrawals_per_s: some(rng, 1.0),
            lookups_per_s: 0.0,
            readers: 0,
        },
        timeline: timeline.into_iter().map(|step| Spanned::new(0..0, step)).collect(),
        settle: Settle { within: SETTLE_WITHIN, stays: Span::from_secs(5) },
        expect: Vec::new(),
    }
}

/// The steps of one fault of a kind.
fn steps(kind: Kind, secs: u64, nodes: usize, rng: &mut Xoshiro256PlusPlus) -> Vec<Step> {
    let at = Span::from_millis(rng.random_range(0..secs * 1_000));
    let lasts = Some(Span::from_millis(rng.random_range(200..30_000)));
    let hosts = |text: String| Some(Hosts::try_from(text).expect("a choice of ours is well formed"));
    let few = format!("any {}", rng.random_range(1..=(nodes / 4).max(1)));
    let step = Step { at, lasts, ..Step::default() };
    let at_once = Step { at, ..Step::default() };
    let with = [RestartWith::Data, RestartWith::Nothing][rng.random_range(0..2)];
    vec![match kind {
        Kind::Crash => Step { crash: hosts(few), with: Some(with), ..step },
        Kind::Death => Step { crash: hosts("any 1".to_owned()), ..at_once },
        Kind::Leave => Step { leave: hosts("any 1".to_owned()), ..at_once },
        Kind::Join => Step { join: Some(rng.random_range(1..=5)), ..at_once },
        Kind::Split => Step { split: hosts(few).map(|group| vec![group]), ..step },
        Kind::Cut => Step { cut: hosts(few).zip(hosts("half".to_owned())).map(|(from, to)| Ways { from, to }), ..step },
        Kind::Loss => Step { loss: Some(Share(f64::from(rng.random_range(1..40)) / 100.0)), ..step },
        Kind::LossAt => {
            let share = Share(f64::from(rng.random_range(10..95)) / 100.0);
            Step { loss_at: hosts(few).map(|hosts| LossAt { hosts, share }), ..step }
        }
        Kind::Freeze => Step { freeze: hosts(few), ..step },
        Kind::Block => Step { block: hosts(few), ..step },
        Kind::Isolate => Step { isolate: hosts(few), ..step },
        Kind::Slow => {
            let by = Span::from_millis(rng.random_range(5..1_500));
            Step { slow: hosts(few).map(|hosts| Slow { hosts, by }), ..step }
        }
        Kind::Clock => {
            let rate = f64::from(rng.random_range(90..110)) / 100.0;
            let by_secs = rng.random_range(-10_000..10_000);
            return vec![
                Step { clock_rate: hosts(few.clone()).map(|hosts| ClockRate { hosts, rate }), ..step },
                Step { clock_step: hosts(few).map(|hosts| ClockStep { hosts, by_secs }), ..at_once },
            ];
        }
        Kind::Disk => Step { disk_full: hosts(few), ..step },
        Kind::Churn => {
            let per_min = Share(f64::from(rng.random_range(5..60)) / 100.0);
            let down_for = Span::from_millis(rng.random_range(200..15_000));
            Step { churn: Some(Churn { per_min, down_for }), ..step }
        }
        Kind::Records => {
            let register = hosts(few).map(|hosts| Register { hosts, count: rng.random_range(1..40), bytes: Size(0) });
            Step { register, ..at_once }
        }
    }]
}

/// A smaller scenario that fails too with this seed, and how it fails: steps, members, work and link peculiarities
/// are taken away as long as it does.
pub fn shrink(scenario: &Scenario, seed: u64) -> (Scenario, Outcome) {
    let mut smallest = (scenario.clone(), run(scenario, seed, Options::default()));
    let mut runs = 0;
    loop {
        let mut has_shrunk = false;
        for smaller in smaller(&smallest.0) {
            if runs >= SHRINK_RUNS_MAX {
                return smallest;
            }
            runs += 1;
            let outcome = run(&smaller, seed, Options::default());
            if !outcome.is_pass() {
                smallest = (smaller, outcome);
                has_shrunk = true;
                break;
            }
        }
        if !has_shrunk {
            return smallest;
        }
    }
}

/// Scenarios that are each a step smaller.
fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let with = |change: &dyn Fn(&mut Scenario)| {
        let mut smaller = scenario.clone();
        change(&mut smaller);
        smaller
    };
    let mut smallers: Vec<Scenario> = (0..scenario.timeline.len())
        .map(|index| {
            with(&|scenario| {
                scenario.timeline.remove(index);
            })
        })
        .collect();
    let workload = &scenario.workload;
    let is_busy = workload.changes_per_s + workload.registrations_per_s + workload.withdrawals_per_s > 0.0;
    if is_busy {
        smallers.push(with(&|scenario| {
            let instances = scenario.workload.instances;
            scenario.workload = Workload { instances, ..Workload::default() };
        }));
    }
    if scenario.topology.link.is_some() {
        smallers.push(with(&|scenario| scenario.topology.link = None));
    }
    if scenario.topology.network != Preset::Lan {
        smallers.push(with(&|scenario| scenario.topology.network = Preset::Lan));
    }
    let nodes = scenario.topology.nodes;
    for fewer in [nodes / 2, nodes * 3 / 4, nodes - 1] {
        if (NODES_MIN..nodes).contains(&fewer) {
            smallers.push(with(&|scenario| scenario.topology.nodes = fewer));
        }
    }
    smallers
}

/// The file of a failing scenario: what failed, how to replay it, and the scenario.
pub fn file(scenario: &Scenario, outcome: &Outcome, name: &str) -> String {
    let mut text = format!("# Found by fuzzing with seed {}. It failed so:\n", outcome.seed);
    for failure in &outcome.failures {
        for line in failure.lines() {
            text += &format!("#   {}\n", line.chars().take(110).collect::<String>());
        }
    }
    text += &format!("# Replay: tidings-sim run {name} --seed {}\n\n", outcome.seed);
    text + &scenario.to_toml()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_well_formed_and_the_same_each_time() {
        for seed in 0..200 {
            let text = draw(seed, &[]).to_toml();
            assert_eq!(text, draw(seed, &[]).to_toml());
            Scenario::parse(&text, "drawn").unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
        }
    }

    #[test]
    fn a_failure_is_shrunk_to_what_it_takes() {
        // No cluster settles within no time: whatever else was drawn is taken away.
        let mut scenario = draw(3, &[]);
        scenario.settle.within = Span::default();
        scenario.expect =
            vec![crate::scenario::Expect { figure: "heal_ms".to_owned(), at_most: Some(-1.0), at_least: None }];
        let (small, outcome) = shrink(&scenario, 3);
        assert!(!outcome.is_pass());
        assert!(small.timeline.is_empty() && small.topology.nodes < NODES_MAX, "{}", small.to_toml());
        assert!(file(&small, &outcome, "x.toml").contains("tidings-sim run x.toml --seed 3"));
    }
}
