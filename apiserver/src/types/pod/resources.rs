//! What is wrong with requests and limits.

use serde_json::{Value, json};

use crate::types::check::{At, Causes, items, members, nano, shown, text};
use crate::types::words;

/// Resources that containers may ask for without a domain.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Resources without a domain that exist at all.
const KNOWN: [&str; 22] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "limits.hugepages",
    "requests.hugepages",
];

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether the name has a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

/// Faults of the name of any resource.
pub(crate) fn known_name(causes: &mut Causes, at: &At<'_>, name: &str) {
    let faults = words::qualified(name);
    let well_formed = faults.is_empty();
    causes.faults(at, name, faults);
    if well_formed && !name.contains('/') && !KNOWN.contains(&name) && !is_huge(name) {
        causes.invalid(at, &name.into(), "must be a standard resource type or fully qualified");
    }
}

/// Faults of an amount of a resource.
pub(crate) fn amount(causes: &mut Causes, at: &At<'_>, name: &str, value: &Value) {
    let amount = nano(value);
    if amount < 0 {
        causes.invalid(at, &shown(value), "must be greater than or equal to 0");
    }
    let whole = is_extended(name) || matches!(name, "pods" | "services") || is_count(name);
    if whole && amount % 1_000_000_000 != 0 {
        causes.invalid(at, &shown(value), "must be an integer");
    }
}

fn is_count(name: &str) -> bool {
    name.starts_with("count/")
        || matches!(
            name,
            "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "services.nodeports"
                | "services.loadbalancers"
        )
}

/// `resources` of a container.
pub(super) fn container(causes: &mut Causes, at: &At<'_>, resources: &Value, spec: &Value) {
    requirements(causes, at, resources, true);
    let claims = items(&resources["claims"]);
    let known: Vec<&str> = items(&spec["resourceClaims"]).iter().map(|c| text(c, "name")).collect();
    let at = at.field("claims");
    for (n, claim) in claims.iter().enumerate() {
        let name = text(claim, "name");
        if name.is_empty() {
            causes.required(&at.index(n), "");
        } else if !known.contains(&name) {
            let what = if known.is_empty() { " which is empty".to_owned() } else { String::new() };
            let mut cause = schema::Cause::not_found(at.index(n).to_string(), &name.into());
            cause.message +=
                &format!(": must be one of the names in pod.spec.resourceClaims{what}");
            causes.0.push(cause);
        }
    }
}

/// Requests and limits; those of containers have a list of allowed names.
pub(super) fn requirements(
    causes: &mut Causes,
    at: &At<'_>,
    resources: &Value,
    of_container: bool,
) {
    let (limits_at, requests_at) = (at.field("limits"), at.field("requests"));
    let limits = &resources["limits"];
    for (name, value) in members(limits) {
        named(causes, &limits_at.key(name), name, value, of_container);
    }
    for (name, value) in members(&resources["requests"]) {
        named(causes, &requests_at.key(name), name, value, of_container);
        let limit = &limits[name];
        let fixed = is_extended(name) || is_huge(name);
        if limit.is_null() {
            if fixed {
                causes.required(&limits_at, "Limit must be set for non overcommitable resources");
            }
        } else if fixed && nano(value) != nano(limit) {
            let fault = format!("must be equal to {name} limit of {}", plain(limit));
            causes.invalid(&requests_at, &shown(value), &fault);
        } else if nano(value) > nano(limit) {
            let fault = format!("must be less than or equal to {name} limit of {}", plain(limit));
            causes.invalid(&requests_at, &shown(value), &fault);
        }
    }
}

fn plain(quantity: &Value) -> String {
    shown(quantity).as_str().unwrap_or_default().to_owned()
}

fn named(causes: &mut Causes, at: &At<'_>, name: &str, value: &Value, of_container: bool) {
    known_name(causes, at, name);
    if of_container && !name.contains('/') && !STANDARD.contains(&name) && !is_huge(name) {
        causes.invalid(at, &json!(name), "must be a standard resource for containers");
    }
    amount(causes, at, name, value);
}

/// `overhead` of a pod or a runtime class, whose faults upstream reports as those of limits.
pub(crate) fn overhead(causes: &mut Causes, at: &At<'_>, overhead: &Value) {
    let limits = at.field("limits");
    for (name, value) in members(overhead) {
        named(causes, &limits.key(name), name, value, true);
    }
}
