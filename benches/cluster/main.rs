//! Measures whole clusters of real `tidings node` processes on loopback, and says whether each target holds.
//!
//! `cargo bench --bench cluster -- EXPERIMENT`. Without an experiment it runs a small set that ends within a minute.

mod experiments;
mod faults;
mod figures;
mod fleet;
mod hostile;
mod keys;
mod network;
mod process;
mod relay;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use figures::{Found, Report};

const USAGE: &str = "\
usage: cargo bench --bench cluster -- [EXPERIMENT ...] [OPTION ...]

experiments (their own numbers of members and trials stand behind them):
  join      start members through one seed; until every view holds all         50, 20
  change    change a tag; until the last of the others tells it                 50, 100
  late      a member joins long after all registrations; until it knows all    50, 5
  idle      traffic, CPU time and memory of members that do nothing            50
  restart   kill -9 and restart, with and without the data directory           10, 20 each
  large     a 20 KiB record reaches all; one above the limit is refused        20, 5
  leave     leave by SIGTERM and by command; until the others tell it          20, 40
  crash     kill -9; until the others tell it                                  20, 10
  stop      a member stands still for two seconds; nobody calls it dead        20, 10
  freeze    five members stand still 4 s of 5; then all beside two busy loops  50
  rotate    another cluster key in a running cluster, while one is away         20
  encrypt   encryption is turned on in a running cluster                       10
  replay    all that was said is said again: to its receiver, elsewhere, later 10
  flood     100,000 hostile datagrams a second at one member                   10
  all       each of these
  loss      10, 20, 30 % of all datagrams are lost; crashes at 10 %            50, 7
  flap      five members are cut off 4 s of 5                                  50
  silent    a host dies with its member: nothing answers in its place          20, 10 each
  smoke     a small set of these; the default

The last three drop packets. They need root, nft, ip, and a network of their own: `unshare --net cargo bench ...`.

options:
  --nodes N      members
  --trials N     repetitions
  --span TIME    idle: measured time (default 300s); stop: time watched after each stop (default 15s); replay: time
                 listened (default 60s); flood: its time (default 30s); freeze, loss, flap: time of each part (60s)
  --key          the members have a cluster key: all they say is sealed (rotate, replay and flood always have one)
  --after TIME   late: time between the last registration and the join (default 60s)
  --pause TIME   change: time between two changes (default 300ms)
  --tuning N=V   a setting of all members, as of `tidings node`; may be given again. With evict_after=2s a trial of
                 crash, loss or silent takes a third of the time; what they measure comes before that
  --log FILTER   the members' RUST_LOG; their standard error is kept with the state (see --state)
  --state DIR    keep data directories and standard error there, instead of a directory that is removed
  --json FILE    write the figures there as well, as JSON

A time is a whole number with ms or s. The exit code is 1 if a target or a promise does not hold.
Under `cargo test --benches` promises are checked, but no times: unoptimised code has no figures worth judging.";

/// What an experiment may be told; each has defaults of its own.
#[derive(Clone, Default, Debug)]
struct Options {
    nodes: Option<usize>,
    trials: Option<usize>,
    span: Option<Duration>,
    after: Option<Duration>,
    pause: Option<Duration>,
    log: Option<String>,
    /// Settings of the protocol, as `tidings node --tuning` takes them.
    tuning: Vec<String>,
    state: Option<PathBuf>,
    json: Option<PathBuf>,
    has_key: bool,
    /// Whether times are judged, and not only promises.
    is_timed: bool,
}

type Experiment = fn(&Options, &mut Report) -> Result<(), fleet::FleetError>;

const EXPERIMENTS: &[(&str, Experiment)] = &[
    ("join", experiments::join),
    ("change", experiments::change),
    ("late", experiments::late),
    ("idle", experiments::idle),
    ("restart", experiments::restart),
    ("large", experiments::large),
    ("leave", experiments::leave),
    ("crash", faults::crash),
    ("stop", faults::stop),
    ("freeze", faults::freeze),
    ("rotate", keys::rotate),
    ("encrypt", keys::encrypt),
    ("replay", hostile::replay),
    ("flood", hostile::flood),
];

/// Those that drop packets, and need a network namespace of their own.
const NETWORKED: &[(&str, Experiment)] = &[("loss", faults::loss), ("flap", faults::flap), ("silent", faults::silent)];

/// What the default set runs: experiment, members, trials, and seconds of those that have a span.
const SMOKE: &[(&str, usize, usize, u64)] = &[
    ("join", 8, 2, 0),
    ("change", 8, 5, 0),
    ("restart", 4, 2, 0),
    ("large", 4, 1, 0),
    ("leave", 5, 2, 0),
    ("rotate", 4, 1, 0),
    ("encrypt", 3, 1, 0),
    ("replay", 3, 1, 3),
    ("flood", 3, 1, 3),
];

fn main() -> ExitCode {
    let (names, options) = match read_arguments(std::env::args().skip(1)) {
        Ok(Some(read)) => read,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("{wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = process::kill_all_on_signals() {
        eprintln!("signals cannot be caught: {error}");
        return ExitCode::FAILURE;
    }
    let (mut holds, mut all_found) = (true, Vec::new());
    for (name, options) in planned(&names, &options) {
        let (held, found) = run(name, &options);
        holds &= held;
        all_found.push(found);
        // After each, so that whoever interrupts the next keeps what there is.
        if let Some(path) = &options.json
            && let Err(error) = figures::write_json(path, &all_found)
        {
            eprintln!("{} cannot be written: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn known(name: &str) -> Option<&'static (&'static str, Experiment)> {
    EXPERIMENTS.iter().chain(NETWORKED).find(|(known, _)| *known == name)
}

fn run(name: &'static str, options: &Options) -> (bool, Found) {
    let (_, experiment) = known(name).expect("names were checked");
    let mut report = Report::new(name, options.is_timed);
    if let Err(error) = experiment(options, &mut report) {
        report.miss(&error.to_string());
    }
    report.end()
}

/// Each experiment to run, with its options.
fn planned(names: &[&'static str], options: &Options) -> Vec<(&'static str, Options)> {
    let smoke = SMOKE.iter().map(|&(name, nodes, trials, seconds)| {
        let (nodes, trials) = (options.nodes.or(Some(nodes)), options.trials.or(Some(trials)));
        let span = options.span.or(Some(Duration::from_secs(seconds)));
        (name, Options { nodes, trials, span, ..options.clone() })
    });
    if names.is_empty() { smoke.collect() } else { names.iter().map(|name| (*name, options.clone())).collect() }
}

/// The experiments and options; `None` if help was asked for.
fn read_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Option<(Vec<&'static str>, Options)>, String> {
    let (mut names, mut options) = (Vec::new(), Options::default());
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--nodes" => options.nodes = Some(count(&argument, &value()?, 2)?),
            "--trials" => options.trials = Some(count(&argument, &value()?, 1)?),
            "--span" => options.span = Some(time(&argument, &value()?)?),
            "--after" => options.after = Some(time(&argument, &value()?)?),
            "--pause" => options.pause = Some(time(&argument, &value()?)?),
            "--key" => options.has_key = true,
            "--tuning" => options.tuning.push(value()?),
            "--log" => options.log = Some(value()?),
            "--state" => options.state = Some(PathBuf::from(value()?)),
            "--json" => options.json = Some(PathBuf::from(value()?)),
            // What cargo itself passes: `cargo bench` the first, `cargo test --benches` nothing or the second.
            "--bench" => options.is_timed = true,
            "--test" => {}
            "--help" | "-h" => return Ok(None),
            "all" => names.extend(EXPERIMENTS.iter().map(|(name, _)| *name)),
            "smoke" => names.clear(),
            name => match known(name) {
                Some((known, _)) => names.push(*known),
                None => return Err(format!("{name:?} is neither an experiment nor an option")),
            },
        }
    }
    Ok(Some((names, options)))
}

fn count(option: &str, text: &str, least: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=fleet::NODES_MAX).contains(number));
    number.ok_or_else(|| format!("{option} {text:?} is not a number from {least} to {}", fleet::NODES_MAX))
}

fn time(option: &str, text: &str) -> Result<Duration, String> {
    let (digits, millis) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1_000),
        (None, None) => (text, 0),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(millis)).filter(|_| millis > 0);
    number.map(Duration::from_millis).ok_or_else(|| format!("{option} {text:?} is not a whole number with ms or s"))
}
