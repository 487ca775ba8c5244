//! PATCH: JSON patch, merge patch, strategic merge patch and apply.

use axum::response::Response;
use http::StatusCode;
use schema::patch::PatchError;
use schema::{Cause, Schema};
use serde_json::Value;

use super::kind::{SCHEME, unregistered};
use super::update::{Change, Plan, fit_name, nameless, update};
use super::{Writer, answer, decode, meta};
use crate::handlers::Call;
use crate::handlers::options::{WriteOptions, invalid_options};
use crate::registry::Resource;
use crate::status::{ApiError, GroupResource, StatusCause};

/// The four languages of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Language {
    pub(super) fn of(call: &Call<'_>) -> Result<Self, ApiError> {
        let strategic = !call.resource.is_foreign();
        match decode::media_type(call.headers).as_str() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if strategic => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ if strategic => Err(ApiError::UnsupportedPatch),
            _ => Err(ApiError::UnsupportedMediaType(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml".to_owned(),
            )),
        }
    }
}

/// Answers PATCH.
pub(super) async fn handle(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let language = Language::of(call)?;
    let options = WriteOptions::parse(&call.query, call.method)?;
    check_options(language, &options)?;
    let mut writer = Writer::new(call, options);
    let subresource = (!call.info.subresource.is_empty()).then_some(call.info.subresource.as_str());
    if language == Language::Apply {
        return super::apply::handle(call, writer, body, subresource).await;
    }
    let agent = meta::agent(call.headers);
    let plan = Plan::new(&call.info.name, subresource, Some(&agent));
    let patched = update(&mut writer, &plan, |writer, old| {
        let mut object = patched(writer, language, body, old)?;
        fit(writer, &plan.name, &mut object)?;
        Ok(Change::To(object))
    })
    .await;
    answer(call, &writer, StatusCode::OK, patched)
}

pub(super) fn check_options(language: Language, options: &WriteOptions) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    if language == Language::Apply {
        if options.field_manager.is_empty() {
            let text = "Required value: is required for apply patch".to_owned();
            causes.push(StatusCause::new("FieldValueRequired", "fieldManager", text));
        }
    } else if options.force.is_some() {
        let text = "Forbidden: may not be specified for non-apply patch".to_owned();
        causes.push(StatusCause::new("FieldValueForbidden", "force", text));
    }
    if causes.is_empty() { Ok(()) } else { Err(invalid_options("PatchOptions", causes)) }
}

/// What a fault of the patch engines is for clients.
pub(super) fn engine_fault(fault: PatchError, shown: &str) -> ApiError {
    match fault {
        PatchError::Decode(_) | PatchError::Format(_) => ApiError::BadRequest(fault.to_string()),
        PatchError::TooManyOperations(_) => {
            ApiError::TooLarge(format!("Request entity too large: {fault}"))
        }
        PatchError::Unprocessable => ApiError::PatchFailed,
        PatchError::Strategic(text) => ApiError::Unknown(text),
        PatchError::Restore(text) => not_a_result(shown, &text),
    }
}

/// The refusal of a patch whose result is no object of the type.
pub(super) fn not_a_result(shown: &str, fault: &str) -> ApiError {
    ApiError::Invalid {
        kind: GroupResource::new("", ""),
        name: String::new(),
        causes: vec![StatusCause::new(
            "FieldValueInvalid",
            "patch",
            format!("Invalid value: {shown:?}: {fault}"),
        )],
    }
}

/// The object after the patch, decoded again.
pub(super) fn patched(
    writer: &mut Writer<'_>,
    language: Language,
    patch: &[u8],
    old: &Value,
) -> Result<Value, ApiError> {
    let schema = writer.resource.schema.get().cloned();
    let schema = schema.as_deref();
    let shown = || shown(schema, language, patch, old);
    let mut object = merged(schema, language, patch, old)?;
    if language == Language::Strategic {
        // What it makes is taken for the type, whatever it says.
        object["kind"] = writer.resource.kind.clone().into();
        object["apiVersion"] = writer.resource.api_version().into();
    } else if object["kind"].as_str().unwrap_or_default().is_empty() {
        if writer.resource.is_foreign() {
            let fault = format!("Object 'Kind' is missing in '{object}'");
            return Err(not_a_result(&shown(), &fault));
        }
        object["kind"] = writer.resource.kind.clone().into();
    }
    if object["apiVersion"].as_str().unwrap_or_default().is_empty() && !writer.resource.is_foreign()
    {
        return Err(versionless(writer, &object, &shown()));
    }
    if writer.resource.is_foreign() {
        keep_kind(writer, &mut object)?;
    } else {
        check_kind(writer, &object).map_err(|fault| not_a_result(&shown(), &fault))?;
    }
    let Some(schema) = schema else { return Ok(object) };
    meta::mark_reset(&mut object);
    let unknown = match language {
        Language::Strategic => schema.convert(&mut object),
        _ => schema.decode(&mut object),
    };
    let unknown = unknown.map_err(|fault| not_a_result(&shown(), &fault.to_string()))?;
    let twice = match language {
        Language::Merge | Language::Strategic => schema::patch::duplicates(patch),
        Language::Json | Language::Apply => Vec::new(),
    };
    let twice = twice.iter().map(|path| decode::duplicate_field(path));
    let unknown = if writer.resource.is_foreign() { super::sorted(unknown) } else { unknown };
    let unknown = unknown.iter().map(|path| decode::unknown_field(path));
    let complaints: Vec<String> = twice.chain(unknown).collect();
    writer.complain(complaints).map_err(|fault| not_a_result(&shown(), &fault))?;
    Ok(object)
}

/// The object as the patch alone makes it.
pub(super) fn merged(
    schema: Option<&Schema>,
    language: Language,
    patch: &[u8],
    old: &Value,
) -> Result<Value, ApiError> {
    let mut object = old.clone();
    match language {
        Language::Json => schema::patch::json(&mut object, patch),
        Language::Merge => schema::patch::merge(&mut object, patch),
        Language::Strategic | Language::Apply => {
            let schema = schema.ok_or(ApiError::MethodNotAllowed)?;
            let patch = schema::patch::object(patch).map_err(|fault| match fault {
                schema::patch::PatchError::Decode(text) => schema::patch::PatchError::Format(text),
                other => other,
            });
            patch.and_then(|patch| schema.strategic_merge(&mut object, &patch))
        }
    }
    .map_err(|fault| engine_fault(fault, &shown_patch(language, patch)))?;
    check_root(&object)?;
    if object["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] {
        // The patch does not insist on a version, so that it can be tried again.
        super::metadata(&mut object).remove("resourceVersion");
    }
    Ok(object)
}

/// Refuses a patch that leaves no object.
fn check_root(object: &Value) -> Result<(), ApiError> {
    match object {
        Value::Object(_) => Ok(()),
        Value::Array(_) => Err(not_a_result(
            &object.to_string(),
            "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }",
        )),
        _ => Err(ApiError::PatchFailed),
    }
}

/// What a refusal shows of a patch that could be read: itself, or what it made.
fn shown(schema: Option<&Schema>, language: Language, patch: &[u8], old: &Value) -> String {
    match language {
        Language::Strategic | Language::Apply => shown_patch(language, patch),
        // Made once more, since decoding changed the first.
        Language::Json | Language::Merge => merged(schema, language, patch, old)
            .map(|object| object.to_string())
            .unwrap_or_default(),
    }
}

fn shown_patch(language: Language, patch: &[u8]) -> String {
    match language {
        Language::Strategic | Language::Apply => schema::patch::object(patch)
            .map(|patch| schema::print::plain(&Value::Object(patch)))
            .unwrap_or_default(),
        Language::Json | Language::Merge => String::from_utf8_lossy(patch).into_owned(),
    }
}

/// A custom object keeps its kind and version; a patch of a subresource does not even change them.
///
/// Source: `typeMetaValidator` in upstream's `apiextensions-apiserver/pkg/registry/customresource/validator.go`.
fn keep_kind(writer: &Writer<'_>, object: &mut Value) -> Result<(), ApiError> {
    let resource = writer.resource;
    let mut causes = Vec::new();
    let said = object["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    let group = said.map_or("", |(group, _)| group);
    let said = GroupResource::new(group, object["kind"].as_str().unwrap_or_default());
    for (field, wanted) in [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())]
    {
        if object[field] != *wanted && writer.info.subresource.is_empty() {
            let cause = Cause::invalid(field, &object[field], &format!("must be {wanted}"));
            causes.push(cause.into());
        }
        object[field] = wanted.into();
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid { kind: said, name: writer.info.name.clone(), causes })
}

/// The refusal of a result without a version, which upstream takes for its internal one. Fields have
/// other names there, so that nothing of the object is known, least of all its name.
fn versionless(writer: &mut Writer<'_>, object: &Value, shown: &str) -> ApiError {
    let resource = writer.resource;
    let kind = object["kind"].as_str().unwrap_or_default();
    if kind != resource.kind {
        let fault = match Schema::for_gvk(&resource.group, &resource.version, kind) {
            Some(_) => unconverted(resource, (package(resource), kind)),
            None => format!(
                "no kind \"{kind}\" is registered for the internal version of group \"{}\" in scheme \"{SCHEME}\"",
                resource.group
            ),
        };
        return not_a_result(shown, &fault);
    }
    let fields = object.as_object().into_iter().flat_map(|map| map.keys());
    let mut unknown: Vec<&String> =
        fields.filter(|name| !matches!(name.as_str(), "kind" | "apiVersion")).collect();
    unknown.sort();
    let complaints = unknown.into_iter().map(|name| decode::unknown_field(name)).collect();
    match writer.complain(complaints) {
        Err(fault) => not_a_result(shown, &fault),
        Ok(()) => nameless(&writer.info.name),
    }
}

fn package(resource: &Resource) -> &str {
    match resource.group.split('.').next() {
        None | Some("") => "core",
        Some(package) => package,
    }
}

fn unconverted(resource: &Resource, (version, kind): (&str, &str)) -> String {
    let (package, wanted) = (package(resource), &resource.kind);
    format!("converting ({version}.{kind}) to ({package}.{wanted}): unknown conversion")
}

/// Refuses a patch that makes an object of another kind.
///
/// Upstream decodes the result as what it says it is before converting it, so a fault of the other kind comes first.
fn check_kind(writer: &Writer<'_>, object: &Value) -> Result<(), String> {
    let resource = writer.resource;
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    if kind == resource.kind && api_version == resource.api_version() {
        return Ok(());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let other = Schema::for_gvk(group, version, kind).filter(|_| resource.custom.is_none());
    let Some(other) = other else {
        return Err(unregistered(kind, api_version));
    };
    other.decode(&mut object.clone()).map_err(|fault| fault.to_string())?;
    Err(unconverted(resource, (version, kind)))
}

/// A patch cannot rename or move an object.
pub(super) fn fit(writer: &Writer<'_>, name: &str, object: &mut Value) -> Result<(), ApiError> {
    meta::fit_namespace(writer, object)?;
    fit_name(name, object)
}
