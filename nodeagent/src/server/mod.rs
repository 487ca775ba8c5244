//! The agent's own server (port 10250): logs, exec, attach, port-forward, health, metrics, statistics.
//!
//! Only the API server and administrators get in; clients show a certificate of the cluster's CA.

mod logs;
mod portforward;
mod process;
mod routes;
mod session;
mod spdy;
mod stats;
mod tls;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::agent::Pods;
use crate::config::Config;
use crate::pods::context::Context;
use tls::Caller;
pub(crate) use tls::Shown;

/// Longest that a client may take for the handshake, and for its request's head.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the server does not come up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("failed to listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("bad {what}: {reason}")]
    Certificate {
        /// Which one.
        what: String,
        /// Why.
        reason: String,
    },
}

/// A bound server that does not answer yet.
pub struct Listening {
    listener: TcpListener,
    addr: SocketAddr,
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
}

impl Listening {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate that it shows.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        self.shown.clone()
    }
}

/// A response body of any kind.
type Body = UnsyncBoxBody<bytes::Bytes, std::io::Error>;
type Request = http::Request<Incoming>;
type Response = http::Response<Body>;

/// Binds the address and reads the certificates.
///
/// # Errors
/// The address is taken, or a certificate is bad.
pub async fn bind(config: &Config) -> Result<Option<Listening>, Error> {
    let Some(addr) = config.server.bind else { return Ok(None) };
    let listen = |source| Error::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(listen)?;
    let addr = listener.local_addr().map_err(listen)?;
    let shown = Arc::new(tls::Shown::new(&tls::first(config)?)?);
    let acceptor = TlsAcceptor::from(Arc::new(tls::config(config, shown.clone())?));
    Ok(Some(Listening { listener, addr, acceptor, shown }))
}

/// What a request may need.
#[derive(Clone)]
struct Shared {
    ctx: Arc<Context>,
    pods: Pods,
}

/// Serves until `stop`.
pub async fn run(listening: Listening, ctx: Arc<Context>, pods: Pods, stop: CancellationToken) {
    let shared = Shared { ctx, pods };
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listening.listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error = %error, "connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, shared) = (listening.acceptor.clone(), shared.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => (),
                () = serve(acceptor, stream, shared) => (),
            }
        });
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, shared: Shared) {
    stream.set_nodelay(true).ok();
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(error = %error, "handshake failed"),
        Err(_) => return tracing::debug!("handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let caller = certificates.and_then(|c| c.first()).and_then(Caller::read);
    let service = service_fn(move |request| {
        let (shared, caller) = (shared.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(shared, caller, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(error = %error, "connection ended");
    }
}

async fn answer(shared: Shared, caller: Option<Caller>, request: Request) -> Response {
    if request.uri().path() == "/healthz" {
        return text(http::StatusCode::OK, "ok");
    }
    let config = &shared.ctx.config.server;
    match caller {
        None => text(http::StatusCode::UNAUTHORIZED, "Unauthorized"),
        Some(caller) if !may_enter(&caller, &config.clients) => {
            let path = request.uri().path();
            let refusal = format!("Forbidden (user={}, path={path})", caller.user);
            text(http::StatusCode::FORBIDDEN, refusal)
        }
        Some(_) => routes::route(shared, request).await,
    }
}

fn may_enter(caller: &Caller, clients: &[String]) -> bool {
    clients.contains(&caller.user) || caller.groups.iter().any(|g| g == "system:masters")
}

fn text(status: http::StatusCode, text: impl Into<bytes::Bytes>) -> Response {
    respond(status, "text/plain; charset=utf-8", text)
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => respond(http::StatusCode::OK, "application/json", body),
        Err(error) => text(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn respond(status: http::StatusCode, kind: &str, body: impl Into<bytes::Bytes>) -> Response {
    let body = http_body_util::Full::new(body.into()).map_err(|never| match never {});
    let mut response = http::Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_api_server_and_administrators_enter() {
        let clients = vec!["kube-apiserver-kubelet-client".to_owned()];
        let check = |user: &str, group: &str, expected| {
            let caller = Caller { user: user.into(), groups: vec![group.into()] };
            assert_eq!(may_enter(&caller, &clients), expected, "{user} {group}");
        };
        check("kube-apiserver-kubelet-client", "x", true);
        check("admin", "system:masters", true);
        check("system:node:n", "system:nodes", false);
    }
}
