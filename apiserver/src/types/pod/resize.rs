//! What may change of a pod's resources while it runs.

use serde_json::Value;

use super::qos;
use crate::types::check::{At, Causes, items, members, text};

/// Faults of an update through `/resize`.
pub(super) fn update(causes: &mut Causes, new: &Value, old: &Value) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let at = At::new("spec");
    if let Some(whole) = refusal(old) {
        *causes = Causes::default();
        return causes.forbidden(&At::new(""), whole);
    }
    let class = qos::class(before);
    if qos::class(spec) != class {
        let detail = "Pod QOS Class may not change as a result of resizing";
        causes.invalid(&at, &new["status"]["qosClass"], detail);
    }
    let running = items(&old["status"]["containerStatuses"]).iter();
    let mut running = running.filter(|status| !status["state"]["running"].is_null());
    if running.next().is_some_and(|status| status["resources"].is_null()) {
        causes.forbidden(&at, "Pod running on node without support for resize");
    }
    pod_level(causes, &at, &spec["resources"], &before["resources"]);
    if !order(causes, &at, spec, before) {
        return;
    }
    for list in ["initContainers", "containers"] {
        let list_at = at.field(list);
        for (n, (now, then)) in items(&spec[list]).iter().zip(items(&before[list])).enumerate() {
            let entry = list_at.index(n);
            let at_resources = entry.field("resources");
            removed(causes, &at_resources, &now["resources"], &then["resources"], "resource");
            let fixed = fixed(&now["resources"]) != fixed(&then["resources"])
                || now["resizePolicy"] != then["resizePolicy"]
                // As upstream: claims may come, and pods that have some are not resized any more.
                || !items(&then["resources"]["claims"]).is_empty();
            match list {
                "containers" if fixed => {
                    causes.forbidden(&at, "only cpu and memory resources are mutable");
                }
                "initContainers" => init(causes, &entry, now, then, fixed),
                _ => (),
            }
        }
    }
}

fn init(causes: &mut Causes, at: &At<'_>, now: &Value, then: &Value, fixed: bool) {
    if fixed {
        let detail = "only cpu and memory resources for init or sidecar containers are mutable";
        causes.forbidden(at, detail);
    }
    if now != then && text(now, "restartPolicy") != "Always" {
        let policies = items(&now["resizePolicy"]).iter();
        for _ in policies.filter(|policy| policy["restartPolicy"] == "RestartContainer") {
            let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            causes.forbidden(at, detail);
        }
    }
}

/// Why a pod cannot be resized at all.
fn refusal(pod: &Value) -> Option<&'static str> {
    if !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        Some("static pods cannot be resized")
    } else if pod["spec"]["os"]["name"] == "windows" {
        Some("windows pods cannot be resized")
    } else {
        None
    }
}

fn pod_level(causes: &mut Causes, at: &At<'_>, now: &Value, then: &Value) {
    let at_resources = at.field("resources");
    if !then.is_null() {
        if now.is_null() {
            return causes.forbidden(&at_resources, "pod-level resources cannot be removed");
        }
        removed(causes, &at_resources, now, then, "pod-level resource");
    }
    if fixed(now) != fixed(then) {
        causes.forbidden(at, "only cpu and memory resources are mutable at pod-level");
    }
}

fn removed(causes: &mut Causes, at: &At<'_>, now: &Value, then: &Value, what: &str) {
    for part in ["requests", "limits"] {
        if members(&then[part]).any(|(name, _)| now[part][name.as_str()].is_null()) {
            causes.forbidden(&at.field(part), &format!("{what} {part} cannot be removed"));
        }
    }
}

/// The amounts that a resize may not change.
fn fixed(resources: &Value) -> Vec<(&str, &str, &Value)> {
    let parts = ["requests", "limits"].into_iter();
    let amounts =
        parts.flat_map(|part| members(&resources[part]).map(move |(k, v)| (part, &**k, v)));
    amounts.filter(|(_, name, _)| !matches!(*name, "cpu" | "memory")).collect()
}

/// Whether the containers are the same, in the same order.
fn order(causes: &mut Causes, at: &At<'_>, new: &Value, old: &Value) -> bool {
    let n_before = causes.0.len();
    for list in ["containers", "initContainers"] {
        let at = at.field(list);
        let (now, then) = (items(&new[list]), items(&old[list]));
        if now.len() != then.len() {
            causes.forbidden(&at, &format!("{list} may not be added or removed on resize"));
            continue;
        }
        for (n, _) in now.iter().zip(then).enumerate().filter(|(_, (a, b))| a["name"] != b["name"])
        {
            let detail = format!("{list} may not be renamed or reordered on resize");
            causes.forbidden(&at.index(n).field("name"), &detail);
        }
    }
    causes.0.len() == n_before
}

#[test]
fn only_cpu_and_memory_change() {
    use serde_json::json;
    let pod = |requests: Value| json!({"spec": {"containers": [{"name": "a", "resources": {"requests": requests}}]}});
    let check = |old: Value, new: Value| {
        let mut causes = Causes::default();
        update(&mut causes, &pod(new), &pod(old));
        causes.0.into_iter().map(|c| c.field).collect::<Vec<_>>()
    };
    let mut claiming = pod(json!({"cpu": "1"}));
    claiming["spec"]["containers"][0]["resources"]["claims"] = json!([{"name": "x"}]);
    let mut causes = Causes::default();
    update(&mut causes, &claiming, &pod(json!({"cpu": "1"})));
    assert!(causes.0.is_empty());
    update(&mut causes, &claiming, &claiming);
    assert_eq!(causes.0.len(), 1);
    assert_eq!(check(json!({"cpu": "1"}), json!({"cpu": "2"})), [""; 0]);
    assert_eq!(check(json!({"cpu": "1"}), json!({"cpu": "1", "example.com/x": "1"})), ["spec"]);
    assert_eq!(
        check(json!({"cpu": "1", "memory": "1"}), json!({"cpu": "1"})),
        ["spec.containers[0].resources.requests"]
    );
}
