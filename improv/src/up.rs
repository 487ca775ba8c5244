//! `improv up`: every component in one process, each as its own user of the one API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use apiserver::Server;
use kit::chart::Chart;
use kit::{InProcess, Options, RealClock, Reflectors, Registry, Tasks};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::arguments::Up;
use crate::layout::Layout;
use crate::process::{self, progress};
use crate::{generate, grants, node, players, preflight};

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
    check_machine(&arguments)?;
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
    let admin =
        server.core().pki.kubeconfig(&server.url(), "kubernetes-admin", &["system:masters"])?;
    write_private(&kubeconfig, &admin)?;
    progress(&format!("API server ready at {} after {}", server.url(), seconds(began)));

    let shutdown = CancellationToken::new();
    let mut tasks = Tasks::default();
    let admin = server.client("improv", &["system:masters"]);
    grants::grant(&admin, &chosen).await.context("cannot give the players their rights")?;
    let cluster = Cluster {
        arguments: &arguments,
        layout: &layout,
        server: &server,
        shutdown: shutdown.clone(),
    };
    let leaderships = cluster.start_players(&chosen, &mut tasks);
    let nodes = node::start(&arguments, &layout, &server, &shutdown, &mut tasks).await?;
    for (name, mut leadership) in leaderships {
        let decided = leadership.wait_for(|state| *state != kit::lease::Leadership::Unknown);
        if tokio::time::timeout(Duration::from_secs(30), decided).await.is_err() {
            progress(&format!("player {name} is not decided yet, going on"));
        }
    }
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

fn check_machine(arguments: &Up) -> anyhow::Result<()> {
    let wanted = preflight::Wanted {
        containers: arguments.nodes > 0
            && arguments.runtime == crate::arguments::Runtime::Containerd,
        own_containerd: arguments.containerd.is_none(),
    };
    let problems = preflight::problems(&preflight::look(), wanted);
    if problems.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
    bail!("this machine cannot run a node:\n{}", list.join("\n"))
}

fn server_config(
    arguments: &Up,
    layout: &Layout,
    address: SocketAddr,
) -> anyhow::Result<apiserver::Config> {
    let mut config = apiserver::Config {
        data_dir: Some(layout.data.clone()),
        bind: Some(address),
        service_cidr: arguments.service_cidr.clone(),
        crds: generate::definitions()?,
        ..apiserver::Config::default()
    };
    arguments.server.apply(&mut config);
    Ok(config)
}

struct Cluster<'a> {
    arguments: &'a Up,
    layout: &'a Layout,
    server: &'a Server,
    shutdown: CancellationToken,
}

type Leaderships = Vec<(&'static str, watch::Receiver<kit::lease::Leadership>)>;

impl Cluster<'_> {
    /// Starts each player as its own service account, all on shared reflectors.
    fn start_players(&self, chosen: &[&'static Chart], tasks: &mut Tasks) -> Leaderships {
        let registry = Registry::default();
        // One cache a type for all of them, so it must see what any of them may: read rights of all together.
        let reader = self.server.client("system:improv:reflectors", &["system:masters"]);
        let reflectors = Reflectors::new(reader);
        let mut leaderships = Vec::new();
        for chart in chosen {
            let (sender, receiver) = watch::channel(kit::lease::Leadership::Unknown);
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
                    .set("cluster-ip", node::dns_address(&self.arguments.service_cidr))
            }
            "service-account" => options.set("root-ca", self.server.core().pki.ca_certificate()),
            "certificate" => {
                let pki = &self.server.core().pki;
                options.set("signing-cert", pki.ca_certificate()).set("signing-key", pki.ca_key())
            }
            _ => options,
        }
    }
}

/// Writes a file that only its owner may read: who ran sudo, or who runs this.
fn write_private(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let open =
        std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    let mut file = open.with_context(|| format!("cannot write {}", path.display()))?;
    if let Some((user, group)) = sudo_invoker(|name| std::env::var(name).ok()) {
        std::os::unix::fs::fchown(&file, Some(user), Some(group))
            .with_context(|| format!("cannot give {} to user {user}", path.display()))?;
    }
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
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

/// Ends at SIGTERM or SIGINT.
async fn termination() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
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
