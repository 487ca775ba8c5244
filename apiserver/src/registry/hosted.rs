//! The hosted types, built from the recorded facts.

use std::sync::Arc;

use std::collections::HashMap;

use store::Store;

use super::facts::{FACTS, ResourceFacts};
use super::{HOSTED_GROUPS, LazySchema, Resource, SchemaSource, Storage, Subresource};
use crate::{bytes, crd, types};

type Storages = HashMap<(String, String), Arc<Storage>>;

/// All hosted resources, in discovery's order.
pub(super) fn resources(store: &Arc<dyn Store>) -> Vec<Arc<Resource>> {
    let mut storages = Storages::new();
    let mut out = Vec::new();
    for group in FACTS.group_order_aggregated.iter().filter(|g| HOSTED_GROUPS.contains(&g.as_str()))
    {
        for version in &FACTS.groups[group].versions {
            let key = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
            let facts = &FACTS.resources[&key];
            for name in &facts.aggregated_order {
                let mut resource = resource(group, version, name, &facts.items[name]);
                if !resource.storage_version_hash.is_empty() {
                    resource.storage = Some(storage(store, &mut storages, &resource));
                }
                out.push(Arc::new(resource));
            }
        }
    }
    out
}

/// Core events and those of events.k8s.io are one storage.
fn storage(store: &Arc<dyn Store>, storages: &mut Storages, resource: &Resource) -> Arc<Storage> {
    let group = resource.stored_group();
    let key = (group.to_owned(), resource.name.clone());
    let make = || {
        Arc::new(Storage::new(store.clone(), group, &resource.name, resource.strategy.selectable()))
    };
    storages.entry(key).or_insert_with(make).clone()
}

/// The name of a kind's definition in the recorded facts.
fn definition(group: &str, version: &str, kind: &str) -> SchemaSource {
    let name = schema::facts::definition_of(group, version, kind);
    name.map_or(SchemaSource::None, |name| SchemaSource::Definition(name.to_owned()))
}

fn resource(group: &str, version: &str, name: &str, facts: &ResourceFacts) -> Resource {
    let subresources = facts.subresources.iter().map(|(name, sub)| {
        let sub = Subresource {
            kind: sub.kind.clone(),
            group: sub.group.clone(),
            version: sub.version.clone(),
            verbs: sub.verbs.clone(),
        };
        (name.clone(), sub)
    });
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        name: name.to_owned(),
        kind: facts.kind.clone(),
        list_kind: format!("{}List", facts.kind),
        singular: facts.singular_name.clone(),
        short_names: facts.short_names.clone(),
        categories: facts.categories.clone(),
        namespaced: facts.namespaced,
        verbs: facts.verbs.clone(),
        subresources: subresources.collect(),
        storage_version_hash: facts.storage_version_hash.clone(),
        columns: Vec::new(),
        strategy: match name {
            "customresourcedefinitions" => Arc::new(crd::Definitions),
            _ => types::strategy(group, name),
        },
        selectable: types::strategy(group, name).selectable(),
        storage: None,
        schema: LazySchema::new(definition(group, version, &facts.kind)).into(),
        conversion: types::conversion(group, version, name),
        head: bytes::head(&facts.kind, &api_version(group, version)),
        stored_head: bytes::head(&facts.kind, &api_version(group, version)),
        bare_items: true,
        deprecation: match (group, name) {
            ("", "componentstatuses") => {
                Some("v1 ComponentStatus is deprecated in v1.19+".to_owned())
            }
            ("", "endpoints") => Some(
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
                    .to_owned(),
            ),
            _ => None,
        },
        custom: None,
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
