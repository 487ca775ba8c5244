//! Writing no more than what changed.

use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

/// The JSON merge patch (RFC 7396) that turns `old` into `new`; `None` if they are equal.
#[must_use]
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            None => drop(patch.insert(key.clone(), value.clone())),
            Some(before) => {
                drop(merge_diff(before, value).map(|diff| patch.insert(key.clone(), diff)))
            }
        }
    }
    patch.extend(
        old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null)),
    );
    Some(Value::Object(patch))
}

/// Writes `new` over the status `old` of `object` through the status subresource, if they differ.
///
/// The patch carries the object's resourceVersion: a status that was worked out from an outdated
/// object is refused with a conflict instead of hiding somebody else's. `None` says that nothing
/// had to be written.
///
/// # Errors
/// What the server answered; a conflict or "not found" means: look again.
pub async fn patch_status<K, S>(
    api: &Api<K>,
    object: &K,
    old: Option<&S>,
    new: &S,
) -> Result<Option<K>, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let to_value = |status| serde_json::to_value(status).map_err(kube::Error::SerdeError);
    let old = old.map_or(Ok(json!({})), to_value)?;
    let Some(status) = merge_diff(&old, &to_value(new)?) else {
        return Ok(None);
    };
    let meta = object.meta();
    let patch =
        json!({ "metadata": { "resourceVersion": meta.resource_version }, "status": status });
    let name = meta.name.as_deref().unwrap_or_default();
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: Value, new: Value, expected: Option<Value>) {
        assert_eq!(merge_diff(&old, &new), expected);
    }

    #[test]
    fn a_diff_names_only_what_changed() {
        check(json!({"a": 1}), json!({"a": 1}), None);
        check(json!({"a": 1, "b": 2}), json!({"a": 1, "b": 3}), Some(json!({"b": 3})));
        check(json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null})));
        check(json!({}), json!({"a": {"b": 1}}), Some(json!({"a": {"b": 1}})));
        check(
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"b": 1}}),
            Some(json!({"a": {"c": null}})),
        );
        check(json!({"a": [1, 2]}), json!({"a": [1]}), Some(json!({"a": [1]})));
    }
}
