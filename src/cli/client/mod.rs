//! Commands that ask a running agent: what can be typed, and which question that is. Nothing here is a member.

mod diff;
mod doctor;
mod http;
mod keys;
mod read;
mod show;
#[cfg(all(unix, feature = "template"))]
mod template;
#[cfg(feature = "top")]
mod top;
mod wish;
mod write;

pub(super) use http::TOKEN_VARIABLE;
use std::io::IsTerminal as _;

use serde_json::Value;

use super::exit::Failure;
use super::output::Output;
use http::{Api, ApiArgs};
use show::{Format, Sheet};

/// What can be asked of an agent.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Members(read::MembersArgs),
    Services(read::ServicesArgs),
    Get(read::GetArgs),
    Watch(read::WatchArgs),
    Offers(read::OffersArgs),
    Explain(read::ExplainArgs),
    Events(read::EventsArgs),
    Rtt(read::RttArgs),
    Stats(read::StatsArgs),
    Register(Box<write::RegisterArgs>),
    Deregister(write::DeregisterArgs),
    Maint(write::MaintArgs),
    Weight(write::WeightArgs),
    Drain(write::DrainArgs),
    Join(write::JoinArgs),
    Leave(write::LeaveArgs),
    Forget(write::ForgetArgs),
    Keys(keys::Args),
    Diff(diff::Args),
    #[cfg(feature = "top")]
    Top(top::Args),
    #[cfg(all(unix, feature = "template"))]
    Template(template::Args),
    Doctor(doctor::Args),
    Debug(doctor::DebugArgs),
}

/// Asks, and shows the answer.
///
/// # Errors
/// What went wrong, with the exit code.
pub(super) async fn run(command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Members(args) => read::members(args, output).await,
        Command::Services(args) => read::services(args, output).await,
        Command::Get(args) => read::get(args, output).await,
        Command::Watch(args) => read::watch(args, output).await,
        Command::Offers(args) => read::offers(args, output).await,
        Command::Explain(args) => read::explain(args, output).await,
        Command::Events(args) => read::events(args, output).await,
        Command::Rtt(args) => read::rtt(args, output).await,
        Command::Stats(args) => read::stats(args, output).await,
        Command::Register(args) => write::register(*args, output).await,
        Command::Deregister(args) => write::deregister(args, output).await,
        Command::Maint(args) => write::maint(args, output).await,
        Command::Weight(args) => write::weight(args, output).await,
        Command::Drain(args) => write::drain(args, output).await,
        Command::Join(args) => write::join(args, output).await,
        Command::Leave(args) => write::leave(args, output).await,
        Command::Forget(args) => write::forget(args, output).await,
        Command::Keys(args) => keys::run(args, output).await,
        Command::Diff(args) => diff::run(args, output).await,
        #[cfg(feature = "top")]
        Command::Top(args) => top::run(args).await,
        #[cfg(all(unix, feature = "template"))]
        Command::Template(args) => template::run(args, output).await,
        Command::Doctor(args) => doctor::run(args, output).await,
        Command::Debug(args) => doctor::debug(args, output).await,
    }
}

/// What every command here takes.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    api: ApiArgs,

    /// How the answer looks
    #[arg(long, short, env = "TIDINGS_CLIENT_OUTPUT", value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
}

/// How an answer is shown here.
struct Screen<'a> {
    output: &'a Output,
    format: Format,
    width: usize,
    is_terminal: bool,
    is_coloured: bool,
}

impl<'a> Screen<'a> {
    fn new(format: Format, output: &'a Output) -> Self {
        let stdout = std::io::stdout();
        let width = terminal_size::terminal_size_of(&stdout).map(|(width, _)| usize::from(width.0));
        Self {
            output,
            format,
            // Nobody cuts what goes into a pipe: a program reads it.
            width: width.unwrap_or(usize::MAX),
            is_terminal: stdout.is_terminal(),
            is_coloured: anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
        }
    }

    /// Whether it is for people.
    fn is_table(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Shows an answer; nobody may be left to read it, which is no failure, but the end.
    async fn show(&self, sheet: &Sheet<'_>) -> Result<bool, Failure> {
        let text = sheet.text(self.format, self.width, self.is_coloured)?;
        Ok(self.output.text(text).await.is_ok())
    }

    /// The same in place of the one before.
    async fn show_again(&self, sheet: &Sheet<'_>, is_first: bool) -> Result<bool, Failure> {
        let between = match self.format {
            Format::Table | Format::Wide if self.is_terminal => "\x1b[2J\x1b[3J\x1b[H",
            _ if is_first => "",
            Format::Table | Format::Wide => "\n",
            Format::Yaml => "---\n",
            Format::Json | Format::Jsonl => "",
        };
        let text = sheet.text(self.format, self.width, self.is_coloured)?;
        Ok(self.output.text(format!("{between}{text}")).await.is_ok())
    }

    /// A line of many; whether anybody reads on.
    async fn line(&self, line: String) -> bool {
        let line = if self.is_coloured { line } else { anstream::adapter::strip_str(&line).to_string() };
        self.output.line(line).await.is_ok()
    }

    /// What an agent says that it did.
    async fn done(&self, answer: &Value) -> Result<(), Failure> {
        if self.is_table() {
            self.line(super::table::printable(&show::text(answer, "/done"))).await;
            return Ok(());
        }
        let sheet = Sheet { whole: answer, rows: vec![answer], columns: &[], nothing: "", notice: None };
        self.show(&sheet).await.map(drop)
    }
}

impl Common {
    fn open<'a>(&self, output: &'a Output) -> Result<(Api, Screen<'a>), Failure> {
        Ok((Api::of(&self.api)?, Screen::new(self.output, output)))
    }
}
