//! What is wrong with the volumes of a pod.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::Shape;
use super::env::{FILE_FIELDS, field_ref, resource_ref};
use super::projected;
use crate::types::check::{At, Causes, is_empty, items, members, nano, text};
use crate::types::sources::{self, Holder, local_path, mode};
use crate::types::{storage, words};

/// Sources in the order in which upstream looks at them: the second one found is the one too many.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The volumes that containers may mount.
pub(super) struct Known<'a>(HashMap<&'a str, bool>);

impl Known<'_> {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn is_claim(&self, name: &str) -> bool {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// All volumes of a pod; answers those that are right, which containers may mount.
pub(super) fn all<'v>(
    causes: &mut Causes,
    at: &At<'_>,
    volumes: &'v Value,
    shape: Shape<'_>,
) -> Known<'v> {
    let claim = |v: &Value| !v["persistentVolumeClaim"].is_null() || !v["ephemeral"].is_null();
    let pod = shape.name();
    let created: HashSet<String> = items(volumes)
        .iter()
        .filter(|v| !pod.is_empty() && !v["ephemeral"].is_null())
        .map(|v| format!("{pod}-{}", text(v, "name")))
        .collect();
    let mut known = HashMap::new();
    for (n, volume) in items(volumes).iter().enumerate() {
        let n_before = causes.0.len();
        let at = at.index(n);
        let name = text(volume, "name");
        let name_at = at.field("name");
        source(causes, &at, volume, shape);
        if name.is_empty() {
            causes.required(&name_at, "");
        } else {
            causes.faults(&name_at, name, words::label(name));
            if known.contains_key(name) {
                causes.duplicate(&name_at, &name.into());
            }
        }
        if causes.0.len() == n_before {
            known.insert(name, claim(volume));
        }
        let claimed = &volume["persistentVolumeClaim"]["claimName"];
        if created.contains(claimed.as_str().unwrap_or_default()) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            let at = at.field("persistentVolumeClaim");
            causes.invalid(&at.field("claimName"), claimed, detail);
        }
    }
    Known(known)
}

fn source(causes: &mut Causes, at: &At<'_>, volume: &Value, shape: Shape<'_>) {
    let name = text(volume, "name");
    sources::only_one(causes, at, volume, &SOURCES, |causes, source_at, kind, source| {
        sources::common(causes, source_at, kind, source, Holder::Pod(name));
        match kind {
            "emptyDir" if nano(&source["sizeLimit"]) < 0 => {
                let detail = "SizeLimit field must be a valid resource quantity";
                causes.forbidden(&source_at.field("sizeLimit"), detail);
            }
            "secret" => {
                causes.present(&source_at.field("secretName"), &source["secretName"], "");
                files(causes, source_at, source);
            }
            "configMap" => files(causes, source_at, source),
            "downwardAPI" => {
                mode(causes, &source_at.field("defaultMode"), &source["defaultMode"]);
                for file in items(&source["items"]) {
                    downward_file(causes, source_at, file);
                }
            }
            "projected" => projected::all(causes, source_at, source),
            "ephemeral" => ephemeral(causes, at, name, source, shape),
            "image" => {
                if shape.is_pod() {
                    causes.present(&source_at.field("reference"), &source["reference"], "");
                }
                super::container::pull_policy(
                    causes,
                    &source_at.field("pullPolicy"),
                    &source["pullPolicy"],
                );
            }
            _ => (),
        }
    });
}

fn ephemeral(causes: &mut Causes, at: &At<'_>, name: &str, source: &Value, shape: Shape<'_>) {
    let source_at = at.field("ephemeral");
    let template = &source["volumeClaimTemplate"];
    let template_at = source_at.field("volumeClaimTemplate");
    if template.is_null() {
        causes.required(&template_at, "");
    } else {
        template_metadata(causes, &template_at.field("metadata"), &template["metadata"]);
        storage::claim_spec(causes, &template_at.field("spec"), &template["spec"]);
    }
    let pod = shape.name();
    if !pod.is_empty() && !name.is_empty() {
        let claim = format!("{pod}-{name}");
        for fault in words::subdomain(&claim) {
            let why = format!("PVC name {claim:?}: {fault}");
            causes.invalid(&at.field("name"), &name.into(), &why);
        }
    }
}

/// Metadata of an object that is made from a template: labels and annotations, and nothing else.
pub(crate) fn template_metadata(causes: &mut Causes, at: &At<'_>, metadata: &Value) {
    causes.annotations(&at.field("annotations"), &metadata["annotations"]);
    causes.labels(&at.field("labels"), &metadata["labels"]);
    for (field, value) in members(metadata) {
        let set = !is_empty(value) && *value != 0;
        if set && !matches!(field.as_str(), "annotations" | "labels") {
            // Upstream names the Go field, with its first letter in lower case.
            let named = if field == "uid" { "uID" } else { field };
            causes.forbidden(&at.field(named), "cannot be set");
        }
    }
}

/// Mode and items of a ConfigMap or Secret as files.
pub(super) fn files(causes: &mut Causes, at: &At<'_>, source: &Value) {
    mode(causes, &at.field("defaultMode"), &source["defaultMode"]);
    let at = at.field("items");
    for (n, item) in items(&source["items"]).iter().enumerate() {
        let at = at.index(n);
        causes.present(&at.field("key"), &item["key"], "");
        path(causes, &at.field("path"), item);
        mode(causes, &at.field("mode"), &item["mode"]);
    }
}

/// The path of a file below a volume.
pub(super) fn path(causes: &mut Causes, at: &At<'_>, file: &Value) {
    causes.present(at, &file["path"], "");
    local_path(causes, at, text(file, "path"));
}

/// A field or a resource of the pod as a file; upstream tells no index.
pub(super) fn downward_file(causes: &mut Causes, at: &At<'_>, file: &Value) {
    path(causes, &at.field("path"), file);
    let (field, resource) = (&file["fieldRef"], &file["resourceFieldRef"]);
    if !field.is_null() {
        field_ref(causes, &at.field("fieldRef"), field, &FILE_FIELDS);
        if !resource.is_null() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            causes.invalid(at, &"resource".into(), detail);
        }
    } else if resource.is_null() {
        causes.required(at, "one of fieldRef and resourceFieldRef is required");
    } else {
        resource_ref(causes, &at.field("resourceFieldRef"), resource, true);
    }
    mode(causes, &at.field("mode"), &file["mode"]);
}
