//! Devices: their classes, slices and claims (dynamic resource allocation).
//!
//! Source: upstream's `pkg/apis/resource/validation`; KEP-4381.

mod request;
mod slice;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, default, items, items_mut, part, text};
use super::{Ctx, Strategy, pod};
use crate::registry::Selectable;
use crate::status::ApiError;

/// Strategy of `resourceclaims`.
pub(super) struct Claims;

impl Strategy for Claims {
    fn kept_by_status(&self) -> &'static [&'static str] {
        &super::METADATA
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = part(obj, "spec") {
            counts(spec);
        }
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        match (old, subresource) {
            (None, _) => request::claim(&mut causes, &At::new("spec"), &obj["spec"]),
            (Some(old), None) => {
                causes.immutable(&At::new("spec"), &obj["spec"], &old["spec"]);
            }
            (Some(old), Some(_)) => request::status(&mut causes, obj, old),
        }
        causes.0
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
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
        let (spec, at) = (&obj["spec"], At::new("spec"));
        pod::template_metadata(&mut causes, &at.field("metadata"), &spec["metadata"]);
        request::claim(&mut causes, &at.field("spec"), &spec["spec"]);
        if let Some(old) = old {
            causes.immutable(&at, spec, &old["spec"]);
        }
        causes.0
    }
}

/// Strategy of `deviceclasses`.
pub(super) struct Classes;

impl Strategy for Classes {
    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        request::selectors(&mut causes, &at.field("selectors"), &spec["selectors"]);
        let list = at.field("config");
        if request::fits(&mut causes, &list, &spec["config"], 32) {
            for (n, config) in items(&spec["config"]).iter().enumerate() {
                request::configuration(&mut causes, &list.index(n), config);
            }
        }
        if let Some(name) = spec["extendedResourceName"].as_str()
            && !pod::is_extended(name)
        {
            let detail = "must be a valid extended resource name";
            causes.invalid(&at.field("extendedResourceName"), &name.into(), detail);
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `resourceslices`.
pub(super) struct Slices;

impl Strategy for Slices {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        slice::spec(&mut causes, &obj["spec"], old.map(|old| &old["spec"]));
        causes.0
    }

    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("spec.nodeName"), Selectable::new("spec.driver")]
    }

    fn counts_generation(&self) -> bool {
        true
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
