//! Namespaces of requests: that they are there, or that they come into being. Both are older than
//! `NamespaceLifecycle`, which is there by default and does the former.

use serde_json::{Value, json};

use super::{Admitted, Attributes, Operation, Plugin};
use crate::status::ApiError;
use crate::write::{MANAGER, Own, Writer, create};

/// Source: upstream `plugin/pkg/admission/namespace/exists`.
pub(super) struct NamespaceExists;

impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        _object: &'a Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            if is_there(attributes).await? {
                return Ok(());
            }
            let registry = attributes.core.registry();
            let Some(namespaces) = registry.find("", "namespaces") else { return Ok(()) };
            Err(namespaces.not_found(attributes.namespace))
        })
    }
}

/// Source: upstream `plugin/pkg/admission/namespace/autoprovision`.
pub(super) struct NamespaceAutoProvision;

impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            if attributes.dry_run || is_there(attributes).await? {
                return Ok(());
            }
            match provide(attributes).await {
                Ok(()) | Err(ApiError::AlreadyExists { .. }) => Ok(()),
                Err(error) => Err(attributes.forbidden(object, error)),
            }
        })
    }
}

/// Whether the request needs no namespace, or has it.
async fn is_there(attributes: &Attributes<'_>) -> Result<bool, ApiError> {
    let namespace = attributes.namespace;
    Ok(namespace.is_empty()
        || attributes.namespace_object().is_some()
        || attributes.lookup("", "namespaces", "", namespace).await?.is_some())
}

/// Makes the namespace, on the road of every write.
async fn provide(attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let registry = attributes.core.registry();
    let Some(namespaces) = registry.find("", "namespaces") else { return Ok(()) };
    let own = Own::new("create", namespaces);
    let deadline = attributes.deadline;
    let mut writer = Writer { deadline, ..own.writer(attributes.core, namespaces) };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": attributes.namespace}});
    create(&mut writer, namespace, Some(MANAGER)).await.map(|_| ())
}
