//! What a call pays: lookup, pick and outcome among 1,000 services of 10 instances; each balancer at 10, 100 and 1,000
//! instances; and two readers beside a writer that changes 1,000 records a second.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tidings::effect::Event;
use tidings::peer::NodeId;
use tidings::select::balance::Named;
use tidings::select::{Call, Outcome, Picker};
use tidings::view::View;

use filled::{instance, view_of};

mod filled;

const SERVICES: usize = 1_000;
const INSTANCES: u64 = 10;
const CHANGES_PER_SECOND: u32 = 1_000;

fn pickers(view: &View) -> Vec<Picker> {
    (0..SERVICES).map(|service| Picker::new(view.reader(), &format!("service-{service}"))).collect()
}

fn call(picker: &Picker) {
    let pick = picker.pick().expect("it is healthy");
    black_box(&pick).candidate();
    pick.finish(Outcome::Succeeded);
}

/// A stride without a common factor visits every service, and not in the order of memory.
fn walk<'p>(pickers: &'p [Picker]) -> impl FnMut() -> &'p Picker {
    let mut n = 0_usize;
    move || {
        n += 1;
        &pickers[n * 389 % SERVICES]
    }
}

fn path(criterion: &mut Criterion) {
    let view = view_of(SERVICES, INSTANCES);
    let pickers = pickers(&view);
    pickers.iter().for_each(call);
    let mut group = criterion.benchmark_group("lookup_pick_outcome");
    let mut next = walk(&pickers);
    group.bench_function("of_1000_services", |b| b.iter(|| call(next())));
    group.bench_function("of_one_service", |b| b.iter(|| call(&pickers[500])));
    let now = pickers[0].clock().now();
    let told = Call::new();
    group.bench_function("of_one_service_told_the_time", |b| {
        b.iter(|| {
            let pick = pickers[500].pick_at(black_box(&told), now).expect("it is healthy");
            pick.finish_at(Outcome::Succeeded, now);
        });
    });
    group.bench_function("the_clock_twice", |b| b.iter(|| (pickers[0].clock().now(), pickers[0].clock().now())));
    group.finish();
}

fn balancers(criterion: &mut Criterion) {
    for n in [10, 100, 1_000] {
        let view = view_of(1, n);
        let mut group = criterion.benchmark_group("balancer");
        for name in Named::all() {
            let picker = Picker::new(view.reader(), "service-0").with_balancer(name.balancer());
            let (now, keyed) = (picker.clock().now(), Call::by_key(b"customer-4711"));
            group.bench_function(BenchmarkId::new(name.as_str(), n), |b| {
                b.iter(|| {
                    let pick = picker.pick_at(black_box(&keyed), now).expect("it is healthy");
                    pick.finish_at(Outcome::Succeeded, now);
                });
            });
        }
        group.finish();
    }
}

/// What a change costs the first call after it.
fn follow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("follow_one_change");
    for (name, n) in [("ewma", 10), ("ewma", 1_000), ("maglev", 10), ("maglev", 1_000)] {
        let mut view = view_of(1, n);
        let balancer = name.parse::<Named>().expect("a balancer").balancer();
        let picker = Picker::new(view.reader(), "service-0").with_balancer(balancer);
        let mut weights = (1..100_u32).cycle();
        group.bench_function(BenchmarkId::new(name, n), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let instance = instance(0, 5, weights.next().expect("it never ends"));
                    view.apply(&Event::ServiceChanged { owner: NodeId(5), before: Arc::clone(&instance), instance });
                    view.publish();
                    let start = now();
                    call(&picker);
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// How long the readers go on in each round.
const ROUND: Duration = Duration::from_secs(2);

/// The p50, p99 and p99.9 of calls by two threads, in nanoseconds, and how many they made. Each call reads the clock
/// once more, which is part of its time.
fn read(pickers: &[Picker], is_over: &AtomicBool) -> (usize, [u64; 3]) {
    let mut all: Vec<u64> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut next = walk(pickers);
                    let mut times = Vec::with_capacity(1 << 24);
                    let end = now() + ROUND;
                    let mut before = now();
                    while before < end && times.len() < times.capacity() {
                        call(next());
                        let after = now();
                        times.push((after - before).as_nanos() as u64);
                        before = after;
                    }
                    times
                })
            })
            .collect();
        readers.into_iter().flat_map(|reader| reader.join().expect("a reader does not panic")).collect()
    });
    is_over.store(true, Ordering::Relaxed);
    all.sort_unstable();
    let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
    (all.len(), [at(0.5), at(0.99), at(0.999)])
}

/// Two readers of their own, then the same beside a writer. Printed, not sampled: a percentile is not a mean.
fn beside_a_writer(_: &mut Criterion) {
    let mut view = view_of(SERVICES, INSTANCES);
    let pickers = pickers(&view);
    pickers.iter().for_each(call);
    for round in 1..=3 {
        let (calls, alone) = read(&pickers, &AtomicBool::new(false));
        let is_over = AtomicBool::new(false);
        let mut changes = 0_u32;
        let (calls_beside, beside) = std::thread::scope(|scope| {
            let readers = scope.spawn(|| read(&pickers, &is_over));
            let start = now();
            while !is_over.load(Ordering::Relaxed) {
                let due = start + Duration::from_secs(1) * changes / CHANGES_PER_SECOND;
                std::thread::park_timeout(due.saturating_duration_since(now()));
                let (service, owner) = (changes as usize % SERVICES, u64::from(changes) / SERVICES as u64 % INSTANCES);
                let (before, after) = (instance(service, owner, 1), instance(service, owner, 1 + changes % 100));
                view.apply(&Event::ServiceChanged { owner: NodeId(owner), before, instance: after });
                black_box(view.publish());
                changes += 1;
            }
            readers.join().expect("readers do not panic")
        });
        println!("round {round}: two readers alone: {calls} calls, p50 p99 p99.9 = {alone:?} ns");
        println!("round {round}: beside {changes} changes: {calls_beside} calls, p50 p99 p99.9 = {beside:?} ns");
    }
}

criterion_group!(benches, path, balancers, follow, beside_a_writer);
criterion_main!(benches);
