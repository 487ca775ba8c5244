//! Persistent volumes.

use schema::Cause;
use serde_json::{Value, json};

use super::super::check::{At, Causes, copy, is_empty, items, members, nano, remove, shown, text};
use super::super::sources::{self, Holder};
use super::super::{Ctx, Strategy, node_labels, pod, words};
use super::{VOLUME_MODES, access_modes};
use crate::status::ApiError;
use crate::write::now;

/// Sources of a volume, in the order in which upstream looks at them.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// Sources that take mount options from the annotation.
const MOUNT_OPTIONS: [&str; 13] = [
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];

const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

/// Strategy of `persistentvolumes`.
pub(crate) struct Volumes;

impl Strategy for Volumes {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": now()});
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        if subresource == Some("status") && obj["status"].is_object() {
            const TIME: &str = "lastPhaseTransitionTime";
            let (status, before) = (&mut obj["status"], &old["status"]);
            let moved = status["phase"] != before["phase"];
            if moved && (status[TIME].is_null() || status[TIME] == before[TIME]) {
                status[TIME] = now().into();
            } else if !moved && status[TIME].is_null() {
                copy(status, before, TIME);
            }
        }
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_some() {
            return causes.0;
        }
        let name = text(&obj["metadata"], "name");
        let at = At::new("spec");
        volume(&mut causes, &at, &obj["spec"], name);
        mount_options(&mut causes, obj);
        if let Some(old) = old {
            // Upstream looks at the whole volume once more when it looks at the change.
            volume(&mut causes, &at, &obj["spec"], name);
            volume_update(&mut causes, &obj["spec"], &old["spec"]);
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        const ANNOTATIONS: [(&str, &str); 2] = [
            (
                "volume.beta.kubernetes.io/storage-class",
                "deprecated since v1.8; use \"storageClassName\" attribute instead",
            ),
            (
                MOUNT_OPTIONS_ANNOTATION,
                "deprecated since v1.31; use \"mountOptions\" attribute instead",
            ),
        ];
        const GONE: [(&str, &str, &str); 6] = [
            ("cephfs", "cephfs", "v1.28, non-functional in v1.31+"),
            ("photonPersistentDisk", "photonPersistentDisk", "v1.11, non-functional in v1.16+"),
            ("scaleIO", "scaleIO", "v1.16, non-functional in v1.22+"),
            ("storageos", "storageOS", "v1.22, non-functional in v1.25+"),
            ("glusterfs", "glusterfs", "v1.25, non-functional in v1.26+"),
            ("rbd", "rbd", "v1.28, non-functional in v1.31+"),
        ];
        let (spec, annotations) = (&obj["spec"], &obj["metadata"]["annotations"]);
        let mut warnings = Vec::new();
        for (key, why) in ANNOTATIONS.iter().filter(|(key, _)| !annotations[*key].is_null()) {
            warnings.push(format!("metadata.annotations[{key}]: {why}"));
        }
        if spec["persistentVolumeReclaimPolicy"] == "Recycle" {
            warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
        }
        let terms = items(&spec["nodeAffinity"]["required"]["nodeSelectorTerms"]);
        for (n, term) in terms.iter().enumerate() {
            let at = format_args!("spec.nodeAffinity.required.nodeSelectorTerms[{n}]");
            warnings.extend(node_labels::of_term(at, term));
        }
        for (_, shown, since) in GONE.iter().filter(|(kind, ..)| !spec[*kind].is_null()) {
            warnings.push(format!("spec.{shown}: deprecated in {since}"));
        }
        warnings
    }
}

fn mount_options(causes: &mut Causes, volume: &Value) {
    let taken = MOUNT_OPTIONS.iter().any(|kind| !volume["spec"][*kind].is_null());
    if !taken && !volume["metadata"]["annotations"][MOUNT_OPTIONS_ANNOTATION].is_null() {
        let at = At::new("metadata");
        let at = at.field("annotations");
        let detail = "may not specify mount options for this volume type";
        causes.forbidden(&at.field(MOUNT_OPTIONS_ANNOTATION), detail);
    }
}

/// The spec of a volume.
fn volume(causes: &mut Causes, at: &At<'_>, spec: &Value, name: &str) {
    access_modes(causes, &at.field("accessModes"), &spec["accessModes"], "");
    capacity(causes, &at.field("capacity"), &spec["capacity"]);
    let policies = ["Delete", "Recycle", "Retain"];
    let policy_at = at.field("persistentVolumeReclaimPolicy");
    causes.one_of(&policy_at, &spec["persistentVolumeReclaimPolicy"], &policies);
    let affinity = &spec["nodeAffinity"];
    if !affinity.is_null() {
        let at = at.field("nodeAffinity");
        if affinity["required"].is_null() {
            causes.required(&at.field("required"), "must specify required node constraints");
        } else {
            pod::node_selector(causes, &at.field("required"), &affinity["required"]);
        }
    }
    source(causes, at, spec, name);
    let root = clean(text(&spec["hostPath"], "path")) == "/";
    if root && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        causes.forbidden(&policy_at, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        causes.faults(&at.field("storageClassName"), class, words::subdomain(class));
    }
    causes.one_of(&at.field("volumeMode"), &spec["volumeMode"], &VOLUME_MODES);
    attributes_class(causes, at, spec);
}

/// The sources of a volume, of which there must be one.
fn source(causes: &mut Causes, at: &At<'_>, spec: &Value, name: &str) {
    sources::only_one(causes, at, spec, &SOURCES, |causes, source_at, kind, source| {
        sources::common(causes, source_at, kind, source, Holder::Persistent(name));
        match kind {
            "local" if spec["nodeAffinity"].is_null() => {
                let detail = "Local volume requires node affinity";
                causes.required(&at.field("nodeAffinity"), detail);
            }
            "azureFile" if source["secretNamespace"] == "" => {
                causes.required(&source_at.field("secretNamespace"), "");
            }
            "glusterfs" => {
                let namespace_at = source_at.field("endpointsNamespace");
                let namespace = &source["endpointsNamespace"];
                if *namespace == "" {
                    let detail =
                        "if the endpointnamespace is set, it must be a valid namespace name";
                    causes.invalid(&namespace_at, namespace, detail);
                } else {
                    causes.label(&namespace_at, namespace);
                }
            }
            _ => (),
        }
    });
}

fn attributes_class(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let Some(class) = spec["volumeAttributesClassName"].as_str() else { return };
    let class_at = at.field("volumeAttributesClassName");
    if class.is_empty() {
        causes.required(&class_at, "an empty string is disallowed");
    } else {
        causes.faults(&class_at, class, words::subdomain(class));
    }
    if spec["csi"].is_null() {
        let detail = "has to be specified when using volumeAttributesClassName";
        causes.required(&at.field("csi"), detail);
    }
}

fn capacity(causes: &mut Causes, at: &At<'_>, amounts: &Value) {
    if is_empty(amounts) {
        causes.required(at, "");
    }
    if amounts["storage"].is_null() || members(amounts).count() > 1 {
        causes.not_supported(at, amounts, &["storage"]);
    }
    for (name, amount) in members(amounts) {
        if nano(amount) < 0 {
            let whole = nano(amount) / 1_000_000_000;
            causes.invalid(
                &at.key(name),
                &json!(whole as i64),
                "must be a valid resource quantity",
            );
        }
        if nano(amount) <= 0 {
            causes.invalid(&at.key(name), &shown(amount), "must be greater than zero");
        }
    }
}

/// A volume of an attachment that no object holds.
pub(super) fn inline(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let mut forbid = |field: &str| {
        if !is_empty(&spec[field]) {
            let detail = "may not be specified in the context of inline volumes";
            causes.forbidden(&at.field(field), detail);
        }
    };
    for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
        forbid(field);
    }
    if spec["csi"].is_null() {
        causes.required(&at.field("csi"), "has to be specified in the context of inline volumes");
    }
    access_modes(causes, &at.field("accessModes"), &spec["accessModes"], "");
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if !matches!(policy, "" | "Retain") {
        let detail = "may only be Retain in the context of inline volumes";
        causes.forbidden(&at.field("persistentVolumeReclaimPolicy"), detail);
    }
    source(causes, at, spec, "");
    if spec["volumeMode"].as_str().is_some_and(|mode| mode != "Filesystem") {
        let detail =
            "may not specify volumeMode other than Filesystem in the context of inline volumes";
        causes.forbidden(&at.field("volumeMode"), detail);
    }
}

/// A path without empty and dotted parts.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

fn volume_update(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("spec");
    let mut new = new.clone();
    const EXPAND: &str = "controllerExpandSecretRef";
    if old["csi"].is_object() && old["csi"][EXPAND].is_null() && new["csi"].is_object() {
        remove(&mut new["csi"], EXPAND); // It may be added once.
    }
    if SOURCES.iter().any(|kind| new.get(*kind) != old.get(*kind)) {
        let field = at.field("persistentvolumesource");
        let why = "spec.persistentvolumesource is immutable after creation";
        causes.forbidden(&field, &format!("{why}\n{}", pod::differences(old, &new)));
    }
    causes.immutable(&At::new("volumeMode"), &new["volumeMode"], &old["volumeMode"]);
    let affinity = &old["nodeAffinity"];
    if !affinity.is_null() && !same_affinity(&new["nodeAffinity"], affinity) {
        let detail = "field is immutable, except for updating from beta label to GA";
        causes.invalid(&At::new("nodeAffinity"), &new["nodeAffinity"], detail);
    }
    const CLASS: &str = "volumeAttributesClassName";
    if !old[CLASS].is_null() && new[CLASS].is_null() {
        causes.forbidden(&at.field(CLASS), "update from non-nil value to nil is forbidden");
    }
}

/// Whether the affinity is the old one, at most with labels that took the place of beta ones.
fn same_affinity(new: &Value, old: &Value) -> bool {
    let mut old = old.clone();
    let terms = old.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    for expression in terms.into_iter().flatten().flat_map(|term| {
        term.get_mut("matchExpressions").and_then(Value::as_array_mut).into_iter().flatten()
    }) {
        if let Some(stable) = node_labels::stable(text(expression, "key")) {
            let mut moved = expression.clone();
            moved["key"] = stable.into();
            let there = items(&new["required"]["nodeSelectorTerms"])
                .iter()
                .any(|term| items(&term["matchExpressions"]).contains(&moved));
            if there {
                *expression = moved;
            }
        }
    }
    *new == old
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_one_source_and_storage() {
        let mut causes = Causes::default();
        let at = At::new("spec");
        let good = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}});
        volume(&mut causes, &at, &good, "v");
        assert!(causes.0.is_empty(), "{:?}", causes.0);
        let bad = json!({"capacity": {"storage": "0"}, "hostPath": {"path": "/a"}, "nfs": {}});
        volume(&mut causes, &at, &bad, "v");
        let texts: Vec<String> = causes.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.accessModes: Required value",
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
                "spec.nfs: Forbidden: may not specify more than 1 volume type"
            ]
        );
    }

    #[test]
    fn beta_labels_may_become_stable() {
        let with = |key: &str| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": ["a"]}]}]}});
        let beta = with("failure-domain.beta.kubernetes.io/zone");
        assert!(same_affinity(&with("topology.kubernetes.io/zone"), &beta));
        assert!(same_affinity(&beta, &beta));
        assert!(!same_affinity(&with("other"), &beta));
    }

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(["/", "//", "/a/..", "/a/./b"].map(clean), ["/", "/", "/", "/a/b"]);
    }
}
