//! Runs a command to its end, in a process group of its own, so that what it started ends with it. Knows nothing of
//! templates.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::super::super::keys::KEY_VARIABLE;
use super::super::http::TOKEN_VARIABLE;

/// Bytes of what it printed that are told when it failed: the last ones.
const WORDS_MAX: usize = 1_024;

/// How long what it printed is waited for once it has ended: what it left running may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why a command failed, in words; and, where there are any, its own.
pub(super) async fn run(words: &[String], within: Duration) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("there is no command")?;
    let mut command = Command::new(program);
    // They are the agent's, not the command's.
    command.env_remove(KEY_VARIABLE).env_remove(TOKEN_VARIABLE);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(|error| error.to_string())?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let mut printed = Vec::new();
    let pipes = child.stdout.take().zip(child.stderr.take());
    let (stdout, stderr) = pipes.ok_or("it has no output")?;
    let ended = tokio::time::timeout(within, async {
        let mut gathering = std::pin::pin!(gather(stdout, stderr, &mut printed));
        let status = tokio::select! {
            () = &mut gathering => None,
            status = child.wait() => Some(status),
        };
        match status {
            None => child.wait().await,
            Some(status) => {
                // Cut off without an error: its own last words are read by then.
                let _ = tokio::time::timeout(LAST_WORDS, gathering).await;
                status
            }
        }
    });
    let why = match ended.await {
        Err(_) => format!("it took more than {within:?}, and was killed"),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(status)) => {
            // A daemon that it started on purpose goes on.
            group.0 = None;
            if status.success() {
                return Ok(());
            }
            status.to_string()
        }
    };
    drop(group);
    let said = String::from_utf8_lossy(&printed);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if said.is_empty() { Err(why) } else { Err(format!("{why}: {}", said.join(" | "))) }
}

/// Reads both to their ends, so that it never waits for us to read, and keeps the last of it.
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
        kept.extend_from_slice(read);
        kept.drain(..kept.len().saturating_sub(WORDS_MAX));
    }
}

/// Kills every process of a group when it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // None of them may be left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn sh(script: &str, within: Duration) -> Result<(), String> {
        run(&["sh", "-c", script].map(str::to_owned), within).await
    }

    #[tokio::test]
    async fn a_failure_says_why_in_the_commands_own_words() {
        assert_eq!(sh("echo fine", PATIENCE).await, Ok(()));
        let why = sh("echo one; echo 'no such upstream' >&2; exit 3", PATIENCE).await.unwrap_err();
        assert!(why.contains("exit status: 3") && why.contains("no such upstream"), "{why}");
        assert!(run(&["/no/such/command".to_owned()], PATIENCE).await.is_err());
        let much = sh("yes | head -c 100000; exit 1", PATIENCE).await.unwrap_err();
        assert!(much.len() < 3 * WORDS_MAX, "only the end is kept");
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pipe = dir.path().join("pipe");
        let path = pipe.to_string_lossy().into_owned();
        assert_eq!(run(&["mkfifo".to_owned(), path.clone()], PATIENCE).await, Ok(()));
        // Both hold the pipe open for writing: it ends for a reader only when both are gone.
        let reader = tokio::task::spawn_blocking(move || std::fs::read(pipe));
        let began = tokio::time::Instant::now();
        let script = format!("exec 9>'{path}'; sleep 60 & sleep 60");
        let why = sh(&script, Duration::from_millis(500)).await.unwrap_err();
        assert!(why.contains("took more than"), "{why}");
        let read = tokio::time::timeout(PATIENCE, reader).await.expect("none of them is left");
        assert!(read.expect("it reads").is_ok() && began.elapsed() < PATIENCE);
    }
}
