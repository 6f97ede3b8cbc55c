//! Runs a scenario in a world: starts the hosts, does what the timeline and the workload say, ends the faults, asks
//! for the promises, and measures.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tidings::record::{Endpoint, Instance, Key};
use tidings::time::Time;

use crate::check;
use crate::fault::{Fault, Lasting, RestartWith, pairs};
use crate::hosts::Hosts;
use crate::report::words_of;
use crate::scenario::{Scenario, Step};
use crate::watch::{FOLLOWED, Loss, Verdict, Watch};
use crate::world::{HostIndex, Traffic, World, WorldConfig};

/// How often views are compared with the truth.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// In a run longer than this, views are compared less often, so that there are about this many samples.
const SAMPLES_MAX: u32 = 2_000;

/// What a run gave.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The hash over everything that happened, in hexadecimal; empty if the run broke off.
    pub hash: String,
    /// What did not hold; empty if all is well.
    pub failures: Vec<String>,
    /// The figures, by name; names end in their unit.
    pub figures: BTreeMap<String, f64>,
    /// How long was simulated, in seconds.
    pub simulated_s: f64,
    /// Each crash, until the last member knew, in milliseconds; infinite if one never did.
    #[serde(skip)]
    pub detections_ms: Vec<f64>,
    /// What a picture needs; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub film: Option<Film>,
}

impl Outcome {
    /// Whether everything held.
    pub fn is_pass(&self) -> bool {
        self.failures.is_empty()
    }
}

/// The course of a run for a picture: what the others believed of each host, second by second.
#[derive(Clone, PartialEq, Debug, Default, Serialize, serde::Deserialize)]
pub struct Film {
    /// When each frame was taken, in seconds from the start of the world.
    pub at_s: Vec<f64>,
    /// For each frame and host: the share of the running others that count it as present, 0 to 100; -1 while no
    /// process runs there.
    pub believed: Vec<Vec<i8>>,
    /// What was done to the world, and when.
    pub acts: Vec<(f64, String)>,
}

/// What a run leaves out or adds.
#[derive(Default)]
pub struct Options {
    /// A line per event goes here.
    pub trace: Option<Box<dyn Write + Send>>,
    /// Whether to take a film.
    pub films: bool,
    /// Told when a phase of the run ends, with the simulated time then; for saying how long each took.
    pub on_phase: Option<OnPhase>,
}

/// See [`Options::on_phase`].
pub type OnPhase = Box<dyn FnMut(Phase, Time) + Send>;

/// The parts of a run, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Hosts start, until all know each other.
    Joined,
    /// The timeline passes.
    Lasted,
    /// Faults have ended, and everything promised came to hold.
    Settled,
}

/// Runs `scenario` with `seed`. A panic of the world, which is how a promise that must hold always is broken, is a
/// failure like others.
pub fn run(scenario: &Scenario, seed: u64, options: Options) -> Outcome {
    let broken = |failure: String| Outcome {
        seed,
        hash: String::new(),
        failures: vec![failure],
        figures: BTreeMap::new(),
        simulated_s: 0.0,
        detections_ms: Vec::new(),
        film: None,
    };
    // A world that panicked is dropped with everything in it: no broken state is seen again.
    let run = catch_unwind(AssertUnwindSafe(|| Runner::new(scenario, seed, options).run()));
    run.unwrap_or_else(|panic| broken(words_of(panic.as_ref())))
}

/// What is to happen next.
#[derive(Clone, Debug)]
enum Act {
    /// The step of this index, for the so-many-th time.
    Step(usize, u32),
    /// The fault of this index in the list of begun ones ends.
    End(usize),
    /// Hosts start again.
    Restart(Vec<HostIndex>, RestartWith),
    /// A process crashes by chance, and starts again so much later.
    Churn(Duration),
    Change,
    Register,
    Withdraw,
    Lookup,
    Sample,
}

/// A cut: which directed pairs, and from when to when.
struct Cut {
    pairs: BTreeSet<(HostIndex, HostIndex)>,
    begin: Time,
    end: Time,
}

struct Runner<'a> {
    scenario: &'a Scenario,
    seed: u64,
    world: World,
    /// Draws what the scenario leaves open, apart from the world's own generator.
    rng: Xoshiro256PlusPlus,
    groups: BTreeMap<String, Vec<HostIndex>>,
    agenda: BTreeMap<(Time, u64), Act>,
    planned: u64,
    begin: Time,
    end: Time,
    sample_every: Duration,
    begun: Vec<Option<Lasting>>,
    cuts: Vec<Cut>,
    failures: Vec<String>,
    figures: BTreeMap<String, f64>,
    serial: u64,
    wrong_view_node_s: f64,
    node_s: f64,
    /// What everybody together had sent at the last sample.
    sent: Option<Traffic>,
    /// The packets, and the bytes, that a member sent in the mean from one sample to the next, each at its most.
    worst_sent: (f64, f64),
    lookups: u64,
    lookups_wrong: u64,
    film: Option<Film>,
    on_phase: Option<OnPhase>,
    /// How many changes of views there were when watermarks were last asked after.
    asked_at: Option<u64>,
}

impl<'a> Runner<'a> {
    fn new(scenario: &'a Scenario, seed: u64, options: Options) -> Self {
        let config = WorldConfig {
            network: scenario.network(),
            mode: scenario.mode(),
            views: scenario.workload.readers,
            ..WorldConfig::new(seed)
        };
        let mut world = World::new(config);
        if let Some(sink) = options.trace {
            world.write_trace(sink);
        }
        Self {
            scenario,
            seed,
            world,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x7363_656e_6172_696f),
            groups: BTreeMap::new(),
            agenda: BTreeMap::new(),
            planned: 0,
            begin: Time::ZERO,
            end: Time::ZERO,
            sample_every: SAMPLE_EVERY.max(scenario.lasts.0 / SAMPLES_MAX),
            begun: Vec::new(),
            cuts: Vec::new(),
            failures: Vec::new(),
            figures: BTreeMap::new(),
            serial: 0,
            wrong_view_node_s: 0.0,
            node_s: 0.0,
            sent: None,
            worst_sent: (0.0, 0.0),
            lookups: 0,
            lookups_wrong: 0,
            film: options.films.then(Film::default),
            on_phase: options.on_phase,
            asked_at: None,
        }
    }

    fn run(mut self) -> Outcome {
        if let Err(failure) = self.play() {
            self.failures.push(failure);
        }
        self.judge_figures();
        Outcome {
            seed: self.seed,
            hash: format!("{:016x}", self.world.hash()),
            failures: self.failures,
            figures: self.figures,
            simulated_s: self.world.now().since(Time::ZERO).as_secs_f64(),
            detections_ms: detections_ms(&self.world),
            film: self.film,
        }
    }

    fn play(&mut self) -> Result<(), String> {
        self.open()?;
        self.end_phase(Phase::Joined);
        let before: Vec<Traffic> = (0..self.world.host_count()).map(|host| self.world.traffic_of(host)).collect();
        let rumors = self.rumors_sent();
        self.follow_agenda()?;
        self.measure_traffic(&before);
        self.measure_views("");
        let changes = self.world.watch().followed();
        if changes > 0 && self.scenario.lasts.0 > Duration::ZERO {
            self.figure("sends_per_change", (self.rumors_sent() - rumors) as f64 / changes as f64);
        }
        self.end_phase(Phase::Lasted);
        self.close()?;
        self.end_phase(Phase::Settled);
        Ok(())
    }

    fn end_phase(&mut self, phase: Phase) {
        let now = self.world.now();
        if let Some(on_phase) = &mut self.on_phase {
            on_phase(phase, now);
        }
    }

    /// Starts the hosts and waits until they know each other.
    fn open(&mut self) -> Result<(), String> {
        let topology = &self.scenario.topology;
        let joins_before = topology.join_within.0 > Duration::ZERO;
        if topology.preloaded {
            self.world.add_preloaded(topology.nodes, topology.start_within.0);
        } else if joins_before {
            self.start_all()?;
        }
        if joins_before && !topology.preloaded {
            let last = self.world.now();
            let joined = self
                .world
                .run_until_settled(topology.join_within.0)
                .ok_or_else(|| format!("did not join within {}: {}", topology.join_within, self.unsettled()))?;
            self.figure("joined_ms", ms(joined.since(last)));
        }
        self.world.run_until(self.world.now() + topology.rests.0);
        self.begin = self.world.now();
        self.end = self.begin + self.scenario.lasts.0;
        self.plan_all();
        if !joins_before {
            self.do_steps_at_zero()?;
            self.start_all()?;
        }
        for class in &self.scenario.topology.pairs {
            let (from, to) = (self.choose(&class.from)?, self.choose(&class.to)?);
            let pairs = from.iter().flat_map(|&one| to.iter().map(move |&other| (one, other)));
            self.world.set_pairs(class.link.clone(), pairs)?;
        }
        for (name, hosts) in &self.scenario.groups {
            let hosts = self.choose(hosts)?;
            self.groups.insert(name.clone(), hosts);
        }
        Ok(())
    }

    /// A fault at the very beginning befalls the cluster before anybody starts.
    fn do_steps_at_zero(&mut self) -> Result<(), String> {
        while let Some(entry) = self.agenda.first_entry() {
            let is_now = entry.key().0 <= self.world.now() && matches!(entry.get(), Act::Step(..));
            if !is_now {
                break;
            }
            let act = entry.remove();
            self.act(act)?;
        }
        Ok(())
    }

    fn start_all(&mut self) -> Result<(), String> {
        let nodes = self.scenario.topology.nodes;
        let within = self.scenario.topology.start_within.0;
        let mut moments: Vec<Duration> = (1..nodes).map(|_| self.rng.random_range(Duration::ZERO..=within)).collect();
        moments.sort_unstable();
        let begin = self.world.now();
        for moment in [Duration::ZERO].into_iter().chain(moments) {
            self.world.run_until(begin + moment);
            self.start_one()?;
        }
        Ok(())
    }

    fn start_one(&mut self) -> Result<HostIndex, String> {
        let seeds: Vec<HostIndex> = (0..self.scenario.topology.seeds).collect();
        let is_only_seed = seeds.len() == 1 && self.world.host_count() == 0;
        let host = self.world.add_node(if is_only_seed { &[] } else { &seeds });
        self.register_first(host)?;
        Ok(host)
    }

    /// What a program registers whenever it starts.
    fn register_first(&mut self, host: HostIndex) -> Result<(), String> {
        if self.world.node(host).is_none_or(|node| node.as_tidings().is_none()) {
            return Ok(());
        }
        for index in 0..self.scenario.workload.instances {
            self.serial += 1;
            let instance = instance(&format!("s{index}@n{host}"), self.serial, self.scenario.workload.record_bytes.0)?;
            let registered = self.world.register(host, instance);
            registered.map_err(|error| format!("host {host} may not register: {error}"))?;
        }
        Ok(())
    }

    fn plan(&mut self, at: Time, act: Act) {
        self.agenda.insert((at, self.planned), act);
        self.planned += 1;
    }

    fn plan_all(&mut self) {
        for (index, step) in self.scenario.timeline.iter().enumerate() {
            self.plan(self.begin + step.get_ref().at.0, Act::Step(index, 1));
        }
        let workload = &self.scenario.workload;
        for (per_s, act) in [
            (workload.changes_per_s, Act::Change),
            (workload.registrations_per_s, Act::Register),
            (workload.withdrawals_per_s, Act::Withdraw),
            (workload.lookups_per_s, Act::Lookup),
        ] {
            let span = self.scenario.lasts.0;
            for _ in 0..(per_s * span.as_secs_f64()).round() as u64 {
                let at = self.begin + self.rng.random_range(Duration::ZERO..=span);
                self.plan(at, act.clone());
            }
        }
        self.plan(self.begin, Act::Sample);
    }

    fn follow_agenda(&mut self) -> Result<(), String> {
        while let Some(((at, _), act)) = self.agenda.pop_first() {
            if at > self.end {
                break;
            }
            self.world.run_until(at);
            self.act(act)?;
        }
        self.world.run_until(self.end);
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Step(index, time) => {
                let step = self.scenario.timeline[index].get_ref();
                let at = step.at;
                match self.step(step, index, time) {
                    // What was drawn need not fit what became of the world by then.
                    Err(_) if self.scenario.drawn => {}
                    result => result.map_err(|what| format!("timeline at {at}: {what}"))?,
                }
            }
            Act::End(index) => self.finish(index)?,
            Act::Restart(hosts, with) => self.restart(&hosts, with)?,
            Act::Churn(down_for) => self.churn(down_for)?,
            Act::Change => self.change()?,
            Act::Register => self.register_one()?,
            Act::Withdraw => self.withdraw_one()?,
            Act::Lookup => self.look_up(),
            Act::Sample => self.sample()?,
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, index: usize, time: u32) -> Result<(), String> {
        if let Some(every) = step.every
            && step.times.is_none_or(|times| time < times)
        {
            self.plan(self.world.now() + every.0, Act::Step(index, time + 1));
        }
        let with = step.with.unwrap_or_default();
        if let Some(fault) = self.fault_of(step, with)? {
            self.tell_film(&fault);
            return self.begin_fault(&fault, step, with);
        }
        if let Some(count) = step.join {
            for _ in 0..count {
                self.start_one()?;
            }
        }
        if let Some(churn) = &step.churn {
            let span = step.lasts.map_or_else(|| self.end.since(self.world.now()), |lasts| lasts.0);
            let per_min = churn.per_min.0 * self.world.host_count() as f64;
            for _ in 0..(per_min * span.as_secs_f64() / 60.0).round() as u64 {
                let at = self.world.now() + self.rng.random_range(Duration::ZERO..=span);
                self.plan(at, Act::Churn(churn.down_for.0));
            }
        }
        if let Some(take) = &step.take_address {
            if self.world.node(take.host).is_some() || self.world.node(take.of).is_some() {
                return Err(format!("take_address: hosts {} and {} must be stopped", take.host, take.of));
            }
            self.world.take_address(take.host, take.of);
            self.restart(&[take.host], RestartWith::Nothing)?;
        }
        if let Some(register) = &step.register {
            for host in self.choose(&register.hosts)? {
                for _ in 0..register.count {
                    self.serial += 1;
                    let instance = instance(&format!("m{}@n{host}", self.serial), self.serial, register.bytes.0)?;
                    let registered = self.world.register(host, instance);
                    registered.map_err(|error| format!("host {host} may not register: {error}"))?;
                }
            }
        }
        if let Some(hosts) = &step.withdraw {
            for host in self.choose(hosts)? {
                self.withdraw_first(host)?;
            }
        }
        if let Some(hosts) = &step.canary {
            for host in self.choose(hosts)? {
                self.world.call_for_canary(host).map_err(|error| format!("host {host}: {error}"))?;
            }
        }
        if let Some(within) = step.settle_within {
            let from = self.world.now();
            let settled = self.world.run_until_settled(within.0);
            let settled = settled.ok_or_else(|| format!("not settled within {within}: {}", self.unsettled()))?;
            self.figure("settled_ms", ms(settled.since(from)));
        }
        Ok(())
    }

    fn fault_of(&mut self, step: &Step, with: RestartWith) -> Result<Option<Fault>, String> {
        let fault = if let Some(hosts) = &step.crash {
            Fault::Crash(self.choose(hosts)?)
        } else if let Some(hosts) = &step.restart {
            Fault::Restart(self.choose(hosts)?, with)
        } else if let Some(hosts) = &step.leave {
            Fault::Leave(self.choose(hosts)?)
        } else if let Some(hosts) = &step.drain {
            Fault::Drain(self.choose(hosts)?)
        } else if let Some(groups) = &step.split {
            Fault::Split(groups.iter().map(|group| self.choose(group)).collect::<Result<_, _>>()?)
        } else if let Some(ways) = &step.cut {
            Fault::Cut(self.choose(&ways.from)?, self.choose(&ways.to)?)
        } else if let Some(share) = step.loss {
            Fault::Loss(share)
        } else if let Some(loss) = &step.loss_at {
            Fault::LossAt(self.choose(&loss.hosts)?, loss.share)
        } else if let Some(hosts) = &step.freeze {
            Fault::Freeze(self.choose(hosts)?)
        } else if let Some(hosts) = &step.block {
            Fault::Block(self.choose(hosts)?)
        } else if let Some(hosts) = &step.isolate {
            Fault::Isolate(self.choose(hosts)?)
        } else if let Some(slow) = &step.slow {
            Fault::Slow(self.choose(&slow.hosts)?, slow.by)
        } else if let Some(clock) = &step.clock_rate {
            Fault::ClockRate(self.choose(&clock.hosts)?, clock.rate)
        } else if let Some(clock) = &step.clock_step {
            Fault::ClockStep(self.choose(&clock.hosts)?, clock.by_secs)
        } else if let Some(hosts) = &step.disk_full {
            Fault::DiskFull(self.choose(hosts)?)
        } else {
            return Ok(None);
        };
        Ok(Some(fault))
    }

    fn begin_fault(&mut self, fault: &Fault, step: &Step, with: RestartWith) -> Result<(), String> {
        let lasting = fault.begin(&mut self.world).map_err(|error| error.to_string())?;
        if let Fault::Restart(hosts, _) = fault {
            for &host in hosts {
                self.register_first(host)?;
            }
        }
        let ends = step.lasts.map(|lasts| self.world.now() + lasts.0);
        if let Fault::Cut(from, to) = fault {
            let (begin, end) = (self.world.now(), ends.unwrap_or(self.end));
            self.cuts.push(Cut { pairs: pairs(from, to).collect(), begin, end });
        }
        match (fault, ends) {
            (Fault::Crash(hosts), Some(ends)) => self.plan(ends, Act::Restart(hosts.clone(), with)),
            (_, Some(ends)) => {
                self.plan(ends, Act::End(self.begun.len()));
                self.begun.push(Some(lasting));
            }
            _ => self.begun.push(Some(lasting)),
        }
        Ok(())
    }

    fn finish(&mut self, index: usize) -> Result<(), String> {
        let Some(lasting) = self.begun[index].take() else { return Ok(()) };
        lasting.end(&mut self.world);
        if self.scenario.drawn {
            return Ok(());
        }
        lasting.had_effect(&self.world).map_err(|error| error.to_string())
    }

    fn restart(&mut self, hosts: &[HostIndex], with: RestartWith) -> Result<(), String> {
        for &host in hosts {
            if self.world.node(host).is_none() {
                Fault::Restart(vec![host], with).begin(&mut self.world).map_err(|error| error.to_string())?;
                self.register_first(host)?;
            }
        }
        Ok(())
    }

    fn churn(&mut self, down_for: Duration) -> Result<(), String> {
        // Somebody must be left to join through.
        let running: Vec<HostIndex> =
            self.world.running().map(|(host, _)| host).filter(|&host| self.world.is_free(host)).collect();
        let seeds = self.scenario.topology.seeds;
        let candidates: Vec<HostIndex> = running.into_iter().filter(|host| *host >= seeds).collect();
        let Some(&host) = candidates.choose(&mut self.rng) else { return Ok(()) };
        Fault::Crash(vec![host]).begin(&mut self.world).map_err(|error| error.to_string())?;
        self.plan(self.world.now() + down_for, Act::Restart(vec![host], RestartWith::Data));
        Ok(())
    }

    fn choose(&mut self, hosts: &Hosts) -> Result<Vec<HostIndex>, String> {
        hosts
            .choose(&self.world, self.scenario.topology.nodes, &self.groups, &mut self.rng)
            .map_err(|error| error.to_string())
    }

    /// A running program of tidings, drawn.
    fn program(&mut self) -> Option<HostIndex> {
        let free: Vec<HostIndex> = self
            .world
            .running()
            .filter(|(host, node)| node.as_tidings().is_some() && self.world.is_free(*host))
            .map(|(host, _)| host)
            .collect();
        free.choose(&mut self.rng).copied()
    }

    fn change(&mut self) -> Result<(), String> {
        let Some(host) = self.program() else { return Ok(()) };
        let Some(key) = self.world.registered(host).next().cloned() else { return Ok(()) };
        self.serial += 1;
        let changed = instance(key.as_str(), self.serial, self.scenario.workload.record_bytes.0)?;
        let observers: BTreeSet<HostIndex> =
            self.world.running().map(|(other, _)| other).filter(|other| *other != host).collect();
        let owner = self.world.node(host).expect("it runs").peer().id;
        let (now, serial) = (self.world.now(), self.serial);
        self.world.watch_mut().follow(now, owner, key, serial, observers);
        self.world.register(host, changed).map_err(|error| format!("host {host} may not register: {error}"))
    }

    fn register_one(&mut self) -> Result<(), String> {
        let Some(host) = self.program() else { return Ok(()) };
        self.serial += 1;
        let bytes = self.scenario.workload.record_bytes.0;
        let instance = instance(&format!("m{}@n{host}", self.serial), self.serial, bytes)?;
        self.world.register(host, instance).map_err(|error| format!("host {host} may not register: {error}"))
    }

    fn withdraw_one(&mut self) -> Result<(), String> {
        self.program().map_or(Ok(()), |host| self.withdraw_first(host))
    }

    fn withdraw_first(&mut self, host: HostIndex) -> Result<(), String> {
        let Some(key) = self.world.registered(host).next().cloned() else { return Ok(()) };
        self.world.withdraw(host, &key).map_err(|error| format!("host {host} may not withdraw {key}: {error}"))
    }

    /// A program looks at all it could use: wrong is an instance of a process that is gone.
    fn look_up(&mut self) {
        let Some(host) = self.program() else { return };
        let living: BTreeSet<_> = self.world.running().map(|(_, node)| node.peer().id).collect();
        let listed = self.world.node(host).expect("it runs").live_records();
        self.lookups += 1;
        let is_wrong = listed.iter().any(|(owner, key, _)| !key.is_member() && !living.contains(&owner.id));
        self.lookups_wrong += u64::from(is_wrong);
    }

    fn sample(&mut self) -> Result<(), String> {
        let step_s = self.sample_every.as_secs_f64();
        let members = check::true_members(&self.world);
        let mut running = 0_u32;
        let mut wrong = 0_u64;
        for (_, node) in self.world.running() {
            running += 1;
            wrong += u64::from(node.digest().reachable != members);
        }
        self.node_s += f64::from(running) * step_s;
        self.wrong_view_node_s += wrong as f64 * step_s;
        let sent = self.world.traffic();
        if let Some(before) = self.sent.replace(sent) {
            let (sent, node_s) = (sent - before, f64::from(running.max(1)) * step_s);
            self.worst_sent.0 = self.worst_sent.0.max(sent.packets() as f64 / node_s);
            self.worst_sent.1 = self.worst_sent.1.max(sent.bytes() as f64 / node_s);
        }
        self.take_frame();
        self.plan(self.world.now() + self.sample_every, Act::Sample);
        let changes = self.world.view_changes();
        if self.asked_at.replace(changes) == Some(changes) {
            return Ok(());
        }
        check::watermarks_are_true(&self.world)
    }

    fn take_frame(&mut self) {
        let Some(film) = &mut self.film else { return };
        let world = &self.world;
        let ids: Vec<Option<_>> = (0..world.host_count()).map(|host| Some(world.node(host)?.peer().id)).collect();
        let mut seen = vec![0_u32; ids.len()];
        let places: BTreeMap<_, usize> = ids.iter().enumerate().filter_map(|(host, id)| Some(((*id)?, host))).collect();
        let mut observers = 0_u32;
        for (host, node) in world.running() {
            observers += 1;
            for peer in node.live_members() {
                if let Some(&place) = places.get(&peer.id).filter(|place| **place != host) {
                    seen[place] += 1;
                }
            }
        }
        let others = f64::from(observers.saturating_sub(1).max(1));
        film.at_s.push(world.now().since(Time::ZERO).as_secs_f64());
        film.believed.push(
            ids.iter()
                .zip(seen)
                .map(|(id, seen)| if id.is_none() { -1 } else { (f64::from(seen) / others * 100.0).round() as i8 })
                .collect(),
        );
    }

    fn tell_film(&mut self, fault: &Fault) {
        let at = self.world.now().since(Time::ZERO).as_secs_f64();
        if let Some(film) = &mut self.film {
            film.acts.push((at, format!("{fault:?}")));
        }
    }

    /// Ends the faults, and asks for everything that was promised.
    fn close(&mut self) -> Result<(), String> {
        let restarts: Vec<Act> =
            std::mem::take(&mut self.agenda).into_values().filter(|act| matches!(act, Act::Restart(..))).collect();
        let effects: Vec<Result<(), _>> =
            self.begun.iter().flatten().map(|lasting| lasting.had_effect(&self.world)).collect();
        for error in effects.into_iter().filter_map(Result::err).filter(|_| !self.scenario.drawn) {
            self.failures.push(error.to_string());
        }
        self.world.end_faults();
        // Whoever is only down for a while comes back in its time.
        for act in restarts {
            self.act(act)?;
        }
        let healed = self.world.now();
        if let Some(film) = &mut self.film {
            film.acts.push((healed.since(Time::ZERO).as_secs_f64(), "all faults end".to_owned()));
        }
        let settled = self.settle_for_good(healed);
        self.measure();
        self.measure_views("_after");
        self.figure("heal_ms", ms(settled?.since(healed)));
        Ok(())
    }

    /// Waits until everything that was promised holds, and goes on holding: what a member suspected while things were
    /// broken may come to nothing only later.
    fn settle_for_good(&mut self, healed: Time) -> Result<Time, String> {
        let within = self.scenario.settle.within;
        let deadline = healed + within.0;
        let mut why = String::new();
        loop {
            let now = self.world.now();
            let settled = if now <= deadline { self.run_and_film(deadline.since(now)) } else { None };
            let Some(settled) = settled else {
                let why = if why.is_empty() { self.unsettled() } else { why };
                return Err(format!("not for good within {within} after the faults ended: {why}"));
            };
            self.stay_and_film();
            // What is gone must not come back, not even for a while.
            check::nothing_else_is_listed(&self.world).map_err(|what| format!("it was gone and came back: {what}"))?;
            let broken =
                check::PROMISES.iter().find_map(|p| Some(format!("{}: {}", p.name, (p.check)(&self.world).err()?)));
            match broken {
                None => return Ok(settled),
                Some(what) => why = what,
            }
        }
    }

    /// Runs on for a while, in which nothing may change; a film shows it.
    fn stay_and_film(&mut self) {
        let end = self.world.now() + self.scenario.settle.stays.0;
        while self.world.now() < end {
            let step = if self.film.is_some() { self.sample_every } else { end.since(self.world.now()) };
            self.world.run_until(end.min(self.world.now() + step));
            self.take_frame();
        }
    }

    /// Waits until everything is settled, with frames in between.
    fn run_and_film(&mut self, within: Duration) -> Option<Time> {
        if self.film.is_none() {
            return self.world.run_until_settled(within);
        }
        let end = self.world.now() + within;
        while self.world.now() < end {
            let step = self.sample_every.min(end.since(self.world.now()));
            let settled = self.world.run_until_settled(step);
            self.take_frame();
            if settled.is_some() {
                return settled;
            }
        }
        None
    }

    fn unsettled(&self) -> String {
        check::settled(&self.world).err().unwrap_or_else(|| "settled at the last moment only".to_owned())
    }

    fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    fn rumors_sent(&self) -> u64 {
        let nodes = self.world.running().filter_map(|(_, node)| node.as_tidings());
        nodes.map(|node| node.counters().rumors_sent).sum()
    }

    fn measure_traffic(&mut self, before: &[Traffic]) {
        let span = self.scenario.lasts.0.as_secs_f64();
        if span == 0.0 {
            return;
        }
        let hosts = self.world.host_count();
        let none = Traffic::default();
        let sent: Vec<Traffic> =
            (0..hosts).map(|host| self.world.traffic_of(host) - *before.get(host).unwrap_or(&none)).collect();
        let mut packets: Vec<f64> = sent.iter().map(|sent| sent.packets() as f64 / span).collect();
        let mut bytes: Vec<f64> = sent.iter().map(|sent| sent.bytes() as f64 / span).collect();
        for (name, values) in [("packets_per_s", &mut packets), ("bytes_per_s", &mut bytes)] {
            values.sort_unstable_by(f64::total_cmp);
            self.figure(&format!("{name}_mean"), values.iter().sum::<f64>() / hosts as f64);
            self.figure(&format!("{name}_p99"), quantile(values, 0.99));
            self.figure(&format!("{name}_max"), quantile(values, 1.0));
        }
        self.figure("packets_in_worst_s_mean", self.worst_sent.0);
        self.figure("bytes_in_worst_s_mean", self.worst_sent.1);
        let streams: u64 = sent.iter().map(|sent| sent.streams).sum();
        self.figure("streams_per_min_mean", streams as f64 / hosts as f64 / span * 60.0);
    }

    fn measure(&mut self) {
        let watch = self.world.watch();
        let downs = watch.downs();
        let hours = self.node_s / 3_600.0;
        let mut figures = vec![
            ("downs_right", downs.right as f64),
            ("downs_across", downs.across as f64),
            ("downs_anomalous", downs.anomalous as f64),
            ("false_downs", downs.wrong as f64),
            ("false_downs_at_healthy", downs.wrong_at_healthy as f64),
            ("wrong_view_node_s", self.wrong_view_node_s),
            ("members_called_down_wrongly", called_down_wrongly(watch) as f64),
        ];
        if hours > 0.0 {
            figures.push(("false_downs_per_node_hour", downs.wrong as f64 / hours));
        }
        let mut first: Vec<f64> = watch.losses().iter().filter_map(Loss::first_after).map(ms).collect();
        let mut last: Vec<f64> = watch.losses().iter().filter_map(Loss::last_after).map(ms).collect();
        let mut arrivals: Vec<f64> = watch.arrivals().iter().copied().map(ms).collect();
        figures.push(("losses", watch.losses().len() as f64));
        figures.push(("losses_noticed_by_all", last.len() as f64));
        figures.push(("changes", watch.followed() as f64));
        figures.push(("changes_seen_by_all", arrivals.len() as f64));
        let mut named: Vec<(String, f64)> = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let drains = self.world.drains();
        let silent = drains.iter().flat_map(|drain| &drain.heard.unconfirmed);
        named.push(("drains".to_owned(), drains.len() as f64));
        named.push(("drains_unconfirmed".to_owned(), silent.count() as f64));
        let mut drains: Vec<f64> = drains.iter().map(|drain| ms(drain.took)).collect();
        let all = [
            ("detect_first", &mut first),
            ("detect_last", &mut last),
            ("arrival", &mut arrivals),
            ("drain", &mut drains),
        ];
        for (name, values) in all {
            push_quantiles(&mut named, name, values);
        }
        let renewals: u64 =
            self.world.running().filter_map(|(_, node)| node.as_tidings()).map(|node| node.counters().renewals).sum();
        named.push(("renewals".to_owned(), renewals as f64));
        measure_canaries(self.world.watch(), &mut named);
        self.measure_marks(&mut named);
        self.measure_cuts(&mut named);
        if self.lookups > 0 {
            named.push(("lookups_wrong_share".to_owned(), self.lookups_wrong as f64 / self.lookups as f64));
        }
        self.figures.extend(named);
    }

    /// What the healthy members' minds did about the others.
    fn measure_marks(&self, named: &mut Vec<(String, f64)>) {
        let (watch, end) = (self.world.watch(), self.world.now());
        let marks = watch.marks();
        let deaf = self.deaf();
        let is_healthy = |host: &HostIndex| !self.world.is_anomalous(*host) && !deaf.contains(host);
        let healthy: BTreeSet<HostIndex> = self.world.running().map(|(host, _)| host).filter(is_healthy).collect();
        named.push(("state_changes_per_min_max".to_owned(), marks.changes_per_minute_max(&healthy) as f64));
        named.push(("two_minds_max_ms".to_owned(), ms(marks.two_minds_max(&healthy, end))));
        let share = |(host, since)| Some(marks.share_out(watch.start_on(host)?, &healthy, since, self.end));
        let shares: Vec<f64> = self.world.anomalous().filter_map(share).collect();
        if let Some(least) = shares.iter().copied().min_by(f64::total_cmp) {
            named.push(("faulty_marked_share_min".to_owned(), least));
        }
        let turns = self.world.holds().filter_map(|(host, begin, end)| {
            Some(marks.out_and_back(watch.start_on(host)?, &healthy, (begin, end), self.end.max(end)))
        });
        let (mut out, mut back): (Vec<f64>, Vec<f64>) = turns.map(|(out, back)| (ms(out), ms(back))).unzip();
        push_quantiles(named, "held_marked_after", &mut out);
        push_quantiles(named, "held_cleared_after", &mut back);
        let told: Vec<f64> = marks.told_in().into_iter().map(|count| count as f64).collect();
        if !told.is_empty() {
            named.push(("told_in_moments_p95".to_owned(), quantile(&told, 0.95)));
        }
    }

    /// Whom a cut kept from hearing most others: what these think meanwhile is not what the healthy agree on.
    fn deaf(&self) -> BTreeSet<HostIndex> {
        let most = self.world.running().count() / 2;
        let mut deaf = BTreeSet::new();
        for cut in &self.cuts {
            let mut unheard: BTreeMap<HostIndex, usize> = BTreeMap::new();
            cut.pairs.iter().for_each(|(_, to)| *unheard.entry(*to).or_default() += 1);
            deaf.extend(unheard.into_iter().filter(|(_, count)| *count > most).map(|(host, _)| host));
        }
        deaf
    }

    /// How soon whoever could not reach somebody avoided it, and whether anybody else did.
    fn measure_cuts(&self, named: &mut Vec<(String, f64)>) {
        let marks = self.world.watch().marks();
        let mut slowest: Option<Duration> = None;
        let mut others = 0;
        for Cut { pairs, begin, end } in &self.cuts {
            let span = (*begin, *end);
            let after = |&(from, to): &(_, _)| marks.avoided_after(from, to, span).unwrap_or(end.since(*begin));
            slowest = slowest.max(pairs.iter().map(after).max());
            others += marks.avoided_by_others(pairs, span);
        }
        if let Some(slowest) = slowest {
            named.push(("cut_avoided_after_max_ms".to_owned(), ms(slowest)));
            named.push(("avoided_by_others".to_owned(), others as f64));
        }
    }

    /// What the programs that read views find now, over all services; nothing if no host keeps a view.
    fn measure_views(&mut self, when: &str) {
        let mut healthy = Vec::new();
        let mut stale = Vec::new();
        for reader in (0..self.scenario.workload.readers).filter_map(|host| self.world.reader(host)) {
            let services = reader.services();
            healthy.push(services.iter().map(|service| service.healthy().len()).sum::<usize>() as f64);
            stale.push(services.iter().map(|service| service.stale().count()).sum::<usize>() as f64);
        }
        for (name, mut values) in [("read_healthy", healthy), ("read_stale", stale)] {
            values.sort_unstable_by(f64::total_cmp);
            if let (Some(&least), Some(&most)) = (values.first(), values.last()) {
                self.figure(&format!("{name}{when}_min"), least);
                self.figure(&format!("{name}{when}_max"), most);
                self.figure("mass_drops", self.world.mass_drops() as f64);
            }
        }
    }

    fn judge_figures(&mut self) {
        for expect in &self.scenario.expect {
            let Some(&value) = self.figures.get(&expect.figure) else {
                if self.failures.is_empty() {
                    self.failures.push(format!("{} was never measured", expect.figure));
                }
                continue;
            };
            if let Some(at_most) = expect.at_most.filter(|at_most| value > *at_most) {
                self.failures.push(format!("{} is {value:.2}, at most {at_most}", expect.figure));
            }
            if let Some(at_least) = expect.at_least.filter(|at_least| value < *at_least) {
                self.failures.push(format!("{} is {value:.2}, at least {at_least}", expect.figure));
            }
        }
    }
}

/// An instance whose tag tells the change it is of.
fn instance(id: &str, serial: u64, bytes: usize) -> Result<Instance, String> {
    let address: Endpoint = std::net::SocketAddr::from(([10, 1, 0, 1], 8_080)).into();
    let service = id.split('@').next().unwrap_or(id);
    let mut instance = Instance::new(service, address).map_err(|error| format!("instance {id}: {error}"))?;
    instance.id = Key::from(id);
    instance.tags = [format!("{FOLLOWED}{serial}").as_str().into()].into();
    if bytes > 0 {
        instance.meta.insert("pad".into(), "x".repeat(bytes).into());
    }
    Ok(instance)
}

fn detections_ms(world: &World) -> Vec<f64> {
    world.watch().losses().iter().map(|loss| loss.last_after().map_or(f64::INFINITY, ms)).collect()
}

/// How many members that were well were called dead by anybody: one mistake that all believe counts once.
fn called_down_wrongly(watch: &Watch) -> usize {
    let wrong = watch.notices().iter().filter(|notice| notice.verdict == Verdict::False);
    wrong.map(|notice| notice.subject).collect::<BTreeSet<_>>().len()
}

/// How long canaries took as their receivers have it, and in truth.
fn measure_canaries(watch: &Watch, named: &mut Vec<(String, f64)>) {
    if watch.canaries().is_empty() {
        return;
    }
    let (mut due, mut heard) = (0_usize, Vec::new());
    for canary in watch.canaries() {
        due += canary.heard.len() + canary.waiting.len();
        heard.extend(&canary.heard);
    }
    let (mut took, mut told): (Vec<f64>, Vec<f64>) = heard.iter().map(|(took, told)| (ms(*took), ms(*told))).unzip();
    let mut off: Vec<f64> = heard.iter().map(|(took, told)| ms(took.abs_diff(*told))).collect();
    named.push(("canaries".to_owned(), watch.canaries().len() as f64));
    named.push(("canaries_heard_share".to_owned(), heard.len() as f64 / due.max(1) as f64));
    push_quantiles(named, "canary_took", &mut took);
    push_quantiles(named, "canary_told", &mut told);
    push_quantiles(named, "canary_off", &mut off);
    for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
        if !took.is_empty() {
            named.push((format!("canary_told_to_took_{name}"), quantile(&told, q) / quantile(&took, q)));
        }
    }
}

/// Adds how `values`, in milliseconds, are spread; nothing if there are none.
fn push_quantiles(named: &mut Vec<(String, f64)>, name: &str, values: &mut [f64]) {
    if values.is_empty() {
        return;
    }
    values.sort_unstable_by(f64::total_cmp);
    for (suffix, q) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        named.push((format!("{name}_{suffix}_ms"), quantile(values, q)));
    }
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// The smallest of `sorted` that a share `q` of them does not exceed.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
