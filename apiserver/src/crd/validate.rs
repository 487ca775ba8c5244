//! What is wrong with a CustomResourceDefinition, beyond its schema.

use schema::Cause;
use schema::print::{self, Fields, Shown};
use serde_json::Value;

use super::names::{APPROVED, Approval, approval};
use crate::registry::facts::FACTS;
use crate::types::words::label_1035;
use crate::types::{conditions, webhooks};

/// Everything that is wrong; a write of the status alone is trusted with the versions that are stored.
pub(super) fn definition(obj: &Value, old: Option<&Value>, is_status: bool) -> Vec<Cause> {
    let spec = &obj["spec"];
    let mut causes = Vec::new();
    if old.is_none() {
        name(obj, &mut causes);
    }
    names(obj, &mut causes);
    versions(obj, &mut causes);
    super::parts::validate(spec, &mut causes);
    conversion(spec, &mut causes);
    schemas(spec, old.map(|o| &o["spec"]), &mut causes);
    if !is_status {
        stored(obj, &mut causes);
    }
    approved(obj, old, &mut causes);
    if let Some(old) = old {
        immutable(spec, &old["spec"], conditions::is_true(old, "Established"), &mut causes);
    }
    causes
}

/// Groups that belong to Kubernetes need an annotation; those that never had one are left alone.
fn approved(obj: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let field = format!("metadata.annotations[{APPROVED}]");
    let was = old.and_then(approval);
    match (approval(obj), was) {
        (Some(Approval::Missing(text)), was) if !matches!(was, Some(Approval::Missing(_))) => {
            causes.push(Cause::required(field, &text));
        }
        (Some(Approval::Invalid(text)), was) if !matches!(was, Some(Approval::Invalid(_))) => {
            let note = &obj["metadata"]["annotations"][APPROVED];
            causes.push(Cause::invalid(field, note, &text));
        }
        _ => (),
    }
}

fn name(obj: &Value, causes: &mut Vec<Cause>) {
    let (spec, names) = (&obj["spec"], &obj["spec"]["names"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let wanted = format!("{}.{}", text(&names["plural"]), text(&spec["group"]));
    for key in ["generateName", "name"] {
        let given = &obj["metadata"][key];
        if !text(given).is_empty() && *given != wanted.as_str() {
            let fault = "must be spec.names.plural+\".\"+spec.group";
            causes.push(Cause::invalid(format!("metadata.{key}"), given, fault));
        }
    }
}

fn names(obj: &Value, causes: &mut Vec<Cause>) {
    let (spec, names) = (&obj["spec"], &obj["spec"]["names"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let group = text(&spec["group"]);
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if !crate::write::names::subdomain(&group).is_empty() {
        for fault in crate::write::names::subdomain(&group) {
            causes.push(Cause::invalid("spec.group", &spec["group"], &fault));
        }
    } else if !group.contains('.') && !FACTS.groups.contains_key(&group) {
        // Upstream's own groups without a dot arrive as definitions here.
        causes.push(Cause::invalid(
            "spec.group",
            &spec["group"],
            "should be a domain with at least one dot",
        ));
    }
    match spec["scope"].as_str() {
        Some("Namespaced" | "Cluster") => (),
        None | Some("") => causes.push(Cause::required("spec.scope", "")),
        Some(_) => causes.push(Cause::not_supported(
            "spec.scope",
            &spec["scope"],
            ["Cluster", "Namespaced"],
        )),
    }
    for key in ["plural", "singular"] {
        label(&names[key], &format!("spec.names.{key}"), causes);
    }
    for key in ["kind", "listKind"] {
        let lower = text(&names[key]).to_lowercase();
        if lower.is_empty() {
            causes.push(Cause::required(format!("spec.names.{key}"), ""));
            continue;
        }
        for fault in label_1035(&lower) {
            let fault = format!("may have mixed case, but should otherwise match: {fault}");
            causes.push(Cause::invalid(format!("spec.names.{key}"), &names[key], &fault));
        }
    }
    if names["kind"] == names["listKind"] && names["kind"].is_string() {
        let fault = "kind and listKind may not be the same";
        causes.push(Cause::invalid("spec.names.listKind", &names["listKind"], fault));
    }
    for key in ["shortNames", "categories"] {
        for (n, name) in names[key].as_array().into_iter().flatten().enumerate() {
            label(name, &format!("spec.names.{key}[{n}]"), causes);
        }
    }
}

fn label(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        return causes.push(Cause::required(field, ""));
    }
    for fault in label_1035(text) {
        causes.push(Cause::invalid(field, value, &fault));
    }
}

fn versions(obj: &Value, causes: &mut Vec<Cause>) {
    let field = &obj["spec"]["versions"];
    let versions: Vec<&Value> = field.as_array().into_iter().flatten().collect();
    for (n, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{n}]");
        let name = version["name"].as_str().unwrap_or_default();
        for fault in label_1035(name) {
            causes.push(Cause::invalid(format!("{at}.name"), &name.into(), &fault));
            if n == 0 && !name.is_empty() {
                // The field of the first API version.
                causes.push(Cause::invalid("spec.version", &name.into(), &fault));
            }
        }
        if version["schema"]["openAPIV3Schema"].is_null() {
            causes.push(Cause::required(format!("{at}.schema.openAPIV3Schema"), ""));
        }
        if versions[..n].iter().any(|other| other["name"] == version["name"]) {
            let fault = "must contain unique version names";
            causes.push(Cause::invalid_as("spec.versions", &go_versions(field), fault));
        }
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let fault = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid_as("spec.versions", &go_versions(field), fault));
    }
}

/// A version as Go shows it.
const VERSION: Fields = &[
    ("name", Shown::Text),
    ("served", Shown::Flag),
    ("storage", Shown::Flag),
    ("deprecated", Shown::Flag),
    ("deprecationWarning", Shown::Any),
    ("schema", Shown::Any),
    ("subresources", Shown::Any),
    ("additionalPrinterColumns", Shown::Any),
    ("selectableFields", Shown::Any),
];

/// Versions as Go shows them. What is the same in all of them stands elsewhere there.
fn go_versions(versions: &Value) -> String {
    let Some(versions) = versions.as_array() else { return "null".to_owned() };
    let shown = versions.iter().map(|version| {
        let mut version = version.clone();
        for key in ["schema", "subresources", "additionalPrinterColumns", "selectableFields"] {
            if versions.iter().all(|other| other[key] == version[key]) {
                version[key] = Value::Null;
            }
        }
        print::internal(VERSION, &version)
    });
    format!("[{}]", shown.collect::<Vec<_>>().join(","))
}

/// What of the stored versions the definition must still know.
fn stored(obj: &Value, causes: &mut Vec<Cause>) {
    let versions: Vec<&Value> = obj["spec"]["versions"].as_array().into_iter().flatten().collect();
    let stored = &obj["status"]["storedVersions"];
    if stored.as_array().is_none_or(Vec::is_empty) {
        let fault = "must have at least one stored version";
        causes.push(Cause::invalid("status.storedVersions", stored, fault));
    }
    let storage = versions.iter().rev().find(|v| v["storage"] == true).map(|v| &v["name"]);
    if let (Some(storage), Some(list)) = (storage, stored.as_array().filter(|l| !l.is_empty()))
        && !list.contains(storage)
    {
        let fault =
            format!("must have the storage version {}", storage.as_str().unwrap_or_default());
        causes.push(Cause::invalid("status.storedVersions", stored, &fault));
    }
    for (n, name) in stored.as_array().into_iter().flatten().enumerate() {
        if !versions.iter().any(|v| v["name"] == *name) {
            let fault = "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions";
            let fault = fault.replace("v1", name.as_str().unwrap_or_default());
            causes.push(Cause::invalid(format!("status.storedVersions[{n}]"), name, &fault));
        }
    }
}

fn conversion(spec: &Value, causes: &mut Vec<Cause>) {
    if spec["preserveUnknownFields"] == true {
        let fault = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        causes.push(Cause::invalid(
            "spec.preserveUnknownFields",
            &spec["preserveUnknownFields"],
            fault,
        ));
    }
    let conversion = &spec["conversion"];
    let strategy = conversion["strategy"].as_str();
    if spec["preserveUnknownFields"] == true && !matches!(strategy, None | Some("" | "None")) {
        let fault = "must be None if spec.preserveUnknownFields is true";
        let cause = Cause::invalid("spec.conversion.strategy", &conversion["strategy"], fault);
        causes.push(cause);
    }
    match strategy {
        None | Some("" | "None") => {
            let webhook = &conversion["webhook"];
            let fault = "should not be set when strategy is not set to Webhook";
            if !webhook["clientConfig"].is_null() {
                causes.push(Cause::forbidden("spec.conversion.webhookClientConfig", fault));
            }
            if webhook["conversionReviewVersions"].as_array().is_some_and(|v| !v.is_empty()) {
                causes.push(Cause::forbidden("spec.conversion.conversionReviewVersions", fault));
            }
        }
        Some("Webhook") => {
            let webhook = &conversion["webhook"];
            if webhook["clientConfig"].is_null() {
                let detail = "required when strategy is set to Webhook";
                causes.push(Cause::required("spec.conversion.webhookClientConfig", detail));
            }
            webhooks::conversion(webhook, causes);
        }
        Some(_) => causes.push(Cause::not_supported(
            "spec.conversion.strategy",
            &conversion["strategy"],
            ["None", "Webhook"],
        )),
    }
}

/// Judges schemas that are new or changed; a schema that all versions share is named once.
fn schemas(spec: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    let schema = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
    let known: Vec<Value> =
        old.and_then(|o| o["versions"].as_array()).into_iter().flatten().map(schema).collect();
    let shared = versions.windows(2).all(|pair| schema(pair[0]) == schema(pair[1]));
    let judged = if shared { &versions[..versions.len().min(1)] } else { &versions[..] };
    for (n, version) in judged.iter().enumerate() {
        let schema = &version["schema"]["openAPIV3Schema"];
        // Upstream's own types are judged by the tests that generate them.
        let ours = schema.get("x-improv-definition").is_some();
        if schema.is_null() || ours || known.contains(schema) {
            continue;
        }
        let path = match shared {
            true => "spec.validation.openAPIV3Schema".to_owned(),
            false => format!("spec.versions[{n}].schema.openAPIV3Schema"),
        };
        causes.extend(schema::crd::validate_schema(schema, &path));
    }
}

fn immutable(spec: &Value, old: &Value, established: bool, causes: &mut Vec<Cause>) {
    let mut check = |field: &str, new: &Value, old: &Value| {
        if new != old {
            causes.push(Cause::invalid(field, new, "field is immutable"));
        }
    };
    check("spec.group", &spec["group"], &old["group"]);
    check("spec.names.plural", &spec["names"]["plural"], &old["names"]["plural"]);
    if established {
        check("spec.scope", &spec["scope"], &old["scope"]);
        check("spec.names.kind", &spec["names"]["kind"], &old["names"]["kind"]);
    }
}
