//! Processes: started, signalled, measured, and killed on every way out. Knows nothing of what they print.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// What runs now, for the way out that runs no destructor: a signal.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Kills whatever was started when this process is told to end, and ends.
///
/// # Errors
/// The signals cannot be caught.
pub(crate) fn kill_all_on_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupted, mut terminated, mut hung_up) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
                _ = hung_up.recv() => {}
            }
        });
        // Held to the end, so that nothing is started any more.
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        for pid in running.iter() {
            let _ = kill_process(*pid, Signal::KILL);
        }
        std::process::exit(130);
    });
    Ok(())
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
}

/// What a process has used, and holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Time on a processor since its start, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// Resident memory, in KiB: all of it, ...
    pub(crate) rss: f64,
    /// ... what is the process's own, ...
    pub(crate) anonymous: f64,
    /// ... and pages of files, which all processes of one binary share.
    pub(crate) file: f64,
}

impl Process {
    /// Starts the binary under test, with its standard error in a file.
    pub(crate) fn start(
        arguments: &[String],
        log: Option<&str>,
        stderr: &Path,
    ) -> io::Result<(Self, ChildStdin, ChildStdout)> {
        let stderr = File::options().create(true).append(true).open(stderr)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDINGS_") {
                command.env_remove(name);
            }
        }
        command.env_remove("RUST_LOG").env("NO_COLOR", "1");
        if let Some(filter) = log {
            command.env("RUST_LOG", filter);
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        running.push(pid);
        drop(running);
        let stdin = child.stdin.take().expect("it was asked for");
        let stdout = child.stdout.take().expect("it was asked for");
        Ok((Self { child, pid }, stdin, stdout))
    }

    /// Sends a signal. Until the process is waited for its number is not given to another.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// Waits until the process has ended.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != self.pid);
        Ok(status)
    }

    /// Kills the process without a chance to say goodbye, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.wait().map(drop)
    }

    /// What the process has used and holds now.
    ///
    /// # Errors
    /// The process is gone, or this system tells it otherwise than Linux does.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let pid = self.child.id();
        let strange = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid} cannot be read"));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in brackets may hold anything; user and kernel time are the 12th and 13th field behind it.
        let fields: Vec<&str> = stat.rsplit(')').next().ok_or_else(strange)?.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).ok_or_else(strange);
        let ticks = ticks(11)? + ticks(12)?;
        let cpu = Duration::from_secs_f64(ticks / rustix::param::clock_ticks_per_second() as f64);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).ok_or_else(strange)
        };
        Ok(Usage { cpu, rss: kib("VmRSS")?, anonymous: kib("RssAnon")?, file: kib("RssFile")? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended and was waited for, which is as good.
        let _ = self.kill();
    }
}
