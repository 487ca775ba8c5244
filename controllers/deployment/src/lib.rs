//! Rolls out each Deployment's pod template through ReplicaSets.
//!
//! It owns `apps/v1` Deployments' status and the ReplicaSets they control; it never touches a pod.
//! [`plan`](plan()) decides, [`reconcile`] observes and acts. Every write carries the
//! resourceVersion that it was worked out from, and a new ReplicaSet's name follows from its
//! template, so running twice, or from a stale cache, does no harm.

pub mod events;
mod plan;
mod reconcile;

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    rbac::v1::PolicyRule,
};
use kit::{Clock, Controller, Player, Recorder, Reflector, Stage, Writes, claim, rules};
use kube::{Client, runtime::reflector::ObjectRef};

pub use plan::{Action, Observed, Outcome, Strategy, Update, plan, recheck_after, status};
pub use reconcile::{Error, reconcile};

/// The Deployment player.
pub static PLAYER: Player =
    Player::new("deployment", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("deployment-controller")
        .crds(&["deployments.apps.yaml", "replicasets.apps.yaml"])
        .rules(rules);

fn rules() -> Vec<PolicyRule> {
    vec![
        rules::rule("apps", &["deployments"], &["get", "list", "watch", "patch"]),
        rules::rule("apps", &["deployments/status"], &["patch"]),
        // A controller reference that blocks its owner's deletion needs this right on the owner.
        rules::rule("apps", &["deployments/finalizers"], &["update"]),
        rules::rule(
            "apps",
            &["replicasets"],
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        rules::rule("", &["pods"], &["list"]),
    ]
}

/// What outlives one reconcile; one a term of leading.
pub struct Context {
    /// Acts as the player.
    pub client: Client,
    /// All ReplicaSets.
    pub replica_sets: Reflector<ReplicaSet>,
    /// ReplicaSets that we wrote and `replica_sets` may not show yet.
    pub writes: Writes<ReplicaSet>,
    /// Deployments that we wrote and their cache may not show yet.
    pub own_writes: Writes<Deployment>,
    /// Tells users.
    pub recorder: Recorder,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Context {
    /// The context of a term.
    #[must_use]
    pub fn new(stage: &Stage) -> Self {
        let replica_sets = stage.reflectors.get();
        Self {
            client: stage.client.clone(),
            writes: Writes::new(Reflector::clone(&replica_sets)),
            own_writes: Writes::new(stage.reflectors.get()),
            replica_sets,
            recorder: stage.recorder.clone(),
            clock: Arc::clone(&stage.clock),
        }
    }
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let deployments = stage.reflectors.get();
    Controller::<Deployment>::new(&stage)
        .owns::<ReplicaSet>()
        .watches::<ReplicaSet, _>(move |rs| would_adopt(&deployments, rs))
        .run(Arc::new(Context::new(&stage)), reconcile)
        .await
}

/// The Deployments whose selector takes an orphan in.
fn would_adopt(deployments: &Reflector<Deployment>, rs: &ReplicaSet) -> Vec<ObjectRef<Deployment>> {
    if !claim::is_orphan(&rs.metadata) {
        return Vec::new();
    }
    let namespace = rs.metadata.namespace.as_deref().unwrap_or_default();
    let takes = |owner: &Deployment| {
        plan::selector(owner).is_ok_and(|selector| claim::takes(&selector, &rs.metadata))
    };
    let adopting = deployments.in_namespace(namespace).into_iter().filter(|owner| takes(owner));
    adopting.map(|owner| ObjectRef::from_obj(&*owner)).collect()
}
