//! What a `filter=` of `/v1` may ask, by the kind of the answer. Knows nothing of where answers come from.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::door::ask::Query;
use crate::door::refusal::Refusal;
use crate::select::Filter;
use crate::select::filter::{Field, Fields, Kind, Schema};

/// The fields of one kind of document: paths, where `*` stands for any key.
pub(super) struct Documents {
    fields: &'static [(&'static [&'static str], Kind)],
    known: &'static str,
}

/// Of `/v1/health/service`.
pub(super) const ENTRIES: Documents = Documents {
    fields: &[
        (&["Node", "ID"], Kind::Text),
        (&["Node", "Node"], Kind::Text),
        (&["Node", "Address"], Kind::Text),
        (&["Node", "Datacenter"], Kind::Text),
        (&["Node", "Meta"], Kind::Map),
        (&["Node", "Meta", "*"], Kind::Text),
        (&["Node", "TaggedAddresses"], Kind::Map),
        (&["Node", "TaggedAddresses", "*"], Kind::Text),
        (&["Service", "ID"], Kind::Text),
        (&["Service", "Kind"], Kind::Text),
        (&["Service", "Service"], Kind::Text),
        (&["Service", "Tags"], Kind::List),
        (&["Service", "Address"], Kind::Text),
        (&["Service", "Meta"], Kind::Map),
        (&["Service", "Meta", "*"], Kind::Text),
        (&["Service", "Port"], Kind::Number),
        (&["Service", "Weights", "Passing"], Kind::Number),
        (&["Service", "Weights", "Warning"], Kind::Number),
        (&["Service", "EnableTagOverride"], Kind::Bool),
        (&["Service", "TaggedAddresses"], Kind::Map),
        (&["Service", "TaggedAddresses", "*", "Address"], Kind::Text),
        (&["Service", "TaggedAddresses", "*", "Port"], Kind::Number),
        (&["Checks", "Node"], Kind::Text),
        (&["Checks", "CheckID"], Kind::Text),
        (&["Checks", "Name"], Kind::Text),
        (&["Checks", "Status"], Kind::Text),
        (&["Checks", "Notes"], Kind::Text),
        (&["Checks", "Output"], Kind::Text),
        (&["Checks", "ServiceID"], Kind::Text),
        (&["Checks", "ServiceName"], Kind::Text),
        (&["Checks", "Type"], Kind::Text),
    ],
    known: "Node.X, Service.X, Checks.X as in the answer, Node.Meta.KEY and Service.Meta.KEY",
};

/// Of `/v1/catalog/service` and `/v1/catalog/services`.
pub(super) const ROWS: Documents = Documents {
    fields: &[
        (&["ID"], Kind::Text),
        (&["Node"], Kind::Text),
        (&["Address"], Kind::Text),
        (&["Datacenter"], Kind::Text),
        (&["TaggedAddresses"], Kind::Map),
        (&["TaggedAddresses", "*"], Kind::Text),
        (&["NodeMeta"], Kind::Map),
        (&["NodeMeta", "*"], Kind::Text),
        (&["ServiceKind"], Kind::Text),
        (&["ServiceID"], Kind::Text),
        (&["ServiceName"], Kind::Text),
        (&["ServiceTags"], Kind::List),
        (&["ServiceAddress"], Kind::Text),
        (&["ServiceMeta"], Kind::Map),
        (&["ServiceMeta", "*"], Kind::Text),
        (&["ServicePort"], Kind::Number),
        (&["ServiceWeights", "Passing"], Kind::Number),
        (&["ServiceWeights", "Warning"], Kind::Number),
        (&["ServiceEnableTagOverride"], Kind::Bool),
    ],
    known: "ID, Node, Address, Datacenter, TaggedAddresses, NodeMeta.KEY, ServiceID, ServiceName, ServiceTags, \
            ServiceAddress, ServiceMeta.KEY, ServicePort, ServiceWeights.X",
};

/// Of `/v1/catalog/nodes`.
pub(super) const NODES: Documents = Documents {
    fields: &[
        (&["ID"], Kind::Text),
        (&["Node"], Kind::Text),
        (&["Address"], Kind::Text),
        (&["Datacenter"], Kind::Text),
        (&["Meta"], Kind::Map),
        (&["Meta", "*"], Kind::Text),
        (&["TaggedAddresses"], Kind::Map),
        (&["TaggedAddresses", "*"], Kind::Text),
    ],
    known: "ID, Node, Address, Datacenter, TaggedAddresses, Meta.KEY",
};

/// Of `/v1/agent/services` and `/v1/catalog/node-services`.
pub(super) const INSTANCES: Documents = Documents {
    fields: &[
        (&["ID"], Kind::Text),
        (&["Kind"], Kind::Text),
        (&["Service"], Kind::Text),
        (&["Tags"], Kind::List),
        (&["Meta"], Kind::Map),
        (&["Meta", "*"], Kind::Text),
        (&["Port"], Kind::Number),
        (&["Address"], Kind::Text),
        (&["Weights", "Passing"], Kind::Number),
        (&["Weights", "Warning"], Kind::Number),
        (&["EnableTagOverride"], Kind::Bool),
        (&["TaggedAddresses"], Kind::Map),
        (&["TaggedAddresses", "*", "Address"], Kind::Text),
        (&["TaggedAddresses", "*", "Port"], Kind::Number),
    ],
    known: "ID, Service, Tags, Meta.KEY, Port, Address, Weights.X, TaggedAddresses.TAG.X",
};

/// Of `/v1/agent/checks`, `/v1/health/checks`, `/v1/health/node` and `/v1/health/state`.
pub(super) const CHECKS: Documents = Documents {
    fields: &[
        (&["Node"], Kind::Text),
        (&["CheckID"], Kind::Text),
        (&["Name"], Kind::Text),
        (&["Status"], Kind::Text),
        (&["Notes"], Kind::Text),
        (&["Output"], Kind::Text),
        (&["ServiceID"], Kind::Text),
        (&["ServiceName"], Kind::Text),
        (&["ServiceTags"], Kind::List),
        (&["Type"], Kind::Text),
        (&["Interval"], Kind::Text),
        (&["Timeout"], Kind::Text),
    ],
    known: "Node, CheckID, Name, Status, Notes, Output, ServiceID, ServiceName, ServiceTags, Type, Interval, Timeout",
};

impl Schema for Documents {
    fn kind(&self, path: &[Arc<str>]) -> Option<Kind> {
        let is_it = |pattern: &[&str]| {
            pattern.len() == path.len()
                && pattern.iter().zip(path).all(|(part, asked)| *part == "*" || part.eq_ignore_ascii_case(asked))
        };
        self.fields.iter().find(|(pattern, _)| is_it(pattern)).map(|(_, kind)| *kind)
    }

    fn known(&self) -> &str {
        self.known
    }
}

/// A filter on what is answered, if one is asked for.
pub(super) struct Sieve(Option<Filter>);

impl Sieve {
    /// Reads the parameter `filter`.
    ///
    /// # Errors
    /// It means nothing, or asks for what such a document does not have.
    pub(super) fn of(query: &Query<'_>, documents: &Documents) -> Result<Self, Refusal> {
        Ok(Self(query.text("filter").map(|text| Filter::parse(text, documents)).transpose()?))
    }

    pub(super) const fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a document passes.
    pub(super) fn holds(&self, document: &impl Serialize) -> bool {
        let Some(filter) = &self.0 else { return true };
        let value = serde_json::to_value(document).expect("keys are text");
        filter.holds(&Document(value))
    }
}

struct Document(Value);

impl Fields for Document {
    fn field(&self, path: &[Arc<str>]) -> Field<'_> {
        field(&self.0, path)
    }
}

fn field<'v>(value: &'v Value, path: &[Arc<str>]) -> Field<'v> {
    let Some((first, rest)) = path.split_first() else { return whole(value) };
    match value {
        Value::Object(fields) => {
            // A key of metadata as it is spelled, a field of ours in any case.
            let found = fields
                .get(&**first)
                .or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(first)).map(|(_, value)| value));
            found.map_or(Field::Absent, |value| field(value, rest))
        }
        // A list of documents has what one of them has.
        Value::Array(all) => {
            let texts = all.iter().filter_map(|one| match field(one, path) {
                Field::Text(text) => Some(text),
                _ => None,
            });
            Field::Texts(texts.collect())
        }
        _ => Field::Absent,
    }
}

fn whole(value: &Value) -> Field<'_> {
    match value {
        Value::Null => Field::Absent,
        Value::Bool(yes) => Field::Bool(*yes),
        Value::Number(number) => number.as_i64().map_or(Field::Absent, Field::Number),
        Value::String(text) => Field::Text(Cow::Borrowed(text)),
        Value::Array(all) => Field::Texts(all.iter().filter_map(Value::as_str).map(Cow::Borrowed).collect()),
        Value::Object(fields) => Field::Texts(fields.keys().map(|key| Cow::Borrowed(&**key)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(filter: &str, documents: &Documents, document: &Value) -> bool {
        Filter::parse(filter, documents).unwrap().holds(&Document(document.clone()))
    }

    #[test]
    fn a_filter_asks_for_what_stands_in_the_answer() {
        let entry = json!({
            "Node": {"Node": "a", "Meta": {"rack": "b7", "Rack": "x"}},
            "Service": {"Tags": ["v1", "canary"], "Port": 80, "Meta": {}, "Weights": {"Passing": 3}},
            "Checks": [{"Status": "passing", "CheckID": "serfHealth"}, {"Status": "critical", "CheckID": "c"}],
        });
        for yes in [
            r#"Service.Tags contains "canary""#,
            r#""v1" in Service.Tags and Service.Port == 80"#,
            r#"Node.Meta.rack == "b7" and Node.Meta["Rack"] == "x""#,
            "Service.Meta.none is empty",
            "Checks.Status == critical",
            "Checks.CheckID matches `^serf`",
            "Service.Weights.Passing != 1",
            "not Checks.Status == warning",
        ] {
            assert!(holds(yes, &ENTRIES, &entry), "{yes}");
        }
        assert!(!holds("Checks.Status == warning", &ENTRIES, &entry));
        assert!(!holds("Service.Tags contains v2", &ENTRIES, &entry));
    }

    #[test]
    fn what_a_document_cannot_have_is_refused() {
        for (wrong, documents) in [
            ("Service.Nope == 1", &ENTRIES),
            ("Service.Port contains 8", &ENTRIES),
            ("Meta.x == 1", &ROWS),
            ("NodeMeta.rack_name == ", &ROWS),
        ] {
            assert!(Filter::parse(wrong, documents).is_err(), "{wrong}");
        }
        assert!(Filter::parse(r#"NodeMeta.rack_name == "2304""#, &ROWS).is_ok(), "as Prometheus sends it");
    }
}
