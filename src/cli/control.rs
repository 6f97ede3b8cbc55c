//! Commands on standard input, one a line: reads and executes them. Answers are JSON lines.

use std::io::{BufRead, BufReader, Read as _};
use std::sync::Arc;
use std::time::Duration;

use tidings::check::{Level, Outcome};
use tidings::door::dns::{DnsCounts, DnsStats};
use tidings::offers::{Existing, Maintenance, Offer, OfferError, Offers, Origin};
use tidings::peer::Member;
use tidings::record::{Instance, Key};
use tidings::registry::{Drained, KeyError, Registry};
use tokio::sync::mpsc;

use super::exit::{Exit, Failure, chain};
use super::jsonl::{self, Me};
use super::keys::{self, KeysCommand};
use super::parse_span;
use super::spec::{self, SpecError, Update};
use super::view::Shown;

/// Bytes of a line; a whole record with every comma escaped fits.
const LINE_BYTES_MAX: usize = 128 * 1024;

/// Lines read ahead while one is executed; whoever writes more waits in the pipe.
const LINES_WAITING_MAX: usize = 64;

const COMMANDS: &[&str] = &[
    "register",
    "offer",
    "update",
    "withdraw",
    "tell",
    "checks",
    "maintenance",
    "drain",
    "leave",
    "view",
    "stats",
    "explain",
    "forget",
    "keys",
];

/// A command, read and understood.
#[derive(Debug)]
enum Command {
    Register(Box<Offer>, Existing),
    Update {
        id: String,
        update: Update,
    },
    Withdraw {
        id: String,
    },
    Tell {
        check: String,
        outcome: Outcome,
    },
    Checks,
    /// Of an instance, or of the member; `None` ends it.
    Maintenance {
        id: Option<String>,
        maintenance: Option<Maintenance>,
    },
    Drain,
    Leave,
    View,
    Stats,
    Explain {
        member: String,
    },
    Forget {
        member: String,
    },
    Keys(KeysCommand),
}

/// Why a line is not executed, or its command failed. The instances are as they were.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("the line has more than {LINE_BYTES_MAX} bytes, which is the limit; it was dropped")]
    LineTooLong,
    #[error("the line is not UTF-8; it was dropped")]
    NotText,
    #[error("unknown command {word:?}{suggestion}; allowed: {}", COMMANDS.join(", "))]
    Unknown { word: String, suggestion: String },
    #[error("{command} takes {takes}")]
    Arguments { command: &'static str, takes: &'static str },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("no instance {id:?} is registered here; registered are: {known}")]
    NoInstance { id: String, known: String },
    #[error("no member {name:?} is known{suggestion}")]
    NoMember { name: String, suggestion: String },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Offer(#[from] OfferError),
    #[error("{0}")]
    Registry(String),
}

/// A line as it came, or why it could not be read.
#[derive(Debug)]
pub(super) struct Line(Result<String, ControlError>);

/// Whether the node goes on after a command.
#[derive(Debug)]
pub(super) enum Next {
    Go,
    /// The member has left, and the process ends like this.
    Left(Result<(), Failure>),
}

/// The failure of a drain that was cut off by its timeout.
pub(super) fn forced(drained: &Drained) -> Result<(), Failure> {
    if drained.is_clean() {
        return Ok(());
    }
    let silent: Vec<&str> = drained.unconfirmed.iter().map(|member| &*member.name).collect();
    Err(Failure::new(Exit::Forced, format!("left without having heard from {}", silent.join(", "))))
}

/// Reads lines from standard input on a thread of its own, which ends with the process: a read cannot be interrupted.
pub(super) fn read_stdin() -> mpsc::Receiver<Line> {
    let (lines, waiting) = mpsc::channel(LINES_WAITING_MAX);
    std::thread::spawn(move || {
        let mut stdin = BufReader::new(std::io::stdin());
        while let Ok(Some(line)) = read_line(&mut stdin) {
            if lines.blocking_send(Line(line)).is_err() {
                break;
            }
        }
    });
    waiting
}

/// The next line without its end; `None` at the end of the input.
fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<Result<String, ControlError>>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    if input.by_ref().take(limit + 1).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    } else if bytes.len() > LINE_BYTES_MAX {
        input.skip_until(b'\n')?;
        return Ok(Some(Err(ControlError::LineTooLong)));
    }
    Ok(Some(String::from_utf8(bytes).map_err(|_| ControlError::NotText)))
}

/// Executes commands.
#[derive(Debug)]
pub(super) struct Control<'a> {
    registry: &'a Registry,
    offers: &'a Offers,
    dns: Option<&'a DnsCounts>,
    me: &'a Me,
    drain_timeout: Duration,
}

impl<'a> Control<'a> {
    pub(super) fn new(
        registry: &'a Registry,
        offers: &'a Offers,
        dns: Option<&'a DnsCounts>,
        me: &'a Me,
        drain_timeout: Duration,
    ) -> Self {
        Self { registry, offers, dns, me, drain_timeout }
    }

    /// Executes a line. Gives the answer, which is a line too; none for an empty line.
    pub(super) async fn execute(&self, line: Line) -> (Option<String>, Next) {
        let line = match line.0 {
            Ok(line) => line,
            Err(error) => return (Some(jsonl::error(None, &error.to_string())), Next::Go),
        };
        let line = line.trim();
        if line.is_empty() {
            return (None, Next::Go);
        }
        match self.try_execute(line).await {
            Ok((answer, next)) => (Some(answer), next),
            Err(error) => {
                let (word, _) = split_word(line);
                let known = COMMANDS.iter().find(|command| **command == word);
                (Some(jsonl::error(known.copied(), &error.to_string())), Next::Go)
            }
        }
    }

    async fn try_execute(&self, line: &str) -> Result<(String, Next), ControlError> {
        let answer = match Command::parse(line)? {
            Command::Register(offer, existing) => {
                let instance = &self.offers.register(*offer, existing).await?.instance;
                jsonl::answer("registered", &instance.service, instance.id.as_str())
            }
            Command::Update { id, update } => self.update(&id, &update).await?,
            Command::Withdraw { id } => {
                let key = self.known(&id)?;
                let withdrawn = self.offers.deregister(&key).await?;
                jsonl::answer("withdrawn", &withdrawn.instance.service, &id)
            }
            Command::Tell { check, outcome } => {
                self.offers.tell(&check, outcome).await?;
                jsonl::told(&check)
            }
            Command::Checks => jsonl::checks(&self.offers.checks()),
            Command::Maintenance { id, maintenance } => {
                let is_on = maintenance.is_some();
                match &id {
                    Some(id) => self.offers.set_maintenance(&self.known(id)?, maintenance).await?,
                    None => self.offers.set_member_maintenance(maintenance).await?,
                }
                jsonl::maintenance(id.as_deref(), is_on)
            }
            Command::Leave => {
                self.registry.leave().await.map_err(|e| ControlError::Registry(chain(&e)))?;
                return Ok((jsonl::left(self.me), Next::Left(Ok(()))));
            }
            Command::Drain => {
                let drained = self.registry.drain(self.drain_timeout).await;
                let drained = drained.map_err(|e| ControlError::Registry(chain(&e)))?;
                return Ok((jsonl::drained(self.me, &drained), Next::Left(forced(&drained))));
            }
            Command::View => jsonl::view(&Shown::of(self.registry, &self.me.cluster)),
            Command::Stats => {
                let stats = self.registry.stats().await.map_err(|e| ControlError::Registry(chain(&e)))?;
                let dns = self.dns.map(DnsCounts::read);
                let dns = dns.iter().flat_map(DnsStats::each);
                jsonl::stats(stats.each().chain(self.offers.stats().each()).chain(dns))
            }
            Command::Explain { member } => self.explain(&member).await?,
            Command::Forget { member } => {
                let member = self.member(&member)?;
                self.registry.forget(member.peer.id).await.map_err(|e| ControlError::Registry(chain(&e)))?;
                jsonl::forgotten(&member)
            }
            Command::Keys(command) => command.execute(self.registry).await.map_err(ControlError::Registry)?,
        };
        Ok((answer, Next::Go))
    }

    async fn update(&self, id: &str, update: &Update) -> Result<String, ControlError> {
        let key = self.known(id)?;
        let before = self.offers.instance(&key).ok_or_else(|| OfferError::UnknownInstance { id: id.to_owned() })?;
        // As it was said, not as it is shown: with the status of its checks it would never pass again.
        let said = Instance::clone(&before.instance).with_status(before.said.clone()).with_weight(before.weight);
        let after = update.apply(&said)?;
        let service = Arc::clone(&after.service);
        self.offers.update(&key, |instance| *instance = after).await?;
        Ok(jsonl::answer("updated", &service, id))
    }

    /// The member of this name or id.
    fn member(&self, name: &str) -> Result<Arc<Member>, ControlError> {
        let members = self.registry.members();
        let found = members.iter().find(|member| *member.name == *name || member.peer.id.to_string() == name);
        found.cloned().ok_or_else(|| {
            let nearest = spec::nearest(name, members.iter().map(|member| &*member.name));
            let suggestion = nearest.map(|known| format!(", did you mean {known}?")).unwrap_or_default();
            ControlError::NoMember { name: name.chars().take(64).collect(), suggestion }
        })
    }

    async fn explain(&self, name: &str) -> Result<String, ControlError> {
        let member = self.member(name)?;
        let explanation = self.registry.explain(member.peer.id).await.map_err(|e| ControlError::Registry(chain(&e)))?;
        let gone = || ControlError::NoMember { name: name.to_owned(), suggestion: String::new() };
        Ok(jsonl::explanation(&explanation.ok_or_else(gone)?))
    }

    fn known(&self, id: &str) -> Result<Key, ControlError> {
        const NAMED_MAX: usize = 8;
        let key = Key::from(id);
        if self.offers.instance(&key).is_some() {
            return Ok(key);
        }
        let all = self.offers.instances();
        let mut known: Vec<_> = all.iter().take(NAMED_MAX).map(|local| local.instance.id.as_str()).collect();
        match all.len() {
            0 => known.push("none"),
            1..=NAMED_MAX => {}
            _ => known.push("..."),
        }
        Err(ControlError::NoInstance { id: id.chars().take(64).collect(), known: known.join(", ") })
    }
}

impl Command {
    fn parse(line: &str) -> Result<Self, ControlError> {
        let (word, rest) = split_word(line);
        let alone = |command, wanted| {
            if rest.is_empty() { Ok(wanted) } else { Err(ControlError::Arguments { command, takes: "no argument" }) }
        };
        match word {
            "register" if rest.is_empty() => {
                Err(ControlError::Arguments { command: "register", takes: "a SPEC, as --service does" })
            }
            "register" => Ok(Self::Register(Box::new(spec::parse_offer(rest)?), Existing::Refuse)),
            "offer" if rest.is_empty() => {
                Err(ControlError::Arguments { command: "offer", takes: "a SPEC, as --service does" })
            }
            "offer" => {
                let mut offer = spec::parse_offer(rest)?;
                offer.origin = Origin::Door;
                Ok(Self::Register(Box::new(offer), Existing::Replace))
            }
            "update" if rest.is_empty() => {
                Err(ControlError::Arguments { command: "update", takes: "INSTANCE key=value ..." })
            }
            "update" => Update::parse(rest).map(|(id, update)| Self::Update { id, update }).map_err(Into::into),
            "withdraw" if rest.is_empty() => Err(ControlError::Arguments { command: "withdraw", takes: "an INSTANCE" }),
            "withdraw" => Ok(Self::Withdraw { id: rest.to_owned() }),
            "tell" => Self::parse_tell(rest),
            "checks" => alone("checks", Self::Checks),
            "maintenance" => Self::parse_maintenance(rest),
            "drain" => alone("drain", Self::Drain),
            "leave" => alone("leave", Self::Leave),
            "view" => alone("view", Self::View),
            "stats" => alone("stats", Self::Stats),
            "explain" if rest.is_empty() => {
                Err(ControlError::Arguments { command: "explain", takes: "a MEMBER, by its name or id" })
            }
            "explain" => Ok(Self::Explain { member: rest.to_owned() }),
            "forget" if rest.is_empty() => {
                Err(ControlError::Arguments { command: "forget", takes: "a MEMBER, by its name or id" })
            }
            "forget" => Ok(Self::Forget { member: rest.to_owned() }),
            "keys" => match KeysCommand::parse(rest) {
                Ok(Some(command)) => Ok(Self::Keys(command)),
                Ok(None) => Err(ControlError::Arguments { command: "keys", takes: keys::TAKES }),
                Err(error) => Err(ControlError::Key(error)),
            },
            _ => {
                let nearest = spec::nearest(word, COMMANDS.iter().copied());
                let suggestion = nearest.map(|known| format!(", did you mean {known}?")).unwrap_or_default();
                Err(ControlError::Unknown { word: word.chars().take(64).collect(), suggestion })
            }
        }
    }
}

impl Command {
    fn parse_tell(rest: &str) -> Result<Self, ControlError> {
        const TAKES: &str = "CHECK passing|warning|critical [TEXT]";
        let (check, rest) = split_word(rest);
        let (level, text) = split_word(rest);
        match level.parse::<Level>() {
            Ok(level) => Ok(Self::Tell { check: check.to_owned(), outcome: Outcome::new(level, text) }),
            Err(_) => Err(ControlError::Arguments { command: "tell", takes: TAKES }),
        }
    }

    fn parse_maintenance(rest: &str) -> Result<Self, ControlError> {
        const TAKES: &str = "on|off, then INSTANCE, or member for all; for on then for=TIME and a reason, if you like";
        let wrong = || ControlError::Arguments { command: "maintenance", takes: TAKES };
        let (switch, rest) = split_word(rest);
        let (id, rest) = split_word(rest);
        if id.is_empty() {
            return Err(wrong());
        }
        let id = (id != "member").then(|| id.to_owned());
        let maintenance = match switch {
            "off" if rest.is_empty() => None,
            "on" => {
                let (word, after) = split_word(rest);
                let span = word.strip_prefix("for=").map(parse_span).transpose().map_err(|_| wrong())?;
                let maintenance = Maintenance::new(if span.is_some() { after } else { rest });
                Some(span.map_or(maintenance.clone(), |span| maintenance.ends_after(span)))
            }
            _ => return Err(wrong()),
        };
        Ok(Self::Maintenance { id, maintenance })
    }
}

fn split_word(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (word, rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut input: &[u8]) -> Vec<Result<String, String>> {
        let next = || read_line(&mut input).unwrap().map(|line| line.map_err(|e| e.to_string()));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_line_at_the_limit_is_read_and_a_longer_one_is_dropped_whole() {
        let fits = "x".repeat(LINE_BYTES_MAX);
        let input = format!("{fits}\n{fits}x\n{fits}{fits}{fits}\nview\n{fits}");
        let read = lines(input.as_bytes());
        assert_eq!(read.len(), 5);
        assert_eq!(read[0], Ok(fits.clone()));
        for line in &read[1..3] {
            assert!(line.as_ref().unwrap_err().contains("131072 bytes"));
        }
        assert_eq!(read[3], Ok("view".to_owned()));
        assert_eq!(read[4], Ok(fits), "the last line may have no end");
    }

    #[test]
    fn a_line_that_is_not_text_costs_only_itself() {
        let read = lines(b"\xff\xfe\nstats\n\nx");
        assert!(read[0].as_ref().unwrap_err().contains("UTF-8"));
        assert_eq!(read[1..], [Ok("stats".to_owned()), Ok(String::new()), Ok("x".to_owned())]);
    }

    #[test]
    fn an_unknown_command_is_told_what_is_allowed() {
        let refusal = |line: &str| Command::parse(line).expect_err(line).to_string();
        assert!(refusal("regsiter name=web").contains("did you mean register?"));
        assert!(
            refusal("jump")
                .ends_with("withdraw, tell, checks, maintenance, drain, leave, view, stats, explain, forget, keys")
        );
        assert!(refusal("leave now").contains("leave takes no argument"));
        assert!(refusal("withdraw").contains("withdraw takes an INSTANCE"));
        assert!(refusal("register").contains("register takes a SPEC"));
        assert!(refusal("update").contains("INSTANCE key=value"));
        assert!(refusal("tell web well").contains("passing|warning|critical"));
        assert!(refusal("maintenance web").contains("on|off"));
        assert!(refusal("maintenance on web for=long").contains("for=TIME"));
        let Ok(Command::Maintenance { id: Some(id), maintenance: Some(maintenance) }) =
            Command::parse("maintenance on web for=5m disk swap")
        else {
            panic!("a maintenance");
        };
        assert_eq!((id.as_str(), &*maintenance.reason, maintenance.until_ms.is_some()), ("web", "disk swap", true));
        assert!(refusal("register name=web").contains("addr is missing"));
    }
}
