//! The recorded discovery facts: which types a Kubernetes 1.36 server serves, and in which order.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// `data/discovery.json`, read once.
pub static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../data/discovery.json")).unwrap_or_else(|error| {
        // The file is part of the program; a test reads it.
        panic!("data/discovery.json is not readable: {error}")
    })
});

/// What a freshly started upstream server answers to discovery.
#[derive(Debug, Deserialize)]
pub struct Facts {
    /// Answer of `GET /`.
    pub root_paths: Vec<String>,
    /// Group names in the order of the aggregated document; the core group is empty.
    pub group_order_aggregated: Vec<String>,
    /// Versions of each group, in order.
    pub groups: BTreeMap<String, GroupFacts>,
    /// By `group/version` (`v1` for the core group).
    pub resources: BTreeMap<String, VersionFacts>,
}

/// Versions of one group.
#[derive(Debug, Deserialize)]
pub struct GroupFacts {
    /// Best first.
    pub versions: Vec<String>,
    /// The one that clients take.
    pub preferred: String,
}

/// Resources of one group version.
#[derive(Debug, Deserialize)]
pub struct VersionFacts {
    /// Order of the plain list, subresources included.
    pub list_order: Vec<String>,
    /// Order of the aggregated document.
    pub aggregated_order: Vec<String>,
    /// By plural name.
    pub items: BTreeMap<String, ResourceFacts>,
}

/// One resource.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceFacts {
    /// Kind.
    pub kind: String,
    /// Lower-case singular.
    pub singular_name: String,
    /// False for cluster scope.
    pub namespaced: bool,
    /// In discovery's order.
    pub verbs: Vec<String>,
    /// Such as `po`.
    #[serde(default)]
    pub short_names: Vec<String>,
    /// Such as `all`.
    #[serde(default)]
    pub categories: Vec<String>,
    /// Upstream's hash, which clients compare between servers.
    #[serde(default)]
    pub storage_version_hash: String,
    /// Group, version, kind as the aggregated document has them.
    pub response_kind: [String; 3],
    /// By name.
    #[serde(default)]
    pub subresources: BTreeMap<String, SubresourceFacts>,
}

/// One subresource.
#[derive(Debug, Clone, Deserialize)]
pub struct SubresourceFacts {
    /// Kind of its bodies.
    pub kind: String,
    /// Group of its bodies, where it differs from the resource's.
    #[serde(default)]
    pub group: String,
    /// Version of its bodies, where it differs.
    #[serde(default)]
    pub version: String,
    /// In discovery's order.
    pub verbs: Vec<String>,
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_facts_are_readable() {
        let facts = &*super::FACTS;
        assert_eq!(facts.groups.len(), facts.group_order_aggregated.len());
        assert_eq!(facts.resources["v1"].items["pods"].kind, "Pod");
    }
}
