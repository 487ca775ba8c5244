//! Posts JSON to a webhook and reads JSON back, over connections that are kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tracing::debug;

use super::{Trust, connect, service, tls_config};
use crate::server::Core;

/// How long an idle connection is kept.
const KEEP: Duration = Duration::from_secs(60);
/// Idle connections kept for one webhook.
const KEPT: usize = 16;

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a URL.
    Url {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// The authority as it was written.
        authority: String,
        /// Path.
        path: String,
    },
    /// Behind a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
        /// Path.
        path: String,
    },
}

impl Place {
    /// Reads a `clientConfig` of a webhook.
    fn parse(config: &Value) -> Result<Self, String> {
        let service = &config["service"];
        let text = |key: &str| service[key].as_str().unwrap_or_default().to_owned();
        if service.is_object() {
            let path = text("path");
            return Ok(Self::Service {
                namespace: text("namespace"),
                name: text("name"),
                port: service["port"].as_u64().and_then(|p| p.try_into().ok()).unwrap_or(443),
                path: if path.is_empty() { "/".to_owned() } else { path },
            });
        }
        let Some(url) = config["url"].as_str().filter(|url| !url.is_empty()) else {
            return Err("webhook configuration must have either service or URL".to_owned());
        };
        let uri: Uri = url.parse().map_err(|error| format!("Unparsable URL: {error}"))?;
        let authority = uri.authority().ok_or("Unparsable URL: it has no host")?;
        Ok(Self::Url {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(443),
            authority: authority.to_string(),
            path: uri.path().to_owned(),
        })
    }

    fn path(&self) -> &str {
        match self {
            Self::Url { path, .. } | Self::Service { path, .. } => path,
        }
    }

    /// Host and port, as requests and messages name them.
    fn authority(&self) -> String {
        match self {
            Self::Url { authority, .. } => authority.clone(),
            Self::Service { port, .. } => format!("{}:{port}", self.host()),
        }
    }

    /// The name that the certificate must be valid for.
    fn host(&self) -> String {
        match self {
            Self::Url { host, .. } => host.trim_matches(['[', ']']).to_owned(),
            Self::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// A webhook that can be called.
pub struct Client {
    place: Place,
    tls: Arc<ClientConfig>,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads a `WebhookClientConfig`.
    ///
    /// # Errors
    /// It names no place, or its CA bundle cannot be used.
    pub fn parse(config: &Value) -> Result<Self, String> {
        let place = Place::parse(config)?;
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let bundle = STANDARD.decode(bundle).map_err(|error| error.to_string())?;
        let trust = if bundle.is_empty() { Trust::Machine } else { Trust::Bundle(&bundle) };
        let tls = Arc::new(tls_config(trust, None)?);
        Ok(Self { place, tls, idle: Mutex::default() })
    }

    /// Posts a document; answers the one that comes back.
    ///
    /// # Errors
    /// What went wrong, as Go's client tells it: `Post "https://…": dial tcp …`.
    pub async fn post(
        &self,
        core: &Arc<Core>,
        document: &Value,
        timeout: Duration,
    ) -> Result<Value, String> {
        let seconds = timeout.as_millis().div_ceil(1000);
        let target = format!("{}?timeout={seconds}s", self.place.path());
        let url = format!("https://{}{target}", self.place.authority());
        let body = Bytes::from(document.to_string());
        let answered = tokio::time::timeout(timeout, self.exchange(core, &target, body)).await;
        let (status, body) = match answered {
            Ok(answered) => answered.map_err(|error| format!("Post {url:?}: {error}"))?,
            Err(_elapsed) => return Err(format!("Post {url:?}: context deadline exceeded")),
        };
        if !matches!(status.as_u16(), 200..=206) {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))
    }

    async fn exchange(
        &self,
        core: &Arc<Core>,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        while let Some(mut sender) = self.idle() {
            // A kept connection may just have been closed by the other side; then a new one is opened.
            match self.send(core, &mut sender, target, body.clone()).await {
                Ok(answer) => {
                    self.keep(sender);
                    return Ok(answer);
                }
                Err(error) => debug!(error, "kept connection to a webhook was gone"),
            }
        }
        let mut sender = self.open(core).await?;
        let answer = self.send(core, &mut sender, target, body).await?;
        self.keep(sender);
        Ok(answer)
    }

    fn idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        while let Some((sender, since)) = idle.pop() {
            if since.elapsed() < KEEP && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock();
        if idle.len() < KEPT && !sender.is_closed() {
            idle.push((sender, Instant::now()));
        }
    }

    async fn open(&self, core: &Arc<Core>) -> Result<Sender, String> {
        let address = match &self.place {
            Place::Url { host, port, .. } => service::host(host, *port).await?,
            Place::Service { namespace, name, port, .. } => {
                service::resolve(core, namespace, name, *port).await?
            }
        };
        let name = ServerName::try_from(self.place.host()).map_err(|error| error.to_string())?;
        let stream = connect(address, Some((self.tls.clone(), name))).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection to a webhook ended");
            }
        });
        Ok(sender)
    }

    async fn send(
        &self,
        core: &Arc<Core>,
        sender: &mut Sender,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let request = Request::post(target)
            .header(header::HOST, self.place.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        sender.ready().await.map_err(|_| "EOF")?;
        let response = sender.send_request(request).await.map_err(|error| match error {
            error if error.is_incomplete_message() => "EOF".to_owned(),
            error => error.to_string(),
        })?;
        let status = response.status();
        let limit = core.config.max_body_bytes;
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|error| format!("failed to read the response: {error}"))?;
        Ok((status, body.to_bytes()))
    }
}

/// What Go's client makes of a status that is no success.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(2048)]);
    match status.as_u16() {
        404 => "the server could not find the requested resource".to_owned(),
        code @ (400..=499 | 300..=399 | 100..=199) => match status {
            StatusCode::BAD_REQUEST => {
                "the server rejected our request for an unknown reason".to_owned()
            }
            StatusCode::UNAUTHORIZED => {
                "the server has asked for the client to provide credentials".to_owned()
            }
            StatusCode::FORBIDDEN if text.is_empty() => "unknown".to_owned(),
            StatusCode::FORBIDDEN => text.into_owned(),
            _ => format!(
                "the server responded with the status code {code} but did not return more information"
            ),
        },
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned(),
        _ => format!(
            "an error on the server ({:?}) has prevented the request from succeeding",
            if text.trim().is_empty() { "unknown" } else { text.trim() }
        ),
    }
}
