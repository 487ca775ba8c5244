//! UPDATE, and what every change of an existing object has in common.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use store::{Entry, Expect};

use super::{ATTEMPTS, Found, Outcome, Writer, answer, create, decode, meta, metadata, scale};
use crate::admission;
use crate::bytes as text;
use crate::crd::convert;
use crate::handlers::Call;
use crate::handlers::options::WriteOptions;
use crate::registry::ScalePaths;
use crate::status::ApiError;
use crate::types::check::remove_new;

/// What a change makes of an object.
pub enum Change {
    /// This, which still has to go through defaulting and validation.
    To(Value),
    /// Nothing was there and nothing is made.
    Absent,
}

/// How an object is changed.
pub struct Plan<'p> {
    /// Name of the object.
    pub name: String,
    /// Part of the object that may change.
    pub subresource: Option<&'p str>,
    /// Operation and manager for `managedFields`; `None` if the change has done that (apply).
    pub agent: Option<&'p str>,
    /// Set if admission sees the object as a Scale.
    pub scale: Option<&'p ScalePaths>,
}

impl<'p> Plan<'p> {
    /// A change that admission sees as it is.
    pub fn new(name: &str, subresource: Option<&'p str>, agent: Option<&'p str>) -> Self {
        Self { name: name.to_owned(), subresource, agent, scale: None }
    }

    async fn admit(
        &self,
        writer: &mut Writer<'_>,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        let Some(paths) = self.scale else {
            return admission::admit(writer, self.subresource, object, Some(old)).await;
        };
        let (mut shown, before) =
            (scale::show(writer, paths, object), scale::show(writer, paths, old));
        admission::admit(writer, self.subresource, &mut shown, Some(&before)).await?;
        scale::take((writer.resource, &self.name), paths, &shown, object)
    }

    async fn validate(
        &self,
        writer: &mut Writer<'_>,
        object: &Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        let Some(paths) = self.scale else {
            return admission::validate(writer, self.subresource, object, Some(old)).await;
        };
        let (shown, before) = (scale::show(writer, paths, object), scale::show(writer, paths, old));
        admission::validate(writer, self.subresource, &shown, Some(&before)).await
    }
}

/// Answers UPDATE.
pub(super) async fn handle(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(&call.query, call.method)?;
    let format = decode::body_format(call.headers)?;
    let mut writer = Writer::new(call, options);
    let mut object = writer.decode(body, format)?;
    let name = &call.info.name;
    let fitted = meta::fit_namespace(&writer, &mut object).and_then(|()| fit_name(name, &object));
    if let Err(error) = fitted {
        return answer(call, &writer, StatusCode::OK, Err(error));
    }
    let agent = meta::agent(call.headers);
    let subresource = (!call.info.subresource.is_empty()).then_some(call.info.subresource.as_str());
    let may_create = subresource.is_none() && writer.resource.strategy.creates_on_update();
    if may_create && writer.load(name).await?.is_none() {
        metadata(&mut object).remove("resourceVersion");
        let created = create(&mut writer, object, Some(&agent)).await;
        return answer(call, &writer, StatusCode::CREATED, created);
    }
    let plan = Plan::new(name, subresource, Some(&agent));
    let updated = update(&mut writer, &plan, |_, _| Ok(Change::To(object.clone()))).await;
    answer(call, &writer, StatusCode::OK, updated)
}

/// The refusal of an object without a name.
pub(super) fn nameless(name: &str) -> ApiError {
    ApiError::BadRequest(format!(
        "the name of the object ({name} based on URL) was undeterminable: name must be provided"
    ))
}

pub(super) fn fit_name(name: &str, object: &Value) -> Result<(), ApiError> {
    match object["metadata"]["name"].as_str().unwrap_or_default() {
        "" => Err(nameless(name)),
        other if other != name => Err(ApiError::BadRequest(format!(
            "the name of the object ({other}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

/// Changes an object by compare-and-commit; `change` runs again whenever somebody else was faster.
///
/// # Errors
/// Why it was not changed.
pub async fn update<'w>(
    writer: &mut Writer<'w>,
    plan: &Plan<'_>,
    change: impl FnMut(&mut Writer<'w>, &Value) -> Result<Change, ApiError>,
) -> Result<Bytes, ApiError> {
    let found = writer.find(&plan.name).await?;
    update_found(writer, plan, found, change).await
}

/// As [`update`], of what was found before.
pub(super) async fn update_found<'w>(
    writer: &mut Writer<'w>,
    plan: &Plan<'_>,
    mut found: Found,
    mut change: impl FnMut(&mut Writer<'w>, &Value) -> Result<Change, ApiError>,
) -> Result<Bytes, ApiError> {
    let n_warnings = writer.warnings.len();
    for _ in 0..ATTEMPTS {
        let Some(current) = &found.entry else {
            return Err(writer.resource.not_found(&plan.name));
        };
        writer.warnings.truncate(n_warnings);
        match attempt(writer, plan, &mut change, current).await {
            Ok(Outcome::Written(json)) => return convert::present_one(writer.resource, json).await,
            Ok(Outcome::Stale(now)) => found = now.into(),
            _ if found.was_wrong(writer, &plan.name).await? => (),
            Ok(Outcome::Unchanged(json)) => {
                return convert::present_one(writer.resource, json).await;
            }
            Err(error) => return Err(error),
        }
    }
    Err(writer.conflict(&plan.name))
}

async fn attempt<'w>(
    writer: &mut Writer<'w>,
    plan: &Plan<'_>,
    change: &mut impl FnMut(&mut Writer<'w>, &Value) -> Result<Change, ApiError>,
    current: &Entry,
) -> Result<Outcome<Bytes>, ApiError> {
    let old = writer.parse(current).await?;
    let Change::To(object) = change(writer, &old)? else {
        return Err(writer.resource.not_found(&plan.name));
    };
    let fixed = is_fixed(&object)?;
    check_version(writer, plan, &object, current, &old)?;
    match replace(writer, plan, object, &old, current).await? {
        Outcome::Stale(_) if fixed => Err(writer.conflict(&plan.name)),
        outcome => Ok(outcome),
    }
}

/// Whether the client insists on the version that it has seen.
fn is_fixed(object: &Value) -> Result<bool, ApiError> {
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if version.is_empty() {
        return Ok(false);
    }
    let revision: u64 = version.parse().map_err(|_| {
        ApiError::Unknown(format!("strconv.ParseUint: parsing {version:?}: invalid syntax"))
    })?;
    Ok(revision != 0)
}

fn check_version(
    writer: &Writer<'_>,
    plan: &Plan<'_>,
    object: &Value,
    current: &Entry,
    old: &Value,
) -> Result<(), ApiError> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let known = old["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != known && writer.info.verb != "patch" {
        return Err(uid_conflict(writer, &plan.name, uid, known));
    }
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !matches!(version, "" | "0") && version != current.revision.to_string() {
        return Err(writer.conflict(&plan.name));
    }
    let foreign = writer.resource.is_foreign();
    let conditional = foreign || !writer.resource.strategy.unconditional_updates();
    let whole = plan.subresource != Some("scale");
    if version.is_empty() && conditional && whole && writer.info.verb == "update" {
        let cause = schema::Cause::invalid(
            "metadata.resourceVersion",
            &0.into(),
            "must be specified for an update",
        );
        return Err(ApiError::Invalid {
            kind: writer.resource.group_resource(),
            name: plan.name.clone(),
            causes: vec![cause.into()],
        });
    }
    Ok(())
}

/// The refusal of a write that means an earlier namesake.
pub(super) fn uid_conflict(writer: &Writer<'_>, name: &str, uid: &str, known: &str) -> ApiError {
    let resource = writer.resource;
    let folder = upstream_folder(&resource.name);
    // What only looks, as a dry run, looks below the root.
    let root = if writer.options.dry_run { "" } else { "/registry" };
    let key = [folder, writer.namespace(), name].into_iter().filter(|p| !p.is_empty());
    let key = key.collect::<Vec<_>>().join("/");
    ApiError::Conflict {
        resource: resource.group_resource(),
        name: name.to_owned(),
        message: format!(
            "StorageError: invalid object, Code: 4, Key: {root}/{key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {known}"
        ),
    }
}

/// Where upstream stores the objects of a type.
///
/// Source: `SpecialDefaultResourcePrefixes` in upstream's `pkg/kubeapiserver`, and the registries of its types.
fn upstream_folder(resource: &str) -> &str {
    match resource {
        "replicationcontrollers" => "controllers",
        "endpoints" => "services/endpoints",
        "services" => "services/specs",
        "nodes" => "minions",
        "ingresses" => "ingress",
        other => other,
    }
}

async fn replace(
    writer: &mut Writer<'_>,
    plan: &Plan<'_>,
    mut object: Value,
    old: &Value,
    current: &Entry,
) -> Result<Outcome<Bytes>, ApiError> {
    let resource = writer.resource;
    let uid_given = object["metadata"]["uid"].clone();
    meta::prepare_update(&mut object, old);
    if writer.info.verb == "patch" && uid_given.as_str().is_some_and(|u| !u.is_empty()) {
        metadata(&mut object).insert("uid".to_owned(), uid_given);
    }
    // What a default depends on is what was sent, even where this kind of update does not take it.
    writer.default(&mut object);
    resource.strategy.inherit(&mut object);
    isolate(writer, plan.subresource, &mut object, old);
    if writer.info.verb == "update" {
        meta::dedup_owners(writer, &mut object, "");
    }
    if let Some(agent) = plan.agent {
        meta::track(writer, Some(old), &mut object, agent);
    }
    plan.admit(writer, &mut object, old).await?;
    meta::dedup_owners(writer, &mut object, meta::AFTER_ADMISSION);
    remove_new(&mut object, Some(old), resource.strategy.refused_fields());
    resource.strategy.prepare_update(&writer.ctx(), &mut object, old, plan.subresource)?;
    // A pod's node is set once, and is no change of what was asked for.
    let counted = plan.subresource != Some("binding");
    if counted && counts(writer) && changed(resource, &object, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        metadata(&mut object).insert("generation".to_owned(), generation.into());
    }
    writer.validate(&object, Some(old), plan.subresource)?;
    plan.validate(writer, &object, old).await?;
    // A Scale of one of upstream's own types is written as the whole object.
    let is_scale = plan.subresource == Some("scale") && !resource.is_foreign();
    if plan.subresource.is_none() || is_scale {
        writer.warnings.extend(resource.strategy.warnings(&object, Some(old)));
        writer.warnings.extend(meta::warnings(resource, &object, Some(old)));
    }
    if super::delete::is_released(resource, &object) {
        return remove(writer, plan, &object, current).await;
    }
    resource.strategy.inherit(&mut object);
    let stored = writer.encode(&object).await?;
    if stored == current.value {
        return Ok(Outcome::Unchanged(text::with_version(&stored, current.revision)));
    }
    if !writer.options.dry_run
        && !resource.strategy.claim(&writer.ctx(), &object, Some(old)).await?
    {
        return Ok(Outcome::Stale(Some(current.clone())));
    }
    let outcome = writer.commit(&plan.name, Expect::At(current.revision), stored).await;
    let (gone, kept) = if outcome.is_ok() { (old, &object) } else { (&object, old) };
    resource.strategy.release(&writer.ctx(), gone, Some(kept)).await;
    match outcome {
        Ok(json) => Ok(Outcome::Written(json)),
        Err(store::Error::Conflict { current, .. }) => Ok(Outcome::Stale(current)),
        Err(other) => Err(other.into()),
    }
}

/// The last finalizer of a deleted object is gone, and so is the object.
async fn remove(
    writer: &Writer<'_>,
    plan: &Plan<'_>,
    object: &Value,
    current: &Entry,
) -> Result<Outcome<Bytes>, ApiError> {
    let stored = writer.encode(object).await?;
    match super::delete::commit(writer, &plan.name, current.revision, object).await {
        Ok(revision) => Ok(Outcome::Written(text::with_version(&stored, revision))),
        Err(store::Error::Conflict { current, .. }) => Ok(Outcome::Stale(current)),
        Err(other) => Err(other.into()),
    }
}

/// Keeps each write to its part: the object without its status, or the status alone.
fn isolate(writer: &Writer<'_>, subresource: Option<&str>, object: &mut Value, old: &Value) {
    let resource = writer.resource;
    match subresource {
        None if resource.subresources.contains_key("status") => copy(object, old, "status"),
        Some("status") => {
            let kept = |key: &str| matches!(key, "status" | "kind" | "apiVersion" | "metadata");
            for (key, _) in old.as_object().into_iter().flatten().filter(|(key, _)| !kept(key)) {
                copy(object, old, key);
            }
            if let Some(object) = object.as_object_mut() {
                object.retain(|key, _| kept(key) || old.get(key).is_some());
            }
            for field in resource.strategy.kept_by_status() {
                copy(&mut object["metadata"], &old["metadata"], field);
            }
            if resource.is_foreign() {
                let version = object["metadata"]["resourceVersion"].clone();
                let managed = object["metadata"].get("managedFields").cloned();
                object["metadata"] = old["metadata"].clone();
                object["metadata"]["resourceVersion"] = version;
                if let Some(managed) = managed {
                    object["metadata"]["managedFields"] = managed;
                }
            }
        }
        _ => (),
    }
}

fn copy(object: &mut Value, old: &Value, key: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match old.get(key) {
        Some(value) if map.get(key) == Some(value) => None,
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

fn counts(writer: &Writer<'_>) -> bool {
    let foreign = writer.resource.is_foreign();
    writer.resource.strategy.counts_generation() || foreign
}

/// Whether anything but metadata (and the status, where it is a subresource) differs.
fn changed(resource: &crate::registry::Resource, object: &Value, old: &Value) -> bool {
    let with_status = !resource.subresources.contains_key("status");
    let counts = |key: &str| {
        !matches!(key, "metadata" | "kind" | "apiVersion") && (with_status || key != "status")
    };
    let (Some(new), Some(old)) = (object.as_object(), old.as_object()) else { return true };
    let differs = new.iter().any(|(key, value)| counts(key) && old.get(key) != Some(value));
    differs || old.keys().any(|key| counts(key) && !new.contains_key(key))
}
