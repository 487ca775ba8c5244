//! Nothing is created in a namespace that is absent or going away, and three namespaces stay for good.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin};
use crate::status::{ApiError, StatusCause};

/// Namespaces that nobody can delete.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Source: upstream `apiserver/pkg/admission/plugin/namespace/lifecycle`.
pub(super) struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            if attributes.is_part_of("", "namespaces") {
                let stays = IMMORTAL.contains(&&*attributes.name);
                return match attributes.operation {
                    Operation::Delete if stays => {
                        Err(attributes.forbidden(object, "this namespace may not be deleted"))
                    }
                    _ => Ok(()),
                };
            }
            if attributes.operation == Operation::Delete
                || attributes.namespace.is_empty()
                || is_access_review(attributes)
                || is_there(attributes)
            {
                return Ok(());
            }
            look_closely(attributes, object).await
        })
    }
}

/// The answer about a namespace that is absent must not tell more than that about one which is there.
fn is_access_review(attributes: &Attributes<'_>) -> bool {
    attributes.is("authorization.k8s.io", "localsubjectaccessreviews")
}

/// The common case, from the cache. It may be some microseconds behind; a namespace on its way out is emptied again
/// and again, so that a late object does not stay.
fn is_there(attributes: &Attributes<'_>) -> bool {
    attributes.namespace_object().is_some_and(|namespace| !namespace.deleting())
}

async fn look_closely(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    let namespace = attributes.namespace;
    let Some(found) = attributes.lookup("", "namespaces", "", namespace).await? else {
        let registry = attributes.core.registry();
        let Some(namespaces) = registry.find("", "namespaces") else { return Ok(()) };
        return Err(namespaces.not_found(namespace));
    };
    let ends = found["status"]["phase"] == "Terminating"
        || !found["metadata"]["deletionTimestamp"].is_null();
    if !ends || attributes.operation != Operation::Create {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let cause = format!("namespace {namespace} is being terminated");
    let cause = StatusCause::new("NamespaceTerminating", "metadata.namespace", cause);
    Err(attributes.forbidden_for(object, why, vec![cause]))
}
