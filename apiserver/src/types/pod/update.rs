//! What may change in a pod that exists.

use serde_json::Value;

use crate::types::check::{At, Causes, copy, items, items_mut, members, text};

const ONLY_THESE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Faults of an update of the pod itself.
pub(super) fn spec(causes: &mut Causes, new: &Value, old: &Value) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let at = At::new("spec");
    for list in ["containers", "initContainers"] {
        let at = at.field(list);
        if items(&new[list]).len() != items(&old[list]).len() {
            return causes.forbidden(&at, "pod updates may not add or remove containers");
        }
        for (n, container) in items(&new[list]).iter().enumerate() {
            let at = at.index(n);
            causes.present(&at.field("image"), &container["image"], "");
            super::container::image(causes, &at, container);
        }
    }
    if !deadline(causes, new, old) {
        return;
    }
    let tolerations = at.field("tolerations");
    if kept_tolerations(new, old) {
        super::placement::tolerations(causes, &tolerations, &new["tolerations"]);
    } else {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        causes.forbidden(&tolerations, detail);
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

/// Whether the rest of an update is still worth a look.
fn deadline(causes: &mut Causes, new: &Value, old: &Value) -> bool {
    let at = At::new("spec");
    let at = at.field("activeDeadlineSeconds");
    let now = &new["activeDeadlineSeconds"];
    match (old["activeDeadlineSeconds"].as_i64(), now.as_i64()) {
        (_, Some(seconds)) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            causes.between(&at, now, 0, i64::from(i32::MAX));
            return false;
        }
        (Some(before), Some(seconds)) if seconds > before => {
            causes.invalid(&at, now, "must be less than or equal to previous value");
            return false;
        }
        (Some(_), None) => {
            let detail = "must not update from a positive integer to nil value";
            causes.invalid(&at, &Value::Null, detail);
        }
        _ => (),
    }
    true
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
    let nodes = |spec: &Value| spec["affinity"]["nodeAffinity"].clone();
    if nodes(new) != nodes(old) {
        let at = at.field("affinity");
        node_affinity(causes, &at.field("nodeAffinity"), &nodes(new), &nodes(old));
        // The other kinds of affinity stay as they are.
        let others = |spec: &Value| {
            let kinds = ["podAffinity", "podAntiAffinity"];
            kinds.map(|kind| spec["affinity"].get(kind).cloned())
        };
        if others(new) == others(old) {
            copy(expected, new, "affinity");
        }
    }
}

/// Terms of a node affinity that is there may only get further requirements.
fn node_affinity(causes: &mut Causes, at: &At<'_>, new: &Value, old: &Value) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let (before, now) = (&old[REQUIRED]["nodeSelectorTerms"], &new[REQUIRED]["nodeSelectorTerms"]);
    if items(before).is_empty() {
        return;
    }
    let at = at.field(REQUIRED);
    let at = at.field("nodeSelectorTerms");
    if items(before).len() != items(now).len() {
        let fault = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return causes.invalid(&at, now, fault);
    }
    for (n, (before, now)) in items(before).iter().zip(items(now)).enumerate() {
        let kept = |list: &str| items(&now[list]).starts_with(items(&before[list]));
        let was_empty =
            ["matchExpressions", "matchFields"].iter().all(|list| items(&before[*list]).is_empty());
        let changed = was_empty && before != now;
        if changed || !["matchExpressions", "matchFields"].into_iter().all(kept) {
            let fault = "only additions are allowed (no mutations or deletions)";
            causes.invalid(&at.index(n), now, fault);
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
