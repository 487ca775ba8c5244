//! Classes of storage, and of attributes of volumes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use schema::Cause;
use serde_json::Value;

use super::super::check::{At, Causes, is_empty, items, members, text};
use super::super::{Strategy, node_labels, words};
use super::bytes;

/// Most parameters of a class.
const PARAMETERS: usize = 512;
/// Most bytes of all parameters of a class.
const PARAMETER_BYTES: usize = 256 * 1024;

/// Strategy of `storageclasses`.
pub(crate) struct Classes;

impl Strategy for Classes {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        provisioner(&mut causes, "provisioner", obj);
        parameters(&mut causes, &obj["parameters"]);
        if !is_empty(&obj["reclaimPolicy"]) {
            causes.one_of(&At::new("reclaimPolicy"), &obj["reclaimPolicy"], &["Delete", "Retain"]);
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        causes.one_of(&At::new("volumeBindingMode"), &obj["volumeBindingMode"], &modes);
        topologies(&mut causes, &obj["allowedTopologies"]);
        if let Some(old) = old {
            for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                causes.immutable(&At::new(field), &obj[field], &old[field]);
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (n, topology) in items(&obj["allowedTopologies"]).iter().enumerate() {
            for (m, expression) in items(&topology["matchLabelExpressions"]).iter().enumerate() {
                if let Some(message) = node_labels::deprecated(text(expression, "key")) {
                    warnings.push(format!(
                        "allowedTopologies[{n}].matchLabelExpressions[{m}].key: {message}"
                    ));
                }
            }
        }
        warnings
    }
}

fn provisioner(causes: &mut Causes, field: &str, class: &Value) {
    let at = At::new(field);
    if causes.present(&at, &class[field], "") {
        let name = text(class, field).to_lowercase();
        causes.faults(&at, &name, words::qualified(&name));
    }
}

fn parameters(causes: &mut Causes, parameters: &Value) {
    let at = At::new("parameters");
    if members(parameters).count() > PARAMETERS {
        causes.0.push(Cause::too_long("parameters", PARAMETERS as u64));
        return;
    }
    for (key, _) in members(parameters).filter(|(key, _)| key.is_empty()) {
        causes.invalid(&at, &key.as_str().into(), "field can not be empty.");
    }
    if bytes(parameters) > PARAMETER_BYTES {
        causes.0.push(Cause::too_long("parameters", PARAMETER_BYTES as u64));
    }
}

fn topologies(causes: &mut Causes, topologies: &Value) {
    let at = At::new("allowedTopologies");
    let mut seen = Vec::new();
    for (n, topology) in items(topologies).iter().enumerate() {
        let at = at.index(n);
        let at = at.field("matchLabelExpressions");
        let mut keys = HashSet::new();
        let mut term = BTreeMap::new();
        for (n, expression) in items(&topology["matchLabelExpressions"]).iter().enumerate() {
            let at = at.index(n);
            let key = text(expression, "key");
            term.insert(key, values(causes, &at.field("values"), &expression["values"]));
            causes.faults(&at.field("key"), key, words::qualified(key));
            if !keys.insert(key) {
                causes.duplicate(&at.field("key"), &key.into());
            }
        }
        let n_same = seen.iter().filter(|other| **other == term).count();
        // As upstream has it: a term without labels is the same as each that was not looked at.
        let n_blank = if term.is_empty() { items(topologies).len() } else { 0 };
        for _ in 0..n_same + n_blank {
            causes.duplicate(&at, &"".into());
        }
        seen.push(term);
    }
}

fn values<'v>(causes: &mut Causes, at: &At<'_>, values: &'v Value) -> BTreeSet<&'v str> {
    causes.present(at, values, "");
    let mut seen = BTreeSet::new();
    for (n, value) in items(values).iter().enumerate() {
        if !seen.insert(value.as_str().unwrap_or_default()) {
            causes.duplicate(&at.index(n), value);
        }
    }
    seen
}

/// Strategy of `volumeattributesclasses`.
pub(crate) struct AttributesClasses;

impl Strategy for AttributesClasses {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        provisioner(&mut causes, "driverName", obj);
        parameters(&mut causes, &obj["parameters"]);
        let parameters = At::new("parameters");
        causes.present(&parameters, &obj["parameters"], "must contain at least one key/value pair");
        if let Some(old) = old {
            for field in ["driverName", "parameters"] {
                if obj.get(field) != old.get(field) {
                    let detail = format!("updates to {field} are forbidden.");
                    causes.forbidden(&At::new(field), &detail);
                }
            }
        }
        causes.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_keep_what_they_promise() {
        let class = json!({"provisioner": "a.example/b", "reclaimPolicy": "Delete", "allowedTopologies": [
            {"matchLabelExpressions": [{"key": "zone", "values": ["a", "a"]}]},
            {"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]},
        ]});
        let fields = |old: Option<&Value>| -> Vec<String> {
            Classes.validate(&class, old, None).into_iter().map(|c| c.field).collect()
        };
        let topologies = [
            "allowedTopologies[0].matchLabelExpressions[0].values[1]",
            "allowedTopologies[1].matchLabelExpressions",
        ];
        assert_eq!(fields(None), topologies);
        let mut old = class.clone();
        old["provisioner"] = "c".into();
        assert_eq!(fields(Some(&old)).last().map(String::as_str), Some("provisioner"));
    }
}
