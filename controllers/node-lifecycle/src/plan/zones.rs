//! How fast pods may be evicted from nodes in trouble: slowly, and not at all when so many nodes
//! are in trouble that it looks like the network, or like us.
//!
//! Source: kubernetes.io, "Nodes", "Rate limits on eviction".

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::taints::Eviction;
use super::{Readiness, readiness};

/// Time between two nodes whose pods are evicted: in a sound zone, and in a large one of which
/// most is in trouble.
///
/// Source: `--node-eviction-rate` and `--secondary-node-eviction-rate` of kube-controller-manager.
const PACE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(100));

/// A zone with more nodes than this is large.
const LARGE: usize = 50;

/// The part of a zone's nodes, in percent, from which on it is in trouble as a whole.
const MOST: usize = 55;

/// Nodes of a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Ready ones.
    pub n_ready: usize,
    /// Others.
    pub n_troubled: usize,
}

/// All zones by name.
pub type Zones = BTreeMap<String, Zone>;

/// Counts the nodes of each zone.
pub fn count<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Zones {
    let mut zones = Zones::new();
    for node in nodes {
        let zone = zones.entry(name(node)).or_default();
        match readiness(node) {
            Readiness::Ready => zone.n_ready += 1,
            Readiness::NotReady | Readiness::Unreachable => zone.n_troubled += 1,
            Readiness::Unstated => (),
        }
    }
    zones
}

/// The zone of a node; nodes without labels are in one together.
pub fn name(node: &Node) -> String {
    let label = |key| node.labels().get(key).cloned().unwrap_or_default();
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// Whether no node of the cluster is ready.
pub fn all_troubled(zones: &Zones) -> bool {
    zones.values().all(|z| z.n_ready == 0) && zones.values().any(|z| z.n_troubled > 0)
}

/// Time between two nodes of the zone whose pods are evicted; none if nobody is to be evicted.
pub fn pace(zone: Zone) -> Option<Duration> {
    let n_nodes = zone.n_ready + zone.n_troubled;
    let partly = zone.n_ready > 0 && zone.n_troubled > 2 && zone.n_troubled * 100 >= n_nodes * MOST;
    match (partly, n_nodes > LARGE) {
        (false, _) => Some(PACE.0),
        (true, true) => Some(PACE.1),
        (true, false) => None,
    }
}

/// Whether the pods of a node in this zone may be evicted; `last` is the time since this was
/// allowed last in the zone.
pub fn eviction(zones: &Zones, zone: &str, last: Option<Duration>) -> Eviction {
    if all_troubled(zones) {
        return Eviction::Never;
    }
    match pace(zones.get(zone).copied().unwrap_or_default()) {
        Some(pace) if last.is_none_or(|last| last >= pace) => Eviction::Begin,
        _ => Eviction::AsIs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(zones: &[(usize, usize)], seconds: Option<u64>, expected: Eviction) {
        let zone = |(i, (n_ready, n_troubled)): (usize, &(usize, usize))| {
            (i.to_string(), Zone { n_ready: *n_ready, n_troubled: *n_troubled })
        };
        let zones = zones.iter().enumerate().map(zone).collect();
        assert_eq!(eviction(&zones, "0", seconds.map(Duration::from_secs)), expected);
    }

    #[test]
    fn one_node_at_a_time() {
        check(&[(2, 1)], None, Eviction::Begin);
        check(&[(2, 1)], Some(9), Eviction::AsIs);
        check(&[(2, 1)], Some(10), Eviction::Begin);
    }

    #[test]
    fn most_of_a_zone_in_trouble_slows_down() {
        check(&[(4, 5)], Some(1000), Eviction::AsIs);
        check(&[(1, 2)], Some(10), Eviction::Begin);
        check(&[(40, 60)], Some(99), Eviction::AsIs);
        check(&[(40, 60)], Some(100), Eviction::Begin);
        check(&[(60, 40)], Some(10), Eviction::Begin);
    }

    #[test]
    fn everything_in_trouble_stops() {
        check(&[(0, 1)], None, Eviction::Never);
        check(&[(0, 3), (0, 1)], None, Eviction::Never);
        check(&[(0, 3), (1, 0)], None, Eviction::Begin);
    }
}
