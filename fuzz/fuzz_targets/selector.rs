//! Label and field selectors: read or refused, and never slow.
#![no_main]

use apiserver::handlers::selector::{Fields, Labels};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(labels) = Labels::parse(text) {
        let _ = labels.matches(|_| None);
        let _ = labels.matches(|key| (key.len() % 2 == 0).then_some("a"));
    }
    if let Ok(fields) = Fields::parse(text) {
        let _ = fields.matches(|_| Some(""));
    }
});
