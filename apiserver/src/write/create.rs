//! CREATE.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use rand::Rng as _;
use serde_json::Value;
use store::{Entry, Expect};

use super::{ATTEMPTS, Writer, answer, decode, meta, metadata};
use crate::admission;
use crate::bytes as text;
use crate::crd::convert;
use crate::handlers::Call;
use crate::handlers::options::WriteOptions;
use crate::status::ApiError;
use crate::types::check::remove_new;

/// Letters of generated names: no vowels and no look-alikes.
///
/// Source: `k8s.io/apimachinery/pkg/util/rand`.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Length of a generated suffix.
const SUFFIX: usize = 5;
/// Longest base of a generated name.
const BASE: usize = 63 - SUFFIX;
/// How often another generated name is tried when one is taken.
const NAME_ATTEMPTS: usize = 8;

/// Answers CREATE.
pub(super) async fn handle(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(&call.query, call.method)?;
    let format = decode::body_format(call.headers)?;
    let mut writer = Writer::new(call, options);
    let object = writer.decode(body, format)?;
    let agent = meta::agent(call.headers);
    let created = create(&mut writer, object, Some(&agent)).await;
    answer(call, &writer, StatusCode::CREATED, created)
}

/// Creates an object that was decoded; answers its text. Without an `agent` its `managedFields` are
/// final already (apply).
///
/// # Errors
/// Why it was not created.
pub async fn create(
    writer: &mut Writer<'_>,
    mut object: Value,
    agent: Option<&str>,
) -> Result<Bytes, ApiError> {
    meta::fit_namespace(writer, &mut object)?;
    let meta = metadata(&mut object);
    let version = meta.remove("resourceVersion").filter(|version| *version != "");
    match version {
        // It is the store that refuses, which a dry run does not reach.
        Some(version) if writer.options.dry_run => {
            meta.insert("resourceVersion".to_owned(), version);
        }
        version => refuse_version(version)?,
    }
    let base = meta.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = meta.get("name").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
    writer.unlabelled =
        meta.get("labels").and_then(Value::as_object).is_none_or(|labels| labels.is_empty());
    meta::prepare_create(meta);
    // Nodes register with their status; all other types begin without one.
    if writer.resource.subresources.contains_key("status") && writer.resource.kind != "Node" {
        meta::drop_status(writer.resource, &mut object);
    }
    writer.default(&mut object);
    writer.resource.strategy.inherit(&mut object);
    if let Some(agent) = agent {
        meta::dedup_owners(writer, &mut object, "");
        meta::track_created(writer, &mut object, agent);
    }
    admission::admit(writer, None, &mut object, None).await?;
    meta::dedup_owners(writer, &mut object, meta::AFTER_ADMISSION);
    if named || base.is_empty() {
        return attempt(writer, object).await;
    }
    let mut last = None;
    for _ in 0..NAME_ATTEMPTS {
        let mut object = object.clone();
        metadata(&mut object).insert("name".to_owned(), generate(&base).into());
        match attempt(writer, object).await {
            Err(taken @ ApiError::AlreadyExists { .. }) => last = Some(taken),
            other => return other,
        }
    }
    Err(last.unwrap_or(ApiError::MethodNotAllowed))
}

/// A new object has no version yet; what is none is passed over.
fn refuse_version(version: Option<Value>) -> Result<(), ApiError> {
    let version = version.as_ref().and_then(Value::as_str).and_then(|v| v.parse::<u64>().ok());
    if version.is_some_and(|version| version > 0) {
        let fault = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::Unknown(fault.to_owned()));
    }
    Ok(())
}

async fn attempt(writer: &mut Writer<'_>, object: Value) -> Result<Bytes, ApiError> {
    if writer.resource.strategy.claims() {
        for _ in 1..ATTEMPTS {
            if let Some(created) = once(writer, object.clone()).await? {
                return Ok(created);
            }
        }
    }
    let lost = || ApiError::ServerTimeout("others were faster each time; try again".to_owned());
    once(writer, object).await?.ok_or_else(lost)
}

/// `None` if what the object was to have was taken meanwhile.
async fn once(writer: &mut Writer<'_>, mut object: Value) -> Result<Option<Bytes>, ApiError> {
    let strategy = &writer.resource.strategy;
    if strategy.starts_generation() || writer.resource.is_foreign() {
        metadata(&mut object).insert("generation".to_owned(), 1.into());
    }
    writer.core.fresh(strategy.reads()).await?;
    remove_new(&mut object, None, strategy.refused_fields());
    strategy.prepare_create(&writer.ctx(), &mut object)?;
    writer.default(&mut object);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let outcome = finish(writer, &mut object, &name).await;
    if outcome.is_err() {
        strategy.release(&writer.ctx(), &object, None).await;
    }
    outcome
}

/// Objects of a definition that is being deleted are being deleted too.
fn refuse_if_terminating(writer: &Writer<'_>, name: &str) -> Result<(), ApiError> {
    let resource = writer.resource;
    if !resource.is_foreign() {
        return Ok(());
    }
    let registry = writer.core.registry();
    let definitions = registry.find("apiextensions.k8s.io", "customresourcedefinitions");
    let definition = definitions.and_then(|definitions| {
        definitions.cache()?.get(None, &format!("{}.{}", resource.name, resource.group))
    });
    if definition.is_none_or(|definition| !definition.deleting()) {
        return Ok(());
    }
    let about = resource.group_resource();
    let why = "create not allowed while custom resource definition is terminating";
    Err(ApiError::forbidden_object(about, name, why))
}

async fn finish(
    writer: &mut Writer<'_>,
    object: &mut Value,
    name: &str,
) -> Result<Option<Bytes>, ApiError> {
    refuse_if_terminating(writer, name)?;
    writer.validate(object, None, None)?;
    admission::validate(writer, None, object, None).await?;
    writer.warnings.extend(writer.resource.strategy.warnings(object, None));
    writer.warnings.extend(meta::warnings(writer.resource, object, None));
    if writer.options.dry_run
        && let Some(other) = writer.load(name).await?
    {
        return Err(taken(writer, name, Some(&other)));
    }
    let strategy = &writer.resource.strategy;
    if !writer.options.dry_run && !strategy.claim(&writer.ctx(), object, None).await? {
        return Ok(None);
    }
    strategy.inherit(object);
    let stored = writer.encode(object).await?;
    match writer.commit(name, Expect::Absent, stored).await {
        Ok(json) => {
            // Only a dry run has got here with a version.
            let json = match object["metadata"]["resourceVersion"].as_str() {
                Some(version) => text::with_version_text(&json, version),
                None => json,
            };
            convert::present_one(writer.resource, json).await.map(Some)
        }
        Err(store::Error::Conflict { current, .. }) => Err(taken(writer, name, current.as_ref())),
        Err(other) => Err(other.into()),
    }
}

/// The refusal where another object has the name.
fn taken(writer: &Writer<'_>, name: &str, other: Option<&Entry>) -> ApiError {
    let other = other.and_then(|other| serde_json::from_slice::<Value>(&other.value).ok());
    let deleting = other.is_some_and(|other| !other["metadata"]["deletionTimestamp"].is_null());
    let resource = writer.resource.group_resource();
    ApiError::AlreadyExists { resource, name: name.to_owned(), deleting }
}

/// A name that begins with `base`.
fn generate(base: &str) -> String {
    let mut end = base.len().min(BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut rng = rand::rng();
    name.extend((0..SUFFIX).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])));
    name
}
