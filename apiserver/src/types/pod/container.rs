//! What is wrong with containers.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::resources;
use super::security;
use super::volume::Known;
use crate::types::check::{At, Causes, flag, is_empty, items, members, text};
use crate::types::words;

/// Handlers of probes and hooks, in the order in which upstream looks at them.
const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// What containers may refer to.
pub(super) struct Around<'a> {
    /// The pod's spec.
    pub(super) spec: &'a Value,
    /// Its volumes.
    pub(super) volumes: &'a Known<'a>,
}

/// All containers of a pod, of each kind.
pub(super) fn all(causes: &mut Causes, at: &At<'_>, around: &Around<'_>) {
    let mut names = HashSet::new();
    let spec = around.spec;
    let containers = at.field("containers");
    if items(&spec["containers"]).is_empty() {
        causes.required(&containers, "");
    }
    for (n, container) in items(&spec["containers"]).iter().enumerate() {
        let at = containers.index(n);
        common(causes, &at, container, around, &mut names);
        lifecycle(causes, &at, container);
        probes(causes, &at, container);
        restart(causes, &at, container);
    }
    let inits = at.field("initContainers");
    for (n, container) in items(&spec["initContainers"]).iter().enumerate() {
        let at = inits.index(n);
        common(causes, &at, container, around, &mut names);
        init(causes, &at, container);
        restart(causes, &at, container);
    }
    let ephemeral = at.field("ephemeralContainers");
    for (n, container) in items(&spec["ephemeralContainers"]).iter().enumerate() {
        let at = ephemeral.index(n);
        common(causes, &at, container, around, &mut names);
        for field in [
            "ports",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
            "resizePolicy",
        ] {
            if !is_empty(&container[field]) {
                causes.forbidden(&at.field(field), "cannot be set for an Ephemeral Container");
            }
        }
        if members(&container["resources"]).next().is_some() {
            causes.forbidden(&at.field("resources"), "cannot be set for an Ephemeral Container");
        }
    }
}

fn common<'a>(
    causes: &mut Causes,
    at: &At<'_>,
    container: &'a Value,
    around: &Around<'_>,
    names: &mut HashSet<&'a str>,
) {
    let name = text(container, "name");
    let name_at = at.field("name");
    if name.is_empty() {
        causes.required(&name_at, "");
    } else {
        causes.faults(&name_at, name, words::label(name));
        if !names.insert(name) {
            causes.duplicate(&name_at, &name.into());
        }
    }
    let image = text(container, "image");
    let image_at = at.field("image");
    if image.is_empty() {
        causes.required(&image_at, "");
    } else if image.trim() != image {
        causes.invalid(&image_at, &image.into(), "must not have leading or trailing whitespace");
    }
    ports(causes, &at.field("ports"), &container["ports"]);
    env(causes, &at.field("env"), &container["env"]);
    env_from(causes, &at.field("envFrom"), &container["envFrom"]);
    mounts(causes, at, container, around.volumes);
    resources::container(causes, &at.field("resources"), &container["resources"], around.spec);
    resize_policy(causes, &at.field("resizePolicy"), container);
    security::container(
        causes,
        &at.field("securityContext"),
        &container["securityContext"],
        around.spec,
    );
}

fn ports(causes: &mut Causes, at: &At<'_>, ports: &Value) {
    let mut names = HashSet::new();
    for (n, port) in items(ports).iter().enumerate() {
        let at = at.index(n);
        let name = text(port, "name");
        if !name.is_empty() {
            causes.faults(&at.field("name"), name, crate::types::check::port_name(name));
            if !names.insert(name) {
                causes.duplicate(&at.field("name"), &name.into());
            }
        }
        match port["containerPort"].as_i64().unwrap_or_default() {
            0 => causes.required(&at.field("containerPort"), ""),
            _ => causes.between(&at.field("containerPort"), &port["containerPort"], 1, 65535),
        }
        if port["hostPort"].as_i64().unwrap_or_default() != 0 {
            causes.between(&at.field("hostPort"), &port["hostPort"], 1, 65535);
        }
    }
}

const ENV_SOURCES: [&str; 5] =
    ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

fn env(causes: &mut Causes, at: &At<'_>, env: &Value) {
    for (n, entry) in items(env).iter().enumerate() {
        let at = at.index(n);
        let name = text(entry, "name");
        if name.is_empty() {
            causes.required(&at.field("name"), "");
        } else {
            causes.faults(&at.field("name"), name, words::variable(name));
        }
        let from = &entry["valueFrom"];
        if from.is_null() {
            continue;
        }
        let at = at.field("valueFrom");
        let sources = ENV_SOURCES.iter().filter(|s| !from[**s].is_null()).count();
        if sources == 0 {
            causes.invalid(&at, &"".into(), "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
        } else if !text(entry, "value").is_empty() {
            causes.invalid(&at, &"".into(), "may not be specified when `value` is not empty");
        } else if sources > 1 {
            causes.invalid(&at, &"".into(), "may not have more than one field specified at a time");
        }
        field_ref(causes, &at.field("fieldRef"), &from["fieldRef"], &ENV_FIELDS);
        resource_ref(causes, &at.field("resourceFieldRef"), &from["resourceFieldRef"], false);
        for source in ["configMapKeyRef", "secretKeyRef"] {
            let reference = &from[source];
            if reference.is_null() {
                continue;
            }
            let at = at.field(source);
            let key = text(reference, "key");
            if key.is_empty() {
                causes.required(&at.field("key"), "");
            } else {
                causes.faults(&at.field("key"), key, words::data_key(key));
            }
        }
    }
}

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

/// A reference to a field of the pod.
pub(super) fn field_ref(causes: &mut Causes, at: &At<'_>, reference: &Value, supported: &[&str]) {
    if reference.is_null() {
        return;
    }
    let path = text(reference, "fieldPath");
    let path_at = at.field("fieldPath");
    let version = text(reference, "apiVersion");
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
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        match map {
            "metadata.labels" => causes.faults(&path_at, key, words::qualified(key)),
            "metadata.annotations" => {
                causes.faults(&path_at, key, words::qualified(&key.to_lowercase()))
            }
            _ => causes.invalid(&path_at, &path.into(), "does not support subscript"),
        }
        return;
    }
    let known = ENV_FIELDS.contains(&path) || FILE_FIELDS.contains(&path);
    if !known {
        let fault = format!("error converting fieldPath: field label not supported: {path}");
        causes.invalid(&path_at, &path.into(), &fault);
    } else if !supported.contains(&path) {
        causes.not_supported(&path_at, &path.into(), supported);
    }
}

/// A reference to a resource of a container.
pub(super) fn resource_ref(causes: &mut Causes, at: &At<'_>, reference: &Value, in_volume: bool) {
    if reference.is_null() {
        return;
    }
    const KNOWN: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let resource = text(reference, "resource");
    if in_volume && text(reference, "containerName").is_empty() {
        causes.required(&at.field("containerName"), "");
    }
    if resource.is_empty() {
        causes.required(&at.field("resource"), "");
    } else if !KNOWN.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        causes.not_supported(&at.field("resource"), &resource.into(), &KNOWN);
    }
}

fn env_from(causes: &mut Causes, at: &At<'_>, sources: &Value) {
    for (n, source) in items(sources).iter().enumerate() {
        let entry = at.index(n);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            causes.faults(&entry.field("prefix"), prefix, words::variable(prefix));
        }
        let mut given = 0;
        for kind in ["configMapRef", "secretRef"] {
            if source[kind].is_null() {
                continue;
            }
            given += 1;
            let at = entry.field(kind);
            let name = text(&source[kind], "name");
            if name.is_empty() {
                causes.required(&at.field("name"), "");
            } else {
                causes.faults(&at.field("name"), name, words::subdomain(name));
            }
        }
        match given {
            0 => {
                causes.invalid(at, &"".into(), "must specify one of: `configMapRef` or `secretRef`")
            }
            1 => (),
            _ => causes.invalid(
                at,
                &"".into(),
                "may not have more than one field specified at a time",
            ),
        }
    }
}

fn mounts(causes: &mut Causes, at: &At<'_>, container: &Value, volumes: &Known<'_>) {
    let mut paths = HashSet::new();
    let devices: HashSet<&str> =
        items(&container["volumeDevices"]).iter().map(|d| text(d, "name")).collect();
    let mounts_at = at.field("volumeMounts");
    for (n, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let at = mounts_at.index(n);
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            causes.required(&at.field("name"), "");
        } else if !volumes.contains(name) {
            causes.0.push(schema::Cause::not_found(at.field("name").to_string(), &name.into()));
        }
        if path.is_empty() {
            causes.required(&at.field("mountPath"), "");
        } else if !paths.insert(path) {
            causes.invalid(&at.field("mountPath"), &path.into(), "must be unique");
        }
        if devices.contains(name) && !name.is_empty() {
            causes.invalid(
                &at.field("name"),
                &name.into(),
                "must not already exist in volumeDevices",
            );
        }
        let (sub, expr) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            causes.local_path(&at.field("subPath"), sub);
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                causes.invalid(
                    &at.field("subPathExpr"),
                    &expr.into(),
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            causes.local_path(&at.field("subPathExpr"), expr);
        }
        if text(mount, "mountPropagation") == "Bidirectional"
            && !flag(&container["securityContext"], "privileged")
        {
            causes.forbidden(
                &at.field("mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
        let recursive = text(mount, "recursiveReadOnly");
        if !recursive.is_empty() && recursive != "Disabled" && !flag(mount, "readOnly") {
            causes.forbidden(
                &at.field("recursiveReadOnly"),
                "may only be specified when readOnly is true",
            );
        }
    }
    let devices_at = at.field("volumeDevices");
    for (n, device) in items(&container["volumeDevices"]).iter().enumerate() {
        let at = devices_at.index(n);
        let (name, path) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            causes.required(&at.field("name"), "");
        } else if !volumes.contains(name) {
            causes.0.push(schema::Cause::not_found(at.field("name").to_string(), &name.into()));
        } else if !volumes.is_claim(name) {
            causes.invalid(&at.field("name"), &name.into(), "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
        }
        if path.is_empty() {
            causes.required(&at.field("devicePath"), "");
        } else {
            causes.no_backsteps(&at.field("devicePath"), path);
            if !paths.insert(path) {
                causes.invalid(&at.field("devicePath"), &path.into(), "must be unique");
            }
        }
    }
}

fn resize_policy(causes: &mut Causes, at: &At<'_>, container: &Value) {
    let mut seen = HashSet::new();
    for (n, policy) in items(&container["resizePolicy"]).iter().enumerate() {
        let at = at.index(n);
        let resource = text(policy, "resourceName");
        match resource {
            "cpu" | "memory" => (),
            "" => causes.required(&at.field("resourceName"), ""),
            _ => causes.not_supported(
                &at.field("resourceName"),
                &resource.into(),
                &["cpu", "memory"],
            ),
        }
        if !seen.insert(resource) {
            causes.duplicate(&at, &resource.into());
        }
        let restart = &policy["restartPolicy"];
        if restart.as_str().is_none_or(str::is_empty) {
            causes.required(&at.field("restartPolicy"), "");
        } else {
            causes.one_of(
                &at.field("restartPolicy"),
                restart,
                &["NotRequired", "RestartContainer"],
            );
        }
    }
}

fn init(causes: &mut Causes, at: &At<'_>, container: &Value) {
    if text(container, "restartPolicy") == "Always" {
        lifecycle(causes, at, container);
        probes(causes, at, container);
        return;
    }
    const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[field].is_null() {
            causes.forbidden(&at.field(field), ONLY_SIDECARS);
        }
    }
}

/// A restart policy of a single container, and rules for its exit codes.
fn restart(causes: &mut Causes, at: &At<'_>, container: &Value) {
    let policy = &container["restartPolicy"];
    let rules = items(&container["restartPolicyRules"]);
    let policy_at = at.field("restartPolicy");
    if !policy.is_null() {
        causes.one_of(&policy_at, policy, &["Always", "Never", "OnFailure"]);
    } else if !rules.is_empty() {
        causes.required(&policy_at, "must specify restartPolicy when restart rules are used");
    }
    let at = at.field("restartPolicyRules");
    if rules.len() > 20 {
        causes.0.push(schema::Cause::too_many(at.to_string(), rules.len(), 20));
    }
    for (n, rule) in rules.iter().enumerate() {
        let at = at.index(n);
        causes.one_of(&at.field("action"), &rule["action"], &["Restart", "RestartAllContainers"]);
        let codes_at = at.field("exitCodes");
        if rule["exitCodes"].is_null() {
            causes.required(&codes_at, "must be specified");
            continue;
        }
        causes.one_of(
            &codes_at.field("operator"),
            &rule["exitCodes"]["operator"],
            &["In", "NotIn"],
        );
    }
}

fn lifecycle(causes: &mut Causes, at: &At<'_>, container: &Value) {
    let lifecycle = &container["lifecycle"];
    let at = at.field("lifecycle");
    for hook in ["postStart", "preStop"] {
        if !lifecycle[hook].is_null() {
            handler(
                causes,
                &at.field(hook),
                &lifecycle[hook],
                &["exec", "httpGet", "tcpSocket", "sleep"],
            );
        }
    }
}

fn probes(causes: &mut Causes, at: &At<'_>, container: &Value) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[name];
        if probe.is_null() {
            continue;
        }
        let at = at.field(name);
        handler(causes, &at, probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            causes.not_negative(&at.field(field), &probe[field]);
        }
        let grace = &probe["terminationGracePeriodSeconds"];
        if name == "readinessProbe" {
            if !grace.is_null() {
                causes.invalid(
                    &at.field("terminationGracePeriodSeconds"),
                    grace,
                    "must not be set for readinessProbes",
                );
            }
            continue;
        }
        causes.positive(&at.field("terminationGracePeriodSeconds"), grace);
        if probe["successThreshold"].as_i64().is_some_and(|n| n > 1) {
            causes.invalid(&at.field("successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }
}

fn handler(causes: &mut Causes, at: &At<'_>, handler: &Value, allowed: &[&str]) {
    let mut given = 0;
    for kind in HANDLERS.iter().filter(|k| allowed.contains(k)) {
        let action = &handler[*kind];
        if action.is_null() {
            continue;
        }
        let at = at.field(kind);
        if given > 0 {
            causes.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        given += 1;
        match *kind {
            "exec" if items(&action["command"]).is_empty() => {
                causes.required(&at.field("command"), "")
            }
            "httpGet" => http_get(causes, &at, action),
            "tcpSocket" => port(causes, &at.field("port"), &action["port"]),
            "grpc" => causes.between(&at.field("port"), &action["port"], 1, 65535),
            "sleep" if action["seconds"].as_i64().unwrap_or_default() < 0 => {
                let detail = "must be non-negative and less than terminationGracePeriodSeconds";
                causes.invalid(&at.field("seconds"), &action["seconds"], detail);
            }
            _ => (),
        }
    }
    if given == 0 {
        causes.required(at, "must specify a handler type");
    }
}

fn http_get(causes: &mut Causes, at: &At<'_>, action: &Value) {
    if text(action, "path").is_empty() {
        causes.required(&at.field("path"), "");
    }
    port(causes, &at.field("port"), &action["port"]);
    for (n, header) in items(&action["httpHeaders"]).iter().enumerate() {
        let name = text(header, "name");
        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if name.is_empty() || !name.bytes().all(token) {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            causes.invalid(&at.field("httpHeaders").index(n).field("name"), &name.into(), detail);
        }
    }
}

fn port(causes: &mut Causes, at: &At<'_>, port: &Value) {
    let absent = json!(0);
    causes.port_or_name(at, if port.is_null() { &absent } else { port });
}
