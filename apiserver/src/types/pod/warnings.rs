//! What is allowed in a pod's spec and yet a bad idea.

use std::collections::HashMap;

use serde_json::Value;

use crate::types::check::{At, items, members, nano, text};

/// Volumes that only old versions know.
const GONE: [(&str, &str, &str); 10] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    (
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        "deprecated in v1.23, non-functional in v1.27+",
    ),
];

/// Texts for the spec of a pod or of a template.
pub(crate) fn spec(at: &At<'_>, spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (n, constraint) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        if constraint["labelSelector"].is_null() {
            warnings.push(format!(
                "{at}.topologySpreadConstraints[{n}].labelSelector: a null labelSelector results in matching no pod"
            ));
        }
    }
    for (n, volume) in items(&spec["volumes"]).iter().enumerate() {
        for (_, shown, why) in GONE.iter().filter(|(field, ..)| !volume[*field].is_null()) {
            warnings.push(format!("{at}.volumes[{n}].{shown}: {why}"));
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        warnings.push(format!(
            "{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for list in ["initContainers", "containers"] {
        for (n, container) in items(&spec[list]).iter().enumerate() {
            let list_at = at.field(list);
            self::container(&list_at.index(n), container, &mut warnings);
        }
    }
    warnings
}

fn container(at: &At<'_>, container: &Value, warnings: &mut Vec<String>) {
    for part in ["limits", "requests"] {
        for (name, amount) in members(&container["resources"][part]) {
            let bytes = matches!(name.as_str(), "memory" | "ephemeral-storage");
            if bytes && nano(amount) % 1_000_000_000 != 0 {
                let amount = amount.as_str().unwrap_or_default();
                warnings.push(format!(
                    "{at}.resources.{part}[{name}]: fractional byte value {amount:?} is invalid, must be an integer"
                ));
            }
        }
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (n, variable) in items(&container["env"]).iter().enumerate() {
        let name = text(variable, "name");
        let refers_to_itself = text(variable, "value").contains(&format!("$({name})"));
        if seen.contains_key(name) && !refers_to_itself {
            warnings.push(format!(
                "{at}.env[{n}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
        seen.insert(name, n);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bad_ideas_are_told() {
        let pod = json!({"volumes": [{"name": "v", "rbd": {}}], "terminationGracePeriodSeconds": -1,
            "containers": [{"resources": {"limits": {"memory": "100m"}}, "env": [{"name": "A"}, {"name": "A"}]}]});
        let texts = spec(&At::new("spec"), &pod);
        assert_eq!(texts.len(), 4, "{texts:?}");
        assert!(spec(&At::new("spec"), &json!({"containers": [{}]})).is_empty());
    }
}
