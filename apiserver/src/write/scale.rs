//! The scale subresource: one small object over the replicas of any type.

use axum::response::Response;
use http::StatusCode;
use schema::{Schema, apply};
use serde_json::{Value, json};

use super::kind::{Part, unhandled, unregistered};
use super::patch::Language;
use super::update::{Change, Plan, fit_name, update};
use super::{Writer, decode, meta, patch, told};
use crate::handlers::negotiate::Shape;
use crate::handlers::options::WriteOptions;
use crate::handlers::{Call, read, respond};
use crate::registry::{Resource, ScalePaths};
use crate::status::{ApiError, GroupResource};
use crate::table;

/// Answers GET, PUT and PATCH of `…/scale`.
pub(super) async fn handle(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let paths = paths(call.resource).ok_or(ApiError::NoResource)?;
    if call.info.verb == "get" {
        let object: Value =
            serde_json::from_slice(&read::get_json(call).await?).map_err(ApiError::internal)?;
        if call.resource.is_foreign() && at(&object, &paths.spec_replicas).is_none() {
            let path = paths.spec_replicas.join(".");
            let fault = format!("the spec replicas field \".{path}\" does not exist");
            return Err(ApiError::Internal(fault));
        }
        return answer(call, &paths, &object);
    }
    let options = WriteOptions::parse(&call.query, call.method)?;
    let mut writer = Writer::new(call, options);
    let manager = writer.manager(&meta::agent(call.headers));
    let plan = Plan { scale: Some(&paths), ..Plan::new(&call.info.name, Some("scale"), None) };
    let wanted = match Wanted::parse(call, &mut writer, body) {
        Ok(wanted) => wanted,
        Err(refusal) => return told(call, &writer.warnings, Err(refusal)),
    };
    let updated = update(&mut writer, &plan, |writer, old| {
        let mut before = scale(call.resource, &paths, old);
        before["metadata"]["managedFields"] = apply::scale_owners(old, &paths.spec_replicas);
        let force = writer.options.force.unwrap_or(false);
        let scale = wanted.over(writer, &before, &manager, force)?;
        if !wanted.is_whole() {
            check_uid(call.resource, &plan.name, &scale, old)?;
        }
        let replicas = check(call.resource, &plan.name, &scale, wanted.is_whole())?;
        let mut object = old.clone();
        put(&mut object, &paths.spec_replicas, replicas.into());
        let version = call.resource.api_version();
        apply::take_scale_owners(&mut object, &scale, &paths.spec_replicas, &version);
        object["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
        if let Some(uid) = scale["metadata"]["uid"].as_str().filter(|u| !u.is_empty()) {
            object["metadata"]["uid"] = uid.into();
        }
        if wanted.is_whole()
            && scale["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty)
        {
            object["metadata"]["resourceVersion"] = Value::Null;
        }
        Ok(Change::To(object))
    })
    .await;
    let done = updated.and_then(|updated| {
        let object: Value = serde_json::from_slice(&updated).map_err(ApiError::internal)?;
        answer(call, &paths, &object)
    });
    told(call, &writer.warnings, done)
}

/// Where the resource keeps its replicas.
fn paths(resource: &Resource) -> Option<ScalePaths> {
    if let Some(custom) = &resource.custom {
        return custom.scale.clone();
    }
    let path = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    (resource.name == "replicationcontrollers").then(|| ScalePaths {
        spec_replicas: path(["spec", "replicas"]),
        status_replicas: path(["status", "replicas"]),
        label_selector: None,
    })
}

enum Wanted<'b> {
    Whole(Value),
    Patch(Language, &'b [u8]),
    Apply(super::apply::Config),
}

impl<'b> Wanted<'b> {
    fn parse(call: &Call<'_>, writer: &mut Writer<'_>, body: &'b [u8]) -> Result<Self, ApiError> {
        if call.info.verb == "patch" {
            let language = Language::of(call)?;
            patch::check_options(language, &writer.options)?;
            return Ok(match language {
                Language::Apply => {
                    let kind = (schema::apply::SCALE_VERSION, "Scale");
                    Self::Apply(super::apply::parse(body, kind)?)
                }
                other => Self::Patch(other, body),
            });
        }
        let format = decode::body_format(call.headers)?;
        let mut scale = if call.resource.is_foreign() {
            let decoded = decode::decode(body, format).map_err(|e| {
                ApiError::BadRequest(format!("couldn't get version/kind; json parse error: {e}"))
            })?;
            check_kind(&decoded.value)?;
            decoded.value
        } else {
            writer.decode_part(&Part::SCALE, body, format)?
        };
        meta::fit_namespace(writer, &mut scale)?;
        fit_name(&call.info.name, &scale)?;
        Ok(Self::Whole(scale))
    }

    fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    fn over(
        &self,
        writer: &mut Writer<'_>,
        current: &Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, ApiError> {
        let schema = Part::SCALE.schema().ok_or(ApiError::NoResource)?;
        let who = apply::Writer {
            manager,
            api_version: apply::SCALE_VERSION,
            subresource: "scale",
            time: "",
        };
        let mut scale = match self {
            Self::Apply(config) => {
                let applied = schema.apply(Some(current), &config.value, &who, force, &[]);
                let mut scale = applied.map_err(super::apply::refused)?;
                config.complain(writer)?;
                // Only a version that the client named guards the object.
                scale["metadata"]["resourceVersion"] =
                    config.value["metadata"]["resourceVersion"].clone();
                return Ok(scale);
            }
            Self::Whole(scale) => scale.clone(),
            Self::Patch(language, text) => {
                let mut scale = patch::merged(Some(&schema), *language, text, current)?;
                if !writer.resource.is_foreign() {
                    decode_patched(writer, &schema, &mut scale)?;
                    let name = writer.info.name.clone();
                    patch::fit(writer, &name, &mut scale)?;
                }
                scale
            }
        };
        schema.track_update(Some(current), &mut scale, &who);
        Ok(scale)
    }
}

/// Reads what a patch made of a Scale.
fn decode_patched(
    writer: &mut Writer<'_>,
    schema: &Schema,
    scale: &mut Value,
) -> Result<(), ApiError> {
    let shown = scale.to_string();
    let refused = |fault: String| patch::not_a_result(&shown, &fault);
    Part::SCALE.check(&writer.core.registry(), scale).map_err(|(_, fault)| refused(fault))?;
    let unknown = schema.decode(scale).map_err(|fault| refused(fault.to_string()))?;
    let complaints = unknown.iter().map(|path| decode::unknown_field(path)).collect();
    writer.complain(complaints).map_err(refused)
}

/// Refuses a patch that means an earlier namesake.
fn check_uid(resource: &Resource, name: &str, scale: &Value, old: &Value) -> Result<(), ApiError> {
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let (wanted, found) = (uid(scale), uid(old));
    if wanted.is_empty() || wanted == found || resource.is_foreign() {
        return Ok(());
    }
    Err(ApiError::Conflict {
        resource: GroupResource::new(&*resource.group, format!("{}/scale", resource.name)),
        name: name.to_owned(),
        message: format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        ),
    })
}

/// Kind and version may be left out, but must not be others.
fn check_kind(scale: &Value) -> Result<(), ApiError> {
    let said = |key: &str| scale[key].as_str().unwrap_or_default();
    let (kind, version) = (said("kind"), said("apiVersion"));
    let wanted = apply::SCALE_VERSION;
    if !matches!(kind, "" | "Scale") {
        return Err(unhandled((kind, "v1"), "Scale", &unregistered(kind, wanted)));
    }
    if !version.is_empty() && version != wanted {
        return Err(ApiError::BadRequest(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    Ok(())
}

fn check(resource: &Resource, name: &str, scale: &Value, is_whole: bool) -> Result<i64, ApiError> {
    let invalid = |causes: Vec<schema::Cause>| ApiError::Invalid {
        kind: match resource.is_foreign() {
            true => resource.group_kind(),
            false => GroupResource::new("autoscaling", "Scale"),
        },
        name: name.to_owned(),
        causes: causes.into_iter().map(Into::into).collect(),
    };
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        Value::Number(n) if n.as_i64().is_some() => n.as_i64().unwrap_or_default(),
        other => {
            let fault = format!(
                "json: cannot unmarshal {} into Go struct field ScaleSpec.spec.replicas of type int32",
                schema::json::kind(other)
            );
            if !is_whole {
                return Err(patch::not_a_result(&scale.to_string(), &fault));
            }
            return Err(unhandled(("Scale", "v1"), "Scale", &fault));
        }
    };
    let mut causes = match resource.is_foreign() {
        true => Vec::new(),
        false => meta::of_embedded(&scale["metadata"]),
    };
    if replicas < 0 {
        let (field, fault) = match resource.is_foreign() {
            true => (".spec.replicas", "should be a non-negative integer"),
            false => ("spec.replicas", "must be greater than or equal to 0"),
        };
        causes.push(schema::Cause::invalid(field, &replicas.into(), fault));
    }
    if causes.is_empty() { Ok(replicas) } else { Err(invalid(causes)) }
}

/// The Scale of an object, as admission sees it.
pub(super) fn show(writer: &Writer<'_>, paths: &ScalePaths, object: &Value) -> Value {
    scale(writer.resource, paths, object)
}

/// Takes over what admission made of a Scale.
pub(super) fn take(
    (resource, name): (&Resource, &str),
    paths: &ScalePaths,
    shown: &Value,
    object: &mut Value,
) -> Result<(), ApiError> {
    put(object, &paths.spec_replicas, check(resource, name, shown, true)?.into());
    Ok(())
}

/// The Scale that an object shows.
fn scale(resource: &Resource, paths: &ScalePaths, object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut out = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {}, "spec": {}, "status": {}});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta[key].is_null() {
            out["metadata"][key] = meta[key].clone();
        }
    }
    let number = |path: &[String]| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let wanted = number(&paths.spec_replicas);
    if wanted != 0 {
        out["spec"]["replicas"] = wanted.into();
    }
    out["status"]["replicas"] = number(&paths.status_replicas).into();
    if let Some(selector) = selector(resource, paths, object) {
        out["status"]["selector"] = selector.into();
    }
    out
}

fn selector(resource: &Resource, paths: &ScalePaths, object: &Value) -> Option<String> {
    if let Some(path) = &paths.label_selector
        && let Some(text) = at(object, path).and_then(Value::as_str)
    {
        return Some(text.to_owned());
    }
    let upstream = !resource.is_foreign();
    let selector = upstream.then(|| &object["spec"]["selector"])?;
    let text = selector_text(selector, resource.custom.is_none());
    (!text.is_empty()).then_some(text)
}

/// A label selector as text; `plain` is a map of labels, as replication controllers have it.
fn selector_text(selector: &Value, plain: bool) -> String {
    let labels = if plain { selector } else { &selector["matchLabels"] };
    let mut terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    for rule in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = rule["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> =
            rule["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        terms.push(match rule["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    terms.sort();
    terms.join(",")
}

fn at<'v>(object: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

fn put(object: &mut Value, path: &[String], value: Value) {
    let mut place = object;
    for key in path {
        place = &mut place[key.as_str()];
    }
    *place = value;
}

fn answer(call: &Call<'_>, paths: &ScalePaths, object: &Value) -> Result<Response, ApiError> {
    let scale = scale(call.resource, paths, object);
    let body = match &call.output.shape {
        Shape::Table(version) if !call.resource.is_foreign() => {
            table::render_scale(scale, respond::include_object(&call.query)?, version)
        }
        Shape::Metadata(version) if !call.resource.is_foreign() => {
            respond::partial(call.resource, version, &scale.to_string().into())
        }
        _ => scale.to_string().into(),
    };
    Ok(respond::formatted(&call.output, StatusCode::OK, body))
}
