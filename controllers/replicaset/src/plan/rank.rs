//! Which pods go first when there are too many.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kit::pods;
use kube::ResourceExt;

/// Annotation by which users prefer some pods to others.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What a pod is compared by; the lower one is deleted first.
struct Rank<'a> {
    pod: &'a Arc<Pod>,
    has_node: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    neighbours: usize,
    ready_since: Option<Timestamp>,
    restarts: (i32, i32),
    created: Option<Timestamp>,
}

/// The pods in the order in which they should go.
///
/// Those without a node go first, then pending before unknown before running, not ready before
/// ready, the lower deletion cost, those whose node has more `related` pods, the later ready, the
/// more often restarted, the later created. Ages are compared by their logarithm, so that among
/// pods of about the same age chance decides (by UID), and not which zone was rolled last.
///
/// Source: `ActivePodsWithRanks` in upstream `pkg/controller/controller_utils.go`; KEP-2185.
pub(super) fn for_deletion(
    pods: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *per_node.entry(node(pod)).or_default() += 1;
    }
    let mut ranks: Vec<_> = pods
        .iter()
        .map(|pod| Rank {
            pod,
            has_node: !node(pod).is_empty(),
            phase: match pods::phase(pod) {
                "Pending" => 0,
                "Running" => 2,
                _ => 1,
            },
            ready: pods::is_ready(pod),
            cost: deletion_cost(pod),
            neighbours: per_node.get(node(pod)).copied().unwrap_or_default(),
            ready_since: pods::ready_since(pod),
            restarts: restarts(pod),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        })
        .collect();
    ranks.sort_by(|a, b| compare(a, b, now));
    ranks.into_iter().map(|rank| Arc::clone(rank.pod)).collect()
}

fn compare(a: &Rank<'_>, b: &Rank<'_>, now: Timestamp) -> Ordering {
    let key = |rank: &Rank<'_>| (rank.has_node, rank.phase, rank.ready, rank.cost);
    key(a)
        .cmp(&key(b))
        .then_with(|| b.neighbours.cmp(&a.neighbours))
        .then_with(|| younger_first(a.ready_since, b.ready_since, now))
        .then_with(|| b.restarts.cmp(&a.restarts))
        .then_with(|| younger_first(a.created, b.created, now))
        .then_with(|| a.pod.metadata.uid.cmp(&b.pod.metadata.uid))
}

/// By the magnitude of the age only: a tie goes on to the next criterion.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => magnitude(a, now).cmp(&magnitude(b, now)),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less, // Without a time: as young as can be.
        (Some(_), None) => Ordering::Greater,
    }
}

/// Binary logarithm of the age in nanoseconds; -1 for what is not in the past.
fn magnitude(time: Timestamp, now: Timestamp) -> i64 {
    let age = now.duration_since(time).as_nanos();
    u128::try_from(age).ok().and_then(u128::checked_ilog2).map_or(-1, i64::from)
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

/// Most restarts of a container, and of an init container that keeps running.
fn restarts(pod: &Pod) -> (i32, i32) {
    let most = |statuses: Option<&Vec<ContainerStatus>>| {
        statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or_default()
    };
    pod.status.as_ref().map_or((0, 0), |status| {
        (most(status.container_statuses.as_ref()), most(status.init_container_statuses.as_ref()))
    })
}
