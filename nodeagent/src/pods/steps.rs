//! Carries out the steps of a plan. No choice is left here; what went wrong is put into the API's words.

mod end;
mod pull;
mod resize;
mod start;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use kit::call;
use kube::Api;
use kube::api::DeleteParams;
use tokio::time::Instant;

use crate::pods::context::Context;
use crate::pods::observed::Wanted;
use crate::pods::spec::sandbox_spec;
use crate::probes::action::{Target, exec};
use crate::runtime::ContainerId;

pub(super) use end::{kill, wait};
pub(super) use pull::{PullError, pull};
pub(super) use resize::{Resized, resize};
pub(super) use start::{Start, StartError, start};

/// Longest that a command of a hook may run when nothing else bounds it.
const HOOK_MAX: Duration = Duration::from_secs(24 * 3600);
/// Between two tries of what must succeed in the end.
const RETRY: Duration = Duration::from_secs(1);

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

/// Where an attempt writes its termination message: in the sandbox, where its size is bounded, if there is a place.
fn termination_log(ctx: &Context, wanted: &Wanted, container: &str, attempt: u32) -> PathBuf {
    match ctx.runtime.sandbox_files(&wanted.uid) {
        Some(files) => files.join(format!("termination.{container}.{attempt}")),
        None => ctx.places.termination_log(&wanted.uid, container, attempt),
    }
}

/// Where an attempt logs to.
pub fn log_path(ctx: &Context, wanted: &Wanted, container: &str, attempt: u32) -> PathBuf {
    let folder = ctx.pod_logs(&wanted.namespace, &wanted.name, &wanted.uid);
    folder.join(container).join(format!("{attempt}.log"))
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

/// Removes the logs of one attempt, rotated ones included, and its termination message.
pub(super) fn remove_logs(ctx: &Context, wanted: &Wanted, container: &str, attempt: u32) {
    std::fs::remove_file(termination_log(ctx, wanted, container, attempt)).ok();
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
    let only_this = call::only(Some(wanted.uid.clone()));
    let params = DeleteParams { grace_period_seconds: Some(0), ..only_this };
    loop {
        match api.delete(&wanted.name, &params).await {
            Ok(_) => return,
            Err(error) if call::is_gone(&error) => return,
            Err(error) => {
                tracing::warn!(pod = wanted.name, error = %error, "pod not deleted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
