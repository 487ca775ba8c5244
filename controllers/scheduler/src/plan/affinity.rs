//! Node selectors, node affinity, taints: what a pod says about nodes, and nodes about pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm, Taint, Toleration,
};

use crate::world::{NodeInfo, PodInfo};

/// Whether the node selector and the required node affinity allow the node.
///
/// Source: kubernetes.io, "Assigning Pods to Nodes".
pub fn selects(pod: &PodInfo, node: &NodeInfo) -> bool {
    let Some(object) = &node.node else { return false };
    let selector = pod.spec().and_then(|s| s.node_selector.as_ref());
    let mut wanted = selector.into_iter().flatten();
    wanted.all(|(key, value)| node.label(key) == Some(value.as_str()))
        && required_terms(pod).is_none_or(|terms| terms.iter().any(|t| matches(t, object)))
}

/// Sum of the weights of the preferences that the node meets.
pub fn preference(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let Some(object) = &node.node else { return 0 };
    let met = preferred_terms(pod).iter().filter(|t| matches_or_empty(&t.preference, object));
    met.map(|t| i64::from(t.weight)).sum()
}

/// Whether the pod prefers some nodes.
pub fn has_preference(pod: &PodInfo) -> bool {
    !preferred_terms(pod).is_empty()
}

/// Names of the only nodes that the required affinity can allow, if it names them.
///
/// This is how the pods of a DaemonSet are bound to their node each; looking at all the others
/// would be a waste.
pub fn named_nodes(pod: &PodInfo) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for term in required_terms(pod)? {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let named = fields.iter().find(|f| f.key == "metadata.name" && f.operator == "In")?;
        names.extend(named.values.iter().flatten().map(String::as_str));
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// The first taint among those of the given effects that the pod does not bear.
pub fn untolerated<'a>(pod: &PodInfo, taints: &'a [Taint], effects: &[&str]) -> Option<&'a Taint> {
    let mut counting = taints.iter().filter(|t| effects.contains(&t.effect.as_str()));
    counting.find(|taint| !pod.tolerations().iter().any(|t| tolerates(t, taint)))
}

/// Whether a toleration covers a taint.
///
/// Source: kubernetes.io, "Taints and Tolerations", "Concepts".
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let effect = set(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key = set(&toleration.key);
    let value_matters = toleration.operator.as_deref() != Some("Exists");
    let key_fits = match &key {
        Some(key) => *key == taint.key,
        None => !value_matters,
    };
    let value = toleration.value.as_deref().unwrap_or_default();
    effect && key_fits && (!value_matters || value == taint.value.as_deref().unwrap_or_default())
}

fn required_terms(pod: &PodInfo) -> Option<&[NodeSelectorTerm]> {
    let affinity = pod.affinity()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&required.node_selector_terms)
}

fn preferred_terms(pod: &PodInfo) -> &[PreferredSchedulingTerm] {
    let affinity = pod.affinity().and_then(|a| a.node_affinity.as_ref());
    let preferred =
        affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    preferred.unwrap_or_default()
}

/// A required term without any requirement allows no node.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let any =
        |list: &Option<Vec<NodeSelectorRequirement>>| list.as_ref().is_some_and(|l| !l.is_empty());
    (any(&term.match_expressions) || any(&term.match_fields)) && matches_or_empty(term, node)
}

/// A preference without any requirement is met by every node.
fn matches_or_empty(term: &NodeSelectorTerm, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let mut expressions = term.match_expressions.iter().flatten();
    let mut fields = term.match_fields.iter().flatten();
    expressions.all(|r| meets(r, labels.get(&r.key).map(String::as_str)))
        && fields.all(|r| {
            let name = node.metadata.name.as_deref().filter(|_| r.key == "metadata.name");
            meets(r, name)
        })
}

fn meets(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|v| v == value);
    let compared = || {
        let (left, right) = (found?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?);
        Some(left.cmp(&right))
    };
    match requirement.operator.as_str() {
        "In" => found.is_some_and(listed),
        "NotIn" => !found.is_some_and(listed),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}
