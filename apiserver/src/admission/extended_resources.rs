//! Nodes with special devices can be tainted with the device's name; pods that ask for it tolerate that.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Admitted, Attributes, Operation, Plugin, Resources, admitted, pods};
use crate::types::check::{items, items_mut, members, part, push};

/// Source: upstream `plugin/pkg/admission/extendedresourcetoleration`.
pub(super) struct ExtendedResourceToleration;

impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a mut Value) -> Admitted<'a> {
        if attributes.subresource.is_empty()
            && let Some(spec) = part(pod, "spec")
        {
            tolerate(spec);
        }
        admitted()
    }
}

fn tolerate(spec: &mut Value) {
    let requests = pods::containers(spec).flat_map(|(_, c)| members(&c["resources"]["requests"]));
    let names: BTreeSet<String> =
        requests.map(|(name, _)| name.clone()).filter(|name| quota::is_extended(name)).collect();
    for name in names {
        let toleration = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
        let same = |t: &Value| t["key"] == toleration["key"] && t["effect"] == toleration["effect"];
        if items(&spec["tolerations"]).iter().any(same) {
            items_mut(spec, "tolerations")
                .filter(|t| same(t))
                .for_each(|t| *t = toleration.clone());
        } else {
            push(spec, "tolerations", toleration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_tolerated_once() {
        let mut spec = json!({
            "containers": [{"resources": {"requests": {"cpu": 1, "a.com/x": 1, "kubernetes.io/y": 1}}}],
            "initContainers": [{"resources": {"requests": {"b.com/z": 1}}}],
            "tolerations": [{"key": "a.com/x", "operator": "Equal", "effect": "NoSchedule"}],
        });
        tolerate(&mut spec);
        let expected = ["a.com/x", "b.com/z"]
            .map(|key| json!({"key": key, "operator": "Exists", "effect": "NoSchedule"}));
        assert_eq!(spec["tolerations"], json!(expected));
    }
}
