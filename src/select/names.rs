//! Instances from names: resolves a name again and again, and offers each address as an instance. For services that do
//! not gossip, and as a fallback.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::discovery::{Discovery, InMemory};
use crate::net::target::Target;
use crate::record::{Instance, InstanceError, Key, check_name};
use crate::view::Reader;

/// How often a name is resolved again.
pub const RESOLVE_EVERY: Duration = Duration::from_secs(10);

/// How long one resolving may take.
pub const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);

/// The addresses of a name, as instances of a service, until this is dropped.
///
/// A name that cannot be resolved, or has no address, keeps the addresses that it had: a name server that is down for a
/// while must not empty the list.
#[derive(Debug)]
pub struct Names {
    found: InMemory,
    failures: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Names {
    /// Follows a target such as `dns:payments.example:8080`, see [`Target`], within the tokio runtime that this is
    /// called in. Resolves at once, and then every [`RESOLVE_EVERY`].
    ///
    /// # Errors
    /// The service's name breaks a rule.
    pub fn follow(service: &str, target: Target) -> Result<Self, InstanceError> {
        Self::follow_every(service, target, RESOLVE_EVERY)
    }

    /// The same, every so often.
    ///
    /// # Errors
    /// As for [`follow`](Self::follow).
    pub fn follow_every(service: &str, target: Target, every: Duration) -> Result<Self, InstanceError> {
        check_name("service name", service)?;
        let found = InMemory::new();
        let failures = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(resolve(Arc::from(service), target, every, found.clone(), Arc::clone(&failures)));
        Ok(Self { found, failures, task })
    }

    /// How often resolving failed so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Discovery for Names {
    fn reader(&self) -> Reader {
        self.found.reader()
    }
}

async fn resolve(service: Arc<str>, target: Target, every: Duration, found: InMemory, failures: Arc<AtomicU64>) {
    let mut known = BTreeSet::new();
    loop {
        match timeout(RESOLVE_TIME_MAX, target.resolve()).await {
            Ok(Ok(addrs)) if !addrs.is_empty() => offer(&service, &addrs.into_iter().collect(), &mut known, &found),
            Ok(Ok(_)) | Ok(Err(_)) | Err(_) => {
                failures.fetch_add(1, Relaxed);
                tracing::debug!(target: "tidings", %target, "a name gives no address; what was known of it is kept");
            }
        }
        sleep(every).await;
    }
}

fn offer(service: &Arc<str>, now: &BTreeSet<SocketAddr>, known: &mut BTreeSet<SocketAddr>, found: &InMemory) {
    let id = |addr: &SocketAddr| Key::from(addr.to_string().as_str());
    for addr in now.difference(known) {
        let Ok(instance) = Instance::new(Arc::clone(service), *addr) else { continue };
        // An address and a checked name make a valid instance.
        let _ = found.register(instance.with_id(id(addr).as_str()));
    }
    for addr in known.difference(now) {
        found.withdraw(&id(addr));
    }
    known.clone_from(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for a list of the addresses that are offered.
    async fn until(names: &Names, expected: &[&str]) {
        let offered = || -> Vec<String> {
            let Ok(web) = names.reader().lookup("web") else { return Vec::new() };
            web.healthy().iter().map(|o| o.instance.address.to_string()).collect()
        };
        let waited = timeout(Duration::from_secs(20), async {
            while offered() != expected {
                tokio::task::yield_now().await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{:?}, not {expected:?}", offered()));
    }

    #[tokio::test]
    async fn the_addresses_of_a_name_follow_it_and_outlive_its_absence() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("list");
        std::fs::write(&path, "127.0.0.1:80\n127.0.0.1:81\n").expect("it is written");
        let target = format!("file:{}", path.display()).parse().expect("a target");
        let names = Names::follow_every("web", target, Duration::from_millis(1)).expect("a valid name");
        until(&names, &["127.0.0.1:80", "127.0.0.1:81"]).await;
        std::fs::write(dir.path().join("new"), "127.0.0.1:81\n127.0.0.1:82\n").expect("it is written");
        std::fs::rename(dir.path().join("new"), &path).expect("it is replaced");
        until(&names, &["127.0.0.1:81", "127.0.0.1:82"]).await;
        std::fs::remove_file(&path).expect("it is there");
        let failures = names.failures();
        while names.failures() == failures {
            tokio::task::yield_now().await;
        }
        until(&names, &["127.0.0.1:81", "127.0.0.1:82"]).await;
        assert!(Names::follow("", "127.0.0.1:1".parse().unwrap()).is_err());
    }
}
