//! The experiments with somebody on the network who has no key: what was said is said again, and a flood.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tidings::net::keys::{ClusterKey, Keyring};
use tidings::net::seal::{Plaintext, Seal};
use tidings::peer::{Generation, NodeId, Peer};
use tidings::time::Time;
use tidings::wire::{DATAGRAM_BYTES_MAX, HEADER_BYTES, Header, Kind, cluster_tag};

use crate::Options;
use crate::experiments::SETTLE;
use crate::figures::{Report, Samples, Target};
use crate::fleet::{Fleet, FleetError, Line, Start, between};
use crate::keys::{Lookups, check_nobody_accused};
use crate::process::Signal;
use crate::relay::{Heard, Relay};

/// Members whose every datagram passes a relay, sealed.
struct Tapped {
    fleet: Fleet,
    relays: Vec<Relay>,
    /// Where the members really listen.
    bound: Vec<SocketAddr>,
}

impl Tapped {
    fn complete(label: &str, options: &Options, members: usize) -> Result<Self, FleetError> {
        let options = Options { has_key: true, ..options.clone() };
        let mut tapped = Self { fleet: Fleet::new(label, &options)?, relays: Vec::new(), bound: Vec::new() };
        for index in 0..members {
            let relay = Relay::start()?;
            let bound = free_addr()?;
            relay.lead_to(bound);
            tapped.relays.push(relay);
            tapped.bound.push(bound);
            tapped.fleet.add(&tapped.start_of(index, 0))?;
            if index == 0 {
                tapped.fleet.addr_of(0)?;
            }
        }
        tapped.fleet.until_all_hold(members)?;
        Ok(tapped)
    }

    fn start_of(&self, index: usize, number: usize) -> Start {
        let seed = usize::from(index == 0);
        Start {
            addr: Some(self.bound[index].to_string()),
            join: self.relays.get(seed).filter(|_| index > 0 || number > 0).map(|relay| relay.addr().to_string()),
            keeps: true,
            number,
            more: vec!["--advertise".to_owned(), self.relays[index].addr().to_string()],
        }
    }

    fn take(&self) -> Vec<Heard> {
        self.relays.iter().flat_map(Relay::take).collect()
    }

    /// What one member has counted, by name.
    fn count(&mut self, index: usize, names: &[&str]) -> Result<Vec<u64>, FleetError> {
        let line = self.fleet.ask(&[index], "stats")?.remove(&index);
        let stats = line.and_then(|line| line.stats).unwrap_or_default();
        Ok(names.iter().map(|name| stats.get(*name).copied().unwrap_or_default()).collect())
    }
}

/// An address that is free now.
fn free_addr() -> io::Result<SocketAddr> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn is_gossip(bytes: &[u8]) -> bool {
    bytes.first() == Some(&(Kind::Gossip as u8))
}

/// Listens for a minute, and says all of it again: to its receiver, to another member, and to the receiver's next
/// start.
pub(crate) fn replay(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let nodes = options.nodes.unwrap_or(10);
    report.members = nodes;
    let span = options.span.unwrap_or(Duration::from_secs(60));
    report.note(format!("{nodes} members, listened to for {span:?}"));
    let mut tapped = Tapped::complete("replay", options, nodes)?;
    tapped.fleet.pass(span);
    tapped.fleet.nodes[0].say("update web-m0 tag=loud")?;
    tapped.fleet.pass(Duration::from_secs(1));
    let heard = tapped.take();
    let (gossip, hellos) = (heard.iter().filter(|one| is_gossip(&one.bytes)).count(), heard.len());
    report.note(format!("heard: {gossip} datagrams of gossip, {} Hellos and answers", hellos - gossip));
    if gossip < 100 {
        report.miss("too quiet to prove anything");
    }
    let (mut sent, mut accepted) = ([0; 3], [0_i64; 3]);
    for index in 0..nodes {
        let to = tapped.bound[index];
        let to_it: Vec<&[u8]> = of(&heard, |one| one.to == to);
        let elsewhere: Vec<&[u8]> = of(&heard, |one| one.to != to);
        tapped.fleet.mark();
        for (case, datagrams) in [(0, &to_it), (1, &elsewhere)] {
            sent[case] += datagrams.len();
            accepted[case] += again(&mut tapped, index, datagrams)?;
            tapped.fleet.pass(Duration::from_millis(500));
        }
        check_nobody_accused(&tapped.fleet, &BTreeSet::new(), report);
        let start = tapped.start_of(index, 1);
        tapped.fleet.kill(index)?;
        tapped.fleet.relaunch(index, &start)?;
        tapped.fleet.until_all_hold(nodes)?;
        tapped.fleet.pass(Duration::from_millis(500));
        sent[2] += to_it.len();
        accepted[2] += again(&mut tapped, index, &to_it)?;
        tapped.fleet.until_all_hold(nodes)?;
    }
    for (case, what) in ["to its receiver", "to another member", "to a restarted one"].into_iter().enumerate() {
        report.note(format!("{what}: {} sent again, {} accepted", sent[case], accepted[case]));
        if accepted[case] != 0 {
            report.miss(&format!("{what}: {} were accepted, or never arrived", accepted[case]));
        }
    }
    tapped.fleet.confess(report, &["members_down", "driver_stalls"])
}

fn of(heard: &[Heard], is_such: impl Fn(&Heard) -> bool) -> Vec<&[u8]> {
    heard.iter().filter(|one| is_gossip(&one.bytes) && is_such(one)).map(|one| one.bytes.as_slice()).collect()
}

/// Sends these to a member while all others stand still, and gives how many of them it did not refuse.
fn again(tapped: &mut Tapped, index: usize, datagrams: &[&[u8]]) -> Result<i64, FleetError> {
    const REFUSED: &[&str] = &["seal_refused_repeats", "seal_refused_forged", "seal_refused_unknown_key"];
    /// Sent in one go: far below what the receiver's buffer holds.
    const AT_ONCE: usize = 50;
    let others: Vec<usize> = tapped.fleet.running().map(|(other, _)| other).filter(|other| *other != index).collect();
    for &other in &others {
        tapped.fleet.nodes[other].signal(Signal::STOP)?;
    }
    tapped.fleet.pass(Duration::from_millis(100));
    let before = tapped.count(index, REFUSED)?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for some in datagrams.chunks(AT_ONCE) {
        for datagram in some {
            socket.send_to(datagram, tapped.bound[index])?;
        }
        // Answered behind them all, so they have been looked at.
        tapped.count(index, REFUSED)?;
    }
    tapped.fleet.pass(Duration::from_millis(100));
    let after = tapped.count(index, REFUSED)?;
    for &other in &others {
        tapped.fleet.nodes[other].signal(Signal::CONT)?;
    }
    let refused: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    Ok(datagrams.len() as i64 - refused as i64)
}

/// Datagrams a second that a flood wants to reach.
const FLOOD_RATE: f64 = 100_000.0;

/// How much a flooded member's memory may grow.
const GROWTH_MAX_KIB: f64 = 8.0 * 1024.0;

/// Datagrams of each kind that a flood has made before it begins, to be sent in turn.
const AMMUNITION: usize = 4_096;

/// One member is sent junk, truncated, foreign and repeated datagrams, while the others look up and change.
pub(crate) fn flood(options: &Options, report: &mut Report) -> Result<(), FleetError> {
    let nodes = options.nodes.unwrap_or(10);
    report.members = nodes;
    let span = options.span.unwrap_or(Duration::from_secs(30));
    report.note(format!("{nodes} members; one is flooded for {span:?}"));
    let mut tapped = Tapped::complete("flood", options, nodes)?;
    tapped.fleet.pass(SETTLE * 3);
    let victim = nodes - 1;
    let to = tapped.bound[victim];
    let repeats: Vec<Vec<u8>> = tapped.take().into_iter().filter(|one| one.to == to).map(|one| one.bytes).collect();
    let datagrams = ammunition(&repeats, &tapped.fleet.cluster);
    report.note(format!("{} datagrams to it were heard, and are repeated", repeats.len()));
    tapped.fleet.mark();
    let used = tapped.fleet.nodes[victim].process()?.usage()?;
    let names = ["socket_gossip_received_datagrams", "socket_quic_received_datagrams", "seal_opened", "seal_sessions"];
    let before = tapped.count(victim, &names)?;
    let begun = Timestamp::now();
    let flooder = std::thread::spawn(move || shoot(to, &datagrams, span));

    let (mut lookups, mut changes, mut growth) = (Lookups::default(), Samples::default(), Samples::default());
    let mut round = 0;
    while !flooder.is_finished() {
        lookups.all(&mut tapped.fleet, &BTreeSet::new(), report)?;
        // In turn the flooded one and another.
        let owner = if round % 2 == 0 { victim } else { round / 2 % victim };
        changes.push_time(change(&mut tapped.fleet, owner, round, report)?);
        let now = tapped.fleet.nodes[victim].process()?.usage()?;
        growth.push((now.rss - used.rss).max(0.0));
        round += 1;
        tapped.fleet.pass(Duration::from_millis(250));
    }
    let (sent, refused) = flooder.join().expect("it does not panic").map_err(FleetError::from)?;
    let seconds = between(begun, Timestamp::now()).as_secs_f64();
    let used_after = tapped.fleet.nodes[victim].process()?.usage()?;
    let after = tapped.count(victim, &names)?;
    let grown = |index: usize| after[index] - before[index];

    let rate = sent as f64 / span.as_secs_f64();
    report.note(format!("sent {sent} datagrams, {rate:.0} a second ({refused} that the kernel did not take)"));
    let arrived = grown(0) + grown(1);
    report.note(format!("it took in {arrived}; the kernel dropped the others; {} opened meanwhile", grown(2)));
    report.note(format!("sessions: {} before, {} after", before[3], after[3]));
    let cpu = used_after.cpu.saturating_sub(used.cpu).as_secs_f64() / seconds;
    report.note(format!(
        "its CPU: {:.0} % of one core, {:.2} us for each that arrived",
        cpu * 100.0,
        cpu * seconds * 1e6 / arrived as f64
    ));
    if rate < FLOOD_RATE * 0.9 {
        report.oddity(&format!("the flood reached {rate:.0} a second, not {FLOOD_RATE:.0}"));
    }
    report.figure("its memory grows", "KiB", &growth, &[Target::Max(GROWTH_MAX_KIB)]);
    if growth.max() > GROWTH_MAX_KIB {
        report.miss("its memory grows beyond the limit");
    }
    report.figure("a view is told", "ms", &lookups.times, &[]);
    report.figure("a change has reached all", "ms", &changes, &[]);
    report.note(format!("{} instances were looked for", lookups.done));
    tapped.fleet.pass(SETTLE);
    check_nobody_accused(&tapped.fleet, &BTreeSet::new(), report);
    // What it says of the flood is no complaint.
    let name = format!("m{victim} told an error: ");
    tapped.fleet.complaints.retain(|complaint| !complaint.starts_with(&name));
    tapped.fleet.confess(report, &["malformed", "other_cluster", "other_version", "refusals_sent"])
}

/// A member changes a tag; the time until the last of the others has told it.
fn change(fleet: &mut Fleet, owner: usize, round: usize, report: &mut Report) -> Result<Duration, FleetError> {
    let (tag, name) = (format!("t{round}"), fleet.nodes[owner].name.clone());
    let begun = Timestamp::now();
    fleet.nodes[owner].say(&format!("update web-{name} tag={tag}"))?;
    let is_news = |line: &Line| line.is("service_changed", &name) && line.has_tag(&tag);
    if !fleet.until(|fleet| fleet.others(owner).all(|node| node.first(is_news).is_some())) {
        report.miss(&format!("a change of {name} did not reach everybody"));
    }
    let times = fleet.others(owner).filter_map(|node| Some(between(begun, node.first(is_news)?.at)));
    Ok(times.max().unwrap_or_default())
}

/// Hostile datagrams of each kind, mixed.
fn ammunition(repeats: &[Vec<u8>], cluster: &str) -> Vec<Vec<u8>> {
    let stranger = |id: u64| Peer {
        id: NodeId(id),
        addr: SocketAddr::from(([127, 0, 0, 1], 9)),
        generation: Generation::first(1),
        nonce: id,
    };
    let ring = Keyring::new(ClusterKey::new([0x5a; 32])).expect("not the public key");
    // Any numbers that look like none: the same in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut all = Vec::new();
    for index in 0..AMMUNITION {
        let junk: Vec<u8> = (0..1 + draw() as usize % DATAGRAM_BYTES_MAX).map(|_| draw() as u8).collect();
        all.push(junk);
        let repeat = repeats.get(index % repeats.len().max(1)).cloned().unwrap_or_default();
        let mut truncated = repeat.clone();
        truncated.truncate(draw() as usize % truncated.len().max(1));
        all.push(truncated);
        all.push(repeat);
        let kind = if index % 2 == 0 { Kind::Gossip } else { Kind::Hello };
        let (me, tag) = (stranger(draw()), cluster_tag(if index % 4 < 3 { cluster } else { "foreign" }));
        let mut foreign = Vec::new();
        Header::new(kind, tag, &me, 1).write(&mut foreign);
        foreign.resize(HEADER_BYTES + draw() as usize % 1_000, 0x5a);
        let mut seal = Seal::new(cluster, &me, Some(&ring), Plaintext::Refuse, Time::ZERO);
        seal.seal(Some(draw()), &mut foreign).expect("its first");
        all.push(foreign);
    }
    all
}

/// Sends for a time, at the rate of a flood; how many were sent, and how many the kernel did not take.
#[expect(clippy::disallowed_methods, reason = "this program measures real time and is no part of the core")]
fn shoot(to: SocketAddr, datagrams: &[Vec<u8>], span: Duration) -> io::Result<(u64, u64)> {
    /// Sent between two looks at the clock.
    const VOLLEY: u64 = 100;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(to)?;
    let begun = Instant::now();
    let (mut sent, mut refused) = (0_u64, 0_u64);
    let mut next = datagrams.iter().cycle();
    loop {
        let passed = begun.elapsed();
        if passed >= span {
            return Ok((sent, refused));
        }
        let due = (passed.as_secs_f64() * FLOOD_RATE) as u64;
        if due <= sent + refused {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        for datagram in next.by_ref().take((due - sent - refused).min(VOLLEY) as usize) {
            match socket.send(datagram) {
                Ok(_) => sent += 1,
                Err(_) => refused += 1,
            }
        }
    }
}
