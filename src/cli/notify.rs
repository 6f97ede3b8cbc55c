//! What the service manager is told (systemd's `Type=notify`): ready once joined, how many members there are, and that
//! the member's own loop turns. Does nothing where nobody asked to be told.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tidings::peer::MemberState;
use tidings::registry::Registry;
use tidings::view::Status;
use tokio::task::JoinHandle;

/// How often the status is looked at.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// Tells the service manager, until it is dropped.
#[derive(Debug)]
pub(super) struct Notify {
    task: Option<JoinHandle<()>>,
    /// Whether it was told that we are.
    is_ready: Arc<AtomicBool>,
}

/// How long the process lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lives {
    /// It ends with its member.
    AsTheMember,
    /// It has something else to do, also when its member has left.
    Longer,
}

impl Notify {
    /// Begins to tell.
    pub(super) fn start(registry: &Registry, lives: Lives) -> Self {
        let is_asked = std::env::var_os("NOTIFY_SOCKET").is_some();
        let is_ready = Arc::<AtomicBool>::default();
        let task = is_asked.then(|| tokio::spawn(tell(registry.clone(), lives, Arc::clone(&is_ready))));
        Self { task, is_ready }
    }

    /// The configuration is being read anew; end with [`reloaded`](Self::reloaded).
    pub(super) fn reloading(&self) {
        if let (true, Ok(now)) = (self.is_ready(), NotifyState::monotonic_usec_now()) {
            send(&[NotifyState::Reloading, now]);
        }
    }

    /// The configuration has been read.
    pub(super) fn reloaded(&self) {
        if self.is_ready() {
            send(&[NotifyState::Ready]);
        }
    }

    /// Before that, the end of a reload would be taken for the end of the start.
    fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// The end has begun; it may take this long.
    pub(super) fn stopping(&self, within: Duration) {
        if self.task.is_some() {
            let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
            send(&[NotifyState::Stopping, NotifyState::Status("draining"), NotifyState::ExtendTimeoutUsec(within)]);
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

async fn tell(registry: Registry, lives: Lives, is_ready: Arc<AtomicBool>) {
    if registry.ready().await.is_err() {
        return;
    }
    let mut told = status(&registry);
    is_ready.store(true, Ordering::Relaxed);
    send(&[NotifyState::Ready, NotifyState::Status(&told)]);
    let watchdog = sd_notify::watchdog_enabled();
    // Three times within the limit, so that one that comes late is not the last.
    let every = watchdog.map_or(STATUS_EVERY, |limit| (limit / 3).min(STATUS_EVERY));
    let mut looks = tokio::time::interval(every);
    loop {
        looks.tick().await;
        // The driver answers between two turns of its loop, so one that stands does not.
        if watchdog.is_some() && (is_in_time(registry.stats(), every).await || is_over(&registry, lives)) {
            send(&[NotifyState::Watchdog]);
        }
        let now = status(&registry);
        if now != told {
            send(&[NotifyState::Status(&now)]);
            told = now;
        }
    }
}

/// Whether there is no loop any more that could turn, nor need be.
fn is_over(registry: &Registry, lives: Lives) -> bool {
    lives == Lives::Longer && matches!(registry.status(), Status::Stopped(_))
}

/// Whether there is an answer, and no error, within this time.
async fn is_in_time<T, E>(answer: impl Future<Output = Result<T, E>>, within: Duration) -> bool {
    matches!(tokio::time::timeout(within, answer).await, Ok(Ok(_)))
}

fn status(registry: &Registry) -> String {
    let members = registry.members();
    let reachable = members.iter().filter(|member| member.state == MemberState::Reachable).count();
    let s = if reachable == 1 { "" } else { "s" };
    format!("{reachable} member{s} reachable of {}, {} services", members.len(), registry.services().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_stands_or_has_ended_gets_no_ping() {
        let patience = Duration::from_secs(20);
        let stands = std::future::pending::<Result<(), ()>>();
        assert!(!is_in_time(stands, Duration::from_millis(10)).await);
        let registry = Registry::builder("notify-test", "a").start().await.expect("it starts");
        assert!(is_in_time(registry.stats(), patience).await);
        assert!(!is_over(&registry, Lives::Longer));
        registry.leave().await.expect("it leaves");
        assert!(!is_in_time(registry.stats(), patience).await);
        assert!(!is_over(&registry, Lives::AsTheMember), "such a process ends");
        assert!(is_over(&registry, Lives::Longer), "such a one goes on");
    }
}
