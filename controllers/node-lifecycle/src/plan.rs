//! What follows from how nodes are: conditions of silent ones, taints, evictions, and pods that
//! nobody looks after any more. Nothing here does I/O or knows the time by itself.

pub mod eviction;
pub mod health;
pub mod orphans;
pub mod taints;
pub mod zones;

use k8s_openapi::api::core::v1::{Node, NodeCondition};

/// Whether a node can run pods, as its condition `Ready` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// `True`.
    Ready,
    /// `False`: its agent says so.
    NotReady,
    /// `Unknown`: its agent is silent.
    Unreachable,
    /// There is no such condition yet.
    Unstated,
}

/// The readiness of `node`.
pub fn readiness(node: &Node) -> Readiness {
    match conditions(node).iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("False") => Readiness::NotReady,
        Some(_) => Readiness::Unreachable,
        None => Readiness::Unstated,
    }
}

/// Its conditions.
pub fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}
