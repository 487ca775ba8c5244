//! A small HTTPS server that answers JSON.

use std::sync::Arc;

use apiserver::identity::pki::{Pki, ServerNames};
use apiserver::identity::tls::{self, ClientAuthority};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Where it is, and who vouches for it.
pub(crate) struct Https {
    /// As `https://127.0.0.1:1234`.
    pub(crate) base: String,
    /// Authority, PEM.
    pub(crate) ca: String,
}

impl Https {
    /// Answers with `answer(base, path, body)`: a status and a JSON body. A redirect's body names its
    /// location.
    pub(crate) async fn start<F>(answer: F) -> Self
    where
        F: Fn(&str, &str, Value) -> (u16, Value) + Send + Sync + 'static,
    {
        let pki = Pki::open(None, &ServerNames::default()).unwrap();
        let authority = ClientAuthority::new(&pki).unwrap();
        let mut config = tls::server_config(&pki, &authority).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let (answer, own) = (Arc::new(answer), base.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, own) = (acceptor.clone(), answer.clone(), own.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service =
                        service_fn(move |request| respond(own.clone(), answer.clone(), request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is fine.
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { base, ca: pki.ca_certificate().to_owned() }
    }
}

async fn respond<F>(
    base: String,
    answer: Arc<F>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, hyper::Error>
where
    F: Fn(&str, &str, Value) -> (u16, Value),
{
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let (status, body) = answer(&base, &path, body);
    let mut response = http::Response::builder().status(status);
    if let Some(location) = body["location"].as_str() {
        response = response.header("location", location);
    }
    Ok(response.body(Full::new(Bytes::from(body.to_string()))).unwrap())
}
