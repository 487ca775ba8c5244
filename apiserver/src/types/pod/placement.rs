//! What is wrong with the fields that decide where a pod runs.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::types::check::{At, Causes, items, members, text};
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
        if !key.is_empty() {
            causes.faults(&at.field("key"), key, words::qualified(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.invalid(&at.field("operator"), &operator.into(), detail);
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.invalid(&at.field("effect"), &effect.into(), detail);
        }
        let value = text(toleration, "value");
        let operator_at = at.field("operator");
        match operator {
            "" | "Equal" => {
                let faults = words::label_value(value);
                if !faults.is_empty() {
                    causes.invalid(&operator_at, &value.into(), &faults.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                causes.invalid(&operator_at, &value.into(), detail);
            }
            "Exists" => (),
            "Lt" | "Gt" => {
                let supported = ["Equal", "Exists", "Lt", "Gt"];
                causes.not_supported(&operator_at, &operator.into(), &supported);
            }
            _ => causes.not_supported(&operator_at, &operator.into(), &["Equal", "Exists"]),
        }
        taint_effect(causes, &at.field("effect"), effect);
    }
}

/// The effect of a taint or a toleration; an empty one is left to others.
pub(crate) fn taint_effect(causes: &mut Causes, at: &At<'_>, effect: &str) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !effect.is_empty() {
        causes.one_of(at, &effect.into(), &EFFECTS);
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
        causes.present(&at.field("topologyKey"), &constraint["topologyKey"], "can not be empty");
        let action = text(constraint, "whenUnsatisfiable");
        causes.one_of(
            &at.field("whenUnsatisfiable"),
            &action.into(),
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        let pair =
            |c: &Value| text(c, "topologyKey") == key && text(c, "whenUnsatisfiable") == action;
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
        label_keys(causes, &at, constraint);
        causes.selector(&at.field("labelSelector"), &constraint["labelSelector"]);
    }
}

/// Keys whose values come from the pod's own labels.
fn label_keys(causes: &mut Causes, at: &At<'_>, term: &Value) {
    let selector = &term["labelSelector"];
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let at = at.field(list);
        let keys = items(&term[list]);
        if !keys.is_empty() && selector.is_null() {
            causes.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (n, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or_default();
            causes.faults(&at.index(n), key, words::qualified(key));
        }
    }
    let keys = items(&term["matchLabelKeys"]);
    let mut selected: HashSet<&str> =
        members(&selector["matchLabels"]).map(|(key, _)| key.as_str()).collect();
    for expression in items(&selector["matchExpressions"]) {
        let key = text(expression, "key");
        // What was made of a key is there once; twice is one too many.
        if let Some(n) = keys.iter().rposition(|k| k == key)
            && selected.contains(key)
        {
            let detail = "exists in both matchLabelKeys and labelSelector";
            causes.invalid(&at.index(n), &key.into(), detail);
        }
        selected.insert(key);
    }
    let list = at.field("matchLabelKeys");
    for (n, key) in keys.iter().enumerate() {
        if items(&term["mismatchLabelKeys"]).contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            causes.invalid(&list.index(n), key, detail);
        }
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
        let at = at.index(n);
        node_term(causes, &at, term);
        let list = at.field("matchExpressions");
        for (n, requirement) in items(&term["matchExpressions"]).iter().enumerate() {
            let at = list.index(n);
            let at = at.field("values");
            for (n, value) in items(&requirement["values"]).iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                causes.faults(&at.index(n), value, words::label_value(value));
            }
        }
    }
}

/// A term of a node selector, whatever the values are.
fn node_term(causes: &mut Causes, at: &At<'_>, term: &Value) {
    let list = at.field("matchExpressions");
    for (n, requirement) in items(&term["matchExpressions"]).iter().enumerate() {
        let at = list.index(n);
        let values = items(&requirement["values"]);
        let at_values = at.field("values");
        match text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.required(&at_values, detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.forbidden(&at_values, detail);
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                causes.required(&at_values, detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => (),
            other => {
                causes.invalid(
                    &at.field("operator"),
                    &other.into(),
                    "not a valid selector operator",
                );
            }
        }
        let key = text(requirement, "key");
        causes.faults(&at.field("key"), key, words::qualified(key));
    }
    let list = at.field("matchFields");
    for (n, requirement) in items(&term["matchFields"]).iter().enumerate() {
        node_field(causes, &list.index(n), requirement);
    }
}

fn node_field(causes: &mut Causes, at: &At<'_>, requirement: &Value) {
    let values = items(&requirement["values"]);
    let at_values = at.field("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            causes.required(&at_values, detail);
        }
        "In" | "NotIn" => (),
        other => {
            causes.invalid(&at.field("operator"), &other.into(), "not a valid selector operator");
        }
    }
    let key = text(requirement, "key");
    if key != "metadata.name" {
        return causes.invalid(&at.field("key"), &key.into(), "not a valid field selector key");
    }
    for (n, value) in values.iter().enumerate() {
        causes.subdomain(&at_values.index(n), value);
    }
}

fn pod_term(causes: &mut Causes, at: &At<'_>, term: &Value) {
    causes.selector(&at.field("labelSelector"), &term["labelSelector"]);
    causes.selector(&at.field("namespaceSelector"), &term["namespaceSelector"]);
    for name in items(&term["namespaces"]) {
        causes.label(&at.field("namespace"), name);
    }
    label_keys(causes, at, term);
    let key = text(term, "topologyKey");
    causes.present(&at.field("topologyKey"), &term["topologyKey"], "can not be empty");
    causes.faults(&at.field("topologyKey"), key, words::qualified(key));
}
