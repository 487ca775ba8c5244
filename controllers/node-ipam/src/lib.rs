//! node-ipam-controller: gives each node its part of the pods' addresses.
//!
//! Nodes that come with a part of their own keep it.

pub mod plan;
mod reconcile;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Controller, Flag, Player, Reflector, Stage, rules};
use parking_lot::Mutex;
use tracing::warn;

use crate::plan::{Parts, Range};

/// The controller as a player.
pub static PLAYER: Player =
    Player::new("node-ipam", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("node-ipam-controller")
        .flags(&FLAGS)
        .rules(rules);

static FLAGS: [Flag; 2] = [
    Flag {
        name: "cluster-cidr",
        help: "Addresses of all pods, as 10.244.0.0/16; without it, no node is given any",
        default: "",
    },
    Flag {
        name: "node-cidr-mask-size",
        help: "Size of a node's part, in bits that are fixed",
        default: "24",
    },
];

fn rules() -> Vec<PolicyRule> {
    vec![rules::rule("", &["nodes"], &["get", "list", "watch", "patch"])]
}

/// What outlives one reconcile.
pub(crate) struct Context {
    pub(crate) stage: Stage,
    pub(crate) nodes: Reflector<Node>,
    pub(crate) parts: Parts,
    /// Given to the nodes of these names, which the cache does not show yet.
    pub(crate) given: Mutex<HashMap<String, Range>>,
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let Some(parts) = parts(&stage)? else {
        warn!("no --cluster-cidr: nodes are given no addresses");
        stage.shutdown.cancelled().await;
        return Ok(());
    };
    let nodes = stage.reflectors.get();
    let context = Context { stage: stage.clone(), nodes, parts, given: Mutex::default() };
    // One after another, so that no two nodes are given the same.
    Controller::<Node>::new(&stage)
        .concurrency(1)
        .run(Arc::new(context), reconcile::reconcile)
        .await
}

fn parts(stage: &Stage) -> Result<Option<Parts>, kit::Error> {
    let value: String = stage.option("cluster-cidr")?;
    if value.is_empty() {
        return Ok(None);
    }
    let parts = Parts::new(stage.option("cluster-cidr")?, stage.option("node-cidr-mask-size")?);
    let wrong = |reason| kit::Error::Option { option: "node-cidr-mask-size", value, reason };
    parts.map(Some).map_err(wrong)
}
