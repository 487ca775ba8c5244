//! Nothing is scheduled to a new node until it says that it is ready.

use serde_json::{Value, json};

use super::{Admitted, Attributes, Operation, Plugin, Resources, admitted};
use crate::types::check::{ensure, items, push, text};

const TAINT: &str = "node.kubernetes.io/not-ready";

/// Source: upstream `plugin/pkg/admission/nodetaint`.
pub(super) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "nodes")])
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        node: &'a mut Value,
    ) -> Admitted<'a> {
        let same = |t: &Value| text(t, "key") == TAINT && text(t, "effect") == "NoSchedule";
        if attributes.subresource.is_empty() && !items(&node["spec"]["taints"]).iter().any(same) {
            ensure(node, "spec");
            push(&mut node["spec"], "taints", json!({"key": TAINT, "effect": "NoSchedule"}));
        }
        admitted()
    }
}
