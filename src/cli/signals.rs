//! SIGTERM and SIGINT: the first asks to leave, the second ends the process at once.

/// The signals that end the process.
#[derive(Debug)]
pub(super) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

/// A signal that arrived, by the exit code of a process that it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signal(i32);

impl Signal {
    const INTERRUPT: Self = Self(130);
    #[cfg(unix)]
    const TERMINATE: Self = Self(143);

    /// Ends the process here, without a word to anybody.
    fn exit_now(self) -> ! {
        std::process::exit(self.0)
    }
}

impl Signals {
    /// From now on a signal ends the process at once, whatever it is still waiting for.
    pub(super) fn exit_at_next(mut self) {
        tokio::spawn(async move { self.next().await.exit_now() });
    }
}

#[cfg(unix)]
impl Signals {
    /// From now on the signals no longer end the process by themselves.
    pub(super) fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERMINATE,
            _ = self.interrupt.recv() => Signal::INTERRUPT,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// From now on the signals no longer end the process by themselves.
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::INTERRUPT,
            Err(_) => std::future::pending().await,
        }
    }
}

/// SIGHUP: the configuration is to be read again.
#[derive(Debug)]
pub(super) struct Hangup {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Hangup {
    /// From now on the signal does not end the process.
    #[cfg(unix)]
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self { hangup: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())? })
    }

    /// The next signal.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) {
        if self.hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// There is no such signal here.
    #[cfg(not(unix))]
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Never.
    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) {
        std::future::pending().await
    }
}
