//! Members that die, stand still or lose their packets, and what the others say of them: each who is gone is to be
//! noticed, and nobody else accused.

use std::collections::BTreeSet;
use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::Options;
use crate::experiments::SETTLE;
use crate::figures::{Report, Samples, Target};
use crate::fleet::{Fleet, FleetError, Line, Start, between};
use crate::network::Network;
use crate::process::Signal;

/// How often a member is probed by whoever observes it: the setting `observe_every` as shipped.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// After a fault is over, how long accusations that it caused may still come.
const AFTERMATH: Duration = Duration::from_secs(5);

/// How long members stand still or are cut off, and how long they are well in between.
const BAD: Duration = Duration::from_secs(4);
const WELL: Duration = Duration::from_secs(1);

/// How many members are at fault at once.
const FAULTY: usize = 5;

/// How many processors are kept busy by others.
const BUSY_LOOPS: usize = 2;

/// Whether a line says that a member cannot be reached, or is gone.
fn accuses(line: &Line) -> bool {
    matches!(line.event.as_str(), "member_unreachable" | "member_down")
}

/// Nobody healthy may have told of a healthy member as gone since the last mark. Gives how often the faulty were told.
fn check_accusations(fleet: &Fleet, faulty: &BTreeSet<usize>, when: &str, report: &mut Report) -> usize {
    let names: BTreeSet<&str> = faulty.iter().map(|index| fleet.nodes[*index].name.as_str()).collect();
    let mut right = 0;
    for (_, node) in fleet.running().filter(|(index, _)| !faulty.contains(index)) {
        for line in node.log.iter().filter(|line| accuses(line)) {
            if line.member.as_deref().is_some_and(|member| names.contains(member)) {
                right += 1;
            } else {
                report.miss(&format!("{when}: {} told {:?} as {}", node.name, line.member, line.event));
            }
        }
    }
    right
}

/// The UDP ports of these members.
fn ports(fleet: &mut Fleet, members: &BTreeSet<usize>) -> Result<Vec<u16>, FleetError> {
    members
        .iter()
        .map(|index| {
            let addr = fleet.addr_of(*index)?;
            let port = addr.rsplit(':').next().and_then(|port| port.parse().ok());
            port.ok_or_else(|| FleetError::new(format!("{addr} has no port")))
        })
        .collect()
}

/// What the others tell after kills, over many trials.
#[derive(Default)]
struct Noticed {
    first: Samples,
    last: Samples,
}

impl Noticed {
    /// Kills the last member and starts it again, so often. With a network its packets vanish first, as those of a
    /// host do that loses its power.
    fn trials(
        &mut self,
        fleet: &mut Fleet,
        trials: usize,
        vanishes: Option<&Network>,
        report: &mut Report,
    ) -> Result<(), FleetError> {
        let nodes = fleet.nodes.len();
        let join = fleet.addr_of(0)?;
        let victim = nodes - 1;
        for trial in 0..trials {
            // The moment must not lie at the same place between two probes in every trial: a stride through ten.
            let tenth = u32::try_from(trial * 3 % 10).expect("it is below ten");
            fleet.pass(SETTLE + OBSERVE_EVERY * tenth / 10);
            fleet.mark();
            let name = fleet.nodes[victim].name.clone();
            let cut = ports(fleet, &BTreeSet::from([victim]))?;
            let begun = Timestamp::now();
            if let Some(network) = vanishes {
                network.cut(&cut)?;
            }
            fleet.kill(victim)?;
            let is_news = |line: &Line| accuses(line) && line.member.as_deref() == Some(&name);
            if !fleet.until(|fleet| fleet.others(victim).all(|node| node.first(is_news).is_some())) {
                report.miss(&format!("crash {trial} was not told by everybody"));
            }
            let times = fleet.others(victim).filter_map(|node| Some(between(begun, node.first(is_news)?.at)));
            let times: Vec<_> = times.collect();
            self.first.push_time(times.iter().min().copied().unwrap_or_default());
            self.last.push_time(times.iter().max().copied().unwrap_or_default());
            check_accusations(fleet, &BTreeSet::from([victim]), &format!("crash {trial}"), report);
            fleet.until_all_hold(nodes - 1)?;
            if let Some(network) = vanishes {
                network.mend(&cut)?;
            }
            fleet.launch(victim, &Start { join: Some(join.clone()), number: trial + 1, ..Start::default() })?;
            fleet.until_all_hold(nodes)?;
        }
        Ok(())
    }

    fn tell(&self, what: &str, targets: &[Target], report: &mut Report) {
        report.figure(&format!("{what}: the first of the others tells it"), "ms", &self.first, &[]);
        report.figure(&format!("{what}: the last of the others tells it"), "ms", &self.last, targets);
    }
}

/// A member is killed; until the others tell it.
pub(crate) fn crash(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let (nodes, trials) = (options.nodes.unwrap_or(20), options.trials.unwrap_or(10));
    report.members = nodes;
    report.note(format!("{nodes} members; one is killed, {trials} times"));
    let mut fleet = Fleet::complete("crash", options, nodes, false)?;
    let mut noticed = Noticed::default();
    noticed.trials(&mut fleet, trials, None, report)?;
    let targets = match nodes {
        ..=50 => &[Target::P50(1_300.0), Target::Max(2_500.0)][..],
        _ => &[Target::P50(1_500.0)],
    };
    noticed.tell("killed", targets, report);
    fleet.confess(report, &["members_down", "members_unreachable"])
}

/// A host loses its power: its packets vanish, and nothing answers in its place. Beside it, a process that is killed.
pub(crate) fn silent(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let (nodes, trials) = (options.nodes.unwrap_or(20), options.trials.unwrap_or(10));
    report.members = nodes;
    report.note(format!("{nodes} members; one is killed, {trials} times with and {trials} times without its host"));
    let network = Network::new()?;
    let mut fleet = Fleet::complete("silent", options, nodes, false)?;
    let (mut killed, mut silent) = (Noticed::default(), Noticed::default());
    killed.trials(&mut fleet, trials, None, report)?;
    silent.trials(&mut fleet, trials, Some(&network), report)?;
    let targets = [Target::P50(1_300.0), Target::Max(2_500.0)];
    killed.tell("killed", &targets, report);
    silent.tell("with its host", &targets, report);
    fleet.confess(report, &["members_down", "members_unreachable"])
}

/// Datagrams are lost on their way: 10, 20 and 30 of a hundred. Nobody is accused, and a crash is noticed.
pub(crate) fn loss(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    const PERCENT: [u8; 3] = [10, 20, 30];
    let (nodes, trials) = (options.nodes.unwrap_or(50), options.trials.unwrap_or(7));
    let span = options.span.unwrap_or(Duration::from_secs(60));
    report.members = nodes;
    report.note(format!("{nodes} members, {span:?} at each loss; then {trials} crashes at 10 percent"));
    let network = Network::new()?;
    let mut fleet = Fleet::complete("loss", options, nodes, false)?;
    fleet.pass(SETTLE);
    for percent in PERCENT {
        fleet.mark();
        network.lose(percent)?;
        fleet.pass(span);
        check_accusations(&fleet, &BTreeSet::new(), &format!("at {percent} percent"), report);
    }
    network.lose(10)?;
    fleet.pass(AFTERMATH);
    let mut noticed = Noticed::default();
    noticed.trials(&mut fleet, trials, None, report)?;
    noticed.tell("killed at 10 percent", &[Target::P50(2_000.0)], report);
    let expected = ["members_down", "streams_asks_failed", "syncs_failed", "streams_handshakes_failed"];
    fleet.confess(report, &expected)
}

/// The links of some members are cut and whole again, for as long as told. Nobody else is accused.
pub(crate) fn flap(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let nodes = options.nodes.unwrap_or(50);
    let span = options.span.unwrap_or(Duration::from_secs(60));
    report.members = nodes;
    let faulty = spread(nodes);
    report.note(format!("{nodes} members, {} of them {BAD:?} cut off and {WELL:?} not, for {span:?}", faulty.len()));
    let network = Network::new()?;
    let mut fleet = Fleet::complete("flap", options, nodes, false)?;
    let cut = ports(&mut fleet, &faulty)?;
    fleet.pass(SETTLE);
    fleet.mark();
    for _ in 0..rounds(span) {
        network.cut(&cut)?;
        fleet.pass(BAD);
        network.mend(&cut)?;
        fleet.pass(WELL);
    }
    fleet.pass(AFTERMATH);
    let told = check_accusations(&fleet, &faulty, "while links flapped", report);
    report.note(format!("the cut off were told as unreachable {told} times"));
    fleet.until_all_hold(nodes)?;
    let expected = ["members_down", "streams_asks_failed", "syncs_failed", "streams_handshakes_failed"];
    fleet.confess(report, &expected)
}

/// Some members stand still and go on, again and again; then all are well, on a machine that is busy with other work.
/// Nobody who runs accuses anybody who runs.
pub(crate) fn freeze(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let nodes = options.nodes.unwrap_or(50);
    let span = options.span.unwrap_or(Duration::from_secs(60));
    report.members = nodes;
    let faulty = spread(nodes);
    report.note(format!("{nodes} members, {} of them {BAD:?} stopped and {WELL:?} not, for {span:?}", faulty.len()));
    let mut fleet = Fleet::complete("freeze", options, nodes, false)?;
    fleet.pass(SETTLE);
    fleet.mark();
    for _ in 0..rounds(span) {
        signal(&fleet, &faulty, Signal::STOP)?;
        fleet.pass(BAD);
        signal(&fleet, &faulty, Signal::CONT)?;
        fleet.pass(WELL);
    }
    fleet.pass(AFTERMATH);
    let told = check_accusations(&fleet, &faulty, "while some stood still", report);
    report.note(format!("the stopped were told as unreachable {told} times"));
    fleet.until_all_hold(nodes)?;
    report.note(format!("then all of them beside {BUSY_LOOPS} busy loops, for {span:?}"));
    fleet.pass(SETTLE);
    fleet.mark();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..BUSY_LOOPS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            });
        }
        fleet.pass(span);
        is_over.store(true, Ordering::Relaxed);
    });
    fleet.pass(AFTERMATH);
    check_accusations(&fleet, &BTreeSet::new(), "beside busy loops", report);
    fleet.until_all_hold(nodes)?;
    fleet.confess(report, &["driver_stalls", "streams_asks_failed", "syncs_failed", "streams_handshakes_failed"])
}

fn signal(fleet: &Fleet, members: &BTreeSet<usize>, signal: Signal) -> Result<(), FleetError> {
    members.iter().try_for_each(|index| fleet.nodes[*index].signal(signal))
}

/// Members that are at fault: far from each other, and never the seed.
fn spread(nodes: usize) -> BTreeSet<usize> {
    let count = FAULTY.min(nodes / 3).max(1);
    (0..count).map(|number| 1 + number * (nodes - 1) / count).collect()
}

fn rounds(span: Duration) -> u32 {
    let rounds = span.as_secs().div_ceil((BAD + WELL).as_secs()).max(1);
    u32::try_from(rounds).unwrap_or(u32::MAX)
}

/// A member stands still for a while and goes on: it is busy, not dead.
pub(crate) fn stop(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    const STOPPED: Duration = Duration::from_secs(2);
    let (nodes, trials) = (options.nodes.unwrap_or(20), options.trials.unwrap_or(10));
    report.members = nodes;
    let watched = options.span.unwrap_or(Duration::from_secs(15));
    report.note(format!("{nodes} members; one stands still for {STOPPED:?}, {trials} times; watched for {watched:?}"));
    let mut fleet = Fleet::complete("stop", options, nodes, false)?;
    fleet.pass(SETTLE);
    for trial in 0..trials {
        let victim = trial * 7 % nodes;
        fleet.mark();
        fleet.nodes[victim].signal(Signal::STOP)?;
        fleet.pass(STOPPED);
        fleet.nodes[victim].signal(Signal::CONT)?;
        fleet.pass(watched);
        let faulty = BTreeSet::from([victim]);
        check_accusations(&fleet, &faulty, &format!("while m{victim} stood still"), report);
        // Whoever stands still gets no traffic meanwhile, but is not taken for gone.
        for node in fleet.nodes.iter().filter(|node| node.first(|line| line.event == "member_down").is_some()) {
            report.miss(&format!("{} told m{victim} as gone, which only stood still", node.name));
        }
        fleet.until_all_hold(nodes)?;
    }
    fleet.confess(report, &["driver_stalls"])
}
