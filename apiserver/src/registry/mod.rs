//! What is served: one [`Resource`] a group, version and plural name, hosted or custom alike.
//!
//! A [`Registry`] is immutable. When a CustomResourceDefinition changes, a new one is built and
//! swapped in; a request works on the registry it started with.

pub mod facts;
mod hosted;
mod storage;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use hashbrown::{Equivalent, HashMap};
use schema::Schema;
use serde_json::Value;
use store::Store;
use store::cache::Cache;

use crate::bytes;
use crate::status::{ApiError, GroupResource};
use crate::types::{Conversion, Strategy};

pub(crate) use storage::decoder;
pub use storage::{Selectable, Storage};

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
    /// What its field selectors may name, beside name and namespace.
    pub selectable: Vec<Selectable>,
    /// Where its objects are; `None` for types that only pass through, such as reviews.
    pub storage: Option<Arc<Storage>>,
    /// Compiled at first use.
    pub schema: Arc<LazySchema>,
    /// How its objects differ from what is stored; `None` if at most kind and version do.
    pub conversion: Option<Arc<dyn Conversion>>,
    /// `{"kind":…,"apiVersion":…,` of this version.
    pub head: Vec<u8>,
    /// The head of what is stored, if the stored version is another one.
    pub stored_head: Vec<u8>,
    /// Whether list items leave out kind and version, as upstream's own types do.
    pub bare_items: bool,
    /// Text of the warning that every request gets.
    pub deprecation: Option<String>,
    /// Set for types that come from a CustomResourceDefinition.
    pub custom: Option<Custom>,
}

/// What only custom types have.
#[derive(Debug, Clone, Default)]
pub struct Custom {
    /// Version that is stored.
    pub storage_version: String,
    /// Paths of the scale subresource.
    pub scale: Option<ScalePaths>,
    /// Translates between versions that differ in more than their name.
    pub converter: Option<crate::crd::Converter>,
}

/// Where a scalable type keeps what `autoscaling/v1` Scale shows; member names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScalePaths {
    /// Wanted replicas.
    pub spec_replicas: Vec<String>,
    /// Observed replicas.
    pub status_replicas: Vec<String>,
    /// Label selector as text, if there is one.
    pub label_selector: Option<Vec<String>>,
}

/// A schema that is compiled when it is first needed.
pub struct LazySchema {
    compiled: OnceLock<Option<Arc<Schema>>>,
    source: SchemaSource,
}

/// Where a schema comes from.
pub enum SchemaSource {
    /// No schema: the type is not written, or takes anything.
    None,
    /// A definition of the recorded facts, by its full name.
    Definition(String),
    /// `openAPIV3Schema` of a CustomResourceDefinition, as text: it is read rarely, and small so.
    OpenApi(Arc<str>),
}

impl LazySchema {
    /// Compiles nothing yet.
    pub fn new(source: SchemaSource) -> Self {
        Self { compiled: OnceLock::new(), source }
    }

    /// The compiled schema.
    pub fn get(&self) -> Option<&Arc<Schema>> {
        let compile = || match &self.source {
            SchemaSource::None => None,
            SchemaSource::Definition(name) => Schema::for_definition(name).map(Arc::new),
            SchemaSource::OpenApi(text) => {
                let schema: Value = serde_json::from_str(text).ok()?;
                Schema::from_crd(&schema).ok().map(Arc::new)
            }
        };
        self.compiled.get_or_init(compile).as_ref()
    }

    /// Where it comes from.
    pub fn source(&self) -> &SchemaSource {
        &self.source
    }
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
        GroupResource::new(self.stored_group(), &*self.kind)
    }

    /// The group whose objects are stored: events of both groups are those of core.
    pub fn stored_group(&self) -> &str {
        if &*self.group == "events.k8s.io" { "" } else { &self.group }
    }

    /// Where its objects are.
    ///
    /// # Errors
    /// [`ApiError::MethodNotAllowed`] for types that only pass through.
    pub fn storage(&self) -> Result<&Arc<Storage>, ApiError> {
        self.storage.as_ref().ok_or(ApiError::MethodNotAllowed)
    }

    /// Its watch cache, if it was started; hosted types' caches always are.
    pub fn cache(&self) -> Option<&Cache> {
        self.storage.as_ref()?.started()
    }

    /// Whether the type is its definition's author's, and none of Kubernetes' own, which may have definitions, too.
    pub fn is_foreign(&self) -> bool {
        !self.bare_items
    }

    /// An object of the store as this version shows it.
    pub fn view(&self, object: bytes::Bytes) -> bytes::Bytes {
        match &self.conversion {
            Some(conversion) => match serde_json::from_slice::<Value>(&object) {
                Ok(mut value) => {
                    let revision =
                        value["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
                    conversion.from_stored(&mut value);
                    let stored = bytes::encode(&value);
                    revision
                        .map_or(stored.clone(), |revision| bytes::with_version(&stored, revision))
                }
                Err(_) => object,
            },
            None => bytes::with_head(&self.head, &object),
        }
    }

    /// Takes from metadata that is shown alone what upstream has as fields.
    pub fn hide(&self, metadata: &mut Value) {
        let hidden = self.strategy.hidden();
        if hidden.is_empty() {
            return;
        }
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.retain(|name, _| !hidden.contains(&name.as_str()));
            if annotations.is_empty() {
                metadata.as_object_mut().map(|metadata| metadata.remove("annotations"));
            }
        }
    }

    /// What is said when an object of this name is not there.
    pub fn not_found(&self, name: &str) -> ApiError {
        ApiError::NotFound { resource: self.group_resource(), name: name.to_owned() }
    }

    /// Whether discovery lists the verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// Resources of one group by version.
type Versions = BTreeMap<String, Vec<Arc<Resource>>>;

/// Group, version and plural name.
type Place = (String, String, String);

/// A [`Place`] to look up.
#[derive(Hash)]
struct At<'a>(&'a str, &'a str, &'a str);

impl Equivalent<Place> for At<'_> {
    fn equivalent(&self, (group, version, name): &Place) -> bool {
        (self.0, self.1, self.2) == (group, version, name)
    }
}

/// Everything that is served at one moment.
#[derive(Default)]
pub struct Registry {
    by_name: HashMap<Place, Arc<Resource>>,
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
    /// What another server says of it in the aggregated form, if it serves this version.
    pub elsewhere: Option<Arc<Value>>,
}

impl Registry {
    /// The hosted types alone.
    pub fn hosted(store: &Arc<dyn Store>) -> Self {
        Self::build(hosted::resources(store))
    }

    /// The hosted resources of a registry.
    pub fn hosted_resources(registry: &Self) -> Vec<Arc<Resource>> {
        registry.resources().filter(|r| r.custom.is_none()).cloned().collect()
    }

    /// A registry of exactly these resources, in discovery's order.
    pub fn build(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut registry = Self::default();
        let mut groups: BTreeMap<(usize, String), Versions> = BTreeMap::new();
        for resource in resources {
            let rank =
                facts::FACTS.group_order_aggregated.iter().position(|g| *g == resource.group);
            let group =
                groups.entry((rank.unwrap_or(usize::MAX), resource.group.clone())).or_default();
            group.entry(resource.version.clone()).or_default().push(resource.clone());
            let key = (resource.group.clone(), resource.version.clone(), resource.name.clone());
            registry.by_name.insert(key, resource);
        }
        for ((_, name), versions) in groups {
            let mut versions: Vec<Version> = versions
                .into_iter()
                .map(|(version, mut resources)| {
                    order_resources(&name, &version, &mut resources);
                    Version { name: version, resources, elsewhere: None }
                })
                .collect();
            let known = facts::FACTS.groups.get(&name);
            versions.sort_by_key(|v| {
                let rank = known.and_then(|k| k.versions.iter().position(|x| *x == v.name));
                (rank.unwrap_or(usize::MAX), version_rank(&v.name))
            });
            registry.groups.push(Group { name, versions });
        }
        registry
    }

    /// The resource at a path.
    pub fn get(&self, group: &str, version: &str, name: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(&At(group, version, name))
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

fn order_resources(group: &str, version: &str, resources: &mut [Arc<Resource>]) {
    let key = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let order = facts::FACTS.resources.get(&key).map(|f| &f.aggregated_order);
    resources.sort_by_key(|r| {
        let rank = order.and_then(|o| o.iter().position(|n| *n == r.name));
        (rank.unwrap_or(usize::MAX), r.name.clone())
    });
}

/// Sorts versions as clients expect: stable ones first, then beta, then alpha, newest first.
///
/// Source: kubernetes.io, "Versions in CustomResourceDefinitions", "Version priority".
pub(crate) fn version_rank(
    version: &str,
) -> (u8, std::cmp::Reverse<u64>, std::cmp::Reverse<u64>, String) {
    let parse = || -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let rest = &rest[digits..];
        if rest.is_empty() {
            return Some((0, major, 0));
        }
        let (stage, minor) = rest
            .strip_prefix("beta")
            .map(|m| (1, m))
            .or_else(|| rest.strip_prefix("alpha").map(|m| (2, m)))?;
        Some((stage, major, minor.parse().ok()?))
    };
    match parse() {
        Some((stage, major, minor)) => {
            (stage, std::cmp::Reverse(major), std::cmp::Reverse(minor), String::new())
        }
        None => (3, std::cmp::Reverse(0), std::cmp::Reverse(0), version.to_owned()),
    }
}
