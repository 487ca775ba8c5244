//! Clients in this process: no socket, no handshake, the user is given.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Request, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::ApiResource;
use sha2::{Digest, Sha256};
use store::cache::Object;
use tower::{Service, ServiceExt as _};

use super::{Server, StartError};
use crate::bytes;
use crate::request::User;
use crate::status::ApiError;

/// Bytes that may be under way in an in-process upgraded connection.
const PIPE: usize = 64 * 1024;

impl Server {
    /// A client in this process that acts as `user`, who also belongs to `groups`.
    ///
    /// Its requests go straight to the router: authorization holds, sockets and TLS are left out.
    pub fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        let service = Local { router: self.router(), user: User::new(user, groups) };
        kube::Client::new(service, "default")
    }
}

/// The router as the service of a client.
#[derive(Clone)]
struct Local {
    router: Router,
    user: User,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Request<kube::client::Body>> for Local {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.user.clone());
        let router = self.router.clone();
        if request.headers().contains_key(header::UPGRADE) {
            return Box::pin(upgraded(router, request));
        }
        Box::pin(async move { Ok(router.oneshot(request).await?) })
    }
}

/// An upgrade needs a connection; a pipe in memory is one.
async fn upgraded(router: Router, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let user = request.extensions().get::<User>().cloned();
    let (client, server) = tokio::io::duplex(PIPE);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        if let Some(user) = &user {
            request.extensions_mut().insert(user.clone());
        }
        router.clone().oneshot(request)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(server), service)
        .with_upgrades();
    tokio::spawn(served);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(client)).await?;
    tokio::spawn(connection.with_upgrades());
    let (mut parts, body) = request.into_parts();
    parts.version = http::Version::HTTP_11;
    parts.headers.entry(header::HOST).or_insert(http::HeaderValue::from_static("in-process"));
    let response = sender.send_request(Request::from_parts(parts, body)).await?;
    Ok(response.map(Body::new))
}

/// Remembers which text a definition was installed from, so that an unchanged one is not parsed again.
const SOURCE: &str = "improv.dev/source";
/// Definitions that are installed at the same time.
const AT_ONCE: usize = 8;

/// Installs the CustomResourceDefinitions of YAML texts; they are served when this returns.
pub(super) async fn install(server: &Server, texts: &[String]) -> Result<(), StartError> {
    let client = server.client("system:apiserver", &["system:masters"]);
    let definitions: Api<DynamicObject> =
        Api::all_with(client, &ApiResource::erase::<CustomResourceDefinition>(&()));
    let known = sources(server).await;
    let fresh =
        texts.iter().map(|text| (source(text), text)).filter(|(source, _)| !known.contains(source));
    futures::stream::iter(fresh)
        .map(|(source, text)| install_text(&definitions, source, text))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

fn source(text: &str) -> String {
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Sources of the definitions that are there.
async fn sources(server: &Server) -> HashSet<String> {
    let registry = server.core.registry();
    let cache =
        registry.find("apiextensions.k8s.io", "customresourcedefinitions").and_then(|r| r.cache());
    let Some(cache) = cache else { return HashSet::new() };
    // Not fresh only means that a definition is installed again.
    let _ = cache.fresh().await;
    let source = |object: &Arc<Object>| -> Option<String> {
        let metadata: serde_json::Value =
            serde_json::from_slice(&bytes::metadata(&object.json())).ok()?;
        Some(metadata["annotations"][SOURCE].as_str()?.to_owned())
    };
    cache.list(None).iter().filter_map(source).collect()
}

async fn install_text(
    definitions: &Api<DynamicObject>,
    source: String,
    text: &str,
) -> Result<(), StartError> {
    let failed = |what: &str, error: String| StartError::Bootstrap {
        what: what.to_owned(),
        error: Box::new(ApiError::Internal(error)),
    };
    let documents = serde_saphyr::from_multiple::<serde_json::Value>(text)
        .map_err(|error| failed("custom resource definitions", error.to_string()))?;
    for document in documents.into_iter().filter(|d| !d.is_null()) {
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let refused = |error: String| failed(&name, error);
        // As it is: schemas of upstream's types carry markers that the typed form does not have.
        let mut definition: DynamicObject =
            serde_json::from_value(document).map_err(|error| refused(error.to_string()))?;
        definition.annotations_mut().insert(SOURCE.to_owned(), source.clone());
        let params = PostParams::default();
        let written =
            match definitions.get_opt(&name).await.map_err(|error| refused(error.to_string()))? {
                None => definitions.create(&params, &definition).await,
                Some(_) => definitions.replace(&name, &params, &definition).await,
            };
        written.map_err(|error| refused(error.to_string()))?;
    }
    Ok(())
}
