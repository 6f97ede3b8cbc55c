//! Worlds with a question and a target: what is done to how many nodes, what is measured, and what is good enough.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use tidings::profile::Profile;
use tidings::promise::{Conditions, Promise};
use tidings::record::{Endpoint, Instance, Key};
use tidings::time::Time;
use tidings::wire::SEAL_BYTES;

use crate::Mode;
use crate::check;
use crate::link::Preset;
use crate::world::{HostIndex, Traffic, World, WorldConfig};

/// A question, and how it is answered in one world.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// What it is called on the command line.
    pub name: &'static str,
    /// The question in a sentence.
    pub about: &'static str,
    /// How many nodes it has, where nobody asks for another number.
    pub nodes: usize,
    /// Answers it in a fresh world, for so many nodes; an error says what did not hold.
    pub run: fn(&mut World, usize) -> Result<Vec<Figure>, String>,
    /// What is good enough, over all seeds.
    pub targets: &'static [Target],
    /// Whether each seed runs twice, to compare the hashes.
    pub is_run_twice: bool,
}

/// How a world differs from the one that an experiment has by itself.
#[derive(Clone, Copy, Default, Debug)]
pub struct Setting {
    /// So many nodes.
    pub nodes: Option<usize>,
    /// These links, and the machine that all hosts share where such links are found.
    pub network: Option<Preset>,
}

impl Setting {
    /// The world that `seed` draws.
    pub fn world(&self, seed: u64) -> World {
        let config = WorldConfig::new(seed);
        World::new(match self.network {
            Some(preset) => WorldConfig { network: preset.network(), machine: preset.machine(), ..config },
            None => config,
        })
    }
}

/// As options of the command line.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nodes) = self.nodes {
            write!(f, " --nodes {nodes}")?;
        }
        self.network.map_or(Ok(()), |network| write!(f, " --network {}", network.name()))
    }
}

/// Something measured; the name ends in its unit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// The value.
    pub value: f64,
}

/// What a figure must stay at or below.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Target {
    /// The figure.
    pub figure: &'static str,
    /// Which of its values over all seeds: 0.5 is the median, 1.0 the worst.
    pub quantile: f64,
    /// The bound.
    pub at_most: f64,
}

/// Every experiment, in the order of `all`.
pub const ALL: &[Experiment] = &[
    Experiment {
        name: "join",
        about: "nodes start within half a second and join through one: until every view holds everything",
        nodes: 50,
        run: join,
        targets: &[worst("joined_ms", 1_500.0)],
        is_run_twice: false,
    },
    Experiment {
        name: "converge",
        about: "nodes change their records at 10 % and at 30 % loss: from the last change until all views are equal",
        nodes: 40,
        run: converge,
        targets: &[worst("equal_at_10_percent_ms", 5_000.0), worst("equal_at_30_percent_ms", 15_000.0)],
        is_run_twice: false,
    },
    Experiment {
        name: "late-joiner",
        about: "one more joins 60 s after all registrations: until it knows every record",
        nodes: 50,
        run: late_joiner,
        targets: &[worst("knows_all_ms", 1_000.0)],
        is_run_twice: false,
    },
    Experiment {
        name: "split",
        about: "half of the nodes are split off for 60 s, then for 10 min, with changes on both sides: from the heal until \
                all views are equal",
        nodes: 40,
        run: |world, nodes| split(world, nodes, &[Duration::from_secs(60), Duration::from_secs(600)]),
        targets: &[worst("healed_ms", 10_000.0)],
        is_run_twice: false,
    },
    Experiment {
        name: "idle",
        about: "no change for 5 min: what a member sends",
        nodes: 50,
        run: |world, nodes| idle(world, nodes, Duration::from_secs(300)),
        targets: &[worst("packets_per_s", 2.5), worst("bytes_per_s", 300.0)],
        is_run_twice: false,
    },
    Experiment {
        name: "change",
        about: "one of the nodes changes a tag, ten times: until the last sees it, and what it costs",
        nodes: 50,
        run: |world, nodes| change(world, nodes, 10),
        targets: &[
            Target { figure: "last_sees_ms", quantile: 0.5, at_most: 30.0 },
            Target { figure: "last_sees_ms", quantile: 0.99, at_most: 100.0 },
            worst("datagrams_per_member", 5.0),
        ],
        is_run_twice: false,
    },
    Experiment {
        name: "leave",
        about: "five of the nodes leave, one after another: until no other node lists their instances",
        nodes: 20,
        run: |world, nodes| leave(world, nodes, 5),
        targets: &[Target { figure: "dropped_ms", quantile: 0.99, at_most: 150.0 }],
        is_run_twice: false,
    },
    Experiment {
        name: "crash",
        about: "one of the nodes crashes, ten times, at drawn moments: until the first and the last of the others tell it",
        nodes: 20,
        run: |world, nodes| crash(world, nodes, 10),
        targets: &[],
        is_run_twice: false,
    },
    Experiment {
        name: "promise",
        about: "crashes and idle minutes with each profile in a network that it is meant for: how far they are from what \
                the settings promise",
        nodes: 50,
        run: promise,
        targets: &[
            Target { figure: "lan_detect_off_percent", quantile: 0.5, at_most: 15.0 },
            Target { figure: "wan_detect_off_percent", quantile: 0.5, at_most: 20.0 },
            Target { figure: "local_detect_off_percent", quantile: 0.5, at_most: 15.0 },
            worst("lan_over_worst_percent", 10.0),
            // One packet in a thousand is lost there: a verdict that is, comes a second later.
            Target { figure: "wan_over_worst_percent", quantile: 0.5, at_most: 10.0 },
            worst("local_over_worst_percent", 10.0),
            worst("lan_bytes_off_percent", 10.0),
            worst("wan_bytes_off_percent", 20.0),
            worst("local_bytes_off_percent", 10.0),
        ],
        is_run_twice: false,
    },
    Experiment {
        name: "restart",
        about: "one of the nodes crashes and starts again, ten times with its data directory and ten times without: \
                until all views are equal and true",
        nodes: 20,
        run: |world, nodes| restart(world, nodes, 10),
        targets: &[worst("restarted_ms", 2_000.0), worst("replaced_ms", 2_000.0)],
        is_run_twice: false,
    },
    Experiment {
        name: "determinism",
        about: "loss, splits, crashes, restarts, leaves and changes, each seed twice: the same hash",
        nodes: 20,
        run: |world, nodes| trouble(world, nodes, Duration::from_secs(60)),
        targets: &[],
        is_run_twice: true,
    },
];

/// How long an experiment waits for what should take a second or ten, so that a miss is measured and not only told.
const PATIENCE: Duration = Duration::from_secs(120);

const fn worst(figure: &'static str, at_most: f64) -> Target {
    Target { figure, quantile: 1.0, at_most }
}

/// Starts `nodes` nodes within half a second, each with one instance, and waits until all views are equal and true. On
/// a [`Machine`](crate::world::Machine) that they share, they start as fast as it can start them.
///
/// Gives `joined_ms`, from the last start.
///
/// # Errors
/// What is wrong with the views when patience ends.
pub fn join(world: &mut World, nodes: usize) -> Result<Vec<Figure>, String> {
    let last = if world.machine().is_some() { start_at_once(world, nodes)? } else { start_one_by_one(world, nodes)? };
    settle(world)?;
    Ok(vec![since("joined_ms", last, world.told_at())])
}

/// Lets the program's word come to its node: at once, where nothing else is to do.
fn ask(world: &mut World) {
    let asked = world.occupy(|machine| machine.tell + machine.input);
    world.run_until(asked);
}

/// Starts nodes at drawn moments of half a second, the first of them at once, and gives the last start.
fn start_one_by_one(world: &mut World, nodes: usize) -> Result<Time, String> {
    let mut starts: Vec<Duration> =
        (1..nodes).map(|_| world.rng().random_range(Duration::ZERO..Duration::from_millis(500))).collect();
    starts.sort_unstable();
    let first = world.add_node(&[]);
    register(world, first, "main", "v1")?;
    let begin = world.now();
    for start in starts {
        world.run_until(begin + start);
        let host = world.add_node(&[first]);
        register(world, host, "main", "v1")?;
    }
    Ok(world.now())
}

/// Starts a node, and when it runs all others, as a shell would that waits for none of them. Gives when the last was
/// asked to start: its node runs a while later, when the machine has come to it.
fn start_at_once(world: &mut World, nodes: usize) -> Result<Time, String> {
    let first = world.add_node(&[]);
    register(world, first, "main", "v1")?;
    let (mut asked, mut starting) = (world.now(), VecDeque::new());
    for _ in 1..nodes {
        let shell_goes_on = world.occupy(|machine| machine.spawn);
        run_starting(world, first, &mut starting, shell_goes_on)?;
        asked = world.now();
        starting.push_back(world.occupy(|machine| machine.start));
    }
    let end = starting.back().copied().unwrap_or(asked);
    run_starting(world, first, &mut starting, end)?;
    Ok(asked)
}

/// Runs until `end`, and starts each node of `starting` when its time has come.
fn run_starting(world: &mut World, seed: HostIndex, starting: &mut VecDeque<Time>, end: Time) -> Result<(), String> {
    while let Some(&due) = starting.front()
        && due <= end
    {
        starting.pop_front();
        world.run_until(due);
        let host = world.add_node(&[seed]);
        register(world, host, "main", "v1")?;
    }
    world.run_until(end);
    Ok(())
}

/// Changes records at 10 % and at 30 % loss.
///
/// Gives `equal_at_10_percent_ms` and `equal_at_30_percent_ms`, from the last change until all views are equal and
/// true.
///
/// # Errors
/// What is wrong with the views when patience ends, or that nothing was lost.
pub fn converge(world: &mut World, nodes: usize) -> Result<Vec<Figure>, String> {
    let mut figures = join(world, nodes)?;
    for (loss, name) in [(0.1, "equal_at_10_percent_ms"), (0.3, "equal_at_30_percent_ms")] {
        let lost = world.fates().lost;
        world.set_loss(loss);
        world.run_for(Duration::from_secs(5));
        let hosts: Vec<HostIndex> = (0..nodes).collect();
        changes(world, &hosts, nodes / 2, Duration::from_secs(2))?;
        let last = world.now();
        figures.push(since(name, last, settle(world)?));
        if world.fates().lost == lost {
            return Err(format!("no datagram was lost at a loss of {loss}"));
        }
    }
    Ok(figures)
}

/// Lets one more node join `nodes` nodes long after their rumors have died.
///
/// Gives `knows_all_ms`, from its start until it lists every record, and `settled_ms`, until all list its own too.
///
/// # Errors
/// What is wrong with the views when patience ends.
pub fn late_joiner(world: &mut World, nodes: usize) -> Result<Vec<Figure>, String> {
    join(world, nodes)?;
    world.run_for(Duration::from_secs(60));
    let records = world.registered_records();
    let start = world.now();
    let late = world.add_node(&[0]);
    let knows_all = world.run_until_cond(PATIENCE, |world| {
        let Some(node) = world.node(late) else { return false };
        node.digest().live_records >= records.len() && {
            let listed = node.live_records();
            records.iter().all(|(owner, key)| listed.iter().any(|(o, k, _)| (o, k) == (owner, key)))
        }
    });
    let knows_all = knows_all.ok_or_else(|| unsettled(world))?;
    register(world, late, "main", "v1")?;
    let settled = settle(world)?;
    Ok(vec![since("knows_all_ms", start, knows_all), since("settled_ms", start, settled)])
}

/// Splits a drawn half off, once for each of `spans`, while both sides register and withdraw.
///
/// Gives `healed_ms` for each, from the heal until all views are equal and true.
///
/// # Errors
/// What is wrong with the views when patience ends, or that the split stopped nothing.
pub fn split(world: &mut World, nodes: usize, spans: &[Duration]) -> Result<Vec<Figure>, String> {
    join(world, nodes)?;
    let mut figures = Vec::new();
    for &span in spans {
        world.run_for(Duration::from_secs(5));
        let mut hosts: Vec<HostIndex> = (0..nodes).collect();
        hosts.shuffle(world.rng());
        let (one, other) = hosts.split_at(nodes / 2);
        let cut = world.fates().cut;
        let healed = world.now() + span;
        world.split(&[one.to_vec(), other.to_vec()]);
        for side in [one, other] {
            changes(world, side, nodes / 2, span / 3)?;
        }
        world.run_until(healed);
        if world.fates().cut == cut || check::views_agree(world) {
            return Err(format!("a split of {span:?} parted nobody"));
        }
        world.heal();
        figures.push(since("healed_ms", healed, settle(world)?));
    }
    Ok(figures)
}

/// Measures what `nodes` nodes send while nothing changes.
///
/// Gives `packets_per_s` and `bytes_per_s` (UDP payload, QUIC estimated) of the average member, and of the busiest.
///
/// # Errors
/// What is wrong with the views before or after.
pub fn idle(world: &mut World, nodes: usize, span: Duration) -> Result<Vec<Figure>, String> {
    join(world, nodes)?;
    world.run_for(Duration::from_secs(30));
    let before: Vec<_> = (0..nodes).map(|host| world.traffic_of(host)).collect();
    world.run_for(span);
    check::settled(world)?;
    let sent: Vec<_> = before.into_iter().enumerate().map(|(host, before)| world.traffic_of(host) - before).collect();
    let rate = |count: u64| count as f64 / span.as_secs_f64();
    let mean = |total: u64| rate(total) / nodes as f64;
    Ok(vec![
        Figure { name: "packets_per_s", value: mean(sent.iter().map(Traffic::packets).sum()) },
        Figure { name: "bytes_per_s", value: mean(sent.iter().map(Traffic::bytes).sum()) },
        Figure { name: "streams_per_min", value: mean(sent.iter().map(|sent| sent.streams).sum()) * 60.0 },
        Figure { name: "busiest_packets_per_s", value: rate(sent.iter().map(Traffic::packets).max().unwrap_or(0)) },
        Figure { name: "busiest_bytes_per_s", value: rate(sent.iter().map(Traffic::bytes).max().unwrap_or(0)) },
    ])
}

/// Changes a tag of one node, `trials` times, and follows it.
///
/// Gives for each trial `last_sees_ms`, and what carried the record within the next ten seconds: datagrams of the
/// average and of the busiest member, and streams in all.
///
/// # Errors
/// What is wrong with the views when patience ends.
pub fn change(world: &mut World, nodes: usize, trials: usize) -> Result<Vec<Figure>, String> {
    /// Long enough for repeats and repairs.
    const FOLLOWED: Duration = Duration::from_secs(10);
    join(world, nodes)?;
    let mut figures = Vec::new();
    for trial in 0..trials {
        // The moment must not lie at the same place between the nodes' timers in every trial.
        let pause = world.rng().random_range(Duration::from_secs(2)..Duration::from_secs(4));
        world.run_for(pause);
        let host = world.rng().random_range(0..nodes);
        let tag = format!("marker-of-trial-{trial:06}");
        world.set_marker(Some(tag.clone().into_bytes()));
        let before: Vec<_> = (0..nodes).map(|host| world.traffic_of(host)).collect();
        let begin = world.now();
        ask(world);
        register(world, host, "main", &tag)?;
        world.run_until_cond(PATIENCE, check::views_agree).ok_or_else(|| unsettled(world))?;
        let seen = world.told_at();
        world.run_until(seen + FOLLOWED);
        check::settled(world)?;
        let sent: Vec<_> = (0..nodes).map(|host| world.traffic_of(host) - before[host]).collect();
        let datagrams: u64 = sent.iter().map(|sent| sent.marked_datagrams).sum();
        let streams: u64 = sent.iter().map(|sent| sent.marked_streams).sum();
        if datagrams + streams == 0 {
            return Err("nothing carried the marker: is the record still in clear?".to_owned());
        }
        figures.extend([
            since("last_sees_ms", begin, seen),
            Figure { name: "datagrams_per_member", value: datagrams as f64 / nodes as f64 },
            Figure {
                name: "datagrams_of_busiest",
                value: sent.iter().map(|sent| sent.marked_datagrams).max().unwrap_or(0) as f64,
            },
            Figure { name: "streams", value: streams as f64 },
        ]);
    }
    world.set_marker(None);
    Ok(figures)
}

/// Lets `leavers` nodes leave, one after another.
///
/// Gives for each `dropped_ms`, until no other node lists a record of it.
///
/// # Errors
/// What is wrong with the views when patience ends, or a node that refuses.
pub fn leave(world: &mut World, nodes: usize, leavers: usize) -> Result<Vec<Figure>, String> {
    join(world, nodes)?;
    let mut figures = Vec::new();
    // The seed leaves as well: nobody may depend on it.
    for leaver in 0..leavers {
        let pause = world.rng().random_range(Duration::from_secs(2)..Duration::from_secs(4));
        world.run_for(pause);
        let id = world.node(leaver).expect("each leaves once").peer().id;
        let begin = world.now();
        ask(world);
        world.leave(leaver).map_err(|error| format!("host {leaver} may not leave: {error}"))?;
        let mut asked = None;
        let dropped = world.run_until_cond(PATIENCE, |world| {
            asked.replace(world.view_changes()) != Some(world.view_changes())
                && world.running().all(|(_, node)| node.live_records().iter().all(|(owner, ..)| owner.id != id))
        });
        dropped.ok_or_else(|| unsettled(world))?;
        figures.push(since("dropped_ms", begin, world.told_at()));
        settle(world)?;
    }
    Ok(figures)
}

/// Crashes a node, `trials` times; each time another process takes its place afterwards.
///
/// Gives for each `first_tells_ms` and `last_tells_ms`, from the crash until the first and the last of the others told
/// its program that the node is unreachable.
///
/// # Errors
/// What is wrong with the views when patience ends, or that somebody was called unreachable who ran.
pub fn crash(world: &mut World, nodes: usize, trials: usize) -> Result<Vec<Figure>, String> {
    join(world, nodes)?;
    let mut figures = Vec::new();
    for _ in 0..trials {
        // The moment must not lie at the same place between the nodes' timers in every trial.
        let pause = world.rng().random_range(Duration::from_secs(3)..Duration::from_secs(5));
        world.run_for(pause);
        // Not the seed, through which whoever takes a place joins.
        let host = world.rng().random_range(1..nodes);
        let begin = world.now();
        world.crash(host);
        let newest = |world: &World| world.watch().losses().last().and_then(|loss| loss.first.zip(loss.last));
        let told = world.run_until_cond(PATIENCE, |world| newest(world).is_some()).and_then(|_| newest(world));
        let (first, last) =
            told.ok_or_else(|| format!("not within {PATIENCE:?}: all tell the crash of host {host}"))?;
        figures.extend([since("first_tells_ms", begin, first), since("last_tells_ms", begin, last)]);
        world.replace(host);
        register(world, host, "main", "again")?;
        settle(world)?;
    }
    match world.watch().downs().wrong {
        0 => Ok(figures),
        wrong => Err(format!("{wrong} times a node that ran was called unreachable")),
    }
}

/// Crashes nodes, and lets them idle, with each profile in a network of its kind, in worlds that this one draws.
///
/// Gives for each profile how far the mean detection, and the bytes that an idle member sends, are from what the
/// settings promise; and how far the slowest detection is above what they promise of the worst; in percent.
///
/// # Errors
/// As of [`crash`] and [`idle`].
pub fn promise(world: &mut World, nodes: usize) -> Result<Vec<Figure>, String> {
    const CRASHES: usize = 20;
    let kinds = [
        (Profile::Lan, Preset::Lan, ["lan_detect_off_percent", "lan_over_worst_percent", "lan_bytes_off_percent"]),
        (Profile::Wan, Preset::Wan5, ["wan_detect_off_percent", "wan_over_worst_percent", "wan_bytes_off_percent"]),
        // Without the two processors that all would share: they are what is waited for there.
        (
            Profile::Local,
            Preset::Loopback,
            ["local_detect_off_percent", "local_over_worst_percent", "local_bytes_off_percent"],
        ),
    ];
    let mut figures = Vec::new();
    for (profile, preset, [detect, worst, bytes]) in kinds {
        let (tuning, network) = (profile.tuning(), preset.network());
        let conditions = Conditions { members: nodes, rtt: Some(network.round_trip()), ..profile.conditions() };
        let promise = Promise::of(&tuning, &conditions);
        let mut draw = || {
            let config = WorldConfig::new(world.rng().random());
            World::new(WorldConfig { network: network.clone(), mode: Mode::Tidings(tuning.clone()), ..config })
        };
        let crashes = crash(&mut draw(), nodes, CRASHES)?;
        let told: Vec<f64> = crashes.iter().filter(|f| f.name == "last_tells_ms").map(|f| f.value).collect();
        let mean = told.iter().sum::<f64>() / told.len() as f64;
        let slowest = told.iter().copied().fold(0.0, f64::max);
        let idle = idle(&mut draw(), nodes, Duration::from_secs(300))?;
        let of = |name: &str| idle.iter().find(|figure| figure.name == name).map_or(0.0, |figure| figure.value);
        // Here datagrams are not sealed.
        let sealed = of("bytes_per_s") + of("packets_per_s") * SEAL_BYTES as f64;
        let ms = |span: Duration| span.as_secs_f64() * 1e3;
        let off = |seen: f64, promised: f64| (seen / promised - 1.0) * 100.0;
        figures.extend([
            Figure { name: detect, value: off(mean, ms(promise.detect_p50)).abs() },
            Figure { name: worst, value: off(slowest, ms(promise.detect_worst)) },
            Figure { name: bytes, value: off(sealed, promise.bytes_per_s).abs() },
        ]);
    }
    Ok(figures)
}

/// Crashes a node and starts it again, `rounds` times with its data directory and as often without.
///
/// Gives `restarted_ms` and `replaced_ms`, from the start until all views are equal and true.
///
/// # Errors
/// What is wrong with the views when patience ends.
pub fn restart(world: &mut World, nodes: usize, rounds: usize) -> Result<Vec<Figure>, String> {
    join(world, nodes)?;
    let mut figures = Vec::new();
    for round in 0..2 * rounds {
        let host = nodes - 1;
        world.crash(host);
        let pause = world.rng().random_range(Duration::from_millis(50)..Duration::from_secs(3));
        world.run_for(pause);
        let begin = world.now();
        let name = if round % 2 == 0 {
            world.restart(host);
            "restarted_ms"
        } else {
            world.replace(host);
            "replaced_ms"
        };
        register(world, host, "main", "again")?;
        figures.push(since(name, begin, settle(world)?));
    }
    Ok(figures)
}

/// Everything that can happen, drawn, for `span`; nothing is asked but what must hold always.
///
/// Gives what happened, so that nobody takes a quiet world for a tried one.
///
/// # Errors
/// That no datagram was lost or none was cut.
pub fn trouble(world: &mut World, nodes: usize, span: Duration) -> Result<Vec<Figure>, String> {
    let end = world.now() + span;
    for _ in 0..nodes {
        let seeds: &[HostIndex] = if world.host_count() == 0 { &[] } else { &[0] };
        let host = world.add_node(seeds);
        register(world, host, "main", "v1")?;
    }
    world.set_loss(0.1);
    while world.now() < end {
        let pause = world.rng().random_range(Duration::ZERO..Duration::from_secs(2));
        world.run_for(pause);
        let host = world.rng().random_range(0..nodes);
        let other = world.rng().random_range(0..nodes);
        match (world.rng().random_range(0..10), world.node(host).is_some()) {
            (0, _) => {
                let mut hosts: Vec<HostIndex> = (0..nodes).collect();
                hosts.shuffle(world.rng());
                world.split(&[hosts[..nodes / 3].to_vec(), hosts[nodes / 3..nodes / 2].to_vec()]);
            }
            (1, _) => world.cut(host, other),
            (2 | 3, _) => world.heal(),
            (4, true) => world.crash(host),
            (5, true) if world.running().any(|(running, _)| running == host) => {
                world.leave(host).map_err(|error| format!("host {host} may not leave: {error}"))?;
            }
            (0..8, false) => world.restart(host),
            (8.., false) => world.replace(host),
            _ => changes(world, &[host], 1, Duration::ZERO)?,
        }
    }
    let fates = world.fates();
    if fates.lost == 0 || fates.cut == 0 {
        return Err(format!("no trouble: {fates:?}"));
    }
    Ok(vec![
        Figure { name: "datagrams_lost", value: fates.lost as f64 },
        Figure { name: "datagrams_cut", value: fates.cut as f64 },
        Figure { name: "view_changes", value: world.view_changes() as f64 },
    ])
}

/// `count` changes at drawn moments of `span`: of drawn ones of `hosts` that run, most change a tag of an instance,
/// some register one more, some withdraw one.
fn changes(world: &mut World, hosts: &[HostIndex], count: usize, span: Duration) -> Result<(), String> {
    let begin = world.now();
    let mut moments: Vec<Duration> = (0..count).map(|_| world.rng().random_range(Duration::ZERO..=span)).collect();
    moments.sort_unstable();
    for moment in moments {
        world.run_until(begin + moment);
        let host = hosts[world.rng().random_range(0..hosts.len())];
        if !world.running().any(|(running, _)| running == host) {
            continue;
        }
        let kind = world.rng().random_range(0..4);
        let serial: u32 = world.rng().random();
        let registered: Vec<Key> = world.registered(host).cloned().collect();
        match registered.first() {
            Some(key) if kind == 0 => {
                world.withdraw(host, key).map_err(|error| format!("host {host} may not withdraw {key}: {error}"))?;
            }
            Some(_) if kind > 1 => register(world, host, "main", &format!("v{serial}"))?,
            _ => register(world, host, &format!("more-{serial}"), "v1")?,
        }
    }
    Ok(())
}

/// Registers the instance `name` of `host`, with one tag.
fn register(world: &mut World, host: HostIndex, name: &str, tag: &str) -> Result<(), String> {
    let address: Endpoint = std::net::SocketAddr::from(([10, 1, 0, 1], 8_080)).into();
    let mut instance = Instance::new(name, address).map_err(|error| format!("instance {name}: {error}"))?;
    instance.id = Key::from(format!("{name}@n{host}").as_str());
    instance.tags = [tag.into()].into();
    world.register(host, instance).map_err(|error| format!("host {host} may not register {name}: {error}"))
}

fn settle(world: &mut World) -> Result<Time, String> {
    world.run_until_settled(PATIENCE).ok_or_else(|| unsettled(world))
}

fn unsettled(world: &World) -> String {
    let what = check::settled(world).err().unwrap_or_else(|| "what was waited for".to_owned());
    format!("not within {PATIENCE:?}: {what}")
}

fn since(name: &'static str, begin: Time, end: Time) -> Figure {
    Figure { name, value: end.since(begin).as_secs_f64() * 1_000.0 }
}
