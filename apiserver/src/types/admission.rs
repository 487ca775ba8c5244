//! Admission policies, and what webhooks have in common with them.
//!
//! Source: upstream `pkg/apis/admissionregistration/validation/validation.go`.

use std::collections::{HashMap, HashSet};

use schema::Cause;
use schema::cel::ExpressionScope;
use serde_json::{Value, json};

use super::check::{At, Causes, is_empty, items, text};
use super::{Ctx, Strategy, words};
use crate::status::ApiError;
use crate::write::names;

/// Most match conditions of one webhook or policy.
const CONDITIONS: usize = 64;
/// Most audit annotations of a policy.
const ANNOTATIONS: usize = 20;
/// Longest expression of an audit annotation's value.
const ANNOTATION_BYTES: usize = 5 * 1024;

pub(super) fn rules(rules: &Value, at: &At<'_>, causes: &mut Causes) {
    for (n, rule) in items(rules).iter().enumerate() {
        let at = at.index(n);
        let operations = &rule["operations"];
        let operations_at = at.field("operations");
        if causes.present(&operations_at, operations, "") {
            let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            for (n, operation) in items(operations).iter().enumerate() {
                causes.one_of(&operations_at.index(n), operation, &known);
            }
        }
        alone(operations, &operations_at, "operations", causes);
        for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
            let at = at.field(field);
            causes.present(&at, &rule[field], "");
            alone(&rule[field], &at, what, causes);
        }
        for (n, version) in items(&rule["apiVersions"]).iter().enumerate() {
            causes.present(&at.field("apiVersions").index(n), version, "");
        }
        resources(&rule["resources"], &at.field("resources"), causes);
        resource_names(&rule["resourceNames"], &at.field("resourceNames"), causes);
        causes.one_of(&at.field("scope"), &rule["scope"], &["*", "Cluster", "Namespaced"]);
    }
}

/// `*` stands alone.
fn alone(list: &Value, at: &At<'_>, what: &str, causes: &mut Causes) {
    let entries = items(list);
    if entries.len() > 1 && entries.iter().any(|entry| entry == "*") {
        causes.invalid(at, list, &format!("if '*' is present, must not specify other {what}"));
    }
}

fn resources(list: &Value, at: &At<'_>, causes: &mut Causes) {
    let entries: Vec<&str> = items(list).iter().filter_map(Value::as_str).collect();
    if entries.is_empty() {
        return causes.required(at, "");
    }
    let first: HashMap<&str, usize> =
        entries.iter().enumerate().rev().map(|(n, entry)| (*entry, n)).collect();
    for (n, entry) in entries.iter().enumerate() {
        if entry.is_empty() {
            causes.required(&at.index(n), "");
        }
        let Some((resource, part)) = entry.split_once('/') else { continue };
        for covering in [format!("{resource}/*"), format!("*/{part}")] {
            if first.get(&*covering).is_some_and(|at| *at < n) {
                let detail = format!("if '{covering}' is present, must not specify {entry}");
                causes.invalid(&at.index(n), &(*entry).into(), &detail);
            }
        }
    }
    if entries.len() > 1 && entries.contains(&"*/*") {
        causes.invalid(at, list, "if '*/*' is present, must not specify other resources");
    }
    // As recorded: the last of the entries without a subresource decides.
    let last = entries.iter().rfind(|entry| !entry.contains('/'));
    if entries.contains(&"*") && last.is_some_and(|last| *last != "*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        causes.invalid(at, list, detail);
    }
}

fn resource_names(list: &Value, at: &At<'_>, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (n, name) in items(list).iter().enumerate() {
        causes.path_segment(&at.index(n), name);
        if !seen.insert(name) {
            causes.duplicate(&at.index(n), name);
        }
    }
}

pub(super) fn conditions(list: &Value, at: &At<'_>, scope: &ExpressionScope, causes: &mut Causes) {
    let conditions = items(list);
    if conditions.len() > CONDITIONS {
        causes.0.push(Cause::too_many(at.to_string(), conditions.len(), CONDITIONS as u64));
    }
    let mut seen = HashSet::new();
    for (n, condition) in conditions.iter().enumerate() {
        let at = at.index(n);
        expression(condition, "expression", "", &["bool"], (&at, scope), causes);
        let name = text(condition, "name");
        if name.is_empty() {
            causes.required(&at.field("name"), "");
        } else {
            causes.faults(&at.field("name"), name, words::qualified(name));
            if !seen.insert(name) {
                causes.duplicate(&at.field("name"), &condition["name"]);
            }
        }
    }
}

/// An expression that must be there and be sound.
fn expression(
    holder: &Value,
    key: &str,
    missing: &str,
    wanted: &[&str],
    (at, scope): (&At<'_>, &ExpressionScope),
    causes: &mut Causes,
) {
    let source = text(holder, key).trim();
    if source.is_empty() {
        return causes.required(&at.field(key), missing);
    }
    if let Err(fault) = scope.check(source, wanted) {
        causes.invalid(&at.field(key), &source.into(), &fault);
    }
}

/// What policies of both kinds have in common; answers what their expressions may name.
fn policy(spec: &Value, at: &At<'_>, causes: &mut Causes) -> ExpressionScope {
    causes.one_of(&at.field("failurePolicy"), &spec["failurePolicy"], &["Fail", "Ignore"]);
    let constraints = &spec["matchConstraints"];
    let constraints_at = at.field("matchConstraints");
    if constraints.is_null() {
        causes.required(&constraints_at, "");
    } else {
        causes.present(&constraints_at.field("resourceRules"), &constraints["resourceRules"], "");
        criteria(constraints, &constraints_at, causes);
    }
    if !spec["paramKind"].is_null() {
        param_kind(causes, &at.field("paramKind"), &spec["paramKind"]);
    }
    let has_params = !spec["paramKind"].is_null();
    let scope = ExpressionScope::new(None).with_params(has_params).with_authorizer();
    conditions(&spec["matchConditions"], &at.field("matchConditions"), &scope, causes);
    if is_empty(&spec["variables"]) {
        return scope;
    }
    let mut scope = scope.with_variables();
    let at = at.field("variables");
    for (n, variable) in items(&spec["variables"]).iter().enumerate() {
        self::variable(variable, &at.index(n), &mut scope, causes);
    }
    scope
}

/// A variable of a policy, for the expressions after it.
fn variable(variable: &Value, at: &At<'_>, scope: &mut ExpressionScope, causes: &mut Causes) {
    let (name, source) = (text(variable, "name"), text(variable, "expression").trim());
    if name.trim().is_empty() {
        causes.required(&at.field("name"), "name is not specified");
    } else if !is_identifier(name) {
        let detail = "must be a valid CEL identifier";
        causes.invalid(&at.field("name"), &variable["name"], detail);
    }
    let at = at.field("expression");
    if source.is_empty() {
        causes.required(&at, "expression is not specified");
    } else if let Err(fault) = scope.declare(name, source) {
        causes.invalid(&at, &source.into(), &fault);
    }
}

/// The type of a policy's parameters.
fn param_kind(causes: &mut Causes, at: &At<'_>, of: &Value) {
    let version = text(of, "apiVersion");
    let version_at = at.field("apiVersion");
    if version.is_empty() {
        causes.required(&version_at, "");
    } else if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        causes.invalid(&version_at, &version.into(), &detail);
    } else {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        if !group.is_empty() {
            causes.faults(&version_at, group, names::subdomain(group));
        }
        causes.faults(&version_at, version, words::label_1035(version));
    }
    if causes.present(&at.field("kind"), &of["kind"], "") {
        for fault in words::label_1035(&text(of, "kind").to_lowercase()) {
            let detail = format!("may have mixed case, but should otherwise match: {fault}");
            causes.invalid(&at.field("kind"), &of["kind"], &detail);
        }
    }
}

fn criteria(resources: &Value, at: &At<'_>, causes: &mut Causes) {
    causes.selector(&at.field("namespaceSelector"), &resources["namespaceSelector"]);
    causes.selector(&at.field("objectSelector"), &resources["objectSelector"]);
    causes.one_of(&at.field("matchPolicy"), &resources["matchPolicy"], &["Equivalent", "Exact"]);
    for key in ["resourceRules", "excludeResourceRules"] {
        rules(&resources[key], &at.field(key), causes);
    }
}

/// What is deleted cannot be changed.
fn mutated(resources: &Value, at: &At<'_>, causes: &mut Causes) {
    let at = at.field("resourceRules");
    for rule in items(&resources["resourceRules"]) {
        for operation in items(&rule["operations"]) {
            let known = ["*", "CONNECT", "CREATE", "UPDATE"];
            causes.one_of(&at.field("operations"), operation, &known);
        }
    }
}

fn is_identifier(name: &str) -> bool {
    if schema::cel::is_reserved(name) {
        return false;
    }
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Strategy of `validatingadmissionpolicies`.
pub(super) struct ValidatingPolicies;

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
        let asks = policy(spec, &at, &mut causes);
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
        &super::METADATA
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

/// Strategy of `mutatingadmissionpolicies`.
pub(super) struct MutatingPolicies;

impl Strategy for MutatingPolicies {
    fn unconditional_updates(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if old.is_some_and(|old| old["spec"] == *spec) {
            return causes.0;
        }
        let scope = policy(spec, &at, &mut causes).with_variables();
        mutated(&spec["matchConstraints"], &at.field("matchConstraints"), &mut causes);
        let mutations_at = at.field("mutations");
        causes.present(
            &mutations_at,
            &spec["mutations"],
            "mutations must contain at least one item",
        );
        let again = at.field("reinvocationPolicy");
        if causes.present(&again, &spec["reinvocationPolicy"], "") {
            causes.one_of(&again, &spec["reinvocationPolicy"], &["IfNeeded", "Never"]);
        }
        for (n, mutation) in items(&spec["mutations"]).iter().enumerate() {
            let at = mutations_at.index(n);
            let kinds = ["ApplyConfiguration", "JSONPatch"];
            if !causes.present(&at.field("patchType"), &mutation["patchType"], "") {
                continue;
            }
            causes.one_of(&at.field("patchType"), &mutation["patchType"], &kinds);
            self::mutation(&mut causes, &at, mutation, &scope);
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// The expression of a mutation, which is that of its kind of patch and no other.
fn mutation(causes: &mut Causes, at: &At<'_>, mutation: &Value, scope: &ExpressionScope) {
    let (kind, key, other, wanted) = match text(mutation, "patchType") {
        "JSONPatch" => ("JSONPatch", "jsonPatch", "applyConfiguration", "list(JSONPatch)"),
        "ApplyConfiguration" => ("ApplyConfiguration", "applyConfiguration", "jsonPatch", "Object"),
        _ => return,
    };
    if mutation[key].is_null() {
        let detail = format!("must be specified when patchType is {kind}");
        causes.required(&at.field(key), &detail);
    } else {
        let place = (&at.field(key), scope);
        expression(&mutation[key], "expression", "", &[wanted], place, causes);
    }
    if !mutation[other].is_null() {
        let detail = format!("must not be specified when patchType is {kind}");
        causes.invalid(&at.field(other), &format!("{{{other}}}").into(), &detail);
    }
}

/// Strategy of the bindings of both kinds of policies.
pub(super) struct Bindings {
    /// Whether a binding says what is to be done about violations.
    pub(super) has_actions: bool,
}

impl Strategy for Bindings {
    fn unconditional_updates(&self) -> bool {
        false
    }

    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if causes.present(&at.field("policyName"), &spec["policyName"], "") {
            causes.subdomain(&at.field("policyName"), &spec["policyName"]);
        }
        if !spec["paramRef"].is_null() {
            param_ref(&spec["paramRef"], &at.field("paramRef"), &mut causes);
        }
        if !spec["matchResources"].is_null() {
            criteria(&spec["matchResources"], &at.field("matchResources"), &mut causes);
        }
        if !self.has_actions {
            mutated(&spec["matchResources"], &at.field("matchResources"), &mut causes);
        }
        if self.has_actions {
            actions(&spec["validationActions"], &at.field("validationActions"), &mut causes);
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn param_ref(reference: &Value, at: &At<'_>, causes: &mut Causes) {
    let named = !text(reference, "name").is_empty();
    causes.path_segment(&at.field("name"), &reference["name"]);
    match (named, reference["selector"].is_null()) {
        (true, false) => {
            let detail = "name and selector are mutually exclusive";
            causes.forbidden(&at.field("name"), detail);
            causes.forbidden(&at.field("selector"), detail);
        }
        (false, true) => causes.required(at, "one of name or selector must be specified"),
        _ => (),
    }
    causes.selector(&at.field("selector"), &reference["selector"]);
    let (action_at, action) =
        (at.field("parameterNotFoundAction"), &reference["parameterNotFoundAction"]);
    if is_empty(action) {
        return causes.required(&action_at, "");
    }
    causes.one_of(&action_at, action, &["Deny", "Allow"]);
}

fn actions(actions: &Value, at: &At<'_>, causes: &mut Causes) {
    causes.present(at, actions, "at least one validation action is required");
    let mut seen = HashSet::new();
    for (n, action) in items(actions).iter().enumerate() {
        causes.one_of(&at.index(n), action, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action) {
            causes.duplicate(&at.index(n), action);
        }
    }
    let listed = |name: &str| items(actions).iter().any(|a| a == name);
    if listed("Deny") && listed("Warn") {
        causes.invalid(at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
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
    fn long_lists_take_no_longer_than_they_are_long() {
        let names: Vec<String> = (0..100_000).map(|n| format!("n{n}/part")).collect();
        let rule = json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": names, "resourceNames": names}]);
        let mut causes = Causes::default();
        rules(&rule, &At::new("rules"), &mut causes);
        assert!(causes.0.iter().all(|cause| cause.field.starts_with("rules[0].resourceNames[")));
        let conditions: Vec<Value> = names.iter().map(|name| json!({"type": name})).collect();
        let mut causes = Causes::default();
        causes.conditions(&At::new("conditions"), &json!(conditions));
        assert!(causes.0.iter().all(|cause| !cause.field.ends_with("type")));
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
