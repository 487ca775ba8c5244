//! Roles and bindings: names that may hold colons, and subjects. That nobody grants what they lack is
//! for `identity::escalation` to see.

use schema::print::{self, Fields, Shown};
use serde_json::{Value, json};

use super::Strategy;
use super::check::{At, Causes};
use crate::identity::rbac::{GROUP, Kind};
use crate::status::Cause;
use crate::write::names;

/// Rules of roles and cluster roles.
pub(super) struct Role(pub(super) Kind);

/// Rules of the bindings of both.
pub(super) struct Binding(pub(super) Kind);

impl Strategy for Role {
    fn validate_name(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, _sub: Option<&str>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let aggregation = &obj["aggregationRule"];
        if !aggregation.is_null() && is_empty(&aggregation["clusterRoleSelectors"]) {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            causes.push(Cause::required("aggregationRule.clusterRoleSelectors", detail));
        }
        selectors(&aggregation["clusterRoleSelectors"], &mut causes);
        for (at, rule) in obj["rules"].as_array().into_iter().flatten().enumerate() {
            validate_rule(rule, &format!("rules[{at}]"), self.0 == Kind::Role, &mut causes);
        }
        causes
    }
}

/// A bad selector is told twice: where it is bad, and as a whole.
fn selectors(list: &Value, causes: &mut Vec<Cause>) {
    let at = At::new("aggregationRule");
    let at = at.field("clusterRoleSelectors");
    for (n, selector) in list.as_array().into_iter().flatten().enumerate() {
        let mut faults = Causes::default();
        faults.selector(&at.index(n), selector);
        if !faults.0.is_empty() {
            faults.invalid(&at.index(n), &Value::Null, "invalid label selector.");
        }
        causes.append(&mut faults.0);
    }
}

fn validate_rule(rule: &Value, path: &str, namespaced: bool, causes: &mut Vec<Cause>) {
    if is_empty(&rule["verbs"]) {
        let detail = "verbs must contain at least one value";
        causes.push(Cause::required(format!("{path}.verbs"), detail));
    }
    let urls = &rule["nonResourceURLs"];
    let mut refuse = |detail: &str| {
        causes.push(Cause::invalid(format!("{path}.nonResourceURLs"), urls, detail));
    };
    if !is_empty(urls) {
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !is_empty(&rule[*field]))
        {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if is_empty(&rule["apiGroups"]) {
        let detail = "resource rules must supply at least one api group";
        causes.push(Cause::required(format!("{path}.apiGroups"), detail));
    }
    if is_empty(&rule["resources"]) {
        let detail = "resource rules must supply at least one resource";
        causes.push(Cause::required(format!("{path}.resources"), detail));
    }
}

impl Strategy for Binding {
    fn validate_name(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn default(&self, obj: &mut Value) {
        if let Some(role) = obj.get_mut("roleRef").filter(|role| role.is_object())
            && is_blank(&role["apiGroup"])
        {
            role["apiGroup"] = GROUP.into();
        }
        let subjects = obj.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            let in_group = matches!(subject["kind"].as_str(), Some("User" | "Group"));
            if in_group && is_blank(&subject["apiGroup"]) {
                subject["apiGroup"] = GROUP.into();
            }
        }
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _sub: Option<&str>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let role = &obj["roleRef"];
        if role["apiGroup"] != GROUP {
            causes.push(not_supported("roleRef.apiGroup", &role["apiGroup"], &[GROUP]));
        }
        let kinds: &[&str] = match self.0 {
            Kind::ClusterRoleBinding => &["ClusterRole"],
            _ => &["Role", "ClusterRole"],
        };
        if !kinds.iter().any(|kind| role["kind"] == *kind) {
            let kind = text(&role["kind"]).into();
            causes.push(not_supported("roleRef.kind", &kind, kinds));
        }
        let name = text(&role["name"]);
        if name.is_empty() {
            causes.push(Cause::required("roleRef.name", ""));
        } else {
            let faults = names::path_segment(name);
            causes.extend(faults.iter().map(|f| Cause::invalid("roleRef.name", &role["name"], f)));
        }
        for (at, subject) in obj["subjects"].as_array().into_iter().flatten().enumerate() {
            let namespaced = self.0 == Kind::RoleBinding;
            validate_subject(subject, &format!("subjects[{at}]"), namespaced, &mut causes);
        }
        if old.is_some_and(|old| old["roleRef"] != *role) {
            const ROLE: Fields =
                &[("apiGroup", Shown::Text), ("kind", Shown::Text), ("name", Shown::Text)];
            let shown = print::internal(ROLE, role);
            causes.push(Cause::invalid_as("roleRef", &shown, "cannot change roleRef"));
        }
        causes
    }
}

/// Kinds and groups are plain strings in Go.
fn not_supported(field: &str, value: &Value, supported: &[&str]) -> Cause {
    Cause::not_supported_as(field, &schema::cause::show(value), supported.iter().copied())
}

fn validate_subject(subject: &Value, path: &str, namespaced: bool, causes: &mut Vec<Cause>) {
    let (name, group) = (text(&subject["name"]), text(&subject["apiGroup"]));
    if name.is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    }
    let wanted = match text(&subject["kind"]) {
        "ServiceAccount" => {
            for fault in names::subdomain(name).iter().filter(|_| !name.is_empty()) {
                causes.push(Cause::invalid(format!("{path}.name"), &subject["name"], fault));
            }
            if !namespaced && text(&subject["namespace"]).is_empty() {
                causes.push(Cause::required(format!("{path}.namespace"), ""));
            }
            ""
        }
        "User" | "Group" => GROUP,
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            causes.push(not_supported(&format!("{path}.kind"), &other.into(), &kinds));
            return;
        }
    };
    if group != wanted {
        causes.push(not_supported(&format!("{path}.apiGroup"), &json!(group), &[wanted]));
    }
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

fn is_blank(value: &Value) -> bool {
    text(value).is_empty()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(strategy: &dyn Strategy, mut object: Value, expected: &[&str]) {
        strategy.default(&mut object);
        let causes = strategy.validate(&object, None, None);
        let texts: Vec<String> =
            causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_binding_names_a_role_and_known_subjects() {
        let binding =
            |role: Value, subjects: Value| json!({ "roleRef": role, "subjects": subjects });
        let fine = json!({ "kind": "Role", "name": "a:b" });
        check(
            &Binding(Kind::RoleBinding),
            binding(fine.clone(), json!([{ "kind": "User", "name": "u" }])),
            &[],
        );
        check(
            &Binding(Kind::ClusterRoleBinding),
            binding(fine, json!([{ "kind": "ServiceAccount", "name": "web" }])),
            &[
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value",
            ],
        );
        check(
            &Binding(Kind::RoleBinding),
            binding(
                json!({ "kind": "Pod", "name": "" }),
                json!([{ "kind": "Robot", "name": "x" }]),
            ),
            &[
                "roleRef.kind: Unsupported value: \"Pod\": supported values: \"Role\", \"ClusterRole\"",
                "roleRef.name: Required value",
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ],
        );
    }

    #[test]
    fn rules_are_about_resources_or_paths() {
        let role = |rule: Value| json!({ "rules": [rule] });
        check(
            &Role(Kind::ClusterRole),
            role(json!({ "verbs": ["get"], "nonResourceURLs": ["/x"] })),
            &[],
        );
        check(
            &Role(Kind::Role),
            role(json!({ "verbs": ["get"], "nonResourceURLs": ["/x"] })),
            &[
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            ],
        );
        check(
            &Role(Kind::Role),
            role(json!({})),
            &[
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ],
        );
    }
}
