//! A small HTTPS server, for tests in which the API server calls one.

use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::identity::{pki, tls};
use apiserver::testing::TestServer;
use axum::Router;
use base64::Engine as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The user whose certificate a client showed, if any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown(pub(crate) Vec<rustls_pki_types::CertificateDer<'static>>);

/// Serves `router` on a free port, with a certificate of the cluster for `hosts`.
pub(crate) async fn serve(server: &TestServer, hosts: &[&str], router: Router) -> SocketAddr {
    let pki = &server.server().core().pki;
    let authority = tls::ClientAuthority::new(pki).unwrap();
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let (chain, key) = pki::to_der(&pki.server_cert("backend", &[], &hosts).unwrap()).unwrap();
    let mut config = tls::server_config(pki, &authority).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let key = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let shown = Shown(shown.iter().map(|c| c.clone().into_owned()).collect());
                let router = router.layer(axum::Extension(shown));
                let service = TowerToHyperService::new(router);
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// The authority that vouches for such servers, as `caBundle` has it.
pub(crate) fn bundle(server: &TestServer) -> String {
    let pem = server.server().core().pki.ca_certificate();
    base64::engine::general_purpose::STANDARD.encode(pem)
}
