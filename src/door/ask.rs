//! What a query string asks, in the words that Consul's clients use. Knows nothing of answers.

use std::borrow::Cow;
use std::time::Duration;

/// Parameters of a query; more are refused.
pub const PARAMETERS_MAX: usize = 256;

/// The longest a request waits for a change.
pub const WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// How long a request waits for a change that does not say.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// The parameters of a request, in order.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// A parameter that means nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadQuery(pub String);

impl<'a> Query<'a> {
    /// Reads what stands behind the `?`. Percent signs and plus signs are resolved; what is no UTF-8 is replaced.
    ///
    /// # Errors
    /// There are more than [`PARAMETERS_MAX`].
    pub fn parse(text: Option<&'a str>) -> Result<Self, BadQuery> {
        let pairs: Vec<_> =
            form_urlencoded::parse(text.unwrap_or_default().as_bytes()).take(PARAMETERS_MAX + 1).collect();
        if pairs.len() > PARAMETERS_MAX {
            return Err(BadQuery(format!("more than {PARAMETERS_MAX} parameters")));
        }
        Ok(Self { pairs })
    }

    /// The first value of a parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The first value of a parameter that is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|value| !value.is_empty())
    }

    /// Every value of a parameter, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Whether there are no other parameters than these.
    pub fn has_only(&self, names: &[&str]) -> bool {
        self.pairs.iter().all(|(key, _)| names.contains(&&**key))
    }

    /// Whether a parameter is said to be true: present and empty counts; absent is false.
    ///
    /// # Errors
    /// Its value is none of those that Go's `ParseBool` knows.
    pub fn flag(&self, name: &str) -> Result<bool, BadQuery> {
        match self.value(name) {
            None => Ok(false),
            Some("") => Ok(true),
            Some(value) => truth(value).ok_or_else(|| BadQuery(format!("{name} is true or false, not {value:?}"))),
        }
    }

    /// The parameters of a blocking query.
    ///
    /// # Errors
    /// `index` is no number, or `wait` no span of time.
    pub fn blocking(&self) -> Result<Blocking, BadQuery> {
        let index = match self.text("index") {
            None => 0,
            Some(text) => text.parse().map_err(|_| BadQuery(format!("index is a number, not {text:?}")))?,
        };
        let wait = match self.text("wait") {
            None => WAIT_DEFAULT,
            Some(text) => span(text).ok_or_else(|| {
                BadQuery(format!("wait is a span of time with a unit, such as 30s or 1m30s, not {text:?}"))
            })?,
        };
        Ok(Blocking { index, wait: wait.min(WAIT_MAX) })
    }
}

/// For how long a request waits for what is newer than an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocking {
    /// What the client knows; 0 does not wait.
    pub index: u64,
    /// How long it waits at the most.
    pub wait: Duration,
}

/// A truth value as Go's `ParseBool` reads it.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A span of time as Go's `ParseDuration` reads it: numbers with units, such as `1m30s`, `1.5h` or `120000ms`; `0`
/// needs none. Negative ones, and those longer than 292 years, are none.
pub fn span(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut nanos) = (text, 0u128);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let whole: u128 = if digits == 0 { 0 } else { rest[..digits].parse().ok()? };
        rest = &rest[digits..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            (fraction, rest) = after.split_at(digits);
        }
        if digits == 0 && fraction.is_empty() {
            return None;
        }
        let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: u128 = match &rest[..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[unit_end..];
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?;
        // Past 18 digits a fraction of an hour is below a nanosecond.
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            nanos = nanos.checked_add(fraction.parse::<u128>().ok()? * unit / 10u128.pow(fraction.len() as u32))?;
        }
        if nanos > i64::MAX as u128 {
            return None;
        }
    }
    Some(Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query<'_> {
        Query::parse(Some(text)).unwrap()
    }

    #[test]
    fn a_flag_is_true_when_it_is_there_and_empty_or_says_so_as_go_does() {
        assert!(query("passing").flag("passing").unwrap());
        assert!(query("passing=").flag("passing").unwrap());
        assert!(query("passing=T&x=1").flag("passing").unwrap());
        assert!(!query("passing=false").flag("passing").unwrap());
        assert!(!query("").flag("passing").unwrap());
        for wrong in ["passing=yes", "passing=2", "passing=tRUE"] {
            assert!(query(wrong).flag("passing").is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans_are_read_as_go_reads_them() {
        let millis = |text| span(text).map(|span| span.as_millis());
        assert_eq!(millis("120000ms"), Some(120_000));
        assert_eq!(millis("1m30s"), Some(90_000));
        assert_eq!(millis("90m"), Some(5_400_000));
        assert_eq!(millis("1.5h"), Some(5_400_000));
        assert_eq!(millis("+.5s"), Some(500));
        assert_eq!(millis("1.s"), Some(1_000));
        assert_eq!(millis("0"), Some(0));
        assert_eq!(span("1us500ns"), Some(Duration::from_nanos(1_500)));
        assert_eq!(span("1µs"), Some(Duration::from_micros(1)));
        for wrong in
            ["", "30", "-1s", "1", "s", ".s", "1x", "1s 2s", "99999999h", "1d", "1.2.3s", "9".repeat(60).as_str()]
        {
            assert_eq!(span(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_blocking_query_has_defaults_and_a_limit() {
        assert_eq!(query("wait=120000ms").blocking().unwrap(), Blocking { index: 0, wait: Duration::from_secs(120) });
        assert_eq!(query("index=7").blocking().unwrap(), Blocking { index: 7, wait: WAIT_DEFAULT });
        assert_eq!(query("index=7&wait=2h").blocking().unwrap().wait, WAIT_MAX);
        assert_eq!(query("index=&wait=").blocking().unwrap(), Blocking { index: 0, wait: WAIT_DEFAULT });
        assert!(query("index=7&wait=30").blocking().is_err(), "a bare number is no span of time");
        assert!(query("index=-1").blocking().is_err());
        assert!(query("index=18446744073709551616").blocking().is_err());
    }

    #[test]
    fn parameters_repeat_and_are_decoded() {
        let text = "node-meta=rack_name%3A2304&stale=&tag=a&tag=b+c";
        let query = query(text);
        assert_eq!(query.value("node-meta"), Some("rack_name:2304"));
        assert_eq!(query.values("tag").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!((query.value("stale"), query.text("stale")), (Some(""), None));
        assert!(Query::parse(Some(&"a&".repeat(PARAMETERS_MAX + 1))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_query_panics(text in ".{0,200}") {
            let query = Query::parse(Some(&text)).unwrap();
            let _ = (query.blocking(), query.flag("a"), span(&text), truth(&text));
        }
    }
}
