//! The compiled form of a schema: a graph of small shared nodes.
//!
//! Equal subtrees are one node (see [`intern`]), whichever types they come from: the pod
//! template of ten workload types exists once.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use serde_json::Value;

use crate::facts::Zero;

/// Interned text: field names repeat in every type.
pub(crate) type Name = Arc<str>;

/// What JSON a node admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Anything.
    Any,
    /// Declared fields, additional properties, or both.
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    /// A resource quantity: `100m`, `1Gi`, or a number.
    Quantity,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
}

/// How a list is merged and what is unique in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ListType {
    Atomic,
    Set,
    Map,
}

/// One schema.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) list: ListType,
    /// Decoded as Go decodes a struct: type errors end the request, nulls and zeros go.
    pub(crate) typed: bool,
    pub(crate) nullable: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    /// An object that is applied as a whole.
    pub(crate) atomic: bool,
    /// Whether defaults are here or below.
    pub(crate) has_defaults: bool,
    /// Whether CEL rules are here or below.
    pub(crate) has_cel: bool,
    /// Keys of a list map.
    pub(crate) keys: Box<[Name]>,
    /// Upstream's definition, such as `io.k8s.api.core.v1.PodSpec`.
    pub(crate) definition: Option<Name>,
    pub(crate) fields: Fields,
    /// Entries of a list, values of a map.
    pub(crate) items: Option<Edge>,
    pub(crate) rules: Option<Box<Rules>>,
}

/// Declared fields by name, in order.
///
/// Every write looks up hundreds of names: most are told apart by their first letters, which are compared as a number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Fields {
    heads: Box<[u64]>,
    fields: Box<[Field]>,
}

/// A declared field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Field {
    pub(crate) name: Name,
    pub(crate) required: bool,
    pub(crate) zero: Zero,
    pub(crate) edge: Edge,
}

/// A node in its place: what depends on where it is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Edge {
    pub(crate) target: Target,
    pub(crate) default: Option<Arc<Value>>,
    pub(crate) patch: Option<Box<Patch>>,
}

/// Strategic merge markers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Patch {
    pub(crate) merge_key: Option<Name>,
    /// Lists merge; maps always do.
    pub(crate) merge: bool,
    /// Maps are replaced.
    pub(crate) replace: bool,
    pub(crate) retain_keys: bool,
}

/// A node, or the name of a definition that contains itself.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Node(Arc<Node>),
    Recursive(&'static str),
}

/// Rules on values that few nodes have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    pub(crate) format: Option<Name>,
    pub(crate) allowed: Vec<Value>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) pattern: Option<Name>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) min_properties: Option<u64>,
    /// Members that must be there and are not declared here, as branches of logic name them.
    pub(crate) required: Vec<Name>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) all_of: Vec<Arc<Node>>,
    pub(crate) any_of: Vec<Arc<Node>>,
    pub(crate) one_of: Vec<Arc<Node>>,
    pub(crate) not: Option<Arc<Node>>,
    /// `x-kubernetes-validations`, as written.
    pub(crate) cel: Vec<Value>,
}

impl Eq for Rules {}

impl Hash for Rules {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Floats have no hash; the bits are good enough to tell rules apart.
        (&self.format, &self.allowed, &self.pattern, &self.cel, &self.required).hash(state);
        let floats = [self.minimum, self.maximum, self.multiple_of];
        floats.map(|f| f.map(f64::to_bits)).hash(state);
        [self.min_length, self.max_length, self.min_items, self.max_items].hash(state);
        [self.min_properties, self.max_properties].hash(state);
        (self.exclusive_minimum, self.exclusive_maximum, self.unique_items).hash(state);
        for list in [&self.all_of, &self.any_of, &self.one_of] {
            list.iter().for_each(|node| Arc::as_ptr(node).hash(state));
        }
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // Children are interned before their parents, so equal ones are the same.
            (Target::Node(a), Target::Node(b)) => Arc::ptr_eq(a, b),
            (Target::Recursive(a), Target::Recursive(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Target {}

impl Hash for Target {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Target::Node(node) => Arc::as_ptr(node).hash(state),
            Target::Recursive(name) => name.hash(state),
        }
    }
}

impl Hash for Zero {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (*self as u8).hash(state);
    }
}

impl Node {
    /// A node that admits anything and keeps it.
    pub(crate) fn any() -> Node {
        Node {
            kind: Kind::Any,
            list: ListType::Atomic,
            typed: false,
            nullable: true,
            preserve_unknown: true,
            embedded: false,
            atomic: false,
            has_defaults: false,
            has_cel: false,
            keys: Box::default(),
            definition: None,
            fields: Fields::default(),
            items: None,
            rules: None,
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Field> {
        let wanted = head(name);
        let first = self.heads.partition_point(|head| *head < wanted);
        let alike = self.heads[first..].partition_point(|head| *head == wanted);
        let alike = &self.fields[first..first + alike];
        let at = alike.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        Some(&alike[at])
    }
}

/// The first eight bytes: of two names with different ones, the number of the lesser name is less.
fn head(name: &str) -> u64 {
    let name = name.as_bytes();
    match name.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let number = name.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            number.unbounded_shl(8 * (8 - name.len() as u32))
        }
    }
}

impl From<Vec<Field>> for Fields {
    fn from(mut fields: Vec<Field>) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            heads: fields.iter().map(|field| head(&field.name)).collect(),
            fields: fields.into(),
        }
    }
}

impl std::ops::Deref for Fields {
    type Target = [Field];

    fn deref(&self) -> &[Field] {
        &self.fields
    }
}

/// The node at the end of an edge.
///
/// Borrowed wherever it can be: every write visits a hundred edges many times, and a count that all
/// processors share would have to travel between them each time.
pub(crate) enum NodeRef<'a> {
    Held(&'a Arc<Node>),
    Found(Arc<Node>),
}

impl NodeRef<'_> {
    /// The node, to keep.
    pub(crate) fn shared(&self) -> Arc<Node> {
        match self {
            NodeRef::Held(node) => Arc::clone(node),
            NodeRef::Found(node) => node.clone(),
        }
    }
}

impl std::ops::Deref for NodeRef<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        match self {
            NodeRef::Held(node) => node,
            NodeRef::Found(node) => node,
        }
    }
}

impl Edge {
    pub(crate) fn node(&self) -> NodeRef<'_> {
        match &self.target {
            Target::Node(node) => NodeRef::Held(node),
            Target::Recursive(name) => NodeRef::Found(
                crate::compile::definition(name).unwrap_or_else(|| Arc::new(Node::any())),
            ),
        }
    }
}

/// When to look for what nobody holds any more: once there is twice as much as after the last time. Schemas come and
/// go with definitions, and each has nodes and names of its own.
#[derive(Default)]
pub(crate) struct Sweep {
    at: usize,
}

impl Sweep {
    const LEAST: usize = 1 << 12;

    /// Whether `n` are enough to look.
    pub(crate) fn is_due(&self, n: usize) -> bool {
        n > self.at.max(Self::LEAST)
    }

    /// `n` have stayed.
    pub(crate) fn done(&mut self, n: usize) {
        self.at = 2 * n;
    }
}

/// The one node that is equal to `node`.
pub(crate) fn intern(node: Node) -> Arc<Node> {
    type Nodes = (HashMap<u64, Vec<Weak<Node>>>, Sweep);
    static NODES: LazyLock<Mutex<Nodes>> = LazyLock::new(Mutex::default);
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    let mut nodes = NODES.lock().unwrap_or_else(PoisonError::into_inner);
    let (nodes, sweep) = &mut *nodes;
    if sweep.is_due(nodes.len()) {
        nodes.retain(|_, same| {
            same.retain(|weak| weak.strong_count() > 0);
            !same.is_empty()
        });
        sweep.done(nodes.len());
    }
    let same = nodes.entry(hasher.finish()).or_default();
    same.retain(|weak| weak.strong_count() > 0);
    for known in same.iter().filter_map(Weak::upgrade) {
        if *known == node {
            return known;
        }
    }
    let node = Arc::new(node);
    same.push(Arc::downgrade(&node));
    node
}

/// The one copy of a name.
pub(crate) fn name(text: &str) -> Name {
    type Names = (HashSet<Name>, Sweep);
    static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let (names, sweep) = &mut *names;
    if let Some(known) = names.get(text) {
        return known.clone();
    }
    if sweep.is_due(names.len()) {
        names.retain(|name| Arc::strong_count(name) > 1);
        sweep.done(names.len());
    }
    let new: Name = text.into();
    names.insert(new.clone());
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let names = ["", "a", "ab", "a\0", "longname", "longname1", "longname2", "ünï"];
        let field = |text: &&str| Field {
            name: name(text),
            required: false,
            zero: Zero::Kept,
            edge: Edge { target: Target::Recursive("x"), default: None, patch: None },
        };
        let fields = Fields::from(names.iter().rev().map(field).collect::<Vec<_>>());
        assert!(fields.is_sorted_by(|a, b| a.name < b.name));
        for name in names {
            assert_eq!(fields.get(name).map(|field| &*field.name), Some(name));
        }
        assert!(["b", "longnam", "longname3", "\0"].iter().all(|name| fields.get(name).is_none()));
    }

    #[test]
    fn what_nobody_holds_goes() {
        let kept = name("kept-name");
        let weak = Arc::downgrade(&name("name-0"));
        for n in 1..=4 * Sweep::LEAST {
            name(&format!("name-{n}"));
        }
        assert!(weak.upgrade().is_none());
        assert!(Arc::ptr_eq(&kept, &name("kept-name")));
    }
}
