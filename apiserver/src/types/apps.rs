//! Deployments, replica sets, replication controllers, stateful sets, daemon sets and controller revisions.

use schema::Cause;
use serde_json::{Value, json};

use super::check::{
    At, Causes, copy, default, ensure, is_empty, items, items_mut, members, part, percent, text,
};
use super::{Ctx, Strategy, pod, storage, words};
use crate::registry::Selectable;
use crate::status::ApiError;

/// Whether a label selector selects nothing, for lack of requirements.
fn selects_nothing(selector: &Value) -> bool {
    is_empty(&selector["matchLabels"]) && is_empty(&selector["matchExpressions"])
}

/// Whether a label selector selects these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = members(&selector["matchLabels"]).all(|(k, v)| labels[k] == *v);
    wanted
        && items(&selector["matchExpressions"]).iter().all(|e| {
            let value = &labels[text(e, "key")];
            let listed = items(&e["values"]).contains(value);
            match text(e, "operator") {
                "In" => listed,
                "NotIn" => value.is_null() || !listed,
                "Exists" => !value.is_null(),
                "DoesNotExist" => value.is_null(),
                _ => false,
            }
        })
}

/// Selector and template, which must fit each other.
fn selector_and_template(causes: &mut Causes, spec: &Value, old: Option<&Value>) {
    let at = At::new("spec");
    let selector = &spec["selector"];
    let selector_at = at.field("selector");
    if selector.is_null() {
        causes.required(&selector_at, "");
    } else {
        causes.selector(&selector_at, selector);
        if selects_nothing(selector) {
            let detail = "empty selector is invalid for deployment";
            causes.invalid(&selector_at, selector, detail);
        }
    }
    if let Some(old) = old {
        causes.immutable(&selector_at, selector, &old["spec"]["selector"]);
    }
    let template_at = at.field("template");
    let labels = &spec["template"]["metadata"]["labels"];
    if selector.is_null() || selects_nothing(selector) || !selects(selector, labels) {
        let meta = template_at.field("metadata");
        causes.invalid(
            &meta.field("labels"),
            labels,
            "`selector` does not match template `labels`",
        );
    }
    template(causes, &template_at, &spec["template"]);
}

/// A template of pods that are always restarted.
fn template(causes: &mut Causes, at: &At<'_>, template: &Value) {
    pod::template(causes, at, template);
    let spec_at = at.field("spec");
    let policy = &template["spec"]["restartPolicy"];
    if policy.as_str().is_some_and(|p| p != "Always") {
        causes.not_supported(&spec_at.field("restartPolicy"), policy, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        causes.forbidden(
            &spec_at.field("activeDeadlineSeconds"),
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

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
        "observedGeneration",
    ] {
        causes.not_negative(&at.field(field), &status[field]);
    }
    for (part, whole) in pairs {
        let value = |field: &str| status[field].as_i64().unwrap_or_default();
        if value(part) > value(whole) {
            let fault = if *whole == "replicas" {
                "cannot be greater than status.replicas".to_owned()
            } else {
                format!("cannot be greater than {whole}")
            };
            causes.invalid(&at.field(part), &status[*part], &fault);
        }
    }
}

/// Whether the number or percentage is zero.
fn is_none(value: &Value) -> bool {
    match value {
        Value::String(text) => percent(text) == Some(0),
        Value::Null => true,
        other => other.as_i64() == Some(0),
    }
}

/// Strategy of `deployments`.
pub(super) struct Deployments;

impl Strategy for Deployments {
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
        selector_and_template(&mut causes, spec, old);
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        pod::template_warnings(obj)
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn rollout(causes: &mut Causes, at: &At<'_>, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    let at = at.field("rollingUpdate");
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
        _ => (),
    }
}

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
        selector_and_template(&mut causes, spec, old);
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        pod::template_warnings(obj)
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
        if !is_empty(&labels) {
            if is_empty(&obj["spec"]["selector"]) {
                obj["spec"]["selector"] = labels.clone();
            }
            if is_empty(&obj["metadata"]["labels"]) {
                ensure(obj, "metadata").insert("labels".to_owned(), labels);
            }
        }
        if let Some(spec) = part(obj, "spec") {
            pod::template_default(spec);
        }
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
        template(&mut causes, &template_at, &spec["template"]);
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        pod::template_warnings(obj)
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `statefulsets`.
pub(super) struct StatefulSets;

impl Strategy for StatefulSets {
    fn default(&self, obj: &mut Value) {
        if let Some(status) = part(obj, "status") {
            default(status, "replicas", 0);
            default(status, "availableReplicas", 0);
        }
        let Some(spec) = part(obj, "spec") else { return };
        if text(&spec["updateStrategy"], "type") == "RollingUpdate" {
            default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
            default(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
        }
        for template in items_mut(spec, "volumeClaimTemplates") {
            storage::template_default(template);
        }
        pod::template_default(spec);
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            let pairs = [
                ("readyReplicas", "replicas"),
                ("currentReplicas", "replicas"),
                ("updatedReplicas", "replicas"),
                ("availableReplicas", "replicas"),
                ("availableReplicas", "readyReplicas"),
            ];
            counts(&mut causes, &obj["status"], &pairs);
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        not_negative(
            &mut causes,
            &at,
            spec,
            &["replicas", "minReadySeconds", "revisionHistoryLimit"],
        );
        policies(&mut causes, &at, spec);
        let claims = at.field("volumeClaimTemplates");
        for (n, claim) in items(&spec["volumeClaimTemplates"]).iter().enumerate() {
            let at = claims.index(n);
            storage::claim_spec(&mut causes, &at.field("spec"), &claim["spec"]);
        }
        match old {
            None => selector_and_template(&mut causes, spec, None),
            Some(old) => {
                let mut expected = old["spec"].clone();
                for field in [
                    "replicas",
                    "ordinals",
                    "template",
                    "updateStrategy",
                    "revisionHistoryLimit",
                    "persistentVolumeClaimRetentionPolicy",
                    "minReadySeconds",
                ] {
                    copy(&mut expected, spec, field);
                }
                if expected != *spec {
                    causes.forbidden(&at, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
                } else {
                    selector_and_template(&mut causes, spec, None);
                }
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        pod::template_warnings(obj)
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn policies(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let management = text(spec, "podManagementPolicy");
    match management {
        "" => causes.required(&at.field("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => (),
        _ => causes.invalid(
            &at.field("podManagementPolicy"),
            &management.into(),
            "must be 'OrderedReady' or 'Parallel'",
        ),
    }
    let update = &spec["updateStrategy"];
    let update_at = at.field("updateStrategy");
    match text(update, "type") {
        "" => causes.required(&update_at, ""),
        "OnDelete" => {
            if !update["rollingUpdate"].is_null() {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                causes.invalid(&update_at.field("rollingUpdate"), &update["rollingUpdate"], detail);
            }
        }
        "RollingUpdate" => {
            let at = update_at.field("rollingUpdate");
            causes.not_negative(&at.field("partition"), &update["rollingUpdate"]["partition"]);
            let most = &update["rollingUpdate"]["maxUnavailable"];
            if !most.is_null() {
                causes.count_or_percent(&at.field("maxUnavailable"), most);
                causes.at_most_all(&at.field("maxUnavailable"), most);
                if is_none(most) {
                    causes.invalid(&at.field("maxUnavailable"), most, "cannot be 0");
                }
            }
        }
        _ => causes.invalid(&update_at, update, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let retention = at.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let value = &spec["persistentVolumeClaimRetentionPolicy"][field];
        causes.one_of(&retention.field(field), value, &["Retain", "Delete"]);
    }
    let ordinals = at.field("ordinals");
    causes.not_negative(&ordinals.field("start"), &spec["ordinals"]["start"]);
    let service = text(spec, "serviceName");
    if !service.is_empty() {
        causes.faults(&at.field("serviceName"), service, words::label(service));
    }
}

/// Strategy of `daemonsets`.
pub(super) struct DaemonSets;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Strategy for DaemonSets {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = part(obj, "spec") else { return };
        if text(&spec["updateStrategy"], "type") == "RollingUpdate" {
            default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
            default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
            default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
        }
        pod::template_default(spec);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        ensure(&mut obj["metadata"], "annotations")
            .insert(TEMPLATE_GENERATION.to_owned(), "1".into());
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        if subresource.is_some() {
            return Ok(());
        }
        let before = old["metadata"]["annotations"][TEMPLATE_GENERATION]
            .as_str()
            .and_then(|n| n.parse().ok());
        let before: i64 = before.unwrap_or_default();
        let changed = obj["spec"]["template"] != old["spec"]["template"];
        let now = (before + i64::from(changed)).to_string();
        ensure(&mut obj["metadata"], "annotations")
            .insert(TEMPLATE_GENERATION.to_owned(), now.into());
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        if subresource == Some("status") {
            let at = At::new("status");
            let counted = [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "observedGeneration",
            ];
            not_negative(&mut causes, &at, &obj["status"], &counted);
            return causes.0;
        }
        let spec = &obj["spec"];
        not_negative(&mut causes, &at, spec, &["minReadySeconds", "revisionHistoryLimit"]);
        selector_and_template(&mut causes, spec, old);
        let update = &spec["updateStrategy"];
        let update_at = at.field("updateStrategy");
        match text(update, "type") {
            "OnDelete" => (),
            "RollingUpdate" => {
                let at = update_at.field("rollingUpdate");
                let (most, surge) = (
                    &update["rollingUpdate"]["maxUnavailable"],
                    &update["rollingUpdate"]["maxSurge"],
                );
                causes.count_or_percent(&at.field("maxUnavailable"), most);
                causes.count_or_percent(&at.field("maxSurge"), surge);
                causes.at_most_all(&at.field("maxUnavailable"), most);
                causes.at_most_all(&at.field("maxSurge"), surge);
                match (is_none(most), is_none(surge)) {
                    (true, true) => causes
                        .required(&at.field("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
                    (false, false) => causes.invalid(
                        &at.field("maxSurge"),
                        surge,
                        "may not be set when maxUnavailable is non-zero",
                    ),
                    _ => (),
                }
            }
            _ => causes.not_supported(&update_at, update, &["RollingUpdate", "OnDelete"]),
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        pod::template_warnings(obj)
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
        if obj["data"].is_null() {
            causes.required(&At::new("data"), "data is mandatory");
        }
        causes.not_negative(&At::new("revision"), &obj["revision"]);
        if let Some(old) = old {
            causes.immutable(&At::new("data"), &obj["data"], &old["data"]);
        }
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

    #[test]
    fn expressions_select() {
        let labels = json!({"a": "1"});
        for (operator, values, expected) in [
            ("In", json!(["1"]), true),
            ("NotIn", json!(["1"]), false),
            ("Exists", json!([]), true),
            ("DoesNotExist", json!([]), false),
        ] {
            let selector =
                json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
            assert_eq!(selects(&selector, &labels), expected, "{operator}");
        }
    }

    #[test]
    fn a_stateful_set_keeps_its_service() {
        let mut old = json!({"spec": {"serviceName": "db", "selector": {"matchLabels": {"a": "b"}}, "updateStrategy": {"type": "RollingUpdate"}, "podManagementPolicy": "Parallel",
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        StatefulSets.default(&mut old);
        let mut new = old.clone();
        new["spec"]["replicas"] = 4.into();
        assert!(StatefulSets.validate(&new, Some(&old), None).is_empty());
        new["spec"]["serviceName"] = "other".into();
        assert_eq!(StatefulSets.validate(&new, Some(&old), None)[0].field, "spec");
    }
}
