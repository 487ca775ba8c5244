//! What an operator may say about auditing, in upstream's words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::SignedDuration;

use super::log::Rotation;
use crate::Config;
use crate::duration;

/// Bytes of an event, and of a batch, unless told otherwise.
///
/// Source: `newDefaultTruncateOptions` in upstream `apiserver/pkg/server/options/audit.go`.
const MAX_EVENT: usize = 100 << 10;
const MAX_BATCH: usize = 10 << 20;

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

/// How large events may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TruncateOptions {
    /// Bytes of an event; a larger one loses its objects, one that is still larger is lost.
    pub max_event_size: usize,
    /// Bytes of events that are sent at once.
    pub max_batch_size: usize,
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
    /// Limits of size, if there are any.
    pub truncate: Option<TruncateOptions>,
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
    /// Limits of size, if there are any.
    pub truncate: Option<TruncateOptions>,
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
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false)]
    pub audit_log_compress: bool,
    /// How a line of the audit log looks
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub audit_log_format: Format,
    /// Whether requests wait until their audit events are in the log
    #[arg(long, value_enum, default_value_t = Mode::Blocking)]
    pub audit_log_mode: Mode,
    /// Version of the audit events in the log
    #[arg(long, default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    pub audit_log_version: String,
    /// Audit events that may wait for the log
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: usize,
    /// Most audit events that are written at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub audit_log_batch_max_size: usize,
    /// Longest time that audit events wait for others before they are written
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::flag)]
    pub audit_log_batch_max_wait: Duration,
    /// Whether batches for the log are limited in number
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false)]
    pub audit_log_batch_throttle_enable: bool,
    /// Batches for the log a second
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub audit_log_batch_throttle_qps: f32,
    /// Batches that may be written at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_batch_throttle_burst: u32,
    /// Whether audit events in the log are cut to size
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false)]
    pub audit_log_truncate_enabled: bool,
    /// Bytes of an audit event in the log, beyond which its objects are left out
    #[arg(long, value_name = "BYTES", default_value_t = MAX_EVENT)]
    pub audit_log_truncate_max_event_size: usize,
    /// Bytes of audit events that are written at once
    #[arg(long, value_name = "BYTES", default_value_t = MAX_BATCH)]
    pub audit_log_truncate_max_batch_size: usize,
    /// Kubeconfig of a server that takes audit events
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Whether requests wait until their audit events have arrived there
    #[arg(long, value_enum, default_value_t = Mode::Batch)]
    pub audit_webhook_mode: Mode,
    /// Pause before audit events are sent again
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::flag)]
    pub audit_webhook_initial_backoff: Duration,
    /// Audit events that may wait to be sent
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Most audit events that are sent at once
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// Longest time that audit events wait for others
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::flag)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Whether batches of audit events are limited in number
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = true)]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches of audit events a second
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f32,
    /// Batches of audit events that may be sent at once
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Version of the audit events that are sent
    #[arg(long, default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    pub audit_webhook_version: String,
    /// Whether audit events that are sent are cut to size
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false)]
    pub audit_webhook_truncate_enabled: bool,
    /// Bytes of an audit event that is sent, beyond which its objects are left out
    #[arg(long, value_name = "BYTES", default_value_t = MAX_EVENT)]
    pub audit_webhook_truncate_max_event_size: usize,
    /// Bytes of audit events that are sent at once
    #[arg(long, value_name = "BYTES", default_value_t = MAX_BATCH)]
    pub audit_webhook_truncate_max_batch_size: usize,
}

impl Flags {
    /// Writes what was said into a configuration.
    pub fn apply(&self, config: &mut Config) {
        config.audit = Options {
            policy_file: self.audit_policy_file.clone(),
            log: self.audit_log_path.as_ref().map(|path| self.log(path)),
            webhook: self.audit_webhook_config_file.as_ref().map(|file| self.webhook(file)),
        };
    }

    fn log(&self, path: &Path) -> LogOptions {
        let days = self.audit_log_maxage;
        LogOptions {
            path: path.to_owned(),
            rotation: Rotation {
                max_size: self.audit_log_maxsize << 20,
                max_backups: self.audit_log_maxbackup,
                max_age: (days > 0).then(|| SignedDuration::from_hours(24 * days)),
                compress: self.audit_log_compress,
            },
            format: self.audit_log_format,
            mode: self.audit_log_mode,
            batch: BatchOptions {
                buffer_size: self.audit_log_batch_buffer_size,
                max_size: self.audit_log_batch_max_size,
                max_wait: self.audit_log_batch_max_wait,
                qps: throttle(
                    self.audit_log_batch_throttle_enable,
                    self.audit_log_batch_throttle_qps,
                ),
                burst: self.audit_log_batch_throttle_burst,
            },
            truncate: self.audit_log_truncate_enabled.then_some(TruncateOptions {
                max_event_size: self.audit_log_truncate_max_event_size,
                max_batch_size: self.audit_log_truncate_max_batch_size,
            }),
        }
    }

    fn webhook(&self, file: &Path) -> WebhookOptions {
        WebhookOptions {
            config_file: file.to_owned(),
            initial_backoff: self.audit_webhook_initial_backoff,
            mode: self.audit_webhook_mode,
            batch: BatchOptions {
                buffer_size: self.audit_webhook_batch_buffer_size,
                max_size: self.audit_webhook_batch_max_size,
                max_wait: self.audit_webhook_batch_max_wait,
                qps: throttle(
                    self.audit_webhook_batch_throttle_enable,
                    self.audit_webhook_batch_throttle_qps,
                ),
                burst: self.audit_webhook_batch_throttle_burst,
            },
            truncate: self.audit_webhook_truncate_enabled.then_some(TruncateOptions {
                max_event_size: self.audit_webhook_truncate_max_event_size,
                max_batch_size: self.audit_webhook_truncate_max_batch_size,
            }),
        }
    }
}

/// Batches a second; 0 is no limit.
fn throttle(enabled: bool, qps: f32) -> f32 {
    if enabled { qps } else { 0.0 }
}
