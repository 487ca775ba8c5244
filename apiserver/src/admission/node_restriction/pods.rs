//! What an agent may do to pods: show those that it runs from files of its own, and report, evict and remove those that
//! run on its node.

use serde_json::Value;

use super::super::pods::{containers, is_mirror, secrets};
use super::{Asked, Operation, Rule, owners, require, same};
use crate::types::check::{flag, is_empty, items, text};

/// Kinds of volumes that read nothing from the API.
const PLAIN: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
/// Kinds that do, with what they read.
const REFERRING: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
/// The same of sources of projected volumes.
const PROJECTED: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// Judges a new pod by itself; answers with the reference to its owner.
pub(super) fn mirror<'v>(asked: &Asked<'v>) -> Result<&'v Value, String> {
    let Asked { node, object: pod, .. } = *asked;
    require(is_mirror(pod), || {
        format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
        )
    })?;
    bound(pod, node, || {
        format!("node {node:?} can only create pods with spec.nodeName set to itself")
    })?;
    let only = |what: &str| {
        let what = what.to_owned();
        move || {
            format!("node {node:?} can only create pods with {what} owner reference set to itself")
        }
    };
    let [owner] = owners(pod) else {
        let what = if owners(pod).is_empty() { "an" } else { "a single" };
        return Err(only(what)());
    };
    let own = owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node;
    require(own, only("an"))?;
    require(flag(owner, "controller"), only("a controller"))?;
    require(!flag(owner, "blockOwnerDeletion"), || {
        format!("node {node:?} must not set blockOwnerDeletion on an owner reference")
    })?;
    Ok(owner)
}

/// Judges whether the owner of a new pod is this very node, and no earlier namesake.
pub(super) fn same_node(asked: &Asked<'_>, owner: &Value, node: &Value) -> Rule {
    let (expected, got) = (text(owner, "uid"), text(&node["metadata"], "uid"));
    require(expected == got, || {
        format!("node {} UID mismatch: expected {expected} got {got}", asked.node)
    })
}

/// Judges what a new pod reads: what a mirror pod refers to would become readable for the node.
///
/// Source: `HasAPIObjectReference` in upstream `pkg/api/pod/util.go`.
pub(super) fn self_contained(asked: &Asked<'_>) -> Rule {
    let reference = reference(&asked.object["spec"])
        .map_err(|why| format!("error checking mirror pod for API references: {why}"))?;
    reference.map_or(Ok(()), |what| {
        Err(format!("node {:?} can not create pods that reference {what}", asked.node))
    })
}

/// What a pod refers to, if it does.
fn reference(spec: &Value) -> Result<Option<&'static str>, String> {
    let whole = [
        (!is_empty(&spec["serviceAccountName"]), "serviceaccounts"),
        (secrets(spec).next().is_some(), "secrets"),
        (reads_config_maps(spec), "configmaps"),
        (!is_empty(&spec["resourceClaims"]), "resourceclaims"),
    ];
    if let Some((_, what)) = whole.into_iter().find(|(found, _)| *found) {
        return Ok(Some(what));
    }
    for volume in items(&spec["volumes"]) {
        let found = reference_of_volume(volume)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn reads_config_maps(spec: &Value) -> bool {
    let of_environment = |container: &Value| {
        let single = items(&container["env"]).iter().map(|e| &e["valueFrom"]["configMapKeyRef"]);
        let whole = items(&container["envFrom"]).iter().map(|e| &e["configMapRef"]);
        single.chain(whole).any(|source| !source.is_null())
    };
    containers(spec).any(|(_, container)| of_environment(container))
}

fn reference_of_volume(volume: &Value) -> Result<Option<&'static str>, String> {
    let has = |kind: &str| !volume[kind].is_null();
    if PLAIN.into_iter().any(has) {
        return Ok(None);
    }
    if let Some((_, what)) = REFERRING.into_iter().find(|(kind, _)| has(kind)) {
        return Ok(Some(what));
    }
    let name = text(volume, "name");
    require(has("projected"), || format!("unknown volume type for volume  {name:?}"))?;
    for source in items(&volume["projected"]["sources"]) {
        let has = |kind: &str| !source[kind].is_null();
        if let Some((_, what)) = PROJECTED.into_iter().find(|(kind, _)| has(kind)) {
            return Ok(Some(what));
        }
        require(has("downwardAPI"), || format!("unknown source for projected volume {name:?}"))?;
    }
    Ok(None)
}

/// Judges the deletion of a pod.
pub(super) fn deletion(asked: &Asked<'_>) -> Rule {
    bound(asked.old, asked.node, || {
        format!("node {:?} can only delete pods with spec.nodeName set to itself", asked.node)
    })
}

/// Judges the eviction of a pod.
pub(super) fn eviction(asked: &Asked<'_>, pod: &Value) -> Rule {
    bound(pod, asked.node, || {
        format!("node {} can only evict pods with spec.nodeName set to itself", asked.node)
    })
}

/// Judges a report about a pod.
pub(super) fn status(asked: &Asked<'_>) -> Rule {
    let Asked { node, object, old, operation, .. } = asked;
    require(*operation == Operation::Update, || {
        format!("unexpected operation {:?}", operation.as_str())
    })?;
    bound(old, node, || {
        format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )
    })?;
    require(same_labels(object, old), || {
        format!("node {node:?} cannot update labels through pod status")
    })?;
    let unchanged = |field: &str| same(&object["status"][field], &old["status"][field]);
    require(unchanged("resourceClaimStatuses"), || {
        format!("node {node:?} cannot update resource claim statues")
    })?;
    require(unchanged("extendedResourceClaimStatus"), || {
        format!("node {node:?} cannot update extended resource claim status")
    })
}

/// Whether two pods have the same labels; one that is empty is still there.
fn same_labels(one: &Value, other: &Value) -> bool {
    let [one, other] = [one, other].map(|pod| &pod["metadata"]["labels"]);
    one == other || (is_empty(one) && is_empty(other))
}

/// The refusal of a change to anything but the status.
pub(super) fn unchangeable(asked: &Asked<'_>, operation: Operation) -> String {
    let (operation, node) = (operation.as_str(), asked.node);
    format!(
        "unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"
    )
}

/// The refusal of a subresource.
pub(super) fn unexpected(subresource: &str) -> String {
    format!("unexpected pod subresource {subresource:?}, only 'status' and 'eviction' are allowed")
}

fn bound(pod: &Value, node: &str, why: impl FnOnce() -> String) -> Rule {
    require(pod["spec"]["nodeName"] == node, why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{asked, says};
    use super::*;

    fn mirror_pod() -> Value {
        json!({
            "metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences":
                [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "a"}], "volumes": [{"name": "v", "hostPath": {}}]},
        })
    }

    /// The mirror pod with another value in one place.
    fn with(pointer: &str, value: Value) -> Value {
        let mut pod = mirror_pod();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value;
        pod
    }

    #[test]
    fn only_mirror_pods_of_the_own_node_are_made() {
        let check = |pod: Value| mirror(&asked(Operation::Create, &pod, &Value::Null)).map(drop);
        says(check(mirror_pod()), "");
        let owner = "/metadata/ownerReferences";
        let first = |field: &str| format!("{owner}/0/{field}");
        let twice = json!([mirror_pod()["metadata"]["ownerReferences"][0], {}]);
        let itself = "can only create pods with an owner reference set to itself";
        for (pod, words) in [
            (with("/metadata/annotations", json!({})), "node \"n1\" can only create mirror pods"),
            (with("/spec/nodeName", json!("n2")), "pods with spec.nodeName set to itself"),
            (with("/spec/nodeName", Value::Null), "pods with spec.nodeName set to itself"),
            (with(owner, json!([])), itself),
            (with(owner, twice), "a single owner reference"),
            (with(&first("apiVersion"), json!("v2")), itself),
            (with(&first("kind"), json!("Pod")), itself),
            (with(&first("name"), json!("n2")), itself),
            (with(&first("controller"), Value::Null), "a controller owner reference"),
            (with(&first("blockOwnerDeletion"), json!(true)), "must not set blockOwnerDeletion"),
        ] {
            says(check(pod), words);
        }
    }

    #[test]
    fn an_earlier_node_of_that_name_is_another() {
        let pod = mirror_pod();
        let asked = asked(Operation::Create, &pod, &Value::Null);
        let owner = mirror(&asked).unwrap();
        says(same_node(&asked, owner, &json!({"metadata": {"uid": "u1"}})), "");
        let words = "node n1 UID mismatch: expected u1 got u2";
        says(same_node(&asked, owner, &json!({"metadata": {"uid": "u2"}})), words);
    }

    #[test]
    fn mirror_pods_read_nothing_from_the_api() {
        let check = |pod: Value| self_contained(&asked(Operation::Create, &pod, &Value::Null));
        let volume =
            |kind: &str, source: Value| with("/spec/volumes", json!([{"name": "v", kind: source}]));
        let projected = |kind: &str| volume("projected", json!({"sources": [{kind: {}}]}));
        for kind in PLAIN {
            says(check(volume(kind, json!({}))), "");
        }
        says(check(projected("downwardAPI")), "");
        for (kind, what) in REFERRING {
            says(check(volume(kind, json!({}))), &format!("pods that reference {what}"));
        }
        for (kind, what) in PROJECTED {
            says(check(projected(kind)), &format!("pods that reference {what}"));
        }
        says(check(volume("new", json!({}))), "unknown volume type");
        says(check(projected("new")), "unknown source for projected volume");
        says(check(with("/spec/serviceAccountName", json!("a"))), "reference serviceaccounts");
        says(check(with("/spec/imagePullSecrets", json!([{"name": "s"}]))), "reference secrets");
        says(
            check(with("/spec/resourceClaims", json!([{"name": "c"}]))),
            "reference resourceclaims",
        );
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            let container = |field: &str, source: Value| {
                with(&format!("/spec/{list}"), json!([{field: [source]}]))
            };
            let single = |kind: &str| container("env", json!({"valueFrom": {kind: {"name": "x"}}}));
            let whole = |kind: &str| container("envFrom", json!({kind: {"name": "x"}}));
            says(check(single("configMapKeyRef")), "reference configmaps");
            says(check(whole("configMapRef")), "reference configmaps");
            says(check(single("secretKeyRef")), "reference secrets");
            says(check(whole("secretRef")), "reference secrets");
            says(check(single("fieldRef")), "");
        }
    }

    #[test]
    fn pods_of_other_nodes_are_left_alone() {
        let (own, other) = (mirror_pod(), with("/spec/nodeName", json!("n2")));
        for (pod, words) in [(&own, ""), (&other, "with spec.nodeName set to itself")] {
            says(deletion(&asked(Operation::Delete, &Value::Null, pod)), words);
            says(status(&asked(Operation::Update, pod, pod)), words);
            says(eviction(&asked(Operation::Create, &Value::Null, &Value::Null), pod), words);
        }
        // The stored pod counts, not what the agent says.
        says(status(&asked(Operation::Update, &own, &other)), "set to itself");
    }

    #[test]
    fn a_report_is_about_what_the_agent_sees() {
        let old = with("/status", json!({"phase": "Pending"}));
        let change = |pointer: &str, value: Value| {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            let mut new = old.clone();
            new.pointer_mut(parent).unwrap()[field] = value;
            status(&asked(Operation::Update, &new, &old))
        };
        says(change("/status/phase", json!("Running")), "");
        says(change("/metadata/labels", json!({})), "");
        says(
            change("/metadata/labels", json!({"a": ""})),
            "cannot update labels through pod status",
        );
        let claims = json!([{"name": "c", "resourceClaimName": "d"}]);
        says(
            change("/status/resourceClaimStatuses", claims),
            "cannot update resource claim statues",
        );
        let claim = json!({"resourceClaimName": "d"});
        says(
            change("/status/extendedResourceClaimStatus", claim),
            "cannot update extended resource claim status",
        );
        says(
            status(&asked(Operation::Delete, &Value::Null, &old)),
            "unexpected operation \"DELETE\"",
        );
    }
}
