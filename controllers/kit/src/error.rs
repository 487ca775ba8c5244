//! What can go wrong in a player outside of its reconciles.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Any error that a caller of [`crate`] sees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a usable kubeconfig nor an in-cluster configuration.
    #[error("failed to configure the client; give --kubeconfig, or run in a pod")]
    ClientConfig {
        /// What was tried.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kubeconfig named on the command line cannot be used.
    #[error("failed to use kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<kube::config::KubeconfigError>,
    },
    /// A client could not be built from its configuration.
    #[error("failed to build the client")]
    Client {
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The health and metrics server cannot listen.
    #[error(
        "failed to listen on {address} for health and metrics; choose another with --health-address"
    )]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The health and metrics server broke.
    #[error("health and metrics server failed")]
    Serve {
        /// How.
        source: std::io::Error,
    },
    /// A request about the Lease failed in a way that waiting does not mend.
    #[error("failed to {operation} lease {lease}")]
    Lease {
        /// `get`, `create` or `update`.
        operation: &'static str,
        /// `namespace/name`.
        lease: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// A value has no YAML form.
    #[error("failed to write YAML")]
    Yaml {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An option has a value that its player does not understand.
    #[error("--{option} does not take {value:?}: {reason}")]
    Option {
        /// Its name, without dashes.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A reflector's task ended, which happens only when its runtime stops.
    #[error("reflector of {kind} stopped")]
    ReflectorStopped {
        /// The kind it watched.
        kind: String,
    },
    /// A supervised task panicked.
    #[error("task {task} panicked")]
    TaskPanicked {
        /// Its name.
        task: &'static str,
        /// The panic.
        source: Box<tokio::task::JoinError>,
    },
    /// A supervised task did not end in time.
    #[error("a task did not stop within {grace:?}")]
    TaskStuck {
        /// The time it had.
        grace: Duration,
    },
    /// A player failed for a reason of its own.
    #[error("player failed")]
    Player {
        /// The player's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Wraps a player's own error.
    pub fn player(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Player { source: Box::new(source) }
    }
}

/// An error with its whole chain of causes on one line, for logs.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
