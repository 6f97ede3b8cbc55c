//! What an agent offers, as its own members and others see it: real members on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::check::Level;
use crate::effect::InputError;
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
async fn a_drain_leaves_alone_what_is_registered_anew_meanwhile() {
    let (offers, _b) = pair().await;
    let id = Key::from("web@a:80");
    soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap();
    let mut changes = offers.changes();
    let draining = tokio::spawn({
        let (offers, id) = (offers.clone(), id.clone());
        async move { offers.drain(&id, PATIENCE).await }
    });
    while offers.instance(&id).unwrap().instance.status != Status::Draining {
        soon(changes.changed()).await.unwrap();
    }
    soon(offers.register(offer(web(80).with_tag("v2")), Existing::Replace)).await.unwrap();
    soon(draining).await.unwrap().unwrap();
    let there = offers.instance(&id).expect("whoever registered it anew wants it");
    assert!(there.instance.status == Status::Passing && there.instance.tags.contains("v2"), "{there:?}");
}

#[tokio::test]
async fn a_drain_that_nobody_was_told_of_leaves_the_instance_as_it_was() {
    let (offers, _b) = pair().await;
    let id = Key::from("web@a:80");
    soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap();
    soon(offers.registry().leave()).await.unwrap();
    let refused = soon(offers.drain(&id, PATIENCE)).await.unwrap_err();
    assert!(refused.is_end(), "{refused}");
    assert_eq!(offers.instance(&id).unwrap().instance.status, Status::Passing);
    let unknown = soon(offers.drain(&Key::from("api@a:80"), PATIENCE)).await.unwrap_err();
    assert!(matches!(unknown, OfferError::UnknownInstance { .. }), "{unknown}");
}

#[tokio::test]
async fn only_what_comes_from_there_is_withdrawn_from_there() {
    let (offers, _b) = pair().await;
    let id = Key::from("web@a:80");
    soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap();
    let other = soon(offers.deregister_from(&id, Origin::Program)).await.unwrap_err();
    assert!(matches!(other, OfferError::UnknownInstance { .. }) && offers.instance(&id).is_some());
    soon(offers.deregister_from(&id, Origin::Door)).await.unwrap();
    assert!(offers.instances().is_empty());
}

#[tokio::test]
async fn checks_outlive_the_runtime_on_which_they_were_asked_for() {
    let (offers, _b) = pair().await;
    let asking = offers.clone();
    // As a door has threads of its own: they end with it.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let check = Check::function(|| async { Outcome::passing("well") }).every(Duration::from_secs(1));
        let offer = Offer::new(web(80), Origin::Program).with_check(check);
        runtime.block_on(asking.register(offer, Existing::Refuse)).unwrap();
    });
    let mut changes = offers.changes();
    soon(changes.changed()).await.unwrap();
    soon(tokio::task::spawn_blocking(move || thread.join())).await.unwrap().unwrap();
    let level = || offers.check("service:web@a:80").unwrap().level;
    while level() != Level::Passing {
        soon(changes.changed()).await.expect("its runs go on");
    }
}

/// An instance whose record has no room for a reason.
async fn full(offers: &Offers) -> Key {
    let mut bytes = crate::record::limits::RECORD_BYTES_MAX;
    loop {
        let instance = web(80).with_meta("padding", "x".repeat(bytes));
        match soon(offers.register(offer(instance), Existing::Refuse)).await {
            Ok(local) => return local.instance.id.clone(),
            Err(OfferError::Refused(InputError::RecordTooLarge { .. })) => bytes -= 32,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_maintenance_that_a_record_has_no_room_for_is_refused_and_not_tried_again() {
    let (offers, _b) = pair().await;
    let id = full(&offers).await;
    soon(offers.register(offer(web(81)), Existing::Refuse)).await.unwrap();
    let long = || Some(Maintenance::new("x".repeat(crate::record::limits::REASON_BYTES_MAX)));
    for refused in [
        soon(offers.set_maintenance(&id, long())).await.unwrap_err(),
        soon(offers.set_member_maintenance(long())).await.unwrap_err(),
    ] {
        assert!(matches!(refused, OfferError::Refused(InputError::RecordTooLarge { .. })), "{refused}");
        let there = offers.instances();
        assert!(there.iter().all(|one| one.instance.status == Status::Passing && one.maintenance.is_none()));
        assert_eq!((offers.member_maintenance(), offers.stats().publish_retries), (None, 0));
    }
    let web = offers.registry().lookup("web").expect("it is offered");
    assert_eq!(web.healthy().len(), 2, "those that took it are in again");
}

#[tokio::test]
async fn a_maintenance_of_what_was_just_withdrawn_leaves_nothing_behind() {
    let (offers, _b) = pair().await;
    let id = Key::from("web@a:80");
    soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap();
    let turn = offers.shared.guards.lock().await;
    // Both are there already when the turn is given: they take it in order.
    let mut both = std::pin::pin!(async {
        tokio::join!(offers.deregister(&id), offers.set_maintenance(&id, Some(Maintenance::new("late"))))
    });
    assert!(tokio::time::timeout(Duration::from_millis(1), both.as_mut()).await.is_err());
    drop(turn);
    let (withdrawn, maintained) = soon(both).await;
    withdrawn.unwrap();
    assert!(matches!(maintained, Err(OfferError::UnknownInstance { .. })));
    assert!(offers.shared.state().maintenance.is_empty());
}

#[tokio::test]
async fn a_disk_that_hangs_makes_no_check_late() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let a = member("a", &[]).await;
    let offers = soon(Offers::start(a, Some(dir.path().to_owned()))).await.unwrap();
    let ttl = |span| Check::ttl(Duration::from_millis(span)).with_initial(Level::Passing);
    let mut gone = ttl(100);
    gone.deregister_critical_after = Some(Duration::from_millis(100));
    soon(offers.register(offer(web(80)).with_check(gone), Existing::Refuse)).await.unwrap();
    soon(offers.register(offer(web(81)).with_check(ttl(600)), Existing::Refuse)).await.unwrap();
    // As a write that does not end holds it.
    let disk = offers.shared.keeper.as_ref().expect("it has a directory").saved.lock().await;
    let mut changes = offers.changes();
    let level = || offers.check("service:web@a:81").map(|check| check.level);
    while level() != Some(Level::Critical) || offers.instances().len() > 1 {
        soon(changes.changed()).await.unwrap();
    }
    assert_eq!((offers.stats().deregistered_critical, offers.stats().ttl_expired), (1, 2));
    drop(disk);
}

#[tokio::test]
async fn nobody_passes_for_a_node_that_it_is_not() {
    let (offers, _b) = pair().await;
    let posing = offer(web(80).with_meta(EXTERNAL_NODE, "rds"));
    let refused = soon(offers.register(posing, Existing::Refuse)).await.unwrap_err();
    assert!(refused.to_string().contains(EXTERNAL_NODE), "{refused}");
    soon(offers.register(offer(web(80)), Existing::Refuse)).await.unwrap();
    let id = Key::from("web@a:80");
    let change = |one: &mut Instance| *one = one.clone().with_meta(EXTERNAL_ID, "x");
    let refused = soon(offers.update(&id, change)).await.unwrap_err();
    assert!(matches!(refused, OfferError::Reserved { key: EXTERNAL_ID }));
    assert!(offers.instance(&id).unwrap().instance.meta.is_empty());
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
