//! Certificate signing requests: who asks is written down by the server, and only those who may
//! approve or sign for a signer change the answer.
//!
//! Source: kubernetes.io, "Certificates and Certificate Signing Requests".

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use schema::Cause;
use serde_json::{Map, Value, json};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer as _, X509CertificationRequest, X509Name,
};

use super::check::{At, Causes, copy, default, is_empty, items, text};
use super::{Ctx, Strategy};
use crate::registry::Selectable;
use crate::status::{ApiError, GroupResource};
use crate::write::now;

/// Group of signing requests and signers.
pub(crate) const GROUP: &str = "certificates.k8s.io";
/// Signer of certificates that the API server takes for a user.
pub(crate) const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Shortest life that can be asked for, in seconds.
///
/// Source: upstream `pkg/apis/certificates/validation/validation.go`.
const MIN_SECONDS: i64 = 600;

/// Strategy of `certificatesigningrequests`.
pub(super) struct SigningRequests;

impl Strategy for SigningRequests {
    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("spec.signerName")]
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        let Some(spec) = obj["spec"].as_object_mut() else { return Ok(()) };
        let user = ctx.user;
        set(spec, "username", user.name.clone().into());
        set(spec, "uid", user.uid.clone().into());
        set(spec, "groups", user.groups.clone().into());
        let extra: Map<String, Value> =
            user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
        set(spec, "extra", extra.into());
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        copy(obj, old, "spec");
        match subresource {
            Some("approval") => {
                if let Some(status) = obj.get_mut("status") {
                    copy(status, &old["status"], "certificate");
                }
                stamp(obj, old);
            }
            Some(_) => {
                if verdicts(old) != verdicts(obj) {
                    let what = "conditions Approved and Denied are changed through approval";
                    return Err(forbidden(obj, what));
                }
                stamp(obj, old);
            }
            None => copy(obj, old, "status"),
        }
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, _sub: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if parse(&spec["request"]).is_none() {
            let detail = "PEM block type must be CERTIFICATE REQUEST";
            causes.invalid(&at.field("request"), &Value::Null, detail);
        }
        causes.signer_name(&at.field("signerName"), text(spec, "signerName"));
        if is_empty(&spec["usages"]) {
            causes.required(&at.field("usages"), "");
        }
        let seconds = &spec["expirationSeconds"];
        if seconds.as_i64().is_some_and(|seconds| seconds < MIN_SECONDS) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            causes.invalid(&at.field("expirationSeconds"), seconds, detail);
        }
        let has = |kind: &str| verdicts(obj).iter().any(|(k, _)| k == kind);
        if has("Approved") && has("Denied") {
            let status = At::new("status");
            let detail = "Approved and Denied conditions are mutually exclusive";
            causes.invalid(&status.field("conditions"), &"Denied".into(), detail);
        }
        causes.0
    }
}

/// Sets a member, or removes it if there is nothing to say.
fn set(spec: &mut Map<String, Value>, name: &str, value: Value) {
    if is_empty(&value) {
        spec.remove(name);
    } else {
        spec.insert(name.to_owned(), value);
    }
}

/// The request in the base64 text of a PEM block.
fn parse(request: &Value) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let pem = base64::engine::general_purpose::STANDARD.decode(request.as_str()?).ok()?;
    let der = CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
    X509CertificationRequest::from_der(&der).ok().map(|_| der.to_vec())
}

/// The groups that the subject of a request, in the base64 text of a PEM block, asks to belong to.
pub(crate) fn organizations(request: &Value) -> Vec<String> {
    let read = |subject: &X509Name<'_>| texts(subject.iter_organization());
    of_subject(request, read).unwrap_or_default()
}

/// The user that it asks to be: of several names the last one, as upstream reads it.
pub(crate) fn common_name(request: &Value) -> Option<String> {
    of_subject(request, |subject| texts(subject.iter_common_name()).pop())?
}

fn of_subject<T>(request: &Value, read: impl FnOnce(&X509Name<'_>) -> T) -> Option<T> {
    let der = parse(request)?;
    let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
    Some(read(&request.certification_request_info.subject))
}

fn texts<'n>(names: impl Iterator<Item = &'n AttributeTypeAndValue<'n>>) -> Vec<String> {
    names.filter_map(|name| name.as_str().ok().map(str::to_owned)).collect()
}

/// The conditions that approval decides, by type and status.
fn verdicts(request: &Value) -> Vec<(String, String)> {
    let conditions = items(&request["status"]["conditions"]).iter();
    conditions
        .map(|c| (text(c, "type").to_owned(), text(c, "status").to_owned()))
        .filter(|(kind, _)| matches!(kind.as_str(), "Approved" | "Denied"))
        .collect()
}

/// Times that a new condition lacks.
fn stamp(obj: &mut Value, old: &Value) {
    let Some(conditions) = obj.pointer_mut("/status/conditions").and_then(Value::as_array_mut)
    else {
        return;
    };
    for condition in conditions {
        let known =
            items(&old["status"]["conditions"]).iter().find(|c| c["type"] == condition["type"]);
        let same = known.filter(|known| known["status"] == condition["status"]);
        let moved = same.map_or_else(|| now().into(), |same| same["lastTransitionTime"].clone());
        default(condition, "lastUpdateTime", now());
        default(condition, "lastTransitionTime", moved);
    }
}

fn forbidden(request: &Value, what: &str) -> ApiError {
    let about = GroupResource::new(GROUP, "certificatesigningrequests");
    let name = text(&request["metadata"], "name").to_owned();
    let message = format!("{about} {name:?} is forbidden: {what}");
    ApiError::Forbidden { resource: Some(about), name, message, causes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signing_request_carries_a_request() {
        let causes = SigningRequests.validate(&json!({ "spec": {} }), None, None);
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, ["spec.request", "spec.signerName", "spec.usages"]);
        let both = json!({ "status": { "conditions": [
            { "type": "Approved", "status": "True" }, { "type": "Denied", "status": "True" },
        ] } });
        let causes = SigningRequests.validate(&both, None, None);
        assert!(causes.iter().any(|cause| cause.field == "status.conditions"));
    }

    #[test]
    fn new_conditions_get_their_times() {
        let old = json!({ "status": { "conditions": [
            { "type": "Approved", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
        ] } });
        let mut new = json!({ "status": { "conditions": [
            { "type": "Approved", "status": "True" }, { "type": "Failed", "status": "True" },
        ] } });
        stamp(&mut new, &old);
        let conditions = &new["status"]["conditions"];
        assert_eq!(conditions[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert!(conditions[0]["lastUpdateTime"].is_string());
        assert!(conditions[1]["lastTransitionTime"].is_string());
    }
}
