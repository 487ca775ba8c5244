//! Which requests a FlowSchema is about, and what tells its flows apart.
//!
//! Source: kubernetes.io, "API Priority and Fairness", "FlowSchema".

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchemaSpec, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};

use crate::request::{RequestInfo, User};

const ALL: &str = "*";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Whether the schema is about this request.
pub fn matches(schema: &FlowSchemaSpec, user: &User, info: &RequestInfo) -> bool {
    schema.rules.iter().flatten().any(|rule| rule_matches(rule, user, info))
}

/// What tells this request's flow from others of the same schema.
pub fn distinguisher<'a>(
    schema: &FlowSchemaSpec,
    user: &'a User,
    info: &'a RequestInfo,
) -> &'a str {
    match schema.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
        Some("ByUser") => &user.name,
        Some("ByNamespace") => &info.namespace,
        _ => "",
    }
}

fn rule_matches(rule: &PolicyRulesWithSubjects, user: &User, info: &RequestInfo) -> bool {
    rule.subjects.iter().any(|subject| subject_matches(subject, user))
        && if info.is_resource {
            rule.resource_rules.iter().flatten().any(|rule| resource_matches(rule, info))
        } else {
            rule.non_resource_rules.iter().flatten().any(|rule| path_matches(rule, info))
        }
}

fn subject_matches(subject: &Subject, user: &User) -> bool {
    match subject.kind.as_str() {
        "User" => subject.user.as_ref().is_some_and(|u| u.name == ALL || u.name == user.name),
        "Group" => subject.group.as_ref().is_some_and(|g| g.name == ALL || user.in_group(&g.name)),
        "ServiceAccount" => subject.service_account.as_ref().is_some_and(|account| {
            let of_namespace = user
                .name
                .strip_prefix(SERVICE_ACCOUNT_PREFIX)
                .and_then(|rest| rest.strip_prefix(account.namespace.as_str()))
                .and_then(|rest| rest.strip_prefix(':'));
            of_namespace.is_some_and(|name| account.name == ALL || account.name == name)
        }),
        _ => false,
    }
}

fn resource_matches(rule: &ResourcePolicyRule, info: &RequestInfo) -> bool {
    lists(&rule.verbs, &info.verb)
        && lists_resource(&rule.resources, info)
        && lists(&rule.api_groups, &info.group)
        && if info.namespace.is_empty() {
            rule.cluster_scope.unwrap_or_default()
        } else {
            rule.namespaces.as_ref().is_some_and(|list| lists(list, &info.namespace))
        }
}

fn path_matches(rule: &NonResourcePolicyRule, info: &RequestInfo) -> bool {
    lists(&rule.verbs, &info.verb)
        && rule.non_resource_urls.iter().any(|url| {
            let folder = url.strip_suffix('*').unwrap_or(url).trim_end_matches('/');
            let below = |rest: &str| rest.starts_with('/');
            url == ALL || *url == info.path || info.path.strip_prefix(folder).is_some_and(below)
        })
}

/// `pods`, or `pods/status` for a subresource; without making that text.
fn lists_resource(list: &[String], info: &RequestInfo) -> bool {
    let is_it = |entry: &String| match entry.split_once('/') {
        Some((resource, sub)) => resource == info.resource && sub == info.subresource,
        None => *entry == info.resource && info.subresource.is_empty(),
    };
    is_all(list) || list.iter().any(is_it)
}

fn lists(list: &[String], value: &str) -> bool {
    is_all(list) || list.iter().any(|entry| entry == value)
}

fn is_all(list: &[String]) -> bool {
    matches!(list, [only] if only == ALL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::config::recorded;
    use http::Method;

    /// The first of the recorded schemas that matches, and the flow.
    #[track_caller]
    fn check(user: &User, request: &str, expected: &str) {
        let (method, uri) = request.split_once(' ').unwrap();
        let info = RequestInfo::parse(&method.parse::<Method>().unwrap(), uri, None);
        let (mut schemas, _) = recorded();
        schemas.sort_by_key(|s| s.spec.as_ref().unwrap().matching_precedence);
        let found =
            schemas.iter().find(|s| matches(s.spec.as_ref().unwrap(), user, &info)).unwrap();
        let flow = distinguisher(found.spec.as_ref().unwrap(), user, &info);
        let name = found.metadata.name.as_deref().unwrap();
        assert_eq!(format!("{name} {flow}"), expected, "{request}");
    }

    #[test]
    fn the_default_schemas_choose_as_upstream_does() {
        let masters = User::new("admin", &["system:masters"]);
        check(&masters, "GET /api/v1/pods", "exempt ");
        let node = User::new("system:node:n1", &["system:nodes"]);
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
        check(&node, &format!("PUT {lease}"), "system-node-high system:node:n1");
        check(&node, "PATCH /api/v1/nodes/n1/status", "system-node-high system:node:n1");
        check(&node, "GET /api/v1/pods", "system-nodes system:node:n1");
        let account = User::new("system:serviceaccount:kube-system:x", &["system:serviceaccounts"]);
        let leader = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
        let name = "system:serviceaccount:kube-system:x";
        check(&account, &format!("PUT {leader}"), &format!("system-leader-election {name}"));
        check(&account, &format!("DELETE {leader}"), "kube-system-service-accounts kube-system");
        let account =
            User::new("system:serviceaccount:kube-systemx:x", &["system:serviceaccounts"]);
        let name = "system:serviceaccount:kube-systemx:x";
        check(&account, "GET /api/v1/pods", &format!("service-accounts {name}"));
        let jane = User::new("jane", &[]);
        check(&jane, "GET /api/v1/namespaces/a/pods", "global-default jane");
        check(&jane, "GET /healthz", "probes ");
        check(&jane, "GET /healthz/ping", "probes ");
        check(&jane, "GET /healthzz", "global-default jane");
        check(&User::anonymous(), "GET /version", "global-default system:anonymous");
    }
}
