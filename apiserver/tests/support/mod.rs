//! A small HTTPS server, for tests in which the API server calls one; and connections of one's own to it.

use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::identity::{pki, tls};
use apiserver::testing::TestServer;
use axum::Router;
use base64::Engine as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

/// The user whose certificate a client showed, if any.
#[derive(Clone, Debug, Default)]
#[allow(dead_code, reason = "not every test looks")]
pub(crate) struct Shown(pub(crate) Vec<rustls_pki_types::CertificateDer<'static>>);

/// Serves `router` on a free port, with a certificate of the cluster for `hosts`.
#[allow(dead_code, reason = "not every test has a server behind")]
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
#[allow(dead_code, reason = "not every test has a server behind")]
pub(crate) fn bundle(server: &TestServer) -> String {
    let pem = server.server().core().pki.ca_certificate();
    base64::engine::general_purpose::STANDARD.encode(pem)
}

/// A TLS connection to the server's socket, with a user's certificate.
#[allow(dead_code, reason = "not every test sends bytes of its own")]
pub(crate) async fn dial(
    server: &TestServer,
    (user, groups): (&str, &[&str]),
    protocol: &str,
) -> TlsStream<TcpStream> {
    let core = server.server().core();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(core.pki.ca_der().clone()).unwrap();
    let (chain, key) = pki::to_der(&core.pki.client_cert(user, groups).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(core.address().unwrap()).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("kubernetes").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}
