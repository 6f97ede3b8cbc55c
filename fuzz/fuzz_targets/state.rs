//! The state file of a data directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tidings::net::kept::reads(bytes);
});
