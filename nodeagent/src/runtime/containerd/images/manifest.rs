//! Manifests and indexes, OCI's and Docker's. Pure.

use std::collections::{BTreeMap, HashMap};

use containerd_client::types;
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Largest manifest, index or config that is taken, in bytes.
///
/// Source: containerd's own limit.
pub(super) const MAX_DOCUMENT: i64 = 8 << 20;

/// Points to a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: i64,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: String,
}

/// A manifest or an index, told apart by which list it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) config: Option<Descriptor>,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
}

impl Descriptor {
    /// Describes bytes.
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest(bytes),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            ..Self::default()
        }
    }

    pub(super) fn wire(&self) -> types::Descriptor {
        types::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.size,
            ..Default::default()
        }
    }
}

impl Document {
    pub(super) fn is_index(&self) -> bool {
        self.config.is_none()
    }

    /// Its media type, by its shape where it does not say.
    pub(super) fn media_type(&self) -> &str {
        match (self.media_type.as_str(), self.is_index()) {
            ("", true) => OCI_INDEX,
            ("", false) => OCI_MANIFEST,
            (media_type, _) => media_type,
        }
    }

    /// The manifest of an index for a platform: the exact variant first, then any.
    pub(super) fn choose(&self, architecture: &str) -> Option<(usize, &Descriptor)> {
        let (name, variant) = go_architecture(architecture);
        let fits = |descriptor: &&(usize, &Descriptor), exact: bool| match &descriptor.1.platform {
            Some(platform) => {
                platform.os == "linux"
                    && platform.architecture == name
                    && (!exact || platform.variant == variant)
            }
            None => !exact,
        };
        let all: Vec<(usize, &Descriptor)> = self.manifests.iter().enumerate().collect();
        all.iter()
            .find(|entry| fits(entry, true))
            .or_else(|| all.iter().find(|entry| fits(entry, false)))
            .copied()
    }

    /// Labels by which containerd's garbage collector walks from this document to what it needs. Of an index only
    /// the manifest number `chosen` is kept.
    pub(super) fn gc_labels(&self, chosen: Option<usize>) -> HashMap<String, String> {
        let config = self
            .config
            .iter()
            .map(|config| ("containerd.io/gc.ref.content.config".to_owned(), config));
        let layers = self
            .layers
            .iter()
            .enumerate()
            .map(|(n, layer)| (format!("containerd.io/gc.ref.content.l.{n}"), layer));
        let manifests = self
            .manifests
            .iter()
            .enumerate()
            .filter(|(n, _)| Some(*n) == chosen)
            .map(|(n, manifest)| (format!("containerd.io/gc.ref.content.m.{n}"), manifest));
        config
            .chain(layers)
            .chain(manifests)
            .map(|(key, descriptor)| (key, descriptor.digest.clone()))
            .collect()
    }
}

/// Go's names for a Rust architecture, and the usual variant.
fn go_architecture(rust: &str) -> (&str, &str) {
    match rust {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", "v8"),
        "x86" => ("386", ""),
        other => (other, ""),
    }
}

/// `sha256:…` of bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Names of the snapshots after each layer; the last one is the image's root.
///
/// Source: the OCI image specification, "Layer ChainID".
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        let next = match chain.last() {
            Some(parent) => digest(format!("{parent} {diff}").as_bytes()),
            None => diff.clone(),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Document {
        serde_json::from_value(serde_json::json!({"manifests": [
            {"digest": "sha256:a", "size": 1, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            {"digest": "sha256:b", "size": 1, "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": "sha256:c", "size": 1, "platform": {"os": "unknown", "architecture": "unknown"}},
        ]}))
        .unwrap()
    }

    #[test]
    fn the_platform_chooses() {
        let choice = |architecture| index().choose(architecture).map(|(n, _)| n);
        assert_eq!(choice("x86_64"), Some(1));
        assert_eq!(choice("aarch64"), Some(0));
        assert_eq!(choice("riscv64"), None);
    }

    #[test]
    fn labels_lead_to_what_is_kept() {
        assert_eq!(
            index().gc_labels(Some(1)),
            [("containerd.io/gc.ref.content.m.1".into(), "sha256:b".into())].into()
        );
        let manifest: Document = serde_json::from_str(
            r#"{"config": {"digest": "sha256:c", "size": 1}, "layers": [{"digest": "sha256:l", "size": 2}]}"#,
        )
        .unwrap();
        assert!(!manifest.is_index() && manifest.media_type() == OCI_MANIFEST);
        let labels = manifest.gc_labels(None);
        assert_eq!(labels["containerd.io/gc.ref.content.config"], "sha256:c");
        assert_eq!(labels["containerd.io/gc.ref.content.l.0"], "sha256:l");
    }

    #[test]
    fn chains_depend_on_all_layers_below() {
        let chain = chain_ids(&["sha256:1".into(), "sha256:2".into()]);
        assert_eq!(chain[0], "sha256:1");
        assert_eq!(chain[1], digest(b"sha256:1 sha256:2"));
        assert!(chain_ids(&[]).is_empty());
    }
}
