//! The annotation in which client-side apply keeps what it applied last.

use std::collections::BTreeMap;

use serde_json::Value;

pub(super) const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Most bytes of the annotations of an object.
///
/// Source: `TotalAnnotationSizeLimitB` in upstream's object validation.
const MAX_BYTES: usize = 256 * 1024;

/// The annotation's text.
pub(super) fn text(object: &Value) -> Option<&str> {
    object.pointer("/metadata/annotations")?.get(ANNOTATION)?.as_str()
}

/// Where there is such an annotation, kubectl's server-side apply keeps it up to date, so that one can go back.
pub(super) fn renew(object: &mut Value, config: &Value) {
    if text(object).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) =
        config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    let Some(annotations) =
        object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    else {
        return;
    };
    let text = format!("{}\n", sorted(&config));
    if text.len() > MAX_BYTES {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.to_owned(), text.into());
    }
}

/// JSON as Go writes maps: sorted by key.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<&String, Value> = map.iter().map(|(k, v)| (k, sorted(v))).collect();
            map.into_iter().map(|(k, v)| (k.clone(), v)).collect()
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        other => other.clone(),
    }
}
