//! Which of several forms of an answer a client prefers (RFC 9110, section 12.5.1). Knows nothing of what they are.

/// One range of an `Accept` header.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Range<'a> {
    /// `type/subtype`; either may be `*`.
    pub(super) kind: &'a str,
    params: &'a str,
    /// In thousandths.
    pub(super) quality: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let (kind, params) = text.split_once(';').unwrap_or((text, ""));
        let range = Self { kind: kind.trim(), params, quality: 1_000 };
        let quality = range.param("q").map_or(1.0, |text| text.parse::<f32>().unwrap_or(0.0));
        Self { quality: (quality.clamp(0.0, 1.0) * 1_000.0) as u16, ..range }
    }

    /// The value of a parameter.
    pub(super) fn param(&self, name: &str) -> Option<&'a str> {
        self.params.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
        })
    }
}

/// The ranges of a header, in its order.
pub(super) fn ranges(header: &str) -> impl Iterator<Item = Range<'_>> {
    header.split(',').filter(|text| !text.trim().is_empty()).map(Range::parse)
}

/// How much a client wants a type, in thousandths; 0 is not at all. The most exact range counts.
pub(super) fn quality(header: &str, kind: &str) -> u16 {
    let main = kind.split('/').next().unwrap_or_default();
    let exactness = |range: &Range<'_>| match range.kind.split_once('/') {
        _ if range.kind.eq_ignore_ascii_case(kind) => 3,
        Some((of, "*")) if of.eq_ignore_ascii_case(main) => 2,
        Some(("*", "*")) => 1,
        _ => 0,
    };
    let best = ranges(header).map(|range| (exactness(&range), range.quality)).filter(|(exact, _)| *exact > 0).max();
    best.map_or(0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_range_says_how_much_a_type_is_wanted() {
        let header = "text/*;q=0.3, text/html;q=0.7, */*;q=0.1, application/json";
        let told = ["text/html", "text/plain", "image/png", "application/json"].map(|kind| quality(header, kind));
        assert_eq!(told, [700, 300, 100, 1_000]);
        assert_eq!((quality("", "text/plain"), quality("text/html;q=0", "text/html")), (0, 0));
    }

    #[test]
    fn parameters_are_found_in_any_case_and_quotes() {
        let range = ranges(" application/openmetrics-text ; Version=\"1.0.0\" ; q=.5 ").next().unwrap();
        assert_eq!(
            (range.kind, range.param("version"), range.quality),
            ("application/openmetrics-text", Some("1.0.0"), 500)
        );
        assert_eq!(ranges("a/b;q=x").next().unwrap().quality, 0);
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(header in ".{0,200}") {
            let _ = (quality(&header, "text/plain"), ranges(&header).count());
        }
    }
}
