//! What a request's body says, in whatever spelling Consul's clients use: keys in any case, with or without
//! underscores. Knows nothing of what the words are for.

use std::time::Duration;

use serde_json::{Map, Value};

use super::ask::span;

/// A JSON object whose keys are found in any spelling.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    fields: &'a Map<String, Value>,
}

/// What is wrong with a body.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadBody(pub String);

impl<'a> Body<'a> {
    /// The object in a value.
    ///
    /// # Errors
    /// It is something else.
    pub fn of(value: &'a Value) -> Result<Self, BadBody> {
        match value {
            Value::Object(fields) => Ok(Self { fields }),
            other => Err(BadBody(format!("the body is {}, not an object", kind(other)))),
        }
    }

    /// A field that is there and not null, by its name in lower case without underscores.
    pub fn field(&self, name: &str) -> Option<&'a Value> {
        let found = self.fields.iter().find(|(key, _)| is_spelled(key, name)).map(|(_, value)| value);
        found.filter(|value| !value.is_null())
    }

    /// A text; empty counts as absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, BadBody> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(other) => Err(wrong(name, "text", other)),
        }
    }

    /// A truth value; false if it is absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, name: &str) -> Result<bool, BadBody> {
        match self.field(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(name, "true or false", other)),
        }
    }

    /// A whole number from 0 to `max`; a text of digits counts, since some clients send that.
    ///
    /// # Errors
    /// It is something else.
    pub fn number(&self, name: &str, max: u64) -> Result<Option<u64>, BadBody> {
        let Some(value) = self.field(name) else { return Ok(None) };
        let number = match value {
            Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) if text.is_empty() => return Ok(None),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number <= max => Ok(Some(number)),
            Some(number) => Err(BadBody(format!("{name} is {number}, the limit is {max}"))),
            None => Err(wrong(name, "a whole number", value)),
        }
    }

    /// A span of time: a text that Go reads as one, or a number of nanoseconds. Zero counts as absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn span(&self, name: &str) -> Result<Option<Duration>, BadBody> {
        let found = match self.field(name) {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(value @ Value::String(text)) => {
                span(text).ok_or_else(|| wrong(name, "a span of time such as 10s or 1m30s", value))?
            }
            Some(Value::Number(number)) => Duration::from_nanos(number.as_u64().ok_or_else(|| {
                BadBody(format!("{name} is a span of time such as 10s, or a number of nanoseconds, not {number}"))
            })?),
            Some(other) => return Err(wrong(name, "a span of time such as 10s or 1m30s", other)),
        };
        Ok(Some(found).filter(|span| !span.is_zero()))
    }

    /// A list of texts; empty if it is absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn texts(&self, name: &str) -> Result<Vec<&'a str>, BadBody> {
        match self.field(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => {
                let text = |value: &'a Value| value.as_str().ok_or_else(|| wrong(name, "a list of texts", value));
                values.iter().map(text).collect()
            }
            Some(other) => Err(wrong(name, "a list of texts", other)),
        }
    }

    /// The texts of a map, with their keys as they are spelled.
    ///
    /// # Errors
    /// It is something else.
    pub fn map(&self, name: &str) -> Result<Vec<(&'a str, &'a str)>, BadBody> {
        match self.field(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(fields)) => {
                let pair = |(key, value): (&'a String, &'a Value)| match value {
                    Value::Null => Ok((key.as_str(), "")),
                    Value::String(text) => Ok((key.as_str(), text.as_str())),
                    other => Err(wrong(name, "a map of texts", other)),
                };
                fields.iter().map(pair).collect()
            }
            Some(other) => Err(wrong(name, "a map of texts", other)),
        }
    }

    /// The fields of a map of maps or lists, with their keys as they are spelled.
    ///
    /// # Errors
    /// It is something else.
    pub fn entries(&self, name: &str) -> Result<Vec<(&'a str, &'a Value)>, BadBody> {
        match self.field(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(fields)) => Ok(fields.iter().map(|(key, value)| (key.as_str(), value)).collect()),
            Some(other) => Err(wrong(name, "a map", other)),
        }
    }

    /// An object within.
    ///
    /// # Errors
    /// It is something else.
    pub fn object(&self, name: &str) -> Result<Option<Self>, BadBody> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self { fields })),
            Some(other) => Err(wrong(name, "an object", other)),
        }
    }

    /// A list of objects; an object alone is a list of one.
    ///
    /// # Errors
    /// It is something else.
    pub fn objects(&self, name: &str) -> Result<Vec<Self>, BadBody> {
        match self.field(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(fields)) => Ok(vec![Self { fields }]),
            Some(Value::Array(values)) => {
                let object = |value: &'a Value| match value {
                    Value::Object(fields) => Ok(Self { fields }),
                    other => Err(wrong(name, "a list of objects", other)),
                };
                values.iter().filter(|value| !value.is_null()).map(object).collect()
            }
            Some(other) => Err(wrong(name, "a list of objects", other)),
        }
    }

    /// The first key that is none of `known`, which are in lower case without underscores.
    pub fn unknown(&self, known: &[&str]) -> Option<&'a str> {
        self.fields.keys().map(String::as_str).find(|key| !known.iter().any(|name| is_spelled(key, name)))
    }
}

/// Reads a body; an empty one is an empty object.
///
/// # Errors
/// It is no JSON.
pub fn parse(bytes: &[u8]) -> Result<Value, BadBody> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(Map::new()));
    }
    serde_json::from_slice(bytes).map_err(|error| BadBody(format!("the body is no JSON: {error}")))
}

fn whole(number: f64) -> Option<u64> {
    // Up to 2^53 every whole number has a float of its own.
    (number.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&number)).then_some(number as u64)
}

fn is_spelled(key: &str, name: &str) -> bool {
    let mut left = name.bytes();
    key.bytes().filter(|byte| *byte != b'_' && *byte != b'-').all(|byte| left.next() == Some(byte.to_ascii_lowercase()))
        && left.next().is_none()
}

fn wrong(name: &str, expected: &str, found: &Value) -> BadBody {
    let found = match found {
        Value::String(text) => format!("{:?}", text.chars().take(64).collect::<String>()),
        other => kind(other).to_owned(),
    };
    BadBody(format!("{name} is {expected}, not {found}"))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_found_in_every_spelling() {
        for key in
            ["DeregisterCriticalServiceAfter", "deregister_critical_service_after", "deregistercriticalserviceafter"]
        {
            let value = json!({ key: "90m" });
            let span = Body::of(&value).unwrap().span("deregistercriticalserviceafter").unwrap();
            assert_eq!(span, Some(Duration::from_secs(5_400)), "{key}");
        }
        let value = json!({ "grpc_use_tls": true, "TTL": 10_000_000_000u64, "Port": 80.0, "port": "81" });
        let body = Body::of(&value).unwrap();
        assert!(body.flag("grpcusetls").unwrap());
        assert_eq!(body.span("ttl").unwrap(), Some(Duration::from_secs(10)));
        assert_eq!(body.number("port", 65_535).unwrap(), Some(80));
        assert_eq!(body.field("tt"), None);
        assert_eq!(body.field("ttls"), None);
    }

    #[test]
    fn null_is_absent_and_a_wrong_kind_is_named() {
        let value = json!({ "Tags": null, "Meta": ["a"], "Check": 1, "Name": "" });
        let body = Body::of(&value).unwrap();
        assert!(body.texts("tags").unwrap().is_empty() && body.text("name").unwrap().is_none());
        assert_eq!(body.map("meta").unwrap_err().to_string(), "meta is a map of texts, not a list");
        assert!(body.objects("check").is_err() && body.object("check").is_err());
        assert!(Body::of(&json!([1])).is_err());
        assert_eq!(body.unknown(&["tags", "meta", "check"]), Some("Name"));
    }

    #[test]
    fn an_empty_body_is_an_empty_object() {
        assert_eq!(parse(b" \n").unwrap(), json!({}));
        assert!(parse(b"{").unwrap_err().to_string().contains("no JSON"));
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok(value) = parse(&bytes) && let Ok(body) = Body::of(&value) {
                let _ = (body.text("a"), body.span("a"), body.number("a", 1), body.texts("a"), body.map("a"));
            }
        }
    }
}
