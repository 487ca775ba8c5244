//! From a message to JSON. Everything that is present is kept; what counts as absent is for the
//! schema to say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::messages::{self, Field, Kind, Message, Shape};
use super::wire::{Item, Reader, utf8};

/// Decodes the bytes of a message; `None` if they are damaged.
pub(super) fn message(message: &Message, bytes: &[u8]) -> Option<Value> {
    if let Some(special) = special(message, bytes) {
        return special;
    }
    let mut object = Map::new();
    into(message, bytes, &mut object)?;
    Some(object.into())
}

fn into(message: &Message, bytes: &[u8], object: &mut Map<String, Value>) -> Option<()> {
    let mut fields = Reader(bytes);
    while let Some(field) = fields.next() {
        let (number, item) = field?;
        // A newer client may send what this version does not know: protobuf ignores it.
        let Some(field) = message.fields.iter().find(|field| field.number == number) else {
            continue;
        };
        put(field, item, object)?;
    }
    Some(())
}

fn put(field: &Field, item: Item<'_>, object: &mut Map<String, Value>) -> Option<()> {
    if field.inline {
        let (Kind::Message(name), Item::Bytes(bytes)) = (field.kind, item) else { return None };
        return into(messages::find(name)?, bytes, object);
    }
    match field.shape {
        Shape::One => {
            object.insert(field.name.to_owned(), value(field.kind, item)?);
        }
        Shape::Many => {
            let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let list = list.as_array_mut()?;
            match (field.kind, item) {
                (Kind::Int32 | Kind::Int64 | Kind::Bool, Item::Bytes(packed)) => {
                    let mut numbers = Reader(packed);
                    while !numbers.0.is_empty() {
                        list.push(value(field.kind, Item::Number(numbers.number()?))?);
                    }
                }
                _ => list.push(value(field.kind, item)?),
            }
        }
        Shape::Map => {
            let Item::Bytes(entry) = item else { return None };
            let (mut key, mut content) = (String::new(), None);
            let mut parts = Reader(entry);
            while let Some(part) = parts.next() {
                match part? {
                    (1, Item::Bytes(text)) => key = utf8(text)?,
                    (2, item) => content = Some(value(field.kind, item)?),
                    _ => {}
                }
            }
            let content = content.or_else(|| empty(field.kind))?;
            let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            map.as_object_mut()?.insert(key, content);
        }
    }
    Some(())
}

/// What a map entry without a value holds.
fn empty(kind: Kind) -> Option<Value> {
    match kind {
        Kind::Text | Kind::Bytes => Some("".into()),
        Kind::Int32 | Kind::Int64 => Some(0.into()),
        Kind::Bool => Some(false.into()),
        Kind::Double => Some(0.0.into()),
        Kind::Message(name) => message(messages::find(name)?, &[]),
    }
}

#[expect(clippy::cast_possible_wrap, reason = "negative numbers are sent as large ones")]
#[expect(clippy::cast_possible_truncation, reason = "an int32 is sent with 64 bits")]
fn value(kind: Kind, item: Item<'_>) -> Option<Value> {
    Some(match (kind, item) {
        (Kind::Text, Item::Bytes(bytes)) => utf8(bytes)?.into(),
        (Kind::Bytes, Item::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Kind::Int32, Item::Number(n)) => (n as i32).into(),
        (Kind::Int64, Item::Number(n)) => (n as i64).into(),
        (Kind::Bool, Item::Number(n)) => (n != 0).into(),
        (Kind::Double, Item::Double(n)) => n.into(),
        (Kind::Message(name), Item::Bytes(bytes)) => message(messages::find(name)?, bytes)?,
        _ => return None,
    })
}

/// Messages that are no objects in JSON.
fn special(message: &Message, bytes: &[u8]) -> Option<Option<Value>> {
    match message.name {
        "meta.Time" => Some(time(bytes, 0)),
        "meta.MicroTime" => Some(time(bytes, 6)),
        "resource.Quantity" => Some(text_of(bytes, 1)),
        "IntOrString" => Some(int_or_string(bytes)),
        "RawExtension" | "meta.FieldsV1" | "apiextensions.v1.JSON" => Some(raw_json(bytes)),
        "apiextensions.v1.JSONSchemaPropsOrArray" => Some(either(message, bytes, "jSONSchemas")),
        "apiextensions.v1.JSONSchemaPropsOrBool" => Some(either(message, bytes, "allows")),
        "apiextensions.v1.JSONSchemaPropsOrStringArray" => Some(either(message, bytes, "property")),
        name if is_list_of_texts(name) => {
            let mut object = Map::new();
            Some(
                into(message, bytes, &mut object)
                    .map(|()| object.remove("items").unwrap_or_else(|| Value::Array(Vec::new()))),
            )
        }
        _ => None,
    }
}

/// Messages that only wrap a list of texts, because protobuf maps cannot hold lists.
pub(super) fn is_list_of_texts(name: &str) -> bool {
    name.ends_with(".ExtraValue") || name == "meta.Verbs"
}

fn text_of(bytes: &[u8], wanted: u32) -> Option<Value> {
    let mut found = String::new();
    let mut fields = Reader(bytes);
    while let Some(field) = fields.next() {
        if let (number, Item::Bytes(text)) = field?
            && number == wanted
        {
            found = utf8(text)?;
        }
    }
    Some(found.into())
}

fn int_or_string(bytes: &[u8]) -> Option<Value> {
    let (mut is_text, mut number, mut text) = (false, 0_i32, String::new());
    let mut fields = Reader(bytes);
    while let Some(field) = fields.next() {
        match field? {
            (1, Item::Number(kind)) => is_text = kind == 1,
            (2, Item::Number(n)) => number = n as i32,
            (3, Item::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Some(if is_text { text.into() } else { number.into() })
}

/// RFC 3339 with that many digits of the second; no time, and Go's zero time, are `null`.
#[expect(clippy::cast_possible_wrap, reason = "negative numbers are sent as large ones")]
#[expect(clippy::cast_possible_truncation, reason = "an int32 is sent with 64 bits")]
fn time(bytes: &[u8], digits: usize) -> Option<Value> {
    /// Year 1, which Go takes for no time.
    const ZERO: i64 = -62_135_596_800;
    let (mut seconds, mut nanos) = (None, 0_i32);
    let mut fields = Reader(bytes);
    while let Some(field) = fields.next() {
        match field? {
            (1, Item::Number(n)) => seconds = Some(n as i64),
            (2, Item::Number(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let Some(seconds) = seconds.filter(|seconds| *seconds != ZERO) else {
        return Some(Value::Null);
    };
    let time = Timestamp::new(seconds, nanos).ok()?;
    Some(if digits == 0 {
        Timestamp::from_second(seconds).ok()?.to_string().into()
    } else {
        time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into()
    })
}

fn raw_json(bytes: &[u8]) -> Option<Value> {
    let mut fields = Reader(bytes);
    while let Some(field) = fields.next() {
        if let (1, Item::Bytes(raw)) = field? {
            return serde_json::from_slice(raw).ok();
        }
    }
    Some(Value::Null)
}

/// One of a schema and something simpler: the schema if it is there.
fn either(message: &Message, bytes: &[u8], simple: &str) -> Option<Value> {
    let mut object = Map::new();
    into(message, bytes, &mut object)?;
    let schema = object.remove("schema");
    Some(schema.or_else(|| object.remove(simple)).unwrap_or(Value::Bool(false)))
}
