//! The `tidings` command: parses its arguments, runs, and turns the result into an exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse()).into()
}
