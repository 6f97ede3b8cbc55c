//! What a member states about itself: service instances and the member's own record, checked when they are built.
//! Knows nothing of bytes, versions in flight or who believes what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::peer::{Generation, NodeId};

/// The version of a record: its owner's counter at the change, one higher at each change of any of its records.
pub type Version = u64;

/// A record's key within its owner: an instance id, or [`Key::MEMBER`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key(Arc<str>);

impl Key {
    /// The reserved key of the member's own record. No instance id can be empty, so none can take it.
    pub const MEMBER: &'static str = "";

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the member's own record.
    pub fn is_member(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of a member's own record.
    pub fn member() -> Self {
        Self(Arc::from(Self::MEMBER))
    }
}

impl From<&str> for Key {
    fn from(id: &str) -> Self {
        Self(Arc::from(id))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_member() { "(member)" } else { &self.0 })
    }
}

/// Limits of a record's parts; what exceeds one is refused where it is built, with the value and the limit.
pub mod limits {
    /// Bytes of a service name, instance id, member name, zone, group, namespace, protocol or port name.
    pub const NAME_BYTES_MAX: usize = 128;
    /// Bytes of a tag.
    pub const TAG_BYTES_MAX: usize = 256;
    /// Tags of one instance.
    pub const TAGS_MAX: usize = 256;
    /// Entries of an instance's metadata.
    pub const META_MAX: usize = 1_024;
    /// Bytes of a metadata key.
    pub const META_KEY_BYTES_MAX: usize = 256;
    /// Named ports, and tagged addresses, of one instance.
    pub const PORTS_MAX: usize = 64;
    /// Bytes of a host name (RFC 1035 section 2.3.4).
    pub const HOST_BYTES_MAX: usize = 253;
    /// Bytes of the reason of a maintenance, and of a version.
    pub const REASON_BYTES_MAX: usize = 256;
    /// The largest weight.
    pub const WEIGHT_MAX: u32 = 65_535;
    /// Bytes of a whole encoded record.
    pub const RECORD_BYTES_MAX: usize = 64 * 1024;
}

/// A host: an IP address, or a name that readers resolve themselves.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A DNS name.
    Name(Arc<str>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Where an instance listens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// The port; 0 where the service has none.
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self { host: Host::Ip(addr.ip()), port: addr.port() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// What an instance says of itself. Whether its member answers is another matter, see [`crate::MemberState`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum Status {
    /// Not ready for traffic yet.
    Starting,
    /// Ready.
    #[default]
    Passing,
    /// Ready, with something to look at; still gets traffic.
    Warning,
    /// Not able to serve.
    Critical,
    /// Finishing what it has; takes nothing new.
    Draining,
    /// Taken out by hand, with the reason.
    Maintenance(Arc<str>),
}

impl Status {
    /// Whether the instance takes new work: passing or warning.
    pub const fn is_serving(&self) -> bool {
        matches!(self, Self::Passing | Self::Warning)
    }
}

/// One instance of a service. Only the service's name and the address are required.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Instance {
    /// The service.
    pub service: Arc<str>,
    /// Its id, unique within its member: `service@member:port` unless given.
    pub id: Key,
    /// Where it listens.
    pub address: Endpoint,
    /// The version of the service; readers select by semantic versions where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Arc<str>>,
    /// Further ports by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<Arc<str>, u16>,
    /// Further addresses by tag, such as `wan` or `lan_ipv6`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<Arc<str>, Endpoint>,
    /// Tags.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<Arc<str>>,
    /// Free-form metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
    /// Its share of the traffic beside the others' weights; 0 gets none.
    pub weight: u32,
    /// The group it belongs to, such as `vip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    /// The namespace, such as one per environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// What it speaks, such as `http` or `grpc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Arc<str>>,
    /// What it says of itself.
    pub status: Status,
    /// When it was registered, in milliseconds since the Unix epoch by its owner's clock; set by `register`.
    pub registered_at: u64,
}

/// What a member states about itself under [`Key::MEMBER`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRecord {
    /// Where the others reach it.
    pub addr: SocketAddr,
    /// Its life at the time of the statement.
    pub generation: Generation,
    /// 64 random bits of its start.
    pub nonce: u64,
    /// Its name for people.
    pub name: Arc<str>,
    /// Where it stands; empty if it did not say.
    pub zone: Arc<str>,
    /// Further addresses that it listens on.
    pub addresses: Vec<SocketAddr>,
    /// The oldest and newest wire version that it speaks.
    pub wire: (u8, u8),
    /// The version of the software it runs.
    pub software: Arc<str>,
    /// Whether it said goodbye with this statement.
    pub has_left: bool,
}

/// What a live record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// The member itself.
    Member(Arc<MemberRecord>),
    /// One of its instances.
    Instance(Arc<Instance>),
    /// Something that a newer version states; kept and passed on, not shown.
    Unknown,
}

/// Whose record: the member and its start. A renewal keeps its records, a restart replaces them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// The member.
    pub id: NodeId,
    /// Its start.
    pub epoch: u64,
}

/// Why an instance could not be built. Nothing was registered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
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
    /// A part has a character that it may not have.
    #[error("{what} {value:?} has the character {character:?}, which is not allowed there")]
    Character {
        /// Which part.
        what: &'static str,
        /// Its value, cut to 64 characters.
        value: String,
        /// The first such character.
        character: char,
    },
    /// The weight is out of range.
    #[error("weight {weight} is above the limit {limit}")]
    Weight {
        /// The weight.
        weight: u32,
        /// The limit.
        limit: u32,
    },
    /// The address is not `HOST:PORT`.
    #[error("address {value:?} is not HOST:PORT, with an IPv6 host in brackets")]
    Address {
        /// What was given.
        value: String,
    },
}

impl Instance {
    /// LOCAL STUB, dropped when the real one comes.
    pub fn new(service: &str, address: Endpoint) -> Result<Self, InstanceError> {
        Ok(Self {
            service: Arc::from(service),
            id: Key::from(service),
            address,
            version: None,
            ports: BTreeMap::new(),
            addresses: BTreeMap::new(),
            tags: BTreeSet::new(),
            meta: BTreeMap::new(),
            weight: 1,
            group: None,
            namespace: None,
            zone: None,
            protocol: None,
            status: Status::Passing,
            registered_at: 0,
        })
    }
}

impl FromStr for Endpoint {
    type Err = InstanceError;

    /// Reads `HOST:PORT`, with an IPv6 host in brackets.
    fn from_str(text: &str) -> Result<Self, InstanceError> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(addr.into());
        }
        let wrong = || InstanceError::Address { value: text.chars().take(64).collect() };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || host.contains([':', '[', ']', '/', ' ']) {
            return Err(wrong());
        }
        Ok(Self { host: Host::Name(Arc::from(host)), port })
    }
}
