//! The command line: what can be typed, and which exit code means what. Everything it shows comes from the handle.

mod changes;
mod check;
mod client;
mod config;
mod control;
mod demo;
mod dns;
mod exit;
mod http;
mod jsonl;
mod keys;
mod limits;
mod node;
mod notify;
mod output;
mod reload;
#[cfg(unix)]
mod run;
mod signals;
mod spec;
mod table;
mod view;

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{CommandFactory as _, FromArgMatches as _};
use tidings::door::Setting;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload as reload_layer;
use tracing_subscriber::util::SubscriberInitExt;

use self::exit::{Exit, Failure};
use self::output::Output;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// A service registry with no central server: members gossip what they offer, and each keeps the whole view.
#[derive(Debug, clap::Parser)]
#[command(name = "tidings", version, styles = STYLES, arg_required_else_help = true, after_help = exit::HELP)]
pub(crate) struct Cli {
    /// How lines of the log look
    #[arg(long, global = true, env = "TIDINGS_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or TARGET=LEVEL, with commas [default: RUST_LOG, or warn]
    #[arg(long, global = true, env = "TIDINGS_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<Targets>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Node(Box<node::Args>),
    #[cfg(unix)]
    Run(Box<run::Args>),
    Demo(demo::Args),
    Config(config::Args),
    Keygen(keys::KeygenArgs),
    /// Print what a shell needs to complete commands and options
    ///
    /// For bash: tidings completions bash > /etc/bash_completion.d/tidings
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of tidings, or of one of its commands
    ///
    /// To read it: tidings man node | man -l -
    Man {
        /// The command, such as node
        of: Option<String>,
    },
    #[command(flatten)]
    Client(Box<client::Command>),
}

/// Runs the command to its end. Data goes to standard output, logs and errors to standard error.
pub(crate) fn run(arguments: &[OsString]) -> Exit {
    let result = config::parse(Cli::command(), arguments).and_then(|(matches, file)| {
        let settings = config::effective(&Cli::command(), &matches, &file);
        let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        start_log(cli.log_format, cli.log_level.as_ref());
        run_in_runtime(cli, settings)
    });
    match result {
        Ok(exit) => exit,
        Err(failure) => {
            // Nobody may be left to read it, and the exit code says enough.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {failure}\n"));
            failure.exit
        }
    }
}

/// For fuzzing: whether this is a configuration file with nothing wrong.
#[cfg(fuzzing)]
pub(crate) fn reads_config(text: &str) -> bool {
    config::reads(text, Cli::command)
}

/// How lines of the log look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// Changes what is logged, once the log runs.
static LEVEL: std::sync::OnceLock<reload_layer::Handle<Targets, tracing_subscriber::Registry>> =
    std::sync::OnceLock::new();

/// Logs go to standard error, filtered by `--log-level`, or else by `RUST_LOG`: `LEVEL` or `TARGET=LEVEL`, several with
/// commas. The filter that also matches fields brings a regular expression engine, and a megabyte into every member's
/// memory.
fn start_log(format: LogFormat, level: Option<&Targets>) {
    let (filter, error) = log_filter(level);
    let (filter, handle) = reload_layer::Layer::new(filter);
    let _ = LEVEL.set(handle);
    let ansi = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(ansi)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    if let Some(error) = error {
        tracing::warn!("RUST_LOG is not understood ({error}); logging warnings");
    }
}

/// Logs from now on what is asked for, or what `RUST_LOG` says.
fn set_log_level(level: Option<&Targets>) {
    if let Some(handle) = LEVEL.get() {
        // It is gone only with the process.
        let _ = handle.reload(log_filter(level).0);
    }
}

/// What to log, and what is wrong with `RUST_LOG`.
fn log_filter(level: Option<&Targets>) -> (Targets, Option<String>) {
    let asked = std::env::var("RUST_LOG").ok().filter(|_| level.is_none());
    let default = Targets::new().with_default(LevelFilter::WARN);
    match (level, asked.as_deref().map(str::parse::<Targets>)) {
        (Some(level), _) => (level.clone(), None),
        (None, None) => (default, None),
        (None, Some(Ok(filter))) => (filter, None),
        (None, Some(Err(error))) => (default, Some(format!("{}: {error}", asked.unwrap_or_default()))),
    }
}

fn run_in_runtime(cli: Cli, settings: Vec<Setting>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Failed, format!("no runtime: {e}")))?;
    runtime.block_on(async {
        let output = Output::start();
        let success = |result: Result<(), Failure>| result.map(|()| Exit::Success);
        let result = success(match cli.command {
            // What it prints is its command's, and it has none of its own.
            #[cfg(unix)]
            Command::Run(args) => return run::run(*args, settings).await,
            Command::Node(args) => node::run(*args, settings, &output).await,
            Command::Demo(args) => demo::run(args, &output).await,
            Command::Config(args) => match config::run(&args, &Cli::command()) {
                // Nobody reads any more: that is no failure, as for every command.
                Ok(text) => output.text(text).await.or(Ok(())),
                Err(failure) => Err(failure),
            },
            Command::Keygen(args) => keys::generate(&args, &output).await,
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "tidings", &mut script);
                output.text(String::from_utf8_lossy(&script).into_owned()).await.or(Ok(()))
            }
            Command::Man { of } => match manual(of.as_deref()) {
                Ok(page) => output.text(page).await.or(Ok(())),
                Err(failure) => Err(failure),
            },
            Command::Client(command) => client::run(*command, &output).await,
        });
        let finished = success(output.finish().await);
        result.and_then(|exit| finished.map(|_| exit))
    })
}

/// The manual page in roff.
fn manual(of: Option<&str>) -> Result<String, Failure> {
    let mut all = Cli::command();
    all.build();
    let command = match of {
        None => all,
        Some(name) => {
            let known = all.get_subcommands().map(clap::Command::get_name);
            let hint = spec::nearest(name, known).map(|known| format!(", did you mean {known}?")).unwrap_or_default();
            let found = all.find_subcommand(name).cloned();
            found.ok_or_else(|| Failure::new(Exit::Usage, format!("there is no command {name:?}{hint}")))?
        }
    };
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut page);
    rendered.map_err(|error| Failure::new(Exit::Failed, format!("no manual page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Reads a span of time such as `500ms`, `30s` or `2m`.
fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let wrong = || format!("{text:?} is not a whole number followed by ms, s or m, such as 30s");
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let millis = match &text[digits..] {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_span_needs_a_unit() {
        assert_eq!(parse_span("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_span("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "30", "s", "1h", "-1s", "1.5s", "99999999999999999999s", "9999999999999999999m"] {
            assert!(parse_span(wrong).unwrap_err().contains(wrong));
        }
    }
}
