//! The world itself: that what an experiment does to it happens, and happens again with the same seed.

use std::net::SocketAddr;
use std::time::Duration;

use tidings::effect::WhyUnconfirmed;
use tidings::node::Tuning;
use tidings::record::{Instance, Key};
use tidings::view::{Kept, LookupError, Reader};
use tidings_sim::experiment::{self, Figure};
use tidings_sim::link::Preset;
use tidings_sim::world::{Machine, Mode};
use tidings_sim::{HostIndex, World, WorldConfig, check};

const SEED: u64 = 42;

/// A world of `nodes` nodes that had time to join.
fn world(seed: u64, nodes: usize) -> World {
    println!("seed {seed}");
    joined(WorldConfig::new(seed), nodes)
}

fn joined(config: WorldConfig, nodes: usize) -> World {
    let mut world = World::new(config);
    let first = world.add_node(&[]);
    for _ in 1..nodes {
        world.add_node(&[first]);
    }
    world.run_until_settled(Duration::from_secs(30)).unwrap_or_else(|| panic!("{:?}", check::settled(&world)));
    world
}

fn instance(name: &str) -> Instance {
    Instance::new(name, SocketAddr::from(([10, 1, 0, 1], 8_080))).expect("a name and an address suffice").with_id(name)
}

/// A world whose hosts share a machine.
fn shared(machine: Machine) -> World {
    World::new(WorldConfig { network: Preset::Loopback.network(), machine: Some(machine), ..WorldConfig::new(SEED) })
}

fn loopback() -> Machine {
    Preset::Loopback.machine().expect("all hosts share one")
}

/// The median of a figure.
fn median(figures: &[Figure], name: &str) -> f64 {
    let mut values: Vec<f64> = figures.iter().filter(|figure| figure.name == name).map(|figure| figure.value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn news_take_longer_where_processors_are_slower_and_as_long_with_the_same_seed() {
    // Twice the work on as many processors: queueing is all that a change waits for on loopback.
    let last_sees = |factor: u32| {
        let machine = loopback();
        let (input, send, tell) = (machine.input * factor, machine.send * factor, machine.tell * factor);
        let mut world = shared(Machine { input, send, tell, ..machine });
        let figures = experiment::change(&mut world, 20, 5).expect("every change arrives");
        (median(&figures, "last_sees_ms"), world.hash())
    };
    let (once, twice) = (last_sees(1), last_sees(2));
    assert!(twice.0 > 1.6 * once.0 && twice.0 < 2.4 * once.0, "{once:?} {twice:?}");
    assert_eq!(once, last_sees(1));
}

#[test]
fn newcomers_are_refused_while_every_place_for_a_connection_is_in_use() {
    let refused = |inbound_max| {
        let mut world = shared(Machine { inbound_max, ..loopback() });
        experiment::join(&mut world, 20).expect("whoever is refused comes again");
        world.fates().streams_failed
    };
    assert!(refused(4) > 0);
    assert_eq!(refused(1_000), 0);
}

#[test]
fn a_drain_of_a_hundred_is_confirmed_by_all_within_a_round_trip_or_two() {
    let mut world = world(SEED, 100);
    for host in 0..100 {
        world.register(host, instance(&format!("web-{host}"))).expect("it runs");
    }
    world.run_for(Duration::from_secs(5));
    for host in 1..=20 {
        world.drain(host, Duration::from_secs(5)).expect("it runs");
        world.run_for(Duration::from_secs(2));
    }
    let mut took: Vec<_> = world.drains().iter().map(|drain| drain.took).collect();
    took.sort_unstable();
    let confirmed: Vec<_> = world.drains().iter().map(|drain| drain.heard.confirmed).collect();
    println!("to the last confirmation: {took:?}");
    // One goes after another, and each is heard by all that are left.
    assert_eq!(confirmed, (0..20).map(|gone| 99 - gone).collect::<Vec<_>>());
    assert!(took[19] <= Duration::from_millis(300), "{took:?}");
}

#[test]
fn a_drain_names_who_stands_still_and_does_not_hang() {
    let mut world = world(SEED, 100);
    world.register(5, instance("web")).expect("it runs");
    world.run_for(Duration::from_secs(3));
    // Reached until a moment ago: whether it will answer is not known yet.
    world.freeze(9);
    world.drain(5, Duration::from_millis(500)).expect("it runs");
    world.run_for(Duration::from_secs(1));
    let heard = &world.drains()[0].heard;
    let named: Vec<_> = heard.unconfirmed.iter().map(|one| (&*one.name, one.why)).collect();
    assert_eq!((heard.confirmed, named), (98, vec![("n9", WhyUnconfirmed::Silent)]));
    // Once it is known to be unreachable nobody waits for it any more.
    world.register(6, instance("web")).expect("it runs");
    world.drain(6, Duration::from_secs(30)).expect("it runs");
    world.run_for(Duration::from_secs(6));
    let later = &world.drains()[1];
    let named: Vec<_> = later.heard.unconfirmed.iter().map(|one| (&*one.name, one.why)).collect();
    assert_eq!((later.heard.confirmed, named), (97, vec![("n9", WhyUnconfirmed::Unreachable)]));
    assert!(later.took < Duration::from_secs(4), "{:?}", later.took);
}

/// 26 hosts, of which the first looks at the twenty that offer `web` from host 6 on.
fn twenty_instances() -> (World, Reader) {
    let mut world = World::new(WorldConfig { views: 1, ..WorldConfig::new(SEED) });
    let first = world.add_node(&[]);
    for host in 1..26 {
        world.add_node(&[first]);
        if host >= 6 {
            let web = instance("web").with_id(&format!("web-{host}"));
            world.register(host, web).expect("it runs");
        }
    }
    world.run_until_settled(Duration::from_secs(30)).expect("nothing is wrong");
    world.run_for(Duration::from_secs(5));
    let reader = world.reader(first).expect("it has a view");
    assert_eq!(reader.lookup("web").expect("it is there").healthy().len(), 20);
    (world, reader)
}

#[test]
fn fifteen_of_twenty_that_crash_at_once_are_kept_as_stale_until_they_return() {
    let (mut world, reader) = twenty_instances();
    (11..26).for_each(|host| world.crash(host));
    let noticed = world.run_until_cond(Duration::from_secs(30), |_| reader.lookup("web").unwrap().healthy().len() == 5);
    noticed.expect("the crashes are noticed");
    for _ in 0..60 {
        let web = reader.lookup("web").expect("five are left");
        assert_eq!((web.healthy().len(), web.stale().count(), web.kept()), (5, 15, Some(Kept::MassDrop)));
        world.run_for(Duration::from_secs(1));
    }
    // Whoever starts again does not offer what it did: the records of its earlier start are gone with that.
    (11..26).for_each(|host| world.restart(host));
    (11..26).for_each(|host| world.register(host, instance("web").with_id(&format!("web-{host}"))).expect("it runs"));
    world.run_until_settled(Duration::from_secs(60)).expect("all is well again");
    let web = reader.lookup("web").expect("it is there");
    assert_eq!((web.healthy().len(), web.stale().count(), web.kept()), (20, 0, None));
}

#[test]
fn fifteen_of_twenty_that_are_withdrawn_are_gone_at_once_and_so_are_the_last_five() {
    let (mut world, reader) = twenty_instances();
    for host in (6..26).rev() {
        world.withdraw(host, &Key::from(format!("web-{host}").as_str())).expect("it is registered");
        world.run_for(Duration::from_millis(100));
        let left = reader.service("web").map_or(0, |web| {
            assert_eq!(web.kept(), None);
            web.all().len()
        });
        assert_eq!(left, host - 6);
    }
    assert!(matches!(reader.last_known("web"), Err(LookupError::UnknownService { .. })));
}

#[test]
fn an_instance_without_an_id_would_be_the_member_record_and_is_refused() {
    let mut world = world(SEED, 1);
    let nameless = Instance::new("web", SocketAddr::from(([10, 1, 0, 1], 8_080))).expect("well formed");
    assert!(world.register(0, nameless).is_err());
    assert!(world.registered(0).next().is_none());
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let hash = |seed| {
        let mut world = world(seed, 5);
        world.set_loss(0.2);
        world.register(1, instance("web")).expect("an empty node takes a record");
        world.run_for(Duration::from_secs(20));
        world.hash()
    };
    assert_eq!(hash(SEED), hash(SEED));
    assert_ne!(hash(SEED), hash(SEED + 1));
}

#[test]
fn nothing_crosses_a_split_until_it_is_healed() {
    let mut world = world(SEED, 6);
    let sides: [Vec<HostIndex>; 2] = [vec![0, 1, 2], vec![3, 4, 5]];
    world.split(&sides);
    world.register(0, instance("web")).expect("an empty node takes a record");
    world.run_for(Duration::from_secs(20));
    assert!(world.fates().cut > 0, "nobody tried to cross");
    let lists = |world: &World, host| world.node(host).is_some_and(|node| node.live_records().iter().any(is_instance));
    assert!(sides[0].iter().all(|&host| lists(&world, host)), "this side has the record");
    assert!(!sides[1].iter().any(|&host| lists(&world, host)), "the other side has it too");
    assert!(check::all_views_equal(&world).is_err());

    world.heal();
    world.run_until_settled(Duration::from_secs(30)).unwrap_or_else(|| panic!("{:?}", check::settled(&world)));
    assert!((0..6).all(|host| lists(&world, host)));
}

#[test]
fn a_crashed_node_sends_and_hears_nothing_and_restarts_as_a_newer_self() {
    let mut world = world(SEED, 4);
    let before = world.node(3).expect("it runs").peer();
    world.crash(3);
    let sent = world.traffic_of(3);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.traffic_of(3).datagrams, sent.datagrams);
    assert!(world.node(3).is_none());

    world.restart(3);
    let after = world.node(3).expect("it runs again").peer();
    assert_eq!((after.id, after.addr), (before.id, before.addr));
    assert!(after.epoch() > before.epoch() && after.nonce != before.nonce);

    world.crash(3);
    world.replace(3);
    let other = world.node(3).expect("it runs again").peer();
    assert_eq!(other.addr, before.addr);
    assert_ne!(other.id, before.id);
    world.run_until_settled(Duration::from_secs(30)).unwrap_or_else(|| panic!("{:?}", check::settled(&world)));
}

#[test]
fn a_crashed_member_is_given_up_in_spite_of_loss_and_however_few_are_left() {
    for (nodes, loss, answer_within) in
        [(6, 0.1, 80), (6, 0.3, 80), (3, 0.0, 300), (4, 0.0, 300), (3, 0.0, 81), (4, 0.1, 81)]
    {
        let mut config = WorldConfig::new(SEED);
        let mut tuning = Tuning::default();
        tuning.watch.answer_within = Duration::from_millis(answer_within);
        config.mode = Mode::Tidings(tuning);
        let mut world = joined(config, nodes);
        world.set_loss(loss);
        let last = nodes - 1;
        let crashed = world.node(last).expect("it runs").peer();
        world.crash(last);
        world.run_for(Duration::from_secs(120));
        for host in 0..last {
            let node = world.node(host).expect("it runs");
            let is_kept = node.present_members().iter().any(|peer| peer.id == crashed.id);
            assert!(!is_kept, "host {host} of {nodes}, at a loss of {loss}, {answer_within} ms");
        }
    }
}

#[test]
fn a_difference_between_views_is_told_by_host_and_record() {
    let mut world = world(SEED, 4);
    world.register(2, instance("web")).expect("an empty node takes a record");
    // No time has passed: nobody else can know.
    let error = check::all_views_equal(&world).expect_err("host 2 knows more than the others");
    assert!(error.contains("[2]") && error.contains("web"), "{error}");
    let error = check::views_are_true(&world).expect_err("host 0 lacks a record");
    assert!(error.contains("host 0: lost") && error.contains("web"), "{error}");
}

#[test]
fn a_withdrawn_record_is_expected_nowhere() {
    let mut world = world(SEED, 4);
    let web = instance("web");
    let key = web.id.clone();
    world.register(1, web).expect("an empty node takes a record");
    world.run_until_settled(Duration::from_secs(10)).expect("one record spreads");
    world.withdraw(1, &key).expect("it is registered");
    assert!(check::views_are_true(&world).is_err(), "the others list it still");
    world.run_until_settled(Duration::from_secs(10)).expect("a withdrawal spreads");
    assert!(world.withdraw(1, &key).is_err() || world.registered(1).next().is_none());
}

fn is_instance((_, key, _): &(tidings::record::Owner, Key, u64)) -> bool {
    !key.is_member()
}
