//! What a mutating admission policy applies: a merge like server-side apply's, without owners.

use serde_json::Value;

use super::walk;
use crate::Schema;
use crate::node::{ListType, Node};
use crate::path::Path;

impl Schema {
    /// Merges the configuration that a policy made into an object.
    ///
    /// Lists and maps that are written as a whole may not be in it: a policy would remove what it does not
    /// know of (upstream's `policy/mutating/patch/smd.go`).
    ///
    /// # Errors
    /// What does not fit the schema, or is atomic.
    pub fn merge_configuration(&self, object: &mut Value, config: &Value) -> Result<(), String> {
        let mut errors = Vec::new();
        walk::type_errors(&self.root, config, &Path::ROOT, &mut errors);
        if !errors.is_empty() {
            return Err(format!(
                "failed to convert patch object to typed object: {}",
                errors.join(", ")
            ));
        }
        let mut atomics = Vec::new();
        find_atomics(&self.root, config, "", &mut atomics);
        if !atomics.is_empty() {
            return Err(format!(
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
                atomics.join(", ")
            ));
        }
        walk::merge(Some(&self.root), object, config);
        Ok(())
    }
}

fn find_atomics(node: &Node, value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if node.atomic {
                found.push(path.to_owned());
            }
            for (name, value) in map {
                if let Some(field) = node.field(name) {
                    find_atomics(&field.edge.node(), value, &format!("{path}.{name}"), found);
                }
            }
        }
        Value::Array(list) => {
            if node.list == ListType::Atomic {
                found.push(path.to_owned());
            }
            if let Some(items) = &node.items {
                let items = items.node();
                for (at, value) in list.iter().enumerate() {
                    find_atomics(&items, value, &format!("{path}[{at}]"), found);
                }
            }
        }
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::Schema;

    #[test]
    fn lists_with_keys_are_merged_and_atomic_ones_refused() {
        let pods = Schema::for_gvk("", "v1", "Pod").unwrap();
        let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}]}});
        let config = json!({"spec": {"containers": [{"name": "a", "image": "y"}, {"name": "b"}]}});
        pods.merge_configuration(&mut pod, &config).unwrap();
        let expected = json!([{"name": "a", "image": "y"}, {"name": "b"}]);
        assert_eq!(pod["spec"]["containers"], expected);
        let config = json!({"spec": {"containers": [{"name": "a", "args": ["z"]}]}});
        let refused = pods.merge_configuration(&mut pod, &config).unwrap_err();
        assert!(
            refused.ends_with(
                "may not mutate atomic arrays, maps or structs: .spec.containers[0].args"
            ),
            "{refused}"
        );
    }
}
