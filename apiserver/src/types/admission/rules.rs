//! Which requests a webhook or policy is about.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::types::check::{At, Causes, items};

pub(in crate::types) fn rules(rules: &Value, at: &At<'_>, causes: &mut Causes) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}
