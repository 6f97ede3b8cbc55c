//! The address that the others reach this member at: given, or found among the machine's own. Knows no sockets.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// How the advertised address is found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Advertise {
    /// The bound address; if that is unspecified (`0.0.0.0`, `::`), the machine's one private address, or its one
    /// public one.
    #[default]
    Auto,
    /// This one; port 0 means the bound port.
    Addr(SocketAddr),
    /// The first address of this network interface.
    Interface(String),
    /// The machine's address in this network: its number, and how many of its bits count.
    Network(IpAddr, u8),
    /// What this environment variable says: an address, with a port or without.
    Variable(String),
}

/// Why there is no address to advertise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdvertiseError {
    /// The text means nothing.
    #[error("{0:?} is not auto, ADDR[:PORT], iface:NAME, cidr:NET or env:VAR")]
    Malformed(String),
    /// The variable is not set, or holds no address.
    #[error("the environment variable {name} holds no address: {value:?}")]
    Variable {
        /// Its name.
        name: String,
        /// What it holds; empty if it is not set.
        value: String,
    },
    /// Nothing fits.
    #[error("no address fits; this machine has {candidates}")]
    NoneFits {
        /// Every address and its interface.
        candidates: String,
    },
    /// More than one fits, and none is better.
    #[error("{candidates} could all be meant; advertise one of them, an interface or a network")]
    Ambiguous {
        /// Those that fit, with their interfaces.
        candidates: String,
    },
    /// The machine's addresses cannot be listed.
    #[error("the network interfaces cannot be listed: {0}")]
    Interfaces(String),
}

impl From<SocketAddr> for Advertise {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr)
    }
}

impl FromStr for Advertise {
    type Err = AdvertiseError;

    fn from_str(text: &str) -> Result<Self, AdvertiseError> {
        let wrong = || AdvertiseError::Malformed(text.chars().take(128).collect());
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(addr) = address(text) {
            return Ok(Self::Addr(addr));
        }
        match text.split_once(':') {
            Some(("iface", name)) if !name.is_empty() => Ok(Self::Interface(name.to_owned())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Variable(name.to_owned())),
            Some(("cidr", network)) => {
                let (ip, bits) = network.split_once('/').ok_or_else(wrong)?;
                let (ip, bits): (IpAddr, u8) = (ip.parse().map_err(|_| wrong())?, bits.parse().map_err(|_| wrong())?);
                let most = if ip.is_ipv4() { 32 } else { 128 };
                if bits <= most { Ok(Self::Network(ip, bits)) } else { Err(wrong()) }
            }
            _ => Err(wrong()),
        }
    }
}

/// An address of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
}

impl Advertise {
    /// Whether it may change while the member runs.
    pub(crate) fn drifts(&self, bound: SocketAddr) -> bool {
        match self {
            Self::Auto => bound.ip().is_unspecified(),
            Self::Interface(_) | Self::Network(..) => true,
            Self::Addr(_) | Self::Variable(_) => false,
        }
    }

    /// The address now, for a port bound at `bound`; `current` is kept while it fits.
    pub(crate) fn resolve(&self, bound: SocketAddr, current: Option<IpAddr>) -> Result<SocketAddr, AdvertiseError> {
        let with_port =
            |addr: SocketAddr| if addr.port() == 0 { SocketAddr::new(addr.ip(), bound.port()) } else { addr };
        match self {
            Self::Auto if !bound.ip().is_unspecified() => Ok(bound),
            Self::Addr(addr) => Ok(with_port(*addr)),
            Self::Variable(name) => {
                let value = std::env::var(name).unwrap_or_default();
                let addr = address(value.trim()).map(with_port);
                addr.ok_or_else(|| AdvertiseError::Variable {
                    name: name.clone(),
                    value: value.chars().take(128).collect(),
                })
            }
            Self::Auto | Self::Interface(_) | Self::Network(..) => {
                let ip = self.pick(&candidates()?, bound.ip(), current)?;
                Ok(SocketAddr::new(ip, bound.port()))
            }
        }
    }

    /// The one of the machine's addresses that is meant.
    pub(crate) fn pick(
        &self,
        candidates: &[Candidate],
        bound: IpAddr,
        current: Option<IpAddr>,
    ) -> Result<IpAddr, AdvertiseError> {
        let fits = |candidate: &&Candidate| {
            let is_reached = bound.is_ipv6() || candidate.ip.is_ipv4();
            is_reached
                && match self {
                    Self::Interface(name) => candidate.interface == *name && !is_link_local(candidate.ip),
                    Self::Network(network, bits) => is_within(candidate.ip, *network, *bits),
                    _ => !candidate.ip.is_loopback() && !is_link_local(candidate.ip),
                }
        };
        let fitting: Vec<&Candidate> = candidates.iter().filter(fits).collect();
        if let Some(current) = current.filter(|current| fitting.iter().any(|candidate| candidate.ip == *current)) {
            return Ok(current);
        }
        let best: Vec<&Candidate> = match self {
            // An interface has an order of its own.
            Self::Interface(_) => fitting.into_iter().take(1).collect(),
            _ => {
                let private: Vec<_> = fitting.iter().copied().filter(|candidate| is_private(candidate.ip)).collect();
                let best = if private.is_empty() { fitting } else { private };
                // On a port of both families every other member reaches the older one.
                let older: Vec<_> = best.iter().copied().filter(|candidate| candidate.ip.is_ipv4()).collect();
                if older.is_empty() { best } else { older }
            }
        };
        match best.as_slice() {
            [one] => Ok(one.ip),
            [] => Err(AdvertiseError::NoneFits { candidates: list(candidates.iter()) }),
            _ => Err(AdvertiseError::Ambiguous { candidates: list(best.iter().copied()) }),
        }
    }
}

/// An address with a port, or without: then 0.
fn address(text: &str) -> Option<SocketAddr> {
    let alone = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0));
    let addr: SocketAddr = text.parse().ok().or_else(alone)?;
    // Nobody can send to no address in particular.
    (!addr.ip().is_unspecified()).then_some(addr)
}

fn list<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> String {
    let named: Vec<_> = candidates.map(|one| format!("{} ({})", one.ip, one.interface)).collect();
    if named.is_empty() { "none".to_owned() } else { named.join(", ") }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (ip, network, width) = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => (u128::from(u32::from(ip)), u128::from(u32::from(network)), 32),
        (IpAddr::V6(ip), IpAddr::V6(network)) => (u128::from(ip), u128::from(network), 128),
        _ => return false,
    };
    // Shifting by all bits is not defined, and nothing is left to compare then.
    (ip ^ network).checked_shr(width - u32::from(bits)).unwrap_or(0) == 0
}

fn candidates() -> Result<Vec<Candidate>, AdvertiseError> {
    let interfaces = if_addrs::get_if_addrs().map_err(|error| AdvertiseError::Interfaces(error.to_string()))?;
    Ok(interfaces.into_iter().map(|one| Candidate { ip: one.ip(), interface: one.name }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

    fn machine(addrs: &[(&str, &str)]) -> Vec<Candidate> {
        let candidate = |(interface, ip): &(&str, &str)| Candidate {
            interface: (*interface).to_owned(),
            ip: ip.parse().expect("an address"),
        };
        addrs.iter().map(candidate).collect()
    }

    fn pick(how: &str, addrs: &[(&str, &str)]) -> Result<String, AdvertiseError> {
        let how: Advertise = how.parse().expect("it means something");
        how.pick(&machine(addrs), ANY, None).map(|ip| ip.to_string())
    }

    #[test]
    fn the_private_address_is_preferred_and_loopback_never_taken() {
        let addrs = [("lo", "127.0.0.1"), ("eth0", "8.8.8.8"), ("eth1", "10.1.2.3"), ("eth1", "fe80::1")];
        assert_eq!(pick("auto", &addrs).unwrap(), "10.1.2.3");
        assert_eq!(pick("auto", &addrs[..2]).unwrap(), "8.8.8.8");
        assert_eq!(pick("iface:eth0", &addrs).unwrap(), "8.8.8.8");
        assert_eq!(pick("cidr:8.0.0.0/8", &addrs).unwrap(), "8.8.8.8");
        assert_eq!(pick("cidr:0.0.0.0/0", &addrs[..1]).unwrap(), "127.0.0.1");
    }

    #[test]
    fn what_is_ambiguous_or_missing_is_listed() {
        let two = [("eth0", "10.0.0.1"), ("docker0", "172.17.0.1")];
        let error = pick("auto", &two).unwrap_err().to_string();
        assert!(error.contains("10.0.0.1 (eth0), 172.17.0.1 (docker0)"), "{error}");
        let error = pick("cidr:192.168.0.0/16", &two).unwrap_err().to_string();
        assert!(error.contains("no address fits") && error.contains("eth0"), "{error}");
        let kept = Advertise::Auto.pick(&machine(&two), ANY, Some("172.17.0.1".parse().unwrap()));
        assert_eq!(kept.unwrap().to_string(), "172.17.0.1", "the address of before stays while it fits");
    }

    #[test]
    fn a_port_may_differ_from_the_bound_one() {
        let bound = "127.0.0.1:7900".parse().unwrap();
        let resolve = |how: &str| how.parse::<Advertise>().unwrap().resolve(bound, None).map(|addr| addr.to_string());
        assert_eq!(resolve("auto").unwrap(), "127.0.0.1:7900");
        assert_eq!(resolve("192.0.2.1").unwrap(), "192.0.2.1:7900");
        assert_eq!(resolve("192.0.2.1:99").unwrap(), "192.0.2.1:99");
        assert_eq!(resolve("2001:db8::1").unwrap(), "[2001:db8::1]:7900");
        assert!(resolve("env:TIDINGS_NO_SUCH_VARIABLE").unwrap_err().to_string().contains("TIDINGS_NO_SUCH_VARIABLE"));
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in ["", "0.0.0.0", "here", "iface:", "cidr:10.0.0.0", "cidr:10.0.0.0/33", "cidr:x/8", "env:"] {
            assert!(wrong.parse::<Advertise>().is_err(), "{wrong}");
        }
        assert!(is_within("2001:db8::5".parse().unwrap(), "2001:db8::".parse().unwrap(), 32));
        assert!(!is_within("10.0.0.1".parse().unwrap(), "::".parse().unwrap(), 0));
    }
}
