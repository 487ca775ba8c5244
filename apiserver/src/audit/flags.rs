//! What an operator may say about auditing, in upstream's words.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::SignedDuration;

use super::log::Rotation;
use crate::Config;
use crate::fairness::flags::duration;

/// Whether requests wait for their events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Events are sent in batches; a full buffer loses them.
    Batch,
    /// A request goes on when its event has arrived, or has failed to.
    Blocking,
    /// A request whose event is lost is refused.
    BlockingStrict,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A JSON object.
    Json,
    /// A text for people.
    Legacy,
}

/// How events are put together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchOptions {
    /// Events that may wait.
    pub buffer_size: usize,
    /// Most events of a batch.
    pub max_size: usize,
    /// Longest time that an event waits for others.
    pub max_wait: Duration,
    /// Batches a second; 0 is no limit.
    pub qps: f32,
    /// Batches that may go at once.
    pub burst: u32,
}

/// The log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogOptions {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// When files are exchanged and deleted.
    pub rotation: Rotation,
    /// How a line looks.
    pub format: Format,
    /// Whether requests wait.
    pub mode: Mode,
    /// For the batch mode.
    pub batch: BatchOptions,
}

/// The webhook.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookOptions {
    /// Its kubeconfig.
    pub config_file: PathBuf,
    /// Pause before the second attempt.
    pub initial_backoff: Duration,
    /// Whether requests wait.
    pub mode: Mode,
    /// For the batch mode.
    pub batch: BatchOptions,
}

/// What is audited, and where to. Without a policy nothing is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// The policy.
    pub policy_file: Option<PathBuf>,
    /// The log, if there is one.
    pub log: Option<LogOptions>,
    /// The webhook, if there is one.
    pub webhook: Option<WebhookOptions>,
}

/// Flags of auditing.
#[derive(Debug, Clone, Args)]
#[group(id = "audit")]
pub struct Flags {
    /// File with the audit policy (audit.k8s.io/v1 Policy); without it nothing is audited
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File for audit events; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that old audit logs are kept; 0 keeps them for ever
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: i64,
    /// Old audit logs that are kept; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// Size in megabytes at which an audit log is exchanged for a new one; 0 is 100
    #[arg(long, value_name = "MB", default_value_t = 0)]
    pub audit_log_maxsize: u64,
    /// Compress old audit logs
    #[arg(long)]
    pub audit_log_compress: bool,
    /// How a line of the audit log looks
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub audit_log_format: Format,
    /// Whether requests wait until their audit events are in the log
    #[arg(long, value_enum, default_value_t = Mode::Blocking)]
    pub audit_log_mode: Mode,
    /// Kubeconfig of a server that takes audit events
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Whether requests wait until their audit events have arrived there
    #[arg(long, value_enum, default_value_t = Mode::Batch)]
    pub audit_webhook_mode: Mode,
    /// Pause before audit events are sent again
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub audit_webhook_initial_backoff: Duration,
    /// Audit events that may wait to be sent
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Most audit events that are sent at once
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// Longest time that audit events wait for others
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Batches of audit events a second
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f32,
    /// Batches of audit events that may be sent at once
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: u32,
}

impl Flags {
    /// Writes what was said into a configuration.
    pub fn apply(&self, config: &mut Config) {
        let days = self.audit_log_maxage;
        let log = self.audit_log_path.as_ref().map(|path| LogOptions {
            path: path.clone(),
            rotation: Rotation {
                max_size: self.audit_log_maxsize << 20,
                max_backups: self.audit_log_maxbackup,
                max_age: (days > 0).then(|| SignedDuration::from_hours(24 * days)),
                compress: self.audit_log_compress,
            },
            format: self.audit_log_format,
            mode: self.audit_log_mode,
            // Lines need no company.
            batch: BatchOptions {
                buffer_size: 10_000,
                max_size: 1,
                max_wait: Duration::ZERO,
                qps: 0.0,
                burst: 1,
            },
        });
        let webhook = self.audit_webhook_config_file.as_ref().map(|file| WebhookOptions {
            config_file: file.clone(),
            initial_backoff: self.audit_webhook_initial_backoff,
            mode: self.audit_webhook_mode,
            batch: BatchOptions {
                buffer_size: self.audit_webhook_batch_buffer_size,
                max_size: self.audit_webhook_batch_max_size,
                max_wait: self.audit_webhook_batch_max_wait,
                qps: self.audit_webhook_batch_throttle_qps,
                burst: self.audit_webhook_batch_throttle_burst,
            },
        });
        config.audit = Options { policy_file: self.audit_policy_file.clone(), log, webhook };
    }
}
