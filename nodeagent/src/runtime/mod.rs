//! What the pod side of the agent asks of a container runtime, and the plain data it asks with.
//!
//! The trait decides nothing: pull policy, restarts, back-off and probes belong to the pod worker.
//! Two implementations: `containerd`, which runs real containers, and a simulated one.
//!
//! Every operation is idempotent where Kubernetes needs it: creating a sandbox that exists answers the one
//! that is there; killing or removing what has gone is a success.

pub mod containerd;
mod error;
pub mod hollow;
mod reference;
mod secrets;
mod spec;
mod status;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use error::{Error, Result};
pub use reference::ImageRef;
pub use secrets::{Credential, PullSecrets};
pub use spec::{
    Bytes, ContainerSpec, Dns, HostAlias, HostPort, Millicores, Mount, PodIdentity, Propagation,
    Protocol, Qos, Resources, SandboxSpec, Seccomp, Security,
};
pub use status::{
    ContainerId, ContainerState, ContainerStatus, Exit, Image, Sandbox, Stats, Version,
};

/// A container runtime. Implementations are cheap to share: hold one in an `Arc<dyn Runtime>`.
pub trait Runtime: Send + Sync + 'static {
    /// Name and version for the Node's `containerRuntimeVersion`; also tells whether the runtime answers.
    fn version(&self) -> BoxFuture<'_, Result<Version>>;

    /// The image if all of it is present, else `None`. Never contacts a registry.
    fn image<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<Option<Image>>>;

    /// Fetches the image from its registry, also when one of that name is present.
    ///
    /// `secrets` are tried in their order, then anonymously. Pulls of one reference are joined.
    ///
    /// # Errors
    /// [`Error::PullImage`] or [`Error::RegistryUnavailable`].
    fn pull_image<'a>(
        &'a self,
        image: &'a ImageRef,
        secrets: &'a PullSecrets,
    ) -> BoxFuture<'a, Result<Image>>;

    /// Loads an OCI layout archive or a `docker save` archive and answers the names that it brought.
    fn import_archive<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<Vec<ImageRef>>>;

    /// All images present.
    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>>>;

    /// Forgets a name; content that nothing else uses is freed before the answer.
    fn remove_image<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<()>>;

    /// A folder of a pod's sandbox for what its containers write and the node reads. The kernel bounds its bytes, and
    /// it goes with the sandbox. `None` if there is no such folder.
    fn sandbox_files(&self, uid: &str) -> Option<PathBuf>;

    /// Makes namespaces, network, cgroup and the files in /etc of a pod.
    fn create_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox>>;

    /// The sandbox of the pod with this uid.
    fn sandbox<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<Option<Sandbox>>>;

    /// All sandboxes, half made ones included.
    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>>>;

    /// Removes a sandbox with all containers in it (killed if they run), its network, cgroup and mounts.
    fn remove_sandbox<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Changes the limits of the pod as a whole.
    fn update_sandbox<'a>(
        &'a self,
        pod_uid: &'a str,
        resources: &'a Resources,
    ) -> BoxFuture<'a, Result<()>>;

    /// Makes a container in the sandbox `spec.pod_uid`; its process does not run yet.
    ///
    /// # Errors
    /// [`Error::ContainerConfig`] when the spec cannot be met (`runAsNonRoot` against the image, unknown user),
    /// [`Error::CreateContainer`] when the runtime refuses; both leave nothing behind.
    fn create_container<'a>(
        &'a self,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId>>;

    /// Runs a created container.
    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>>;

    /// Sends a signal (`libc` number) to the container's first process; SIGKILL goes to all of its processes.
    fn kill_container<'a>(&'a self, id: &'a ContainerId, signal: i32) -> BoxFuture<'a, Result<()>>;

    /// Removes a container, killing it first if it runs. Its log file stays.
    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>>;

    /// Waits until the container has exited; answers at once if it has. Survives restarts of containerd.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container.
    fn wait_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit>>;

    /// All containers, exited ones included, of all pods: this is what a restarted agent re-adopts.
    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>>>;

    /// One container.
    fn container<'a>(
        &'a self,
        id: &'a ContainerId,
    ) -> BoxFuture<'a, Result<Option<ContainerStatus>>>;

    /// Changes the limits of a running container, then the labels that go with them.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container, or it has ended.
    fn update_container<'a>(
        &'a self,
        id: &'a ContainerId,
        resources: &'a Resources,
        labels: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>>;

    /// Starts a process in a running container and hands out its streams.
    fn exec<'a>(&'a self, id: &'a ContainerId, spec: &'a ExecSpec)
    -> BoxFuture<'a, Result<ExecIo>>;

    /// Runs a command to its end. Output beyond 16 KiB a stream is cut (probes show its beginning only).
    ///
    /// # Errors
    /// [`Error::ExecTimeout`] when `timeout` has passed; the process is killed.
    fn exec_sync<'a>(
        &'a self,
        id: &'a ContainerId,
        command: &'a [String],
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput>>;

    /// The streams of the container's first process, from now on. `exit` answers when the container has exited.
    fn attach<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<ExecIo>>;

    /// Connects to a TCP port on the pod's loopback address (127.0.0.1, then ::1).
    fn dial<'a>(&'a self, pod_uid: &'a str, port: u16) -> BoxFuture<'a, Result<BoxDuplex>>;

    /// What a container uses now.
    fn container_stats<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Stats>>;

    /// What a pod uses now, network included.
    fn sandbox_stats<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<Stats>>;

    /// What happens from now on. [`RuntimeEvent::Relist`] comes first, and again whenever events may be lost.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}

/// What [`Runtime::events`] reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Events may have been missed (start, or a restart of containerd): list again.
    Relist,
    /// A container's first process has ended.
    Exited {
        /// The container.
        id: ContainerId,
        /// The uid of its pod.
        pod_uid: String,
    },
    /// The kernel killed a process of the container for lack of memory.
    OutOfMemory {
        /// The container.
        id: ContainerId,
        /// The uid of its pod.
        pod_uid: String,
    },
}

/// A process to run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments; not passed to a shell.
    pub command: Vec<String>,
    /// Give it a terminal; then all output comes on stdout.
    pub tty: bool,
    /// Hand out a writer for its standard input.
    pub stdin: bool,
    /// Hand out a reader for its standard output.
    pub stdout: bool,
    /// Hand out a reader for its standard error (ignored with `tty`).
    pub stderr: bool,
    /// Size of the terminal at the start.
    pub size: Option<TerminalSize>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An owned byte stream in both directions.
pub type BoxDuplex = Box<dyn Duplex>;

/// An owned byte source.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;

/// An owned byte sink.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// The streams of a process, ready to be spliced to a connection.
pub struct ExecIo {
    /// Standard input; shutting it down (or dropping it) is end of file for the process.
    pub stdin: Option<BoxWrite>,
    /// Standard output, or the terminal's output.
    pub stdout: Option<BoxRead>,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<BoxRead>,
    /// New sizes of the terminal; `None` without one.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The exit code, once the process has ended. Dropping the future of an exec (not of an attach) kills it.
    pub exit: BoxFuture<'static, Result<i32>>,
}

/// What a command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code; 128 + n if signal n ended it.
    pub code: i32,
    /// The beginning of standard output.
    pub stdout: Vec<u8>,
    /// The beginning of standard error.
    pub stderr: Vec<u8>,
}
