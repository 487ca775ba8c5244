//! CustomResourceDefinitions of the upstream types that Improv does not host.
//!
//! Everything outside of the groups that the API server itself needs is a CRD in `crds/`. They
//! are made from the facts: names, scope, schemas with defaults and markers, subresources,
//! printer columns. Two kinds of markers go beyond upstream's `JSONSchemaProps`:
//! `x-kubernetes-patch-merge-key`/`-strategy`, so that strategic merge patches work, and
//! `x-improv-definition`, the upstream definition that a part is, by which equal parts of
//! many types share one compiled schema and are published under upstream's names.

mod columns;
mod yaml;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::facts::{self, REF_PREFIX, Zero};

/// Groups whose types are CRDs.
pub const GROUPS: [&str; 10] = [
    "apps",
    "autoscaling",
    "batch",
    "discovery.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Annotation that the API demands of CRDs in `*.k8s.io` groups.
const APPROVED: (&str, &str) =
    ("api-approved.kubernetes.io", "https://github.com/kubernetes/enhancements");

/// Annotation that names the API server's conversion between the versions of a type.
pub const CONVERSION_ANNOTATION: &str = "improv.dev/conversion";

#[derive(Deserialize)]
struct Discovery {
    groups: BTreeMap<String, GroupFacts>,
    resources: BTreeMap<String, Resources>,
}

#[derive(Deserialize)]
struct GroupFacts {
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct Resources {
    items: BTreeMap<String, Resource>,
}

/// One resource, as discovery tells it.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    kind: String,
    singular_name: String,
    namespaced: bool,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    subresources: BTreeMap<String, Value>,
}

/// The CRDs with their file names, `<plural>.<group>.yaml`, sorted.
///
/// The same input gives the same text: files are compared in CI.
#[must_use]
pub fn crds() -> Vec<(String, String)> {
    definitions()
        .into_iter()
        .map(|crd| {
            let name = crd["metadata"]["name"].as_str().unwrap_or_default();
            (format!("{name}.yaml"), yaml::document(&crd))
        })
        .collect()
}

/// The CRDs as JSON, sorted by name.
#[must_use]
pub fn definitions() -> Vec<Value> {
    let Ok(discovery) = serde_json::from_str::<Discovery>(facts::DISCOVERY) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for group in GROUPS {
        let Some(group_facts) = discovery.groups.get(group) else { continue };
        // By plural: versions of one resource are one CRD, the first version stores.
        let mut resources: BTreeMap<&str, Vec<(&str, &Resource)>> = BTreeMap::new();
        for version in &group_facts.versions {
            let Some(list) = discovery.resources.get(&format!("{group}/{version}")) else {
                continue;
            };
            for (plural, resource) in &list.items {
                resources.entry(plural).or_default().push((version, resource));
            }
        }
        all.extend(resources.iter().map(|(plural, versions)| crd(group, plural, versions)));
    }
    all.sort_by_key(|crd| crd["metadata"]["name"].to_string());
    all
}

fn crd(group: &str, plural: &str, versions: &[(&str, &Resource)]) -> Value {
    let resource = versions[0].1;
    let mut names = Map::new();
    names.insert("plural".into(), plural.into());
    names.insert("singular".into(), resource.singular_name.as_str().into());
    names.insert("kind".into(), resource.kind.as_str().into());
    names.insert("listKind".into(), format!("{}List", resource.kind).into());
    if !resource.short_names.is_empty() {
        names.insert("shortNames".into(), json!(resource.short_names));
    }
    if !resource.categories.is_empty() {
        names.insert("categories".into(), json!(resource.categories));
    }
    let mut annotations = Map::new();
    if group.ends_with(".k8s.io") {
        annotations.insert(APPROVED.0.into(), APPROVED.1.into());
    }
    if versions.len() > 1 {
        annotations.insert(CONVERSION_ANNOTATION.into(), "built-in".into());
    }
    let mut metadata = Map::new();
    metadata.insert("name".into(), format!("{plural}.{group}").into());
    if !annotations.is_empty() {
        metadata.insert("annotations".into(), annotations.into());
    }
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(index, (name, resource))| version(group, plural, name, resource, index == 0))
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": group,
            "names": names,
            "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
            "versions": versions,
        },
    })
}

fn version(group: &str, plural: &str, name: &str, resource: &Resource, storage: bool) -> Value {
    let mut version = Map::new();
    version.insert("name".into(), name.into());
    version.insert("served".into(), true.into());
    version.insert("storage".into(), storage.into());
    version.insert("schema".into(), json!({ "openAPIV3Schema": root(group, name, resource) }));
    let mut subresources = Map::new();
    if resource.subresources.contains_key("status") {
        subresources.insert("status".into(), json!({}));
    }
    if resource.subresources.contains_key("scale") {
        subresources.insert(
            "scale".into(),
            json!({ "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas" }),
        );
    }
    if !subresources.is_empty() {
        version.insert("subresources".into(), subresources.into());
    }
    let columns = columns::columns(group, name, plural);
    if !columns.is_empty() {
        version.insert("additionalPrinterColumns".into(), columns.into());
    }
    let selectable = columns::selectable(plural);
    if !selectable.is_empty() {
        let selectable: Vec<Value> =
            selectable.iter().map(|path| json!({ "jsonPath": path })).collect();
        version.insert("selectableFields".into(), selectable.into());
    }
    version.into()
}

/// The schema of a whole object.
fn root(group: &str, version: &str, resource: &Resource) -> Value {
    let name = facts::definition_of(group, version, &resource.kind);
    let mut schema = name.map(expand).unwrap_or_else(|| json!({ "type": "object" }));
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("metadata".into(), json!({ "type": "object" }));
    }
    schema
}

/// A definition without references: CRDs cannot have them.
#[must_use]
pub fn expand(name: &str) -> Value {
    let mut schema = facts::openapi(name).unwrap_or_else(|| json!({ "type": "object" }));
    let Some(definition) = facts::definition(name) else { return schema };
    if let Some(map) = schema.as_object_mut() {
        map.remove("x-kubernetes-unions");
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (field, property) in properties {
            *property = inline(property);
            let Some(map) = property.as_object_mut() else { continue };
            if facts::zero(name, &definition, field) == Zero::Null {
                map.insert("nullable".into(), true.into());
            }
            // A default must be valid; where it is not, only our compiler knows of it.
            let empty = map.get("default") == Some(&json!({}));
            // Nor is that a default which stands for a required string that was left out.
            let missing = map.get("default").is_some_and(|default| default == "")
                && definition.required.contains(field);
            if empty && !empty_is_valid(map) || missing {
                map.remove("default");
            }
            add_key_defaults(map, &definition.fields[field]);
        }
    }
    schema
}

/// Replaces references by what they refer to; markers beside a reference stay.
fn inline(schema: &Value) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let mut out = match map.get("$ref").and_then(Value::as_str) {
        Some(reference) => match expand(reference.trim_start_matches(REF_PREFIX)) {
            Value::Object(target) => target,
            _ => Map::new(),
        },
        None => Map::new(),
    };
    for (key, value) in map {
        match key.as_str() {
            "$ref" => (),
            "items" | "additionalProperties" => _ = out.insert(key.clone(), inline(value)),
            _ => _ = out.insert(key.clone(), value.clone()),
        }
    }
    out.into()
}

/// Whether `{}`, with all defaults filled in, has all that is required.
///
/// Structs that Go always writes are filled in even where their default was not valid.
fn empty_is_valid(schema: &Map<String, Value>) -> bool {
    let properties = schema.get("properties").and_then(Value::as_object);
    let has_default =
        |name: &str| properties.and_then(|all| all.get(name)?.get("default")).is_some();
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let definition = schema.get("x-improv-definition").and_then(Value::as_str);
    let written = definition.and_then(facts::definition).unwrap_or_default().fields;
    let written = written.iter().filter(|(_, field)| field.default == Some(json!({})));
    required.filter_map(Value::as_str).all(has_default)
        && written.into_iter().all(|(name, _)| name == "metadata" || has_default(name))
}

/// Keys of a list map must be required or have a default: upstream has `""` for a few, and one
/// (`shareID`) has neither and is left out.
fn add_key_defaults(list: &mut Map<String, Value>, facts: &facts::Field) {
    let target = facts.items.as_ref().and_then(|items| items.r#ref.as_deref());
    let Some(target) = target.and_then(facts::definition) else { return };
    let mut keys = Vec::new();
    for key in &facts.keys {
        let Some(items) = list.get_mut("items") else { return };
        let Some(property) = items["properties"][key.as_str()].as_object_mut() else { continue };
        let recorded = target.fields.get(key).and_then(|field| field.default.clone());
        let fine = target.required.contains(key) || property.contains_key("default");
        if let (false, Some(default)) = (fine, &recorded) {
            property.insert("default".into(), default.clone());
        }
        if fine || recorded.is_some() {
            keys.push(key.as_str());
        }
    }
    if !keys.is_empty() {
        list.insert("x-kubernetes-list-map-keys".into(), json!(keys));
    }
}

#[cfg(test)]
mod tests;
