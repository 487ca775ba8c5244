//! Which requests belong to which priority level.

use schema::Cause;
use serde_json::{Value, json};

use super::super::check::{At, Causes, flag, is_empty, items, text};
use super::super::{Ctx, Strategy, words};
use super::{conditions, mandatory};
use crate::status::ApiError;
use crate::write::names;

/// Verbs that rules may name.
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// Kinds of subjects, and the member that describes one.
const SUBJECTS: [(&str, &str); 3] =
    [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];

/// Strategy of `flowschemas`.
pub(crate) struct FlowSchemas;

impl Strategy for FlowSchemas {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        conditions(&mut causes, obj);
        if subresource.is_some() {
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let name = text(&obj["metadata"], "name");
        precedence(&mut causes, &at.field("matchingPrecedence"), spec, name);
        let method = &spec["distinguisherMethod"];
        if !method.is_null() && !matches!(text(method, "type"), "ByNamespace" | "ByUser") {
            let at = at.field("distinguisherMethod");
            let shown = json!({ "Type": text(method, "type") }); // As Go has it.
            causes.not_supported(&at.field("type"), &shown, &["ByNamespace", "ByUser"]);
        }
        let level_at = at.field("priorityLevelConfiguration");
        let level = &spec["priorityLevelConfiguration"]["name"];
        if causes.present(&level_at.field("name"), level, "must reference a priority level") {
            causes.subdomain(&level_at.field("name"), level);
        }
        let list = at.field("rules");
        for (n, rule) in items(&spec["rules"]).iter().enumerate() {
            self::rule(&mut causes, &list.index(n), rule);
        }
        if mandatory("FlowSchema", name).is_some_and(|fixed| fixed != spec) {
            let detail = format!("spec of '{name}' must equal the fixed value");
            causes.invalid(&at, spec, &detail);
        }
        causes.0
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        &super::super::METADATA
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn precedence(causes: &mut Causes, at: &At<'_>, spec: &Value, name: &str) {
    const MOST: i64 = 10_000;
    let precedence = &spec["matchingPrecedence"];
    let n = precedence.as_i64().unwrap_or_default();
    if n <= 0 {
        causes.invalid(at, &n.into(), "must be a positive value");
    }
    if n > MOST {
        causes.invalid(at, precedence, &format!("must not be greater than {MOST}"));
    }
    if n == 1 && name != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        causes.invalid(at, precedence, detail);
    }
}

fn rule(causes: &mut Causes, at: &At<'_>, rule: &Value) {
    let list = at.field("subjects");
    causes.present(&list, &rule["subjects"], "subjects must contain at least one value");
    for (n, subject) in items(&rule["subjects"]).iter().enumerate() {
        self::subject(causes, &list.index(n), subject);
    }
    if ["resourceRules", "nonResourceRules"].iter().all(|list| is_empty(&rule[*list])) {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        causes.required(at, detail);
    }
    let list = at.field("resourceRules");
    for (n, rule) in items(&rule["resourceRules"]).iter().enumerate() {
        resources(causes, &list.index(n), rule);
    }
    let list = at.field("nonResourceRules");
    for (n, rule) in items(&rule["nonResourceRules"]).iter().enumerate() {
        let at = list.index(n);
        verbs(causes, &at, rule);
        urls(causes, &at.field("nonResourceURLs"), &rule["nonResourceURLs"]);
    }
}

fn subject(causes: &mut Causes, at: &At<'_>, subject: &Value) {
    let kind = text(subject, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(name, _)| *name == kind) else {
        let kinds = SUBJECTS.map(|(kind, _)| kind);
        return causes.not_supported(&at.field("kind"), &kind.into(), &kinds);
    };
    for (kind, other) in SUBJECTS.iter().filter(|(_, field)| field != own) {
        if !subject[*other].is_null() {
            let detail = format!("{other} is forbidden when subject kind is not '{kind}'");
            causes.forbidden(&at.field(other), &detail);
        }
    }
    let (at, value) = (at.field(own), &subject[*own]);
    if value.is_null() {
        let detail = format!("{own} is required when subject kind is '{kind}'");
        return causes.required(&at, &detail);
    }
    let there = causes.present(&at.field("name"), &value["name"], "");
    if *own == "serviceAccount" {
        if there && value["name"] != "*" {
            causes.subdomain(&at.field("name"), &value["name"]);
        }
        let detail = "must specify namespace for service account";
        if causes.present(&at.field("namespace"), &value["namespace"], detail) {
            let namespace = text(value, "namespace");
            causes.faults(&at.field("namespace"), namespace, names::label(namespace));
        }
    }
}

fn verbs(causes: &mut Causes, at: &At<'_>, rule: &Value) {
    let (at, verbs) = (at.field("verbs"), &rule["verbs"]);
    causes.present(&at, verbs, "verbs must contain at least one value");
    if alone(causes, &at, verbs, "verbs") {
        return;
    }
    let known = |verb: &Value| verb.as_str().is_some_and(|verb| VERBS.contains(&verb));
    if !items(verbs).iter().all(known) {
        causes.not_supported(&at, verbs, &VERBS);
    }
}

/// Whether `*` is in the list, where it stands alone.
fn alone(causes: &mut Causes, at: &At<'_>, list: &Value, what: &str) -> bool {
    let entries = items(list);
    let has = entries.iter().any(|entry| entry == "*");
    if has && entries.len() > 1 {
        causes.invalid(at, list, &format!("if '*' is present, must not specify other {what}"));
    }
    has
}

fn resources(causes: &mut Causes, at: &At<'_>, rule: &Value) {
    verbs(causes, at, rule);
    for (field, what, one) in
        [("apiGroups", "api groups", "api group"), ("resources", "resources", "resource")]
    {
        let detail = format!("resource rules must supply at least one {one}");
        causes.present(&at.field(field), &rule[field], &detail);
        alone(causes, &at.field(field), &rule[field], what);
    }
    let (at, namespaces) = (at.field("namespaces"), &rule["namespaces"]);
    if is_empty(namespaces) && !flag(rule, "clusterScope") {
        let detail =
            "resource rules that are not cluster scoped must supply at least one namespace";
        return causes.required(&at, detail);
    }
    if alone(causes, &at, namespaces, "namespaces") {
        return;
    }
    for (n, namespace) in items(namespaces).iter().enumerate() {
        for fault in words::label(namespace.as_str().unwrap_or_default()) {
            let detail =
                format!("each member of this list must be '*' or a DNS-1123 label; {fault}");
            causes.invalid(&at.index(n), namespace, &detail);
        }
    }
}

fn urls(causes: &mut Causes, at: &At<'_>, urls: &Value) {
    causes.present(at, urls, "nonResourceURLs must contain at least one value");
    if alone(causes, at, urls, "non-resource URLs") {
        return;
    }
    for (n, url) in items(urls).iter().enumerate() {
        if let Some(fault) = path_fault(url.as_str().unwrap_or_default()) {
            causes.invalid(&at.index(n), url, fault);
        }
    }
}

/// What is wrong with a path, which may end in `/*`.
fn path_fault(path: &str) -> Option<&'static str> {
    let wildcards = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if wildcards > 1 || wildcards == 1 && !path.ends_with("/*") => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, change: impl FnOnce(&mut Value), expected: &[&str]) {
        let mut schema = json!({"metadata": {"name": name}, "spec": {
            "matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "low"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "u"}}],
                "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz", "/x/*"]}],
            }],
        }});
        change(&mut schema["spec"]);
        let causes = FlowSchemas.validate(&schema, None, None);
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn schemas_say_whom_and_what_they_match() {
        check("f", |_| (), &[]);
        check("f", |spec| spec["matchingPrecedence"] = 1.into(), &["spec.matchingPrecedence"]);
        let user = "spec.rules[0].subjects[0].user";
        let subject = json!({"kind": "Group", "user": {"name": "u"}, "group": {"name": ""}});
        let name = "spec.rules[0].subjects[0].group.name";
        check("f", |spec| spec["rules"][0]["subjects"][0] = subject, &[user, name]);
        let rule = json!({"verbs": ["see"], "apiGroups": ["*", "a"], "resources": ["pods"]});
        let places = ["verbs", "apiGroups", "namespaces"]
            .map(|field| format!("spec.rules[0].resourceRules[0].{field}"));
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        check("f", |spec| spec["rules"][0]["resourceRules"][0] = rule, &places);
    }

    #[test]
    fn mandatory_schemas_stay_as_they_are() {
        check("catch-all", |_| (), &["spec"]);
        check(
            "catch-all",
            |spec| *spec = mandatory("FlowSchema", "catch-all").unwrap().clone(),
            &[],
        );
    }

    #[test]
    fn paths_end_in_wildcards_at_most() {
        for good in ["/", "/*", "/a", "/a/*"] {
            assert_eq!(path_fault(good), None, "{good}");
        }
        for bad in ["", "a", "/a b", "//", "/a*", "/*/*", "/a/*b"] {
            assert!(path_fault(bad).is_some(), "{bad}");
        }
    }
}
