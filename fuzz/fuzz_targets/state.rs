//! The files of a data directory: state, keys, and the saved view.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tidings::net::kept::reads(bytes);
    tidings::net::kept_ring::reads(bytes);
    tidings::net::kept_view::reads(bytes);
});
