//! What an agent offers, as its own members and others see it: real members on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::check::Level;
use crate::registry::{Service, Watch};

/// Far more than anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes milliseconds")
}

async fn member(name: &str, seeds: &[&Registry]) -> Registry {
    let seeds = seeds.iter().map(|seed| seed.local_addr().to_string());
    soon(Registry::builder("offers-test", name).join(seeds).start()).await.expect("it starts")
}

async fn until(watch: &mut Watch, is_so: impl Fn(&Service) -> bool) {
    while !is_so(watch.current()) {
        soon(watch.changed()).await.expect("it runs");
    }
}

fn web(port: u16) -> Instance {
    Instance::new("web", SocketAddr::from(([127, 0, 0, 1], port))).expect("it is right")
}

fn offer(instance: Instance) -> Offer {
    Offer::new(instance, Origin::Door)
}

/// Two members, and what the first offers.
async fn pair() -> (Offers, Registry) {
    let a = member("a", &[]).await;
    let b = member("b", &[&a]).await;
    (soon(Offers::start(a, None)).await.expect("it starts"), b)
}

#[tokio::test]
async fn what_is_offered_is_seen_by_others_until_it_is_deregistered() {
    let (offers, b) = pair().await;
    let mut seen = b.watch("web");
    let local = soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap();
    assert_eq!((local.instance.id.as_str(), &local.instance.status), ("web@a:80", &Status::Passing));
    assert!(local.instance.registered_at > 0);
    until(&mut seen, |web| web.healthy().len() == 1).await;
    let again = soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap_err();
    assert!(matches!(again, OfferError::IdInUse { .. }));
    let replaced = soon(offers.register(offer(web(80).with_tag("v2")), Existing::Replace)).await.unwrap();
    assert_eq!(replaced.instance.registered_at, local.instance.registered_at);
    until(&mut seen, |web| web.all().iter().any(|one| one.instance.tags.contains("v2"))).await;
    soon(offers.deregister(&Key::from("web@a:80"))).await.unwrap();
    until(&mut seen, |web| web.all().is_empty()).await;
    let gone = soon(offers.deregister(&Key::from("web@a:80"))).await.unwrap_err();
    assert!(matches!(gone, OfferError::UnknownInstance { .. }));
    assert!(offers.instances().is_empty());
}

#[tokio::test]
async fn a_ttl_check_takes_the_instance_out_and_in_as_it_is_told() {
    let (offers, b) = pair().await;
    let mut seen = b.watch("web");
    let with_check = offer(web(80)).with_check(Check::ttl(PATIENCE));
    let local = soon(offers.register(with_check, Existing::Refuse)).await.unwrap();
    assert_eq!((&local.instance.status, &*local.checks[0].check.id), (&Status::Critical, "service:web@a:80"));
    until(&mut seen, |web| web.all().len() == 1 && web.healthy().is_empty()).await;
    let mut changes = offers.changes();
    soon(offers.tell("service:web@a:80", Outcome::passing("well"))).await.unwrap();
    assert!(changes.has_changed().unwrap());
    until(&mut seen, |web| web.healthy().len() == 1).await;
    changes.mark_unchanged();
    soon(offers.tell("service:web@a:80", Outcome::passing("still well"))).await.unwrap();
    assert!(!changes.has_changed().unwrap(), "only the output is another");
    assert_eq!(&*offers.check("service:web@a:80").unwrap().output, "still well");
    soon(offers.tell("service:web@a:80", Outcome::critical("ill"))).await.unwrap();
    until(&mut seen, |web| web.healthy().is_empty()).await;
    let unknown = soon(offers.tell("service:other", Outcome::passing(""))).await.unwrap_err();
    assert!(matches!(unknown, OfferError::UnknownCheck { .. }));
}

#[tokio::test]
async fn a_ttl_check_that_is_not_told_in_time_is_critical() {
    let (offers, b) = pair().await;
    let mut seen = b.watch("web");
    let check = Check::ttl(Duration::from_millis(300)).with_initial(Level::Passing);
    soon(offers.register(offer(web(80)).with_check(check), Existing::Refuse)).await.unwrap();
    until(&mut seen, |web| web.healthy().len() == 1).await;
    until(&mut seen, |web| web.healthy().is_empty() && web.all().len() == 1).await;
    let check = &offers.checks()[0];
    assert!(check.output.contains("300ms") && check.checked_ms.is_none());
    assert_eq!(offers.stats().ttl_expired, 1);
    soon(offers.tell(&check.check.id, Outcome::passing(""))).await.unwrap();
    until(&mut seen, |web| web.healthy().len() == 1).await;
}

#[tokio::test]
async fn maintenance_counts_more_than_checks_and_ends_by_itself() {
    let (offers, b) = pair().await;
    let mut seen = b.watch("web");
    soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap();
    let id = Key::from("web@a:80");
    soon(offers.set_maintenance(&id, Some(Maintenance::new("disk swap")))).await.unwrap();
    until(&mut seen, |web| {
        web.all().first().is_some_and(|one| one.instance.status == Status::Maintenance(Arc::from("disk swap")))
    })
    .await;
    soon(offers.set_maintenance(&id, None)).await.unwrap();
    until(&mut seen, |web| web.healthy().len() == 1).await;
    let for_a_while = Maintenance::new("").ends_after(Duration::from_millis(200));
    soon(offers.set_member_maintenance(Some(for_a_while))).await.unwrap();
    until(&mut seen, |web| web.healthy().is_empty()).await;
    until(&mut seen, |web| web.healthy().len() == 1).await;
    assert_eq!(offers.member_maintenance(), None);
    let endless = soon(offers.set_maintenance(&id, Some(Maintenance::new("x".repeat(300))))).await.unwrap_err();
    assert!(matches!(endless, OfferError::Invalid(_)));
}

#[tokio::test]
async fn one_instance_drains_and_the_others_stay() {
    let (offers, b) = pair().await;
    let mut seen = b.watch("web");
    for port in [80, 81] {
        soon(offers.register(offer(web(port)), Existing::Refuse)).await.unwrap();
    }
    until(&mut seen, |web| web.healthy().len() == 2).await;
    let drained = soon(offers.drain(&Key::from("web@a:80"), PATIENCE)).await.unwrap();
    assert_eq!((drained.members, drained.confirmed), (2, 2));
    until(&mut seen, |web| web.all().len() == 1 && web.healthy().len() == 1).await;
}

#[tokio::test]
async fn an_external_instance_says_where_it_runs() {
    let (offers, b) = pair().await;
    let mut seen = b.watch("web");
    let external = External { node: "rds".into(), address: "10.0.0.9".into(), id: "web-1".into() };
    let local = soon(offers.register(offer(web(80)).on(external.clone()), Existing::Refuse)).await.unwrap();
    assert_eq!(local.instance.id, external.key());
    until(&mut seen, |web| web.all().first().and_then(|one| External::of(&one.instance)).is_some()).await;
}

#[tokio::test]
async fn dropping_the_last_handle_withdraws_everything() {
    let (offers, b) = pair().await;
    let registry = offers.registry().clone();
    let mut seen = b.watch("web");
    soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap();
    until(&mut seen, |web| web.healthy().len() == 1).await;
    drop(offers);
    until(&mut seen, |web| web.all().is_empty()).await;
    drop(registry);
}
