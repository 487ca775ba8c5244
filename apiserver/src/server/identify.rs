//! The layers in front of every handler: what is asked, who asks, whether they may.
//!
//! Order: request info, authentication, audit, deadline, impersonation, priority and fairness, authorization,
//! handler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use http::request::Parts;
use http_body_util::BodyExt as _;
use jiff::Timestamp;

use super::{Core, browsers, deadline, websocket};
use crate::audit::layer::AuditId;
use crate::discovery::metrics::Labels;
use crate::identity::{Peer, access, authn};
use crate::request::{RequestInfo, User};
use crate::status::ApiError;
use crate::{audit, fairness};

/// Puts the layers around the handlers.
pub(super) fn layers(router: Router, core: &Arc<Core>) -> Router {
    router
        .layer(from_fn_with_state(core.clone(), authorize))
        .layer(from_fn_with_state(core.clone(), fairness::layer::layer))
        .layer(from_fn_with_state(core.clone(), impersonate))
        .layer(from_fn_with_state(core.clone(), deadline::layer))
        .layer(from_fn_with_state(core.clone(), audit::layer::layer))
        .layer(from_fn_with_state(core.clone(), websocket::layer))
        .layer(from_fn_with_state(core.clone(), authenticate))
        .layer(from_fn_with_state(core.clone(), describe))
        .layer(from_fn_with_state(core.clone(), browsers::layer))
}

async fn describe(State(core): State<Arc<Core>>, mut request: Request, next: Next) -> Response {
    let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query());
    let registry = core.registry();
    let resource = registry.get(&info.group, &info.version, &info.resource);
    let labels = Labels::of(&info, resource.map(|resource| &**resource));
    let long = info.is_long_running();
    let _running = (!long).then(|| core.metrics.begin(info.changes()));
    let id = AuditId::of(request.headers());
    let started = Instant::now();
    request.extensions_mut().insert(info);
    request.extensions_mut().insert(id.clone());
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_panic| panicked());
    id.put(&mut response);
    core.metrics.answered(&labels, response.status().as_u16(), started.elapsed());
    if long && response.status().is_success() {
        let open = core.metrics.watching(&labels);
        return response.map(|body| Body::new(body.map_frame(move |frame| open.pass(frame))));
    }
    response
}

/// What the panic was about stands in the log, written by the panic hook.
fn panicked() -> Response {
    let text = "This request caused apiserver to panic. Look in the logs for details.";
    let kind = [(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (http::StatusCode::INTERNAL_SERVER_ERROR, kind, text).into_response()
}

async fn authenticate(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match user(&core, &parts).await {
        Ok(user) => {
            core.authenticator.strip(&mut parts.headers);
            parts.extensions.insert(user);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => {
            let request = Request::from_parts(parts, body);
            let recorded = audit::layer::refused(&core, &request);
            drop(request);
            recorded.await;
            error.into_response()
        }
    }
}

/// The user of the in-process client, of the certificate or of the token.
async fn user(core: &Arc<Core>, parts: &Parts) -> Result<User, ApiError> {
    if let Some(user) = parts.extensions.get::<User>() {
        return Ok(user.clone());
    }
    let (peer, path) = (parts.extensions.get::<Peer>(), parts.uri.path());
    let now = Timestamp::now().as_second();
    let begun = Instant::now();
    let user =
        core.authenticator.authenticate(&parts.headers, path, peer, core.as_ref(), now).await;
    let name = user.as_ref().ok().map(|user| user.name.as_str());
    core.metrics.checks().authenticated(name, begun.elapsed());
    user
}

/// From here on the request is that of the user whom its user asks to be.
async fn impersonate(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match wanted(&core, &parts).await {
        Ok(None) => (),
        Ok(Some(user)) => {
            audit::impersonated(&user);
            parts.extensions.insert(user);
        }
        Err(error) => return error.into_response(),
    }
    next.run(Request::from_parts(parts, body)).await
}

async fn wanted(core: &Core, parts: &Parts) -> Result<Option<User>, ApiError> {
    let Some(wanted) = authn::wanted_user(&parts.headers)? else { return Ok(None) };
    let user = parts.extensions.get::<User>().ok_or(ApiError::Unauthorized)?;
    let info = parts.extensions.get::<RequestInfo>().ok_or(ApiError::Unauthorized)?;
    authn::impersonate(&core.authorizer, user, wanted, info).await.map(Some)
}

async fn authorize(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (user, info) = (parts.extensions.get::<User>(), parts.extensions.get::<RequestInfo>());
    let refused = match (user, info) {
        (Some(user), Some(info)) => {
            let begun = Instant::now();
            let judged = access::judge(&core.authorizer, user, info, parts.uri.query()).await;
            core.metrics.checks().authorized(judged.verdict(), begun.elapsed());
            let word = if judged.is_allowed() { "allow" } else { "forbid" };
            audit::annotate("authorization.k8s.io/decision", || word);
            audit::annotate("authorization.k8s.io/reason", || judged.reason());
            judged.into_result().err()
        }
        _ => Some(ApiError::Unauthorized),
    };
    match refused {
        None => next.run(Request::from_parts(parts, body)).await,
        Some(error) => error.into_response(),
    }
}
