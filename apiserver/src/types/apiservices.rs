//! APIServices: which server answers a group version. Those without a service are this server's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Ctx, Strategy, words};
use crate::status::{ApiError, Cause};
use crate::write::{names, now};

/// Rules of APIServices.
pub(super) struct ApiService;

impl Strategy for ApiService {
    fn validate_name(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn unconditional_updates(&self) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        let service = obj.pointer_mut("/spec/service").filter(|service| service.is_object());
        if let Some(service) = service
            && service["port"].is_null()
        {
            service["port"] = 443.into();
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = if obj["spec"]["service"].is_null() {
            json!({ "conditions": [{
                "type": "Available",
                "status": "True",
                "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": now(),
            }] })
        } else {
            json!({})
        };
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        if subresource.is_none() {
            obj["status"] = old["status"].clone();
        }
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, _sub: Option<&str>) -> Vec<Cause> {
        let spec = &obj["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, version) = (text(&spec["group"]), text(&spec["version"]));
        let mut causes = Vec::new();
        let wanted = format!("{version}.{group}");
        let name = &obj["metadata"]["name"];
        if text(name) != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            causes.push(Cause::invalid("metadata.name", name, &detail));
        }
        if group.is_empty() && version != "v1" {
            let detail = "only v1 may have an empty group and it better be legacy kube";
            causes.push(Cause::required("spec.group", detail));
        }
        if !group.is_empty() {
            let faults = names::subdomain(&group);
            causes.extend(faults.iter().map(|f| Cause::invalid("spec.group", &spec["group"], f)));
        }
        for fault in words::label_1035(&version) {
            causes.push(Cause::invalid("spec.version", &version.as_str().into(), &fault));
        }
        let bounded = |field: &str, most: i64, detail: &str| {
            let value = &spec[field];
            let fits = value.as_i64().is_some_and(|n| (1..=most).contains(&n));
            (!fits).then(|| {
                Cause::invalid(format!("spec.{field}"), &json!(value.as_i64().unwrap_or(0)), detail)
            })
        };
        causes.extend(bounded(
            "groupPriorityMinimum",
            20000,
            "must be positive and less than 20000",
        ));
        causes.extend(bounded("versionPriority", 1000, "must be positive and less than 1000"));
        validate_service(spec, &mut causes);
        causes
    }
}

fn validate_service(spec: &Value, causes: &mut Vec<Cause>) {
    let (service, insecure) = (&spec["service"], &spec["insecureSkipTLSVerify"]);
    let bundle = spec["caBundle"].as_str().unwrap_or_default();
    let has_bundle = !bundle.is_empty();
    if service.is_null() {
        if has_bundle {
            let detail = "local APIServices may not have a caBundle";
            let n_bytes = STANDARD.decode(bundle).map_or(0, |bytes| bytes.len());
            let shown = format!("{n_bytes} bytes");
            causes.push(Cause::invalid("spec.caBundle", &shown.into(), detail));
        }
        if *insecure == true {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            causes.push(Cause::invalid("spec.insecureSkipTLSVerify", insecure, detail));
        }
        return;
    }
    for field in ["namespace", "name"] {
        if service[field].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("spec.service.{field}"), ""));
        }
    }
    if !service["port"].as_i64().is_some_and(|port| (1..=65535).contains(&port)) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        causes.push(Cause::invalid("spec.service.port", &service["port"], detail));
    }
    if *insecure == true && has_bundle {
        let detail = "may not be true if caBundle is present";
        causes.push(Cause::invalid("spec.insecureSkipTLSVerify", insecure, detail));
    }
}
