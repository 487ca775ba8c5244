//! Sets of fields, in the shape in which `fieldsV1` writes them.
//!
//! An element of a path is its own text: `f:spec`, `k:{"name":"a"}`, `v:"x"`, `i:0`.
//!
//! Source: kubernetes-sigs/structured-merge-diff, "FieldsV1"; the API documentation of
//! `metav1.FieldsV1`.

use std::collections::BTreeMap;

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

    /// The JSON of `fieldsV1`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && self.children.values().any(|child| !child.is_empty()) {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            if !child.is_empty() {
                map.insert(element.clone(), child.to_json());
            }
        }
        Value::Object(map)
    }

    pub(super) fn leaf() -> FieldSet {
        FieldSet { member: true, children: BTreeMap::new() }
    }

    pub(super) fn put(&mut self, element: String, child: FieldSet) {
        if !child.is_empty() {
            self.children.entry(element).or_default().add(child);
        }
    }

    pub(super) fn add(&mut self, other: FieldSet) {
        self.member |= other.member;
        for (element, child) in other.children {
            self.children.entry(element).or_default().add(child);
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

    /// What is here and not in `other`.
    pub(super) fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut rest = FieldSet { member: self.member && !other.member, children: BTreeMap::new() };
        for (element, child) in &self.children {
            let child = match other.children.get(element) {
                Some(other) => child.difference(other),
                None => child.clone(),
            };
            rest.put(element.clone(), child);
        }
        rest
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
    format!("f:{name}")
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
fn show(element: &str) -> String {
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
    let (kind, rest) = element.split_at(element.len().min(2));
    match (kind, serde_json::from_str::<Value>(rest)) {
        ("k:", Ok(Value::Object(keys))) => key(&keys),
        ("v:", Ok(parsed)) => value(&parsed),
        _ => element.to_owned(),
    }
}
