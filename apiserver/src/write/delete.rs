//! DELETE and DELETECOLLECTION: at once, after a grace period, or when the finalizers are gone.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use schema::Schema;
use serde_json::{Value, json};
use store::{Entry, Expect, Revision};

use super::{ATTEMPTS, Outcome, Writer, answer, meta, metadata, told};
use crate::admission;
use crate::bytes as text;
use crate::crd::convert;
use crate::handlers::options::{ListOptions, WriteOptions, dry_run, invalid_options};
use crate::handlers::{Call, read, respond};
use crate::registry::Resource;
use crate::request::RequestInfo;
use crate::status::{ApiError, Details, GroupResource, Status, StatusCause};

/// What becomes of the objects that an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They lose their owner.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// Parameters of a deletion.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds that the client grants.
    pub grace_seconds: Option<i64>,
    /// Only an object with this uid.
    pub uid: Option<String>,
    /// Only this version of the object.
    pub resource_version: Option<String>,
    /// What becomes of owned objects.
    pub propagation: Option<Propagation>,
    /// Whether that is the type's default, and not the client's wish.
    pub by_default: bool,
    /// Everything happens but the store.
    pub dry_run: bool,
    /// The client wants in the old words that what the object owns goes too.
    pub cascades: bool,
}

impl DeleteOptions {
    /// Reads the body, or without one the query.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(call: &Call<'_>, body: &[u8]) -> Result<Self, ApiError> {
        let mut options = json!({});
        if !body.is_empty() {
            let format = super::decode::body_format(call.headers)?;
            options = super::decode::decode(body, format)
                .map_err(|fault| ApiError::BadRequest(super::decode::unreadable(format, fault)))?
                .value;
            if !options.is_object() && !options.is_null() {
                return Err(ApiError::BadRequest(format!(
                    "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                    schema::json::kind(&options)
                )));
            }
            let kind = options["kind"].as_str().unwrap_or("DeleteOptions");
            if kind != "DeleteOptions" && !kind.is_empty() {
                let version = options["apiVersion"].as_str().filter(|v| !v.is_empty());
                let version = version.unwrap_or("meta.k8s.io/v1");
                return Err(ApiError::BadRequest(format!(
                    "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\""
                )));
            }
        } else {
            if let Some(seconds) = call.query.integer("gracePeriodSeconds")? {
                options["gracePeriodSeconds"] = seconds.into();
            }
            if let Some(policy) = call.query.sent("propagationPolicy") {
                options["propagationPolicy"] = policy.into();
            }
            for field in ["uid", "resourceVersion"] {
                if let Some(value) = call.query.get(field) {
                    options["preconditions"][field] = value.into();
                }
            }
            if let Some(orphan) = call.query.flag("orphanDependents") {
                options["orphanDependents"] = orphan.into();
            }
        }
        // A body is all that counts; only without one the query is read.
        let values: Vec<&str> = match body.is_empty() {
            true => call.query.all("dryRun"),
            false => options["dryRun"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect(),
        };
        Self::from_value(&options, &values)
    }

    /// Reads `metav1.DeleteOptions`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_value(options: &Value, dry_runs: &[&str]) -> Result<Self, ApiError> {
        let mut causes = Vec::new();
        if let Some(schema) = Schema::for_gvk("", "v1", "DeleteOptions")
            && !options.is_null()
        {
            let read = schema.decode(&mut options.clone());
            read.map_err(|fault| ApiError::BadRequest(fault.to_string()))?;
        }
        let grace = options["gracePeriodSeconds"].as_i64();
        if let (Some(policy), true) =
            (options["propagationPolicy"].as_str(), options["orphanDependents"].is_boolean())
        {
            let text = format!(
                "Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set"
            );
            causes.push(StatusCause::new("FieldValueInvalid", "propagationPolicy", text));
        }
        let propagation = match (
            options["propagationPolicy"].as_str(),
            options["orphanDependents"].as_bool(),
        ) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None, None) => None,
            (Some(other), _) => {
                let text = format!(
                    "Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                );
                causes.push(StatusCause::new("FieldValueNotSupported", "propagationPolicy", text));
                None
            }
        };
        let dry_run = dry_run(dry_runs, &mut causes);
        if !causes.is_empty() {
            return Err(invalid_options("DeleteOptions", causes));
        }
        let precondition = |key: &str| options["preconditions"][key].as_str().map(str::to_owned);
        Ok(Self {
            grace_seconds: grace.map(|g| if g < 0 { 1 } else { g }),
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            propagation,
            by_default: false,
            dry_run,
            cascades: options["orphanDependents"] == json!(false),
        })
    }
}

/// What a deletion did.
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Bytes, Value),
    /// The object is marked, and goes when its node or its finalizers are done.
    Marked(Bytes),
}

/// Answers DELETE.
pub(super) async fn handle(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let options = DeleteOptions::parse(call, body)?;
    let mut writer =
        Writer::new(call, WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() });
    let mut options = options;
    writer.warnings.extend(orphan_by_default(call.resource, &mut options));
    let deleted = match delete(&mut writer, &call.info.name, &options).await {
        Ok(deleted) => deleted,
        Err(error) => return answer(call, &writer, StatusCode::OK, Err(error)),
    };
    let mut code = StatusCode::OK;
    let gone = match deleted {
        Deleted::Gone(json, _) if returns_object(call.resource) => json,
        Deleted::Marked(json) => {
            if options.cascades {
                code = StatusCode::ACCEPTED;
            }
            json
        }
        Deleted::Gone(_, object) => {
            let details = Details {
                name: call.info.name.clone(),
                group: call.resource.group.clone(),
                kind: call.resource.name.clone(),
                uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
                ..Details::default()
            };
            let status =
                serde_json::to_vec(&Status::success(details)).map_err(ApiError::internal)?;
            let mut response = respond::formatted(&call.output, StatusCode::OK, status.into());
            respond::warn(&mut response, &writer.warnings);
            return Ok(response);
        }
    };
    let gone = convert::present_one(call.resource, gone).await?;
    answer(call, &writer, code, Ok(gone))
}

/// Lets dependents live where the client says nothing of them and the type has it so; answers what it is told then.
fn orphan_by_default(resource: &Resource, options: &mut DeleteOptions) -> Option<String> {
    if options.propagation.is_some() || !resource.strategy.orphans_by_default() {
        return None;
    }
    options.propagation = Some(Propagation::Orphan);
    options.by_default = true;
    (resource.name == "jobs").then(|| CHILDREN_STAY.to_owned())
}

/// What clients are told who delete a job and do not say what becomes of its pods.
const CHILDREN_STAY: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// Types whose DELETE answers the object, where others answer a status.
///
/// Source: `ReturnDeletedObject` in upstream's stores.
pub(crate) fn returns_object(resource: &Resource) -> bool {
    let names: &[&str] = match resource.group.as_str() {
        "" => &[
            "pods",
            "services",
            "podtemplates",
            "persistentvolumes",
            "persistentvolumeclaims",
            "resourcequotas",
            "serviceaccounts",
        ],
        "resource.k8s.io" => {
            &["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"]
        }
        "storage.k8s.io" => &[
            "csidrivers",
            "csinodes",
            "storageclasses",
            "volumeattachments",
            "volumeattributesclasses",
        ],
        _ => &[],
    };
    names.contains(&resource.name.as_str())
}

/// Deletes an object, or begins to.
///
/// # Errors
/// Why it stays.
pub async fn delete(
    writer: &mut Writer<'_>,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, ApiError> {
    let mut found = writer.find(name).await?;
    for _ in 0..ATTEMPTS {
        let Some(current) = &found.entry else {
            return Err(writer.resource.not_found(name));
        };
        match attempt(writer, name, options, current).await {
            Ok(Outcome::Written(deleted)) => return Ok(deleted),
            Ok(Outcome::Stale(now)) => found = now.into(),
            _ if found.was_wrong(writer, name).await? => (),
            Ok(Outcome::Unchanged(deleted)) => return Ok(deleted),
            Err(error) => return Err(error),
        }
    }
    Err(writer.conflict(name))
}

async fn attempt(
    writer: &mut Writer<'_>,
    name: &str,
    options: &DeleteOptions,
    current: &Entry,
) -> Result<Outcome<Deleted>, ApiError> {
    let object = writer.parse(current).await?;
    preconditions(writer, name, options, &object)?;
    admission::delete(writer, name, options, &object).await?;
    let Some(marked) = mark(writer, options, &object)? else {
        // Nothing changes: it was marked before, and waits.
        let text = text::with_version(&current.value, current.revision);
        return Ok(Outcome::Unchanged(Deleted::Marked(text)));
    };
    if is_released(writer.resource, &marked) {
        // Types that answer the object show it as marked; the others never were.
        let last = if writer.resource.strategy.grace_seconds(&object, None).is_some() {
            &marked
        } else {
            &object
        };
        let stored = writer.encode(last).await?;
        return match commit(writer, name, current.revision, &object).await {
            Ok(revision) => {
                let text = text::with_version(&stored, revision);
                Ok(Outcome::Written(Deleted::Gone(text, object)))
            }
            Err(store::Error::Conflict { current, .. }) => Ok(Outcome::Stale(current)),
            Err(other) => Err(other.into()),
        };
    }
    let stored = writer.encode(&marked).await?;
    match writer.commit(name, Expect::At(current.revision), stored).await {
        Ok(json) => Ok(Outcome::Written(Deleted::Marked(json))),
        Err(store::Error::Conflict { current, .. }) => Ok(Outcome::Stale(current)),
        Err(other) => Err(other.into()),
    }
}

/// Removes an object from the store, and gives back what it held.
pub(super) async fn commit(
    writer: &Writer<'_>,
    name: &str,
    at: Revision,
    object: &Value,
) -> Result<Revision, store::Error> {
    let Some(storage) = &writer.resource.storage else { return Err(store::Error::Closed) };
    if writer.options.dry_run {
        return Ok(at);
    }
    let key = storage.key(writer.namespace(), name);
    let gone = storage.commit(&key, Expect::At(at), None);
    let revision = writer.core.metrics.timed("delete", gone).await?;
    writer.resource.strategy.release(&writer.ctx(), object, None).await;
    writer.settle(revision).await;
    Ok(revision)
}

fn preconditions(
    writer: &Writer<'_>,
    name: &str,
    options: &DeleteOptions,
    object: &Value,
) -> Result<(), ApiError> {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let resource = writer.resource;
    if is_namespace(resource) {
        return namespace_preconditions(writer, name, options, object);
    }
    // Events of both groups are one type, which is the core's.
    let group = if resource.kind == "Event" { "" } else { &*resource.group };
    let conflict = |message: String| ApiError::Conflict {
        resource: GroupResource::new(group, &*resource.kind),
        name: name.to_owned(),
        message,
    };
    if let Some(uid) = options.uid.as_deref().filter(|u| *u != text("uid")) {
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            text("uid")
        )));
    }
    if let Some(version) =
        options.resource_version.as_deref().filter(|v| *v != text("resourceVersion"))
    {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            text("resourceVersion")
        )));
    }
    Ok(())
}

fn is_namespace(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.name == "namespaces"
}

fn is_definition(resource: &Resource) -> bool {
    resource.group == "apiextensions.k8s.io" && resource.name == "customresourcedefinitions"
}

/// Namespaces are compared in a place, and words, of their own.
fn namespace_preconditions(
    writer: &Writer<'_>,
    name: &str,
    options: &DeleteOptions,
    object: &Value,
) -> Result<(), ApiError> {
    let wanted = [
        ("UID", &options.uid, &object["metadata"]["uid"]),
        ("ResourceVersion", &options.resource_version, &object["metadata"]["resourceVersion"]),
    ];
    for (what, wanted, found) in wanted {
        let found = found.as_str().unwrap_or_default();
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            return Err(ApiError::Conflict {
                resource: writer.resource.group_resource(),
                name: name.to_owned(),
                message: format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                ),
            });
        }
    }
    Ok(())
}

/// The object with its marks of deletion; `None` if they are there already.
fn mark(
    writer: &Writer<'_>,
    options: &DeleteOptions,
    object: &Value,
) -> Result<Option<Value>, ApiError> {
    let strategy = &writer.resource.strategy;
    let grace = strategy.grace_seconds(object, options.grace_seconds);
    let seconds = grace.unwrap_or(0);
    let mut marked = object.clone();
    let before = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let deleting = !object["metadata"]["deletionTimestamp"].is_null();
    let propagation = propagation(writer.resource, options, object);
    let finalizers = finalizers(object, propagation);
    let meta = metadata(&mut marked);
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), json!(finalizers));
    }
    if !deleting {
        meta.insert("deletionTimestamp".to_owned(), meta::after(seconds).into());
    }
    if !deleting && !strategy.deletes_plainly() {
        meta.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
        if let Some(generation) = object["metadata"]["generation"].as_i64() {
            meta.insert("generation".to_owned(), (generation + 1).into());
        }
    }
    // A second deletion can only shorten the grace, and only in so many words.
    let asked = options.grace_seconds;
    if let Some(asked) = asked.filter(|asked| deleting && before.is_some_and(|b| *asked < b)) {
        meta.insert("deletionTimestamp".to_owned(), meta::after(asked).into());
        meta.insert("deletionGracePeriodSeconds".to_owned(), asked.into());
    }
    strategy.prepare_delete(&writer.ctx(), &mut marked)?;
    let waits = deleting && marked == *object && !is_released(writer.resource, &marked);
    Ok((!waits).then_some(marked))
}

/// What is to become of dependents, where the type can do anything for them.
fn propagation(
    resource: &Resource,
    options: &DeleteOptions,
    object: &Value,
) -> Option<Propagation> {
    let deleting = !object["metadata"]["deletionTimestamp"].is_null();
    let finalizers = object["metadata"]["finalizers"].as_array();
    let is_foreground = |list: &Vec<Value>| list.iter().any(|f| f == "foregroundDeletion");
    match options.propagation {
        _ if !resource.strategy.is_collected() => None,
        // What an earlier deletion wished for outweighs the default.
        _ if options.by_default && finalizers.is_some_and(is_foreground) => None,
        // A definition is only marked at first, whatever is wished for.
        _ if is_definition(resource) && !deleting => None,
        // A namespace is marked once, and takes the old words for another wish.
        _ if is_namespace(resource) && deleting => None,
        _ if is_namespace(resource) && options.cascades => Some(Propagation::Foreground),
        wish => wish,
    }
}

/// Finalizers after the wish for propagation; a new wish replaces an old one.
fn finalizers(object: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let entries = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    let mut list: Vec<String> = entries.filter_map(|f| f.as_str().map(str::to_owned)).collect();
    if let Some(propagation) = propagation {
        list.retain(|f| f != "orphan" && f != "foregroundDeletion");
        match propagation {
            Propagation::Orphan => list.push("orphan".to_owned()),
            Propagation::Foreground => list.push("foregroundDeletion".to_owned()),
            Propagation::Background => (),
        }
    }
    list
}

/// Whether an object is marked as deleted and nothing holds it any more.
pub(super) fn is_released(resource: &Resource, object: &Value) -> bool {
    let meta = &object["metadata"];
    !meta["deletionTimestamp"].is_null()
        && meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && meta["finalizers"].as_array().is_none_or(Vec::is_empty)
        && !resource.strategy.holds(object)
}

/// Answers DELETECOLLECTION: every chosen object goes through DELETE; the answer lists them.
pub(super) async fn collection(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let mut options = DeleteOptions::parse(call, body)?;
    let warning = orphan_by_default(call.resource, &mut options);
    let mut list = ListOptions::parse(&call.query, false)?;
    read::fit_fields(call.resource, &mut list)?;
    let cache = call.resource.storage()?.cache().await?;
    let asked = list.limit;
    // Upstream lists in pages, for which a version is exact.
    list.limit = list.limit.max(1);
    let state = read::state(call, &list, cache).await?;
    list.limit = asked;
    let (chosen, page) = read::choose_page(call.resource, &list, &state).await?;
    for object in &chosen {
        let info = RequestInfo {
            name: object.name().to_owned(),
            namespace: object.namespace().unwrap_or_default().to_owned(),
            ..call.info.clone()
        };
        let options_of_write = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
        let mut writer = Writer { info: &info, ..Writer::new(call, options_of_write) };
        match delete(&mut writer, object.name(), &options).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => (),
            Err(other) => return Err(other),
        }
    }
    let done = read::answer_page(call, state.snapshot.revision(), &chosen, &page);
    told(call, warning.as_slice(), done)
}
