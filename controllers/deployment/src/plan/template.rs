//! Pod templates: when two are the same, and a short name for one.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// Label that keeps the pods of a Deployment's ReplicaSets apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Whether two templates ask for the same pod, the label [`HASH_LABEL`] aside.
pub(crate) fn is_same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    normal(a) == normal(b)
}

/// A short name, made of characters that no word can be read into.
///
/// `collisions` makes another one when this one was taken. It need not equal what other
/// implementations compute: a ReplicaSet is recognised by its template.
///
/// Source: the alphabet is that of upstream `k8s.io/apimachinery/pkg/util/rand`.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // FNV-1a, 32 bits; keys of a JSON map are sorted, so that the text is canonical.
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let text = normal(template).to_string();
    let salt = collisions.map(i32::to_le_bytes).into_iter().flatten();
    let hash = text.bytes().chain(salt).fold(0x811c_9dc5, fnv);
    let safe = |byte: u8| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]);
    hash.to_string().bytes().map(safe).collect()
}

/// The template as JSON without the hash label and without what only says "nothing".
fn normal(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = &mut template.metadata {
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH_LABEL);
        }
        metadata.labels.take_if(|labels| labels.is_empty());
        metadata.annotations.take_if(|annotations| annotations.is_empty());
        metadata.creation_timestamp = None;
    }
    let mut value = serde_json::to_value(&template).unwrap_or_default(); // Plain data: cannot fail.
    drop_nothing(&mut value);
    if value["metadata"].as_object().is_some_and(serde_json::Map::is_empty)
        && let Some(template) = value.as_object_mut()
    {
        template.remove("metadata");
    }
    value
}

/// Removes nulls and empty lists; empty objects stay, since `emptyDir: {}` is something.
fn drop_nothing(value: &mut Value) {
    let is_nothing = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(drop_nothing);
            map.retain(|_, value| !is_nothing(value));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nothing),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(json: Value) -> PodTemplateSpec {
        serde_json::from_value(json).unwrap()
    }

    #[track_caller]
    fn check(a: Value, b: Value, same: bool) {
        let (a, b) = (template(a), template(b));
        assert_eq!(is_same(&a, &b), same);
        assert_eq!(hash(&a, None) == hash(&b, None), same);
    }

    #[test]
    fn only_what_matters_to_the_pod_is_compared() {
        let spec = || json!({"containers": [{"name": "a", "image": "x"}]});
        let with_labels = |labels| json!({"metadata": {"labels": labels}, "spec": spec()});
        check(with_labels(json!({"app": "a"})), with_labels(json!({"app": "a"})), true);
        check(
            with_labels(json!({"app": "a"})),
            with_labels(json!({"app": "a", "pod-template-hash": "x"})),
            true,
        );
        check(with_labels(json!({"app": "a"})), with_labels(json!({"app": "b"})), false);
        check(json!({"spec": spec()}), with_labels(json!({"pod-template-hash": "x"})), true);
        check(
            json!({"spec": spec()}),
            json!({"metadata": {"creationTimestamp": null}, "spec": spec()}),
            true,
        );
        let volume = |source| json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": source}]}});
        check(volume(json!({})), volume(json!(null)), false);
        let annotated = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}, "spec": spec()});
        check(json!({"spec": spec()}), annotated, false);
    }

    #[test]
    fn hashes_are_safe_names_and_collisions_change_them() {
        let template = template(json!({"spec": {"containers": []}}));
        let hash_of = |collisions| hash(&template, collisions);
        assert!(hash_of(None).len() <= 10);
        assert!(hash_of(None).bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
        assert_ne!(hash_of(None), hash_of(Some(1)));
        assert_ne!(hash_of(Some(1)), hash_of(Some(2)));
    }
}
