//! Wiring: the watch on the node's pods, a worker for each, what is left over from before, and the node itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::certificates::plan::Validity;
use crate::certificates::{self, Signer};
use crate::config::Config;
use crate::events::{Recorder, Severity};
use crate::metrics::Metrics;
use crate::node::machine::{Machine, address};
use crate::node::{self, Identity};
use crate::objects::Objects;
use crate::pods::admission;
use crate::pods::adopt::Inherited;
use crate::pods::context::Context;
use crate::pods::dns::Resolver;
use crate::pods::ledger::Share;
use crate::pods::leftovers::{self, Traces};
use crate::pods::observed::Wanted;
use crate::pods::quantity::thousandths;
use crate::pods::shares::Shares;
use crate::pods::worker::{self, Handle};
use crate::probes::action::Prober;
use crate::runtime::{Dns, Runtime, Sandbox};
use crate::server::{self, Listening};
use crate::volumes::Places;

/// Longest wait for the first list of services before pods are started without them.
const SERVICES_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for what is left of half-made sandboxes to go before pods are looked at.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to reach the runtime.
const RETRY: Duration = Duration::from_millis(500);

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder cannot be made.
    #[error("failed to make {path}")]
    Folder {
        /// The folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server cannot listen or its certificate is bad.
    #[error(transparent)]
    Server(#[from] server::Error),
}

/// The workers of all pods, by uid.
#[derive(Clone, Default)]
pub struct Pods(Arc<RwLock<HashMap<String, Handle>>>);

impl Pods {
    /// The worker of the pod of that name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Handle> {
        let pods = self.0.read();
        let fits = |h: &&Handle| {
            h.view().wanted.as_ref().is_some_and(|w| w.namespace == namespace && w.name == name)
        };
        // While one pod of a name winds down the next one may be there already.
        pods.values().filter(fits).min_by_key(|h| h.is_over()).cloned()
    }

    /// All pods that are here.
    pub fn all(&self) -> Vec<Handle> {
        self.0.read().values().cloned().collect()
    }

    fn get(&self, uid: &str) -> Option<Handle> {
        self.0.read().get(uid).filter(|h| !h.is_over()).cloned()
    }

    fn insert(&self, uid: String, handle: Handle) {
        let mut pods = self.0.write();
        pods.retain(|_, h| !h.is_over());
        pods.insert(uid, handle);
    }
}

/// A running agent.
pub struct Agent {
    /// The Node's name.
    pub node_name: String,
    /// Where the server listens.
    pub server: Option<std::net::SocketAddr>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Starts an agent: server, node, and the workers of its pods.
    ///
    /// Returns once the server listens; registration and adoption go on in the background.
    ///
    /// # Errors
    /// A folder or the server's address cannot be had.
    pub async fn start(
        config: Config,
        client: Client,
        runtime: Arc<dyn Runtime>,
        prober: Arc<dyn Prober>,
    ) -> Result<Self, Error> {
        let folders =
            [(&config.root_dir, 0o750), (&config.run_dir, 0o750), (&config.log_dir, 0o755)];
        for (path, mode) in folders {
            folder(path, mode)
                .map_err(|source| Error::Folder { path: path.display().to_string(), source })?;
        }
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let pods = Pods::default();
        let listening = server::bind(&config).await?;
        let port = listening.as_ref().map(Listening::addr);
        let ips = match &config.node_ips[..] {
            [] => vec![address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string()],
            ips => ips.iter().map(ToString::to_string).collect(),
        };
        let machine = Machine::read(&config.root_dir);
        let node_name = config.node_name.clone();
        let identity = Arc::new(Identity { config, ips, machine, port: port.map(|a| a.port()) });
        let (store, services) = reflector::store();
        let ctx = Arc::new(context(&identity, client.clone(), runtime.clone(), prober, store));
        ctx.recorder.node(&node_name, Severity::Normal, "Starting", "Starting kubelet.");
        tasks.spawn(follow_services(client.clone(), services));
        if let Some(listening) = listening {
            if let Some(store) = identity.config.server.rotated.clone() {
                let shown = listening.shown();
                tasks.spawn(rotate_serving(client.clone(), identity.clone(), store, shown));
            }
            tasks.spawn(server::run(listening, ctx.clone(), pods.clone(), stop.clone()));
        }
        tasks.spawn(node::run(client, identity, runtime));
        tasks.spawn(run_pods(ctx, pods));
        Ok(Self { node_name, server: port, stop, tasks })
    }

    /// Waits until `shutdown`, then stops; the end of any task ends the agent, too.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => (),
            end = self.tasks.join_next() => {
                tracing::error!(?end, "a task of the node agent ended");
            }
        }
        self.stop().await;
    }

    /// Stops the agent. Containers go on; the next agent adopts them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.shutdown().await;
    }
}

fn context(
    identity: &Identity,
    client: Client,
    runtime: Arc<dyn Runtime>,
    prober: Arc<dyn Prober>,
    services: reflector::Store<Service>,
) -> Context {
    let config = identity.config.clone();
    let own = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let allocatable: BTreeMap<String, i128> = identity
        .allocatable()
        .into_iter()
        .filter_map(|(k, v)| Some((k, thousandths(&v)?)))
        .collect();
    let amount = |name: &str, unit| {
        allocatable.get(name).and_then(|a| u64::try_from(a / unit).ok()).unwrap_or(u64::MAX)
    };
    Context {
        shares: Shares::new(Share { cpu: amount("cpu", 1), memory: amount("memory", 1000) }),
        resolver: Resolver {
            cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain: config.cluster_domain.clone(),
            node: Dns::parse(&own),
        },
        objects: Objects::new(client.clone()),
        recorder: Recorder::start(client.clone(), config.node_name.clone()),
        places: Places { disk: config.root_dir.clone(), memory: config.run_dir.clone() },
        host_ips: identity.ips.clone(),
        allocatable,
        memory_capacity: identity.machine.memory,
        privileged: nix::unistd::geteuid().is_root(),
        metrics: Arc::new(Metrics::default()),
        services,
        config,
        client,
        runtime,
        prober,
    }
}

/// Keeps the server's certificate fresh.
async fn rotate_serving(
    client: Client,
    identity: Arc<Identity>,
    store: certificates::Store,
    shown: Arc<server::Shown>,
) {
    let node = identity.config.node_name.clone();
    let hosts = std::iter::once(node.clone()).chain(identity.ips.iter().cloned()).collect();
    let wanted = certificates::Request { node, signer: Signer::Serving, hosts };
    let validity = store.read().ok().flatten().and_then(|pair| Validity::read(&pair.certificate));
    certificates::rotate(client, wanted, store, validity, |pair| {
        if let Err(error) = shown.show(pair) {
            tracing::warn!(error = kit::chain(&error), "new certificate not shown");
        }
    })
    .await;
}

async fn follow_services(client: Client, store: reflector::store::Writer<Service>) {
    let stream = watcher(Api::<Service>::all(client), watcher::Config::default());
    let stream = reflector(store, stream.default_backoff());
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        if let Err(error) = event {
            tracing::debug!(error = %error, "service watch failed");
        }
    }
}

/// What the runtime has, by pod uid. Waits until the runtime answers.
async fn inherited(runtime: &dyn Runtime) -> BTreeMap<String, Inherited> {
    loop {
        let listed = async {
            let sandboxes = runtime.sandboxes().await?;
            Ok::<_, crate::runtime::Error>((sandboxes, runtime.containers().await?))
        };
        match listed.await {
            Ok((sandboxes, containers)) => {
                let mut found: BTreeMap<String, Inherited> = BTreeMap::new();
                for sandbox in sandboxes {
                    let uid = sandbox.pod.uid.clone();
                    found.entry(uid).or_default().sandbox = Some(sandbox);
                }
                for container in containers {
                    let uid = container.pod.uid.clone();
                    found.entry(uid).or_default().containers.push(container);
                }
                return found;
            }
            Err(error) => {
                tracing::warn!(error = %error, "container runtime does not answer");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Removes a sandbox that is half made, or from before a reboot: it is made anew where it is still wanted. Nobody
/// waits for one that resists; its pod's worker comes upon it again.
async fn remove_half_made(runtime: &dyn Runtime, sandbox: &Sandbox) {
    let pod = &sandbox.pod;
    match tokio::time::timeout(REMOVED_WITHIN, runtime.remove_sandbox(&pod.uid)).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => {
            tracing::warn!(pod = pod.name, error = %error, "old sandbox not removed");
        }
        Err(_elapsed) => {
            let within = REMOVED_WITHIN;
            tracing::warn!(pod = pod.name, ?within, "old sandbox not removed in time");
        }
    }
}

/// Makes a folder, and sets the mode of one that is there. Secrets of pods lie below the agent's folders with modes
/// that are meant for containers, so nobody else on the machine may pass.
fn folder(path: &std::path::Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

async fn run_pods(ctx: Arc<Context>, pods: Pods) {
    let mut inherited = inherited(ctx.runtime.as_ref()).await;
    let mut traces = Traces::read(&ctx);
    let half_made = inherited.values().filter_map(|i| i.sandbox.as_ref()).filter(|s| !s.ready);
    join_all(half_made.map(|sandbox| remove_half_made(ctx.runtime.as_ref(), sandbox))).await;
    let ready = ctx.services.wait_until_ready();
    if tokio::time::timeout(SERVICES_WITHIN, ready).await.is_err() {
        tracing::warn!("services are not known yet; pods start without their variables");
    }
    let mut workers = JoinSet::new();
    let mut first = true;
    let mut present = BTreeSet::new();
    let selector = format!("spec.nodeName={}", ctx.config.node_name);
    let api = Api::<Pod>::all(ctx.client.clone());
    let stream = watcher(api, watcher::Config::default().fields(&selector)).default_backoff();
    let mut stream = std::pin::pin!(stream);
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            Some(ended) = workers.join_next(), if !workers.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(error = %error, "a pod worker failed");
                }
                continue;
            }
        };
        match event {
            Some(Ok(watcher::Event::Init)) => present.clear(),
            Some(Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod))) => {
                let wanted = Arc::new(Wanted::new(Arc::new(pod)));
                present.insert(wanted.uid.clone());
                let own = inherited.remove(&wanted.uid);
                if let Some(worker) = apply(&ctx, &pods, wanted, own) {
                    workers.spawn(worker);
                }
            }
            Some(Ok(watcher::Event::Delete(pod))) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                if let Some(handle) = pods.get(&uid) {
                    handle.orphan();
                }
            }
            Some(Ok(watcher::Event::InitDone)) => {
                for handle in pods.all() {
                    let uid = handle.view().wanted.as_ref().map(|w| w.uid.clone());
                    if uid.is_some_and(|uid| !present.contains(&uid)) {
                        handle.orphan();
                    }
                }
                if std::mem::take(&mut first) {
                    ctx.shares.complete();
                    let orphans = std::mem::take(&mut inherited);
                    let traces = std::mem::take(&mut traces).without(&present);
                    tokio::spawn(leftovers::remove(ctx.clone(), orphans, traces));
                }
            }
            Some(Err(error)) => tracing::debug!(error = %error, "pod watch failed"),
            None => return,
        }
    }
}

fn apply(
    ctx: &Arc<Context>,
    pods: &Pods,
    wanted: Arc<Wanted>,
    inherited: Option<Inherited>,
) -> Option<impl Future<Output = ()> + Send + 'static> {
    if let Some(handle) = pods.get(&wanted.uid) {
        handle.update(wanted);
        return None;
    }
    let uid = wanted.uid.clone();
    let refused = refusal(pods, &wanted, inherited.is_some());
    let (handle, worker) = worker::start(ctx.clone(), wanted, inherited, refused);
    pods.insert(uid, handle);
    Some(worker)
}

/// Why a pod that is new here cannot run beside the others; what ran before goes on.
fn refusal(pods: &Pods, wanted: &Wanted, ran_before: bool) -> Option<(String, String)> {
    if ran_before || wanted.deletion.is_some() || wanted.is_terminal() {
        return None;
    }
    let here = pods.all().into_iter().filter(|handle| !handle.is_over()).filter_map(|handle| {
        let view = handle.view();
        let has_ended = matches!(view.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let wanted = view.wanted.as_ref().filter(|_| !has_ended)?;
        // What is deleted has its ports for as long as its containers run.
        let runs = view.containers.values().any(|(_, runs)| *runs);
        (wanted.deletion.is_none() || runs).then(|| wanted.clone())
    });
    let others: Vec<Arc<Wanted>> = here.collect();
    admission::refusal(&wanted.pod, others.iter().map(|other| &*other.pod))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nobody_else_passes_through_a_folder_that_was_open() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/pods");
        std::fs::create_dir_all(&path).unwrap();
        super::folder(&path, 0o750).unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o750);
    }
}
