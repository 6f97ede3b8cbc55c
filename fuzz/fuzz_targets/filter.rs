//! Filters: what anybody who may ask can write.
#![no_main]

use std::sync::Arc;

use tidings::select::Filter;
use tidings::select::filter::{Field, Fields};

/// A document that answers whatever it is asked, with everything there is.
struct Anything;

impl Fields for Anything {
    fn field(&self, path: &[Arc<str>]) -> Field<'_> {
        match path.iter().map(|part| part.len()).sum::<usize>() % 5 {
            0 => Field::Absent,
            1 => Field::Text("a text".into()),
            2 => Field::Number(2),
            3 => Field::Bool(true),
            _ => Field::Texts(vec!["a".into(), "b".into()]),
        }
    }
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(filter) = text.parse::<Filter>() {
        let again = filter.to_string().parse::<Filter>();
        // Written out, escapes and parentheses can make it longer than may be read.
        if let Ok(again) = &again {
            assert_eq!(*again, filter, "what is shown means the same");
            assert_eq!(again.holds(&Anything), filter.holds(&Anything));
        }
    }
});
