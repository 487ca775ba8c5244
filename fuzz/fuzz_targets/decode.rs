//! Bodies of requests, in each format: nothing but a value or a complaint comes out, and what comes out of
//! JSON stays what it is when it is written and read again.
#![no_main]

use std::sync::LazyLock;

use apiserver::write::decode::{BodyFormat, decode};
use libfuzzer_sys::fuzz_target;
use schema::Schema;

static POD: LazyLock<Schema> =
    LazyLock::new(|| Schema::for_gvk("", "v1", "Pod").expect("pods are known"));

fuzz_target!(|input: &[u8]| {
    let Some((format, body)) = input.split_first() else { return };
    let format = match format % 3 {
        0 => BodyFormat::Json,
        1 => BodyFormat::Yaml,
        _ => BodyFormat::Protobuf,
    };
    let Ok(decoded) = decode(body, format) else { return };
    let text = decoded.value.to_string();
    let again = decode(text.as_bytes(), BodyFormat::Json).expect("what was written is read");
    assert_eq!(again.value, decoded.value);
    let mut pod = decoded.value;
    if pod.is_object() && POD.decode(&mut pod).is_ok() {
        POD.default(&mut pod);
        let _ = POD.validate(&pod, None);
    }
});
