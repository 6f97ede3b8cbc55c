//! The fields of an instance, as filters ask for them.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Field, Kind, Schema};
use crate::view::Offered;

/// The schema of [`Offered`].
pub(super) struct Instances;

const TEXTS: [&str; 13] = [
    "service",
    "id",
    "address",
    "host",
    "version",
    "group",
    "namespace",
    "zone",
    "protocol",
    "status",
    "member",
    "member_id",
    "member_state",
];

fn is(part: &str, name: &str) -> bool {
    part.eq_ignore_ascii_case(name)
}

impl Schema for Instances {
    fn kind(&self, path: &[Arc<str>]) -> Option<Kind> {
        match path {
            [name] if TEXTS.iter().any(|text| is(name, text)) => Some(Kind::Text),
            [name] if is(name, "port") || is(name, "weight") => Some(Kind::Number),
            [name] if is(name, "tags") => Some(Kind::List),
            [name] if is(name, "meta") || is(name, "addresses") || is(name, "ports") => Some(Kind::Map),
            [name, _] if is(name, "meta") || is(name, "addresses") => Some(Kind::Text),
            [name, _] if is(name, "ports") => Some(Kind::Number),
            _ => None,
        }
    }

    fn known(&self) -> &str {
        "service, id, address, host, port, version, weight, status, zone, group, namespace, protocol, tags, meta.KEY, \
         ports.NAME, addresses.TAG, member, member_id, member_state"
    }
}

pub(super) fn field<'o>(offered: &'o Offered, path: &[Arc<str>]) -> Field<'o> {
    let Some((name, rest)) = path.split_first() else { return Field::Absent };
    let name = name.to_ascii_lowercase();
    match rest {
        [] => whole(offered, &name),
        [key] => part(offered, &name, key),
        _ => Field::Absent,
    }
}

fn whole<'o>(offered: &'o Offered, name: &str) -> Field<'o> {
    let (instance, member) = (&offered.instance, &offered.member);
    let text = |text: &'o str| Field::Text(Cow::Borrowed(text));
    let shown = |shown: &dyn ToString| Field::Text(Cow::Owned(shown.to_string()));
    let perhaps = |text: &'o Option<Arc<str>>| text.as_deref().map_or(Field::Absent, |t| Field::Text(Cow::Borrowed(t)));
    match name {
        "service" => text(&instance.service),
        "id" => text(instance.id.as_str()),
        "address" => shown(&instance.address),
        "host" => shown(&instance.address.host),
        "port" => Field::Number(instance.address.port.into()),
        "version" => perhaps(&instance.version),
        "weight" => Field::Number(instance.weight.into()),
        "status" => text(instance.status.as_str()),
        "zone" => text(crate::select::zone_of(offered)),
        "group" => perhaps(&instance.group),
        "namespace" => perhaps(&instance.namespace),
        "protocol" => perhaps(&instance.protocol),
        "tags" => texts(&instance.tags),
        "meta" => texts(instance.meta.keys()),
        "ports" => texts(instance.ports.keys()),
        "addresses" => texts(instance.addresses.keys()),
        "member" => text(&member.name),
        "member_id" => shown(&member.peer.id),
        "member_state" => text(member.state.as_str()),
        _ => Field::Absent,
    }
}

fn part<'o>(offered: &'o Offered, name: &str, key: &Arc<str>) -> Field<'o> {
    let instance = &offered.instance;
    match name {
        "meta" => instance.meta.get(key).map_or(Field::Absent, |text| Field::Text(Cow::Borrowed(text))),
        "ports" => instance.ports.get(key).map_or(Field::Absent, |port| Field::Number((*port).into())),
        "addresses" => {
            instance.addresses.get(key).map_or(Field::Absent, |address| Field::Text(Cow::Owned(address.to_string())))
        }
        _ => Field::Absent,
    }
}

fn texts<'o>(all: impl IntoIterator<Item = &'o Arc<str>>) -> Field<'o> {
    Field::Texts(all.into_iter().map(|text| Cow::Borrowed(&**text)).collect())
}
