//! Checks a value against its schema, and says what is wrong in upstream's words.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex::Regex;
use serde_json::{Map, Value};

use crate::cause::Cause;
use crate::node::{Kind, ListType, Name, Node, Rules};
use crate::path::Path;
use crate::{formats, quantity, regexps};

/// Causes that one object answers with; more help nobody.
const MAX_CAUSES: usize = 200;

/// Checks `value`; what equals its counterpart in `old` is not checked again (ratcheting).
pub(crate) fn validate(node: &Node, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    run(Validator { causes: Vec::new(), of_default: false }, node, value, old)
}

/// As [`validate`], of the default of a definition's schema: there upstream does not look at the types of lists, and
/// takes anything for an int-or-string.
pub(crate) fn validate_default(node: &Node, value: &Value) -> Vec<Cause> {
    run(Validator { causes: Vec::new(), of_default: true }, node, value, None)
}

fn run(mut validator: Validator, node: &Node, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    validator.value(node, value, old, &Path::ROOT);
    // Alternatives may say what the schema around them says, too.
    let mut seen = HashSet::new();
    validator.causes.retain(|cause| seen.insert(cause.clone()));
    validator.causes
}

struct Validator {
    causes: Vec<Cause>,
    of_default: bool,
}

impl Validator {
    fn value(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        // Upstream's own types are judged by rules of theirs alone, which no schema can say.
        if node.typed || old == Some(value) || self.causes.len() >= MAX_CAUSES {
            return;
        }
        if value.is_null() && (node.nullable || node.kind == Kind::Any) {
            return;
        }
        let is_free = self.of_default && node.kind == Kind::IntOrString;
        let mismatch = type_mismatch(node, value);
        let mismatch = mismatch.filter(|_| !is_free && !formatted_list(node, value));
        if let Some(wanted) = mismatch {
            let field = path.bracketed();
            // Upstream speaks of formats where the schema has one, unless it finds a text or a list.
            let (wanted, actual) = match (format(node), value) {
                (Some(format), Value::Number(_)) if is_integer(value) => (format, "int64"),
                (Some(format), Value::Number(_)) => (format, "float64"),
                (Some(format), Value::Bool(_) | Value::Object(_)) => (format, ""),
                _ => (wanted, actual(value)),
            };
            let detail = format!("{field} in body must be of type {wanted}: {actual:?}");
            self.causes.push(Cause::type_invalid(field, &actual.into(), &detail));
            if let Some(rules) = &node.rules {
                self.allowed(rules, value, path);
            }
            self.fraction(node, value, path);
            return;
        }
        if let Some(what) = overflow(node, value) {
            return self.unchecked(what, path);
        }
        if let Some(rules) = &node.rules {
            self.rules(node.kind, rules, value, path);
        }
        match value {
            Value::Object(map) => self.object(node, map, old, path),
            Value::Array(list) => self.array(node, list, old, path),
            _ => (),
        }
    }

    /// As recorded: a number that should be whole is judged as a number all the same.
    fn fraction(&mut self, node: &Node, value: &Value, path: &Path<'_>) {
        if node.kind != Kind::Integer || !value.is_number() || node.typed {
            return;
        }
        let format = sized(node).map(|format| format!("with format {format}"));
        let format = format.as_deref().unwrap_or("(default format)");
        self.unchecked(&format!("integer {format}"), path);
        let judged = |rules: &&Rules| rules.has_numbers() || rules.format.is_some();
        if let Some(rules) = node.rules.as_deref().filter(judged) {
            self.rules(node.kind, rules, value, path);
        }
    }

    /// Bounds of whole numbers that are none themselves, which upstream tells with each value.
    fn bounds(&mut self, kind: Kind, rules: &Rules, path: &Path<'_>) {
        if kind != Kind::Integer {
            return;
        }
        for (what, bound) in [
            ("MultipleOf", rules.multiple_of),
            ("Maximum boundary", rules.maximum),
            ("Minimum boundary", rules.minimum),
        ] {
            if bound.is_some_and(|bound| bound.fract() != 0.0) {
                let field = path.bracketed();
                let wanted = "must be of type integer (default format)";
                self.causes.push(nameless(&format!("{what} value {wanted} in {field}")));
            }
        }
    }

    /// A number that upstream cannot convert before it looks at rules.
    fn unchecked(&mut self, wanted: &str, path: &Path<'_>) {
        let detail = format!("Checked value must be of type {wanted} in {}", path.bracketed());
        self.causes.push(nameless(&detail));
    }

    fn object(
        &mut self,
        node: &Node,
        map: &Map<String, Value>,
        old: Option<&Value>,
        path: &Path<'_>,
    ) {
        for field in node.fields.iter() {
            if field.required && !map.contains_key(&*field.name) {
                let field = path.field(&field.name).bracketed();
                self.causes.push(Cause::required(field, ""));
            }
        }
        for (name, value) in map {
            let old = old.and_then(|old| old.get(name));
            match (node.field(name), &node.items) {
                (Some(field), _) => {
                    let path = path.field(name);
                    if node.embedded && value == "" && matches!(&**name, "apiVersion" | "kind") {
                        let detail = "must not be empty";
                        self.causes.push(Cause::invalid(path.bracketed(), value, detail));
                    }
                    self.value(&field.edge.node(), value, old, &path);
                }
                // Upstream's custom resource validation puts a dot before keys of maps.
                (None, Some(items)) => self.value(&items.node(), value, old, &path.field(name)),
                (None, None) => (),
            }
        }
    }

    fn array(&mut self, node: &Node, list: &[Value], old: Option<&Value>, path: &Path<'_>) {
        let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if let Some(items) = &node.items {
            let target = items.node();
            for (index, value) in list.iter().enumerate() {
                let old = counterpart(node, value, index, old);
                self.value(&target, value, old, &path.index(index));
            }
        }
        if !self.of_default {
            self.unique(node, list, path);
        }
    }

    fn unique(&mut self, node: &Node, list: &[Value], path: &Path<'_>) {
        let mut seen = HashMap::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            if node.list == ListType::Map && value.is_null() {
                continue;
            }
            if node.list == ListType::Map && !value.is_object() {
                let detail = "must be an object for an array of list-type map";
                self.causes.push(Cause::invalid(path.index(index).bracketed(), value, detail));
                continue;
            }
            let key = match node.list {
                ListType::Atomic => return,
                ListType::Set => value.clone(),
                ListType::Map => Value::Object(key_of(node, value)),
            };
            let n_before = seen.entry(key.to_string()).or_insert(0_usize);
            *n_before += 1;
            // Each value is told once, however often it occurs.
            if *n_before == 2 {
                self.causes.push(Cause::duplicate(path.index(index).bracketed(), &key));
            }
        }
    }

    fn rules(&mut self, kind: Kind, rules: &Rules, value: &Value, path: &Path<'_>) {
        let judged = |value: &Value, detail: &str| {
            let field = path.bracketed();
            let detail = format!("{field} in body {detail}");
            Cause::invalid(field, value, &detail)
        };
        let invalid = |detail: &str| judged(value, detail);
        self.allowed(rules, value, path);
        match value {
            Value::String(text) => self.text(rules, text, path, &invalid),
            Value::Number(number) => {
                let is_int32 = rules.format.as_deref() == Some("int32");
                if is_int32 && number.as_i64().is_some_and(|n| i32::try_from(n).is_err()) {
                    self.unchecked("integer with format int32", path);
                }
                let number = number.as_f64().unwrap_or_default();
                self.bounds(kind, rules, path);
                self.causes.extend(number_rules(rules, number).iter().map(|d| invalid(d)));
            }
            Value::Array(list) => {
                if rules.max_items.is_some_and(|max| list.len() as u64 > max) {
                    let max = rules.max_items.unwrap_or_default();
                    self.causes.push(Cause::too_many(path.bracketed(), list.len(), max));
                }
                if let Some(min) = rules.min_items.filter(|min| (list.len() as u64) < *min) {
                    let detail = format!("should have at least {min} items");
                    self.causes.push(judged(&list.len().into(), &detail));
                }
                if rules.unique_items && has_duplicates(list) {
                    self.causes.push(invalid("shouldn't contain duplicates"));
                }
            }
            Value::Object(map) => {
                for name in rules.required.iter().filter(|name| !map.contains_key(&***name)) {
                    self.causes.push(Cause::required(path.field(name).bracketed(), ""));
                }
                if let Some(max) = rules.max_properties.filter(|max| map.len() as u64 > *max) {
                    self.causes.push(Cause::too_many(path.bracketed(), map.len(), max));
                }
                if let Some(min) = rules.min_properties.filter(|min| (map.len() as u64) < *min) {
                    let detail = format!("should have at least {min} properties");
                    self.causes.push(judged(&map.len().into(), &detail));
                }
            }
            Value::Null | Value::Bool(_) => (),
        }
        self.branches(rules, value, path);
    }

    /// Whether the value is one of those that are listed.
    fn allowed(&mut self, rules: &Rules, value: &Value, path: &Path<'_>) {
        if rules.allowed.is_empty() || rules.allowed.contains(value) {
            return;
        }
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let supported: Vec<String> = rules.allowed.iter().map(shown).collect();
        let supported = supported.iter().map(String::as_str);
        self.causes.push(Cause::not_supported(path.bracketed(), value, supported));
    }

    /// Of length and pattern the first that is broken is told.
    fn text(
        &mut self,
        rules: &Rules,
        text: &str,
        path: &Path<'_>,
        invalid: &dyn Fn(&str) -> Cause,
    ) {
        let length = text.chars().count() as u64;
        if let Some(max) = rules.max_length.filter(|max| length > *max) {
            self.causes.push(Cause::too_long(path.bracketed(), max));
        } else if let Some(min) = rules.min_length.filter(|min| length < *min) {
            self.causes.push(invalid(&format!("should be at least {min} chars long")));
        } else if let Some(pattern) = &rules.pattern
            && regex(pattern).is_some_and(|regex| !regex.is_match(text))
        {
            self.causes.push(invalid(&format!("should match '{pattern}'")));
        }
        let Some(format) = &rules.format else { return };
        if !formats::matches(format, text) {
            let field = path.bracketed();
            let detail = format!("{field} in body must be of type {format}: {text:?}");
            self.causes.push(Cause::type_invalid(field, &text.into(), &detail));
        }
    }

    /// What logic says; of alternatives that all fail, the first one tells why.
    fn branches(&mut self, rules: &Rules, value: &Value, path: &Path<'_>) {
        let of_default = self.of_default;
        let judge = |node: &Arc<Node>| {
            let mut validator = Validator { causes: Vec::new(), of_default };
            validator.value(node, value, None, path);
            validator.causes
        };
        let say = |causes: &mut Vec<Cause>, what: String| {
            causes.push(nameless(&format!("{:?} {what}", path.bracketed())))
        };
        let all: Vec<_> = rules.all_of.iter().map(judge).collect();
        let n_bad = all.iter().filter(|causes| !causes.is_empty()).count();
        if n_bad > 0 {
            let none = if n_bad == all.len() { ". None validated" } else { "" };
            say(&mut self.causes, format!("must validate all the schemas (allOf){none}"));
            self.causes.extend(all.into_iter().flatten());
        }
        let mut any: Vec<_> = rules.any_of.iter().map(judge).collect();
        if !any.is_empty() && !any.iter().any(Vec::is_empty) {
            say(&mut self.causes, "must validate at least one schema (anyOf)".to_owned());
            self.causes.append(&mut any[0]);
        }
        let mut one: Vec<_> = rules.one_of.iter().map(judge).collect();
        let n_valid = one.iter().filter(|causes| causes.is_empty()).count();
        if !one.is_empty() && n_valid != 1 {
            let found = match n_valid {
                0 => "none valid".to_owned(),
                n => format!("{n} valid alternatives"),
            };
            let what = format!("must validate one and only one schema (oneOf). Found {found}");
            say(&mut self.causes, what);
            if n_valid == 0 {
                self.causes.append(&mut one[0]);
            }
        }
        if rules.not.as_ref().is_some_and(|node| judge(node).is_empty()) {
            say(&mut self.causes, "must not validate the schema (not)".to_owned());
        }
    }
}

/// A cause that upstream gives no field.
fn nameless(detail: &str) -> Cause {
    Cause::invalid("<nil>", &"".into(), detail)
}

impl Rules {
    fn has_numbers(&self) -> bool {
        self.minimum.is_some() || self.maximum.is_some() || self.multiple_of.is_some()
    }
}

/// What a number breaks, after `<field> in body `.
fn number_rules(rules: &Rules, number: f64) -> Vec<String> {
    let mut broken = Vec::new();
    if let Some(min) = rules.minimum {
        if rules.exclusive_minimum && number <= min {
            broken.push(format!("should be greater than {min}"));
        } else if number < min {
            broken.push(format!("should be greater than or equal to {min}"));
        }
    }
    if let Some(max) = rules.maximum {
        if rules.exclusive_maximum && number >= max {
            broken.push(format!("should be less than {max}"));
        } else if number > max {
            broken.push(format!("should be less than or equal to {max}"));
        }
    }
    if let Some(of) = rules.multiple_of
        && of != 0.0
        && (number / of).fract() != 0.0
    {
        broken.push(format!("should be a multiple of {of}"));
    }
    broken
}

/// The type that `node` wants, if `value` is of another.
fn type_mismatch(node: &Node, value: &Value) -> Option<&'static str> {
    let (fits, wanted) = match node.kind {
        Kind::Any => (true, ""),
        Kind::Object => (value.is_object(), "object"),
        Kind::Array => (value.is_array(), "array"),
        Kind::String | Kind::Time | Kind::MicroTime => (value.is_string(), "string"),
        Kind::Integer => (is_integer(value), "integer"),
        Kind::Number => (value.is_number(), "number"),
        Kind::Boolean => (value.is_boolean(), "boolean"),
        Kind::IntOrString => (value.is_string() || is_integer(value), "integer,string"),
        Kind::Quantity => match value {
            Value::String(text) => (quantity::parse(text).is_ok(), "quantity"),
            other => (other.is_number(), "quantity"),
        },
    };
    (!fits).then_some(wanted)
}

/// Whether a number is whole, and one that 64 bits hold.
fn is_integer(value: &Value) -> bool {
    /// 2^63.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let whole = |f: f64| f.fract() == 0.0 && (-LIMIT..LIMIT).contains(&f);
    value.is_i64() || !value.is_u64() && value.as_f64().is_some_and(whole)
}

/// The format that a schema asks for.
fn format(node: &Node) -> Option<&str> {
    node.rules.as_deref()?.format.as_deref()
}

/// Whether this is a list in the place of a text with a format, which upstream lets pass.
fn formatted_list(node: &Node, value: &Value) -> bool {
    node.kind == Kind::String && value.is_array() && format(node).is_some()
}

/// The format of a whole number that says how large it may be.
fn sized(node: &Node) -> Option<&str> {
    let format = node.rules.as_deref()?.format.as_deref()?;
    (node.kind == Kind::Integer && matches!(format, "int32" | "int64")).then_some(format)
}

/// What a number should be that is too large for its format.
fn overflow(node: &Node, value: &Value) -> Option<&'static str> {
    let format = node.rules.as_deref()?.format.as_deref()?;
    let number = value.as_f64()?;
    let most = match (node.kind, format) {
        (Kind::Integer, "int32") => -f64::from(i32::MIN),
        (Kind::Number, "float") => f64::from(f32::MAX),
        _ => return None,
    };
    match node.kind {
        Kind::Integer if number < -most || number >= most => Some("integer with format int32"),
        Kind::Number if number.abs() > most => Some("number with format float"),
        _ => None,
    }
}

fn actual(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The entry of the old list that `value` took the place of.
pub(crate) fn counterpart<'a>(
    node: &Node,
    value: &Value,
    index: usize,
    old: &'a [Value],
) -> Option<&'a Value> {
    if node.list == ListType::Map {
        let key = key_of(node, value);
        return old.iter().find(|old| key_of(node, old) == key);
    }
    // Entries of other lists are nobody's successors, unless a built-in type's own rules compare them.
    old.get(index).filter(|_| node.typed)
}

/// The keys of an entry of a list map, absent ones left out.
pub(crate) fn key_of(node: &Node, value: &Value) -> Map<String, Value> {
    node.keys.iter().filter_map(|key| Some((key.to_string(), value.get(&**key)?.clone()))).collect()
}

fn has_duplicates(list: &[Value]) -> bool {
    let mut seen = HashSet::with_capacity(list.len());
    !list.iter().all(|value| seen.insert(value.to_string()))
}

/// The compiled pattern, shared by all schemas; `None` if it is none.
fn regex(pattern: &Name) -> Option<Arc<Regex>> {
    /// Compiled patterns kept; each may take tens of kilobytes.
    const KEPT: usize = 256;
    type Known = HashMap<Name, Option<Arc<Regex>>>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = known.get(pattern) {
        return regex.clone();
    }
    if known.len() >= KEPT {
        known.clear();
    }
    let regex = regexps::compile(pattern).ok().map(Arc::new);
    known.insert(pattern.clone(), regex.clone());
    regex
}
