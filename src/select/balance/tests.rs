//! How balancers share calls out, with a stated tolerance. Every draw comes from a seed, so each number repeats.

use super::*;
use crate::select::fixture::{Fleet, instance};
use crate::select::hash::{key_hash, place_hash};
use crate::select::{Ejection, Outcome, Picker};

/// Enough that one percent of the share of a tenth is more than three standard deviations of a fair draw.
const CALLS: usize = 1_000_000;

fn picker(fleet: &Fleet, balancer: Box<dyn Balancer>) -> Picker {
    let picker = Picker::new(fleet.reader(), "web").with_seed(7).with_balancer(balancer);
    picker.with_ejection(Ejection::never()).expect("it makes sense")
}

fn named(name: &str) -> Box<dyn Balancer> {
    name.parse::<Named>().expect("a balancer").balancer()
}

/// Position in the fleet of the instance that gets the call: ids are their positions.
fn pick(picker: &Picker, call: &Call, at: u64) -> usize {
    let now = Time::from_nanos(at);
    let pick = picker.pick_at(call, now).expect("there is somebody");
    let position = pick.instance().id.as_str().parse().expect("a position");
    pick.finish_at(Outcome::Succeeded, now + Duration::from_micros(900));
    position
}

/// How many of the calls each gets, one after another, a millisecond apart.
fn shares(fleet: &Fleet, balancer: Box<dyn Balancer>, calls: usize, n: usize) -> Vec<f64> {
    let picker = picker(fleet, balancer);
    let mut got = vec![0_u32; n];
    for at in 0..calls as u64 {
        got[pick(&picker, &Call::by_key(&at.to_le_bytes()), 1 + at * 1_000_000)] += 1;
    }
    got.into_iter().map(|got| f64::from(got) / calls as f64).collect()
}

#[track_caller]
fn assert_shares(name: &str, shares: &[f64], weights: &[u32], tolerance: f64) {
    let total: u32 = weights.iter().sum();
    for (share, weight) in shares.iter().zip(weights) {
        let due = f64::from(*weight) / f64::from(total);
        assert!((share / due - 1.0).abs() <= tolerance, "{name}: {share} of the calls, {due} are due: {shares:?}");
    }
}

#[test]
fn weights_are_honoured_within_one_percent() {
    let weights = [1, 2, 3, 4];
    let fleet = Fleet::of_weights(&weights);
    for name in ["smooth_weighted", "weighted_random", "ewma", "least_pending", "rendezvous", "maglev"] {
        assert_shares(name, &shares(&fleet, named(name), CALLS, 4), &weights, 0.01);
    }
}

#[test]
fn calls_are_even_within_one_percent_where_weights_do_not_count() {
    let fleet = Fleet::of_weights(&[1, 2, 3, 4]);
    for name in ["round_robin", "random"] {
        assert_shares(name, &shares(&fleet, named(name), CALLS, 4), &[1; 4], 0.01);
    }
}

#[test]
fn smooth_weighted_round_robin_gives_the_published_sequence() {
    // Of nginx's commit 52327e0627f4 of 2012, which brought the algorithm: { 5, 1, 1 } gives a a b a c a a.
    let fleet = Fleet::of_weights(&[5, 1, 1]);
    let picker = picker(&fleet, named("smooth_weighted"));
    let sequence: Vec<_> = (0..14).map(|at| pick(&picker, &Call::new(), at + 1)).collect();
    assert_eq!(sequence, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn who_stays_keeps_its_place_in_the_rhythm_when_one_is_swapped_for_another() {
    let mut fleet = Fleet::of_weights(&[1, 1, 1, 1]);
    let picker = picker(&fleet, named("smooth_weighted"));
    assert_eq!([1, 2].map(|at| pick(&picker, &Call::new(), at)), [0, 1]);
    // The same number of instances, another one: what counts only their number would miss it.
    fleet.withdraw(3);
    fleet.up(9, instance("0009"));
    let next: Vec<_> = (3..7).map(|at| pick(&picker, &Call::new(), at)).collect();
    assert_eq!(next[0], 2, "whose turn it was has it: {next:?}");
    assert!(next.contains(&9) && !next.contains(&3), "{next:?}");
}

#[test]
fn least_pending_evens_out_what_is_pending_by_weight() {
    let fleet = Fleet::of_weights(&[1, 2, 5]);
    let picker = picker(&fleet, named("least_pending"));
    let now = Time::from_nanos(1);
    let picks: Vec<_> = (0..800).map(|_| picker.pick_at(&Call::new(), now).unwrap()).collect();
    let pending = |position: usize| picker.candidates().unwrap()[position].pending();
    for (position, due) in [100, 200, 500].into_iter().enumerate() {
        assert!(pending(position).abs_diff(due) <= 1, "{} at {position}, {due} are due", pending(position));
    }
    drop(picks);
    assert_eq!((0..3).map(pending).sum::<u32>(), 0);
}

#[test]
fn the_default_evens_out_what_is_pending_by_weight_within_a_quarter() {
    let fleet = Fleet::of_weights(&[1, 2, 5]);
    let picker = picker(&fleet, named("ewma"));
    (0..1_000).for_each(|at| _ = pick(&picker, &Call::new(), 1 + at * 1_000));
    let now = Time::from_nanos(2_000_000);
    let picks: Vec<_> = (0..800).map(|_| picker.pick_at(&Call::new(), now).unwrap()).collect();
    for (candidate, due) in picker.candidates().unwrap().iter().zip([100.0, 200.0, 500.0]) {
        let pending = f64::from(candidate.pending());
        assert!((pending / due - 1.0).abs() < 0.25, "{pending} pending, {due} are due");
    }
    drop(picks);
}

#[test]
fn the_default_avoids_who_is_slow_and_tries_it_again() {
    let fleet = Fleet::of_weights(&[1; 10]);
    let picker = picker(&fleet, named("ewma"));
    let slow_gets = |from: u64, slow: u64| -> usize {
        (0..10_000_u64)
            .filter(|call| {
                let now = Time::from_nanos(from + call * 1_000_000);
                let pick = picker.pick_at(&Call::new(), now).unwrap();
                let is_first = pick.instance().id.as_str() == "0000";
                let millis = if is_first { slow } else { 10 };
                pick.finish_at(Outcome::Succeeded, now + Duration::from_millis(millis));
                is_first
            })
            .count()
    };
    // Two that differ are compared, so it is never the better one: it gets what finds that out, and no more.
    assert!(slow_gets(1, 500) < 50);
    // A minute later it is quick again, and half a minute after that it has its share.
    slow_gets(70_000_000_000, 10);
    assert!((500..1_500).contains(&slow_gets(100_000_000_000, 10)));
}

#[test]
fn a_candidate_that_never_answered_gets_one_call_until_it_does() {
    let mut fleet = Fleet::of_weights(&[1; 3]);
    let picker = picker(&fleet, named("ewma"));
    (0..1_000).for_each(|at| _ = pick(&picker, &Call::new(), 1 + at * 1_000));
    fleet.up(3, instance("0003"));
    let now = Time::from_nanos(2_000_000);
    let picks: Vec<_> = (0..100).map(|_| picker.pick_at(&Call::new(), now).unwrap()).collect();
    let new = picks.iter().filter(|pick| pick.instance().id.as_str() == "0003").count();
    assert!((1..=2).contains(&new), "{new}");
}

#[test]
fn a_quick_failure_does_not_attract_calls() {
    let fleet = Fleet::of_weights(&[1; 10]);
    let picker = picker(&fleet, named("ewma"));
    let mut failing = 0;
    for call in 0..10_000_u64 {
        let now = Time::from_nanos(1 + call * 1_000_000);
        let pick = picker.pick_at(&Call::new(), now).unwrap();
        let fails = pick.instance().id.as_str() == "0000" && call > 1_000;
        failing += usize::from(fails);
        let (outcome, micros) = if fails { (Outcome::Failed, 10) } else { (Outcome::Succeeded, 10_000) };
        pick.finish_at(outcome, now + Duration::from_micros(micros));
    }
    assert!(failing < 1_200, "{failing} of 9,000 calls, and a tenth is its share");
}

/// Where each of many keys goes.
fn owners(fleet: &Fleet, name: &str) -> Vec<usize> {
    let picker = picker(fleet, named(name));
    (0..100_000_u64).map(|key| pick(&picker, &Call::by_key(&key.to_le_bytes()), 1)).collect()
}

#[test]
fn when_one_of_n_goes_only_its_keys_move_and_one_percent() {
    for name in ["rendezvous", "maglev"] {
        for n in [3, 10, 50] {
            let mut fleet = Fleet::of_weights(&vec![1; n]);
            let before = owners(&fleet, name);
            fleet.withdraw(1);
            let after = owners(&fleet, name);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            let astray = before.iter().zip(&after).filter(|(before, after)| before != after && **before != 1).count();
            let (moved, astray) = (moved as f64 / 1e5, astray as f64 / 1e5);
            assert!(moved <= 1.0 / n as f64 + 0.01, "{name}, {n}: {moved} moved");
            assert!(name == "maglev" || astray == 0.0, "{name}, {n}: {astray} moved without need");
        }
    }
}

#[test]
fn a_restart_and_a_change_of_the_record_move_no_key() {
    for name in ["rendezvous", "maglev"] {
        let mut fleet = Fleet::of_weights(&[1, 2, 3]);
        let before = owners(&fleet, name);
        fleet.start(1, 2, instance("0001").with_weight(2).with_tag("new"));
        assert_eq!(owners(&fleet, name), before, "{name}");
    }
}

#[test]
fn keys_fall_where_they_fell_when_this_was_written() {
    // Callers of other versions must agree: these never change. Computed apart from this code, with Python's xxhash,
    // its logarithm, and the tables filled as the papers say.
    let fleet = Fleet::of_weights(&[1, 2, 3, 4]);
    let first = |name| owners(&fleet, name)[..24].to_vec();
    assert_eq!(place_hash("member-0", "0000"), 0x0966_e0cf_0075_0122);
    assert_eq!(key_hash(&0_u64.to_le_bytes()), 0xc77b_3abb_6f87_acd9);
    let rendezvous = [1, 3, 2, 3, 3, 3, 2, 1, 2, 2, 0, 3, 3, 1, 3, 2, 2, 3, 1, 2, 1, 0, 3, 3];
    assert_eq!(first("rendezvous"), rendezvous);
    let maglev = [3, 2, 1, 0, 1, 3, 1, 2, 1, 3, 1, 2, 0, 0, 1, 3, 3, 3, 2, 2, 2, 2, 3, 0];
    assert_eq!(first("maglev"), maglev);
}

#[test]
fn no_candidate_gets_more_than_its_bound_and_a_hot_key_spills_over() {
    let balancers: [Box<dyn Balancer>; 2] = [Box::new(Rendezvous::bounded(1.25)), Box::new(Maglev::bounded(1.25))];
    for balancer in balancers {
        let fleet = Fleet::of_weights(&[1, 1, 2]);
        let picker = picker(&fleet, balancer);
        let now = Time::from_nanos(1);
        let hot = Call::by_key(b"hot");
        let home = picker.pick_at(&hot, now).unwrap().instance().id.clone();
        let picks: Vec<_> = (0..400).map(|_| picker.pick_at(&hot, now).unwrap()).collect();
        for candidate in picker.candidates().unwrap() {
            let bound = (1.25 * 400.0 * f64::from(candidate.weight()) / 4.0).ceil();
            assert!(f64::from(candidate.pending()) <= bound, "{} pending, {bound} allowed", candidate.pending());
        }
        drop(picks);
        assert_eq!(picker.pick_at(&hot, now).unwrap().instance().id, home, "the key comes home");
    }
}

#[test]
fn callers_of_a_subset_have_the_same_few_and_one_that_goes_is_replaced_by_one() {
    let mut fleet = Fleet::of_weights(&[1; 50]);
    let kept = |fleet: &Fleet, caller: &str| -> Vec<String> {
        let picker = Picker::new(fleet.reader(), "web").with_subset(Subset::of(10, caller));
        picker.candidates().unwrap().iter().map(|c| c.offered().instance.id.to_string()).collect()
    };
    let before = kept(&fleet, "caller");
    assert_eq!((before.len(), &kept(&fleet, "caller")), (10, &before));
    let mut callers = vec![0_u32; 50];
    for caller in 0..500 {
        kept(&fleet, &format!("caller-{caller}")).iter().for_each(|id| callers[id.parse::<usize>().unwrap()] += 1);
    }
    // 100 callers each, give or take 9.5; four times that holds for all fifty.
    assert!(callers.iter().all(|callers| (62..=138).contains(callers)), "{callers:?}");
    fleet.withdraw(before[0].parse().unwrap());
    let after = kept(&fleet, "caller");
    assert_eq!(after.iter().filter(|id| before.contains(id)).count(), 9);
}

#[test]
fn the_share_of_a_new_instance_grows_from_a_tenth_to_the_whole() {
    for name in ["ewma", "weighted_random", "random", "smooth_weighted", "least_pending"] {
        let mut fleet = Fleet::of_weights(&[1; 3]);
        let window = Duration::from_secs(100);
        let picker = picker(&fleet, named(name)).with_slow_start(SlowStart::over(window));
        let second = 1_000_000_000;
        (0..1_000).for_each(|at| _ = pick(&picker, &Call::new(), 1 + at * 1_000));
        fleet.up(3, instance("0003"));
        // The window opens with the first pick that sees it.
        let _ = pick(&picker, &Call::new(), second);
        let share = |at: u64| {
            let new = (0..20_000).filter(|call| pick(&picker, &Call::new(), (1 + at) * second + call * 1_000) == 3);
            new.count() as f64 / 20_000.0
        };
        // One whose weight counts w beside three gets w / (3 + w); two choices see it once more often, of which each
        // is taken by chance.
        let (at_first, half, whole) = (share(1), share(50), share(101));
        assert!((0.02..0.05).contains(&at_first), "{name}: {at_first}");
        assert!((0.11..0.18).contains(&half), "{name}: {half}");
        assert!((0.23..0.27).contains(&whole), "{name}: {whole}");
    }
}

#[test]
fn a_session_sticks_to_its_instance_while_that_can_take_it() {
    let mut fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet, named("random"));
    let token = picker.pick().unwrap().token();
    let again = |picker: &Picker| picker.pick_for(&Call::new().to(token)).unwrap();
    let home = again(&picker).instance().id.clone();
    assert!((0..100).all(|_| again(&picker).instance().id == home));
    // Its record may change, and others come.
    let owner: u64 = home.as_str().parse().unwrap();
    fleet.change(owner, instance(home.as_str()).with_weight(3));
    fleet.up(9, instance("0009"));
    assert!((0..100).all(|_| again(&picker).token() == token));
    fleet.withdraw(owner);
    assert_ne!(again(&picker).token(), token);
}

#[test]
fn every_balancer_gives_whoever_is_left_and_nobody_when_all_were_tried() {
    for name in Named::all() {
        let fleet = Fleet::of_weights(&[1, 1_000, 1]);
        let picker = picker(&fleet, name.balancer());
        let mut call = Call::by_key(b"k");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let pick = picker.pick_for(&call).unwrap();
            call.tried(pick.token());
            seen.insert(pick.token());
        }
        assert_eq!(seen.len(), 3, "{name:?}");
        let error = picker.pick_for(&call).unwrap_err().to_string();
        assert_eq!(error, "every instance of \"web\" was tried: 3 of 3", "{name:?}");
    }
}
