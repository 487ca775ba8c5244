//! What pods have left behind that no agent looks after any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::adopt::Inherited;
use super::context::Context;
use crate::volumes;

/// What pods had left on the disk before any worker of this agent ran.
#[derive(Default)]
pub struct Traces {
    /// UIDs of pods with volumes.
    volumes: BTreeSet<String>,
    /// Folders of logs, `<namespace>_<name>_<uid>`.
    logs: BTreeSet<String>,
}

impl Traces {
    /// Reads what is there now.
    pub fn read(ctx: &Context) -> Self {
        let logs = std::fs::read_dir(&ctx.config.log_dir).into_iter().flatten().flatten();
        let logs = logs.map(|e| e.file_name().to_string_lossy().into_owned());
        Self {
            volumes: ctx.places.pods(),
            logs: logs.filter(|name| name.matches('_').count() == 2).collect(),
        }
    }

    /// The same without those of pods that are present.
    #[must_use]
    pub fn without(mut self, present: &BTreeSet<String>) -> Self {
        self.volumes.retain(|uid| !present.contains(uid));
        self.logs.retain(|name| name.rsplit('_').next().is_some_and(|uid| !present.contains(uid)));
        self
    }
}

/// Takes away what no pod of the API owns: sandboxes, containers, volumes, logs.
pub async fn remove(ctx: Arc<Context>, orphans: BTreeMap<String, Inherited>, traces: Traces) {
    for (uid, inherited) in orphans {
        tracing::info!(pod_uid = uid, "removing a pod that the API does not know");
        for container in inherited.containers {
            if let Err(error) = ctx.runtime.remove_container(&container.id).await {
                tracing::warn!(container = %container.id, error = %error, "container not removed");
            }
        }
        if let Err(error) = ctx.runtime.remove_sandbox(&uid).await {
            tracing::warn!(pod_uid = uid, error = %error, "sandbox not removed");
        }
    }
    let cleaning = tokio::task::spawn_blocking(move || {
        for uid in traces.volumes {
            if let Err(error) = volumes::remove_pod(&ctx.places, &uid) {
                tracing::warn!(pod_uid = uid, error = %error, "volumes not removed");
            }
        }
        for name in traces.logs {
            if let Err(error) = std::fs::remove_dir_all(ctx.config.log_dir.join(&name)) {
                tracing::warn!(name, error = %error, "logs not removed");
            }
        }
    });
    if let Err(error) = cleaning.await {
        tracing::warn!(error = %error, "leftovers not removed");
    }
}
