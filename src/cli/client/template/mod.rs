//! `tidings template`: files made from what an agent knows, made anew when that changes, and a command run after each
//! change. Level-triggered: an event only says that something is another, and what is rendered is always read whole.

mod command;
mod place;
mod render;
mod scene;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::exit::{Exit, Failure};
use super::super::output::Output;
use super::super::signals::{Hangup, Signals};
use super::super::{jsonl, parse_span};
use super::http::{Api, ApiArgs};
use scene::Scene;

/// Templates of one command line.
const TEMPLATES_MAX: usize = 64;

/// Everything is read again after this time even if nothing is told: no event that is lost is lost for ever.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often an agent that is not sure of what it knows is asked again.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// The pauses before an agent is asked again that did not answer.
const AGENT_PAUSE: Pause = Pause { first: Duration::from_millis(250), last: Duration::from_secs(10) };

/// The pauses before a command that failed, or a file that could not be written, is tried again.
const RETRY_PAUSE: Pause = Pause { first: Duration::from_secs(1), last: Duration::from_secs(60) };

/// The target of every line that is logged here.
const LOG: &str = "tidings::template";

const EXAMPLES: &str = "\
Examples:
  tidings template upstreams.conf.j2:/etc/nginx/conf.d/upstreams.conf:'systemctl reload nginx'
  tidings template hosts.j2:/etc/hosts.d/tidings haproxy.cfg.j2:/etc/haproxy/haproxy.cfg:'systemctl reload haproxy'
  tidings template upstreams.conf.j2:upstreams.conf --dry

A template is written as for Jinja:
  upstream web {
  {% for i in instances('web', tag='v2') %}
      server {{ i.address }} weight={{ i.weight }};
  {% endfor %}
  }

instances(service, tag=, zone=, healthy=), services(tag=), members(state=, zone=), zones(), env(name, default=) and
fail(text) give what there is; docs/template.md tells of each. Line breaks after a block are left out. COMMAND is run
without a shell, only after FILE came out otherwise than OUT is; the same command once for several files. While the
agent does not answer, has not joined or is cut off, while a template is wrong, and while it calls fail(), the last file
stays. SIGHUP reads the templates anew.";

/// Make files from what the agent knows, again at every change, and run a command after each.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    /// The template, the file that is made of it, and, if wanted, what to run when it is another; repeatable
    #[arg(value_name = "FILE:OUT[:COMMAND]", required = true, num_args = 1..=TEMPLATES_MAX)]
    templates: Vec<Spec>,

    /// Make each file once, run the commands of those that changed, and end
    #[arg(long)]
    once: bool,

    /// Print what would be written; write and run nothing
    #[arg(long)]
    dry: bool,

    /// With --once and --dry: how long to wait for an agent that is sure of what it knows
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_span)]
    within: Duration,

    /// How long nothing has to change before the files are made
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_span)]
    settle: Duration,

    /// How long they wait for that at the most
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_span)]
    settle_max: Duration,

    /// How long a command may take; then it is killed, with all that it started, and has failed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_span)]
    command_timeout: Duration,

    // The last: whatever follows would stand below its heading.
    #[command(flatten)]
    api: ApiArgs,
}

/// What is made of what.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Spec {
    file: PathBuf,
    out: PathBuf,
    /// The program and its arguments; nothing is run without.
    command: Vec<String>,
}

impl std::str::FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let (file, out, command) = (parts.next(), parts.next(), parts.next());
        let (Some(file), Some(out)) = (file.filter(|file| !file.is_empty()), out.filter(|out| !out.is_empty())) else {
            return Err("FILE:OUT or FILE:OUT:COMMAND is meant".to_owned());
        };
        if file == out {
            return Err("a file cannot be made of itself".to_owned());
        }
        let command = match command {
            None => Vec::new(),
            Some(line) => match shell_words::split(line) {
                Ok(words) if !words.is_empty() => words,
                Ok(_) => return Err("there is no command after the second colon".to_owned()),
                Err(_) => return Err("a quote in the command is not closed".to_owned()),
            },
        };
        Ok(Self { file: file.into(), out: out.into(), command })
    }
}

/// Pauses that become longer.
#[derive(Clone, Copy, Debug)]
struct Pause {
    first: Duration,
    last: Duration,
}

impl Pause {
    /// The pause after so many failures in a row, of which there is one at least.
    fn after(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(self.last)
    }
}

/// A template, and what is still to be done for it.
#[derive(Debug)]
struct Job {
    spec: Spec,
    /// Whether the file is newer than the last run of the command that went well.
    is_due: bool,
    /// How often in a row it failed, and when it is tried again.
    failures: u32,
    again: Option<Instant>,
    /// What was said last of what is wrong, so that it is said once.
    trouble: Option<String>,
}

impl Job {
    fn failed(&mut self, trouble: String) {
        self.failures = self.failures.saturating_add(1);
        let pause = RETRY_PAUSE.after(self.failures);
        self.again = Some(Instant::now() + pause);
        tracing::warn!(target: LOG, "{trouble}; next try in {pause:?}");
        self.trouble = Some(trouble);
    }

    fn is_well(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(target: LOG, "{} is made again", self.spec.out.display());
        }
        (self.failures, self.again) = (0, None);
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Failure> {
    check(&args)?;
    let signals = Signals::install();
    let signals = signals.map_err(|error| Failure::new(Exit::Failed, format!("signals cannot be caught: {error}")))?;
    let hangup = Hangup::install();
    let hangup = hangup.map_err(|error| Failure::new(Exit::Failed, format!("signals cannot be caught: {error}")))?;
    let news = watch::Sender::new(0);
    let api = Api::of(&args.api)?;
    let jobs = args.templates.iter().cloned();
    let jobs = jobs.map(|spec| Job { spec, is_due: false, failures: 0, again: None, trouble: None }).collect();
    let mut desk =
        Desk { output, jobs, news: news.subscribe(), ending: ending(signals), is_first: true, api: args.api.clone() };
    if args.once || args.dry {
        return desk.once(&args, &api).await;
    }
    let _listening = Task(tokio::spawn(listen(args.api.clone(), news, hangup)));
    desk.go_on(&args, api).await
}

/// What cannot come right by waiting: names that meet, and templates that cannot be read.
fn check(args: &Args) -> Result<(), Failure> {
    if args.settle_max < args.settle {
        return Err(Failure::new(Exit::Usage, "--settle-max is shorter than --settle"));
    }
    let mut outs = BTreeMap::new();
    for spec in &args.templates {
        if let Some(other) = outs.insert(&spec.out, &spec.file) {
            let (out, file) = (spec.out.display(), spec.file.display());
            return Err(Failure::new(Exit::Usage, format!("{out} would be made of {} and of {file}", other.display())));
        }
        render::check(&spec.file).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    }
    Ok(())
}

/// Becomes true with the first signal to end; the second ends the process at once.
fn ending(mut signals: Signals) -> watch::Receiver<bool> {
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        signals.next().await;
        tell.send_replace(true);
        signals.exit_at_next();
    });
    told
}

/// A task that ends when nobody needs it any more.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Says whenever something may be another: an event came, the agent can be heard again, or somebody asked for it.
async fn listen(args: ApiArgs, news: watch::Sender<u64>, mut hangup: Hangup) {
    let tell = || news.send_modify(|count| *count += 1);
    let heard = async {
        let mut failures = 0;
        loop {
            // Anew each time: the token may be another by now.
            let ended = match Api::of(&args) {
                Ok(api) => hear(&api, &tell, &mut failures).await,
                Err(failure) => failure,
            };
            failures += 1;
            tracing::debug!(target: LOG, %ended, "no events are heard");
            sleep(AGENT_PAUSE.after(failures)).await;
        }
    };
    let asked = async {
        loop {
            hangup.next().await;
            tell();
        }
    };
    tokio::join!(heard, asked);
}

/// Hears events until the stream ends; why it did.
async fn hear(api: &Api, tell: &impl Fn(), failures: &mut u32) -> Failure {
    let mut events = match api.events("/v2/events").await {
        Ok(events) => events,
        Err(failure) => return failure,
    };
    *failures = 0;
    // Whatever happened while nobody listened is read now.
    tell();
    loop {
        match events.next().await {
            Ok(_) => tell(),
            Err(failure) => return failure,
        }
    }
}

/// Why nothing could be read, or not be relied on.
enum Doubt {
    /// The agent gave no answer.
    Failed(Failure),
    /// It has not joined yet, is cut off, or has stopped.
    Unsure,
}

async fn look(api: &Api) -> Result<Arc<Scene>, Doubt> {
    let (agent, view) = tokio::join!(api.get("/v2/agent"), api.get("/v2/view"));
    let (agent, view) = (agent.map_err(Doubt::Failed)?, view.map_err(Doubt::Failed)?);
    if view["stale"] == true {
        return Err(Doubt::Unsure);
    }
    Ok(Arc::new(Scene::of(&agent, &view)))
}

/// Makes the files.
struct Desk<'a> {
    output: &'a Output,
    api: ApiArgs,
    jobs: Vec<Job>,
    news: watch::Receiver<u64>,
    ending: watch::Receiver<bool>,
    is_first: bool,
}

impl Desk<'_> {
    async fn once(&mut self, args: &Args, api: &Api) -> Result<(), Failure> {
        let deadline = Instant::now() + args.within;
        let mut failures = 0;
        let scene = loop {
            let last = match look(api).await {
                Ok(scene) => break scene,
                Err(Doubt::Failed(failure)) if failure.exit != Exit::Unreachable && failure.exit != Exit::Timeout => {
                    return Err(failure);
                }
                Err(Doubt::Failed(failure)) => failure,
                Err(Doubt::Unsure) => {
                    let text = format!(
                        "the agent is not sure of what it knows after {:?}: it has not joined, is cut off, or has \
                         stopped; nothing was written; tidings doctor looks further",
                        args.within
                    );
                    Failure::new(Exit::Timeout, text)
                }
            };
            failures += 1;
            let again = Instant::now() + AGENT_PAUSE.after(failures);
            if again >= deadline {
                return Err(last);
            }
            tokio::select! {
                () = sleep_until(again) => {}
                _ = self.ending.wait_for(|is_ending| *is_ending) => return Ok(()),
            }
        };
        if args.dry {
            return self.show(&scene).await;
        }
        self.make(&scene).await;
        self.run_due(args).await;
        match self.jobs.iter().find_map(|job| job.trouble.clone()) {
            None => Ok(()),
            Some(trouble) => Err(Failure::new(Exit::Failed, trouble)),
        }
    }

    async fn show(&self, scene: &Arc<Scene>) -> Result<(), Failure> {
        for job in &self.jobs {
            let Spec { file, out, .. } = &job.spec;
            let rendered = render::render(file, scene);
            let rendered = rendered.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            if self.jobs.len() > 1 {
                // Beside the data, which may go into a file.
                eprintln!("# {}", out.display());
            }
            let text = String::from_utf8_lossy(&rendered).into_owned();
            if self.output.text(text).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Until a signal ends it.
    async fn go_on(&mut self, args: &Args, mut api: Api) -> Result<(), Failure> {
        let mut failures = 0;
        let mut trouble = None;
        // The first look is at once; then something has to happen.
        let mut next = Some(Instant::now());
        loop {
            if !self.wait(args, next).await {
                return Ok(());
            }
            // What is told from here on is not in what is read.
            self.news.mark_unchanged();
            let looked = tokio::select! {
                looked = look(&api) => looked,
                _ = self.ending.wait_for(|is_ending| *is_ending) => return Ok(()),
            };
            let now = Instant::now();
            next = match looked {
                Ok(scene) => {
                    if trouble.take().is_some() {
                        tracing::info!(target: LOG, "the agent is sure of what it knows again");
                    }
                    failures = 0;
                    self.make(&scene).await;
                    self.run_due(args).await;
                    self.tell_ready();
                    Some(Instant::now() + LOOK_EVERY)
                }
                Err(Doubt::Unsure) => {
                    self.run_without(args).await;
                    self.say_once(&mut trouble, "the agent has not joined yet, is cut off, or has stopped");
                    Some(now + DOUBT_PAUSE)
                }
                // A token that is wrong from the start will not come right.
                Err(Doubt::Failed(failure)) if self.is_first && is_final(failure.exit) => return Err(failure),
                Err(Doubt::Failed(failure)) => {
                    failures += 1;
                    self.run_without(args).await;
                    self.say_once(&mut trouble, &failure.to_string());
                    api = Api::of(&self.api).unwrap_or(api);
                    Some(now + AGENT_PAUSE.after(failures))
                }
            };
        }
    }

    fn say_once(&self, said: &mut Option<String>, text: &str) {
        if said.as_deref() != Some(text) {
            tracing::warn!(target: LOG, "{text}; the files stay as they are");
            *said = Some(text.to_owned());
        }
    }

    /// Until it is time to look again: something happened and has settled, or the time has come. False if it is to end.
    async fn wait(&mut self, args: &Args, next: Option<Instant>) -> bool {
        let again = self.jobs.iter().filter_map(|job| job.again).chain(next).min();
        let again = again.unwrap_or_else(|| Instant::now() + LOOK_EVERY);
        tokio::select! {
            biased;
            _ = self.ending.wait_for(|is_ending| *is_ending) => return false,
            // Without its sender it is only looked from time to time.
            Ok(()) = self.news.changed() => {}
            () = sleep_until(again) => return true,
        }
        tokio::select! {
            _ = self.ending.wait_for(|is_ending| *is_ending) => false,
            () = settle(&mut self.news, args.settle, args.settle_max) => true,
        }
    }

    /// Makes every file that came out otherwise than it is.
    async fn make(&mut self, scene: &Arc<Scene>) {
        for job in &mut self.jobs {
            let rendered = match render::render(&job.spec.file, scene) {
                Ok(rendered) => rendered,
                Err(error) => {
                    let trouble = error.to_string();
                    // It comes right with what is known, or with the template, and both are looked at then.
                    if job.trouble.as_ref() != Some(&trouble) {
                        tracing::warn!(target: LOG, "{trouble}; {} stays as it is", job.spec.out.display());
                    }
                    job.trouble = Some(trouble);
                    continue;
                }
            };
            match place::put(&job.spec.out, &rendered) {
                Ok(false) if job.is_due => {}
                Ok(false) => job.is_well(),
                Ok(true) => {
                    job.is_due = !job.spec.command.is_empty();
                    job.is_well();
                    let text = format!("{} wrote {}, {} bytes", jsonl::now(), job.spec.out.display(), rendered.len());
                    // Nobody may be left to read it.
                    let _ = self.output.line(text).await;
                }
                Err(error) => {
                    if job.again.is_none_or(|again| again <= Instant::now()) {
                        job.failed(format!("{}: {error}", job.spec.out.display()));
                    }
                }
            }
        }
    }

    /// Runs what is due, each command once.
    async fn run_due(&mut self, args: &Args) {
        let now = Instant::now();
        let is_due = |job: &&Job| job.is_due && job.again.is_none_or(|again| again <= now);
        let mut due = Vec::<Vec<String>>::new();
        for job in self.jobs.iter().filter(is_due) {
            if !due.contains(&job.spec.command) {
                due.push(job.spec.command.clone());
            }
        }
        for command in due {
            let line = shell_words::join(&command);
            let began = Instant::now();
            let ended = command::run(&command, args.command_timeout).await;
            let took = began.elapsed().as_millis();
            if ended.is_ok() {
                let _ = self.output.line(format!("{} ran {line} in {took} ms", jsonl::now())).await;
            }
            for job in self.jobs.iter_mut().filter(|job| job.is_due && job.spec.command == command) {
                match &ended {
                    Ok(()) => {
                        job.is_due = false;
                        job.is_well();
                    }
                    Err(why) => job.failed(format!("{line}: {why}")),
                }
            }
            if *self.ending.borrow() {
                return;
            }
        }
    }

    /// While nothing is known: commands of files that were made before still have to be run.
    async fn run_without(&mut self, args: &Args) {
        self.run_due(args).await;
        let now = Instant::now();
        for job in self.jobs.iter_mut().filter(|job| job.again.is_some_and(|again| again <= now)) {
            // A file is tried again with what is known next.
            job.again = None;
        }
    }

    /// Tells the service manager, where there is one, once every file was looked at.
    fn tell_ready(&mut self) {
        if std::mem::take(&mut self.is_first) && std::env::var_os("NOTIFY_SOCKET").is_some() {
            let status = format!("{} files", self.jobs.len());
            if let Err(error) = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]) {
                tracing::warn!(target: LOG, "the service manager cannot be told: {error}");
            }
        }
    }
}

/// Whether there is no use in asking again.
fn is_final(exit: Exit) -> bool {
    matches!(exit, Exit::Usage | Exit::Refused | Exit::NotFound)
}

/// Waits until nothing happened for a while, but not for ever.
async fn settle(news: &mut watch::Receiver<u64>, quiet: Duration, longest: Duration) {
    let deadline = Instant::now() + longest;
    loop {
        let calm = (Instant::now() + quiet).min(deadline);
        tokio::select! {
            biased;
            () = sleep_until(calm) => return,
            changed = news.changed() => if changed.is_err() {
                return sleep_until(calm).await;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_names_its_file_and_perhaps_a_command() {
        let spec = |text: &str| text.parse::<Spec>();
        let whole = spec("a.j2:/etc/x.conf:sh -c 'a:b; c'").expect("it is whole");
        assert_eq!((whole.file, whole.out), ("a.j2".into(), "/etc/x.conf".into()));
        assert_eq!(whole.command, ["sh", "-c", "a:b; c"]);
        assert!(spec("a.j2:x").expect("a command need not be").command.is_empty());
        for wrong in ["", "a.j2", "a.j2:", ":x", "x:x", "a:b:", "a:b:'open"] {
            assert!(spec(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_last() {
        let pauses = [1, 2, 3, 6, 7, 400].map(|failures| RETRY_PAUSE.after(failures).as_secs());
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_in_a_row_are_taken_together_but_not_for_ever() {
        let (quiet, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        let took = async |every: Duration, times: u32| {
            let (tell, mut told) = watch::channel(0_u64);
            let began = Instant::now();
            let telling = tokio::spawn(async move {
                let mut ticks = tokio::time::interval(every);
                for _ in 0..times {
                    ticks.tick().await;
                    tell.send_modify(|count| *count += 1);
                }
                std::future::pending::<()>().await;
            });
            settle(&mut told, quiet, longest).await;
            telling.abort();
            began.elapsed()
        };
        let none = took(Duration::from_millis(1), 0).await;
        assert!((100..110).contains(&none.as_millis()), "nothing more happens: {none:?}");
        let five = took(Duration::from_millis(50), 5).await;
        assert!((300..310).contains(&five.as_millis()), "the last of five after 200 ms, and quiet: {five:?}");
        let many = took(Duration::from_millis(50), 1_000).await;
        assert!((2_000..2_010).contains(&many.as_millis()), "it does not end by itself: {many:?}");
    }

    #[test]
    fn a_template_that_cannot_be_read_ends_it_before_anything_is_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("x.j2");
        std::fs::write(&file, "one\n{% for x in %}\n").expect("it can be written");
        let error = render::check(&file).expect_err("it is wrong").to_string();
        assert!(error.contains("x.j2:2"), "{error}");
        assert!(render::check(&dir.path().join("none.j2")).is_err());
    }
}
