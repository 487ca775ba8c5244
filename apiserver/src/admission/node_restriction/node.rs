//! What an agent may say of its own Node.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Asked, Operation, Rule, require, same};
use crate::types::check::members;

/// Labels of Kubernetes' own that say what the agent knows best.
///
/// Source: upstream `staging/src/k8s.io/kubelet/pkg/apis/well_known_labels.go`.
const LABELS: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// Domains whose labels agents may set, subdomains included.
const DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Domains whose other labels they may not set, subdomains included.
const RESERVED: [&str; 2] = ["kubernetes.io", "k8s.io"];

/// Judges a write of a Node or its status.
pub(super) fn check(asked: &Asked<'_>) -> Rule {
    let Asked { node, name, .. } = asked;
    require(name == node, || format!("node {node:?} is not allowed to modify node {name:?}"))?;
    match asked.operation {
        Operation::Create => create(asked),
        Operation::Update => update(asked),
        Operation::Delete | Operation::Connect => Ok(()),
    }
}

fn create(asked: &Asked<'_>) -> Rule {
    let node = asked.node;
    require(asked.object["spec"]["configSource"].is_null(), || {
        format!("node {node:?} is not allowed to create pods with a non-nil configSource")
    })?;
    let labels = forbidden_labels(asked.object, &Value::Null);
    require(labels.is_empty(), || {
        format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", "))
    })
}

fn update(asked: &Asked<'_>) -> Rule {
    let Asked { node, object, old, .. } = asked;
    let (spec, before) = (&object["spec"], &old["spec"]);
    let source = &spec["configSource"];
    require(source.is_null() || same(source, &before["configSource"]), || {
        format!("node {node:?} is not allowed to update configSource to a new non-nil configSource")
    })?;
    require(same(&spec["taints"], &before["taints"]), || {
        format!("node {node:?} is not allowed to modify taints")
    })?;
    let owners = "ownerReferences";
    require(same(&object["metadata"][owners], &old["metadata"][owners]), || {
        format!("node {node:?} is not allowed to modify {owners}")
    })?;
    let labels = forbidden_labels(object, old);
    require(labels.is_empty(), || format!("is not allowed to modify labels: {}", labels.join(", ")))
}

/// Labels that differ and are not the agent's to set or remove, in order.
fn forbidden_labels<'v>(object: &'v Value, old: &'v Value) -> Vec<&'v str> {
    let (labels, before) = (&object["metadata"]["labels"], &old["metadata"]["labels"]);
    let keys: BTreeSet<&str> =
        members(labels).chain(members(before)).map(|(key, _)| key.as_str()).collect();
    // An absent label is not an empty one.
    let differs = |key: &&str| labels.get(*key) != before.get(*key);
    keys.into_iter().filter(differs).filter(|key| !is_allowed(key)).collect()
}

fn is_allowed(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    LABELS.contains(&label) || is_in(domain, &DOMAINS) || !is_in(domain, &RESERVED)
}

/// Whether a domain is one of these, or below one of them.
fn is_in(domain: &str, domains: &[&str]) -> bool {
    domains.iter().any(|known| {
        let sub = domain.strip_suffix(known);
        sub.is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{asked, says};
    use super::*;

    fn node(name: &str, labels: &Value, spec: &Value) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "spec": spec})
    }

    #[test]
    fn only_the_own_node_is_written() {
        let (own, other) = (node("n1", &json!({}), &json!({})), node("n2", &json!({}), &json!({})));
        let words = "node \"n1\" is not allowed to modify node \"n2\"";
        for operation in [Operation::Create, Operation::Update, Operation::Delete] {
            says(check(&asked(operation, &own, &own)), "");
            says(check(&asked(operation, &other, &other)), words);
        }
    }

    #[test]
    fn labels_are_those_of_a_list() {
        let bare = node("n1", &json!({}), &json!({}));
        for (label, allowed) in [
            ("pool", true),
            ("example.com/pool", true),
            ("notkubernetes.io/pool", true),
            ("kubernetes.io/hostname", true),
            ("topology.kubernetes.io/zone", true),
            ("node.kubernetes.io/instance-type", true),
            ("gpu.node.kubernetes.io/count", true),
            ("kubelet.kubernetes.io/x", true),
            ("node-restriction.kubernetes.io/pci", false),
            ("a.node-restriction.kubernetes.io/pci", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("kubernetes.io/pool", false),
            ("pool.k8s.io/a", false),
        ] {
            let with = node("n1", &json!({label: ""}), &json!({}));
            let words =
                |text: &str| if allowed { String::new() } else { format!("{text}: {label}") };
            let [set, modify] = ["set the following labels", "modify labels"].map(words);
            says(check(&asked(Operation::Create, &with, &Value::Null)), &set);
            says(check(&asked(Operation::Update, &with, &bare)), &modify);
            says(check(&asked(Operation::Update, &bare, &with)), &modify);
            says(check(&asked(Operation::Update, &with, &with)), "");
        }
    }

    #[test]
    fn taints_owners_and_sources_stay() {
        let taint = json!([{"key": "a", "effect": "NoSchedule"}]);
        let bare = node("n1", &json!({}), &json!({}));
        let tainted = node("n1", &json!({}), &json!({"taints": taint}));
        let sourced =
            node("n1", &json!({}), &json!({"configSource": {"configMap": {"name": "c"}}}));
        let mut owned = bare.clone();
        owned["metadata"]["ownerReferences"] = json!([{"kind": "Node", "name": "n2"}]);
        let update = |new, old| check(&asked(Operation::Update, new, old));
        for (changed, words) in [
            (&tainted, "node \"n1\" is not allowed to modify taints"),
            (&owned, "node \"n1\" is not allowed to modify ownerReferences"),
        ] {
            says(update(changed, &bare), words);
            says(update(&bare, changed), words);
            says(update(changed, changed), "");
        }
        says(update(&sourced, &bare), "to a new non-nil configSource");
        says(update(&bare, &sourced), "");
        // A new Node may say with which taints it comes.
        says(check(&asked(Operation::Create, &tainted, &Value::Null)), "");
        says(
            check(&asked(Operation::Create, &sourced, &Value::Null)),
            "with a non-nil configSource",
        );
    }
}
