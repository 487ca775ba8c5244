//! Patches of each kind: what is refused changes nothing, and a merge that is done twice is done once.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use schema::Schema;
use serde_json::Value;

static POD: LazyLock<Schema> =
    LazyLock::new(|| Schema::for_gvk("", "v1", "Pod").expect("pods are known"));

fuzz_target!(|input: &[u8]| {
    // A kind, the object, and after a line's end the patch.
    let Some((kind, rest)) = input.split_first() else { return };
    let Some(at) = rest.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(target) = serde_json::from_slice::<Value>(&rest[..at]) else { return };
    let patch = &rest[at + 1..];
    let mut changed = target.clone();
    match kind % 3 {
        0 => {
            if schema::patch::json(&mut changed, patch).is_err() {
                assert_eq!(changed, target, "a refused patch has changed the object");
            }
        }
        1 => {
            if schema::patch::merge(&mut changed, patch).is_ok() {
                let once = changed.clone();
                schema::patch::merge(&mut changed, patch).expect("it was fine before");
                assert_eq!(changed, once, "a merge that is done twice");
            }
        }
        _ => {
            if let Ok(patch) = schema::patch::object(patch) {
                let _ = POD.strategic_merge(&mut changed, &patch);
                let _ = schema::print::plain(&changed);
            }
        }
    }
});
