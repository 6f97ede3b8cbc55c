//! Scenario files: what stands in them, and every way in which one can be wrong, with its line.
//!
//! A scenario is a TOML file whose first comment says what a reader should see. Unknown keys are errors. All spans are
//! text with a unit (`"200ms"`), shares numbers from 0 to 1 or text in percent, hosts are chosen as [`Hosts`] says.
//!
//! ```toml
//! mode = "tidings"              # or "foca": foca 2.0.0 alone, with [foca] settings
//! lasts = "60s"                 # of the timeline; then every fault ends
//! known_to_fail = "why"         # kept, run, and expected to fail
//!
//! [topology]
//! nodes = 50
//! seeds = 1                     # the first so many hosts are what everybody joins through
//! network = "lan"               # loopback, lan, region3, wan5, mobile
//! start_within = "500ms"        # the moments of the starts are drawn from this span
//! join_within = "60s"           # the timeline begins once all views are equal; "0s": at once
//! rests = "0s"                  # for so long after that nothing happens: the news of the join dies away
//!
//! [groups]                      # drawn once, by name
//! slow = "any 4"
//!
//! [workload]
//! instances = 1                 # that each program registers at its start
//! changes_per_s = 2.0           # of the whole cluster, while the timeline lasts
//!
//! [[timeline]]                  # one fault or act each
//! at = "10s"
//! lasts = "20s"
//! split = ["half"]
//!
//! [settle]
//! within = "10s"                # after the faults ended: all promises of `check::PROMISES` hold
//!
//! [[expect]]
//! figure = "detect_last_max_ms"
//! at_most = 30000.0
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings::knobs::{self, KNOBS, Knob, Value};
use tidings::node::Tuning;
use toml::Spanned;

use crate::fault::RestartWith;
use crate::foca_node::FocaSettings;
use crate::hosts::Hosts;
use crate::link::{LinkConfig, Network, Preset};
use crate::units::{Share, Size, Span};
use crate::world::{HOSTS_MAX, Mode};

/// Longer than any canary is on its way: members repeat them for ten seconds.
const CANARIES_APART: Duration = Duration::from_secs(12);

/// A scenario, read and checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What runs on the hosts.
    #[serde(default)]
    pub mode: ModeName,
    /// How long the timeline lasts; then every fault ends.
    pub lasts: Span,
    /// Why it is expected to fail, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_to_fail: Option<String>,
    /// Whether it was drawn: then a fault without effect, or one that no longer fits, is no error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drawn: bool,
    /// Who there is, and over what links.
    pub topology: Topology,
    /// tidings' settings.
    #[serde(default)]
    pub tuning: TuningSpec,
    /// foca's settings, for `mode = "foca"`.
    #[serde(default)]
    pub foca: FocaSettings,
    /// Hosts drawn once, by name.
    #[serde(default)]
    pub groups: BTreeMap<String, Hosts>,
    /// What programs do.
    #[serde(default)]
    pub workload: Workload,
    /// What happens when.
    #[serde(default)]
    pub timeline: Vec<Spanned<Step>>,
    /// What must hold once the faults have ended.
    #[serde(default)]
    pub settle: Settle,
    /// What figures must keep to.
    #[serde(default)]
    pub expect: Vec<Expect>,
}

/// What runs on the hosts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModeName {
    /// tidings.
    #[default]
    Tidings,
    /// foca alone.
    Foca,
}

/// Who there is, and over what links.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// How many hosts there are at first.
    pub nodes: usize,
    /// How many of the first hosts are what everybody joins through.
    #[serde(default = "one")]
    pub seeds: usize,
    /// The network.
    #[serde(default)]
    pub network: Preset,
    /// The moments of the starts are drawn from this span.
    #[serde(default = "half_a_second")]
    pub start_within: Span,
    /// The timeline begins once all views are equal, which must be within this span; zero begins at once.
    #[serde(default = "a_minute")]
    pub join_within: Span,
    /// How long nothing happens between that and the timeline, so that what the join set off dies away.
    #[serde(default, skip_serializing_if = "Span::is_zero")]
    pub rests: Span,
    /// Whether everybody knows everybody from the start (plain foca only).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preloaded: bool,
    /// All links, in place of the network's; round trips between zones stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkConfig>,
    /// Zone names, in place of the network's; hosts stand in them in turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zones: Option<Vec<String>>,
    /// Round trips from zone to zone, as measured, in place of the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<Vec<Vec<Span>>>,
    /// The median wait above the round trips, as a share of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Share>,
    /// Directed pairs of hosts with links of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<PairClass>,
}

/// Directed pairs of hosts with links of their own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairClass {
    /// The senders.
    pub from: Hosts,
    /// The receivers.
    pub to: Hosts,
    /// How these links behave.
    pub link: LinkConfig,
}

/// tidings' settings, as far as they depart from what ships: the names of [`knobs::KNOBS`].
#[derive(Clone, Default, Debug)]
pub struct TuningSpec(Vec<(&'static Knob, Value)>);

impl TuningSpec {
    /// The settings.
    pub fn tuning(&self) -> Tuning {
        let mut tuning = Tuning::default();
        for (knob, value) in &self.0 {
            knob.set(&mut tuning, *value).expect("they were read by `knobs::parse`, which checks the range");
        }
        tuning
    }

    /// What departs from what ships.
    pub fn of(tuning: &Tuning) -> Self {
        let shipped = Tuning::default();
        let of = |knob: &'static Knob| (knob, knob.value(tuning));
        Self(KNOBS.iter().map(of).filter(|(knob, value)| *value != knob.value(&shipped)).collect())
    }
}

impl<'de> Deserialize<'de> for TuningSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = BTreeMap::<String, Written>::deserialize(deserializer)?;
        let read = |(name, written): (String, Written)| {
            let text = match written {
                Written::Text(text) => text,
                Written::Whole(number) => number.to_string(),
                Written::Number(number) => number.to_string(),
            };
            knobs::parse(&format!("{name}={text}")).map_err(serde::de::Error::custom)
        };
        Ok(Self(table.into_iter().map(read).collect::<Result<_, _>>()?))
    }
}

impl Serialize for TuningSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(knob, value)| {
            let written = match value {
                Value::Span(_) => Written::Text(value.to_string()),
                Value::Count(count) => Written::Whole(*count as u64),
            };
            (knob.name, written)
        }))
    }
}

/// A setting as it may be written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Whole(u64),
    Number(f64),
}

/// What programs do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// Instances that each program registers at its start.
    pub instances: usize,
    /// Bytes of metadata that each instance has.
    pub record_bytes: Size,
    /// Changes of an instance, of the whole cluster; each is followed to the last member.
    pub changes_per_s: f64,
    /// New instances, of the whole cluster.
    pub registrations_per_s: f64,
    /// Withdrawals, of the whole cluster.
    pub withdrawals_per_s: f64,
    /// Looks of a program at the instances that its node lists, of the whole cluster.
    pub lookups_per_s: f64,
    /// How many hosts, from the first on, keep the view that their programs would read.
    pub readers: usize,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            instances: 1,
            record_bytes: Size(0),
            changes_per_s: 0.0,
            registrations_per_s: 0.0,
            withdrawals_per_s: 0.0,
            lookups_per_s: 0.0,
            readers: 0,
        }
    }
}

/// What must hold once the faults have ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settle {
    /// All promises hold within this span.
    pub within: Span,
    /// And still hold this long after: what is gone must not come back.
    pub stays: Span,
}

impl Default for Settle {
    fn default() -> Self {
        Self { within: Span::from_secs(30), stays: Span::from_secs(5) }
    }
}

/// What a figure must keep to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Its name; `tidings-sim run` prints all there are.
    pub figure: String,
    /// The most it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// The least it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
}

macro_rules! steps {
    ($($(#[$doc:meta])+ $name:ident: $kind:ty,)+) => {
        /// What happens at a moment of the timeline: exactly one act, and when, how long and how often.
        #[derive(Clone, Default, Debug, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Step {
            /// When, from the beginning of the timeline.
            pub at: Span,
            /// How long a fault lasts; without, until the timeline ends.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub lasts: Option<Span>,
            /// After how long it happens again.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub every: Option<Span>,
            /// How often in all; without, until the timeline ends.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub times: Option<u32>,
            /// With what stopped hosts start again.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub with: Option<RestartWith>,
            $($(#[$doc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$kind>,)+
        }

        impl Step {
            /// The names of the acts it holds.
            fn acts(&self) -> Vec<&'static str> {
                let mut acts = Vec::new();
                $(if self.$name.is_some() { acts.push(stringify!($name)); })+
                acts
            }

            const ACTS: &'static [&'static str] = &[$(stringify!($name)),+];
        }
    };
}

steps! {
    /// Processes end without a word; with `lasts`, they start again then, `with` what is said.
    crash: Hosts,
    /// Stopped hosts start again, `with` what is said.
    restart: Hosts,
    /// Processes say goodbye and end.
    leave: Hosts,
    /// Processes tell everybody that they take no new work, and leave once that is confirmed.
    drain: Hosts,
    /// So many new hosts start.
    join: usize,
    /// Groups are parted; hosts in no group form one more.
    split: Vec<Hosts>,
    /// One direction is cut.
    cut: Ways,
    /// Every link loses this share, beside its own.
    loss: Share,
    /// Whatever some hosts send or receive is lost with a probability.
    loss_at: LossAt,
    /// Processes stand still.
    freeze: Hosts,
    /// Processes' packets wait, both ways, while timers run.
    block: Hosts,
    /// Hosts are cut off from everybody while timers run.
    isolate: Hosts,
    /// Every packet of some hosts takes longer, each way.
    slow: Slow,
    /// Monotonic clocks run fast or slow.
    clock_rate: ClockRate,
    /// Wall clocks are set forward or back.
    clock_step: ClockStep,
    /// Nothing is kept on these hosts' disks.
    disk_full: Hosts,
    /// Processes crash at random, and start again.
    churn: Churn,
    /// A stopped host starts at the address of another stopped host, as a new member.
    take_address: TakeAddress,
    /// Programs register more instances.
    register: Register,
    /// Programs withdraw what they registered first.
    withdraw: Hosts,
    /// Members for whom it is time for a canary: that of the lowest id makes one, if it is among them.
    canary: Hosts,
    /// Views must become equal and true within this span from now.
    settle_within: Span,
}

/// From whom to whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ways {
    /// The senders.
    pub from: Hosts,
    /// The receivers.
    pub to: Hosts,
}

/// Losses of some hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossAt {
    /// Where.
    pub hosts: Hosts,
    /// How much.
    pub share: Share,
}

/// Slowness of some hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// Where.
    pub hosts: Hosts,
    /// By how much.
    pub by: Span,
}

/// A wrong rate of some hosts' clocks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockRate {
    /// Where.
    pub hosts: Hosts,
    /// 1.1 gains six seconds a minute.
    pub rate: f64,
}

/// A step of some hosts' wall clocks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockStep {
    /// Where.
    pub hosts: Hosts,
    /// Forward, or back if negative.
    pub by_secs: i64,
}

/// Crashes at a rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// The share of all hosts that crashes in a minute.
    pub per_min: Share,
    /// After how long each starts again.
    pub down_for: Span,
}

/// An address that goes from one host to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeAddress {
    /// Who takes it; must be stopped.
    pub host: usize,
    /// Whose it was; must be stopped.
    pub of: usize,
}

/// More instances.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Where.
    pub hosts: Hosts,
    /// How many on each.
    pub count: usize,
    /// Bytes of metadata that each has.
    #[serde(default = "nothing")]
    pub bytes: Size,
}

fn nothing() -> Size {
    Size(0)
}

const fn one() -> usize {
    1
}

const fn half_a_second() -> Span {
    Span::from_millis(500)
}

const fn a_minute() -> Span {
    Span::from_secs(60)
}

/// Why a text is no scenario: where, and what is wrong there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScenarioError {
    /// The file, or how else it was given.
    pub origin: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.origin, self.line, self.what)
    }
}

impl std::error::Error for ScenarioError {}

impl Scenario {
    /// Reads a scenario; `origin` names it in errors.
    ///
    /// # Errors
    /// The first thing that is wrong, and its line.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ScenarioError> {
        let at = |offset: usize, what: String| ScenarioError {
            origin: origin.to_owned(),
            line: text[..offset.min(text.len())].matches('\n').count() + 1,
            what,
        };
        let scenario: Self = toml::from_str(text).map_err(|error: toml::de::Error| {
            at(error.span().map_or(0, |span| span.start), error.message().to_owned())
        })?;
        scenario.check_topology().map_err(|what| at(text.find("[topology]").unwrap_or(0), what))?;
        for step in &scenario.timeline {
            scenario.check_step(step.get_ref()).map_err(|what| at(step.span().start, what))?;
        }
        for expect in &scenario.expect {
            if expect.at_most.is_none() && expect.at_least.is_none() {
                let offset = text.find(&expect.figure).unwrap_or(0);
                return Err(at(
                    offset,
                    format!("{} is expected to be nothing: say at_most or at_least", expect.figure),
                ));
            }
        }
        Ok(scenario)
    }

    /// The scenario as a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every part of a scenario has a form in TOML")
    }

    /// The network that the topology describes.
    pub fn network(&self) -> Network {
        let topology = &self.topology;
        let mut network = topology.network.network();
        if let Some(link) = &topology.link {
            network.base = link.clone();
        }
        if let Some(zones) = &topology.zones {
            network.zones.clone_from(zones);
            network.rtt.clear();
        }
        if let Some(rtt) = &topology.rtt {
            network.rtt.clone_from(rtt);
        }
        if let Some(jitter) = topology.jitter {
            network.jitter = jitter;
        }
        network
    }

    /// What runs on the hosts.
    pub fn mode(&self) -> Mode {
        match self.mode {
            ModeName::Tidings => Mode::Tidings(self.tuning.tuning()),
            ModeName::Foca => Mode::Foca(self.foca.clone(), self.topology.nodes),
        }
    }

    fn check_topology(&self) -> Result<(), String> {
        let topology = &self.topology;
        if topology.nodes == 0 || topology.nodes > HOSTS_MAX {
            return Err(format!("nodes = {}: from 1 to {HOSTS_MAX}", topology.nodes));
        }
        if topology.seeds == 0 || topology.seeds > topology.nodes {
            return Err(format!("seeds = {}: from 1 to the {} nodes", topology.seeds, topology.nodes));
        }
        if topology.preloaded && self.mode == ModeName::Tidings {
            return Err("preloaded: only plain foca can be, members of tidings join".to_owned());
        }
        crate::link::Link::new(&self.network()).map_err(|what| format!("network: {what}"))?;
        knobs::check(&self.tuning.tuning()).map_err(|error| format!("tuning: {error}"))
    }

    fn check_step(&self, step: &Step) -> Result<(), String> {
        let acts = step.acts();
        let [act] = acts[..] else {
            return Err(format!("a step has exactly one act of {}; this has {acts:?}", Step::ACTS.join(", ")));
        };
        if step.at > self.lasts {
            return Err(format!("at = {} is after the end of the timeline, {}", step.at, self.lasts));
        }
        if step.times.is_some() && step.every.is_none() {
            return Err("times needs every".to_owned());
        }
        if step.every.is_some_and(|every| every.0.is_zero()) {
            return Err("every = 0s would never get on".to_owned());
        }
        // The time from one to the next tells them apart.
        if step.canary.is_some() && step.every.is_some_and(|every| every.0 < CANARIES_APART) {
            return Err(format!("canary: every = {} at least", Span(CANARIES_APART)));
        }
        if step.with.is_some() && !(step.restart.is_some() || (step.crash.is_some() && step.lasts.is_some())) {
            return Err("with belongs to restart, or to a crash that lasts".to_owned());
        }
        let may_last = [
            "crash",
            "split",
            "cut",
            "loss",
            "loss_at",
            "freeze",
            "block",
            "isolate",
            "slow",
            "clock_rate",
            "disk_full",
            "churn",
        ];
        if step.lasts.is_some() && !may_last.contains(&act) {
            return Err(format!("{act} happens at once and cannot last"));
        }
        if step.clock_rate.as_ref().is_some_and(|clock| clock.rate <= 0.0) {
            return Err("clock_rate: a rate is above 0".to_owned());
        }
        Ok(())
    }
}

/// What the first comment of a file says, as one line.
pub fn about(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    let words: Vec<&str> = lines.flat_map(|line| line.trim_start_matches('#').split_whitespace()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "lasts = \"10s\"\n\n[topology]\nnodes = 5\n";

    fn error(tail: &str) -> String {
        Scenario::parse(&format!("{HEAD}{tail}"), "x.toml").expect_err(tail).to_string()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (tail, expected) in [
            ("colour = 3\n", "x.toml:5: unknown field `colour`"),
            ("seeds = 9\n", "x.toml:3: seeds = 9"),
            ("network = \"moon\"\n", "x.toml:5: unknown variant `moon`"),
            ("\n[[timeline]]\nat = \"1s\"\n", "x.toml:6: a step has exactly one act"),
            ("\n[[timeline]]\nat = \"1s\"\ncrash = \"any 1\"\nloss = 0.1\n", "x.toml:6: a step has exactly one act"),
            ("\n[[timeline]]\nat = \"11s\"\nloss = 0.1\n", "x.toml:6: at = 11s is after"),
            ("\n[[timeline]]\nat = \"1s\"\nloss = 1.5\n", "x.toml:8: \"1.5\" is not within 0 to 1"),
            ("\n[[timeline]]\nat = \"1s\"\ncrash = \"5-2\"\n", "x.toml:8: \"5-2\" does not say which hosts"),
            ("\n[[expect]]\nfigure = \"x_ms\"\n", "x.toml:7: x_ms is expected to be nothing"),
            ("\n[[timeline]]\nat = \"1s\"\nevery = \"5s\"\ncanary = \"all\"\n", "x.toml:6: canary: every = 12s"),
            ("[tuning]\ncolour = 1\n", "x.toml:5: no setting \"colour\""),
            ("[tuning]\nprobe_period = \"9ms\"\n", "x.toml:5: probe_period is from 10ms"),
            ("[workload]\nchange_per_s = 1\n", "x.toml:6: unknown field `change_per_s`"),
        ] {
            let error = error(tail);
            assert!(error.starts_with(expected), "{tail:?}: {error}");
        }
    }

    #[test]
    fn a_scenario_written_is_read_again() {
        let text = format!(
            "{HEAD}network = \"wan5\"\n[groups]\nslow = \"any 1\"\n[[timeline]]\nat = \"1s\"\nlasts = \"2s\"\n\
             split = [\"half\"]\n[[timeline]]\nat = \"4s\"\nevery = \"1s\"\nslow = {{ hosts = \"slow\", by = \"20ms\" }}\n"
        );
        let scenario = Scenario::parse(&text, "x").expect("well formed");
        let written = scenario.to_toml();
        let again = Scenario::parse(&written, "y").unwrap_or_else(|error| panic!("{error}\n{written}"));
        assert_eq!(again.to_toml(), written);
        assert_eq!(again.timeline.len(), 2);
    }

    #[test]
    fn the_first_comment_tells_what_it_is_about() {
        assert_eq!(about("# One thing,\n# and more.\n\n# not this\n"), "One thing, and more.");
    }
}
