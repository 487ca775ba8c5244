//! What a pod asks for.

use serde_json::Value;

use crate::amounts::Amounts;
use crate::items;

/// `requests` or `limits` of containers and pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is reserved.
    Requests,
    /// What may be used at most.
    Limits,
}

impl Side {
    fn member(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// What the containers of a pod's spec need at the same time: the sum of those that run together, or more, if a
/// container needs more while it initialises. Resources of the whole pod stand in for those of its containers.
///
/// Source: KEP-753 (sidecars), KEP-2837 (pod-level resources); `PodRequests` in upstream `component-helpers/resource`.
pub fn total(spec: &Value, side: Side) -> Amounts {
    sum(spec, side, |container| Amounts::read(&container["resources"][side.member()]))
}

fn sum(spec: &Value, side: Side, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let mut together = Amounts::default();
    for container in items(&spec["containers"]) {
        together.add_all(&of(container));
    }
    let (mut sidecars, mut starting) = (Amounts::default(), Amounts::default());
    for container in items(&spec["initContainers"]) {
        let own = of(container);
        if container["restartPolicy"] == "Always" {
            together.add_all(&own);
            sidecars.add_all(&own);
            starting.raise_to(&sidecars);
        } else {
            let mut now = own;
            now.add_all(&sidecars);
            starting.raise_to(&now);
        }
    }
    together.raise_to(&starting);
    let whole = Amounts::read(&spec["resources"][side.member()]);
    let whole =
        whole.only(|name| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-"));
    for (name, amount) in whole.0 {
        together.set(name, amount);
    }
    together
}

/// As [`total`], with what the pod's runtime needs for itself.
pub fn total_with_overhead(spec: &Value, side: Side) -> Amounts {
    with_overhead(total(spec, side), spec, side)
}

/// What a pod is charged for: while it is resized, the larger of what it has and what it asks for.
///
/// Source: KEP-1287 (in-place resize).
pub fn charged(pod: &Value, side: Side) -> Amounts {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let statuses = || {
        let lists = ["containerStatuses", "initContainerStatuses"];
        lists.into_iter().flat_map(|list| items(&status[list]))
    };
    let of = |container: &Value| {
        let mut amounts = Amounts::read(&container["resources"][side.member()]);
        if let Some(now) = statuses().find(|now| now["name"] == container["name"]) {
            amounts.raise_to(&Amounts::read(&now["resources"][side.member()]));
            if side == Side::Requests {
                amounts.raise_to(&Amounts::read(&now["allocatedResources"]));
            }
        }
        amounts
    };
    with_overhead(sum(spec, side, of), spec, side)
}

fn with_overhead(mut total: Amounts, spec: &Value, side: Side) -> Amounts {
    for (name, amount) in Amounts::read(&spec["overhead"]).0 {
        // Overhead makes no limit where there is none.
        if side == Side::Requests || total.get(&name).is_some_and(|limit| limit.nano != 0) {
            total.add(&name, amount);
        }
    }
    total
}

/// Whether a pod asks for nothing: its quality-of-service class is `BestEffort` then.
///
/// Source: kubernetes.io, "Pod Quality of Service Classes".
pub fn is_best_effort(spec: &Value) -> bool {
    let counts = |resources: &Value| {
        [Side::Requests, Side::Limits].into_iter().any(|side| {
            let amounts = Amounts::read(&resources[side.member()]);
            ["cpu", "memory"].iter().any(|name| amounts.get(name).is_some_and(|a| a.nano > 0))
        })
    };
    let containers = items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
    !counts(&spec["resources"]) && !containers.map(|c| &c["resources"]).any(counts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu}}})
    }

    #[track_caller]
    fn needs(spec: &Value, expected: &str) {
        assert_eq!(total(spec, Side::Requests).to_string(), expected);
    }

    #[test]
    fn initialisation_may_need_more_than_the_run() {
        needs(&json!({"containers": [container("1"), container("500m")]}), "cpu=1500m");
        let init = json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]});
        needs(&init, "cpu=3");
    }

    #[test]
    fn sidecars_run_beside_the_others() {
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [container("1")], "initContainers": [container("2"), sidecar, container("2")]});
        // The sidecar is up while the last init container runs.
        needs(&spec, "cpu=3");
    }

    #[test]
    fn the_pod_s_own_resources_stand_in() {
        let spec = json!({"containers": [container("1")], "resources": {"requests": {"cpu": "5"}}});
        needs(&spec, "cpu=5");
    }

    #[test]
    fn overhead_counts_but_makes_no_limit() {
        let spec =
            json!({"containers": [container("1")], "overhead": {"cpu": "100m", "memory": "1Mi"}});
        assert_eq!(total_with_overhead(&spec, Side::Requests).to_string(), "cpu=1100m,memory=1Mi");
        assert!(total_with_overhead(&spec, Side::Limits).is_empty());
    }

    #[test]
    fn a_pod_that_asks_for_nothing_is_best_effort() {
        assert!(is_best_effort(&json!({"containers": [{}]})));
        assert!(!is_best_effort(&json!({"containers": [{}], "initContainers": [container("1")]})));
        assert!(!is_best_effort(
            &json!({"resources": {"limits": {"memory": "1"}}, "containers": [{}]})
        ));
    }
}
