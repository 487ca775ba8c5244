//! Services do not take addresses that are not theirs (CVE-2020-8554).

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources, answer};
use crate::types::check::items;

/// Source: upstream `plugin/pkg/admission/network/denyserviceexternalips`.
pub(super) struct DenyServiceExternalIPs;

impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "services")])
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        service: &'a Value,
    ) -> Admitted<'a> {
        // What is there may stay, and be given up.
        let had = attributes.old.map_or(&[] as &[Value], |old| items(&old["spec"]["externalIPs"]));
        let new = items(&service["spec"]["externalIPs"]).iter().any(|ip| !had.contains(ip));
        answer(if new && attributes.subresource.is_empty() {
            let why = "Use of external IPs is denied by admission control";
            Err(attributes.forbidden(service, why))
        } else {
            Ok(())
        })
    }
}
