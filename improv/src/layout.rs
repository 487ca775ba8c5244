//! Where a cluster keeps its things on this machine.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where root's cluster lives unless `--data-dir` says otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/improv";

/// The folders and names of one cluster; all follow from its data folder.
///
/// Two clusters with different data folders share nothing, so they stand side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What must outlive a reboot: the store, the keys, the images.
    pub data: PathBuf,
    /// What a reboot may take: sockets, pinned namespaces, pod folders.
    pub run: PathBuf,
    /// Short name of this cluster, part of interface, table and cgroup names; empty for the default one.
    pub suffix: String,
}

impl Layout {
    /// The layout of the cluster whose data folder is `data`.
    #[must_use]
    pub(crate) fn new(data: &Path) -> Self {
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        let suffix = match data == Path::new(DEFAULT_DATA_DIR) {
            true => String::new(),
            false => short_hash(&data),
        };
        let run = match suffix.as_str() {
            "" => PathBuf::from("/run/improv"),
            suffix => PathBuf::from(format!("/run/improv-{suffix}")),
        };
        Self { data, run, suffix }
    }

    /// `base` with this cluster's suffix, e.g. `improv0` or `improv-3fa91c`.
    #[must_use]
    pub(crate) fn named(&self, base: &str, default: &str) -> String {
        match self.suffix.as_str() {
            "" => default.to_owned(),
            suffix => format!("{base}-{suffix}"),
        }
    }

    /// The API server's store.
    #[must_use]
    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    /// Locked by the process that runs this cluster, and holding its pid.
    #[must_use]
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.data.join("improv.pid")
    }

    /// Where a detached `improv up` writes its log.
    #[must_use]
    pub(crate) fn log_file(&self) -> PathBuf {
        self.data.join("improv.log")
    }
}

/// Six hexadecimal digits that tell one path from another.
fn short_hash(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_share_nothing() {
        let (one, two) = (Layout::new(Path::new("/tmp/one")), Layout::new(Path::new("/tmp/two")));
        assert_ne!(one.run, two.run);
        assert_ne!(
            one.named("improv-proxy", "improv-proxy"),
            two.named("improv-proxy", "improv-proxy")
        );
    }

    #[test]
    fn the_default_cluster_has_plain_names() {
        let layout = Layout::new(Path::new(DEFAULT_DATA_DIR));
        assert_eq!(layout.run.to_str(), Some("/run/improv"));
        assert_eq!(layout.named("improv", "improv0"), "improv0");
    }
}
