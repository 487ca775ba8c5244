//! OpenAPI documents: v2 (all types in one) and v3 (one a group and version).
//!
//! Upstream's types, hosted or CRDs, are published under upstream's definition names with
//! references between them, so that `kubectl explain`, `apply` and generators find what they
//! know. Custom resources are published as their CRD has them.

mod custom;
mod definitions;
mod descriptions;
mod paths;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

pub use paths::Subresource;

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

    fn gvk(&self) -> Value {
        json!({ "group": self.group, "version": self.version, "kind": self.kind })
    }
}

/// `/openapi/v3/apis/<group>/<version>`: the document of one group and version, whose
/// resources these are.
#[must_use]
pub fn v3(resources: &[Resource<'_>]) -> Value {
    let (schemas, paths) = content(resources, Dialect::V3);
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// `/openapi/v2`: the document of all resources.
#[must_use]
pub fn v2(resources: &[Resource<'_>]) -> Value {
    let (definitions, paths) = content(resources, Dialect::V2);
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": paths,
        "definitions": definitions,
    })
}

fn content(
    resources: &[Resource<'_>],
    dialect: Dialect,
) -> (Map<String, Value>, BTreeMap<String, Value>) {
    let mut definitions = definitions::Definitions::new(dialect);
    let mut all = BTreeMap::new();
    for resource in resources {
        let name = definitions.resource(resource);
        paths::add(&mut all, resource, &name, dialect);
    }
    if !resources.is_empty() {
        for name in ["APIResourceList", "DeleteOptions", "Patch", "Status"] {
            definitions.upstream(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
        }
    }
    (definitions.into_map(), all)
}

/// `/openapi/v3`: where the documents are, from path (`apis/apps/v1`, `api/v1`) and the
/// [`hash`] of each.
#[must_use]
pub fn v3_index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let paths: Map<String, Value> = documents
        .into_iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.to_owned(), json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// The hash by which clients cache a document: SHA-512 in upper-case hexadecimal.
#[must_use]
pub fn hash(document: &[u8]) -> String {
    let mut text = String::with_capacity(128);
    for byte in Sha512::digest(document) {
        _ = write!(text, "{byte:02X}");
    }
    text
}

#[cfg(test)]
mod tests;
