//! Deployments, replica sets, replication controllers and controller revisions; what all workloads have in common.

mod daemon_set;
mod stateful_set;
mod template;

pub(super) use daemon_set::DaemonSets;
pub(super) use stateful_set::StatefulSets;

use schema::Cause;
use schema::print::{Fields, Shown};
use serde_json::{Value, json};

use super::check::{At, Causes, default, is_empty, members, part, percent, text};
use super::{Ctx, Strategy, pod};
use crate::registry::Selectable;
use crate::status::ApiError;

fn not_negative(causes: &mut Causes, at: &At<'_>, object: &Value, fields: &[&str]) {
    for field in fields {
        causes.not_negative(&at.field(field), &object[*field]);
    }
}

/// Ready and available replicas are some of all.
fn counts(causes: &mut Causes, status: &Value, pairs: &[(&str, &str)]) {
    let at = At::new("status");
    for field in [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "updatedReplicas",
        "currentReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
        "observedGeneration",
    ] {
        causes.not_negative(&at.field(field), &status[field]);
    }
    for (part, whole) in pairs {
        let value =
            |field: &str| status[field.trim_start_matches("status.")].as_i64().unwrap_or_default();
        if value(part) > value(whole) {
            let fault = if *whole == "replicas" {
                "cannot be greater than status.replicas".to_owned()
            } else {
                format!("cannot be greater than {whole}")
            };
            causes.invalid(&at.field(part), &value(part).into(), &fault);
        }
    }
}

/// Collisions of names are only ever added.
fn collisions(causes: &mut Causes, status: &Value, old: &Value) {
    let (now, before) = (&status["collisionCount"], &old["collisionCount"]);
    if before.as_i64().is_some_and(|before| now.as_i64().is_none_or(|now| now < before)) {
        let at = At::new("status");
        let now = now.as_i64().unwrap_or_default();
        causes.invalid(&at.field("collisionCount"), &now.into(), "cannot be decremented");
    }
}

/// Whether the number or percentage is zero, as text that is neither is to upstream.
fn is_none(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let number = || text.parse().ok().map(i64::unsigned_abs);
            percent(text).or_else(number).is_none_or(|n| n == 0)
        }
        Value::Null => true,
        other => other.as_i64() == Some(0),
    }
}

/// Strategy of `deployments`.
pub(super) struct Deployments;

impl Strategy for Deployments {
    fn hidden(&self) -> &'static [&'static str] {
        &["deprecated.deployment.rollback.to"]
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        &["labels"]
    }

    fn default(&self, obj: &mut Value) {
        let Some(spec) = part(obj, "spec") else { return };
        if text(&spec["strategy"], "type") == "RollingUpdate" {
            default(&mut spec["strategy"], "rollingUpdate", json!({}));
            let rolling = &mut spec["strategy"]["rollingUpdate"];
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
        pod::template_default(spec);
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            let pairs = [
                ("updatedReplicas", "replicas"),
                ("readyReplicas", "replicas"),
                ("availableReplicas", "replicas"),
                ("availableReplicas", "readyReplicas"),
            ];
            counts(&mut causes, &obj["status"], &pairs);
            if let Some(old) = old {
                collisions(&mut causes, &obj["status"], &old["status"]);
            }
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        not_negative(
            &mut causes,
            &at,
            spec,
            &["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        );
        let deadline = &spec["progressDeadlineSeconds"];
        let ready = spec["minReadySeconds"].as_i64().unwrap_or_default();
        if deadline.as_i64().is_some_and(|d| d <= ready) {
            causes.invalid(
                &at.field("progressDeadlineSeconds"),
                deadline,
                "must be greater than minReadySeconds",
            );
        }
        rollout(&mut causes, &at.field("strategy"), &spec["strategy"]);
        template::all(&mut causes, spec, old, &template::REPLICAS);
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        pod::workload_warnings(obj, old, "spec.template")
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn rollout(causes: &mut Causes, strategy_at: &At<'_>, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    let at = strategy_at.field("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if !rolling.is_null() => {
            causes.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        "RollingUpdate" if !rolling.is_null() => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            causes.count_or_percent(&at.field("maxUnavailable"), unavailable);
            causes.count_or_percent(&at.field("maxSurge"), surge);
            if is_none(unavailable) && is_none(surge) {
                let detail = "may not be 0 when `maxSurge` is 0";
                causes.invalid(&at.field("maxUnavailable"), unavailable, detail);
            }
            causes.at_most_all(&at.field("maxUnavailable"), unavailable);
        }
        "Recreate" | "RollingUpdate" => (),
        _ => {
            let supported = ["Recreate", "RollingUpdate"];
            causes.not_supported_part(strategy_at, STRATEGY, strategy, &supported);
        }
    }
}

/// How pods are replaced, as Go shows it.
const STRATEGY: Fields = &[("type", Shown::Text), ("rollingUpdate", Shown::Struct(ROLLING))];
const ROLLING: Fields = &[("maxUnavailable", Shown::Number), ("maxSurge", Shown::Number)];

/// Strategy of `replicasets`.
pub(super) struct ReplicaSets;

impl Strategy for ReplicaSets {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = part(obj, "spec") {
            pod::template_default(spec);
        }
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            counts(&mut causes, &obj["status"], &REPLICA_COUNTS);
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        not_negative(&mut causes, &at, spec, &["replicas", "minReadySeconds"]);
        template::all(&mut causes, spec, old, &template::REPLICAS);
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        pod::workload_warnings(obj, old, "spec.template")
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

const REPLICA_COUNTS: [(&str, &str); 4] = [
    ("fullyLabeledReplicas", "replicas"),
    ("readyReplicas", "replicas"),
    ("availableReplicas", "replicas"),
    ("availableReplicas", "readyReplicas"),
];

/// Strategy of `replicationcontrollers`.
pub(super) struct ReplicationControllers;

impl Strategy for ReplicationControllers {
    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("status.replicas").or("0")]
    }

    fn default(&self, obj: &mut Value) {
        let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
        if !is_empty(&labels) && is_empty(&obj["spec"]["selector"]) {
            obj["spec"]["selector"] = labels;
        }
        if let Some(spec) = part(obj, "spec") {
            pod::template_default(spec);
        }
    }

    fn inherit(&self, obj: &mut Value) {
        pod::template_labels(obj);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"replicas": 0});
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            counts(&mut causes, &obj["status"], &REPLICA_COUNTS);
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        not_negative(&mut causes, &at, spec, &["replicas", "minReadySeconds"]);
        let selector = &spec["selector"];
        if is_empty(selector) {
            causes.required(&at.field("selector"), "");
        }
        let template_at = at.field("template");
        if spec["template"].is_null() {
            causes.required(&template_at, "");
            return causes.0;
        }
        let labels = &spec["template"]["metadata"]["labels"];
        if !members(selector).all(|(k, v)| labels[k] == *v) {
            let meta = template_at.field("metadata");
            causes.invalid(
                &meta.field("labels"),
                labels,
                "`selector` does not match template `labels`",
            );
        }
        pod::template(&mut causes, &template_at, &spec["template"]);
        template::restarted(&mut causes, &template_at, &spec["template"], &template::CONTROLLERS);
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        pod::workload_warnings(obj, old, "spec.template")
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `controllerrevisions`.
pub(super) struct Revisions;

impl Strategy for Revisions {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let data = &obj["data"];
        let at = At::new("data");
        match old {
            Some(old) => causes.immutable(&at, data, &old["data"]),
            None if data.is_null() => causes.required(&at, "data is mandatory"),
            None if !data.is_object() => causes.required(&at, "data must be a valid JSON object"),
            None => (),
        }
        causes.not_negative(&At::new("revision"), &obj["revision"]);
        causes.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(change: impl FnOnce(&mut Value)) -> Value {
        let mut obj = json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "x"}], "restartPolicy": "Always"}}}});
        change(&mut obj["spec"]);
        Deployments.default(&mut obj);
        obj
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), expected: &[&str]) {
        let old = deployment(|_| ());
        let fields: Vec<String> = Deployments
            .validate(&deployment(change), Some(&old), None)
            .into_iter()
            .map(|c| c.field)
            .collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_selector_fits_its_template_and_stays() {
        check(|_| (), &[]);
        check(|s| s["template"]["metadata"]["labels"]["more"] = "x".into(), &[]);
        check(
            |s| s["template"]["metadata"]["labels"]["app"] = "x".into(),
            &["spec.template.metadata.labels"],
        );
        check(
            |s| s["selector"]["matchLabels"]["app"] = "x".into(),
            &["spec.selector", "spec.template.metadata.labels"],
        );
    }

    #[test]
    fn a_rollout_needs_room() {
        check(
            |s| s["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": "0%"}),
            &["spec.strategy.rollingUpdate.maxUnavailable"],
        );
        check(
            |s| {
                s["strategy"]["rollingUpdate"] = json!({"maxSurge": "x%", "maxUnavailable": "101%"})
            },
            &["spec.strategy.rollingUpdate.maxSurge", "spec.strategy.rollingUpdate.maxUnavailable"],
        );
        check(
            |s| s["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}}),
            &["spec.strategy.rollingUpdate"],
        );
    }

    #[test]
    fn pods_of_a_deployment_are_always_restarted() {
        check(
            |s| s["template"]["spec"]["restartPolicy"] = "Never".into(),
            &["spec.template.spec.restartPolicy"],
        );
    }
}
