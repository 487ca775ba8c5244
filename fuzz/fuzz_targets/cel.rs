//! CEL: every text is an expression or a complaint, soon.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = schema::cel::compile(text);
});
