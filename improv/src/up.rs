//! `improv up`: every component in one process, each as its own user of the one API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use apiserver::Server;
use kit::chart::Chart;
use kit::lease::Leadership;
use kit::{InProcess, Options, RealClock, Reflectors, Registry, Tasks, termination};
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::arguments::Up;
use crate::join::objects::{self, Networking};
use crate::layout::Layout;
use crate::process::{self, progress, write_private};
use crate::{generate, grants, node, players, preflight};

/// The admission plugin that keeps agents to what belongs to their nodes.
const NODE_RESTRICTION: &str = "NodeRestriction";
/// How long players and pods' agents may take to put down what they hold.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// Runs a cluster until SIGTERM or SIGINT. Containers run on; the next `up` finds them again.
///
/// # Errors
/// If something that it needs is missing, with what to do about it; or if a component failed for good.
pub(crate) async fn up(arguments: Up) -> anyhow::Result<()> {
    let began = Instant::now();
    let layout = Layout::new(&arguments.data_dir);
    let chosen = players::chosen(&arguments.players)?;
    preflight::check(arguments.nodes, &arguments.node)?;
    std::fs::create_dir_all(&layout.data).with_context(|| {
        format!("cannot make {}; choose another with --data-dir", layout.data.display())
    })?;
    let _lock = process::Lock::take(&layout)?;
    let address = SocketAddr::new(arguments.bind, arguments.port);
    if let Some(problem) = preflight::port_problem(address) {
        bail!("{problem}");
    }
    let server = Server::start(server_config(&arguments, &layout, address)?)
        .await
        .context("the API server")?;
    let kubeconfig = arguments.kubeconfig.clone().unwrap_or_else(|| layout.kubeconfig());
    write_kubeconfig(&server, &kubeconfig)?;
    progress(&format!("API server ready at {} after {}", server.url(), seconds(began)));

    let shutdown = CancellationToken::new();
    let mut tasks = Tasks::default();
    let admin = server.client("improv", &["system:masters"]);
    grants::grant(&admin, &chosen).await.context("cannot give the players their rights")?;
    let networking = Networking {
        dns_domain: "cluster.local".to_owned(),
        pod_subnet: arguments.pod_cidr.clone(),
        service_subnet: arguments.service_cidr.to_string(),
    };
    let (url, ca) = (public_url(&arguments), server.core().pki.ca_certificate());
    let published = objects::publish(&admin, &url, ca, &networking).await;
    published.context("cannot prepare for nodes that join")?;
    let cluster = Cluster {
        arguments: &arguments,
        layout: &layout,
        server: &server,
        shutdown: shutdown.clone(),
    };
    let leaderships = cluster.start_players(&chosen, &mut tasks);
    let nodes = node::start(&arguments, &layout, &server, &shutdown, &mut tasks).await?;
    decided(leaderships).await;
    progress(&format!("{} players ready after {}", chosen.len(), seconds(began)));
    if !nodes.is_empty() {
        node::wait_until_ready(&admin, &nodes).await?;
        progress(&format!(
            "{} node{} ready after {}",
            nodes.len(),
            plural(nodes.len()),
            seconds(began)
        ));
    }
    progress(&format!("export KUBECONFIG={}", kubeconfig.display()));
    process::announce_ready();

    let ended = tokio::select! {
        ended = tasks.first_to_end(), if !chosen.is_empty() || !nodes.is_empty() => ended,
        () = termination() => None,
    };
    shutdown.cancel();
    let finished = tasks.finish(FINISH_WITHIN).await;
    server.shutdown().await;
    if let Some((name, result)) = ended {
        result.with_context(|| format!("{name} ended"))?;
    }
    Ok(finished?)
}

fn write_kubeconfig(server: &Server, path: &Path) -> anyhow::Result<()> {
    let pki = &server.core().pki;
    let admin = pki.kubeconfig(&server.url(), "kubernetes-admin", &["system:masters"])?;
    give_to_invoker(&write_private(path, &admin)?, path)?;
    Ok(())
}

/// Waits until each player leads here or somewhere else, for a while.
async fn decided(leaderships: Leaderships) {
    for (name, mut leadership) in leaderships {
        let decided = leadership.wait_for(|state| *state != Leadership::Unknown);
        if tokio::time::timeout(Duration::from_secs(30), decided).await.is_err() {
            progress(&format!("player {name} is not decided yet, going on"));
        }
    }
}

fn server_config(
    arguments: &Up,
    layout: &Layout,
    address: SocketAddr,
) -> anyhow::Result<apiserver::Config> {
    let mut config = apiserver::Config {
        data_dir: Some(layout.data.clone()),
        bind: Some(address),
        service_ranges: arguments.service_cidr.clone(),
        crds: generate::definitions()?,
        shown_flags: Some(arguments.shown.clone()),
        ..apiserver::Config::default()
    };
    // As kubeadm has it; the flags have the last word.
    config.identity.bootstrap_tokens = true;
    arguments.server.apply(&mut config);
    let plugins = &mut config.admission;
    if !plugins.enable.iter().chain(&plugins.disable).any(|name| name == NODE_RESTRICTION) {
        plugins.enable.push(NODE_RESTRICTION.to_owned());
    }
    let reached = public_address(arguments).to_string();
    config.extra_names.extend([node::host_name(), reached]);
    // A machine without a network has its nodes at its own name, which is a loopback address.
    config.proxy.allow_loopback_nodes |= node::address().is_none();
    Ok(config)
}

/// The address at which other machines reach the API server.
fn public_address(arguments: &Up) -> IpAddr {
    let bound = Some(arguments.bind).filter(|ip| !ip.is_unspecified());
    let said = arguments.server.advertise_address.or(bound);
    said.or_else(node::address).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn public_url(arguments: &Up) -> String {
    format!("https://{}", SocketAddr::new(public_address(arguments), arguments.port))
}

struct Cluster<'a> {
    arguments: &'a Up,
    layout: &'a Layout,
    server: &'a Server,
    shutdown: CancellationToken,
}

type Leaderships = Vec<(&'static str, watch::Receiver<Leadership>)>;

impl Cluster<'_> {
    /// Starts each player as its own service account, all on shared reflectors.
    fn start_players(&self, chosen: &[&'static Chart], tasks: &mut Tasks) -> Leaderships {
        let registry = Registry::default();
        // One cache a type for all of them, so it must see what any of them may: read rights of all together.
        let reader = self.server.client("system:improv:reflectors", &["system:masters"]);
        let reflectors = Reflectors::new(reader);
        let mut leaderships = Vec::new();
        for chart in chosen {
            let (sender, receiver) = watch::channel(Leadership::Unknown);
            leaderships.push((chart.player.name, receiver));
            let with = InProcess {
                client: self.client_of(chart.player.name),
                reflectors: reflectors.clone(),
                registry: registry.clone(),
                identity: format!("improv-{}", node::host_name()),
                options: self.options(chart.player.name),
                clock: RealClock::new(),
            };
            let run = kit::run_in_process(chart.player, with, sender, self.shutdown.clone());
            tasks.spawn(chart.player.name, run);
        }
        leaderships
    }

    fn client_of(&self, player: &str) -> Client {
        let user = format!("system:serviceaccount:{}:{player}", grants::NAMESPACE);
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:kube-system",
            "system:authenticated",
        ];
        self.server.client(&user, &groups)
    }

    /// What players built into one process must know of it; flags that a player does not have are not read.
    fn options(&self, player: &str) -> Options {
        let node = node::name(0);
        let options = Options::default();
        match player {
            "proxy" => options
                .set("node-name", node)
                .set("cluster-cidr", &self.arguments.pod_cidr)
                .set("table", self.layout.named(kube_proxy::TABLE, kube_proxy::TABLE)),
            // At one address, so that answers leave from where the queries came to.
            "dns" => {
                let address = node::address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
                options
                    .set("listen", SocketAddr::new(address, 0).to_string())
                    .set("publish", address.to_string())
                    .set("cluster-ip", self.arguments.service_cidr.dns_address().to_string())
            }
            "service-account" => options.set("root-ca", self.server.core().pki.ca_certificate()),
            "certificate" => {
                let pki = &self.server.core().pki;
                let longest = self.arguments.cluster_signing_duration.as_secs();
                options
                    .set("signing-cert", pki.ca_certificate())
                    .set("signing-key", pki.ca_key())
                    .set("cluster-signing-duration", format!("{longest}s"))
            }
            "node-ipam" => options.set("cluster-cidr", &self.arguments.pod_cidr),
            _ => options,
        }
    }
}

/// Gives a file to whoever ran sudo, if somebody did.
fn give_to_invoker(file: &std::fs::File, path: &Path) -> anyhow::Result<()> {
    let Some((user, group)) = sudo_invoker(|name| std::env::var(name).ok()) else {
        return Ok(());
    };
    std::os::unix::fs::fchown(file, Some(user), Some(group))
        .with_context(|| format!("cannot give {} to user {user}", path.display()))
}

/// The user and group that ran `sudo`. Source: sudo(8).
fn sudo_invoker(variable: impl Fn(&str) -> Option<String>) -> Option<(u32, u32)> {
    let id = |name| variable(name)?.parse().ok();
    Some((id("SUDO_UID")?, id("SUDO_GID")?))
}

fn seconds(since: Instant) -> String {
    format!("{:.2} s", since.elapsed().as_secs_f64())
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::sudo_invoker;

    #[test]
    fn the_kubeconfig_belongs_to_whoever_ran_sudo() {
        let sudo = |name: &str| match name {
            "SUDO_UID" => Some("1000".to_owned()),
            "SUDO_GID" => Some("100".to_owned()),
            _ => None,
        };
        assert_eq!(sudo_invoker(sudo), Some((1000, 100)));
        assert_eq!(sudo_invoker(|_| None), None);
        assert_eq!(sudo_invoker(|name| Some(format!("no number in {name}"))), None);
    }
}
