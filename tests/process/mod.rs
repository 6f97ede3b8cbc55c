//! The command under test as a process, for tests of it beside other programs.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Far more than anything here takes; only a failure waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Lines, or messages, that are read in search of one.
pub(crate) const LINES_MAX: usize = 10_000;

/// The command, without what the environment would tell it.
pub(crate) fn tidings(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").args(arguments).stdin(Stdio::null());
    command
}

/// An address that was free a moment ago; if somebody else takes it, the agent says so.
pub(crate) fn free() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

/// A process whose lines are read; killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) lines: mpsc::Receiver<String>,
}

impl Process {
    /// Reads its standard output; and its errors too, where the command has a pipe for them.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary was built for this test");
        let (tell, lines) = mpsc::channel();
        let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
        let stdout = child.stdout.take().expect("it is piped");
        for pipe in std::iter::once(Box::new(stdout) as Box<dyn Read + Send>).chain(stderr) {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if tell.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Self { child, lines }
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("there is such a command").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
