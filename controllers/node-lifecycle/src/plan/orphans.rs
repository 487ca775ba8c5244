//! Pods that nobody looks after: their node is gone, or they ended long ago.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Pods that have ended and are kept, for users to look at.
///
/// Source: `--terminated-pod-gc-threshold` of kube-controller-manager.
pub const KEPT: usize = 12_500;

/// How long a node must be gone before its pods are given up.
///
/// Source: `quarantineTime` in upstream `pkg/controller/podgc`.
pub const QUARANTINE: Duration = Duration::from_secs(40);

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    There,
    /// It is there, but not ready, and an administrator says that it is off.
    OutOfService,
    /// It has been gone for so long.
    Gone(Duration),
}

/// Why a pod is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its node is gone.
    NodeGone,
    /// It is to be deleted, and its node is off.
    OutOfService,
    /// It is to be deleted, and was never on a node.
    NeverPlaced,
    /// It ended, and there are too many such.
    TooMany,
}

/// Which of `pods` to give up, and why; `standing` tells how the node of that name stands.
pub fn plan(
    pods: &[Arc<Pod>],
    kept: usize,
    standing: impl Fn(&str) -> Standing,
) -> Vec<(Arc<Pod>, Why)> {
    let mut given_up = Vec::new();
    let mut ended = Vec::new();
    for pod in pods {
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty());
        let why = match node.map(&standing) {
            Some(Standing::Gone(since)) if since >= QUARANTINE => Some(Why::NodeGone),
            Some(Standing::OutOfService) if terminating => Some(Why::OutOfService),
            None if terminating => Some(Why::NeverPlaced),
            _ => None,
        };
        match why {
            Some(why) => given_up.push((Arc::clone(pod), why)),
            None if kit::pods::is_terminal(pod) => ended.push(pod),
            None => (),
        }
    }
    let too_many = ended.len().saturating_sub(kept);
    ended
        .sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|t| t.0), pod.name_any()));
    given_up.extend(ended.into_iter().take(too_many).map(|pod| (Arc::clone(pod), Why::TooMany)));
    given_up
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, with: Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{name}Z")},
            "spec": {"containers": [], "nodeName": node}, "status": {}});
        if with == json!("terminating") {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        } else {
            pod["status"]["phase"] = with;
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[track_caller]
    fn check(pods: &[Arc<Pod>], kept: usize, expected: &str) {
        let standing = |node: &str| match node {
            "gone" => Standing::Gone(QUARANTINE),
            "just-gone" => Standing::Gone(Duration::from_secs(39)),
            "off" => Standing::OutOfService,
            _ => Standing::There,
        };
        let text: Vec<_> = plan(pods, kept, standing)
            .iter()
            .map(|(p, why)| format!("{} {why:?}", p.name_any()))
            .collect();
        assert_eq!(text.join(", "), expected);
    }

    #[test]
    fn pods_go_when_nobody_looks_after_them() {
        let pods = [
            pod("01", "here", json!("Running")),
            pod("02", "here", json!("terminating")),
            pod("03", "gone", json!("Running")),
            pod("04", "just-gone", json!("Running")),
            pod("05", "off", json!("Running")),
            pod("06", "off", json!("terminating")),
            pod("07", "", json!("Pending")),
            pod("08", "", json!("terminating")),
        ];
        check(&pods, 0, "03 NodeGone, 06 OutOfService, 08 NeverPlaced");
    }

    #[test]
    fn the_oldest_that_ended_go_when_there_are_too_many() {
        let pods = ["05", "02", "04"].map(|name| pod(name, "here", json!("Succeeded")));
        check(&pods, 3, "");
        check(&pods, 1, "02 TooMany, 04 TooMany");
    }
}
