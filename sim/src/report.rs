//! The answers of an experiment over many seeds: run, gathered, compared with the targets, and printed.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::experiment::{Experiment, Figure, Setting, Target};

/// What one seed gave.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The hash over everything that happened; 0 if the run broke off.
    pub hash: u64,
    /// The figures, or what did not hold.
    pub result: Result<Vec<Figure>, String>,
}

/// What many seeds gave.
#[derive(Clone, Debug)]
pub struct Summary {
    experiment: Experiment,
    setting: Setting,
    outcomes: Vec<Outcome>,
}

/// An experiment as other programs read it; `cargo bench --bench cluster -- --json` writes the same.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Its name.
    pub experiment: String,
    /// How many members it had.
    pub members: usize,
    /// Who measured: `processes` or `tidings-sim`.
    pub by: String,
    /// Whether everything held.
    pub holds: bool,
    /// What was measured.
    pub figures: Vec<FoundFigure>,
}

/// A figure of [`Found`]: values over all trials, or over all seeds and trials.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FoundFigure {
    /// What was measured.
    pub name: String,
    /// In what; without, the name ends in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// How many values there were.
    pub samples: usize,
    /// The median; `None` here and below for what is no number.
    pub p50: Option<f64>,
    /// What 99 of 100 values do not exceed.
    pub p99: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
    /// The mean.
    pub mean: Option<f64>,
}

/// Runs `experiment` with one seed, and a line per event to `trace` if there is one.
pub fn run_seed(
    experiment: &Experiment,
    setting: &Setting,
    seed: u64,
    trace: Option<Box<dyn std::io::Write + Send>>,
) -> Outcome {
    let first = run_once(experiment, setting, seed, trace);
    if !experiment.is_run_twice || first.result.is_err() {
        return first;
    }
    let second = run_once(experiment, setting, seed, None);
    if second == first {
        return first;
    }
    let what =
        format!("two runs differ: {:016x} {:?}, {:016x} {:?}", first.hash, first.result, second.hash, second.result);
    Outcome { result: Err(what), ..first }
}

/// Runs `experiment` with the `count` seeds from `from` on, side by side on all cores, one world to a thread.
pub fn run_seeds(experiment: &Experiment, setting: &Setting, from: u64, count: u64) -> Summary {
    let next = AtomicU64::new(0);
    let outcomes = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let outcome = run_seed(experiment, setting, from.wrapping_add(index), None);
                    outcomes.lock().expect("nobody panics while holding it").push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("nobody panics while holding it");
    outcomes.sort_unstable_by_key(|outcome| outcome.seed);
    Summary { experiment: *experiment, setting: *setting, outcomes }
}

impl Summary {
    /// What was found, for one experiment.
    pub const fn new(experiment: Experiment, setting: Setting, outcomes: Vec<Outcome>) -> Self {
        Self { experiment, setting, outcomes }
    }

    /// What was found, as other programs read it.
    pub fn found(&self) -> Found {
        let figure = |(name, values): (&str, Vec<f64>)| FoundFigure {
            name: name.to_owned(),
            unit: None,
            samples: values.len(),
            p50: Some(quantile(&values, 0.5)),
            p99: Some(quantile(&values, 0.99)),
            max: Some(quantile(&values, 1.0)),
            mean: Some(values.iter().sum::<f64>() / values.len() as f64),
        };
        Found {
            experiment: self.experiment.name.to_owned(),
            members: self.setting.nodes.unwrap_or(self.experiment.nodes),
            by: "tidings-sim".to_owned(),
            holds: self.is_pass(),
            figures: self.figures().into_iter().map(figure).collect(),
        }
    }

    /// Whether every seed held and every target is met.
    pub fn is_pass(&self) -> bool {
        self.failures().next().is_none() && self.missed().is_empty()
    }

    /// The seeds that did not hold, and why.
    pub fn failures(&self) -> impl Iterator<Item = (u64, &str)> {
        self.outcomes.iter().filter_map(|outcome| Some((outcome.seed, outcome.result.as_ref().err()?.as_str())))
    }

    /// The targets that are missed, each with the value. A target whose figure nobody measured is missed, unless
    /// every seed failed anyway.
    fn missed(&self) -> Vec<(Target, Option<f64>)> {
        let figures = self.figures();
        let judge = |target: &Target| {
            let value = figures.get(target.figure).map(|values| quantile(values, target.quantile));
            value.is_none_or(|value| value > target.at_most).then_some((*target, value))
        };
        self.experiment.targets.iter().filter_map(judge).collect()
    }

    /// The values of each figure over all seeds, sorted.
    fn figures(&self) -> BTreeMap<&'static str, Vec<f64>> {
        let mut figures: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for figure in self.outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()).flatten() {
            figures.entry(figure.name).or_default().push(figure.value);
        }
        figures.values_mut().for_each(|values| values.sort_unstable_by(f64::total_cmp));
        figures
    }

    /// The seeds whose own value of the target's figure is above its bound.
    fn guilty(&self, target: &Target) -> Vec<u64> {
        let is_above = |figure: &Figure| figure.name == target.figure && figure.value > target.at_most;
        let of = |outcome: &&Outcome| outcome.result.as_ref().is_ok_and(|figures| figures.iter().any(is_above));
        self.outcomes.iter().filter(of).map(|outcome| outcome.seed).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Seeds that a missed target names.
        const NAMED_MAX: usize = 8;
        let name = self.experiment.name;
        for (seed, why) in self.failures() {
            let setting = &self.setting;
            writeln!(f, "FAILED seed {seed}: {why}")?;
            writeln!(f, "  replay: tidings-sim experiment {name}{setting} --from {seed} --seeds 1")?;
        }
        for (figure, values) in self.figures() {
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| quantile(&values, q));
            writeln!(f, "  {figure:<24} p50 {p50:>10.2}  p99 {p99:>10.2}  max {max:>10.2}  ({} values)", values.len())?;
        }
        for (target, value) in self.missed() {
            let Target { figure, quantile, at_most } = target;
            let Some(value) = value else {
                writeln!(f, "MISSED {figure}: never measured")?;
                continue;
            };
            let percent = quantile * 100.0;
            let seeds = self.guilty(&target);
            let named = &seeds[..seeds.len().min(NAMED_MAX)];
            writeln!(f, "MISSED {figure}: {value:.2} at {percent:.0} %, at most {at_most}; above in seeds {named:?}")?;
        }
        let failed = self.failures().count();
        let verdict = if self.is_pass() { "pass" } else { "FAIL" };
        write!(f, "{verdict} {name}: {} of {} seeds held", self.outcomes.len() - failed, self.outcomes.len())
    }
}

/// The smallest of `sorted` that a share `q` of them does not exceed.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn run_once(
    experiment: &Experiment,
    setting: &Setting,
    seed: u64,
    trace: Option<Box<dyn std::io::Write + Send>>,
) -> Outcome {
    // A world that panicked is dropped with everything in it: no broken state is seen again.
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut world = setting.world(seed);
        if let Some(sink) = trace {
            world.write_trace(sink);
        }
        let result = (experiment.run)(&mut world, setting.nodes.unwrap_or(experiment.nodes));
        Outcome { seed, hash: world.hash(), result }
    }));
    run.unwrap_or_else(|panic| Outcome { seed, hash: 0, result: Err(words_of(panic.as_ref())) })
}

pub(crate) fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked without words").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERIMENT: Experiment = Experiment {
        name: "even",
        about: "an even seed holds",
        nodes: 1,
        run: |world, _| {
            assert!(world.report().seed != 7, "seven breaks off");
            let value = world.report().seed as f64;
            if world.report().seed.is_multiple_of(2) {
                Ok(vec![Figure { name: "seed", value }])
            } else {
                Err("odd".to_owned())
            }
        },
        targets: &[Target { figure: "seed", quantile: 1.0, at_most: 4.0 }],
        is_run_twice: false,
    };

    #[test]
    fn a_failing_seed_is_told_with_its_replay() {
        let summary = run_seeds(&EXPERIMENT, &Setting::default(), 6, 3);
        assert!(!summary.is_pass());
        assert_eq!(summary.failures().collect::<Vec<_>>(), [(7, "seven breaks off")]);
        let text = summary.to_string();
        assert!(text.contains("replay: tidings-sim experiment even --from 7 --seeds 1"), "{text}");
        assert!(text.contains("MISSED seed: 8.00 at 100 %, at most 4; above in seeds [6, 8]"), "{text}");
    }

    #[test]
    fn seeds_that_hold_and_meet_the_target_pass() {
        assert!(run_seeds(&EXPERIMENT, &Setting::default(), 4, 1).is_pass());
        assert!(!run_seeds(&EXPERIMENT, &Setting::default(), 5, 1).is_pass());
    }

    #[test]
    fn a_run_that_does_not_repeat_is_noticed() {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let fickle = Experiment {
            run: |_, _| Ok(vec![Figure { name: "run", value: RUNS.fetch_add(1, Ordering::Relaxed) as f64 }]),
            targets: &[],
            is_run_twice: true,
            ..EXPERIMENT
        };
        let outcome = run_seed(&fickle, &Setting::default(), 1, None);
        assert!(outcome.result.expect_err("the second run gave another value").contains("two runs differ"));
    }

    #[test]
    fn a_quantile_is_a_value_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| quantile(&values, q)), [1.0, 50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[3.0], 0.5), 3.0);
    }
}
