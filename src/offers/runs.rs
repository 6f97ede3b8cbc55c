//! The tasks that run checks: one for each that finds out by itself, at its interval, never twice at once. Each holds
//! what it reports to weakly, and ends with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Shared;
use crate::check::{self, Alias, Check, Kind, Level, NotRun, Outcome};
use crate::peer::MemberState;
use crate::record::{Key, Status};
use crate::registry::{Events, Registry};

/// The longest time until the first run of a check: many that begin at once begin spread over it.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// Times in a row that a check may not be run, because we lack what it takes; then it is critical.
const NOT_RUN_MAX: u32 = 3;

/// How long news of an alias are gathered before it is looked at anew.
const ALIAS_AFTER: Duration = Duration::from_millis(10);

/// The tasks, by the id of the check.
#[derive(Debug, Default)]
pub(super) struct Runs {
    tasks: BTreeMap<Arc<str>, Run>,
}

/// A task, for one definition of a check; ends when it is dropped.
#[derive(Debug)]
struct Run {
    serial: u64,
    task: JoinHandle<()>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Runs {
    /// Ends the tasks of checks that are gone or defined anew, and begins those of new ones on this runtime.
    pub(super) fn align(
        &mut self,
        runtime: &Handle,
        shared: &Weak<Shared>,
        wanted: BTreeMap<Arc<str>, (u64, Arc<Check>)>,
    ) {
        self.tasks.retain(|id, run| wanted.get(id).is_some_and(|(serial, _)| *serial == run.serial));
        for (id, (serial, check)) in wanted {
            if check.kind.is_run() || matches!(check.kind, Kind::Alias(_)) {
                self.tasks.entry(Arc::clone(&id)).or_insert_with(|| {
                    let reporter = Reporter { shared: Weak::clone(shared), id, serial };
                    let task = match &check.kind {
                        Kind::Alias(alias) => runtime.spawn(follow(reporter, alias.clone())),
                        _ => runtime.spawn(repeat(reporter, check)),
                    };
                    Run { serial, task }
                });
            }
        }
    }
}

/// To whom results are told.
struct Reporter {
    shared: Weak<Shared>,
    id: Arc<str>,
    serial: u64,
}

impl Reporter {
    /// Whether there is still somebody to tell.
    async fn tell(&self, outcome: Outcome) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        shared.hear(&self.id, Some(self.serial), outcome).await;
        true
    }

    /// For want of something of ours: that accuses nobody, unless it lasts.
    async fn could_not_run(&self, NotRun(why): NotRun, in_a_row: u32) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        tracing::debug!(target: super::OFFERS_LOG, check = %self.id, %why, "could not be run");
        shared.state().count_not_run();
        if in_a_row >= NOT_RUN_MAX {
            drop(shared);
            return self.tell(Outcome::critical(format!("could not be run: {why}"))).await;
        }
        true
    }
}

/// Runs a check at its interval, counted from start to start, so that a failure is known within interval and timeout.
async fn repeat(reporter: Reporter, check: Arc<Check>) {
    let (first, phase) = spread(&reporter.id, reporter.serial, check.interval);
    let mut next = Instant::now() + first;
    let mut wait = phase;
    let mut not_run = 0;
    loop {
        tokio::time::sleep_until(next).await;
        let is_heard = match check::run(&check).await {
            Ok(outcome) => {
                not_run = 0;
                reporter.tell(outcome).await
            }
            Err(why) => {
                not_run += 1;
                reporter.could_not_run(why, not_run).await
            }
        };
        if !is_heard {
            return;
        }
        // What was missed while a run took long is not made up for.
        next = (next + wait).max(Instant::now());
        wait = check.interval;
    }
}

/// When the first run is, and how long after it the second: both drawn from the check, so that the runs of many that
/// began at once are spread over their interval.
fn spread(id: &str, serial: u64, interval: Duration) -> (Duration, Duration) {
    let draw = xxh3_64_with_seed(id.as_bytes(), serial);
    let share = |bits: u64| (bits & 0xffff) as f64 / 65_536.0;
    (interval.min(FIRST_WITHIN).mul_f64(share(draw)), interval.mul_f64(0.5 + 0.5 * share(draw >> 16)))
}

/// Follows what is known of another instance or member.
async fn follow(reporter: Reporter, alias: Alias) {
    let Some((mut changes, mut events)) = reporter.shared.upgrade().map(|shared| news(&shared, &alias)) else { return };
    let mut told = None;
    loop {
        let Some(outcome) = reporter.shared.upgrade().map(|shared| look(&shared, &alias)) else { return };
        if told.as_ref() != Some(&outcome) {
            told = Some(outcome.clone());
            if !reporter.tell(outcome).await {
                return;
            }
        }
        let is_over = match &mut events {
            Some(events) => events.next().await.is_none(),
            None => changes.changed().await.is_err(),
        };
        if is_over {
            return;
        }
        // Many events are about others: they are gathered, and the view looked at once.
        tokio::time::sleep(ALIAS_AFTER).await;
        if let Some(shared) = reporter.shared.upgrade().filter(|_| events.is_some()) {
            events = Some(shared.registry.events());
        }
    }
}

/// What tells that an alias may be another: our own changes, or those of all members.
fn news(shared: &Shared, alias: &Alias) -> (watch::Receiver<u64>, Option<Events>) {
    (shared.changes.subscribe(), alias.member.is_some().then(|| shared.registry.events()))
}

fn look(shared: &Shared, alias: &Alias) -> Outcome {
    match (&alias.member, &alias.instance) {
        (Some(member), instance) => look_at_member(&shared.registry, member, instance.as_deref()),
        (None, Some(instance)) => {
            let id = Key::from(instance.as_str());
            let status = shared.state().wanted(&id).map(|instance| instance.status);
            judge(instance, status.as_ref())
        }
        (None, None) => Outcome::critical("an alias of nothing"),
    }
}

fn look_at_member(registry: &Registry, name: &str, instance: Option<&str>) -> Outcome {
    let members = registry.members();
    // A name that was used before may be there twice: whoever can be reached is the one.
    let member = members.iter().filter(|member| *member.name == *name).min_by_key(|member| member.state as u8);
    let Some(member) = member else { return Outcome::critical(format!("no member {name} is known")) };
    let state = member.state;
    let Some(id) = instance else {
        let output = format!("member {name} is {}", state.as_str());
        return if state == MemberState::Reachable { Outcome::passing(output) } else { Outcome::critical(output) };
    };
    if state != MemberState::Reachable {
        return Outcome::critical(format!("member {name} is {}", state.as_str()));
    }
    let services = registry.services();
    let mut offered = services.iter().flat_map(|service| service.all());
    let found = offered.find(|one| one.member.peer.id == member.peer.id && one.instance.id.as_str() == id);
    judge(id, found.map(|found| &found.instance.status))
}

fn judge(id: &str, status: Option<&Status>) -> Outcome {
    let level = match status {
        Some(Status::Passing) => Level::Passing,
        Some(Status::Warning) => Level::Warning,
        Some(_) | None => Level::Critical,
    };
    let is = status.map_or_else(|| "not registered".to_owned(), ToString::to_string);
    Outcome::new(level, format!("instance {id} is {is}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_begin_at_once_run_spread_over_their_interval() {
        let interval = Duration::from_secs(10);
        let mut seconds = [0; 10];
        for n in 0..10_000 {
            let (first, second) = spread(&format!("service:web-{n}"), n, interval);
            assert!(first <= FIRST_WITHIN && second <= interval, "a failure would be known too late");
            seconds[(first + second).as_secs() as usize % 10] += 1;
        }
        // From 5 to 11 s after the start, in the long run by 10 s.
        assert!(seconds.iter().filter(|count| **count > 500).count() >= 6, "{seconds:?}");
    }
}
