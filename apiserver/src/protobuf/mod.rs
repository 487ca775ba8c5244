//! Protobuf bodies, which typed clients of other projects speak: turned into JSON and back.
//!
//! Only the envelope and the field numbers of `data/protobuf.txt` are known here; what a field
//! means is for the schema to say. Custom types have no protobuf, as upstream has it.

mod decode;
mod encode;
mod messages;
mod openapi;
mod wire;

use schema::{Schema, facts};
use serde_json::Value;

pub use encode::{encode, event};
pub(crate) use openapi::openapi_v2;

/// The first bytes of every body.
const MAGIC: &[u8] = b"k8s\0";

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The media type of watches.
pub(crate) const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// Decodes a body, envelope included, into an object with kind and apiVersion.
///
/// # Errors
/// What is wrong with the bytes, in upstream's words where it has some.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let Some(envelope) = body.strip_prefix(MAGIC) else {
        return Err(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
                .to_owned(),
        );
    };
    let envelope = wire::Envelope::read(envelope).ok_or("the protobuf envelope is damaged")?;
    let (group, version) =
        envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
    let message = message_of(group, version, &envelope.kind).ok_or_else(|| {
        format!("no kind {:?} is registered for version {:?}", envelope.kind, envelope.api_version)
    })?;
    let mut object = decode::message(message, envelope.raw)
        .ok_or_else(|| format!("the protobuf message {} is damaged", envelope.kind))?;
    object["kind"] = envelope.kind.clone().into();
    object["apiVersion"] = envelope.api_version.clone().into();
    // Go sends the zero values of all fields that are no pointers. In JSON they would be absent.
    if let Some(schema) = Schema::for_gvk(group, version, &envelope.kind) {
        schema.decode(&mut object).map_err(|error| error.to_string())?;
    }
    Ok(object)
}

/// The message of a kind; `None` if it has none.
fn message_of(group: &str, version: &str, kind: &str) -> Option<&'static messages::Message> {
    if let Some(definition) = facts::definition_of(group, version, kind) {
        return messages::find(&messages::short(definition));
    }
    // What the server answers with, but does not store.
    match (group, kind) {
        ("apidiscovery.k8s.io", _) => messages::find(&format!("apidiscovery.{version}.{kind}")),
        ("" | "meta.k8s.io", _) => messages::find(&format!("meta.{kind}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
