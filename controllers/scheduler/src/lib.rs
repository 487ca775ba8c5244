//! kube-scheduler: gives each new pod a node.
//!
//! It is one loop over the whole cluster, not a reconciler of one object, because decisions depend
//! on each other: the second of two pods must see what the first has taken before the API server
//! has told anybody. So the loop alone owns the [`world::World`] and the [`queue::Queue`], learns
//! every change from the watches, and *assumes* each decision in its world at once, while the
//! writes ([`reconcile`]) go on beside it. The decision itself, [`plan::plan`], is pure.
//!
//! Killed at any moment it starts again from what the API says: a pod has `spec.nodeName`, or it
//! has none and is decided about anew.

pub mod events;
pub mod plan;
pub mod queue;
pub mod reconcile;
pub mod resources;
pub mod world;

use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Player, Stage, rules};

/// Pods that ask for another scheduler are left alone.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// The scheduler as a player.
pub static PLAYER: Player =
    Player::new("scheduler", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source(SCHEDULER_NAME)
        .rules(rules);

fn rules() -> Vec<PolicyRule> {
    vec![
        rules::rule("", &["pods", "nodes", "namespaces", "services"], rules::READ),
        rules::rule("", &["pods/binding"], &["create"]),
        rules::rule("", &["pods/status"], &["patch"]),
    ]
}

/// A decision could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod could not be bound to the node chosen for it.
    #[error("failed to bind pod {pod} to node {node}")]
    Bind {
        /// Namespace and name.
        pod: String,
        /// Name of the node.
        node: String,
        /// The server's answer.
        source: Box<kube::Error>,
    },
    /// The pod could not be told why it waits.
    #[error("failed to write the PodScheduled condition of pod {pod}")]
    WriteCondition {
        /// Namespace and name.
        pod: String,
        /// The server's answer.
        source: Box<kube::Error>,
    },
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    reconcile::run(stage).await
}
