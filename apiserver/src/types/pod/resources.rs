//! What is wrong with requests and limits.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use crate::types::check::{At, Causes, items, members, nano, shown, text};
use crate::types::words;

/// Resources that containers may ask for without a domain.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Resources without a domain that exist at all.
const KNOWN: [&str; 20] = [
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
];

/// Resources that are counted.
const COUNTS: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether the name has no domain, or Kubernetes' own.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether the name is one of somebody else's resources.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && words::qualified(&format!("requests.{name}")).is_empty()
}

/// Whether more may be promised than there is.
pub(crate) fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge(name)
}

/// Faults of the name of any resource.
pub(crate) fn known_name(causes: &mut Causes, at: &At<'_>, name: &str) -> bool {
    let faults = words::qualified(name);
    let well_formed = faults.is_empty();
    causes.faults(at, name, faults);
    let huge = is_huge(name) || name.starts_with("requests.hugepages-");
    if well_formed && !name.contains('/') && !KNOWN.contains(&name) && !huge {
        causes.invalid(at, &name.into(), "must be a standard resource type or fully qualified");
        return false;
    }
    well_formed
}

/// Faults of an amount of a resource.
pub(crate) fn amount(causes: &mut Causes, at: &At<'_>, name: &str, value: &Value) {
    let amount = nano(value);
    if amount < 0 {
        causes.invalid(at, &shown(value), "must be greater than or equal to 0");
    }
    if (COUNTS.contains(&name) || is_extended(name)) && amount % 1_000_000_000 != 0 {
        causes.invalid(at, &shown(value), "must be an integer");
    }
}

/// The name of a resource that a container may ask for.
pub(crate) fn container_name(causes: &mut Causes, at: &At<'_>, name: &str) {
    known_name(causes, at, name);
    if !name.contains('/') {
        if !STANDARD.contains(&name) && !is_huge(name) {
            causes.invalid(at, &json!(name), "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        causes.invalid(at, &json!(name), "doesn't follow extended resource name standard");
    }
}

/// The name of a resource that a whole pod may ask for.
fn pod_name(causes: &mut Causes, at: &At<'_>, name: &str) {
    if known_name(causes, at, name) && !matches!(name, "cpu" | "memory") && !is_huge(name) {
        causes.not_supported(at, &name.into(), &["cpu", "hugepages-", "memory"]);
    }
}

/// `resources` of a container.
pub(super) fn container(causes: &mut Causes, at: &At<'_>, resources: &Value, spec: &Value) {
    requirements(causes, at, resources, container_name);
    claims(causes, &at.field("claims"), &resources["claims"], &spec["resourceClaims"]);
}

/// Claims of a container, which the pod must have.
fn claims(causes: &mut Causes, at: &At<'_>, claims: &Value, of_pod: &Value) {
    let mut known: Vec<&str> =
        items(of_pod).iter().map(|c| text(c, "name")).filter(|n| !n.is_empty()).collect();
    known.sort_unstable();
    let mut seen: HashSet<String> = HashSet::new();
    for (n, claim) in items(claims).iter().enumerate() {
        let at = at.index(n);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            causes.required(&at, "");
            continue;
        }
        if seen.contains(name) {
            causes.duplicate(&at, &name.into());
        } else {
            let key =
                if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
            if !request.is_empty() {
                causes.label(&at.field("request"), &claim["request"]);
                if seen.contains(&key) {
                    causes.duplicate(&at, &json!(key));
                }
            } else {
                let parts = seen.iter().filter(|k| k.split('/').next() == Some(name));
                for _ in parts.filter(|k| k.contains('/')).collect::<Vec<_>>() {
                    causes.duplicate(&at, &name.into());
                }
            }
            seen.insert(key);
        }
        if !known.contains(&name) {
            let what = if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", known.join(", "))
            };
            let mut cause = schema::Cause::not_found(at.to_string(), &name.into());
            cause.message +=
                &format!(": must be one of the names in pod.spec.resourceClaims{what}");
            causes.0.push(cause);
        }
    }
}

/// Requests and limits, whose names `name` looks at.
fn requirements(
    causes: &mut Causes,
    at: &At<'_>,
    resources: &Value,
    name: fn(&mut Causes, &At<'_>, &str),
) {
    let (limits_at, requests_at) = (at.field("limits"), at.field("requests"));
    let (limits, requests) = (&resources["limits"], &resources["requests"]);
    for (part_at, part) in [(&limits_at, limits), (&requests_at, requests)] {
        for (resource, value) in members(part) {
            let at = part_at.key(resource);
            name(causes, &at, resource);
            amount(causes, &at, resource, value);
            huge_pages(causes, &at, resource, value);
        }
    }
    for (resource, value) in members(requests) {
        let limit = &limits[resource];
        let fixed = !may_be_overcommitted(resource);
        if limit.is_null() {
            if fixed {
                causes.required(&limits_at, "Limit must be set for non overcommitable resources");
            }
        } else if fixed && nano(value) != nano(limit) {
            let fault = format!("must be equal to {resource} limit of {}", plain(limit));
            causes.invalid(&requests_at, &shown(value), &fault);
        } else if nano(value) > nano(limit) {
            let fault =
                format!("must be less than or equal to {resource} limit of {}", plain(limit));
            causes.invalid(&requests_at, &shown(value), &fault);
        }
    }
    let any = |wanted: fn(&str) -> bool| {
        members(limits).chain(members(requests)).any(|(resource, _)| wanted(resource))
    };
    if any(is_huge) && !any(|resource| matches!(resource, "cpu" | "memory")) {
        causes.forbidden(at, "HugePages require cpu or memory");
    }
}

fn huge_pages(causes: &mut Causes, at: &At<'_>, resource: &str, value: &Value) {
    let Some(size) = resource.strip_prefix("hugepages-") else { return };
    let page = nano(&size.into());
    if page <= 0 || page % 1_000_000_000 != 0 || nano(value) % page != 0 {
        let why = format!("{} is not positive integer multiple of {resource}", plain(value));
        causes.invalid(at, &shown(value), &why);
    }
}

fn plain(quantity: &Value) -> String {
    shown(quantity).as_str().unwrap_or_default().to_owned()
}

/// `resources` of the whole pod, which must have room for its containers.
pub(super) fn pod(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let resources = &spec["resources"];
    let at = at.field("resources");
    if resources.is_null() {
        return;
    }
    if spec["os"]["name"] == "windows" {
        return causes.forbidden(&at, "may not be set for a windows pod");
    }
    if !resources["claims"].is_null() {
        claims(causes, &at.field("claims"), &resources["claims"], &spec["resourceClaims"]);
        causes.forbidden(&at.field("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(causes, &at, resources, pod_name);
    for (part, only_huge) in [("requests", false), ("limits", true)] {
        let part_at = at.field(part);
        for (name, total) in aggregate(spec, part) {
            let own = &resources[part][name];
            if own.is_null() || nano(own) >= total || only_huge && !is_huge(name) {
                continue;
            }
            let total = schema::quantity::canonical(&format!("{total}n")).unwrap_or_default();
            let why =
                format!("must be greater than or equal to aggregate container {part} of {total}");
            causes.invalid(&part_at.key(name), &shown(own), &why);
        }
    }
    let containers = at.field("containers");
    for (n, container) in items(&spec["containers"]).iter().enumerate() {
        for (name, limit) in members(&container["resources"]["limits"]) {
            let most = &resources["limits"][name];
            if !most.is_null() && nano(limit) > nano(most) {
                let why = format!("must be less than or equal to pod limits of {}", plain(most));
                let at = containers.index(n);
                causes.invalid(&at.key(name).field("limits"), &shown(limit), &why);
            }
        }
    }
}

/// What all containers of a pod need at one time, in nano-units: the running ones together, and each
/// that comes before them beside those that stay.
pub(super) fn aggregate<'v>(spec: &'v Value, part: &str) -> BTreeMap<&'v str, i128> {
    let add = |sums: &mut BTreeMap<&'v str, i128>, container: &'v Value| {
        for (name, value) in members(&container["resources"][part]) {
            *sums.entry(name.as_str()).or_default() += nano(value);
        }
    };
    let mut sums = BTreeMap::new();
    items(&spec["containers"]).iter().for_each(|container| add(&mut sums, container));
    let mut sidecars = BTreeMap::new();
    let mut peak: BTreeMap<&str, i128> = BTreeMap::new();
    for container in items(&spec["initContainers"]) {
        let mut now = sidecars.clone();
        add(&mut now, container);
        if text(container, "restartPolicy") == "Always" {
            add(&mut sums, container);
            sidecars = now.clone();
        }
        for (name, value) in now {
            let most = peak.entry(name).or_default();
            *most = value.max(*most);
        }
    }
    for (name, value) in peak {
        let sum = sums.entry(name).or_default();
        *sum = value.max(*sum);
    }
    sums
}

/// `overhead` of a pod or a runtime class, whose faults upstream reports as those of limits.
pub(crate) fn overhead(causes: &mut Causes, at: &At<'_>, overhead: &Value) {
    requirements(causes, at, &json!({"limits": overhead}), container_name);
}

#[test]
fn sidecars_stay_beside_what_comes_after() {
    let cpu = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
    let mut sidecar = cpu("2");
    sidecar["restartPolicy"] = "Always".into();
    let spec = json!({"containers": [cpu("1"), cpu("1")], "initContainers": [sidecar, cpu("5")]});
    assert_eq!(aggregate(&spec, "requests")["cpu"], 7_000_000_000);
}
