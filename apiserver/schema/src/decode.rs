//! From what a client sent to what the type has: unknown fields go, Go's habits are kept.
//!
//! In types that upstream has in Go ([`Node::typed`]) a value of the wrong JSON type ends the
//! request with the words of Go's decoder, nulls and omitted zeros disappear, quantities and
//! times get their canonical form. In custom resources only unknown fields and nulls go; wrong
//! types are left to validation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Number, Value};

use crate::facts::Zero;
use crate::json::{self, Key, Overwritten};
use crate::node::{Edge, Field, Kind, Node};
use crate::path::Path;
use crate::{formats, go, print, quantity, time};

/// Why a body is not an object of its type.
///
/// The texts are those of upstream's decoder, since clients show and match them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A value of another JSON type; `value` is `string`, `number 1.5`, `object` ….
    #[error(
        "json: cannot unmarshal {value} into Go struct field {structure}.{path} of type {expected}"
    )]
    Type {
        /// What was sent.
        value: String,
        /// Name of the Go struct that has the field.
        structure: String,
        /// Names of the fields that lead there, without indexes.
        path: String,
        /// Go type of the field.
        expected: String,
    },
    /// The whole body is of another JSON type.
    #[error("json: cannot unmarshal {value} into Go value of type {expected}")]
    Root {
        /// What was sent.
        value: String,
        /// Go type of the object.
        expected: String,
    },
    /// A string that does not parse, as bytes, quantities and times; or what [`convert`] refuses.
    #[error("{0}")]
    Text(String),
}

/// What `items`, `additionalProperties` and `dependencies` of a definition's schema may be, beside something simpler.
const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

pub(crate) struct Decoder<'r> {
    root: &'r Node,
    /// Whether it is a patched object, of which upstream makes structs without JSON in between.
    converts: bool,
    unknown: Vec<String>,
    faults: Vec<Fault>,
}

/// What does not fit.
struct Fault {
    path: String,
    /// Whether Go stops there: at types that read themselves.
    stops: bool,
    error: DecodeError,
}

/// Where a field stands among those of a text; an entry of a list stands where its list does.
fn place(fields: &[String], path: &str) -> usize {
    let found = fields.iter().position(|field| field == path);
    let list = || path.strip_suffix(']')?.rsplit_once('[').map(|(list, _)| place(fields, list));
    found.or_else(list).unwrap_or(usize::MAX)
}

/// Faults that are looked at; the first one is told.
const MOST_FAULTS: usize = 100;

/// Adds what a field had only before: fields of structs at any depth, and entries of maps. A null does nothing to what is
/// no pointer, list or map.
fn complete(field: &Field, now: &mut Value, before: Value) {
    let node = field.edge.node();
    let is_held = matches!(field.zero, Zero::Omitted | Zero::Written);
    match (now, before) {
        (now @ Value::Null, before)
            if is_held && node.kind != Kind::Array && node.items.is_none() =>
        {
            *now = before;
        }
        (Value::Object(now), Value::Object(before)) => {
            for (name, value) in before {
                match (now.get_mut(&name), node.field(&name)) {
                    (None, _) => _ = now.insert(name, value),
                    (Some(now), Some(field)) => complete(field, now, value),
                    (Some(_), None) => (),
                }
            }
        }
        _ => (),
    }
}

/// Decodes in place; returns the paths of the fields that were removed as unknown.
pub(crate) fn decode(node: &Node, value: &mut Value) -> Result<Vec<String>, DecodeError> {
    decode_text(node, value, b"", Vec::new())
}

/// As [`decode`], with the habits and words of upstream's conversion of maps to structs.
///
/// A number too large for its field is refused, where upstream keeps its lowest bits.
pub(crate) fn convert(node: &Node, value: &mut Value) -> Result<Vec<String>, DecodeError> {
    let mut decoder = Decoder { converts: true, ..Decoder::new(node) };
    decoder.value(node, value, &Path::ROOT);
    decoder.end()
}

/// As [`decode`], of what was read from a JSON text, of whose faults the first one is told. What a field had before it
/// came once more must fit, too, and stays where the last one says nothing: Go decodes both into one struct.
pub(crate) fn decode_text(
    node: &Node,
    value: &mut Value,
    text: &[u8],
    overwritten: Vec<Overwritten>,
) -> Result<Vec<String>, DecodeError> {
    let mut decoder = Decoder::new(node);
    // What was overwritten last goes first: the others may be parts of it.
    for Overwritten { place, value: before } in overwritten.into_iter().rev() {
        decoder.take_up(node, Some(&mut *value), &place, before, &Path::ROOT);
    }
    decoder.value(node, value, &Path::ROOT);
    if decoder.faults.len() > 1 && !text.is_empty() {
        let fields = crate::json::fields(text);
        let key = |fault: &Fault| (!fault.stops, place(&fields, &fault.path));
        decoder.faults.sort_by_cached_key(key);
    }
    decoder.end()
}

impl<'r> Decoder<'r> {
    fn new(root: &'r Node) -> Self {
        Self { root, converts: false, unknown: Vec::new(), faults: Vec::new() }
    }

    fn end(self) -> Result<Vec<String>, DecodeError> {
        match self.faults.into_iter().next() {
            Some(fault) => Err(fault.error),
            None => Ok(self.unknown),
        }
    }

    /// Judges what a field had before, and keeps of it what the last one, in `now`, does not say.
    fn take_up(
        &mut self,
        node: &Node,
        now: Option<&mut Value>,
        place: &[Key],
        mut before: Value,
        path: &Path<'_>,
    ) {
        let Some((key, rest)) = place.split_first() else { return };
        let (field, now, path) = match key {
            Key::Name(name) => {
                let now = now.and_then(|now| now.get_mut(name.as_str()));
                match node.field(name) {
                    Some(field) => (Some(field), now, path.field(name)),
                    None => (None, now, path.key(name)),
                }
            }
            Key::Index(index) => {
                (None, now.and_then(|now| now.get_mut(*index)), path.index(*index))
            }
        };
        let Some(edge) = field.map(|field| &field.edge).or(node.items.as_ref()) else { return };
        let node = edge.node();
        if !rest.is_empty() {
            self.take_up(&node, now, rest, before, &path);
        } else if node.typed && !before.is_null() {
            self.value(&node, &mut before, &path);
            // Entries of maps and lists are replaced.
            if let (Some(field), Some(now)) = (field, now) {
                complete(field, now, before);
            }
        }
    }

    fn value(&mut self, node: &Node, value: &mut Value, path: &Path<'_>) {
        match node.kind {
            Kind::Object => self.object(node, value, path),
            Kind::Array => self.array(node, value, path),
            Kind::Any
                // Fields that are declared below an untyped value are still looked into.
                if value.is_object() && (!node.fields.is_empty() || node.items.is_some()) => {
                    self.object(node, value, path);
                }
            Kind::Any if is_schema_or_other(node) => self.schema_or_other(value, path),
            Kind::Any => (),
            _ if node.typed => self.scalar(node, value, path),
            _ => self.misplaced(node, value, path),
        }
    }

    /// An object of which a custom type knows no field, though something else should stand there; also one in a list.
    fn misplaced(&mut self, node: &Node, value: &mut Value, path: &Path<'_>) {
        match value {
            _ if node.preserve_unknown => (),
            Value::Object(map) => {
                self.unknown.extend(map.keys().map(|name| path.field(name).dotted()));
                map.clear();
            }
            Value::Array(list) => {
                for (index, value) in list.iter_mut().enumerate() {
                    self.misplaced(node, value, &path.index(index));
                }
            }
            _ => (),
        }
    }

    fn object(&mut self, node: &Node, value: &mut Value, path: &Path<'_>) {
        let Value::Object(map) = value else {
            return match node.typed {
                true => self.wrong_type(value, path, false),
                false => self.misplaced(node, value, path),
            };
        };
        let unlisted_goes = !node.preserve_unknown && node.items.is_none();
        map.retain(|name, value| match node.field(name) {
            Some(field) => {
                let path = path.field(name);
                let edge = &field.edge;
                self.field(node, edge, field.zero, value, &path)
            }
            None if unlisted_goes => {
                self.unknown.push(path.field(name).dotted());
                false
            }
            None => {
                let Some(items) = &node.items else { return true };
                if value.is_null() && !node.typed && !items.node().nullable {
                    return false;
                }
                self.map_value(items, value, &path.key(name));
                true
            }
        });
    }

    /// Whether the field stays.
    fn field(
        &mut self,
        parent: &Node,
        edge: &Edge,
        zero: Zero,
        value: &mut Value,
        path: &Path<'_>,
    ) -> bool {
        let node = edge.node();
        if value.is_null() {
            return node.nullable || zero == Zero::Null || !parent.typed && edge.default.is_some();
        }
        self.value(&node, value, path);
        match zero {
            Zero::Omitted => !is_zero(value),
            // An empty string or struct is what a pointer points to.
            Zero::Null if value.is_object() && node.typed => true,
            Zero::Null if is_zero(value) && !value.is_string() => false,
            _ => true,
        }
    }

    /// A JSON schema, a list of them, or something simple. Go decodes it apart from the rest: unknown fields go
    /// without a word, and paths in errors begin here.
    fn schema_or_other(&mut self, value: &mut Value, path: &Path<'_>) {
        match value {
            Value::Object(_) => {
                let Some(node) = crate::compile::definition(JSON_SCHEMA) else { return };
                if let Err(fault) = decode(&node, value) {
                    self.fault(path, true, fault);
                }
            }
            Value::Array(list) => {
                list.iter_mut().for_each(|value| self.schema_or_other(value, path));
            }
            _ => (),
        }
    }

    fn array(&mut self, node: &Node, value: &mut Value, path: &Path<'_>) {
        let Value::Array(list) = value else {
            return match node.typed {
                true => self.wrong_type(value, path, false),
                false => self.misplaced(node, value, path),
            };
        };
        let Some(items) = &node.items else { return };
        for (index, value) in list.iter_mut().enumerate() {
            self.entry(items, value, &path.index(index));
        }
    }

    /// An entry of a list or a value of a map; Go makes a zero value of a null.
    fn entry(&mut self, edge: &Edge, value: &mut Value, path: &Path<'_>) {
        let node = edge.node();
        if value.is_null() && node.typed {
            *value = match node.kind {
                Kind::String => "".into(),
                Kind::Object => Value::Object(Map::new()),
                Kind::Quantity => "0".into(),
                Kind::Integer | Kind::Number => 0.into(),
                _ => return,
            };
        }
        self.value(&node, value, path);
    }

    /// A value of a map; resource lists keep no less than a thousandth.
    fn map_value(&mut self, edge: &Edge, value: &mut Value, path: &Path<'_>) {
        let node = edge.node();
        let is_text = node.kind == Kind::String && format(&node) != Some("byte");
        if value.is_null() && node.typed && is_text && !node.nullable {
            *value = "".into(); // As Go has it.
        }
        self.entry(edge, value, path);
        if let (Kind::Quantity, Value::String(text)) = (edge.node().kind, &*value)
            && let Some(rounded) = quantity::to_thousandths(text)
            && self.is_resource_list(path)
        {
            *value = rounded.into();
        }
    }

    /// Whether the map of this value is a resource list which upstream's defaults know; slow.
    fn is_resource_list(&self, value: &Path<'_>) -> bool {
        let steps = value.steps();
        let map = go::place(self.root, steps.split_last().map_or(&[], |(_, map)| map));
        // The list of a RuntimeClass belongs to another group than its type.
        map.expected == "v1.ResourceList" && map.structure != "Overhead"
    }

    fn scalar(&mut self, node: &Node, value: &mut Value, path: &Path<'_>) {
        if let (Kind::Integer | Kind::IntOrString, Value::Number(number)) = (node.kind, &*value)
            && self.converts
            && let Some(whole) = print::whole(number)
        {
            *value = whole.into();
        }
        if let (Kind::String, Value::Array(list)) = (node.kind, &*value)
            && node.typed
            && format(node) == Some("byte")
        {
            match bytes(list) {
                Ok(bytes) => *value = BASE64.encode(bytes).into(),
                Err(other) => self.wrong_value(other, Some("uint8"), path, false),
            }
            return;
        }
        let fits = match (node.kind, &*value) {
            (Kind::String, Value::String(text)) => {
                if format(node) == Some("byte")
                    && let Err(text) = formats::base64(text)
                {
                    self.fault(path, false, DecodeError::Text(text));
                }
                true
            }
            (Kind::Boolean, Value::Bool(_)) | (Kind::Number, Value::Number(_)) => true,
            (Kind::Integer, Value::Number(number)) => integer_fits(number, format(node)),
            (Kind::IntOrString, Value::String(_)) => true,
            (Kind::IntOrString, Value::Number(number)) => integer_fits(number, Some("int32")),
            (Kind::Quantity, _) => {
                self.quantity(value, path);
                true
            }
            (Kind::Time | Kind::MicroTime, Value::String(_)) => {
                self.time(node.kind, value, path);
                true
            }
            _ => false,
        };
        if !fits {
            let reads_itself =
                matches!(node.kind, Kind::IntOrString | Kind::Time | Kind::MicroTime);
            self.wrong_type(value, path, reads_itself);
        }
    }

    fn quantity(&mut self, value: &mut Value, path: &Path<'_>) {
        let text = match &*value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match quantity::canonical(text.trim()) {
            Ok(canonical) => *value = canonical.into(),
            Err(text) => self.fault(path, true, DecodeError::Text(text)),
        }
    }

    fn time(&mut self, kind: Kind, value: &mut Value, path: &Path<'_>) {
        let Value::String(text) = &*value else { return };
        match time::parse(text, kind == Kind::MicroTime) {
            Ok(canonical) => *value = canonical.into(),
            Err(text) => self.fault(path, true, DecodeError::Text(text)),
        }
    }

    fn fault(&mut self, path: &Path<'_>, stops: bool, error: DecodeError) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault { path: path.dotted(), stops, error });
        }
    }

    fn wrong_type(&mut self, value: &Value, path: &Path<'_>, stops: bool) {
        self.wrong_value(value, None, path, stops);
    }

    /// A value, or an entry of it, that is not of the type that stands there, or of another one.
    fn wrong_value(&mut self, value: &Value, other: Option<&str>, path: &Path<'_>, stops: bool) {
        let go::Place { structure, path: named, expected } = go::place(self.root, &path.steps());
        let expected = other.map_or(expected, str::to_owned);
        if self.converts {
            let error = match stops {
                true => DecodeError::Root { value: go_value(value, &expected), expected },
                false => DecodeError::Text(not_converted(value, &expected)),
            };
            return self.fault(path, stops, error);
        }
        let value = go_value(value, &expected);
        // Upstream decodes the metadata of custom resources by itself.
        let named = match named.strip_prefix("metadata") {
            Some(rest) if !self.root.typed => rest.trim_start_matches('.').to_owned(),
            _ => named,
        };
        let fault = if named.is_empty() {
            DecodeError::Root { value, expected }
        } else {
            DecodeError::Type { value, structure, path: named, expected }
        };
        self.fault(path, stops, fault);
    }
}

/// Bytes that come as a list of numbers, as Go takes them too; the first entry that is no byte if there is one.
fn bytes(list: &[Value]) -> Result<Vec<u8>, &Value> {
    let byte = |value: &Value| match value {
        Value::Null => Some(0),
        other => other.as_u64().and_then(|number| u8::try_from(number).ok()),
    };
    list.iter().map(|value| byte(value).ok_or(value)).collect()
}

/// Whether upstream's type is one of `JSONSchemaPropsOrArray`, `…OrBool` and `…OrStringArray`.
fn is_schema_or_other(node: &Node) -> bool {
    let other = |name: &str| Some(name.strip_prefix(JSON_SCHEMA)?.starts_with("Or"));
    node.definition.as_deref().and_then(other).unwrap_or_default()
}

fn format(node: &Node) -> Option<&str> {
    node.rules.as_deref()?.format.as_deref()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

fn integer_fits(number: &Number, format: Option<&str>) -> bool {
    match number.as_i64() {
        Some(n) => format != Some("int32") || i32::try_from(n).is_ok(),
        None => false,
    }
}

/// Why upstream makes nothing of type `expected` from a value in a map.
fn not_converted(value: &Value, expected: &str) -> String {
    let found = print::kind_of(value);
    match (found, expected) {
        (_, e) if e.starts_with("[]") => format!("cannot restore slice from {found}"),
        (_, e) if e.starts_with("map[") => format!("cannot restore map from {found}"),
        ("int64", "string") | ("int64" | "float64", "int32" | "int64") => {
            format!("cannot convert {found} to {expected}")
        }
        (_, e) if e.contains('.') => format!("cannot restore struct from: {found}"),
        (_, e) => format!("unrecognized type: {e}"),
    }
}

/// How Go's decoder names what it found where a value of type `expected` should stand.
fn go_value(value: &Value, expected: &str) -> String {
    let is_integer = expected.starts_with("int") || expected.starts_with("uint");
    match value {
        // A number of the right kind that does not fit is named with its value.
        Value::Number(n) if is_integer => format!("number {n}"),
        other => json::kind(other).to_owned(),
    }
}
