//! Whole objects inside of custom objects, found by their schema.

use serde_json::Value;

use crate::Schema;
use crate::node::Node;
use crate::path::Path;

impl Schema {
    /// The objects inside of `value`, each with the path to it.
    #[must_use]
    pub fn embedded<'v>(&self, value: &'v Value) -> Vec<(String, &'v Value)> {
        let mut found = Vec::new();
        inner(&self.root, value, &Path::ROOT, &mut found);
        found
    }
}

fn inner<'v>(node: &Node, value: &'v Value, path: &Path<'_>, found: &mut Vec<(String, &'v Value)>) {
    match value {
        _ if node.typed => (),
        Value::Object(map) => {
            for (name, value) in map {
                let edge = node.field(name).map(|field| &field.edge).or(node.items.as_ref());
                let Some(child) = edge.map(|edge| edge.node()) else { continue };
                let path = path.field(name);
                if child.embedded && value.is_object() {
                    found.push((path.bracketed(), value));
                }
                inner(&child, value, &path, found);
            }
        }
        Value::Array(list) => {
            let Some(child) = node.items.as_ref().map(|edge| edge.node()) else { return };
            for (n, value) in list.iter().enumerate() {
                let path = path.index(n);
                if child.embedded && value.is_object() {
                    found.push((path.bracketed(), value));
                }
                inner(&child, value, &path, found);
            }
        }
        _ => (),
    }
}
