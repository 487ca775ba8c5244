//! Answers to requests, by verb.

pub mod accept;
mod components;
pub mod negotiate;
pub mod options;
pub mod proxy;
pub mod read;
pub mod respond;
pub mod selector;
mod token;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, Method, header};

use accept::error_format;
use negotiate::Output;
use options::Query;

use crate::admission;
use crate::registry::facts::FACTS;
use crate::registry::{Registry, Resource, Subresource};
use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::ApiError;
use crate::{aggregation, discovery, watch, write};

/// One request for a resource, with all that its handler needs.
pub struct Call<'a> {
    /// The server.
    pub core: &'a Arc<Core>,
    /// What was served when the request came.
    pub registry: &'a Arc<Registry>,
    /// The resource in the path.
    pub resource: &'a Arc<Resource>,
    /// What is asked for.
    pub info: &'a RequestInfo,
    /// Who asks.
    pub user: &'a User,
    /// Query parameters.
    pub query: Query,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Method.
    pub method: &'a Method,
    /// The agreed form of the answer.
    pub output: Output,
}

impl Call<'_> {
    /// Namespace of the objects; empty for cluster-scoped ones, also for namespaces themselves.
    pub fn namespace(&self) -> &str {
        if self.resource.namespaced { &self.info.namespace } else { "" }
    }
}

/// Answers a request whose [`RequestInfo`] and [`User`] are in its extensions.
pub async fn handle(State(core): State<Arc<Core>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    // Nobody further in reads them there.
    let info = parts.extensions.remove::<RequestInfo>().unwrap_or_default();
    let user = parts.extensions.remove::<User>().unwrap_or_else(User::anonymous);
    if let Some(backend) = core.aggregator.find(&info.path) {
        let request = Request::from_parts(parts, body);
        return aggregation::answer(&core, &backend, &user, request).await;
    }
    if info.path.starts_with("//") {
        return ApiError::NoPath.into_response();
    }
    if !info.is_resource {
        return discovery::handle(&core, &info, &user, Request::from_parts(parts, body)).await;
    }
    let query = Query::parse(parts.uri.query());
    let accept = parts.headers.get(header::ACCEPT).cloned();
    let registry = core.registry();
    let found = registry.get(&info.group, &info.version, &info.resource);
    let answered = match found {
        Some(found) => resource(&core, &registry, found, &info, &user, query, parts, body).await,
        None if FACTS.groups.contains_key(&info.group) => Err(ApiError::NoResource),
        None => Err(ApiError::NoPath),
    };
    // Forms that there are none of are refused before there is a route.
    let has_route = !match &answered {
        Err(ApiError::UnsupportedMediaType(_)) => info.verb == "patch",
        Err(
            ApiError::NoResource | ApiError::MethodNotAllowed | ApiError::NotAcceptableMedia(_),
        ) => true,
        _ => false,
    };
    let mut response =
        answered.unwrap_or_else(|error| respond::error(error, error_format(accept.as_ref())));
    if has_route && let Some(text) = found.and_then(|r| r.deprecation.as_ref()) {
        respond::warn_first(&mut response, text);
    }
    response
}

#[expect(
    clippy::too_many_arguments,
    reason = "they become one Call, once the request is known to make sense"
)]
async fn resource(
    core: &Arc<Core>,
    registry: &Arc<Registry>,
    found: &Arc<Resource>,
    info: &RequestInfo,
    user: &User,
    query: Query,
    parts: Parts,
    body: Body,
) -> Result<Response, ApiError> {
    check_scope(found, info)?;
    let subresource = match info.subresource.as_str() {
        "" => None,
        name => Some(found.subresources.get(name).ok_or_else(|| no_route(found, info))?),
    };
    if !info.is_routable() || info.is_watch_path && subresource.is_some() {
        return Err(no_route(found, info));
    }
    let passes_on_any = info.subresource == "proxy" && proxy::is_proxied(found, info);
    match parts.method {
        Method::HEAD | Method::OPTIONS if passes_on_any => (),
        Method::HEAD => return Err(ApiError::MethodNotAllowed), // Upstream has no such routes.
        _ => check_verb(found, subresource, info)?,
    }
    if info.is_watch_path && parts.method != Method::GET {
        return Err(ApiError::MethodNotAllowed);
    }
    check_name(&info.path_name)?;
    let output = || Output::negotiate(&parts.headers, &query, info, found);
    // Whoever writes the audit event has put a handle there before.
    if proxy::is_proxied(found, info) {
        if info.subresource == "log" {
            output()?;
        }
        if let Some(options) = proxy::options(found, info, &query) {
            admission::connect(core, found, info, user, options).await?;
        }
        return proxy::proxy(core, found, info, Request::from_parts(parts, body)).await;
    }
    let output = output()?;
    let call = Call {
        core,
        registry,
        resource: found,
        info,
        user,
        query,
        headers: &parts.headers,
        method: &parts.method,
        output,
    };
    verb(&call, body).await
}

async fn verb(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    match (call.info.verb.as_str(), call.info.subresource.as_str()) {
        ("get", "") if call.resource.kind == "ComponentStatus" => components::get(call).await,
        ("list", "") if call.resource.kind == "ComponentStatus" => components::list(call).await,
        ("get", "" | "status" | "approval" | "ephemeralcontainers" | "resize") => {
            read::get(call).await
        }
        ("list", "") => read::list(call).await,
        ("watch", "") => watch::watch(call).await,
        _ => write::handle(call, body).await,
    }
}

/// A namespaced resource is asked for in a namespace, or as a collection over all of them.
fn check_scope(resource: &Resource, info: &RequestInfo) -> Result<(), ApiError> {
    let about_a_namespace = info.resource == "namespaces" && info.group.is_empty();
    let fits = if resource.namespaced {
        !info.namespace.is_empty() || info.path_name.is_empty()
    } else {
        info.namespace.is_empty() || about_a_namespace
    };
    match fits {
        true => Ok(()),
        false if resource.is_foreign() => Err(ApiError::NoPath),
        false => Err(ApiError::NoResource),
    }
}

/// What is said of a path below an object that is nobody's: upstream's custom resources have all routes, and then
/// miss the object.
fn no_route(resource: &Resource, info: &RequestInfo) -> ApiError {
    match info.subresource.as_str() {
        _ if !resource.is_foreign() => ApiError::NoResource,
        "" => ApiError::NoPath,
        _ => resource.not_found(&info.name),
    }
}

/// A name must be able to stand in a path.
fn check_name(name: &str) -> Result<(), ApiError> {
    let fault = match name {
        "." | ".." => format!("may not be '{name}'"),
        _ if name.contains('%') => "may not contain '%'".to_owned(),
        _ => return Ok(()),
    };
    Err(ApiError::BadRequest(format!("Name parameter invalid: {name:?}: {fault}")))
}

fn check_verb(
    resource: &Resource,
    subresource: Option<&Subresource>,
    info: &RequestInfo,
) -> Result<(), ApiError> {
    let verbs = subresource.map_or(&resource.verbs, |s| &s.verbs);
    // The two shapes of a path: an object is not created by POST on its own name.
    let shape = match info.verb.as_str() {
        "create" if subresource.is_none() => info.path_name.is_empty(),
        "update" | "patch" | "delete" => !info.name.is_empty(),
        _ => true,
    };
    // A collection across all namespaces can be read, not written.
    let homeless = resource.namespaced
        && info.namespace.is_empty()
        && !matches!(info.verb.as_str(), "list" | "watch");
    if resource.is_foreign() && homeless {
        return Err(ApiError::NoPath);
    }
    if resource.is_foreign() && !shape && matches!(info.verb.as_str(), "update" | "patch") {
        return Err(ApiError::BadRequest("name must be provided".to_owned()));
    }
    if homeless || !shape || !verbs.contains(&info.verb) {
        if info.verb == "watch" && verbs.iter().any(|v| v == "list") {
            return Err(ApiError::NotWatchable(resource.group_resource()));
        }
        return Err(ApiError::MethodNotAllowed);
    }
    Ok(())
}
