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
    pub(super) children: Children,
}

/// What is below a path, by element, in order and each element once.
///
/// A list and no map: sets are made whole, from what is in order already, and then read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Children(Vec<(String, FieldSet)>);

impl Children {
    pub(super) fn get(&self, element: &str) -> Option<&FieldSet> {
        Some(&self.0[self.place(element)?].1)
    }

    pub(super) fn get_mut(&mut self, element: &str) -> Option<&mut FieldSet> {
        let at = self.place(element)?;
        Some(&mut self.0[at].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &FieldSet)> {
        self.0.iter().map(|(element, child)| (element, child))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn retain(&mut self, mut stays: impl FnMut(&str, &FieldSet) -> bool) {
        self.0.retain(|(element, child)| stays(element, child));
    }

    fn place(&self, element: &str) -> Option<usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(element)).ok()
    }
}

/// Of an element that comes several times, all that is below; nothing of what is empty.
impl FromIterator<(String, FieldSet)> for Children {
    fn from_iter<I: IntoIterator<Item = (String, FieldSet)>>(children: I) -> Self {
        let mut list: Vec<_> = children.into_iter().collect();
        list.retain(|(_, child)| !child.is_empty());
        if !list.is_sorted_by(|(a, _), (b, _)| a < b) {
            list.sort_by(|(a, _), (b, _)| a.cmp(b));
            list.dedup_by(|(element, child), (kept, into)| {
                let is_same = element == kept;
                if is_same {
                    into.add(std::mem::take(child));
                }
                is_same
            });
        }
        Self(list)
    }
}

impl FieldSet {
    /// Whether no path is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.iter().all(|(_, child)| child.is_empty())
    }

    /// The set that `fieldsV1` holds; what is no set reads as empty.
    #[must_use]
    pub fn from_json(json: &Value) -> FieldSet {
        let Value::Object(map) = json else { return FieldSet::default() };
        let inner = map.iter().filter(|(element, _)| *element != ".").map(|(element, inner)| {
            let mut child = FieldSet::from_json(inner);
            // A leaf is a member without saying so.
            child.member |= child.children.is_empty();
            (canonical(element), child)
        });
        FieldSet { member: map.contains_key("."), children: inner.collect() }
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
        if self.children.is_empty() {
            return Value::Object(Map::new());
        }
        let children = self.children.0.into_iter();
        let mut map: Map<String, Value> =
            children.map(|(element, child)| (element, child.into_json())).collect();
        if self.member {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        Value::Object(map)
    }

    pub(super) fn leaf() -> FieldSet {
        FieldSet { member: true, children: Children::default() }
    }

    pub(super) fn add(&mut self, other: FieldSet) {
        self.member |= other.member;
        if self.children.is_empty() {
            self.children = other.children;
        } else if !other.children.is_empty() {
            let own = std::mem::take(&mut self.children).0;
            self.children = own.into_iter().chain(other.children.0).collect();
        }
    }

    /// What is in both sets.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let both = |(element, child): (&String, &FieldSet)| {
            Some((element.clone(), child.intersection(other.children.get(element)?)))
        };
        FieldSet {
            member: self.member && other.member,
            children: self.children.iter().filter_map(both).collect(),
        }
    }

    /// Takes away what is in `other`.
    pub(super) fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (element, other) in other.children.iter() {
            if let Some(child) = self.children.get_mut(element) {
                child.subtract(other);
            }
        }
        self.children.retain(|_, child| !child.is_empty());
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
            children: Children::from_iter([(field(name.as_ref()), below)]),
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
        for (element, child) in self.children.iter() {
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
pub(super) fn key<'k>(keys: impl Iterator<Item = (&'k str, &'k Value)>) -> String {
    let sorted: BTreeMap<&str, &Value> = keys.collect();
    ["k:", &serde_json::to_string(&sorted).unwrap_or_default()].concat()
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
        Some(("k:", rest)) => parse(rest).and_then(|keys| {
            Some(key(keys.as_object()?.iter().map(|(name, value)| (name.as_str(), value))))
        }),
        Some(("v:", rest)) => parse(rest).map(|parsed| value(&parsed)),
        _ => None,
    };
    parsed.unwrap_or_else(|| element.to_owned())
}
