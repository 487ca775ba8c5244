//! Which plugins run, and what they are told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

/// Which plugins run, and their configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Names of plugins that run beside those which run by default.
    pub enable: Vec<String>,
    /// Names of plugins that do not run.
    pub disable: Vec<String>,
    /// An `AdmissionConfiguration`, with the configuration of single plugins or the names of their files.
    pub config_file: Option<PathBuf>,
    /// Seconds for which pods stay on a node that is gone.
    pub tolerations: TolerationSeconds,
}

/// Seconds for which a pod stays on a node that is gone, unless it says otherwise.
#[derive(Debug, Clone, Copy)]
pub struct TolerationSeconds {
    /// `node.kubernetes.io/not-ready`.
    pub not_ready: i64,
    /// `node.kubernetes.io/unreachable`.
    pub unreachable: i64,
}

impl Default for TolerationSeconds {
    fn default() -> Self {
        Self { not_ready: 300, unreachable: 300 }
    }
}

/// Flags of admission.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Admission")]
pub struct AdmissionFlags {
    /// Admission plugins to run beside those that run by default; separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run; separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// File with an AdmissionConfiguration
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// Seconds for which pods stay on a node that is not ready, unless they say otherwise
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds for which pods stay on a node that is unreachable, unless they say otherwise
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
}

impl AdmissionFlags {
    /// Writes what was said into the options.
    pub fn apply(&self, options: &mut Options) {
        options.enable.clone_from(&self.enable_admission_plugins);
        options.disable.clone_from(&self.disable_admission_plugins);
        options.config_file.clone_from(&self.admission_control_config_file);
        options.tolerations = TolerationSeconds {
            not_ready: self.default_not_ready_toleration_seconds,
            unreachable: self.default_unreachable_toleration_seconds,
        };
    }
}

/// Why a server cannot start with its admission options.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// No plugin has this name.
    #[error("admission plugin {0:?} is unknown; plugins are: {1}")]
    Unknown(String, String),
    /// A plugin of upstream that this server does not have.
    #[error("admission plugin {0:?} cannot be enabled: this server does not have it")]
    Absent(String),
    /// The flags contradict each other.
    #[error("{0} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Both(String),
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not say what it should.
    #[error("failed to understand {path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line if it is known.
        reason: String,
    },
    /// A plugin's configuration makes no sense.
    #[error("failed to configure admission plugin {plugin}: {reason}")]
    Plugin {
        /// Its name.
        plugin: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// The configurations of single plugins by name.
///
/// # Errors
/// A file cannot be read, or says something else.
///
/// Source: `AdmissionConfiguration` of `apiserver.config.k8s.io/v1`.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Value>, OptionError> {
    let document = yaml(path)?;
    let kind = document["kind"].as_str().unwrap_or_default();
    let version = document["apiVersion"].as_str().unwrap_or_default();
    let known = matches!(version, "apiserver.config.k8s.io/v1" | "apiserver.k8s.io/v1alpha1");
    let wrong = |reason: String| OptionError::Parse { path: path.to_owned(), reason };
    if kind != "AdmissionConfiguration" || !known {
        let expected = "AdmissionConfiguration of apiserver.config.k8s.io/v1";
        return Err(wrong(format!("it holds {kind:?} of {version:?}, not {expected}")));
    }
    let mut out = BTreeMap::new();
    for plugin in document["plugins"].as_array().into_iter().flatten() {
        let name = plugin["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            return Err(wrong("a plugin has no name".to_owned()));
        }
        let file = plugin["path"].as_str().filter(|path| !path.is_empty());
        let configuration = match (&plugin["configuration"], file) {
            (Value::Null, None) => continue,
            // Beside the configuration file, unless it is absolute.
            (Value::Null, Some(file)) => yaml(&path.parent().unwrap_or(path).join(file))?,
            (inline, _) => inline.clone(),
        };
        if out.insert(name.to_owned(), configuration).is_some() {
            return Err(wrong(format!("plugin {name:?} is configured twice")));
        }
    }
    Ok(out)
}

fn yaml(path: &Path) -> Result<Value, OptionError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| OptionError::Read { path: path.to_owned(), source })?;
    serde_saphyr::from_str(&text)
        .map_err(|error| OptionError::Parse { path: path.to_owned(), reason: error.to_string() })
}
