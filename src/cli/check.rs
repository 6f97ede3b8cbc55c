//! The grammar of a check: what is looked at, then `key=value` words. The same in `--service`, `--check` and the
//! configuration file.

use std::time::Duration;

use tidings::check::{Alias, Check, CheckError, CommandLine, Grpc, Http, Kind, Level, Tls, Udp};

use super::parse_span;
use super::spec::nearest;

pub(super) const HELP: &str = "\
A check, as words: what is looked at, then key=value, with quotes as in a shell:
  http://HOST:PORT/PATH    2xx passes, 429 warns, all else is critical; https:// too
  tcp:HOST:PORT            a connection comes about
  udp:HOST:PORT            a datagram is not refused
  grpc:HOST:PORT[/NAME]    grpc.health.v1 says SERVING, of the server or of NAME
  ttl:TIME                 somebody reports at least so often: tell, or over HTTP
  alias:INSTANCE           as the instance of this agent
  member:NAME[/INSTANCE]   as the member, or an instance of it
  'exec:COMMAND'           exit code 0 passes, 1 warns, all else is critical
Keys:
  interval=10s  timeout=5s  initial=critical  id=ID  name=TEXT  notes=TEXT
  successes=1              results in a row until it passes
  failures=1               failures in a row until it is critical
  warnings=1               failures in a row until it warns, if that is sooner
  hold=on                  holds down what goes up and down all the time: on or off
  deregister_after=TIME    withdraws the instance once critical for so long
  method=GET  'header=NAME: VALUE'  body=TEXT  redirects=on            of http
  tls=off  tls_verify=on  tls_name=HOST                                of https and grpc
  payload=TEXT  answer=off                                             of udp";

const TARGETS: &str = "http://..., https://..., tcp:HOST:PORT, udp:HOST:PORT, grpc:HOST:PORT[/NAME], ttl:TIME, \
                       alias:INSTANCE, member:NAME[/INSTANCE] or exec:COMMAND";

const KEYS: &[&str] = &[
    "interval",
    "timeout",
    "initial",
    "id",
    "name",
    "notes",
    "successes",
    "failures",
    "warnings",
    "hold",
    "deregister_after",
    "method",
    "header",
    "body",
    "redirects",
    "tls",
    "tls_verify",
    "tls_name",
    "payload",
    "answer",
];

/// Why a check could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum CheckSpecError {
    #[error("the check {text:?} has a quote that does not end")]
    Quote { text: String },
    #[error("a check begins with what is looked at: {TARGETS}; not {text:?}")]
    Target { text: String },
    #[error("{word:?} is not key=value; allowed keys of a check: {}", KEYS.join(", "))]
    NoValue { word: String },
    #[error("unknown key {key:?} of a check{hint}; allowed: {}", KEYS.join(", "))]
    UnknownKey { key: String, hint: String },
    #[error("{key}={value:?} of a check: {allowed}")]
    Value { key: String, value: String, allowed: String },
    #[error("{key} does not belong to a check of kind {kind}")]
    NotOfKind { key: String, kind: &'static str },
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Reads a check, and checks it.
pub(super) fn parse(text: &str) -> Result<Check, CheckSpecError> {
    let words = shell_words::split(text).map_err(|_| CheckSpecError::Quote { text: cut(text) })?;
    let Some((target, words)) = words.split_first() else {
        return Err(CheckSpecError::Target { text: String::new() });
    };
    let mut check = Check::new(kind(target)?);
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| CheckSpecError::NoValue { word: cut(word) })?;
        set(&mut check, key, value)?;
    }
    // Who does not say when it warns on the way wants none of that.
    if !words.iter().any(|word| word.starts_with("warnings=")) {
        check.failures_before_warning = check.failures_before_critical;
    }
    check.check()?;
    Ok(check)
}

fn kind(target: &str) -> Result<Kind, CheckSpecError> {
    if ["http://", "https://"].iter().any(|scheme| target.starts_with(scheme)) {
        return Ok(Kind::Http(Http::new(target)));
    }
    let unknown = || CheckSpecError::Target { text: cut(target) };
    let (word, rest) = target.split_once(':').filter(|(_, rest)| !rest.is_empty()).ok_or_else(unknown)?;
    let split = || match rest.split_once('/') {
        Some((first, second)) => (first.to_owned(), Some(second.to_owned())),
        None => (rest.to_owned(), None),
    };
    Ok(match word {
        "tcp" => Kind::Tcp { addr: rest.to_owned() },
        "udp" => Kind::Udp(Udp { addr: rest.to_owned(), payload: String::new(), must_answer: false }),
        "grpc" => {
            let (addr, service) = split();
            Kind::Grpc(Grpc { addr, service: service.unwrap_or_default(), tls: None })
        }
        "ttl" => Kind::Ttl { ttl: span("ttl", rest)? },
        "alias" => Kind::Alias(Alias { instance: Some(rest.to_owned()), member: None }),
        "member" => {
            let (member, instance) = split();
            Kind::Alias(Alias { instance, member: Some(member) })
        }
        "exec" => {
            let words = shell_words::split(rest).map_err(|_| CheckSpecError::Quote { text: cut(rest) })?;
            let (program, args) = words.split_first().ok_or_else(unknown)?;
            Kind::Command(CommandLine { program: program.clone(), args: args.to_vec() })
        }
        _ => return Err(unknown()),
    })
}

fn set(check: &mut Check, key: &str, value: &str) -> Result<(), CheckSpecError> {
    match key {
        "interval" => check.interval = span(key, value)?,
        "timeout" => check.timeout = span(key, value)?,
        "initial" => check.initial = value.parse::<Level>()?,
        "id" => check.id = value.into(),
        "name" => check.name = value.into(),
        "notes" => check.notes = value.into(),
        "successes" => check.successes_before_passing = number(key, value)?,
        "failures" => check.failures_before_critical = number(key, value)?,
        "warnings" => check.failures_before_warning = number(key, value)?,
        "hold" => check.hold_down = is_on(key, value)?.then(Default::default),
        "deregister_after" => check.deregister_critical_after = Some(span(key, value)?),
        _ if KEYS.contains(&key) => return set_of_kind(&mut check.kind, key, value),
        _ => {
            let hint = nearest(key, KEYS.iter().copied()).map(|known| format!(", did you mean {known}?"));
            return Err(CheckSpecError::UnknownKey { key: cut(key), hint: hint.unwrap_or_default() });
        }
    }
    Ok(())
}

fn set_of_kind(kind: &mut Kind, key: &str, value: &str) -> Result<(), CheckSpecError> {
    match (kind, key) {
        (Kind::Http(http), "method") => http.method = value.to_owned(),
        (Kind::Http(http), "body") => http.body = value.to_owned(),
        (Kind::Http(http), "redirects") => http.follows_redirects = is_on(key, value)?,
        (Kind::Http(http), "header") => {
            let wrong = || refuse(key, value, "allowed is NAME: VALUE");
            let (name, value) = value.split_once(':').ok_or_else(wrong)?;
            http.headers.entry(name.trim().to_owned()).or_default().push(value.trim().to_owned());
        }
        (Kind::Http(http), "tls_verify") => http.tls.skips_verify = !is_on(key, value)?,
        (Kind::Http(http), "tls_name") => http.tls.server_name = Some(value.to_owned()),
        (Kind::Grpc(grpc), "tls") => grpc.tls = is_on(key, value)?.then(Tls::default),
        (Kind::Grpc(grpc), "tls_verify") => {
            grpc.tls.get_or_insert_default().skips_verify = !is_on(key, value)?;
        }
        (Kind::Grpc(grpc), "tls_name") => grpc.tls.get_or_insert_default().server_name = Some(value.to_owned()),
        (Kind::Udp(udp), "payload") => udp.payload = value.to_owned(),
        (Kind::Udp(udp), "answer") => udp.must_answer = is_on(key, value)?,
        (kind, _) => return Err(CheckSpecError::NotOfKind { key: key.to_owned(), kind: kind.as_str() }),
    }
    Ok(())
}

fn span(key: &str, value: &str) -> Result<Duration, CheckSpecError> {
    parse_span(value).map_err(|_| refuse(key, value, "allowed is a whole number followed by ms, s or m, such as 30s"))
}

fn number(key: &str, value: &str) -> Result<u32, CheckSpecError> {
    value.parse().map_err(|_| refuse(key, value, "allowed is a whole number"))
}

fn is_on(key: &str, value: &str) -> Result<bool, CheckSpecError> {
    match value {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(refuse(key, value, "allowed is on or off")),
    }
}

fn refuse(key: &str, value: &str, allowed: &str) -> CheckSpecError {
    CheckSpecError::Value { key: key.to_owned(), value: cut(value), allowed: allowed.to_owned() }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_check_can_be_written() {
        for (text, word) in [
            ("http://h:1/x", "http"),
            ("https://h/x tls_verify=off tls_name=n method=POST body=b 'header=A: b' redirects=off", "http"),
            ("tcp:h:1 interval=1s timeout=200ms successes=2 failures=3 warnings=2 hold=off", "tcp"),
            ("udp:[::1]:1 payload=x answer=on", "udp"),
            ("grpc:h:1/shop tls=on", "grpc"),
            ("ttl:15s initial=passing deregister_after=10m id=beat", "ttl"),
            ("alias:web-1", "alias"),
            ("member:b/web-1 name='the other' notes=''", "alias"),
            ("'exec:test -e \"/run/a b\"' interval=5s", "command"),
        ] {
            let check = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(check.kind.as_str(), word, "{text}");
        }
        let Kind::Command(line) = parse("'exec:test -e \"a b\"'").unwrap().kind else { panic!("a command") };
        assert_eq!((line.program.as_str(), line.args), ("test", vec!["-e".to_owned(), "a b".to_owned()]));
        let Kind::Http(http) = parse("http://h/ 'header=A: b' header=a:c").unwrap().kind else { panic!("http") };
        assert_eq!(http.headers["A"], ["b"]);
        let check = parse("tcp:h:1 failures=3").unwrap();
        assert_eq!((check.failures_before_warning, check.failures_before_critical), (3, 3));
        let check = parse("tcp:h:1 warnings=2 failures=3").unwrap();
        assert_eq!((check.failures_before_warning, check.failures_before_critical), (2, 3));
    }

    #[test]
    fn what_is_wrong_with_a_check_is_named() {
        for (text, needle) in [
            ("", "begins with what is looked at"),
            ("ftp://h", "begins with what is looked at"),
            ("tcp:", "begins with"),
            ("tcp:h", "tcp \"h\" is not HOST:PORT"),
            ("ttl:15", "ttl=\"15\""),
            ("tcp:h:1 intreval=1s", "did you mean interval?"),
            ("tcp:h:1 interval", "not key=value"),
            ("tcp:h:1 interval=1", "followed by ms, s or m"),
            ("tcp:h:1 method=GET", "method does not belong to a check of kind tcp"),
            ("tcp:h:1 failures=0", "failures_before"),
            ("tcp:h:1 initial=well", "passing, warning or critical"),
            ("tcp:h:1 'x", "quote"),
            ("http://h header=x", "NAME: VALUE"),
            ("udp:h:1 answer=perhaps", "on or off"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }

    #[test]
    fn the_help_names_every_key() {
        for key in KEYS {
            assert!(HELP.contains(&format!("{key}=")), "{key}");
        }
    }

    proptest! {
        #[test]
        fn no_text_can_do_more_than_be_wrong(text in "[a-z:/=' .0-9]{0,60}") {
            let _ = parse(&text);
        }
    }
}
