//! What is wrong with the fields that decide where a pod runs.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::types::check::{At, Causes, items, text};
use crate::types::words;

/// Affinity, tolerations, spread constraints and scheduling gates.
pub(super) fn all(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    causes.labels(&at.field("nodeSelector"), &spec["nodeSelector"]);
    affinity(causes, &at.field("affinity"), &spec["affinity"]);
    tolerations(causes, &at.field("tolerations"), &spec["tolerations"]);
    spread(causes, &at.field("topologySpreadConstraints"), &spec["topologySpreadConstraints"]);
    gates(causes, &at.field("schedulingGates"), &spec["schedulingGates"]);
}

/// Tolerations of pods and of runtime classes.
pub(crate) fn tolerations(causes: &mut Causes, at: &At<'_>, tolerations: &Value) {
    for (n, toleration) in items(tolerations).iter().enumerate() {
        let at = at.index(n);
        let (key, operator, effect) =
            (text(toleration, "key"), text(toleration, "operator"), text(toleration, "effect"));
        if key.is_empty() {
            if operator != "Exists" {
                let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                causes.invalid(&at.field("operator"), &operator.into(), detail);
            }
        } else {
            causes.faults(&at.field("key"), key, words::qualified(key));
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.invalid(&at.field("effect"), &effect.into(), detail);
        }
        let value = text(toleration, "value");
        match operator {
            "" | "Equal" => {
                let at = at.field("operator");
                for fault in words::label_value(value) {
                    causes.invalid(&at, &value.into(), &fault);
                }
            }
            "Exists" if !value.is_empty() => {
                causes.invalid(
                    &at.field("operator"),
                    toleration,
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => (),
            _ => {
                causes.not_supported(&at.field("operator"), &operator.into(), &["Equal", "Exists"])
            }
        }
        if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            causes.not_supported(&at.field("effect"), &effect.into(), &supported);
        }
    }
}

fn spread(causes: &mut Causes, at: &At<'_>, constraints: &Value) {
    for (n, constraint) in items(constraints).iter().enumerate() {
        let at = at.index(n);
        if constraint["maxSkew"].as_i64().unwrap_or_default() <= 0 {
            let skew = constraint.get("maxSkew").cloned().unwrap_or(json!(0));
            causes.invalid(&at.field("maxSkew"), &skew, "must be greater than zero");
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            causes.required(&at.field("topologyKey"), "can not be empty");
        } else {
            causes.faults(&at.field("topologyKey"), key, words::qualified(key));
        }
        let action = text(constraint, "whenUnsatisfiable");
        causes.one_of(
            &at.field("whenUnsatisfiable"),
            &action.into(),
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        let pair = |c: &Value| {
            (text(c, "topologyKey") == key, text(c, "whenUnsatisfiable") == action) == (true, true)
        };
        if items(constraints)[n + 1..].iter().any(pair) {
            let field = at.field("{topologyKey, whenUnsatisfiable}");
            causes.duplicate(&field, &format!("{{{key}, {action}}}").into());
        }
        let domains = &constraint["minDomains"];
        if domains.as_i64().is_some_and(|n| n <= 0) {
            causes.invalid(&at.field("minDomains"), domains, "must be greater than zero");
        }
        if !domains.is_null() && action != "DoNotSchedule" {
            let fault =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            causes.invalid(&at.field("minDomains"), domains, &fault);
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            causes.one_of(&at.field(policy), &constraint[policy], &["Honor", "Ignore"]);
        }
        let keys = items(&constraint["matchLabelKeys"]);
        if !keys.is_empty() && constraint["labelSelector"].is_null() {
            causes.forbidden(
                &at.field("matchLabelKeys"),
                "must not be specified when labelSelector is not set",
            );
        }
        causes.selector(&at.field("labelSelector"), &constraint["labelSelector"]);
    }
}

fn gates(causes: &mut Causes, at: &At<'_>, gates: &Value) {
    let mut seen = HashSet::new();
    for (n, gate) in items(gates).iter().enumerate() {
        let name = text(gate, "name");
        causes.faults(&at.index(n), name, words::qualified(name));
        if !seen.insert(name) {
            causes.duplicate(&at.index(n), &name.into());
        }
    }
}

fn affinity(causes: &mut Causes, at: &At<'_>, affinity: &Value) {
    if affinity.is_null() {
        return;
    }
    let node = &affinity["nodeAffinity"];
    let node_at = at.field("nodeAffinity");
    let required = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    if !required.is_null() {
        node_selector(
            causes,
            &node_at.field("requiredDuringSchedulingIgnoredDuringExecution"),
            required,
        );
    }
    let preferred_at = node_at.field("preferredDuringSchedulingIgnoredDuringExecution");
    for (n, term) in
        items(&node["preferredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate()
    {
        let at = preferred_at.index(n);
        weight(causes, &at, term);
        node_term(causes, &at.field("preference"), &term["preference"]);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = &affinity[kind];
        let at = at.field(kind);
        let required = at.field("requiredDuringSchedulingIgnoredDuringExecution");
        for (n, term) in
            items(&pods["requiredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate()
        {
            pod_term(causes, &required.index(n), term);
        }
        let preferred = at.field("preferredDuringSchedulingIgnoredDuringExecution");
        for (n, term) in
            items(&pods["preferredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate()
        {
            let at = preferred.index(n);
            weight(causes, &at, term);
            pod_term(causes, &at.field("podAffinityTerm"), &term["podAffinityTerm"]);
        }
    }
}

fn weight(causes: &mut Causes, at: &At<'_>, term: &Value) {
    if !(1..=100).contains(&term["weight"].as_i64().unwrap_or_default()) {
        let weight = term.get("weight").cloned().unwrap_or(json!(0));
        causes.invalid(&at.field("weight"), &weight, "must be in the range 1-100");
    }
}

/// `core.NodeSelector`, also of volumes.
pub(crate) fn node_selector(causes: &mut Causes, at: &At<'_>, selector: &Value) {
    let at = at.field("nodeSelectorTerms");
    let terms = items(&selector["nodeSelectorTerms"]);
    if terms.is_empty() {
        causes.required(&at, "must have at least one node selector term");
    }
    for (n, term) in terms.iter().enumerate() {
        node_term(causes, &at.index(n), term);
    }
}

fn node_term(causes: &mut Causes, at: &At<'_>, term: &Value) {
    for list in ["matchExpressions", "matchFields"] {
        let at = at.field(list);
        for (n, requirement) in items(&term[list]).iter().enumerate() {
            let at = at.index(n);
            let values = items(&requirement["values"]);
            match text(requirement, "operator") {
                "In" | "NotIn" if values.is_empty() => {
                    causes.required(
                        &at.field("values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => causes.forbidden(
                    &at.field("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "Gt" | "Lt" if values.len() != 1 => causes.required(
                    &at.field("values"),
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => (),
                _ => causes.invalid(
                    &at.field("operator"),
                    &requirement["operator"],
                    "not a valid selector operator",
                ),
            }
            let key = text(requirement, "key");
            if list == "matchExpressions" {
                causes.faults(&at.field("key"), key, words::qualified(key));
            } else if key != "metadata.name" {
                causes.invalid(&at.field("key"), &key.into(), "not a valid field selector key");
            }
        }
    }
}

fn pod_term(causes: &mut Causes, at: &At<'_>, term: &Value) {
    causes.selector(&at.field("labelSelector"), &term["labelSelector"]);
    causes.selector(&at.field("namespaceSelector"), &term["namespaceSelector"]);
    let namespaces = at.field("namespaces");
    for (n, name) in items(&term["namespaces"]).iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        causes.faults(&namespaces.index(n), name, words::label(name));
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        causes.required(&at.field("topologyKey"), "can not be empty");
    }
    causes.faults(&at.field("topologyKey"), key, words::qualified(key));
}
