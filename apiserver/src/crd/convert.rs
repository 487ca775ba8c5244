//! Conversion webhooks: a custom type's versions, translated by a server of the type's author.
//!
//! Source: kubernetes.io, "Webhook conversion"; upstream's
//! `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`.

use std::borrow::Cow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use store::Entry;
use store::cache::{CacheEvent, Object};

use crate::backend::Client;
use crate::bytes as text;
use crate::handlers::options::ListOptions;
use crate::registry::{Resource, decoder};
use crate::server::Core;
use crate::status::ApiError;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Translates the objects of one definition.
#[derive(Clone)]
pub struct Converter {
    core: Weak<Core>,
    client: Arc<Result<Client, String>>,
    kind: String,
    speaks_v1: bool,
}

impl std::fmt::Debug for Converter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Converter").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Converter {
    /// The webhook of a definition; none if its versions differ in nothing but their name.
    pub(super) fn of(core: &Weak<Core>, spec: &Value) -> Option<Self> {
        let conversion = &spec["conversion"];
        (conversion["strategy"] == "Webhook").then(|| {
            let webhook = &conversion["webhook"];
            let versions = webhook["conversionReviewVersions"].as_array();
            Self {
                core: core.clone(),
                client: Client::parse(&webhook["clientConfig"]).into(),
                kind: spec["names"]["kind"].as_str().unwrap_or_default().to_owned(),
                speaks_v1: versions.is_some_and(|list| list.iter().any(|v| v == "v1")),
            }
        })
    }

    /// Translates those of the objects that do not have this version yet.
    async fn convert(&self, objects: &mut [Value], version: &str) -> Result<(), ApiError> {
        let other: Vec<usize> =
            (0..objects.len()).filter(|&at| objects[at]["apiVersion"] != version).collect();
        let Some(first) = other.first() else { return Ok(()) };
        let from = objects[*first]["apiVersion"].as_str().unwrap_or_default();
        let what = format!("conversion webhook for {from}, Kind={}", self.kind);
        let asked: Vec<&Value> = other.iter().map(|&at| &objects[at]).collect();
        let answered = self.ask(&asked, version).await;
        let answered = answered.map_err(|e| ApiError::Unknown(format!("{what} failed: {e}")))?;
        if answered.len() != other.len() {
            return Err(ApiError::Unknown(format!(
                "{what} returned {} objects, expected {}",
                answered.len(),
                other.len()
            )));
        }
        for (index, (at, converted)) in other.into_iter().zip(answered).enumerate() {
            objects[at] = accept(&objects[at], converted, version).map_err(|fault| {
                ApiError::Unknown(format!(
                    "{what} returned invalid converted object at index {index}: {fault}"
                ))
            })?;
        }
        Ok(())
    }

    async fn ask(&self, objects: &[&Value], version: &str) -> Result<Vec<Value>, String> {
        if !self.speaks_v1 {
            return Err("no supported conversion review versions".to_owned());
        }
        let core = self.core.upgrade().ok_or("the server is stopping")?;
        let client = (*self.client).as_ref().map_err(String::clone)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "request": {"uid": uid, "desiredAPIVersion": version, "objects": objects}});
        let answer = client.post(&core, &review, PATIENCE).await?;
        read(answer, &uid)
    }
}

/// The objects of an answer.
fn read(mut answer: Value, uid: &str) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
    if (version.as_str(), kind.as_str()) != ("apiextensions.k8s.io/v1", "ConversionReview") {
        return Err(format!(
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {version}, Kind={kind}"
        ));
    }
    let mut response = answer["response"].take();
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    let answered = text(&response["uid"]);
    if answered != uid {
        return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
    }
    let result = &response["result"];
    let (status, message) = (text(&result["status"]), text(&result["message"]));
    match (status.as_str(), message.as_str()) {
        ("Success", _) => (),
        (status, "") => {
            return Err(format!("response.result.status was '{status}', not 'Success'"));
        }
        (_, message) => return Err(message.to_owned()),
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// Takes over a converted object: of its metadata only labels and annotations may have changed.
fn accept(original: &Value, mut converted: Value, version: &str) -> Result<Value, String> {
    let got = &converted["apiVersion"];
    if *got != version {
        let got = got.as_str().unwrap_or_default();
        return Err(format!("invalid groupVersion (expected {version}, received {got})"));
    }
    if converted["kind"] != original["kind"] {
        return Err(format!(
            "invalid kind (expected {}, received {})",
            original["kind"].as_str().unwrap_or_default(),
            converted["kind"].as_str().unwrap_or_default()
        ));
    }
    let Value::Object(theirs) = converted["metadata"].take() else {
        return Err("missing metadata in converted object".to_owned());
    };
    for (key, word) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let (mine, other) = (text(original["metadata"].get(key)), text(theirs.get(key)));
        if mine != other {
            return Err(format!("must have the same {word}: {mine} != {other}"));
        }
    }
    converted["metadata"] = restore(&original["metadata"], theirs);
    Ok(converted)
}

fn restore(original: &Value, mut theirs: Map<String, Value>) -> Value {
    let mut metadata = original.clone();
    for key in ["labels", "annotations"] {
        match (theirs.remove(key), metadata.as_object_mut()) {
            (Some(value), Some(metadata)) => _ = metadata.insert(key.to_owned(), value),
            (None, Some(metadata)) => _ = metadata.remove(key),
            (_, None) => (),
        }
    }
    metadata
}

fn converter(resource: &Resource) -> Option<&Converter> {
    resource.custom.as_ref()?.converter.as_ref()
}

/// A stored object in the version of the resource.
///
/// # Errors
/// The conversion webhook fails.
pub(crate) async fn from_stored(resource: &Resource, object: Value) -> Result<Value, ApiError> {
    let Some(converter) = converter(resource) else { return Ok(object) };
    let mut objects = [object];
    let version = resource.api_version();
    if objects[0]["apiVersion"] != version.as_str() {
        converter.convert(&mut objects, &version).await?;
        if let Some(schema) = resource.schema.get() {
            schema.prune(&mut objects[0]);
            schema.default(&mut objects[0]);
        }
    }
    let [object] = objects;
    Ok(object)
}

/// An object as it is to be stored.
///
/// # Errors
/// The conversion webhook fails.
pub(crate) async fn to_stored(resource: &Resource, object: &Value) -> Result<Value, ApiError> {
    let mut objects = [object.clone()];
    if let (Some(converter), Some(custom)) = (converter(resource), &resource.custom) {
        let version = format!("{}/{}", resource.group, custom.storage_version);
        converter.convert(&mut objects, &version).await?;
    }
    let [object] = objects;
    Ok(object)
}

/// Whether objects of the resource must go through [`present`] before they are shown.
pub(crate) fn is_converted(resource: &Resource) -> bool {
    converter(resource).is_some()
}

/// The texts of stored objects in the version of the resource.
///
/// # Errors
/// The conversion webhook fails.
pub(crate) async fn present(
    resource: &Resource,
    mut texts: Vec<Bytes>,
) -> Result<Vec<Bytes>, ApiError> {
    let Some(converter) = converter(resource) else { return Ok(texts) };
    let other: Vec<usize> =
        (0..texts.len()).filter(|&at| !texts[at].starts_with(&resource.head)).collect();
    let parse = |&at: &usize| serde_json::from_slice(&texts[at]).map_err(ApiError::internal);
    let mut objects: Vec<Value> = other.iter().map(parse).collect::<Result<_, _>>()?;
    converter.convert(&mut objects, &resource.api_version()).await?;
    for (at, mut object) in other.into_iter().zip(objects) {
        if let Some(schema) = resource.schema.get() {
            schema.prune(&mut object);
            schema.default(&mut object);
        }
        let revision = object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
        let encoded = text::encode(&object);
        texts[at] = revision.map_or(encoded.clone(), |at| text::with_version(&encoded, at));
    }
    Ok(texts)
}

/// What of a request's selectors stored objects can be asked: in another version the fields may be others.
pub(crate) fn asked_of_stored<'a>(
    resource: &Resource,
    options: &'a ListOptions,
) -> Cow<'a, ListOptions> {
    if !is_converted(resource) {
        return Cow::Borrowed(options);
    }
    Cow::Owned(ListOptions { fields: options.fields.of_place(), ..options.clone() })
}

/// Stored objects in the version of the resource.
///
/// # Errors
/// The conversion webhook fails.
pub(crate) async fn objects(
    resource: &Resource,
    objects: Vec<Arc<Object>>,
) -> Result<Vec<Arc<Object>>, ApiError> {
    if !is_converted(resource) {
        return Ok(objects);
    }
    let texts = present(resource, objects.iter().map(|object| object.json()).collect()).await?;
    let decoder = decoder(&resource.selectable);
    let read = |(object, text): (&Arc<Object>, Bytes)| -> Result<Arc<Object>, ApiError> {
        let value: Value = serde_json::from_slice(&text).map_err(ApiError::internal)?;
        let (key, revision) = (object.key().into(), object.revision());
        let entry = Entry { key, value: text::encode(&value), revision };
        decoder.decode(&entry).map(Arc::new).map_err(ApiError::internal)
    };
    objects.iter().zip(texts).map(read).collect()
}

/// A change in the version of the resource, with what was `before` where somebody has to know it.
///
/// # Errors
/// The conversion webhook fails.
pub(crate) async fn event(
    resource: &Resource,
    event: &CacheEvent,
    before: Option<&Arc<Object>>,
) -> Result<CacheEvent, ApiError> {
    let both = [Some(&event.object), before].into_iter().flatten().cloned().collect();
    let mut both = objects(resource, both).await?.into_iter();
    let lost = || ApiError::internal("an object was lost in conversion");
    Ok(event.of(both.next().ok_or_else(lost)?, both.next()))
}

/// As [`present`], for one.
///
/// # Errors
/// The conversion webhook fails.
pub(crate) async fn present_one(resource: &Resource, json: Bytes) -> Result<Bytes, ApiError> {
    if !is_converted(resource) {
        return Ok(json);
    }
    let mut presented = present(resource, vec![json]).await?;
    presented.pop().ok_or_else(|| ApiError::internal("an object was lost in conversion"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_and_annotations_may_change() {
        let original = json!({"apiVersion": "x/v1", "kind": "A",
            "metadata": {"name": "a", "uid": "u", "generation": 2, "labels": {"a": "1"}}});
        let converted = |metadata: Value| {
            let object = json!({"apiVersion": "x/v2", "kind": "A", "metadata": metadata});
            accept(&original, object, "x/v2").map(|object| object["metadata"].clone())
        };
        let fine = converted(json!({"name": "a", "uid": "u", "generation": 9,
            "labels": {"b": "2"}}));
        assert_eq!(
            fine.unwrap(),
            json!({"name": "a", "uid": "u", "generation": 2, "labels": {"b": "2"}})
        );
        let renamed = converted(json!({"name": "b", "uid": "u"})).unwrap_err();
        assert_eq!(renamed, "must have the same name: a != b");
    }
}
