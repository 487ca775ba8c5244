//! Sets of fields, in the shape in which `fieldsV1` writes them.
//!
//! An element of a path is its own text: `f:spec`, `k:{"name":"a"}`, `v:"x"`, `i:0`.
//!
//! Source: kubernetes-sigs/structured-merge-diff, "FieldsV1"; the API documentation of
//! `metav1.FieldsV1`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

/// A tree of path elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path that leads here is in the set.
    pub(super) member: bool,
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Whether no path is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// The set that `fieldsV1` holds; what is no set reads as empty.
    #[must_use]
    pub fn from_json(json: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        let Value::Object(map) = json else { return set };
        for (element, inner) in map {
            if element == "." {
                set.member = true;
                continue;
            }
            let mut child = FieldSet::from_json(inner);
            // A leaf is a member without saying so.
            child.member |= child.children.is_empty();
            set.children.insert(canonical(element), child);
        }
        set
    }

    /// Whether what `fieldsV1` holds may have something in common with the set.
    ///
    /// Without reading it: entries of lists, which can be written in several ways, may always.
    pub(super) fn may_meet(&self, json: &Value) -> bool {
        let Value::Object(map) = json else { return false };
        let meets = |(element, child): (&String, &FieldSet)| {
            !element.starts_with("f:") || map.get(element).is_some_and(|json| child.may_meet(json))
        };
        let is_leaf = map.is_empty() || map.contains_key(".");
        self.member && is_leaf || self.children.iter().any(meets)
    }

    /// The JSON of `fieldsV1`.
    #[must_use]
    pub fn into_json(self) -> Value {
        let children = self.children.into_iter().filter(|(_, child)| !child.is_empty());
        let mut map: Map<String, Value> =
            children.map(|(element, child)| (element, child.into_json())).collect();
        if self.member && !map.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        Value::Object(map)
    }

    pub(super) fn leaf() -> FieldSet {
        FieldSet { member: true, children: BTreeMap::new() }
    }

    pub(super) fn put(&mut self, element: String, child: FieldSet) {
        if !child.is_empty() {
            self.join(element, child);
        }
    }

    pub(super) fn add(&mut self, other: FieldSet) {
        self.member |= other.member;
        for (element, child) in other.children {
            self.join(element, child);
        }
    }

    /// A branch that is new is taken as it is.
    fn join(&mut self, element: String, child: FieldSet) {
        match self.children.entry(element) {
            Entry::Vacant(place) => _ = place.insert(child),
            Entry::Occupied(mut place) => place.get_mut().add(child),
        }
    }

    /// What is in both sets.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet { member: self.member && other.member, children: BTreeMap::new() };
        for (element, child) in &self.children {
            if let Some(other) = other.children.get(element) {
                both.put(element.clone(), child.intersection(other));
            }
        }
        both
    }

    /// Takes away what is in `other`.
    pub(super) fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (element, other) in &other.children {
            let Some(child) = self.children.get_mut(element) else { continue };
            child.subtract(other);
            if child.is_empty() {
                self.children.remove(element);
            }
        }
    }

    /// Removes the path of these elements and everything below.
    pub(super) fn remove(&mut self, path: &[&str]) {
        match path {
            [] => *self = FieldSet::default(),
            [last] => _ = self.children.remove(*last),
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.remove(rest);
                }
            }
        }
    }

    /// Whether the field at a path of names is in the set.
    pub(super) fn has(&self, path: &[impl AsRef<str>]) -> bool {
        let found = path.iter().try_fold(self, |set, name| set.children.get(&field(name.as_ref())));
        found.is_some_and(|set| set.member)
    }

    /// The set of one field.
    pub(super) fn of_path(path: &[impl AsRef<str>]) -> FieldSet {
        path.iter().rev().fold(FieldSet::leaf(), |below, name| FieldSet {
            member: false,
            children: BTreeMap::from([(field(name.as_ref()), below)]),
        })
    }

    /// All members as paths such as `.spec.containers[name="a"].image`, in order.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, path: &str, paths: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            paths.push(path.to_owned());
        }
        for (element, child) in &self.children {
            child.collect(&format!("{path}{}", show(element)), paths);
        }
    }
}

/// `f:spec`.
pub(super) fn field(name: &str) -> String {
    ["f:", name].concat()
}

/// The name in such an element.
pub(super) fn name(element: &str) -> Option<&str> {
    element.strip_prefix("f:")
}

/// `k:{"name":"a"}`.
pub(super) fn key(keys: &Map<String, Value>) -> String {
    let sorted: BTreeMap<&String, &Value> = keys.iter().collect();
    format!("k:{}", serde_json::to_string(&sorted).unwrap_or_default())
}

/// `v:"x"`.
pub(super) fn value(value: &Value) -> String {
    format!("v:{value}")
}

/// An element as a message shows it.
pub(super) fn show(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> =
                keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v:" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

/// Go escapes some characters that we do not: elements are compared as we write them.
fn canonical(element: &str) -> String {
    let parse = |rest: &str| serde_json::from_str::<Value>(rest).ok();
    let parsed = match element.split_at_checked(2) {
        Some(("k:", rest)) => parse(rest).and_then(|keys| keys.as_object().map(key)),
        Some(("v:", rest)) => parse(rest).map(|parsed| value(&parsed)),
        _ => None,
    };
    parsed.unwrap_or_else(|| element.to_owned())
}
