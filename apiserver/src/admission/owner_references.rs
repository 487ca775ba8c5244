//! Whoever makes an object somebody's property must be able to delete it; whoever lets it hold up its owner's
//! deletion must be able to do that without it.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, answer};
use crate::identity::{self, Decision};
use crate::status::ApiError;
use crate::types::check::{flag, items, text};

/// Source: upstream `plugin/pkg/admission/gc`.
pub(super) struct OwnerReferencesPermissionEnforcement;

impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a Value,
    ) -> Admitted<'a> {
        answer(check(attributes, object))
    }
}

fn owners(object: &Value) -> &[Value] {
    items(&object["metadata"]["ownerReferences"])
}

fn check(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    let before = attributes.old.map_or(&[] as &[Value], owners);
    let status_of_pod = attributes.is_part_of("", "pods") && attributes.subresource == "status";
    if status_of_pod || owners(object) == before {
        return Ok(());
    }
    let resource = attributes.resource;
    if attributes.operation == Operation::Update {
        let decision = ask(
            &identity::Attributes {
                verb: "delete",
                group: &resource.group,
                version: &resource.version,
                resource: &resource.name,
                subresource: attributes.subresource,
                namespace: attributes.namespace,
                name: &attributes.name,
                ..identity::Attributes::of_nothing(attributes.user)
            },
            attributes,
        );
        if !decision.allowed {
            let why = format!(
                "cannot set an ownerRef on a resource you can't delete: {}, <nil>",
                decision.reason
            );
            return Err(attributes.forbidden(object, why));
        }
    }
    let blocked = |owner: &Value| before.iter().any(|b| b["uid"] == owner["uid"] && blocks(b));
    let mut blocking = owners(object).iter().filter(|owner| blocks(owner) && !blocked(owner));
    blocking.try_for_each(|owner| may_finalize(attributes, object, owner))
}

fn blocks(owner: &Value) -> bool {
    flag(owner, "blockOwnerDeletion")
}

/// Whoever may change an object's finalizers can let it go in any case.
fn may_finalize(
    attributes: &Attributes<'_>,
    object: &Value,
    owner: &Value,
) -> Result<(), ApiError> {
    let (api_version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let question = identity::Attributes {
        verb: "update",
        group: "*",
        version: "*",
        resource: "*",
        subresource: "finalizers",
        name: "*",
        ..identity::Attributes::of_nothing(attributes.user)
    };
    if ask(&question, attributes).allowed {
        return Ok(());
    }
    let registry = attributes.core.registry();
    let Some(resource) = registry.by_kind(group, version, kind) else {
        let why = format!(
            "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}: no matches for kind \"{kind}\" in version \"{api_version}\""
        );
        return Err(attributes.forbidden(object, why));
    };
    let decision = ask(
        &identity::Attributes {
            group: &resource.group,
            version: &resource.version,
            resource: &resource.name,
            namespace: if resource.namespaced { attributes.namespace } else { "" },
            name: text(owner, "name"),
            ..question
        },
        attributes,
    );
    if decision.allowed {
        return Ok(());
    }
    let why = format!(
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {}, <nil>",
        decision.reason
    );
    Err(attributes.forbidden(object, why))
}

fn ask(question: &identity::Attributes<'_>, attributes: &Attributes<'_>) -> Decision {
    attributes.core.authorizer.authorize_now(question)
}
