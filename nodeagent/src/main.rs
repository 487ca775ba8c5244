//! The node agent as a program of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use nodeagent::certificates::bootstrap::{self, Files, Identity};
use nodeagent::certificates::{self, Renewing, Store, kubeconfig};
use nodeagent::node::pressure::Thresholds;
use nodeagent::probes::action::{NetworkProber, Prober};
use nodeagent::runtime::containerd::{Containerd, Options};
use nodeagent::runtime::{Runtime, hollow};
use nodeagent::{Agent, Config, network};
use tokio_util::sync::CancellationToken;

/// Runs the pods that are bound to one node.
#[derive(Debug, Parser)]
#[command(name = "kubelet", version)]
struct Args {
    /// Kubeconfig of the node; else the usual places, or the pod's own account.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Kubeconfig that may ask for a certificate, while the node's own has none that is valid; that is written then.
    #[arg(long, requires = "kubeconfig")]
    bootstrap_kubeconfig: Option<PathBuf>,
    /// Ask for a new certificate before the one at hand ends.
    #[arg(long, requires = "kubeconfig", num_args = 0..=1, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
    rotate_certificates: bool,
    /// Folder of the certificates that the agent asks for.
    #[arg(long, default_value = "/var/lib/kubelet/pki")]
    cert_dir: PathBuf,
    /// Name of the Node; the host's name if absent.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Addresses of the node.
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// What runs containers.
    #[arg(long, value_enum, default_value = "containerd")]
    runtime: Kind,
    /// containerd's socket.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,
    /// Folder for volumes that outlive a reboot.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Folder in memory for secrets, sockets and pins.
    #[arg(long, default_value = "/run/improv/kubelet")]
    run_dir: PathBuf,
    /// Folder of the containers' logs.
    #[arg(long, default_value = "/var/log/pods")]
    pod_logs_dir: PathBuf,
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:10250")]
    bind: SocketAddr,
    /// Certificate of the server (PEM); self-signed if absent.
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Who signs clients (PEM). Without it nobody may ask for logs or run commands.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Addresses for this node's pods.
    #[arg(long, default_value = "10.244.0.0/24")]
    pod_cidr: String,
    /// Addresses of all pods of the cluster.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: String,
    /// Addresses of the cluster's DNS service.
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Labels of the Node, as `key=value`.
    #[arg(long, value_delimiter = ',')]
    node_labels: Vec<String>,
    /// Most pods on the node.
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// A folder on the disk with containerd's images.
    #[arg(long, default_value = "/var/lib/containerd")]
    image_dir: PathBuf,
    /// Below what levels the node is under pressure, in place of upstream's, as `memory.available<100Mi`; a simulated
    /// node never is.
    #[arg(long)]
    eviction_hard: Option<Thresholds>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Real containers.
    Containerd,
    /// Simulated ones.
    Hollow,
}

fn main() -> anyhow::Result<()> {
    // The shims of containerd start this very program as the logger of each container.
    nodeagent::logger::maybe_run();
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let config = config(&args)?;
    let client = client(&args, &config.node_name).await?;
    let (runtime, prober) = runtime(&args).await?;
    let agent = Agent::start(config, client, runtime, prober).await?;
    tracing::info!(node = agent.node_name, server = ?agent.server, "node agent started");
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        match &mut term {
            Ok(term) => tokio::select! {
                _ = term.recv() => (),
                _ = tokio::signal::ctrl_c() => (),
            },
            Err(_) => drop(tokio::signal::ctrl_c().await),
        }
        stop.cancel();
    });
    agent.run(shutdown.clone()).await;
    if !shutdown.is_cancelled() {
        bail!("a part of the node agent ended");
    }
    Ok(())
}

async fn client(args: &Args, node: &str) -> anyhow::Result<kube::Client> {
    let Some(path) = &args.kubeconfig else {
        return Ok(kube::Client::try_from(kube::Config::infer().await?)?);
    };
    let bootstrap = args.bootstrap_kubeconfig.clone();
    if bootstrap.is_none() && !args.rotate_certificates {
        return Ok(kube::Client::try_from(kubeconfig::read_with_user(path).await?)?);
    }
    // Named as people and tools look for it.
    let store = Store::new(&args.cert_dir, "kubelet-client-current.pem");
    let files = Files { kubeconfig: path.clone(), bootstrap, store };
    let Identity { cluster, pair } = bootstrap::identity(&files, node).await?;
    if !args.rotate_certificates {
        return Ok(certificates::connect(&cluster, &pair)?);
    }
    let renewing = Renewing::new(cluster, &pair)?;
    let (client, node) = (renewing.client(), node.to_owned());
    tokio::spawn(async move { bootstrap::keep(&node, &pair, files.store, renewing).await });
    Ok(client)
}

fn config(args: &Args) -> anyhow::Result<Config> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let name = match &args.hostname_override {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    let mut config = Config::new(&name);
    config.node_ips.clone_from(&args.node_ip);
    config.root_dir.clone_from(&args.root_dir);
    config.run_dir.clone_from(&args.run_dir);
    config.log_dir.clone_from(&args.pod_logs_dir);
    config.server.bind = Some(args.bind);
    if let (Some(chain), Some(key)) = (&args.tls_cert_file, &args.tls_private_key_file) {
        config.server.certificate = Some((read(chain)?, read(key)?));
    }
    config.server.client_ca = args.client_ca_file.as_ref().map(read).transpose()?;
    config.pod_cidr = Some(args.pod_cidr.clone());
    config.cluster_dns.clone_from(&args.cluster_dns);
    config.cluster_domain.clone_from(&args.cluster_domain);
    config.max_pods = args.max_pods;
    config.image_dir.clone_from(&args.image_dir);
    config.eviction_hard = match args.runtime {
        Kind::Containerd => args.eviction_hard.clone().unwrap_or_default(),
        Kind::Hollow => Thresholds::none(),
    };
    for label in &args.node_labels {
        let (key, value) =
            label.split_once('=').with_context(|| format!("{label} is not key=value"))?;
        config.labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(config)
}

async fn runtime(args: &Args) -> anyhow::Result<(Arc<dyn Runtime>, Arc<dyn Prober>)> {
    match args.runtime {
        Kind::Hollow => Ok(hollow::pair(Some(&args.pod_cidr))),
        Kind::Containerd => {
            let network = network::Config {
                mode: network::Mode::Bridge,
                cluster: String::new(),
                pod_cidr: args.pod_cidr.parse().context("--pod-cidr is not a network")?,
                cluster_cidr: args
                    .cluster_cidr
                    .parse()
                    .context("--cluster-cidr is not a network")?,
                mtu: None,
                state_dir: args.run_dir.join("network"),
            };
            let options = Options::new(
                args.containerd.clone(),
                args.run_dir.join("runtime"),
                std::env::current_exe()?,
                network,
            );
            let runtime = Containerd::start(options).await.with_context(|| {
                format!("cannot use containerd at {}", args.containerd.display())
            })?;
            Ok((Arc::new(runtime), Arc::new(NetworkProber)))
        }
    }
}
