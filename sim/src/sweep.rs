//! Grids over the settings of a scenario: a row per point, with confidence intervals over seeds.

use std::collections::{BTreeMap, BTreeSet};

use indicatif::{ParallelProgressIterator, ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::Serialize;
use tidings::knobs;

use crate::run::{Options, Outcome, run};
use crate::scenario::{Scenario, ScenarioError};

/// Points of one sweep; more would run for days.
pub const POINTS_MAX: usize = 10_000;

/// Short names of settings that are swept often, beside those of the protocol.
const ALIASES: &[(&str, &str)] = &[
    ("nodes", "topology.nodes"),
    ("network", "topology.network"),
    ("loss", "topology.link.loss"),
    ("probe_interval", "tuning.observe_every"),
];

/// The figures that a table shows, where they were measured; CSV and JSON hold all.
pub const SHOWN: &[&str] = &[
    "detect_first_p50_ms",
    "detect_first_p99_ms",
    "detect_last_p50_ms",
    "detect_last_p99_ms",
    "false_downs_per_node_hour",
    "arrival_p50_ms",
    "arrival_p99_ms",
    "sends_per_change",
    "packets_per_s_mean",
    "bytes_per_s_mean",
    "bytes_per_s_p99",
    "bytes_per_s_max",
    "heal_ms",
    "wrong_view_node_s",
];

/// One setting and its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Axis {
    /// The setting: a short name or a path into the scenario, such as `tuning.tries`.
    pub name: String,
    /// Its values, as written in a scenario, text without quotes.
    pub values: Vec<String>,
}

/// A mean over seeds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half the width of its 95 % confidence interval; 0 for a single seed.
    pub ci95: f64,
    /// How many seeds measured it.
    pub seeds: usize,
}

/// A point of the grid.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The settings, in the order of the axes.
    pub point: Vec<(String, String)>,
    /// The figures, by name.
    pub figures: BTreeMap<String, Mean>,
    /// The seeds that did not hold, and the first of why.
    pub failures: Vec<(u64, String)>,
}

impl std::str::FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is no axis: write probe_interval=0.5s,1s,2s");
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        if name.trim().is_empty() || values.iter().any(String::is_empty) {
            return Err(form());
        }
        Ok(Self { name: name.trim().to_owned(), values })
    }
}

/// Every combination of the axes' values.
fn points(axes: &[Axis]) -> Vec<Vec<(String, String)>> {
    axes.iter().fold(vec![Vec::new()], |points, axis| {
        let with = |point: &Vec<(String, String)>, value: &String| {
            let mut point = point.clone();
            point.push((axis.name.clone(), value.clone()));
            point
        };
        points.iter().flat_map(|point| axis.values.iter().map(move |value| with(point, value))).collect()
    })
}

/// The scenario of a point.
///
/// # Errors
/// That a setting does not exist, or not with this value.
pub fn at_point(text: &str, origin: &str, point: &[(String, String)]) -> Result<Scenario, ScenarioError> {
    // The scenario as written is read first: its own errors come with its own lines.
    let scenario = Scenario::parse(text, origin)?;
    if point.is_empty() {
        return Ok(scenario);
    }
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| ScenarioError {
        origin: origin.to_owned(),
        line: 0,
        what: error.message().to_owned(),
    })?;
    for (name, value) in point {
        let alias = ALIASES.iter().find(|(alias, _)| alias == name).map(|(_, path)| (*path).to_owned());
        let knob = || knobs::knob(name).ok().map(|knob| format!("tuning.{}", knob.name));
        let path = alias.or_else(knob).unwrap_or_else(|| name.clone());
        set(&mut table, &path, value).map_err(|what| ScenarioError { origin: origin.to_owned(), line: 0, what })?;
    }
    let settings: Vec<String> = point.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let origin = format!("{origin} with {}", settings.join(", "));
    Scenario::parse(&toml::to_string(&table).expect("a table has a form in TOML"), &origin)
}

fn set(table: &mut toml::Table, path: &str, value: &str) -> Result<(), String> {
    let Some((first, rest)) = path.split_once('.') else {
        let read = (value.parse().map(toml::Value::Integer).ok())
            .or_else(|| value.parse().map(toml::Value::Float).ok())
            .or_else(|| value.parse().map(toml::Value::Boolean).ok());
        table.insert(path.to_owned(), read.unwrap_or_else(|| toml::Value::String(value.to_owned())));
        return Ok(());
    };
    let inner = table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let inner = inner.as_table_mut().ok_or_else(|| format!("{first} holds no settings"))?;
    set(inner, rest, value)
}

/// Runs every point with `seeds` seeds from `from` on, on all cores. `shows` draws a progress bar on standard error.
///
/// # Errors
/// That a point makes no scenario, or there are too many.
pub fn sweep(
    text: &str,
    origin: &str,
    axes: &[Axis],
    from: u64,
    seeds: u64,
    shows: bool,
) -> Result<Vec<Row>, ScenarioError> {
    let points = points(axes);
    if points.len() > POINTS_MAX {
        let what = format!("{} points, the limit is {POINTS_MAX}", points.len());
        return Err(ScenarioError { origin: origin.to_owned(), line: 0, what });
    }
    let scenarios =
        points.iter().map(|point| at_point(text, origin, point)).collect::<Result<Vec<Scenario>, ScenarioError>>()?;
    let jobs: Vec<(usize, u64)> =
        (0..points.len()).flat_map(|point| (0..seeds).map(move |index| (point, from.wrapping_add(index)))).collect();
    let bar = progress(jobs.len() as u64, shows);
    let outcomes: Vec<(usize, Outcome)> = jobs
        .into_par_iter()
        .progress_with(bar)
        .map(|(point, seed)| (point, run(&scenarios[point], seed, Options::default())))
        .collect();
    let rows = points.into_iter().enumerate().map(|(index, point)| {
        let of_point: Vec<&Outcome> =
            outcomes.iter().filter(|(at, _)| *at == index).map(|(_, outcome)| outcome).collect();
        row(point, &of_point)
    });
    Ok(rows.collect())
}

/// A bar for long work, on standard error; hidden unless somebody watches.
pub fn progress(len: u64, shows: bool) -> ProgressBar {
    if !shows {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {elapsed} so far, {eta} to go");
    ProgressBar::new(len).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn row(point: Vec<(String, String)>, outcomes: &[&Outcome]) -> Row {
    let names: BTreeSet<&String> = outcomes.iter().flat_map(|outcome| outcome.figures.keys()).collect();
    let figures = names.into_iter().map(|name| {
        let values: Vec<f64> = outcomes.iter().filter_map(|outcome| outcome.figures.get(name).copied()).collect();
        (name.clone(), mean(&values))
    });
    let failures = outcomes.iter().filter_map(|outcome| Some((outcome.seed, outcome.failures.first()?.clone())));
    Row { figures: figures.collect(), failures: failures.collect(), point }
}

/// The mean of `values` with its 95 % confidence interval, by Student's t.
pub fn mean(values: &[f64]) -> Mean {
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count.max(1) as f64;
    if count < 2 {
        return Mean { mean, ci95: 0.0, seeds: count };
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
    Mean { mean, ci95: t95(count - 1) * (variance / count as f64).sqrt(), seeds: count }
}

/// The 97.5 % point of Student's t, to about 1 %.
fn t95(freedom: usize) -> f64 {
    const SMALL: [f64; 10] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];
    SMALL.get(freedom - 1).copied().unwrap_or_else(|| 1.96 + 2.5 / freedom as f64)
}

/// The rows as a table for people.
pub fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let shown: Vec<&str> =
        SHOWN.iter().copied().filter(|name| rows.iter().any(|row| row.figures.contains_key(*name))).collect();
    let mut lines = vec![
        first
            .point
            .iter()
            .map(|(name, _)| name.clone())
            .chain(shown.iter().map(|name| (*name).to_owned()))
            .chain(["failed".to_owned()])
            .collect::<Vec<_>>(),
    ];
    for row in rows {
        let figure = |name: &&str| {
            row.figures.get(*name).map_or_else(|| "-".to_owned(), |m| format!("{:.1} ±{:.1}", m.mean, m.ci95))
        };
        let cells = row.point.iter().map(|(_, value)| value.clone()).chain(shown.iter().map(figure));
        lines.push(cells.chain([row.failures.len().to_string()]).collect());
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |cells: &Vec<String>| {
        let cells: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}", width = *width)).collect();
        cells.join("  ") + "\n"
    };
    lines.iter().map(line).collect()
}

/// The rows as CSV: a column for every axis, and two (mean, half of the 95 % interval) for every figure.
///
/// # Errors
/// That the writer fails.
pub fn csv(rows: &[Row], sink: impl std::io::Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(sink);
    let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.figures.keys()).collect();
    let axes = rows.first().map(|row| row.point.iter().map(|(name, _)| name.clone()).collect()).unwrap_or_default();
    let mut head: Vec<String> = axes;
    head.extend(names.iter().flat_map(|name| [(*name).clone(), format!("{name}_ci95")]));
    head.push("failed".to_owned());
    writer.write_record(&head)?;
    for row in rows {
        let mut cells: Vec<String> = row.point.iter().map(|(_, value)| value.clone()).collect();
        for name in &names {
            let mean = row.figures.get(*name);
            cells.push(mean.map(|mean| mean.mean.to_string()).unwrap_or_default());
            cells.push(mean.map(|mean| mean.ci95.to_string()).unwrap_or_default());
        }
        cells.push(row.failures.len().to_string());
        writer.write_record(&cells)?;
    }
    writer.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "lasts = \"3s\"\n[topology]\nnodes = 5\n[workload]\nchanges_per_s = 1.0\n";

    fn axis(text: &str) -> Axis {
        text.parse().expect("well formed")
    }

    #[test]
    fn every_combination_is_a_point_and_its_settings_arrive() {
        let axes = [axis("nodes=5,7"), axis("probe_interval=0.5s,1s"), axis("probe_rtt=200ms")];
        let points = points(&axes);
        assert_eq!(points.len(), 4);
        let scenario = at_point(TEXT, "x", &points[2]).expect("well formed");
        assert_eq!(scenario.topology.nodes, 7);
        assert_eq!(scenario.tuning.tuning().watch.observe_every, std::time::Duration::from_millis(500));
    }

    #[test]
    fn a_setting_that_does_not_exist_is_named() {
        let error = at_point(TEXT, "x", &[("tuning.colour".to_owned(), "3".to_owned())]).expect_err("no such setting");
        assert!(error.to_string().contains("colour"), "{error}");
        assert!("nodes".parse::<Axis>().is_err());
    }

    #[test]
    fn a_row_has_means_over_seeds_and_prints_as_table_and_csv() {
        let rows = sweep(TEXT, "x", &[axis("nodes=5,6")], 1, 3, false).expect("well formed");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].figures["packets_per_s_mean"].seeds, 3);
        assert!(rows.iter().all(|row| row.failures.is_empty()), "{:?}", rows[0].failures);
        assert!(table(&rows).lines().count() == 3);
        let mut bytes = Vec::new();
        csv(&rows, &mut bytes).expect("a vector takes all");
        assert!(String::from_utf8_lossy(&bytes).starts_with("nodes,"));
    }

    #[test]
    fn the_interval_of_a_known_sample_is_known() {
        let mean = mean(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(mean.mean, 3.0);
        assert!((mean.ci95 - 2.78 * (2.5_f64 / 5.0).sqrt()).abs() < 1e-9);
    }
}
