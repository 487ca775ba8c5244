//! Observe, plan, apply, for one Service. All the I/O is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kit::call::{is_gone, only};
use kit::{CACHE_LAG, CallError, Change, RESYNC, ReconcileError as _, Requeue, chain};
use kube::api::PostParams;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tracing::info;

use crate::plan::{self, Action, Observed};
use crate::{Context, events};

/// The label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

pub(crate) async fn reconcile(
    service: Arc<Service>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let uid = service.uid().unwrap_or_default();
    if !context.slice_writes.seen_by_cache(&uid) || !context.endpoints_writes.seen_by_cache(&uid) {
        return Ok(Requeue::requeue(CACHE_LAG));
    }
    let observed = observe(&service, &uid, &context);
    for action in plan::plan(&observed) {
        let failure = match action {
            Action::CreateEndpoints(_) | Action::UpdateEndpoints(_) => events::endpoints_failed,
            _ => events::slices_failed,
        };
        if let Err(error) = apply(&context, &service, &uid, action).await {
            if !error.is_expected() {
                let event = failure(&key(&*service), &chain(&error));
                context.stage.recorder.publish(&*service, event);
            }
            return Err(error);
        }
    }
    Ok(Requeue::requeue(RESYNC))
}

/// Deletes Endpoints of ours whose Service is gone.
pub(crate) async fn reconcile_endpoints(
    endpoints: Arc<Endpoints>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let namespace = endpoints.namespace().unwrap_or_default();
    let (label, value) = plan::ENDPOINTS_MANAGED_BY;
    let is_ours = endpoints.labels().get(label).is_some_and(|v| v == value);
    if !is_ours || context.services.get(Some(&namespace), &endpoints.name_any()).is_some() {
        return Ok(Requeue::requeue(RESYNC));
    }
    let api = Api::<Endpoints>::namespaced(context.stage.client.clone(), &namespace);
    let deleted = api.delete(&endpoints.name_any(), &only(endpoints.uid())).await;
    match deleted.map(drop) {
        Err(source) if !is_gone(&source) => Err(error("delete", "Endpoints", &*endpoints, source)),
        _ => Ok(Requeue::requeue(RESYNC)),
    }
}

/// Services with pods on nodes that appeared or moved to another zone.
pub(crate) fn services_of_moved_nodes(
    context: Arc<Context>,
) -> impl Stream<Item = ObjectRef<Service>> + Send + 'static {
    context.nodes.changes().flat_map(move |change| {
        let mut services = Vec::new();
        if let Change::Applied { object, previous } = change
            && previous.is_none_or(|previous| zone(&previous) != zone(&object))
        {
            let name = object.name_any();
            let pods = context.pods.all();
            let there = pods.iter().filter(|pod| {
                pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(name.as_str())
            });
            services.extend(there.flat_map(|pod| context.services_of(pod)));
        }
        stream::iter(services)
    })
}

fn observe(service: &Arc<Service>, uid: &str, context: &Context) -> Observed {
    let namespace = service.namespace().unwrap_or_default();
    let mut pods = context.pods.in_namespace(&namespace);
    pods.retain(|pod| plan::selects(service, pod));
    let mut zones = BTreeMap::new();
    for name in pods.iter().filter_map(|p| p.spec.as_ref()?.node_name.as_ref()) {
        if let Some(node) = context.nodes.get(None, name) {
            zones.entry(name.clone()).or_insert_with(|| zone(&node));
        }
    }
    let mut slices = context.slices.controlled_by(uid);
    slices.retain(|slice| slice.labels().get(plan::MANAGED_BY).is_some_and(|v| v == plan::MANAGER));
    let endpoints = context.endpoints.get(Some(&namespace), &service.name_any());
    Observed { service: Arc::clone(service), pods, zones, slices, endpoints }
}

fn zone(node: &PartialObjectMeta<Node>) -> Option<String> {
    node.labels().get(ZONE).cloned()
}

async fn apply(
    context: &Context,
    service: &Service,
    uid: &str,
    action: Action,
) -> Result<(), CallError> {
    let (client, namespace) =
        (context.stage.client.clone(), service.namespace().unwrap_or_default());
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &namespace);
    let endpoints = Api::<Endpoints>::namespaced(client, &namespace);
    let params = PostParams::default();
    match action {
        Action::CreateSlice(slice) => {
            let made = slices.create(&params, &slice).await;
            let made = made.map_err(|source| error("create", "EndpointSlice", service, source))?;
            info!(service = key(service), slice = made.name_any(), "slice created");
            context.slice_writes.wrote(uid, &made);
        }
        Action::UpdateSlice(slice) => {
            let written = slices.replace(&slice.name_any(), &params, &slice).await;
            let written =
                written.map_err(|source| error("update", "EndpointSlice", &*slice, source))?;
            context.slice_writes.wrote(uid, &written);
        }
        Action::DeleteSlice { name, uid: slice_uid } => {
            match slices.delete(&name, &only(Some(slice_uid))).await {
                Err(source) if !is_gone(&source) => {
                    return Err(error("delete", "EndpointSlice", service, source));
                }
                _ => info!(service = key(service), slice = name, "slice deleted"),
            }
            if let Some(slice) = context.slices.get(Some(&namespace), &name) {
                context.slice_writes.deleted(uid, &slice);
            }
        }
        Action::CreateEndpoints(object) => {
            let made = endpoints.create(&params, &object).await;
            let made = made.map_err(|source| error("create", "Endpoints", service, source))?;
            context.endpoints_writes.wrote(uid, &made);
        }
        Action::UpdateEndpoints(object) => {
            let written = endpoints.replace(&object.name_any(), &params, &object).await;
            let written =
                written.map_err(|source| error("update", "Endpoints", service, source))?;
            context.endpoints_writes.wrote(uid, &written);
        }
    }
    Ok(())
}

fn key<K: kube::Resource>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn error<K: kube::Resource>(
    operation: &'static str,
    what: &str,
    object: &K,
    source: kube::Error,
) -> CallError {
    CallError::new(operation, format!("{what} {}", key(object)), source)
}
