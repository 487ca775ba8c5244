//! The TLS listener: HTTP/1.1 and HTTP/2, upgrades included.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use http::Version;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, info};

use super::stall::Impatient;
use super::{Server, StartError};
use crate::audit::layer::Remote;
use crate::identity::{Peer, setup, tls};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most bytes of a request's head, and most headers in it.
const HEAD: usize = 256 * 1024;
const HEADER_COUNT: usize = 256;
/// Most bytes of an HTTP/2 request's headers.
const HEADER_LIST: u32 = 64 * 1024;
/// Streams that a client may open and reset before the server has dealt with them, and resets that the
/// server may have to send for what a client does wrong; beyond that the connection is closed.
///
/// Source: the answers to CVE-2023-44487 (rapid reset) and CVE-2025-8671 (made you reset).
const RESET_STREAMS: usize = 100;
/// A connection over which nothing comes is asked for a sign of life, and closed without one.
///
/// Source: `--http2-read-idle-timeout` of upstream's clients; a dead peer must not hold its streams.
const IDLE: Duration = Duration::from_secs(30);
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

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
        let serving = &self.core.config.identity.serving;
        let certificates = setup::certificates(serving, &self.core.pki, &self.core.reloads)?;
        let authority = self.core.authenticator.client_ca.clone();
        let config = tls::config(certificates, authority, serving);
        let config = config.map_err(StartError::Certificates)?;
        info!(address = %bound, "listening");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        self.tasks.spawn(accept(self.clone(), listener, acceptor));
        Ok(())
    }
}

async fn accept(server: Server, listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let task = serve(server.clone(), stream, remote, acceptor.clone());
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

async fn serve(server: Server, stream: TcpStream, remote: SocketAddr, acceptor: TlsAcceptor) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, %remote, "handshake failed"),
        Err(_elapsed) => return debug!(%remote, "handshake took too long"),
    };
    let chain = stream.get_ref().1.peer_certificates();
    let peer = chain.map(|chain| Peer::new(chain.iter().map(|c| c.clone().into_owned()).collect()));
    connection(server, TokioIo::new(stream), peer, Remote(remote.ip())).await;
}

/// What a connection is told while it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// To end after the present request.
    Leave,
    /// That the server stops.
    Stop,
}

/// What one connection is told. Tokens are looked at only when they have woken it: to ask them takes locks which all
/// connections share, and a connection is polled for each event of a watch.
fn told(
    stop: &CancellationToken,
    leave: &CancellationToken,
) -> FuturesUnordered<BoxFuture<'static, Told>> {
    let told = |token: &CancellationToken, told| {
        token.clone().cancelled_owned().map(move |()| told).boxed()
    };
    [told(stop, Told::Stop), told(leave, Told::Leave)].into_iter().collect()
}

/// Serves one connection until it ends or the server stops.
async fn connection<I>(server: Server, io: I, peer: Option<Peer>, remote: Remote)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let limits = &server.core.config.fairness;
    let io = Impatient::new(io, limits.stall_timeout);
    let router: Router = server.router();
    let (leave, chance) = (CancellationToken::new(), server.core.config.connections.goaway_chance);
    let mut told = told(&server.stop, &leave);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        if request.version() == Version::HTTP_2 && rand::random::<f64>() < chance {
            leave.cancel();
        }
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(remote);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        router.clone().oneshot(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADER_COUNT)
        .max_buf_size(HEAD)
        .preserve_header_case(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(server.core.config.identity.serving.max_streams)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(RESET_STREAMS)
        .keep_alive_interval(IDLE)
        .keep_alive_timeout(SIGN_OF_LIFE);
    let connection = builder.serve_connection_with_upgrades(io, service);
    let mut connection = std::pin::pin!(connection);
    let served = loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => break served,
            Some(told) = told.next() => {
                connection.as_mut().graceful_shutdown();
                if told == Told::Leave {
                    // What was asked is answered; for the next request the client connects anew.
                    continue;
                }
                // Watches would go on for an hour; they end with the server.
                match tokio::time::timeout(Duration::from_secs(1), connection).await {
                    Ok(served) => break served,
                    Err(_elapsed) => return,
                }
            }
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{Api, PostParams};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::JoinHandle;

    const SOON: Duration = Duration::from_millis(100);
    const LATE: Duration = Duration::from_secs(60);

    /// A server that loses patience after so long, and a connection of an administrator to it.
    async fn connect(patience: Duration) -> (TestServer, DuplexStream, JoinHandle<()>) {
        connect_to(move |config| {
            (config.fairness.header_timeout, config.fairness.stall_timeout) = (patience, patience);
        })
        .await
    }

    async fn connect_to(
        change: impl FnOnce(&mut crate::Config),
    ) -> (TestServer, DuplexStream, JoinHandle<()>) {
        let server = TestServer::builder().configure(change);
        let server = server.start().await.unwrap();
        let (client, io) = tokio::io::duplex(16 * 1024);
        let admin = server.server().core().pki.client_cert("admin", &["system:masters"]).unwrap();
        let peer = Peer::new(crate::identity::pki::to_der(&admin).unwrap().0);
        let remote = Remote([192, 0, 2, 1].into());
        let served = connection(server.server().clone(), TokioIo::new(io), Some(peer), remote);
        (server, client, tokio::spawn(served))
    }

    async fn ends(served: JoinHandle<()>) {
        tokio::time::timeout(Duration::from_secs(10), served).await.expect("it ends").unwrap();
    }

    #[tokio::test]
    async fn clients_are_sent_elsewhere_by_chance() {
        let (_server, client, served) = connect_to(|c| c.connections.goaway_chance = 1.0).await;
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
                .await
                .unwrap();
        let driver = tokio::spawn(driver);
        let request = Request::get("http://a/version").body(axum::body::Body::empty()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        ends(served).await;
        driver.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_not_waited_for() {
        let (_server, mut client, served) = connect(SOON).await;
        client.write_all(b"GET /version HTTP/1.1\r\nhost: a\r\n").await.unwrap();
        ends(served).await;
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let (_server, mut client, served) = connect(LATE).await;
        client.write_all(b"GET /version HTTP/1.1\r\nhost: a\r\nx: ").await.unwrap();
        let filler = vec![b'x'; 4096];
        while client.write_all(&filler).await.is_ok() {}
        let mut answer = String::new();
        // The connection may be reset behind the answer.
        let _ = client.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        ends(served).await;
    }

    #[tokio::test]
    async fn a_watcher_that_does_not_read_is_closed() {
        let (server, mut client, served) = connect(SOON).await;
        let watch = "GET /api/v1/configmaps?watch=1 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(watch.as_bytes()).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
        let mut n = 0;
        while !served.is_finished() {
            let map = serde_json::json!({
                "metadata": { "name": format!("m{n}") }, "data": { "x": "x".repeat(10_000) },
            });
            maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap())
                .await
                .unwrap();
            n += 1;
            assert!(n < 1000, "the watcher is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ends(served).await;
    }
}
