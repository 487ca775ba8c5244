//! The TLS listener: HTTP/1.1 and HTTP/2, upgrades included.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use tracing::{debug, info};

use super::{Server, StartError, client_authority};
use crate::identity::Peer;
use crate::identity::tls::{self, ClientAuthority};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest wait for the headers of a request.
const HEADERS: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection.
///
/// Source: upstream's `http2-max-streams-per-connection`, golang's default.
const STREAMS: u32 = 250;

impl Server {
    /// Opens the listener and serves it in a task.
    pub(super) async fn listen(&self, address: SocketAddr) -> Result<(), StartError> {
        let failed = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let reachable = self.core.config.advertise.unwrap_or(bound);
        let reachable = if reachable.ip().is_unspecified() {
            SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), reachable.port())
        } else {
            SocketAddr::new(
                reachable.ip(),
                if reachable.port() == 0 { bound.port() } else { reachable.port() },
            )
        };
        let _ = self.core.address.set(reachable);
        let authority = client_authority(&self.core.pki)?;
        let config =
            tls::server_config(&self.core.pki, &authority).map_err(StartError::Certificates)?;
        info!(address = %bound, "listening");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        self.tasks.spawn(accept(self.clone(), listener, acceptor, authority));
        Ok(())
    }
}

async fn accept(
    server: Server,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    authority: ClientAuthority,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let task =
                    serve(server.clone(), stream, remote, acceptor.clone(), authority.clone());
                server.tasks.spawn(task);
            }
            Err(error) => {
                // Usually: too many open files. Others end, then it goes on.
                debug!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(
    server: Server,
    stream: TcpStream,
    remote: SocketAddr,
    acceptor: TlsAcceptor,
    authority: ClientAuthority,
) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, %remote, "handshake failed"),
        Err(_elapsed) => return debug!(%remote, "handshake took too long"),
    };
    let peer = stream.get_ref().1.peer_certificates().map(|chain| match authority.user(chain) {
        Some(user) => Peer::Known(user),
        None => Peer::Stranger,
    });
    connection(server, TokioIo::new(stream), peer).await;
}

/// Serves one connection until it ends or the server stops.
pub(super) async fn connection<I>(server: Server, io: I, peer: Option<Peer>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let router: Router = server.router();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        router.clone().oneshot(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .preserve_header_case(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    let connection = builder.serve_connection_with_upgrades(io, service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = server.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Watches would go on for an hour; they end with the server.
            match tokio::time::timeout(Duration::from_secs(1), connection).await {
                Ok(served) => served,
                Err(_elapsed) => return,
            }
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}
