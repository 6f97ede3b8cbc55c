//! The experiments with cluster keys that change while members run and lookups go on.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::Options;
use crate::experiments::SETTLE;
use crate::figures::{Report, Samples, Target};
use crate::fleet::{Fleet, FleetError, PATIENCE, Start, between};

/// Looks at every view between two steps, and the time between two looks.
const LOOKS: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long a member that was away may lack a key that the others use.
const TOLD_MS: f64 = 15_000.0;

/// Looks into the view of every running member, for the instances of every running member but those in `away`.
#[derive(Default)]
pub(crate) struct Lookups {
    pub(crate) done: usize,
    pub(crate) times: Samples,
}

impl Lookups {
    pub(crate) fn all(
        &mut self,
        fleet: &mut Fleet,
        away: &BTreeSet<usize>,
        report: &mut Report,
    ) -> Result<(), FleetError> {
        let expected: Vec<String> =
            fleet.running().filter(|(index, _)| !away.contains(index)).map(|(_, node)| node.name.clone()).collect();
        let asked: Vec<usize> = fleet.running().map(|(index, _)| index).filter(|index| !away.contains(index)).collect();
        let begun = Timestamp::now();
        for (index, view) in fleet.ask(&asked, "view")? {
            self.times.push_time(between(begun, view.at));
            let services = view.services.unwrap_or_default();
            let instances = services.iter().filter_map(|service| service["instances"].as_array()).flatten();
            let healthy: BTreeSet<&str> =
                instances.filter(|one| one["healthy"] == true).filter_map(|one| one["member"].as_str()).collect();
            self.done += expected.len();
            for missing in expected.iter().filter(|name| !healthy.contains(name.as_str())) {
                report.miss(&format!("a lookup at m{index} does not find the healthy instance of {missing}"));
            }
        }
        Ok(())
    }

    fn some(&mut self, fleet: &mut Fleet, away: &BTreeSet<usize>, report: &mut Report) -> Result<(), FleetError> {
        for _ in 0..LOOKS {
            fleet.pass(LOOK_AGAIN);
            self.all(fleet, away, report)?;
        }
        Ok(())
    }

    fn tell(&self, report: &mut Report) {
        report.note(format!("{} instances were looked for", self.done));
    }
}

/// Nobody but the members in `away` may have been told as gone or not well since the last mark.
pub(crate) fn check_nobody_accused(fleet: &Fleet, away: &BTreeSet<String>, report: &mut Report) {
    const ACCUSING: &[&str] =
        &["member_down", "member_left", "member_suspect", "member_unreachable", "isolated", "partition_suspected"];
    for (index, node) in fleet.running() {
        let is_accusing = |event: &str| ACCUSING.contains(&event) || event == "service_down";
        for line in node.log.iter().filter(|line| is_accusing(&line.event)) {
            if !line.member.as_ref().is_some_and(|member| away.contains(member)) {
                report.miss(&format!("m{index} told {} of {:?}", line.event, line.member));
            }
        }
    }
}

/// The keys that a member lists: id, and whether it is in use.
fn listed(fleet: &mut Fleet, index: usize) -> Result<Vec<(u64, bool)>, FleetError> {
    let line = fleet.ask(&[index], "keys list")?.remove(&index);
    let keys = line.and_then(|line| line.keys).unwrap_or_default();
    Ok(keys.iter().map(|key| (key["id"].as_u64().unwrap_or_default(), key["in_use"] == true)).collect())
}

/// Waits until every one of `members` lists exactly these keys; the time that took.
fn until_listed(
    fleet: &mut Fleet,
    members: &[usize],
    keys: &[(u64, bool)],
    report: &mut Report,
) -> Result<Duration, FleetError> {
    let begun = Timestamp::now();
    for &index in members {
        loop {
            let mut found = listed(fleet, index)?;
            found.sort_unstable();
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            if found == keys {
                break;
            }
            if between(begun, Timestamp::now()) > PATIENCE {
                report.miss(&format!("m{index} lists the keys {found:?}, not {keys:?}"));
                break;
            }
            fleet.pass(Duration::from_millis(50));
        }
    }
    Ok(between(begun, Timestamp::now()))
}

/// A command about keys, which every present member must have heard of when it is answered.
fn command(fleet: &mut Fleet, index: usize, command: &str, report: &mut Report) -> Result<(), FleetError> {
    let begun = Timestamp::now();
    let shown = command.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let line = fleet.ask(&[index], command)?.remove(&index);
    let Some(line) = line.filter(|line| line.event == "keys") else {
        report.miss(&format!("{shown} was refused"));
        return Ok(());
    };
    report.note(format!("{shown} at m{index}: answered after {:.0?}", between(begun, line.at)));
    if line.unheard.as_ref().is_none_or(|unheard| !unheard.is_empty()) {
        report.miss(&format!("{shown}: not told by {:?}", line.unheard));
    }
    Ok(())
}

/// A new key is added, used, and the old one removed, while lookups go on. One member is away meanwhile: it returns
/// with its old key file, once before the old key is removed, and once more after.
pub(crate) fn rotate(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let nodes = options.nodes.unwrap_or(20);
    report.members = nodes;
    let options = Options { has_key: true, ..options.clone() };
    report.note(format!("{nodes} members, one of them away"));
    let mut fleet = Fleet::complete("rotate", &options, nodes, true)?;
    fleet.pass(SETTLE);
    let away = nodes - 1;
    let (addr, join) = (fleet.addr_of(away)?, fleet.addr_of(0)?);
    let back =
        |number| Start { addr: Some(addr.clone()), join: Some(join.clone()), keeps: true, number, ..Start::default() };
    let old = listed(&mut fleet, 0)?.first().map(|(id, _)| *id).unwrap_or_default();
    let new = loop {
        let (_, key) = fleet.new_key("new.key")?;
        // One time in 255 two keys have one id, and cannot be in one ring.
        if u64::from(key.id()) != old {
            break key;
        }
    };
    let (new_id, text) = (u64::from(new.id()), new.secret_text().to_string());
    fleet.mark();
    go_away(&mut fleet, away)?;
    let others: Vec<usize> = (0..away).collect();
    let (mut lookups, nobody) = (Lookups::default(), BTreeSet::new());

    command(&mut fleet, 0, &format!("keys add {text}"), report)?;
    until_listed(&mut fleet, &others, &[(old, true), (new_id, false)], report)?;
    lookups.some(&mut fleet, &nobody, report)?;
    command(&mut fleet, 1 % away, &format!("keys use {new_id}"), report)?;
    until_listed(&mut fleet, &others, &[(old, false), (new_id, true)], report)?;
    lookups.some(&mut fleet, &nobody, report)?;

    fleet.relaunch(away, &back(1))?;
    fleet.until_all_hold(nodes)?;
    let mut told = Samples::default();
    told.push_time(until_listed(&mut fleet, &[away], &[(old, false), (new_id, true)], report)?);
    report.figure("the member that was away is told of the new key", "ms", &told, &[Target::Max(TOLD_MS)]);
    lookups.some(&mut fleet, &nobody, report)?;

    command(&mut fleet, 2 % away, &format!("keys remove {old}"), report)?;
    until_listed(&mut fleet, &(0..nodes).collect::<Vec<_>>(), &[(new_id, true)], report)?;
    lookups.some(&mut fleet, &nobody, report)?;

    go_away(&mut fleet, away)?;
    fleet.relaunch(away, &back(2))?;
    fleet.until_all_hold(nodes)?;
    until_listed(&mut fleet, &[away], &[(new_id, true)], report)?;
    report.note("with its old key file and the ring in its data directory it is in again");
    lookups.some(&mut fleet, &nobody, report)?;
    check_nobody_accused(&fleet, &BTreeSet::from([fleet.nodes[away].name.clone()]), report);
    lookups.tell(report);
    fleet.confess(report, &[])
}

fn go_away(fleet: &mut Fleet, index: usize) -> Result<(), FleetError> {
    let others = fleet.running().count() - 1;
    fleet.nodes[index].say("leave")?;
    fleet.end(index)?;
    fleet.until_all_hold(others)
}

/// A cluster without a key gets one: three rounds of restarts, one member after the other.
pub(crate) fn encrypt(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let nodes = options.nodes.unwrap_or(10);
    report.members = nodes;
    let options = Options { has_key: false, ..options.clone() };
    report.note(format!("{nodes} members; each is restarted three times, one after the other"));
    let mut fleet = Fleet::complete("encrypt", &options, nodes, true)?;
    fleet.pass(SETTLE);
    let (key, _) = fleet.new_key("cluster.key")?;
    let with_key = ["--key-file".to_owned(), key.to_string_lossy().into_owned()];
    let addrs: Vec<String> = (0..nodes).map(|index| fleet.addr_of(index)).collect::<Result<_, _>>()?;
    let (mut lookups, mut outage) = (Lookups::default(), Samples::default());
    for (round, step) in [Some("sending"), Some("sealing"), None].into_iter().enumerate() {
        let mut more = with_key.to_vec();
        if let Some(step) = step {
            more.extend(["--accept-plaintext".to_owned(), step.to_owned()]);
        }
        for index in 0..nodes {
            fleet.mark();
            let away = BTreeSet::from([index]);
            let begun = Timestamp::now();
            go_away(&mut fleet, index)?;
            lookups.all(&mut fleet, &away, report)?;
            let join = Some(addrs[(index + 1) % nodes].clone());
            let addr = Some(addrs[index].clone());
            fleet.relaunch(index, &Start { addr, join, keeps: true, number: round + 1, more: more.clone() })?;
            lookups.all(&mut fleet, &away, report)?;
            fleet.until_all_hold(nodes)?;
            outage.push_time(between(begun, Timestamp::now()));
            lookups.all(&mut fleet, &BTreeSet::new(), report)?;
            check_nobody_accused(&fleet, &BTreeSet::from([fleet.nodes[index].name.clone()]), report);
        }
    }
    report.figure("from a member's goodbye until all have it again", "ms", &outage, &[]);
    let before = fleet.stats()?;
    fleet.pass(SETTLE);
    for (index, stats) in fleet.stats()? {
        let grown = |name: &str| stats.get(name).copied().unwrap_or(1) - before[&index].get(name).copied().unwrap_or(0);
        if grown("seal_opened_clear") + grown("seal_sent_clear") > 0 || grown("seal_sealed") == 0 {
            report.miss(&format!("m{index} still says something in clear, or seals nothing"));
        }
    }
    lookups.tell(report);
    fleet.confess(report, &[])
}
