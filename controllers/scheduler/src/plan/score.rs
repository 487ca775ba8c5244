//! Which of the possible nodes is best: each rule gives 0 to 100, and they are added by weight.

use super::{affinity, interpod, spread};
use crate::world::{NodeInfo, PodInfo, World};

const MAX: i64 = 100;

/// Weights of the rules.
///
/// Source: the default plugins in upstream `pkg/scheduler/apis/config/v1/default_plugins.go`.
const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const INTER_POD: i64 = 2;
const LEAST_ALLOCATED: i64 = 1;
const BALANCED: i64 = 1;

/// The best of `nodes`; of equal ones, that which a hash of pod and node prefers.
pub(super) fn best<'w>(
    pod: &PodInfo,
    nodes: &[&'w NodeInfo],
    world: &World,
) -> Option<&'w NodeInfo> {
    if nodes.len() < 2 {
        return nodes.first().copied();
    }
    let mut totals: Vec<i64> = nodes
        .iter()
        .map(|n| LEAST_ALLOCATED * least_allocated(pod, n) + BALANCED * balanced(pod, n))
        .collect();
    add(&mut totals, TAINTS, &taints(pod, nodes));
    if affinity::has_preference(pod) {
        let met: Vec<i64> = nodes.iter().map(|n| affinity::preference(pod, n)).collect();
        add(&mut totals, NODE_AFFINITY, &up_to_max(&met));
    }
    if let Some(crowding) = spread::crowding(pod, nodes, world) {
        add(&mut totals, SPREAD, &emptiest_first(&crowding));
    }
    let likings = interpod::likings(pod, world);
    if !likings.is_empty() {
        let liked = |node: &&NodeInfo| {
            let here = likings.iter().filter(|((key, value), _)| node.label(key) == Some(value));
            here.map(|(_, weight)| weight).sum()
        };
        add(&mut totals, INTER_POD, &between(&nodes.iter().map(liked).collect::<Vec<i64>>()));
    }
    let ranked = nodes.iter().zip(totals);
    ranked.max_by_key(|(node, total)| (*total, hash(&pod.uid, &node.name))).map(|(node, _)| *node)
}

/// A number that depends on both texts and nothing else (FNV-1a).
pub(super) fn hash(pod: &str, node: &str) -> u64 {
    let bytes = pod.bytes().chain([0]).chain(node.bytes());
    let mixed = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mixed ^ (mixed >> 29)
}

fn add(totals: &mut [i64], weight: i64, scores: &[i64]) {
    totals.iter_mut().zip(scores).for_each(|(total, score)| *total += weight * score);
}

/// The share of CPU and memory that stays free.
fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let free = |wanted: i64, taken: i64, offered: i64| {
        let left = offered - taken - wanted;
        if offered <= 0 || left < 0 { 0 } else { left.saturating_mul(MAX) / offered }
    };
    let cpu = free(pod.scored.0, node.scored.0, node.allocatable.milli_cpu);
    let memory = free(pod.scored.1, node.scored.1, node.allocatable.memory);
    (cpu + memory) / 2
}

/// High where CPU and memory are used up alike.
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let used = |wanted: i64, taken: i64, offered: i64| {
        if offered <= 0 { MAX } else { (taken + wanted).saturating_mul(MAX) / offered }.min(MAX)
    };
    let cpu = used(pod.requests.milli_cpu, node.requested.milli_cpu, node.allocatable.milli_cpu);
    let memory = used(pod.requests.memory, node.requested.memory, node.allocatable.memory);
    MAX - (cpu - memory).abs() / 2
}

fn taints(pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let disliked = |node: &&NodeInfo| -> i64 {
        let taints = node.taints();
        let bad = taints.iter().filter(|taint| {
            affinity::untolerated(pod, std::slice::from_ref(*taint), &["PreferNoSchedule"])
                .is_some()
        });
        i64::try_from(bad.count()).unwrap_or(i64::MAX)
    };
    let disliked: Vec<i64> = nodes.iter().map(disliked).collect();
    up_to_max(&disliked).into_iter().map(|score| MAX - score).collect()
}

/// Stretches to 0..=100, so that the largest gets 100.
fn up_to_max(values: &[i64]) -> Vec<i64> {
    let largest = values.iter().copied().max().unwrap_or(0);
    values.iter().map(|v| if largest <= 0 { 0 } else { v * MAX / largest }).collect()
}

/// Stretches to 0..=100, so that the smallest gets 0 and the largest 100.
fn between(values: &[i64]) -> Vec<i64> {
    let least = values.iter().copied().min().unwrap_or(0);
    let range = values.iter().copied().max().unwrap_or(0) - least;
    values.iter().map(|v| if range == 0 { 0 } else { (v - least) * MAX / range }).collect()
}

/// The least crowded gets 100; a node without the label gets 0.
fn emptiest_first(crowding: &[Option<f64>]) -> Vec<i64> {
    let known = || crowding.iter().flatten().copied();
    let (least, most) = (known().fold(f64::MAX, f64::min), known().fold(0.0, f64::max));
    let score = |value: &Option<f64>| match value {
        None => 0,
        Some(_) if most == 0.0 => MAX,
        #[expect(clippy::cast_possible_truncation, reason = "between 0 and 100")]
        Some(value) => (100.0 * (most + least - value) / most) as i64,
    };
    crowding.iter().map(score).collect()
}
