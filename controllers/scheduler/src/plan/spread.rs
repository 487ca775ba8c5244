//! Spreading pods of a kind evenly over zones, nodes, or whatever a label tells apart.
//!
//! Source: kubernetes.io, "Pod Topology Spread Constraints".

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use kube::ResourceExt;
use kube::core::{Expression, Selector, SelectorExt};

use super::affinity;
use super::filter::{REPELLING, Reason};
use crate::world::{NodeInfo, PodInfo, World};

/// The label that tells nodes apart.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The rules for pods that have none of their own: label and skew, all of them soft.
///
/// Source: `systemDefaultConstraints` upstream; documented under "Internal default constraints".
const DEFAULTS: [(&str, i32); 2] = [(HOSTNAME, 3), ("topology.kubernetes.io/zone", 5)];

/// Which pods count as the same kind.
enum Kind<'w> {
    /// Those that a selector means.
    Selected(Selector),
    /// Those of the same controller.
    Owned(&'w str),
    /// Those that every Service of the pod means.
    Served(Vec<&'w Selector>),
}

impl<'w> Kind<'w> {
    fn of_constraint(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Option<Self> {
        let mut selector = Selector::try_from(constraint.label_selector.clone()?).ok()?;
        let own = |key: &String| {
            Some(Expression::In(key.clone(), [pod.pod.labels().get(key)?.clone()].into()))
        };
        let keys: Vec<_> = constraint.match_label_keys.iter().flatten().filter_map(own).collect();
        selector.extend(keys);
        Some(Self::Selected(selector))
    }

    /// What to spread by when the pod does not say.
    fn by_default(pod: &'w PodInfo, world: &'w World) -> Option<Self> {
        if let Some(owner) = &pod.owner {
            return Some(Self::Owned(owner));
        }
        let services: Vec<_> = world.services_of(pod).collect();
        (!services.is_empty()).then_some(Self::Served(services))
    }

    fn has(&self, other: &PodInfo) -> bool {
        match self {
            Self::Selected(selector) => selector.matches(other.pod.labels()),
            Self::Owned(owner) => other.owner.as_deref() == Some(*owner),
            Self::Served(services) => services.iter().all(|s| s.matches(other.pod.labels())),
        }
    }

    fn count(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        if let Self::Owned(owner) = self {
            return node.owners.get(*owner).copied().unwrap_or(0);
        }
        let same = |other: &&std::sync::Arc<PodInfo>| {
            other.namespace == pod.namespace && !other.is_terminating() && self.has(other)
        };
        i64::try_from(node.pods.values().filter(same).count()).unwrap_or(i64::MAX)
    }
}

/// Whether a constraint counts the pods of this node.
fn counts(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let honors = |policy: &Option<String>, default| policy.as_deref().unwrap_or(default) == "Honor";
    (!honors(&constraint.node_affinity_policy, "Honor") || affinity::selects(pod, node))
        && (!honors(&constraint.node_taints_policy, "Ignore")
            || affinity::untolerated(pod, node.taints(), &REPELLING).is_none())
}

struct Hard<'w> {
    constraint: &'w TopologySpreadConstraint,
    by_domain: BTreeMap<&'w str, i64>,
    /// What the pod itself adds to the domain that it joins.
    own: i64,
    /// Pods in the emptiest domain.
    fewest: i64,
}

/// The constraints that must hold.
pub(super) struct HardSpread<'w>(Vec<Hard<'w>>);

impl<'w> HardSpread<'w> {
    pub(super) fn gather(pod: &'w PodInfo, world: &'w World) -> Self {
        let is_hard = |c: &&TopologySpreadConstraint| c.when_unsatisfiable == "DoNotSchedule";
        let hard: Vec<_> = pod.spread_constraints().iter().filter(is_hard).collect();
        let has_labels =
            |node: &&NodeInfo| hard.iter().all(|c| node.label(&c.topology_key).is_some());
        let gathered = hard.iter().map(|constraint| {
            let kind = Kind::of_constraint(constraint, pod);
            let mut by_domain = BTreeMap::new();
            for node in world.nodes().filter(has_labels).filter(|n| counts(constraint, pod, n)) {
                let Some(domain) = node.label(&constraint.topology_key) else { continue };
                *by_domain.entry(domain).or_default() +=
                    kind.as_ref().map_or(0, |k| k.count(pod, node));
            }
            let n_domains = i32::try_from(by_domain.len()).unwrap_or(i32::MAX);
            let too_few = n_domains < constraint.min_domains.unwrap_or(1);
            let fewest = if too_few { 0 } else { by_domain.values().copied().min().unwrap_or(0) };
            Hard { constraint, by_domain, own: i64::from(kind.is_some_and(|k| k.has(pod))), fewest }
        });
        Self(gathered.collect())
    }

    pub(super) fn refusal(&self, node: &NodeInfo) -> Option<Reason> {
        self.0.iter().find_map(|hard| {
            let Some(domain) = node.label(&hard.constraint.topology_key) else {
                return Some(Reason::SpreadLabelMissing);
            };
            let there = hard.by_domain.get(domain).copied().unwrap_or(0);
            let skew = there + hard.own - hard.fewest;
            (skew > i64::from(hard.constraint.max_skew)).then_some(Reason::SpreadTooUneven)
        })
    }
}

/// For each node how crowded it is, larger meaning more, `None` where a label is missing; nothing
/// if the pod has no kind.
pub(super) fn crowding(
    pod: &PodInfo,
    nodes: &[&NodeInfo],
    world: &World,
) -> Option<Vec<Option<f64>>> {
    let soft = soft(pod, world);
    if soft.is_empty() {
        return None;
    }
    let is_default = pod.spread_constraints().is_empty();
    let mut totals: Vec<Option<f64>> = vec![Some(0.0); nodes.len()];
    for (kind, constraint) in &soft {
        let key = constraint.topology_key.as_str();
        if is_default && !nodes.iter().any(|n| n.label(key).is_some() || key == HOSTNAME) {
            continue; // No zones here.
        }
        let domain = |node: &NodeInfo| node.label(key).map(str::to_owned);
        let mut by_domain: BTreeMap<String, i64> =
            nodes.iter().filter_map(|n| Some((domain(n)?, 0))).collect();
        if key != HOSTNAME {
            for node in world.nodes().filter(|n| counts(constraint, pod, n)) {
                if let Some(there) = node.label(key).and_then(|d| by_domain.get_mut(d)) {
                    *there += kind.count(pod, node);
                }
            }
        }
        // More domains mean fewer pods in each: the weight keeps both labels comparable.
        let n_domains = if key == HOSTNAME { nodes.len() } else { by_domain.len() };
        #[expect(
            clippy::cast_precision_loss,
            reason = "counts of pods and nodes are far below 2^52"
        )]
        for (total, node) in totals.iter_mut().zip(nodes) {
            let there = match domain(node) {
                Some(_) | None if key == HOSTNAME => kind.count(pod, node),
                Some(domain) => by_domain.get(&domain).copied().unwrap_or(0),
                None if is_default => 0,
                None => {
                    *total = None;
                    continue;
                }
            };
            if let Some(total) = total {
                *total += there as f64 * ((n_domains + 2) as f64).ln()
                    + f64::from(constraint.max_skew - 1);
            }
        }
    }
    Some(totals)
}

fn soft<'w>(pod: &'w PodInfo, world: &'w World) -> Vec<(Kind<'w>, TopologySpreadConstraint)> {
    if !pod.spread_constraints().is_empty() {
        let is_soft = |c: &&TopologySpreadConstraint| c.when_unsatisfiable == "ScheduleAnyway";
        let own = pod.spread_constraints().iter().filter(is_soft);
        return own.filter_map(|c| Some((Kind::of_constraint(c, pod)?, c.clone()))).collect();
    }
    let default = |(key, max_skew): (&str, i32)| {
        let constraint =
            TopologySpreadConstraint { topology_key: key.into(), max_skew, ..Default::default() };
        Some((Kind::by_default(pod, world)?, constraint))
    };
    DEFAULTS.into_iter().filter_map(default).collect()
}
