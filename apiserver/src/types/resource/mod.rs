//! Devices: their classes, slices and claims (dynamic resource allocation).
//!
//! Source: upstream's `pkg/apis/resource/validation`; KEP-4381.

mod access;
mod policy;
mod request;
mod slice;
mod status;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, default, ensure, is_empty, items, items_mut, part, remove, text};
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
        ensure(obj, "spec");
        devices(&mut obj["spec"]);
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        match (old, subresource) {
            (None, _) => request::claim(&mut causes, &At::new("spec"), &obj["spec"]),
            (Some(old), None) => {
                causes.immutable(&At::new("spec"), &obj["spec"], &old["spec"]);
            }
            (Some(old), Some(_)) => status::status(&mut causes, obj, old),
        }
        causes.0
    }

    fn reads(&self) -> &'static [&'static str] {
        &["namespaces"]
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        access::check(ctx, obj, access::of_requests(&obj["spec"]["devices"]))
    }

    fn prepare_update(
        &self,
        ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        if subresource.is_none() {
            return Ok(());
        }
        status::drop_freed_devices(obj, old);
        let had = access::of_results(&old["status"]).is_some();
        let wants = access::of_results(&obj["status"]).filter(|_| !had);
        access::check(ctx, obj, wants)
    }
}

/// Strategy of `resourceclaimtemplates`.
pub(super) struct Templates;

impl Strategy for Templates {
    fn default(&self, obj: &mut Value) {
        ensure(obj, "spec");
        ensure(&mut obj["spec"], "spec");
        devices(&mut obj["spec"]["spec"]);
    }

    fn reads(&self) -> &'static [&'static str] {
        &["namespaces"]
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        access::check(ctx, obj, access::of_requests(&obj["spec"]["spec"]["devices"]))
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
    fn default(&self, obj: &mut Value) {
        let Some(spec) = part(obj, "spec") else { return };
        for device in items_mut(spec, "devices") {
            let capacity = part(device, "capacity").and_then(Value::as_object_mut);
            for (_, amount) in capacity.into_iter().flatten() {
                default(amount, "value", "0");
                // It is shown even if there is none.
                if let Some(policy) = part(amount, "requestPolicy")
                    && policy.get("default").is_none()
                {
                    policy["default"] = Value::Null;
                }
            }
            for taint in items_mut(device, "taints") {
                default(taint, "timeAdded", crate::write::now());
            }
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        without_lists(obj);
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        _old: &Value,
        _subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        without_lists(obj);
        Ok(())
    }

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

/// Upstream does not take lists as attributes of devices yet.
fn without_lists(slice: &mut Value) {
    let Some(spec) = part(slice, "spec") else { return };
    for device in items_mut(spec, "devices") {
        let attributes = part(device, "attributes").and_then(Value::as_object_mut);
        for attribute in attributes.into_iter().flatten().filter_map(|(_, a)| a.as_object_mut()) {
            attribute
                .retain(|kind, _| !matches!(&**kind, "bools" | "ints" | "strings" | "versions"));
        }
    }
}

/// What devices are asked for: a list, or null; and one of them where an exact number is asked for and none is said.
fn devices(spec: &mut Value) {
    ensure(spec, "devices");
    let devices = &mut spec["devices"];
    if is_empty(&devices["requests"]) {
        devices["requests"] = Value::Null;
    }
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = part(request, "exactly") {
            count(exactly);
        }
        items_mut(request, "firstAvailable").for_each(count);
    }
}

fn count(request: &mut Value) {
    if request["count"] == 0 {
        remove(request, "count"); // None and zero are one.
    }
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
