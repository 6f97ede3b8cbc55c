//! Work in progress: counts calls and jobs, lets no more in once the member drains, and tells when the last has ended.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Set in a count once nothing more is let in.
const CLOSED: u64 = 1 << 63;

/// Where work passes on its way in: open until the member drains. Clones are the same gate.
///
/// ```
/// use tidings::registry::Gate;
///
/// let gate = Gate::new();
/// let call = gate.call()?;
/// assert_eq!(gate.calls(), 1);
/// gate.close();
/// assert!(gate.call().is_err(), "what is under way goes on; nothing new begins");
/// drop(call);
/// assert_eq!(gate.calls(), 0);
/// # Ok::<(), tidings::registry::Draining>(())
/// ```
#[derive(Clone, Default, Debug)]
pub struct Gate {
    inside: Arc<Inside>,
}

#[derive(Default, Debug)]
struct Inside {
    calls: AtomicU64,
    tasks: AtomicU64,
    refused: AtomicU64,
    changed: Notify,
}

/// The member drains and takes no new work: try another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this member is draining and takes no new work")]
pub struct Draining;

/// Work that a drain waits for, until this is dropped.
#[derive(Debug)]
#[must_use = "a drain waits only while it is kept"]
pub struct Pass {
    inside: Arc<Inside>,
    is_task: bool,
}

impl Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a call in. Takes no lock.
    ///
    /// # Errors
    /// [`Draining`] once it is closed.
    pub fn call(&self) -> Result<Pass, Draining> {
        self.enter(false)
    }

    /// Lets a job in that runs beside the calls: a scheduled one, a stream, a flush.
    ///
    /// # Errors
    /// As for [`call`](Self::call).
    pub fn task(&self) -> Result<Pass, Draining> {
        self.enter(true)
    }

    fn enter(&self, is_task: bool) -> Result<Pass, Draining> {
        let before = self.inside.count(is_task).fetch_add(1, Ordering::AcqRel);
        let pass = Pass { inside: Arc::clone(&self.inside), is_task };
        if before & CLOSED == 0 {
            return Ok(pass);
        }
        self.inside.refused.fetch_add(1, Ordering::Relaxed);
        Err(Draining)
    }

    /// Lets nothing more in, for good. What is inside goes on.
    pub fn close(&self) {
        for is_task in [false, true] {
            self.inside.count(is_task).fetch_or(CLOSED, Ordering::AcqRel);
        }
        self.inside.changed.notify_waiters();
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.inside.calls.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Calls inside.
    pub fn calls(&self) -> u64 {
        self.inside.calls.load(Ordering::Acquire) & !CLOSED
    }

    /// Jobs inside.
    pub fn tasks(&self) -> u64 {
        self.inside.tasks.load(Ordering::Acquire) & !CLOSED
    }

    /// What was not let in so far.
    pub fn refused(&self) -> u64 {
        self.inside.refused.load(Ordering::Relaxed)
    }

    /// Ends once it is closed: when a server should stop accepting.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let gate = self.clone();
        async move { gate.until(Self::is_closed).await }
    }

    /// Ends once it is closed and nothing is inside any more.
    pub fn idle(&self) -> impl Future<Output = ()> + Send + use<> {
        let gate = self.clone();
        async move { gate.until(|gate| gate.is_closed() && gate.calls() + gate.tasks() == 0).await }
    }

    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let mut changed = pin!(self.inside.changed.notified());
            // Listens before it looks: what changes in between is not missed.
            changed.as_mut().enable();
            if is_so(self) {
                return;
            }
            changed.await;
        }
    }
}

impl Inside {
    const fn count(&self, is_task: bool) -> &AtomicU64 {
        if is_task { &self.tasks } else { &self.calls }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.inside.count(self.is_task).fetch_sub(1, Ordering::AcqRel) == CLOSED + 1 {
            self.inside.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_gate_is_idle_when_the_last_call_and_the_last_task_have_ended() {
        let gate = Gate::new();
        let (call, task) = (gate.call().unwrap(), gate.task().unwrap());
        let mut idle = pin!(gate.idle());
        tokio::select! {
            biased;
            () = &mut idle => panic!("it is open"),
            () = async {} => {}
        }
        gate.close();
        gate.closed().await;
        assert_eq!((gate.call().unwrap_err(), gate.task().unwrap_err()), (Draining, Draining));
        assert_eq!((gate.calls(), gate.tasks(), gate.refused()), (1, 1, 2));
        drop(call);
        tokio::select! {
            biased;
            () = &mut idle => panic!("a task is inside"),
            () = async {} => {}
        }
        drop(task);
        idle.await;
    }

    #[test]
    fn no_call_gets_in_beside_a_close() {
        let gate = Gate::new();
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| std::iter::repeat_with(|| gate.call()).take_while(Result::is_ok).count()))
                .collect();
            gate.close();
            callers.into_iter().for_each(|caller| assert!(caller.join().is_ok()));
        });
        assert_eq!((gate.calls(), gate.refused()), (0, 4));
    }
}
