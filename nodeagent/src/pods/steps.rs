//! Carries out the steps of a plan. No choice is left here; what went wrong is put into the API's words.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::watch;
use tokio::time::Instant;

use super::adopt::exit_of;
use super::context::Context;
use super::env::{environment, expand, references};
use super::observed::{Attempt, AttemptState, Exit, PullPolicy, Wanted};
use super::spec::{
    LABEL_CRASHES, LABEL_IMAGE, LABEL_IMAGE_ID, Prepared, container_spec, sandbox_spec,
};
use crate::events::Severity;
use crate::probes::action::{Target, exec};
use crate::runtime::hollow::SCRIPT_PREFIX;
use crate::runtime::{ContainerId, Error, ImageRef, Mount, Propagation, PullSecrets};
use crate::volumes::{PodVolumes, subpath, volumes};

/// Most bytes of a termination message.
///
/// Source: kubernetes.io, "Determine the Reason for Pod Failure".
const MESSAGE_MAX: usize = 4096;
/// Most bytes and lines that the log lends to a termination message.
const MESSAGE_FROM_LOG: (u64, usize) = (2048, 80);
/// Longest that a command of a hook may run when nothing else bounds it.
const HOOK_MAX: Duration = Duration::from_secs(24 * 3600);
/// Between two tries of what must succeed in the end.
const RETRY: Duration = Duration::from_secs(1);

/// Why an image is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PullError {
    /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName` …
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
}

/// Why a container was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartError {
    /// `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
}

/// Makes the sandbox and answers its addresses.
pub(super) async fn create_sandbox(ctx: &Context, wanted: &Wanted) -> Result<Vec<String>, String> {
    let begin = Instant::now();
    let spec = sandbox_spec(wanted, &ctx.resolver);
    let made = ctx.runtime.create_sandbox(&spec).await.map_err(|e| capitalize(&with_causes(&e)))?;
    ctx.metrics.sandbox.observe(begin.elapsed());
    Ok(made.ips.iter().map(ToString::to_string).collect())
}

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// Sees to it that the image is there, by the pull policy, and answers its id for the status.
pub(super) async fn pull(
    ctx: &Context,
    wanted: &Wanted,
    held: &PodVolumes,
    name: &str,
) -> Result<String, PullError> {
    let Some(container) = wanted.container(name) else { return Ok(String::new()) };
    let image = container.spec.image.clone().unwrap_or_default();
    let event = |severity, reason: &str, text: String| {
        ctx.recorder.container(wanted, name, severity, reason, text);
    };
    let reference: ImageRef = image.parse().map_err(|e: Error| {
        let message = format!("Failed to apply default image tag \"{image}\": {e}");
        event(Severity::Warning, "InspectFailed", message.clone());
        event(Severity::Warning, "Failed", "Error: InvalidImageName".to_owned());
        PullError { reason: "InvalidImageName", message }
    })?;
    if container.pull != PullPolicy::Always {
        let present = ctx.runtime.image(&reference).await.unwrap_or_default();
        if let Some(present) = present {
            let text = format!(
                "Container image \"{image}\" already present on machine and can be accessed by the pod"
            );
            event(Severity::Normal, "Pulled", text);
            return Ok(image_id(&present));
        }
        if container.pull == PullPolicy::Never {
            let message =
                format!("Container image \"{image}\" is not present with pull policy of Never");
            event(Severity::Warning, "ErrImageNeverPull", message.clone());
            event(Severity::Warning, "Failed", "Error: ErrImageNeverPull".to_owned());
            return Err(PullError { reason: "ErrImageNeverPull", message });
        }
    }
    event(Severity::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let begin = Instant::now();
    let secrets = pull_secrets(wanted, held).await;
    match ctx.runtime.pull_image(&reference, &secrets).await {
        Ok(pulled) => {
            let took = begin.elapsed().as_secs_f64();
            let text = format!(
                "Successfully pulled image \"{image}\" in {took:.3}s ({took:.3}s including waiting). Image size: {} bytes.",
                pulled.size.0
            );
            event(Severity::Normal, "Pulled", text);
            Ok(image_id(&pulled))
        }
        Err(error) => {
            let message = with_causes(&error);
            let reason = "ErrImagePull";
            event(
                Severity::Warning,
                "Failed",
                format!("Failed to pull image \"{image}\": {message}"),
            );
            event(Severity::Warning, "Failed", format!("Error: {reason}"));
            Err(PullError { reason, message })
        }
    }
}

fn image_id(image: &crate::runtime::Image) -> String {
    image.repo_digests.first().unwrap_or(&image.id).clone()
}

async fn pull_secrets(wanted: &Wanted, held: &PodVolumes) -> PullSecrets {
    let mut secrets = PullSecrets::default();
    let named = wanted.pod.spec.as_ref().and_then(|s| s.image_pull_secrets.clone());
    let names: Vec<String> = named.into_iter().flatten().map(|r| r.name).collect();
    // A secret that is missing is not an error here: the pull may do without.
    let sources = held.fetch(&wanted.namespace, &[], &names).await.unwrap_or_default();
    for name in &names {
        let Some(data) = sources.secrets.get(name).and_then(|s| s.data.as_ref()) else { continue };
        let added = if let Some(json) = data.get(".dockerconfigjson") {
            secrets.add_docker_config_json(&json.0)
        } else if let Some(json) = data.get(".dockercfg") {
            secrets.add_docker_cfg(&json.0)
        } else {
            continue;
        };
        if let Err(error) = added {
            tracing::warn!(secret = name, error = %error, "pull secret cannot be read");
        }
    }
    secrets
}

/// What a start needs to know beside the pod.
pub(super) struct Start {
    pub(super) container: String,
    pub(super) attempt: u32,
    pub(super) crashes: u32,
    pub(super) image_id: String,
    pub(super) pod_ips: Vec<String>,
}

/// Creates and starts a container.
pub(super) async fn start(
    ctx: &Context,
    wanted: &Wanted,
    held: &PodVolumes,
    order: Start,
) -> Result<Attempt, StartError> {
    let name = &order.container;
    let started = try_start(ctx, wanted, held, &order).await;
    if let Err(error) = &started {
        let text = format!("Error: {}", error.message);
        ctx.recorder.container(wanted, name, Severity::Warning, "Failed", text);
    }
    started
}

async fn try_start(
    ctx: &Context,
    wanted: &Wanted,
    held: &PodVolumes,
    order: &Start,
) -> Result<Attempt, StartError> {
    let begin = Instant::now();
    let config = |message: String| StartError { reason: "CreateContainerConfigError", message };
    let name = &order.container;
    let container =
        wanted.container(name).ok_or_else(|| config(format!("container {name} not found")))?;
    let (maps, secrets) = references(&container.spec);
    let sources = held.fetch(&wanted.namespace, &maps, &secrets).await.map_err(config)?;
    let facts = ctx.facts(&order.pod_ips);
    let services = ctx.services.state();
    let env =
        environment(&wanted.pod, &container.spec, &sources, &facts, &services).map_err(config)?;
    let image = container.spec.image.clone().unwrap_or_default();
    let prepared = Prepared {
        image: image.parse().map_err(|e: Error| config(e.to_string()))?,
        mounts: mounts(ctx, wanted, &container.spec, order, &env).map_err(config)?,
        env,
        attempt: order.attempt,
        log_path: log_path(ctx, wanted, name, order.attempt),
        labels: labels(wanted, order, &image),
        memory_capacity: ctx.memory_capacity,
        seccomp_root: ctx.config.seccomp_root.clone(),
    };
    let spec = container_spec(wanted, &container.spec, prepared);
    let id = ctx.runtime.create_container(&spec).await.map_err(start_error)?;
    ctx.recorder.container(wanted, name, Severity::Normal, "Created", "Container created");
    if let Err(error) = ctx.runtime.start_container(&id).await {
        if let Err(error) = ctx.runtime.remove_container(&id).await {
            tracing::warn!(container = %id, error = %error, "container not removed");
        }
        return Err(start_error(error));
    }
    ctx.metrics.container_start.observe(begin.elapsed());
    ctx.recorder.container(wanted, name, Severity::Normal, "Started", "Container started");
    Ok(Attempt {
        id: id.0,
        image,
        image_id: order.image_id.clone(),
        state: AttemptState::Running {
            started_at: Timestamp::now(),
            hooked: !container.has_post_start(),
        },
    })
}

/// An error with its causes, for people.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn start_error(error: Error) -> StartError {
    let reason = match &error {
        Error::ContainerConfig(_) => "CreateContainerConfigError",
        Error::StartContainer { .. } => "RunContainerError",
        _ => "CreateContainerError",
    };
    StartError { reason, message: with_causes(&error) }
}

fn labels(wanted: &Wanted, order: &Start, image: &str) -> BTreeMap<String, String> {
    let scripts = wanted.pod.metadata.annotations.iter().flatten();
    let mut labels: BTreeMap<_, _> = scripts
        .filter(|(key, _)| key.starts_with(SCRIPT_PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(LABEL_IMAGE.to_owned(), image.to_owned());
    labels.insert(LABEL_IMAGE_ID.to_owned(), order.image_id.clone());
    labels.insert(LABEL_CRASHES.to_owned(), order.crashes.to_string());
    labels
}

/// Where an attempt logs to.
pub fn log_path(ctx: &Context, wanted: &Wanted, container: &str, attempt: u32) -> PathBuf {
    let folder = ctx.pod_logs(&wanted.namespace, &wanted.name, &wanted.uid);
    folder.join(container).join(format!("{attempt}.log"))
}

/// Binds for volumes and the termination message.
fn mounts(
    ctx: &Context,
    wanted: &Wanted,
    container: &Container,
    order: &Start,
    env: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let vars: BTreeMap<String, String> = env.iter().cloned().collect();
    let mut list = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = volumes(wanted)
            .find(|v| v.name == mount.name)
            .ok_or_else(|| format!("volume \"{}\" not found", mount.name))?;
        let mut host_path = ctx.places.volume(&wanted.uid, volume);
        let sub = mount
            .sub_path
            .clone()
            .or_else(|| mount.sub_path_expr.as_ref().map(|e| expand(e, &vars)))
            .filter(|s| !s.is_empty());
        if let Some(sub) = sub {
            let target = ctx.places.subpath(&wanted.uid, &container.name, index);
            host_path = subpath::pin(&host_path, &sub, &target, ctx.privileged).map_err(|e| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                    mount.name, container.name
                )
            })?;
        }
        list.push(Mount {
            host_path,
            container_path: absolute(&mount.mount_path),
            read_only: mount.read_only.unwrap_or(false)
                || crate::volumes::payload::is_payload(volume),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    let path = ctx.places.termination_log(&wanted.uid, &container.name, order.attempt);
    termination_file(&path).map_err(|e| format!("failed to make the termination log: {e}"))?;
    list.push(Mount {
        host_path: path,
        container_path: absolute(
            container.termination_message_path.as_deref().unwrap_or("/dev/termination-log"),
        ),
        ..Mount::default()
    });
    Ok(list)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn termination_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Whoever runs in the container must be able to write it.
    let file = std::fs::File::create(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o666))
}

/// Waits for a container's end.
pub(super) async fn wait(
    ctx: &Context,
    wanted: &Wanted,
    container: &str,
    id: &str,
    attempt: u32,
    started_at: Option<Timestamp>,
) -> Exit {
    let id = ContainerId(id.to_owned());
    loop {
        match ctx.runtime.wait_container(&id).await {
            Ok(exit) => {
                let message = termination_message(ctx, wanted, container, attempt, exit.code != 0);
                return exit_of(&exit, started_at, message);
            }
            Err(error) if error.is_not_found() => {
                return Exit {
                    code: 137,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: Some("The container could not be located".to_owned()),
                    started_at,
                    finished_at: Timestamp::now(),
                };
            }
            Err(error) => {
                tracing::debug!(container = %id, error = %error, "wait failed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn termination_message(
    ctx: &Context,
    wanted: &Wanted,
    container: &str,
    attempt: u32,
    failed: bool,
) -> Option<String> {
    let path = ctx.places.termination_log(&wanted.uid, container, attempt);
    let mut written = Vec::new();
    let file = std::fs::File::open(path).ok();
    file.and_then(|f| f.take(MESSAGE_MAX as u64).read_to_end(&mut written).ok());
    if !written.is_empty() {
        return Some(String::from_utf8_lossy(&written).into_owned());
    }
    let spec = &wanted.container(container)?.spec;
    let fall_back =
        spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && failed;
    fall_back.then(|| log_tail(&log_path(ctx, wanted, container, attempt)))?
}

/// The end of a CRI log without its times.
fn log_tail(path: &Path) -> Option<String> {
    let (bytes, lines) = MESSAGE_FROM_LOG;
    let mut file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    // Each line carries about 45 bytes of time and stream, which do not count.
    file.seek(SeekFrom::Start(size.saturating_sub(bytes * 4))).ok()?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw).ok()?;
    let text = String::from_utf8_lossy(&raw);
    let contents: Vec<_> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let tail = contents[contents.len().saturating_sub(lines)..].join("\n");
    let cut = tail.len().saturating_sub(usize::try_from(bytes).ok()?);
    let cut = (cut..=tail.len()).find(|at| tail.is_char_boundary(*at))?;
    Some(format!("{}\n", &tail[cut..])).filter(|t| t.len() > 1)
}

/// preStop, stop signal, and SIGKILL when the grace period is over. Returns once the container has ended, which its watcher reports.
pub(super) async fn kill(
    ctx: &Context,
    wanted: &Wanted,
    container: &str,
    id: &str,
    ip: String,
    grace: Duration,
    mut shrink: watch::Receiver<Option<Duration>>,
) {
    let begin = Instant::now();
    let container_id = ContainerId(id.to_owned());
    let spec = wanted.container(container).map(|c| c.spec.clone());
    let lifecycle = spec.as_ref().and_then(|s| s.lifecycle.clone());
    let gentle = async {
        if let Some(hook) = lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
            && let Err(why) = self::hook(ctx, wanted, container, id, &ip, hook).await
        {
            let recorder = &ctx.recorder;
            recorder.container(wanted, container, Severity::Warning, "FailedPreStopHook", why);
        }
        let signal = lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
        let signal = match signal {
            Some(named) => signal_number(named),
            None => image_signal(ctx, spec.as_deref()).await,
        };
        if let Err(error) = ctx.runtime.kill_container(&container_id, signal).await {
            tracing::warn!(container = %container_id, error = %error, "stop signal not sent");
        }
        ctx.runtime.wait_container(&container_id).await
    };
    // The grace period may shrink meanwhile: a second delete with a smaller one.
    let patience = async {
        let mut deadline = begin + grace;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => break,
                changed = shrink.changed() => match changed {
                    Ok(()) => {
                        let shorter = *shrink.borrow_and_update();
                        deadline = shorter.map_or(deadline, |g| deadline.min(begin + g));
                    }
                    Err(_) => tokio::time::sleep_until(deadline).await,
                },
            }
        }
    };
    // Even without any grace the signal is sent first.
    let ended = tokio::select! {
        biased;
        ended = gentle => ended.ok(),
        () = patience => None,
    };
    if ended.is_none() {
        kill_hard(ctx, &container_id).await;
    }
}

async fn kill_hard(ctx: &Context, id: &ContainerId) {
    loop {
        let killed = ctx.runtime.kill_container(id, libc::SIGKILL).await;
        let waited = tokio::time::timeout(RETRY * 10, ctx.runtime.wait_container(id)).await;
        match waited {
            Ok(Ok(_)) => return,
            Ok(Err(error)) if error.is_not_found() => return,
            other => {
                tracing::warn!(container = %id, ?killed, ended = other.is_ok(), "container not killed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn image_signal(ctx: &Context, spec: Option<&Container>) -> i32 {
    let image = spec.and_then(|s| s.image.as_ref()).and_then(|i| i.parse::<ImageRef>().ok());
    let Some(image) = image else { return libc::SIGTERM };
    let known = ctx.runtime.image(&image).await.ok().flatten();
    known.and_then(|i| i.stop_signal).map_or(libc::SIGTERM, |s| signal_number(&s))
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
fn signal_number(name: &str) -> i32 {
    if let Ok(number) = name.parse() {
        return number;
    }
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        return 34 + offset.trim_start_matches('+').parse::<i32>().unwrap_or(0);
    }
    if let Some(offset) = bare.strip_prefix("RTMAX") {
        return 64 - offset.trim_start_matches('-').parse::<i32>().unwrap_or(0);
    }
    let full = format!("SIG{bare}");
    full.parse::<nix::sys::signal::Signal>().map_or(libc::SIGTERM, |s| s as i32)
}

/// Runs a lifecycle hook to its end.
pub(super) async fn hook(
    ctx: &Context,
    wanted: &Wanted,
    container: &str,
    id: &str,
    ip: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    let spec: Arc<Container> =
        wanted.container(container).map(|c| c.spec.clone()).unwrap_or_default();
    let target = Target {
        runtime: ctx.runtime.clone(),
        id: ContainerId(id.to_owned()),
        ip: ip.to_owned(),
        container: spec,
    };
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        return exec(&target, &command, HOOK_MAX).await.map_err(|why| {
            format!(
                "Exec lifecycle hook ({command:?}) for Container \"{container}\" in Pod \"{}\" failed - error: {why}",
                wanted.display()
            )
        });
    }
    if let Some(action) = &hook.http_get {
        return ctx.prober.http_hook(&target, action).await.map_err(|why| {
            format!(
                "HTTP lifecycle hook ({}) for Container \"{container}\" in Pod \"{}\" failed - error: {why}",
                action.path.as_deref().unwrap_or("/"),
                wanted.display()
            )
        });
    }
    Ok(())
}

/// Removes containers that have ended.
pub(super) async fn remove_records(ctx: &Context, ids: Vec<String>) {
    for id in ids {
        let id = ContainerId(id);
        if let Err(error) = ctx.runtime.remove_container(&id).await {
            // What stays is removed with the sandbox, or by the next agent.
            tracing::warn!(container = %id, error = %error, "container not removed");
        }
    }
}

/// Removes the logs of one attempt, rotated ones included.
pub(super) fn remove_logs(ctx: &Context, wanted: &Wanted, container: &str, attempt: u32) {
    let path = log_path(ctx, wanted, container, attempt);
    let Some(folder) = path.parent() else { return };
    let prefix = format!("{attempt}.log");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == prefix || name.starts_with(&format!("{prefix}.")) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

/// Deletes the pod in the API for good; it takes no other of the same name.
pub(super) async fn confirm_delete(ctx: &Context, wanted: &Wanted) {
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &wanted.namespace);
    let only_this = Preconditions { uid: Some(wanted.uid.clone()), ..Preconditions::default() };
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(only_this),
        ..DeleteParams::default()
    };
    loop {
        match api.delete(&wanted.name, &params).await {
            Ok(_) => return,
            Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => return,
            Err(error) => {
                tracing::warn!(pod = wanted.name, error = %error, "pod not deleted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let check = |name: &str, number| assert_eq!(signal_number(name), number, "{name}");
        check("SIGTERM", 15);
        check("QUIT", 3);
        check("9", 9);
        check("SIGRTMIN+3", 37);
        check("SIGRTMAX", 64);
        check("nonsense", 15);
    }
}
