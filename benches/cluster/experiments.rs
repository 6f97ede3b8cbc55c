//! The experiments: one function each, and the numbers that each is held to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::Options;
use crate::figures::{Report, Samples, Target};
use crate::fleet::{Fleet, FleetError, Line, Start, between};
use crate::process::Signal;

/// After all views are complete, until measuring begins: lazy repeats and streams of the start come to rest.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);

/// How long after a start without its data directory the old identity may be listed.
const OLD_GONE_MS: f64 = 2_000.0;

/// Starts members at once through one seed, until every view holds every member and instance.
pub(crate) fn join(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let (nodes, runs) = (options.nodes.unwrap_or(50), options.trials.unwrap_or(20));
    report.members = nodes;
    report.note(format!("{nodes} members through one seed, {runs} runs; from just before the last process starts"));
    let (mut each, mut last, mut first_start) = (Samples::default(), Samples::default(), Samples::default());
    for run in 0..runs {
        let mut fleet = Fleet::new(&format!("join-{run}"), options)?;
        fleet.launch_all(nodes, false)?;
        let started = fleet.nodes.iter().map(|node| node.launched).max().unwrap_or_default();
        first_start.push_time(between(fleet.nodes[1].launched, started));
        fleet.until_all_hold(nodes)?;
        let times: Vec<_> = fleet.nodes.iter().map(|node| between(started, node.changed)).collect();
        times.iter().for_each(|time| each.push_time(*time));
        let slowest = times.iter().max().copied().unwrap_or_default();
        let who = fleet.nodes.iter().max_by_key(|node| node.changed).map_or("", |node| &node.name);
        last.push_time(slowest);
        report.note(format!("run {run}: {slowest:.0?}, the last was {who}"));
        // Whatever was complete must stay so.
        fleet.pass(Duration::from_millis(500));
        for node in fleet.nodes.iter().filter(|node| !node.holds(nodes)) {
            report.miss(&format!("run {run}: the view of {} was complete, and is not any more", node.name));
        }
        fleet.confess(report, &[])?;
    }
    report.figure("from the second to the last start", "ms", &first_start, &[]);
    report.figure("a view is complete", "ms", &each, &[]);
    report.figure("the last view is complete", "ms", &last, &[Target::Max(1_500.0)]);
    Ok(())
}

/// One member after another changes a tag, until the last of the others tells it.
pub(crate) fn change(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let (nodes, trials) = (options.nodes.unwrap_or(50), options.trials.unwrap_or(100));
    report.members = nodes;
    let pause = options.pause.unwrap_or(Duration::from_millis(300));
    report.note(format!(
        "{nodes} members, {trials} changes, one each {pause:?}; from just before the command is written"
    ));
    let mut fleet = Fleet::complete("change", options, nodes, false)?;
    fleet.pass(SETTLE);
    let before = fleet.stats()?;
    let (mut each, mut last) = (Samples::default(), Samples::default());
    for trial in 0..trials {
        // A stride without a common factor visits every member, neighbours in order of start not in a row.
        let owner = trial * 7 % nodes;
        let (tag, name) = (format!("t{trial}"), fleet.nodes[owner].name.clone());
        fleet.mark();
        let begun = Timestamp::now();
        fleet.nodes[owner].say(&format!("update web-{name} tag={tag}"))?;
        let is_news = |line: &Line| line.is("service_changed", &name) && line.has_tag(&tag);
        fleet.until(|fleet| fleet.others(owner).all(|node| node.first(is_news).is_some()));
        let mut slowest = (Duration::ZERO, String::new());
        for node in fleet.others(owner) {
            match node.first(is_news) {
                Some(line) => {
                    let time = between(begun, line.at);
                    each.push_time(time);
                    slowest = slowest.max((time, node.name.clone()));
                }
                None => report.miss(&format!("change {trial} of {name} never reached {}", node.name)),
            }
        }
        last.push_time(slowest.0);
        if slowest.0 > Duration::from_millis(100) {
            report.oddity(&format!("change {trial} of {name} reached {} after {:.1?}", slowest.1, slowest.0));
        }
        fleet.pass(pause);
    }
    fleet.pass(SETTLE);
    let after = fleet.stats()?;
    report.figure("one of the others tells it", "ms", &each, &[]);
    report.figure("the last of the others tells it", "ms", &last, &[Target::P50(30.0), Target::P99(100.0)]);
    let per_change = |name: &str| -> Samples {
        grown(&before, &after, name).into_iter().map(|grown| grown / trials as f64).collect()
    };
    let what = "datagrams with the record, per member and change";
    report.figure(what, "sent", &per_change("rumors_sent"), &[Target::Mean(5.0)]);
    report.figure("records brought by syncs, per member and change", "records", &per_change("synced_records"), &[]);
    fleet.confess(report, &[])
}

/// A member joins long after all registrations.
pub(crate) fn late(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let (nodes, trials) = (options.nodes.unwrap_or(50), options.trials.unwrap_or(5));
    report.members = nodes;
    let after = options.after.unwrap_or(Duration::from_secs(60));
    report.note(format!("{nodes} members; {after:?} later one more joins, {trials} times; from just before its start"));
    let mut fleet = Fleet::complete("late", options, nodes, false)?;
    let join = fleet.addr_of(0)?;
    fleet.pass(after);
    let mut times = Samples::default();
    for _ in 0..trials {
        let late = fleet.add(&Start { join: Some(join.clone()), ..Start::default() })?;
        fleet.until(|fleet| fleet.nodes[late].holds(nodes + 1));
        let node = &fleet.nodes[late];
        if node.holds(nodes + 1) {
            times.push_time(between(node.launched, node.changed));
        } else {
            let (members, instances) = (node.members.len(), node.instances.len());
            report.miss(&format!("{} knows only {members} members and {instances} instances", node.name));
        }
        fleet.until_all_hold(nodes + 1)?;
        fleet.nodes[late].say("leave")?;
        fleet.end(late)?;
        fleet.until_all_hold(nodes)?;
    }
    report.figure("the late one knows every record", "ms", &times, &[Target::Max(1_000.0)]);
    fleet.confess(report, &[])
}

/// Members that do nothing.
pub(crate) fn idle(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let nodes = options.nodes.unwrap_or(50);
    report.members = nodes;
    let span = options.span.unwrap_or(Duration::from_secs(300));
    report.note(format!("{nodes} idle members, {span:?}"));
    let mut fleet = Fleet::complete("idle", options, nodes, false)?;
    fleet.pass(SETTLE * 3);
    let before = fleet.stats()?;
    let used_before = usages(&fleet)?;
    let begun = Timestamp::now();
    fleet.mark();
    fleet.pass(span);
    let used = usages(&fleet)?;
    let after = fleet.stats()?;
    let seconds = between(begun, Timestamp::now()).as_secs_f64();

    for (index, node) in fleet.running() {
        if let Some(line) = node.log.first() {
            report.oddity(&format!("m{index} told {} about {:?} while idle", line.event, line.member));
        }
    }
    let sum = |names: [&str; 2]| -> Samples {
        let [a, b] = names.map(|name| grown(&before, &after, name));
        a.into_iter().zip(b).map(|(a, b)| (a + b) / seconds).collect()
    };
    let packets = sum(["socket_gossip_sent_datagrams", "socket_quic_sent_datagrams"]);
    let bytes = sum(["socket_gossip_sent_bytes", "socket_quic_sent_bytes"]);
    report.figure("datagrams sent by a member", "/s", &packets, &[Target::Mean(2.5)]);
    report.figure("UDP payload sent by a member", "B/s", &bytes, &[Target::Mean(300.0)]);
    let quic = |name: &str| grown(&before, &after, name).into_iter().map(|grown| grown / seconds).collect::<Samples>();
    report.figure("of these QUIC", "/s", &quic("socket_quic_sent_datagrams"), &[]);
    report.figure("of these QUIC", "B/s", &quic("socket_quic_sent_bytes"), &[]);
    report.figure("turns of the driver", "/s", &quic("driver_turns"), &[]);
    let cpu = used
        .iter()
        .zip(&used_before)
        .map(|((_, after), (_, before))| after.cpu.saturating_sub(before.cpu).as_secs_f64() * 60.0 / seconds);
    report.figure("CPU seconds of a member in a minute", "s", &cpu.collect(), &[Target::Mean(0.04)]);
    let of = |what: fn(&crate::process::Usage) -> f64| used.values().map(what).collect::<Samples>();
    report.figure("resident memory", "KiB", &of(|usage| usage.rss), &[Target::Max(9.0 * 1024.0)]);
    report.figure("of these the process's own", "KiB", &of(|usage| usage.anonymous), &[]);
    report.figure("of these pages of files", "KiB", &of(|usage| usage.file), &[]);
    let mut most: Vec<_> = used.iter().map(|(index, usage)| (usage.rss, usage.anonymous, *index)).collect();
    most.sort_by(|a, b| b.0.total_cmp(&a.0));
    report.note(format!("the largest (resident KiB, own KiB, member): {:.0?}", &most[..most.len().min(5)]));
    fleet.confess(report, &[])
}

/// Kills one member and starts it again at its address, with its data directory and without.
pub(crate) fn restart(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let (nodes, trials) = (options.nodes.unwrap_or(10), options.trials.unwrap_or(20));
    report.members = nodes;
    for keeps in [true, false] {
        let with = if keeps { "with" } else { "without" };
        report.note(format!("{nodes} members; one is killed and started {with} its data directory, {trials} times"));
        let mut fleet = Fleet::complete(&format!("restart-{with}"), options, nodes, keeps)?;
        let victim = nodes - 1;
        let (addr, join) = (fleet.addr_of(victim)?, fleet.addr_of(0)?);
        let name = fleet.nodes[victim].name.clone();
        let (mut seen, mut gone) = (Samples::default(), Samples::default());
        let mut downs = 0;
        for number in 1..=trials {
            let old = own_id(&fleet, victim);
            fleet.mark();
            fleet.kill(victim)?;
            fleet.relaunch(
                victim,
                &Start { addr: Some(addr.clone()), join: Some(join.clone()), keeps, number, ..Start::default() },
            )?;
            let started = fleet.nodes[victim].launched;
            let is_new = |line: &Line| of_start(line, &name) == Some(number);
            let is_settled = |fleet: &Fleet| {
                let mut others = fleet.others(victim);
                fleet.nodes[victim].holds(nodes) && others.all(|n| n.holds(nodes) && n.first(is_new).is_some())
            };
            fleet.until(is_settled);
            for node in fleet.others(victim) {
                match node.first(is_new) {
                    Some(line) => seen.push_time(between(started, line.at)),
                    None => report.miss(&format!("restart {number} was never seen by {}", node.name)),
                }
                let is_end =
                    |line: &Line| matches!(line.event.as_str(), "member_down" | "member_left") && line.member_id == old;
                match node.first(is_end) {
                    Some(line) if !keeps => gone.push_time(between(started, line.at)),
                    None if !keeps => report.miss(&format!("{} kept the old identity of {name}", node.name)),
                    Some(_) => downs += 1,
                    None => {}
                }
                check_epochs(&node.name, &node.log, &name, report);
            }
            // Whatever still lingers must not bring anything back.
            fleet.pass(Duration::from_millis(500));
            for (_, node) in fleet.running() {
                check_epochs(&node.name, &node.log, &name, report);
            }
            check_views(&mut fleet, nodes, &name, number, report)?;
        }
        report.figure(&format!("{with}: the new start is seen"), "ms", &seen, &[Target::Max(1_000.0)]);
        if keeps {
            report.note(format!("{downs} times another told the same identity as down before it was back"));
        } else {
            report.figure("without: the old identity is gone", "ms", &gone, &[Target::Max(OLD_GONE_MS)]);
        }
        fleet.confess(report, if keeps { &[] } else { &["members_down"] })?;
    }
    Ok(())
}

/// The id under which a member lists itself.
fn own_id(fleet: &Fleet, index: usize) -> Option<String> {
    let node = &fleet.nodes[index];
    node.members.iter().find(|(_, name)| **name == node.name).map(|(id, _)| id.clone())
}

/// Which start of the member told the instance in this line.
fn of_start(line: &Line, member: &str) -> Option<usize> {
    let is_offer = line.is("service_up", member) || line.is("service_changed", member);
    line.meta("start").filter(|_| is_offer)?.parse().ok()
}

/// Once a start was seen, no older one may be; and never two members of one name at a time.
fn check_epochs(who: &str, log: &[Line], name: &str, report: &mut Report) {
    let (mut newest, mut present) = (0, BTreeSet::new());
    for line in log {
        if let Some(start) = of_start(line, name) {
            if start < newest {
                report.miss(&format!("{who} told start {start} of {name} after start {newest}"));
            }
            newest = newest.max(start);
        }
        let id = line.member_id.clone().unwrap_or_default();
        match line.event.as_str() {
            "member_up" if line.member.as_deref() == Some(name) => {
                present.insert(id);
                if present.len() > 1 {
                    report.miss(&format!("{who} told {} members of the name {name} as up at once", present.len()));
                }
            }
            "member_down" | "member_left" => {
                present.remove(&id);
            }
            _ => {}
        }
    }
}

/// Every view holds one member of that name, which offers one instance: that of the newest start.
fn check_views(
    fleet: &mut Fleet,
    nodes: usize,
    name: &str,
    number: usize,
    report: &mut Report,
) -> Result<(), FleetError> {
    for (index, view) in fleet.ask_all("view")? {
        let members = view.members.unwrap_or_default();
        let named = members.iter().filter(|member| member["member"] == name).count();
        if named != 1 || members.len() != nodes {
            report.miss(&format!("m{index} lists {} members, {named} of them {name}", members.len()));
        }
        let services = view.services.unwrap_or_default();
        let instances = services.iter().filter_map(|service| service["instances"].as_array()).flatten();
        let starts: Vec<_> =
            instances.filter(|i| i["member"] == name).filter_map(|i| i["record"]["meta"]["start"].as_str()).collect();
        if starts != [number.to_string()] {
            report.miss(&format!("m{index} lists starts {starts:?} of {name}, the newest is {number}"));
        }
    }
    Ok(())
}

/// A record that no datagram holds reaches everybody; one above the limit is refused where it is registered.
pub(crate) fn large(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    const LARGE: usize = 20 * 1024;
    const TOO_LARGE: usize = 65 * 1024;
    let (nodes, trials) = (options.nodes.unwrap_or(20), options.trials.unwrap_or(5));
    report.members = nodes;
    report.note(format!("{nodes} members; {trials} records of {LARGE} bytes, and one of {TOO_LARGE}"));
    let mut fleet = Fleet::complete("large", options, nodes, false)?;
    fleet.pass(SETTLE);
    let mut last = Samples::default();
    for trial in 0..trials {
        let owner = trial * 7 % nodes;
        let (id, text) = (format!("large-{trial}"), "x".repeat(LARGE));
        fleet.mark();
        let begun = Timestamp::now();
        fleet.nodes[owner].say(&format!("register name=large,addr=127.0.0.1:80,id={id},meta.text={text}"))?;
        let is_news = |line: &Line| line.event == "service_up" && line.meta("text").is_some_and(|t| t.len() == LARGE);
        if !fleet.until(|fleet| fleet.others(owner).all(|node| node.first(is_news).is_some())) {
            report.miss(&format!("large record {trial} did not reach everybody"));
        }
        let times = fleet.others(owner).filter_map(|node| Some(between(begun, node.first(is_news)?.at)));
        last.push_time(times.max().unwrap_or_default());
    }
    report.figure("the last of the others has the large record", "ms", &last, &[]);
    fleet.confess(report, &[])?;

    fleet.mark();
    let spec = format!("name=huge,addr=127.0.0.1:80,id=huge,meta.text={}", "x".repeat(TOO_LARGE));
    fleet.nodes[0].say(&format!("register {spec}"))?;
    fleet.until(|fleet| fleet.nodes[0].first(|line| matches!(line.event.as_str(), "error" | "registered")).is_some());
    match fleet.nodes[0].first(|line| line.event == "error").and_then(|line| line.reason.clone()) {
        // The record is the text and a few bytes: its size begins with the same two digits.
        Some(reason) if reason.contains("65536") && reason.contains("66") => report.note(format!("refused: {reason}")),
        answer => report.miss(&format!("a record of {TOO_LARGE} bytes was answered by {answer:?}")),
    }
    fleet.complaints.clear();
    Ok(())
}

/// A member leaves, until the others tell its instance as down.
pub(crate) fn leave(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let (nodes, trials) = (options.nodes.unwrap_or(20), options.trials.unwrap_or(40));
    report.members = nodes;
    report.note(format!("{nodes} members; one leaves, {trials} times, by SIGTERM and by command in turn"));
    let mut fleet = Fleet::complete("leave", options, nodes, false)?;
    let join = fleet.addr_of(0)?;
    let leaver = nodes - 1;
    let (mut each, mut last) = (Samples::default(), Samples::default());
    for trial in 0..trials {
        fleet.pass(Duration::from_millis(500));
        fleet.mark();
        let name = fleet.nodes[leaver].name.clone();
        let begun = Timestamp::now();
        if trial % 2 == 0 {
            fleet.nodes[leaver].signal(Signal::TERM)?;
        } else {
            fleet.nodes[leaver].say("leave")?;
        }
        fleet.end(leaver)?;
        let is_news = |line: &Line| line.is("service_down", &name);
        fleet.until_all_hold(nodes - 1)?;
        let mut slowest = Duration::ZERO;
        for node in fleet.others(leaver) {
            let Some(line) = node.first(is_news) else {
                report.miss(&format!("{} never told that the instance of {name} is down", node.name));
                continue;
            };
            if line.reason.as_deref() != Some("member_left") {
                report.oddity(&format!("{} told {:?} as the reason", node.name, line.reason));
            }
            slowest = slowest.max(between(begun, line.at));
            each.push_time(between(begun, line.at));
        }
        last.push_time(slowest);
        fleet.launch(leaver, &Start { join: Some(join.clone()), number: trial + 1, ..Start::default() })?;
        fleet.until_all_hold(nodes)?;
    }
    report.figure("one of the others drops the instance", "ms", &each, &[Target::P99(150.0)]);
    report.figure("the last of the others drops it", "ms", &last, &[Target::P99(150.0)]);
    fleet.confess(report, &[])
}

/// How much a counter grew at each member.
fn grown(
    before: &BTreeMap<usize, BTreeMap<String, u64>>,
    after: &BTreeMap<usize, BTreeMap<String, u64>>,
    name: &str,
) -> Vec<f64> {
    let count = |stats: Option<&BTreeMap<String, u64>>| {
        // A counter that is not told any more must not read as one that never grew.
        stats.and_then(|stats| stats.get(name)).map_or(f64::NAN, |count| *count as f64)
    };
    after.iter().map(|(index, stats)| count(Some(stats)) - count(before.get(index))).collect()
}

fn usages(fleet: &Fleet) -> Result<BTreeMap<usize, crate::process::Usage>, FleetError> {
    fleet.running().map(|(index, node)| Ok((index, node.process()?.usage()?))).collect()
}
