//! Admission policies, and what webhooks have in common with them.
//!
//! Source: upstream `pkg/apis/admissionregistration/validation/validation.go`.

mod bindings;
mod mutating;
mod rules;
mod validating;

use std::collections::HashSet;

use schema::Cause;
use schema::cel::ExpressionScope;
use serde_json::Value;

use super::check::{At, Causes, is_empty, items, text};
use super::words;
use crate::write::names;

pub(super) use bindings::Bindings;
pub(super) use mutating::MutatingPolicies;
pub(super) use rules::rules;
pub(super) use validating::ValidatingPolicies;

/// Most match conditions of one webhook or policy.
const CONDITIONS: usize = 64;
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
fn policy(spec: &Value, at: &At<'_>, mutates: bool, causes: &mut Causes) -> ExpressionScope {
    causes.one_of(&at.field("failurePolicy"), &spec["failurePolicy"], &["Fail", "Ignore"]);
    if !spec["paramKind"].is_null() {
        param_kind(causes, &at.field("paramKind"), &spec["paramKind"]);
    }
    let constraints = &spec["matchConstraints"];
    let constraints_at = at.field("matchConstraints");
    if constraints.is_null() {
        causes.required(&constraints_at, "");
    } else {
        criteria(constraints, &constraints_at, causes);
        causes.present(&constraints_at.field("resourceRules"), &constraints["resourceRules"], "");
    }
    if mutates {
        mutated(constraints, &constraints_at, causes);
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
