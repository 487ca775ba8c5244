//! How Go names what a type declares: its decoder tells clients the names of structs and types.
//!
//! Nothing here runs unless a body was refused.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use crate::facts;
use crate::node::{Edge, Kind, Node};
use crate::path::Step;

const NAMES: &str = include_str!("../data/go-names.yaml");

/// Field to the name of its type; entries of lists and maps are `field[]`.
type Named = HashMap<String, String>;
/// Name of an embedded struct to those of its fields.
type Embedded = HashMap<String, Vec<String>>;

/// What neither fields nor definitions show.
#[derive(Deserialize)]
struct Names {
    named: HashMap<String, Named>,
    embedded: HashMap<String, Embedded>,
}

fn names() -> &'static Names {
    static NAMES_READ: OnceLock<Names> = OnceLock::new();
    NAMES_READ.get_or_init(|| {
        serde_saphyr::from_str(NAMES).expect("data/go-names.yaml is checked by the tests")
    })
}

/// A declared place, as Go's decoder tells it.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// The struct that has the field.
    pub(crate) structure: String,
    /// Names of the fields that lead there, embedded structs included; empty for the whole body.
    pub(crate) path: String,
    /// The type of what is there.
    pub(crate) expected: String,
}

/// The struct that was entered last, and where one is in it.
struct Inside {
    definition: Arc<str>,
    /// The field, with `[]` for each list or map that was entered.
    place: String,
}

/// Follows `steps` from the root of a type.
pub(crate) fn place(root: &Node, steps: &[Step<'_>]) -> Place {
    let mut here: Option<Arc<Node>> = None;
    let mut inside: Option<Inside> = None;
    let mut place = Place::default();
    let mut path = Vec::new();
    for step in steps {
        let node = here.as_deref().unwrap_or(root);
        let next = match step {
            Step::Root => continue,
            Step::Field(name) => {
                if let Some(definition) = &node.definition {
                    path.extend(embedded(definition, name));
                    facts::short_name(definition).clone_into(&mut place.structure);
                    inside =
                        Some(Inside { definition: definition.clone(), place: (*name).to_owned() });
                }
                path.push(*name);
                node.field(name).map(|field| field.edge.node())
            }
            Step::Key(_) | Step::Index(_) | Step::Element(_) => {
                if let Some(inside) = &mut inside {
                    inside.place.push_str("[]");
                }
                node.items.as_ref().map(Edge::node)
            }
        };
        let Some(next) = next.map(|next| next.shared()) else { break };
        here = Some(next);
    }
    place.path = path.join(".");
    let (definition, field) = match &inside {
        Some(inside) => (&*inside.definition, &*inside.place),
        None => ("", ""),
    };
    place.expected = type_name(here.as_deref().unwrap_or(root), definition, field);
    place
}

/// Names of the embedded structs that stand between a struct and its field.
fn embedded(definition: &str, field: &str) -> Vec<&'static str> {
    let structs = names().embedded.get(definition).into_iter().flatten();
    structs
        .filter(|(_, fields)| fields.iter().any(|f| f == field))
        .flat_map(|(name, _)| name.split('.'))
        .collect()
}

/// The type of a field, or (`field[]`) of its entries.
fn type_name(node: &Node, definition: &str, field: &str) -> String {
    if let Some(name) = names().named.get(definition).and_then(|fields| fields.get(field)) {
        return name.clone();
    }
    if let Some(definition) = &node.definition {
        return match node.kind {
            // These decode themselves: a time from a string, a number or a string from a number.
            Kind::Time | Kind::MicroTime => "string".to_owned(),
            Kind::IntOrString => "int32".to_owned(),
            _ => facts::go_name(definition),
        };
    }
    let inner = |edge: &Option<Edge>| match edge {
        Some(edge) => type_name(&edge.node(), definition, &format!("{field}[]")),
        None => "interface {}".to_owned(),
    };
    let format = || node.rules.as_deref().and_then(|rules| rules.format.as_deref());
    match node.kind {
        Kind::Array => format!("[]{}", inner(&node.items)),
        Kind::Object => format!("map[string]{}", inner(&node.items)),
        Kind::String if format() == Some("byte") => "[]uint8".to_owned(),
        Kind::String | Kind::Time | Kind::MicroTime => "string".to_owned(),
        Kind::Integer => format().unwrap_or("int64").to_owned(),
        Kind::Number => "float64".to_owned(),
        Kind::Boolean => "bool".to_owned(),
        Kind::IntOrString => "int32".to_owned(),
        Kind::Quantity => "resource.Quantity".to_owned(),
        Kind::Any => "interface {}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_speak_of_known_fields() {
        let names = names();
        let named = names.named.iter().map(|(d, f)| (d, f.keys().collect::<Vec<_>>()));
        let embedded =
            names.embedded.iter().map(|(d, s)| (d, s.values().flatten().collect::<Vec<_>>()));
        for (definition, fields) in named.chain(embedded) {
            let known = facts::definition(definition).expect(definition);
            for field in fields {
                let field = field.trim_end_matches("[]");
                assert!(known.fields.contains_key(field), "{definition} has no field {field}");
            }
        }
    }
}
