//! `tidings demo`: a whole cluster in one process, and what it does when members come, change, die and leave.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings::peer::MemberState;
use tidings::record::Instance;
use tidings::registry::{JoinPolicy, Registration, Registry};

use super::exit::{Exit, Failure, chain};
use super::output::{Closed, Output};
use super::signals::Signals;

/// Fewer leave nobody to notice once one was killed and one has left.
const NODES_MIN: u64 = 3;
/// More say no more, and are many threads for one process.
const NODES_MAX: u64 = 50;

/// A step that spreads by gossip takes milliseconds; this is for a machine that is busy with something else.
const STEP_MAX: Duration = Duration::from_secs(10);
/// To notice a crash takes several seconds, more in a large cluster.
const CRASH_MAX: Duration = Duration::from_secs(30);

/// How long a view is not looked at again when no event says that it changed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Start a small cluster in this process, and show what it does.
///
/// Members start, offer services and find each other; one changes, one is killed, one leaves, one joins late. Each step
/// is a line with the time that it took. Takes well under a minute.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many members start
    #[arg(long, env = "TIDINGS_NODES", default_value_t = 5, value_parser = clap::value_parser!(u64).range(NODES_MIN..=NODES_MAX))]
    nodes: u64,
}

/// Why the demo ended early.
enum Halt {
    Closed,
    Failed(Failure),
}

impl From<Closed> for Halt {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Failure> {
    let mut signals =
        Signals::install().map_err(|e| Failure::new(Exit::Failed, format!("signals cannot be caught: {e}")))?;
    let result = tokio::select! {
        result = play(args.nodes, output) => result,
        _ = signals.next() => return Ok(()),
        () = output.closed() => return Ok(()),
    };
    match result {
        Ok(()) | Err(Halt::Closed) => Ok(()),
        Err(Halt::Failed(failure)) => Err(failure),
    }
}

/// One of the demo's members. Its guard is given up where the member dies with it, see [`kill`].
struct Actor {
    name: String,
    registry: Registry,
    registration: Registration,
}

async fn play(nodes: u64, output: &Output) -> Result<(), Halt> {
    let stage = Stage { output, begin: now() };
    stage.say(&format!("tidings demo: {nodes} members in one process, on loopback UDP")).await?;

    let begin = now();
    let mut registries: Vec<(String, Registry)> = Vec::new();
    for n in 1..=nodes {
        let seeds = registries.first().map(|(_, first)| first.local_addr().to_string());
        registries.push(start(n, seeds).await?);
    }
    for (_, registry) in &registries {
        let all = usize::try_from(nodes).unwrap_or(usize::MAX);
        until(registry, STEP_MAX, "all members in every view", || present(registry).len() == all).await?;
    }
    stage.done(begin, &format!("{nodes} members started through one seed; each view holds all {nodes}")).await?;

    let begin = now();
    let mut actors = Vec::new();
    for (name, registry) in registries {
        let registration = offer(&name, &registry).await?;
        actors.push(Actor { name, registry, registration });
    }
    let names: BTreeSet<String> = actors.iter().map(|actor| actor.name.clone()).collect();
    everywhere(&actors, STEP_MAX, "all instances in every view", |registry| offering(registry) == names).await?;
    stage.done(begin, &format!("each offers an instance of \"web\"; each view holds all {nodes}")).await?;

    let begin = now();
    let first = &mut actors[0];
    let canary = |instance: &mut Instance| {
        instance.tags.insert(Arc::from("canary"));
    };
    first.registration.update(canary).await.map_err(|e| failed("update", &e))?;
    everywhere(&actors, STEP_MAX, "the new tag in every view", |registry| tagged(registry, "canary") == 1).await?;
    stage.done(begin, &format!("{} tags its instance \"canary\"; everybody sees it", actors[0].name)).await?;

    let begin = now();
    let killed = actors.pop().expect("there are at least three");
    let name = kill(killed);
    stage.say(&format!("            {name} is killed, without a word; nobody is told ...")).await?;
    everywhere(&actors, CRASH_MAX, "the dead member's instance out of every view", |registry| {
        !offering(registry).contains(&name) && !present(registry).contains(&name)
    })
    .await?;
    stage.done(begin, &format!("everybody noticed: {name} and its instance are gone")).await?;

    let begin = now();
    let leaving = actors.pop().expect("there are at least three");
    let gone = async {
        everywhere(&actors, STEP_MAX, "the leaver's instance out of every view", |registry| {
            !offering(registry).contains(&leaving.name) && !present(registry).contains(&leaving.name)
        })
        .await?;
        // Before `leave` returns: it stays a moment, for goodbyes that have to be said again.
        stage.done(begin, &format!("{} leaves; it and its instance are gone from every view", leaving.name)).await?;
        Ok::<(), Halt>(())
    };
    let (left, gone) = tokio::join!(leaving.registry.leave(), gone);
    left.map_err(|e| failed("leave", &e))?;
    gone?;
    drop(leaving);

    let begin = now();
    let seed = actors[0].registry.local_addr().to_string();
    let (name, late) = start(nodes + 1, Some(seed)).await?;
    let known: BTreeSet<String> = actors.iter().map(|actor| actor.name.clone()).collect();
    until(&late, STEP_MAX, "everything in the late member's view", || {
        offering(&late) == known && tagged(&late, "canary") == 1
    })
    .await?;
    let (members, instances) = (present(&late).len(), offering(&late).len());
    stage
        .done(begin, &format!("{name} joins late and knows everything: {members} members, {instances} instances"))
        .await?;

    late.leave().await.map_err(|e| failed("leave", &e))?;
    for actor in &actors {
        actor.registry.leave().await.map_err(|e| failed("leave", &e))?;
    }
    let seconds = stage.begin.elapsed().as_secs_f64();
    stage.say(&format!("done in {seconds:.1} s. No server was involved. Next: tidings node --help")).await?;
    Ok(())
}

/// Where lines are said.
struct Stage<'a> {
    output: &'a Output,
    begin: Instant,
}

impl Stage<'_> {
    async fn say(&self, line: &str) -> Result<(), Closed> {
        self.output.line(line.to_owned()).await
    }

    /// Says a step that took until now.
    async fn done(&self, begin: Instant, what: &str) -> Result<(), Closed> {
        let took = begin.elapsed();
        let took = match took.as_millis() {
            0..=999 => format!("{:.1} ms", took.as_secs_f64() * 1e3),
            _ => format!("{:.2} s", took.as_secs_f64()),
        };
        self.say(&format!("{took:>10}  {what}")).await
    }
}

async fn start(n: u64, seed: Option<String>) -> Result<(String, Registry), Failure> {
    let name = format!("node-{n}");
    let registry = Registry::builder("demo", &name)
        .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .join(seed)
        .join_policy(JoinPolicy::Require(STEP_MAX))
        .start()
        .await?;
    Ok((name, registry))
}

/// Offers an instance of `web`; nothing listens at its address, which is the member's own.
async fn offer(name: &str, registry: &Registry) -> Result<Registration, Failure> {
    let instance = Instance::new("web", registry.local_addr()).map_err(|e| failed("instance", &e))?.with_tag("v1");
    registry.register(instance).await.map_err(|e| failed(&format!("register on {name}"), &e))
}

/// Ends a member as a crash would: its thread stops and its port closes, and nothing is sent.
fn kill(actor: Actor) -> String {
    // Dropping the guard would withdraw the instance, which the dead do not do.
    actor.registration.keep();
    drop(actor.registry);
    actor.name
}

/// The members in a view that can be reached, by name.
fn present(registry: &Registry) -> BTreeSet<String> {
    let members = registry.members();
    members
        .iter()
        .filter(|member| member.state == MemberState::Reachable)
        .map(|member| member.name.to_string())
        .collect()
}

/// The members that a lookup of `web` gives, by name.
fn offering(registry: &Registry) -> BTreeSet<String> {
    let Ok(web) = registry.lookup("web") else { return BTreeSet::new() };
    web.healthy().iter().map(|offered| offered.member.name.to_string()).collect()
}

/// How many instances that a lookup of `web` gives have the tag.
fn tagged(registry: &Registry, tag: &str) -> usize {
    let Ok(web) = registry.lookup("web") else { return 0 };
    web.healthy().iter().filter(|offered| offered.instance.tags.contains(tag)).count()
}

/// Waits until it is so in the view of every actor.
async fn everywhere(
    actors: &[Actor],
    bound: Duration,
    what: &str,
    is_so: impl Fn(&Registry) -> bool,
) -> Result<(), Failure> {
    let all = async {
        for actor in actors {
            when(&actor.registry, || is_so(&actor.registry)).await;
        }
    };
    within(bound, what, all).await
}

/// Waits until it is so in the view of one member.
async fn until(registry: &Registry, bound: Duration, what: &str, is_so: impl Fn() -> bool) -> Result<(), Failure> {
    within(bound, what, when(registry, is_so)).await
}

async fn within(bound: Duration, what: &str, happens: impl Future<Output = ()>) -> Result<(), Failure> {
    let message = || format!("did not happen within {} s: {what}", bound.as_secs());
    tokio::time::timeout(bound, happens).await.map_err(|_| Failure::new(Exit::Failed, message()))
}

async fn when(registry: &Registry, is_so: impl Fn() -> bool) {
    let mut events = registry.events();
    while !is_so() {
        // Whatever it says, the view is looked at again.
        let _ = tokio::time::timeout(LOOK_EVERY, events.next()).await;
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{what}: {}", chain(error)))
}

#[expect(clippy::disallowed_methods, reason = "the demo measures real time, outside of every node")]
fn now() -> Instant {
    Instant::now()
}
