//! Whether a server behind this one can be used, and what it serves.
//!
//! Source: upstream `kube-aggregator/pkg/controllers/status/remote`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;

use super::{Backend, Served, proxy};
use crate::backend;
use crate::request::User;
use crate::server::Core;

/// Longest probe.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest document that a server may have, in bytes.
const LARGEST: usize = 32 * 1024 * 1024;

/// The condition of an APIService.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) is_available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn unavailable(reason: &'static str, message: String) -> Condition {
    Condition { is_available: false, reason, message }
}

/// Asks the server for what it serves.
pub(super) async fn probe(core: &Arc<Core>, backend: &Backend) -> Result<Served, Condition> {
    service(core, backend).await?;
    let path = format!("/apis/{}/{}", backend.group, backend.version);
    let failed = |text: String| unavailable("FailedDiscoveryCheck", text);
    match tokio::time::timeout(PATIENCE, discover(core, backend, &path)).await {
        Ok(Ok(served)) => Ok(served),
        Ok(Err(error)) => {
            let url = format!("https://{}{path}", backend.host());
            Err(failed(format!("failing or missing response from {url}: {error}")))
        }
        Err(_elapsed) => {
            Err(failed(format!("timed out waiting for https://{}{path}", backend.host())))
        }
    }
}

/// Whether the Service is there, and listens where the APIService says.
async fn service(core: &Arc<Core>, backend: &Backend) -> Result<(), Condition> {
    let (name, namespace) = (&backend.service, &backend.namespace);
    let registry = core.registry();
    let cache = registry.find("", "services").and_then(|services| services.cache());
    let service = cache.and_then(|cache| cache.get(Some(namespace), name));
    let service: Value = service
        .and_then(|service| serde_json::from_slice(service.stored()).ok())
        .ok_or_else(|| {
            let text = format!("service/{name} in {namespace:?} is not present");
            unavailable("ServiceNotFound", text)
        })?;
    if service["spec"]["type"] != "ClusterIP" {
        return Ok(());
    }
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let mut ports = ports.filter_map(|port| port["port"].as_u64());
    if !ports.any(|port| port == u64::from(backend.port)) {
        let text =
            format!("service/{name} in {namespace:?} is not listening on port {}", backend.port);
        return Err(unavailable("ServicePortError", text));
    }
    match backend::resolve(core, namespace, name, backend.port).await {
        Ok(_) => Ok(()),
        Err(_) => {
            let text =
                format!("endpointslices for service/{name} in {namespace:?} have no addresses");
            Err(unavailable("MissingEndpoints", text))
        }
    }
}

async fn discover(core: &Arc<Core>, backend: &Backend, path: &str) -> Result<Served, String> {
    let mut connection = Connection::open(core, backend).await?;
    let (status, body) = connection.get(path).await?;
    if !status.is_success() {
        return Err(format!("bad status: {}", status.as_u16()));
    }
    let list: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    // Not every server has OpenAPI documents; that is no fault.
    let index = connection.json("/openapi/v3").await.unwrap_or_default();
    let entry = &index["paths"][path.trim_start_matches('/')]["serverRelativeURL"];
    let hash = entry.as_str().and_then(|url| url.split_once("hash=")).map(|(_, hash)| hash);
    Ok(Served {
        list,
        openapi_hash: hash.unwrap_or_default().to_owned(),
        openapi: connection.json("/openapi/v2").await,
    })
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    async fn open(core: &Arc<Core>, target: &Backend) -> Result<Self, String> {
        let tls = target.tls(core)?;
        let address =
            backend::resolve(core, &target.namespace, &target.service, target.port).await?;
        let host = target.host();
        let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        let stream = backend::connect(address, Some((tls, name))).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self { sender, host })
    }

    async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::get(path)
            .header(header::HOST, &self.host)
            .header(header::ACCEPT, "application/json")
            .body(Full::default())
            .map_err(|error| error.to_string())?;
        // Whatever the server's own rules are, this user may see what is served.
        let user = User { groups: vec!["system:masters".to_owned()], ..aggregator() };
        proxy::introduce(request.headers_mut(), &user)?;
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let response = self.sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }

    async fn json(&mut self, path: &str) -> Option<Value> {
        let (status, body) = self.get(path).await.ok()?;
        status.is_success().then(|| serde_json::from_slice(&body).ok()).flatten()
    }
}

fn aggregator() -> User {
    User { name: "system:kube-aggregator".to_owned(), ..User::default() }
}
