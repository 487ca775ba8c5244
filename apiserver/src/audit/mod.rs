//! Auditing: what was asked for by whom, and what became of it, for those who look later.
//!
//! [`policy`] decides what is recorded, [`event`] is what a record looks like, [`context`] gathers it while
//! the request is on its road, and [`backend`] carries it away. Without a policy nothing of this costs
//! anything but the `Audit-Id` of each answer.
//!
//! Source: kubernetes.io, "Auditing".

pub mod backend;
pub mod context;
pub mod event;
pub mod flags;
pub mod layer;
pub mod log;
mod metrics;
pub mod policy;
mod truncate;
pub mod webhook;

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backend::{Backend, Destination, Target};
use self::event::Event;
use self::log::Log;
use self::metrics::Metrics;
use self::policy::{Policy, PolicyError};
use self::webhook::{Webhook, WebhookError};

pub use context::{annotate, impersonated, request_body};
pub use flags::{Flags, Options};

/// Auditing that cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy is wrong.
    #[error("the audit policy cannot be used: {0}")]
    Policy(PolicyError),
    /// The log cannot be written.
    #[error("failed to open the audit log {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The webhook cannot be used.
    #[error("{0}")]
    Webhook(WebhookError),
}

/// A policy and the backends that its events go to.
pub struct Audit {
    policy: Policy,
    backends: Vec<Backend>,
    metrics: Metrics,
    tasks: TaskTracker,
    /// Ends the tasks, once they have delivered what is left.
    stop: CancellationToken,
}

impl Audit {
    /// Reads the policy and opens the backends; nothing, if there is no policy or no backend.
    ///
    /// # Errors
    /// [`AuditError`] names the file that cannot be used.
    pub async fn start(
        options: &Options,
        registry: &mut Registry,
    ) -> Result<Option<Self>, AuditError> {
        let metrics = Metrics::register(registry);
        let policy = options.policy_file.as_deref().map(Policy::read).transpose();
        let policy = policy.map_err(AuditError::Policy)?;
        let mut targets = Vec::new();
        if let Some(log) = &options.log {
            let opened = Log::open(&log.path, log.rotation.clone());
            let opened =
                opened.map_err(|source| AuditError::Log { path: log.path.clone(), source })?;
            targets.push((Target::Log(opened, log.format), log.mode, log.batch, log.truncate));
        }
        if let Some(hook) = &options.webhook {
            let opened = Webhook::open(&hook.config_file, hook.initial_backoff).await;
            let opened = opened.map_err(AuditError::Webhook)?;
            targets.push((Target::Webhook(opened), hook.mode, hook.batch, hook.truncate));
        }
        let policy = match (policy, targets.is_empty()) {
            (Some(policy), false) => policy,
            (None, true) => return Ok(None),
            (Some(_), true) => {
                tracing::warn!(
                    "an audit policy, but neither --audit-log-path nor --audit-webhook-config-file: nothing is audited"
                );
                return Ok(None);
            }
            (None, false) => {
                tracing::warn!("an audit backend, but no --audit-policy-file: nothing is audited");
                return Ok(None);
            }
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let backends = targets.into_iter().map(|(target, mode, batch, truncate)| {
            let target = Destination::new(target, truncate, metrics.clone());
            let (backend, feed) = Backend::new(target, mode, batch, stop.clone());
            tasks.spawn(feed);
            backend
        });
        let backends = backends.collect();
        Ok(Some(Self { policy, backends, metrics, tasks, stop }))
    }

    /// Delivers what is left.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn send(&self, event: Event) -> Result<(), String> {
        self.metrics.made();
        let event = Arc::new(event);
        for backend in &self.backends {
            backend.accept(&event).await?;
        }
        Ok(())
    }

    fn send_late(&self, event: Event) {
        self.metrics.made();
        let event = Arc::new(event);
        self.backends.iter().for_each(|backend| backend.accept_late(&event));
    }
}
