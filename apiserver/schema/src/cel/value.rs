//! From JSON to CEL values, by the schema: `1` is an int or a double, a text may be a time.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map};
use serde_json::Value as Json;

use super::eval::Budget;
use crate::node::{Kind, Node};

/// Words that CEL keeps for itself; as field names they are written `__word__`.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether CEL keeps a word for itself, so that no variable can have it as its name.
#[must_use]
pub fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// Whether a field's name may be written so: what the parser reads as something else must be escaped.
pub(super) fn can_be_written(name: &str, written: &str) -> bool {
    name != written || !matches!(name, "true" | "false" | "null" | "in")
}

/// The value of `json` in an expression, without a schema: as policies see objects.
#[must_use]
pub fn from_json(json: &Json) -> Value {
    convert(None, json)
}

/// An optional value.
#[must_use]
pub fn optional(value: Option<Value>) -> Value {
    super::eval::some(value)
}

/// The value of `json` in an expression, with the types of its schema.
pub(super) fn convert(node: Option<&Node>, json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (node.map(|node| node.kind), number.as_i64()) {
            (Some(Kind::Number), _) | (_, None) => {
                Value::Float(number.as_f64().unwrap_or_default())
            }
            (_, Some(value)) => Value::Int(value),
        },
        Json::String(text) => convert_text(node, text),
        Json::Array(list) => {
            let items = node.and_then(|node| node.items.as_ref()).map(|edge| edge.node());
            let list = list.iter().map(|value| convert(items.as_deref(), value)).collect();
            Value::List(Arc::new(list))
        }
        Json::Object(map) => {
            let mut entries = HashMap::with_capacity(map.len());
            for (name, value) in map {
                let (key, child) = match node.map(|node| (node.field(name), &node.items)) {
                    // A declared field with null is not there; what is in a map is.
                    Some((Some(_), _)) if value.is_null() => continue,
                    Some((Some(field), _)) => (escape(name), Some(field.edge.node())),
                    Some((None, Some(items))) => (name.clone(), Some(items.node())),
                    _ => (name.clone(), None),
                };
                let value = convert(child.as_deref(), value);
                if key != *name && RESERVED.contains(&&**name) {
                    // Such a field may be written as it is too.
                    entries.insert(Key::String(Arc::new(name.clone())), value.clone());
                }
                entries.insert(Key::String(Arc::new(key)), value);
            }
            Value::Map(Map { map: Arc::new(entries) })
        }
    }
}

fn convert_text(node: Option<&Node>, text: &str) -> Value {
    let plain = || Value::String(Arc::new(text.to_owned()));
    let format = node.and_then(|node| node.rules.as_deref()?.format.as_deref());
    let function = match format {
        Some("date-time" | "datetime") => "timestamp(x)",
        Some("date") => "timestamp(x + 'T00:00:00Z')",
        Some("duration") => "duration(x)",
        Some("byte") => "base64.decode(x)",
        _ => return plain(),
    };
    // The crate's own functions make its own values; what does not parse stays text.
    let variables = vec![("x", plain())];
    let mut budget = Budget::new(u64::MAX);
    super::compile(function)
        .ok()
        .and_then(|program| program.run(&variables, &mut budget).ok())
        .unwrap_or_else(plain)
}

/// The JSON of a value, as a patch needs it.
///
/// # Errors
/// Names the type that JSON does not have.
pub fn to_json(value: &Value) -> Result<Json, String> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(number) => (*number).into(),
        Value::UInt(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => text.as_str().into(),
        Value::List(list) => list.iter().map(to_json).collect::<Result<Vec<_>, _>>()?.into(),
        Value::Map(map) => {
            let mut object = serde_json::Map::new();
            for (key, value) in map.map.iter() {
                object.insert(key.to_string(), to_json(value)?);
            }
            object.into()
        }
        Value::Opaque(opaque) => match super::eval::optional(value) {
            Some(inner) => inner.map_or(Ok(Json::Null), to_json)?,
            None => return Err(format!("no JSON form of type {}", opaque.runtime_type_name())),
        },
        other => return Err(format!("no JSON form of type {}", other.type_of())),
    })
}

/// A field name as an expression writes it.
///
/// Source: API documentation of `x-kubernetes-validations`, "escaping".
pub(super) fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return name.to_owned();
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
