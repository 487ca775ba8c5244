//! One HTTP/1.1 connection over TLS, and what is asked over it.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::arguments::Encoding;
use super::target::Target;

/// Bytes that are taken from the socket at once; rustls alone asks for 4 KiB at a time.
const READ: usize = 64 * 1024;
/// What a server calls protobuf bodies.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How a body is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    /// An object, in the encoding of the benchmark.
    Object(Encoding),
    /// A strategic merge patch.
    Strategic,
    /// A configuration that is applied.
    Apply,
}

impl Media {
    fn content_type(self) -> &'static str {
        match self {
            Media::Object(Encoding::Json) => "application/json",
            Media::Object(Encoding::Protobuf) => PROTOBUF,
            Media::Strategic => "application/strategic-merge-patch+json",
            Media::Apply => "application/apply-patch+yaml",
        }
    }
}

/// A request that is about to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Its body, and how that is meant.
    pub body: Option<(Media, Bytes)>,
}

impl Call {
    /// A request without a body.
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, body: None }
    }

    /// With a body.
    pub(crate) fn with(self, media: Media, body: impl Into<Bytes>) -> Self {
        Self { body: Some((media, body.into())), ..self }
    }
}

/// A connection that takes one request after the other.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    accept: HeaderValue,
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// If the server does not listen, or one side does not trust the other.
    pub(crate) async fn open(target: &Target, encoding: Encoding) -> anyhow::Result<Self> {
        let cannot = || format!("cannot connect to {}", target.address);
        let stream = TcpStream::connect(target.address).await.with_context(cannot)?;
        stream.set_nodelay(true)?;
        let tls = TlsConnector::from(target.tls.clone());
        let stream = BufReader::with_capacity(READ, stream);
        let stream = tls.connect(target.name.clone(), stream).await.with_context(cannot)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; what goes wrong shows in the answer that does not come.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: target.host.clone(),
            authorization: target.authorization.clone(),
            accept: HeaderValue::from_static(match encoding {
                Encoding::Json => "application/json",
                Encoding::Protobuf => PROTOBUF,
            }),
        })
    }

    /// Sends a request; answers when the head of the answer is there.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn send(&mut self, call: &Call) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(&call.method)
            .uri(&call.path)
            .header(HOST, &self.host)
            .header(ACCEPT, &self.accept)
            .header(USER_AGENT, HeaderValue::from_static("improv-bench/1"));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let mut body = Bytes::new();
        if let Some((media, bytes)) = &call.body {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
            body = bytes.clone();
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Sends a request and reads the answer away; answers its status and its length.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn skim(&mut self, call: &Call) -> anyhow::Result<(StatusCode, u64)> {
        let mut response = self.send(call).await?;
        let mut length = 0;
        while let Some(frame) = response.frame().await {
            length += frame?.data_ref().map_or(0, Bytes::len) as u64;
        }
        Ok((response.status(), length))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn read(&mut self, call: &Call) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.send(call).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// As [`Connection::read`], where any answer but success is an error.
    ///
    /// # Errors
    /// Also the server's own.
    pub(crate) async fn succeed(&mut self, call: &Call) -> anyhow::Result<Bytes> {
        let (status, body) = self.read(call).await?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
            bail!("{} {} was answered {status}: {text}", call.method, call.path);
        }
        Ok(body)
    }
}
