//! What is served, in the forms that clients ask for: plain lists, and one aggregated document.
//!
//! Groups that Kubernetes knows stand in its order, whether hosted or brought by
//! CustomResourceDefinitions; all others follow by name.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::aggregation::{Backend, Backends};
use crate::registry::facts::FACTS;
use crate::registry::{Group, Registry, Resource, Subresource, Version};

/// Groups in the order in which documents list them; the core group comes first.
///
/// What other servers serve stands among them.
pub(crate) fn groups(registry: &Registry, elsewhere: &Backends) -> Vec<Group> {
    let mut groups: Vec<Group> = registry.groups().to_vec();
    for backend in elsewhere.values() {
        add(&mut groups, backend);
    }
    let rank = |name: &str| {
        FACTS.group_order_aggregated.iter().position(|g| g == name).unwrap_or(usize::MAX)
    };
    groups.sort_by(|a, b| rank(&a.name).cmp(&rank(&b.name)).then_with(|| a.name.cmp(&b.name)));
    for group in &mut groups {
        group.versions.sort_by_key(|version| Reverse(version_rank(&version.name)));
    }
    groups
}

/// Adds a group version of another server; ours of the same name gives way, as its requests do.
fn add(groups: &mut Vec<Group>, backend: &Backend) {
    let group = match groups.iter().position(|group| group.name == backend.group) {
        Some(at) => &mut groups[at],
        None => {
            groups.push(Group { name: backend.group.clone(), versions: Vec::new() });
            let last = groups.len() - 1;
            &mut groups[last]
        }
    };
    group.versions.retain(|version| version.name != backend.version);
    group.versions.push(Version {
        name: backend.version.clone(),
        resources: Vec::new(),
        elsewhere: Some(Arc::new(backend.aggregated())),
    });
}

/// Order of versions: stable before beta before alpha, newer before older, others last by name.
fn version_rank(version: &str) -> (u8, u64, u64, Reverse<String>) {
    let other = (0, 0, 0, Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..digits].parse() else { return other };
    let (stage, minor) = match &rest[digits..] {
        "" => (3, "0"),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => (2, minor),
            (_, Some(minor)) => (1, minor),
            _ => return other,
        },
    };
    match minor.parse() {
        Ok(minor) => (stage, major, minor, Reverse(String::new())),
        Err(_) => other,
    }
}

/// Answer of `/api`; `address` is where clients reach the server.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }],
    })
}

/// Answer of `/apis`.
pub fn group_list(groups: &[Group]) -> Value {
    let named = groups.iter().filter(|group| !group.name.is_empty());
    let items: Vec<Value> = named.map(|group| Value::Object(group_body(group))).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": items })
}

/// Answer of `/apis/<group>`.
pub fn group(group: &Group) -> Value {
    let mut body = Map::new();
    body.insert("kind".into(), "APIGroup".into());
    body.insert("apiVersion".into(), "v1".into());
    body.extend(group_body(group));
    body.into()
}

fn group_body(group: &Group) -> Map<String, Value> {
    let version = |version: &Version| {
        let full = format!("{}/{}", group.name, version.name);
        json!({ "groupVersion": full, "version": version.name })
    };
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    let mut body = Map::new();
    body.insert("name".into(), group.name.clone().into());
    body.insert("preferredVersion".into(), versions.first().cloned().unwrap_or_default());
    body.insert("versions".into(), versions.into());
    body
}

/// Answer of `/api/v1` and `/apis/<group>/<version>`.
pub fn resource_list(group: &str, version: &Version) -> Value {
    let mut entries: Vec<(String, Value)> = Vec::new();
    for resource in &version.resources {
        if !resource.verbs.is_empty() {
            entries.push((resource.name.clone(), plain_resource(resource)));
        }
        for (name, sub) in &resource.subresources {
            let name = format!("{}/{name}", resource.name);
            entries.push((name.clone(), plain_subresource(name, sub, resource)));
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let group_version =
        if group.is_empty() { version.name.clone() } else { format!("{group}/{}", version.name) };
    let resources: Vec<Value> = entries.into_iter().map(|(_, value)| value).collect();
    let mut list = json!({
        "kind": "APIResourceList",
        "groupVersion": group_version,
        "resources": resources,
    });
    // Clients from before there were groups know no version of this list.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list
}

fn plain_resource(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.name,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.clone().into();
    }
    if !resource.storage_version_hash.is_empty() {
        entry["storageVersionHash"] = resource.storage_version_hash.clone().into();
    }
    entry
}

fn plain_subresource(name: String, sub: &Subresource, resource: &Resource) -> Value {
    let mut entry = json!({
        "name": name,
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if !sub.version.is_empty() {
        entry["group"] = sub.group.clone().into();
        entry["version"] = sub.version.clone().into();
    }
    entry
}

/// The aggregated document of `groups`: `/api` has the core group alone, `/apis` all others.
pub fn aggregated<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Value {
    let items: Vec<Value> = groups.into_iter().map(aggregated_group).collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            if let Some(said) = &version.elsewhere {
                return Value::clone(said);
            }
            let mut resources: Vec<&Arc<Resource>> = version.resources.iter().collect();
            resources.sort_by(|a, b| a.name.cmp(&b.name));
            let resources: Vec<Value> =
                resources.into_iter().map(|r| aggregated_resource(r)).collect();
            json!({ "version": version.name, "resources": resources, "freshness": "Current" })
        })
        .collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({ "name": group.name }) };
    json!({ "metadata": metadata, "versions": versions })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.name,
        "responseKind": response_kind(resource, "", "", &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.clone().into();
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|(name, sub)| {
            json!({
                "subresource": name,
                "responseKind": response_kind(resource, &sub.group, &sub.version, &sub.kind),
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

/// Group and version stay empty where they are the document's own, except for types that
/// Kubernetes does not know.
fn response_kind(resource: &Resource, group: &str, version: &str, kind: &str) -> Value {
    let own = version.is_empty() && !FACTS.groups.contains_key(&resource.group);
    let (group, version) =
        if own { (&*resource.group, &*resource.version) } else { (group, version) };
    json!({ "group": group, "version": version, "kind": kind })
}

/// Answer of `/`: every path below which something is.
pub fn root_paths(groups: &[Group], fixed: &[String]) -> Value {
    let mut paths: Vec<String> = fixed.to_vec();
    for group in groups {
        if group.name.is_empty() {
            paths.extend(["/api".to_owned(), "/apis".to_owned(), "/apis/".to_owned()]);
            paths.extend(group.versions.iter().map(|version| format!("/api/{}", version.name)));
        } else {
            let base = format!("/apis/{}", group.name);
            paths.extend(group.versions.iter().map(|version| format!("{base}/{}", version.name)));
            paths.push(base);
        }
    }
    paths.sort();
    paths.dedup();
    json!({ "paths": paths })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn hosted_store() -> Arc<dyn store::Store> {
        Arc::new(store::MemoryStore::new())
    }

    fn names(groups: &[Group]) -> Vec<&str> {
        groups.iter().map(|group| group.name.as_str()).collect()
    }

    #[test]
    fn versions_stand_best_first() {
        let mut versions =
            ["v1alpha1", "v10", "foo", "v2beta3", "v1", "v2", "v2beta10", "v1.5", "bar"];
        versions.sort_by_key(|version| Reverse(version_rank(version)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v2beta10", "v2beta3", "v1alpha1", "bar", "foo", "v1.5"]
        );
    }

    #[test]
    fn hosted_groups_stand_in_the_recorded_order() {
        let groups = groups(&Registry::hosted(&hosted_store()), &Backends::new());
        let recorded: Vec<&str> = FACTS
            .group_order_aggregated
            .iter()
            .map(String::as_str)
            .filter(|name| groups.iter().any(|group| group.name == *name))
            .collect();
        assert_eq!(names(&groups), recorded);
        assert_eq!(groups[0].name, "");
    }

    #[test]
    fn resources_stand_in_the_recorded_order() {
        for group in groups(&Registry::hosted(&hosted_store()), &Backends::new()) {
            for version in &group.versions {
                let list = resource_list(&group.name, version);
                let key = list["groupVersion"].as_str().unwrap();
                let names: Vec<&str> = list["resources"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|entry| entry["name"].as_str().unwrap())
                    .collect();
                assert_eq!(names, FACTS.resources[key].list_order, "{key}");
                let entry = aggregated_group(&group);
                let order: Vec<&str> = entry["versions"][0]["resources"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|entry| entry["resource"].as_str().unwrap())
                    .collect();
                let first = &group.versions[0];
                let key = if group.name.is_empty() {
                    first.name.clone()
                } else {
                    format!("{}/{}", group.name, first.name)
                };
                assert_eq!(order, FACTS.resources[&key].aggregated_order, "{key}");
            }
        }
    }
}
