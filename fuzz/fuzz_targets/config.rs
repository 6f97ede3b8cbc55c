//! The configuration file. Its reader belongs to the command line, so the sources of that are compiled in.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/cli/mod.rs"]
mod cli;

libfuzzer_sys::fuzz_target!(|text: &str| {
    cli::reads_config(text);
});
