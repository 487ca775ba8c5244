//! What is wrong with a horizontal pod autoscaler of either version.

use schema::Cause;
use serde_json::Value;

use super::super::check::{At, Causes, is_empty, items, nano, shown, text};
use super::super::pod;

/// Kinds of metrics in the order in which upstream looks at them, with their fields.
const KINDS: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// Longest period of a policy, in seconds.
const PERIOD: i64 = 1800;
/// Longest window of stabilization, in seconds.
const WINDOW: i64 = 3600;

/// Everything that is wrong; `old` is there on updates.
pub(super) fn autoscaler(
    obj: &Value,
    old: Option<&Value>,
    subresource: Option<&str>,
) -> Vec<Cause> {
    let mut causes = Causes::default();
    if subresource.is_some() {
        let at = At::new("status");
        for field in ["currentReplicas", "desiredReplicas"] {
            causes.not_negative(&at.field(field), &obj["status"][field]);
        }
        return causes.0;
    }
    let (spec, at) = (&obj["spec"], At::new("spec"));
    replicas(&mut causes, &at, spec);
    let target = &spec["scaleTargetRef"];
    let before = old.map(|old| api_version(&old["spec"]["scaleTargetRef"]));
    let bad_before = before.as_ref().is_some_and(Result::is_err);
    reference(&mut causes, &at.field("scaleTargetRef"), target, bad_before);
    // The core group has nothing that scales.
    if api_version(target) == Ok("") && !matches!(before, Some(Ok("") | Err(_))) {
        let at = at.field("scaleTargetRef");
        let version = text(target, "apiVersion").into();
        causes.invalid(&at.field("apiVersion"), &version, "apiVersion must specify API group");
    }
    let list = at.field("metrics");
    if spec["minReplicas"] == 0 && !scales_to_zero(spec) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        causes.forbidden(&list, detail);
    }
    // The one metric that the older version names is what the newer one has in its list.
    if let Some(percent) = spec["targetCPUUtilizationPercentage"].as_i64().filter(|n| *n < 1) {
        let at = list.index(0);
        let at = at.field("resource");
        let at = at.field("target");
        causes.invalid(&at.field("averageUtilization"), &percent.into(), "must be greater than 0");
    }
    for (n, metric) in items(&spec["metrics"]).iter().enumerate() {
        self::metric(&mut causes, &list.index(n), metric);
    }
    let at = at.field("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        rules(&mut causes, &at.field(direction), &spec["behavior"][direction]);
    }
    causes.0
}

/// Whether there is something to scale by while there are no pods.
fn scales_to_zero(spec: &Value) -> bool {
    items(&spec["metrics"]).iter().any(|m| matches!(text(m, "type"), "Object" | "External"))
}

fn replicas(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let (least, most) = (&spec["minReplicas"], &spec["maxReplicas"]);
    if least.as_i64().is_some_and(|n| n < 1) {
        causes.invalid(&at.field("minReplicas"), least, "must be greater than or equal to 1");
    }
    let at = at.field("maxReplicas");
    let n = most.as_i64().unwrap_or_default();
    if n == 0 {
        causes.required(&at, "must be set and greater than 0");
    } else if n < 0 {
        causes.invalid(&at, most, "must be greater than or equal to 1");
    }
    if least.as_i64().is_some_and(|least| n < least) {
        causes.invalid(&at, &n.into(), "must be greater than or equal to `minReplicas`");
    }
}

/// The group of an `apiVersion`.
fn api_version(reference: &Value) -> Result<&str, String> {
    let version = text(reference, "apiVersion");
    match version.split('/').collect::<Vec<_>>().as_slice() {
        [group, _] => Ok(group),
        [_] => Ok(""),
        _ => Err(format!("unexpected GroupVersion string: {version}")),
    }
}

fn reference(causes: &mut Causes, at: &At<'_>, reference: &Value, any_version: bool) {
    for field in ["kind", "name"] {
        if causes.present(&at.field(field), &reference[field], "") {
            causes.path_segment(&at.field(field), &reference[field]);
        }
    }
    if let Err(fault) = api_version(reference)
        && !any_version
    {
        causes.invalid(&at.field("apiVersion"), &reference["apiVersion"], &fault);
    }
}

fn metric(causes: &mut Causes, at: &At<'_>, metric: &Value) {
    let supported = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = text(metric, "type");
    let known = supported.contains(&kind);
    if kind.is_empty() {
        causes.required(&at.field("type"), "must specify a metric source type");
    }
    let given: Vec<&str> =
        KINDS.iter().map(|(_, field)| *field).filter(|f| !metric[*f].is_null()).collect();
    if let Some(first) = given.first() {
        source(causes, &at.field(first), &metric[*first], first);
    }
    let expected = KINDS.iter().find(|(name, _)| *name == kind).map_or("", |(_, field)| *field);
    if known && metric[expected].is_null() {
        let detail = "must populate information for the given metric source";
        causes.required(&at.field(expected), detail);
    }
    if !known {
        // Upstream says it at the beginning, and again at the end.
        for _ in 0..2 {
            causes.not_supported(&at.field("type"), &kind.into(), &supported);
        }
    }
    for other in given.iter().filter(|f| given.len() != 1 && **f != expected) {
        causes.forbidden(&at.field(other), "must populate the given metric source only");
    }
}

fn source(causes: &mut Causes, at: &At<'_>, source: &Value, kind: &str) {
    let of_resource = kind.ends_with("esource");
    if of_resource {
        let name = &source["name"];
        let there = causes.present(&at.field("name"), name, "must specify a resource name");
        if kind == "containerResource" {
            if there {
                pod::container_name(causes, &at.field("name"), text(source, "name"));
            }
            let container = &source["container"];
            if causes.present(&at.field("container"), container, "must specify a container") {
                causes.label(&at.field("container"), container);
            }
        }
    } else {
        if kind == "object" {
            reference(causes, &at.field("describedObject"), &source["describedObject"], false);
        }
        let at = at.field("metric");
        let name = &source["metric"]["name"];
        if causes.present(&at.field("name"), name, "must specify a metric name") {
            causes.path_segment(&at.field("name"), name);
        }
    }
    let target = &source["target"];
    let at = at.field("target");
    self::target(causes, &at, target);
    let given = |field: &str| !target[field].is_null();
    let (value, average, percent) =
        (given("value"), given("averageValue"), given("averageUtilization"));
    match kind {
        "object" if !value && !average => {
            let detail = "must set either a target value or averageValue";
            causes.required(&at.field("averageValue"), detail);
        }
        "external" if !value && !average => {
            let detail = "must set either a target value for metric or a per-pod target";
            causes.required(&at.field("averageValue"), detail);
        }
        "external" if value && average => {
            let detail = "may not set both a target value for metric and a per-pod target";
            causes.forbidden(&at.field("value"), detail);
        }
        "pods" if !average => {
            let detail = "must specify a positive target averageValue";
            causes.required(&at.field("averageValue"), detail);
        }
        _ if of_resource && !percent && !average => {
            let detail = "must set either a target raw value or a target utilization";
            causes.required(&at.field("averageUtilization"), detail);
        }
        _ if of_resource && percent && average => {
            let detail = "may not set both a target raw value and a target utilization";
            causes.forbidden(&at.field("averageValue"), detail);
        }
        _ => (),
    }
}

fn target(causes: &mut Causes, at: &At<'_>, target: &Value) {
    let kind = text(target, "type");
    if kind.is_empty() {
        causes.required(&at.field("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        causes.invalid(&at.field("type"), &kind.into(), detail);
    }
    for field in ["value", "averageValue"] {
        let amount = &target[field];
        if !amount.is_null() && nano(amount) <= 0 {
            causes.invalid(&at.field(field), amount, "must be positive");
        }
    }
    let percent = &target["averageUtilization"];
    causes.positive(&at.field("averageUtilization"), percent);
}

fn rules(causes: &mut Causes, at: &At<'_>, rules: &Value) {
    if rules.is_null() {
        return;
    }
    let (window_at, window) =
        (at.field("stabilizationWindowSeconds"), &rules["stabilizationWindowSeconds"]);
    match window.as_i64() {
        Some(n) if n < 0 => {
            causes.invalid(&window_at, window, "must be greater than or equal to zero");
        }
        Some(n) if n > WINDOW => {
            let why = format!("must be less than or equal to {WINDOW}");
            causes.invalid(&window_at, window, &why);
        }
        _ => (),
    }
    causes.one_of(&at.field("selectPolicy"), &rules["selectPolicy"], &["Disabled", "Max", "Min"]);
    let list = at.field("policies");
    causes.present(&list, &rules["policies"], "must specify at least one Policy");
    for (n, policy) in items(&rules["policies"]).iter().enumerate() {
        let at = list.index(n);
        let kind = text(policy, "type").into();
        causes.one_of(&at.field("type"), &kind, &["Percent", "Pods"]);
        for field in ["value", "periodSeconds"] {
            let n = policy[field].as_i64().unwrap_or_default();
            if n <= 0 {
                causes.invalid(&at.field(field), &n.into(), "must be greater than zero");
            }
        }
        let period = &policy["periodSeconds"];
        if period.as_i64().is_some_and(|n| n > PERIOD) {
            let why = format!("must be less than or equal to {PERIOD}");
            causes.invalid(&at.field("periodSeconds"), period, &why);
        }
    }
    let tolerance = &rules["tolerance"];
    if !is_empty(tolerance) && nano(tolerance) < 0 {
        let detail = "must be greater than or equal to 0";
        causes.invalid(&at.field("tolerance"), &shown(tolerance), detail);
    }
}

#[test]
fn rules_have_bounds() {
    use serde_json::json;
    let mut causes = Causes::default();
    let bad = json!({"stabilizationWindowSeconds": 9999, "selectPolicy": "Mid", "policies": [{"type": "X", "value": 0, "periodSeconds": 2000}]});
    rules(&mut causes, &At::new("r"), &bad);
    assert_eq!(causes.0.len(), 5);
}

#[test]
fn a_metric_has_its_source_alone() {
    use serde_json::json;
    let mut causes = Causes::default();
    let target = json!({"type": "Value", "value": "1"});
    let metric = json!({"type": "Pods", "object": {"describedObject": {"kind": "K", "name": "n"}, "metric": {"name": "m"}, "target": target}});
    self::metric(&mut causes, &At::new("m"), &metric);
    let fields: Vec<&str> = causes.0.iter().map(|c| c.field.as_str()).collect();
    assert_eq!(fields, ["m.pods"]);
}
