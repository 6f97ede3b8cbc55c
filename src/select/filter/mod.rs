//! Filters: which instances, as an expression. One language for programs, the command line and HTTP, read as Consul
//! reads the part of it that both have.
//!
//! ```text
//! filter   = and { "or" and }
//! and      = not { "and" not }
//! not      = "not" not | "(" filter ")" | match
//! match    = field ( "==" | "!=" | [ "not" ] "contains" | [ "not" ] "matches" ) value
//!          | value [ "not" ] "in" field
//!          | field "is" [ "not" ] "empty"
//! field    = word { "." word | "[" text "]" }
//! value    = "text" with Go's escapes | `raw text` | a bare word or number
//! ```
//!
//! `in` and `contains` look for an element of a list, a key of a map, or a part of a text. `matches` takes a regular
//! expression, which may match anywhere, in time linear in the text; `\w`, `\d` and `\s` are ASCII, as in Go. A part
//! that an instance does not have (another key of its metadata) equals, contains and matches nothing, and is empty. A
//! field that no instance can have is an error.
//!
//! Filters on instances know these fields, in upper or lower case:
//!
//! | field | kind |
//! |---|---|
//! | `service`, `id`, `address` (`host:port`), `host`, `version`, `status` | text |
//! | `group`, `namespace`, `zone`, `protocol` | text |
//! | `member`, `member_id`, `member_state` | text |
//! | `port`, `weight` | number |
//! | `tags` | list |
//! | `meta`, `addresses`; `meta.k`, `meta["k"]`, `addresses.wan` | map; text |
//! | `ports`; `ports.admin` | map; number |
//!
//! ```
//! use tidings::select::Filter;
//!
//! let filter: Filter = r#"tags contains canary and (meta.rack == "b7" or version matches "^2\\.")"#.parse()?;
//! assert_eq!("port = 80".parse::<Filter>().unwrap_err().to_string(), "column 6: expected an operator, found \"=\"");
//! # let _ = filter;
//! # Ok::<(), tidings::select::filter::FilterError>(())
//! ```

mod instance;
mod lex;
mod parse;
mod term;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use self::term::Term;
use crate::view::Offered;

/// Limits of a filter: it may come from anybody who can ask.
pub mod limits {
    /// Bytes of a filter.
    pub const FILTER_BYTES_MAX: usize = 4_096;
    /// How deep parentheses and `not` may stand in each other.
    pub const DEPTH_MAX: usize = 32;
    /// Comparisons in a filter.
    pub const TERMS_MAX: usize = 128;
    /// Regular expressions in a filter.
    pub const REGEXES_MAX: usize = 8;
    /// Bytes of one compiled regular expression.
    pub const REGEX_BYTES_MAX: usize = 256 * 1024;
}

/// A filter that was read and checked; cheap to clone.
#[derive(Clone, Debug)]
pub struct Filter {
    expr: Arc<Expr>,
}

/// What stands between the parentheses.
#[derive(Clone, PartialEq, Debug)]
enum Expr {
    /// All of these, at least two.
    And(Vec<Expr>),
    /// One of these, at least two.
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Term(Box<Term>),
}

/// What a filter can ask: a document with named fields.
pub trait Fields {
    /// The field at this path, `["meta", "rack"]` for `meta.rack`.
    fn field(&self, path: &[Arc<str>]) -> Field<'_>;
}

/// What a field holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Field<'a> {
    /// The document does not have it.
    Absent,
    /// Text.
    Text(Cow<'a, str>),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Bool(bool),
    /// The elements of a list, or the keys of a map; where a text is asked for, the texts of several, one of which
    /// must be such.
    Texts(Vec<Cow<'a, str>>),
}

/// Of what kind a field is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Text: every operator.
    Text,
    /// A whole number: `==` and `!=`.
    Number,
    /// `true` or `false`: `==` and `!=`.
    Bool,
    /// A list of texts: `in`, `contains` and `is empty`.
    List,
    /// A map: `in` and `contains` look for a key.
    Map,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::List => "a list",
            Self::Map => "a map",
        }
    }
}

/// Which fields the documents of a kind have.
pub trait Schema {
    /// The kind of the field at this path; `None` if there is no such field.
    fn kind(&self, path: &[Arc<str>]) -> Option<Kind>;

    /// The fields, for people.
    fn known(&self) -> &str;
}

/// Why a filter could not be read. Columns count characters from 1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// It is too long.
    #[error("a filter of {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There are too many of a part.
    #[error("column {column}: {what}, the limit is {limit}")]
    TooMany {
        /// Where the one too many stands.
        column: usize,
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Something else should stand there.
    #[error("column {column}: expected {expected}, found {}", or_end(.found))]
    Unexpected {
        /// Where.
        column: usize,
        /// What should stand there.
        expected: &'static str,
        /// What stands there, cut to 64 characters; nothing at the end of the filter.
        found: String,
    },
    /// A quote that is not closed, or a character or an escape that means nothing.
    #[error("column {column}: {what}")]
    Text {
        /// Where.
        column: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no such field.
    #[error("column {column}: no field {field:?}; there are {known}")]
    UnknownField {
        /// Where.
        column: usize,
        /// The field.
        field: String,
        /// Those there are.
        known: String,
    },
    /// The operator is not for a field of that kind.
    #[error("column {column}: {field} is {}, which {operator:?} does not take", .kind.as_str())]
    Operator {
        /// Where.
        column: usize,
        /// The field.
        field: String,
        /// Its kind.
        kind: Kind,
        /// The operator.
        operator: &'static str,
    },
    /// A value that is not of the field's kind.
    #[error("column {column}: {value:?} is not {}", .kind.as_str())]
    Value {
        /// Where.
        column: usize,
        /// The value, cut to 64 characters.
        value: String,
        /// The field's kind.
        kind: Kind,
    },
    /// A regular expression that cannot be read, or is too large.
    #[error("column {column}: {reason}")]
    Regex {
        /// Where.
        column: usize,
        /// Why.
        reason: String,
    },
}

fn or_end(found: &str) -> String {
    if found.is_empty() { "the end".to_owned() } else { format!("{found:?}") }
}

impl Filter {
    /// Reads a filter on documents of this schema.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn parse(text: &str, schema: &dyn Schema) -> Result<Self, FilterError> {
        Ok(Self { expr: Arc::new(parse::parse(text, schema)?) })
    }

    /// Whether it holds for a document.
    pub fn holds(&self, document: &dyn Fields) -> bool {
        self.expr.holds(document)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    /// Reads a filter on instances.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text, &instance::Instances)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.expr == other.expr
    }
}

impl fmt::Display for Filter {
    /// The filter in its plain form: read again, it is the same filter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.write(f, 0)
    }
}

impl Expr {
    fn holds(&self, document: &dyn Fields) -> bool {
        match self {
            Self::And(all) => all.iter().all(|expr| expr.holds(document)),
            Self::Or(any) => any.iter().any(|expr| expr.holds(document)),
            Self::Not(expr) => !expr.holds(document),
            Self::Term(term) => term.holds(document),
        }
    }

    /// How tightly it binds: what stands in something tighter needs parentheses.
    fn tightness(&self) -> u8 {
        match self {
            Self::Or(_) => 0,
            Self::And(_) => 1,
            Self::Not(_) | Self::Term(_) => 2,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, inside: u8) -> fmt::Result {
        let (all, word) = match self {
            Self::And(all) => (all, " and "),
            Self::Or(all) => (all, " or "),
            Self::Not(expr) => {
                f.write_str("not ")?;
                return expr.write(f, 2);
            }
            Self::Term(term) => return write!(f, "{term}"),
        };
        let needs_parentheses = self.tightness() < inside;
        f.write_str(if needs_parentheses { "(" } else { "" })?;
        for (n, expr) in all.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { word })?;
            // A chain within a chain of the same kind stays one of its own.
            expr.write(f, self.tightness() + 1)?;
        }
        f.write_str(if needs_parentheses { ")" } else { "" })
    }
}

impl Fields for Offered {
    fn field(&self, path: &[Arc<str>]) -> Field<'_> {
        instance::field(self, path)
    }
}

#[cfg(test)]
mod tests;
