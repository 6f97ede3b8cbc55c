//! Records as bytes: a kind and tagged fields, kept as their owner wrote them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

#[cfg(test)]
use super::pretend;
use super::{WireError, put, split, take, take_all};
use crate::peer::Generation;
use crate::record::{
    Content, Endpoint, Host, Instance, Key, MemberRecord, Owner, Status, Version,
    limits::{ID_BYTES_MAX, RECORD_BYTES_MAX},
};

/// The most bytes of a record's body that travels inline in a datagram; a larger one travels as length and hash.
pub(crate) const INLINE_BYTES_MAX: usize = 800;

/// Bytes that a rumor takes beside its body: owner (9 + 9), the key and its length (3), version (9), body head (4).
const RUMOR_HEAD_BYTES_MAX: usize = 18 + 3 + ID_BYTES_MAX + 9 + 4;

/// The most bytes of one record in a rumors section.
pub(crate) const RUMOR_BYTES_MAX: usize = RUMOR_HEAD_BYTES_MAX + INLINE_BYTES_MAX;

/// The largest version: a thousand changes a second for eight thousand years.
pub(crate) const VERSION_MAX: Version = (1 << 48) - 1;

const KIND_MEMBER: u8 = 1;
const KIND_INSTANCE: u8 = 2;

/// One versioned statement by its owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub owner: Owner,
    /// What it is about.
    pub key: Key,
    /// Its version.
    pub version: Version,
    /// What it says.
    pub body: Body,
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body {
    /// A tombstone: it is withdrawn.
    Gone,
    /// The content, as its owner wrote it.
    Live(Bytes),
    /// The content is too long for a datagram: ask for it over a stream.
    Large {
        /// Its bytes.
        len: u32,
        /// Their XXH3 hash.
        hash: u64,
    },
}

/// A body that stays where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BodyRef<'a> {
    Gone,
    Live(&'a Bytes),
}

impl BodyRef<'_> {
    pub(crate) fn to_owned(self) -> Body {
        match self {
            Self::Gone => Body::Gone,
            Self::Live(bytes) => Body::Live(bytes.clone()),
        }
    }
}

/// The hash of a record's content.
pub(crate) fn content_hash(content: &[u8]) -> u64 {
    xxh3_64(content)
}

impl Record {
    /// The record as it travels in a rumor: a long content as length and hash.
    pub(crate) fn encode(owner: Owner, key: &Key, version: Version, body: BodyRef<'_>) -> Vec<u8> {
        let body = match body {
            BodyRef::Gone => Body::Gone,
            BodyRef::Live(bytes) if bytes.len() <= INLINE_BYTES_MAX => Body::Live(bytes.clone()),
            BodyRef::Live(bytes) => Body::Large {
                len: u32::try_from(bytes.len()).expect("a record is at most 64 KiB"),
                hash: content_hash(bytes),
            },
        };
        let mut into = Vec::with_capacity(96);
        let record = Self { owner, key: key.clone(), version, body };
        put(&mut into, &record).expect("a record of bounded parts encodes");
        debug_assert!(into.len() <= RUMOR_BYTES_MAX, "{} bytes", into.len());
        into
    }

    /// Reads a record from the front of `bytes`.
    pub(super) fn read(bytes: &mut &[u8]) -> Result<Self, WireError> {
        let record: Self = take(bytes, "record")?;
        record.check()?;
        Ok(record)
    }

    /// Whether its parts are within their limits.
    pub(super) fn check(&self) -> Result<(), WireError> {
        if self.key.as_str().len() > ID_BYTES_MAX {
            return Err(WireError::Invalid("record key"));
        }
        if self.version > VERSION_MAX {
            return Err(WireError::Invalid("record version"));
        }
        match &self.body {
            Body::Live(bytes) if bytes.len() > RECORD_BYTES_MAX => Err(WireError::Invalid("record length")),
            Body::Large { len, .. } if *len as usize > RECORD_BYTES_MAX => Err(WireError::Invalid("record length")),
            _ => Ok(()),
        }
    }
}

/// Writes tagged fields.
struct Fields(Vec<u8>);

impl Fields {
    fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    fn add<T: Serialize>(&mut self, tag: u8, value: &T) -> Result<(), WireError> {
        let mut bytes = Vec::new();
        put(&mut bytes, value)?;
        self.0.push(tag);
        put(&mut self.0, &(bytes.len() as u32))?;
        self.0.extend_from_slice(&bytes);
        Ok(())
    }

    fn add_if<T: Serialize>(&mut self, tag: u8, value: &Option<T>) -> Result<(), WireError> {
        value.as_ref().map_or(Ok(()), |value| self.add(tag, value))
    }

    fn finish(self) -> Result<Bytes, WireError> {
        let Self(fields) = self;
        #[cfg(test)]
        let fields = Self(fields).pretended()?.0;
        let bytes = fields.len();
        if bytes > RECORD_BYTES_MAX {
            return Err(WireError::TooLarge { what: "record", bytes, limit: RECORD_BYTES_MAX });
        }
        Ok(Bytes::from(fields))
    }

    #[cfg(test)]
    fn pretended(mut self) -> Result<Self, WireError> {
        if pretend::is_newer() {
            self.add(pretend::TAG, &pretend::NEWS)?;
        }
        Ok(self)
    }
}

/// Reads the next tagged field.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Result<(u8, &'a [u8]), WireError> {
    let tag = split(bytes, 1, "field tag")?[0];
    let len: u32 = take(bytes, "field length")?;
    Ok((tag, split(bytes, len as usize, "field")?))
}

/// An endpoint as it travels: `Host` is untagged for people's JSON, and bincode needs a tag.
#[derive(Serialize, Deserialize)]
enum WireHost {
    Ip(IpAddr),
    Name(Arc<str>),
}

#[derive(Serialize, Deserialize)]
struct WireEndpoint(WireHost, u16);

impl From<&Endpoint> for WireEndpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let host = match &endpoint.host {
            Host::Ip(ip) => WireHost::Ip(*ip),
            Host::Name(name) => WireHost::Name(name.clone()),
        };
        Self(host, endpoint.port)
    }
}

impl From<WireEndpoint> for Endpoint {
    fn from(WireEndpoint(host, port): WireEndpoint) -> Self {
        let host = match host {
            WireHost::Ip(ip) => Host::Ip(ip),
            WireHost::Name(name) => Host::Name(name),
        };
        Self { host, port }
    }
}

/// The content of an instance's record. The instance must have passed its checks.
///
/// # Errors
/// [`WireError::TooLarge`] with its size and the limit.
pub fn encode_instance(instance: &Instance) -> Result<Bytes, WireError> {
    instance_fields(instance)?.finish()
}

/// Like [`encode_instance`], of an instance that may be too large to be registered.
pub(super) fn encode_any_instance(instance: &Instance) -> Result<Vec<u8>, WireError> {
    Ok(instance_fields(instance)?.0)
}

fn instance_fields(instance: &Instance) -> Result<Fields, WireError> {
    let mut fields = Fields::new(KIND_INSTANCE);
    fields.add(1, &instance.service)?;
    fields.add(2, &WireEndpoint::from(&instance.address))?;
    fields.add(3, &instance.registered_at)?;
    fields.add_if(4, &instance.version)?;
    if !instance.ports.is_empty() {
        fields.add(5, &instance.ports)?;
    }
    if !instance.addresses.is_empty() {
        let addresses: Vec<_> = instance.addresses.iter().map(|(tag, at)| (tag, WireEndpoint::from(at))).collect();
        fields.add(6, &addresses)?;
    }
    if !instance.tags.is_empty() {
        fields.add(7, &instance.tags)?;
    }
    if !instance.meta.is_empty() {
        fields.add(8, &instance.meta)?;
    }
    if instance.weight != DEFAULT_WEIGHT {
        fields.add(9, &instance.weight)?;
    }
    fields.add_if(10, &instance.group)?;
    fields.add_if(11, &instance.namespace)?;
    fields.add_if(12, &instance.zone)?;
    fields.add_if(13, &instance.protocol)?;
    if instance.status != Status::default() {
        fields.add(14, &status_parts(&instance.status))?;
    }
    #[cfg(test)]
    if pretend::is_newer() && &*instance.service == pretend::NEW_KIND {
        fields.0[0] = pretend::KIND;
    }
    Ok(fields)
}

/// The weight that is not written.
const DEFAULT_WEIGHT: u32 = 1;

fn status_parts(status: &Status) -> (u8, Option<&Arc<str>>) {
    match status {
        Status::Starting => (0, None),
        Status::Passing => (1, None),
        Status::Warning => (2, None),
        Status::Critical => (3, None),
        Status::Draining => (4, None),
        Status::Maintenance(reason) => (5, Some(reason)),
    }
}

/// A status that a newer version invented gets no traffic from us.
fn status_from((number, reason): (u8, Option<Arc<str>>)) -> Status {
    match number {
        0 => Status::Starting,
        1 => Status::Passing,
        2 => Status::Warning,
        4 => Status::Draining,
        5 => Status::Maintenance(reason.unwrap_or_default()),
        _ => Status::Critical,
    }
}

/// The content of a member's own record.
///
/// # Errors
/// [`WireError::TooLarge`] with its size and the limit.
pub fn encode_member(member: &MemberRecord) -> Result<Bytes, WireError> {
    let mut fields = Fields::new(KIND_MEMBER);
    fields.add(1, &member.addr)?;
    fields.add(2, &member.generation)?;
    fields.add(3, &member.nonce)?;
    fields.add(4, &member.name)?;
    fields.add(5, &member.zone)?;
    if !member.addresses.is_empty() {
        fields.add(6, &member.addresses)?;
    }
    #[cfg(test)]
    let member =
        &MemberRecord { wire: if pretend::is_newer() { pretend::WIRE } else { member.wire }, ..member.clone() };
    fields.add(7, &member.wire)?;
    fields.add(8, &member.software)?;
    if member.has_left {
        fields.add(9, &member.has_left)?;
    }
    fields.finish()
}

/// Reads a record's content. Kinds and fields of newer versions are passed over.
///
/// # Errors
/// [`WireError`] when it is malformed or a required field is missing.
pub fn decode_content(key: &Key, content: &[u8]) -> Result<Content, WireError> {
    let mut rest = content;
    match split(&mut rest, 1, "record kind")?[0] {
        KIND_MEMBER if key.is_member() => decode_member(rest).map(|m| Content::Member(Arc::new(m))),
        KIND_INSTANCE if !key.is_member() => decode_instance(key, rest).map(|i| Content::Instance(Arc::new(i))),
        KIND_MEMBER | KIND_INSTANCE => Err(WireError::Invalid("record kind for its key")),
        _ => Ok(Content::Unknown),
    }
}

/// Reads what [`encode_any_instance`] wrote, whatever its id is.
pub(super) fn decode_any_instance(key: &Key, content: &[u8]) -> Result<Instance, WireError> {
    match content.split_first() {
        Some((&KIND_INSTANCE, rest)) => decode_instance(key, rest),
        _ => Err(WireError::Invalid("instance")),
    }
}

fn decode_instance(key: &Key, mut rest: &[u8]) -> Result<Instance, WireError> {
    let nowhere = Endpoint { host: Host::Name(Arc::from("")), port: 0 };
    let mut instance = Instance {
        service: Arc::from(""),
        id: key.clone(),
        address: nowhere,
        version: None,
        ports: Default::default(),
        addresses: Default::default(),
        tags: Default::default(),
        meta: Default::default(),
        weight: DEFAULT_WEIGHT,
        group: None,
        namespace: None,
        zone: None,
        protocol: None,
        status: Status::default(),
        registered_at: 0,
    };
    let mut has_address = false;
    while !rest.is_empty() {
        let (tag, value) = next_field(&mut rest)?;
        match tag {
            1 => instance.service = take_all(value, "service")?,
            2 => {
                instance.address = take_all::<WireEndpoint>(value, "address")?.into();
                has_address = true;
            }
            3 => instance.registered_at = take_all(value, "registration time")?,
            4 => instance.version = Some(take_all(value, "version")?),
            5 => instance.ports = take_all(value, "ports")?,
            6 => {
                let addresses: Vec<(Arc<str>, WireEndpoint)> = take_all(value, "addresses")?;
                instance.addresses = addresses.into_iter().map(|(tag, at)| (tag, at.into())).collect();
            }
            7 => instance.tags = take_all(value, "tags")?,
            8 => instance.meta = take_all(value, "metadata")?,
            9 => instance.weight = take_all(value, "weight")?,
            10 => instance.group = Some(take_all(value, "group")?),
            11 => instance.namespace = Some(take_all(value, "namespace")?),
            12 => instance.zone = Some(take_all(value, "zone")?),
            13 => instance.protocol = Some(take_all(value, "protocol")?),
            14 => instance.status = status_from(take_all(value, "status")?),
            _ => {}
        }
    }
    if instance.service.is_empty() || !has_address {
        return Err(WireError::Invalid("instance without service or address"));
    }
    Ok(instance)
}

fn decode_member(mut rest: &[u8]) -> Result<MemberRecord, WireError> {
    let (mut addr, mut generation, mut nonce): (Option<SocketAddr>, Option<Generation>, Option<u64>) =
        (None, None, None);
    let mut member = MemberRecord {
        addr: SocketAddr::from(([0, 0, 0, 0], 0)),
        generation: Generation::first(0),
        nonce: 0,
        name: Arc::from(""),
        zone: Arc::from(""),
        addresses: Vec::new(),
        wire: (0, 0),
        software: Arc::from(""),
        has_left: false,
    };
    while !rest.is_empty() {
        let (tag, value) = next_field(&mut rest)?;
        match tag {
            1 => addr = Some(take_all(value, "address")?),
            2 => generation = Some(take_all(value, "generation")?),
            3 => nonce = Some(take_all(value, "nonce")?),
            4 => member.name = take_all(value, "name")?,
            5 => member.zone = take_all(value, "zone")?,
            6 => member.addresses = take_all(value, "addresses")?,
            7 => member.wire = take_all(value, "wire versions")?,
            8 => member.software = take_all(value, "software version")?,
            9 => member.has_left = take_all(value, "goodbye")?,
            _ => {}
        }
    }
    let missing = WireError::Invalid("member record without address, generation or nonce");
    member.addr = addr.ok_or(missing)?;
    member.generation = generation.ok_or(missing)?;
    member.nonce = nonce.ok_or(missing)?;
    Ok(member)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::NodeId;

    fn instance() -> Instance {
        let key = Key::from("web-1");
        let mut fields = Fields::new(KIND_INSTANCE);
        fields.add(1, &"web").expect("encodes");
        let at = Endpoint::from(SocketAddr::from(([127, 0, 0, 1], 8080)));
        fields.add(2, &WireEndpoint::from(&at)).expect("encodes");
        let bytes = fields.finish().expect("small");
        decode_instance(&key, &bytes[1..]).expect("has what is required")
    }

    fn full_instance() -> Instance {
        let mut full = instance();
        full.version = Some("1.2.0".into());
        full.ports.insert("admin".into(), 9);
        full.addresses.insert("wan".into(), "example.org:80".parse().expect("an address"));
        full.addresses.insert("lan6".into(), "[::1]:80".parse().expect("an address"));
        full.tags.insert("v1".into());
        full.meta.insert("k".into(), "v".into());
        full.weight = 10;
        full.group = Some("vip".into());
        full.namespace = Some("prod".into());
        full.zone = Some("a".into());
        full.protocol = Some("grpc".into());
        full.status = Status::Maintenance("disk".into());
        full.registered_at = 1_700_000_000_000;
        full
    }

    fn member() -> MemberRecord {
        MemberRecord {
            addr: "127.0.0.1:7900".parse().expect("an address"),
            generation: Generation::new(5, 6),
            nonce: 7,
            name: "n1".into(),
            zone: "a".into(),
            addresses: vec!["[::1]:7900".parse().expect("an address")],
            wire: (1, 1),
            software: "0.1.0".into(),
            has_left: true,
        }
    }

    #[test]
    fn every_part_of_an_instance_comes_back() {
        for instance in [instance(), full_instance()] {
            let bytes = encode_instance(&instance).expect("small");
            let read = decode_content(&instance.id, &bytes);
            assert_eq!(read, Ok(Content::Instance(Arc::new(instance))));
        }
    }

    #[test]
    fn every_part_of_a_member_record_comes_back() {
        let bytes = encode_member(&member()).expect("small");
        assert_eq!(decode_content(&Key::member(), &bytes), Ok(Content::Member(Arc::new(member()))));
    }

    #[test]
    fn fields_and_kinds_of_a_newer_version_are_passed_over() {
        let mut bytes = encode_instance(&instance()).expect("small").to_vec();
        bytes.extend_from_slice(&[99, 2, 1, 1]);
        assert_eq!(decode_content(&"web-1".into(), &bytes), Ok(Content::Instance(Arc::new(instance()))));
        assert_eq!(decode_content(&"web-1".into(), &[77, 1, 2]), Ok(Content::Unknown));
    }

    /// Wire version 1 for ever: a change of these bytes is a new wire version.
    #[test]
    fn the_instance_of_version_1_is_these_bytes() {
        let bytes = encode_instance(&instance()).expect("small");
        let golden = [2, 1, 4, 3, b'w', b'e', b'b', 2, 9, 0, 0, 127, 0, 0, 1, 251, 0x90, 0x1f, 3, 1, 0];
        assert_eq!(&bytes[..], golden);
    }

    #[test]
    fn a_record_above_the_limit_is_refused_with_both_numbers() {
        let mut large = instance();
        large.meta.insert("k".into(), "x".repeat(RECORD_BYTES_MAX).into());
        let error = encode_instance(&large).expect_err("too large");
        assert!(
            matches!(error, WireError::TooLarge { bytes, limit, .. } if bytes > limit && limit == RECORD_BYTES_MAX),
            "{error}"
        );
    }

    #[test]
    fn a_long_content_travels_as_length_and_hash_and_fits_a_datagram() {
        let owner = Owner { id: NodeId(u64::MAX), epoch: u64::MAX };
        let key = Key::from("k".repeat(ID_BYTES_MAX).as_str());
        for len in [0, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, RECORD_BYTES_MAX] {
            let content = Bytes::from(vec![7; len]);
            let bytes = Record::encode(owner, &key, VERSION_MAX, BodyRef::Live(&content));
            assert!(bytes.len() <= RUMOR_BYTES_MAX);
            let read = Record::read(&mut &bytes[..]).expect("reads");
            assert_eq!(matches!(read.body, Body::Large { .. }), len > INLINE_BYTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn any_content_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_content(&Key::member(), &bytes);
            let _ = decode_content(&Key::from("i"), &bytes);
            let _ = Record::read(&mut &bytes[..]);
        }

        #[test]
        fn a_mutated_content_never_panics(at in 0usize..160, to in any::<u8>()) {
            let mut bytes = encode_instance(&full_instance()).expect("small").to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = decode_content(&Key::from("i"), &bytes);
            let mut bytes = encode_member(&member()).expect("small").to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = decode_content(&Key::member(), &bytes);
        }
    }
}
