//! A cluster of `tidings node` processes and what each of them has printed. Knows nothing of what is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tidings::registry::ClusterKey;

use crate::Options;
use crate::figures::Report;
use crate::process::{Process, Signal};

/// Members of a cluster, and trials of an experiment, at most.
pub(crate) const NODES_MAX: usize = 1_000;

/// Far longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often an address that somebody else took between two starts is tried again.
const BIND_TRIES: usize = 20;
const BIND_AGAIN: Duration = Duration::from_millis(50);

/// Counters that should stay 0 in a healthy cluster on loopback; whichever does not is printed.
const UNUSUAL: &[&str] = &[
    "malformed",
    "other_cluster",
    "other_version",
    "unknown_sections",
    "refusals_received",
    "refusals_sent",
    "hellos_limited",
    "contacts_limited",
    "own_changes_limited",
    "rumors_limited",
    "limbo_limited",
    "records_limited",
    "bodies_failed",
    "bodies_limited",
    "syncs_failed",
    "stream_malformed",
    "renewals",
    "renewals_limited",
    "members_down",
    "bugs",
    "socket_drops_gossip_send_full",
    "socket_drops_gossip_send_refused",
    "socket_drops_gossip_send_invalid",
    "socket_drops_quic_send",
    "socket_drops_quic_queue_full",
    "socket_drops_quic_too_large",
    "streams_asks_failed",
    "streams_handshakes_failed",
    "streams_inbound_refused",
    "streams_inbound_failed",
    "streams_requests_refused",
    "driver_stalls",
    "driver_sends_failed",
    "driver_requests_refused",
    "driver_inbound_refused",
    "saved_view_left_out",
];

/// Why an experiment could not go on.
#[derive(Debug)]
pub(crate) struct FleetError(String);

impl FleetError {
    pub(crate) fn new(why: String) -> Self {
        Self(why)
    }
}

impl std::fmt::Display for FleetError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for FleetError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A line of a member, as far as experiments read it.
#[derive(Debug, Deserialize)]
pub(crate) struct Line {
    ts: String,
    pub(crate) event: String,
    pub(crate) member: Option<String>,
    pub(crate) member_id: Option<String>,
    addr: Option<String>,
    pub(crate) instance: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) record: Option<Value>,
    pub(crate) stats: Option<BTreeMap<String, u64>>,
    pub(crate) members: Option<Vec<Value>>,
    pub(crate) services: Option<Vec<Value>>,
    pub(crate) keys: Option<Vec<Value>>,
    pub(crate) unheard: Option<Vec<Value>>,
    command: Option<String>,
    /// When the member wrote it.
    #[serde(skip)]
    pub(crate) at: Timestamp,
}

impl Line {
    /// What the record says under this key of its metadata.
    pub(crate) fn meta(&self, key: &str) -> Option<&str> {
        self.record.as_ref()?.get("meta")?.get(key)?.as_str()
    }

    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        let tags = self.record.as_ref().and_then(|record| record.get("tags")?.as_array());
        tags.is_some_and(|tags| tags.iter().any(|t| t == tag))
    }

    pub(crate) fn is(&self, event: &str, member: &str) -> bool {
        self.event == event && self.member.as_deref() == Some(member)
    }
}

/// A line, or that there will be none any more, of a start of a node.
struct Heard {
    node: usize,
    life: u32,
    line: Result<Line, String>,
}

/// A member: its process, and what it has printed.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Counts its starts.
    life: u32,
    process: Option<Process>,
    stdin: Option<ChildStdin>,
    /// Where it listens, once it is ready.
    pub(crate) addr: Option<String>,
    /// Just before its process was started.
    pub(crate) launched: Timestamp,
    /// The members that it has told as present, by id.
    pub(crate) members: BTreeMap<String, String>,
    /// The instances that it has told as offered, by member id and instance.
    pub(crate) instances: BTreeSet<(String, String)>,
    /// When it last told a change of these.
    pub(crate) changed: Timestamp,
    /// What it printed since the last [`Fleet::mark`].
    pub(crate) log: Vec<Line>,
}

impl Node {
    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it has told exactly so many members, each with one instance.
    pub(crate) fn holds(&self, members: usize) -> bool {
        self.members.len() == members && self.instances.len() == members
    }

    /// The first line since the last mark that is such.
    pub(crate) fn first(&self, is_such: impl Fn(&Line) -> bool) -> Option<&Line> {
        self.log.iter().find(|line| is_such(line))
    }

    pub(crate) fn process(&self) -> Result<&Process, FleetError> {
        self.process.as_ref().ok_or_else(|| FleetError(format!("{} does not run", self.name)))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), FleetError> {
        Ok(self.process()?.signal(signal)?)
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<(), FleetError> {
        let stdin = self.stdin.as_mut().ok_or_else(|| FleetError(format!("{} does not listen", self.name)))?;
        Ok(stdin.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Takes in what it told.
    fn hear(&mut self, line: Line) {
        let (member, instance) = (line.member_id.clone(), line.instance.clone());
        match (line.event.as_str(), member, instance) {
            ("ready", _, _) => self.addr.clone_from(&line.addr),
            ("member_up" | "member_reachable", Some(id), _) => {
                self.members.insert(id, line.member.clone().unwrap_or_default());
                self.changed = line.at;
            }
            ("member_unreachable" | "member_down" | "member_left", Some(id), _) => {
                self.members.remove(&id);
                self.changed = line.at;
            }
            ("service_up", Some(id), Some(instance)) => {
                self.instances.insert((id, instance));
                self.changed = line.at;
            }
            ("service_down", Some(id), Some(instance)) => {
                self.instances.remove(&(id, instance));
                self.changed = line.at;
            }
            _ => {}
        }
        self.log.push(line);
    }
}

/// How a member is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    /// The address it must have; otherwise the system draws a port.
    pub(crate) addr: Option<String>,
    /// Whom it joins.
    pub(crate) join: Option<String>,
    /// Whether it has a data directory, which outlives its process.
    pub(crate) keeps: bool,
    /// The metadata `start` of its instance.
    pub(crate) number: usize,
    /// Further arguments.
    pub(crate) more: Vec<String>,
}

/// Members of one cluster; all killed when dropped.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) cluster: String,
    lines: Receiver<Heard>,
    tell: Sender<Heard>,
    dir: PathBuf,
    /// Removes the directory, unless it was asked to be kept.
    _removed: Option<TempDir>,
    log: Option<String>,
    /// Settings of the protocol.
    tuning: Vec<String>,
    /// The file of the cluster key that all members are started with.
    key: Option<PathBuf>,
    /// Errors and ends that nobody asked for.
    pub(crate) complaints: Vec<String>,
}

impl Fleet {
    /// A cluster without members; `label` names it, and its directory if that is kept.
    pub(crate) fn new(label: &str, options: &Options) -> Result<Self, FleetError> {
        let (dir, removed) = match &options.state {
            Some(kept) => (kept.join(label), None),
            None => {
                let dir = TempDir::with_prefix("tidings-bench-")?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        std::fs::create_dir_all(&dir)?;
        let (tell, lines) = mpsc::channel();
        let key = if options.has_key { Some(write_key(&dir, "cluster.key")?.0) } else { None };
        Ok(Self {
            nodes: Vec::new(),
            cluster: format!("bench-{label}-{}", std::process::id()),
            lines,
            tell,
            dir,
            _removed: removed,
            log: options.log.clone(),
            tuning: options.tuning.clone(),
            key,
            complaints: Vec::new(),
        })
    }

    /// A seed and `members - 1` others that join through it at once, every view complete.
    pub(crate) fn complete(label: &str, options: &Options, members: usize, keeps: bool) -> Result<Self, FleetError> {
        let mut fleet = Self::new(label, options)?;
        fleet.launch_all(members, keeps)?;
        fleet.until_all_hold(members)?;
        Ok(fleet)
    }

    /// Starts a seed, waits until it is ready, and starts the others through it, none waiting for another.
    pub(crate) fn launch_all(&mut self, members: usize, keeps: bool) -> Result<(), FleetError> {
        let seed = self.add(&Start { keeps, ..Start::default() })?;
        let join = self.addr_of(seed)?;
        for _ in 1..members {
            self.add(&Start { join: Some(join.clone()), keeps, ..Start::default() })?;
        }
        Ok(())
    }

    /// Starts one more member, and gives its index.
    pub(crate) fn add(&mut self, start: &Start) -> Result<usize, FleetError> {
        let index = self.nodes.len();
        self.nodes.push(Node {
            name: format!("m{index}"),
            life: 0,
            process: None,
            stdin: None,
            addr: None,
            launched: Timestamp::UNIX_EPOCH,
            members: BTreeMap::new(),
            instances: BTreeSet::new(),
            changed: Timestamp::UNIX_EPOCH,
            log: Vec::new(),
        });
        self.launch(index, start)?;
        Ok(index)
    }

    /// Starts a member that does not run, as a new process of the same name.
    pub(crate) fn launch(&mut self, index: usize, start: &Start) -> Result<(), FleetError> {
        let node = &mut self.nodes[index];
        let bind = start.addr.as_deref().unwrap_or("127.0.0.1:0");
        let mut arguments: Vec<String> = ["node", "--output", "jsonl", "--control", "stdin"].map(str::to_owned).into();
        let mut option = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        option("name", node.name.clone());
        option("cluster", self.cluster.clone());
        option("bind", bind.to_owned());
        let service = format!("name=web,addr=127.0.0.1:80,id=web-{},meta.start={}", node.name, start.number);
        option("service", service);
        if let Some(join) = &start.join {
            option("join", join.clone());
        }
        if start.keeps {
            option("data-dir", self.dir.join(&node.name).to_string_lossy().into_owned());
        }
        if let Some(key) = &self.key {
            option("key-file", key.to_string_lossy().into_owned());
        }
        for setting in &self.tuning {
            option("tuning", setting.clone());
        }
        arguments.extend(start.more.iter().cloned());
        let stderr = self.dir.join(format!("{}.stderr", node.name));
        node.life += 1;
        node.addr = None;
        node.members.clear();
        node.instances.clear();
        node.log.clear();
        node.launched = Timestamp::now();
        let (process, stdin, stdout) = Process::start(&arguments, self.log.as_deref(), &stderr)?;
        (node.process, node.stdin) = (Some(process), Some(stdin));
        let (tell, life) = (self.tell.clone(), node.life);
        std::thread::spawn(move || read(index, life, stdout, &tell));
        Ok(())
    }

    /// Makes a new cluster key, and gives its file and the key.
    pub(crate) fn new_key(&self, name: &str) -> Result<(PathBuf, ClusterKey), FleetError> {
        write_key(&self.dir, name)
    }

    /// Starts a member anew at an address that it had: if somebody else has taken it meanwhile, tries again.
    pub(crate) fn relaunch(&mut self, index: usize, start: &Start) -> Result<(), FleetError> {
        for _ in 0..BIND_TRIES {
            let complaints = self.complaints.len();
            self.launch(index, start)?;
            self.until(|fleet| fleet.nodes[index].addr.is_some() || !fleet.nodes[index].is_running());
            if self.nodes[index].is_running() {
                return Ok(());
            }
            let is_taken = |complaint: &String| complaint.to_lowercase().contains("in use");
            if !self.complaints[complaints..].iter().any(is_taken) {
                break;
            }
            self.complaints.truncate(complaints);
            self.pass(BIND_AGAIN);
        }
        Err(FleetError(format!("{} cannot be started again: {}", self.nodes[index].name, self.complaints.join("; "))))
    }

    /// Kills a member without a goodbye.
    pub(crate) fn kill(&mut self, index: usize) -> Result<(), FleetError> {
        let node = &mut self.nodes[index];
        // What it still says, and that it ends, is of a life that is over.
        node.life += 1;
        node.stdin = None;
        let Some(mut process) = node.process.take() else { return Ok(()) };
        Ok(process.kill()?)
    }

    /// Waits until a member that was told to end has ended, which must be with code 0.
    pub(crate) fn end(&mut self, index: usize) -> Result<(), FleetError> {
        if self.until(|fleet| !fleet.nodes[index].is_running()) {
            return Ok(());
        }
        Err(FleetError(format!("{} does not end", self.nodes[index].name)))
    }

    /// Where a member listens; waits until it is ready.
    pub(crate) fn addr_of(&mut self, index: usize) -> Result<String, FleetError> {
        self.until(|fleet| fleet.nodes[index].addr.is_some() || !fleet.nodes[index].is_running());
        let node = &self.nodes[index];
        node.addr
            .clone()
            .ok_or_else(|| FleetError(format!("{} is not ready: {}", node.name, self.complaints.join("; "))))
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.is_running())
    }

    /// Every running member but this one.
    pub(crate) fn others(&self, index: usize) -> impl Iterator<Item = &Node> {
        self.running().filter(move |(other, _)| *other != index).map(|(_, node)| node)
    }

    /// Forgets what was printed so far; views stay.
    pub(crate) fn mark(&mut self) {
        self.pass(Duration::ZERO);
        for node in &mut self.nodes {
            node.log.clear();
        }
    }

    /// Takes in lines until it is so, or patience ends; whether it is so.
    pub(crate) fn until(&mut self, is_so: impl FnMut(&Self) -> bool) -> bool {
        self.until_or(PATIENCE, is_so)
    }

    /// Takes in lines for a time.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.until_or(time, |_| false);
    }

    /// Takes in lines until it is so, or a time has passed; whether it is so.
    pub(crate) fn until_or(&mut self, time: Duration, mut is_so: impl FnMut(&Self) -> bool) -> bool {
        let deadline = monotonic() + time;
        loop {
            while let Ok(heard) = self.lines.try_recv() {
                self.hear(heard);
            }
            if is_so(self) {
                return true;
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(monotonic())) {
                Ok(heard) => self.hear(heard),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Waits until every running member's view holds so many members and instances.
    ///
    /// # Errors
    /// Patience ended; names who holds less or more.
    pub(crate) fn until_all_hold(&mut self, members: usize) -> Result<(), FleetError> {
        let all_run = |fleet: &Self| fleet.running().count() == members;
        if self.until(|fleet| !all_run(fleet) || fleet.running().all(|(_, node)| node.holds(members))) && all_run(self)
        {
            return Ok(());
        }
        let wrong = self.running().filter(|(_, node)| !node.holds(members));
        let wrong = wrong.map(|(_, node)| {
            format!("{} has {} members, {} instances", node.name, node.members.len(), node.instances.len())
        });
        let wrong: Vec<_> = wrong.collect();
        Err(FleetError(format!(
            "views are not complete after {PATIENCE:?}: {} of {members} run; {}; {}",
            self.running().count(),
            wrong.join(", "),
            self.complaints.join("; ")
        )))
    }

    /// Asks running members something, and gives each answer, by index.
    pub(crate) fn ask_all(&mut self, command: &str) -> Result<BTreeMap<usize, Line>, FleetError> {
        let asked: Vec<usize> = self.running().map(|(index, _)| index).collect();
        self.ask(&asked, command)
    }

    /// Asks these members something, and gives each answer, by index. An answer is called as the command's first word.
    pub(crate) fn ask(&mut self, asked: &[usize], command: &str) -> Result<BTreeMap<usize, Line>, FleetError> {
        let event = command.split(' ').next().unwrap_or_default();
        let is_answer = |line: &Line| line.event == event || line.command.as_deref() == Some(event);
        for &index in asked {
            self.nodes[index].log.retain(|line| !is_answer(line));
            self.nodes[index].say(command)?;
        }
        let is_answered = |fleet: &Self| {
            asked.iter().all(|&index| !fleet.nodes[index].is_running() || fleet.nodes[index].first(is_answer).is_some())
        };
        self.until(is_answered);
        let mut answers = BTreeMap::new();
        for &index in asked {
            let node = &mut self.nodes[index];
            let Some(place) = node.log.iter().position(is_answer) else {
                return Err(FleetError(format!("{} does not answer {command}", node.name)));
            };
            answers.insert(index, node.log.remove(place));
        }
        Ok(answers)
    }

    /// Each running member's counters, by index.
    pub(crate) fn stats(&mut self) -> Result<BTreeMap<usize, BTreeMap<String, u64>>, FleetError> {
        Ok(self.ask_all("stats")?.into_iter().map(|(index, line)| (index, line.stats.unwrap_or_default())).collect())
    }

    /// Tells the report of every error, and of every counter that should have stayed 0.
    /// `expected` are counters that the experiment itself moved.
    pub(crate) fn confess(&mut self, report: &mut Report, expected: &[&str]) -> Result<(), FleetError> {
        for complaint in self.complaints.drain(..) {
            report.miss(&complaint);
        }
        let stats = self.stats()?;
        for name in UNUSUAL.iter().filter(|name| !expected.contains(name)) {
            let counted: Vec<_> = stats.iter().filter_map(|(index, s)| Some((index, *s.get(*name)?))).collect();
            let counted: Vec<_> = counted.into_iter().filter(|(_, n)| *n > 0).collect();
            if let Some((who, most)) = counted.iter().max_by_key(|(_, n)| *n) {
                let total: u64 = counted.iter().map(|(_, n)| n).sum();
                let who = &self.nodes[**who].name;
                report.oddity(&format!("{name} is {total} over {} members, at most {most} ({who})", counted.len()));
            }
        }
        Ok(())
    }

    fn hear(&mut self, Heard { node: index, life, line }: Heard) {
        let node = &mut self.nodes[index];
        if node.life != life {
            return;
        }
        match line {
            Ok(line) => {
                if line.event == "error" {
                    let reason = line.reason.as_deref().unwrap_or("no reason");
                    self.complaints.push(format!("{} told an error: {reason}", node.name));
                }
                node.hear(line);
            }
            Err(end) => {
                node.stdin = None;
                let ended = node.process.take().map(|mut process| {
                    if !end.is_empty() {
                        // It talks nonsense, and might never end by itself.
                        process.signal(Signal::KILL)?;
                    }
                    process.wait()
                });
                match ended {
                    Some(Ok(status)) if status.success() && end.is_empty() => {}
                    ended => self.complaints.push(format!("{} ended: {ended:?} {end}", node.name)),
                }
            }
        }
    }
}

/// A new cluster key, in a file that its owner alone can read.
fn write_key(dir: &std::path::Path, name: &str) -> Result<(PathBuf, ClusterKey), FleetError> {
    let key = ClusterKey::generate().map_err(|error| FleetError(error.to_string()))?;
    let path = dir.join(name);
    let mut file = std::fs::File::create(&path)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    writeln!(file, "{}", *key.secret_text())?;
    Ok((path, key))
}

/// Tells each line of a process, and then its end.
fn read(node: usize, life: u32, stdout: ChildStdout, tell: &Sender<Heard>) {
    for text in BufReader::new(stdout).lines() {
        let line = text.map_err(|error| error.to_string()).and_then(|text| parse(&text));
        let is_end = line.is_err();
        if tell.send(Heard { node, life, line }).is_err() || is_end {
            return;
        }
    }
    let _ = tell.send(Heard { node, life, line: Err(String::new()) });
}

fn parse(text: &str) -> Result<Line, String> {
    let strange = |error: &dyn std::fmt::Display| format!("{text:.200} is no line: {error}");
    let mut line: Line = serde_json::from_str(text).map_err(|error| strange(&error))?;
    line.at = line.ts.parse().map_err(|error| strange(&error))?;
    Ok(line)
}

/// The time between two moments; none if the second is the earlier one.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "this program measures real time and is no part of the core")]
fn monotonic() -> Instant {
    Instant::now()
}
