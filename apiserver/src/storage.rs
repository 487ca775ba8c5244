//! Which store the server stands on, and what is encrypted in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use parking_lot::Mutex;
use store::encryption::{self, EncryptedStore, Rules};
use store::{EmbeddedStore, Error, EtcdOptions, EtcdStore, EtcdTls, Expiry, MemoryStore, Store};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::duration;
use crate::identity::file::{self, Problem, Reload};

/// Pause after values that could not be written anew.
const RENEW_AFTER: Duration = Duration::from_secs(5);

/// Where events are in the store.
const EVENTS: &str = "/registry/core/events/";

/// Where objects are kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// An etcd cluster; without it, the data folder or memory.
    pub etcd: Option<EtcdOptions>,
    /// File of an `EncryptionConfiguration`.
    pub encryption: Option<PathBuf>,
    /// Whether changes of that file take effect at once.
    pub reload_encryption: bool,
    /// Life of an event after it was last written.
    pub event_ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let event_ttl = Duration::from_secs(3600);
        Self { etcd: None, encryption: None, reload_encryption: false, event_ttl }
    }
}

/// Flags of the storage.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Storage")]
#[group(id = "storage")]
pub struct Flags {
    /// URLs of etcd, with commas between them; without it, the store is a file in the data folder
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Authorities that etcd's certificate must come from
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate to show to etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the certificate to show to etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd begin with
    #[arg(long, value_name = "PREFIX", default_value = "/registry")]
    pub etcd_prefix: String,
    /// How often etcd's history is compacted, as 5m or 90s; 0 leaves that to others
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration::flag)]
    pub etcd_compaction_interval: Duration,
    /// What to encrypt at rest, and how
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Take over changes of that file while the server runs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, requires_if("true", "encryption_provider_config"))]
    pub encryption_provider_config_automatic_reload: bool,
    /// How long events are kept after they were last written
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration::flag)]
    pub event_ttl: Duration,
}

impl Flags {
    /// Writes what was said into the options.
    pub fn apply(&self, options: &mut Options) {
        options.etcd = (!self.etcd_servers.is_empty()).then(|| EtcdOptions {
            endpoints: self.etcd_servers.clone(),
            tls: EtcdTls {
                ca: self.etcd_cafile.clone(),
                certificate: self.etcd_certfile.clone(),
                key: self.etcd_keyfile.clone(),
            },
            prefix: self.etcd_prefix.clone(),
            compaction_interval: Some(self.etcd_compaction_interval).filter(|i| !i.is_zero()),
            expiry: Some(Expiry { prefix: EVENTS.to_owned(), ttl: self.event_ttl }),
        });
        options.encryption.clone_from(&self.encryption_provider_config);
        options.reload_encryption = self.encryption_provider_config_automatic_reload;
        options.event_ttl = self.event_ttl;
    }
}

/// A store, and what is encrypted in it.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) encryption: Option<Arc<Encryption>>,
}

/// Opens the store that the options name.
///
/// # Errors
/// Those of the store; [`Error::Options`] for a wrong encryption configuration, with file, line and reason.
pub(crate) async fn open(options: &Options, data_dir: Option<&Path>) -> Result<Opened, Error> {
    // Before anything else: with a wrong configuration nothing must be read or written.
    let rules = options.encryption.as_deref().map(rules).transpose();
    let rules = rules.map_err(|problem| Error::Options(problem.to_string()))?;
    let store: Arc<dyn Store> = match (&options.etcd, data_dir) {
        (Some(etcd), _) => Arc::new(EtcdStore::connect(etcd).await?),
        (None, Some(data)) => {
            Arc::new(EmbeddedStore::open(&data.join("store"), store::Options::default())?)
        }
        (None, None) => Arc::new(MemoryStore::new()),
    };
    let (Some((text, rules)), Some(file)) = (rules, options.encryption.clone()) else {
        return Ok(Opened { store, encryption: None });
    };
    let store = Arc::new(EncryptedStore::new(store, rules));
    let (known, changed) = (Mutex::new(text), Notify::new());
    let encryption = Encryption { store: store.clone(), file, known, changed };
    Ok(Opened { store, encryption: Some(Arc::new(encryption)) })
}

fn rules(path: &Path) -> Result<(String, Rules), Problem> {
    let text = file::read(path)?;
    let rules = encryption::parse(&text).map_err(|error| {
        let line = usize::try_from(error.line).unwrap_or_default();
        Problem::in_line(path, line, error.reason)
    })?;
    Ok((text, rules))
}

/// What is encrypted, and the file that says so.
pub(crate) struct Encryption {
    store: Arc<EncryptedStore>,
    file: PathBuf,
    /// The file's text when it was last looked at.
    known: Mutex<String>,
    changed: Notify,
}

impl Reload for Encryption {
    fn kind(&self) -> &'static str {
        "encryption"
    }

    fn reload(&self) -> Result<bool, Problem> {
        let text = file::read(&self.file)?;
        let mut known = self.known.lock();
        if *known == text {
            return Ok(false);
        }
        // Remembered even if it is bad, so that each change is told once.
        *known = text;
        let (text, rules) = rules(&self.file)?;
        *known = text;
        self.store.set_rules(rules);
        self.changed.notify_one();
        Ok(true)
    }
}

/// Writes anew what the first provider did not write, now and after each change of the file.
pub(crate) async fn keep_encrypted(encryption: Arc<Encryption>) {
    loop {
        match encryption.store.renew("/registry/").await {
            Ok(n_renewed) => {
                info!(n_renewed, "values are encrypted by the first provider");
                encryption.changed.notified().await;
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "not all values are encrypted by the first provider"
                );
                tokio::time::sleep(RENEW_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_refused_by_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("encryption.yaml");
        std::fs::write(
            &file,
            "apiVersion: apiserver.config.k8s.io/v1\nkind: Wrong\nresources: []\n",
        )
        .unwrap();
        let text = rules(&file).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("encryption.yaml:2: kind \"Wrong\""), "{text}");
    }
}
