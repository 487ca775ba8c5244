//! Custom types: from a CustomResourceDefinition to served resources.

pub(crate) mod convert;
mod current;
mod follow;
mod names;
mod parts;
mod strategy;
mod validate;
mod warnings;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use store::{Mapped, Revision, Store};

use crate::registry::facts::{FACTS, ResourceFacts};
use crate::registry::{
    Column, Custom, LazySchema, Resource, ScalePaths, SchemaSource, Selectable, Storage,
    Subresource, version_rank,
};
use crate::server::Core;
use crate::{bytes, types};

pub use convert::Converter;
use current::Schemas;
pub use follow::Follower;
pub use strategy::Definitions;

/// Holds a deleted definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Verbs of every custom resource.
const VERBS: [&str; 8] =
    ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// Storages by group and plural name; they live as long as their definition.
pub(crate) type Storages = HashMap<(String, String), Kept>;

/// What stays of a definition's resources while changes of it do not touch what objects look like.
#[derive(Clone)]
pub(crate) struct Kept {
    storage: Arc<Storage>,
    schemas: Arc<Schemas>,
}

/// The served versions of an established definition that was written by `revision`.
pub(crate) fn resources(
    core: &Weak<Core>,
    store: &Arc<dyn Store>,
    storages: &mut Storages,
    definition: &Value,
    revision: Revision,
) -> Vec<Arc<Resource>> {
    let spec = &definition["spec"];
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    let Some(stored) = versions.iter().find(|v| v["storage"] == true) else { return Vec::new() };
    let kept = keep(store, storages, spec, revision);
    let served = versions.iter().filter(|v| v["served"] == true);
    let converter = Converter::of(core, spec);
    let made = |version| resource(spec, version, stored, &kept, converter.as_ref());
    served.map(|version| Arc::new(made(version))).collect()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// The storage of a definition: kept over changes, unless the selectable fields or the schemas change.
fn keep(store: &Arc<dyn Store>, storages: &mut Storages, spec: &Value, revision: Revision) -> Kept {
    let key = (text(spec, "group"), text(&spec["names"], "plural"));
    let versions = spec["versions"].as_array().into_iter().flatten();
    let mut selectable: Vec<Selectable> = Vec::new();
    for field in versions.flat_map(|version| selectable_fields(&key.0, &key.1, version)) {
        if !selectable.contains(&field) {
            selectable.push(field);
        }
    }
    let schemas = Arc::new(Schemas::new(spec, revision));
    let stays =
        |kept: &&Kept| kept.storage.selectable() == selectable && kept.schemas.agree(&schemas);
    if let Some(kept) = storages.get(&key).filter(stays) {
        return kept.clone();
    }
    let current = Arc::new(Mapped::over(store.clone(), schemas.clone()));
    let storage = Arc::new(Storage::new(current, &key.0, &key.1, selectable));
    let kept = Kept { storage, schemas };
    storages.insert(key, kept.clone());
    kept
}

/// What field selectors may name in a version.
fn selectable_fields(group: &str, plural: &str, version: &Value) -> Vec<Selectable> {
    let mut fields = types::strategy(group, plural).selectable();
    for field in version["selectableFields"].as_array().into_iter().flatten() {
        let field = Selectable::new(text(field, "jsonPath").trim_start_matches('.'));
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    fields
}

/// The recorded facts of a type that upstream has built in.
fn facts(group: &str, version: &str, plural: &str) -> Option<&'static ResourceFacts> {
    FACTS.resources.get(&format!("{group}/{version}"))?.items.get(plural)
}

fn resource(
    spec: &Value,
    version: &Value,
    stored: &Value,
    kept: &Kept,
    converter: Option<&Converter>,
) -> Resource {
    let (group, names) = (text(spec, "group"), &spec["names"]);
    let (plural, kind, name) = (text(names, "plural"), text(names, "kind"), text(version, "name"));
    let facts = facts(&group, &name, &plural);
    let api_version = format!("{group}/{name}");
    let stored_version = format!("{group}/{}", text(stored, "name"));
    let schema = kept.schemas.get(&name).cloned();
    Resource {
        singular: text(names, "singular"),
        list_kind: text(names, "listKind"),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: facts.map_or_else(|| VERBS.map(str::to_owned).to_vec(), |f| f.verbs.clone()),
        subresources: subresources(version, &kind, facts),
        storage_version_hash: facts.map_or_else(
            || version_hash(&group, &text(stored, "name"), &kind),
            |f| f.storage_version_hash.clone(),
        ),
        columns: columns(version),
        strategy: types::strategy(&group, &plural),
        selectable: selectable_fields(&group, &plural, version),
        storage: Some(kept.storage.clone()),
        schema: schema.unwrap_or_else(|| LazySchema::new(SchemaSource::None).into()),
        conversion: types::conversion(&group, &name, &plural),
        head: bytes::head(&kind, &api_version),
        stored_head: bytes::head(&kind, &stored_version),
        bare_items: facts.is_some(),
        deprecation: deprecation(spec, version, &kind),
        custom: Some(Custom {
            storage_version: text(stored, "name"),
            scale: scale(version),
            converter: converter.cloned(),
        }),
        group,
        version: name,
        name: plural,
        kind,
    }
}

/// What clients compare between servers.
///
/// Source: `StorageVersionHash` in upstream's discovery.
fn version_hash(group: &str, version: &str, kind: &str) -> String {
    STANDARD.encode(&Sha256::digest(format!("{group}/{version}/{kind}"))[..8])
}

fn subresources(
    version: &Value,
    kind: &str,
    facts: Option<&ResourceFacts>,
) -> std::collections::BTreeMap<String, Subresource> {
    let verbs = || ["get", "patch", "update"].map(str::to_owned).to_vec();
    let mut out = std::collections::BTreeMap::new();
    let declared = &version["subresources"];
    if declared["status"].is_object() {
        let status =
            Subresource { kind: kind.to_owned(), verbs: verbs(), ..Subresource::default() };
        out.insert("status".to_owned(), status);
    }
    if declared["scale"].is_object() {
        let scale = Subresource {
            kind: "Scale".to_owned(),
            group: "autoscaling".to_owned(),
            version: "v1".to_owned(),
            verbs: verbs(),
        };
        out.insert("scale".to_owned(), scale);
    }
    let known = facts.map(|f| &f.subresources).into_iter().flatten();
    for (name, sub) in known.filter(|(name, _)| name.as_str() != "scale") {
        out.entry(name.clone()).or_insert_with(|| Subresource {
            kind: sub.kind.clone(),
            group: sub.group.clone(),
            version: sub.version.clone(),
            verbs: sub.verbs.clone(),
        });
    }
    out
}

fn columns(version: &Value) -> Vec<Column> {
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
    columns
        .map(|c| Column {
            name: text(c, "name"),
            kind: text(c, "type"),
            format: text(c, "format"),
            description: text(c, "description"),
            priority: c["priority"].as_i64().and_then(|p| p.try_into().ok()).unwrap_or(0),
            json_path: text(c, "jsonPath"),
        })
        .collect()
}

fn scale(version: &Value) -> Option<ScalePaths> {
    let scale = version["subresources"]["scale"].as_object()?;
    let path = |key: &str| -> Option<Vec<String>> {
        let path = scale.get(key)?.as_str()?.trim_start_matches('.');
        (!path.is_empty()).then(|| path.split('.').map(str::to_owned).collect())
    };
    Some(ScalePaths {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        label_selector: path("labelSelectorPath"),
    })
}

/// What requests to a deprecated version are told; a newer one is recommended.
fn deprecation(spec: &Value, version: &Value, kind: &str) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(text) = version["deprecationWarning"].as_str() {
        return Some(text.to_owned());
    }
    let (group, name) = (text(spec, "group"), text(version, "name"));
    let mut newer: Vec<String> = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|v| v["served"] == true && v["deprecated"] != true)
        .map(|v| text(v, "name"))
        .filter(|other| version_rank(other) < version_rank(&name))
        .collect();
    newer.sort_by_key(|v| version_rank(v));
    let advice = newer.first().map(|v| format!("; use {group}/{v} {kind}")).unwrap_or_default();
    Some(format!("{group}/{name} {kind} is deprecated{advice}"))
}
