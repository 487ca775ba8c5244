//! Claims of persistent volumes.

use std::fmt::Arguments;

use schema::Cause;
use serde_json::{Value, json};

use super::super::check::{
    At, Causes, copy, default, ensure, is_empty, members, nano, part, remove, shown, text,
};
use super::super::{Ctx, Strategy, pod, words};
use super::{VOLUME_MODES, access_modes};
use crate::status::ApiError;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Strategy of `persistentvolumeclaims`.
pub(crate) struct Claims;

impl Strategy for Claims {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"phase": "Pending"});
        if let Some(spec) = part(obj, "spec") {
            data_source(spec, None);
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
        if subresource.is_none()
            && let Some(spec) = part(obj, "spec")
        {
            data_source(spec, Some(&old["spec"]));
        }
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        match (subresource, old) {
            (Some(_), _) => status(&mut causes, &obj["status"]),
            (None, old) => {
                claim_spec(&mut causes, &At::new("spec"), &obj["spec"]);
                if let Some(old) = old {
                    claim_update(&mut causes, obj, old);
                }
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if !obj["metadata"]["annotations"][CLASS_ANNOTATION].is_null() {
            warnings.push(format!("metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"));
        }
        warnings.extend(claim_warnings(format_args!("spec"), &obj["spec"]));
        warnings
    }
}

/// Warnings of the spec of a claim, or of a claim template, at `at`.
pub(crate) fn claim_warnings(at: Arguments<'_>, spec: &Value) -> Vec<String> {
    let parts = ["requests", "limits"].into_iter();
    let fractional = parts.filter_map(|part| {
        let amount = &spec["resources"][part]["storage"];
        (nano(amount) % 1_000_000_000 != 0).then(|| {
            format!(
                "{at}.resources.{part}[storage]: fractional byte value {} is invalid, must be an integer",
                shown(amount)
            )
        })
    });
    fractional.collect()
}

/// Keeps the two names of the volume's source in step, and drops what only the newer one may name.
fn data_source(spec: &mut Value, old: Option<&Value>) {
    let in_use = |field: &str| old.is_some_and(|old| !old[field].is_null());
    let other_namespace = !is_empty(&spec["dataSourceRef"]["namespace"]);
    if other_namespace && !in_use("dataSourceRef") {
        remove(spec, "dataSourceRef");
    }
    let known = matches!(
        (text(&spec["dataSource"], "apiGroup"), text(&spec["dataSource"], "kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    let decided = in_use("dataSource") || in_use("dataSourceRef");
    if !decided && spec["dataSourceRef"].is_null() && !known {
        remove(spec, "dataSource");
    }
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    if source.is_object() && reference.is_null() {
        spec["dataSourceRef"] = source;
    } else if source.is_null() && reference.is_object() && is_empty(&reference["namespace"]) {
        spec["dataSource"] = reference;
        remove(&mut spec["dataSource"], "namespace");
    }
}

/// What is wrong with the spec of a claim or of a claim template.
pub(crate) fn claim_spec(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    access_modes(
        causes,
        &at.field("accessModes"),
        &spec["accessModes"],
        "at least 1 access mode is required",
    );
    causes.selector(&at.field("selector"), &spec["selector"]);
    let resources = at.field("resources");
    let storage = &spec["resources"]["requests"]["storage"];
    if storage.is_null() {
        causes.required(&resources.key("storage"), "");
    } else if nano(storage) <= 0 {
        causes.invalid(&resources.key("storage"), &shown(storage), "must be greater than zero");
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(spec, field);
        if !class.is_empty() {
            causes.faults(&at.field(field), class, words::subdomain(class));
        }
    }
    causes.one_of(&at.field("volumeMode"), &spec["volumeMode"], &VOLUME_MODES);
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    for (field, source) in [("dataSource", source), ("dataSourceRef", reference)] {
        if !source.is_null() {
            source_reference(causes, &at.field(field), source);
        }
    }
    let shown = json!({});
    if !is_empty(&reference["namespace"]) {
        if !source.is_null() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            causes.invalid(at, &shown, detail);
        }
    } else if source.is_object() && reference.is_object() {
        let same = |field: &str| source.get(field) == reference.get(field);
        if !["apiGroup", "kind", "name"].into_iter().all(same) {
            causes.invalid(at, &shown, "must match dataSourceRef");
        }
    }
}

fn source_reference(causes: &mut Causes, at: &At<'_>, source: &Value) {
    for field in ["name", "kind"] {
        causes.present(&at.field(field), &source[field], "");
    }
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if group.is_empty() {
        if kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            causes.invalid(at, &kind.into(), detail);
        }
    } else {
        causes.faults(&at.field("apiGroup"), group, words::subdomain(group));
    }
    if !is_empty(&source["namespace"]) {
        causes.label(&at.field("namespace"), &source["namespace"]);
    }
}

const CLAIM_FIXED: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

fn claim_update(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("spec");
    let mut expected = old["spec"].clone();
    let mut spec = new["spec"].clone();
    if is_empty(&expected["volumeName"]) {
        copy(&mut expected, &spec, "volumeName");
    }
    storage_class(causes, new, old, &mut spec);
    if text(&new["status"], "phase") == "Bound" {
        if spec["resources"]["requests"].is_object() {
            let storage = old["spec"]["resources"]["requests"]["storage"].clone();
            ensure(&mut spec["resources"], "requests").insert("storage".to_owned(), storage);
        }
        copy(&mut spec, &expected, "volumeAttributesClassName");
    }
    if expected != spec {
        causes.forbidden(&at, &format!("{CLAIM_FIXED}\n{}", pod::differences(&expected, &spec)));
    }
    let amount = |claim: &Value| nano(&claim["spec"]["resources"]["requests"]["storage"]);
    if amount(new) < amount(old) && amount(new) <= nano(&old["status"]["capacity"]["storage"]) {
        let at = at.field("resources");
        let at = at.field("requests");
        causes.forbidden(&at.field("storage"), "field can not be less than status.capacity");
    }
    let mode = |claim: &Value| claim["spec"]["volumeMode"].clone();
    causes.immutable(&At::new("volumeMode"), &mode(new), &mode(old));
    const CLASS: &str = "volumeAttributesClassName";
    let class = &new["spec"][CLASS];
    if *class != old["spec"][CLASS] && !old["status"]["currentVolumeAttributesClassName"].is_null()
    {
        let what = match class.as_str() {
            None => "nil",
            Some("") => "empty string",
            Some(_) => return,
        };
        let why = format!(
            "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
        );
        causes.forbidden(&at.field(CLASS), &why);
    }
}

/// A storage class may be filled in once, and may move from the annotation to the field.
fn storage_class(causes: &mut Causes, new: &Value, old: &Value, spec: &mut Value) {
    const CLASS: &str = "storageClassName";
    let annotation = |claim: &Value| claim["metadata"]["annotations"][CLASS_ANNOTATION].clone();
    let (now, before) = (annotation(new), annotation(old));
    let unset = old["spec"][CLASS].is_null();
    let moved =
        !before.is_null() && unset && spec[CLASS] == before && (now.is_null() || now == before);
    if moved {
        remove(spec, CLASS);
        return;
    }
    if text(&new["metadata"]["annotations"], CLASS_ANNOTATION)
        != text(&old["metadata"]["annotations"], CLASS_ANNOTATION)
    {
        let at = At::new("metadata");
        let at = at.field("annotations");
        let value = now.as_str().unwrap_or_default();
        causes.invalid(&at.key(CLASS_ANNOTATION), &value.into(), "field is immutable");
    }
    if unset && !spec[CLASS].is_null() && (before.is_null() || spec[CLASS] == before) {
        remove(spec, CLASS);
    }
}

fn status(causes: &mut Causes, status: &Value) {
    const STATES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let at = At::new("status");
    let capacity = at.field("capacity");
    for (name, amount) in members(&status["capacity"]) {
        valid(causes, &capacity.key(name), amount);
    }
    let states = at.field("allocatedResourceStatuses");
    for (name, state) in members(&status["allocatedResourceStatuses"]) {
        resource_key(causes, &states, name);
        if !STATES.contains(&state.as_str().unwrap_or_default()) {
            causes.not_supported(&states, &name.as_str().into(), &STATES);
        }
    }
    let allocated = at.field("allocatedResources");
    for (name, amount) in members(&status["allocatedResources"]) {
        let n_before = causes.0.len();
        resource_key(causes, &allocated, name);
        if causes.0.len() == n_before {
            valid(causes, &allocated.key(name), amount);
        }
    }
}

fn valid(causes: &mut Causes, at: &At<'_>, amount: &Value) {
    let amount = nano(amount);
    if amount < 0 {
        let whole = i64::try_from(amount / 1_000_000_000).unwrap_or(i64::MIN);
        causes.invalid(at, &whole.into(), "must be a valid resource quantity");
    }
}

fn resource_key(causes: &mut Causes, at: &At<'_>, name: &str) {
    let faults = words::qualified(name);
    if !faults.is_empty() {
        causes.faults(at, name, faults);
    } else if (!name.contains('/') || name.contains("kubernetes.io/")) && name != "storage" {
        causes.not_supported(at, &name.into(), &["storage"]);
    }
}

/// Fills the defaults of a claim template inside another object.
pub(crate) fn template_default(template: &mut Value) {
    default(template, "apiVersion", "v1");
    default(template, "kind", "PersistentVolumeClaim");
    if template["spec"].is_object() {
        default(&mut template["spec"], "volumeMode", "Filesystem");
    }
    template["status"] = json!({"phase": "Pending"});
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(size: &str, phase: &str) -> Value {
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
            "status": {"phase": phase, "capacity": {"storage": "1Gi"}}})
    }

    #[track_caller]
    fn check(old: &Value, new: &Value, expected: &[&str]) {
        let mut causes = Causes::default();
        claim_update(&mut causes, new, old);
        let fields: Vec<&str> = causes.0.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(fields, expected, "{new}");
    }

    #[test]
    fn a_claim_grows_only_when_bound() {
        check(&claim("1Gi", "Pending"), &claim("2Gi", "Pending"), &["spec"]);
        check(&claim("1Gi", "Bound"), &claim("2Gi", "Bound"), &[]);
        let size = "spec.resources.requests.storage";
        check(&claim("1Gi", "Bound"), &claim("500Mi", "Bound"), &[size]);
        check(&claim("3Gi", "Bound"), &claim("2Gi", "Bound"), &[]);
    }

    #[test]
    fn a_class_is_filled_in_once() {
        let mut with = claim("1Gi", "Pending");
        with["spec"]["storageClassName"] = "fast".into();
        check(&claim("1Gi", "Pending"), &with, &[]);
        let mut other = with.clone();
        other["spec"]["storageClassName"] = "slow".into();
        check(&with, &other, &["spec"]);
    }

    #[test]
    fn sources_have_two_names() {
        let source = json!({"kind": "PersistentVolumeClaim", "name": "a"});
        let mut spec = json!({"dataSource": source});
        data_source(&mut spec, None);
        assert_eq!(spec["dataSourceRef"], source);
        let mut unknown = json!({"dataSource": {"kind": "Other", "name": "a"}});
        data_source(&mut unknown, None);
        assert_eq!(unknown, json!({}));
    }
}
