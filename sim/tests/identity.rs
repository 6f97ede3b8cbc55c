//! Who a member is, when its address changes, its data directory is an old copy, or two processes have one each.

use std::net::SocketAddr;
use std::time::Duration;

use tidings::effect::Fatal;
use tidings::record::{Instance, Key};
use tidings_sim::{HostIndex, World, WorldConfig, check};

const SEEDS: std::ops::Range<u64> = 1..9;

/// A world of `nodes` nodes that had time to join.
fn world(seed: u64, nodes: usize) -> World {
    println!("seed {seed}");
    let mut world = World::new(WorldConfig::new(seed));
    let first = world.add_node(&[]);
    for _ in 1..nodes {
        world.add_node(&[first]);
    }
    settle(&mut world, Duration::from_secs(30));
    world
}

fn settle(world: &mut World, limit: Duration) {
    world.run_until_settled(limit).unwrap_or_else(|| panic!("{:?}", check::settled(world)));
}

fn instance(name: &str) -> Instance {
    let mut instance =
        Instance::new(name, SocketAddr::from(([10, 1, 0, 1], 8_080))).expect("a name and an address suffice");
    instance.id = Key::from(name);
    instance
}

fn downs(world: &World) -> u64 {
    world.running().map(|(_, node)| node.counters().members_down).sum()
}

fn addr_of(world: &World, host: HostIndex) -> SocketAddr {
    world.node(host).expect("it runs").peer().addr
}

/// Whether every node believes that `host` is where it says it is.
fn all_know_the_address_of(world: &World, host: HostIndex) -> bool {
    let me = world.node(host).expect("it runs").peer();
    world.running().all(|(_, node)| node.live_members().contains(&me))
}

#[test]
fn an_address_that_changes_keeps_its_records_and_nobody_calls_the_member_down() {
    for seed in SEEDS {
        let mut world = world(seed, 8);
        world.register(3, instance("web")).expect("an empty node takes a record");
        settle(&mut world, Duration::from_secs(5));
        let before = addr_of(&world, 3);
        for _ in 0..3 {
            world.readdress(3);
            world
                .run_until_cond(Duration::from_secs(2), |world| all_know_the_address_of(world, 3))
                .expect("news of the address takes a moment");
            settle(&mut world, Duration::from_secs(5));
        }
        world.run_for(Duration::from_secs(60));
        assert_ne!(addr_of(&world, 3), before);
        assert_eq!(world.node(3).expect("it runs").counters().readdresses, 3);
        assert_eq!(downs(&world), 0, "nobody was called down");
        assert!(all_know_the_address_of(&world, 3));
        check::settled(&world).expect("every view is true");
    }
}

#[test]
fn an_address_that_changes_at_twenty_percent_loss_is_learned_by_all() {
    for seed in SEEDS {
        let mut world = world(seed, 8);
        world.set_loss(0.2);
        world.readdress(3);
        world
            .run_until_cond(Duration::from_secs(20), |world| all_know_the_address_of(world, 3))
            .expect("the address is learned by all");
        world.set_loss(0.0);
        settle(&mut world, Duration::from_secs(60));
    }
}

#[test]
fn two_members_that_swap_their_addresses_are_both_found() {
    for seed in SEEDS {
        let mut world = world(seed, 6);
        world.readdress(2);
        world.readdress(4);
        settle(&mut world, Duration::from_secs(20));
        assert!(all_know_the_address_of(&world, 2) && all_know_the_address_of(&world, 4));
    }
}

#[test]
fn an_old_copy_of_a_data_directory_becomes_a_later_start_than_the_others_know() {
    for seed in SEEDS {
        for (waits, moves) in [(0, false), (0, true), (60, false), (900, false), (900, true)] {
            let mut world = world(seed, 5);
            for _ in 0..4 {
                world.crash(3);
                world.restart(3);
                settle(&mut world, Duration::from_secs(30));
            }
            let known = world.node(3).expect("it runs").peer().epoch();
            world.crash(3);
            world.run_for(Duration::from_secs(waits));
            world.restore(3, 2, moves);
            world.register(3, instance("web")).expect("an empty node takes a record");
            settle(&mut world, Duration::from_secs(60));
            let node = world.node(3).expect("it runs");
            assert!(node.peer().epoch() > known, "{} is not later than {known}", node.peer().epoch());
            assert_eq!(node.counters().epochs_taken, 1, "waited {waits} s, moved: {moves}");
        }
    }
}

#[test]
fn a_start_from_before_its_own_goodbye_is_let_in_as_a_later_one() {
    for seed in SEEDS {
        let mut world = world(seed, 4);
        world.crash(3);
        world.restart(3);
        settle(&mut world, Duration::from_secs(30));
        world.leave(3).expect("it runs");
        world.run_for(Duration::from_secs(5));
        world.restore(3, 2, false);
        settle(&mut world, Duration::from_secs(30));
        assert!(world.node(3).expect("it runs").peer().epoch() > 2);
    }
}

#[test]
fn of_two_processes_with_one_data_directory_one_stops_and_says_why() {
    for seed in SEEDS {
        let mut world = world(seed, 5);
        let clone = world.add_clone(3);
        world.run_for(Duration::from_secs(30));
        let stopped: Vec<_> = world.fatals().collect();
        assert!(matches!(stopped[..], [(host, Fatal::Cloned { .. })] if host == 3), "{stopped:?}");
        assert!(world.node(clone).is_some(), "the later start lives");
        let downs = downs(&world);
        world.run_for(Duration::from_secs(60));
        check::all_views_equal(&world).expect("the others agree");
        assert_eq!(downs, self::downs(&world), "nobody flaps");
    }
}
