//! Whether a node is possible at all, rule by rule, in upstream's order; the first rule that
//! refuses names the reason.

use std::fmt;

use k8s_openapi::api::core::v1::Taint;

use super::interpod::Neighbours;
use super::spread::HardSpread;
use super::{affinity, interpod, spread};
use crate::resources::{Resource, Resources};
use crate::world::{NodeInfo, PodInfo, World};

/// Effects that keep a pod off a node.
pub(super) const REPELLING: [&str; 2] = ["NoSchedule", "NoExecute"];

/// A rule that can refuse a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Cordoned nodes.
    Unschedulable,
    /// Taints.
    Taint,
    /// Node selector and node affinity.
    NodeAffinity,
    /// Host ports.
    Ports,
    /// Resources and the number of pods.
    Resources,
    /// Topology spread.
    Spread,
    /// Affinity to other pods.
    InterPod,
}

/// A set of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules(u8);

impl Rules {
    /// Every rule.
    pub const ALL: Self = Self(u8::MAX);

    /// Puts `rule` into the set.
    pub fn insert(&mut self, rule: Rule) {
        self.0 |= 1 << rule as u8;
    }

    /// Whether `rule` is in the set.
    pub fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u8) != 0
    }
}

/// Why a node was refused. The text is what upstream says, since people and tools match on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is cordoned.
    Unschedulable,
    /// It has a taint that the pod does not bear.
    Untolerated,
    /// Its labels are not those that the pod wants.
    NotSelected,
    /// The pod names the nodes that it wants, and this is none of them.
    NotNamed,
    /// Another pod has the port.
    PortTaken,
    /// It takes no more pods.
    TooManyPods,
    /// It has not enough of this left.
    Insufficient(Resource),
    /// It lacks the label that the pod spreads by.
    SpreadLabelMissing,
    /// Its domain has too many such pods.
    SpreadTooUneven,
    /// The pods that the pod wants to be near are not there.
    Affinity,
    /// Pods that the pod wants to be away from are there.
    AntiAffinity,
    /// Pods that want to be away from the pod are there.
    ExistingAntiAffinity,
}

impl Reason {
    /// The rule that gives this reason.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Unschedulable => Rule::Unschedulable,
            Self::Untolerated => Rule::Taint,
            Self::NotSelected | Self::NotNamed => Rule::NodeAffinity,
            Self::PortTaken => Rule::Ports,
            Self::TooManyPods | Self::Insufficient(_) => Rule::Resources,
            Self::SpreadLabelMissing | Self::SpreadTooUneven => Rule::Spread,
            Self::Affinity | Self::AntiAffinity | Self::ExistingAntiAffinity => Rule::InterPod,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Untolerated => "node(s) had untolerated taint(s)",
            Self::NotSelected => "node(s) didn't match Pod's node affinity/selector",
            Self::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Self::PortTaken => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::SpreadLabelMissing => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::SpreadTooUneven => "node(s) didn't match pod topology spread constraints",
            Self::Affinity => "node(s) didn't match pod affinity rules",
            Self::AntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => {
                "node(s) didn't satisfy existing pods anti-affinity rules"
            }
        })
    }
}

/// What the rules about other pods need to know of the whole cluster, gathered once a pod.
pub(super) struct Facts<'w> {
    spread: HardSpread<'w>,
    neighbours: Neighbours<'w>,
}

impl<'w> Facts<'w> {
    pub(super) fn gather(pod: &'w PodInfo, world: &'w World) -> Self {
        Self {
            spread: spread::HardSpread::gather(pod, world),
            neighbours: interpod::Neighbours::gather(pod, world),
        }
    }
}

/// Whether every rule allows the node; if not, `refuse` is told all reasons of the rule that does not.
pub(super) fn passes(
    pod: &PodInfo,
    node: &NodeInfo,
    facts: &Facts<'_>,
    refuse: &mut impl FnMut(Reason),
) -> bool {
    let stays = passes_alone(pod, node, refuse);
    stays && none(facts.spread.refusal(node).or_else(|| facts.neighbours.refusal(node)), refuse)
}

/// Whether the node would take the pod if there were no rules about other pods.
pub(super) fn fits_alone(pod: &PodInfo, node: &NodeInfo) -> bool {
    passes_alone(pod, node, &mut |_| ())
}

fn passes_alone(pod: &PodInfo, node: &NodeInfo, refuse: &mut impl FnMut(Reason)) -> bool {
    none(refusal_of_node(pod, node), refuse) && has_room(pod, node, refuse)
}

fn none(reason: Option<Reason>, refuse: &mut impl FnMut(Reason)) -> bool {
    let passes = reason.is_none();
    reason.into_iter().for_each(refuse);
    passes
}

fn refusal_of_node(pod: &PodInfo, node: &NodeInfo) -> Option<Reason> {
    if node.node.is_none() || (node.is_unschedulable() && !tolerates_cordon(pod)) {
        return Some(Reason::Unschedulable);
    }
    if affinity::untolerated(pod, node.taints(), &REPELLING).is_some() {
        return Some(Reason::Untolerated);
    }
    if !affinity::selects(pod, node) {
        return Some(Reason::NotSelected);
    }
    let taken = |wanted| node.ports.iter().any(|port| port.conflicts_with(wanted));
    pod.ports.iter().any(taken).then_some(Reason::PortTaken)
}

fn tolerates_cordon(pod: &PodInfo) -> bool {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    pod.tolerations().iter().any(|t| affinity::tolerates(t, &cordon))
}

/// Every resource that falls short is named, not only the first.
fn has_room(pod: &PodInfo, node: &NodeInfo, refuse: &mut impl FnMut(Reason)) -> bool {
    let mut enough = true;
    let mut short = |reason| {
        enough = false;
        refuse(reason);
    };
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.allowed_pods {
        short(Reason::TooManyPods);
    }
    let (wanted, taken, offered) = (&pod.requests, &node.requested, &node.allocatable);
    let extended = |resources: &Resources, name| resources.extended.get(name).copied().unwrap_or(0);
    let plain = [
        (Resource::Cpu, wanted.milli_cpu, taken.milli_cpu, offered.milli_cpu),
        (Resource::Memory, wanted.memory, taken.memory, offered.memory),
        (
            Resource::EphemeralStorage,
            wanted.ephemeral_storage,
            taken.ephemeral_storage,
            offered.ephemeral_storage,
        ),
    ];
    for (resource, wanted, taken, offered) in plain {
        if wanted > 0 && wanted > offered.saturating_sub(taken) {
            short(Reason::Insufficient(resource));
        }
    }
    for (name, wanted) in &wanted.extended {
        if *wanted > extended(offered, name).saturating_sub(extended(taken, name)) {
            short(Reason::Insufficient(Resource::Extended(name.clone())));
        }
    }
    enough
}
