//! The resources that a node has allotted to a pod, which may be others than the API asks for now. Pure.
//!
//! A pod starts with what its specification asks for. A later change waits until the node has allotted it; until then
//! all of the agent works with a pod that still has its old resources.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity::thousandths;

/// Resources of a pod and of those of its containers that can be resized.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allotment {
    /// `spec.resources`.
    pub whole: Option<ResourceRequirements>,
    /// By container; ephemeral ones have none.
    pub containers: BTreeMap<String, ResourceRequirements>,
}

impl Allotment {
    /// What a pod's specification says.
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let resources = |c: &Container| (c.name.clone(), c.resources.clone().unwrap_or_default());
        Self { whole: spec.resources.clone(), containers: resizable(spec).map(resources).collect() }
    }

    /// The pod with these resources in place of its own.
    pub fn put_into(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let Some(spec) = &mut pod.spec else { return pod };
        spec.resources.clone_from(&self.whole);
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            if let Some(own) = self.containers.get(&container.name) {
                container.resources = Some(own.clone());
            }
        }
        pod
    }

    /// Whether both mean the same amounts, however they are written.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let empty = ResourceRequirements::default();
        let whole = |a: &Self| a.whole.clone().unwrap_or_default();
        let names = self.containers.keys().chain(other.containers.keys());
        let of = |a: &Self, name: &str| a.containers.get(name).unwrap_or(&empty).clone();
        agree(&whole(self), &whole(other))
            && names.into_iter().all(|name| agree(&of(self, name), &of(other, name)))
    }
}

/// Containers whose resources may change while they run.
fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Whether two containers ask for the same amounts.
pub fn agree(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    amounts(&a.requests) == amounts(&b.requests) && amounts(&a.limits) == amounts(&b.limits)
}

/// Request and limit of one resource in thousandths; none is 0.
pub fn pair(resources: &ResourceRequirements, name: &str) -> (i128, i128) {
    let of = |list: &Option<BTreeMap<String, Quantity>>| {
        list.as_ref().and_then(|l| thousandths(&l.get(name)?.0)).unwrap_or(0)
    };
    (of(&resources.requests), of(&resources.limits))
}

/// `base` with CPU and memory as `set` has them.
pub fn overlay(base: &ResourceRequirements, set: &ResourceRequirements) -> ResourceRequirements {
    let merge = |base: &Option<BTreeMap<String, Quantity>>,
                 set: &Option<BTreeMap<String, Quantity>>| {
        let mut list = base.clone().unwrap_or_default();
        for name in ["cpu", "memory"] {
            match set.as_ref().and_then(|l| l.get(name)) {
                Some(quantity) => _ = list.insert(name.to_owned(), quantity.clone()),
                None => _ = list.remove(name),
            }
        }
        (base.is_some() || !list.is_empty()).then_some(list)
    };
    ResourceRequirements {
        requests: merge(&base.requests, &set.requests),
        limits: merge(&base.limits, &set.limits),
        claims: base.claims.clone(),
    }
}

fn amounts(list: &Option<BTreeMap<String, Quantity>>) -> BTreeMap<&str, Option<i128>> {
    list.iter().flatten().map(|(name, q)| (name.as_str(), thousandths(&q.0))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str) -> Pod {
        let own = json!({"name": "a", "resources": {"requests": {"cpu": cpu}}});
        let spec = json!({"containers": [own], "ephemeralContainers": [{"name": "e"}]});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn amounts_count_not_their_spelling() {
        let of = |cpu: &str| Allotment::of(&pod(cpu));
        assert!(of("1").agrees_with(&of("1000m")));
        assert!(!of("1").agrees_with(&of("2")));
        assert!(!of("1").agrees_with(&Allotment::default()));
    }

    #[test]
    fn an_allotment_takes_the_place_of_what_is_asked_for() {
        let allotted = Allotment::of(&pod("1"));
        assert_eq!(allotted.put_into(&pod("2")), pod("1"));
        assert!(!allotted.containers.contains_key("e"));
    }

    #[test]
    fn what_is_set_covers_cpu_and_memory_alone() {
        let read = |v| serde_json::from_value::<ResourceRequirements>(v).unwrap();
        let base = read(json!({"requests": {"cpu": "2", "x.y/z": "1"}, "limits": {"cpu": "3"}}));
        let set = read(json!({"requests": {"cpu": "1", "memory": "5"}}));
        let both =
            read(json!({"requests": {"cpu": "1", "memory": "5", "x.y/z": "1"}, "limits": {}}));
        assert_eq!(overlay(&base, &set), both);
        assert_eq!(pair(&both, "cpu"), (1000, 0));
    }
}
