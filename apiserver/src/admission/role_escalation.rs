//! Nobody grants what they do not hold. No flag switches this off: upstream has it below admission.

use futures::FutureExt as _;
use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources, admitted};
use crate::identity::{escalation, rbac};

/// See [`escalation::check`].
pub(super) struct RoleEscalation;

impl Plugin for RoleEscalation {
    fn name(&self) -> &'static str {
        "RoleEscalation"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[
            (rbac::GROUP, "roles"),
            (rbac::GROUP, "clusterroles"),
            (rbac::GROUP, "rolebindings"),
            (rbac::GROUP, "clusterrolebindings"),
        ])
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a Value,
    ) -> Admitted<'a> {
        let Some(kind) = rbac::Kind::of_resource(&attributes.resource.name) else {
            return admitted();
        };
        let authorizer = &attributes.core.authorizer;
        let (user, namespace) = (attributes.user, attributes.namespace);
        escalation::check(authorizer, user, kind, namespace, object, attributes.old).boxed()
    }
}
