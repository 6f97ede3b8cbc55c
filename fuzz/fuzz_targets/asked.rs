//! Query strings and bodies of HTTP requests: what anybody who may connect can send.
#![no_main]

use std::time::Duration;

use tidings::door::ask::{Query, WAIT_MAX, span, truth};
use tidings::door::auth::Tokens;
use tidings::door::body::{Body, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(query) = Query::parse(Some(text)) {
            if let Ok(blocking) = query.blocking() {
                assert!(blocking.wait <= WAIT_MAX, "nobody waits longer");
            }
            let _ = (query.flag("passing"), query.values("tag").count(), query.has_only(&["index"]));
        }
        if let Some(span) = span(text) {
            assert!(span <= Duration::from_nanos(i64::MAX as u64), "what Go can hold");
        }
        let _ = (truth(text), Tokens::parse(text));
    }
    let Ok(value) = parse(bytes) else { return };
    let Ok(body) = Body::of(&value) else { return };
    for name in ["name", "port", "ttl", "tags", "meta", "check", "checks", "weights", "deregistercriticalserviceafter"] {
        let _ = (body.text(name), body.flag(name), body.span(name), body.texts(name), body.map(name));
        let _ = (body.entries(name), body.object(name), body.objects(name));
        if let Ok(Some(number)) = body.number(name, 65_535) {
            assert!(number <= 65_535);
        }
    }
});
