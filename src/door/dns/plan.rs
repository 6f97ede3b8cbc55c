//! How DNS is to be served: where, for which domains, and how long answers may be kept.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::limit::RATE_DEFAULT;

/// Bytes of an answer over UDP that are the least a client can be held to (RFC 1035).
pub const UDP_BYTES_MIN: u16 = 512;

/// Bytes of an answer over UDP, unless said otherwise: what passes every path in one piece (DNS flag day 2020).
pub const UDP_BYTES_DEFAULT: u16 = 1_232;

/// The most that it can be set to.
pub const UDP_BYTES_MAX: u16 = 4_096;

/// The longest time that an answer may be kept.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Rules of a table of times.
const TTL_RULES: usize = 1_024;

/// DNS to be served.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DnsPlan {
    /// Where it listens, over UDP and TCP; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The domain of its names, in lower case and without a dot at the end.
    pub domain: Arc<str>,
    /// Domains in which the same names are found.
    pub alternatives: Vec<Arc<str>>,
    /// The datacenter, which names may have before the domain.
    pub datacenter: Arc<str>,
    /// How long answers about services may be kept.
    pub ttls: Ttls,
    /// How long answers about members may be kept; whole seconds.
    pub node_ttl: Duration,
    /// What a service that is known and has nothing to offer is answered with.
    pub empty: Empty,
    /// Whether instances with a warning are left out, too.
    pub only_passing: bool,
    /// Whether metadata is told in TXT records.
    pub has_text: bool,
    /// Whether instances of nearer zones come first: those of the zone of this member, then those of others by their
    /// round-trip times. Without, they come in random order.
    pub near: bool,
    /// The largest answer over UDP, from [`UDP_BYTES_MIN`] to [`UDP_BYTES_MAX`]. What a client says that it can take
    /// counts too.
    pub udp_bytes_max: u16,
    /// Answers a second over UDP to each network off loopback (a /24, or a /56 of IPv6); 0 for any number.
    pub rate: u32,
}

impl DnsPlan {
    /// DNS on this address, with everything else as it is unless given.
    pub fn new(bind: SocketAddr) -> Self {
        Self {
            bind,
            domain: Arc::from("tidings"),
            alternatives: vec![Arc::from("consul")],
            datacenter: Arc::from("dc1"),
            ttls: Ttls::default(),
            node_ttl: Duration::ZERO,
            empty: Empty::NoData,
            only_passing: false,
            has_text: false,
            near: false,
            udp_bytes_max: UDP_BYTES_DEFAULT,
            rate: RATE_DEFAULT,
        }
    }

    /// A domain as it is kept: in lower case, without the dot at the end.
    ///
    /// # Errors
    /// It is none: it is empty or too long, a label is empty or too long, or has other characters than letters,
    /// digits, hyphens and underscores.
    pub fn domain(text: &str) -> Result<Arc<str>, DomainError> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_plain);
        // Names stand before it, and all have 255 bytes at the most.
        let is_domain = text.len() <= 100 && text.split('.').all(is_label);
        // They are the internet's, and we answer in them for addresses that we know.
        let is_taken = text == "arpa" || text.ends_with(".arpa");
        if is_domain && !is_taken { Ok(Arc::from(text)) } else { Err(DomainError { text }) }
    }
}

/// A text is no domain for the names of services.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is no domain: labels of letters, digits and hyphens between dots, 100 bytes at most, not of arpa")]
pub struct DomainError {
    text: String,
}

/// What a service is answered with that is known, and of which nothing can be told.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Empty {
    /// That the name exists without such records. Resolvers keep that for no other type of record, and no other name.
    #[default]
    NoData,
    /// That there is no such name, as Consul does.
    NxDomain,
}

/// How long answers about services may be kept, by their names: the rule for the very name, or else that with the
/// longest beginning of it (`web-*`), or else that for all (`*`); without any, not at all.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ttls {
    /// Sorted, so that the longest beginning that fits is the last that fits.
    prefixes: Vec<(Box<str>, u32)>,
    exact: Vec<(Box<str>, u32)>,
}

/// A rule that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TtlsError {
    /// It is not `NAME=TIME`.
    #[error("{0:?} is not SERVICE=TIME, such as web=5s, web-*=5s or *=1s")]
    Shape(String),
    /// The time is none, or too long.
    #[error("{0:?} is no whole number of seconds up to a day, such as 5s or 10m")]
    Time(String),
    /// There are too many.
    #[error("more than {TTL_RULES} rules")]
    TooMany,
}

impl Ttls {
    /// Adds the rule `NAME=TIME`; the time is a number with s or m. A rule of the same name is replaced.
    ///
    /// # Errors
    /// It is no rule. Nothing is changed.
    pub fn add(&mut self, rule: &str) -> Result<(), TtlsError> {
        let shape = || TtlsError::Shape(rule.chars().take(128).collect());
        let (name, time) = rule.rsplit_once('=').ok_or_else(shape)?;
        let seconds = seconds(time)?;
        let name = name.to_ascii_lowercase();
        let (rules, name) = match name.strip_suffix('*') {
            Some(prefix) => (&mut self.prefixes, prefix),
            None if name.is_empty() => return Err(shape()),
            None => (&mut self.exact, &*name),
        };
        match rules.binary_search_by(|(other, _)| (**other).cmp(name)) {
            Ok(at) => rules[at].1 = seconds,
            Err(_) if rules.len() >= TTL_RULES => return Err(TtlsError::TooMany),
            Err(at) => rules.insert(at, (Box::from(name), seconds)),
        }
        Ok(())
    }

    /// The seconds for a service, whose name is given in lower case.
    pub fn of(&self, service: &str) -> u32 {
        if let Ok(at) = self.exact.binary_search_by(|(name, _)| (**name).cmp(service)) {
            return self.exact[at].1;
        }
        let fitting = self.prefixes.iter().rev().find(|(prefix, _)| service.starts_with(&**prefix));
        fitting.map_or(0, |(_, seconds)| *seconds)
    }
}

impl FromStr for Ttls {
    type Err = TtlsError;

    /// Reads one rule.
    fn from_str(rule: &str) -> Result<Self, TtlsError> {
        let mut ttls = Self::default();
        ttls.add(rule)?;
        Ok(ttls)
    }
}

/// Whole seconds, as `5s` or `10m`.
fn seconds(text: &str) -> Result<u32, TtlsError> {
    let wrong = || TtlsError::Time(text.chars().take(64).collect());
    let (number, unit) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 60),
        _ => return Err(wrong()),
    };
    let is_number = (1..=9).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_number).ok_or_else(wrong)?;
    let seconds = number * unit;
    u32::try_from(seconds).ok().filter(|_| seconds <= TTL_MAX.as_secs()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_very_name_wins_over_the_longest_beginning_and_that_over_all() {
        let mut ttls = Ttls::default();
        assert_eq!(ttls.of("web"), 0, "nothing is kept unless somebody says so");
        for rule in ["*=1s", "w*=2s", "Web-*=1m", "web-a=4s", "web-b=9s", "web-b=5s"] {
            ttls.add(rule).expect("it is right");
        }
        let of = |name| ttls.of(name);
        assert_eq!((of("db"), of("we"), of("web"), of("web-c")), (1, 2, 2, 60));
        assert_eq!((of("web-a"), of("web-b"), of("web-aa")), (4, 5, 60));
    }

    #[test]
    fn a_rule_that_means_nothing_is_refused() {
        for wrong in ["web", "=1s", "web=", "web=5", "web=1h", "web=-1s", "web=1.5s", "web=86401s", "web=9999999999s"] {
            assert!(wrong.parse::<Ttls>().is_err(), "{wrong}");
        }
        assert!("web=1440m".parse::<Ttls>().is_ok());
    }

    #[test]
    fn a_domain_is_kept_in_lower_case_and_what_is_none_is_refused() {
        assert_eq!(&*DnsPlan::domain("Svc.Example.").expect("it is one"), "svc.example");
        for wrong in ["", ".", "a..b", "a b", "größe", ".a", &"a".repeat(64), &"a.".repeat(60), "1.10.in-addr.arpa"] {
            assert!(DnsPlan::domain(wrong).is_err(), "{wrong:?}");
        }
    }
}
