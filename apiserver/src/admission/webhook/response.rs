//! Reads an `AdmissionReview` that came back. Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::status::{ApiError, Status};

/// What a webhook answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) allowed: bool,
    /// Why not.
    pub(super) result: Value,
    /// A JSON patch; empty if there is none.
    pub(super) patch: Vec<u8>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) warnings: Vec<String>,
}

/// Reads the answer to the request `uid`.
///
/// # Errors
/// What is wrong with it, in upstream's words.
pub(super) fn read(review: &Value, uid: &str, mutating: bool) -> Result<Response, String> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let answered = text(response, "uid");
    if answered != uid {
        return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
    }
    let (version, kind) = (text(review, "apiVersion"), text(review, "kind"));
    if (version.as_str(), kind.as_str()) != ("admission.k8s.io/v1", "AdmissionReview") {
        let version = if version.contains('/') { version } else { format!("/{version}") };
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
        ));
    }
    let texts = |key: &str| response[key].as_array().into_iter().flatten();
    let pairs = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Response {
        allowed: response["allowed"] == true,
        result: response["status"].clone(),
        patch: patch(response, mutating)?,
        annotations: pairs
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        warnings: texts("warnings").filter_map(|w| w.as_str().map(str::to_owned)).collect(),
    })
}

fn patch(response: &Value, mutating: bool) -> Result<Vec<u8>, String> {
    let encoded = response["patch"].as_str().unwrap_or_default();
    let kind = response["patchType"].as_str();
    let fault = match (mutating, encoded.is_empty(), kind) {
        (_, true, None) => return Ok(Vec::new()),
        (false, false, _) => "validating webhook may not return response.patch".to_owned(),
        (false, true, Some(_)) => "validating webhook may not return response.patchType".to_owned(),
        (true, false, None) => {
            "webhook returned response.patch but not response.patchType".to_owned()
        }
        (true, true, Some(_)) => {
            "webhook returned response.patchType but not response.patch".to_owned()
        }
        (true, false, Some("")) => "webhook returned invalid response.patchType of \"\"".to_owned(),
        (true, false, Some("JSONPatch")) => {
            return STANDARD.decode(encoded).map_err(|error| error.to_string());
        }
        (true, false, Some(other)) => format!("unsupported patch type {other:?}"),
    };
    Err(fault)
}

/// The refusal of a webhook: its own status, which names who refused.
///
/// Source: `ToStatusErr` in upstream's `plugin/webhook/errors/statuserror.go`.
pub(super) fn refusal(webhook: &str, result: &Value) -> ApiError {
    let denied = format!("admission webhook {webhook:?} denied the request");
    let mut status: Status = match result.is_object() {
        true => serde_json::from_value(result.clone()).unwrap_or_else(|_| Status::failure()),
        false => Status::failure(),
    };
    status.kind = "Status".to_owned();
    status.api_version = "v1".to_owned();
    status.code = status.code.max(400);
    if status.status.is_empty() || status.status == "Success" {
        status.status = "Failure".to_owned();
    }
    let why = [&status.message, &status.reason].into_iter().find(|text| !text.is_empty());
    status.message = match why {
        Some(why) => format!("{denied}: {why}"),
        None => format!("{denied} without explanation"),
    };
    ApiError::Other(Box::new(status))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(response: Value, mutating: bool, expected: Result<bool, &str>) {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": response});
        let got = read(&review, "u", mutating).map(|response| response.allowed);
        assert_eq!(got.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e));
    }

    #[test]
    fn answers_must_be_to_the_question_and_whole() {
        check(json!({"uid": "u", "allowed": true}), true, Ok(true));
        check(json!({"uid": "u"}), false, Ok(false));
        check(json!(null), false, Err("webhook response was absent"));
        check(json!({"uid": "v"}), false, Err("expected response.uid=\"u\", got \"v\""));
        let patch =
            |kind: Value| json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": kind});
        check(patch("JSONPatch".into()), true, Ok(true));
        check(
            patch(Value::Null),
            true,
            Err("webhook returned response.patch but not response.patchType"),
        );
        check(patch("Merge".into()), true, Err("unsupported patch type \"Merge\""));
        check(
            patch("JSONPatch".into()),
            false,
            Err("validating webhook may not return response.patch"),
        );
        let old = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview",
            "response": {"uid": "u"}});
        assert!(
            read(&old, "u", false)
                .unwrap_err()
                .ends_with("got admission.k8s.io/v1beta1, Kind=AdmissionReview")
        );
    }

    #[test]
    fn refusals_name_who_refused() {
        let status = |result| refusal("a.b.c", &result).status();
        let plain = status(Value::Null);
        assert_eq!(
            plain.message,
            "admission webhook \"a.b.c\" denied the request without explanation"
        );
        assert_eq!((plain.code, plain.status.as_str()), (400, "Failure"));
        let full = status(json!({"code": 403, "message": "no", "reason": "Forbidden"}));
        assert_eq!(full.message, "admission webhook \"a.b.c\" denied the request: no");
        assert_eq!((full.code, full.reason.as_str()), (403, "Forbidden"));
    }
}
