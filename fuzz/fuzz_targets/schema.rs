//! Schemas of CustomResourceDefinitions: checked, compiled, and used on an object, whatever they say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schema::Schema;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    // A schema, and after a line's end an object.
    let at = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let Ok(openapi) = serde_json::from_slice::<Value>(&input[..at]) else { return };
    let causes = schema::crd::validate_schema(&openapi, "spec.validation.openAPIV3Schema");
    let Ok(schema) = Schema::from_crd(&openapi) else { return };
    if !causes.is_empty() {
        return; // The server would not take it.
    }
    let object = serde_json::from_slice::<Value>(input.get(at + 1..).unwrap_or_default());
    let mut object = object.unwrap_or_default();
    if schema.decode(&mut object).is_ok() {
        schema.default(&mut object);
        schema.prune(&mut object);
        let _ = schema.validate(&object, None);
    }
});
