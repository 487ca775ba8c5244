//! One HTTP/1.1 connection, and what is asked over it.

use std::fmt::Write as _;

use anyhow::bail;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use super::answer::{Body, Head};
use super::arguments::Encoding;
use super::target::Target;
use super::tls::Tls;

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
    tls: Tls,
    /// Headers that all requests have.
    headers: String,
    /// What is still to come of the last answer.
    body: Body,
    /// Bytes of that body which came with its head.
    early: Vec<u8>,
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// If the server does not listen, or one side does not trust the other.
    pub(crate) async fn open(target: &Target, encoding: Encoding) -> anyhow::Result<Self> {
        let accept = Media::Object(encoding).content_type();
        let mut headers =
            format!("host: {}\r\naccept: {accept}\r\nuser-agent: improv-bench/1\r\n", target.host);
        if let Some(authorization) = &target.authorization {
            write!(headers, "authorization: {authorization}\r\n")?;
        }
        let tls = Tls::open(target).await?;
        Ok(Self { tls, headers, body: Body::ENDED, early: Vec::new() })
    }

    /// Sends a request; answers the status when the head of the answer is there.
    ///
    /// # Errors
    /// If the connection ended, or the answer before has not been read.
    pub(crate) async fn send(&mut self, call: &Call) -> anyhow::Result<StatusCode> {
        if !self.body.is_ended() {
            bail!("the answer before {} {} has not been read", call.method, call.path);
        }
        self.tls.send(&self.request(call)?).await?;
        self.early.clear();
        loop {
            let early = &mut self.early;
            let keep = |bytes: &[u8]| {
                early.extend_from_slice(bytes);
                Ok(())
            };
            self.tls.receive(keep).await?;
            if let Some(head) = Head::parse(&self.early)? {
                self.early.drain(..head.length);
                self.body = head.body;
                return Ok(head.status);
            }
        }
    }

    fn request(&self, call: &Call) -> anyhow::Result<Vec<u8>> {
        let mut head = format!("{} {} HTTP/1.1\r\n{}", call.method, call.path, self.headers);
        let Some((media, body)) = &call.body else {
            head.push_str("\r\n");
            return Ok(head.into_bytes());
        };
        let (kind, length) = (media.content_type(), body.len());
        write!(head, "content-type: {kind}\r\ncontent-length: {length}\r\n\r\n")?;
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        Ok(request)
    }

    /// Waits for more of an answer and hands it over; answers whether there will be more.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn more(&mut self, mut content: impl FnMut(&[u8])) -> anyhow::Result<bool> {
        if !self.early.is_empty() {
            self.body.take(&self.early, &mut content)?;
            self.early.clear();
        } else if !self.body.is_ended() {
            let body = &mut self.body;
            self.tls.receive(|bytes| body.take(bytes, &mut content)).await?;
        }
        Ok(!self.body.is_ended())
    }

    /// Sends a request and reads the answer away; answers its status and its length.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn skim(&mut self, call: &Call) -> anyhow::Result<(StatusCode, u64)> {
        let status = self.send(call).await?;
        let mut length = 0;
        while self.more(|piece| length += piece.len() as u64).await? {}
        Ok((status, length))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn read(&mut self, call: &Call) -> anyhow::Result<(StatusCode, Bytes)> {
        let status = self.send(call).await?;
        let mut whole = Vec::new();
        while self.more(|piece| whole.extend_from_slice(piece)).await? {}
        Ok((status, whole.into()))
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

    /// As [`Connection::succeed`], and reads the answer as JSON.
    ///
    /// # Errors
    /// Also if it is none.
    pub(crate) async fn json(&mut self, call: &Call) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.succeed(call).await?)?)
    }
}
