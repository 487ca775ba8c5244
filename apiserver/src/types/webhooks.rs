//! Webhooks: those of admission, and those that convert custom resources.
//!
//! Source: upstream `pkg/apis/admissionregistration/validation/validation.go`.

use std::collections::HashSet;

use schema::Cause;
use schema::cel::ExpressionScope;
use serde_json::Value;

use super::admission::{conditions, rules};
use super::check::{At, Causes, items};
use super::{Strategy, words};
use crate::write::names;

/// Strategy of `mutatingwebhookconfigurations` and `validatingwebhookconfigurations`.
pub(super) struct Webhooks;

impl Strategy for Webhooks {
    fn unconditional_updates(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let hooks = items(&obj["webhooks"]);
        let known = old.map(|old| items(&old["webhooks"])).unwrap_or_default();
        let at = At::new("webhooks");
        let (known, mut seen): (HashSet<&Value>, _) = (known.iter().collect(), HashSet::new());
        for (n, hook) in hooks.iter().enumerate() {
            let at = at.index(n);
            // What was accepted once may stay.
            if !known.contains(hook) {
                webhook(hook, &at, &mut causes);
            }
            if !seen.insert(&hook["name"]) {
                causes.duplicate(&at.field("name"), &hook["name"]);
            }
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn webhook(hook: &Value, at: &At<'_>, causes: &mut Causes) {
    qualified_name(&hook["name"], &at.field("name"), causes);
    rules(&hook["rules"], &at.field("rules"), causes);
    causes.one_of(&at.field("failurePolicy"), &hook["failurePolicy"], &["Fail", "Ignore"]);
    causes.one_of(&at.field("matchPolicy"), &hook["matchPolicy"], &["Equivalent", "Exact"]);
    let again = &hook["reinvocationPolicy"];
    causes.one_of(&at.field("reinvocationPolicy"), again, &["IfNeeded", "Never"]);
    let harmless = ["None", "NoneOnDryRun"];
    if hook["sideEffects"].is_null() {
        let detail = "must specify one of None, NoneOnDryRun";
        causes.required(&at.field("sideEffects"), detail);
    }
    causes.one_of(&at.field("sideEffects"), &hook["sideEffects"], &harmless);
    let timeout = &hook["timeoutSeconds"];
    if timeout.as_i64().is_some_and(|n| !(1..=30).contains(&n)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        causes.invalid(&at.field("timeoutSeconds"), timeout, detail);
    }
    causes.selector(&at.field("namespaceSelector"), &hook["namespaceSelector"]);
    causes.selector(&at.field("objectSelector"), &hook["objectSelector"]);
    client(&hook["clientConfig"], &at.field("clientConfig"), causes);
    let scope = ExpressionScope::new(None).with_authorizer();
    conditions(&hook["matchConditions"], &at.field("matchConditions"), &scope, causes);
    let at = at.field("admissionReviewVersions");
    let missing = "must specify one of v1, v1beta1";
    review_versions(&hook["admissionReviewVersions"], &at, missing, causes);
}

fn qualified_name(value: &Value, at: &At<'_>, causes: &mut Causes) {
    let name = value.as_str().unwrap_or_default();
    if name.is_empty() {
        return causes.required(at, "");
    }
    let faults = names::subdomain(name);
    if faults.is_empty() && name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        causes.invalid(at, value, detail);
    }
    causes.faults(at, name, faults);
}

fn review_versions(versions: &Value, at: &At<'_>, missing: &str, causes: &mut Causes) {
    let list = items(versions);
    if list.is_empty() {
        return causes.required(at, missing);
    }
    let mut seen = HashSet::new();
    for (n, version) in list.iter().enumerate() {
        if !seen.insert(version) {
            causes.invalid(&at.index(n), version, "duplicate version");
        } else {
            let name = version.as_str().unwrap_or_default();
            causes.faults(&at.index(n), name, words::label_1035(name));
        }
    }
    if !list.iter().any(|version| version == "v1" || version == "v1beta1") {
        causes.invalid(at, versions, "must include at least one of v1, v1beta1");
    }
}

/// Faults of the webhook that converts the objects of a CustomResourceDefinition.
pub(crate) fn conversion(webhook: &Value, causes: &mut Vec<Cause>) {
    let mut found = Causes::default();
    let at = At::new("spec.conversion");
    if !webhook["clientConfig"].is_null() {
        client(&webhook["clientConfig"], &at.field("webhookClientConfig"), &mut found);
    }
    let versions = &webhook["conversionReviewVersions"];
    review_versions(versions, &at.field("conversionReviewVersions"), "", &mut found);
    causes.append(&mut found.0);
}

fn client(config: &Value, at: &At<'_>, causes: &mut Causes) {
    let (url, service) = (&config["url"], &config["service"]);
    match (url.as_str(), service.is_object()) {
        (Some(_), true) | (None, false) => {
            causes.required(at, "exactly one of url or service is required");
        }
        (Some(text), false) => self::url(text, &at.field("url"), causes),
        (None, true) => {
            let at = at.field("service");
            // As recorded: upstream names one where the other is missing.
            causes.present(&at.field("name"), &service["namespace"], "");
            causes.present(&at.field("namespace"), &service["name"], "");
            let port = &service["port"];
            if port.as_i64().is_some_and(|port| !(1..=65535).contains(&port)) {
                let detail = "port is not valid: must be between 1 and 65535, inclusive";
                causes.invalid(&at.field("port"), port, detail);
            }
            path(&service["path"], &at.field("path"), causes);
        }
    }
}

/// The scheme of a URL, if it has one, and what is behind the slashes, if there are some.
///
/// Source: RFC 3986, 3.1; Go's `url.Parse`.
fn scheme(text: &str) -> (&str, &str) {
    let is_scheme = |scheme: &&str| {
        let more = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(more)
    };
    let (scheme, rest) = match text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) {
        Some(parts) => parts,
        None => ("", text),
    };
    (scheme, rest.strip_prefix("//").unwrap_or_default())
}

fn url(text: &str, at: &At<'_>, causes: &mut Causes) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = scheme(text);
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        causes.invalid(at, &scheme.into(), &detail);
    }
    if host.is_empty() {
        causes.invalid(at, &"".into(), &format!("host must be specified{FORM}"));
    }
    for (part, detail) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            causes.invalid(at, &part.into(), detail);
        }
    }
}

fn path(value: &Value, at: &At<'_>, causes: &mut Causes) {
    let Some(path) = value.as_str().filter(|path| !matches!(*path, "" | "/")) else { return };
    if !path.starts_with('/') {
        causes.invalid(at, value, "must start with a '/'");
    }
    // The first byte is taken for the slash, whatever it is.
    let rest = path.get(1..).unwrap_or_default();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (n, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            causes.invalid(at, value, &format!("segment[{n}] may not be empty"));
            continue;
        }
        for fault in names::subdomain(step) {
            causes.invalid(at, value, &format!("segment[{n}]: {fault}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(change: Value, expected: &[&str]) {
        let mut hook = json!({"name": "a.example.com", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://a/b"},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
                       "resources": ["pods"]}]});
        for (key, value) in change.as_object().unwrap() {
            hook[key] = value.clone();
        }
        let causes = Webhooks.validate(&json!({ "webhooks": [hook] }), None, None);
        let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
        assert_eq!(causes, expected);
    }

    #[test]
    fn webhooks_are_refused_in_upstreams_words() {
        check(json!({}), &[]);
        check(
            json!({"name": "a.b"}),
            &[
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ],
        );
        check(
            json!({"sideEffects": "Unknown", "timeoutSeconds": 31}),
            &[
                "webhooks[0].sideEffects: Unsupported value: \"Unknown\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ],
        );
        check(
            json!({"clientConfig": {"url": "http://a?b=c"}}),
            &[
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "webhooks[0].clientConfig.url: Invalid value: \"b=c\": query parameters are not permitted in the URL",
            ],
        );
        check(
            json!({"clientConfig": {}}),
            &[
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ],
        );
        check(
            json!({"matchConditions": [{"name": "a", "expression": "nothing.a"}]}),
            &[
                "webhooks[0].matchConditions[0].expression: Invalid value: \"nothing.a\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')\n | nothing.a\n | ^",
            ],
        );
    }
}
