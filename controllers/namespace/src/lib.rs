//! namespace-controller: empties namespaces that are being deleted, then lets them go.
//!
//! Whatever is served and lives in namespaces is deleted, custom types too: what there is, is asked
//! of the server each time. Pods go first. What has finalizers or a grace period is waited for, and
//! the namespace's conditions say what is left. The namespace itself is deleted by the API server
//! once its finalizer `kubernetes` is taken away, which is the last thing done here.

pub mod plan;
mod reconcile;

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Change, Controller, Player, Stage, rules};
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;

/// The controller as a player.
pub static PLAYER: Player =
    Player::new("namespace", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("namespace-controller")
        .rules(rules);

fn rules() -> Vec<PolicyRule> {
    vec![
        rules::rule("", &["namespaces/finalize", "namespaces/status"], &["update", "patch"]),
        rules::rule("*", &["*"], &["get", "list", "watch", "delete", "deletecollection"]),
    ]
}

/// What outlives one reconcile.
pub(crate) struct Context {
    pub(crate) stage: Stage,
    /// Sweeps so far, by uid, of namespaces that are not empty yet.
    pub(crate) n_sweeps: Mutex<HashMap<String, u32>>,
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let context = Arc::new(Context { stage: stage.clone(), n_sweeps: Mutex::default() });
    let namespaces = stage.reflectors.get::<Namespace>();
    let pods = stage.reflectors.get::<PartialObjectMeta<Pod>>();
    // The end of a pod in a namespace that waits for it.
    let ended = pods.changes().filter_map(move |change| {
        let namespace = match change {
            Change::Deleted(pod) => pod.namespace(),
            Change::Applied { .. } => None,
        };
        let waits = namespace.filter(|name| {
            namespaces.get(None, name).is_some_and(|n| n.metadata.deletion_timestamp.is_some())
        });
        std::future::ready(waits.map(|name| ObjectRef::new(&name)))
    });
    Controller::<Namespace>::new(&stage).wakes_on(ended).run(context, reconcile::reconcile).await
}
