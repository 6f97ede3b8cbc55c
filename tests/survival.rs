//! What a program still finds when most of the others, or all of them, are gone: real members on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings::Instance;
use tidings::registry::{Builder, JoinPolicy, Registration, Registry};
use tidings::select::Picker;
use tidings::select::chain::{Chain, When};
use tidings::view::{Kept, LookupError, Service, Status};

/// Far more than anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

fn builder(name: &str, join: &[&Registry]) -> Builder {
    let join = join.iter().map(|seed| seed.local_addr().to_string());
    Registry::builder("survival", name).join(join)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it should have happened long ago")
}

async fn web(member: &Registry, port: u16) -> Registration {
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let instance = Instance::new("web", addr).expect("a valid instance");
    soon(member.register(instance)).await.expect("it is registered")
}

/// Waits until the service `web` is such.
async fn until(member: &Registry, is_such: impl Fn(&Service) -> bool) {
    let mut watch = member.watch("web");
    while !is_such(watch.current()) {
        soon(watch.changed()).await.expect("the member runs");
    }
}

/// How many instances are healthy, and how many stale.
fn sizes(web: &Service) -> (usize, usize) {
    (web.healthy().len(), web.stale().count())
}

/// Twenty members with an instance of `web` each, all of which the first knows.
async fn twenty() -> Vec<(Registry, Registration)> {
    let mut members: Vec<(Registry, Registration)> = Vec::new();
    for n in 0..20 {
        let seeds: Vec<&Registry> = members.iter().map(|(first, _)| first).take(1).collect();
        let member = soon(builder(&format!("member-{n}"), &seeds).start()).await.expect("it starts");
        let registration = web(&member, 1_000 + n).await;
        members.push((member, registration));
    }
    until(&members[0].0, |web| web.healthy().len() == 20).await;
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn fifteen_of_twenty_that_crash_at_once_are_kept_as_stale() {
    let mut members = twenty().await;
    for (member, registration) in members.drain(5..) {
        // The last handle goes without a word, as with a process that is killed.
        registration.keep();
        drop(member);
    }
    let reader = members[0].0.clone();
    until(&reader, |web| sizes(web) == (5, 15)).await;
    let web = reader.lookup("web").expect("five are healthy");
    assert_eq!(web.kept(), Some(Kept::MassDrop));
    assert_eq!(reader.stats().await.expect("it runs").view.mass_drops, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifteen_of_twenty_that_are_withdrawn_are_gone_and_the_last_five_as_well() {
    let mut members = twenty().await;
    let reader = members[0].0.clone();
    for left in [5, 0] {
        let mut kept = Vec::new();
        for (member, registration) in members.drain(left..) {
            soon(registration.withdraw()).await.expect("it is withdrawn");
            kept.push(member);
        }
        until(&reader, |web| web.all().len() == left).await;
        // Nothing is kept at any time on the way there.
        assert_eq!(reader.stats().await.expect("it runs").view.mass_drops, 0);
    }
    assert_eq!(reader.last_known("web").unwrap_err(), LookupError::UnknownService { name: "web".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_left_alone_goes_on_with_what_it_knew_and_so_does_its_next_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let b = soon(builder("b", &[]).start()).await.expect("it starts");
    let c = soon(builder("c", &[&b]).start()).await.expect("it starts");
    let restart = builder("a", &[&b, &c]).data_dir(dir.path());
    let a = soon(restart.clone().start()).await.expect("it starts");
    let (of_b, of_c) = (web(&b, 80).await, web(&c, 81).await);
    until(&a, |web| web.healthy().len() == 2).await;

    // All the others are killed.
    let addr = b.local_addr();
    of_b.keep();
    of_c.keep();
    drop((b, c));
    let picker = Picker::new(a.reader(), "web");
    until(&a, |web| sizes(web) == (0, 2)).await;
    assert!(picker.pick().expect("the last known good").is_stale());
    let known = a.last_known("web").expect("it is kept");
    assert!(matches!(known.kept(), Some(Kept::Isolated | Kept::MassDrop)), "{:?}", known.kept());
    assert!(a.lookup("web").is_err(), "who wants only healthy ones is told that there are none");

    // And then it is started again, with nobody around.
    soon(a.leave()).await.expect("it leaves");
    let alone = soon(restart.join_policy(JoinPolicy::Background).start()).await.expect("it starts");
    let saved = alone.saved_view().expect("it was written down");
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let chain = Chain::new("gossip", Picker::new(alone.reader(), "web"))
        .then("saved", When::Unready, Picker::new(saved.reader(), "web"))
        .on_switch(move |switch| {
            let (from, to) = (switch.from.to_string(), switch.to.to_string());
            hear.lock().expect("nobody panics").push((from, to, switch.is_return));
        });
    assert!(chain.pick().expect("the saved view has it").is_stale());
    assert_eq!(alone.status(), Status::Joining);
    assert!(chain.pick().is_ok(), "and goes on having it");

    // One of the others is back, as another process at its address.
    let back = soon(builder("b", &[&alone]).bind(addr).start()).await.expect("it starts");
    let _web = web(&back, 82).await;
    until(&alone, |web| web.healthy().len() == 1).await;
    let pick = chain.pick().expect("it is healthy");
    assert_eq!((pick.is_stale(), pick.instance().address.port), (false, 82));
    let told = told.lock().expect("nobody panicked");
    let switch = |from: &str, to: &str, is_return| (from.to_owned(), to.to_owned(), is_return);
    assert_eq!(*told, [switch("gossip", "saved", false), switch("saved", "gossip", true)]);
}
