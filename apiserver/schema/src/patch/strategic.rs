//! Strategic merge patch.
//!
//! Source: kubernetes/community, "Strategic Merge Patch" and "Adding retainKeys".

use serde_json::{Map, Value};

use super::PatchError;
use crate::node::{Edge, Kind, Node, Patch};
use crate::print;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

pub(super) fn apply(node: &Node, target: &mut Value, patch: &Object) -> Result<(), PatchError> {
    let mut live = match std::mem::take(target) {
        Value::Object(map) => map,
        _ => Object::new(),
    };
    merge_map(Some(node), &mut live, patch)?;
    *target = Value::Object(live);
    restore(node, target)
}

fn merge_map(node: Option<&Node>, live: &mut Object, patch: &Object) -> Result<(), PatchError> {
    match directive(patch)? {
        Directive::Merge => (),
        Directive::Replace => {
            *live = without_directives(patch);
            return Ok(());
        }
        Directive::Delete => {
            live.clear();
            return Ok(());
        }
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = check_retained(patch, retained)?;
        live.retain(|name, _| retained.iter().any(|kept| kept == name));
    }
    for (name, value) in patch {
        if name.starts_with(SET_ORDER) {
            list_of(value)?;
        }
        if name == RETAIN_KEYS || name.starts_with(SET_ORDER) {
            continue;
        }
        if let Some(list) = name.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(live, list, value);
            continue;
        }
        let edge = edge(node, name);
        let order = patch.get(&format!("{SET_ORDER}{name}"));
        merge_field(edge, live, name, value, order)?;
    }
    for (name, order) in patch {
        if let Some(list) = name.strip_prefix(SET_ORDER)
            && !patch.contains_key(list)
        {
            reorder(edge(node, list), live, list, order)?;
        }
    }
    Ok(())
}

fn merge_field(
    edge: Option<&Edge>,
    live: &mut Object,
    name: &str,
    value: &Value,
    order: Option<&Value>,
) -> Result<(), PatchError> {
    if value.is_null() {
        live.remove(name);
        return Ok(());
    }
    let strategy = edge.and_then(|edge| edge.patch.as_deref());
    let target = edge.map(Edge::node);
    match (live.get_mut(name), value) {
        (Some(Value::Object(map)), Value::Object(patch)) => {
            if strategy.is_some_and(|s| s.replace) {
                *map = without_directives(patch);
            } else {
                merge_map(target.as_deref(), map, patch)?;
            }
        }
        (Some(Value::Array(list)), Value::Array(patch)) => {
            merge_list(target.as_deref(), strategy, list, patch, order)?;
        }
        _ => {
            if let (Some(strategy), Value::Array(patch)) = (strategy, value)
                && patch.iter().all(|entry| is_found_by(strategy, entry))
            {
                // Not on the server: merged into nothing, so that directives are obeyed.
                let mut list = Vec::new();
                merge_list(target.as_deref(), Some(strategy), &mut list, patch, order)?;
                live.insert(name.to_owned(), Value::Array(list));
                return Ok(());
            }
            live.insert(name.to_owned(), strip(value));
        }
    }
    Ok(())
}

/// Whether an entry has what it would be found by; upstream asks that only where there is something to find.
fn is_found_by(strategy: &Patch, entry: &Value) -> bool {
    let key = strategy.merge_key.as_deref();
    key.is_none_or(|key| {
        !entry.is_object() || entry.get(key).is_some() || entry.get(PATCH).is_some()
    })
}

fn merge_list(
    node: Option<&Node>,
    strategy: Option<&Patch>,
    live: &mut Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
) -> Result<(), PatchError> {
    if !strategy.is_some_and(|s| s.merge) {
        *live = patch.iter().map(strip).collect();
        return Ok(());
    }
    let merge_key = strategy.and_then(|s| s.merge_key.as_deref());
    let items = node.and_then(|node| node.items.as_ref()).map(Edge::node);
    match merge_key {
        Some(key) => merge_entries(items.as_deref(), key, live, patch, order),
        None => {
            if let Some(Value::Array(order)) = order {
                check_order(patch, order, None)?;
            }
            let server = live.clone();
            for value in patch.iter().filter(|value| !value.is_object()) {
                if !live.contains(value) {
                    live.push(value.clone());
                }
            }
            sort(live, order.and_then(Value::as_array).map_or(patch, Vec::as_slice), &server, None);
            Ok(())
        }
    }
}

/// Merges lists of objects, found by their merge key.
fn merge_entries(
    node: Option<&Node>,
    key: &str,
    live: &mut Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
) -> Result<(), PatchError> {
    let is_replace = |value: &Value| value.get(PATCH).is_some_and(|d| d == "replace");
    if patch.iter().any(is_replace) {
        *live = patch.iter().filter(|value| !is_replace(value)).map(strip).collect();
        return Ok(());
    }
    if let Some(Value::Array(order)) = order {
        check_order(patch, order, Some(key))?;
    }
    let server: Vec<Value> = live.clone();
    for entry in patch {
        let Value::Object(entry) = entry else {
            return Err(PatchError::Strategic(match server.as_slice() {
                [] => format!("expected map, got {} in the list", print::plain(entry)),
                _ => {
                    let lists = Value::from(vec![Value::from(server), Value::from(patch)]);
                    format!("list element types are not identical: {}", print::plain(&lists))
                }
            }));
        };
        let what = match entry.get(PATCH) {
            Some(what) if what == "merge" => {
                let fault = "merging lists cannot yet be specified in the patch";
                return Err(PatchError::Strategic(fault.to_owned()));
            }
            _ => directive(entry)?,
        };
        let Some(value) = entry.get(key) else { return Err(no_merge_key(entry, key)) };
        let matches = |candidate: &Value| candidate.get(key) == Some(value);
        match what {
            Directive::Delete => live.retain(|candidate| !matches(candidate)),
            Directive::Replace => (),
            Directive::Merge => match live.iter_mut().find(|candidate| matches(candidate)) {
                Some(Value::Object(map)) => merge_map(node, map, entry)?,
                _ => {
                    let mut new = Object::new();
                    merge_map(node, &mut new, entry)?;
                    live.push(Value::Object(new));
                }
            },
        }
    }
    let order = order.and_then(Value::as_array).map_or(patch, Vec::as_slice);
    sort(live, order, &server, Some(key));
    Ok(())
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Object) -> Result<Directive, PatchError> {
    match patch.get(PATCH) {
        None => Ok(Directive::Merge),
        Some(Value::String(what)) => match what.as_str() {
            "replace" => Ok(Directive::Replace),
            "delete" => Ok(Directive::Delete),
            other => Err(PatchError::Strategic(format!(
                "unknown patch type: {other} in map: {}",
                print::plain_map(patch)
            ))),
        },
        Some(other) => Err(PatchError::Strategic(format!(
            "unknown patch type: {} in map: {}",
            print::plain(other),
            print::plain_map(patch)
        ))),
    }
}

/// The keys to retain; all that a patch sets must be among them.
fn check_retained<'p>(patch: &Object, retained: &'p Value) -> Result<&'p [Value], PatchError> {
    let bad = || PatchError::Format("invalid patch format of retainKeys".to_owned());
    let retained = retained.as_array().ok_or_else(bad)?;
    let set = patch.iter().filter(|(name, value)| {
        let is_list_directive = name.starts_with(SET_ORDER) || name.starts_with(DELETE_PRIMITIVES);
        *name != RETAIN_KEYS && !value.is_null() && !is_list_directive
    });
    for (name, _) in set {
        if !retained.iter().any(|kept| kept == name) {
            return Err(bad());
        }
    }
    Ok(retained)
}

/// The entries of the patch must come in the order that `$setElementOrder` names.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for entry in patch.iter().filter(|entry| entry.get(PATCH).is_none()) {
        let mut found = false;
        while !found && let Some(next) = wanted.next() {
            found = merge_id(next, key)? == merge_id(entry, key)?;
        }
        if !found {
            return Err(PatchError::Strategic(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                print::plain(&Value::from(patch)),
                print::plain(&Value::from(order))
            )));
        }
    }
    Ok(())
}

/// What identifies an entry of a list: itself, or the value of its merge key.
fn merge_id<'v>(entry: &'v Value, key: Option<&str>) -> Result<&'v Value, PatchError> {
    match (key, entry) {
        (None, _) => Ok(entry),
        (Some(key), Value::Object(map)) => map.get(key).ok_or_else(|| no_merge_key(map, key)),
        (Some(_), other) => Err(PatchError::Strategic(format!(
            "expected a map[string]interface {{}}, but received a {}",
            print::type_of(other)
        ))),
    }
}

fn no_merge_key(entry: &Object, key: &str) -> PatchError {
    let entry = print::plain_map(entry);
    PatchError::Strategic(format!("map: {entry} does not contain declared merge key: {key}"))
}

fn list_of(value: &Value) -> Result<&[Value], PatchError> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| {
        PatchError::Strategic(format!(
            "expected a []interface {{}}, but received a {}",
            print::type_of(value)
        ))
    })
}

/// Brings `live` into the wanted order; entries that it does not name keep their place
/// relative to their neighbours in `server`, the list before the merge.
fn sort(live: &mut Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) {
    let place = |list: &[Value], value: &Value| {
        let wanted = id(value, key);
        list.iter().position(|entry| id(entry, key) == wanted)
    };
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        std::mem::take(live).into_iter().partition(|value| place(order, value).is_some());
    named.sort_by_key(|value| place(order, value));
    let mut others = others.into_iter().peekable();
    for value in named {
        // What the server did not have goes where the patch has it, before the rest.
        if let Some(at) = place(server, &value) {
            while let Some(other) =
                others.next_if(|other| place(server, other).is_some_and(|other| other < at))
            {
                live.push(other);
            }
        }
        live.push(value);
    }
    live.extend(others);
}

fn id<'a>(value: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) => value.get(key),
        None => Some(value),
    }
}

/// `$setElementOrder` for a list that the patch does not touch otherwise.
fn reorder(
    edge: Option<&Edge>,
    live: &mut Object,
    list: &str,
    order: &Value,
) -> Result<(), PatchError> {
    let key = edge.and_then(|edge| edge.patch.as_deref()).and_then(|s| s.merge_key.clone());
    let order = list_of(order)?;
    if let Some(Value::Array(list)) = live.get_mut(list) {
        order.iter().try_for_each(|entry| merge_id(entry, key.as_deref()).map(drop))?;
        let server = list.clone();
        sort(list, order, &server, key.as_deref());
    }
    Ok(())
}

fn delete_primitives(live: &mut Object, list: &str, gone: &Value) {
    if let (Some(Value::Array(list)), Value::Array(gone)) = (live.get_mut(list), gone) {
        list.retain(|value| !gone.contains(value));
    }
}

/// The patch as content: without directives, and without nulls, which delete nothing here.
fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(list) => list
            .iter()
            .filter(|value| value.get(PATCH).is_none())
            .map(strip)
            .collect::<Vec<_>>()
            .into(),
        other => other.clone(),
    }
}

fn without_directives(patch: &Object) -> Object {
    patch
        .iter()
        .filter(|(name, value)| !is_directive(name) && !value.is_null())
        .map(|(name, value)| (name.clone(), strip(value)))
        .collect()
}

fn is_directive(name: &str) -> bool {
    name == PATCH
        || name == RETAIN_KEYS
        || name.starts_with(SET_ORDER)
        || name.starts_with(DELETE_PRIMITIVES)
}

/// The place of a field or map key below `node`.
fn edge<'a>(node: Option<&'a Node>, name: &str) -> Option<&'a Edge> {
    let node = node?;
    match node.field(name) {
        Some(field) => Some(&field.edge),
        None => node.items.as_ref(),
    }
}

/// Whether the result has the shape of the type; scalars are left to decoding.
fn restore(node: &Node, value: &Value) -> Result<(), PatchError> {
    let kind = print::kind_of(value);
    match (node.kind, value) {
        (_, Value::Null) => Ok(()),
        (Kind::Object, Value::Object(map)) => {
            for (name, value) in map {
                if let Some(edge) = edge(Some(node), name) {
                    restore(&edge.node(), value)?;
                }
            }
            Ok(())
        }
        (Kind::Array, Value::Array(list)) => match node.items.as_ref().map(Edge::node) {
            Some(items) => list.iter().try_for_each(|value| restore(&items, value)),
            None => Ok(()),
        },
        (Kind::Object, _) if node.definition.is_some() => {
            Err(PatchError::Restore(format!("cannot restore struct from: {kind}")))
        }
        (Kind::Object, _) => Err(PatchError::Restore(format!("cannot restore map from {kind}"))),
        (Kind::Array, _) => Err(PatchError::Restore(format!("cannot restore slice from {kind}"))),
        _ => Ok(()),
    }
}
