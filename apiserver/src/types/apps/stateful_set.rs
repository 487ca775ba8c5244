//! Stateful sets.

use std::collections::BTreeSet;

use schema::Cause;
use schema::print::{Fields, Shown};
use serde_json::{Value, json};

use super::template::{self, STATEFUL_SETS};
use super::{collisions, counts, is_none, not_negative};
use crate::types::check::{At, Causes, copy, default, items, items_mut, part, remove, text};
use crate::types::{Strategy, pod, storage, words};

/// Strategy of `statefulsets`.
pub(in crate::types) struct StatefulSets;

impl Strategy for StatefulSets {
    /// Who names the strategy must say all of it.
    fn default_absent(&self, obj: &mut Value) {
        let Some(spec) = part(obj, "spec") else { return };
        if text(&spec["updateStrategy"], "type").is_empty() {
            default(spec, "updateStrategy", json!({}));
            default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        }
    }

    fn default(&self, obj: &mut Value) {
        if let Some(status) = part(obj, "status") {
            default(status, "replicas", 0);
            default(status, "availableReplicas", 0);
        }
        let Some(spec) = part(obj, "spec") else { return };
        let strategy = &mut spec["updateStrategy"];
        if text(strategy, "type") == "RollingUpdate" && !strategy["rollingUpdate"].is_null() {
            default(&mut strategy["rollingUpdate"], "partition", 0);
        }
        if let Some(ordinals) = part(spec, "ordinals") {
            default(ordinals, "start", 0);
        }
        for template in items_mut(spec, "volumeClaimTemplates") {
            storage::template_default(template);
        }
        pod::template_default(spec);
    }

    /// Behind the feature gate `MaxUnavailableStatefulSet`, which is off in 1.36.
    fn refused_fields(&self) -> &'static [&'static str] {
        &["/spec/updateStrategy/rollingUpdate/maxUnavailable"]
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        crate::write::names::label(name)
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            let pairs = [
                ("readyReplicas", "replicas"),
                ("currentReplicas", "replicas"),
                ("updatedReplicas", "replicas"),
                ("availableReplicas", "replicas"),
                ("availableReplicas", "status.readyReplicas"),
            ];
            counts(&mut causes, &obj["status"], &pairs);
            if let Some(old) = old {
                collisions(&mut causes, &obj["status"], &old["status"]);
            }
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        not_negative(&mut causes, &at, spec, &["replicas", "minReadySeconds"]);
        policies(&mut causes, &at, spec);
        selected(&mut causes, spec);
        match old {
            None => {
                let claims = at.field("volumeClaimTemplates");
                for (n, claim) in items(&spec["volumeClaimTemplates"]).iter().enumerate() {
                    let at = claims.index(n);
                    storage::claim_spec(&mut causes, &at.field("spec"), &claim["spec"]);
                }
                let service = text(spec, "serviceName");
                if !service.is_empty() {
                    causes.faults(&at.field("serviceName"), service, words::label(service));
                }
            }
            Some(old) => kept(&mut causes, &at, spec, &old["spec"]),
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = pod::template_warnings(obj, old, "spec.template");
        if obj["spec"]["revisionHistoryLimit"].as_i64().is_some_and(|limit| limit < 0) {
            warnings.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        warnings
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
        _ => {
            const ROLLING: Fields = &[("partition", Shown::Number), ("maxUnavailable", Shown::Any)];
            let fields: Fields =
                &[("type", Shown::Text), ("rollingUpdate", Shown::Struct(ROLLING))];
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            causes.invalid_part(&update_at, fields, update, detail);
        }
    }
    let retention = at.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let value = &spec["persistentVolumeClaimRetentionPolicy"][field];
        causes.one_of(&retention.field(field), value, &["Retain", "Delete"]);
    }
    let ordinals = at.field("ordinals");
    causes.not_negative(&ordinals.field("start"), &spec["ordinals"]["start"]);
}

/// What an update may not change.
fn kept(causes: &mut Causes, at: &At<'_>, spec: &Value, old: &Value) {
    let mut expected = old.clone();
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
        causes.forbidden(at, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}

/// Selector and template, as pods will have it.
fn selected(causes: &mut Causes, spec: &Value) {
    let at = At::new("spec");
    let can_select = template::selector(causes, spec, &STATEFUL_SETS);
    let template_at = at.field("template");
    if can_select {
        template::fits(causes, &template_at, spec);
        let made = made(spec);
        pod::template(causes, &template_at, &made);
        // Upstream judges these twice.
        let (annotations, meta) = (template_at.field("annotations"), &made["metadata"]);
        causes.labels(&template_at.field("labels"), &meta["labels"]);
        causes.annotations(&annotations, &meta["annotations"]);
        pod::template_annotations(causes, &annotations, &made);
    } else {
        causes.invalid(&at.field("selector"), &spec["selector"], STATEFUL_SETS.unfit);
    }
    template::restarted(causes, &template_at, &spec["template"], &STATEFUL_SETS);
}

/// The template with the volumes that claims bring, without the names that each pod gets of its own.
fn made(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims = items(&spec["volumeClaimTemplates"]);
    let Some(pod) = part(&mut template, "spec") else { return template };
    for name in ["hostname", "subdomain"] {
        remove(pod, name);
    }
    if claims.is_empty() {
        return template;
    }
    let names: BTreeSet<String> =
        claims.iter().map(|claim| text(&claim["metadata"], "name").to_owned()).collect();
    let own = items(&pod["volumes"]).iter().filter(|v| !names.contains(text(v, "name"))).cloned();
    let claimed = names
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let volumes: Vec<Value> = claimed.chain(own).collect();
    pod["volumes"] = volumes.into();
    template
}

#[cfg(test)]
mod tests {
    use super::*;

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
