//! Taints that follow from a node's conditions and from being cordoned.
//!
//! Source: kubernetes.io, "Taints and Tolerations", "Taint based Evictions" and "Taint Nodes by Condition".

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Readiness, conditions, readiness};

/// Taint of nodes whose agent says that they are not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of nodes whose agent is silent.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Conditions that, when true, keep new pods away, and their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];

/// Whether a node that is not ready may get a taint that evicts its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// It may get one now.
    Begin,
    /// It keeps what it has: too many nodes are in trouble.
    AsIs,
    /// It must have none: all nodes are in trouble, so the fault is more likely ours.
    Never,
}

/// Whether the node should have a taint that evicts, and has none.
pub fn wants_eviction(node: &Node) -> bool {
    evicting(node).is_some() && !taints(node).iter().any(is_evicting)
}

/// Its taints as they should be; none if they are so already. Other taints stay as they are.
pub fn wanted(node: &Node, eviction: Eviction, now: Timestamp) -> Option<Vec<Taint>> {
    let old = taints(node);
    let mut wanted: Vec<(&str, &str)> =
        repelling(node).into_iter().map(|key| (key, NO_SCHEDULE)).collect();
    let had_one = old.iter().any(is_evicting);
    if let Some(key) = evicting(node)
        && (eviction == Eviction::Begin || (eviction == Eviction::AsIs && had_one))
    {
        wanted.push((key, NO_EXECUTE));
    }
    let unstated = readiness(node) == Readiness::Unstated;
    let stays = |taint: &&Taint| {
        let managed = is_repelling(taint) || is_evicting(taint);
        let waits = unstated && taint.key == NOT_READY; // It was registered so, and has not said more.
        !managed || waits || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
    };
    let mut new: Vec<Taint> = old.iter().filter(stays).cloned().collect();
    for (key, effect) in wanted {
        if !new.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = Some(Time(now));
            new.push(Taint { key: key.into(), effect: effect.into(), time_added, value: None });
        }
    }
    (new != old).then_some(new)
}

/// The taints of `node`.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

fn evicting(node: &Node) -> Option<&'static str> {
    match readiness(node) {
        Readiness::NotReady => Some(NOT_READY),
        Readiness::Unreachable => Some(UNREACHABLE),
        Readiness::Ready | Readiness::Unstated => None,
    }
}

fn repelling(node: &Node) -> Vec<&'static str> {
    let mut keys: Vec<_> = evicting(node).into_iter().collect();
    let is_true =
        |type_: &str| conditions(node).iter().any(|c| c.type_ == type_ && c.status == "True");
    keys.extend(PRESSURES.iter().filter(|(type_, _)| is_true(type_)).map(|(_, key)| *key));
    if node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        keys.push(UNSCHEDULABLE);
    }
    keys
}

fn is_evicting(taint: &Taint) -> bool {
    taint.effect == NO_EXECUTE && matches!(taint.key.as_str(), NOT_READY | UNREACHABLE)
}

fn is_repelling(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    let is_ours = matches!(key, NOT_READY | UNREACHABLE | UNSCHEDULABLE);
    taint.effect == NO_SCHEDULE
        && (is_ours || PRESSURES.iter().any(|(_, pressure)| *pressure == key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(conditions: &[(&str, &str)], taints: &[&str], unschedulable: bool) -> Node {
        let conditions: Vec<_> =
            conditions.iter().map(|(t, s)| json!({"type": t, "status": s})).collect();
        let taint = |text: &&str| {
            let (key, effect) = text.split_once(':').unwrap();
            json!({"key": full(key), "effect": effect})
        };
        let taints: Vec<_> = taints.iter().map(taint).collect();
        serde_json::from_value(json!({"spec": {"taints": taints, "unschedulable": unschedulable},
            "status": {"conditions": conditions}}))
        .unwrap()
    }

    fn full(key: &str) -> String {
        if key.contains('/') { key.to_owned() } else { format!("node.kubernetes.io/{key}") }
    }

    #[track_caller]
    fn check(node: &Node, eviction: Eviction, expected: &str) {
        let text = wanted(node, eviction, Timestamp::UNIX_EPOCH).map(|taints| {
            let short = |t: &Taint| {
                format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)
            };
            taints.iter().map(short).collect::<Vec<_>>().join(" ")
        });
        assert_eq!(text.as_deref().unwrap_or("as it is"), expected);
    }

    #[test]
    fn a_ready_node_has_none() {
        let ready = &[("Ready", "True")];
        check(&node(ready, &[], false), Eviction::Begin, "as it is");
        let old = &["not-ready:NoSchedule", "unreachable:NoExecute", "example.com/mine:NoExecute"];
        check(&node(ready, old, false), Eviction::Begin, "example.com/mine:NoExecute");
    }

    #[test]
    fn conditions_become_taints() {
        let full = &[
            ("Ready", "True"),
            ("MemoryPressure", "True"),
            ("PIDPressure", "True"),
            ("DiskPressure", "False"),
        ];
        check(
            &node(full, &[], true),
            Eviction::Begin,
            "memory-pressure:NoSchedule pid-pressure:NoSchedule unschedulable:NoSchedule",
        );
        check(
            &node(&[("Ready", "True")], &["unschedulable:NoSchedule"], true),
            Eviction::Begin,
            "as it is",
        );
    }

    #[test]
    fn trouble_repels_at_once_and_evicts_when_it_may() {
        let down = &[("Ready", "False")];
        check(&node(down, &[], false), Eviction::Begin, "not-ready:NoSchedule not-ready:NoExecute");
        check(&node(down, &[], false), Eviction::AsIs, "not-ready:NoSchedule");
        let both = &["not-ready:NoSchedule", "not-ready:NoExecute"];
        check(&node(down, both, false), Eviction::AsIs, "as it is");
        check(&node(down, both, false), Eviction::Never, "not-ready:NoSchedule");
        let silent = &[("Ready", "Unknown")];
        check(
            &node(silent, both, false),
            Eviction::AsIs,
            "unreachable:NoSchedule unreachable:NoExecute",
        );
        assert!(wants_eviction(&node(silent, &[], false)));
        assert!(!wants_eviction(&node(silent, both, false)));
        assert!(!wants_eviction(&node(&[("Ready", "True")], &[], false)));
    }

    #[test]
    fn a_node_that_has_said_nothing_keeps_the_taint_that_it_came_with() {
        check(&node(&[], &["not-ready:NoSchedule"], false), Eviction::Begin, "as it is");
    }
}
