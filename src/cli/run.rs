//! `tidings run -- COMMAND`: a command, and beside it the member that offers what it serves: registered once it runs,
//! checked, drained before it is told to end, gone when it has ended.

use std::ffi::OsString;
use std::future::Future;
use std::io::{ErrorKind, IsTerminal as _};
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tidings::check::Check;
use tidings::door::Setting;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

use super::check;
use super::client::TOKEN_VARIABLE;
use super::exit::{Exit, Failure};
use super::keys::KEY_VARIABLE;
use super::node::{self, Agent};
use super::notify::{Lives, Notify};

const EXAMPLES: &str = "\
Examples:
  tidings run --name shop-1 --cluster demo --join 127.0.0.1:7900 --bind 127.0.0.1:0 \\
      --service name=shop,addr=127.0.0.1:8080 \\
      --check 'http://127.0.0.1:8080/health interval=2s' -- ./shop --port 8080

The command begins once the member has joined. SIGTERM and SIGINT drain first: everybody confirms that
nothing new will be sent (--drain-timeout), then the command gets the signal; a second one is passed on at
once. SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on. When the command ends, its instances are gone
from every view, and tidings ends with its exit code, or with 128 and the number of the signal that killed
it; 127 if there is no such command, 126 if it cannot be run. Should the member stop meanwhile, the
command goes on.

All options of tidings node are taken but --output and --control, from the file and the environment too.";

/// Run a command, and offer what it serves for as long as it runs.
///
/// For programs that do not embed the crate: a member runs beside the command, offers its services, checks them, and
/// drains before the command is told to end.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    node: node::Args,

    /// A check of the service, such as tcp:127.0.0.1:8080; repeatable; with one --service only
    #[arg(long, env = "TIDINGS_CHECK", value_name = "CHECK", value_delimiter = '\n', value_parser = check::parse)]
    #[arg(long_help = check::HELP)]
    check: Vec<Check>,

    /// The command with its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs until the command has ended; gives the code to end with.
pub(super) async fn run(mut args: Args, shown: Vec<Setting>) -> Result<Exit, Failure> {
    if args.node.control.is_some() {
        return Err(Failure::new(Exit::Usage, "run has no --control: standard input is the command's"));
    }
    match (args.node.service.as_mut_slice(), args.check.is_empty()) {
        (_, true) => {}
        ([service], false) => service.checks.append(&mut args.check),
        (services, false) => {
            let message = format!("--check belongs to one --service, and there are {}", services.len());
            return Err(Failure::new(Exit::Usage, message));
        }
    }
    node::check_ids(&args.node)?;
    let plans = args.node.plans(shown)?;
    let mut signals =
        Signals::install().map_err(|error| Failure::new(Exit::Failed, format!("signals cannot be caught: {error}")))?;
    let agent = tokio::select! {
        agent = Agent::start(&args.node) => agent?,
        signal = signals.end() => return Ok(Exit::Child(128 + code_of(signal))),
    };
    let doors = agent.open(plans).await?;
    let notify = Notify::start(&agent.registry, Lives::Longer);
    let mut child = match spawn(&args.command) {
        Ok(child) => child,
        Err(error) => {
            node::leave_at_once(&agent.registry).await;
            let exit = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
            let name = args.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            return Err(Failure::new(Exit::Child(exit), format!("{name}: {error}")));
        }
    };
    if let Err(failure) = agent.offer(&args.node).await {
        end_at_once(&mut child).await;
        return Err(failure);
    }
    let status = live(&args.node, &agent, &notify, &mut child, &mut signals).await?;
    // One that has drained has left already.
    node::leave_at_once(&agent.registry).await;
    doors.close().await;
    Ok(Exit::Child(exit_code(status)))
}

/// Passes signals on until the command ends; the first that ends it only after a drain.
async fn live(
    args: &node::Args,
    agent: &Agent,
    notify: &Notify,
    child: &mut Child,
    signals: &mut Signals,
) -> Result<ExitStatus, Failure> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let registry = &agent.registry;
    // A drain waits for the command as for any work.
    let pass = registry.gate().task();
    let first = loop {
        tokio::select! {
            status = child.wait() => return waited(status),
            caught = signals.next() => match caught {
                Caught::PassOn(signal) => send(pid, signal),
                Caught::End(signal) => break signal,
            }
        }
    };
    notify.stopping(args.drain_timeout + node::LEAVE_WAIT_MAX);
    let mut told = false;
    let drain = async {
        if !args.drain_timeout.is_zero()
            && let Err(error) = registry.drain(args.drain_timeout).await
        {
            tracing::warn!(%error, "the drain came to nothing");
        }
        std::future::pending::<()>().await;
    };
    let closed: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> =
        if args.drain_timeout.is_zero() { Box::pin(async {}) } else { Box::pin(registry.gate().closed()) };
    let stopped = registry.stopped();
    let mut drain = std::pin::pin!(drain);
    let mut is_time = std::pin::pin!(async {
        tokio::select! {
            () = closed => {}
            _ = stopped => {}
        }
    });
    let status = loop {
        tokio::select! {
            status = child.wait() => break waited(status)?,
            caught = signals.next() => match caught {
                Caught::PassOn(signal) => send(pid, signal),
                Caught::End(again) => {
                    told = true;
                    send(pid, again);
                }
            },
            () = &mut is_time, if !told => {
                told = true;
                send(pid, first);
            }
            () = &mut drain => {}
        }
    };
    drop(pass);
    Ok(status)
}

fn waited(status: std::io::Result<ExitStatus>) -> Result<ExitStatus, Failure> {
    status.map_err(|error| Failure::new(Exit::Failed, format!("the command cannot be waited for: {error}")))
}

fn spawn(words: &[OsString]) -> std::io::Result<Child> {
    let (program, arguments) = words.split_first().expect("clap requires one word");
    let mut command = Command::new(program);
    // A terminal's own Ctrl-C would end it before the drain; but only the terminal's own group can read from it.
    if !std::io::stdin().is_terminal() {
        command.process_group(0);
    }
    // They are the agent's, not the command's.
    command.env_remove(KEY_VARIABLE).env_remove(TOKEN_VARIABLE);
    command.args(arguments).kill_on_drop(true).spawn()
}

async fn end_at_once(child: &mut Child) {
    // One that has ended already cannot be killed.
    let _ = child.start_kill();
    let _ = child.wait().await;
}

fn send(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = kill_process(pid, signal);
    }
}

fn code_of(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).unwrap_or(0)
}

fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The signals that concern the command.
struct Signals {
    ending: [(Signal, unix::Signal); 2],
    passed_on: [(Signal, unix::Signal); 4],
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        let catch = |signal: Signal| unix::signal(SignalKind::from_raw(signal.as_raw())).map(|caught| (signal, caught));
        Ok(Self {
            ending: [catch(Signal::TERM)?, catch(Signal::INT)?],
            passed_on: [catch(Signal::HUP)?, catch(Signal::QUIT)?, catch(Signal::USR1)?, catch(Signal::USR2)?],
        })
    }

    /// The next signal.
    async fn next(&mut self) -> Caught {
        let [(term, terminate), (int, interrupt)] = &mut self.ending;
        let [(hup, hangup), (quit, leave), (usr1, one), (usr2, two)] = &mut self.passed_on;
        tokio::select! {
            _ = terminate.recv() => Caught::End(*term),
            _ = interrupt.recv() => Caught::End(*int),
            _ = hangup.recv() => Caught::PassOn(*hup),
            _ = leave.recv() => Caught::PassOn(*quit),
            _ = one.recv() => Caught::PassOn(*usr1),
            _ = two.recv() => Caught::PassOn(*usr2),
        }
    }

    /// The next signal that ends it; others have nobody yet to be passed on to.
    async fn end(&mut self) -> Signal {
        loop {
            if let Caught::End(signal) = self.next().await {
                return signal;
            }
        }
    }
}

/// A signal, and what becomes of it.
enum Caught {
    /// Ends the command, after a drain.
    End(Signal),
    /// Is only passed on.
    PassOn(Signal),
}
