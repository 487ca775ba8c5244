//! node-lifecycle-controller: watches over nodes, and over pods whose node no longer does.
//!
//! A node shows that it lives by renewing its Lease or by writing its status. One that is silent
//! for too long gets the condition `Ready=Unknown`; conditions and cordons become taints; taints
//! with the effect `NoExecute` evict pods as their tolerations allow. Pods on nodes that are gone,
//! and too many pods that ended, are deleted. Upstream splits this between
//! node-lifecycle-controller, taint-eviction-controller and pod-garbage-collector-controller.
//!
//! It is one loop over all nodes, since it judges by the time that passes while nothing happens,
//! and since how many nodes are in trouble decides what may be done about one. Time since a sign
//! of life is measured on our own clock from when it was heard: clocks of nodes are not trusted.

pub mod events;
pub mod plan;
mod reconcile;
mod writes;

use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Player, rules};

/// The controller as a player.
pub static PLAYER: Player = Player::new("node-lifecycle", env!("CARGO_PKG_VERSION"), |stage| {
    Box::pin(reconcile::run(stage))
})
.source("node-controller")
.rules(rules);

fn rules() -> Vec<PolicyRule> {
    vec![
        rules::rule("", &["nodes"], &["get", "list", "watch", "patch"]),
        rules::rule("", &["nodes/status", "pods/status"], &["patch"]),
        rules::rule("", &["pods"], &["get", "list", "watch", "delete"]),
        rules::rule("coordination.k8s.io", &["leases"], rules::READ),
    ]
}
