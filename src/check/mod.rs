//! Checks of whether a service can do its work, run by the member that offers it and by nobody else: what can be
//! checked, how often, and how many results it takes to believe them. Knows nothing of instances or of who reads it.
//!
//! Only a change of a check's [`Level`] concerns other members; what a check printed stays where it ran.

#[cfg(unix)]
pub mod command;
mod judge;
mod probe;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use self::judge::Judge;
pub(crate) use self::probe::{NotRun, run};

/// Bytes of what a check printed that are kept; the rest is cut off.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a check's id, and of its name.
pub const CHECK_NAME_BYTES_MAX: usize = 512;

/// Bytes of a check's notes, of a header's value, and of the body that it sends.
pub const CHECK_TEXT_BYTES_MAX: usize = 16 * 1024;

/// Headers that a check sends, and arguments of its command.
pub const CHECK_PARTS_MAX: usize = 64;

/// Results of one kind in a row that a check may ask for.
pub const RESULTS_IN_A_ROW_MAX: u32 = 1_000;

/// The shortest time that can be given: interval, timeout or time to live.
pub const SPAN_MIN: Duration = Duration::from_millis(20);

/// The longest time that can be given.
pub const CHECK_SPAN_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The time between the starts of two runs, unless given.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// How long a run may take, unless given.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// How a check stands. The worst of several is the largest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Passing,
    /// It works, and somebody should look.
    Warning,
    /// It does not work.
    Critical,
}

impl Level {
    /// The level as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Level {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Self, CheckError> {
        match text {
            "passing" => Ok(Self::Passing),
            "warning" => Ok(Self::Warning),
            "critical" => Ok(Self::Critical),
            _ => Err(CheckError::Value {
                what: "level",
                value: text.chars().take(64).collect(),
                allowed: "passing, warning or critical",
            }),
        }
    }
}

/// What one run found, or what somebody told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The level of this one result.
    pub level: Level,
    /// What there is to say of it; cut to [`OUTPUT_BYTES_MAX`].
    pub output: String,
}

impl Outcome {
    /// A result with its text.
    pub fn new(level: Level, output: impl Into<String>) -> Self {
        let mut output = output.into();
        if output.len() > OUTPUT_BYTES_MAX {
            let end = (0..=OUTPUT_BYTES_MAX).rev().find(|end| output.is_char_boundary(*end)).unwrap_or(0);
            output.truncate(end);
        }
        Self { level, output }
    }

    /// All is well.
    pub fn passing(output: impl Into<String>) -> Self {
        Self::new(Level::Passing, output)
    }

    /// It works, and somebody should look.
    pub fn warning(output: impl Into<String>) -> Self {
        Self::new(Level::Warning, output)
    }

    /// It does not work.
    pub fn critical(output: impl Into<String>) -> Self {
        Self::new(Level::Critical, output)
    }
}

/// A check: what is looked at, how often, and when its results are believed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Check {
    /// Its id, unique within the agent; empty until it is added, then `service:ID`, or `service:ID:N` as the N-th of
    /// several.
    #[serde(default)]
    pub id: Arc<str>,
    /// Its name for people; what it is of, unless given.
    #[serde(default)]
    pub name: Arc<str>,
    /// More for people.
    #[serde(default)]
    pub notes: Arc<str>,
    /// What is looked at.
    pub kind: Kind,
    /// The time between the starts of two runs; [`INTERVAL`] unless given. A run that takes longer delays the next.
    pub interval: Duration,
    /// How long a run may take; longer is critical. [`TIMEOUT`] unless given.
    pub timeout: Duration,
    /// How it stands before the first result; critical unless given.
    pub initial: Level,
    /// Results in a row that make it passing again, 1 or more.
    pub successes_before_passing: u32,
    /// Failures in a row that make it warning, 1 or more; never reached if not below
    /// [`failures_before_critical`](Self::failures_before_critical).
    pub failures_before_warning: u32,
    /// Failures in a row that make it critical, 1 or more.
    pub failures_before_critical: u32,
    /// Holds a check that goes up and down all the time down for longer; none for checks that are told their level.
    pub hold_down: Option<HoldDown>,
    /// Withdraws the instance once the check has been critical for this long.
    pub deregister_critical_after: Option<Duration>,
}

impl Check {
    /// A check of this kind, all else as [`Check`] says.
    pub fn new(kind: Kind) -> Self {
        let hold_down = (!kind.is_told()).then(HoldDown::default);
        Self {
            id: Arc::from(""),
            name: Arc::from(""),
            notes: Arc::from(""),
            kind,
            interval: INTERVAL,
            timeout: TIMEOUT,
            initial: Level::Critical,
            successes_before_passing: 1,
            failures_before_warning: 1,
            failures_before_critical: 1,
            hold_down,
            deregister_critical_after: None,
        }
    }

    /// A check that its service reports to; critical once it has said nothing for `ttl`.
    pub fn ttl(ttl: Duration) -> Self {
        Self::new(Kind::Ttl { ttl })
    }

    /// A GET of this `http://` or `https://` address: 2xx is passing, 429 warning, all else critical.
    pub fn http(url: impl Into<String>) -> Self {
        Self::new(Kind::Http(Http::new(url)))
    }

    /// A TCP connection to `HOST:PORT`.
    pub fn tcp(addr: impl Into<String>) -> Self {
        Self::new(Kind::Tcp { addr: addr.into() })
    }

    /// What a function of this program says.
    pub fn function<F, R>(function: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        Self::new(Kind::Function(Function(Arc::new(move || Box::pin(function())))))
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Arc::from(id);
        self
    }

    /// Sets the name for people.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.name = Arc::from(name);
        self
    }

    /// Sets the time between the starts of two runs.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how long a run may take.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how it stands before the first result.
    #[must_use]
    pub fn with_initial(mut self, level: Level) -> Self {
        self.initial = level;
        self
    }

    /// Checks every part against its limit.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn check(&self) -> Result<(), CheckError> {
        bytes("check id", &self.id, CHECK_NAME_BYTES_MAX)?;
        bytes("check name", &self.name, CHECK_NAME_BYTES_MAX)?;
        bytes("check notes", &self.notes, CHECK_TEXT_BYTES_MAX)?;
        if let Some(character) = self.id.chars().find(|c| c.is_control()) {
            return Err(CheckError::Character { what: "check id", character });
        }
        if self.kind.is_run() {
            span("interval", self.interval)?;
            span("timeout", self.timeout)?;
        }
        for (what, count) in [
            ("successes_before_passing", self.successes_before_passing),
            ("failures_before_warning", self.failures_before_warning),
            ("failures_before_critical", self.failures_before_critical),
        ] {
            if !(1..=RESULTS_IN_A_ROW_MAX).contains(&count) {
                return Err(CheckError::Range { what, value: count.into(), min: 1, max: RESULTS_IN_A_ROW_MAX.into() });
            }
        }
        if let Some(after) = self.deregister_critical_after {
            span("deregister_critical_after", after)?;
        }
        if let Some(hold) = &self.hold_down {
            span("hold_down.within", hold.within)?;
            span("hold_down.first", hold.first)?;
            span("hold_down.longest", hold.longest)?;
        }
        self.kind.check()
    }
}

/// Holds a check down that goes up and down all the time: after so many falls in some time it has to pass without a
/// failure for a while before it is passing again, twice as long after each further fall.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HoldDown {
    /// Falls to critical within [`within`](Self::within) that begin it.
    pub falls: u32,
    /// The time in which falls are counted.
    pub within: Duration,
    /// How long it has to pass after the first fall too many.
    pub first: Duration,
    /// The longest that it has to.
    pub longest: Duration,
}

impl Default for HoldDown {
    /// From the third fall within five minutes: 30 s, a minute, and so on up to ten minutes.
    fn default() -> Self {
        Self {
            falls: 3,
            within: Duration::from_secs(5 * 60),
            first: Duration::from_secs(30),
            longest: Duration::from_secs(10 * 60),
        }
    }
}

/// What is looked at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// The service says how it is, at least once in `ttl`; else it is critical.
    Ttl {
        /// How long its last word counts.
        ttl: Duration,
    },
    /// Somebody says how it is; that counts until they say something else.
    Told,
    /// An HTTP request.
    Http(Http),
    /// A TCP connection that comes about.
    Tcp {
        /// `HOST:PORT`.
        addr: String,
    },
    /// A UDP datagram that is not refused.
    Udp(Udp),
    /// A question to `grpc.health.v1.Health/Check`.
    Grpc(Grpc),
    /// What is known of another instance or member.
    Alias(Alias),
    /// The exit code of a command. Only from the agent's own configuration, never over a network; not kept on disk.
    #[serde(skip)]
    Command(CommandLine),
    /// What a function of this program says. Not kept on disk.
    #[serde(skip)]
    Function(Function),
    /// A kind that this agent does not run: a warning, with this reason.
    Unsupported {
        /// What was asked for.
        what: String,
    },
}

impl Kind {
    /// The kind as a word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ttl { .. } => "ttl",
            Self::Told => "told",
            Self::Http(_) => "http",
            Self::Tcp { .. } => "tcp",
            Self::Udp(_) => "udp",
            Self::Grpc(_) => "grpc",
            Self::Alias(_) => "alias",
            Self::Command(_) => "command",
            Self::Function(_) => "function",
            Self::Unsupported { .. } => "unsupported",
        }
    }

    /// Whether its level is told, not found out.
    pub const fn is_told(&self) -> bool {
        matches!(self, Self::Ttl { .. } | Self::Told | Self::Unsupported { .. } | Self::Alias(_))
    }

    /// Whether something is run at an interval.
    pub const fn is_run(&self) -> bool {
        !self.is_told()
    }

    /// Whether it may be asked for by others than this program and its configuration.
    pub const fn is_for_anybody(&self) -> bool {
        !matches!(self, Self::Command(_) | Self::Function(_))
    }

    fn check(&self) -> Result<(), CheckError> {
        match self {
            Self::Ttl { ttl } => span("ttl", *ttl),
            Self::Told | Self::Function(_) => Ok(()),
            Self::Http(http) => http.check(),
            Self::Tcp { addr } => host_and_port("tcp", addr),
            Self::Udp(udp) => {
                bytes("udp payload", &udp.payload, CHECK_TEXT_BYTES_MAX)?;
                host_and_port("udp", &udp.addr)
            }
            Self::Grpc(grpc) => {
                bytes("grpc service", &grpc.service, CHECK_NAME_BYTES_MAX)?;
                host_and_port("grpc", &grpc.addr)
            }
            Self::Alias(alias) => {
                if alias.instance.is_none() && alias.member.is_none() {
                    return Err(CheckError::Empty { what: "alias" });
                }
                let texts = [("alias instance", &alias.instance), ("alias member", &alias.member)];
                texts.iter().try_for_each(|(what, text)| {
                    text.as_deref().map_or(Ok(()), |text| bytes(what, text, CHECK_NAME_BYTES_MAX))
                })
            }
            Self::Command(command) => {
                if command.program.is_empty() {
                    return Err(CheckError::Empty { what: "command" });
                }
                parts("command arguments", command.args.len())
            }
            Self::Unsupported { what } => bytes("unsupported", what, CHECK_NAME_BYTES_MAX),
        }
    }
}

/// An HTTP request. Its `Debug` shows no secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// The `http://` or `https://` address. A user and password in it are sent as `Authorization`, and never shown.
    pub url: String,
    /// The method; `GET` unless given.
    pub method: String,
    /// Further headers; a name may have several values. `Host` replaces the one of the address.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body.
    pub body: String,
    /// Whether a redirection is followed, ten times at most; it is critical otherwise. True unless given.
    ///
    /// Another scheme, host or port is another server: as curl does it, it is told neither the user and password of
    /// the address nor the headers `Authorization`, `Cookie`, `Proxy-Authorization` and `Host`. Other headers and the
    /// body go along. A user and password in a redirection's own address are not used.
    pub follows_redirects: bool,
    /// How the server is known.
    pub tls: Tls,
}

impl Http {
    /// A GET.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            method: "GET".to_owned(),
            headers: BTreeMap::new(),
            body: String::new(),
            follows_redirects: true,
            tls: Tls::default(),
        }
    }

    /// The address as everybody may see it: without user and password.
    pub fn shown_url(&self) -> Cow<'_, str> {
        without_user(&self.url)
    }

    fn check(&self) -> Result<(), CheckError> {
        bytes("url", &self.url, CHECK_TEXT_BYTES_MAX)?;
        if !["http://", "https://"].iter().any(|scheme| self.url.starts_with(scheme)) {
            let value = self.shown_url().chars().take(64).collect();
            return Err(CheckError::Value { what: "url", value, allowed: "http://... or https://..." });
        }
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if self.method.is_empty() || !self.method.chars().all(is_token) {
            let value = self.method.chars().take(64).collect();
            return Err(CheckError::Value { what: "method", value, allowed: "a word such as GET" });
        }
        bytes("body", &self.body, CHECK_TEXT_BYTES_MAX)?;
        parts("headers", self.headers.values().map(Vec::len).sum())?;
        for (name, values) in &self.headers {
            if name.is_empty() || !name.chars().all(is_token) {
                let value = name.chars().take(64).collect();
                return Err(CheckError::Value { what: "header name", value, allowed: "a word such as Accept" });
            }
            for value in values {
                bytes("header value", value, CHECK_TEXT_BYTES_MAX)?;
                if let Some(character) = value.chars().find(|c| c.is_control() && *c != '\t') {
                    return Err(CheckError::Character { what: "header value", character });
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("url", &self.shown_url())
            .field("method", &self.method)
            .field("headers", &self.headers.keys())
            .field("body_bytes", &self.body.len())
            .field("follows_redirects", &self.follows_redirects)
            .field("tls", &self.tls)
            .finish()
    }
}

/// A URL with three dots in the place of the user and password in it.
pub(crate) fn without_user(url: &str) -> Cow<'_, str> {
    let start = url.find("://").map_or(0, |colon| colon + 3);
    let (scheme, rest) = url.split_at(start);
    let authority = rest.find(['/', '?', '#', '\\']).map_or(rest, |end| &rest[..end]);
    match authority.rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}...{}", &rest[at..])),
        None => Cow::Borrowed(url),
    }
}

/// How the server of a TLS connection is known.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Tls {
    /// Takes any certificate.
    pub skips_verify: bool,
    /// The name that the certificate must have, if it is not the host of the address.
    pub server_name: Option<String>,
}

/// A UDP datagram.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Udp {
    /// `HOST:PORT`.
    pub addr: String,
    /// What is sent; may be empty.
    pub payload: String,
    /// Whether silence is critical; otherwise only a refusal of the datagram is, and a run without an answer takes the
    /// whole timeout.
    pub must_answer: bool,
}

/// A question to `grpc.health.v1.Health/Check`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grpc {
    /// `HOST:PORT`.
    pub addr: String,
    /// The service asked about; empty for the whole server.
    pub service: String,
    /// TLS; `None` for none.
    pub tls: Option<Tls>,
}

/// What is known of another instance or member: its own status counts.
///
/// Without a member, the instance is one of this agent; without an instance, it is whether the member can be reached.
/// Two that are aliases of each other stay as they began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Alias {
    /// The id of the instance.
    pub instance: Option<String>,
    /// The name of the member.
    pub member: Option<String>,
}

/// A command: 0 is passing, 1 warning, all else critical. It runs without a shell, in a process group of its own, which
/// is killed whole at the timeout.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CommandLine {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
}

type Asked = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A function that says how it is, see [`Check::function`].
#[derive(Clone)]
pub struct Function(Arc<dyn Fn() -> Asked + Send + Sync>);

impl Default for Function {
    fn default() -> Self {
        Self(Arc::new(|| Box::pin(async { Outcome::critical("no function") })))
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Function")
    }
}

/// Why a check is not taken. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A required part is empty.
    #[error("{what} is empty")]
    Empty {
        /// Which part.
        what: &'static str,
    },
    /// A part is too long.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There are too many of a part.
    #[error("{count} {what}, the limit is {limit}")]
    TooMany {
        /// Which part.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A number is out of range.
    #[error("{what} is from {min} to {max}, not {value}")]
    Range {
        /// Which.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A time is out of range.
    #[error("{what} is from {SPAN_MIN:?} to {CHECK_SPAN_MAX:?}, not {value:?}")]
    Span {
        /// Which.
        what: &'static str,
        /// Its value.
        value: Duration,
    },
    /// A part means nothing.
    #[error("{what} {value:?} is not {allowed}")]
    Value {
        /// Which part.
        what: &'static str,
        /// Its value, cut to 64 characters.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A part has a character that it may not have.
    #[error("{what} has the character {character:?}, which is not allowed there")]
    Character {
        /// Which part.
        what: &'static str,
        /// The first such character.
        character: char,
    },
}

fn bytes(what: &'static str, text: &str, limit: usize) -> Result<(), CheckError> {
    if text.len() > limit { Err(CheckError::TooLong { what, bytes: text.len(), limit }) } else { Ok(()) }
}

fn parts(what: &'static str, count: usize) -> Result<(), CheckError> {
    if count > CHECK_PARTS_MAX { Err(CheckError::TooMany { what, count, limit: CHECK_PARTS_MAX }) } else { Ok(()) }
}

fn span(what: &'static str, value: Duration) -> Result<(), CheckError> {
    if (SPAN_MIN..=CHECK_SPAN_MAX).contains(&value) { Ok(()) } else { Err(CheckError::Span { what, value }) }
}

fn host_and_port(what: &'static str, addr: &str) -> Result<(), CheckError> {
    let parsed: Result<crate::record::Endpoint, _> = addr.parse();
    let wrong = || CheckError::Value { what, value: addr.chars().take(64).collect(), allowed: "HOST:PORT" };
    parsed.map(drop).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_printed_is_cut_between_characters() {
        let outcome = Outcome::passing("ä".repeat(OUTPUT_BYTES_MAX));
        assert_eq!(outcome.output.len(), OUTPUT_BYTES_MAX);
        let outcome = Outcome::passing(format!("x{}", "ä".repeat(OUTPUT_BYTES_MAX)));
        assert_eq!(outcome.output.len(), OUTPUT_BYTES_MAX - 1);
    }

    #[test]
    fn a_password_in_an_address_is_never_shown() {
        for (url, shown) in [
            ("http://user:secret@h:80/a?b", "http://...@h:80/a?b"),
            ("https://secret@h", "https://...@h"),
            ("http://a:secret@b:secret@h/x@y", "http://...@h/x@y"),
            ("http://h/a@b", "http://h/a@b"),
            ("http://h?to=a@b", "http://h?to=a@b"),
            ("user:secret@h", "...@h"),
            ("/a@b", "/a@b"),
            ("no address", "no address"),
        ] {
            assert_eq!(without_user(url), shown);
        }
        let mut http = Http::new("http://user:secret@h/");
        http.headers.insert("Authorization".into(), vec!["Bearer secret".into()]);
        http.body = "secret".into();
        let shown = format!("{:?}", Check::new(Kind::Http(http)));
        assert!(!shown.contains("secret") && shown.contains("Authorization"), "{shown}");
        let wrong = Check::http("ftp://user:secret@h/").check().unwrap_err().to_string();
        assert!(!wrong.contains("secret"), "{wrong}");
    }

    #[test]
    fn the_worst_level_is_the_largest() {
        assert_eq!([Level::Warning, Level::Critical, Level::Passing].into_iter().max(), Some(Level::Critical));
    }

    #[test]
    fn every_part_of_a_check_has_a_limit() {
        let http = |change: fn(&mut Http)| {
            let mut http = Http::new("http://h/");
            change(&mut http);
            Check::new(Kind::Http(http))
        };
        let bad = [
            ("check id", Check::ttl(INTERVAL).with_id(&"x".repeat(CHECK_NAME_BYTES_MAX + 1))),
            ("check id", Check::ttl(INTERVAL).with_id("a\nb")),
            ("check name", Check::ttl(INTERVAL).with_name(&"x".repeat(CHECK_NAME_BYTES_MAX + 1))),
            ("ttl", Check::ttl(Duration::ZERO)),
            ("ttl", Check::ttl(CHECK_SPAN_MAX + INTERVAL)),
            ("interval", Check::tcp("h:1").every(Duration::ZERO)),
            ("timeout", Check::tcp("h:1").within(Duration::ZERO)),
            ("tcp", Check::tcp("h")),
            ("url", Check::http("ftp://h")),
            ("method", http(|http| http.method = "A B".into())),
            ("header name", http(|http| drop(http.headers.insert("a b".into(), vec![])))),
            ("header value", http(|http| drop(http.headers.insert("a".into(), vec!["\n".into()])))),
            ("headers", http(|http| drop(http.headers.insert("a".into(), vec![String::new(); 65])))),
            ("body", http(|http| http.body = "x".repeat(CHECK_TEXT_BYTES_MAX + 1))),
            ("alias", Check::new(Kind::Alias(Alias { instance: None, member: None }))),
            ("command", Check::new(Kind::Command(CommandLine::default()))),
            ("failures_before_critical", Check { failures_before_critical: 0, ..Check::tcp("h:1") }),
            ("successes_before_passing", Check { successes_before_passing: 1_001, ..Check::tcp("h:1") }),
        ];
        for (what, check) in bad {
            let error = check.check().expect_err(what).to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
        assert_eq!(Check::http("https://h/").check(), Ok(()));
    }

    #[test]
    fn a_command_is_never_written_down() {
        let check = Check::new(Kind::Command(CommandLine { program: "true".into(), args: Vec::new() }));
        assert!(serde_json::to_string(&check).is_err());
        let text = serde_json::to_string(&Check::tcp("h:1")).expect("it is written");
        assert_eq!(serde_json::from_str::<Check>(&text).expect("it is read"), Check::tcp("h:1"));
        let forged = text.replace("\"tcp\"", "\"command\"").replace("\"addr\":\"h:1\"", "\"program\":\"true\"");
        assert!(serde_json::from_str::<Check>(&forged).is_err());
    }
}
