//! Observe, plan, apply, for one namespace. All the I/O is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec};
use kit::{CallError, RESYNC, Requeue, chain, patch};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::discovery::{ApiGroup, Discovery, Scope, verbs};
use kube::{Client, ResourceExt};
use tracing::{debug, info};

use crate::Context;
use crate::plan::{self, Found, Next, Sweep, Type};

/// Types that are swept at once.
const CONCURRENCY: usize = 8;

pub(crate) async fn reconcile(
    namespace: Arc<Namespace>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let uid = namespace.uid().unwrap_or_default();
    if !plan::is_ours(&namespace) {
        context.n_sweeps.lock().remove(&uid);
        return Ok(Requeue::requeue(RESYNC));
    }
    let sweep = sweep(&context.stage.client, &namespace.name_any()).await;
    let n_sweeps = {
        let mut all = context.n_sweeps.lock();
        let n = all.entry(uid.clone()).or_default();
        *n += 1;
        *n - 1
    };
    match plan::next(&sweep, n_sweeps) {
        Next::Nothing => Ok(Requeue::requeue(RESYNC)),
        Next::Finalize => {
            finalize(&context, &namespace).await?;
            context.n_sweeps.lock().remove(&uid);
            Ok(Requeue::requeue(RESYNC))
        }
        Next::Wait(pause) => {
            debug!(namespace = namespace.name_any(), n_sweeps, "namespace not empty yet");
            write_conditions(&context, &namespace, &sweep).await?;
            Ok(Requeue::requeue(pause))
        }
    }
}

async fn finalize(context: &Context, namespace: &Namespace) -> Result<(), CallError> {
    let api = Api::<Namespace>::all(context.stage.client.clone());
    let name = namespace.name_any();
    let mut without = namespace.clone();
    without.spec = Some(NamespaceSpec { finalizers: Some(plan::other_finalizers(namespace)) });
    // Without a resourceVersion: whatever else has changed, the namespace is empty.
    without.metadata.resource_version = None;
    let params = PostParams::default();
    match api.replace_subresource("finalize", &name, &params, &without).await {
        Ok(_) => info!(namespace = name, "namespace emptied"),
        Err(kube::Error::Api(status)) if status.is_not_found() => (),
        Err(source) => return Err(error("finalize", namespace, source)),
    }
    Ok(())
}

async fn write_conditions(
    context: &Context,
    namespace: &Namespace,
    sweep: &Sweep,
) -> Result<(), CallError> {
    let api = Api::<Namespace>::all(context.stage.client.clone());
    let old = namespace.status.clone().unwrap_or_default();
    let conditions = old.conditions.as_deref().unwrap_or_default();
    let mut new = old.clone();
    new.conditions = Some(plan::conditions(conditions, sweep, context.stage.clock.now()));
    let written = patch::patch_status(&api, namespace, Some(&old), &new).await;
    written.map(drop).map_err(|source| error("write the status of", namespace, source))
}

fn error(operation: &'static str, namespace: &Namespace, source: kube::Error) -> CallError {
    CallError::new(operation, format!("namespace {}", namespace.name_any()), source)
}

/// Asks for the deletion of everything in the namespace, pods first, and looks at what is left.
async fn sweep(client: &Client, namespace: &str) -> Sweep {
    let mut sweep = Sweep::default();
    let types = match discover(client).await {
        Ok(types) => types,
        Err(error) => {
            sweep.discovery_failures.push(chain(&error));
            return sweep;
        }
    };
    let (first, rest): (Vec<_>, Vec<_>) =
        types.into_iter().partition(|(of, _)| plan::goes_first(of));
    for types in [first, rest] {
        let mut results = stream::iter(types)
            .map(|(of, resource)| sweep_type(client, namespace, of, resource))
            .buffer_unordered(CONCURRENCY);
        while let Some(result) = results.next().await {
            match result {
                Ok(found) if found.n_objects == 0 => (),
                Ok(found) => sweep.found.push(found),
                Err(failure) => sweep.failures.push(failure),
            }
        }
        if !sweep.found.is_empty() || !sweep.failures.is_empty() {
            break; // What goes first has not gone yet.
        }
    }
    sweep
}

/// Every type whose objects live in namespaces and can be listed and deleted.
async fn discover(client: &Client) -> Result<Vec<(Type, ApiResource)>, kube::Error> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(_) => Discovery::new(client.clone()).run().await?,
    };
    let all = discovery.groups().flat_map(ApiGroup::resources_by_stability);
    let ours = all.filter(|(_, can)| {
        can.scope == Scope::Namespaced
            && can.supports_operation(verbs::LIST)
            && can.supports_operation(verbs::DELETE)
    });
    let typed = |(resource, _): (ApiResource, _)| {
        (Type { group: resource.group.clone(), plural: resource.plural.clone() }, resource)
    };
    Ok(ours.map(typed).collect())
}

async fn sweep_type(
    client: &Client,
    namespace: &str,
    of: Type,
    resource: ApiResource,
) -> Result<Found, String> {
    let api: Api<PartialObjectMeta<DynamicObject>> =
        Api::namespaced_with(client.clone(), namespace, &resource);
    let failed =
        |error: kube::Error| format!("{} {}: {}", resource.api_version, of.plural, chain(&error));
    if look(&api, &of).await.map_err(failed)?.n_objects == 0 {
        return Ok(empty(of)); // Most types are not there at all.
    }
    match api.delete_collection(&DeleteParams::background(), &ListParams::default()).await {
        Ok(_) => (),
        // Types such as services can only be deleted one by one on older servers.
        Err(kube::Error::Api(status)) if status.code == 405 => {
            let listed = api.list_metadata(&ListParams::default()).await.map_err(failed)?;
            for object in listed.items {
                match api.delete(&object.name_any(), &DeleteParams::background()).await {
                    Err(error) if !is_gone(&error) => return Err(failed(error)),
                    _ => (),
                }
            }
        }
        Err(error) if is_gone(&error) => return Ok(empty(of)),
        Err(error) => return Err(failed(error)),
    }
    look(&api, &of).await.map_err(failed)
}

fn empty(of: Type) -> Found {
    Found { of, n_objects: 0, finalizers: BTreeMap::new() }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

async fn look(
    api: &Api<PartialObjectMeta<DynamicObject>>,
    of: &Type,
) -> Result<Found, kube::Error> {
    let mut found = empty(of.clone());
    let listed = match api.list_metadata(&ListParams::default()).await {
        Ok(listed) => listed,
        // The type has gone meanwhile, or was never there.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.code == 405 => {
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    found.n_objects = listed.items.len();
    for finalizer in listed.items.iter().flat_map(|o| o.finalizers()) {
        *found.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(found)
}
