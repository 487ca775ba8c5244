//! What is served: one [`Resource`] a group, version and plural name, hosted or custom alike.
//!
//! A [`Registry`] is immutable. When a CustomResourceDefinition changes, a new one is built and
//! swapped in; a request works on the registry it started with.

pub mod facts;
mod hosted;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::status::GroupResource;
use crate::types::Strategy;

/// Groups that the server hosts itself. All others arrive as CustomResourceDefinitions.
pub const HOSTED_GROUPS: [&str; 11] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "rbac.authorization.k8s.io",
];

/// One served group, version and resource.
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Plural name, as in paths.
    pub name: String,
    /// Kind of an object.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Lower-case singular name.
    pub singular: String,
    /// For people who type.
    pub short_names: Vec<String>,
    /// Such as `all`.
    pub categories: Vec<String>,
    /// False for cluster scope.
    pub namespaced: bool,
    /// As discovery lists them; empty for resources that have only subresources.
    pub verbs: Vec<String>,
    /// By name, as discovery lists them.
    pub subresources: BTreeMap<String, Subresource>,
    /// What clients compare; empty for types that are not stored.
    pub storage_version_hash: String,
    /// Printer columns of a custom type; a hosted type has its own.
    pub columns: Vec<Column>,
    /// The few rules that no schema can say.
    pub strategy: Arc<dyn Strategy>,
    /// Whether it comes from a CustomResourceDefinition.
    pub custom: bool,
}

/// One subresource.
#[derive(Debug, Clone, Default)]
pub struct Subresource {
    /// Kind of its bodies.
    pub kind: String,
    /// Group of its bodies, where it differs from the resource's.
    pub group: String,
    /// Version of its bodies, where it differs.
    pub version: String,
    /// As discovery lists them.
    pub verbs: Vec<String>,
}

/// An `additionalPrinterColumns` entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// OpenAPI format, may be empty.
    pub format: String,
    /// Text for `--help`.
    pub description: String,
    /// 0 is shown always, more only in wide output.
    pub priority: i32,
    /// Where the value stands.
    pub json_path: String,
}

impl Resource {
    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Group and plural name, as messages spell them.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.name)
    }

    /// Group and kind, as messages about bad fields spell them.
    pub fn group_kind(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.kind)
    }

    /// Whether discovery lists the verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// Everything that is served at one moment.
#[derive(Default)]
pub struct Registry {
    by_name: HashMap<(String, String, String), Arc<Resource>>,
    groups: Vec<Group>,
}

/// One group and its versions.
#[derive(Clone)]
pub struct Group {
    /// Empty for the core group.
    pub name: String,
    /// Best first; the first is the preferred one.
    pub versions: Vec<Version>,
}

/// One version of a group.
#[derive(Clone)]
pub struct Version {
    /// Such as `v1`.
    pub name: String,
    /// In discovery's order.
    pub resources: Vec<Arc<Resource>>,
}

impl Registry {
    /// The hosted types alone.
    pub fn hosted() -> Self {
        Self::build(hosted::resources())
    }

    /// A registry of exactly these resources.
    pub fn build(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut registry = Self::default();
        for resource in resources {
            let group = match registry.groups.iter_mut().position(|g| g.name == resource.group) {
                Some(at) => &mut registry.groups[at],
                None => {
                    registry
                        .groups
                        .push(Group { name: resource.group.clone(), versions: Vec::new() });
                    let last = registry.groups.len() - 1;
                    &mut registry.groups[last]
                }
            };
            match group.versions.iter_mut().find(|v| v.name == resource.version) {
                Some(version) => version.resources.push(resource.clone()),
                None => group.versions.push(Version {
                    name: resource.version.clone(),
                    resources: vec![resource.clone()],
                }),
            }
            let key = (resource.group.clone(), resource.version.clone(), resource.name.clone());
            registry.by_name.insert(key, resource);
        }
        registry
    }

    /// The resource at a path.
    pub fn get(&self, group: &str, version: &str, name: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(&(group.to_owned(), version.to_owned(), name.to_owned()))
    }

    /// A resource in its preferred version.
    pub fn find(&self, group: &str, name: &str) -> Option<&Arc<Resource>> {
        let group = self.groups.iter().find(|g| g.name == group)?;
        group.versions.iter().find_map(|v| v.resources.iter().find(|r| r.name == name))
    }

    /// The resource whose objects have this kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let group = self.groups.iter().find(|g| g.name == group)?;
        group.versions.iter().find(|v| v.name == version)?.resources.iter().find(|r| r.kind == kind)
    }

    /// Groups in discovery's order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Every resource.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.iter().flat_map(|g| &g.versions).flat_map(|v| &v.resources)
    }
}
