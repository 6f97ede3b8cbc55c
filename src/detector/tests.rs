use std::net::SocketAddr;
use std::sync::Arc;

use rand::SeedableRng;

use super::*;
use crate::peer::Generation;
use crate::record::MemberRecord;
use crate::verdict::Verdict;

fn peer(id: u64) -> Peer {
    let addr = SocketAddr::from(([10, 0, (id >> 8) as u8, id as u8], 7900));
    Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id }
}

/// A detector of member 0 among `others`, on a clock of its own.
struct Bench {
    detector: Detector,
    roster: Roster,
    rng: Xoshiro256PlusPlus,
    now: Time,
}

impl Bench {
    fn new(others: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut roster = Roster::new(NodeId(0));
        for id in 1..=others {
            roster.put(peer(id), MemberState::Reachable, Time::ZERO);
        }
        let mut detector = Detector::new(Watch::default(), Arc::from("b"), Time::ZERO, &mut rng);
        // Links are known to be fast.
        detector.usual = Some(Rtt::first(Duration::from_millis(1)));
        Self { detector, roster, rng, now: Time::ZERO }
    }

    /// Tells who stands in which zone.
    fn zone(&mut self, ids: impl IntoIterator<Item = u64>, zone: &str) {
        for id in ids {
            let Peer { addr, generation, nonce, .. } = peer(id);
            let said = MemberRecord {
                addr,
                generation,
                nonce,
                name: format!("n{id}").into(),
                zone: zone.into(),
                addresses: Vec::new(),
                wire: (0, 0),
                software: "".into(),
                has_left: false,
            };
            self.roster.show(NodeId(id), Arc::new(said));
        }
    }

    fn receive(&mut self, from: u64, probe: Probe) {
        self.detector.receive(self.now, peer(from), probe, &self.roster);
    }

    /// Lets time pass to `until`, waking on time; every ping is answered at once by whoever `answers` says does, and
    /// witnesses report what `reports` gives.
    fn run(
        &mut self,
        until: Time,
        answers: impl Fn(NodeId) -> bool,
        report: impl Fn(NodeId, NodeId) -> Option<(u8, u8)>,
    ) -> Vec<Act> {
        let mut acts = Vec::new();
        while self.detector.next_wake() <= until {
            self.now = self.detector.next_wake();
            self.detector.wake(self.now, &self.roster, &mut self.rng);
            while self.detector.has_acts() {
                for act in self.detector.take_acts() {
                    acts.push(act);
                    if let Act::Convict { peer, finding, witnesses } = act {
                        let (subject, generation, by) = (peer.id, peer.generation, NodeId(0));
                        let verdict = Verdict { subject, generation, turn: 1, finding, by, witnesses };
                        self.roster.judge(&verdict, self.now);
                        self.detector.forget(peer.id);
                    }
                    let Act::Say { to, probe } = act else { continue };
                    match probe {
                        Probe::Ping { number, .. } if answers(to.id) => {
                            self.receive(to.id.0, Probe::Pong { number, accusation: None });
                        }
                        Probe::Ask { case, accused, .. } => {
                            if let Some(seen) = report(to.id, accused.id) {
                                self.receive(to.id.0, Probe::Report { case, accused: seen, accuser: (6, 6) });
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        acts
    }
}

fn after(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

fn convicted(acts: &[Act]) -> Vec<(NodeId, Finding)> {
    acts.iter()
        .filter_map(|act| match act {
            Act::Convict { peer, finding, .. } => Some((peer.id, *finding)),
            _ => None,
        })
        .collect()
}

#[test]
fn one_member_is_probed_a_period_while_all_is_well() {
    let mut bench = Bench::new(20);
    let acts = bench.run(after(10_000), |_| true, |_, _| None);
    let pings: Vec<_> =
        acts.iter().filter_map(|act| if let Act::Say { to, .. } = act { Some(to.id) } else { None }).collect();
    assert!((9..=11).contains(&pings.len()), "{pings:?}");
    assert!(pings.iter().all(|id| *id == pings[0]), "always the same one: {pings:?}");
    assert!(acts.iter().all(|act| matches!(act, Act::Say { .. })), "{acts:?}");
}

#[test]
fn a_silent_member_is_suspected_and_convicted_by_its_witnesses() {
    let mut bench = Bench::new(20);
    let dead = bench.roster.successors().next().expect("there are others").0;
    let acts = bench.run(after(2_000), |id| id != dead, |_, _| Some((3, 0)));
    assert!(acts.contains(&Act::Suspect(dead)));
    assert_eq!(convicted(&acts), [(dead, Finding::Silent)]);
    assert!(bench.now <= after(2_000));
}

#[test]
fn a_member_that_others_reach_is_suspected_by_us_and_accused_by_nobody() {
    let mut bench = Bench::new(20);
    let cut = bench.roster.successors().next().expect("there are others").0;
    let acts = bench.run(after(5_000), |id| id != cut, |_, _| Some((6, 6)));
    assert!(acts.contains(&Act::Suspect(cut)));
    assert_eq!(convicted(&acts), []);
    let acts = bench.run(after(8_000), |_| true, |_, _| None);
    assert!(acts.contains(&Act::Clear(cut)), "it answers us again");
}

#[test]
fn nobody_is_accused_by_a_member_that_nobody_answers() {
    let mut bench = Bench::new(20);
    let acts = bench.run(after(10_000), |_| false, |_, _| None);
    assert_eq!(convicted(&acts), []);
    assert!(acts.contains(&Act::CutOff(true)));
    bench.detector.hear(bench.now);
    assert_eq!(bench.detector.take_acts(), [Act::CutOff(false)]);
}

#[test]
fn the_only_other_member_is_found_silent_without_witnesses() {
    let mut bench = Bench::new(1);
    let acts = bench.run(after(5_000), |_| false, |_, _| None);
    assert_eq!(convicted(&acts).first(), Some(&(NodeId(1), Finding::Silent)));
}

#[test]
fn a_stall_of_our_own_voids_what_was_not_answered() {
    let mut bench = Bench::new(20);
    // The round comes and its probe goes out; then nothing runs for two seconds, and no answer was read.
    bench.now = bench.detector.next_wake();
    bench.detector.wake(bench.now, &bench.roster, &mut bench.rng);
    bench.now = bench.now + Duration::from_secs(2);
    bench.detector.wake(bench.now, &bench.roster, &mut bench.rng);
    let acts = bench.detector.take_acts();
    assert!(!acts.iter().any(|act| matches!(act, Act::Suspect(_))), "{acts:?}");
    assert_eq!(bench.detector.counts.stalls, 1);
    let until = bench.now + Duration::from_secs(5);
    let acts = bench.run(until, |_| true, |_, _| None);
    assert!(!acts.iter().any(|act| matches!(act, Act::Suspect(_))), "{acts:?}");
}

#[test]
fn a_run_of_dead_neighbours_is_found_in_steps_that_grow() {
    let mut bench = Bench::new(40);
    let dead: BTreeSet<_> = bench.roster.successors().take(7).map(|(id, _)| id).collect();
    let begin = bench.detector.next_wake();
    let acts = bench.run(
        begin + Duration::from_millis(650),
        |id| !dead.contains(&id),
        |_, of| Some(if dead.contains(&of) { (4, 0) } else { (4, 4) }),
    );
    let found: BTreeSet<_> = convicted(&acts).into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, dead, "though they are seven, within less than three attempts");
}

#[test]
fn the_first_lost_probe_has_us_look_further_where_hardly_any_is_lost() {
    for (ratio, looked_at) in [(0.99, 5), (0.8, 1)] {
        let mut bench = Bench::new(40);
        bench.detector.answers = Answers::with_ratio(ratio);
        let dead = bench.roster.successors().next().expect("there are others").0;
        let begin = bench.detector.next_wake();
        let acts = bench.run(begin + Duration::from_millis(200), |id| id != dead, |_, _| None);
        let pinged = acts.iter().filter_map(|act| match act {
            Act::Say { to, probe: Probe::Ping { .. } } => Some(to.id),
            _ => None,
        });
        assert_eq!(pinged.collect::<BTreeSet<_>>().len(), looked_at, "where {ratio} are answered");
        assert!(acts.iter().all(|act| matches!(act, Act::Say { .. })), "{acts:?}");
    }
}

#[test]
fn who_is_accused_by_many_at_once_witnesses_so_many_and_counts_the_rest() {
    let mut bench = Bench::new(3);
    for case in 0..HELPS_MAX as u32 + 10 {
        bench.receive(1, Probe::Ask { case, accused: peer(2), probes: 3, wait_ms: 80 });
    }
    assert_eq!(bench.detector.lens().2, HELPS_MAX);
    assert_eq!(bench.detector.counts.asks_limited, 10);
    assert!(bench.detector.lens().0 <= AWAITED_MAX);
}

/// Seed 1617 of the fuzzer: whoever had known slow links was never told what its witnesses saw.
#[test]
fn a_witness_reports_however_long_the_accuser_would_wait_for_an_answer() {
    let mut bench = Bench::new(20);
    let wait = TIMEOUT_MAX;
    let wait_ms = wait.as_millis() as u16;
    bench.receive(1, Probe::Ask { case: 7, accused: peer(2), probes: 6, wait_ms });
    let reported = wait / 3 * 5 + wait;
    assert!(reported > HELP_KEPT);
    let mut acts = Vec::new();
    for second in 1..=reported.as_secs() + 1 {
        acts.extend(bench.run(after(second * 1_000), |id| id != NodeId(2), |_, _| None));
        bench.detector.keep_house(bench.now, &bench.roster);
    }
    let report = Probe::Report { case: 7, accused: (6, 0), accuser: (6, 6) };
    assert!(acts.contains(&Act::Say { to: peer(1), probe: report }), "{acts:?}");
    bench.detector.keep_house(bench.now + HELP_KEPT, &bench.roster);
    assert_eq!(bench.detector.lens().2, 0, "and then it forgets");
}

#[test]
fn probes_awaited_and_cases_are_limited() {
    let mut bench = Bench::new(CASES_MAX as u64 * 2);
    for id in 1..=CASES_MAX as u64 * 2 {
        bench.detector.confirm_gone(bench.now, NodeId(id), &bench.roster, &mut bench.rng);
    }
    assert_eq!(bench.detector.lens().1, CASES_MAX);
    assert_eq!(bench.detector.counts.accusations_limited, CASES_MAX as u64);
    for _ in 0..AWAITED_MAX + 10 {
        bench.detector.ping(bench.now, peer(1), Purpose::Attempt);
    }
    assert_eq!(bench.detector.lens().0, AWAITED_MAX);
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut bench = Bench::new(3);
    bench.receive(1, Probe::Pong { number: 77, accusation: None });
    bench.receive(1, Probe::Report { case: 9, accused: (255, 255), accuser: (0, 255) });
    assert!(!bench.detector.has_acts());
    assert_eq!(bench.detector.counts.probes_answered, 0);
}

#[test]
fn a_member_of_the_zone_of_the_accused_is_asked_and_one_of_ours() {
    // Three zones, of which two are of a few members only: by chance one of each would be asked seldom.
    for seed in 0..20 {
        let mut bench = Bench::new(200);
        bench.rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        bench.zone(1..=200, "far");
        let accused = bench.roster.successors().next().expect("there are others").0;
        let others: Vec<u64> = (1..=200).filter(|id| *id != accused.0).collect();
        bench.zone([accused.0, others[7], others[90]], "a");
        bench.zone([others[8], others[91]], "b");
        let acts = bench.run(after(1_500), |id| id != accused, |_, _| None);
        let asked: Vec<u64> = acts
            .iter()
            .filter_map(|act| match act {
                Act::Say { to, probe: Probe::Ask { .. } } => Some(to.id.0),
                _ => None,
            })
            .collect();
        let first = &asked[..bench.detector.watch.witnesses];
        for pair in [[others[7], others[90]], [others[8], others[91]]] {
            assert!(pair.iter().any(|id| first.contains(id)), "seed {seed}: none of {pair:?} among {first:?}");
        }
        let different: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(different.len(), first.len(), "nobody twice");
    }
}

fn asked(acts: &[Act]) -> Vec<u64> {
    acts.iter()
        .filter_map(|act| match act {
            Act::Say { to, probe: Probe::Ask { .. } } => Some(to.id.0),
            _ => None,
        })
        .collect()
}

#[test]
fn about_a_link_that_stays_cut_the_one_that_knows_is_asked_and_nobody_else() {
    let mut bench = Bench::new(20);
    let cut = bench.roster.successors().next().expect("there are others").0;
    let acts = bench.run(after(3_000), |id| id != cut, |_, _| Some((6, 6)));
    let first = asked(&acts);
    assert!(first.len() >= bench.detector.watch.witnesses, "the first time all are: {first:?}");
    let acts = bench.run(after(120_000), |id| id != cut, |_, _| Some((6, 6)));
    let again = asked(&acts);
    assert!((5..=20).contains(&again.len()) && again.iter().all(|id| *id == again[0]), "{again:?}");
    assert!(acts.iter().all(|act| !matches!(act, Act::Convict { .. })));
}

#[test]
fn a_member_that_dies_behind_a_cut_link_is_convicted_all_the_same() {
    let mut bench = Bench::new(20);
    let cut = bench.roster.successors().next().expect("there are others").0;
    bench.run(after(5_000), |id| id != cut, |_, _| Some((6, 6)));
    let acts = bench.run(after(20_000), |id| id != cut, |_, _| Some((6, 0)));
    assert_eq!(convicted(&acts), [(cut, Finding::Silent)]);
}

#[test]
fn whom_we_convicted_we_try_again_each_period_though_others_stand_before_it() {
    let mut bench = Bench::new(20);
    let far = bench.roster.successors().nth(9).expect("there are others").0;
    bench.detector.doubt(bench.now, far, &bench.roster);
    let acts = bench.run(after(3_000), |id| id != far, |_, accused| (accused == far).then_some((6, 0)));
    assert_eq!(convicted(&acts), [(far, Finding::Silent)]);
    let acts = bench.run(after(7_000), |_| true, |_, _| None);
    let is_released = |act: &Act| matches!(act, Act::Release { peer, .. } if peer.id == far);
    assert!(acts.iter().any(is_released), "{acts:?}");
}

#[test]
fn whom_only_one_of_many_answers_is_not_heard_until_others_do_again() {
    let mut bench = Bench::new(20);
    bench.run(after(2_000), |_| true, |_, _| None);
    assert!(bench.detector.is_answered(bench.now));
    let deaf_too = bench.roster.successors().nth(3).expect("there are others").0;
    bench.run(after(20_000), |id| id == deaf_too, |_, _| None);
    bench.detector.attempt(bench.now, deaf_too, &bench.roster);
    bench.run(after(20_500), |id| id == deaf_too, |_, _| None);
    assert!(bench.detector.answered.is_some_and(|at| at >= after(19_000)), "it was answered by one");
    assert!(!bench.detector.is_answered(bench.now));
    bench.run(after(23_000), |_| true, |_, _| None);
    assert!(bench.detector.is_answered(bench.now));
}

#[test]
fn a_link_that_is_known_from_the_hello_is_not_waited_for_like_a_strange_one() {
    let mut bench = Bench::new(20);
    bench.detector.usual = None;
    let id = NodeId(3);
    assert_eq!(bench.detector.timeout(id), FIRST_TIMEOUT);
    bench.now = after(1_000);
    bench.detector.meet(bench.now, id, Duration::from_millis(900));
    assert_eq!(bench.detector.timeout(id), FIRST_TIMEOUT, "that was no round trip");
    bench.detector.meet(bench.now, id, Duration::from_millis(2));
    let least = bench.detector.watch.answer_within;
    assert_eq!((bench.detector.timeout(id), bench.detector.timeout(NodeId(4))), (least, least * 3 / 2));
    bench.detector.meet(bench.now, id, Duration::from_millis(200));
    assert_eq!(bench.detector.timeout(id), least, "probes know better");
}

#[test]
fn a_member_that_is_counted_out_tells_nothing_of_its_link() {
    let mut bench = Bench::new(20);
    let id = NodeId(3);
    let before = bench.detector.timeout(id);
    let finding = Finding::Silent;
    let generation = peer(id.0).generation;
    let verdict = Verdict { subject: id, generation, turn: 1, finding, by: NodeId(1), witnesses: 3 };
    bench.roster.judge(&verdict, bench.now);
    bench.now = after(1_000);
    let ask = |bench: &mut Bench, number| {
        bench.detector.awaited.insert(number, (bench.now, id, Purpose::Attempt));
        bench.now = bench.now + Duration::from_millis(90);
    };
    ask(&mut bench, 1);
    bench.receive(id.0, Probe::Pong { number: 1, accusation: None });
    assert_eq!(bench.detector.timeout(id), before, "it may have stood still");
    ask(&mut bench, 2);
    bench.roster.judge(&Verdict { turn: 2, finding: Finding::Clear, ..verdict }, bench.now);
    bench.receive(id.0, Probe::Pong { number: 2, accusation: None });
    assert_eq!(bench.detector.timeout(id), before, "its answer comes after the news that it is back");
    bench.now = bench.now + Duration::from_millis(1);
    ask(&mut bench, 3);
    bench.receive(id.0, Probe::Pong { number: 3, accusation: None });
    assert_ne!(bench.detector.timeout(id), before, "from now on it tells");
}

/// The case of a member that is silent for a while and answers then, its witnesses having had one answer of six. From
/// the second time on that each of them is asked, it says what `later` gives. Gives the accused, too.
fn after_silence(later: (u8, u8)) -> (Bench, NodeId, Vec<Act>) {
    let mut bench = Bench::new(20);
    let acts = bench.run(after(1_000), |_| true, |_, _| None);
    let observed = acts.iter().find_map(|act| if let Act::Say { to, .. } = act { Some(to.id) } else { None });
    let observed = observed.expect("one is probed each second");
    let begin = bench.now;
    bench.run(begin + Duration::from_millis(1_450), |id| id != observed, |_, _| None);
    assert_eq!(bench.detector.counts.accusations, 1, "nobody said anything yet");
    let asked = std::cell::RefCell::new(BTreeSet::new());
    let report = |by, _| Some(if asked.borrow_mut().insert(by) { (6, 1) } else { later });
    let acts = bench.run(begin + Duration::from_millis(3_000), |_| true, report);
    (bench, observed, acts)
}

#[test]
fn silence_that_ends_is_not_loss() {
    let (bench, _, acts) = after_silence((6, 6));
    assert!(convicted(&acts).is_empty(), "{acts:?}");
    let counts = &bench.detector.counts;
    assert_eq!((counts.accusations_renewed, counts.accusations_cleared), (1, 1));
}

#[test]
fn whoever_answers_seldom_after_its_first_answer_too_is_lossy() {
    let (bench, observed, acts) = after_silence((12, 1));
    assert_eq!(convicted(&acts), [(observed, Finding::Lossy)]);
    assert_eq!(bench.detector.counts.accusations_renewed, 1);
}

#[test]
fn whoever_answered_and_is_silent_again_is_not_simply_gone() {
    let (_, observed, acts) = after_silence((12, 0));
    assert_eq!(convicted(&acts), [(observed, Finding::Lossy)], "others are to say when it is over");
}

#[test]
fn a_case_that_a_stall_has_prolonged_is_renewed_for_no_longer_than_another() {
    let mut bench = Bench::new(20);
    bench.run(after(1_450), |_| false, |_, _| None);
    let id = *bench.detector.cases.keys().next().expect("somebody is accused");
    let length = |bench: &Bench| bench.detector.cases[&id].until.since(bench.detector.cases[&id].opened);
    let before = length(&bench);
    bench.now = bench.now + Duration::from_secs(600);
    bench.detector.stalled(bench.now, Duration::from_secs(600));
    assert_eq!(length(&bench), before);
}
