//! Volumes and claims that are in use stay until they are not: a finalizer, which a controller takes off again.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources, admitted};
use crate::types::check::{items, push};

/// Source: upstream `plugin/pkg/admission/storage/storageobjectinuseprotection`.
pub(super) struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[
            ("", "persistentvolumes"),
            ("", "persistentvolumeclaims"),
            ("storage.k8s.io", "volumeattributesclasses"),
        ])
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        let finalizer = match &*attributes.resource.name {
            "persistentvolumes" => "kubernetes.io/pv-protection",
            "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
            _ => "kubernetes.io/vac-protection",
        };
        let there = items(&object["metadata"]["finalizers"]).iter().any(|f| f == finalizer);
        if attributes.subresource.is_empty() && !there {
            push(&mut object["metadata"], "finalizers", finalizer);
        }
        admitted()
    }
}
