//! A few scenarios of the library, one seed each: what must hold at every push. `tidings-sim run all` tries them all.

use tidings_sim::library;
use tidings_sim::run::{Options, run};

/// The seed that every push tries.
const SEED: u64 = 1;

#[track_caller]
fn must_hold(name: &str) {
    println!("tidings-sim run {name} --seed {SEED}");
    let scenario = library::scenario(name).expect("the library is well formed");
    let outcome = run(&scenario, SEED, Options::default());
    let is_known = scenario.known_to_fail.is_some();
    assert!(outcome.is_pass() || is_known, "{:#?}\n{:#?}", outcome.failures, outcome.figures);
}

#[test]
fn a_crash_is_noticed_by_all() {
    must_hold("single-crash");
}

#[test]
fn a_healed_split_is_one_cluster_again() {
    must_hold("half-split");
    must_hold("three-two-split");
}

#[test]
fn two_clusters_of_one_name_become_one_when_they_meet() {
    must_hold("start-up-split");
}

#[test]
fn a_restart_is_a_newer_life_whatever_the_clock_says() {
    must_hold("clock-steps");
    must_hold("disk-full");
    must_hold("replaced-at-once");
}

#[test]
fn what_canaries_tell_is_how_long_news_takes() {
    must_hold("canary");
}

#[test]
fn an_address_may_go_from_one_member_to_another() {
    must_hold("address-reused");
}

#[test]
fn large_records_reach_everybody_in_spite_of_loss() {
    must_hold("large-records");
}

#[test]
fn what_arrives_twice_or_late_does_no_harm() {
    must_hold("duplicate-and-reorder");
}

#[test]
fn restarted_members_find_the_others_without_their_seeds() {
    must_hold("seeds-dead");
}

#[test]
fn who_alone_cannot_reach_a_member_avoids_it_alone() {
    must_hold("one-link-cut");
}

#[test]
fn most_of_a_service_is_kept_if_it_crashes_and_gone_if_it_goes() {
    must_hold("mass-drop");
    must_hold("scale-to-zero");
}
