//! `validatingadmissionpolicies`.

use std::collections::HashSet;

use schema::Cause;
use schema::cel::ExpressionScope;
use serde_json::{Value, json};

use super::{expression, policy};
use crate::status::ApiError;
use crate::types::check::{At, Causes, is_empty, items, text};
use crate::types::{Ctx, METADATA, Strategy, words};

/// Most audit annotations of a policy.
const ANNOTATIONS: usize = 20;
/// Longest expression of an audit annotation's value.
const ANNOTATION_BYTES: usize = 5 * 1024;

/// Strategy of `validatingadmissionpolicies`.
pub(in crate::types) struct ValidatingPolicies;

impl Strategy for ValidatingPolicies {
    fn unconditional_updates(&self) -> bool {
        false
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if subresource.is_some() {
            let (status, at) = (&obj["status"], At::new("status"));
            causes.conditions(&at.field("conditions"), &status["conditions"]);
            warnings(&mut causes, &at.field("typeChecking"), &status["typeChecking"]);
            return causes.0;
        }
        if old.is_some_and(|old| old["spec"] == *spec) {
            return causes.0;
        }
        let asks = policy(spec, &at, false, &mut causes);
        if is_empty(&spec["validations"]) && is_empty(&spec["auditAnnotations"]) {
            for field in ["validations", "auditAnnotations"] {
                let detail = "validations or auditAnnotations must contain at least one item";
                causes.required(&at.field(field), detail);
            }
        }
        let tells = asks.clone().without_authorizer();
        let validations = at.field("validations");
        for (n, validation) in items(&spec["validations"]).iter().enumerate() {
            let at = validations.index(n);
            let missing = "expression is not specified";
            expression(validation, "expression", missing, &["bool"], (&at, &asks), &mut causes);
            message(&mut causes, &at, validation, &tells);
            let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
            causes.one_of(&at.field("reason"), &validation["reason"], &reasons);
        }
        let annotations = at.field("auditAnnotations");
        if items(&spec["auditAnnotations"]).len() > ANNOTATIONS {
            let detail = format!("must not have more than {ANNOTATIONS} auditAnnotations");
            causes.invalid(&annotations, &spec["auditAnnotations"], &detail);
        }
        let mut seen = HashSet::new();
        for (n, annotation) in items(&spec["auditAnnotations"]).iter().enumerate() {
            let key = text(annotation, "key");
            let at = annotations.index(n);
            audit_key(&mut causes, &at.field("key"), key, obj);
            if !seen.insert(key) {
                causes.duplicate(&at.field("key"), &key.into());
            }
            let place = (&at, &asks);
            let (missing, wanted) = ("valueExpression is not specified", ["string", "null_type"]);
            let value = &annotation["valueExpression"];
            if value.as_str().is_some_and(|value| value.trim().len() > ANNOTATION_BYTES) {
                let detail = format!("must not exceed {ANNOTATION_BYTES} bytes in length");
                causes.required(&at.field("valueExpression"), &detail);
                continue;
            }
            expression(annotation, "valueExpression", missing, &wanted, place, &mut causes);
        }
        causes.0
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        &METADATA
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// The messages of a validation.
fn message(causes: &mut Causes, at: &At<'_>, validation: &Value, scope: &ExpressionScope) {
    const MISSING: &str = "must be non-empty if specified";
    let made = text(validation, "messageExpression");
    if !made.is_empty() && made.trim().is_empty() {
        causes.invalid(&at.field("messageExpression"), &made.into(), MISSING);
    } else if !made.is_empty() {
        expression(validation, "messageExpression", "", &["string"], (at, scope), causes);
    }
    let fixed = text(validation, "message");
    if !fixed.is_empty() && fixed.trim().is_empty() {
        causes.invalid(&at.field("message"), &fixed.into(), MISSING);
    } else if fixed.trim().contains(['\n', '\r']) {
        causes.invalid(&at.field("message"), &fixed.into(), "must not contain line breaks");
    }
}

/// The key of an audit annotation, which is told with the policy's name before it.
fn audit_key(causes: &mut Causes, at: &At<'_>, key: &str, policy: &Value) {
    let name = text(&policy["metadata"], "name");
    if name.is_empty() {
        return causes.invalid(at, &key.into(), "requires metadata.name be non-empty");
    }
    let whole = format!("{name}/{key}");
    causes.faults(at, &whole, words::qualified(&whole));
}

/// What the controller that checks types says.
fn warnings(causes: &mut Causes, at: &At<'_>, checking: &Value) {
    let at = at.field("expressionWarnings");
    for (n, warning) in items(&checking["expressionWarnings"]).iter().enumerate() {
        let at = at.index(n);
        for field in ["fieldRef", "warning"] {
            causes.present(&at.field(field), &warning[field], "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_need_something_to_check() {
        let fields = |object: Value| -> Vec<String> {
            let causes = ValidatingPolicies.validate(&object, None, None);
            causes.into_iter().map(|cause| cause.field).collect()
        };
        assert_eq!(
            fields(json!({"spec": {}})),
            ["spec.matchConstraints", "spec.validations", "spec.auditAnnotations"]
        );
        let rules = json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["pods"]}]);
        let policy = |rule: &str| {
            json!({"spec": {"matchConstraints": {"resourceRules": rules},
                "variables": [{"name": "n", "expression": "object.spec.n"}],
                "validations": [{"expression": rule}]}})
        };
        assert_eq!(fields(policy("variables.n > 1 && authorizer != null")), [""; 0]);
        assert_eq!(fields(policy("params.n > 1")), ["spec.validations[0].expression"]);
        assert_eq!(fields(policy("'text'")), ["spec.validations[0].expression"]);
    }

    #[test]
    fn variables_may_be_many_but_not_their_own() {
        let faults = |variables: Vec<Value>, rule: &str| {
            let policy = json!({"spec": {"variables": variables, "matchConstraints":
                {"resourceRules": []}, "validations": [{"expression": rule}]}});
            let causes = ValidatingPolicies.validate(&policy, None, None);
            let fields: Vec<String> = causes.into_iter().map(|cause| cause.field).collect();
            fields[1..].to_vec() // There are no rules.
        };
        let variable = |n: usize, of: &str| json!({"name": format!("v{n}"), "expression": of});
        let own = faults(vec![variable(0, "variables.v0")], "variables.v0");
        // What is not known is of no type, and so no yes or no.
        assert_eq!(own, ["spec.variables[0].expression", "spec.validations[0].expression"]);
        let mut chain = vec![variable(0, "object")];
        chain.extend((1..5_000).map(|n| variable(n, &format!("variables.v{}", n - 1))));
        assert_eq!(faults(chain, "variables.v4999 == 1"), [""; 0]);
    }
}
