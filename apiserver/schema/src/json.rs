//! Parsing of bodies: duplicate fields are told, and errors have the words of Go's parser.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A parsed body.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The JSON value; of duplicate fields the last one counts.
    pub value: Value,
    /// Paths of fields that came twice, for `duplicate field "spec.foo"`.
    pub duplicates: Vec<String>,
    /// What those had before.
    pub overwritten: Vec<Overwritten>,
}

/// What a field had before it came once more.
#[derive(Clone, Debug, PartialEq)]
pub struct Overwritten {
    /// The way to the field, from the root.
    pub place: Vec<Key>,
    /// Its value before.
    pub value: Value,
}

/// One step of a way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A member of an object.
    Name(String),
    /// An element of a list.
    Index(usize),
}

/// Why a text is not JSON, as Go says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

/// Levels of nesting that a text may have; the parser below stops there too.
///
/// Both recurse, so that the limit is what protects the stack. What is made of texts keeps to it as well, since it
/// must be read again.
pub(crate) const MAX_DEPTH: usize = 128;

/// Levels of nesting: one for what contains nothing.
pub(crate) fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(list) => list.iter().map(depth).max(),
        Value::Object(map) => map.values().map(depth).max(),
        _ => None,
    };
    deepest.unwrap_or_default() + 1
}

/// What Go's decoder calls a value.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Parses a JSON text.
///
/// # Errors
/// If it is not JSON, or nested deeper than 128 levels.
pub fn parse(text: &[u8]) -> Result<Parsed, SyntaxError> {
    let mut told = Told::default();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let seed = Seed { told: &mut told, path: &Path::Root };
    let value = seed.deserialize(&mut deserializer);
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => {
            let Told { duplicates, overwritten, .. } = told;
            Ok(Parsed { value, duplicates, overwritten })
        }
        Err(error) => Err(SyntaxError(go_error(text).unwrap_or_else(|| error.to_string()))),
    }
}

/// Parses a JSON object, as Go decodes one into a map; null is an empty one.
///
/// # Errors
/// As [`parse`], and if it is something else.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, SyntaxError> {
    match parse(text)?.value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(SyntaxError(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            kind(&other)
        ))),
    }
}

/// Paths of all fields of a JSON text, such as `spec.list[0].name`, in the order in which they come.
///
/// For messages that list fields; a text that is no JSON has those before its fault.
#[must_use]
pub fn fields(text: &[u8]) -> Vec<String> {
    let mut told = Told { fields: Some(Vec::new()), ..Told::default() };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let seed = Seed { told: &mut told, path: &Path::Root };
    drop(seed.deserialize(&mut deserializer));
    told.fields.unwrap_or_default()
}

/// What is noted of fields while a text is parsed.
#[derive(Default)]
struct Told {
    /// Those that came twice.
    duplicates: Vec<String>,
    /// The same, to find them.
    seen: HashSet<String>,
    /// What they had before.
    overwritten: Vec<Overwritten>,
    /// All of them, if somebody wants to know.
    fields: Option<Vec<String>>,
}

/// Where a value stands: a list through the frames of the callers, written out only if needed.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn keys(&self) -> Vec<Key> {
        let (parent, key) = match self {
            Path::Root => return Vec::new(),
            Path::Field(parent, name) => (parent, Key::Name((*name).to_owned())),
            Path::Item(parent, index) => (parent, Key::Index(*index)),
        };
        let mut keys = parent.keys();
        keys.push(key);
        keys
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'a> {
    told: &'a mut Told,
    path: &'a Path<'a>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = Path::Item(self.path, list.len());
            let seed = Seed { told: &mut *self.told, path: &path };
            match seq.next_element_seed(seed)? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let path = Path::Field(self.path, &name);
            if let Some(fields) = &mut self.told.fields {
                fields.push(path.to_string());
            }
            if map.contains_key(&name) {
                let path = path.to_string();
                if self.told.seen.insert(path.clone()) {
                    self.told.duplicates.push(path);
                }
            }
            let seed = Seed { told: &mut *self.told, path: &path };
            let value = access.next_value_seed(seed)?;
            let place = map.contains_key(&name).then(|| path.keys());
            if let (Some(before), Some(place)) = (map.insert(name, value), place) {
                self.told.overwritten.push(Overwritten { place, value: before });
            }
        }
        Ok(Value::Object(map))
    }
}

/// What Go's scanner says of a text that is not JSON; `None` if it finds nothing wrong.
fn go_error(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner { text, at: 0, depth: 0 };
    scanner.space();
    let result = scanner.value().and_then(|()| {
        scanner.space();
        match scanner.peek() {
            None => Ok(()),
            Some(_) => Err(scanner.unexpected("after top-level value")),
        }
    });
    result.err()
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, context: &str) -> String {
        match self.peek() {
            None => "unexpected end of JSON input".to_owned(),
            Some(_) => {
                let rest = String::from_utf8_lossy(&self.text[self.at..]);
                let found = match rest.chars().next() {
                    Some('\'') => r"'\''".to_owned(),
                    Some('"') => "'\"'".to_owned(),
                    Some(c) => go_char(c),
                    None => String::new(),
                };
                format!("invalid character {found} {context}")
            }
        }
    }

    fn value(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        let result = match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.unexpected("looking for beginning of value")),
        };
        self.depth -= 1;
        result
    }

    fn object(&mut self) -> Result<(), String> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            self.space();
            self.value()?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
    }

    fn array(&mut self) -> Result<(), String> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            self.value()?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.unexpected("after array element")),
            }
        }
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => (),
                        Some(b'u') => {
                            for _ in 0..4 {
                                self.at += 1;
                                if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                                    return Err(
                                        self.unexpected("in \\u hexadecimal character escape")
                                    );
                                }
                            }
                        }
                        _ => return Err(self.unexpected("in string escape code")),
                    }
                    self.at += 1;
                }
                Some(byte) if byte < b' ' => {
                    return Err(self.unexpected("in string literal"));
                }
                Some(_) => self.at += 1,
                None => return Err(self.unexpected("")),
            }
        }
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        for byte in literal.bytes() {
            if self.peek() != Some(byte) {
                let expected = char::from(byte);
                return Err(
                    self.unexpected(&format!("in literal {literal} (expecting '{expected}')"))
                );
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return Err(self.unexpected("after decimal point in numeric literal"));
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return Err(self.unexpected("in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }
}

/// A character in quotes, as Go shows it.
fn go_char(c: char) -> String {
    match u32::from(c) {
        code @ (0x80..=0xffff) if c.escape_debug().len() > 1 => format!(r"'\u{code:04x}'"),
        code @ 0x10000.. if c.escape_debug().len() > 1 => format!(r"'\U{code:08x}'"),
        _ => format!("'{}'", c.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_limited() {
        assert_eq!(parse("[".repeat(100_000).as_bytes()).unwrap_err().0, "exceeded max depth");
        assert!(parse(format!("{}1{}", "[".repeat(100), "]".repeat(100)).as_bytes()).is_ok());
    }

    /// Found by the fuzz target `decode`: an object must not change by being stored and read again.
    #[test]
    fn numbers_stay_what_they_are() {
        for text in ["1e81", "1.0000000000000001e81", "0.1", "5e-324", "1.7976931348623157e308"] {
            let value = parse(text.as_bytes()).unwrap().value;
            let again = parse(value.to_string().as_bytes()).unwrap().value;
            assert_eq!((value.as_f64(), again), (text.parse().ok(), value.clone()), "{text}");
        }
    }

    #[test]
    fn duplicates_are_told_once() {
        let parsed = parse(br#"{"a":{"b":1,"b":2,"b":3},"l":[{"x":1,"x":2}],"a":{}}"#).unwrap();
        assert_eq!(parsed.duplicates, ["a.b", "l[0].x", "a"]);
        assert_eq!(parsed.value, serde_json::json!({"a": {}, "l": [{"x": 2}]}));
    }

    #[test]
    fn errors_read_as_go_writes_them() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text.as_bytes()), Err(SyntaxError(expected.to_owned())), "{text}");
        };
        check("", "unexpected end of JSON input");
        check("{\"data\":", "unexpected end of JSON input");
        check("not json", "invalid character 'o' in literal null (expecting 'u')");
        check("{a:1}", "invalid character 'a' looking for beginning of object key string");
        check("{} x", "invalid character 'x' after top-level value");
        check("\u{feff}{}", r"invalid character '\ufeff' looking for beginning of value");
        check("[1 2]", "invalid character '2' after array element");
        check("{\"a\":01}", "invalid character '1' after object key:value pair");
    }
}
