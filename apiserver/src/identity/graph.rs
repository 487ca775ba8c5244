//! What belongs to which node: an index of pods and what they refer to, kept up to date by events.
//!
//! Source: kubernetes.io, "Using Node Authorization"; upstream `plugin/pkg/auth/authorizer/node`.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// An object that a pod refers to: resource, namespace (empty if it has none) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tie {
    /// Plural name, such as `secrets`.
    pub resource: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Namespace and name.
type Key = (String, String);

/// Pods by node, with what they refer to, and the volumes behind claims.
#[derive(Debug, Default)]
pub struct Graph {
    pods: HashMap<Key, (String, HashSet<Tie>)>,
    by_node: HashMap<String, HashSet<Key>>,
    /// Claim to volume.
    volumes: HashMap<Key, String>,
    /// Secrets that a node needs to use a volume.
    volume_secrets: HashMap<String, HashSet<Tie>>,
    /// What belongs to one node because it says so: attachments of volumes, slices of devices.
    owned: HashMap<(&'static str, String), String>,
}

/// The resources whose objects tie others to nodes: group and plural name.
pub const TIES: [(&str, &str); 5] = [
    ("", "pods"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "volumeattachments"),
    ("resource.k8s.io", "resourceslices"),
];

/// Those that belong to the node in their `spec.nodeName`.
const OWNED: [&str; 2] = ["volumeattachments", "resourceslices"];

impl Graph {
    /// Takes over the state of one object; `None` if it is gone.
    pub fn set(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let key = || (namespace.to_owned(), name.to_owned());
        let text = |pointer: &str| {
            let text = object.and_then(|object| object.pointer(pointer)?.as_str());
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        match resource {
            "pods" => self.set_pod(key(), text("/spec/nodeName"), object),
            "persistentvolumeclaims" => match text("/spec/volumeName") {
                Some(volume) => _ = self.volumes.insert(key(), volume),
                None => _ = self.volumes.remove(&key()),
            },
            "persistentvolumes" => {
                let secrets = object.map(secrets_of_volume).unwrap_or_default();
                match secrets.is_empty() {
                    true => _ = self.volume_secrets.remove(name),
                    false => _ = self.volume_secrets.insert(name.to_owned(), secrets),
                }
            }
            _ => self.set_owned(resource, name, text("/spec/nodeName")),
        }
    }

    fn set_owned(&mut self, resource: &str, name: &str, node: Option<String>) {
        let Some(kind) = OWNED.into_iter().find(|kind| *kind == resource) else { return };
        let key = (kind, name.to_owned());
        match node {
            Some(node) => _ = self.owned.insert(key, node),
            None => _ = self.owned.remove(&key),
        }
    }

    fn set_pod(&mut self, key: Key, node: Option<String>, pod: Option<&Value>) {
        if let Some((node, _)) = self.pods.remove(&key)
            && let Some(pods) = self.by_node.get_mut(&node)
        {
            pods.remove(&key);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
        if let (Some(node), Some(pod)) = (node, pod) {
            self.by_node.entry(node.clone()).or_default().insert(key.clone());
            self.pods.insert(key, (node, ties(pod)));
        }
    }

    /// Whether something on `node` refers to `tie`.
    pub fn reaches(&self, node: &str, tie: &Tie) -> bool {
        if OWNED.contains(&tie.resource) {
            let owner = self.owned.get(&(tie.resource, tie.name.clone()));
            return owner.is_some_and(|owner| owner == node);
        }
        let Some(keys) = self.by_node.get(node) else { return false };
        let pods = keys.iter().filter_map(|key| self.pods.get(key));
        let mut found = pods.map(|(_, ties)| ties);
        if tie.resource == "persistentvolumes" {
            return found.any(|ties| ties.iter().any(|claim| self.volume_is(claim, &tie.name)));
        }
        found.any(|ties| {
            ties.contains(tie)
                || tie.resource == "secrets" && ties.iter().any(|claim| self.opens(claim, tie))
        })
    }

    /// Whether the secret is needed to use the volume behind a claim.
    fn opens(&self, claim: &Tie, secret: &Tie) -> bool {
        let volume = (claim.resource == "persistentvolumeclaims")
            .then(|| self.volumes.get(&(claim.namespace.clone(), claim.name.clone())))
            .flatten();
        let secrets = volume.and_then(|volume| self.volume_secrets.get(volume));
        secrets.is_some_and(|secrets| secrets.contains(secret))
    }

    fn volume_is(&self, claim: &Tie, volume: &str) -> bool {
        let key = || (claim.namespace.clone(), claim.name.clone());
        claim.resource == "persistentvolumeclaims"
            && self.volumes.get(&key()).is_some_and(|bound| bound == volume)
    }
}

/// All that a pod refers to, itself included.
pub fn ties(pod: &Value) -> HashSet<Tie> {
    let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let namespace = text(&pod["metadata"]["namespace"]).unwrap_or_default();
    let mut ties = HashSet::new();
    let mut add = |resource: &'static str, name: &Value| {
        if let Some(name) = text(name) {
            ties.insert(Tie { resource, namespace: namespace.clone(), name });
        }
    };
    let spec = &pod["spec"];
    add("pods", &pod["metadata"]["name"]);
    // A mirror pod stands for something on the node that the API did not make: it gives no rights.
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return ties;
    }
    add("serviceaccounts", &spec["serviceAccountName"]);
    items(&spec["imagePullSecrets"]).for_each(|secret| add("secrets", &secret["name"]));
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        items(&spec[kind]).for_each(|container| of_container(container, &mut add));
    }
    items(&spec["volumes"]).for_each(|volume| of_volume(volume, pod, &mut add));
    for claim in items(&spec["resourceClaims"]) {
        add("resourceclaims", &claim["resourceClaimName"]);
    }
    for claim in items(&pod["status"]["resourceClaimStatuses"]) {
        add("resourceclaims", &claim["resourceClaimName"]);
    }
    add("resourceclaims", &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    ties
}

fn of_container(container: &Value, add: &mut impl FnMut(&'static str, &Value)) {
    for from in items(&container["envFrom"]) {
        add("secrets", &from["secretRef"]["name"]);
        add("configmaps", &from["configMapRef"]["name"]);
    }
    for from in items(&container["env"]).map(|variable| &variable["valueFrom"]) {
        add("secrets", &from["secretKeyRef"]["name"]);
        add("configmaps", &from["configMapKeyRef"]["name"]);
    }
}

fn of_volume(volume: &Value, pod: &Value, add: &mut impl FnMut(&'static str, &Value)) {
    add("secrets", &volume["secret"]["secretName"]);
    add("configmaps", &volume["configMap"]["name"]);
    add("persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
    if volume["ephemeral"].is_object() {
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
        let name = volume["name"].as_str().unwrap_or_default();
        add("persistentvolumeclaims", &format!("{pod}-{name}").into());
    }
    for source in items(&volume["projected"]["sources"]) {
        add("secrets", &source["secret"]["name"]);
        add("configmaps", &source["configMap"]["name"]);
    }
    add("secrets", &volume["azureFile"]["secretName"]);
    add("secrets", &volume["csi"]["nodePublishSecretRef"]["name"]);
    for kind in WITH_SECRET {
        add("secrets", &volume[kind]["secretRef"]["name"]);
    }
}

/// The secrets that a node needs to use a PersistentVolume; those for its controller are not among them.
///
/// Source: upstream's `pkg/api/v1/persistentvolume/util.go`.
fn secrets_of_volume(volume: &Value) -> HashSet<Tie> {
    let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let spec = &volume["spec"];
    let claims = || text(&spec["claimRef"]["namespace"]);
    let tie = |namespace: &Value, name: &Value| {
        let namespace = text(namespace).or_else(claims).unwrap_or_default();
        Some(Tie { resource: "secrets", namespace, name: text(name)? })
    };
    let azure = &spec["azureFile"];
    let csi = ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"];
    let csi = csi.into_iter().map(|field| &spec["csi"][field]);
    let plain = WITH_SECRET.into_iter().map(|kind| &spec[kind]["secretRef"]);
    let references = csi.chain(plain).filter_map(|r| tie(&r["namespace"], &r["name"]));
    references.chain(tie(&azure["secretNamespace"], &azure["secretName"])).collect()
}

/// Volumes that have a `secretRef`.
const WITH_SECRET: [&str; 7] =
    ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"];

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reaches(graph: &Graph, node: &str, resource: &'static str, name: &str) -> bool {
        let namespace = match resource {
            "persistentvolumes" | "volumeattachments" | "resourceslices" => String::new(),
            _ => "shop".to_owned(),
        };
        graph.reaches(node, &Tie { resource, namespace, name: name.to_owned() })
    }

    #[test]
    fn rights_come_and_go_with_pods_and_claims() {
        let mut graph = Graph::default();
        let mut pod = json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "nodeName": "n1", "volumes": [
                { "name": "a", "secret": { "secretName": "vol" } },
                { "name": "c", "persistentVolumeClaim": { "claimName": "data" } },
            ] },
        });
        graph.set("pods", "shop", "web", Some(&pod));
        assert!(reaches(&graph, "n1", "secrets", "vol") && reaches(&graph, "n1", "pods", "web"));
        assert!(!reaches(&graph, "n2", "secrets", "vol"));
        assert!(!reaches(&graph, "n1", "persistentvolumes", "pv"));
        let claim = json!({ "spec": { "volumeName": "pv" } });
        graph.set("persistentvolumeclaims", "shop", "data", Some(&claim));
        assert!(reaches(&graph, "n1", "persistentvolumes", "pv"));
        let csi = json!({
            "nodeStageSecretRef": { "namespace": "shop", "name": "stage" },
            "controllerExpandSecretRef": { "namespace": "shop", "name": "expand" },
        });
        graph.set("persistentvolumes", "", "pv", Some(&json!({ "spec": { "csi": csi } })));
        assert!(reaches(&graph, "n1", "secrets", "stage"));
        assert!(!reaches(&graph, "n2", "secrets", "stage"));
        assert!(!reaches(&graph, "n1", "secrets", "expand"));
        graph.set("persistentvolumes", "", "pv", None);
        assert!(!reaches(&graph, "n1", "secrets", "stage"));
        graph.set("persistentvolumeclaims", "shop", "data", None);
        assert!(!reaches(&graph, "n1", "persistentvolumes", "pv"));
        pod["spec"]["volumes"] = json!([]);
        graph.set("pods", "shop", "web", Some(&pod));
        assert!(!reaches(&graph, "n1", "secrets", "vol"));
        graph.set("pods", "shop", "web", None);
        assert!(!reaches(&graph, "n1", "pods", "web") && graph.by_node.is_empty());
        let own = json!({ "spec": { "nodeName": "n1" } });
        for resource in OWNED {
            graph.set(resource, "", "x", Some(&own));
            assert!(reaches(&graph, "n1", resource, "x") && !reaches(&graph, "n2", resource, "x"));
            graph.set(resource, "", "x", None);
            assert!(!reaches(&graph, "n1", resource, "x"), "{resource}");
        }
    }

    #[test]
    fn a_mirror_pod_gives_no_rights() {
        let pod = json!({
            "metadata": { "name": "m", "namespace": "shop",
                "annotations": { "kubernetes.io/config.mirror": "x" } },
            "spec": { "nodeName": "n1", "serviceAccountName": "admin" },
        });
        let mut graph = Graph::default();
        graph.set("pods", "shop", "m", Some(&pod));
        assert!(!reaches(&graph, "n1", "serviceaccounts", "admin"));
        assert!(reaches(&graph, "n1", "pods", "m"));
    }
}
