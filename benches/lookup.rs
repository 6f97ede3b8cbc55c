//! One lookup among 1,000 services of 10 instances: alone, and beside a writer that changes 1,000 records a second.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tidings::effect::Event;
use tidings::peer::NodeId;
use tidings::view::{Reader, View};

use filled::{instance, view_of};

mod filled;

const SERVICES: usize = 1_000;
const INSTANCES: u64 = 10;

/// Ten changes each hundredth of a second are 1,000 a second.
const TICK: Duration = Duration::from_millis(10);
const CHANGES_PER_TICK: usize = 10;

fn name(service: usize) -> String {
    format!("service-{service}")
}

/// Changes one record after another, each published alone, until the channel closes; gives how many it changed.
fn change(mut view: View, until: &std::sync::mpsc::Receiver<()>) -> usize {
    let mut changes = 0;
    while let Err(RecvTimeoutError::Timeout) = until.recv_timeout(TICK) {
        for _ in 0..CHANGES_PER_TICK {
            let (service, owner) = (changes % SERVICES, (changes / SERVICES) as u64 % INSTANCES);
            let (before, after) = (instance(service, owner, 1), instance(service, owner, changes as u32 % 100));
            view.apply(&Event::ServiceChanged { owner: NodeId(owner), before, instance: after });
            black_box(view.publish());
            changes += 1;
        }
    }
    changes
}

fn measure(criterion: &mut Criterion, with: &str, reader: &Reader) {
    let names: Vec<String> = (0..SERVICES).map(name).collect();
    // A stride without a common factor visits every service, and not in the order of memory.
    let mut walk = (0..).map(|n: usize| &names[n * 389 % SERVICES]);
    let mut group = criterion.benchmark_group(with);
    let mut next = || walk.next().expect("it never ends");
    group.bench_function("lookup", |b| b.iter(|| reader.lookup(black_box(next())).expect("it is healthy")));
    group.bench_function("read", |b| {
        b.iter(|| reader.read(black_box(next()), |service| service.healthy().len()).expect("it is healthy"));
    });
    group.bench_function("lookup_the_same", |b| {
        b.iter(|| reader.lookup(black_box("service-500")).expect("it is healthy"));
    });
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let view = view_of(SERVICES, INSTANCES);
    let reader = view.reader();
    measure(criterion, "idle", &reader);
    let (stop, until) = channel();
    let writer = std::thread::spawn(move || change(view, &until));
    measure(criterion, "beside_1000_changes_a_second", &reader);
    drop(stop);
    let changes = writer.join().expect("the writer does not panic");
    println!("the writer made {changes} changes");
}

fn publish(criterion: &mut Criterion) {
    let mut view = view_of(SERVICES, INSTANCES);
    let mut weights = (0..100_u32).cycle();
    criterion.bench_function("publish_one_change", |b| {
        b.iter(|| {
            let instance = instance(500, 5, weights.next().expect("it never ends"));
            view.apply(&Event::ServiceChanged { owner: NodeId(5), before: Arc::clone(&instance), instance });
            view.publish()
        });
    });
}

criterion_group!(benches, lookup, publish);
criterion_main!(benches);
