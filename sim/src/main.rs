//! The `tidings-sim` command: runs scenarios, sweeps, random trials and experiments, and says whether all held.

use std::env;
use std::fs;
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::ParallelProgressIterator;
use rayon::prelude::*;
use tidings::node::Tuning;
use tidings::time::Time;
use tidings_sim::compare::Comparison;
use tidings_sim::experiment::{ALL, Experiment, Setting};
use tidings_sim::foca_node::FocaSettings;
use tidings_sim::fuzz::{self, Kind};
use tidings_sim::link::Preset;
use tidings_sim::oracle::Anomaly;
use tidings_sim::page::{ResultFile, page};
use tidings_sim::replay::{self, Until};
use tidings_sim::report::{Found, Summary, run_seed, run_seeds};
use tidings_sim::run::{Options, Outcome, Phase, run};
use tidings_sim::scenario::Scenario;
use tidings_sim::sweep::{self, Axis};
use tidings_sim::tune::{self, NetworkName, Question};
use tidings_sim::units::{Rate, Share, Span};
use tidings_sim::world::HOSTS_MAX;
use tidings_sim::{Mode, library, oracle};

/// Rehearse what can happen to a tidings cluster, in simulated time.
///
/// Exit code 0: everything held. 1: something did not. 2: the command line or a scenario is wrong.
#[derive(Parser)]
#[command(name = "tidings-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario of the library, or a file, and show every figure.
    Run(RunArgs),
    /// Show the library of scenarios.
    List,
    /// Run a scenario at every point of a grid of settings.
    Sweep(SweepArgs),
    /// Search the settings of the protocol for what you wish, and say what that costs.
    ///
    /// Exit code 0: there are such settings. 1: the wishes cannot be met together.
    Tune(TuneArgs),
    /// Run random scenarios, and shrink what fails to a file that replays it.
    Fuzz(FuzzArgs),
    /// Compare foca alone in this world with theory and with others' measurements.
    Oracle(OracleArgs),
    /// Run Lifeguard's Interval grid: 432 cells of 128 members, some of them anomalous again and again.
    Lifeguard(LifeguardArgs),
    /// Write results as one page that needs nothing else.
    Report(ReportArgs),
    /// Tell a recording of a live member to the same core again, and compare what comes of it.
    ///
    /// Exit code 0: all was as it was then. 1: something was not. 2: the file is no whole recording.
    Replay(ReplayArgs),
    /// Run an experiment with a target (or `all`).
    Experiment(ExperimentArgs),
    /// Put what real processes measured (`cargo bench --bench cluster -- --json FILE`) beside what was measured here.
    ///
    /// Prints a table in Markdown. Exit code 0: all medians are alike, from 0.7 to 1.4 times those of real processes.
    /// 1: one is not, and stands with a mark. 2: the files hold nothing that can be compared.
    Compare(CompareArgs),
}

#[derive(Args)]
struct RunArgs {
    /// A file, or a name of `tidings-sim list`; `all` runs the whole library.
    scenario: String,
    /// What draws everything.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seeds from there on, on all cores; of several only what failed is told, and the figures' means.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Members, in place of the scenario's.
    #[arg(long)]
    nodes: Option<usize>,
    /// Another setting in place of the scenario's: `tuning.tries=4`. May be given again.
    #[arg(long, value_name = "SETTING=VALUE")]
    set: Vec<Axis>,
    /// Write a line per event here.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the outcome here, as JSON, with what `tidings-sim report` needs.
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
}

#[derive(Args)]
struct SweepArgs {
    /// A file, or a name of `tidings-sim list`.
    scenario: String,
    /// A setting and its values: `probe_interval=0.5s,1s,2s`. May be given again.
    #[arg(long, required = true, value_name = "SETTING=VALUE,..")]
    grid: Vec<Axis>,
    /// Seeds of each point.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How the rows are written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

#[derive(Args)]
struct FuzzArgs {
    /// How many seeds.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Kinds of fault that are left out, by name. May be given again.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    without: Vec<Kind>,
    /// Also print each seed's hash over everything that happened, for comparing builds.
    #[arg(long)]
    hashes: bool,
    /// Where failing scenarios are written.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Args)]
struct LifeguardArgs {
    /// What runs on the hosts; foca with alpha 5, as the paper's SWIM arm.
    #[arg(long, value_enum, default_value_t = Subject::Tidings)]
    mode: Subject,
    /// What befalls an anomalous member.
    #[arg(long, value_enum, default_value_t = Ailment::Freeze)]
    anomaly: Ailment,
    /// Repetitions of each cell.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repetitions: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Subject {
    Tidings,
    Foca,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ailment {
    Freeze,
    Block,
    Isolate,
}

#[derive(Args)]
struct ReportArgs {
    /// Files of `run --result` and `sweep --format json`.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// Where the page goes.
    #[arg(short, long, default_value = "report.html")]
    output: PathBuf,
}

#[derive(Args)]
struct TuneArgs {
    /// Members.
    #[arg(long, default_value_t = 50)]
    nodes: usize,
    /// The links: loopback, lan, region3, wan5, mobile, or a file such as
    /// {"zones": ["a", "b"], "rtt_ms": [[0.5, 2], [2, 0.5]]}.
    #[arg(long, default_value = "lan", value_name = "NAME|FILE")]
    rtt: String,
    /// The share of packets that every link loses: 0.01 or 1%.
    #[arg(long, default_value = "0")]
    loss: Share,
    /// 99 of 100 crashes are to be known to every member within this time.
    #[arg(long, default_value = "10s", value_name = "TIME")]
    detect_p99: Span,
    /// Healthy members of the whole cluster that may be called dead in a month.
    #[arg(long, default_value_t = 1.0)]
    false_per_month: f64,
    /// What each member may send, in the mean: 20kbit/s.
    #[arg(long, default_value = "20kbit/s", value_name = "RATE")]
    budget: Rate,
    /// Settings that are tried at first.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(2..))]
    candidates: u16,
    /// Seeds with which the best are measured; each simulates about two minutes of the cluster.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How long the search may take; what was measured by then is answered.
    #[arg(long, default_value = "5m", value_name = "TIME")]
    time_max: Span,
    /// Write all candidates here, as JSON, for `tidings-sim report`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct ReplayArgs {
    /// A file that `tidings node --record` wrote.
    recording: PathBuf,
    /// Stop behind this input (by its number), or before the first input after this time since the member's start
    /// (`90s`), and show the node's state.
    #[arg(long, value_name = "N|TIME")]
    until: Option<Until>,
    /// Print a line for every input and every output.
    #[arg(long)]
    print: bool,
}

#[derive(Args)]
struct OracleArgs {
    /// Crashes for the first detection.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(2..))]
    crashes: u64,
    /// Probes for each cell of the table of false detections.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    probes: u64,
    /// Repetitions of each cell of Lifeguard's Threshold grid.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    repetitions: u64,
}

#[derive(Args)]
struct ExperimentArgs {
    /// Its name; `all` runs all.
    name: String,
    /// How many seeds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many nodes, in place of the experiment's own number.
    ///
    /// The targets are those for its own number in a data centre, and are judged all the same.
    #[arg(long, value_parser = nodes)]
    nodes: Option<usize>,
    /// The links: loopback, lan, region3, wan5, mobile. On loopback all nodes share two processors as well.
    #[arg(long, value_name = "NAME")]
    network: Option<Preset>,
    /// Write the figures to this file as well, as JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    json: Option<PathBuf>,
    /// Run the first seed only, with a line per event on standard error.
    #[arg(long)]
    trace: bool,
}

#[derive(Args)]
struct CompareArgs {
    /// What real processes measured.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    real: Vec<PathBuf>,
    /// What `tidings-sim experiment --json` measured.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    simulated: Vec<PathBuf>,
}

/// Nodes of an experiment: enough that five may leave.
fn nodes(text: &str) -> Result<usize, String> {
    let range = 10..=HOSTS_MAX - 1;
    text.parse()
        .ok()
        .filter(|nodes| range.contains(nodes))
        .ok_or_else(|| format!("not a number from 10 to {}", range.end()))
}

/// Why a command did not come to an end.
enum Trouble {
    /// What was asked for makes no sense.
    Wrong(String),
    /// The answer could not be written.
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Starts this program anew with an allocator that asks for huge pages: a large world is memory in which everything is
/// far from everything else, and almost half of its time went into finding pages. glibc takes that wish from the
/// environment only. Where it cannot be had, the world is slower and otherwise the same.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn take_huge_pages() {
    use std::os::unix::process::CommandExt;

    const TUNABLES: &str = "GLIBC_TUNABLES";
    const WISH: &str = "glibc.malloc.hugetlb";
    let known = env::var(TUNABLES).unwrap_or_default();
    if known.contains(WISH) {
        return;
    }
    let wish = if known.is_empty() { format!("{WISH}=1") } else { format!("{known}:{WISH}=1") };
    if let Ok(program) = env::current_exe() {
        let mut anew = process::Command::new(program);
        let mut args = env::args_os();
        if let Some(name) = args.next() {
            anew.arg0(name);
        }
        // It comes back only if it failed.
        let _ = anew.args(args).env(TUNABLES, wish).exec();
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn take_huge_pages() {}

fn main() -> ExitCode {
    take_huge_pages();
    let done = match Cli::parse().command {
        Command::Run(args) => run_command(&args),
        Command::List => write!(io::stdout(), "{}", library::listing()).map(|()| true).map_err(Trouble::from),
        Command::Sweep(args) => sweep_command(&args),
        Command::Fuzz(args) => fuzz_command(&args),
        Command::Oracle(args) => oracle_command(&args),
        Command::Lifeguard(args) => lifeguard_command(&args),
        Command::Report(args) => report_command(&args),
        Command::Tune(args) => tune_command(&args),
        Command::Replay(args) => replay_command(&args),
        Command::Experiment(args) => experiment_command(&args),
        Command::Compare(args) => compare_command(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // A reader who closed the pipe has seen enough.
        Err(Trouble::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Trouble::Io(error)) => {
            eprintln!("tidings-sim: {error}");
            ExitCode::FAILURE
        }
        Err(Trouble::Wrong(what)) => {
            eprintln!("tidings-sim: {what}");
            ExitCode::from(2)
        }
    }
}

/// The text of a scenario, and how it is called in errors.
fn scenario_text(name: &str) -> Result<(String, String), Trouble> {
    if let Some(text) = library::text(name) {
        return Ok((text.to_owned(), name.to_owned()));
    }
    let text = fs::read_to_string(name).map_err(|error| {
        Trouble::Wrong(format!("{name} is neither in the library (tidings-sim list) nor a readable file: {error}"))
    })?;
    Ok((text, name.to_owned()))
}

fn run_command(args: &RunArgs) -> Result<bool, Trouble> {
    if args.scenario != "all" {
        return run_one(&args.scenario, args);
    }
    let mut all_hold = true;
    for (name, _) in library::LIBRARY {
        all_hold &= run_one(name, args)?;
    }
    Ok(all_hold)
}

fn run_one(name: &str, args: &RunArgs) -> Result<bool, Trouble> {
    let (text, origin) = scenario_text(name)?;
    let mut point: Vec<(String, String)> = Vec::new();
    point.extend(args.nodes.map(|nodes| ("nodes".to_owned(), nodes.to_string())));
    point.extend(args.set.iter().map(|axis| (axis.name.clone(), axis.values.join(","))));
    let scenario = sweep::at_point(&text, &origin, &point).map_err(|error| Trouble::Wrong(error.to_string()))?;
    if args.seeds > 1 {
        return run_many(name, &scenario, args);
    }
    let trace = args.trace.as_ref().map(fs::File::create).transpose()?;
    #[expect(clippy::disallowed_methods, reason = "how long a person waited is no part of the run")]
    let begin = Instant::now();
    let phases = Arc::new(Mutex::new(Vec::new()));
    let ended = Arc::clone(&phases);
    let options = Options {
        trace: trace.map(|file| Box::new(BufWriter::new(file)) as Box<dyn Write + Send>),
        films: args.result.is_some(),
        on_phase: Some(Box::new(move |phase, at| {
            let took = (phase, at.since(Time::ZERO).as_secs_f64(), begin.elapsed().as_secs_f64());
            ended.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        })),
    };
    let outcome = run(&scenario, args.seed, options);
    let wall = begin.elapsed().as_secs_f64();
    let mut out = io::stdout().lock();
    writeln!(out, "{name}: seed {}, {} nodes, hash {}", args.seed, scenario.topology.nodes, outcome.hash)?;
    for (figure, value) in &outcome.figures {
        writeln!(out, "  {figure:<28} {value:>14.3}")?;
    }
    let speed = outcome.simulated_s / wall.max(1e-9);
    writeln!(out, "  {:.1} s simulated in {wall:.1} s: {speed:.0} to 1", outcome.simulated_s)?;
    let (mut simulated_before, mut wall_before) = (0.0, 0.0);
    for &(phase, simulated, wall) in phases.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let (simulated_s, wall_s) = (simulated - simulated_before, wall - wall_before);
        let word = match phase {
            Phase::Joined => "joining",
            Phase::Lasted => "timeline",
            Phase::Settled => "settling",
        };
        let speed = simulated_s / f64::max(wall_s, 1e-9);
        writeln!(out, "    {word:<10} {simulated_s:>9.1} s in {wall_s:>7.2} s: {speed:.0} to 1")?;
        (simulated_before, wall_before) = (simulated, wall);
    }
    if let Some(path) = &args.result {
        fs::write(path, serde_json::to_vec(&outcome).map_err(io::Error::from)?)?;
    }
    verdict(&mut out, name, &scenario, &[outcome])
}

fn run_many(name: &str, scenario: &Scenario, args: &RunArgs) -> Result<bool, Trouble> {
    let bar = sweep::progress(args.seeds, io::stderr().is_terminal());
    let seeds: Vec<u64> = (0..args.seeds).map(|index| args.seed.wrapping_add(index)).collect();
    let outcomes: Vec<Outcome> =
        seeds.into_par_iter().progress_with(bar).map(|seed| run(scenario, seed, Options::default())).collect();
    let mut out = io::stdout().lock();
    let names: std::collections::BTreeSet<&String> = outcomes.iter().flat_map(|o| o.figures.keys()).collect();
    for figure in names {
        let values: Vec<f64> = outcomes.iter().filter_map(|o| o.figures.get(figure).copied()).collect();
        let mean = sweep::mean(&values);
        let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), value| (a.min(*value), b.max(*value)));
        writeln!(
            out,
            "  {figure:<28} {:>14.3} ±{:.3}, from {least:.3} to {most:.3} ({} seeds)",
            mean.mean, mean.ci95, mean.seeds
        )?;
    }
    verdict(&mut out, name, scenario, &outcomes)
}

/// Tells what failed, and whether that is as it should be: a scenario that is known to fail must not be well.
fn verdict(out: &mut impl Write, name: &str, scenario: &Scenario, outcomes: &[Outcome]) -> Result<bool, Trouble> {
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_pass()) {
        for failure in &outcome.failures {
            writeln!(out, "  FAILED seed {}: {failure}", outcome.seed)?;
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.is_pass()).count();
    let all = outcomes.len();
    let is_well = match (&scenario.known_to_fail, failed) {
        (None, 0) => {
            writeln!(out, "pass {name}: {all} of {all} seeds held")?;
            true
        }
        (None, _) => {
            writeln!(out, "FAIL {name}: {failed} of {all} seeds did not hold")?;
            false
        }
        (Some(why), 0) => {
            writeln!(out, "pass {name}: it held, though it is known to fail ({why}): is the mark out of date?")?;
            true
        }
        (Some(why), _) => {
            writeln!(out, "pass {name}: {failed} of {all} seeds failed, as is known: {why}")?;
            true
        }
    };
    Ok(is_well)
}

fn sweep_command(args: &SweepArgs) -> Result<bool, Trouble> {
    let (text, origin) = scenario_text(&args.scenario)?;
    let rows = sweep::sweep(&text, &origin, &args.grid, args.from, args.seeds, io::stderr().is_terminal());
    let rows = rows.map_err(|error| Trouble::Wrong(error.to_string()))?;
    let mut out = io::stdout().lock();
    match args.format {
        Format::Table => write!(out, "{}", sweep::table(&rows))?,
        Format::Csv => sweep::csv(&rows, &mut out).map_err(io::Error::from)?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rows).map_err(io::Error::from)?)?,
    }
    for row in rows.iter().filter(|row| !row.failures.is_empty()) {
        let (seed, why) = &row.failures[0];
        eprintln!("{:?}: {} seeds failed, the first {seed}: {why}", row.point, row.failures.len());
    }
    Ok(true)
}

fn kind(name: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("there are {}", names()))
}

fn fuzz_command(args: &FuzzArgs) -> Result<bool, Trouble> {
    let last = args.from.wrapping_add(args.seeds - 1);
    writeln!(io::stdout(), "seeds {} to {last}", args.from)?;
    let seeds: Vec<u64> = (0..args.seeds).map(|index| args.from.wrapping_add(index)).collect();
    let bar = sweep::progress(args.seeds, io::stderr().is_terminal());
    let outcomes: Vec<(u64, String, bool)> = seeds
        .into_par_iter()
        .progress_with(bar)
        .map(|seed| {
            let outcome = run(&fuzz::draw(seed, &args.without), seed, Options::default());
            let is_pass = outcome.is_pass();
            (seed, outcome.hash, is_pass)
        })
        .collect();
    for (seed, hash, _) in outcomes.iter().filter(|_| args.hashes) {
        writeln!(io::stdout(), "seed {seed} hash {hash}")?;
    }
    let failed: Vec<u64> = outcomes.iter().filter(|(_, _, is_pass)| !is_pass).map(|(seed, ..)| *seed).collect();
    fs::create_dir_all(&args.dir)?;
    for &seed in &failed {
        let (scenario, outcome) = fuzz::shrink(&fuzz::draw(seed, &args.without), seed);
        let path = args.dir.join(format!("fuzz-{seed}.toml"));
        fs::write(&path, fuzz::file(&scenario, &outcome, &path.display().to_string()))?;
        let failure = outcome.failures.first().map_or("", String::as_str);
        writeln!(
            io::stdout(),
            "FAILED seed {seed}: {failure}\n  replay: tidings-sim run {} --seed {seed}",
            path.display()
        )?;
    }
    writeln!(io::stdout(), "{} of {} seeds held", args.seeds - failed.len() as u64, args.seeds)?;
    Ok(failed.is_empty())
}

fn lifeguard_command(args: &LifeguardArgs) -> Result<bool, Trouble> {
    let mode = match args.mode {
        Subject::Tidings => Mode::Tidings(Tuning::default()),
        Subject::Foca => Mode::Foca(FocaSettings { suspicion: Some(5.0), ..FocaSettings::default() }, 128),
    };
    let anomaly = match args.anomaly {
        Ailment::Freeze => Anomaly::Freeze,
        Ailment::Block => Anomaly::Block,
        Ailment::Isolate => Anomaly::Isolate,
    };
    #[expect(clippy::disallowed_methods, reason = "how long a person waited is no part of the runs")]
    let begin = Instant::now();
    let sums = oracle::lifeguard_interval(&mode, anomaly, args.repetitions);
    let wall = begin.elapsed().as_secs_f64();
    let per_run = sums.datagrams as f64 / sums.runs as f64;
    writeln!(
        io::stdout(),
        "{:?}, {:?}: {} runs, FP {}, FP- {}, {per_run:.0} datagrams a run; {:.0} s simulated in {wall:.0} s",
        args.mode,
        args.anomaly,
        sums.runs,
        sums.wrong,
        sums.wrong_at_healthy,
        sums.simulated_s
    )?;
    Ok(true)
}

fn report_command(args: &ReportArgs) -> Result<bool, Trouble> {
    let mut results = Vec::new();
    for path in &args.results {
        let wrong = |what: String| Trouble::Wrong(format!("{}: {what}", path.display()));
        let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let result = serde_json::from_slice::<ResultFile>(&text).map_err(|error| wrong(error.to_string()))?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        results.push((name, result));
    }
    fs::write(&args.output, page(&results))?;
    writeln!(io::stdout(), "{}", args.output.display())?;
    Ok(true)
}

fn tune_command(args: &TuneArgs) -> Result<bool, Trouble> {
    if args.false_per_month.is_nan() || args.false_per_month <= 0.0 {
        return Err(Trouble::Wrong(
            "--false-per-month is above 0: nothing can show that there is never one".to_owned(),
        ));
    }
    let question = Question {
        nodes: args.nodes,
        network: NetworkName::read(&args.rtt, |path| fs::read_to_string(path)).map_err(Trouble::Wrong)?,
        loss: args.loss,
        wishes: tune::wishes(args.detect_p99, args.false_per_month, args.budget),
        candidates: usize::from(args.candidates),
        seeds: args.seeds,
        from: args.from,
    };
    #[expect(clippy::disallowed_methods, reason = "how long a person waits bounds the search, and no run in it")]
    let begin = Instant::now();
    let is_over = || begin.elapsed() >= args.time_max.0;
    let answer = tune::tune(&question, io::stderr().is_terminal(), &is_over).map_err(Trouble::Wrong)?;
    if let Some(path) = &args.out {
        fs::write(path, serde_json::to_vec(&answer.file()).map_err(io::Error::from)?)?;
    }
    write!(io::stdout(), "{answer}")?;
    Ok(answer.chosen.is_some())
}

fn replay_command(args: &ReplayArgs) -> Result<bool, Trouble> {
    let wrong = |what: String| Trouble::Wrong(format!("{}: {what}", args.recording.display()));
    let file = fs::File::open(&args.recording).map_err(|error| wrong(error.to_string()))?;
    let lines = args.print.then(|| Box::new(BufWriter::new(io::stdout())) as Box<dyn Write + Send>);
    let replayed = replay::replay(BufReader::new(file), args.until, lines).map_err(|error| wrong(error.to_string()))?;
    write!(io::stdout(), "{replayed}")?;
    Ok(replayed.is_equal())
}

fn oracle_command(args: &OracleArgs) -> Result<bool, Trouble> {
    let parts: [&dyn Fn() -> Vec<oracle::Comparison>; 4] = [
        &|| oracle::first_detection(args.crashes),
        &|| oracle::false_detection(args.probes),
        &oracle::message_load,
        &|| oracle::lifeguard_threshold(args.repetitions),
    ];
    let mut all_hold = true;
    for comparison in parts.iter().flat_map(|part| part()) {
        writeln!(io::stdout(), "{comparison}")?;
        all_hold &= comparison.holds();
    }
    Ok(all_hold)
}

fn experiment_command(args: &ExperimentArgs) -> Result<bool, Trouble> {
    let chosen: Vec<&Experiment> = ALL.iter().filter(|e| args.name == "all" || e.name == args.name).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = ALL.iter().map(|experiment| experiment.name).collect();
        return Err(Trouble::Wrong(format!("no experiment {:?}; there are {}, all", args.name, names.join(", "))));
    }
    let setting = Setting { nodes: args.nodes, network: args.network };
    let (mut all_pass, mut all_found) = (true, Vec::new());
    for experiment in chosen {
        let seeds = if args.trace { 1 } else { args.seeds };
        let last = args.from.wrapping_add(seeds - 1);
        let Experiment { name, about, .. } = experiment;
        let nodes = args.nodes.unwrap_or(experiment.nodes);
        writeln!(io::stdout(), "{name}: {nodes} nodes, seeds {} to {last}\n  {about}", args.from)?;
        let summary = if args.trace {
            let sink = Box::new(BufWriter::new(io::stderr()));
            let outcome = run_seed(experiment, &setting, args.from, Some(sink));
            writeln!(io::stdout(), "  hash {:016x}", outcome.hash)?;
            Summary::new(*experiment, setting, vec![outcome])
        } else {
            run_seeds(experiment, &setting, args.from, seeds)
        };
        writeln!(io::stdout(), "{summary}")?;
        all_pass &= summary.is_pass();
        all_found.push(summary.found());
    }
    if let Some(path) = &args.json {
        let mut text = serde_json::to_string_pretty(&all_found).map_err(io::Error::from)?;
        text.push('\n');
        let wrong = |error| Trouble::Wrong(format!("{} cannot be written: {error}", path.display()));
        fs::write(path, text).map_err(wrong)?;
    }
    Ok(all_pass)
}

fn compare_command(args: &CompareArgs) -> Result<bool, Trouble> {
    let (real, simulated) = (read_found(&args.real)?, read_found(&args.simulated)?);
    let comparison = Comparison::new(&real, &simulated).map_err(Trouble::Wrong)?;
    writeln!(io::stdout(), "{comparison}")?;
    Ok(comparison.is_alike())
}

fn read_found(paths: &[PathBuf]) -> Result<Vec<Found>, Trouble> {
    let read = |path: &PathBuf| -> Result<Vec<Found>, Trouble> {
        let wrong = |error: &dyn std::fmt::Display| Trouble::Wrong(format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    };
    Ok(paths.iter().map(read).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_argument_is_refused() {
        for line in [
            "",
            "nonsense",
            "run",
            "run half-split --seeds 0",
            "sweep half-split",
            "fuzz --without moon",
            "experiment join --nodes 9",
        ] {
            let words = ["tidings-sim"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line:?} was accepted");
        }
    }

    #[test]
    fn what_is_in_no_library_and_no_file_is_told() {
        assert!(matches!(scenario_text("no-such-thing"), Err(Trouble::Wrong(what)) if what.contains("no-such-thing")));
    }
}
