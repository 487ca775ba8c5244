//! Creates and starts a container.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::{log_path, with_causes};
use crate::events::Severity;
use crate::pods::context::Context;
use crate::pods::env::{environment, expand, references};
use crate::pods::observed::{Attempt, AttemptState, Wanted};
use crate::pods::spec::{
    LABEL_CRASHES, LABEL_IMAGE, LABEL_IMAGE_ID, Prepared, container_spec, resources_label,
};
use crate::runtime::hollow::SCRIPT_PREFIX;
use crate::runtime::{Error, Mount, Propagation};
use crate::volumes::{PodVolumes, subpath, volumes};

/// Why a container was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pods) struct StartError {
    /// `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`.
    pub(in crate::pods) reason: &'static str,
    /// For people.
    pub(in crate::pods) message: String,
}

/// What a start needs to know beside the pod.
pub(in crate::pods) struct Start {
    pub(in crate::pods) container: String,
    pub(in crate::pods) attempt: u32,
    pub(in crate::pods) crashes: u32,
    pub(in crate::pods) image_id: String,
    pub(in crate::pods) pod_ips: Vec<String>,
}

/// Creates and starts a container.
pub(in crate::pods) async fn start(
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
        labels: labels(wanted, &container.spec, order, &image),
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
        resources: container.spec.resources.clone().unwrap_or_default(),
        state: AttemptState::Running {
            started_at: Timestamp::now(),
            hooked: !container.has_post_start(),
        },
    })
}

fn start_error(error: Error) -> StartError {
    let reason = match &error {
        Error::ContainerConfig(_) => "CreateContainerConfigError",
        Error::StartContainer { .. } => "RunContainerError",
        _ => "CreateContainerError",
    };
    StartError { reason, message: with_causes(&error) }
}

fn labels(
    wanted: &Wanted,
    container: &Container,
    order: &Start,
    image: &str,
) -> BTreeMap<String, String> {
    let scripts = wanted.pod.metadata.annotations.iter().flatten();
    let mut labels: BTreeMap<_, _> = scripts
        .filter(|(key, _)| key.starts_with(SCRIPT_PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(LABEL_IMAGE.to_owned(), image.to_owned());
    labels.insert(LABEL_IMAGE_ID.to_owned(), order.image_id.clone());
    labels.insert(LABEL_CRASHES.to_owned(), order.crashes.to_string());
    let (key, value) = resources_label(&container.resources.clone().unwrap_or_default());
    labels.insert(key, value);
    labels
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
    let path = super::termination_log(ctx, wanted, &container.name, order.attempt);
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
