//! Commands that change something: what the agent offers, and its part in the cluster.

use std::time::Duration;

use hyper::Method;
use serde_json::{Map, Value, json};
use tidings::check::Check;
use tidings::offers::Offer;

use super::super::exit::{Exit, Failure};
use super::super::output::Output;
use super::super::{check, parse_span, spec, table};
use super::Common;
use super::http::{Api, encoded};
use super::read::of_member;
use super::show::{rows, text};
use super::wish::{millis, registration};

/// How long a goodbye, or another look at a member, may take beyond a usual answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an instance's drain takes at the agent, unless it is told otherwise.
const DRAIN_DEFAULT: Duration = Duration::from_secs(600);

const REGISTER_EXAMPLES: &str = "\
Examples:
  tidings register name=web,addr=10.0.0.7:8080,tag=v1 --check 'http://10.0.0.7:8080/health interval=5s'
  tidings register name=cron,addr=10.0.0.7:1,id=cron-1 --check ttl:30s

Commands cannot be checks here: they stand in the agent's own configuration.";

/// Offer an instance through the agent, or replace the one of the same id.
#[derive(Debug, clap::Args)]
#[command(after_help = REGISTER_EXAMPLES)]
pub(in crate::cli) struct RegisterArgs {
    #[command(flatten)]
    common: Common,

    /// The instance, such as name=web,addr=127.0.0.1:8080,tag=v1; --help shows every key
    #[arg(value_name = "SPEC", value_parser = spec::parse_offer, long_help = spec::HELP)]
    offer: Offer,

    /// A check, such as http://127.0.0.1:8080/health; repeatable: the worst result counts; --help shows every key
    #[arg(long, value_name = "CHECK", value_parser = check::parse, long_help = check::HELP)]
    check: Vec<Check>,
}

/// Withdraw an instance that this agent offers.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DeregisterArgs {
    #[command(flatten)]
    common: Common,

    /// The instance's id; tidings offers lists them
    instance: String,
}

/// Take an instance, or all that this agent offers, out of service by hand, and back.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct MaintArgs {
    #[command(flatten)]
    common: Common,

    /// Out of service, or back
    #[arg(value_enum)]
    turn: Turn,

    /// The instance's id; without it, everything that this agent offers
    instance: Option<String>,

    /// Why; everybody can read it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// When it ends by itself; a number with ms, s or m
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    r#for: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Turn {
    /// Take it out of service
    On,
    /// Put it back
    Off,
}

/// Set the weight of an instance that this agent offers.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WeightArgs {
    #[command(flatten)]
    common: Common,

    /// The instance's id; tidings offers lists them
    instance: String,

    /// Its share of the traffic, 0 to 65535; 0 gets none
    #[arg(value_parser = clap::value_parser!(u32).range(0..=65_535))]
    weight: u32,
}

/// Let the agent take nothing new, finish its work, say goodbye and end; or withdraw one instance so.
///
/// Everybody who can be reached confirms that it knows before the work in progress is waited for.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DrainArgs {
    #[command(flatten)]
    common: Common,

    /// Only this instance; the agent goes on
    instance: Option<String>,

    /// How long it may take; what is not done by then is cut off, which ends with code 8
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    drain_timeout: Option<Duration>,
}

/// Join through further members, from now on.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct JoinArgs {
    #[command(flatten)]
    common: Common,

    /// Where to find members: HOST:PORT or dns:NAME:PORT
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<String>,

    /// How long to wait until one of them is a member
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_span)]
    join_timeout: Duration,
}

/// Let the agent say goodbye to everybody, and end.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct LeaveArgs {
    #[command(flatten)]
    common: Common,
}

/// Take a member that cannot be reached to be gone, everywhere. Whoever lives cannot be forgotten.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ForgetArgs {
    #[command(flatten)]
    common: Common,

    /// The member's name or id
    member: String,
}

pub(super) async fn register(args: RegisterArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let mut offer = args.offer;
    offer.checks.extend(args.check);
    let wish = registration(&offer)?;
    let offer = api.send(Method::POST, "/v2/offers", Some(&wish), Duration::ZERO).await?;
    let id = text(&offer, "/offer/record/id");
    let status = text(&offer, "/offer/record/status/state");
    let kept = if offer.pointer("/offer/kept") == Some(&Value::Bool(false)) {
        "; the agent has no data directory: a restart forgets it"
    } else {
        ""
    };
    said(offer, &format!("offers {id}, {status}{kept}"), &screen).await
}

/// Shows an answer about an offer: as it is, or for people in one line.
async fn said(mut answer: Value, line: &str, screen: &super::Screen<'_>) -> Result<(), Failure> {
    if screen.is_table() {
        answer = json!({ "done": line });
    }
    screen.done(&answer).await
}

/// What a wish about an instance came to; the offers help with an id that is not known.
async fn of_offer(api: &Api, id: &str, asked: Result<Value, Failure>) -> Result<Value, Failure> {
    match asked {
        Err(failure) if failure.exit == Exit::NotFound => {
            let known = api.get("/v2/offers").await.unwrap_or_default();
            let ids: Vec<String> = rows(&known, "/offers").iter().map(|row| text(row, "/record/id")).collect();
            let next = match spec::nearest(id, ids.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "tidings offers lists those that it does; each is withdrawn where it was registered".to_owned(),
            };
            Err(Failure::new(Exit::NotFound, format!("this agent offers no instance {id:?}; {next}")))
        }
        other => other,
    }
}

pub(super) async fn deregister(args: DeregisterArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let path = format!("/v2/offers/{}", encoded(&args.instance));
    let asked = api.send(Method::DELETE, &path, None, Duration::ZERO).await;
    screen.done(&of_offer(&api, &args.instance, asked).await?).await
}

pub(super) async fn maint(args: MaintArgs, output: &Output) -> Result<(), Failure> {
    if args.turn == Turn::Off && (args.reason.is_some() || args.r#for.is_some()) {
        return Err(Failure::new(Exit::Usage, "maint off takes neither --reason nor --for"));
    }
    let (api, screen) = args.common.open(output)?;
    let path = match &args.instance {
        Some(id) => format!("/v2/offers/{}/maintenance", encoded(id)),
        None => "/v2/maintenance".to_owned(),
    };
    let asked = match args.turn {
        Turn::On => {
            let mut wish = Map::new();
            wish.extend(args.reason.map(|reason| ("reason".to_owned(), Value::from(reason))));
            wish.extend(args.r#for.map(|span| ("for_ms".to_owned(), millis(span))));
            api.send(Method::PUT, &path, Some(&Value::Object(wish)), Duration::ZERO).await
        }
        Turn::Off => api.send(Method::DELETE, &path, None, Duration::ZERO).await,
    };
    let Some(id) = &args.instance else { return screen.done(&asked?).await };
    let offer = of_offer(&api, id, asked).await?;
    let line = match args.turn {
        Turn::On => format!("{id} is out of service"),
        Turn::Off => format!("{id} is {}", text(&offer, "/offer/record/status/state")),
    };
    said(offer, &line, &screen).await
}

pub(super) async fn weight(args: WeightArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let path = format!("/v2/offers/{}/weight", encoded(&args.instance));
    let asked = api.send(Method::PUT, &path, Some(&json!({ "weight": args.weight })), Duration::ZERO).await;
    let offer = of_offer(&api, &args.instance, asked).await?;
    said(offer, &format!("{} weighs {}", args.instance, args.weight), &screen).await
}

pub(super) async fn drain(args: DrainArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let mut wish = Map::new();
    wish.extend(args.drain_timeout.map(|span| ("timeout_ms".to_owned(), millis(span))));
    let wish = Value::Object(wish);
    let patience = args.drain_timeout.unwrap_or(DRAIN_DEFAULT) + PATIENCE;
    if let Some(id) = &args.instance {
        let path = format!("/v2/offers/{}/drain", encoded(id));
        let asked = api.send(Method::POST, &path, Some(&wish), patience).await;
        return screen.done(&of_offer(&api, id, asked).await?).await;
    }
    let drained = api.send(Method::POST, "/v2/drain", Some(&wish), patience).await?;
    let (confirmed, took) = (text(&drained, "/confirmed"), text(&drained, "/took_ms"));
    let silent: Vec<String> = rows(&drained, "/unconfirmed")
        .iter()
        .map(|row| format!("{} ({})", text(row, "/member"), text(row, "/reason")))
        .collect();
    let silent = if silent.is_empty() { String::new() } else { format!("; not confirmed by {}", silent.join(", ")) };
    let line = format!("drained within {took} ms: {confirmed} members confirmed{silent}");
    let is_clean = drained["clean"] == true;
    let left = format!("{} calls and {} tasks", text(&drained, "/calls_left"), text(&drained, "/tasks_left"));
    said(drained, &line, &screen).await?;
    if is_clean {
        return Ok(());
    }
    let next = "give it longer with --drain-timeout";
    Err(Failure::new(Exit::Forced, format!("the drain was cut off{silent}; {left} were under way; {next}")))
}

pub(super) async fn join(args: JoinArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let wish = json!({ "targets": args.targets, "timeout_ms": millis(args.join_timeout) });
    let joined = api.send(Method::POST, "/v2/join", Some(&wish), args.join_timeout).await?;
    let (found, tried) = (text(&joined, "/joined"), text(&joined, "/addresses"));
    if found.is_empty() {
        let next = "they are tried on; tidings events --event warning tells of refusals";
        let text = format!("nobody answered at {} within {:?}; {next}", table::printable(&tried), args.join_timeout);
        return Err(Failure::new(Exit::Timeout, text));
    }
    said(joined, &format!("joined {found}"), &screen).await
}

pub(super) async fn leave(args: LeaveArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    screen.done(&api.send(Method::POST, "/v2/leave", None, PATIENCE).await?).await
}

pub(super) async fn forget(args: ForgetArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let path = format!("/v2/members/{}/forget", encoded(&args.member));
    let asked = api.send(Method::POST, &path, None, PATIENCE).await;
    screen.done(&of_member(&api, &args.member, asked).await?).await
}
