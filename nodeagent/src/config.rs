//! What the agent is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Taint;

use crate::certificates::Store;
use crate::node::pressure::Thresholds;

/// Settings of one node agent. [`Config::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Node's name.
    pub node_name: String,
    /// The node's addresses, the first one is `hostIP`; found out if empty.
    pub node_ips: Vec<IpAddr>,
    /// Folder for what must outlive a reboot: emptyDir volumes.
    pub root_dir: PathBuf,
    /// Folder in memory (below /run) for what must not reach a disk: secrets and tokens.
    pub run_dir: PathBuf,
    /// Folder of the containers' logs.
    pub log_dir: PathBuf,
    /// Where the agent's own server listens; port 0 chooses one.
    pub server: ServerConfig,
    /// Addresses for the node's pods, as `10.244.0.0/24`; set as `spec.podCIDR` of a Node that the agent makes.
    pub pod_cidr: Option<String>,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// As `cluster.local`.
    pub cluster_domain: String,
    /// The node's own resolver configuration.
    pub resolv_conf: PathBuf,
    /// Labels of the Node beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Taints of a Node that the agent makes.
    pub taints: Vec<Taint>,
    /// Most pods on this node.
    pub max_pods: u32,
    /// Resources kept back from pods, by name.
    pub reserved: BTreeMap<String, String>,
    /// Capacity to report instead of the machine's, by name (for simulated nodes).
    pub capacity: BTreeMap<String, String>,
    /// A folder on the disk with the images and what containers write.
    pub image_dir: PathBuf,
    /// Below what levels the node says that it is short of memory, disk or process ids.
    pub eviction_hard: Thresholds,
    /// Where profiles of seccompProfile type Localhost are.
    pub seccomp_root: PathBuf,
}

/// The agent's server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address and port; `None` starts no server.
    pub bind: Option<SocketAddr>,
    /// Certificate chain and key, PEM. Self-signed if absent.
    pub certificate: Option<(String, String)>,
    /// Where a certificate that the cluster signs is kept. It is asked for, used once somebody approves it, and
    /// renewed; until then the other one is shown. `None` asks for none.
    pub rotated: Option<Store>,
    /// Certificates (PEM) of those who sign clients. Without it every request but health is refused.
    pub client_ca: Option<String>,
    /// Common names of clients that are let in beside the group system:masters.
    pub clients: Vec<String>,
}

/// Port of the agent's server.
pub const PORT: u16 = 10250;

impl Config {
    /// The usual settings for a node of that name.
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ips: Vec::new(),
            root_dir: PathBuf::from("/var/lib/kubelet"),
            run_dir: PathBuf::from("/run/improv/kubelet"),
            log_dir: PathBuf::from("/var/log/pods"),
            server: ServerConfig {
                bind: Some(SocketAddr::from(([0, 0, 0, 0], PORT))),
                certificate: None,
                rotated: None,
                client_ca: None,
                clients: vec!["kube-apiserver-kubelet-client".to_owned()],
            },
            pod_cidr: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            reserved: BTreeMap::new(),
            capacity: BTreeMap::new(),
            image_dir: PathBuf::from("/var/lib/containerd"),
            eviction_hard: Thresholds::default(),
            seccomp_root: PathBuf::from("/var/lib/kubelet/seccomp"),
        }
    }
}
