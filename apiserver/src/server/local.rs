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
use http::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
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
        self.client_of(User::new(user, groups))
    }

    /// A client in this process that acts as the server itself.
    pub(crate) fn own_client(&self) -> kube::Client {
        self.client_of(User::server())
    }

    fn client_of(&self, user: User) -> kube::Client {
        kube::Client::new(Local { router: self.router(), user }, "default")
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
/// Where definitions are written.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Definitions that are installed at the same time.
const AT_ONCE: usize = 8;

/// Installs the CustomResourceDefinitions of YAML or JSON texts; they are served when this returns.
pub(super) async fn install(server: &Server, texts: &[String]) -> Result<(), StartError> {
    let client = server.own_client();
    let known = sources(server).await;
    let fresh =
        texts.iter().map(|text| (source(text), text)).filter(|(source, _)| !known.contains(source));
    futures::stream::iter(fresh)
        .map(|(source, text)| install_text(&client, source, text))
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
        let metadata: Value = serde_json::from_slice(&bytes::metadata(&object.json())).ok()?;
        Some(metadata["annotations"][SOURCE].as_str()?.to_owned())
    };
    cache.list(None).iter().filter_map(source).collect()
}

async fn install_text(client: &kube::Client, source: String, text: &str) -> Result<(), StartError> {
    let failed = |what: &str, error: String| StartError::Bootstrap {
        what: what.to_owned(),
        error: Box::new(ApiError::Internal(error)),
    };
    let documents =
        documents(text).map_err(|error| failed("custom resource definitions", error))?;
    for mut definition in documents {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        mark(&mut definition, &source)
            .ok_or_else(|| failed(&name, "it has no metadata to annotate".to_owned()))?;
        write(client, &name, &definition).await.map_err(|e| failed(&name, e.to_string()))?;
    }
    Ok(())
}

/// Notes where a definition comes from; `None` if it is no object.
fn mark(definition: &mut Value, source: &str) -> Option<()> {
    let metadata = definition.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    annotations.as_object_mut()?.insert(SOURCE.to_owned(), source.into());
    Some(())
}

fn documents(text: &str) -> Result<Vec<Value>, String> {
    if let Ok(one) = serde_json::from_str(text) {
        return Ok(vec![one]);
    }
    let documents = serde_saphyr::from_multiple::<Value>(text).map_err(|e| e.to_string())?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Creates a definition, or replaces the one that is there.
async fn write(client: &kube::Client, name: &str, definition: &Value) -> kube::Result<()> {
    let one = format!("{DEFINITIONS}/{name}");
    match ask(client, Method::POST, DEFINITIONS, Some(definition)).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => (),
        other => return other.map(drop),
    }
    loop {
        let known = ask(client, Method::GET, &one, None).await?;
        let mut wanted = definition.clone();
        wanted["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
        match ask(client, Method::PUT, &one, Some(&wanted)).await {
            // Its status was written meanwhile.
            Err(kube::Error::Api(status)) if status.is_conflict() => (),
            other => return other.map(drop),
        }
    }
}

async fn ask(
    client: &kube::Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> kube::Result<Value> {
    let body = body.map(serde_json::to_vec).transpose().map_err(kube::Error::SerdeError)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "kube-apiserver")
        .body(body.unwrap_or_default())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}
