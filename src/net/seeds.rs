//! Finds the addresses to join through: resolves names anew each time, for as long as the member runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::driver::NODE_LOG;
use super::target::Target;
use crate::view::Status;

/// Addresses handed to the node; of more, the first in order of family and number.
pub(crate) const SEED_ADDRS_MAX: usize = 256;

/// How long the start waits for names, before the member runs without those still missing.
const FIRST_MAX: Duration = Duration::from_secs(2);

/// How long one name may take later on.
const NAME_MAX: Duration = Duration::from_secs(10);

/// Names are resolved again after this time while the member is joining.
const JOINING_EVERY: Duration = Duration::from_secs(3);

/// Names are resolved again after this time once it has joined.
const JOINED_EVERY: Duration = Duration::from_secs(30);

/// The addresses to begin with: all that can be had in [`FIRST_MAX`].
pub(crate) async fn first(join: &[Target]) -> Vec<SocketAddr> {
    resolve_all(join, FIRST_MAX).await
}

/// Whether everything to join is our own address: then there is nobody to wait for.
pub(crate) fn is_only(join: &[Target], own: SocketAddr) -> bool {
    join.iter().all(|target| target.fixed() == Some(own))
}

/// Resolves again and again, and tells every set of addresses that differs from the one before. A name that cannot be
/// resolved costs a warning, and never the addresses of the others.
pub(crate) async fn resolve(
    join: Vec<Target>,
    mut known: Vec<SocketAddr>,
    mut status: watch::Receiver<Status>,
    tell: mpsc::Sender<Vec<SocketAddr>>,
) {
    if join.iter().all(|target| target.fixed().is_some()) {
        return;
    }
    loop {
        let every = if *status.borrow_and_update() == Status::Joining { JOINING_EVERY } else { JOINED_EVERY };
        sleep(every).await;
        let found = resolve_all(&join, NAME_MAX).await;
        // A name server that is down for a while must not make us forget where to join.
        if found.is_empty() || found == known {
            continue;
        }
        known.clone_from(&found);
        if tell.send(found).await.is_err() {
            return;
        }
    }
}

async fn resolve_all(join: &[Target], each_max: Duration) -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    let mut under_way = tokio::task::JoinSet::new();
    for target in join {
        let target = target.clone();
        under_way.spawn(async move {
            match timeout(each_max, target.resolve()).await {
                Ok(Ok(addrs)) => addrs,
                Ok(Err(cause)) => no_addresses(&target, &cause),
                Err(_) => no_addresses(&target, "no answer in time"),
            }
        });
    }
    while let Some(addrs) = under_way.join_next().await {
        found.extend(addrs.unwrap_or_default());
    }
    found.into_iter().take(SEED_ADDRS_MAX).collect()
}

fn no_addresses(target: &Target, cause: &str) -> Vec<SocketAddr> {
    tracing::warn!(target: NODE_LOG, "cannot resolve {target}: {cause}");
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(texts: &[&str]) -> Vec<Target> {
        texts.iter().map(|text| text.parse().expect("a target")).collect()
    }

    #[tokio::test]
    async fn a_target_that_fails_costs_no_other_address() {
        let join =
            targets(&["127.0.0.1:7001", "no-such-host.invalid:7002", "file:/no/such/file", "exec:false", "[::1]:7003"]);
        let found = first(&join).await;
        assert_eq!(found, ["127.0.0.1:7001".parse().unwrap(), "[::1]:7003".parse().unwrap()]);
    }

    #[test]
    fn a_member_told_to_join_itself_has_nobody_to_wait_for() {
        let own = "127.0.0.1:7000".parse().unwrap();
        assert!(is_only(&targets(&["127.0.0.1:7000"]), own));
        assert!(!is_only(&targets(&["127.0.0.1:7000", "seed.invalid:7000"]), own));
    }
}
