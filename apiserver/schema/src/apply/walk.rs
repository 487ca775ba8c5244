//! Walks over values with their schema: field sets, comparison, merging, removal.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{self, Children, FieldSet};
use crate::node::{Edge, Kind, ListType, Node, NodeRef};
use crate::path::{Path, Step};
use crate::print;

/// How a value is owned.
enum Shape<'a> {
    /// As a whole: scalars, atomic maps and lists.
    Whole,
    Map(&'a Map<String, Value>),
    /// A list of objects with keys, or of distinct scalars.
    List(&'a [Value]),
}

fn shape<'a>(node: Option<&Node>, value: &'a Value) -> Shape<'a> {
    match value {
        Value::Object(map) => match node {
            Some(node) if node.atomic || is_opaque(node) => Shape::Whole,
            _ => Shape::Map(map),
        },
        Value::Array(list) => match node {
            Some(node) if node.kind == Kind::Array && node.list != ListType::Atomic => {
                Shape::List(list)
            }
            _ => Shape::Whole,
        },
        _ => Shape::Whole,
    }
}

/// Raw JSON inside of a Go type is one value to its owners.
fn is_opaque(node: &Node) -> bool {
    node.typed && node.preserve_unknown && node.fields.is_empty()
}

/// The schema of a field or map key.
fn child<'a>(node: Option<&'a Node>, name: &str) -> Option<NodeRef<'a>> {
    let node = node?;
    let edge = match node.field(name) {
        Some(field) => Some(&field.edge),
        None => node.items.as_ref(),
    };
    edge.map(Edge::node)
}

fn items(node: Option<&Node>) -> Option<NodeRef<'_>> {
    node?.items.as_ref().map(Edge::node)
}

/// The path element of a list entry; absent keys count as their defaults.
fn element(node: Option<&Node>, value: &Value) -> String {
    let Some(node) = node else { return set::value(value) };
    if node.list == ListType::Set {
        return set::value(value);
    }
    let entry = node.items.as_ref().map(Edge::node);
    let default =
        |name| entry.as_ref().and_then(|entry| entry.field(name)?.edge.default.as_deref());
    let found = |name| value.get(name).or_else(|| default(name));
    set::key(node.keys.iter().filter_map(|name| Some((&**name, found(name)?))))
}

/// The fields that an applied configuration names: leaves and list entries.
pub(super) fn to_set(node: Option<&Node>, value: &Value) -> FieldSet {
    let children = match shape(node, value) {
        Shape::Map(map) if !map.is_empty() => map
            .iter()
            .map(|(name, value)| {
                let mut inner = to_set(child(node, name).as_deref(), value);
                // What no schema declares is a member itself, not only what is in it.
                inner.member |= node.is_none_or(|node| node.field(name).is_none());
                (set::field(name), inner)
            })
            .collect(),
        // Of an empty list there is nothing to own.
        Shape::List(list) => {
            let items = items(node);
            let entry = |value| {
                let inside = to_set(items.as_deref(), value);
                (element(node, value), FieldSet { member: true, ..inside })
            };
            list.iter().map(entry).collect()
        }
        _ => return FieldSet::leaf(),
    };
    FieldSet { member: false, children }
}

/// Every path of a value, containers included.
fn everything(node: Option<&Node>, value: &Value) -> FieldSet {
    let inside = |(name, value): (&String, &Value)| {
        (set::field(name), everything(child(node, name).as_deref(), value))
    };
    let children = match shape(node, value) {
        Shape::Whole => return FieldSet::leaf(),
        Shape::Map(map) => map.iter().map(inside).collect(),
        Shape::List(list) => {
            let items = items(node);
            let inside = |(element, values): (String, Vec<&Value>)| match values.as_slice() {
                [value] => (element, everything(items.as_deref(), value)),
                // Of what stands there several times nobody owns what is inside.
                _ => (element, FieldSet::leaf()),
            };
            by_element(node, list).into_iter().map(inside).collect()
        }
    };
    FieldSet { member: true, children }
}

/// What a write did.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Paths that are new or have another value.
    pub(super) set: FieldSet,
    /// Paths that are gone.
    pub(super) removed: FieldSet,
}

impl Changes {
    /// Whether nothing changed.
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    /// What was done to a value that may be new or gone.
    fn between(node: Option<&Node>, old: Option<&Value>, new: Option<&Value>) -> Changes {
        match (old, new) {
            (Some(old), Some(new)) => compare(node, old, new),
            (None, Some(new)) => Changes { set: everything(node, new), ..Changes::default() },
            (Some(old), None) => Changes { removed: everything(node, old), ..Changes::default() },
            (None, None) => Changes::default(),
        }
    }
}

/// What was done to the parts of a value, by element.
impl FromIterator<(String, Changes)> for Changes {
    fn from_iter<I: IntoIterator<Item = (String, Changes)>>(parts: I) -> Self {
        let (mut set, mut removed) = (Vec::new(), Vec::new());
        for (element, changes) in parts {
            if !changes.removed.is_empty() {
                removed.push((element.clone(), changes.removed));
            }
            set.push((element, changes.set));
        }
        let below =
            |parts: Vec<_>| FieldSet { member: false, children: Children::from_iter(parts) };
        Changes { set: below(set), removed: below(removed) }
    }
}

/// Compares two objects.
pub(super) fn compare(node: Option<&Node>, old: &Value, new: &Value) -> Changes {
    match (shape(node, old), shape(node, new)) {
        (Shape::Map(old), Shape::Map(new)) => compare_maps(node, old, new),
        (Shape::List(old), Shape::List(new)) => compare_lists(node, old, new),
        // Null is what Go writes for an empty list or map: the container itself is not new.
        (_, Shape::List(new)) if old.is_null() => compare_lists(node, &[], new),
        (_, Shape::Map(new)) if old.is_null() => compare_maps(node, &Map::new(), new),
        _ if old == new => Changes::default(),
        _ => {
            let (set, mut removed) = (everything(node, new), everything(node, old));
            removed.subtract(&set);
            Changes { set, removed }
        }
    }
}

fn compare_maps(
    node: Option<&Node>,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) -> Changes {
    let part = |name: &String, old: Option<&Value>, new: Option<&Value>| {
        (set::field(name), Changes::between(child(node, name).as_deref(), old, new))
    };
    let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
    let gone = gone.map(|(name, value)| part(name, Some(value), None));
    let now = new.iter().filter_map(|(name, value)| {
        let old = old.get(name);
        (old != Some(value)).then(|| part(name, old, Some(value)))
    });
    now.chain(gone).collect()
}

fn compare_lists(node: Option<&Node>, old: &[Value], new: &[Value]) -> Changes {
    let items = items(node);
    let (before, now) = (by_element(node, old), by_element(node, new));
    let elements = now.keys().chain(before.keys().filter(|element| !now.contains_key(*element)));
    let part = |element: &String| {
        let old = before.get(element).map_or(&[][..], Vec::as_slice);
        let new = now.get(element).map_or(&[][..], Vec::as_slice);
        let changes = match (old, new) {
            (old, new) if old == new => return None,
            ([] | [_], [] | [_]) => {
                Changes::between(items.as_deref(), old.first().copied(), new.first().copied())
            }
            // Of what stands there several times nobody owns what is inside.
            (_, []) => Changes { removed: FieldSet::leaf(), ..Changes::default() },
            _ => Changes { set: FieldSet::leaf(), ..Changes::default() },
        };
        Some((element.clone(), changes))
    };
    elements.filter_map(part).collect()
}

/// What stands in a list under each element, in order.
fn by_element<'a>(node: Option<&Node>, list: &'a [Value]) -> BTreeMap<String, Vec<&'a Value>> {
    let mut found: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for value in list {
        found.entry(element(node, value)).or_default().push(value);
    }
    found
}

/// Lays an applied configuration over the live object.
pub(super) fn merge(node: Option<&Node>, live: &mut Value, config: &Value) {
    match (shape(node, live), shape(node, config)) {
        (Shape::Map(_), Shape::Map(config)) => {
            let Value::Object(live) = live else { return };
            for (name, value) in config {
                // A null that a custom type does not take says nothing.
                let child_node = child(node, name);
                if value.is_null() && child_node.is_some_and(|n| !n.typed && !n.nullable) {
                    continue;
                }
                match live.get_mut(name) {
                    Some(live) => merge(child(node, name).as_deref(), live, value),
                    None => _ = live.insert(name.clone(), value.clone()),
                }
            }
        }
        (Shape::List(_), Shape::List(config)) => {
            let Value::Array(live) = live else { return };
            *live = merge_lists(node, std::mem::take(live), config);
        }
        // A null names the container and nothing in it.
        (Shape::Map(inside), _) if config.is_null() && !inside.is_empty() => (),
        (Shape::List(inside), _) if config.is_null() && !inside.is_empty() => (),
        _ => *live = config.clone(),
    }
}

/// Entries of the live list first where the configuration does not name them; the
/// configuration's own order among those it names.
fn merge_lists(node: Option<&Node>, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
    let items = items(node);
    let wanted: Vec<String> = config.iter().map(|value| element(node, value)).collect();
    let mut live: Vec<(String, Option<Value>)> =
        live.into_iter().map(|value| (element(node, &value), Some(value))).collect();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let mut at = 0;
    for (element, value) in wanted.iter().zip(config) {
        let found = live.iter().position(|(known, value)| known == element && value.is_some());
        let Some(found) = found else { continue };
        // What stands before it and is not named keeps its place.
        while at < found {
            if !wanted.contains(&live[at].0) {
                merged.extend(live[at].1.take());
            }
            at += 1;
        }
        if let Some(mut entry) = live[found].1.take() {
            merge(items.as_deref(), &mut entry, value);
            merged.push(entry);
        }
    }
    merged.extend(
        live.into_iter().filter(|(name, _)| !wanted.contains(name)).filter_map(|(_, value)| value),
    );
    insert_new(node, merged, config, &wanted)
}

/// New entries go behind the entry that precedes them in the configuration.
fn insert_new(
    node: Option<&Node>,
    mut merged: Vec<Value>,
    config: &[Value],
    wanted: &[String],
) -> Vec<Value> {
    let place = |merged: &[Value], wanted: &str| {
        merged.iter().position(|value| element(node, value) == wanted)
    };
    for (index, (name, value)) in wanted.iter().zip(config).enumerate() {
        if place(&merged, name).is_some() {
            continue;
        }
        let next = wanted[index + 1..].iter().find_map(|next| place(&merged, next));
        let at = next.unwrap_or(merged.len());
        merged.insert(at, value.clone());
    }
    merged
}

/// Removes what `gone` names, with everything inside.
pub(super) fn remove(node: Option<&Node>, value: &mut Value, gone: &FieldSet) {
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let Some(gone) = gone.children.get(&set::field(name)) else { return true };
            if !gone.member {
                remove(child(node, name).as_deref(), value, gone);
            }
            !gone.member
        }),
        Value::Array(list) => {
            let items = items(node);
            list.retain_mut(|value| {
                let Some(gone) = gone.children.get(&element(node, value)) else { return true };
                if !gone.member {
                    remove(items.as_deref(), value, gone);
                }
                !gone.member
            });
        }
        _ => (),
    }
}

/// What of `last` is in none of the sets `owned` any more: neither the path nor anything below it.
///
/// Declared fields on the way to what was applied count as applied, so that a struct goes when all that
/// was applied of it is gone, and stays while anything in it is owned. An entry of a list or a map stays
/// only with somebody who owns the entry itself.
///
/// Source: `EnsureNamedFieldsAreMembers` in structured-merge-diff, and where `merge/update.go` prunes.
pub(super) fn abandoned(node: Option<&Node>, last: &FieldSet, owned: &[&FieldSet]) -> FieldSet {
    let part = |(element, child): (&String, &FieldSet)| {
        let name = set::name(element);
        let is_declared =
            name.is_some_and(|name| node.is_some_and(|node| node.field(name).is_some()));
        let owned = owned.iter().filter_map(|set| set.children.get(element));
        let owned: Vec<&FieldSet> = owned.filter(|set| !set.is_empty()).collect();
        let stays = owned.iter().any(|set| is_declared || set.member);
        let inner = if !stays && (child.member || is_declared) {
            FieldSet::leaf()
        } else {
            let below = match name {
                Some(name) => self::child(node, name),
                None => items(node),
            };
            abandoned(below.as_deref(), child, &owned)
        };
        (element.clone(), inner)
    };
    FieldSet { member: false, children: last.children.iter().map(part).collect() }
}

/// Why a configuration does not fit the schema, in upstream's words.
pub(super) fn type_errors(node: &Node, value: &Value, path: &Path<'_>, errors: &mut Vec<String>) {
    let mut wrong = |wanted: &str, got: &str| {
        errors.push(format!("{}: expected {wanted}, got {got}", shown(path)));
    };
    let plain = || format!("&{{{}}}", print::plain(value));
    if value.is_null() {
        return;
    }
    match (node.kind, value) {
        (Kind::Any, _) => (),
        (Kind::Object, Value::Object(map)) => {
            let mut closed = !node.preserve_unknown && node.items.is_none();
            for (name, value) in map {
                let path = path.field(name);
                match child(Some(node), name) {
                    Some(child) => type_errors(&child, value, &path, errors),
                    None if closed => {
                        errors.push(format!("{}: field not declared in schema", shown(&path)));
                        closed = false; // Of unknown fields of one object upstream tells one.
                    }
                    None => (),
                }
            }
        }
        (Kind::Object, _) => wrong("map", &plain()),
        (Kind::Array, Value::Array(list)) => list_errors(node, list, path, errors),
        (Kind::Array, _) => wrong("list", &plain()),
        (Kind::String, Value::String(_)) => (),
        (Kind::String, _) => {
            let got = print::syntax(value);
            wrong("string", &format!("&value.valueUnstructured{{Value:{got}}}"));
        }
        (Kind::Integer | Kind::Number, Value::Number(_)) => (),
        (Kind::Integer | Kind::Number, _) => {
            wrong("numeric (int or float)", print::type_of(value));
        }
        (Kind::Boolean, Value::Bool(_)) => (),
        (Kind::Boolean, _) => wrong("boolean", &plain()),
        (Kind::IntOrString, _) => (),
        (_, Value::Object(_) | Value::Array(_)) => wrong("any scalar", &plain()),
        (Kind::Quantity | Kind::Time | Kind::MicroTime, _) => (),
    }
}

/// Whether nothing tells an entry of a list map from others.
fn lacks_keys(node: &Node, value: &Value) -> bool {
    let entry = node.items.as_ref().map(Edge::node);
    let has = |key: &str| {
        let default = entry.as_ref().and_then(|entry| entry.field(key)?.edge.default.as_ref());
        value.get(key).is_some() || default.is_some()
    };
    !node.typed && !node.keys.is_empty() && !node.keys.iter().any(|key| has(key))
}

/// Why an entry of a list cannot be told from others.
fn not_told_apart(node: &Node, value: &Value) -> Option<String> {
    let fault = match (node.list, value) {
        (ListType::Set, Value::Object(_)) => {
            "associative list without keys has an element that's a map type"
        }
        (ListType::Set, Value::Array(_)) => {
            "not supported: associative list with lists as elements"
        }
        (ListType::Set, Value::Null) => {
            "associative list without keys has an element that's an explicit null"
        }
        (ListType::Map, Value::Null) => "associative list with keys may not have a null element",
        (ListType::Map, Value::Object(_)) if lacks_keys(node, value) => {
            let keys = serde_json::to_string(&node.keys).unwrap_or_default();
            return Some(format!(
                "associative list with keys has an element that omits all key fields {keys} (and doesn't have default values for any key fields)"
            ));
        }
        (ListType::Map, Value::Object(_)) => return None,
        (ListType::Map, _) => "associative list with keys may not have non-map elements",
        _ => return None,
    };
    Some(fault.to_owned())
}

fn list_errors(node: &Node, list: &[Value], path: &Path<'_>, errors: &mut Vec<String>) {
    let items = items(Some(node));
    let mut seen = std::collections::HashSet::new();
    for (index, value) in list.iter().enumerate() {
        if let Some(fault) = not_told_apart(node, value) {
            errors.push(format!("{}: element {index}: {fault}", shown(path)));
            continue;
        }
        let element = match node.list {
            ListType::Atomic => None,
            ListType::Set | ListType::Map => {
                let element = element(Some(node), value);
                if !seen.insert(element.clone()) {
                    let (path, key) = (shown(path), set::show(&element));
                    errors.push(format!("{path}: duplicate entries for key {key}"));
                }
                Some(element)
            }
        };
        if let Some(items) = &items {
            let place = element.as_ref().map_or_else(|| path.index(index), |e| path.element(e));
            type_errors(items, value, &place, errors);
        }
    }
}

/// `.spec.containers[name="a"].image`.
fn shown(path: &Path<'_>) -> String {
    let step = |step: &Step<'_>| match step {
        Step::Root => String::new(),
        Step::Field(name) | Step::Key(name) => format!(".{name}"),
        Step::Index(index) => format!("[{index}]"),
        Step::Element(element) => set::show(element),
    };
    path.steps().iter().map(step).collect()
}
