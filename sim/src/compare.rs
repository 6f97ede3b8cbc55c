//! Real members beside simulated ones: the same experiments, their medians and the ratios of these, as a table.

use std::fmt;

use crate::report::{Found, FoundFigure};

/// Ratios of simulated to real medians that need no explanation.
pub const RATIO_MIN: f64 = 0.7;
/// See [`RATIO_MIN`].
pub const RATIO_MAX: f64 = 1.4;

/// What is compared: the experiment, and what its figure is called by real processes and here.
const PAIRS: &[(&str, &str, &str)] = &[
    ("join", "the last view is complete", "joined_ms"),
    ("change", "the last of the others tells it", "last_sees_ms"),
    ("crash", "killed: the last of the others tells it", "last_tells_ms"),
    ("leave", "the last of the others drops it", "dropped_ms"),
];

/// The same figure of real and of simulated members.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The experiment.
    pub experiment: &'static str,
    /// What was measured.
    pub figure: &'static str,
    /// How many members there were.
    pub members: usize,
    /// The median of real processes, in milliseconds.
    pub real_ms: f64,
    /// The median here.
    pub simulated_ms: f64,
}

/// Figures side by side; shown as a table in Markdown.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// By experiment, then by members.
    pub rows: Vec<Row>,
}

impl Row {
    /// Simulated over real.
    pub fn ratio(&self) -> f64 {
        self.simulated_ms / self.real_ms
    }

    /// Whether the ratio needs no explanation.
    pub fn is_alike(&self) -> bool {
        (RATIO_MIN..=RATIO_MAX).contains(&self.ratio())
    }
}

impl Comparison {
    /// Puts together what both measured, with as many members. What only one of them has is left out.
    ///
    /// # Errors
    /// An experiment of many of the same size, a median that is no number, or that nothing can be compared.
    pub fn new(real: &[Found], simulated: &[Found]) -> Result<Self, String> {
        let mut rows = Vec::new();
        for &(experiment, figure, simulated_figure) in PAIRS {
            let mut of_all: Vec<&Found> = real.iter().filter(|found| found.experiment == experiment).collect();
            of_all.sort_by_key(|found| found.members);
            for found in of_all {
                let members = found.members;
                let real_ms = only(real, experiment, members)?.map(|found| median(found, figure)).transpose()?;
                let other = only(simulated, experiment, members)?.map(|found| median(found, simulated_figure));
                let (Some(real_ms), Some(simulated_ms)) = (real_ms, other.transpose()?) else { continue };
                rows.push(Row { experiment, figure, members, real_ms, simulated_ms });
            }
        }
        if rows.is_empty() {
            return Err("no experiment of equally many members is in both".to_owned());
        }
        Ok(Self { rows })
    }

    /// Whether no ratio needs an explanation.
    pub fn is_alike(&self) -> bool {
        self.rows.iter().all(Row::is_alike)
    }
}

/// The experiment of so many members, of which there may be one.
fn only<'a>(all: &'a [Found], experiment: &str, members: usize) -> Result<Option<&'a Found>, String> {
    let mut found = all.iter().filter(|found| found.experiment == experiment && found.members == members);
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(other) => Err(format!("{experiment} with {members} members was measured twice by {}", other.by)),
    }
}

fn median(found: &Found, name: &str) -> Result<f64, String> {
    let figure = found.figures.iter().find(|figure| figure.name == name);
    let is_sound = |median: &f64| median.is_finite() && *median > 0.0;
    figure.and_then(|FoundFigure { p50, .. }| *p50).filter(is_sound).ok_or_else(|| {
        format!("{} with {} members by {}: no median of {name:?}", found.experiment, found.members, found.by)
    })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| experiment | members | real | simulated | ratio |")?;
        write!(f, "|---|---:|---:|---:|---:|")?;
        for row in &self.rows {
            let Row { experiment, figure, members, real_ms, simulated_ms } = row;
            let ratio = row.ratio();
            let mark = if row.is_alike() { "" } else { " (!)" };
            write!(
                f,
                "\n| {experiment}: {figure} | {members} | {real_ms:.1} ms | {simulated_ms:.1} ms | {ratio:.2}{mark} |"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(experiment: &str, members: usize, name: &str, p50: Option<f64>) -> Found {
        let figure = FoundFigure { name: name.to_owned(), unit: None, samples: 3, p50, p99: p50, max: p50, mean: p50 };
        Found { experiment: experiment.to_owned(), members, by: "test".to_owned(), holds: true, figures: vec![figure] }
    }

    #[test]
    fn equal_experiments_stand_side_by_side_and_others_are_left_out() {
        let real = [
            found("leave", 50, "the last of the others drops it", Some(10.0)),
            found("leave", 20, "the last of the others drops it", Some(4.0)),
            found("leave", 30, "the last of the others drops it", Some(4.0)),
            found("idle", 20, "CPU", None),
        ];
        let simulated = [found("leave", 20, "dropped_ms", Some(5.0)), found("leave", 50, "dropped_ms", Some(20.0))];
        let comparison = Comparison::new(&real, &simulated).expect("two can be compared");
        assert_eq!(
            comparison.rows.iter().map(|row| (row.members, row.ratio())).collect::<Vec<_>>(),
            [(20, 1.25), (50, 2.0)]
        );
        assert!(!comparison.is_alike());
        let text = comparison.to_string();
        assert!(text.contains("| leave: the last of the others drops it | 20 | 4.0 ms | 5.0 ms | 1.25 |"), "{text}");
        assert!(text.ends_with("| 2.00 (!) |"), "{text}");
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let real = |p50| [found("crash", 20, "killed: the last of the others tells it", p50)];
        let simulated = [found("crash", 20, "last_tells_ms", Some(5.0))];
        let wrong =
            |real: &[Found], simulated: &[Found]| Comparison::new(real, simulated).expect_err("it makes no comparison");
        assert!(wrong(&real(Some(1.0)), &[]).contains("no experiment"));
        assert!(wrong(&real(None), &simulated).contains("no median"));
        assert!(wrong(&real(Some(0.0)), &simulated).contains("no median"));
        assert!(wrong(&[real(Some(1.0)), real(Some(2.0))].concat(), &simulated).contains("twice"));
    }
}
