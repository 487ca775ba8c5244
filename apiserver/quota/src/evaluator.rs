//! How objects of one type are counted.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::pod::{Side, charged};
use crate::scope::Selector;
use crate::{Amount, Amounts, items, text};

/// Suffix of a class of storage in the name of a resource, such as `gold.storageclass.storage.k8s.io/requests.storage`.
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// What claims use.
const OF_CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
/// What services use.
const OF_SERVICES: [&str; 3] = ["services", "services.nodeports", "services.loadbalancers"];
/// What pods use, but for what is named by its domain.
const OF_PODS: [&str; 10] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Resources that every container must ask for if a quota is about them.
const REQUIRED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// Types that could be counted before `count/` was there.
const LEGACY: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// Knows the objects of one type.
///
/// Source: kubernetes.io, "Resource Quotas"; upstream `pkg/quota/v1/evaluator/core`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evaluator<'a> {
    /// Empty for core.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
}

/// Whether quotas are not about this type at all: it is not stored, or it comes and goes too fast.
pub fn is_ignored(group: &str, resource: &str) -> bool {
    match group {
        "" => matches!(resource, "bindings" | "componentstatuses" | "events"),
        "authentication.k8s.io" | "authorization.k8s.io" => true,
        "events.k8s.io" => resource == "events",
        _ => false,
    }
}

/// Whether the resource of a node is of somebody else's domain, such as `example.com/gpu`.
pub fn is_extended(name: &str) -> bool {
    let deviceclass = name.starts_with("deviceclass.resource.kubernetes.io/");
    let foreign = name.contains('/') && !name.contains("kubernetes.io/");
    (foreign || deviceclass) && !name.starts_with("requests.")
}

impl<'a> Evaluator<'a> {
    /// The evaluator of a type; see [`is_ignored`] for those which have none.
    pub fn new(group: &'a str, resource: &'a str) -> Self {
        Self { group, resource }
    }

    /// The evaluator of the type whose objects use the resource that a quota names so; `None` if nothing does.
    pub fn of_resource(name: &'a str) -> Option<Self> {
        if let Some(counted) = name.strip_prefix("count/") {
            let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
            return Some(Self { group, resource });
        }
        if LEGACY.contains(&name) {
            return Some(Self { group: "", resource: name });
        }
        let measured = ["pods", "services", "persistentvolumeclaims"].map(|r| Self::new("", r));
        measured.into_iter().find(|evaluator| evaluator.tracks(name))
    }

    fn is(&self, resource: &str) -> bool {
        self.group.is_empty() && self.resource == resource
    }

    /// `count/deployments.apps`.
    fn count_name(&self) -> String {
        match self.group {
            "" => format!("count/{}", self.resource),
            group => format!("count/{}.{group}", self.resource),
        }
    }

    /// Whether objects of this type use the resource that a quota names so.
    pub fn tracks(&self, name: &str) -> bool {
        if let Some(counted) = name.strip_prefix("count/") {
            let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
            return resource == self.resource && group == self.group;
        }
        if !self.group.is_empty() {
            return false;
        }
        match self.resource {
            "pods" => {
                let requested = name.strip_prefix("requests.");
                OF_PODS.contains(&name)
                    || requested.unwrap_or(name).starts_with("hugepages-")
                    || requested.is_some_and(is_extended)
            }
            "services" => OF_SERVICES.contains(&name),
            "persistentvolumeclaims" => {
                let of_class = name.split_once(STORAGE_CLASS).map(|(_, resource)| resource);
                OF_CLAIMS.contains(&of_class.unwrap_or(name))
            }
            resource => LEGACY.contains(&resource) && name == resource,
        }
    }

    /// What an object uses.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        let mut usage = match self.resource {
            "pods" if self.is("pods") => of_pod(object, now),
            "services" if self.is("services") => of_service(&object["spec"]),
            "persistentvolumeclaims" if self.is("persistentvolumeclaims") => of_claim(object),
            _ => Amounts::default(),
        };
        usage.set(self.count_name(), Amount::of(1));
        if self.group.is_empty() && LEGACY.contains(&self.resource) {
            usage.set(self.resource, Amount::of(1));
        }
        usage
    }

    /// Whether an object fits one condition of a scope. Types without scopes fit none.
    pub fn fits(&self, selector: &Selector, object: &Value) -> bool {
        match self.resource {
            "pods" if self.is("pods") => selector.has_pod(object),
            "persistentvolumeclaims" if self.is("persistentvolumeclaims") => {
                selector.has_claim(object)
            }
            _ => false,
        }
    }

    /// Whether an object fits all of them.
    pub fn fits_all(&self, selectors: &[Selector], object: &Value) -> bool {
        selectors.iter().all(|selector| self.fits(selector, object))
    }

    /// What an object must say, and does not: `must specify limits.cpu for: a,b`.
    pub fn unspecified<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        object: &Value,
    ) -> Option<String> {
        let spec = &object["spec"];
        let whole = ["requests", "limits"].into_iter().any(|side| {
            let named = spec["resources"][side].as_object().into_iter().flatten();
            named.into_iter().any(|(name, _)| {
                matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-")
            })
        });
        if !self.is("pods") || whole {
            return None;
        }
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for name in names.filter(|name| REQUIRED.contains(name)) {
            let (side, resource) = name.split_once('.').unwrap_or(("requests", name));
            let containers =
                items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
            for container in containers.filter(|c| c["resources"][side][resource].is_null()) {
                missing.entry(name).or_default().insert(text(container, "name"));
            }
        }
        let parts: Vec<String> = missing
            .into_iter()
            .map(|(name, containers)| {
                let containers: Vec<&str> = containers.into_iter().collect();
                format!("{name} for: {}", containers.join(","))
            })
            .collect();
        (!parts.is_empty()).then(|| format!("must specify {}", parts.join("; ")))
    }
}

/// A pod uses nothing but its place in the store once it has ended, or should have.
fn of_pod(pod: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::default();
    if has_ended(pod, now) {
        return usage;
    }
    usage.set("pods", Amount::of(1));
    for (name, amount) in charged(pod, Side::Requests).0 {
        let plain = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-");
        if plain || is_extended(&name) {
            usage.set(format!("requests.{name}"), amount);
        }
        if plain {
            usage.set(name, amount);
        }
    }
    for (name, amount) in charged(pod, Side::Limits).0 {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.set(format!("limits.{name}"), amount);
        }
    }
    usage
}

/// A pod on a lost node never ends; it is not held against its namespace for ever.
fn has_ended(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed") {
        return true;
    }
    let meta = &pod["metadata"];
    let deleted: Option<Timestamp> =
        meta["deletionTimestamp"].as_str().and_then(|time| time.parse().ok());
    let grace = meta["deletionGracePeriodSeconds"].as_i64().map(SignedDuration::from_secs);
    let (Some(deleted), Some(grace)) = (deleted, grace) else { return false };
    deleted.checked_add(grace).is_ok_and(|end| now > end)
}

fn of_service(spec: &Value) -> Amounts {
    let ports = items(&spec["ports"]);
    let explicit = || ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0);
    let (n_ports, n_balancers) = match text(spec, "type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => (explicit().count(), 1),
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    let mut usage = Amounts::default();
    usage.set("services", Amount::of(1));
    usage.set("services.nodeports", Amount::of(i128::try_from(n_ports).unwrap_or(i128::MAX)));
    usage.set("services.loadbalancers", Amount::of(n_balancers));
    usage
}

fn of_claim(claim: &Value) -> Amounts {
    let mut usage = Amounts::default();
    let class =
        claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = class.unwrap_or_else(|| text(&claim["spec"], "storageClassName"));
    let mut charge = |name: &str, amount: Amount| {
        usage.set(name, amount);
        if !class.is_empty() {
            usage.set(format!("{class}{STORAGE_CLASS}{name}"), amount);
        }
    };
    charge("persistentvolumeclaims", Amount::of(1));
    let asked = Amounts::read(&claim["spec"]["resources"]["requests"]).get("storage");
    if let Some(mut storage) = asked {
        let granted = Amounts::read(&claim["status"]["allocatedResources"]).get("storage");
        if let Some(granted) = granted.filter(|granted| granted.nano > storage.nano) {
            storage = granted;
        }
        charge("requests.storage", storage.whole());
    }
    usage
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-01T00:01:00Z";

    fn uses(resource: &str, object: Value) -> String {
        Evaluator::new("", resource).usage(&object, NOW.parse().unwrap()).to_string()
    }

    #[test]
    fn pods() {
        let containers = json!([{"resources": {
            "requests": {"cpu": "500m", "memory": "1Gi", "example.com/gpu": 2, "hugepages-2Mi": "2Mi"},
            "limits": {"cpu": "1"}}}]);
        assert_eq!(
            uses("pods", json!({"spec": {"containers": containers}})),
            "count/pods=1,cpu=500m,hugepages-2Mi=2Mi,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=500m,\
             requests.example.com/gpu=2,requests.hugepages-2Mi=2Mi,requests.memory=1Gi"
        );
        for phase in ["Succeeded", "Failed"] {
            let ended = json!({"spec": {"containers": containers}, "status": {"phase": phase}});
            assert_eq!(uses("pods", ended), "count/pods=1");
        }
        let deleted = |grace: i64| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": grace}});
        assert_eq!(uses("pods", deleted(29)), "count/pods=1");
        assert_eq!(uses("pods", deleted(31)), "count/pods=1,pods=1");
    }

    #[test]
    fn a_pod_that_is_resized_is_charged_for_the_larger() {
        let pod = json!({
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"containerStatuses": [{"name": "a", "allocatedResources": {"cpu": "2"}}]},
        });
        assert!(uses("pods", pod).contains("requests.cpu=2"));
    }

    #[test]
    fn services() {
        let of = |kind: &str, more: Value| {
            let mut spec =
                json!({"type": kind, "ports": [{"port": 1, "nodePort": 30000}, {"port": 2}]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            uses("services", json!({ "spec": spec }))
        };
        let expect = |ports: u32, balancers: u32| {
            format!(
                "count/services=1,services=1,services.loadbalancers={balancers},services.nodeports={ports}"
            )
        };
        assert_eq!(of("ClusterIP", json!({})), expect(0, 0));
        assert_eq!(of("NodePort", json!({})), expect(2, 0));
        assert_eq!(of("LoadBalancer", json!({})), expect(2, 1));
        assert_eq!(
            of("LoadBalancer", json!({"allocateLoadBalancerNodePorts": false})),
            expect(1, 1)
        );
    }

    #[test]
    fn claims() {
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            uses("persistentvolumeclaims", claim),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
        );
        let grown = json!({"spec": {"resources": {"requests": {"storage": "1"}}}, "status": {"allocatedResources": {"storage": "1500m"}}});
        assert_eq!(
            uses("persistentvolumeclaims", grown),
            "count/persistentvolumeclaims=1,persistentvolumeclaims=1,requests.storage=2"
        );
    }

    #[test]
    fn every_type_can_be_counted() {
        let deployments = Evaluator::new("apps", "deployments");
        assert_eq!(
            deployments.usage(&json!({}), NOW.parse().unwrap()).to_string(),
            "count/deployments.apps=1"
        );
        assert!(
            deployments.tracks("count/deployments.apps")
                && !deployments.tracks("count/deployments")
        );
        let secrets = Evaluator::new("", "secrets");
        assert!(secrets.tracks("secrets") && secrets.tracks("count/secrets"));
        let pods = Evaluator::new("", "pods");
        for name in
            ["pods", "limits.cpu", "hugepages-2Mi", "requests.hugepages-2Mi", "requests.a.com/b"]
        {
            assert!(pods.tracks(name), "{name}");
        }
        for name in ["services", "requests.storage", "a.com/b", "count/services"] {
            assert!(!pods.tracks(name), "{name}");
        }
        let claims = Evaluator::new("", "persistentvolumeclaims");
        assert!(claims.tracks("gold.storageclass.storage.k8s.io/requests.storage"));
        assert!(is_ignored("events.k8s.io", "events") && !is_ignored("", "pods"));
        let of = |name| Evaluator::of_resource(name).map(|e| (e.group, e.resource));
        assert_eq!(of("count/jobs.batch"), Some(("batch", "jobs")));
        assert_eq!(of("configmaps"), Some(("", "configmaps")));
        assert_eq!(of("limits.cpu"), Some(("", "pods")));
        assert_eq!(of("unheard"), None);
    }

    #[test]
    fn pods_must_say_what_they_are_counted_for() {
        let pod = json!({"spec": {
            "containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}],
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1"}}}],
        }});
        let names = || ["limits.cpu", "memory", "pods", "requests.ephemeral-storage"].into_iter();
        let pods = Evaluator::new("", "pods");
        assert_eq!(
            pods.unspecified(names(), &pod).unwrap(),
            "must specify limits.cpu for: b; memory for: a,b"
        );
        let mut whole = pod.clone();
        whole["spec"]["resources"] = json!({"limits": {"cpu": "1"}});
        assert_eq!(pods.unspecified(names(), &whole), None);
        assert_eq!(Evaluator::new("", "services").unspecified(names(), &pod), None);
    }
}
