//! Runs the command of a template to its end, within a time, and tells in its own words why it failed. Knows nothing of
//! templates.

use std::time::Duration;

use tidings::check::command::{self, Printed, Rest};

/// Bytes of what it printed that are told when it failed: the last ones.
const WORDS_MAX: usize = 1_024;

/// Why a command failed, in words; and, where there are any, its own.
pub(super) async fn run(words: &[String], within: Duration) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("there is no command")?;
    let mut printed = Printed::last(WORDS_MAX);
    let running = command::run(program, arguments, Rest::Stays, &mut printed);
    let why = match tokio::time::timeout(within, running).await {
        Err(_) => format!("it took more than {within:?}, and was killed"),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => status.to_string(),
    };
    let said = printed.text();
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if said.is_empty() { Err(why) } else { Err(format!("{why}: {}", said.join(" | "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn sh(script: &str, within: Duration) -> Result<(), String> {
        run(&["sh", "-c", script].map(str::to_owned), within).await
    }

    #[tokio::test]
    async fn a_failure_says_why_in_the_commands_own_words() {
        assert_eq!(sh("echo fine", PATIENCE).await, Ok(()));
        let why = sh("echo one; echo 'no such upstream' >&2; exit 3", PATIENCE).await.unwrap_err();
        assert!(why.contains("exit status: 3") && why.contains("no such upstream"), "{why}");
        assert!(run(&["/no/such/command".to_owned()], PATIENCE).await.is_err());
        let much = sh("yes | head -c 100000; exit 1", PATIENCE).await.unwrap_err();
        assert!(much.len() < 3 * WORDS_MAX, "only the end is kept");
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pipe = dir.path().join("pipe");
        let path = pipe.to_string_lossy().into_owned();
        assert_eq!(run(&["mkfifo".to_owned(), path.clone()], PATIENCE).await, Ok(()));
        // Both hold the pipe open for writing: it ends for a reader only when both are gone.
        let reader = tokio::task::spawn_blocking(move || std::fs::read(pipe));
        let began = tokio::time::Instant::now();
        let script = format!("exec 9>'{path}'; sleep 60 & sleep 60");
        let why = sh(&script, Duration::from_millis(500)).await.unwrap_err();
        assert!(why.contains("took more than"), "{why}");
        let read = tokio::time::timeout(PATIENCE, reader).await.expect("none of them is left");
        assert!(read.expect("it reads").is_ok() && began.elapsed() < PATIENCE);
    }
}
