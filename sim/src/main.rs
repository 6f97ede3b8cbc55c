//! The `tidings-sim` command: runs an experiment over many seeds and says whether its targets are met.

use std::io::{self, Write};
use std::process::ExitCode;

use tidings_sim::experiment::{ALL, Experiment};
use tidings_sim::report::{Summary, run_seed, run_seeds};

/// How many seeds run unless told.
const SEEDS_DEFAULT: u64 = 20;

/// What the command line asks for.
struct Order {
    experiments: Vec<&'static Experiment>,
    from: u64,
    seeds: u64,
    is_traced: bool,
}

fn main() -> ExitCode {
    let order = match parse(std::env::args().skip(1)) {
        Ok(Some(order)) => order,
        Ok(None) => return ended(write!(io::stdout(), "{}", usage()), true),
        Err(what) => {
            eprintln!("tidings-sim: {what}\n\n{}", usage());
            return ExitCode::from(2);
        }
    };
    let mut all_pass = true;
    for experiment in &order.experiments {
        match run(experiment, &order) {
            Ok(is_pass) => all_pass &= is_pass,
            Err(error) => return ended(Err(error), all_pass),
        }
    }
    ended(Ok(()), all_pass)
}

/// Prints the seeds, runs them, prints the summary; says whether all is well.
fn run(experiment: &Experiment, order: &Order) -> io::Result<bool> {
    let last = order.from.wrapping_add(order.seeds - 1);
    writeln!(io::stdout(), "{}: seeds {} to {last}\n  {}", experiment.name, order.from, experiment.about)?;
    let summary = if order.is_traced {
        let outcome = run_seed(experiment, order.from, Some(Box::new(io::BufWriter::new(io::stderr()))));
        writeln!(io::stdout(), "  hash {:016x}", outcome.hash)?;
        Summary::new(*experiment, vec![outcome])
    } else {
        run_seeds(experiment, order.from, order.seeds)
    };
    writeln!(io::stdout(), "{summary}")?;
    Ok(summary.is_pass())
}

/// The exit code: a reader who closed the pipe has seen enough, which is no failure.
fn ended(written: io::Result<()>, is_pass: bool) -> ExitCode {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("tidings-sim: cannot write the results: {error}");
            ExitCode::FAILURE
        }
        _ if is_pass => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn usage() -> String {
    let mut text = String::from(
        "usage: tidings-sim <experiment>|all [--seeds N] [--from SEED] [--trace]\n\n\
         --seeds N    how many seeds to run (20)\n\
         --from SEED  the first of them (1)\n\
         --trace      run the first seed only, with a line per event on standard error\n\n\
         Exit code 0: every seed held and every target is met. 1: not so. 2: the command line is wrong.\n\nexperiments:\n",
    );
    for experiment in ALL {
        text += &format!("  {:<12} {}\n", experiment.name, experiment.about);
    }
    text
}

/// Reads the arguments; `None` asks for help.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Order>, String> {
    let mut order = Order { experiments: Vec::new(), from: 1, seeds: SEEDS_DEFAULT, is_traced: false };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--seeds" => order.seeds = number(&arg, args.next())?,
            "--from" => order.from = number(&arg, args.next())?,
            "--trace" => order.is_traced = true,
            "all" => order.experiments.extend(ALL),
            name => match ALL.iter().find(|experiment| experiment.name == name) {
                Some(experiment) => order.experiments.push(experiment),
                None => return Err(format!("there is no experiment or option {name:?}")),
            },
        }
    }
    if order.experiments.is_empty() {
        return Err("which experiment?".to_owned());
    }
    if order.seeds == 0 {
        return Err("--seeds 0 would show nothing; the least is 1".to_owned());
    }
    if order.is_traced {
        order.seeds = 1;
    }
    Ok(Some(order))
}

fn number(option: &str, value: Option<String>) -> Result<u64, String> {
    let value = value.ok_or_else(|| format!("{option} needs a number"))?;
    value.parse().map_err(|_| format!("{option} {value:?} is not a whole number from 0 to {}", u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Option<Order>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_wrong_argument_is_named() {
        for (line, named) in [
            ("", "which experiment"),
            ("nonsense", "\"nonsense\""),
            ("join --seeds", "--seeds needs"),
            ("join --seeds x", "\"x\""),
            ("join --seeds 0", "--seeds 0"),
            ("join --from -1", "\"-1\""),
        ] {
            let error = parse_line(line).err().unwrap_or_else(|| panic!("{line:?} was accepted"));
            assert!(error.contains(named), "{line:?}: {error}");
        }
    }

    #[test]
    fn experiments_and_seeds_are_read_in_any_order() {
        let order = parse_line("--from 7 join --seeds 3 split").expect("well formed").expect("not help");
        assert_eq!((order.from, order.seeds, order.is_traced), (7, 3, false));
        assert_eq!(order.experiments.iter().map(|e| e.name).collect::<Vec<_>>(), ["join", "split"]);
        assert_eq!(parse_line("join --trace --seeds 9").expect("well formed").expect("not help").seeds, 1);
        assert!(parse_line("--help").expect("well formed").is_none());
    }
}
