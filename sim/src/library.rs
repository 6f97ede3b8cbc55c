//! The scenarios that come with the simulator, by name: each file of `scenarios/` is a page to read.

use crate::scenario::{Scenario, ScenarioError, about};

/// Every scenario of the library: its name and its text.
pub const LIBRARY: &[(&str, &str)] = &[
    ("address-reused", include_str!("../scenarios/address-reused.toml")),
    ("blocked-nodes", include_str!("../scenarios/blocked-nodes.toml")),
    ("bursty-mobile", include_str!("../scenarios/bursty-mobile.toml")),
    ("canary", include_str!("../scenarios/canary.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    ("clock-steps", include_str!("../scenarios/clock-steps.toml")),
    ("cold-start-2000", include_str!("../scenarios/cold-start-2000.toml")),
    ("crashes", include_str!("../scenarios/crashes.toml")),
    ("day-long-partition", include_str!("../scenarios/day-long-partition.toml")),
    ("dead-deaf-lossy", include_str!("../scenarios/dead-deaf-lossy.toml")),
    ("deaf-pair", include_str!("../scenarios/deaf-pair.toml")),
    ("disk-full", include_str!("../scenarios/disk-full.toml")),
    ("drains", include_str!("../scenarios/drains.toml")),
    ("duplicate-and-reorder", include_str!("../scenarios/duplicate-and-reorder.toml")),
    ("flip-flop", include_str!("../scenarios/flip-flop.toml")),
    ("freeze", include_str!("../scenarios/freeze.toml")),
    ("half-split", include_str!("../scenarios/half-split.toml")),
    ("halves-serve", include_str!("../scenarios/halves-serve.toml")),
    ("heavy-loss", include_str!("../scenarios/heavy-loss.toml")),
    ("isolated-and-returned", include_str!("../scenarios/isolated-and-returned.toml")),
    ("isolated-and-returned-foca", include_str!("../scenarios/isolated-and-returned-foca.toml")),
    ("large-records", include_str!("../scenarios/large-records.toml")),
    ("leave-and-join", include_str!("../scenarios/leave-and-join.toml")),
    ("long-stalls", include_str!("../scenarios/long-stalls.toml")),
    ("lossy-one-percent", include_str!("../scenarios/lossy-one-percent.toml")),
    ("mass-drop", include_str!("../scenarios/mass-drop.toml")),
    ("mass-registration", include_str!("../scenarios/mass-registration.toml")),
    ("one-link-cut", include_str!("../scenarios/one-link-cut.toml")),
    ("one-way-cut", include_str!("../scenarios/one-way-cut.toml")),
    ("quiet", include_str!("../scenarios/quiet.toml")),
    ("region-loss", include_str!("../scenarios/region-loss.toml")),
    ("region-split", include_str!("../scenarios/region-split.toml")),
    ("replaced-at-once", include_str!("../scenarios/replaced-at-once.toml")),
    ("restart-storm", include_str!("../scenarios/restart-storm.toml")),
    ("rolling-restart", include_str!("../scenarios/rolling-restart.toml")),
    ("scale-to-zero", include_str!("../scenarios/scale-to-zero.toml")),
    ("seeds-dead", include_str!("../scenarios/seeds-dead.toml")),
    ("semi-detached", include_str!("../scenarios/semi-detached.toml")),
    ("short-split", include_str!("../scenarios/short-split.toml")),
    ("single-crash", include_str!("../scenarios/single-crash.toml")),
    ("slow-nodes", include_str!("../scenarios/slow-nodes.toml")),
    ("split-again", include_str!("../scenarios/split-again.toml")),
    ("steady-loss", include_str!("../scenarios/steady-loss.toml")),
    ("start-up-split", include_str!("../scenarios/start-up-split.toml")),
    ("ten-crashes-of-1000", include_str!("../scenarios/ten-crashes-of-1000.toml")),
    ("three-two-split", include_str!("../scenarios/three-two-split.toml")),
    ("throttled", include_str!("../scenarios/throttled.toml")),
];

/// The text of a scenario of the library.
pub fn text(name: &str) -> Option<&'static str> {
    LIBRARY.iter().find(|(other, _)| *other == name).map(|(_, text)| *text)
}

/// A scenario of the library.
///
/// # Errors
/// What is wrong with its file, or that there is none of that name.
pub fn scenario(name: &str) -> Result<Scenario, ScenarioError> {
    let text = text(name).ok_or_else(|| ScenarioError {
        origin: name.to_owned(),
        line: 0,
        what: "there is no such scenario; `tidings-sim list` shows all".to_owned(),
    })?;
    Scenario::parse(text, name)
}

/// The library as a list for people: names, what each shows, and which are known to fail.
pub fn listing() -> String {
    let mut listing = String::new();
    for (name, text) in LIBRARY {
        let known = scenario(name).ok().and_then(|scenario| scenario.known_to_fail);
        let known = known.map(|why| format!(" (known to fail: {why})")).unwrap_or_default();
        listing += &format!("{name:<28} {}{known}\n", about(text));
    }
    listing
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_in_the_library_and_says_what_a_reader_should_see() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files: BTreeSet<String> = fs::read_dir(dir)
            .expect("the directory is there")
            .map(|entry| entry.expect("entries can be read").file_name().to_string_lossy().into_owned())
            .collect();
        let listed: BTreeSet<String> = LIBRARY.iter().map(|(name, _)| format!("{name}.toml")).collect();
        assert_eq!(files, listed);
        for (name, text) in LIBRARY {
            scenario(name).unwrap_or_else(|error| panic!("{error}"));
            assert!(about(text).contains("You should see"), "{name} does not say what a reader should see");
        }
    }
}
