//! What is wrong with the parts that each version of a definition may have beside its schema: printer columns,
//! subresources, selectable fields, a warning.
//!
//! Source: `ValidateCustomResourceDefinitionSpec` of upstream's apiextensions-apiserver.

use schema::Cause;
use serde_json::Value;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// Most selectable fields of a version.
const MAX_SELECTABLE: u64 = 8;
/// Longest warning, in bytes.
const WARNING_BYTES: usize = 256;
const SIMPLE: &str = "must be a simple json path starting with .";

/// Judges every version; a part that all versions share is named once, where the first API version had it.
pub(super) fn validate(spec: &Value, causes: &mut Vec<Cause>) {
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    let is_shared = |key: &str| versions.windows(2).all(|pair| pair[0][key] == pair[1][key]);
    let check = |key: &str,
                 judge: &dyn Fn(&Value, &str, &mut Vec<Cause>),
                 causes: &mut Vec<Cause>| {
        let shared = is_shared(key);
        let judged = if shared { &versions[..versions.len().min(1)] } else { &versions[..] };
        for (n, version) in judged.iter().enumerate().filter(|(_, version)| !version[key].is_null())
        {
            let at =
                if shared { format!("spec.{key}") } else { format!("spec.versions[{n}].{key}") };
            judge(version, &at, causes);
        }
    };
    check("additionalPrinterColumns", &columns, causes);
    check("subresources", &subresources, causes);
    // As recorded: upstream looks for the schema only where it has put the fields.
    let has_schema = |version: &Value| {
        is_shared("schema") == is_shared("selectableFields") && !version["schema"].is_null()
    };
    let judge = |version: &Value, at: &str, causes: &mut Vec<Cause>| {
        if has_schema(version) || version["selectableFields"].as_array().is_none_or(Vec::is_empty) {
            return selectable(version, at, causes);
        }
        let fault = match is_shared("selectableFields") {
            true => "may only be set when validations.schema is included",
            false => "may only be set when `version.schema.openAPIV3Schema` is not included",
        };
        causes.push(Cause::invalid(at, &"".into(), fault));
    };
    check("selectableFields", &judge, causes);
    for (n, version) in versions.iter().enumerate() {
        let warning = &version["deprecationWarning"];
        let field = format!("spec.versions[{n}].deprecationWarning");
        let faults =
            warning.as_str().map(|text| warning_faults(version["deprecated"] == true, text));
        causes.extend(
            faults.into_iter().flatten().map(|fault| Cause::invalid(&*field, warning, &fault)),
        );
    }
}

fn columns(version: &Value, at: &str, causes: &mut Vec<Cause>) {
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
    for (n, column) in columns.enumerate() {
        let field = |name: &str| format!("{at}[{n}].{name}");
        let text = |name: &str| column[name].as_str().unwrap_or_default();
        if text("name").is_empty() {
            causes.push(Cause::required(field("name"), ""));
        }
        let one_of = |words: &[&str]| format!("must be one of {}", words.join(","));
        match text("type") {
            "" => causes.push(Cause::required(field("type"), &one_of(&COLUMN_TYPES))),
            known if COLUMN_TYPES.contains(&known) => (),
            _ => {
                causes.push(Cause::invalid(field("type"), &column["type"], &one_of(&COLUMN_TYPES)))
            }
        }
        if !text("format").is_empty() && !COLUMN_FORMATS.contains(&text("format")) {
            let fault = one_of(&COLUMN_FORMATS);
            causes.push(Cause::invalid(field("format"), &column["format"], &fault));
        }
        match text("jsonPath") {
            "" => causes.push(Cause::required(field("JSONPath"), "")),
            path if path.starts_with('.') => (),
            _ => causes.push(Cause::invalid(field("JSONPath"), &column["jsonPath"], SIMPLE)),
        }
    }
}

fn subresources(version: &Value, at: &str, causes: &mut Vec<Cause>) {
    let scale = &version["subresources"]["scale"];
    if scale.is_null() {
        return;
    }
    for (name, homes, fault) in [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."][..], "should be a json path under .status"),
        (
            "labelSelectorPath",
            &[".spec.", ".status."][..],
            "should be a json path under either .spec or .status",
        ),
    ] {
        let field = format!("{at}.scale.{name}");
        match scale[name].as_str().unwrap_or_default() {
            "" if name == "labelSelectorPath" => (),
            "" => causes.push(Cause::required(field, "")),
            path if !path.starts_with('.') => {
                causes.push(Cause::invalid(field, &scale[name], SIMPLE))
            }
            path if homes.iter().any(|home| path.starts_with(home)) => (),
            _ => causes.push(Cause::invalid(field, &scale[name], fault)),
        }
    }
}

fn selectable(version: &Value, at: &str, causes: &mut Vec<Cause>) {
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut seen: Vec<&str> = Vec::new();
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    for (n, field) in fields.enumerate() {
        let value = &field["jsonPath"];
        let field = format!("{at}[{n}].jsonPath");
        let path = value.as_str().unwrap_or_default();
        if path.is_empty() {
            causes.push(Cause::required(field, ""));
            continue;
        }
        let found = match schema_at(schema, path) {
            Ok(found) => found,
            Err(fault) => {
                causes.push(Cause::invalid(field, value, &format!("is an invalid path: {fault}")));
                continue;
            }
        };
        if !matches!(found["type"].as_str(), Some("string" | "boolean" | "integer")) {
            let fault = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            causes.push(Cause::invalid(&*field, value, fault));
        }
        if seen.contains(&path) {
            causes.push(Cause::duplicate(field, value));
        } else {
            seen.push(path);
        }
    }
    if seen.len() as u64 > MAX_SELECTABLE {
        causes.push(Cause::too_many(at, seen.len(), MAX_SELECTABLE));
    }
}

/// The part of a schema that a path such as `.spec.a` leads to.
fn schema_at<'s>(schema: &'s Value, path: &str) -> Result<&'s Value, String> {
    let Some(path) = path.strip_prefix('.') else {
        let word: String = path.chars().take_while(|c| !matches!(c, '.' | '[')).collect();
        return Err(format!("expected [ or . but got: {word}"));
    };
    if path.contains('[') {
        return Err("array notation is not allowed".to_owned());
    }
    let found = path.split('.').try_fold(schema, |part, name| part["properties"].get(name));
    found.ok_or_else(|| "does not refer to a valid field".to_owned())
}

fn warning_faults(deprecated: bool, text: &str) -> Vec<String> {
    if !deprecated {
        return vec!["can only be set for deprecated versions".to_owned()];
    }
    let mut faults = Vec::new();
    if text.len() > WARNING_BYTES {
        faults.push(format!("must be <= {WARNING_BYTES} characters long"));
    }
    if text.is_empty() {
        faults.push("must not be an empty string".to_owned());
    }
    if let Some(at) = text.find(|c: char| c.is_control()) {
        faults.push(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
    faults
}
