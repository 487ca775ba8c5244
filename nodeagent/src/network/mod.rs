//! The pods' network: a built-in bridge, or CNI plugins.
//!
//! Everything is named after the cluster, so that several clusters stand side by side on a machine, and everything
//! goes with [`Network::teardown`].

mod addresses;
mod bridge;
mod cidr;
mod cni;
mod nft;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use cidr::Cidr;

use crate::runtime::{HostPort, PodIdentity};

/// How pods are wired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The agent's own bridge, by netlink.
    Bridge,
    /// The plugins of a CNI configuration.
    Cni {
        /// A `.conflist` or `.conf` file.
        config: PathBuf,
        /// Folders with plugins, searched in order.
        plugin_dirs: Vec<PathBuf>,
    },
}

/// Configuration of the pods' network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How pods are wired.
    pub mode: Mode,
    /// Tells clusters on one machine apart (at most 8 characters of `a-z0-9`); empty for a machine's only one.
    pub cluster: String,
    /// Addresses of the pods of this node; the first one is the gateway's.
    pub pod_cidr: Cidr,
    /// Addresses of all pods of the cluster: traffic to them is not masqueraded.
    pub cluster_cidr: Cidr,
    /// Largest packet of the pods' interfaces; `None` takes that of the node's way out.
    pub mtu: Option<u32>,
    /// Where addresses and plugin results are remembered; should not outlive a reboot.
    pub state_dir: PathBuf,
}

impl Config {
    /// Name of the bridge.
    pub fn bridge(&self) -> String {
        match self.cluster.as_str() {
            "" => "improv0".to_owned(),
            cluster => format!("improv-{cluster}"),
        }
    }

    /// Name of the agent's nftables table (family `ip`).
    pub fn table(&self) -> String {
        match self.cluster.as_str() {
            "" => "improv-node".to_owned(),
            cluster => format!("improv-node-{cluster}"),
        }
    }
}

/// Bytes that went through a pod's interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// The pods' network of one node.
pub struct Network {
    config: Config,
    kind: Kind,
}

enum Kind {
    Bridge(bridge::Bridge),
    Cni(cni::Plugins),
}

impl Network {
    /// Makes what all pods share: bridge, forwarding, masquerading. Keeps what is there.
    ///
    /// # Errors
    /// When the kernel or a tool refuses, or the plugin configuration cannot be read.
    pub async fn start(config: Config) -> io::Result<Self> {
        let kind = match &config.mode {
            Mode::Bridge => Kind::Bridge(bridge::Bridge::start(&config).await?),
            Mode::Cni { config: file, plugin_dirs } => {
                Kind::Cni(cni::Plugins::load(file, plugin_dirs, &config.state_dir.join("cni"))?)
            }
        };
        Ok(Self { config, kind })
    }

    /// Wires a pod; `namespace` is the pin of its network namespace. Idempotent.
    pub(crate) async fn attach(
        &self,
        pod: &PodIdentity,
        namespace: &Path,
        ports: &[HostPort],
    ) -> io::Result<Vec<IpAddr>> {
        match &self.kind {
            Kind::Bridge(bridge) => bridge.attach(&pod.uid, namespace, ports).await,
            Kind::Cni(plugins) => plugins.attach(pod, namespace, ports).await,
        }
    }

    /// Takes a pod off; one that is not there is a success.
    pub(crate) async fn detach(&self, pod: &PodIdentity, namespace: &Path) -> io::Result<()> {
        match &self.kind {
            Kind::Bridge(bridge) => bridge.detach(&pod.uid).await,
            Kind::Cni(plugins) => plugins.detach(pod, namespace).await,
        }
    }

    /// Lets go of addresses of pods that have no sandbox any more.
    pub(crate) async fn retain(&self, uids: &[String]) -> io::Result<()> {
        match &self.kind {
            Kind::Bridge(bridge) => bridge.retain(uids).await,
            Kind::Cni(plugins) => plugins.retain(uids).await,
        }
    }

    /// What went through the pod's interface; `None` where it is not known.
    pub(crate) fn traffic(&self, uid: &str) -> Option<Traffic> {
        match &self.kind {
            Kind::Bridge(_) => bridge::traffic(&self.config.cluster, uid),
            Kind::Cni(_) => None,
        }
    }

    /// The configuration it was started with.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// Removes all that [`Network::start`] and its pods left on the machine, also after a crash.
///
/// # Errors
/// When the kernel refuses.
pub async fn teardown(config: &Config) -> io::Result<()> {
    if let Mode::Cni { config: file, plugin_dirs } = &config.mode {
        cni::Plugins::load(file, plugin_dirs, &config.state_dir.join("cni"))?.retain(&[]).await?;
    }
    bridge::teardown(&config.bridge()).await?;
    nft::remove_table(&config.table()).await?;
    match std::fs::remove_dir_all(&config.state_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
