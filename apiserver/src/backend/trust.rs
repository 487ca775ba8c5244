//! Whom we believe to be a backend.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// Whom a backend must be vouched for by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// The authorities in this PEM text.
    Bundle(&'a [u8]),
    /// The authorities of this machine.
    Machine,
    /// Nobody: it only proves that it holds the key of the certificate it shows.
    Anyone,
}

/// A certificate of our own, with its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// TLS towards backends, speaking HTTP/1.1; shows `identity`, if there is one.
///
/// # Errors
/// The bundle or the certificate cannot be used, in words for people.
pub(crate) fn config(trust: Trust<'_>, identity: Option<Identity>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let custom = |bundle| {
        let verifier = Arc::new(Verifier { provider: provider(), bundle });
        builder.clone().dangerous().with_custom_certificate_verifier(verifier)
    };
    let builder = match trust {
        Trust::Bundle(pem) => custom(Some(Bundle::new(pem)?)),
        Trust::Machine => {
            builder.clone().with_platform_verifier().map_err(|error| error.to_string())?
        }
        Trust::Anyone => custom(None),
    };
    let mut config = match identity {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The one implementation of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities of a bundle, and its certificates themselves: a self-signed certificate is its own authority,
/// as it is in Go.
#[derive(Debug)]
struct Bundle {
    known: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl Bundle {
    fn new(pem: &[u8]) -> Result<Self, String> {
        let known: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(known.iter().cloned());
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| "unable to load root certificates: unable to parse bytes as PEM block")?;
        Ok(Self { known, authorities })
    }
}

/// Believes what a bundle vouches for. Without one, backends prove that they hold their key, not who they are: node
/// agents make their serving certificates themselves, as upstream's do unless `--kubelet-certificate-authority` is
/// set.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    bundle: Option<Bundle>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(bundle) = &self.bundle else { return Ok(ServerCertVerified::assertion()) };
        let judged =
            bundle.authorities.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        match judged {
            Err(_) if bundle.known.iter().any(|known| known == end_entity) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&certificate, name)?;
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
