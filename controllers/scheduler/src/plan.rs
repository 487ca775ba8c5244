//! Which node a pod goes to, or why none will do.
//!
//! Filters say which nodes are possible, scores which of them is best; equal ones are told apart by
//! a hash of pod and node, so that the same question has the same answer and many pods still spread.

pub mod affinity;
mod filter;
pub mod interpod;
mod score;
pub mod spread;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use filter::{Reason, Rule, Rules};

use crate::world::{NodeInfo, PodInfo, World};

/// Below this many nodes all are looked at; above, at least as many possible ones are found.
///
/// Source: `minFeasibleNodesToFind` in upstream `pkg/scheduler/schedule_one.go`.
const ENOUGH_NODES: usize = 100;

/// The answer for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Bind it to this node.
    Bind {
        /// Name of the node.
        node: Arc<str>,
    },
    /// No node will do, until one of these rules may judge otherwise.
    Wait {
        /// What the user is told, in upstream's words.
        message: String,
        /// The rules that refused a node.
        rules: Rules,
    },
}

/// Something that happened in the world, as far as it may help pods that wait.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A node appeared, or changed in what filters look at.
    Node(&'a NodeInfo),
    /// A node went away.
    NodeGone,
    /// A pod left this node, or asks for less.
    PodLeft(&'a NodeInfo),
    /// A pod arrived on a node, or changed its labels; a namespace changed its.
    PodArrived,
}

/// Decides about `pod`.
pub fn plan(pod: &PodInfo, world: &World) -> Decision {
    let all: Vec<&NodeInfo> = world.nodes().collect();
    if all.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Wait { message, rules: Rules::ALL };
    }
    let facts = filter::Facts::gather(pod, world);
    let mut refused = Refusals::default();
    let candidates = match affinity::named_nodes(pod) {
        Some(names) => {
            let named: Vec<_> = names.iter().filter_map(|name| world.node(name)).collect();
            refused.add(Reason::NotNamed, all.len() - named.len());
            named
        }
        None => all.clone(),
    };
    let feasible = feasible(pod, &candidates, &facts, &mut refused);
    match score::best(pod, &feasible, world) {
        Some(node) => Decision::Bind { node: Arc::clone(&node.name) },
        None => refused.into_decision(all.len()),
    }
}

/// Whether `change` may make room for a pod that these rules kept waiting.
///
/// Wrongly saying yes costs a look at the nodes, wrongly saying no leaves the pod waiting for up
/// to five minutes, so doubt says yes.
pub fn may_help(change: Change<'_>, pod: &PodInfo, rules: Rules) -> bool {
    let about_others = rules.has(Rule::InterPod) || rules.has(Rule::Spread);
    match change {
        Change::Node(node) => about_others || filter::fits_alone(pod, node),
        Change::NodeGone => rules.has(Rule::Spread),
        Change::PodLeft(node) => {
            let about_room = rules.has(Rule::Resources) || rules.has(Rule::Ports);
            about_others || (about_room && filter::fits_alone(pod, node))
        }
        Change::PodArrived => about_others,
    }
}

/// Nodes that pass every filter: all of them, or enough of them in a large cluster, from a place
/// in the ring that depends on the pod.
fn feasible<'w>(
    pod: &PodInfo,
    candidates: &[&'w NodeInfo],
    facts: &filter::Facts<'_>,
    refused: &mut Refusals,
) -> Vec<&'w NodeInfo> {
    let enough = n_to_find(candidates.len());
    let start = usize::try_from(score::hash(&pod.uid, "")).unwrap_or(0);
    let ring = candidates.iter().cycle().skip(start % candidates.len().max(1));
    let mut found = Vec::with_capacity(enough);
    for node in ring.take(candidates.len()) {
        if filter::passes(pod, node, facts, &mut |reason| refused.add(reason, 1)) {
            found.push(*node);
            if found.len() == enough {
                break;
            }
        }
    }
    found
}

/// How many possible nodes are enough, of so many.
///
/// Source: kubernetes.io, "Scheduler Performance Tuning".
fn n_to_find(n_nodes: usize) -> usize {
    if n_nodes < ENOUGH_NODES {
        return n_nodes;
    }
    let percent = 50_usize.saturating_sub(n_nodes / 125).max(5);
    (n_nodes * percent / 100).max(ENOUGH_NODES)
}

/// How many nodes were refused for what.
#[derive(Default)]
struct Refusals {
    by_reason: BTreeMap<Reason, usize>,
    rules: Rules,
}

impl Refusals {
    fn add(&mut self, reason: Reason, n_nodes: usize) {
        if n_nodes > 0 {
            self.rules.insert(reason.rule());
            *self.by_reason.entry(reason).or_default() += n_nodes;
        }
    }

    fn into_decision(self, n_nodes: usize) -> Decision {
        let mut parts: Vec<String> =
            self.by_reason.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        parts.sort_unstable();
        let message = format!("0/{n_nodes} nodes are available: {}.", parts.join(", "));
        Decision::Wait { message, rules: self.rules }
    }
}
