//! What was recorded about upstream's types, and what our own data file adds to it.
//!
//! The recording is embedded as text and a definition is parsed when somebody asks for it, so
//! that types nobody uses cost nothing but their text.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Groups, versions, resources and subresources, as discovery answers them.
pub const DISCOVERY: &str = include_str!("../data/discovery.json");
/// Column definitions of Table answers.
pub const TABLES: &str = include_str!("../data/tables.json");
const SCHEMAS: &str = include_str!("../data/schema-facts.json");
const ADDITIONS: &str = include_str!("../data/defaults.yaml");

/// Prefix of a `$ref` in the schemas that [`openapi`] makes.
pub const REF_PREFIX: &str = "#/definitions/";

/// What is known of one OpenAPI definition.
#[derive(Debug, Default, Deserialize)]
pub struct Definition {
    /// Kinds that are this definition: group, version, kind.
    #[serde(default)]
    pub gvk: Vec<[String; 3]>,
    /// Fields that Go always writes.
    #[serde(default)]
    pub required: Vec<String>,
    /// Facts of each field; absent for definitions that are not objects.
    #[serde(default)]
    pub fields: BTreeMap<String, Field>,
    /// Whether only alpha or beta APIs use it.
    #[serde(default, rename = "notServedByDefault")]
    pub not_served: bool,
    /// `atomic` if an apply owns the whole object.
    map: Option<String>,
    /// `x-kubernetes-unions`: of which fields one alone can be set.
    pub unions: Option<Value>,
}

impl Definition {
    /// `atomic` if an apply owns the whole object.
    pub(crate) fn map(&self) -> Option<&str> {
        self.map.as_deref()
    }
}

/// What is known of one field, list entry or map value.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Field {
    /// Another definition.
    pub r#ref: Option<String>,
    /// JSON type, if it is a scalar.
    pub r#type: Option<String>,
    /// OpenAPI format of a scalar.
    pub format: Option<String>,
    /// Allowed values, sorted.
    #[serde(rename = "enum", default)]
    pub allowed: Vec<Value>,
    /// Recorded default; zero values here are made by Go's OpenAPI generator, see [`Zero`].
    pub default: Option<Value>,
    /// Entries, if it is a list.
    pub items: Option<Box<Field>>,
    /// Values, if it is a map.
    pub values: Option<Box<Field>>,
    /// `atomic`, `set` or `map`.
    pub list: Option<String>,
    /// Keys of a list of type `map`.
    #[serde(default)]
    pub keys: Vec<String>,
    /// `atomic` or `granular`.
    pub map: Option<String>,
    /// Merge key of a strategic merge patch.
    #[serde(rename = "mergeKey")]
    pub merge_key: Option<String>,
    /// `merge`, `replace`, `retainKeys`, comma separated.
    pub strategy: Option<String>,
}

/// What upstream writes for a field that has its zero value, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zero {
    /// What was sent: the field is a pointer in Go.
    #[default]
    Kept,
    /// What was sent, and nothing if nothing was, although the field is required.
    Absent,
    /// Nothing: `omitempty`.
    Omitted,
    /// The zero value itself, even if nothing was sent.
    Written,
    /// `null`, even if nothing was sent or an empty list was.
    Null,
}

#[derive(Debug, Default, Deserialize)]
struct Additions {
    defaults: HashMap<String, Map<String, Value>>,
    written: HashMap<String, Vec<String>>,
    null: HashMap<String, Vec<String>>,
    omitted: HashMap<String, Vec<String>>,
    pointers: HashMap<String, Vec<String>>,
    absent: HashMap<String, Vec<String>>,
    enums: HashMap<String, Map<String, Value>>,
    fields: HashMap<String, BTreeMap<String, Field>>,
}

/// Names of all definitions, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    index().keys().copied()
}

/// The embedded name that equals `name`.
pub(crate) fn static_name(name: &str) -> Option<&'static str> {
    index().get_key_value(name).map(|(name, _)| *name)
}

/// The definition of that name, such as `io.k8s.api.core.v1.Pod`.
#[must_use]
pub fn definition(name: &str) -> Option<Definition> {
    let mut definition: Definition = serde_json::from_str(index().get(name)?).ok()?;
    if let Some(more) = additions().fields.get(name) {
        definition.fields.extend(more.clone());
    }
    Some(definition)
}

/// The name of the definition that a kind is, such as `io.k8s.api.apps.v1.Deployment`.
#[must_use]
pub fn definition_of(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    // Kinds that many groups share (DeleteOptions) are filed under every group version.
    kinds().get(&(group.to_owned(), version.to_owned(), kind.to_owned())).copied()
}

/// The name of `name` inside its package: `Pod` of `io.k8s.api.core.v1.Pod`.
#[must_use]
pub fn short_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The name of a definition as Go prints it: `v1.Pod`.
#[must_use]
pub(crate) fn go_name(name: &str) -> String {
    let mut parts = name.rsplit('.');
    let (kind, package) = (parts.next().unwrap_or(name), parts.next().unwrap_or_default());
    format!("{package}.{kind}")
}

/// The static default of a field, if upstream has one.
///
/// Zero values of the recording count only where upstream writes them, see [`zero`].
#[must_use]
pub fn default(name: &str, definition: &Definition, field: &str) -> Option<Value> {
    if let Some(own) = additions().defaults.get(name).and_then(|fields| fields.get(field)) {
        return Some(own.clone());
    }
    let facts = definition.fields.get(field)?;
    let recorded = facts.default.as_ref()?;
    let real = match recorded {
        // A struct without a pointer: Go always writes it.
        Value::Object(empty) if empty.is_empty() => true,
        Value::String(text) if text.is_empty() => zero(name, definition, field) == Zero::Written,
        Value::Number(n) if n.as_f64() == Some(0.0) => {
            is_required(definition, field) || zero(name, definition, field) == Zero::Written
        }
        Value::Bool(false) => is_required(definition, field),
        _ => true,
    };
    real.then(|| recorded.clone())
}

/// What upstream writes for the field's zero value.
#[must_use]
pub fn zero(name: &str, definition: &Definition, field: &str) -> Zero {
    let more = additions();
    let listed = |list: &HashMap<String, Vec<String>>| {
        list.get(name).is_some_and(|fields| fields.iter().any(|f| f == field))
    };
    let Some(facts) = definition.fields.get(field) else { return Zero::Kept };
    if listed(&more.null) {
        return Zero::Null;
    }
    let is_struct = facts.default.as_ref().is_some_and(|default| *default == json!({}));
    // A string that Go's OpenAPI generator gives an empty default is no pointer, and has no omitempty.
    let is_plain =
        is_required(definition, field) && facts.default.as_ref().is_some_and(|d| d == "");
    if is_struct || is_plain || listed(&more.written) {
        return Zero::Written;
    }
    if listed(&more.absent) {
        return Zero::Absent;
    }
    if is_required(definition, field) || listed(&more.pointers) {
        return Zero::Kept;
    }
    let omitted = match facts.r#type.as_deref() {
        Some("string") => true,
        Some(_) => listed(&more.omitted),
        None => facts.items.is_some() || facts.values.is_some(),
    };
    if omitted { Zero::Omitted } else { Zero::Kept }
}

/// Allowed values of a field in the order in which upstream lists them; empty if any is.
#[must_use]
pub fn allowed(name: &str, field: &str, facts: &Field) -> Vec<Value> {
    let own = additions().enums.get(name).and_then(|fields| fields.get(field));
    match own {
        Some(Value::Array(values)) => values.clone(),
        _ => facts.allowed.clone(),
    }
}

/// Whether the values of a field are checked by the type's own rules alone.
fn leaves_to_type(name: &str, field: &str) -> bool {
    let own = additions().enums.get(name).and_then(|fields| fields.get(field));
    own.and_then(Value::as_array).is_some_and(Vec::is_empty)
}

/// The definition as an OpenAPI schema with `$ref`s, real defaults and merge markers.
///
/// `x-improv-definition` names the definition itself.
#[must_use]
pub fn openapi(name: &str) -> Option<Value> {
    let definition = definition(name)?;
    let mut out = Map::new();
    out.insert("x-improv-definition".into(), name.into());
    if let Some(special) = special(name) {
        out.extend(special);
        return Some(Value::Object(out));
    }
    out.insert("type".into(), "object".into());
    if let Some(map) = &definition.map {
        out.insert("x-kubernetes-map-type".into(), map.as_str().into());
    }
    if !definition.required.is_empty() {
        out.insert("required".into(), json!(definition.required));
    }
    let mut fields = Map::new();
    for (field, facts) in &definition.fields {
        let mut schema = field_openapi(facts);
        let allowed = allowed(name, field, facts);
        if allowed.is_empty() {
            schema.remove("enum");
            if leaves_to_type(name, field) {
                schema.get_mut("items").and_then(Value::as_object_mut).map(|i| i.remove("enum"));
            }
        } else if facts.items.is_none() {
            schema.insert("enum".into(), allowed.into());
        }
        if let Some(default) = default(name, &definition, field) {
            schema.insert("default".into(), default);
        }
        fields.insert(field.clone(), schema.into());
    }
    if !fields.is_empty() {
        out.insert("properties".into(), fields.into());
    }
    if let Some(unions) = &definition.unions {
        out.insert("x-kubernetes-unions".into(), unions.clone());
    }
    Some(Value::Object(out))
}

/// Schema of the definitions that are not plain objects.
fn special(name: &str) -> Option<Map<String, Value>> {
    let schema = match short_name(name) {
        "Quantity" | "IntOrString" => json!({ "x-kubernetes-int-or-string": true }),
        "Time" | "MicroTime" => json!({ "type": "string", "format": "date-time" }),
        "JSON"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrStringArray" => {
            json!({ "x-kubernetes-preserve-unknown-fields": true })
        }
        "RawExtension" | "FieldsV1" | "Patch" => {
            json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
        }
        _ => return None,
    };
    match schema {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

pub(crate) fn field_openapi(facts: &Field) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| _ = out.insert(key.to_owned(), value);
    if let Some(name) = &facts.r#ref {
        put("$ref", format!("{REF_PREFIX}{name}").into());
    }
    if let Some(r#type) = &facts.r#type {
        put("type", r#type.as_str().into());
    }
    if let Some(format) = &facts.format {
        put("format", format.as_str().into());
    }
    if !facts.allowed.is_empty() {
        put("enum", facts.allowed.clone().into());
    }
    if let Some(items) = &facts.items {
        put("type", "array".into());
        put("items", field_openapi(items).into());
    }
    if let Some(values) = &facts.values {
        put("type", "object".into());
        put("additionalProperties", field_openapi(values).into());
    }
    if let Some(list) = &facts.list {
        put("x-kubernetes-list-type", list.as_str().into());
    }
    if !facts.keys.is_empty() {
        put("x-kubernetes-list-map-keys", json!(facts.keys));
    }
    if let Some(map) = &facts.map {
        put("x-kubernetes-map-type", map.as_str().into());
    }
    if let Some(key) = &facts.merge_key {
        put("x-kubernetes-patch-merge-key", key.as_str().into());
    }
    if let Some(strategy) = &facts.strategy {
        put("x-kubernetes-patch-strategy", strategy.as_str().into());
    }
    out
}

fn is_required(definition: &Definition, field: &str) -> bool {
    definition.required.iter().any(|name| name == field)
}

fn index() -> &'static BTreeMap<&'static str, &'static str> {
    static INDEX: OnceLock<BTreeMap<&'static str, &'static str>> = OnceLock::new();
    INDEX.get_or_init(|| SCHEMAS.lines().filter_map(split_line).collect())
}

/// `"name":{...},` to name and object.
fn split_line(line: &'static str) -> Option<(&'static str, &'static str)> {
    let (name, facts) = line.strip_prefix('"')?.split_once("\":")?;
    Some((name, facts.strip_suffix(',').unwrap_or(facts)))
}

fn kinds() -> &'static HashMap<(String, String, String), &'static str> {
    static KINDS: OnceLock<HashMap<(String, String, String), &'static str>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let mut kinds = HashMap::new();
        for (name, line) in index() {
            if !line.contains("\"gvk\"") {
                continue;
            }
            for [group, version, kind] in definition(name).unwrap_or_default().gvk {
                kinds.entry((group, version, kind)).or_insert(*name);
            }
        }
        kinds
    })
}

fn additions() -> &'static Additions {
    static ADDED: OnceLock<Additions> = OnceLock::new();
    ADDED.get_or_init(|| {
        serde_saphyr::from_str(ADDITIONS).expect("data/defaults.yaml is checked by the tests")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_definition() {
        for name in names() {
            assert!(definition(name).is_some(), "{name}");
            assert!(openapi(name).is_some(), "{name}");
        }
        assert!(names().count() > 700);
    }

    #[test]
    fn additions_speak_of_known_fields() {
        let more = additions();
        let lists = [&more.written, &more.null, &more.omitted, &more.pointers, &more.absent];
        let named = lists.into_iter().flatten().map(|(name, fields)| (name, fields.clone()));
        let keyed = [&more.defaults, &more.enums]
            .into_iter()
            .flatten()
            .map(|(name, fields)| (name, fields.keys().cloned().collect::<Vec<_>>()));
        for (name, fields) in named.chain(keyed) {
            let facts = definition(name).unwrap_or_else(|| panic!("no definition {name}"));
            for field in fields {
                assert!(facts.fields.contains_key(&field), "{name} has no field {field}");
            }
        }
    }

    #[test]
    fn kinds_are_found() {
        assert_eq!(definition_of("", "v1", "Pod"), Some("io.k8s.api.core.v1.Pod"));
        assert_eq!(
            definition_of("apps", "v1", "Deployment"),
            Some("io.k8s.api.apps.v1.Deployment")
        );
        assert_eq!(definition_of("apps", "v1", "Pod"), None);
    }

    #[test]
    fn zero_defaults_count_where_go_writes_them() {
        let check = |name: &str, field: &str, expected: Option<Value>| {
            let facts = definition(name).unwrap();
            assert_eq!(default(name, &facts, field), expected, "{name}.{field}");
        };
        check("io.k8s.api.core.v1.Container", "name", Some(json!("")));
        check("io.k8s.api.core.v1.Container", "image", None);
        check("io.k8s.api.core.v1.Container", "resources", Some(json!({})));
        check("io.k8s.api.core.v1.NodeSystemInfo", "osImage", Some(json!("")));
        check("io.k8s.api.core.v1.ServicePort", "protocol", Some(json!("TCP")));
        check("io.k8s.api.core.v1.ReplicationControllerSpec", "minReadySeconds", None);
        check("io.k8s.api.apps.v1.ReplicaSetStatus", "replicas", Some(json!(0)));
        check("io.k8s.api.core.v1.ConfigMapVolumeSource", "name", None);
    }
}
