//! What is wrong with volumes.

use std::collections::HashMap;

use serde_json::Value;

use super::container::{FILE_FIELDS, field_ref, resource_ref};
use crate::types::check::{At, Causes, items, nano, shown, text};
use crate::types::words;

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
    "azureFile",
    "configMap",
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
    "flexVolume",
];

/// The volumes that containers may mount.
pub(super) struct Known<'a>(HashMap<&'a str, bool>);

impl<'a> Known<'a> {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn is_claim(&self, name: &str) -> bool {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// All volumes of a pod; answers those that are right, which containers may mount.
pub(super) fn all<'v>(causes: &mut Causes, at: &At<'_>, volumes: &'v Value) -> Known<'v> {
    let claim = |v: &Value| !v["persistentVolumeClaim"].is_null() || !v["ephemeral"].is_null();
    let mut known = HashMap::new();
    for (n, volume) in items(volumes).iter().enumerate() {
        let n_before = causes.0.len();
        let at = at.index(n);
        let name = text(volume, "name");
        let name_at = at.field("name");
        if name.is_empty() {
            causes.required(&name_at, "");
        } else {
            causes.faults(&name_at, name, words::label(name));
            if known.contains_key(name) {
                causes.duplicate(&name_at, &name.into());
            }
        }
        source(causes, &at, volume);
        if causes.0.len() == n_before {
            known.insert(name, claim(volume));
        }
    }
    Known(known)
}

fn source(causes: &mut Causes, at: &At<'_>, volume: &Value) {
    let mut given = false;
    for kind in SOURCES {
        let value = &volume[kind];
        if value.is_null() {
            continue;
        }
        let at = at.field(kind);
        if given {
            causes.forbidden(&at, "may not specify more than 1 volume type");
            continue;
        }
        given = true;
        one(causes, &at, kind, value);
    }
    if !given {
        causes.required(at, "must specify a volume type");
    }
}

fn one(causes: &mut Causes, at: &At<'_>, kind: &str, value: &Value) {
    let mut required = |names: &[&str]| {
        for name in names {
            if text(value, name).is_empty() {
                causes.required(&at.field(name), "");
            }
        }
    };
    match kind {
        "secret" => {
            required(&["secretName"]);
            files(causes, at, value);
        }
        "configMap" => {
            required(&["name"]);
            files(causes, at, value);
        }
        "hostPath" => host_path(causes, at, value),
        "emptyDir" => {
            let limit = &value["sizeLimit"];
            if nano(limit) < 0 {
                let detail = "SizeLimit field must be a valid resource quantity";
                causes.invalid(&at.field("sizeLimit"), &shown(limit), detail);
            }
        }
        "nfs" => nfs(causes, at, value),
        "persistentVolumeClaim" => required(&["claimName"]),
        "csi" => required(&["driver"]),
        "gitRepo" => required(&["repository"]),
        "gcePersistentDisk" => required(&["pdName"]),
        "awsElasticBlockStore" => required(&["volumeID"]),
        "cinder" => required(&["volumeID"]),
        "glusterfs" => required(&["endpoints", "path"]),
        "iscsi" => required(&["targetPortal", "iqn"]),
        "image" => required(&["reference"]),
        "flexVolume" => required(&["driver"]),
        "azureFile" => required(&["secretName", "shareName"]),
        "downwardAPI" => {
            mode(causes, &at.field("defaultMode"), &value["defaultMode"]);
            downward(causes, &at.field("items"), &value["items"]);
        }
        "projected" => projected(causes, at, value),
        "ephemeral" => {
            let at = at.field("volumeClaimTemplate");
            let template = &value["volumeClaimTemplate"];
            if template.is_null() {
                causes.required(&at, "");
            } else {
                crate::types::storage::claim_spec(causes, &at.field("spec"), &template["spec"]);
            }
        }
        _ => (),
    }
}

/// `hostPath` of a pod or a persistent volume.
pub(crate) fn host_path(causes: &mut Causes, at: &At<'_>, value: &Value) {
    let path = text(value, "path");
    if path.is_empty() {
        causes.required(&at.field("path"), "");
    }
    causes.no_backsteps(&at.field("path"), path);
    const TYPES: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    causes.one_of(&at.field("type"), &value["type"], &TYPES);
}

/// `nfs` of a pod or a persistent volume.
pub(crate) fn nfs(causes: &mut Causes, at: &At<'_>, value: &Value) {
    if text(value, "server").is_empty() {
        causes.required(&at.field("server"), "");
    }
    let path = text(value, "path");
    if path.is_empty() {
        causes.required(&at.field("path"), "");
    } else if !path.starts_with('/') {
        causes.invalid(&at.field("path"), &path.into(), "must be an absolute path");
    }
}

fn mode(causes: &mut Causes, at: &At<'_>, mode: &Value) {
    if mode.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
        causes.invalid(at, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// Mode and items of a ConfigMap or Secret as files.
fn files(causes: &mut Causes, at: &At<'_>, value: &Value) {
    mode(causes, &at.field("defaultMode"), &value["defaultMode"]);
    let at = at.field("items");
    for (n, item) in items(&value["items"]).iter().enumerate() {
        let at = at.index(n);
        if text(item, "key").is_empty() {
            causes.required(&at.field("key"), "");
        }
        file_path(causes, &at.field("path"), text(item, "path"));
        mode(causes, &at.field("mode"), &item["mode"]);
    }
}

/// A path below a volume that cannot be mistaken for one of the volume's own.
fn file_path(causes: &mut Causes, at: &At<'_>, path: &str) {
    if path.is_empty() {
        causes.required(at, "");
        return;
    }
    causes.local_path(at, path);
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        causes.invalid(at, &path.into(), "must not start with '..'");
    }
}

fn downward(causes: &mut Causes, at: &At<'_>, files: &Value) {
    for (n, file) in items(files).iter().enumerate() {
        let at = at.index(n);
        file_path(causes, &at.field("path"), text(file, "path"));
        mode(causes, &at.field("mode"), &file["mode"]);
        let (field, resource) = (&file["fieldRef"], &file["resourceFieldRef"]);
        match (field.is_null(), resource.is_null()) {
            (true, true) => {
                causes.required(&at, "one of fieldRef and resourceFieldRef is required")
            }
            (false, false) => {
                causes.invalid(
                    &at,
                    &"resource".into(),
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
            _ => (),
        }
        field_ref(causes, &at.field("fieldRef"), field, &FILE_FIELDS);
        resource_ref(causes, &at.field("resourceFieldRef"), resource, true);
    }
}

fn projected(causes: &mut Causes, at: &At<'_>, value: &Value) {
    const KINDS: [&str; 6] = [
        "secret",
        "configMap",
        "downwardAPI",
        "serviceAccountToken",
        "clusterTrustBundle",
        "podCertificate",
    ];
    mode(causes, &at.field("defaultMode"), &value["defaultMode"]);
    let sources = at.field("sources");
    for (n, source) in items(&value["sources"]).iter().enumerate() {
        let entry = sources.index(n);
        let mut given = false;
        for kind in KINDS {
            let projection = &source[kind];
            if projection.is_null() {
                continue;
            }
            let at = entry.field(kind);
            if given {
                causes.forbidden(&at, "may not specify more than 1 volume type");
                continue;
            }
            given = true;
            match kind {
                "secret" | "configMap" => {
                    if text(projection, "name").is_empty() {
                        causes.required(&at.field("name"), "");
                    }
                    files(causes, &at, projection);
                }
                "downwardAPI" => downward(causes, &at.field("items"), &projection["items"]),
                "serviceAccountToken" => token(causes, &at, projection),
                _ => (),
            }
        }
        if !given {
            let detail = "must specify a source";
            causes.required(&entry, detail);
        }
    }
}

fn token(causes: &mut Causes, at: &At<'_>, token: &Value) {
    let seconds = &token["expirationSeconds"];
    if seconds.as_i64().is_some_and(|s| s < 600) {
        causes.invalid(
            &at.field("expirationSeconds"),
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds.as_i64().is_some_and(|s| s > 1 << 32) {
        causes.invalid(
            &at.field("expirationSeconds"),
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    file_path(causes, &at.field("path"), text(token, "path"));
}
