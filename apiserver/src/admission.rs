//! What may still change or refuse a write after it was understood.
//!
//! This is the one place where admission plugins, webhooks and policies join the write road.

use serde_json::Value;

use crate::identity::{escalation, rbac};
use crate::status::ApiError;
use crate::write::Writer;

/// Mutating admission: after defaulting, before validation; `old` is there on updates.
///
/// # Errors
/// The write is refused.
pub async fn mutate(
    writer: &Writer<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if old.is_none() {
        namespace_lifecycle(writer).await?;
        writer.resource.strategy.admit(&writer.ctx(), object).await?;
    }
    Ok(())
}

/// Validating admission: after validation; without an object it is a deletion.
///
/// # Errors
/// The write is refused.
pub async fn validate(
    writer: &Writer<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if writer.resource.group == "rbac.authorization.k8s.io"
        && let (Some(kind), Some(object)) = (rbac::Kind::of_resource(&writer.resource.name), object)
    {
        let (authorizer, namespace) = (&writer.core.authorizer, writer.namespace());
        escalation::check(authorizer, writer.user, kind, namespace, object, old)?;
    }
    let protected = matches!(writer.info.name.as_str(), "default" | "kube-system" | "kube-public");
    let namespaces = writer.resource.group.is_empty() && writer.resource.name == "namespaces";
    if object.is_none() && namespaces && protected {
        return Err(ApiError::Forbidden {
            resource: Some(writer.resource.group_resource()),
            name: writer.info.name.clone(),
            message: format!(
                "namespaces \"{}\" is forbidden: this namespace may not be deleted",
                writer.info.name
            ),
            causes: Vec::new(),
        });
    }
    Ok(())
}

/// Nothing is created in a namespace that is absent or going away.
async fn namespace_lifecycle(writer: &Writer<'_>) -> Result<(), ApiError> {
    let namespace = writer.namespace();
    let reviews = writer.resource.storage.is_none();
    if namespace.is_empty() || reviews {
        return Ok(());
    }
    let registry = writer.core.registry();
    let Some(namespaces) = registry.find("", "namespaces") else { return Ok(()) };
    let storage = namespaces.storage()?;
    // The cache may be some microseconds behind; a namespace on its way out is emptied again and
    // again, so that a late object does not stay.
    let cached = storage.started().and_then(|cache| cache.get(None, namespace));
    if cached.is_some_and(|namespace| !namespace.deleting()) {
        return Ok(());
    }
    let entry =
        storage.store().get(&storage.key("", namespace)).await.map_err(ApiError::internal)?;
    let entry = entry.ok_or_else(|| namespaces.not_found(namespace))?;
    let object: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
    if object["status"]["phase"] != "Terminating"
        && object["metadata"]["deletionTimestamp"].is_null()
    {
        return Ok(());
    }
    let gr = writer.resource.group_resource();
    Err(ApiError::Forbidden {
        message: format!(
            "{gr} \"{}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
            writer.info.name
        ),
        name: writer.info.name.clone(),
        resource: Some(gr),
        causes: vec![crate::StatusCause::new(
            "NamespaceTerminating",
            "metadata.namespace",
            format!("namespace {namespace} is being terminated"),
        )],
    })
}
