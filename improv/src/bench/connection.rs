//! One HTTP/1.1 connection over TLS, and what is asked over it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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

type Driver = http1::Connection<TokioIo<TlsStream<BufReader<TcpStream>>>, Full<Bytes>>;

/// A connection that takes one request after the other.
///
/// What moves its bytes is polled by whoever waits for them, not by a task of its own: that would cost
/// a second wake-up for each piece, and pieces of many connections would be looked at only after all were read.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once the connection ended.
    driver: Option<Driver>,
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
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self {
            sender,
            driver: Some(driver),
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
        let request = request.body(Full::new(body))?;
        drive(&mut self.driver, self.sender.ready()).await?;
        Ok(drive(&mut self.driver, self.sender.send_request(request)).await?)
    }

    /// The next piece of an answer; `None` after the last.
    pub(crate) async fn piece(&mut self, body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
        loop {
            match drive(&mut self.driver, body.frame()).await?.map(Frame::into_data) {
                Ok(Ok(data)) => return Some(Ok(data)),
                Ok(Err(_trailers)) => (),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Sends a request and reads the answer away; answers its status and its length.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn skim(&mut self, call: &Call) -> anyhow::Result<(StatusCode, u64)> {
        let mut response = self.send(call).await?;
        let mut length = 0;
        while let Some(piece) = self.piece(response.body_mut()).await {
            length += piece?.len() as u64;
        }
        Ok((response.status(), length))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn read(&mut self, call: &Call) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut response = self.send(call).await?;
        let mut whole = BytesMut::new();
        while let Some(piece) = self.piece(response.body_mut()).await {
            whole.extend_from_slice(&piece?);
        }
        Ok((response.status(), whole.freeze()))
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

/// Waits for what needs the connection's bytes to move.
async fn drive<T>(driver: &mut Option<Driver>, awaited: impl Future<Output = T>) -> T {
    let mut awaited = pin!(awaited);
    poll_fn(|context| {
        if let Some(moving) = driver
            && Pin::new(moving).poll(context).is_ready()
        {
            *driver = None; // What went wrong shows in the answer that does not come.
        }
        awaited.as_mut().poll(context)
    })
    .await
}
