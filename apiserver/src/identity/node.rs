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
use super::graph::{Graph, Tie, ties};
use super::rbac::{Index, RoleKey, Rule};
use crate::handlers::selector::Fields;
use crate::request::User;

const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";
const NODE_NAME: &str = "spec.nodeName";

/// Where to see what runs on a node, when the graph may be behind.
pub trait Pods: Send + Sync {
    /// The pods of a node, in one namespace or all.
    fn on(&self, node: &str, namespace: Option<&str>) -> Vec<Value>;

    /// The volume that a claim is bound to.
    fn volume_of(&self, namespace: &str, claim: &str) -> Option<String>;
}

/// What the decision looks at.
pub(super) struct World<'a> {
    /// Follows the caches, some moments behind them.
    pub(super) graph: &'a Graph,
    /// The caches themselves: slow, and asked only before a refusal, so that an agent which has just
    /// heard of a pod is not refused what the pod needs.
    pub(super) pods: Option<&'a dyn Pods>,
}

impl World<'_> {
    fn reaches(&self, node: &str, tie: &Tie) -> bool {
        self.graph.reaches(node, tie) || self.pods.is_some_and(|pods| now_reaches(pods, node, tie))
    }
}

fn now_reaches(pods: &dyn Pods, node: &str, tie: &Tie) -> bool {
    let namespace = (!tie.namespace.is_empty()).then_some(tie.namespace.as_str());
    pods.on(node, namespace).iter().any(|pod| {
        let ties = ties(pod);
        let volume = |claim: &Tie| {
            claim.resource == "persistentvolumeclaims"
                && pods.volume_of(&claim.namespace, &claim.name).as_deref() == Some(&tie.name)
        };
        match tie.resource {
            "persistentvolumes" => ties.iter().any(volume),
            _ => ties.contains(tie),
        }
    })
}

/// The node that an agent says it belongs to, which may be empty; `None` for other users.
pub(crate) fn agent_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(PREFIX).filter(|_| user.in_group(GROUP))
}

/// The node that a user is the agent of.
pub(super) fn node_name(user: &User) -> Option<&str> {
    agent_of(user).filter(|name| !name.is_empty())
}

/// The rules of the node role.
pub(super) fn node_role(index: &Index) -> Option<Arc<[Rule]>> {
    index.role(&RoleKey { namespace: String::new(), name: "system:node".to_owned() })
}

/// Whether the agent of `node` may do it.
pub(super) fn authorize(
    role: Option<&[Rule]>,
    world: &World<'_>,
    node: &str,
    asked: &Attributes<'_>,
) -> Decision {
    if let Some(reason) = not_its_own(world, node, asked) {
        return Decision::no_opinion(reason);
    }
    let granted = role.is_some_and(|rules| rules.iter().any(|rule| rule.allows(asked)));
    Decision { allowed: granted, ..Decision::default() }
}

/// Why a request is not about what belongs to `node`; `None` if it is, or belongs to nobody.
fn not_its_own(world: &World<'_>, node: &str, asked: &Attributes<'_>) -> Option<String> {
    if !asked.is_resource {
        return None;
    }
    let own_name = asked.name == node;
    let other = |reason: &str, is_own: bool| (!is_own).then(|| reason.to_owned());
    match (asked.group, asked.resource) {
        ("", "nodes") => not_its_node(node, asked),
        ("", "pods") => not_its_pods(world, node, asked),
        ("coordination.k8s.io", "leases") => not_its_lease(node, asked),
        ("storage.k8s.io", "csinodes") => other(
            "can only access CSINode with the same name as the requesting node",
            asked.verb == "create" || own_name,
        ),
        ("resource.k8s.io", "resourceslices") => not_its_slices(world, node, asked),
        ("", "secrets") => unrelated(world, node, asked, "secrets", &["get", "list", "watch"]),
        ("", "configmaps") => {
            unrelated(world, node, asked, "configmaps", &["get", "list", "watch"])
        }
        ("", "persistentvolumeclaims") if asked.subresource == "status" => {
            let mut whole = *asked;
            whole.subresource = "";
            unrelated(world, node, &whole, "persistentvolumeclaims", &["update", "patch"])
        }
        ("", "persistentvolumeclaims") => {
            unrelated(world, node, asked, "persistentvolumeclaims", &["get"])
        }
        ("", "persistentvolumes") => unrelated(world, node, asked, "persistentvolumes", &["get"]),
        ("resource.k8s.io", "resourceclaims") => {
            unrelated(world, node, asked, "resourceclaims", &["get"])
        }
        ("storage.k8s.io", "volumeattachments") => {
            unrelated(world, node, asked, "volumeattachments", &["get"])
        }
        ("", "serviceaccounts") => not_its_account(world, node, asked),
        _ => None,
    }
}

fn not_its_node(node: &str, asked: &Attributes<'_>) -> Option<String> {
    let what = match (asked.verb, asked.name) {
        ("create", _) => return None,
        (_, name) if name == node => return None,
        ("get" | "list" | "watch", "") => "cannot read all nodes".to_owned(),
        ("get" | "list" | "watch", name) => format!("cannot read '{name}'"),
        (verb, name) => format!("cannot {verb} '{name}'"),
    };
    Some(format!("node '{node}' {what}, only its own Node object"))
}

fn not_its_pods(world: &World<'_>, node: &str, asked: &Attributes<'_>) -> Option<String> {
    match asked.verb {
        "get" => unrelated(world, node, asked, "pods", &["get"]),
        "list" | "watch" if selects(asked, node) => None,
        "list" | "watch" if !asked.name.is_empty() => {
            unrelated(world, node, asked, "pods", &["list", "watch"])
        }
        "list" | "watch" | "deletecollection" => {
            Some("can only list/watch pods with spec.nodeName field selector".to_owned())
        }
        // What may be written, and to which pods, is for admission to say, which sees the object.
        _ => None,
    }
}

/// A slice is its node's by the graph, so that an agent neither reads nor writes what others' drivers offer.
///
/// Source: upstream `authorizeResourceSlice` in `plugin/pkg/auth/authorizer/node/node_authorizer.go`.
fn not_its_slices(world: &World<'_>, node: &str, asked: &Attributes<'_>) -> Option<String> {
    if !asked.subresource.is_empty() {
        return Some("cannot authorize ResourceSlice subresources".to_owned());
    }
    match asked.verb {
        // There is no object yet; the node that the new one names is for admission to compare.
        "create" => None,
        "get" | "update" | "patch" | "delete" => {
            unrelated(world, node, asked, "resourceslices", &[asked.verb])
        }
        "list" | "watch" | "deletecollection" => (!selects(asked, node)).then(|| {
            "can only list/watch/deletecollection resourceslices with nodeName field selector"
                .to_owned()
        }),
        _ => Some(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
                .to_owned(),
        ),
    }
}

fn not_its_account(world: &World<'_>, node: &str, asked: &Attributes<'_>) -> Option<String> {
    match (asked.verb, asked.subresource) {
        ("create", "token") => {
            let mut whole = *asked;
            whole.subresource = "";
            unrelated(world, node, &whole, "serviceaccounts", &["create"])
        }
        ("get", "") => unrelated(world, node, asked, "serviceaccounts", &["get"]),
        _ => Some("can only create tokens for individual service accounts".to_owned()),
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

/// Whether a list is narrowed to what is on the node; read as the list itself reads it.
fn selects(asked: &Attributes<'_>, node: &str) -> bool {
    let fields = Fields::parse(asked.field_selector);
    fields.is_ok_and(|fields| fields.required(NODE_NAME) == Some(node))
}

/// Why the node has nothing to do with the object, or may not use the verb on any.
fn unrelated(
    world: &World<'_>,
    node: &str,
    asked: &Attributes<'_>,
    resource: &'static str,
    verbs: &[&str],
) -> Option<String> {
    if !verbs.contains(&asked.verb) {
        let what = match verbs {
            [only] => format!("can only {only} individual resources of this type"),
            _ => "can only read resources of this type".to_owned(),
        };
        return Some(what);
    }
    if !asked.subresource.is_empty() {
        return Some("cannot read subresource".to_owned());
    }
    if asked.name.is_empty() {
        return Some("No Object name found".to_owned());
    }
    let tie = Tie { resource, namespace: asked.namespace.to_owned(), name: asked.name.to_owned() };
    (!world.reaches(node, &tie))
        .then(|| format!("no relationship found between node '{node}' and this object"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// One pod on `n1`, in `shop`, that refers to something of each kind.
    struct Cluster;

    impl Pods for Cluster {
        fn on(&self, node: &str, namespace: Option<&str>) -> Vec<Value> {
            let here = node == "n1" && namespace.is_none_or(|namespace| namespace == "shop");
            let pod = json!({
                "metadata": { "name": "web", "namespace": "shop" },
                "spec": {
                    "nodeName": "n1",
                    "serviceAccountName": "robot",
                    "resourceClaims": [{ "name": "g", "resourceClaimName": "gpu" }],
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
        // By the caches alone, and by the graph alone.
        let mut graph = Graph::default();
        graph.set("pods", "shop", "web", Cluster.on("n1", None).first());
        let claim = json!({ "spec": { "volumeName": "pv-1" } });
        graph.set("persistentvolumeclaims", "shop", "data", Some(&claim));
        check_in(&World { graph: &Graph::default(), pods: Some(&Cluster) }, question, expected);
        check_in(&World { graph: &graph, pods: None }, question, expected);
    }

    #[track_caller]
    fn check_in(world: &World<'_>, question: &str, expected: &str) {
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
        let node = node_name(&user).unwrap();
        let decision = authorize(Some(std::slice::from_ref(&rule)), world, node, &asked);
        let reason = decision.reason.to_string();
        assert_eq!(if decision.allowed { "yes" } else { &reason }, expected, "{question}");
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
        check("get - pods shop web", "yes");
        check("get - pods shop other", UNRELATED);
        check("get resource.k8s.io resourceclaims shop gpu", "yes");
        check("get resource.k8s.io resourceclaims shop other", UNRELATED);
        check("delete - secrets shop pull", "can only read resources of this type");
        check("list - persistentvolumes - -", "can only get individual resources of this type");
        check("get storage.k8s.io volumeattachments - va", UNRELATED);
    }

    #[test]
    fn an_agent_keeps_its_own_node_lease_and_pods() {
        check("get - nodes - n1", "yes");
        check("get - nodes - n2", "node 'n1' cannot read 'n2', only its own Node object");
        check("list - pods - - spec.nodeName=n1", "yes");
        // One term whose value has a comma in it, which chooses nearly all pods.
        let hidden = "list - pods - - metadata.name!=x\\,spec.nodeName=n1";
        check(hidden, "can only list/watch pods with spec.nodeName field selector");
        check("patch - nodes/status - n1", "yes");
        check("patch - nodes/status - n2", "node 'n1' cannot patch 'n2', only its own Node object");
        check("list - nodes - -", "node 'n1' cannot read all nodes, only its own Node object");
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

    #[test]
    fn an_agent_handles_the_slices_of_its_node() {
        let mut graph = Graph::default();
        for (name, node) in [("own", "n1"), ("other", "n2")] {
            let slice = json!({ "spec": { "nodeName": node } });
            graph.set("resourceslices", "", name, Some(&slice));
        }
        graph.set("resourceslices", "", "all", Some(&json!({ "spec": { "allNodes": true } })));
        let check = |verb: &str, rest: &str, expected| {
            let world = World { graph: &graph, pods: None };
            check_in(&world, &format!("{verb} resource.k8s.io {rest}"), expected);
        };
        for verb in ["get", "update", "patch", "delete"] {
            check(verb, "resourceslices - own", "yes");
            check(verb, "resourceslices - other", UNRELATED);
            check(verb, "resourceslices - all", UNRELATED);
        }
        check("create", "resourceslices - -", "yes");
        check("patch", "resourceslices/x - own", "cannot authorize ResourceSlice subresources");
        let selector =
            "can only list/watch/deletecollection resourceslices with nodeName field selector";
        for verb in ["list", "watch", "deletecollection"] {
            check(verb, "resourceslices - - spec.nodeName=n1", "yes");
            check(verb, "resourceslices - - spec.nodeName=n2", selector);
            check(verb, "resourceslices - -", selector);
        }
    }
}
