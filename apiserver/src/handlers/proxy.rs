//! Streaming proxies: to the node agents (log, exec, attach, port-forward) and to pods, services
//! and nodes. Bytes pass through; redirects are never followed, a connection is never used twice.

mod target;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tracing::debug;

use super::options::Query;
use crate::backend::{self, BoxedStream, DialError};
use crate::registry::Resource;
use crate::request::RequestInfo;
use crate::server::Core;
use crate::status::ApiError;

/// Longest wait for a connection to a backend.
const CONNECT: Duration = Duration::from_secs(10);

/// Headers that belong to one connection, or to the client's session with this server.
const NOT_FORWARDED: [HeaderName; 8] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHORIZATION,
    header::HOST,
];

/// Whether a request is answered by somebody else.
pub fn is_proxied(resource: &Resource, info: &RequestInfo) -> bool {
    resource.group.is_empty()
        && matches!(
            (resource.name.as_str(), info.subresource.as_str()),
            ("pods", "log" | "exec" | "attach" | "portforward" | "proxy")
                | ("services" | "nodes", "proxy")
        )
}

/// The options of a stream as the object that admission sees; `None` for what is only read (logs).
pub fn options(resource: &Resource, info: &RequestInfo, query: &Query) -> Option<Value> {
    let flag = |name: &str| query.flag(name).unwrap_or(false);
    let mut options = match (resource.name.as_str(), info.subresource.as_str()) {
        ("pods", "exec" | "attach") => json!({
            "stdin": flag("stdin"), "stdout": flag("stdout"), "stderr": flag("stderr"), "tty": flag("tty"),
            "container": query.get("container").unwrap_or_default(),
        }),
        ("pods", "portforward") => {
            let ports = query.all("ports").into_iter().flat_map(|ports| ports.split(','));
            json!({ "ports": ports.filter_map(|port| port.parse().ok()).collect::<Vec<i64>>() })
        }
        (_, "proxy") => json!({ "path": format!("/{}", info.rest) }),
        _ => return None,
    };
    if info.subresource == "exec" {
        options["command"] = query.all("command").into();
    }
    options["apiVersion"] = resource.version.clone().into();
    options["kind"] = resource.subresources.get(&info.subresource)?.kind.clone().into();
    Some(options)
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// Address to connect to, resolved once.
    pub address: SocketAddr,
    /// Host name in the request and in the handshake.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// How the backend is talked to.
    pub tls: Tls,
}

/// How a backend is talked to.
#[derive(Debug, Clone)]
pub enum Tls {
    /// Not at all.
    None,
    /// TLS, without showing who we are.
    Anonymous,
    /// TLS, with the certificate that node agents know.
    Kubelet,
    /// TLS as somebody else has set it up.
    Given(Arc<ClientConfig>),
}

/// Answers a request by passing it on.
///
/// # Errors
/// The target is unknown or cannot be reached.
pub async fn proxy(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    info: &RequestInfo,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query());
    match target::find(core, resource, info, &query, request.uri().query()).await? {
        Some(target) => forward(core, &target, request).await,
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

async fn connect(core: &Arc<Core>, target: &Target) -> Result<BoxedStream, DialError> {
    let config = match &target.tls {
        Tls::None => None,
        Tls::Anonymous => Some(core.proxy_tls(false)),
        Tls::Kubelet => Some(core.proxy_tls(true)),
        Tls::Given(config) => Some(config.clone()),
    };
    let name = || {
        ServerName::try_from(target.host.clone())
            .unwrap_or_else(|_| ServerName::from(target.address.ip()))
    };
    backend::connect(target.address, config.map(|config| (config, name()))).await
}

/// Passes a request on, and the answer back; an upgraded connection is joined.
///
/// # Errors
/// [`ApiError::Unavailable`] if the backend cannot be reached.
pub(crate) async fn forward(
    core: &Arc<Core>,
    target: &Target,
    mut request: Request,
) -> Result<Response, ApiError> {
    let unreachable = |what: &dyn std::fmt::Display| {
        ApiError::Unavailable(format!("error trying to reach service: {what}"))
    };
    let stream = match tokio::time::timeout(CONNECT, connect(core, target)).await {
        Ok(stream) => stream.map_err(|e| unreachable(&e))?,
        Err(_elapsed) => {
            return Err(unreachable(&format_args!("dial tcp {}: i/o timeout", target.address)));
        }
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| unreachable(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "proxied connection ended");
        }
    });
    let upgrade = upgrade_of(request.headers());
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let outgoing = outgoing(target, request, upgrade)?;
    let mut response = sender.send_request(outgoing).await.map_err(|e| unreachable(&e))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let mut response = response.map(Body::new);
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
            response.headers_mut().remove(name);
        }
        return Ok(response);
    }
    let Some(client) = client else {
        return Err(unreachable(&"the backend switched protocols without being asked"));
    };
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                    debug!(%error, "upgraded connection ended");
                }
            }
            Err(error) => debug!(%error, "upgrade failed"),
        }
    });
    Ok(response.map(|_| Body::empty()))
}

/// The protocol that a client wants to switch to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get(header::CONNECTION)?.to_str().ok()?.to_ascii_lowercase();
    asked
        .split(',')
        .any(|t| t.trim() == "upgrade")
        .then(|| headers.get(header::UPGRADE).cloned())?
}

fn outgoing(
    target: &Target,
    request: Request,
    upgrade: Option<HeaderValue>,
) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let impersonation = |name: &HeaderName| name.as_str().starts_with("impersonate-");
    let names: Vec<HeaderName> =
        parts.headers.keys().filter(|n| impersonation(n)).cloned().collect();
    for name in names.iter().chain(&NOT_FORWARDED) {
        parts.headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    let host =
        HeaderValue::from_str(&target.host).map_err(|e| ApiError::BadRequest(e.to_string()))?;
    parts.headers.insert(header::HOST, host);
    parts.uri = target.path.parse::<Uri>().map_err(|e| ApiError::BadRequest(e.to_string()))?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(Request::from_parts(parts, body))
}
