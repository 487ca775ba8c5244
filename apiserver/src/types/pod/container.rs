//! What is wrong with containers of each kind.

use std::collections::HashSet;

use serde_json::Value;

use super::volume::Known;
use super::{Shape, env, mounts, probe, resources, security};
use crate::types::check::{At, Causes, is_empty, items, text};

/// What containers may refer to.
pub(super) struct Around<'a> {
    /// The pod's spec.
    pub(super) spec: &'a Value,
    /// Its volumes.
    pub(super) volumes: &'a Known<'a>,
    /// Whether it is a pod.
    pub(super) shape: Shape<'a>,
}

/// Every container of a pod, in the order in which upstream visits them.
pub(super) fn visit<'v>(spec: &'v Value, mut each: impl FnMut(&'static str, usize, &'v Value)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (n, container) in items(&spec[list]).iter().enumerate() {
            each(list, n, container);
        }
    }
}

/// All containers of a pod, of each kind.
pub(super) fn all(causes: &mut Causes, at: &At<'_>, around: &Around<'_>) {
    regular(causes, &at.field("containers"), around);
    inits(causes, &at.field("initContainers"), around);
    ephemeral(causes, &at.field("ephemeralContainers"), around);
    for list in ["initContainers", "containers"].into_iter().filter(|_| around.shape.is_pod()) {
        let at = at.field(list);
        for (n, container) in items(&around.spec[list]).iter().enumerate() {
            image(causes, &at.index(n), container);
        }
    }
}

fn regular(causes: &mut Causes, at: &At<'_>, around: &Around<'_>) {
    let containers = items(&around.spec["containers"]);
    if containers.is_empty() {
        return causes.required(at, "");
    }
    let mut names = HashSet::new();
    let mut ports = HashSet::new();
    for (n, container) in containers.iter().enumerate() {
        let at = at.index(n);
        common(causes, &at, container, around);
        let name = text(container, "name");
        if !names.insert(name) {
            causes.duplicate(&at.field("name"), &name.into());
        }
        probe::lifecycle(causes, &at, container, around.spec);
        probe::probes(causes, &at, container, around.spec);
        restart(causes, &at, container);
        host_ports(causes, &at, container, &mut ports);
    }
}

fn inits(causes: &mut Causes, at: &At<'_>, around: &Around<'_>) {
    let others = items(&around.spec["containers"]).iter();
    let mut names: HashSet<&str> = others.map(|c| text(c, "name")).collect();
    for (n, container) in items(&around.spec["initContainers"]).iter().enumerate() {
        let entry = at.index(n);
        common(causes, &entry, container, around);
        restart(causes, &entry, container);
        let name = text(container, "name");
        if names.contains(name) {
            causes.duplicate(&entry.field("name"), &name.into());
        } else if !name.is_empty() {
            names.insert(name);
        }
        // They run one after the other, so that each may have the ports; upstream tells index 0.
        host_ports(causes, &at.index(0), container, &mut HashSet::new());
        init(causes, &entry, container, around.spec);
    }
}

fn init(causes: &mut Causes, at: &At<'_>, container: &Value, spec: &Value) {
    if text(container, "restartPolicy") == "Always" {
        probe::lifecycle(causes, at, container, spec);
        probe::probes(causes, at, container, spec);
        return;
    }
    const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[field].is_null() {
            causes.forbidden(&at.field(field), ONLY_SIDECARS);
        }
    }
    let at = at.field("resizePolicy");
    for (n, policy) in items(&container["resizePolicy"]).iter().enumerate() {
        if policy["restartPolicy"] == "RestartContainer" {
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            let at = at.index(n);
            causes.invalid(&at.field("restartPolicy"), &policy["restartPolicy"], detail);
        }
    }
}

fn ephemeral(causes: &mut Causes, at: &At<'_>, around: &Around<'_>) {
    const NOT_FOR_THEM: &str = "cannot be set for an Ephemeral Container";
    const LEFT_OUT: [&str; 8] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let lists = ["containers", "initContainers"].into_iter();
    let others: HashSet<&str> =
        lists.flat_map(|list| items(&around.spec[list])).map(|c| text(c, "name")).collect();
    let mut names = others.clone();
    for (n, container) in items(&around.spec["ephemeralContainers"]).iter().enumerate() {
        let at = at.index(n);
        common(causes, &at, container, around);
        image(causes, &at, container);
        let name = text(container, "name");
        if !names.insert(name) {
            causes.duplicate(&at.field("name"), &name.into());
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            causes.not_found(&at.field("targetContainerName"), &target.into());
        }
        for field in LEFT_OUT.into_iter().chain(["restartPolicyRules"]) {
            if !is_empty(&container[field]) {
                causes.forbidden(&at.field(field), NOT_FOR_THEM);
            }
        }
        let mounts = at.field("volumeMounts");
        for (n, mount) in items(&container["volumeMounts"]).iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !is_empty(&mount[field]) {
                    causes.forbidden(&mounts.index(n).field(field), NOT_FOR_THEM);
                }
            }
        }
    }
}

/// What containers of each kind have in common.
fn common(causes: &mut Causes, at: &At<'_>, container: &Value, around: &Around<'_>) {
    if causes.present(&at.field("name"), &container["name"], "") {
        causes.label(&at.field("name"), &container["name"]);
    }
    causes.present(&at.field("image"), &container["image"], "");
    causes.one_of(
        &at.field("terminationMessagePolicy"),
        &container["terminationMessagePolicy"],
        &["File", "FallbackToLogsOnError"],
    );
    ports(causes, &at.field("ports"), &container["ports"]);
    env::all(causes, &at.field("env"), &container["env"]);
    env::from(causes, &at.field("envFrom"), &container["envFrom"]);
    mounts::all(causes, at, container, around.volumes);
    pull_policy(causes, &at.field("imagePullPolicy"), &container["imagePullPolicy"]);
    let resources_at = at.field("resources");
    resources::container(causes, &resources_at, &container["resources"], around.spec);
    resize_policy(causes, &at.field("resizePolicy"), container, around.spec);
    let context = &container["securityContext"];
    security::container(causes, &at.field("securityContext"), context, around.spec);
}

/// Pods, unlike templates, do not take images with spaces around their names.
pub(super) fn image(causes: &mut Causes, at: &At<'_>, container: &Value) {
    let image = text(container, "image");
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        causes.invalid(&at.field("image"), &image.into(), detail);
    }
}

/// When an image is pulled.
pub(super) fn pull_policy(causes: &mut Causes, at: &At<'_>, policy: &Value) {
    causes.one_of(at, policy, &["Always", "IfNotPresent", "Never"]);
}

fn ports(causes: &mut Causes, at: &At<'_>, ports: &Value) {
    let mut names = HashSet::new();
    for (n, port) in items(ports).iter().enumerate() {
        let at = at.index(n);
        let name = text(port, "name");
        if !name.is_empty() {
            let faults = crate::types::check::port_name(name);
            if faults.is_empty() && !names.insert(name) {
                causes.duplicate(&at.field("name"), &name.into());
            }
            causes.faults(&at.field("name"), name, faults);
        }
        match port["containerPort"].as_i64().unwrap_or_default() {
            0 => causes.required(&at.field("containerPort"), ""),
            _ => causes.between(&at.field("containerPort"), &port["containerPort"], 1, 65535),
        }
        if port["hostPort"] != 0 {
            causes.between(&at.field("hostPort"), &port["hostPort"], 1, 65535);
        }
        causes.one_of(&at.field("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

/// Ports of the host, each of which can be had once.
fn host_ports(causes: &mut Causes, at: &At<'_>, container: &Value, taken: &mut HashSet<String>) {
    let at = at.field("ports");
    for (n, port) in items(&container["ports"]).iter().enumerate() {
        let number = port["hostPort"].as_i64().unwrap_or_default();
        if number == 0 {
            continue;
        }
        let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
        if taken.contains(&key) {
            causes.duplicate(&at.index(n).field("hostPort"), &key.into());
        } else {
            taken.insert(key);
        }
    }
}

/// Upstream tells no index, but for duplicates.
fn resize_policy(causes: &mut Causes, at: &At<'_>, container: &Value, spec: &Value) {
    let mut seen = HashSet::new();
    for (n, policy) in items(&container["resizePolicy"]).iter().enumerate() {
        let (resource, restart) = (&policy["resourceName"], &policy["restartPolicy"]);
        if !seen.insert(resource.as_str()) {
            causes.duplicate(&at.index(n), resource);
        }
        if causes.present(at, resource, "") {
            causes.one_of(at, resource, &["cpu", "memory"]);
        }
        if causes.present(at, restart, "") {
            causes.one_of(at, restart, &["NotRequired", "RestartContainer"]);
        }
        if spec["restartPolicy"] == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            causes.invalid(at, restart, detail);
        }
    }
}

/// A restart policy of a single container, and rules for its exit codes.
fn restart(causes: &mut Causes, at: &At<'_>, container: &Value) {
    let policy = &container["restartPolicy"];
    let rules = items(&container["restartPolicyRules"]);
    let policy_at = at.field("restartPolicy");
    if policy.is_null() && !rules.is_empty() {
        causes.required(&policy_at, "must specify restartPolicy when restart rules are used");
    }
    causes.one_of(&policy_at, policy, &["Always", "Never", "OnFailure"]);
    let at = at.field("restartPolicyRules");
    if rules.len() > 20 {
        causes.0.push(schema::Cause::too_many(at.to_string(), rules.len(), 20));
    }
    for (n, rule) in rules.iter().enumerate() {
        let at = at.index(n);
        let action = text(rule, "action");
        causes.one_of(&at.field("action"), &action.into(), &["Restart", "RestartAllContainers"]);
        let codes = &rule["exitCodes"];
        let at = at.field("exitCodes");
        if codes.is_null() {
            causes.required(&at, "must be specified");
            continue;
        }
        causes.one_of(&at.field("operator"), &codes["operator"], &["In", "NotIn"]);
        let n_values = items(&codes["values"]).len();
        if n_values > 255 {
            let at = at.field("values").to_string();
            causes.0.push(schema::Cause::too_many(at, n_values, 255));
        }
    }
}
