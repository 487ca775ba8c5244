//! Pods.

mod container;
pub(crate) mod defaults;
mod placement;
mod qos;
mod resources;
mod security;
mod update;
pub(crate) mod validate;
mod volume;
mod warnings;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, copy, default, is_empty, items, items_mut, part, text};
use super::{Ctx, Strategy};
use crate::registry::Selectable;
use crate::status::ApiError;
use crate::write::now;

pub(crate) use placement::{node_selector, tolerations};
pub(crate) use resources::{amount, known_name, overhead};
pub(crate) use update::differences;
pub(crate) use volume::{host_path, nfs};

/// Strategy of `pods`.
pub(crate) struct Pods;

impl Strategy for Pods {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        defaults::merge_label_keys(obj);
        obj["status"] = json!({"phase": "Pending", "qosClass": qos::class(&obj["spec"])});
        if !items(&obj["spec"]["schedulingGates"]).is_empty() {
            obj["status"]["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": null,
                "lastTransitionTime": now(),
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        match subresource {
            Some("status") => {
                copy(&mut obj["metadata"], &old["metadata"], "ownerReferences");
                super::check::ensure(obj, "status");
                if is_empty(&obj["status"]["qosClass"]) {
                    copy(&mut obj["status"], &old["status"], "qosClass");
                }
                same_addresses(&mut obj["status"]);
            }
            Some("resize") => *obj = with_resources(old, obj),
            Some("ephemeralcontainers") => {
                let mut next = old.clone();
                copy(&mut next["spec"], &obj["spec"], "ephemeralContainers");
                copy(&mut next["metadata"], &obj["metadata"], "resourceVersion");
                *obj = next;
            }
            None | Some(_) => (),
        }
        Ok(())
    }

    fn default(&self, obj: &mut Value) {
        defaults::template(obj);
        defaults::pod(obj);
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        match (subresource, old) {
            (Some("status"), _) => {
                let node = &obj["status"]["nominatedNodeName"];
                let field = At::new("status");
                causes.subdomain(&field.field("nominatedNodeName"), node);
            }
            (Some("resize"), Some(old)) => {
                validate::spec(&mut causes, &at, &obj["spec"]);
                update::resize(&mut causes, obj, old);
            }
            (Some("ephemeralcontainers"), _) => validate::spec(&mut causes, &at, &obj["spec"]),
            (None, None) => {
                validate::spec(&mut causes, &at, &obj["spec"]);
                validate::new_pod(&mut causes, obj);
            }
            (None, Some(old)) => {
                let faults_before = {
                    let mut before = Causes::default();
                    update::spec(&mut before, obj, old);
                    before
                };
                if faults_before.0.is_empty() {
                    validate::spec(&mut causes, &at, &obj["spec"]);
                }
                causes.0.extend(faults_before.0);
                causes.0.extend(late_finalizers(obj, old));
            }
            (Some(_), _) => (),
        }
        causes.0
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        warnings::spec(&At::new("spec"), &obj["spec"])
    }

    fn selectable(&self) -> Vec<Selectable> {
        let plain = [
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.nominatedNodeName",
            "status.phase",
            "status.podIP",
        ];
        let mut fields: Vec<Selectable> = plain.into_iter().map(Selectable::new).collect();
        fields.push(Selectable::new("spec.hostNetwork").or("false"));
        fields
    }

    fn counts_generation(&self) -> bool {
        true
    }

    fn grace_seconds(&self, obj: &Value, asked: Option<i64>) -> Option<i64> {
        let finished = matches!(text(&obj["status"], "phase"), "Succeeded" | "Failed");
        if text(&obj["spec"], "nodeName").is_empty() || finished {
            return Some(0);
        }
        let own = obj["spec"]["terminationGracePeriodSeconds"].as_i64();
        let seconds = asked.or(own).unwrap_or(30);
        Some(if seconds < 0 { 1 } else { seconds })
    }
}

/// Upstream checks the metadata of pods twice, and reports this fault twice.
fn late_finalizers(obj: &Value, old: &Value) -> Option<Cause> {
    if old["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let before = items(&old["metadata"]["finalizers"]);
    let new = items(&obj["metadata"]["finalizers"]).iter().filter(|f| !before.contains(f));
    let shown: Vec<String> = new.map(|f| f.to_string()).collect();
    (!shown.is_empty()).then(|| {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            shown.join(", ")
        );
        Cause::forbidden("metadata.finalizers", &why)
    })
}

/// The pod's first address is also the first of its list.
fn same_addresses(status: &mut Value) {
    let first = text(status, "podIP").to_owned();
    let listed = items(&status["podIPs"]).first().map(|e| text(e, "ip").to_owned());
    match listed {
        Some(listed) if first.is_empty() => status["podIP"] = listed.into(),
        None if !first.is_empty() => default(status, "podIPs", json!([{"ip": first}])),
        _ => (),
    }
}

/// The old pod with the resources of the new one's containers.
fn with_resources(old: &Value, new: &Value) -> Value {
    let mut next = old.clone();
    copy(&mut next["metadata"], &new["metadata"], "resourceVersion");
    for list in ["initContainers", "containers"] {
        for container in items_mut(&mut next["spec"], list) {
            let name = container["name"].clone();
            let theirs = items(&new["spec"][list]).iter().find(|c| c["name"] == name);
            if let Some(theirs) = theirs {
                copy(container, theirs, "resources");
                copy(container, theirs, "resizePolicy");
            }
        }
    }
    copy(&mut next["spec"], &new["spec"], "resources");
    next
}

/// Strategy of `podtemplates`.
pub(crate) struct Templates;

impl Strategy for Templates {
    fn default(&self, obj: &mut Value) {
        template_default(obj);
    }

    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        template(&mut causes, &At::new("template"), &obj["template"]);
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Defaults of the `template` of a workload's spec.
pub(crate) fn template_default(spec: &mut Value) {
    if let Some(template) = part(spec, "template") {
        default(template, "metadata", json!({}));
        defaults::template(template);
    }
}

/// What is a bad idea in the template of a workload.
pub(crate) fn template_warnings(obj: &Value) -> Vec<String> {
    let at = At::new("spec");
    let at = at.field("template");
    warnings::spec(&at.field("spec"), &obj["spec"]["template"]["spec"])
}

/// What is wrong with a pod template.
pub(crate) fn template(causes: &mut Causes, at: &At<'_>, template: &Value) {
    let meta = at.field("metadata");
    causes.labels(&meta.field("labels"), &template["metadata"]["labels"]);
    for (key, _) in super::check::members(&template["metadata"]["annotations"]) {
        causes.faults(
            &meta.field("annotations"),
            key,
            super::words::qualified(&key.to_lowercase()),
        );
    }
    validate::spec(causes, &at.field("spec"), &template["spec"]);
    if !is_empty(&template["spec"]["ephemeralContainers"]) {
        let spec = at.field("spec");
        causes.forbidden(
            &spec.field("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed() {
        let mut status = json!({"podIP": "10.0.0.1"});
        same_addresses(&mut status);
        assert_eq!(status["podIPs"], json!([{"ip": "10.0.0.1"}]));
        let mut status = json!({"podIPs": [{"ip": "10.0.0.1"}]});
        same_addresses(&mut status);
        assert_eq!(status["podIP"], "10.0.0.1");
    }
}
