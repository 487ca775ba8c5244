//! What is wrong with a pod's spec, in a pod or in a template.

use std::collections::HashSet;

use schema::print::{Fields, Shown};
use serde_json::Value;

use super::container::{self, Around};
use super::{Shape, env, placement, resources, security, volume, windows};
use crate::types::check::{At, Causes, flag, is_empty, items, text};
use crate::types::words;

/// Everything that is wrong with the spec of a pod or of a template.
pub(crate) fn spec(causes: &mut Causes, at: &At<'_>, spec: &Value, shape: Shape<'_>) {
    let volumes = volume::all(causes, &at.field("volumes"), &spec["volumes"], shape);
    claims(causes, &at.field("resourceClaims"), &spec["resourceClaims"], shape);
    container::all(causes, at, &Around { spec, volumes: &volumes, shape });
    resources::pod(causes, at, spec);
    policies(causes, at, spec);
    host_network(causes, at, spec, shape);
    security::pod(causes, at, spec);
    placement::all(causes, at, spec);
    names(causes, at, spec);
    dns(causes, at, spec);
    resources::overhead(causes, &at.field("overhead"), &spec["overhead"]);
    let deadline = &spec["activeDeadlineSeconds"];
    causes.between(&at.field("activeDeadlineSeconds"), deadline, 1, i64::from(i32::MAX));
    let gates = at.field("readinessGates");
    for (n, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let kind = text(gate, "conditionType");
        causes.faults(&gates.index(n).field("conditionType"), kind, words::qualified(kind));
    }
    windows::operating_system(causes, at, spec);
    container::visit(spec, |list, n, container| {
        let list = at.field(list);
        env::file_volumes(causes, &list.index(n), spec, container);
    });
}

/// What is wrong with a pod, beyond what a template could have.
pub(super) fn pod(causes: &mut Causes, pod: &Value) {
    let (spec, at) = (&pod["spec"], At::new("spec"));
    super::annotations::all(
        causes,
        &pod["metadata"],
        spec,
        &At::new("metadata").field("annotations"),
    );
    self::spec(causes, &at, spec, Shape::Pod(&pod["metadata"]));
    if is_empty(&spec["serviceAccountName"]) {
        let volumes = at.field("volumes");
        for (n, volume) in items(&spec["volumes"]).iter().enumerate() {
            let at = volumes.index(n);
            let at = at.field("projected");
            let sources = at.field("sources");
            for (n, source) in items(&volume["projected"]["sources"]).iter().enumerate() {
                if !source["serviceAccountToken"].is_null() {
                    let detail = "must not be specified when serviceAccountName is not set";
                    causes.forbidden(&sources.index(n).field("serviceAccountToken"), detail);
                }
            }
        }
    }
}

/// What is wrong with a pod that is to be created.
pub(super) fn new_pod(causes: &mut Causes, pod: &Value) {
    let (spec, at) = (&pod["spec"], At::new("spec"));
    if !is_empty(&spec["ephemeralContainers"]) {
        causes.forbidden(&at.field("ephemeralContainers"), "cannot be set on create");
    }
    if !is_empty(&spec["schedulingGates"]) && !is_empty(&spec["nodeName"]) {
        let detail = "cannot be set until all schedulingGates have been cleared";
        causes.forbidden(&at.field("nodeName"), detail);
    }
    super::annotations::fit_fields(causes, &pod["metadata"], spec, &at);
}

fn policies(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let restart = ["Always", "OnFailure", "Never"];
    causes.one_of(&at.field("restartPolicy"), &spec["restartPolicy"], &restart);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    causes.one_of(&at.field("dnsPolicy"), &spec["dnsPolicy"], &dns);
    let (preemption, at) = (&spec["preemptionPolicy"], at.field("preemptionPolicy"));
    if *preemption == "" {
        causes.required(&at, "");
    } else {
        causes.one_of(&at, preemption, &["PreemptLowerPriority", "Never"]);
    }
}

/// On the host's network a port of the host is the container's own.
fn host_network(causes: &mut Causes, at: &At<'_>, spec: &Value, shape: Shape<'_>) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    let list = at.field("containers");
    for (n, container) in items(&spec["containers"]).iter().enumerate() {
        let at = list.index(n);
        let at = at.field("ports");
        for (n, port) in items(&container["ports"]).iter().enumerate() {
            let number = |field: &str| port[field].as_i64().unwrap_or_default();
            let (host, own) = (number("hostPort"), number("containerPort"));
            if (shape.is_pod() || host != 0) && host != own {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                causes.invalid(&at.index(n).field("hostPort"), &host.into(), detail);
            }
        }
    }
}

fn names(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    for field in ["serviceAccountName", "nodeName", "priorityClassName"] {
        if !is_empty(&spec[field]) {
            causes.subdomain(&at.field(field), &spec[field]);
        }
    }
    causes.subdomain(&at.field("runtimeClassName"), &spec["runtimeClassName"]);
    for field in ["hostname", "subdomain"] {
        if !is_empty(&spec[field]) {
            causes.label(&at.field(field), &spec[field]);
        }
    }
    if let Some(name) = spec["hostnameOverride"].as_str() {
        let at = at.field("hostnameOverride");
        for field in ["setHostnameAsFQDN", "hostNetwork"] {
            if flag(spec, field) {
                causes.forbidden(&at, &format!("may not be specified when {field} is true"));
            }
        }
        if name.len() > 64 {
            causes.0.push(schema::Cause::too_long(at.to_string(), 64));
        }
        causes.faults(&at, name, words::subdomain(name));
    }
    let aliases = at.field("hostAliases");
    for (n, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let at = aliases.index(n);
        causes.ip(&at.field("ip"), &alias["ip"]);
        let names = at.field("hostnames");
        for (n, name) in items(&alias["hostnames"]).iter().enumerate() {
            causes.subdomain(&names.index(n), name);
        }
    }
}

fn dns(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    const SERVERS: usize = 3;
    const SEARCHES: usize = 32;
    const LETTERS: usize = 2048;
    let config = &spec["dnsConfig"];
    let at = at.field("dnsConfig");
    let servers_at = at.field("nameservers");
    let servers = items(&config["nameservers"]);
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            return causes.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return causes.required(&servers_at, detail);
        }
    }
    if servers.len() > SERVERS {
        let why = format!("must not have more than {SERVERS} nameservers");
        causes.invalid(&servers_at, &config["nameservers"], &why);
    }
    for (n, server) in servers.iter().enumerate() {
        causes.ip(&servers_at.index(n), server);
    }
    let searches_at = at.field("searches");
    let searches: Vec<&str> =
        items(&config["searches"]).iter().map(|s| s.as_str().unwrap_or_default()).collect();
    if searches.len() > SEARCHES {
        let why = format!("must not have more than {SEARCHES} search paths");
        causes.invalid(&searches_at, &config["searches"], &why);
    }
    if searches.join(" ").len() > LETTERS {
        let why = format!(
            "must not have more than {LETTERS} characters (including spaces) in the search list"
        );
        causes.invalid(&searches_at, &config["searches"], &why);
    }
    for (n, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let bare = search.strip_suffix('.').unwrap_or(search);
        causes.faults(&searches_at.index(n), bare, words::subdomain_with_underscores(bare));
    }
    let options = at.field("options");
    for (n, option) in items(&config["options"]).iter().enumerate() {
        causes.present(&options.index(n), &option["name"], "must not be empty");
    }
}

/// A claim as Go shows it.
const CLAIM: Fields = &[
    ("name", Shown::Text),
    ("resourceClaimName", Shown::Any),
    ("resourceClaimTemplateName", Shown::Any),
];

fn claims(causes: &mut Causes, at: &At<'_>, claims: &Value, shape: Shape<'_>) {
    let mut names = HashSet::new();
    for (n, claim) in items(claims).iter().enumerate() {
        if shape.is_mirror() {
            causes.forbidden(&At::new(""), "static pods do not support resource claims");
            continue;
        }
        let at = at.index(n);
        let name = text(claim, "name");
        if causes.present(&at.field("name"), &claim["name"], "") {
            if names.insert(name) {
                causes.label(&at.field("name"), &claim["name"]);
            } else {
                causes.duplicate(&at.field("name"), &name.into());
            }
        }
        let given = |field: &str| !claim[field].is_null();
        match (given("resourceClaimName"), given("resourceClaimTemplateName")) {
            (true, true) => causes.invalid_part(&at, CLAIM, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            (false, false) => causes.invalid_part(&at, CLAIM, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => (),
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            causes.subdomain(&at.field(field), &claim[field]);
        }
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
