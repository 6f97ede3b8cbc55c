//! Standard output, written and flushed on a thread of its own. Knows nothing of what is written.
//!
//! A reader that does not read blocks only that thread: signals are still answered, and the member still gossips.

use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::exit::{Exit, Failure};

/// Texts that wait for a slow reader; whoever wants to write one more waits.
const OUTPUT_WAITING_MAX: usize = 1_024;

/// How long the end waits for a reader that does not read.
const FINISH_WAIT_MAX: Duration = Duration::from_secs(2);

/// Nobody reads the output any more (or it cannot be written). No error: the program should end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed;

/// The one way to standard output.
#[derive(Debug)]
pub(super) struct Output {
    texts: mpsc::Sender<String>,
    end: oneshot::Receiver<std::io::Result<()>>,
}

impl Output {
    pub(super) fn start() -> Self {
        let (texts, mut waiting) = mpsc::channel::<String>(OUTPUT_WAITING_MAX);
        let (tell_end, end) = oneshot::channel();
        std::thread::spawn(move || {
            // Locked for each text alone: `tidings top` draws by itself.
            let mut stdout = std::io::stdout();
            let mut result = Ok(());
            while result.is_ok() {
                let Some(text) = waiting.blocking_recv() else { break };
                result = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            }
            // Before the receiver goes, which is what others take for closed.
            let _ = tell_end.send(result);
            drop(waiting);
        });
        Self { texts, end }
    }

    /// Writes a line, which must not hold a line break.
    pub(super) async fn line(&self, mut line: String) -> Result<(), Closed> {
        line.push('\n');
        self.text(line).await
    }

    /// Writes a text as it is.
    pub(super) async fn text(&self, text: String) -> Result<(), Closed> {
        self.texts.send(text).await.map_err(|_| Closed)
    }

    /// Resolves once nobody reads any more.
    pub(super) async fn closed(&self) {
        self.texts.closed().await;
    }

    /// Waits a bounded time until everything is written.
    ///
    /// # Errors
    /// Writing failed, but not because the reader went away: that is a normal end.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        drop(self.texts);
        match tokio::time::timeout(FINISH_WAIT_MAX, self.end).await {
            Ok(Ok(Err(error))) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::new(Exit::Failed, format!("standard output: {error}")))
            }
            _ => Ok(()),
        }
    }
}
