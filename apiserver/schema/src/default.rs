//! Puts defaults where fields are absent.

use serde_json::{Map, Value};

use crate::facts::Zero;
use crate::node::{Edge, Field, Kind, Node};

/// Fills `value` with the defaults of its schema, those inside of defaults too.
pub(crate) fn default(node: &Node, value: &mut Value) {
    if !node.has_defaults {
        return;
    }
    match value {
        Value::Object(map) => object(node, map),
        Value::Array(list) => {
            let Some(items) = &node.items else { return };
            let target = items.node();
            for entry in list {
                present(items, &target, entry);
            }
        }
        _ => (),
    }
}

fn object(node: &Node, map: &mut Map<String, Value>) {
    for field in node.fields.iter() {
        let default = match &field.edge.default {
            Some(default) => &**default,
            None if field.zero == Zero::Null => &Value::Null,
            None => continue,
        };
        // What Go leaves out when it is empty does not come back as a default.
        let is_left_out = node.typed && field.zero == Zero::Omitted && default == "";
        if !is_left_out && !map.contains_key(&*field.name) {
            map.insert(field.name.to_string(), default.clone());
        }
    }
    for (name, value) in map {
        // What has no place for a default needs no schema.
        if !matches!(value, Value::Null | Value::Object(_) | Value::Array(_)) {
            continue;
        }
        match (node.field(name), &node.items) {
            (Some(field), _) => present(&field.edge, &field.edge.node(), value),
            (None, Some(items)) => present(items, &items.node(), value),
            (None, None) => (),
        }
    }
}

/// A null counts as absent unless it is allowed.
fn present(edge: &Edge, node: &Node, value: &mut Value) {
    if let (Value::Null, Some(default), false) = (&*value, &edge.default, node.nullable) {
        *value = Value::clone(default);
    }
    default(node, value);
}

/// What Go writes for a new object of this type: structs without a pointer, and zero values of
/// fields without omitempty.
///
/// A first write is compared with it to find out which fields its author set.
pub(crate) fn zero(node: &Node) -> Value {
    if node.kind != Kind::Object || !node.typed {
        return Value::Object(Map::new());
    }
    let written = node.fields.iter().filter_map(|field| Some((&field.name, zero_of(field)?)));
    Value::Object(written.map(|(name, zero)| (name.to_string(), zero)).collect())
}

/// As [`zero`], of one field: `None` if Go leaves it out.
pub(crate) fn zero_of(field: &Field) -> Option<Value> {
    let target = field.edge.node();
    Some(match (target.kind, &field.edge.default) {
        (Kind::Object, _) if field.zero == Zero::Written => zero(&target),
        _ if field.zero == Zero::Null => Value::Null,
        _ if field.zero == Zero::Absent => return None,
        (Kind::Array, None) | (Kind::Object, None) if field.required => Value::Null,
        (Kind::Time | Kind::MicroTime, None) if field.required => Value::Null,
        (Kind::String, _) if field.required || field.zero == Zero::Written => "".into(),
        (Kind::Integer, _) if field.required => 0.into(),
        (Kind::Boolean, _) if field.required => false.into(),
        _ => return None,
    })
}
