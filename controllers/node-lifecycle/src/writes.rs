//! The requests. Each names the version or the uid that it was decided on, so that what has
//! changed meanwhile is left alone and looked at again.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kit::{CallError, call, patch};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::plan::orphans::Why;

pub(crate) async fn set_conditions(
    client: Client,
    node: &Node,
    new: Vec<NodeCondition>,
) -> Result<(), CallError> {
    let api = Api::<Node>::all(client);
    let old = node.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.conditions = Some(new);
    let written = patch::patch_status(&api, node, Some(&old), &status).await;
    checked("write the status of", "Node", node, written.map(drop))
}

pub(crate) async fn set_taints(
    client: Client,
    node: &Node,
    taints: Vec<Taint>,
) -> Result<(), CallError> {
    let api = Api::<Node>::all(client);
    let patch = json!({
        "metadata": {"resourceVersion": node.resource_version()},
        "spec": {"taints": taints},
    });
    let written = api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
    checked("taint", "Node", node, written.map(drop))
}

/// The pod is not ready any more: nobody on its node can say otherwise.
pub(crate) async fn mark_unready(
    client: Client,
    pod: &Pod,
    now: Timestamp,
) -> Result<(), CallError> {
    let ready = PodCondition {
        type_: "Ready".into(),
        status: "False".into(),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    patch_status(&api(client, pod), pod, json!({"conditions": [ready]})).await
}

pub(crate) async fn evict(client: Client, pod: &Pod, now: Timestamp) -> Result<(), CallError> {
    let api = api(client, pod);
    let message = "Taint manager: deleting due to NoExecute taint";
    let condition = disruption("DeletionByTaintManager", message, now);
    patch_status(&api, pod, json!({"conditions": [condition]})).await?;
    delete(&api, pod, None).await
}

/// Deletes a pod that nobody will stop any more.
pub(crate) async fn collect(
    client: Client,
    pod: &Pod,
    why: Why,
    now: Timestamp,
) -> Result<(), CallError> {
    if why == Why::NodeGone && node_exists(&client, pod).await? {
        return Ok(()); // The cache is behind.
    }
    let api = api(client, pod);
    let message = match why {
        Why::NodeGone => Some("PodGC: node no longer exists"),
        Why::OutOfService => Some("PodGC: node is out of service"),
        Why::NeverPlaced | Why::TooMany => None,
    };
    if !kit::pods::is_terminal(pod) {
        let conditions: Vec<_> =
            message.into_iter().map(|m| disruption("DeletionByPodGC", m, now)).collect();
        patch_status(&api, pod, json!({"phase": "Failed", "conditions": conditions})).await?;
    }
    delete(&api, pod, Some(0)).await
}

async fn node_exists(client: &Client, pod: &Pod) -> Result<bool, CallError> {
    let name = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    let found = Api::<Node>::all(client.clone()).get_metadata_opt(name).await;
    let found = found.map_err(|source| CallError::new("get", format!("Node {name}"), source))?;
    Ok(found.is_some())
}

fn disruption(reason: &str, message: &str, now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    }
}

fn api(client: Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client, &pod.namespace().unwrap_or_default())
}

async fn patch_status(api: &Api<Pod>, pod: &Pod, status: Value) -> Result<(), CallError> {
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
    let patch = Patch::Strategic(patch);
    let written = api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
    checked("write the status of", "Pod", pod, written.map(drop))
}

async fn delete(api: &Api<Pod>, pod: &Pod, grace: Option<u32>) -> Result<(), CallError> {
    let params = DeleteParams { grace_period_seconds: grace, ..call::only(pod.uid()) };
    let deleted = api.delete(&pod.name_any(), &params).await;
    checked("delete", "Pod", pod, deleted.map(drop))
}

/// What is gone or has changed needs no write from us: it is looked at again.
fn checked<K: kube::Resource>(
    operation: &'static str,
    kind: &str,
    object: &K,
    result: Result<(), kube::Error>,
) -> Result<(), CallError> {
    match result {
        Err(error) if call::is_gone(&error) => Ok(()),
        Err(source) => {
            let namespace = object.namespace().map(|n| format!("{n}/")).unwrap_or_default();
            let object = format!("{kind} {namespace}{}", object.name_any());
            Err(CallError::new(operation, object, source))
        }
        Ok(()) => Ok(()),
    }
}
