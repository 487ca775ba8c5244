//! Updates of running pods that only some node agents can carry out.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources};
use crate::types::check::{items, text};

/// Source: KEP-5328; upstream `plugin/pkg/admission/nodedeclaredfeatures`.
pub(super) struct NodeDeclaredFeatureValidator;

impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn validate<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a Value) -> Admitted<'a> {
        Box::pin(async move {
            let node = text(&pod["spec"], "nodeName");
            let Some(old) = attributes.old.filter(|_| !node.is_empty()) else { return Ok(()) };
            let unchanged = old["metadata"]["generation"] == pod["metadata"]["generation"];
            if unchanged || !matches!(attributes.subresource, "" | "resize") {
                return Ok(());
            }
            let needed = needed(&pod["spec"], &old["spec"]);
            if needed.is_empty() {
                return Ok(());
            }
            let Some(found) = attributes.lookup("", "nodes", "", node).await? else {
                return Err(attributes.forbidden(pod, format!("node \"{node}\" not found")));
            };
            let declared = items(&found["status"]["declaredFeatures"]);
            let missing: Vec<&str> =
                needed.into_iter().filter(|name| !declared.iter().any(|d| d == name)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let missing = missing.join(", ");
            let why = format!(
                "pod update requires features {missing} which are not available on node \"{node}\""
            );
            Err(attributes.forbidden(pod, why))
        })
    }
}

/// Features that a node must have for this update.
fn needed(new: &Value, old: &Value) -> Vec<&'static str> {
    let mut needed = Vec::new();
    if new["resources"] != old["resources"] {
        needed.push("InPlacePodLevelResourcesVerticalScaling");
    }
    let pairs = items(&old["initContainers"]).iter().zip(items(&new["initContainers"]));
    let resized = |(old, new): (&Value, &Value)| {
        old["restartPolicy"] != "Always" && old["resources"] != new["resources"]
    };
    if pairs.into_iter().any(resized) {
        needed.push("InPlacePodVerticalScalingInitContainers");
    }
    needed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn features_follow_from_what_changes() {
        let of = |policy: Value, cpu: &str| json!({"initContainers": [{"restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}}]});
        assert!(needed(&of(json!("Always"), "2"), &of(json!("Always"), "1")).is_empty());
        assert_eq!(
            needed(&of(json!(null), "2"), &of(json!(null), "1")),
            ["InPlacePodVerticalScalingInitContainers"]
        );
        let whole = json!({"resources": {"limits": {"cpu": "1"}}});
        assert_eq!(needed(&whole, &json!({})), ["InPlacePodLevelResourcesVerticalScaling"]);
    }
}
