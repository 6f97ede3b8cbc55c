//! The two formats that Prometheus reads: its own text format 0.0.4, and OpenMetrics 1.0. Knows nothing of what is
//! measured.
//!
//! Written here, and not by the crate `prometheus-client`: that writes OpenMetrics alone, while 0.0.4 is what
//! `promtool` and many a scraper read; and its metrics count on their own, while ours are counted where they happen and
//! only shown here. What is written is read back by `promtool`, by the reference parser of OpenMetrics and by
//! Prometheus itself, in `tests/doors/prometheus.sh`.

use std::fmt::{self, Write as _};

use crate::door::accept;

/// Which of the formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// Prometheus's text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a client wants that sends this `Accept` header: text, unless it wants OpenMetrics as much.
    pub(super) fn accepted(header: Option<&str>) -> Self {
        let header = header.unwrap_or_default();
        let is_open = |range: &accept::Range<'_>| range.kind.eq_ignore_ascii_case("application/openmetrics-text");
        let is_spoken = |range: &accept::Range<'_>| {
            range.quality > 0 && matches!(range.param("version"), None | Some("1.0.0" | "0.0.1"))
        };
        let open = accept::ranges(header).filter(is_open).filter(is_spoken).map(|range| range.quality).max();
        match open {
            Some(quality) if quality >= accept::quality(header, "text/plain") => Self::OpenMetrics,
            _ => Self::Text,
        }
    }
}

/// What a family of series is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Only grows; its series end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts what fell into buckets.
    Histogram,
    /// Is always 1, and says something in its labels; its series end in `_info`.
    Info,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    /// What stands behind the name of each of its series.
    pub(super) const fn ending(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

/// A family of series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Family {
    /// Its name, without the ending that its kind adds; the unit stands last.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What it tells, as a sentence.
    pub(super) help: &'static str,
}

impl Family {
    /// The unit that its name ends in.
    fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes", "ratio"].into_iter().find(|unit| {
            self.name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_') && self.kind != Kind::Info)
        })
    }
}

/// The labels of a series.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page of series, family by family.
#[derive(Debug)]
pub(super) struct Page {
    format: Format,
    text: String,
    family: Option<Family>,
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(64 * 1024), family: None }
    }

    /// Begins a family. The series that follow are of it.
    pub(super) fn family(&mut self, family: Family) {
        let Family { name, kind, help } = family;
        // In the old format, what is described is the series; in the new one, the family.
        let (described, kind_told) = match (self.format, kind) {
            (Format::Text, Kind::Info) => (Whole(name, kind.ending()), Kind::Gauge),
            (Format::Text, _) => (Whole(name, kind.ending()), kind),
            (Format::OpenMetrics, _) => (Whole(name, ""), kind),
        };
        let help = Escaped { text: help, quotes: self.format == Format::OpenMetrics };
        self.line(format_args!("# HELP {described} {help}"));
        self.line(format_args!("# TYPE {described} {}", kind_told.as_str()));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, family.unit()) {
            self.line(format_args!("# UNIT {described} {unit}"));
        }
        self.family = Some(family);
    }

    /// A series of the family.
    pub(super) fn series(&mut self, labels: Labels<'_>, value: f64) {
        let Some(Family { name, kind, .. }) = self.family else { return };
        debug_assert!(kind != Kind::Histogram, "that has buckets");
        self.line(format_args!("{}{} {}", Whole(name, kind.ending()), Braced(labels, None), Number(value)));
    }

    /// A histogram of the family. `bounds` grow; `counts` are of what fell into each bucket alone, and one longer: what
    /// lies above them all.
    pub(super) fn histogram(&mut self, labels: Labels<'_>, bounds: &[f64], counts: &[u64], sum: f64) {
        let Some(Family { name, .. }) = self.family else { return };
        let mut seen = 0;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(counts) {
            seen += count;
            self.line(format_args!("{name}_bucket{} {seen}", Braced(labels, Some(bound))));
        }
        self.line(format_args!("{name}_sum{} {}", Braced(labels, None), Number(sum)));
        self.line(format_args!("{name}_count{} {seen}", Braced(labels, None)));
    }

    /// The whole page.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing into a text cannot fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }
}

/// A name with its ending.
struct Whole(&'static str, &'static str);

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

/// Text in which nothing ends the line or, with `quotes`, the quotes around it.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.text.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.quotes => f.write_str("\\\"")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Labels, and the bound of a bucket.
struct Braced<'a>(Labels<'a>, Option<f64>);

impl fmt::Display for Braced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(labels, bound) = self;
        if labels.is_empty() && bound.is_none() {
            return Ok(());
        }
        let mut mark = '{';
        for (name, text) in *labels {
            write!(f, "{mark}{name}=\"{}\"", Escaped { text, quotes: true })?;
            mark = ',';
        }
        if let Some(bound) = bound {
            write!(f, "{mark}le=\"{}\"", Bound(*bound))?;
        }
        f.write_char('}')
    }
}

/// A bound as OpenMetrics writes it: with a dot, so that it is the same text everywhere.
struct Bound(f64);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_infinite() { f.write_str("+Inf") } else { write!(f, "{:?}", self.0) }
    }
}

/// A value.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value.is_nan() => f.write_str("NaN"),
            value if value.is_infinite() => f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" }),
            value => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Family = Family { name: "a_sent_bytes", kind: Kind::Counter, help: "Bytes \\ \"sent\"\nhere." };
    const BUILD: Family = Family { name: "a_build", kind: Kind::Info, help: "The build." };
    const RTT: Family = Family { name: "a_rtt_seconds", kind: Kind::Histogram, help: "Times." };

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.family(SENT);
        page.series(&[("service", "a\"b\\c\nd{e},ü")], 7.0);
        page.series(&[], 1e15);
        page.family(BUILD);
        page.series(&[("version", "1")], 1.0);
        page.family(RTT);
        page.histogram(&[], &[0.005, 1.0], &[3, 0, 2], 4.25);
        page.finish()
    }

    #[test]
    fn the_text_format_describes_series_and_escapes_what_would_end_a_line_or_a_label() {
        let told = r#"# HELP a_sent_bytes_total Bytes \\ "sent"\nhere.
# TYPE a_sent_bytes_total counter
a_sent_bytes_total{service="a\"b\\c\nd{e},ü"} 7
a_sent_bytes_total 1000000000000000
# HELP a_build_info The build.
# TYPE a_build_info gauge
a_build_info{version="1"} 1
# HELP a_rtt_seconds Times.
# TYPE a_rtt_seconds histogram
a_rtt_seconds_bucket{le="0.005"} 3
a_rtt_seconds_bucket{le="1.0"} 3
a_rtt_seconds_bucket{le="+Inf"} 5
a_rtt_seconds_sum 4.25
a_rtt_seconds_count 5
"#;
        assert_eq!(page(Format::Text), told);
    }

    #[test]
    fn openmetrics_describes_families_with_their_units_and_says_where_it_ends() {
        let told = page(Format::OpenMetrics);
        for line in [
            r#"# HELP a_sent_bytes Bytes \\ \"sent\"\nhere."#,
            "# TYPE a_sent_bytes counter",
            "# UNIT a_sent_bytes bytes",
            "a_sent_bytes_total 1000000000000000",
            "# TYPE a_build info",
            r#"a_build_info{version="1"} 1"#,
            "# UNIT a_rtt_seconds seconds",
        ] {
            assert!(told.lines().any(|other| other == line), "{line}\n{told}");
        }
        assert!(told.ends_with("_count 5\n# EOF\n") && !told.contains("# UNIT a_build"));
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for header in [prometheus, "application/openmetrics-text", "application/openmetrics-text; version=1.0.0;q=0.2"]
        {
            assert_eq!(Format::accepted(Some(header)), Format::OpenMetrics, "{header}");
        }
        for header in [
            "",
            "*/*",
            "text/plain",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.3,text/plain",
        ] {
            assert_eq!(Format::accepted(Some(header)), Format::Text, "{header}");
        }
        assert_eq!(Format::accepted(None), Format::Text);
    }
}
