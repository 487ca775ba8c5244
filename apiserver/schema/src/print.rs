//! Values as Go's `fmt` prints them, for the messages in which Kubernetes shows what it was sent.
//!
//! Source: the verbs of <https://pkg.go.dev/fmt>.

use std::fmt::Write;

use serde_json::{Map, Number, Value};

/// `%v`: `map[a:1 b:[x y]]`.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(is) => is.to_string(),
        Value::Number(number) => self::number(number),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(plain).collect();
            format!("[{}]", list.join(" "))
        }
        Value::Object(map) => plain_map(map),
    }
}

pub(crate) fn plain_map(map: &Map<String, Value>) -> String {
    let entries: Vec<String> =
        sorted(map).map(|(name, value)| format!("{name}:{}", plain(value))).collect();
    format!("map[{}]", entries.join(" "))
}

/// `%#v`: `map[string]interface {}{"a":1, "b":[]interface {}{"x", "y"}}`.
#[must_use]
pub fn syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Bool(_) | Value::Number(_) => plain(value),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(syntax).collect();
            format!("{}{{{}}}", type_of(value), list.join(", "))
        }
        Value::Object(map) => {
            let entries: Vec<String> =
                sorted(map).map(|(name, value)| format!("{name:?}:{}", syntax(value))).collect();
            format!("{}{{{}}}", type_of(value), entries.join(", "))
        }
    }
}

/// `%T`: the type that decoding gives a value.
#[must_use]
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The kind of that type, as `reflect` names it.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        scalar => type_of(scalar),
    }
}

/// What stands in a field of one of Go's internal structs.
#[derive(Clone, Copy, Debug)]
pub enum Shown {
    /// A text; empty where there is none.
    Text,
    /// A number, or what may be one; 0 where there is none.
    Number,
    /// A boolean.
    Flag,
    /// A pointer, or what is written as in requests; null where there is none.
    Any,
    /// A pointer to a struct.
    Struct(Fields),
    /// A list of structs.
    List(Fields),
}

/// The fields of an internal struct, in Go's order, by their names in JSON. Go writes all of them, and its own names,
/// which begin with a capital: these structs say nothing of JSON.
pub type Fields = &'static [(&'static str, Shown)];

/// A part of an object as Go writes its internal struct in JSON.
#[must_use]
pub fn internal(fields: Fields, value: &Value) -> String {
    let shown: Vec<String> = fields
        .iter()
        .map(|(name, as_what)| format!("\"{}\":{}", capital(name), shown(*as_what, &value[*name])))
        .collect();
    format!("{{{}}}", shown.join(","))
}

fn shown(as_what: Shown, value: &Value) -> String {
    match (as_what, value) {
        (Shown::Text, Value::Null) => "\"\"".to_owned(),
        (Shown::Number, Value::Null) => "0".to_owned(),
        (Shown::Flag, Value::Null) => "false".to_owned(),
        (Shown::Struct(fields), Value::Object(_)) => internal(fields, value),
        (Shown::List(fields), Value::Array(entries)) => {
            let entries: Vec<String> = entries.iter().map(|e| internal(fields, e)).collect();
            format!("[{}]", entries.join(","))
        }
        _ => escaped(&value.to_string()),
    }
}

/// Go's name of a field: with a capital, and short words all in capitals.
fn capital(name: &str) -> String {
    let n_small = name.bytes().take_while(u8::is_ascii_lowercase).count();
    let n_capitals = match &name[..n_small] {
        word @ ("api" | "cel" | "uid") => word.len(),
        _ => 1,
    };
    let (first, rest) = name.split_at(n_capitals.min(name.len()));
    first.to_ascii_uppercase() + rest
}

/// JSON with the characters escaped that Go does not leave in texts.
///
/// Source: `encoding/json.HTMLEscape`.
pub(crate) fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

fn sorted(map: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_by_key(|(name, _)| *name);
    entries.into_iter()
}

pub(crate) fn number(number: &Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => self::float(float),
        None => number.to_string(),
    }
}

/// A float as `%v` prints it: with an exponent from a million on, which has two digits at least.
#[must_use]
pub fn float(float: f64) -> String {
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>() {
        Ok(n) if !(-4..6).contains(&n) => {
            let sign = if n < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", n.abs())
        }
        _ => float.to_string(),
    }
}

/// A float as `encoding/json` writes it: with an exponent below a millionth and from 10²¹ on.
#[must_use]
pub fn json_float(float: f64) -> String {
    if float == 0.0 || (1e-6..1e21).contains(&float.abs()) {
        return float.to_string();
    }
    let text = format!("{float:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

/// A number without a fraction that fits: Go converts `1.0` to `1`.
#[must_use]
pub fn whole(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e18)?;
        #[expect(clippy::cast_possible_truncation, reason = "it has no fraction, and it fits")]
        Some(float as i64)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{json_float, plain, syntax};

    #[test]
    fn floats_in_json_are_short() {
        let texts = [1.0, -0.5, 1e20, 1e21, 1.5e-6, 1e-7, 2.5e300].map(json_float);
        let expected =
            ["1", "-0.5", "100000000000000000000", "1e+21", "0.0000015", "1e-7", "2.5e+300"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn maps_are_sorted_and_floats_short() {
        let value = json!({"n": 1, "a": [true, null, "x"], "f": [1.0, 1.5, 1e6, 1e5, 1e-5]});
        let expected = "map[a:[true <nil> x] f:[1 1.5 1e+06 100000 1e-05] n:1]";
        assert_eq!(plain(&value), expected);
        let expected = r#"map[string]interface {}{"a":[]interface {}{"x", interface {}(nil)}}"#;
        assert_eq!(syntax(&json!({"a": ["x", null]})), expected);
    }
}
