//! The `tidings` command: parses its arguments, runs, and turns the result into an exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(&std::env::args_os().collect::<Vec<_>>()).into()
}
