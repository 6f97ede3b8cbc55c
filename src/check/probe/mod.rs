//! One run of a check: what is asked, and how the answer is judged. Knows nothing of what came before.

#[cfg(unix)]
mod command;
mod grpc;
mod http;
mod socket;
mod tls;

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Check, Function, Kind, Outcome};

/// Why a check was not run, or what it found to be wrong.
#[derive(PartialEq, Eq, Debug)]
enum Fault {
    /// We had no descriptor, port or memory left: that says nothing about whom we wanted to ask.
    Ours(String),
    Theirs(String),
}

impl Fault {
    fn of(error: &io::Error) -> Self {
        if is_ours(error) { Self::Ours(error.to_string()) } else { Self::Theirs(error.to_string()) }
    }

    /// The outcome of a run with this fault; the text begins with `what` was asked.
    fn outcome(self, what: &str) -> Result<Outcome, NotRun> {
        match self {
            Self::Ours(error) => Err(NotRun(format!("{what}: {error}"))),
            Self::Theirs(error) => Ok(Outcome::critical(format!("{what}: {error}"))),
        }
    }
}

impl From<String> for Fault {
    fn from(error: String) -> Self {
        Self::Theirs(error)
    }
}

impl From<&str> for Fault {
    fn from(error: &str) -> Self {
        Self::Theirs(error.to_owned())
    }
}

/// A check that could not be run for want of something of ours, with the reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NotRun(pub(crate) String);

/// Whether this machine or process ran out of something.
fn is_ours(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN, Errno::ADDRNOTAVAIL];
        error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
    }
    #[cfg(not(unix))]
    {
        error.kind() == io::ErrorKind::OutOfMemory
    }
}

/// Runs a check once. Takes no longer than its timeout; dropped before, it leaves nothing running.
///
/// # Errors
/// [`NotRun`]; nothing is known of what was to be checked.
pub(crate) async fn run(check: &Check) -> Result<Outcome, NotRun> {
    let once = async {
        match &check.kind {
            Kind::Http(http) => http::probe(http).await,
            Kind::Tcp { addr } => socket::tcp(addr).await,
            // Silence may be an answer, so it looks at the time itself.
            Kind::Udp(udp) => socket::udp(udp, check.timeout).await,
            Kind::Grpc(grpc) => grpc::probe(grpc).await,
            #[cfg(unix)]
            Kind::Command(line) => command::run(line).await,
            #[cfg(not(unix))]
            Kind::Command(_) => Ok(Outcome::critical("commands are run on Unix only")),
            Kind::Function(function) => Ok(call(function).await),
            kind @ (Kind::Ttl { .. } | Kind::Told | Kind::Alias(_) | Kind::Unsupported { .. }) => {
                Ok(Outcome::critical(format!("a check of kind {} is not run", kind.as_str())))
            }
        }
    };
    let limit = match &check.kind {
        Kind::Udp(_) => check.timeout + UDP_SLACK,
        _ => check.timeout,
    };
    match tokio::time::timeout(limit, once).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(Outcome::critical(format!("{}: no result within {:?}", what(&check.kind), check.timeout))),
    }
}

/// What a UDP check may take beside its waiting: to resolve a name. It is counted as a failure of its own then.
const UDP_SLACK: Duration = Duration::from_millis(50);

fn what(kind: &Kind) -> String {
    match kind {
        Kind::Http(http) => format!("HTTP {} {}", http.method, http.shown_url()),
        Kind::Tcp { addr } => format!("TCP connect {addr}"),
        Kind::Udp(udp) => format!("UDP {}", udp.addr),
        Kind::Grpc(grpc) => format!("gRPC {}", grpc.addr),
        Kind::Command(line) => format!("command {}", line.program),
        kind => kind.as_str().to_owned(),
    }
}

/// A function that panics is one that does not work, and is asked again.
async fn call(function: &Function) -> Outcome {
    // Aborts what is in it when it is dropped.
    let mut task = JoinSet::new();
    let function = function.clone();
    task.spawn(async move { (function.0)().await });
    match task.join_next().await {
        Some(Ok(outcome)) => Outcome::new(outcome.level, outcome.output),
        Some(Err(error)) => Outcome::critical(format!("the function ended without a result: {error}")),
        None => Outcome::critical("the function was not asked"),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_says_nothing_about_others() {
        let fault = |code: i32| Fault::of(&io::Error::from_raw_os_error(code));
        let no_more_files = fault(rustix::io::Errno::MFILE.raw_os_error());
        assert!(matches!(no_more_files.outcome("TCP"), Err(NotRun(why)) if why.starts_with("TCP: ")));
        let refused = fault(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(refused.outcome("TCP").map(|outcome| outcome.level), Ok(crate::check::Level::Critical));
    }
}
