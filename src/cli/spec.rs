//! The grammar of `--service` and of `update`: `key=value` pairs that describe an instance.
//!
//! In a spec, pairs are separated by commas; in an update by white space or commas. A backslash before a separator, or
//! before another backslash, takes its meaning away.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidings::offers::{Offer, Origin};
use tidings::record::{Endpoint, Instance, InstanceError, Status, limits};

use super::check::{self, CheckSpecError};

pub(super) const HELP: &str = "\
An instance to offer, as comma-separated key=value pairs. name and addr are required:
  name=web             the service
  addr=HOST:PORT       where it listens
  id=ID                unique in this member (default: name@member:port)
  tag=T                repeatable
  weight=N             0 to 65535 (default 1)
  status=S             starting, passing (default), warning, critical, draining,
                       maintenance:REASON
  version=V  zone=Z  group=G  namespace=N  protocol=P
  port.NAME=PORT       a further port
  address.TAG=H:P      a further address
  meta.K=V             metadata
  check=CHECK          whether it can do its work; repeatable
  warning_weight=N     its weight while it is warning
A backslash escapes a comma or a backslash inside a value.";

/// What may stand before the `=`, as messages show it.
const KEYS: &[&str] = &[
    "name",
    "addr",
    "id",
    "tag",
    "weight",
    "version",
    "zone",
    "group",
    "namespace",
    "protocol",
    "status",
    "port.NAME",
    "address.TAG",
    "meta.K",
    "check",
    "warning_weight",
];

/// Why a spec or an update could not be read. Nothing was registered or changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpecError {
    #[error("{part:?} is not key=value; allowed keys: {}", KEYS.join(", "))]
    NoValue { part: String },
    #[error("unknown key {key:?}{}; allowed: {}", did_you_mean(.key), KEYS.join(", "))]
    UnknownKey { key: String },
    #[error("{key} is given twice; only tag and check may be repeated")]
    Twice { key: String },
    #[error("{key} is missing; name and addr are required")]
    Missing { key: &'static str },
    #[error("{key}={value:?}: {allowed}")]
    Value { key: String, value: String, allowed: String },
    #[error("\"\\{character}\" in {text:?}: a backslash escapes only a separator or a backslash")]
    Escape { text: String, character: char },
    #[error("{text:?} ends with a single backslash; write two for a backslash")]
    EscapedEnd { text: String },
    #[error("no key=value is given; allowed keys: {}", KEYS.join(", "))]
    Nothing,
    #[error("{key} cannot be changed; withdraw the instance and register another")]
    Fixed { key: &'static str },
    #[error("{key} cannot be removed, every instance needs it")]
    Required { key: &'static str },
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Check(#[from] CheckSpecError),
}

/// Reads the spec of an instance with its checks, and checks it.
pub(super) fn parse_offer(spec: &str) -> Result<Offer, SpecError> {
    let parts = split(spec, |c| c == ',')?;
    let pairs = read_pairs(parts)?;
    let find = |wanted: &Field| pairs.iter().find(|(field, _)| field == wanted).map(|(_, value)| value);
    let name = find(&Field::Name).ok_or(SpecError::Missing { key: "name" })?;
    let addr = find(&Field::Addr).ok_or(SpecError::Missing { key: "addr" })?;
    let mut instance = Instance::new(name.as_str(), endpoint(&Field::Addr, addr)?)?;
    for (field, value) in &pairs {
        match field {
            Field::Name | Field::Addr => {}
            // An empty id would mean the default, which is not what somebody wrote who wrote an id.
            Field::Id if value.is_empty() => return Err(InstanceError::Empty { what: "instance id" }.into()),
            Field::Id => instance = instance.with_id(value),
            _ => set(&mut instance, field, value)?,
        }
    }
    instance.check()?;
    let mut offer = Offer::new(instance, Origin::Program);
    for (field, value) in &pairs {
        match field {
            Field::Check => offer.checks.push(check::parse(value)?),
            Field::WarningWeight => offer.warning_weight = Some(weight(field, value)?),
            _ => {}
        }
    }
    Ok(offer)
}

/// A change of an instance: for each key that is named, the new value, or that there is none any more.
#[derive(Debug)]
pub(super) struct Update {
    pairs: Vec<(Field, String)>,
}

impl Update {
    /// Reads the arguments of `update`: the instance's id, then the pairs.
    pub(super) fn parse(arguments: &str) -> Result<(String, Self), SpecError> {
        let parts = split(arguments, |c| c == ',' || c.is_whitespace())?;
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        let id = parts.next().ok_or(SpecError::Missing { key: "INSTANCE" })?;
        let pairs = read_pairs(parts.collect())?;
        if pairs.is_empty() {
            return Err(SpecError::Nothing);
        }
        for (field, value) in &pairs {
            match field {
                Field::Id => return Err(SpecError::Fixed { key: "id" }),
                Field::Check => return Err(SpecError::Fixed { key: "check" }),
                Field::WarningWeight => return Err(SpecError::Fixed { key: "warning_weight" }),
                Field::Name if value.is_empty() => return Err(SpecError::Required { key: "name" }),
                Field::Addr if value.is_empty() => return Err(SpecError::Required { key: "addr" }),
                _ => {}
            }
        }
        Ok((id, Self { pairs }))
    }

    /// The instance as it is after the change, checked.
    pub(super) fn apply(&self, instance: &Instance) -> Result<Instance, SpecError> {
        let mut after = instance.clone();
        if self.pairs.iter().any(|(field, _)| *field == Field::Tag) {
            after.tags.clear();
        }
        for (field, value) in &self.pairs {
            if value.is_empty() {
                unset(&mut after, field);
            } else {
                set(&mut after, field, value)?;
            }
        }
        after.check()?;
        Ok(after)
    }
}

/// What a key names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Field {
    Name,
    Addr,
    Id,
    Tag,
    Weight,
    Version,
    Zone,
    Group,
    Namespace,
    Protocol,
    Status,
    Port(String),
    Address(String),
    Meta(String),
    Check,
    WarningWeight,
}

impl Field {
    fn parse(key: &str) -> Result<Self, SpecError> {
        Ok(match key {
            "name" => Self::Name,
            "addr" => Self::Addr,
            "id" => Self::Id,
            "tag" => Self::Tag,
            "weight" => Self::Weight,
            "version" => Self::Version,
            "zone" => Self::Zone,
            "group" => Self::Group,
            "namespace" => Self::Namespace,
            "protocol" => Self::Protocol,
            "status" => Self::Status,
            "check" => Self::Check,
            "warning_weight" => Self::WarningWeight,
            _ => match key.split_once('.') {
                Some(("port", name)) => Self::Port(name.to_owned()),
                Some(("address", tag)) => Self::Address(tag.to_owned()),
                Some(("meta", key)) => Self::Meta(key.to_owned()),
                _ => return Err(SpecError::UnknownKey { key: key.chars().take(64).collect() }),
            },
        })
    }

    /// The key as it was written.
    fn key(&self) -> String {
        match self {
            Self::Name => "name".to_owned(),
            Self::Addr => "addr".to_owned(),
            Self::Id => "id".to_owned(),
            Self::Tag => "tag".to_owned(),
            Self::Weight => "weight".to_owned(),
            Self::Version => "version".to_owned(),
            Self::Zone => "zone".to_owned(),
            Self::Group => "group".to_owned(),
            Self::Namespace => "namespace".to_owned(),
            Self::Protocol => "protocol".to_owned(),
            Self::Status => "status".to_owned(),
            Self::Port(name) => format!("port.{name}"),
            Self::Address(tag) => format!("address.{tag}"),
            Self::Meta(key) => format!("meta.{key}"),
            Self::Check => "check".to_owned(),
            Self::WarningWeight => "warning_weight".to_owned(),
        }
    }

    fn refuse(&self, value: &str, allowed: impl Into<String>) -> SpecError {
        SpecError::Value { key: self.key(), value: value.chars().take(64).collect(), allowed: allowed.into() }
    }
}

fn set(instance: &mut Instance, field: &Field, value: &str) -> Result<(), SpecError> {
    let text = || Arc::<str>::from(value);
    match field {
        Field::Name => instance.service = text(),
        Field::Addr => instance.address = endpoint(field, value)?,
        // Both callers deal with these themselves: one sets them, the other refuses to change them.
        Field::Id | Field::Check | Field::WarningWeight => {}
        Field::Tag => {
            instance.tags.insert(text());
        }
        Field::Weight => instance.weight = weight(field, value)?,
        Field::Version => instance.version = Some(text()),
        Field::Zone => instance.zone = Some(text()),
        Field::Group => instance.group = Some(text()),
        Field::Namespace => instance.namespace = Some(text()),
        Field::Protocol => instance.protocol = Some(text()),
        Field::Status => instance.status = value.parse()?,
        Field::Port(name) => {
            let allowed = || field.refuse(value, "a port is a number from 0 to 65535");
            instance.ports.insert(Arc::from(name.as_str()), value.parse().map_err(|_| allowed())?);
        }
        Field::Address(tag) => {
            instance.addresses.insert(Arc::from(tag.as_str()), endpoint(field, value)?);
        }
        Field::Meta(key) => {
            instance.meta.insert(Arc::from(key.as_str()), text());
        }
    }
    Ok(())
}

fn unset(instance: &mut Instance, field: &Field) {
    match field {
        Field::Version => instance.version = None,
        Field::Zone => instance.zone = None,
        Field::Group => instance.group = None,
        Field::Namespace => instance.namespace = None,
        Field::Protocol => instance.protocol = None,
        Field::Weight => instance.weight = Instance::WEIGHT_DEFAULT,
        Field::Status => instance.status = Status::default(),
        Field::Port(name) => drop(instance.ports.remove(name.as_str())),
        Field::Address(tag) => drop(instance.addresses.remove(tag.as_str())),
        Field::Meta(key) => drop(instance.meta.remove(key.as_str())),
        // The old tags are gone already; the others cannot be removed, which `Update::parse` said.
        Field::Tag | Field::Name | Field::Addr | Field::Id | Field::Check | Field::WarningWeight => {}
    }
}

fn endpoint(field: &Field, value: &str) -> Result<Endpoint, SpecError> {
    let allowed = "allowed is HOST:PORT, such as 127.0.0.1:8080, [::1]:8080 or db.example:5432";
    value.parse().map_err(|_: InstanceError| field.refuse(value, allowed))
}

fn weight(field: &Field, value: &str) -> Result<u32, SpecError> {
    let allowed = || format!("a weight is a whole number from 0 to {}", limits::WEIGHT_MAX);
    let weight = value.parse().map_err(|_| field.refuse(value, allowed()))?;
    if weight > limits::WEIGHT_MAX { Err(field.refuse(value, allowed())) } else { Ok(weight) }
}

/// Parts between separators, with escapes resolved. Always at least one, perhaps empty.
fn split(text: &str, is_separator: impl Fn(char) -> bool) -> Result<Vec<String>, SpecError> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        let part = parts.last_mut().expect("one from the start");
        if c == '\\' {
            match characters.next() {
                Some(next) if next == '\\' || is_separator(next) => part.push(next),
                Some(character) => return Err(SpecError::Escape { text: cut(text), character }),
                None => return Err(SpecError::EscapedEnd { text: cut(text) }),
            }
        } else if is_separator(c) {
            parts.push(String::new());
        } else {
            part.push(c);
        }
    }
    Ok(parts)
}

fn read_pairs(parts: Vec<String>) -> Result<Vec<(Field, String)>, SpecError> {
    let mut seen = BTreeSet::new();
    let mut pairs = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| SpecError::NoValue { part: cut(&part) })?;
        let field = Field::parse(key)?;
        if !matches!(field, Field::Tag | Field::Check) && !seen.insert(field.clone()) {
            return Err(SpecError::Twice { key: key.to_owned() });
        }
        pairs.push((field, value.to_owned()));
    }
    Ok(pairs)
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

fn did_you_mean(key: &str) -> String {
    let prefixed = KEYS.iter().filter_map(|k| k.split_once('.')).find(|(prefix, _)| *prefix == key);
    if let Some((prefix, rest)) = prefixed {
        return format!(", did you mean {prefix}.{rest}?");
    }
    let (prefix, rest) = key.split_once('.').map_or((key, None), |(prefix, rest)| (prefix, Some(rest)));
    let nearest = nearest(
        prefix,
        KEYS.iter().filter_map(|k| match (k.split_once('.'), rest) {
            (Some((known, _)), Some(_)) => Some(known),
            (None, None) => Some(*k),
            _ => None,
        }),
    );
    match (nearest, rest) {
        (Some(known), Some(rest)) => format!(", did you mean {known}.{rest}?"),
        (Some(known), None) => format!(", did you mean {known}?"),
        (None, _) => String::new(),
    }
}

/// The word that was likely meant: the nearest one, if it is at most two edits (and fewer than its letters) away.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no misspelling of ours, and the distance costs the square of the length.
    const WORD_CHARS_MAX: usize = 32;
    if word.chars().count() > WORD_CHARS_MAX {
        return None;
    }
    let with_distance = known.map(|k| (edits(word, k), k));
    with_distance.filter(|(edits, k)| *edits <= 2 && *edits < k.len()).min().map(|(_, k)| k)
}

/// Levenshtein distance, with two neighbours swapped counted as one edit.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let one_more = table[i - 1][j].min(table[i][j - 1]) + 1;
                    let is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    let swapped = if is_swap { table[i - 2][j - 2] + 1 } else { usize::MAX };
                    replaced.min(one_more).min(swapped)
                }
            };
        }
    }
    table[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_instance(spec: &str) -> Result<Instance, SpecError> {
        parse_offer(spec).map(|offer| offer.instance)
    }

    fn refusal(spec: &str) -> String {
        parse_instance(spec).expect_err(spec).to_string()
    }

    #[test]
    fn a_spec_can_say_everything_that_an_instance_carries() {
        let instance = parse_instance(
            "name=web,addr=127.0.0.1:8080,id=web-1,tag=v1,tag=eu,weight=10,version=1.2.0,zone=a,group=vip,\
             namespace=prod,protocol=http,status=maintenance:disk swap,port.admin=9090,address.wan=[::1]:80,meta.k=v",
        )
        .unwrap();
        let expected = Instance::new("web", "127.0.0.1:8080".parse::<Endpoint>().unwrap())
            .unwrap()
            .with_id("web-1")
            .with_tag("v1")
            .with_tag("eu")
            .with_weight(10)
            .with_version("1.2.0")
            .with_zone("a")
            .with_group("vip")
            .with_namespace("prod")
            .with_protocol("http")
            .with_status(Status::Maintenance("disk swap".into()))
            .with_port("admin", 9090)
            .with_address("wan", "[::1]:80".parse::<Endpoint>().unwrap())
            .with_meta("k", "v");
        assert_eq!(instance, expected);
    }

    #[test]
    fn a_backslash_takes_the_meaning_of_a_comma_away() {
        let instance = parse_instance(r"name=web,addr=h:1,meta.list=a\,b=c\\,tag=x").unwrap();
        assert_eq!(&*instance.meta["list"], r"a,b=c\");
        assert!(refusal(r"name=web,addr=h:1,tag=a\n").contains(r"\n"));
        assert!(refusal("name=web,addr=h:1,tag=a\\").contains("single backslash"));
    }

    #[test]
    fn a_refusal_names_the_key_the_value_and_what_is_allowed() {
        let cases = [
            ("name=web,addr=h:1,wieght=3", vec!["\"wieght\"", "did you mean weight?", "allowed: name, addr"]),
            ("name=web,addr=h:1,nmae=3", vec!["did you mean name?"]),
            ("name=web,addr=h:1,meat.k=3", vec!["did you mean meta.k?"]),
            ("name=web,addr=h:1,port=3", vec!["did you mean port.NAME?"]),
            ("name=web,addr=h:1,colour=red", vec!["\"colour\"; allowed"]),
            ("name=web,addr=h:1,weight=heavy", vec!["weight=\"heavy\"", "0 to 65535"]),
            ("name=web,addr=h:1,weight=65536", vec!["weight=\"65536\"", "0 to 65535"]),
            ("name=web,addr=h:1,port.a=65536", vec!["port.a=\"65536\"", "0 to 65535"]),
            ("name=web,addr=h", vec!["addr=\"h\"", "HOST:PORT"]),
            ("name=web,addr=h:1,address.wan=x", vec!["address.wan=\"x\"", "HOST:PORT"]),
            ("name=web,addr=h:1,status=pasing", vec!["\"pasing\"", "starting, passing"]),
            ("name=web,addr=h:1,zone=", vec!["zone is empty"]),
            ("name=web,addr=h:1,id=", vec!["instance id is empty"]),
            ("name=web,addr=h:1,name=api", vec!["name is given twice"]),
            ("name=web,addr=h:1,web", vec!["\"web\" is not key=value"]),
            ("name=web,addr=h:1,", vec!["\"\" is not key=value"]),
            ("", vec!["not key=value"]),
            ("addr=h:1", vec!["name is missing"]),
            ("name=web", vec!["addr is missing"]),
            ("name=a/b,addr=h:1", vec!["\"a/b\"", "'/'"]),
        ];
        for (spec, parts) in cases {
            let refusal = refusal(spec);
            for part in parts {
                assert!(refusal.contains(part), "{spec:?} gave {refusal:?} without {part:?}");
            }
        }
    }

    #[test]
    fn an_update_replaces_all_tags_and_removes_what_is_empty() {
        let before = parse_instance("name=web,addr=h:1,tag=a,tag=b,zone=z,weight=7,meta.k=v,meta.l=w").unwrap();
        let (id, update) = Update::parse(r"web-1 tag=c tag=d,zone= weight= meta.k= meta.m=two\ words").unwrap();
        let after = update.apply(&before).unwrap();
        assert_eq!(id, "web-1");
        let expected = parse_instance("name=web,addr=h:1,tag=c,tag=d,meta.l=w,meta.m=two words").unwrap();
        assert_eq!(after, expected);
        let (_, update) = Update::parse("web-1 tag=").unwrap();
        assert!(update.apply(&before).unwrap().tags.is_empty());
    }

    #[test]
    fn an_update_that_would_break_an_instance_is_refused() {
        let parse = |text: &str| Update::parse(text).expect_err(text).to_string();
        assert!(parse("").contains("INSTANCE is missing"));
        assert!(parse("web-1").contains("no key=value"));
        assert!(parse("web-1 id=other").contains("id cannot be changed"));
        assert!(parse("web-1 addr=").contains("addr cannot be removed"));
        assert!(parse("web-1 zone=a zone=b").contains("given twice"));
        let before = parse_instance("name=web,addr=h:1").unwrap();
        let (_, update) = Update::parse("web-1 name=a/b").unwrap();
        assert!(update.apply(&before).is_err());
    }
}
