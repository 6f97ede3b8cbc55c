//! The state file and the file of keys of a data directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tidings::net::kept::reads(bytes);
    tidings::net::kept_ring::reads(bytes);
});
