//! ClusterRoles that are made of other ClusterRoles.
//!
//! Source: kubernetes.io, "Using RBAC Authorization", "Aggregated ClusterRoles".

use std::collections::BTreeMap;

use serde_json::Value;

use crate::handlers::selector::Labels;

/// The rules that every role with an `aggregationRule` should have, by its name.
///
/// Rules come in the order of their roles' names, each once. A role may collect from one that is
/// itself aggregated: pass the result through again until nothing changes.
pub fn rules_of_all(roles: &[&Value]) -> BTreeMap<String, Vec<Value>> {
    let mut sorted: Vec<&Value> = roles.to_vec();
    sorted.sort_by_key(|role| name(role).to_owned());
    let mut results: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    // A chain of roles is at most as long as there are aggregated ones.
    let aggregated: Vec<&Value> =
        sorted.iter().copied().filter(|role| !selectors(role).is_empty()).collect();
    for _ in 0..=aggregated.len() {
        let before = results.clone();
        for role in &aggregated {
            let mut rules: Vec<Value> = Vec::new();
            for source in sorted.iter().filter(|source| name(source) != name(role)) {
                if !selectors(role)
                    .iter()
                    .any(|selector| Labels::selects(selector, &source["metadata"]["labels"]))
                {
                    continue;
                }
                let own = || items(source, "rules").to_vec();
                for rule in before.get(name(source)).cloned().unwrap_or_else(own) {
                    if !rules.contains(&rule) {
                        rules.push(rule);
                    }
                }
            }
            results.insert(name(role).to_owned(), rules);
        }
        if results == before {
            break;
        }
    }
    results
}

/// The roles whose rules are not what they should be, with the rules that they should have.
pub fn outdated(roles: &[&Value]) -> Vec<(String, Vec<Value>)> {
    let wanted = rules_of_all(roles);
    let differs = |(wanted_name, rules): &(String, Vec<Value>)| {
        let role = roles.iter().find(|role| name(role) == wanted_name);
        role.is_some_and(|role| items(role, "rules") != rules.as_slice())
    };
    wanted.into_iter().filter(differs).collect()
}

fn name(role: &Value) -> &str {
    role.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn selectors(role: &Value) -> &[Value] {
    role.get("aggregationRule").map_or(&[], |rule| items(rule, "clusterRoleSelectors"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(name: &str, label: &str, verb: &str) -> Value {
        json!({
            "metadata": { "name": name, "labels": { label: "true" } },
            "rules": [{ "verbs": [verb] }],
        })
    }

    fn aggregate(name: &str, label: &str, of: &str) -> Value {
        json!({
            "metadata": { "name": name, "labels": { label: "true" } },
            "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { of: "true" } }] },
            "rules": null,
        })
    }

    fn verbs(roles: &[Value], name: &str) -> Vec<String> {
        let roles: Vec<&Value> = roles.iter().collect();
        let rules = rules_of_all(&roles).remove(name).unwrap();
        rules.iter().map(|rule| rule["verbs"][0].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn rules_come_by_name_and_once() {
        let roles = [
            role("b", "x", "get"),
            role("a", "x", "list"),
            role("c", "x", "get"),
            aggregate("all", "y", "x"),
        ];
        assert_eq!(verbs(&roles, "all"), ["list", "get"]);
    }

    #[test]
    fn chains_are_followed_and_circles_end() {
        let roles = [role("a", "x", "get"), aggregate("one", "y", "x"), aggregate("two", "z", "y")];
        assert_eq!(verbs(&roles, "two"), ["get"]);
        let circle =
            [aggregate("one", "y", "x"), aggregate("two", "x", "y"), role("a", "x", "get")];
        assert_eq!(verbs(&circle, "one"), ["get"]);
    }

    #[test]
    fn only_what_differs_is_outdated() {
        let mut roles = [role("a", "x", "get"), aggregate("all", "y", "x")];
        let refs: Vec<&Value> = roles.iter().collect();
        let found = outdated(&refs);
        assert_eq!(found.len(), 1);
        roles[1]["rules"] = found[0].1.clone().into();
        assert!(outdated(&roles.iter().collect::<Vec<_>>()).is_empty());
    }
}
