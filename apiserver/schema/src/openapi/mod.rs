//! OpenAPI documents: v2 (all types in one) and v3 (one a group and version).
//!
//! Upstream's types, hosted or CRDs, are published under upstream's definition names with
//! references between them, so that `kubectl explain`, `apply` and generators find what they
//! know. Custom resources are published as their CRD has them.

mod custom;
mod definitions;
mod descriptions;
mod paths;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::definitions::Definitions;
use self::paths::Operation;
pub use self::paths::Subresource;

/// A served resource.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// `""` for the core group.
    pub group: &'a str,
    /// Such as `v1`.
    pub version: &'a str,
    /// Such as `Deployment`.
    pub kind: &'a str,
    /// Name in paths, such as `deployments`.
    pub plural: &'a str,
    /// Whether objects are in namespaces.
    pub namespaced: bool,
    /// Verbs of discovery: `get`, `list`, `create` ….
    pub verbs: &'a [&'a str],
    /// `status`, `scale` … with their verbs.
    pub subresources: &'a [Subresource<'a>],
    /// Whether a deletion answers the object, and not only a status.
    pub returns_deleted: bool,
    /// Paths that field selectors may name, as `spec.color`; of custom types only.
    pub selectable: &'a [String],
    /// Where its schema is.
    pub source: Source<'a>,
}

/// Where the schema of a resource is.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// An upstream definition, such as `io.k8s.api.apps.v1.Deployment`.
    Definition(&'a str),
    /// The `openAPIV3Schema` of a CRD's version.
    Custom(&'a Value),
    /// Nothing is known.
    None,
}

/// The two dialects of the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn prefix(self) -> &'static str {
        match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        }
    }
}

impl Resource<'_> {
    /// The name under which the kind is published: upstream's, or the group reversed.
    #[must_use]
    pub fn definition_name(&self) -> String {
        match self.source {
            Source::Definition(name) => name.to_owned(),
            _ => {
                let reversed: Vec<&str> = self.group.rsplit('.').collect();
                format!("{}.{}.{}", reversed.join("."), self.version, self.kind)
            }
        }
    }
}

/// `/openapi/v3/apis/<group>/<version>`: the document of one group and version, whose
/// resources these are.
#[must_use]
pub fn v3(resources: &[Resource<'_>]) -> Value {
    let versions = versions(resources);
    let mut definitions = Definitions::new(Dialect::V3);
    if let Some((group, version)) = versions.first() {
        definitions = definitions.of_version(group, version);
    }
    let mut operations = of_resources(resources, &mut definitions);
    operations.extend(versions.iter().map(|(group, version)| paths::of_version(group, version)));
    let mut document = document_v3(definitions, &operations);
    if versions.is_empty() {
        document["info"] = json!({ "title": "Kubernetes CRD Swagger", "version": "v0.1.0" });
    } else {
        add_security(&mut document);
    }
    document
}

/// The paths of the v3 documents that belong to no version: those of groups, of lists of groups, of the version, and of
/// the keys of tokens; `groups` are those that Kubernetes brings.
pub fn root_paths<'a>(groups: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    paths::root_paths(groups)
}

/// The document at a path, if it is one of the [`root_paths`] with these groups.
#[must_use]
pub fn v3_root(path: &str, groups: &[&str]) -> Option<Value> {
    let operation = paths::of_document(path, groups)?;
    let mut document = document_v3(Definitions::new(Dialect::V3), &[operation]);
    add_security(&mut document);
    Some(document)
}

/// `/openapi/v2`: the document of all resources.
#[must_use]
pub fn v2(resources: &[Resource<'_>]) -> Value {
    let mut definitions = Definitions::new(Dialect::V2);
    let mut operations = of_resources(resources, &mut definitions);
    let versions = versions(resources);
    let groups: BTreeSet<&str> = versions.iter().map(|(group, _)| *group).collect();
    let groups: Vec<&str> = groups.into_iter().collect();
    operations.extend(versions.iter().map(|(group, version)| paths::of_version(group, version)));
    let roots = paths::root_paths(&groups);
    operations.extend(roots.filter_map(|path| paths::of_document(&path, &groups)));
    definitions.of_operations(&operations);
    json!({
        "swagger": "2.0",
        "info": INFO.to_json(),
        "paths": paths::write(&operations, Dialect::V2),
        "definitions": definitions.into_map(),
        "securityDefinitions": security_schemes(),
        "security": [{ "BearerToken": [] }],
    })
}

/// What documents say of the API as a whole.
struct Info {
    title: &'static str,
    version: &'static str,
}

const INFO: Info = Info { title: "Kubernetes", version: "v1.36.2" };

impl Info {
    fn to_json(&self) -> Value {
        json!({ "title": self.title, "version": self.version })
    }
}

fn security_schemes() -> Value {
    json!({ "BearerToken": { "type": "apiKey", "name": "authorization", "in": "header" } })
}

fn add_security(document: &mut Value) {
    document["components"]["securitySchemes"] = security_schemes();
}

fn document_v3(mut definitions: Definitions, operations: &[Operation]) -> Value {
    definitions.of_operations(operations);
    let schemas = definitions.into_map();
    let components = if schemas.is_empty() { json!({}) } else { json!({ "schemas": schemas }) };
    json!({
        "openapi": "3.0.0",
        "info": INFO.to_json(),
        "paths": paths::write(operations, Dialect::V3),
        "components": components,
    })
}

fn of_resources(resources: &[Resource<'_>], definitions: &mut Definitions) -> Vec<Operation> {
    let operations = |resource| paths::operations(resource, &definitions.resource(resource));
    resources.iter().flat_map(operations).collect()
}

/// The groups and versions that are Kubernetes', of which alone there are documents about documents.
fn versions<'a>(resources: &[Resource<'a>]) -> BTreeSet<(&'a str, &'a str)> {
    let own = resources.iter().filter(|one| matches!(one.source, Source::Definition(_)));
    own.map(|one| (one.group, one.version)).collect()
}

#[cfg(test)]
mod tests;
