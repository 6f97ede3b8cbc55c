//! Searches the settings of the protocol for what somebody wishes of a cluster, and says what the wishes cost.
//!
//! Candidates are drawn around what ships, and measured in the same worlds; after each round the worse half goes, the
//! better half is measured with twice the seeds, and slight changes of it join (successive halving: Jamieson and
//! Talwalkar 2016). The settings are those of [`knobs::KNOBS`]: a new one is searched as soon as it stands there.
//!
//! What settings [promise](tidings::promise) costs nothing to know: of many more that are drawn, only those are
//! measured that may have what is wished.

use std::fmt::{self, Write as _};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tidings::knobs::{self, KNOBS, Value};
use tidings::node::Tuning;
use tidings::promise::{Conditions, Promise};
use tidings::wire::SEAL_BYTES;

use crate::link::Preset;
use crate::run::{Options, Outcome, run};
use crate::scenario::{Scenario, TuningSpec};
use crate::sweep::progress;
use crate::units::{Rate, Share, Span};

/// Crashes of each run, and how far they are apart.
const CRASHES: u64 = 5;
const CRASH_EVERY_S: u64 = 8;

/// How long a run goes on after the last crash, so that its detection is seen.
const LAST_S: u64 = 25;

/// Candidates are drawn within this factor of what ships.
const SPREAD: f64 = 8.0;

/// How many are drawn for each candidate that is measured, and how far a promise may be beyond a wish: it is a guess.
const DRAWN_EACH: usize = 16;
const PROMISED_SLACK: f64 = 1.25;

/// The least candidates that a round keeps.
const KEPT_MIN: usize = 6;

/// Draws before one that goes together is given up.
const TRIES_MAX: usize = 100;

const HOURS_PER_MONTH: f64 = 730.0;

/// What is wished of a cluster.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Wishes {
    /// 99 of 100 crashes are known to every member within this time, in milliseconds.
    pub detect_p99_ms: f64,
    /// At most so many healthy members a month are called dead, in the whole cluster.
    pub false_per_month: f64,
    /// At most so many bytes a second that each member sends, in the mean, UDP payload.
    pub bytes_per_s: f64,
}

/// What is to be searched.
#[derive(Clone, Debug)]
pub struct Question {
    /// Members.
    pub nodes: usize,
    /// Their links.
    pub network: NetworkName,
    /// The share of packets that every link loses.
    pub loss: Share,
    /// What is wished.
    pub wishes: Wishes,
    /// Candidates at first, the shipped settings one of them.
    pub candidates: usize,
    /// Seeds with which the last round is measured.
    pub seeds: u64,
    /// The first of them; it draws the candidates as well.
    pub from: u64,
}

/// Links by the name of a preset, or round trips as measured.
#[derive(Clone, Debug)]
pub enum NetworkName {
    /// As the preset says.
    Preset(Preset, String),
    /// Zones, and the round trips between them.
    Measured(Matrix),
}

/// Round trips as somebody measured them: hosts stand in the zones in turn.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    zones: Vec<String>,
    rtt_ms: Vec<Vec<f64>>,
}

impl NetworkName {
    /// Reads a preset's name, or the text of a file `{"zones": ["a", "b"], "rtt_ms": [[0.5, 2], [2, 0.5]]}`.
    ///
    /// # Errors
    /// What is neither.
    pub fn read(name: &str, open: impl FnOnce(&str) -> std::io::Result<String>) -> Result<Self, String> {
        match name.parse() {
            Ok(preset) => Ok(Self::Preset(preset, name.to_owned())),
            Err(unknown) => {
                let text = open(name).map_err(|error| format!("{unknown}, and no file of that name: {error}"))?;
                let matrix: Matrix = serde_json::from_str(&text)
                    .map_err(|error| format!("{name}: {error}; write {{\"zones\": [\"a\"], \"rtt_ms\": [[0.5]]}}"))?;
                Ok(Self::Measured(matrix))
            }
        }
    }
}

impl Question {
    /// What the network of the question is like, for what settings promise.
    fn conditions(&self, scenario: &Scenario) -> Conditions {
        let reached = 1.0 - self.loss.0;
        Conditions { members: self.nodes, rtt: Some(scenario.network().round_trip()), answered: reached * reached }
    }

    /// The world in which every candidate is measured.
    ///
    /// # Errors
    /// What of the question makes no scenario.
    pub fn scenario(&self) -> Result<Scenario, String> {
        let lasts = CRASHES * CRASH_EVERY_S + LAST_S;
        let mut text = format!("lasts = \"{lasts}s\"\n[topology]\nnodes = {}\n", self.nodes);
        let add = |text: &mut String, line: fmt::Arguments<'_>| {
            text.write_fmt(line).expect("writing to a string does not fail");
        };
        match &self.network {
            NetworkName::Preset(_, name) => add(&mut text, format_args!("network = \"{name}\"\n")),
            NetworkName::Measured(Matrix { zones, rtt_ms }) => {
                let rows: Vec<Vec<String>> =
                    rtt_ms.iter().map(|row| row.iter().map(|ms| format!("{}us", ms * 1e3)).collect()).collect();
                add(&mut text, format_args!("zones = {zones:?}\nrtt = {rows:?}\n"));
            }
        }
        if self.nodes <= CRASHES as usize {
            return Err(format!("{} members: {CRASHES} of them crash, so there must be more", self.nodes));
        }
        if self.loss.0 > 0.0 {
            add(&mut text, format_args!("[[timeline]]\nat = \"0s\"\nloss = {}\n", self.loss.0));
        }
        let every = CRASH_EVERY_S;
        add(
            &mut text,
            format_args!("[[timeline]]\nat = \"10s\"\nevery = \"{every}s\"\ntimes = {CRASHES}\ncrash = \"any 1\"\n"),
        );
        add(&mut text, format_args!("[settle]\nwithin = \"120s\"\n"));
        Scenario::parse(&text, "the question").map_err(|error| error.to_string())
    }
}

/// What was measured of one candidate.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Each crash, until the last member knew, in milliseconds; infinite if one never did.
    detections_ms: Vec<f64>,
    /// Healthy members that were called dead, by anybody.
    falses: f64,
    /// Hours that clusters were simulated for.
    hours: f64,
    bytes_per_s: Vec<f64>,
    failures: usize,
}

impl Measured {
    fn take(&mut self, outcome: &Outcome) {
        let figure = |name: &str| outcome.figures.get(name).copied();
        self.detections_ms.extend(&outcome.detections_ms);
        self.falses += figure("members_called_down_wrongly").unwrap_or(0.0);
        self.hours += outcome.simulated_s / 3_600.0;
        self.bytes_per_s.extend(figure("bytes_per_s_mean"));
        self.failures += usize::from(!outcome.is_pass());
    }

    /// 99 of 100 crashes were known to all within this time.
    pub fn detect_p99_ms(&self) -> f64 {
        let mut sorted = self.detections_ms.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let index = (sorted.len() as f64 * 0.99).ceil() as usize;
        sorted.get(index.saturating_sub(1)).copied().unwrap_or(f64::INFINITY)
    }

    /// As observed; 0 if none was seen.
    pub fn false_per_month(&self) -> f64 {
        if self.hours > 0.0 { self.falses / self.hours * HOURS_PER_MONTH } else { f64::INFINITY }
    }

    /// What it is below with 95 % confidence if none was seen: the rule of three.
    pub fn false_below(&self) -> f64 {
        3.0 / self.hours * HOURS_PER_MONTH
    }

    /// The mean over members and seeds.
    pub fn bytes_per_s(&self) -> f64 {
        match self.bytes_per_s.len() {
            0 => f64::INFINITY,
            count => self.bytes_per_s.iter().sum::<f64>() / count as f64,
        }
    }

    const fn objectives(&self) -> [fn(&Self) -> f64; 3] {
        [Self::detect_p99_ms, Self::false_per_month, Self::bytes_per_s]
    }

    fn values(&self) -> [f64; 3] {
        self.objectives().map(|of| of(self))
    }

    fn is_better_than(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.values(), other.values());
        let pairs = || ours.iter().zip(&theirs);
        pairs().all(|(our, their)| our <= their) && pairs().any(|(our, their)| our < their)
    }
}

impl Wishes {
    fn values(&self) -> [f64; 3] {
        [self.detect_p99_ms, self.false_per_month, self.bytes_per_s]
    }

    fn is_met(&self, measured: &Measured) -> [bool; 3] {
        let (wished, got) = (self.values(), measured.values());
        std::array::from_fn(|index| got[index] <= wished[index])
    }

    /// How far a candidate is from what is wished, over all wishes; 0 if it has all.
    fn distance(&self, measured: &Measured) -> f64 {
        let far = self.values().iter().zip(measured.values()).map(|(wished, got)| (got / wished).ln().max(0.0)).sum();
        // Two that never detect are equally far.
        if measured.failures > 0 { f64::INFINITY } else { far }
    }
}

/// Settings, and what they gave.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The settings.
    pub tuning: Tuning,
    /// Whether they are what ships.
    pub is_shipped: bool,
    /// Whether no other is better in everything.
    pub is_front: bool,
    /// What was measured.
    pub measured: Measured,
    seeds: u64,
}

impl Candidate {
    fn new(tuning: Tuning) -> Self {
        let is_shipped = tuning == Tuning::default();
        Self { tuning, is_shipped, is_front: false, measured: Measured::default(), seeds: 0 }
    }

    /// What departs from what ships, in a few words.
    pub fn words(&self) -> String {
        if self.is_shipped {
            return "as shipped".to_owned();
        }
        let shipped = Tuning::default();
        let changed = KNOBS.iter().filter(|knob| knob.value(&self.tuning) != knob.value(&shipped));
        changed.map(|knob| format!("{}={}", knob.name, knob.value(&self.tuning))).collect::<Vec<_>>().join(" ")
    }
}

/// The answer to a [`Question`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was wished.
    pub wishes: Wishes,
    /// The candidates of the last round, by what they cost.
    pub candidates: Vec<Candidate>,
    /// The place of the one that has all that is wished, for the least bytes.
    pub chosen: Option<usize>,
    /// Runs that it took.
    pub runs: u64,
    /// Settings that were drawn and not measured, because what they promise is not what is wished.
    pub unpromising: usize,
    /// Whether the time was over before all was measured.
    pub is_cut_short: bool,
}

/// Searches, until `is_over` says that there is no more time: what was measured by then is answered. `shows` draws a
/// progress bar on standard error.
///
/// # Errors
/// What of the question makes no scenario, or that the time was over before anything was measured.
pub fn tune(question: &Question, shows: bool, is_over: &(dyn Fn() -> bool + Sync)) -> Result<Answer, String> {
    let scenario = question.scenario()?;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(question.from ^ 0x7475_6e65);
    let conditions = question.conditions(&scenario);
    let mut all = vec![Candidate::new(Tuning::default())];
    let wanted = question.candidates.max(KEPT_MIN) - 1;
    let drawn: Vec<Tuning> =
        (0..wanted * DRAWN_EACH).filter_map(|_| draw(&mut rng, &Tuning::default(), SPREAD.ln(), 1.0)).collect();
    let unpromising = drawn.len().saturating_sub(wanted);
    all.extend(promising(drawn, wanted, &question.wishes, &conditions).into_iter().map(Candidate::new));
    let mut seeds = 1;
    let mut runs = 0;
    loop {
        runs += measure(&mut all, &scenario, (question.from, seeds), shows, is_over);
        all.retain(|one| one.measured.hours > 0.0);
        if all.is_empty() {
            return Err("the time was over before a single run of this cluster was".to_owned());
        }
        if seeds >= question.seeds || is_over() {
            break;
        }
        seeds = (seeds * 2).min(question.seeds);
        all = keep(all, &question.wishes);
        let parents: Vec<Tuning> = all.iter().map(|candidate| candidate.tuning.clone()).collect();
        for _ in 0..all.len() / 2 {
            let parent = parents.choose(&mut rng).expect("a round keeps some");
            all.extend(draw(&mut rng, parent, 0.5, 0.4).filter(|t| !parents.contains(t)).map(Candidate::new));
        }
    }
    let better = |one: &Candidate| all.iter().any(|other| other.measured.is_better_than(&one.measured));
    let front: Vec<bool> = all.iter().map(|one| one.measured.failures == 0 && !better(one)).collect();
    all.iter_mut().zip(front).for_each(|(one, is_front)| one.is_front = is_front);
    all.sort_by(|one, other| one.measured.bytes_per_s().total_cmp(&other.measured.bytes_per_s()));
    let chosen = all.iter().position(|one| question.wishes.distance(&one.measured) == 0.0);
    let is_cut_short = is_over();
    Ok(Answer { wishes: question.wishes, candidates: all, chosen, runs, unpromising, is_cut_short })
}

/// Of these, so many that may have what is wished, by what they promise; then those that are nearest to it.
fn promising(drawn: Vec<Tuning>, count: usize, wishes: &Wishes, conditions: &Conditions) -> Vec<Tuning> {
    let excess = |tuning: &Tuning| {
        let promise = Promise::of(tuning, conditions);
        let detect = promise.detect_p99.as_secs_f64() * 1e3 / wishes.detect_p99_ms;
        // Here datagrams are not sealed.
        let bytes = (promise.bytes_per_s - promise.packets_per_s * SEAL_BYTES as f64) / wishes.bytes_per_s;
        [detect, bytes].map(|ratio| (ratio / PROMISED_SLACK).ln().max(0.0)).iter().sum::<f64>()
    };
    let mut drawn: Vec<(f64, Tuning)> = drawn.into_iter().map(|tuning| (excess(&tuning), tuning)).collect();
    // Stable: those that promise enough stay in the order in which they were drawn.
    drawn.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    drawn.into_iter().take(count).map(|(_, tuning)| tuning).collect()
}

/// Measures every candidate with those of the first `seeds` seeds that it was not measured with yet, while there is
/// time.
fn measure(
    all: &mut [Candidate],
    scenario: &Scenario,
    (from, seeds): (u64, u64),
    shows: bool,
    is_over: &(dyn Fn() -> bool + Sync),
) -> u64 {
    let jobs: Vec<(usize, u64)> =
        all.iter().enumerate().flat_map(|(index, one)| (one.seeds..seeds).map(move |seed| (index, seed))).collect();
    let bar = progress(jobs.len() as u64, shows);
    let scenarios: Vec<Scenario> =
        all.iter().map(|one| Scenario { tuning: TuningSpec::of(&one.tuning), ..scenario.clone() }).collect();
    let outcomes: Vec<(usize, Outcome)> = jobs
        .par_iter()
        .filter_map(|&(index, seed)| {
            if is_over() {
                return None;
            }
            let outcome = run(&scenarios[index], from.wrapping_add(seed), Options::default());
            bar.inc(1);
            Some((index, outcome))
        })
        .collect();
    bar.finish_and_clear();
    outcomes.iter().for_each(|(index, outcome)| all[*index].measured.take(outcome));
    all.iter_mut().for_each(|one| one.seeds = seeds);
    outcomes.len() as u64
}

/// The better half: half of it for being near to what is wished, the other half for being good at something.
fn keep(mut all: Vec<Candidate>, wishes: &Wishes) -> Vec<Candidate> {
    let count = (all.len() / 2).max(KEPT_MIN).min(all.len());
    all.sort_by(|one, other| wishes.distance(&one.measured).total_cmp(&wishes.distance(&other.measured)));
    let beaten = |one: &Candidate| all.iter().filter(|other| other.measured.is_better_than(&one.measured)).count();
    let beaten: Vec<usize> = all.iter().map(beaten).collect();
    let mut places: Vec<usize> = (0..all.len()).collect();
    let near: Vec<usize> = places.drain(..count / 2).collect();
    places.sort_by_key(|&place| beaten[place]);
    let shipped = all.iter().position(|one| one.is_shipped);
    let mut kept: Vec<usize> = near.into_iter().chain(places).take(count).collect();
    kept.extend(shipped.filter(|place| !kept.contains(place)));
    kept.sort_unstable();
    kept.into_iter().map(|place| all[place].clone()).collect()
}

/// Settings around `from`: each changes with a probability, by a factor of at most e^`reach`. `None` if none that go
/// together were found.
fn draw(rng: &mut Xoshiro256PlusPlus, from: &Tuning, reach: f64, chance: f64) -> Option<Tuning> {
    for _ in 0..TRIES_MAX {
        let mut tuning = from.clone();
        for knob in KNOBS {
            if !rng.random_bool(chance) {
                continue;
            }
            let factor = rng.random_range(-reach..=reach).exp();
            let drawn = match knob.value(from) {
                Value::Span(span) => Value::Span(rounded(span.mul_f64(factor))),
                Value::Count(count) => Value::Count((count as f64 * factor).round().max(1.0) as usize),
            };
            let (least, most) = knob.range;
            let drawn = if drawn < least {
                least
            } else if drawn > most {
                most
            } else {
                drawn
            };
            knob.set(&mut tuning, drawn).expect("it was brought into the range");
        }
        if tuning != *from && knobs::check(&tuning).is_ok() {
            return Some(tuning);
        }
    }
    None
}

/// Two digits, as a person would write them.
fn rounded(span: Duration) -> Duration {
    let micros = span.as_secs_f64() * 1e6;
    let unit = 10f64.powf(micros.max(1.0).log10().floor() - 1.0).max(1_000.0);
    Duration::from_micros(((micros / unit).round().max(1.0) * unit) as u64)
}

/// A figure, what it is called, and how it is written.
const NAMES: [&str; 3] = ["detection p99", "false verdicts a month", "bytes a second and member"];

fn written(index: usize, value: f64) -> String {
    match index {
        _ if value.is_infinite() => "never".to_owned(),
        0 => format!("{:.2} s", value / 1e3),
        1 => format!("{value:.3}"),
        _ => format!("{value:.0} B/s ({:.1} kbit/s)", value * 8.0 / 1e3),
    }
}

impl Answer {
    /// The settings as a table of `tidings.toml`.
    pub fn toml(tuning: &Tuning) -> String {
        let mut text = "[tuning]\n".to_owned();
        for knob in KNOBS {
            writeln!(text, "{} = \"{}\"", knob.name, knob.value(tuning)).expect("writing to a string does not fail");
        }
        text
    }

    /// What binds, if nothing has all that is wished: of each wish, the best that those have which have the other two.
    pub fn binding(&self) -> Vec<String> {
        let whole: Vec<&Measured> =
            self.candidates.iter().map(|one| &one.measured).filter(|measured| measured.failures == 0).collect();
        let mut lines = Vec::new();
        for (index, name) in NAMES.iter().enumerate() {
            let others_met = |measured: &&&Measured| {
                self.wishes.is_met(measured).iter().enumerate().all(|(other, is_met)| *is_met || other == index)
            };
            let best = whole.iter().filter(others_met).map(|m| m.values()[index]).min_by(f64::total_cmp);
            if let Some(best) = best {
                let (best, wished) = (written(index, best), written(index, self.wishes.values()[index]));
                lines.push(format!("{} binds: within the other two wishes, the best is {best}, wished {wished}", name));
            }
        }
        if lines.is_empty() {
            lines.push("no two of the wishes can be met together, let alone all three".to_owned());
        }
        lines
    }

    /// What `report` draws.
    pub fn file(&self) -> TuneFile {
        let row = |(place, one): (usize, &Candidate)| TuneRow {
            settings: one.words(),
            detect_p99_ms: Some(one.measured.detect_p99_ms()).filter(|ms| ms.is_finite()),
            false_per_month: one.measured.false_per_month(),
            bytes_per_s: one.measured.bytes_per_s(),
            is_front: one.is_front,
            is_shipped: one.is_shipped,
            is_chosen: self.chosen == Some(place),
        };
        TuneFile { wishes: self.wishes, candidates: self.candidates.iter().enumerate().map(row).collect() }
    }
}

/// An answer in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TuneFile {
    /// What was wished.
    pub wishes: Wishes,
    /// The candidates of the last round.
    pub candidates: Vec<TuneRow>,
}

/// A candidate in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TuneRow {
    /// What departs from what ships.
    pub settings: String,
    /// Without, if a crash was not known to all.
    pub detect_p99_ms: Option<f64>,
    /// As observed.
    pub false_per_month: f64,
    /// In the mean.
    pub bytes_per_s: f64,
    /// Whether no other is better in everything.
    pub is_front: bool,
    /// Whether it is what ships.
    pub is_shipped: bool,
    /// Whether it has all that is wished, for the least bytes.
    pub is_chosen: bool,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The front after {} runs: no other is better in everything (* ships, > chosen)", self.runs)?;
        writeln!(f, "{} more settings were drawn, and promise less than is wished.", self.unpromising)?;
        if self.is_cut_short {
            writeln!(f, "The time was over before all was measured; --time-max gives more.")?;
        }
        writeln!(f, "   detect p99    false/month   B/s, member  settings")?;
        let shown = self.candidates.iter().enumerate();
        for (place, one) in shown.filter(|(place, one)| one.is_front || one.is_shipped || self.chosen == Some(*place)) {
            let mark = match (one.is_shipped, self.chosen == Some(place)) {
                (true, true) => "*>",
                (true, false) => "* ",
                (false, true) => " >",
                (false, false) => "  ",
            };
            let measured = &one.measured;
            let falses = match measured.falses {
                0.0 => format!("0 (< {:.0})", measured.false_below()),
                _ => format!("{:.0}", measured.false_per_month()),
            };
            let failed = if measured.failures > 0 { ", did not settle" } else { "" };
            let (detect, bytes) = (written(0, measured.detect_p99_ms()), measured.bytes_per_s());
            writeln!(f, "{mark} {detect:>10} {falses:>14} {bytes:>13.0}  {}{failed}", one.words())?;
        }
        let Some(chosen) = self.chosen else {
            writeln!(f, "\nThe wishes cannot be met together by any settings that were tried:")?;
            return self.binding().iter().try_for_each(|line| writeln!(f, "  {line}"));
        };
        let one = &self.candidates[chosen];
        let values = one.measured.values();
        writeln!(f, "\nThe cheapest that has all that is wished:\n\n{}", Self::toml(&one.tuning))?;
        for (index, (name, wished)) in NAMES.iter().zip(self.wishes.values()).enumerate() {
            writeln!(f, "# {name}: {}, wished {}", written(index, values[index]), written(index, wished))?;
        }
        if one.measured.falses == 0.0 {
            let (hours, below) = (one.measured.hours, one.measured.false_below());
            writeln!(
                f,
                "# No false verdict was seen in {hours:.1} hours of a cluster: below {below:.0} a month with 95 % \
                 confidence (rule of three)."
            )?;
            if below > self.wishes.false_per_month {
                let needed = 3.0 * HOURS_PER_MONTH / self.wishes.false_per_month;
                let seeds = (needed / hours * one.seeds as f64).ceil();
                writeln!(
                    f,
                    "# To show {} a month takes {needed:.0} hours: --seeds {seeds:.0}.",
                    self.wishes.false_per_month
                )?;
            }
        }
        Ok(())
    }
}

/// The wishes as a person writes them.
pub fn wishes(detect_p99: Span, false_per_month: f64, budget: Rate) -> Wishes {
    Wishes { detect_p99_ms: detect_p99.0.as_secs_f64() * 1e3, false_per_month, bytes_per_s: budget.0 / 8.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(detect: u64, budget: f64) -> Question {
        Question {
            nodes: 8,
            network: NetworkName::read("lan", |_| unreachable!("a preset")).expect("a preset"),
            loss: Share(0.01),
            wishes: wishes(Span::from_secs(detect), 1e6, Rate(budget)),
            candidates: 6,
            seeds: 2,
            from: 1,
        }
    }

    #[test]
    fn wishes_that_can_be_met_give_settings_that_a_file_may_hold() {
        let answer = tune(&question(60, 1e6), false, &|| false).expect("it is a scenario");
        let chosen = &answer.candidates[answer.chosen.expect("these are modest wishes")];
        assert!(chosen.measured.detect_p99_ms() <= 60_000.0 && answer.runs > 6);
        let text = format!("lasts = \"1s\"\n[topology]\nnodes = 3\n{}", Answer::toml(&chosen.tuning));
        let read = Scenario::parse(&text, "x").expect("the settings can be read").tuning.tuning();
        assert_eq!(read, chosen.tuning);
        assert!(answer.candidates.iter().any(|one| one.is_shipped) && answer.candidates.iter().any(|one| one.is_front));
        let text = answer.to_string();
        assert!(text.contains("[tuning]") && text.contains("rule of three"), "{text}");
    }

    #[test]
    fn wishes_that_cannot_be_met_are_told_with_what_binds() {
        let answer = tune(&question(60, 10.0), false, &|| false).expect("it is a scenario");
        assert_eq!(answer.chosen, None);
        let text = answer.to_string();
        assert!(text.contains("cannot be met") && text.contains("bytes a second and member binds"), "{text}");
        let both = Answer { wishes: wishes(Span::from_millis(1), 1e6, Rate(10.0)), ..answer };
        assert!(both.binding()[0].starts_with("no two of the wishes"), "{:?}", both.binding());
    }

    #[test]
    fn when_the_time_is_over_what_was_measured_is_answered() {
        let calls = std::sync::atomic::AtomicUsize::new(0);
        // Asked before each run: three are made.
        let is_over = || calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= 3;
        let answer = tune(&question(60, 1e6), false, &is_over).expect("something was measured");
        assert!(answer.is_cut_short && answer.runs == 3 && answer.candidates.len() == 3, "{answer}");
        assert!(answer.to_string().contains("--time-max"));
        assert!(tune(&question(60, 1e6), false, &|| true).is_err());
    }

    #[test]
    fn only_settings_that_promise_what_is_wished_are_measured_if_there_are_enough() {
        let question = question(2, 20_000.0);
        let conditions = question.conditions(&question.scenario().expect("it is a scenario"));
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let drawn: Vec<Tuning> =
            (0..200).filter_map(|_| draw(&mut rng, &Tuning::default(), SPREAD.ln(), 1.0)).collect();
        let p99 = |tuning: &Tuning| Promise::of(tuning, &conditions).detect_p99.as_secs_f64();
        assert!(drawn.iter().filter(|tuning| p99(tuning) > 2.5).count() > 20, "many are too slow");
        let kept = promising(drawn, 20, &question.wishes, &conditions);
        assert!(kept.len() == 20 && kept.iter().all(|tuning| p99(tuning) <= 2.5), "none of these is");
    }

    #[test]
    fn a_measured_matrix_becomes_zones() {
        let text = r#"{"zones": ["a", "b"], "rtt_ms": [[0.5, 40], [40, 0.5]]}"#;
        let network = NetworkName::read("matrix.json", |_| Ok(text.to_owned())).expect("well formed");
        let scenario = Question { network, ..question(1, 1.0) }.scenario().expect("it is a scenario");
        assert_eq!(scenario.network().zones.len(), 2);
        let missing = NetworkName::read("moon", |_| Err(std::io::ErrorKind::NotFound.into())).expect_err("nothing");
        assert!(missing.contains("moon") && missing.contains("lan"), "{missing}");
        assert!(Question { nodes: 5, ..question(1, 1.0) }.scenario().is_err());
    }

    #[test]
    fn what_is_drawn_goes_together_and_is_in_range() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
        for _ in 0..200 {
            let tuning = draw(&mut rng, &Tuning::default(), SPREAD.ln(), 1.0).expect("there are many that do");
            assert_eq!(knobs::check(&tuning), Ok(()));
        }
        assert_eq!(rounded(Duration::from_micros(123_456)), Duration::from_millis(120));
    }
}
