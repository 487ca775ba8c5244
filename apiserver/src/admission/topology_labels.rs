//! Pods learn the zone and region of their node, so that the downward API can tell them.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources};
use crate::types::check::{ensure, text};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Source: KEP-4742; upstream `plugin/pkg/admission/podtopologylabels`.
pub(super) struct PodTopologyLabels;

impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            let node = match attributes.subresource {
                "" => text(&object["spec"], "nodeName"),
                // Its labels become the pod's.
                "binding" if text(&object["target"], "kind") == "Node" => {
                    text(&object["target"], "name")
                }
                _ => "",
            };
            if node.is_empty() {
                return Ok(());
            }
            let Some(node) = attributes.lookup("", "nodes", "", node).await? else { return Ok(()) };
            for label in LABELS {
                if let Some(value) = node["metadata"]["labels"][label].as_str() {
                    let metadata = &mut object["metadata"];
                    ensure(metadata, "labels").insert(label.to_owned(), value.into());
                }
            }
            Ok(())
        })
    }
}
