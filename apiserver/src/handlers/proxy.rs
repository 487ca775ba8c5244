//! Streaming proxies: to the node agents (log, exec, attach, port-forward) and to pods, services
//! and nodes. Bytes pass through; redirects are never followed, a connection is never used twice.

pub mod address;
mod answer;
mod page;
mod target;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use answer::Manner;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tracing::debug;

use super::options::Query;
use crate::audit::layer::Remote;
use crate::backend::{self, BoxedStream, DialError};
use crate::registry::Resource;
use crate::request::RequestInfo;
use crate::server::Core;
use crate::status::ApiError;

/// Longest wait for a connection to a backend that is no node agent.
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

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

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
    /// What it is asked for.
    pub manner: Manner,
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
    let Some(target) = target::find(core, resource, info, &query, request.uri().query()).await?
    else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    if let Some(response) = to_root(&target, &request) {
        return Ok(response);
    }
    let response = forward(core, &target, request).await?;
    match target.manner {
        Manner::Log => log(response).await,
        _ => Ok(response),
    }
}

/// A page at `…/proxy` would name its neighbours wrongly; it is at `…/proxy/`.
///
/// Source: `proxyRedirectsforRootPath` in upstream `apimachinery/pkg/util/proxy/upgradeaware.go`.
fn to_root(target: &Target, request: &Request) -> Option<Response> {
    let is_read = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
    let bare = target.path.is_empty() || target.path.starts_with('?');
    if !is_read || !bare || upgrade_of(request.headers()).is_some() {
        return None;
    }
    let location = format!("{}/{}", request.uri().path(), target.path);
    Some((StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, location)]).into_response())
}

/// A log, or in Kubernetes' form why there is none.
async fn log(response: Response) -> Result<Response, ApiError> {
    let status = response.status();
    if answer::refusal(status, "").is_none() {
        return Ok(response);
    }
    let body = Limited::new(response.into_body(), answer::REFUSAL).collect().await;
    let body = body.map_err(|error| ApiError::Internal(error.to_string()))?.to_bytes();
    let refusal = answer::refusal(status, &String::from_utf8_lossy(&body));
    Err(refusal.unwrap_or(ApiError::NoResource))
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

fn unreachable(what: impl std::fmt::Display) -> ApiError {
    ApiError::Unavailable(format!("error trying to reach service: {what}"))
}

/// A connection of this request's own: what a backend makes of it can never meet another request.
async fn open(core: &Arc<Core>, target: &Target) -> Result<SendRequest<Body>, ApiError> {
    let patience = match target.tls {
        Tls::Kubelet => core.config.proxy.kubelet_timeout,
        _ => CONNECT,
    };
    let stream = match tokio::time::timeout(patience, connect(core, target)).await {
        Ok(stream) => stream.map_err(unreachable)?,
        Err(_elapsed) => {
            return Err(unreachable(format_args!("dial tcp {}: i/o timeout", target.address)));
        }
    };
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(unreachable)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "proxied connection ended");
        }
    });
    Ok(sender)
}

/// Passes a request on, and the answer back; an upgraded connection is joined.
///
/// # Errors
/// [`ApiError::Unavailable`] if the backend cannot be reached, or what [`Manner::check`] says of its answer.
pub(crate) async fn forward(
    core: &Arc<Core>,
    target: &Target,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade = upgrade_of(request.headers());
    if target.manner == Manner::Stream && upgrade.is_none() {
        return Err(ApiError::BadRequest("Upgrade request required".to_owned()));
    }
    let wants_body = request.method() != http::Method::HEAD;
    let mut sender = open(core, target).await?;
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let asked = request.headers().get(header::HOST).cloned();
    let asked = asked.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let outgoing = outgoing(target, request, upgrade)?;
    let mut response = sender.send_request(outgoing).await.map_err(unreachable)?;
    let url = format!("https://{}{}", target.address, target.path);
    target.manner.check(client.is_some(), response.status(), response.headers(), &url)?;
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), client) {
        tokio::spawn(join(client, hyper::upgrade::on(&mut response)));
        return Ok(response.map(|_| Body::empty()));
    }
    let mut response = response.map(Body::new);
    let hosts = [&*target.host, asked];
    target.manner.adopt(response.headers_mut(), hosts);
    match &target.manner {
        Manner::Content { prefix } if wants_body => Ok(page::rewrite(response, prefix, hosts)),
        _ => Ok(response),
    }
}

/// Carries bytes both ways until one side ends.
async fn join(client: OnUpgrade, backend: OnUpgrade) {
    match tokio::try_join!(client, backend) {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                debug!(%error, "upgraded connection ended");
            }
        }
        Err(error) => debug!(%error, "upgrade failed"),
    }
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
    vouch(&mut parts, target);
    let host =
        HeaderValue::from_str(&target.host).map_err(|e| ApiError::BadRequest(e.to_string()))?;
    parts.headers.insert(header::HOST, host);
    let path = if target.path.starts_with('/') { "" } else { "/" };
    parts.uri = format!("{path}{}", target.path)
        .parse::<Uri>()
        .map_err(|e| ApiError::BadRequest(e.to_string()))?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(Request::from_parts(parts, body))
}

/// Says for whom the request is passed on, and what it was here.
fn vouch(parts: &mut http::request::Parts, target: &Target) {
    if let Some(Remote(ip)) = parts.extensions.get::<Remote>() {
        let before = parts.headers.get(&FORWARDED_FOR).and_then(|v| v.to_str().ok());
        let chain = before.map_or_else(|| ip.to_string(), |before| format!("{before}, {ip}"));
        if let Ok(chain) = HeaderValue::from_str(&chain) {
            parts.headers.insert(FORWARDED_FOR, chain);
        }
    }
    if let Manner::Content { .. } = &target.manner
        && let Ok(path) = HeaderValue::from_str(parts.uri.path())
    {
        parts.headers.insert(FORWARDED_URI, path);
    }
}
