//! Whether the defaults of a schema are valid values of it.
//!
//! Source: upstream's `apiextensions-apiserver/pkg/apiserver/schema/defaulting/validation.go`.

use serde_json::{Value, json};

use crate::Schema;
use crate::cause::Cause;

/// What is wrong with the defaults of a structural schema.
pub(super) fn faults(schema: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    walk(schema, path, true, &mut causes);
    causes
}

fn walk(schema: &Value, path: &str, is_object: bool, causes: &mut Vec<Cause>) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        let is_object = is_object || schema["x-kubernetes-embedded-resource"] == true;
        judge(schema, default, &format!("{path}.default"), is_object, causes);
    }
    if let Some(items) = schema.get("items") {
        walk(items, &format!("{path}.items"), false, causes);
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        walk(schema, &format!("{path}.properties[{name}]"), false, causes);
    }
}

/// A default must be pruned and valid itself; a whole object says what it is.
fn judge(schema: &Value, default: &Value, field: &str, is_object: bool, causes: &mut Vec<Cause>) {
    let holder = json!({ "type": "object", "properties": { "value": schema } });
    let Ok(compiled) = Schema::from_crd(&holder) else { return };
    let mut value = json!({ "value": default });
    if compiled.decode(&mut value).is_ok_and(|unknown| !unknown.is_empty()) {
        causes.push(Cause::invalid(field, default, "must not have unknown fields"));
    }
    if is_object {
        let missing = ["apiVersion", "kind"].into_iter().filter(|key| default.get(key).is_none());
        let missing: Vec<_> =
            missing.map(|key| Cause::required(format!("{field}.{key}"), "")).collect();
        if !missing.is_empty() {
            return causes.extend(missing);
        }
    }
    let mut value = json!({ "value": default });
    if schema.get(crate::compile::DEFINITION).is_some() {
        compiled.default(&mut value); // Go makes the whole struct.
    }
    let structural = compiled.validate_default(&value);
    if structural.is_empty() {
        let broken = compiled.validate_rules(&value, None).into_iter();
        return causes.extend(broken.map(|cause| placed(cause, field)));
    }
    causes.extend(structural.into_iter().map(|cause| renamed(cause, field, schema)));
}

/// What a rule says, in its place below the default.
fn placed(cause: Cause, field: &str) -> Cause {
    let below = cause.field.strip_prefix("value").unwrap_or_default();
    Cause { field: format!("{field}{below}"), ..cause }
}

/// As recorded: messages speak of an unnamed value, of whose keys they show the dot.
fn renamed(cause: Cause, field: &str, schema: &Value) -> Cause {
    let below = cause.field.strip_prefix("value").unwrap_or_default();
    let short = below.trim_start_matches('.');
    let first = short.split(['.', '[']).next().unwrap_or_default();
    let shown = if schema["properties"].get(first).is_some() { short } else { below };
    let message =
        cause.message.replacen(&format!("{} in body", cause.field), &format!("{shown} in body"), 1);
    let message = match message.rsplit_once(" in value") {
        Some((start, below)) if start.ends_with("format)") || start.contains(" with format ") => {
            format!("{start} in {}", below.trim_start_matches('.'))
        }
        _ => message,
    };
    let dot = if short.is_empty() { "" } else { "." };
    Cause { field: format!("{field}{dot}{short}"), message, ..cause }
}
