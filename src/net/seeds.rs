//! Finds the addresses to join through: resolves names anew each time, for as long as the member runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::driver::NODE_LOG;
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

/// The addresses to begin with: all that can be had in [`FIRST_MAX`], without our own.
pub(crate) async fn first(join: &[String], own: SocketAddr) -> Vec<SocketAddr> {
    resolve_all(join, own, FIRST_MAX).await
}

/// Whether everything to join is our own address: then there is nobody to wait for.
pub(crate) fn is_only(join: &[String], own: SocketAddr) -> bool {
    join.iter().all(|target| target.parse() == Ok(own))
}

/// Resolves again and again, and tells every set of addresses that differs from the one before. A name that cannot be
/// resolved costs a warning, and never the addresses of the others.
pub(crate) async fn resolve(
    join: Vec<String>,
    own: SocketAddr,
    mut known: Vec<SocketAddr>,
    mut status: watch::Receiver<Status>,
    tell: mpsc::Sender<Vec<SocketAddr>>,
) {
    if join.iter().all(|target| target.parse::<SocketAddr>().is_ok()) {
        return;
    }
    loop {
        let every = if *status.borrow_and_update() == Status::Joining { JOINING_EVERY } else { JOINED_EVERY };
        sleep(every).await;
        let found = resolve_all(&join, own, NAME_MAX).await;
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

async fn resolve_all(join: &[String], own: SocketAddr, each_max: Duration) -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    let mut under_way = tokio::task::JoinSet::new();
    for target in join {
        let target = target.clone();
        under_way.spawn(async move {
            match timeout(each_max, lookup_host(&target)).await {
                Ok(Ok(addrs)) => addrs.collect(),
                Ok(Err(error)) => no_addresses(&target, &error.to_string()),
                Err(_) => no_addresses(&target, "no answer in time"),
            }
        });
    }
    while let Some(addrs) = under_way.join_next().await {
        found.extend(addrs.unwrap_or_default());
    }
    found.into_iter().filter(|addr| *addr != own).take(SEED_ADDRS_MAX).collect()
}

fn no_addresses(target: &str, cause: &str) -> Vec<SocketAddr> {
    tracing::warn!(target: NODE_LOG, "cannot resolve {target:?}: {cause}");
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> SocketAddr {
        "127.0.0.1:7000".parse().unwrap()
    }

    #[tokio::test]
    async fn a_name_that_fails_costs_no_other_address_and_our_own_is_left_out() {
        let join = ["127.0.0.1:7001", "no-such-host.invalid:7002", "[::1]:7003", "127.0.0.1:7000"];
        let found = first(&join.map(String::from), own()).await;
        assert_eq!(found, ["127.0.0.1:7001".parse().unwrap(), "[::1]:7003".parse().unwrap()]);
    }

    #[test]
    fn a_member_told_to_join_itself_has_nobody_to_wait_for() {
        assert!(is_only(&["127.0.0.1:7000".into()], own()));
        assert!(!is_only(&["127.0.0.1:7000".into(), "seed.invalid:7000".into()], own()));
    }
}
