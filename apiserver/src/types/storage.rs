//! Persistent volumes, their claims and classes.

use std::collections::HashSet;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, copy, default, is_empty, items, members, nano, part, shown, text};
use super::{Ctx, Strategy, pod, words};
use crate::registry::Selectable;
use crate::status::ApiError;
use crate::write::now;

const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

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
        if subresource == Some("status") {
            if obj["status"]["phase"] != old["status"]["phase"] {
                obj["status"]["lastPhaseTransitionTime"] = now().into();
            } else if is_empty(&obj["status"]["lastPhaseTransitionTime"]) {
                copy(&mut obj["status"], &old["status"], "lastPhaseTransitionTime");
            }
        }
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_none() {
            volume(&mut causes, &obj["spec"]);
            if let Some(old) = old {
                volume_update(&mut causes, &obj["spec"], &old["spec"]);
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        let gone = [
            ("rbd", "v1.28, non-functional in v1.31+"),
            ("cephfs", "v1.28, non-functional in v1.31+"),
            ("glusterfs", "v1.25, non-functional in v1.26+"),
            ("scaleIO", "v1.16, non-functional in v1.22+"),
            ("flocker", "v1.22, non-functional in v1.25+"),
            ("storageos", "v1.22, non-functional in v1.25+"),
            ("quobyte", "v1.22, non-functional in v1.25+"),
            ("photonPersistentDisk", "v1.11, non-functional in v1.16+"),
        ];
        let spec = &obj["spec"];
        let given = gone.iter().filter(|(source, _)| !spec[*source].is_null());
        given.map(|(source, since)| format!("spec.{source}: deprecated in {since}")).collect()
    }
}

fn access_modes(causes: &mut Causes, at: &At<'_>, modes: &Value) {
    let list = items(modes);
    for mode in list {
        causes.one_of(at, mode, &ACCESS_MODES);
    }
    if list.len() > 1 && list.iter().any(|m| m == "ReadWriteOncePod") {
        causes.forbidden(at, "may not use ReadWriteOncePod with other access modes");
    }
}

fn volume(causes: &mut Causes, spec: &Value) {
    let at = At::new("spec");
    let modes = at.field("accessModes");
    if items(&spec["accessModes"]).is_empty() {
        causes.required(&modes, "");
    }
    access_modes(causes, &modes, &spec["accessModes"]);
    let capacity = at.field("capacity");
    let amounts = &spec["capacity"];
    if is_empty(amounts) {
        causes.required(&capacity, "");
    } else if amounts["storage"].is_null() || members(amounts).count() > 1 {
        causes.not_supported(&capacity, amounts, &["storage"]);
    }
    for (name, amount) in members(amounts).filter(|(name, _)| *name == "storage") {
        if nano(amount) <= 0 {
            causes.invalid(&capacity.key(name), &shown(amount), "must be greater than zero");
        }
    }
    let mut given = false;
    for kind in SOURCES {
        let source = &spec[kind];
        if source.is_null() {
            continue;
        }
        let at = at.field(kind);
        if given {
            causes.forbidden(&at, "may not specify more than 1 volume type");
            continue;
        }
        given = true;
        match kind {
            "hostPath" => pod::host_path(causes, &at, source),
            "nfs" => pod::nfs(causes, &at, source),
            "local" => local(causes, &at, source, spec),
            "csi" => {
                for field in ["driver", "volumeHandle"] {
                    causes.present(&at.field(field), &source[field], "");
                }
            }
            _ => (),
        }
    }
    if !given {
        causes.required(&at, "must specify a volume type");
    }
    let affinity = &spec["nodeAffinity"];
    if !affinity.is_null() {
        let at = at.field("nodeAffinity");
        if affinity["required"].is_null() {
            causes.required(&at.field("required"), "must specify required node constraints");
        } else {
            pod::node_selector(causes, &at.field("required"), &affinity["required"]);
        }
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        causes.faults(&at.field("storageClassName"), class, words::subdomain(class));
    }
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle"
        && !spec["hostPath"].is_null()
        && text(&spec["hostPath"], "path") == "/"
    {
        causes.forbidden(
            &at.field("persistentVolumeReclaimPolicy"),
            "may not be 'recycle' for a hostPath mount of '/'",
        );
    }
}

fn local(causes: &mut Causes, at: &At<'_>, source: &Value, spec: &Value) {
    let path = text(source, "path");
    if causes.present(&at.field("path"), &source["path"], "") {
        causes.no_backsteps(&at.field("path"), path);
    }
    if spec["nodeAffinity"].is_null() {
        let spec_at = At::new("spec");
        causes.required(&spec_at.field("nodeAffinity"), "Local volume requires node affinity");
    }
}

fn volume_update(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("spec");
    if SOURCES.iter().any(|kind| new[*kind] != old[*kind]) {
        let field = at.field("persistentvolumesource");
        let why = "spec.persistentvolumesource is immutable after creation";
        causes.forbidden(&field, &format!("{why}\n{}", pod::differences(old, new)));
    }
    causes.immutable(&at.field("volumeMode"), &new["volumeMode"], &old["volumeMode"]);
    if !old["nodeAffinity"].is_null() {
        causes.immutable(&at.field("nodeAffinity"), &new["nodeAffinity"], &old["nodeAffinity"]);
    }
}

/// Strategy of `persistentvolumeclaims`.
pub(crate) struct Claims;

impl Strategy for Claims {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = part(obj, "spec") else { return };
        // Two names of one reference.
        let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
        if source.is_object() && reference.is_null() {
            spec["dataSourceRef"] = source;
        } else if source.is_null() && reference.is_object() && is_empty(&reference["namespace"]) {
            let group = text(&reference, "apiGroup");
            let known = matches!(
                (group, text(&reference, "kind")),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            );
            if known {
                spec["dataSource"] = reference;
            }
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"phase": "Pending"});
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_none() {
            claim_spec(&mut causes, &At::new("spec"), &obj["spec"]);
            if let Some(old) = old {
                claim_update(&mut causes, obj, old);
            }
        }
        causes.0
    }
}

/// What is wrong with the spec of a claim or of a claim template.
pub(crate) fn claim_spec(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let modes = at.field("accessModes");
    if items(&spec["accessModes"]).is_empty() {
        causes.required(&modes, "at least 1 access mode is required");
    }
    access_modes(causes, &modes, &spec["accessModes"]);
    causes.selector(&at.field("selector"), &spec["selector"]);
    let resources = at.field("resources");
    let storage = &spec["resources"]["requests"]["storage"];
    if storage.is_null() {
        causes.required(&resources.key("storage"), "");
    } else if nano(storage) <= 0 {
        causes.invalid(&resources.key("storage"), &shown(storage), "must be greater than zero");
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        causes.faults(&at.field("storageClassName"), class, words::subdomain(class));
    }
}

const CLAIM_FIXED: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

fn claim_update(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("spec");
    let (mut expected, spec) = (old["spec"].clone(), &new["spec"]);
    if is_empty(&expected["volumeName"]) {
        copy(&mut expected, spec, "volumeName");
    }
    let bound = text(&old["status"], "phase") == "Bound";
    if bound && spec["resources"]["requests"].is_object() {
        super::check::ensure(&mut expected, "resources");
        copy(&mut expected["resources"], &spec["resources"], "requests");
        copy(&mut expected, spec, "volumeAttributesClassName");
    }
    // A class that was chosen afterwards.
    if expected["storageClassName"].is_null() && !bound {
        copy(&mut expected, spec, "storageClassName");
    }
    if expected != *spec {
        causes.forbidden(&at, &format!("{CLAIM_FIXED}\n{}", pod::differences(&expected, spec)));
    }
    let amount = |claim: &Value| nano(&claim["spec"]["resources"]["requests"]["storage"]);
    let capacity = nano(&old["status"]["capacity"]["storage"]);
    if amount(new) < amount(old) && amount(new) < capacity.max(1) {
        let at = at.field("resources");
        let at = at.field("requests");
        causes.forbidden(&at.field("storage"), "field can not be less than status.capacity");
    }
}

/// Strategy of `storageclasses`.
pub(crate) struct Classes;

impl Strategy for Classes {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let provisioner = text(obj, "provisioner");
        if provisioner.is_empty() {
            causes.required(&At::new("provisioner"), "");
        } else {
            causes.faults(
                &At::new("provisioner"),
                provisioner,
                words::qualified(&provisioner.to_lowercase()),
            );
        }
        for (key, _) in members(&obj["parameters"]).filter(|(key, _)| key.is_empty()) {
            causes.invalid(&At::new("parameters"), &key.as_str().into(), "field can not be empty.");
        }
        causes.one_of(&At::new("reclaimPolicy"), &obj["reclaimPolicy"], &["Delete", "Retain"]);
        topologies(&mut causes, &obj["allowedTopologies"]);
        if let Some(old) = old {
            for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                causes.immutable(&At::new(field), &obj[field], &old[field]);
            }
        }
        causes.0
    }
}

fn topologies(causes: &mut Causes, topologies: &Value) {
    let at = At::new("allowedTopologies");
    for (n, topology) in items(topologies).iter().enumerate() {
        let at = at.index(n);
        let at = at.field("matchLabelExpressions");
        let mut keys = HashSet::new();
        for (n, expression) in items(&topology["matchLabelExpressions"]).iter().enumerate() {
            let at = at.index(n);
            let key = text(expression, "key");
            causes.faults(&at.field("key"), key, words::qualified(key));
            if !keys.insert(key) {
                causes.duplicate(&at.field("key"), &key.into());
            }
            causes.present(&at.field("values"), &expression["values"], "");
        }
    }
}

/// Strategy of `csidrivers`.
pub(crate) struct Drivers;

impl Strategy for Drivers {
    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let spec = At::new("spec");
        let policy = spec.field("fsGroupPolicy");
        causes.one_of(
            &policy,
            &obj["spec"]["fsGroupPolicy"],
            &["File", "None", "ReadWriteOnceWithFSType"],
        );
        for mode in items(&obj["spec"]["volumeLifecycleModes"]) {
            causes.one_of(&spec.field("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
        }
        let tokens = spec.field("tokenRequests");
        let mut audiences = HashSet::new();
        for (n, token) in items(&obj["spec"]["tokenRequests"]).iter().enumerate() {
            let at = tokens.index(n);
            if !audiences.insert(text(token, "audience")) {
                causes.duplicate(&at.field("audience"), &token["audience"]);
            }
            let seconds = &token["expirationSeconds"];
            if seconds.as_i64().is_some_and(|s| s < 600) {
                causes.invalid(
                    &at.field("expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                );
            }
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        false
    }
}

/// Strategy of `csinodes`.
pub(crate) struct DriverNodes;

impl Strategy for DriverNodes {
    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let spec = At::new("spec");
        let drivers = spec.field("drivers");
        let mut names = HashSet::new();
        for (n, driver) in items(&obj["spec"]["drivers"]).iter().enumerate() {
            let at = drivers.index(n);
            let name = text(driver, "name");
            if name.is_empty() {
                causes.required(&at.field("name"), "");
            } else {
                causes.faults(&at.field("name"), name, words::subdomain(&name.to_lowercase()));
            }
            if !names.insert(name) {
                causes.duplicate(&at.field("name"), &name.into());
            }
            causes.present(&at.field("nodeID"), &driver["nodeID"], "");
            let mut keys = HashSet::new();
            for key in items(&driver["topologyKeys"]) {
                if !keys.insert(key.as_str()) {
                    causes.duplicate(&at, key);
                }
            }
            let allocatable = at.field("allocatable");
            causes.not_negative(&allocatable.field("count"), &driver["allocatable"]["count"]);
        }
        causes.0
    }
}

/// Strategy of `csistoragecapacities`.
pub(crate) struct Capacities;

impl Strategy for Capacities {
    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        for field in ["capacity", "maximumVolumeSize"] {
            if nano(&obj[field]) < 0 {
                causes.invalid(
                    &At::new(field),
                    &shown(&obj[field]),
                    "must be greater than or equal to 0",
                );
            }
        }
        let class = text(obj, "storageClassName");
        causes.faults(&At::new("storageClassName"), class, words::subdomain(class));
        causes.selector(&At::new("nodeTopology"), &obj["nodeTopology"]);
        causes.0
    }
}

/// Strategy of `volumeattributesclasses`.
pub(crate) struct AttributesClasses;

impl Strategy for AttributesClasses {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        causes.present(&At::new("driverName"), &obj["driverName"], "");
        causes.present(
            &At::new("parameters"),
            &obj["parameters"],
            "must contain at least one key/value pair",
        );
        if let Some(old) = old {
            for field in ["driverName", "parameters"] {
                causes.immutable(&At::new(field), &obj[field], &old[field]);
            }
        }
        causes.0
    }
}

/// Strategy of `volumeattachments`.
pub(crate) struct Attachments;

impl Strategy for Attachments {
    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        if let (Some(old), None) = (old, subresource) {
            causes.immutable(&at, &obj["spec"], &old["spec"]);
        }
        for field in ["attacher", "nodeName"] {
            causes.present(&at.field(field), &obj["spec"][field], "");
        }
        causes.0
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"attached": false});
        Ok(())
    }

    fn selectable(&self) -> Vec<Selectable> {
        Vec::new()
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

    fn texts(causes: Causes) -> Vec<String> {
        causes.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_volume_has_one_source_and_storage() {
        let mut causes = Causes::default();
        volume(
            &mut causes,
            &json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}}),
        );
        assert!(causes.0.is_empty(), "{:?}", causes.0);
        volume(
            &mut causes,
            &json!({"capacity": {"storage": "0"}, "hostPath": {"path": "/a"}, "nfs": {}}),
        );
        assert_eq!(
            texts(causes),
            [
                "spec.accessModes: Required value",
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
                "spec.nfs: Forbidden: may not specify more than 1 volume type"
            ]
        );
    }

    #[test]
    fn a_claim_grows_only_when_bound() {
        let claim = |size: &str, phase: &str| {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
                "status": {"phase": phase, "capacity": {"storage": "1Gi"}}})
        };
        for (old, new, faults) in [
            (claim("1Gi", "Pending"), claim("2Gi", "Pending"), 1),
            (claim("1Gi", "Bound"), claim("2Gi", "Bound"), 0),
            (claim("1Gi", "Bound"), claim("500Mi", "Bound"), 1),
        ] {
            let mut causes = Causes::default();
            claim_update(&mut causes, &new, &old);
            assert_eq!(causes.0.len(), faults, "{new}");
        }
    }
}
