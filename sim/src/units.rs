//! Spans, shares, rates and sizes as a person writes them: `200ms`, `10%`, `20Mbit/s`, `64KiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time: a number and one of `ns`, `us`, `ms`, `s`, `m`, `h`, `d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Span(pub Duration);

/// A share from 0 to 1; as text also in percent.
#[derive(Clone, Copy, PartialEq, PartialOrd, Default, Debug)]
pub struct Share(pub f64);

/// Bits in a second: a number and one of `bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s`.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Rate(pub f64);

/// Bytes: a number and one of `B`, `KiB`, `MiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub usize);

/// Why a text is no quantity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// There is no number in front.
    #[error("{text:?} does not begin with a number")]
    Number {
        /// What was written.
        text: String,
    },
    /// The unit is not one of those known.
    #[error("{text:?} has no unit of {known}")]
    Unit {
        /// What was written.
        text: String,
        /// The units there are.
        known: &'static str,
    },
    /// The number lies outside of what can be meant.
    #[error("{text:?} is not within {range}")]
    Range {
        /// What was written.
        text: String,
        /// What can be meant.
        range: &'static str,
    },
}

const SPANS: &str = "ns, us, ms, s, m, h, d";
const RATES: &str = "bit/s, kbit/s, Mbit/s, Gbit/s";
const SIZES: &str = "B, KiB, MiB";

/// The longest span: what the simulation's clock holds with room to spare.
const SPAN_DAYS_MAX: f64 = 36_500.0;

impl Span {
    /// Whether it is none at all.
    pub const fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    /// This many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// This many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

/// The number in front and the unit behind it.
fn split(text: &str) -> Result<(f64, &str), UnitError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].parse().map_err(|_| UnitError::Number { text: text.to_owned() })?;
    Ok((number, text[end..].trim()))
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text)?;
        let nanos = match unit {
            "ns" => 1.0,
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3_600e9,
            "d" => 86_400e9,
            "" if number == 0.0 => 0.0,
            _ => return Err(UnitError::Unit { text: text.to_owned(), known: SPANS }),
        };
        let nanos = number * nanos;
        if nanos > SPAN_DAYS_MAX * 86_400e9 {
            return Err(UnitError::Range { text: text.to_owned(), range: "0 to 36500d" });
        }
        Ok(Self(Duration::from_nanos(nanos.round() as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        for (unit, size) in [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)] {
            // Two digits behind the point are exact enough for a person, and nothing is lost if the rest is zero.
            if nanos >= size && nanos.is_multiple_of(size / 100) {
                return write!(f, "{}{unit}", nanos as f64 / size as f64);
            }
        }
        match nanos {
            0 => f.write_str("0s"),
            nanos if nanos.is_multiple_of(1_000) => write!(f, "{}us", nanos / 1_000),
            nanos => write!(f, "{nanos}ns"),
        }
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text)?;
        let share = match unit {
            "%" => number / 100.0,
            "" => number,
            _ => return Err(UnitError::Unit { text: text.to_owned(), known: "%" }),
        };
        if !(0.0..=1.0).contains(&share) {
            return Err(UnitError::Range { text: text.to_owned(), range: "0 to 1 (100%)" });
        }
        Ok(Self(share))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text)?;
        let bits = match unit {
            "bit/s" => 1.0,
            "kbit/s" => 1e3,
            "Mbit/s" => 1e6,
            "Gbit/s" => 1e9,
            _ => return Err(UnitError::Unit { text: text.to_owned(), known: RATES }),
        };
        if number * bits < 1.0 {
            return Err(UnitError::Range { text: text.to_owned(), range: "1 bit/s and more" });
        }
        Ok(Self(number * bits))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits >= 1e9 => write!(f, "{}Gbit/s", bits / 1e9),
            bits if bits >= 1e6 => write!(f, "{}Mbit/s", bits / 1e6),
            bits if bits >= 1e3 => write!(f, "{}kbit/s", bits / 1e3),
            bits => write!(f, "{bits}bit/s"),
        }
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text)?;
        let bytes = match unit {
            "B" | "" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1_048_576.0,
            _ => return Err(UnitError::Unit { text: text.to_owned(), known: SIZES }),
        };
        Ok(Self((number * bytes) as usize))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B", self.0)
    }
}

/// Reads a quantity from text, or from a bare number where that has a meaning.
struct Quantity<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = UnitError>> Visitor<'_> for Quantity<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

macro_rules! as_text {
    ($($name:ident: $what:literal,)+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Quantity($what, std::marker::PhantomData))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

as_text! {
    Span: "a length of time such as \"200ms\"",
    Share: "a share such as 0.1 or \"10%\"",
    Rate: "a rate such as \"20Mbit/s\"",
    Size: "a size such as \"64KiB\"",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["200ms", "1.5s", "2m", "24h", "0s", "250us", "7ns", "1.25s", "90s"] {
            let span: Span = text.parse().expect("well formed");
            let again: Span = span.to_string().parse().expect("written by ourselves");
            assert_eq!(again, span, "{text} became {span}");
        }
        assert_eq!("200ms".parse::<Span>().expect("well formed").0, Duration::from_millis(200));
        assert_eq!("12.5%".parse::<Share>().expect("well formed"), Share(0.125));
        assert_eq!("20Mbit/s".parse::<Rate>().expect("well formed"), Rate(20e6));
        assert_eq!("64KiB".parse::<Size>().expect("well formed"), Size(65_536));
    }

    #[test]
    fn a_quantity_without_its_unit_is_refused_by_name() {
        let error = "5".parse::<Span>().expect_err("five what?").to_string();
        assert!(error.contains("\"5\"") && error.contains("ms"), "{error}");
        assert!("130%".parse::<Share>().is_err());
        assert!("fast".parse::<Rate>().is_err());
        assert!("-1s".parse::<Span>().is_err());
    }
}
