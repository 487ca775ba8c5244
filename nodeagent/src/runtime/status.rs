//! What a runtime reports.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Bytes, ImageRef, PodIdentity};

/// Name and version of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// As `containerd`.
    pub name: String,
    /// As `1.6.20`.
    pub version: String,
}

/// An image that is present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Digest of the config, `sha256:…`.
    pub id: String,
    /// All names (tags) under which it is present.
    pub names: Vec<String>,
    /// `name@digest` of the manifest, as containerStatuses[].imageID shows it.
    pub repo_digests: Vec<String>,
    /// Size of the blobs as stored, compressed.
    pub size: Bytes,
    /// `USER` of the image, empty for root.
    pub user: String,
    /// `STOPSIGNAL` of the image.
    pub stop_signal: Option<String>,
    /// Entrypoint of the image.
    pub entrypoint: Vec<String>,
    /// Cmd of the image.
    pub cmd: Vec<String>,
    /// Folders that the image declares as volumes.
    pub volumes: Vec<String>,
}

/// Id of a container in the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Which pod.
    pub pod: PodIdentity,
    /// Addresses; empty with host network.
    pub ips: Vec<IpAddr>,
    /// Whether namespaces and network are whole. If not (half made, or the node was rebooted): remove it and make it again.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + n if signal n ended it.
    pub code: i32,
    /// When.
    pub finished_at: Timestamp,
    /// Whether the first process fell to the memory limit.
    pub oom_killed: bool,
    /// Why the code is not the process's own (its shim was lost), else empty.
    pub message: String,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Started.
    Running {
        /// When.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// When it was started; `None` if it never was.
        started_at: Option<Timestamp>,
        /// How it ended.
        exit: Exit,
    },
}

/// A container as the runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Id in the runtime.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodIdentity,
    /// Name in the pod.
    pub name: String,
    /// Counts the restarts, from 0.
    pub attempt: u32,
    /// The image it was made from.
    pub image: ImageRef,
    /// [`Image::id`] of it.
    pub image_id: String,
    /// Where its log is.
    pub log_path: PathBuf,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where it is in its life.
    pub state: ContainerState,
    /// As given at creation.
    pub labels: BTreeMap<String, String>,
}

/// What a container or a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time since its start, in nanoseconds.
    pub cpu_nanos: u64,
    /// All memory charged to it, page cache included.
    pub memory_usage: Bytes,
    /// Memory that cannot be reclaimed easily: usage without inactive file pages.
    pub memory_working_set: Bytes,
    /// Anonymous memory.
    pub memory_rss: Bytes,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes received by the pod since its start (pods only).
    pub network_received: Option<Bytes>,
    /// Bytes sent by the pod since its start (pods only).
    pub network_sent: Option<Bytes>,
}
