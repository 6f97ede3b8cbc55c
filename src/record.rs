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
    /// Bytes of a cluster, member or service name, zone, group, namespace, protocol, port name or address tag.
    pub const NAME_BYTES_MAX: usize = 128;
    /// Bytes of an instance id: the longest default id, `service@member:port`, fits.
    pub const ID_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + "@:65535".len();
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

impl Endpoint {
    /// The port at a host given by name; the name is checked with the instance, see [`Instance::check`].
    pub fn named(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self { host: Host::Name(host.into()), port }
    }

    fn check(&self, what: &'static str) -> Result<(), InstanceError> {
        let Host::Name(host) = &self.host else {
            return Ok(());
        };
        check_text(what, host, limits::HOST_BYTES_MAX)?;
        let is_banned = |c: char| c.is_whitespace() || matches!(c, ':' | '[' | ']' | '/' | '@');
        match host.chars().find(|&c| is_banned(c)) {
            Some(character) => Err(InstanceError::Character { what, value: cut(host), character }),
            None => Ok(()),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self { host: Host::Ip(addr.ip()), port: addr.port() }
    }
}

impl From<(IpAddr, u16)> for Endpoint {
    fn from((ip, port): (IpAddr, u16)) -> Self {
        Self { host: Host::Ip(ip), port }
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

    /// The status as a word, as it stands in every output; a maintenance's reason is not part of it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Draining => "draining",
            Self::Maintenance(_) => "maintenance",
        }
    }
}

impl FromStr for Status {
    type Err = InstanceError;

    /// Reads the word of [`Status::as_str`]; a maintenance takes its reason after a colon: `maintenance:disk swap`.
    fn from_str(text: &str) -> Result<Self, InstanceError> {
        Ok(match text {
            "starting" => Self::Starting,
            "passing" => Self::Passing,
            "warning" => Self::Warning,
            "critical" => Self::Critical,
            "draining" => Self::Draining,
            "maintenance" => Self::Maintenance(Arc::from("")),
            _ => match text.strip_prefix("maintenance:") {
                Some(reason) => Self::Maintenance(Arc::from(reason)),
                None => return Err(InstanceError::Status { value: cut(text) }),
            },
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Maintenance(reason) if !reason.is_empty() => write!(f, "maintenance:{reason}"),
            other => f.write_str(other.as_str()),
        }
    }
}

/// One instance of a service. Only the service's name and the address are required, also where it is read from a file;
/// what was read there is not checked yet, see [`Instance::check`].
///
/// ```
/// use tidings::record::{Endpoint, Instance};
///
/// # fn main() -> Result<(), tidings::record::InstanceError> {
/// let address: Endpoint = "127.0.0.1:8080".parse()?;
/// let web = Instance::new("web", address)?
///     .with_version("1.2.0")
///     .with_tag("v1")
///     .with_weight(10)
///     .with_meta("owner", "team-a");
/// assert!(web.check().is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// The service.
    pub service: Arc<str>,
    /// Its id, unique within its member. Empty until `register` fills in [`Instance::default_id`], unless given.
    #[serde(default = "Key::member")]
    pub id: Key,
    /// Where it listens.
    pub address: Endpoint,
    /// The version of the service; readers select by semantic versions where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Arc<str>>,
    /// Further ports by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<Arc<str>, u16>,
    /// Further addresses by tag, such as `wan` or `lan_ipv6`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<Arc<str>, Endpoint>,
    /// Tags.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<Arc<str>>,
    /// Free-form metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
    /// Its share of the traffic beside the others' weights; 0 gets none.
    #[serde(default = "Instance::weight_default")]
    pub weight: u32,
    /// The group it belongs to, such as `vip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    /// The namespace, such as one per environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// What it speaks, such as `http` or `grpc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Arc<str>>,
    /// What it says of itself.
    #[serde(default)]
    pub status: Status,
    /// When it was registered, in milliseconds since the Unix epoch by its owner's clock; set by `register`.
    #[serde(default)]
    pub registered_at: u64,
}

impl Instance {
    /// The weight of an instance that does not say.
    pub const WEIGHT_DEFAULT: u32 = 1;

    const fn weight_default() -> u32 {
        Self::WEIGHT_DEFAULT
    }

    /// An instance with nothing but the two required parts; the `with_` methods add to it. What those add is checked
    /// by [`check`](Self::check), and by `register`, which sends nothing of an instance that fails it.
    ///
    /// # Errors
    /// See [`InstanceError`]; the service's name or the address breaks a rule or a limit.
    pub fn new(service: impl Into<Arc<str>>, address: impl Into<Endpoint>) -> Result<Self, InstanceError> {
        let instance = Self {
            service: service.into(),
            id: Key::member(),
            address: address.into(),
            version: None,
            ports: BTreeMap::new(),
            addresses: BTreeMap::new(),
            tags: BTreeSet::new(),
            meta: BTreeMap::new(),
            weight: Self::WEIGHT_DEFAULT,
            group: None,
            namespace: None,
            zone: None,
            protocol: None,
            status: Status::default(),
            registered_at: 0,
        };
        instance.check()?;
        Ok(instance)
    }

    /// The id of an instance that was given none: `service@member:port`.
    ///
    /// ```
    /// # use tidings::record::Instance;
    /// assert_eq!(Instance::default_id("web", "node-1", 8080).as_str(), "web@node-1:8080");
    /// ```
    pub fn default_id(service: &str, member: &str, port: u16) -> Key {
        Key(Arc::from(format!("{service}@{member}:{port}")))
    }

    /// Sets the id, which must be unique within the member.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Key::from(id);
        self
    }

    /// Sets the version of the service.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<Arc<str>>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Adds a named port, or replaces the one of that name.
    #[must_use]
    pub fn with_port(mut self, name: impl Into<Arc<str>>, port: u16) -> Self {
        self.ports.insert(name.into(), port);
        self
    }

    /// Adds a further address, or replaces the one with that tag.
    #[must_use]
    pub fn with_address(mut self, tag: impl Into<Arc<str>>, address: impl Into<Endpoint>) -> Self {
        self.addresses.insert(tag.into(), address.into());
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<Arc<str>>) -> Self {
        self.tags.insert(tag.into());
        self
    }

    /// Adds an entry of metadata, or replaces the one of that key.
    #[must_use]
    pub fn with_meta(mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// Sets its share of the traffic; [`Self::WEIGHT_DEFAULT`] unless given, 0 gets none.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the group.
    #[must_use]
    pub fn with_group(mut self, group: impl Into<Arc<str>>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Sets the namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<Arc<str>>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets where it stands.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Sets what it speaks.
    #[must_use]
    pub fn with_protocol(mut self, protocol: impl Into<Arc<str>>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }

    /// Sets what it says of itself; [`Status::Passing`] unless given.
    #[must_use]
    pub fn with_status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    /// Checks every part against its rule and [`limits`]. An empty id passes, because `register` fills it in; the
    /// size of the whole, [`limits::RECORD_BYTES_MAX`], is checked when the record is encoded.
    ///
    /// # Errors
    /// The first part that breaks a rule, see [`InstanceError`].
    pub fn check(&self) -> Result<(), InstanceError> {
        check_name("service name", &self.service)?;
        if self.service.contains('/') {
            return Err(InstanceError::Character { what: "service name", value: cut(&self.service), character: '/' });
        }
        if !self.id.is_member() {
            check_text("instance id", self.id.as_str(), limits::ID_BYTES_MAX)?;
        }
        self.address.check("host")?;
        if let Some(version) = &self.version {
            check_text("version", version, limits::REASON_BYTES_MAX)?;
        }
        for (what, name) in
            [("group", &self.group), ("namespace", &self.namespace), ("zone", &self.zone), ("protocol", &self.protocol)]
        {
            name.as_deref().map_or(Ok(()), |name| check_name(what, name))?;
        }
        self.check_collections()?;
        if self.weight > limits::WEIGHT_MAX {
            return Err(InstanceError::Weight { weight: self.weight, limit: limits::WEIGHT_MAX });
        }
        match &self.status {
            // A reason may be left out, but what is there is shown to people and so must be a line of text.
            Status::Maintenance(reason) if !reason.is_empty() => {
                check_text("maintenance reason", reason, limits::REASON_BYTES_MAX)
            }
            _ => Ok(()),
        }
    }

    fn check_collections(&self) -> Result<(), InstanceError> {
        check_count("named ports", self.ports.len(), limits::PORTS_MAX)?;
        self.ports.keys().try_for_each(|name| check_name("port name", name))?;
        check_count("tagged addresses", self.addresses.len(), limits::PORTS_MAX)?;
        for (tag, address) in &self.addresses {
            check_name("address tag", tag)?;
            address.check("host of a tagged address")?;
        }
        check_count("tags", self.tags.len(), limits::TAGS_MAX)?;
        self.tags.iter().try_for_each(|tag| check_text("tag", tag, limits::TAG_BYTES_MAX))?;
        check_count("metadata entries", self.meta.len(), limits::META_MAX)?;
        self.meta.keys().try_for_each(|key| check_text("metadata key", key, limits::META_KEY_BYTES_MAX))
    }
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
    #[error("{what} {value:?} has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its value, cut to 64 characters.
        value: String,
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
    /// A part has white space at an end, which readers could not see.
    #[error("{what} {value:?} begins or ends with white space")]
    WhiteSpace {
        /// Which part.
        what: &'static str,
        /// Its value, cut to 64 characters.
        value: String,
    },
    /// The status is no known word.
    #[error("status {value:?} is none of starting, passing, warning, critical, draining, maintenance[:REASON]")]
    Status {
        /// What was given, cut to 64 characters.
        value: String,
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
        /// What was given, cut to 64 characters.
        value: String,
    },
}

/// Checks a name that people read and type (of a cluster, member, zone, group ...): not empty, at most
/// [`limits::NAME_BYTES_MAX`] bytes, no control character, no white space at either end.
///
/// # Errors
/// The first rule that it breaks; `what` stands in the message.
pub fn check_name(what: &'static str, name: &str) -> Result<(), InstanceError> {
    check_text(what, name, limits::NAME_BYTES_MAX)
}

fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), InstanceError> {
    if text.is_empty() {
        return Err(InstanceError::Empty { what });
    }
    if text.len() > limit {
        return Err(InstanceError::TooLong { what, value: cut(text), bytes: text.len(), limit });
    }
    if let Some(character) = text.chars().find(|c| c.is_control()) {
        return Err(InstanceError::Character { what, value: cut(text), character });
    }
    if text.trim().len() != text.len() {
        return Err(InstanceError::WhiteSpace { what, value: cut(text) });
    }
    Ok(())
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), InstanceError> {
    if count > limit { Err(InstanceError::TooMany { what, count, limit }) } else { Ok(()) }
}

/// The beginning of a value, for a message.
fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

impl FromStr for Endpoint {
    type Err = InstanceError;

    /// Reads `HOST:PORT`, with an IPv6 host in brackets.
    fn from_str(text: &str) -> Result<Self, InstanceError> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(addr.into());
        }
        let wrong = || InstanceError::Address { value: cut(text) };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || host.contains([':', '[', ']', '/', ' ']) {
            return Err(wrong());
        }
        Ok(Self { host: Host::Name(Arc::from(host)), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Instance {
        Instance::new("web", SocketAddr::from(([127, 0, 0, 1], 8080))).unwrap()
    }

    #[test]
    fn a_name_and_an_address_are_enough() {
        let web = web();
        assert_eq!(web.weight, 1);
        assert_eq!(web.status, Status::Passing);
        assert!(web.id.is_member(), "register fills in the default");
        assert_eq!(
            serde_json::to_string(&web).unwrap(),
            r#"{"service":"web","id":"","address":{"host":"127.0.0.1","port":8080},"weight":1,"status":{"state":"passing"},"registered_at":0}"#
        );
    }

    #[test]
    fn a_service_name_that_could_not_be_typed_or_routed_is_refused() {
        let build = |name: &str| Instance::new(name, SocketAddr::from(([127, 0, 0, 1], 1)));
        assert_eq!(build("").unwrap_err(), InstanceError::Empty { what: "service name" });
        assert_eq!(build("a/b").unwrap_err().to_string().matches("'/'").count(), 1);
        assert!(matches!(build("a\nb"), Err(InstanceError::Character { character: '\n', .. })));
        assert!(matches!(build(" a"), Err(InstanceError::WhiteSpace { .. })));
        assert!(build("größe 2").is_ok());
        let long = "x".repeat(limits::NAME_BYTES_MAX + 1);
        assert_eq!(
            build(&long).unwrap_err().to_string(),
            format!("service name {:?} has 129 bytes, the limit is 128", "x".repeat(64))
        );
        assert!(build(&long[1..]).is_ok());
    }

    #[test]
    fn every_part_is_checked() {
        let many = |n: usize| (0..n).map(|i| Arc::<str>::from(format!("t{i}")));
        let mut too_many_tags = web();
        too_many_tags.tags = many(limits::TAGS_MAX + 1).collect();
        let mut too_much_meta = web();
        too_much_meta.meta = many(limits::META_MAX + 1).map(|k| (k.clone(), k)).collect();
        let mut too_many_ports = web();
        too_many_ports.ports = many(limits::PORTS_MAX + 1).map(|k| (k, 1)).collect();
        let mut too_many_addresses = web();
        too_many_addresses.addresses = many(limits::PORTS_MAX + 1).map(|k| (k, Endpoint::named("h", 1))).collect();
        let bad = [
            ("instance id", web().with_id("a\tb")),
            ("version", web().with_version("")),
            ("group", web().with_group("")),
            ("namespace", web().with_namespace(" x")),
            ("zone", web().with_zone("x".repeat(129))),
            ("protocol", web().with_protocol("\u{7f}")),
            ("port name", web().with_port("", 1)),
            ("address tag", web().with_address("", Endpoint::named("h", 1))),
            ("host of a tagged address", web().with_address("wan", Endpoint::named("a b", 1))),
            ("host", Instance { address: Endpoint::named("h".repeat(254), 1), ..web() }),
            ("tag", web().with_tag("x".repeat(257))),
            ("metadata key", web().with_meta("", "v")),
            ("weight", web().with_weight(65_536)),
            ("maintenance reason", web().with_status(Status::Maintenance(Arc::from("x".repeat(257))))),
            ("tags", too_many_tags),
            ("metadata entries", too_much_meta),
            ("named ports", too_many_ports),
            ("tagged addresses", too_many_addresses),
        ];
        for (what, instance) in bad {
            let error = instance.check().expect_err(what).to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn the_longest_default_id_is_a_valid_id() {
        let name = "x".repeat(limits::NAME_BYTES_MAX);
        let id = Instance::default_id(&name, &name, u16::MAX);
        assert_eq!(id.as_str().len(), limits::ID_BYTES_MAX);
        assert_eq!(web().with_id(id.as_str()).check(), Ok(()));
    }

    #[test]
    fn an_endpoint_reads_what_it_writes() {
        for text in ["127.0.0.1:80", "[::1]:80", "db.example:5432", "db:0"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "db", ":80", "db:", "db:65536", "::1:80", "http://db:80", "a b:80"] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_status_reads_what_it_writes() {
        let words = ["starting", "passing", "warning", "critical", "draining", "maintenance", "maintenance:disk"];
        for text in words {
            assert_eq!(text.parse::<Status>().unwrap().to_string(), text);
        }
        assert!("pasing".parse::<Status>().unwrap_err().to_string().contains("passing"));
    }
}
