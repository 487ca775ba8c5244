//! The layers in front of every handler: what is asked, who asks, whether they may.
//!
//! Order: request info, authentication, (audit, impersonation's own audit, priority and fairness
//! have their place here), authorization, handler.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::Core;
use crate::discovery::metrics::Labels;
use crate::identity::{Attributes, Peer, authn};
use crate::request::{RequestInfo, User};
use crate::status::ApiError;

/// Puts the layers around the handlers.
pub(super) fn layers(router: Router, core: &Arc<Core>) -> Router {
    router
        .layer(from_fn_with_state(core.clone(), authorize))
        .layer(from_fn_with_state(core.clone(), authenticate))
        .layer(from_fn_with_state(core.clone(), describe))
}

async fn describe(State(core): State<Arc<Core>>, mut request: Request, next: Next) -> Response {
    let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query());
    let registry = core.registry();
    let served = registry.get(&info.group, &info.version, &info.resource).is_some();
    let labels = Labels::of(&info, served);
    let _running = core.metrics.begin();
    let started = Instant::now();
    request.extensions_mut().insert(info);
    let response = next.run(request).await;
    core.metrics.answered(&labels, response.status().as_u16(), started.elapsed());
    response
}

async fn authenticate(State(core): State<Arc<Core>>, mut request: Request, next: Next) -> Response {
    match user(&core, &request) {
        Ok(user) => {
            request.headers_mut().remove(http::header::AUTHORIZATION);
            request.extensions_mut().insert(user);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// The user of the in-process client, of the certificate or of the token, and then the one whom
/// that user asks to be.
fn user(core: &Arc<Core>, request: &Request) -> Result<User, ApiError> {
    let headers = request.headers();
    let user = match request.extensions().get::<User>() {
        Some(user) => user.clone(),
        None => {
            let peer = request.extensions().get::<Peer>();
            let now = Timestamp::now().as_second();
            let user = core.authenticator.authenticate(headers, peer, core.as_ref(), now);
            core.metrics.authenticated(user.is_ok());
            user?
        }
    };
    match authn::wanted_user(headers)? {
        Some(wanted) => {
            let info = request.extensions().get::<RequestInfo>().cloned().unwrap_or_default();
            authn::impersonate(&core.authorizer, &user, wanted, &info)
        }
        None => Ok(user),
    }
}

async fn authorize(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let refused = {
        let info = request.extensions().get::<RequestInfo>();
        let user = request.extensions().get::<User>();
        match (user, info) {
            (Some(user), Some(info)) => {
                let selector = field_selector(request.uri().query());
                let asked = Attributes { field_selector: &selector, ..Attributes::of(user, info) };
                core.authorizer.require(&asked).err()
            }
            _ => Some(ApiError::Unauthorized),
        }
    };
    match refused {
        None => next.run(request).await,
        Some(error) => error.into_response(),
    }
}

/// What the query narrows a list or watch to; node agents may only ask for their own.
fn field_selector(query: Option<&str>) -> String {
    let mut parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    parameters
        .find(|(key, _)| key == "fieldSelector")
        .map(|(_, v)| v.into_owned())
        .unwrap_or_default()
}
