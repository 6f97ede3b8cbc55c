//! One comparison of a filter: a field, an operator, a value.

use std::fmt;
use std::sync::Arc;

use regex_lite::{Regex, RegexBuilder};

use super::limits::REGEX_BYTES_MAX;
use super::{Field, Fields, Kind};

/// How a field is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Contains,
    NotContains,
    Matches,
    NotMatches,
    IsEmpty,
    IsNotEmpty,
}

impl Operator {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Contains => "contains",
            Self::NotContains => "not contains",
            Self::Matches => "matches",
            Self::NotMatches => "not matches",
            Self::IsEmpty => "is empty",
            Self::IsNotEmpty => "is not empty",
        }
    }

    /// Whether it is the negation of another; what is absent meets those and `is empty`.
    const fn is_negated(self) -> bool {
        matches!(self, Self::NotEqual | Self::NotContains | Self::NotMatches | Self::IsNotEmpty)
    }

    pub(super) const fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Equal | Self::NotEqual => matches!(kind, Kind::Text | Kind::Number | Kind::Bool),
            Self::Matches | Self::NotMatches => matches!(kind, Kind::Text),
            Self::Contains | Self::NotContains | Self::IsEmpty | Self::IsNotEmpty => {
                matches!(kind, Kind::Text | Kind::List | Kind::Map)
            }
        }
    }
}

/// What a field is compared with.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing: the operator has no value.
    None,
    Text(Arc<str>),
    Number(i64),
    Bool(bool),
    Regex(Box<Regex>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Term {
    pub(super) field: Box<[Arc<str>]>,
    pub(super) operator: Operator,
    pub(super) value: Value,
}

/// A regular expression within its limit, or the reason why not.
pub(super) fn regex(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| error.to_string())
}

impl Term {
    pub(super) fn holds(&self, document: &dyn Fields) -> bool {
        self.is_met(&document.field(&self.field)) != self.operator.is_negated()
    }

    /// Whether the operator without its negation holds.
    fn is_met(&self, field: &Field<'_>) -> bool {
        match (self.operator, field, &self.value) {
            (Operator::IsEmpty | Operator::IsNotEmpty, field, _) => match field {
                Field::Absent => true,
                Field::Text(text) => text.is_empty(),
                Field::Texts(texts) => texts.is_empty(),
                Field::Number(_) | Field::Bool(_) => false,
            },
            (Operator::Equal | Operator::NotEqual, Field::Text(a), Value::Text(b)) => **a == **b,
            (Operator::Equal | Operator::NotEqual, Field::Texts(texts), Value::Text(one)) => {
                texts.iter().any(|text| **text == **one)
            }
            (Operator::Matches | Operator::NotMatches, Field::Texts(texts), Value::Regex(regex)) => {
                texts.iter().any(|text| regex.is_match(text))
            }
            (Operator::Equal | Operator::NotEqual, Field::Number(a), Value::Number(b)) => a == b,
            (Operator::Equal | Operator::NotEqual, Field::Bool(a), Value::Bool(b)) => a == b,
            (Operator::Contains | Operator::NotContains, Field::Text(text), Value::Text(part)) => {
                text.contains(&**part)
            }
            (Operator::Contains | Operator::NotContains, Field::Texts(texts), Value::Text(one)) => {
                texts.iter().any(|text| **text == **one)
            }
            (Operator::Matches | Operator::NotMatches, Field::Text(text), Value::Regex(regex)) => regex.is_match(text),
            // Absent, or a document that does not keep to its own schema.
            _ => false,
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_field(f, &self.field)?;
        write!(f, " {}", self.operator.as_str())?;
        match &self.value {
            Value::None => Ok(()),
            Value::Text(text) => f.write_str(" ").and_then(|()| write_text(f, text)),
            Value::Regex(regex) => f.write_str(" ").and_then(|()| write_text(f, regex.as_str())),
            Value::Number(number) => write!(f, " {number}"),
            Value::Bool(yes) => write!(f, " {yes}"),
        }
    }
}

/// The field as it is written: keys in brackets, since they may hold anything.
pub(super) fn write_field(f: &mut impl fmt::Write, field: &[Arc<str>]) -> fmt::Result {
    for (n, part) in field.iter().enumerate() {
        if n == 0 {
            f.write_str(part)?;
        } else {
            f.write_str("[")?;
            write_text(f, part)?;
            f.write_str("]")?;
        }
    }
    Ok(())
}

fn write_text(f: &mut impl fmt::Write, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
