//! Opens connections, and says in Go's words why one cannot be opened: clients and people search for those.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a connection is, whatever lies below.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection, whatever lies below.
pub(crate) type BoxedStream = Box<dyn Stream>;

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nobody answers at the address.
    #[error("dial tcp {address}: {}", reason(.source))]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Whoever answers is not whom we want.
    #[error("{}", handshake(.0))]
    Tls(#[source] io::Error),
}

/// Connects to an address; with `tls`, also proves who answers.
///
/// # Errors
/// [`DialError`]; the caller bounds the time.
pub(crate) async fn connect(
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
) -> Result<BoxedStream, DialError> {
    let connected = TcpStream::connect(address).await.and_then(|stream| {
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    let stream = connected.map_err(|source| DialError::Connect { address, source })?;
    let Some((config, name)) = tls else { return Ok(Box::new(stream)) };
    let connector = tokio_rustls::TlsConnector::from(config);
    Ok(Box::new(connector.connect(name, stream).await.map_err(DialError::Tls)?))
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => format!("connect: {error}"),
    }
}

fn handshake(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(fault)) = tls else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
            _ => format!("tls: {error}"),
        };
    };
    let detail = match fault {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForName => "certificate is not valid for this name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("certificate is valid for {}, not {}", presented.join(", "), expected.to_str())
        }
        other => format!("{other:?}"),
    };
    format!("tls: failed to verify certificate: x509: {detail}")
}
