//! kube-dns: gives Services and their endpoints names.
//!
//! [`zone`] turns Services and EndpointSlices into records, [`answer`] turns a query into an answer; both are pure.
//! [`server`] owns the sockets, [`publish`] makes a server that runs outside a pod reachable as Service `kube-dns`.
//!
//! It is a loop and no per-object reconciler: the zone is one thing, rebuilt when something changes.

pub mod answer;
pub mod publish;
pub mod server;
pub mod zone;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Flag, Player, Reflector, Stage, Tasks, rules};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{Instant, sleep};

use crate::server::Server;
use crate::zone::Zone;

/// Changes that come this close together become one new zone.
const GATHER: Duration = Duration::from_millis(5);

/// The player, as the kit runs it: every instance answers.
pub static PLAYER: Player = Player::new("dns", env!("CARGO_PKG_VERSION"), |stage| {
    Box::pin(run(stage))
})
.crds(&["endpointslices.discovery.k8s.io.yaml"])
.flags(&[
    Flag { name: "listen", help: "Address and port for UDP and TCP", default: "0.0.0.0:53" },
    Flag { name: "cluster-domain", help: "The domain it answers for", default: "cluster.local" },
    Flag {
        name: "upstream",
        help: "Servers for other names, comma-separated; without it, those of /etc/resolv.conf",
        default: "",
    },
    Flag {
        name: "publish",
        help: "Outside a pod: make Service kube-dns lead to this address of the node",
        default: "",
    },
    Flag {
        name: "cluster-ip",
        help: "With --publish: the Service's address",
        default: "10.96.0.10",
    },
])
.on_every_node()
.rules(player_rules);

/// The sockets cannot be opened, or broke.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve DNS on {address}; choose another with --listen")]
pub struct Error {
    /// The address asked for.
    pub address: SocketAddr,
    /// Why not.
    pub source: std::io::Error,
}

fn player_rules() -> Vec<PolicyRule> {
    let write = &["get", "create", "patch"];
    vec![
        rules::rule("", &["services"], rules::READ),
        rules::rule("discovery.k8s.io", &["endpointslices"], rules::READ),
        rules::rule("", &["services"], write), // Used with --publish alone.
        rules::rule("discovery.k8s.io", &["endpointslices"], write),
    ]
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let listen: SocketAddr = stage.option("listen")?;
    let domain: String = stage.option("cluster-domain")?;
    let domain = Name::from_str(&format!("{}.", domain.trim_end_matches('.')))
        .unwrap_or_else(|_| Name::root());
    let names = Names {
        services: stage.reflectors.get::<Service>(),
        slices: stage.reflectors.get::<EndpointSlice>(),
        domain,
    };
    names.services.ready().await?;
    names.slices.ready().await?;
    let bound = |source| kit::Error::player(Error { address: listen, source });
    let listener = TcpListener::bind(listen).await.map_err(bound)?;
    let address = listener.local_addr().map_err(bound)?; // Port 0 lets the system choose one for both.
    let socket = UdpSocket::bind(address).await.map_err(bound)?;
    let server = Server::new(names.zone(), upstreams(&stage, address)?);
    let mut tasks = Tasks::default();
    let failed = move |source| kit::Error::player(Error { address, source });
    tasks.spawn("udp", server.clone().serve_udp(socket).map(move |end| end.map_err(failed)));
    tasks.spawn("tcp", server.clone().serve_tcp(listener).map(move |end| end.map_err(failed)));
    let publish: String = stage.option("publish")?;
    if let Ok(node) = publish.parse::<IpAddr>() {
        let at =
            publish::At { node, port: address.port(), cluster_ip: stage.option("cluster-ip")? };
        tasks.spawn("publish", publish::run(stage.clone(), at));
    }
    tracing::info!(%address, "answering");
    tokio::select! {
        () = names.follow(&server, &stage) => Ok(()),
        ended = tasks.first_to_end() => ended.map_or(Ok(()), |(_, result)| result),
        () = stage.shutdown.cancelled() => Ok(()),
    }
}

fn upstreams(stage: &Stage, own: SocketAddr) -> Result<Vec<SocketAddr>, kit::Error> {
    let given: String = stage.option("upstream")?;
    let text = match given.is_empty() {
        true => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        false => given.split(',').map(|server| format!("nameserver {server}\n")).collect(),
    };
    Ok(server::upstreams(&text, &[own]))
}

struct Names {
    services: Reflector<Service>,
    slices: Reflector<EndpointSlice>,
    domain: Name,
}

impl Names {
    fn zone(&self) -> Zone {
        Zone::new(&self.domain, &self.services.all(), &self.slices.all())
    }

    /// Keeps the server's zone equal to what the API says.
    async fn follow(&self, server: &Arc<Server>, stage: &Stage) {
        let services = self.services.changes().map(|_| ());
        let slices = self.slices.changes().map(|_| ());
        let mut changes = std::pin::pin!(stream::select(services, slices).ready_chunks(1024));
        while changes.next().await.is_some() {
            sleep(GATHER).await;
            while changes.next().now_or_never().flatten().is_some() {}
            let began = Instant::now();
            server.zone.store(Arc::new(self.zone()));
            stage.metrics.reconciled(began.elapsed(), None);
        }
    }
}
