//! The runtime on containerd, driven natively: its snapshots, tasks and content, without the CRI plugin.

mod child;
mod client;
mod container;
mod exec;
mod follow;
mod image_config;
mod images;
mod labels;
mod locks;
mod oci;
mod sandbox;
mod seccomp;
mod users;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::{
    BoxDuplex, Bytes, ContainerId, ContainerSpec, ContainerStatus, Error, ExecIo, ExecOutput,
    ExecSpec, Exit, Image, ImageRef, PullSecrets, Qos, Resources, Result, Runtime, RuntimeEvent,
    Sandbox, SandboxSpec, Stats, Version,
};
use crate::cgroups::Cgroups;
use crate::network::{self, Network};
use crate::sys::namespaces;
use client::{Client, failed};

pub use child::{Child, ChildOptions, clean_up, clean_up_shared, spawn};

/// How long a killed container may take to end. Longer means that a process hangs in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

const ALL_QOS: [Qos; 3] = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];

/// How to use a containerd.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its socket.
    pub socket: PathBuf,
    /// The namespace in it; the agent owns all that is in there.
    pub namespace: String,
    /// Pins, fifos and sockets; should not outlive a reboot, as /run.
    pub state_dir: PathBuf,
    /// The program that the shims start as logger: one whose `main` calls [`crate::logger::maybe_run`] first.
    pub agent_binary: PathBuf,
    /// Top of the pods' cgroups, as `/kubepods`.
    pub cgroup_base: String,
    /// The pods' network.
    pub network: network::Config,
    /// Registries that are spoken to without TLS, as `host` or `host:port`; those on this machine always are.
    pub insecure_registries: Vec<String>,
    /// Size at which a container's log is rotated, in bytes.
    pub log_max_size: u64,
    /// Log files kept a container, the current one included.
    pub log_max_files: u32,
}

impl Options {
    /// Options with upstream's defaults for what is not named.
    pub fn new(
        socket: PathBuf,
        state_dir: PathBuf,
        agent_binary: PathBuf,
        network: network::Config,
    ) -> Self {
        Self {
            socket,
            namespace: "improv".to_owned(),
            state_dir,
            agent_binary,
            cgroup_base: "/kubepods".to_owned(),
            network,
            insecure_registries: Vec::new(),
            log_max_size: crate::logger::MAX_SIZE,
            log_max_files: crate::logger::MAX_FILES,
        }
    }
}

/// A node's containerd as a [`Runtime`]. Dropping it leaves all containers running; the next one adopts them.
pub struct Containerd {
    inner: Arc<Inner>,
}

struct Inner {
    this: Weak<Inner>,
    options: Options,
    client: Client,
    images: images::Images,
    network: Network,
    cgroups: Cgroups,
    node: oci::Node,
    sandbox_locks: locks::Locks,
    /// Containers whose creation is under way; listings leave them out.
    creating: Mutex<HashSet<String>>,
    waited: Mutex<HashMap<String, follow::Waited>>,
    events: broadcast::Sender<RuntimeEvent>,
}

impl Containerd {
    /// Connects, makes the pods' network, and adopts the containers that are there.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if containerd does not answer; else what could not be made.
    pub async fn start(options: Options) -> Result<Self> {
        let client = Client::new(&options.socket, &options.namespace)?;
        client.version().version(client.request(())).await.map_err(failed("reach containerd"))?;
        let make = |name: &str| fs::create_dir_all(options.state_dir.join(name));
        let folders = ["sandboxes", "io", "exec"].into_iter().try_for_each(make);
        folders.map_err(|error| Error::runtime("make the state folder", error))?;
        let cgroups = Cgroups::detect(&options.cgroup_base)
            .map_err(|error| Error::runtime("find cgroups", error))?;
        let network = Network::start(options.network.clone());
        let network =
            network.await.map_err(|error| Error::runtime("set up the pods' network", error))?;
        let node = oci::Node {
            cgroup_v2: cgroups.is_v2(),
            swap: cgroups.counts_swap(),
            capabilities: oci::known_capabilities(),
            min_oom_score_adj: min_oom_score_adj(),
        };
        let images = images::Images::new(client.clone(), options.insecure_registries.clone());
        let inner = Arc::new_cyclic(|this| Inner {
            this: this.clone(),
            options,
            client,
            images,
            network,
            cgroups,
            node,
            sandbox_locks: locks::Locks::default(),
            creating: Mutex::default(),
            waited: Mutex::default(),
            events: follow::event_channel(),
        });
        follow::adopt(&inner).await?;
        tokio::spawn(follow::follow_events(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Removes all sandboxes and containers; images stay.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub async fn remove_all(&self) -> Result<()> {
        for uid in self.inner.sandbox_uids()? {
            self.inner.remove_sandbox(&uid).await?;
        }
        for record in self.inner.records(Vec::new()).await? {
            self.inner.remove_container(&ContainerId(record.id)).await?;
        }
        Ok(())
    }
}

/// Loads an archive beside an agent that runs: touches images only.
///
/// # Errors
/// [`Error::Import`], or [`Error::Unavailable`] if containerd does not answer.
pub async fn import_archive(
    socket: &Path,
    namespace: &str,
    archive: &Path,
) -> Result<Vec<ImageRef>> {
    let client = Client::new(socket, namespace)?;
    images::Images::new(client, Vec::new()).import(archive).await
}

/// The least oom_score_adj that may be set: any with CAP_SYS_RESOURCE, else not below the own one.
fn min_oom_score_adj() -> i32 {
    if oci::known_capabilities().iter().any(|name| name == "SYS_RESOURCE") {
        return -1000;
    }
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or_default()
}

impl Runtime for Containerd {
    fn sandbox_files(&self, uid: &str) -> Option<PathBuf> {
        self.inner.sandbox_files(uid)
    }

    fn version(&self) -> BoxFuture<'_, Result<Version>> {
        Box::pin(async {
            let client = &self.inner.client;
            let answer = client
                .version()
                .version(client.request(()))
                .await
                .map_err(failed("reach containerd"))?;
            let version = answer.into_inner().version.trim_start_matches('v').to_owned();
            Ok(Version { name: "containerd".to_owned(), version })
        })
    }

    fn image<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<Option<Image>>> {
        Box::pin(self.inner.images.get(image))
    }

    fn pull_image<'a>(
        &'a self,
        image: &'a ImageRef,
        secrets: &'a PullSecrets,
    ) -> BoxFuture<'a, Result<Image>> {
        Box::pin(self.inner.images.pull(image, secrets))
    }

    fn import_archive<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<Vec<ImageRef>>> {
        Box::pin(self.inner.images.import(path))
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        Box::pin(self.inner.images.list())
    }

    fn remove_image<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.images.remove(image))
    }

    fn create_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox>> {
        Box::pin(self.inner.create_sandbox(spec))
    }

    fn sandbox<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<Option<Sandbox>>> {
        Box::pin(async { self.inner.sandbox(pod_uid) })
    }

    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>>> {
        Box::pin(async { self.inner.sandboxes() })
    }

    fn remove_sandbox<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.remove_sandbox(pod_uid))
    }

    fn update_sandbox<'a>(
        &'a self,
        pod_uid: &'a str,
        resources: &'a Resources,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.inner.update_sandbox(pod_uid, resources) })
    }

    fn create_container<'a>(
        &'a self,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId>> {
        Box::pin(self.inner.create_container(spec))
    }

    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.start_container(id))
    }

    fn kill_container<'a>(&'a self, id: &'a ContainerId, signal: i32) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.kill_container(id, signal))
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.remove_container(id))
    }

    fn wait_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit>> {
        Box::pin(self.inner.wait_container(id))
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>>> {
        Box::pin(self.inner.containers())
    }

    fn container<'a>(
        &'a self,
        id: &'a ContainerId,
    ) -> BoxFuture<'a, Result<Option<ContainerStatus>>> {
        Box::pin(self.inner.container(id))
    }

    fn update_container<'a>(
        &'a self,
        id: &'a ContainerId,
        resources: &'a Resources,
        labels: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.update_container(id, resources, labels))
    }

    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        spec: &'a ExecSpec,
    ) -> BoxFuture<'a, Result<ExecIo>> {
        Box::pin(self.inner.exec(id, spec))
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a ContainerId,
        command: &'a [String],
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput>> {
        Box::pin(self.inner.exec_sync(id, command, timeout))
    }

    fn attach<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<ExecIo>> {
        Box::pin(self.inner.attach(id))
    }

    fn dial<'a>(&'a self, pod_uid: &'a str, port: u16) -> BoxFuture<'a, Result<BoxDuplex>> {
        Box::pin(async move {
            let not_found = || Error::NotFound { what: "sandbox", name: pod_uid.to_owned() };
            let record = self
                .inner
                .sandbox_record(pod_uid)?
                .filter(|record| record.complete)
                .ok_or_else(not_found)?;
            let pin =
                (!record.spec.host_network).then(|| self.inner.sandbox_folder(pod_uid).join("net"));
            let dialled =
                tokio::task::spawn_blocking(move || namespaces::dial(pin.as_deref(), port)).await;
            let failed = |error: io::Error| Error::Dial { port, reason: error.to_string() };
            let stream =
                dialled.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
            Ok(Box::new(tokio::net::TcpStream::from_std(stream).map_err(failed)?) as BoxDuplex)
        })
    }

    fn container_stats<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Stats>> {
        Box::pin(async move {
            let (record, _) =
                self.inner.record(&id.0).await?.ok_or_else(|| container::not_found(id))?;
            self.inner
                .cgroups
                .stats(&record.cgroup)
                .map_err(|error| Error::runtime("read a container's usage", error))
        })
    }

    fn sandbox_stats<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<Stats>> {
        Box::pin(async move {
            let not_found = || Error::NotFound { what: "sandbox", name: pod_uid.to_owned() };
            let record = self.inner.sandbox_record(pod_uid)?.ok_or_else(not_found)?;
            let path = self.inner.cgroups.pod_path(record.spec.qos, pod_uid);
            let mut stats = self
                .inner
                .cgroups
                .stats(&path)
                .map_err(|error| Error::runtime("read a pod's usage", error))?;
            if let Some(traffic) = self.inner.network.traffic(pod_uid) {
                stats.network_received = Some(Bytes(traffic.received));
                stats.network_sent = Some(Bytes(traffic.sent));
            }
            Ok(stats)
        })
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        self.inner.events()
    }
}
