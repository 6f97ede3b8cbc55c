//! `tidings node`: runs a member and prints what it sees.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidings::door::Setting;
use tidings::door::dns::{Dns, DnsCounts, DnsPlan};
use tidings::door::http::{Http, HttpPlan};
use tidings::effect::Event;
use tidings::knobs::{self, Knob, Value};
use tidings::net::recorder::{RECORDING_BYTES_MAX, RecordPlan};
use tidings::node::Tuning;
use tidings::offers::{Existing, Offer, OfferError, Offers};
use tidings::profile::Profile;
use tidings::promise::Promise;
use tidings::record::{InstanceError, check_name};
use tidings::registry::{Advertise, JoinPolicy, Registry, Target, TargetError};
use tidings::view::{Status, StopReason};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::changes::{Change, Told};
use super::control::{self, Control, Next};
use super::dns::{self, DnsArgs};
use super::exit::{Exit, Failure};
use super::http::{self, HttpArgs};
use super::jsonl::{self, Me};
use super::keys::KeyArgs;
use super::notify::{Lives, Notify};
use super::output::{Closed, Output};
use super::reload::{self, Reloaded, Running, Settings};
use super::signals::{Hangup, Signals};
use super::view::Shown;
use super::{check, config, parse_span, spec, table};

/// The table is redrawn at most this often ...
const REDRAW_EVERY: Duration = Duration::from_millis(250);
/// ... and, for the ages in it, at least once in this many times.
const REDRAWS_IDLE: u32 = 4;

/// How long saying goodbye may take.
pub(super) const LEAVE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Instances on the command line; more are registered over the control channel.
const SERVICES_MAX: usize = 1_024;

const EXAMPLES: &str = "\
Examples:
  The first member of a cluster, and a second one that offers a service:
    tidings node --name a --cluster demo
    tidings node --name b --cluster demo --bind 127.0.0.1:7901 --join 127.0.0.1:7900 \\
        --service name=web,addr=127.0.0.1:8080,tag=v1

  For programs: events on standard output, commands on standard input:
    tidings node --name c --cluster demo --bind 127.0.0.1:7902 --join 127.0.0.1:7900 \\
        --output jsonl --control stdin

Commands of --control stdin, one a line; each is answered by a JSON line:
  register SPEC               as --service
  offer SPEC                  the same, in the place of one of that id; kept in the data directory
  update INSTANCE key=value ...
                              keys as in --service, separated by white space; a repeated key such
                              as tag replaces all its old values, an empty value removes
  withdraw INSTANCE
  tell CHECK passing|warning|critical [TEXT]
                              how it is, for a check of kind ttl
  checks                      every check, and how it stands
  maintenance on|off INSTANCE|member [for=TIME] [REASON]
                              takes an instance out, or all of this member, or lets it in again
  drain                       say that nothing new is taken, until everybody has confirmed it;
                              then say goodbye and end
  leave                       say goodbye and end
  view                        the whole view as one line
  stats                       counters
  explain MEMBER              how it came that a member is believed to be in its state
  forget MEMBER               take a member that is unreachable to be gone at once, everywhere
  keys list|add KEY|use ID|remove ID
                              the cluster keys, here and at every member; answers who lacks which

Exit codes: see tidings --help.";

/// Run a member and print the cluster view.
///
/// On a terminal the view is a table that is redrawn as it changes; into a pipe, or with --control, changes are
/// printed as lines. SIGTERM and SIGINT drain and leave the cluster, and end with code 0; a second one ends at once.
///
/// SIGHUP reads the configuration again: service, drain_timeout, log_level, and what the files of http_tokens,
/// http_cert and http_key hold change at once; all else needs a restart, which is said.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    _file: config::FileArg,

    /// The member's name, unique in the cluster
    #[arg(long, env = "TIDINGS_NAME", value_parser = |name: &str| checked("member name", name))]
    pub(super) name: String,

    /// The cluster's name; members of other clusters are refused
    #[arg(long, env = "TIDINGS_CLUSTER", value_parser = |name: &str| checked("cluster name", name))]
    cluster: String,

    /// The UDP address to listen on; without a key only a loopback address
    #[arg(long, env = "TIDINGS_BIND", value_name = "ADDR", default_value = "127.0.0.1:7900")]
    bind: SocketAddr,

    /// The address that the others reach this member at: auto, ADDR[:PORT], iface:NAME, cidr:NET or env:VAR
    ///
    /// auto is the address it listens on; if that is unspecified, the machine's one private address, or its one public
    /// one. ADDR may have another port than --bind, for a port mapping. What is found among the machine's addresses
    /// (auto, iface, cidr) is looked at again every three seconds; when it changed, everybody is told.
    #[arg(long, env = "TIDINGS_ADVERTISE", value_name = "ADDR", default_value = "auto", verbatim_doc_comment)]
    advertise: Advertise,

    /// Where to find members: HOST:PORT, dns:NAME:PORT, srv:NAME, file:PATH or exec:CMD; repeatable, or with commas
    ///
    /// One that answers is enough. All are resolved anew on every try; one that fails is a warning. A file has one
    /// HOST:PORT a line, # begins a comment. A command prints the same within 5 s; it runs without a shell.
    /// Whatever follows exec: belongs to the command, commas too.
    #[arg(long, env = "TIDINGS_JOIN", value_name = "TARGET", value_parser = targets, verbatim_doc_comment)]
    join: Vec<Targets>,

    /// If nobody answers the join in time: end, go on with a warning, or do not wait at all
    #[arg(long, env = "TIDINGS_JOIN_POLICY", value_enum, default_value_t = Policy::Require)]
    join_policy: Policy,

    /// How long to wait for the join; a number with ms, s or m
    #[arg(long, env = "TIDINGS_JOIN_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = parse_span)]
    join_timeout: Duration,

    /// An instance to offer, such as name=web,addr=127.0.0.1:8080,tag=v1; repeatable; --help shows every key
    #[arg(long, env = "TIDINGS_SERVICE", value_name = "SPEC", value_delimiter = '\n', value_parser = spec::parse_offer)]
    #[arg(long_help = format!("{}\n\n{}\n\nRepeatable; in the environment variable, one spec a line.", spec::HELP, check::HELP))]
    pub(super) service: Vec<Offer>,

    /// Where the member keeps its id and what it knows of others, so that a restart is the same member
    #[arg(long, env = "TIDINGS_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// How long a drain may take before the member leaves: until everybody has confirmed that it takes nothing new
    ///
    /// A first SIGTERM or SIGINT, or the command drain, begins it; 0s leaves at once.
    #[arg(long, env = "TIDINGS_DRAIN_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = parse_span)]
    pub(super) drain_timeout: Duration,

    /// Where the member stands (a rack, an availability zone)
    #[arg(long, env = "TIDINGS_ZONE", value_parser = |name: &str| checked("zone", name))]
    zone: Option<String>,

    /// What kind of network the members live in, for the protocol's settings: lan, wan or local (one machine)
    #[arg(long, env = "TIDINGS_PROFILE", value_name = "NETWORK", default_value_t = Profile::Lan)]
    profile: Profile,

    /// Within what time a crash is to be known to everybody, where no probe is lost; a number with ms, s or m
    ///
    /// From it follow observe_every, answer_within and tries. What cannot be reached is an error that says what can.
    #[arg(long, env = "TIDINGS_DETECT_WITHIN", value_name = "TIME", value_parser = parse_span, verbatim_doc_comment)]
    detect_within: Option<Duration>,

    /// Another setting of the protocol, such as probe_period=500ms; repeatable, or with commas
    ///
    /// Wins over --profile and --detect-within. In the file a table: [tuning]. There are observe_every, answer_within,
    /// tries, witnesses, evict_after, probe_period, probe_rtt, indirect_probes, gossip_period and gossip_fanout;
    /// `tidings-sim tune` searches values for what you wish. Give all members the same.
    #[arg(long, env = "TIDINGS_TUNING", value_name = "NAME=VALUE", value_delimiter = ',', value_parser = knobs::parse)]
    tuning: Vec<(&'static Knob, Value)>,

    /// How often news that says nothing is made, by which all see how long news takes; 0s for never
    ///
    /// Of all members that can be reached, the one of the lowest id makes it: give all members the same.
    #[arg(long, env = "TIDINGS_CANARY_EVERY", value_name = "TIME", default_value = "60s", value_parser = parse_span)]
    canary_every: Duration,

    /// Write down all that happens to this member, for tidings-sim replay; never keys, but all else
    ///
    /// A file that is there already is renamed to FILE.previous.
    #[arg(long, env = "TIDINGS_RECORD", value_name = "FILE")]
    record: Option<PathBuf>,

    /// The most bytes of a recording; at its limit it ends, and the member goes on
    #[arg(long, env = "TIDINGS_RECORD_MAX_BYTES", value_name = "BYTES", default_value_t = RECORDING_BYTES_MAX)]
    #[arg(value_parser = clap::value_parser!(u64).range(1_024..))]
    record_max_bytes: u64,

    /// How the view is printed
    #[arg(long, env = "TIDINGS_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,

    /// Take commands from here, one a line; the end of the input changes nothing
    #[arg(long, env = "TIDINGS_CONTROL", value_enum, value_name = "WHERE")]
    pub(super) control: Option<ControlFrom>,

    #[command(flatten)]
    keys: KeyArgs,

    #[command(flatten)]
    pub(super) http: HttpArgs,

    #[command(flatten)]
    dns: DnsArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Policy {
    /// End with code 6
    Require,
    /// Go on alone, and go on trying
    Warn,
    /// Do not wait: start at once, and join when somebody answers
    Background,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Format {
    /// A table on a terminal, changes as lines of text elsewhere
    Table,
    /// Changes as JSON, one object a line
    Jsonl,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum ControlFrom {
    /// Standard input
    Stdin,
}

/// How the view is shown, now that it is known where to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Screen,
    Lines,
    Jsonl,
}

/// Why the loop ended without the command `leave` or `drain`.
#[derive(Debug)]
enum Halt {
    /// Nobody reads any more.
    Closed,
    Failed(Failure),
}

impl From<Closed> for Halt {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Args {
    /// What is to be opened for programs that do not embed the crate.
    pub(super) fn plans(&self, shown: Vec<Setting>) -> Result<Plans, Failure> {
        let http = self.http.plan(&self.cluster, self.keys.is_insecure(), self.drain_timeout, shown)?;
        Ok(Plans { http, dns: self.dns.plan(self.http.datacenter())? })
    }
}

/// Doors to be opened.
#[derive(Debug)]
pub(super) struct Plans {
    http: Option<HttpPlan>,
    dns: Option<DnsPlan>,
}

/// Doors that are open.
#[derive(Debug)]
pub(super) struct Doors {
    http: Option<Http>,
    dns: Option<Dns>,
}

impl Doors {
    /// Closes them.
    pub(super) async fn close(self) {
        if let Some(dns) = self.dns {
            dns.close().await;
        }
        if let Some(http) = self.http {
            http.close().await;
        }
    }
}

/// A member that runs, and what it offers.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) registry: Registry,
    pub(super) offers: Offers,
    promise: Promise,
}

impl Agent {
    /// Starts the member, and offers what is kept in its data directory.
    pub(super) async fn start(args: &Args) -> Result<Self, Failure> {
        let tuning = args.profile.settle(args.detect_within, &args.tuning);
        let tuning = tuning.map_err(|error| Failure::caused(Exit::Usage, &error))?;
        let promise = Promise::of(&tuning, &args.profile.conditions());
        let registry = start(args, tuning).await?;
        match Offers::start(registry.clone(), args.data_dir.clone()).await {
            Ok(offers) => Ok(Self { registry, offers, promise }),
            Err(error) => {
                leave_at_once(&registry).await;
                Err(Failure::caused(Exit::Failed, &error))
            }
        }
    }

    /// Opens the doors that there shall be.
    pub(super) async fn open(&self, plans: Plans) -> Result<Doors, Failure> {
        let open = || {
            let dns = plans.dns.map(|plan| dns::open(&self.registry, plan)).transpose()?;
            let http = plans.http.map(|mut plan| {
                plan.dns = dns.as_ref().map(Dns::counts);
                http::open(self.offers.clone(), plan)
            });
            Ok(Doors { http: http.transpose()?, dns })
        };
        match open() {
            Ok(doors) => Ok(doors),
            Err(failure) => {
                leave_at_once(&self.registry).await;
                Err(failure)
            }
        }
    }

    /// Offers what the arguments say.
    pub(super) async fn offer(&self, args: &Args) -> Result<(), Failure> {
        for offer in &args.service {
            let name = Arc::clone(&offer.instance.service);
            match self.offers.register(offer.clone(), Existing::KeepDoors).await {
                // Offered all the same, and the log has said so.
                Ok(_) | Err(OfferError::NotKept(_)) => {}
                Err(error) => {
                    leave_at_once(&self.registry).await;
                    return Err(Failure::new(Exit::Failed, format!("service {name:?}: {error}")));
                }
            }
        }
        Ok(())
    }
}

/// Says goodbye, so that the others do not take a start that failed for a crash.
pub(super) async fn leave_at_once(registry: &Registry) {
    // Whether it was heard or not, the end is the same.
    let _ = tokio::time::timeout(LEAVE_WAIT_MAX, registry.leave()).await;
}

/// Runs until told to end: starts, shows, leaves.
pub(super) async fn run(mut args: Args, shown: Vec<Setting>, output: &Output) -> Result<(), Failure> {
    check_ids(&args)?;
    let mode = mode(&args);
    let result = start_and_live(&mut args, mode, shown, output).await;
    if let (Err(failure), Mode::Jsonl) = (&result, mode) {
        // The same words as on standard error, for whoever reads only this side; if nobody does, that is no failure.
        let _ = output.line(jsonl::error(None, &failure.to_string())).await;
    }
    result
}

async fn start_and_live(args: &mut Args, mode: Mode, shown: Vec<Setting>, output: &Output) -> Result<(), Failure> {
    let uncaught = |e| Failure::new(Exit::Failed, format!("signals cannot be caught: {e}"));
    let mut signals = Signals::install().map_err(uncaught)?;
    let hangup = Hangup::install().map_err(uncaught)?;
    let plans = args.plans(shown)?;
    let settings = Settings::of_process(args, plans.http.as_ref().and_then(|plan| plan.tokens.clone()))?;
    // Lives longer than the loop: dropped before leaving, it would tell everybody of each withdrawal first.
    let agent = tokio::select! {
        agent = Agent::start(args) => agent?,
        _ = signals.next() => return Ok(()),
        () = output.closed() => return Ok(()),
    };
    agent.offer(args).await?;
    let doors = agent.open(plans).await?;
    let me = Me {
        cluster: Arc::from(args.cluster.as_str()),
        name: Arc::from(args.name.as_str()),
        peer: agent.registry.peer(),
        is_insecure: agent.registry.is_insecure(),
    };
    let notify = Notify::start(&agent.registry, Lives::AsTheMember);
    let mut reloading = Reloading { hangup, settings, notify: &notify, door: doors.http.as_ref() };
    let counts = doors.dns.as_ref().map(Dns::counts);
    let ended = async {
        tokio::select! {
            result = show(args, mode, (&agent, counts.as_ref()), &me, &mut reloading, output) => match result {
                Ok(()) => return Ok(()),
                Err(Halt::Failed(failure)) => return Err(failure),
                Err(Halt::Closed) => {}
            },
            _ = signals.next() => {}
            () = output.closed() => {}
        }
        signals.exit_at_next();
        notify.stopping(args.drain_timeout + LEAVE_WAIT_MAX);
        let ended = end(args, mode, &agent.registry, &me, output);
        match tokio::time::timeout(args.drain_timeout + LEAVE_WAIT_MAX, ended).await {
            Ok(ended) => ended,
            Err(_) => {
                let message = format!("leaving took longer than {} s; ended without", LEAVE_WAIT_MAX.as_secs());
                Err(Failure::new(Exit::Failed, message))
            }
        }
    }
    .await;
    doors.close().await;
    ended
}

/// What a SIGHUP needs.
struct Reloading<'a> {
    hangup: Hangup,
    settings: Settings,
    notify: &'a Notify,
    door: Option<&'a Http>,
}

/// Drains, and tells how that went; or leaves at once, if it shall.
async fn end(args: &Args, mode: Mode, registry: &Registry, me: &Me, output: &Output) -> Result<(), Failure> {
    if args.drain_timeout.is_zero() {
        return registry.leave().await.map_err(|e| Failure::caused(Exit::Failed, &e));
    }
    let drained = registry.drain(args.drain_timeout).await.map_err(|e| Failure::caused(Exit::Failed, &e))?;
    if mode == Mode::Jsonl {
        // Whoever does not read any more need not hear of it.
        let _ = output.line(jsonl::drained(me, &drained)).await;
    }
    control::forced(&drained)
}

async fn start(args: &Args, tuning: Tuning) -> Result<Registry, Failure> {
    let mut builder = Registry::builder(&args.cluster, &args.name)
        .bind(args.bind)
        .advertise_as(args.advertise.clone())
        .join(args.join.iter().flat_map(|targets| targets.0.iter().cloned()))
        .canary_every(args.canary_every)
        .join_policy(match args.join_policy {
            Policy::Require => JoinPolicy::Require(args.join_timeout),
            Policy::Warn => JoinPolicy::Warn(args.join_timeout),
            Policy::Background => JoinPolicy::Background,
        });
    if let Some(dir) = &args.data_dir {
        builder = builder.data_dir(dir.clone());
    }
    if let Some(zone) = &args.zone {
        builder = builder.zone(zone);
    }
    if let Some(path) = &args.record {
        builder = builder.record(RecordPlan { path: path.clone(), bytes_max: args.record_max_bytes });
    }
    Ok(args.keys.apply(builder.tuning(tuning))?.start().await?)
}

/// Prints what happens and does what is asked, until the command `leave`.
async fn show(
    args: &mut Args,
    mode: Mode,
    (agent, dns): (&Agent, Option<&DnsCounts>),
    me: &Me,
    reloading: &mut Reloading<'_>,
    output: &Output,
) -> Result<(), Halt> {
    let Agent { registry, offers, promise } = agent;
    let mut events = registry.events();
    let mut printer = Printer { mode, registry, me, output, told: Told::default(), notice: None, idle: 0 };
    printer.catch_up().await?;
    printer.promise(promise).await?;
    let mut lines = args.control.map(|ControlFrom::Stdin| control::read_stdin());
    let mut redraw = tokio::time::interval(REDRAW_EVERY);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => printer.hear(event).await?,
                Some(Err(lagged)) => {
                    let reason = format!("the output was too slow: {} events went by; the view fills in", lagged.0);
                    printer.tell(&Change::Error { reason }).await?;
                    printer.catch_up().await?;
                }
                None => return Ok(stopped(registry)?),
            },
            line = next_line(&mut lines) => {
                let control = Control::new(registry, offers, dns, me, args.drain_timeout);
                let (answer, next) = control.execute(line).await;
                if let Some(answer) = answer {
                    output.line(answer).await?;
                }
                if let Next::Left(result) = next {
                    return Ok(result?);
                }
            }
            () = reloading.hangup.next() => {
                reloading.notify.reloading();
                let running = Running { args: &mut *args, offers, door: reloading.door };
                let reloaded = reloading.settings.reload(running).await;
                reloading.notify.reloaded();
                printer.reloaded(reloaded).await?;
            }
            () = reloading.settings.due() => {
                let running = Running { args: &mut *args, offers, door: reloading.door };
                let reloaded = reloading.settings.try_again(running).await;
                printer.reloaded(Ok(reloaded)).await?;
            }
            _ = redraw.tick(), if mode == Mode::Screen => printer.redraw().await?,
        }
    }
}

/// The next command; never, once there are no more.
async fn next_line(lines: &mut Option<mpsc::Receiver<control::Line>>) -> control::Line {
    if let Some(open) = lines {
        if let Some(line) = open.recv().await {
            return line;
        }
        *lines = None;
    }
    std::future::pending().await
}

fn stopped(registry: &Registry) -> Result<(), Failure> {
    match registry.status() {
        Status::Stopped(StopReason::Left) => Ok(()),
        Status::Stopped(reason) => Err(reason.into()),
        Status::Joining | Status::Ready => Err(Failure::new(Exit::Failed, "the events ended without a reason")),
    }
}

/// Prints changes in the way that was asked for.
struct Printer<'a> {
    mode: Mode,
    registry: &'a Registry,
    me: &'a Me,
    output: &'a Output,
    told: Told,
    /// The last error, shown below the table.
    notice: Option<String>,
    /// How many redraws were left out since the last one; enough of them are due without a change.
    idle: u32,
}

impl Printer<'_> {
    /// Tells what is different between the view and what was told.
    async fn catch_up(&mut self) -> Result<(), Closed> {
        let is_ready = self.registry.status() == Status::Ready;
        let changes = self.told.compare(is_ready, &self.registry.members(), &self.registry.services());
        for change in changes {
            self.tell(&change).await?;
        }
        Ok(())
    }

    /// Tells what the settings promise; a table has no room for it, and a log may.
    async fn promise(&self, promise: &Promise) -> Result<(), Closed> {
        match self.mode {
            Mode::Jsonl => self.output.line(jsonl::promise(promise)).await,
            Mode::Lines => self.output.line(table::promise(promise)).await,
            Mode::Screen => {
                tracing::info!("{promise}");
                Ok(())
            }
        }
    }

    async fn hear(&mut self, event: Event) -> Result<(), Closed> {
        // Some events change the table without being a line.
        self.idle = REDRAWS_IDLE;
        match self.told.hear(event) {
            Some(change) => self.tell(&change).await,
            None => Ok(()),
        }
    }

    async fn tell(&mut self, change: &Change) -> Result<(), Closed> {
        match self.mode {
            Mode::Jsonl => self.output.line(jsonl::change(self.me, change)).await,
            Mode::Lines => self.output.line(table::line(change)).await,
            Mode::Screen => {
                if let Change::Error { reason } = change {
                    self.notice = Some(reason.clone());
                }
                self.idle = REDRAWS_IDLE;
                Ok(())
            }
        }
    }

    /// Tells what a reload did, or what is wrong with the file.
    async fn reloaded(&mut self, reloaded: Result<Reloaded, Failure>) -> Result<(), Closed> {
        match reloaded {
            Err(failure) => {
                let reason = format!("the configuration is wrong, and nothing changed: {failure}");
                tracing::error!("{reason}");
                self.tell(&Change::Error { reason }).await
            }
            Ok(reloaded) => {
                tracing::info!("reloaded: {reloaded}");
                match self.mode {
                    Mode::Jsonl => self.output.line(jsonl::reloaded(&reloaded)).await,
                    Mode::Lines => self.output.line(table::reloaded(&reloaded)).await,
                    Mode::Screen => {
                        self.notice = Some(format!("reloaded: {reloaded}"));
                        self.idle = REDRAWS_IDLE;
                        Ok(())
                    }
                }
            }
        }
    }

    async fn redraw(&mut self) -> Result<(), Closed> {
        self.idle += 1;
        if self.idle < REDRAWS_IDLE {
            return Ok(());
        }
        self.idle = 0;
        let (width, height) = terminal_size::terminal_size().map_or((80, 24), |(w, h)| (w.0, h.0));
        // One line stays free for the cursor; a line more would scroll.
        let height = usize::from(height).saturating_sub(1);
        let shown = Shown::of(self.registry, &self.me.cluster);
        let mut text = table::render(&shown, self.notice.as_deref(), usize::from(width), height);
        if anstream::AutoStream::choice(&std::io::stdout()) == anstream::ColorChoice::Never {
            text = anstream::adapter::strip_str(&text).to_string();
        }
        // Home, then each line with its old rest erased, then all below: unlike clearing first, that does not flicker.
        self.output.text(format!("\x1b[H{}\x1b[K\n\x1b[J", text.replace('\n', "\x1b[K\n"))).await
    }
}

fn mode(args: &Args) -> Mode {
    // Commands that somebody types, and their answers, would be drawn over.
    let is_screen = args.control.is_none()
        && std::io::stdout().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    match args.output {
        Format::Jsonl => Mode::Jsonl,
        Format::Table if is_screen => Mode::Screen,
        Format::Table => Mode::Lines,
    }
}

/// Two instances of one id would replace each other.
pub(super) fn check_ids(args: &Args) -> Result<(), Failure> {
    if args.service.len() > SERVICES_MAX {
        let message = format!("{} --service options, the limit is {SERVICES_MAX}", args.service.len());
        return Err(Failure::new(Exit::Usage, message));
    }
    let mut ids = BTreeSet::new();
    for Offer { instance, .. } in &args.service {
        if let Some(id) = ids.replace(reload::id(instance, &args.name)) {
            let message = format!("two --service options have the id {:?}; give one of them id=...", id.as_str());
            return Err(Failure::new(Exit::Usage, message));
        }
    }
    Ok(())
}

fn checked(what: &'static str, name: &str) -> Result<String, InstanceError> {
    check_name(what, name).map(|()| name.to_owned())
}

/// The targets of one `--join`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Targets(Vec<String>);

/// Commas separate targets; only a command, which has them for itself, goes to the end.
fn targets(text: &str) -> Result<Targets, TargetError> {
    let mut targets = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let (one, more) = match text.split_once(',') {
            Some((one, more)) if !text.starts_with("exec:") => (one, Some(more)),
            _ => (text, None),
        };
        one.parse::<Target>()?;
        targets.push(one.to_owned());
        rest = more;
    }
    Ok(Targets(targets))
}
