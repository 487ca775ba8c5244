//! `improv node join`: makes this machine a node of a cluster that runs elsewhere.

pub(crate) mod discovery;
pub(crate) mod identity;
pub(crate) mod objects;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::config::ServiceRanges;
use k8s_openapi::api::core::v1::ConfigMap;
use kit::lease::Leadership;
use kit::{InProcess, Options, Tasks, termination};
use kube::{Api, Client};
use nodeagent::certificates::{Renewing, bootstrap, kubeconfig};
use nodeagent::node::pressure::Thresholds;
use nodeagent::probes::action::{NetworkProber, Prober};
use nodeagent::runtime::{Runtime, hollow};
use nodeagent::{Agent, Config};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::arguments::{self, Join};
use crate::layout::Layout;
use crate::process::{self, progress};
use crate::{node, preflight};
use identity::Identity;
use objects::{CONFIG, Networking, SYSTEM};

/// How long the cluster may take to give a new node its addresses.
const ADDRESSES_WITHIN: Duration = Duration::from_secs(30);
/// How long tasks may take to put down what they hold.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// Runs a node until SIGTERM or SIGINT. Containers run on; the next `join` finds them again.
///
/// # Errors
/// The machine lacks something, the cluster cannot be found or refuses, or a part fails for good.
pub(crate) async fn join(arguments: Join) -> anyhow::Result<()> {
    let layout = Layout::new(&arguments.data_dir);
    preflight::check(1, &arguments.node)?;
    std::fs::create_dir_all(&layout.data).with_context(|| {
        format!("cannot make {}; choose another with --data-dir", layout.data.display())
    })?;
    let _lock = process::Lock::take(&layout)?;
    if layout.store().exists() {
        bail!("{} holds a cluster; choose another --data-dir for a node", layout.data.display());
    }
    let identity = Identity::have(&arguments, &layout).await?;
    let renewing = Renewing::new(identity.cluster.clone(), &identity.pair)?;
    let client = renewing.client();
    let networking = networking(&client).await?;
    let mut config = config(&arguments, &layout, &identity, &networking);
    let cidr = addresses(&client, &config).await?;
    config.pod_cidr = Some(cidr.clone());

    let shutdown = CancellationToken::new();
    let mut tasks = Tasks::default();
    let name = identity.name.clone();
    tasks.spawn("certificate", keep_certificate(identity, renewing, shutdown.clone()));
    let (runtime, prober): (Arc<dyn Runtime>, Arc<dyn Prober>) = match arguments.node.runtime {
        arguments::Runtime::Hollow => hollow::pair(Some(&cidr)),
        arguments::Runtime::Containerd => {
            let state = node::State::new(&arguments.node, &cidr, &networking.pod_subnet);
            (
                node::containerd(state, &layout, &shutdown, &mut tasks).await?,
                Arc::new(NetworkProber),
            )
        }
    };
    if arguments.node.runtime == arguments::Runtime::Containerd && !arguments.disable_kube_proxy {
        start_proxy(&client, &name, &layout, &networking, &shutdown, &mut tasks);
    }
    let agent = Agent::start(config, client.clone(), runtime, prober).await?;
    let stop = shutdown.clone();
    tasks.spawn("node agent", async move {
        agent.run(stop).await;
        Ok(())
    });
    node::wait_until_ready(&client, std::slice::from_ref(&name)).await?;
    progress(&format!("node {name} ready"));
    process::announce_ready();

    let ended = tokio::select! {
        ended = tasks.first_to_end() => ended,
        () = termination() => None,
    };
    shutdown.cancel();
    let finished = tasks.finish(FINISH_WITHIN).await;
    if let Some((name, result)) = ended {
        result.with_context(|| format!("{name} ended"))?;
    }
    Ok(finished?)
}

/// Makes Services reachable from this machine, as the node itself.
fn start_proxy(
    client: &Client,
    name: &str,
    layout: &Layout,
    networking: &Networking,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) {
    let options = Options::default()
        .set("node-name", name)
        .set("cluster-cidr", &networking.pod_subnet)
        .set("table", layout.named(kube_proxy::TABLE, kube_proxy::TABLE));
    let with = InProcess { options, ..InProcess::new(client.clone(), name) };
    let (leadership, _) = watch::channel(Leadership::Unknown);
    let run = kit::run_in_process(&kube_proxy::PLAYER, with, leadership, shutdown.clone());
    tasks.spawn("proxy", run);
}

/// Renews the node's certificate for as long as it runs.
async fn keep_certificate(
    identity: Identity,
    renewing: Renewing,
    shutdown: CancellationToken,
) -> Result<(), kit::Error> {
    let Identity { name, pair, store, .. } = identity;
    shutdown.run_until_cancelled(bootstrap::keep(&name, &pair, store, renewing)).await;
    Ok(())
}

/// The cluster's networks, as the cluster says.
async fn networking(client: &Client) -> anyhow::Result<Networking> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM);
    let map = maps.get(CONFIG).await;
    let map = map.map_err(|e| {
        told(&e, format!("cannot read {SYSTEM}/{CONFIG} (does `improv up` run the cluster?)"))
    })?;
    objects::networking(&map).with_context(|| format!("cannot use {SYSTEM}/{CONFIG}"))
}

/// Registers the node, and gives the addresses of its pods.
async fn addresses(client: &Client, config: &Config) -> anyhow::Result<String> {
    let name = &config.node_name;
    let registered = nodeagent::node::register(client, config).await;
    registered.map_err(|e| told(&e, format!("cannot register node {name}")))?;
    let given = nodeagent::node::pod_cidr(client, name);
    let given = tokio::time::timeout(ADDRESSES_WITHIN, given).await.with_context(|| {
        format!(
            "node {name} was given no addresses for its pods after {ADDRESSES_WITHIN:?}: does the player node-ipam \
             run? --pod-cidr names some"
        )
    })?;
    given.map_err(|e| told(&e, format!("cannot follow node {name}")))
}

/// What was tried, and why it failed, said once: kube's errors repeat their causes.
pub(crate) fn told(
    error: &(dyn std::error::Error + 'static),
    tried: impl std::fmt::Display,
) -> anyhow::Error {
    let refusal = |error: &(dyn std::error::Error + 'static)| {
        let boxed = error.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref);
        match boxed.or_else(|| error.downcast_ref()) {
            Some(kube::Error::Api(status)) => Some(status.message.clone()),
            _ => None,
        }
    };
    let why = refusal(error)
        .or_else(|| Some(format!("{error}: {}", refusal(error.source()?)?)))
        .unwrap_or_else(|| kit::chain(error));
    anyhow::anyhow!("{tried}: {why}")
}

fn config(
    arguments: &Join,
    layout: &Layout,
    identity: &Identity,
    networking: &Networking,
) -> Config {
    let mut config =
        node::settings(layout, &identity.name, arguments.node_ip.or_else(node::address));
    config.pod_cidr.clone_from(&arguments.pod_cidr);
    if arguments.node.runtime == arguments::Runtime::Hollow {
        config.eviction_hard = Thresholds::none();
    }
    let services = networking.service_subnet.parse::<ServiceRanges>();
    config.cluster_dns = services.iter().map(ServiceRanges::dns_address).collect();
    config.cluster_domain.clone_from(&networking.dns_domain);
    config.server.bind = Some(SocketAddr::new(arguments.bind, arguments.node.node_port));
    config.server.client_ca = Some(kubeconfig::authority(&identity.cluster));
    let rotates = arguments.rotate_server_certificates;
    config.server.rotated = rotates.then(|| identity::serving_store(layout));
    config
}
