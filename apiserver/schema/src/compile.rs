//! From OpenAPI JSON to nodes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use serde_json::{Map, Value};

use crate::facts::{self, REF_PREFIX, Zero};
use crate::node::{
    Edge, Field, Fields, Kind, ListType, Name, Node, Patch, Rules, Sweep, Target, intern,
    name as interned,
};

/// A schema that cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A place that must hold an object holds something else.
    #[error("schema at {0:?} must be an object")]
    NotAnObject(String),
    /// A definition that is not among the facts.
    #[error("unknown definition {0}")]
    UnknownDefinition(String),
    /// Nested deeper than any real schema.
    #[error("schema is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Levels of nesting that a schema may have; the deepest upstream type has 23.
pub(crate) const MAX_DEPTH: usize = 128;

/// Key of a schema that names the upstream definition that it is.
pub(crate) const DEFINITION: &str = "x-improv-definition";

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The node of an upstream definition; made once.
pub(crate) fn definition(name: &str) -> Option<Arc<Node>> {
    Compiler::default().definition(facts::static_name(name)?).ok()
}

/// Compiled definitions; they stay, since every write of their types needs them.
fn known() -> MutexGuard<'static, HashMap<&'static str, Arc<Node>>> {
    static KNOWN: LazyLock<Mutex<HashMap<&'static str, Arc<Node>>>> = LazyLock::new(Mutex::default);
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nodes of parts that carry the name of a definition, by the hash of their JSON: workloads
/// share most of theirs, and a part that is known need not be compiled to be found equal.
struct Parts {
    keys: RandomState,
    nodes: HashMap<u64, Weak<Node>>,
    sweep: Sweep,
}

impl Parts {
    fn insert(&mut self, key: u64, node: &Arc<Node>) {
        if self.sweep.is_due(self.nodes.len()) {
            self.nodes.retain(|_, node| node.strong_count() > 0);
            self.sweep.done(self.nodes.len());
        }
        self.nodes.insert(key, Arc::downgrade(node));
    }
}

fn parts() -> MutexGuard<'static, Parts> {
    static PARTS: LazyLock<Mutex<Parts>> = LazyLock::new(|| {
        let (keys, nodes) = (RandomState::new(), HashMap::new());
        Mutex::new(Parts { keys, nodes, sweep: Sweep::default() })
    });
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The node of a CustomResourceDefinition's `openAPIV3Schema`.
///
/// `apiVersion`, `kind` and `metadata` of the root are what they are in every object.
pub(crate) fn custom(schema: &Value) -> Result<Arc<Node>, CompileError> {
    let mut compiler = Compiler::default();
    let mut root = compiler.node(schema)?;
    if root.kind == Kind::Any {
        root.kind = Kind::Object;
    }
    let root = with_metadata(root);
    Ok(intern(root))
}

/// Puts the three fields of every object into `node`.
fn with_metadata(mut node: Node) -> Node {
    let is_own = |field: &&Field| !matches!(&*field.name, "apiVersion" | "kind" | "metadata");
    let mut fields: Vec<Field> = node.fields.iter().filter(is_own).cloned().collect();
    let text = || intern(Node { kind: Kind::String, preserve_unknown: false, ..Node::any() });
    let metadata = definition(OBJECT_META).unwrap_or_else(|| Arc::new(Node::any()));
    for (name, target) in [("apiVersion", text()), ("kind", text()), ("metadata", metadata)] {
        fields.push(Field {
            name: interned(name),
            required: node.embedded && name != "metadata",
            zero: Zero::Kept,
            edge: Edge { target: Target::Node(target), default: None, patch: None },
        });
    }
    node.fields = fields.into();
    node
}

#[derive(Default)]
struct Compiler {
    /// Definitions being compiled: one that is met again contains itself.
    open: Vec<&'static str>,
    depth: usize,
    /// Inside an upstream definition: its scalars, lists and maps are Go's too.
    typed: bool,
}

impl Compiler {
    fn definition(&mut self, name: &'static str) -> Result<Arc<Node>, CompileError> {
        if let Some(node) = known().get(name) {
            return Ok(node.clone());
        }
        let unknown = || CompileError::UnknownDefinition(name.to_owned());
        let schema = facts::openapi(name).ok_or_else(unknown)?;
        self.open.push(name);
        let node = self.node(&schema);
        self.open.pop();
        let node = intern(node?);
        known().insert(name, node.clone());
        Ok(node)
    }

    fn target(&mut self, schema: &Value) -> Result<Target, CompileError> {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let Some(name) = reference.map(|r| r.strip_prefix(REF_PREFIX).unwrap_or(r)) else {
            return Ok(Target::Node(self.part(schema)?));
        };
        let unknown = || CompileError::UnknownDefinition(name.to_owned());
        let name = facts::static_name(name).ok_or_else(unknown)?;
        if self.open.contains(&name) {
            return Ok(Target::Recursive(name));
        }
        let node = self.definition(name)?;
        if schema.get("x-kubernetes-map-type").is_some_and(|of| of == "granular") {
            // Here its fields have owners of their own.
            let granular = Node { atomic: false, ..(*node).clone() };
            return Ok(Target::Node(intern(granular)));
        }
        Ok(Target::Node(node))
    }

    fn part(&mut self, schema: &Value) -> Result<Arc<Node>, CompileError> {
        let key = schema.get(DEFINITION).map(|_| {
            let keys = parts().keys.clone();
            keys.hash_one(schema)
        });
        let found = key.and_then(|key| parts().nodes.get(&key)?.upgrade());
        if let Some(node) = found {
            return Ok(node);
        }
        let node = self.node(schema)?;
        let node = intern(if node.embedded { with_metadata(node) } else { node });
        if let Some(key) = key {
            parts().insert(key, &node);
        }
        Ok(node)
    }

    fn edge(&mut self, schema: &Value) -> Result<Edge, CompileError> {
        Ok(Edge {
            target: self.target(schema)?,
            default: schema.get("default").map(|value| Arc::new(value.clone())),
            patch: patch(schema),
        })
    }

    fn node(&mut self, schema: &Value) -> Result<Node, CompileError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(CompileError::TooDeep);
        }
        let outside = self.typed;
        self.typed |= schema.get(DEFINITION).is_some();
        let node = self.node_here(schema);
        self.typed = outside;
        self.depth -= 1;
        node
    }

    fn node_here(&mut self, schema: &Value) -> Result<Node, CompileError> {
        let Value::Object(map) = schema else {
            return Err(CompileError::NotAnObject(schema.to_string()));
        };
        let definition = map.get(DEFINITION).and_then(Value::as_str);
        let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or_default();
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let kind = kind(map, definition);
        let fields = self.fields(map, definition)?;
        let items = self.items(map)?;
        let has_defaults = fields.iter().any(|f| has_defaults(&f.edge) || f.zero == Zero::Null)
            || items.as_ref().is_some_and(has_defaults);
        let rules = self.rules(map)?;
        let has_cel = fields.iter().any(|field| has_cel(&field.edge))
            || items.as_ref().is_some_and(has_cel)
            || rules.as_ref().is_some_and(|rules| !rules.cel.is_empty());
        Ok(Node {
            kind,
            list: match text("x-kubernetes-list-type") {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map,
                _ => ListType::Atomic,
            },
            typed: self.typed,
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            atomic: text("x-kubernetes-map-type") == Some("atomic"),
            has_defaults,
            has_cel,
            keys: strings(map.get("x-kubernetes-list-map-keys")).collect(),
            definition: definition.map(interned),
            fields,
            items,
            rules,
        })
    }

    fn fields(
        &mut self,
        map: &Map<String, Value>,
        definition: Option<&str>,
    ) -> Result<Fields, CompileError> {
        let Some(Value::Object(properties)) = map.get("properties") else {
            return Ok(Fields::default());
        };
        let facts = definition.and_then(|name| Some((name, facts::definition(name)?)));
        let required: Vec<Name> = strings(map.get("required")).collect();
        let mut fields = Vec::with_capacity(properties.len());
        for (name, schema) in properties {
            let mut edge = self.edge(schema)?;
            let mut zero = Zero::Kept;
            if let Some((definition, facts)) = &facts {
                zero = facts::zero(definition, facts, name);
                if edge.default.is_none() {
                    edge.default = facts::default(definition, facts, name).map(Arc::new);
                }
            }
            fields.push(Field {
                required: required.iter().any(|r| **r == **name),
                name: interned(name),
                zero,
                edge,
            });
        }
        Ok(fields.into())
    }

    fn items(&mut self, map: &Map<String, Value>) -> Result<Option<Edge>, CompileError> {
        match (map.get("items"), map.get("additionalProperties")) {
            (Some(items @ Value::Object(_)), _) => Ok(Some(self.edge(items)?)),
            (_, Some(values @ Value::Object(_))) => Ok(Some(self.edge(values)?)),
            (_, Some(Value::Bool(true))) => Ok(Some(Edge {
                target: Target::Node(intern(Node::any())),
                default: None,
                patch: None,
            })),
            _ => Ok(None),
        }
    }

    fn rules(&mut self, map: &Map<String, Value>) -> Result<Option<Box<Rules>>, CompileError> {
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let count = |key: &str| map.get(key).and_then(Value::as_u64);
        let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or_default();
        let text = |key: &str| map.get(key).and_then(Value::as_str).map(interned);
        let list = |key: &str| match map.get(key) {
            Some(Value::Array(values)) => values.clone(),
            _ => Vec::new(),
        };
        let rules = Rules {
            format: text("format"),
            allowed: list("enum"),
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern: text("pattern"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: flag("uniqueItems"),
            min_properties: count("minProperties"),
            required: strings(map.get("required"))
                .filter(|name| map.get("properties").is_none_or(|p| p.get(&**name).is_none()))
                .collect(),
            max_properties: count("maxProperties"),
            all_of: self.branches(map.get("allOf"))?,
            any_of: self.branches(map.get("anyOf"))?,
            one_of: self.branches(map.get("oneOf"))?,
            not: match map.get("not") {
                Some(schema) => Some(intern(self.node(schema)?)),
                None => None,
            },
            cel: list("x-kubernetes-validations"),
        };
        Ok((rules != Rules::default()).then(|| Box::new(rules)))
    }

    fn branches(&mut self, list: Option<&Value>) -> Result<Vec<Arc<Node>>, CompileError> {
        let Some(Value::Array(list)) = list else { return Ok(Vec::new()) };
        list.iter().map(|schema| Ok(intern(self.node(schema)?))).collect()
    }
}

fn kind(map: &Map<String, Value>, definition: Option<&str>) -> Kind {
    match definition.map(facts::short_name) {
        Some("Quantity") => return Kind::Quantity,
        Some("Time") => return Kind::Time,
        Some("MicroTime") => return Kind::MicroTime,
        // Any JSON, although CRDs must call it an object.
        Some("RawExtension") => return Kind::Any,
        _ => (),
    }
    if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return Kind::IntOrString;
    }
    match map.get("type").and_then(Value::as_str) {
        Some("object") => Kind::Object,
        Some("array") => Kind::Array,
        Some("string") => Kind::String,
        Some("integer") => Kind::Integer,
        Some("number") => Kind::Number,
        Some("boolean") => Kind::Boolean,
        _ => Kind::Any,
    }
}

fn has_defaults(edge: &Edge) -> bool {
    edge.default.is_some()
        || match &edge.target {
            Target::Node(node) => node.has_defaults,
            Target::Recursive(_) => true,
        }
}

fn has_cel(edge: &Edge) -> bool {
    match &edge.target {
        Target::Node(node) => node.has_cel,
        // Upstream's own types have no rules.
        Target::Recursive(_) => false,
    }
}

/// Strategic merge markers, if there are any.
fn patch(schema: &Value) -> Option<Box<Patch>> {
    let merge_key = schema.get("x-kubernetes-patch-merge-key").and_then(Value::as_str);
    let strategy = schema.get("x-kubernetes-patch-strategy").and_then(Value::as_str);
    if merge_key.is_none() && strategy.is_none() {
        return None;
    }
    let has = |word: &str| strategy.is_some_and(|s| s.split(',').any(|part| part.trim() == word));
    Some(Box::new(Patch {
        merge_key: merge_key.map(interned),
        merge: has("merge"),
        replace: has("replace"),
        retain_keys: has("retainKeys"),
    }))
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = Name> {
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(interned)
}
