//! Figures and what is held against them. Knows nothing of processes.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// Breaches and oddities printed in full; further ones are only counted.
const TOLD_MAX: usize = 40;

/// Measured values of one kind.
#[derive(Clone, Default, Debug)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, in milliseconds.
    pub(crate) fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1_000.0);
    }

    /// The value that this share of the samples does not pass: the nearest rank, never interpolated.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    pub(crate) fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What a figure must not pass.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    P50(f64),
    P99(f64),
    Mean(f64),
    Max(f64),
}

impl Target {
    const fn parts(self) -> (&'static str, f64) {
        match self {
            Self::P50(limit) => ("p50", limit),
            Self::P99(limit) => ("p99", limit),
            Self::Mean(limit) => ("mean", limit),
            Self::Max(limit) => ("max", limit),
        }
    }

    fn value(self, samples: &Samples) -> f64 {
        match self {
            Self::P50(_) => samples.quantile(0.50),
            Self::P99(_) => samples.quantile(0.99),
            Self::Mean(_) => samples.mean(),
            Self::Max(_) => samples.max(),
        }
    }
}

/// A figure as other programs read it. A value that no number can say is `null`.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    name: String,
    unit: String,
    samples: usize,
    p50: f64,
    p99: f64,
    max: f64,
    mean: f64,
}

/// An experiment as other programs read it; `tidings-sim experiment --json` writes the same.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Found {
    experiment: &'static str,
    members: usize,
    /// Who measured: real processes.
    by: &'static str,
    /// Whether every target and promise held.
    holds: bool,
    figures: Vec<Figure>,
}

/// Writes all that was found, in place of what the file held.
pub(crate) fn write_json(path: &Path, found: &[Found]) -> std::io::Result<()> {
    let mut text = serde_json::to_vec_pretty(found)?;
    text.push(b'\n');
    std::fs::write(path, text)
}

/// What one experiment found, printed as it comes.
#[derive(Debug)]
pub(crate) struct Report {
    name: &'static str,
    /// How many members the experiment has, once it knows.
    pub(crate) members: usize,
    figures: Vec<Figure>,
    /// Whether targets are judged, or only promises.
    is_timed: bool,
    misses: usize,
    oddities: usize,
}

impl Report {
    pub(crate) fn new(name: &'static str, is_timed: bool) -> Self {
        println!("\n== {name}");
        Self { name, members: 0, figures: Vec::new(), is_timed, misses: 0, oddities: 0 }
    }

    /// Prints something worth knowing.
    pub(crate) fn note(&self, text: impl Display) {
        println!("   {text}");
    }

    /// Prints samples, and judges them.
    pub(crate) fn figure(&mut self, what: &str, unit: &str, samples: &Samples, targets: &[Target]) {
        let Samples(values) = samples;
        if values.is_empty() {
            self.miss(&format!("{what}: nothing was measured"));
            return;
        }
        let quantiles = [0.50, 0.99, 1.0].map(|share| samples.quantile(share));
        let [p50, p99, max] = quantiles;
        let (mean, count) = (samples.mean(), values.len());
        println!("   {what}: p50 {p50:.3} p99 {p99:.3} max {max:.3} mean {mean:.3} {unit} ({count} samples)");
        let (name, unit_name) = (what.to_owned(), unit.to_owned());
        self.figures.push(Figure { name, unit: unit_name, samples: count, p50, p99, max, mean });
        for target in targets.iter().filter(|_| self.is_timed) {
            let (name, limit) = target.parts();
            // Not `>`: what is no number misses too.
            if target.value(samples) <= limit {
                println!("      target {name} <= {limit} {unit}: holds");
            } else {
                self.misses += 1;
                println!("      target {name} <= {limit} {unit}: MISSED by {:.3}", target.value(samples) - limit);
            }
        }
    }

    /// Something that must never be, and was.
    pub(crate) fn miss(&mut self, what: &str) {
        self.misses += 1;
        if self.misses <= TOLD_MAX {
            println!("   BROKEN: {what}");
        }
    }

    /// Something that no target forbids, and that needs an explanation.
    pub(crate) fn oddity(&mut self, what: &str) {
        self.oddities += 1;
        if self.oddities <= TOLD_MAX {
            println!("   odd: {what}");
        }
    }

    /// Prints the end. Gives whether everything held, and what was found.
    pub(crate) fn end(self) -> (bool, Found) {
        let holds = self.misses == 0;
        let said = if holds { "holds" } else { "DOES NOT HOLD" };
        println!("== {}: {said} ({} misses, {} oddities)", self.name, self.misses, self.oddities);
        let Self { name: experiment, members, figures, .. } = self;
        (holds, Found { experiment, members, by: "processes", holds, figures })
    }
}
