//! What a person may write: where to join, what to advertise.
#![no_main]

use tidings::registry::{Advertise, Target};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string().parse(), Ok(target), "what is shown means the same");
    }
    let _ = text.parse::<Advertise>();
});
