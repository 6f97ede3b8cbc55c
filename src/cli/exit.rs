//! Exit codes, and which failure has which.

use std::fmt;
use std::process::ExitCode;

use tidings::registry::StartError;
use tidings::view::StopReason;

pub(super) const HELP: &str = "\
Exit codes:
  0  success; also: left on SIGTERM or SIGINT, or nobody reads the output any more
  1  failed, for a reason that no other code has
  2  usage: an argument is missing or wrong
  3  not found: no such service, instance, member or check
  4  no healthy instance: tidings get --check
  5  the agent cannot be reached, or its member has stopped
  6  timeout: nobody answered the join, or the agent did not answer, in time
  7  refused: by the cluster (the name or id belongs to another live member), because the
     address is not a loopback address and there is no key, because others can read the key file,
     or by the agent (no token, one without the scope, or not as things are)
  8  forced: a drain was cut off by its timeout, before everybody who could be reached confirmed it
  130, 143  interrupted; a node: ended at once by a second SIGINT or SIGTERM
  tidings run ends with its command's code; 126, 127: the command could not be run

Every option can also be given by the environment variable that its help names, or in a
file: see tidings config --help. Logs go to standard error.";

/// How the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// What was asked for happened.
    Success,
    /// It did not, for a reason that has no code of its own.
    Failed,
    /// The arguments are wrong; clap ends with the same code.
    Usage,
    /// There is no such thing.
    NotFound,
    /// The service is known, and none of its instances should get traffic.
    NoHealthy,
    /// No agent answers, or its member has stopped.
    Unreachable,
    /// Nobody answered in time.
    Timeout,
    /// Others, or a safety rule, refused.
    Refused,
    /// A drain was cut off by its timeout.
    Forced,
    /// As the command of `tidings run` did.
    Child(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::NoHealthy => 4,
            Exit::Unreachable => 5,
            Exit::Timeout => 6,
            Exit::Refused => 7,
            Exit::Forced => 8,
            Exit::Child(code) => code,
        })
    }
}

/// Why the process ends without success.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// With the whole chain of causes in one line.
    pub(super) fn caused(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self { exit, message: chain(error) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Invalid(_) | StartError::Target(_) | StartError::TooManyToJoin { .. } | StartError::Keys(_) => {
                Exit::Usage
            }
            StartError::NotJoined { refusal: Some(_), .. } => Exit::Refused,
            StartError::NotJoined { .. } => Exit::Timeout,
            StartError::NotLoopback { .. } | StartError::Stopped(StopReason::Fatal(_)) => Exit::Refused,
            _ => Exit::Failed,
        };
        Self::caused(exit, &error)
    }
}

impl From<StopReason> for Failure {
    fn from(reason: StopReason) -> Self {
        let exit = if matches!(reason, StopReason::Fatal(_)) { Exit::Refused } else { Exit::Failed };
        Self::caused(exit, &reason)
    }
}

/// An error and its causes in one line, each cause once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Many errors already have their cause in their own message.
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
