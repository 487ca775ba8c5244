//! Look who uses an object, and write its finalizers: all the I/O.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kit::{CallError, RESYNC, Requeue};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::info;

use crate::{Context, plan};

pub(crate) async fn claim(
    claim: Arc<PersistentVolumeClaim>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let namespace = claim.namespace().unwrap_or_default();
    let in_use = plan::waits(&claim.metadata, plan::CLAIM) && {
        let cached = context.pods.in_namespace(&namespace);
        cached.iter().any(|pod| plan::uses(pod, &claim)) || {
            let pods = Api::<Pod>::namespaced(context.client.clone(), &namespace);
            let live = list(&pods, "list the pods beside", &*claim).await?;
            live.iter().any(|pod| plan::uses(pod, &claim))
        }
    };
    let api = Api::namespaced(context.client.clone(), &namespace);
    settle(&api, &*claim, plan::CLAIM, in_use).await
}

pub(crate) async fn volume(
    volume: Arc<PersistentVolume>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let api = Api::all(context.client.clone());
    settle(&api, &*volume, plan::VOLUME, plan::is_bound(&volume)).await
}

pub(crate) async fn class(
    class: Arc<VolumeAttributesClass>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let name = class.name_any();
    let in_use = plan::waits(&class.metadata, plan::CLASS) && {
        let claims = Api::<PersistentVolumeClaim>::all(context.client.clone());
        let volumes = Api::<PersistentVolume>::all(context.client.clone());
        let claims = list(&claims, "list the claims that use", &*class).await?;
        let volumes = list(&volumes, "list the volumes that use", &*class).await?;
        claims.iter().any(|claim| plan::classes_of_claim(claim).contains(&name))
            || volumes.iter().any(|volume| plan::class_of_volume(volume).as_ref() == Some(&name))
    };
    let api = Api::all(context.client.clone());
    settle(&api, &*class, plan::CLASS, in_use).await
}

async fn list<K, O: ResourceExt>(
    api: &Api<K>,
    operation: &'static str,
    about: &O,
) -> Result<Vec<K>, CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let listed = api.list(&ListParams::default()).await;
    listed.map(|list| list.items).map_err(|source| failed(operation, about, source))
}

fn failed<O: ResourceExt>(operation: &'static str, object: &O, source: kube::Error) -> CallError {
    CallError::new(operation, object.name_any(), source)
}

/// Writes the finalizers that the object should have, over exactly the version that was looked at.
async fn settle<K>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    in_use: bool,
) -> Result<Requeue, CallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    if let Some(finalizers) = plan::finalizers(object.meta(), finalizer, in_use) {
        let version = object.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        let name = object.name_any();
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(|source| failed("write the finalizers of", object, source))?;
        info!(kind = %K::kind(&()), name, finalizer, "finalizers written");
    }
    Ok(Requeue::requeue(RESYNC))
}
