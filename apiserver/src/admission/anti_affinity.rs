//! Pods may keep others away from their node, not from a whole zone.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources, answer};
use crate::types::check::{items, text};

const HOST: &str = "kubernetes.io/hostname";

/// Source: upstream `plugin/pkg/admission/antiaffinity`.
pub(super) struct LimitPodHardAntiAffinityTopology;

impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn validate<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a Value) -> Admitted<'a> {
        let required = &pod["spec"]["affinity"]["podAntiAffinity"];
        let terms = items(&required["requiredDuringSchedulingIgnoredDuringExecution"]).iter();
        let other = terms.map(|term| text(term, "topologyKey")).find(|key| *key != HOST);
        answer(match other.filter(|_| attributes.subresource.is_empty()) {
            Some(key) => Err(attributes.forbidden(
                pod,
                format!("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOST} is allowed"),
            )),
            None => Ok(()),
        })
    }
}
