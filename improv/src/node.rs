//! Nodes of a cluster that run in this process: names, addresses, and the agents themselves.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::Server;
use k8s_openapi::api::core::v1::Node;
use kit::Tasks;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use nodeagent::node::pressure::Thresholds;
use nodeagent::probes::action::{NetworkProber, Prober};
use nodeagent::runtime::containerd::{
    ChildOptions, Containerd, Options, clean_up_shared, import_archive, spawn,
};
use nodeagent::runtime::{Runtime, hollow};
use nodeagent::{Agent, network};
use tokio_util::sync::CancellationToken;

pub(crate) use nodeagent::node::machine::address;

use crate::arguments::{self, NodeFlags, Up};
use crate::layout::Layout;

/// How long a node may take to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// This machine's name, in the form of a node name.
#[must_use]
pub(crate) fn host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    let legal =
        |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(legal).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}

/// Whether a Node may be called so.
///
/// Source: kubernetes.io, "Object Names and IDs", "DNS Subdomain Names".
#[must_use]
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let legal = |byte: u8| plain(byte) || byte == b'-' || byte == b'.';
    let ends = [name.bytes().next(), name.bytes().last()];
    name.len() <= 253 && name.bytes().all(legal) && ends.into_iter().all(|b| b.is_some_and(plain))
}

/// Name of the node with number `index`; the first one is called as the machine.
#[must_use]
pub(crate) fn name(index: usize) -> String {
    match index {
        0 => host_name(),
        index => format!("{}-{index}", host_name()),
    }
}

/// Starts the nodes that `arguments` ask for, and gives their names.
///
/// # Errors
/// If containerd does not start, or an agent's port is taken.
pub(crate) async fn start(
    arguments: &Up,
    layout: &Layout,
    server: &Server,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<Vec<String>> {
    let is_real = arguments.node.runtime == arguments::Runtime::Containerd;
    if is_real && arguments.nodes > 1 {
        bail!(
            "--nodes {}: one machine is one node; simulate more with --runtime hollow",
            arguments.nodes
        );
    }
    if arguments.nodes == 0 {
        return Ok(Vec::new());
    }
    let real = match is_real {
        true => {
            let own = node_cidr(&arguments.pod_cidr, 0);
            let state = State::new(&arguments.node, &own, &arguments.pod_cidr);
            Some(containerd(state, layout, shutdown, tasks).await?)
        }
        false => None,
    };
    let mut names = Vec::new();
    for index in 0..arguments.nodes {
        let config = config(arguments, layout, server, index)?;
        let (runtime, prober): (Arc<dyn Runtime>, Arc<dyn Prober>) = match &real {
            Some(runtime) => (runtime.clone(), Arc::new(NetworkProber)),
            None => hollow::pair(config.pod_cidr.as_deref()),
        };
        let user = format!("system:node:{}", config.node_name);
        let client = server.client(&user, &["system:nodes", "system:authenticated"]);
        let agent = Agent::start(config, client, runtime, prober).await?;
        names.push(agent.node_name.clone());
        let shutdown = shutdown.clone();
        tasks.spawn("node agent", async move {
            agent.run(shutdown).await;
            Ok(())
        });
    }
    Ok(names)
}

/// Waits until each node says that it is ready.
///
/// # Errors
/// Names the first one that does not within a minute.
pub(crate) async fn wait_until_ready(client: &Client, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let ready = await_condition(Api::<Node>::all(client.clone()), name, is_ready);
        let waited = tokio::time::timeout(READY_WITHIN, ready).await;
        waited.with_context(|| format!("node {name} is not ready after {READY_WITHIN:?}"))??;
    }
    Ok(())
}

/// Whether a node is there and says that it is ready.
#[must_use]
pub(crate) fn is_ready(node: Option<&Node>) -> bool {
    let status = node.and_then(|node| node.status.as_ref());
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Removes all that a node left on this machine, also after it was killed.
///
/// # Errors
/// The first thing that cannot be removed.
pub(crate) async fn clean_up(layout: &Layout) -> anyhow::Result<()> {
    if let Some(state) = State::read(layout) {
        let options = state.options(layout)?;
        match state.containerd {
            None => nodeagent::runtime::containerd::clean_up(child(layout), options).await?,
            Some(_) => clean_up_shared(options).await?,
        }
    }
    for folder in [&layout.data, &layout.run] {
        nodeagent::volumes::unmount_all(&folder.join("pods")).context("cannot unmount volumes")?;
    }
    Ok(())
}

/// What `down` and `image import` must know of how the node was started.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct State {
    /// Socket of a containerd that is not ours.
    containerd: Option<PathBuf>,
    /// Addresses of this node's pods.
    pod_cidr: String,
    /// Addresses of all pods.
    cluster_cidr: String,
    insecure_registries: Vec<String>,
}

impl State {
    /// As `flags` say, with these addresses for the node's own pods and for all.
    pub(crate) fn new(flags: &NodeFlags, pod_cidr: &str, cluster_cidr: &str) -> Self {
        Self {
            containerd: flags.containerd.clone(),
            pod_cidr: pod_cidr.to_owned(),
            cluster_cidr: cluster_cidr.to_owned(),
            insecure_registries: flags.insecure_registries.split(',').map(str::to_owned).collect(),
        }
    }

    fn path(layout: &Layout) -> PathBuf {
        layout.data.join("node.json")
    }

    fn read(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(layout)).ok()?).ok()
    }

    fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        let path = Self::path(layout);
        std::fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn options(&self, layout: &Layout) -> anyhow::Result<Options> {
        let socket = self.containerd.clone().unwrap_or_else(|| child(layout).socket());
        let network = network::Config {
            mode: network::Mode::Bridge,
            cluster: layout.suffix.clone(),
            pod_cidr: self.pod_cidr.parse().context("the node's --pod-cidr is no network")?,
            cluster_cidr: self.cluster_cidr.parse().context("--pod-cidr is no network")?,
            mtu: None,
            state_dir: layout.run.join("network"),
        };
        let mut options =
            Options::new(socket, layout.run.join("runtime"), std::env::current_exe()?, network);
        options.namespace = layout.named("improv", "improv");
        options.cgroup_base = format!("/{}", layout.named("kubepods", "kubepods"));
        options.insecure_registries.clone_from(&self.insecure_registries);
        Ok(options)
    }
}

fn child(layout: &Layout) -> ChildOptions {
    ChildOptions {
        binary: "containerd".into(),
        root: layout.data.join("containerd"),
        state: layout.run.join("containerd"),
    }
}

/// The machine's containers: our own containerd, or the one that `--containerd` names.
///
/// # Errors
/// containerd does not start, or cannot be used.
pub(crate) async fn containerd(
    state: State,
    layout: &Layout,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<Arc<Containerd>> {
    state.write(layout)?;
    if state.containerd.is_none() {
        let child = spawn(child(layout)).await?;
        let shutdown = shutdown.clone();
        tasks.spawn("containerd", async move {
            shutdown.cancelled().await;
            child.stop().await;
            Ok(())
        });
    }
    Ok(Arc::new(Containerd::start(state.options(layout)?).await?))
}

fn config(
    arguments: &Up,
    layout: &Layout,
    server: &Server,
    index: usize,
) -> anyhow::Result<nodeagent::Config> {
    let name = name(index);
    let address = address();
    let mut config = settings(layout, &name, address);
    config.pod_cidr = Some(node_cidr(&arguments.pod_cidr, index));
    config.eviction_hard = match arguments.node.runtime {
        // The machine is somebody's own, and its disk may be as full as it was before the cluster came.
        arguments::Runtime::Containerd => config.eviction_hard.without_disks(),
        arguments::Runtime::Hollow => Thresholds::none(),
    };
    config.cluster_dns = vec![arguments.service_cidr.dns_address()];
    let port =
        u16::try_from(index).ok().and_then(|index| arguments.node.node_port.checked_add(index));
    config.server.bind =
        Some(SocketAddr::new(arguments.bind, port.context("--node-port is too high")?));
    let pki = &server.core().pki;
    let hosts: Vec<String> =
        std::iter::once(name.clone()).chain(address.map(|ip| ip.to_string())).collect();
    let serving = pki.server_cert(&format!("system:node:{name}"), &["system:nodes"], &hosts)?;
    config.server.certificate = Some((serving.certificate, serving.key));
    config.server.client_ca = Some(pki.ca_certificate().to_owned());
    Ok(config)
}

/// The settings of a node that follow from its name, its address, and the folders.
#[must_use]
pub(crate) fn settings(layout: &Layout, name: &str, ip: Option<IpAddr>) -> nodeagent::Config {
    let mut config = nodeagent::Config::new(name);
    config.node_ips = ip.into_iter().collect();
    config.root_dir = layout.data.join("pods").join(name);
    config.run_dir = layout.run.join("pods").join(name);
    config.log_dir = layout.data.join("logs").join(name);
    config.image_dir = child(layout).root;
    config
}

/// The part of the pods' addresses that belongs to one node: the `index`-th /24.
fn node_cidr(pod_cidr: &str, index: usize) -> String {
    let base = pod_cidr.split('/').next().and_then(|ip| ip.parse::<std::net::Ipv4Addr>().ok());
    let Some(base) = base else { return pod_cidr.to_owned() };
    let offset = u32::try_from(index).unwrap_or_default() << 8;
    format!("{}/24", std::net::Ipv4Addr::from(u32::from(base) + offset))
}

/// Imports an archive into a running cluster's containerd, beside its agent; gives the names of its images.
///
/// # Errors
/// If the cluster has no containerd that answers, or it is no image archive.
pub(crate) async fn import(layout: &Layout, archive: &Path) -> anyhow::Result<Vec<String>> {
    let state = State::read(layout).context(
        "there is no node here that runs containers; has `improv up` or `improv node join` run?",
    )?;
    let options = state.options(layout)?;
    let images = import_archive(&options.socket, &options.namespace, archive).await?;
    Ok(images.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_own_pod_addresses() {
        assert_eq!(node_cidr("10.244.0.0/16", 0), "10.244.0.0/24");
        assert_eq!(node_cidr("10.244.0.0/16", 3), "10.244.3.0/24");
    }

    #[test]
    fn nodes_have_legal_names() {
        assert!(is_name(&host_name()) && is_name("n1.example"));
        for name in ["", "Bad", "a_b", "-a", "a.", &"a".repeat(254)] {
            assert!(!is_name(name), "{name}");
        }
        assert_eq!(name(2), format!("{}-2", host_name()));
    }
}
