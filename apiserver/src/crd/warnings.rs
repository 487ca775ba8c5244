//! What a definition's author is told though it is accepted.

use serde_json::Value;

/// Formats of strings that upstream 1.36 knows, written without dashes.
///
/// Source: upstream `apiextensions-apiserver/pkg/apiserver/validation/formats.go`.
const TEXT_FORMATS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Warnings for formats that mean nothing, and did not stand in the old definition.
pub(super) fn unknown_formats(spec: &Value, old: Option<&Value>) -> Vec<String> {
    let known = old.map(formats).unwrap_or_default();
    let new = formats(spec).into_iter().filter(|format| !known.contains(format));
    new.map(|format| format!("unrecognized format {format:?}")).collect()
}

/// The unknown formats in the schemas of all versions.
fn formats(spec: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    for version in spec["versions"].as_array().into_iter().flatten() {
        collect(&version["schema"]["openAPIV3Schema"], &mut found);
    }
    found
}

fn collect<'s>(schema: &'s Value, found: &mut Vec<&'s str>) {
    let format = schema["format"].as_str().unwrap_or_default();
    if !format.is_empty() && !is_known(schema["type"].as_str().unwrap_or_default(), format) {
        found.push(format);
    }
    for field in ["items", "additionalProperties", "not"] {
        if schema[field].is_object() {
            collect(&schema[field], found);
        }
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        schema[field].as_array().into_iter().flatten().for_each(|part| collect(part, found));
    }
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.for_each(|(_, property)| collect(property, found));
}

fn is_known(kind: &str, format: &str) -> bool {
    match kind {
        "" | "string" => TEXT_FORMATS.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => true,
    }
}

#[test]
fn only_new_unknown_formats_are_told() {
    use serde_json::json;
    let spec = |format: &str| {
        let property = json!({"type": "string", "format": format});
        let schema = json!({"type": "object", "properties": {"a": property}});
        json!({"versions": [{"schema": {"openAPIV3Schema": schema}}]})
    };
    assert_eq!(unknown_formats(&spec("foo"), None), ["unrecognized format \"foo\""]);
    assert!(unknown_formats(&spec("foo"), Some(&spec("foo"))).is_empty());
    assert!(unknown_formats(&spec("date-time"), None).is_empty());
}
