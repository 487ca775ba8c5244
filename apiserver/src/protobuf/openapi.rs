//! OpenAPI v2 as protobuf, which is what Go's discovery client asks for.
//!
//! The messages are those of gnostic's [`OpenAPIv2.proto`], as far as the server's documents use them. Where JSON has
//! a map, a message has a list of names with values; what JSON may have in more than one form is a message with one
//! field for each form.
//!
//! [`OpenAPIv2.proto`]: https://github.com/google/gnostic-models/blob/main/openapiv2/OpenAPIv2.proto

use serde_json::Value;

use super::wire::{put_bytes_field, put_double_field, put_number_field};

/// A message: the numbers of its fields.
struct Message {
    fields: &'static [(&'static str, u32, Kind)],
    /// Where members go that are neither fields nor extensions, as names with values.
    others: Option<(u32, Kind)>,
    /// Where members go whose names begin with `x-`; 0 if they are nothing special.
    extensions: u32,
}

/// What a field holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Integer,
    Double,
    /// Anything, as YAML; JSON is YAML.
    Any,
    Message(&'static Message),
    /// Any number of these; JSON may have a single one without a list.
    Many(&'static Kind),
    /// A message whose field 1 is this.
    In(&'static Kind),
    /// A form of several, by the numbers of the fields on the way to it.
    OneOf(fn(&Value) -> (&'static [u32], Kind)),
}

static A_SCHEMA: Kind = Kind::Message(&SCHEMA);
const TEXTS: Kind = Kind::Many(&Kind::Text);
const PARAMETERS: Kind = Kind::Many(&Kind::OneOf(parameter));
const SECURITIES: Kind = Kind::Many(&Kind::Message(&SECURITY));

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Kind::Text),
        ("info", 2, Kind::Message(&INFO)),
        ("host", 3, Kind::Text),
        ("basePath", 4, Kind::Text),
        ("schemes", 5, TEXTS),
        ("consumes", 6, TEXTS),
        ("produces", 7, TEXTS),
        ("paths", 8, Kind::Message(&PATHS)),
        ("definitions", 9, Kind::Message(&SCHEMAS)),
        ("parameters", 10, Kind::Message(&PARAMETER_DEFINITIONS)),
        ("security", 12, SECURITIES),
        ("securityDefinitions", 13, Kind::Message(&SECURITY_DEFINITIONS)),
    ],
    others: None,
    extensions: 16,
};

static INFO: Message = Message {
    fields: &[
        ("title", 1, Kind::Text),
        ("version", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("termsOfService", 4, Kind::Text),
    ],
    others: None,
    extensions: 7,
};

static PATHS: Message =
    Message { fields: &[], others: Some((2, Kind::Message(&PATH))), extensions: 1 };

static PATH: Message = Message {
    fields: &[
        ("get", 2, Kind::Message(&OPERATION)),
        ("put", 3, Kind::Message(&OPERATION)),
        ("post", 4, Kind::Message(&OPERATION)),
        ("delete", 5, Kind::Message(&OPERATION)),
        ("options", 6, Kind::Message(&OPERATION)),
        ("head", 7, Kind::Message(&OPERATION)),
        ("patch", 8, Kind::Message(&OPERATION)),
        ("parameters", 9, PARAMETERS),
    ],
    others: None,
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, TEXTS),
        ("summary", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, PARAMETERS),
        ("responses", 9, Kind::Message(&RESPONSES)),
        ("schemes", 10, TEXTS),
        ("deprecated", 11, Kind::Bool),
        ("security", 12, SECURITIES),
    ],
    others: None,
    extensions: 13,
};

static PARAMETER_DEFINITIONS: Message =
    Message { fields: &[], others: Some((1, Kind::OneOf(parameter_definition))), extensions: 0 };

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Bool),
        ("schema", 5, Kind::Message(&SCHEMA)),
    ],
    others: None,
    extensions: 6,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 6, Kind::Text),
        ("format", 7, Kind::Text),
        ("default", 10, Kind::Any),
        ("uniqueItems", 20, Kind::Bool),
        ("enum", 21, Kind::Many(&Kind::Any)),
    ],
    others: None,
    extensions: 23,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
        ("format", 6, Kind::Text),
        ("default", 9, Kind::Any),
        ("uniqueItems", 19, Kind::Bool),
        ("enum", 20, Kind::Many(&Kind::Any)),
    ],
    others: None,
    extensions: 22,
};

static REFERENCE: Message = Message {
    fields: &[("$ref", 1, Kind::Text), ("description", 2, Kind::Text)],
    others: None,
    extensions: 0,
};

static RESPONSES: Message =
    Message { fields: &[], others: Some((1, Kind::OneOf(response))), extensions: 2 };

static RESPONSE: Message = Message {
    fields: &[("description", 1, Kind::Text), ("schema", 2, Kind::In(&A_SCHEMA))],
    others: None,
    extensions: 5,
};

static SECURITY: Message =
    Message { fields: &[], others: Some((1, Kind::In(&TEXTS))), extensions: 0 };

static SECURITY_DEFINITIONS: Message =
    Message { fields: &[], others: Some((1, Kind::OneOf(security_definition))), extensions: 0 };

static API_KEY: Message = Message {
    fields: &[
        ("type", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("description", 4, Kind::Text),
    ],
    others: None,
    extensions: 5,
};

static SCHEMAS: Message =
    Message { fields: &[], others: Some((1, Kind::Message(&SCHEMA))), extensions: 0 };

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Kind::Text),
        ("format", 2, Kind::Text),
        ("title", 3, Kind::Text),
        ("description", 4, Kind::Text),
        ("default", 5, Kind::Any),
        ("multipleOf", 6, Kind::Double),
        ("maximum", 7, Kind::Double),
        ("exclusiveMaximum", 8, Kind::Bool),
        ("minimum", 9, Kind::Double),
        ("exclusiveMinimum", 10, Kind::Bool),
        ("maxLength", 11, Kind::Integer),
        ("minLength", 12, Kind::Integer),
        ("pattern", 13, Kind::Text),
        ("maxItems", 14, Kind::Integer),
        ("minItems", 15, Kind::Integer),
        ("uniqueItems", 16, Kind::Bool),
        ("maxProperties", 17, Kind::Integer),
        ("minProperties", 18, Kind::Integer),
        ("required", 19, TEXTS),
        ("enum", 20, Kind::Many(&Kind::Any)),
        ("additionalProperties", 21, Kind::OneOf(additional)),
        ("type", 22, Kind::In(&TEXTS)),
        ("items", 23, Kind::In(&Kind::Many(&A_SCHEMA))),
        ("allOf", 24, Kind::Many(&A_SCHEMA)),
        ("properties", 25, Kind::Message(&SCHEMAS)),
        ("discriminator", 26, Kind::Text),
        ("readOnly", 27, Kind::Bool),
        ("example", 30, Kind::Any),
    ],
    others: None,
    extensions: 31,
};

fn parameter(content: &Value) -> (&'static [u32], Kind) {
    if content.get("$ref").is_some() {
        return (&[2], Kind::Message(&REFERENCE));
    }
    match content["in"].as_str() {
        Some("body") => (&[1, 1], Kind::Message(&BODY_PARAMETER)),
        Some("path") => (&[1, 2, 4], Kind::Message(&PATH_PARAMETER)),
        _ => (&[1, 2, 3], Kind::Message(&QUERY_PARAMETER)),
    }
}

/// A parameter where no reference can be.
fn parameter_definition(content: &Value) -> (&'static [u32], Kind) {
    let (way, kind) = parameter(content);
    (&way[1..], kind)
}

fn response(content: &Value) -> (&'static [u32], Kind) {
    match content.get("$ref") {
        Some(_) => (&[2], Kind::Message(&REFERENCE)),
        None => (&[1], Kind::Message(&RESPONSE)),
    }
}

fn security_definition(_: &Value) -> (&'static [u32], Kind) {
    (&[2], Kind::Message(&API_KEY))
}

fn additional(content: &Value) -> (&'static [u32], Kind) {
    match content {
        Value::Bool(_) => (&[2], Kind::Bool),
        _ => (&[1], Kind::Message(&SCHEMA)),
    }
}

/// Encodes an OpenAPI v2 document.
pub(crate) fn openapi_v2(document: &Value) -> Vec<u8> {
    message(&DOCUMENT, document)
}

fn message(message: &Message, content: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in content.as_object().into_iter().flatten() {
        let field = message.fields.iter().find(|(known, ..)| known == name);
        if let Some((_, number, kind)) = field {
            put(*number, *kind, content, &mut out);
        } else if message.extensions > 0 && name.starts_with("x-") {
            named(message.extensions, Kind::Any, name, content, &mut out);
        } else if let Some((number, kind)) = message.others {
            named(number, kind, name, content, &mut out);
        }
    }
    out
}

fn named(number: u32, kind: Kind, name: &str, content: &Value, out: &mut Vec<u8>) {
    let mut entry = Vec::new();
    put_bytes_field(&mut entry, 1, name.as_bytes());
    put(2, kind, content, &mut entry);
    put_bytes_field(out, number, &entry);
}

#[expect(clippy::cast_sign_loss, reason = "negative numbers are sent as large ones")]
fn put(number: u32, kind: Kind, content: &Value, out: &mut Vec<u8>) {
    match kind {
        Kind::Text => put_bytes_field(out, number, content.as_str().unwrap_or_default().as_bytes()),
        Kind::Bool => {
            put_number_field(out, number, u64::from(content.as_bool().unwrap_or_default()));
        }
        Kind::Integer => put_number_field(out, number, content.as_i64().unwrap_or_default() as u64),
        Kind::Double => put_double_field(out, number, content.as_f64().unwrap_or_default()),
        Kind::Any => {
            let mut any = Vec::new();
            put_bytes_field(&mut any, 2, content.to_string().as_bytes());
            put_bytes_field(out, number, &any);
        }
        Kind::Message(inner) => put_bytes_field(out, number, &message(inner, content)),
        Kind::Many(one) => match content {
            Value::Array(items) => items.iter().for_each(|item| put(number, *one, item, out)),
            single => put(number, *one, single, out),
        },
        Kind::In(inner) => {
            let mut within = Vec::new();
            put(1, *inner, content, &mut within);
            put_bytes_field(out, number, &within);
        }
        Kind::OneOf(choose) => {
            let (way, kind) = choose(content);
            along(number, way, kind, content, out);
        }
    }
}

/// Puts content into messages that hold nothing else.
fn along(number: u32, way: &[u32], kind: Kind, content: &Value, out: &mut Vec<u8>) {
    match way {
        [] => put(number, kind, content, out),
        [next, rest @ ..] => {
            let mut within = Vec::new();
            along(*next, rest, kind, content, &mut within);
            put_bytes_field(out, number, &within);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    #[test]
    fn maps_are_lists_of_names_and_forms_are_messages() {
        let document = json!({"definitions": {"A": {
            "type": "object", "additionalProperties": true, "x-y": [1],
        }}});
        let additional = [&[0xaa, 1, 2][..], &[2 << 3, 1]].concat();
        let kind = [&[0xb2, 1, 8][..], &field(1, b"object")].concat();
        let any = field(2, &field(2, b"[1]"));
        let extension = [field(1, b"x-y"), any].concat();
        let extension =
            [&[0xfa, 1, u8::try_from(extension.len()).unwrap()][..], &extension].concat();
        let schema = [additional, kind, extension].concat();
        let entry = [field(1, b"A"), field(2, &schema)].concat();
        assert_eq!(openapi_v2(&document), field(9, &field(1, &entry)));
    }

    #[test]
    fn a_parameter_is_as_deep_as_its_place_says() {
        let path = json!({"parameters": [{"in": "path"}, {"$ref": "#/parameters/a"}]});
        let inner = field(1, &field(2, &field(4, &field(2, b"path"))));
        let reference = field(2, &field(1, b"#/parameters/a"));
        assert_eq!(message(&PATH, &path), [field(9, &inner), field(9, &reference)].concat());
    }
}
