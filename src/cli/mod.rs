//! The command line: what can be typed, and which exit code means what. Everything it shows comes from the handle.

mod changes;
mod check;
mod config;
mod control;
mod demo;
mod exit;
mod jsonl;
mod keys;
mod limits;
mod node;
mod output;
mod signals;
mod spec;
mod table;
mod view;

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{CommandFactory as _, FromArgMatches as _};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
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
    Demo(demo::Args),
    Config(config::Args),
    Keygen(keys::KeygenArgs),
}

/// Runs the command to its end. Data goes to standard output, logs and errors to standard error.
pub(crate) fn run(arguments: &[OsString]) -> Exit {
    let result = config::parse(Cli::command(), arguments).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        start_log(cli.log_format, cli.log_level.as_ref());
        run_in_runtime(cli)
    });
    match result {
        Ok(()) => Exit::Success,
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

/// Logs go to standard error, filtered by `--log-level`, or else by `RUST_LOG`: `LEVEL` or `TARGET=LEVEL`, several with
/// commas. The filter that also matches fields brings a regular expression engine, and a megabyte into every member's
/// memory.
fn start_log(format: LogFormat, level: Option<&Targets>) {
    let asked = std::env::var("RUST_LOG").ok().filter(|_| level.is_none());
    let default = Targets::new().with_default(LevelFilter::WARN);
    let (filter, error) = match (level, asked.as_deref().map(str::parse)) {
        (Some(level), _) => (level.clone(), None),
        (None, None) => (default, None),
        (None, Some(Ok(filter))) => (filter, None),
        (None, Some(Err(error))) => (default, Some(error)),
    };
    let ansi = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(ansi)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    if let (Some(asked), Some(error)) = (asked, error) {
        tracing::warn!("RUST_LOG={asked:?} is not understood ({error}); logging warnings");
    }
}

fn run_in_runtime(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Failed, format!("no runtime: {e}")))?;
    runtime.block_on(async {
        let output = Output::start();
        let result = match cli.command {
            Command::Node(args) => node::run(*args, &output).await,
            Command::Demo(args) => demo::run(args, &output).await,
            Command::Config(args) => match config::run(&args, &Cli::command()) {
                // Nobody reads any more: that is no failure, as for every command.
                Ok(text) => output.text(text).await.or(Ok(())),
                Err(failure) => Err(failure),
            },
            Command::Keygen(args) => keys::generate(&args, &output).await,
        };
        result.and(output.finish().await)
    })
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
