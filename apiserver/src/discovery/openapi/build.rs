//! OpenAPI documents of what is served: one a group version (v3), and one of everything (v2).

use schema::facts;
use schema::openapi::{self, Source};
use serde_json::Value;

use crate::registry::{Group, Resource, SchemaSource, Version};
use crate::write::returns_object;

/// The v3 document of one group version.
pub(super) fn v3(version: &Version) -> Value {
    document(version.resources.iter().map(|resource| &**resource), openapi::v3)
}

/// The v2 document of everything.
pub(super) fn v2(groups: &[Group]) -> Value {
    let versions = groups.iter().flat_map(|group| &group.versions);
    let resources = versions.flat_map(|version| &version.resources);
    document(resources.map(|resource| &**resource), openapi::v2)
}

/// Makes a document from the registry's resources, whose texts the schema crate borrows.
fn document<'a>(
    resources: impl Iterator<Item = &'a Resource>,
    make: fn(&[openapi::Resource<'_>]) -> Value,
) -> Value {
    let resources: Vec<&Resource> = resources.collect();
    let parts: Vec<Parts<'_>> = resources.iter().map(|resource| Parts::of(resource)).collect();
    let subresources: Vec<Vec<openapi::Subresource<'_>>> = resources
        .iter()
        .zip(&parts)
        .map(|(resource, parts)| subresources(resource, parts))
        .collect();
    let described: Vec<openapi::Resource<'_>> = resources
        .iter()
        .zip(&parts)
        .zip(&subresources)
        .map(|((resource, parts), subresources)| openapi::Resource {
            group: &resource.group,
            version: &resource.version,
            kind: &resource.kind,
            plural: &resource.name,
            namespaced: resource.namespaced,
            verbs: &parts.verbs,
            subresources,
            returns_deleted: returns_object(resource),
            selectable: &parts.selectable,
            source: source(resource, &parts.schema),
        })
        .collect();
    make(&described)
}

/// What a resource's description borrows.
struct Parts<'a> {
    verbs: Vec<&'a str>,
    /// Verbs of the subresources.
    subresources: Vec<Vec<&'a str>>,
    selectable: Vec<String>,
    schema: Value,
}

impl<'a> Parts<'a> {
    fn of(resource: &'a Resource) -> Self {
        let texts = |verbs: &'a [String]| verbs.iter().map(String::as_str).collect();
        let selectable = resource.selectable.iter().map(|field| field.path.join("."));
        Self {
            verbs: texts(&resource.verbs),
            subresources: resource.subresources.values().map(|sub| texts(&sub.verbs)).collect(),
            selectable: if resource.is_foreign() { selectable.collect() } else { Vec::new() },
            schema: schema_of(resource),
        }
    }
}

fn subresources<'a>(resource: &'a Resource, parts: &'a Parts<'a>) -> Vec<openapi::Subresource<'a>> {
    let described = resource.subresources.iter().zip(&parts.subresources);
    described
        .map(|((name, sub), verbs)| {
            let (group, version) = if sub.version.is_empty() {
                (&resource.group, &resource.version)
            } else {
                (&sub.group, &sub.version)
            };
            openapi::Subresource {
                name,
                gvk: (group, version, &sub.kind),
                definition: facts::definition_of(group, version, &sub.kind),
                verbs,
            }
        })
        .collect()
}

/// The schema of a definition; null for types that have another source.
fn schema_of(resource: &Resource) -> Value {
    match resource.schema.source() {
        SchemaSource::OpenApi(text) => serde_json::from_str(text).unwrap_or_default(),
        SchemaSource::Definition(_) | SchemaSource::None => Value::Null,
    }
}

/// Types that Kubernetes knows are published as it publishes them, also when they are custom here.
fn source<'a>(resource: &'a Resource, schema: &'a Value) -> Source<'a> {
    let known = facts::definition_of(&resource.group, &resource.version, &resource.kind);
    match (known, resource.schema.source()) {
        (Some(name), _) => Source::Definition(name),
        (None, SchemaSource::Definition(name)) => Source::Definition(name),
        (None, SchemaSource::OpenApi(_)) => Source::Custom(schema),
        (None, SchemaSource::None) => Source::None,
    }
}
