//! Server-side apply: whoever applies the same again changes nothing.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use schema::Schema;
use schema::apply::Writer;
use serde_json::Value;

static POD: LazyLock<Schema> =
    LazyLock::new(|| Schema::for_gvk("", "v1", "Pod").expect("pods are known"));

const WRITER: Writer<'static> = Writer {
    manager: "fuzz",
    api_version: "v1",
    subresource: "",
    time: "2026-01-01T00:00:00Z",
};

fuzz_target!(|input: &[u8]| {
    // An object, and after a line's end the configuration.
    let Some(at) = input.iter().position(|byte| *byte == b'\n') else { return };
    let live = serde_json::from_slice::<Value>(&input[..at]).ok().filter(Value::is_object);
    let Ok(mut config) = serde_json::from_slice::<Value>(&input[at + 1..]) else { return };
    if !config.is_object() || POD.decode(&mut config).is_err() {
        return;
    }
    let live = live.and_then(|mut live| POD.decode(&mut live).is_ok().then_some(live));
    let Ok(once) = POD.apply(live.as_ref(), &config, &WRITER, true, &["status"]) else { return };
    let twice = POD.apply(Some(&once), &config, &WRITER, false, &["status"]);
    assert_eq!(twice.expect("nobody else owns it"), once);
});
