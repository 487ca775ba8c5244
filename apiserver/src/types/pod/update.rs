//! What may change in a pod that exists.

use serde_json::Value;

use crate::types::check::{At, Causes, copy, items, items_mut, members, text};

const ONLY_THESE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Faults of an update of the pod itself.
pub(super) fn spec(causes: &mut Causes, new: &Value, old: &Value) {
    let (new, old) = (&new["spec"], &old["spec"]);
    if new == old {
        return;
    }
    let at = At::new("spec");
    for list in ["containers", "initContainers"] {
        if items(&new[list]).len() != items(&old[list]).len() {
            let what = if list == "containers" { "containers" } else { "init containers" };
            causes.forbidden(&at.field(list), &format!("pod updates may not add or remove {what}"));
            return;
        }
    }
    deadline(causes, new, old);
    if !kept_tolerations(new, old) {
        causes.forbidden(
            &at.field("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    gates(causes, new, old);
    let mut expected = old.clone();
    for list in ["containers", "initContainers"] {
        for (mine, theirs) in items_mut(&mut expected, list).zip(items(&new[list])) {
            copy(mine, theirs, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        copy(&mut expected, new, field);
    }
    let grace = |spec: &Value| spec["terminationGracePeriodSeconds"].as_i64().unwrap_or_default();
    if grace(old) < 0 && grace(new) == 1 {
        copy(&mut expected, new, "terminationGracePeriodSeconds");
    }
    if !items(&old["schedulingGates"]).is_empty() {
        node_selection(causes, new, old, &mut expected);
    }
    if expected != *new {
        causes.forbidden(&at, &format!("{ONLY_THESE}\n{}", differences(&expected, new)));
    }
}

/// The members that differ, one a line, for the people who read the refusal.
pub(crate) fn differences(old: &Value, new: &Value) -> String {
    let keys = members(old).chain(members(new)).map(|(k, _)| k.as_str());
    let keys: std::collections::BTreeSet<&str> = keys.filter(|k| old[*k] != new[*k]).collect();
    let lines: Vec<String> =
        keys.iter().map(|k| format!("  {k}: {} -> {}", old[*k], new[*k])).collect();
    lines.join("\n")
}

fn deadline(causes: &mut Causes, new: &Value, old: &Value) {
    let field = At::new("spec");
    let field = field.field("activeDeadlineSeconds");
    let (Some(before), now) =
        (old["activeDeadlineSeconds"].as_i64(), &new["activeDeadlineSeconds"])
    else {
        return;
    };
    match now.as_i64() {
        None => causes.invalid(
            &field,
            &Value::Null,
            &format!("must not update from a positive integer to nil value, was {before}"),
        ),
        Some(now_seconds) if now_seconds > before => {
            causes.invalid(&field, now, "must be less than or equal to previous value");
        }
        Some(_) => (),
    }
}

/// Whether every old toleration is still there, at most with other seconds.
fn kept_tolerations(new: &Value, old: &Value) -> bool {
    let same =
        |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|f| a[f] == b[f]);
    items(&old["tolerations"]).iter().all(|o| items(&new["tolerations"]).iter().any(|n| same(n, o)))
}

/// Gates may only go.
fn gates(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("spec");
    let at = at.field("schedulingGates");
    let before: Vec<&str> =
        items(&old["schedulingGates"]).iter().map(|g| text(g, "name")).collect();
    for (n, gate) in items(&new["schedulingGates"]).iter().enumerate() {
        let name = text(gate, "name");
        if !before.contains(&name) {
            let fault = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            causes.forbidden(&at.index(n).field("name"), &fault);
        }
    }
}

/// While a pod is gated, where it may run can be narrowed.
fn node_selection(causes: &mut Causes, new: &Value, old: &Value, expected: &mut Value) {
    let at = At::new("spec");
    let kept = members(&old["nodeSelector"]).all(|(k, v)| new["nodeSelector"][k] == *v);
    if !kept {
        let fault = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        causes.invalid(&at.field("nodeSelector"), &new["nodeSelector"], fault);
    }
    copy(expected, new, "nodeSelector");
    let required =
        "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = |spec: &Value| spec.pointer(required).cloned();
    let narrowed = match (terms(old), terms(new)) {
        (None, _) => true,
        (Some(before), Some(after)) => {
            items(&before).len() == items(&after).len()
                && items(&before).iter().zip(items(&after)).all(|(b, a)| {
                    ["matchExpressions", "matchFields"]
                        .iter()
                        .all(|list| items(&b[list]).iter().all(|r| items(&a[list]).contains(r)))
                })
        }
        (Some(_), None) => false,
    };
    if narrowed {
        copy(expected, new, "affinity");
        // The other kinds of affinity stay as they are.
        for kind in ["podAffinity", "podAntiAffinity"] {
            if new["affinity"][kind] != old["affinity"][kind] {
                copy(expected, old, "affinity");
            }
        }
    }
}

/// Faults of an update through `/resize`.
pub(super) fn resize(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("spec");
    let before = super::qos::class(&old["spec"]);
    if super::qos::class(&new["spec"]) != before {
        causes.invalid(&at, &before.into(), "Pod QOS Class may not change as a result of resizing");
    }
    for (mine, theirs) in
        items(&new["spec"]["containers"]).iter().zip(items(&old["spec"]["containers"]))
    {
        let other = |list: &str| {
            let keys = members(&mine["resources"][list])
                .chain(members(&theirs["resources"][list]))
                .map(|(k, _)| k);
            let mut keys = keys.filter(|k| !matches!(k.as_str(), "cpu" | "memory"));
            keys.any(|k| mine["resources"][list][k] != theirs["resources"][list][k])
        };
        if other("requests") || other("limits") {
            causes.forbidden(&at, "only cpu and memory resources are mutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "a", "image": "x:1"}], "restartPolicy": "Always",
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}})
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), expected: &[&str]) {
        let mut new = pod();
        change(&mut new["spec"]);
        let mut causes = Causes::default();
        spec(&mut causes, &new, &pod());
        let fields: Vec<&str> = causes.0.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn images_and_more_tolerations_may_change() {
        check(|s| s["containers"][0]["image"] = "x:2".into(), &[]);
        check(|s| s["activeDeadlineSeconds"] = 5.into(), &[]);
        check(|s| s["tolerations"][0]["tolerationSeconds"] = 5.into(), &[]);
        check(|s| s["tolerations"] = json!([]), &["spec.tolerations"]);
    }

    #[test]
    fn nothing_else_may() {
        check(|s| s["restartPolicy"] = "Never".into(), &["spec"]);
        check(|s| s["nodeSelector"] = json!({"a": "b"}), &["spec"]);
        check(|s| s["containers"] = json!([]), &["spec.containers"]);
        check(|s| s["schedulingGates"] = json!([{"name": "g"}]), &["spec.schedulingGates[0].name"]);
    }

    #[test]
    fn a_gated_pod_may_be_narrowed() {
        let mut old = pod();
        old["spec"]["schedulingGates"] = json!([{"name": "g"}]);
        let mut new = old.clone();
        new["spec"]["nodeSelector"] = json!({"disk": "ssd"});
        let mut causes = Causes::default();
        spec(&mut causes, &new, &old);
        assert!(causes.0.is_empty(), "{:?}", causes.0);
        let mut other = new.clone();
        other["spec"]["nodeSelector"] = json!({"disk": "hdd"});
        spec(&mut causes, &other, &new);
        assert_eq!(causes.0[0].field, "spec.nodeSelector");
    }
}
