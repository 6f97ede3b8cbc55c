//! Runs a command to its end, in a process group of its own, so that what it started can end with it. Knows nothing of
//! what it is run for.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// How long what it printed is waited for once it has ended: what it left running may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Environment variables that are the agent's, and no command's.
pub const SECRET_VARIABLES: [&str; 2] = ["TIDINGS_KEY", "TIDINGS_HTTP_TOKEN"];

/// What becomes of processes that a command has left running when it ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// They are killed.
    Ends,
    /// They go on: a daemon may have been started on purpose.
    Stays,
}

/// What a command printed, on both of its outputs in the order in which it was read, as far as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Printed {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_end_kept: bool,
}

impl Printed {
    /// Keeps the first bytes.
    pub const fn first(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, is_end_kept: false }
    }

    /// Keeps the last bytes.
    pub const fn last(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, is_end_kept: true }
    }

    /// What is kept, as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn take(&mut self, read: &[u8]) {
        if self.is_end_kept {
            self.bytes.extend_from_slice(read);
            self.bytes.drain(..self.bytes.len().saturating_sub(self.bytes_max));
        } else {
            let room = self.bytes_max.saturating_sub(self.bytes.len());
            self.bytes.extend_from_slice(&read[..read.len().min(room)]);
        }
    }
}

/// Runs a command without a shell, with nothing to read, and waits for its end. Dropped before, it kills the command
/// with all that it started; `printed` has what was printed until then.
///
/// # Errors
/// It cannot be started, or not be waited for.
pub async fn run(
    program: &str,
    arguments: &[String],
    rest: Rest,
    printed: &mut Printed,
) -> std::io::Result<ExitStatus> {
    let mut command = Command::new(program);
    for variable in SECRET_VARIABLES {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let pipes = child.stdout.take().zip(child.stderr.take());
    let (stdout, stderr) = pipes.ok_or_else(|| std::io::Error::other("it has no output"))?;
    let mut gathering = std::pin::pin!(gather(stdout, stderr, printed));
    let status = tokio::select! {
        () = &mut gathering => child.wait().await?,
        status = child.wait() => {
            // Cut off without an error: its own last words are read by then.
            let _ = tokio::time::timeout(LAST_WORDS, gathering).await;
            status?
        }
    };
    if rest == Rest::Stays {
        group.0 = None;
    }
    Ok(status)
}

/// Reads both to their ends, so that it never waits for us to read.
async fn gather(mut out: impl AsyncRead + Unpin, mut err: impl AsyncRead + Unpin, printed: &mut Printed) {
    let (mut of_out, mut of_err) = ([0; 1_024], [0; 1_024]);
    let (mut has_out, mut has_err) = (true, true);
    while has_out || has_err {
        tokio::select! {
            read = out.read(&mut of_out), if has_out => {
                let read = read.unwrap_or(0);
                has_out = read > 0;
                printed.take(&of_out[..read]);
            }
            read = err.read(&mut of_err), if has_err => {
                let read = read.unwrap_or(0);
                has_err = read > 0;
                printed.take(&of_err[..read]);
            }
        }
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

    async fn sh(script: &str, rest: Rest, printed: &mut Printed) -> ExitStatus {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let running = run("sh", &arguments, rest, printed);
        tokio::time::timeout(PATIENCE, running).await.expect("it ends").expect("there is a shell")
    }

    #[tokio::test]
    async fn the_beginning_or_the_end_of_much_is_kept() {
        let script = "printf begin; yes '' | head -c 100000; printf end; exit 3";
        for (mut printed, is_end) in [(Printed::first(8), false), (Printed::last(8), true)] {
            assert_eq!(sh(script, Rest::Ends, &mut printed).await.code(), Some(3));
            let text = printed.text();
            assert!(
                text.len() == 8 && text.starts_with("begin") != is_end && text.ends_with("end") == is_end,
                "{text:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_comes_on_either_output_is_kept() {
        let mut printed = Printed::first(64);
        assert!(sh("echo said; echo warned >&2", Rest::Ends, &mut printed).await.success());
        let text = printed.text();
        assert!(text.contains("said\n") && text.contains("warned\n"), "{text:?}");
    }

    /// Whether what a command left running lives, once the command has ended.
    async fn is_left(rest: Rest) -> bool {
        let mut printed = Printed::last(64);
        sh("sleep 60 >/dev/null 2>&1 & echo $!", rest, &mut printed).await;
        let left: i32 = printed.text().trim().parse().expect("a process");
        let left = Pid::from_raw(left).expect("one that there can be");
        // One that was killed and is not waited for yet can still be asked for: its state says so.
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{left}/stat", left = left.as_raw_nonzero()));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        if rest == Rest::Stays {
            let does = lives();
            rustix::process::kill_process(left, Signal::KILL).expect("it lives, and is ours");
            return does;
        }
        let gone = async {
            while lives() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.is_err()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_a_command_left_running_is_killed_or_goes_on_as_is_wanted() {
        assert!(!is_left(Rest::Ends).await);
        assert!(is_left(Rest::Stays).await);
    }
}
