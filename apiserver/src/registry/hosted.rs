//! The hosted types, built from the recorded facts.

use std::sync::Arc;

use super::facts::{FACTS, ResourceFacts};
use super::{HOSTED_GROUPS, Resource, Subresource};
use crate::types;

/// All hosted resources, in discovery's order.
pub(super) fn resources() -> Vec<Arc<Resource>> {
    let mut out = Vec::new();
    for group in FACTS.group_order_aggregated.iter().filter(|g| HOSTED_GROUPS.contains(&g.as_str()))
    {
        for version in &FACTS.groups[group].versions {
            let key = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
            let facts = &FACTS.resources[&key];
            for name in &facts.aggregated_order {
                out.push(Arc::new(resource(group, version, name, &facts.items[name])));
            }
        }
    }
    out
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
        strategy: types::strategy(group, name),
        custom: false,
    }
}
