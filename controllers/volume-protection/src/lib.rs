//! Lets claims, volumes and attribute classes go once nobody uses them.
//!
//! The API server gives each of them a finalizer; this player takes it off an object that is being deleted when no
//! pod mounts the claim, no claim is bound to the volume, and nothing names the class. [`plan`] decides,
//! [`reconcile`] looks and acts.
//!
//! That nobody uses a claim is asked of the server before its finalizer goes: a cache may lack the newest pod.

pub mod plan;
mod reconcile;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kit::{Controller, Player, Reflector, Stage, rules};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};

use std::sync::Arc;

/// The volume protection player.
pub static PLAYER: Player =
    Player::new("volume-protection", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("pvc-protection-controller")
        .crds(&["volumeattributesclasses.storage.k8s.io.yaml"])
        .rules(rules);

fn rules() -> Vec<PolicyRule> {
    let all = &["list", "watch", "patch"];
    vec![
        rules::rule("", &["pods"], &["list", "watch"]),
        rules::rule("", &["persistentvolumeclaims", "persistentvolumes"], all),
        rules::rule("storage.k8s.io", &["volumeattributesclasses"], all),
    ]
}

/// What outlives one reconcile.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) pods: Reflector<Pod>,
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let context = Arc::new(Context { client: stage.client.clone(), pods: stage.reflectors.get() });
    let claims = Controller::<PersistentVolumeClaim>::new(&stage)
        .watches::<Pod, _>(claims_of)
        .run(Arc::clone(&context), reconcile::claim);
    let volumes =
        Controller::<PersistentVolume>::new(&stage).run(Arc::clone(&context), reconcile::volume);
    let classes = Controller::<VolumeAttributesClass>::new(&stage)
        .watches::<PersistentVolumeClaim, _>(|claim| refer(plan::classes_of_claim(claim)))
        .watches::<PersistentVolume, _>(|volume| refer(plan::class_of_volume(volume)))
        .run(context, reconcile::class);
    futures::future::try_join3(claims, volumes, classes).await.map(drop)
}

/// The claims that a changed pod may have let go.
fn claims_of(pod: &Pod) -> Vec<ObjectRef<PersistentVolumeClaim>> {
    let namespace = pod.namespace().unwrap_or_default();
    let names = plan::claims_of_pod(pod).into_iter();
    names.map(|name| ObjectRef::new(&name).within(&namespace)).collect()
}

fn refer(classes: impl IntoIterator<Item = String>) -> Vec<ObjectRef<VolumeAttributesClass>> {
    classes.into_iter().map(|name| ObjectRef::new(&name)).collect()
}
