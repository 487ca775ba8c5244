//! Observe, plan, apply, for one node. All the I/O is here.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kit::{CallError, Event, RESYNC, Requeue};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tracing::{info, warn};

use crate::Context;
use crate::plan::Range;

pub(crate) async fn reconcile(
    node: Arc<Node>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let name = node.name_any();
    if node.metadata.deletion_timestamp.is_some() || !cidrs(&node).is_empty() {
        return Ok(Requeue::await_change());
    }
    let known = context.given.lock().get(&name).copied();
    let Some(range) = known.or_else(|| context.parts.free(&taken(&context))) else {
        warn!(node = name, "no addresses are left for this node; choose a larger --cluster-cidr");
        let message = format!("Node {name} status is now: CIDRNotAvailable");
        context.stage.recorder.publish(&*node, Event::normal("CIDRNotAvailable", message));
        return Ok(Requeue::requeue(RESYNC));
    };
    context.given.lock().insert(name.clone(), range);
    let cidr = range.to_string();
    let patch = Patch::Merge(json!({
        "metadata": { "resourceVersion": node.resource_version() },
        "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
    }));
    let nodes: Api<Node> = Api::all(context.stage.client.clone());
    match nodes.patch(&name, &PatchParams::default(), &patch).await {
        Ok(_) => info!(node = name, cidr, "node was given its addresses"),
        Err(source) => return Err(CallError::new("patch", format!("node {name}"), source)),
    }
    Ok(Requeue::await_change())
}

fn cidrs(node: &Node) -> Vec<Range> {
    let spec = node.spec.iter();
    let cidrs = spec.flat_map(|spec| spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten()));
    cidrs.filter_map(|cidr| cidr.parse().ok()).collect()
}

/// What nodes have, and what was given to those that the cache still shows without.
fn taken(context: &Context) -> Vec<Range> {
    let nodes = context.nodes.all();
    let mut given = context.given.lock();
    given.retain(|name, _| nodes.iter().any(|n| n.name_any() == *name && cidrs(n).is_empty()));
    nodes.iter().flat_map(|node| cidrs(node)).chain(given.values().copied()).collect()
}
