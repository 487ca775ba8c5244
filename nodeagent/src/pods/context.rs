//! What all pod workers share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::runtime::reflector::Store;

use super::dns::Resolver;
use super::env::Facts;
use super::shares::Shares;
use crate::config::Config;
use crate::events::Recorder;
use crate::objects::Objects;
use crate::probes::action::Prober;
use crate::runtime::Runtime;
use crate::volumes::Places;

/// Shared by all workers of a node.
pub struct Context {
    /// The agent's settings.
    pub config: Config,
    /// The API.
    pub client: Client,
    /// Containers.
    pub runtime: Arc<dyn Runtime>,
    /// How to probe them.
    pub prober: Arc<dyn Prober>,
    /// Config maps and secrets.
    pub objects: Objects,
    /// Services, for the environment.
    pub services: Store<Service>,
    /// Events.
    pub recorder: Recorder,
    /// Where volumes are.
    pub places: Places,
    /// Name resolution.
    pub resolver: Resolver,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// What pods may use, in thousandths, by name.
    pub allocatable: BTreeMap<String, i128>,
    /// Who holds how much of it.
    pub shares: Shares,
    /// The node's memory in bytes.
    pub memory_capacity: u64,
    /// Whether the process may mount.
    pub privileged: bool,
    /// What pods spend their time on.
    pub metrics: Arc<crate::metrics::Metrics>,
}

impl Context {
    /// What a pod may ask about the node and itself.
    pub fn facts(&self, pod_ips: &[String]) -> Facts {
        Facts {
            node_name: self.config.node_name.clone(),
            host_ips: self.host_ips.clone(),
            pod_ips: pod_ips.to_vec(),
            allocatable: self.allocatable.clone(),
        }
    }

    /// The folder of a pod's logs.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.config.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}
