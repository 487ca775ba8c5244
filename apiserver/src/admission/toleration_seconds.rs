//! Pods stay on a node that is gone for a while, since it may come back.

use serde_json::{Value, json};

use super::{Admitted, Attributes, Operation, Plugin, Resources, TolerationSeconds, admitted};
use crate::types::check::{items, part, push, text};

/// Source: upstream `plugin/pkg/admission/defaulttolerationseconds`.
pub(super) struct DefaultTolerationSeconds(pub(super) TolerationSeconds);

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a mut Value) -> Admitted<'a> {
        if attributes.subresource.is_empty() {
            add(pod, self.0);
        }
        admitted()
    }
}

fn add(pod: &mut Value, seconds: TolerationSeconds) {
    let Some(spec) = part(pod, "spec") else { return };
    let taints = [
        ("node.kubernetes.io/not-ready", seconds.not_ready),
        ("node.kubernetes.io/unreachable", seconds.unreachable),
    ];
    for (taint, seconds) in taints {
        let tolerated = items(&spec["tolerations"]).iter().any(|toleration| {
            let key = text(toleration, "key");
            (key.is_empty() || key == taint)
                && matches!(text(toleration, "effect"), "" | "NoExecute")
        });
        if !tolerated {
            let toleration = json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
            push(spec, "tolerations", toleration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_where_none_fits() {
        let with = |tolerations: Value| {
            let mut pod = json!({"spec": {"tolerations": tolerations}});
            add(&mut pod, TolerationSeconds { not_ready: 300, unreachable: 60 });
            pod["spec"]["tolerations"].clone()
        };
        let added = with(json!(null));
        assert_eq!(added[0]["tolerationSeconds"], 300);
        assert_eq!(added[1]["tolerationSeconds"], 60);
        let count = |tolerations: Value| items(&with(tolerations)).len();
        assert_eq!(count(json!([{"operator": "Exists"}])), 1);
        assert_eq!(count(json!([{"operator": "Exists", "effect": "NoSchedule"}])), 3);
        let not_ready = "node.kubernetes.io/not-ready";
        assert_eq!(count(json!([{"key": not_ready, "operator": "Exists"}])), 2);
        assert_eq!(count(json!([{"key": "other", "operator": "Exists"}])), 3);
    }
}
