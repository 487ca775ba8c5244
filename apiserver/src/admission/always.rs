//! Two plugins that do not look: kept because old configurations name them, and to test with.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, answer};

/// Has nothing against anything.
pub(super) struct AlwaysAdmit;

impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn handles(&self, _operation: Operation) -> bool {
        false
    }
}

/// Refuses every change.
pub(super) struct AlwaysDeny;

impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        let why = "admission control is denying all modifications";
        answer(Err(attributes.forbidden(object, why)))
    }
}
