//! Claims of devices (dynamic resource allocation).

use schema::Cause;
use serde_json::Value;

use super::Strategy;
use super::check::{At, Causes, default, items_mut, part, text};

/// Strategy of `resourceclaims`.
pub(super) struct Claims;

impl Strategy for Claims {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = part(obj, "spec") {
            counts(spec);
        }
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if let (Some(old), None) = (old, subresource) {
            causes.immutable(&At::new("spec"), &obj["spec"], &old["spec"]);
        }
        causes.0
    }
}

/// Strategy of `resourceclaimtemplates`.
pub(super) struct Templates;

impl Strategy for Templates {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = part(obj, "spec").and_then(|template| part(template, "spec")) {
            counts(spec);
        }
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if let Some(old) = old {
            causes.immutable(&At::new("spec"), &obj["spec"], &old["spec"]);
        }
        causes.0
    }
}

/// One device, where an exact number is asked for and none is said.
fn counts(spec: &mut Value) {
    let Some(devices) = part(spec, "devices") else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = part(request, "exactly") {
            count(exactly);
        }
        items_mut(request, "firstAvailable").for_each(count);
    }
}

fn count(request: &mut Value) {
    if text(request, "allocationMode") == "ExactCount" {
        default(request, "count", 1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_is_the_default_count() {
        let mut claim = json!({"spec": {"devices": {"requests": [{"exactly": {"allocationMode": "ExactCount"}}, {"exactly": {"allocationMode": "All"}}]}}});
        Claims.default(&mut claim);
        let requests = &claim["spec"]["devices"]["requests"];
        assert_eq!(
            (&requests[0]["exactly"]["count"], &requests[1]["exactly"]["count"]),
            (&json!(1), &Value::Null)
        );
    }
}
