//! From JSON to a message. What is absent or `null` is left out, which Go reads as zero.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::decode::is_list_of_texts;
use super::messages::{self, Field, Kind, Message, Shape};
use super::wire::{Envelope, put_bytes_field, put_double_field, put_number_field};
use super::{MAGIC, message_of};

/// Encodes an object, envelope included; `None` if its kind has no protobuf.
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let message = message_of(group, version, kind)?;
    let raw = self::message(message, object);
    let envelope =
        Envelope { api_version: api_version.to_owned(), kind: kind.to_owned(), raw: &raw };
    let mut out = MAGIC.to_vec();
    envelope.write(&mut out);
    Some(out)
}

/// A frame of a watch: the length, then type and object of an event. An object that has no protobuf is left out.
pub fn event(kind: &str, object: &Value) -> Vec<u8> {
    let mut raw = Vec::new();
    put_bytes_field(&mut raw, 1, &encode(object).unwrap_or_default());
    let mut event = Vec::new();
    put_bytes_field(&mut event, 1, kind.as_bytes());
    put_bytes_field(&mut event, 2, &raw);
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &event].concat()
}

fn message(message: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if !special(message, value, &mut out)
        && let Value::Object(members) = value
    {
        fields(message, members, &mut out);
    }
    out
}

fn fields(message: &Message, members: &Map<String, Value>, out: &mut Vec<u8>) {
    for field in &message.fields {
        if field.inline {
            if let Kind::Message(name) = field.kind
                && let Some(inner) = messages::find(name)
            {
                let mut part = Vec::new();
                fields(inner, members, &mut part);
                put_bytes_field(out, field.number, &part);
            }
            continue;
        }
        if let Some(value) = members.get(field.name).filter(|value| !value.is_null()) {
            put(field, value, out);
        }
    }
}

fn put(field: &Field, content: &Value, out: &mut Vec<u8>) {
    match (field.shape, content) {
        (Shape::One, content) => value(field.number, field.kind, content, out),
        (Shape::Many, Value::Array(items)) => {
            for item in items {
                value(field.number, field.kind, item, out);
            }
        }
        (Shape::Map, Value::Object(entries)) => {
            for (key, content) in entries {
                let mut entry = Vec::new();
                put_bytes_field(&mut entry, 1, key.as_bytes());
                value(2, field.kind, content, &mut entry);
                put_bytes_field(out, field.number, &entry);
            }
        }
        _ => {}
    }
}

#[expect(clippy::cast_sign_loss, reason = "negative numbers are sent as large ones")]
fn value(number: u32, kind: Kind, content: &Value, out: &mut Vec<u8>) {
    match (kind, content) {
        (Kind::Text, Value::String(text)) => put_bytes_field(out, number, text.as_bytes()),
        (Kind::Bytes, Value::String(text)) => {
            let bytes = STANDARD.decode(text).unwrap_or_default();
            put_bytes_field(out, number, &bytes);
        }
        (Kind::Int32 | Kind::Int64, content) => {
            put_number_field(out, number, content.as_i64().unwrap_or_default() as u64);
        }
        (Kind::Bool, content) => {
            put_number_field(out, number, u64::from(content.as_bool().unwrap_or_default()));
        }
        (Kind::Double, content) => {
            put_double_field(out, number, content.as_f64().unwrap_or_default());
        }
        (Kind::Message(name), content) => {
            if let Some(inner) = messages::find(name) {
                put_bytes_field(out, number, &message(inner, content));
            }
        }
        _ => {}
    }
}

/// Writes messages that are no objects in JSON; false for all others.
#[expect(clippy::cast_sign_loss, reason = "negative numbers are sent as large ones")]
fn special(message: &Message, content: &Value, out: &mut Vec<u8>) -> bool {
    match message.name {
        "meta.Time" | "meta.MicroTime" => {
            let time = content.as_str().and_then(|text| text.parse::<Timestamp>().ok());
            if let Some(time) = time {
                put_number_field(out, 1, time.as_second() as u64);
                put_number_field(out, 2, i64::from(time.subsec_nanosecond()) as u64);
            }
        }
        "resource.Quantity" => {
            let text = match content {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            put_bytes_field(out, 1, text.as_bytes());
        }
        "IntOrString" => match content {
            Value::String(text) => {
                put_number_field(out, 1, 1);
                put_number_field(out, 2, 0);
                put_bytes_field(out, 3, text.as_bytes());
            }
            other => {
                put_number_field(out, 1, 0);
                put_number_field(out, 2, other.as_i64().unwrap_or_default() as u64);
                put_bytes_field(out, 3, b"");
            }
        },
        "RawExtension" | "meta.FieldsV1" | "apiextensions.v1.JSON" => {
            put_bytes_field(out, 1, content.to_string().as_bytes());
        }
        "apiextensions.v1.JSONSchemaPropsOrArray"
        | "apiextensions.v1.JSONSchemaPropsOrBool"
        | "apiextensions.v1.JSONSchemaPropsOrStringArray" => either(message, content, out),
        name if is_list_of_texts(name) => {
            for text in content.as_array().into_iter().flatten().filter_map(Value::as_str) {
                put_bytes_field(out, 1, text.as_bytes());
            }
        }
        _ => return false,
    }
    true
}

/// One of a schema and something simpler.
fn either(message: &Message, content: &Value, out: &mut Vec<u8>) {
    let schema = content.is_object();
    for field in &message.fields {
        if (field.name == "schema") == schema && field.name != "allows" {
            put(field, content, out);
        } else if field.name == "allows" {
            // A schema allows what it describes.
            put(field, &Value::Bool(schema || *content == true), out);
        }
    }
}
