//! What node agents may: what the node role grants, narrowed to what belongs to the node.
//!
//! A node's agent sees its own Node, Lease and pods, and of secrets, config maps, claims and
//! accounts only those that its pods refer to. So a node that is taken over gives away what runs
//! there, and no more.
//!
//! Source: kubernetes.io, "Using Node Authorization".

use std::sync::Arc;

use serde_json::Value;

use super::authz::{Attributes, Decision};
use super::rbac::{Index, RoleKey, Rule};
use crate::request::User;

const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";

/// Where to see what runs on a node.
pub trait Pods: Send + Sync {
    /// The pods of a node, in one namespace or all.
    fn on(&self, node: &str, namespace: Option<&str>) -> Vec<Value>;

    /// The volume that a claim is bound to.
    fn volume_of(&self, namespace: &str, claim: &str) -> Option<String>;
}

/// The node that a user is the agent of.
pub(super) fn node_name(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    (!name.is_empty() && user.in_group(GROUP)).then_some(name)
}

/// The rules of the node role.
pub(super) fn node_role(index: &Index) -> Option<Arc<[Rule]>> {
    index.role(&RoleKey { namespace: String::new(), name: "system:node".to_owned() })
}

/// Whether the agent of `node` may do it.
pub(super) fn authorize(
    role: Option<&[Rule]>,
    pods: Option<&dyn Pods>,
    node: &str,
    asked: &Attributes<'_>,
) -> Decision {
    if let Some(reason) = not_its_own(pods, node, asked) {
        return Decision::no_opinion(reason);
    }
    let granted = role.is_some_and(|rules| rules.iter().any(|rule| rule.allows(asked)));
    if granted { Decision::allow("") } else { Decision::no_opinion("") }
}

/// Why a request is not about what belongs to `node`; `None` if it is, or belongs to nobody.
fn not_its_own(pods: Option<&dyn Pods>, node: &str, asked: &Attributes<'_>) -> Option<String> {
    let reading = matches!(asked.verb, "get" | "list" | "watch");
    let own_name = asked.name == node;
    match (asked.group, asked.resource) {
        ("", "nodes") if asked.verb == "get" && asked.subresource.is_empty() => {
            (!own_name).then(|| {
                format!("node '{node}' cannot read '{}', only its own Node object", asked.name)
            })
        }
        ("", "pods") if reading && asked.name.is_empty() => (!selects(asked, node))
            .then(|| "can only list/watch pods with spec.nodeName field selector".to_owned()),
        ("coordination.k8s.io", "leases") => not_its_lease(node, asked),
        ("storage.k8s.io", "csinodes") => (asked.verb != "create" && !own_name).then(|| {
            "can only access CSINode with the same name as the requesting node".to_owned()
        }),
        ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "persistentvolumes")
            if reading =>
        {
            if asked.name.is_empty() {
                return Some("No Object name found".to_owned());
            }
            unrelated(pods, node, asked)
        }
        ("", "serviceaccounts") if asked.subresource == "token" => unrelated(pods, node, asked),
        _ => None,
    }
}

fn not_its_lease(node: &str, asked: &Attributes<'_>) -> Option<String> {
    if asked.namespace != "kube-node-lease" {
        let place = "can only access leases in the \"kube-node-lease\" system namespace";
        return Some(place.to_owned());
    }
    (asked.verb != "create" && asked.name != node)
        .then(|| "can only access node lease with the same name as the requesting node".to_owned())
}

fn selects(asked: &Attributes<'_>, node: &str) -> bool {
    asked.field_selector.split(',').any(|term| {
        let pair = term.split_once("==").or_else(|| term.split_once('='));
        pair.is_some_and(|(field, value)| field == "spec.nodeName" && value == node)
    })
}

fn unrelated(pods: Option<&dyn Pods>, node: &str, asked: &Attributes<'_>) -> Option<String> {
    let related = pods.is_some_and(|world| {
        let namespace = (!asked.namespace.is_empty()).then_some(asked.namespace);
        world.on(node, namespace).iter().any(|pod| match asked.resource {
            "persistentvolumes" => {
                let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
                claims(pod)
                    .iter()
                    .any(|claim| world.volume_of(namespace, claim).as_deref() == Some(asked.name))
            }
            resource => refers(pod, resource, asked.name),
        })
    });
    (!related).then(|| format!("no relationship found between node '{node}' and this object"))
}

/// Whether a pod's spec refers to the object `name` of `resource` in its namespace.
fn refers(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    match resource {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        "persistentvolumeclaims" => claims(pod).iter().any(|claim| claim == name),
        "secrets" => {
            items(&spec["imagePullSecrets"]).any(|secret| secret["name"] == name)
                || in_containers(spec, "secretRef", "secretKeyRef", name)
                || items(&spec["volumes"]).any(|volume| volume_names_secret(volume, name))
        }
        "configmaps" => {
            in_containers(spec, "configMapRef", "configMapKeyRef", name)
                || items(&spec["volumes"]).any(|volume| {
                    volume["configMap"]["name"] == name
                        || items(&volume["projected"]["sources"])
                            .any(|source| source["configMap"]["name"] == name)
                })
        }
        _ => false,
    }
}

fn claims(pod: &Value) -> Vec<String> {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let claim = |volume: &Value| match volume["persistentVolumeClaim"]["claimName"].as_str() {
        Some(claim) => Some(claim.to_owned()),
        None if volume["ephemeral"].is_object() => {
            Some(format!("{pod_name}-{}", volume["name"].as_str()?))
        }
        None => None,
    };
    items(&pod["spec"]["volumes"]).filter_map(claim).collect()
}

fn volume_names_secret(volume: &Value, name: &str) -> bool {
    let source = |kind: &str, field: &str| volume[kind][field]["name"] == name;
    volume["secret"]["secretName"] == name
        || volume["azureFile"]["secretName"] == name
        || source("csi", "nodePublishSecretRef")
        || ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"]
            .iter()
            .any(|kind| source(kind, "secretRef"))
        || items(&volume["projected"]["sources"]).any(|s| s["secret"]["name"] == name)
}

/// Whether a container of any kind takes its environment from `name`.
fn in_containers(spec: &Value, whole: &str, key: &str, name: &str) -> bool {
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|kind| {
        items(&spec[*kind]).any(|container| {
            items(&container["envFrom"]).any(|from| from[whole]["name"] == name)
                || items(&container["env"]).any(|env| env["valueFrom"][key]["name"] == name)
        })
    })
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// One pod on `n1`, in `shop`, that refers to something of each kind.
    struct World;

    impl Pods for World {
        fn on(&self, node: &str, namespace: Option<&str>) -> Vec<Value> {
            let here = node == "n1" && namespace.is_none_or(|namespace| namespace == "shop");
            let pod = json!({
                "metadata": { "name": "web", "namespace": "shop" },
                "spec": {
                    "serviceAccountName": "robot",
                    "imagePullSecrets": [{ "name": "pull" }],
                    "containers": [{
                        "envFrom": [{ "secretRef": { "name": "all" } }, { "configMapRef": { "name": "conf" } }],
                        "env": [{ "valueFrom": { "secretKeyRef": { "name": "one" } } }],
                    }],
                    "volumes": [
                        { "name": "a", "secret": { "secretName": "vol" } },
                        { "name": "b", "projected": { "sources": [{ "configMap": { "name": "ca" } }] } },
                        { "name": "c", "persistentVolumeClaim": { "claimName": "data" } },
                        { "name": "d", "ephemeral": {} },
                    ],
                },
            });
            here.then_some(pod).into_iter().collect()
        }

        fn volume_of(&self, namespace: &str, claim: &str) -> Option<String> {
            (namespace == "shop" && claim == "data").then(|| "pv-1".to_owned())
        }
    }

    /// `verb group resource[/sub] namespace name [selector]` with `-` for nothing.
    #[track_caller]
    fn check(question: &str, expected: &str) {
        let rule: Rule = serde_json::from_value(json!({
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
        }))
        .unwrap();
        let words: Vec<&str> = question.split(' ').map(|w| if w == "-" { "" } else { w }).collect();
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        let user = User::new("system:node:n1", &[GROUP]);
        let asked = Attributes {
            verb: words[0],
            group: words[1],
            resource,
            subresource,
            namespace: words[3],
            name: words[4],
            field_selector: words.get(5).copied().unwrap_or_default(),
            ..Attributes::of_nothing(&user)
        };
        let decision = authorize(Some(&[rule]), Some(&World), node_name(&user).unwrap(), &asked);
        assert_eq!(
            if decision.allowed { "yes" } else { decision.reason.as_str() },
            expected,
            "{question}"
        );
    }

    const UNRELATED: &str = "no relationship found between node 'n1' and this object";

    #[test]
    fn an_agent_sees_what_its_pods_refer_to() {
        for name in ["pull", "all", "one", "vol"] {
            check(&format!("get - secrets shop {name}"), "yes");
        }
        for name in ["conf", "ca"] {
            check(&format!("watch - configmaps shop {name}"), "yes");
        }
        check("get - persistentvolumeclaims shop data", "yes");
        check("get - persistentvolumeclaims shop web-d", "yes");
        check("get - persistentvolumes - pv-1", "yes");
        check("create - serviceaccounts/token shop robot", "yes");
    }

    #[test]
    fn an_agent_does_not_see_what_is_elsewhere() {
        check("get - secrets shop other", UNRELATED);
        check("get - secrets bank pull", UNRELATED);
        check("get - configmaps shop pull", UNRELATED);
        check("get - persistentvolumes - pv-2", UNRELATED);
        check("create - serviceaccounts/token shop admin", UNRELATED);
        check("list - secrets shop -", "No Object name found");
    }

    #[test]
    fn an_agent_keeps_its_own_node_lease_and_pods() {
        check("get - nodes - n1", "yes");
        check("get - nodes - n2", "node 'n1' cannot read 'n2', only its own Node object");
        check("list - pods - - spec.nodeName=n1", "yes");
        check("list - pods - -", "can only list/watch pods with spec.nodeName field selector");
        check("update coordination.k8s.io leases kube-node-lease n1", "yes");
        check("create coordination.k8s.io leases kube-node-lease -", "yes");
        check(
            "get coordination.k8s.io leases kube-node-lease n2",
            "can only access node lease with the same name as the requesting node",
        );
        check(
            "get coordination.k8s.io leases default n1",
            "can only access leases in the \"kube-node-lease\" system namespace",
        );
        check("list - services - -", "yes");
    }
}
