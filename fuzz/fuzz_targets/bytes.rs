//! Everything that reads bytes of the network: header and sections of a datagram, records, questions and answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tidings::wire::reads(bytes);
});
