//! Server-side apply: the client says what it wants, the server knows who wants what.

use axum::response::Response;
use http::StatusCode;
use schema::apply::ApplyError;
use serde_json::{Value, json};

use super::update::{Change, Plan, update_found};
use super::{Writer, answer, create, decode, meta, patch};
use crate::handlers::Call;
use crate::handlers::options::FieldValidation;
use crate::status::{ApiError, StatusCause};

/// Answers an apply: creates the object, or merges into it.
pub(super) async fn handle(
    call: &Call<'_>,
    mut writer: Writer<'_>,
    body: &[u8],
    subresource: Option<&str>,
) -> Result<Response, ApiError> {
    let api_version = call.resource.api_version();
    let config = parse(body, (&api_version, &call.resource.kind))?;
    let name = &call.info.name;
    let plan = Plan::new(name, subresource, None);
    // The object may come or go between two attempts; whoever goes on for long is unlucky.
    for _ in 0..3 {
        let found = writer.find(name).await?;
        if found.entry.is_none() {
            if subresource.is_some() {
                return Err(call.resource.not_found(name));
            }
            no_uid(&writer, name, &config.value)?;
            let object = merged(&mut writer, None, &config, &plan)?;
            match create(&mut writer, object, None).await {
                Err(ApiError::AlreadyExists { .. }) => continue,
                created => return answer(call, &writer, StatusCode::CREATED, created),
            }
        }
        let applied = update_found(&mut writer, &plan, found, |writer, old| {
            Ok(Change::To(merged(writer, Some(old), &config, &plan)?))
        });
        match applied.await {
            Err(ApiError::NotFound { .. }) => (),
            applied => return answer(call, &writer, StatusCode::OK, applied),
        }
    }
    Err(writer.conflict(name))
}

/// What a client sends to apply.
pub(super) struct Config {
    pub(super) value: Value,
    /// Keys that come twice.
    complaints: Vec<String>,
}

impl Config {
    /// Warns of what is wrong with the text, or refuses it; once it could be applied, as upstream does it.
    pub(super) fn complain(&self, writer: &mut Writer<'_>) -> Result<(), ApiError> {
        match writer.options.field_validation {
            _ if self.complaints.is_empty() => Ok(()),
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                writer.warnings.extend(self.complaints.iter().cloned());
                Ok(())
            }
            FieldValidation::Strict => {
                let fault = decode::yaml_complaints(&self.complaints);
                let fault =
                    format!("error strict decoding YAML: error converting YAML to JSON: {fault}");
                Err(ApiError::BadRequest(fault))
            }
        }
    }
}

/// The configuration, which must say that it is of this version and kind.
pub(super) fn parse(body: &[u8], (api_version, kind): (&str, &str)) -> Result<Config, ApiError> {
    let undecodable = |fault| ApiError::BadRequest(format!("error decoding YAML: {fault}"));
    let decoded = decode::decode(body, decode::BodyFormat::Yaml)
        .map_err(|fault| undecodable(format!("error converting YAML to JSON: {fault}")))?;
    let config = match decoded.value {
        Value::Null => json!({}),
        config @ Value::Object(_) => config,
        other => {
            return Err(undecodable(format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                schema::json::kind(&other)
            )));
        }
    };
    let said = |key: &str| config[key].as_str().unwrap_or_default();
    if (said("apiVersion"), said("kind")) != (api_version, kind) {
        let fault = format!("invalid object type: {}", schema::apply::shown_kind(&config));
        return Err(ApiError::BadRequest(fault));
    }
    Ok(Config { value: config, complaints: decoded.complaints })
}

/// An apply that means a certain object does not make another one.
fn no_uid(writer: &Writer<'_>, name: &str, config: &Value) -> Result<(), ApiError> {
    let Some(uid) = config["metadata"]["uid"].as_str().filter(|u| !u.is_empty()) else {
        return Ok(());
    };
    Err(ApiError::Conflict {
        resource: writer.resource.group_resource(),
        name: name.to_owned(),
        message: format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        ),
    })
}

/// The object with the configuration merged into it.
fn merged(
    writer: &mut Writer<'_>,
    old: Option<&Value>,
    applied: &Config,
    plan: &Plan<'_>,
) -> Result<Value, ApiError> {
    let config = &applied.value;
    let resource = writer.resource;
    let schema = resource.schema.get().ok_or(ApiError::MethodNotAllowed)?;
    let (api_version, time) = (resource.api_version(), meta::now());
    let who = schema::apply::Writer {
        manager: &writer.options.field_manager,
        api_version: &api_version,
        subresource: plan.subresource.unwrap_or_default(),
        time: &time,
    };
    let force = writer.options.force.unwrap_or(false);
    let unwritten = match plan.subresource {
        Some("status") if resource.is_foreign() => crate::types::METADATA.to_vec(),
        Some("status") => resource.strategy.kept_by_status().to_vec(),
        _ => meta::unwritten(resource),
    };
    let mut object = schema.apply(old, config, &who, force, &unwritten).map_err(refused)?;
    // Only a version that the client named guards the object.
    object["metadata"]["resourceVersion"] = config["metadata"]["resourceVersion"].clone();
    let unknown = match resource.is_foreign() {
        true => schema.decode(&mut object).map_err(|fault| ApiError::Unknown(fault.to_string()))?,
        false => schema.convert_applied(&mut object, config).map_err(refused)?,
    };
    applied.complain(writer)?;
    let complaints = unknown.iter().map(|path| format!("unknown field \"{path}\""));
    if writer.options.field_validation != FieldValidation::Ignore {
        writer.warnings.extend(complaints);
    }
    patch::fit(writer, &plan.name, &mut object)?;
    Ok(object)
}

pub(super) fn refused(error: ApplyError) -> ApiError {
    match &error {
        ApplyError::Conflicts(conflicts) => ApiError::ApplyConflict {
            message: error.to_string(),
            causes: conflicts
                .iter()
                .map(|c| StatusCause::new("FieldManagerConflict", &c.field, c.message()))
                .collect(),
        },
        ApplyError::Typed { .. } | ApplyError::Convert { .. } => {
            ApiError::Unknown(error.to_string())
        }
        ApplyError::ManagedFields => ApiError::BadRequest(error.to_string()),
    }
}
