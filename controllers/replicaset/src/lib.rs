//! Keeps as many pods as each ReplicaSet asks for.
//!
//! It owns `apps/v1` ReplicaSets' status and the pods they control. [`plan`](plan()) decides,
//! [`reconcile`] observes and acts. Everything is worked out anew from what is there, so it may be
//! killed between any two requests.
//!
//! No pod is created twice: a ReplicaSet is left alone until the cache shows our last writes
//! ([`kit::Writes`]), and before the first creation of a term, and after a request whose outcome is
//! unknown, the pods are listed live, since the cache may lack what another leader has written.

pub mod events;
mod plan;
mod reconcile;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod, rbac::v1::PolicyRule};
use kit::{Clock, Controller, Player, Recorder, Reflector, Stage, Writes, claim, rules};
use kube::{Client, runtime::reflector::ObjectRef};

pub use plan::{Action, Observed, plan, recheck_after, status};
pub use reconcile::{Error, reconcile};

/// The ReplicaSet player.
pub static PLAYER: Player =
    Player::new("replicaset", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("replicaset-controller")
        .crds(&["replicasets.apps.yaml"])
        .rules(rules);

fn rules() -> Vec<PolicyRule> {
    vec![
        rules::rule("apps", &["replicasets"], &["get", "list", "watch"]),
        rules::rule("apps", &["replicasets/status"], &["patch"]),
        // A controller reference that blocks its owner's deletion needs this right on the owner.
        rules::rule("apps", &["replicasets/finalizers"], &["update"]),
        rules::rule("", &["pods"], &["list", "watch", "create", "delete", "patch"]),
    ]
}

/// What outlives one reconcile; one a term of leading.
pub struct Context {
    /// Acts as the player.
    pub client: Client,
    /// All pods.
    pub pods: Reflector<Pod>,
    /// All ReplicaSets.
    pub replica_sets: Reflector<ReplicaSet>,
    /// Pods that we wrote and `pods` may not show yet.
    pub writes: Writes<Pod>,
    /// Statuses that we wrote and `replica_sets` may not show yet.
    pub statuses: Writes<ReplicaSet>,
    /// UIDs of ReplicaSets for which the cache is known to hold what earlier leaders have created.
    pub verified: Mutex<HashSet<String>>,
    /// Tells users.
    pub recorder: Recorder,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Context {
    /// A context with nothing verified.
    #[must_use]
    pub fn new(stage: &Stage) -> Self {
        let (pods, replica_sets) = (stage.reflectors.get(), stage.reflectors.get());
        Self {
            client: stage.client.clone(),
            writes: Writes::new(Reflector::clone(&pods)),
            statuses: Writes::new(Reflector::clone(&replica_sets)),
            pods,
            replica_sets,
            verified: Mutex::default(),
            recorder: stage.recorder.clone(),
            clock: Arc::clone(&stage.clock),
        }
    }
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let context = Arc::new(Context::new(&stage));
    let replica_sets = context.replica_sets.clone();
    Controller::<ReplicaSet>::new(&stage)
        .owns::<Pod>()
        .watches::<Pod, _>(move |pod| would_adopt(&replica_sets, pod))
        .run(context, reconcile)
        .await
}

/// The ReplicaSets whose selector takes an orphan in.
fn would_adopt(replica_sets: &Reflector<ReplicaSet>, pod: &Pod) -> Vec<ObjectRef<ReplicaSet>> {
    if !claim::is_orphan(&pod.metadata) {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let takes = |owner: &ReplicaSet| {
        plan::selector(owner).is_ok_and(|selector| claim::takes(&selector, &pod.metadata))
    };
    let adopting = replica_sets.in_namespace(namespace).into_iter().filter(|owner| takes(owner));
    adopting.map(|owner| ObjectRef::from_obj(&*owner)).collect()
}
