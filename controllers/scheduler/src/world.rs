//! The scheduler's picture of the cluster: nodes, and what already stands on them.
//!
//! It is kept current by one change at a time, never rebuilt. A decision assumes its pod at once
//! ([`World::place`]), so that the next one in a burst counts it before the API server has answered.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, Container, Node, Pod, PodSpec, Taint, Toleration, TopologySpreadConstraint,
};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use crate::plan::interpod::Terms;
use crate::resources::{self, Resources};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A port of the node that a pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    ip: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// Whether both cannot stand on one node.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A pod, with what decisions ask of it worked out once.
#[derive(Debug)]
pub struct PodInfo {
    /// The object itself.
    pub pod: Arc<Pod>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `spec.priority`.
    pub priority: i32,
    /// The uid of the controller that made it.
    pub owner: Option<Arc<str>>,
    /// What it asks for.
    pub requests: Resources,
    /// CPU (thousandths of a core) and memory (bytes) that scoring counts.
    pub scored: (i64, i64),
    /// Ports of the node that it takes.
    pub ports: Vec<HostPort>,
    /// Terms of its affinity and anti-affinity to other pods.
    pub terms: Terms,
}

impl PodInfo {
    /// Reads `pod`.
    pub fn new(pod: Arc<Pod>) -> Self {
        let owner = pod.owner_references().iter().find(|o| o.controller == Some(true));
        Self {
            uid: pod.uid().unwrap_or_default().into(),
            namespace: pod.namespace().unwrap_or_default(),
            priority: pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0),
            owner: owner.map(|o| o.uid.as_str().into()),
            requests: resources::requested(&pod),
            scored: resources::scored(&pod),
            ports: host_ports(&pod),
            terms: Terms::of(&pod),
            pod,
        }
    }

    /// The node it is bound to.
    pub fn node(&self) -> Option<&str> {
        self.spec()?.node_name.as_deref().filter(|n| !n.is_empty())
    }

    /// Its specification.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// Its affinity.
    pub fn affinity(&self) -> Option<&Affinity> {
        self.spec()?.affinity.as_ref()
    }

    /// Taints that it bears.
    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }

    /// Its own rules about spreading.
    pub fn spread_constraints(&self) -> &[TopologySpreadConstraint] {
        self.spec().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default()
    }

    /// Whether it waits for someone to open its scheduling gates.
    pub fn is_gated(&self) -> bool {
        self.spec().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
    }

    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether it has ended, so that it holds nothing any more.
    pub fn is_finished(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        Some(HostPort {
            port: port.host_port.filter(|p| *p > 0)?,
            ip: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        })
    });
    taken.collect()
}

/// A node and the pods on it, assumed ones included.
#[derive(Debug, Default)]
pub struct NodeInfo {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The object; absent while only its pods are known.
    pub node: Option<Arc<Node>>,
    /// What it offers to pods.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: i64,
    /// What its pods ask for.
    pub requested: Resources,
    /// CPU (thousandths of a core) and memory (bytes) that scoring counts for its pods.
    pub scored: (i64, i64),
    /// Its pods by uid.
    pub pods: HashMap<Arc<str>, Arc<PodInfo>>,
    /// Ports that its pods take.
    pub ports: Vec<HostPort>,
    /// Number of its pods by the uid of their controller.
    pub owners: HashMap<Arc<str>, i64>,
    /// Number of its pods that have terms about other pods.
    pub n_with_terms: usize,
}

impl NodeInfo {
    /// Its labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Its taints.
    pub fn taints(&self) -> &[Taint] {
        let spec = self.node.as_ref().and_then(|n| n.spec.as_ref());
        spec.and_then(|s| s.taints.as_deref()).unwrap_or_default()
    }

    /// Whether it is cordoned.
    pub fn is_unschedulable(&self) -> bool {
        let spec = self.node.as_ref().and_then(|n| n.spec.as_ref());
        spec.is_some_and(|s| s.unschedulable == Some(true))
    }

    fn set(&mut self, node: Arc<Node>) {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::from_list).unwrap_or_default();
        self.allowed_pods = allocatable.and_then(|a| a.get("pods")).map_or(0, resources::value);
        self.node = Some(node);
    }

    fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.ports.extend(pod.ports.iter().cloned());
        if let Some(owner) = &pod.owner {
            *self.owners.entry(Arc::clone(owner)).or_default() += 1;
        }
        self.n_with_terms += usize::from(!pod.terms.is_empty());
        self.pods.insert(Arc::clone(&pod.uid), pod);
    }

    fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        self.scored.0 -= pod.scored.0;
        self.scored.1 -= pod.scored.1;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
        if let Some(owner) = &pod.owner
            && let Some(n) = self.owners.get_mut(owner)
        {
            *n -= 1;
            if *n == 0 {
                self.owners.remove(owner);
            }
        }
        self.n_with_terms -= usize::from(!pod.terms.is_empty());
        Some(pod)
    }
}

/// All nodes, the pods on them, and the few other facts that decisions use.
#[derive(Debug, Default)]
pub struct World {
    /// In the order of their names.
    nodes: Vec<NodeInfo>,
    /// The node of each placed pod.
    places: HashMap<Arc<str>, Arc<str>>,
    /// Labels of the namespaces.
    namespaces: BTreeMap<String, Labels>,
    /// Selectors of the Services, by namespace and name.
    services: BTreeMap<(String, String), Selector>,
}

impl World {
    /// Nodes that exist, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|n| n.node.is_some())
    }

    /// All nodes, also those of which only pods are known.
    pub fn all_nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// One node, if it exists.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.find(name).ok().map(|at| &self.nodes[at]).filter(|n| n.node.is_some())
    }

    /// Adds or updates a node; says whether anything changed that a waiting pod may care about.
    pub fn set_node(&mut self, node: Arc<Node>) -> bool {
        let entry = self.entry(&node.name_any());
        let changed = entry.node.as_ref().is_none_or(|old| is_news(old, &node));
        entry.set(node);
        changed
    }

    /// Forgets a node; its pods stay counted until they go too.
    pub fn remove_node(&mut self, name: &str) {
        if let Ok(at) = self.find(name) {
            self.nodes[at].node = None;
            self.drop_if_empty(at);
        }
    }

    /// Puts a pod on a node, bound or assumed, instead of where it stood before.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        let entry = self.entry(node);
        let (uid, name) = (Arc::clone(&pod.uid), Arc::clone(&entry.name));
        entry.add(pod);
        self.places.insert(uid, name);
    }

    /// Takes a pod off its node and names that node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<str>> {
        let node = self.places.remove(uid)?;
        if let Ok(at) = self.find(&node) {
            self.nodes[at].remove(uid);
            self.drop_if_empty(at);
        }
        Some(node)
    }

    /// The node on which a pod stands or is assumed to stand.
    pub fn place_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.places.get(uid)
    }

    /// A placed pod.
    pub fn placed(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        let at = self.find(self.places.get(uid)?).ok()?;
        self.nodes[at].pods.get(uid)
    }

    /// Learns or forgets the labels of a namespace.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => _ = self.namespaces.insert(name.into(), labels),
            None => _ = self.namespaces.remove(name),
        }
    }

    /// Labels of a namespace; none if it is not known.
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Learns or forgets the selector of a Service; an empty one selects nothing.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<Labels>) {
        let key = (namespace.to_owned(), name.to_owned());
        match selector.filter(|s| !s.is_empty()) {
            Some(selector) => _ = self.services.insert(key, selector.into_iter().collect()),
            None => _ = self.services.remove(&key),
        }
    }

    /// Selectors of the Services that send traffic to a pod.
    pub fn services_of<'a>(&'a self, pod: &'a PodInfo) -> impl Iterator<Item = &'a Selector> {
        let first = (pod.namespace.clone(), String::new());
        self.services
            .range(first..)
            .take_while(|((namespace, _), _)| *namespace == pod.namespace)
            .map(|(_, selector)| selector)
            .filter(|selector| selector.matches(pod.pod.labels()))
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|n| (*n.name).cmp(name))
    }

    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        let at = self.find(name).unwrap_or_else(|at| {
            self.nodes.insert(at, NodeInfo { name: name.into(), ..NodeInfo::default() });
            at
        });
        &mut self.nodes[at]
    }

    fn drop_if_empty(&mut self, at: usize) {
        if self.nodes[at].node.is_none() && self.nodes[at].pods.is_empty() {
            self.nodes.remove(at);
        }
    }
}

/// Whether a node changed in what filters look at; heartbeats do not count.
fn is_news(old: &Node, new: &Node) -> bool {
    let facts = |n: &Node| {
        let spec = n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
        (spec, n.status.as_ref().and_then(|s| s.allocatable.clone()))
    };
    old.metadata.labels != new.metadata.labels || facts(old) != facts(new)
}
