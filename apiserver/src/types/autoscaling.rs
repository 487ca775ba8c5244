//! Horizontal pod autoscalers, which two versions show.
//!
//! v2 is stored. What v1 has no field for travels in annotations.

mod validate;

use schema::Cause;
use serde_json::{Map, Value, json};

use super::check::{copy, default, ensure, is_empty, items, part, remove, text};
use super::{Conversion, Ctx, Strategy};
use crate::status::ApiError;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

/// Percent of the requested CPU that is aimed at if nothing else is said.
const CPU_PERCENT: i64 = 80;

/// Strategy of `horizontalpodautoscalers` of both versions.
pub(super) struct Autoscalers;

fn is_v1(obj: &Value) -> bool {
    text(obj, "apiVersion") == "autoscaling/v1"
}

impl Strategy for Autoscalers {
    fn default(&self, obj: &mut Value) {
        let v1 = is_v1(obj);
        let hidden = !obj["metadata"]["annotations"][METRICS].is_null();
        let Some(spec) = part(obj, "spec") else { return };
        if v1 {
            if !hidden {
                default(spec, "targetCPUUtilizationPercentage", CPU_PERCENT);
            }
            return;
        }
        if items(&spec["metrics"]).is_empty() {
            spec["metrics"] = json!([cpu_metric(&CPU_PERCENT.into())]);
        }
        if let Some(behavior) = part(spec, "behavior") {
            for (direction, window, policies) in [
                (
                    "scaleUp",
                    Some(0),
                    json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
                ),
                (
                    "scaleDown",
                    None,
                    json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
                ),
            ] {
                ensure(behavior, direction);
                let rules = &mut behavior[direction];
                default(rules, "selectPolicy", "Max");
                default(rules, "policies", policies);
                if let Some(window) = window {
                    default(rules, "stabilizationWindowSeconds", window);
                }
            }
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = if is_v1(obj) {
            json!({"currentReplicas": 0, "desiredReplicas": 0})
        } else {
            json!({"desiredReplicas": 0, "currentMetrics": null})
        };
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        validate::autoscaler(obj, old, subresource)
    }
}

fn cpu_metric(percent: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

/// The percentage, if the metric is the utilization of CPU.
fn cpu_percent(metric: &Value) -> Option<Value> {
    let resource = &metric["resource"];
    let percent = &resource["target"]["averageUtilization"];
    (text(metric, "type") == "Resource" && text(resource, "name") == "cpu" && !percent.is_null())
        .then(|| percent.clone())
}

/// Between v2, which is stored, and v1.
pub(super) struct VersionOne;

impl Conversion for VersionOne {
    fn from_stored(&self, obj: &mut Value) {
        obj["apiVersion"] = "autoscaling/v1".into();
        obj["kind"] = "HorizontalPodAutoscaler".into();
        let mut notes: Vec<(&str, String)> = Vec::new();
        if let Some(spec) = part(obj, "spec") {
            let metrics = remove(spec, "metrics").unwrap_or_default();
            let mut others = Vec::new();
            for metric in items(&metrics) {
                match cpu_percent(metric) {
                    Some(percent) if spec["targetCPUUtilizationPercentage"].is_null() => {
                        spec["targetCPUUtilizationPercentage"] = percent;
                    }
                    _ => others.push(old_metric(metric)),
                }
            }
            if !others.is_empty() {
                notes.push((METRICS, format!("[{}]", others.join(","))));
            }
            if let Some(behavior) = remove(spec, "behavior").filter(|b| !b.is_null()) {
                notes.push((BEHAVIOR, old_behavior(&behavior)));
            }
        }
        if let Some(status) = part(obj, "status") {
            default(status, "currentReplicas", 0);
            default(status, "desiredReplicas", 0);
            let current = remove(status, "currentMetrics").unwrap_or_default();
            let mut shown = Vec::new();
            for metric in items(&current) {
                let resource = &metric["resource"];
                let percent = &resource["current"]["averageUtilization"];
                if text(resource, "name") == "cpu" && !percent.is_null() {
                    status["currentCPUUtilizationPercentage"] = percent.clone();
                }
                shown.push(old_status(metric));
            }
            if !shown.is_empty() {
                notes.push((CURRENT, format!("[{}]", shown.join(","))));
            }
            if let Some(conditions) = remove(status, "conditions").filter(|c| !is_empty(c)) {
                let shown: Vec<String> = items(&conditions).iter().map(old_condition).collect();
                notes.push((CONDITIONS, format!("[{}]", shown.join(","))));
            }
        }
        for (key, note) in notes {
            ensure(&mut obj["metadata"], "annotations").insert(key.to_owned(), note.into());
        }
    }

    fn to_stored(&self, obj: &mut Value) {
        obj["apiVersion"] = "autoscaling/v2".into();
        obj["kind"] = "HorizontalPodAutoscaler".into();
        let mut note = |key: &str| -> Value {
            let Some(annotations) = part(&mut obj["metadata"], "annotations") else {
                return Value::Null;
            };
            let text = remove(annotations, key);
            if is_empty(annotations) {
                remove(&mut obj["metadata"], "annotations");
            }
            let parsed = text.as_ref().and_then(Value::as_str).map(serde_json::from_str);
            parsed.and_then(Result::ok).unwrap_or_default()
        };
        let (metrics, behavior, current, conditions) =
            (note(METRICS), note(BEHAVIOR), note(CURRENT), note(CONDITIONS));
        if let Some(spec) = part(obj, "spec") {
            let mut all: Vec<Value> = items(&metrics).iter().map(new_metric).collect();
            if let Some(percent) = remove(spec, "targetCPUUtilizationPercentage") {
                all.push(cpu_metric(&percent));
            }
            spec["metrics"] = all.into();
            if behavior.is_object() {
                spec["behavior"] = lower_keys(&behavior);
            }
        }
        if let Some(status) = part(obj, "status") {
            let mut shown: Vec<Value> = items(&current).iter().map(new_status).collect();
            if let Some(percent) = remove(status, "currentCPUUtilizationPercentage") {
                shown.retain(|m| m["resource"]["name"] != "cpu");
                shown.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
            }
            status["currentMetrics"] = if shown.is_empty() { Value::Null } else { shown.into() };
            if !is_empty(&conditions) {
                status["conditions"] = conditions;
            }
            // Written by v2 only if it is not zero.
            if status["currentReplicas"] == 0 {
                remove(status, "currentReplicas");
            }
        }
    }
}

/// Writes members in this order; absent ones are left out.
fn object(members: &[(&str, &Value)]) -> String {
    let written = members.iter().filter(|(_, v)| !v.is_null());
    let written: Vec<String> = written.map(|(k, v)| format!("\"{k}\":{v}")).collect();
    format!("{{{}}}", written.join(","))
}

/// A metric as v1's annotation has it.
fn old_metric(metric: &Value) -> String {
    let kind = text(metric, "type");
    let field = lower(kind);
    let source = &metric[&field];
    let (target, name) = (&source["target"], &source["metric"]["name"]);
    let body = match kind {
        "Resource" | "ContainerResource" => object(&[
            ("name", &source["name"]),
            ("targetAverageUtilization", &target["averageUtilization"]),
            ("targetAverageValue", &target["averageValue"]),
            ("container", &source["container"]),
        ]),
        "Pods" => object(&[
            ("metricName", name),
            ("targetAverageValue", &target["averageValue"]),
            ("selector", &source["metric"]["selector"]),
        ]),
        "Object" => object(&[
            ("target", &source["describedObject"]),
            ("metricName", name),
            ("targetValue", &target["value"]),
            ("selector", &source["metric"]["selector"]),
            ("averageValue", &target["averageValue"]),
        ]),
        _ => object(&[
            ("metricName", name),
            ("metricSelector", &source["metric"]["selector"]),
            ("targetValue", &target["value"]),
            ("targetAverageValue", &target["averageValue"]),
        ]),
    };
    format!("{{\"type\":\"{kind}\",\"{field}\":{body}}}")
}

/// A metric of v1's annotation as v2 has it.
fn new_metric(old: &Value) -> Value {
    let kind = text(old, "type");
    let field = lower(kind);
    let source = &old[&field];
    let mut target = Map::new();
    for (from, to) in [
        ("targetAverageUtilization", "averageUtilization"),
        ("targetAverageValue", "averageValue"),
        ("averageValue", "averageValue"),
        ("targetValue", "value"),
    ] {
        if !source[from].is_null() {
            target.insert(to.to_owned(), source[from].clone());
        }
    }
    let shape = ["averageUtilization", "averageValue", "value"]
        .into_iter()
        .find(|k| target.contains_key(*k));
    let shape = match shape {
        Some("averageUtilization") => "Utilization",
        Some("averageValue") => "AverageValue",
        _ => "Value",
    };
    target.insert("type".to_owned(), shape.into());
    let mut out = json!({"target": target});
    match kind {
        "Resource" | "ContainerResource" => {
            out["name"] = source["name"].clone();
            if !source["container"].is_null() {
                out["container"] = source["container"].clone();
            }
        }
        _ => {
            out["metric"] = json!({"name": source["metricName"]});
            let selector =
                if kind == "External" { &source["metricSelector"] } else { &source["selector"] };
            if !selector.is_null() {
                out["metric"]["selector"] = selector.clone();
            }
            if kind == "Object" {
                out["describedObject"] = source["target"].clone();
            }
        }
    }
    json!({"type": kind, field: out})
}

fn old_status(metric: &Value) -> String {
    let kind = text(metric, "type");
    let field = lower(kind);
    let source = &metric[&field];
    let current = &source["current"];
    let zero = Value::from("0");
    let given = |field: &str| if current[field].is_null() { &zero } else { &current[field] };
    let (name, selector) = (&source["metric"]["name"], &source["metric"]["selector"]);
    let body = match kind {
        "Resource" | "ContainerResource" => object(&[
            ("name", &source["name"]),
            ("currentAverageUtilization", &current["averageUtilization"]),
            ("currentAverageValue", given("averageValue")),
            ("container", &source["container"]),
        ]),
        "Pods" => object(&[
            ("metricName", name),
            ("currentAverageValue", given("averageValue")),
            ("selector", selector),
        ]),
        "Object" => object(&[
            ("target", &source["describedObject"]),
            ("metricName", name),
            ("currentValue", given("value")),
            ("selector", selector),
            ("averageValue", &current["averageValue"]),
        ]),
        _ => object(&[
            ("metricName", name),
            ("metricSelector", selector),
            ("currentValue", given("value")),
            ("currentAverageValue", &current["averageValue"]),
        ]),
    };
    format!("{{\"type\":\"{kind}\",\"{field}\":{body}}}")
}

fn new_status(old: &Value) -> Value {
    let kind = text(old, "type");
    let field = lower(kind);
    let source = &old[&field];
    let mut current = Map::new();
    for (from, to) in [
        ("currentAverageUtilization", "averageUtilization"),
        ("currentAverageValue", "averageValue"),
        ("averageValue", "averageValue"),
        ("currentValue", "value"),
    ] {
        if !source[from].is_null() && source[from] != "0" {
            current.insert(to.to_owned(), source[from].clone());
        }
    }
    let mut out = json!({"current": current});
    if kind.ends_with("Resource") {
        out["name"] = source["name"].clone();
        copy(&mut out, source, "container");
    } else {
        let selector = if kind == "External" { "metricSelector" } else { "selector" };
        out["metric"] = json!({"name": source["metricName"]});
        if !source[selector].is_null() {
            out["metric"]["selector"] = source[selector].clone();
        }
        if kind == "Object" {
            out["describedObject"] = source["target"].clone();
        }
    }
    json!({"type": kind, field: out})
}

/// A condition as v1's annotation has it.
fn old_condition(condition: &Value) -> String {
    let mut shown = format!(
        "{{\"type\":{},\"status\":{},\"lastTransitionTime\":{}",
        condition["type"], condition["status"], condition["lastTransitionTime"]
    );
    for field in ["reason", "message"] {
        if !is_empty(&condition[field]) {
            shown += &format!(",\"{field}\":{}", condition[field]);
        }
    }
    shown + "}"
}

/// Behavior with the member names that v1's annotation has.
fn old_behavior(behavior: &Value) -> String {
    let rules = |rules: &Value| {
        if rules.is_null() {
            return "null".to_owned();
        }
        let policies: Vec<String> = items(&rules["policies"])
            .iter()
            .map(|p| {
                format!(
                    "{{\"Type\":{},\"Value\":{},\"PeriodSeconds\":{}}}",
                    p["type"], p["value"], p["periodSeconds"]
                )
            })
            .collect();
        format!(
            "{{\"StabilizationWindowSeconds\":{},\"SelectPolicy\":{},\"Policies\":[{}],\"Tolerance\":{}}}",
            rules["stabilizationWindowSeconds"],
            rules["selectPolicy"],
            policies.join(","),
            rules["tolerance"]
        )
    };
    format!(
        "{{\"ScaleUp\":{},\"ScaleDown\":{}}}",
        rules(&behavior["scaleUp"]),
        rules(&behavior["scaleDown"])
    )
}

/// The first letter of every member in lower case; nulls are left out.
fn lower_keys(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let members = map.iter().filter(|(_, v)| !v.is_null());
            members.map(|(k, v)| (lower(k), lower_keys(v))).collect::<Map<_, _>>().into()
        }
        Value::Array(list) => list.iter().map(lower_keys).collect::<Vec<_>>().into(),
        other => other.clone(),
    }
}

fn lower(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler() -> Value {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 5, "metrics": [
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
                cpu_metric(&40.into())],
                "behavior": {"scaleUp": {"stabilizationWindowSeconds": 5, "selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}}}})
    }

    #[test]
    fn versions_convert_back_and_forth() {
        let mut obj = scaler();
        VersionOne.from_stored(&mut obj);
        assert_eq!(obj["spec"]["targetCPUUtilizationPercentage"], 40);
        assert!(text(&obj["metadata"]["annotations"], METRICS).starts_with(
            r#"[{"type":"Resource","resource":{"name":"memory","targetAverageUtilization":50}},{"type":"Pods","#
        ));
        VersionOne.to_stored(&mut obj);
        assert_eq!(obj, scaler());
    }

    #[test]
    fn defaults() {
        let mut obj =
            json!({"apiVersion": "autoscaling/v2", "spec": {"behavior": {"scaleUp": {}}}});
        Autoscalers.default(&mut obj);
        assert_eq!(obj["spec"]["metrics"][0], cpu_metric(&80.into()));
        assert_eq!(obj["spec"]["behavior"]["scaleDown"]["policies"][0]["type"], "Percent");
        let mut one = json!({"apiVersion": "autoscaling/v1", "spec": {}});
        Autoscalers.default(&mut one);
        assert_eq!(one["spec"]["targetCPUUtilizationPercentage"], 80);
    }
}
