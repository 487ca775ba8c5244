//! What can go wrong in a runtime, in the words that a user finds in the pod's status.

use std::time::Duration;

/// Result of a runtime operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause that is kept for the log.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a runtime operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Status reason `InvalidImageName`.
    #[error("invalid image name {image:?}: {reason}")]
    InvalidImageName {
        /// As the user wrote it.
        image: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// Status reason `ErrImagePull`: not found, no rights, wrong digest, no disk space …
    #[error("failed to pull image {image}: {reason}")]
    PullImage {
        /// The full reference.
        image: String,
        /// What the registry or the content store said.
        reason: String,
    },
    /// Status reason `RegistryUnavailable`: the registry cannot be reached at all.
    #[error("registry {registry} is unavailable: {reason}")]
    RegistryUnavailable {
        /// Host and port.
        registry: String,
        /// Why the connection failed.
        reason: String,
    },
    /// The image is not present (status reason `ErrImageNeverPull` where the policy is Never).
    #[error("image {0} is not present")]
    ImageNotPresent(String),
    /// The archive cannot be loaded.
    #[error("failed to import {path}: {reason}")]
    Import {
        /// The archive.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Event reason `FailedCreatePodSandBox`.
    #[error("failed to create pod sandbox: {step}: {reason}")]
    CreateSandbox {
        /// What was being made.
        step: &'static str,
        /// Why it could not be made.
        reason: String,
    },
    /// Event reason `FailedKillPod`; the sandbox is still there and removing it may be tried again.
    #[error("failed to remove pod sandbox: {step}: {reason}")]
    RemoveSandbox {
        /// What was being removed.
        step: &'static str,
        /// Why it could not be removed.
        reason: String,
    },
    /// Status reason `CreateContainerConfigError`: nothing that the runtime could do meets the spec.
    #[error("{0}")]
    ContainerConfig(String),
    /// Status reason `CreateContainerError`.
    #[error("failed to create container {name}: {reason}")]
    CreateContainer {
        /// Name in the pod.
        name: String,
        /// What containerd or runc said.
        reason: String,
    },
    /// Status reason `RunContainerError`.
    #[error("failed to start container {id}: {reason}")]
    StartContainer {
        /// The container.
        id: String,
        /// What containerd or runc said.
        reason: String,
    },
    /// The process could not be started in the container. Exit code 126 or 127 in the words of a shell.
    #[error("failed to exec in container: {reason}")]
    Exec {
        /// 127 if the program is not there, else 126.
        code: i32,
        /// What runc said.
        reason: String,
    },
    /// A command did not end in time and was killed.
    #[error("command timed out after {0:?}")]
    ExecTimeout(Duration),
    /// There is no such container, sandbox or port.
    #[error("{what} {name} not found")]
    NotFound {
        /// Kind of the object.
        what: &'static str,
        /// Its name or id.
        name: String,
    },
    /// Nothing answers on the pod's port.
    #[error("failed to connect to localhost:{port} inside the pod: {reason}")]
    Dial {
        /// The port.
        port: u16,
        /// Why.
        reason: String,
    },
    /// The runtime does not answer now; try again later.
    #[error("container runtime is unavailable: {0}")]
    Unavailable(String),
    /// Anything else.
    #[error("failed to {operation}")]
    Runtime {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Cause,
    },
}

impl Error {
    /// An [`Error::Runtime`].
    pub fn runtime(operation: &'static str, source: impl Into<Cause>) -> Self {
        Self::Runtime { operation, source: source.into() }
    }

    /// Whether the object was not there (in most clean-up code a success).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
