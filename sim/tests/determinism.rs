//! Equal seeds give equal runs: twice in one process, and in two processes. Every kind of fault is on.

use std::process::Command;

use tidings_sim::fuzz::{Kind, draw};
use tidings_sim::run::{Options, run};

/// Seeds that are compared; most have several kinds of fault, and together they have all.
const SEEDS: u64 = 20;

#[test]
fn a_seed_gives_the_same_run_twice() {
    println!("seeds 1 to {SEEDS}");
    let mut names = std::collections::BTreeSet::new();
    for seed in 1..=SEEDS {
        let scenario = draw(seed, &[]);
        names.extend(scenario.timeline.iter().map(|step| toml::to_string(step.get_ref()).expect("it has a form")));
        let (one, two) = (run(&scenario, seed, Options::default()), run(&scenario, seed, Options::default()));
        assert_eq!(one.hash, two.hash, "seed {seed}");
        assert_eq!(one, two, "seed {seed}");
    }
    let all = names.into_iter().collect::<String>();
    let lasting = ["crash", "leave", "join", "split", "cut", "loss ", "loss_at", "freeze", "block", "isolate", "slow"];
    let rest = ["clock_rate", "clock_step", "disk_full", "churn", "register"];
    let missing: Vec<_> = lasting.iter().chain(&rest).filter(|name| !all.contains(**name)).collect();
    assert!(
        missing.is_empty(),
        "the {} kinds are {:?}, none of these seeds has {missing:?}",
        Kind::ALL.len(),
        Kind::ALL
    );
}

#[test]
fn a_seed_gives_the_same_run_in_another_process() {
    for seed in 1..=3 {
        let scenario = draw(seed, &[]);
        let path = std::env::temp_dir().join(format!("tidings-sim-determinism-{}-{seed}.toml", std::process::id()));
        std::fs::write(&path, scenario.to_toml()).expect("the temporary directory is writable");
        let here = run(&scenario, seed, Options::default());
        let output = Command::new(env!("CARGO_BIN_EXE_tidings-sim"))
            .args(["run", &path.display().to_string(), "--seed", &seed.to_string()])
            .output()
            .expect("the command was built with this test");
        std::fs::remove_file(&path).expect("it was written above");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(&format!("hash {}", here.hash)), "seed {seed}: {} here, there:\n{told}", here.hash);
    }
}
