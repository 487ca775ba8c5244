//! Pods.

mod annotations;
mod container;
pub(crate) mod defaults;
mod env;
mod mounts;
mod placement;
mod probe;
mod projected;
mod qos;
mod resize;
mod resources;
mod security;
mod status;
pub(crate) mod update;
pub(crate) mod validate;
mod volume;
mod warnings;
mod windows;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, copy, default, is_empty, items, items_mut, part, text};
use super::{Ctx, Strategy};
use crate::registry::Selectable;
use crate::status::ApiError;
use crate::write::now;

pub(crate) use placement::{node_selector, taint_effect, tolerations};
pub(crate) use resources::{
    amount, container_name, is_extended, known_name, may_be_overcommitted, overhead,
};
pub(crate) use security::privileged;
pub(crate) use update::differences;
pub(crate) use volume::template_metadata;

/// Where a pod spec is.
#[derive(Clone, Copy)]
pub(crate) enum Shape<'a> {
    /// In a pod, with its metadata.
    Pod(&'a Value),
    /// In a template of pods.
    Template,
}

impl<'a> Shape<'a> {
    const fn is_pod(self) -> bool {
        matches!(self, Shape::Pod(_))
    }

    /// The name of the pod; empty for a template.
    fn name(self) -> &'a str {
        match self {
            Shape::Pod(metadata) => text(metadata, "name"),
            Shape::Template => "",
        }
    }

    /// Whether a node agent made the pod from a file.
    fn is_mirror(self) -> bool {
        matches!(self, Shape::Pod(metadata) if !metadata["annotations"]["kubernetes.io/config.mirror"].is_null())
    }
}

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
                copy(&mut next["metadata"], &obj["metadata"], "managedFields");
                *obj = next;
            }
            None | Some(_) => (),
        }
        Ok(())
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        &["deletionTimestamp", "ownerReferences"]
    }

    fn default(&self, obj: &mut Value) {
        defaults::template(obj);
        defaults::pod(obj);
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        match (subresource, old) {
            (Some("status"), Some(old)) => {
                annotations::update(&mut causes, obj, old);
                status::update(&mut causes, obj, old);
            }
            (Some("resize"), Some(old)) => {
                validate::pod(&mut causes, obj);
                resize::update(&mut causes, obj, old);
            }
            (Some("ephemeralcontainers"), Some(old)) => {
                validate::pod(&mut causes, obj);
                ephemeral_update(&mut causes, obj, old);
            }
            (None, None) => {
                validate::pod(&mut causes, obj);
                validate::new_pod(&mut causes, obj);
            }
            (None, Some(old)) => {
                validate::pod(&mut causes, obj);
                annotations::update(&mut causes, obj, old);
                let at = At::new("metadata");
                let at = at.field("annotations");
                annotations::all(&mut causes, &obj["metadata"], &obj["spec"], &at);
                update::spec(&mut causes, obj, old);
            }
            _ => (),
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        name_warning(obj, old, "the Pod's hostname")
            .into_iter()
            .chain(warnings::all("", obj))
            .collect()
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
            "status.podIPs",
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

/// The pod's first address is also the first of its list.
fn same_addresses(status: &mut Value) {
    let first = text(status, "podIP").to_owned();
    let listed = items(&status["podIPs"]).first().map(|e| text(e, "ip").to_owned());
    match listed {
        Some(listed) if first.is_empty() => status["podIP"] = listed.into(),
        None if !first.is_empty() => default(status, "podIPs", json!([{"ip": first}])),
        // If they differ, the single one counts.
        Some(listed) if listed != first => status["podIPs"] = json!([{"ip": first}]),
        _ => (),
    }
}

/// Ephemeral containers stay as they are; others may join them.
fn ephemeral_update(causes: &mut Causes, new: &Value, old: &Value) {
    if !new["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        *causes = Causes::default();
        return causes.forbidden(&At::new(""), "static pods do not support ephemeral containers");
    }
    let at = At::new("spec");
    let at = at.field("ephemeralContainers");
    for container in items(&old["spec"]["ephemeralContainers"]) {
        let name = text(container, "name");
        let mut others = items(&new["spec"]["ephemeralContainers"]).iter();
        let verb = match others.find(|other| text(other, "name") == name) {
            None => "removed",
            Some(other) if other != container => "changed",
            Some(_) => continue,
        };
        let fault = format!("existing ephemeral containers {name:?} may not be {verb}\n");
        causes.forbidden(&at, &fault);
    }
}

/// The old pod with the resources of the new one's containers; other containers are left to validation.
fn with_resources(old: &Value, new: &Value) -> Value {
    const LISTS: [&str; 2] = ["initContainers", "containers"];
    let names = |pod: &Value, list: &str| -> Vec<Value> {
        items(&pod["spec"][list]).iter().map(|container| container["name"].clone()).collect()
    };
    if LISTS.iter().any(|list| names(old, list).len() != names(new, list).len()) {
        return new.clone();
    }
    let mut next = old.clone();
    for field in ["resourceVersion", "managedFields"] {
        copy(&mut next["metadata"], &new["metadata"], field);
    }
    for list in LISTS {
        if names(old, list) != names(new, list) {
            copy(&mut next["spec"], &new["spec"], list);
            continue;
        }
        let theirs = items(&new["spec"][list]);
        for (container, theirs) in items_mut(&mut next["spec"], list).zip(theirs) {
            copy(container, theirs, "resources");
            copy(container, theirs, "resizePolicy");
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

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(obj, old, "template")
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

/// An object without labels has those of its template.
pub(crate) fn template_labels(obj: &mut Value) {
    let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
    if is_empty(&obj["metadata"]["labels"]) && !is_empty(&labels) {
        super::check::ensure(obj, "metadata").insert("labels".to_owned(), labels);
    }
}

/// What is a bad idea in the template at a path, unless nothing but metadata has changed.
pub(crate) fn template_warnings(obj: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let generation = |object: &Value| object["metadata"]["generation"].as_i64();
    if old.is_some_and(|old| generation(old) == generation(obj)) {
        return Vec::new();
    }
    let template = obj.pointer(&format!("/{}", path.replace('.', "/")));
    warnings::all(&format!("{path}."), template.unwrap_or(&Value::Null))
}

/// As [`template_warnings`], of a type whose pods are named by it.
pub(crate) fn workload_warnings(obj: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let name = name_warning(obj, old, "Pod names and hostnames");
    name.into_iter().chain(template_warnings(obj, old, path)).collect()
}

/// A new object's name makes names of hosts, which are labels.
fn name_warning(obj: &Value, old: Option<&Value>, used: &str) -> Option<String> {
    let faults = super::words::label(text(&obj["metadata"], "name"));
    (old.is_none() && !faults.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        )
    })
}

/// What is wrong with a pod template.
pub(crate) fn template(causes: &mut Causes, at: &At<'_>, template: &Value) {
    let (metadata, spec) = (&template["metadata"], &template["spec"]);
    let annotations_at = at.field("annotations");
    causes.labels(&at.field("labels"), &metadata["labels"]);
    causes.annotations(&annotations_at, &metadata["annotations"]);
    annotations::all(causes, metadata, spec, &annotations_at);
    let spec_at = at.field("spec");
    validate::spec(causes, &spec_at, spec, Shape::Template);
    annotations::fit_fields(causes, metadata, spec, &spec_at);
    if !is_empty(&spec["ephemeralContainers"]) {
        let detail = "ephemeral containers not allowed in pod template";
        causes.forbidden(&spec_at.field("ephemeralContainers"), detail);
    }
}

/// What is wrong with the annotations of a template that are about its pods.
pub(crate) fn template_annotations(causes: &mut Causes, at: &At<'_>, template: &Value) {
    annotations::all(causes, &template["metadata"], &template["spec"], at);
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
