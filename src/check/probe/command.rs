//! A command: 0 is passing, 1 a warning, all else critical. In a process group of its own, so that what it started ends
//! with it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::{Fault, NotRun};
use crate::check::{CommandLine, OUTPUT_BYTES_MAX, Outcome};

/// How long what it printed is waited for once it has ended: what it left running may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(100);

pub(super) async fn run(line: &CommandLine) -> Result<Outcome, NotRun> {
    let mut printed = Vec::new();
    match wait(line, &mut printed).await {
        Ok(status) => {
            let output = String::from_utf8_lossy(&printed).trim_end().to_owned();
            Ok(match status.code() {
                Some(0) => Outcome::passing(output),
                Some(1) => Outcome::warning(output),
                _ => Outcome::critical(format!("{status}: {output}")),
            })
        }
        Err(error) => Fault::of(&error).outcome(&line.program),
    }
}

async fn wait(line: &CommandLine, printed: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
    let mut command = Command::new(&line.program);
    // They are the agent's, not the command's.
    command.env_remove("TIDINGS_KEY").env_remove("TIDINGS_HTTP_TOKEN");
    command.args(&line.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
    let _group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let pipes = child.stdout.take().zip(child.stderr.take());
    let (stdout, stderr) = pipes.ok_or_else(|| std::io::Error::other("it has no output"))?;
    let mut gathering = std::pin::pin!(gather(stdout, stderr, printed));
    let status = tokio::select! {
        () = &mut gathering => return child.wait().await,
        status = child.wait() => status?,
    };
    // Cut off without an error: its own last words are read by then.
    let _ = tokio::time::timeout(LAST_WORDS, gathering).await;
    Ok(status)
}

/// Reads both to their ends, so that it never waits for us to read, and keeps the beginning.
async fn gather(mut out: impl AsyncRead + Unpin, mut err: impl AsyncRead + Unpin, kept: &mut Vec<u8>) {
    let (mut of_out, mut of_err) = ([0; 1_024], [0; 1_024]);
    let (mut has_out, mut has_err) = (true, true);
    while has_out || has_err {
        let read = tokio::select! {
            read = out.read(&mut of_out), if has_out => {
                let read = read.unwrap_or(0);
                has_out = read > 0;
                &of_out[..read]
            }
            read = err.read(&mut of_err), if has_err => {
                let read = read.unwrap_or(0);
                has_err = read > 0;
                &of_err[..read]
            }
        };
        kept.extend_from_slice(&read[..read.len().min(OUTPUT_BYTES_MAX - kept.len())]);
    }
}

/// Kills every process of a group when it is dropped: at the timeout, and what the command left behind.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // None of them may be left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
