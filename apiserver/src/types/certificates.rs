//! Certificate signing requests: who asks is written down by the server, and only those who may
//! approve or sign for a signer change the answer.
//!
//! Source: kubernetes.io, "Certificates and Certificate Signing Requests".

use std::collections::HashSet;

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use schema::Cause;
use serde_json::{Map, Value, json};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer as _, X509CertificationRequest, X509Name,
};

use super::check::{
    At, CONDITION_STATUSES, Causes, copy, default, is_empty, items, items_mut, text,
};
use super::{Ctx, Strategy};
use crate::registry::Selectable;
use crate::status::ApiError;
use crate::write::names::path_segment;
use crate::write::now;

/// Group of signing requests and signers.
pub(crate) const GROUP: &str = "certificates.k8s.io";
/// Signer of certificates that the API server takes for a user.
pub(crate) const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Shortest life that can be asked for, in seconds.
///
/// Source: upstream `pkg/apis/certificates/validation/validation.go`.
const MIN_SECONDS: i64 = 600;

/// Signer of requests that are older than signers' names.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

/// Conditions that are true once they are there; the first two are verdicts.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

/// What a key can be used for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Strategy of `certificatesigningrequests`.
pub(super) struct SigningRequests;

impl Strategy for SigningRequests {
    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("spec.signerName")]
    }

    fn unowned(&self) -> &'static [&'static str] {
        &["spec"]
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
                keep_verdicts(obj, old);
                stamp(obj, old);
            }
            None => copy(obj, old, "status"),
        }
        Ok(())
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        path_segment(name)
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if parse(&spec["request"]).is_none() {
            let detail = "PEM block type must be CERTIFICATE REQUEST";
            causes.invalid(&at.field("request"), &spec["request"], detail);
        }
        usages(&mut causes, &at.field("usages"), &spec["usages"], old);
        let (signer_at, signer) = (at.field("signerName"), text(spec, "signerName"));
        if signer == LEGACY_SIGNER && old.is_none_or(|old| old["spec"]["signerName"] != signer) {
            let detail = "the legacy signerName is not allowed via this API version";
            causes.invalid(&signer_at, &signer.into(), detail);
        } else {
            causes.signer_name(&signer_at, signer);
        }
        let seconds = &spec["expirationSeconds"];
        if seconds.as_i64().is_some_and(|seconds| seconds < MIN_SECONDS) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            causes.invalid(&at.field("expirationSeconds"), seconds, detail);
        }
        let at = At::new("status");
        conditions(&mut causes, &at.field("conditions"), obj, old);
        if let Some(old) = old {
            verdicts_stay(&mut causes, &at.field("conditions"), (obj, old), subresource);
            certificate(&mut causes, &at.field("certificate"), (obj, old), subresource);
        }
        causes.0
    }
}

/// What keys are for: each purpose a known one, and once. What is wrong with the old list may stay.
fn usages(causes: &mut Causes, at: &At<'_>, usages: &Value, old: Option<&Value>) {
    causes.present(at, usages, "");
    if old.is_some_and(|old| old["spec"]["usages"] == *usages) {
        return;
    }
    let list = items(usages);
    for (n, usage) in list.iter().enumerate() {
        causes.one_of(&at.index(n), usage, &USAGES);
    }
    let mut seen = HashSet::new();
    for (n, usage) in list.iter().enumerate() {
        if !seen.insert(usage) {
            causes.duplicate(&at.index(n), usage);
        }
    }
}

fn conditions(causes: &mut Causes, at: &At<'_>, obj: &Value, old: Option<&Value>) {
    let list = items(&obj["status"]["conditions"]);
    let known = old.map(|old| items(&old["status"]["conditions"])).unwrap_or_default();
    let kinds = |list: &[Value]| -> Vec<String> {
        list.iter().map(|condition| text(condition, "type").to_owned()).collect()
    };
    let (kinds, known) = (kinds(list), kinds(known));
    let had_duplicates = known.iter().collect::<HashSet<_>>().len() < known.len();
    let mut seen = HashSet::new();
    let both_before = ["Approved", "Denied"].iter().all(|kind| known.iter().any(|k| k == kind));
    for (n, condition) in list.iter().enumerate() {
        let (entry, kind) = (at.index(n), &kinds[n]);
        if kind.is_empty() && !known.contains(kind) {
            causes.required(&entry.field("type"), "");
        }
        let once_true = FINAL.contains(&kind.as_str());
        let allowed = if once_true { &["True"][..] } else { &CONDITION_STATUSES[..] };
        let status = &condition["status"];
        if causes.present(&entry.field("status"), status, "") {
            causes.one_of(&entry.field("status"), status, allowed);
        }
        let opposite = match kind.as_str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !opposite.is_empty() && !both_before && seen.contains(opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            causes.invalid(at, &kind.as_str().into(), detail);
        }
        if !seen.insert(kind.as_str()) && !had_duplicates {
            causes.duplicate(&entry.field("type"), &kind.as_str().into());
        }
    }
}

/// How many conditions of a type there are.
fn count(request: &Value, kind: &str) -> usize {
    let conditions = items(&request["status"]["conditions"]).iter();
    conditions.filter(|condition| text(condition, "type") == kind).count()
}

/// Verdicts are never taken back, and only given through approval.
fn verdicts_stay(
    causes: &mut Causes,
    at: &At<'_>,
    (obj, old): (&Value, &Value),
    subresource: Option<&str>,
) {
    for kind in FINAL.iter().filter(|kind| count(obj, kind) < count(old, kind)) {
        causes.forbidden(at, &format!("updates may not remove a condition of type {kind:?}"));
    }
    if subresource == Some("approval") {
        return;
    }
    for kind in FINAL[..2].iter().filter(|kind| count(obj, kind) > count(old, kind)) {
        causes.forbidden(at, &format!("updates may not add a condition of type {kind:?}"));
    }
}

fn certificate(
    causes: &mut Causes,
    at: &At<'_>,
    (obj, old): (&Value, &Value),
    subresource: Option<&str>,
) {
    let (new, old) = (&obj["status"]["certificate"], &old["status"]["certificate"]);
    if new == old || is_empty(new) && is_empty(old) {
        return;
    }
    if let Some(fault) = certificate_fault(new) {
        causes.invalid(at, &"<certificate data>".into(), &fault);
    }
    if subresource != Some("status") {
        causes.forbidden(at, "updates may not set certificate content");
    } else if !is_empty(old) {
        causes.forbidden(at, "updates may not modify existing certificate content");
    }
}

/// What is wrong with the base64 text of PEM blocks.
fn certificate_fault(certificate: &Value) -> Option<String> {
    let pem = decode(certificate).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    let labels = pem
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    let labels: Vec<&str> = labels.collect();
    if let Some(other) = labels.iter().find(|label| **label != "CERTIFICATE") {
        return Some(format!("only CERTIFICATE PEM blocks are allowed, found {other:?}"));
    }
    (labels.is_empty() && !pem.is_empty())
        .then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
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
    let pem = decode(request)?;
    let der = CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
    X509CertificationRequest::from_der(&der).ok().map(|_| der.to_vec())
}

fn decode(base64: &Value) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64.as_str()?).ok()
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

/// Leaves the verdicts as they were, unless some came or went, which [`verdicts_stay`] tells.
fn keep_verdicts(obj: &mut Value, old: &Value) {
    for kind in &FINAL[..2] {
        if count(obj, kind) != count(old, kind) {
            continue;
        }
        let is_one = |condition: &&Value| text(condition, "type") == *kind;
        let mut known = items(&old["status"]["conditions"]).iter().filter(is_one);
        let status = obj.get_mut("status").filter(|status| status.is_object());
        for condition in status.into_iter().flat_map(|status| items_mut(status, "conditions")) {
            if text(condition, "type") == *kind
                && let Some(known) = known.next()
            {
                *condition = known.clone();
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signing_request_carries_a_request() {
        let causes = SigningRequests.validate(&json!({ "spec": {} }), None, None);
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, ["spec.request", "spec.usages", "spec.signerName"]);
        let both = json!({ "status": { "conditions": [
            { "type": "Approved", "status": "True" }, { "type": "Denied", "status": "True" },
        ] } });
        let causes = SigningRequests.validate(&both, None, None);
        assert!(causes.iter().any(|cause| cause.field == "status.conditions"));
    }

    #[test]
    fn verdicts_are_given_through_approval_and_stay() {
        let request = |kinds: &[&str]| {
            let condition = |kind: &&str| json!({ "type": kind, "status": "True" });
            let conditions: Vec<Value> = kinds.iter().map(condition).collect();
            json!({ "status": { "conditions": conditions } })
        };
        let check = |new: &[&str], old: &[&str], subresource: Option<&str>| {
            let mut causes = Causes::default();
            let pair = (&request(new), &request(old));
            verdicts_stay(&mut causes, &At::new("c"), pair, subresource);
            causes.0.len()
        };
        assert_eq!(check(&["Approved"], &[], Some("approval")), 0);
        assert_eq!(check(&["Approved"], &[], Some("status")), 1);
        assert_eq!(check(&["Failed"], &[], Some("status")), 0);
        assert_eq!(check(&[], &["Denied"], Some("approval")), 1);
    }

    #[test]
    fn certificates_are_pem() {
        use base64::Engine as _;
        let fault = |text: &str| {
            certificate_fault(&base64::engine::general_purpose::STANDARD.encode(text).into())
        };
        assert_eq!(fault("-----BEGIN CERTIFICATE-----\n"), None);
        assert!(fault("x").is_some_and(|f| f.starts_with("must contain")));
        assert!(fault("-----BEGIN KEY-----\n").is_some_and(|f| f.starts_with("only")));
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
