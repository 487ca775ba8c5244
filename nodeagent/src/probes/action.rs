//! Carries out one probe or hook: a command, an HTTP request, a connection, a gRPC health check.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use crate::runtime::{ContainerId, Runtime};

/// Longest output that an event repeats.
const OUTPUT_MAX: usize = 1024;

/// What a probe found: fine, or why not.
pub type Outcome = Result<(), String>;

/// The container that is probed.
#[derive(Clone)]
pub struct Target {
    /// The runtime, for commands.
    pub runtime: Arc<dyn Runtime>,
    /// The container's id in it.
    pub id: ContainerId,
    /// The pod's address.
    pub ip: String,
    /// For port names.
    pub container: Arc<Container>,
}

/// Probes a container. The hollow runtime has nothing to connect to, so it brings its own.
pub trait Prober: Send + Sync + 'static {
    /// One probe, with its timeout.
    fn probe<'a>(
        &'a self,
        target: &'a Target,
        probe: &'a Probe,
        timeout: Duration,
    ) -> BoxFuture<'a, Outcome>;

    /// One HTTP hook; any answer is a success.
    fn http_hook<'a>(
        &'a self,
        target: &'a Target,
        action: &'a HTTPGetAction,
    ) -> BoxFuture<'a, Outcome>;
}

/// Probes over the network and in the container.
pub struct NetworkProber;

impl Prober for NetworkProber {
    fn probe<'a>(
        &'a self,
        target: &'a Target,
        probe: &'a Probe,
        timeout: Duration,
    ) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            if let Some(exec) = &probe.exec {
                let command = exec.command.clone().unwrap_or_default();
                return self::exec(target, &command, timeout).await;
            }
            let attempt = async {
                if let Some(action) = &probe.http_get {
                    let (status, body) = http_get(target, action, "kube-probe").await?;
                    if (200..400).contains(&status) {
                        return Ok(());
                    }
                    tracing::debug!(body = %body, "probe answered with an error");
                    return Err(format!("HTTP probe failed with statuscode: {status}"));
                }
                if let Some(action) = &probe.tcp_socket {
                    let port = port(&action.port, &target.container)?;
                    let host = action.host.as_deref().filter(|h| !h.is_empty());
                    return connect(host.unwrap_or(&target.ip), port).await.map(drop);
                }
                if let Some(action) = &probe.grpc {
                    let port = u16::try_from(action.port).map_err(|e| e.to_string())?;
                    let service = action.service.as_deref().unwrap_or_default();
                    return grpc(&target.ip, port, service).await;
                }
                Ok(())
            };
            match tokio::time::timeout(timeout, attempt).await {
                Ok(outcome) => outcome,
                Err(_) => Err(timed_out(target, probe)),
            }
        })
    }

    fn http_hook<'a>(
        &'a self,
        target: &'a Target,
        action: &'a HTTPGetAction,
    ) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { http_get(target, action, "kube-lifecycle").await.map(drop) })
    }
}

/// Runs a command in the container; another code than 0 is a failure with the output as its text.
pub async fn exec(target: &Target, command: &[String], timeout: Duration) -> Outcome {
    match target.runtime.exec_sync(&target.id, command, Some(timeout)).await {
        Ok(output) if output.code == 0 => Ok(()),
        Ok(output) => {
            let mut text = output.stdout;
            text.extend(output.stderr);
            text.truncate(OUTPUT_MAX);
            Err(String::from_utf8_lossy(&text).into_owned())
        }
        Err(crate::runtime::Error::ExecTimeout(_)) => {
            Err(format!("command timed out: {command:?} timed out after {}s", timeout.as_secs()))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn timed_out(target: &Target, probe: &Probe) -> String {
    match &probe.http_get {
        Some(action) => format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            url(target, action).unwrap_or_default()
        ),
        None => "dial tcp: i/o timeout".to_owned(),
    }
}

/// A port by number, or by its name in the container.
///
/// # Errors
/// No port has that name.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            match ports.iter().find(|p| p.name.as_ref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("couldn't find port: {name}"))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn url(target: &Target, action: &HTTPGetAction) -> Result<String, String> {
    let port = port(&action.port, &target.container)?;
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.ip);
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{}:{port}{slash}{path}", bracketed(host)))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|e| format!("dial tcp {}:{port}: connect: {}", bracketed(host), plain(&e)))
}

/// The kernel's words without the number that Rust adds.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

async fn http_get(
    target: &Target,
    action: &HTTPGetAction,
    agent: &str,
) -> Result<(u16, String), String> {
    let url = url(target, action)?;
    let failed = |why: String| format!("Get \"{url}\": {why}");
    let uri: http::Uri = url.parse().map_err(|e| failed(format!("{e}")))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let stream = connect(&host, port).await.map_err(&failed)?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = http::Request::get(path)
        .header("connection", "close")
        .header("user-agent", format!("{agent}/1.36"))
        .header("accept", "*/*");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    if !headers.iter().any(|h| h.name.eq_ignore_ascii_case("host")) {
        request = request.header("host", uri.authority().map_or("", |a| a.as_str()));
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|e| failed(e.to_string()))?;
    let response = if uri.scheme_str() == Some("https") {
        let name = ServerName::try_from(host).map_err(|e| failed(e.to_string()))?;
        let tls = any_certificate().connect(name, stream).await;
        let tls = tls.map_err(|e| failed(e.to_string()))?;
        send(tls, request).await
    } else {
        send(stream, request).await
    };
    response.map_err(failed)
}

async fn send<S>(stream: S, request: http::Request<Full<Bytes>>) -> Result<(u16, String), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), 10 * OUTPUT_MAX).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(talk);
    tokio::select! {
        done = &mut talk => done,
        end = connection => match end {
            Ok(()) => talk.await,
            Err(e) => Err(e.to_string()),
        },
    }
}

/// Asks the standard health service.
///
/// Source: github.com/grpc/grpc, doc/health-checking.md.
async fn grpc(ip: &str, port: u16, service: &str) -> Outcome {
    let stream = connect(ip, port).await?;
    let failed = |e: hyper::Error| format!("failed to connect gRPC service: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let message = {
        let name = service.as_bytes();
        let mut message = Vec::new();
        if !name.is_empty() {
            message.push(0x0a); // Field 1, length-delimited.
            prost::encode_length_delimiter(name.len(), &mut message).map_err(|e| e.to_string())?;
            message.extend_from_slice(name);
        }
        message
    };
    let length = u32::try_from(message.len()).map_err(|e| e.to_string())?;
    let mut frame = vec![0];
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    let request =
        http::Request::post(format!("http://{}:{port}/grpc.health.v1.Health/Check", bracketed(ip)))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.36")
            .body(Full::new(Bytes::from(frame)))
            .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let refused = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), OUTPUT_MAX).collect().await;
        let body = body.map_err(|e| e.to_string())?;
        let trailer = body.trailers().and_then(|t| t.get("grpc-status")).cloned().or(refused);
        match trailer {
            Some(status) if status != "0" => {
                Err(format!("error: health rpc probe failed with status {status:?}"))
            }
            _ => Ok(body.to_bytes()),
        }
    }
    .await;
    driver.abort();
    // Five bytes of frame, then field 1 (status) as a varint; 1 is SERVING.
    match answer?.get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        other => {
            let status = match other {
                Some([0x08, 2, ..]) => "NOT_SERVING",
                Some([0x08, 3, ..]) => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Err(format!("service unhealthy (responded with \"{status}\")"))
        }
    }
}

/// A TLS client that takes any certificate, as probes do.
fn any_certificate() -> tokio_rustls::TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| unreachable!("ring supports TLS 1.2 and 1.3"))
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(schemes)))
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate(Vec<rustls::SignatureScheme>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.clone()
    }
}
