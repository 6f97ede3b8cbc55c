//! What a picker does when the view changes and when calls fail. Told the time, drawn from a seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::balance::{Named, Random, RoundRobin};
use super::failover::{Budget, Failover, Next};
use super::fixture::{Fleet, instance};
use super::*;
use crate::guard::DROP_WINDOW;
use crate::peer::MemberState;
use crate::record::Status;
use crate::time::Time;
use crate::view::{StopReason, View};

fn at(millis: u64) -> Time {
    Time::from_nanos(1) + Duration::from_millis(millis)
}

fn picker(fleet: &Fleet) -> Picker {
    Picker::new(fleet.reader(), "web").with_seed(1).with_balancer(Box::new(RoundRobin::default()))
}

fn id(pick: &Pick) -> String {
    pick.instance().id.to_string()
}

/// Makes calls a millisecond apart, of which those to `failing` end with the outcome; gives how many each got.
fn call(picker: &Picker, from: u64, calls: u64, failing: &str, outcome: Outcome) -> BTreeMap<String, usize> {
    let mut got = BTreeMap::new();
    for n in 0..calls {
        let pick = picker.pick_at(&Call::new(), at(from + n)).expect("there is somebody");
        *got.entry(id(&pick)).or_default() += 1;
        let outcome = if id(&pick) == failing { outcome } else { Outcome::Succeeded };
        pick.finish_at(outcome, at(from + n));
    }
    got
}

fn got(calls: &BTreeMap<String, usize>, id: &str) -> usize {
    calls.get(id).copied().unwrap_or(0)
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let fleet = Fleet::of_weights(&[1; 5]);
    let one = picker(&fleet);
    let mut outcomes =
        [Outcome::Failed, Outcome::Failed, Outcome::Failed, Outcome::Failed, Outcome::Succeeded].iter().cycle();
    for n in 0..500 {
        let pick = one.pick_at(&Call::new(), at(n)).unwrap();
        let outcome = if id(&pick) == "0000" { *outcomes.next().unwrap() } else { Outcome::Succeeded };
        pick.finish_at(outcome, at(n));
    }
    assert_eq!(one.stats().for_failures, 0);
    let two = picker(&fleet);
    let calls = call(&two, 0, 1_000, "0000", Outcome::Failed);
    assert_eq!(got(&calls, "0000"), 5);
    assert_eq!((two.stats().for_failures, two.stats().ejected_now), (1, 1));
    let ejected: Vec<_> = two.candidates().unwrap().iter().filter_map(|c| c.ejected()).collect();
    assert_eq!(ejected, [Cause::Failures]);
}

#[test]
fn a_refused_connection_ejects_at_once_and_one_call_an_ejection_finds_out() {
    let fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    // Ejected for 30 s, 60 s, 90 s: one call at 0, 30, 90, 180 s.
    let calls = call(&picker, 0, 200_000, "0000", Outcome::Refused);
    assert_eq!(got(&calls, "0000"), 4);
    assert_eq!((picker.stats().for_refused, picker.stats().probes), (4, 3));
}

#[test]
fn calls_that_fail_over_hit_a_dead_instance_once_an_ejection_until_gossip_removes_it() {
    let mut fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    let (failover, budget) = (Failover::default(), Budget::default());
    let mut hits = Vec::new();
    for millis in 0..200_000 {
        if millis == 150_000 {
            fleet.member(0, MemberState::Unreachable);
        }
        let now = at(millis);
        let mut tries = failover.begin(Call::new(), false, &budget, now);
        loop {
            let pick = picker.pick_at(tries.call(), now).expect("there are others");
            tries.trying(pick.token());
            if id(&pick) != "0000" {
                pick.finish_at(Outcome::Succeeded, now);
                break;
            }
            hits.push(millis);
            pick.finish_at(Outcome::Refused, now);
            assert_eq!(tries.next(Outcome::Refused, &budget, now, 0), Next::TryAfter(Duration::ZERO));
        }
    }
    // Ejected for 30 s, 60 s and 90 s: the call at 180 s finds it gone from the view.
    let seconds: Vec<_> = hits.iter().map(|millis| millis / 1_000).collect();
    assert_eq!(seconds, [0, 30, 90], "{hits:?}");
}

#[test]
fn one_call_decides_whether_an_instance_comes_back_while_the_others_go_elsewhere() {
    let fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    call(&picker, 0, 10, "0000", Outcome::Refused);
    let held: Vec<_> = (0..100).map(|n| picker.pick_at(&Call::new(), at(31_000 + n)).unwrap()).collect();
    let (probes, others): (Vec<_>, Vec<_>) = held.into_iter().partition(Pick::is_probe);
    assert_eq!((probes.len(), id(&probes[0]).as_str()), (1, "0000"));
    assert!(others.iter().all(|pick| id(pick) != "0000"));
    probes.into_iter().for_each(|probe| probe.finish_at(Outcome::Succeeded, at(31_200)));
    assert_eq!((picker.stats().returned, picker.stats().ejected_now), (1, 0));
    assert_eq!(got(&call(&picker, 32_000, 100, "", Outcome::Failed), "0000"), 20);
}

#[test]
fn a_probe_that_is_dropped_or_never_ends_leaves_the_next_one_to_decide() {
    let fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    call(&picker, 0, 10, "0000", Outcome::Refused);
    let probe = |from: u64| {
        let picks = (0..10).map(|n| picker.pick_at(&Call::new(), at(from + n)).unwrap());
        picks.collect::<Vec<_>>().into_iter().find(Pick::is_probe)
    };
    let cancelled = picker.stats().cancelled;
    drop(probe(31_000).expect("it is time"));
    assert!(picker.stats().cancelled > cancelled, "a pick without an outcome is a cancelled call");
    std::mem::forget(probe(32_000).expect("the one before was dropped"));
    assert!(probe(40_000).is_none(), "one is out");
    assert!(probe(63_000).is_some(), "it is out for longer than a base time");
}

#[test]
fn a_member_heard_again_lets_one_call_find_out_early_and_a_dead_one_does_not() {
    let fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    // Heard by another clock than the picker's.
    let heard = |seconds: u64| fleet.evidence(0).note(Time::from_nanos(seconds * 1_000_000_000));
    heard(500);
    call(&picker, 0, 10, "0000", Outcome::Refused);
    // A datagram that was on its way comes after the ejection.
    heard(501);
    assert_eq!(got(&call(&picker, 100, 10_000, "0000", Outcome::Refused), "0000"), 0);
    heard(512);
    assert_eq!(got(&call(&picker, 11_000, 1_000, "0000", Outcome::Refused), "0000"), 1);
    // It answers gossip, but still refuses calls: it must wait now, for twice the time.
    heard(513);
    assert_eq!(got(&call(&picker, 13_000, 50_000, "0000", Outcome::Refused), "0000"), 0);
    assert_eq!(got(&call(&picker, 72_000, 5_000, "", Outcome::Refused), "0000"), 1_000);
}

#[test]
fn gossip_says_nothing_of_an_instance_that_answers_with_errors() {
    let fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    call(&picker, 0, 100, "0000", Outcome::Failed);
    fleet.evidence(0).note(Time::from_nanos(1));
    call(&picker, 2_000, 10, "", Outcome::Failed);
    fleet.evidence(0).note(Time::from_nanos(9_000_000_000));
    assert_eq!(got(&call(&picker, 5_000, 20_000, "", Outcome::Failed), "0000"), 0);
}

#[test]
fn what_the_owner_says_anew_lets_one_call_find_out_at_once() {
    let mut fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    call(&picker, 0, 100, "0000", Outcome::Failed);
    fleet.change(0, instance("0000").with_tag("fixed"));
    assert_eq!(got(&call(&picker, 200, 100, "0000", Outcome::Failed), "0000"), 1);
    fleet.status(0, Status::Warning);
    assert!(got(&call(&picker, 400, 100, "", Outcome::Failed), "0000") >= 19);
}

#[test]
fn a_restarted_process_begins_with_nothing_against_it() {
    let mut fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    call(&picker, 0, 100, "0000", Outcome::Failed);
    let old = picker.pick_at(&Call::new().to(0), at(150)).unwrap();
    fleet.start(0, 2, instance("0000"));
    assert_eq!(got(&call(&picker, 200, 100, "", Outcome::Failed), "0000"), 20);
    assert_eq!(picker.stats().ejected_now, 0);
    drop(old);
}

#[test]
fn an_instance_that_goes_takes_its_counters_with_it() {
    let mut fleet = Fleet::of_weights(&[1; 3]);
    let picker = picker(&fleet);
    let held = picker.pick_at(&Call::new(), at(0)).unwrap();
    let (owner, vitals) = (id(&held).parse().unwrap(), Arc::downgrade(&held.candidate().vitals));
    fleet.withdraw(owner);
    picker.pick_at(&Call::new(), at(1)).unwrap().finish_at(Outcome::Succeeded, at(1));
    assert_eq!(vitals.upgrade().expect("a call is still pending").pending(), 1);
    held.finish_at(Outcome::Succeeded, at(2));
    assert!(vitals.upgrade().is_none(), "nothing of it is left");
}

#[test]
fn a_suspicion_that_passes_keeps_what_is_pending_and_who_is_ejected() {
    let mut fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    let held: Vec<_> = (0..5).map(|n| picker.pick_at(&Call::new(), at(n)).unwrap()).collect();
    fleet.member(0, MemberState::Suspect);
    assert_eq!(picker.candidates().unwrap().len(), 4);
    fleet.member(0, MemberState::Reachable);
    let pending: Vec<_> = picker.candidates().unwrap().iter().map(|candidate| candidate.pending()).collect();
    assert_eq!(pending, [1; 5]);
    drop(held);
}

#[test]
fn at_most_the_limit_is_ejected_but_always_one() {
    for (n, limit, may_be) in [(5, 10, 1), (40, 10, 4), (40, 0, 0)] {
        let fleet = Fleet::of_weights(&vec![1; n]);
        let ejection = Ejection { percent_max: limit, ..Ejection::default() };
        let picker = picker(&fleet).with_ejection(ejection).unwrap();
        for n in 0..2_000 {
            picker.pick_at(&Call::new(), at(n)).unwrap().finish_at(Outcome::Failed, at(n));
        }
        assert_eq!(picker.stats().ejected_now, may_be, "{n} candidates, {limit} percent");
        assert!(picker.stats().spared > 0, "the limit is counted");
    }
}

#[test]
fn when_too_many_are_out_ejections_are_ignored_until_enough_are_back() {
    let fleet = Fleet::of_weights(&[1; 4]);
    let ejection = Ejection { refused_percent_max: 100, ..Ejection::default() };
    let picker = picker(&fleet).with_ejection(ejection).unwrap();
    // Three of four are ejected, which leaves a quarter, and less than half.
    for token in picker.candidates().unwrap()[..3].iter().map(|candidate| candidate.token()) {
        let pick = picker.pick_at(&Call::new().to(token), at(0)).unwrap();
        assert_eq!(pick.token(), token);
        pick.finish_at(Outcome::Refused, at(0));
    }
    assert_eq!(picker.stats().ejected_now, 3);
    let picks: Vec<_> = (0..8).map(|n| picker.pick_at(&Call::new(), at(1 + n)).unwrap()).collect();
    let called: std::collections::BTreeSet<_> = picks.iter().map(id).collect();
    assert_eq!(called.len(), 4, "all get calls: {called:?}");
    picks.into_iter().for_each(|pick| {
        let outcome = if id(&pick).as_str() < "0002" { Outcome::Refused } else { Outcome::Succeeded };
        pick.finish_at(outcome, at(10));
    });
    assert_eq!(picker.stats().ejected_now, 2, "one that answers comes back");
    assert_eq!(call(&picker, 200, 100, "", Outcome::Failed).len(), 2, "half of them are enough");
}

#[test]
fn the_only_instance_gets_calls_even_if_it_refuses_them() {
    let fleet = Fleet::of_weights(&[1]);
    let picker = picker(&fleet);
    assert_eq!(got(&call(&picker, 0, 10, "0000", Outcome::Refused), "0000"), 10);
}

#[test]
fn who_succeeds_much_less_often_than_the_others_is_ejected() {
    let fleet = Fleet::of_weights(&[1; 10]);
    let picker = picker(&fleet);
    for n in 0..12_000_u64 {
        let pick = picker.pick_at(&Call::new(), at(n)).unwrap();
        // Every second call fails: never five in a row.
        let fails = id(&pick) == "0003" && (n / 10) % 2 == 0;
        pick.finish_at(if fails { Outcome::Failed } else { Outcome::Succeeded }, at(n));
    }
    assert_eq!((picker.stats().for_success_rate, picker.stats().for_failures), (1, 0));
    let out: Vec<_> = picker.candidates().unwrap().iter().filter(|c| c.ejected().is_some()).cloned().collect();
    assert_eq!((out.len(), out[0].offered().instance.id.as_str()), (1, "0003"));
}

#[test]
fn ejections_are_forgiven_one_by_one_while_an_instance_does_well() {
    let fleet = Fleet::of_weights(&[1; 5]);
    let picker = picker(&fleet);
    call(&picker, 0, 100_000, "0000", Outcome::Refused);
    let times = |picker: &Picker| picker.candidates().unwrap()[0].vitals.times.load(Ordering::Relaxed);
    assert_eq!(times(&picker), 3);
    call(&picker, 180_500, 60_000, "", Outcome::Refused);
    assert_eq!(times(&picker), 0);
}

#[test]
fn the_last_known_good_get_calls_while_they_are_kept_and_nobody_else_is_left() {
    let mut fleet = Fleet::of_weights(&[1; 5]);
    let picker = Picker::new(fleet.reader(), "web");
    (1..5).for_each(|owner| fleet.member(owner, MemberState::Unreachable));
    assert!((0..50).all(|_| !picker.pick().unwrap().is_stale()), "one that answers is enough");
    fleet.member(0, MemberState::Suspect);
    let stale = picker.pick().unwrap();
    assert!(stale.is_stale());
    fleet.status(0, Status::Draining);
    (1..5).for_each(|owner| fleet.withdraw(owner));
    assert!(matches!(picker.pick().unwrap_err(), PickError::NoHealthy(_)), "all of them went on purpose");
}

#[test]
fn an_error_tells_apart_what_is_wrong_and_why_each_is_out() {
    let mut view = View::new();
    let picker = |reader| Picker::new(reader, "web");
    assert_eq!(picker(view.reader()).pick().unwrap_err(), PickError::NotReady);
    view.ready();
    assert_eq!(picker(view.reader()).pick().unwrap_err(), PickError::UnknownService { name: "web".into() });

    let mut fleet = Fleet::of_weights(&[1, 1, 1]);
    fleet.up(3, instance("vip").with_group("vip"));
    let all = Picker::new(fleet.reader(), "web");
    let one = Picker::new(fleet.reader(), "web").with_selector(Selector::new().tag("gold"));
    assert!(all.pick().is_ok());
    let error = one.pick().unwrap_err();
    assert_eq!(
        error.to_string(),
        "no instance is selected: \"web\", 4 known: 0000 (no tag \"gold\"), 0001 (no tag \"gold\"), \
         0002 (no tag \"gold\"), vip (another group)"
    );
    fleet.status(0, Status::Maintenance("disk".into()));
    fleet.member(1, MemberState::Suspect);
    // Long after: two that are lost at once would be kept.
    fleet.view().pass(Time::ZERO + DROP_WINDOW * 2);
    fleet.member(2, MemberState::Down);
    let error = all.pick().unwrap_err();
    assert_eq!(
        error.to_string(),
        "no instance is healthy: \"web\", 4 known: vip (another group), 0000 (it is maintenance:disk), \
         0001 (its member is suspect), 0002 (its member is down)"
    );
    fleet.view().isolated(true);
    assert_eq!(all.pick().unwrap_err(), PickError::Isolated);
    fleet.view().isolated(false);
    fleet.member(1, MemberState::Reachable);
    assert_eq!(id(&all.pick().unwrap()), "0001");
    for owner in 0..4 {
        fleet.withdraw(owner);
    }
    assert_eq!(all.pick().unwrap_err(), PickError::UnknownService { name: "web".into() });
    fleet.up(5, instance("back"));
    assert_eq!(id(&all.pick().unwrap()), "back");
    fleet.view().stop(StopReason::Left);
    assert_eq!(all.pick().unwrap_err(), PickError::Stopped(StopReason::Left));
}

#[test]
fn a_census_of_many_lists_some_and_counts_the_rest() {
    let mut fleet = Fleet::of_weights(&[1; 20]);
    (0..20).for_each(|owner| fleet.status(owner, Status::Draining));
    let error = Picker::new(fleet.reader(), "web").pick().unwrap_err();
    let PickError::NoHealthy(census) = &error else { panic!("{error}") };
    assert_eq!((census.known, census.out.len()), (20, Census::LISTED_MAX));
    assert!(error.to_string().ends_with("0015 (it is draining) and 4 more"), "{error}");
}

#[test]
fn the_last_known_good_are_picked_and_marked_when_nearly_all_are_gone_at_once() {
    let mut fleet = Fleet::of_weights(&[1; 20]);
    let picker = picker(&fleet).with_selector(Selector::new().healthy_ratio_min(0.5));
    (0..15).for_each(|owner| fleet.member(owner, MemberState::Down));
    let picks: Vec<_> = (0..20).map(|n| picker.pick_at(&Call::new(), at(n)).unwrap()).collect();
    assert_eq!(picks.iter().filter(|pick| pick.is_stale()).count(), 15);
    // The other fifteen go on purpose: nobody wants them back.
    let mut fleet = Fleet::of_weights(&[1; 20]);
    let picker = self::picker(&fleet).with_selector(Selector::new().healthy_ratio_min(0.5));
    (0..15).for_each(|owner| fleet.withdraw(owner));
    assert_eq!(picker.candidates().unwrap().len(), 5);
    (15..20).for_each(|owner| fleet.withdraw(owner));
    assert_eq!(picker.pick().unwrap_err(), PickError::UnknownService { name: "web".into() });
}

#[test]
fn a_change_that_concerns_nobody_here_builds_nothing_anew() {
    let mut fleet = Fleet::of_weights(&[1; 3]);
    let picker = picker(&fleet);
    let before = picker.candidates().unwrap();
    fleet.view().publish();
    let after = picker.candidates().unwrap();
    assert!(before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)));
    fleet.change(1, instance("0001").with_weight(7));
    assert_eq!(picker.candidates().unwrap()[1].weight(), 7);
}

#[test]
fn threads_that_pick_while_the_view_changes_never_get_an_instance_that_is_gone_for_long() {
    // Instance 0 is there at all times, the others come and go; nothing may panic, no counter may be left over.
    let mut fleet = Fleet::of_weights(&[1; 4]);
    for name in Named::all() {
        let picker = Picker::new(fleet.reader(), "web").with_balancer(name.balancer());
        let is_over = AtomicBool::new(false);
        let picks = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2_u64)
                .map(|thread| {
                    let (picker, is_over) = (&picker, &is_over);
                    scope.spawn(move || {
                        let mut picks = 0_u64;
                        while !is_over.load(Ordering::Relaxed) || picks < 100 {
                            let call = Call::by_key(&picks.to_le_bytes());
                            let pick = picker.pick_for(&call).expect("instance 0 is always there");
                            let fails = (picks + thread).is_multiple_of(7);
                            pick.finish(if fails { Outcome::Refused } else { Outcome::Succeeded });
                            picks += 1;
                        }
                        picks
                    })
                })
                .collect();
            for round in 0..100 {
                let owner = 1 + round % 3;
                fleet.withdraw(owner);
                fleet.start(owner, 2 + round, instance(&format!("{owner:04}")));
            }
            is_over.store(true, Ordering::Relaxed);
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<u64>()
        });
        assert!(picks >= 200);
        let candidates = picker.candidates().unwrap();
        assert!(candidates.iter().all(|candidate| candidate.pending() == 0), "{name:?}");
        let ejected = candidates.iter().filter(|candidate| candidate.ejected().is_some()).count();
        assert_eq!(picker.stats().ejected_now as usize, ejected, "{name:?}");
    }
}

#[test]
fn the_same_seed_and_calls_give_the_same_instances() {
    let fleet = Fleet::of_weights(&[1, 2, 3]);
    let calls = |seed| -> Vec<String> {
        let picker = Picker::new(fleet.reader(), "web").with_seed(seed).with_balancer(Box::new(Random));
        (0..50).map(|n| id(&picker.pick_at(&Call::new(), at(n)).unwrap())).collect()
    };
    assert_eq!(calls(3), calls(3));
    assert_ne!(calls(3), calls(4));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let check = |ejection: Ejection| ejection.check().unwrap_err().to_string();
    assert_eq!(
        check(Ejection { percent_max: 101, ..Ejection::default() }),
        "percent_max is 101 percent, the limit is 100"
    );
    assert_eq!(check(Ejection { base: Duration::ZERO, ..Ejection::default() }), "base is zero");
    let rate = SuccessRate { deviations: f64::NAN, ..SuccessRate::default() };
    assert!(check(Ejection { success_rate: Some(rate), ..Ejection::default() }).contains("deviations"));
    assert!(Ejection::never().check().is_ok());
}
