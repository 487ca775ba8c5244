//! Nobody grants what they do not hold: writes of roles and bindings are checked against the
//! writer's own rules.
//!
//! Source: kubernetes.io, "Using RBAC Authorization", "Privilege escalation prevention and
//! bootstrapping".

use std::collections::BTreeSet;

use serde_json::Value;

use super::authz::{Attributes, Authorizer, MASTERS};
use super::rbac::{GROUP, Kind, Rule, role_of, rules_of};
use crate::request::User;
use crate::status::{ApiError, GroupResource};

/// Whether `user` may write this role or binding. `old` is the stored object on updates: what it
/// grants already is not granted anew.
///
/// # Errors
/// [`ApiError::Forbidden`] if the object grants more than the user holds, and the user has neither
/// the verb `escalate` (roles) nor `bind` (bindings) for it; [`ApiError::NotFound`] if a binding's
/// role is needed for the answer and does not exist.
pub async fn check(
    authorizer: &Authorizer,
    user: &User,
    kind: Kind,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if user.in_group(MASTERS) {
        return Ok(());
    }
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let missing = match kind {
        Kind::Role | Kind::ClusterRole => {
            let rules = rules_of(object);
            let unchanged = old.is_some_and(|old| {
                rules_of(old) == rules
                    && old.get("aggregationRule") == object.get("aggregationRule")
            });
            let may_escalate =
                may(authorizer, user, "escalate", kind.resource(), namespace, name).await;
            if unchanged || may_escalate {
                return Ok(());
            }
            let missing = not_held(authorizer, user, namespace, &rules);
            let all = [all_of_it(), all_paths()];
            let aggregates = [Some(object), old].into_iter().flatten().any(has_aggregation);
            if missing.is_empty()
                && aggregates
                && !all.iter().all(|rule| holds(authorizer, user, namespace, rule))
            {
                let why = "must have cluster-admin privileges to use the aggregationRule";
                return Err(refused(kind, name, why));
            }
            missing
        }
        Kind::RoleBinding | Kind::ClusterRoleBinding => {
            let same = old.is_some_and(|old| {
                old.get("roleRef") == object.get("roleRef")
                    && old.get("subjects") == object.get("subjects")
            });
            // An object without a role is invalid, which validation tells.
            let Some(role) = role_of(object, namespace).filter(|_| !same) else { return Ok(()) };
            let resource = if role.namespace.is_empty() { "clusterroles" } else { "roles" };
            if may(authorizer, user, "bind", resource, namespace, &role.name).await {
                return Ok(());
            }
            // As upstream, which speaks of the resource of the request.
            let rules = authorizer.role(&role).ok_or_else(|| ApiError::NotFound {
                resource: GroupResource::new(GROUP, kind.resource()),
                name: role.name.clone(),
            })?;
            not_held(authorizer, user, namespace, &rules)
        }
    };
    if missing.is_empty() { Ok(()) } else { Err(forbidden(user, kind, name, &missing)) }
}

/// Those of the rules in `wanted` that the rules in `present` do not cover (both are role objects).
pub fn missing_rules(present: &Value, wanted: &Value) -> Vec<Value> {
    let held = rules_of(present);
    let covered = |part: &Rule| held.iter().any(|rule| covers(rule, part));
    let missing = |rule: &&Value| match serde_json::from_value::<Rule>((*rule).clone()) {
        Ok(rule) => !parts(&rule).all(|part| covered(&part)),
        Err(_) => false,
    };
    let rules = wanted.get("rules").and_then(Value::as_array).map(Vec::as_slice);
    rules.unwrap_or_default().iter().filter(missing).cloned().collect()
}

async fn may(
    authorizer: &Authorizer,
    user: &User,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> bool {
    let question = Attributes {
        verb,
        group: GROUP,
        version: "v1",
        resource,
        namespace,
        name,
        ..Attributes::of_nothing(user)
    };
    authorizer.authorize(&question).await.allowed
}

/// Those of `rules` that the user does not hold in `namespace`.
fn not_held(authorizer: &Authorizer, user: &User, namespace: &str, rules: &[Rule]) -> Vec<Rule> {
    let held = authorizer.granted(user, namespace);
    let covered = |part: &Rule| held.iter().any(|rule| covers(rule, part));
    rules.iter().filter(|rule| !parts(rule).all(|part| covered(&part))).cloned().collect()
}

fn holds(authorizer: &Authorizer, user: &User, namespace: &str, rule: &Rule) -> bool {
    not_held(authorizer, user, namespace, std::slice::from_ref(rule)).is_empty()
}

fn all_of_it() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() }
}

fn all_paths() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() }
}

/// The rule as single grants: one verb, group, resource and name each. They come one by one, as a short rule can
/// have millions.
fn parts(rule: &Rule) -> impl Iterator<Item = Rule> {
    let one = |text: &String| vec![text.clone()];
    let verbs = distinct(&rule.verbs);
    let (groups, resources) = (distinct(&rule.api_groups), distinct(&rule.resources));
    let names: Vec<Vec<String>> = match rule.resource_names.as_slice() {
        [] => vec![Vec::new()],
        names => distinct(names).into_iter().map(one).collect(),
    };
    let paths = distinct(&rule.non_resource_urls);
    let n_paths = verbs.len() * paths.len();
    let verbs_of_paths = verbs.clone();
    let paths = (0..n_paths).map(move |n| Rule {
        verbs: one(verbs_of_paths[n / paths.len()]),
        non_resource_urls: one(paths[n % paths.len()]),
        ..Rule::default()
    });
    let sizes = [groups.len(), resources.len(), names.len()];
    let n_resources = sizes.iter().fold(verbs.len(), |n, size| n.saturating_mul(*size));
    let resources = (0..n_resources).map(move |n| {
        let (n, name) = (n / names.len(), n % names.len());
        let (n, resource) = (n / resources.len(), n % resources.len());
        Rule {
            verbs: one(verbs[n / groups.len()]),
            api_groups: one(groups[n % groups.len()]),
            resources: one(resources[resource]),
            resource_names: names[name].clone(),
            ..Rule::default()
        }
    });
    resources.chain(paths)
}

fn distinct(texts: &[String]) -> Vec<&String> {
    texts.iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether a rule that is held contains a single grant.
fn covers(held: &Rule, part: &Rule) -> bool {
    let within = |held: &[String], part: &[String]| {
        held.iter().any(|h| h == "*") || part.iter().all(|p| held.contains(p))
    };
    let resource_held = |wanted: &String| {
        held.resources.iter().any(|h| {
            let any_with_sub = h.strip_prefix("*/").zip(wanted.split_once('/'));
            h == "*" || h == wanted || any_with_sub.is_some_and(|(sub, (_, w))| sub == w)
        })
    };
    let path_held = |wanted: &String| {
        held.non_resource_urls.iter().any(|h| {
            h == wanted || h.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix))
        })
    };
    let names_held = held.resource_names.is_empty()
        || (!part.resource_names.is_empty()
            && part.resource_names.iter().all(|name| held.resource_names.contains(name)));
    within(&held.verbs, &part.verbs)
        && within(&held.api_groups, &part.api_groups)
        && part.resources.iter().all(resource_held)
        && part.non_resource_urls.iter().all(path_held)
        && names_held
}

fn forbidden(user: &User, kind: Kind, name: &str, missing: &[Rule]) -> ApiError {
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    let rules: Vec<String> = missing.iter().map(shown).collect();
    let why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        rules.join("\n")
    );
    refused(kind, name, &why)
}

fn refused(kind: Kind, name: &str, why: &str) -> ApiError {
    let about = GroupResource::new(GROUP, kind.resource());
    ApiError::Forbidden {
        message: format!("{about} {name:?} is forbidden: {why}"),
        resource: Some(about),
        name: name.to_owned(),
        causes: Vec::new(),
    }
}

/// Whether a role gathers the rules of others.
fn has_aggregation(role: &Value) -> bool {
    role.get("aggregationRule").is_some_and(|rule| !rule.is_null())
}

fn shown(rule: &Rule) -> String {
    let list =
        |values: &[String]| values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" ");
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ];
    let present = fields.iter().filter(|(_, values)| !values.is_empty());
    let shown: Vec<String> =
        present.map(|(name, values)| format!("{name}:[{}]", list(values))).collect();
    format!("{{{}}}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The answer, for which nobody outside is asked.
    fn check(user: &User, kind: Kind, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let authorizer = authorizer();
        let answer = super::check(&authorizer, user, kind, "shop", object, old);
        futures::FutureExt::now_or_never(answer).expect("an answer without waiting")
    }

    /// Eve may get and list pods and their logs in `shop`, and bind the cluster role `view`.
    fn authorizer() -> Authorizer {
        let authorizer = Authorizer::default();
        let rules = json!({ "rules": [
            { "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/log"] },
            { "verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["view"] },
        ] });
        authorizer.set(Kind::Role, "shop", "r", Some(&rules));
        let binding = json!({
            "roleRef": { "kind": "Role", "name": "r" },
            "subjects": [{ "kind": "User", "name": "eve" }],
        });
        authorizer.set(Kind::RoleBinding, "shop", "b", Some(&binding));
        let all = json!({ "rules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }] });
        authorizer.set(Kind::ClusterRole, "", "cluster-admin", Some(&all));
        authorizer.set(Kind::ClusterRole, "", "view", Some(&all));
        authorizer
    }

    #[track_caller]
    fn role(rules: Value, expected: Result<(), &str>) {
        let role = json!({ "metadata": { "name": "mine" }, "rules": rules });
        let eve = User::new("eve", &[]);
        let got = check(&eve, Kind::Role, &role, None);
        assert_eq!(got.map_err(|e| e.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn a_role_holds_at_most_what_its_writer_holds() {
        role(
            json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"] }]),
            Ok(()),
        );
        let named = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"] }]);
        role(named, Ok(()));
        role(
            json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"] }]),
            Err("roles.rbac.authorization.k8s.io \"mine\" is forbidden: user \"eve\" \
                 (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
                 {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"),
        );
    }

    #[test]
    fn a_rule_that_was_there_already_may_stay() {
        let old = json!({ "rules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }] });
        let eve = User::new("eve", &[]);
        assert!(check(&eve, Kind::Role, &old, Some(&old)).is_ok());
        assert!(check(&eve, Kind::Role, &old, None).is_err());
        let root = User::new("root", &[MASTERS]);
        assert!(check(&root, Kind::Role, &old, None).is_ok());
    }

    #[test]
    fn a_binding_needs_the_verb_or_the_rules() {
        let eve = User::new("eve", &[]);
        let bind = |role: &str| {
            let object = json!({ "metadata": { "name": "b" }, "roleRef": { "kind": "ClusterRole", "name": role } });
            check(&eve, Kind::RoleBinding, &object, None)
        };
        assert!(bind("view").is_ok());
        assert!(matches!(bind("cluster-admin"), Err(ApiError::Forbidden { .. })));
        assert!(matches!(bind("ghost"), Err(ApiError::NotFound { .. })));
    }
}
