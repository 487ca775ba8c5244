//! A runtime that only pretends: for scale tests, and for machines where no container can run.
//!
//! Images are present at once, containers run until they are killed, and the pod's network is a number. Annotations of a pod that begin with [`SCRIPT_PREFIX`] reach the container as labels and say what it does:
//! `exit.<container>: "3@1.5"` ends it with code 3 after 1.5 s, `start-delay.<container>: "0.2"` makes it start late, `deaf.<container>: "true"` makes it ignore SIGTERM,
//! `pull-error.<container>` belongs to the image name instead: an image whose path begins with `missing/` cannot be pulled.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{HTTPGetAction, Probe};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::{
    BoxDuplex, Bytes, ContainerId, ContainerSpec, ContainerState, ContainerStatus, Error, ExecIo,
    ExecOutput, ExecSpec, Exit, Image, ImageRef, PodIdentity, PullSecrets, Resources, Result,
    Runtime, RuntimeEvent, Sandbox, SandboxSpec, Stats, Version,
};
use crate::probes::action::{Outcome, Prober, Target};

/// Annotations with this prefix say what a simulated container does.
pub const SCRIPT_PREFIX: &str = "hollow.improv.dev/";

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// The simulated runtime of one node.
pub struct Hollow {
    /// First address that is handed out, and how many there are.
    network: (u32, u32),
    next_ip: AtomicU32,
    next_id: AtomicU64,
    sandboxes: Mutex<HashMap<String, Sandbox>>,
    containers: Mutex<HashMap<ContainerId, Container>>,
    images: Mutex<BTreeMap<ImageRef, Image>>,
}

struct Container {
    status: ContainerStatus,
    state: watch::Sender<ContainerState>,
}

impl Hollow {
    /// A runtime whose pods get addresses from `pod_cidr` (10.244.0.0/16 if it cannot be read).
    pub fn new(pod_cidr: Option<&str>) -> Self {
        let network = pod_cidr.and_then(parse_cidr).unwrap_or((0x0af4_0000, 1 << 16));
        Self {
            network,
            next_ip: AtomicU32::new(2),
            next_id: AtomicU64::new(1),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            images: Mutex::default(),
        }
    }

    fn address(&self) -> IpAddr {
        let (first, size) = self.network;
        let offset = self.next_ip.fetch_add(1, Ordering::Relaxed) % size.max(4);
        IpAddr::V4(Ipv4Addr::from(first + offset.max(2)))
    }

    fn exit(&self, id: &ContainerId, code: i32) {
        if let Some(container) = self.containers.lock().get(id) {
            end(&container.state, code);
        }
    }

    fn script(&self, id: &ContainerId, verb: &str) -> Option<String> {
        let containers = self.containers.lock();
        let status = &containers.get(id)?.status;
        status.labels.get(&format!("{SCRIPT_PREFIX}{verb}.{}", status.name)).cloned()
    }
}

fn parse_cidr(text: &str) -> Option<(u32, u32)> {
    let (ip, bits) = text.split_once('/')?;
    let ip: Ipv4Addr = ip.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    Some((u32::from(ip), 1u32.checked_shl(32u32.checked_sub(bits)?)?))
}

fn image_of(name: &ImageRef) -> Image {
    use sha2::Digest;
    let hex: String =
        sha2::Sha256::digest(name.to_string()).iter().map(|byte| format!("{byte:02x}")).collect();
    Image {
        id: format!("sha256:{hex}"),
        names: vec![name.to_string()],
        repo_digests: vec![name.at_digest(&format!("sha256:{hex}"))],
        size: Bytes(1 << 20),
        ..Image::default()
    }
}

fn not_found(what: &'static str, name: &str) -> Error {
    Error::NotFound { what, name: name.to_owned() }
}

fn seconds(text: &str) -> Duration {
    Duration::try_from_secs_f64(text.trim().parse().unwrap_or(0.0)).unwrap_or_default()
}

/// What a command prints and answers: `sh -c "exit 3"` and `false` fail, all others print their arguments.
fn simulate(command: &[String]) -> (i32, String) {
    let line = command.join(" ");
    let code = match line.rsplit_once("exit ") {
        Some((_, code)) => code.trim().parse().unwrap_or(0),
        None if command.first().is_some_and(|c| c.ends_with("false")) => 1,
        None => 0,
    };
    (code, format!("{}\n", command.get(1..).unwrap_or_default().join(" ")))
}

impl Runtime for Hollow {
    fn sandbox_files(&self, _uid: &str) -> Option<PathBuf> {
        None
    }

    fn version(&self) -> BoxFuture<'_, Result<Version>> {
        async { Ok(Version { name: "hollow".into(), version: env!("CARGO_PKG_VERSION").into() }) }
            .boxed()
    }

    fn image<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<Option<Image>>> {
        async move {
            if image.repository().starts_with("missing/") {
                return Ok(None);
            }
            let mut images = self.images.lock();
            Ok(Some(images.entry(image.clone()).or_insert_with(|| image_of(image)).clone()))
        }
        .boxed()
    }

    fn pull_image<'a>(
        &'a self,
        image: &'a ImageRef,
        _: &'a PullSecrets,
    ) -> BoxFuture<'a, Result<Image>> {
        async move {
            self.image(image).await?.ok_or_else(|| Error::PullImage {
                image: image.to_string(),
                reason: "not found".to_owned(),
            })
        }
        .boxed()
    }

    fn import_archive<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<Vec<ImageRef>>> {
        async move {
            Err(Error::Import {
                path: path.display().to_string(),
                reason: "a hollow runtime holds no images".to_owned(),
            })
        }
        .boxed()
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        async { Ok(self.images.lock().values().cloned().collect()) }.boxed()
    }

    fn remove_image<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<()>> {
        async move {
            self.images.lock().remove(image);
            Ok(())
        }
        .boxed()
    }

    fn create_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox>> {
        async move {
            let mut sandboxes = self.sandboxes.lock();
            let made = sandboxes.entry(spec.pod.uid.clone()).or_insert_with(|| Sandbox {
                pod: spec.pod.clone(),
                ips: if spec.host_network { Vec::new() } else { vec![self.address()] },
                ready: true,
                created_at: Timestamp::now(),
            });
            Ok(made.clone())
        }
        .boxed()
    }

    fn sandbox<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<Option<Sandbox>>> {
        async move { Ok(self.sandboxes.lock().get(pod_uid).cloned()) }.boxed()
    }

    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>>> {
        async { Ok(self.sandboxes.lock().values().cloned().collect()) }.boxed()
    }

    fn remove_sandbox<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.sandboxes.lock().remove(pod_uid);
            let inside: Vec<_> = {
                let containers = self.containers.lock();
                let of_pod = containers.values().filter(|c| c.status.pod.uid == pod_uid);
                of_pod.map(|c| c.status.id.clone()).collect()
            };
            for id in inside {
                self.remove_container(&id).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn update_sandbox<'a>(&'a self, _: &'a str, _: &'a Resources) -> BoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn create_container<'a>(
        &'a self,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId>> {
        async move {
            let sandbox = self.sandboxes.lock().get(&spec.pod_uid).cloned();
            let pod: PodIdentity = sandbox.ok_or_else(|| not_found("sandbox", &spec.pod_uid))?.pod;
            if spec.command.first().is_some_and(|c| c == "/no/such/program") {
                return Err(Error::CreateContainer {
                    name: spec.name.clone(),
                    reason: "exec: \"/no/such/program\": no such file or directory".to_owned(),
                });
            }
            let number = self.next_id.fetch_add(1, Ordering::Relaxed);
            let id = ContainerId(format!("hollow-{}-{number}", pod.uid));
            let status = ContainerStatus {
                id: id.clone(),
                pod,
                name: spec.name.clone(),
                attempt: spec.attempt,
                image: spec.image.clone(),
                image_id: image_of(&spec.image).id,
                log_path: spec.log_path.clone(),
                created_at: Timestamp::now(),
                state: ContainerState::Created,
                labels: spec.labels.clone(),
            };
            let state = watch::Sender::new(ContainerState::Created);
            self.containers.lock().insert(id.clone(), Container { status, state });
            Ok(id)
        }
        .boxed()
    }

    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        async move {
            if let Some(delay) = self.script(id, "start-delay") {
                tokio::time::sleep(seconds(&delay)).await;
            }
            let (log, name, state) = {
                let containers = self.containers.lock();
                let container = containers.get(id).ok_or_else(|| not_found("container", &id.0))?;
                container
                    .state
                    .send_replace(ContainerState::Running { started_at: Timestamp::now() });
                let status = &container.status;
                (status.log_path.clone(), status.name.clone(), container.state.clone())
            };
            write_log(&log, &format!("hollow container {name} has started"));
            if let Some(script) = self.script(id, "exit") {
                let (code, after) = script.split_once('@').unwrap_or((&script, "0"));
                let (code, after) = (code.trim().parse().unwrap_or(0), seconds(after));
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    end(&state, code);
                });
            }
            Ok(())
        }
        .boxed()
    }

    fn kill_container<'a>(&'a self, id: &'a ContainerId, signal: i32) -> BoxFuture<'a, Result<()>> {
        async move {
            let deaf = signal == SIGTERM && self.script(id, "deaf").is_some();
            if !deaf && matches!(signal, 1 | 2 | 3 | SIGKILL | SIGTERM) {
                self.exit(id, 128 + signal);
            }
            Ok(())
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        async move {
            self.exit(id, 128 + SIGKILL);
            self.containers.lock().remove(id);
            Ok(())
        }
        .boxed()
    }

    fn wait_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit>> {
        async move {
            let mut state = {
                let containers = self.containers.lock();
                let container = containers.get(id).ok_or_else(|| not_found("container", &id.0))?;
                container.state.subscribe()
            };
            let ended = state
                .wait_for(|s| matches!(s, ContainerState::Exited { .. }))
                .await
                .map_err(|_| not_found("container", &id.0))?
                .clone();
            match ended {
                ContainerState::Exited { exit, .. } => Ok(exit),
                ContainerState::Created | ContainerState::Running { .. } => {
                    Err(not_found("container", &id.0))
                }
            }
        }
        .boxed()
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>>> {
        async {
            let containers = self.containers.lock();
            Ok(containers.values().map(current).collect())
        }
        .boxed()
    }

    fn container<'a>(
        &'a self,
        id: &'a ContainerId,
    ) -> BoxFuture<'a, Result<Option<ContainerStatus>>> {
        async move { Ok(self.containers.lock().get(id).map(current)) }.boxed()
    }

    fn update_container<'a>(
        &'a self,
        id: &'a ContainerId,
        _: &'a Resources,
        labels: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut containers = self.containers.lock();
            let container = containers.get_mut(id).ok_or_else(|| not_found("container", &id.0))?;
            container.status.labels.extend(labels.clone());
            Ok(())
        }
        .boxed()
    }

    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        spec: &'a ExecSpec,
    ) -> BoxFuture<'a, Result<ExecIo>> {
        async move {
            if !self.containers.lock().contains_key(id) {
                return Err(not_found("container", &id.0));
            }
            let (code, text) = simulate(&spec.command);
            Ok(echo(spec, text, code))
        }
        .boxed()
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a ContainerId,
        command: &'a [String],
        _: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput>> {
        async move {
            if !self.containers.lock().contains_key(id) {
                return Err(not_found("container", &id.0));
            }
            let (code, text) = simulate(command);
            Ok(ExecOutput { code, stdout: text.into_bytes(), stderr: Vec::new() })
        }
        .boxed()
    }

    fn attach<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<ExecIo>> {
        async move {
            if !self.containers.lock().contains_key(id) {
                return Err(not_found("container", &id.0));
            }
            let all = ExecSpec { stdin: true, stdout: true, ..ExecSpec::default() };
            Ok(echo(&all, String::new(), 0))
        }
        .boxed()
    }

    fn dial<'a>(&'a self, pod_uid: &'a str, port: u16) -> BoxFuture<'a, Result<BoxDuplex>> {
        async move {
            if !self.sandboxes.lock().contains_key(pod_uid) {
                return Err(not_found("sandbox", pod_uid));
            }
            let (near, mut far) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move {
                let greeting = format!("hollow port {port}\n");
                far.write_all(greeting.as_bytes()).await.ok();
                let mut buffer = vec![0; 4096];
                while let Ok(n @ 1..) = far.read(&mut buffer).await {
                    if far.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
            Ok(Box::new(near) as BoxDuplex)
        }
        .boxed()
    }

    fn container_stats<'a>(&'a self, _: &'a ContainerId) -> BoxFuture<'a, Result<Stats>> {
        async { Ok(Stats { processes: 1, ..Stats::default() }) }.boxed()
    }

    fn sandbox_stats<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Stats>> {
        async { Ok(Stats { processes: 1, ..Stats::default() }) }.boxed()
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        futures::stream::once(async { RuntimeEvent::Relist })
            .chain(futures::stream::pending())
            .boxed()
    }
}

/// Ends a container, unless it has ended before.
fn end(state: &watch::Sender<ContainerState>, code: i32) {
    state.send_if_modified(|state| {
        let started_at = match *state {
            ContainerState::Running { started_at } => Some(started_at),
            ContainerState::Created => None,
            ContainerState::Exited { .. } => return false,
        };
        let finished_at = Timestamp::now();
        let exit = Exit { code, finished_at, oom_killed: false, message: String::new() };
        *state = ContainerState::Exited { started_at, exit };
        true
    });
}

/// The status with the state as it is now.
fn current(container: &Container) -> ContainerStatus {
    let state = container.state.borrow().clone();
    ContainerStatus { state, ..container.status.clone() }
}

fn write_log(path: &Path, line: &str) {
    let written = (|| {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{} stdout F {line}", Timestamp::now())
    })();
    if let Err(error) = written {
        tracing::debug!(error = %error, "hollow log not written");
    }
}

/// A process that prints `text`, then repeats its input, then ends with `code`.
fn echo(spec: &ExecSpec, text: String, code: i32) -> ExecIo {
    let (stdin_near, mut stdin_far) = tokio::io::duplex(64 << 10);
    let (stdout_near, mut stdout_far) = tokio::io::duplex(64 << 10);
    let repeat = spec.stdin;
    let task = tokio::spawn(async move {
        stdout_far.write_all(text.as_bytes()).await.ok();
        let mut buffer = vec![0; 4096];
        while repeat && let Ok(n @ 1..) = stdin_far.read(&mut buffer).await {
            if stdout_far.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
        code
    });
    ExecIo {
        stdin: spec.stdin.then(|| Box::new(stdin_near) as super::BoxWrite),
        stdout: spec.stdout.then(|| Box::new(stdout_near) as super::BoxRead),
        stderr: None,
        resize: None,
        exit: async move { task.await.map_err(|e| Error::runtime("wait for the process", e)) }
            .boxed(),
    }
}

/// Probes of simulated containers: commands go to the runtime, all else succeeds.
pub struct HollowProber;

impl Prober for HollowProber {
    fn probe<'a>(
        &'a self,
        target: &'a Target,
        probe: &'a Probe,
        timeout: Duration,
    ) -> BoxFuture<'a, Outcome> {
        async move {
            match &probe.exec {
                Some(exec) => {
                    let command = exec.command.clone().unwrap_or_default();
                    crate::probes::action::exec(target, &command, timeout).await
                }
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn http_hook<'a>(&'a self, _: &'a Target, _: &'a HTTPGetAction) -> BoxFuture<'a, Outcome> {
        async { Ok(()) }.boxed()
    }
}

/// The runtime and the prober that goes with it.
pub fn pair(pod_cidr: Option<&str>) -> (Arc<dyn Runtime>, Arc<dyn Prober>) {
    (Arc::new(Hollow::new(pod_cidr)), Arc::new(HollowProber))
}
