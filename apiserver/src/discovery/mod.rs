//! Documents about what is served, and health.

pub mod documents;
pub mod health;
pub mod metrics;

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::Value;

use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::ApiError;

/// Answers every path that is no resource.
pub async fn handle(
    core: &Arc<Core>,
    info: &RequestInfo,
    _user: &User,
    request: Request,
) -> Response {
    let groups = documents::groups(&core.registry());
    if let Some(answer) =
        health::answer(&core.health, core.store().as_ref(), &info.path, request.uri().query()).await
    {
        return answer;
    }
    let parts: Vec<&str> = info.path.split('/').filter(|p| !p.is_empty()).collect();
    let group = |name: &str| groups.iter().find(|g| g.name == name);
    let version = |group: &crate::registry::Group, name: &str| {
        let found = group.versions.iter().find(|v| v.name == name);
        found.map(|version| documents::resource_list(&group.name, version))
    };
    let document = match parts.as_slice() {
        ["api"] => Some(documents::api_versions(
            &core.address().map(|a| a.to_string()).unwrap_or_default(),
        )),
        ["apis"] => Some(documents::group_list(&groups)),
        ["api", name] => group("").and_then(|g| version(g, name)),
        ["apis", name] => group(name).map(documents::group),
        ["apis", name, v] => group(name).and_then(|g| version(g, v)),
        ["metrics"] => return core.metrics.render().map_err(ApiError::internal).into_response(),
        _ => None,
    };
    document.map_or_else(|| ApiError::NoPath.into_response(), |d| json(&d))
}

fn json(document: &Value) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], document.to_string())
        .into_response()
}
