//! What is wrong with a question about access.
//!
//! Source: upstream `pkg/apis/authorization/validation`.

use schema::Cause;
use serde_json::Value;

use super::text;
use crate::types::check::{At, Causes, items, members};
use crate::types::words;

/// Who is asked about, and where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum About<'a> {
    /// Whoever asks.
    Myself,
    /// A user that the question names.
    Named,
    /// A user that the question names, in this namespace alone.
    NamedIn(&'a str),
}

/// Every bad field of a question.
pub(super) fn access(body: &Value, about: About<'_>) -> Vec<Cause> {
    let mut causes = Causes::default();
    let spec = &body["spec"];
    let at = At::new("spec");
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let (at_resource, at_other) =
        (at.field("resourceAttributes"), at.field("nonResourceAttributes"));
    match (resource.is_null(), other.is_null()) {
        (false, false) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            causes.invalid(&at_other, other, detail);
        }
        (true, true) => {
            let detail =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            causes.invalid(&at_resource, &Value::Null, detail);
        }
        _ => (),
    }
    if about != About::Myself
        && text(body, "/spec/user").is_empty()
        && items(&spec["groups"]).is_empty()
    {
        let detail = "at least one of user or group must be specified";
        causes.invalid(&at.field("user"), &"".into(), detail);
    }
    selector(&mut causes, &at_resource, "fieldSelector", resource);
    selector(&mut causes, &at_resource, "labelSelector", resource);
    metadata(&mut causes, &body["metadata"], about);
    if let About::NamedIn(namespace) = about {
        let asked = text(body, "/spec/resourceAttributes/namespace");
        if !resource.is_null() && asked != namespace {
            let detail = "must match metadata.namespace";
            causes.invalid(&at_resource.field("namespace"), &asked.into(), detail);
        }
        if !other.is_null() {
            causes.invalid(&at_other, other, "disallowed on this kind of request");
        }
    }
    causes.0
}

/// Questions are nobody's objects, and have no metadata.
fn metadata(causes: &mut Causes, metadata: &Value, about: About<'_>) {
    let in_namespace = matches!(about, About::NamedIn(_));
    let counts = |(key, value): (&String, &Value)| {
        let is_place = in_namespace && key == "namespace";
        key != "managedFields" && !is_place && !crate::types::check::is_empty(value)
    };
    if members(metadata).any(counts) {
        let but = if in_namespace { " except for namespace" } else { "" };
        causes.invalid(&At::new("metadata"), metadata, &format!("must be empty{but}"));
    }
}

fn selector(causes: &mut Causes, at: &At<'_>, name: &str, attributes: &Value) {
    let selector = &attributes[name];
    if selector.is_null() {
        return;
    }
    let at = at.field(name);
    let (raw, requirements) = (&selector["rawSelector"], items(&selector["requirements"]));
    let has_raw = raw.as_str().is_some_and(|raw| !raw.is_empty());
    if has_raw && !requirements.is_empty() {
        let detail = "may not specified at the same time as requirements";
        causes.invalid(&at.field("rawSelector"), raw, detail);
    }
    let at_list = at.field("requirements");
    if !has_raw && requirements.is_empty() {
        let detail = format!("when {at} is specified, requirements or rawSelector is required");
        causes.required(&at_list, &detail);
    }
    for (n, requirement) in requirements.iter().enumerate() {
        self::requirement(causes, &at_list.index(n), requirement, name == "labelSelector");
    }
}

fn requirement(causes: &mut Causes, at: &At<'_>, requirement: &Value, is_label: bool) {
    let key = text(requirement, "/key");
    if !is_label && key.is_empty() {
        causes.required(&at.field("key"), "must be specified");
    }
    let (at_values, values) = (at.field("values"), items(&requirement["values"]));
    match text(requirement, "/operator") {
        "In" | "NotIn" if values.is_empty() => {
            causes.required(&at_values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            causes.forbidden(&at_values, detail);
        }
        _ => (), // Newer clients may know other operators.
    }
    if is_label {
        causes.faults(&at.field("key"), key, words::qualified(key));
        for (n, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            causes.faults(&at_values.index(n), value, words::label_value(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(body: &Value, about: About<'_>, expected: &[&str]) {
        let causes = access(body, about);
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_question_is_about_one_thing_and_somebody() {
        check(&json!({}), About::Named, &["spec.resourceAttributes", "spec.user"]);
        let both = json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}});
        check(&both, About::Myself, &["spec.nonResourceAttributes"]);
    }

    #[test]
    fn a_local_question_stays_in_its_namespace() {
        let spec = json!({"user": "u", "resourceAttributes": {"namespace": "b"}});
        let body = json!({"metadata": {"namespace": "a"}, "spec": spec});
        check(&body, About::NamedIn("a"), &["spec.resourceAttributes.namespace"]);
        check(&body, About::Named, &["metadata"]);
    }

    #[test]
    fn selectors_say_something() {
        let ask = |selector: Value| json!({"spec": {"user": "u", "resourceAttributes": {"fieldSelector": selector}}});
        let at = "spec.resourceAttributes.fieldSelector.requirements";
        check(&ask(json!({})), About::Named, &[at]);
        let bare = json!({"requirements": [{"key": "a", "operator": "In"}]});
        check(&ask(bare), About::Named, &[&format!("{at}[0].values")]);
        let new = json!({"requirements": [{"key": "a", "operator": "Near"}]});
        check(&ask(new), About::Named, &[]);
    }
}
