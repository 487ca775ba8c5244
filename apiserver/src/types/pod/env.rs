//! What is wrong with environment variables, and with references to fields and resources.

use serde_json::Value;

use crate::types::check::{At, Causes, is_empty, items, nano, text};
use crate::types::words;

/// Fields that an environment variable may show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields that a file may show.
pub(super) const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Resources of a container that can be shown.
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` of a container.
pub(super) fn all(causes: &mut Causes, at: &At<'_>, variables: &Value) {
    for (n, variable) in items(variables).iter().enumerate() {
        let at = at.index(n);
        let name = text(variable, "name");
        if causes.present(&at.field("name"), &variable["name"], "") {
            causes.faults(&at.field("name"), name, words::variable(name));
        }
        let from = &variable["valueFrom"];
        if !from.is_null() {
            value_from(causes, &at.field("valueFrom"), from, text(variable, "value"));
        }
    }
}

fn value_from(causes: &mut Causes, at: &At<'_>, from: &Value, value: &str) {
    const SOURCES: [&str; 5] =
        ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let mut n_given = 0;
    for source in SOURCES {
        let reference = &from[source];
        if reference.is_null() {
            continue;
        }
        n_given += 1;
        let at = at.field(source);
        match source {
            "fieldRef" => field_ref(causes, &at, reference, &ENV_FIELDS),
            "resourceFieldRef" => resource_ref(causes, &at, reference, false),
            "fileKeyRef" => file_key(causes, &at, reference),
            _ => key_ref(causes, &at, reference),
        }
    }
    let fault = if n_given == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !value.is_empty() {
        "may not be specified when `value` is not empty"
    } else if n_given > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    causes.invalid(at, &"".into(), fault);
}

/// A key of a ConfigMap or a Secret.
fn key_ref(causes: &mut Causes, at: &At<'_>, reference: &Value) {
    let (name, key) = (text(reference, "name"), text(reference, "key"));
    causes.faults(&at.field("name"), name, words::subdomain(name));
    if causes.present(&at.field("key"), &reference["key"], "") {
        causes.faults(&at.field("key"), key, words::data_key(key));
    }
}

/// A key of a file in a volume.
fn file_key(causes: &mut Causes, at: &At<'_>, reference: &Value) {
    let key = text(reference, "key");
    if causes.present(&at.field("key"), &reference["key"], "") {
        causes.faults(&at.field("key"), key, words::variable(key));
    }
    if causes.present(&at.field("volumeName"), &reference["volumeName"], "") {
        causes.label(&at.field("volumeName"), &reference["volumeName"]);
    }
    if causes.present(&at.field("path"), &reference["path"], "") {
        causes.no_backsteps(&at.field("path"), text(reference, "path"));
    }
}

/// Volumes whose files variables are read from must be empty at first.
pub(super) fn file_volumes(causes: &mut Causes, at: &At<'_>, spec: &Value, container: &Value) {
    let at = at.field("env");
    for (n, variable) in items(&container["env"]).iter().enumerate() {
        let Some(name) = variable["valueFrom"]["fileKeyRef"]["volumeName"].as_str() else {
            if !variable["valueFrom"]["fileKeyRef"].is_null() {
                tell_volume(causes, &at.index(n), spec, "");
            }
            continue;
        };
        tell_volume(causes, &at.index(n), spec, name);
    }
}

fn tell_volume(causes: &mut Causes, at: &At<'_>, spec: &Value, name: &str) {
    let at = at.field("valueFrom");
    let at = at.field("fileKeyRef");
    let at = at.field("volumeName");
    match items(&spec["volumes"]).iter().rfind(|v| text(v, "name") == name) {
        None => causes.not_found(&at, &name.into()),
        Some(volume) if volume["emptyDir"].is_null() => {
            causes.invalid(&at, &name.into(), "referenced volume must be of type emptyDir");
        }
        Some(_) => (),
    }
}

/// A reference to a field of the pod.
pub(super) fn field_ref(causes: &mut Causes, at: &At<'_>, reference: &Value, supported: &[&str]) {
    let (version, path) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    let path_at = at.field("fieldPath");
    if version.is_empty() {
        return causes.required(&at.field("apiVersion"), "");
    }
    if path.is_empty() {
        return causes.required(&path_at, "");
    }
    if version != "v1" {
        let fault = format!("error converting fieldPath: unsupported pod version: {version}");
        return causes.invalid(&path_at, &path.into(), &fault);
    }
    let subscript = path.strip_suffix("']").and_then(|p| p.split_once("['"));
    match subscript {
        Some(("metadata.labels", key)) => causes.faults(at, key, words::qualified(key)),
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            causes.faults(at, &key, words::qualified(&key));
        }
        Some(_) => {
            let fault = format!(
                "error converting fieldPath: field label does not support subscript: {path}"
            );
            causes.invalid(&path_at, &path.into(), &fault);
        }
        None if supported.contains(&path) => (),
        None if is_convertible(path) => causes.not_supported(&path_at, &path.into(), supported),
        None => {
            let fault = format!("error converting fieldPath: field label not supported: {path}");
            causes.invalid(&path_at, &path.into(), &fault);
        }
    }
}

/// Whether upstream knows the field as one of a pod.
fn is_convertible(path: &str) -> bool {
    const OTHERS: [&str; 3] = ["spec.restartPolicy", "spec.schedulerName", "status.phase"];
    ENV_FIELDS.contains(&path) || FILE_FIELDS.contains(&path) || OTHERS.contains(&path)
}

/// A reference to a resource of a container.
pub(super) fn resource_ref(causes: &mut Causes, at: &At<'_>, reference: &Value, in_volume: bool) {
    let resource = text(reference, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.starts_with(p));
    if in_volume && is_empty(&reference["containerName"]) {
        causes.required(&at.field("containerName"), "");
    } else if resource.is_empty() {
        causes.required(&at.field("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        causes.not_supported(&at.field("resource"), &resource.into(), &RESOURCES);
    }
    divisor(causes, &at.field("divisor"), resource, &reference["divisor"]);
}

fn divisor(causes: &mut Causes, at: &At<'_>, resource: &str, divisor: &Value) {
    const BYTES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if nano(divisor) == 0 {
        return;
    }
    let shown = crate::types::check::shown(divisor);
    let shown = shown.as_str().unwrap_or_default();
    let what = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => {
            if !matches!(shown, "1" | "1m") {
                let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
                causes.invalid(at, &resource.into(), detail);
            }
            return;
        }
        "memory" => "memory",
        "ephemeral-storage" => "local ephemeral storage",
        name if name.starts_with("hugepages-") => "hugepages",
        _ => return,
    };
    if !BYTES.contains(&shown) {
        let why = format!(
            "only divisor's values {} are supported with the {what} resource",
            BYTES.join(", ")
        );
        causes.invalid(at, &resource.into(), &why);
    }
}

/// `envFrom` of a container.
pub(super) fn from(causes: &mut Causes, at: &At<'_>, sources: &Value) {
    for (n, source) in items(sources).iter().enumerate() {
        let entry = at.index(n);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            causes.faults(&entry.field("prefix"), prefix, words::variable(prefix));
        }
        let mut n_given = 0;
        for kind in ["configMapRef", "secretRef"].into_iter().filter(|k| !source[*k].is_null()) {
            n_given += 1;
            let at = entry.field(kind);
            if causes.present(&at.field("name"), &source[kind]["name"], "") {
                causes.subdomain(&at.field("name"), &source[kind]["name"]);
            }
        }
        if n_given != 1 {
            let fault = if n_given == 0 {
                "must specify one of: `configMapRef` or `secretRef`"
            } else {
                "may not have more than one field specified at a time"
            };
            causes.invalid(at, &"".into(), fault);
        }
    }
}
