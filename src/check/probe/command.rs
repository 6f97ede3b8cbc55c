//! A command: 0 is passing, 1 a warning, all else critical.

use super::{Fault, NotRun};
use crate::check::command::{self, Printed, Rest};
use crate::check::{CommandLine, OUTPUT_BYTES_MAX, Outcome};

pub(super) async fn run(line: &CommandLine) -> Result<Outcome, NotRun> {
    let mut printed = Printed::first(OUTPUT_BYTES_MAX);
    match command::run(&line.program, &line.args, Rest::Ends, &mut printed).await {
        Ok(status) => {
            let output = printed.text().trim_end().to_owned();
            Ok(match status.code() {
                Some(0) => Outcome::passing(output),
                Some(1) => Outcome::warning(output),
                _ => Outcome::critical(format!("{status}: {output}")),
            })
        }
        Err(error) => Fault::of(&error).outcome(&line.program),
    }
}
