//! The settings of the protocol as a table: their names, units and ranges, for whoever reads or writes them as text.
//! Knows nothing of what they do; that stands at [`Tuning`].

use std::fmt;
use std::time::Duration;

use crate::node::Tuning;

/// One setting of [`Tuning`].
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// The name of its field.
    pub name: &'static str,
    /// The least and the most that it may be.
    pub range: (Value, Value),
    slot: fn(&mut Tuning) -> Slot<'_>,
}

/// Where a setting stands.
#[derive(Debug)]
enum Slot<'a> {
    Span(&'a mut Duration),
    Count(&'a mut usize),
}

/// What a setting may be set to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub enum Value {
    /// A span of time.
    Span(Duration),
    /// How many.
    Count(usize),
}

/// Why a setting cannot be so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KnobError {
    /// There is no such setting.
    #[error("no setting {name:?}; there are {}", names())]
    Unknown {
        /// The name.
        name: String,
    },
    /// The text is no value of this setting.
    #[error("{name} is {expected}, not {found:?}")]
    Unreadable {
        /// The setting.
        name: &'static str,
        /// What it is.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// Outside of the range.
    #[error("{name} is from {least} to {most}, not {found}")]
    Range {
        /// The setting.
        name: &'static str,
        /// The least.
        least: String,
        /// The most.
        most: String,
        /// What was given.
        found: String,
    },
    /// Two settings do not go together.
    #[error("{0}")]
    Together(String),
}

/// Every setting. A new one is a line here, beside its field.
pub const KNOBS: &[Knob] = &[
    span("observe_every", 10, 60_000, |t| Slot::Span(&mut t.watch.observe_every)),
    span("answer_within", 1, 10_000, |t| Slot::Span(&mut t.watch.answer_within)),
    count("tries", 1, 8, |t| Slot::Count(&mut t.watch.tries)),
    count("witnesses", 3, 7, |t| Slot::Count(&mut t.watch.witnesses)),
    span("evict_after", 1_000, 86_400_000, |t| Slot::Span(&mut t.watch.evict_after)),
    span("probe_period", 10, 60_000, |t| Slot::Span(&mut t.probe_period)),
    span("probe_rtt", 1, 60_000, |t| Slot::Span(&mut t.probe_rtt)),
    count("indirect_probes", 1, 32, |t| Slot::Count(&mut t.indirect_probes)),
    span("gossip_period", 10, 60_000, |t| Slot::Span(&mut t.gossip_period)),
    count("gossip_fanout", 1, 32, |t| Slot::Count(&mut t.gossip_fanout)),
];

/// A span, its range in milliseconds.
const fn span(name: &'static str, least: u64, most: u64, slot: fn(&mut Tuning) -> Slot<'_>) -> Knob {
    Knob { name, range: (Value::Span(Duration::from_millis(least)), Value::Span(Duration::from_millis(most))), slot }
}

const fn count(name: &'static str, least: usize, most: usize, slot: fn(&mut Tuning) -> Slot<'_>) -> Knob {
    Knob { name, range: (Value::Count(least), Value::Count(most)), slot }
}

fn names() -> String {
    KNOBS.iter().map(|knob| knob.name).collect::<Vec<_>>().join(", ")
}

/// The setting of this name.
///
/// # Errors
/// [`KnobError::Unknown`], which lists all there are.
pub fn knob(name: &str) -> Result<&'static Knob, KnobError> {
    KNOBS.iter().find(|knob| knob.name == name).ok_or_else(|| KnobError::Unknown { name: name.to_owned() })
}

/// Reads `NAME=VALUE`.
///
/// # Errors
/// See [`KnobError`].
pub fn parse(text: &str) -> Result<(&'static Knob, Value), KnobError> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let knob = knob(name.trim())?;
    let value = knob.parse(value.trim())?;
    knob.set(&mut Tuning::default(), value)?;
    Ok((knob, value))
}

/// Whether every setting is in its range, and they go together.
///
/// # Errors
/// [`KnobError::Range`] and [`KnobError::Together`].
pub fn check(tuning: &Tuning) -> Result<(), KnobError> {
    for knob in KNOBS {
        knob.set(&mut tuning.clone(), knob.value(tuning))?;
    }
    if tuning.probe_rtt >= tuning.probe_period {
        let (rtt, period) = (Value::Span(tuning.probe_rtt), Value::Span(tuning.probe_period));
        let what = format!("probe_rtt ({rtt}) must be below probe_period ({period})");
        return Err(KnobError::Together(what));
    }
    Ok(())
}

impl Knob {
    /// What it is set to.
    pub fn value(&self, tuning: &Tuning) -> Value {
        match (self.slot)(&mut tuning.clone()) {
            Slot::Span(span) => Value::Span(*span),
            Slot::Count(count) => Value::Count(*count),
        }
    }

    /// Sets it.
    ///
    /// # Errors
    /// [`KnobError::Range`], or [`KnobError::Unreadable`] for a value of another kind; nothing is changed then.
    pub fn set(&self, tuning: &mut Tuning, value: Value) -> Result<(), KnobError> {
        let (least, most) = self.range;
        match ((self.slot)(tuning), value) {
            _ if self.is_of_kind(value) && (value < least || value > most) => {
                let (least, most) = (least.to_string(), most.to_string());
                return Err(KnobError::Range { name: self.name, least, most, found: value.to_string() });
            }
            (Slot::Span(span), Value::Span(value)) => *span = value,
            (Slot::Count(count), Value::Count(value)) => *count = value,
            _ => return Err(self.unreadable(&value.to_string())),
        }
        Ok(())
    }

    /// Reads a value: `500ms`, `2s` or `1m` for a span, a whole number for a count.
    ///
    /// # Errors
    /// [`KnobError::Unreadable`].
    pub fn parse(&self, text: &str) -> Result<Value, KnobError> {
        let value = match self.range.0 {
            Value::Span(_) => parse_span(text).map(Value::Span),
            Value::Count(_) => text.parse().ok().map(Value::Count),
        };
        value.ok_or_else(|| self.unreadable(text))
    }

    fn is_of_kind(&self, value: Value) -> bool {
        std::mem::discriminant(&self.range.0) == std::mem::discriminant(&value)
    }

    fn unreadable(&self, found: &str) -> KnobError {
        let expected = match self.range.0 {
            Value::Span(_) => "a number with us, ms, s or m, such as 500ms",
            Value::Count(_) => "a whole number",
        };
        KnobError::Unreadable { name: self.name, expected, found: found.to_owned() }
    }
}

/// What takes a whole millisecond less than a minute looks the same when it is read and written again.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span(span) => match span.as_nanos() {
                nanos if nanos % 1_000_000_000 == 0 => write!(f, "{}s", span.as_secs()),
                nanos if nanos % 1_000_000 == 0 => write!(f, "{}ms", span.as_millis()),
                _ => write!(f, "{}us", span.as_micros()),
            },
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit.trim() {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        _ => return None,
    };
    // Whole microseconds: what is written is what was read.
    (seconds < 1e9).then(|| Duration::from_micros((seconds * 1e6).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_field_once_and_the_shipped_value_is_in_range() {
        let shipped = Tuning::default();
        let debug = format!("{shipped:?}");
        // The detector's settings stand in a struct of their own.
        assert_eq!(debug.matches(": ").count(), KNOBS.len() + 1, "{debug}");
        for knob in KNOBS {
            assert!(debug.contains(&format!("{}: ", knob.name)), "{}", knob.name);
            knob.set(&mut Tuning::default(), knob.value(&shipped)).expect("what ships is in range");
        }
        assert_eq!(check(&shipped), Ok(()));
    }

    #[test]
    fn a_value_is_read_as_it_was_written_and_lands_in_its_own_field() {
        for knob in KNOBS {
            let mut tuning = Tuning::default();
            let most = knob.parse(&knob.range.1.to_string()).expect("written by us");
            assert_eq!(most, knob.range.1);
            knob.set(&mut tuning, most).expect("the most is in range");
            let changed: Vec<_> =
                KNOBS.iter().filter(|k| k.value(&tuning) != k.value(&Tuning::default())).map(|k| k.name).collect();
            assert_eq!(changed, [knob.name]);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_changes_nothing() {
        let mut tuning = Tuning::default();
        let period = knob("probe_period").expect("there is one");
        let far = period.parse("2m").expect("a span");
        let error = period.set(&mut tuning, far).expect_err("too long").to_string();
        assert_eq!(error, "probe_period is from 10ms to 60s, not 120s");
        assert!(matches!(period.parse("2"), Err(KnobError::Unreadable { .. })));
        assert!(matches!(period.set(&mut tuning, Value::Count(3)), Err(KnobError::Unreadable { .. })));
        assert_eq!(tuning, Tuning::default());
        assert!(knob("probe_peroid").expect_err("a slip").to_string().contains("probe_period"));
        tuning.probe_rtt = tuning.probe_period;
        assert!(check(&tuning).is_err());
    }
}
