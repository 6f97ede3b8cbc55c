//! A few seeds of every experiment: enough to notice what broke. Hundreds of seeds are for `tidings-sim all`.

use tidings_sim::experiment::{ALL, Setting};
use tidings_sim::report::run_seeds;

/// Seeds that every push tries; a machine that looks for bugs starts elsewhere.
const FROM: u64 = 1;

/// Runs `seeds` seeds of the experiment `name`, and shows the summary with the replay of every seed that failed.
#[track_caller]
fn must_pass(name: &str, seeds: u64) {
    println!("seeds {FROM} to {}", FROM + seeds - 1);
    let experiment = ALL.iter().find(|experiment| experiment.name == name).expect("the experiment exists");
    let summary = run_seeds(experiment, &Setting::default(), FROM, seeds);
    assert!(summary.is_pass(), "{summary}");
    println!("{summary}");
}

#[test]
fn fifty_nodes_join_through_one() {
    must_pass("join", 2);
}

#[test]
fn views_become_equal_in_spite_of_loss() {
    must_pass("converge", 2);
}

#[test]
fn a_late_joiner_learns_every_record() {
    must_pass("late-joiner", 2);
}

#[test]
fn a_healed_split_loses_nothing_and_brings_nothing_back() {
    must_pass("split", 2);
}

#[test]
fn an_idle_cluster_is_quiet() {
    must_pass("idle", 1);
}

#[test]
fn a_change_reaches_the_last_member_at_once_and_is_sent_a_few_times_only() {
    must_pass("change", 2);
}

#[test]
fn what_a_member_offered_is_gone_when_it_has_left() {
    must_pass("leave", 2);
}

#[test]
fn all_others_tell_a_crash() {
    must_pass("crash", 2);
}

#[test]
fn a_member_that_starts_again_is_one_member() {
    must_pass("restart", 2);
}

#[test]
fn equal_seeds_give_equal_runs_in_any_trouble() {
    must_pass("determinism", 3);
}
